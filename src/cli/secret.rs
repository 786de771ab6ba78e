//! Where a new password comes from: the terminal, without showing it, or one line of standard input. Never an argument.

use std::io::{self, BufRead, IsTerminal};

use portcullis::admin::api::Secret;
use zeroize::Zeroizing;

use super::Failure;

const MAX_PASSWORD: u64 = 1024;

/// Asks for a password: twice on a terminal, once on anything else.
pub(crate) fn read(prompt: &str, stdin: bool) -> Result<Secret, Failure> {
    if !stdin && io::stdin().is_terminal() {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map(Zeroizing::new)
                .map_err(|error| Failure::Usage(format!("cannot read the password from the terminal: {error}")))
        };
        let first = ask(&format!("{prompt}: "))?;
        let second = ask("Again: ")?;
        if *first != *second {
            return Err(Failure::Usage("the two passwords differ; nothing was changed".to_owned()));
        }
        return accept(&first);
    }
    from_line(io::stdin().lock())
}

/// One line, without its end.
pub(crate) fn from_line(input: impl BufRead) -> Result<Secret, Failure> {
    let mut line = Zeroizing::new(Vec::new());
    input
        .take(MAX_PASSWORD + 2)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::Usage(format!("cannot read the password from standard input: {error}")))?;
    let text = std::str::from_utf8(&line).map_err(|_| Failure::Usage("the password is not UTF-8 text".to_owned()))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    accept(text.strip_suffix('\r').unwrap_or(text))
}

fn accept(password: &str) -> Result<Secret, Failure> {
    if password.is_empty() {
        Err(Failure::Usage("the password is empty; nothing was changed".to_owned()))
    } else if password.len() as u64 > MAX_PASSWORD {
        Err(Failure::Usage(format!("the password is longer than {MAX_PASSWORD} bytes; nothing was changed")))
    } else {
        Ok(Secret::new(password.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_end_and_nothing_else() {
        for (input, expected) in [("a b \nrest", "a b "), ("x\r\n", "x"), ("no end", "no end"), ("\tü\n", "\tü")] {
            assert_eq!(from_line(input.as_bytes()).unwrap().expose(), expected);
        }
        for input in ["", "\n", "\r\n"] {
            assert!(from_line(input.as_bytes()).is_err());
        }
        assert!(from_line(&b"\xff\n"[..]).is_err());
        assert!(from_line("x".repeat(1025).as_bytes()).is_err());
        assert!(from_line("x".repeat(1024).as_bytes()).is_ok());
    }
}

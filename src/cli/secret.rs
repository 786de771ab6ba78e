//! Where a password or a token comes from: the terminal, without showing it, or one line of standard input or of a file. Never an
//! argument.

use std::io::{self, BufRead, IsTerminal};

use portcullis::admin::api::Secret;
use zeroize::Zeroizing;

use super::Failure;

/// What messages call it.
pub(crate) const PASSWORD: &str = "password";
pub(crate) const TOKEN: &str = "token";

const MAX_SECRET: u64 = 1024;

/// Asks for a password: twice on a terminal, once on anything else.
pub(crate) fn read(prompt: &str, stdin: bool) -> Result<Secret, Failure> {
    if !stdin && io::stdin().is_terminal() {
        let first = ask(&format!("{prompt}: "), PASSWORD)?;
        let second = ask("Again: ", PASSWORD)?;
        if *first != *second {
            return Err(Failure::Usage("the two passwords differ; nothing was changed".to_owned()));
        }
        return accept(&first, PASSWORD);
    }
    from_line(io::stdin().lock(), PASSWORD)
}

/// Asks for a claim token, which is nothing new: once.
pub(crate) fn token() -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        accept(&ask("Token: ", TOKEN)?, TOKEN)
    } else {
        from_line(io::stdin().lock(), TOKEN)
    }
}

fn ask(prompt: &str, what: &str) -> Result<Zeroizing<String>, Failure> {
    let unread = |error| Failure::Usage(format!("cannot read the {what} from the terminal: {error}"));
    rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(unread)
}

/// One line, without its end.
pub(crate) fn from_line(input: impl BufRead, what: &str) -> Result<Secret, Failure> {
    let mut line = Zeroizing::new(Vec::new());
    input
        .take(MAX_SECRET + 2)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::Usage(format!("cannot read the {what}: {error}")))?;
    let text = std::str::from_utf8(&line).map_err(|_| Failure::Usage(format!("the {what} is not UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    accept(text.strip_suffix('\r').unwrap_or(text), what)
}

fn accept(secret: &str, what: &str) -> Result<Secret, Failure> {
    if secret.is_empty() {
        Err(Failure::Usage(format!("the {what} is empty; nothing was changed")))
    } else if secret.len() as u64 > MAX_SECRET {
        Err(Failure::Usage(format!("the {what} is longer than {MAX_SECRET} bytes; nothing was changed")))
    } else {
        Ok(Secret::new(secret.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_loses_its_end_and_nothing_else() {
        for (input, expected) in [("a b \nrest", "a b "), ("x\r\n", "x"), ("no end", "no end"), ("\tü\n", "\tü")] {
            assert_eq!(from_line(input.as_bytes(), PASSWORD).unwrap().expose(), expected);
        }
        for input in ["", "\n", "\r\n"] {
            assert!(from_line(input.as_bytes(), PASSWORD).is_err());
        }
        assert!(from_line(&b"\xff\n"[..], PASSWORD).is_err());
        assert!(from_line("x".repeat(1025).as_bytes(), PASSWORD).is_err());
        assert!(from_line("x".repeat(1024).as_bytes(), PASSWORD).is_ok());
    }
}

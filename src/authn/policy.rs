//! How strong a password must be, and passwords drawn at random.
//!
//! Enters: a password that somebody sets. Leaves: all that it lacks, said at once. It never changes a password (no
//! trimming, no normalization: what was typed is what is hashed) and never repeats one.

use std::fmt;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::phc::MAX_PASSWORD_BYTES;

/// Least numbers of characters; the classes are Unicode's (`Lowercase`, `Uppercase`, `Numeric`; a symbol is what is
/// neither alphabetic nor numeric nor a control character, spaces included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordPolicy {
    min: u16,
    lower: u16,
    upper: u16,
    numeric: u16,
    symbol: u16,
}

/// A policy that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordPolicyError {
    /// No password at all would be one.
    #[error("a password must have at least 1 character: set `min` to 1 or more")]
    Empty,
    /// More than fits.
    #[error("the password policy asks for {0} characters, more than the 200 that people can be asked for")]
    TooMuch(u32),
}

/// What a password lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeakPassword {
    /// What, how many of it are required, how many there are.
    missing: Vec<(&'static str, usize, usize)>,
    too_long: bool,
}

impl Default for PasswordPolicy {
    /// Twelve characters of any kind.
    fn default() -> Self {
        Self { min: 12, lower: 0, upper: 0, numeric: 0, symbol: 0 }
    }
}

impl PasswordPolicy {
    /// Characters in all, and of each class: `min` from 1 to 200, the classes together at most 200.
    pub fn new(min: u16, lower: u16, upper: u16, numeric: u16, symbol: u16) -> Result<Self, PasswordPolicyError> {
        let classes = [lower, upper, numeric, symbol].map(u32::from).iter().sum();
        let most = u32::from(min).max(classes);
        if min == 0 {
            Err(PasswordPolicyError::Empty)
        } else if most > 200 {
            Err(PasswordPolicyError::TooMuch(most))
        } else {
            Ok(Self { min, lower, upper, numeric, symbol })
        }
    }

    /// Is it strong enough, and at most 1,024 bytes long?
    ///
    /// ```
    /// use portcullis::authn::PasswordPolicy;
    ///
    /// let policy = PasswordPolicy::new(8, 0, 0, 2, 0)?;
    /// assert!(policy.check("grün-42-gelb").is_ok());
    /// assert_eq!(
    ///     policy.check("grün4").unwrap_err().to_string(),
    ///     "the password is too weak: it needs 8 characters (it has 5) and 2 digits (it has 1)",
    /// );
    /// # Ok::<(), portcullis::authn::PasswordPolicyError>(())
    /// ```
    pub fn check(&self, password: &str) -> Result<(), WeakPassword> {
        let count = |class: fn(char) -> bool| password.chars().filter(|c| class(*c)).count();
        let missing = [
            ("characters", self.min, count(|_| true)),
            ("lower-case letters", self.lower, count(char::is_lowercase)),
            ("upper-case letters", self.upper, count(char::is_uppercase)),
            ("digits", self.numeric, count(char::is_numeric)),
            ("symbols", self.symbol, count(is_symbol)),
        ]
        .into_iter()
        .map(|(what, required, present)| (what, usize::from(required), present))
        .filter(|(_, required, present)| present < required)
        .collect::<Vec<_>>();
        let too_long = password.len() > MAX_PASSWORD_BYTES;
        if missing.is_empty() && !too_long { Ok(()) } else { Err(WeakPassword { missing, too_long }) }
    }

    /// Draws a password that satisfies the policy, for the first administrator: at least 20 characters that are easy to
    /// read out and to type (no `0O1lI`), of which 20 are drawn from 56 (116 bits) and the others as the policy asks.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn draw(&self) -> Result<SecretString, getrandom::Error> {
        const LOWER: &str = "abcdefghijkmnpqrstuvwxyz";
        const UPPER: &str = "ABCDEFGHJKLMNPQRSTUVWXYZ";
        const DIGITS: &str = "23456789";
        const SYMBOLS: &str = "-_.:+=";
        const ANY: &str = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

        let required = self.lower + self.upper + self.numeric + self.symbol;
        let free = self.min.saturating_sub(required).max(20);
        let mut characters = Zeroizing::new(Vec::with_capacity(usize::from(required + free)));
        for (alphabet, times) in
            [(LOWER, self.lower), (UPPER, self.upper), (DIGITS, self.numeric), (SYMBOLS, self.symbol), (ANY, free)]
        {
            for _ in 0..times {
                characters.extend(alphabet.as_bytes().get(below(alphabet.len())?).copied());
            }
        }
        // Fisher-Yates: else the required characters would stand first.
        for last in (1..characters.len()).rev() {
            characters.swap(last, below(last + 1)?);
        }
        Ok(characters.iter().map(|byte| char::from(*byte)).collect::<String>().into())
    }
}

impl fmt::Display for WeakPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.too_long {
            return write!(f, "the password is too long: it may have {MAX_PASSWORD_BYTES} bytes at most");
        }
        f.write_str("the password is too weak: it needs ")?;
        let last = self.missing.len().saturating_sub(1);
        for (at, (what, required, present)) in self.missing.iter().enumerate() {
            let separator = if at == 0 {
                ""
            } else if at == last {
                " and "
            } else {
                ", "
            };
            let what = if *required == 1 { what.trim_end_matches('s') } else { what };
            write!(f, "{separator}{required} {what} (it has {present})")?;
        }
        Ok(())
    }
}

impl std::error::Error for WeakPassword {}

fn is_symbol(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_control()
}

/// A number below `bound` (1 to 256), each as likely as the others.
fn below(bound: usize) -> Result<usize, getrandom::Error> {
    let fair = 256 - 256 % bound;
    loop {
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        let [byte] = byte.map(usize::from);
        if byte < fair {
            return Ok(byte % bound);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    fn weakness(policy: PasswordPolicy, password: &str) -> String {
        policy.check(password).unwrap_err().to_string()
    }

    #[test]
    fn what_a_password_lacks_is_said_all_at_once_without_repeating_it() {
        let policy = PasswordPolicy::new(12, 1, 2, 3, 1).unwrap();
        insta::assert_snapshot!(
            weakness(policy, "hunter"),
            @"the password is too weak: it needs 12 characters (it has 6), 2 upper-case letters (it has 0), 3 digits (it has 0) and 1 symbol (it has 0)"
        );
        insta::assert_snapshot!(weakness(policy, "A!B-123456789"), @"the password is too weak: it needs 1 lower-case letter (it has 0)");
        insta::assert_snapshot!(weakness(policy, &"x".repeat(1025)), @"the password is too long: it may have 1024 bytes at most");
        assert!(policy.check("Hunter-Two-222").is_ok());
    }

    #[test]
    fn classes_are_those_of_unicode_and_length_counts_characters_not_bytes() {
        let policy = PasswordPolicy::new(5, 1, 1, 1, 1).unwrap();
        assert!(policy.check("Жж٣ é").is_ok());
        assert!(PasswordPolicy::default().check("жжжжжж").is_err(), "12 bytes, 6 characters");
    }

    #[test]
    fn the_bound_in_bytes_holds_exactly() {
        let policy = PasswordPolicy::default();
        assert!(policy.check(&"x".repeat(1024)).is_ok());
        assert!(policy.check(&"x".repeat(1025)).is_err());
    }

    #[test]
    fn a_policy_that_admits_the_empty_password_or_none_at_all_is_refused() {
        assert_eq!(PasswordPolicy::new(0, 0, 0, 0, 0), Err(PasswordPolicyError::Empty));
        assert_eq!(PasswordPolicy::new(201, 0, 0, 0, 0), Err(PasswordPolicyError::TooMuch(201)));
        assert_eq!(
            PasswordPolicy::new(1, u16::MAX, u16::MAX, u16::MAX, u16::MAX),
            Err(PasswordPolicyError::TooMuch(262_140))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_drawn_satisfies_the_policy_and_has_a_hundred_bits(
            min in 1_u16..=200, classes in prop::array::uniform4(0_u16..=50),
        ) {
            let [lower, upper, numeric, symbol] = classes;
            let policy = PasswordPolicy::new(min, lower, upper, numeric, symbol).unwrap();
            let password = policy.draw().unwrap();
            let password = password.expose_secret();
            prop_assert_eq!(policy.check(password), Ok(()));
            prop_assert!(password.len() >= 20);
            prop_assert!(!password.contains(['0', 'O', '1', 'l', 'I', 'o']));
            let again = policy.draw().unwrap();
            prop_assert_ne!(password, again.expose_secret());
        }
    }

    #[test]
    fn every_index_is_drawn_and_none_beyond() {
        let mut seen = [false; 54];
        for _ in 0..5000 {
            seen[below(54).unwrap()] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(below(1).unwrap(), 0);
        assert!(below(256).unwrap() < 256);
    }
}

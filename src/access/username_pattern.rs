//! Which usernames: `press-*`. A text enters; a pattern leaves that matches whole names, in time that is bounded.

use serde::{Deserialize, Serialize};

use super::Username;

/// Usernames by pattern: `*` stands for any run of characters, none included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UsernamePattern(String);

/// Why a string is no [`UsernamePattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a pattern of usernames: it may hold 1 to 64 letters, digits, `._:@-` and `*`")]
pub struct UsernamePatternError(String);

impl UsernamePattern {
    /// Does it match the whole name? Takes time proportional to pattern times name at most.
    pub fn matches(&self, name: &Username) -> bool {
        let (mut pattern, mut name) = (self.0.as_bytes(), name.as_str().as_bytes());
        // Where to go on when what follows the last `*` does not match: that `*` takes one byte more.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), name.split_first()) {
                (Some((b'*', rest)), _) => {
                    pattern = rest;
                    retry = Some((rest, name));
                }
                (Some((p, rest)), Some((n, after))) if p == n => (pattern, name) = (rest, after),
                (None, None) => return true,
                _ => match retry {
                    Some((after_star, [_, shorter @ ..])) => {
                        (pattern, name) = (after_star, shorter);
                        retry = Some((after_star, shorter));
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl From<UsernamePattern> for String {
    fn from(pattern: UsernamePattern) -> String {
        pattern.0
    }
}

impl TryFrom<String> for UsernamePattern {
    type Error = UsernamePatternError;

    fn try_from(text: String) -> Result<Self, UsernamePatternError> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"._:@-*".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(valid) {
            Ok(Self(text))
        } else {
            Err(UsernamePatternError(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> UsernamePattern {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn patterns_match_whole_names() {
        for (text, name, matches) in [
            ("partner-*", "partner-1", true),
            ("partner-*", "partner-", true),
            ("partner-*", "partner", false),
            ("partner-*", "a-partner-1", false),
            ("*-1", "partner-1", true),
            ("p*r-*1", "partner-21", true),
            ("p*r-*1", "partner-12", false),
            ("*", "abc", true),
            ("abc", "abcd", false),
            ("**a**", "bab", true),
        ] {
            assert_eq!(pattern(text).matches(&name.parse().unwrap()), matches, "{text} {name}");
        }
        assert!(UsernamePattern::try_from("a b".to_owned()).is_err());
        assert!(UsernamePattern::try_from(String::new()).is_err());
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(text in "[ab*]{1,8}", name in "[ab]{3,10}") {
            fn defined(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => (0..=name.len()).any(|n| defined(rest, &name[n..])),
                    ([p, rest @ ..], [n, after @ ..]) => p == n && defined(rest, after),
                    _ => false,
                }
            }
            prop_assert_eq!(pattern(&text).matches(&name.parse().unwrap()), defined(text.as_bytes(), name.as_bytes()));
        }
    }
}

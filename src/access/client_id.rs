//! The pattern that a user's client identifier must match.
//!
//! `*` stands for any run of characters, `${username}` for the user's name, all else for itself. The client identifier is
//! plain text: nothing in it is ever read as a pattern. Matching is linear in pattern and identifier.

use super::{ClientIdPatternError, Username};

/// Longest pattern, in bytes.
const MAX_BYTES: usize = 1_024;
const USERNAME: &str = "${username}";

/// A pattern that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientIdPattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(Box<str>),
    Username,
    AnyRun,
}

impl ClientIdPattern {
    /// Does a client identifier of this pattern tell whose it is, whatever other users and such patterns there are?
    ///
    /// It does when the pattern begins with `${username}`, followed by nothing or by a character that no username holds: the
    /// longest run of username characters at the start of the client identifier is then the username. Anything weaker is no
    /// tie: with `${username}-*` the user `a` may call itself `a-b-1`, which the user `a-b` believes to be its own.
    pub(super) fn is_tied(&self) -> bool {
        match self.0.as_slice() {
            [Token::Username] => true,
            [Token::Username, Token::Literal(text), ..] => text.chars().next().is_some_and(|c| !Username::admits(c)),
            _ => false,
        }
    }

    /// An identifier that the pattern admits to this user, with `filler` for each run of any characters.
    pub(super) fn sample(&self, username: &Username, filler: &str) -> String {
        let part = |token: &Token| match token {
            Token::Literal(text) => text.to_string(),
            Token::Username => username.to_string(),
            Token::AnyRun => filler.to_owned(),
        };
        self.0.iter().map(part).collect()
    }

    /// Does the pattern admit this client identifier to this user?
    pub(super) fn matches(&self, username: &Username, client_id: &str) -> bool {
        let mut parts = vec![String::new()];
        for token in &self.0 {
            match (token, parts.last_mut()) {
                (Token::Literal(text), Some(part)) => part.push_str(text),
                (Token::Username, Some(part)) => part.push_str(username.as_str()),
                (Token::AnyRun, _) | (_, None) => parts.push(String::new()),
            }
        }
        match parts.as_slice() {
            [] => false,
            [only] => client_id == only,
            [first, middle @ .., last] => {
                let Some(mut rest) = client_id.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last))
                else {
                    return false;
                };
                // The leftmost place leaves the most room for what follows, so there is nothing to go back to.
                for part in middle {
                    match rest.split_once(&**part) {
                        Some((_, after)) => rest = after,
                        None => return false,
                    }
                }
                true
            }
        }
    }
}

impl TryFrom<&str> for ClientIdPattern {
    type Error = ClientIdPatternError;

    fn try_from(text: &str) -> Result<Self, ClientIdPatternError> {
        if text.is_empty() {
            return Err(ClientIdPatternError::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(ClientIdPatternError::TooLong(text.len()));
        }
        if text.contains('\0') {
            return Err(ClientIdPatternError::Nul);
        }
        let mut tokens = Vec::new();
        for (number, run) in text.split('*').enumerate() {
            if number > 0 && tokens.last() != Some(&Token::AnyRun) {
                tokens.push(Token::AnyRun);
            }
            let mut literal = String::new();
            for (number, piece) in run.split(USERNAME).enumerate() {
                if number > 0 {
                    push_literal(&mut tokens, &mut literal);
                    tokens.push(Token::Username);
                }
                if let Some((_, after)) = piece.split_once("${") {
                    let name = after.split_once('}').map_or(after, |(name, _)| name);
                    return Err(ClientIdPatternError::UnknownPlaceholder(format!("${{{name}}}")));
                }
                literal.push_str(piece);
            }
            push_literal(&mut tokens, &mut literal);
        }
        Ok(Self(tokens))
    }
}

fn push_literal(tokens: &mut Vec<Token>, literal: &mut String) {
    if !literal.is_empty() {
        tokens.push(Token::Literal(std::mem::take(literal).into_boxed_str()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, username: &str, client_id: &str) -> bool {
        ClientIdPattern::try_from(pattern).unwrap().matches(&username.parse().unwrap(), client_id)
    }

    /// The slow definition: try every run.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| slow(rest, &text[skip..])),
            Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    #[test]
    fn a_pattern_matches_the_whole_identifier() {
        assert!(matches("a", "bob", "a"));
        assert!(!matches("a", "bob", "ab"));
        assert!(!matches("a", "bob", "ba"));
        assert!(!matches("a*a", "bob", "a"));
        assert!(matches("a*a", "bob", "aa"));
        assert!(matches("*", "bob", ""));
        assert!(matches("${username}", "bob", "bob"));
        assert!(!matches("${username}", "bob", "${username}"));
        assert!(matches("x-${username}*-${username}", "bob", "x-bob-bob"));
    }

    #[test]
    fn an_identifier_is_never_read_as_a_pattern() {
        assert!(!matches("abc", "bob", "*"));
        assert!(!matches("abc", "bob", "a*c"));
        assert!(matches("a*c", "bob", "a*c"));
    }

    #[test]
    fn many_stars_take_linear_time() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!matches(&pattern, "bob", &"a".repeat(65_000)));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (pattern, error) in [
            ("", ClientIdPatternError::Empty),
            ("a\0", ClientIdPatternError::Nul),
            ("${client_id}", ClientIdPatternError::UnknownPlaceholder("${client_id}".to_owned())),
            ("a${user", ClientIdPatternError::UnknownPlaceholder("${user}".to_owned())),
            ("${user*name}", ClientIdPatternError::UnknownPlaceholder("${user}".to_owned())),
        ] {
            assert_eq!(ClientIdPattern::try_from(pattern).unwrap_err(), error, "{pattern}");
        }
        assert_eq!(ClientIdPattern::try_from(&*"x".repeat(1_025)).unwrap_err(), ClientIdPatternError::TooLong(1_025));
    }

    #[test]
    fn only_an_unambiguous_username_is_a_tie() {
        for (pattern, tied) in [
            ("${username}", true),
            ("${username}~*", true),
            ("${username} *", true),
            ("*", false),
            ("fixed", false),
            ("*${username}", false),
            ("${username}*", false),
            ("${username}-*", false),
            ("dev~${username}", false),
            ("${username}${username}", false),
        ] {
            assert_eq!(ClientIdPattern::try_from(pattern).unwrap().is_tied(), tied, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_trying_every_run(pattern in "[ab*]{1,8}", text in "[ab*]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, "bob", &text), slow(&chars(&pattern), &chars(&text)));
        }

        #[test]
        fn no_client_identifier_is_tied_to_two_users(
            one in "[ab~.-]{3,5}", other in "[ab~.-]{3,5}",
            first in "(\\$\\{username\\})?[ab~*-]{0,3}(\\$\\{username\\})?", second in "(\\$\\{username\\})?[ab~*-]{0,3}(\\$\\{username\\})?",
            client_id in "[ab~.-]{3,9}",
        ) {
            let (Ok(one), Ok(other)) = (one.parse::<Username>(), other.parse::<Username>()) else { return Ok(()) };
            let (Ok(first), Ok(second)) = (ClientIdPattern::try_from(&*first), ClientIdPattern::try_from(&*second)) else { return Ok(()) };
            prop_assume!(one != other && first.is_tied() && second.is_tied());
            // Drawn identifiers rarely match, so the ones that the first user would make are tried too.
            for id in [client_id.clone(), one.to_string(), format!("{one}{client_id}"), format!("{one}~{client_id}")] {
                prop_assert!(!(first.matches(&one, &id) && second.matches(&other, &id)), "{}", id);
            }
        }
    }
}

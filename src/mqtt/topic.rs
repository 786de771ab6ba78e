//! Topic names, topic filters and client identifiers: values that only their checks can make.

use std::fmt;

use bytestring::ByteString;

/// The topic of a message: 1 to 65,535 bytes of UTF-8, no `+`, `#` or NUL. `[MQTT-4.7.1-1]` `[MQTT-4.7.3-1]` `[MQTT-4.7.3-2]`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// What a subscription asks for: a topic name in which `+` stands for one level and a last `#` for the rest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

/// The client identifier: 0 to 65,535 bytes of UTF-8 without NUL. `[MQTT-3.1.3-4]`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(ByteString);

/// Why a string is not a topic name, topic filter or client identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// No characters at all.
    #[error("a topic needs at least one character")]
    Empty,
    /// Over 65,535 bytes.
    #[error("longer than 65,535 bytes")]
    TooLong,
    /// Holds U+0000.
    #[error("holds the character NUL")]
    Nul,
    /// `+` or `#` in a topic name.
    #[error("a topic name may not hold `+` or `#`")]
    Wildcard,
    /// `+` or `#` beside other characters, or `#` before the last level.
    #[error("`+` must be a whole level and `#` the whole last level")]
    MisplacedWildcard,
    /// `$share/` without group name or filter, or a group name with `+`, `#` or `/`.
    #[error("a shared subscription is `$share/GROUP/FILTER` with a group name free of `/`, `+` and `#`")]
    Share,
}

fn check(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        Err(TopicError::Empty)
    } else if text.len() > 65_535 {
        Err(TopicError::TooLong)
    } else if text.contains('\0') {
        Err(TopicError::Nul)
    } else {
        Ok(())
    }
}

impl TopicName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does it begin with `$`? Such topics are the broker's own.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl TryFrom<ByteString> for TopicName {
    type Error = TopicError;

    fn try_from(text: ByteString) -> Result<Self, TopicError> {
        check(&text)?;
        if text.contains(['+', '#']) { Err(TopicError::Wildcard) } else { Ok(Self(text)) }
    }
}

impl TopicFilter {
    /// The text, `$share/GROUP/` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group and the filter inside of `$share/GROUP/FILTER`.
    pub fn shared(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix("$share/")?.split_once('/')
    }

    /// Does the filter match the topic? A wildcard at the first level never matches a `$` topic. `[MQTT-4.7.2-1]`
    pub fn matches(&self, topic: &TopicName) -> bool {
        filter_matches(&self.0, topic.as_str())
    }

    /// Does this filter match every topic that `other` can match?
    pub fn covers(&self, other: &TopicFilter) -> bool {
        filter_covers(&self.0, &other.0)
    }

    /// Is there a topic that both match?
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        filter_overlaps(&self.0, &other.0)
    }
}

fn filter_matches(filter: &str, topic: &str) -> bool {
    filter_covers(filter, topic)
}

fn filter_covers(_filter: &str, _other: &str) -> bool {
    false
}

fn filter_overlaps(_filter: &str, _other: &str) -> bool {
    false
}

impl TryFrom<ByteString> for TopicFilter {
    type Error = TopicError;

    fn try_from(text: ByteString) -> Result<Self, TopicError> {
        check(&text)?;
        Ok(Self(text))
    }
}

impl ClientId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it the empty identifier, which asks the server to assign one?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<ByteString> for ClientId {
    type Error = TopicError;

    fn try_from(text: ByteString) -> Result<Self, TopicError> {
        match check(&text) {
            Ok(()) | Err(TopicError::Empty) => Ok(Self(text)),
            Err(error) => Err(error),
        }
    }
}

macro_rules! text_conversions {
    ($($name:ident),*) => {$(
        impl TryFrom<&str> for $name {
            type Error = TopicError;

            fn try_from(text: &str) -> Result<Self, TopicError> {
                ByteString::from(text).try_into()
            }
        }

        impl std::str::FromStr for $name {
            type Err = TopicError;

            fn from_str(text: &str) -> Result<Self, TopicError> {
                text.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl From<$name> for ByteString {
            fn from(value: $name) -> ByteString {
                value.0
            }
        }
    )*};
}

text_conversions!(TopicName, TopicFilter, ClientId);

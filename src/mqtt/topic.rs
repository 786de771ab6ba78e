//! Topic names, topic filters and client identifiers: values that only their checks can make.
//!
//! Text enters, a proof that it is well-formed leaves; between two such values it is answered whether a filter matches
//! a topic, covers another filter, or overlaps it. Nothing is ever normalised or repaired `[MQTT-4.7.3-4]`, and no
//! answer recurses or allocates. `reference` (tests) says the same slowly.

use std::{borrow::Borrow, fmt};

use bytestring::ByteString;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

const MAXIMUM_LENGTH: usize = 65_535;
const SHARE: &str = "$share/";

/// The topic of a message: 1 to 65,535 bytes of UTF-8, no `+`, `#` or NUL. `[MQTT-4.7.1-1]` `[MQTT-4.7.3-1]` `[MQTT-4.7.3-2]`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// What a subscription asks for: a topic name in which `+` stands for one level and a last `#` for the rest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

/// The client identifier: 0 to 65,535 bytes of UTF-8 without NUL. `[MQTT-3.1.3-4]`
/// The default is empty: the broker draws one. `[MQTT-3.1.3-6]`
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// What all three have in common; the empty text is not refused here.
fn check(text: &str) -> Result<(), TopicError> {
    if text.len() > MAXIMUM_LENGTH {
        Err(TopicError::TooLong) // [MQTT-4.7.3-3]
    } else if text.as_bytes().contains(&0) {
        Err(TopicError::Nul) // [MQTT-1.5.4-2] [MQTT-4.7.3-2]
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

    /// The levels between the `/`, at least one; a level may be empty.
    ///
    /// ```
    /// # use portcullis::mqtt::TopicName;
    /// let topic = TopicName::try_from("/plant/7").unwrap();
    /// assert!(topic.levels().eq(["", "plant", "7"]));
    /// ```
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.0.split('/')
    }
}

impl TryFrom<ByteString> for TopicName {
    type Error = TopicError;

    fn try_from(text: ByteString) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty); // [MQTT-4.7.3-1]
        }
        // One pass without a branch per byte: every PUBLISH comes through here.
        let suspect = text.as_bytes().iter().fold(false, |found, byte| found | matches!(byte, 0 | b'+' | b'#'));
        if suspect || text.len() > MAXIMUM_LENGTH {
            check(&text)?;
            return Err(TopicError::Wildcard); // [MQTT-3.3.2-2] [MQTT-4.7.0-1]
        }
        Ok(Self(text))
    }
}

impl TopicFilter {
    /// The text, `$share/GROUP/` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group and the filter inside of `$share/GROUP/FILTER`; the filter is a valid one and not shared again.
    ///
    /// ```
    /// # use portcullis::mqtt::TopicFilter;
    /// let filter = TopicFilter::try_from("$share/pumps/plant/+").unwrap();
    /// assert_eq!(filter.shared(), Some(("pumps", "plant/+")));
    /// assert_eq!(filter.inner().as_str(), "plant/+");
    /// ```
    pub fn shared(&self) -> Option<(&str, &str)> {
        self.0.strip_prefix(SHARE)?.split_once('/')
    }

    /// The filter that topics are held against: FILTER of `$share/GROUP/FILTER`, otherwise the filter itself.
    /// Shares the text, copies nothing.
    #[must_use]
    pub fn inner(&self) -> TopicFilter {
        match self.shared() {
            Some((_, filter)) => Self(self.0.slice_ref(filter)),
            None => self.clone(),
        }
    }

    /// The levels between the `/`, at least one.
    pub fn levels(&self) -> Levels<'_> {
        Levels { split: self.0.split('/') }
    }

    /// Does it hold a `+` or a `#`?
    pub fn has_wildcard(&self) -> bool {
        self.0.as_bytes().iter().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Does the filter match the topic? A wildcard at the first level never matches a `$` topic. `[MQTT-4.7.2-1]`
    ///
    /// Allocates nothing. As in [`Self::covers`] and [`Self::overlaps`], the text is taken as it stands: `$share/g/a`
    /// matches the topic `$share/g/a`, not `a`. Whoever wants the latter asks [`Self::inner`]; so a permission that
    /// names a group is never mistaken for one that names the topics.
    ///
    /// ```
    /// # use portcullis::mqtt::{TopicFilter, TopicName};
    /// let filter = TopicFilter::try_from("plant/+/#").unwrap();
    /// assert!(filter.matches(&TopicName::try_from("plant/7").unwrap()));
    /// assert!(!filter.matches(&TopicName::try_from("plant").unwrap()));
    /// ```
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_reserved() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = topic.levels();
        for level in self.levels() {
            match (level, levels.next()) {
                (Level::AnyRest, _) => return true, // also the parent level itself: 4.7.1.2
                (Level::AnyOne, Some(_)) => {}
                (Level::Literal(expected), Some(actual)) if expected == actual => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// Does this filter match every topic that `other` can match?
    ///
    /// Exact, but for the bound of 65,535 bytes on a topic, which is left out of account (the answer then errs towards
    /// "no"). Allocates nothing; time is linear in the shorter filter.
    ///
    /// ```
    /// # use portcullis::mqtt::TopicFilter;
    /// let filter = |text| TopicFilter::try_from(text).unwrap();
    /// assert!(filter("a/#").covers(&filter("a/+/b")));
    /// assert!(!filter("a/+").covers(&filter("a/#")));
    /// assert!(!filter("#").covers(&filter("$SYS/#")));
    /// ```
    pub fn covers(&self, other: &TopicFilter) -> bool {
        let (mut ours, mut theirs) = (Normalized::new(&self.0), Normalized::new(&other.0));
        let mut first = true;
        loop {
            match (ours.next(), theirs.next()) {
                // Every topic of `other` has got this far; what follows is any number of levels.
                (Some(Level::AnyRest), _) | (None, None) => return true,
                (Some(Level::AnyOne), Some(Level::AnyOne)) => {}
                (Some(Level::AnyOne), Some(Level::Literal(level))) if !(first && level.starts_with('$')) => {}
                (Some(Level::Literal(a)), Some(Level::Literal(b))) if a == b => {}
                _ => return false,
            }
            first = false;
        }
    }

    /// Is there a topic that both match? Symmetric; exact and cheap as [`Self::covers`].
    ///
    /// ```
    /// # use portcullis::mqtt::TopicFilter;
    /// let filter = |text| TopicFilter::try_from(text).unwrap();
    /// assert!(filter("a/+").overlaps(&filter("+/b")));
    /// assert!(!filter("+/b").overlaps(&filter("$a/b")));
    /// ```
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        let (mut ours, mut theirs) = (Normalized::new(&self.0), Normalized::new(&other.0));
        let mut first = true;
        loop {
            match (ours.next(), theirs.next()) {
                (Some(Level::AnyRest), _) | (_, Some(Level::AnyRest)) | (None, None) => return true,
                (Some(Level::AnyOne), Some(Level::AnyOne)) => {}
                (Some(Level::AnyOne), Some(Level::Literal(level)))
                | (Some(Level::Literal(level)), Some(Level::AnyOne))
                    if !(first && level.starts_with('$')) => {}
                (Some(Level::Literal(a)), Some(Level::Literal(b))) if a == b => {}
                _ => return false,
            }
            first = false;
        }
    }
}

impl TryFrom<ByteString> for TopicFilter {
    type Error = TopicError;

    fn try_from(text: ByteString) -> Result<Self, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty); // [MQTT-4.7.3-1]
        }
        check(&text)?;
        let filter = match text.strip_prefix(SHARE) {
            None => &*text,
            // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
            Some(rest) => match rest.split_once('/') {
                Some((group, filter))
                    if !group.is_empty()
                        && !group.contains(['+', '#'])
                        && !filter.is_empty()
                        && !filter.starts_with(SHARE) =>
                {
                    filter
                }
                _ => return Err(TopicError::Share),
            },
        };
        let mut ended = false;
        for level in filter.split('/') {
            // [MQTT-4.7.1-1] `#` alone and last; [MQTT-4.7.1-2] `+` alone
            if ended || (level.len() > 1 && level.contains(['+', '#'])) {
                return Err(TopicError::MisplacedWildcard);
            }
            ended = level == "#";
        }
        Ok(Self(text))
    }
}

/// One level of a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level<'a> {
    /// This text; may be empty.
    Literal(&'a str),
    /// `+`: any one level, the empty one too.
    AnyOne,
    /// `#`: any number of further levels, none too. Always the last.
    AnyRest,
}

impl<'a> From<&'a str> for Level<'a> {
    fn from(text: &'a str) -> Self {
        match text {
            "+" => Self::AnyOne,
            "#" => Self::AnyRest,
            literal => Self::Literal(literal),
        }
    }
}

/// The levels of a topic filter, first to last.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    split: std::str::Split<'a, char>,
}

impl<'a> Iterator for Levels<'a> {
    type Item = Level<'a>;

    fn next(&mut self) -> Option<Level<'a>> {
        self.split.next().map(Level::from)
    }
}

/// The levels of a filter in the one form in which comparison level by level is exact.
///
/// INVARIANT: the levels before `#` are the shortest topics that the filter matches. Two filters need help: `#` is
/// read as `+/#`, because every topic has a first level; `/#` as `/+/#`, because the empty text is no topic.
struct Normalized<'a> {
    levels: Levels<'a>,
    /// Levels still to be put in before the `#`.
    implied: bool,
    held: Option<Level<'a>>,
}

impl<'a> Normalized<'a> {
    fn new(filter: &'a str) -> Self {
        Self { levels: Levels { split: filter.split('/') }, implied: matches!(filter, "#" | "/#"), held: None }
    }
}

impl<'a> Iterator for Normalized<'a> {
    type Item = Level<'a>;

    fn next(&mut self) -> Option<Level<'a>> {
        match self.held.take().or_else(|| self.levels.next()) {
            Some(Level::AnyRest) if self.implied => {
                self.implied = false;
                self.held = Some(Level::AnyRest);
                Some(Level::AnyOne)
            }
            level => level,
        }
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
        check(&text)?;
        Ok(Self(text))
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

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Sound for maps: `ByteString` compares and hashes as its text does.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
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

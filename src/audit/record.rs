//! One record and its place in the chain: pure.
//!
//! Entering: what happened, and the hash of the record before. Leaving: the bytes that are stored and their hash.
//! INVARIANT: a record is hashed as it is stored, byte for byte; it is never encoded a second time.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event::{Event, Place, Who};

/// SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

/// A text that is no [`struct@Hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash has 64 hexadecimal digits")]
pub struct HashError;

impl Hash {
    /// What the first record of all follows.
    pub const GENESIS: Self = Self([0; 32]);

    /// SHA-256 of these parts, one after the other.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(out)
    }

    /// The hash of a record with these bytes that follows this one.
    #[must_use]
    pub fn then(&self, record: &[u8]) -> Self {
        Self::of(&[&self.0, record])
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or(HashError)?;
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(HashError) };
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        bytes.try_into().map(Self).map_err(|_| HashError)
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

/// Something that happened, with its place and time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 1, without a gap.
    pub sequence: u64,
    /// When it was written.
    pub time: Timestamp,
    /// Who did it.
    pub who: Who,
    /// From where, as far as that is more than `who` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What.
    pub event: Event,
}

/// A record as it is stored and exported: its hash is SHA-256 over the hash of its predecessor and the bytes of `record`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Over the predecessor's and the record.
    pub hash: Hash,
    /// A [`Record`], byte for byte.
    pub record: Box<RawValue>,
}

impl Entry {
    /// Seals a record after the one with this hash.
    ///
    /// # Errors
    /// When the record has no JSON form, which none of ours is without.
    pub fn seal(previous: Hash, record: &Record) -> serde_json::Result<Self> {
        let record = serde_json::value::to_raw_value(record)?;
        Ok(Self { hash: previous.then(record.get().as_bytes()), record })
    }

    /// Does it follow the record with this hash?
    pub fn follows(&self, previous: Hash) -> bool {
        previous.then(self.record.get().as_bytes()) == self.hash
    }

    /// What it says.
    ///
    /// # Errors
    /// When it is the record of another version of the program, or damaged.
    pub fn read(&self) -> serde_json::Result<Record> {
        serde_json::from_str(self.record.get())
    }

    /// The number in the record itself, which the hash covers; `None` when there is none.
    pub fn sequence(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Number {
            sequence: u64,
        }
        serde_json::from_str::<Number>(self.record.get()).ok().map(|number| number.sequence)
    }

    /// When it was written: what pruning by age looks at. `None` when it does not say.
    pub fn time(&self) -> Option<Timestamp> {
        #[derive(Deserialize)]
        struct Time {
            time: Timestamp,
        }
        serde_json::from_str::<Time>(self.record.get()).ok().map(|time| time.time)
    }

    /// About the bytes that it takes in the store.
    pub fn size(&self) -> u64 {
        const FRAME: u64 = 96; // key, hash and braces
        u64::try_from(self.record.get().len()).unwrap_or(u64::MAX).saturating_add(FRAME)
    }
}

//! How a message is written down: JSON, or CBOR (RFC 8949) for small devices. Both have the same fields.
//!
//! Entering: bytes of anybody, whose number the caller has bounded. Leaving: values, or why they are none. Never: anything
//! after the value, a nesting without bound, the same field twice.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep a message may be nested. JSON's own bound is 128.
const DEEPEST: usize = 64;

/// The form of a message and of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259, in UTF-8. Also what a message without a content type is.
    #[default]
    Json,
    /// RFC 8949.
    Cbor,
}

impl Format {
    /// That of a content type; `None`: some other one.
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        match content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
            "" => Some(Self::Json),
            it if it.eq_ignore_ascii_case(Self::Json.media_type()) => Some(Self::Json),
            it if it.eq_ignore_ascii_case(Self::Cbor.media_type()) => Some(Self::Cbor),
            _ => None,
        }
    }

    /// Its content type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
        }
    }

    /// # Errors
    /// What is wrong with it, in words that may quote it.
    pub(super) fn read<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, String> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
            Self::Cbor => {
                let mut rest = bytes;
                let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEEPEST).map_err(|error| {
                    use ciborium::de::Error;
                    match error {
                        Error::Io(_) => "it ends within a value".to_owned(),
                        Error::Syntax(at) => format!("no CBOR at byte {at}"),
                        Error::Semantic(_, why) => why,
                        Error::RecursionLimitExceeded => format!("nested deeper than {DEEPEST}"),
                    }
                })?;
                if rest.is_empty() { Ok(value) } else { Err("something follows after the value".to_owned()) }
            }
        }
    }

    /// Values of ours: strings, numbers, lists and maps with text for keys.
    pub(super) fn write(self, value: &impl Serialize) -> Vec<u8> {
        // INVARIANT: such values can be written, and a vector takes all.
        match self {
            Self::Json => serde_json::to_vec(value).unwrap_or_default(),
            Self::Cbor => {
                let mut bytes = Vec::new();
                ciborium::into_writer(value, &mut bytes).unwrap_or_default();
                bytes
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "JSON",
            Self::Cbor => "CBOR",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_content_type_names_a_format_whatever_its_case_and_parameters() {
        for (text, format) in [
            (None, Some(Format::Json)),
            (Some(""), Some(Format::Json)),
            (Some("Application/JSON; charset=utf-8"), Some(Format::Json)),
            (Some(" application/cbor "), Some(Format::Cbor)),
            (Some("application/cbor-seq"), None),
            (Some("text/plain"), None),
        ] {
            assert_eq!(Format::of(text), format, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back_in_both() {
        let value =
            json!({ "status": 202, "id": -7, "list": ["a", { "b": null }], "text": "x".repeat(10_000), "half": 0.5 });
        for format in [Format::Json, Format::Cbor] {
            assert_eq!(format.read::<Value>(&format.write(&value)), Ok(value.clone()), "{format}");
        }
    }

    /// RFC 8949, Appendix A, and forms of it that are none.
    #[test]
    fn cbor_is_read_to_the_end_and_no_further() {
        let read = |hex: &[u8]| Format::Cbor.read::<Value>(hex);
        assert_eq!(read(&[0xa2, 0x61, b'a', 0x01, 0x61, b'b', 0x82, 0x02, 0x03]), Ok(json!({ "a": 1, "b": [2, 3] })));
        assert_eq!(read(&[0xbf, 0x61, b'a', 0xf6, 0xff]), Ok(json!({ "a": null })), "of indefinite length");
        assert_eq!(read(&[0x01, 0x01]).unwrap_err(), "something follows after the value");
        assert_eq!(read(&[0x82, 0x01]).unwrap_err(), "it ends within a value");
        assert_eq!(read(&[]).unwrap_err(), "it ends within a value");
        assert_eq!(read(&[0x1c]).unwrap_err(), "no CBOR at byte 0");
        assert_eq!(read(&vec![0x81; 10_000]).unwrap_err(), "nested deeper than 64");
        assert!(read(&[0x41, 0x00]).is_err(), "a byte string is no JSON");
        assert!(read(&[0xa1, 0x01, 0x01]).is_err(), "nor is a key that is a number");
        assert!(read(&[0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err(), "a promise of 2^64 bytes");
        assert!(read(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err(), "and of 2^63 entries");
    }
}

//! The data types of section 1.5, taken off the front of one packet's bytes.
//!
//! Every step checks what is left before it takes; strings and binary data leave as slices of the packet.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Buf, Bytes};
use bytestring::ByteString;

use super::error::Fault;
use crate::mqtt::{PacketIdentifier, ReasonCode, TopicError, TopicFilter, TopicName};

const SHORT: Fault = Fault::malformed("the packet ends before its last field does");
const NUL: Fault = Fault::malformed("a string holds the character NUL"); // [MQTT-1.5.4-2]

/// What is left of a packet, or of a property section of it.
pub(super) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.bytes.try_get_u8().map_err(|_| SHORT)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.bytes.try_get_u16().map_err(|_| SHORT)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.bytes.try_get_u32().map_err(|_| SHORT)
    }

    /// A Variable Byte Integer.
    pub(super) fn variable(&mut self) -> Result<u32, Fault> {
        match variable(&self.bytes)? {
            Some((value, length)) => {
                self.bytes.advance(length);
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    /// A byte that is 0 or 1.
    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::protocol("a property that is 0 or 1 has another value")),
        }
    }

    pub(super) fn non_zero_u16(&mut self, otherwise: Fault) -> Result<NonZeroU16, Fault> {
        NonZeroU16::new(self.u16()?).ok_or(otherwise)
    }

    pub(super) fn non_zero_u32(&mut self, otherwise: Fault) -> Result<NonZeroU32, Fault> {
        NonZeroU32::new(self.u32()?).ok_or(otherwise)
    }

    /// `[MQTT-2.2.1-3]`
    pub(super) fn packet_identifier(&mut self) -> Result<PacketIdentifier, Fault> {
        packet_identifier(self.u16()?)
    }

    /// Binary Data: two bytes of length, then as many bytes.
    pub(super) fn binary(&mut self) -> Result<Bytes, Fault> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// A UTF-8 Encoded String.
    pub(super) fn string(&mut self) -> Result<ByteString, Fault> {
        let text = self.text()?;
        if text.as_bytes().contains(&0) { Err(NUL) } else { Ok(text) }
    }

    pub(super) fn topic_filter(&mut self) -> Result<TopicFilter, Fault> {
        TopicFilter::try_from(self.text()?).map_err(|error| match error {
            TopicError::Nul => NUL,
            TopicError::Share => Fault::new(
                ReasonCode::TopicFilterInvalid,
                "a shared subscription is not `$share/`, a group name, `/` and a topic filter", // [MQTT-4.8.2-2]
            ),
            TopicError::Empty => Fault::new(ReasonCode::TopicFilterInvalid, "an empty topic filter"), // [MQTT-4.7.3-1]
            _ => Fault::new(ReasonCode::TopicFilterInvalid, "a wildcard of a topic filter is not a whole level"),
        })
    }

    pub(super) fn topic_name(&mut self) -> Result<TopicName, Fault> {
        topic_name(self.text()?)
    }

    /// A string, still to be searched for NUL. `[MQTT-1.5.4-1]`
    pub(super) fn text(&mut self) -> Result<ByteString, Fault> {
        ByteString::try_from(self.binary()?).map_err(|_| Fault::malformed("a string is not well-formed UTF-8"))
    }

    /// A section that begins with its length; `None` when that is 0.
    pub(super) fn section(&mut self) -> Result<Option<Reader>, Fault> {
        match self.variable()? {
            0 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| SHORT)?;
                Ok(Some(Reader::new(self.take(length)?)))
            }
        }
    }

    pub(super) fn rest(self) -> Bytes {
        self.bytes
    }

    /// The packet must be over here.
    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.is_empty() { Ok(()) } else { Err(Fault::malformed("bytes are left over behind the last field")) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Fault> {
        if length > self.bytes.len() { Err(SHORT) } else { Ok(self.bytes.split_to(length)) }
    }
}

pub(super) fn topic_name(text: ByteString) -> Result<TopicName, Fault> {
    TopicName::try_from(text).map_err(|error| match error {
        TopicError::Nul => NUL,
        TopicError::Empty => Fault::protocol("an empty topic name"), // [MQTT-4.7.3-1]
        _ => Fault::new(ReasonCode::TopicNameInvalid, "a topic name holds a wildcard"), // [MQTT-3.3.2-2]
    })
}

pub(super) fn packet_identifier(number: u16) -> Result<PacketIdentifier, Fault> {
    PacketIdentifier::new(number).ok_or(Fault::protocol("the packet identifier is 0"))
}

/// The Variable Byte Integer at the front and how many bytes it takes; `None` when it does not end within `bytes`.
///
/// Padded forms are refused in both versions: 5.0 says so `[MQTT-1.5.5-1]`, 3.1.1 gives each length its range (table 2.4).
pub(super) fn variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            if *byte == 0 && index > 0 {
                return Err(Fault::malformed("a variable byte integer is longer than it need be"));
            }
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Fault::malformed("a variable byte integer is longer than 4 bytes")) }
}

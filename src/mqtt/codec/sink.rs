//! Where encoded bytes go: into a count first, into the buffer then, by the same code.

use bytes::{BufMut, BytesMut};

use super::{MAXIMUM_REMAINING_LENGTH, error::EncodeError};

/// Something that can be written, any number of times, to the same effect.
pub(super) trait Body {
    fn write<S: Sink>(&self, sink: &mut S);
}

/// Takes the data types of section 1.5.
pub(super) trait Sink {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u32(&mut self, value: u32);
    fn raw(&mut self, bytes: &[u8]);
    /// Two bytes of length, then the bytes: strings and binary data alike.
    fn field(&mut self, bytes: &[u8]);
    fn variable(&mut self, value: u32);
    /// The length of what follows, then that.
    fn section(&mut self, section: &impl Body);
}

/// Counts the bytes, and notes what cannot be said.
#[derive(Default)]
pub(super) struct Length {
    bytes: usize,
    fault: Option<EncodeError>,
}

impl Length {
    /// The length of `body`, at most 268,435,455.
    pub(super) fn of(body: &impl Body) -> Result<u32, EncodeError> {
        let mut length = Self::default();
        body.write(&mut length);
        match (length.fault, u32::try_from(length.bytes)) {
            (Some(fault), _) => Err(fault),
            (None, Ok(bytes)) if bytes <= MAXIMUM_REMAINING_LENGTH => Ok(bytes),
            _ => Err(EncodeError::TooLarge),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Sink for Length {
    fn u8(&mut self, _: u8) {
        self.add(1);
    }

    fn u16(&mut self, _: u16) {
        self.add(2);
    }

    fn u32(&mut self, _: u32) {
        self.add(4);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.add(bytes.len());
    }

    fn field(&mut self, bytes: &[u8]) {
        if bytes.len() > usize::from(u16::MAX) {
            self.fault = Some(EncodeError::FieldTooLong);
        }
        self.add(2);
        self.add(bytes.len());
    }

    fn variable(&mut self, value: u32) {
        if value > MAXIMUM_REMAINING_LENGTH {
            self.fault = Some(EncodeError::TooLarge);
        }
        self.add(variable_size(value));
    }

    fn section(&mut self, section: &impl Body) {
        match Self::of(section) {
            Ok(bytes) => {
                self.variable(bytes);
                self.add(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            Err(fault) => self.fault = Some(fault),
        }
    }
}

/// INVARIANT: whatever is written here has passed [`Length::of`], so nothing is cut short.
impl Sink for BytesMut {
    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }

    fn u16(&mut self, value: u16) {
        self.put_u16(value);
    }

    fn u32(&mut self, value: u32) {
        self.put_u32(value);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn field(&mut self, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.put_u16(length);
        self.extend_from_slice(bytes);
    }

    fn variable(&mut self, mut value: u32) {
        // [MQTT-1.5.5-1]
        while value >= 0x80 {
            self.put_u8(0x80 | low_seven(value));
            value >>= 7;
        }
        self.put_u8(low_seven(value));
    }

    fn section(&mut self, section: &impl Body) {
        self.variable(Length::of(section).unwrap_or(0));
        section.write(self);
    }
}

fn low_seven(value: u32) -> u8 {
    (value & 0x7F) as u8
}

/// The bytes of a Variable Byte Integer: 1 to 4.
pub(super) fn variable_size(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

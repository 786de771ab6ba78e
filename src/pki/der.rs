//! The little DER that we write ourselves, and a guard that runs before any parser of DER.
//!
//! Entering: bytes of anybody. Leaving: encoded elements, or the certainty that a structure is one DER element,
//! properly nested and not deep. Never: recursion, so that no nesting exhausts a stack.

/// Deepest nesting of constructed elements. A certification request with extensions needs 9.
pub(super) const MAX_DEPTH: usize = 16;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// A context-specific, primitive tag.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// A context-specific, constructed tag.
pub(super) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// One element whose content is the parts in a row.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let significant = strip_zeros(&bytes);
        // At most 8 octets of length on any platform that we know.
        #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
        out.push(0x80 | significant.len() as u8);
        out.extend_from_slice(significant);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A non-negative INTEGER from its big-endian magnitude.
pub(super) fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    let magnitude = strip_zeros(magnitude);
    match magnitude.first() {
        None => element(INTEGER, &[&[0]]),
        Some(first) if first & 0x80 != 0 => element(INTEGER, &[&[0], magnitude]),
        Some(_) => element(INTEGER, &[magnitude]),
    }
}

/// A BIT STRING of whole octets.
pub(super) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes])
}

/// The bytes from the first that is not zero.
pub(super) fn strip_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Why bytes are no DER that we hand to a parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    /// Ends too early, or an element is longer than the one around it.
    #[error("an element is cut off")]
    Truncated,
    /// A length that DER does not admit: indefinite, or not the shortest.
    #[error("a length is not in its shortest form")]
    Length,
    /// Tag numbers above 30 occur nowhere in PKCS#10 and X.509.
    #[error("a tag is out of range")]
    Tag,
    /// Too deep.
    #[error("it is nested more than 16 deep")]
    Depth,
    /// Bytes after the one element, or none at all.
    #[error("it must be exactly one element")]
    Trailing,
}

/// Checks that `der` is exactly one element, every length in its shortest form and inside its parent,
/// at most [`MAX_DEPTH`] deep. Linear in the size, constant in memory.
pub(super) fn check(der: &[u8]) -> Result<(), DerError> {
    // Ends of the constructed elements that are open.
    let mut open: Vec<usize> = Vec::with_capacity(MAX_DEPTH);
    let mut position = 0;
    loop {
        let (constructed, start, end) = header(der, position)?;
        if end > open.last().copied().unwrap_or(der.len()) {
            return Err(DerError::Truncated);
        }
        if constructed {
            if open.len() == MAX_DEPTH {
                return Err(DerError::Depth);
            }
            open.push(end);
            position = start;
        } else {
            position = end;
        }
        while open.last() == Some(&position) {
            open.pop();
        }
        if open.is_empty() {
            return if position == der.len() { Ok(()) } else { Err(DerError::Trailing) };
        }
    }
}

/// Of the element at `position`: is it constructed, where does its content start, where does it end?
fn header(der: &[u8], position: usize) -> Result<(bool, usize, usize), DerError> {
    let rest = der.get(position..).filter(|rest| !rest.is_empty()).ok_or(DerError::Truncated)?;
    let (tag, first, rest) = match rest {
        [tag, first, rest @ ..] => (*tag, *first, rest),
        _ => return Err(DerError::Truncated),
    };
    if tag & 0x1f == 0x1f {
        return Err(DerError::Tag);
    }
    let (octets, length) = match first {
        0..=0x7f => (0, usize::from(first)),
        0x81..=0x84 => {
            let octets = usize::from(first & 0x7f);
            let bytes = rest.get(..octets).ok_or(DerError::Truncated)?;
            let length = bytes.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
            let shortest = bytes.first() != Some(&0) && length > 0x7f;
            (octets, usize::try_from(length).ok().filter(|_| shortest).ok_or(DerError::Length)?)
        }
        _ => return Err(DerError::Length),
    };
    let start = position + 2 + octets;
    let end = start.checked_add(length).filter(|end| *end <= der.len()).ok_or(DerError::Truncated)?;
    Ok((tag & 0x20 != 0, start, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bomb_of_nested_sequences_is_refused_without_recursion() {
        let mut der = vec![0x05, 0x00];
        for _ in 0..MAX_DEPTH {
            der = element(SEQUENCE, &[&der]);
        }
        assert_eq!(check(&der), Ok(()));
        assert_eq!(check(&element(SEQUENCE, &[&der])), Err(DerError::Depth));
        for _ in 0..4000 {
            der = element(SEQUENCE, &[&der]);
        }
        assert_eq!(check(&der), Err(DerError::Depth));
    }

    #[test]
    fn lengths_that_der_does_not_admit_are_refused() {
        assert_eq!(check(&[]), Err(DerError::Truncated));
        assert_eq!(check(&[0x30]), Err(DerError::Truncated));
        assert_eq!(check(&[0x30, 0x80, 0, 0]), Err(DerError::Length), "indefinite");
        assert_eq!(check(&[0x04, 0x81, 0x01, 0xff]), Err(DerError::Length), "not the shortest");
        assert_eq!(check(&[0x04, 0x82, 0x00, 0x80]), Err(DerError::Length), "leading zero");
        assert_eq!(check(&[0x04, 0x84, 0xff, 0xff, 0xff, 0xff]), Err(DerError::Truncated));
        assert_eq!(check(&[0x04, 0x85, 1, 0, 0, 0, 0]), Err(DerError::Length));
        assert_eq!(check(&[0x30, 0x03, 0x04, 0x02, 0x00]), Err(DerError::Truncated), "child longer than parent");
        assert_eq!(check(&[0x05, 0x00, 0x05, 0x00]), Err(DerError::Trailing));
        assert_eq!(check(&[0x3f, 0x00]), Err(DerError::Tag));
    }

    #[test]
    fn integers_are_positive_and_shortest() {
        assert_eq!(unsigned(&[0, 0, 0x7f]), [0x02, 0x01, 0x7f]);
        assert_eq!(unsigned(&[0x80]), [0x02, 0x02, 0x00, 0x80]);
        assert_eq!(unsigned(&[0, 0]), [0x02, 0x01, 0x00]);
    }

    proptest! {
        #[test]
        fn what_we_write_passes_the_guard(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let inner = element(OCTET_STRING, &[&content]);
            prop_assert_eq!(check(&element(SEQUENCE, &[&inner, &unsigned(&content)])), Ok(()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }
    }
}

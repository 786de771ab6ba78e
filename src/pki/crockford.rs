//! Crockford's base32, for what people read aloud, type or scan: digits and letters without I, L, O and U.
//!
//! Entering: bytes, or what somebody typed. Leaving: upper-case digits in groups of four, or the digits alone.

/// Each digit at its value.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The digits of these bytes, in groups of four with hyphens between them. Of a last chunk of less than five bytes nothing is
/// shown: give a multiple of five.
pub(crate) fn grouped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for five in bytes.chunks_exact(5) {
        // Five bytes are eight digits of five bits.
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for digit in 0..8 {
            if digit % 4 == 0 && !text.is_empty() {
                text.push('-');
            }
            let index = usize::try_from(bits >> (35 - 5 * digit) & 31).unwrap_or_default();
            text.push(ALPHABET.get(index).copied().unwrap_or_default().into());
        }
    }
    text
}

/// What a person typed, in its one form: either case, hyphens and blanks or none, O for 0, I and L for 1. What is no digit at all
/// stays as it is.
pub(crate) fn typed(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|character| match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    })
}

/// The value of a digit in its one form.
pub(crate) fn value(digit: char) -> Option<u8> {
    ALPHABET.iter().zip(0..).find(|(known, _)| char::from(**known) == digit).map(|(_, value)| value)
}

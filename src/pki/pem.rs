//! PEM (RFC 7468): one block of text around DER. Entering and leaving: text. Never: private keys in an error message.

use x509_parser::pem::Pem;

/// Why a text is not the PEM that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Not text.
    #[error("PEM is ASCII text")]
    NotText,
    /// No block.
    #[error("no block that begins with `-----BEGIN {0}-----` was found")]
    Missing(&'static str),
    /// More blocks than asked for.
    #[error("exactly one `{0}` block is expected, {1} blocks were found")]
    Several(&'static str, usize),
    /// A block of another kind.
    #[error("a `{expected}` block is expected, a `{found}` block was found")]
    Label {
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Broken base64, or an end that is missing or of another kind.
    #[error("the `{0}` block is damaged")]
    Damaged(&'static str),
}

/// One block.
pub(super) struct Block {
    /// Its label, for example `CERTIFICATE`.
    pub(super) label: String,
    /// Its content.
    pub(super) der: Vec<u8>,
}

/// Every block of `text`; `expected` is for the messages.
pub(super) fn blocks(text: &[u8], expected: &'static str) -> Result<Vec<Block>, PemError> {
    if !text.is_ascii() {
        return Err(PemError::NotText);
    }
    Pem::iter_from_buffer(text)
        .map(|block| match block {
            Ok(block) => Ok(Block { label: block.label, der: block.contents }),
            Err(_) => Err(PemError::Damaged(expected)),
        })
        .collect()
}

/// The DER of the only block of `text`, which must have the label.
pub(super) fn only(text: &[u8], label: &'static str) -> Result<Vec<u8>, PemError> {
    let blocks = blocks(text, label)?;
    match <[Block; 1]>::try_from(blocks) {
        Ok([block]) if block.label == label => {
            // RFC 7468, section 2: the labels of both ends are the same.
            let end = format!("-----END {label}-----");
            if text.windows(end.len()).any(|window| window == end.as_bytes()) {
                Ok(block.der)
            } else {
                Err(PemError::Damaged(label))
            }
        }
        Ok([block]) => Err(PemError::Label { expected: label, found: block.label.chars().take(40).collect() }),
        Err(blocks) if blocks.is_empty() => Err(PemError::Missing(label)),
        Err(blocks) => Err(PemError::Several(label, blocks.len())),
    }
}

/// The bytes that base64 text (RFC 4648 4) stands for, in one line or as many; `None`: it is none.
pub fn base64(text: &str) -> Option<Vec<u8>> {
    let admitted = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n');
    if !text.bytes().all(admitted) {
        return None;
    }
    only(format!("-----BEGIN BASE64-----\n{}\n-----END BASE64-----\n", text.trim()).as_bytes(), "BASE64").ok()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A block of text around `der`: lines of 64 characters, each ended by LF.
///
/// ```
/// assert_eq!(portcullis::pki::pem("TEST", b"any"), "-----BEGIN TEST-----\nYW55\n-----END TEST-----\n");
/// ```
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(group.get(at).copied().unwrap_or(0)));
            for at in 0..4 {
                let digit = ALPHABET.get(bits >> (18 - 6 * at) & 63).filter(|_| at <= group.len());
                out.push(digit.map_or('=', |digit| char::from(*digit)));
            }
        }
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_exactly_one_block_of_the_kind_is_refused() {
        let block = encode("A", b"x");
        assert_eq!(only(block.as_bytes(), "A").unwrap(), b"x");
        assert_eq!(only(b"", "A"), Err(PemError::Missing("A")));
        assert_eq!(only(b"nothing here", "A"), Err(PemError::Missing("A")));
        assert_eq!(only(format!("{block}{block}").as_bytes(), "A"), Err(PemError::Several("A", 2)));
        assert_eq!(only(encode("B", b"x").as_bytes(), "A"), Err(PemError::Label { expected: "A", found: "B".into() }));
        assert_eq!(only(b"-----BEGIN A-----\n?\n-----END A-----\n", "A"), Err(PemError::Damaged("A")));
        assert_eq!(only(b"-----BEGIN A-----\neA==\n-----END B-----\n", "A"), Err(PemError::Damaged("A")));
        assert_eq!(only(b"-----BEGIN A-----\neA==\n", "A"), Err(PemError::Damaged("A")));
        assert_eq!(only("ä".as_bytes(), "A"), Err(PemError::NotText));
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_identity(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(only(encode("CERTIFICATE", &der).as_bytes(), "CERTIFICATE").unwrap(), der);
        }
    }
}

//! The short code that a device and an operator compare before a request is granted.
//!
//! Entering: a public key, ten drawn bytes, or what a person typed. Leaving: `XXXX-XXXX-XXXX-XXXX`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PublicKey, crockford, sha256};

/// 80 bits in Crockford base32, shown as `XXXX-XXXX-XXXX-XXXX`.
///
/// ```
/// use portcullis::pki::PairingCode;
/// let code = PairingCode::from_bytes([0xff; 10]);
/// assert_eq!(code.to_string(), "ZZZZ-ZZZZ-ZZZZ-ZZZZ");
/// assert_eq!("zzzzzzzzzzzzzzzz".parse(), Ok(code));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairingCode([u8; 10]);

/// What was typed is no pairing code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has 16 letters and digits, as in `0123-4567-89AB-CDEF`")]
pub struct PairingCodeError;

impl PairingCode {
    /// The first 80 bits of SHA-256 over the SubjectPublicKeyInfo (DER): a device computes it without the broker.
    pub fn of_key(key: &PublicKey) -> Self {
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip(sha256(key.spki_der())) {
            *to = from;
        }
        Self(bytes)
    }

    /// A code from drawn bytes, for requests without a key.
    pub fn from_bytes(bytes: [u8; 10]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crockford::grouped(&self.0))
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PairingCode {
    type Err = PairingCodeError;

    /// Reads it as a person types it: either case, hyphens and spaces or none, O for 0, I and L for 1.
    fn from_str(text: &str) -> Result<Self, PairingCodeError> {
        let mut bits: u128 = 0;
        let mut digits = 0;
        for digit in crockford::typed(text) {
            let value = crockford::value(digit).ok_or(PairingCodeError)?;
            digits += 1;
            if digits > 16 {
                return Err(PairingCodeError);
            }
            bits = bits << 5 | u128::from(value);
        }
        if digits != 16 {
            return Err(PairingCodeError);
        }
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip(bits.to_be_bytes().into_iter().skip(6)) {
            *to = from;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for PairingCode {
    type Error = PairingCodeError;

    fn try_from(text: String) -> Result<Self, PairingCodeError> {
        text.parse()
    }
}

impl From<PairingCode> for String {
    fn from(code: PairingCode) -> String {
        code.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pki::VerifiedCsr;

    /// The code was computed with openssl and python alone:
    /// `openssl req -pubkey -noout | openssl pkey -pubin -outform DER | sha256sum`, then
    /// `int(hash[:20], 16)` written in base 32 with Crockford's digits.
    #[test]
    fn the_code_of_a_key_is_what_openssl_and_python_compute() {
        let csr = VerifiedCsr::from_pem(include_bytes!("testdata/p256.csr.pem")).unwrap();
        assert_eq!(PairingCode::of_key(csr.key()).to_string(), include_str!("testdata/p256.code").trim());
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code: PairingCode = "0123-4567-89AB-CDEF".parse().unwrap();
        assert_eq!("o12345678 9abcdef".parse(), Ok(code));
        assert_eq!("0l23-4567-89ab-cdef".parse(), Ok(code));
        for wrong in ["", "0123-4567-89AB-CDE", "0123-4567-89AB-CDEFG", "U123-4567-89AB-CDEF", "é"] {
            assert_eq!(wrong.parse::<PairingCode>(), Err(PairingCodeError), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_show_is_identity(bytes: [u8; 10]) {
            let code = PairingCode::from_bytes(bytes);
            prop_assert_eq!(code.to_string().parse(), Ok(code));
            prop_assert_eq!(code.to_string().len(), 19);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<PairingCode>();
        }
    }
}

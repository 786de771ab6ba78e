//! The password hashes that may be on record: argon2id, and PBKDF2 of a broker that its users have come from.
//!
//! Enters: PHC strings. Leaves: a [`StoredHash`], which only the check of this file can make. A [`Pbkdf2Hash`] is checked and
//! never made here: the first login that it verifies has it replaced by argon2id. It never prints a hash nor a password, in
//! errors neither.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA512, derive};
use base64ct::{Base64Unpadded, Encoding as _};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::phc::{PasswordHash, PasswordHashError};
use crate::access::PBKDF2_PREFIX;

/// The most iterations of PBKDF2 that a login waits for: about half a second of a core, as for argon2.
pub const MAX_PBKDF2_ITERATIONS: u32 = 500_000;

/// Bytes of SHA-512.
const OUTPUT_BYTES: usize = 64;
/// Bytes of a salt, from and to. mosquitto draws 12 (up to 2.0) or 64.
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// A hash that a password can be held against.
///
/// ```
/// use portcullis::authn::StoredHash;
///
/// let of_mosquitto = "$pbkdf2-sha512$i=101$MTIzNDU2Nzg5MDEy$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// assert!(matches!(StoredHash::try_from(of_mosquitto)?, StoredHash::Pbkdf2(_)));
/// # Ok::<(), portcullis::authn::PasswordHashError>(())
/// ```
#[derive(Clone, Debug)]
pub enum StoredHash {
    /// What this broker makes.
    Argon2id(PasswordHash),
    /// What another broker has made.
    Pbkdf2(Pbkdf2Hash),
}

impl StoredHash {
    /// The PHC string: a secret, for the store alone.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Argon2id(hash) => hash.as_str(),
            Self::Pbkdf2(hash) => &hash.text,
        }
    }
}

impl TryFrom<&str> for StoredHash {
    type Error = PasswordHashError;

    fn try_from(text: &str) -> Result<Self, PasswordHashError> {
        if text.starts_with("$pbkdf2") {
            Ok(Self::Pbkdf2(Pbkdf2Hash::try_from(text)?))
        } else {
            PasswordHash::try_from(text).map(Self::Argon2id)
        }
    }
}

/// A hash of PBKDF2-HMAC-SHA512 (RFC 8018, 5.2) as a PHC string: `$pbkdf2-sha512$i=<iterations>$<salt>$<hash>`.
#[derive(Clone)]
pub struct Pbkdf2Hash {
    text: Box<str>,
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    output: Box<[u8; OUTPUT_BYTES]>,
}

/// Why a string is no [`Pbkdf2Hash`]. It does not repeat the string, which is a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Pbkdf2HashError {
    /// Another algorithm, other parameters, or no base64.
    #[error("expected `$pbkdf2-sha512$i=<iterations>$<salt>$<hash>`, salt and hash in base64 without padding")]
    Syntax,
    /// A cost out of range.
    #[error("the iterations are out of range: 1 to 500000 are admitted")]
    Iterations,
    /// Salt or hash of an unusual length.
    #[error("it must have a salt of 8 to 64 bytes and a hash of 64 bytes")]
    Length,
}

impl Pbkdf2Hash {
    /// Of what another broker keeps.
    ///
    /// # Errors
    /// [`Pbkdf2HashError::Iterations`] and [`Pbkdf2HashError::Length`].
    pub fn new(iterations: u32, salt: &[u8], output: &[u8]) -> Result<Self, Pbkdf2HashError> {
        let cost = NonZeroU32::new(iterations).filter(|cost| cost.get() <= MAX_PBKDF2_ITERATIONS);
        let cost = cost.ok_or(Pbkdf2HashError::Iterations)?;
        let output: [u8; OUTPUT_BYTES] = output.try_into().map_err(|_| Pbkdf2HashError::Length)?;
        if !SALT_BYTES.contains(&salt.len()) {
            return Err(Pbkdf2HashError::Length);
        }
        let [in_text, out_text] = [salt, &output].map(Base64Unpadded::encode_string);
        let text = format!("{PBKDF2_PREFIX}{iterations}${in_text}${out_text}");
        Ok(Self { text: text.into(), iterations: cost, salt: salt.into(), output: Box::new(output) })
    }

    /// What one check costs.
    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut computed = Zeroizing::new([0; OUTPUT_BYTES]);
        derive(PBKDF2_HMAC_SHA512, self.iterations, &self.salt, password, computed.as_mut_slice());
        let matches: bool = computed.ct_eq(&*self.output).into();
        // To HMAC a key and the same key with NUL after it are one (RFC 2104, 2), but argon2id would take the other password.
        matches & !password.ends_with(&[0])
    }
}

impl TryFrom<&str> for Pbkdf2Hash {
    type Error = Pbkdf2HashError;

    fn try_from(text: &str) -> Result<Self, Pbkdf2HashError> {
        let mut parts = text.strip_prefix(PBKDF2_PREFIX).ok_or(Pbkdf2HashError::Syntax)?.split('$');
        let (Some(iterations), Some(salt), Some(output), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Pbkdf2HashError::Syntax);
        };
        // One way to write each number, so that each hash has one text.
        if iterations.is_empty() || iterations.starts_with('0') || !iterations.bytes().all(|c| c.is_ascii_digit()) {
            return Err(Pbkdf2HashError::Syntax);
        }
        let iterations = iterations.parse().map_err(|_| Pbkdf2HashError::Iterations)?;
        let bytes = |text: &str| Base64Unpadded::decode_vec(text).map_err(|_| Pbkdf2HashError::Syntax);
        Self::new(iterations, &bytes(salt)?, &bytes(output)?)
    }
}

impl fmt::Debug for Pbkdf2Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pbkdf2Hash").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// The work of so many iterations, for nothing but its time; more than [`MAX_PBKDF2_ITERATIONS`] are never done.
pub(super) fn burn(iterations: u32, password: &[u8]) {
    if let Some(iterations) = NonZeroU32::new(iterations.min(MAX_PBKDF2_ITERATIONS)) {
        let mut nothing = Zeroizing::new([0; OUTPUT_BYTES]);
        derive(PBKDF2_HMAC_SHA512, iterations, &[0; 16], password, nothing.as_mut_slice());
        std::hint::black_box(&*nothing);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `mosquitto_passwd -b` of mosquitto 2.0.11 for the password `correct horse`, its `$7$101$salt$hash` written as a PHC string.
    pub(in super::super) const OF_MOSQUITTO: &str = "$pbkdf2-sha512$i=101$wqJyjpI/mw7j1p3y$LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg";

    #[test]
    fn a_hash_of_mosquitto_verifies_its_password_and_no_other() {
        let hash = Pbkdf2Hash::try_from(OF_MOSQUITTO).unwrap();
        assert_eq!(hash.iterations(), 101);
        assert!(hash.verify(b"correct horse"));
        for wrong in [&b"correct hors"[..], b"Correct horse", b"", b"correct horse\0"] {
            assert!(!hash.verify(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_hash_that_would_stall_the_login_queue_or_proves_too_little_cannot_be_set() {
        let refused = |text: &str| Pbkdf2Hash::try_from(text).unwrap_err();
        for iterations in ["500001", "4294967295", "4294967296", "99999999999999999999"] {
            let text = OF_MOSQUITTO.replace("i=101", &format!("i={iterations}"));
            assert_eq!(refused(&text), Pbkdf2HashError::Iterations, "{iterations}");
        }
        assert_eq!(Pbkdf2Hash::new(0, &[0; 12], &[0; 64]).unwrap_err(), Pbkdf2HashError::Iterations);
        for (salt, output) in [(7, 64), (65, 64), (0, 64), (12, 63), (12, 65), (12, 0)] {
            let made = Pbkdf2Hash::new(1, &vec![0; salt], &vec![0; output]);
            assert_eq!(made.unwrap_err(), Pbkdf2HashError::Length, "{salt} {output}");
        }
    }

    #[test]
    fn there_is_one_text_for_each_hash() {
        let refused = |text: &str| StoredHash::try_from(text).unwrap_err();
        for other in ["i=0101", "i=+101", "i= 101", "i=", "101", "i=101,l=64", "r=101", "i=101,p=1", "i=0"] {
            let text = OF_MOSQUITTO.replace("i=101", other);
            assert_eq!(refused(&text), PasswordHashError::Pbkdf2(Pbkdf2HashError::Syntax), "{other}");
        }
        for text in [
            OF_MOSQUITTO.replace("sha512", "sha256"),
            OF_MOSQUITTO.replace("-sha512", ""),
            format!("{OF_MOSQUITTO}="),
            format!("{OF_MOSQUITTO}$"),
            format!("{OF_MOSQUITTO} "),
            OF_MOSQUITTO.rsplit_once('$').unwrap().0.to_owned(),
        ] {
            assert_eq!(refused(&text), PasswordHashError::Pbkdf2(Pbkdf2HashError::Syntax), "{text}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_hash() {
        let tail = OF_MOSQUITTO.rsplit('$').next().unwrap();
        assert!(!format!("{:?}", StoredHash::try_from(OF_MOSQUITTO).unwrap()).contains(tail));
        let error = StoredHash::try_from(OF_MOSQUITTO.replace("i=", "j=").as_str()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(tail));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_made_is_read_again(
            iterations in 1..=MAX_PBKDF2_ITERATIONS, salt in prop::collection::vec(any::<u8>(), 8..=64), output in any::<[u8; 32]>(),
        ) {
            let made = Pbkdf2Hash::new(iterations, &salt, &[output, output].concat()).unwrap();
            let read = Pbkdf2Hash::try_from(&*made.text).unwrap();
            prop_assert_eq!((read.iterations, &read.salt, &read.output), (made.iterations, &made.salt, &made.output));
            prop_assert_eq!(&read.text, &made.text);
        }

        #[test]
        fn no_string_makes_the_parser_panic(text in "(\\$pbkdf2-sha512)?(\\$i=[0-9]{0,12})?[$a-zA-Z0-9+/=é]{0,120}") {
            let _ = StoredHash::try_from(text.as_str());
        }
    }
}

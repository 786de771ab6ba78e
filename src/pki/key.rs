//! Public keys: which are admitted, and one form for each.
//!
//! Entering: the SubjectPublicKeyInfo of a request or a certificate. Leaving: a [`PublicKey`], or the name of what was
//! refused. Never: two encodings of one key, so that comparing bytes compares keys.

use std::fmt;

use x509_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_DSA, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_SIG_ED448, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::der;

/// The kinds that are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with e = 65537.
    Rsa {
        /// Bits of the modulus, 2048 to 4096.
        bits: usize,
    },
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa { bits } => write!(f, "RSA of {bits} bits"),
        }
    }
}

/// Why a key is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Another algorithm, curve, size or exponent.
    #[error("a key of type {0} is not admitted; use P-256, P-384, Ed25519, or RSA of 2048 to 4096 bits with e = 65537")]
    NotAdmitted(String),
    /// An admitted kind, encoded in another way than the standard one.
    #[error("the public key is not in its canonical encoding: {0}")]
    Encoding(&'static str),
}

/// An admitted public key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    kind: KeyKind,
    // INVARIANT: the one encoding that RFC 5480, RFC 8410 or RFC 3279 gives for this key.
    spki: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.kind, super::hex(&super::sha256(&self.spki)))
    }
}

/// id-ecPublicKey with prime256v1, RFC 5480.
const P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// id-ecPublicKey with secp384r1, RFC 5480.
const P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
/// id-Ed25519, RFC 8410: the parameters are absent.
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
/// rsaEncryption with NULL, RFC 3279 2.3.1.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// An object identifier for a message: at most 64 characters, however long it is.
pub(super) fn name_of(oid: &Oid<'_>) -> String {
    oid.to_id_string().chars().take(64).collect()
}

const EXPONENT: &[u8] = &[1, 0, 1];

impl PublicKey {
    /// Admits a key, or names what it is.
    pub(super) fn admit(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let algorithm = &spki.algorithm.algorithm;
        let bits: &[u8] = &spki.subject_public_key.data;
        let (kind, identifier, key) = if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .filter(|parameters| parameters.tag() == Tag::Oid)
                .and_then(|parameters| parameters.as_oid().ok())
                .ok_or(KeyError::Encoding("an elliptic curve must be named by its object identifier"))?;
            let (kind, identifier, length) = if curve == OID_EC_P256 {
                (KeyKind::P256, P256, 65)
            } else if curve == OID_NIST_EC_P384 {
                (KeyKind::P384, P384, 97)
            } else if curve == OID_NIST_EC_P521 {
                return Err(KeyError::NotAdmitted("P-521".into()));
            } else if curve.to_id_string() == "1.3.132.0.10" {
                return Err(KeyError::NotAdmitted("secp256k1".into()));
            } else {
                return Err(KeyError::NotAdmitted(format!("elliptic curve {}", name_of(&curve))));
            };
            // RFC 5480 2.2: 0x04 begins the uncompressed form.
            if bits.first() != Some(&4) || bits.len() != length {
                return Err(KeyError::Encoding("the point of an elliptic curve must be in uncompressed form"));
            }
            (kind, identifier, bits.to_vec())
        } else if *algorithm == OID_SIG_ED25519 {
            if bits.len() != 32 {
                return Err(KeyError::Encoding("an Ed25519 key has 32 bytes"));
            }
            (KeyKind::Ed25519, ED25519, bits.to_vec())
        } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
            let (_, rsa) = RSAPublicKey::from_der(bits)
                .map_err(|_| KeyError::Encoding("an RSA key is a sequence of modulus and exponent"))?;
            let modulus = der::strip_zeros(rsa.modulus);
            let size = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            if !(2048..=4096).contains(&size) {
                return Err(KeyError::NotAdmitted(format!("RSA of {size} bits")));
            }
            if der::strip_zeros(rsa.exponent) != EXPONENT {
                return Err(KeyError::NotAdmitted("RSA with an exponent other than 65537".into()));
            }
            let key = der::element(der::SEQUENCE, &[&der::unsigned(modulus), &der::unsigned(EXPONENT)]);
            (KeyKind::Rsa { bits: size }, RSA, key)
        } else {
            let name = if *algorithm == OID_PKCS1_RSASSAPSS {
                "RSASSA-PSS".into()
            } else if *algorithm == OID_KEY_TYPE_DSA {
                "DSA".into()
            } else if *algorithm == OID_SIG_ED448 {
                "Ed448".into()
            } else {
                name_of(algorithm)
            };
            return Err(KeyError::NotAdmitted(name));
        };
        let canonical =
            der::element(der::SEQUENCE, &[&der::element(der::SEQUENCE, &[identifier]), &der::bit_string(&key)]);
        if canonical != spki.raw {
            return Err(KeyError::Encoding("it differs from what RFC 5480, RFC 8410 or RFC 3279 prescribes"));
        }
        Ok(Self { kind, spki: canonical })
    }

    /// Admits a key from its SubjectPublicKeyInfo.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        match SubjectPublicKeyInfo::from_der(spki) {
            Ok(([], parsed)) => Self::admit(&parsed),
            _ => Err(KeyError::Encoding("it is no SubjectPublicKeyInfo")),
        }
    }

    /// Which kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The SubjectPublicKeyInfo, DER: equal for equal keys only.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Is this a signature of `message` by the private key: ECDSA in DER with SHA-256 for P-256 and SHA-384 for P-384, Ed25519, and
    /// PKCS#1 v1.5 with SHA-256 for RSA?
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        use aws_lc_rs::signature::{
            ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
            VerificationAlgorithm,
        };
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            KeyKind::P256 => &ECDSA_P256_SHA256_ASN1,
            KeyKind::P384 => &ECDSA_P384_SHA384_ASN1,
            KeyKind::Ed25519 => &ED25519,
            KeyKind::Rsa { .. } => &RSA_PKCS1_2048_8192_SHA256,
        };
        let Ok((_, spki)) = SubjectPublicKeyInfo::from_der(&self.spki) else { return false };
        UnparsedPublicKey::new(algorithm, &*spki.subject_public_key.data).verify(message, signature).is_ok()
    }

    /// SHA-256 of [`PublicKey::spki_der`], lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        super::hex(&super::sha256(&self.spki))
    }

    /// The first 160 bits of SHA-256 over the key itself, without the SubjectPublicKeyInfo around it (RFC 7093 2, method 1).
    pub(super) fn identifier(&self) -> Vec<u8> {
        let bits = SubjectPublicKeyInfo::from_der(&self.spki).map(|(_, spki)| spki.subject_public_key.data.to_vec());
        super::sha256(&bits.unwrap_or_default()).into_iter().take(20).collect()
    }
}

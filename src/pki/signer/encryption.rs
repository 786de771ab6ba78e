//! Private keys under a passphrase: PKCS#8 EncryptedPrivateKeyInfo with PBES2 (RFC 5958 3, RFC 8018 6.2), as openssl reads and writes it.
//!
//! Entering: DER and a passphrase. Leaving: the key, in memory that is wiped when it is let go; or the same the other way round. Never: a
//! passphrase or a key in a message, and never more work than [`MAX_ITERATIONS`] and [`MAX_SCRYPT_MEMORY`] stand for: what is in the file
//! says how much it would be.

use pkcs8::der::Encode as _;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{self, EncryptionScheme};
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::SignerError;
use crate::pki::pem;

/// What a file may ask for with PBKDF2: ten million, some seconds.
const MAX_ITERATIONS: u32 = 10_000_000;

/// What a file may ask for with scrypt: 128 times N times r bytes, 256 MiB; and p times that in all, 1 GiB.
const MAX_SCRYPT_MEMORY: u64 = 256 << 20;
const MAX_SCRYPT_WORK: u64 = 1 << 30;

/// What we ask for with PBKDF2 and HMAC-SHA-256: OWASP's number of 2023, about 0.2 s at a start.
const ITERATIONS: u32 = 600_000;

/// Why an encrypted key cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// None was given.
    #[error(
        "it is encrypted and there is no passphrase; name a file or a variable that holds it, `ca.passphrase_file` or `ca.passphrase_env`, or pass the systemd credential `ca-passphrase`"
    )]
    NoPassphrase,
    /// Another one.
    #[error("the passphrase does not open it; give the one that it was encrypted with")]
    Passphrase,
    /// Not PBES2, or not with what we know.
    #[error(
        "it is encrypted in a way that is not supported; store it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc` (PBES2: AES, and PBKDF2 with SHA-2 or scrypt)"
    )]
    Scheme,
    /// Too much work.
    #[error(
        "to open it would cost too much ({0}); store it anew with at most {MAX_ITERATIONS} iterations of PBKDF2, or 256 MiB of scrypt"
    )]
    Cost(String),
}

/// The PKCS#8 PrivateKeyInfo in an EncryptedPrivateKeyInfo.
pub(super) fn open(der: &[u8], passphrase: Option<&SecretString>) -> Result<SecretDocument, EncryptionError> {
    // What the library does not know it cannot parse.
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| EncryptionError::Scheme)?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else { return Err(EncryptionError::Scheme) };
    // INVARIANT: before the first step of work.
    check_cost(&parameters.kdf)?;
    let passphrase = passphrase.ok_or(EncryptionError::NoPassphrase)?;
    info.decrypt(passphrase.expose_secret()).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(
            pkcs5::Error::UnsupportedAlgorithm { .. } | pkcs5::Error::AlgorithmParametersInvalid { .. },
        ) => EncryptionError::Scheme,
        // Its padding, or what is inside of it: a wrong key leaves noise.
        _ => EncryptionError::Passphrase,
    })
}

fn check_cost(kdf: &Kdf) -> Result<(), EncryptionError> {
    match kdf {
        Kdf::Pbkdf2(parameters) if parameters.iteration_count > MAX_ITERATIONS => {
            Err(EncryptionError::Cost(format!("{} iterations of PBKDF2", parameters.iteration_count)))
        }
        Kdf::Pbkdf2(parameters) if parameters.iteration_count > 0 => Ok(()),
        Kdf::Scrypt(parameters) => {
            let (n, r, p) =
                (parameters.cost_parameter, u64::from(parameters.block_size), u64::from(parameters.parallelization));
            // RFC 7914 2: N is a power of two, larger than one.
            if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
                return Err(EncryptionError::Scheme);
            }
            let memory = n.saturating_mul(r).saturating_mul(128);
            if memory > MAX_SCRYPT_MEMORY || memory.saturating_mul(p) > MAX_SCRYPT_WORK {
                return Err(EncryptionError::Cost(format!("scrypt with N = {n}, r = {r}, p = {p}")));
            }
            Ok(())
        }
        _ => Err(EncryptionError::Scheme),
    }
}

/// PEM of the PKCS#8 PrivateKeyInfo under the passphrase: AES-256-CBC, PBKDF2 with HMAC-SHA-256.
pub(super) fn seal(key: &[u8], passphrase: &SecretString) -> Result<Zeroizing<String>, SignerError> {
    let mut drawn = ([0; 16], [0; 16]);
    getrandom::fill(&mut drawn.0).map_err(|_| SignerError::Random)?;
    getrandom::fill(&mut drawn.1).map_err(|_| SignerError::Random)?;
    let (salt, iv) = drawn;
    let failed = |error: &dyn std::fmt::Display| SignerError::Sign(format!("the key cannot be encrypted: {error}"));
    let parameters =
        Parameters::generate_pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, iv).map_err(|error| failed(&error))?;
    let encrypted = parameters.encrypt(passphrase.expose_secret(), key).map_err(|error| failed(&error))?;
    let info = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: OctetStringRef::new(&encrypted).map_err(|error| failed(&error))?,
    };
    let der = info.to_der().map_err(|error| failed(&error))?;
    Ok(Zeroizing::new(pem::encode("ENCRYPTED PRIVATE KEY", &der)))
}

#[cfg(test)]
#[path = "encryption_tests.rs"]
mod tests;

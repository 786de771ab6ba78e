//! Private keys in files: read, made, and held against certificates.
//!
//! Entering: paths, and the passphrase of the CA's key. Leaving: keys; new files with mode 0600. Never: an existing key is replaced,
//! and never a key or a passphrase in a message.

use std::fs;
use std::path::Path;

use rcgen::{KeyPair, PublicKeyData as _};
use secrecy::SecretString;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::encryption::{self, EncryptionError};
use super::{SignerError, read, sign_error, write_new};
use crate::pki::pem::{self, PemError};

/// The private key of a file; other blocks, such as `EC PARAMETERS`, may be there too.
pub(super) fn read_key(path: &Path, passphrase: Option<&SecretString>) -> Result<KeyPair, SignerError> {
    let text = read(path)?;
    let encrypted = |source| SignerError::EncryptedKey { path: path.into(), source };
    // RFC 1421 4.6.1.1: what openssl wrote before PKCS#8. It has no bound on guessing that is worth its name.
    if text.windows(PROC_TYPE.len()).any(|window| window == PROC_TYPE) {
        return Err(encrypted(EncryptionError::Scheme));
    }
    let blocks = pem::blocks(&text, "PRIVATE KEY").map_err(|source| SignerError::Pem { path: path.into(), source })?;
    let Some(block) = blocks.into_iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
        return Err(SignerError::Pem { path: path.into(), source: PemError::Missing("PRIVATE KEY") });
    };
    let der = Zeroizing::new(block.der);
    warn_when_readable_by_others(path);
    if block.label == "ENCRYPTED PRIVATE KEY" {
        let opened = encryption::open(&der, passphrase).map_err(encrypted)?;
        // One wrong passphrase in 256 leaves something that has the padding of a key.
        let pair = KeyPair::try_from(opened.as_bytes());
        return pair.map_err(|_| {
            if passphrase_was_wrong(opened.as_bytes()) {
                encrypted(EncryptionError::Passphrase)
            } else {
                SignerError::Key(path.into())
            }
        });
    }
    if passphrase.is_some() {
        tracing::warn!(
            "the key {} is not encrypted, although there is a passphrase: `openssl pkcs8 -topk8 -v2 aes-256-cbc` encrypts it",
            path.display()
        );
    }
    KeyPair::try_from(der.as_slice()).map_err(|_| SignerError::Key(path.into()))
}

const PROC_TYPE: &[u8] = b"Proc-Type: 4,ENCRYPTED";

/// Is what was opened no DER at all?
fn passphrase_was_wrong(opened: &[u8]) -> bool {
    crate::pki::der::check(opened).is_err()
}

fn warn_when_readable_by_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!("the key {} can be read by others; set its mode to 0600", path.display());
    }
}

/// Makes a key, and a file of it: under the passphrase, if there is one.
pub(super) fn create_key(path: &Path, passphrase: Option<&SecretString>) -> Result<KeyPair, SignerError> {
    let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
    let text = match passphrase {
        None => Zeroizing::new(key.serialize_pem()),
        Some(passphrase) => encryption::seal(&Zeroizing::new(key.serialize_der()), passphrase)?,
    };
    write_new(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

/// Does the certificate (the first of its file) hold the public half of the key?
pub(super) fn check_fit(certificate: &[u8], pair: &KeyPair, file: &Path, key: &Path) -> Result<(), SignerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.public_key().raw == pair.subject_public_key_info() => Ok(()),
        Ok(([], _)) => Err(SignerError::KeyMismatch { certificate: file.into(), key: key.into() }),
        _ => Err(SignerError::Certificate(file.into())),
    }
}

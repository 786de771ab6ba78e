//! Private keys in files: read, made, and held against certificates.
//!
//! Entering: paths, and the passphrase of the CA's key. Leaving: keys; new files with mode 0600. Never: an existing key is lost,
//! and never a key or a passphrase in a message.

use std::fs;
use std::path::Path;

use rcgen::{KeyPair, PublicKeyData as _};
use secrecy::SecretString;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::encryption::{self, EncryptionError};
use super::{SignerError, read, replace, sign_error, write_new};
use crate::pki::pem::{self, PemError};

/// Keys that one file can hold: of the CA that issues, of the one before it, and of changes that were not finished.
const MAX_KEYS: usize = 8;

/// The first private key of a file; other blocks, such as `EC PARAMETERS`, may be there too.
pub(super) fn read_key(path: &Path) -> Result<KeyPair, SignerError> {
    let keys = read_keys(path, None)?;
    keys.into_iter().next().ok_or(SignerError::Pem { path: path.into(), source: PemError::Missing("PRIVATE KEY") })
}

/// All private keys of a file, at least one.
pub(super) fn read_keys(path: &Path, passphrase: Option<&SecretString>) -> Result<Vec<KeyPair>, SignerError> {
    let text = read(path)?;
    // RFC 1421 4.6.1.1: what openssl wrote before PKCS#8. It has no bound on guessing that is worth its name.
    if text.windows(PROC_TYPE.len()).any(|window| window == PROC_TYPE) {
        return Err(SignerError::EncryptedKey { path: path.into(), source: EncryptionError::Scheme });
    }
    let blocks = pem::blocks(&text, "PRIVATE KEY").map_err(|source| SignerError::Pem { path: path.into(), source })?;
    let blocks: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.label.ends_with("PRIVATE KEY"))
        .map(|block| (block.label == "ENCRYPTED PRIVATE KEY", Zeroizing::new(block.der)))
        .collect();
    if blocks.is_empty() {
        return Err(SignerError::Pem { path: path.into(), source: PemError::Missing("PRIVATE KEY") });
    }
    if blocks.len() > MAX_KEYS {
        return Err(SignerError::TooManyKeys(path.into()));
    }
    warn_when_readable_by_others(path);
    if passphrase.is_some() && blocks.iter().any(|(encrypted, _)| !encrypted) {
        tracing::warn!(
            "the key {} is not encrypted, although there is a passphrase: `openssl pkcs8 -topk8 -v2 aes-256-cbc` encrypts it",
            path.display()
        );
    }
    blocks
        .iter()
        .map(|(encrypted, der)| if *encrypted { decrypt(path, der, passphrase) } else { parse(path, der) })
        .collect()
}

fn parse(path: &Path, der: &[u8]) -> Result<KeyPair, SignerError> {
    KeyPair::try_from(der).map_err(|_| SignerError::Key(path.into()))
}

fn decrypt(path: &Path, der: &[u8], passphrase: Option<&SecretString>) -> Result<KeyPair, SignerError> {
    let encrypted = |source| SignerError::EncryptedKey { path: path.into(), source };
    let opened = encryption::open(der, passphrase).map_err(encrypted)?;
    // One wrong passphrase in 256 leaves something that has the padding of a key.
    if passphrase_was_wrong(opened.as_bytes()) {
        return Err(encrypted(EncryptionError::Passphrase));
    }
    parse(path, opened.as_bytes())
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
    write_new(path, encode(&[&key], passphrase)?.as_bytes(), 0o600)?;
    Ok(key)
}

/// Writes these keys over those of the file.
pub(super) fn replace_keys(
    path: &Path,
    keys: &[&KeyPair],
    passphrase: Option<&SecretString>,
) -> Result<(), SignerError> {
    replace(path, encode(keys, passphrase)?.as_bytes(), 0o600)
}

fn encode(keys: &[&KeyPair], passphrase: Option<&SecretString>) -> Result<Zeroizing<String>, SignerError> {
    let mut text = Zeroizing::new(String::new());
    for key in keys {
        let one = match passphrase {
            None => Zeroizing::new(key.serialize_pem()),
            Some(passphrase) => encryption::seal(&Zeroizing::new(key.serialize_der()), passphrase)?,
        };
        text.push_str(&one);
    }
    Ok(text)
}

/// Does the certificate hold the public half of the key?
pub(super) fn fits(certificate: &[u8], pair: &KeyPair) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().raw == pair.subject_public_key_info())
}

/// As [`fits`], of the first certificate of a file, with the names of both for the message.
pub(super) fn check_fit(certificate: &[u8], pair: &KeyPair, file: &Path, key: &Path) -> Result<(), SignerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], _)) if fits(certificate, pair) => Ok(()),
        Ok(([], _)) => Err(SignerError::KeyMismatch { certificate: file.into(), key: key.into() }),
        _ => Err(SignerError::Certificate(file.into())),
    }
}

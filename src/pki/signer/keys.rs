//! Private keys in files: read, made, and held against certificates.
//!
//! Entering: paths. Leaving: keys; new files with mode 0600. Never: an existing key is replaced, and never a key in a message.

use std::fs;
use std::path::Path;

use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{SignerError, read, sign_error, write_new};
use crate::pki::pem::{self, PemError};

/// The private key of a file; other blocks, such as `EC PARAMETERS`, may be there too.
pub(super) fn read_key(path: &Path) -> Result<KeyPair, SignerError> {
    let blocks =
        pem::blocks(&read(path)?, "PRIVATE KEY").map_err(|source| SignerError::Pem { path: path.into(), source })?;
    if blocks.iter().any(|block| block.label == "ENCRYPTED PRIVATE KEY") {
        return Err(SignerError::EncryptedKey(path.into()));
    }
    let Some(block) = blocks.into_iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
        return Err(SignerError::Pem { path: path.into(), source: PemError::Missing("PRIVATE KEY") });
    };
    let der = Zeroizing::new(block.der);
    warn_when_readable_by_others(path);
    KeyPair::try_from(der.as_slice()).map_err(|_| SignerError::Key(path.into()))
}

fn warn_when_readable_by_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0) {
        tracing::warn!("the key {} can be read by others; set its mode to 0600", path.display());
    }
}

pub(super) fn create_key(path: &Path) -> Result<KeyPair, SignerError> {
    let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
    write_new(path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
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

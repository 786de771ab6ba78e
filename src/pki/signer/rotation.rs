//! Another CA in place of the one that issues: made by us, or certified by whoever keeps the root.
//!
//! Entering: the files of the CA, certificates, the time. Leaving: a [`Successor`], which whoever must agree can look at; and, from it, the
//! files changed, and the CA that they are then. Never: a key that something was issued with is lost while its CA is trusted, and never a
//! moment at which the files are none of the two states.
//!
//! # What a crash leaves
//!
//! Each step is one file that is there whole or not at all, and the file of certificates says which CA issues. INVARIANT: whatever it
//! says, the file of keys has the keys for it: a key is added before its certificate, and removed after it. A key without a certificate
//! is of a change that was not finished, and is not looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use zeroize::Zeroizing;

use super::keys::{create_key, fits, read_keys, replace_keys};
use super::{CaFiles, CertificateAuthority, SignerError, common_name, exists, replace, self_sign, sign_error};
use crate::pki::pem::{self, PemError};
use crate::pki::{IssuerCertificate, der};

/// Another CA in place of the one in use: checked as at a start, and in no file yet.
#[derive(Debug)]
pub struct Successor {
    ca: CertificateAuthority,
    keys: Keys,
}

/// What becomes of the file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// A new one is added.
    Added,
    /// The one that has waited for its certificate is added.
    Waited,
    /// One is taken away.
    Removed,
    /// They are the same.
    Kept,
}

impl Successor {
    /// The CA that it will be.
    pub fn ca(&self) -> &CertificateAuthority {
        &self.ca
    }

    /// Writes the files; a start finds this CA from then on.
    ///
    /// # Errors
    /// A file that cannot be written: a start finds the CA of before, or, when it is the last of a retirement, this one.
    pub fn write(self, files: &CaFiles<'_>) -> Result<CertificateAuthority, SignerError> {
        let Self { ca, keys } = self;
        let pairs: Vec<&KeyPair> = ca.each().map(|ca| &ca.key).collect();
        if matches!(keys, Keys::Added | Keys::Waited) {
            replace_keys(files.key, &pairs, files.passphrase)?;
        }
        write_certificates(files.certificate, &ca.certificates())?;
        if keys == Keys::Removed {
            replace_keys(files.key, &pairs, files.passphrase)?;
        }
        if keys == Keys::Waited
            && let Err(error) = remove(&waiting(files))
        {
            // The next request takes it away.
            tracing::warn!("the key that has waited for its certificate is left over: {error}");
        }
        Ok(ca)
    }
}

impl CertificateAuthority {
    /// A new CA that issues from now on; this one stays trusted.
    ///
    /// # Errors
    /// [`SignerError::NotOurs`] and [`SignerError::Overlap`].
    pub fn rotate(&self, files: &CaFiles<'_>, now: Timestamp) -> Result<Successor, SignerError> {
        self.check_alone()?;
        if !is_ours(&self.current.issuer) {
            return Err(SignerError::NotOurs);
        }
        let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
        let certificate = self_sign(&key, now)?;
        self.succeed(files, Some(&key), vec![certificate], now)
    }

    /// A request for a certificate of a new CA (PEM, PKCS#10), for whoever keeps the root. Its key waits beside that of the CA, and is
    /// the same until its certificate is imported.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn request(&self, files: &CaFiles<'_>, common_name: &str) -> Result<String, SignerError> {
        let waiting = waiting(files);
        if let Some(key) = waiting_key(files)?
            && key.subject_public_key_info() == self.current.key.subject_public_key_info()
        {
            // Of an import that was interrupted after its last word.
            remove(&waiting)?;
        }
        let key = match waiting_key(files)? {
            Some(key) => key,
            None => create_key(&waiting, files.passphrase)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let request = params.serialize_request(&key).map_err(|error| sign_error(&error))?;
        Ok(pem::encode("CERTIFICATE REQUEST", request.der()))
    }

    /// The CA of these certificates (PEM: the new one, then those above it up to the root). For the key of [`CertificateAuthority::request`], it
    /// is another CA, and this one stays trusted; for the key of this one, it is the same CA with another certificate.
    ///
    /// # Errors
    /// What is wrong with the certificates, as at a start; [`SignerError::NoRequest`], [`SignerError::OtherKey`],
    /// [`SignerError::Overlap`]; or a file that cannot be read.
    pub fn import(&self, files: &CaFiles<'_>, text: &[u8], now: Timestamp) -> Result<Successor, SignerError> {
        let certificates = certificates(text)?;
        let leaf = certificates.first().ok_or(SignerError::OtherKey)?;
        if fits(leaf, &self.current.key) {
            if certificates == self.current.certificates() {
                return Err(SignerError::Same);
            }
            let same = IssuerCertificate::from_der(leaf).is_ok_and(|it| {
                let ours = &self.current.issuer;
                it.subject_der() == ours.subject_der() && it.key_identifier() == ours.key_identifier()
            });
            // What it has issued names it by both.
            return if same { self.succeed(files, None, certificates, now) } else { Err(SignerError::OtherName) };
        }
        let key = waiting_key(files)?.ok_or(SignerError::NoRequest)?;
        if !fits(leaf, &key) {
            return Err(SignerError::OtherKey);
        }
        self.check_alone()?;
        Ok(Successor { keys: Keys::Waited, ..self.succeed(files, Some(&key), certificates, now)? })
    }

    /// This CA without the one before it. What that has issued logs in no more, and nothing is signed with its key any more.
    ///
    /// # Errors
    /// [`SignerError::NotFormer`].
    pub fn retire(&self, files: &CaFiles<'_>, issuer: &str, now: Timestamp) -> Result<Successor, SignerError> {
        if self.former.as_ref().is_none_or(|former| former.issuer.id() != issuer) {
            return Err(SignerError::NotFormer(issuer.chars().take(128).collect()));
        }
        let ca = Self::assemble(files, vec![copy(&self.current.key)?], &self.current.certificates(), now)?;
        Ok(Successor { ca, keys: Keys::Removed })
    }

    fn check_alone(&self) -> Result<(), SignerError> {
        self.former.as_ref().map_or(Ok(()), |former| Err(SignerError::Overlap(former.issuer.id())))
    }

    /// `key`: of the certificates, when it is another one than ours.
    fn succeed(
        &self,
        files: &CaFiles<'_>,
        key: Option<&KeyPair>,
        certificates: Vec<Vec<u8>>,
        now: Timestamp,
    ) -> Result<Successor, SignerError> {
        let kept = match key {
            Some(_) => Some(&self.current),
            None => self.former.as_ref(),
        };
        let mut file = certificates;
        for certificate in kept.into_iter().flat_map(super::Ca::certificates) {
            if !file.contains(&certificate) {
                file.push(certificate);
            }
        }
        let pairs = key.into_iter().chain(self.each().map(|ca| &ca.key));
        let pairs = pairs.map(copy).collect::<Result<_, _>>()?;
        // INVARIANT: what a start would refuse is not written.
        let ca = Self::assemble(files, pairs, &file, now)?;
        Ok(Successor { ca, keys: if key.is_some() { Keys::Added } else { Keys::Kept } })
    }
}

/// Has the broker made it? A root of the operator's own is theirs to replace: what they have of it elsewhere would not follow.
fn is_ours(issuer: &IssuerCertificate) -> bool {
    issuer.is_root() && issuer.name() == format!("CN={}", common_name(issuer.key().spki_der()))
}

fn waiting_key(files: &CaFiles<'_>) -> Result<Option<KeyPair>, SignerError> {
    let path = waiting(files);
    if !exists(&path)? {
        return Ok(None);
    }
    Ok(read_keys(&path, files.passphrase)?.into_iter().next())
}

/// Where the key of a request waits.
fn waiting(files: &CaFiles<'_>) -> PathBuf {
    let mut name = files.key.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

fn copy(key: &KeyPair) -> Result<KeyPair, SignerError> {
    KeyPair::try_from(Zeroizing::new(key.serialize_der()).as_slice()).map_err(|error| sign_error(&error))
}

fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, SignerError> {
    let label = "CERTIFICATE";
    let path = || PathBuf::from("the text that was sent");
    let blocks = pem::blocks(text, label).map_err(|source| SignerError::Pem { path: path(), source })?;
    let found: Vec<_> = blocks.into_iter().filter(|block| block.label == label).map(|block| block.der).collect();
    if found.is_empty() {
        return Err(SignerError::Pem { path: path(), source: PemError::Missing(label) });
    }
    if found.iter().any(|certificate| der::check(certificate).is_err()) {
        return Err(SignerError::Certificate(path()));
    }
    Ok(found)
}

fn write_certificates(path: &Path, certificates: &[Vec<u8>]) -> Result<(), SignerError> {
    let text: String = certificates.iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
    replace(path, text.as_bytes(), 0o644)
}

fn remove(path: &Path) -> Result<(), SignerError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(SignerError::Write { path: path.into(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;

//! The broker's own certificate: found, renewed or made.
//!
//! Entering: the CA, two paths, the names of this machine, the time. Leaving: a [`ServerCertificate`], and the files. Never: a
//! certificate that the operator put there is touched, and never an existing key is replaced.
//!
//! # Whose file is it?
//!
//! Beside a server certificate that we made lies `<file>.managed` with its SHA-256 fingerprint. While the fingerprint fits, the
//! certificate is ours: at start it is renewed, for the same key, at two thirds of its life (unless it is good for as long as its CA), when it
//! lacks a name, or when another CA issues now. Without that file, or when the certificate is another one, it is the operator's and only read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::keys::{check_fit, create_key, read_key};
use super::{CertificateAuthority, Origin, SignerError, check_time, exists, read_certificates, replace, write_new};
use crate::clock::Duration;
use crate::pki::{PreparedCertificate, PublicKey, ServerName, Signer as _, hex, issuer, prepared, sha256};

/// Life of a server certificate: one year, under the 398 days that clients accept.
const SERVER_VALIDITY: Duration = Duration::from_hours(365 * 24);

impl CertificateAuthority {
    /// The broker's own certificate: found, renewed or made, as the page of this module says.
    pub fn server_certificate(
        &self,
        certificate: &Path,
        key: &Path,
        names: &[ServerName],
        now: Timestamp,
    ) -> Result<ServerCertificate, SignerError> {
        let key_found = exists(key)?;
        if !exists(certificate)? {
            let pair = if key_found { server_key(key)? } else { create_key(key, None)? };
            return self.issue_server(certificate, key, &pair, names, now, Origin::Created);
        }
        if !key_found {
            return Err(SignerError::KeyMissing { certificate: certificate.into(), key: key.into() });
        }
        let pair = server_key(key)?;
        let chain = read_certificates(certificate)?;
        let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
        check_fit(leaf, &pair, certificate, key)?;
        let found = ServerCertificate::read(certificate, leaf, chain.clone(), &pair, managed(certificate, leaf)?)?;
        let by = self.for_servers(now);
        let stale = now < found.not_before
            // One that ends with its CA cannot be renewed for longer: it stays, however often that is asked.
            || (found.renew_at() <= now && found.not_after < by.issuer.not_after())
            || !by.issuer.has_issued(leaf)
            || chain.get(1..) != Some(&by.chain)
            || names.iter().any(|name| !found.names.contains(name));
        if found.managed && stale {
            return self.issue_server(certificate, key, &pair, names, now, Origin::Renewed);
        }
        check_time(certificate, found.not_before, found.not_after, now)?;
        Ok(found)
    }

    fn issue_server(
        &self,
        certificate: &Path,
        key: &Path,
        pair: &KeyPair,
        names: &[ServerName],
        now: Timestamp,
        origin: Origin,
    ) -> Result<ServerCertificate, SignerError> {
        let by = self.for_servers(now);
        if !by.issuer.admits_servers() {
            return Err(SignerError::ServerPurpose { certificate: certificate.into(), key: key.into() });
        }
        let public = PublicKey::from_spki_der(&pair.subject_public_key_info())
            .map_err(|source| SignerError::KeyKind { path: key.into(), source })?;
        let prepared =
            PreparedCertificate::server(public, names, &by.issuer, self.draw_serial()?, now, SERVER_VALIDITY)?;
        let issued = by.sign(prepared)?;
        let text = format!("{}{}", issued.pem(), by.chain_pem);
        let marker = marker(certificate);
        if origin == Origin::Renewed {
            // INVARIANT: whichever certificate is there after a crash, the marker names it.
            let old =
                fs::read_to_string(&marker).map_err(|source| SignerError::Read { path: marker.clone(), source })?;
            replace(&marker, format!("{old}{}\n", issued.fingerprint()).as_bytes(), 0o644)?;
            replace(certificate, text.as_bytes(), 0o644)?;
        } else {
            replace(&marker, format!("{}\n", issued.fingerprint()).as_bytes(), 0o644)?;
            write_new(certificate, text.as_bytes(), 0o644)?;
        }
        replace(&marker, format!("{}\n", issued.fingerprint()).as_bytes(), 0o644)?;
        let chain = std::iter::once(issued.der().to_vec()).chain(by.chain.iter().cloned()).collect();
        let mut made = ServerCertificate::read(certificate, issued.der(), chain, pair, true)?;
        made.origin = origin;
        Ok(made)
    }
}

fn server_key(path: &Path) -> Result<KeyPair, SignerError> {
    read_key(path).map_err(|error| match error {
        SignerError::EncryptedKey { path, .. } => SignerError::EncryptedServerKey(path),
        error => error,
    })
}

/// What a TLS listener shows.
pub struct ServerCertificate {
    chain: Vec<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    names: Vec<ServerName>,
    not_before: Timestamp,
    not_after: Timestamp,
    managed: bool,
    origin: Origin,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerCertificate({:?}, {:?}, until {})", self.origin, self.names, self.not_after)
    }
}

impl ServerCertificate {
    fn read(path: &Path, leaf: &[u8], chain: Vec<Vec<u8>>, key: &KeyPair, managed: bool) -> Result<Self, SignerError> {
        let malformed = || SignerError::Certificate(path.into());
        let Ok(([], parsed)) = X509Certificate::from_der(leaf) else {
            return Err(malformed());
        };
        let time = |at: &ASN1Time| issuer::timestamp(at.timestamp()).map_err(|_| malformed());
        let not_before = time(&parsed.validity().not_before)?;
        let not_after = time(&parsed.validity().not_after)?;
        Ok(Self {
            names: prepared::alternative_names(&parsed).unwrap_or_default(),
            not_before,
            not_after,
            managed,
            origin: Origin::Loaded,
            key: Zeroizing::new(key.serialize_der()),
            chain,
        })
    }

    /// Leaf first, DER.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        hex(&sha256(self.chain.first().map(Vec::as_slice).unwrap_or_default()))
    }

    /// The private key, DER: PKCS#8, SEC1 or PKCS#1. A secret.
    pub fn key_der(&self) -> &[u8] {
        &self.key
    }

    /// DNS names and addresses; empty when the operator's certificate has others.
    pub fn names(&self) -> &[ServerName] {
        &self.names
    }

    /// End of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.as_second().saturating_sub(self.not_before.as_second());
        Timestamp::from_second(self.not_before.as_second().saturating_add(life / 3 * 2)).unwrap_or(self.not_after)
    }

    /// Is it ours to renew?
    pub fn is_managed(&self) -> bool {
        self.managed
    }

    /// How it came to be there.
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

fn marker(certificate: &Path) -> PathBuf {
    let mut name = certificate.as_os_str().to_owned();
    name.push(".managed");
    name.into()
}

fn managed(certificate: &Path, leaf: &[u8]) -> Result<bool, SignerError> {
    let path = marker(certificate);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().any(|line| line == hex(&sha256(leaf)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SignerError::Read { path, source }),
    }
}

//! The one place with private keys: the certificate authority and the broker's own certificate, in files.
//!
//! Entering: paths, names, the time, prepared certificates. Leaving: signatures over what `prepared.rs` wrote, and files: keys
//! with mode 0600, each written whole (temporary file, fsync, link or rename). Never: an existing key is replaced, a
//! certificate that the operator put there is touched, a private key is shown.
//!
//! # Whose file is it?
//!
//! Beside a server certificate that we made lies `<file>.managed` with its SHA-256 fingerprint. While the fingerprint fits, the
//! certificate is ours: at start it is renewed, for the same key, at two thirds of its life, when it lacks a name, or when another CA issues
//! now. Without that file, or when the certificate is another one, it is the operator's and only read.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rcgen::{PublicKeyData as _, SigningKey as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::pem::{self, PemError};
use super::{
    BACKDATE, Crl, IssuedCertificate, IssuerCertificate, IssuerError, KeyError, PreparedCertificate, PreparedCrl,
    ProfileError, PublicKey, SerialNumber, ServerName, Signer, der, issuer, prepared,
};
use crate::clock::Duration;
use crate::files;

/// Life of a CA that we make: ten years.
const CA_VALIDITY: Duration = Duration::from_hours(3650 * 24);

/// Life of a server certificate: one year, under the 398 days that clients accept.
const SERVER_VALIDITY: Duration = Duration::from_hours(365 * 24);

/// Files larger than this are no certificates: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no CA, no server certificate or no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the PEM that should be there.
    #[error("`{}` is not usable: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// A key with a passphrase.
    #[error("the key in `{}` is encrypted; store it without a passphrase and with mode 0600", .0.display())]
    EncryptedKey(PathBuf),
    /// Not a private key that we can use.
    #[error("`{}` holds no usable private key; expected is PKCS#8, SEC1 or PKCS#1 in PEM, of P-256, P-384, Ed25519 or RSA", .0.display())]
    Key(PathBuf),
    /// A certificate alone.
    #[error("the certificate `{}` is there but its key `{}` is not; put the key there, or move the certificate away", certificate.display(), key.display())]
    KeyMissing {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key that should be there.
        key: PathBuf,
    },
    /// Two files that do not belong together.
    #[error("the certificate `{}` does not fit the key `{}`; put the two there that belong together", certificate.display(), key.display())]
    KeyMismatch {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key.
        key: PathBuf,
    },
    /// Not a certificate that can issue others.
    #[error("the certificate in `{}` cannot be the CA: {source}", path.display())]
    Issuer {
        /// Which.
        path: PathBuf,
        /// Why.
        source: IssuerError,
    },
    /// The chain is out of order.
    #[error("certificate {position} in `{}` has not issued the one before it; order them from the CA up to the root", path.display())]
    Chain {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        position: usize,
    },
    /// Not X.509.
    #[error("`{}` holds no X.509 certificate", .0.display())]
    Certificate(PathBuf),
    /// Its time is over or not yet come.
    #[error("the certificate in `{}` is valid from {not_before} to {not_after}, not now; renew it, or correct the clock", path.display())]
    NotValid {
        /// Which.
        path: PathBuf,
        /// Start.
        not_before: Timestamp,
        /// End.
        not_after: Timestamp,
    },
    /// An existing key of a kind that we do not certify.
    #[error("no certificate can be made for the key in `{}`: {source}", path.display())]
    KeyKind {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The profile.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// The operating system gives no random numbers.
    #[error("the operating system gave no random numbers")]
    Random,
    /// The cryptographic library refused.
    #[error("the signature could not be made: {0}")]
    Sign(String),
}

/// How a certificate came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made just now.
    Created,
    /// Ours, and made anew just now.
    Renewed,
    /// Found.
    Loaded,
}

/// The broker's certificate authority.
pub struct CertificateAuthority {
    issuer: IssuerCertificate,
    key: KeyPair,
    chain: Vec<Vec<u8>>,
    chain_pem: String,
    anchors: Vec<Vec<u8>>,
    bundle_pem: String,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", super::hex(self.issuer.key_identifier()))
    }
}

impl CertificateAuthority {
    /// A new CA that lives in memory alone: for tests and for embedders that keep it elsewhere.
    ///
    /// ```
    /// use portcullis::pki::{CertificateAuthority, Signer};
    /// let ca = CertificateAuthority::generate("2026-01-01T00:00:00Z".parse()?)?;
    /// assert!(ca.bundle_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn generate(now: Timestamp) -> Result<Self, SignerError> {
        let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
        let certificate = self_sign(&key, now)?;
        Self::assemble(Path::new("the new CA"), key, vec![certificate])
    }

    /// Loads the CA from its files, or makes one when they are not there. A key without its certificate, as a first start leaves it
    /// that was interrupted, gets a new one.
    pub fn load_or_create(certificate: &Path, key: &Path, now: Timestamp) -> Result<(Self, Origin), SignerError> {
        let key_found = exists(key)?;
        if exists(certificate)? {
            if !key_found {
                return Err(SignerError::KeyMissing { certificate: certificate.into(), key: key.into() });
            }
            return Ok((Self::load(certificate, key, now)?, Origin::Loaded));
        }
        let pair = if key_found { read_key(key)? } else { create_key(key)? };
        let der = self_sign(&pair, now)?;
        let ca = Self::assemble(certificate, pair, vec![der.clone()])?;
        write_new(certificate, pem::encode("CERTIFICATE", &der).as_bytes(), 0o644)?;
        Ok((ca, Origin::Created))
    }

    /// Loads the CA: the first certificate of the file must fit the key; the others, if any, lead to the root.
    pub fn load(certificate: &Path, key: &Path, now: Timestamp) -> Result<Self, SignerError> {
        let pair = read_key(key)?;
        let certificates = read_certificates(certificate)?;
        let leaf = certificates.first().map(Vec::as_slice).unwrap_or_default();
        check_fit(leaf, &pair, certificate, key)?;
        let ca = Self::assemble(certificate, pair, certificates)?;
        check_time(certificate, ca.issuer.not_before(), ca.issuer.not_after(), now)?;
        Ok(ca)
    }

    fn assemble(path: &Path, key: KeyPair, certificates: Vec<Vec<u8>>) -> Result<Self, SignerError> {
        let issuers = certificates
            .iter()
            .map(|der| IssuerCertificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| SignerError::Issuer { path: path.into(), source })?;
        for (at, pair) in issuers.windows(2).enumerate() {
            if let [below, above] = pair
                && !above.has_issued(below.der())
            {
                return Err(SignerError::Chain { path: path.into(), position: at + 2 });
            }
        }
        let encode = |der: &Vec<u8>| pem::encode("CERTIFICATE", der);
        let chain: Vec<Vec<u8>> = issuers.iter().filter(|it| !it.is_root()).map(|it| it.der().to_vec()).collect();
        let chain_pem = chain.iter().map(encode).collect();
        let bundle_pem = certificates.iter().map(encode).collect();
        let issuer = issuers.into_iter().next().ok_or_else(|| SignerError::Certificate(path.into()))?;
        Ok(Self { issuer, key, chain, chain_pem, anchors: certificates, bundle_pem })
    }

    /// From now on, what it issues names this place of its revocation list (RFC 5280 4.2.1.13): an ASCII URL.
    #[must_use]
    pub fn with_crl_url(mut self, url: Option<String>) -> Self {
        self.issuer.set_crl_url(url);
        self
    }

    /// The certificates of the trust bundle, DER: anchors for verifying clients.
    pub fn anchors(&self) -> &[Vec<u8>] {
        &self.anchors
    }

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
            let pair = if key_found { read_key(key)? } else { create_key(key)? };
            return self.issue_server(certificate, key, &pair, names, now, Origin::Created);
        }
        if !key_found {
            return Err(SignerError::KeyMissing { certificate: certificate.into(), key: key.into() });
        }
        let pair = read_key(key)?;
        let chain = read_certificates(certificate)?;
        let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
        check_fit(leaf, &pair, certificate, key)?;
        let found = ServerCertificate::read(certificate, leaf, chain.clone(), &pair, managed(certificate, leaf)?)?;
        let stale = now < found.not_before
            || found.renew_at() <= now
            || !self.issuer.has_issued(leaf)
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
        let public = PublicKey::from_spki_der(&pair.subject_public_key_info())
            .map_err(|source| SignerError::KeyKind { path: key.into(), source })?;
        let prepared =
            PreparedCertificate::server(public, names, &self.issuer, self.draw_serial()?, now, SERVER_VALIDITY)?;
        let issued = self.sign(prepared)?;
        let text = format!("{}{}", issued.pem(), self.chain_pem);
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
        let chain = std::iter::once(issued.der().to_vec()).chain(self.chain.iter().cloned()).collect();
        let mut made = ServerCertificate::read(certificate, issued.der(), chain, pair, true)?;
        made.origin = origin;
        Ok(made)
    }
}

impl Signer for CertificateAuthority {
    fn issuer(&self) -> &IssuerCertificate {
        &self.issuer
    }

    fn draw_serial(&self) -> Result<SerialNumber, SignerError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| SignerError::Random)?;
        Ok(SerialNumber::from_random(bytes))
    }

    fn sign(&self, prepared: PreparedCertificate) -> Result<IssuedCertificate, SignerError> {
        let signature = self.key.sign(prepared.tbs()).map_err(|error| sign_error(&error))?;
        Ok(prepared.redeem(&signature, &self.issuer)?)
    }

    fn sign_crl(&self, prepared: PreparedCrl) -> Result<Crl, SignerError> {
        let signature = self.key.sign(prepared.tbs()).map_err(|error| sign_error(&error))?;
        Ok(prepared.redeem(&signature, &self.issuer)?)
    }

    fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }
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
        super::hex(&super::sha256(self.chain.first().map(Vec::as_slice).unwrap_or_default()))
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

fn sign_error(error: &rcgen::Error) -> SignerError {
    SignerError::Sign(error.to_string())
}

/// The root certificate of a CA of ours: P-256, ten years, no CA below it.
fn self_sign(key: &KeyPair, now: Timestamp) -> Result<Vec<u8>, SignerError> {
    let at = |time: Result<Timestamp, jiff::Error>| {
        time.ok()
            .and_then(|time| ASN1Time::from_timestamp(time.as_second()).ok())
            .map(|time| time.to_datetime())
            .ok_or(SignerError::Profile(ProfileError::Validity))
    };
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| SignerError::Random)?;
    let short: String = super::hex(&super::sha256(&key.subject_public_key_info())).chars().take(8).collect();
    let mut params = CertificateParams::default();
    params.not_before = at(now.checked_sub(BACKDATE.saturating_mul(12)))?;
    params.not_after = at(now.checked_add(CA_VALIDITY))?;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(der::strip_zeros(&serial)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Portcullis CA {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(|error| sign_error(&error))?.der().to_vec())
}

fn exists(path: &Path) -> Result<bool, SignerError> {
    path.try_exists().map_err(|source| SignerError::Read { path: path.into(), source })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SignerError> {
    let mut bytes = Zeroizing::new(Vec::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|source| SignerError::Read { path: path.into(), source })?;
    Ok(bytes)
}

fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, SignerError> {
    let label = "CERTIFICATE";
    let blocks = pem::blocks(&read(path)?, label).map_err(|source| SignerError::Pem { path: path.into(), source })?;
    let certificates: Vec<_> = blocks.into_iter().filter(|block| block.label == label).map(|block| block.der).collect();
    if certificates.is_empty() {
        return Err(SignerError::Pem { path: path.into(), source: PemError::Missing(label) });
    }
    if certificates.iter().any(|certificate| der::check(certificate).is_err()) {
        return Err(SignerError::Certificate(path.into()));
    }
    Ok(certificates)
}

/// The private key of a file; other blocks, such as `EC PARAMETERS`, may be there too.
fn read_key(path: &Path) -> Result<KeyPair, SignerError> {
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

fn create_key(path: &Path) -> Result<KeyPair, SignerError> {
    let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
    write_new(path, Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
    Ok(key)
}

/// Does the certificate (the first of its file) hold the public half of the key?
fn check_fit(certificate: &[u8], pair: &KeyPair, file: &Path, key: &Path) -> Result<(), SignerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) if parsed.public_key().raw == pair.subject_public_key_info() => Ok(()),
        Ok(([], _)) => Err(SignerError::KeyMismatch { certificate: file.into(), key: key.into() }),
        _ => Err(SignerError::Certificate(file.into())),
    }
}

fn check_time(path: &Path, not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Result<(), SignerError> {
    if not_before <= now && now < not_after {
        Ok(())
    } else {
        Err(SignerError::NotValid { path: path.into(), not_before, not_after })
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
        Ok(text) => Ok(text.lines().any(|line| line == super::hex(&super::sha256(leaf)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SignerError::Read { path, source }),
    }
}

/// Writes a file that is not there yet; one that is there is left alone and is an error.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), SignerError> {
    files::write_new(path, content, mode).map_err(|source| SignerError::Write { path: path.into(), source })
}

/// Writes a file over the one that is there.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), SignerError> {
    files::replace(path, content, mode).map_err(|source| SignerError::Write { path: path.into(), source })
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;

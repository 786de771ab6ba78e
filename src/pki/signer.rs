//! The one place with private keys: the certificate authority and the broker's own certificate, in files.
//!
//! Entering: paths, names, the time, prepared certificates. Leaving: signatures over what `prepared.rs` wrote, and files: keys
//! with mode 0600, each written whole (temporary file, fsync, link or rename). Never: a key that something was issued with is lost, a
//! certificate that the operator put there is touched, a private key is shown.

mod encryption;
mod error;
mod keys;
mod proof;
mod rotation;
mod server;

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rcgen::{PublicKeyData as _, SigningKey as _};
use secrecy::SecretString;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

pub use encryption::EncryptionError;
pub use error::SignerError;
pub use rotation::Successor;
pub use server::ServerCertificate;

use keys::{create_key, fits, read_keys};

use super::pem::{self, PemError};
use super::{
    BACKDATE, ChainError, Crl, IssuedCertificate, IssuerCertificate, PreparedCertificate, PreparedCrl, ProfileError,
    SerialNumber, Signer, UriPrefix,
    chain::{self, Placed},
    der,
};
use crate::clock::Duration;
use crate::files;

/// Life of a CA that we make: ten years.
const CA_VALIDITY: Duration = Duration::from_hours(3650 * 24);

/// So long before the end of a former CA the broker's own certificate is one of the CA that issues: 1 hour.
const LAST: Duration = Duration::from_hours(1);

/// Files larger than this are no certificates: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

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

/// Where a CA is kept.
#[derive(Clone, Copy, Debug)]
pub struct CaFiles<'a> {
    /// PEM: the certificate of the issuer, then those above it.
    pub certificate: &'a Path,
    /// PEM: its key.
    pub key: &'a Path,
    /// What the key is encrypted with; a key that is made is, where there is one.
    pub passphrase: Option<&'a SecretString>,
    /// What its certificates say, see [`CertificateAuthority::with_profile`].
    pub profile: Option<&'a Profile>,
}

impl<'a> CaFiles<'a> {
    /// A key without a passphrase, and the profile of a CA that nobody has chosen one for.
    pub fn plain(certificate: &'a Path, key: &'a Path) -> Self {
        Self { certificate, key, passphrase: None, profile: None }
    }
}

/// What of the profile of issued certificates the operator has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The place of the revocation list that they name (RFC 5280 4.2.1.13): an ASCII URL, in which `{issuer}` stands for the key
    /// identifier of their issuer.
    pub crl_url: Option<String>,
    /// Those of clients name their user by a URI (RFC 5280 4.2.1.6) too: this, and behind it the username.
    pub uri_prefix: Option<UriPrefix>,
}

/// The broker's certificate authority: the CA that issues, and for a time the one before it.
pub struct CertificateAuthority {
    current: Ca,
    /// Still trusted: what it has issued logs in, and is on its revocation list.
    former: Option<Ca>,
    /// The roots, PEM: what devices verify the broker with.
    bundle_pem: String,
}

/// One issuer with its key.
struct Ca {
    issuer: IssuerCertificate,
    key: KeyPair,
    /// What stands between an issued certificate and the root, DER, nearest first.
    chain: Vec<Vec<u8>>,
    chain_pem: String,
    root: Vec<u8>,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CertificateAuthority({})", self.current.issuer.id())
    }
}

impl Ca {
    fn new(key: KeyPair, ordered: Vec<Placed>) -> Option<Self> {
        let end = chain::end(&ordered);
        // INVARIANT: an ordered chain ends with its root, which is the issuer itself where it stands alone.
        let root = ordered.last()?.1.der().to_vec();
        let chain: Vec<Vec<u8>> =
            ordered.iter().filter(|(_, it)| !it.is_root()).map(|(_, it)| it.der().to_vec()).collect();
        let (_, mut issuer) = ordered.into_iter().next()?;
        if let Some(end) = end {
            issuer.end_by(end);
        }
        let chain_pem = chain.iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
        Some(Self { issuer, key, chain, chain_pem, root })
    }

    /// Its certificates as a file has them: the issuer first, the root last.
    fn certificates(&self) -> Vec<Vec<u8>> {
        let mut all = self.chain.clone();
        all.push(self.root.clone());
        all
    }

    fn sign(&self, prepared: PreparedCertificate) -> Result<IssuedCertificate, SignerError> {
        let signature = self.key.sign(prepared.tbs()).map_err(|error| sign_error(&error))?;
        Ok(prepared.redeem(&signature, &self.issuer)?)
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
        let nowhere = Path::new("the new CA");
        Self::assemble(&CaFiles::plain(nowhere, nowhere), vec![key], &[certificate], now)
    }

    /// Loads the CA from its files, or makes one when they are not there. A key without its certificate, as a first start leaves it
    /// that was interrupted, gets a new one.
    pub fn load_or_create(files: &CaFiles<'_>, now: Timestamp) -> Result<(Self, Origin), SignerError> {
        let CaFiles { certificate, key, passphrase, .. } = *files;
        let key_found = exists(key)?;
        if exists(certificate)? {
            if !key_found {
                return Err(SignerError::KeyMissing { certificate: certificate.into(), key: key.into() });
            }
            return Ok((Self::load(files, now)?, Origin::Loaded));
        }
        let pairs = if key_found { read_keys(key, passphrase)? } else { vec![create_key(key, passphrase)?] };
        let pair = pairs.first().ok_or_else(|| SignerError::Key(key.into()))?;
        let der = self_sign(pair, now)?;
        let ca = Self::assemble(files, pairs, std::slice::from_ref(&der), now)?;
        write_new(certificate, pem::encode("CERTIFICATE", &der).as_bytes(), 0o644)?;
        Ok((ca, Origin::Created))
    }

    /// Loads the CA: a key must be there for the first certificate of the file, and others lead from it to its root. What else is there is
    /// a CA before it, with its key and its chain.
    pub fn load(files: &CaFiles<'_>, now: Timestamp) -> Result<Self, SignerError> {
        let pairs = read_keys(files.key, files.passphrase)?;
        let certificates = read_certificates(files.certificate)?;
        Self::assemble(files, pairs, &certificates, now)
    }

    fn assemble(
        files: &CaFiles<'_>,
        mut keys: Vec<KeyPair>,
        certificates: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<Self, SignerError> {
        let path = files.certificate;
        let wrong = |source| SignerError::Chain { path: path.into(), source };
        let leaf = certificates.first().ok_or_else(|| SignerError::Certificate(path.into()))?;
        let at = keys.iter().position(|key| fits(leaf, key));
        let at = at.ok_or_else(|| SignerError::KeyMismatch { certificate: path.into(), key: files.key.into() })?;
        let key = keys.swap_remove(at);
        let placed: Vec<Placed> = (1..).zip(authorities(path, certificates)?).collect();
        let first = placed.first().ok_or_else(|| SignerError::Certificate(path.into()))?;
        let ordered = chain::order(first, &placed).map_err(wrong)?;
        let mut used: Vec<usize> = ordered.iter().map(|(position, _)| *position).collect();
        chain::verify(&ordered, now).map_err(wrong)?;
        let mut former = None;
        for key in keys {
            let Some(issuer) = placed.iter().find(|(_, it)| fits(it.der(), &key)) else {
                tracing::debug!(
                    "{} holds a key without a certificate, of a change that was not finished",
                    files.key.display()
                );
                continue;
            };
            let ordered = chain::order(issuer, &placed).map_err(wrong)?;
            used.extend(ordered.iter().map(|(position, _)| *position));
            match chain::verify(&ordered, now) {
                Ok(()) => former = Ca::new(key, ordered),
                // Its end is not that of the one that issues.
                Err(error) => tracing::warn!("the CA before this one is not trusted any more: {error}"),
            }
        }
        if let Some((position, stray)) = placed.iter().find(|(position, _)| !used.contains(position)) {
            return Err(wrong(ChainError::Stray { position: *position, name: stray.name() }));
        }
        let current = Ca::new(key, ordered).ok_or_else(|| SignerError::Certificate(path.into()))?;
        let ca = Self::of(current, former);
        let ca = if let Some(profile) = files.profile { ca.with_profile(profile) } else { ca };
        proof::check(&ca.current, path, now)?;
        Ok(ca)
    }

    fn of(current: Ca, former: Option<Ca>) -> Self {
        let mut bundle_pem = pem::encode("CERTIFICATE", &current.root);
        if let Some(former) = former.as_ref().filter(|former| former.root != current.root) {
            bundle_pem += &pem::encode("CERTIFICATE", &former.root);
        }
        Self { current, former, bundle_pem }
    }

    /// From now on, what it issues says these things, too.
    #[must_use]
    pub fn with_profile(mut self, profile: &Profile) -> Self {
        for ca in [Some(&mut self.current), self.former.as_mut()].into_iter().flatten() {
            let url = profile.crl_url.as_ref().map(|url| url.replace("{issuer}", &ca.issuer.id()));
            ca.issuer.set_profile(url, profile.uri_prefix.clone());
        }
        self
    }

    /// Whom certificates of clients are trusted of: the issuer, however many certificates are above it, and the one before it.
    pub fn issuers(&self) -> Vec<IssuerCertificate> {
        self.each().map(|ca| ca.issuer.clone()).collect()
    }

    /// As [`CertificateAuthority::issuers`], DER: anchors for verifying clients.
    pub fn anchors(&self) -> Vec<Vec<u8>> {
        self.each().map(|ca| ca.issuer.der().to_vec()).collect()
    }

    /// Its certificates as a file has them, DER: the issuer, those above it up to the root, then those of the one before it.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let mut file = Vec::new();
        for certificate in self.each().flat_map(Ca::certificates) {
            if !file.contains(&certificate) {
                file.push(certificate);
            }
        }
        file
    }

    /// The CA before the one that issues, while it is trusted.
    pub fn former(&self) -> Option<&IssuerCertificate> {
        self.former.as_ref().map(|former| &former.issuer)
    }

    fn each(&self) -> impl Iterator<Item = &Ca> {
        std::iter::once(&self.current).chain(&self.former)
    }

    /// Who issues the broker's own certificate: the CA before this one, where devices may have no other root to verify it with, as long
    /// as that can issue any that is good for a while.
    fn for_servers(&self, now: Timestamp) -> &Ca {
        let lasts = |issuer: &IssuerCertificate| now.checked_add(LAST).is_ok_and(|soon| soon < issuer.not_after());
        self.former
            .as_ref()
            .filter(|former| {
                former.root != self.current.root && former.issuer.admits_servers() && lasts(&former.issuer)
            })
            .unwrap_or(&self.current)
    }
}

impl Signer for CertificateAuthority {
    fn issuer(&self) -> &IssuerCertificate {
        &self.current.issuer
    }

    fn draw_serial(&self) -> Result<SerialNumber, SignerError> {
        draw_serial()
    }

    fn sign(&self, prepared: PreparedCertificate) -> Result<IssuedCertificate, SignerError> {
        self.current.sign(prepared)
    }

    fn sign_crl(&self, prepared: PreparedCrl) -> Result<Crl, SignerError> {
        let ca = self.each().find(|ca| ca.issuer.id() == prepared.issuer()).unwrap_or(&self.current);
        let signature = ca.key.sign(prepared.tbs()).map_err(|error| sign_error(&error))?;
        Ok(prepared.redeem(&signature, &ca.issuer)?)
    }

    fn chain_pem(&self) -> &str {
        &self.current.chain_pem
    }

    fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }
}

/// The CA in use, which can be exchanged while everything runs: whoever begins something takes the one of that moment.
#[derive(Debug)]
pub struct Signers(ArcSwap<CertificateAuthority>);

impl Signers {
    /// Begins with this one.
    pub fn new(ca: impl Into<Arc<CertificateAuthority>>) -> Self {
        Self(ArcSwap::new(ca.into()))
    }

    /// The one of this moment.
    pub fn load(&self) -> Arc<CertificateAuthority> {
        self.0.load_full()
    }

    /// From now on it is this one.
    pub fn store(&self, ca: Arc<CertificateAuthority>) {
        self.0.store(ca);
    }
}

/// The certificates of a file (PEM), each of which must be one of a CA, with a key of an admitted kind.
///
/// # Errors
/// [`SignerError`]: what cannot be read, or is none.
pub fn read_authorities(path: &Path) -> Result<Vec<IssuerCertificate>, SignerError> {
    authorities(path, &read_certificates(path)?)
}

fn authorities(path: &Path, certificates: &[Vec<u8>]) -> Result<Vec<IssuerCertificate>, SignerError> {
    let refused = |source| SignerError::Chain { path: path.into(), source };
    let read = |(position, der): (usize, &Vec<u8>)| {
        IssuerCertificate::from_der(der).map_err(|source| refused(ChainError::of(position, der, source)))
    };
    (1..).zip(certificates).map(read).collect()
}

fn draw_serial() -> Result<SerialNumber, SignerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| SignerError::Random)?;
    Ok(SerialNumber::from_random(bytes))
}

fn sign_error(error: &rcgen::Error) -> SignerError {
    SignerError::Sign(error.to_string())
}

/// The root certificate of a CA of ours: P-256, ten years, no CA below it.
/// What a CA with this key is called that the broker has made.
fn common_name(spki: &[u8]) -> String {
    let short: String = super::hex(&super::sha256(spki)).chars().take(8).collect();
    format!("Portcullis CA {short}")
}

fn self_sign(key: &KeyPair, now: Timestamp) -> Result<Vec<u8>, SignerError> {
    let at = |time: Result<Timestamp, jiff::Error>| {
        time.ok()
            .and_then(|time| ASN1Time::from_timestamp(time.as_second()).ok())
            .map(|time| time.to_datetime())
            .ok_or(SignerError::Profile(ProfileError::Validity))
    };
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|_| SignerError::Random)?;
    let mut params = CertificateParams::default();
    params.not_before = at(now.checked_sub(BACKDATE.saturating_mul(12)))?;
    params.not_after = at(now.checked_add(CA_VALIDITY))?;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(der::strip_zeros(&serial)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(&key.subject_public_key_info()));
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

fn check_time(path: &Path, not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Result<(), SignerError> {
    if not_before <= now && now < not_after {
        Ok(())
    } else {
        Err(SignerError::NotValid { path: path.into(), not_before, not_after })
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

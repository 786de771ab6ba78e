//! The certificate that we sign with, seen from outside: no private key here.
//!
//! Entering: DER. Leaving: what an issued certificate needs of its issuer, byte for byte, or why it cannot be one.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::der::{self, DerError};
use super::{KeyError, KeyKind, PublicKey, UriPrefix};

/// Why a certificate cannot issue others. The fault is the operator's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// Not DER.
    #[error("it is not valid DER: {0}")]
    Der(#[from] DerError),
    /// DER, but no certificate.
    #[error("it is not an X.509 v3 certificate")]
    Structure,
    /// basicConstraints absent or CA:FALSE.
    #[error(
        "it is not the certificate of a CA (basicConstraints lacks CA:TRUE); name the one of the CA, not one that it has issued"
    )]
    NotCa,
    /// keyUsage without keyCertSign.
    #[error("its key usage does not admit signing certificates; have it issued with keyCertSign and cRLSign")]
    KeyUsage,
    /// pathLenConstraint.
    #[error(
        "its path length constraint of {admitted} does not admit the {found} below it; have it issued with a longer one, or use a CA that is nearer to the root"
    )]
    PathLength {
        /// So many CAs may be below it.
        admitted: u32,
        /// So many are.
        found: usize,
    },
    /// extKeyUsage without clientAuth.
    #[error(
        "its extended key usage does not admit certificates of clients; have it issued with clientAuth and serverAuth, or without that extension"
    )]
    Purpose,
    /// The key.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// A date out of range.
    #[error("its validity is out of range")]
    Validity,
}

/// A CA certificate, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerCertificate {
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    key: PublicKey,
    key_identifier: Vec<u8>,
    signs_crls: bool,
    path_length: Option<u32>,
    /// Of clients, and of servers.
    admits: (bool, bool),
    crl_url: Option<String>,
    uri_prefix: Option<UriPrefix>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl IssuerCertificate {
    /// Checks that the certificate is one of a CA, with an admitted key. Dates are read, not judged.
    pub fn from_der(certificate: &[u8]) -> Result<Self, IssuerError> {
        der::check(certificate)?;
        let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
            return Err(IssuerError::Structure);
        };
        // RFC 5280 4.2.1.9: without basicConstraints no key may verify certificates.
        let constraints = parsed.basic_constraints().map_err(|_| IssuerError::Structure)?;
        let Some(constraints) = constraints.filter(|it| it.value.ca) else { return Err(IssuerError::NotCa) };
        let usage = parsed.key_usage().map_err(|_| IssuerError::Structure)?;
        if usage.as_ref().is_some_and(|it| !it.value.key_cert_sign()) {
            return Err(IssuerError::KeyUsage);
        }
        let signs_crls = usage.is_none_or(|it| it.value.crl_sign());
        let purposes = parsed.extended_key_usage().map_err(|_| IssuerError::Structure)?;
        let admits = purposes
            .map_or((true, true), |it| (it.value.any || it.value.client_auth, it.value.any || it.value.server_auth));
        let key = PublicKey::admit(parsed.public_key())?;
        // RFC 5280 4.2.1.1: our AKI must be the issuer's SKI, however that was made.
        let key_identifier = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
                _ => None,
            })
            .unwrap_or_else(|| key.identifier());
        Ok(Self {
            der: certificate.to_vec(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            key,
            key_identifier,
            signs_crls,
            path_length: constraints.value.path_len_constraint,
            admits,
            crl_url: None,
            uri_prefix: None,
            not_before: timestamp(parsed.validity().not_before.timestamp())?,
            not_after: timestamp(parsed.validity().not_after.timestamp())?,
        })
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject, DER: the issuer name of what it issues.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// The subject as RFC 4514 writes it, more or less: for people.
    pub fn name(&self) -> String {
        X509Certificate::from_der(&self.der).map(|(_, parsed)| parsed.subject().to_string()).unwrap_or_default()
    }

    /// The name of who has issued it, as [`IssuerCertificate::name`].
    pub fn issuer_name(&self) -> String {
        X509Certificate::from_der(&self.der).map(|(_, parsed)| parsed.issuer().to_string()).unwrap_or_default()
    }

    /// Its key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its SKI; where it has none, the identifier that RFC 7093 gives for its key.
    pub fn key_identifier(&self) -> &[u8] {
        &self.key_identifier
    }

    /// [`IssuerCertificate::key_identifier`] in lower-case hexadecimal: what records and revocation lists call this issuer.
    pub fn id(&self) -> String {
        super::hex(&self.key_identifier)
    }

    /// May its key sign revocation lists (RFC 5280 4.2.1.3, cRLSign)?
    pub fn signs_crls(&self) -> bool {
        self.signs_crls
    }

    /// So many CAs may be below it (RFC 5280 4.2.1.9); `None`: any number.
    pub fn path_length(&self) -> Option<u32> {
        self.path_length
    }

    /// May it issue certificates of clients (extendedKeyUsage absent, or with clientAuth)?
    pub fn admits_clients(&self) -> bool {
        self.admits.0
    }

    /// May it issue certificates of servers (extendedKeyUsage absent, or with serverAuth)?
    pub fn admits_servers(&self) -> bool {
        self.admits.1
    }

    /// Where its revocation list is: what it issues names that.
    pub fn crl_url(&self) -> Option<&str> {
        self.crl_url.as_deref()
    }

    /// By what URI the certificates of clients name their user, beside the common name; `None`: by none.
    pub fn uri_prefix(&self) -> Option<&UriPrefix> {
        self.uri_prefix.as_ref()
    }

    /// From now on, what it issues names this place of its revocation list, and its user by such a URI.
    pub(super) fn set_profile(&mut self, crl_url: Option<String>, uri_prefix: Option<UriPrefix>) {
        self.crl_url = crl_url;
        self.uri_prefix = uri_prefix;
    }

    /// From now on it ends no later than its chain does, nor does anything that it issues.
    pub(super) fn end_by(&mut self, end: Timestamp) {
        self.not_after = self.not_after.min(end);
    }

    /// Start of validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity; of the CA that signs, the end of its chain up to the root where that comes first.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Does it issue itself? Then it is a root.
    pub fn is_root(&self) -> bool {
        self.subject == self.issuer
    }

    /// Is `certificate` (DER) signed by this issuer's key, and does it name it?
    pub fn has_issued(&self, certificate: &[u8]) -> bool {
        if der::check(certificate).is_err() {
            return false;
        }
        let (Ok(([], certificate)), Ok((_, own))) =
            (X509Certificate::from_der(certificate), X509Certificate::from_der(&self.der))
        else {
            return false;
        };
        certificate.issuer().as_raw() == self.subject && certificate.verify_signature(Some(own.public_key())).is_ok()
    }

    /// The AlgorithmIdentifier of what this key signs, DER content of the sequence included.
    pub(super) fn signature_algorithm(&self) -> Vec<u8> {
        let content: &[u8] = match self.key.kind() {
            // ecdsa-with-SHA256 and -SHA384, RFC 5758 3.2: no parameters.
            KeyKind::P256 => b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            KeyKind::P384 => b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            // RFC 8410.
            KeyKind::Ed25519 => b"\x06\x03\x2b\x65\x70",
            // sha256WithRSAEncryption, RFC 4055 5: NULL.
            KeyKind::Rsa { .. } => b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
        };
        der::element(der::SEQUENCE, &[content])
    }
}

/// Seconds since 1970, as certificates count them.
pub(super) fn timestamp(seconds: i64) -> Result<Timestamp, IssuerError> {
    Timestamp::from_second(seconds).map_err(|_| IssuerError::Validity)
}

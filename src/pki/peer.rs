//! The certificate of a peer whose chain, validity and possession TLS has verified already.
//!
//! Entering: its DER. Leaving: the identity that it claims and what its record is found by. Never: trust. Whether an
//! issued certificate is on record, revoked, or good for that user is asked elsewhere.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::naming::Names;
use super::{CommonNameError, IssuerCertificate, Naming, NamingError, PublicKey, der, issuer};
use crate::access::Username;

/// Why a certificate cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// TLS admitted what our parser does not: refused.
    #[error("the certificate cannot be read; ask for a new one")]
    Malformed,
}

/// A peer's certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    der: Vec<u8>,
    names: Names,
    serial: String,
    fingerprint: String,
    authority: Option<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl PeerCertificate {
    /// Reads a certificate.
    pub fn from_der(certificate: &[u8]) -> Result<Self, PeerError> {
        der::check(certificate).map_err(|_| PeerError::Malformed)?;
        let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
            return Err(PeerError::Malformed);
        };
        let time = |seconds| issuer::timestamp(seconds).map_err(|_| PeerError::Malformed);
        Ok(Self {
            der: certificate.to_vec(),
            names: Names::of(&parsed),
            serial: super::hex(der::strip_zeros(parsed.raw_serial())),
            fingerprint: super::hex(&super::sha256(certificate)),
            authority: authority(&parsed),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
        })
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Reads a certificate in PEM: one `CERTIFICATE` block.
    pub fn from_pem(text: &[u8]) -> Result<Self, PeerError> {
        Self::from_der(&super::pem::only(text, "CERTIFICATE").map_err(|_| PeerError::Malformed)?)
    }

    /// Its public key, if that is of an admitted kind.
    pub fn key(&self) -> Option<PublicKey> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        PublicKey::admit(parsed.public_key()).ok()
    }

    /// The username that its only common name is, or why it is none. Of what the broker issues, it is the user's, always.
    pub fn common_name(&self) -> Result<&Username, &CommonNameError> {
        self.names.common_name()
    }

    /// The identity that it claims, or why it claims none.
    pub fn username(&self, by: &Naming) -> Result<Username, NamingError> {
        self.names.username(by)
    }

    /// Serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The key identifier of who has issued it, as it says itself (RFC 5280 4.2.1.1), lower-case hexadecimal.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Start of validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity: a session never outlives it.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Is it within its validity, both ends included (RFC 5280 4.1.2.5)? TLS asked at the handshake; CONNECT may come later.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Was it signed by this issuer? Only then must it be on record.
    pub fn is_issued_by(&self, issuer: &IssuerCertificate) -> bool {
        issuer.has_issued(&self.der)
    }
}

fn authority(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(it) => it.key_identifier.as_ref().map(|it| super::hex(it.0)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(name: DistinguishedName) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn claim(der: &[u8]) -> Result<Username, CommonNameError> {
        PeerCertificate::from_der(der).unwrap().common_name().cloned().map_err(Clone::clone)
    }

    fn named(value: impl Into<DnValue>) -> Vec<u8> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, value);
        certificate(name)
    }

    #[test]
    fn a_subject_that_is_no_single_username_is_refused_by_name() {
        use CommonNameError as E;

        assert_eq!(claim(&named("press-7")).unwrap().as_str(), "press-7");
        assert_eq!(claim(&certificate(DistinguishedName::new())), Err(E::Missing));
        assert_eq!(claim(&named("")), Err(E::Empty));
        assert_eq!(claim(&named("press-7\0.evil.example")), Err(E::Nul));
        assert!(matches!(claim(&named("press-7 ")), Err(E::Name(_))));
        assert!(matches!(claim(&named("press/7")), Err(E::Name(_))));
        assert_eq!(claim(&named(DnValue::BmpString("press-7".try_into().unwrap()))), Err(E::Encoding));
        assert_eq!(claim(&named(DnValue::TeletexString("press-7".try_into().unwrap()))), Err(E::Encoding));
    }

    /// rcgen keeps one value per type, so the second name is given by its object identifier.
    #[test]
    fn two_common_names_are_refused_in_either_order() {
        for (first, second) in [("press-7", "victim1"), ("victim1", "press-7")] {
            let mut name = DistinguishedName::new();
            name.push(DnType::CommonName, first);
            name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), second);
            assert_eq!(claim(&certificate(name)), Err(CommonNameError::Several(2)));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = PeerCertificate::from_der(&bytes);
        }

        #[test]
        fn a_changed_byte_never_panics(at: prop::sample::Index, byte: u8) {
            let mut der = named("press-7");
            let at = at.index(der.len());
            der[at] = byte;
            let _ = PeerCertificate::from_der(&der);
        }
    }
}

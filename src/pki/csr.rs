//! Certification requests (PKCS#10, RFC 2986).
//!
//! Entering: PEM or DER of anybody. Leaving: a [`VerifiedCsr`], which is a username and a public key whose private key
//! the sender holds, or a [`CsrError`] that says what to do. Never taken over: anything else that the request asks for.
//! What would make the certificate speak for more than the username (other names, a CA) is refused, so that nobody takes the
//! certificate for one that has it; other extensions and attributes are passed over.

use x509_parser::asn1_rs::{self, Header};
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::{ChallengePassword, ParsedCriAttribute, X509CriAttribute};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::der::{self, DerError};
use super::pem::{self, PemError};
use super::{CommonNameError, KeyError, KeyKind, PublicKey, key, subject};
use crate::access::Username;

/// Largest PEM text or DER that is looked at, in bytes.
pub const MAX_CSR_SIZE: usize = 16 * 1024;

/// Why a request is refused. The fault is the sender's, always.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Over [`MAX_CSR_SIZE`].
    #[error("the CSR has {0} bytes; send at most 16384")]
    TooLarge(usize),
    /// Not one `CERTIFICATE REQUEST` block.
    #[error("the CSR is not the PEM of one request: {0}")]
    Pem(#[from] PemError),
    /// Not DER.
    #[error("the CSR is not valid DER: {0}")]
    Der(#[from] DerError),
    /// DER, but no PKCS#10 of version 1.
    #[error("the CSR is not a PKCS#10 request (RFC 2986) of version 1")]
    Structure,
    /// The key.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The subject.
    #[error("{0}")]
    CommonName(#[from] CommonNameError),
    /// A name beside the username.
    #[error(
        "the CSR asks for the alternative name {0}; ask for none: what is issued here speaks for its username alone"
    )]
    AlternativeName(String),
    /// To issue certificates or revocation lists.
    #[error("the CSR asks for a CA ({0}); leave that out: what is issued here is of a client")]
    Authority(&'static str),
    /// Asked for twice, or not as RFC 5280 writes it.
    #[error("the CSR asks for an extension twice, or for one that is malformed ({0})")]
    Extension(String),
    /// SHA-1 and the like, or one that does not belong to the key.
    #[error("the CSR is signed with {0}; sign it with SHA-256, SHA-384 or SHA-512, or with Ed25519, fitting its key")]
    SignatureAlgorithm(String),
    /// Not signed by the private key of the public key in it.
    #[error("the CSR's signature is not by the private key that belongs to its public key; make a new CSR")]
    Signature,
}

impl CsrError {
    /// A stable word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "csr_too_large",
            Self::Pem(_) | Self::Der(_) | Self::Structure | Self::Extension(_) => "csr_malformed",
            Self::Key(_) => "key_not_admitted",
            Self::CommonName(_) => "common_name",
            Self::AlternativeName(_) => "alternative_name",
            Self::Authority(_) => "ca_requested",
            Self::SignatureAlgorithm(_) | Self::Signature => "csr_signature",
        }
    }
}

/// A request whose sender holds the private key. Only the check makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCsr {
    username: Username,
    key: PublicKey,
    challenge_password: Option<String>,
    digest: [u8; 32],
}

impl VerifiedCsr {
    /// Checks a request in PEM: one `CERTIFICATE REQUEST` block.
    ///
    /// ```
    /// use portcullis::pki::{CsrError, VerifiedCsr};
    /// let refused = VerifiedCsr::from_pem(b"hello").unwrap_err();
    /// assert_eq!(refused.word(), "csr_malformed");
    /// ```
    pub fn from_pem(text: &[u8]) -> Result<Self, CsrError> {
        if text.len() > MAX_CSR_SIZE {
            return Err(CsrError::TooLarge(text.len()));
        }
        Self::from_der(&pem::only(text, "CERTIFICATE REQUEST")?)
    }

    /// Checks a request in DER.
    pub fn from_der(request: &[u8]) -> Result<Self, CsrError> {
        if request.len() > MAX_CSR_SIZE {
            return Err(CsrError::TooLarge(request.len()));
        }
        // INVARIANT: no parser sees what is nested without bound.
        der::check(request)?;
        let Ok(([], csr)) = X509CertificationRequest::from_der(request) else {
            return Err(CsrError::Structure);
        };
        let inner = &csr.certification_request_info;
        // RFC 2986 4.1: v1 is 0.
        if inner.version != X509Version(0) {
            return Err(CsrError::Structure);
        }
        if !inner.iter_attributes().all(is_read_whole) {
            return Err(CsrError::Structure);
        }
        let key = PublicKey::admit(&inner.subject_pki)?;
        let username = subject::username(&inner.subject)?;
        check_extensions(inner, &username)?;
        let algorithm = &csr.signature_algorithm.algorithm;
        let fitting: &[_] = match key.kind() {
            KeyKind::P256 | KeyKind::P384 => &[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384],
            KeyKind::Ed25519 => &[OID_SIG_ED25519],
            KeyKind::Rsa { .. } => {
                &[OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_PKCS1_RSASSAPSS]
            }
        };
        if !fitting.contains(algorithm) {
            return Err(CsrError::SignatureAlgorithm(key::name_of(algorithm)));
        }
        // Possession of the private key.
        csr.verify_signature().map_err(|_| CsrError::Signature)?;
        let mut challenges = inner.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
            ParsedCriAttribute::ChallengePassword(ChallengePassword(text)) => Some(text.clone()),
            _ => None,
        });
        // RFC 2985 5.4.1: a single value. Of two, readers could take different ones.
        let challenge_password = challenges.next().filter(|_| challenges.next().is_none());
        Ok(Self { username, key, challenge_password, digest: super::sha256(request) })
    }

    /// The common name.
    pub fn username(&self) -> &Username {
        &self.username
    }

    /// The key to certify.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the request, DER.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The challengePassword (PKCS#9, RFC 2985 5.4.1), where there is exactly one: signed with the rest.
    pub fn challenge_password(&self) -> Option<&str> {
        self.challenge_password.as_deref()
    }
}

/// Does the attribute hold no more than the one value that was read of it? RFC 2985 5.4.1 and 5.4.2: both kinds that are read are single-valued.
fn is_read_whole(attribute: &X509CriAttribute<'_>) -> bool {
    // The set, up to where reading has stopped.
    let whole = || {
        let set: Result<(&[u8], Header<'_>), asn1_rs::Err<asn1_rs::Error>> = Header::from_der(attribute.value);
        set.is_ok_and(|(read, set)| set.length().definite().is_ok_and(|length| length == read.len()))
    };
    matches!(attribute.parsed_attribute(), ParsedCriAttribute::UnsupportedAttribute) || whole()
}

/// Refuses what would give the certificate more authority than the profile does.
fn check_extensions(request: &X509CertificationRequestInfo<'_>, username: &Username) -> Result<(), CsrError> {
    let mut seen = Vec::new();
    let requested = request.iter_attributes().filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
        _ => None,
    });
    for extension in requested.flatten() {
        // RFC 5280 4.2: at most one of a kind.
        if seen.contains(&&extension.oid) {
            return Err(CsrError::Extension(key::name_of(&extension.oid)));
        }
        seen.push(&extension.oid);
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => return Err(CsrError::Extension(key::name_of(&extension.oid))),
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(CsrError::Authority("basicConstraints with CA:TRUE"));
            }
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() => {
                return Err(CsrError::Authority("keyUsage with keyCertSign"));
            }
            ParsedExtension::KeyUsage(usage) if usage.crl_sign() => {
                return Err(CsrError::Authority("keyUsage with cRLSign"));
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                // Some tools repeat the common name here: it says nothing new, and is not taken over either.
                let own =
                    |name: &&GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if *name == username.as_str());
                if let Some(other) = names.general_names.iter().find(|name| !own(name)) {
                    return Err(CsrError::AlternativeName(describe(other)));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// An alternative name for a message: its kind, and what it says, at most 80 characters of it.
fn describe(name: &GeneralName<'_>) -> String {
    let (kind, text) = match name {
        GeneralName::DNSName(name) => ("DNS", *name),
        GeneralName::RFC822Name(name) => ("email", *name),
        GeneralName::URI(name) => ("URI", *name),
        GeneralName::IPAddress(bytes) => return format!("`IP:{}`", super::hex(bytes.get(..16).unwrap_or(bytes))),
        GeneralName::DirectoryName(_) => return "of a directory entry".to_owned(),
        _ => return "of another kind".to_owned(),
    };
    format!("`{kind}:{}`", text.chars().take(80).map(|it| if it.is_control() { '?' } else { it }).collect::<String>())
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod attacks;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;

    fn request(name: DistinguishedName) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn named(value: impl Into<DnValue>) -> Vec<u8> {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, value);
        request(name)
    }

    fn refusal(pem: &[u8]) -> String {
        VerifiedCsr::from_pem(pem).unwrap_err().to_string()
    }

    #[test]
    fn every_admitted_kind_of_key_from_openssl_is_admitted() {
        for (pem, kind) in [
            (&include_bytes!("testdata/p256.csr.pem")[..], KeyKind::P256),
            (include_bytes!("testdata/p384.csr.pem"), KeyKind::P384),
            (include_bytes!("testdata/ed25519.csr.pem"), KeyKind::Ed25519),
            (include_bytes!("testdata/rsa2048.csr.pem"), KeyKind::Rsa { bits: 2048 }),
        ] {
            let csr = VerifiedCsr::from_pem(pem).unwrap();
            assert_eq!((csr.key().kind(), csr.username().as_str()), (kind, "press-7"));
        }
    }

    #[test]
    fn other_keys_are_refused_by_name() {
        for (pem, name) in [
            (&include_bytes!("testdata/p521.csr.pem")[..], "P-521"),
            (include_bytes!("testdata/k256.csr.pem"), "secp256k1"),
            (include_bytes!("testdata/rsa1024.csr.pem"), "RSA of 1024 bits"),
            (include_bytes!("testdata/rsae3.csr.pem"), "RSA with an exponent other than 65537"),
            (include_bytes!("testdata/rsapss.csr.pem"), "RSASSA-PSS"),
            (include_bytes!("testdata/ed448.csr.pem"), "Ed448"),
        ] {
            let message = refusal(pem);
            assert!(message.starts_with(&format!("a key of type {name} is not admitted")), "{message}");
        }
        assert!(refusal(include_bytes!("testdata/compressed.csr.pem")).contains("uncompressed"));
    }

    #[test]
    fn a_signature_with_sha1_is_refused() {
        assert!(matches!(
            VerifiedCsr::from_pem(include_bytes!("testdata/rsasha1.csr.pem")),
            Err(CsrError::SignatureAlgorithm(_))
        ));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let mut der = pem::only(include_bytes!("testdata/p256.csr.pem"), "CERTIFICATE REQUEST").unwrap();
        let at = der.windows(7).position(|window| window == b"press-7").unwrap();
        der[at..at + 7].copy_from_slice(b"press-8");
        assert_eq!(VerifiedCsr::from_der(&der), Err(CsrError::Signature));
    }

    #[test]
    fn a_subject_that_is_no_single_username_is_refused_by_name() {
        use CommonNameError as E;

        let error = |der: Vec<u8>| match VerifiedCsr::from_der(&der) {
            Err(CsrError::CommonName(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(error(request(DistinguishedName::new())), E::Missing);
        let mut two = DistinguishedName::new();
        two.push(DnType::CommonName, "press-7");
        two.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "victim1");
        assert_eq!(error(request(two)), E::Several(2));
        assert_eq!(error(named("")), E::Empty);
        assert_eq!(error(named("admin\0.evil")), E::Nul);
        assert!(matches!(error(named("a/#")), E::Name(_)));
        assert!(matches!(error(named("ab")), E::Name(_)));
        assert!(matches!(error(named("pr\u{435}ss")), E::Name(_)), "a Cyrillic letter");
        assert_eq!(error(named(DnValue::BmpString("press-7".try_into().unwrap()))), E::Encoding);
        assert_eq!(error(named(DnValue::TeletexString("press-7".try_into().unwrap()))), E::Encoding);
        assert_eq!(error(named(DnValue::Ia5String("press-7".try_into().unwrap()))), E::Encoding);
        assert_eq!(error(named(DnValue::UniversalString("press-7".try_into().unwrap()))), E::Encoding);
        assert!(VerifiedCsr::from_der(&named(DnValue::PrintableString("press-7".try_into().unwrap()))).is_ok());
    }

    /// RFC 2985 5.4.1: a single value. Neither the first nor the last of two is it, whichever a reader would take.
    #[test]
    fn of_two_challenge_passwords_neither_counts() {
        let key = KeyPair::generate().unwrap();
        let challenge = |texts: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "press-7");
            let attributes = texts.iter().map(|text| {
                let value = der::element(0x0c, &[text.as_bytes()]);
                rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: der::element(0x31, &[&value]) }
            });
            let request = params.serialize_request_with_attributes(&key, attributes.collect()).unwrap();
            VerifiedCsr::from_der(request.der()).unwrap().challenge_password().map(str::to_owned)
        };
        assert_eq!(challenge(&[]), None);
        assert_eq!(challenge(&["one"]).as_deref(), Some("one"));
        for two in [["one", "two"], ["two", "one"], ["one", "one"]] {
            assert_eq!(challenge(&two), None, "{two:?}");
        }
        assert_eq!(challenge(&["one", "two", "three"]), None);
    }

    /// What stands behind the first value of a set would be read by others.
    #[test]
    fn an_attribute_with_a_second_value_is_refused() {
        let key = KeyPair::generate().unwrap();
        let text = |text: &str| der::element(0x0c, &[text.as_bytes()]);
        let no_extensions = || der::element(0x30, &[]);
        let mut extended =
            [no_extensions(), der::element(0x30, &[&der::element(0x30, &[&[6, 3, 0x55, 0x1d, 0x0f, 4, 0]])])];
        extended.sort();
        let request = |oid: &'static [u64], values: &[Vec<u8>]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "press-7");
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let attribute = rcgen::Attribute { oid, values: der::element(0x31, &values) };
            let request = params.serialize_request_with_attributes(&key, vec![attribute]).unwrap();
            VerifiedCsr::from_der(request.der()).map(|csr| csr.challenge_password().map(str::to_owned))
        };
        let (challenge, extensions) = (&[1, 2, 840, 113_549, 1, 9, 7], &[1, 2, 840, 113_549, 1, 9, 14]);
        assert_eq!(request(challenge, &[text("one")]), Ok(Some("one".to_owned())));
        assert_eq!(request(challenge, &[text("one"), text("two")]), Err(CsrError::Structure));
        assert_eq!(request(extensions, &[no_extensions()]), Ok(None));
        assert_eq!(request(extensions, &extended), Err(CsrError::Structure));
    }

    #[test]
    fn texts_that_are_not_one_request_are_refused() {
        let good = include_str!("testdata/p256.csr.pem");
        assert!(VerifiedCsr::from_pem(format!("{good}{good}").as_bytes()).is_err());
        assert!(VerifiedCsr::from_pem(good.replace("CERTIFICATE REQUEST", "CERTIFICATE").as_bytes()).is_err());
        assert_eq!(VerifiedCsr::from_pem(&vec![b'-'; MAX_CSR_SIZE + 1]), Err(CsrError::TooLarge(MAX_CSR_SIZE + 1)));
        let mut der = pem::only(good.as_bytes(), "CERTIFICATE REQUEST").unwrap();
        der.push(0);
        assert_eq!(VerifiedCsr::from_der(&der), Err(CsrError::Der(DerError::Trailing)));
        assert!(VerifiedCsr::from_pem(good.replace('\n', "\r\n").as_bytes()).is_ok(), "CRLF is fine");
    }

    #[test]
    fn a_deep_request_does_not_exhaust_a_small_stack() {
        let mut der = vec![0x05, 0x00];
        while der.len() < MAX_CSR_SIZE - 8 {
            der = der::element(der::SEQUENCE, &[&der]);
        }
        let verdict = std::thread::Builder::new()
            .stack_size(128 * 1024)
            .spawn(move || VerifiedCsr::from_der(&der))
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(verdict, Err(CsrError::Der(DerError::Depth)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = VerifiedCsr::from_pem(&bytes);
            let _ = VerifiedCsr::from_der(&bytes);
        }

        #[test]
        fn a_changed_byte_is_refused_or_changes_nothing(at: prop::sample::Index, byte: u8) {
            let good = pem::only(include_bytes!("testdata/p256.csr.pem"), "CERTIFICATE REQUEST").unwrap();
            let mut der = good.clone();
            let at = at.index(der.len());
            der[at] = byte;
            // The count of unused bits of the signature is not signed; nothing else may change and pass.
            if let Ok(changed) = VerifiedCsr::from_der(&der) {
                // But for the digest, which is of all of it.
                let digest = *changed.digest();
                prop_assert_eq!(changed, VerifiedCsr { digest, ..VerifiedCsr::from_der(&good).unwrap() });
            }
        }
    }
}

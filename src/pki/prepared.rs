//! What is about to be signed, and the proof that it was.
//!
//! Entering: a verified request (or our own server's key and names), the issuer, a serial number, the time. Leaving:
//! a [`PreparedCertificate`], the exact bytes to sign; and, from its signature, an [`IssuedCertificate`].
//! Never: a field that the profile does not name. The bytes are written here and not by a certificate library because the issuer's name must be copied
//! byte for byte (libraries rebuild it and lose repeated attributes such as `DC=corp, DC=example`).

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::{IssuerCertificate, PublicKey, VerifiedCsr, der, issuer, pem, subject};
use crate::access::{CertificateRecord, Username};
use crate::clock::Duration;

/// `not_before` lies this far back, for devices whose clock is behind: 5 minutes.
pub const BACKDATE: Duration = Duration::from_mins(5);

/// Validity of a client certificate unless configured: 90 days.
pub const DEFAULT_VALIDITY: Duration = Duration::from_hours(90 * 24);

/// A drawn serial number of 128 bits (RFC 5280 4.1.2.2: positive, at most 20 octets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// From bytes of a random source.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        // Zero is not positive.
        if bytes == [0; 16] { Self([1; 16]) } else { Self(bytes) }
    }

    /// Lower-case hexadecimal of the shortest big-endian form, as `openssl x509 -serial` shows it but for the case.
    pub fn hex(&self) -> String {
        super::hex(der::strip_zeros(&self.0))
    }
}

/// A name of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerName {
    /// A host name of letters, digits, hyphens and dots.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// Why nothing can be prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The issuer's own time is over, or not yet come.
    #[error("the CA certificate is not valid at this time; renew the CA")]
    IssuerNotValid,
    /// Zero or out of range.
    #[error("the validity asked for is out of range")]
    Validity,
    /// Without a name no client can verify the server.
    #[error("a server certificate needs a name")]
    NoName,
    /// Not a host name.
    #[error("`{0}` is no host name")]
    HostName(String),
    /// Not a serial number of 1 to 20 octets.
    #[error("`{0}` is no serial number")]
    Serial(String),
    /// keyUsage of the issuer without cRLSign.
    #[error("the key usage of the CA certificate does not admit revocation lists (cRLSign); use a CA whose does")]
    CrlSign,
    /// What came back from the signer is not what was prepared: our fault, and nothing is handed out.
    #[error("the signed certificate differs from the prepared one in its {0}")]
    Differs(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    /// With the URI that names it too, if there is one.
    Client(Username, Option<String>),
    Server(Vec<ServerName>),
}

/// The exact bytes to sign. Redeemed once: [`super::Signer::sign`] consumes it.
#[derive(Debug)]
pub struct PreparedCertificate {
    tbs: Vec<u8>,
    subject: Subject,
    serial: SerialNumber,
    key: PublicKey,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl PreparedCertificate {
    /// A client certificate: CN = username, EKU clientAuth, keyUsage digitalSignature, not a CA; a URI that names the user, where the
    /// issuer has a prefix for those.
    pub fn client(
        csr: &VerifiedCsr,
        issuer: &IssuerCertificate,
        serial: SerialNumber,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Self, ProfileError> {
        let uri = issuer.uri_prefix().map(|prefix| prefix.uri(csr.username()));
        Self::prepare(Subject::Client(csr.username().clone(), uri), csr.key().clone(), issuer, serial, now, validity)
    }

    /// A certificate of the broker itself: EKU serverAuth, the names as subject alternative names.
    pub fn server(
        key: PublicKey,
        names: &[ServerName],
        issuer: &IssuerCertificate,
        serial: SerialNumber,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Self, ProfileError> {
        if names.is_empty() {
            return Err(ProfileError::NoName);
        }
        for name in names {
            if let ServerName::Dns(name) = name
                && !is_host_name(name)
            {
                return Err(ProfileError::HostName(name.clone()));
            }
        }
        Self::prepare(Subject::Server(names.to_vec()), key, issuer, serial, now, validity)
    }

    fn prepare(
        subject: Subject,
        key: PublicKey,
        issuer: &IssuerCertificate,
        serial: SerialNumber,
        now: Timestamp,
        validity: Duration,
    ) -> Result<Self, ProfileError> {
        let now = issuer::timestamp(now.as_second()).map_err(|_| ProfileError::Validity)?;
        if now < issuer.not_before() || issuer.not_after() <= now {
            return Err(ProfileError::IssuerNotValid);
        }
        let seconds = Duration::from_secs(validity.as_secs());
        if seconds.is_zero() {
            return Err(ProfileError::Validity);
        }
        let not_before = now.checked_sub(BACKDATE).map_err(|_| ProfileError::Validity)?.max(issuer.not_before());
        let not_after = now.checked_add(seconds).map_err(|_| ProfileError::Validity)?.min(issuer.not_after());
        let mut prepared = Self { tbs: Vec::new(), subject, serial, key, not_before, not_after };
        prepared.tbs = prepared.to_be_signed(issuer);
        Ok(prepared)
    }

    /// TBSCertificate, RFC 5280 4.1.
    fn to_be_signed(&self, issuer: &IssuerCertificate) -> Vec<u8> {
        let validity = der::element(der::SEQUENCE, &[&time(self.not_before), &time(self.not_after)]);
        let common_name = match &self.subject {
            Subject::Client(username, _) => Some(username.as_str()),
            // X.509 bounds a common name to 64 characters.
            Subject::Server(names) => names.iter().find_map(|name| match name {
                ServerName::Dns(name) if name.len() <= 64 => Some(name.as_str()),
                _ => None,
            }),
        };
        let subject = common_name.map_or_else(Vec::new, |name| {
            let attribute = der::element(
                der::SEQUENCE,
                &[&oid(b"\x55\x04\x03"), &der::element(der::UTF8_STRING, &[name.as_bytes()])],
            );
            der::element(der::SET, &[&attribute])
        });
        let mut extensions = vec![
            extension(b"\x55\x1d\x0e", false, &der::element(der::OCTET_STRING, &[&self.key.identifier()])),
            extension(
                b"\x55\x1d\x23",
                false,
                &der::element(der::SEQUENCE, &[&der::element(der::context(0), &[issuer.key_identifier()])]),
            ),
            // basicConstraints: cA is FALSE by default, and DER leaves defaults out.
            extension(b"\x55\x1d\x13", true, &der::element(der::SEQUENCE, &[])),
            // keyUsage: digitalSignature is bit 0; seven bits are unused.
            extension(b"\x55\x1d\x0f", true, &der::element(der::BIT_STRING, &[&[7, 0x80]])),
        ];
        let purpose: &[u8] = match self.subject {
            Subject::Client(..) => b"\x2b\x06\x01\x05\x05\x07\x03\x02",
            Subject::Server(_) => b"\x2b\x06\x01\x05\x05\x07\x03\x01",
        };
        extensions.push(extension(b"\x55\x1d\x25", false, &der::element(der::SEQUENCE, &[&oid(purpose)])));
        let names: Vec<Vec<u8>> = match &self.subject {
            Subject::Client(_, uri) => uri.iter().map(|uri| der::element(der::context(6), &[uri.as_bytes()])).collect(),
            Subject::Server(names) => names
                .iter()
                .map(|name| match name {
                    ServerName::Dns(name) => der::element(der::context(2), &[name.as_bytes()]),
                    ServerName::Address(IpAddr::V4(address)) => der::element(der::context(7), &[&address.octets()]),
                    ServerName::Address(IpAddr::V6(address)) => der::element(der::context(7), &[&address.octets()]),
                })
                .collect(),
        };
        if !names.is_empty() {
            // RFC 5280 4.2.1.6: critical when the subject is empty.
            extensions.push(extension(b"\x55\x1d\x11", common_name.is_none(), &sequence(&names)));
        }
        if let Some(url) = issuer.crl_url() {
            // RFC 5280 4.2.1.13: one DistributionPoint with fullName, a URI.
            let uri = der::element(der::context(6), &[url.as_bytes()]);
            let name =
                der::element(der::context_constructed(0), &[&der::element(der::context_constructed(0), &[&uri])]);
            extensions.push(extension(b"\x55\x1d\x1f", false, &sequence(&[der::element(der::SEQUENCE, &[&name])])));
        }
        der::element(
            der::SEQUENCE,
            &[
                &der::element(der::context_constructed(0), &[&der::unsigned(&[2])]),
                &der::unsigned(&self.serial.0),
                &issuer.signature_algorithm(),
                issuer.subject_der(),
                &validity,
                &der::element(der::SEQUENCE, &[&subject]),
                self.key.spki_der(),
                &der::element(der::context_constructed(3), &[&sequence(&extensions)]),
            ],
        )
    }

    /// The bytes to sign.
    pub(super) fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// Puts the signature under the bytes, then reads the result as a stranger would and compares it with what was
    /// prepared, signature included. This is the last check before a certificate leaves the house.
    pub(super) fn redeem(
        self,
        signature: &[u8],
        issuer: &IssuerCertificate,
    ) -> Result<IssuedCertificate, ProfileError> {
        let certificate =
            der::element(der::SEQUENCE, &[&self.tbs, &issuer.signature_algorithm(), &der::bit_string(signature)]);
        self.compare(&certificate, issuer)?;
        let fingerprint = super::hex(&super::sha256(&certificate));
        let pem = pem::encode("CERTIFICATE", &certificate);
        Ok(IssuedCertificate {
            der: certificate,
            pem,
            serial: self.serial.hex(),
            fingerprint,
            issuer: issuer.id(),
            key: self.key.fingerprint(),
            not_before: self.not_before,
            not_after: self.not_after,
        })
    }

    fn compare(&self, certificate: &[u8], issuer: &IssuerCertificate) -> Result<(), ProfileError> {
        let holds = |it: bool, what| if it { Ok(()) } else { Err(ProfileError::Differs(what)) };
        let structure = ProfileError::Differs("structure");
        der::check(certificate).map_err(|_| structure.clone())?;
        let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| structure.clone())?;
        holds(rest.is_empty() && parsed.version() == X509Version::V3, "version")?;
        holds(issuer.has_issued(certificate), "signature")?;
        holds(parsed.tbs_certificate.as_ref() == self.tbs, "content")?;
        holds(der::strip_zeros(parsed.raw_serial()) == der::strip_zeros(&self.serial.0), "serial number")?;
        holds(parsed.public_key().raw == self.key.spki_der(), "public key")?;
        holds(
            parsed.validity().not_before.timestamp() == self.not_before.as_second()
                && parsed.validity().not_after.timestamp() == self.not_after.as_second(),
            "validity",
        )?;
        let constraints = parsed.basic_constraints().map_err(|_| structure.clone())?;
        holds(constraints.is_some_and(|it| it.critical && !it.value.ca), "basic constraints")?;
        let usage = parsed.key_usage().map_err(|_| structure.clone())?;
        holds(usage.is_some_and(|it| it.critical && it.value.flags == 1), "key usage")?;
        let purpose = parsed.extended_key_usage().map_err(|_| structure.clone())?.ok_or(structure.clone())?.value;
        holds(
            !purpose.any
                && match self.subject {
                    Subject::Client(..) => purpose.client_auth && !purpose.server_auth,
                    Subject::Server(_) => purpose.server_auth && !purpose.client_auth,
                },
            "extended key usage",
        )?;
        let mut authority = None;
        for extension in parsed.iter_extensions() {
            if let ParsedExtension::AuthorityKeyIdentifier(identifier) = extension.parsed_extension() {
                authority = identifier.key_identifier.as_ref().map(|it| it.0);
            }
        }
        holds(authority == Some(issuer.key_identifier()), "authority key identifier")?;
        match &self.subject {
            Subject::Client(username, uri) => {
                holds(subject::username(parsed.subject()).as_ref() == Ok(username), "subject")?;
                let names = parsed.subject_alternative_name().map_err(|_| structure)?;
                let names = names.map_or_else(Vec::new, |it| it.value.general_names.iter().collect());
                let own: Vec<_> = uri.iter().map(|uri| GeneralName::URI(uri)).collect();
                holds(names == own.iter().collect::<Vec<_>>(), "alternative names")
            }
            Subject::Server(names) => holds(alternative_names(&parsed).as_ref() == Some(names), "alternative names"),
        }
    }
}

/// A certificate that was signed, read again and found equal to what was prepared.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    der: Vec<u8>,
    pem: String,
    serial: String,
    fingerprint: String,
    issuer: String,
    key: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedCertificate({}, until {})", self.serial, self.not_after)
    }
}

impl IssuedCertificate {
    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// End of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// What a user's record keeps of it.
    pub fn record(&self) -> CertificateRecord {
        CertificateRecord {
            serial: self.serial.clone(),
            fingerprint: self.fingerprint.clone(),
            key: Some(self.key.clone()),
            not_before: self.not_before,
            not_after: self.not_after,
            revoked_at: None,
            reason: None,
            comment: None,
            issuer: Some(self.issuer.clone()),
            replaces: None,
        }
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63, RFC 1123; at most 253 characters.
pub(super) fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// The DNS names and addresses of a certificate; `None` when there are none, or others.
pub(super) fn alternative_names(certificate: &X509Certificate<'_>) -> Option<Vec<ServerName>> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => Some(ServerName::Dns((*name).to_owned())),
            GeneralName::IPAddress(bytes) => {
                let address = match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(four), _) => IpAddr::from(four),
                    (_, Ok(sixteen)) => IpAddr::from(sixteen),
                    _ => return None,
                };
                Some(ServerName::Address(address))
            }
            _ => None,
        })
        .collect()
}

pub(super) fn oid(content: &[u8]) -> Vec<u8> {
    der::element(der::OID, &[content])
}

pub(super) fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    der::element(der::SEQUENCE, &elements.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

pub(super) fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::element(der::BOOLEAN, &[&[0xff]]) } else { Vec::new() };
    der::element(der::SEQUENCE, &[&oid(id), &critical, &der::element(der::OCTET_STRING, &[value])])
}

/// RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, both in seconds and Zulu.
pub(super) fn time(at: Timestamp) -> Vec<u8> {
    let utc = at.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let rest = utc.strftime("%m%d%H%M%SZ");
    let year = utc.year();
    if (1950..2050).contains(&year) {
        der::element(der::UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])
    } else {
        der::element(der::GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{CertificateAuthority, Profile, Signer as _};

    /// A CSR of `press-7`.
    const CSR: &[u8] = include_bytes!("testdata/p256.csr.pem");

    #[test]
    fn what_was_signed_must_be_what_was_prepared() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let prefix = || Some("urn:example:".to_owned().try_into().unwrap());
        let plain = CertificateAuthority::generate(now).unwrap();
        let csr = VerifiedCsr::from_pem(CSR).unwrap();
        let named = CertificateAuthority::generate(now)
            .unwrap()
            .with_profile(&Profile { uri_prefix: prefix(), ..Profile::default() });
        let signed = |ca: &CertificateAuthority, change: &dyn Fn(&mut PreparedCertificate)| {
            let serial = ca.draw_serial().unwrap();
            let mut prepared =
                PreparedCertificate::client(&csr, ca.issuer(), serial, now, Duration::from_hours(1)).unwrap();
            change(&mut prepared);
            ca.sign(prepared).map(|_| ()).map_err(|error| error.to_string())
        };
        let press = || csr.username().clone();
        let uri = |text: &str| Some(text.to_owned());
        let differs = |what| Err(ProfileError::Differs(what).to_string());
        assert_eq!(signed(&plain, &|_| {}), Ok(()));
        assert_eq!(signed(&named, &|it| it.subject = Subject::Client(press(), uri("urn:example:press-7"))), Ok(()));
        for other in [None, uri("urn:example:press-8"), uri("urn:example:press-7/"), uri("")] {
            let change = |it: &mut PreparedCertificate| it.subject = Subject::Client(press(), other.clone());
            assert_eq!(signed(&named, &change), differs("alternative names"), "{other:?}");
        }
        let asked_for =
            |it: &mut PreparedCertificate| it.subject = Subject::Client(press(), uri("urn:example:press-7"));
        assert_eq!(signed(&plain, &asked_for), differs("alternative names"));
        let renamed = |it: &mut PreparedCertificate| it.subject = Subject::Client("press-8".parse().unwrap(), None);
        assert_eq!(signed(&plain, &renamed), differs("subject"));
        let later = |it: &mut PreparedCertificate| it.not_after += Duration::from_secs(1);
        assert_eq!(signed(&plain, &later), differs("validity"));
        assert_eq!(signed(&plain, &|it| it.serial = SerialNumber([7; 16])), differs("serial number"));
        assert_eq!(signed(&plain, &|it| it.tbs.push(0)), differs("structure"));
    }
}

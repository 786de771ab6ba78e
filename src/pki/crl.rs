//! Revocation lists (RFC 5280 5): what is about to be signed, and the proof that it was.
//!
//! Entering: revoked certificates one by one, the issuer, a number, the time. Leaving: a [`PreparedCrl`], the exact bytes to
//! sign; and, from its signature, a [`Crl`]. The bytes are written here, as those of certificates are, because the issuer's
//! name must be copied byte for byte, and because a list of a million entries is written once, into one buffer of about
//! 50 bytes an entry. Never: extensions that the profile does not name.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use x509_parser::asn1_rs::BitString;
use x509_parser::prelude::FromDer;
use x509_parser::verify::verify_signature;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::prepared::{extension, sequence, time};
use super::{IssuerCertificate, ProfileError, der};
use crate::access::RevocationReason;

/// The entries of a list that is being written.
#[derive(Debug, Default)]
pub struct CrlEntries {
    der: Vec<u8>,
    count: u64,
}

impl CrlEntries {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a certificate: serial number in hexadecimal, when it was revoked, and why.
    ///
    /// # Errors
    /// [`ProfileError::Serial`].
    pub fn push(&mut self, serial: &str, at: Timestamp, reason: RevocationReason) -> Result<(), ProfileError> {
        let bytes = super::unhex(serial).filter(|bytes| (1..=20).contains(&bytes.len()));
        let bytes = bytes.ok_or_else(|| ProfileError::Serial(serial.chars().take(80).collect()))?;
        // RFC 5280 5.3.1: no extension rather than `unspecified`.
        let extensions = match reason {
            RevocationReason::Unspecified => Vec::new(),
            reason => {
                let value = der::element(der::ENUMERATED, &[&[reason.code()]]);
                sequence(&[extension(b"\x55\x1d\x15", false, &value)])
            }
        };
        let entry = der::element(der::SEQUENCE, &[&der::unsigned(&bytes), &time(at), &extensions]);
        self.der.extend_from_slice(&entry);
        self.count += 1;
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// The exact bytes to sign. Redeemed once: [`super::Signer::sign_crl`] consumes it.
pub struct PreparedCrl {
    tbs: Vec<u8>,
    issuer: String,
    number: u64,
    entries: u64,
    this_update: Timestamp,
    next_update: Timestamp,
}

impl fmt::Debug for PreparedCrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedCrl({}, {} entries)", self.number, self.entries)
    }
}

impl PreparedCrl {
    /// The list of the issuer with this number. It promises the next one by `next_update`, or by the end of the issuer.
    ///
    /// # Errors
    /// [`ProfileError::CrlSign`] when the issuer's key usage does not admit lists; [`ProfileError::IssuerNotValid`];
    /// [`ProfileError::Validity`] when `next_update` is not later than now.
    pub fn new(
        entries: CrlEntries,
        issuer: &IssuerCertificate,
        number: u64,
        now: Timestamp,
        next_update: Timestamp,
    ) -> Result<Self, ProfileError> {
        if !issuer.signs_crls() {
            return Err(ProfileError::CrlSign);
        }
        if now < issuer.not_before() || issuer.not_after() <= now {
            return Err(ProfileError::IssuerNotValid);
        }
        let second = |at: Timestamp| Timestamp::from_second(at.as_second()).map_err(|_| ProfileError::Validity);
        let (this_update, next_update) = (second(now)?, second(next_update.min(issuer.not_after()))?);
        if next_update <= this_update {
            return Err(ProfileError::Validity);
        }
        let CrlEntries { der: entries, count } = entries;
        // RFC 5280 5.1.2.6: absent when there is none.
        let revoked = if count == 0 { Vec::new() } else { der::element(der::SEQUENCE, &[&entries]) };
        drop(entries);
        let key_identifier = der::element(der::context(0), &[issuer.key_identifier()]);
        let extensions = [
            extension(b"\x55\x1d\x23", false, &der::element(der::SEQUENCE, &[&key_identifier])),
            extension(b"\x55\x1d\x14", false, &der::unsigned(&number.to_be_bytes())),
        ];
        let tbs = der::element(
            der::SEQUENCE,
            &[
                // RFC 5280 5.1.2.1: version 2 is 1.
                &der::unsigned(&[1]),
                &issuer.signature_algorithm(),
                issuer.subject_der(),
                &time(this_update),
                &time(next_update),
                &revoked,
                &der::element(der::context_constructed(0), &[&sequence(&extensions)]),
            ],
        );
        Ok(Self { tbs, issuer: issuer.id(), number, entries: count, this_update, next_update })
    }

    /// By when there must be another one.
    pub fn next_update(&self) -> Timestamp {
        self.next_update
    }

    /// Key identifier of who is to sign it, lower-case hexadecimal.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The bytes to sign.
    pub(super) fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// Puts the signature under the bytes, and verifies it with the issuer's certificate as a stranger would.
    pub(super) fn redeem(self, signature: &[u8], issuer: &IssuerCertificate) -> Result<Crl, ProfileError> {
        if self.issuer != issuer.id() {
            return Err(ProfileError::Differs("issuer"));
        }
        let algorithm = issuer.signature_algorithm();
        let structure = |_| ProfileError::Differs("structure");
        let (_, spki) = SubjectPublicKeyInfo::from_der(issuer.key().spki_der()).map_err(structure)?;
        let (_, parsed) = AlgorithmIdentifier::from_der(&algorithm).map_err(structure)?;
        verify_signature(&spki, &parsed, &BitString::new(0, signature), &self.tbs)
            .map_err(|_| ProfileError::Differs("signature"))?;
        let Self { tbs, issuer, number, entries, this_update, next_update } = self;
        let der = der::element(der::SEQUENCE, &[&tbs, &algorithm, &der::bit_string(signature)]);
        Ok(Crl { der: der.into(), issuer, number, entries, this_update, next_update })
    }
}

/// A revocation list that was signed and verified. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    der: Arc<[u8]>,
    issuer: String,
    number: u64,
    entries: u64,
    this_update: Timestamp,
    next_update: Timestamp,
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl({}, {} entries, until {})", self.number, self.entries, self.next_update)
    }
}

impl Crl {
    /// The list, DER.
    pub fn der(&self) -> &Arc<[u8]> {
        &self.der
    }

    /// Key identifier of its issuer, lower-case hexadecimal.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its number: each list of an issuer has a higher one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many certificates are on it.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// When it was made.
    pub fn this_update(&self) -> Timestamp {
        self.this_update
    }

    /// By when there is another one; readers refuse it from then on.
    pub fn next_update(&self) -> Timestamp {
        self.next_update
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::revocation_list::CertificateRevocationList;

    use super::super::{CertificateAuthority, Signer};
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn list(ca: &CertificateAuthority, entries: CrlEntries, number: u64) -> Crl {
        let (now, next) = (time("2026-03-01T10:00:00Z"), time("2026-03-08T10:00:00Z"));
        ca.sign_crl(PreparedCrl::new(entries, ca.issuer(), number, now, next).unwrap()).unwrap()
    }

    #[test]
    fn a_list_has_version_2_number_authority_and_reasons_and_verifies() {
        let ca = CertificateAuthority::generate(time("2026-01-01T00:00:00Z")).unwrap();
        let mut entries = CrlEntries::new();
        entries.push("01ab", time("2026-02-01T00:00:00Z"), RevocationReason::KeyCompromise).unwrap();
        entries.push("ff00", time("2026-02-02T00:00:00Z"), RevocationReason::Unspecified).unwrap();
        let crl = list(&ca, entries, 300);
        let (rest, parsed) = CertificateRevocationList::from_der(crl.der()).unwrap();
        assert!(rest.is_empty());
        assert_eq!(parsed.version().unwrap().0, 1);
        assert_eq!(parsed.issuer().as_raw(), ca.issuer().subject_der());
        assert_eq!(parsed.crl_number().map(ToString::to_string).as_deref(), Some("300"));
        assert_eq!(parsed.last_update().timestamp(), crl.this_update().as_second());
        assert_eq!(parsed.next_update().unwrap().timestamp(), crl.next_update().as_second());
        let found: Vec<_> = parsed
            .iter_revoked_certificates()
            .map(|it| (it.raw_serial().to_vec(), it.reason_code().map(|(_, reason)| reason.0)))
            .collect();
        assert_eq!(found, [(vec![1, 0xab], Some(1)), (vec![0, 0xff, 0], None)]);
        let (_, own) = x509_parser::parse_x509_certificate(ca.issuer().der()).unwrap();
        parsed.verify_signature(own.public_key()).unwrap();
        let ids: Vec<_> = parsed.extensions().iter().map(|it| (it.oid.to_id_string(), it.critical)).collect();
        assert_eq!(ids, [("2.5.29.35".to_owned(), false), ("2.5.29.20".to_owned(), false)]);
    }

    #[test]
    fn an_empty_list_has_no_empty_sequence_of_entries() {
        let ca = CertificateAuthority::generate(time("2026-01-01T00:00:00Z")).unwrap();
        let crl = list(&ca, CrlEntries::new(), 1);
        let (_, parsed) = CertificateRevocationList::from_der(crl.der()).unwrap();
        assert!(parsed.tbs_cert_list.revoked_certificates.is_empty());
        // RFC 5280 5.1.2.6: right after nextUpdate come the extensions.
        let end = b"260308100000Z";
        let at = crl.der().windows(end.len()).position(|window| window == end).unwrap();
        assert_eq!(crl.der().get(at + end.len()), Some(&0xa0));
    }

    #[test]
    fn no_list_outlives_its_issuer_and_none_is_made_without_time_or_with_a_serial_that_is_none() {
        let ca = CertificateAuthority::generate(time("2026-01-01T00:00:00Z")).unwrap();
        let end = ca.issuer().not_after();
        let far = time("2099-01-01T00:00:00Z");
        let crl = PreparedCrl::new(CrlEntries::new(), ca.issuer(), 1, time("2026-03-01T10:00:00Z"), far).unwrap();
        assert_eq!(crl.next_update, end);
        let refused = |now, next| PreparedCrl::new(CrlEntries::new(), ca.issuer(), 1, now, next).unwrap_err();
        assert_eq!(refused(end, far), ProfileError::IssuerNotValid);
        let now = time("2026-03-01T10:00:00Z");
        assert_eq!(refused(now, now), ProfileError::Validity);
        let mut entries = CrlEntries::new();
        for serial in ["", "0", "xy", &"ab".repeat(21)] {
            assert!(entries.push(serial, now, RevocationReason::Superseded).is_err(), "{serial}");
        }
    }

    #[test]
    fn a_list_signed_by_another_key_never_leaves_the_house() {
        let now = time("2026-03-01T10:00:00Z");
        let [one, other] = [(); 2].map(|()| CertificateAuthority::generate(now).unwrap());
        let next = time("2026-03-08T10:00:00Z");
        let prepared = PreparedCrl::new(CrlEntries::new(), one.issuer(), 1, now, next).unwrap();
        assert!(other.sign_crl(prepared).is_err());
    }
}

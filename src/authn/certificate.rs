//! What a client certificate that TLS has verified says about a user.
//!
//! Enters: the certificate's identity, validity and fingerprint, the anchor that its chain ends in, the user that it names,
//! and the time. Leaves: a proof, or why it is none. It never verifies a chain (TLS did, at the handshake), and a handshake
//! carries no authority: all that can change is asked again at every CONNECT and at every change of the user.

use jiff::Timestamp;

use super::{Cause, Users};
use crate::access::{User, Username, UsernamePattern};
use crate::pki::{Naming, NamingError, PeerCertificate};

/// A client certificate of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The identity that its subject CN, or its SAN URI, is; or why that is not exactly one username.
    pub username: Result<Username, NamingError>,
    /// SHA-256 of the DER, lower-case hexadecimal, as in [`CertificateRecord`](crate::access::CertificateRecord).
    pub fingerprint: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Whose word it is.
    pub anchor: Anchor,
    /// The CAs on its way to the anchor, the anchor included, by key identifier (lower-case hexadecimal), and maybe others that were sent
    /// along: if one of them is revoked, it proves nothing.
    pub issuers: Vec<String>,
}

/// What the chain of a certificate ends in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The broker's own CA, which keeps a record of all that it issued.
    Own,
    /// A further anchor of broker.toml, good for these names only.
    Extra(UsernamePattern),
}

impl ClientCertificate {
    /// What a certificate says, on the word of this anchor.
    pub(super) fn under(anchor: Anchor, naming: &Naming, certificate: &PeerCertificate, issuers: Vec<String>) -> Self {
        Self {
            username: certificate.username(naming),
            fingerprint: certificate.fingerprint().to_owned(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            anchor,
            issuers,
        }
    }

    /// Does it prove, now, to be this user? Whether the user's `auth` admits certificates is not asked here, nor whether
    /// the user is enabled.
    pub(super) fn proves(&self, users: &(impl Users + ?Sized), user: &User, now: Timestamp) -> Result<(), Cause> {
        // RFC 5280 4.1.2.5: both ends are included.
        if now < self.not_before || now > self.not_after {
            return Err(Cause::CertificateExpired);
        }
        if self.issuers.iter().any(|issuer| users.is_issuer_revoked(issuer)) {
            return Err(Cause::CertificateRevoked);
        }
        let record = user.certificates.iter().find(|record| record.fingerprint == self.fingerprint);
        match (&self.anchor, record) {
            (_, Some(record)) if users.is_revoked(record) => Err(Cause::CertificateRevoked),
            (Anchor::Own, None) => Err(Cause::CertificateNotOnRecord),
            (Anchor::Own, Some(_)) => Ok(()),
            (Anchor::Extra(names), record) => {
                if !self.username.as_ref().is_ok_and(|name| names.matches(name)) {
                    Err(Cause::CertificateNameNotAdmitted)
                } else if record.is_none() && users.administers(user) {
                    Err(Cause::CertificateNotOnRecord)
                } else {
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Snapshot, certificate, record, time, user};
    use super::*;
    use crate::access::CertificateRecord;

    fn pattern(text: &str) -> UsernamePattern {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn an_issued_certificate_must_be_on_record_for_that_user() {
        let certificate = certificate("device", "aa");
        let owner = User { certificates: vec![record("aa")], ..user("device") };
        assert_eq!(certificate.proves(&Snapshot::default(), &owner, time(50)), Ok(()));
        // Deleted and made again under the same name: the later one inherits nothing.
        assert_eq!(
            certificate.proves(&Snapshot::default(), &user("device"), time(50)),
            Err(Cause::CertificateNotOnRecord)
        );
        let other = User { certificates: vec![record("bb")], ..user("device") };
        assert_eq!(certificate.proves(&Snapshot::default(), &other, time(50)), Err(Cause::CertificateNotOnRecord));
    }

    #[test]
    fn a_revoked_certificate_proves_nothing_whoever_issued_it() {
        let revoked = CertificateRecord { revoked_at: Some(time(90)), ..record("aa") };
        let user = User { certificates: vec![revoked], ..user("device") };
        let mut certificate = certificate("device", "aa");
        assert_eq!(certificate.proves(&Snapshot::default(), &user, time(50)), Err(Cause::CertificateRevoked));
        certificate.anchor = Anchor::Extra(pattern("*"));
        assert_eq!(certificate.proves(&Snapshot::default(), &user, time(50)), Err(Cause::CertificateRevoked));
    }

    #[test]
    fn outside_its_validity_a_certificate_proves_nothing() {
        let user = User { certificates: vec![record("aa")], ..user("device") };
        let certificate = certificate("device", "aa");
        for (at, verdict) in
            [(0, Ok(())), (-1, Err(Cause::CertificateExpired)), (100, Ok(())), (101, Err(Cause::CertificateExpired))]
        {
            assert_eq!(certificate.proves(&Snapshot::default(), &user, time(at)), verdict, "{at}");
        }
    }

    #[test]
    fn an_extra_anchor_is_good_for_its_names_and_never_for_an_admin_that_has_not_pinned_it() {
        let mut certificate = certificate("partner-1", "aa");
        certificate.anchor = Anchor::Extra(pattern("partner-*"));
        assert_eq!(certificate.proves(&Snapshot::default(), &user("partner-1"), time(50)), Ok(()));
        let admin = User { roles: vec!["admin".parse().unwrap()], ..user("partner-1") };
        assert_eq!(certificate.proves(&Snapshot::default(), &admin, time(50)), Err(Cause::CertificateNotOnRecord));
        let pinned = User { certificates: vec![record("aa")], ..admin };
        assert_eq!(certificate.proves(&Snapshot::default(), &pinned, time(50)), Ok(()));
        certificate.anchor = Anchor::Extra(pattern("other-*"));
        assert_eq!(certificate.proves(&Snapshot::default(), &pinned, time(50)), Err(Cause::CertificateNameNotAdmitted));
    }
}

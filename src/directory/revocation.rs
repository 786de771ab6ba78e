//! What outlives a certificate that is good no more: what the revocation lists must tell until its time is over, and which
//! issuers are revoked as a whole.
//!
//! Entering: a user before and after a transaction. Leaving: records in the batch of that transaction, so that a certificate is
//! never out of force here and still good for who reads the list, deleted users included. A certificate without an issuer on
//! record was not made here: no list of ours is about it.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Directory, DirectoryError};
use crate::access::{CertificateRecord, RevocationReason, User};
use crate::store::{Batch, Store, StoreError, Table};

/// By `issuer/serial`, both lower-case hexadecimal: when it was revoked, why, and when it would have expired. Few bytes, for
/// there may be millions.
pub(super) const REVOKED: Table<String, (i64, u8, i64)> = Table::new("revoked_certificates", 1);

/// By key identifier, lower-case hexadecimal.
pub(super) const REVOKED_ISSUERS: Table<String, RevokedIssuer> = Table::new("revoked_issuers", 1);

/// Records that one look at the store takes: what else wants the store never waits for more.
const PAGE: usize = 1024;

/// A certificate that is out of force before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// When.
    pub revoked_at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
    /// When it would have ended.
    pub not_after: Timestamp,
}

/// An issuer none of whose certificates is good any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedIssuer {
    /// When.
    pub revoked_at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
    /// In the words of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Directory {
    /// Calls `each` with every revoked certificate of the issuer (key identifier, lower-case hexadecimal) that is kept for its
    /// revocation list. Reads in pages, and blocks no commit; one that comes meanwhile may be among them or not.
    ///
    /// # Errors
    /// [`DirectoryError::Store`].
    pub fn revoked(&self, issuer: &str, mut each: impl FnMut(RevokedCertificate)) -> Result<(), DirectoryError> {
        // `0` is what follows `/`.
        let end = Bound::Excluded(format!("{issuer}0"));
        let mut start = Bound::Included(format!("{issuer}/"));
        loop {
            let page = REVOKED.page(self.store(), (start, end.clone()), PAGE)?;
            for (key, value) in &page.records {
                each(revoked(key, *value)?);
            }
            match page.records.into_iter().last() {
                Some((last, _)) if page.more => start = Bound::Excluded(last),
                _ => return Ok(()),
            }
        }
    }

    /// Removes certificates of the issuer from what is kept for its revocation list: those whose time was over before `before`,
    /// which every reader has seen on a list of after it. Says how many. Blocks.
    ///
    /// # Errors
    /// [`DirectoryError::Store`].
    pub fn forget_revoked(&self, issuer: &str, before: Timestamp) -> Result<usize, DirectoryError> {
        let mut over = Vec::new();
        self.revoked(issuer, |certificate| {
            if certificate.not_after < before {
                over.push(certificate.serial);
            }
        })?;
        for serials in over.chunks(PAGE) {
            let mut batch = Batch::new();
            for serial in serials {
                batch.delete(&REVOKED, &key(issuer, serial))?;
            }
            self.store().commit(batch)?;
        }
        Ok(over.len())
    }

    /// The issuers that are revoked as a whole, by key identifier.
    ///
    /// # Errors
    /// [`DirectoryError::Store`].
    pub fn revoked_issuers(&self) -> Result<BTreeMap<String, RevokedIssuer>, DirectoryError> {
        Ok(load_issuers(self.store())?)
    }
}

pub(super) fn load_issuers(store: &dyn Store) -> Result<BTreeMap<String, RevokedIssuer>, StoreError> {
    REVOKED_ISSUERS.iter(store).collect()
}

/// Puts the certificates that were good for `old` and are not for `new` (`None`: the user is gone) on record. Says how many.
pub(super) fn keep(batch: &mut Batch, old: &User, new: Option<&User>, now: Timestamp) -> Result<usize, StoreError> {
    let mut kept = 0;
    for certificate in old.certificates.iter().filter(|certificate| certificate.revoked_at.is_none()) {
        let after = new.and_then(|new| find(new, certificate));
        let (at, reason) = match after {
            Some(CertificateRecord { revoked_at: None, .. }) => continue,
            Some(CertificateRecord { revoked_at: Some(at), reason, .. }) => (*at, reason.unwrap_or_default()),
            None => (now, RevocationReason::CessationOfOperation),
        };
        if let Some(issuer) = certificate.issuer.as_deref().filter(|_| certificate.not_after >= now) {
            let value = (at.as_second(), reason.code(), certificate.not_after.as_second());
            batch.put(&REVOKED, &key(issuer, &certificate.serial), &value)?;
        }
        kept += 1;
    }
    Ok(kept)
}

/// A certificate of `old` that is revoked there and not in `new`: there is no way back. RFC 5280 5.3.1 has one from
/// certificateHold alone, which is not among our reasons.
pub(super) fn restored<'a>(old: &'a User, new: &User) -> Option<&'a CertificateRecord> {
    let revoked = old.certificates.iter().filter(|certificate| certificate.revoked_at.is_some());
    revoked.into_iter().find(|certificate| find(new, certificate).is_some_and(|it| it.revoked_at.is_none()))
}

fn find<'a>(user: &'a User, certificate: &CertificateRecord) -> Option<&'a CertificateRecord> {
    user.certificates.iter().find(|other| other.fingerprint == certificate.fingerprint)
}

fn key(issuer: &str, serial: &str) -> String {
    format!("{issuer}/{serial}")
}

fn revoked(key: &str, (at, code, not_after): (i64, u8, i64)) -> Result<RevokedCertificate, StoreError> {
    let corrupt =
        |reason: &str| StoreError::Corrupt { table: REVOKED.name(), key: key.to_owned(), reason: reason.to_owned() };
    let time = |second| Timestamp::from_second(second).map_err(|_| corrupt("a time is out of range"));
    let (_, serial) = key.split_once('/').ok_or_else(|| corrupt("its key has another form"))?;
    Ok(RevokedCertificate {
        serial: serial.to_owned(),
        revoked_at: time(at)?,
        reason: RevocationReason::of_code(code),
        not_after: time(not_after)?,
    })
}

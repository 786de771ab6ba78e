//! A new certificate for an identity that exists: who may have one, what it replaces, and when that is retired.
//!
//! Entering: a CSR and what proves the old certificate, the users. Leaving: a [`RenewVerdict`]; users with other certificates.
//! INVARIANT: at most two certificates of one line are good at once: the one that was used last, and the newest, which has not
//! been used yet. Never: anything but certificates changes; a name, a role, another proof.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::Now;
use super::super::invitation::renewal_due;
use super::super::nonce::{Binding, NonceFault, NonceId};
use super::examine::stale;
use super::{Change, Core};
use crate::access::{Auth, CertificateRecord, ManagedBy, RevocationReason, User, UserId, Username};
use crate::authn::Users;
use crate::clock::Duration;

/// Certificates of one user on record, those included that are revoked and not long over. With so many, none is renewed.
pub(in crate::registry) const MAX_ON_RECORD: usize = 64;

/// How long after its end a revoked certificate stays on record: it must be in one CRL more (RFC 5280 3.3).
const AFTER_END: Duration = Duration::from_hours(24);

/// The newest certificate that a user got by renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::registry) struct Renewal {
    /// Its serial number.
    pub(in crate::registry) serial: String,
    /// SHA-256 of the CSR that it was made for, hexadecimal.
    pub(in crate::registry) csr: String,
}

/// What proves the identity whose certificate is to be renewed.
pub(in crate::registry) enum Claim<'a> {
    /// The session that asks: whose it is, and the certificate that it was proven with.
    Session { user: UserId, serial: Option<&'a str> },
    /// A signature by the key of this certificate, already verified, over this nonce.
    Lapsed { username: &'a Username, fingerprint: &'a str, nonce: Option<&'a str>, binding: Binding },
}

/// One message.
pub(in crate::registry) struct RenewAsk<'a> {
    pub(in crate::registry) claim: Claim<'a>,
    /// The common name of the CSR.
    pub(in crate::registry) username: &'a Username,
    /// The fingerprint of its key.
    pub(in crate::registry) key: &'a str,
    /// SHA-256 of it, hexadecimal.
    pub(in crate::registry) csr: &'a str,
    /// The CA that issues now.
    pub(in crate::registry) issuer: &'a str,
}

/// What becomes of it.
#[derive(Debug, PartialEq)]
pub(in crate::registry) enum RenewVerdict {
    /// The newest certificate of this user was made for this very CSR.
    Same {
        user: Arc<User>,
        record: CertificateRecord,
        nonce: Option<NonceId>,
    },
    /// To be signed, in place of the certificate with this serial number.
    Issue {
        user: Arc<User>,
        replaces: String,
        nonce: Option<NonceId>,
    },
    Refused(RenewRefused),
}

impl RenewVerdict {
    /// What it would spend.
    pub(in crate::registry) fn nonce(&self) -> Option<NonceId> {
        match self {
            Self::Same { nonce, .. } | Self::Issue { nonce, .. } => *nonce,
            Self::Refused(_) => None,
        }
    }
}

/// Why there is no new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum RenewRefused {
    /// The user is gone.
    NotAuthenticated,
    /// The user's `auth` admits no certificates.
    NotAdmitted,
    /// The session was proven without one.
    NoCertificate,
    /// It was issued elsewhere, and is renewed there.
    Foreign,
    /// broker.toml owns the user.
    Configured,
    /// The certificate is not on record for the user that it names.
    Unknown,
    Revoked,
    Superseded,
    Disabled,
    Expired,
    /// Too long ago, or there is no grace at all.
    GraceOver,
    /// A session proves it better.
    StillValid,
    OtherName,
    KeyInUse,
    /// The key of a certificate of this user that was revoked.
    KeyRevoked,
    /// Until the first of them goes off the record.
    TooMany(Duration),
    Nonce(NonceFault),
}

impl Core {
    /// May this identity have a new certificate?
    pub(in crate::registry) fn renew(&self, ask: &RenewAsk<'_>, users: &dyn Users, now: Now) -> RenewVerdict {
        self.renewal(ask, users, now).unwrap_or_else(RenewVerdict::Refused)
    }

    fn renewal(&self, ask: &RenewAsk<'_>, users: &dyn Users, now: Now) -> Result<RenewVerdict, RenewRefused> {
        let (user, old, nonce) = match ask.claim {
            Claim::Session { user, serial } => {
                let user = users.by_id(user).ok_or(RenewRefused::NotAuthenticated)?;
                admits_certificates(user)?;
                let old = serial.and_then(|serial| user.certificates.iter().find(|it| it.serial == *serial));
                (user, old.ok_or(RenewRefused::NoCertificate)?, None)
            }
            Claim::Lapsed { username, fingerprint, nonce, binding } => {
                let nonce = self.nonces.check(nonce, binding, now.instant).map_err(RenewRefused::Nonce)?;
                // Whoever has the key of a certificate that is on record may hear how things stand; nobody else.
                let user = users.named(username).ok_or(RenewRefused::Unknown)?;
                let old = user.certificates.iter().find(|it| it.fingerprint == *fingerprint);
                let old = old.ok_or(RenewRefused::Unknown)?;
                admits_certificates(user)?;
                (user, old, Some(nonce))
            }
        };
        if !user.enabled {
            return Err(RenewRefused::Disabled);
        }
        if user.expires_at.is_some_and(|end| end <= now.wall) {
            return Err(RenewRefused::Expired);
        }
        if user.managed_by == ManagedBy::Config {
            return Err(RenewRefused::Configured);
        }
        if users.is_revoked(old) {
            let superseded = old.reason == Some(RevocationReason::Superseded);
            return Err(if superseded { RenewRefused::Superseded } else { RenewRefused::Revoked });
        }
        // Whoever vouches for it elsewhere would have vouched for the new one for good.
        if old.issuer.is_none() {
            return Err(RenewRefused::Foreign);
        }
        let lapsed = old.not_after < now.wall;
        match ask.claim {
            Claim::Lapsed { .. } if !lapsed => return Err(RenewRefused::StillValid),
            // A session that is about to end with its certificate is no exception.
            _ if lapsed && after(old.not_after, self.limits.renew_grace) <= now.wall => {
                return Err(RenewRefused::GraceOver);
            }
            _ => {}
        }
        if *ask.username != user.username {
            return Err(RenewRefused::OtherName);
        }
        let newest = self.renewals.get(&user.id);
        if let Some(record) = newest.and_then(|it| user.certificates.iter().find(|record| record.serial == it.serial))
            && newest.is_some_and(|newest| newest.csr == ask.csr)
            && !users.is_revoked(record)
            && now.wall < renewal_due(record)
            // Of the CA before this one it is due at any time.
            && record.issuer.as_deref() == Some(ask.issuer)
        {
            return Ok(RenewVerdict::Same { user: Arc::clone(user), record: record.clone(), nonce });
        }
        if users.by_key(ask.key).is_some_and(|other| other.id != user.id) {
            return Err(RenewRefused::KeyInUse);
        }
        let pending = self.keys.get(ask.key).and_then(|id| self.get(*id));
        if pending.is_some_and(|other| other.username != user.username && stale(other, users, now).is_none()) {
            return Err(RenewRefused::KeyInUse);
        }
        let revoked =
            |it: &&CertificateRecord| it.revoked_at.is_some() && it.reason != Some(RevocationReason::Superseded);
        if user.certificates.iter().filter(revoked).any(|it| it.key.as_deref() == Some(ask.key)) {
            return Err(RenewRefused::KeyRevoked);
        }
        let kept: Vec<_> = self.kept(user, now.wall).collect();
        if kept.len() >= MAX_ON_RECORD {
            let first = kept.iter().map(|it| self.goes_at(it)).min().unwrap_or(now.wall);
            let wait = first.duration_since(now.wall).try_into().unwrap_or_default();
            return Err(RenewRefused::TooMany(wait));
        }
        Ok(RenewVerdict::Issue { user: Arc::clone(user), replaces: old.serial.clone(), nonce })
    }

    /// The user with the new certificate, which is good at once. What was issued before it in place of the same one and was
    /// never used is retired now.
    pub(in crate::registry) fn renewed(
        &self,
        user: &User,
        record: CertificateRecord,
        replaces: &str,
        now: Timestamp,
    ) -> User {
        let mut certificates: Vec<CertificateRecord> = self.kept(user, now).cloned().collect();
        for unused in certificates.iter_mut().filter(|it| it.replaces.is_some() && it.serial != replaces) {
            retire(unused, now);
        }
        certificates.push(CertificateRecord { replaces: Some(replaces.to_owned()), ..record });
        User { certificates, ..user.clone() }
    }

    /// Certificates that stay on record: which are good or could be renewed, and revoked ones while a CRL may name them.
    pub(super) fn kept<'a>(&'a self, user: &'a User, now: Timestamp) -> impl Iterator<Item = &'a CertificateRecord> {
        user.certificates.iter().filter(move |it| now < self.goes_at(it))
    }

    fn goes_at(&self, record: &CertificateRecord) -> Timestamp {
        let grace = if record.revoked_at.is_none() { self.limits.renew_grace } else { Duration::ZERO };
        after(record.not_after, grace.max(AFTER_END))
    }

    /// Takes a renewal of the store in.
    pub(in crate::registry) fn restore_renewal(&mut self, user: UserId, renewal: Renewal) {
        self.renewals.insert(user, renewal);
    }

    /// Renewals whose user is no more, at most so many of them. Costs all of them.
    pub(super) fn orphaned_renewals(&self, users: &dyn Users, at_most: usize) -> impl Iterator<Item = Change> {
        let orphans: Vec<_> =
            self.renewals.keys().filter(|id| users.by_id(**id).is_none()).take(at_most).copied().collect();
        orphans.into_iter().map(|user| Change::ForgetRenewal { user })
    }
}

/// The user after its certificate with this serial number has connected: what that replaces is retired. `None`: nothing
/// changes.
pub(in crate::registry) fn confirmed(user: &User, serial: &str, now: Timestamp) -> Option<User> {
    let mut user = user.clone();
    let find = |user: &mut User, serial: &str| user.certificates.iter().position(|it| it.serial == serial);
    let first = find(&mut user, serial)?;
    let record = user.certificates.get_mut(first).filter(|it| it.revoked_at.is_none())?;
    let mut next = Some(record.replaces.take()?);
    // Its predecessor may have one itself, if the broker stopped before it knew that it was used. Each step takes a link away.
    while let Some(old) = next.take() {
        let Some(old) = find(&mut user, &old).and_then(|at| user.certificates.get_mut(at)) else { break };
        next = old.replaces.take();
        retire(old, now);
    }
    Some(user)
}

fn retire(record: &mut CertificateRecord, now: Timestamp) {
    record.replaces = None;
    if record.revoked_at.is_none() {
        record.revoked_at = Some(now);
        record.reason = Some(RevocationReason::Superseded);
    }
}

fn admits_certificates(user: &User) -> Result<(), RenewRefused> {
    match user.auth {
        Auth::Certificate | Auth::Either | Auth::Both => Ok(()),
        Auth::Password | Auth::None => Err(RenewRefused::NotAdmitted),
    }
}

fn after(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

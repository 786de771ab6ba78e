//! A name that an operator has opened to a new key: for a device that was wiped or repaired.
//!
//! Entering: the operator's word for a user who exists, then requests for its name. Leaving: [`Opening`]s, and users with other
//! proofs. INVARIANT: one request at most waits to replace a user, and none whose user is gone or has another name. Never:
//! anything but proofs changes; the name, roles and permissions stay those of the user.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::Now;
use super::super::request::{Request, State};
use super::examine::Ask;
use super::{AT_ONCE, Change, Core, Removal};
use crate::access::{CertificateRecord, Network, RevocationReason, User, UserId, Username};
use crate::audit::Closing;
use crate::authn::Users;

/// Why the certificates were revoked that another proof has replaced.
pub(in crate::registry) const REPLACED: &str = "replaced";

/// An operator's decision that the next request may take this name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::registry) struct Opening {
    pub(in crate::registry) user: UserId,
    /// What the user was called then: under another name it is open no more.
    pub(in crate::registry) username: Username,
    /// Only from these networks; empty: from anywhere.
    pub(in crate::registry) source: Vec<Network>,
    /// Who decided.
    pub(in crate::registry) by: String,
    pub(in crate::registry) at: Timestamp,
    pub(in crate::registry) until: Timestamp,
}

impl Opening {
    fn is_of(&self, users: &dyn Users) -> bool {
        names(users, self.user, &self.username)
    }
}

impl Core {
    /// Every opening, by name.
    pub(in crate::registry) fn openings(&self) -> Vec<&Opening> {
        let mut openings: Vec<_> = self.openings.values().collect();
        openings.sort_by(|one, other| one.username.cmp(&other.username));
        openings
    }

    /// The opening of this name, whether its time is over or not.
    pub(in crate::registry) fn opening(&self, username: &Username) -> Option<&Opening> {
        self.openings.get(username)
    }

    /// The request that waits to replace the user of this name.
    pub(in crate::registry) fn replacing(&self, username: &Username) -> Option<&Request> {
        self.replacing.get(username).and_then(|id| self.get(*id))
    }

    /// Whom a new request may replace, as far as its name, its source and the time go.
    pub(super) fn replaceable(&self, ask: &Ask<'_>, users: &dyn Users, now: Now) -> Option<UserId> {
        let opening = self.openings.get(ask.username)?;
        let open = now.wall < opening.until
            && (opening.source.is_empty() || opening.source.iter().any(|network| network.contains(ask.source)))
            && opening.is_of(users);
        open.then_some(opening.user)
    }

    /// The changes that close an opening again, with the request that came in by it. `None`: there is none.
    pub(in crate::registry) fn cancel(&self, username: &Username) -> Option<Vec<Change>> {
        self.openings.get(username)?;
        let waiting = self.replacing(username).map(|it| Change::Remove { id: it.id, why: Removal::Cancelled });
        let close = Change::Close { username: username.clone(), why: Closing::Cancelled };
        Some(waiting.into_iter().chain([close]).collect())
    }

    /// What else changes when this request replaces its user: what was known of its old proof goes, and the name is shut.
    pub(in crate::registry) fn replaced(&self, request: &Request, user: UserId) -> Vec<Change> {
        let holder = self.holders.get(&request.username).copied().filter(|id| *id != request.id);
        let mut changes: Vec<_> = holder.map(|id| Change::Remove { id, why: Removal::Replaced }).into_iter().collect();
        if self.openings.contains_key(&request.username) {
            changes.push(Change::Close { username: request.username.clone(), why: Closing::Granted });
        }
        if self.renewals.contains_key(&user) {
            changes.push(Change::ForgetRenewal { user });
        }
        changes
    }

    /// The user with the proof of the request instead of its own.
    pub(in crate::registry) fn replacement(
        &self,
        user: &User,
        request: &Request,
        record: Option<CertificateRecord>,
        now: Timestamp,
    ) -> User {
        let mut certificates: Vec<CertificateRecord> = self.kept(user, now).cloned().collect();
        for old in &mut certificates {
            old.replaces = None;
            if old.revoked_at.is_none() {
                old.revoked_at = Some(now);
                // The device that held the key is no more, or has lost it.
                old.reason = Some(RevocationReason::CessationOfOperation);
                old.comment = Some(REPLACED.to_owned());
            }
        }
        certificates.extend(record);
        User { auth: request.auth(), password_hash: request.password_hash.clone(), certificates, ..user.clone() }
    }

    /// Openings whose time is over.
    pub(super) fn lapsed_openings(&self, now: Now) -> Vec<Change> {
        let over = self.openings.values().filter(|opening| opening.until <= now.wall);
        over.take(AT_ONCE).map(|it| Change::Close { username: it.username.clone(), why: Closing::Expired }).collect()
    }

    /// Openings whose user is no more, or has another name.
    pub(super) fn orphaned_openings(&self, users: &dyn Users) -> Vec<Change> {
        let gone = self.openings.values().filter(|opening| !opening.is_of(users));
        gone.take(AT_ONCE).map(|it| Change::Close { username: it.username.clone(), why: Closing::UserGone }).collect()
    }

    /// Takes an opening of the store in.
    pub(in crate::registry) fn restore_opening(&mut self, opening: Opening) {
        self.openings.insert(opening.username.clone(), opening);
    }
}

/// Whom a request that waits would replace; `None`: nobody, or the user is gone or has another name.
pub(in crate::registry) fn replaced_user<'a>(request: &Request, users: &'a dyn Users) -> Option<&'a Arc<User>> {
    users.by_id(request.replaces?).filter(|user| user.username == request.username)
}

/// Does a request wait for a user who is no more?
pub(super) fn waits_for_nobody(request: &Request, users: &dyn Users) -> bool {
    request.state == State::Pending && request.replaces.is_some() && replaced_user(request, users).is_none()
}

fn names(users: &dyn Users, id: UserId, username: &Username) -> bool {
    users.by_id(id).is_some_and(|user| user.username == *username)
}

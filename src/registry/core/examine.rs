//! What becomes of a message: is it a poll, a conflict, a new request?
//!
//! Entering: one message, what argon2 has said of it so far, the users. Leaving: a [`Step`]. INVARIANT: whoever shows a password that is not
//! the remembered one of this name is answered after one argon2, whether there is anything to hold it against or not. Never: a name,
//! pending or taken, passes to another proof; nor does a new request tell anything while the door is shut.

use std::net::IpAddr;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use super::super::Now;
use super::super::nonce::Binding;
use super::super::operator::GrantTerms;
use super::super::request::{Door, Remembered, Request, RequestId, State};
use super::super::token::TokenDigest;
use super::claim::{Granting, Grantor};
use super::replace::waits_for_nobody;
use super::{Change, Core, Refused, Removal, Unusable, Verdict};
use crate::access::{RevocationReason, Username};
use crate::authn::{Source, Users};
use crate::pki::PairingCode;

/// One message.
pub(in crate::registry) struct Ask<'a> {
    pub(in crate::registry) username: &'a Username,
    /// Fingerprint and kind.
    pub(in crate::registry) key: Option<(&'a str, String)>,
    /// Keyed hash of the password, if there is one.
    pub(in crate::registry) tag: Option<[u8; 32]>,
    pub(in crate::registry) source: IpAddr,
    pub(in crate::registry) listener: &'a str,
    pub(in crate::registry) door: Door,
    /// Is the device told what is answered?
    pub(in crate::registry) hears: bool,
    /// What the CSR holds, and whom it must be for.
    pub(in crate::registry) nonce: Option<&'a str>,
    pub(in crate::registry) binding: Binding,
    /// Of the token that it shows.
    pub(in crate::registry) token: Option<&'a TokenDigest>,
    /// May rules grant it? Not, where one has tried and could not.
    pub(in crate::registry) rules: bool,
}

/// What argon2 has said about the password of this message so far. Facts stay true whatever happens meanwhile.
#[derive(Default)]
pub(in crate::registry) struct Facts {
    /// Does the password match this PHC string?
    pub(in crate::registry) verified: Vec<(String, bool)>,
    /// It was held against nothing.
    pub(in crate::registry) decoy: bool,
    /// A new hash of it.
    pub(in crate::registry) fresh_hash: Option<String>,
}

impl Facts {
    /// Has argon2 worked for this message?
    pub(in crate::registry) fn have_cost(&self) -> bool {
        self.decoy || !self.verified.is_empty() || self.fresh_hash.is_some()
    }
}

/// Random numbers for a request that may come to be.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Drawn {
    pub(in crate::registry) id: RequestId,
    /// Of the key, or drawn where there is none.
    pub(in crate::registry) pairing_code: PairingCode,
}

/// What is to be done about a message.
#[derive(Debug, PartialEq)]
pub(in crate::registry) enum Step {
    /// Find out whether the password matches this PHC string, and ask again. `None`: it matches nothing; the work is the same.
    Verify(Option<String>),
    /// Hash the password, and ask again.
    Hash,
    /// Make the changes, then answer.
    Answer(Vec<Change>, Verdict),
    /// Make the request a user along with the changes.
    Grant(Vec<Change>, Box<Granting>),
}

impl Step {
    /// Has the message given the proof of a request on record?
    pub(in crate::registry) fn is_proven(&self) -> bool {
        matches!(self, Self::Answer(changes, _) if changes.iter().any(|it| matches!(it, Change::Seen { .. })))
    }
}

/// Is it the same proof?
enum Comparison {
    Same(Option<Remembered>),
    Other,
    Unknown(String),
}

impl Core {
    /// What becomes of a message. `is_waited_for` says whether somebody is connected and waits for the decision.
    pub(in crate::registry) fn examine(
        &self,
        ask: &Ask<'_>,
        facts: &Facts,
        drawn: Drawn,
        users: &dyn Users,
        is_waited_for: &dyn Fn(RequestId) -> bool,
        now: Now,
    ) -> Step {
        let step = self.judge(ask, facts, drawn, users, is_waited_for, now);
        if ask.tag.is_some() && !facts.have_cost() && !step.is_proven() && matches!(step, Step::Answer(..)) {
            // A name of nobody, of a user and of a pending request, all take as long.
            return Step::Verify(None);
        }
        step
    }

    fn judge(
        &self,
        ask: &Ask<'_>,
        facts: &Facts,
        drawn: Drawn,
        users: &dyn Users,
        is_waited_for: &dyn Fn(RequestId) -> bool,
        now: Now,
    ) -> Step {
        let admits = || self.lock.admits(ask.source, ask.listener, ask.username, ask.door, now);
        // Door 2 is open, or there is none: for a poll too. It may have been shut since the CONNECT came.
        if ask.door.is_implicit() && !admits() {
            return Step::Answer(Vec::new(), Verdict::Refused(Refused::Locked));
        }
        let mut changes = Vec::new();
        let mut conflict = None;
        if let Some(holder) = self.holders.get(ask.username).and_then(|id| self.requests.get(id)) {
            if let Some(why) = stale(holder, users, now) {
                changes.push(Change::Remove { id: holder.id, why });
            } else {
                match compare(holder, ask, facts, users) {
                    Comparison::Unknown(hash) => return Step::Verify(Some(hash)),
                    Comparison::Same(remember) => {
                        let seen = Change::Seen { id: holder.id, at: now.wall, remember };
                        return Step::Answer(vec![seen], standing(holder, users, now));
                    }
                    Comparison::Other if matches!(holder.state, State::Pending) => {
                        conflict = Some(Refused::NamePending);
                    }
                    Comparison::Other => conflict = Some(Refused::NameTaken),
                }
            }
        }
        // An operator has opened the name to a new key, and somebody has come.
        if let Some(waiting) = self.replacing(ask.username) {
            if let Some(why) = stale(waiting, users, now) {
                changes.push(Change::Remove { id: waiting.id, why });
            } else {
                match compare(waiting, ask, facts, users) {
                    Comparison::Unknown(hash) => return Step::Verify(Some(hash)),
                    Comparison::Same(remember) => {
                        changes.push(Change::Seen { id: waiting.id, at: now.wall, remember });
                        return Step::Answer(changes, Verdict::Pending(waiting.id));
                    }
                    Comparison::Other => conflict = Some(Refused::NamePending),
                }
            }
        }
        for request in self.denied.get(ask.username).into_iter().flatten().filter_map(|id| self.requests.get(id)) {
            let State::Denied { reason, forget_at, .. } = &request.state else { continue };
            if *forget_at <= now.wall {
                continue;
            }
            match compare(request, ask, facts, users) {
                Comparison::Unknown(hash) => return Step::Verify(Some(hash)),
                Comparison::Same(remember) => {
                    changes.push(Change::Seen { id: request.id, at: now.wall, remember });
                    return Step::Answer(changes, Verdict::Denied { reason: reason.clone() });
                }
                Comparison::Other => {}
            }
        }
        // From here on the message is a new request: the lock comes first, so that a shut door tells nothing.
        let refuse = |changes, refused| Step::Answer(changes, Verdict::Refused(refused));
        // It is narrower than an unlock, and needs none. No token replaces anybody: where a name is open, it is not looked at.
        let replaces = self.replaceable(ask, users, now);
        let token = match ask.token.filter(|_| replaces.is_none()).map(|shown| self.claim(shown, ask, now)) {
            None => None,
            Some(Ok(token)) => Some(token),
            Some(Err((id, fault))) => return refuse(changes, Refused::Token(id, fault)),
        };
        // A rule needs the door open, but for those that say so; what it grants is a new identity, never that of somebody.
        let mut by_lock = replaces.is_none() && token.is_none();
        let unlocked = by_lock && admits();
        let rule = if by_lock && ask.rules { self.granted_by(ask, unlocked, &changes) } else { None };
        if by_lock && !unlocked && rule.is_none() {
            return refuse(changes, Refused::Locked);
        }
        by_lock &= unlocked;
        if let Some((rule, reason)) = self.denied_by(ask) {
            // Nothing is kept of it: it is asked again each time.
            return Step::Answer(changes, Verdict::Barred { rule: rule.name.clone(), reason: reason.to_owned() });
        }
        let nonce = match self.limits.require_nonce.then(|| self.nonces.check(ask.nonce, ask.binding, now.instant)) {
            None => None,
            Some(Ok(nonce)) => Some(nonce),
            Some(Err(fault)) => return refuse(changes, Refused::Nonce(fault)),
        };
        if let Some(conflict) = conflict.filter(|it| replaces.is_none() || *it != Refused::NameTaken) {
            return refuse(changes, conflict);
        }
        if replaces.is_none() && users.named(ask.username).is_some() {
            return refuse(changes, Refused::NameTaken);
        }
        // That of the name's own granted request is no new key either.
        if let Some((key, _)) = &ask.key
            && let Some(other) = self.keys.get(*key).and_then(|id| self.requests.get(id))
            && !changes.iter().any(|change| matches!(change, Change::Remove { id, .. } if *id == other.id))
        {
            match stale(other, users, now) {
                Some(why) => changes.push(Change::Remove { id: other.id, why }),
                None => return refuse(changes, Refused::KeyInUse),
            }
        }
        if let Some((key, _)) = &ask.key
            && users.by_key(key).is_some()
        {
            return refuse(changes, Refused::KeyInUse);
        }
        let leaving: Vec<&Request> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Remove { id, .. } => self.get(*id).filter(|it| it.state == State::Pending),
                _ => None,
            })
            .collect();
        let source = Source::from(ask.source);
        // What is granted at once takes no place among those that wait.
        let at_once = (token.is_some() || rule.is_some()) && self.limits.approvals < 2;
        let free: Vec<Source> = leaving.iter().map(|request| request.source.into()).collect();
        if !at_once && !self.places.admit(source, self.limits.pending, self.flights.inserts(), &free) {
            match self.yielding(source, &leaving, is_waited_for, now) {
                Some(id) => changes.push(Change::Remove { id, why: Removal::Displaced }),
                None => return refuse(changes, Refused::Full),
            }
        }
        if ask.tag.is_some() && facts.fresh_hash.is_none() {
            return Step::Hash;
        }
        let Ok(expires_at) = now.wall.checked_add(self.limits.pending_ttl) else {
            return refuse(changes, Refused::Full);
        };
        changes.extend(nonce.map(|nonce| Change::Spend { nonce, at: now.instant }));
        let remembered = facts.fresh_hash.clone().zip(ask.tag).map(|(hash, tag)| Remembered { hash, tag });
        let request = Request {
            id: drawn.id,
            username: ask.username.clone(),
            key: ask.key.as_ref().map(|(key, _)| (*key).to_owned()),
            key_kind: ask.key.as_ref().map(|(_, kind)| kind.clone()),
            has_password: ask.tag.is_some(),
            password_hash: facts.fresh_hash.clone().filter(|_| ask.tag.is_some()),
            pairing_code: drawn.pairing_code,
            // That of a key the device computes itself, whatever it is told.
            pairing_shown: ask.key.is_some() || (ask.hears && ask.door.tells_code()),
            source: ask.source,
            listener: ask.listener.to_owned(),
            door: ask.door,
            first_seen: now.wall,
            last_seen: now.wall,
            polls: 0,
            expires_at,
            state: State::Pending,
            remembered,
            replaces,
            token: token.map(|token| token.view.id),
            rule: rule.map(|(rule, _)| rule.name.clone()),
            approved: None,
            validity: rule.and_then(|(_, grant)| grant.validity).map(|validity| validity.as_secs()),
        };
        if let Some(token) = token {
            changes.push(Change::PutToken(Box::new(token.spent(now.wall))));
            let by = Grantor::Token(token.view.id);
            return Step::Grant(changes, Box::new(Granting { request, terms: token.grant(), by }));
        }
        changes.extend(by_lock.then_some(Change::Admitted));
        if let Some((rule, grant)) = rule {
            let terms = GrantTerms::from(grant);
            let by = Grantor::Rule(rule.name.clone());
            return Step::Grant(changes, Box::new(Granting { request, terms, by }));
        }
        changes.push(Change::Insert(Box::new(request)));
        Step::Answer(changes, Verdict::Pending(drawn.id))
    }

    /// The pending request of this source that was silent longest, if that is long enough and nobody waits for it.
    fn yielding(
        &self,
        source: Source,
        leaving: &[&Request],
        is_waited_for: &dyn Fn(RequestId) -> bool,
        now: Now,
    ) -> Option<RequestId> {
        let silent_since = now.wall.checked_sub(self.limits.silence).ok()?;
        self.places
            .of(source)
            .filter_map(|id| self.get(id))
            .filter(|request| request.last_seen <= silent_since && !leaving.iter().any(|it| it.id == request.id))
            .filter(|request| !is_waited_for(request.id))
            .min_by_key(|request| (request.last_seen, request.id))
            .map(|request| request.id)
    }
}

/// Is a request that still has a place in the table void?
pub(super) fn stale(request: &Request, users: &dyn Users, now: Now) -> Option<Removal> {
    match &request.state {
        State::Pending if request.expires_at <= now.wall => Some(Removal::Expired),
        State::Pending => waits_for_nobody(request, users).then_some(Removal::UserGone),
        State::Granted { .. } => is_orphan(request, users).then_some(Removal::UserGone),
        State::Denied { forget_at, .. } => (*forget_at <= now.wall).then_some(Removal::Forgotten),
    }
}

/// Is the user that it became no more? The id is the identity: a later user of the same name has nothing to do with it.
pub(in crate::registry) fn is_orphan(request: &Request, users: &dyn Users) -> bool {
    let State::Granted { user, .. } = &request.state else { return false };
    users.by_id(*user).is_none_or(|user| user.username != request.username)
}

/// Does the message carry the proof of the request? The key is compared first: it costs nothing.
fn compare(request: &Request, ask: &Ask<'_>, facts: &Facts, users: &dyn Users) -> Comparison {
    if request.key.as_deref() != ask.key.as_ref().map(|(key, _)| *key) {
        return Comparison::Other;
    }
    let tag = match (request.has_password, ask.tag) {
        (false, None) => return Comparison::Same(None),
        (true, Some(tag)) => tag,
        _ => return Comparison::Other,
    };
    // A granted request has the password that its user has now, which may have been changed since.
    let hash = match &request.state {
        State::Granted { user, .. } => users.by_id(*user).and_then(|user| user.password_hash.clone()),
        _ => request.password_hash.clone(),
    };
    let Some(hash) = hash else { return Comparison::Other };
    if let Some(remembered) = request.remembered.as_ref().filter(|it| it.hash == hash) {
        // The tag tells passwords apart exactly. A wrong one costs its argon2 all the same: see `examine`.
        return if bool::from(remembered.tag.ct_eq(&tag)) { Comparison::Same(None) } else { Comparison::Other };
    }
    match facts.verified.iter().find(|(about, _)| *about == hash) {
        Some((_, true)) => Comparison::Same(Some(Remembered { hash, tag })),
        Some((_, false)) => Comparison::Other,
        None => Comparison::Unknown(hash),
    }
}

/// Where a request stands whose proof was just given.
pub(super) fn standing(request: &Request, users: &dyn Users, now: Now) -> Verdict {
    let (user, serial) = match &request.state {
        State::Pending => return Verdict::Pending(request.id),
        State::Denied { reason, .. } => return Verdict::Denied { reason: reason.clone() },
        State::Granted { user, serial, .. } => (*user, serial),
    };
    let Some(user) = users.by_id(user) else { return Verdict::Unusable(Unusable::Disabled) };
    if !user.enabled {
        return Verdict::Unusable(Unusable::Disabled);
    }
    if user.expires_at.is_some_and(|at| at <= now.wall) {
        return Verdict::Unusable(Unusable::Expired);
    }
    let certificate = match serial {
        None => None,
        Some(serial) => match user.certificates.iter().find(|it| it.serial == *serial) {
            None => return Verdict::Unusable(Unusable::Revoked),
            Some(it) if it.revoked_at.is_some() && it.reason == Some(RevocationReason::Superseded) => {
                return Verdict::Unusable(Unusable::Superseded);
            }
            Some(it) if users.is_revoked(it) => return Verdict::Unusable(Unusable::Revoked),
            Some(it) if it.not_after <= now.wall => return Verdict::Unusable(Unusable::CertificateExpired),
            Some(it) => Some(Box::new(it.clone())),
        },
    };
    Verdict::Granted { id: request.id, user: Arc::clone(user), certificate }
}

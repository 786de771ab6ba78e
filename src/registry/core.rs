//! The state machine of requests: what a registration becomes, who decides, what is forgotten when.
//!
//! Pure: time, randomness and the users come as parameters. Questions (`examine`, `deny`, `granted`, `expire`) read and name the
//! [`Change`]s to make; [`Core::apply`] makes them. The shell writes the same changes to the store first, so what is in memory is always what a restart would load,
//! but for polls and remembered proofs.
//!
//! Never: a name, pending or taken, passes to another proof.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;
use subtle::ConstantTimeEq as _;

use super::Now;
use super::lock::{Lock, UnlockTerms};
use super::request::{Door, Remembered, Request, RequestId, State};
use crate::access::{CertificateRecord, User, Username};
use crate::authn::{Source, Users};
use crate::clock::Duration;
use crate::pki::PairingCode;

/// Denials that are kept for one name; the oldest is forgotten first.
const DENIED_PER_NAME: usize = 4;

/// What lapses in one batch.
const AT_ONCE: usize = 1000;

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) pending_ttl: Duration,
    pub(super) max_pending: usize,
    pub(super) max_pending_per_source: usize,
    pub(super) denied_for: Duration,
    /// A request that nobody waits for and that was silent for so long may give way to a new one of its own source.
    pub(super) silence: Duration,
}

/// One message.
pub(super) struct Ask<'a> {
    pub(super) username: &'a Username,
    /// Fingerprint and kind.
    pub(super) key: Option<(&'a str, String)>,
    /// Keyed hash of the password, if there is one.
    pub(super) tag: Option<[u8; 32]>,
    pub(super) source: IpAddr,
    pub(super) listener: &'a str,
    pub(super) door: Door,
}

/// What argon2 has said about the password of this message so far. Facts stay true whatever happens meanwhile.
#[derive(Default)]
pub(super) struct Facts {
    /// Does the password match this PHC string?
    pub(super) verified: Vec<(String, bool)>,
    /// A new hash of it.
    pub(super) fresh_hash: Option<String>,
}

/// Random numbers for a request that may come to be.
#[derive(Clone, Copy)]
pub(super) struct Drawn {
    pub(super) id: RequestId,
    /// Of the key, or drawn where there is none.
    pub(super) pairing_code: PairingCode,
}

/// What is to be done about a message.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Find out whether the password matches this PHC string, and ask again.
    Verify(String),
    /// Hash the password, and ask again.
    Hash,
    /// Make the changes, then answer.
    Answer(Vec<Change>, Verdict),
}

/// The answer to a message.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// On record, new or not.
    Pending(RequestId),
    /// It became a user, whose proof was just given.
    Granted { id: RequestId, user: Arc<User>, certificate: Option<CertificateRecord> },
    /// Turned down, not long ago.
    Denied { reason: String },
    /// It became a user who may not act now.
    Unusable(Unusable),
    /// Not taken on record.
    Refused(Refused),
}

/// Why a granted request has nothing to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    Disabled,
    Expired,
    Revoked,
    CertificateExpired,
}

/// Why a message is not taken on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Locked,
    NameTaken,
    NamePending,
    KeyInUse,
    Full,
}

/// A step of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// A new request.
    Insert(Box<Request>),
    /// A request after a decision.
    Put(Box<Request>),
    /// A request that is no more.
    Remove { id: RequestId, why: Removal },
    /// A poll. In memory alone.
    Seen { id: RequestId, at: Timestamp, remember: Option<Remembered> },
}

/// Why a request is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Nobody decided in time.
    Expired,
    /// It gave way to another one of its source.
    Displaced,
    /// Denied long ago.
    Forgotten,
    /// The user that it became is no more.
    UserGone,
}

/// Why no decision can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecidable {
    NotFound,
    NotPending(&'static str),
    Unpaired,
}

/// Is it the same proof?
enum Comparison {
    Same(Option<Remembered>),
    Other,
    Unknown(String),
}

/// The table and the lock.
pub(super) struct Core {
    limits: Limits,
    lock: Lock,
    /// In the order of their names, which is that of their arrival.
    requests: BTreeMap<RequestId, Request>,
    /// INVARIANT: each pending or granted request is here under its name, and no name has two.
    holders: HashMap<Username, RequestId>,
    /// INVARIANT: each key of a holder is here, and no key has two.
    keys: HashMap<String, RequestId>,
    /// Denied requests, oldest first.
    denied: HashMap<Username, Vec<RequestId>>,
    /// INVARIANT: exactly the pending requests.
    by_source: HashMap<Source, HashSet<RequestId>>,
    pending: usize,
    /// When pending requests lapse and denied ones are forgotten.
    deadlines: BTreeSet<(Timestamp, RequestId)>,
}

impl Core {
    /// An empty table behind a locked door.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lock: Lock::default(),
            requests: BTreeMap::new(),
            holders: HashMap::new(),
            keys: HashMap::new(),
            denied: HashMap::new(),
            by_source: HashMap::new(),
            pending: 0,
            deadlines: BTreeSet::new(),
        }
    }

    // Getters.

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.requests.get(&id)
    }

    /// The requests after this one, oldest first; `None`: all.
    pub(super) fn requests(&self, after: Option<RequestId>) -> impl Iterator<Item = &Request> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.requests.range((start, Bound::Unbounded)).map(|(_, request)| request)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn lock(&self) -> &Lock {
        &self.lock
    }

    // Questions.

    /// What becomes of a message. `is_waited_for` says whether somebody is connected and waits for the decision.
    pub(super) fn examine(
        &self,
        ask: &Ask<'_>,
        facts: &Facts,
        drawn: Drawn,
        users: &dyn Users,
        is_waited_for: &dyn Fn(RequestId) -> bool,
        now: Now,
    ) -> Step {
        let mut changes = Vec::new();
        let mut conflict = None;
        if let Some(holder) = self.holders.get(ask.username).and_then(|id| self.requests.get(id)) {
            if let Some(why) = stale(holder, users, now) {
                changes.push(Change::Remove { id: holder.id, why });
            } else {
                match compare(holder, ask, facts, users) {
                    Comparison::Unknown(hash) => return Step::Verify(hash),
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
        for request in self.denied.get(ask.username).into_iter().flatten().filter_map(|id| self.requests.get(id)) {
            let State::Denied { reason, forget_at, .. } = &request.state else { continue };
            if *forget_at <= now.wall {
                continue;
            }
            match compare(request, ask, facts, users) {
                Comparison::Unknown(hash) => return Step::Verify(hash),
                Comparison::Same(remember) => {
                    changes.push(Change::Seen { id: request.id, at: now.wall, remember });
                    return Step::Answer(changes, Verdict::Denied { reason: reason.clone() });
                }
                Comparison::Other => {}
            }
        }
        // From here on the message is a new request: the lock comes first, so that a shut door tells nothing.
        let refuse = |changes, refused| Step::Answer(changes, Verdict::Refused(refused));
        if !self.lock.admits(ask.source, ask.listener, ask.username, now) {
            return refuse(changes, Refused::Locked);
        }
        if let Some(conflict) = conflict {
            return refuse(changes, conflict);
        }
        if users.named(ask.username).is_some() {
            return refuse(changes, Refused::NameTaken);
        }
        if let Some((key, _)) = &ask.key
            && let Some(other) = self.keys.get(*key).and_then(|id| self.requests.get(id))
            && other.username != *ask.username
        {
            match stale(other, users, now) {
                Some(why) => changes.push(Change::Remove { id: other.id, why }),
                None => return refuse(changes, Refused::KeyInUse),
            }
        }
        let leaving: Vec<RequestId> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Remove { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let stays = |id: &&RequestId| !leaving.contains(id);
        let left = leaving.iter().filter(|id| self.get(**id).is_some_and(|it| it.state == State::Pending)).count();
        let source = Source::from(ask.source);
        let of_source = self.by_source.get(&source).map_or(0, |ids| ids.iter().filter(stays).count());
        let full = self.pending.saturating_sub(left) >= self.limits.max_pending;
        if full || of_source >= self.limits.max_pending_per_source {
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
        let remembered = facts.fresh_hash.clone().zip(ask.tag).map(|(hash, tag)| Remembered { hash, tag });
        changes.push(Change::Insert(Box::new(Request {
            id: drawn.id,
            username: ask.username.clone(),
            key: ask.key.as_ref().map(|(key, _)| (*key).to_owned()),
            key_kind: ask.key.as_ref().map(|(_, kind)| kind.clone()),
            has_password: ask.tag.is_some(),
            password_hash: facts.fresh_hash.clone().filter(|_| ask.tag.is_some()),
            pairing_code: drawn.pairing_code,
            // Both answer 202 with the code, door 1 at every version of the protocol.
            pairing_shown: matches!(ask.door, Door::Mqtt | Door::Rest),
            source: ask.source,
            listener: ask.listener.to_owned(),
            door: ask.door,
            first_seen: now.wall,
            last_seen: now.wall,
            polls: 0,
            expires_at,
            state: State::Pending,
            remembered,
        })));
        Step::Answer(changes, Verdict::Pending(drawn.id))
    }

    /// The pending request of this source that was silent longest, if that is long enough and nobody waits for it.
    fn yielding(
        &self,
        source: Source,
        leaving: &[RequestId],
        is_waited_for: &dyn Fn(RequestId) -> bool,
        now: Now,
    ) -> Option<RequestId> {
        let silent_since = now.wall.checked_sub(self.limits.silence).ok()?;
        self.by_source
            .get(&source)?
            .iter()
            .filter_map(|id| self.requests.get(id))
            .filter(|request| request.last_seen <= silent_since && !leaving.contains(&request.id))
            .filter(|request| !is_waited_for(request.id))
            .min_by_key(|request| (request.last_seen, request.id))
            .map(|request| request.id)
    }

    /// The request, if it can be granted now.
    pub(super) fn grantable(&self, id: RequestId, unpaired: bool, now: Now) -> Result<&Request, Undecidable> {
        let request = self.decidable(id, now)?;
        if request.pairing_shown || unpaired { Ok(request) } else { Err(Undecidable::Unpaired) }
    }

    fn decidable(&self, id: RequestId, now: Now) -> Result<&Request, Undecidable> {
        let request = self.requests.get(&id).ok_or(Undecidable::NotFound)?;
        match &request.state {
            State::Pending if now.wall < request.expires_at => Ok(request),
            State::Pending => Err(Undecidable::NotFound),
            decided => Err(Undecidable::NotPending(decided.as_str())),
        }
    }

    /// The change that turns a request down, and what gives way to it.
    pub(super) fn deny(&self, id: RequestId, reason: String, by: String, now: Now) -> Result<Vec<Change>, Undecidable> {
        let mut request = self.decidable(id, now)?.clone();
        let forget_at = now.wall.checked_add(self.limits.denied_for).unwrap_or(Timestamp::MAX);
        let mut changes = Vec::new();
        if let Some(earlier) = self.denied.get(&request.username).filter(|them| them.len() >= DENIED_PER_NAME)
            && let Some(oldest) = earlier.first()
        {
            changes.push(Change::Remove { id: *oldest, why: Removal::Forgotten });
        }
        request.state = State::Denied { reason, by, at: now.wall, forget_at };
        changes.push(Change::Put(Box::new(request)));
        Ok(changes)
    }

    /// Where a request stands, for those who have given its proof already.
    pub(super) fn verdict(&self, id: RequestId, users: &dyn Users, now: Now) -> Option<Verdict> {
        self.requests.get(&id).map(|request| standing(request, users, now))
    }

    /// What time has made void, at most [`AT_ONCE`] of it.
    pub(super) fn expire(&self, now: Now) -> Vec<Change> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now.wall);
        due.take(AT_ONCE)
            .filter_map(|(_, id)| {
                let why = match self.requests.get(id)?.state {
                    State::Pending => Removal::Expired,
                    State::Denied { .. } => Removal::Forgotten,
                    State::Granted { .. } => return None,
                };
                Some(Change::Remove { id: *id, why })
            })
            .collect()
    }

    /// Requests whose user is no more, at most [`AT_ONCE`] of them. Costs the whole table.
    pub(super) fn orphans(&self, users: &dyn Users) -> Vec<Change> {
        let orphans = self.requests.values().filter(|request| is_orphan(request, users)).take(AT_ONCE);
        orphans.map(|request| Change::Remove { id: request.id, why: Removal::UserGone }).collect()
    }

    // Inputs.

    /// Makes a change that a question has named, or that the store has held.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Insert(request) => {
                self.lock.spend();
                self.put(*request);
            }
            Change::Put(request) => self.put(*request),
            Change::Remove { id, .. } => {
                self.take(id);
            }
            Change::Seen { id, at, remember } => {
                if let Some(request) = self.requests.get_mut(&id) {
                    request.polls = request.polls.saturating_add(1);
                    request.last_seen = at;
                    if remember.is_some() {
                        request.remembered = remember;
                    }
                }
            }
        }
    }

    /// Takes a request of the store in. `false`: its name or key has a holder already, so the store is damaged.
    pub(super) fn restore(&mut self, request: Request) -> bool {
        let held = !matches!(request.state, State::Denied { .. })
            && (self.holders.contains_key(&request.username)
                || request.key.as_ref().is_some_and(|key| self.keys.contains_key(key)));
        if held || self.requests.contains_key(&request.id) {
            return false;
        }
        self.put(request);
        true
    }

    /// Opens the door; `false` when the terms are out of range.
    pub(super) fn unlock(&mut self, terms: UnlockTerms, default: Duration, now: Now) -> bool {
        let Some(open) = Lock::open(terms, default, now) else { return false };
        self.lock = open;
        true
    }

    /// Shuts the door. Was it open?
    pub(super) fn lock_now(&mut self) -> bool {
        matches!(std::mem::take(&mut self.lock), Lock::Open { .. })
    }

    fn put(&mut self, request: Request) {
        let id = request.id;
        self.take(id);
        match &request.state {
            State::Pending => {
                self.pending += 1;
                self.by_source.entry(request.source.into()).or_default().insert(id);
                self.deadlines.insert((request.expires_at, id));
                self.hold(&request);
            }
            State::Granted { .. } => self.hold(&request),
            State::Denied { forget_at, .. } => {
                self.deadlines.insert((*forget_at, id));
                self.denied.entry(request.username.clone()).or_default().push(id);
            }
        }
        self.requests.insert(id, request);
    }

    fn hold(&mut self, request: &Request) {
        self.holders.insert(request.username.clone(), request.id);
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), request.id);
        }
    }

    fn take(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        match &request.state {
            State::Pending => {
                self.pending = self.pending.saturating_sub(1);
                let source = request.source.into();
                if let Some(ids) = self.by_source.get_mut(&source) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.by_source.remove(&source);
                    }
                }
                self.deadlines.remove(&(request.expires_at, id));
            }
            State::Granted { .. } => {}
            State::Denied { forget_at, .. } => {
                self.deadlines.remove(&(*forget_at, id));
                if let Some(ids) = self.denied.get_mut(&request.username) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        self.denied.remove(&request.username);
                    }
                }
            }
        }
        if self.holders.get(&request.username) == Some(&id) {
            self.holders.remove(&request.username);
        }
        if let Some(key) = &request.key
            && self.keys.get(key) == Some(&id)
        {
            self.keys.remove(key);
        }
        Some(request)
    }

    /// Holds every index against the table it is of.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let pending: Vec<_> = self.requests.values().filter(|it| it.state == State::Pending).collect();
        assert_eq!(self.pending, pending.len());
        assert_eq!(self.by_source.values().map(HashSet::len).sum::<usize>(), pending.len());
        for request in pending {
            assert!(self.by_source[&request.source.into()].contains(&request.id));
        }
        let holders: Vec<_> = self.requests.values().filter(|it| !matches!(it.state, State::Denied { .. })).collect();
        assert_eq!(self.holders.len(), holders.len());
        assert_eq!(self.keys.len(), holders.iter().filter(|it| it.key.is_some()).count());
        for request in holders {
            assert_eq!(self.holders[&request.username], request.id);
            assert!(request.key.as_ref().is_none_or(|key| self.keys[key] == request.id));
        }
        let denied = self.requests.values().filter(|it| matches!(it.state, State::Denied { .. })).count();
        assert_eq!(self.denied.values().map(Vec::len).sum::<usize>(), denied);
        assert!(self.denied.values().all(|ids| (1..=DENIED_PER_NAME).contains(&ids.len())));
        assert_eq!(self.deadlines.len(), self.pending + denied);
        assert!(self.pending <= self.limits.max_pending);
    }
}

/// Is a request that still has a place in the table void?
fn stale(request: &Request, users: &dyn Users, now: Now) -> Option<Removal> {
    match &request.state {
        State::Pending => (request.expires_at <= now.wall).then_some(Removal::Expired),
        State::Granted { .. } => is_orphan(request, users).then_some(Removal::UserGone),
        State::Denied { forget_at, .. } => (*forget_at <= now.wall).then_some(Removal::Forgotten),
    }
}

/// Is the user that it became no more? The id is the identity: a later user of the same name has nothing to do with it.
pub(super) fn is_orphan(request: &Request, users: &dyn Users) -> bool {
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
        // The tag tells passwords apart exactly, so no argon2 is needed for a wrong one either.
        return if bool::from(remembered.tag.ct_eq(&tag)) { Comparison::Same(None) } else { Comparison::Other };
    }
    match facts.verified.iter().find(|(about, _)| *about == hash) {
        Some((_, true)) => Comparison::Same(Some(Remembered { hash, tag })),
        Some((_, false)) => Comparison::Other,
        None => Comparison::Unknown(hash),
    }
}

/// Where a request stands whose proof was just given.
fn standing(request: &Request, users: &dyn Users, now: Now) -> Verdict {
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
            Some(it) if it.revoked_at.is_some() => return Verdict::Unusable(Unusable::Revoked),
            Some(it) if it.not_after <= now.wall => return Verdict::Unusable(Unusable::CertificateExpired),
            Some(it) => Some(it.clone()),
        },
    };
    Verdict::Granted { id: request.id, user: Arc::clone(user), certificate }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

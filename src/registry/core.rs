//! The state machine of requests: what a registration becomes, who decides, what is forgotten when.
//!
//! Pure: time, randomness and the users come as parameters. Questions (`examine`, `deny`, `granted`, `expire`) read and name the
//! [`Change`]s to make; [`Core::apply`] makes them. The shell writes the same changes to the store first, so what is in memory is always what a restart would load,
//! but for polls, remembered proofs and spent nonces.
//!
//! Never: a name, pending or taken, passes to another proof.

mod claim;
mod examine;
mod flight;
mod places;
mod renew;
mod replace;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

pub(super) use claim::{Granting, Grantor};
use examine::standing;
pub(super) use examine::{Ask, Drawn, Facts, Step, is_orphan};
use flight::Flights;
pub(super) use flight::{Claims, Flight};
pub(super) use places::Bounds;
use places::Places;
pub(super) use renew::{Claim, MAX_ON_RECORD, RenewAsk, RenewRefused, RenewVerdict, Renewal, confirmed};
use replace::waits_for_nobody;

pub(super) use replace::{Opening, replaced_user};

use super::Now;
use super::lock::{Lock, UnlockTerms};
use super::nonce::{NonceFault, NonceId, Nonces};
use super::operator::DenyTerms;
use super::request::{Remembered, Request, RequestId, State};
use super::token::{Token, TokenDigest, TokenFault, TokenId};
use crate::access::{CertificateRecord, User, UserId, Username};
use crate::audit::{Closing, TokenEnd};
use crate::authn::Users;
use crate::clock::{Duration, Instant};
use crate::config::RegistryRule;

/// Denials that are kept for one name; the oldest is forgotten first.
const DENIED_PER_NAME: usize = 4;

/// What lapses in one batch.
const AT_ONCE: usize = 1000;

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) pending_ttl: Duration,
    pub(super) pending: Bounds,
    pub(super) denied_for: Duration,
    /// A request that nobody waits for and that was silent for so long may give way to a new one of its own source.
    pub(super) silence: Duration,
    /// Must a new request hold a nonce?
    pub(super) require_nonce: bool,
    /// How many people must grant: 1 or 2.
    pub(super) approvals: u8,
    /// How long after its end a certificate can still be renewed; zero: not at all.
    pub(super) renew_grace: Duration,
}

/// The answer to a message.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// On record, new or not.
    Pending(RequestId),
    /// It became a user, whose proof was just given.
    Granted { id: RequestId, user: Arc<User>, certificate: Option<Box<CertificateRecord>> },
    /// Turned down, not long ago.
    Denied { reason: String },
    /// Turned down by this rule, and not on record.
    Barred { rule: String, reason: String },
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
    Superseded,
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
    Nonce(NonceFault),
    /// The token is not good here and now. Which one and why is for the operator.
    Token(Option<TokenId>, TokenFault),
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
    /// A name is open to a new key.
    Open(Opening),
    /// It is so no more.
    Close { username: Username, why: Closing },
    /// A user has a newer certificate.
    Renewed { user: UserId, renewal: Renewal },
    /// The user is no more.
    ForgetRenewal { user: UserId },
    /// A nonce is good no more. In memory alone: nonces end with the run.
    Spend { nonce: NonceId, at: Instant },
    /// The open door has let a new request in. In memory alone: a restart shuts it.
    Admitted,
    /// A token, new or after a use.
    PutToken(Box<Token>),
    /// A token that is good no more.
    EndToken { id: TokenId, why: TokenEnd },
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
    /// The user that it became, or that it was to replace, is no more.
    UserGone,
    /// The user that it became has another proof now.
    Replaced,
    /// The operator has shut the name again.
    Cancelled,
}

/// Why no decision can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undecidable {
    NotFound,
    NotPending(&'static str),
    Unpaired,
}

/// The table and the lock.
pub(super) struct Core {
    limits: Limits,
    lock: Lock,
    nonces: Nonces,
    /// In the order of their names, which is that of their arrival.
    requests: BTreeMap<RequestId, Request>,
    /// INVARIANT: each pending or granted request is here under its name, and no name has two; but for those that wait to replace a user.
    holders: HashMap<Username, RequestId>,
    /// INVARIANT: exactly the pending requests that wait to replace a user, and no name has two.
    replacing: HashMap<Username, RequestId>,
    /// INVARIANT: each key of these two is here, and no key has two.
    keys: HashMap<String, RequestId>,
    /// Denied requests, oldest first.
    denied: HashMap<Username, Vec<RequestId>>,
    places: Places,
    /// When pending requests lapse and denied ones are forgotten.
    deadlines: BTreeSet<(Timestamp, RequestId)>,
    /// What users got by renewal last.
    renewals: HashMap<UserId, Renewal>,
    /// Names that are open to a new key.
    openings: HashMap<Username, Opening>,
    tokens: BTreeMap<TokenId, Token>,
    rules: Vec<RegistryRule>,
    /// INVARIANT: for each rule by name, the requests that it has granted and that are on record.
    by_rule: HashMap<String, usize>,
    /// INVARIANT: exactly the tokens, by their hashes.
    token_of: HashMap<TokenDigest, TokenId>,
    flights: Flights,
}

impl Core {
    /// An empty table behind a locked door.
    pub(super) fn new(limits: Limits, nonces: Nonces) -> Self {
        Self {
            limits,
            lock: Lock::default(),
            nonces,
            requests: BTreeMap::new(),
            holders: HashMap::new(),
            replacing: HashMap::new(),
            keys: HashMap::new(),
            denied: HashMap::new(),
            places: Places::default(),
            deadlines: BTreeSet::new(),
            renewals: HashMap::new(),
            openings: HashMap::new(),
            tokens: BTreeMap::new(),
            token_of: HashMap::new(),
            rules: Vec::new(),
            by_rule: HashMap::new(),
            flights: Flights::default(),
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
        self.places.taken()
    }

    pub(super) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// The pending request that has this name.
    pub(super) fn pending_of(&self, name: &Username) -> Option<RequestId> {
        let request = self.holders.get(name).and_then(|id| self.requests.get(id))?;
        (request.state == State::Pending).then_some(request.id)
    }

    // Questions.

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
    pub(super) fn deny(
        &self,
        id: RequestId,
        terms: DenyTerms,
        by: String,
        now: Now,
    ) -> Result<Vec<Change>, Undecidable> {
        let mut request = self.decidable(id, now)?.clone();
        let forget_at = now.wall.checked_add(self.limits.denied_for).unwrap_or(Timestamp::MAX);
        let mut changes = Vec::new();
        if let Some(earlier) = self.denied.get(&request.username).filter(|them| them.len() >= DENIED_PER_NAME)
            && let Some(oldest) = earlier.first()
        {
            changes.push(Change::Remove { id: *oldest, why: Removal::Forgotten });
        }
        let DenyTerms { reason, comment } = terms;
        request.approved = None;
        request.state = State::Denied { reason, by, at: now.wall, forget_at, comment };
        changes.push(Change::Put(Box::new(request)));
        Ok(changes)
    }

    /// Where a request stands, for those who have given its proof already.
    pub(super) fn verdict(&self, id: RequestId, users: &dyn Users, now: Now) -> Option<Verdict> {
        self.requests.get(&id).map(|request| standing(request, users, now))
    }

    /// Life of the certificates of this user, where the rule that has made it says so.
    pub(super) fn validity(&self, user: &User) -> Option<Duration> {
        let request = self.holders.get(&user.username).and_then(|id| self.requests.get(id))?;
        let is_its = matches!(request.state, State::Granted { user: made, .. } if made == user.id);
        request.validity.filter(|_| is_its).map(Duration::from_secs)
    }

    /// What time has made void, at most [`AT_ONCE`] of it.
    pub(super) fn expire(&self, now: Now) -> Vec<Change> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now.wall);
        let mut changes: Vec<_> = due
            .take(AT_ONCE)
            .filter_map(|(_, id)| {
                let why = match self.requests.get(id)?.state {
                    State::Pending => Removal::Expired,
                    State::Denied { .. } => Removal::Forgotten,
                    State::Granted { .. } => return None,
                };
                Some(Change::Remove { id: *id, why })
            })
            .collect();
        changes.extend(self.lapsed_openings(now));
        changes.extend(self.lapsed_tokens(now));
        changes
    }

    /// Requests, renewals and openings whose user is no more, at most [`AT_ONCE`] of each. Costs the whole table.
    pub(super) fn orphans(&self, users: &dyn Users) -> Vec<Change> {
        let gone = |request: &&Request| is_orphan(request, users) || waits_for_nobody(request, users);
        let orphans = self.requests.values().filter(gone).take(AT_ONCE);
        let orphans = orphans.map(|request| Change::Remove { id: request.id, why: Removal::UserGone });
        let orphans = orphans.chain(self.orphaned_renewals(users, AT_ONCE));
        orphans.chain(self.orphaned_openings(users)).collect()
    }

    // Inputs.

    /// Makes a change that a question has named, or that the store has held.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Insert(request) | Change::Put(request) => self.put(*request),
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
            Change::Open(opening) => self.restore_opening(opening),
            Change::Close { username, .. } => {
                self.openings.remove(&username);
            }
            Change::Renewed { user, renewal } => {
                self.renewals.insert(user, renewal);
            }
            Change::ForgetRenewal { user } => {
                self.renewals.remove(&user);
            }
            Change::Spend { nonce, at } => self.nonces.spend(nonce, at),
            // Counted when it took off.
            Change::Admitted => {}
            Change::PutToken(token) => self.put_token(*token),
            Change::EndToken { id, .. } => self.end_token(id),
        }
    }

    /// Takes a request of the store in. `false`: its name or key has a holder already, so the store is damaged.
    pub(super) fn restore(&mut self, request: Request) -> bool {
        let held = !matches!(request.state, State::Denied { .. })
            && (self.place_of(&request).contains_key(&request.username)
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
        self.flights.door_moved();
        true
    }

    /// Shuts the door. Was it open?
    pub(super) fn lock_now(&mut self) -> bool {
        self.flights.door_moved();
        matches!(std::mem::take(&mut self.lock), Lock::Open { .. })
    }

    fn put(&mut self, request: Request) {
        let id = request.id;
        self.take(id);
        match &request.state {
            State::Pending => {
                self.places.insert(request.source.into(), id);
                self.deadlines.insert((request.expires_at, id));
                self.hold(&request);
            }
            State::Granted { .. } => {
                if let Some(rule) = &request.rule {
                    *self.by_rule.entry(rule.clone()).or_default() += 1;
                }
                self.hold(&request);
            }
            State::Denied { forget_at, .. } => {
                self.deadlines.insert((*forget_at, id));
                self.denied.entry(request.username.clone()).or_default().push(id);
            }
        }
        self.requests.insert(id, request);
    }

    /// Where a pending or granted request holds its name.
    fn place_of(&self, request: &Request) -> &HashMap<Username, RequestId> {
        if request.state == State::Pending && request.replaces.is_some() { &self.replacing } else { &self.holders }
    }

    fn hold(&mut self, request: &Request) {
        let waits = request.state == State::Pending && request.replaces.is_some();
        let place = if waits { &mut self.replacing } else { &mut self.holders };
        place.insert(request.username.clone(), request.id);
        if let Some(key) = &request.key {
            self.keys.insert(key.clone(), request.id);
        }
    }

    fn take(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        match &request.state {
            State::Pending => {
                self.places.remove(request.source.into(), id);
                self.deadlines.remove(&(request.expires_at, id));
            }
            State::Granted { .. } => {
                if let Some(rule) = &request.rule {
                    one_less(&mut self.by_rule, rule);
                }
            }
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
        for place in [&mut self.holders, &mut self.replacing] {
            if place.get(&request.username) == Some(&id) {
                place.remove(&request.username);
            }
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
        self.places.check();
        assert_eq!(self.pending(), pending.len());
        for request in pending {
            assert!(self.places.of(request.source.into()).any(|id| id == request.id));
        }
        let holders: Vec<_> = self.requests.values().filter(|it| !matches!(it.state, State::Denied { .. })).collect();
        assert_eq!(self.holders.len() + self.replacing.len(), holders.len());
        assert_eq!(self.keys.len(), holders.iter().filter(|it| it.key.is_some()).count());
        for request in holders {
            assert_eq!(self.place_of(request)[&request.username], request.id);
            assert!(request.key.as_ref().is_none_or(|key| self.keys[key] == request.id));
        }
        let denied = self.requests.values().filter(|it| matches!(it.state, State::Denied { .. })).count();
        assert_eq!(self.denied.values().map(Vec::len).sum::<usize>(), denied);
        assert!(self.denied.values().all(|ids| (1..=DENIED_PER_NAME).contains(&ids.len())));
        assert_eq!(self.deadlines.len(), self.pending() + denied);
        assert!(self.pending() <= self.limits.pending.all);
        let mut by_rule: HashMap<String, usize> = HashMap::new();
        for request in self.requests.values().filter(|it| matches!(it.state, State::Granted { .. })) {
            if let Some(rule) = &request.rule {
                *by_rule.entry(rule.clone()).or_default() += 1;
            }
        }
        assert_eq!(self.by_rule, by_rule);
        assert_eq!(self.tokens.len(), self.token_of.len());
        for (id, token) in &self.tokens {
            assert_eq!((token.view.id, self.token_of[&token.digest]), (*id, *id));
            assert!(token.view.used <= token.view.uses);
        }
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

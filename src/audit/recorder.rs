//! Refusals and failed logins on their way into the log: many of a kind become one record.
//!
//! Entering: what was refused, from every connection, under its gate: a look into a small table, never a wait for the disk.
//! Leaving: at most [`LIMIT`] records of each kind per interval. What is beyond that is counted and not told apart, so
//! that nobody makes the log grow by being refused.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::event::{Event, Pattern, Place, Rule, UserRef, Word};
use crate::access::Policy;
use crate::metrics::Metrics;

/// Records of failed logins, claims and registrations in one interval, and of refusals.
pub(super) const LIMIT: usize = 256;

/// Topic patterns of one user and action in one interval; the rest is `#`.
pub(super) const PATTERNS: u8 = 8;

/// A login that failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailedLogin {
    /// Whom it named, if that is anybody.
    pub user: Option<UserRef>,
    /// From where.
    pub address: IpAddr,
    /// Name of the listener.
    pub listener: Word,
    /// Why.
    pub cause: Word,
}

/// Whom a client names, if that is anybody. Nobody else's name is written down, here or in the log: it may be a password in the wrong
/// field.
pub fn named(policy: &Policy, username: Option<&str>) -> Option<UserRef> {
    let user = policy.user_named(&username?.parse().ok()?)?;
    Some(UserRef { id: user.id, username: user.username.clone() })
}

impl FailedLogin {
    /// Of whoever gave this name, or none.
    pub fn new(policy: &Policy, username: Option<&str>, address: IpAddr, listener: &str, cause: &'static str) -> Self {
        Self {
            user: named(policy, username),
            address: address.to_canonical(),
            listener: Word::name(listener),
            cause: cause.into(),
        }
    }
}

/// What was shown as a claim token, and was not good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailedClaim {
    /// By its id; `None`: it is the secret of none.
    pub token: Option<Uuid>,
    /// From where.
    pub address: IpAddr,
    /// Name of the listener.
    pub listener: Word,
    /// Why.
    pub cause: Word,
}

/// A registration or a renewal that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailedRegistration {
    /// `register`, `renew`.
    pub operation: Word,
    /// Whose name it was for, if that is anybody's.
    pub user: Option<UserRef>,
    /// The pending request that has the name.
    pub request: Option<Uuid>,
    /// From where.
    pub address: IpAddr,
    /// Name of the listener.
    pub listener: Word,
    /// Why: the `error` of the answer.
    pub cause: Word,
}

/// Whoever did not get in.
#[derive(PartialEq, Eq, Hash)]
enum Failed {
    Login(FailedLogin),
    Claim(FailedClaim),
    Registration(FailedRegistration),
}

/// Something that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// `None`: a client that enrols.
    pub user: Option<UserRef>,
    /// Publish, subscribe, receive, will; `http_read` and `http_write`.
    pub action: Word,
    /// Why, beyond the rule.
    pub cause: Word,
}

struct Tally {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Tally {
    fn one(now: Timestamp) -> Self {
        Self { count: 1, first: now, last: now }
    }

    fn more(&mut self, now: Timestamp) {
        self.count = self.count.saturating_add(1);
        self.last = now;
    }
}

/// Patterns of one user and action, each with the rule that decided the first time.
#[derive(Default)]
struct OfOne(Vec<(Pattern, Option<Rule>, Tally)>);

#[derive(Default)]
struct Waiting {
    /// And claims and registrations.
    logins: HashMap<Failed, Tally>,
    refusals: HashMap<Refused, OfOne>,
    /// Records that `refusals` will make.
    patterns: usize,
    more_logins: u64,
    more_refusals: u64,
}

/// Collects for one interval.
pub struct Recorder {
    waiting: Mutex<Waiting>,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// Nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { waiting: Mutex::default(), metrics }
    }

    /// A login has failed.
    pub fn login_failed(&self, login: FailedLogin, now: Timestamp) {
        self.failed(Failed::Login(login), now);
    }

    /// A claim has failed.
    pub fn claim_failed(&self, claim: FailedClaim, now: Timestamp) {
        self.failed(Failed::Claim(claim), now);
    }

    /// A registration has failed.
    pub fn registration_failed(&self, registration: FailedRegistration, now: Timestamp) {
        self.failed(Failed::Registration(registration), now);
    }

    fn failed(&self, failed: Failed, now: Timestamp) {
        let mut waiting = self.waiting.lock();
        let room = waiting.logins.len() < LIMIT;
        match waiting.logins.entry(failed) {
            Slot::Occupied(mut known) => {
                known.get_mut().more(now);
                self.metrics.audit_collapsed.inc();
            }
            Slot::Vacant(place) if room => {
                place.insert(Tally::one(now));
            }
            Slot::Vacant(_) => {
                waiting.more_logins += 1;
                self.metrics.audit_dropped.inc();
            }
        }
    }

    /// Something was refused; `rule` is asked once for each record.
    pub fn refused(&self, refused: Refused, topic: &str, now: Timestamp, rule: impl FnOnce() -> Option<Rule>) {
        let mut pattern = Pattern::of(topic);
        if self.known(&refused, &mut pattern, now) {
            return;
        }
        // Outside of the lock: it asks the policy.
        let rule = rule();
        let mut waiting = self.waiting.lock();
        if waiting.patterns >= LIMIT {
            waiting.more_refusals += 1;
            self.metrics.audit_dropped.inc();
            return;
        }
        let of_one = waiting.refusals.entry(refused).or_default();
        if let Some((_, _, count)) = of_one.0.iter_mut().find(|(known, ..)| *known == pattern) {
            // Somebody else of the same user was faster.
            count.more(now);
            self.metrics.audit_collapsed.inc();
        } else {
            of_one.0.push((pattern, rule, Tally::one(now)));
            waiting.patterns += 1;
        }
    }

    /// Counts it where there is a record for it. Widens the pattern when there are too many of this user.
    fn known(&self, refused: &Refused, pattern: &mut Pattern, now: Timestamp) -> bool {
        let mut waiting = self.waiting.lock();
        let Some(of_one) = waiting.refusals.get_mut(refused) else { return false };
        if !of_one.0.iter().any(|(known, ..)| known == pattern) && of_one.0.len() >= usize::from(PATTERNS) {
            *pattern = Pattern::any();
        }
        let Some((_, _, count)) = of_one.0.iter_mut().find(|(known, ..)| known == pattern) else { return false };
        count.more(now);
        self.metrics.audit_collapsed.inc();
        true
    }

    /// What the interval came to, oldest first.
    pub fn take(&self) -> Vec<Event> {
        let Waiting { logins, refusals, more_logins, more_refusals, .. } = std::mem::take(&mut *self.waiting.lock());
        let mut events: Vec<(Timestamp, Event)> = Vec::with_capacity(logins.len() + refusals.len() + 1);
        let from = |address, listener| Place::Network { address, listener: Some(listener), client_id: None };
        for (failed, Tally { count, first, last }) in logins {
            let event = match failed {
                Failed::Login(FailedLogin { user, address, listener, cause }) => {
                    Event::LoginsFailed { user, from: from(address, listener), cause, count, first, last }
                }
                Failed::Claim(FailedClaim { token, address, listener, cause }) => {
                    Event::TokensRefused { token, from: from(address, listener), cause, count, first, last }
                }
                Failed::Registration(FailedRegistration { operation, user, request, address, listener, cause }) => {
                    let from = from(address, listener);
                    Event::RegistrationsRefused { operation, user, request, from, cause, count, first, last }
                }
            };
            events.push((first, event));
        }
        for (refused, of_one) in refusals {
            for (topic, rule, Tally { count, first, last }) in of_one.0 {
                let Refused { user, action, cause } = refused.clone();
                events.push((first, Event::Refused { user, action, topic, cause, rule, count, first, last }));
            }
        }
        events.sort_by_key(|(first, _)| *first);
        let mut events: Vec<Event> = events.into_iter().map(|(_, event)| event).collect();
        if more_logins > 0 || more_refusals > 0 {
            events.push(Event::NotDetailed { logins: more_logins, refusals: more_refusals });
        }
        events
    }

    /// These could not be written.
    pub(super) fn lost(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::LoginsFailed { count, .. }
                | Event::TokensRefused { count, .. }
                | Event::RegistrationsRefused { count, .. }
                | Event::Refused { count, .. } => {
                    self.metrics.audit_dropped.add(*count);
                }
                // Counted when they came.
                _ => {}
            }
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

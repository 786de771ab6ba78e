//! What is on its way to the disk: nobody else decides about it until it is known what became of it.
//!
//! Entering: changes that a question has named, before they are written. Leaving: [`Claims`], to be held while they are, so that
//! those who touch none of it go on meanwhile and share the flush. INVARIANT: no name, no public key, no nonce and no token is
//! held twice, and no bound counts less than what is held. Never: a change of the table.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::nonce::NonceId;
use super::super::request::{Request, State};
use super::super::token::TokenId;
use super::{Change, Core, one_less};
use crate::access::Username;
use crate::authn::Source;

/// What a decision touches: names with everything that is known of them, public keys, nonces, tokens; and the place that a new
/// request takes, or that of a user whom a rule makes.
#[derive(Debug, Default)]
pub(in crate::registry) struct Claims {
    names: HashSet<Username>,
    keys: HashSet<String>,
    nonces: BTreeSet<NonceId>,
    tokens: BTreeSet<TokenId>,
    place: Option<Source>,
    rule: Option<String>,
    /// Of the unlock that it was admitted by.
    admitted: bool,
}

/// The claims that are held.
#[derive(Default)]
pub(super) struct Flights {
    names: HashSet<Username>,
    keys: HashSet<String>,
    nonces: BTreeSet<NonceId>,
    tokens: BTreeSet<TokenId>,
    places: HashMap<Source, usize>,
    /// What each rule is granting.
    rules: HashMap<String, usize>,
    unlocks: u64,
}

/// Claims that are held until they [land](Core::land).
#[must_use = "what is held is to be given back"]
#[derive(Debug)]
pub(in crate::registry) struct Flight {
    claims: Claims,
    unlock: u64,
}

impl Claims {
    /// On a name, and on a public key.
    pub(in crate::registry) fn on(name: &Username, key: Option<&str>) -> Self {
        let keys = key.map(str::to_owned).into_iter().collect();
        Self { names: HashSet::from([name.clone()]), keys, ..Self::default() }
    }

    /// And on the name and the key of a request.
    pub(in crate::registry) fn and_request(mut self, request: &Request) -> Self {
        self.touch(request);
        self
    }

    /// And on a nonce.
    pub(in crate::registry) fn and_nonce(mut self, nonce: Option<NonceId>) -> Self {
        self.nonces.extend(nonce);
        self
    }

    /// And on one of the users that a rule may make.
    pub(in crate::registry) fn and_rule(mut self, rule: Option<&str>) -> Self {
        self.rule = rule.map(str::to_owned);
        self
    }

    fn touch(&mut self, request: &Request) {
        self.names.insert(request.username.clone());
        // A key that was denied under this name may be anybody's.
        self.keys.extend(request.key.clone().filter(|_| !matches!(request.state, State::Denied { .. })));
    }
}

impl Flights {
    /// Requests that are being recorded, by their sources.
    pub(super) fn inserts(&self) -> &HashMap<Source, usize> {
        &self.places
    }

    /// Users that this rule is making.
    pub(super) fn grants_of(&self, rule: &str) -> usize {
        self.rules.get(rule).copied().unwrap_or_default()
    }

    /// The door was opened or shut: what was admitted before has nothing to give back.
    pub(super) fn door_moved(&mut self) {
        self.unlocks = self.unlocks.wrapping_add(1);
    }
}

impl Core {
    /// What these changes touch.
    pub(in crate::registry) fn claims(&self, changes: &[Change]) -> Claims {
        let mut claims = Claims::default();
        for change in changes {
            match change {
                Change::Insert(request) => {
                    claims.touch(request);
                    claims.place = (request.state == State::Pending).then(|| request.source.into());
                }
                Change::Put(request) => claims.touch(request),
                Change::Remove { id, .. } => {
                    if let Some(request) = self.get(*id) {
                        claims.touch(request);
                    }
                }
                Change::Open(opening) => {
                    claims.names.insert(opening.username.clone());
                }
                Change::Close { username, .. } => {
                    claims.names.insert(username.clone());
                }
                Change::Spend { nonce, .. } => {
                    claims.nonces.insert(*nonce);
                }
                Change::Admitted => claims.admitted = true,
                Change::PutToken(token) => {
                    claims.tokens.insert(token.view.id);
                }
                Change::EndToken { id, .. } => {
                    claims.tokens.insert(*id);
                }
                // A renewal claims the name and the key by itself.
                Change::Seen { .. } | Change::Renewed { .. } | Change::ForgetRenewal { .. } => {}
            }
        }
        claims
    }

    /// Is any of it on its way already? Then it has to be waited for.
    pub(in crate::registry) fn is_in_flight(&self, claims: &Claims) -> bool {
        let flights = &self.flights;
        claims.names.iter().any(|name| flights.names.contains(name))
            || claims.keys.iter().any(|key| flights.keys.contains(key))
            || claims.nonces.iter().any(|nonce| flights.nonces.contains(nonce))
            || claims.tokens.iter().any(|token| flights.tokens.contains(token))
    }

    /// Holds what is about to be written; none of it [is in flight](Core::is_in_flight).
    pub(in crate::registry) fn take_off(&mut self, claims: Claims) -> Flight {
        debug_assert!(!self.is_in_flight(&claims), "{claims:?}");
        self.flights.names.extend(claims.names.iter().cloned());
        self.flights.keys.extend(claims.keys.iter().cloned());
        self.flights.nonces.extend(&claims.nonces);
        self.flights.tokens.extend(&claims.tokens);
        if let Some(source) = claims.place {
            *self.flights.places.entry(source).or_default() += 1;
        }
        if let Some(rule) = &claims.rule {
            *self.flights.rules.entry(rule.clone()).or_default() += 1;
        }
        if claims.admitted {
            self.lock.spend();
        }
        Flight { claims, unlock: self.flights.unlocks }
    }

    /// Gives back what was held. What was written is to be applied before anybody else asks.
    pub(in crate::registry) fn land(&mut self, flight: &Flight, written: bool) {
        let Flight { claims, unlock } = flight;
        let flights = &mut self.flights;
        for name in &claims.names {
            flights.names.remove(name);
        }
        for key in &claims.keys {
            flights.keys.remove(key);
        }
        for nonce in &claims.nonces {
            flights.nonces.remove(nonce);
        }
        for token in &claims.tokens {
            flights.tokens.remove(token);
        }
        if let Some(source) = claims.place {
            one_less(&mut flights.places, &source);
        }
        if let Some(rule) = &claims.rule {
            one_less(&mut flights.rules, rule);
        }
        if claims.admitted && !written && *unlock == flights.unlocks {
            self.lock.give_back();
        }
    }
}

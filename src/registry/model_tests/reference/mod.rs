//! The registry as its protocol describes it: lists that are scanned, proofs in clear, numbers for names, keys, people and time.
//!
//! Entering: an [`Op`]. Leaving: what is to be answered and pushed, and a [`Picture`] of all that may be seen. Written from the protocol
//! and the manual, not from the code; where they leave open which of several faults is told, each of them is right.

mod certificates;
mod deciding;
mod door;
mod words;

use certificates::Certificate;
use deciding::{Approval, Person};
use door::{Opening, Token, Unlock};
pub(super) use words::*;

pub(super) const PENDING_TTL: Time = 1_000;
pub(super) const DENIED_FOR: Time = 2_000;
pub(super) const UNLOCK_FOR: Time = 300;
pub(super) const NONCE_LIFE: Time = 300;
pub(super) const VALIDITY: Time = 9_000;
pub(super) const GRACE: Time = 3_000;
pub(super) const OPEN_FOR: Time = 900;
pub(super) const MAX_PENDING: usize = 4;
pub(super) const MAX_PER_SOURCE: usize = 2;
/// End of the users that are granted [`Terms::SensorForAWhile`].
pub(super) const ENDS: Time = 12_000;
pub(super) const PEOPLE: usize = 2;
/// Keys from this number on are Ed25519.
pub(super) const ED25519: usize = 4;

const GRANTS: RuleGrants = RuleGrants { terms: Terms::Sensor, while_locked: false, limit: 100 };
const ANY: Rule = Rule { from: None, listener: None, ed25519: false, name: None, grants: None };
const HERE: Rule = Rule { from: Some(0), grants: Some(GRANTS), ..ANY };

/// What stands in broker.toml, one of these at a time.
pub(super) const RULES: [&[Rule]; 6] = [
    &[],
    &[HERE],
    &[
        Rule { grants: Some(RuleGrants { terms: Terms::Nothing, while_locked: true, limit: 1 }), ..HERE },
        Rule { listener: Some(1), grants: Some(GRANTS), ..ANY },
        Rule { name: Some(1), ..ANY },
    ],
    &[Rule { ed25519: true, grants: Some(GRANTS), ..ANY }, Rule { from: Some(1), ..ANY }],
    &[
        Rule { listener: Some(1), ..ANY },
        Rule { name: Some(0), grants: Some(RuleGrants { while_locked: true, ..GRANTS }), ..HERE },
    ],
    &[
        Rule { ed25519: true, ..ANY },
        Rule { listener: Some(1), grants: Some(RuleGrants { while_locked: true, ..GRANTS }), ..ANY },
    ],
];

/// The rule of this number in this one of [`RULES`] has this name.
pub(super) fn rule_name(rules: usize, number: usize) -> String {
    format!("rule-{rules}-{number}")
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Pending,
    Granted { user: usize, certificate: Option<usize> },
    Denied { until: Time },
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) number: usize,
    pub(super) name: usize,
    proof: Proof,
    from: usize,
    /// By a CONNECT.
    implicit: bool,
    /// Could the device be shown its code?
    code_shown: bool,
    expires: Time,
    written: Time,
    last_seen: Time,
    waiters: Vec<usize>,
    replaces: Option<usize>,
    token: Option<usize>,
    /// The rule that has granted it.
    rule: Option<String>,
    /// The first of two.
    approved: Option<Approval>,
    pub(super) state: State,
}

#[derive(Clone, Debug)]
pub(super) struct User {
    number: usize,
    pub(super) name: usize,
    proof: Proof,
    enabled: bool,
    terms: Terms,
    certificates: Vec<Certificate>,
    /// The newest certificate by renewal, and the key of its CSR.
    renewed: Option<(usize, usize)>,
    /// When it may have its full share of certificates again.
    issues_full: Time,
}

#[derive(Clone, Debug)]
struct Nonce {
    from: usize,
    drawn: Time,
    run: usize,
    spent: bool,
}

/// What the world is like from the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct World {
    pub(super) require_nonce: bool,
    /// Must two people grant?
    pub(super) two_people: bool,
    /// Is the disk one that may fail?
    pub(super) faulty: bool,
    /// Which of [`RULES`].
    pub(super) rules: usize,
}

/// The registry, and the users.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) world: World,
    now: Time,
    run: usize,
    pub(super) requests: Vec<Request>,
    /// Requests ever made.
    pub(super) made: usize,
    users: Vec<User>,
    users_made: usize,
    issued: usize,
    nonces: Vec<Nonce>,
    tokens: Vec<Token>,
    /// Tokens ever made.
    pub(super) tokens_made: usize,
    people: Vec<Option<Person>>,
    people_made: [usize; PEOPLE],
    unlock: Option<Unlock>,
    openings: Vec<Opening>,
    /// Did the last deed change anything durable?
    wrote: bool,
    /// Did the broker stop at the last deed, and does what was not synced survive?
    pub(super) stopped: Option<bool>,
    /// The answer to the last deed, and the statuses that were pushed to connections.
    pub(super) expect: Option<Expect>,
    pub(super) pushed: Vec<(usize, u16)>,
}

impl Request {
    /// What it was made by.
    pub(super) fn asked(&self) -> (usize, Proof) {
        (self.name, self.proof)
    }
}

impl Model {
    pub(super) fn new(world: World) -> Self {
        Self { world, people: vec![None; PEOPLE], ..Self::default() }
    }

    pub(super) fn nonces(&self) -> usize {
        self.nonces.len()
    }

    pub(super) fn run(&mut self, op: Op) {
        let before = self.clone();
        (self.wrote, self.pushed, self.stopped) = (false, Vec::new(), None);
        let expect = self.deed(op.deed);
        let mishap = op.mishap.filter(|_| self.wrote && self.world.faulty);
        let Some(mishap) = mishap else {
            self.expect = Some(expect);
            return;
        };
        let shares: Vec<_> = self.users.iter().map(|user| (user.number, user.issues_full)).collect();
        let applied = matches!(mishap, Mishap::NotSynced { survives: true } | Mishap::AnswerLost);
        if applied {
            // Nobody has heard of it.
            for certificate in self.users.iter_mut().flat_map(|user| &mut user.certificates) {
                certificate.collected &= before.certificate(certificate.number).is_some_and(|it| it.collected);
            }
            for token in self.tokens.iter_mut().filter(|it| before.tokens_made <= it.number) {
                token.told = false;
            }
        } else {
            *self = before;
            for user in &mut self.users {
                user.issues_full = shares.iter().find(|it| it.0 == user.number).map_or(0, |it| it.1);
            }
        }
        self.stopped = match mishap {
            Mishap::Refused => None,
            Mishap::NotSynced { survives } => Some(survives),
            Mishap::AnswerLost => Some(false),
        };
        if self.stopped.is_some() {
            self.restart();
        }
        self.pushed = Vec::new();
        self.expect = Some(match op.deed {
            // Whatever has happened, it must not show.
            Deed::Knock(_) => Expect::Waiting { named: false },
            _ => Expect::Failed,
        });
    }

    pub(super) fn picture(&self) -> Picture {
        let listed = self.requests.iter().filter(|it| !self.is_gone(it));
        let mut requests: Vec<_> = listed
            .clone()
            .map(|it| RequestSeen {
                name: it.name,
                key: it.proof.key,
                password: it.proof.password.is_some(),
                state: match it.state {
                    State::Pending => "pending",
                    State::Granted { .. } => "granted",
                    State::Denied { .. } => "denied",
                },
                replaces: it.replaces.is_some(),
                token: it.token,
                rule: it.rule.clone(),
                approved: it.approved.as_ref().map(|it| (it.who, it.terms)),
            })
            .collect();
        requests.sort_unstable();
        let mut users: Vec<_> = self
            .users
            .iter()
            .map(|user| {
                let mut certificates: Vec<_> =
                    user.certificates.iter().map(|it| (it.key, it.until, it.revoked)).collect();
                certificates.sort_unstable();
                let (name, enabled, terms) = (user.name, user.enabled, user.terms);
                UserSeen { name, enabled, password: user.proof.password.is_some(), terms, certificates }
            })
            .collect();
        users.sort_unstable();
        let open = self.openings.iter().filter(|it| self.now < it.until && self.user(it.user).is_some());
        let mut open: Vec<_> = open.map(|it| it.name).collect();
        open.sort_unstable();
        Picture {
            pending: listed.filter(|it| it.state == State::Pending).count(),
            requests,
            users,
            open,
            tokens: self.tokens.iter().filter(|it| self.now < it.until).map(|it| (it.number, it.used)).collect(),
            door: match &self.unlock {
                None => DoorSeen::Locked,
                Some(it) => it.left.map_or(DoorSeen::Open, DoorSeen::Counted),
            },
        }
    }

    pub(super) fn user_named(&self, name: usize) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    fn deed(&mut self, deed: Deed) -> Expect {
        match deed {
            Deed::Register(it) => self.register_and_wait(it),
            Deed::Knock(it) => self.knock(it),
            Deed::Grant { request, who, terms, unpaired } => self.grant(request, who, terms, unpaired),
            Deed::Deny { request, who } => self.deny(request, who),
            Deed::Unlock { count, name, from, listener, implicit } => {
                if implicit && self.world.require_nonce {
                    return Expect::Not(422);
                }
                self.unlock =
                    Some(Unlock { until: self.now + UNLOCK_FOR, left: count, name, from, listener, implicit });
                Expect::Done
            }
            Deed::Lock => {
                self.unlock = None;
                Expect::Done
            }
            Deed::CreateToken { who, uses, lasts, name, from, terms } => {
                let (author, until) = (self.identity(who), self.now + lasts);
                self.create_token(Token { number: 0, told: true, author, uses, used: 0, until, name, from, terms })
            }
            Deed::RevokeToken { token, who } => self.revoke_token(token, who),
            Deed::Person { person, rights } => {
                self.set_person(person, rights);
                Expect::Nothing
            }
            Deed::Open(name) => {
                let Some(user) = self.user_named(name).map(|user| user.number) else { return Expect::Not(404) };
                self.openings.retain(|it| it.name != name);
                self.openings.push(Opening { name, user, until: self.now + OPEN_FOR });
                self.wrote = true;
                Expect::Done
            }
            Deed::Cancel(name) => {
                if !self.openings.iter().any(|it| it.name == name) {
                    return Expect::Not(404);
                }
                self.openings.retain(|it| it.name != name);
                self.requests.retain(|it| !(it.name == name && it.state == State::Pending && it.replaces.is_some()));
                self.wrote = true;
                Expect::Done
            }
            Deed::Renew { name, certificate, key } => {
                let old = self.chosen(name, certificate).map(|it| it.number);
                let expect = self.renew(name, old, key, None);
                self.collect(&expect);
                expect
            }
            Deed::RenewLapsed { name, certificate, key, from, nonce } => {
                let Some(old) = self.chosen(name, certificate).filter(|it| it.collected) else {
                    return Expect::Nothing;
                };
                let expect = self.renew(name, Some(old.number), key, Some((from, nonce)));
                self.collect(&expect);
                expect
            }
            Deed::Connect { name, certificate } => {
                self.connect(name, certificate);
                Expect::Nothing
            }
            Deed::Revoke { name, certificate } => {
                if let Some(number) = self.chosen(name, certificate).map(|it| it.number)
                    && let Some(it) = self.certificate_mut(number)
                    && it.revoked == Revoked::No
                {
                    it.revoked = Revoked::ForGood;
                }
                Expect::Nothing
            }
            Deed::Enable { name, enabled } => {
                if let Some(user) = self.users.iter_mut().find(|user| user.name == name) {
                    user.enabled = enabled;
                }
                Expect::Nothing
            }
            Deed::Delete(name) => {
                self.users.retain(|user| user.name != name);
                Expect::Nothing
            }
            Deed::TakeName(name) => {
                if self.user_named(name).is_none() {
                    self.make_user(name, Proof { key: None, password: None }, Terms::Nothing, Vec::new());
                }
                Expect::Nothing
            }
            Deed::Challenge(from) => {
                self.nonces.push(Nonce { from, drawn: self.now, run: self.run, spent: false });
                Expect::Nothing
            }
            Deed::Advance(by) => {
                self.now += by;
                self.tick();
                Expect::Nothing
            }
            Deed::Restart(rules) => {
                self.world.rules = rules;
                self.restart();
                Expect::Nothing
            }
        }
    }

    /// The lock is shut, nonces are void; what was only heard and not decided is forgotten.
    fn restart(&mut self) {
        self.run += 1;
        self.unlock = None;
        for request in &mut self.requests {
            request.waiters.clear();
            request.last_seen = request.written;
        }
        for user in &mut self.users {
            user.issues_full = 0;
        }
    }

    /// What time has made void.
    pub(super) fn tick(&mut self) {
        let now = self.now;
        if self.unlock.as_ref().is_some_and(|it| it.until <= now || it.left == Some(0)) {
            self.unlock = None;
        }
        let gone: Vec<_> = self.requests.iter().filter(|it| self.is_gone(it)).map(|it| it.number).collect();
        self.requests.retain(|it| !gone.contains(&it.number));
        let users: Vec<_> = self.users.iter().map(|user| user.number).collect();
        self.openings.retain(|it| now < it.until && users.contains(&it.user));
        self.tokens.retain(|it| now < it.until);
    }

    /// Lapsed, forgotten, or without the user that it became or is to replace.
    fn is_gone(&self, request: &Request) -> bool {
        match request.state {
            State::Pending => {
                request.expires <= self.now || request.replaces.is_some_and(|user| self.user(user).is_none())
            }
            State::Granted { user, .. } => self.user(user).is_none(),
            State::Denied { until } => until <= self.now,
        }
    }

    fn user(&self, number: usize) -> Option<&User> {
        self.users.iter().find(|user| user.number == number)
    }

    fn make_user(&mut self, name: usize, proof: Proof, terms: Terms, certificates: Vec<Certificate>) -> usize {
        let number = self.users_made;
        self.users_made += 1;
        self.users.push(User {
            number,
            name,
            proof,
            enabled: true,
            terms,
            certificates,
            renewed: None,
            issues_full: 0,
        });
        number
    }

    /// Single use, five minutes, for the connection that drew it, in this run of the broker.
    fn nonce_faults(&self, nonce: Option<usize>, from: usize) -> Vec<(u16, &'static str)> {
        let Some(nonce) = nonce.and_then(|nonce| self.nonces.get(nonce)) else { return vec![(422, "nonce_missing")] };
        let faults = [
            (nonce.from != from || nonce.run != self.run, "nonce_foreign"),
            (nonce.drawn + NONCE_LIFE <= self.now, "nonce_expired"),
            (nonce.spent, "nonce_spent"),
        ];
        faults.iter().filter(|(is, _)| *is).map(|(_, word)| (422, *word)).collect()
    }

    fn spend_nonce(&mut self, nonce: Option<usize>) {
        if let Some(nonce) = nonce.and_then(|nonce| self.nonces.get_mut(nonce)) {
            nonce.spent = true;
        }
    }
}

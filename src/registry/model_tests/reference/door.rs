//! New requests and polls, by a message or by a CONNECT: what opens the door to them, and what they become.
//!
//! Entering: what devices send. Leaving: what is to be answered, requests on record, users that a token or a rule makes at once.

use super::deciding::{Approval, Voice};
use super::{
    ED25519, ENDS, Expect, Identity, Knocking, MAX_PENDING, MAX_PER_SOURCE, Model, PENDING_TTL, Proof, RULES,
    Registration, Request, Rule, RuleGrants, Shown, State, Terms, Time, Who, rule_name,
};

/// Who was silent for so long, and is not connected, may have to give way.
const SILENCE: Time = 60;

#[derive(Clone, Debug)]
pub(super) struct Unlock {
    pub(super) until: Time,
    pub(super) left: Option<u32>,
    pub(super) name: Option<usize>,
    pub(super) from: Option<usize>,
    pub(super) listener: Option<usize>,
    pub(super) implicit: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) name: usize,
    pub(super) user: usize,
    pub(super) until: Time,
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) number: usize,
    /// Has anybody heard its secret?
    pub(super) told: bool,
    pub(super) author: Identity,
    pub(super) uses: u32,
    pub(super) used: u32,
    pub(super) until: Time,
    pub(super) name: Option<usize>,
    pub(super) from: Option<usize>,
    pub(super) terms: Terms,
}

/// A message, or a CONNECT, as far as they are alike.
#[derive(Clone, Copy)]
struct Ask {
    name: usize,
    proof: Proof,
    from: usize,
    listener: usize,
    nonce: Option<usize>,
    token: Option<Shown>,
    implicit: bool,
    code_shown: bool,
}

impl Rule {
    fn matches(&self, ask: &Ask) -> bool {
        self.from.is_none_or(|only| only == ask.from)
            && self.listener.is_none_or(|only| only == ask.listener)
            && (!self.ed25519 || ask.proof.key.is_some_and(|key| ED25519 <= key))
            && self.name.is_none_or(|only| only == ask.name)
    }
}

impl Token {
    fn is_good(&self, ask: &Ask, now: Time) -> bool {
        now < self.until
            && self.used < self.uses
            && self.name.is_none_or(|only| only == ask.name)
            && self.from.is_none_or(|only| only == ask.from)
    }
}

impl Model {
    pub(super) fn register_and_wait(&mut self, it: Registration) -> Expect {
        let Registration { name, proof, from, listener, nonce, token, listens, cbor: _ } = it;
        let expect =
            self.register(Ask { name, proof, from, listener, nonce, token, implicit: false, code_shown: true });
        if listens && expect == Expect::Pending {
            let asked =
                self.requests.iter_mut().find(|it| it.name == name && it.proof == proof && it.state == State::Pending);
            if let Some(request) = asked {
                request.waiters.retain(|other| *other != from);
                request.waiters.push(from);
            }
        }
        self.collect(&expect);
        expect
    }

    /// What is told must not say whether somebody has the name: but for those who have the proof of a request.
    pub(super) fn knock(&mut self, it: Knocking) -> Expect {
        let Knocking { name, password, from, listener, told } = it;
        let proof = Proof { key: None, password: Some(password) };
        let ask = Ask { name, proof, from, listener, nonce: None, token: None, implicit: true, code_shown: told };
        if !self.is_unlocked_to(&ask) {
            return Expect::Shut;
        }
        match self.register(ask) {
            Expect::Refused(faults) if faults.iter().any(|(_, word)| matches!(*word, "denied" | "rule")) => {
                Expect::TurnedDown
            }
            Expect::Pending => {
                let own = |it: &&Request| it.name == name && it.proof == proof && it.state == State::Pending;
                Expect::Waiting { named: self.requests.iter().find(own).is_some_and(|it| !it.implicit) }
            }
            _ => Expect::Waiting { named: false },
        }
    }

    fn is_unlocked_to(&self, ask: &Ask) -> bool {
        self.unlock.as_ref().is_some_and(|it| {
            self.now < it.until
                && it.left != Some(0)
                && it.name.is_none_or(|only| only == ask.name)
                && it.from.is_none_or(|only| only == ask.from)
                && it.listener.is_none_or(|only| only == ask.listener)
                && (it.implicit || !ask.implicit)
        })
    }

    fn remove(&mut self, number: usize) {
        self.requests.retain(|it| it.number != number);
        self.wrote = true;
    }

    fn register(&mut self, ask: Ask) -> Expect {
        let now = self.now;
        let Ask { name, proof, from, nonce, .. } = ask;
        let held = |it: &&Request| it.name == name && !matches!(it.state, State::Denied { .. });
        let before = (self.requests.clone(), self.wrote);
        // Whose user is gone is nobody's.
        while let Some(number) = self.requests.iter().find(|it| held(it) && self.is_gone(it)).map(|it| it.number) {
            self.remove(number);
        }
        // The same name and the same proof: a poll.
        let known = self.requests.iter_mut().filter(|it| it.name == name && it.proof == proof);
        if let Some(request) = known.min_by_key(|it| matches!(it.state, State::Denied { .. })) {
            request.last_seen = now;
            return match request.state.clone() {
                State::Pending => Expect::Pending,
                State::Denied { .. } => Expect::Refused(vec![(403, "denied")]),
                State::Granted { user, certificate } => self.standing(user, certificate),
            };
        }
        let opening = self.openings.iter().find(|it| it.name == name && now < it.until);
        let replaces = opening.map(|it| it.user).filter(|user| self.user(*user).is_some());
        let denying = RULES[self.world.rules].iter().any(|rule| rule.grants.is_none() && rule.matches(&ask));
        // Where a name is open no token is looked at.
        let token = match ask.token.filter(|_| replaces.is_none()).map(|shown| self.token_shown(shown, &ask)) {
            Some(None) => return Expect::Refused(vec![(403, "token")]),
            Some(Some(token)) => Some(token),
            None => None,
        };
        let by_person = replaces.is_none() && token.is_none();
        let unlocked = by_person && self.is_unlocked_to(&ask);
        let rule = self.granting_rule(&ask, unlocked).filter(|_| by_person);
        if by_person && !unlocked && rule.is_none() {
            return Expect::Refused(vec![(423, "locked")]);
        }
        if denying {
            return Expect::Refused(vec![(403, "rule")]);
        }
        let mut faults = Vec::new();
        if self.world.require_nonce {
            faults.extend(self.nonce_faults(nonce.filter(|_| proof.key.is_some()), from));
        }
        if self.requests.iter().any(|it| it.name == name && it.state == State::Pending) {
            faults.push((409, "name_pending"));
        } else if self.user_named(name).is_some() && replaces.is_none() {
            faults.push((409, "name_taken"));
        }
        if !faults.is_empty() {
            return Expect::Refused(faults);
        }
        if let Some(fault) = self.key_fault(proof) {
            return Expect::Refused(vec![fault]);
        }
        let at_once = !self.world.two_people && (token.is_some() || rule.is_some());
        let of_source = self.requests.iter().filter(|it| it.state == State::Pending && it.from == from);
        let full = self.pending() >= MAX_PENDING || of_source.clone().count() >= MAX_PER_SOURCE;
        let mut displaced = None;
        if full && !at_once {
            // Only one of its own source gives way.
            let silent = of_source.filter(|it| it.waiters.is_empty() && it.last_seen + SILENCE <= now);
            displaced = silent.min_by_key(|it| (it.last_seen, it.number)).map(|it| it.number);
            if displaced.is_none() {
                return Expect::Refused(vec![(429, "full")]);
            }
        }
        // A token gives what its author may give now. What does not come to be leaves everything as it was.
        let spoken = token.map(|at| (self.tokens[at].author, self.tokens[at].terms));
        if spoken.is_some_and(|(author, terms)| !self.may(author, |it| it.tokens) || !self.may_give(author, terms)) {
            (self.requests, self.wrote) = before;
            return Expect::Refused(vec![(403, "token")]);
        }
        let spoken = spoken.or(rule.as_ref().map(|(_, grants)| (Identity::Machine, grants.terms)));
        if let Some(displaced) = displaced {
            self.remove(displaced);
        }
        if self.world.require_nonce {
            self.spend_nonce(nonce);
        }
        if unlocked && let Some(Unlock { left: Some(left), .. }) = &mut self.unlock {
            *left -= 1;
        }
        if let Some(at) = token {
            self.tokens[at].used += 1;
        }
        let number = self.made;
        self.made += 1;
        let request = Request {
            number,
            name,
            proof,
            from,
            implicit: ask.implicit,
            code_shown: ask.code_shown,
            expires: now + PENDING_TTL,
            written: now,
            last_seen: now,
            waiters: Vec::new(),
            replaces,
            token: token.map(|at| self.tokens[at].number),
            approved: spoken.filter(|_| !at_once).map(|(who, terms)| Approval {
                who,
                terms,
                voice: match &rule {
                    Some((name, _)) => Voice::Rule(name.clone()),
                    None => Voice::Token,
                },
            }),
            rule: rule.map(|(name, _)| name).filter(|_| at_once),
            state: State::Pending,
        };
        self.requests.push(request);
        self.wrote = true;
        match spoken {
            Some((_, terms)) if at_once => {
                let (user, certificate) = self.become_user(number, terms);
                self.standing(user, certificate)
            }
            _ => Expect::Pending,
        }
    }

    /// A token, by its place in the list; `None` for every one that is not good here and now.
    fn token_shown(&self, shown: Shown, ask: &Ask) -> Option<usize> {
        let Shown::Token(number) = shown else { return None };
        self.tokens.iter().position(|it| it.number == number && it.told && it.is_good(ask, self.now))
    }

    /// The first rule that grants this, with its name: while the door is open to it, or where the rule says that it need not be.
    fn granting_rule(&self, ask: &Ask, unlocked: bool) -> Option<(String, RuleGrants)> {
        let rules = RULES[self.world.rules].iter().enumerate().filter(|(_, rule)| rule.matches(ask));
        let mut grants = rules.filter_map(|(at, rule)| Some((rule_name(self.world.rules, at), rule.grants?)));
        grants.find(|(name, grants)| {
            let made = self.requests.iter().filter(|it| it.rule.as_ref() == Some(name)).count();
            made < grants.limit && (unlocked || (grants.while_locked && !ask.implicit))
        })
    }

    /// A public key belongs to one identity.
    fn key_fault(&mut self, proof: Proof) -> Option<(u16, &'static str)> {
        let key = proof.key?;
        let holds = |it: &&Request| it.proof.key == Some(key) && !matches!(it.state, State::Denied { .. });
        if let Some((number, gone)) = self.requests.iter().find(holds).map(|it| (it.number, self.is_gone(it))) {
            if !gone {
                return Some((409, "key_in_use"));
            }
            self.remove(number);
        }
        let taken = self.users.iter().flat_map(|user| &user.certificates).any(|it| it.key == key);
        taken.then_some((409, "key_in_use"))
    }

    fn pending(&self) -> usize {
        self.requests.iter().filter(|it| it.state == State::Pending).count()
    }

    pub(super) fn create_token(&mut self, mut token: Token) -> Expect {
        if !self.may(token.author, |it| it.tokens) {
            return Expect::Not(403);
        }
        if token.terms.are_over(self.now) {
            return Expect::Not(422);
        }
        if !self.may_give(token.author, token.terms) {
            return Expect::Not(403);
        }
        if token.terms == Terms::SensorForAWhile {
            // With nothing left to give it is over.
            token.until = token.until.min(ENDS);
        }
        token.number = self.tokens_made;
        self.tokens_made += 1;
        self.tokens.push(token);
        self.wrote = true;
        Expect::Done
    }

    pub(super) fn revoke_token(&mut self, number: usize, who: Who) -> Expect {
        if !self.may(self.identity(who), |it| it.tokens) {
            return Expect::Not(403);
        }
        if !self.tokens.iter().any(|it| it.number == number) {
            return Expect::Not(404);
        }
        self.tokens.retain(|it| it.number != number);
        for request in self.requests.iter_mut().filter(|it| it.token == Some(number)) {
            if request.approved.as_ref().is_some_and(|first| first.voice == Voice::Token) {
                request.approved = None;
                request.written = request.last_seen;
            }
        }
        self.wrote = true;
        Expect::Done
    }
}

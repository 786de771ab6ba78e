//! Who may decide, and what becomes of a request by it: one person, or two who say the same.
//!
//! Entering: orders of operators, and what becomes of their rights. Leaving: users, denials, the word of the first of two.

use super::{
    DENIED_FOR, ENDS, Expect, Identity, Model, RULES, Request, Rights, State, Terms, Time, User, Who, rule_name,
};

/// Denials that are kept for one name.
const DENIALS_PER_NAME: usize = 4;

/// A user of the broker who decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    /// Which one of this name.
    generation: usize,
    rights: Rights,
}

/// What the first of two people would grant.
#[derive(Clone, Debug)]
pub(super) struct Approval {
    pub(super) who: Identity,
    pub(super) terms: Terms,
    pub(super) voice: Voice,
}

/// How it was said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Voice {
    /// By one who may grant requests.
    Person,
    /// By a token, whose author need not have that right. Revoked, it has said nothing.
    Token,
    /// By this rule, as long as broker.toml has it.
    Rule(String),
}

impl Terms {
    /// Is the end over that they name?
    pub(super) fn are_over(self, now: Time) -> bool {
        self == Self::SensorForAWhile && ENDS <= now
    }
}

impl User {
    pub(super) fn is_over(&self, now: Time) -> bool {
        self.terms.are_over(now)
    }
}

impl Model {
    /// Whoever comes to the machine is one person.
    pub(super) fn identity(&self, who: Who) -> Identity {
        match who {
            Who::Program | Who::Socket(_) => Identity::Machine,
            Who::Person(person) => Identity::Person(person, self.people_made[person]),
        }
    }

    pub(super) fn set_person(&mut self, person: usize, rights: Option<Rights>) {
        if rights.is_some() && self.people[person].is_none() {
            self.people_made[person] += 1;
        }
        let generation = self.people_made[person];
        self.people[person] = rights.map(|rights| Person { generation, rights });
    }

    /// The machine is bound by nobody's rules; a person who is disabled or gone may do nothing.
    pub(super) fn may(&self, who: Identity, right: impl Fn(&Rights) -> bool) -> bool {
        match who {
            Identity::Machine => true,
            Identity::Person(person, generation) => self.people[person]
                .is_some_and(|it| it.generation == generation && it.rights.enabled && right(&it.rights)),
        }
    }

    /// Nobody hands out what they do not hold.
    pub(super) fn may_give(&self, who: Identity, terms: Terms) -> bool {
        self.may(who, |it| it.holds || terms == Terms::Nothing)
    }

    fn decidable(&self, number: usize) -> Result<Request, Expect> {
        let request = self.requests.iter().find(|it| it.number == number).ok_or(Expect::Not(404))?;
        match request.state {
            State::Pending if self.now < request.expires => Ok(request.clone()),
            State::Pending => Err(Expect::Not(404)),
            State::Granted { .. } | State::Denied { .. } => Err(Expect::Not(409)),
        }
    }

    pub(super) fn grant(&mut self, number: usize, who: Who, terms: Terms, unpaired: bool) -> Expect {
        let who = self.identity(who);
        if !self.may(who, |it| it.requests) {
            return Expect::Not(403);
        }
        if terms.are_over(self.now) {
            return Expect::Not(422);
        }
        let request = match self.decidable(number) {
            Ok(request) => request,
            Err(refused) => return refused,
        };
        if !request.code_shown && !unpaired {
            return Expect::Not(409);
        }
        let mut agreed = true;
        if self.world.two_people {
            agreed = match &request.approved {
                Some(first) if first.terms == terms && first.who == who => return Expect::Not(409),
                Some(first) => first.terms == terms && self.still_stands(&request, first),
                None => false,
            };
        }
        if let Some(refused) = self.ungrantable(&request, who, terms) {
            return refused;
        }
        if !agreed {
            if let Some(request) = self.requests.iter_mut().find(|it| it.number == number) {
                request.approved = Some(Approval { who, terms, voice: Voice::Person });
                request.written = request.last_seen;
            }
            self.wrote = true;
            return Expect::Done;
        }
        let waited_for = !request.waiters.is_empty();
        let (user, issued) = self.become_user(number, terms);
        if waited_for {
            self.collect(&self.standing(user, issued));
        }
        Expect::Done
    }

    /// Could whoever has said the first word grant this now?
    fn still_stands(&self, request: &Request, first: &Approval) -> bool {
        let stands = match &first.voice {
            Voice::Person => self.may(first.who, |it| it.requests),
            Voice::Token => self.may(first.who, |it| it.tokens),
            Voice::Rule(name) => {
                let rules = self.world.rules;
                RULES[rules].iter().enumerate().any(|(at, it)| it.grants.is_some() && rule_name(rules, at) == *name)
            }
        };
        stands && self.ungrantable(request, first.who, first.terms).is_none()
    }

    /// Why this cannot be granted by this one, whatever it may decide.
    fn ungrantable(&self, request: &Request, who: Identity, terms: Terms) -> Option<Expect> {
        let Some(user) = request.replaces else {
            let taken = self.user_named(request.name).is_some();
            return if taken {
                Some(Expect::Not(409))
            } else {
                (!self.may_give(who, terms)).then_some(Expect::Not(403))
            };
        };
        // It keeps the rights of its user, which whoever grants it must hold.
        if terms != Terms::Nothing {
            return Some(Expect::Not(422));
        }
        match self.user(user) {
            None => Some(Expect::Not(404)),
            Some(user) => (!self.may_give(who, user.terms)).then_some(Expect::Not(403)),
        }
    }

    /// A request becomes a user with its certificate, or replaces the proofs of one; nothing can be in its way.
    pub(super) fn become_user(&mut self, number: usize, terms: Terms) -> (usize, Option<usize>) {
        let request = self.requests.iter().find(|it| it.number == number).cloned().expect("it is on record");
        let certificate = request.proof.key.map(|key| self.certify(key, None));
        let issued = certificate.as_ref().map(|it| it.number);
        let user = match request.replaces {
            None => self.make_user(request.name, request.proof, terms, certificate.into_iter().collect()),
            Some(user) => {
                let now = self.now;
                if let Some(user) = self.users.iter_mut().find(|it| it.number == user) {
                    user.replace_proofs(&request, certificate, now);
                }
                let old = |it: &Request| matches!(it.state, State::Granted { .. }) && it.name == request.name;
                self.requests.retain(|it| !old(it));
                self.openings.retain(|it| it.name != request.name);
                user
            }
        };
        self.decide(number, State::Granted { user, certificate: issued }, 201);
        (user, issued)
    }

    pub(super) fn deny(&mut self, number: usize, who: Who) -> Expect {
        if !self.may(self.identity(who), |it| it.requests) {
            return Expect::Not(403);
        }
        match self.decidable(number) {
            Ok(request) => {
                self.turn_down(number, request.name);
                Expect::Done
            }
            Err(refused) => refused,
        }
    }

    /// The request is turned down. Of one name so many denials are kept.
    fn turn_down(&mut self, number: usize, name: usize) {
        let mut earlier: Vec<_> = self
            .requests
            .iter()
            .filter_map(|it| match it.state {
                State::Denied { until } if it.name == name => Some((until, it.number)),
                _ => None,
            })
            .collect();
        earlier.sort_unstable();
        if let Some((_, oldest)) = earlier.first().filter(|_| earlier.len() >= DENIALS_PER_NAME) {
            self.requests.retain(|it| it.number != *oldest);
        }
        self.decide(number, State::Denied { until: self.now + DENIED_FOR }, 403);
    }

    fn decide(&mut self, number: usize, state: State, status: u16) {
        if let Some(request) = self.requests.iter_mut().find(|it| it.number == number) {
            (request.state, request.approved) = (state, None);
            request.written = request.last_seen;
            self.pushed = std::mem::take(&mut request.waiters).into_iter().map(|from| (from, status)).collect();
        }
        self.wrote = true;
    }
}

//! The registry as its protocol describes it: lists that are scanned, proofs in clear, numbers for names, keys and time.
//!
//! Entering: an [`Op`]. Leaving: what is to be answered and pushed, and a [`Picture`] of all that may be seen. Written from the protocol
//! and not from the code; where the protocol leaves open which of several faults is told, each of them is right. For tests.

/// Seconds; the start is 0.
pub(super) type Time = u64;

pub(super) const PENDING_TTL: Time = 1_000;
pub(super) const DENIED_FOR: Time = 2_000;
pub(super) const UNLOCK_FOR: Time = 300;
pub(super) const NONCE_LIFE: Time = 300;
pub(super) const VALIDITY: Time = 9_000;
pub(super) const GRACE: Time = 3_000;
pub(super) const OPEN_FOR: Time = 900;
pub(super) const MAX_PENDING: usize = 4;
pub(super) const MAX_PER_SOURCE: usize = 2;
/// Who was silent for so long, and is not connected, may have to give way.
const SILENCE: Time = 60;
/// A certificate that is revoked stays on record for a day after its end, so that it is in one CRL more.
const ON_RECORD: Time = 86_400;
/// It is dated back.
const BACKDATED: Time = 300;
const DENIALS_PER_NAME: usize = 4;
/// Certificates issued at once, and the time for one more.
const ISSUES: (Time, Time) = (4, VALIDITY / 180);

/// What a device proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Proof {
    pub(super) key: Option<usize>,
    pub(super) password: Option<usize>,
}

/// What befalls the write of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// Nothing is written, and the broker goes on.
    Refused,
    /// It is written and not synced, the broker stops; what is found afterwards is this.
    NotSynced { survives: bool },
    /// It is durable, and the broker stops.
    AnswerLost,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Register {
        name: usize,
        proof: Proof,
        from: usize,
        nonce: Option<usize>,
        listens: bool,
    },
    Grant(usize),
    Deny(usize),
    Unlock {
        count: Option<u32>,
        name: Option<usize>,
        from: Option<usize>,
    },
    Lock,
    /// The name may be taken by a new key.
    Open(usize),
    Cancel(usize),
    /// In a session of this user, proven with this one of its certificates.
    Renew {
        name: usize,
        certificate: usize,
        key: usize,
    },
    /// In a registration session, by the old key.
    RenewLapsed {
        name: usize,
        certificate: usize,
        key: usize,
        from: usize,
        nonce: usize,
    },
    /// The certificate has connected.
    Connect {
        name: usize,
        certificate: usize,
    },
    Revoke {
        name: usize,
        certificate: usize,
    },
    Enable {
        name: usize,
        enabled: bool,
    },
    Delete(usize),
    /// Somebody makes a user of this name by other means.
    TakeName(usize),
    Challenge(usize),
    /// Time passes, and the broker's clock ticks.
    Advance(Time),
    Restart,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) deed: Deed,
    pub(super) mishap: Option<Mishap>,
}

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// 202.
    Pending,
    /// 201, with this certificate.
    Granted(Option<usize>),
    /// One of these.
    Refused(Vec<(u16, &'static str)>),
    /// An operator's order was carried out.
    Done,
    /// It was not: 403, 404, 409, 422.
    Not(u16),
    /// The disk has failed: 500.
    Failed,
    /// Nothing was asked.
    Nothing,
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
    expires: Time,
    written: Time,
    last_seen: Time,
    waiters: Vec<usize>,
    replaces: Option<usize>,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Revoked {
    No,
    Superseded,
    ForGood,
}

#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) number: usize,
    pub(super) key: usize,
    from: Time,
    pub(super) until: Time,
    pub(super) revoked: Revoked,
    /// The one that it renews, until it has connected.
    replaces: Option<usize>,
    /// Does the device have it?
    pub(super) collected: bool,
}

#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) number: usize,
    pub(super) name: usize,
    pub(super) proof: Proof,
    pub(super) enabled: bool,
    pub(super) certificates: Vec<Certificate>,
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

#[derive(Clone, Debug)]
struct Unlock {
    until: Time,
    left: Option<u32>,
    name: Option<usize>,
    from: Option<usize>,
}

#[derive(Clone, Debug)]
struct Opening {
    name: usize,
    user: usize,
    until: Time,
}

/// Key, end and revocation of each certificate.
type Certificates = Vec<(usize, Time, Revoked)>;

/// All that operators may see.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Picture {
    /// Name, proof (key, and is there a password), state, does it replace; sorted.
    pub(super) requests: Vec<(usize, Option<usize>, bool, &'static str, bool)>,
    /// Name, is it enabled, has it a password.
    pub(super) users: Vec<(usize, bool, bool, Certificates)>,
    pub(super) open: Vec<usize>,
    pub(super) pending: usize,
}

/// The registry, and the users.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) require_nonce: bool,
    /// Is the disk one that may fail?
    pub(super) faulty: bool,
    pub(super) now: Time,
    run: usize,
    pub(super) requests: Vec<Request>,
    /// Requests ever made.
    pub(super) made: usize,
    pub(super) users: Vec<User>,
    users_made: usize,
    issued: usize,
    nonces: Vec<Nonce>,
    unlock: Option<Unlock>,
    openings: Vec<Opening>,
    /// Did the last deed change anything durable?
    wrote: bool,
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
    pub(super) fn new(require_nonce: bool, faulty: bool) -> Self {
        Self { require_nonce, faulty, ..Self::default() }
    }

    pub(super) fn nonces(&self) -> usize {
        self.nonces.len()
    }

    pub(super) fn run(&mut self, op: Op) {
        let before = self.clone();
        (self.wrote, self.pushed) = (false, Vec::new());
        let expect = self.deed(op.deed);
        let mishap = op.mishap.filter(|_| self.wrote && self.faulty);
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
        } else {
            *self = before;
            for user in &mut self.users {
                user.issues_full = shares.iter().find(|it| it.0 == user.number).map_or(0, |it| it.1);
            }
        }
        if mishap != Mishap::Refused {
            self.restart();
        }
        (self.expect, self.pushed) = (Some(Expect::Failed), Vec::new());
    }

    pub(super) fn picture(&self) -> Picture {
        let listed = self.requests.iter().filter(|it| !self.is_gone(it));
        let mut requests: Vec<_> = listed
            .map(|it| {
                let state = match it.state {
                    State::Pending => "pending",
                    State::Granted { .. } => "granted",
                    State::Denied { .. } => "denied",
                };
                (it.name, it.proof.key, it.proof.password.is_some(), state, it.replaces.is_some())
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
                (user.name, user.enabled, user.proof.password.is_some(), certificates)
            })
            .collect();
        users.sort_unstable();
        let open = self.openings.iter().filter(|it| self.now < it.until && self.user(it.user).is_some());
        let mut open: Vec<_> = open.map(|it| it.name).collect();
        open.sort_unstable();
        Picture { requests, users, open, pending: self.pending() }
    }

    pub(super) fn user_named(&self, name: usize) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    pub(super) fn chosen(&self, name: usize, certificate: usize) -> Option<&Certificate> {
        let certificates = &self.user_named(name)?.certificates;
        certificates.get(certificate.checked_rem(certificates.len())?)
    }

    fn deed(&mut self, deed: Deed) -> Expect {
        match deed {
            Deed::Register { name, proof, from, nonce, listens } => {
                let expect = self.register(name, proof, from, nonce);
                if listens && expect == Expect::Pending {
                    let asked = self
                        .requests
                        .iter_mut()
                        .find(|it| it.name == name && it.proof == proof && it.state == State::Pending);
                    if let Some(request) = asked {
                        request.waiters.retain(|other| *other != from);
                        request.waiters.push(from);
                    }
                }
                self.collect(&expect);
                expect
            }
            Deed::Grant(number) => self.grant(number),
            Deed::Deny(number) => self.deny(number),
            Deed::Unlock { count, name, from } => {
                self.unlock = Some(Unlock { until: self.now + UNLOCK_FOR, left: count, name, from });
                Expect::Done
            }
            Deed::Lock => {
                self.unlock = None;
                Expect::Done
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
                    self.make_user(name, Proof { key: None, password: None }, Vec::new());
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
            Deed::Restart => {
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

    fn tick(&mut self) {
        let now = self.now;
        if self.unlock.as_ref().is_some_and(|it| it.until <= now || it.left == Some(0)) {
            self.unlock = None;
        }
        let gone: Vec<_> = self.requests.iter().filter(|it| self.is_gone(it)).map(|it| it.number).collect();
        self.requests.retain(|it| !gone.contains(&it.number));
        let users: Vec<_> = self.users.iter().map(|user| user.number).collect();
        self.openings.retain(|it| now < it.until && users.contains(&it.user));
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

    fn certificate(&self, number: usize) -> Option<&Certificate> {
        self.users.iter().flat_map(|user| &user.certificates).find(|it| it.number == number)
    }

    fn certificate_mut(&mut self, number: usize) -> Option<&mut Certificate> {
        self.users.iter_mut().flat_map(|user| &mut user.certificates).find(|it| it.number == number)
    }

    fn collect(&mut self, expect: &Expect) {
        if let Expect::Granted(Some(number)) = expect
            && let Some(certificate) = self.certificate_mut(*number)
        {
            certificate.collected = true;
        }
    }

    fn pending(&self) -> usize {
        self.requests.iter().filter(|it| it.state == State::Pending).count()
    }

    fn remove(&mut self, number: usize) {
        self.requests.retain(|it| it.number != number);
        self.wrote = true;
    }

    fn register(&mut self, name: usize, proof: Proof, from: usize, nonce: Option<usize>) -> Expect {
        let now = self.now;
        let held = |it: &&Request| it.name == name && !matches!(it.state, State::Denied { .. });
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
        let admitted = self.unlock.as_ref().is_some_and(|it| {
            now < it.until
                && it.left != Some(0)
                && it.name.is_none_or(|only| only == name)
                && it.from.is_none_or(|only| only == from)
        });
        if replaces.is_none() && !admitted {
            return Expect::Refused(vec![(423, "locked")]);
        }
        let mut faults = Vec::new();
        if self.require_nonce {
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
        if let Some(key) = proof.key {
            let holds = |it: &&Request| it.proof.key == Some(key) && !matches!(it.state, State::Denied { .. });
            if let Some(other) = self.requests.iter().find(|it| holds(it)).map(|it| (it.number, self.is_gone(it))) {
                if other.1 {
                    self.remove(other.0);
                } else {
                    return Expect::Refused(vec![(409, "key_in_use")]);
                }
            }
            if self.users.iter().flat_map(|user| &user.certificates).any(|it| it.key == key) {
                return Expect::Refused(vec![(409, "key_in_use")]);
            }
        }
        let of_source = self.requests.iter().filter(|it| it.state == State::Pending && it.from == from);
        if self.pending() >= MAX_PENDING || of_source.clone().count() >= MAX_PER_SOURCE {
            // Only one of its own source gives way.
            let silent = of_source.filter(|it| it.waiters.is_empty() && it.last_seen + SILENCE <= now);
            let Some(oldest) = silent.min_by_key(|it| (it.last_seen, it.number)).map(|it| it.number) else {
                return Expect::Refused(vec![(429, "full")]);
            };
            self.remove(oldest);
        }
        if self.require_nonce
            && let Some(nonce) = nonce.and_then(|nonce| self.nonces.get_mut(nonce))
        {
            nonce.spent = true;
        }
        if replaces.is_none()
            && let Some(Unlock { left: Some(left), .. }) = &mut self.unlock
        {
            *left -= 1;
        }
        let number = self.made;
        self.made += 1;
        self.requests.push(Request {
            number,
            name,
            proof,
            from,
            expires: now + PENDING_TTL,
            written: now,
            last_seen: now,
            waiters: Vec::new(),
            replaces,
            state: State::Pending,
        });
        self.wrote = true;
        Expect::Pending
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

    /// What is collected with the proof of a request that became a user.
    fn standing(&self, user: usize, certificate: Option<usize>) -> Expect {
        let Some(user) = self.user(user) else { return Expect::Nothing };
        let mut faults = Vec::new();
        if !user.enabled {
            faults.push((403, "disabled"));
        }
        if let Some(number) = certificate {
            match user.certificates.iter().find(|it| it.number == number) {
                None => faults.push((403, "revoked")),
                Some(it) => {
                    match it.revoked {
                        Revoked::No => {}
                        Revoked::Superseded => faults.push((409, "superseded")),
                        Revoked::ForGood => faults.push((403, "revoked")),
                    }
                    if it.until <= self.now {
                        faults.push((409, "certificate_expired"));
                    }
                }
            }
        }
        if faults.is_empty() { Expect::Granted(certificate) } else { Expect::Refused(faults) }
    }

    fn decidable(&self, number: usize) -> Result<Request, Expect> {
        let request = self.requests.iter().find(|it| it.number == number).ok_or(Expect::Not(404))?;
        match request.state {
            State::Pending if self.now < request.expires => Ok(request.clone()),
            State::Pending => Err(Expect::Not(404)),
            State::Granted { .. } | State::Denied { .. } => Err(Expect::Not(409)),
        }
    }

    fn grant(&mut self, number: usize) -> Expect {
        let request = match self.decidable(number) {
            Ok(request) => request,
            Err(refused) => return refused,
        };
        let certificate = request.proof.key.map(|key| self.certify(key, None));
        let issued = certificate.as_ref().map(|it| it.number);
        let user = match request.replaces {
            None if self.user_named(request.name).is_some() => return Expect::Not(409),
            None => self.make_user(request.name, request.proof, certificate.into_iter().collect()),
            Some(user) => {
                let now = self.now;
                let Some(user) = self.users.iter_mut().find(|it| it.number == user) else { return Expect::Not(404) };
                user.certificates.retain(|it| now < goes_at(it));
                for old in &mut user.certificates {
                    old.replaces = None;
                    if old.revoked == Revoked::No {
                        old.revoked = Revoked::ForGood;
                    }
                }
                user.certificates.extend(certificate);
                (user.proof, user.renewed) = (request.proof, None);
                let user = user.number;
                let old = |it: &Request| matches!(it.state, State::Granted { .. }) && it.name == request.name;
                self.requests.retain(|it| !old(it));
                self.openings.retain(|it| it.name != request.name);
                user
            }
        };
        self.decide(number, State::Granted { user, certificate: issued }, 201);
        if !request.waiters.is_empty() {
            self.collect(&self.standing(user, issued));
        }
        Expect::Done
    }

    fn deny(&mut self, number: usize) -> Expect {
        let request = match self.decidable(number) {
            Ok(request) => request,
            Err(refused) => return refused,
        };
        let denied = |it: &&Request| it.name == request.name && matches!(it.state, State::Denied { .. });
        let mut earlier: Vec<_> = self.requests.iter().filter(denied).collect();
        if earlier.len() >= DENIALS_PER_NAME {
            earlier.sort_by_key(|it| match it.state {
                State::Denied { until } => until,
                _ => 0,
            });
            let oldest = earlier.first().map(|it| it.number);
            self.requests.retain(|it| Some(it.number) != oldest);
        }
        self.decide(number, State::Denied { until: self.now + DENIED_FOR }, 403);
        Expect::Done
    }

    fn decide(&mut self, number: usize, state: State, status: u16) {
        if let Some(request) = self.requests.iter_mut().find(|it| it.number == number) {
            request.state = state;
            request.written = request.last_seen;
            self.pushed = std::mem::take(&mut request.waiters).into_iter().map(|from| (from, status)).collect();
        }
        self.wrote = true;
    }

    fn make_user(&mut self, name: usize, proof: Proof, certificates: Vec<Certificate>) -> usize {
        let number = self.users_made;
        self.users_made += 1;
        self.users.push(User { number, name, proof, enabled: true, certificates, renewed: None, issues_full: 0 });
        number
    }

    fn certify(&mut self, key: usize, replaces: Option<usize>) -> Certificate {
        let number = self.issued;
        self.issued += 1;
        Certificate {
            number,
            key,
            // Before the start there is nothing to be told apart.
            from: self.now,
            until: self.now + VALIDITY,
            revoked: Revoked::No,
            replaces,
            collected: false,
        }
    }

    /// `lapsed`: not in a session, but by a signature of the old key over this nonce of this connection.
    fn renew(&mut self, name: usize, old: Option<usize>, key: usize, lapsed: Option<(usize, usize)>) -> Expect {
        let now = self.now;
        let Some(user) = self.user_named(name).cloned() else {
            return Expect::Refused(vec![(401, "not_authenticated")]);
        };
        let mut faults = Vec::new();
        if let Some((from, nonce)) = lapsed {
            // The nonce is a part of what is signed.
            faults.extend(self.nonce_faults(Some(nonce).filter(|it| *it < self.nonces.len()), from));
        }
        if !user.enabled {
            faults.push((403, "disabled"));
        }
        if user.proof.key.is_none() {
            faults.push((403, "not_admitted"));
        }
        let old = old.and_then(|number| user.certificates.iter().find(|it| it.number == number));
        match old {
            None => faults.push((403, "no_certificate")),
            Some(old) => {
                match old.revoked {
                    Revoked::No => {}
                    Revoked::Superseded => faults.push((403, "superseded")),
                    Revoked::ForGood => faults.push((403, "revoked")),
                }
                if now <= old.until && lapsed.is_some() {
                    faults.push((409, "still_valid"));
                }
                if old.until < now && old.until + GRACE <= now {
                    faults.push((403, "grace_over"));
                }
            }
        }
        let (Some(old), true) = (old, faults.is_empty()) else { return Expect::Refused(faults) };
        let spend = |model: &mut Self| {
            if let Some(nonce) = lapsed.and_then(|(_, nonce)| model.nonces.get_mut(nonce)) {
                nonce.spent = true;
            }
        };
        // A lost answer: the very same CSR.
        if let Some((number, csr)) = user.renewed
            && csr == key
            && let Some(it) = user.certificates.iter().find(|it| it.number == number)
            && it.revoked == Revoked::No
            && now + BACKDATED < it.from + (VALIDITY + BACKDATED) / 3 * 2
        {
            spend(self);
            return Expect::Granted(Some(number));
        }
        let others = self.users.iter().filter(|it| it.name != name).flat_map(|it| &it.certificates);
        let asked = |it: &Request| {
            it.name != name
                && it.proof.key == Some(key)
                && !matches!(it.state, State::Denied { .. })
                && !self.is_gone(it)
        };
        if others.clone().any(|it| it.key == key) || self.requests.iter().any(asked) {
            faults.push((409, "key_in_use"));
        }
        if user.certificates.iter().any(|it| it.key == key && it.revoked == Revoked::ForGood) {
            faults.push((409, "key_revoked"));
        }
        if !faults.is_empty() {
            return Expect::Refused(faults);
        }
        // Issued at a bounded rate, whatever becomes of it.
        let old = old.number;
        let full = user.issues_full.max(now);
        if full - now + ISSUES.1 > ISSUES.0 * ISSUES.1 {
            return Expect::Refused(vec![(429, "rate")]);
        }
        let new = self.certify(key, Some(old));
        let number = new.number;
        if let Some(user) = self.users.iter_mut().find(|it| it.name == name) {
            user.issues_full = full + ISSUES.1;
            user.certificates.retain(|it| now < goes_at(it));
            for unused in user.certificates.iter_mut().filter(|it| it.replaces.is_some() && it.number != old) {
                retire(unused);
            }
            user.certificates.push(new);
            user.renewed = Some((number, key));
        }
        spend(self);
        self.wrote = true;
        Expect::Granted(Some(number))
    }

    /// Now the one that it renews is retired, with what that one renews in its turn.
    fn connect(&mut self, name: usize, certificate: usize) {
        let Some(number) = self.chosen(name, certificate).map(|it| it.number) else { return };
        let Some(it) = self.certificate_mut(number).filter(|it| it.revoked == Revoked::No) else { return };
        let mut next = it.replaces.take();
        while let Some(number) = next {
            let Some(old) = self.certificate_mut(number) else { break };
            next = old.replaces;
            retire(old);
        }
    }
}

fn retire(certificate: &mut Certificate) {
    certificate.replaces = None;
    if certificate.revoked == Revoked::No {
        certificate.revoked = Revoked::Superseded;
    }
}

fn goes_at(certificate: &Certificate) -> Time {
    certificate.until + if certificate.revoked == Revoked::No { GRACE.max(ON_RECORD) } else { ON_RECORD }
}

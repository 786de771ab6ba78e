//! The core held against a slow model that scans lists and keeps passwords in clear, through requests, polls,
//! decisions, expiry, locks, changes of users and restarts in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use uuid::Uuid;

use super::super::nonce::{Binding, Mint};
use super::super::request::Door;
use super::*;
use crate::access::{ManagedBy, UserId};
use crate::clock::{Clock as _, ManualClock};
use crate::directory::NewUser;
use crate::pki::PairingCode;

const LIMITS: Limits = Limits {
    pending_ttl: Duration::from_secs(1000),
    pending: Bounds { all: 4, of_source: 2 },
    denied_for: Duration::from_secs(2000),
    silence: Duration::from_mins(1),
    require_nonce: false,
    approvals: 1,
    renew_grace: Duration::from_secs(500),
};

/// What a device proves itself with: numbers of a key and of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proof {
    key: Option<u8>,
    password: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Ask {
        name: u8,
        proof: Proof,
        source: u8,
        waits: bool,
    },
    Grant(u8),
    Deny(u8),
    /// Someone else makes a user of this name.
    TakeName(u8),
    DeleteUser(u8),
    Disable(u8),
    Revoke(u8),
    ChangePassword(u8),
    Advance {
        seconds: u16,
        tick: bool,
    },
    Unlock {
        count: Option<u8>,
        only: Option<u8>,
    },
    Lock,
    Restart,
}

fn proofs() -> impl Strategy<Value = Proof> {
    prop_oneof![
        (0..8_u8).prop_map(|key| Proof { key: Some(key), password: None }),
        (0..2_u8).prop_map(|password| Proof { key: None, password: Some(password) }),
        (0..3_u8, 0..2_u8).prop_map(|(key, password)| Proof { key: Some(key), password: Some(password) }),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..6_u8, proofs(), 0..3_u8, any::<bool>())
            .prop_map(|(name, proof, source, waits)| Op::Ask { name, proof, source, waits }),
        3 => (0..8_u8).prop_map(Op::Grant),
        3 => (0..8_u8).prop_map(Op::Deny),
        1 => (0..4_u8).prop_map(Op::TakeName),
        1 => (0..4_u8).prop_map(Op::DeleteUser),
        1 => (0..4_u8).prop_map(Op::Disable),
        1 => (0..4_u8).prop_map(Op::Revoke),
        1 => (0..4_u8).prop_map(Op::ChangePassword),
        3 => (0..400_u16, any::<bool>()).prop_map(|(seconds, tick)| Op::Advance { seconds, tick }),
        5 => (proptest::option::weighted(0.3, 1..6_u8), proptest::option::weighted(0.2, 0..6_u8))
            .prop_map(|(count, only)| Op::Unlock { count, only }),
        1 => Just(Op::Lock),
        1 => Just(Op::Restart),
    ]
}

#[derive(Default)]
struct World(BTreeMap<UserId, Arc<User>>);

impl Users for World {
    fn named(&self, name: &Username) -> Option<&Arc<User>> {
        self.0.values().find(|user| user.username == *name)
    }

    fn by_id(&self, id: UserId) -> Option<&Arc<User>> {
        self.0.get(&id)
    }

    fn by_key(&self, key: &str) -> Option<&Arc<User>> {
        self.0.values().find(|user| user.certificates.iter().any(|it| it.key.as_deref() == Some(key)))
    }
}

impl World {
    fn edit(&mut self, name: &Username, edit: impl FnOnce(&mut User)) {
        if let Some(user) = self.0.values_mut().find(|user| user.username == *name) {
            edit(Arc::make_mut(user));
        }
    }
}

/// One request of the model.
#[derive(Clone, Debug)]
struct Known {
    id: RequestId,
    name: Username,
    proof: Proof,
    source: u8,
    first_seen: Timestamp,
    last_seen: Timestamp,
    state: Fate,
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Pending,
    Granted(UserId),
    Denied(Timestamp),
}

/// What the model expects.
#[derive(Debug, PartialEq)]
enum Expected {
    Pending(RequestId),
    New { displaces: Option<RequestId> },
    Granted,
    Denied,
    Unusable,
    Refused(Refused),
}

struct Simulation {
    core: Core,
    /// What the store holds.
    disk: BTreeMap<RequestId, Request>,
    world: World,
    clock: ManualClock,
    drawn: u128,
    model: Vec<Known>,
    waiting: BTreeSet<RequestId>,
    /// Until when, how many more, which name.
    open: Option<(Timestamp, Option<u8>, Option<u8>)>,
}

fn nonces() -> Nonces {
    Nonces::new(Mint::new(&[0; 32], Instant::now()))
}

fn username(number: u8) -> Username {
    format!("device-{number}").parse().unwrap()
}

fn address(number: u8) -> IpAddr {
    // Two addresses of one /64 are one source.
    format!("2001:db8:0:{number}::{}", number + 7).parse().unwrap()
}

fn key(number: u8) -> String {
    format!("key-{number}")
}

fn hash(password: u8, salt: u128) -> String {
    format!("{password}${salt}")
}

fn matches(password: u8, hash: &str) -> bool {
    hash.split('$').next() == Some(password.to_string().as_str())
}

impl Simulation {
    fn new() -> Self {
        Self {
            core: Core::new(LIMITS, nonces()),
            disk: BTreeMap::new(),
            world: World::default(),
            clock: ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()),
            drawn: 0,
            model: Vec::new(),
            waiting: BTreeSet::new(),
            open: None,
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.clock.instant(), wall: self.clock.timestamp() }
    }

    fn draw(&mut self) -> u128 {
        self.drawn += 1;
        self.drawn
    }

    /// As the shell does it: to the store first, then to the core.
    fn make(&mut self, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Insert(request) | Change::Put(request) => {
                    self.disk.insert(request.id, Request { remembered: None, ..(**request).clone() });
                }
                Change::Remove { id, .. } => {
                    assert!(self.disk.remove(id).is_some(), "what is removed was there");
                }
                _ => {}
            }
        }
        let flight = self.core.take_off(self.core.claims(&changes));
        self.core.land(&flight, true);
        for change in changes {
            if let Change::Remove { id, .. } = &change {
                self.waiting.remove(id);
                self.model.retain(|known| known.id != *id);
            }
            self.core.apply(change);
        }
    }

    fn is_stale(&self, known: &Known) -> bool {
        let now = self.clock.timestamp();
        match known.state {
            Fate::Pending => known.first_seen.checked_add(LIMITS.pending_ttl).unwrap() <= now,
            Fate::Granted(user) => !self.world.0.contains_key(&user),
            Fate::Denied(at) => at.checked_add(LIMITS.denied_for).unwrap() <= now,
        }
    }

    /// Does the proof fit the request, or the user that it became?
    fn fits(&self, known: &Known, proof: Proof) -> bool {
        let password = match (known.proof.password, &known.state) {
            (Some(_), Fate::Granted(user)) => {
                let hash = self.world.0[user].password_hash.clone().unwrap();
                return known.proof.key == proof.key && proof.password.is_some_and(|it| matches(it, &hash));
            }
            (password, _) => password,
        };
        known.proof.key == proof.key && password == proof.password
    }

    /// The specification, from lists and from scratch.
    fn expect(&self, name: u8, proof: Proof, source: u8) -> Expected {
        let username = username(name);
        let now = self.clock.timestamp();
        let live: Vec<_> = self.model.iter().filter(|known| !self.is_stale(known)).collect();
        let holder = live.iter().find(|it| it.name == username && !matches!(it.state, Fate::Denied(_)));
        if let Some(known) = holder
            && self.fits(known, proof)
        {
            return match known.state {
                Fate::Granted(user) => {
                    let user = &self.world.0[&user];
                    let revoked = user.certificates.iter().any(|it| it.revoked_at.is_some());
                    if user.enabled && !revoked { Expected::Granted } else { Expected::Unusable }
                }
                _ => Expected::Pending(known.id),
            };
        }
        let denied = |it: &&&Known| it.name == username && matches!(it.state, Fate::Denied(_)) && it.proof == proof;
        if live.iter().any(|it| denied(&it)) {
            return Expected::Denied;
        }
        let open = self.open.is_some_and(|(until, count, only)| {
            now < until && count != Some(0) && only.is_none_or(|only| only == name)
        });
        if !open {
            return Expected::Refused(Refused::Locked);
        }
        if let Some(known) = holder {
            let pending = known.state == Fate::Pending;
            return Expected::Refused(if pending { Refused::NamePending } else { Refused::NameTaken });
        }
        if self.world.named(&username).is_some() {
            return Expected::Refused(Refused::NameTaken);
        }
        let holds_key = |it: &&&Known| !matches!(it.state, Fate::Denied(_)) && it.proof.key == proof.key;
        if proof.key.is_some() && live.iter().any(|it| holds_key(&it)) {
            return Expected::Refused(Refused::KeyInUse);
        }
        // Lapsed requests that nobody asked about take a place until the next tick.
        let leaves = |it: &&Known| {
            self.is_stale(it) && (it.name == username || (proof.key.is_some() && it.proof.key == proof.key))
        };
        let pending: Vec<_> = self.model.iter().filter(|it| it.state == Fate::Pending && !leaves(it)).collect();
        let mine: Vec<_> = pending.iter().filter(|it| it.source == source).collect();
        if pending.len() < LIMITS.pending.all && mine.len() < LIMITS.pending.of_source {
            return Expected::New { displaces: None };
        }
        let yielding = mine
            .iter()
            .filter(|it| it.last_seen <= now.checked_sub(LIMITS.silence).unwrap() && !self.waiting.contains(&it.id))
            .min_by_key(|it| (it.last_seen, it.id));
        yielding.map_or(Expected::Refused(Refused::Full), |it| Expected::New { displaces: Some(it.id) })
    }

    fn ask(&mut self, name: u8, proof: Proof, source: u8, waits: bool) {
        let expected = self.expect(name, proof, source);
        let username = username(name);
        let salt = self.draw();
        let id = RequestId(Uuid::from_u128(self.draw()));
        let drawn = Drawn { id, pairing_code: PairingCode::from_bytes([u8::try_from(salt % 256).unwrap(); 10]) };
        let key = proof.key.map(key);
        let ask = Ask {
            username: &username,
            key: key.as_deref().map(|key| (key, "P-256".to_owned())),
            tag: proof.password.map(|password| [password; 32]),
            source: address(source),
            listener: "mqtts",
            door: Door::Mqtt,
            hears: true,
            nonce: None,
            binding: Binding::Connection(1),
            token: None,
            rules: true,
        };
        let mut facts = Facts::default();
        let (changes, verdict) = (0..8)
            .find_map(|_| {
                let waiting = |id: RequestId| self.waiting.contains(&id);
                match self.core.examine(&ask, &facts, drawn, &self.world, &waiting, self.now()) {
                    Step::Verify(None) => {
                        facts.decoy = true;
                        None
                    }
                    Step::Verify(Some(hash)) => {
                        let verdict = matches(proof.password.unwrap(), &hash);
                        facts.verified.push((hash, verdict));
                        None
                    }
                    Step::Hash => {
                        facts.fresh_hash = Some(hash(proof.password.unwrap(), salt));
                        None
                    }
                    Step::Answer(changes, verdict) => Some((changes, verdict)),
                    Step::Grant(..) => panic!("nobody has shown a token, and there are no rules"),
                }
            })
            .expect("an answer after eight rounds");
        let displaced = changes.iter().find_map(|change| match change {
            Change::Remove { id, why: Removal::Displaced } => Some(*id),
            _ => None,
        });
        let inserted = changes.iter().any(|change| matches!(change, Change::Insert(_)));
        self.make(changes);
        let found = match verdict {
            Verdict::Pending(_) if inserted => Expected::New { displaces: displaced },
            Verdict::Pending(id) => Expected::Pending(id),
            Verdict::Granted { id, user, .. } => {
                assert_eq!(user.username, username);
                assert_eq!(self.model.iter().find(|it| it.id == id).unwrap().state, Fate::Granted(user.id));
                Expected::Granted
            }
            Verdict::Denied { .. } => Expected::Denied,
            Verdict::Barred { .. } => panic!("there are no rules"),
            Verdict::Unusable(_) => Expected::Unusable,
            Verdict::Refused(refused) => Expected::Refused(refused),
        };
        assert_eq!(found, expected, "{username} {proof:?}");
        let now = self.clock.timestamp();
        if inserted {
            if let Some((_, Some(count), _)) = &mut self.open {
                *count -= 1;
            }
            let state = Fate::Pending;
            self.model.push(Known { id, name: username, proof, source, first_seen: now, last_seen: now, state });
        }
        let asked = match found {
            Expected::New { .. } => Some(id),
            Expected::Pending(id) => Some(id),
            _ => None,
        };
        if let Some(asked) = asked {
            let known = self.model.iter_mut().find(|it| it.id == asked).unwrap();
            known.last_seen = now;
            if waits {
                self.waiting.insert(asked);
            }
        }
    }

    fn chosen(&self, index: u8) -> Option<RequestId> {
        let requests: Vec<_> = self.core.requests(None).collect();
        requests.get(usize::from(index) % requests.len().max(1)).map(|request| request.id)
    }

    fn grant(&mut self, index: u8) {
        let Some(id) = self.chosen(index) else { return };
        let known = self.model.iter().find(|it| it.id == id).unwrap().clone();
        let grantable = self.core.grantable(id, false, self.now()).cloned();
        let pending = known.state == Fate::Pending && !self.is_stale(&known);
        assert_eq!(grantable.is_ok(), pending, "exactly the pending requests can be granted");
        let Ok(mut request) = grantable else { return };
        // The directory refuses a name that was taken meanwhile; the request stays as it was.
        if self.world.named(&request.username).is_some() {
            return;
        }
        let user = UserId(Uuid::from_u128(self.draw()));
        let serial = request.key.as_ref().map(|_| format!("{:x}", user.0.as_u128()));
        let mut new = NewUser::named(request.username.clone());
        new.password_hash = request.password_hash.take();
        new.certificates.extend(serial.clone().map(|serial| CertificateRecord {
            serial,
            fingerprint: String::new(),
            key: request.key.clone(),
            not_before: Timestamp::MIN,
            not_after: Timestamp::MAX,
            revoked_at: None,
            reason: None,
            comment: None,
            issuer: Some("ca".into()),
            replaces: None,
        }));
        self.world.0.insert(user, Arc::new(new.into_user(user, ManagedBy::Registry)));
        let at = self.clock.timestamp();
        request.state = State::Granted { user, serial, by: "test".into(), at, comment: None };
        self.make(vec![Change::Put(Box::new(request))]);
        self.model.iter_mut().find(|it| it.id == id).unwrap().state = Fate::Granted(user);
    }

    fn deny(&mut self, index: u8) {
        let Some(id) = self.chosen(index) else { return };
        let known = self.model.iter().find(|it| it.id == id).unwrap().clone();
        let changes = self.core.deny(id, "no".into(), "test".into(), self.now());
        assert_eq!(changes.is_ok(), known.state == Fate::Pending && !self.is_stale(&known));
        let Ok(changes) = changes else { return };
        self.make(changes);
        let at = self.clock.timestamp();
        self.model.iter_mut().find(|it| it.id == id).unwrap().state = Fate::Denied(at);
    }

    fn restart(&mut self) {
        self.core = Core::new(LIMITS, nonces());
        for request in self.disk.values() {
            // Through the form of the store, so that what is not written is really lost.
            let json = serde_json::to_string(request).unwrap();
            assert!(self.core.restore(serde_json::from_str(&json).unwrap()), "{json}");
        }
        self.waiting.clear();
        self.open = None;
        for known in &mut self.model {
            known.last_seen = self.disk[&known.id].last_seen;
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Ask { name, proof, source, waits } => self.ask(name, proof, source, waits),
            Op::Grant(index) => self.grant(index),
            Op::Deny(index) => self.deny(index),
            Op::TakeName(name) => {
                if self.world.named(&username(name)).is_none() {
                    let id = UserId(Uuid::from_u128(self.draw()));
                    let user = NewUser::named(username(name)).into_user(id, ManagedBy::Api);
                    self.world.0.insert(id, Arc::new(user));
                }
            }
            Op::DeleteUser(name) => self.world.0.retain(|_, user| user.username != username(name)),
            Op::Disable(name) => self.world.edit(&username(name), |user| user.enabled = !user.enabled),
            Op::Revoke(name) => self.world.edit(&username(name), |user| {
                for certificate in &mut user.certificates {
                    certificate.revoked_at = Some(Timestamp::UNIX_EPOCH);
                }
            }),
            Op::ChangePassword(name) => {
                let salt = self.draw();
                self.world.edit(&username(name), |user| {
                    if user.password_hash.is_some() {
                        user.password_hash = Some(hash(u8::try_from(salt % 2).unwrap(), salt));
                    }
                });
            }
            Op::Advance { seconds, tick } => {
                self.clock.advance(Duration::from_secs(seconds.into()));
                if tick {
                    if self.core.lock().is_over(self.now()) {
                        self.core.lock_now();
                    }
                    let changes = self.core.expire(self.now());
                    self.make(changes);
                    let left = self.model.iter().filter(|it| self.is_stale(it));
                    assert!(left.into_iter().all(|it| matches!(it.state, Fate::Granted(_))), "all that lapsed is gone");
                }
            }
            Op::Unlock { count, only } => {
                let terms = UnlockTerms {
                    count: count.map(u32::from),
                    username: only.map(|only| username(only).to_string().try_into().unwrap()),
                    ..UnlockTerms::default()
                };
                let lasts = Duration::from_secs(700);
                assert!(self.core.unlock(terms, lasts, self.now()));
                self.open = Some((self.clock.timestamp().checked_add(lasts).unwrap(), count, only));
            }
            Op::Lock => {
                self.core.lock_now();
                self.open = None;
            }
            Op::Restart => self.restart(),
        }
        self.core.check();
        let live: BTreeMap<_, _> = self.core.requests(None).map(|it| (it.id, it.state.clone())).collect();
        let stored: BTreeMap<_, _> = self.disk.values().map(|it| (it.id, it.state.clone())).collect();
        assert_eq!(live, stored, "memory and store hold the same");
        // What the model does not know to be forgotten: a fifth denial of one name, and users that are gone.
        self.model.retain(|known| live.contains_key(&known.id));
        assert_eq!(self.model.len(), live.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn any_course_of_events_is_what_the_specification_says(ops in proptest::collection::vec(ops(), 1..80)) {
        let mut simulation = Simulation::new();
        for op in ops {
            simulation.run(op);
        }
    }
}

const KEY: Proof = Proof { key: Some(0), password: None };
const PASSWORD: Proof = Proof { key: None, password: Some(0) };

#[test]
fn a_flood_of_one_source_leaves_the_table_bounded_and_another_source_served() {
    let mut simulation = Simulation::new();
    simulation.run(Op::Unlock { count: None, only: None });
    for round in 0..10_000_u32 {
        let username = format!("bogus-{round}").parse().unwrap();
        let key = format!("bogus-key-{round}");
        let ask = Ask {
            username: &username,
            key: Some((&key, "P-256".to_owned())),
            tag: None,
            source: address(0),
            listener: "mqtts",
            door: Door::Mqtt,
            hears: true,
            nonce: None,
            binding: Binding::Connection(1),
            token: None,
            rules: true,
        };
        let drawn = Drawn {
            id: RequestId(Uuid::from_u128(1 << 100 | u128::from(round))),
            pairing_code: PairingCode::from_bytes([0; 10]),
        };
        let step =
            simulation.core.examine(&ask, &Facts::default(), drawn, &simulation.world, &|_| false, simulation.now());
        let Step::Answer(changes, _) = step else { panic!("{step:?}") };
        for change in changes {
            simulation.core.apply(change);
        }
        simulation.clock.advance(Duration::from_millis(10));
        simulation.core.check();
    }
    assert!(simulation.core.pending() <= LIMITS.pending.of_source);
    let username = username(1);
    let ask = Ask { key: Some(("honest", "P-256".into())), ..nothing_shown(&username) };
    let drawn = Drawn { id: RequestId(Uuid::from_u128(7)), pairing_code: PairingCode::from_bytes([0; 10]) };
    let step = simulation.core.examine(&ask, &Facts::default(), drawn, &simulation.world, &|_| false, simulation.now());
    assert!(matches!(step, Step::Answer(_, Verdict::Pending(_))), "{step:?}");
}

/// A message from elsewhere, with no proof yet.
fn nothing_shown(username: &Username) -> Ask<'_> {
    Ask {
        username,
        key: None,
        tag: None,
        source: address(1),
        listener: "mqtts",
        door: Door::Mqtt,
        hears: true,
        nonce: None,
        binding: Binding::Connection(1),
        token: None,
        rules: true,
    }
}

/// The attack: a guess that costs nothing, because the right password is remembered.
#[test]
fn a_wrong_password_costs_one_argon2_whether_the_right_one_is_remembered_or_not() {
    let mut simulation = Simulation::new();
    simulation.run(Op::Unlock { count: None, only: None });
    simulation.ask(0, PASSWORD, 0, false);
    simulation.run(Op::Lock);
    let names = [username(0), username(1)];
    let drawn = Drawn { id: RequestId(Uuid::from_u128(7)), pairing_code: PairingCode::from_bytes([0; 10]) };
    let examine = |simulation: &Simulation, name: usize, facts: &Facts| {
        let ask = Ask { tag: Some([9; 32]), ..nothing_shown(&names[name]) };
        simulation.core.examine(&ask, facts, drawn, &simulation.world, &|_| false, simulation.now())
    };
    let refused = Step::Answer(vec![], Verdict::Refused(Refused::Locked));
    for name in [0, 1] {
        assert_eq!(examine(&simulation, name, &Facts::default()), Step::Verify(None), "{name}");
        assert_eq!(examine(&simulation, name, &Facts { decoy: true, ..Facts::default() }), refused, "{name}");
    }
    simulation.restart();
    let Step::Verify(Some(hash)) = examine(&simulation, 0, &Facts::default()) else { panic!("it is not remembered") };
    let facts = Facts { verified: vec![(hash, false)], ..Facts::default() };
    assert_eq!(examine(&simulation, 0, &facts), refused, "the one was enough");
}

#[test]
fn a_later_user_of_the_same_name_inherits_nothing_of_a_granted_request() {
    let mut simulation = Simulation::new();
    simulation.run(Op::Unlock { count: None, only: None });
    simulation.ask(0, KEY, 0, false);
    simulation.run(Op::Grant(0));
    simulation.run(Op::DeleteUser(0));
    simulation.run(Op::TakeName(0));
    assert_eq!(simulation.expect(0, KEY, 0), Expected::Refused(Refused::NameTaken));
    simulation.ask(0, KEY, 0, false);
}

#[test]
fn a_denied_request_is_forgotten_while_its_key_takes_another_name() {
    let mut core = Core::new(LIMITS, nonces());
    let mut request = Request {
        id: RequestId(Uuid::from_u128(1)),
        username: username(0),
        key: Some(key(0)),
        key_kind: None,
        has_password: false,
        password_hash: None,
        pairing_code: PairingCode::from_bytes([0; 10]),
        pairing_shown: true,
        source: address(0),
        listener: "mqtts".into(),
        door: Door::Mqtt,
        first_seen: Timestamp::UNIX_EPOCH,
        last_seen: Timestamp::UNIX_EPOCH,
        polls: 0,
        expires_at: Timestamp::MAX,
        state: State::Denied {
            reason: String::new(),
            by: "system".into(),
            at: Timestamp::UNIX_EPOCH,
            forget_at: Timestamp::MAX,
            comment: None,
        },
        replaces: None,
        token: None,
        approved: None,
        rule: None,
        validity: None,
        remembered: None,
    };
    core.apply(Change::Insert(Box::new(request.clone())));
    let forget = core.claims(&[Change::Remove { id: request.id, why: Removal::Forgotten }]);
    (request.username, request.state) = (username(1), State::Pending);
    let insert = core.claims(&[Change::Insert(Box::new(request))]);
    let inserting = core.take_off(insert);
    assert!(!core.is_in_flight(&forget), "the name and the key are not the same device's");
    assert!(core.is_in_flight(&Claims::on(&username(2), Some(&key(0)))), "but the key is held");
    core.land(&inserting, true);
    assert!(!core.is_in_flight(&Claims::on(&username(1), Some(&key(0)))));
}

#[test]
fn a_denial_is_over_at_its_end_whether_the_clock_has_ticked_or_not() {
    let mut simulation = Simulation::new();
    let seconds = u16::try_from(LIMITS.denied_for.as_secs()).unwrap();
    simulation.run(Op::Unlock { count: None, only: None });
    simulation.ask(0, KEY, 0, false);
    simulation.run(Op::Deny(0));
    simulation.run(Op::Advance { seconds: seconds - 1, tick: false });
    assert_eq!(simulation.expect(0, KEY, 0), Expected::Denied);
    simulation.ask(0, KEY, 0, false);
    simulation.run(Op::Advance { seconds: 1, tick: false });
    simulation.run(Op::Unlock { count: None, only: None });
    assert_eq!(simulation.expect(0, KEY, 0), Expected::New { displaces: None });
    simulation.ask(0, KEY, 0, false);
}

/// What an unlock has admitted and could not record is given back to that unlock and to no later one.
#[test]
fn a_new_unlock_is_given_nothing_of_what_an_earlier_one_has_lost() {
    let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
    let now = Now { instant: clock.instant(), wall: clock.timestamp() };
    let mut core = Core::new(LIMITS, nonces());
    let terms = || UnlockTerms { count: Some(2), ..UnlockTerms::default() };
    let remaining = |core: &Core| match core.lock() {
        Lock::Open { remaining, .. } => *remaining,
        Lock::Locked => None,
    };
    for again in [false, true] {
        assert!(core.unlock(terms(), Duration::from_secs(9), now));
        let admitted = core.claims(&[Change::Admitted]);
        let flight = core.take_off(admitted);
        assert_eq!(remaining(&core), Some(1));
        if again {
            assert!(core.unlock(terms(), Duration::from_secs(9), now));
        }
        core.land(&flight, false);
        assert_eq!(remaining(&core), Some(2));
    }
}

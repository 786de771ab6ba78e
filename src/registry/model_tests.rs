//! The registry, with directory, CA and disk, held against [`reference`]: requests, polls, decisions, lapses, locks, nonces, renewals,
//! replacements, restarts and a disk that fails, in any order; and several of them at once.
//!
//! `PROPTEST_CASES=2000 cargo test --lib registry::service::tests::model` tries for longer.

use std::collections::HashMap;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use rcgen::SigningKey as _;
use serde_json::json;
use tokio::runtime::Runtime;

use super::*;
use crate::access::{RevocationReason, UsernamePattern};
use crate::registry::reference::{self, Deed, Expect, Mishap, Model, Op, Picture, Proof, Revoked};
use crate::registry::{RegistryError, ReplaceTerms};
use crate::store::MemoryStore;

const NAMES: [&str; 4] = ["press-1", "press-2", "press-3", "meter-1"];
const PASSWORDS: [&str; 2] = ["a good password", "another good password"];
const KEYS: usize = 6;
const SOURCES: usize = 3;

/// Made once: generating keys takes most of the time otherwise.
struct Pool {
    runtime: Runtime,
    ca: Arc<CertificateAuthority>,
    keys: Vec<rcgen::KeyPair>,
    /// Fingerprints of the keys.
    fingerprints: Vec<String>,
    /// One for each name and key, without a nonce.
    csrs: Vec<Vec<String>>,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let keys: Vec<_> = (0..KEYS).map(|_| new_key()).collect();
        let csrs: Vec<Vec<_>> = NAMES.iter().map(|name| keys.iter().map(|key| csr(name, key, &[])).collect()).collect();
        let of = |csr: &String| VerifiedCsr::from_pem(csr.as_bytes()).unwrap().key().fingerprint();
        Pool {
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap(),
            ca: Arc::new(CertificateAuthority::generate(start()).unwrap()),
            fingerprints: csrs[0].iter().map(of).collect(),
            keys,
            csrs,
        }
    })
}

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn name(number: usize) -> crate::access::Username {
    NAMES[number].parse().unwrap()
}

fn address(from: usize) -> std::net::IpAddr {
    std::net::IpAddr::from([192, 0, 2, u8::try_from(from).unwrap()])
}

#[derive(Clone)]
enum Disk {
    Memory(Arc<MemoryStore>),
    Faulty(Arc<FaultyStore>),
}

/// The broker, and what the world outside remembers of it. Clones are one.
#[derive(Clone)]
struct Broker {
    disk: Disk,
    clock: ManualClock,
    settings: Settings,
    argon2: Arc<Argon2>,
    registry: Registry,
    directory: Arc<Directory>,
    inboxes: Vec<Arc<Inbox>>,
    nonces: Vec<String>,
    /// Ids of requests, by their number in the model.
    ids: HashMap<usize, RequestId>,
    /// Certificates as devices have got them, by their number in the model.
    collected: HashMap<usize, (String, String)>,
    /// Certificates by serial number.
    pems: HashMap<String, String>,
}

impl Broker {
    fn new(model: &Model) -> Self {
        let seconds = Duration::from_secs;
        let settings = Settings {
            unlock_for: seconds(reference::UNLOCK_FOR),
            pending_ttl: seconds(reference::PENDING_TTL),
            max_pending: reference::MAX_PENDING,
            max_pending_per_source: reference::MAX_PER_SOURCE,
            denied_for: seconds(reference::DENIED_FOR),
            validity: seconds(reference::VALIDITY),
            renew_grace: seconds(reference::GRACE),
            require_nonce: model.require_nonce,
            approvals: 1,
            listeners: Vec::new(),
            rules: Vec::new(),
            rate: RateLimit { burst: 100_000, every: Duration::from_micros(1) },
        };
        let disk = if model.faulty {
            Disk::Faulty(Arc::new(FaultyStore::new()))
        } else {
            Disk::Memory(Arc::new(MemoryStore::new()))
        };
        let (clock, argon2) = (ManualClock::new(start()), Arc::new(Argon2::default()));
        let (registry, directory) = super::open(Self::store(&disk), &pool().ca, &argon2, &clock, &settings);
        let inboxes = (0..SOURCES).map(|_| Arc::new(Inbox::default())).collect();
        Self {
            disk,
            clock,
            settings,
            argon2,
            registry,
            directory,
            inboxes,
            nonces: Vec::new(),
            ids: HashMap::new(),
            collected: HashMap::new(),
            pems: HashMap::new(),
        }
    }

    fn store(disk: &Disk) -> Arc<dyn Store> {
        match disk {
            Disk::Memory(store) => Arc::clone(store) as _,
            Disk::Faulty(store) => Arc::clone(store) as _,
        }
    }

    fn restart(&mut self, survivors: usize) {
        if let Disk::Faulty(store) = &mut self.disk {
            *store = Arc::new(store.crash(survivors));
        }
        (self.registry, self.directory) =
            super::open(Self::store(&self.disk), &pool().ca, &self.argon2, &self.clock, &self.settings);
    }

    fn origin(&self, from: usize, listens: bool) -> Origin {
        Origin {
            source: address(from),
            binding: Binding::Connection(from as u64),
            ..origin(Some(&self.inboxes[from]).filter(|_| listens))
        }
    }

    fn csr_with(&self, name: usize, key: usize, nonce: Option<usize>) -> String {
        let Some(nonce) = nonce.and_then(|nonce| self.nonces.get(nonce)) else {
            return pool().csrs[name][key].clone();
        };
        csr(NAMES[name], &pool().keys[key], &[nonce])
    }

    fn user(&self, number: usize) -> Option<Arc<User>> {
        self.directory.policy().user_named(&name(number)).cloned()
    }

    /// The certificate that the model means, by its place among those of the user.
    fn certificate(&self, number: usize, place: usize) -> Option<(Arc<User>, crate::access::CertificateRecord)> {
        let user = self.user(number)?;
        let place = place.checked_rem(user.certificates.len())?;
        let certificate = user.certificates[place].clone();
        Some((user, certificate))
    }

    /// Does what is asked. The answer of a device's operation, or what became of an operator's order.
    async fn run(&mut self, deed: Deed) -> Said {
        match deed {
            Deed::Register { name, proof, from, nonce, listens } => {
                let mut message = json!({"username": NAMES[name], "roles": ["admin"], "id": from});
                if let Some(key) = proof.key {
                    message["csr"] = self.csr_with(name, key, nonce).into();
                }
                if let Some(password) = proof.password {
                    message["password"] = PASSWORDS[password].into();
                }
                let origin = self.origin(from, listens);
                Said::Answer(Box::new(self.registry.register(message.to_string().as_bytes(), None, &origin).await))
            }
            Deed::Grant(number) => {
                let id = self.id(number);
                let replaces = self.registry.show(id).await.is_ok_and(|view| view.replaces.is_some());
                let terms = if replaces { GrantTerms::default() } else { Stage::terms() };
                Said::of(self.registry.grant(id, terms, Actor::System).await)
            }
            Deed::Deny(number) => Said::of(self.registry.deny(self.id(number), "no".into(), Actor::System).await),
            Deed::Unlock { count, name, from } => {
                let username = name.map(|name| UsernamePattern::try_from(NAMES[name].to_owned()).unwrap());
                let source = from.map(|from| address(from).to_string().parse().unwrap()).into_iter().collect();
                let terms = UnlockTerms { source, username, count, ..UnlockTerms::default() };
                Said::of(self.registry.unlock(terms, Actor::System).await)
            }
            Deed::Lock => Said::of(self.registry.lock(Actor::System).await),
            Deed::Open(number) => {
                let terms = ReplaceTerms { duration: Some(reference::OPEN_FOR), ..ReplaceTerms::default() };
                Said::of(self.registry.replace(name(number), terms, Actor::System).await)
            }
            Deed::Cancel(number) => Said::of(self.registry.cancel_replacement(name(number), Actor::System).await),
            Deed::Renew { name, certificate, key } => {
                let certificate = self.certificate(name, certificate);
                let user = self.user(name).map_or(UserId(Uuid::now_v7()), |user| user.id);
                let caller = Caller { user, certificate: certificate.map(|(_, it)| (it.serial, it.not_after)) };
                let message = json!({"csr": pool().csrs[name][key]}).to_string();
                let origin = self.origin(0, false);
                Said::Answer(Box::new(self.registry.renew(message.as_bytes(), None, Some(&caller), &origin).await))
            }
            Deed::RenewLapsed { name, certificate, key, from, nonce } => {
                let old = self.certificate(name, certificate).map(|(_, it)| it);
                let Some((old, pem)) = old.and_then(|it| self.pems.get(&it.serial).map(|pem| (it, pem))) else {
                    return Said::Nothing;
                };
                let signer = pool().fingerprints.iter().position(|it| Some(it) == old.key.as_ref()).unwrap();
                let csr = &pool().csrs[name][key];
                let nonce = self.nonces.get(nonce);
                let mut bytes = b"portcullis-renew-v1".to_vec();
                bytes.extend_from_slice(nonce.map_or(b"", |nonce| nonce.as_bytes()));
                bytes.extend_from_slice(VerifiedCsr::from_pem(csr.as_bytes()).unwrap().digest());
                let signature = crate::pki::pem("X", &pool().keys[signer].sign(&bytes).unwrap());
                let signature: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
                let message = json!({"csr": csr, "certificate": pem, "signature": signature, "nonce": nonce});
                let origin = self.origin(from, false);
                Said::Answer(Box::new(self.registry.renew(message.to_string().as_bytes(), None, None, &origin).await))
            }
            Deed::Connect { name, certificate } => {
                if let Some((user, it)) = self.certificate(name, certificate) {
                    self.registry.confirm(user.id, it.serial).await.unwrap();
                }
                Said::Nothing
            }
            Deed::Revoke { name, certificate } => {
                if let Some((user, it)) = self.certificate(name, certificate).filter(|(_, it)| it.revoked_at.is_none())
                {
                    let now = self.clock.timestamp();
                    self.edit(user.id, move |user| {
                        let of = user.certificates.iter_mut().find(|other| other.serial == it.serial).unwrap();
                        (of.revoked_at, of.reason) = (Some(now), Some(RevocationReason::KeyCompromise));
                    });
                }
                Said::Nothing
            }
            Deed::Enable { name, enabled } => {
                if let Some(user) = self.user(name) {
                    self.edit(user.id, move |user| user.enabled = enabled);
                }
                Said::Nothing
            }
            Deed::Delete(name) => {
                if let Some(user) = self.user(name) {
                    self.directory.delete_user(user.id, Expected::Any, &Actor::System).unwrap();
                }
                Said::Nothing
            }
            Deed::TakeName(number) => {
                if self.user(number).is_none() {
                    self.directory.create_user(NewUser::named(name(number)), &Actor::System).unwrap();
                }
                Said::Nothing
            }
            Deed::Challenge(from) => {
                let answer = self.registry.challenge(b"", None, &self.origin(from, false));
                self.nonces.push(answer.nonce.unwrap());
                Said::Nothing
            }
            Deed::Advance(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.registry.tick().await.unwrap();
                Said::Nothing
            }
            Deed::Restart => {
                self.restart(0);
                Said::Nothing
            }
        }
    }

    fn id(&self, number: usize) -> RequestId {
        self.ids.get(&number).copied().unwrap_or(RequestId(Uuid::nil()))
    }

    fn edit(&self, user: UserId, edit: impl FnOnce(&mut User) + Send + 'static) {
        self.directory.update_user(user, Expected::Any, edit, &Actor::System).unwrap();
    }

    /// All that an operator may see, in the words of the model.
    async fn picture(&self) -> Picture {
        let policy = self.directory.policy();
        let key = |fingerprint: &Option<String>| {
            fingerprint.as_ref().map(|it| pool().fingerprints.iter().position(|other| other == it).unwrap())
        };
        let number = |name: &crate::access::Username| NAMES.iter().position(|it| *it == name.as_str()).unwrap();
        let waits_for_nobody =
            |it: &RequestView| it.state == State::Pending && it.replaces.is_some_and(|id| policy.user(id).is_none());
        let mut requests: Vec<_> = self
            .registry
            .list(None)
            .await
            .unwrap()
            .iter()
            .filter(|it| !waits_for_nobody(it))
            .map(|it| {
                let password = matches!(it.auth, Auth::Password | Auth::Both);
                (number(&it.username), key(&it.key_fingerprint), password, it.state.as_str(), it.replaces.is_some())
            })
            .collect();
        requests.sort_unstable();
        let seconds = |at: Timestamp| u64::try_from(at.duration_since(start()).as_secs()).unwrap();
        let mut users: Vec<_> = policy
            .users()
            .map(|user| {
                let mut certificates: Vec<_> = user
                    .certificates
                    .iter()
                    .map(|it| {
                        let revoked = match (it.revoked_at, it.reason) {
                            (None, _) => Revoked::No,
                            (_, Some(RevocationReason::Superseded)) => Revoked::Superseded,
                            _ => Revoked::ForGood,
                        };
                        (key(&it.key).unwrap(), seconds(it.not_after), revoked)
                    })
                    .collect();
                certificates.sort_unstable();
                (number(&user.username), user.enabled, user.password_hash.is_some(), certificates)
            })
            .collect();
        users.sort_unstable();
        let open = self.registry.replacements().await.unwrap();
        let mut open: Vec<_> =
            open.iter().filter(|it| policy.user(it.user).is_some()).map(|it| number(&it.username)).collect();
        open.sort_unstable();
        let pending = self.registry.status().await.unwrap().pending;
        Picture { requests, users, open, pending }
    }

    /// Takes note of a new request, and of certificates; nothing but what the model says may be new.
    async fn learn(&mut self, model: &Model) {
        let known: Vec<_> = self.ids.values().copied().collect();
        let listed = self.registry.list(None).await.unwrap();
        let mut new = listed.iter().filter(|it| !known.contains(&it.id));
        for request in &model.requests {
            self.ids.entry(request.number).or_insert_with(|| {
                let view = new.next().expect("the request is listed");
                assert_eq!(view.username, name(request.name));
                view.id
            });
        }
        assert!(new.next().is_none(), "a request that nobody made");
        for user in self.directory.policy().users() {
            let named = user.managed_by == ManagedBy::Registry;
            let roles = if named { Stage::terms().roles } else { Vec::new() };
            assert_eq!((&user.roles, user.permissions.len()), (&roles, 0), "what was decided, not what was asked for");
        }
    }

    /// What was pushed since the last time: connection and status, in no order.
    fn pushed(&mut self) -> Vec<(usize, u16)> {
        let mut pushed = Vec::new();
        for (from, inbox) in self.inboxes.iter().enumerate() {
            for (answer, _) in std::mem::take(&mut *inbox.0.lock()) {
                assert_eq!(answer.id, Some(json!(from)));
                pushed.push((from, answer.status));
                if let (Some(serial), Some(pem)) = (answer.serial, answer.certificate) {
                    self.pems.insert(serial, pem);
                }
            }
        }
        pushed.sort_unstable();
        pushed
    }

    /// Is that one of the right answers? If it is, it is taken note of.
    fn compare(&mut self, said: &Said, expect: &Expect) -> Result<(), String> {
        let fits = match (said, expect) {
            (Said::Answer(answer), Expect::Pending) => answer.status == 202 && answer.pairing_code.is_some(),
            (Said::Answer(answer), Expect::Granted(None)) => answer.status == 201 && answer.certificate.is_none(),
            (Said::Answer(answer), Expect::Granted(Some(number))) => {
                let got = (answer.serial.clone().unwrap_or_default(), answer.certificate.clone().unwrap_or_default());
                let first = self.collected.entry(*number).or_insert_with(|| got.clone());
                self.pems.insert(got.0.clone(), got.1.clone());
                // The same certificate, however often and whenever it is asked for.
                answer.status == 201 && !got.1.is_empty() && *first == got
            }
            (Said::Answer(answer), Expect::Refused(faults)) => {
                let state = match answer.status {
                    403 => "denied",
                    409 => "conflict",
                    423 => "locked",
                    _ => "refused",
                };
                answer.state == state
                    && answer.certificate.is_none()
                    && faults.iter().any(|fault| (answer.status, answer.error) == (fault.0, Some(fault.1)))
            }
            (Said::Answer(answer), Expect::Failed) => answer.status == 500,
            (Said::Order(status), Expect::Done) => *status == 200,
            (Said::Order(status), Expect::Not(expected)) => status == expected,
            (Said::Order(status), Expect::Failed) => *status == 500,
            (Said::Nothing, Expect::Nothing) => true,
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("expected {expect:?}, got {said:?}")) }
    }
}

#[derive(Debug)]
enum Said {
    Answer(Box<Answer>),
    /// Of an operator: 200, or the kind of refusal.
    Order(u16),
    Nothing,
}

impl Said {
    fn of<T>(done: Result<T, RegistryError>) -> Self {
        Self::Order(done.map_or_else(
            |error| match error.kind() {
                RegistryErrorKind::Forbidden => 403,
                RegistryErrorKind::NotFound => 404,
                RegistryErrorKind::Conflict => 409,
                RegistryErrorKind::Invalid => 422,
                RegistryErrorKind::Internal => 500,
            },
            |_| 200,
        ))
    }
}

fn proofs() -> impl Strategy<Value = Proof> {
    prop_oneof![
        6 => (0..KEYS).prop_map(|key| Proof { key: Some(key), password: None }),
        2 => (0..PASSWORDS.len()).prop_map(|password| Proof { key: None, password: Some(password) }),
        2 => (0..KEYS, 0..PASSWORDS.len()).prop_map(|(key, password)| Proof { key: Some(key), password: Some(password) }),
    ]
}

/// Any deed, the likely ones more often: about requests that were made, with proofs that were shown and nonces that were drawn.
fn deeds(model: &Model) -> BoxedStrategy<Deed> {
    let names = 0..NAMES.len();
    let nonces = model.nonces();
    let recent = (nonces.saturating_sub(3)..nonces + 1).boxed();
    let register =
        (names.clone(), proofs(), 0..SOURCES, proptest::option::weighted(0.9, recent.clone()), any::<bool>())
            .prop_map(|(name, proof, from, nonce, listens)| Deed::Register { name, proof, from, nonce, listens });
    let again: Vec<_> = model.requests.iter().map(reference::Request::asked).collect();
    let again = if again.is_empty() {
        Just(Deed::Advance(60)).boxed()
    } else {
        (proptest::sample::select(again), 0..SOURCES, any::<bool>())
            .prop_map(|((name, proof), from, listens)| Deed::Register { name, proof, from, nonce: None, listens })
            .boxed()
    };
    let requests = (model.made.saturating_sub(5)..model.made + 1).boxed();
    let times = proptest::sample::select(vec![60, 240, 300, 700, 1_000, 2_000, 3_000, 6_000, 9_001, 30_000]);
    let certificates = 0..3_usize;
    let whose = || (names.clone(), certificates.clone());
    prop_oneof![
        10 => register,
        6 => again,
        6 => requests.clone().prop_map(Deed::Grant),
        3 => requests.prop_map(Deed::Deny),
        5 => (proptest::option::weighted(0.3, 1..4_u32), proptest::option::weighted(0.1, names.clone()),
              proptest::option::weighted(0.1, 0..SOURCES))
            .prop_map(|(count, name, from)| Deed::Unlock { count, name, from }),
        1 => Just(Deed::Lock),
        3 => names.clone().prop_map(Deed::Open),
        1 => names.clone().prop_map(Deed::Cancel),
        6 => (whose(), 0..KEYS).prop_map(|((name, certificate), key)| Deed::Renew { name, certificate, key }),
        3 => (whose(), 0..KEYS, 0..SOURCES, recent).prop_map(|((name, certificate), key, from, nonce)| {
            Deed::RenewLapsed { name, certificate, key, from, nonce }
        }),
        3 => whose().prop_map(|(name, certificate)| Deed::Connect { name, certificate }),
        1 => whose().prop_map(|(name, certificate)| Deed::Revoke { name, certificate }),
        1 => (names.clone(), any::<bool>()).prop_map(|(name, enabled)| Deed::Enable { name, enabled }),
        1 => names.clone().prop_map(Deed::Delete),
        1 => names.clone().prop_map(Deed::TakeName),
        4 => (0..SOURCES).prop_map(Deed::Challenge),
        5 => times.prop_map(Deed::Advance),
        2 => Just(Deed::Restart),
    ]
    .boxed()
}

fn mishaps() -> impl Strategy<Value = Option<Mishap>> {
    let mishap = prop_oneof![
        Just(Mishap::Refused),
        any::<bool>().prop_map(|survives| Mishap::NotSynced { survives }),
        Just(Mishap::AnswerLost),
    ];
    proptest::option::weighted(0.15, mishap)
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Self> {
        (any::<bool>(), any::<bool>()).prop_map(|(nonce, faulty)| Self::new(nonce, faulty)).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Op> {
        let op = |(deed, mishap): (Deed, Option<Mishap>)| {
            // What the clock does is done again in a second.
            let mishap = mishap.filter(|_| !matches!(deed, Deed::Advance(_)));
            Op { deed, mishap }
        };
        (deeds(state), mishaps()).prop_map(op).boxed()
    }

    fn apply(mut state: Self, op: &Op) -> Self {
        state.run(*op);
        state
    }
}

struct OneAfterTheOther;

impl StateMachineTest for OneAfterTheOther {
    type SystemUnderTest = Broker;
    type Reference = Model;

    fn init_test(model: &Model) -> Broker {
        let broker = Broker::new(model);
        broker.directory.put_role(sensor(), Expected::Absent, &Actor::System).unwrap();
        broker
    }

    fn apply(mut broker: Broker, model: &Model, op: Op) -> Broker {
        pool().runtime.block_on(async {
            let expect = model.expect.as_ref().unwrap();
            if let (Disk::Faulty(store), Some(mishap)) = (&broker.disk, op.mishap) {
                store.fail_commit_to(
                    "registry_",
                    match mishap {
                        Mishap::Refused => Fault::Refused,
                        Mishap::NotSynced { .. } => Fault::NotSynced,
                        Mishap::AnswerLost => Fault::AnswerLost,
                    },
                );
            }
            let said = broker.run(op.deed).await;
            if let Disk::Faulty(store) = &broker.disk {
                store.heal();
            }
            match op.mishap {
                Some(Mishap::NotSynced { survives }) if *expect == Expect::Failed => broker.restart(survives.into()),
                Some(Mishap::AnswerLost) if *expect == Expect::Failed => broker.restart(0),
                _ => {}
            }
            let mut pushed = model.pushed.clone();
            pushed.sort_unstable();
            assert_eq!(broker.pushed(), pushed);
            broker.compare(&said, expect).unwrap();
            broker.learn(model).await;
            assert_eq!(broker.picture().await, model.picture());
        });
        broker
    }

    fn check_invariants(broker: &Broker, _: &Model) {
        broker.registry.inner().state.lock().core.check();
    }
}

/// Fewer than the default, unless the environment says how many.
fn config(cases: u32) -> Config {
    let default = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { Config { cases, ..default } }
}

prop_state_machine! {
    #![proptest_config(config(256))]

    #[test]
    fn any_course_of_events_is_what_the_protocol_says(sequential 1..60 => OneAfterTheOther);
}

/// What happens at once in a race: everything about the same few names.
fn rivals() -> impl Strategy<Value = Vec<Deed>> {
    let rival = prop_oneof![
        4 => (0..2_usize, 0..3_usize, 0..SOURCES).prop_map(|(name, key, from)| Deed::Register {
            name, proof: Proof { key: Some(key), password: None }, from, nonce: None, listens: true,
        }),
        3 => (0..3_usize).prop_map(Deed::Grant),
        2 => (0..3_usize).prop_map(Deed::Deny),
        1 => Just(Deed::Lock),
        1 => Just(Deed::Unlock { count: Some(1), name: None, from: None }),
        1 => (0..2_usize).prop_map(Deed::Open),
        1 => (0..2_usize).prop_map(Deed::Cancel),
        // Of its certificates the first: which one is meant must not depend on the order.
        2 => (0..2_usize, 0..4_usize).prop_map(|(name, key)| Deed::Renew { name, certificate: 0, key }),
    ];
    proptest::collection::vec(rival, 2..5)
}

/// What comes before: one after the other.
fn preludes() -> impl Strategy<Value = Vec<Deed>> {
    let ask = |name, key| Deed::Register {
        name,
        proof: Proof { key: Some(key), password: None },
        from: name,
        nonce: None,
        listens: true,
    };
    let open = Deed::Unlock { count: None, name: None, from: None };
    proptest::sample::select(vec![
        vec![open],
        vec![Deed::Unlock { count: Some(1), name: None, from: None }],
        vec![open, ask(0, 0)],
        vec![open, ask(0, 0), ask(1, 1)],
        vec![open, ask(0, 0), Deed::Grant(0)],
        vec![open, ask(0, 0), Deed::Grant(0), ask(1, 1)],
        vec![open, ask(0, 0), Deed::Grant(0), Deed::Open(0), ask(0, 2)],
        vec![open, ask(0, 0), Deed::Advance(240)],
    ])
}

fn orders(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(of - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..of).map(|at| {
                let mut order = order.clone();
                order.insert(at, of - 1);
                order
            })
        })
        .collect()
}

proptest! {
    #![proptest_config(config(96))]

    /// Grants, denials, locks, renewals, replacements and requests that come at once: the answers and what is left are those of
    /// one order or another of them.
    #[test]
    fn what_happens_at_once_comes_out_as_one_after_the_other(prelude in preludes(), rivals in rivals()) {
        let mut model = Model::new(false, true);
        let mut broker = OneAfterTheOther::init_test(&model);
        for deed in prelude {
            let op = Op { deed, mishap: None };
            model.run(op);
            broker = OneAfterTheOther::apply(broker, &model, op);
        }
        let outcome: Result<(), String> = pool().runtime.block_on(async {
            if let Disk::Faulty(store) = &broker.disk {
                store.take(Duration::from_millis(1));
            }
            let tasks: Vec<_> = rivals.iter().map(|deed| {
                let (mut broker, deed) = (broker.clone(), *deed);
                tokio::spawn(async move { broker.run(deed).await })
            }).collect();
            let mut said = Vec::new();
            for task in tasks {
                said.push(task.await.unwrap());
            }
            let picture = broker.picture().await;
            let mut faults = Vec::new();
            for order in orders(rivals.len()) {
                let mut model = model.clone();
                let mut broker = broker.clone();
                let fits = order.iter().try_for_each(|at| {
                    model.run(Op { deed: rivals[*at], mishap: None });
                    broker.compare(&said[*at], model.expect.as_ref().unwrap())
                });
                match fits {
                    Ok(()) if model.picture() == picture => return Ok(()),
                    Ok(()) => faults.push(format!("{order:?}: {:?}", model.picture())),
                    Err(fault) => faults.push(format!("{order:?}: {fault}")),
                }
            }
            Err(format!("no order gives {said:#?} and {picture:?}:\n{}", faults.join("\n")))
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        broker.registry.inner().state.lock().core.check();
    }
}

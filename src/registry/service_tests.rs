//! The registry with a real directory, a real CA and a store that fails on purpose; argon2 is played.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::Timestamp;
use serde_json::{Value, json};

#[path = "approval_tests.rs"]
mod approvals;
#[path = "flight_tests.rs"]
mod flight;
#[path = "guess_tests.rs"]
mod guess;
#[path = "knock_tests.rs"]
mod knock;
#[path = "model_tests/mod.rs"]
mod model;
#[path = "nonce_tests.rs"]
mod nonce;
#[path = "order_tests.rs"]
mod orders;
#[path = "renewal_tests.rs"]
mod renewal;
#[path = "replacement_tests.rs"]
mod replacement;
#[path = "rule_tests.rs"]
mod rules;
#[path = "token_tests.rs"]
mod tokens;

use super::*;
use crate::access::{Auth, Context, ManagedBy, Operation, Permission, Role, User, Username};
use crate::authn::{Attempt, Busy, FailureRate, Guesses, SALT_BYTES, ThrottleSettings};
use crate::clock::ManualClock;
use crate::directory::{Expected, NewUser};
use crate::pki::{CertificateAuthority, PeerCertificate};
use crate::registry::{AnswerSink, Binding, Door, Format, Hashing, RateLimit, RegistryErrorKind, ReturnPath};
use crate::store::{Fault, FaultyStore};

const CSR: &str = include_str!("../pki/testdata/p256.csr.pem");
const OTHER_CSR: &str = include_str!("../pki/testdata/ed25519.csr.pem");
const CODE: &str = include_str!("../pki/testdata/p256.code");

/// The queue is full for this password.
const NO_ROOM: &str = "no room in the queue";

/// Hashes are the password itself and a number; counts its work. What is said of guesses, the limits of the broker say.
struct Argon2(AtomicU64, AtomicBool, Arc<Guesses>);

impl Default for Argon2 {
    /// Nobody is held back.
    fn default() -> Self {
        let rate = FailureRate { burst: u32::MAX / 4, every: Duration::from_nanos(1) };
        let settings =
            ThrottleSettings { source: rate, user: rate, stranger: rate, spared: rate, ..ThrottleSettings::default() };
        Self::guarded(settings, &ManualClock::new(Timestamp::UNIX_EPOCH))
    }
}

impl Argon2 {
    fn guarded(settings: ThrottleSettings, clock: &ManualClock) -> Self {
        Self(AtomicU64::new(0), AtomicBool::new(false), Arc::new(Guesses::new(settings, Arc::new(clock.clone()))))
    }

    /// From now on nothing that it is asked comes to an end.
    fn stall(&self) {
        self.1.store(true, Ordering::SeqCst);
    }

    async fn work(&self) {
        if self.1.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }
}

impl PasswordHasher for Argon2 {
    fn check(&self, password: &str) -> Result<(), String> {
        if password.len() < 8 { Err("the password is too weak".into()) } else { Ok(()) }
    }

    fn attempt(&self, source: Source, name: &Username) -> Result<Attempt, Duration> {
        self.2.attempt(source, name)
    }

    fn hash<'a>(&'a self, _: Source, password: &'a str, _: u32) -> Hashing<'a, Result<String, HashError>> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            self.work().await;
            Ok(format!("{password}${number}"))
        })
    }

    fn stretch<'a>(
        &'a self,
        _: Source,
        password: &'a str,
        salt: [u8; SALT_BYTES],
    ) -> Hashing<'a, Result<String, HashError>> {
        // What is made of it does not tell apart passwords by the marks at their end.
        let stretched = format!("{} {salt:?}", password.trim_end_matches('!'));
        Box::pin(async move { Ok(stretched) })
    }

    fn verify<'a>(
        &'a self,
        _: Source,
        password: &'a str,
        (hash, _): (Option<&'a str>, u32),
        begun: Arc<AtomicBool>,
    ) -> Hashing<'a, Result<bool, Busy>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        begun.store(true, Ordering::SeqCst);
        Box::pin(async move {
            if password == NO_ROOM {
                return Err(Busy);
            }
            self.work().await;
            Ok(hash.and_then(|hash| hash.split('$').next()) == Some(password))
        })
    }
}

#[derive(Default)]
struct Inbox(Mutex<Vec<(Answer, ReturnPath)>>);

impl AnswerSink for Inbox {
    fn answer(&self, answer: &Answer, path: &ReturnPath) {
        self.0.lock().push((answer.clone(), path.clone()));
    }
}

struct Stage {
    registry: Registry,
    directory: Arc<Directory>,
    store: Arc<FaultyStore>,
    ca: Arc<CertificateAuthority>,
    argon2: Arc<Argon2>,
    clock: ManualClock,
    settings: Settings,
}

impl Stage {
    fn new() -> Self {
        Self::with(Settings {
            rate: RateLimit { burst: 10_000, every: Duration::from_millis(1) },
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Self {
        Self::on(FaultyStore::new(), settings)
    }

    fn on(store: FaultyStore, settings: Settings) -> Self {
        let clock = ManualClock::new("2026-03-01T12:00:00Z".parse().unwrap());
        Self::of(store, settings, Argon2::default(), clock)
    }

    /// Where guesses are held back as in the broker, and messages as by its defaults: 60 in a minute.
    fn guarded() -> Self {
        let clock = ManualClock::new("2026-03-01T12:00:00Z".parse().unwrap());
        let rate = RateLimit { burst: 60, every: Duration::from_secs(1) };
        let argon2 = Argon2::guarded(ThrottleSettings::default(), &clock);
        Self::of(FaultyStore::new(), Settings { rate, ..Settings::default() }, argon2, clock)
    }

    fn of(store: FaultyStore, settings: Settings, argon2: Argon2, clock: ManualClock) -> Self {
        let ca = Arc::new(CertificateAuthority::generate(clock.timestamp()).unwrap());
        let (store, argon2) = (Arc::new(store), Arc::new(argon2));
        let (registry, directory) = open(Arc::clone(&store) as _, &ca, &argon2, &clock, &settings);
        directory.put_role(sensor(), Expected::Absent, &Actor::System).unwrap();
        Self { registry, directory, store, ca, argon2, clock, settings }
    }

    /// The same disk under new processes.
    fn restart(&mut self) {
        self.store = Arc::new(self.store.crash(usize::MAX));
        let store = Arc::clone(&self.store) as _;
        (self.registry, self.directory) = open(store, &self.ca, &self.argon2, &self.clock, &self.settings);
    }

    async fn unlock(&self) {
        self.registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    }

    async fn send(&self, message: Value) -> Answer {
        self.registry.register(message.to_string().as_bytes(), None, &origin(None)).await
    }

    /// The id of the only request.
    async fn only(&self) -> RequestId {
        let requests = self.registry.list(None).await.unwrap();
        assert_eq!(requests.len(), 1);
        requests[0].id
    }

    fn terms() -> GrantTerms {
        GrantTerms { roles: vec!["sensor".parse().unwrap()], ..GrantTerms::default() }
    }
}

fn sensor() -> Role {
    Role {
        name: "sensor".parse().unwrap(),
        description: String::new(),
        permissions: vec![Permission::allow(Context::Mqtt, Operation::Write, "plant/${username}/#")],
        managed_by: ManagedBy::Api,
        version: 0,
    }
}

fn open(
    store: Arc<dyn Store>,
    ca: &Arc<CertificateAuthority>,
    argon2: &Arc<Argon2>,
    clock: &ManualClock,
    settings: &Settings,
) -> (Registry, Arc<Directory>) {
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let directory = Arc::new(Directory::open(Arc::clone(&store), Arc::clone(&clock)).unwrap());
    let registry = Registry::open(
        store,
        Arc::clone(&directory),
        Arc::new(crate::pki::Signers::new(Arc::clone(ca))),
        Arc::clone(argon2) as _,
        clock,
        Arc::new(Metrics::new()),
        settings.clone(),
    )
    .unwrap();
    (registry, directory)
}

fn origin(sink: Option<&Arc<Inbox>>) -> Origin {
    let path = ReturnPath {
        response_topic: "$registry/register/response".parse().unwrap(),
        correlation_data: Some("17".into()),
        format: Format::Json,
    };
    let sink = sink.map(|inbox| (Arc::downgrade(&(Arc::clone(inbox) as Arc<dyn AnswerSink>)), path));
    Origin {
        source: "192.0.2.1".parse().unwrap(),
        listener: "mqtts".into(),
        door: Door::Mqtt,
        hears: true,
        binding: Binding::Connection(1),
        sink,
    }
}

/// A CSR for this name and key, with these challenge passwords.
fn csr(name: &str, key: &rcgen::KeyPair, challenges: &[&str]) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let attributes = challenges.iter().map(|text| {
        let length = u8::try_from(text.len()).unwrap();
        // SET { PrintableString }
        let mut values = vec![0x31, length + 2, 0x13, length];
        values.extend_from_slice(text.as_bytes());
        rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values }
    });
    params.serialize_request_with_attributes(key, attributes.collect()).unwrap().pem().unwrap()
}

fn new_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().unwrap()
}

fn with_csr() -> Value {
    json!({"username": "press-7", "csr": CSR, "context": {"line": 3}, "roles": ["admin"], "id": "a"})
}

fn with_password(password: &str) -> Value {
    json!({"username": "meter-1", "password": password})
}

#[tokio::test]
async fn the_story_of_a_device_with_a_csr() {
    let stage = Stage::new();
    let locked = stage.send(with_csr()).await;
    assert_eq!(
        (locked.status, locked.state, locked.retry_after, locked.id),
        (423, "locked", Some(60), Some(json!("a")))
    );
    assert!(stage.registry.list(None).await.unwrap().is_empty(), "nothing is on record behind a shut door");

    stage.unlock().await;
    let mut events = stage.registry.watch();
    let inbox = Arc::new(Inbox::default());
    let message = with_csr().to_string();
    let pending = stage.registry.register(message.as_bytes(), Some("application/json"), &origin(Some(&inbox))).await;
    assert_eq!((pending.status, pending.state), (202, "pending"));
    assert_eq!(pending.pairing_code.unwrap().to_string(), CODE.trim());
    assert_eq!(events.recv().await.unwrap().event, EventKind::Requested);

    stage.registry.lock(Actor::System).await.unwrap();
    let poll = stage.send(with_csr()).await;
    assert_eq!((poll.status, poll.pairing_code), (202, pending.pairing_code), "a poll is answered behind a shut door");
    let stranger = stage.send(json!({"username": "press-7", "csr": OTHER_CSR})).await;
    assert_eq!(stranger.status, 423, "and another proof learns nothing");
    stage.unlock().await;
    let stranger = stage.send(json!({"username": "press-7", "csr": OTHER_CSR})).await;
    assert_eq!((stranger.status, stranger.error), (409, Some("name_pending")));

    let id = stage.only().await;
    let view = stage.registry.show(id).await.unwrap();
    assert_eq!((view.context, view.requested_roles.len(), view.auth), (Some(json!({"line": 3})), 1, Auth::Certificate));
    stage.registry.grant(id, Stage::terms(), Actor::Local { uid: 0 }).await.unwrap();

    let (pushed, path) = inbox.0.lock().pop().expect("the decision was pushed");
    assert_eq!((pushed.status, pushed.state, pushed.id.clone()), (201, "granted", Some(json!("a"))));
    assert_eq!(path.correlation_data.as_deref(), Some(&b"17"[..]));
    let again = stage.send(with_csr()).await;
    assert_eq!(again, pushed, "a lost answer loses nothing");
    let stranger = stage.send(json!({"username": "press-7", "csr": OTHER_CSR})).await;
    assert_eq!((stranger.status, stranger.error), (409, Some("name_taken")));

    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).cloned().unwrap();
    assert_eq!((user.auth, user.managed_by), (Auth::Certificate, ManagedBy::Registry));
    assert_eq!(user.roles, Stage::terms().roles, "what was asked for is not granted by asking");
    let pem = x509_parser::pem::parse_x509_pem(pushed.certificate.as_deref().unwrap().as_bytes()).unwrap().1;
    let peer = PeerCertificate::from_der(&pem.contents).unwrap();
    assert_eq!(peer.common_name().unwrap().as_str(), "press-7");
    assert_eq!(peer.fingerprint(), user.certificates[0].fingerprint);
    assert_eq!(pushed.serial.as_deref(), Some(peer.serial()));
    assert_eq!(pushed.not_after, Some(peer.not_after()));

    let caller = Caller { user: user.id, certificate: Some((peer.serial().into(), peer.not_after())) };
    let known = stage.registry.whoami(b"", None, Some(&caller), &origin(None));
    assert_eq!((known.status, known.state, known.permissions.unwrap().len()), (200, "ok", 1));
    assert_eq!(known.not_after, Some(peer.not_after()));
    let events: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.event).collect();
    assert_eq!(events, [EventKind::Locked, EventKind::Unlocked, EventKind::Granted]);
}

#[tokio::test]
async fn a_decision_is_pushed_once_to_each_connection_however_often_it_has_asked() {
    let stage = Stage::new();
    stage.unlock().await;
    let inbox = Arc::new(Inbox::default());
    for (connection, correlation) in [(1, "first"), (2, "other"), (1, "again")] {
        let mut over = Origin { binding: Binding::Connection(connection), ..origin(Some(&inbox)) };
        if let Some((_, path)) = &mut over.sink {
            path.correlation_data = Some(correlation.into());
        }
        assert_eq!(stage.registry.register(with_csr().to_string().as_bytes(), None, &over).await.status, 202);
    }
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    let pushed = inbox.0.lock();
    let pushed: Vec<_> =
        pushed.iter().map(|(answer, path)| (answer.status, path.correlation_data.as_deref())).collect();
    assert_eq!(pushed, [(201, Some(&b"other"[..])), (201, Some(&b"again"[..]))], "the latest message counts");
}

#[tokio::test]
async fn the_story_of_a_device_with_a_password() {
    let mut stage = Stage::new();
    stage.unlock().await;
    let weak = stage.send(with_password("short")).await;
    assert_eq!((weak.status, weak.error), (400, Some("weak_password")));
    let pending = stage.send(with_password("a good password")).await;
    assert_eq!(pending.status, 202);
    let work = stage.argon2.0.load(Ordering::SeqCst);
    let poll = stage.send(with_password("a good password")).await;
    assert_eq!((poll.status, poll.pairing_code), (202, pending.pairing_code), "the code stays");
    assert_eq!(stage.send(with_password("another password")).await.error, Some("name_pending"));
    assert_eq!(stage.argon2.0.load(Ordering::SeqCst), work + 1, "polls cost no argon2 once it was seen, guesses do");

    stage.restart();
    let poll = stage.send(with_password("a good password")).await;
    assert_eq!((poll.status, poll.pairing_code), (202, pending.pairing_code), "requests survive a restart");
    let id = stage.only().await;
    stage.registry.grant(id, GrantTerms::default(), Actor::System).await.unwrap();
    let granted = stage.send(with_password("a good password")).await;
    assert_eq!((granted.status, granted.certificate), (201, None));
    let user = stage.directory.policy().user_named(&"meter-1".parse().unwrap()).cloned().unwrap();
    assert!(user.password_hash.as_deref().is_some_and(|hash| hash.starts_with("a good password$")));
    assert!(user.roles.is_empty() && user.permissions.is_empty(), "default deny");
    stage.restart();
    stage.unlock().await;
    assert_eq!(stage.send(with_password("another password")).await.error, Some("name_taken"));
    assert_eq!(stage.send(with_password("a good password")).await.status, 201);
}

/// Strangers who keep argon2 busy keep nobody waiting but those who need it, too: its queue is fair between them.
#[tokio::test]
async fn whoever_waits_for_argon2_holds_no_job_of_somebody_else() {
    let stage = Stage::new();
    stage.unlock().await;
    assert_eq!(stage.send(with_csr()).await.status, 202);
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    stage.registry.unlock(UnlockTerms { implicit: true, ..UnlockTerms::default() }, Actor::System).await.unwrap();
    stage.argon2.stall();
    let (mut waiting, mut strangers) = (0, tokio::task::JoinSet::new());
    for number in 0..100_u8 {
        for door in [Door::Mqtt, Door::Implicit] {
            let (registry, name) = (stage.registry.clone(), format!("bogus-{number}"));
            let source = std::net::Ipv4Addr::new(198, 51, 100, number).into();
            let origin = Origin { source, door, ..origin(None) };
            strangers.spawn(async move {
                let password = "the password of nobody";
                if door == Door::Implicit {
                    registry.knock(&format!("{name}-2").parse().unwrap(), password.as_bytes(), &origin).await;
                } else {
                    let message = json!({"username": name, "password": password}).to_string();
                    registry.register(message.as_bytes(), None, &origin).await;
                }
            });
            waiting += 1;
            while stage.argon2.0.load(Ordering::SeqCst) < waiting {
                tokio::task::yield_now().await;
            }
        }
    }
    // More of them wait than there are jobs of any kind, and an honest device is served.
    for _ in 0..3 {
        assert_eq!(stage.send(with_csr()).await.status, 201);
        let new = json!({"username": "lathe-1", "csr": csr("lathe-1", &new_key(), &[])});
        assert_ne!(stage.send(new).await.status, 429);
    }
    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).cloned().unwrap();
    let serial = user.certificates[0].serial.clone();
    let caller = Caller { user: user.id, certificate: Some((serial, user.certificates[0].not_after)) };
    let renewal = json!({"csr": csr("press-7", &new_key(), &[])}).to_string();
    let renewed = stage.registry.renew(renewal.as_bytes(), None, Some(&caller), &origin(None)).await;
    assert_eq!(renewed.status, 201, "{renewed:?}");
    strangers.abort_all();
}

/// What a reader of JSON could not follow is not told, whoever has put it on record.
#[tokio::test]
async fn a_context_of_an_earlier_version_breaks_neither_lists_nor_events() {
    let stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    let id = stage.only().await;
    let deep = (0..125).fold(json!([]), |inner, _| json!([inner]));
    let mut batch = crate::store::Batch::new();
    let details = Details { context: Some(deep), ..Details::default() };
    batch.put(&super::super::commit::DETAILS, &id.0, &details).unwrap();
    stage.store.commit(batch).unwrap();
    let page = stage.registry.page(None, None, 10).await.unwrap();
    let read: RequestPage = serde_json::from_slice(&serde_json::to_vec(&page).unwrap()).unwrap();
    assert_eq!(read.items[0].context, Some(json!("nested too deep to be shown")));
    let mut events = stage.registry.watch();
    stage.registry.deny(id, "not ours".into(), Actor::System).await.unwrap();
    let event = events.recv().await.unwrap();
    serde_json::from_slice::<Event>(&serde_json::to_vec(&event).unwrap()).unwrap();
    // As deep as it may be, it is told whole.
    let deepest = (1..16).fold(json!([]), |inner, _| json!([inner]));
    let message = json!({"username": "meter-1", "password": "a good password", "context": deepest});
    assert_eq!(stage.send(message).await.status, 202);
    let page = stage.registry.page(Some(StateFilter::Pending), None, 10).await.unwrap();
    assert_eq!(page.items[0].context, Some(deepest));
}

/// The code of a key is the device's own. That of a password is told by the broker, to who hears it.
#[tokio::test]
async fn a_code_that_nobody_could_be_told_was_not_shown() {
    let stage = Stage::new();
    stage.unlock().await;
    let deaf = Origin { hears: false, ..origin(None) };
    for (message, name, shown) in [
        (with_password("a good password"), "meter-1", false),
        (json!({"username": "press-7", "csr": CSR, "password": "a good password"}), "press-7", true),
        (json!({"username": "lathe-1", "csr": csr("lathe-1", &new_key(), &[])}), "lathe-1", true),
    ] {
        assert_eq!(stage.registry.register(message.to_string().as_bytes(), None, &deaf).await.status, 202);
        let all = stage.registry.list(None).await.unwrap();
        let view = all.into_iter().find(|view| view.username.as_str() == name).unwrap();
        assert_eq!(view.pairing_shown, shown, "{name}");
        let granted = stage.registry.grant(view.id, GrantTerms::default(), Actor::System).await;
        assert_eq!(granted.is_ok(), shown, "{name}");
        let unpaired = GrantTerms { unpaired: true, ..GrantTerms::default() };
        assert!(shown || stage.registry.grant(view.id, unpaired, Actor::System).await.is_ok());
    }
}

#[tokio::test]
async fn a_denial_is_told_with_its_reason_for_a_day_and_does_not_hold_the_name() {
    let mut stage = Stage::new();
    stage.unlock().await;
    let inbox = Arc::new(Inbox::default());
    stage.registry.register(with_csr().to_string().as_bytes(), None, &origin(Some(&inbox))).await;
    let id = stage.only().await;
    stage.registry.deny(id, "not ours".into(), Actor::System).await.unwrap();
    assert_eq!(inbox.0.lock()[0].0.reason.as_deref(), Some("not ours"));
    stage.restart();
    let denied = stage.send(with_csr()).await;
    assert_eq!((denied.status, denied.state), (403, "denied"));
    assert!(denied.message.unwrap().ends_with("denied this request: not ours"));
    stage.unlock().await;
    assert_eq!(stage.send(json!({"username": "press-7", "csr": OTHER_CSR})).await.status, 202);
    let error = stage.registry.grant(id, Stage::terms(), Actor::System).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Conflict);
    stage.clock.advance(Duration::from_hours(24));
    stage.registry.tick().await.unwrap();
    assert!(stage.registry.list(None).await.unwrap().is_empty(), "forgotten, and the other one has lapsed");
    assert_eq!(stage.send(with_csr()).await.status, 423);
}

#[tokio::test]
async fn a_grant_that_the_directory_or_the_disk_refuses_changes_nothing() {
    let mut stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    let id = stage.only().await;
    let unknown = GrantTerms { roles: vec!["nobody".parse().unwrap()], ..GrantTerms::default() };
    let error = stage.registry.grant(id, unknown, Actor::System).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Invalid, "{error}");
    assert_eq!(error.to_string(), "there is no role `nobody`: create it first, or grant without it");
    let past = GrantTerms { expires_at: Some(Timestamp::UNIX_EPOCH), ..GrantTerms::default() };
    assert!(stage.registry.grant(id, past, Actor::System).await.is_err());
    // Every operation of the grant in turn.
    for n in 0..10 {
        stage.store.fail_at(n, Fault::Refused);
        let outcome = stage.registry.grant(id, Stage::terms(), Actor::System).await;
        let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).cloned();
        if outcome.is_ok() {
            assert!(n > 0 && user.is_some());
            break;
        }
        assert!(user.is_none());
        assert_eq!(stage.registry.show(id).await.unwrap().state, State::Pending);
        stage.restart();
    }
    stage.restart();
    assert!(matches!(stage.registry.show(id).await.unwrap().state, State::Granted { .. }));
    assert_eq!(stage.send(with_csr()).await.status, 201);
}

#[tokio::test]
async fn terms_that_cannot_be_are_refused_before_anything_is_signed() {
    let stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    let id = stage.only().await;
    let roles = vec!["sensor".parse().unwrap(), "nobody".parse().unwrap()];
    let prefix = |prefix: &str| GrantTerms { publish_prefix: Some(prefix.into()), ..GrantTerms::default() };
    for terms in [GrantTerms { roles, ..GrantTerms::default() }, prefix("no-slash"), prefix("$SYS/")] {
        // What is to be signed is on this disk: it is not even read.
        stage.store.fail_at(0, Fault::Refused);
        let error = stage.registry.grant(id, terms, Actor::System).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Invalid, "{error}");
    }
    stage.registry.show(id).await.unwrap_err();
    stage.registry.grant(id, Stage::terms(), Actor::System).await.unwrap();
}

/// The request of a user that is no more is not shown as granted, and does not stay on the disk.
#[tokio::test]
async fn a_request_goes_with_its_user() {
    let mut stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    stage.send(with_password("a good password")).await;
    for request in stage.registry.list(None).await.unwrap() {
        stage.registry.grant(request.id, Stage::terms(), Actor::System).await.unwrap();
    }
    stage.registry.tick().await.unwrap();
    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).unwrap().id;
    let id = stage.registry.list(None).await.unwrap().into_iter().find(|it| it.username.as_str() == "press-7");
    let id = id.unwrap().id;
    stage.directory.delete_user(user, Expected::Any, &Actor::System).unwrap();
    let left = |stage: &Stage| {
        let registry = stage.registry.clone();
        async move {
            let listed = registry.list(Some(StateFilter::Granted)).await.unwrap();
            listed.iter().map(|it| it.username.to_string()).collect::<Vec<_>>()
        }
    };
    assert_eq!(left(&stage).await, ["meter-1"]);
    assert_eq!(stage.registry.show(id).await.unwrap_err().kind(), RegistryErrorKind::NotFound);
    let on_disk = |stage: &Stage| REQUESTS.iter(&*stage.store).count();
    stage.registry.tick().await.unwrap();
    assert_eq!(on_disk(&stage), 2, "not looked for at every tick");
    stage.clock.advance(Duration::from_mins(1));
    stage.registry.tick().await.unwrap();
    assert_eq!(on_disk(&stage), 1);
    stage.restart();
    assert_eq!(left(&stage).await, ["meter-1"]);
    stage.unlock().await;
    assert_eq!(stage.send(with_csr()).await.status, 202, "the name and the key are free");
}

#[tokio::test]
async fn a_lost_answer_of_the_disk_is_a_whole_grant_after_the_restart() {
    let mut stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    let id = stage.only().await;
    // The details are read first, then it is put on record that the CA will sign, then the one commit is made.
    stage.store.fail_at(2, Fault::AnswerLost);
    assert!(stage.registry.grant(id, Stage::terms(), Actor::System).await.is_err());
    stage.restart();
    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).cloned();
    assert!(user.is_some_and(|user| user.certificates.len() == 1));
    assert_eq!(stage.send(with_csr()).await.status, 201);
}

#[tokio::test]
async fn a_registration_that_the_disk_refuses_is_not_on_record() {
    let stage = Stage::new();
    stage.unlock().await;
    stage.store.fail_at(0, Fault::Refused);
    let failed = stage.send(with_csr()).await;
    assert_eq!((failed.status, failed.error), (500, Some("internal")));
    assert!(stage.registry.list(None).await.unwrap().is_empty());
    assert_eq!(stage.send(with_csr()).await.status, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_ask_for_one_name_at_once_one_gets_it() {
    let stage = Stage::new();
    stage.unlock().await;
    let asks = (0..16).map(|number| {
        let registry = stage.registry.clone();
        let message = with_password(&format!("password number {number}")).to_string();
        tokio::spawn(async move { registry.register(message.as_bytes(), None, &origin(None)).await.status })
    });
    let mut statuses = Vec::new();
    for ask in asks.collect::<Vec<_>>() {
        statuses.push(ask.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1], statuses[15]), (202, 409, 409));
    let id = stage.only().await;
    let grants = (0..8).map(|_| {
        let registry = stage.registry.clone();
        tokio::spawn(async move { registry.grant(id, GrantTerms::default(), Actor::System).await.is_ok() })
    });
    let mut granted = 0;
    for grant in grants.collect::<Vec<_>>() {
        granted += u32::from(grant.await.unwrap());
    }
    assert_eq!(granted, 1);
}

#[tokio::test]
async fn a_key_in_use_is_refused_to_another_name_and_free_when_its_user_is_deleted() {
    let stage = Stage::new();
    stage.unlock().await;
    // The same key under another name, in a CSR of its own.
    let key = new_key();
    let csr = |name: &str| json!({"username": name, "csr": csr(name, &key, &[])});
    assert_eq!(stage.send(csr("press-1")).await.status, 202);
    assert_eq!(stage.send(csr("press-2")).await.error, Some("key_in_use"));
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    assert_eq!(stage.send(csr("press-2")).await.error, Some("key_in_use"));
    let user = stage.directory.policy().user_named(&"press-1".parse().unwrap()).unwrap().id;
    stage.directory.delete_user(user, Expected::Any, &Actor::System).unwrap();
    assert_eq!(stage.send(csr("press-2")).await.status, 202);
    assert_eq!(stage.registry.list(None).await.unwrap().len(), 1, "the request of the deleted user is forgotten");
}

#[tokio::test]
async fn a_user_that_exists_cannot_be_registered_over() {
    let stage = Stage::new();
    stage.unlock().await;
    let mut user = NewUser::named("meter-1".parse().unwrap());
    user.password_hash = Some("a good password$0".into());
    stage.directory.create_user(user, &Actor::System).unwrap();
    for password in ["a good password", "another password"] {
        assert_eq!(stage.send(with_password(password)).await.error, Some("name_taken"), "nor its password be guessed");
    }
}

#[tokio::test]
async fn a_disabled_user_or_a_dead_certificate_has_nothing_to_collect() {
    let stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).unwrap().id;
    let set = |enabled| {
        stage.directory.update_user(user, Expected::Any, move |user| user.enabled = enabled, &Actor::System).unwrap();
    };
    set(false);
    assert_eq!(stage.send(with_csr()).await.error, Some("disabled"));
    set(true);
    assert_eq!(stage.send(with_csr()).await.status, 201);
    stage.clock.advance(Duration::from_hours(90 * 24));
    assert_eq!(stage.send(with_csr()).await.error, Some("certificate_expired"));
}

#[tokio::test]
async fn limits_are_told_with_a_time_to_come_back() {
    let stage =
        Stage::with(Settings { rate: RateLimit { burst: 2, every: Duration::from_secs(3) }, ..Settings::default() });
    assert_eq!(stage.send(json!({})).await.error, Some("malformed"));
    let large = stage.registry.register(&vec![b' '; 20_000], None, &origin(None)).await;
    assert_eq!((large.status, large.state), (413, "refused"));
    let limited = stage.send(with_csr()).await;
    assert_eq!((limited.status, limited.error, limited.retry_after), (429, Some("rate"), Some(3)));
    assert_eq!(stage.registry.ca(b"", None, &origin(None)).status, 429, "every operation counts");
    stage.clock.advance(Duration::from_secs(3));
    let bundle = stage.registry.ca(br#"{"id": 5}"#, None, &origin(None));
    assert_eq!((bundle.status, bundle.id), (200, Some(json!(5))));
    assert_eq!(bundle.ca.as_deref(), Some(stage.ca.bundle_pem()));
}

#[tokio::test]
async fn the_door_shuts_by_itself_and_an_unlock_can_be_narrow() {
    let stage = Stage::new();
    let terms = UnlockTerms { source: vec!["10.0.0.0/8".parse().unwrap()], ..UnlockTerms::default() };
    let open = stage.registry.unlock(terms, Actor::System).await.unwrap();
    assert!(!open.locked && open.until.is_some());
    assert_eq!(stage.send(with_csr()).await.status, 423);
    stage.registry.unlock(UnlockTerms { count: Some(1), ..UnlockTerms::default() }, Actor::System).await.unwrap();
    assert_eq!(stage.send(with_csr()).await.status, 202);
    assert_eq!(stage.send(with_password("a good password")).await.status, 423, "the count is spent");
    stage.unlock().await;
    let mut events = stage.registry.watch();
    stage.clock.advance(Duration::from_mins(5));
    assert_eq!(stage.send(with_password("a good password")).await.status, 423);
    stage.registry.tick().await.unwrap();
    assert_eq!(events.recv().await.unwrap().event, EventKind::Locked);
    assert!(stage.registry.status().await.unwrap().locked);
    let week = UnlockTerms { duration: Some(8 * 24 * 3600), ..UnlockTerms::default() };
    assert!(stage.registry.unlock(week, Actor::System).await.is_err());
}

#[tokio::test]
async fn an_unlock_that_the_disk_refuses_to_record_opens_nothing() {
    let stage = Stage::new();
    for open in [false, true] {
        if open {
            stage.unlock().await;
        }
        stage.store.fail_at(0, Fault::Refused);
        let error = stage.registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap_err();
        assert!(matches!(error, RegistryError::Directory(_)), "{error}");
        assert!(stage.registry.status().await.unwrap().locked, "nor is an earlier unlock in force any more: {open}");
        assert_eq!(stage.send(with_csr()).await.status, 423);
    }
    stage.unlock().await;
    assert_eq!(stage.send(with_csr()).await.status, 202);
}

#[tokio::test]
async fn only_administrators_decide() {
    let stage = Stage::new();
    stage.unlock().await;
    stage.send(with_csr()).await;
    let id = stage.only().await;
    let user = stage.directory.create_user(NewUser::named("somebody".parse().unwrap()), &Actor::System).unwrap();
    let actor = Actor::of(&user);
    // A rule on topics gives no right at this door.
    let topics = Permission::allow(Context::Mqtt, Operation::ReadWrite, "$registry/#");
    let permit = |permissions: Vec<Permission>| {
        let edit = |user: &mut User| user.permissions = permissions;
        stage.directory.update_user(user.id, Expected::Any, edit, &Actor::System).unwrap();
    };
    for rules in [Vec::new(), vec![topics]] {
        permit(rules);
        let refused = stage.registry.grant(id, Stage::terms(), actor.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), RegistryErrorKind::Forbidden);
        let route = format!("/api/client-registry/requests/{id}/grant");
        assert_eq!(refused.to_string(), format!("this needs the right to write to `{route}` in the context `http`"));
        let denied = stage.registry.deny(id, DenyTerms::default(), actor.clone()).await.unwrap_err();
        assert!(matches!(denied, RegistryError::NotAllowed(_)), "{denied}");
        let unlocked = stage.registry.unlock(UnlockTerms::default(), actor.clone()).await.unwrap_err();
        assert!(matches!(unlocked, RegistryError::NotAllowed(_)), "{unlocked}");
        let locked = stage.registry.lock(actor.clone()).await.unwrap_err();
        assert!(matches!(locked, RegistryError::NotAllowed(_)), "{locked}");
    }
    let unlock = Permission::allow(Context::Http, Operation::Write, "/api/client-registry/unlock");
    permit(vec![unlock]);
    stage.registry.unlock(UnlockTerms::default(), actor.clone()).await.unwrap();
    assert!(stage.registry.lock(actor).await.is_err());
}

#[tokio::test]
async fn who_has_no_identity_is_told_so() {
    let stage = Stage::new();
    let unknown = stage.registry.whoami(b"", None, None, &origin(None));
    assert_eq!((unknown.status, unknown.error), (401, Some("not_authenticated")));
    let json: Value = serde_json::from_slice(&unknown.encode(Format::Json)).unwrap();
    assert_eq!(
        json,
        json!({
            "status": 401, "state": "refused", "error": "not_authenticated",
            "message": "this connection has no identity; publish to `$registry/register` to get one",
        })
    );
}

#[tokio::test]
async fn requests_come_in_pages_that_miss_none_and_repeat_none() {
    let stage = Stage::new();
    stage.unlock().await;
    for n in 0..7 {
        let message = json!({"username": format!("meter-{n}"), "password": format!("a password of its own {n}")});
        assert_eq!(stage.send(message).await.status, 202);
    }
    let all = stage.registry.list(None).await.unwrap();
    let names: Vec<_> = all.iter().map(|request| request.username.to_string()).collect();
    assert_eq!(names, (0..7).map(|n| format!("meter-{n}")).collect::<Vec<_>>(), "oldest first");
    stage.registry.deny(all[1].id, "no".into(), Actor::System).await.unwrap();
    stage.registry.deny(all[6].id, "no".into(), Actor::System).await.unwrap();
    let (mut after, mut found, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = stage.registry.page(Some(StateFilter::Pending), after, 2).await.unwrap();
        assert!(page.items.len() <= 2);
        found.extend(page.items.iter().map(|request| request.id));
        pages += 1;
        // What happens between two pages moves nothing.
        if pages == 1 {
            stage.registry.deny(all[0].id, "no".into(), Actor::System).await.unwrap();
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let expected: Vec<_> = [0, 2, 3, 4, 5].iter().map(|&n: &usize| all[n].id).collect();
    assert_eq!((found, pages), (expected, 3));
    let none = stage.registry.page(None, Some(all[6].id), 10).await.unwrap();
    assert!(none.items.is_empty() && none.next.is_none());
}

#[tokio::test]
async fn an_unlock_for_a_listener_that_is_not_there_is_no_unlock() {
    let stage = Stage::with(Settings { listeners: vec!["mqtts".into(), "enrol".into()], ..Settings::default() });
    let unlock = async |listener: &str| {
        let terms = UnlockTerms { listener: Some(listener.into()), ..UnlockTerms::default() };
        stage.registry.unlock(terms, Actor::System).await
    };
    let error = unlock("mqttss").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no listener `mqttss`; there are `mqtts`, `enrol`");
    assert!(stage.registry.status().await.unwrap().locked);
    assert!(!unlock("enrol").await.unwrap().locked);
}

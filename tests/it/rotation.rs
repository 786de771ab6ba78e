//! Another CA while the fleet is connected: rotated, renewed and retired without one reconnect that fails.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    clock::{Clock, ManualClock, SystemClock},
    directory::Actor,
    mqtt::{Packet, ReasonCode},
    registry::{GrantTerms, UnlockTerms},
};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::{
    certificates::{ANY_TLS, Identity, identity, request, roots, tls_client},
    client::{Client, PATIENCE, Q1, Received, Tls, V5, connect, text_of, topic_of},
    harness::{GUESTS, Harness, TLS_LISTENER},
    https::Https,
};

/// A device with what it has on its disk: a certificate, and the roots that it trusts.
struct Device {
    name: String,
    identity: Identity,
    trust: PathBuf,
}

struct Fleet {
    harness: Harness,
    home: tempfile::TempDir,
}

impl Fleet {
    async fn new() -> Self {
        Self::by(SystemClock, "").await
    }

    async fn by(clock: impl Clock + 'static, config: &str) -> Self {
        let harness = Harness::start_rest_by(clock, &format!("{TLS_LISTENER}{config}")).await;
        harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
        harness.user_with("clerk", |user| {
            user.permissions = vec![portcullis::access::Permission::allow(
                portcullis::access::Context::Http,
                portcullis::access::Operation::ReadWrite,
                "/#",
            )];
        });
        let registry = harness.handle().registry().clone();
        registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap();
        Self { harness, home: tempfile::tempdir().unwrap() }
    }

    fn trust(&self, name: &str, pem: &str) -> PathBuf {
        let path = self.home.path().join(format!("{name}.pem"));
        std::fs::write(&path, pem).unwrap();
        path
    }

    async fn open(&self, trust: &Path, identity: Option<Identity>) -> std::io::Result<Client> {
        let config = tls_client(roots(trust), ANY_TLS, identity);
        Ok(Client::over(Tls::connect(self.harness.address("tls"), config).await?, V5))
    }

    /// The code of the CONNACK; `None`: nobody was there.
    async fn login(&self, device: &Device) -> Option<ReasonCode> {
        let mut client = self.open(&device.trust, Some(device.identity.clone())).await.ok()?;
        client.try_send(Packet::Connect(Box::new(connect(V5, &device.name)))).await.ok()?;
        match client.read().await {
            Received::Packet(Packet::ConnAck(connack)) => Some(connack.reason_code),
            _ => None,
        }
    }

    /// Connected, and listening to the registry.
    async fn connected(&self, device: &Device) -> Client {
        let mut client = self.open(&device.trust, Some(device.identity.clone())).await.unwrap();
        let name = format!("{}-listens", device.name);
        assert_eq!(client.connect(&connect(V5, &name)).await.reason_code, ReasonCode::Success);
        client.subscribe("$registry/+/response/#", Q1).await;
        client
    }

    /// A device that trusts the bundle that it was given with its certificate.
    async fn enrol(&self, name: &str) -> Device {
        let mut stranger = self.open(&self.harness.broker.started().trust_bundle.clone(), None).await.unwrap();
        assert_eq!(stranger.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
        stranger.subscribe("$registry/register/response", Q1).await;
        let (key, csr) = request(name);
        let message = json!({ "username": name, "csr": csr });
        assert_eq!(ask(&mut stranger, "register", &message).await["status"], 202);
        let registry = self.harness.handle().registry().clone();
        let pending = registry.list(None).await.unwrap();
        let id = pending.iter().find(|it| it.username.as_str() == name).unwrap().id;
        registry.grant(id, GrantTerms::default(), Actor::System).await.unwrap();
        let granted: Value = serde_json::from_str(text_of(&stranger.expect_publish().await)).unwrap();
        self.device(name, &granted, &key)
    }

    fn device(&self, name: &str, granted: &Value, key: &KeyPair) -> Device {
        let der = CertificateDer::from_pem_slice(granted["certificate"].as_str().unwrap().as_bytes()).unwrap();
        let trust = self.trust(name, granted["ca"].as_str().unwrap());
        Device { name: name.to_owned(), identity: identity(&der, key), trust }
    }

    /// With a new key; the device goes on with what it was given.
    async fn renew(&self, device: &Device) -> Device {
        let mut client = self.connected(device).await;
        let (key, csr) = request(&device.name);
        let answer = ask(&mut client, "renew", &json!({ "csr": csr })).await;
        assert_eq!(answer["status"], 201, "{answer}");
        let renewed = self.device(&device.name, &answer, &key);
        assert_eq!(self.login(&renewed).await, Some(ReasonCode::Success));
        // The old one is retired a moment after the new one has connected.
        let name = device.name.parse().unwrap();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let policy = self.harness.users().policy();
            let records = &policy.user_named(&name).unwrap().certificates;
            if records.iter().filter(|record| record.revoked_at.is_none()).count() == 1 {
                return renewed;
            }
            assert!(tokio::time::Instant::now() < deadline, "the old certificate stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn post(&self, path: &str, body: &Value) -> crate::https::Reply {
        Https::to(&self.harness).await.call("operator", "POST", path, body).await
    }

    async fn get(&self, path: &str) -> crate::https::Reply {
        Https::to(&self.harness).await.get("operator", path).await
    }
}

async fn ask(client: &mut Client, operation: &str, message: &Value) -> Value {
    client.publish(&format!("$registry/{operation}"), &message.to_string(), Q1).await;
    serde_json::from_str(text_of(&client.expect_publish().await)).unwrap()
}

fn roots_in(pem: &Value) -> usize {
    pem.as_str().unwrap().matches("-----BEGIN CERTIFICATE-----").count()
}

/// Until the broker shows a certificate that this device can verify.
async fn eventually_logs_in(fleet: &Fleet, device: &Device) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while fleet.login(device).await != Some(ReasonCode::Success) {
        assert!(tokio::time::Instant::now() < deadline, "{} is locked out", device.name);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_is_rotated_and_retired_without_one_reconnect_that_fails() {
    let fleet = Arc::new(Fleet::new().await);
    let [first, second, last] = [fleet.enrol("pump-1").await, fleet.enrol("pump-2").await, fleet.enrol("pump-3").await];
    let stubborn = fleet.enrol("pump-4").await;
    let old = fleet.get("/api/ca").await.body["key_identifier"].as_str().unwrap().to_owned();
    let old_root = std::fs::read_to_string(&first.trust).unwrap();

    // Reconnects all the time, with the root and the certificate of the first day.
    let (stop, tries, failures) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let restless = tokio::spawn({
        let (fleet, stop, tries, failures) =
            (Arc::clone(&fleet), Arc::clone(&stop), Arc::clone(&tries), Arc::clone(&failures));
        async move {
            while !stop.load(Ordering::SeqCst) {
                tries.fetch_add(1, Ordering::SeqCst);
                if fleet.login(&last).await != Some(ReasonCode::Success) {
                    failures.fetch_add(1, Ordering::SeqCst);
                }
            }
            last
        }
    });

    let mut listening = fleet.connected(&first).await;
    let rotated = fleet.post("/api/ca/rotate", &json!({})).await;
    assert_eq!(rotated.status.as_u16(), 200, "{}", rotated.body);
    let new = rotated.body["key_identifier"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    let former = &rotated.body["former"];
    assert_eq!((&former["issuer"], &former["users"], &former["certificates"]), (&json!(old), &json!(4), &json!(4)));

    // Who listens is told; who asks, too.
    let pushed = listening.expect_publish().await;
    assert_eq!(topic_of(&pushed), "$registry/ca/response");
    let pushed: Value = serde_json::from_str(text_of(&pushed)).unwrap();
    assert_eq!((&pushed["status"], roots_in(&pushed["ca"])), (&json!(200), 2));
    assert!(pushed["ca"].as_str().unwrap().contains(&old_root));
    assert_eq!(ask(&mut listening, "ca", &json!({})).await["ca"], pushed["ca"]);

    // A device that comes now gets both roots, and so does one that renews.
    let newcomer = fleet.enrol("pump-5").await;
    assert_eq!(roots_in(&json!(std::fs::read_to_string(&newcomer.trust).unwrap())), 2);
    assert_eq!(fleet.login(&newcomer).await, Some(ReasonCode::Success));
    let first = fleet.renew(&first).await;
    let second = fleet.renew(&second).await;

    // The report, in pages of whole users.
    let living = fleet.get(&format!("/api/ca/issuers/{old}/certificates?limit=1")).await;
    assert_eq!(living.body["items"][0]["username"], "pump-3", "{}", living.body);
    let more = fleet.get(&format!("/api/ca/issuers/{old}/certificates?after=pump-3")).await;
    assert_eq!(
        (more.body["items"].as_array().unwrap().len(), &more.body["items"][0]["username"]),
        (1, &json!("pump-4"))
    );
    for list in ["/crl".to_owned(), format!("/crl/{old}"), format!("/crl/{new}")] {
        assert_eq!(fleet.get(&list).await.status.as_u16(), 200, "{list}");
    }

    // Not while somebody lives on it.
    let retire = format!("/api/ca/issuers/{old}/retire");
    let refused = fleet.post(&retire, &json!({})).await;
    assert_eq!(refused.problem().0, 409);
    assert!(refused.body["detail"].as_str().unwrap().starts_with("2 certificates of 2 users"), "{}", refused.body);
    assert_eq!(fleet.post("/api/ca/rotate", &json!({})).await.problem().0, 409, "one overlap at a time");

    stop.store(true, Ordering::SeqCst);
    let last = restless.await.unwrap();
    let last = fleet.renew(&last).await;
    let mut held = fleet.connected(&stubborn).await;
    let forced = fleet.post(&retire, &json!({ "force": true })).await;
    assert_eq!((forced.status.as_u16(), &forced.body["former"]), (200, &Value::Null), "{}", forced.body);
    // Its session ends; the others' certificates are of the new CA.
    loop {
        match held.read().await {
            Received::Packet(Packet::Publish(_)) => {}
            Received::Packet(Packet::Disconnect(_)) | Received::Closed => break,
            Received::Packet(other) => panic!("not expected: {other:?}"),
        }
    }
    assert_ne!(fleet.login(&stubborn).await, Some(ReasonCode::Success));
    for device in [&first, &second, &last, &newcomer] {
        eventually_logs_in(&fleet, device).await;
    }
    // A device that has the new root alone: the broker's own certificate follows.
    let bundle = json!(std::fs::read_to_string(&fleet.harness.broker.started().trust_bundle).unwrap());
    assert_eq!(roots_in(&bundle), 1);
    let bare = Device { trust: fleet.trust("bare", bundle.as_str().unwrap()), ..first };
    eventually_logs_in(&fleet, &bare).await;
    let answered = Https::to(&fleet.harness).await.send("GET", "/api/client-registry/ca", &[], "").await.body;
    assert_eq!(answered, bundle);
    assert_eq!(fleet.get(&format!("/crl/{old}")).await.problem().0, 404);

    let (tries, failures) = (tries.load(Ordering::SeqCst), failures.load(Ordering::SeqCst));
    println!("{tries} reconnects under rotation and renewal");
    assert!(tries > 0);
    assert_eq!(failures, 0);
}

const INVITE: &str = "$registry/renew/invite";

/// Looks at the clock: what is due comes before the answer.
async fn invited(client: &mut Client) -> Value {
    client.ping().await;
    let told = client.expect_publish().await;
    assert_eq!(topic_of(&told), INVITE);
    let told = serde_json::from_str(text_of(&told)).unwrap();
    client.expect_silence().await;
    told
}

fn own_certificate(fleet: &Fleet, device: &Device) -> Value {
    let policy = fleet.harness.users().policy();
    let record = policy.user_named(&device.name.parse().unwrap()).unwrap().certificates.last().unwrap().clone();
    json!({ "serial": record.serial, "not_after": record.not_after })
}

/// Certificates and TLS go by the real time, which the broker's clock leaves when all is made and connected.
#[tokio::test]
async fn a_device_is_told_in_time_that_its_certificate_should_be_renewed() {
    let clock = ManualClock::new(SystemClock.timestamp());
    let fleet = Fleet::by(clock.clone(), "[ca]\nvalidity = \"24h\"\n").await;
    let device = fleet.enrol("pump-1").await;
    let mut early = fleet.connected(&device).await;
    early.subscribe(INVITE, Q1).await;
    clock.advance(Duration::from_hours(15));
    early.expect_silence().await;
    // Three quarters of its life.
    clock.advance(Duration::from_hours(3));
    let certificate = own_certificate(&fleet, &device);
    assert_eq!(invited(&mut early).await, certificate);
    clock.advance(Duration::from_hours(1));
    early.expect_silence().await;
    // Who comes late is invited soon, and once for each connection.
    let mut late = fleet.connected(&device).await;
    late.subscribe(INVITE, Q1).await;
    clock.advance(Duration::from_mins(10));
    assert_eq!(invited(&mut late).await, certificate);
    // Who listens late is told at once.
    let mut deaf = fleet.connected(&device).await;
    clock.advance(Duration::from_mins(10));
    deaf.ping().await;
    deaf.subscribe(INVITE, Q1).await;
    assert_eq!(invited(&mut deaf).await, certificate);
}

/// A fleet moves to the new CA in minutes, not when its certificates come of age. A guest is told nothing: see `a_guest_has_no_registry`.
#[tokio::test]
async fn whose_certificate_is_of_the_former_ca_is_invited_at_once() {
    let clock = ManualClock::new(SystemClock.timestamp());
    let fleet = Fleet::by(clock.clone(), GUESTS).await;
    let mut device = fleet.enrol("pump-1").await;
    let mut guest = Client::open(fleet.harness.address("open"), V5).await;
    assert_eq!(guest.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    guest.subscribe("$registry/ca/response", Q1).await;
    let mut there = fleet.connected(&device).await;
    there.subscribe(INVITE, Q1).await;
    clock.advance(Duration::from_mins(1));
    there.expect_silence().await;
    let certificate = own_certificate(&fleet, &device);
    assert_eq!(fleet.post("/api/ca/rotate", &json!({})).await.status.as_u16(), 200);
    let bundle: Value = serde_json::from_str(text_of(&there.expect_publish().await)).unwrap();
    device.trust = fleet.trust("both", bundle["ca"].as_str().unwrap());
    let mut later = fleet.open(&device.trust, Some(device.identity.clone())).await.unwrap();
    assert_eq!(later.connect(&connect(V5, "beside")).await.reason_code, ReasonCode::Success);
    later.subscribe(INVITE, Q1).await;
    clock.advance(Duration::from_mins(10));
    for client in [&mut there, &mut later] {
        assert_eq!(invited(client).await, certificate);
    }
    guest.expect_silence().await;
}

/// Whoever may do everything else over HTTP may not change the CA.
#[tokio::test]
async fn only_an_administrator_changes_the_ca() {
    let fleet = Fleet::new().await;
    let id = fleet.get("/api/ca").await.body["key_identifier"].as_str().unwrap().to_owned();
    for (path, body) in [
        ("/api/ca/rotate".to_owned(), json!({})),
        ("/api/ca/csr".to_owned(), json!({ "common_name": "x" })),
        ("/api/ca/import".to_owned(), json!({ "certificates": "x" })),
        (format!("/api/ca/issuers/{id}/retire"), json!({})),
    ] {
        let refused = Https::to(&fleet.harness).await.call("clerk", "POST", &path, &body).await;
        assert_eq!(refused.problem().0, 403, "{path}: {}", refused.body);
    }
    assert_eq!(fleet.get("/api/ca").await.body["key_identifier"], id.as_str());
    assert_eq!(fleet.post(&format!("/api/ca/issuers/{id}/retire"), &json!({})).await.problem().0, 404);
    for name in ["", "a\u{7}b", &*"x".repeat(65)] {
        let refused = fleet.post("/api/ca/csr", &json!({ "common_name": name })).await;
        assert_eq!(refused.problem().0, 422, "{name:?}");
    }
}

/// What a ticket resumes was verified against the CA of that time (RFC 8446 2.2): it carries no authority beyond its end.
#[tokio::test]
async fn a_tls_session_of_before_the_end_of_the_ca_logs_nobody_in_when_it_is_resumed() {
    let fleet = Fleet::new().await;
    let device = fleet.enrol("pump-1").await;
    // Keeps TLS sessions for resumption.
    let config = tls_client(roots(&device.trust), ANY_TLS, Some(device.identity.clone()));
    let open = async || Tls::connect(fleet.harness.address("tls"), Arc::clone(&config)).await.unwrap();
    let mut live = Client::over(open().await, V5);
    assert_eq!(live.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);
    let old = fleet.get("/api/ca").await.body["key_identifier"].as_str().unwrap().to_owned();
    assert_eq!(fleet.post("/api/ca/rotate", &json!({})).await.status.as_u16(), 200);
    let forced = fleet.post(&format!("/api/ca/issuers/{old}/retire"), &json!({ "force": true })).await;
    assert_eq!(forced.status.as_u16(), 200, "{}", forced.body);
    live.expect_ended(ReasonCode::NotAuthorized).await;
    let again = open().await;
    assert_eq!(again.handshake_kind(), Some(rustls::HandshakeKind::Resumed), "TLS itself says nothing against it");
    assert_eq!(Client::over(again, V5).connect(&connect(V5, "c")).await.reason_code, ReasonCode::BadUserNameOrPassword);
}

/// Nobody says `ca retire`: the clock does.
#[tokio::test]
async fn a_former_ca_ends_with_its_time_while_the_broker_runs() {
    let clock = ManualClock::new(jiff::Timestamp::now());
    let harness = Harness::start_at(&clock, "").await;
    let certificates = || {
        let file = std::fs::read_to_string(&harness.broker.started().trust_bundle).unwrap();
        file.matches("-----BEGIN CERTIFICATE-----").count()
    };
    let days = |days: u64| Duration::from_hours(days * 24);
    clock.advance(days(365));
    assert_eq!((crate::tls::order(&harness, "/api/ca/rotate").await, certificates()), (200, 2));
    clock.advance(days(3650 - 365 - 1));
    assert_eq!(crate::tls::order(&harness, "/api/ca/rotate").await, 409, "the overlap goes on");
    clock.advance(days(2));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while certificates() == 2 {
        assert!(tokio::time::Instant::now() < deadline, "the former CA stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(crate::tls::order(&harness, "/api/ca/rotate").await, 200, "the next one");
}

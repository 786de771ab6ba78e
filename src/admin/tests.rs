//! The routes over a real socket: what they answer, and what they refuse.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::api::{Event, EventKind, LockStatus, Page, RequestState, RequestView, TokenCreated, TokenView};
use super::*;
use crate::access::{CertificateRecord, ManagedBy, Role, RoleName};
use crate::audit;
use crate::authn::{Anchors, Argon2Parameters, Guesses, HasherSettings, Lane, Source, ThrottleSettings};
use crate::authority::{Authority, AuthorityFiles};
use crate::clock::{Duration, SystemClock};
use crate::config::{RegistryRule, RuleAction, RuleGrant};
use crate::crl::CrlPublisher;
use crate::directory::{Actor, NewUser, PolicyChange, SessionEffect};
use crate::metrics::Metrics;
use crate::pki::{CertificateAuthority, Signer as _, Signers};
use crate::registry::{self, Door, Origin};
use crate::store::MemoryStore;

pub(super) struct Fixture {
    _home: tempfile::TempDir,
    socket: PathBuf,
    pub(super) directory: Arc<Directory>,
    crl: Arc<CrlPublisher>,
    registry: Arc<Registry>,
    hasher: Arc<Hasher>,
    /// Stops the server when dropped.
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// Whoever is affected has one session, and it ends.
struct OneSession;

impl LiveSessions for OneSession {
    fn effects(&self, change: &PolicyChange) -> Vec<SessionEffect> {
        let affected = change.old.users().filter(|user| change.affected.contains(user.id));
        let effect = |user: &Arc<crate::access::User>| SessionEffect {
            username: user.username.clone(),
            client_id: "c1".to_owned(),
            connected: true,
            ends: Some("it is a test".to_owned()),
            subscriptions: Vec::new(),
            rules_removed: Vec::new(),
            rules_added: Vec::new(),
            terms_change: false,
        };
        affected.map(effect).collect()
    }
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    headers: hyper::HeaderMap,
    pub(super) body: Value,
}

impl Fixture {
    pub(super) fn start() -> Self {
        Self::start_with(registry::Settings::default())
    }

    fn start_with(decisions: registry::Settings) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("admin.sock");
        let parameters = Argon2Parameters::new(8, 1, 1).unwrap();
        let settings = HasherSettings { parameters, ..HasherSettings::default() };
        let (clock, metrics) = (Arc::new(SystemClock), Arc::new(Metrics::new()));
        let store = Arc::new(MemoryStore::new());
        let directory = Arc::new(Directory::open(store.clone(), clock.clone()).unwrap());
        let hasher = Arc::new(Hasher::start(settings, metrics.clone()).unwrap());
        let password_policy = PasswordPolicy::default();
        let signers = Arc::new(Signers::new(CertificateAuthority::generate(clock.timestamp()).unwrap()));
        let keeper = audit::Keeper::start(
            store.clone(),
            directory.clone(),
            clock.clone(),
            (audit::AuditKey::generate().unwrap(), true),
            Arc::new(audit::Recorder::new(metrics.clone())),
            audit::Settings {
                keep: Duration::from_hours(24),
                max_records: 1000,
                max_bytes: 1 << 30,
                interval: Duration::from_mins(1),
            },
        );
        let guesses = Arc::new(Guesses::new(ThrottleSettings::default(), clock.clone()));
        let registry = Registry::open(
            store.clone(),
            directory.clone(),
            signers.clone(),
            Arc::new((hasher.clone(), guesses, password_policy)),
            clock.clone(),
            metrics.clone(),
            decisions,
        );
        let registry = Arc::new(registry.unwrap());
        let validity = Duration::from_hours(24);
        let crl = CrlPublisher::new(
            store.clone(),
            directory.clone(),
            signers.clone(),
            clock.clone(),
            metrics.clone(),
            validity,
        );
        let files = AuthorityFiles {
            certificate: home.path().join("ca.pem"),
            key: home.path().join("ca.key"),
            passphrase: None,
            profile: crate::pki::Profile::default(),
        };
        let issuers = signers.load().issuers();
        let authority = Authority::open(files, signers, store, directory.clone(), clock.clone(), metrics);
        let crl = Arc::new(crl);
        let state = Arc::new(State {
            directory: directory.clone(),
            live: Arc::new(OneSession),
            registry: registry.clone(),
            hasher: hasher.clone(),
            password_policy,
            keeper: Arc::new(keeper.unwrap()),
            crl: crl.clone(),
            authority: Arc::new(authority.unwrap()),
            anchors: Arc::new(
                Anchors::new(issuers, crate::pki::Lineage::default(), crate::pki::Naming::default(), Vec::new())
                    .unwrap(),
            ),
            session: crate::session::Settings::default(),
            clock,
            moved: watch::channel(()).1,
        });
        let (stop, stopped) = oneshot::channel();
        let server = serve(UnixListener::bind(&socket).unwrap(), state, async move { _ = stopped.await });
        let server = tokio::spawn(server);
        Self { _home: home, socket, directory, registry, hasher, crl, stop: Some(stop), server }
    }

    /// What a device gets for sending this.
    async fn register(&self, message: Value) -> Value {
        let origin = Origin {
            source: "192.0.2.7".parse().unwrap(),
            listener: "mqtts".into(),
            door: Door::Mqtt,
            hears: true,
            binding: crate::registry::Binding::Connection(1),
            sink: None,
        };
        let answer = self.registry.register(message.to_string().as_bytes(), None, &origin).await;
        serde_json::to_value(&answer).unwrap()
    }

    async fn raw(&self, request: Request<Full<Bytes>>) -> Reply {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body =
            serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Reply { status, headers, body }
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let reply = self.raw(request.body(Full::new(bytes)).unwrap()).await;
        super::openapi_tests::check(method, path, &body, (reply.status, &reply.body));
        reply
    }

    pub(super) async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.call(method, path, body).await;
        assert!(reply.status.is_success(), "{method} {path}: {} {}", reply.status, reply.body);
        reply.body
    }

    /// The refusal as `status kind: detail`.
    async fn no(&self, method: &str, path: &str, body: Value) -> String {
        let reply = self.call(method, path, body).await;
        refusal(&format!("{method} {path}"), &reply)
    }
}

fn refusal(what: &str, reply: &Reply) -> String {
    assert_eq!(reply.headers["content-type"], problem::MEDIA_TYPE, "{what}: {} {}", reply.status, reply.body);
    assert_eq!(reply.body["status"], reply.status.as_u16(), "{what}");
    let kind = reply.body["type"].as_str().unwrap().trim_start_matches("urn:portcullis:problem:");
    format!("{what} => {} {kind}: {}", reply.status.as_u16(), reply.body["detail"].as_str().unwrap())
}

const PASSWORD: &str = "correct horse battery";

fn historian() -> Value {
    json!({ "username": "historian", "password": PASSWORD, "roles": ["observer"] })
}

#[tokio::test]
async fn a_user_lives_through_all_routes_and_its_password_is_in_no_answer() {
    let broker = Fixture::start();
    let created = broker.call("POST", "/api/users", historian()).await;
    assert_eq!((created.status, &created.body["has_password"]), (StatusCode::CREATED, &json!(true)));
    let mut answers = vec![created.body];
    answers.push(broker.ok("GET", "/api/users/historian", Value::Null).await);
    answers.push(broker.ok("GET", "/api/users", Value::Null).await);
    assert_eq!(answers[2]["items"][0]["username"], "historian");
    let patch =
        json!({ "version": answers[1]["version"], "description": "d", "publish_prefix": "a/", "client_id": "x-*" });
    answers.push(broker.ok("PATCH", "/api/users/historian", patch).await);
    assert_eq!(answers[3]["publish_prefix"], "a/");
    let patch = json!({ "version": answers[3]["version"], "publish_prefix": null });
    answers.push(broker.ok("PATCH", "/api/users/historian", patch).await);
    assert_eq!(
        (&answers[4]["publish_prefix"], &answers[4]["client_id"], &answers[4]["description"]),
        (&Value::Null, &json!("x-*"), &json!("d"))
    );
    let password = json!({ "password": "another horse battery", "version": answers[4]["version"] });
    answers.push(broker.ok("PUT", "/api/users/historian/password", password).await);
    answers.push(broker.ok("POST", "/api/users/historian/disable", Value::Null).await);
    assert_eq!(answers[6]["enabled"], false);
    answers.push(broker.ok("POST", "/api/users/historian/enable", json!({ "version": answers[6]["version"] })).await);
    assert_eq!(answers[7]["enabled"], true);
    for answer in &answers {
        let text = answer.to_string();
        assert!(!text.contains("argon2") && !text.contains("horse") && !text.contains("password_hash"), "{text}");
    }
    let path = format!("/api/users/historian?version={}", answers[7]["version"]);
    assert_eq!(broker.call("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(broker.call("GET", "/api/users/historian", Value::Null).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn one_certificate_is_revoked_once_with_its_reason_and_the_others_stand() {
    let broker = Fixture::start();
    let user = broker.ok("POST", "/api/users", json!({ "username": "station-7", "auth": "certificate" })).await;
    let certificate = |serial: &str| CertificateRecord {
        serial: serial.to_owned(),
        fingerprint: serial.repeat(16),
        key: None,
        not_before: jiff::Timestamp::UNIX_EPOCH,
        not_after: jiff::Timestamp::MAX,
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    };
    let records = vec![certificate("01ab"), certificate("02cd")];
    let id = broker.directory.policy().user_named(&"station-7".parse().unwrap()).unwrap().id;
    let pin = move |user: &mut crate::access::User| user.certificates = records;
    broker.directory.update_user(id, Expected::Any, pin, &crate::directory::Actor::System).unwrap();

    let path = "/api/users/station-7/certificates/01ab/revoke";
    let late = broker.call("POST", path, json!({ "version": user["version"] })).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    let revoked =
        broker.ok("POST", path, json!({ "reason": "keyCompromise", "comment": "left on a train", "version": 2 })).await;
    let [one, other] = [0, 1].map(|place| &revoked["certificates"][place]);
    assert!(
        one["revoked_at"].is_string()
            && one["reason"] == "keyCompromise"
            && one["comment"] == "left on a train"
            && one["serial"] == "01ab",
        "{one}"
    );
    assert_eq!((&other["revoked_at"], &other["reason"]), (&Value::Null, &Value::Null));
    let again = broker.call("POST", path, Value::Null).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert!(again.body["detail"].as_str().unwrap().contains("was revoked at"), "{}", again.body);
    assert_eq!(broker.ok("GET", "/api/users/station-7", Value::Null).await, revoked);
    let other = broker.ok("POST", "/api/users/station-7/certificates/02cd/revoke", Value::Null).await;
    assert!(other["certificates"][1]["revoked_at"].is_string());
}

#[tokio::test]
async fn all_certificates_of_a_user_and_an_issuer_are_revoked_and_the_list_is_served() {
    let broker = Fixture::start();
    let issuer = broker.crl.signers().load().issuer().id();
    let certificates = ["0a", "0b"].map(|serial| CertificateRecord {
        serial: serial.to_owned(),
        fingerprint: serial.repeat(32),
        key: None,
        not_before: jiff::Timestamp::UNIX_EPOCH,
        not_after: "2200-01-01T00:00:00Z".parse().unwrap(),
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: Some(issuer.clone()),
        replaces: None,
    });
    for name in ["one", "two"] {
        let certificates = certificates.clone().map(|it| CertificateRecord {
            serial: format!("{}0{}", it.serial, name.len()),
            fingerprint: format!("{name}{}", it.fingerprint),
            ..it
        });
        let new = crate::directory::NewUser {
            certificates: certificates.to_vec(),
            ..crate::directory::NewUser::named(name.parse().unwrap())
        };
        broker.directory.create_user(new, &crate::directory::Actor::System).unwrap();
    }
    let path = "/api/users/one/certificates/revoke";
    let dry = broker.ok("POST", &format!("{path}?dry_run=true"), Value::Null).await;
    assert!(dry["changes"].is_array(), "{dry}");
    let revoked = broker.ok("POST", path, json!({ "reason": "cessationOfOperation" })).await;
    for certificate in revoked["certificates"].as_array().unwrap() {
        assert!(certificate["revoked_at"].is_string() && certificate["reason"] == "cessationOfOperation");
    }
    assert_eq!(revoked["enabled"], true, "the user stays");
    let again = broker.call("POST", path, Value::Null).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.body);
    let wrong = broker.call("POST", "/api/users/two/certificates/revoke", json!({ "reason": "certificateHold" })).await;
    assert!(wrong.body["detail"].as_str().unwrap().contains("`certificateHold` is no reason"), "{}", wrong.body);

    let shown = broker.ok("GET", "/api/ca", Value::Null).await;
    assert_eq!((&shown["certificates"]["live"], &shown["certificates"]["revoked"]), (&json!(2), &json!(2)));
    assert_eq!((&shown["key_identifier"], &shown["crl"]), (&json!(issuer), &Value::Null));
    broker.crl.publish().unwrap();
    let list = broker.call("GET", "/crl", Value::Null).await;
    assert_eq!(list.status, StatusCode::OK);
    assert_eq!(list.headers["content-type"], "application/pkix-crl");
    assert_eq!(broker.ok("GET", "/api/ca", Value::Null).await["crl"]["entries"], 2);

    let unknown = broker.call("POST", "/api/ca/issuers/00ff/revoke", Value::Null).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let path = format!("/api/ca/issuers/{issuer}/revoke");
    let gone = broker.ok("POST", &path, json!({ "comment": "stolen" })).await;
    assert_eq!((&gone["reason"], &gone["comment"]), (&json!("cACompromise"), &json!("stolen")));
    assert_eq!(broker.call("POST", &path, Value::Null).await.status, StatusCode::CONFLICT);
    let shown = broker.ok("GET", "/api/ca", Value::Null).await;
    assert_eq!((&shown["certificates"]["live"], &shown["revoked_issuers"][0]), (&json!(0), &gone));
    let events = broker.ok("GET", "/api/audit", Value::Null).await.to_string();
    for word in ["certificate_revoked", "issuer_revoked", "crl_signing", "cessationOfOperation"] {
        assert!(events.contains(word), "{word} is not in the log");
    }
    assert!(!events.contains("stolen"), "texts of operators do not come in");
}

#[tokio::test]
async fn a_role_lives_through_all_routes() {
    let broker = Fixture::start();
    let rule = json!({ "context": "mqtt", "operation": "readWrite", "resource": "plant/#" });
    let created = broker.call("POST", "/api/roles", json!({ "name": "line", "permissions": [rule] })).await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.body["permissions"][0]["operation"], "read_write");
    let update = json!({ "version": created.body["version"], "permissions": [] });
    let updated = broker.ok("PUT", "/api/roles/line", update).await;
    assert_eq!(updated, broker.ok("GET", "/api/roles/line", Value::Null).await);
    assert!(broker.ok("GET", "/api/roles", Value::Null).await["items"].as_array().unwrap().contains(&updated));
    let path = format!("/api/roles/line?version={}", updated["version"]);
    assert_eq!(broker.call("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn what_is_refused_is_told_as_a_problem() {
    let broker = Fixture::start();
    let created = broker.ok("POST", "/api/users", historian()).await;
    let version = created["version"].as_u64().unwrap();
    broker.directory.reconcile(vec![config_role()], vec![]).unwrap();
    let user = |members: Value| {
        let mut user = json!({ "username": "another", "password": PASSWORD });
        user.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        user
    };
    let mut text = Vec::new();
    for (method, path, body) in [
        ("GET", "/api/users/nobody", Value::Null),
        ("GET", "/api/users/a%2Fb", Value::Null),
        ("GET", "/api/users/%2e%2E", Value::Null),
        ("GET", "/api/users/a%00b", Value::Null),
        ("GET", "/api//users", Value::Null),
        ("GET", "/api/users/", Value::Null),
        ("GET", "/api/users/%ff%fe%fd", Value::Null),
        ("GET", "/api/users/ab", Value::Null),
        ("GET", "/api/nothing", Value::Null),
        ("PUT", "/api/users", Value::Null),
        ("POST", "/api/users", historian()),
        ("POST", "/api/users", json!([])),
        ("POST", "/api/users", user(json!({ "colour": 1 }))),
        ("POST", "/api/users", user(json!({ "username": "system" }))),
        ("POST", "/api/users", user(json!({ "username": "a b c" }))),
        ("POST", "/api/users", user(json!({ "password": "short" }))),
        ("POST", "/api/users", user(json!({ "password": "x".repeat(2000) }))),
        ("POST", "/api/users", user(json!({ "password": null }))),
        ("POST", "/api/users", user(json!({ "auth": "certificate" }))),
        ("POST", "/api/users", user(json!({ "auth": "none", "password": null }))),
        ("POST", "/api/users", user(json!({ "roles": ["nothing"] }))),
        ("POST", "/api/users", user(json!({ "publish_prefix": "$SYS/" }))),
        (
            "POST",
            "/api/users",
            user(json!({ "permissions": [{ "context": "mqtt", "operation": "read", "resource": "a/#/b" }] })),
        ),
        ("PATCH", "/api/users/historian", json!({ "version": version + 1, "description": "late" })),
        ("PATCH", "/api/users/historian", json!({ "description": "no version" })),
        ("PATCH", "/api/users/historian", json!({ "version": version, "username": "renamed" })),
        ("PATCH", "/api/users/historian", json!({ "version": version, "auth": "none" })),
        ("PUT", "/api/users/historian/password", json!({ "password": "short" })),
        ("PUT", "/api/users/historian/password", json!({ "password": PASSWORD, "version": version + 7 })),
        ("PUT", "/api/users/nobody/password", json!({ "password": PASSWORD })),
        ("POST", "/api/users/historian/enable", json!({ "version": version + 1 })),
        ("POST", "/api/users/historian/disable", json!({ "versoin": 1 })),
        ("POST", "/api/users/nobody/certificates/01ab/revoke", Value::Null),
        ("POST", "/api/users/a%20b/certificates/01ab/revoke", Value::Null),
        ("POST", "/api/users/historian/certificates/%ff/revoke", Value::Null),
        ("POST", "/api/users/historian/certificates/01ab/revoke", Value::Null),
        ("POST", "/api/users/historian/certificates/01ab/revoke", json!({ "cause": "x" })),
        ("POST", "/api/users/historian/certificates/01ab/revoke", json!({ "reason": "x".repeat(1025) })),
        ("DELETE", "/api/users/historian/certificates/01ab", Value::Null),
        ("DELETE", "/api/users/historian?version=99", Value::Null),
        ("DELETE", "/api/users/historian?version=x", Value::Null),
        ("DELETE", "/api/users/historian?all=1", Value::Null),
        ("POST", "/api/roles", json!({ "name": "admin" })),
        ("PUT", "/api/roles/nothing", json!({ "version": 1, "permissions": [] })),
        ("PUT", "/api/roles/owned", json!({ "version": 1, "permissions": [] })),
        ("DELETE", "/api/roles/owned", Value::Null),
        ("DELETE", "/api/roles/observer", Value::Null),
        ("POST", "/api/explain", json!({ "username": "nobody", "action": "publish", "topic": "a" })),
        ("POST", "/api/explain", json!({ "username": "historian", "action": "publish", "topic": "a/#" })),
        ("POST", "/api/explain", json!({ "username": "historian", "action": "publish", "topic": "a", "qos": 3 })),
        (
            "POST",
            "/api/explain",
            json!({ "username": "historian", "action": "publish", "topic": "a", "client_id": "" }),
        ),
    ] {
        text.push(broker.no(method, path, body).await);
    }
    insta::assert_snapshot!("refusals", text.join("\n"));
    assert_eq!(broker.ok("GET", "/api/users/historian", Value::Null).await, created, "nothing was changed");
}

fn config_role() -> Role {
    Role {
        name: "owned".parse().unwrap(),
        description: String::new(),
        permissions: Vec::new(),
        managed_by: ManagedBy::Config,
        version: 0,
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let broker = Fixture::start();
    let request = |content_type: &str, body: Bytes| {
        let request = Request::post("/api/users").header("host", "localhost").header("content-type", content_type);
        request.body(Full::new(body)).unwrap()
    };
    let mut text = Vec::new();
    for (content_type, body) in [
        ("text/plain", Bytes::from_static(b"{}")),
        ("application/json", Bytes::from_static(b"{")),
        ("application/json", Bytes::from_static(b"\xff")),
        ("application/json", Bytes::new()),
        ("application/json", vec![b' '; api::MAX_BODY + 1].into()),
        ("application/json", "[".repeat(100_000).into()),
    ] {
        let reply = broker.raw(request(content_type, body.clone())).await;
        text.push(refusal(&format!("{content_type}, {} bytes", body.len()), &reply));
    }
    insta::assert_snapshot!("bodies", text.join("\n"));
}

#[tokio::test]
async fn a_password_that_is_changed_logs_in() {
    let broker = Fixture::start();
    broker.ok("POST", "/api/users", historian()).await;
    broker.ok("PUT", "/api/users/historian/password", json!({ "password": "another horse battery" })).await;
    let policy = broker.directory.policy();
    let user = policy.user_named(&"historian".parse().unwrap()).unwrap();
    let verify = |password: &'static str| {
        broker.hasher.verify(Lane::Login, Source::Local, password.as_bytes(), user.password_hash.as_deref())
    };
    assert!(verify("another horse battery").await.unwrap() && !verify(PASSWORD).await.unwrap());
}

#[tokio::test]
async fn users_are_shown_with_the_time_of_their_last_login() {
    let broker = Fixture::start();
    let made = broker.ok("POST", "/api/users", historian()).await;
    assert_eq!(made["last_seen_at"], Value::Null);
    let user = broker.directory.policy().user_named(&"historian".parse().unwrap()).unwrap().id;
    broker.directory.seen(user, "192.0.2.1".parse().unwrap());
    let seen = json!(broker.directory.last_seen(user));
    assert!(seen.is_string());
    let shown = broker.ok("GET", "/api/users/historian", Value::Null).await;
    assert_eq!((&shown["last_seen_at"], &shown["version"]), (&seen, &made["version"]));
    assert_eq!((&made["last_seen_from"], &shown["last_seen_from"]), (&Value::Null, &json!("192.0.2.1")));
    let list = broker.ok("GET", "/api/users", Value::Null).await;
    assert_eq!(list["items"][0]["last_seen_at"], seen);
    let change = json!({ "version": made["version"], "description": "x" });
    assert_eq!(broker.ok("PATCH", "/api/users/historian", change).await["last_seen_at"], seen);
}

#[tokio::test]
async fn explanations_say_which_rule_decided() {
    let broker = Fixture::start();
    let rules = json!([
        { "context": "mqtt", "operation": "write", "resource": "site1/plant/#", "max_qos": 1, "retain": false },
        { "context": "mqtt", "operation": "write", "resource": "site1/plant/firmware", "effect": "deny" },
        { "context": "mqtt", "operation": "read", "resource": "plant/${username}/#" },
        { "context": "mqtt", "operation": "read", "resource": "plant/+/secret", "effect": "deny" }
    ]);
    broker.ok("POST", "/api/roles", json!({ "name": "line", "permissions": rules })).await;
    let user = json!({ "username": "station-7", "auth": "certificate", "roles": ["line"], "publish_prefix": "site1/", "client_id": "${username}*" });
    let user = broker.ok("POST", "/api/users", user).await;
    let ask = async |members: Value| {
        let mut question = json!({ "username": "station-7" });
        question.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let answer = broker.ok("POST", "/api/explain", question).await;
        let rules: Vec<_> = answer["rules"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| format!("{} {}", rule["role"], rule["permission"]["resource"]))
            .collect();
        let facts = [
            &answer["allowed"],
            &answer["topic"],
            &answer["max_qos"],
            &answer["retain"],
            &answer["checked_at_delivery"],
        ];
        let facts = facts.map(Value::to_string).join(" ");
        format!("{members}\n  {}\n  {facts} [{}]", answer["reason"].as_str().unwrap(), rules.join(", "))
    };
    let mut text = Vec::new();
    for question in [
        json!({ "action": "publish", "topic": "plant/t" }),
        json!({ "action": "publish", "topic": "plant/t", "qos": 2 }),
        json!({ "action": "publish", "topic": "plant/t", "retain": true }),
        json!({ "action": "publish", "topic": "plant/firmware" }),
        json!({ "action": "publish", "topic": "other" }),
        json!({ "action": "publish", "topic": "$SYS/a" }),
        json!({ "action": "publish", "topic": "$registry/admin/grant" }),
        json!({ "action": "publish", "topic": "$registry/admin/delete" }),
        json!({ "action": "publish", "topic": "$registry/register" }),
        json!({ "action": "receive", "topic": "$registry/register/response" }),
        json!({ "action": "subscribe", "topic": "$registry/+/response" }),
        json!({ "action": "subscribe", "topic": "$share/g/plant/station-7/a" }),
        json!({ "action": "receive", "topic": "plant/station-7/t" }),
        json!({ "action": "receive", "topic": "plant/station-7/secret" }),
        json!({ "action": "receive", "topic": "plant/station-8/t" }),
        json!({ "action": "subscribe", "topic": "plant/station-7/a", "qos": 1 }),
        json!({ "action": "subscribe", "topic": "plant/station-7/#" }),
        json!({ "action": "subscribe", "topic": "plant/#" }),
        json!({ "action": "subscribe", "topic": "other" }),
        json!({ "action": "publish", "topic": "plant/t", "client_id": "station-7-b" }),
        json!({ "action": "publish", "topic": "plant/t", "client_id": "foreign" }),
        json!({ "action": "publish", "topic": "plant/t", "client_id": "station-7#" }),
        json!({ "action": "publish", "topic": format!("plant{}", "/".repeat(127)) }),
        json!({ "action": "subscribe", "topic": format!("plant/station-7{}", "/".repeat(127)) }),
    ] {
        text.push(ask(question).await);
    }
    broker.ok("POST", "/api/users/station-7/disable", json!({ "version": user["version"] })).await;
    text.push(ask(json!({ "action": "receive", "topic": "plant/station-7/t" })).await);
    insta::assert_snapshot!("explain", text.join("\n"));
}

#[tokio::test]
async fn a_dry_run_says_what_a_change_would_do_and_changes_nothing() {
    let broker = Fixture::start();
    let document = json!({
        "role": [{ "name": "line", "permissions": [{ "context": "mqtt", "operation": "read", "resource": "a/#" }] }],
        "user": [{ "username": "station-7", "auth": "certificate", "roles": ["line"] }],
    });
    let would = broker.ok("POST", "/api/apply?dry_run=true", document.clone()).await;
    assert_eq!(
        (&would["dry_run"], &would["version"], would["changes"].as_array().unwrap().len()),
        (&json!(true), &json!(1), 2)
    );
    broker.no("GET", "/api/users/station-7", Value::Null).await;
    let done = broker.ok("POST", "/api/apply", document).await;
    assert_eq!((&done["dry_run"], &done["changes"]), (&json!(false), &would["changes"]));
    let user = broker.ok("GET", "/api/users/station-7", Value::Null).await;
    let role = broker.ok("GET", "/api/roles/line", Value::Null).await;
    for (method, path, body, action) in [
        ("POST", "/api/users", json!({ "username": "spare", "password": PASSWORD }), "created"),
        ("PATCH", "/api/users/station-7", json!({ "version": 1, "roles": [] }), "changed"),
        ("POST", "/api/users/station-7/disable", Value::Null, "changed"),
        ("DELETE", "/api/users/station-7", Value::Null, "deleted"),
        ("POST", "/api/roles", json!({ "name": "spare" }), "created"),
        ("PUT", "/api/roles/line", json!({ "version": 1, "permissions": [] }), "changed"),
        ("POST", "/api/apply", json!({ "delete": [{ "user": "station-7" }, { "role": "line" }] }), "deleted"),
        ("POST", "/api/rollback", json!({ "version": 0 }), "deleted"),
    ] {
        let would = broker.ok(method, &format!("{path}?dry_run=true"), body).await;
        assert_eq!(
            (&would["dry_run"], &would["changes"][0]["action"]),
            (&json!(true), &json!(action)),
            "{method} {path}"
        );
        let sessions = would["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), usize::from(action != "created"), "{method} {path}: {would}");
    }
    assert_eq!(broker.ok("GET", "/api/users/station-7", Value::Null).await, user);
    assert_eq!(broker.ok("GET", "/api/roles/line", Value::Null).await, role);
    let history = broker.ok("GET", "/api/history", Value::Null).await;
    assert_eq!(history["items"].as_array().unwrap().len(), 1);
    broker.ok("POST", "/api/rollback", json!({ "version": 0 })).await;
    broker.no("GET", "/api/users/station-7", Value::Null).await;
    let text = [
        broker.no("PUT", "/api/roles/line?dry_run=true", json!({ "version": 1, "permissions": [] })).await,
        broker.no("POST", "/api/apply?dry_run=yes", json!({})).await,
        broker.no("POST", "/api/apply", json!({ "user": [{ "username": "spare", "password": "x" }] })).await,
        broker.no("POST", "/api/apply", json!({ "user": [{ "username": "spare" }] })).await,
        broker.no("POST", "/api/apply", json!({ "delete": [{ "user": "nobody" }] })).await,
        broker.no("POST", "/api/rollback", json!({ "version": 77 })).await,
    ];
    insta::assert_snapshot!("apply", text.join("\n"));
}

#[tokio::test]
async fn what_if_and_paths_are_explained_and_who_can_is_listed() {
    let broker = Fixture::start();
    let document = json!({
        "role": [{ "name": "line", "permissions": [
            { "context": "mqtt", "operation": "read_write", "resource": "plant/${username}/#" },
            { "context": "http", "operation": "read", "resource": "/api/users/#" } ] }],
        "user": [{ "username": "station-7", "auth": "certificate", "roles": ["line"] }, { "username": "station-8", "auth": "certificate" }],
    });
    broker.ok("POST", "/api/apply", document).await;
    let with = json!({ "user": [{ "username": "station-8", "roles": ["line"] }] });
    let ask = json!({ "username": "station-8", "action": "publish", "topic": "plant/station-8/t" });
    let mut what_if = ask.clone();
    what_if["with"] = with;
    assert_eq!(broker.ok("POST", "/api/explain", what_if).await["allowed"], true);
    assert_eq!(broker.ok("POST", "/api/explain", ask).await["allowed"], false);
    let http = async |method: &str, path: &str| {
        let question = json!({ "username": "station-7", "action": "http", "method": method, "path": path });
        broker.call("POST", "/api/explain", question).await.body
    };
    assert_eq!(http("GET", "/api/users/x").await["allowed"], true);
    assert_eq!(http("head", "/api/users").await["allowed"], true);
    assert_eq!(http("PATCH", "/api/users/x").await["reason"], "no rule allows to PATCH `/api/users/x`");
    for odd in ["api/users", "/api/%75sers", "/api//users", "/api/../users", "/api/users?x=1"] {
        assert_eq!(http("GET", odd).await["status"], 422, "{odd}");
    }
    let who = broker.ok("GET", "/api/who-can?action=publish&topic=plant%2Fstation-7%2Ft", Value::Null).await;
    assert_eq!((&who["count"], &who["users"][0]["username"]), (&json!(1), &json!("station-7")));
    assert_eq!(who["users"][0]["rules"][0]["role"], "line");
    let nobody = broker.ok("GET", "/api/who-can?action=receive&topic=plant%2Fstation-8%2Ft&limit=5", Value::Null).await;
    assert_eq!(nobody["count"], 0);
    broker.no("GET", "/api/who-can?action=subscribe&topic=a", Value::Null).await;
    broker.no("GET", "/api/who-can?action=receive&topic=a%2F%23", Value::Null).await;
}

/// The way of a device from the locked door to an identity, as its operator sees it; and every answer is one that the
/// client side reads.
#[tokio::test]
async fn a_request_is_listed_shown_granted_and_told_of() {
    let broker = Fixture::start();
    let message = json!({ "username": "station-7", "password": "a password of its own", "context": { "model": "X" } });
    assert_eq!(broker.register(message.clone()).await["status"], 423);
    let terms =
        json!({ "for": 60, "listener": "mqtts", "source": ["192.0.2.0/24"], "username": "station-*", "count": 5 });
    let opened: LockStatus = read(broker.ok("POST", "/api/client-registry/unlock", terms).await);
    assert!(!opened.locked && opened.until.is_some() && opened.remaining == Some(5));
    let mut events = broker.events().await;
    let pending = broker.register(message.clone()).await;
    assert_eq!(pending["status"], 202);

    let list: Page<RequestView> =
        read(broker.ok("GET", "/api/client-registry/requests?state=pending", Value::Null).await);
    let id = list.items[0].id;
    assert_eq!(
        (list.items.len(), list.items[0].pairing_code.to_string()),
        (1, pending["pairing_code"].as_str().unwrap().to_owned())
    );
    let path = format!("/api/client-registry/requests/{id}");
    let shown: RequestView = read(broker.ok("GET", &path, Value::Null).await);
    assert_eq!(shown.context, Some(json!({ "model": "X" })));

    let granted: RequestView = read(
        broker
            .ok("POST", &format!("{path}/grant"), json!({ "roles": ["observer"], "comment": "c", "unpaired": true }))
            .await,
    );
    assert!(matches!(&granted.state, RequestState::Granted { by, .. } if by.starts_with("local:")), "{granted:?}");
    assert_eq!(broker.register(message).await["status"], 201);
    assert_eq!(broker.ok("GET", "/api/users/station-7", Value::Null).await["managed_by"], "registry");
    let locked: LockStatus = read(broker.ok("POST", "/api/client-registry/lock", Value::Null).await);
    assert_eq!(read::<LockStatus>(broker.ok("GET", "/api/client-registry/status", Value::Null).await), locked);

    for expected in [EventKind::Requested, EventKind::Granted, EventKind::Locked] {
        assert_eq!(next_event(&mut events).await.event, expected);
    }
    let mut text = Vec::new();
    let absent = "/api/client-registry/requests/0190163d-8694-739b-aea5-966c26f8ad93";
    for (method, path, body) in [
        ("GET", absent.to_owned(), Value::Null),
        ("GET", "/api/client-registry/requests/nonsense".to_owned(), Value::Null),
        ("GET", "/api/client-registry/requests?state=lost".to_owned(), Value::Null),
        ("POST", format!("{absent}/grant"), json!({})),
        ("POST", format!("{absent}/deny"), json!({})),
        ("POST", format!("{path}/grant"), json!({})),
        ("POST", format!("{path}/grant"), json!({ "role": "admin" })),
        ("POST", format!("{path}/deny"), json!({ "reason": "late" })),
        ("POST", "/api/client-registry/unlock".to_owned(), json!({ "for": 0 })),
        ("POST", "/api/client-registry/unlock".to_owned(), json!({ "source": ["10.0.0.1/8"] })),
        ("POST", "/api/client-registry/unlock".to_owned(), json!({ "minutes": 3 })),
    ] {
        text.push(broker.no(method, &path, body).await.replace(&id.to_string(), "ID"));
    }
    insta::assert_snapshot!("registry", text.join("\n"));
}

#[tokio::test]
async fn a_token_is_made_shown_without_its_secret_used_and_revoked() {
    const TOKENS: &str = "/api/client-registry/tokens";
    let broker = Fixture::start();
    let terms = json!({ "for": 60, "uses": 2, "username": "station-*", "source": ["192.0.2.0/24"], "roles": ["observer"],
        "permissions": [], "publish_prefix": "site/", "comment": "c" });
    let created: TokenCreated = read(broker.ok("POST", TOKENS, terms).await);
    let message = |name: &str| json!({ "username": name, "password": "a password of its own", "token": created.token.expose_secret() });
    assert_eq!(broker.register(message("station-7")).await["status"], 201);
    assert_eq!(broker.register(message("machine-7")).await["error"], "token");
    let shown = broker.ok("GET", &format!("{TOKENS}/{}", created.view.id), Value::Null).await;
    let listed = broker.ok("GET", TOKENS, Value::Null).await;
    assert_eq!(listed["items"], json!([shown]));
    assert!(!listed.to_string().contains(created.token.expose_secret()), "{listed}");
    let view: TokenView = read(shown);
    assert_eq!((view.used, view.uses, &view.roles), (1, 2, &created.view.roles));
    broker.ok("DELETE", &format!("{TOKENS}/{}", view.id), Value::Null).await;
    assert_eq!(broker.register(message("station-8")).await["error"], "token");
    let mut text = Vec::new();
    for (method, path, body) in [
        ("DELETE", format!("{TOKENS}/{}", view.id), Value::Null),
        ("GET", format!("{TOKENS}/{}", view.id), Value::Null),
        ("GET", format!("{TOKENS}/nonsense"), Value::Null),
        ("POST", TOKENS.to_owned(), json!({ "for": 0 })),
        ("POST", TOKENS.to_owned(), json!({ "uses": 0 })),
        ("POST", TOKENS.to_owned(), json!({ "roles": ["nothing"] })),
        ("POST", TOKENS.to_owned(), json!({ "role": "observer" })),
        ("POST", TOKENS.to_owned(), json!({ "username": "a/b" })),
    ] {
        text.push(broker.no(method, &path, body).await.replace(&view.id.to_string(), "ID"));
    }
    insta::assert_snapshot!("tokens", text.join("\n"));
}

#[tokio::test]
async fn a_denied_request_is_told_why() {
    let broker = Fixture::start();
    broker.ok("POST", "/api/client-registry/unlock", Value::Null).await;
    let message = json!({ "username": "station-8", "password": "a password of its own" });
    broker.register(message.clone()).await;
    let list: Page<RequestView> = read(broker.ok("GET", "/api/client-registry/requests", Value::Null).await);
    let path = format!("/api/client-registry/requests/{}/deny", list.items[0].id);
    broker.ok("POST", &path, json!({ "reason": "not ours" })).await;
    let answer = broker.register(message).await;
    assert_eq!(answer["status"], 403);
    assert!(answer["message"].as_str().unwrap().contains("not ours"), "{answer}");
    let list: Page<RequestView> =
        read(broker.ok("GET", "/api/client-registry/requests?state=denied", Value::Null).await);
    assert_eq!(list.items.len(), 1);
}

/// What the answers show of who has decided: the first of two people, and a rule.
#[tokio::test]
async fn what_two_people_and_rules_decide_is_shown() {
    let two = Fixture::start_with(registry::Settings { approvals: 2, ..registry::Settings::default() });
    two.ok("POST", "/api/client-registry/unlock", Value::Null).await;
    let message = json!({ "username": "station-7", "password": "a password of its own" });
    assert_eq!(two.register(message.clone()).await["status"], 202);
    let mut events = two.events().await;
    let list: Page<RequestView> = read(two.ok("GET", "/api/client-registry/requests", Value::Null).await);
    let path = format!("/api/client-registry/requests/{}", list.items[0].id);
    let terms = json!({ "roles": ["observer"], "publish_prefix": "site/", "comment": "seen it" });
    let shown = two.ok("POST", &format!("{path}/grant"), terms.clone()).await;
    assert_eq!((&shown["state"], &shown["approved"]["grant"]["roles"]), (&json!("pending"), &json!(["observer"])));
    assert_eq!(two.ok("GET", &path, Value::Null).await, shown);
    assert_eq!(next_event(&mut events).await.event, EventKind::Approved);
    let refused = two.no("POST", &format!("{path}/grant"), terms.clone()).await;
    assert!(refused.contains("409 conflict: you have approved the request"), "{refused}");
    let ada = NewUser { roles: vec![RoleName::admin()], ..NewUser::named("ada".parse().unwrap()) };
    let ada = two.directory.create_user(ada, &Actor::System).unwrap();
    let ada = Actor::of(&ada);
    two.registry.grant(list.items[0].id, read(terms), ada).await.unwrap();
    let granted = two.ok("GET", &path, Value::Null).await;
    assert_eq!((&granted["state"], &granted["approved"]), (&json!("granted"), &Value::Null));
    assert!(granted["by"].as_str().unwrap().ends_with(" and user:ada"), "{granted}");

    let rule = RegistryRule {
        name: "line3".into(),
        source: vec!["192.0.2.0/24".parse().unwrap()],
        listener: None,
        key: Vec::new(),
        username: None,
        action: RuleAction::Grant(RuleGrant {
            roles: vec!["observer".parse().unwrap()],
            permissions: Vec::new(),
            publish_prefix: None,
            validity: None,
            while_locked: true,
            limit: 1,
        }),
    };
    let ruled = Fixture::start_with(registry::Settings { rules: vec![rule], ..registry::Settings::default() });
    assert_eq!(ruled.register(message).await["status"], 201);
    let list = ruled.ok("GET", "/api/client-registry/requests?state=granted", Value::Null).await;
    assert_eq!((&list["items"][0]["rule"], &list["items"][0]["by"]), (&json!("line3"), &json!("rule line3")));
}

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> T {
    serde_json::from_value(answer).unwrap()
}

impl Fixture {
    /// A stream of events that is known to be heard.
    async fn events(&self) -> hyper::body::Incoming {
        self.stream("/api/client-registry/events").await
    }

    async fn stream(&self, path: &str) -> hyper::body::Incoming {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(Full::new(Bytes::new()));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": listening\n\n");
        body
    }
}

async fn next_event(body: &mut hyper::body::Incoming) -> Event {
    read(next_data(body).await)
}

async fn next_data(body: &mut hyper::body::Incoming) -> Value {
    loop {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().unwrap().unwrap();
        let data = frame.into_data().unwrap();
        if let Some(json) = data.strip_prefix(b"data: ") {
            return serde_json::from_slice(json).unwrap();
        }
    }
}

#[tokio::test]
async fn a_shutdown_ends_the_server_and_its_streams() {
    let mut broker = Fixture::start();
    let mut events = broker.events().await;
    broker.stop.take().unwrap().send(()).unwrap();
    let end = async {
        assert!(events.frame().await.is_none());
        (&mut broker.server).await.unwrap().unwrap();
    };
    tokio::time::timeout(Duration::from_secs(5), end).await.unwrap();
}

#[tokio::test]
async fn the_audit_log_is_read_followed_and_verified() {
    let broker = Fixture::start();
    for n in 0..3 {
        broker.ok("POST", "/api/roles", json!({ "name": format!("role-{n}") })).await;
    }
    let page = broker.ok("GET", "/api/audit?after=3&limit=2", Value::Null).await;
    assert_eq!(page["end"]["sequence"], 6);
    let items = page["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0]["record"]["sequence"], 4);
    assert_eq!(items[0]["record"]["who"]["as"], "local");
    assert_eq!(items[0]["record"]["event"]["kind"], "role_created");
    let last = broker.ok("GET", "/api/audit?last=1", Value::Null).await;
    assert_eq!(last["items"][0]["record"]["sequence"], 6);

    let head = broker.ok("GET", "/api/audit/head", Value::Null).await;
    assert_eq!(head["end"], page["end"]);
    assert_eq!(head["signed"]["sequence"], 2);
    let noted = head["end"]["hash"].as_str().unwrap();
    let report = broker.ok("POST", "/api/audit/verify", json!({ "head": noted })).await;
    assert_eq!((&report["whole"], &report["records"]), (&json!(true), &json!(6)));
    let other = broker.ok("POST", "/api/audit/verify", json!({ "head": "00".repeat(32) })).await;
    assert_eq!((&other["whole"], &other["fault"]["fault"]), (&json!(false), &json!("unknown_head")));

    for (method, path, body, status) in [
        ("GET", "/api/audit?limit=0", Value::Null, 422),
        ("GET", "/api/audit?limit=1001", Value::Null, 422),
        ("GET", "/api/audit?from=1", Value::Null, 400),
        ("POST", "/api/audit/verify", json!({ "head": "abc" }), 422),
        ("DELETE", "/api/audit", Value::Null, 405),
    ] {
        assert_eq!(broker.call(method, path, body).await.status.as_u16(), status, "{method} {path}");
    }

    let mut events = broker.stream("/api/audit/events?last=1").await;
    assert_eq!(next_data(&mut events).await["record"]["sequence"], 6);
    broker.ok("DELETE", "/api/roles/role-1", Value::Null).await;
    let followed = next_data(&mut events).await;
    assert_eq!(
        (&followed["record"]["sequence"], &followed["record"]["event"]["kind"]),
        (&json!(7), &json!("role_deleted"))
    );
}

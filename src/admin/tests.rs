//! The routes over a real socket: what they answer, and what they refuse.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::*;
use crate::access::{ManagedBy, Role};
use crate::authn::{Argon2Parameters, HasherSettings};
use crate::clock::SystemClock;
use crate::metrics::Metrics;
use crate::store::MemoryStore;

struct Fixture {
    directory: tempfile::TempDir,
    socket: PathBuf,
    services: Arc<Services>,
}

struct Reply {
    status: StatusCode,
    headers: hyper::HeaderMap,
    body: Value,
}

impl Fixture {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let parameters = Argon2Parameters::new(8, 1, 1).unwrap();
        let settings = HasherSettings { parameters, ..HasherSettings::default() };
        let clock = Arc::new(SystemClock);
        let services = Arc::new(Services {
            directory: Arc::new(Directory::open(Arc::new(MemoryStore::new()), clock.clone()).unwrap()),
            hasher: Arc::new(Hasher::start(settings, Arc::new(Metrics::new())).unwrap()),
            passwords: PasswordPolicy::default(),
            filter_partial: false,
            initial_password: directory.path().join("initial-admin-password"),
            clock,
        });
        tokio::spawn(serve(bind(&socket).unwrap(), services.clone(), std::future::pending()));
        Self { directory, socket, services }
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

    async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json");
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        self.raw(request.body(Full::new(body)).unwrap()).await
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
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
    broker.services.directory.reconcile(vec![config_role()], vec![]).unwrap();
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
async fn a_password_that_is_changed_logs_in_and_the_initial_one_is_forgotten() {
    let broker = Fixture::start();
    let hash =
        broker.services.hasher.hash(crate::authn::Lane::Administration, crate::authn::Source::Local, b"first").await;
    broker.services.directory.create_first_admin(hash.unwrap().as_str().to_owned()).unwrap();
    std::fs::write(&broker.services.initial_password, "first").unwrap();
    broker.ok("POST", "/api/users", historian()).await;
    broker.ok("PUT", "/api/users/historian/password", json!({ "password": "another horse battery" })).await;
    assert!(broker.services.initial_password.exists(), "of another user");
    broker.ok("PUT", "/api/users/admin/password", json!({ "password": PASSWORD })).await;
    assert!(!broker.services.initial_password.exists());
    let policy = broker.services.directory.policy();
    let user = policy.user_named(&"admin".parse().unwrap()).unwrap();
    let hasher = &broker.services.hasher;
    let verify = |password: &'static str| {
        hasher.verify(
            crate::authn::Lane::Login,
            crate::authn::Source::Local,
            password.as_bytes(),
            user.password_hash.as_deref(),
        )
    };
    assert!(verify(PASSWORD).await.unwrap() && !verify("first").await.unwrap());
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
        json!({ "action": "receive", "topic": "plant/station-7/t" }),
        json!({ "action": "receive", "topic": "plant/station-7/secret" }),
        json!({ "action": "receive", "topic": "plant/station-8/t" }),
        json!({ "action": "subscribe", "topic": "plant/station-7/a", "qos": 1 }),
        json!({ "action": "subscribe", "topic": "plant/station-7/#" }),
        json!({ "action": "subscribe", "topic": "plant/#" }),
        json!({ "action": "subscribe", "topic": "other" }),
        json!({ "action": "publish", "topic": "plant/t", "client_id": "station-7-b" }),
        json!({ "action": "publish", "topic": "plant/t", "client_id": "foreign" }),
    ] {
        text.push(ask(question).await);
    }
    broker.ok("POST", "/api/users/station-7/disable", json!({ "version": user["version"] })).await;
    text.push(ask(json!({ "action": "receive", "topic": "plant/station-7/t" })).await);
    insta::assert_snapshot!("explain", text.join("\n"));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone_and_replaces_one_that_was_left_over() {
    use std::os::unix::fs::PermissionsExt;
    let broker = Fixture::start();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&broker.socket), 0o600);
    let again = bind(&broker.socket).unwrap();
    assert_eq!(mode(&broker.socket), 0o600);
    let (connected, accepted) = tokio::join!(UnixStream::connect(&broker.socket), again.accept());
    assert!(connected.is_ok() && accepted.is_ok());
    assert!(bind(&broker.directory.path().join("absent/admin.sock")).is_err());
}

#[tokio::test]
async fn a_shutdown_ends_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let services = Fixture::start().services;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let listener = bind(&directory.path().join("s")).unwrap();
    let server = tokio::spawn(serve(listener, services, async move { _ = stopped.await }));
    stop.send(()).unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
}

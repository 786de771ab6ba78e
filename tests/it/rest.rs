//! The REST API over HTTPS: who gets in, who may what, and the attacks on its entrance.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use jiff::Timestamp;
use portcullis::{
    access::{Auth, Context, Operation, Permission, UserId},
    directory::{Actor, Expected, NewUser},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    certificates::{Identity, issue, issue_elsewhere, issue_for, request, tls_client},
    client::PATIENCE,
    harness::{Harness, PASSWORD, allow, hash},
    https::{Https, api, basic, config, raw, tls},
    metrics::scrape,
};

const OPERATOR: &str = "operator";

fn http(operation: Operation, resource: &str) -> Permission {
    Permission::allow(Context::Http, operation, resource)
}

fn everything() -> Vec<Permission> {
    vec![http(Operation::ReadWrite, "/#")]
}

async fn start() -> Harness {
    start_with("").await
}

/// With [`OPERATOR`], a holder of `admin`, and `reader`, who may read everything.
async fn start_with(admin: &str) -> Harness {
    let harness = Harness::start_rest(admin).await;
    harness.user_with(OPERATOR, |user| user.roles = vec!["admin".parse().unwrap()]);
    harness.user("reader", vec![http(Operation::Read, "/#")]);
    harness
}

fn id_of(harness: &Harness, name: &str) -> UserId {
    harness.users().policy().user_named(&name.parse().unwrap()).unwrap().id
}

/// A user who logs in with a certificate that is on record.
fn certified(harness: &Harness, name: &str, auth: Auth) -> (UserId, Identity) {
    let (identity, issued) = issue(&harness.path().join("certs"), name);
    let user = NewUser {
        auth,
        password_hash: matches!(auth, Auth::Both | Auth::Either).then(|| hash(PASSWORD)),
        certificates: vec![issued.record()],
        permissions: everything(),
        ..NewUser::named(name.parse().unwrap())
    };
    (harness.users().create_user(user, &Actor::System).unwrap().id, identity)
}

#[tokio::test]
async fn a_user_with_a_password_and_the_right_works_on_one_connection_and_is_named_in_the_audit_log() {
    let harness = start().await;
    let mut https = Https::to(&harness).await;
    let created =
        https.call(OPERATOR, "POST", "/api/users", &json!({ "username": "pump-7", "password": PASSWORD })).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let shown = https.get("reader", "/api/users/pump-7").await;
    assert_eq!((shown.status.as_u16(), &shown.body["username"]), (200, &json!("pump-7")));
    for (header, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(shown.header(header), value);
    }
    assert!(shown.headers.get("access-control-allow-origin").is_none());
    let head = https.send("HEAD", "/api/users", &[("authorization", &basic("reader", PASSWORD))], "").await;
    assert_eq!((head.status.as_u16(), head.body), (200, json!("")));

    let log = https.get("reader", "/api/audit?last=1").await;
    let record = &log.body["items"][0]["record"];
    assert_eq!(record["event"]["kind"], "user_created", "{record}");
    assert_eq!((&record["who"]["as"], &record["who"]["username"]), (&json!("user"), &json!(OPERATOR)));
    assert_eq!(record["place"], json!({ "at": "network", "address": "127.0.0.1", "listener": "admin" }), "{record}");
}

#[tokio::test]
async fn a_stranger_learns_nothing_but_that_it_is_one() {
    let harness = start().await;
    harness.change(id_of(&harness, "reader"), |user| user.password_hash = Some(hash("another horse battery")));
    let mut https = Https::to(&harness).await;
    let mut answers = Vec::new();
    for (method, path, headers) in [
        ("GET", "/api/users", vec![]),
        ("GET", "/api/nothing/there", vec![]),
        ("DELETE", "/api/users", vec![]),
        ("OPTIONS", "/api/users", vec![]),
        ("GET", "/", vec![]),
        ("GET", "/api/users", vec![("authorization", basic("reader", PASSWORD))]),
        ("GET", "/api/users", vec![("authorization", basic("nobody", PASSWORD))]),
        ("GET", "/api/users", vec![("authorization", basic("system", PASSWORD))]),
        ("GET", "/api/users", vec![("authorization", basic("local:0", PASSWORD))]),
        ("GET", "/api/users", vec![("authorization", basic("admin", ""))]),
        ("GET", "/api/users", vec![("authorization", basic("", ""))]),
        ("GET", "/api/users", vec![("authorization", basic("re\u{0}ader", PASSWORD))]),
        ("GET", "/api/users", vec![("authorization", "Basic".to_owned())]),
        ("GET", "/api/users", vec![("authorization", "Basic !!!!".to_owned())]),
        ("GET", "/api/users", vec![("authorization", "Basic /////w==".to_owned())]),
        ("GET", "/api/users", vec![("authorization", format!("Bearer {}", &basic(OPERATOR, PASSWORD)[6..]))]),
        (
            "GET",
            "/api/users",
            vec![("authorization", basic(OPERATOR, PASSWORD)), ("authorization", basic(OPERATOR, PASSWORD))],
        ),
        ("GET", "/api/users", vec![("authorization", basic("reader", &"x".repeat(2000)))]),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let reply = https.send(method, path, &headers, "").await;
        assert_eq!(reply.problem(), (401, "unauthenticated"), "{method} {path} {headers:?}");
        assert_eq!(reply.header("www-authenticate"), "Basic realm=\"portcullis\", charset=\"UTF-8\"");
        answers.push(reply.body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one answer for all: {answers:?}");
}

#[tokio::test]
async fn rules_decide_on_the_segments_of_the_path_and_a_refusal_is_counted_and_recorded() {
    let harness = start_with("[audit]\ninterval = \"1s\"").await;
    harness.user(
        "clerk",
        vec![
            http(Operation::Read, "/api/users/+"),
            http(Operation::ReadWrite, "/api/users/${username}/#"),
            Permission::deny(Context::Http, Operation::ReadWrite, "/api/users/operator/#"),
        ],
    );
    let mut https = Https::to(&harness).await;
    for (method, path, status) in [
        ("GET", "/api/users/reader", 200),
        ("GET", "/api/users/%72eader", 200),
        ("HEAD", "/api/users/reader", 200),
        ("GET", "/api/users/operator", 403),
        ("GET", "/api/users/%6fperator", 403),
        ("HEAD", "/api/users/operator", 403),
        ("GET", "/api/users", 403),
        ("GET", "/%61pi/users", 403),
        ("GET", "/api/roles", 403),
        ("GET", "/api/there/is/nothing", 403),
        ("GET", "/", 403),
        ("POST", "/api/users/reader/disable", 403),
        ("PROPFIND", "/api/users/reader", 403),
        ("GET", "/api/users/nobody-there", 404),
        ("GET", "/api/users/clerk/password", 405),
        ("GET", "/api/users/..", 400),
        ("GET", "/api/users/%2e%2e/roles", 400),
        ("GET", "/api/users/reader/", 400),
        ("GET", "/api/users//reader", 400),
        ("GET", "/api/users%2Foperator", 400),
        ("GET", "/api/users/x%2f..%2foperator", 400),
        ("GET", "/api/users/%252e%252e", 400),
        ("GET", "/api/users/reader%00", 400),
        ("GET", "/api/users/reader%0d%0aX: y", 400),
    ] {
        let path = path.replace(' ', "%20");
        let reply = https.get_as("clerk", method, &path).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path} {}", reply.body);
        if status >= 400 && method != "HEAD" {
            reply.problem();
        }
    }
    let allow = https.get_as("clerk", "GET", "/api/users/clerk/password").await;
    assert_eq!(allow.header("allow"), "PUT");
    let text = scrape(harness.broker.started().metrics.unwrap()).await;
    assert!(text.contains("portcullis_refusals_total{action=\"http\"} 10"), "{text}");
    assert!(text.contains("portcullis_http_requests_total{outcome=\"forbidden\"} 10"), "{text}");

    let deadline = tokio::time::Instant::now() + PATIENCE;
    let refusal = loop {
        let log = https.get("reader", "/api/audit").await.body;
        let found = log["items"].as_array().unwrap().iter().map(|item| item["record"]["event"].clone());
        let mut found = found.filter(|event| event["kind"] == "refused" && event["rule"].is_object());
        if let Some(event) = found.next() {
            break event;
        }
        assert!(tokio::time::Instant::now() < deadline, "{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(
        (&refusal["user"]["username"], &refusal["action"], &refusal["topic"], &refusal["cause"]),
        (&json!("clerk"), &json!("http_read"), &json!("api/users/#"), &json!("rules"))
    );
    assert_eq!(refusal["rule"]["permission"]["resource"], "/api/users/operator/#");
}

impl Https {
    async fn get_as(&mut self, user: &str, method: &str, path: &str) -> crate::https::Reply {
        self.call(user, method, path, &Value::Null).await
    }
}

/// A rule that denies a path binds every spelling of it.
#[tokio::test]
async fn a_name_in_a_path_has_one_spelling() {
    let harness = start().await;
    let mut https = Https::to(&harness).await;
    for path in [
        "/api/client-registry/requests/0193A0B2-7C3D-7E4F-8A5B-6C7D8E9F0A1B",
        "/api/client-registry/requests/0193a0b27c3d7e4f8a5b6c7d8e9f0a1b",
        "/api/client-registry/requests/{0193a0b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b}",
        "/api/client-registry/requests/urn:uuid:0193a0b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b",
        "/api/users/reader/certificates/AB12/revoke",
        "/api/users/reader/certificates/ab:12/revoke",
    ] {
        let method = if path.ends_with("revoke") { "POST" } else { "GET" };
        let path = path.replace('{', "%7B").replace('}', "%7D");
        let reply = https.call(OPERATOR, method, &path, &Value::Null).await;
        assert_eq!(reply.problem(), (404, "not-found"), "{path}");
        assert!(reply.body["detail"].as_str().unwrap().contains("write it"), "{}", reply.body);
    }
}

#[tokio::test]
async fn who_administers_hands_out_no_more_than_it_holds() {
    let harness = start().await;
    harness.user("deputy", vec![http(Operation::ReadWrite, "/api/#"), allow("plant/#")]);
    let mut https = Https::to(&harness).await;
    let rule = |resource: &str| json!([{ "context": "mqtt", "operation": "read", "resource": resource }]);
    let user = |name: &str, rules: Value| json!({ "username": name, "password": PASSWORD, "permissions": rules });
    let own = https.call("deputy", "POST", "/api/users", &user("one", rule("plant/1/#"))).await;
    assert_eq!(own.status, 201, "{}", own.body);
    let more = https.call("deputy", "POST", "/api/users", &user("two", rule("office/#"))).await;
    assert_eq!(more.problem(), (403, "forbidden"));
    let admin = json!({ "username": "two", "password": PASSWORD, "roles": ["admin"] });
    assert_eq!(https.call("deputy", "POST", "/api/users", &admin).await.problem(), (403, "forbidden"));
    let stolen = json!({ "password": "another horse battery" });
    let stolen = https.call("deputy", "PUT", "/api/users/operator/password", &stolen).await;
    assert_eq!(stolen.problem(), (403, "forbidden"), "the password of an administrator");
    let document = json!({ "user": [{ "username": "deputy", "roles": ["admin"] }] });
    assert_eq!(https.call("deputy", "POST", "/api/apply", &document).await.problem(), (403, "forbidden"));
}

#[tokio::test]
async fn a_change_of_the_user_counts_at_the_next_request_of_the_same_connection() {
    let harness = start().await;
    let id = harness.user("ada", everything());
    let mut https = Https::to(&harness).await;
    assert_eq!(https.get("ada", "/api/users").await.status, 200);
    harness.permit(id, vec![http(Operation::Read, "/api/roles")]);
    assert_eq!(https.get("ada", "/api/users").await.problem(), (403, "forbidden"));
    assert_eq!(https.get("ada", "/api/roles").await.status, 200);
    harness.change(id, |user| user.enabled = false);
    let disabled = https.get("ada", "/api/roles").await;
    assert_eq!(disabled.problem(), (403, "forbidden"));
    let wrong = https.send("GET", "/api/roles", &[("authorization", &basic("ada", "wrong horse battery"))], "").await;
    assert_eq!(wrong.problem(), (401, "unauthenticated"), "who does not know the password does not learn it");
    harness.change(id, |user| user.enabled = true);
    assert_eq!(https.get("ada", "/api/roles").await.status, 200);
    harness.change(id, |user| user.expires_at = Some(Timestamp::UNIX_EPOCH));
    assert_eq!(https.get("ada", "/api/roles").await.problem(), (403, "forbidden"));
    harness.change(id, |user| user.expires_at = None);
    harness.change(id, |user| user.password_hash = Some(hash("another horse battery")));
    assert_eq!(https.get("ada", "/api/roles").await.problem(), (401, "unauthenticated"));
    let other = [("authorization", &*basic("ada", "another horse battery"))];
    assert_eq!(https.send("GET", "/api/roles", &other, "").await.status, 200);
    harness.change(id, |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
    });
    assert_eq!(https.send("GET", "/api/roles", &other, "").await.problem(), (401, "unauthenticated"));
    harness.delete(id);
    assert_eq!(https.send("GET", "/api/roles", &other, "").await.problem(), (401, "unauthenticated"));
    // A later user of that name inherits nothing.
    harness.user("ada", vec![]);
    assert_eq!(https.get("ada", "/api/roles").await.problem(), (403, "forbidden"));
}

#[tokio::test]
async fn a_certificate_of_the_own_ca_is_a_login_until_it_is_revoked() {
    let harness = start().await;
    let (id, identity) = certified(&harness, "station-7", Auth::Certificate);
    let mut https = Https::connect(api(&harness), config(&harness, Some(identity))).await;
    assert_eq!(https.send("GET", "/api/users", &[], "").await.status, 200);
    let other = https.get("reader", "/api/users").await;
    assert_eq!(other.problem(), (401, "unauthenticated"), "two identities at once");
    let own = https.get("station-7", "/api/users").await;
    assert_eq!(own.status, 200, "the certificate suffices");
    harness.change(id, |user| user.certificates[0].revoked_at = Some(Timestamp::now()));
    assert_eq!(https.send("GET", "/api/users", &[], "").await.problem(), (401, "unauthenticated"));

    let (_, both) = certified(&harness, "station-8", Auth::Both);
    let mut https = Https::connect(api(&harness), config(&harness, Some(both))).await;
    assert_eq!(https.send("GET", "/api/users", &[], "").await.problem(), (401, "unauthenticated"));
    assert_eq!(https.get("station-8", "/api/users").await.status, 200);
    let mut without = Https::to(&harness).await;
    assert_eq!(without.get("station-8", "/api/users").await.problem(), (401, "unauthenticated"));

    // Signed by the CA, and on nobody's record.
    let (unknown, _) = issue(&harness.path().join("certs"), OPERATOR);
    let mut https = Https::connect(api(&harness), config(&harness, Some(unknown))).await;
    assert_eq!(https.send("GET", "/api/users", &[], "").await.problem(), (401, "unauthenticated"));
    assert_eq!(https.get(OPERATOR, "/api/users").await.status, 200, "it logs in by password, and needs no certificate");
    // Of another CA: not even the handshake.
    let foreign = config(&harness, Some(issue_elsewhere(OPERATOR)));
    if let Ok(mut stream) = tls(api(&harness), foreign).await {
        let _ = stream.write_all(b"GET /api/users HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
        assert!(answer.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn guessing_is_slow_for_known_and_unknown_users_alike() {
    let harness = start().await;
    for name in ["reader", "nobody"] {
        let mut https = Https::to(&harness).await;
        let mut statuses = Vec::new();
        for n in 0..30 {
            let guess = basic(name, &format!("guess number {n}"));
            let reply = https.send("GET", "/api/users", &[("authorization", &guess)], "").await;
            if reply.status == 429 {
                assert_eq!(reply.problem(), (429, "busy"));
                assert!(reply.header("retry-after").parse::<u64>().unwrap() > 0);
            }
            statuses.push(reply.status.as_u16());
        }
        let wrong = statuses.iter().take_while(|status| **status == 401).count();
        assert!((1..=20).contains(&wrong), "{name}: {statuses:?}");
        assert!(statuses[wrong..].iter().all(|status| *status == 429), "{name}: {statuses:?}");
    }
    // The same limits as for MQTT, and the other way round; whoever was here before is spared.
    let mut https = Https::to(&harness).await;
    assert_eq!(https.get(OPERATOR, "/api/users").await.problem(), (429, "busy"), "from this address nobody new");
}

#[tokio::test]
async fn who_was_here_before_is_let_in_while_others_guess() {
    let harness = start().await;
    let mut https = Https::to(&harness).await;
    assert_eq!(https.get(OPERATOR, "/api/users").await.status, 200);
    for n in 0..40 {
        let guess = basic("reader", &format!("guess number {n}"));
        https.send("GET", "/api/users", &[("authorization", &guess)], "").await;
    }
    assert_eq!(https.get(OPERATOR, "/api/users").await.status, 200);
}

#[tokio::test]
async fn pages_of_other_sites_change_nothing() {
    let harness = start().await;
    let mut https = Https::to(&harness).await;
    let authorization = basic(OPERATOR, PASSWORD);
    let json = ("content-type", "application/json");
    let body = r#"{"name":"line"}"#;
    for (status, more) in [
        (403, vec![json, ("origin", "https://evil.example")]),
        (403, vec![json, ("origin", "null")]),
        (403, vec![json, ("origin", "http://localhost")]),
        (403, vec![json, ("origin", "https://localhost.evil.example")]),
        (403, vec![json, ("origin", "https://localhost:444")]),
        (403, vec![json, ("sec-fetch-site", "cross-site")]),
        (403, vec![json, ("sec-fetch-site", "same-site")]),
        (403, vec![json, ("origin", "https://localhost"), ("sec-fetch-site", "cross-site")]),
        (415, vec![("content-type", "text/plain")]),
        (415, vec![("content-type", "application/x-www-form-urlencoded")]),
        (415, vec![("content-type", "multipart/form-data; boundary=x")]),
        (415, vec![]),
        (201, vec![json, ("origin", "https://localhost"), ("sec-fetch-site", "same-origin")]),
    ] {
        let mut headers = vec![("authorization", &*authorization)];
        headers.extend(&more);
        let reply = https.send("POST", "/api/roles", &headers, body).await;
        assert_eq!(reply.status.as_u16(), status, "{more:?} {}", reply.body);
        if status == 403 {
            assert_eq!(reply.problem(), (403, "cross-site"));
        }
    }
    // A form without fields has a type all the same.
    let form = [("authorization", &*authorization), ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(https.send("POST", "/api/client-registry/unlock", &form, "").await.problem(), (415, "media-type"));
    // The question of a browser whether it may is no answer of ours.
    let question = [("origin", "https://evil.example"), ("access-control-request-method", "DELETE")];
    let reply = https.send("OPTIONS", "/api/users/reader", &question, "").await;
    assert_eq!(reply.problem(), (403, "cross-site"));
    assert!(!reply.headers.keys().any(|name| name.as_str().starts_with("access-control")));
}

/// The status lines of everything that comes back.
fn statuses(answer: &str) -> Vec<u16> {
    answer
        .match_indices("HTTP/1.1 ")
        .filter_map(|(at, found)| answer.get(at + found.len()..at + found.len() + 3)?.parse().ok())
        .collect()
}

#[tokio::test]
async fn bytes_that_two_servers_could_read_in_two_ways_are_refused_and_the_connection_closed() {
    let harness = start().await;
    let authorization = basic(OPERATOR, PASSWORD);
    let hidden =
        format!("DELETE /api/users/reader HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n");
    let post = |headers: &str, body: &str| {
        format!(
            "POST /api/client-registry/lock HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n{headers}\r\n{body}{hidden}"
        )
    };
    for (what, request) in [
        (
            "both, length first",
            post("Content-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        (
            "both, chunks first",
            post("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ),
        ("chunks", post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("an unknown coding", post("Transfer-Encoding: identity\r\n", "")),
        ("a hidden coding", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 5\r\n", "")),
        ("a list of lengths", post("Content-Length: 0, 5\r\n", "")),
        ("a signed length", post("Content-Length: +0\r\n", "")),
        ("a folded header", post("X: a\r\n Content-Length: 5\r\n", "")),
        ("a null byte", post("X: a\0b\r\n", "")),
        ("a bare CR", post("X: a\rb\r\n", "")),
        ("no HTTP", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("a tunnel", "CONNECT localhost:1883 HTTP/1.1\r\nHost: localhost:1883\r\nConnection: close\r\n\r\n".to_owned()),
        ("no host", "GET /api/users HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
        (
            "two hosts",
            "GET /api/users HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        ("a host that is none", "GET /api/users HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n".to_owned()),
        (
            "a host with a user",
            "GET /api/users HTTP/1.1\r\nHost: admin@localhost\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        (
            "another host in the target",
            "GET https://evil.example/api/users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        ("a star", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned()),
    ] {
        let answer = raw(api(&harness), config(&harness, None), request.as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(statuses.len() <= 1, "{what}: {answer}");
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{what}: {answer}");
        assert!(harness.users().policy().user_named(&"reader".parse().unwrap()).is_some(), "{what}");
    }
    // What is well-formed goes on: two requests in one packet are two answers, in order.
    let get = |path: &str, close: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: LOCALHOST\r\nAuthorization: {authorization}\r\n{close}\r\n")
    };
    let both = get("/api/roles", "") + &get("https://localhost/api/nothing", "Connection: close\r\n");
    let answer = raw(api(&harness), config(&harness, None), both.as_bytes()).await;
    assert_eq!(statuses(&answer), [200, 404], "{answer}");
}

#[tokio::test]
async fn heads_and_bodies_beyond_their_size_are_refused() {
    let harness = start().await;
    let authorization = basic(OPERATOR, PASSWORD);
    let head = |more: &str| format!("GET /api/roles HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n");
    for (request, status) in [
        (head(&format!("X: {}\r\n", "x".repeat(20_000))), 431),
        (head(&"X: y\r\n".repeat(100)), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(20_000)), 431),
    ] {
        let answer = raw(api(&harness), config(&harness, None), request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{answer}");
    }
    // Without an end: it is not waited for.
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(100_000));
    let mut stream = tls(api(&harness), config(&harness, None)).await.unwrap();
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");

    let mut https = Https::to(&harness).await;
    let headers = [("authorization", &*authorization), ("content-type", "application/json")];
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(https.send("POST", "/api/roles", &headers, large.clone()).await.problem(), (413, "too-large"));
    // Nobody's body is read.
    let mut https = Https::to(&harness).await;
    assert_eq!(https.send("POST", "/api/roles", &headers[1..], large).await.problem(), (401, "unauthenticated"));
    let mut https = Https::to(&harness).await;
    for (body, kind) in [("{", (400, "malformed")), ("{\"nam\":1}", (422, "invalid"))] {
        assert_eq!(https.send("POST", "/api/roles", &headers, body).await.problem(), kind);
    }
}

#[tokio::test]
async fn connections_have_a_bound_in_all_and_for_each_source() {
    let harness = start_with("connections = 10\nconnections_per_address = 3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(tls(api(&harness), config(&harness, None)).await.unwrap());
    }
    let mut refused = TcpStream::connect(api(&harness)).await.unwrap();
    let mut nothing = Vec::new();
    let _ = timeout(PATIENCE, refused.read_to_end(&mut nothing)).await.expect("it is closed at once");
    assert!(nothing.is_empty());
    held.pop();
    // The place comes back when the broker has seen the end.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tls(api(&harness), config(&harness, None)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn plaintext_is_not_answered_and_only_http_is_spoken() {
    let harness = start().await;
    let mut plain = TcpStream::connect(api(&harness)).await.unwrap();
    plain.write_all(b"GET /api/users HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    for (name, works) in [(&b"mqtt"[..], false), (b"h2", false), (b"http/1.1", true)] {
        let mut config = tls_client(
            crate::certificates::roots(&harness.broker.started().trust_bundle),
            crate::certificates::ANY_TLS,
            None,
        );
        std::sync::Arc::get_mut(&mut config).unwrap().alpn_protocols = vec![name.to_vec()];
        assert_eq!(tls(api(&harness), config).await.is_ok(), works, "{name:?}");
    }
}

/// A stream of events, and what of it has arrived: a frame can hold half an event, or two.
struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// What stands before the next empty line; `None`: the stream has ended.
    async fn next_part(&mut self) -> Option<String> {
        loop {
            if let Some((part, rest)) = self.text.split_once("\n\n") {
                let (part, rest) = (part.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(part);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("an event, or the end")?.ok()?;
            self.text += str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    }

    /// The next event that has data.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let part = self.next_part().await?;
            if let Some(json) = part.strip_prefix("data: ") {
                return Some(serde_json::from_str(json).unwrap());
            }
        }
    }
}

async fn stream(harness: &Harness, user: &str, path: &str) -> Events {
    let mut https = Https::to(harness).await;
    let response = https.response("GET", path, &[("authorization", &basic(user, PASSWORD))], "").await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    // The connection lives as long as the body.
    let mut events = Events { body: response.into_body(), text: String::new() };
    assert_eq!(events.next_part().await.unwrap(), ": listening");
    events
}

#[tokio::test]
async fn a_stream_ends_with_the_right_to_it() {
    let harness = start().await;
    for path in ["/api/audit/events", "/api/client-registry/events"] {
        for (n, change) in ["right", "disabled", "password", "deleted", "expired"].iter().enumerate() {
            let name = format!("ada-{n}");
            let id = harness.user(&name, vec![http(Operation::Read, "/api/#")]);
            let mut events = stream(&harness, &name, path).await;
            match *change {
                "right" => harness.permit(id, vec![]),
                "disabled" => harness.change(id, |user| user.enabled = false),
                "password" => harness.change(id, |user| user.password_hash = Some(hash("another horse battery"))),
                "deleted" => harness.delete(id),
                _ => harness.change(id, |user| user.expires_at = Some(Timestamp::now() + Duration::from_millis(50))),
            }
            if *change != "expired" {
                // What happens now is not for those ears.
                harness.role("line", vec![]);
            }
            while let Some(event) = events.next().await {
                // The change itself may have been told before it was made known; nothing after it is.
                assert!(!event.to_string().contains("line"), "{path} {change}: {event}");
                let kind = event["record"]["event"]["kind"].as_str().unwrap_or_default();
                assert!(["user_changed", "user_deleted"].contains(&kind), "{path} {change}: {event}");
            }
            harness.users().delete_role("line".parse().unwrap(), Expected::Any, &Actor::System).ok();
            if *change != "deleted" {
                harness.delete(id);
            }
        }
    }
}

#[tokio::test]
async fn events_come_over_https_and_a_shutdown_ends_them() {
    let harness = start().await;
    let mut audit = stream(&harness, "reader", "/api/audit/events").await;
    let mut registry = stream(&harness, "reader", "/api/client-registry/events").await;
    let mut https = Https::to(&harness).await;
    assert_eq!(https.call(OPERATOR, "POST", "/api/client-registry/unlock", &json!({})).await.status, 200);
    assert_eq!(registry.next().await.unwrap()["event"], "unlocked");
    assert_eq!(audit.next().await.unwrap()["record"]["event"]["kind"], "registry_unlocked");
    let Harness { broker, directory: _home } = harness;
    broker.shutdown().await;
    for mut events in [audit, registry] {
        while events.next_part().await.is_some() {}
    }
}

/// The command line against the API: its output, and its exit code.
async fn command_line(harness: &Harness, arguments: &[&str]) -> (String, Option<i32>) {
    command_line_trusting(harness, harness, arguments).await
}

async fn command_line_trusting(trusted: &Harness, harness: &Harness, arguments: &[&str]) -> (String, Option<i32>) {
    let trust = trusted.broker.started().trust_bundle.clone();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("--url").arg(format!("https://localhost:{}", api(harness).port())).arg("--ca").arg(trust);
    command.args(arguments).current_dir(harness.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(), output.status.code())
}

#[tokio::test]
async fn the_command_line_reaches_a_broker_elsewhere_as_a_user_and_has_no_more_rights_there() {
    let harness = start().await;
    let file = |name: &str, text: &str| {
        let path = harness.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", &format!("{PASSWORD}\n")), file("wrong", "wrong horse battery\n"));
    let as_operator = ["--user", OPERATOR, "--password-file", &right];
    let (told, code) = command_line(&harness, &[&as_operator[..], &["role", "add", "line"]].concat()).await;
    assert_eq!((code, &*told), (Some(0), "added the role line with 0 permissions\n"));
    let (told, code) = command_line(&harness, &[&as_operator[..], &["registry", "status"]].concat()).await;
    assert_eq!(code, Some(0), "{told}");
    let as_reader = ["--user", "reader", "--password-file", &right];
    let (told, code) = command_line(&harness, &[&as_reader[..], &["role", "show", "line"]].concat()).await;
    assert_eq!(code, Some(0), "{told}");
    let (told, code) = command_line(&harness, &[&as_reader[..], &["role", "delete", "line"]].concat()).await;
    assert!(code == Some(1) && told.contains("no rule lets `reader` DELETE `/api/roles/line`"), "{told}");
    let (told, code) = command_line(&harness, &["--user", OPERATOR, "--password-file", &wrong, "user", "list"]).await;
    assert!(code == Some(1) && told.contains("user name and a password"), "{told}");

    let (key, csr) = request("station-7");
    let issued = issue_for(&harness.path().join("certs"), &csr);
    harness.user_with("station-7", |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.certificates = vec![issued.record()];
        user.permissions = everything();
    });
    let (cert, key) = (file("station.pem", issued.pem()), file("station.key", &key.serialize_pem()));
    let (told, code) = command_line(&harness, &["--cert", &cert, "--key", &key, "user", "list"]).await;
    assert!(code == Some(0) && told.contains("station-7"), "{told}");

    // Another CA, no credentials, a file that is none.
    let elsewhere = start().await;
    let (told, code) =
        command_line_trusting(&elsewhere, &harness, &[&as_operator[..], &["user", "list"]].concat()).await;
    assert!(code == Some(3) && told.contains("no broker is reached at https://localhost:"), "{told}");
    for arguments in [
        &["user", "list"][..],
        &["--user", OPERATOR, "user", "list"],
        &["--cert", &cert, "user", "list"],
        &["--user", "a:bc", "--password-file", &right, "user", "list"],
        &["--cert", &right, "--key", &right, "user", "list"],
        &["--user", OPERATOR, "--password-file", "absent", "user", "list"],
        &["--socket", "x", "--user", OPERATOR, "--password-file", &right, "user", "list"],
    ] {
        let (told, code) = command_line(&harness, arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {told}");
        assert!(!told.contains("horse"), "{told}");
    }
}

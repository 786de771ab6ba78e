//! Each command against a scripted broker: what it asks, what it prints, how it ends.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use portcullis::admin::api::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

/// Answers each request with the next of its answers, and keeps what it was asked.
struct ScriptedBroker {
    _directory: tempfile::TempDir,
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Status, media type, body.
type Answer = (u16, &'static str, String);

impl ScriptedBroker {
    fn start(answers: Vec<Answer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                serve_one(stream, answer, &log).await.unwrap();
            }
        });
        Self { _directory: directory, socket, asked }
    }
}

async fn serve_one(mut stream: UnixStream, answer: Answer, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await?;
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    let first = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    log.lock().unwrap().push(format!("{first} {body}").trim_end().to_owned());
    let (status, media_type, body) = answer;
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The transcript of one command: the command line, what went to the broker, what was printed, the exit code.
async fn transcript(command: &str, answers: Vec<Answer>) -> String {
    let broker = ScriptedBroker::start(answers);
    let (printed, told, code) = command_line(&split(command), &broker.socket).await;
    let mut text = format!("$ portcullis {command}\n");
    for request in broker.asked.lock().unwrap().iter() {
        writeln!(text, "-> {request}").unwrap();
    }
    text.push_str(&printed);
    text.push_str(&told);
    writeln!(text, "[{code}]").unwrap();
    text
}

async fn command_line(words: &[String], socket: &Path) -> (String, String, u8) {
    let arguments = match Arguments::try_parse_from(std::iter::once(&"portcullis".to_owned()).chain(words)) {
        Ok(arguments) => arguments,
        Err(error) => return (String::new(), error.render().to_string(), u8::try_from(error.exit_code()).unwrap()),
    };
    let json = arguments.json;
    let Some(Command::Remote(remote)) = arguments.command else { panic!("a command for the broker") };
    let mut out = Vec::new();
    let password = |_: &str, _: bool| Ok(Secret::new("correct horse battery"));
    let mut shell = Shell { out: &mut out, program: "portcullis", json, bold: false, password: &password };
    let outcome = commands::run(remote, &Client::new(socket), &mut shell).await;
    let mut told = Vec::new();
    let code = outcome.map_or_else(
        |failure| {
            tell(&failure, json, &mut told).unwrap();
            failure.code()
        },
        |()| 0,
    );
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(told).replace(&socket.display().to_string(), "SOCKET"), code)
}

/// Words at blanks, except within single quotes.
fn split(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in command.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            character => words.last_mut().unwrap().push(character),
        }
    }
    words
}

fn ok(body: &Value) -> Answer {
    (200, "application/json", body.to_string())
}

fn no_content() -> Answer {
    (204, "application/json", String::new())
}

fn refused(status: u16, body: &Value) -> Answer {
    (status, "application/problem+json", body.to_string())
}

fn user() -> Value {
    json!({
        "id": "0190163d-8694-739b-aea5-966c26f8ad91", "username": "historian", "description": "keeps \u{1b}[31mthe past",
        "enabled": true, "auth": "both", "has_password": true, "roles": ["observer", "line"],
        "certificates": [
            { "serial": "01ab", "fingerprint": "ff", "not_before": "2026-01-01T00:00:00Z", "not_after": "2026-04-01T00:00:00Z" },
            { "serial": "02cd", "fingerprint": "fe", "not_before": "2026-01-01T00:00:00Z", "not_after": "2026-04-01T00:00:00Z",
              "revoked_at": "2026-02-01T00:00:00Z", "reason": "keyCompromise", "comment": "lost" }
        ],
        "permissions": [
            { "context": "mqtt", "operation": "read", "resource": "plant/#", "max_qos": 1, "not_after": "2027-01-01T00:00:00Z" },
            { "context": "mqtt", "operation": "write", "resource": "plant/+/firmware", "effect": "deny" }
        ],
        "quota": {
            "connections": 2, "sessions": 3, "subscriptions": 4, "publish_messages": { "per_second": 100, "burst": 500 },
            "publish_bytes": { "per_second": 65536 }, "retained_messages": 50, "retained_bytes": 60000,
            "queue_messages": 70, "queue_bytes": 80000
        },
        "publish_prefix": "site1/", "client_id": "${username}-*", "expires_at": "2030-01-01T00:00:00Z",
        "managed_by": "api", "created_at": "2026-01-01T10:11:12.5Z", "last_seen_at": "2026-02-03T04:05:06Z", "last_seen_from": "192.0.2.1", "version": 7
    })
}

fn bare_user() -> Value {
    json!({
        "id": "0190163d-8694-739b-aea5-966c26f8ad92", "username": "dev", "enabled": false, "auth": "password",
        "has_password": false, "managed_by": "registry", "created_at": "2026-01-01T10:11:12Z", "version": 1
    })
}

fn role() -> Value {
    json!({
        "name": "line", "description": "a station", "managed_by": "config", "version": 2,
        "permissions": [{ "context": "http", "operation": "read_write", "resource": "/api/#", "effect": "allow", "retain": false }]
    })
}

fn request() -> Value {
    json!({
        "id": "0190163d-8694-739b-aea5-966c26f8ad93", "username": "station-7", "state": "pending", "auth": "certificate",
        "pairing_code": "K3J9-ZZ7Q-0A1B-C2D3", "pairing_shown": true, "key": "P-256",
        "context": { "model": "X\u{1b}]0;pwned\u{7}" }, "requested_roles": ["line"],
        "requested_permissions": [{ "context": "mqtt", "operation": "write", "resource": "a" }],
        "source": "192.0.2.7", "listener": "mqtts", "door": "mqtt", "first_seen": "2026-02-03T04:05:06Z",
        "last_seen": "2026-02-03T04:06:06Z", "polls": 3, "expires_at": "2026-02-04T04:05:06Z"
    })
}

fn decided(members: &Value) -> Value {
    let mut request = request();
    request["pairing_shown"] = json!(false);
    request["expires_at"] = Value::Null;
    request["context"] = Value::Null;
    request["by"] = json!("local:1000");
    request["at"] = json!("2026-02-03T05:00:00Z");
    request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    request
}

fn granted() -> Value {
    decided(
        &json!({ "state": "granted", "user": "0190163d-8694-739b-aea5-966c26f8ad91", "serial": "01ab", "comment": "hello" }),
    )
}

/// It would take the place of somebody's credentials.
fn replacing() -> Value {
    let mut request = request();
    request["replaces"] = json!("0190163d-8694-739b-aea5-966c26f8ad91");
    request
}

fn replaced() -> Value {
    let mut request = granted();
    request["replaces"] = json!("0190163d-8694-739b-aea5-966c26f8ad91");
    request
}

fn denied() -> Value {
    decided(&json!({ "state": "denied", "reason": "not\nours", "forget_at": "2026-02-04T05:00:00Z" }))
}

/// What the first of two people would grant.
fn approved() -> Value {
    let mut request = request();
    request["approved"] = json!({
        "who": { "as": "user", "id": "0190163d-8694-739b-aea5-966c26f8ad91", "username": "ada" }, "by": "user:ada",
        "at": "2026-02-03T05:00:00Z",
        "grant": {
            "roles": ["line"], "permissions": [{ "context": "mqtt", "operation": "write", "resource": "a" }],
            "publish_prefix": "site7/", "expires_at": "2030-01-01T00:00:00Z", "comment": "seen it", "unpaired": false
        }
    });
    request
}

fn status(locked: bool) -> Value {
    if locked {
        json!({ "locked": true, "pending": 2, "max_pending": 10000 })
    } else {
        json!({
            "locked": false, "until": "2026-02-03T04:10:06Z", "remaining": 4, "pending": 0, "max_pending": 10000,
            "terms": { "listener": "mqtts", "source": ["10.0.0.0/8"], "username": "line3-*", "count": 4 }
        })
    }
}

#[tokio::test]
async fn users() {
    let rule = r#"'{"context":"mqtt","operation":"read","resource":"plant/#"}'"#;
    let quota = r#"'{"connections":2,"publish_messages":{"per_second":100,"burst":500},"queue_bytes":9000}'"#;
    let mut text = String::new();
    for (command, answers) in [
        ("user list".to_owned(), vec![ok(&json!({ "items": [user(), bare_user()] }))]),
        ("user list".to_owned(), vec![ok(&json!({ "items": [] }))]),
        ("user show historian".to_owned(), vec![ok(&user())]),
        ("user show dev".to_owned(), vec![ok(&bare_user())]),
        ("user show dev --json".to_owned(), vec![ok(&bare_user())]),
        ("user add dev".to_owned(), vec![ok(&bare_user())]),
        (
            format!(
                "user add historian --description 'the past' --auth both --role observer --role line --permission {rule} --publish-prefix site1/ --client-id x-* --expires 2030-01-01T00:00:00Z --disabled"
            ),
            vec![ok(&user())],
        ),
        (format!("user add dev --quota {quota}"), vec![ok(&bare_user())]),
        ("user add dev --quota '{\"publish_messages\":7}'".to_owned(), vec![]),
        (format!("user edit historian --quota {quota} --no-expires"), vec![ok(&user()), ok(&user())]),
        ("user edit historian --no-quota".to_owned(), vec![ok(&user()), ok(&user())]),
        (format!("user edit dev --quota {quota} --no-quota"), vec![]),
        ("user add dev --auth certificate".to_owned(), vec![ok(&bare_user())]),
        ("user add dev --auth certificate --password-stdin".to_owned(), vec![]),
        ("user passwd historian".to_owned(), vec![ok(&user()), ok(&user())]),
        (
            format!(
                "user edit historian --description '' --auth certificate --role line --role cell --drop-role observer --permission {rule} --drop-permission 2 --publish-prefix site2/ --no-client-id --no-expires"
            ),
            vec![ok(&user()), ok(&bare_user())],
        ),
        (
            "user edit dev --no-publish-prefix --client-id dev --expires 2030-01-01T00:00:00Z --json".to_owned(),
            vec![ok(&bare_user()), ok(&bare_user())],
        ),
        ("user edit dev --drop-role line".to_owned(), vec![ok(&bare_user())]),
        ("user edit historian --drop-permission 3".to_owned(), vec![ok(&user())]),
        ("user edit dev".to_owned(), vec![ok(&bare_user())]),
        (
            "user revoke historian 01:AB --reason keyCompromise --comment 'left on a train'".to_owned(),
            vec![ok(&user())],
        ),
        ("user revoke historian --all".to_owned(), vec![ok(&user())]),
        ("user revoke historian".to_owned(), vec![]),
        ("user revoke historian 01ab --reason certificateHold".to_owned(), vec![]),
        ("user enable historian".to_owned(), vec![ok(&user())]),
        ("user disable dev".to_owned(), vec![ok(&bare_user())]),
        ("user delete historian".to_owned(), vec![ok(&user()), no_content()]),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    insta::assert_snapshot!("users", text);
}

fn ca() -> Value {
    json!({
        "subject": "CN=Portcullis CA 0a1b2c3d", "fingerprint": "ab".repeat(32), "key_identifier": "cd".repeat(20),
        "key": "P-256", "not_before": "2026-01-01T00:00:00Z", "not_after": "2036-01-01T00:00:00Z",
        "crl_url": "http://broker.example/crl",
        "certificates": { "live": 17, "of_other_issuers": 2, "revoked": 3, "expired": 1 },
        "crl": { "number": 7, "entries": 3, "this_update": "2026-02-01T00:00:00Z", "next_update": "2026-02-08T00:00:00Z" },
        "revoked_issuers": [{ "issuer": "ef", "revoked_at": "2026-01-02T00:00:00Z", "reason": "cACompromise", "comment": "stolen" }],
        "former": { "issuer": "ef".repeat(20), "subject": "CN=Portcullis CA 99", "not_after": "2031-01-01T00:00:00Z", "certificates": 12, "users": 11 },
        "trust": [{ "subject": "CN=Partner Root", "fingerprint": "12".repeat(32), "username": "partner-*", "not_after": "2030-01-01T00:00:00Z" }],
    })
}

#[tokio::test]
async fn the_authority() {
    let mut text = String::new();
    let revoked = json!({ "issuer": "ef", "revoked_at": "2026-01-02T00:00:00Z", "reason": "cACompromise" });
    for (command, answers) in [
        ("ca show", vec![ok(&ca())]),
        ("ca show --json", vec![ok(&ca())]),
        ("ca crl", vec![ok(&json!("not read here"))]),
        ("ca crl --out /proc/nowhere", vec![ok(&json!("not read here"))]),
        ("ca revoke ef --reason keyCompromise --comment stolen", vec![ok(&revoked)]),
        ("user pin root-1 /proc/nowhere", vec![]),
        ("ca rotate", vec![ok(&ca())]),
        ("ca csr --name Plant", vec![ok(&json!({ "csr": "-----BEGIN CERTIFICATE REQUEST-----\n" }))]),
        ("ca import /proc/nowhere", vec![]),
        (
            "ca living ef --after pump-7",
            vec![ok(
                &json!({ "items": [{ "username": "pump-8", "serial": "01ab", "not_after": "2030-01-01T00:00:00Z" }] }),
            )],
        ),
        ("ca retire ef", vec![ok(&ca())]),
    ] {
        writeln!(text, "{}", transcript(command, answers).await).unwrap();
    }
    insta::assert_snapshot!("ca", text);
}

#[tokio::test]
async fn roles() {
    let rule = r#"'{"context":"mqtt","operation":"read","resource":"plant/#"}'"#;
    let mut text = String::new();
    for (command, answers) in [
        ("role list".to_owned(), vec![ok(&json!({ "items": [role()] }))]),
        ("role show line".to_owned(), vec![ok(&role())]),
        (format!("role add line --description 'a station' --permission {rule} --permission {rule}"), vec![ok(&role())]),
        (
            format!("role edit line --description 'a cell' --permission {rule} --drop-permission 1"),
            vec![ok(&role()), ok(&role())],
        ),
        (format!("role edit line --permission {rule}"), vec![ok(&role()), ok(&role())]),
        ("role edit line --drop-permission 2".to_owned(), vec![ok(&role())]),
        ("role edit line".to_owned(), vec![]),
        ("role delete line".to_owned(), vec![ok(&role()), no_content()]),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    insta::assert_snapshot!("roles", text);
}

#[tokio::test]
async fn the_registry() {
    let id = "0190163d-8694-739b-aea5-966c26f8ad93";
    let rule = r#"'{"context":"mqtt","operation":"read","resource":"plant/#"}'"#;
    let mut text = String::new();
    for (command, answers) in [
        ("registry list".to_owned(), vec![ok(&json!({ "items": [request()] }))]),
        ("registry list --state all".to_owned(), vec![ok(&json!({ "items": [request(), denied()] }))]),
        (format!("registry show {id}"), vec![ok(&request())]),
        (format!("registry show {id}"), vec![ok(&denied())]),
        (format!("registry grant {id}"), vec![ok(&granted())]),
        (
            format!("registry grant {id} --role line --permission {rule} --publish-prefix a/ --expires 2030-01-01T00:00:00Z --comment hello --unpaired"),
            vec![ok(&granted())],
        ),
        ("registry list".to_owned(), vec![ok(&json!({ "items": [replacing()] }))]),
        (format!("registry grant {id}"), vec![ok(&replaced())]),
        ("registry grant station-7".to_owned(), vec![ok(&json!({ "items": [request()] })), ok(&granted())]),
        ("registry grant pump-8".to_owned(), vec![ok(&json!({ "items": [request()] }))]),
        ("registry grant pump/8".to_owned(), vec![]),
        (format!("registry deny {id} --reason 'not ours' --comment 'ticket 7'"), vec![ok(&denied())]),
        ("registry status".to_owned(), vec![ok(&status(true))]),
        ("registry lock".to_owned(), vec![ok(&status(true))]),
        ("registry unlock".to_owned(), vec![ok(&status(false))]),
        (
            "registry unlock --for 1h30m --listener mqtts --source 10.0.0.0/8 --source fd00::/8 --username line3-* --count 4".to_owned(),
            vec![ok(&status(false))],
        ),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    insta::assert_snapshot!("registry", text);
}

#[tokio::test]
async fn two_people() {
    let id = "0190163d-8694-739b-aea5-966c26f8ad93";
    let conflict = json!({
        "type": "x", "title": "Conflict", "status": 409,
        "detail": format!("you have approved the request `{id}` already: another person must grant the same")
    });
    let mut ruled = granted();
    ruled["rule"] = json!("line3");
    ruled["by"] = json!("rule line3");
    let mut text = String::new();
    for (command, answers) in [
        ("registry list".to_owned(), vec![ok(&json!({ "items": [approved()] }))]),
        (format!("registry show {id}"), vec![ok(&approved())]),
        (format!("registry show {id}"), vec![ok(&ruled)]),
        (format!("registry grant {id} --role line"), vec![ok(&approved())]),
        (format!("registry grant {id} --role line --json"), vec![ok(&approved())]),
        (format!("registry grant {id} --role line"), vec![refused(409, &conflict)]),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    insta::assert_snapshot!("two_people", text);
}

#[tokio::test]
async fn tokens() {
    let id = "0190163d-8694-739b-aea5-966c26f8ad93";
    let rule = r#"'{"context":"mqtt","operation":"read","resource":"plant/#"}'"#;
    let token = json!({
        "id": id, "uses": 5, "used": 1, "until": "2026-02-04T04:05:06Z", "username": "line3-*", "source": ["10.0.0.0/8"],
        "roles": ["line"], "permissions": [{ "context": "mqtt", "operation": "read", "resource": "plant/#" }],
        "publish_prefix": "site7/", "expires_at": "2030-01-01T00:00:00Z", "comment": "line 3", "by": "local:1000",
        "at": "2026-02-03T04:05:06Z", "last_used": "2026-02-03T05:05:06Z"
    });
    let bare = json!({
        "id": id, "uses": 1, "used": 0, "until": "2026-02-04T04:05:06Z", "source": [], "roles": [], "permissions": [],
        "by": "user:ada", "at": "2026-02-03T04:05:06Z"
    });
    let mut created = bare.clone();
    created["token"] = json!("0123-4567-89AB-CDEF-GHJK-MNPQ-RSTV-WXYZ");
    let mut text = String::new();
    for (command, answers) in [
        ("registry token list".to_owned(), vec![ok(&json!({ "items": [token, bare] }))]),
        ("registry token list --json".to_owned(), vec![ok(&json!({ "items": [bare] }))]),
        (format!("registry token show {id}"), vec![ok(&token)]),
        (format!("registry token show {id} --json"), vec![ok(&bare)]),
        (format!("registry token revoke {id}"), vec![no_content()]),
        (format!("registry token revoke {id} --json"), vec![no_content()]),
        ("registry token create".to_owned(), vec![ok(&created)]),
        (
            format!(
                "registry token create --role line --permission {rule} --publish-prefix site7/ --uses 5 --for 30d --username line3-* --source 10.0.0.0/8 --expires 2030-01-01T00:00:00Z --comment 'line 3' --json"
            ),
            vec![ok(&created)],
        ),
        ("registry token create --uses 0".to_owned(), vec![]),
        ("registry token revoke 0123-4567".to_owned(), vec![]),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    insta::assert_snapshot!("tokens", text);
}

#[tokio::test]
async fn watching() {
    let at = "2026-02-03T04:05:06Z";
    let events = [
        json!({ "event": "unlocked", "at": at }),
        json!({ "event": "requested", "at": at, "request": request() }),
        json!({ "event": "requested", "at": at, "request": replacing() }),
        json!({ "event": "approved", "at": at, "request": approved() }),
        json!({ "event": "granted", "at": at, "request": granted() }),
        json!({ "event": "denied", "at": at, "request": denied() }),
        json!({ "event": "expired", "at": at, "request": request() }),
        json!({ "event": "locked", "at": at }),
        json!({ "missed": 3 }),
    ];
    let mut stream = ": comment\n\n".to_owned();
    for event in &events {
        // A data line of its own for each member, as the standard allows.
        let lines = serde_json::to_string_pretty(event).unwrap().replace('\n', "\ndata: ");
        write!(stream, "event: x\ndata: {lines}\r\n\r\n").unwrap();
    }
    let answer = (200, "text/event-stream", stream);
    let mut text = transcript("registry watch", vec![answer.clone()]).await;
    text += &transcript("registry watch --json", vec![answer]).await;
    text += &transcript("registry watch", vec![(200, "text/event-stream", "data: nonsense\n\n".to_owned())]).await;
    insta::assert_snapshot!("watch", text);
}

#[tokio::test]
async fn the_audit_log() {
    let (hash, id) = ("ab".repeat(32), "0190163d-8694-739b-aea5-966c26f8ad93");
    let time = "2026-02-03T04:05:06Z";
    let record = |sequence: u64, event: Value| {
        let who = json!({ "as": "local", "uid": 1000 });
        json!({ "hash": hash, "record": { "sequence": sequence, "time": time, "who": who, "event": event } })
    };
    let user = json!({ "id": id, "username": "pump-7" });
    let change = json!({ "fields": ["enabled", "password"], "enabled": false });
    let changed = record(1, json!({ "kind": "user_changed", "user": user, "old": 1, "new": 2, "change": change }));
    let from = json!({ "at": "network", "address": "192.0.2.7", "listener": "mqtts" });
    let failed = json!({ "kind": "logins_failed", "from": from, "cause": "unknown_user", "count": 3, "first": time, "last": time });
    let failed = record(2, failed);
    let later = record(3, json!({ "kind": "of_a_newer_broker", "note": "\u{1b}[2J" }));
    let end = json!({ "sequence": 3, "hash": hash, "bytes": 900 });
    let page = ok(&json!({ "items": [changed, failed, later], "end": end }));
    let one = ok(&json!({ "items": [], "end": end }));
    let whole = json!({ "whole": true, "records": 3, "first": 1, "last": 3, "head": hash, "heads": 1 });
    let fault = json!({ "fault": "changed", "sequence": 2 });
    let broken =
        json!({ "whole": false, "records": 1, "first": 1, "last": 1, "head": hash, "heads": 0, "fault": fault });
    let signed = json!({ "purpose": "head", "sequence": 3, "hash": hash, "time": time, "key": hash, "signature": "cd".repeat(64) });
    let stream = format!(": listening\n\ndata: {changed}\n\n:\n\ndata: {failed}\n\n");
    let mut text = String::new();
    for (command, answers) in [
        ("audit tail -n 3", vec![one.clone(), page.clone()]),
        ("audit tail -n 3 --json", vec![one, page.clone()]),
        ("audit tail --follow", vec![(200, "text/event-stream", stream)]),
        ("audit export --after 0", vec![page]),
        ("audit verify", vec![ok(&whole)]),
        (&format!("audit verify --head {hash} --json"), vec![ok(&whole)]),
        ("audit verify", vec![ok(&broken)]),
        ("audit verify --head abc", vec![]),
        ("audit head", vec![ok(&json!({ "end": end, "signed": signed }))]),
        ("audit head", vec![ok(&json!({ "end": end }))]),
        ("audit tail --follow --offline", vec![]),
    ] {
        writeln!(text, "{}", transcript(command, answers).await).unwrap();
    }
    insta::assert_snapshot!("audit", text);
}

#[tokio::test]
async fn explanations() {
    let rule = json!({ "context": "mqtt", "operation": "read_write", "resource": "plant/${username}/#" });
    let allowed = json!({
        "allowed": true, "reason": "`station-7` may publish to `site1/plant/station-7/t`", "topic": "site1/plant/station-7/t",
        "max_qos": 1, "retain": false, "rules": [{ "role": "line", "permission": rule }, { "permission": rule }]
    });
    let partial = json!({
        "allowed": true, "reason": "`station-7` may subscribe to `#`", "topic": "#", "max_qos": 2,
        "checked_at_delivery": true, "rules": [{ "role": "line", "permission": rule }]
    });
    let denied = json!({ "allowed": false, "reason": "no rule allows it", "topic": "x", "max_qos": 0, "rules": [] });
    let mut text = String::new();
    for (command, answer) in [
        ("explain station-7 publish plant/station-7/t --qos 1 --retain --client-id c", &allowed),
        ("explain station-7 subscribe #", &partial),
        ("explain station-7 receive x", &denied),
        ("explain station-7 receive x --json", &denied),
    ] {
        writeln!(text, "{}", transcript(command, vec![ok(answer)]).await).unwrap();
    }
    insta::assert_snapshot!("explain", text);
}

#[tokio::test]
async fn refusals() {
    let problem = json!({
        "type": "urn:portcullis:problem:not-found", "title": "Not found", "status": 404,
        "detail": "there is no user `hist\u{1b}[2Jorian`", "name": "historian"
    });
    let mut text = String::new();
    for (command, answers) in [
        ("user show historian", vec![refused(404, &problem)]),
        ("user show historian --json", vec![refused(404, &problem)]),
        ("user passwd historian", vec![refused(404, &problem)]),
        ("user list", vec![refused(503, &json!({}))]),
        ("user list", vec![refused(500, &json!("text"))]),
        ("user list", vec![(200, "application/json", "[]".to_owned())]),
        ("user list", vec![(200, "application/json", "{\"items\":[{}]}".to_owned())]),
        ("registry watch", vec![refused(404, &problem)]),
        ("role show ..", vec![]),
        ("user revoke historian ..", vec![]),
        ("registry show 0190163d-8694-739b-aea5-966c26f8ad93", vec![refused(404, &problem)]),
    ] {
        writeln!(text, "{}", transcript(command, answers).await).unwrap();
    }
    insta::assert_snapshot!("refusals", text);
}

#[tokio::test]
async fn imports() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().display().to_string();
    let hash = "$7$101$wqJyjpI/mw7j1p3y$LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg==";
    std::fs::write(directory.path().join("passwd"), format!("ada:{hash}\nold:$6$c2FsdA==$aGFzaA==\n")).unwrap();
    std::fs::write(
        directory.path().join("acl"),
        "topic read public/#\nuser ada\ntopic read a/#\ntopic readwrite $SYS/#\npattern deny b/%c/\u{1b}[2J\n",
    )
    .unwrap();
    std::fs::write(directory.path().join("wrong"), "user ada\ntopic rea a/#\n").unwrap();
    // Names that a terminal would obey, in every kind of message.
    let hostile = "\u{1b}]0;owned\u{7}\u{202e}x\u{9b}2J";
    std::fs::write(directory.path().join("hostile-passwd"), format!("{hostile}:{hash}\n{hostile}\n")).unwrap();
    std::fs::write(directory.path().join("hostile-acl"), format!("topic read a/{hostile}\n{hostile} a/#\n")).unwrap();
    let twice = json!({ "clients": [{ "username": hostile }, { "username": hostile }] });
    std::fs::write(directory.path().join("hostile-twice.json"), twice.to_string()).unwrap();
    let filter = json!({ "roles": [{ "rolename": "r", "acls": [{ "acltype": "publishClientSend", "topic": format!("a/#/{hostile}"), "allow": true }] }] });
    std::fs::write(directory.path().join("hostile-filter.json"), filter.to_string()).unwrap();
    std::fs::write(directory.path().join("hostile-field.json"), json!({ hostile: 1 }).to_string()).unwrap();
    let nobody = ok(&json!({ "items": [] }));
    let ada = json!({
        "id": "0190163d-8694-739b-aea5-966c26f8ad93", "username": "ada", "description": "", "enabled": true, "auth": "password",
        "has_password": true, "certificates": [], "roles": [], "permissions": [], "managed_by": "api", "created_at": "2026-02-03T04:05:06Z", "version": 1
    });
    let patterns = json!({ "name": "mosquitto-patterns", "description": "", "permissions": [], "managed_by": "api", "version": 1 });
    let applied = |dry_run: bool| {
        ok(&json!({ "dry_run": dry_run, "version": 7, "sessions": [], "changes": [
            { "kind": "user", "name": "ada", "action": "created", "version": 1 }, { "kind": "role", "name": "mosquitto-patterns", "action": "created", "version": 1 }
        ] }))
    };
    let both = format!("--passwords {base}/passwd --acls {base}/acl");
    let mut text = String::new();
    for (command, answers) in [
        (format!("import {both} --dry-run"), vec![nobody.clone(), nobody.clone(), applied(true)]),
        (format!("import {both} --json"), vec![nobody.clone(), nobody.clone(), applied(false)]),
        (format!("import {both}"), vec![ok(&json!({ "items": [ada] })), ok(&json!({ "items": [patterns] }))]),
        (format!("import {both} --write {base}/policy.toml"), vec![]),
        (format!("import {both} --write {base}/policy.toml"), vec![]),
        (format!("import --acls {base}/wrong"), vec![]),
        (format!("import --acls {base}/none"), vec![]),
        ("import".to_owned(), vec![]),
        (format!("import --acls {base}/acl --dynamic-security {base}/acl"), vec![]),
    ] {
        writeln!(text, "{}", transcript(&command, answers).await).unwrap();
    }
    for file in ["passwords {base}/hostile-passwd", "acls {base}/hostile-acl"] {
        let command = format!("import --{} --dry-run", file.replace("{base}", &base));
        writeln!(text, "{}", transcript(&command, vec![nobody.clone(), nobody.clone(), applied(true)]).await).unwrap();
    }
    for file in ["twice", "filter", "field"] {
        let command = format!("import --dynamic-security {base}/hostile-{file}.json");
        writeln!(text, "{}", transcript(&command, vec![]).await).unwrap();
    }
    let obeyed = |it: char| (it.is_control() && it != '\n') || matches!(it, '\u{202a}'..='\u{202e}');
    assert!(!text.contains(obeyed), "a terminal would do what the file says");
    let written = std::fs::read_to_string(directory.path().join("policy.toml")).unwrap();
    // What is written is what `apply` reads.
    let document: portcullis::directory::Document = toml::from_str(&written).unwrap();
    assert_eq!((document.user.len(), document.role.len()), (1, 1));
    writeln!(text, "policy.toml:\n{written}").unwrap();
    insta::assert_snapshot!("import", text.replace(&base, "BASE"));
}

#[tokio::test]
async fn wrong_usage() {
    let mut text = String::new();
    for command in [
        "user show ab",
        "user show a/b/c",
        "user passwd historian secret",
        "user add historian --password secret",
        "user add historian --permission {}",
        "user add historian --expires tomorrow",
        "user edit historian --publish-prefix a/ --no-publish-prefix",
        "role edit line --drop-permission 0",
        "registry unlock --for 5",
        "registry unlock --for 0s",
        "registry unlock --count 0",
        "registry unlock --source 10.0.0.1/8",
        "registry unlock --username a**b/",
        "registry show ../../users",
        "registry deny 1",
        "explain historian read a",
        "explain historian publish a --qos 3",
    ] {
        writeln!(text, "{}", transcript(command, vec![]).await).unwrap();
    }
    insta::assert_snapshot!("usage", text);
}

#[tokio::test]
async fn no_broker() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let (printed, absent, code) = command_line(&split("user list"), &socket).await;
    assert_eq!((printed.as_str(), code), ("", 3));
    drop(UnixListener::bind(&socket).unwrap());
    let (_, left_over, code) = command_line(&split("user list"), &socket).await;
    assert_eq!(code, 3);
    insta::assert_snapshot!("no_broker", absent + &left_over);
}

#[test]
fn the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.toml");
    let mut text = String::new();
    for (content, json) in [
        (Some(""), false),
        (Some(""), true),
        (Some("[log]\nlevel = \"infoo\"\n\n[limits]\nconections = 3\n"), false),
        (Some("[log]\nlevel = \"infoo\"\n\n[limits]\nconections = 3\n"), true),
        (Some("[metrics]\nbind = \"0.0.0.0:9464\"\n"), false),
        (Some("[metrics]\nbind = \"0.0.0.0:9464\"\n"), true),
        (Some("[[user]]\nusername = \"abc\"\npassword = \"hunter2\"\n"), false),
        (Some("data_dir = nowhere"), false),
        (None, false),
        (None, true),
    ] {
        let _ = std::fs::remove_file(&path);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let mut out = Vec::new();
        let mut shell =
            Shell { out: &mut out, program: "portcullis", json, bold: false, password: &|_, _| unreachable!() };
        let outcome = configuration::check(load(Some(path.clone())), &mut shell);
        if let Err(failure) = outcome {
            tell(&failure, json, &mut out).unwrap();
        }
        writeln!(text, "{}=> {json}\n{}\n", content.unwrap_or("(no file)"), String::from_utf8(out).unwrap()).unwrap();
    }
    assert!(!text.contains("hunter2\"\n   "), "a password is drawn");
    insta::assert_snapshot!("config", text.replace(&directory.path().display().to_string(), "BASE"));
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Arguments::command().debug_assert();
}

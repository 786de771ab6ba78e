//! The audit log of a whole broker, read as an operator reads it: with the command line.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use portcullis::{
    directory::Actor,
    mqtt::ReasonCode,
    registry::{DenyTerms, GrantTerms, TokenTerms, UnlockTerms},
};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    certificates::request,
    client::{Client, PATIENCE, Q0, Q1, V5, connect, text_of},
    harness::{Harness, PASSWORD, TESTER, allow, as_user, deny_write},
};

fn portcullis(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The command against the broker of this data directory; must succeed.
async fn told(home: &Path, arguments: &[&str], input: &str) -> String {
    let socket = home.join("data/admin.sock").display().to_string();
    let arguments: Vec<String> =
        ["--socket", &socket].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    let input = input.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        portcullis(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &input)
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// The records of an export.
pub(crate) fn records(export: &str) -> Vec<Value> {
    export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["record"].take()).collect()
}

pub(crate) fn of_kind<'a>(records: &'a [Value], kind: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["event"]["kind"] == kind).map(|record| &record["event"]).collect()
}

/// Exports until there is a record of this kind: refusals come with the next interval.
pub(crate) async fn wait_for(home: &Path, kind: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let export = told(home, &["audit", "export"], "").await;
        if !of_kind(&records(&export), kind).is_empty() {
            return export;
        }
        assert!(Instant::now() < deadline, "no `{kind}` in {export}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Sends a registration and takes the answer.
async fn register(broker: &Harness, message: &Value) -> (Client, Value) {
    let mut device = Client::open(broker.address("enrol"), V5).await;
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    device.subscribe("$registry/register/response", Q1).await;
    device.publish("$registry/register", &message.to_string(), Q1).await;
    let answer = device.expect_publish().await;
    let answer = serde_json::from_str(text_of(&answer)).unwrap();
    (device, answer)
}

const LISTENERS: &str = r#"
[audit]
interval = "1s"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
[[listener]]
name = "enrol"
bind = "127.0.0.1:0"
registration = true
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_run_is_on_record_and_no_secret_of_it_is() {
    let broker = Harness::start_with_listeners(LISTENERS).await;
    let home = broker.path().to_owned();
    let mut secrets = vec![PASSWORD.to_owned(), "$argon2id".to_owned(), "PRIVATE KEY".to_owned()];
    let mut secret = |text: &str| {
        secrets.push(text.to_owned());
        text.to_owned()
    };

    // Users, their passwords and their rights.
    let alice = broker.user("alice", vec![allow("plant/#"), deny_write("plant/firmware/#")]);
    let fresh = secret("a brand new password of alice");
    told(&home, &["user", "passwd", "alice", "--password-stdin"], &fresh).await;
    let described = secret("the door code is 4711");
    broker.change(alice, move |user| user.description = described);
    told(
        &home,
        &["role", "add", "line", "--permission", r#"{"context":"mqtt","operation":"read","resource":"line/#"}"#],
        "",
    )
    .await;

    // Logins that fail: a wrong password, a password in the field of the name, an unknown user.
    let mut wrong = as_user(V5, "a", TESTER);
    wrong.password = Some(secret("not the password of tester").into_bytes().into());
    broker.refused(&wrong).await;
    wrong.username = Some(secret("pA55word:in-the-wrong.field").into());
    broker.refused(&wrong).await;

    // Things that are refused.
    let mut login = as_user(V5, "alice-1", "alice");
    login.password = Some(fresh.into_bytes().into());
    let mut client = broker.login(&login).await;
    for n in 0..3 {
        let topic = format!("plant/firmware/{n}");
        assert_eq!(client.try_publish(&topic, &secret("payload of alice"), Q1).await, ReasonCode::NotAuthorized);
    }
    assert_eq!(client.try_subscribe("elsewhere/#", Q0).await, ReasonCode::NotAuthorized);

    // Devices.
    let registry = broker.handle().registry().clone();
    let operator = Actor::Local { uid: 1 };
    registry.unlock(UnlockTerms::default(), operator.clone()).await.unwrap();
    let (key, csr) = request("pump-7");
    secret(key.serialize_pem().lines().nth(1).unwrap());
    let message = serde_json::json!({
        "username": "pump-7", "csr": csr, "password": secret("password of the pump"),
        "context": { "note": secret("a secret note of the pump") },
    });
    let (_pump, answer) = register(&broker, &message).await;
    assert_eq!(answer["status"], 202, "{answer}");
    secret(answer["pairing_code"].as_str().unwrap());
    let message = serde_json::json!({ "username": "pump-8", "password": secret("password of the other") });
    let (_other, answer) = register(&broker, &message).await;
    secret(answer["pairing_code"].as_str().unwrap());
    for request in registry.list(None).await.unwrap() {
        if request.username.as_str() == "pump-7" {
            let terms = GrantTerms {
                roles: vec!["line".parse().unwrap()],
                comment: Some("ordered with no. 17".into()),
                unpaired: true,
                ..GrantTerms::default()
            };
            registry.grant(request.id, terms, operator.clone()).await.unwrap();
        } else {
            let comment = Some("nobody knows it".to_owned());
            let terms = DenyTerms { reason: secret("a reason for the device alone"), comment };
            registry.deny(request.id, terms, operator.clone()).await.unwrap();
        }
    }
    registry.lock(operator.clone()).await.unwrap();
    let (token, view) = registry.create_token(TokenTerms::default(), operator).await.unwrap();
    let message = serde_json::json!({
        "username": "pump-9", "csr": request("pump-9").1, "token": secret(token.expose_secret()),
    });
    let (_claimant, answer) = register(&broker, &message).await;
    assert_eq!(answer["status"], 201, "{answer}");
    let message = serde_json::json!({
        "username": "pump-10", "csr": request("pump-10").1, "token": secret(token.expose_secret()),
    });
    let (_late, answer) = register(&broker, &message).await;
    assert_eq!((&answer["status"], &answer["error"]), (&403.into(), &"token".into()), "{answer}");
    let pump = broker.users().policy().user_named(&"pump-7".parse().unwrap()).unwrap().id;
    broker.delete(pump);

    // Everything that is stored or lies in files beside it.
    for user in broker.users().policy().users() {
        secrets.extend(user.password_hash.clone());
    }
    for file in ["certs/ca.key", "data/audit.key"] {
        let pem = fs::read_to_string(home.join(file)).unwrap();
        secrets.extend(pem.lines().filter(|line| !line.starts_with("---")).map(str::to_owned));
    }
    if let Ok(first) = fs::read_to_string(home.join("data/initial-admin-password")) {
        secrets.push(first.trim().to_owned());
    }

    wait_for(&home, "refused").await;
    let export = wait_for(&home, "logins_failed").await;
    for secret in &secrets {
        assert!(!export.contains(secret.as_str()), "`{secret}` is in the audit log");
    }

    let all = records(&export);
    let comments =
        ["registration_granted", "registration_denied"].map(|kind| of_kind(&all, kind)[0]["comment"].clone());
    assert_eq!(comments, ["ordered with no. 17", "nobody knows it"]);
    assert_eq!(of_kind(&all, "tokens_refused")[0]["token"], view.id.to_string());
    for kind in [
        "key_created",
        "broker_started",
        "user_created",
        "user_changed",
        "user_deleted",
        "role_created",
        "registry_unlocked",
        "registration_requested",
        "registration_granted",
        "registration_denied",
        "certificate_signing",
        "certificate_issued",
        "certificate_revoked",
        "registry_locked",
        "token_created",
        "logins_failed",
        "refused",
    ] {
        assert!(!of_kind(&all, kind).is_empty(), "no `{kind}` in {export}");
    }
    let logins = of_kind(&all, "logins_failed");
    let known = logins.iter().find(|login| login["user"]["username"] == TESTER).unwrap();
    assert_eq!((&known["cause"], &known["count"]), (&"wrong_password".into(), &1.into()));
    assert_eq!(known["from"]["listener"], "plain");
    assert!(logins.iter().any(|login| login.get("user").is_none() && login["cause"] == "unknown_user"));
    let refused = of_kind(&all, "refused");
    let publish = refused.iter().find(|refused| refused["action"] == "publish").unwrap();
    assert_eq!((&publish["topic"], &publish["count"]), (&"plant/firmware/#".into(), &3.into()));
    assert_eq!(publish["rule"]["permission"]["effect"], "deny");
    let subscribe = refused.iter().find(|refused| refused["action"] == "subscribe").unwrap();
    assert_eq!((&subscribe["topic"], subscribe.get("rule")), (&"elsewhere/#".into(), None));

    // The command line of an operator.
    let whole = told(&home, &["audit", "verify"], "").await;
    assert!(whole.starts_with("whole: "), "{whole}");
    let head = told(&home, &["--json", "audit", "head"], "").await;
    let head: Value = serde_json::from_str(&head).unwrap();
    told(&home, &["audit", "verify", "--head", head["end"]["hash"].as_str().unwrap()], "").await;
    let tail = told(&home, &["audit", "tail", "-n", "2"], "").await;
    assert_eq!(tail.lines().count(), 2, "{tail}");
    broker.broker.shutdown().await;
}

// Killed.

const ON_DISK: &str = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
[metrics]
bind = "off"
[password]
argon2 = { memory_kib = 8, iterations = 1, parallelism = 1 }
"#;

/// A broker in a process of its own, killed when dropped.
struct Process(Child);

impl Process {
    fn start(config: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["--config", config, "serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while !portcullis(&["--config", config, "role", "list"], "").status.success() {
            assert!(Instant::now() < deadline, "the broker does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        started
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Dead already, if the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_broker_that_is_killed_leaves_a_whole_log_of_just_what_it_has_done() {
    let home = TempDir::new().unwrap();
    let config = home.path().join("broker.toml").display().to_string();
    fs::write(&config, ON_DISK).unwrap();
    let mut answered: Vec<String> = Vec::new();
    for round in 0..3 {
        let mut broker = Process::start(&config);
        let listed = portcullis(&["--config", &config, "--json", "role", "list"], "");
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let roles: Vec<_> = listed["items"].as_array().unwrap().iter().map(|role| &role["name"]).collect();
        assert!(answered.iter().all(|name| roles.contains(&&Value::from(name.as_str()))));

        let (done, more) = std::sync::mpsc::channel();
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (config, done) = (config.clone(), done.clone());
                std::thread::spawn(move || {
                    for n in 0.. {
                        let name = format!("role-{round}-{writer}-{n}");
                        let added = portcullis(&["--config", &config, "role", "add", &name], "");
                        if !added.status.success() || done.send(name).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        drop(done);
        answered.extend((0..5 + 5 * round).map(|_| more.recv_timeout(PATIENCE).unwrap()));
        broker.kill();
        answered.extend(more);
        for writer in writers {
            writer.join().unwrap();
        }

        let whole = portcullis(&["--config", &config, "audit", "verify", "--offline"], "");
        assert!(whole.status.success(), "round {round}: {}", text(&whole));
        let export = portcullis(&["--config", &config, "audit", "export", "--offline"], "");
        let all = records(&String::from_utf8(export.stdout).unwrap());
        let mut told: Vec<&str> =
            of_kind(&all, "role_created").iter().map(|event| event["role"].as_str().unwrap()).collect();
        assert!(answered.iter().all(|name| told.contains(&name.as_str())), "round {round}");
        // And the other way round: what is told is there.
        let broker = Process::start(&config);
        let listed = portcullis(&["--config", &config, "--json", "role", "list"], "");
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let mut roles: Vec<&str> = listed["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|role| role["name"].as_str().unwrap())
            .filter(|name| name.starts_with("role-"))
            .collect();
        roles.sort_unstable();
        told.sort_unstable();
        assert_eq!(roles, told, "round {round}");
        drop(broker);
    }
    // What somebody does to the store then is found.
    assert!(home.path().join("data/audit.pub").is_file());
    let unknown = "00".repeat(32);
    let head = portcullis(&["--config", &config, "audit", "verify", "--offline", "--head", &unknown], "");
    assert_eq!(head.status.code(), Some(1));
    assert!(text(&head).contains("no record on file has the hash"), "{}", text(&head));
}

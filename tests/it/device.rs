//! The ready client of the registry against a real broker: enrolment, refusals, and who it takes for the broker.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    access::{Auth, CertificateRecord},
    device::{Credentials, Device, DeviceError, Progress},
    directory::Actor,
    registry::{GrantTerms, RequestView, StateFilter, TokenTerms, UnlockTerms},
};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::task;

use crate::{
    certificates::{ANY_TLS, Identity, issue_until, record_of, request as request_for, roots, tls_client},
    client::{Client, PATIENCE, Q1, Tls, V5, connect, text_of},
    harness::{Harness, PLAIN_LISTENER, TESTER, TLS_LISTENER},
};

const CLOSED_LISTENER: &str = r#"
[[listener]]
name = "closed"
bind = "127.0.0.1:0"
tls = true
"#;

/// Long enough for what happens; whoever waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

async fn start(config: &str) -> Harness {
    Harness::start_with_listeners(&format!("{PLAIN_LISTENER}{TLS_LISTENER}{CLOSED_LISTENER}{config}")).await
}

fn device_at(harness: &Harness, listener: &str, directory: &Path) -> Device {
    let address = format!("mqtts://localhost:{}", harness.address(listener).port());
    let trust = fs::read(&harness.broker.started().trust_bundle).unwrap();
    let files = Credentials::new(directory, "pump-7".parse().unwrap());
    Device::new(address.parse().unwrap(), &trust, files).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_token_needs_nobody_and_one_with_a_bad_token_is_told() {
    let harness = start("").await;
    let directory = TempDir::new().unwrap();
    let (secret, _) = harness.handle().registry().create_token(TokenTerms::default(), Actor::System).await.unwrap();
    let device = device_at(&harness, "tls", directory.path());
    let (outcome, steps) = enrolled(device.clone().with_token(secret.clone()), Duration::ZERO).await;
    outcome.unwrap();
    assert_eq!(steps, ["granted"]);
    assert_eq!(enrolled(device.clone().with_token("another"), Duration::ZERO).await.1, ["enrolled"]);
    assert!(!format!("{:?}", device.with_token(secret.clone())).contains(secret.expose_secret()));

    let elsewhere = TempDir::new().unwrap();
    let address = format!("mqtts://localhost:{}", harness.address("tls").port());
    let command = |file: &Path| {
        let trust = &harness.broker.started().trust_bundle;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["device", "enrol", "pump-8", "--broker", &address, "--wait", "1s"]);
        command.arg("--ca").arg(trust).arg("--directory").arg(elsewhere.path()).arg("--token-file").arg(file);
        command
    };
    let file = elsewhere.path().join("token");
    fs::write(&file, format!("{}\n", secret.expose_secret())).unwrap();
    let mut spent = command(&file);
    let spent = task::spawn_blocking(move || spent.output().unwrap()).await.unwrap();
    assert_eq!(spent.status.code(), Some(1));
    let told = String::from_utf8_lossy(&spent.stderr).into_owned();
    assert!(told.contains("403 token") && !told.contains(secret.expose_secret()), "{told}");
    let (fresh, _) = harness.handle().registry().create_token(TokenTerms::default(), Actor::System).await.unwrap();
    fs::write(&file, fresh.expose_secret().to_lowercase()).unwrap();
    let mut good = command(&file);
    let good = task::spawn_blocking(move || good.output().unwrap()).await.unwrap();
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(elsewhere.path().join("pump-8.pem").exists());
}

/// Runs it on a thread of its own; gives what it came to, and every step.
async fn enrolled(device: Device, patience: Duration) -> (Result<jiff::Timestamp, DeviceError>, Vec<String>) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let outcome = task::spawn_blocking(move || {
        device.enrol(patience, &mut |progress| told.lock().unwrap().push(word(&progress).to_owned()))
    });
    let outcome = outcome.await.unwrap();
    let mut steps = std::mem::take(&mut *steps.lock().unwrap());
    steps.dedup();
    (outcome, steps)
}

fn word(progress: &Progress) -> &'static str {
    match progress {
        Progress::Locked(_) => "locked",
        Progress::Pending { .. } => "pending",
        Progress::Later { .. } => "later",
        Progress::Granted { .. } => "granted",
        Progress::Enrolled { .. } => "enrolled",
        Progress::Renewed { .. } => "renewed",
        _ => "other",
    }
}

async fn unlock(harness: &Harness) {
    harness.handle().registry().unlock(UnlockTerms::default(), Actor::System).await.unwrap();
}

/// The request of the device, as soon as it is there.
async fn request(harness: &Harness) -> RequestView {
    let asked = async {
        loop {
            let pending = harness.handle().registry().list(Some(StateFilter::Pending)).await.unwrap();
            if let Some(request) = pending.into_iter().next() {
                return request;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("the device asks")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_enrols_and_its_files_are_good_for_a_login() {
    let harness = start("").await;
    let directory = TempDir::new().unwrap();
    let device = device_at(&harness, "tls", directory.path());

    let (outcome, steps) = enrolled(device.clone(), Duration::ZERO).await;
    assert!(
        matches!(&outcome, Err(DeviceError::GivenUp { last, .. }) if last == "the registry is locked"),
        "{outcome:?}"
    );
    assert_eq!(steps, ["locked"]);
    let key = fs::read(device.files().key()).unwrap();
    unlock(&harness).await;
    let waiting = task::spawn(enrolled(device.clone().with_context(serde_json::json!({ "model": "P100" })), LONG));
    let asked = request(&harness).await;
    assert_eq!(asked.context, Some(serde_json::json!({ "model": "P100" })));
    harness.handle().registry().grant(asked.id, GrantTerms::default(), Actor::System).await.unwrap();
    let (outcome, steps) = waiting.await.unwrap();
    let not_after = outcome.unwrap();
    assert_eq!(steps, ["pending", "granted"]);
    assert_eq!(fs::read(device.files().key()).unwrap(), key, "the key of the first attempt");
    let files = device.files();
    for (file, mode) in [(files.key(), 0o600), (files.certificate(), 0o600), (files.trust(), 0o644)] {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode, "{}", file.display());
    }

    // A second start has nothing to do, and a lost certificate is collected again.
    let (outcome, steps) = enrolled(device.clone(), LONG).await;
    assert_eq!((outcome.unwrap(), steps), (not_after, vec!["enrolled".to_owned()]));
    fs::remove_file(device.files().certificate()).unwrap();
    let (outcome, steps) = enrolled(device.clone(), LONG).await;
    assert_eq!((outcome.unwrap(), steps), (not_after, vec!["granted".to_owned()]));

    // Somebody else's TLS library takes the files as they are.
    let config = tls_client(roots(&device.files().trust()), ANY_TLS, Some(held(device.files())));
    let mut client = Client::over(Tls::connect(harness.address("tls"), config).await.unwrap(), V5);
    let connack = client.connect(&connect(V5, "app")).await;
    assert!(!connack.reason_code.is_error(), "{connack:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_turned_down_is_told_why_and_asks_no_more() {
    let harness = start("").await;
    unlock(&harness).await;
    let directory = TempDir::new().unwrap();
    let device = device_at(&harness, "tls", directory.path());
    let waiting = task::spawn(enrolled(device.clone(), LONG));
    let asked = request(&harness).await;
    harness.handle().registry().deny(asked.id, "not ordered".into(), Actor::System).await.unwrap();
    let (outcome, _) = waiting.await.unwrap();
    let error = outcome.unwrap_err();
    assert!(matches!(&error, DeviceError::Refused { status: 403, .. }), "{error}");
    assert!(error.to_string().contains("not ordered"), "{error}");
    assert!(!device.files().certificate().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_speaks_to_nobody_but_its_broker() {
    let harness = start("").await;
    let elsewhere = start("").await;
    let directory = TempDir::new().unwrap();
    // The CA of another broker.
    let trust = fs::read(&elsewhere.broker.started().trust_bundle).unwrap();
    let address = format!("mqtts://localhost:{}", harness.address("tls").port());
    let files = Credentials::new(directory.path(), "pump-7".parse().unwrap());
    let device = Device::new(address.parse().unwrap(), &trust, files).unwrap();
    let (outcome, _) = enrolled(device, LONG).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(&error, DeviceError::Untrusted(why) if why.contains("of no CA that this device trusts")),
        "{error}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was asked: no key is kept");
    let named = format!("mqtts://127.0.0.2:{}", harness.address("tls").port());
    let device = device_at(&harness, "tls", directory.path());
    let trust = fs::read(&harness.broker.started().trust_bundle).unwrap();
    let device = Device::new(named.parse().unwrap(), &trust, device.files().clone()).unwrap();
    if let Err(DeviceError::Untrusted(why)) = enrolled(device, Duration::ZERO).await.0 {
        assert!(why.contains("is not one for `127.0.0.2`"), "{why}");
    }

    // A listener that admits no strangers.
    let (outcome, _) = enrolled(device_at(&harness, "closed", directory.path()), LONG).await;
    assert!(matches!(outcome, Err(DeviceError::Connection(_))), "{outcome:?}");
    assert!(
        Device::new(
            "mqtts://localhost".parse().unwrap(),
            b"no PEM",
            device_at(&harness, "tls", directory.path()).files().clone()
        )
        .is_err()
    );
}

/// A name that nobody can have leaves nothing behind, and a key that was there stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_refused_leaves_no_key_behind() {
    let harness = start("").await;
    unlock(&harness).await;
    let directory = TempDir::new().unwrap();
    let address = format!("mqtts://localhost:{}", harness.address("tls").port());
    let trust = fs::read(&harness.broker.started().trust_bundle).unwrap();
    for (name, status) in [("admin", 400), (TESTER, 409)] {
        let files = Credentials::new(directory.path(), name.parse().unwrap());
        let device = Device::new(address.parse().unwrap(), &trust, files).unwrap();
        let (outcome, _) = enrolled(device, LONG).await;
        assert!(matches!(&outcome, Err(DeviceError::Refused { status: it, .. }) if *it == status), "{outcome:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{name}");
    }
    let files = Credentials::new(directory.path(), "admin".parse().unwrap());
    let text = rcgen::KeyPair::generate().unwrap().serialize_pem();
    fs::write(files.key(), &text).unwrap();
    let device = Device::new(address.parse().unwrap(), &trust, files.clone()).unwrap();
    assert!(enrolled(device, LONG).await.0.is_err());
    assert_eq!(fs::read_to_string(files.key()).unwrap(), text);
}

fn records(harness: &Harness) -> Vec<CertificateRecord> {
    let name = "pump-7".parse().unwrap();
    harness.users().policy().user_named(&name).unwrap().certificates.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_takes_the_place_of_the_old_pair_which_is_retired() {
    let harness = start("").await;
    unlock(&harness).await;
    let directory = TempDir::new().unwrap();
    let device = device_at(&harness, "tls", directory.path());
    let waiting = task::spawn(enrolled(device.clone(), LONG));
    let asked = request(&harness).await;
    harness.handle().registry().grant(asked.id, GrantTerms::default(), Actor::System).await.unwrap();
    waiting.await.unwrap().0.unwrap();
    let old = fs::read(device.files().key()).unwrap();

    let (again, files) = (device.clone(), device.files().clone());
    task::spawn_blocking(move || again.renew(LONG, &mut |_| ())).await.unwrap().unwrap();
    assert_ne!(fs::read(files.key()).unwrap(), old);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "key, certificate and bundle");
    assert_eq!(records(&harness).len(), 2);
    // By the connection that showed the new one to be good.
    let retired = async {
        while records(&harness).iter().filter(|it| it.revoked_at.is_none()).count() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, retired).await.expect("the old certificate is retired");
    assert_eq!(enrolled(device, LONG).await.1, ["enrolled"]);
}

/// The device asked to renew and lost its power before the answer: it asks the very same again.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_answer_was_lost_is_asked_again_and_gets_the_same_certificate() {
    let harness = start("").await;
    let directory = TempDir::new().unwrap();
    let (secret, _) = harness.handle().registry().create_token(TokenTerms::default(), Actor::System).await.unwrap();
    let device = device_at(&harness, "tls", directory.path()).with_token(secret);
    enrolled(device.clone(), LONG).await.0.unwrap();
    let files = device.files().clone();

    let (key, csr) = request_for("pump-7");
    let config = tls_client(roots(&files.trust()), ANY_TLS, Some(held(&files)));
    let mut client = Client::over(Tls::connect(harness.address("tls"), config).await.unwrap(), V5);
    assert!(!client.connect(&connect(V5, "cut-off")).await.reason_code.is_error());
    client.subscribe("$registry/renew/response", Q1).await;
    client.publish("$registry/renew", &serde_json::json!({ "csr": csr }).to_string(), Q1).await;
    let answer: serde_json::Value = serde_json::from_str(text_of(&client.expect_publish().await)).unwrap();
    assert_eq!(answer["status"], 201, "{answer}");
    fs::write(directory.path().join("pump-7.key.new"), key.serialize_pem()).unwrap();
    fs::write(directory.path().join("pump-7.csr.new"), csr).unwrap();

    task::spawn_blocking(move || device.renew(LONG, &mut |_| ())).await.unwrap().unwrap();
    let kept = fs::read_to_string(files.certificate()).unwrap();
    assert!(kept.starts_with(answer["certificate"].as_str().unwrap()), "the certificate of the lost answer");
    assert_eq!(records(&harness).len(), 2, "no other was issued");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "key, certificate and bundle");
}

/// What the device shows to others.
pub(crate) fn held(files: &Credentials) -> Identity {
    let chain = pem(&fs::read(files.certificate()).unwrap()).into_iter().map(Into::into).collect();
    Identity { chain, key: pem(&fs::read(files.key()).unwrap()).remove(0).try_into().unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_lapsed_is_renewed_by_its_key() {
    let harness = start("").await;
    let end = jiff::Timestamp::now() - Duration::from_hours(1);
    let lapsed = issue_until(&harness.path().join("certs"), "pump-7", end);
    let record = record_of(&harness.path().join("certs"), &lapsed);
    let user = harness.user_with("pump-7", |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.certificates = vec![record];
    });
    let directory = TempDir::new().unwrap();
    let device = device_at(&harness, "tls", directory.path());
    fs::write(device.files().key(), portcullis::pki::pem("PRIVATE KEY", lapsed.key.secret_der())).unwrap();
    fs::write(device.files().certificate(), portcullis::pki::pem("CERTIFICATE", &lapsed.chain[0])).unwrap();

    let (outcome, steps) = enrolled(device.clone(), LONG).await;
    assert!(outcome.unwrap() > jiff::Timestamp::now());
    assert_eq!(steps, ["renewed"]);
    assert_eq!(enrolled(device.clone(), LONG).await.1, ["enrolled"]);

    // Revoked, it is renewed no more, and what the device has stays.
    harness.change(user, |user| {
        for certificate in &mut user.certificates {
            certificate.revoked_at.get_or_insert(jiff::Timestamp::now());
        }
    });
    let (again, key) = (device.clone(), fs::read(device.files().key()).unwrap());
    let refused = task::spawn_blocking(move || again.renew(LONG, &mut |_| ())).await.unwrap();
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(fs::read(device.files().key()).unwrap(), key);
}

fn pem(text: &[u8]) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(text).map(|block| block.unwrap().contents).collect()
}

//! A device as a service: what its trust goes through, when it renews, what it outlives and what ends it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use portcullis::{
    access::{Auth, RevocationReason},
    device::{Credentials, Device},
    directory::Actor,
    pki::pem,
    registry::{GrantTerms, StateFilter, TokenTerms, UnlockTerms},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task, time::timeout};

use crate::{
    certificates::{
        ANY_TLS, Identity, authority, issue_now, issue_until, parameters, record, record_of, roots, tls_client,
    },
    client::{Client, PATIENCE, Tls, V5, connect},
    device::held,
    harness::{Harness, PLAIN_LISTENER, TLS_LISTENER},
    https::Https,
};

const LONG: Duration = Duration::from_secs(60);

/// `portcullis device keep`, ended with the test.
struct Kept {
    child: Child,
    said: mpsc::UnboundedReceiver<Value>,
}

impl Kept {
    fn start(harness: &Harness, directory: &Path, more: &[&str]) -> Self {
        let address = format!("mqtts://localhost:{}", harness.address("tls").port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["--json", "device", "keep", "pump-7", "--broker", &address, "--directory"]).arg(directory);
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, said) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if tell.send(serde_json::from_str(&line).unwrap()).is_err() {
                    break;
                }
            }
        });
        Self { child, said }
    }

    /// Waits until it says that it has come so far, whatever it says before.
    async fn until(&mut self, state: &str) -> Value {
        let mut before = Vec::new();
        let found = timeout(PATIENCE, async {
            while let Some(said) = self.said.recv().await {
                if said["state"] == state {
                    return Some(said);
                }
                before.push(said);
            }
            None
        });
        match found.await {
            Ok(Some(said)) => said,
            ended => panic!("it does not say `{state}` ({ended:?}), but {before:?}"),
        }
    }

    /// With SIGTERM.
    fn stop(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// How it ended, and its last words.
    async fn end(mut self) -> (ExitStatus, String) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let words = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
                return (status, words);
            }
            assert!(tokio::time::Instant::now() < deadline, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(config: &str) -> Harness {
    Harness::start_with_listeners(&format!("{PLAIN_LISTENER}{TLS_LISTENER}{config}")).await
}

fn files(directory: &Path) -> Credentials {
    Credentials::new(directory, "pump-7".parse().unwrap())
}

async fn token(harness: &Harness) -> String {
    let (token, _) = harness.handle().registry().create_token(TokenTerms::default(), Actor::System).await.unwrap();
    token.expose_secret().to_owned()
}

/// Puts a certificate that was made by hand on the record and on the disk.
fn equip(harness: &Harness, files: &Credentials, identity: &Identity) {
    let record = record_of(&harness.path().join("certs"), identity);
    harness.user_with("pump-7", |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.certificates = vec![record];
    });
    fs::write(files.key(), pem("PRIVATE KEY", identity.key.secret_der())).unwrap();
    fs::write(files.certificate(), pem("CERTIFICATE", &identity.chain[0])).unwrap();
}

/// How many certificates are in a file.
fn anchors(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().matches("-----BEGIN CERTIFICATE-----").count()
}

/// Waits for something that is seen from outside.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A broker whose own certificate is the operator's, of a CA that issues nothing else; and that CA.
async fn start_with_foreign_certificate() -> (Harness, String) {
    let directory = TempDir::new().unwrap();
    let (ca, issuer) = authority("Plant servers", 0, None);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut leaf = parameters("broker");
    leaf.subject_alt_names = vec![rcgen::SanType::DnsName("localhost".try_into().unwrap())];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    fs::write(directory.path().join("own.pem"), leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    portcullis::files::write_new(&directory.path().join("own.key"), key.serialize_pem().as_bytes(), 0o600).unwrap();
    let config = format!("[tls]\ncertificate = \"own.pem\"\nkey = \"own.key\"\n{PLAIN_LISTENER}{TLS_LISTENER}");
    (Harness::start_in(directory, &config).await, ca)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_certificate_of_another_ca_is_known_for_good() {
    let (harness, ca) = start_with_foreign_certificate().await;
    let directory = TempDir::new().unwrap();
    let files = files(directory.path());
    let operators = directory.path().join("ca.pem");
    fs::write(&operators, &ca).unwrap();
    let address: portcullis::device::Address =
        format!("mqtts://localhost:{}", harness.address("tls").port()).parse().unwrap();
    let device = Device::trusting(address.clone(), &operators, files.clone()).unwrap();
    let device = device.with_token(token(&harness).await);
    let enrolling = device.clone();
    task::spawn_blocking(move || enrolling.enrol(LONG, &mut |_| ())).await.unwrap().unwrap();
    assert_eq!(anchors(&files.trust()), 2, "the CA that issues, and the one that verified the broker");

    // With the operator's file, without it, and with an issuer's bundle that does not verify the broker.
    let renew = |device: Device| async move {
        task::spawn_blocking(move || device.renew(LONG, &mut |_| ())).await.unwrap().unwrap();
    };
    renew(device).await;
    assert_eq!(fs::read_to_string(&operators).unwrap(), ca, "the operator's file is never written");
    let aside = directory.path().join("aside.pem");
    fs::rename(&operators, &aside).unwrap();
    renew(Device::trusting(address.clone(), &operators, files.clone()).unwrap()).await;
    let issuers = fs::read(&harness.broker.started().trust_bundle).unwrap();
    renew(Device::new(address, &issuers, files.clone()).unwrap()).await;
    assert_eq!(anchors(&files.trust()), 2);

    // As in the service of the manual: it knows its broker by what it has learned.
    let mut kept = Kept::start(&harness, directory.path(), &[]);
    kept.until("connected").await;
    kept.stop();
    let (status, words) = kept.end().await;
    assert!(status.success(), "{status}: {words}");
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", aside.to_str().unwrap()]);
    kept.until("connected").await;
    assert_eq!(fs::read_to_string(&aside).unwrap(), ca);
}

/// Rotated, renewed and retired under a service that was told the old CA once, in a file that nobody changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_device_lives_through_a_change_of_the_ca() {
    let harness = Harness::start_rest(TLS_LISTENER).await;
    harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
    let directory = TempDir::new().unwrap();
    let files = files(directory.path());
    let operators = directory.path().join("ca.pem");
    let old_root = fs::read_to_string(&harness.broker.started().trust_bundle).unwrap();
    fs::write(&operators, &old_root).unwrap();
    // A certificate draws its moment for an invitation: here one that is soon, long before it is due.
    let certs = harness.path().join("certs");
    let identity = loop {
        let identity = issue_now(&certs, "pump-7", Duration::from_hours(1));
        if record(&identity).fingerprint.starts_with("00") {
            break identity;
        }
    };
    let old = Https::to(&harness).await.get("operator", "/api/ca").await.body["key_identifier"].clone();
    equip(&harness, &files, &identity);

    let mut kept = Kept::start(&harness, directory.path(), &[]);
    kept.until("connected").await;
    assert_eq!(anchors(&files.trust()), 1);
    let rotated = Https::to(&harness).await.call("operator", "POST", "/api/ca/rotate", &json!({})).await;
    assert_eq!(rotated.status.as_u16(), 200, "{}", rotated.body);
    eventually("the new root is pushed to the device", || anchors(&files.trust()) == 2).await;
    // Invited, it renews, and the old certificate is retired.
    kept.until("renewed").await;
    kept.until("connected").await;
    let retire = format!("/api/ca/issuers/{}/retire", old.as_str().unwrap());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let retired = Https::to(&harness).await.call("operator", "POST", &retire, &json!({})).await;
        if retired.status.as_u16() == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", retired.body);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Its connection ends, and the next one is to a broker with a certificate of the new CA.
    let new_root = fs::read_to_string(&harness.broker.started().trust_bundle).unwrap();
    assert!(!new_root.contains(&old_root));
    let take_over = || async {
        let config = tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, Some(held(&files)));
        Tls::connect(harness.address("tls"), config).await
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let stream = loop {
        // The broker's own certificate follows in a moment.
        match take_over().await {
            Ok(stream) => break stream,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut other = Client::over(stream, V5);
    assert!(!other.connect(&connect(V5, "pump-7~renewal")).await.reason_code.is_error());
    let said = kept.until("later").await;
    assert!(said["message"].as_str().unwrap().contains("SessionTakenOver"), "{said}");
    kept.until("connected").await;
    assert_eq!(fs::read_to_string(files.trust()).unwrap(), new_root, "what is retired is trusted no more");
    assert_eq!(fs::read_to_string(&operators).unwrap(), old_root, "but for what the operator says");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_device_enrols_renews_when_it_is_due_and_stops_on_a_signal() {
    let harness = start("").await;
    harness.handle().registry().unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let directory = TempDir::new().unwrap();
    let trust = harness.broker.started().trust_bundle.display().to_string();
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", &trust]);
    kept.until("pending").await;
    // Stopped while it waits, it goes on with the same key.
    let key = fs::read(files(directory.path()).key()).unwrap();
    kept.stop();
    let (status, words) = kept.end().await;
    assert!(status.success(), "{status}: {words}");
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", &trust]);
    kept.until("pending").await;
    let registry = harness.handle().registry().clone();
    let pending = registry.list(Some(StateFilter::Pending)).await.unwrap();
    registry.grant(pending[0].id, GrantTerms::default(), Actor::System).await.unwrap();
    kept.until("granted").await;
    assert_eq!(fs::read(files(directory.path()).key()).unwrap(), key);
    kept.until("connected").await;
    kept.stop();
    let (status, words) = kept.end().await;
    assert!(status.success(), "{status}: {words}");

    // More than two thirds of its life are over.
    let harness = start("").await;
    let directory = TempDir::new().unwrap();
    let trust = harness.broker.started().trust_bundle.display().to_string();
    let aged = issue_until(&harness.path().join("certs"), "pump-7", jiff::Timestamp::now() + LONG * 60);
    let files = files(directory.path());
    equip(&harness, &files, &aged);
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", &trust]);
    kept.until("enrolled").await;
    kept.until("renewed").await;
    kept.until("connected").await;
    assert_ne!(held(&files).chain, aged.chain);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "key, certificate and bundle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_device_that_is_turned_down_or_revoked_says_so_and_ends() {
    let harness = start("").await;
    let registry = harness.handle().registry().clone();
    registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let directory = TempDir::new().unwrap();
    let trust = harness.broker.started().trust_bundle.display().to_string();
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", &trust]);
    kept.until("pending").await;
    let pending = registry.list(Some(StateFilter::Pending)).await.unwrap();
    registry.deny(pending[0].id, "not ordered".into(), Actor::System).await.unwrap();
    let (status, words) = kept.end().await;
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("the registry refuses (403 denied)") && words.contains("not ordered"), "{words}");

    let harness = start("").await;
    let trust = harness.broker.started().trust_bundle.display().to_string();
    let directory = TempDir::new().unwrap();
    let identity = issue_now(&harness.path().join("certs"), "pump-7", Duration::from_hours(1));
    equip(&harness, &files(directory.path()), &identity);
    let mut kept = Kept::start(&harness, directory.path(), &["--ca", &trust]);
    kept.until("connected").await;
    let user = harness.users().policy().user_named(&"pump-7".parse().unwrap()).unwrap().id;
    harness.change(user, |user| {
        for certificate in &mut user.certificates {
            certificate.revoked_at = Some(jiff::Timestamp::now());
            certificate.reason = Some(RevocationReason::KeyCompromise);
        }
    });
    kept.until("later").await;
    let (status, words) = kept.end().await;
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("the broker refuses the connection") && words.contains("revoked"), "{words}");
    assert_eq!(held(&files(directory.path())).chain, identity.chain, "what it has stays");
}

/// Somebody else answers at the broker's address, and then the broker again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_device_outlives_somebody_who_is_not_its_broker() {
    let harness = start("").await;
    let elsewhere = start("").await;
    let directory = TempDir::new().unwrap();
    let identity = issue_now(&harness.path().join("certs"), "pump-7", Duration::from_hours(1));
    equip(&harness, &files(directory.path()), &identity);
    let trust = directory.path().join("ca.pem");
    // The operator's file names another broker; what it says is read again for each connection.
    fs::copy(&elsewhere.broker.started().trust_bundle, &trust).unwrap();
    let mut kept = Kept::start(&harness, directory.path(), &[]);
    let said = kept.until("later").await;
    assert!(said["message"].as_str().unwrap().contains("this device does not trust the broker"), "{said}");
    fs::copy(&harness.broker.started().trust_bundle, &trust).unwrap();
    kept.until("connected").await;
    drop(kept);

    // Before it is enrolled this ends it: the wrong file was named.
    let bare = TempDir::new().unwrap();
    let other = elsewhere.broker.started().trust_bundle.display().to_string();
    let (status, words) = Kept::start(&harness, bare.path(), &["--ca", &other]).end().await;
    assert_eq!(status.code(), Some(1));
    assert!(words.contains("this device does not trust the broker"), "{words}");
    assert_eq!(fs::read_dir(bare.path()).unwrap().count(), 0);
}

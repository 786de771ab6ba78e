//! The certificate authority: an operator's, with its chain, and whom it makes a client of.

use std::{fs, path::Path};

use portcullis::{
    access::{Auth, CertificateRecord},
    directory::Actor,
    mqtt::{Packet, ProtocolVersion, ReasonCode},
    registry::{GrantTerms, UnlockTerms},
};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    certificates::{ANY_TLS, Identity, authority, identity, issue, issue_by, record, request, roots, tls_client},
    client::{Client, Q1, Received, Tls, V5, V311, connect, text_of},
    harness::{Harness, allow},
};

const LISTENERS: &str = r#"
[[listener]]
name = "tls"
bind = "127.0.0.1:0"
tls = true
client_certificate = "optional"
registration = true
[[listener]]
name = "strict"
bind = "127.0.0.1:0"
tls = true
client_certificate = "required"
"#;

/// A root, a CA below it that the broker gets, and another one below it that it does not get.
struct Corporation {
    root: String,
    root_issuer: rcgen::Issuer<'static, KeyPair>,
    sibling: (String, rcgen::Issuer<'static, KeyPair>),
    intermediate: String,
}

impl Corporation {
    /// Writes what the broker gets.
    fn at(home: &Path) -> Self {
        let (root, root_issuer) = authority("Corp Root", 1, None);
        let (intermediate, issuer) = authority("Plant 4", 0, Some(&root_issuer));
        let sibling = authority("Plant 5", 0, Some(&root_issuer));
        let certs = home.join("certs");
        fs::create_dir(&certs).unwrap();
        fs::write(certs.join("ca.pem"), format!("{intermediate}{root}")).unwrap();
        fs::write(certs.join("ca.key"), issuer.key().serialize_pem()).unwrap();
        fs::write(home.join("root.pem"), &root).unwrap();
        Self { root, root_issuer, sibling, intermediate }
    }
}

/// A connection of a device that trusts what is in this file, and nothing else.
async fn over_tls(
    harness: &Harness,
    listener: &str,
    trust: &Path,
    version: ProtocolVersion,
    identity: Option<Identity>,
) -> std::io::Result<Client> {
    let tls = Tls::connect(harness.address(listener), tls_client(roots(trust), ANY_TLS, identity)).await?;
    Ok(Client::over(tls, version))
}

/// The code of the CONNACK; `None`: the handshake was refused, or the connection ended with it.
async fn login(harness: &Harness, listener: &str, trust: &Path, identity: &Identity) -> Option<ReasonCode> {
    let mut client = over_tls(harness, listener, trust, V5, Some(identity.clone())).await.ok()?;
    client.try_send(Packet::Connect(Box::new(connect(V5, "c")))).await.ok()?;
    match client.read().await {
        Received::Packet(Packet::ConnAck(connack)) => Some(connack.reason_code),
        Received::Packet(other) => panic!("CONNACK expected, not {other:?}"),
        Received::Closed => None,
    }
}

async fn ask(client: &mut Client, operation: &str, message: &Value) -> Value {
    client.subscribe(&format!("$registry/{operation}/response"), Q1).await;
    client.publish(&format!("$registry/{operation}"), &message.to_string(), Q1).await;
    serde_json::from_str(text_of(&client.expect_publish().await)).unwrap()
}

fn with_certificate(harness: &Harness, name: &str, record: CertificateRecord) {
    harness.user_with(name, |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.certificates = vec![record];
        user.permissions = vec![allow("#")];
    });
}

/// Devices trust the root alone; the broker shows its chain, and hands it out with what it issues.
#[tokio::test]
async fn an_operators_intermediate_serves_devices_that_trust_its_root_alone() {
    let home = TempDir::new().unwrap();
    let corporation = Corporation::at(home.path());
    let harness = Harness::start_in(home, LISTENERS).await;
    let trust = harness.path().join("root.pem");

    let mut device = over_tls(&harness, "tls", &trust, V5, None).await.expect("the chain is shown");
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    assert_eq!(ask(&mut device, "ca", &json!({})).await["ca"], corporation.root.replace("\r\n", "\n"));
    harness.handle().registry().unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let (key, csr) = request("pump-7");
    let message = json!({ "username": "pump-7", "csr": csr });
    assert_eq!(ask(&mut device, "register", &message).await["status"], 202);
    let registry = harness.handle().registry().clone();
    let id = registry.list(None).await.unwrap()[0].id;
    registry.grant(id, GrantTerms::default(), Actor::System).await.unwrap();
    let granted: Value = serde_json::from_str(text_of(&device.expect_publish().await)).unwrap();
    assert_eq!(granted["chain"], corporation.intermediate.replace("\r\n", "\n"));
    assert_eq!(granted["ca"], corporation.root.replace("\r\n", "\n"));

    let der = CertificateDer::from_pem_slice(granted["certificate"].as_str().unwrap().as_bytes()).unwrap();
    let alone = identity(&der, &key);
    let mut chained = alone.clone();
    chained.chain.push(CertificateDer::from_pem_slice(corporation.intermediate.as_bytes()).unwrap());
    for version in [V311, V5] {
        for identity in [&alone, &chained] {
            for listener in ["tls", "strict"] {
                let client = over_tls(&harness, listener, &trust, version, Some(identity.clone())).await;
                let connack = client.unwrap().connect(&connect(version, "c")).await;
                assert_eq!(connack.reason_code, ReasonCode::Success);
            }
        }
    }
}

/// The root has other CAs below it: what they, or the root itself, say of a name is nothing to this broker.
#[tokio::test]
async fn another_ca_of_the_same_root_makes_nobody_a_client() {
    let home = TempDir::new().unwrap();
    let corporation = Corporation::at(home.path());
    let harness = Harness::start_in(home, LISTENERS).await;
    let trust = harness.path().join("root.pem");

    let (own, issued) = issue(&harness.path().join("certs"), "pump-7");
    with_certificate(&harness, "pump-7", issued.record());
    assert_eq!(login(&harness, "strict", &trust, &own).await, Some(ReasonCode::Success));

    let mut cousin = issue_by("pump-7", &corporation.sibling.1);
    cousin.chain.push(CertificateDer::from_pem_slice(corporation.sibling.0.as_bytes()).unwrap());
    let of_the_root = issue_by("pump-7", &corporation.root_issuer);
    for stranger in [cousin, of_the_root] {
        for listener in ["tls", "strict"] {
            assert_eq!(login(&harness, listener, &trust, &stranger).await, None);
        }
        // Not even if somebody has put it on record.
        let record = record(&stranger);
        let user = harness.users().policy().user_named(&"pump-7".parse().unwrap()).unwrap().id;
        harness.change(user, move |user| user.certificates.push(record));
        assert_eq!(login(&harness, "strict", &trust, &stranger).await, None);
    }
}

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
    harness::{Harness, STRICT_LISTENER, TLS_LISTENER, allow},
    https::{self, Https, api},
};

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
    let harness = Harness::start_in(home, &format!("{TLS_LISTENER}{STRICT_LISTENER}")).await;
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
    let harness = Harness::start_in(home, &format!("{TLS_LISTENER}{STRICT_LISTENER}")).await;
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

/// A partner's root, in a file for `[[ca.trust]]`, with the lines that name it.
fn partner(home: &Path, names: &str) -> (rcgen::Issuer<'static, KeyPair>, String) {
    let (root, issuer) = authority("Partner Root", 1, None);
    fs::write(home.join("partner.pem"), root).unwrap();
    let path = home.join("partner.pem");
    (issuer, format!("\n[[ca.trust]]\ncertificate = \"{}\"\nusername = \"{names}\"\n", path.display()))
}

fn without_record(harness: &Harness, name: &str, roles: &[&str]) -> portcullis::access::UserId {
    harness.user_with(name, |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.roles = roles.iter().map(|role| role.parse().unwrap()).collect();
        user.permissions = vec![allow("#")];
    })
}

#[tokio::test]
async fn a_partners_certificates_log_in_under_their_names_and_under_no_other() {
    let home = TempDir::new().unwrap();
    let (partner, lines) = partner(home.path(), "partner-*");
    let harness = Harness::start_in(home, &format!("{TLS_LISTENER}{STRICT_LISTENER}{lines}")).await;
    let trust = harness.broker.started().trust_bundle.clone();
    for (name, roles) in [("partner-1", &[][..]), ("partner-2", &[]), ("press-7", &[]), ("partner-root", &["admin"])] {
        without_record(&harness, name, roles);
    }
    let (plant, plant_issuer) = authority("Partner Plant", 0, Some(&partner));
    let mut below = issue_by("partner-2", &plant_issuer);
    below.chain.push(CertificateDer::from_pem_slice(plant.as_bytes()).unwrap());
    let mut outside = issue_by("press-7", &plant_issuer);
    outside.chain.push(CertificateDer::from_pem_slice(plant.as_bytes()).unwrap());
    let wrong = Some(ReasonCode::BadUserNameOrPassword);
    let pinned = issue_by("partner-root", &partner);
    for listener in ["tls", "strict"] {
        for (identity, code) in [
            (&issue_by("partner-1", &partner), Some(ReasonCode::Success)),
            (&below, Some(ReasonCode::Success)),
            (&outside, wrong),
            (&issue_by("press-7", &partner), wrong),
            (&issue_by("partner-9", &partner), wrong),
            (&pinned, wrong),
        ] {
            assert_eq!(login(&harness, listener, &trust, identity).await, code);
        }
        // The broker's own CA has signed it, and it is on nobody's record: its name is in the pattern, which is for the partner.
        let (unrecorded, _) = issue(&harness.path().join("certs"), "partner-1");
        assert_eq!(login(&harness, listener, &trust, &unrecorded).await, wrong);
    }

    // An administrator has the certificate pinned; when it is revoked, the session ends.
    let root = harness.users().policy().user_named(&"partner-root".parse().unwrap()).unwrap().id;
    let known = record(&pinned);
    harness.change(root, move |user| user.certificates.push(known));
    let mut live = over_tls(&harness, "tls", &trust, V5, Some(pinned.clone())).await.unwrap();
    assert_eq!(live.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);
    harness.change(root, |user| user.certificates[0].revoked_at = Some(jiff::Timestamp::now()));
    live.expect_ended(ReasonCode::NotAuthorized).await;
    assert_eq!(login(&harness, "tls", &trust, &pinned).await, wrong);

    // Who becomes an administrator is none by the word of a partner, from that moment.
    let one = harness.users().policy().user_named(&"partner-1".parse().unwrap()).unwrap().id;
    let mut live = over_tls(&harness, "tls", &trust, V5, Some(issue_by("partner-1", &partner))).await.unwrap();
    assert_eq!(live.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);
    harness.change(one, |user| user.roles.push("admin".parse().unwrap()));
    live.expect_ended(ReasonCode::NotAuthorized).await;
}

/// The API is no back door for a partner, and an administrator pins a certificate there.
#[tokio::test]
async fn over_https_a_partner_is_held_to_the_same() {
    let home = TempDir::new().unwrap();
    let (partner, lines) = partner(home.path(), "*");
    let harness = Harness::start_rest(&lines).await;
    without_record(&harness, "partner-root", &["admin"]);
    harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
    let identity = issue_by("partner-root", &partner);
    let pem = portcullis::pki::pem("CERTIFICATE", &identity.chain[0]);
    let as_partner = async || {
        let mut https = Https::connect(api(&harness), https::config(&harness, Some(identity.clone()))).await;
        https.send("GET", "/api/ca", &[], "").await
    };
    assert_eq!(as_partner().await.problem(), (401, "unauthenticated"));

    let mut operator = Https::to(&harness).await;
    let path = "/api/users/partner-root/certificates";
    let own = issue(&harness.path().join("certs"), "partner-root").1;
    let other = portcullis::pki::pem("CERTIFICATE", &issue_by("partner-1", &partner).chain[0]);
    for (certificate, word) in [
        ("nothing", "not exactly one"),
        (&*format!("{pem}{pem}"), "not exactly one"),
        (&other, "common name"),
        (own.pem(), "the broker's own CA"),
    ] {
        let refused = operator.call("operator", "POST", path, &json!({ "certificate": certificate })).await;
        assert_eq!(refused.problem().0, 422, "{}", refused.body);
        assert!(refused.body["detail"].as_str().unwrap().contains(word), "{}", refused.body);
    }
    let pinned = operator.call("operator", "POST", path, &json!({ "certificate": pem, "comment": "by hand" })).await;
    assert_eq!((pinned.status.as_u16(), &pinned.body["certificates"][0]["comment"]), (200, &json!("by hand")));
    assert_eq!(operator.call("operator", "POST", path, &json!({ "certificate": pem })).await.problem().0, 409);

    let shown = as_partner().await;
    assert_eq!((shown.status.as_u16(), &shown.body["trust"][0]["username"]), (200, &json!("*")), "{}", shown.body);
}

/// The root above the broker's CA is trusted for certificates of others. The key of the CA is stolen, and signs for a user who exists.
#[tokio::test]
async fn a_stolen_key_logs_nobody_in_by_a_further_anchor_above_it_before_and_after_its_end() {
    let home = TempDir::new().unwrap();
    let corporation = Corporation::at(home.path());
    let key = KeyPair::from_pem(&fs::read_to_string(home.path().join("certs/ca.key")).unwrap()).unwrap();
    let stolen = rcgen::Issuer::from_ca_cert_pem(&corporation.intermediate, key).unwrap();
    let root = home.path().join("root.pem");
    let trusted = format!("[[ca.trust]]\ncertificate = \"{}\"\nusername = \"line-*\"\n", root.display());
    let line = format!("{TLS_LISTENER}\n{trusted}");
    let harness = Harness::start_rest_in(home, &line).await;
    let trust = harness.path().join("root.pem");
    for name in ["line-7", "line-8"] {
        without_record(&harness, name, &[]);
    }
    harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
    let with = |mut identity: Identity, pem: &str| {
        identity.chain.push(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
        identity
    };
    let forged = with(issue_by("line-7", &stolen), &corporation.intermediate);
    let honest = with(issue_by("line-8", &corporation.sibling.1), &corporation.sibling.0);
    // A deleted user's certificate, which is of the same CA and still good.
    let (leftover, _) = issue(&harness.path().join("certs"), "line-7");
    let leftover = with(leftover, &corporation.intermediate);
    let none_gets_in = async |when: &str| {
        for identity in [&forged, &leftover] {
            let code = login(&harness, "tls", &trust, identity).await;
            assert_ne!(code, Some(ReasonCode::Success), "{when}");
        }
        assert_eq!(login(&harness, "tls", &trust, &honest).await, Some(ReasonCode::Success), "{when}");
    };
    none_gets_in("while it issues").await;

    let mut operator = Https::connect(api(&harness), tls_client(roots(&trust), ANY_TLS, None)).await;
    let id = operator.get("operator", "/api/ca").await.body["key_identifier"].as_str().unwrap().to_owned();
    let request = operator.call("operator", "POST", "/api/ca/csr", &json!({ "common_name": "Plant 6" })).await;
    let mut csr = rcgen::CertificateSigningRequestParams::from_pem(request.body["csr"].as_str().unwrap()).unwrap();
    csr.params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    csr.params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let next = csr.signed_by(&corporation.root_issuer).unwrap().pem();
    let certificates = json!({ "certificates": format!("{next}{}", corporation.root) });
    let imported = operator.call("operator", "POST", "/api/ca/import", &certificates).await;
    assert_eq!(imported.status.as_u16(), 200, "{}", imported.body);
    none_gets_in("while it is the former one").await;
    let retired = operator.call("operator", "POST", &format!("/api/ca/issuers/{id}/retire"), &json!({})).await;
    assert_eq!(retired.status.as_u16(), 200, "{}", retired.body);
    none_gets_in("when it is retired").await;
    let revoked = operator.call("operator", "POST", &format!("/api/ca/issuers/{id}/revoke"), &json!({})).await;
    assert_eq!(
        revoked.status.as_u16(),
        200,
        "what was an issuer of ours can be revoked after its end: {}",
        revoked.body
    );
    none_gets_in("when it is revoked").await;
}

/// A right to change something over HTTP, be it by a role of the operator's own, is not for the word of a partner.
#[tokio::test]
async fn a_partner_logs_in_nobody_who_may_write_over_http() {
    use portcullis::access::{Context, Operation, Permission};

    let home = TempDir::new().unwrap();
    let (partner, lines) = partner(home.path(), "partner-*");
    let harness = Harness::start_in(home, &format!("{TLS_LISTENER}{lines}")).await;
    let trust = harness.broker.started().trust_bundle.clone();
    let http = |operation| Permission::allow(Context::Http, operation, "/api/users/+");
    harness.role("clerk", vec![http(Operation::Read)]);
    let one = without_record(&harness, "partner-1", &[]);
    let two = without_record(&harness, "partner-2", &["clerk"]);
    for (name, user) in [("partner-1", one), ("partner-2", two)] {
        let identity = issue_by(name, &partner);
        harness.change(user, move |user| user.permissions.push(http(Operation::Read)));
        let mut live = over_tls(&harness, "tls", &trust, V5, Some(identity.clone())).await.unwrap();
        assert_eq!(live.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success, "who may only look");
        if user == one {
            harness.change(user, move |user| user.permissions.push(http(Operation::Write)));
        } else {
            harness.role("clerk", vec![http(Operation::ReadWrite)]);
        }
        live.expect_ended(ReasonCode::NotAuthorized).await;
        assert_eq!(login(&harness, "tls", &trust, &identity).await, Some(ReasonCode::BadUserNameOrPassword));
        let record = record(&identity);
        harness.change(user, move |user| user.certificates.push(record));
        assert_eq!(login(&harness, "tls", &trust, &identity).await, Some(ReasonCode::Success), "pinned");
    }
}

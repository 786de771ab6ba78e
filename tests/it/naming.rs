//! Whose a certificate is, where a URI says it: `ca.identity = "san_uri"`, for certificates of others and for the broker's own.

use std::{fs, time::Duration};

use jiff::Timestamp;
use portcullis::{
    access::{Auth, Username},
    directory::Actor,
    mqtt::{Connect, Packet, ProtocolVersion, ReasonCode},
    pki::{PeerCertificate, VerifiedCsr},
    registry::{GrantTerms, UnlockTerms},
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType, SigningKey as _, string::Ia5String};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit,
    certificates::{
        ANY_TLS, Identity, authority, identity, issue, issue_until, parameters, record, request, roots, tls_client,
    },
    client::{Client, Q1, Received, Tls, V5, V311, connect, text_of},
    harness::{Harness, PASSWORD, TLS_LISTENER, allow},
    https::{self, Https, api},
};

const PREFIX: &str = "spiffe://plant.example/device/";

fn own(identity: &str) -> String {
    format!("[ca]\nidentity = \"{identity}\"\nuri_prefix = \"{PREFIX}\"\n{TLS_LISTENER}")
}

async fn over_tls(harness: &Harness, version: ProtocolVersion, identity: Option<Identity>) -> std::io::Result<Client> {
    let trust = roots(&harness.broker.started().trust_bundle);
    Ok(Client::over(Tls::connect(harness.address("tls"), tls_client(trust, ANY_TLS, identity)).await?, version))
}

/// The code of the CONNACK; `None`: the handshake was refused.
async fn login_as(harness: &Harness, identity: &Identity, connect: Connect) -> Option<ReasonCode> {
    let mut client = over_tls(harness, connect.version, Some(identity.clone())).await.ok()?;
    client.try_send(Packet::Connect(Box::new(connect))).await.ok()?;
    match client.read().await {
        Received::Packet(Packet::ConnAck(connack)) => Some(connack.reason_code),
        Received::Packet(other) => panic!("CONNACK expected, not {other:?}"),
        Received::Closed => None,
    }
}

async fn login(harness: &Harness, identity: &Identity) -> Option<ReasonCode> {
    login_as(harness, identity, connect(V5, "c")).await
}

const GOOD: Option<ReasonCode> = Some(ReasonCode::Success);
const WRONG: Option<ReasonCode> = Some(ReasonCode::BadUserNameOrPassword);

async fn ask(client: &mut Client, operation: &str, message: &Value) -> Value {
    client.subscribe(&format!("$registry/{operation}/response"), Q1).await;
    client.publish(&format!("$registry/{operation}"), &message.to_string(), Q1).await;
    serde_json::from_str(text_of(&client.expect_publish().await)).unwrap()
}

/// What was granted, as the device keeps it.
fn granted(answer: &Value, key: &KeyPair) -> Identity {
    let pem = answer["certificate"].as_str().unwrap_or_else(|| panic!("{answer}"));
    identity(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), key)
}

async fn enrol(harness: &Harness, name: &str) -> Identity {
    let registry = harness.handle().registry().clone();
    registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let mut device = over_tls(harness, V5, None).await.unwrap();
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    let (key, csr) = request(name);
    assert_eq!(ask(&mut device, "register", &json!({ "username": name, "csr": csr })).await["status"], 202);
    let pending = registry.list(None).await.unwrap();
    let id = pending.iter().find(|it| it.username.as_str() == name).unwrap().id;
    registry.grant(id, GrantTerms::default(), Actor::System).await.unwrap();
    granted(&serde_json::from_str(text_of(&device.expect_publish().await)).unwrap(), &key)
}

/// The common name and the URIs of a certificate, as another parser reads them.
fn names(identity: &Identity) -> (String, Vec<String>) {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(&identity.chain[0]).unwrap();
    let names = parsed.subject_alternative_name().unwrap();
    let uris = names.iter().flat_map(|it| &it.value.general_names).map(|name| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("not asked for: {other}"),
    });
    let common_name = parsed.subject().iter_common_name().next().map_or("", |it| it.as_str().unwrap());
    (common_name.to_owned(), uris.collect())
}

fn only_by_certificate(harness: &Harness, name: &str, own: Option<&Identity>) {
    harness.user_with(name, |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
        user.certificates = own.into_iter().map(record).collect();
        user.permissions = vec![allow("#")];
    });
}

/// A certificate of a partner, with this common name and these URIs.
fn by_partner(issuer: &rcgen::Issuer<'_, KeyPair>, common_name: &str, uris: &[&str]) -> Identity {
    let mut leaf = if common_name.is_empty() { CertificateParams::default() } else { parameters(common_name) };
    if common_name.is_empty() {
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    }
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names = uris.iter().map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap())).collect();
    let key = KeyPair::generate().unwrap();
    identity(leaf.signed_by(&key, issuer).unwrap().der(), &key)
}

/// The broker's own devices go by the common name here, those of the partner by a URI of the partner.
#[tokio::test]
async fn devices_of_others_are_whom_their_only_uri_names() {
    let home = TempDir::new().unwrap();
    let (pem, partner) = authority("Partner Root", 1, None);
    fs::write(home.path().join("partner.pem"), pem).unwrap();
    let trust = "[[ca.trust]]\ncertificate = \"partner.pem\"\nusername = \"partner-*\"\nidentity = \"san_uri\"\nuri_prefix = \"spiffe://partner.example/line/\"\n";
    let harness = Harness::start_in(home, &format!("{trust}{TLS_LISTENER}")).await;
    for name in ["partner-1", "partner-2", "press-7"] {
        only_by_certificate(&harness, name, None);
    }
    let uri = "spiffe://partner.example/line/partner-1";
    let device = by_partner(&partner, "", &[uri]);
    for version in [V5, V311] {
        assert_eq!(login_as(&harness, &device, connect(version, "c")).await, GOOD);
        let named = Connect { username: Some("partner-1".into()), ..connect(version, "c") };
        assert_eq!(login_as(&harness, &device, named).await, GOOD);
        for other in ["partner-2", "Partner-1", uri] {
            let named = Connect { username: Some(other.into()), ..connect(version, "c") };
            assert_eq!(login_as(&harness, &device, named).await, WRONG, "{other}");
        }
    }
    // A subject that names somebody else names nobody here, nor does it help.
    assert_eq!(login(&harness, &by_partner(&partner, "partner-2", &[uri])).await, GOOD);
    let two = "spiffe://partner.example/line/partner-2";
    for (common_name, uris) in [
        ("partner-1", &[][..]),
        ("partner-1", &["spiffe://partner.example/line/press-7"]),
        ("partner-1", &["spiffe://partner.example/line/partner-9"]),
        ("partner-1", &["spiffe://plant.example/device/partner-1"]),
        ("partner-1", &[uri, two]),
        ("partner-1", &[two, uri]),
        ("partner-1", &[uri, uri]),
        ("partner-1", &[uri, "https://elsewhere.example/"]),
        ("partner-1", &["spiffe://partner.example/line/partner-1/"]),
        ("partner-1", &["spiffe://partner.example/line/%70artner-1"]),
        ("partner-1", &["SPIFFE://partner.example/line/partner-1"]),
        ("partner-1", &["spiffe://partner.example/line/partner-1\0"]),
        ("partner-1", &["spiffe://partner.example/line/"]),
        ("partner-1", &["partner-1"]),
    ] {
        let forged = by_partner(&partner, common_name, uris);
        assert_eq!(login(&harness, &forged).await, WRONG, "{common_name}, {uris:?}");
        // Nor with the name, and a password that would be right.
        let by_name =
            Connect { username: Some("partner-1".into()), password: Some(PASSWORD.into()), ..connect(V5, "c") };
        assert_eq!(login_as(&harness, &forged, by_name).await, WRONG, "{common_name}, {uris:?}");
    }
    // The broker's own go by the common name, and get no URI.
    let press = enrol(&harness, "pump-7").await;
    assert_eq!(names(&press), ("pump-7".to_owned(), Vec::new()));
    assert_eq!(login(&harness, &press).await, GOOD);
}

/// Set first, and asked for later.
#[tokio::test]
async fn a_prefix_alone_prepares_the_change_and_changes_nobody() {
    let harness = Harness::start_with_listeners(&own("cn")).await;
    let certs = harness.path().join("certs");
    // As it was before: without a URI.
    let (before, _) = issue(&certs, "pump-1");
    only_by_certificate(&harness, "pump-1", Some(&before));
    assert_eq!(names(&before), ("pump-1".to_owned(), Vec::new()));
    assert_eq!(login(&harness, &before).await, GOOD);
    let mut client = over_tls(&harness, V5, Some(before.clone())).await.unwrap();
    assert_eq!(client.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);
    let (key, csr) = request("pump-1");
    let renewed = granted(&ask(&mut client, "renew", &json!({ "csr": csr })).await, &key);
    assert_eq!(names(&renewed), ("pump-1".to_owned(), vec![format!("{PREFIX}pump-1")]));
    assert_eq!(login(&harness, &renewed).await, GOOD);
}

#[tokio::test]
async fn what_the_broker_issues_logs_in_by_its_uri_and_what_has_none_does_not() {
    let harness = Harness::start_with_listeners(&format!("{}[audit]\ninterval = \"1s\"\n", own("san_uri"))).await;
    let certs = harness.path().join("certs");
    let device = enrol(&harness, "pump-7").await;
    assert_eq!(names(&device), ("pump-7".to_owned(), vec![format!("{PREFIX}pump-7")]));
    assert_eq!(login(&harness, &device).await, GOOD);
    let peer = PeerCertificate::from_der(&device.chain[0]).unwrap();
    assert_eq!(peer.common_name().map(Username::as_str), Ok("pump-7"));

    // Issued before the change: on record, and yet it names nobody.
    let (before, _) = issue(&certs, "pump-1");
    only_by_certificate(&harness, "pump-1", Some(&before));
    assert_eq!(login(&harness, &before).await, WRONG);
    let export = audit::wait_for(harness.path(), "logins_failed").await;
    let failed = audit::records(&export);
    let failed = audit::of_kind(&failed, "logins_failed");
    assert_eq!(failed.iter().map(|it| it["cause"].as_str().unwrap()).collect::<Vec<_>>(), ["certificate_names_nobody"]);

    // The key of the CA in the wrong hands: what it signs is on nobody's record, whatever URI it has.
    let pem = fs::read_to_string(certs.join("ca.pem")).unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(certs.join("ca.key")).unwrap()).unwrap();
    let stolen = rcgen::Issuer::from_ca_cert_pem(&pem, key).unwrap();
    assert_eq!(login(&harness, &by_partner(&stolen, "pump-7", &[&format!("{PREFIX}pump-7")])).await, WRONG);

    // A device asks for no names, its own URI included, and gets it nevertheless.
    let mut stranger = over_tls(&harness, V5, None).await.unwrap();
    assert_eq!(stranger.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    for uri in [format!("{PREFIX}pump-8"), format!("{PREFIX}pump-7"), "urn:x".to_owned()] {
        let mut params = parameters("pump-8");
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let refused = ask(&mut stranger, "register", &json!({ "username": "pump-8", "csr": csr })).await;
        assert_eq!((&refused["status"], &refused["error"]), (&json!(400), &json!("alternative_name")));
    }
}

/// Whoever slept through the change: in grace the old certificate is good for a new one.
#[tokio::test]
async fn a_lapsed_certificate_without_a_uri_is_renewed_in_grace_and_gets_one() {
    let harness = Harness::start_with_listeners(&own("san_uri")).await;
    let certs = harness.path().join("certs");
    let lapsed = issue_until(&certs, "pump-1", Timestamp::now() - Duration::from_hours(1));
    only_by_certificate(&harness, "pump-1", Some(&lapsed));
    let (valid, _) = issue(&certs, "pump-2");
    only_by_certificate(&harness, "pump-2", Some(&valid));
    only_by_certificate(&harness, "victim1", None);
    let in_grace = async |old: &Identity, name: &str| {
        let certificate = portcullis::pki::pem("CERTIFICATE", &old.chain[0]);
        let signer = KeyPair::try_from(old.key.secret_der()).unwrap();
        let mut stranger = over_tls(&harness, V5, None).await.unwrap();
        assert_eq!(stranger.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
        let nonce = ask(&mut stranger, "challenge", &json!({})).await["nonce"].as_str().unwrap().to_owned();
        let (key, csr) = request(name);
        let mut bytes = b"portcullis-renew-v1".to_vec();
        bytes.extend_from_slice(nonce.as_bytes());
        bytes.extend_from_slice(VerifiedCsr::from_pem(csr.as_bytes()).unwrap().digest());
        let signature = portcullis::pki::pem("X", &signer.sign(&bytes).unwrap());
        let signature: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
        let message = json!({ "csr": csr, "certificate": certificate, "signature": signature, "nonce": nonce });
        (ask(&mut stranger, "renew", &message).await, key)
    };
    assert_eq!(in_grace(&valid, "pump-2").await.0["error"], "still_valid");
    let (answer, key) = in_grace(&lapsed, "pump-1").await;
    let renewed = granted(&answer, &key);
    assert_eq!(names(&renewed), ("pump-1".to_owned(), vec![format!("{PREFIX}pump-1")]));
    assert_eq!(login(&harness, &renewed).await, GOOD);

    // What finds the record is not what proves: another's certificate of that name, or with that URI, is on nobody's record.
    let (_, elsewhere) = authority("Elsewhere", 0, None);
    for (common_name, uri) in [("victim1", format!("{PREFIX}pump-1")), ("pump-1", format!("{PREFIX}victim1"))] {
        let forged = by_partner(&elsewhere, common_name, &[&uri]);
        for name in ["pump-1", "victim1"] {
            assert_eq!(in_grace(&forged, name).await.0["error"], "certificate_unknown", "{common_name}, {name}");
        }
    }
}

/// Over HTTPS too, and where an administrator pins a certificate.
#[tokio::test]
async fn an_administrator_pins_what_would_log_it_in() {
    let home = TempDir::new().unwrap();
    let (pem, partner) = authority("Partner Root", 0, None);
    let file = home.path().join("partner.pem");
    fs::write(&file, pem).unwrap();
    let ca = format!(
        "[ca]\nidentity = \"san_uri\"\nuri_prefix = \"{PREFIX}\"\n[[ca.trust]]\ncertificate = \"{}\"\nusername = \"*\"\n",
        file.display()
    );
    let harness = Harness::start_rest(&format!("{ca}{TLS_LISTENER}")).await;
    harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
    harness.user_with("partner-root", |user| {
        (user.auth, user.password_hash) = (Auth::Certificate, None);
        user.roles = vec!["admin".parse().unwrap()];
    });
    let good = by_partner(&partner, "somebody", &[&format!("{PREFIX}partner-root")]);
    let as_partner = async |identity: &Identity| {
        let mut https = Https::connect(api(&harness), https::config(&harness, Some(identity.clone()))).await;
        https.send("GET", "/api/ca", &[], "").await.status.as_u16()
    };
    assert_eq!(as_partner(&good).await, 401);
    let mut operator = Https::to(&harness).await;
    let mut pin = async |identity: &Identity| {
        let pem = portcullis::pki::pem("CERTIFICATE", &identity.chain[0]);
        operator.call("operator", "POST", "/api/users/partner-root/certificates", &json!({ "certificate": pem })).await
    };
    let by_common_name = by_partner(&partner, "partner-root", &[]);
    for other in [&by_common_name, &by_partner(&partner, "partner-root", &[&format!("{PREFIX}operator")])] {
        let refused = pin(other).await;
        assert_eq!(refused.problem().0, 422, "{}", refused.body);
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("the URI `spiffe://plant.example/device/partner-root` as its only one"), "{detail}");
    }
    assert_eq!(pin(&good).await.status.as_u16(), 200);
    assert_eq!(as_partner(&good).await, 200);
    assert_eq!(as_partner(&by_common_name).await, 401);
}

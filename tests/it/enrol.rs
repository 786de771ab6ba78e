//! Enrolment over HTTPS (door 3), on the listener of the API and on one of its own, and its way to MQTT and back.

use std::net::SocketAddr;

use portcullis::{
    access::Auth,
    directory::Actor,
    mqtt::{ConnAck, Connect, ProtocolVersion, Publish, PublishProperties, ReasonCode},
    pki::{PairingCode, VerifiedCsr},
    registry::{Door, GrantTerms, RequestId, StateFilter, UnlockTerms},
};
use serde_json::{Value, json};

use crate::{
    certificates::{ANY_TLS, identity, parameters, request, roots, tls_client},
    client::{Client, Q1, Tls, V5, V311, connect, publish, text_of, topic_of},
    harness::{Harness, PASSWORD, allow_read, as_user},
    https::{Https, Reply, api, basic, config},
};

pub(crate) const REGISTER: &str = "/api/client-registry/register";
const CHALLENGE: &str = "/api/client-registry/challenge";

const LISTENERS: &str = r#"
[[listener]]
name = "mqtts"
bind = "127.0.0.1:0"
tls = true
client_certificate = "optional"
registration = true
[[listener]]
name = "enrol"
bind = "127.0.0.1:0"
protocol = "https"
registration = true
"#;

pub(crate) async fn start(config: &str) -> Harness {
    let harness = Harness::start_rest(&format!("{config}\n{LISTENERS}")).await;
    harness.user_with("operator", |user| user.roles = vec!["admin".parse().unwrap()]);
    harness
}

pub(crate) async fn to(harness: &Harness, address: SocketAddr) -> Https {
    Https::connect(address, config(harness, None)).await
}

pub(crate) async fn register(https: &mut Https, message: &Value) -> Reply {
    let reply = https.send("POST", REGISTER, &[("content-type", "application/json")], message.to_string()).await;
    if reply.header("content-type") == "application/json" {
        assert_eq!(reply.header("retry-after"), held(reply.status.as_u16(), &reply.body));
    }
    reply
}

/// What the registry says over HTTPS must be as the protocol and openapi.json have it. Gives the Retry-After that goes with it.
fn held(status: u16, answer: &Value) -> String {
    let description: Value = serde_json::from_str(include_str!("../../src/admin/openapi.json")).unwrap();
    let schema = &description["components"]["schemas"]["RegistryAnswer"];
    assert_eq!(answer["status"], status, "{answer}");
    assert!(schema["properties"]["state"]["enum"].as_array().unwrap().contains(&answer["state"]), "{answer}");
    for name in schema["required"].as_array().unwrap() {
        assert!(!answer[name.as_str().unwrap()].is_null(), "{name} is missing in {answer}");
    }
    for name in answer.as_object().unwrap().keys() {
        assert!(schema["properties"][name].is_object(), "{name} of {answer} is not described");
    }
    if status >= 400 {
        assert!(answer["error"].is_string() && answer["message"].is_string(), "{answer}");
    }
    answer["retry_after"].as_u64().map(|seconds| seconds.to_string()).unwrap_or_default()
}

pub(crate) async fn unlock(harness: &Harness, terms: UnlockTerms) {
    harness.handle().registry().unlock(terms, Actor::System).await.unwrap();
}

pub(crate) async fn pending(harness: &Harness) -> RequestId {
    harness.handle().registry().list(Some(StateFilter::Pending)).await.unwrap()[0].id
}

pub(crate) async fn grant(harness: &Harness, id: RequestId) {
    harness.handle().registry().grant(id, GrantTerms::default(), Actor::System).await.unwrap();
}

/// The same message through door 1.
pub(crate) async fn over_mqtt(harness: &Harness, message: &Value) -> Value {
    let tls = Tls::connect(harness.address("mqtts"), config(harness, None)).await.unwrap();
    let mut device = Client::over(tls, V5);
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    device.subscribe("$registry/register/response", Q1).await;
    device.publish("$registry/register", &message.to_string(), Q1).await;
    serde_json::from_str(text_of(&device.expect_publish().await)).unwrap()
}

#[tokio::test]
async fn a_device_enrols_over_https_polls_through_either_door_and_connects_with_its_certificate() {
    let harness = start("").await;
    for (n, address) in [api(&harness), harness.address("enrol")].into_iter().enumerate() {
        let name = format!("pump-{n}");
        let (key, csr) = request(&name);
        let message = json!({ "username": name, "csr": csr, "context": { "model": "P100" }, "id": 7 });
        let mut https = to(&harness, address).await;
        let locked = register(&mut https, &message).await;
        assert_eq!((locked.status.as_u16(), &locked.body["state"]), (423, &json!("locked")));
        unlock(&harness, UnlockTerms::default()).await;
        let waits = register(&mut https, &message).await;
        assert_eq!(
            (waits.status.as_u16(), &waits.body["state"], &waits.body["id"]),
            (202, &json!("pending"), &json!(7))
        );
        let code = PairingCode::of_key(VerifiedCsr::from_pem(csr.as_bytes()).unwrap().key()).to_string();
        assert_eq!(waits.body["pairing_code"], code.as_str());
        harness.handle().registry().lock(Actor::System).await.unwrap();
        // Polled through both doors, shut or not.
        assert_eq!(register(&mut https, &message).await.status, 202);
        assert_eq!(over_mqtt(&harness, &message).await["pairing_code"], code.as_str());

        let id = pending(&harness).await;
        let shown = harness.handle().registry().show(id).await.unwrap();
        assert_eq!((shown.door, shown.pairing_shown, shown.polls), (Door::Rest, true, 2));
        assert_eq!(shown.listener, if n == 0 { "admin" } else { "enrol" });
        // The code was shown, so nothing more is asked of the operator.
        grant(&harness, id).await;

        let granted = register(&mut https, &message).await;
        assert_eq!((granted.status.as_u16(), &granted.body["username"]), (201, &json!(name)));
        let pem = granted.body["certificate"].as_str().unwrap().to_owned();
        assert_eq!(
            register(&mut https, &message).await.body["certificate"],
            pem.as_str(),
            "a lost answer loses nothing"
        );
        assert_eq!(over_mqtt(&harness, &message).await["certificate"], pem.as_str());

        let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes());
        let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
        let trust = roots(&harness.broker.started().trust_bundle);
        let tls = tls_client(trust, ANY_TLS, Some(identity(&der, &key)));
        let mut device = Client::over(Tls::connect(harness.address("mqtts"), tls).await.unwrap(), V5);
        assert_eq!(device.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);
        let policy = harness.users().policy();
        assert_eq!(policy.user_named(&name.parse().unwrap()).unwrap().auth, Auth::Certificate);
    }
}

#[tokio::test]
async fn a_request_of_door_1_is_polled_at_door_3_and_nobody_takes_it_over() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms::default()).await;
    let (_, csr) = request("pump-7");
    let message = json!({ "username": "pump-7", "csr": csr });
    assert_eq!(over_mqtt(&harness, &message).await["status"], 202);
    let mut https = to(&harness, harness.address("enrol")).await;
    assert_eq!(register(&mut https, &message).await.status, 202);
    let (_, other) = request("pump-7");
    let taken = register(&mut https, &json!({ "username": "pump-7", "csr": other })).await;
    assert_eq!((taken.status.as_u16(), &taken.body["error"]), (409, &json!("name_pending")));
    let taken = register(&mut https, &json!({ "username": "operator", "password": PASSWORD })).await;
    assert_eq!((taken.status.as_u16(), &taken.body["error"]), (409, &json!("name_taken")));
    let reserved = register(&mut https, &json!({ "username": "System", "password": PASSWORD })).await;
    assert_eq!((reserved.status.as_u16(), &reserved.body["error"]), (400, &json!("username_reserved")));
    let id = pending(&harness).await;
    harness.handle().registry().deny(id, "not ordered".into(), Actor::System).await.unwrap();
    let denied = register(&mut https, &message).await;
    assert_eq!((denied.status.as_u16(), &denied.body["reason"]), (403, &json!("not ordered")));
    assert_eq!(over_mqtt(&harness, &message).await["status"], 403);
}

/// Whatever is wrong with a message, the answer is one of the registry, with the bound that holds here, in the form of the question.
#[tokio::test]
async fn a_message_that_cannot_be_taken_is_answered_as_the_protocol_has_it() {
    let harness = start("").await;
    for address in [api(&harness), harness.address("enrol")] {
        for path in [REGISTER, CHALLENGE] {
            for length in [16 * 1024 + 1, 20_000, 64 * 1024] {
                // The connection ends with a message that is not read to its end.
                let mut https = to(&harness, address).await;
                let large = "x".repeat(length);
                let reply = https.send("POST", path, &[("content-type", "application/json")], large.clone()).await;
                held(413, &reply.body);
                assert_eq!((&reply.body["state"], &reply.body["error"]), (&json!("refused"), &json!("too_large")));
                let said = format!("the message has {length} bytes; send at most 16384");
                assert_eq!((reply.header("content-type"), &reply.body["message"]), ("application/json", &json!(said)));
                let mut https = to(&harness, address).await;
                let (status, answer) = send_cbor(&mut https, path, large.into_bytes()).await;
                held(413, &answer);
                assert_eq!(status, 413);
            }
            let mut https = to(&harness, address).await;
            let (status, answer) = send_cbor(&mut https, path, b"\xff".to_vec()).await;
            held(400, &answer);
            assert_eq!((status, &answer["error"]), (400, &json!("malformed")), "{path}");
            let odd = [("content-type", "text/xml")];
            let reply = https.send("POST", path, &odd, json!({ "id": 7 }).to_string()).await;
            held(400, &reply.body);
            assert_eq!((&reply.body["error"], &reply.body["id"]), (&json!("unsupported"), &json!(7)), "{path}");
        }
        // The whole of the bound may be used.
        let mut https = to(&harness, address).await;
        let mut message = json!({ "username": "pump-7", "csr": "", "id": 7 });
        message["csr"] = "x".repeat(16 * 1024 - message.to_string().len()).into();
        assert_eq!(message.to_string().len(), 16 * 1024);
        assert_eq!(register(&mut https, &message).await.body["error"], "csr_malformed", "it was read");
    }
}

/// In the form of its question, and the same question on another connection is the same device.
#[tokio::test]
async fn a_nonce_over_https_is_for_the_address_that_drew_it_alone() {
    let harness = start("[registry]\nrequire_nonce = true").await;
    unlock(&harness, UnlockTerms::default()).await;
    let mut https = to(&harness, harness.address("enrol")).await;
    let plain = https.send("POST", CHALLENGE, &[], "").await;
    held(200, &plain.body);
    let typed = https.send("POST", CHALLENGE, &[("content-type", "application/json")], r#"{"id": "a"}"#).await;
    held(200, &typed.body);
    assert_eq!((plain.status.as_u16(), &typed.body["id"]), (200, &json!("a")));
    assert_ne!(plain.body["nonce"], typed.body["nonce"]);
    let (status, answer) = send_cbor(&mut https, CHALLENGE, cbor(&json!({ "id": 7 }))).await;
    held(200, &answer);
    assert_eq!((status, &answer["id"], answer["nonce"].as_str().unwrap().len()), (200, &json!(7), 64));

    let key = rcgen::KeyPair::generate().unwrap();
    let with =
        |nonce: &Value| json!({ "username": "pump-7", "csr": challenged("pump-7", &key, nonce.as_str().unwrap()) });
    let missing = register(&mut https, &json!({ "username": "pump-7", "csr": request("pump-7").1 })).await;
    assert_eq!((missing.status.as_u16(), &missing.body["error"]), (422, &json!("nonce_missing")));
    // Another address, another door: drawn by somebody else.
    let elsewhere = Https::connect_from([127, 0, 0, 2].into(), harness.address("enrol"), config(&harness, None));
    let mut elsewhere = elsewhere.await;
    let foreign = register(&mut elsewhere, &with(&answer["nonce"])).await;
    assert_eq!((foreign.status.as_u16(), &foreign.body["error"]), (422, &json!("nonce_foreign")));
    assert!(foreign.body["message"].as_str().unwrap().contains("over HTTP: from this address"), "{}", foreign.body);
    assert_eq!(over_mqtt(&harness, &with(&answer["nonce"])).await["error"], "nonce_foreign");
    let mut again = to(&harness, harness.address("enrol")).await;
    assert_eq!(register(&mut again, &with(&answer["nonce"])).await.status, 202, "on another connection");
    let other = json!({ "username": "pump-8", "csr": challenged("pump-8", &key, answer["nonce"].as_str().unwrap()) });
    assert_eq!(register(&mut again, &other).await.body["error"], "nonce_spent");
}

/// A CSR with this challengePassword (RFC 2985 5.4.1).
fn challenged(name: &str, key: &rcgen::KeyPair, nonce: &str) -> String {
    let length = u8::try_from(nonce.len()).unwrap();
    // SET { PrintableString }
    let mut values = vec![0x31, length + 2, 0x13, length];
    values.extend_from_slice(nonce.as_bytes());
    let attribute = rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values };
    parameters(name).serialize_request_with_attributes(key, vec![attribute]).unwrap().pem().unwrap()
}

/// Whoever checks certificates needs no credentials for the list of those that are no good, be the API out of reach.
#[tokio::test]
async fn revocation_lists_are_for_everybody_at_either_listener() {
    let harness = start("").await;
    for address in [api(&harness), harness.address("enrol")] {
        let mut https = to(&harness, address).await;
        let issuer = issuer_of(&harness).await;
        let mut lists = Vec::new();
        for path in ["/crl".to_owned(), format!("/crl/{issuer}")] {
            let (parts, body) = https.response("GET", &path, &[], "").await.into_parts();
            assert_eq!(
                (parts.status.as_u16(), parts.headers["content-type"].as_bytes()),
                (200, &b"application/pkix-crl"[..])
            );
            let der = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            assert_eq!(der.first(), Some(&0x30), "a SEQUENCE, in DER");
            lists.push(der);
        }
        assert_eq!(lists[0], lists[1], "of the CA that issues now");
        assert_eq!(https.send("GET", "/crl/00ff", &[], "").await.problem().0, 404);
        assert_eq!(https.send("POST", "/crl", &[], "").await.problem().0, 405);
    }
}

async fn issuer_of(harness: &Harness) -> String {
    let ca = to(harness, api(harness)).await.get("operator", "/api/ca").await.body;
    ca["key_identifier"].as_str().unwrap_or_else(|| panic!("{ca}")).to_owned()
}

async fn send_cbor(https: &mut Https, path: &str, body: Vec<u8>) -> (u16, Value) {
    let response = https.response("POST", path, &[("content-type", "application/cbor")], body).await;
    let (parts, body) = response.into_parts();
    assert_eq!(parts.headers["content-type"], "application/cbor");
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (parts.status.as_u16(), ciborium::from_reader(&*bytes).unwrap())
}

/// Every operation, and the decision that is pushed: in the form of the question.
#[tokio::test]
async fn a_device_that_speaks_cbor_is_answered_in_cbor() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms::default()).await;
    let tls = Tls::connect(harness.address("mqtts"), config(&harness, None)).await.unwrap();
    let mut device = Client::over(tls, V5);
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    device.subscribe("$registry/+/response", Q1).await;
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1, "id": 7 });
    let question = json!({ "id": 7 });
    let [nothing, id] = [Value::Null, json!(7)];
    for (operation, message, state) in [
        ("challenge", &question, "ok"),
        ("whoami", &question, "refused"),
        ("ca", &question, "ok"),
        ("renew", &message, "invalid"),
        ("register", &message, "pending"),
    ] {
        let answer = ask_in_cbor(&mut device, operation, message).await;
        assert_eq!((&answer["state"], &answer["id"]), (&json!(state), &id), "{operation}: {answer}");
    }
    let broken = ask_in_cbor(&mut device, "register", &json!({ "username": "pump-7", "usrname": 1 })).await;
    assert_eq!((&broken["error"], &broken["id"]), (&json!("malformed"), &nothing));
    grant(&harness, pending(&harness).await).await;
    let granted = read_cbor(&device.receive().await);
    assert_eq!((&granted["state"], &granted["username"], &granted["id"]), (&json!("granted"), &json!("pump-7"), &id));
    assert!(granted["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));

    let mut https = to(&harness, harness.address("enrol")).await;
    let body = cbor(&message);
    let reply = https.send("POST", REGISTER, &[("content-type", "application/cbor")], body).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (201, "application/cbor"));
}

pub(crate) fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn read_cbor(publish: &Publish) -> Value {
    assert_eq!(publish.properties.as_ref().unwrap().content_type.as_deref(), Some("application/cbor"));
    ciborium::from_reader(&*publish.payload).unwrap()
}

async fn ask_in_cbor(device: &mut Client, operation: &str, question: &Value) -> Value {
    let properties = PublishProperties { content_type: Some("application/cbor".into()), ..Default::default() };
    let packet = publish(&format!("$registry/{operation}"), "", Q1);
    let packet = Publish { payload: cbor(question).into(), properties: Some(Box::new(properties)), ..packet };
    assert!(!device.publish_packet(packet).await.is_error());
    read_cbor(&device.receive().await)
}

#[tokio::test]
async fn an_unlock_for_one_listener_opens_no_other() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms { listener: Some("enrol".into()), ..UnlockTerms::default() }).await;
    let message = |name: &str| json!({ "username": name, "csr": request(name).1 });
    assert_eq!(over_mqtt(&harness, &message("pump-1")).await["status"], 423);
    assert_eq!(register(&mut to(&harness, api(&harness)).await, &message("pump-2")).await.status, 423);
    assert_eq!(register(&mut to(&harness, harness.address("enrol")).await, &message("pump-3")).await.status, 202);
}

/// Whoever reaches the listener for enrolment reaches nothing else, with whatever credentials.
#[tokio::test]
async fn nothing_of_the_api_is_on_the_listener_for_enrolment() {
    let harness = start("").await;
    let mut https = to(&harness, harness.address("enrol")).await;
    let operator = basic("operator", PASSWORD);
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api", 404),
        ("GET", "/api/users", 404),
        ("POST", "/api/users", 404),
        ("GET", "/api/client-registry/requests", 404),
        ("POST", "/api/client-registry/unlock", 404),
        ("GET", "/api/client-registry/events", 404),
        ("GET", "/metrics", 404),
        ("GET", "/api/client-registry/%72egister", 404),
        ("GET", "/api/client-registry/x/../requests", 400),
        ("GET", REGISTER, 405),
        ("PUT", REGISTER, 405),
        ("DELETE", "/api/client-registry/ca", 405),
    ] {
        let reply = https.send(method, path, &[("authorization", &operator)], "").await;
        assert_eq!(reply.problem().0, status, "{method} {path}");
    }
    assert_eq!(https.send("GET", REGISTER, &[], "").await.header("allow"), "POST");
    let ca = https.send("GET", "/api/client-registry/ca", &[], "").await;
    assert_eq!((ca.status.as_u16(), ca.header("content-type")), (200, "application/pem-certificate-chain"));
    let bundle = std::fs::read_to_string(&harness.broker.started().trust_bundle).unwrap();
    assert_eq!(ca.body, json!(bundle));
    let mut at_the_api = to(&harness, api(&harness)).await;
    assert_eq!(at_the_api.send("GET", "/api/client-registry/ca", &[], "").await.body, json!(bundle));
    assert_eq!(at_the_api.send("GET", "/api/users", &[], "").await.problem().0, 401);
}

#[tokio::test]
async fn enrolment_at_the_listener_of_the_api_can_be_turned_off() {
    let harness = start("registration = false").await;
    unlock(&harness, UnlockTerms::default()).await;
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1 });
    let mut https = to(&harness, api(&harness)).await;
    assert_eq!(register(&mut https, &message).await.problem(), (401, "unauthenticated"));
    assert_eq!(https.send("GET", "/api/client-registry/ca", &[], "").await.problem(), (401, "unauthenticated"));
    let operator = basic("operator", PASSWORD);
    let reply = https.send("GET", "/api/client-registry/ca", &[("authorization", &operator)], "").await;
    assert_eq!(reply.problem(), (404, "not-found"));
    assert_eq!(register(&mut to(&harness, harness.address("enrol")).await, &message).await.status, 202);
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |inner, _| json!([inner]))
}

#[tokio::test]
async fn what_is_no_registration_is_refused_and_pages_of_other_sites_cannot_make_one() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms::default()).await;
    let mut https = to(&harness, harness.address("enrol")).await;
    for (message, status, error) in [
        (json!([]), 400, "malformed"),
        (json!({}), 400, "malformed"),
        (json!({ "username": "a/b", "password": PASSWORD }), 400, "username"),
        (json!({ "username": "pump-7" }), 400, "no_proof"),
        (json!({ "username": "pump-7", "password": "short" }), 400, "weak_password"),
        (json!({ "username": "pump-7", "csr": request("pump-8").1 }), 400, "common_name"),
        (json!({ "username": "pump-7", "password": PASSWORD, "context": "x".repeat(5000) }), 413, "too_large"),
        (json!({ "username": "pump-7", "password": PASSWORD, "context": deep(17) }), 400, "malformed"),
    ] {
        let reply = register(&mut https, &message).await;
        assert_eq!((reply.status.as_u16(), &reply.body["error"]), (status, &json!(error)), "{message}");
    }
    let json = ("content-type", "application/json");
    let message = json!({ "username": "pump-7", "password": PASSWORD }).to_string();
    for (headers, kind) in [
        (vec![json, ("origin", "https://evil.example")], (403, "cross-site")),
        (vec![json, ("sec-fetch-site", "cross-site")], (403, "cross-site")),
        (vec![("content-type", "text/plain"), ("sec-fetch-site", "cross-site")], (403, "cross-site")),
    ] {
        assert_eq!(https.send("POST", REGISTER, &headers, message.clone()).await.problem(), kind, "{headers:?}");
    }
    // What a page can send without being asked where it comes from is no message.
    for headers in [vec![("content-type", "text/plain")], vec![("content-type", "")], vec![]] {
        let reply = https.send("POST", REGISTER, &headers, message.clone()).await;
        held(400, &reply.body);
        assert_eq!((reply.status.as_u16(), &reply.body["error"]), (400, &json!("unsupported")), "{headers:?}");
        assert!(reply.body["message"].as_str().unwrap().contains("application/cbor"), "{}", reply.body);
    }
    assert!(harness.handle().registry().list(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_source_that_asks_too_often_is_told_when_to_come_back_through_every_door() {
    let harness = start("[registry]\nrequests_per_minute = 5").await;
    let mut https = to(&harness, harness.address("enrol")).await;
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1 });
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(register(&mut https, &message).await.status.as_u16());
    }
    assert_eq!(statuses, [423, 423, 423, 423, 423, 429, 429]);
    let ca = https.send("GET", "/api/client-registry/ca", &[], "").await;
    assert_eq!((ca.status.as_u16(), &ca.body["error"]), (429, &json!("rate")));
    assert!(ca.header("retry-after").parse::<u64>().unwrap() > 0);
    let mut other = to(&harness, api(&harness)).await;
    assert_eq!(register(&mut other, &message).await.status, 429);
    assert_eq!(over_mqtt(&harness, &message).await["status"], 429);
    // Operators are not devices.
    assert_eq!(other.call("operator", "GET", "/api/client-registry/status", &Value::Null).await.status, 200);
}

/// The operator does over HTTPS what it does at the socket.
#[tokio::test]
async fn an_operator_decides_over_https() {
    let harness = start("").await;
    harness.role("line", vec![]);
    let mut operator = to(&harness, api(&harness)).await;
    let mut device = to(&harness, harness.address("enrol")).await;
    let open =
        operator.call("operator", "POST", "/api/client-registry/unlock", &json!({ "for": 60, "count": 1 })).await;
    assert_eq!((open.status.as_u16(), &open.body["locked"]), (200, &json!(false)));
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1, "roles": ["admin"] });
    assert_eq!(register(&mut device, &message).await.status, 202);
    let list = operator.call("operator", "GET", "/api/client-registry/requests?state=pending", &Value::Null).await;
    let item = &list.body["items"][0];
    assert_eq!((&item["door"], &item["requested_roles"]), (&json!("rest"), &json!(["admin"])));
    let path = format!("/api/client-registry/requests/{}", item["id"].as_str().unwrap());
    let granted = operator.call("operator", "POST", &format!("{path}/grant"), &json!({ "roles": ["line"] })).await;
    assert_eq!((granted.status.as_u16(), &granted.body["by"]), (200, &json!("user:operator")), "{}", granted.body);
    let again = operator.call("operator", "POST", &format!("{path}/deny"), &json!({ "reason": "late" })).await;
    assert_eq!(again.problem(), (409, "conflict"));
    let policy = harness.users().policy();
    let user = policy.user_named(&"pump-7".parse().unwrap()).unwrap();
    assert_eq!(user.roles, vec!["line".parse().unwrap()], "what it asks for is not what it gets");
    assert_eq!(register(&mut device, &message).await.status, 201);
}

/// Nobody is there to decide: who meets a rule has an identity at once, and no rule reaches further than it says.
#[tokio::test]
async fn rules_of_the_configuration_grant_and_deny_without_a_person() {
    let rules = r#"
        [[registry.rule]]
        name = "pumps"
        action = "grant"
        source = ["127.0.0.1"]
        listener = "enrol"
        username = "pump-*"
        key = ["p256"]
        roles = ["observer"]
        while_locked = true
        [[registry.rule]]
        action = "deny"
        username = "pump-66"
        reason = "that one is scrap"
    "#;
    let harness = start(rules).await;
    let mut https = to(&harness, harness.address("enrol")).await;
    let (key, csr) = request("pump-1");
    let message = json!({ "username": "pump-1", "csr": csr, "roles": ["admin"] });
    let granted = register(&mut https, &message).await;
    assert_eq!((granted.status.as_u16(), &granted.body["username"]), (201, &json!("pump-1")), "{}", granted.body);
    let user = harness.users().policy().user_named(&"pump-1".parse().unwrap()).cloned().unwrap();
    assert_eq!(user.roles, vec!["observer".parse().unwrap()], "what it asks for is not what it gets");
    let pem = granted.body["certificate"].as_str().unwrap();
    let der: rustls::pki_types::CertificateDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let tls = tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, Some(identity(&der, &key)));
    let mut device = Client::over(Tls::connect(harness.address("mqtts"), tls).await.unwrap(), V5);
    assert_eq!(device.connect(&connect(V5, "c")).await.reason_code, ReasonCode::Success);

    let named = |name: &str| json!({ "username": name, "csr": request(name).1 });
    let password = json!({ "username": "pump-2", "password": PASSWORD });
    assert_eq!(register(&mut https, &password).await.status, 423, "without a key of that kind");
    assert_eq!(register(&mut https, &named("meter-1")).await.status, 423, "with another name");
    assert_eq!(over_mqtt(&harness, &named("pump-2")).await["status"], 423, "through another listener");
    let scrap = named("pump-66");
    let denied = register(&mut https, &scrap).await;
    assert_eq!((denied.status.as_u16(), &denied.body["error"]), (403, &json!("rule")));
    assert_eq!((&denied.body["state"], &denied.body["reason"]), (&json!("denied"), &json!("that one is scrap")));
    unlock(&harness, UnlockTerms::default()).await;
    assert_eq!(over_mqtt(&harness, &scrap).await["error"], "rule", "whoever has opened the door");
    assert_eq!(over_mqtt(&harness, &named("pump-2")).await["status"], 202, "the rest is for a person");

    let mut operator = to(&harness, api(&harness)).await;
    let list = operator.get("operator", "/api/client-registry/requests").await.body;
    let shown: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|it| (&it["username"], &it["rule"], &it["by"])).collect();
    let ruled = (&json!("pump-1"), &json!("pumps"), &json!("rule pumps"));
    assert_eq!(shown, [ruled, (&json!("pump-2"), &Value::Null, &Value::Null)], "who was denied is not on record");
}

/// What one operator grants is put on record, and makes a user when another one has granted the very same.
#[tokio::test]
async fn a_request_takes_two_operators_where_the_configuration_says_so() {
    let harness = start("[registry]\napprovals = 2").await;
    harness.user_with("second", |user| user.roles = vec!["admin".parse().unwrap()]);
    harness.role("line", vec![]);
    unlock(&harness, UnlockTerms::default()).await;
    let mut device = to(&harness, harness.address("enrol")).await;
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1 });
    assert_eq!(register(&mut device, &message).await.status, 202);
    let path = format!("/api/client-registry/requests/{}", pending(&harness).await);
    let mut https = to(&harness, api(&harness)).await;
    let mut grant = async |who: &str, role: &str| {
        https.call(who, "POST", &format!("{path}/grant"), &json!({ "roles": [role] })).await
    };
    // The first word, somebody else's word for something else, which begins anew, and the first one again.
    for (who, role) in [("operator", "line"), ("second", "admin"), ("operator", "line")] {
        let reply = grant(who, role).await;
        assert_eq!((reply.status.as_u16(), &reply.body["state"]), (200, &json!("pending")), "{}", reply.body);
        let approved = &reply.body["approved"];
        assert_eq!((&approved["by"], &approved["grant"]["roles"]), (&json!(format!("user:{who}")), &json!([role])));
        assert_eq!(grant(who, role).await.problem(), (409, "conflict"), "{who} is one person");
        assert_eq!(register(&mut device, &message).await.status, 202);
        assert!(harness.users().policy().user_named(&"pump-7".parse().unwrap()).is_none());
    }
    let granted = grant("second", "line").await;
    assert_eq!(granted.body["by"], "user:operator and user:second", "{}", granted.body);
    assert_eq!(register(&mut device, &message).await.status, 201);
    let policy = harness.users().policy();
    let user = policy.user_named(&"pump-7".parse().unwrap()).unwrap();
    assert_eq!(user.roles, vec!["line".parse().unwrap()]);
    assert_eq!(grant("second", "line").await.problem(), (409, "conflict"), "it is decided");
}

/// A CONNECT over TLS with a name and a password, and what came of it.
pub(crate) async fn plain_connect(
    harness: &Harness,
    version: ProtocolVersion,
    name: &str,
    password: &'static str,
) -> ConnAck {
    let tls = Tls::connect(harness.address("mqtts"), config(harness, None)).await.unwrap();
    let packet = Connect { password: Some(password.as_bytes().into()), ..as_user(version, "c", name) };
    Client::over(tls, version).connect(&packet).await
}

pub(crate) fn reason_of(connack: &ConnAck) -> String {
    connack.properties.reason_string.as_deref().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_client_that_can_only_connect_enrols_by_connecting() {
    let harness = start("").await;
    let (secret, guess) = ("the device has drawn this", "somebody guesses this one");
    let shut = plain_connect(&harness, V5, "lamp-1", secret).await;
    assert_eq!(
        (shut.reason_code, &*reason_of(&shut)),
        (ReasonCode::BadUserNameOrPassword, "bad user name or password")
    );
    unlock(&harness, UnlockTerms { implicit: true, ..UnlockTerms::default() }).await;

    let told = plain_connect(&harness, V5, "lamp-1", secret).await;
    assert_eq!(told.reason_code, ReasonCode::NotAuthorized);
    let requests = harness.handle().registry().list(Some(StateFilter::Pending)).await.unwrap();
    let request = requests.first().unwrap();
    assert_eq!((requests.len(), request.username.as_str(), request.door), (1, "lamp-1", Door::Implicit));
    let code = request.pairing_code.to_string();
    assert!(reason_of(&told).contains(&format!("is pending, pairing code {code};")), "{}", reason_of(&told));

    // Nobody learns that there is an `operator`.
    let guessed = plain_connect(&harness, V5, "operator", guess).await;
    assert_eq!(guessed.reason_code, ReasonCode::NotAuthorized);
    let (said, waits) = (reason_of(&guessed), reason_of(&told));
    let [said, waits] = [&said, &waits].map(|text| text.split_once("pairing code ").unwrap());
    assert_eq!((said.0, said.1.len(), &said.1[19..]), (waits.0, waits.1.len(), &waits.1[19..]));
    assert_ne!(said.1, waits.1);
    let weak = plain_connect(&harness, V5, "lamp-2", "short").await;
    assert_eq!(weak.reason_code, ReasonCode::BadUserNameOrPassword);
    assert!(reason_of(&weak).starts_with("bad user name or password; to enrol: "), "{}", reason_of(&weak));

    grant(&harness, request.id).await;
    assert_eq!(plain_connect(&harness, V5, "lamp-1", secret).await.reason_code, ReasonCode::Success);
    assert_eq!(plain_connect(&harness, V311, "lamp-3", secret).await.reason_code, ReasonCode::NotAuthorized);
    let last = harness.handle().registry().list(Some(StateFilter::Pending)).await.unwrap().pop().unwrap();
    assert_eq!((last.username.as_str(), last.door, last.pairing_shown), ("lamp-3", Door::ImplicitWithoutCode, false));
}

/// The same events as `registry watch`, for whoever has a rule for the topic, and for nobody else.
#[tokio::test]
async fn what_happens_in_the_registry_is_told_over_mqtt_to_who_may_read_it() {
    let harness = start("").await;
    let id = harness.user("watcher", vec![allow_read("$registry/events/#")]);
    harness.user("narrow", vec![allow_read("$registry/events/granted")]);
    harness.user("stranger", vec![allow_read("#")]);
    let login = async |name: &str| {
        let tls = Tls::connect(harness.address("mqtts"), config(&harness, None)).await.unwrap();
        let mut client = Client::over(tls, V5);
        assert_eq!(client.connect(&as_user(V5, name, name)).await.reason_code, ReasonCode::Success);
        client
    };
    let (mut watcher, mut narrow, mut stranger) =
        (login("watcher").await, login("narrow").await, login("stranger").await);
    watcher.subscribe("$registry/events/#", Q1).await;
    narrow.subscribe("$registry/events/granted", Q1).await;
    for filter in ["$registry/events/#", "$registry/events/requested"] {
        assert_eq!(stranger.try_subscribe(filter, Q1).await, ReasonCode::NotAuthorized);
        assert_eq!(narrow.try_subscribe(filter, Q1).await, ReasonCode::NotAuthorized);
    }
    stranger.subscribe("#", Q1).await;

    unlock(&harness, UnlockTerms::default()).await;
    let mut https = to(&harness, harness.address("enrol")).await;
    let message = json!({ "username": "pump-7", "csr": request("pump-7").1 });
    let code = register(&mut https, &message).await.body["pairing_code"].clone();
    grant(&harness, pending(&harness).await).await;
    for event in ["unlocked", "requested", "granted"] {
        let told = watcher.receive().await;
        assert_eq!(topic_of(&told), format!("$registry/events/{event}"));
        let told: Value = serde_json::from_str(text_of(&told)).unwrap();
        assert_eq!(told["event"], event);
        if event != "unlocked" {
            assert_eq!((&told["request"]["username"], &told["request"]["pairing_code"]), (&json!("pump-7"), &code));
        }
    }
    assert_eq!(topic_of(&narrow.receive().await), "$registry/events/granted");
    narrow.expect_silence().await;
    stranger.expect_silence().await;
    // The right goes, and with it the events.
    harness.permit(id, Vec::new());
    harness.handle().registry().lock(Actor::System).await.unwrap();
    watcher.expect_silence().await;
    assert_eq!(watcher.try_publish("$registry/events/granted", "{}", Q1).await, ReasonCode::NotAuthorized);
}

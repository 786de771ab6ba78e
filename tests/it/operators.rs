//! The registry decided over MQTT: an operator with a rule for it, everybody without one, and what they see of each other.

use portcullis::{
    access::{User, UserId},
    directory::Actor,
    mqtt::{Connect, Packet, Publish, PublishProperties, ReasonCode},
    registry::{StateFilter, UnlockTerms},
    session::AdminOperation,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};

use crate::{
    certificates::{identity, request},
    client::{BOTH, Client, Q0, Q1, Q2, Tls, V5, V311, connect, id, publish, text_of, topic_of, will},
    harness::{GUESTS, Harness, TLS_LISTENER, allow, allow_read, as_user, deny_write},
    https::{Https, config},
};

const ANSWERS: &str = "$registry/admin/+/response/#";

async fn start() -> Harness {
    Harness::start_rest(TLS_LISTENER).await
}

/// Somebody who may decide, and holds the tree `plant`.
fn operator(harness: &Harness, name: &str) -> UserId {
    let rules = ["$registry/admin/+", "plant/#"].map(allow).to_vec();
    let id = harness.user(name, rules);
    harness.change(id, |user| user.permissions.push(allow_read("$registry/events/#")));
    id
}

/// A question without Response Topic, and its answer.
async fn ask(client: &mut Client, operation: &str, message: &Value) -> Value {
    let topic = format!("$registry/admin/{operation}");
    client.publish(&topic, &message.to_string(), Q1).await;
    let answer = client.receive().await;
    assert_eq!(topic_of(&answer), format!("{topic}/response"));
    assert!(!answer.retain);
    serde_json::from_str(text_of(&answer)).unwrap()
}

/// A connection without credentials over TLS.
async fn stranger(harness: &Harness) -> Client {
    let tls = Tls::connect(harness.address("tls"), config(harness, None)).await.unwrap();
    let mut device = Client::over(tls, V5);
    assert_eq!(device.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    device
}

/// The whole of it: unlocked, asked, seen, granted, collected, used; and the log knows who did it, from where.
#[tokio::test]
async fn an_operator_lets_a_device_in_over_mqtt() {
    for version in BOTH {
        let harness = start().await;
        operator(&harness, "ada");
        let mut ada = harness.client_of("ada", version, "panel-1").await;
        ada.subscribe(ANSWERS, Q1).await;
        let opened = ask(&mut ada, "unlock", &json!({ "for": 60, "id": 1 })).await;
        assert_eq!(
            (&opened["status"], &opened["id"], &opened["result"]["locked"]),
            (&json!(200), &json!(1), &json!(false))
        );
        ada.subscribe("$registry/events/requested", Q1).await;

        let mut device = stranger(&harness).await;
        device.subscribe("$registry/register/response", Q1).await;
        let (key, csr) = request("pump-7");
        device.publish("$registry/register", &json!({ "username": "pump-7", "csr": csr }).to_string(), Q1).await;
        let pending: Value = serde_json::from_str(text_of(&device.receive().await)).unwrap();
        let event: Value = serde_json::from_str(text_of(&ada.receive().await)).unwrap();
        assert_eq!(event["request"]["pairing_code"], pending["pairing_code"]);

        let id = &event["request"]["id"];
        let rule = json!({ "context": "mqtt", "operation": "write", "resource": "plant/pump-7/#" });
        let granted = ask(&mut ada, "grant", &json!({ "request": id, "permissions": [rule] })).await;
        assert_eq!((&granted["status"], &granted["result"]["by"]), (&json!(200), &json!("user:ada")), "{granted}");
        let collected: Value = serde_json::from_str(text_of(&device.receive().await)).unwrap();
        assert_eq!(collected["status"], 201);
        let certificate =
            CertificateDer::from_pem_slice(collected["certificate"].as_str().unwrap().as_bytes()).unwrap();
        let identity = identity(&certificate, &key);
        let tls = Tls::connect(harness.address("tls"), config(&harness, Some(identity))).await.unwrap();
        let mut pump = Client::over(tls, V5);
        assert_eq!(pump.connect(&connect(V5, "pump-7")).await.reason_code, ReasonCode::Success);
        assert!(!pump.try_publish("plant/pump-7/speed", "1", Q1).await.is_error());
        assert_eq!(pump.try_publish("$registry/admin/lock", "{}", Q1).await, ReasonCode::NotAuthorized);
        assert_eq!(ask(&mut ada, "lock", &json!({})).await["result"]["locked"], true);
        assert!(harness.handle().registry().status().await.unwrap().locked);

        let place = json!({ "at": "network", "address": "127.0.0.1", "listener": "plain", "client_id": "panel-1" });
        harness.user_with("auditor", |user| user.roles = vec!["admin".parse().unwrap()]);
        let log = Https::to(&harness).await.get("auditor", "/api/audit").await.body;
        let told: Vec<&Value> = log["items"].as_array().unwrap().iter().map(|entry| &entry["record"]).collect();
        for event in ["registry_unlocked", "registration_granted", "certificate_signing", "registry_locked"] {
            let record = told.iter().find(|record| record["event"]["kind"] == event);
            let record = record.unwrap_or_else(|| panic!("no {event} in {told:?}"));
            assert_eq!((&record["who"]["username"], &record["place"]), (&json!("ada"), &place), "{event}");
        }
    }
}

/// Every message of every operation, by users whose rules do not name it: refused like any other message, and nothing is done.
#[tokio::test]
async fn who_has_no_rule_for_it_decides_nothing_and_learns_nothing() {
    let harness = start().await;
    let registry = harness.handle().registry().clone();
    registry.unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let mut device = stranger(&harness).await;
    device.subscribe("$registry/register/response", Q1).await;
    device.publish("$registry/register", r#"{"username": "pump-7", "password": "a password of its own"}"#, Q1).await;
    device.receive().await;
    let request = registry.list(None).await.unwrap()[0].id;
    harness.user("wide", vec![allow("#"), allow("+/admin/#"), allow("${username}/#"), allow_read("$registry/#")]);
    harness.user("denied", vec![allow("$registry/#"), deny_write("$registry/admin/#")]);
    harness.user("prefixed", vec![allow("#"), allow("$registry/events/#")]);
    harness.change(harness.users().policy().user_named(&"prefixed".parse().unwrap()).unwrap().id, |user: &mut User| {
        user.publish_prefix = Some("site/".to_owned());
    });
    for version in BOTH {
        for name in ["wide", "denied", "prefixed"] {
            for operation in AdminOperation::ALL {
                let mut client = harness.client_of(name, version, "c").await;
                client.subscribe(ANSWERS, Q0).await;
                let message = json!({ "request": request, "username": "wide", "reason": "" }).to_string();
                let asked = publish(operation.topic().as_str(), &message, Q1);
                if version == V311 {
                    client.send(Packet::Publish(Publish { packet_id: Some(id(9)), ..asked })).await;
                    client.expect_closed().await;
                    continue;
                }
                assert_eq!(client.publish_packet(asked).await, ReasonCode::NotAuthorized);
                let retained = Publish { retain: true, ..publish(operation.topic().as_str(), &message, Q2) };
                assert_eq!(client.publish_packet(retained).await, ReasonCode::NotAuthorized);
                client.try_publish(operation.topic().as_str(), &message, Q0).await;
                client.expect_silence().await;
            }
        }
    }
    assert_eq!(registry.list(Some(StateFilter::Pending)).await.unwrap().len(), 1);
    assert!(!registry.status().await.unwrap().locked);
    assert!(registry.tokens().await.unwrap().is_empty() && registry.replacements().await.unwrap().is_empty());
}

/// What operators ask and are told stays between them and the broker: it is no message that anybody can subscribe to.
#[tokio::test]
async fn questions_and_answers_reach_nobody_else() {
    let harness = start().await;
    operator(&harness, "ada");
    harness.user("reader", vec![allow("$registry/#"), allow("#")]);
    let mut reader = harness.client_of("reader", V5, "r").await;
    for filter in ["$registry/#", "#", ANSWERS, "$registry/admin/status"] {
        reader.subscribe(filter, Q1).await;
    }
    let mut other = harness.client_of("ada", V5, "panel-2").await;
    other.subscribe(ANSWERS, Q1).await;
    let mut ada = harness.client_of("ada", V5, "panel-1").await;
    ada.subscribe(ANSWERS, Q1).await;
    assert_eq!(ask(&mut ada, "status", &json!({})).await["status"], 200);
    ada.retain("$registry/admin/status", "{}", Q1).await;
    ada.receive().await;
    reader.expect_silence().await;
    other.expect_silence().await;
    // Nothing was kept for whoever comes later.
    let mut later = harness.client_of("reader", V5, "later").await;
    later.subscribe("$registry/admin/status", Q1).await;
    later.expect_silence().await;
}

#[tokio::test]
async fn a_right_that_goes_takes_effect_on_the_live_session() {
    for version in BOTH {
        let harness = start().await;
        let id = operator(&harness, "ada");
        let mut ada = harness.client_of("ada", version, "panel-1").await;
        ada.subscribe(ANSWERS, Q1).await;
        ask(&mut ada, "unlock", &json!({})).await;
        harness.change(id, |user| user.permissions.push(deny_write("$registry/admin/lock")));
        if version == V311 {
            ada.send(Packet::Publish(publish("$registry/admin/lock", "{}", Q0))).await;
            ada.expect_closed().await;
        } else {
            assert_eq!(ada.try_publish("$registry/admin/lock", "{}", Q1).await, ReasonCode::NotAuthorized);
            assert_eq!(ask(&mut ada, "status", &json!({})).await["result"]["locked"], false);
        }
        assert!(!harness.handle().registry().status().await.unwrap().locked);
    }
}

/// An answer that the client does not take is replaced by one that says so, with its Correlation Data.
#[tokio::test]
async fn an_answer_fits_the_packets_of_its_client() {
    let harness = start().await;
    operator(&harness, "ada");
    let handle = harness.handle();
    handle.registry().unlock(UnlockTerms::default(), Actor::System).await.unwrap();
    let mut device = stranger(&harness).await;
    device.subscribe("$registry/register/response", Q1).await;
    for number in 0..4 {
        let (_, csr) = request(&format!("pump-{number}"));
        device
            .publish("$registry/register", &json!({ "username": format!("pump-{number}"), "csr": csr }).to_string(), Q1)
            .await;
        device.receive().await;
    }
    let mut small: Connect = as_user(V5, "panel-1", "ada");
    small.properties.maximum_packet_size = std::num::NonZeroU32::new(2_000);
    let mut ada = harness.login(&small).await;
    ada.subscribe(ANSWERS, Q1).await;
    let properties = PublishProperties {
        response_topic: Some("$registry/admin/list/response/7".parse().unwrap()),
        correlation_data: Some("17".into()),
        ..PublishProperties::default()
    };
    let asked = Publish { properties: Some(Box::new(properties)), ..publish("$registry/admin/list", "", Q1) };
    assert_eq!(ada.publish_packet(asked).await, ReasonCode::Success);
    let answer = ada.receive().await;
    assert_eq!(topic_of(&answer), "$registry/admin/list/response/7");
    assert_eq!(answer.properties.as_ref().unwrap().correlation_data.as_deref(), Some(b"17".as_slice()));
    let told: Value = serde_json::from_str(text_of(&answer)).unwrap();
    assert_eq!((&told["status"], &told["error"]), (&json!(413), &json!("answer_too_large")), "{told}");
    let one = ask(&mut ada, "list", &json!({ "limit": 1 })).await;
    assert_eq!((one["status"].clone(), one["result"]["items"].as_array().unwrap().len()), (json!(200), 1));
    let giant = json!({ "reason": "x".repeat(100_000) }).to_string();
    assert!(!ada.try_publish("$registry/admin/deny", &giant, Q1).await.is_error());
    let told: Value = serde_json::from_str(text_of(&ada.receive().await)).unwrap();
    assert_eq!((&told["status"], &told["error"]), (&json!(413), &json!("too_large")));
}

/// Of questions that come faster than they are answered, those beyond the bound are told to come again.
#[tokio::test]
async fn one_connection_has_few_questions_open() {
    let harness = start().await;
    operator(&harness, "ada");
    let mut ada = harness.client_of("ada", V5, "panel-1").await;
    ada.subscribe(ANSWERS, Q0).await;
    for number in 0..12 {
        ada.publish_at_once("$registry/admin/status", &json!({ "id": number }).to_string()).await;
    }
    let mut seen = Vec::new();
    for _ in 0..12 {
        let told: Value = serde_json::from_str(text_of(&ada.receive().await)).unwrap();
        assert!(told["status"] == 200 || told["error"] == "busy", "{told}");
        seen.push(told["id"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
}

/// A Will would decide when nobody is there any more; a user without a proof could be anybody.
#[tokio::test]
async fn neither_a_will_nor_an_anonymous_client_decides() {
    let rules = r#"
permissions = [
    { context = "mqtt", operation = "write", resource = "$registry/admin/unlock" },
    { context = "mqtt", operation = "read_write", resource = "$registry/#" },
]
"#;
    let harness = Harness::start(&format!("{GUESTS}{rules}")).await;
    harness.user("ada", vec![allow("$registry/#"), allow("#")]);
    for version in BOTH {
        let with_will =
            Connect { will: Some(will("$registry/admin/unlock", "{}", Q1)), ..as_user(version, "panel-1", "ada") };
        assert_eq!(harness.refused(&with_will).await.reason_code, ReasonCode::NotAuthorized);
    }
    let mut guest = Client::open(harness.address("open"), V5).await;
    assert_eq!(guest.connect(&connect(V5, "g")).await.reason_code, ReasonCode::Success);
    guest.subscribe(ANSWERS, Q1).await;
    assert_eq!(guest.try_publish("$registry/admin/unlock", "{}", Q1).await, ReasonCode::NotAuthorized);
    guest.expect_silence().await;
    assert!(harness.handle().registry().status().await.unwrap().locked);
}

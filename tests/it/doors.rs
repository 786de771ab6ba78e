//! Who gets in through which door of the registry, and for how long: guests, listeners that are none, deaf devices, idle ones.

use std::time::Duration;

use portcullis::{
    clock::ManualClock,
    mqtt::{ConnAck, Connect, Packet, ReasonCode},
    registry::{Door, StateFilter, UnlockTerms},
};
use serde_json::{Value, json};

use crate::{
    certificates::request,
    client::{BOTH, Client, Q1, Tls, V5, connect, text_of},
    enrol::{over_mqtt, plain_connect, start, unlock},
    harness::{GUESTS, Harness, PASSWORD, as_user},
    https::config,
};

/// Asks and takes the answer; the client listens already.
async fn ask(client: &mut Client, operation: &str, message: &Value) -> Value {
    client.publish(&format!("$registry/{operation}"), &message.to_string(), Q1).await;
    serde_json::from_str(text_of(&client.expect_publish().await)).unwrap()
}

/// A guest has proven nothing, and its listener need not be one that devices may enrol at: it may be plaintext on any address.
#[tokio::test]
async fn a_guest_has_no_registry() {
    let harness = Harness::start(GUESTS).await;
    unlock(&harness, UnlockTerms::default()).await;
    for version in BOTH {
        let mut guest = Client::open(harness.address("open"), version).await;
        assert_eq!(guest.connect(&connect(version, "c")).await.reason_code, ReasonCode::Success);
        guest.subscribe("$registry/+/response", Q1).await;
        let with_password = json!({ "username": "pump-7", "password": PASSWORD, "id": 7 });
        for (operation, message) in [
            ("register", &with_password),
            ("register", &json!({ "username": "pump-7", "csr": request("pump-7").1, "id": 7 })),
            ("renew", &json!({ "csr": request("guest").1, "id": 7 })),
            ("challenge", &json!({ "id": 7 })),
            ("whoami", &json!({ "id": 7 })),
            ("ca", &json!({ "id": 7 })),
        ] {
            let told = ask(&mut guest, operation, message).await;
            assert_eq!(
                (&told["status"], &told["state"], &told["error"], &told["id"]),
                (&json!(401), &json!("refused"), &json!("not_authenticated"), &json!(7)),
                "{operation}: {told}"
            );
            assert!(told.as_object().unwrap().len() == 5, "{told}");
        }
        assert!(harness.handle().registry().list(None).await.unwrap().is_empty());
        // Who has given a proof at the very same listener may ask.
        let mut user = Client::open(harness.address("open"), version).await;
        assert_eq!(user.connect(&as_user(version, "c", "tester")).await.reason_code, ReasonCode::Success);
        user.subscribe("$registry/+/response", Q1).await;
        assert_eq!(ask(&mut user, "whoami", &json!({})).await["username"], "tester");
    }
}

/// Door 2 is where devices may enrol, and nowhere else.
#[tokio::test]
async fn a_connect_is_no_request_where_devices_may_not_enrol() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms { implicit: true, ..UnlockTerms::default() }).await;
    let packet = Connect { password: Some(PASSWORD.into()), ..as_user(V5, "c", "lamp-1") };
    let refused = harness.refused(&packet).await;
    assert_eq!(refused.reason_code, ReasonCode::BadUserNameOrPassword);
    assert_eq!(refused.properties.reason_string.as_deref(), Some("bad user name or password"));
    assert!(harness.handle().registry().list(None).await.unwrap().is_empty());
    let waits = plain_connect(&harness, V5, "lamp-1", PASSWORD).await;
    assert_eq!(waits.reason_code, ReasonCode::NotAuthorized, "at the listener beside it");
    assert_eq!(harness.handle().registry().list(None).await.unwrap().len(), 1);
}

/// What the operator is shown of a request that was just made.
async fn shown(harness: &Harness, name: &str) -> (Door, bool) {
    let requests = harness.handle().registry().list(Some(StateFilter::Pending)).await.unwrap();
    let request = requests.into_iter().find(|request| request.username.as_str() == name).unwrap();
    (request.door, request.pairing_shown)
}

/// Nobody compares a code that the device was never told: `grant` asks for `--unpaired` then.
#[tokio::test]
async fn a_code_counts_as_shown_only_where_the_device_could_be_told() {
    let harness = start("").await;
    unlock(&harness, UnlockTerms { implicit: true, ..UnlockTerms::default() }).await;
    let tls = async || Tls::connect(harness.address("mqtts"), config(&harness, None)).await.unwrap();
    let password = |name: &str| json!({ "username": name, "password": PASSWORD });
    // Nobody listens.
    let mut deaf = Client::over(tls().await, V5);
    assert_eq!(deaf.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    deaf.subscribe("$registry/whoami/response", Q1).await;
    deaf.publish("$registry/register", &password("lamp-1").to_string(), Q1).await;
    // The answer to this is the sign that the one before is on record.
    ask(&mut deaf, "whoami", &json!({})).await;
    while harness.handle().registry().list(None).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(shown(&harness, "lamp-1").await, (Door::Mqtt, false));
    assert_eq!(over_mqtt(&harness, &password("lamp-2")).await["status"], 202);
    assert_eq!(shown(&harness, "lamp-2").await, (Door::Mqtt, true));
    // The CONNACK of such a size has no room for the code.
    let narrow = async |name: &str, largest: u32| -> ConnAck {
        let mut packet = as_user(V5, "c", name);
        packet.properties.maximum_packet_size = std::num::NonZeroU32::new(largest);
        Client::over(tls().await, V5).connect(&packet).await
    };
    let told = narrow("lamp-3", 40).await;
    assert_eq!((told.reason_code, told.properties.reason_string), (ReasonCode::NotAuthorized, None));
    assert_eq!(shown(&harness, "lamp-3").await, (Door::ImplicitWithoutCode, false));
    let told = narrow("lamp-4", 400).await;
    assert!(told.properties.reason_string.is_some_and(|text| text.contains("pairing code")));
    assert_eq!(shown(&harness, "lamp-4").await, (Door::Implicit, true));
}

const ENROL: &str = r#"
[[listener]]
name = "enrol"
bind = "127.0.0.1:0"
registration = true
[registry]
session_lifetime = "10m"
"#;

async fn stranger(harness: &Harness) -> Client {
    let mut client = Client::open(harness.address("enrol"), V5).await;
    assert_eq!(client.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    client
}

/// Half a minute for whoever asks for nothing, `registry.session_lifetime` for everybody.
#[tokio::test]
async fn a_registration_session_ends_with_its_time() {
    let clock = ManualClock::new("2030-05-06T07:08:09Z".parse().unwrap());
    let harness = Harness::start_at(&clock, ENROL).await;
    let mut idle = stranger(&harness).await;
    let mut asks = stranger(&harness).await;
    asks.subscribe("$registry/+/response", Q1).await;
    assert_eq!(ask(&mut asks, "challenge", &json!({})).await["status"], 200);
    clock.advance(Duration::from_secs(29));
    idle.ping().await;
    clock.advance(Duration::from_secs(1));
    idle.send(Packet::PingReq).await;
    assert_eq!(idle.recv().await, Packet::PingResp, "what came in time counts");
    idle.expect_ended(ReasonCode::MaximumConnectTime).await;
    clock.advance(Duration::from_secs(569));
    asks.ping().await;
    clock.advance(Duration::from_secs(1));
    asks.send(Packet::PingReq).await;
    assert_eq!(asks.recv().await, Packet::PingResp);
    asks.expect_ended(ReasonCode::MaximumConnectTime).await;
}

/// One address has its bound; who has asked for nothing for a minute gives way to the next one.
#[tokio::test]
async fn the_places_of_one_address_are_bounded_and_the_silent_give_way() {
    let clock = ManualClock::new("2030-05-06T07:08:09Z".parse().unwrap());
    let harness = Harness::start_at(&clock, ENROL).await;
    let mut strangers = Vec::new();
    for _ in 0..50 {
        let mut client = stranger(&harness).await;
        client.subscribe("$registry/+/response", Q1).await;
        ask(&mut client, "challenge", &json!({})).await;
        strangers.push(client);
    }
    let mut more = Client::open(harness.address("enrol"), V5).await;
    let refused = more.connect(&connect(V5, "")).await;
    assert_eq!(refused.reason_code, ReasonCode::ServerBusy);
    assert!(refused.properties.reason_string.unwrap().starts_with("too many devices are enrolling"));
    // Another address has its own.
    let mut other = Client::open_from([127, 0, 0, 2].into(), harness.address("enrol"), V5).await;
    assert_eq!(other.connect(&connect(V5, "")).await.reason_code, ReasonCode::Success);
    clock.advance(Duration::from_secs(60));
    for client in &mut strangers[1..] {
        ask(client, "challenge", &json!({})).await;
    }
    let mut next = stranger(&harness).await;
    strangers[0].expect_ended(ReasonCode::ServerBusy).await;
    for client in &mut strangers[1..] {
        client.ping().await;
    }
    next.ping().await;
    // A place is given back with its connection.
    strangers.pop().unwrap().disconnect().await;
    while let Err(busy) = try_stranger(&harness).await {
        assert_eq!(busy, ReasonCode::ServerBusy);
    }
}

async fn try_stranger(harness: &Harness) -> Result<Client, ReasonCode> {
    let mut client = Client::open(harness.address("enrol"), V5).await;
    match client.connect(&connect(V5, "")).await.reason_code {
        ReasonCode::Success => Ok(client),
        code => Err(code),
    }
}

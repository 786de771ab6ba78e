//! The Will: when it is published, when not, and as what.

use bytes::Bytes;
use portcullis::mqtt::{Connect, ProtocolVersion, PublishProperties, ReasonCode, TopicName, Will};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    client::{BOTH, Client, Q0, Q1, QOS, V5, disconnect, will},
    harness::{Harness, TESTER, allow, allow_read, as_user, lasting},
};

async fn watcher(harness: &Harness) -> Client {
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("will/#", Q1).await;
    watcher
}

fn with_will(version: ProtocolVersion, client_id: &str, topic: &str) -> Connect {
    let mut connect = as_user(version, client_id, TESTER);
    connect.will = Some(will(topic, "gone", Q1));
    connect
}

/// `[MQTT-3.1.2-8]`: every end that is not the client's own DISCONNECT.
#[tokio::test]
async fn a_will_is_published_however_the_connection_is_lost() {
    let harness = Harness::start("").await;
    let mut watcher = watcher(&harness).await;
    for version in BOTH {
        // The stream is reset.
        harness.login(&with_will(version, "c", "will/reset")).await.cut();
        watcher.expect_message("will/reset", "gone").await;
        // The stream ends.
        drop(harness.login(&with_will(version, "c", "will/end")).await);
        watcher.expect_message("will/end", "gone").await;
        // A protocol error.
        let mut client = harness.login(&with_will(version, "c", "will/error")).await;
        client.send_raw(&[0x00, 0x00]).await;
        watcher.expect_message("will/error", "gone").await;
        // Nothing comes for one and a half times the keep alive.
        let mut connect = with_will(version, "c", "will/silence");
        connect.keep_alive = 1;
        let mut client = harness.login(&connect).await;
        watcher.expect_message("will/silence", "gone").await;
        client.expect_ended(ReasonCode::KeepAliveTimeout).await;
        // Taken over, with a clean start.
        let _first = harness.login(&with_will(version, "c", "will/taken")).await;
        let _second = harness.client(version, "c").await;
        watcher.expect_message("will/taken", "gone").await;
    }
    // Ended by the access rules: the user is disabled, and has no rights any more.
    let user = harness.user("doomed", vec![allow("will/#")]);
    let mut connect = as_user(V5, "c", "doomed");
    connect.will = Some(will("will/forbidden", "gone", Q1));
    let mut client = harness.login(&connect).await;
    harness.change(user, |user| user.enabled = false);
    client.expect_ended(ReasonCode::NotAuthorized).await;
    watcher.expect_silence().await;
}

/// `[MQTT-3.1.2-10]` `[MQTT-3.14.4-3]`
#[tokio::test]
async fn disconnect_takes_the_will_back() {
    let harness = Harness::start("").await;
    let mut watcher = watcher(&harness).await;
    for version in BOTH {
        harness.login(&with_will(version, "c", "will/no")).await.disconnect().await;
        watcher.expect_silence().await;
    }
}

/// 3.14.2.1: version 5 may ask for the Will in its DISCONNECT.
#[tokio::test]
async fn disconnect_with_will_message() {
    let harness = Harness::start("").await;
    let mut watcher = watcher(&harness).await;
    let mut client = harness.login(&with_will(V5, "c", "will/asked")).await;
    client.send(disconnect(ReasonCode::DisconnectWithWill)).await;
    client.expect_closed().await;
    watcher.expect_message("will/asked", "gone").await;
}

/// `[MQTT-3.1.2-14]` `[MQTT-3.1.2-15]`, and QoS and properties. `[MQTT-3.1.3-10]`
#[tokio::test]
async fn a_will_keeps_its_flags_and_properties() {
    let harness = Harness::start("").await;
    let mut watcher = watcher(&harness).await;
    for (number, qos) in QOS.into_iter().enumerate() {
        let topic = format!("will/{number}");
        let mut connect = as_user(V5, "c", TESTER);
        let properties = PublishProperties {
            payload_format_indicator: Some(0),
            response_topic: Some(TopicName::try_from("r").unwrap()),
            correlation_data: Some(Bytes::from_static(b"7")),
            user_properties: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
            content_type: Some("x/y".into()),
            ..PublishProperties::default()
        };
        connect.will = Some(Will { retain: true, properties: properties.clone(), ..will(&topic, "gone", qos) });
        harness.login(&connect).await.cut();
        let got = watcher.expect_message(&topic, "gone").await;
        assert_eq!(got.qos, qos.min(Q1));
        assert_eq!(got.properties.as_deref(), Some(&properties));
        let mut late = harness.client(V5, "late").await;
        late.subscribe(&topic, Q1).await;
        assert!(late.expect_message(&topic, "gone").await.retain);
    }
}

/// `[MQTT-3.1.3-9]`: a delayed Will waits, and is not published when its client is back in time.
#[tokio::test]
async fn a_delayed_will_waits_for_its_client() {
    let harness = Harness::start("").await;
    let mut watcher = watcher(&harness).await;
    let delayed = |client_id: &str, expiry, delay| {
        let mut connect = lasting(V5, client_id);
        connect.properties.session_expiry_interval = Some(expiry);
        connect.will = Some(Will { delay_interval: Some(delay), ..will(&format!("will/{client_id}"), "gone", Q1) });
        connect
    };
    harness.login(&delayed("back", 100, 2)).await.cut();
    let lost = Instant::now();
    harness.login(&delayed("late", 100, 1)).await.cut();
    // The session ends before the delay does: then at its end. [MQTT-3.1.2-8]
    harness.login(&delayed("short", 1, 100)).await.cut();
    watcher.expect_silence().await;
    let back = harness.login(&delayed("back", 100, 2)).await;
    assert!(back.connack.as_ref().unwrap().session_present);
    let mut got = Vec::new();
    for _ in 0..2 {
        got.push(watcher.receive().await.topic.unwrap().as_str().to_owned());
    }
    assert!(lost.elapsed() >= Duration::from_millis(900), "a second is a second");
    got.sort_unstable();
    assert_eq!(got, ["will/late", "will/short"]);
    sleep(Duration::from_millis(1500)).await;
    watcher.expect_silence().await;
    back.disconnect().await;
    // A clean start ends the session, and with it the delay.
    harness.login(&delayed("clean", 100, 100)).await.cut();
    let mut clean = delayed("clean", 100, 100);
    clean.clean_start = true;
    clean.will = None;
    harness.login(&clean).await;
    watcher.expect_message("will/clean", "gone").await;
}

/// Not permitted: CONNACK 0x87 and 5, and nobody is left behind.
#[tokio::test]
async fn a_will_that_is_not_permitted_refuses_the_connection() {
    let harness = Harness::start("").await;
    let user = harness.user("limited", vec![allow_read("#"), allow("mine/#")]);
    for version in BOTH {
        for (topic, permitted) in [("mine/x", true), ("theirs/x", false), ("$SYS/x", false)] {
            let mut connect = as_user(version, "c", "limited");
            connect.will = Some(will(topic, "gone", Q0));
            if permitted {
                harness.login(&connect).await.disconnect().await;
            } else {
                assert_eq!(harness.refused(&connect).await.reason_code, ReasonCode::NotAuthorized);
            }
        }
    }
    // Permitted at CONNECT, forbidden when it would be published: it is not.
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("mine/#", Q1).await;
    let mut connect = as_user(V5, "c", "limited");
    connect.will = Some(will("mine/x", "gone", Q1));
    let mut client = harness.login(&connect).await;
    harness.permit(user, vec![allow_read("#")]);
    client.expect_silence().await;
    client.cut();
    let mut again = harness.client_of("limited", V5, "c").await;
    again.expect_silence().await;
    watcher.expect_silence().await;
}

//! The life of a session: made, kept, taken over, resumed, forgotten.

use std::num::NonZeroU16;

use portcullis::mqtt::{Disconnect, DisconnectProperties, Packet, ProtocolVersion, Publish, QoS, ReasonCode};
use tokio::time::{Duration, sleep};

use crate::{
    client::{BOTH, Client, Q0, Q1, Q2, V5, V311, ack, disconnect, id, publish, text_of, will},
    harness::{Harness, TESTER, as_user, lasting},
};

fn present(client: &Client) -> bool {
    client.connack.as_ref().unwrap().session_present
}

/// `[MQTT-3.1.2-4]` `[MQTT-3.1.2-5]` `[MQTT-3.1.2-6]` `[MQTT-3.2.2-2]` `[MQTT-3.2.2-3]`
#[tokio::test]
async fn a_session_is_resumed_unless_the_start_is_clean() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut first = harness.login(&lasting(version, "c")).await;
        assert!(!present(&first));
        first.subscribe("t", Q1).await;
        first.disconnect().await;

        let second = harness.login(&lasting(version, "c")).await;
        assert!(present(&second));
        let mut publisher = harness.client(version, "p").await;
        publisher.publish("t", "still subscribed", Q1).await;
        let mut second = second;
        second.expect_message("t", "still subscribed").await;
        second.disconnect().await;

        let mut clean = lasting(version, "c");
        clean.clean_start = true;
        let mut third = harness.login(&clean).await;
        assert!(!present(&third));
        publisher.publish("t", "nobody wants this", Q1).await;
        third.expect_silence().await;
    }
}

#[tokio::test]
async fn a_session_of_a_clean_3_1_1_connection_ends_with_it() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V311, "c").await;
    client.subscribe("t", Q1).await;
    client.disconnect().await;
    assert!(!present(&harness.login(&lasting(V311, "c")).await));
}

/// A session survives a change of the protocol version.
#[tokio::test]
async fn a_session_may_be_resumed_in_the_other_version() {
    let harness = Harness::start("").await;
    let mut old = harness.login(&lasting(V311, "c")).await;
    old.subscribe("t", Q1).await;
    old.disconnect().await;
    let mut new = harness.login(&lasting(V5, "c")).await;
    assert!(present(&new));
    harness.client(V311, "p").await.publish("t", "x", Q1).await;
    new.expect_message("t", "x").await;
}

/// `[MQTT-3.1.2-23]`: the interval counts from the end of the connection.
#[tokio::test]
async fn a_session_expires_after_its_interval() {
    let harness = Harness::start("").await;
    let mut short = lasting(V5, "short");
    short.properties.session_expiry_interval = Some(1);
    let mut long = lasting(V5, "long");
    long.properties.session_expiry_interval = Some(u32::MAX);
    harness.login(&short).await.disconnect().await;
    harness.login(&long).await.disconnect().await;
    assert!(present(&harness.login(&short).await), "it is resumed before its end");
    sleep(Duration::from_millis(1500)).await;
    // The connection was dropped just now by the client's end; it too counts from then.
    assert!(!present(&harness.login(&short).await));
    assert!(present(&harness.login(&long).await));
}

/// 3.14.2.2.2: DISCONNECT may change the interval, but not from nothing.
#[tokio::test]
async fn disconnect_changes_the_session_expiry() {
    let harness = Harness::start("").await;
    let with_expiry = |seconds| {
        let properties =
            DisconnectProperties { session_expiry_interval: Some(seconds), ..DisconnectProperties::default() };
        Packet::Disconnect(Disconnect { reason_code: ReasonCode::Success, properties })
    };
    let mut client = harness.login(&lasting(V5, "c")).await;
    client.send(with_expiry(0)).await;
    client.expect_closed().await;
    assert!(!present(&harness.login(&lasting(V5, "c")).await));

    let mut client = harness.client(V5, "d").await;
    client.send(with_expiry(10)).await;
    client.expect_ended(ReasonCode::ProtocolError).await;
}

/// The operator's bound is announced (3.2.2.3.2).
#[tokio::test]
async fn the_session_expiry_is_bounded_by_the_operator() {
    let harness = Harness::start("[limits]\nsession_expiry = \"10s\"").await;
    let client = harness.login(&lasting(V5, "c")).await;
    assert_eq!(client.connack.unwrap().properties.session_expiry_interval, Some(10));
}

/// `[MQTT-3.1.4-3]` of 5.0, `[MQTT-3.1.4-2]` of 3.1.1: the older connection of the client identifier ends.
#[tokio::test]
async fn a_newer_connection_takes_the_session_over() {
    let harness = Harness::start("").await;
    for older in BOTH {
        for newer in BOTH {
            let mut watcher = harness.client(V5, "watcher").await;
            watcher.subscribe("will", Q0).await;
            let mut connect = lasting(older, "c");
            connect.will = Some(will("will", "taken over", Q0));
            let mut first = harness.login(&connect).await;
            first.subscribe("t", Q1).await;

            let mut second = harness.login(&lasting(newer, "c")).await;
            assert!(present(&second));
            first.expect_ended(ReasonCode::SessionTakenOver).await;
            watcher.expect_message("will", "taken over").await;
            watcher.publish("t", "for the newer", Q1).await;
            second.expect_message("t", "for the newer").await;

            let mut clean = as_user(newer, "c", TESTER);
            clean.clean_start = true;
            let third = harness.login(&clean).await;
            assert!(!present(&third));
            second.expect_ended(ReasonCode::SessionTakenOver).await;
        }
    }
}

/// Quick successors: each one before the last is told.
#[tokio::test]
async fn a_row_of_takeovers_ends_all_but_the_last() {
    let harness = Harness::start("").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(harness.login(&lasting(V5, "c")).await);
    }
    let mut last = clients.pop().unwrap();
    for mut client in clients {
        client.expect_ended(ReasonCode::SessionTakenOver).await;
    }
    last.subscribe("t", Q1).await;
    last.publish("t", "alive", Q1).await;
    last.expect_message("t", "alive").await;
}

async fn publish_numbers(client: &mut Client, topic: &str, numbers: std::ops::Range<usize>, qos: QoS) {
    for number in numbers {
        client.publish(topic, &number.to_string(), qos).await;
    }
}

/// What waits for the window when another connection takes over reaches that one, in order and complete.
#[tokio::test]
async fn a_takeover_loses_nothing_that_waits() {
    let harness = Harness::start("").await;
    for (older, newer) in [(V5, V5), (V5, V311)] {
        let mut connect = lasting(older, "c");
        connect.properties.receive_maximum = NonZeroU16::new(2);
        let mut first = harness.login(&connect).await;
        first.subscribe("t", Q1).await;
        first.disconnect().await;
        let mut publisher = harness.client(V5, "p").await;
        publish_numbers(&mut publisher, "t", 0..200, Q1).await;
        let mut first = harness.login(&connect).await;
        let begun = [first.expect_publish().await, first.expect_publish().await];
        assert_eq!(begun.each_ref().map(text_of), ["0", "1"]);
        first.expect_silence().await;

        let mut second = harness.login(&lasting(newer, "c")).await;
        for number in 0..200 {
            let publish = second.expect_message("t", &number.to_string()).await;
            assert_eq!(publish.dup, number < 2, "message {number}"); // [MQTT-3.3.1-1]
        }
        second.expect_silence().await;
    }
}

/// The same when the connection is lost first.
#[tokio::test]
async fn a_lost_connection_loses_nothing_that_waits() {
    let harness = Harness::start("").await;
    let mut connect = lasting(V5, "c");
    connect.properties.receive_maximum = NonZeroU16::new(2);
    let mut first = harness.login(&connect).await;
    first.subscribe("t", Q1).await;
    let mut publisher = harness.client(V5, "p").await;
    publish_numbers(&mut publisher, "t", 0..100, Q1).await;
    assert_eq!(text_of(&first.expect_publish().await), "0");
    first.cut();
    publish_numbers(&mut publisher, "t", 100..150, Q1).await;
    let mut second = harness.login(&lasting(V5, "c")).await;
    for number in 0..150 {
        second.expect_message("t", &number.to_string()).await;
    }
    second.expect_silence().await;
}

/// Retained messages of a new subscription that waited for the window are part of the session too.
#[tokio::test]
async fn a_lost_connection_loses_no_retained_message_that_waits() {
    let harness = Harness::start("").await;
    let mut publisher = harness.client(V5, "p").await;
    for number in 0..10 {
        publisher.retain(&format!("r/{number}"), "kept", Q1).await;
    }
    for takeover in [true, false] {
        let mut connect = lasting(V5, "c");
        connect.clean_start = true;
        connect.properties.receive_maximum = NonZeroU16::new(1);
        let mut first = harness.login(&connect).await;
        first.subscribe("r/+", Q1).await;
        let mut seen = vec![first.expect_publish().await.topic.unwrap()];
        first.expect_silence().await;
        if !takeover {
            first.cut();
        }
        let mut second = harness.login(&lasting(V5, "c")).await;
        for _ in 0..10 {
            let publish = second.receive().await;
            assert!(publish.retain);
            seen.push(publish.topic.unwrap());
        }
        second.expect_silence().await;
        seen.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        seen.dedup();
        assert_eq!(seen.len(), 10);
    }
}

/// `[MQTT-3.1.2-5]` of 3.1.1, 4.1 of 5.0, `[MQTT-4.6.0-6]`: QoS 1 and 2 wait for the client, in order.
#[tokio::test]
async fn messages_for_an_absent_session_wait_in_order() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut connect = lasting(version, "c");
        connect.clean_start = version == V5;
        let mut client = harness.login(&connect).await;
        client.subscribe("t/+", Q2).await;
        client.disconnect().await;
        let mut publisher = harness.client(version, "p").await;
        for number in 0..30 {
            let qos = if number % 2 == 0 { Q1 } else { Q2 };
            publisher.publish(&format!("t/{}", number % 3), &number.to_string(), qos).await;
        }
        publisher.publish("t/0", "QoS 0 is not kept", Q0).await;
        let mut client = harness.login(&lasting(version, "c")).await;
        assert!(present(&client));
        for number in 0..30 {
            let qos = if number % 2 == 0 { Q1 } else { Q2 };
            let got = client.expect_message(&format!("t/{}", number % 3), &number.to_string()).await;
            assert_eq!((got.qos, got.dup, got.retain), (qos, false, false));
        }
        client.expect_silence().await;
        client.disconnect().await;
        harness.client(version, "c").await.disconnect().await;
    }
}

/// `limits.queue_messages`: the newest go, what is kept is without holes.
#[tokio::test]
async fn the_queue_of_an_absent_session_is_bounded() {
    let harness = Harness::start("[limits]\nqueue_messages = 5").await;
    let mut client = harness.login(&lasting(V5, "c")).await;
    client.subscribe("t", Q1).await;
    client.disconnect().await;
    let mut publisher = harness.client(V5, "p").await;
    publish_numbers(&mut publisher, "t", 0..20, Q1).await;
    let mut client = harness.login(&lasting(V5, "c")).await;
    for number in 0..5 {
        client.expect_message("t", &number.to_string()).await;
    }
    client.expect_silence().await;
}

/// `[MQTT-4.4.0-1]` `[MQTT-3.3.1-1]`: what is not acknowledged is sent again with DUP, the packet identifier kept.
#[tokio::test]
async fn unfinished_exchanges_are_resumed() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut fresh = lasting(version, "c");
        fresh.clean_start = version == V5;
        let mut client = harness.login(&fresh).await;
        client.subscribe("t", Q2).await;
        let mut publisher = harness.client(version, "p").await;
        for (payload, qos) in [("one", Q1), ("two", Q2), ("three", Q2), ("four", Q1)] {
            publisher.publish("t", payload, qos).await;
        }
        let mut sent = Vec::new();
        for _ in 0..4 {
            sent.push(client.expect_publish().await);
        }
        // The third one gets as far as PUBREL.
        let third = sent[2].packet_id.unwrap();
        client.send(Packet::PubRec(ack(third))).await;
        assert_eq!(client.recv().await, Packet::PubRel(ack(third)));
        client.cut();

        let mut client = harness.login(&lasting(version, "c")).await;
        assert!(present(&client));
        let mut again = Vec::new();
        let mut released = Vec::new();
        for _ in 0..4 {
            match client.recv().await {
                Packet::Publish(publish) => again.push(publish),
                Packet::PubRel(ack) => released.push(ack.packet_id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(released, [third]);
        let expected: Vec<_> =
            [0, 1, 3].into_iter().map(|index: usize| Publish { dup: true, ..sent[index].clone() }).collect();
        assert_eq!(again, expected);
        client.send(Packet::PubComp(ack(third))).await;
        for publish in &again {
            client.acknowledge(publish).await;
        }
        client.expect_silence().await;
        client.disconnect().await;
        // Finished: nothing comes again.
        let mut client = harness.login(&lasting(version, "c")).await;
        client.expect_silence().await;
        client.disconnect().await;
        harness.client(version, "c").await.disconnect().await;
    }
}

/// `[MQTT-4.3.3-10]`: a QoS 2 message that the client sends again on another connection is not published twice.
#[tokio::test]
async fn an_inbound_qos_2_exchange_survives_the_connection() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut reader = harness.client(version, "r").await;
        reader.subscribe("t", Q2).await;
        let mut client = harness.login(&lasting(version, "c")).await;
        let mut message = publish("t", "once", Q2);
        message.packet_id = Some(id(7));
        client.send(Packet::Publish(message.clone())).await;
        assert_eq!(client.recv().await, Packet::PubRec(ack(id(7))));
        client.cut();
        reader.expect_message("t", "once").await;

        let mut client = harness.login(&lasting(version, "c")).await;
        message.dup = true;
        client.send(Packet::Publish(message)).await;
        assert_eq!(client.recv().await, Packet::PubRec(ack(id(7))));
        client.send(Packet::PubRel(ack(id(7)))).await;
        assert_eq!(client.recv().await, Packet::PubComp(ack(id(7))));
        reader.expect_silence().await;
        // The identifier is free for another message.
        let mut other = publish("t", "another", Q2);
        other.packet_id = Some(id(7));
        client.publish_packet(other).await;
        reader.expect_message("t", "another").await;
        client.disconnect().await;
    }
}

/// The session of a client that goes and comes back at the same moment is either the old one or a new one, but never
/// one that is neither: the newer connection must hear what it subscribes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_as_the_session_ends_is_served() {
    let harness = Harness::start("").await;
    let mut before = harness.client(V5, "c").await;
    for round in 0..300 {
        let mut client = Client::open(harness.plain(), V5).await;
        let connect = Packet::Connect(Box::new(as_user(V5, "c", TESTER)));
        let (_, ()) = tokio::join!(before.try_send(disconnect(ReasonCode::Success)), client.send(connect));
        assert!(matches!(client.recv().await, Packet::ConnAck(_)));
        client.subscribe("t", Q0).await;
        client.publish_at_once("t", &round.to_string()).await;
        client.expect_message("t", &round.to_string()).await;
        before = client;
    }
}

/// Different users, and the registry's strangers, never meet under one client identifier.
#[tokio::test]
async fn many_sessions_come_and_go() {
    let harness = Harness::start("").await;
    for round in 0..3 {
        let mut clients = Vec::new();
        for number in 0..100 {
            let version = if number % 2 == 0 { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
            let mut client = harness.client(version, &format!("c{number}")).await;
            client.subscribe(&format!("t/{number}"), Q0).await;
            clients.push(client);
        }
        let mut publisher = harness.client(V5, "p").await;
        for (number, client) in clients.iter_mut().enumerate() {
            publisher.publish(&format!("t/{number}"), &round.to_string(), Q1).await;
            client.expect_message(&format!("t/{number}"), &round.to_string()).await;
        }
    }
}

//! PUBLISH in both directions: the three qualities of service, windows, and what travels with a message.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use portcullis::mqtt::{Packet, Publish, PublishProperties, ReasonCode, TopicName};
use tokio::time::{Duration, sleep};

use crate::{
    client::{BOTH, Client, PATIENCE, Q0, Q1, Q2, QOS, V5, V311, ack, id, publish, text_of, topic_of},
    harness::{Harness, TESTER, as_user, lasting},
};

/// `[MQTT-3.8.4-8]` of 5.0, `[MQTT-3.8.4-6]` of 3.1.1: the lower of the published and the granted QoS.
#[tokio::test]
async fn every_quality_of_service_both_ways() {
    let harness = Harness::start("").await;
    for sender in BOTH {
        for receiver in BOTH {
            let mut from = harness.client(sender, "from").await;
            for granted in QOS {
                let mut to = harness.client(receiver, "to").await;
                to.subscribe("a/b", granted).await;
                for sent in QOS {
                    from.publish("a/b", "message", sent).await;
                    let got = to.expect_message("a/b", "message").await;
                    assert_eq!(got.qos, sent.min(granted));
                    assert!(!got.dup && !got.retain);
                }
                to.expect_silence().await;
            }
        }
    }
}

/// An empty payload is a message like any other.
#[tokio::test]
async fn an_empty_payload_is_a_message() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("t", Q1).await;
        client.publish("t", "", Q1).await;
        client.expect_message("t", "").await;
    }
}

/// `[MQTT-3.3.4-7]` and 4.3.3: PUBREC, PUBREL and PUBCOMP in any order of exchanges.
#[tokio::test]
async fn exchanges_may_overlap() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut reader = harness.client(version, "r").await;
        reader.subscribe("t", Q0).await;
        let mut client = harness.client(version, "c").await;
        for number in 1..=10 {
            let message = Publish { packet_id: Some(id(number)), ..publish("t", &number.to_string(), Q2) };
            client.send(Packet::Publish(message)).await;
        }
        for number in 1..=10 {
            assert_eq!(client.recv().await, Packet::PubRec(ack(id(number)))); // in order: [MQTT-4.6.0-3]
        }
        for number in (1..=10).rev() {
            client.send(Packet::PubRel(ack(id(number)))).await;
        }
        for number in (1..=10).rev() {
            assert_eq!(client.recv().await, Packet::PubComp(ack(id(number))));
        }
        for number in 1..=10 {
            reader.expect_message("t", &number.to_string()).await;
        }
        reader.expect_silence().await;
    }
}

/// `[MQTT-4.3.3-10]`: before PUBREL, a PUBLISH with the same identifier is the same message.
#[tokio::test]
async fn a_repeated_qos_2_publish_is_routed_once() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("t", Q0).await;
        let message = Publish { packet_id: Some(id(3)), ..publish("t", "once", Q2) };
        client.send(Packet::Publish(message.clone())).await;
        let (mut messages, mut acknowledged) = (0, 0);
        client.send(Packet::Publish(Publish { dup: true, ..message })).await;
        for _ in 0..3 {
            match client.recv().await {
                Packet::Publish(_) => messages += 1,
                Packet::PubRec(_) => acknowledged += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((messages, acknowledged), (1, 2));
        client.expect_silence().await;
    }
}

/// A PUBREL of an exchange that the broker does not know is answered all the same (4.3.3, 3.7.2.1).
#[tokio::test]
async fn an_unknown_pubrel_is_answered() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V311, "c").await;
    client.send(Packet::PubRel(ack(id(9)))).await;
    assert_eq!(client.recv().await, Packet::PubComp(ack(id(9))));
    let mut client = harness.client(V5, "c5").await;
    client.send(Packet::PubRel(ack(id(9)))).await;
    match client.recv().await {
        Packet::PubComp(ack) => assert_eq!(ack.reason_code, ReasonCode::PacketIdentifierNotFound),
        other => panic!("{other:?}"),
    }
}

/// 0x10 in PUBACK and PUBREC, when nobody has a matching subscription.
#[tokio::test]
async fn version_5_learns_that_nobody_listens() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    for qos in [Q1, Q2] {
        assert_eq!(client.try_publish("nobody", "x", qos).await, ReasonCode::NoMatchingSubscribers);
    }
    client.subscribe("somebody", Q0).await;
    assert_eq!(client.try_publish("somebody", "x", Q1).await, ReasonCode::Success);
}

/// `[MQTT-3.3.4-9]`: never more unacknowledged messages than the client's Receive Maximum; QoS 0 is not counted, but
/// keeps its place in the order here.
#[tokio::test]
async fn the_receive_maximum_of_the_client_is_respected() {
    let harness = Harness::start("").await;
    let mut connect = as_user(V5, "c", TESTER);
    connect.properties.receive_maximum = NonZeroU16::new(3);
    let mut client = harness.login(&connect).await;
    client.subscribe("t", Q2).await;
    let mut publisher = harness.client(V5, "p").await;
    for number in 0..20 {
        publisher.publish("t", &number.to_string(), if number % 2 == 0 { Q1 } else { Q2 }).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(client.expect_publish().await);
    }
    client.expect_silence().await;
    for number in 3..20 {
        let first = waiting.remove(0);
        assert_eq!(text_of(&first), (number - 3).to_string());
        if first.qos == Q2 {
            // PUBREC does not give the place back, PUBCOMP does (4.9).
            client.send(Packet::PubRec(ack(first.packet_id.unwrap()))).await;
            assert_eq!(client.recv().await, Packet::PubRel(ack(first.packet_id.unwrap())));
            client.expect_silence().await;
            client.send(Packet::PubComp(ack(first.packet_id.unwrap()))).await;
        } else {
            client.acknowledge(&first).await;
        }
        waiting.push(client.expect_publish().await);
        assert_eq!(text_of(waiting.last().unwrap()), number.to_string());
    }
}

/// `[MQTT-3.3.4-7]` `[MQTT-4.9.0-2]`: whoever sends more than the broker's Receive Maximum is told 0x93.
#[tokio::test]
async fn the_receive_maximum_of_the_broker_is_enforced() {
    let harness = Harness::start("[limits]\ninflight = 3").await;
    let mut client = harness.client(V5, "c").await;
    let begin = |number| Packet::Publish(Publish { packet_id: Some(id(number)), ..publish("t", "x", Q2) });
    for number in 1..=3 {
        client.send(begin(number)).await;
        match client.recv().await {
            Packet::PubRec(ack) => assert_eq!(ack.packet_id, id(number)),
            other => panic!("{other:?}"),
        }
    }
    // One exchange ends: there is room for one.
    client.send(Packet::PubRel(ack(id(2)))).await;
    client.expect_pubcomp(id(2)).await;
    client.send(begin(4)).await;
    assert!(matches!(client.recv().await, Packet::PubRec(_)));
    client.send(begin(5)).await;
    client.expect_ended(ReasonCode::ReceiveMaximumExceeded).await;
}

/// Section 3.3.2.3: what belongs to the message is passed on unchanged, user properties in their order.
/// `[MQTT-3.3.2-4]` `[MQTT-3.3.2-15]` `[MQTT-3.3.2-16]` `[MQTT-3.3.2-17]` `[MQTT-3.3.2-18]` `[MQTT-3.3.2-20]`
#[tokio::test]
async fn properties_of_the_message_are_passed_on_unchanged() {
    let harness = Harness::start("").await;
    let mut reader = harness.client(V5, "r").await;
    let mut old = harness.client(V311, "old").await;
    reader.subscribe("t", Q2).await;
    old.subscribe("t", Q2).await;
    let mut writer = harness.client(V5, "w").await;
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        response_topic: Some(TopicName::try_from("answer/here").unwrap()),
        correlation_data: Some(Bytes::from_static(&[0, 1, 2, 255])),
        user_properties: vec![
            ("b".into(), "2".into()),
            ("a".into(), "1".into()),
            ("b".into(), "2".into()),
            (String::new().into(), String::new().into()),
        ],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    for qos in QOS {
        let message = Publish { properties: Some(Box::new(properties.clone())), ..publish("t", "grüße", qos) };
        writer.publish_packet(message).await;
        let got = reader.expect_message("t", "grüße").await;
        assert_eq!(got.properties.as_deref(), Some(&properties));
        assert_eq!(old.expect_message("t", "grüße").await.properties, None);
    }
}

/// `[MQTT-3.3.2-5]` `[MQTT-3.3.2-6]`
#[tokio::test]
async fn messages_expire() {
    let harness = Harness::start("").await;
    let with_expiry = |payload: &str, seconds, retain| Publish {
        retain,
        properties: Some(Box::new(PublishProperties {
            message_expiry_interval: Some(seconds),
            ..PublishProperties::default()
        })),
        ..publish("t", payload, Q1)
    };
    let mut client = harness.login(&lasting(V5, "c")).await;
    client.subscribe("t", Q1).await;
    client.disconnect().await;
    let mut publisher = harness.client(V5, "p").await;
    publisher.publish_packet(with_expiry("short", 1, true)).await;
    publisher.publish_packet(with_expiry("long", 1000, false)).await;
    publisher.publish("t", "for ever", Q1).await;
    sleep(Duration::from_millis(1300)).await;
    let mut client = harness.login(&lasting(V5, "c")).await;
    let got = client.expect_message("t", "long").await;
    let left = got.properties.unwrap().message_expiry_interval.unwrap();
    assert!((900..1000).contains(&left), "{left}");
    client.expect_message("t", "for ever").await;
    client.expect_silence().await;
    // The retained one is gone, too.
    let mut late = harness.client(V5, "late").await;
    late.subscribe("t", Q1).await;
    late.expect_silence().await;
}

/// `[MQTT-4.6.0-6]`: of one publisher to one subscriber, each topic in order, whatever the load.
#[tokio::test]
async fn order_is_kept_under_load() {
    let harness = Harness::start("").await;
    let mut reader = harness.client(V5, "r").await;
    reader.subscribe("load", Q1).await;
    let mut writer = harness.client(V5, "w").await;
    let total: u32 = 5_000;
    let writing = async {
        // At most the broker's Receive Maximum of 100 at a time.
        let (mut sent, mut acknowledged) = (0, 0);
        while acknowledged < total {
            while sent < total && sent - acknowledged < 100 {
                let packet_id = Some(id(u16::try_from(sent % 1000 + 1).unwrap()));
                let message = Publish { packet_id, ..publish("load", &sent.to_string(), Q1) };
                writer.send(Packet::Publish(message)).await;
                sent += 1;
            }
            assert!(matches!(writer.recv().await, Packet::PubAck(_)));
            acknowledged += 1;
        }
    };
    let reading = async {
        for number in 0..total {
            reader.expect_message("load", &number.to_string()).await;
        }
    };
    tokio::join!(writing, reading);
}

/// Fan-out: everybody gets every message once.
#[tokio::test]
async fn one_message_reaches_many() {
    let harness = Harness::start("").await;
    let mut readers = Vec::new();
    for number in 0..100 {
        let mut reader = harness.client(BOTH[number % 2], &format!("r{number}")).await;
        reader.subscribe("fan/#", QOS[number % 3]).await;
        readers.push(reader);
    }
    let mut writer = harness.client(V5, "w").await;
    for number in 0..20 {
        writer.publish("fan/out", &number.to_string(), Q1).await;
    }
    for reader in &mut readers {
        for number in 0..20 {
            reader.expect_message("fan/out", &number.to_string()).await;
        }
        reader.expect_silence().await;
    }
}

/// `[MQTT-3.1.2-24]` `[MQTT-3.1.2-25]`: what the client would not take is left out for it, and it alone.
#[tokio::test]
async fn the_maximum_packet_size_of_the_client_is_respected() {
    let harness = Harness::start("").await;
    let mut connect = as_user(V5, "small", TESTER);
    connect.properties.maximum_packet_size = NonZeroU32::new(100);
    let mut small = harness.login(&connect).await;
    let mut large = harness.client(V5, "large").await;
    for client in [&mut small, &mut large] {
        client.subscribe("t", Q2).await;
    }
    let mut writer = harness.client(V5, "w").await;
    let long = "x".repeat(200);
    for qos in QOS {
        writer.publish("t", &long, qos).await;
        writer.publish("t", "short", qos).await;
        small.expect_message("t", "short").await;
        large.expect_message("t", &long).await;
        large.expect_message("t", "short").await;
    }
    small.expect_silence().await;
    // Exactly as large as it may be: 2 bytes of header, 2 + 1 of topic, 1 of properties, the rest is payload.
    let exact = "y".repeat(94);
    writer.publish("t", &exact, Q0).await;
    small.expect_message("t", &exact).await;
    writer.publish("t", &"z".repeat(95), Q0).await;
    small.expect_silence().await;
}

/// `[MQTT-3.2.2-15]`: a packet larger than the broker takes is refused before it has arrived.
#[tokio::test]
async fn the_maximum_packet_size_of_the_broker_is_enforced() {
    let harness = Harness::start("[limits]\npacket_size = \"1KiB\"").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("t", Q0).await;
        let overhead = if version == V5 { 7 } else { 6 };
        let fits = "x".repeat(1024 - overhead);
        client.publish_at_once("t", &fits).await;
        client.expect_message("t", &fits).await;
        // Only the header: 1,022 + 3 bytes would be too many.
        client.send_raw(&[0x30, 0xFE, 0x07]).await;
        client.expect_ended(ReasonCode::PacketTooLarge).await;
    }
    let mut client = Client::open(harness.plain(), V5).await;
    client.send_raw(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).await;
    let _ = tokio::time::timeout(PATIENCE, client.read()).await.unwrap();
}

/// Megabytes pass in both directions at once.
#[tokio::test]
async fn large_messages_pass() {
    let harness = Harness::start("[limits]\npacket_size = \"8MiB\"").await;
    for version in BOTH {
        let mut reader = harness.client(version, "r").await;
        reader.subscribe("big", Q1).await;
        let mut writer = harness.client(version, "w").await;
        let payload = "0123456789abcdef".repeat(4 * 65_536);
        let (code, got) = tokio::join!(writer.try_publish("big", &payload, Q1), reader.receive());
        assert!(!code.is_error());
        assert_eq!(topic_of(&got), "big");
        assert!(text_of(&got) == payload);
    }
}

/// There are no topic aliases yet, as CONNACK says. `[MQTT-3.2.2-17]`
#[tokio::test]
async fn a_topic_alias_is_refused_as_announced() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    let properties = PublishProperties { topic_alias: NonZeroU16::new(1), ..PublishProperties::default() };
    client.send(Packet::Publish(Publish { properties: Some(Box::new(properties)), ..publish("t", "x", Q0) })).await;
    client.expect_ended(ReasonCode::TopicAliasInvalid).await;
}

/// `[MQTT-4.8.0-1]` A wrong acknowledgement ends the connection; one that answers nothing does not.
#[tokio::test]
async fn acknowledgements_that_do_not_fit() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.send(Packet::PubAck(ack(id(77)))).await;
        client.send(Packet::PubComp(ack(id(78)))).await;
        client.expect_silence().await;
        client.subscribe("t", Q2).await;
        client.publish("t", "x", Q2).await;
        let got = client.expect_publish().await;
        client.send(Packet::PubAck(ack(got.packet_id.unwrap()))).await;
        client.expect_ended(ReasonCode::ProtocolError).await;
    }
}

//! CONNECT: what is taken, what is refused, and how the refused one learns of it.

use bytes::Bytes;
use portcullis::mqtt::{ClientId, ConnectProperties, Packet, ReasonCode};
use tokio::time::Instant;

use crate::{
    client::{BOTH, Client, PATIENCE, Q0, V5, V311, connect},
    harness::{Harness, TESTER, as_user},
};

#[tokio::test]
async fn one_port_serves_both_versions() {
    let harness = Harness::start("").await;
    let mut old = harness.client(V311, "old").await;
    let mut new = harness.client(V5, "new").await;
    old.subscribe("a", Q0).await;
    new.subscribe("a", Q0).await;
    old.publish("a", "from 3.1.1", Q0).await;
    new.publish("a", "from 5", Q0).await;
    for client in [&mut old, &mut new] {
        client.expect_message("a", "from 3.1.1").await;
        client.expect_message("a", "from 5").await;
    }
}

/// What is announced is what there is: see section 3.2.2.3.
#[tokio::test]
async fn connack_announces_what_there_is() {
    let harness = Harness::start("[limits]\ninflight = 7\npacket_size = \"4KiB\"\nqueue_bytes = \"8KiB\"").await;
    let client = harness.client(V5, "c").await;
    let connack = client.connack.unwrap();
    assert!(!connack.session_present);
    let properties = connack.properties;
    assert_eq!(properties.receive_maximum.map(u16::from), Some(7));
    assert_eq!(properties.maximum_packet_size.map(u32::from), Some(4096));
    assert_eq!(properties.maximum_qos, None);
    assert_eq!(properties.retain_available, None);
    assert_eq!(properties.topic_alias_maximum, None);
    assert_eq!(properties.wildcard_subscription_available, None);
    assert_eq!(properties.subscription_identifiers_available, None);
    assert_eq!(properties.shared_subscription_available, Some(false));
    assert_eq!(properties.assigned_client_identifier, None);
    assert_eq!(properties.server_keep_alive, None);
}

/// `[MQTT-3.1.0-1]`: another first packet closes the connection, without an answer (no version is agreed).
#[tokio::test]
async fn the_first_packet_is_connect() {
    let harness = Harness::start("").await;
    let firsts: [&[u8]; 8] = [
        &[0xC0, 0x00],                               // PINGREQ
        &[0x30, 0x05, 0x00, 0x01, b'a', b'h', b'i'], // PUBLISH
        &[0xE0, 0x00],                               // DISCONNECT
        &[0xF0, 0x00],                               // AUTH
        &[0x20, 0x02, 0x00, 0x00],                   // CONNACK
        &[0x00, 0x00],                               // reserved
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 0x03, 0x01, 0x02, 0x00], // a TLS ClientHello on the wrong port
    ];
    for first in firsts {
        let mut client = Client::open(harness.plain(), V5).await;
        client.send_raw(first).await;
        client.expect_closed().await;
    }
    harness.client(V5, "others-are-served").await;
}

/// `[MQTT-3.1.0-2]`
#[tokio::test]
async fn a_second_connect_ends_the_connection() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "twice").await;
        client.send(Packet::Connect(Box::new(as_user(version, "twice", TESTER)))).await;
        client.expect_ended(ReasonCode::ProtocolError).await;
    }
}

/// `[MQTT-3.1.2-2]` of both versions.
#[tokio::test]
async fn an_unsupported_protocol_level_is_refused_with_its_code() {
    let harness = Harness::start("").await;
    // Level 3 is MQTT 3.1: it gets the return code of 3.1.1 for an unacceptable level.
    let mut client = Client::open(harness.plain(), V311).await;
    client.send_raw(&[0x10, 0x0D, 0, 4, b'M', b'Q', b'T', b'T', 3, 2, 0, 0, 0, 1, b'a']).await;
    match client.recv().await {
        Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::UnsupportedProtocolVersion),
        other => panic!("{other:?}"),
    }
    client.expect_closed().await;
    let mut client = Client::open(harness.plain(), V5).await;
    client.send_raw(&[0x10, 0x0E, 0, 4, b'M', b'Q', b'T', b'T', 6, 2, 0, 0, 0, 0, 1, b'a']).await;
    match client.recv().await {
        Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::UnsupportedProtocolVersion),
        other => panic!("{other:?}"),
    }
    client.expect_closed().await;
}

/// `[MQTT-3.1.4-1]` of 5.0: a CONNECT that is against the specification is answered with its code and closed.
#[tokio::test]
async fn a_malformed_connect_is_refused_with_its_code() {
    let harness = Harness::start("").await;
    // The reserved flag is set. [MQTT-3.1.2-3]
    let mut client = Client::open(harness.plain(), V5).await;
    client.send_raw(&[0x10, 0x0E, 0, 4, b'M', b'Q', b'T', b'T', 5, 3, 0, 0, 0, 0, 1, b'a']).await;
    match client.recv().await {
        Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::MalformedPacket),
        other => panic!("{other:?}"),
    }
    client.expect_closed().await;
    // 3.1.1 has no code for it. [MQTT-3.1.2-3]
    let mut client = Client::open(harness.plain(), V311).await;
    client.send_raw(&[0x10, 0x0D, 0, 4, b'M', b'Q', b'T', b'T', 4, 3, 0, 0, 0, 1, b'a']).await;
    client.expect_closed().await;
}

#[tokio::test]
async fn who_does_not_say_connect_in_time_is_closed() {
    let harness = Harness::start("[limits]\nconnect_timeout = \"300ms\"").await;
    let mut silent = Client::open(harness.plain(), V5).await;
    let mut slow = Client::open(harness.plain(), V5).await;
    slow.send_raw(&[0x10, 0x20, 0, 4, b'M']).await;
    let begin = Instant::now();
    silent.expect_closed().await;
    slow.expect_closed().await;
    assert!(begin.elapsed() < PATIENCE);
    // Who has connected in time stays.
    let mut client = harness.client(V5, "c").await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    client.expect_silence().await;
}

/// The table "What a refused client sees": 0x85 and 2 for `+` and `#`; NUL is malformed (0x81, closed).
#[tokio::test]
async fn client_identifiers_that_could_be_mistaken_for_filters_are_refused() {
    let harness = Harness::start("").await;
    for version in BOTH {
        for client_id in ["a+b", "#", "plant/#", "+"] {
            let connack = harness.refused(&as_user(version, client_id, TESTER)).await;
            assert_eq!(connack.reason_code, ReasonCode::ClientIdentifierNotValid, "{client_id}");
        }
    }
    let with_nul = |level: u8| {
        let mut bytes = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0];
        if level == 5 {
            bytes.push(0);
        }
        bytes.extend_from_slice(&[0, 3, b'a', 0, b'b']);
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        bytes
    };
    let mut client = Client::open(harness.plain(), V5).await;
    client.send_raw(&with_nul(5)).await;
    match client.recv().await {
        Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::MalformedPacket),
        other => panic!("{other:?}"),
    }
    client.expect_closed().await;
    let mut client = Client::open(harness.plain(), V311).await;
    client.send_raw(&with_nul(4)).await;
    client.expect_closed().await;
}

/// `[MQTT-3.1.3-6]` `[MQTT-3.1.3-7]` `[MQTT-3.2.2-16]` of 5.0.
#[tokio::test]
async fn an_empty_client_identifier_gets_one_assigned() {
    let harness = Harness::start("").await;
    let mut drawn = Vec::new();
    for _ in 0..2 {
        let client = harness.client(V5, "").await;
        let assigned = client.connack.unwrap().properties.assigned_client_identifier.expect("it is told");
        assert!(!assigned.is_empty());
        drawn.push(assigned);
    }
    assert_ne!(drawn[0], drawn[1]);
    // It is a client identifier like any other.
    let again = harness.client(V5, &drawn[0]).await;
    assert_eq!(again.connack.unwrap().properties.assigned_client_identifier, None);
}

/// `[MQTT-3.1.3-8]` of 3.1.1.
#[tokio::test]
async fn an_empty_client_identifier_of_3_1_1_needs_a_clean_session() {
    let harness = Harness::start("").await;
    harness.client(V311, "").await.expect_silence().await;
    let mut connect = as_user(V311, "", TESTER);
    connect.clean_start = false;
    assert_eq!(harness.refused(&connect).await.reason_code, ReasonCode::ClientIdentifierNotValid);
}

/// `[MQTT-3.1.3-5]`: at least 23 letters and digits; longer ones and other characters are taken too.
#[tokio::test]
async fn usual_client_identifiers_are_taken() {
    let harness = Harness::start("").await;
    let long = "x".repeat(1000);
    for version in BOTH {
        for client_id in ["0123456789abcdefghijklm", "Grüße/€", "a b", &long] {
            harness.client(version, client_id).await.expect_silence().await;
        }
    }
}

/// `[MQTT-4.12.0-1]`: there is no extended authentication.
#[tokio::test]
async fn an_authentication_method_is_refused() {
    let harness = Harness::start("").await;
    let mut connect = as_user(V5, "c", TESTER);
    connect.properties = ConnectProperties {
        authentication_method: Some("SCRAM-SHA-256".into()),
        authentication_data: Some(Bytes::from_static(b"n,,n=user")),
        ..ConnectProperties::default()
    };
    assert_eq!(harness.refused(&connect).await.reason_code, ReasonCode::BadAuthenticationMethod);
}

/// `[MQTT-3.1.2-29]`
#[tokio::test]
async fn a_reason_string_only_for_those_who_want_it() {
    let harness = Harness::start("").await;
    let mut refused = as_user(V5, "c", "nobody");
    assert!(harness.refused(&refused).await.properties.reason_string.is_some());
    refused.properties.request_problem_information = Some(false);
    assert_eq!(harness.refused(&refused).await.properties.reason_string, None);
}

/// `[MQTT-3.1.2-24]`: not even the CONNACK of a refusal may be larger than the client takes.
#[tokio::test]
async fn a_refusal_fits_the_maximum_packet_size_of_the_client() {
    let harness = Harness::start("").await;
    let mut refused = as_user(V5, "c", "nobody");
    refused.properties.maximum_packet_size = std::num::NonZeroU32::new(10);
    let connack = harness.refused(&refused).await;
    assert_eq!(connack.reason_code, ReasonCode::BadUserNameOrPassword);
    assert_eq!(connack.properties.reason_string, None);
}

/// CONNECT may be followed by other packets at once (4.8 and 3.1: "Clients are allowed to send further packets").
#[tokio::test]
async fn packets_may_follow_connect_at_once() {
    use crate::client::{options, publish};
    use bytes::BytesMut;
    use portcullis::mqtt::{Subscribe, SubscribeFilter, TopicFilter, codec::encode};

    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = Client::open(harness.plain(), version).await;
        let mut bytes = BytesMut::new();
        let subscribe = Subscribe {
            packet_id: crate::client::id(9),
            filters: vec![SubscribeFilter { filter: TopicFilter::try_from("t").unwrap(), options: options(Q0) }],
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        let packets = [
            Packet::Connect(Box::new(as_user(version, "eager", TESTER))),
            Packet::Subscribe(subscribe),
            Packet::Publish(publish("t", "hello", Q0)),
        ];
        for packet in &packets {
            encode(packet, version, &mut bytes).unwrap();
        }
        client.send_raw(&bytes).await;
        assert!(matches!(client.recv().await, Packet::ConnAck(_)));
        client.expect_suback(crate::client::id(9)).await;
        client.expect_message("t", "hello").await;
    }
}

/// A CONNECT in as many pieces as it has bytes is as good as in one.
#[tokio::test]
async fn a_connect_in_pieces_is_put_together() {
    use bytes::BytesMut;
    use portcullis::mqtt::codec::encode;

    let harness = Harness::start("").await;
    let mut bytes = BytesMut::new();
    encode(&Packet::Connect(Box::new(as_user(V5, "piecemeal", TESTER))), V5, &mut bytes).unwrap();
    let mut client = Client::open(harness.plain(), V5).await;
    for byte in &bytes {
        client.send_raw(std::slice::from_ref(byte)).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(client.recv().await, Packet::ConnAck(_)));
}

/// Without credentials, on a listener that neither names an anonymous user nor lets anybody enrol.
#[tokio::test]
async fn nobody_comes_in_without_credentials() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let refused = harness.refused(&connect(version, "c")).await;
        assert_eq!(refused.reason_code, ReasonCode::BadUserNameOrPassword);
    }
    let mut nameless = as_user(V5, "c", TESTER);
    nameless.username = None; // 5.0 admits a password alone
    assert_eq!(harness.refused(&nameless).await.reason_code, ReasonCode::BadUserNameOrPassword);
}

/// Nobody may borrow somebody's session: the same client identifier of another user is another session.
#[tokio::test]
async fn a_client_identifier_belongs_to_its_user() {
    let harness = Harness::start("").await;
    harness.user("other", vec![crate::harness::allow("#")]);
    let mut one = harness.client(V5, "same").await;
    one.subscribe("t", Q0).await;
    let mut connect = as_user(V5, "same", "other");
    connect.clean_start = false;
    let mut other = harness.login(&connect).await;
    assert!(!other.connack.as_ref().unwrap().session_present);
    one.expect_silence().await;
    other.expect_silence().await;
    assert_eq!(ClientId::try_from("same").unwrap().as_str(), "same");
}

//! What a hostile client, or a hostile network, tries against the broker as a whole.

use std::time::Duration;

use bytes::Bytes;
use portcullis::mqtt::{ByteString, Packet, Publish, PublishProperties, SubscribeFilter, TopicFilter};
use tokio::time::timeout;

use crate::{
    client::{Client, Q0, Q1, V5, id, options, publish},
    harness::{Harness, TESTER, as_user, lasting},
};

/// One packet that names one filter a great many times gets its retained messages once, and soon.
#[tokio::test]
async fn a_filter_named_over_and_over_in_one_packet_costs_no_more_than_once() {
    let harness = Harness::start("").await;
    let mut publisher = harness.client(V5, "p").await;
    for number in 0..500 {
        publisher.retain(&format!("r/{number}"), "kept", Q1).await;
    }
    let mut client = harness.client(V5, "c").await;
    let filter = SubscribeFilter { filter: TopicFilter::try_from("r/#").unwrap(), options: options(Q0) };
    client
        .send(Packet::Subscribe(portcullis::mqtt::Subscribe {
            packet_id: id(1),
            filters: vec![filter; 100_000],
            subscription_identifier: None,
            user_properties: Vec::new(),
        }))
        .await;
    assert_eq!(client.expect_suback(id(1)).await.reason_codes.len(), 100_000);
    for _ in 0..500 {
        assert!(client.expect_publish().await.retain);
    }
    client.expect_silence().await;
}

/// Messages that are all properties fill the queue of an absent session as those that are all payload.
#[tokio::test]
async fn what_hides_in_properties_counts_against_the_queue() {
    let harness = Harness::start("[limits]\nqueue_bytes = \"1MiB\"\npacket_size = \"256KiB\"\n").await;
    let absent = {
        let mut client = harness.login(&lasting(V5, "absent")).await;
        client.subscribe("t", Q1).await;
        client.disconnect().await;
        lasting(V5, "absent")
    };
    let mut publisher = harness.client(V5, "p").await;
    let text = ByteString::from("x".repeat(60_000));
    for _ in 0..100 {
        let properties =
            PublishProperties { user_properties: vec![(text.clone(), text.clone())], ..PublishProperties::default() };
        let message = Publish { properties: Some(Box::new(properties)), ..publish("t", "", Q1) };
        publisher.publish_packet(message).await;
    }
    let mut client = harness.login(&absent).await;
    let (mut held, mut pongs) = (0, 0);
    client.send(Packet::PingReq).await;
    // Two answers with nothing in between: nothing waits any more.
    while pongs < 2 {
        match client.recv().await {
            Packet::Publish(message) => {
                client.acknowledge(&message).await;
                (held, pongs) = (held + 1, 0);
            }
            Packet::PingResp => {
                pongs += 1;
                client.send(Packet::PingReq).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((1..=10).contains(&held), "{held} messages of 120 KB were queued in 1 MiB");
}

/// A client that does not read what it is sent is not read either: its packets stay in the sockets, not in the broker.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_read() {
    let harness = Harness::start("").await;
    let mut client = Client::open_narrow(harness.plain(), V5).await;
    client.connect(&as_user(V5, "c", TESTER)).await;
    client.subscribe("t", Q0).await;
    let mut bytes = bytes::BytesMut::new();
    let message = Publish { payload: Bytes::from(vec![0; 50_000]), ..publish("t", "", Q0) };
    portcullis::mqtt::codec::encode(&Packet::Publish(message), V5, &mut bytes).unwrap();
    let written = timeout(Duration::from_secs(3), async {
        for _ in 0..4000 {
            client.try_send_raw(&bytes).await.unwrap();
        }
    });
    assert!(written.await.is_err(), "200 MB were taken from a client that reads nothing");
    // Nobody else is held up.
    let mut other = harness.client(V5, "other").await;
    other.publish("u", "x", Q1).await;
}

/// A second CONNECT is a protocol error, whatever version it names: DISCONNECT has no code for that. `[MQTT-3.1.0-2]`
#[tokio::test]
async fn a_second_connect_of_an_unknown_version_is_a_protocol_error() {
    let harness = Harness::start("").await;
    for level in [3, 4, 5, 6] {
        let mut client = harness.client(V5, "c").await;
        let mut connect = vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 0, 0, 0, 0];
        if level != 5 {
            connect.pop();
            connect[1] -= 1;
        }
        client.send_raw(&connect).await;
        client.expect_ended(portcullis::mqtt::ReasonCode::ProtocolError).await;
    }
}

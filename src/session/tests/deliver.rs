//! PUBLISH to the client.

use super::*;

#[test]
fn qos_is_the_lower_of_message_grant_and_rule() {
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a/#", "allow read b max_qos=1"]);
    for asked in all {
        assert!(!bench.subscribe("a/#", asked).is_error());
        for sent in all {
            let outgoing = bench.delivered(message("a/x", sent));
            assert_eq!(outgoing.qos, asked.min(sent)); // [MQTT-3.8.4-8]
            assert_eq!(outgoing.packet_id.is_some(), outgoing.qos > QoS::AtMostOnce);
            assert!(!outgoing.dup);
        }
    }
    assert_eq!(bench.subscribe("b", QoS::ExactlyOnce), ReasonCode::GrantedQoS1, "downgraded, not refused");
    assert_eq!(bench.delivered(message("b", QoS::ExactlyOnce)).qos, QoS::AtLeastOnce);
}

#[test]
fn overlapping_subscriptions_make_one_copy_with_the_highest_qos_and_every_identifier() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    for (text, qos, identifier) in
        [("a/#", QoS::AtMostOnce, Some(1)), ("a/+", QoS::ExactlyOnce, Some(2)), ("#", QoS::AtLeastOnce, None)]
    {
        bench.subscribe_with(text, SubscriptionOptions { qos, ..SubscriptionOptions::default() }, identifier);
    }
    let outgoing = bench.delivered(message("a/b", QoS::ExactlyOnce));
    assert_eq!(outgoing.qos, QoS::ExactlyOnce); // [MQTT-3.3.4-2]
    let mut identifiers: Vec<u32> = outgoing.subscription_identifiers.iter().map(|number| number.get()).collect();
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 2]); // [MQTT-3.3.4-4]
    bench.lose();
    bench.connect(&lasting(ProtocolVersion::V311));
    assert!(bench.delivered(message("a/b", QoS::AtMostOnce)).subscription_identifiers.is_empty());
}

#[test]
fn no_local_holds_back_the_sessions_own_messages_from_that_subscription_alone() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    let no_local = SubscriptionOptions { no_local: true, qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    bench.subscribe_with("a", no_local, None);
    let own = Message { publisher: bench.session.publisher(), ..message("a", QoS::AtLeastOnce) };
    assert_eq!(bench.deliver(own.clone()).0, Disposition::NotWanted); // [MQTT-3.8.3-3]
    assert_eq!(bench.deliver(message("a", QoS::AtLeastOnce)).0, Disposition::Sent);
    bench.subscribe("+", QoS::AtMostOnce);
    assert_eq!(bench.delivered(own).qos, QoS::AtMostOnce);
}

#[test]
fn the_retain_flag_follows_the_subscription() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    let retained = Message { retain: true, ..message("a", QoS::AtMostOnce) };
    bench.subscribe("a", QoS::AtMostOnce);
    assert!(!bench.delivered(retained.clone()).retain); // [MQTT-3.3.1-12]
    let sent_for_subscription = Delivery { retained: true, ..bench.delivery(retained.clone()) };
    let (_, outputs) = bench.give(|session, cx| session.handle_delivery(sent_for_subscription, cx));
    assert!(deliveries(&outputs)[0].retain); // [MQTT-3.3.1-8] of 3.1.1
    let options = SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::default() };
    bench.subscribe_with("a", options, None);
    assert!(bench.delivered(retained).retain); // [MQTT-3.3.1-13]
    assert!(!bench.delivered(message("a", QoS::AtMostOnce)).retain);
}

#[test]
fn a_message_larger_than_the_client_takes_is_left_out_as_if_it_had_been_delivered() {
    let mut bench = Bench::new(&["allow read a"]);
    let mut connect = lasting(ProtocolVersion::V5);
    connect.properties.maximum_packet_size = NonZeroU32::new(60);
    bench.connect(&connect);
    bench.subscribe("a", QoS::AtLeastOnce);
    for (payload, disposition) in [(52, Disposition::Sent), (53, Disposition::TooLarge)] {
        // 2 header + 2 + 1 topic + 2 identifier + 1 property length
        let message = Message { payload: vec![0; payload].into(), ..message("a", QoS::AtLeastOnce) };
        assert_eq!(bench.deliver(message).0, disposition); // [MQTT-3.1.2-25]
    }
    assert_eq!(bench.session.inflight_len(), 1);
    // One in flight that the next connection does not take is finished too.
    bench.lose();
    connect.properties.maximum_packet_size = NonZeroU32::new(40);
    assert!(deliveries(&bench.connect(&connect)).is_empty());
    assert_eq!(bench.session.inflight_len(), 0);
}

#[test]
fn an_answer_that_the_client_does_not_take_ends_the_connection() {
    let mut bench = Bench::new(&[]);
    let mut connect = clean(ProtocolVersion::V5);
    connect.properties.maximum_packet_size = NonZeroU32::new(8);
    let outputs = bench.connect(&connect);
    assert!(sent(&outputs).is_empty()); // [MQTT-3.1.2-24]
    assert_eq!(closed(&outputs), Some(CloseReason::PacketTooLargeForClient));
}

#[test]
fn an_expired_message_is_dropped_and_the_time_waited_is_subtracted() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    let properties = PublishProperties { message_expiry_interval: Some(10), ..PublishProperties::default() };
    let message = Message {
        expires: Message::expiry(bench.now(), Some(&properties)),
        properties: Some(Box::new(properties)),
        ..message("a", QoS::AtLeastOnce)
    };
    bench.pass(4);
    assert_eq!(bench.delivered(message.clone()).message_expiry, Some(6)); // [MQTT-3.3.2-6]
    bench.pass(6);
    assert_eq!(bench.deliver(message).0, Disposition::Expired); // [MQTT-3.3.2-5]
    // What was begun is finished. [MQTT-4.3.3-7]
    bench.lose();
    let resent = deliveries(&bench.connect(&lasting(ProtocolVersion::V5)));
    assert_eq!((resent.len(), resent[0].dup), (1, true));
}

#[test]
fn the_window_is_the_smaller_of_the_clients_and_ours() {
    for (theirs, ours, window) in [(Some(2), 5, 2), (Some(9), 3, 3), (None, 4, 4)] {
        let mut bench = Bench::new(&["allow read a"]);
        bench.settings.outbound_window = NonZeroU16::new(ours).unwrap();
        let mut connect = lasting(ProtocolVersion::V5);
        connect.properties.receive_maximum = theirs.and_then(NonZeroU16::new);
        bench.connect(&connect);
        bench.subscribe("a", QoS::ExactlyOnce);
        for _ in 0..window {
            assert!(bench.session.can_deliver());
            bench.delivered(message("a", QoS::ExactlyOnce));
        }
        assert!(!bench.session.can_deliver());
        assert_eq!(bench.deliver(message("a", QoS::AtLeastOnce)).0, Disposition::NotNow); // [MQTT-3.3.4-9]
        bench.packet(Packet::PubRec(ok(1)));
        assert!(!bench.session.can_deliver(), "PUBREC gives no room");
        bench.packet(Packet::PubComp(ok(1)));
        assert!(bench.session.can_deliver());
        // All else goes on. [MQTT-3.3.4-10]
        assert_eq!(sent(&bench.packet(Packet::PingReq)), [Packet::PingResp]);
    }
}

/// A client that takes large messages and acknowledges none cannot make the broker hold a whole window of them, and
/// encode them all when it comes back.
#[test]
fn what_is_in_flight_is_bounded_in_bytes() {
    let heavy = |payload: usize, property: usize| Message {
        payload: vec![0; payload].into(),
        properties: Some(Box::new(PublishProperties {
            correlation_data: Some(vec![0; property].into()),
            ..PublishProperties::default()
        })),
        ..message("a", QoS::AtLeastOnce)
    };
    for (payload, property) in [(1000, 0), (0, 1000)] {
        let mut bench = Bench::new(&["allow read a"]);
        bench.settings.outbound_bytes = 2500;
        bench.connect(&lasting(ProtocolVersion::V5));
        bench.subscribe("a", QoS::AtLeastOnce);
        for _ in 0..3 {
            bench.delivered(heavy(payload, property));
        }
        assert!(!bench.session.can_deliver());
        bench.lose();
        assert_eq!(deliveries(&bench.connect(&lasting(ProtocolVersion::V5))).len(), 3);
        assert!(!bench.session.can_deliver());
        bench.packet(Packet::PubAck(ok(1)));
        bench.packet(Packet::PubAck(ok(2)));
        // Larger than the bound: goes out when nothing else does.
        bench.packet(Packet::PubAck(ok(3)));
        bench.delivered(heavy(payload * 9, property * 9));
        assert!(!bench.session.can_deliver());
        bench.packet(Packet::PubAck(ok(4)));
        assert!(bench.session.can_deliver());
    }
}

#[test]
fn what_is_in_flight_is_sent_again_in_order_and_only_on_resumption() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow read a"]);
        bench.subscribe("a", QoS::ExactlyOnce);
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            bench.delivered(message("a", qos));
        }
        bench.packet(Packet::PubAck(ok(1)));
        assert_eq!(sent(&bench.packet(Packet::PubRec(ok(3)))), [Packet::PubRel(ok(3))]);
        assert_eq!(sent(&bench.packet(Packet::PubRec(ok(2)))), [Packet::PubRel(ok(2))]);
        bench.pass(3600);
        assert!(bench.timeout().is_empty(), "nothing is sent again while connected"); // [MQTT-4.4.0-1]
        bench.lose();
        let mut connect = lasting(version);
        connect.properties.receive_maximum = (version == ProtocolVersion::V5).then_some(NonZeroU16::new(3).unwrap());
        let outputs = bench.connect(&connect);
        assert_eq!(sent(&outputs)[1..], [Packet::PubRel(ok(3)), Packet::PubRel(ok(2))]);
        let again = |outputs: &[Output]| -> Vec<_> {
            deliveries(outputs).iter().map(|o| (o.packet_id.unwrap().0.get(), o.dup, o.qos)).collect()
        };
        let (fourth, fifth) = ((4, true, QoS::AtLeastOnce), (5, true, QoS::ExactlyOnce));
        if version == ProtocolVersion::V311 {
            assert_eq!(again(&outputs), [fourth, fifth]);
        } else {
            // A smaller window than before: the rest follows as there is room.
            assert_eq!(again(&outputs), [fourth]);
            assert!(!bench.session.can_deliver());
            assert_eq!(again(&bench.packet(Packet::PubComp(ok(2)))), [fifth]);
        }
        // Clean start: all is gone.
        bench.lose();
        assert!(deliveries(&bench.connect(&clean(version))).is_empty());
        assert_eq!(bench.session.inflight_len(), 0);
    }
}

#[test]
fn an_error_from_the_client_ends_the_exchange() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::ExactlyOnce);
    bench.delivered(message("a", QoS::AtLeastOnce));
    bench.delivered(message("a", QoS::ExactlyOnce));
    assert!(sent(&bench.packet(Packet::PubAck(ack(1, ReasonCode::QuotaExceeded)))).is_empty());
    assert!(sent(&bench.packet(Packet::PubRec(ack(2, ReasonCode::QuotaExceeded)))).is_empty());
    bench.lose();
    assert!(deliveries(&bench.connect(&lasting(ProtocolVersion::V5))).is_empty()); // [MQTT-4.4.0-2]
}

#[test]
fn acknowledgements_that_answer_nothing() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow read a"]);
        bench.subscribe("a", QoS::ExactlyOnce);
        assert!(bench.packet(Packet::PubAck(ok(7))).is_empty());
        assert!(bench.packet(Packet::PubComp(ok(7))).is_empty());
        let code =
            if version == ProtocolVersion::V5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
        assert_eq!(sent(&bench.packet(Packet::PubRec(ok(7)))), [Packet::PubRel(ack(7, code))]);
        bench.delivered(message("a", QoS::AtLeastOnce));
        assert_failed(&bench.packet(Packet::PubRec(ok(1))), version, ReasonCode::ProtocolError);
        bench.connect(&lasting(version));
        bench.packet(Packet::PubAck(ok(1)));
        bench.delivered(message("a", QoS::ExactlyOnce));
        assert_failed(&bench.packet(Packet::PubAck(ok(2))), version, ReasonCode::ProtocolError);
    }
}

#[test]
fn identifiers_go_round_and_step_over_those_in_use() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    let mut held = Vec::new();
    for expected in 1..=70_000_u32 {
        let number = bench.delivered(message("a", QoS::AtLeastOnce)).packet_id.unwrap().0.get();
        assert!(!held.contains(&number));
        if expected % 100 == 7 && held.len() < 50 {
            held.push(number);
        } else {
            bench.packet(Packet::PubAck(ok(number)));
        }
    }
    assert_eq!(bench.session.inflight_len(), 50);
}

#[test]
fn a_stale_number_and_a_detached_session_get_nothing() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    let stale = bench.delivery(message("a", QoS::AtLeastOnce));
    let filters = vec![filter("a"), filter("b")];
    bench.packet(Packet::Unsubscribe(Unsubscribe { packet_id: id(1), filters, user_properties: Vec::new() }));
    bench.subscribe("b", QoS::AtLeastOnce); // in the same slot
    assert_eq!(bench.give(|session, cx| session.handle_delivery(stale, cx)).0, Disposition::NotWanted);
    bench.lose();
    assert!(!bench.session.can_deliver());
    assert_eq!(bench.deliver(message("b", QoS::AtLeastOnce)).0, Disposition::NotNow);
}

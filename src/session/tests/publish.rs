//! PUBLISH from the client.

use super::*;

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// The one acknowledgement among the outputs.
fn acked(outputs: &[Output]) -> Option<(bool, u16, ReasonCode)> {
    let acks: Vec<_> = sent(outputs)
        .into_iter()
        .filter_map(|packet| match packet {
            Packet::PubAck(ack) => Some((false, ack.packet_id.0.get(), ack.reason_code)),
            Packet::PubRec(ack) => Some((true, ack.packet_id.0.get(), ack.reason_code)),
            _ => None,
        })
        .collect();
    assert!(acks.len() <= 1, "{acks:?}");
    acks.first().copied()
}

#[test]
fn a_permitted_message_is_routed_and_acknowledged_once_it_is_taken() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow write a/#"]);
        for qos in QOS {
            let outputs = bench.packet(Packet::Publish(publish("a/b", qos, 5)));
            assert_eq!(routed(&outputs).len(), 1);
            assert_eq!(acked(&outputs), None, "not before the router has it");
            let Some(ticket) = outputs.iter().find_map(ticket) else { continue };
            let ((), outputs) =
                bench.give(|session, cx| session.handle_accepted(ticket, RouteOutcome::NoSubscribers, cx));
            let code =
                if version == ProtocolVersion::V5 { ReasonCode::NoMatchingSubscribers } else { ReasonCode::Success };
            assert_eq!(acked(&outputs), Some((qos == QoS::ExactlyOnce, 5, code)));
            bench.packet(Packet::PubRel(ok(5)));
        }
    }
}

#[test]
fn what_the_rules_forbid_is_refused_with_the_codes_of_the_access_model() {
    let rules = ["allow write a max_qos=1 retain=false", "deny write b"];
    let retained = Publish { retain: true, ..publish("a", QoS::AtMostOnce, 1) };
    for (bad, cause, code) in [
        (publish("a", QoS::ExactlyOnce, 1), RefusalCause::QoS, ReasonCode::NotAuthorized),
        (
            Publish { retain: true, ..publish("a", QoS::AtLeastOnce, 1) },
            RefusalCause::Retain,
            ReasonCode::NotAuthorized,
        ),
        (publish("b", QoS::AtLeastOnce, 1), RefusalCause::Rules, ReasonCode::NotAuthorized),
        (publish("$SYS/x", QoS::AtLeastOnce, 1), RefusalCause::Reserved, ReasonCode::NotAuthorized),
        (publish("$registry/admin/grant", QoS::ExactlyOnce, 1), RefusalCause::Rules, ReasonCode::NotAuthorized),
        (
            publish("$registry/register/response", QoS::AtLeastOnce, 1),
            RefusalCause::Reserved,
            ReasonCode::NotAuthorized,
        ),
        (publish(&"a/".repeat(128), QoS::AtLeastOnce, 1), RefusalCause::TopicTooLong, ReasonCode::TopicNameInvalid),
        (publish("b", QoS::AtMostOnce, 1), RefusalCause::Rules, ReasonCode::NotAuthorized),
        (retained, RefusalCause::Retain, ReasonCode::NotAuthorized),
    ] {
        let (exactly, waits) = (bad.qos == QoS::ExactlyOnce, bad.packet_id.is_some());
        // Version 5: the connection stays.
        let mut bench = Bench::connected(ProtocolVersion::V5, &rules);
        let outputs = bench.publish(bad.clone());
        assert_eq!(refusals(&outputs), [(Action::Publish, cause, code)]);
        assert_eq!(acked(&outputs), waits.then_some((exactly, 1, code)));
        assert!(routed(&outputs).is_empty() && bench.session.is_attached());
        // 3.1.1: closed, without an answer.
        let mut bench = Bench::connected(ProtocolVersion::V311, &rules);
        let outputs = bench.publish(bad.clone());
        assert_eq!(closed(&outputs), Some(CloseReason::PublishDenied));
        assert!(sent(&outputs).is_empty() && routed(&outputs).is_empty());
        // 3.1.1: acknowledged and dropped.
        let mut bench = Bench::connected(ProtocolVersion::V311, &rules);
        bench.settings.denied_publish = DeniedPublish::Acknowledge;
        let outputs = bench.publish(bad);
        assert_eq!(acked(&outputs), waits.then_some((exactly, 1, ReasonCode::Success)));
        assert!(routed(&outputs).is_empty() && bench.session.is_attached());
    }
}

#[test]
fn the_prefix_comes_before_check_and_routing() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.prefix(&["allow write p/#"], "p/");
    for _ in 0..2 {
        assert_eq!(routed(&bench.publish(publish("a", QoS::AtMostOnce, 1)))[0].topic.as_str(), "p/a");
    }
    let outputs = bench.publish(publish(&"x".repeat(65_534), QoS::AtLeastOnce, 1));
    assert_eq!(acked(&outputs), Some((false, 1, ReasonCode::TopicNameInvalid)));
    assert_eq!(refusals(&bench.publish(publish("$SYS/a", QoS::AtMostOnce, 1)))[0].1, RefusalCause::Reserved);
    // Response Topics are left alone.
    let properties = PublishProperties { response_topic: Some(topic("r")), ..PublishProperties::default() };
    let asked = Publish { properties: Some(Box::new(properties)), ..publish("a", QoS::AtMostOnce, 1) };
    let message = routed(&bench.publish(asked)).pop().unwrap();
    assert_eq!(message.properties.as_ref().unwrap().response_topic, Some(topic("r")));
}

#[test]
fn a_decision_never_outlives_its_policy_version() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a"]);
    assert_eq!(routed(&bench.publish(publish("a", QoS::AtMostOnce, 1))).len(), 1);
    bench.rules(&["deny write a"]);
    assert!(routed(&bench.publish(publish("a", QoS::AtMostOnce, 1))).is_empty());
    bench.rules(&["allow write a"]);
    assert_eq!(routed(&bench.publish(publish("a", QoS::AtMostOnce, 1))).len(), 1);
}

#[test]
fn a_repeated_qos_2_publish_is_not_routed_twice() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow write a"]);
        let first = publish("a", QoS::ExactlyOnce, 3);
        assert_eq!(routed(&bench.publish(first.clone())).len(), 1);
        bench.lose();
        bench.connect(&lasting(version));
        let outputs = bench.publish(Publish { dup: true, ..first.clone() });
        assert!(routed(&outputs).is_empty());
        assert_eq!(acked(&outputs), Some((true, 3, ReasonCode::Success))); // [MQTT-4.3.3-10]
        let outputs = bench.packet(Packet::PubRel(ok(3)));
        assert_eq!(sent(&outputs), [Packet::PubComp(ok(3))]);
        assert_eq!(routed(&bench.publish(first)).len(), 1, "after PUBCOMP it is a new message"); // [MQTT-4.3.3-12]
    }
}

#[test]
fn a_repeat_before_the_router_answered_waits_for_its_answer() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a"]);
    let outputs = bench.packet(Packet::Publish(publish("a", QoS::ExactlyOnce, 3)));
    let ticket = outputs.iter().find_map(ticket).unwrap();
    bench.lose();
    bench.connect(&lasting(ProtocolVersion::V5));
    let outputs = bench.packet(Packet::Publish(Publish { dup: true, ..publish("a", QoS::ExactlyOnce, 3) }));
    assert!(routed(&outputs).is_empty() && sent(&outputs).is_empty());
    let ((), outputs) = bench.give(|session, cx| session.handle_accepted(ticket, RouteOutcome::Delivered, cx));
    assert_eq!(acked(&outputs), Some((true, 3, ReasonCode::Success)));
}

#[test]
fn a_refused_qos_2_publish_leaves_its_identifier_free() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a"]);
    bench.publish(publish("x", QoS::ExactlyOnce, 3));
    assert_eq!(routed(&bench.publish(publish("a", QoS::ExactlyOnce, 3))).len(), 1); // [MQTT-4.3.3-9]
}

#[test]
fn pubrel_for_an_unknown_identifier() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &[]);
        let code =
            if version == ProtocolVersion::V5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
        assert_eq!(sent(&bench.packet(Packet::PubRel(ok(9)))), [Packet::PubComp(ack(9, code))]);
    }
}

#[test]
fn acknowledgements_keep_the_order_of_the_messages() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a"]);
    let mut tickets = Vec::new();
    for number in 1..=3 {
        let outputs = bench.packet(Packet::Publish(publish("a", QoS::AtLeastOnce, number)));
        tickets.extend(outputs.iter().find_map(ticket));
    }
    bench.packet(Packet::Publish(publish("forbidden", QoS::AtLeastOnce, 4)));
    let mut order = Vec::new();
    for ticket in [tickets[2], tickets[1], tickets[0]] {
        let ((), outputs) = bench.give(|session, cx| session.handle_accepted(ticket, RouteOutcome::Delivered, cx));
        for packet in sent(&outputs) {
            let Packet::PubAck(ack) = packet else { panic!() };
            order.push(ack.packet_id.0.get());
        }
    }
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn the_receive_maximum_is_enforced_for_version_5() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut bench = Bench::new(&["allow write a"]);
        bench.settings.receive_maximum = NonZeroU16::new(2).unwrap();
        bench.connect(&lasting(ProtocolVersion::V5));
        for number in 1..=2 {
            bench.packet(Packet::Publish(publish("a", qos, number)));
        }
        assert!(!bench.session.can_receive());
        let outputs = bench.packet(Packet::Publish(publish("a", qos, 3)));
        assert_failed(&outputs, ProtocolVersion::V5, ReasonCode::ReceiveMaximumExceeded); // [MQTT-3.3.4-7]
    }
    // Acknowledged ones do not count.
    let mut bench = Bench::new(&["allow write a"]);
    bench.settings.receive_maximum = NonZeroU16::new(2).unwrap();
    bench.connect(&lasting(ProtocolVersion::V5));
    for number in 1..=20 {
        bench.publish(publish("a", QoS::AtLeastOnce, number));
        bench.publish(publish("a", QoS::ExactlyOnce, number));
        bench.packet(Packet::PubRel(ok(number)));
        bench.publish(publish("x", QoS::ExactlyOnce, number));
    }
    assert!(bench.session.is_attached());
}

#[test]
fn a_router_that_fails_is_told_or_ends_a_3_1_1_connection() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut bench = Bench::connected(version, &["allow write a"]);
            let outputs = bench.packet(Packet::Publish(publish("a", qos, 1)));
            let ticket = outputs.iter().find_map(ticket).unwrap();
            let failed = RouteOutcome::Failed(ReasonCode::QuotaExceeded);
            let ((), outputs) = bench.give(|session, cx| session.handle_accepted(ticket, failed, cx));
            if version == ProtocolVersion::V5 {
                assert_eq!(acked(&outputs), Some((qos == QoS::ExactlyOnce, 1, ReasonCode::QuotaExceeded)));
            } else {
                assert_eq!(closed(&outputs), Some(CloseReason::PublishFailed(ReasonCode::QuotaExceeded)));
                bench.connect(&lasting(version)); // and the message is new when it comes again
                assert_eq!(routed(&bench.publish(publish("a", qos, 1))).len(), 1);
            }
        }
    }
}

#[test]
fn the_fate_of_an_earlier_connections_message_does_not_end_this_one() {
    let mut bench = Bench::connected(ProtocolVersion::V311, &["allow write a"]);
    let outputs = bench.packet(Packet::Publish(publish("a", QoS::ExactlyOnce, 1)));
    let ticket = outputs.iter().find_map(ticket).unwrap();
    bench.lose();
    bench.connect(&lasting(ProtocolVersion::V311));
    let failed = RouteOutcome::Failed(ReasonCode::QuotaExceeded);
    assert!(bench.give(|session, cx| session.handle_accepted(ticket, failed, cx)).1.is_empty());
    assert_eq!(routed(&bench.publish(publish("a", QoS::ExactlyOnce, 1))).len(), 1, "it was never taken");
}

#[test]
fn an_identifier_in_use_is_not_taken() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a", "allow read a"]);
    bench.publish(publish("a", QoS::ExactlyOnce, 3));
    let outputs = bench.publish(publish("a", QoS::AtLeastOnce, 3));
    assert_eq!(acked(&outputs), Some((false, 3, ReasonCode::PacketIdentifierInUse)));
    bench.publish(publish("a", QoS::ExactlyOnce, 1000));
    assert_eq!(bench.subscribe("a", QoS::AtMostOnce), ReasonCode::PacketIdentifierInUse);
}

#[test]
fn packets_that_break_the_protocol_end_the_connection() {
    let alias = PublishProperties { topic_alias: NonZeroU16::new(1), ..PublishProperties::default() };
    let identified =
        PublishProperties { subscription_identifiers: vec![NonZeroU32::MIN], ..PublishProperties::default() };
    let with = |properties| {
        Packet::Publish(Publish { properties: Some(Box::new(properties)), ..publish("a", QoS::AtMostOnce, 1) })
    };
    let auth = Packet::Auth(Auth {
        reason_code: ReasonCode::ReAuthenticate,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: Vec::new(),
    });
    for version in BOTH {
        for (packet, code) in [
            (with(alias.clone()), ReasonCode::TopicAliasInvalid),
            (with(identified.clone()), ReasonCode::ProtocolError),
            (Packet::Publish(Publish { topic: None, ..publish("a", QoS::AtMostOnce, 1) }), ReasonCode::ProtocolError),
            (Packet::Connect(Box::new(clean(version))), ReasonCode::ProtocolError), // [MQTT-3.1.0-2]
            (auth.clone(), ReasonCode::ProtocolError),                              // [MQTT-4.12.0-7]
            (Packet::PingResp, ReasonCode::ProtocolError),
        ] {
            let mut bench = Bench::connected(version, &["allow write a"]);
            assert_failed(&bench.packet(packet), version, code);
            assert!(bench.packet(Packet::PingReq).is_empty(), "nothing is answered any more");
        }
    }
}

#[test]
fn properties_and_expiry_travel_with_the_message() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write a"]);
    let properties = PublishProperties {
        message_expiry_interval: Some(10),
        user_properties: vec![("k".into(), "1".into()), ("k".into(), "2".into())],
        ..PublishProperties::default()
    };
    let outputs = bench.publish(Publish {
        dup: true,
        properties: Some(Box::new(properties.clone())),
        ..publish("a", QoS::AtLeastOnce, 1)
    });
    let message = routed(&outputs).pop().unwrap();
    assert_eq!(message.properties.as_deref(), Some(&properties)); // [MQTT-3.3.2-17] [MQTT-3.3.2-18]
    assert_eq!(message.expires, Some(bench.now() + Duration::from_secs(10)));
    assert_eq!(message.publisher, Publisher { user: Some(USER), session: SessionNumber(1) });
    assert_eq!(message.detached(), *message);
}

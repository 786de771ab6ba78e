//! What a user's quota bounds, packet by packet. That no other user is touched, and the counts of connections, sessions,
//! retained messages and queues, are tested over the wire.

use super::*;
use crate::access::{Quota, QuotaKind, Rate};

impl Bench {
    fn quota(&mut self, rules: &[&str], quota: Quota) {
        self.turn(Some(User { quota: Some(Box::new(quota)), ..user(rules, None) }));
    }
}

fn messages(per_second: u64, burst: u64) -> Quota {
    Quota { publish_messages: Some(Rate::new(per_second, Some(burst)).unwrap()), ..Quota::default() }
}

fn bytes(per_second: u64) -> Quota {
    Quota { publish_bytes: Some(Rate::new(per_second, None).unwrap()), ..Quota::default() }
}

fn acks(outputs: &[Output]) -> Vec<ReasonCode> {
    let pick = |packet: Packet| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.reason_code),
        _ => None,
    };
    sent(outputs).into_iter().filter_map(pick).collect()
}

#[test]
fn too_many_messages_are_refused_with_0x97_and_the_connection_stays() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.quota(&["allow write a"], messages(1, 2));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        bench.pass(10);
        for number in 1..=2 {
            assert_eq!(routed(&bench.publish(publish("a", qos, number))).len(), 1);
            bench.packet(Packet::PubRel(ok(number)));
        }
        let outputs = bench.publish(publish("a", qos, 3));
        assert!(routed(&outputs).is_empty());
        let why = (Action::Publish, RefusalCause::Quota(QuotaKind::PublishMessages), ReasonCode::QuotaExceeded);
        assert_eq!(refusals(&outputs), [why]);
        assert_eq!(acks(&outputs), if qos == QoS::AtMostOnce { vec![] } else { vec![ReasonCode::QuotaExceeded] });
        assert_eq!(closed(&outputs), None);
        // The identifier is free, and after a second there is room for one.
        bench.pass(1);
        assert_eq!(routed(&bench.publish(publish("a", qos, 3))).len(), 1);
        bench.packet(Packet::PubRel(ok(3)));
        assert!(routed(&bench.publish(publish("a", qos, 4))).is_empty());
    }
}

#[test]
fn a_3_1_1_client_sees_what_denied_publish_says() {
    for (denied, closes) in [(DeniedPublish::Disconnect, true), (DeniedPublish::Acknowledge, false)] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut bench = Bench::connected(ProtocolVersion::V311, &[]);
            bench.settings.denied_publish = denied;
            bench.quota(&["allow write a"], messages(1, 1));
            bench.publish(publish("a", qos, 1));
            let outputs = bench.publish(publish("a", qos, 2));
            assert!(routed(&outputs).is_empty());
            assert_eq!(closed(&outputs), closes.then_some(CloseReason::PublishDenied));
            let acked = !closes && qos != QoS::AtMostOnce;
            assert_eq!(acks(&outputs), if acked { vec![ReasonCode::Success] } else { vec![] });
        }
    }
}

#[test]
fn a_message_that_cannot_be_retained_is_acknowledged_to_3_1_1_where_refusals_are() {
    let mut bench = Bench::connected(ProtocolVersion::V311, &["allow write a"]);
    bench.settings.denied_publish = DeniedPublish::Acknowledge;
    let outputs = bench.packet(Packet::Publish(publish("a", QoS::AtLeastOnce, 1)));
    let ticket = outputs.iter().find_map(ticket).unwrap();
    let failed = RouteOutcome::Failed(ReasonCode::QuotaExceeded);
    let ((), outputs) = bench.give(|session, cx| session.handle_accepted(ticket, failed, cx));
    assert_eq!((closed(&outputs), acks(&outputs)), (None, vec![ReasonCode::Success]));
}

#[test]
fn bytes_are_of_topic_payload_and_properties() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.quota(&["allow write topic"], bytes(100));
    let sized = |payload: usize, properties: Option<PublishProperties>| Publish {
        payload: Bytes::from(vec![0; payload]),
        properties: properties.map(Box::new),
        ..publish("topic", QoS::AtLeastOnce, 1)
    };
    assert_eq!(acks(&bench.publish(sized(96, None))), [ReasonCode::QuotaExceeded], "larger than the burst");
    let properties = PublishProperties {
        response_topic: Some(topic("answer")),
        correlation_data: Some(Bytes::from_static(b"1234")),
        content_type: Some("text".into()),
        user_properties: vec![("name".into(), "value".into())],
        ..PublishProperties::default()
    };
    // 5 + 6 + 4 + 4 + 9
    assert_eq!(acks(&bench.publish(sized(73, Some(properties.clone())))), [ReasonCode::QuotaExceeded]);
    assert_eq!(acks(&bench.publish(sized(72, Some(properties)))), [ReasonCode::Success]);
    assert_eq!(acks(&bench.publish(sized(0, None))), [ReasonCode::QuotaExceeded]);
}

#[test]
fn what_the_rules_refuse_and_what_comes_again_takes_nothing() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.quota(&["allow write a"], messages(1, 2));
    for _ in 0..5 {
        assert_eq!(acks(&bench.publish(publish("b", QoS::AtLeastOnce, 1))), [ReasonCode::NotAuthorized]);
    }
    assert_eq!(acks(&bench.publish(publish("a", QoS::ExactlyOnce, 1))), [ReasonCode::Success]);
    for _ in 0..5 {
        let again = Publish { dup: true, ..publish("a", QoS::ExactlyOnce, 1) };
        assert_eq!(acks(&bench.publish(again)), [ReasonCode::Success]);
    }
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 2))), [ReasonCode::Success]);
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 3))), [ReasonCode::QuotaExceeded]);
}

#[test]
fn a_changed_quota_holds_for_the_next_packet() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read_write #"]);
    for number in 1..=50 {
        assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, number))), [ReasonCode::Success]);
    }
    bench.quota(&["allow read_write #"], messages(1, 1));
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 1))), [ReasonCode::Success]);
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 1))), [ReasonCode::QuotaExceeded]);
    bench.rules(&["allow read_write #"]);
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 1))), [ReasonCode::Success]);

    for filter in ["a", "b", "c"] {
        assert_eq!(bench.subscribe(filter, QoS::AtMostOnce), ReasonCode::Success);
    }
    bench.quota(&["allow read_write #"], Quota { subscriptions: Some(2), ..Quota::default() });
    assert_eq!(bench.subscribe("d", QoS::AtMostOnce), ReasonCode::QuotaExceeded);
    assert_eq!(bench.subscribe("a", QoS::AtMostOnce), ReasonCode::Success, "what it has, it keeps");
    assert_eq!(bench.session.subscriptions().count(), 3);
}

#[test]
fn a_will_is_published_and_counted() {
    let mut bench = Bench::new(&[]);
    bench.quota(&["allow write #"], messages(1, 1));
    bench.connect(&Connect { will: Some(will("gone")), ..lasting(ProtocolVersion::V5) });
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 1))), [ReasonCode::Success]);
    assert_eq!(routed(&bench.lose()).len(), 1, "although there is nothing left");
    bench.pass(10);
    bench.connect(&Connect { will: Some(will("gone")), ..lasting(ProtocolVersion::V5) });
    assert_eq!(routed(&bench.lose()).len(), 1);
    bench.connect(&lasting(ProtocolVersion::V5));
    assert_eq!(acks(&bench.publish(publish("a", QoS::AtLeastOnce, 2))), [ReasonCode::QuotaExceeded]);
}

/// Two sessions of one user have one account; what one gives back, the other may take.
#[test]
fn sessions_of_one_user_share_subscriptions_and_rates() {
    let usage = Arc::new(Usage::default());
    let quota = Quota { subscriptions: Some(3), ..messages(1, 3) };
    let mut benches = ["c1", "c2"].map(|client_id| {
        let mut bench = Bench::new(&[]);
        let key = SessionKey { owner: Owner::User(USER), client_id: ClientId::try_from(client_id).unwrap() };
        bench.session = Session::with_usage(key, SessionNumber(1), Arc::clone(&usage));
        bench.quota(&["allow read_write #"], quota);
        bench.connect(&lasting(ProtocolVersion::V5));
        bench
    });
    // One clock for both.
    benches[1].clock = benches[0].clock.clone();
    let codes: Vec<_> = [(0, "a"), (1, "a"), (0, "b"), (1, "b")]
        .map(|(at, filter)| benches[at].subscribe(filter, QoS::AtMostOnce))
        .into_iter()
        .collect();
    assert_eq!(codes, [ReasonCode::Success, ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded]);
    benches[0].end(EndCause::Purged(ReasonCode::AdministrativeAction));
    assert_eq!(usage.counts().0, 1);
    assert_eq!(benches[1].subscribe("b", QoS::AtMostOnce), ReasonCode::Success);
    let unsubscribe =
        Unsubscribe { packet_id: id(9), filters: vec![filter("a"), filter("nothing")], user_properties: Vec::new() };
    benches[1].packet(Packet::Unsubscribe(unsubscribe));
    assert_eq!(usage.counts().0, 1);

    benches[0].connect(&lasting(ProtocolVersion::V5));
    let taken: usize = (1..=3)
        .map(|n| benches.iter_mut().map(|b| routed(&b.publish(publish("a", QoS::AtLeastOnce, n))).len()).sum::<usize>())
        .sum();
    assert_eq!(taken, 3);
}

#[test]
fn filters_of_one_subscribe_are_counted_one_by_one() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.quota(&["allow read #"], Quota { subscriptions: Some(2), ..Quota::default() });
    let filters = ["a", "a", "$registry/whoami/response", "b"];
    let options = SubscriptionOptions::default();
    let outputs = bench.packet(Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: filters.map(|text| SubscribeFilter { filter: filter(text), options }).to_vec(),
        subscription_identifier: None,
        user_properties: Vec::new(),
    }));
    let Some(Packet::SubAck(suback)) = sent(&outputs).pop() else { panic!("no SUBACK: {outputs:?}") };
    assert_eq!(
        suback.reason_codes,
        [ReasonCode::Success, ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded]
    );
    let why = (Action::Subscribe, RefusalCause::Quota(QuotaKind::Subscriptions), ReasonCode::QuotaExceeded);
    assert_eq!(refusals(&outputs), [why]);
}

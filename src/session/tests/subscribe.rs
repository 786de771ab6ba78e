//! SUBSCRIBE and UNSUBSCRIBE.

use super::*;

/// `(filter, send_retained)` for the router's index.
fn indexed(outputs: &[Output]) -> Vec<(String, bool)> {
    let pick = |output: &Output| match output {
        Output::Subscribed { filter, send_retained, .. } => Some((filter.to_string(), *send_retained)),
        _ => None,
    };
    outputs.iter().filter_map(pick).collect()
}

fn options(retain_handling: RetainHandling) -> SubscriptionOptions {
    SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() }
}

#[test]
fn each_filter_is_judged_on_its_own_and_answered_in_order() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow read a/#", "deny read a/secret/#"]);
        let wishes = ["a/x", "b", "a/#", "a/secret/1", "#", "$share/g/a/x"];
        let outputs = bench.packet(Packet::Subscribe(Subscribe {
            packet_id: id(8),
            filters: wishes
                .iter()
                .map(|text| SubscribeFilter {
                    filter: filter(text),
                    options: SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() },
                })
                .collect(),
            subscription_identifier: None,
            user_properties: Vec::new(),
        }));
        let Some(Packet::SubAck(suback)) = sent(&outputs).pop() else { panic!() };
        let v5 = version == ProtocolVersion::V5;
        let no = if v5 { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError }; // [MQTT-3.9.3-2]
        let shared = if v5 { ReasonCode::SharedSubscriptionsNotSupported } else { no };
        let granted = ReasonCode::GrantedQoS2;
        assert_eq!(suback.reason_codes, [granted, no, granted, no, no, shared]);
        assert_eq!(indexed(&outputs), [("a/x".to_owned(), true), ("a/#".to_owned(), true)]);
        let causes: Vec<_> = refusals(&outputs).into_iter().map(|(_, cause, _)| cause).collect();
        let expected = [RefusalCause::Rules, RefusalCause::Rules, RefusalCause::Partial, RefusalCause::Shared];
        assert_eq!(causes, expected);
    }
}

#[test]
fn a_partial_subscription_delivers_just_what_may_be_read() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a/#", "deny read a/secret"]);
    assert_eq!(bench.subscribe("#", QoS::AtLeastOnce), ReasonCode::NotAuthorized);
    bench.settings.partial_subscription = PartialSubscription::Filter;
    assert_eq!(bench.subscribe("#", QoS::AtLeastOnce), ReasonCode::GrantedQoS1);
    for _ in 0..2 {
        assert_eq!(bench.deliver(message("a/x", QoS::AtMostOnce)).0, Disposition::Sent);
        for forbidden in ["a/secret", "b"] {
            assert_eq!(bench.deliver(message(forbidden, QoS::AtMostOnce)).0, Disposition::Withheld);
        }
    }
    // A deny inside a covered filter withholds, too.
    bench.subscribe("a/#", QoS::AtLeastOnce);
    assert_eq!(bench.deliver(message("a/secret", QoS::AtMostOnce)).0, Disposition::Withheld);
}

#[test]
fn retain_handling() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    let mut retained =
        |handling| indexed(&bench.subscribe_with("a", options(handling), None).1).first().map(|(_, send)| *send);
    assert_eq!(retained(RetainHandling::DoNotSend), Some(false)); // [MQTT-3.3.1-11]
    assert_eq!(retained(RetainHandling::SendIfNew), Some(false)); // [MQTT-3.3.1-10]
    assert_eq!(retained(RetainHandling::SendAtSubscribe), Some(true)); // [MQTT-3.3.1-9]
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    assert_eq!(indexed(&bench.subscribe_with("a", options(RetainHandling::SendIfNew), None).1), [("a".into(), true)]);
}

#[test]
fn a_second_subscribe_replaces_the_first_under_the_same_number() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::ExactlyOnce);
    let number = bench.number("a");
    let under_way = bench.delivery(message("a", QoS::ExactlyOnce));
    bench.subscribe_with("a", SubscriptionOptions::default(), Some(5));
    assert_eq!(bench.number("a"), number); // [MQTT-3.8.4-3]
    assert_eq!(bench.session.subscriptions().count(), 1);
    let (disposition, outputs) = bench.give(|session, cx| session.handle_delivery(under_way, cx));
    assert_eq!(disposition, Disposition::Sent); // [MQTT-3.8.4-4]: no message is lost
    assert_eq!(deliveries(&outputs)[0].qos, QoS::AtMostOnce);
    // One that is refused leaves the old one alone.
    bench.rules(&[]);
    assert_eq!(bench.subscribe("a", QoS::AtMostOnce), ReasonCode::NotAuthorized);
    assert_eq!(bench.number("a"), number);
}

#[test]
fn limits_of_number_and_depth() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    bench.settings.subscriptions = 2;
    bench.settings.topic_levels = 3;
    assert_eq!(bench.subscribe("a/b/c/d", QoS::AtMostOnce), ReasonCode::TopicFilterInvalid);
    assert_eq!(bench.subscribe("a/b/c", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(bench.subscribe("b", QoS::AtMostOnce), ReasonCode::Success);
    assert_eq!(bench.subscribe("c", QoS::AtMostOnce), ReasonCode::QuotaExceeded);
    assert_eq!(bench.subscribe("b", QoS::AtLeastOnce), ReasonCode::GrantedQoS1, "replacing is not adding");
}

#[test]
fn unsubscribe_is_literal_and_always_answered() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow read #"]);
        bench.subscribe("a/+", QoS::AtLeastOnce);
        bench.delivered(message("a/b", QoS::AtLeastOnce));
        let outputs = bench.packet(Packet::Unsubscribe(Unsubscribe {
            packet_id: id(4),
            filters: vec![filter("a/b"), filter("a/+"), filter("a/+")],
            user_properties: Vec::new(),
        }));
        let none = ReasonCode::NoSubscriptionExisted;
        let unsuback = UnsubAck {
            packet_id: id(4),
            reason_codes: vec![none, ReasonCode::Success, none],
            properties: ReasonProperties::default(),
        };
        assert_eq!(sent(&outputs), [Packet::UnsubAck(unsuback)]); // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
        assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Unsubscribed { .. })).count(), 1);
        // [MQTT-3.10.4-3]: what was begun is finished.
        bench.lose();
        assert_eq!(deliveries(&bench.connect(&lasting(version))).len(), 1);
    }
}

#[test]
fn what_is_kept_of_a_filter_is_not_the_read_buffer() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read #"]);
    let text = ByteString::from("a/b");
    let address = text.as_ptr();
    let wish =
        SubscribeFilter { filter: TopicFilter::try_from(text).unwrap(), options: SubscriptionOptions::default() };
    bench.packet(Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: vec![wish],
        subscription_identifier: None,
        user_properties: Vec::new(),
    }));
    assert!(bench.session.subscriptions().all(|held| held.filter.as_str().as_ptr() != address));
}

/// Long filters count for more than short ones: a session's share of memory does not grow with what it names.
#[test]
fn the_filters_of_a_session_are_bounded_in_bytes() {
    let mut bench = Bench::new(&["allow read #"]);
    bench.settings.subscriptions = 100;
    bench.connect(&lasting(ProtocolVersion::V5));
    let long = |number: usize| format!("{number:05}{}", "x".repeat(60_000));
    assert_eq!(bench.subscribe(&long(0), QoS::AtMostOnce), ReasonCode::Success);
    let codes: Vec<_> = (1..10).map(|number| bench.subscribe(&long(number), QoS::AtMostOnce)).collect();
    assert!(codes.iter().all(|code| *code == ReasonCode::QuotaExceeded), "{codes:?}");
    assert_eq!(bench.subscribe(&long(0), QoS::AtMostOnce), ReasonCode::Success, "held already");
    assert_eq!(bench.subscribe("short", QoS::AtMostOnce), ReasonCode::Success);
    let filters = vec![filter(&long(0))];
    bench.packet(Packet::Unsubscribe(Unsubscribe { packet_id: id(1), filters, user_properties: Vec::new() }));
    assert_eq!(bench.subscribe(&long(1), QoS::AtMostOnce), ReasonCode::Success, "the other one made room");
}

#[test]
fn one_packet_subscribes_to_no_more_filters_than_a_session_may_hold() {
    let mut bench = Bench::new(&["allow read #"]);
    bench.settings.subscriptions = 3;
    bench.connect(&lasting(ProtocolVersion::V5));
    let wish = SubscribeFilter { filter: filter("a"), options: SubscriptionOptions::default() };
    let outputs = bench.packet(Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: vec![wish; 1000],
        subscription_identifier: None,
        user_properties: Vec::new(),
    }));
    assert_eq!(outputs.iter().filter(|output| matches!(output, Output::Subscribed { .. })).count(), 3);
    let Some(Packet::SubAck(suback)) = sent(&outputs).pop() else { panic!("no SUBACK") };
    assert_eq!(suback.reason_codes.len(), 1000);
}

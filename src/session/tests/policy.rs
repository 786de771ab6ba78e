//! Changes of the rules while a session lives.

use super::*;

#[test]
fn a_subscription_is_withheld_and_lives_again() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a/#"]);
    bench.subscribe("a/#", QoS::AtLeastOnce);
    bench.rules(&[]);
    let outputs = bench.policy_changed();
    assert_eq!(refusals(&outputs), [(Action::Receive, RefusalCause::Rules, ReasonCode::NotAuthorized)]);
    assert!(!outputs.iter().any(|output| matches!(output, Output::Unsubscribed { .. })));
    assert!(bench.session.subscriptions().all(|held| held.withheld));
    assert_eq!(bench.deliver(message("a/b", QoS::AtLeastOnce)).0, Disposition::Withheld);
    bench.rules(&["allow read a/#", "deny read a/secret"]);
    assert!(bench.policy_changed().is_empty());
    assert_eq!(bench.deliver(message("a/b", QoS::AtLeastOnce)).0, Disposition::Sent);
    assert_eq!(bench.deliver(message("a/secret", QoS::AtLeastOnce)).0, Disposition::Withheld);
    bench.rules(&["allow read a/x"]); // narrowed, whatever `partial_subscription` says
    bench.policy_changed();
    assert_eq!(bench.deliver(message("a/x", QoS::AtLeastOnce)).0, Disposition::Sent);
    assert_eq!(bench.deliver(message("a/b", QoS::AtLeastOnce)).0, Disposition::Withheld);
    bench.rules(&["allow read a/# max_qos=0"]);
    assert_eq!(bench.delivered(message("a/x", QoS::AtLeastOnce)).qos, QoS::AtMostOnce);
}

#[test]
fn a_session_that_was_not_told_still_decides_by_the_new_rules() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.deliver(message("a", QoS::AtMostOnce));
    bench.rules(&[]);
    assert_eq!(bench.deliver(message("a", QoS::AtMostOnce)).0, Disposition::Withheld);
    assert_eq!(bench.session.policy_version(), bench.policy.version());
}

#[test]
fn what_is_encoded_and_not_written_can_be_dropped() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::ExactlyOnce);
    let outgoing = bench.delivered(message("a", QoS::ExactlyOnce));
    let may = |bench: &mut Bench| bench.give(|session, cx| session.may_still_send(&outgoing, cx)).0;
    assert!(may(&mut bench));
    bench.rules(&[]);
    assert!(!may(&mut bench));
    bench.give(|session, cx| session.handle_undelivered(outgoing.packet_id.unwrap(), cx));
    assert_eq!(bench.session.inflight_len(), 0);
    assert!(bench.session.can_deliver());
}

#[test]
fn in_flight_and_forbidden_is_not_resent_but_a_pubrel_exchange_finishes() {
    for version in BOTH {
        let mut bench = Bench::connected(version, &["allow read #"]);
        bench.subscribe("#", QoS::ExactlyOnce);
        for name in ["a", "a", "b", "a"] {
            bench.delivered(message(name, QoS::ExactlyOnce));
        }
        bench.packet(Packet::PubRec(ok(1)));
        bench.lose();
        bench.rules(&["allow read b"]);
        let outputs = bench.connect(&lasting(version));
        assert_eq!(sent(&outputs)[1..], [Packet::PubRel(ok(1))]);
        let resent = deliveries(&outputs);
        assert_eq!((resent.len(), resent[0].message.topic.as_str()), (1, "b"));
        assert_eq!(bench.session.inflight_len(), 2);
        // The identifiers of the others are not given to another message while the client may still know them.
        bench.packet(Packet::PubComp(ok(1)));
        bench.packet(Packet::PubRec(ok(3)));
        bench.packet(Packet::PubComp(ok(3)));
        for _ in 0..70_000 {
            let number = bench.delivered(message("b", QoS::AtLeastOnce)).packet_id.unwrap().0.get();
            assert!(number != 2 && number != 4);
            bench.packet(Packet::PubAck(ok(number)));
        }
    }
}

#[test]
fn while_connected_an_exchange_goes_on() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::ExactlyOnce);
    bench.delivered(message("a", QoS::ExactlyOnce));
    bench.rules(&[]);
    bench.policy_changed();
    assert_eq!(sent(&bench.packet(Packet::PubRec(ok(1)))), [Packet::PubRel(ok(1))]);
    bench.packet(Packet::PubComp(ok(1)));
    assert_eq!(bench.session.inflight_len(), 0);
}

//! Keep alive, Will, ends, expiry and takeover.

use super::*;

fn with_will(version: ProtocolVersion, rules: &[&str], will: Will) -> Bench {
    let mut bench = Bench::new(rules);
    bench.connect(&Connect { will: Some(will), ..lasting(version) });
    bench
}

#[test]
fn silence_for_one_and_a_half_keep_alives_ends_the_connection() {
    for version in BOTH {
        let mut bench = Bench::new(&["allow write w"]);
        bench.connect(&Connect { keep_alive: 10, will: Some(will("w")), ..lasting(version) });
        bench.pass(14);
        assert!(bench.timeout().is_empty());
        bench.packet(Packet::PingReq);
        bench.pass(14);
        assert!(bench.timeout().is_empty());
        bench.pass(1);
        let outputs = bench.timeout();
        assert_eq!(closed(&outputs), Some(CloseReason::KeepAliveTimeout)); // [MQTT-3.1.2-22]
        assert_eq!(farewell(&outputs), (version == ProtocolVersion::V5).then_some(ReasonCode::KeepAliveTimeout));
        assert_eq!(routed(&outputs).len(), 1, "the Will");
    }
}

#[test]
fn keep_alive_zero_is_none() {
    let bench = Bench::connected(ProtocolVersion::V311, &[]);
    assert_eq!(bench.session.poll_timeout(), None);
}

#[test]
fn disconnect_drops_the_will_and_0x04_publishes_it() {
    for version in BOTH {
        let mut bench = with_will(version, &["allow write w"], will("w"));
        let outputs = bench.packet(disconnect(ReasonCode::Success));
        assert!(routed(&outputs).is_empty() && sent(&outputs).is_empty()); // [MQTT-3.14.4-3]
        assert_eq!(closed(&outputs), Some(CloseReason::Client));
        assert!(bench.lose().is_empty());
    }
    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], will("w"));
    assert_eq!(routed(&bench.packet(disconnect(ReasonCode::DisconnectWithWill))).len(), 1);
}

#[test]
fn every_other_end_publishes_the_will_once() {
    for version in BOTH {
        let v5 = |code| (version == ProtocolVersion::V5).then_some(code);
        for (cause, code) in [
            (EndCause::ConnectionLost, None),
            (EndCause::TakenOver, v5(ReasonCode::SessionTakenOver)), // [MQTT-3.1.4-3]
            (EndCause::Kicked(ReasonCode::NotAuthorized), v5(ReasonCode::NotAuthorized)),
            (EndCause::Purged(ReasonCode::AdministrativeAction), v5(ReasonCode::AdministrativeAction)),
            (EndCause::Shutdown, v5(ReasonCode::ServerShuttingDown)),
            (EndCause::Malformed(ReasonCode::MalformedPacket), v5(ReasonCode::MalformedPacket)),
        ] {
            let mut bench = with_will(version, &["allow write w"], Will { retain: true, ..will("w") });
            let outputs = bench.end(cause);
            let wills = routed(&outputs);
            assert_eq!(wills.len(), 1);
            assert!(wills[0].retain && wills[0].qos == QoS::AtLeastOnce);
            assert_eq!(farewell(&outputs), code);
            assert_eq!(closed(&outputs), Some(CloseReason::Ended(cause)));
            assert!(bench.end(cause).is_empty());
            assert_eq!(bench.session.is_over(), matches!(cause, EndCause::Purged(_)));
        }
    }
}

#[test]
fn a_will_that_the_rules_no_longer_permit_is_not_published() {
    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], will("w"));
    bench.turn(None); // the user is gone
    let outputs = bench.end(EndCause::Purged(ReasonCode::NotAuthorized));
    assert!(routed(&outputs).is_empty());
    assert_eq!(refusals(&outputs), [(Action::Will, RefusalCause::Rules, ReasonCode::NotAuthorized)]);
}

/// Whoever had a stolen key leaves nothing behind that comes out after the end of the certificate: the user itself goes on.
#[test]
fn the_delay_of_a_will_is_no_way_around_the_end_of_its_identity() {
    let will = Will { delay_interval: Some(30), ..will("w") };
    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], will);
    bench.turn(None);
    let outputs = bench.end(EndCause::Kicked(ReasonCode::NotAuthorized));
    assert_eq!(refusals(&outputs), [(Action::Will, RefusalCause::Rules, ReasonCode::NotAuthorized)]);
    bench.rules(&["allow write w"]);
    bench.pass(30);
    assert!(routed(&bench.timeout()).is_empty());
}

#[test]
fn a_delayed_will_waits_and_is_cancelled_by_a_return() {
    let delayed = || Will { delay_interval: Some(30), ..will("w") };
    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], delayed());
    assert!(routed(&bench.lose()).is_empty());
    assert_eq!(bench.session.poll_timeout(), Some(bench.now() + Duration::from_secs(30)));
    bench.pass(29);
    assert!(routed(&bench.timeout()).is_empty());
    bench.connect(&lasting(ProtocolVersion::V5)); // [MQTT-3.1.3-9]
    bench.pass(60);
    assert!(routed(&bench.lose()).is_empty());

    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], delayed());
    bench.lose();
    bench.pass(30);
    assert_eq!(routed(&bench.timeout()).len(), 1); // [MQTT-3.1.2-8]
    assert!(bench.timeout().is_empty());
    assert_eq!(bench.session.poll_timeout(), None);

    // A clean start ends the session, and so the delay.
    let mut bench = with_will(ProtocolVersion::V5, &["allow write w"], delayed());
    bench.lose();
    assert_eq!(routed(&bench.connect(&clean(ProtocolVersion::V5))).len(), 1);

    // So does its expiry.
    let mut bench = Bench::new(&["allow write w"]);
    let mut connect = Connect { will: Some(delayed()), ..lasting(ProtocolVersion::V5) };
    connect.properties.session_expiry_interval = Some(5);
    bench.connect(&connect);
    bench.lose();
    bench.pass(5);
    assert_eq!(routed(&bench.timeout()).len(), 1);
    assert!(bench.session.is_over());
    connect.properties.session_expiry_interval = None;
    bench.connect(&connect);
    assert_eq!(routed(&bench.lose()).len(), 1, "no session, no delay");
}

#[test]
fn a_session_ends_when_its_interval_is_over() {
    let mut bench = Bench::new(&["allow read a"]);
    let mut connect = lasting(ProtocolVersion::V5);
    connect.properties.session_expiry_interval = Some(60);
    bench.connect(&connect);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.lose();
    bench.pass(59);
    assert!(bench.timeout().is_empty());
    assert!(bench.session.is_persistent());
    bench.pass(1);
    let outputs = bench.timeout();
    assert!(matches!(outputs[..], [Output::Unsubscribed { .. }]));
    assert!(bench.session.is_over() && !bench.session.is_persistent()); // [MQTT-4.1.0-2]
    // A client that is faster than the timer finds nothing either.
    bench.connect(&connect);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.lose();
    bench.pass(60);
    assert!(!bench.connack(&connect).session_present);
    assert_eq!(bench.session.subscriptions().count(), 0);
}

#[test]
fn disconnect_may_change_the_expiry_but_not_from_zero() {
    let with_expiry = |seconds| {
        let properties =
            DisconnectProperties { session_expiry_interval: Some(seconds), ..DisconnectProperties::default() };
        Packet::Disconnect(Disconnect { reason_code: ReasonCode::Success, properties })
    };
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    bench.packet(with_expiry(0));
    assert!(bench.session.is_over());
    bench.connect(&lasting(ProtocolVersion::V5));
    bench.packet(with_expiry(7));
    assert_eq!(bench.session.expires_at(), Some(bench.now() + Duration::from_secs(7)));
    let mut bench = Bench::new(&["allow write w"]);
    bench.connect(&Connect { will: Some(will("w")), ..clean(ProtocolVersion::V5) });
    let outputs = bench.packet(with_expiry(7));
    assert_failed(&outputs, ProtocolVersion::V5, ReasonCode::ProtocolError);
    assert_eq!(routed(&outputs).len(), 1);
    bench.connect(&clean(ProtocolVersion::V5));
    assert!(bench.packet(with_expiry(0)).len() == 1, "zero again is no change");
}

#[test]
fn a_second_connection_takes_the_session_over() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.delivered(message("a", QoS::AtLeastOnce));
    let outputs = bench.connect(&lasting(ProtocolVersion::V5));
    assert_eq!(farewell(&outputs), Some(ReasonCode::SessionTakenOver));
    let close = outputs.iter().position(|output| matches!(output, Output::Close(_))).unwrap();
    let later = &outputs[close + 1..];
    assert!(matches!(&sent(later)[..], [Packet::ConnAck(connack)] if connack.session_present));
    assert_eq!(deliveries(later).len(), 1);
}

#[test]
fn clean_start_takes_subscriptions_out_of_the_index() {
    let mut bench = Bench::connected(ProtocolVersion::V311, &["allow read #"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.subscribe("$registry/+/response", QoS::AtLeastOnce);
    bench.lose();
    let outputs = bench.connect(&clean(ProtocolVersion::V311));
    let gone = outputs.iter().filter(|output| matches!(output, Output::Unsubscribed { .. })).count();
    assert_eq!(gone, 1, "the local one was never there");
    bench.subscribe("b", QoS::AtLeastOnce);
    assert!(bench.lose().iter().any(|output| matches!(output, Output::Unsubscribed { .. }))); // [MQTT-3.1.2-6]
    assert!(bench.session.is_over());
}

#[test]
fn a_connection_ends_when_its_time_is_up() {
    let mut bench = Bench::new(&[]);
    let until = (bench.now() + Duration::from_secs(20), ReasonCode::MaximumConnectTime);
    let terms = Terms { until: Some(until), ..Terms::default() };
    let connect = Connect { keep_alive: 60, ..clean(ProtocolVersion::V5) };
    bench.give(|session, cx| session.handle_connect(&connect, &terms, cx));
    assert_eq!(bench.session.poll_timeout(), Some(until.0));
    bench.pass(20);
    let outputs = bench.timeout();
    assert_eq!(farewell(&outputs), Some(ReasonCode::MaximumConnectTime));
    assert_eq!(closed(&outputs), Some(CloseReason::TimeIsUp(ReasonCode::MaximumConnectTime)));
}

#[test]
fn a_detached_session_can_be_purged() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read a"]);
    bench.subscribe("a", QoS::AtLeastOnce);
    bench.lose();
    assert!(bench.end(EndCause::Kicked(ReasonCode::NotAuthorized)).is_empty());
    assert!(matches!(bench.end(EndCause::Purged(ReasonCode::NotAuthorized))[..], [Output::Unsubscribed { .. }]));
    assert!(bench.session.is_over());
}

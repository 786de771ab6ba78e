//! The registry's operations for operators: who may ask, and who is answered.

use super::registry::{answer, registering, requests};
use super::*;

const UNLOCK: &str = "$registry/admin/unlock";

/// What came of one PUBLISH of it: the operation, if the session asks for it.
fn ask(bench: &mut Bench, asked: Publish) -> (Option<RegistryOperation>, Vec<Output>) {
    let outputs = bench.packet(Packet::Publish(asked));
    assert!(routed(&outputs).is_empty(), "an operation is never routed");
    (requests(&outputs).pop().map(|request| request.operation), outputs)
}

#[test]
fn a_rule_that_names_the_operation_opens_it_and_no_other_one() {
    let all = RegistryOperation::Admin(AdminOperation::Unlock);
    for version in BOTH {
        for (rules, open) in [
            (vec!["allow write $registry/admin/unlock"], true),
            (vec!["allow read_write $registry/admin/+"], true),
            (vec!["allow write $registry/+/unlock"], true),
            (vec!["allow write $registry/#"], true),
            (vec![], false),
            (vec!["allow read_write #"], false),
            (vec!["allow read_write +/admin/unlock", "allow write +/+/+"], false),
            (vec!["allow write ${username}/admin/unlock", "allow write ${username}/#"], false),
            (vec!["allow write $registry/admin/${username}"], false),
            (vec!["allow read $registry/#"], false),
            (vec!["allow write $registry/admin", "allow write $registry/admin/unlock/+"], false),
            (vec!["allow write $registry/#", "deny write $registry/admin/unlock"], false),
            (
                vec!["allow write $registry/#", "deny read_write $registry/+/${username}", "deny write $registry/#"],
                false,
            ),
            // A wildcard at the first level is no deny of it either: that, too, has to name it.
            (vec!["allow write $registry/#", "deny read_write #"], true),
        ] {
            let mut bench = Bench::connected(version, &rules);
            let (operation, outputs) = ask(&mut bench, publish(UNLOCK, QoS::AtLeastOnce, 1));
            assert_eq!(operation, open.then_some(all), "{rules:?}");
            if open {
                assert_eq!(sent(&outputs), [Packet::PubAck(ok(1))]);
                assert!(refusals(&outputs).is_empty());
                continue;
            }
            let refused = (Action::Publish, RefusalCause::Rules, ReasonCode::NotAuthorized);
            assert_eq!(refusals(&outputs), [refused], "{rules:?}");
            if version == ProtocolVersion::V5 {
                assert_eq!(sent(&outputs), [Packet::PubAck(ack(1, ReasonCode::NotAuthorized))]);
            } else {
                assert_eq!(closed(&outputs), Some(CloseReason::PublishDenied));
            }
        }
    }
}

/// A stranger to the rules sees no difference between an operation, a word that is none, and any other refused topic.
#[test]
fn who_may_not_ask_does_not_learn_what_there_is() {
    for version in BOTH {
        let told = |name: &str, qos| {
            let mut bench = Bench::connected(version, &["allow read_write #"]);
            let (operation, outputs) = ask(&mut bench, publish(name, qos, 1));
            assert_eq!(operation, None, "{name}");
            (sent(&outputs), closed(&outputs))
        };
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let usual = told("$SYS/x", qos);
            for operation in AdminOperation::ALL {
                assert_eq!(told(operation.topic().as_str(), qos), usual);
            }
            for none in ["$registry/admin/delete", "$registry/admin", "$registry/admin/grant/extra", "$SHARE/g/a"] {
                assert_eq!(told(none, qos), usual, "{none}");
            }
        }
    }
}

#[test]
fn whoever_holds_every_operation_has_no_other_topic() {
    let holder = ["allow read_write $registry/#", "allow read_write $SHARE/#"];
    for name in [
        "$registry/admin/delete",
        "$registry/admin/grant/extra",
        "$registry/admin/grant/response",
        "$registry/admin//grant",
        "$registry/admin/Grant",
        "$Registry/admin/grant",
        "$registry/events/granted",
        "$SHARE/$registry/admin/grant",
    ] {
        let mut bench = Bench::connected(ProtocolVersion::V5, &holder);
        let (operation, outputs) = ask(&mut bench, publish(name, QoS::AtLeastOnce, 1));
        assert_eq!(operation, None);
        assert_eq!(
            refusals(&outputs),
            [(Action::Publish, RefusalCause::Reserved, ReasonCode::NotAuthorized)],
            "{name}"
        );
    }
    let mut bench = Bench::connected(ProtocolVersion::V5, &holder);
    assert_eq!(
        bench.subscribe("$share/g/$registry/admin/+/response", QoS::AtMostOnce),
        ReasonCode::SharedSubscriptionsNotSupported
    );
}

#[test]
fn the_conditions_of_the_rule_count() {
    for (asked, cause) in [
        (publish(UNLOCK, QoS::ExactlyOnce, 1), Some(RefusalCause::QoS)),
        (Publish { retain: true, ..publish(UNLOCK, QoS::AtLeastOnce, 1) }, Some(RefusalCause::Retain)),
        (publish(UNLOCK, QoS::AtLeastOnce, 1), None),
    ] {
        let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write $registry/# max_qos=1 retain=false"]);
        let (operation, outputs) = ask(&mut bench, asked);
        assert_eq!(operation.is_some(), cause.is_none());
        assert_eq!(refusals(&outputs).first().map(|(_, cause, _)| *cause), cause);
    }
    // As for every operation: a message is asked once, and RETAIN keeps nothing.
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write $registry/admin/#"]);
    let twice = Publish { retain: true, ..publish(UNLOCK, QoS::ExactlyOnce, 1) };
    assert!(ask(&mut bench, twice.clone()).0.is_some());
    assert!(ask(&mut bench, twice).0.is_none());
}

#[test]
fn a_publish_prefix_neither_moves_nor_makes_an_operation() {
    let rules = ["allow write $registry/admin/unlock", "allow write site/#"];
    let mut bench = Bench::new(&[]);
    bench.prefix(&rules, "site/");
    bench.connect(&lasting(ProtocolVersion::V5));
    assert!(ask(&mut bench, publish(UNLOCK, QoS::AtLeastOnce, 1)).0.is_some());
    let outputs = bench.packet(Packet::Publish(publish("registry/admin/unlock", QoS::AtMostOnce, 1)));
    assert_eq!(routed(&outputs)[0].topic, topic("site/registry/admin/unlock"));
    for prefix in ["$registry/", "$registry/admin/", "$", "$registry"] {
        let user = user(&rules, Some(prefix));
        assert!(bench.policy.with([], [(USER, Some(user))], bench.clock.timestamp()).is_err(), "{prefix}");
    }
}

#[test]
fn whoever_proves_nothing_administers_nothing() {
    for version in BOTH {
        let mut guest = Bench::new(&[]);
        let rules = ["allow read_write $registry/#", "allow read_write #"];
        guest.turn(Some(User { auth: crate::access::Auth::None, ..user(&rules, None) }));
        guest.connect(&lasting(version));
        for operation in AdminOperation::ALL {
            assert_eq!(guest.authority().may_administer(&operation.topic()), None);
        }
        assert_eq!(ask(&mut guest, publish(UNLOCK, QoS::AtLeastOnce, 1)).0, None);

        let mut device = registering(version);
        let (operation, outputs) = ask(&mut device, publish(UNLOCK, QoS::AtLeastOnce, 1));
        assert_eq!((operation, refusals(&outputs)[0].1), (None, RefusalCause::RegistrationSession));
        let mut device = registering(version);
        for filter in ["$registry/admin/unlock/response", "$registry/admin/+/response/#"] {
            assert!(device.subscribe(filter, QoS::AtMostOnce).is_error(), "{filter}");
        }
    }
}

#[test]
fn a_will_asks_for_nothing() {
    for version in BOTH {
        let mut bench = Bench::new(&["allow read_write $registry/#", "allow read_write #"]);
        let connect = Connect { will: Some(will(UNLOCK)), ..lasting(version) };
        let rejection = check_will(&connect, Owner::User(USER), &bench.authority(), &bench.settings).unwrap_err();
        assert_eq!(rejection.reason_code, ReasonCode::NotAuthorized);
        // And if it got past that, it would not be published.
        bench.connect(&connect);
        let outputs = bench.lose();
        assert!(requests(&outputs).is_empty() && routed(&outputs).is_empty());
        assert_eq!(refusals(&outputs), [(Action::Will, RefusalCause::Reserved, ReasonCode::NotAuthorized)]);
    }
}

#[test]
fn the_answer_stays_in_the_space_of_its_operation() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow write $registry/admin/#"]);
    for (asked, used) in [
        ("$registry/admin/unlock/response/7", "$registry/admin/unlock/response/7"),
        ("$registry/admin/grant/response", "$registry/admin/unlock/response"),
        ("$registry/unlock/response", "$registry/admin/unlock/response"),
        ("$registry/admin/grant", "$registry/admin/unlock/response"),
        ("victim/topic", "$registry/admin/unlock/response"),
    ] {
        let properties = PublishProperties { response_topic: Some(topic(asked)), ..PublishProperties::default() };
        let message = Publish { properties: Some(Box::new(properties)), ..publish(UNLOCK, QoS::AtMostOnce, 1) };
        let outputs = bench.packet(Packet::Publish(message));
        assert_eq!(requests(&outputs)[0].response_topic, topic(used), "{asked}");
    }
}

/// The subscription needs no rule, and says nothing to whoever has not asked.
#[test]
fn an_answer_is_for_whoever_may_still_ask() {
    const ANSWERS: &str = "$registry/admin/+/response/#";
    let wanted = "$registry/admin/unlock/response";
    for version in BOTH {
        for filter in [ANSWERS, wanted, "$registry/admin/unlock/response/#"] {
            let mut bench = Bench::connected(version, &[]);
            let (code, outputs) = bench.subscribe_with(filter, SubscriptionOptions::default(), None);
            assert_eq!(code, ReasonCode::Success);
            assert!(!outputs.iter().any(|output| matches!(output, Output::Subscribed { .. })), "not in the index");
            assert_eq!(answer(&mut bench, wanted).0, Disposition::Withheld, "no rule");
            bench.rules(&["allow write $registry/admin/grant"]);
            assert_eq!(answer(&mut bench, wanted).0, Disposition::Withheld, "a rule for another operation");
            bench.rules(&["allow write $registry/admin/unlock"]);
            assert_eq!(answer(&mut bench, wanted).0, Disposition::Sent);
        }
        for filter in ["$registry/admin/#", "$registry/admin/+/+", "$registry/admin/unlock"] {
            let mut bench = Bench::connected(version, &["allow write $registry/#"]);
            assert!(bench.subscribe(filter, QoS::AtMostOnce).is_error(), "{filter}");
        }
        // What was encoded for the socket, and what waits for room, goes no further either.
        let mut bench = Bench::connected(version, &["allow write $registry/admin/#"]);
        bench.subscribe(ANSWERS, QoS::AtLeastOnce);
        let (_, outgoing) = answer(&mut bench, wanted);
        assert!(bench.give(|session, cx| session.may_still_send(&outgoing[0], cx)).0);
        bench.lose();
        bench.rules(&[]);
        assert!(!bench.give(|session, cx| session.may_still_send(&outgoing[0], cx)).0);
        assert!(deliveries(&bench.connect(&lasting(version))).is_empty(), "not sent again to the session of later");
    }
}

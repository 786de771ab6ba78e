//! The registry's operations, and sessions that may do nothing else.

use super::*;

pub(super) fn requests(outputs: &[Output]) -> Vec<RegistryRequest> {
    let pick = |output: &Output| if let Output::Registry(request) = output { Some(request.clone()) } else { None };
    outputs.iter().filter_map(pick).collect()
}

pub(super) fn registering(version: ProtocolVersion) -> Bench {
    let mut bench = Bench::of(Owner::Registration(4), &["allow read_write #"]);
    bench.connect(&lasting(version));
    bench
}

pub(super) fn answer(bench: &mut Bench, response_topic: &str) -> (Disposition, Vec<Outgoing>) {
    let answer = RegistryAnswer {
        response_topic: topic(response_topic),
        correlation_data: Some(Bytes::from_static(b"17")),
        payload: Bytes::from_static(b"{}"),
        content_type: "application/json",
    };
    let (disposition, outputs) = bench.give(|session, cx| session.handle_registry_answer(answer, cx));
    (disposition, deliveries(&outputs))
}

#[test]
fn an_operation_needs_no_rule_and_is_never_routed() {
    for version in BOTH {
        for mut bench in [Bench::connected(version, &[]), registering(version)] {
            for (number, operation) in (1..).zip(RegistryOperation::OPEN) {
                let name = format!("$registry/{}", operation.as_str());
                let outputs = bench.packet(Packet::Publish(publish(&name, QoS::AtLeastOnce, number)));
                assert_eq!(sent(&outputs), [Packet::PubAck(ok(number))]);
                let request = requests(&outputs).pop().unwrap();
                assert_eq!(request.operation, operation);
                assert_eq!(request.response_topic, topic(&format!("{name}/response")));
                assert!(routed(&outputs).is_empty() && refusals(&outputs).is_empty());
            }
            let twice = publish("$registry/whoami", QoS::ExactlyOnce, 9);
            assert_eq!(requests(&bench.packet(Packet::Publish(twice.clone()))).len(), 1);
            assert!(requests(&bench.packet(Packet::Publish(twice))).is_empty());
        }
    }
}

#[test]
fn the_response_topic_counts_only_in_the_answer_space_of_the_operation() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &[]);
    for (asked, used) in [
        ("$registry/whoami/response/7", "$registry/whoami/response/7"),
        ("$registry/whoami/response", "$registry/whoami/response"),
        ("$registry/whoami/responses", "$registry/whoami/response"),
        ("$registry/ca/response/7", "$registry/whoami/response"),
        ("victim/topic", "$registry/whoami/response"),
    ] {
        let properties = PublishProperties {
            response_topic: Some(topic(asked)),
            correlation_data: Some(Bytes::from_static(b"1")),
            ..PublishProperties::default()
        };
        let outputs = bench.packet(Packet::Publish(Publish {
            properties: Some(Box::new(properties)),
            ..publish("$registry/whoami", QoS::AtMostOnce, 1)
        }));
        let request = requests(&outputs).pop().unwrap();
        assert_eq!(request.response_topic, topic(used));
        assert_eq!(request.correlation_data.as_deref(), Some(b"1".as_slice()));
    }
}

/// Idle connections are not worth a place that a device could have; who has asked may wait for the decision.
#[test]
fn a_registration_session_that_asks_for_nothing_ends_early() {
    for version in BOTH {
        for operation in RegistryOperation::OPEN {
            let mut bench = Bench::of(Owner::Registration(4), &[]);
            let at = |seconds| bench.clock.instant().checked_add(Duration::from_secs(seconds));
            let until = at(3600).map(|at| (at, ReasonCode::MaximumConnectTime));
            let terms = Terms { until, ask_by: at(30), ..Terms::default() };
            bench.give(|session, cx| session.handle_connect(&clean(version), &terms, cx));
            assert_eq!(bench.session.poll_timeout(), terms.ask_by);
            bench.clock.advance(Duration::from_secs(29));
            bench.packet(Packet::PingReq);
            bench.packet(Packet::Publish(publish(&format!("$registry/{}", operation.as_str()), QoS::AtMostOnce, 1)));
            assert!(timeout(&mut bench).is_empty());
            bench.clock.advance(Duration::from_secs(1));
            let over = CloseReason::TimeIsUp(ReasonCode::MaximumConnectTime);
            let ended = timeout(&mut bench).iter().any(|output| matches!(output, Output::Close(why) if *why == over));
            let enrols = !matches!(operation, RegistryOperation::Whoami | RegistryOperation::Ca);
            assert_eq!(ended, !enrols, "{operation:?}");
            if enrols {
                assert_eq!(bench.session.poll_timeout(), until.map(|(at, _)| at));
            }
        }
    }
}

/// An operator is told whether the device could be shown its pairing code: nobody is who does not listen, or takes no packet so large.
#[test]
fn who_asks_without_listening_or_without_room_for_the_answer_is_known() {
    let ask = |bench: &mut Bench, response: &str| {
        let properties = PublishProperties {
            response_topic: Some(topic(response)),
            correlation_data: Some(Bytes::from_static(&[7; 100])),
            ..PublishProperties::default()
        };
        let question = publish("$registry/register", QoS::AtMostOnce, 1);
        let outputs = bench.packet(Packet::Publish(Publish { properties: Some(Box::new(properties)), ..question }));
        requests(&outputs).pop().unwrap().heard
    };
    let mut bench = registering(ProtocolVersion::V5);
    assert!(!ask(&mut bench, "$registry/register/response/7"));
    bench.subscribe("$registry/register/response", QoS::AtMostOnce);
    assert!(!ask(&mut bench, "$registry/register/response/7"), "another topic");
    assert!(ask(&mut bench, "$registry/register/response"));
    for (largest, heard) in [(40, false), (1_100, false), (1_200, true)] {
        let mut bench = Bench::of(Owner::Registration(4), &[]);
        let mut connect = clean(ProtocolVersion::V5);
        connect.properties.maximum_packet_size = NonZeroU32::new(largest);
        bench.connect(&connect);
        bench.subscribe("$registry/register/response", QoS::AtMostOnce);
        assert_eq!(ask(&mut bench, "$registry/register/response"), heard, "{largest}");
    }
}

#[test]
fn an_answer_goes_to_a_matching_subscription_at_its_qos() {
    for version in BOTH {
        let mut bench = registering(version);
        assert_eq!(answer(&mut bench, "$registry/ca/response").0, Disposition::NotWanted);
        for text in
            ["$registry/+/response/#", "$registry/ca/response", "$registry/+/response", "$registry/ca/response/+"]
        {
            let (code, outputs) = bench.subscribe_with(
                text,
                SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() },
                None,
            );
            assert_eq!(code, ReasonCode::GrantedQoS1);
            assert!(!outputs.iter().any(|output| matches!(output, Output::Subscribed { .. })), "not in the index");
        }
        let (disposition, deliveries) = answer(&mut bench, "$registry/ca/response");
        assert_eq!((disposition, deliveries.len(), deliveries[0].qos), (Disposition::Sent, 1, QoS::AtLeastOnce));
        let properties = deliveries[0].message.properties.as_deref();
        if version == ProtocolVersion::V5 {
            let properties = properties.unwrap();
            assert_eq!(properties.correlation_data.as_deref(), Some(b"17".as_slice()));
            assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        } else {
            assert_eq!(properties, None);
        }
        assert!(bench.give(|session, cx| session.may_still_send(&deliveries[0], cx)).0);
    }
}

#[test]
fn answers_wait_for_room_and_are_bounded() {
    let mut bench = Bench::new(&[]);
    let mut connect = clean(ProtocolVersion::V5);
    connect.properties.receive_maximum = NonZeroU16::new(1);
    bench.connect(&connect);
    bench.subscribe("$registry/+/response/#", QoS::AtLeastOnce);
    let dispositions: Vec<_> = (0..20).map(|_| answer(&mut bench, "$registry/ca/response").0).collect();
    assert_eq!(dispositions[0], Disposition::Sent);
    assert_eq!(dispositions[1..17], [Disposition::Waiting; 16]);
    assert_eq!(dispositions[17..], [Disposition::NotNow; 3]);
    for number in 1..17 {
        assert_eq!(deliveries(&bench.packet(Packet::PubAck(ok(number)))).len(), 1);
    }
    assert!(deliveries(&bench.packet(Packet::PubAck(ok(17)))).is_empty());
    assert!(bench.session.can_deliver());
}

#[test]
fn a_registration_session_may_do_nothing_else() {
    let mut bench = registering(ProtocolVersion::V5);
    let retained = Publish { retain: true, ..publish("$registry/register", QoS::AtLeastOnce, 1) };
    for bad in [publish("a", QoS::AtLeastOnce, 1), publish("$registry/admin/grant", QoS::AtLeastOnce, 1), retained] {
        let outputs = bench.packet(Packet::Publish(bad));
        let refused = (Action::Publish, RefusalCause::RegistrationSession, ReasonCode::NotAuthorized);
        assert_eq!(refusals(&outputs), [refused]);
        assert_eq!(sent(&outputs), [Packet::PubAck(ack(1, ReasonCode::NotAuthorized))]);
        assert!(requests(&outputs).is_empty() && routed(&outputs).is_empty());
    }
    for text in ["a", "#", "$registry/#", "$registry/register/#", "$registry/events/#", "+/+/response/#"] {
        assert_eq!(bench.subscribe(text, QoS::AtMostOnce), ReasonCode::NotAuthorized, "{text}");
    }
    bench.lose();
    assert!(bench.session.is_over(), "no persistent session");
}

#[test]
fn ordinary_rules_reach_the_operators_topics() {
    let mut bench = Bench::connected(ProtocolVersion::V5, &["allow read $registry/#"]);
    let (code, outputs) = bench.subscribe_with("$registry/events/#", SubscriptionOptions::default(), None);
    assert_eq!(code, ReasonCode::Success);
    assert!(outputs.iter().any(|output| matches!(output, Output::Subscribed { .. })));
}

const INVITE: &str = "$registry/renew/invite";

fn due_in(bench: &mut Bench, version: ProtocolVersion, seconds: u64) -> Vec<Output> {
    let invite = bench.clock.instant().checked_add(Duration::from_secs(seconds));
    let terms = Terms { invite, ..Terms::default() };
    bench.give(|session, cx| session.handle_connect(&lasting(version), &terms, cx)).1
}

fn invitations(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Invite(topic) if topic.as_str() == INVITE)).count()
}

fn timeout(bench: &mut Bench) -> Vec<Output> {
    bench.give(Session::handle_timeout).1
}

#[test]
fn an_invitation_is_made_once_when_it_is_due() {
    for version in BOTH {
        let mut bench = Bench::new(&[]);
        due_in(&mut bench, version, 50);
        let (code, outputs) = bench.subscribe_with(INVITE, SubscriptionOptions::default(), None);
        assert_eq!((code, invitations(&outputs)), (ReasonCode::Success, 0), "it needs no rule");
        assert!(bench.session.poll_timeout().is_some());
        bench.clock.advance(Duration::from_secs(49));
        assert_eq!(invitations(&timeout(&mut bench)), 0);
        bench.clock.advance(Duration::from_secs(1));
        assert_eq!(invitations(&timeout(&mut bench)), 1);
        assert_eq!(invitations(&timeout(&mut bench)), 0);
        assert_eq!(invitations(&bench.subscribe_with(INVITE, SubscriptionOptions::default(), None).1), 0);
        let (disposition, sent) = answer(&mut bench, INVITE);
        assert_eq!((disposition, sent.len()), (Disposition::Sent, 1));
    }
}

#[test]
fn an_invitation_waits_for_the_subscription_and_is_made_again_to_the_next_connection() {
    for version in BOTH {
        let mut bench = Bench::new(&[]);
        due_in(&mut bench, version, 0);
        assert_eq!(invitations(&timeout(&mut bench)), 0, "nobody would get it");
        let outputs = bench.subscribe_with(INVITE, SubscriptionOptions::default(), None).1;
        assert_eq!(invitations(&outputs), 1);
        assert!(matches!(outputs.first(), Some(Output::Send(Packet::SubAck(_)))), "after the SUBACK");
        bench.give(|session, cx| session.handle_end(EndCause::ConnectionLost, cx));
        due_in(&mut bench, version, 0);
        assert_eq!(invitations(&timeout(&mut bench)), 1, "the session holds the subscription");
        bench.give(|session, cx| session.handle_end(EndCause::ConnectionLost, cx));
        bench.connect(&lasting(version));
        assert_eq!(invitations(&timeout(&mut bench)), 0, "without a certificate there is none");
    }
}

/// Another CA has taken over: who was invited, or is to be later, is invited in time; who is to be earlier stays so.
#[test]
fn an_invitation_can_be_moved_forward_and_be_made_again() {
    let version = ProtocolVersion::V5;
    let mut bench = Bench::new(&[]);
    due_in(&mut bench, version, 50);
    bench.subscribe_with(INVITE, SubscriptionOptions::default(), None);
    let begin = bench.clock.instant();
    let at = |seconds| begin.checked_add(Duration::from_secs(seconds)).unwrap();
    bench.session.invite_by(at(60));
    bench.session.invite_by(at(20));
    bench.clock.advance(Duration::from_secs(20));
    assert_eq!(invitations(&timeout(&mut bench)), 1);
    bench.clock.advance(Duration::from_secs(40));
    assert_eq!(invitations(&timeout(&mut bench)), 0);
    bench.session.invite_by(at(70));
    assert!(bench.session.poll_timeout().is_some_and(|next| next <= at(70)), "its connection wakes in time");
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(invitations(&timeout(&mut bench)), 1);
}

#[test]
fn who_listens_to_the_registry_is_known() {
    let mut bench = Bench::new(&[]);
    due_in(&mut bench, ProtocolVersion::V5, 50);
    assert!(!bench.session.hears(&topic("$registry/ca/response")));
    bench.subscribe_with("$registry/ca/response/#", SubscriptionOptions::default(), None);
    assert!(bench.session.hears(&topic("$registry/ca/response")));
    assert!(!bench.session.hears(&topic("$registry/renew/response")));
}

#[test]
fn a_client_that_enrols_or_has_no_rule_subscribes_to_invitations_alone() {
    let mut bench = registering(ProtocolVersion::V5);
    for (filter, admitted) in [(INVITE, true), ("$registry/renew/+", false), ("$registry/+/invite", false)] {
        let code = bench.subscribe_with(filter, SubscriptionOptions::default(), None).0;
        assert_eq!(!code.is_error(), admitted, "{filter}");
    }
}

//! Answers to requests: whom the right to answer helps, and that it helps nobody else and to nothing else.

use super::*;

const ASKER: SessionNumber = SessionNumber(41);

/// A responder who may receive requests and publish nothing.
fn responder(rules: &[&str]) -> Bench {
    let mut bench = Bench::new(rules);
    bench.settings.response_grants = Some(Duration::from_secs(30));
    bench.connect(&lasting(ProtocolVersion::V5));
    bench.subscribe("ask/#", QoS::ExactlyOnce);
    bench
}

fn properties(response_topic: &str, correlation: Option<&str>) -> Box<PublishProperties> {
    Box::new(PublishProperties {
        response_topic: Some(topic(response_topic)),
        correlation_data: correlation.map(|data| Bytes::copy_from_slice(data.as_bytes())),
        ..PublishProperties::default()
    })
}

fn request(response_topic: &str, correlation: Option<&str>) -> Message {
    Message {
        publisher: Publisher { user: Some(UserId(Uuid::from_u128(9))), session: ASKER },
        properties: Some(properties(response_topic, correlation)),
        ..message("ask/me", QoS::AtMostOnce)
    }
}

/// The answer of a client: its own Response Topic, which there is none of, is not what counts.
fn answer(to: &str, correlation: Option<&str>, qos: QoS) -> Publish {
    let correlation_data = correlation.map(|data| Bytes::copy_from_slice(data.as_bytes()));
    let properties = PublishProperties { correlation_data, ..PublishProperties::default() };
    Publish { properties: Some(Box::new(properties)), ..publish(to, qos, 1) }
}

/// To whom a message went that only a request permits. Nothing may be routed.
fn answered(outputs: &[Output]) -> Option<SessionNumber> {
    assert!(routed(outputs).is_empty());
    outputs.iter().find_map(|output| match output {
        Output::Answer { message, requester, .. } => {
            assert!(!message.retain);
            Some(*requester)
        }
        _ => None,
    })
}

impl Bench {
    fn answer(&mut self, to: &str, correlation: Option<&str>) -> Option<SessionNumber> {
        answered(&self.packet(Packet::Publish(answer(to, correlation, QoS::AtMostOnce))))
    }
}

#[test]
fn a_request_is_answered_once_with_its_own_correlation_data() {
    let mut bench = responder(&["allow read ask/#"]);
    assert_eq!(bench.answer("r/1", Some("c")), None, "before it was received");
    bench.delivered(request("r/1", Some("c")));
    for (to, correlation) in
        [("r/1", None), ("r/1", Some("d")), ("r/1", Some("")), ("r/2", Some("c")), ("r/1/x", Some("c"))]
    {
        assert_eq!(bench.answer(to, correlation), None, "{to} {correlation:?}");
    }
    assert_eq!(bench.answer("r/1", Some("c")), Some(ASKER));
    assert_eq!(bench.answer("r/1", Some("c")), None, "twice");
}

#[test]
fn the_answer_is_acknowledged_and_a_refused_one_tells_so() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut bench = responder(&["allow read ask/#"]);
        bench.delivered(request("r", None));
        let outputs = bench.packet(Packet::Publish(answer("r", None, qos)));
        assert_eq!(answered(&outputs), Some(ASKER));
        let Some(Output::Answer { ticket: Some(ticket), .. }) = outputs.into_iter().next() else { panic!("no ticket") };
        let ((), outputs) = bench.give(|session, cx| session.handle_accepted(ticket, RouteOutcome::NoSubscribers, cx));
        let acks = sent(&outputs);
        let ack = ack(1, ReasonCode::NoMatchingSubscribers);
        let expected = if qos == QoS::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
        assert_eq!(acks, [expected]);
        bench.packet(Packet::PubRel(ok(1)));
        let outputs = bench.packet(Packet::Publish(answer("r", None, qos)));
        assert_eq!(refusals(&outputs), [(Action::Publish, RefusalCause::Rules, ReasonCode::NotAuthorized)]);
    }
}

/// Whoever asks chooses the Response Topic: it must not lead where a rule says no.
#[test]
fn a_deny_on_the_response_topic_beats_the_right_to_answer() {
    for (deny, shut) in [("r/#", true), ("+/1", true), ("#", true), ("r/2", false), ("r", false)] {
        let mut bench = responder(&["allow read ask/#", &format!("deny write {deny}")]);
        bench.delivered(request("r/1", None));
        assert_eq!(bench.answer("r/1", None), (!shut).then_some(ASKER), "{deny}");
    }
    let mut bench = responder(&["allow read ask/#", "deny read r/#"]);
    bench.delivered(request("r/1", None));
    assert_eq!(bench.answer("r/1", None), Some(ASKER), "to read is another thing");
}

#[test]
fn as_many_requests_as_many_answers_oldest_first() {
    let mut bench = responder(&["allow read ask/#"]);
    for asker in 50..53 {
        let publisher = Publisher { user: None, session: SessionNumber(asker) };
        bench.delivered(Message { publisher, ..request("r", None) });
    }
    let order: Vec<_> = (0..4).map(|_| bench.answer("r", None)).collect();
    assert_eq!(order, [Some(SessionNumber(50)), Some(SessionNumber(51)), Some(SessionNumber(52)), None]);
}

#[test]
fn the_time_to_answer_ends() {
    let mut bench = responder(&["allow read ask/#"]);
    bench.delivered(request("early", None));
    bench.pass(29);
    bench.delivered(request("late", None));
    bench.pass(1);
    assert_eq!(bench.answer("early", None), None);
    bench.pass(28);
    assert_eq!(bench.answer("late", None), Some(ASKER));
}

#[test]
fn an_answer_is_never_retained_and_never_of_the_brokers_own_topics() {
    let mut bench = responder(&["allow read ask/#"]);
    for response_topic in ["$SYS/x", "$registry/register/response", "$x"] {
        bench.delivered(request(response_topic, None));
        assert_eq!(bench.answer(response_topic, None), None);
    }
    bench.delivered(request("r", None));
    for payload in [&b"x"[..], b""] {
        let retained = Publish { retain: true, payload: payload.into(), ..answer("r", None, QoS::AtMostOnce) };
        assert_eq!(answered(&bench.packet(Packet::Publish(retained))), None);
    }
    assert_eq!(bench.answer("r", None), Some(ASKER), "a refused attempt costs nothing");
}

#[test]
fn nothing_is_granted_unless_the_operator_says_so_nor_to_3_1_1() {
    let mut off = responder(&["allow read ask/#"]);
    off.settings.response_grants = None;
    off.delivered(request("r", None));
    assert_eq!(off.answer("r", None), None);
    off.settings.response_grants = Some(Duration::from_secs(30));
    assert_eq!(off.answer("r", None), None);

    let mut old = Bench::new(&["allow read ask/#"]);
    old.settings.response_grants = Some(Duration::from_secs(30));
    old.settings.denied_publish = DeniedPublish::Acknowledge;
    old.connect(&lasting(ProtocolVersion::V311));
    old.subscribe("ask/#", QoS::AtMostOnce);
    old.delivered(request("r", None));
    assert_eq!(answered(&old.packet(Packet::Publish(publish("r", QoS::AtMostOnce, 1)))), None);
}

#[test]
fn who_did_not_receive_the_request_may_not_answer_it() {
    let mut bench = responder(&["allow read ask/#", "deny read ask/secret"]);
    let withheld = Message { topic: topic("ask/secret"), ..request("r", None) };
    assert_eq!(bench.deliver(withheld).0, Disposition::Withheld);
    assert_eq!(bench.answer("r", None), None);
    // Too large for the client, expired, or without room: not received either.
    let expired = Message { expires: Some(bench.now()), ..request("r", None) };
    assert_eq!(bench.deliver(expired).0, Disposition::Expired);
    assert_eq!(bench.answer("r", None), None);
    // From the broker itself, whom nobody can write to alone.
    bench.delivered(Message { publisher: Publisher::SYSTEM, ..request("r", None) });
    assert_eq!(bench.answer("r", None), None);
}

#[test]
fn the_right_to_answer_goes_with_the_right_to_receive() {
    let mut bench = responder(&["allow read ask/#"]);
    bench.delivered(request("r", None));
    bench.delivered(Message { topic: topic("ask/other"), ..request("s", None) });
    bench.rules(&["allow read ask/other"]);
    assert_eq!(bench.answer("r", None), None);
    bench.rules(&["allow read ask/#"]);
    assert_eq!(bench.answer("r", None), None, "it does not come back");
    assert_eq!(bench.answer("s", None), Some(ASKER));
}

/// A request that is sent a second time, to a client that did not acknowledge it or that subscribes again, is no second
/// request.
#[test]
fn a_request_that_comes_again_is_not_answered_again() {
    let mut bench = responder(&["allow read ask/#"]);
    let persistent = Message { qos: QoS::AtLeastOnce, ..request("r", None) };
    bench.delivered(persistent);
    assert_eq!(bench.answer("r", None), Some(ASKER));
    bench.lose();
    let resent = deliveries(&bench.connect(&lasting(ProtocolVersion::V5)));
    assert!(resent.first().is_some_and(|outgoing| outgoing.dup));
    assert_eq!(bench.answer("r", None), None);

    let retained = Delivery { retained: true, ..bench.delivery(request("r", None)) };
    assert_eq!(bench.give(|session, cx| session.handle_delivery(retained, cx)).0, Disposition::Sent);
    assert_eq!(bench.answer("r", None), None);
}

#[test]
fn a_session_that_resumes_may_still_answer_and_a_new_one_may_not() {
    let mut bench = responder(&["allow read ask/#"]);
    bench.delivered(request("r", None));
    bench.delivered(request("s", None));
    bench.lose();
    bench.connect(&lasting(ProtocolVersion::V5));
    assert_eq!(bench.answer("r", None), Some(ASKER));
    bench.connect(&clean(ProtocolVersion::V5));
    assert_eq!(bench.answer("s", None), None);
}

#[test]
fn what_the_rules_permit_is_routed_as_ever_and_uses_nothing_up() {
    let mut bench = responder(&["allow read ask/#", "allow write r"]);
    bench.delivered(request("r", None));
    assert_eq!(routed(&bench.packet(Packet::Publish(answer("r", None, QoS::AtMostOnce)))).len(), 1);
    bench.rules(&["allow read ask/#"]);
    assert_eq!(bench.answer("r", None), Some(ASKER));
    // A rule for a lower QoS only does not permit it.
    bench.rules(&["allow read ask/#", "allow write r max_qos=0"]);
    bench.delivered(request("r", None));
    assert_eq!(answered(&bench.packet(Packet::Publish(answer("r", None, QoS::AtLeastOnce)))), Some(ASKER));
}

/// A Response Topic gets no publish prefix; a requester cannot draw off what the responder publishes under its own.
#[test]
fn a_response_topic_is_as_the_client_writes_it() {
    let mut bench = responder(&["allow read ask/#"]);
    bench.prefix(&["allow read ask/#", "allow write site/status"], "site/");
    bench.delivered(request("r", None));
    bench.delivered(request("status", None));
    bench.delivered(request("site/r", None));
    assert_eq!(bench.answer("r", None), Some(ASKER));
    let outputs = bench.packet(Packet::Publish(answer("status", None, QoS::AtMostOnce)));
    assert_eq!(routed(&outputs).pop().map(|message| message.topic.to_string()), Some("site/status".to_owned()));
}

#[test]
fn an_answer_counts_as_a_message_and_waits_for_the_quota() {
    use crate::access::{Quota, Rate};
    let mut bench = responder(&["allow read ask/#"]);
    bench.delivered(request("r", None));
    bench.delivered(request("s", None));
    let quota = Quota { publish_messages: Some(Rate::new(1, None).unwrap()), ..Quota::default() };
    bench.turn(Some(User { quota: Some(Box::new(quota)), ..user(&["allow read ask/#"], None) }));
    assert_eq!(bench.answer("r", None), Some(ASKER));
    assert_eq!(bench.answer("s", None), None);
    bench.pass(1);
    assert_eq!(bench.answer("s", None), Some(ASKER), "the refused attempt did not use it up");
}

/// Whoever floods a responder with requests displaces requests of its own.
#[test]
fn a_flood_of_requests_leaves_those_of_others() {
    let mut bench = responder(&["allow read ask/#"]);
    let of = |user: u128, text: String| Message {
        publisher: Publisher { user: Some(UserId(Uuid::from_u128(user))), session: ASKER },
        ..request(&text, None)
    };
    bench.delivered(of(1, "quiet".to_owned()));
    for number in 0..3_000 {
        bench.delivered(of(2, format!("flood/{number}")));
    }
    bench.delivered(of(1, "late".to_owned()));
    for number in 0..40 {
        bench.delivered(of(2, format!("{}/{number}", "long".repeat(3_000))));
    }
    assert_eq!(bench.answer("quiet", None), Some(ASKER));
    assert_eq!(bench.answer("late", None), Some(ASKER));
    assert_eq!(bench.answer("flood/0", None), None);
    // One that is too large is not remembered at all.
    bench.delivered(of(3, "x".repeat(16 * 1024)));
    assert_eq!(bench.answer(&"x".repeat(16 * 1024), None), None);
}

//! `access.response_grants`: a request may be answered once, to whoever asked, and to nobody and nothing else.

use std::time::Duration;

use bytes::Bytes;
use portcullis::mqtt::{Connect, Packet, Publish, PublishProperties, QoS, ReasonCode, TopicName};

use crate::{
    client::{Client, Q0, Q1, Q2, V5, V311, options, publish, text_of, topic_of},
    harness::{Harness, allow, allow_read, allow_write, as_user},
};

const ON: &str = "[access]\nresponse_grants = true\nresponse_grant_for = \"400ms\"";

/// `asker` and `other` may ask and read answers, `device` may receive requests and publish nothing.
async fn harness(config: &str) -> Harness {
    let harness = Harness::start(config).await;
    for name in ["asker", "other"] {
        harness.user(name, vec![allow_write("device/ask"), allow_read("answers/#")]);
    }
    harness.user("device", vec![allow_read("device/#")]);
    harness
}

fn with(properties: PublishProperties, message: Publish) -> Publish {
    Publish { properties: Some(Box::new(properties)), ..message }
}

fn correlation(data: &str) -> Option<Bytes> {
    (!data.is_empty()).then(|| Bytes::copy_from_slice(data.as_bytes()))
}

async fn ask(client: &mut Client, response_topic: &str, data: &str) {
    let properties = PublishProperties {
        response_topic: Some(TopicName::try_from(response_topic).unwrap()),
        correlation_data: correlation(data),
        ..PublishProperties::default()
    };
    client.publish_packet(with(properties, publish("device/ask", "?", Q1))).await;
}

fn answer(response_topic: &str, data: &str, text: &str, qos: QoS) -> Publish {
    let properties = PublishProperties { correlation_data: correlation(data), ..PublishProperties::default() };
    with(properties, publish(response_topic, text, qos))
}

async fn asker(harness: &Harness, user: &str, client_id: &str) -> Client {
    let mut client = harness.client_of(user, V5, client_id).await;
    client.subscribe("answers/#", Q2).await;
    client
}

async fn device(harness: &Harness) -> Client {
    let mut device = harness.client_of("device", V5, "d").await;
    device.subscribe("device/ask", Q1).await;
    device
}

#[tokio::test]
async fn an_answer_goes_to_the_requester_alone_and_once() {
    let harness = harness(ON).await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("answers/#", Q2).await;
    let mut device = device(&harness).await;
    let mut asking = asker(&harness, "asker", "a").await;
    let mut same_user = asker(&harness, "asker", "b").await;
    let mut other = asker(&harness, "other", "a").await;
    for qos in [Q1, Q2] {
        ask(&mut asking, "answers/1", "c1").await;
        let request = device.receive().await;
        assert_eq!(request.properties.as_deref().and_then(|p| p.correlation_data.as_deref()), Some(&b"c1"[..]));
        assert_eq!(device.publish_packet(answer("answers/1", "c1", "42", qos)).await, ReasonCode::Success);
        let got = asking.expect_message("answers/1", "42").await;
        assert_eq!((got.qos, got.retain), (qos, false));
        assert_eq!(got.properties.as_deref().and_then(|p| p.correlation_data.as_deref()), Some(&b"c1"[..]));
        assert_eq!(device.publish_packet(answer("answers/1", "c1", "43", qos)).await, ReasonCode::NotAuthorized);
    }
    // QoS 0 too, where nobody is told.
    ask(&mut asking, "answers/0", "").await;
    device.receive().await;
    for text in ["1", "2"] {
        device.publish_packet(answer("answers/0", "", text, Q0)).await;
    }
    asking.expect_message("answers/0", "1").await;
    for client in [&mut asking, &mut same_user, &mut other, &mut watcher, &mut device] {
        client.expect_silence().await;
    }
    // Nothing stays: whoever subscribes later finds nothing.
    asker(&harness, "other", "later").await.expect_silence().await;
}

#[tokio::test]
async fn it_is_off_unless_the_operator_says_so() {
    let harness = harness("").await;
    let mut device = device(&harness).await;
    let mut asking = asker(&harness, "asker", "a").await;
    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    assert_eq!(device.publish_packet(answer("answers/1", "c", "x", Q1)).await, ReasonCode::NotAuthorized);
    asking.expect_silence().await;
}

#[tokio::test]
async fn wrong_answers_are_refused() {
    let harness = harness(ON).await;
    let mut device = device(&harness).await;
    let mut bystander = harness.client_of("device", V5, "bystander").await;
    let mut asking = asker(&harness, "asker", "a").await;
    let refused = ReasonCode::NotAuthorized;

    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    for (topic, data) in [("answers/1", ""), ("answers/1", "d"), ("answers/2", "c"), ("answers/1/2", "c")] {
        assert_eq!(device.publish_packet(answer(topic, data, "x", Q1)).await, refused, "{topic} {data}");
    }
    let retained = Publish { retain: true, ..answer("answers/1", "c", "x", Q1) };
    assert_eq!(device.publish_packet(retained).await, refused);
    // The same user on another connection did not receive it.
    assert_eq!(bystander.publish_packet(answer("answers/1", "c", "x", Q1)).await, refused);
    asking.expect_silence().await;
    // After all of that the right one still counts, but not for ever.
    assert_eq!(device.publish_packet(answer("answers/1", "c", "right", Q1)).await, ReasonCode::Success);
    asking.expect_message("answers/1", "right").await;
    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_eq!(device.publish_packet(answer("answers/1", "c", "late", Q1)).await, refused);

    for response_topic in ["$SYS/x", "$registry/whoami/response", "$x"] {
        ask(&mut asking, response_topic, "c").await;
        device.receive().await;
        assert_eq!(device.publish_packet(answer(response_topic, "c", "x", Q1)).await, refused);
    }
    asking.expect_silence().await;
}

/// The requester needs the right to read the answer, and a subscription, at that moment.
#[tokio::test]
async fn a_requester_gets_only_what_it_subscribed_to_and_may_read() {
    let harness = harness(ON).await;
    let user = harness.user("curious", vec![allow_write("device/ask"), allow_read("answers/#"), allow_read("x/#")]);
    let mut device = device(&harness).await;
    let mut asking = harness.client_of("curious", V5, "a").await;
    asking.subscribe("answers/#", Q1).await;
    asking.subscribe("x/#", Q1).await;
    // Not subscribed: 0x10.
    ask(&mut asking, "elsewhere", "c").await;
    device.receive().await;
    let code = device.publish_packet(answer("elsewhere", "c", "x", Q1)).await;
    assert_eq!(code, ReasonCode::NoMatchingSubscribers);
    // Revoked between request and answer: withheld.
    ask(&mut asking, "x/1", "c").await;
    device.receive().await;
    harness.permit(user, vec![allow_write("device/ask"), allow_read("answers/#")]);
    device.publish_packet(answer("x/1", "c", "x", Q1)).await;
    asking.expect_silence().await;
}

/// Whoever is connected under the requester's client identifier is not the requester, unless it is the same session.
#[tokio::test]
async fn nobody_inherits_the_answers_of_a_requester_that_is_gone() {
    let harness = harness(ON).await;
    let mut device = device(&harness).await;
    let mut asking = asker(&harness, "asker", "a").await;
    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    asking.disconnect().await;
    let mut other = asker(&harness, "other", "a").await;
    let code = device.publish_packet(answer("answers/1", "c", "x", Q1)).await;
    assert_eq!(code, ReasonCode::NoMatchingSubscribers);
    other.expect_silence().await;

    // The user is deleted, and another of the same name is made.
    let user = harness.user("passing", vec![allow_write("device/ask"), allow_read("answers/#")]);
    let mut asking = asker(&harness, "passing", "p").await;
    ask(&mut asking, "answers/2", "c").await;
    device.receive().await;
    harness.delete(user);
    harness.user("passing", vec![allow_write("device/ask"), allow_read("answers/#")]);
    let mut namesake = asker(&harness, "passing", "p").await;
    let code = device.publish_packet(answer("answers/2", "c", "x", Q1)).await;
    assert_eq!(code, ReasonCode::NoMatchingSubscribers);
    namesake.expect_silence().await;
}

/// A session that waits for its client gets the answer when it is back.
#[tokio::test]
async fn a_requester_that_comes_back_finds_its_answer() {
    let harness = harness(ON).await;
    let mut device = device(&harness).await;
    let mut connect = Connect { clean_start: false, ..as_user(V5, "a", "asker") };
    connect.properties.session_expiry_interval = Some(3600);
    let mut asking = harness.login(&connect).await;
    asking.subscribe("answers/#", Q1).await;
    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    asking.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(device.publish_packet(answer("answers/1", "c", "42", Q1)).await, ReasonCode::Success);
    harness.login(&connect).await.expect_message("answers/1", "42").await;
}

/// Revoked between request and answer: the responder may not answer what it may not receive any more; a disabled one is
/// gone anyway.
#[tokio::test]
async fn the_right_to_answer_goes_with_the_right_to_receive() {
    let harness = harness(ON).await;
    let user = harness.user("fired", vec![allow_read("device/ask")]);
    let mut device = harness.client_of("fired", V5, "f").await;
    device.subscribe("device/ask", Q1).await;
    let mut asking = asker(&harness, "asker", "a").await;
    ask(&mut asking, "answers/1", "c").await;
    device.receive().await;
    harness.permit(user, vec![allow_read("device/other")]);
    assert_eq!(device.publish_packet(answer("answers/1", "c", "x", Q1)).await, ReasonCode::NotAuthorized);
    asking.expect_silence().await;
}

/// With a rule of its own the responder publishes as ever: routed to all. And what such a client could publish anyway
/// cannot be drawn off by asking for it.
#[tokio::test]
async fn what_the_rules_allow_is_published_to_all() {
    let harness = harness(ON).await;
    harness.user("allowed", vec![allow_read("device/#"), allow_write("answers/#")]);
    let mut device = harness.client_of("allowed", V5, "d").await;
    device.subscribe("device/ask", Q1).await;
    let mut asking = asker(&harness, "asker", "a").await;
    let mut other = asker(&harness, "other", "a").await;
    ask(&mut asking, "answers/1", "").await;
    device.receive().await;
    device.publish("answers/1", "for all", Q1).await;
    asking.expect_message("answers/1", "for all").await;
    other.expect_message("answers/1", "for all").await;
}

/// 3.1.1 knows neither requests nor answers: what its client publishes is refused as ever.
#[tokio::test]
async fn a_3_1_1_client_receives_the_request_and_has_no_right_by_it() {
    let harness = harness(ON).await;
    let mut device = harness.client_of("device", V311, "d").await;
    device.subscribe("device/ask", Q1).await;
    let mut asking = asker(&harness, "asker", "a").await;
    ask(&mut asking, "answers/1", "").await;
    device.receive().await;
    device.send(Packet::Publish(publish("answers/1", "x", Q0))).await;
    device.expect_closed().await;
    asking.expect_silence().await;
}

/// A device may send itself a request. What comes of it, it alone reads, and only where it may.
#[tokio::test]
async fn a_client_that_asks_itself_wins_nothing() {
    let harness = harness(ON).await;
    harness.user("own", vec![allow("device/#"), allow_read("mine/#")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    let mut own = harness.client_of("own", V5, "o").await;
    assert_eq!(own.subscribe_with(&[("device/ask", options(Q1)), ("mine/#", options(Q1))]).await.len(), 2);
    for (target, read) in [("mine/1", true), ("forbidden", false)] {
        ask(&mut own, target, "c").await;
        assert_eq!(topic_of(&own.receive().await), "device/ask");
        watcher.expect_message("device/ask", "?").await;
        own.publish_packet(answer(target, "c", "x", Q1)).await;
        if read {
            assert_eq!(text_of(&own.receive().await), "x");
        }
        own.expect_silence().await;
        watcher.expect_silence().await;
    }
}

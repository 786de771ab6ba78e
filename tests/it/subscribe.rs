//! SUBSCRIBE and UNSUBSCRIBE: filters, options, overlap.

use std::num::NonZeroU32;

use portcullis::mqtt::{
    Packet, ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter,
};
use tokio::time::timeout;

use crate::{
    client::{BOTH, Client, PATIENCE, Q0, Q1, Q2, QOS, V5, V311, options, text_of, topic_of},
    harness::Harness,
};

/// 4.7: which filters match which topics.
#[tokio::test]
async fn wildcards_match_as_they_should() {
    let harness = Harness::start("").await;
    let table: [(&str, &[&str]); 10] = [
        ("#", &["a", "a/b", "/", "/a", "a/b/c", "a/"]),
        ("+", &["a"]),
        ("+/+", &["a/b", "/", "/a", "a/"]),
        ("/+", &["/", "/a"]),
        ("a", &["a"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/"]),
        ("a/+", &["a/b", "a/"]),
        ("a/+/c", &["a/b/c"]),
        ("+/b/#", &["a/b", "a/b/c"]),
        ("A", &[]),
    ];
    let topics = ["a", "a/b", "/", "/a", "a/b/c", "a/"];
    let mut readers = Vec::new();
    for (number, (filter, _)) in table.iter().enumerate() {
        let mut reader = harness.client(BOTH[number % 2], &format!("r{number}")).await;
        reader.subscribe(filter, Q1).await;
        readers.push(reader);
    }
    let mut writer = harness.client(V5, "w").await;
    for topic in topics {
        writer.publish(topic, "x", Q1).await;
    }
    for (reader, (filter, matching)) in readers.iter_mut().zip(table) {
        for topic in topics.iter().filter(|topic| matching.contains(topic)) {
            let got = reader.receive().await;
            assert_eq!(topic_of(&got), *topic, "for {filter}");
        }
        reader.expect_silence().await;
    }
}

/// `[MQTT-4.7.2-1]`: `#` does not see `$SYS`, nobody writes there, and a filter that names it is another matter.
#[tokio::test]
async fn topics_of_the_broker_are_apart() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    client.subscribe("#", Q1).await;
    for topic in ["$SYS/x", "$share", "$anything/a", "$"] {
        assert_eq!(client.try_publish(topic, "x", Q1).await, ReasonCode::NotAuthorized, "{topic}");
    }
    client.expect_silence().await;
    // `#` in the rules does not grant it either.
    assert_eq!(client.try_subscribe("$SYS/#", Q0).await, ReasonCode::NotAuthorized);
}

/// `[MQTT-3.3.4-2]` `[MQTT-3.3.5-1]`: several subscriptions that match give one copy, at the highest QoS.
#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        for (filter, qos) in [("a/#", Q0), ("a/+", Q2), ("a/b", Q1), ("other", Q2)] {
            client.subscribe(filter, qos).await;
        }
        for qos in QOS {
            client.publish("a/b", "x", qos).await;
            assert_eq!(client.expect_message("a/b", "x").await.qos, qos);
        }
        client.publish("a/b/c", "y", Q2).await;
        assert_eq!(client.expect_message("a/b/c", "y").await.qos, Q0);
        client.expect_silence().await;
    }
}

async fn subscribe_as(client: &mut Client, filter: &str, identifier: u32) {
    let packet_id = client.next_id();
    client
        .send(Packet::Subscribe(Subscribe {
            packet_id,
            filters: vec![SubscribeFilter { filter: TopicFilter::try_from(filter).unwrap(), options: options(Q1) }],
            subscription_identifier: NonZeroU32::new(identifier),
            user_properties: Vec::new(),
        }))
        .await;
    assert_eq!(client.expect_suback(packet_id).await.reason_codes, [ReasonCode::GrantedQoS1]);
}

/// `[MQTT-3.3.4-3]` `[MQTT-3.3.4-4]` `[MQTT-3.3.4-5]`
#[tokio::test]
async fn subscription_identifiers_come_with_the_message() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    subscribe_as(&mut client, "a/#", 1).await;
    subscribe_as(&mut client, "a/+", 268_435_455).await;
    client.subscribe("a/b", Q0).await;
    let identifiers = |publish: portcullis::mqtt::Publish| {
        let mut found: Vec<u32> = publish
            .properties
            .map(|properties| properties.subscription_identifiers.iter().map(|id| id.get()).collect())
            .unwrap_or_default();
        found.sort_unstable();
        found
    };
    client.publish("a/b", "x", Q1).await;
    assert_eq!(identifiers(client.expect_message("a/b", "x").await), [1, 268_435_455]);
    client.publish("a/b/c", "x", Q1).await;
    assert_eq!(identifiers(client.expect_message("a/b/c", "x").await), [1]);
    // A new SUBSCRIBE replaces the identifier, too.
    subscribe_as(&mut client, "a/#", 7).await;
    client.publish("a/b/c", "x", Q1).await;
    assert_eq!(identifiers(client.expect_message("a/b/c", "x").await), [7]);
    client.subscribe("a/#", Q1).await;
    client.publish("a/b/c", "x", Q1).await;
    assert!(identifiers(client.expect_message("a/b/c", "x").await).is_empty());
}

/// `[MQTT-3.8.3-3]`
#[tokio::test]
async fn no_local_keeps_own_messages_away() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    let mut other = harness.client(V5, "o").await;
    let no_local = SubscriptionOptions { no_local: true, ..options(Q1) };
    client.subscribe_with(&[("t", no_local)]).await;
    client.publish("t", "my own", Q1).await;
    other.publish("t", "another's", Q1).await;
    client.expect_message("t", "another's").await;
    client.expect_silence().await;
    // Another matching subscription of the same session without the option: it is delivered for that.
    client.subscribe("+", Q1).await;
    client.publish("t", "my own", Q1).await;
    client.expect_message("t", "my own").await;
}

/// `[MQTT-3.8.4-3]` of both: a SUBSCRIBE to the same filter replaces the subscription.
#[tokio::test]
async fn a_subscription_is_replaced() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("t", Q2).await;
        client.subscribe("t", Q0).await;
        client.publish("t", "x", Q2).await;
        assert_eq!(client.expect_message("t", "x").await.qos, Q0);
        client.expect_silence().await;
        client.unsubscribe("t").await;
        client.publish("t", "x", Q1).await;
        client.expect_silence().await;
    }
}

/// `[MQTT-3.8.4-4]` `[MQTT-3.8.4-5]` `[MQTT-3.9.3-1]`: one code for each filter, in order.
#[tokio::test]
async fn one_subscribe_holds_many_filters() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        let codes = client
            .subscribe_with(&[("a", options(Q0)), ("b/#", options(Q1)), ("a", options(Q2)), ("$SYS/#", options(Q0))])
            .await;
        let refused = if version == V5 { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
        assert_eq!(codes, [ReasonCode::Success, ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS2, refused]);
        client.publish("a", "x", Q2).await;
        assert_eq!(client.expect_message("a", "x").await.qos, Q2);
    }
}

/// `[MQTT-3.10.4-1]` to `[MQTT-3.10.4-6]`
#[tokio::test]
async fn unsubscribe_ends_deliveries() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("a/+", Q1).await;
        let gone = client.unsubscribe("a/+").await;
        let again = client.unsubscribe("a/+").await;
        if version == V5 {
            assert_eq!((gone, again), (vec![ReasonCode::Success], vec![ReasonCode::NoSubscriptionExisted]));
        }
        client.publish("a/b", "x", Q1).await;
        client.expect_silence().await;
    }
}

/// Shared subscriptions are not there yet, as CONNACK says.
#[tokio::test]
async fn shared_subscriptions_are_refused_as_announced() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    let code = client.try_subscribe("$share/g/t", Q0).await;
    assert_eq!(code, ReasonCode::SharedSubscriptionsNotSupported);
    let mut client = harness.client(V311, "c3").await;
    assert!(client.try_subscribe("$share/g/t", Q0).await.is_error());
}

#[tokio::test]
async fn the_operator_bounds_levels_and_subscriptions() {
    let harness = Harness::start("[limits]\nsubscriptions = 3\ntopic_levels = 4").await;
    let mut client = harness.client(V5, "c").await;
    assert_eq!(client.try_subscribe("1/2/3/4/5", Q0).await, ReasonCode::TopicFilterInvalid);
    assert_eq!(client.try_publish("1/2/3/4/5", "x", Q1).await, ReasonCode::TopicNameInvalid);
    for filter in ["a", "b", "1/2/3/4"] {
        client.subscribe(filter, Q0).await;
    }
    assert_eq!(client.try_subscribe("c", Q0).await, ReasonCode::QuotaExceeded);
    client.subscribe("a", Q1).await; // replacing is not one more
    client.unsubscribe("b").await;
    client.subscribe("c", Q0).await;
}

/// Many subscriptions of one session: each is found, and matching does not walk them all.
#[tokio::test]
async fn ten_thousand_subscriptions() {
    let harness = Harness::start("[limits]\nsubscriptions = 20000").await;
    let mut client = harness.client(V5, "c").await;
    let filters: Vec<String> = (0..10_000).map(|number| format!("many/{}/{number}/+", number % 7)).collect();
    for chunk in filters.chunks(500) {
        let entries: Vec<_> = chunk.iter().map(|filter| (filter.as_str(), options(Q1))).collect();
        let codes = client.subscribe_with(&entries).await;
        assert!(codes.iter().all(|code| *code == ReasonCode::GrantedQoS1));
    }
    let mut writer = harness.client(V311, "w").await;
    for number in (0..10_000).step_by(97) {
        let topic = format!("many/{}/{number}/x", number % 7);
        writer.publish(&topic, "x", Q1).await;
        client.expect_message(&topic, "x").await;
    }
    writer.publish("many/0/10000/x", "x", Q1).await;
    client.expect_silence().await;
    client.disconnect().await;
    // They are gone with the session.
    let mut watcher = harness.client(V5, "watcher").await;
    let gone = async { while watcher.try_publish("many/0/0/x", "x", Q1).await != ReasonCode::NoMatchingSubscribers {} };
    timeout(PATIENCE, gone).await.expect("nobody listens any more");
}

/// `[MQTT-3.3.1-9]` `[MQTT-3.3.1-10]` `[MQTT-3.3.1-11]`
#[tokio::test]
async fn retain_handling() {
    let harness = Harness::start("").await;
    let mut writer = harness.client(V5, "w").await;
    writer.retain("t", "kept", Q1).await;
    let mut client = harness.client(V5, "c").await;
    let with = |retain_handling| SubscriptionOptions { retain_handling, ..options(Q1) };
    client.subscribe_with(&[("t", with(RetainHandling::DoNotSend))]).await;
    client.expect_silence().await;
    client.subscribe_with(&[("t", with(RetainHandling::SendIfNew))]).await;
    client.expect_silence().await;
    for _ in 0..2 {
        client.subscribe_with(&[("t", with(RetainHandling::SendAtSubscribe))]).await;
        assert!(client.expect_message("t", "kept").await.retain);
    }
    client.unsubscribe("t").await;
    client.subscribe_with(&[("t", with(RetainHandling::SendIfNew))]).await;
    client.expect_message("t", "kept").await;
    client.expect_silence().await;
}

/// `[MQTT-3.3.1-12]` `[MQTT-3.3.1-13]` of 5.0, `[MQTT-3.3.1-9]` of 3.1.1
#[tokio::test]
async fn the_retain_flag_of_live_messages() {
    let harness = Harness::start("").await;
    let mut writer = harness.client(V5, "w").await;
    let mut plain = harness.client(V5, "plain").await;
    let mut old = harness.client(V311, "old").await;
    let mut as_published = harness.client(V5, "rap").await;
    plain.subscribe("t", Q1).await;
    old.subscribe("t", Q1).await;
    as_published.subscribe_with(&[("t", SubscriptionOptions { retain_as_published: true, ..options(Q1) })]).await;
    writer.retain("t", "x", Q1).await;
    writer.publish("t", "y", Q1).await;
    for (client, flag) in [(&mut plain, false), (&mut old, false), (&mut as_published, true)] {
        assert_eq!(client.expect_message("t", "x").await.retain, flag);
        assert!(!client.expect_message("t", "y").await.retain);
    }
}

/// Retained messages: set, replaced, cleared. `[MQTT-3.3.1-5]` `[MQTT-3.3.1-6]` `[MQTT-3.3.1-7]` `[MQTT-3.3.1-8]`
#[tokio::test]
async fn retained_messages_are_set_replaced_and_cleared() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut writer = harness.client(version, "w").await;
        for (topic, payload) in [("r/1", "old"), ("r/1", "new"), ("r/2", "two"), ("s", "elsewhere")] {
            writer.retain(topic, payload, Q2).await;
        }
        writer.publish("r/2", "not kept", Q1).await;
        let mut reader = harness.client(version, "reader").await;
        reader.subscribe("r/+", Q1).await;
        let mut got = Vec::new();
        for _ in 0..2 {
            let publish = reader.receive().await;
            assert!(publish.retain);
            assert_eq!(publish.qos, Q1);
            got.push((topic_of(&publish).to_owned(), text_of(&publish).to_owned()));
        }
        got.sort_unstable();
        assert_eq!(got, [("r/1".into(), "new".into()), ("r/2".into(), "two".into())]);
        reader.expect_silence().await;
        // An empty payload clears, and is itself delivered as an ordinary message.
        writer.retain("r/1", "", Q1).await;
        assert!(!reader.expect_message("r/1", "").await.retain);
        let mut later = harness.client(version, "later").await;
        later.subscribe("r/#", Q0).await;
        later.expect_message("r/2", "two").await;
        later.expect_silence().await;
        // QoS 0 with RETAIN is kept, too.
        writer.retain("r/0", "zero", Q0).await;
        let mut last = harness.client(version, "last").await;
        last.subscribe("r/0", Q2).await;
        assert_eq!(last.expect_message("r/0", "zero").await.qos, Q0);
        // They outlive the publisher's session.
        writer.disconnect().await;
        last.subscribe("s", Q0).await;
        last.expect_message("s", "elsewhere").await;
        let mut cleaner = harness.client(version, "cleaner").await;
        for topic in ["r/0", "r/2", "s"] {
            cleaner.retain(topic, "", Q1).await;
        }
    }
}

/// Wildcards at the first level find no retained `$` topic, and others at any depth.
#[tokio::test]
async fn retained_messages_are_found_by_wildcards() {
    let harness = Harness::start("").await;
    let mut writer = harness.client(V5, "w").await;
    let topics = ["a", "a/b", "a/b/c", "/", "/x", "z/b/c"];
    for topic in topics {
        writer.retain(topic, topic, Q1).await;
    }
    for (filter, expected) in [
        ("#", topics.as_slice()),
        ("a/#", &["a", "a/b", "a/b/c"]),
        ("+/b/c", &["a/b/c", "z/b/c"]),
        ("+/+", &["/", "/x", "a/b"]),
        ("nothing/#", &[]),
    ] {
        let mut reader = harness.client(V5, "r").await;
        reader.subscribe(filter, Q1).await;
        let mut got = Vec::new();
        for _ in expected {
            got.push(topic_of(&reader.receive().await).to_owned());
        }
        got.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(got, expected, "for {filter}");
        reader.expect_silence().await;
    }
}

#[tokio::test]
async fn retained_messages_are_bounded() {
    let harness = Harness::start("[limits]\nretained_messages = 2").await;
    let mut writer = harness.client(V5, "w").await;
    writer.retain("1", "x", Q1).await;
    writer.retain("2", "x", Q1).await;
    let third = portcullis::mqtt::Publish { retain: true, ..crate::client::publish("3", "x", Q1) };
    assert_eq!(writer.publish_packet(third.clone()).await, ReasonCode::QuotaExceeded);
    writer.retain("2", "replaced", Q1).await;
    writer.retain("1", "", Q1).await;
    assert!(!writer.publish_packet(third).await.is_error());
}

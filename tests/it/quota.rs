//! Quotas of users over the wire: the codes of both versions, edits while sessions live, and what nobody gets around.

use std::time::{Duration, Instant};

use portcullis::{
    access::{Quota, Rate, UserId},
    broker::NotPublished,
    mqtt::{ClientId, Connect, Packet, Publish, ReasonCode, TopicName},
};

use tempfile::TempDir;

use crate::{
    client::{BOTH, Q0, Q1, Q2, V5, V311, options, publish, will},
    harness::{Harness, allow, as_user},
    metrics::scrape,
};

const ACKNOWLEDGE: &str = "[access]\ndenied_publish = \"acknowledge\"";

impl Harness {
    fn bounded(&self, name: &str, quota: Quota) -> UserId {
        self.user_with(name, |user| {
            user.permissions = vec![allow("#")];
            user.quota = Some(quota);
        })
    }

    fn quota(&self, user: UserId, quota: Option<Quota>) {
        self.change(user, move |user| user.quota = quota.map(Box::new));
    }
}

fn rate(per_second: u64, burst: u64) -> Rate {
    Rate::new(per_second, Some(burst)).unwrap()
}

fn persistent(client_id: &str, user: &str) -> Connect {
    let mut connect = Connect { clean_start: false, ..as_user(V5, client_id, user) };
    connect.properties.session_expiry_interval = Some(3600);
    connect
}

#[tokio::test]
async fn connections_beyond_the_quota_are_refused_and_others_are_not() {
    let harness = Harness::start("").await;
    let user = harness.bounded("two", Quota { connections: Some(2), ..Quota::default() });
    let mut first = harness.client_of("two", V5, "1").await;
    let second = harness.client_of("two", V311, "2").await;
    for version in BOTH {
        // 0x97 in version 5, 3 in version 3.1.1, where the codec of the test reads that.
        let code = harness.refused(&as_user(version, "3", "two")).await.reason_code;
        assert_eq!(code, if version == V5 { ReasonCode::QuotaExceeded } else { ReasonCode::ServerUnavailable });
    }
    // Somebody else is not concerned, and a takeover is no further connection.
    harness.client(V5, "1").await.ping().await;
    let mut again = harness.client_of("two", V5, "1").await;
    first.expect_ended(ReasonCode::SessionTakenOver).await;
    assert_eq!(harness.refused(&as_user(V5, "3", "two")).await.reason_code, ReasonCode::QuotaExceeded);
    // One that goes makes room, be it that it has a session.
    second.disconnect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let third = harness.login(&persistent("3", "two")).await;
    third.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut fourth = harness.client_of("two", V5, "4").await;
    // Edited: a lower one ends nobody and admits nobody; a higher one admits at once.
    harness.quota(user, Some(Quota { connections: Some(0), ..Quota::default() }));
    again.ping().await;
    fourth.ping().await;
    assert_eq!(harness.refused(&as_user(V5, "5", "two")).await.reason_code, ReasonCode::QuotaExceeded);
    harness.quota(user, Some(Quota { connections: Some(3), ..Quota::default() }));
    let mut fifth = harness.client_of("two", V5, "5").await;
    assert_eq!(harness.refused(&as_user(V5, "6", "two")).await.reason_code, ReasonCode::QuotaExceeded);
    harness.quota(user, None);
    harness.client_of("two", V5, "6").await.ping().await;
    fifth.ping().await;
}

/// Many connections at the same moment: never more than the quota.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_for_the_last_connection_has_one_winner() {
    let harness = std::sync::Arc::new(Harness::start("").await);
    harness.bounded("few", Quota { connections: Some(3), ..Quota::default() });
    let mut tries = Vec::new();
    for number in 0..24 {
        let harness = std::sync::Arc::clone(&harness);
        tries.push(tokio::spawn(async move {
            let mut client = crate::client::Client::open(harness.plain(), V5).await;
            let connack = client.connect(&as_user(V5, &format!("c{number}"), "few")).await;
            (client, connack.reason_code)
        }));
    }
    let mut clients = Vec::new();
    for attempt in tries {
        clients.push(attempt.await.unwrap());
    }
    let (in_, out): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(_, code)| *code == ReasonCode::Success);
    assert_eq!(in_.len(), 3);
    assert!(out.iter().all(|(_, code)| *code == ReasonCode::QuotaExceeded));
}

#[tokio::test]
async fn sessions_beyond_the_quota_are_refused() {
    let harness = Harness::start("").await;
    harness.bounded("two", Quota { sessions: Some(2), ..Quota::default() });
    harness.login(&persistent("1", "two")).await.cut();
    let second = harness.client_of("two", V5, "2").await;
    let refused = harness.refused(&persistent("3", "two")).await;
    assert_eq!(refused.reason_code, ReasonCode::QuotaExceeded);
    assert_eq!(harness.refused(&as_user(V311, "3", "two")).await.reason_code, ReasonCode::ServerUnavailable);
    // The sessions that are there can be come back to, and one that ends makes room.
    let first = harness.login(&persistent("1", "two")).await;
    assert!(first.connack.as_ref().is_some_and(|connack| connack.session_present));
    second.disconnect().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    harness.login(&persistent("3", "two")).await.ping().await;
}

/// Burst and rate for QoS 0, 1 and 2 in both versions; the user's sessions share them, and nobody else's.
#[tokio::test]
async fn messages_beyond_the_rate_are_refused() {
    let harness = Harness::start(ACKNOWLEDGE).await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("t", Q0).await;
    for version in BOTH {
        for qos in [Q0, Q1, Q2] {
            let name = format!("u-{version:?}-{qos:?}").to_lowercase();
            harness.bounded(&name, Quota { publish_messages: Some(rate(1, 4)), ..Quota::default() });
            let begin = Instant::now();
            let mut clients =
                [harness.client_of(&name, version, "1").await, harness.client_of(&name, version, "2").await];
            let mut codes = Vec::new();
            for round in 0..4 {
                for client in &mut clients {
                    codes.push(client.try_publish("t", &format!("{round}"), qos).await);
                }
            }
            let mut got = 0;
            while let Ok(message) = tokio::time::timeout(Duration::from_millis(100), watcher.expect_publish()).await {
                assert_eq!(message.topic.as_ref().unwrap().as_str(), "t");
                got += 1;
            }
            let most = 4 + begin.elapsed().as_secs() + 1;
            assert!((4..=most).contains(&got), "{name}: {got} of 8 messages");
            let refused = codes.iter().filter(|code| **code == ReasonCode::QuotaExceeded).count() as u64;
            assert_eq!(refused, if version == V5 && qos != Q0 { 8 - got } else { 0 }, "{codes:?}");
            // The connections stay.
            for client in &mut clients {
                client.ping().await;
            }
        }
    }
    harness.client(V5, "w").await.publish("t", "others", Q1).await;
    watcher.expect_message("t", "others").await;
}

#[tokio::test]
async fn a_3_1_1_client_beyond_its_rate_is_closed_by_default() {
    let harness = Harness::start("").await;
    harness.bounded("one", Quota { publish_messages: Some(rate(1, 1)), ..Quota::default() });
    for qos in [Q0, Q1, Q2] {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let mut client = harness.client_of("one", V311, "c").await;
        client.publish("t", "x", qos).await;
        let packet_id = (qos != Q0).then(|| crate::client::id(7));
        client.send(Packet::Publish(Publish { packet_id, ..publish("t", "x", qos) })).await;
        client.expect_closed().await;
    }
}

/// Nobody gets a new burst by connecting anew, with a clean session or not.
#[tokio::test]
async fn a_rate_outlives_the_session() {
    let harness = Harness::start("").await;
    harness.bounded("one", Quota { publish_messages: Some(rate(1, 3)), ..Quota::default() });
    let begin = Instant::now();
    let mut taken = 0;
    for _ in 0..12 {
        let mut client = harness.client_of("one", V5, "c").await;
        taken += u64::from(client.try_publish("t", "x", Q1).await != ReasonCode::QuotaExceeded);
        client.disconnect().await;
    }
    assert!((3..=4 + begin.elapsed().as_secs()).contains(&taken), "{taken} in {:?}", begin.elapsed());
}

#[tokio::test]
async fn bytes_beyond_the_rate_are_refused_and_a_changed_rate_holds_at_once() {
    let harness = Harness::start("").await;
    let user = harness.bounded("small", Quota { publish_bytes: Some(rate(1000, 1000)), ..Quota::default() });
    let mut client = harness.client_of("small", V5, "c").await;
    let large = "x".repeat(1000);
    assert_eq!(client.try_publish("t", &large, Q1).await, ReasonCode::QuotaExceeded, "never fits");
    harness.quota(user, Some(Quota { publish_bytes: Some(rate(1000, 2000)), ..Quota::default() }));
    assert_eq!(client.try_publish("t", &large, Q1).await, ReasonCode::NoMatchingSubscribers);
    assert_eq!(client.try_publish("t", &large, Q2).await, ReasonCode::QuotaExceeded);
    harness.quota(user, None);
    assert_eq!(client.try_publish("t", &large, Q2).await, ReasonCode::NoMatchingSubscribers);
}

#[tokio::test]
async fn subscriptions_beyond_the_quota_are_refused_over_all_sessions() {
    let harness = Harness::start("").await;
    let user = harness.bounded("three", Quota { subscriptions: Some(3), ..Quota::default() });
    let mut one = harness.login(&persistent("1", "three")).await;
    let mut two = harness.client_of("three", V311, "2").await;
    one.subscribe("a", Q0).await;
    one.subscribe("b", Q0).await;
    let codes = two.subscribe_with(&[("a", options(Q1)), ("b", options(Q1)), ("a", options(Q0))]).await;
    assert_eq!(codes, [ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError, ReasonCode::Success]);
    assert_eq!(one.try_subscribe("c", Q0).await, ReasonCode::QuotaExceeded);
    // Offline, its subscriptions stay and count.
    one.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(two.try_subscribe("c", Q0).await, ReasonCode::UnspecifiedError);
    two.unsubscribe("a").await;
    two.subscribe("c", Q0).await;
    // Edited.
    assert_eq!(two.try_subscribe("d", Q0).await, ReasonCode::UnspecifiedError);
    harness.quota(user, Some(Quota { subscriptions: Some(4), ..Quota::default() }));
    two.subscribe("d", Q0).await;
    // A session that is over gives all of its own back.
    harness.client_of("three", V5, "1").await.disconnect().await;
    two.subscribe("e", Q0).await;
    two.subscribe("f", Q0).await;
    assert_eq!(two.try_subscribe("g", Q0).await, ReasonCode::UnspecifiedError);
    harness.client(V5, "x").await.subscribe("g", Q0).await;
}

#[tokio::test]
async fn retained_messages_beyond_the_quota_are_refused() {
    let harness = Harness::start("").await;
    let user = harness.bounded("two", Quota { retained_messages: Some(2), ..Quota::default() });
    let mut client = harness.client_of("two", V5, "c").await;
    let retain = |topic: &str, text: &str, qos| Publish { retain: true, ..publish(topic, text, qos) };
    for topic in ["a", "b", "a"] {
        client.retain(topic, "1", Q1).await;
    }
    for qos in [Q1, Q2] {
        assert_eq!(client.publish_packet(retain("c", "1", qos)).await, ReasonCode::QuotaExceeded);
    }
    client.publish_packet(retain("c", "1", Q0)).await;
    // The whole message is refused: nobody gets it, then or later.
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("c", Q1).await;
    watcher.expect_silence().await;
    // Cleared, there is room; taken over by somebody else too.
    client.retain("a", "", Q1).await;
    client.retain("c", "2", Q1).await;
    watcher.expect_message("c", "2").await;
    assert_eq!(client.publish_packet(retain("a", "1", Q1)).await, ReasonCode::QuotaExceeded);
    harness.client(V5, "t").await.retain("b", "3", Q1).await;
    client.retain("a", "1", Q1).await;
    // And what the user takes over from others, is its own.
    assert_eq!(client.publish_packet(retain("b", "4", Q1)).await, ReasonCode::QuotaExceeded);
    // Edited: what is there stays, and may be replaced and cleared.
    harness.quota(user, Some(Quota { retained_messages: Some(0), ..Quota::default() }));
    client.retain("a", "5", Q1).await;
    assert_eq!(client.publish_packet(retain("d", "6", Q1)).await, ReasonCode::QuotaExceeded);
    client.retain("a", "", Q1).await;
    assert_eq!(client.publish_packet(retain("a", "7", Q1)).await, ReasonCode::QuotaExceeded);
    harness.quota(user, Some(Quota { retained_bytes: Some(1000), ..Quota::default() }));
    client.retain("a", "8", Q1).await;
    let large = "x".repeat(700);
    assert_eq!(client.publish_packet(retain("d", &large, Q1)).await, ReasonCode::QuotaExceeded);
    // 3.1.1 is closed, where refusals are not acknowledged.
    let mut old = harness.client_of("two", V311, "old").await;
    let message = Publish { packet_id: Some(crate::client::id(1)), ..retain("d", &large, Q1) };
    old.send(Packet::Publish(message)).await;
    old.expect_closed().await;
}

/// The Will is bounded by what is retained, and published whatever the rate.
#[tokio::test]
async fn a_will_counts_for_what_it_retains() {
    let harness = Harness::start("").await;
    harness
        .bounded("none", Quota { retained_messages: Some(0), publish_messages: Some(rate(1, 1)), ..Quota::default() });
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q1).await;
    for (retain, expected) in [(true, false), (false, true)] {
        let mut will = will("gone", "x", Q1);
        will.retain = retain;
        let mut client = harness.login(&Connect { will: Some(will), ..as_user(V5, "c", "none") }).await;
        client.try_publish("alive", "x", Q1).await;
        client.cut();
        let mut topics = Vec::new();
        while let Ok(message) = tokio::time::timeout(Duration::from_millis(150), watcher.receive()).await {
            topics.push(message.topic.unwrap().as_str().to_owned());
        }
        assert_eq!(topics.iter().any(|topic| topic == "gone"), expected, "{topics:?}");
    }
}

/// A session without a connection, and a client that does not read: what waits is bounded, by the quota of this moment.
#[tokio::test]
async fn queues_are_bounded_by_the_quota() {
    let harness = Harness::start("").await;
    let user = harness.bounded("sleepy", Quota { queue_messages: Some(3), ..Quota::default() });
    let mut writer = harness.client(V5, "w").await;
    let came = async || {
        let mut sleeper = harness.login(&persistent("s", "sleepy")).await;
        let mut came = Vec::new();
        while let Ok(message) = tokio::time::timeout(Duration::from_millis(150), sleeper.receive()).await {
            came.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        sleeper.cut();
        tokio::time::sleep(Duration::from_millis(50)).await;
        came
    };
    let mut sleeper = harness.login(&persistent("s", "sleepy")).await;
    sleeper.subscribe("t", Q1).await;
    sleeper.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for number in 0..6 {
        writer.publish("t", &number.to_string(), Q1).await;
    }
    assert_eq!(came().await, ["0", "1", "2"]);
    // Edited while nobody is connected.
    harness.quota(user, Some(Quota { queue_messages: Some(2), ..Quota::default() }));
    for number in 0..6 {
        writer.publish("t", &number.to_string(), Q1).await;
    }
    assert_eq!(came().await, ["0", "1"]);
    harness.quota(user, Some(Quota { queue_bytes: Some(1000), ..Quota::default() }));
    for number in 0..6 {
        writer.publish("t", &format!("{number}{}", "x".repeat(200)), Q1).await;
    }
    assert_eq!(came().await.len(), 2);
    harness.quota(user, None);
    for number in 0..6 {
        writer.publish("t", &number.to_string(), Q1).await;
    }
    assert_eq!(came().await.len(), 6);
}

/// The program that embeds the broker, acting as a user, has its quota too.
#[tokio::test]
async fn a_quota_holds_for_the_embedder_who_acts_as_the_user() {
    let harness = Harness::start("").await;
    let quota = Quota { publish_messages: Some(rate(1, 2)), retained_messages: Some(0), ..Quota::default() };
    let user = harness.bounded("one", quota);
    let handle = harness.handle().as_user(user, ClientId::try_from("c").unwrap());
    let topic = || TopicName::try_from("t").unwrap();
    assert_eq!(handle.publish(topic(), "x", Q1, true), Err(NotPublished::OverQuota));
    assert_eq!(handle.publish(topic(), "x", Q1, false), Ok(0));
    assert_eq!(handle.publish(topic(), "x", Q1, false), Err(NotPublished::OverQuota));
    let mut client = harness.client_of("one", V5, "c").await;
    assert_eq!(client.try_publish("t", "x", Q1).await, ReasonCode::QuotaExceeded, "one account");
    assert_eq!(harness.handle().publish(topic(), "x", Q1, true), Ok(0));
}

/// A user that is deleted leaves no account to a later one of the same name.
#[tokio::test]
async fn a_namesake_begins_anew() {
    let harness = Harness::start("").await;
    let quota = Quota { publish_messages: Some(rate(1, 1)), connections: Some(1), ..Quota::default() };
    for _ in 0..3 {
        let user = harness.bounded("phoenix", quota);
        let mut client = harness.client_of("phoenix", V5, "c").await;
        assert_eq!(client.try_publish("t", "x", Q1).await, ReasonCode::NoMatchingSubscribers);
        assert_eq!(client.try_publish("t", "x", Q1).await, ReasonCode::QuotaExceeded);
        harness.delete(user);
    }
}

#[tokio::test]
async fn what_a_quota_refuses_is_counted_by_kind() {
    let harness = Harness::start_measured(TempDir::new().unwrap()).await;
    let quota = Quota {
        connections: Some(1),
        sessions: Some(2),
        publish_messages: Some(rate(1, 3)),
        publish_bytes: Some(rate(100, 100)),
        subscriptions: Some(1),
        retained_messages: Some(0),
        queue_messages: Some(1),
        ..Quota::default()
    };
    harness.bounded("many", quota);
    harness.login(&persistent("1", "many")).await.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut client = harness.login(&persistent("2", "many")).await;
    harness.refused(&as_user(V5, "1", "many")).await;
    harness.refused(&as_user(V5, "3", "many")).await;
    client.subscribe("t", Q1).await;
    client.try_subscribe("u", Q1).await;
    client.try_publish("t", &"x".repeat(100), Q0).await;
    let retained = Publish { retain: true, ..publish("r", "x", Q0) };
    client.publish_packet(retained).await;
    client.ping().await;
    for _ in 0..5 {
        client.try_publish("nobody", "", Q0).await;
    }
    client.ping().await;
    client.cut();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut writer = harness.client(V5, "w").await;
    for _ in 0..4 {
        writer.publish("t", "x", Q1).await;
    }
    let text = scrape(harness.broker.started().metrics.expect("metrics are served")).await;
    for (kind, count) in [
        ("connections", 1),
        ("sessions", 1),
        ("subscriptions", 1),
        ("publish_messages", 3),
        ("publish_bytes", 1),
        ("retained_messages", 1),
        ("retained_bytes", 0),
        ("queue", 3),
    ] {
        let line = format!("portcullis_quota_exceeded_total{{quota=\"{kind}\"}} {count}");
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("portcullis_refusals_total{action=\"publish\"} 0"), "a quota is no access rule\n{text}");
}

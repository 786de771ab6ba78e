//! The broker inside another program: its handle publishes, subscribes, and acts for users.

use std::time::Duration;

use portcullis::{
    broker::{NotPublished, NotSubscribed},
    clock::Timestamp,
    mqtt::{ClientId, QoS, TopicFilter, TopicName},
};
use tokio::time::timeout;

use crate::{
    client::{BOTH, PATIENCE, Q0, Q1, Q2, V5},
    harness::{Harness, allow, allow_read, as_user},
};

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

async fn next(subscription: &portcullis::broker::Subscription) -> (String, String) {
    let message = timeout(PATIENCE, subscription.next()).await.expect("a message comes");
    (message.topic.as_str().to_owned(), String::from_utf8(message.payload.to_vec()).unwrap())
}

#[tokio::test]
async fn messages_pass_between_the_program_and_its_clients() {
    let harness = Harness::start("").await;
    let handle = harness.handle();
    let subscription = handle.subscribe(filter("up/#")).unwrap();
    for version in BOTH {
        let mut client = harness.client(version, "c").await;
        client.subscribe("down/#", Q2).await;
        for qos in [Q0, Q1, Q2] {
            assert_eq!(handle.publish(topic("down/x"), "hello", qos, false), Ok(1));
            assert_eq!(client.expect_message("down/x", "hello").await.qos, qos);
            client.publish("up/y", "back", qos).await;
            assert_eq!(next(&subscription).await, ("up/y".into(), "back".into()));
        }
        client.disconnect().await;
    }
    assert_eq!(handle.publish(topic("down/x"), "nobody", Q1, false), Ok(0));
    drop(subscription);
    assert_eq!(handle.publish(topic("up/y"), "nobody", Q1, false), Ok(0));
}

#[tokio::test]
async fn retained_messages_of_the_program() {
    let harness = Harness::start("").await;
    let handle = harness.handle();
    handle.publish(topic("state"), "on", Q1, true).unwrap();
    let mut client = harness.client(V5, "c").await;
    client.subscribe("state", Q1).await;
    assert!(client.expect_message("state", "on").await.retain);
    assert_eq!(next(&handle.subscribe(filter("+")).unwrap()).await, ("state".into(), "on".into()));
    handle.publish(topic("state"), "", Q1, true).unwrap();
    client.expect_message("state", "").await;
    let late = handle.subscribe(filter("+")).unwrap();
    handle.publish(topic("other"), "x", QoS::AtMostOnce, false).unwrap();
    assert_eq!(next(&late).await, ("other".into(), "x".into()));
}

/// `as_user`: judged anew at every call, by the rules that hold for that user.
#[tokio::test]
async fn the_program_may_act_for_a_user() {
    let harness = Harness::start("").await;
    let user = harness.user_with("agent", |user| {
        user.permissions = vec![allow("agents/7/#"), allow_read("news")];
        user.publish_prefix = Some("agents/7/".to_owned());
    });
    let agent = harness.handle().as_user(user, ClientId::try_from("inside").unwrap());
    let system = harness.handle();
    let everything = system.subscribe(filter("#")).unwrap();
    agent.publish(topic("x"), "prefixed", Q1, false).unwrap();
    assert_eq!(next(&everything).await, ("agents/7/x".into(), "prefixed".into()));
    assert_eq!(agent.subscribe(filter("secret")).err(), Some(NotSubscribed::NotAuthorized));
    assert_eq!(agent.subscribe(filter("$share/g/news")).err(), Some(NotSubscribed::Shared));
    assert_eq!(system.publish(topic("$SYS/x"), "x", Q1, false), Err(NotPublished::Reserved));
    let news = agent.subscribe(filter("news")).unwrap();
    system.publish(topic("news"), "1", Q1, false).unwrap();
    assert_eq!(next(&news).await.1, "1");
    // Withheld, and restored.
    harness.permit(user, vec![]);
    assert_eq!(agent.publish(topic("x"), "x", Q1, false), Err(NotPublished::NotAuthorized));
    system.publish(topic("news"), "2", Q1, false).unwrap();
    assert!(timeout(Duration::from_millis(100), news.next()).await.is_err(), "withheld");
    harness.permit(user, vec![allow_read("news")]);
    system.publish(topic("news"), "3", Q1, false).unwrap();
    assert_eq!(next(&news).await.1, "3");
    harness.delete(user);
    assert_eq!(agent.publish(topic("x"), "x", Q1, false), Err(NotPublished::NotAuthorized));
    assert_eq!(agent.subscribe(filter("news")).err(), Some(NotSubscribed::NotAuthorized));
}

/// A subscription that nobody reads is bounded, and reads what it has.
#[tokio::test]
async fn a_subscription_that_is_not_read_is_bounded() {
    let harness = Harness::start("[limits]\nqueue_messages = 10").await;
    let handle = harness.handle();
    let subscription = handle.subscribe(filter("t")).unwrap();
    for number in 0..1000 {
        handle.publish(topic("t"), number.to_string(), Q1, false).unwrap();
    }
    for number in 0..10 {
        assert_eq!(next(&subscription).await.1, number.to_string());
    }
    handle.publish(topic("t"), "afterwards", Q1, false).unwrap();
    assert_eq!(next(&subscription).await.1, "afterwards");
}

#[tokio::test]
async fn a_login_is_seen_a_refused_one_is_not_and_a_restart_remembers() {
    let directory = tempfile::TempDir::new().unwrap();
    let harness = Harness::start_on_disk(directory).await;
    let ada = harness.user("ada", vec![]);
    let (users, version) = (harness.users(), harness.users().version());
    harness.refused(&as_user(V5, "c", "adam")).await;
    assert_eq!(users.last_seen(ada), None);
    let before = Timestamp::now();
    let client = harness.client_of("ada", V5, "c").await;
    // Told after the CONNACK was made ready, so maybe after it was read.
    let seen = timeout(PATIENCE, async {
        loop {
            match users.last_seen(ada) {
                Some(at) => break at,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let seen = seen.await.expect("the login is seen");
    assert!(before <= seen && seen <= Timestamp::now());
    assert_eq!(users.version(), version, "a login is no change of the rules");
    drop((client, users));
    let Harness { broker, directory } = harness;
    broker.shutdown().await;
    let again = Harness::start_on_disk(directory).await;
    assert_eq!(again.users().last_seen(ada), Some(seen));
}

//! Sets of changes over the admin socket: what a dry run says of live sessions is what then happens to them.

use portcullis::mqtt::{QoS, ReasonCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::{
    client::{Q0, Q1, V5, text_of},
    harness::{Harness, allow, allow_read, as_user, lasting},
};

/// One request to the admin socket: status and body.
pub(crate) async fn admin(harness: &Harness, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(&harness.broker.started().admin_socket).await.unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn done(harness: &Harness, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = admin(harness, method, path, &body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// `reader` holds a role on `open` and `half/#`, and subscribes to both; another user minds its own business.
async fn plant() -> Harness {
    let harness = Harness::start("").await;
    harness.role("line", vec![allow_read("open"), allow_read("half/#")]);
    harness.user_with("reader", |user| user.roles = vec!["line".parse().unwrap()]);
    harness.user("other", vec![allow("other/#")]);
    harness
}

#[tokio::test]
async fn a_dry_run_names_what_each_session_loses_and_nothing_happens_to_it_until_it_is_done() {
    let harness = plant().await;
    let mut reader = harness.client_of("reader", V5, "r1").await;
    reader.subscribe("open", Q1).await;
    reader.subscribe("half/#", Q0).await;
    let mut other = harness.client_of("other", V5, "o1").await;
    other.subscribe("other/#", Q0).await;
    // One that nobody is connected to.
    let mut absent = harness.login(&portcullis::mqtt::Connect { ..as_user_lasting("r2") }).await;
    absent.subscribe("open", QoS::AtMostOnce).await;
    drop(absent);

    let change = json!({ "role": [{ "name": "line", "permissions": [
        { "context": "mqtt", "operation": "read", "resource": "half/#" },
        { "context": "mqtt", "operation": "read", "resource": "half/secret", "effect": "deny" } ] }] });
    let would = done(&harness, "POST", "/api/apply?dry_run=true", change.clone()).await;
    let sessions = would["sessions"].as_array().unwrap();
    let named: Vec<_> = sessions.iter().map(|one| one["client_id"].as_str().unwrap()).collect();
    assert_eq!(named, ["r1", "r2"], "nobody else is named: {would}");
    assert_eq!(
        sessions[0]["subscriptions"],
        json!([
            { "filter": "half/#", "before": { "delivers": "all", "max_qos": 0 }, "after": { "delivers": "some" } },
            { "filter": "open", "before": { "delivers": "all", "max_qos": 1 }, "after": { "delivers": "nothing" } },
        ])
    );
    assert_eq!(sessions[0]["rules_removed"].as_array().unwrap().len(), 1);
    assert_eq!(sessions[0]["rules_added"][0]["resource"], "half/secret");
    assert_eq!((&sessions[0]["connected"], &sessions[0]["ends"]), (&json!(true), &Value::Null));

    let mut sender = harness.client(V5, "s").await;
    sender.publish("open", "before", Q0).await;
    assert_eq!(text_of(&reader.receive().await), "before", "a dry run changes nothing");
    done(&harness, "POST", "/api/apply", change).await;
    for topic in ["open", "half/secret", "half/x"] {
        sender.publish(topic, topic, Q0).await;
    }
    assert_eq!(text_of(&reader.receive().await), "half/x");
    // And back again: the same sessions gain what they lost.
    let version = done(&harness, "GET", "/api/history?limit=2", Value::Null).await["items"][1]["version"].clone();
    let would = done(&harness, "POST", "/api/rollback?dry_run=true", json!({ "version": version })).await;
    assert_eq!(would["sessions"].as_array().unwrap().len(), 2);
    done(&harness, "POST", "/api/rollback", json!({ "version": version })).await;
    sender.publish("open", "again", Q0).await;
    assert_eq!(text_of(&reader.receive().await), "again");
}

fn as_user_lasting(client_id: &str) -> portcullis::mqtt::Connect {
    portcullis::mqtt::Connect { properties: lasting(V5, client_id).properties, ..as_user(V5, client_id, "reader") }
}

#[tokio::test]
async fn a_dry_run_names_the_sessions_that_would_end() {
    let harness = plant().await;
    let mut reader = harness.client_of("reader", V5, "r1").await;
    let password = json!({ "password": "another horse battery" });
    for (method, path, body, why) in [
        ("POST", "/api/users/reader/disable", Value::Null, "its user is disabled"),
        ("DELETE", "/api/users/reader", Value::Null, "its user is deleted"),
        ("PUT", "/api/users/reader/password", password, "its password is changed"),
        ("PATCH", "/api/users/reader", json!({ "version": 1, "auth": "certificate" }), "its password is changed"),
        (
            "PATCH",
            "/api/users/reader",
            json!({ "version": 1, "client_id": "x*" }),
            "its client identifier is not admitted any more",
        ),
        (
            "PATCH",
            "/api/users/reader",
            json!({ "version": 1, "expires_at": "2020-01-01T00:00:00Z" }),
            "its user has expired",
        ),
    ] {
        let would = done(&harness, method, &format!("{path}?dry_run=true"), body).await;
        assert_eq!(would["sessions"][0]["ends"], why, "{would}");
    }
    let nothing =
        done(&harness, "PATCH", "/api/users/reader?dry_run=true", json!({ "version": 1, "description": "x" })).await;
    assert_eq!(nothing["sessions"], json!([]), "a description is no right");
    reader.ping().await;
    done(&harness, "POST", "/api/users/reader/disable", Value::Null).await;
    reader.expect_ended(ReasonCode::NotAuthorized).await;
}

#[tokio::test]
async fn what_explain_and_who_can_say_is_what_happens_on_the_wire() {
    let harness = Harness::start("").await;
    harness.role("line", vec![allow("plant/${username}/#"), allow_read("news/+")]);
    let users = ["anna", "berta", "carla"];
    for user in users {
        harness.user_with(user, |user| user.roles = vec!["line".parse().unwrap()]);
    }
    let rules = json!({ "user": [
        { "username": "berta", "permissions": [{ "context": "mqtt", "operation": "write", "resource": "news/a", "max_qos": 1 }] },
        { "username": "carla", "publish_prefix": "plant/carla/", "permissions": [{ "context": "mqtt", "operation": "read", "resource": "news/a", "effect": "deny" }] },
    ] });
    done(&harness, "POST", "/api/apply", rules).await;
    let mut clients = Vec::new();
    for user in users {
        clients.push(harness.client_of(user, V5, user).await);
    }
    for topic in ["plant/anna/x", "plant/carla/x", "news/a", "news/a/b", "x", "plant/berta"] {
        let able = async |action: &str| {
            let path = format!("/api/who-can?action={action}&topic={topic}");
            let answer = done(&harness, "GET", &path, Value::Null).await;
            answer["users"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["username"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let (writers, readers) = (able("publish").await, able("receive").await);
        for (user, client) in users.iter().zip(&mut clients) {
            let explained = async |action: &str, topic: &str| {
                let question = json!({ "username": user, "action": action, "topic": topic, "qos": 1 });
                done(&harness, "POST", "/api/explain", question).await["allowed"] == true
            };
            // Who publishes with a prefix leaves it out.
            let sent = if *user == "carla" { topic.strip_prefix("plant/carla/") } else { Some(topic) };
            let published = match sent {
                Some(sent) => {
                    let reason = client.try_publish(sent, "", Q1).await;
                    let published = matches!(reason, ReasonCode::Success | ReasonCode::NoMatchingSubscribers);
                    assert_eq!(explained("publish", sent).await, published, "{user} publishes {sent}");
                    published
                }
                None => false,
            };
            assert_eq!(writers.contains(&(*user).to_owned()), published, "{user} publishes to {topic}");
            let reason = client.try_subscribe(topic, Q0).await;
            let subscribed = reason == ReasonCode::Success;
            assert_eq!(explained("subscribe", topic).await, subscribed, "{user} subscribes to {topic}");
            assert_eq!(readers.contains(&(*user).to_owned()), subscribed, "{user} receives {topic}");
            client.unsubscribe(topic).await;
        }
    }
}

//! What the metrics endpoint says of what has happened on the wire.

use std::{net::SocketAddr, time::Duration};

use portcullis::{
    authn::{Argon2Parameters, PasswordHash},
    mqtt::{Packet, ProtocolVersion, ReasonCode},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{Client, Q0, V5, publish},
    harness::{Harness, PASSWORD, allow, as_user},
};

pub(crate) async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_connect_its_answer_and_the_commits_before_it_are_counted() {
    let broker = Harness::start_measured(TempDir::new().unwrap()).await;
    let address = broker.broker.started().metrics.expect("the configuration names it");
    let text = scrape(address).await;
    // The first administrator and the user of the harness.
    assert!(value(&text, "portcullis_policy_version") >= 2.0);
    assert!(value(&text, "portcullis_commit_duration_seconds_count") >= 2.0);
    assert!(value(&text, "portcullis_commit_failures_total") < 1.0);

    let _client = broker.client(ProtocolVersion::V5, "c").await;
    broker.refused(&as_user(ProtocolVersion::V311, "c", "nobody")).await;
    let text = scrape(address).await;
    for series in
        ["portcullis_packets_received_total{type=\"connect\"}", "portcullis_packets_sent_total{type=\"connack\"}"]
    {
        assert!((value(&text, series) - 2.0).abs() < 0.5, "{series}\n{text}");
    }
    assert!(value(&text, "portcullis_bytes_received_total") > 50.0);
}

/// One client keeps the only argon2 thread busy; of two that wait behind it one hangs up, the other has said all that it had
/// to say and ends its side: that one is served.
#[tokio::test]
async fn a_login_whose_client_has_hung_up_is_dropped() {
    let broker = Harness::start_measured(TempDir::new().unwrap()).await;
    let address = broker.broker.started().metrics.expect("the configuration names it");
    // The most that a hash may cost: a second or more.
    let slow = PasswordHash::of(PASSWORD.as_bytes(), Argon2Parameters::new(131_072, 8, 1).unwrap()).unwrap();
    broker.user_with("slow", |user| user.password_hash = Some(slow.as_str().to_owned()));
    broker.user("sender", vec![allow("#")]);
    let mut listener = broker.client(V5, "listener").await;
    listener.subscribe("said", Q0).await;

    let mut first = Client::open(broker.plain(), V5).await;
    first.send(Packet::Connect(Box::new(as_user(V5, "first", "slow")))).await;
    let mut sender = Client::open(broker.plain(), V5).await;
    sender.send(Packet::Connect(Box::new(as_user(V5, "sender", "sender")))).await;
    sender.send(Packet::Publish(publish("said", "all", Q0))).await;
    sender.finish().await;
    let mut gone = Client::open(broker.plain(), V5).await;
    gone.send(Packet::Connect(Box::new(as_user(V5, "gone", "slow")))).await;
    drop(gone);

    for series in ["authentications_total{outcome", "connections_refused_total{reason"] {
        let series = format!("portcullis_{series}=\"abandoned\"}}");
        while (value(&scrape(address).await, &series) - 1.0).abs() > 0.5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    listener.expect_message("said", "all").await;
    match first.recv().await {
        Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::Success),
        other => panic!("{other:?}"),
    }
}

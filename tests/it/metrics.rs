//! What the metrics endpoint says of what has happened on the wire.

use std::net::SocketAddr;

use portcullis::mqtt::ProtocolVersion;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Harness, as_user};

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

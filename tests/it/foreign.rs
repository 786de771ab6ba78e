//! A client library that knows nothing of this broker: rumqttc, both versions, plain and TLS.

use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};
use tokio::time::timeout;

use crate::{
    certificates::{ANY_TLS, roots, tls_client},
    client::PATIENCE,
    harness::{Harness, PASSWORD, TESTER},
};

const LISTENERS: &str = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
[[listener]]
name = "tls"
bind = "127.0.0.1:0"
tls = true
"#;

const ROUNDS: usize = 50;

fn tls(harness: &Harness) -> Transport {
    let config = tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, None);
    Transport::Tls(TlsConfiguration::Rustls(config))
}

#[tokio::test]
async fn rumqttc_speaks_3_1_1() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};

    let harness = Harness::start_with_listeners(LISTENERS).await;
    for listener in ["plain", "tls"] {
        let mut options = MqttOptions::new(format!("r4-{listener}"), "localhost", harness.address(listener).port());
        options.set_keep_alive(Duration::from_secs(5)).set_credentials(TESTER, PASSWORD);
        if listener == "tls" {
            options.set_transport(tls(&harness));
        }
        let (client, mut events) = AsyncClient::new(options, 10);
        let publishing = tokio::spawn(async move {
            for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                client.subscribe(format!("r4/{number}/+"), qos).await.unwrap();
            }
            for round in 0..ROUNDS {
                for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                    client.publish(format!("r4/{number}/x"), qos, false, round.to_string()).await.unwrap();
                }
            }
            client
        });
        let mut seen = [0_usize; 3];
        while seen != [ROUNDS; 3] {
            let event = timeout(PATIENCE, events.poll()).await.expect("something comes").expect("no error");
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let number: usize = publish.topic[3..4].parse().unwrap();
                assert_eq!(publish.qos as usize, number);
                assert_eq!(publish.payload, seen[number].to_string(), "in order");
                seen[number] += 1;
            }
        }
        publishing.await.unwrap().disconnect().await.unwrap();
        while timeout(PATIENCE, events.poll()).await.expect("it ends").is_ok() {}
    }
}

#[tokio::test]
async fn rumqttc_speaks_5() {
    use rumqttc::v5::{
        AsyncClient, Event, MqttOptions,
        mqttbytes::{QoS, v5::Packet},
    };

    let harness = Harness::start_with_listeners(LISTENERS).await;
    for listener in ["plain", "tls"] {
        let mut options = MqttOptions::new(format!("r5-{listener}"), "localhost", harness.address(listener).port());
        options.set_keep_alive(Duration::from_secs(5)).set_credentials(TESTER, PASSWORD);
        if listener == "tls" {
            options.set_transport(tls(&harness));
        }
        let (client, mut events) = AsyncClient::new(options, 10);
        let publishing = tokio::spawn(async move {
            for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                client.subscribe(format!("r5/{number}/+"), qos).await.unwrap();
            }
            for round in 0..ROUNDS {
                for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
                    client.publish(format!("r5/{number}/x"), qos, false, round.to_string()).await.unwrap();
                }
            }
            client
        });
        let mut seen = [0_usize; 3];
        while seen != [ROUNDS; 3] {
            let event = timeout(PATIENCE, events.poll()).await.expect("something comes").expect("no error");
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let number: usize = std::str::from_utf8(&publish.topic[3..4]).unwrap().parse().unwrap();
                assert_eq!(publish.qos as usize, number);
                assert_eq!(publish.payload, seen[number].to_string(), "in order");
                seen[number] += 1;
            }
        }
        publishing.await.unwrap().disconnect().await.unwrap();
        while timeout(PATIENCE, events.poll()).await.expect("it ends").is_ok() {}
    }
}

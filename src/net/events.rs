//! The registry's events as messages: `$registry/events/<event>`.
//!
//! Enters: what the registry tells. Leaves: one message for each event, routed like any other, so that whoever has a rule
//! to read such a topic receives it, for as long as the rule stands. Nothing is retained, and nobody else writes there.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::Server;
use crate::{
    mqtt::{PublishProperties, QoS, TopicName},
    registry::{Event, Format},
    router::RouteMemory,
    session::{Message, Publisher},
};

/// What is said when events were lost on the way, because there were too many of them at once.
const MISSED: &str = "missed";

/// Publishes what happens until the shutdown.
pub(crate) async fn publish_registry_events(
    server: Arc<Server>,
    mut events: broadcast::Receiver<Event>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut memory = RouteMemory::default();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let (word, payload) = match event {
            Ok(event) => (event.event.as_str(), event.encode(Format::Json)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                (MISSED, format!("{{\"missed\":{missed}}}").into_bytes())
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        // A constant and a word: always a topic name.
        let Ok(topic) = TopicName::try_from(format!("$registry/events/{word}").as_str()) else { continue };
        let properties = PublishProperties {
            content_type: Some(bytestring::ByteString::from_static(Format::Json.media_type())),
            ..PublishProperties::default()
        };
        let message = Message {
            topic,
            payload: Bytes::from(payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: Publisher::SYSTEM,
            expires: None,
            properties: Some(Box::new(properties)),
        };
        server.routed(&server.router.route(&Arc::new(message), None, &mut memory));
    }
}

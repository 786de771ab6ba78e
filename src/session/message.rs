//! The application message inside the broker, and its two journeys: to a session's mailbox and out to a client.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::access::UserId;
use crate::clock::{Duration, Instant};
use crate::mqtt::codec::PublishParts;
use crate::mqtt::{PacketIdentifier, PublishProperties, QoS, TopicFilter, TopicName};

/// Names one [`Session`](super::Session) value for as long as the broker runs; 0 is the broker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionNumber(pub u64);

/// Names one subscription of one session; a number is never given to another subscription of that session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionNumber {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Who published a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// `None`: the broker itself, or the embedder as `system`.
    pub user: Option<UserId>,
    /// The session that it came in on; [`SessionNumber`] 0 for the broker.
    pub session: SessionNumber,
}

impl SubscriptionNumber {
    /// For a subscriber that has only one.
    pub const FIRST: Self = Self { slot: 0, generation: 0 };
}

impl Publisher {
    /// The broker itself.
    pub const SYSTEM: Self = Self { user: None, session: SessionNumber(0) };
}

/// An application message inside the broker: shared and immutable.
///
/// Payload and properties are slices of the buffer that the packet was read into, which lives as long as any of
/// them; whoever keeps a message for long keeps [`Message::detached`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Publish prefix already applied.
    pub topic: TopicName,
    /// Passed on as it came.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// RETAIN as published.
    pub retain: bool,
    /// Where it came from.
    pub publisher: Publisher,
    /// When it is too late to begin a delivery. `[MQTT-3.3.2-5]`
    pub expires: Option<Instant>,
    /// Passed on unchanged, but for the expiry; never holds a topic alias or subscription identifiers.
    pub properties: Option<Box<PublishProperties>>,
}

impl Message {
    /// The same message in memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self {
            topic: detach_topic(&self.topic),
            payload: Bytes::copy_from_slice(&self.payload),
            properties: self.properties.as_deref().map(|properties| Box::new(detach_properties(properties))),
            ..*self
        }
    }

    /// Bytes of topic, payload and properties, as quotas count them.
    pub fn weight(topic: &TopicName, payload: &Bytes, properties: Option<&PublishProperties>) -> u64 {
        let properties = properties.map_or(0, |properties| {
            let pairs = properties.user_properties.iter().map(|(name, value)| name.len() + value.len());
            properties.response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
                + properties.correlation_data.as_ref().map_or(0, Bytes::len)
                + properties.content_type.as_ref().map_or(0, |text| text.len())
                + pairs.sum::<usize>()
        });
        u64::try_from(topic.as_str().len() + payload.len() + properties).unwrap_or(u64::MAX)
    }

    /// About how many bytes it holds: topic, payload, and every property with what it costs to keep.
    pub fn size(&self) -> usize {
        /// A text or a pair of texts, beside its bytes.
        const ENTRY: usize = 32;
        let properties = self.properties.as_deref().map_or(0, |properties| {
            let texts = properties.user_properties.iter().map(|(name, value)| name.len() + value.len() + 2 * ENTRY);
            let one = |length: Option<usize>| length.map_or(0, |length| length + ENTRY);
            texts.sum::<usize>()
                + one(properties.response_topic.as_ref().map(|topic| topic.as_str().len()))
                + one(properties.correlation_data.as_ref().map(Bytes::len))
                + one(properties.content_type.as_ref().map(|text| text.len()))
        });
        self.topic.as_str().len() + self.payload.len() + properties
    }

    /// Is it too late to begin a delivery?
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Seconds until it expires, rounded up; `None`: never.
    pub fn remaining(&self, now: Instant) -> Option<u32> {
        let left = self.expires?.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// When a message that comes in now with this Message Expiry Interval expires; `None`: never.
    pub fn expiry(now: Instant, properties: Option<&PublishProperties>) -> Option<Instant> {
        let seconds = properties?.message_expiry_interval?;
        now.checked_add(Duration::from_secs(u64::from(seconds)))
    }
}

/// What the router puts into the mailbox of a session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// Which of the session's subscriptions matched.
    pub matched: SmallVec<[Matched; 1]>,
    /// A retained message, sent because a subscription was made. `[MQTT-3.3.1-8]`
    pub retained: bool,
}

/// One subscription that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// A number that is no longer in use is ignored.
    pub number: SubscriptionNumber,
}

/// A PUBLISH to encode for the client.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The message; its own `qos` and `retain` are the publisher's.
    pub message: Arc<Message>,
    /// QoS of this delivery.
    pub qos: QoS,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Is it a resend? `[MQTT-3.3.1-1]`
    pub dup: bool,
    /// Present exactly when `qos` is 1 or 2.
    pub packet_id: Option<PacketIdentifier>,
    /// Of every subscription that matched and has one; empty for 3.1.1. `[MQTT-3.3.4-4]`
    pub subscription_identifiers: SmallVec<[NonZeroU32; 2]>,
    /// What is left of the Message Expiry Interval, in seconds. `[MQTT-3.3.2-6]`
    pub message_expiry: Option<u32>,
    /// An answer of the registry to this connection: needs no rule.
    pub answer: bool,
}

impl Outgoing {
    /// For [`encode_publish`](crate::mqtt::codec::encode_publish).
    pub fn parts(&self) -> PublishParts<'_> {
        PublishParts {
            topic: Some(&self.message.topic),
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            packet_id: self.packet_id,
            payload: &self.message.payload,
            properties: self.message.properties.as_deref(),
            topic_alias: None, // [MQTT-3.1.2-26]
            message_expiry_interval: self.message_expiry,
            subscription_identifiers: &self.subscription_identifiers,
        }
    }
}

/// A copy in memory of its own.
pub(super) fn detach_text(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

/// A copy in memory of its own.
pub(super) fn detach_topic(topic: &TopicName) -> TopicName {
    TopicName::try_from(topic.as_str()).unwrap_or_else(|_| topic.clone())
}

/// A copy in memory of its own.
pub(super) fn detach_filter(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::try_from(filter.as_str()).unwrap_or_else(|_| filter.clone())
}

/// A copy in memory of its own.
pub(super) fn detach_properties(properties: &PublishProperties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: properties.payload_format_indicator,
        message_expiry_interval: properties.message_expiry_interval,
        topic_alias: properties.topic_alias,
        response_topic: properties.response_topic.as_ref().map(detach_topic),
        correlation_data: properties.correlation_data.as_deref().map(Bytes::copy_from_slice),
        user_properties: properties.user_properties.iter().map(|(k, v)| (detach_text(k), detach_text(v))).collect(),
        subscription_identifiers: properties.subscription_identifiers.clone(),
        content_type: properties.content_type.as_ref().map(detach_text),
    }
}

//! Packets to bytes: each is checked and measured first, so that one reservation holds it and an error writes nothing.
//!
//! What a version cannot say is left out where the specification lets the receiver do without it (properties and reason
//! codes in 3.1.1), and refused where it does not.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;

use super::{
    error::EncodeError,
    properties::id,
    sink::{Body, Length, Sink, variable_size},
};
use crate::mqtt::{
    Acknowledgement, Auth, ConnAck, Connect, Disconnect, Packet, PacketIdentifier, ProtocolVersion, Publish,
    PublishProperties, QoS, ReasonCode, ReasonProperties, SubscriptionOptions, TopicName,
};

use ProtocolVersion::{V5, V311};

mod sections;

use sections::{ConnectWill, PublishSection, SubscribeSection, UserSection};

/// Appends one packet to `out`.
///
/// # Errors
///
/// When the packet cannot be said in this version, or at all; `out` is then as it was.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet {
        return encode_publish(&PublishParts::from(publish), version, out);
    }
    check(packet, version)?;
    append(first_byte(packet), &Control { packet, version }, out)
}

/// The bytes that [`encode`] would append, to be held against a Maximum Packet Size. `[MQTT-3.1.2-24]`
///
/// # Errors
///
/// As [`encode`].
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    if let Packet::Publish(publish) = packet {
        return encoded_publish_len(&PublishParts::from(publish), version);
    }
    check(packet, version)?;
    whole(&Control { packet, version })
}

/// A PUBLISH to be encoded without building a [`Publish`] first: one shared message, and what differs per receiver.
///
/// ```
/// use bytes::BytesMut;
/// use portcullis::mqtt::{ProtocolVersion, TopicName, codec::{PublishParts, encode_publish}};
///
/// let topic = TopicName::try_from("a/b").unwrap();
/// let mut out = BytesMut::new();
/// encode_publish(&PublishParts::new(&topic, b"hi"), ProtocolVersion::V311, &mut out).unwrap();
/// assert_eq!(&out[..], b"\x30\x07\0\x03a/bhi");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PublishParts<'a> {
    /// `None` with a topic alias that the receiver knows already; version 5 only.
    pub topic: Option<&'a TopicName>,
    /// Set on a resent QoS 1 or 2 message.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Present exactly when `qos` is 1 or 2.
    pub packet_id: Option<PacketIdentifier>,
    /// The Application Message.
    pub payload: &'a [u8],
    /// Those of the message; left out in 3.1.1.
    pub properties: Option<&'a PublishProperties>,
    /// In place of the one in `properties`.
    pub topic_alias: Option<NonZeroU16>,
    /// Seconds, in place of those in `properties`. `[MQTT-3.3.2-6]`
    pub message_expiry_interval: Option<u32>,
    /// Behind those in `properties`.
    pub subscription_identifiers: &'a [NonZeroU32],
}

impl<'a> PublishParts<'a> {
    /// A QoS 0 message without flags or properties.
    pub fn new(topic: &'a TopicName, payload: &'a [u8]) -> Self {
        Self {
            topic: Some(topic),
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            packet_id: None,
            payload,
            properties: None,
            topic_alias: None,
            message_expiry_interval: None,
            subscription_identifiers: &[],
        }
    }

    fn check(&self, version: ProtocolVersion) -> Result<(), EncodeError> {
        if self.packet_id.is_some() != (self.qos > QoS::AtMostOnce) {
            return Err(EncodeError::PacketIdentifier); // [MQTT-2.2.1-2]
        }
        let alias = self.topic_alias.or(self.properties.and_then(|properties| properties.topic_alias));
        if self.topic.is_none() && (version == V311 || alias.is_none()) {
            return Err(EncodeError::NotInVersion); // [MQTT-3.3.2-1]
        }
        Ok(())
    }

    fn first_byte(&self) -> u8 {
        // [MQTT-3.3.1-2] no DUP on QoS 0
        let dup = self.dup && self.qos > QoS::AtMostOnce;
        0x30 | u8::from(dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain)
    }
}

impl<'a> From<&'a Publish> for PublishParts<'a> {
    fn from(publish: &'a Publish) -> Self {
        Self {
            topic: publish.topic.as_ref(),
            dup: publish.dup,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            payload: &publish.payload,
            properties: publish.properties.as_deref(),
            topic_alias: None,
            message_expiry_interval: None,
            subscription_identifiers: &[],
        }
    }
}

/// Appends one PUBLISH to `out`.
///
/// # Errors
///
/// When the packet cannot be said in this version, or at all; `out` is then as it was.
pub fn encode_publish(
    parts: &PublishParts<'_>,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    parts.check(version)?;
    append(parts.first_byte(), &PublishBody { parts, version }, out)
}

/// The bytes that [`encode_publish`] would append.
///
/// # Errors
///
/// As [`encode_publish`].
pub fn encoded_publish_len(parts: &PublishParts<'_>, version: ProtocolVersion) -> Result<usize, EncodeError> {
    parts.check(version)?;
    whole(&PublishBody { parts, version })
}

/// The return code of a 3.1.1 CONNACK (table 3.1), 0 to 5; `None` where none fits, and then the connection is closed
/// without a CONNACK. 3.1.1: `[MQTT-3.2.2-6]`
pub fn connect_return_code(reason_code: ReasonCode) -> Option<u8> {
    Some(match reason_code {
        ReasonCode::Success => 0,
        ReasonCode::UnsupportedProtocolVersion => 1,
        ReasonCode::ClientIdentifierNotValid => 2,
        ReasonCode::UnspecifiedError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::QuotaExceeded
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::ConnectionRateExceeded => 3,
        ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => 4,
        ReasonCode::NotAuthorized
        | ReasonCode::Banned
        | ReasonCode::TopicNameInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QoSNotSupported => 5,
        _ => return None,
    })
}

fn append(first: u8, body: &impl Body, out: &mut BytesMut) -> Result<(), EncodeError> {
    let remaining = Length::of(body)?;
    out.reserve(total(remaining));
    out.u8(first);
    out.variable(remaining);
    body.write(out);
    Ok(())
}

fn whole(body: &impl Body) -> Result<usize, EncodeError> {
    Length::of(body).map(total)
}

fn total(remaining: u32) -> usize {
    usize::try_from(remaining).unwrap_or(usize::MAX).saturating_add(1 + variable_size(remaining))
}

fn first_byte(packet: &Packet) -> u8 {
    let packet_type = packet.packet_type();
    (packet_type as u8) << 4 | packet_type.fixed_flags().unwrap_or(0) // [MQTT-2.1.3-1]
}

/// All that a packet of our own can get wrong, but for lengths.
fn check(packet: &Packet, version: ProtocolVersion) -> Result<(), EncodeError> {
    let packet_type = packet.packet_type();
    let valid = |code: ReasonCode| code.is_valid_from_server(packet_type) || code.is_valid_from_client(packet_type);
    let all_valid = match packet {
        Packet::Connect(connect) => {
            // 3.1.1: [MQTT-3.1.2-22]
            if connect.version != version
                || (version == V311 && connect.password.is_some() && connect.username.is_none())
            {
                return Err(EncodeError::NotInVersion);
            }
            true
        }
        Packet::ConnAck(connack) if version == V311 => {
            return connect_return_code(connack.reason_code).map(|_| ()).ok_or(EncodeError::ReasonCode);
        }
        Packet::ConnAck(connack) => valid(connack.reason_code),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            valid(ack.reason_code)
        }
        Packet::Subscribe(subscribe) if subscribe.filters.is_empty() => return Err(EncodeError::Empty),
        Packet::Unsubscribe(unsubscribe) if unsubscribe.filters.is_empty() => return Err(EncodeError::Empty),
        Packet::SubAck(suback) if suback.reason_codes.is_empty() => return Err(EncodeError::Empty),
        Packet::UnsubAck(unsuback) if unsuback.reason_codes.is_empty() && version == V5 => {
            return Err(EncodeError::Empty);
        }
        Packet::SubAck(suback) => suback.reason_codes.iter().copied().all(valid),
        Packet::UnsubAck(unsuback) => unsuback.reason_codes.iter().copied().all(valid),
        Packet::Disconnect(disconnect) => valid(disconnect.reason_code),
        Packet::Auth(_) if version == V311 => return Err(EncodeError::NotInVersion),
        Packet::Auth(auth) => valid(auth.reason_code),
        Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq | Packet::PingResp => true,
    };
    if all_valid { Ok(()) } else { Err(EncodeError::ReasonCode) }
}

struct PublishBody<'a> {
    parts: &'a PublishParts<'a>,
    version: ProtocolVersion,
}

impl Body for PublishBody<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        let parts = self.parts;
        sink.field(parts.topic.map_or(&[], |topic| topic.as_str().as_bytes()));
        if let Some(packet_id) = parts.packet_id {
            sink.u16(packet_id.get());
        }
        if self.version == V5 {
            sink.section(&PublishSection(parts));
        }
        sink.raw(parts.payload);
    }
}

/// Every packet but PUBLISH, behind its fixed header.
struct Control<'a> {
    packet: &'a Packet,
    version: ProtocolVersion,
}

impl Body for Control<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        let version = self.version;
        match self.packet {
            Packet::Publish(publish) => PublishBody { parts: &publish.into(), version }.write(sink),
            Packet::PingReq | Packet::PingResp => {}
            Packet::Connect(packet) => connect(packet, sink),
            Packet::ConnAck(packet) => connack(packet, version, sink),
            Packet::PubAck(packet) | Packet::PubRec(packet) | Packet::PubRel(packet) | Packet::PubComp(packet) => {
                acknowledgement(packet, version, sink);
            }
            Packet::Subscribe(packet) => {
                sink.u16(packet.packet_id.get());
                if version == V5 {
                    sink.section(&SubscribeSection(packet));
                }
                for entry in &packet.filters {
                    sink.field(entry.filter.as_str().as_bytes());
                    sink.u8(options(entry.options, version));
                }
            }
            Packet::SubAck(packet) => {
                sink.u16(packet.packet_id.get());
                reasons(&packet.properties, &packet.reason_codes, version, sink);
            }
            Packet::Unsubscribe(packet) => {
                sink.u16(packet.packet_id.get());
                if version == V5 {
                    sink.section(&UserSection(&packet.user_properties));
                }
                for filter in &packet.filters {
                    sink.field(filter.as_str().as_bytes());
                }
            }
            Packet::UnsubAck(packet) => {
                sink.u16(packet.packet_id.get());
                if version == V5 {
                    reasons(&packet.properties, &packet.reason_codes, version, sink);
                }
            }
            Packet::Disconnect(packet) => disconnect(packet, version, sink),
            Packet::Auth(packet) => auth(packet, sink),
        }
    }
}

fn connect<S: Sink>(packet: &Connect, sink: &mut S) {
    sink.field(b"MQTT"); // [MQTT-3.1.2-1]
    sink.u8(match packet.version {
        V311 => 4,
        V5 => 5,
    });
    let will = packet.will.as_ref().map_or(0, |will| 4 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    sink.u8(u8::from(packet.username.is_some()) << 7
        | u8::from(packet.password.is_some()) << 6
        | will
        | u8::from(packet.clean_start) << 1);
    sink.u16(packet.keep_alive);
    if packet.version == V5 {
        sink.section(&packet.properties);
    }
    // [MQTT-3.1.3-1]
    sink.field(packet.client_id.as_str().as_bytes());
    if let Some(will) = &packet.will {
        if packet.version == V5 {
            sink.section(&ConnectWill(will));
        }
        sink.field(will.topic.as_str().as_bytes());
        sink.field(&will.payload);
    }
    if let Some(username) = &packet.username {
        sink.field(username.as_bytes());
    }
    if let Some(password) = &packet.password {
        sink.field(password);
    }
}

fn connack<S: Sink>(packet: &ConnAck, version: ProtocolVersion, sink: &mut S) {
    // [MQTT-3.2.2-6]
    sink.u8(u8::from(packet.session_present && packet.reason_code == ReasonCode::Success));
    match version {
        V5 => {
            sink.u8(packet.reason_code as u8);
            sink.section(&packet.properties);
        }
        // `check` has refused what has no return code.
        V311 => sink.u8(connect_return_code(packet.reason_code).unwrap_or(3)),
    }
}

fn acknowledgement<S: Sink>(packet: &Acknowledgement, version: ProtocolVersion, sink: &mut S) {
    sink.u16(packet.packet_id.get());
    if version == V311 {
        return;
    }
    let properties = packet.properties.as_deref().filter(|properties| !properties.is_empty());
    // Section 3.4.2.1 and its likes: what says nothing is left out.
    if packet.reason_code != ReasonCode::Success || properties.is_some() {
        sink.u8(packet.reason_code as u8);
    }
    if let Some(properties) = properties {
        sink.section(properties);
    }
}

fn reasons<S: Sink>(properties: &ReasonProperties, codes: &[ReasonCode], version: ProtocolVersion, sink: &mut S) {
    if version == V5 {
        sink.section(properties);
    }
    for code in codes {
        // 3.1.1: [MQTT-3.9.3-2] knows one failure.
        sink.u8(if version == V311 && code.is_error() { 0x80 } else { *code as u8 });
    }
}

fn disconnect<S: Sink>(packet: &Disconnect, version: ProtocolVersion, sink: &mut S) {
    if version == V311 {
        return;
    }
    // Section 3.14.2.1: what says nothing is left out.
    let properties = !packet.properties.is_empty();
    if packet.reason_code != ReasonCode::Success || properties {
        sink.u8(packet.reason_code as u8);
    }
    if properties {
        sink.section(&packet.properties);
    }
}

fn auth<S: Sink>(packet: &Auth, sink: &mut S) {
    // Section 3.15.2.1: only Success without properties may be left out.
    if packet.reason_code != ReasonCode::Success || !packet.is_bare() {
        sink.u8(packet.reason_code as u8);
        sink.section(packet);
    }
}

fn options(options: SubscriptionOptions, version: ProtocolVersion) -> u8 {
    let qos = options.qos as u8;
    match version {
        V311 => qos,
        V5 => {
            qos | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4
        }
    }
}

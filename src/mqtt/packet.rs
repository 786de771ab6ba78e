//! The control packets of both protocol versions as one set of types.
//!
//! A packet of version 3.1.1 is a packet of version 5 whose properties are all absent; what the two versions
//! encode differently (return codes, property sections) is the codec's business alone.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{ClientId, ReasonCode, TopicFilter, TopicName};

/// The version of the protocol that a connection speaks, fixed by its CONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProtocolVersion {
    /// MQTT 3.1.1 (protocol level 4).
    V311,
    /// MQTT 5.0 (protocol level 5).
    V5,
}

/// Quality of service: how hard the two sides try to hand over one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The quality of service of this number; `None` from 3 on. `[MQTT-3.3.1-4]`
    pub fn new(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// The number that ties an acknowledgement to its packet; never zero. `[MQTT-2.2.1-3]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketIdentifier(pub NonZeroU16);

impl PacketIdentifier {
    /// The identifier of this number; `None` for 0.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number on the wire.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// Name and value pairs that the broker passes on unchanged and in order. `[MQTT-3.3.2-18]`
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// One control packet of either version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Client to server: open the connection.
    Connect(Box<Connect>),
    /// Server to client: answer to CONNECT.
    ConnAck(Box<ConnAck>),
    /// Either way: an application message.
    Publish(Publish),
    /// Acknowledges a QoS 1 PUBLISH.
    PubAck(Acknowledgement),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Acknowledgement),
    /// Second step of QoS 2.
    PubRel(Acknowledgement),
    /// Ends a QoS 2 exchange.
    PubComp(Acknowledgement),
    /// Client to server: subscribe.
    Subscribe(Subscribe),
    /// Answer to SUBSCRIBE.
    SubAck(SubAck),
    /// Client to server: unsubscribe.
    Unsubscribe(Unsubscribe),
    /// Answer to UNSUBSCRIBE.
    UnsubAck(UnsubAck),
    /// Keep-alive probe.
    PingReq,
    /// Answer to PINGREQ.
    PingResp,
    /// Orderly end of the connection; from the server in version 5 only.
    Disconnect(Disconnect),
    /// Version 5 extended authentication.
    Auth(Auth),
}

/// The first packet of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol name and level said so.
    pub version: ProtocolVersion,
    /// Clean Start (5.0) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns the mechanism off.
    pub keep_alive: u16,
    /// May be empty: the server then assigns one. `[MQTT-3.1.3-6]`
    pub client_id: ClientId,
    /// The message to publish when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User Name.
    pub username: Option<ByteString>,
    /// Password: binary data in both versions. A secret: never logged (`Debug` shows its length).
    pub password: Option<Bytes>,
    /// Version 5 properties; all absent in 3.1.1.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Seconds; absent means 0, `u32::MAX` means never.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 messages the client takes at once; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Bytes; absent means no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Absent means 0.
    pub topic_alias_maximum: Option<u16>,
    /// Absent means false.
    pub request_response_information: Option<bool>,
    /// Absent means true.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Extended authentication method.
    pub authentication_method: Option<ByteString>,
    /// Extended authentication data; a secret.
    pub authentication_data: Option<Bytes>,
}

/// The Will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Will Topic.
    pub topic: TopicName,
    /// Will Payload.
    pub payload: Bytes,
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Seconds between the end of the connection and the publication; absent means 0.
    pub delay_interval: Option<u32>,
    /// The properties that travel with the message.
    pub properties: PublishProperties,
}

/// The server's answer to CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Does the server hold state for this client? Always false with an error code. `[MQTT-3.2.2-6]`
    pub session_present: bool,
    /// Success or the reason of the refusal; the codec maps it to a 3.1.1 return code.
    pub reason_code: ReasonCode,
    /// Version 5 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Seconds, where it differs from what the client asked.
    pub session_expiry_interval: Option<u32>,
    /// How many QoS 1 and 2 messages the server takes at once.
    pub receive_maximum: Option<NonZeroU16>,
    /// Absent means QoS 2.
    pub maximum_qos: Option<QoS>,
    /// Absent means true.
    pub retain_available: Option<bool>,
    /// Bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The client identifier that the server drew.
    pub assigned_client_identifier: Option<ByteString>,
    /// Absent means 0.
    pub topic_alias_maximum: Option<u16>,
    /// A sentence for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Absent means true.
    pub wildcard_subscription_available: Option<bool>,
    /// Absent means true.
    pub subscription_identifiers_available: Option<bool>,
    /// Absent means true.
    pub shared_subscription_available: Option<bool>,
    /// Seconds; overrides the client's keep alive.
    pub server_keep_alive: Option<u16>,
    /// Response Information.
    pub response_information: Option<ByteString>,
    /// Server Reference.
    pub server_reference: Option<ByteString>,
    /// Extended authentication method.
    pub authentication_method: Option<ByteString>,
    /// Extended authentication data.
    pub authentication_data: Option<Bytes>,
}

/// An application message on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Set on a resent QoS 1 or 2 message.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// `None` is the empty topic of a version 5 packet that carries a topic alias.
    pub topic: Option<TopicName>,
    /// Present exactly when `qos` is 1 or 2.
    pub packet_id: Option<PacketIdentifier>,
    /// The Application Message; a slice of the read buffer.
    pub payload: Bytes,
    /// Boxed: most messages have none.
    pub properties: Option<Box<PublishProperties>>,
}

/// Properties of PUBLISH, and of the message of a Will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// 0: bytes, 1: UTF-8 text.
    pub payload_format_indicator: Option<u8>,
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    /// Never zero.
    pub topic_alias: Option<NonZeroU16>,
    /// Where the answer should go; a valid topic name without wildcards.
    pub response_topic: Option<TopicName>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Which of the receiver's subscriptions matched; only from server to client.
    pub subscription_identifiers: Vec<NonZeroU32>,
    /// Content Type.
    pub content_type: Option<ByteString>,
}

impl PublishProperties {
    /// Is the payload what the Payload Format Indicator says? The codec does not judge it: a server may check and
    /// answer 0x99, section 3.3.2.3.2.
    pub fn payload_format_holds(&self, payload: &[u8]) -> bool {
        self.payload_format_indicator != Some(1) || std::str::from_utf8(payload).is_ok()
    }
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP have one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Of the PUBLISH that it answers.
    pub packet_id: PacketIdentifier,
    /// Success in version 3.1.1.
    pub reason_code: ReasonCode,
    /// Boxed: most have none.
    pub properties: Option<Box<ReasonProperties>>,
}

/// Reason String and user properties, as they appear in acknowledgements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties {
    /// A sentence for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: PacketIdentifier,
    /// At least one. `[MQTT-3.8.3-2]`
    pub filters: Vec<SubscribeFilter>,
    /// Subscription Identifier: 1 to 268,435,455.
    pub subscription_identifier: Option<NonZeroU32>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// Topic filter; `$share/...` is still inside.
    pub filter: TopicFilter,
    /// Options; in version 3.1.1 only the QoS.
    pub options: SubscriptionOptions,
}

/// Subscription options of version 5; the defaults are the behaviour of 3.1.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which the server may send.
    pub qos: QoS,
    /// Do not send the client's own messages back.
    pub no_local: bool,
    /// Keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

/// Retain Handling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    #[default]
    SendAtSubscribe = 0,
    /// Only when the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketIdentifier,
    /// One for each filter, in order. `[MQTT-3.9.3-1]`
    pub reason_codes: Vec<ReasonCode>,
    /// Version 5 only.
    pub properties: ReasonProperties,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: PacketIdentifier,
    /// At least one. `[MQTT-3.10.3-2]`
    pub filters: Vec<TopicFilter>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketIdentifier,
    /// One for each filter, in order; not on the wire in 3.1.1.
    pub reason_codes: Vec<ReasonCode>,
    /// Version 5 only.
    pub properties: ReasonProperties,
}

/// DISCONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Normal disconnection when absent on the wire.
    pub reason_code: ReasonCode,
    /// Properties.
    pub properties: DisconnectProperties,
}

/// Properties of DISCONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties {
    /// Seconds; from the client only.
    pub session_expiry_interval: Option<u32>,
    /// A sentence for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Server Reference; from the server only.
    pub server_reference: Option<ByteString>,
}

/// AUTH.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason_code: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data; a secret.
    pub authentication_data: Option<Bytes>,
    /// A sentence for people.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(Bytes::len))
            .field("properties", &self.properties)
            .finish()
    }
}

impl std::fmt::Debug for ConnectProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectProperties")
            .field("session_expiry_interval", &self.session_expiry_interval)
            .field("receive_maximum", &self.receive_maximum)
            .field("maximum_packet_size", &self.maximum_packet_size)
            .field("topic_alias_maximum", &self.topic_alias_maximum)
            .field("request_response_information", &self.request_response_information)
            .field("request_problem_information", &self.request_problem_information)
            .field("user_properties", &self.user_properties)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &self.authentication_data.as_ref().map(Bytes::len))
            .finish()
    }
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("reason_code", &self.reason_code)
            .field("authentication_method", &self.authentication_method)
            .field("authentication_data", &self.authentication_data.as_ref().map(Bytes::len))
            .field("reason_string", &self.reason_string)
            .field("user_properties", &self.user_properties)
            .finish()
    }
}

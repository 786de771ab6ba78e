//! What can be wrong with bytes from a peer, and with a packet of ours.

use crate::mqtt::{PacketType, ProtocolVersion, ReasonCode};

/// The peer has sent what the specification forbids. The connection cannot go on. `[MQTT-4.13.1-1]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{explanation}")]
#[non_exhaustive]
pub struct DecodeError {
    /// The language in which to answer; `None` when it is not known, and then the connection is closed without a word.
    ///
    /// For an unsupported protocol level it is the version nearest to it, so that a client of another version
    /// understands the CONNACK.
    pub version: Option<ProtocolVersion>,
    /// The type of the packet at fault, where its first byte named one.
    pub packet_type: Option<PacketType>,
    /// What a CONNACK or DISCONNECT of version 5 says about it.
    pub reason_code: ReasonCode,
    /// What is wrong, in words; holds nothing that the peer has sent.
    pub explanation: &'static str,
}

/// A packet that cannot be put on the wire: ours to avoid, never the receiver's fault. Nothing has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field over 65,535 bytes.
    #[error("a string or binary field is longer than 65,535 bytes")]
    FieldTooLong,
    /// A packet, property section or subscription identifier over 268,435,455.
    #[error("a length or a subscription identifier is over 268,435,455")]
    TooLarge,
    /// The protocol version has no such packet, or no such form of it.
    #[error("this protocol version cannot say that")]
    NotInVersion,
    /// The specification does not let this packet carry this reason code.
    #[error("the packet may not carry this reason code")]
    ReasonCode,
    /// No topic filter, or no reason code, where one or more are required.
    #[error("the list of the packet is empty")]
    Empty,
    /// A PUBLISH has a packet identifier exactly when its QoS is 1 or 2. `[MQTT-2.2.1-2]`
    #[error("the packet identifier does not go with the quality of service")]
    PacketIdentifier,
}

/// A [`DecodeError`] before it is known whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason_code: ReasonCode,
    pub(super) explanation: &'static str,
}

impl Fault {
    pub(super) const fn new(reason_code: ReasonCode, explanation: &'static str) -> Self {
        Self { reason_code, explanation }
    }

    /// 0x81: cannot be parsed as the specification says.
    pub(super) const fn malformed(explanation: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, explanation)
    }

    /// 0x82: can be parsed, but is not allowed.
    pub(super) const fn protocol(explanation: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, explanation)
    }
}

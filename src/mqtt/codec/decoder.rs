//! The frame around every packet: first byte, Remaining Length, and the decision to parse, wait or refuse.
//!
//! A buffer enters, whole packets leave its front. A call that finds too little looks at no more than five bytes, so
//! the work is linear in the bytes received however they are cut.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    MAXIMUM_REMAINING_LENGTH, connect,
    error::{DecodeError, Fault},
    packets::{self, PublishFlags},
    reader::{Reader, variable},
};
use crate::mqtt::{Packet, PacketType, ProtocolVersion, QoS, ReasonCode};

/// Which side of the connection decodes; it settles which packet types, reason codes and properties are acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives what clients send; CONNECT comes first and says the version.
    Server,
    /// Receives what servers send, in the version that its own CONNECT said.
    Client(ProtocolVersion),
}

/// Bounds on what is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest packet taken, first byte and length included; longer ones are refused with 0x95 before they arrive.
    /// The default is no limit beyond the protocol's own.
    pub maximum_packet_size: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { maximum_packet_size: MAXIMUM_REMAINING_LENGTH + 5 }
    }
}

/// Takes packets off the front of a receive buffer.
#[derive(Clone, Debug)]
pub struct Decoder {
    role: Role,
    limits: Limits,
    version: Option<ProtocolVersion>,
    failed: Option<DecodeError>,
}

impl Decoder {
    /// A decoder for a new connection.
    pub fn new(role: Role, limits: Limits) -> Self {
        let version = match role {
            Role::Server => None,
            Role::Client(version) => Some(version),
        };
        Self { role, limits, version, failed: None }
    }

    /// The version of the connection, once it is known.
    pub fn version(&self) -> Option<ProtocolVersion> {
        self.version
    }

    /// Fixes the version without a CONNECT, for whoever has seen that elsewhere.
    pub fn set_version(&mut self, version: ProtocolVersion) {
        self.version = Some(version);
    }

    /// Changes the bounds, from the next packet on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The next packet, or `None` when the buffer holds only a part of it.
    ///
    /// A server's decoder refuses every first packet but CONNECT `[MQTT-3.1.0-1]`; a second CONNECT it yields, as the
    /// session must end then.
    ///
    /// # Errors
    ///
    /// What the peer has done wrong. The state of the buffer is then of no use, and every further call gives the same
    /// error.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut found = None;
        self.next(buffer, &mut found).map_err(|Fault { reason_code, explanation }| {
            let error = DecodeError { version: self.version, packet_type: found, reason_code, explanation };
            self.failed = Some(error);
            error
        })
    }

    fn next(&mut self, buffer: &mut BytesMut, found: &mut Option<PacketType>) -> Result<Option<Packet>, Fault> {
        let Some((first, rest)) = buffer.split_first() else { return Ok(None) };
        let packet_type = PacketType::from_first_byte(*first).ok_or(Fault::malformed("packet type 0 is reserved"))?;
        *found = Some(packet_type);
        let flags = first & 0x0F;
        let publish = self.admit(packet_type, flags)?;

        let Some((remaining, length_size)) = variable(rest)? else { return Ok(None) };
        let header = 1 + length_size;
        let remaining = usize::try_from(remaining).map_err(|_| TOO_LARGE)?;
        let total = header + remaining;
        if u32::try_from(total).map_or(true, |total| total > self.limits.maximum_packet_size) {
            return Err(TOO_LARGE);
        }
        let Some(body) = buffer.get(header..total) else { return Ok(None) };

        // The commonest control packets need no slice of the buffer.
        if let Some(packet) = packets::short(packet_type, body)? {
            buffer.advance(total);
            return Ok(Some(packet));
        }
        let mut frame = buffer.split_to(total).freeze();
        frame.advance(header);
        self.parse(packet_type, publish, frame).map(Some)
    }

    /// What the first byte alone can settle. `[MQTT-2.1.3-1]`
    fn admit(&self, packet_type: PacketType, flags: u8) -> Result<PublishFlags, Fault> {
        let (from_peer, misplaced) = match self.role {
            Role::Server => (packet_type.is_from_client(), "a packet type that only servers send"),
            Role::Client(_) => (packet_type.is_from_server(), "a packet type that only clients send"),
        };
        if !from_peer {
            return Err(Fault::protocol(misplaced));
        }
        match self.version {
            None if packet_type != PacketType::Connect => {
                return Err(Fault::protocol("the first packet is not CONNECT")); // [MQTT-3.1.0-1]
            }
            Some(ProtocolVersion::V311) if packet_type == PacketType::Auth => {
                return Err(Fault::malformed("packet type 15 is reserved in MQTT 3.1.1"));
            }
            Some(ProtocolVersion::V311) if packet_type == PacketType::Disconnect && self.role != Role::Server => {
                return Err(Fault::protocol("a server does not send DISCONNECT in MQTT 3.1.1"));
            }
            _ => {}
        }
        match packet_type.fixed_flags() {
            Some(expected) if flags == expected => Ok(PublishFlags::default()),
            Some(_) => Err(Fault::malformed("reserved flags of the first byte are not as they must be")),
            None => {
                // [MQTT-3.3.1-4]
                let qos = QoS::new((flags >> 1) & 3).ok_or(Fault::malformed("PUBLISH with QoS 3"))?;
                let dup = flags & 8 != 0;
                if dup && qos == QoS::AtMostOnce {
                    return Err(Fault::malformed("PUBLISH of QoS 0 with DUP")); // [MQTT-3.3.1-2]
                }
                Ok(PublishFlags { dup, qos, retain: flags & 1 != 0 })
            }
        }
    }

    fn parse(&mut self, packet_type: PacketType, publish: PublishFlags, frame: Bytes) -> Result<Packet, Fault> {
        let reader = Reader::new(frame);
        if packet_type == PacketType::Connect {
            return self.connect(reader);
        }
        let Some(version) = self.version else { return Err(Fault::protocol("the first packet is not CONNECT")) };
        match packet_type {
            PacketType::Publish => packets::publish(reader, publish, version, self.role).map(Packet::Publish),
            other => packets::other(reader, other, version, self.role),
        }
    }

    fn connect(&mut self, mut reader: Reader) -> Result<Packet, Fault> {
        let version = connect::version(&mut reader).map_err(|unsupported| {
            if self.version.is_some() {
                // Whatever else is wrong with it; and DISCONNECT has no code for a version. [MQTT-3.1.0-2]
                return Fault::protocol("a second CONNECT on one connection");
            }
            self.version = self.version.or(unsupported.nearest);
            unsupported.fault
        })?;
        // The version of a connection is that of its first CONNECT.
        self.version = self.version.or(Some(version));
        connect::connect(reader, version).map(|connect| Packet::Connect(Box::new(connect)))
    }
}

/// `[MQTT-3.2.2-15]`
const TOO_LARGE: Fault = Fault::new(ReasonCode::PacketTooLarge, "the packet is larger than the limit");

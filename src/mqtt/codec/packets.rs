//! Every packet but CONNECT: variable header and payload, section 3.2 onwards.

use bytes::Bytes;

use super::{
    decoder::Role,
    error::Fault,
    properties,
    reader::{Reader, packet_identifier, topic_name},
};
use crate::mqtt::{
    Acknowledgement, Auth, ConnAck, ConnAckProperties, Disconnect, DisconnectProperties, Packet, PacketType,
    ProtocolVersion, Publish, QoS, ReasonCode, ReasonProperties, RetainHandling, SubAck, Subscribe, SubscribeFilter,
    SubscriptionOptions, UnsubAck, Unsubscribe,
};

/// The flags of a PUBLISH, already checked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PublishFlags {
    pub(super) dup: bool,
    pub(super) qos: QoS,
    pub(super) retain: bool,
}

/// The packets that are a fixed header alone, or with a packet identifier and no more.
pub(super) fn short(packet_type: PacketType, body: &[u8]) -> Result<Option<Packet>, Fault> {
    match (packet_type, body) {
        (PacketType::PingReq, []) => Ok(Some(Packet::PingReq)),
        (PacketType::PingResp, []) => Ok(Some(Packet::PingResp)),
        (PacketType::PubAck | PacketType::PubRec | PacketType::PubRel | PacketType::PubComp, [high, low]) => {
            let packet_id = packet_identifier(u16::from_be_bytes([*high, *low]))?;
            let success = Acknowledgement { packet_id, reason_code: ReasonCode::Success, properties: None };
            Ok(acknowledgement_packet(packet_type, success))
        }
        _ => Ok(None),
    }
}

fn acknowledgement_packet(packet_type: PacketType, acknowledgement: Acknowledgement) -> Option<Packet> {
    Some(match packet_type {
        PacketType::PubAck => Packet::PubAck(acknowledgement),
        PacketType::PubRec => Packet::PubRec(acknowledgement),
        PacketType::PubRel => Packet::PubRel(acknowledgement),
        PacketType::PubComp => Packet::PubComp(acknowledgement),
        _ => return None,
    })
}

pub(super) fn publish(
    mut reader: Reader,
    PublishFlags { dup, qos, retain }: PublishFlags,
    version: ProtocolVersion,
    role: Role,
) -> Result<Publish, Fault> {
    let topic = reader.text()?;
    // [MQTT-2.2.1-2]
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_identifier()?) };
    let properties = match version {
        ProtocolVersion::V5 => match reader.section()? {
            Some(section) => Some(Box::new(properties::publish(section, role)?)),
            None => None,
        },
        ProtocolVersion::V311 => None,
    };
    let topic = if topic.is_empty() {
        if properties.as_ref().and_then(|properties| properties.topic_alias).is_none() {
            return Err(Fault::protocol("an empty topic name without a topic alias")); // [MQTT-3.3.2-1]
        }
        None
    } else {
        Some(topic_name(topic)?)
    };
    Ok(Publish { dup, qos, retain, topic, packet_id, payload: reader.rest(), properties })
}

/// The packet types that are neither CONNECT nor PUBLISH.
pub(super) fn other(
    reader: Reader,
    packet_type: PacketType,
    version: ProtocolVersion,
    role: Role,
) -> Result<Packet, Fault> {
    match packet_type {
        PacketType::ConnAck => connack(reader, version).map(|connack| Packet::ConnAck(Box::new(connack))),
        PacketType::Subscribe => subscribe(reader, version).map(Packet::Subscribe),
        PacketType::SubAck => suback(reader, version).map(Packet::SubAck),
        PacketType::Unsubscribe => unsubscribe(reader, version).map(Packet::Unsubscribe),
        PacketType::UnsubAck => unsuback(reader, version).map(Packet::UnsubAck),
        PacketType::Disconnect => disconnect(reader, version, role).map(Packet::Disconnect),
        PacketType::Auth => auth(reader, role).map(Packet::Auth),
        PacketType::PingReq | PacketType::PingResp => Err(Fault::malformed("PINGREQ and PINGRESP have no body")),
        acknowledgement => {
            let body = self::acknowledgement(reader, acknowledgement, version, role)?;
            acknowledgement_packet(acknowledgement, body).ok_or(Fault::malformed("not a packet of this place"))
        }
    }
}

/// A reason code that this packet may carry from this peer.
fn reason_code(byte: u8, packet_type: PacketType, role: Role) -> Result<ReasonCode, Fault> {
    let code = ReasonCode::try_from(byte).map_err(|_| Fault::malformed("an unknown reason code"))?;
    let valid = match role {
        Role::Server => code.is_valid_from_client(packet_type),
        Role::Client(_) => code.is_valid_from_server(packet_type),
    };
    if valid { Ok(code) } else { Err(Fault::protocol("a reason code that this packet may not carry")) }
}

fn connack(mut reader: Reader, version: ProtocolVersion) -> Result<ConnAck, Fault> {
    let session_present = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(Fault::malformed("reserved acknowledge flags are set")), // [MQTT-3.2.2-1]
    };
    let code = reader.u8()?;
    let (reason_code, properties) = match version {
        ProtocolVersion::V5 => {
            let code = reason_code(code, PacketType::ConnAck, Role::Client(version))?;
            (code, properties::connack(reader.section()?)?)
        }
        ProtocolVersion::V311 => {
            // 3.1.1, table 3.1
            let code = match code {
                0 => ReasonCode::Success,
                1 => ReasonCode::UnsupportedProtocolVersion,
                2 => ReasonCode::ClientIdentifierNotValid,
                3 => ReasonCode::ServerUnavailable,
                4 => ReasonCode::BadUserNameOrPassword,
                5 => ReasonCode::NotAuthorized,
                _ => return Err(Fault::malformed("a reserved return code")),
            };
            (code, ConnAckProperties::default())
        }
    };
    reader.end()?;
    if session_present && reason_code != ReasonCode::Success {
        return Err(Fault::protocol("a refusal says that a session is present")); // [MQTT-3.2.2-6]
    }
    Ok(ConnAck { session_present, reason_code, properties })
}

fn acknowledgement(
    mut reader: Reader,
    packet_type: PacketType,
    version: ProtocolVersion,
    role: Role,
) -> Result<Acknowledgement, Fault> {
    let packet_id = reader.packet_identifier()?;
    let mut acknowledgement = Acknowledgement { packet_id, reason_code: ReasonCode::Success, properties: None };
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        acknowledgement.reason_code = reason_code(reader.u8()?, packet_type, role)?;
        // Sections 3.4.2.2, 3.5.2.2, 3.6.2.2, 3.7.2.2: nothing behind the reason code is no properties.
        if !reader.is_empty()
            && let Some(section) = reader.section()?
        {
            acknowledgement.properties = Some(Box::new(properties::reason(Some(section))?));
        }
    }
    reader.end()?;
    Ok(acknowledgement)
}

fn subscribe(mut reader: Reader, version: ProtocolVersion) -> Result<Subscribe, Fault> {
    let packet_id = reader.packet_identifier()?;
    let (subscription_identifier, user_properties) = match version {
        ProtocolVersion::V5 => properties::subscribe(reader.section()?)?,
        ProtocolVersion::V311 => Default::default(),
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        let filter = reader.topic_filter()?;
        let options = subscription_options(reader.u8()?, version)?;
        if options.no_local && filter.shared().is_some() {
            return Err(Fault::protocol("No Local on a shared subscription")); // [MQTT-3.8.3-4]
        }
        filters.push(SubscribeFilter { filter, options });
    }
    if filters.is_empty() {
        return Err(Fault::protocol("SUBSCRIBE without a topic filter")); // [MQTT-3.8.3-2]
    }
    Ok(Subscribe { packet_id, filters, subscription_identifier, user_properties })
}

fn subscription_options(byte: u8, version: ProtocolVersion) -> Result<SubscriptionOptions, Fault> {
    let reserved = match version {
        ProtocolVersion::V5 => 0b1100_0000,   // [MQTT-3.8.3-5]
        ProtocolVersion::V311 => 0b1111_1100, // 3.1.1: [MQTT-3.8.3-4]
    };
    if byte & reserved != 0 {
        return Err(Fault::malformed("reserved bits of the subscription options are set"));
    }
    let retain_handling = match (byte >> 4) & 3 {
        0 => RetainHandling::SendAtSubscribe,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(Fault::protocol("Retain Handling is 3")), // section 3.8.3.1
    };
    Ok(SubscriptionOptions {
        // Section 3.8.3.1; 3.1.1: [MQTT-3.8.3-4]
        qos: QoS::new(byte & 3).ok_or(match version {
            ProtocolVersion::V5 => Fault::protocol("a subscription asks for QoS 3"),
            ProtocolVersion::V311 => Fault::malformed("a subscription asks for QoS 3"),
        })?,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

fn suback(mut reader: Reader, version: ProtocolVersion) -> Result<SubAck, Fault> {
    let packet_id = reader.packet_identifier()?;
    let (reason_codes, properties) = match version {
        ProtocolVersion::V5 => {
            let properties = properties::reason(reader.section()?)?;
            (reason_codes(&reader.rest(), PacketType::SubAck)?, properties)
        }
        ProtocolVersion::V311 => {
            let codes = reader.rest();
            let codes = codes.iter().map(|code| match code {
                0 => Ok(ReasonCode::Success),
                1 => Ok(ReasonCode::GrantedQoS1),
                2 => Ok(ReasonCode::GrantedQoS2),
                0x80 => Ok(ReasonCode::UnspecifiedError),
                _ => Err(Fault::malformed("a reserved return code")), // 3.1.1: [MQTT-3.9.3-2]
            });
            (codes.collect::<Result<Vec<_>, _>>()?, ReasonProperties::default())
        }
    };
    if reason_codes.is_empty() {
        return Err(Fault::protocol("SUBACK without a reason code"));
    }
    Ok(SubAck { packet_id, reason_codes, properties })
}

fn unsubscribe(mut reader: Reader, version: ProtocolVersion) -> Result<Unsubscribe, Fault> {
    let packet_id = reader.packet_identifier()?;
    let user_properties = match version {
        ProtocolVersion::V5 => properties::unsubscribe(reader.section()?)?,
        ProtocolVersion::V311 => Vec::new(),
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.topic_filter()?);
    }
    if filters.is_empty() {
        return Err(Fault::protocol("UNSUBSCRIBE without a topic filter")); // [MQTT-3.10.3-2]
    }
    Ok(Unsubscribe { packet_id, filters, user_properties })
}

fn unsuback(mut reader: Reader, version: ProtocolVersion) -> Result<UnsubAck, Fault> {
    let packet_id = reader.packet_identifier()?;
    match version {
        ProtocolVersion::V5 => {
            let properties = properties::reason(reader.section()?)?;
            let reason_codes = reason_codes(&reader.rest(), PacketType::UnsubAck)?;
            if reason_codes.is_empty() {
                return Err(Fault::protocol("UNSUBACK without a reason code"));
            }
            Ok(UnsubAck { packet_id, reason_codes, properties })
        }
        ProtocolVersion::V311 => {
            reader.end()?;
            Ok(UnsubAck { packet_id, reason_codes: Vec::new(), properties: ReasonProperties::default() })
        }
    }
}

fn reason_codes(bytes: &Bytes, packet_type: PacketType) -> Result<Vec<ReasonCode>, Fault> {
    let from_server = Role::Client(ProtocolVersion::V5);
    bytes.iter().map(|byte| reason_code(*byte, packet_type, from_server)).collect()
}

fn disconnect(mut reader: Reader, version: ProtocolVersion, role: Role) -> Result<Disconnect, Fault> {
    let mut disconnect = Disconnect { reason_code: ReasonCode::Success, properties: DisconnectProperties::default() };
    if version == ProtocolVersion::V5 && !reader.is_empty() {
        disconnect.reason_code = reason_code(reader.u8()?, PacketType::Disconnect, role)?;
        // Section 3.14.2.2.1: nothing behind the reason code is no properties.
        if !reader.is_empty() {
            disconnect.properties = properties::disconnect(reader.section()?, role)?;
        }
    }
    reader.end()?;
    Ok(disconnect)
}

/// Version 5 only: the frame has made sure.
fn auth(mut reader: Reader, role: Role) -> Result<Auth, Fault> {
    // Section 3.15.2.1: an empty packet is Success without properties.
    let empty = reader.is_empty();
    let code = if empty { 0 } else { reader.u8()? };
    let reason_code = reason_code(code, PacketType::Auth, role)?;
    let auth = properties::auth(if empty { None } else { reader.section()? }, reason_code)?;
    reader.end()?;
    if auth.authentication_method.is_none() && !empty {
        return Err(Fault::protocol("AUTH without an authentication method")); // section 3.15.2.2.2
    }
    Ok(auth)
}

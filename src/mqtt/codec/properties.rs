//! The property sections of version 5, section 2.2.2: one function for each packet that has one.
//!
//! A property that the packet may not have is malformed (section 2.2.2.2); one that comes twice where once is allowed,
//! or has a forbidden value, is a protocol error.

use std::num::NonZeroU32;

use super::{decoder::Role, error::Fault, reader::Reader};
use crate::mqtt::{
    Auth, ConnAckProperties, ConnectProperties, DisconnectProperties, PublishProperties, QoS, ReasonCode,
    ReasonProperties, UserProperties,
};

/// Property identifiers, table 2-4.
pub(super) mod id {
    pub(in super::super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(in super::super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(in super::super) const CONTENT_TYPE: u8 = 0x03;
    pub(in super::super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in super::super) const CORRELATION_DATA: u8 = 0x09;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(in super::super) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(in super::super) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(in super::super) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in super::super) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in super::super) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in super::super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in super::super) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(in super::super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in super::super) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(in super::super) const SERVER_REFERENCE: u8 = 0x1C;
    pub(in super::super) const REASON_STRING: u8 = 0x1F;
    pub(in super::super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in super::super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in super::super) const TOPIC_ALIAS: u8 = 0x23;
    pub(in super::super) const MAXIMUM_QOS: u8 = 0x24;
    pub(in super::super) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in super::super) const USER_PROPERTY: u8 = 0x26;
    pub(in super::super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in super::super) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub(in super::super) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

const MISPLACED: Fault = Fault::malformed("a property that this packet may not have");
const TWICE: Fault = Fault::protocol("a property is given twice");
const NO_RECEIVE_MAXIMUM: Fault = Fault::protocol("Receive Maximum is 0"); // sections 3.1.2.11.3, 3.2.2.3.3
const NO_PACKET_SIZE: Fault = Fault::protocol("Maximum Packet Size is 0"); // sections 3.1.2.11.4, 3.2.2.3.6
const NO_METHOD: Fault = Fault::protocol("authentication data without an authentication method"); // 3.1.2.11.10
const NO_IDENTIFIER: Fault = Fault::protocol("Subscription Identifier is 0"); // sections 3.3.2.3.8, 3.8.2.1.2
const NO_ALIAS: Fault = Fault::new(ReasonCode::TopicAliasInvalid, "Topic Alias is 0"); // [MQTT-3.3.2-8]

/// Hands each property of a section to `take`, which reads its value.
fn each(section: Option<Reader>, mut take: impl FnMut(u8, &mut Reader) -> Result<(), Fault>) -> Result<(), Fault> {
    let Some(mut reader) = section else { return Ok(()) };
    while !reader.is_empty() {
        let identifier = u8::try_from(reader.variable()?).map_err(|_| MISPLACED)?;
        take(identifier, &mut reader)?;
    }
    Ok(())
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Fault> {
    if slot.replace(value).is_some() { Err(TWICE) } else { Ok(()) }
}

fn user(properties: &mut UserProperties, reader: &mut Reader) -> Result<(), Fault> {
    let name = reader.string()?;
    properties.push((name, reader.string()?)); // [MQTT-1.5.7-1]
    Ok(())
}

fn subscription_identifier(reader: &mut Reader) -> Result<NonZeroU32, Fault> {
    NonZeroU32::new(reader.variable()?).ok_or(NO_IDENTIFIER)
}

pub(super) fn connect(section: Option<Reader>) -> Result<ConnectProperties, Fault> {
    let mut found = ConnectProperties::default();
    each(section, |identifier, reader| match identifier {
        id::SESSION_EXPIRY_INTERVAL => once(&mut found.session_expiry_interval, reader.u32()?),
        id::RECEIVE_MAXIMUM => once(&mut found.receive_maximum, reader.non_zero_u16(NO_RECEIVE_MAXIMUM)?),
        id::MAXIMUM_PACKET_SIZE => once(&mut found.maximum_packet_size, reader.non_zero_u32(NO_PACKET_SIZE)?),
        id::TOPIC_ALIAS_MAXIMUM => once(&mut found.topic_alias_maximum, reader.u16()?),
        id::REQUEST_RESPONSE_INFORMATION => once(&mut found.request_response_information, reader.boolean()?),
        id::REQUEST_PROBLEM_INFORMATION => once(&mut found.request_problem_information, reader.boolean()?),
        id::USER_PROPERTY => user(&mut found.user_properties, reader),
        id::AUTHENTICATION_METHOD => once(&mut found.authentication_method, reader.string()?),
        id::AUTHENTICATION_DATA => once(&mut found.authentication_data, reader.binary()?),
        _ => Err(MISPLACED),
    })?;
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(NO_METHOD);
    }
    Ok(found)
}

pub(super) fn connack(section: Option<Reader>) -> Result<ConnAckProperties, Fault> {
    let mut found = ConnAckProperties::default();
    each(section, |identifier, reader| match identifier {
        id::SESSION_EXPIRY_INTERVAL => once(&mut found.session_expiry_interval, reader.u32()?),
        id::RECEIVE_MAXIMUM => once(&mut found.receive_maximum, reader.non_zero_u16(NO_RECEIVE_MAXIMUM)?),
        id::MAXIMUM_QOS => {
            // Section 3.2.2.3.4: QoS 2 is said by leaving the property out.
            let qos = match reader.u8()? {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => return Err(Fault::protocol("Maximum QoS is neither 0 nor 1")),
            };
            once(&mut found.maximum_qos, qos)
        }
        id::RETAIN_AVAILABLE => once(&mut found.retain_available, reader.boolean()?),
        id::MAXIMUM_PACKET_SIZE => once(&mut found.maximum_packet_size, reader.non_zero_u32(NO_PACKET_SIZE)?),
        id::ASSIGNED_CLIENT_IDENTIFIER => once(&mut found.assigned_client_identifier, reader.string()?),
        id::TOPIC_ALIAS_MAXIMUM => once(&mut found.topic_alias_maximum, reader.u16()?),
        id::REASON_STRING => once(&mut found.reason_string, reader.string()?),
        id::USER_PROPERTY => user(&mut found.user_properties, reader),
        id::WILDCARD_SUBSCRIPTION_AVAILABLE => once(&mut found.wildcard_subscription_available, reader.boolean()?),
        id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE => {
            once(&mut found.subscription_identifiers_available, reader.boolean()?)
        }
        id::SHARED_SUBSCRIPTION_AVAILABLE => once(&mut found.shared_subscription_available, reader.boolean()?),
        id::SERVER_KEEP_ALIVE => once(&mut found.server_keep_alive, reader.u16()?),
        id::RESPONSE_INFORMATION => once(&mut found.response_information, reader.string()?),
        id::SERVER_REFERENCE => once(&mut found.server_reference, reader.string()?),
        id::AUTHENTICATION_METHOD => once(&mut found.authentication_method, reader.string()?),
        id::AUTHENTICATION_DATA => once(&mut found.authentication_data, reader.binary()?),
        _ => Err(MISPLACED),
    })?;
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(NO_METHOD);
    }
    Ok(found)
}

/// What a PUBLISH and a Will have in common; false when the property is none of it.
fn message(found: &mut PublishProperties, identifier: u8, reader: &mut Reader) -> Result<bool, Fault> {
    match identifier {
        id::PAYLOAD_FORMAT_INDICATOR => once(&mut found.payload_format_indicator, u8::from(reader.boolean()?))?,
        id::MESSAGE_EXPIRY_INTERVAL => once(&mut found.message_expiry_interval, reader.u32()?)?,
        id::CONTENT_TYPE => once(&mut found.content_type, reader.string()?)?,
        id::RESPONSE_TOPIC => {
            // [MQTT-3.3.2-13] [MQTT-3.3.2-14]
            let topic = reader.topic_name().map_err(|fault| match fault.reason_code {
                ReasonCode::MalformedPacket => fault,
                _ => Fault::protocol("the Response Topic is empty or holds a wildcard"),
            })?;
            once(&mut found.response_topic, topic)?;
        }
        id::CORRELATION_DATA => once(&mut found.correlation_data, reader.binary()?)?,
        id::USER_PROPERTY => user(&mut found.user_properties, reader)?,
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) fn publish(section: Reader, role: Role) -> Result<PublishProperties, Fault> {
    let mut found = PublishProperties::default();
    each(Some(section), |identifier, reader| match identifier {
        id::TOPIC_ALIAS => once(&mut found.topic_alias, reader.non_zero_u16(NO_ALIAS)?),
        id::SUBSCRIPTION_IDENTIFIER if role == Role::Server => {
            Err(Fault::protocol("a client's PUBLISH has a Subscription Identifier")) // [MQTT-3.3.4-6]
        }
        id::SUBSCRIPTION_IDENTIFIER => {
            found.subscription_identifiers.push(subscription_identifier(reader)?);
            Ok(())
        }
        other if message(&mut found, other, reader)? => Ok(()),
        _ => Err(MISPLACED),
    })?;
    Ok(found)
}

/// The properties of a Will and its Will Delay Interval.
pub(super) fn will(section: Option<Reader>) -> Result<(PublishProperties, Option<u32>), Fault> {
    let (mut found, mut delay) = (PublishProperties::default(), None);
    each(section, |identifier, reader| match identifier {
        id::WILL_DELAY_INTERVAL => once(&mut delay, reader.u32()?),
        other if message(&mut found, other, reader)? => Ok(()),
        _ => Err(MISPLACED),
    })?;
    Ok((found, delay))
}

/// Of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
pub(super) fn reason(section: Option<Reader>) -> Result<ReasonProperties, Fault> {
    let mut found = ReasonProperties::default();
    each(section, |identifier, reader| match identifier {
        id::REASON_STRING => once(&mut found.reason_string, reader.string()?),
        id::USER_PROPERTY => user(&mut found.user_properties, reader),
        _ => Err(MISPLACED),
    })?;
    Ok(found)
}

pub(super) fn subscribe(section: Option<Reader>) -> Result<(Option<NonZeroU32>, UserProperties), Fault> {
    let (mut identifier_found, mut user_properties) = (None, UserProperties::new());
    each(section, |identifier, reader| match identifier {
        id::SUBSCRIPTION_IDENTIFIER => once(&mut identifier_found, subscription_identifier(reader)?),
        id::USER_PROPERTY => user(&mut user_properties, reader),
        _ => Err(MISPLACED),
    })?;
    Ok((identifier_found, user_properties))
}

pub(super) fn unsubscribe(section: Option<Reader>) -> Result<UserProperties, Fault> {
    let mut user_properties = UserProperties::new();
    each(section, |identifier, reader| match identifier {
        id::USER_PROPERTY => user(&mut user_properties, reader),
        _ => Err(MISPLACED),
    })?;
    Ok(user_properties)
}

pub(super) fn disconnect(section: Option<Reader>, role: Role) -> Result<DisconnectProperties, Fault> {
    let mut found = DisconnectProperties::default();
    each(section, |identifier, reader| match identifier {
        // [MQTT-3.14.2-2]
        id::SESSION_EXPIRY_INTERVAL if role != Role::Server => {
            Err(Fault::protocol("a server's DISCONNECT has a Session Expiry Interval"))
        }
        id::SESSION_EXPIRY_INTERVAL => once(&mut found.session_expiry_interval, reader.u32()?),
        id::REASON_STRING => once(&mut found.reason_string, reader.string()?),
        id::USER_PROPERTY => user(&mut found.user_properties, reader),
        // Section 3.14.2.2.5: the server sends it.
        id::SERVER_REFERENCE if role == Role::Server => {
            Err(Fault::protocol("a client's DISCONNECT has a Server Reference"))
        }
        id::SERVER_REFERENCE => once(&mut found.server_reference, reader.string()?),
        _ => Err(MISPLACED),
    })?;
    Ok(found)
}

pub(super) fn auth(section: Option<Reader>, reason_code: ReasonCode) -> Result<Auth, Fault> {
    let mut found = Auth {
        reason_code,
        authentication_method: None,
        authentication_data: None,
        reason_string: None,
        user_properties: UserProperties::new(),
    };
    each(section, |identifier, reader| match identifier {
        id::AUTHENTICATION_METHOD => once(&mut found.authentication_method, reader.string()?),
        id::AUTHENTICATION_DATA => once(&mut found.authentication_data, reader.binary()?),
        id::REASON_STRING => once(&mut found.reason_string, reader.string()?),
        id::USER_PROPERTY => user(&mut found.user_properties, reader),
        _ => Err(MISPLACED),
    })?;
    Ok(found)
}

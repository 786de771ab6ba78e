//! CONNECT: protocol name, level, flags and payload.

use super::{error::Fault, properties, reader::Reader};
use crate::mqtt::{ClientId, Connect, ConnectProperties, ProtocolVersion, QoS, ReasonCode, Will};

/// A CONNECT whose protocol name and level are not ours.
pub(super) struct Unsupported {
    pub(super) fault: Fault,
    /// The version whose CONNACK the client is likeliest to understand.
    pub(super) nearest: Option<ProtocolVersion>,
}

impl From<Fault> for Unsupported {
    fn from(fault: Fault) -> Self {
        Self { fault, nearest: None }
    }
}

/// Protocol name and level.
pub(super) fn version(reader: &mut Reader) -> Result<ProtocolVersion, Unsupported> {
    let name = reader.binary()?;
    let level = reader.u8()?;
    // [MQTT-3.1.2-2] MQTT 3.1 reads CONNACK as 3.1.1 does. Some bridges set the highest bit of the level at first and
    // clear it when they are refused, so that bit says nothing about the version.
    let (explanation, nearest) = match (&*name, level) {
        (b"MQTT", 4) => return Ok(ProtocolVersion::V311),
        (b"MQTT", 5) => return Ok(ProtocolVersion::V5),
        (b"MQTT", level) if level & 0x7F > 4 => ("the protocol level is not 4 or 5", Some(ProtocolVersion::V5)),
        (b"MQTT", _) => ("the protocol level is not 4 or 5", Some(ProtocolVersion::V311)),
        (b"MQIsdp", 3) => ("MQTT 3.1 is not supported, 3.1.1 and 5.0 are", Some(ProtocolVersion::V311)),
        // [MQTT-3.1.2-1] Not MQTT at all, so nothing is said in reply.
        _ => ("the protocol name is not `MQTT`", None),
    };
    Err(Unsupported { fault: Fault::new(ReasonCode::UnsupportedProtocolVersion, explanation), nearest })
}

/// All that follows the protocol level.
pub(super) fn connect(mut reader: Reader, version: ProtocolVersion) -> Result<Connect, Fault> {
    let flags = Flags::read(reader.u8()?, version)?;
    let keep_alive = reader.u16()?;
    let properties = match version {
        ProtocolVersion::V5 => properties::connect(reader.section()?)?,
        ProtocolVersion::V311 => ConnectProperties::default(),
    };
    // [MQTT-3.1.3-1] the order of the payload; [MQTT-3.1.3-3]
    let client_id =
        ClientId::try_from(reader.text()?).map_err(|_| Fault::malformed("the client identifier holds NUL"))?;
    let will = match flags.will {
        Some((qos, retain)) => Some(will(&mut reader, version, qos, retain)?),
        None => None,
    };
    let username = if flags.username { Some(reader.string()?) } else { None };
    let password = if flags.password { Some(reader.binary()?) } else { None };
    reader.end()?;
    Ok(Connect { version, clean_start: flags.clean_start, keep_alive, client_id, will, username, password, properties })
}

fn will(reader: &mut Reader, version: ProtocolVersion, qos: QoS, retain: bool) -> Result<Will, Fault> {
    let (properties, delay_interval) = match version {
        ProtocolVersion::V5 => properties::will(reader.section()?)?,
        ProtocolVersion::V311 => Default::default(),
    };
    let topic = reader.topic_name()?;
    let payload = reader.binary()?;
    Ok(Will { topic, payload, qos, retain, delay_interval, properties })
}

/// The connect flags, section 3.1.2.3.
struct Flags {
    clean_start: bool,
    /// QoS and RETAIN, when there is a Will.
    will: Option<(QoS, bool)>,
    username: bool,
    password: bool,
}

impl Flags {
    fn read(byte: u8, version: ProtocolVersion) -> Result<Self, Fault> {
        let set = |bit: u8| byte & (1 << bit) != 0;
        if set(0) {
            return Err(Fault::malformed("the reserved connect flag is set")); // [MQTT-3.1.2-3]
        }
        let retain = set(5);
        let will = match (set(2), (byte >> 3) & 3) {
            (true, qos) => {
                // [MQTT-3.1.2-12]; 3.1.1: [MQTT-3.1.2-14]
                let qos = QoS::new(qos).ok_or(Fault::malformed("Will QoS is 3"))?;
                Some((qos, retain))
            }
            (false, 0) if !retain => None,
            // [MQTT-3.1.2-11] [MQTT-3.1.2-13]; 3.1.1: [MQTT-3.1.2-11] [MQTT-3.1.2-15]
            (false, _) => return Err(Fault::malformed("Will QoS or Will Retain without a Will")),
        };
        let (username, password) = (set(7), set(6));
        if password && !username && version == ProtocolVersion::V311 {
            return Err(Fault::malformed("a password without a user name")); // 3.1.1: [MQTT-3.1.2-22]
        }
        Ok(Self { clean_start: set(1), will, username, password })
    }
}

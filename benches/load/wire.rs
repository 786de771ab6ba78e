//! The few words of MQTT 3.1.1 that a load driver speaks.
//!
//! In: field values, or bytes that a broker sent. Out: bytes appended to a buffer, or a borrowed packet and its length.
//! It is lenient, allocates nothing when decoding, and is deliberately not the broker's codec: a driver that shared it
//! could not see its mistakes.

/// Packet types as the first byte of a packet without flags.
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x60;
const PUBCOMP: u8 = 0x70;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xB0;
const PINGRESP: u8 = 0xD0;

/// The acknowledgements, which differ in their first byte alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
}

/// A packet as a broker sends it, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Connack { code: u8 },
    Publish { qos: u8, duplicate: bool, packet_identifier: u16, topic: &'a [u8], payload: &'a [u8] },
    Ack(Ack, u16),
    Suback { packet_identifier: u16, codes: &'a [u8] },
    Unsuback,
    Pingresp,
}

/// Bytes that are no MQTT 3.1.1 packet of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

fn remaining_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = u8::try_from(length & 0x7F).unwrap_or(0);
        length >>= 7;
        if length == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    // Longer strings than the format can carry are cut: the driver never makes one.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

/// What a CONNECT says. The keep alive is in seconds; 0 is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) login: Option<(&'a str, &'a str)>,
    pub(crate) clean_session: bool,
    pub(crate) keep_alive: u16,
}

pub(crate) fn connect(out: &mut Vec<u8>, connect: Connect<'_>) {
    let login = connect.login.map_or(0, |(user, password)| 4 + user.len() + password.len());
    out.push(0x10);
    remaining_length(out, 10 + 2 + connect.client_id.len() + login);
    string(out, b"MQTT");
    let flags = u8::from(connect.clean_session) << 1 | if connect.login.is_some() { 0xC0 } else { 0 };
    out.extend_from_slice(&[4, flags]);
    out.extend_from_slice(&connect.keep_alive.to_be_bytes());
    string(out, connect.client_id.as_bytes());
    if let Some((user, password)) = connect.login {
        string(out, user.as_bytes());
        string(out, password.as_bytes());
    }
}

pub(crate) fn subscribe(out: &mut Vec<u8>, packet_identifier: u16, filter: &str, qos: u8) {
    out.push(0x82);
    remaining_length(out, 2 + 2 + filter.len() + 1);
    out.extend_from_slice(&packet_identifier.to_be_bytes());
    string(out, filter.as_bytes());
    out.push(qos);
}

#[allow(dead_code, reason = "the load driver never unsubscribes, `failures` does")]
pub(crate) fn unsubscribe(out: &mut Vec<u8>, packet_identifier: u16, filter: &str) {
    out.push(0xA2);
    remaining_length(out, 2 + 2 + filter.len());
    out.extend_from_slice(&packet_identifier.to_be_bytes());
    string(out, filter.as_bytes());
}

/// The head of a PUBLISH; exactly `payload_length` bytes of payload must follow it. `flags` are DUP (8) and RETAIN (1).
pub(crate) fn publish(
    out: &mut Vec<u8>,
    topic: &[u8],
    qos: u8,
    flags: u8,
    packet_identifier: u16,
    payload_length: usize,
) {
    out.push(PUBLISH | flags | qos << 1);
    remaining_length(out, 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload_length);
    string(out, topic);
    if qos > 0 {
        out.extend_from_slice(&packet_identifier.to_be_bytes());
    }
}

pub(crate) fn ack(out: &mut Vec<u8>, ack: Ack, packet_identifier: u16) {
    let first = match ack {
        Ack::Puback => PUBACK,
        Ack::Pubrec => PUBREC,
        Ack::Pubrel => PUBREL | 2,
        Ack::Pubcomp => PUBCOMP,
    };
    let [high, low] = packet_identifier.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

pub(crate) fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// The first packet in `bytes` and its whole length, or `None` when it is not there in full.
pub(crate) fn decode(bytes: &[u8]) -> Result<Option<(Incoming<'_>, usize)>, Malformed> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut length = 0;
    let mut head = 1;
    let mut ended = false;
    for (position, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * position);
        head += 1;
        if byte & 0x80 == 0 {
            ended = true;
            break;
        }
    }
    if !ended {
        return if rest.len() < 4 { Ok(None) } else { Err(Malformed) };
    }
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let packet = match first & 0xF0 {
        PUBLISH => publication(first, body)?,
        CONNACK => Incoming::Connack { code: *body.get(1).ok_or(Malformed)? },
        PUBACK => Incoming::Ack(Ack::Puback, split_u16(body)?.0),
        PUBREC => Incoming::Ack(Ack::Pubrec, split_u16(body)?.0),
        PUBREL => Incoming::Ack(Ack::Pubrel, split_u16(body)?.0),
        PUBCOMP => Incoming::Ack(Ack::Pubcomp, split_u16(body)?.0),
        SUBACK => {
            let (packet_identifier, codes) = split_u16(body)?;
            Incoming::Suback { packet_identifier, codes }
        }
        UNSUBACK => Incoming::Unsuback,
        PINGRESP => Incoming::Pingresp,
        _ => return Err(Malformed),
    };
    Ok(Some((packet, head + length)))
}

fn publication(first: u8, body: &[u8]) -> Result<Incoming<'_>, Malformed> {
    let (length, rest) = split_u16(body)?;
    let (topic, rest) = rest.split_at_checked(usize::from(length)).ok_or(Malformed)?;
    let qos = first >> 1 & 3;
    let (packet_identifier, payload) = if qos > 0 { split_u16(rest)? } else { (0, rest) };
    Ok(Incoming::Publish { qos, duplicate: first & 8 != 0, packet_identifier, topic, payload })
}

fn split_u16(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (head, rest) = bytes.split_first_chunk::<2>().ok_or(Malformed)?;
    Ok((u16::from_be_bytes(*head), rest))
}

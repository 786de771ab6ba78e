//! The few words of MQTT 5.0 that the driver needs, beside those of 3.1.1 that it shares with the load driver.
//!
//! In: field values, or bytes that a broker sent. Out: bytes appended to a buffer, or a borrowed packet and its length.
//! No property is ever sent, and those that come are passed over.

use crate::wire::{self, Incoming, Malformed};

/// A packet of either version.
pub(crate) enum Packet<'a> {
    Connack { code: u8 },
    Publish { topic: &'a [u8], payload: &'a [u8] },
    Suback { code: u8 },
    Disconnect { code: u8 },
    Other,
}

/// A CONNECT, in version 5 with a session that lives as long as the connection unless `clean` is false.
pub(crate) fn connect(out: &mut Vec<u8>, v5: bool, client_id: &str, login: Option<(&str, &str)>, clean: bool) {
    let start = out.len();
    wire::connect(out, wire::Connect { client_id, login, clean_session: clean, keep_alive: 0 });
    if !v5 {
        return;
    }
    // The same packet with another level, and with an empty list of properties before the payload.
    let Some(head) = out.get(start..).and_then(|packet| packet.windows(6).position(|bytes| bytes == b"\0\x04MQTT"))
    else {
        return;
    };
    let mut body = out.split_off(start + head);
    out.truncate(start + 1);
    if let Some(level) = body.get_mut(6) {
        *level = 5;
    }
    body.insert(10, 0);
    let mut length = body.len();
    while length > 0x7F {
        out.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.append(&mut body);
}

pub(crate) fn subscribe(out: &mut Vec<u8>, v5: bool, packet_identifier: u16, filter: &str) {
    if !v5 {
        return wire::subscribe(out, packet_identifier, filter, 0);
    }
    let length = (filter.len() as u16).to_be_bytes();
    // Filters of the driver are short: one byte of remaining length.
    out.extend_from_slice(&[0x82, (2 + 1 + 2 + filter.len() + 1) as u8]);
    out.extend_from_slice(&packet_identifier.to_be_bytes());
    out.push(0);
    out.extend_from_slice(&length);
    out.extend_from_slice(filter.as_bytes());
    out.push(0);
}

/// A QoS 0 PUBLISH.
pub(crate) fn publish(out: &mut Vec<u8>, v5: bool, topic: &str, payload: &[u8]) {
    wire::publish(out, topic.as_bytes(), 0, 0, 0, payload.len() + usize::from(v5));
    if v5 {
        out.push(0);
    }
    out.extend_from_slice(payload);
}

/// The first packet in `bytes` and its whole length, or `None` when it is not there in full.
pub(crate) fn decode(v5: bool, bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    if let [0xE0, length, rest @ ..] = bytes {
        let length = usize::from(*length);
        let Some(body) = rest.get(..length) else { return Ok(None) };
        return Ok(Some((Packet::Disconnect { code: body.first().copied().unwrap_or(0) }, 2 + length)));
    }
    let Some((packet, length)) = wire::decode(bytes)? else { return Ok(None) };
    let packet = match packet {
        Incoming::Connack { code } => Packet::Connack { code },
        Incoming::Suback { codes, .. } => Packet::Suback { code: codes.last().copied().unwrap_or(0x80) },
        Incoming::Publish { topic, payload, .. } => {
            let skip = match (v5, payload.first()) {
                (false, _) | (true, None) => 0,
                (true, Some(&properties)) => 1 + usize::from(properties),
            };
            Packet::Publish { topic, payload: payload.get(skip..).ok_or(Malformed)? }
        }
        _ => Packet::Other,
    };
    Ok(Some((packet, length)))
}

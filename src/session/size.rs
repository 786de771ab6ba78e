//! Does a packet fit the client's Maximum Packet Size?
//!
//! The codec knows lengths; here is only the comparison, and the case without a limit, which costs nothing.

use std::num::NonZeroU32;

use super::Outgoing;
use crate::mqtt::codec::{PublishParts, encoded_len, encoded_publish_len};
use crate::mqtt::{Packet, PacketIdentifier, ProtocolVersion, QoS};

/// `[MQTT-3.1.2-24]` The packet identifier need not be there yet.
pub(super) fn fits(outgoing: &Outgoing, version: ProtocolVersion, largest: Option<NonZeroU32>) -> bool {
    let Some(largest) = largest else { return true };
    let any = (outgoing.qos != QoS::AtMostOnce).then_some(PacketIdentifier(std::num::NonZeroU16::MIN));
    let parts = PublishParts { packet_id: any, ..outgoing.parts() };
    encoded_publish_len(&parts, version).is_ok_and(|length| within(length, largest))
}

/// `[MQTT-3.1.2-24]`
pub(super) fn packet_fits(packet: &Packet, version: ProtocolVersion, largest: Option<NonZeroU32>) -> bool {
    let Some(largest) = largest else { return true };
    encoded_len(packet, version).is_ok_and(|length| within(length, largest))
}

fn within(length: usize, largest: NonZeroU32) -> bool {
    u32::try_from(length).is_ok_and(|length| length <= largest.get())
}

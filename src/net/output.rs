//! The bytes that one connection has to write, still divided into packets.
//!
//! A packet that is encoded but not yet written can be taken back: when the rules change, deliveries that they now
//! forbid leave the buffer at a packet boundary. What the kernel has begun to take is finished.

use std::{collections::VecDeque, io};

use bytes::{Buf, BytesMut};

use super::transport::Transport;
use crate::{
    mqtt::{
        Packet, PacketIdentifier, ProtocolVersion,
        codec::{self, EncodeError},
    },
    session::Outgoing,
};

/// A buffer that grew beyond this is given back when it is empty.
const KEEP: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct OutputBuffer {
    version: ProtocolVersion,
    bytes: BytesMut,
    packets: VecDeque<Encoded>,
    /// How much of the first packet has been written.
    begun: usize,
    /// Messages in the last TLS record, while part of it waits for the socket: they are encrypted and cannot be taken back.
    sealed: Vec<Outgoing>,
    /// Has the first packet of all, the CONNACK, been written?
    greeted: bool,
}

#[derive(Debug)]
struct Encoded {
    length: usize,
    /// Present on messages, whose permission can end before they are written.
    delivery: Option<Outgoing>,
}

impl OutputBuffer {
    pub(super) fn new(version: ProtocolVersion) -> Self {
        Self { version, bytes: BytesMut::new(), packets: VecDeque::new(), begun: 0, sealed: Vec::new(), greeted: false }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, packet: &Packet) -> Result<(), EncodeError> {
        let before = self.bytes.len();
        codec::encode(packet, self.version, &mut self.bytes)?;
        let length = self.bytes.len() - before;
        self.packets.push_back(Encoded { length, delivery: None });
        Ok(())
    }

    pub(super) fn push_delivery(&mut self, outgoing: Outgoing) -> Result<(), EncodeError> {
        let before = self.bytes.len();
        codec::encode_publish(&outgoing.parts(), self.version, &mut self.bytes)?;
        let length = self.bytes.len() - before;
        self.packets.push_back(Encoded { length, delivery: Some(outgoing) });
        Ok(())
    }

    /// Writes as much as the socket takes; says whether everything is with the kernel.
    pub(super) fn write(&mut self, transport: &mut Transport) -> io::Result<bool> {
        let result = self.write_until_full(transport);
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP {
            self.bytes = BytesMut::new();
        }
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(!transport.wants_write()),
        }
    }

    fn write_until_full(&mut self, transport: &mut Transport) -> io::Result<()> {
        transport.flush()?;
        self.sealed.clear();
        while !self.bytes.is_empty() {
            match transport.try_write(&self.bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => {
                    // Records before it are with the kernel: `try_write` takes nothing else.
                    self.sealed.clear();
                    self.written(written, transport.wants_write());
                }
            }
        }
        Ok(())
    }

    fn written(&mut self, count: usize, sealed: bool) {
        self.bytes.advance(count);
        if self.bytes.is_empty() {
            if sealed {
                self.sealed.extend(self.packets.drain(..).filter_map(|packet| packet.delivery));
            }
            self.packets.clear();
            self.begun = 0;
            self.greeted = true;
            return;
        }
        self.begun += count;
        while let Some(first) = self.packets.front()
            && first.length <= self.begun
        {
            self.begun -= first.length;
            let packet = self.packets.pop_front();
            if sealed {
                self.sealed.extend(packet.and_then(|packet| packet.delivery));
            }
            self.greeted = true;
        }
        // The packet that this record ends in, if it also begins there.
        if sealed
            && (1..=count).contains(&self.begun)
            && let Some(Encoded { delivery: Some(outgoing), .. }) = self.packets.front()
        {
            self.sealed.push(outgoing.clone());
        }
    }

    /// Takes back every message that `keep` does not admit any more, unless its first byte is written. Calls `dropped`
    /// with the packet identifier of each that had one. False: one of them is encrypted and waits for the socket, so that
    /// nothing more may be written at all.
    #[must_use]
    pub(super) fn retain(
        &mut self,
        mut keep: impl FnMut(&Outgoing) -> bool,
        mut dropped: impl FnMut(PacketIdentifier),
    ) -> bool {
        let recallable = self.sealed.iter().all(&mut keep);
        if self.packets.iter().all(|packet| packet.delivery.is_none()) {
            return recallable;
        }
        let begun = self.begun;
        let mut rest = self.bytes.split();
        let mut kept = VecDeque::with_capacity(self.packets.len());
        for (position, packet) in std::mem::take(&mut self.packets).into_iter().enumerate() {
            let started = position == 0 && begun > 0;
            let bytes = rest.split_to(if started { packet.length - begun } else { packet.length });
            if started || packet.delivery.as_ref().is_none_or(&mut keep) {
                self.bytes.extend_from_slice(&bytes);
                kept.push_back(packet);
            } else if let Some(id) = packet.delivery.and_then(|outgoing| outgoing.packet_id) {
                dropped(id);
            }
        }
        self.packets = kept;
        recallable
    }

    /// Forgets everything but the rest of a packet that is partly written, and the CONNACK, without which nothing may be
    /// said, the last DISCONNECT included: the connection ends. [MQTT-3.2.0-1] [MQTT-3.14.0-1]
    pub(super) fn abandon(&mut self) {
        match self.packets.front() {
            Some(first) if self.begun > 0 || !self.greeted => {
                self.bytes.truncate(first.length - self.begun);
                self.packets.truncate(1);
            }
            _ => {
                self.bytes.clear();
                self.packets.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        mqtt::{QoS, TopicName},
        session::{Message, Publisher},
    };

    fn outgoing(topic: &str, payload: Vec<u8>, packet_id: Option<u16>) -> Outgoing {
        Outgoing {
            message: Arc::new(Message {
                topic: TopicName::try_from(topic).unwrap(),
                payload: Bytes::from(payload),
                qos: QoS::AtLeastOnce,
                retain: false,
                publisher: Publisher::SYSTEM,
                expires: None,
                properties: None,
            }),
            qos: if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
            retain: false,
            dup: false,
            packet_id: packet_id.map(|id| PacketIdentifier(id.try_into().unwrap())),
            subscription_identifiers: smallvec::SmallVec::new(),
            message_expiry: None,
            answer: false,
        }
    }

    fn encoded(outgoing: &Outgoing) -> Vec<u8> {
        let mut buffer = OutputBuffer::new(ProtocolVersion::V5);
        buffer.push_delivery(outgoing.clone()).unwrap();
        buffer.bytes.to_vec()
    }

    /// A connection that loses its session between its CONNACK and its first write.
    #[test]
    fn the_connack_is_not_forgotten_before_it_is_written() {
        let connack = || {
            Packet::ConnAck(Box::new(crate::mqtt::ConnAck {
                session_present: false,
                reason_code: crate::mqtt::ReasonCode::Success,
                properties: crate::mqtt::ConnAckProperties::default(),
            }))
        };
        let mut buffer = OutputBuffer::new(ProtocolVersion::V5);
        buffer.push(&connack()).unwrap();
        let length = buffer.len();
        buffer.push_delivery(outgoing("t", vec![7; 20], None)).unwrap();
        buffer.abandon();
        assert_eq!(buffer.len(), length);
        buffer.push_delivery(outgoing("t", vec![7; 20], None)).unwrap();
        buffer.written(length, false);
        buffer.abandon();
        assert_eq!(buffer.len(), 0);
    }

    proptest! {
        /// A record that waits for the socket holds all that was written into it, and nothing of it can be taken back.
        #[test]
        fn what_is_encrypted_and_forbidden_is_told(
            topics in prop::collection::vec(prop::sample::select(vec!["open", "shut"]), 1..8),
            cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let mut buffer = OutputBuffer::new(ProtocolVersion::V5);
            let mut ends = Vec::new();
            for topic in &topics {
                buffer.push_delivery(outgoing(topic, vec![7; 20], None)).unwrap();
                ends.push(buffer.len());
            }
            let (one, two) = (cuts.0.index(buffer.len()), cuts.1.index(buffer.len() + 1));
            let (first, last) = (one.min(two), one.max(two));
            // One record is with the kernel, the next waits.
            buffer.written(first, false);
            buffer.written(last - first, true);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let in_record = starts.zip(&ends).zip(&topics).any(|((start, end), topic)| {
                *topic == "shut" && start < last && *end > first && (start >= first || *end <= last)
            });
            prop_assert_eq!(!buffer.retain(|outgoing| outgoing.message.topic.as_str() == "open", |_| ()), in_record);
        }

        /// Whatever was written when the rules changed: the peer sees whole packets, the forbidden ones are gone unless
        /// they had begun, and nothing else is missing.
        #[test]
        fn what_is_taken_back_leaves_whole_packets(
            packets in prop::collection::vec((prop::sample::select(vec!["open", "shut"]), 0_usize..40, any::<bool>()), 1..12),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut buffer = OutputBuffer::new(ProtocolVersion::V5);
            let mut whole = Vec::new();
            for (number, (topic, length, with_id)) in packets.iter().enumerate() {
                let id = with_id.then(|| u16::try_from(number + 1).unwrap());
                let packet = outgoing(topic, vec![7; *length], id);
                buffer.push_delivery(packet.clone()).unwrap();
                whole.push((packet.clone(), encoded(&packet)));
            }
            let total = buffer.len();
            let cut = cut.index(total);
            let mut seen = buffer.bytes[..cut].to_vec();
            buffer.written(cut, false);

            let mut dropped = Vec::new();
            let keep = |outgoing: &Outgoing| outgoing.message.topic.as_str() == "open";
            prop_assert!(buffer.retain(keep, |id| dropped.push(id)));
            seen.extend_from_slice(&buffer.bytes);

            let mut expected = Vec::new();
            let mut expected_drops = Vec::new();
            let mut start = 0;
            for (packet, bytes) in &whole {
                if packet.message.topic.as_str() == "open" || start < cut {
                    expected.extend_from_slice(bytes);
                } else {
                    expected_drops.extend(packet.packet_id);
                }
                start += bytes.len();
            }
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(dropped, expected_drops);

            // And it stays consistent: writing the rest empties it.
            let rest = buffer.len();
            buffer.written(rest, false);
            prop_assert!(buffer.bytes.is_empty() && buffer.packets.is_empty());
        }

        #[test]
        fn an_abandoned_buffer_keeps_only_the_packet_that_has_begun(
            lengths in prop::collection::vec(0_usize..40, 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut buffer = OutputBuffer { greeted: true, ..OutputBuffer::new(ProtocolVersion::V311) };
            let mut boundaries = vec![0];
            for length in lengths {
                buffer.push_delivery(outgoing("t", vec![1; length], None)).unwrap();
                boundaries.push(buffer.len());
            }
            let cut = cut.index(buffer.len());
            buffer.written(cut, false);
            buffer.abandon();
            let end = boundaries.into_iter().find(|boundary| *boundary >= cut).unwrap();
            prop_assert_eq!(cut + buffer.len(), end);
        }
    }
}

//! One MQTT client of the driver: publisher, subscriber, or merely connected.
//!
//! In: bytes that came, and the order to publish. Out: bytes in its link's buffer, and counts. It checks what the
//! broker does: acknowledgements belong to a message in flight, messages come once and in order.

use std::collections::VecDeque;

use crate::figures::{Histogram, Track};
use crate::link::Link;
use crate::wire::{self, Ack, Incoming};

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Subscribing,
    Ready,
    Closed,
}

/// What is said in CONNECT, and what the client is for.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) client_id: String,
    pub(crate) login: (String, String),
    /// Topic of a publisher and its number, counted over all publishers.
    pub(crate) publish: Option<(String, u32)>,
    /// Filter of a subscriber, and the numbers of the publishers that it hears: the first and how many.
    pub(crate) subscribe: Option<(String, u32, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Puback,
    Pubrec,
    Pubcomp,
}

pub(crate) struct Publisher {
    topic: Vec<u8>,
    number: u32,
    /// Sequence number of the next message, so also how many were sent.
    pub(crate) sent: u64,
    /// The packet identifier is the position + 1.
    slots: Vec<Slot>,
    free: VecDeque<u16>,
    /// Open loop: the due times (ns) of messages that wait for a packet identifier.
    pub(crate) backlog: VecDeque<u64>,
}

pub(crate) struct Subscriber {
    pub(crate) first: u32,
    pub(crate) tracks: Vec<Track>,
}

/// What all clients of a run add to.
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) received: u64,
    /// Deliveries that are accounted for: received, or passed over.
    pub(crate) settled: u64,
    pub(crate) protocol_errors: u64,
    pub(crate) closed: u64,
    pub(crate) refused: u64,
    pub(crate) latency: Option<Histogram>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            acknowledged: 0,
            received: 0,
            settled: 0,
            protocol_errors: 0,
            closed: 0,
            refused: 0,
            latency: None,
        }
    }
}

pub(crate) struct Client {
    pub(crate) link: Link,
    pub(crate) state: State,
    qos: u8,
    partial: Vec<u8>,
    subscribe: Option<String>,
    pub(crate) publisher: Option<Publisher>,
    pub(crate) subscriber: Option<Subscriber>,
}

/// A payload begins with the publisher's number (4 bytes), the sequence number (8) and a time in nanoseconds (8).
pub(crate) const HEADER: usize = 20;
/// A client's buffer is not filled beyond this, so that a full socket holds the publisher back.
const BUFFER: usize = 64 * 1024;

impl Client {
    /// A client whose link has been opened. CONNECT waits in its buffer.
    pub(crate) fn new(mut link: Link, role: Role, qos: u8, window: u16) -> Self {
        let login = (role.login.0.as_str(), role.login.1.as_str());
        // Not 0: rumqttd refuses that. 18 hours are as good, and no client here ever sends a PINGREQ.
        let keep_alive = u16::MAX;
        let connect = wire::Connect { client_id: &role.client_id, login: Some(login), clean_session: true, keep_alive };
        wire::connect(&mut link.out, connect);
        let (subscribe, subscriber) = match role.subscribe {
            None => (None, None),
            Some((filter, first, count)) => {
                let tracks = (0..count).map(|_| Track::default()).collect();
                (Some(filter), Some(Subscriber { first, tracks }))
            }
        };
        let publisher = role.publish.map(|(topic, number)| Publisher {
            topic: topic.into_bytes(),
            number,
            sent: 0,
            slots: vec![Slot::Free; if qos > 0 { usize::from(window) } else { 0 }],
            free: if qos > 0 { (1..=window).collect() } else { VecDeque::new() },
            backlog: VecDeque::new(),
        });
        Self { link, state: State::Connecting, qos, partial: Vec::new(), subscribe, publisher, subscriber }
    }

    /// How many messages this publisher could send now.
    pub(crate) fn room(&self) -> usize {
        let Some(publisher) = &self.publisher else { return 0 };
        if self.state != State::Ready || self.link.pending() >= BUFFER {
            0
        } else if self.qos == 0 {
            usize::MAX
        } else {
            publisher.free.len()
        }
    }

    /// How many of the window's places are taken.
    pub(crate) fn in_flight(&self) -> usize {
        self.publisher.as_ref().map_or(0, |publisher| publisher.slots.len() - publisher.free.len())
    }

    /// Encodes one PUBLISH, if there is room.
    pub(crate) fn publish(&mut self, time: u64, payload: &mut [u8], tally: &mut Tally) -> bool {
        if self.room() == 0 {
            return false;
        }
        let Some(publisher) = &mut self.publisher else { return false };
        let mut packet_identifier = 0;
        if self.qos > 0 {
            let Some(free) = publisher.free.pop_front() else { return false };
            packet_identifier = free;
            publisher.slots[usize::from(free) - 1] = if self.qos == 1 { Slot::Puback } else { Slot::Pubrec };
        }
        payload[..4].copy_from_slice(&publisher.number.to_be_bytes());
        payload[4..12].copy_from_slice(&publisher.sent.to_be_bytes());
        payload[12..HEADER].copy_from_slice(&time.to_be_bytes());
        wire::publish(&mut self.link.out, &publisher.topic, self.qos, 0, packet_identifier, payload.len());
        self.link.out.extend_from_slice(payload);
        publisher.sent += 1;
        tally.sent += 1;
        true
    }

    /// Takes bytes that came at `now` (ns). Answers are put into the link's buffer.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: u64, tally: &mut Tally) -> Result<(), wire::Malformed> {
        let mut partial = std::mem::take(&mut self.partial);
        let mut rest: &[u8] = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            &partial
        };
        while let Some((packet, length)) = wire::decode(rest)? {
            self.packet(&packet, now, tally);
            rest = &rest[length..];
        }
        let left = rest.len();
        if partial.is_empty() {
            partial.extend_from_slice(&bytes[bytes.len() - left..]);
        } else {
            partial.drain(..partial.len() - left);
        }
        self.partial = partial;
        Ok(())
    }

    fn packet(&mut self, packet: &Incoming<'_>, now: u64, tally: &mut Tally) {
        match *packet {
            Incoming::Publish { qos, packet_identifier, payload, .. } => {
                match qos {
                    1 => wire::ack(&mut self.link.out, Ack::Puback, packet_identifier),
                    2 => wire::ack(&mut self.link.out, Ack::Pubrec, packet_identifier),
                    _ => {}
                }
                if self.delivered(payload, now, tally).is_none() {
                    tally.protocol_errors += 1;
                }
            }
            Incoming::Ack(Ack::Pubrel, packet_identifier) => {
                wire::ack(&mut self.link.out, Ack::Pubcomp, packet_identifier);
            }
            Incoming::Ack(ack, packet_identifier) => {
                if self.acknowledged(ack, packet_identifier, tally).is_none() {
                    tally.protocol_errors += 1;
                }
            }
            Incoming::Connack { code: 0 } => match self.subscribe.take() {
                Some(filter) => {
                    wire::subscribe(&mut self.link.out, 1, &filter, self.qos);
                    self.state = State::Subscribing;
                }
                None => self.state = State::Ready,
            },
            Incoming::Connack { .. } => {
                tally.refused += 1;
                self.state = State::Closed;
            }
            Incoming::Suback { codes, .. } => {
                if codes == [self.qos] {
                    self.state = State::Ready;
                } else {
                    tally.refused += 1;
                    self.state = State::Closed;
                }
            }
            Incoming::Unsuback | Incoming::Pingresp => {}
        }
    }

    fn delivered(&mut self, payload: &[u8], now: u64, tally: &mut Tally) -> Option<()> {
        let number = u32::from_be_bytes(*payload.first_chunk::<4>()?);
        let sequence = u64::from_be_bytes(*payload.get(4..)?.first_chunk::<8>()?);
        let time = u64::from_be_bytes(*payload.get(12..)?.first_chunk::<8>()?);
        let subscriber = self.subscriber.as_mut()?;
        let track = subscriber.tracks.get_mut(number.checked_sub(subscriber.first)? as usize)?;
        tally.settled += track.take(sequence);
        tally.received += 1;
        if let Some(latency) = &mut tally.latency {
            latency.record(now.saturating_sub(time));
        }
        Some(())
    }

    /// `None`: nothing in flight waits for this acknowledgement.
    fn acknowledged(&mut self, ack: Ack, packet_identifier: u16, tally: &mut Tally) -> Option<()> {
        let publisher = self.publisher.as_mut()?;
        let slot = publisher.slots.get_mut(usize::from(packet_identifier).checked_sub(1)?)?;
        match (*slot, ack) {
            (Slot::Pubrec, Ack::Pubrec) => {
                *slot = Slot::Pubcomp;
                wire::ack(&mut self.link.out, Ack::Pubrel, packet_identifier);
            }
            (Slot::Puback, Ack::Puback) | (Slot::Pubcomp, Ack::Pubcomp) => {
                *slot = Slot::Free;
                publisher.free.push_back(packet_identifier);
                tally.acknowledged += 1;
            }
            _ => return None,
        }
        Some(())
    }
}

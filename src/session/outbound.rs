//! QoS 1 and 2 to the client: packet identifiers, the window, and what is in flight.
//!
//! Deliveries and acknowledgements enter; what to send leaves. Bounded by the window. It never sends a PUBLISH twice
//! on one connection, and never uses an identifier that is in use.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::Outgoing;
use crate::mqtt::{PacketIdentifier, QoS};

/// Answers of the registry that wait for room in the window.
const ANSWERS: usize = 16;
/// Identifiers of QoS 2 messages that were given up while the client may know them.
const GIVEN_UP: usize = 256;

#[derive(Debug)]
struct InFlight {
    outgoing: Outgoing,
    packet_id: PacketIdentifier,
    /// On the connection of this moment.
    sent: bool,
}

/// What a PUBREC or PUBACK did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// As it should be.
    Expected,
    /// No such exchange.
    Unknown,
    /// The exchange has another QoS.
    WrongQoS,
}

/// All that is in flight to one client.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// How many exchanges may be open on this connection.
    window: usize,
    /// No new exchange is begun while messages of so many bytes are in flight.
    most_bytes: usize,
    /// How many are: PUBLISHes sent on this connection and PUBRELs, each without its last acknowledgement.
    used: usize,
    /// Of all messages in `publishes`.
    bytes: usize,
    /// Wait for PUBACK or PUBREC; in the order in which they were first sent. `[MQTT-4.6.0-6]`
    publishes: VecDeque<InFlight>,
    /// How many of `publishes` were not sent on this connection: the last ones.
    unsent: usize,
    /// Wait for PUBCOMP; in the order of their PUBRECs.
    released: VecDeque<PacketIdentifier>,
    /// Wait for room.
    answers: VecDeque<Outgoing>,
    /// Identifiers that are not given out again: a client that has one of them in its QoS 2 state would take the next
    /// message for a repeat and lose it.
    given_up: VecDeque<PacketIdentifier>,
    last_id: u16,
    /// So many identifiers after `last_id` are known to be free.
    run: u16,
}

impl Outbound {
    pub(super) fn len(&self) -> usize {
        self.publishes.len() + self.released.len()
    }

    /// Is there room for a new QoS 1 or 2 PUBLISH, and nothing older to go first? `[MQTT-3.3.4-9]` `[MQTT-4.9.0-2]`
    ///
    /// What is in flight is held until the client acknowledges it, and is encoded again, all of it, when it comes back: so
    /// there is a bound in bytes too. A message that alone is larger goes out alone.
    pub(super) fn has_room(&self) -> bool {
        self.unsent == 0
            && self.answers.is_empty()
            && self.used < self.window
            && (self.publishes.is_empty() || self.bytes < self.most_bytes)
    }

    /// Takes a new PUBLISH in flight and gives it an identifier; `None`: no room. `[MQTT-4.3.2-1]` `[MQTT-4.3.3-1]`
    pub(super) fn send(&mut self, outgoing: Outgoing) -> Option<Outgoing> {
        if self.has_room() { self.begin(outgoing) } else { None }
    }

    fn begin(&mut self, mut outgoing: Outgoing) -> Option<Outgoing> {
        let packet_id = self.next_id()?;
        outgoing.packet_id = Some(packet_id);
        self.bytes = self.bytes.saturating_add(outgoing.message.size());
        self.publishes.push_back(InFlight { outgoing: outgoing.clone(), packet_id, sent: true });
        self.used += 1;
        Some(outgoing)
    }

    /// Keeps an answer of the registry until there is room; false: too many wait.
    pub(super) fn wait(&mut self, answer: Outgoing) -> bool {
        let room = self.answers.len() < ANSWERS;
        if room {
            self.answers.push_back(answer);
        }
        room
    }

    /// A new connection: what is in flight has to be sent again, in order; the PUBRELs first, which are returned.
    /// `[MQTT-4.4.0-1]`
    pub(super) fn resume(&mut self, window: usize, most_bytes: usize) -> impl Iterator<Item = PacketIdentifier> {
        self.window = window;
        self.most_bytes = most_bytes;
        self.used = self.released.len();
        self.unsent = self.publishes.len();
        self.answers.clear();
        for entry in &mut self.publishes {
            entry.sent = false;
            entry.outgoing.dup = true; // [MQTT-3.3.1-1]
        }
        self.released.iter().copied()
    }

    /// The next PUBLISH that waits for room: first the resends, each of which `fits` may refuse for good.
    pub(super) fn next(&mut self, mut fits: impl FnMut(&Outgoing) -> bool) -> Option<Outgoing> {
        while self.unsent > 0 && self.used < self.window {
            let index = self.publishes.len() - self.unsent;
            let entry = self.publishes.get_mut(index)?;
            self.unsent -= 1;
            if fits(&entry.outgoing) {
                entry.sent = true;
                self.used += 1;
                return Some(entry.outgoing.clone());
            }
            if let Some(entry) = self.remove(index) {
                self.give_up(&entry);
            }
        }
        if self.unsent == 0 && self.used < self.window {
            let answer = self.answers.pop_front()?;
            return self.begin(answer);
        }
        None
    }

    /// PUBACK, whatever its code. `[MQTT-4.4.0-2]`
    pub(super) fn puback(&mut self, packet_id: PacketIdentifier) -> Acknowledged {
        match self.find(packet_id) {
            Some((index, QoS::AtLeastOnce)) => {
                self.take(index);
                Acknowledged::Expected
            }
            Some(_) => Acknowledged::WrongQoS,
            None if self.released.contains(&packet_id) => Acknowledged::WrongQoS,
            None => Acknowledged::Unknown,
        }
    }

    /// PUBREC: `Expected` is to be answered by PUBREL, unless its code is an error. `[MQTT-4.3.3-4]`
    pub(super) fn pubrec(&mut self, packet_id: PacketIdentifier, error: bool) -> Acknowledged {
        match self.find(packet_id) {
            Some((index, QoS::ExactlyOnce)) => {
                self.take(index);
                if !error {
                    self.released.push_back(packet_id);
                    self.used += 1;
                }
                Acknowledged::Expected
            }
            Some(_) => Acknowledged::WrongQoS,
            None if self.released.contains(&packet_id) => Acknowledged::Expected,
            None => Acknowledged::Unknown,
        }
    }

    /// PUBCOMP, whatever its code; one that answers nothing is ignored.
    pub(super) fn pubcomp(&mut self, packet_id: PacketIdentifier) {
        if let Some(index) = self.released.iter().position(|&id| id == packet_id) {
            self.released.remove(index);
            self.used = self.used.saturating_sub(1);
        }
    }

    /// A PUBLISH that was taken in flight but never written.
    pub(super) fn undelivered(&mut self, packet_id: PacketIdentifier) {
        if let Some(entry) = self.find(packet_id).and_then(|(index, _)| self.take(index)) {
            self.give_up(&entry);
        }
    }

    /// The connection is gone: nothing goes out until [`Outbound::resume`].
    pub(super) fn detach(&mut self) {
        self.window = 0;
        self.answers.clear();
    }

    /// The session ends.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn find(&self, packet_id: PacketIdentifier) -> Option<(usize, QoS)> {
        // Acknowledgements come in order, so that the first one is nearly always it.
        let index = self.publishes.iter().position(|entry| entry.packet_id == packet_id)?;
        self.publishes.get(index).map(|entry| (index, entry.outgoing.qos))
    }

    fn take(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.remove(index)?;
        if entry.sent {
            self.used = self.used.saturating_sub(1);
        } else {
            self.unsent = self.unsent.saturating_sub(1);
        }
        Some(entry)
    }

    fn remove(&mut self, index: usize) -> Option<InFlight> {
        let entry = self.publishes.remove(index)?;
        self.bytes = self.bytes.saturating_sub(entry.outgoing.message.size());
        Some(entry)
    }

    fn give_up(&mut self, entry: &InFlight) {
        if entry.outgoing.qos == QoS::ExactlyOnce && entry.outgoing.dup {
            if self.given_up.len() == GIVEN_UP {
                self.given_up.pop_front();
            }
            self.given_up.push_back(entry.packet_id);
        }
    }

    /// The next identifier that is free; they are given out in a circle. `[MQTT-2.2.1-4]` `[MQTT-2.3.1-4]`
    fn next_id(&mut self) -> Option<PacketIdentifier> {
        if self.run == 0 {
            self.look_ahead()?;
        }
        self.run -= 1;
        self.last_id = after(self.last_id);
        NonZeroU16::new(self.last_id).map(PacketIdentifier)
    }

    /// Moves `last_id` to before the next free identifier and counts how many follow it. `None`: all are in use.
    fn look_ahead(&mut self) -> Option<()> {
        let mut used: Vec<u16> = self.publishes.iter().map(|entry| entry.packet_id.0.get()).collect();
        used.extend(self.released.iter().chain(&self.given_up).map(|id| id.0.get()));
        // How many steps each one is ahead, nearest first.
        let last = self.last_id;
        let mut ahead: Vec<u16> = used.into_iter().map(|id| steps(last, id)).collect();
        ahead.sort_unstable();
        ahead.dedup();
        let mut position = 0; // of the last identifier passed
        for step in ahead {
            if step > position + 1 {
                self.run = step - position - 1;
                break;
            }
            position = step;
        }
        if self.run == 0 {
            self.run = u16::MAX - position;
        }
        for _ in 0..position {
            self.last_id = after(self.last_id);
        }
        (self.run > 0).then_some(())
    }
}

/// The identifiers 1 to 65,535 in a circle; 0 stands before the first.
fn after(id: u16) -> u16 {
    if id == u16::MAX { 1 } else { id + 1 }
}

/// How many steps from `from` to `to`: 1 to 65,535.
fn steps(from: u16, to: u16) -> u16 {
    if to > from { to - from } else { u16::MAX - from + to }
}

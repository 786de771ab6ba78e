//! QoS 1 and 2 from the client: which message is new, and which acknowledgement is due.
//!
//! Identifiers and the router's answers enter; acknowledgements leave, in the order of the PUBLISHes. Bounded by the
//! Receive Maximum (version 5) and by the number of identifiers. It never lets one QoS 2 message in twice.

use std::collections::VecDeque;

use super::PublishTicket;
use crate::mqtt::{PacketIdentifier, QoS, ReasonCode};

/// A PUBLISH that is not acknowledged yet.
#[derive(Debug)]
struct Waiting {
    ticket: PublishTicket,
    packet_id: PacketIdentifier,
    exactly_once: bool,
    /// Does the client of this connection wait for it?
    reply: bool,
    outcome: Option<ReasonCode>,
}

/// What a PUBLISH with an identifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A new message.
    New,
    /// A QoS 2 message that was taken before: PUBREC again, and nothing else. `[MQTT-4.3.3-10]`
    RepeatAcknowledge,
    /// A message whose acknowledgement is still to come.
    Repeat,
    /// The identifier belongs to another exchange. `[MQTT-2.2.1-3]`
    InUse,
}

/// An acknowledgement to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) packet_id: PacketIdentifier,
    /// PUBREC rather than PUBACK.
    pub(super) exactly_once: bool,
    pub(super) reason_code: ReasonCode,
}

/// All that one client has begun.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    next_ticket: u64,
    /// In the order of their arrival.
    waiting: VecDeque<Waiting>,
    /// Sorted: QoS 2 messages with a PUBREC, that wait for PUBREL.
    received: Vec<PacketIdentifier>,
    /// PUBLISHes of this connection without their last acknowledgement, as the client counts its quota (4.9).
    used: usize,
}

impl Inbound {
    /// PUBLISHes that wait for the router.
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Unfinished PUBLISHes of this connection.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Is the identifier in use by a PUBLISH?
    pub(super) fn knows(&self, packet_id: PacketIdentifier) -> bool {
        self.received.binary_search(&packet_id).is_ok() || self.waiting.iter().any(|entry| entry.packet_id == packet_id)
    }

    /// What is this PUBLISH?
    pub(super) fn arrive(&mut self, packet_id: PacketIdentifier, qos: QoS) -> Arrival {
        let exactly_once = qos == QoS::ExactlyOnce;
        if self.received.binary_search(&packet_id).is_ok() {
            if !exactly_once {
                return Arrival::InUse;
            }
            self.used += 1;
            return Arrival::RepeatAcknowledge;
        }
        match self.waiting.iter_mut().find(|entry| entry.packet_id == packet_id) {
            None => Arrival::New,
            Some(entry) if entry.exactly_once == exactly_once => {
                if !entry.reply {
                    entry.reply = true;
                    self.used += 1;
                }
                Arrival::Repeat
            }
            Some(_) => Arrival::InUse,
        }
    }

    /// Takes a new PUBLISH; with an outcome where nobody has to be asked.
    pub(super) fn take(&mut self, packet_id: PacketIdentifier, qos: QoS, outcome: Option<ReasonCode>) -> PublishTicket {
        let ticket = PublishTicket(self.next_ticket);
        self.next_ticket += 1;
        self.used += 1;
        let exactly_once = qos == QoS::ExactlyOnce;
        self.waiting.push_back(Waiting { ticket, packet_id, exactly_once, reply: true, outcome });
        ticket
    }

    /// The router's answer: does the client of this connection wait for it? A ticket of an earlier one may find nothing.
    pub(super) fn settle(&mut self, ticket: PublishTicket, outcome: ReasonCode) -> bool {
        let Ok(index) = self.waiting.binary_search_by_key(&ticket.0, |entry| entry.ticket.0) else { return false };
        self.waiting.get_mut(index).is_some_and(|entry| {
            entry.outcome = Some(outcome);
            entry.reply
        })
    }

    /// The next acknowledgement, if its turn has come. `[MQTT-4.6.0-6]` (4.6: in the order of the PUBLISHes)
    pub(super) fn due(&mut self) -> Option<Due> {
        loop {
            let reason_code = self.waiting.front()?.outcome?;
            let entry = self.waiting.pop_front()?;
            if entry.exactly_once && !reason_code.is_error() {
                // From here on a repeat is known as such, until PUBREL. [MQTT-4.3.3-10]
                if let Err(index) = self.received.binary_search(&entry.packet_id) {
                    self.received.insert(index, entry.packet_id);
                }
            } else if entry.reply {
                self.used = self.used.saturating_sub(1);
            }
            if entry.reply {
                return Some(Due { packet_id: entry.packet_id, exactly_once: entry.exactly_once, reason_code });
            }
        }
    }

    /// PUBREL: did the exchange exist? Its identifier is free from now on. `[MQTT-4.3.3-12]`
    pub(super) fn pubrel(&mut self, packet_id: PacketIdentifier) -> bool {
        let Ok(index) = self.received.binary_search(&packet_id) else { return false };
        self.received.remove(index);
        // A PUBREL of an exchange begun on an earlier connection frees nothing, as in the client's own count (4.9).
        self.used = self.used.saturating_sub(1);
        true
    }

    /// The connection is gone. What QoS 1 the client sent, it sends again; QoS 2 stays known. `[MQTT-4.1.0-1]`
    pub(super) fn detach(&mut self) {
        self.used = 0;
        self.waiting.retain_mut(|entry| {
            entry.reply = false;
            entry.exactly_once
        });
    }

    /// The session ends. Tickets that are out find nothing.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.received.clear();
        self.used = 0;
    }
}

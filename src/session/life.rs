//! How a session gets a connection, loses it, and ends; and its Will.
//!
//! A CONNECT, a DISCONNECT, a timeout or an end from outside enters; CONNACK, DISCONNECT, the Will and the order to
//! close leave. Nothing is ever sent to a connection after its DISCONNECT. `[MQTT-3.14.4-1]`

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::cache::TopicCache;
use super::handshake::{connack, granted_expiry, granted_keep_alive};
use super::machine::{Absence, Connection, Invitation, Phase};
use super::message::{detach_properties, detach_topic};
use super::operation::INVITATION;
use super::permit::Permit;
use super::size::packet_fits;
use super::{Action, CloseReason, Context, EndCause, Message, Output, Session, Terms};
use crate::clock::{Duration, Instant};
use crate::mqtt::{Connect, Disconnect, DisconnectProperties, Packet, ProtocolVersion, ReasonCode, TopicName, Will};

/// What a server's DISCONNECT says: code and sentence.
type Farewell = (ReasonCode, &'static str);

impl Session {
    /// A connection with this CONNECT, checked and authenticated, takes the session: CONNACK, then what is in flight.
    /// An older connection is ended first, as by [`EndCause::TakenOver`] (a shell that still has to write to it calls
    /// [`Session::handle_end`] itself and polls, before it gives the new connection).
    pub fn handle_connect(&mut self, connect: &Connect, terms: &Terms, cx: &Context<'_>) {
        if self.is_attached() {
            self.handle_end(EndCause::TakenOver, cx);
        }
        self.adopt(cx);
        let lapsed = self.expires_at().is_some_and(|expires| expires <= cx.now);
        if connect.clean_start || lapsed {
            self.finish(cx); // [MQTT-3.1.2-4] of 5.0, [MQTT-3.1.2-6] of 3.1.1
        }
        let session_present = match std::mem::replace(&mut self.phase, Phase::Over) {
            // The client is back in time: a delayed Will is not published. [MQTT-3.1.3-9]
            Phase::Detached(_) => true, // [MQTT-3.2.2-3] of 5.0, [MQTT-3.2.2-2] of 3.1.1
            _ => false,
        };
        let v5 = connect.version == ProtocolVersion::V5;
        let keep_alive = u64::from(granted_keep_alive(connect, cx.settings));
        let patience = (keep_alive > 0).then(|| Duration::from_millis(keep_alive * 1500));
        self.phase = Phase::Attached(Connection {
            version: connect.version,
            patience,
            silent_until: patience.and_then(|patience| cx.now.checked_add(patience)),
            until: terms.until,
            ask_by: terms.ask_by,
            invitation: terms.invite.map_or(Invitation::Over, Invitation::At),
            will: connect.will.as_ref().map(detach_will), // [MQTT-3.1.2-7]
            expiry: granted_expiry(connect, self.key.owner, cx.settings),
            asked_no_expiry: v5 && connect.properties.session_expiry_interval.unwrap_or(0) == 0,
            largest: connect.properties.maximum_packet_size,
            receive_maximum: usize::from(cx.settings.receive_maximum.get()),
        });
        let connack = connack(connect, &self.key, terms, cx.settings, session_present);
        self.send(Packet::ConnAck(Box::new(connack)), cx);
        if self.is_attached() {
            let theirs = connect.properties.receive_maximum.unwrap_or(std::num::NonZeroU16::MAX);
            let window = theirs.min(cx.settings.outbound_window);
            self.resume(usize::from(window.get()), cx);
        }
    }

    pub(super) fn on_disconnect(&mut self, disconnect: &Disconnect, cx: &Context<'_>) {
        let Phase::Attached(connection) = &mut self.phase else { return };
        if let Some(asked) = disconnect.properties.session_expiry_interval {
            if connection.asked_no_expiry && asked > 0 {
                // 3.14.2.2.2
                return self.fail(ReasonCode::ProtocolError, "a Session Expiry Interval, but CONNECT had none", cx);
            }
            connection.expiry = match self.key.owner {
                super::Owner::User(_) => asked.min(cx.settings.max_session_expiry),
                super::Owner::Registration(_) => 0,
            };
        }
        if disconnect.reason_code == ReasonCode::Success {
            connection.will = None; // [MQTT-3.14.4-3] [MQTT-3.1.2-10]
        }
        self.end(None, CloseReason::Client, cx);
    }

    /// The connection ends; or, of a detached session, [`EndCause::Purged`] drops the state. The Will is published
    /// as after any end that is not the client's own DISCONNECT, if the rules still permit it.
    pub fn handle_end(&mut self, cause: EndCause, cx: &Context<'_>) {
        self.adopt(cx);
        if let (Phase::Attached(connection), EndCause::Purged(_)) = (&mut self.phase, cause) {
            connection.expiry = 0;
        }
        if self.is_attached() {
            let farewell = match cause {
                EndCause::ConnectionLost => None,
                // [MQTT-3.1.4-3]
                EndCause::TakenOver => Some((ReasonCode::SessionTakenOver, "connected elsewhere")),
                EndCause::Kicked(reason_code) | EndCause::Purged(reason_code) => {
                    Some((reason_code, "ended by the broker"))
                }
                EndCause::Shutdown => Some((ReasonCode::ServerShuttingDown, "the broker is shutting down")),
                EndCause::Malformed(reason_code) => Some((reason_code, "a packet that cannot be read")),
            };
            self.end(farewell, CloseReason::Ended(cause), cx);
        } else if let EndCause::Purged(_) = cause {
            self.finish(cx);
        }
    }

    /// The time that [`Session::poll_timeout`] named has come. Called too early, it does nothing.
    pub fn handle_timeout(&mut self, cx: &Context<'_>) {
        let due = |instant: Option<Instant>| instant.is_some_and(|instant| instant <= cx.now);
        self.adopt(cx);
        match &mut self.phase {
            Phase::Attached(connection) => {
                if let Some((_, reason_code)) = connection.until.filter(|(until, _)| due(Some(*until))) {
                    let farewell = (reason_code, "the time of this connection is over");
                    self.end(Some(farewell), CloseReason::TimeIsUp(reason_code), cx);
                } else if due(connection.ask_by) {
                    let (reason_code, sentence) = (ReasonCode::MaximumConnectTime, "nothing was asked of the registry");
                    self.end(Some((reason_code, sentence)), CloseReason::TimeIsUp(reason_code), cx);
                } else if due(connection.silent_until) {
                    // [MQTT-3.1.2-22] of 5.0, [MQTT-3.1.2-24] of 3.1.1
                    let farewell = (ReasonCode::KeepAliveTimeout, "nothing came for 1.5 times the Keep Alive");
                    self.end(Some(farewell), CloseReason::KeepAliveTimeout, cx);
                } else if let Invitation::At(instant) = connection.invitation
                    && instant <= cx.now
                {
                    connection.invitation = Invitation::Due;
                    self.invite();
                }
            }
            Phase::Detached(absence) => {
                if due(absence.expires) {
                    self.finish(cx); // [MQTT-4.1.0-2]
                } else if let Some((_, will)) = absence.will.take_if(|(instant, _)| due(Some(*instant))) {
                    self.publish_will(*will, cx);
                }
            }
            Phase::New | Phase::Over => {}
        }
    }

    /// The client is to be invited at this time, if no earlier one is set: its certificate should be another one before it is due.
    pub fn invite_by(&mut self, at: Instant) {
        let Phase::Attached(connection) = &mut self.phase else { return };
        connection.invitation = match connection.invitation {
            Invitation::At(earlier) if earlier <= at => return,
            Invitation::Due => return,
            Invitation::At(_) | Invitation::Over => Invitation::At(at),
        };
    }

    /// Does the client listen to what the registry says on this topic?
    pub fn hears(&self, topic: &TopicName) -> bool {
        self.is_attached() && self.subscriptions.answer(topic).is_some()
    }

    /// Asks for the invitation, if it is due and the client would get it.
    pub(super) fn invite(&mut self) {
        let Ok(topic) = TopicName::try_from(ByteString::from_static(INVITATION)) else { return };
        let Phase::Attached(connection) = &mut self.phase else { return };
        if connection.invitation == Invitation::Due && self.subscriptions.answer(&topic).is_some() {
            connection.invitation = Invitation::Over;
            self.outputs.push_back(Output::Invite(topic));
        }
    }

    /// Ends the connection: DISCONNECT (version 5), Will, and close; the session waits for its client or is over.
    pub(super) fn end(&mut self, farewell: Option<Farewell>, reason: CloseReason, cx: &Context<'_>) {
        let connection = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Attached(connection) => connection,
            other => {
                self.phase = other;
                return;
            }
        };
        if let (Some(farewell), ProtocolVersion::V5) = (farewell, connection.version) {
            self.outputs.extend(disconnect(farewell, &connection).map(Output::Send));
        }
        self.inbound.detach();
        self.outbound.detach();
        self.ahead.give_back(&self.usage);
        // An absent session costs no more than what it must keep.
        self.publish_cache = TopicCache::new();
        self.receive_cache = TopicCache::new();
        self.grants.forget_lapsed(cx.now);
        let expires = match connection.expiry {
            u32::MAX => None, // never; so is what the clock cannot tell
            seconds => cx.now.checked_add(Duration::from_secs(u64::from(seconds))),
        };
        // The session's end comes before the Will's delay is over: so the Will is then due. [MQTT-3.1.2-8]
        let delay = connection.will.as_ref().and_then(|will| will.delay_interval).unwrap_or(0).min(connection.expiry);
        let due = cx.now.checked_add(Duration::from_secs(u64::from(delay))).unwrap_or(cx.now);
        let mut will = connection.will.map(|will| (due, will));
        // Whose identity has ended is not waited for: its Will is refused now, and not put off to a time at which its user
        // may have rights by another proof.
        if let Some((_, will)) = will.take_if(|_| delay == 0 || cx.authority.user().is_none()) {
            self.publish_will(*will, cx);
        }
        self.phase = Phase::Detached(Absence { expires, will });
        if connection.expiry == 0 {
            self.finish(cx);
        }
        self.outputs.push_back(Output::Close(reason));
    }

    /// Ends the session: nothing of it stays, neither here nor in the router's index. Retained messages live
    /// elsewhere. `[MQTT-3.1.2-7]`
    fn finish(&mut self, cx: &Context<'_>) {
        if let Phase::Detached(Absence { will: Some((_, will)), .. }) = std::mem::replace(&mut self.phase, Phase::Over)
        {
            self.publish_will(*will, cx);
        }
        let subscriptions = self.subscriptions.clear();
        self.usage.unsubscribe(u32::try_from(subscriptions.len()).unwrap_or(u32::MAX));
        for (held, number) in subscriptions {
            if !held.local {
                self.outputs.push_back(Output::Unsubscribed { filter: held.filter, number });
            }
        }
        self.inbound.clear();
        self.outbound.clear();
        self.grants.clear();
    }

    /// If the rules of this moment permit it. `[MQTT-3.1.2-8]`
    fn publish_will(&mut self, will: Will, cx: &Context<'_>) {
        if self.is_registration() {
            return; // has none: see `check_will`
        }
        match Permit::of(&will.topic, cx.authority, cx.settings).admit(will.qos, will.retain) {
            Err((topic, cause, reason_code)) => self.refuse(Action::Will, topic, cause, reason_code),
            Ok(topic) => {
                if let Some(quota) = cx.authority.quota() {
                    // It cannot be sent again, and is too rare to flood anybody with: published, and counted.
                    let weight = Message::weight(&topic, &will.payload, Some(&will.properties));
                    self.usage.publish_anyway(quota, weight, cx.now);
                }
                let properties =
                    (will.properties != crate::mqtt::PublishProperties::default()).then(|| Box::new(will.properties)); // [MQTT-3.1.3-10]
                let message = Message {
                    topic,
                    payload: will.payload,
                    qos: will.qos,
                    retain: will.retain, // [MQTT-3.1.2-14] [MQTT-3.1.2-15]
                    publisher: self.publisher(),
                    expires: Message::expiry(cx.now, properties.as_deref()),
                    properties,
                };
                self.outputs.push_back(Output::Route { message: Arc::new(message), ticket: None });
            }
        }
    }

    /// A packet whose size the client decides about. One that it does not take cannot be left out either: the
    /// connection ends. `[MQTT-3.1.2-24]`
    pub(super) fn send(&mut self, packet: Packet, cx: &Context<'_>) {
        let Some(connection) = self.connection() else { return };
        if packet_fits(&packet, connection.version, connection.largest) {
            self.outputs.push_back(Output::Send(packet));
        } else {
            self.end(None, CloseReason::PacketTooLargeForClient, cx);
        }
    }
}

/// Without its sentence where the client does not take that much; `None`: not at all. `[MQTT-3.14.2-3]`
fn disconnect((reason_code, sentence): Farewell, connection: &Connection) -> Option<Packet> {
    let make = |reason_string| {
        let properties = DisconnectProperties { reason_string, ..DisconnectProperties::default() };
        Packet::Disconnect(Disconnect { reason_code, properties })
    };
    [Some(ByteString::from_static(sentence)), None]
        .into_iter()
        .map(make)
        .find(|packet| packet_fits(packet, connection.version, connection.largest))
}

/// In memory of its own: it may wait for long.
fn detach_will(will: &Will) -> Box<Will> {
    Box::new(Will {
        topic: detach_topic(&will.topic),
        payload: Bytes::copy_from_slice(&will.payload),
        properties: detach_properties(&will.properties),
        ..*will
    })
}

//! [`Session`]: getters, the dispatch of inputs, and the outputs. The flows have files of their own.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::cache::TopicCache;
use super::deliver::may_go_out;
use super::grants::ResponseGrants;
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::permit::Permit;
use super::subscriptions::Subscriptions;
use super::usage::Ahead;
use super::{
    Action, CloseReason, Context, Outgoing, Output, Refusal, RefusalCause, SessionNumber, SubscriptionNumber, Usage,
};
use crate::access::{PolicyVersion, UserId};
use crate::clock::{Duration, Instant};
use crate::mqtt::{ClientId, Packet, PacketIdentifier, ProtocolVersion, QoS, ReasonCode, SubscriptionOptions};
use crate::mqtt::{TopicFilter, Will};

/// Whose a session is. Different users never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user.
    User(UserId),
    /// A client without credentials that may do nothing but register: the number of its connection.
    Registration(u64),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Registration(connection) => write!(f, "registration:{connection}"),
        }
    }
}

/// What a session is found by. `[MQTT-3.1.3-2]`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose it is.
    pub owner: Owner,
    /// Never empty: drawn by the shell where the client sent none. `[MQTT-3.1.3-6]`
    pub client_id: ClientId,
}

/// One subscription, as seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct Subscription<'a> {
    /// The filter.
    pub filter: &'a TopicFilter,
    /// Its number.
    pub number: SubscriptionNumber,
    /// As granted.
    pub options: SubscriptionOptions,
    /// The rules forbid it now: it delivers nothing until they change.
    pub withheld: bool,
    /// For answers of the registry to this session only: not in the router's index.
    pub local: bool,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is in the outputs.
    Sent,
    /// An answer of the registry that goes out as soon as there is room.
    Waiting,
    /// The rules forbid it.
    Withheld,
    /// The subscription is gone, or the client does not want its own messages.
    NotWanted,
    /// Its Message Expiry Interval ran out.
    Expired,
    /// Larger than the client's Maximum Packet Size: dropped as if it had been delivered. `[MQTT-3.1.2-25]`
    TooLarge,
    /// No connection, or (QoS 1 and 2) no room: [`Session::can_deliver`] said so.
    NotNow,
}

/// The state of one owner's client identifier.
#[derive(Debug)]
pub struct Session {
    pub(super) key: SessionKey,
    pub(super) number: SessionNumber,
    pub(super) phase: Phase,
    pub(super) policy: PolicyVersion,
    pub(super) outputs: VecDeque<Output>,
    pub(super) subscriptions: Subscriptions,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) publish_cache: TopicCache<Permit>,
    pub(super) receive_cache: TopicCache<Option<QoS>>,
    /// Of the owner, shared with its other sessions.
    pub(super) usage: Arc<Usage>,
    pub(super) ahead: Ahead,
    pub(super) grants: ResponseGrants,
}

/// Where a session stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nobody has connected yet.
    New,
    /// A connection has it.
    Attached(Connection),
    /// It waits for its client.
    Detached(Absence),
    /// Nothing is left of it.
    Over,
}

/// The connection of an attached session.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) version: ProtocolVersion,
    /// One and a half times the Keep Alive. `[MQTT-3.1.2-22]`
    pub(super) patience: Option<Duration>,
    /// When the patience is over.
    pub(super) silent_until: Option<Instant>,
    pub(super) until: Option<(Instant, ReasonCode)>,
    /// Until it has asked the registry for something.
    pub(super) ask_by: Option<Instant>,
    pub(super) invitation: Invitation,
    pub(super) will: Option<Box<Will>>,
    /// Seconds that the session lives on without it; `u32::MAX`: for ever.
    pub(super) expiry: u32,
    /// Did CONNECT ask for none? DISCONNECT may not ask for any then.
    pub(super) asked_no_expiry: bool,
    /// Largest packet that the client takes, in bytes. `[MQTT-3.1.2-24]`
    pub(super) largest: Option<NonZeroU32>,
    /// Ours, as announced. `[MQTT-3.3.4-7]`
    pub(super) receive_maximum: usize,
}

/// To renew the certificate of the connection: once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invitation {
    /// Not before this.
    At(Instant),
    /// As soon as the client subscribes to it.
    Due,
    /// It has been made, or there is nothing to renew.
    Over,
}

/// A session without a connection.
#[derive(Debug)]
pub(super) struct Absence {
    /// `None`: never.
    pub(super) expires: Option<Instant>,
    pub(super) will: Option<(Instant, Box<Will>)>,
}

impl Session {
    /// A session that nobody has connected to yet. `number` is not 0, and no other session's.
    pub fn new(key: SessionKey, number: SessionNumber) -> Self {
        Self::with_usage(key, number, Arc::default())
    }

    /// As [`Session::new`], for an owner with other sessions: all of them share its account.
    pub fn with_usage(key: SessionKey, number: SessionNumber, usage: Arc<Usage>) -> Self {
        Self {
            key,
            number,
            phase: Phase::New,
            policy: PolicyVersion::default(),
            outputs: VecDeque::new(),
            subscriptions: Subscriptions::default(),
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            publish_cache: TopicCache::new(),
            receive_cache: TopicCache::new(),
            usage,
            ahead: Ahead::default(),
            grants: ResponseGrants::default(),
        }
    }

    /// What it is found by.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Its number.
    pub fn number(&self) -> SessionNumber {
        self.number
    }

    /// The policy version that it was last judged by.
    pub fn policy_version(&self) -> PolicyVersion {
        self.policy
    }

    /// Is a connection attached?
    pub fn is_attached(&self) -> bool {
        matches!(self.phase, Phase::Attached(_))
    }

    /// The version that the attached connection speaks.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.connection().map(|connection| connection.version)
    }

    /// Nothing of it is to be kept, be it that nobody has connected yet: its owner may forget it.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Over)
    }

    /// When the state of a detached session ends; `None`: attached, or never.
    pub fn expires_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Detached(absence) => absence.expires,
            _ => None,
        }
    }

    /// Does it live on without a connection? (QoS 1 and 2 messages are queued for it then. `[MQTT-3.1.2-5]`)
    pub fn is_persistent(&self) -> bool {
        match &self.phase {
            Phase::Attached(connection) => connection.expiry > 0,
            Phase::Detached(_) => true,
            Phase::New | Phase::Over => false,
        }
    }

    /// Its subscriptions, in no order.
    pub fn subscriptions(&self) -> impl Iterator<Item = Subscription<'_>> {
        self.subscriptions.iter()
    }

    /// How many QoS 1 and 2 messages to the client are not finished.
    pub fn inflight_len(&self) -> usize {
        self.outbound.len()
    }

    /// May the next delivery be handed over now?
    pub fn can_deliver(&self) -> bool {
        self.is_attached() && self.outbound.has_room()
    }

    /// Should the shell go on reading? No while as many PUBLISHes as the Receive Maximum wait for
    /// [`Session::handle_accepted`].
    pub fn can_receive(&self) -> bool {
        self.connection().is_none_or(|connection| self.inbound.waiting_len() < connection.receive_maximum)
    }

    /// May a delivery that is not yet written still be written?
    pub fn may_still_send(&self, outgoing: &Outgoing, cx: &Context<'_>) -> bool {
        may_go_out(outgoing, cx)
    }

    /// A packet of the attached connection, in order.
    pub fn handle_packet(&mut self, packet: Packet, cx: &Context<'_>) {
        let Phase::Attached(connection) = &mut self.phase else { return };
        if let Some(patience) = connection.patience {
            connection.silent_until = cx.now.checked_add(patience);
        }
        self.adopt(cx);
        match packet {
            Packet::Publish(publish) => self.on_publish(publish, cx),
            Packet::PubRel(ack) => self.on_pubrel(&ack),
            Packet::PubAck(ack) => self.on_puback(&ack, cx),
            Packet::PubRec(ack) => self.on_pubrec(&ack, cx),
            Packet::PubComp(ack) => self.on_pubcomp(&ack, cx),
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, cx),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(&unsubscribe, cx),
            Packet::PingReq => self.outputs.push_back(Output::Send(Packet::PingResp)), // [MQTT-3.12.4-1]
            Packet::Disconnect(disconnect) => self.on_disconnect(&disconnect, cx),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => self.fail(ReasonCode::ProtocolError, "a second CONNECT on one connection", cx),
            // [MQTT-4.12.0-7]
            Packet::Auth(_) => self.fail(ReasonCode::ProtocolError, "AUTH without an authentication method", cx),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.fail(ReasonCode::ProtocolError, "a packet that only a server sends", cx);
            }
        }
    }

    /// There is no further packet at this moment: what was taken ahead of the user's rates goes back, for its other sessions.
    pub fn handle_pause(&mut self) {
        self.ahead.give_back(&self.usage);
    }

    /// The rules have changed: every subscription is judged anew. What the rules forbid is withheld, not removed;
    /// it lives again when they admit it. Messages in flight are judged when they would be sent again.
    pub fn handle_policy(&mut self, cx: &Context<'_>) {
        self.policy = cx.authority.version();
        self.ahead.give_back(&self.usage);
        self.grants.retain(|asked_on| cx.authority.may_receive(asked_on).is_some());
        for filter in self.subscriptions.judge(cx.authority) {
            self.outputs.push_back(Output::Refused(Refusal {
                action: Action::Receive,
                topic: filter.into(),
                cause: RefusalCause::Rules,
                reason_code: ReasonCode::NotAuthorized,
            }));
        }
    }

    /// The time that the connection was given has changed: when it now ends whatever happens, and the code of the
    /// DISCONNECT.
    pub fn handle_terms(&mut self, until: Option<(Instant, ReasonCode)>) {
        if let Phase::Attached(connection) = &mut self.phase {
            connection.until = until;
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Session::handle_timeout`] wants to be called: keep alive, end of the connection's time or patience, invitation, delayed Will,
    /// end of a detached session.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Attached(connection) => {
                let invitation = match connection.invitation {
                    Invitation::At(instant) => Some(instant),
                    Invitation::Due | Invitation::Over => None,
                };
                let until = connection.until.map(|(instant, _)| instant);
                earlier(earlier(connection.silent_until, until), earlier(connection.ask_by, invitation))
            }
            Phase::Detached(absence) => earlier(absence.expires, absence.will.as_ref().map(|(due, _)| *due)),
            Phase::New | Phase::Over => None,
        }
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.phase {
            Phase::Attached(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn speaks_v5(&self) -> bool {
        self.protocol_version() == Some(ProtocolVersion::V5)
    }

    pub(super) fn is_registration(&self) -> bool {
        matches!(self.key.owner, Owner::Registration(_))
    }

    /// No decision is made under an old version.
    pub(super) fn adopt(&mut self, cx: &Context<'_>) {
        if self.policy != cx.authority.version() {
            self.handle_policy(cx);
        }
    }

    pub(super) fn refuse(
        &mut self,
        action: Action,
        topic: impl Into<bytestring::ByteString>,
        cause: RefusalCause,
        reason_code: ReasonCode,
    ) {
        self.outputs.push_back(Output::Refused(Refusal { action, topic: topic.into(), cause, reason_code }));
    }

    /// An acknowledgement without properties.
    pub(super) fn acknowledge(
        &mut self,
        make: fn(crate::mqtt::Acknowledgement) -> Packet,
        packet_id: PacketIdentifier,
        reason_code: ReasonCode,
    ) {
        let ack = crate::mqtt::Acknowledgement { packet_id, reason_code, properties: None };
        self.outputs.push_back(Output::Send(make(ack)));
    }

    /// The client broke the protocol. `[MQTT-4.13.1-1]` `[MQTT-4.8.0-1]`
    pub(super) fn fail(&mut self, reason_code: ReasonCode, explanation: &'static str, cx: &Context<'_>) {
        self.end(Some((reason_code, explanation)), CloseReason::Protocol(reason_code, explanation), cx);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

//! [`Session`]: what enters and what leaves.

use std::collections::VecDeque;

use super::{
    Context, Delivery, EndCause, Outgoing, Output, PublishTicket, RegistryAnswer, RouteOutcome, SessionNumber,
    SubscriptionNumber, Terms,
};
use crate::access::{PolicyVersion, UserId};
use crate::clock::Instant;
use crate::mqtt::{ClientId, Connect, Packet, PacketIdentifier, ProtocolVersion, SubscriptionOptions, TopicFilter};

/// Whose a session is. Different users never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A user.
    User(UserId),
    /// A client without credentials that may do nothing but register: the number of its connection.
    Registration(u64),
}

/// What a session is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Whose it is.
    pub owner: Owner,
    /// Never empty: drawn by the shell where the client sent none.
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
    key: SessionKey,
    number: SessionNumber,
    outputs: VecDeque<Output>,
    policy: PolicyVersion,
}

impl Session {
    /// A session that nobody has connected to yet.
    pub fn new(key: SessionKey, number: SessionNumber) -> Self {
        Self { key, number, outputs: VecDeque::new(), policy: PolicyVersion::default() }
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
        false
    }

    /// The version that the attached connection speaks.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        None
    }

    /// Nothing of it is to be kept: its owner may forget it.
    pub fn is_over(&self) -> bool {
        false
    }

    /// When the state of a detached session ends; `None`: attached, or never.
    pub fn expires_at(&self) -> Option<Instant> {
        None
    }

    /// Does it live on without a connection? (QoS 1 and 2 messages are queued for it then.)
    pub fn is_persistent(&self) -> bool {
        false
    }

    /// Its subscriptions, in no order.
    pub fn subscriptions(&self) -> impl Iterator<Item = Subscription<'_>> {
        std::iter::empty()
    }

    /// How many QoS 1 and 2 messages to the client are not finished.
    pub fn inflight_len(&self) -> usize {
        0
    }

    /// May the next delivery be handed over now?
    pub fn can_deliver(&self) -> bool {
        false
    }

    /// Should the shell go on reading? No while too many PUBLISHes wait for [`Session::handle_accepted`].
    pub fn can_receive(&self) -> bool {
        true
    }

    /// May a delivery that is not yet written still be written?
    pub fn may_still_send(&self, _outgoing: &Outgoing, _cx: &Context<'_>) -> bool {
        false
    }

    /// A connection with this CONNECT, checked and authenticated, takes the session: CONNACK, then what is in flight.
    /// An older connection is ended first, as by [`EndCause::TakenOver`] (a shell that still has to write to it calls
    /// [`Session::handle_end`] itself and polls, before it gives the new connection).
    pub fn handle_connect(&mut self, _connect: &Connect, _terms: &Terms, _cx: &Context<'_>) {}

    /// A packet of the attached connection, in order.
    pub fn handle_packet(&mut self, _packet: Packet, _cx: &Context<'_>) {}

    /// The router has taken a message of [`Output::Route`] (or cannot): the acknowledgement is due.
    pub fn handle_accepted(&mut self, _ticket: PublishTicket, _outcome: RouteOutcome, _cx: &Context<'_>) {}

    /// The next delivery of the mailbox.
    pub fn handle_delivery(&mut self, _delivery: Delivery, _cx: &Context<'_>) -> Disposition {
        Disposition::NotNow
    }

    /// A QoS 1 or 2 delivery that was never written because [`Session::may_still_send`] said no.
    pub fn handle_undelivered(&mut self, _packet_id: PacketIdentifier) {}

    /// The registry's answer to this connection: delivered if it holds a matching subscription.
    pub fn handle_registry_answer(&mut self, _answer: RegistryAnswer, _cx: &Context<'_>) -> Disposition {
        Disposition::NotNow
    }

    /// The time that [`Session::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, _cx: &Context<'_>) {}

    /// The rules have changed.
    pub fn handle_policy(&mut self, cx: &Context<'_>) {
        self.policy = cx.authority.version();
    }

    /// The connection ends; or, of a detached session, [`EndCause::Purged`] drops the state.
    pub fn handle_end(&mut self, _cause: EndCause, _cx: &Context<'_>) {}

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Session::handle_timeout`] wants to be called: keep alive, end of the connection's time, delayed Will,
    /// end of a detached session.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

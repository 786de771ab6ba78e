//! What a session asks of its shell.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::{Message, Outgoing, RegistryOperation, SessionNumber, SubscriptionNumber};
use crate::access::QuotaKind;
use crate::mqtt::{Packet, ReasonCode, SubscriptionOptions, TopicFilter, TopicName};

/// One thing to do, in the order in which they are polled.
#[derive(Clone, Debug)]
pub enum Output {
    /// Encode and write this control packet (never a PUBLISH).
    Send(Packet),
    /// Encode and write this PUBLISH. Until it is written, the shell may drop it when
    /// [`Session::may_still_send`](super::Session::may_still_send) says no, and then calls
    /// [`Session::handle_undelivered`](super::Session::handle_undelivered).
    Deliver(Outgoing),
    /// Hand the message to the router; with a ticket, answer by
    /// [`Session::handle_accepted`](super::Session::handle_accepted).
    Route {
        /// The message, prefix applied and permitted.
        message: Arc<Message>,
        /// Present when the client waits for an acknowledgement.
        ticket: Option<PublishTicket>,
    },
    /// Deliver the message to this session alone, if it holds a matching subscription: the answer to a request. Retained
    /// it is not. With a ticket, answer as to [`Output::Route`].
    Answer {
        /// The message, topic as the client wrote it; RETAIN is not set.
        message: Arc<Message>,
        /// The session that asked.
        requester: SessionNumber,
        /// Present when the client waits for an acknowledgement.
        ticket: Option<PublishTicket>,
    },
    /// Put the subscription into the router's index, or replace the one with the same number without a gap in
    /// deliveries. `[MQTT-3.8.4-3]`
    Subscribed {
        /// In memory of its own.
        filter: TopicFilter,
        /// Comes back in [`Matched`](super::Matched).
        number: SubscriptionNumber,
        /// As granted: the QoS is the one in SUBACK.
        options: SubscriptionOptions,
        /// Feed the matching retained messages as deliveries.
        send_retained: bool,
    },
    /// Take the subscription out of the router's index.
    Unsubscribed {
        /// The filter.
        filter: TopicFilter,
        /// Its number.
        number: SubscriptionNumber,
    },
    /// Ask the registry, then call [`Session::handle_registry_answer`](super::Session::handle_registry_answer).
    Registry(RegistryRequest),
    /// The client's certificate is to be renewed: say so by [`Session::handle_registry_answer`](super::Session::handle_registry_answer)
    /// on this topic.
    Invite(TopicName),
    /// Something was refused: count it and write it to the audit log.
    Refused(Refusal),
    /// Flush what came before, then close the connection. The session is detached from it: nothing that this
    /// connection still brings may be given to the session.
    Close(CloseReason),
}

/// Ties the router's answer to a PUBLISH; good for one session only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishTicket(pub(super) u64);

/// What became of a routed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOutcome {
    /// Some session's subscription matched, and the message is as safe as its QoS demands.
    Delivered,
    /// No subscription matched (0x10).
    NoSubscribers,
    /// The broker cannot take it (a quota, a full disk): the code for version 5; a 3.1.1 connection is closed. `[MQTT-4.8.0-2]`
    Failed(ReasonCode),
}

/// A message to one of the registry's operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRequest {
    /// Which one.
    pub operation: RegistryOperation,
    /// JSON, or what the content type says.
    pub payload: Bytes,
    /// Where the answer goes.
    pub response_topic: TopicName,
    /// To echo in the answer.
    pub correlation_data: Option<Bytes>,
    /// Content Type.
    pub content_type: Option<ByteString>,
    /// Would an answer of ordinary length reach the client now? It holds a subscription for it, and takes packets of that size.
    pub heard: bool,
}

/// What the registry says to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAnswer {
    /// Of the request.
    pub response_topic: TopicName,
    /// Of the request.
    pub correlation_data: Option<Bytes>,
    /// In the form of the content type.
    pub payload: Bytes,
    /// Content Type.
    pub content_type: &'static str,
}

/// Something that a client may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it wanted.
    pub action: Action,
    /// The topic (prefix applied where that was possible) or the filter.
    pub topic: ByteString,
    /// Why not.
    pub cause: RefusalCause,
    /// What a version 5 client is told.
    pub reason_code: ReasonCode,
}

/// What a client wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// PUBLISH.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// Have a message delivered, or keep a subscription alive, that a change of the rules now forbids.
    Receive,
    /// Set a Will, or have it published.
    Will,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCause {
    /// A deny, or no allow: ask the authority to explain.
    Rules,
    /// The rules admit a lower QoS only.
    QoS,
    /// The rules do not admit RETAIN.
    Retain,
    /// A `$` topic that is not a registry operation.
    Reserved,
    /// More levels than the settings admit, or longer than 65,535 bytes with the publish prefix.
    TopicTooLong,
    /// A registration session may do nothing but register.
    RegistrationSession,
    /// The filter is covered in part only, and the settings refuse that.
    Partial,
    /// A shared subscription: not available.
    Shared,
    /// As many subscriptions as the settings admit.
    TooManySubscriptions,
    /// The user's quota.
    Quota(QuotaKind),
}

/// Why a connection ends, from the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The socket failed or was closed by the client without DISCONNECT: nothing can be sent any more.
    ConnectionLost,
    /// The same user connected with the same client identifier (0x8E).
    TakenOver,
    /// By revocation (0x87), by an operator (0x98), or for another reason of the shell's (0x96, 0x97, 0xA0, ...).
    Kicked(ReasonCode),
    /// As [`EndCause::Kicked`], and the session's state goes too: its user was deleted, or an operator said so.
    Purged(ReasonCode),
    /// The broker stops (0x8B).
    Shutdown,
    /// The decoder could not make sense of what came: malformed, too large, ...
    Malformed(ReasonCode),
}

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client said DISCONNECT.
    Client,
    /// The shell said so.
    Ended(EndCause),
    /// Nothing came for one and a half times the Keep Alive.
    KeepAliveTimeout,
    /// The time that the connection was given is over.
    TimeIsUp(ReasonCode),
    /// The client broke the protocol: the code, and what it did.
    Protocol(ReasonCode, &'static str),
    /// A refused PUBLISH on a 3.1.1 connection.
    PublishDenied,
    /// The broker could not take a message of a 3.1.1 connection.
    PublishFailed(ReasonCode),
    /// A packet that must be sent is larger than the client admits.
    PacketTooLargeForClient,
}

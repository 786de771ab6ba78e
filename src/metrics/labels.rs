//! The labels of the series: closed sets, so that nobody who connects can make a new series.
//!
//! Enters: nothing. Leaves: enums with the texts that a scrape shows; both are an interface that dashboards stand on.

use crate::access::QuotaKind;
use crate::mqtt::{PacketType, QoS};

/// A closed set of label values.
pub trait Label: Copy + 'static {
    /// The name of the label.
    const NAME: &'static str;
    /// Every value.
    const ALL: &'static [(Self, &'static str)];
    /// The place of this value in `ALL`.
    fn index(self) -> usize;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident $label:literal { $($(#[$value_doc:meta])* $value:ident = $text:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the values say it")]
        pub enum $name { $($(#[$value_doc])* $value),* }

        impl Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$value, $text)),*];

            fn index(self) -> usize {
                self as usize
            }
        }
    )*};
}

labels! {
    /// Why a connection ended before a successful CONNACK.
    ConnectionRefusal "reason" {
        Connections = "connections", ConnectionsPerAddress = "connections_per_address", AcceptFailed = "accept_failed",
        TlsHandshake = "handshake", ConnectMissing = "connect_missing", Protocol = "protocol",
        ClientIdentifier = "client_identifier", BadCredentials = "bad_credentials", NotAuthorized = "not_authorized",
        Busy = "busy", Abandoned = "abandoned", ShuttingDown = "shutting_down", Other = "other",
    }
    /// Why a connection ended after its CONNACK.
    ConnectionEnd "reason" {
        Client = "client", Lost = "lost", KeepAlive = "keep_alive", TakenOver = "taken_over", Expired = "expired",
        Protocol = "protocol", PublishRefused = "publish_refused", PacketTooLarge = "packet_too_large",
        Access = "access", Operator = "operator", ShuttingDown = "shutting_down", Other = "other",
    }
    /// How a login ended.
    AuthenticationOutcome "outcome" {
        Password = "password", RememberedPassword = "remembered_password", Certificate = "certificate", Both = "both",
        Anonymous = "anonymous", Registration = "registration", BadCredentials = "bad_credentials",
        NotAuthorized = "not_authorized", Busy = "busy", Throttled = "throttled", Abandoned = "abandoned",
    }
    /// Why a message did not reach a subscriber that was entitled to it.
    DropCause "cause" {
        TooLarge = "too_large", Expired = "expired", QueueFull = "queue_full",
    }
    /// What was refused for want of a right.
    RefusedAction "action" {
        Publish = "publish", Subscribe = "subscribe", Receive = "receive", Will = "will", Http = "http",
    }
    /// What became of an answer that only a request permitted.
    Answer "outcome" {
        Delivered = "delivered", NoRequester = "no_requester",
    }
    /// How a request over HTTPS ended.
    HttpOutcome "outcome" {
        Ok = "ok", Unauthenticated = "unauthenticated", Forbidden = "forbidden", Busy = "busy", Timeout = "timeout",
        Refused = "refused", Failed = "failed",
    }
    /// The states that the registry answers with.
    RegistryOutcome "state" {
        Granted = "granted", Pending = "pending", Invalid = "invalid", Denied = "denied", Conflict = "conflict",
        Refused = "refused", Locked = "locked", Answered = "answered",
    }
    /// Decisions about requests.
    RegistryDecision "decision" {
        Granted = "granted", GrantedByToken = "granted_by_token", Denied = "denied",
    }
    /// Why a claim token was not good.
    TokenRefusal "cause" {
        Unknown = "unknown", Expired = "expired", Spent = "spent", Name = "name", Network = "network", Author = "author",
    }
    /// What became of a request for a new certificate.
    RenewalOutcome "outcome" {
        Issued = "issued", InGrace = "in_grace", Repeated = "repeated", Refused = "refused",
    }
    /// What was wrong with a request to the registry.
    RegistryBadInput "input" {
        Json = "json", Csr = "csr", Username = "username", Password = "password", TooLarge = "too_large", Other = "other",
    }
}

impl Label for QoS {
    const NAME: &'static str = "qos";
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::AtMostOnce, "0"), (Self::AtLeastOnce, "1"), (Self::ExactlyOnce, "2")];

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for QuotaKind {
    const NAME: &'static str = "quota";
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Connections, "connections"),
        (Self::Sessions, "sessions"),
        (Self::PublishMessages, "publish_messages"),
        (Self::PublishBytes, "publish_bytes"),
        (Self::Subscriptions, "subscriptions"),
        (Self::RetainedMessages, "retained_messages"),
        (Self::RetainedBytes, "retained_bytes"),
        (Self::Queue, "queue"),
    ];

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for PacketType {
    const NAME: &'static str = "type";
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Connect, "connect"),
        (Self::ConnAck, "connack"),
        (Self::Publish, "publish"),
        (Self::PubAck, "puback"),
        (Self::PubRec, "pubrec"),
        (Self::PubRel, "pubrel"),
        (Self::PubComp, "pubcomp"),
        (Self::Subscribe, "subscribe"),
        (Self::SubAck, "suback"),
        (Self::Unsubscribe, "unsubscribe"),
        (Self::UnsubAck, "unsuback"),
        (Self::PingReq, "pingreq"),
        (Self::PingResp, "pingresp"),
        (Self::Disconnect, "disconnect"),
        (Self::Auth, "auth"),
    ];

    fn index(self) -> usize {
        usize::from(self as u8) - 1 // the types count from 1
    }
}

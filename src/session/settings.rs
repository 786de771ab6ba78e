//! What the operator chose for sessions, and what every input of a session is judged with.
//!
//! The composition root maps broker.toml to [`Settings`]; the connection loop makes a [`Context`] for each input.

use std::num::{NonZeroU16, NonZeroU32};

use crate::access::Authority;
use crate::clock::{Duration, Instant};

/// What becomes of a PUBLISH that is not permitted on a 3.1.1 connection, which has no negative acknowledgement. `[MQTT-3.3.5-2]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedPublish {
    /// The connection is closed.
    #[default]
    Disconnect,
    /// It is acknowledged as if it had been taken, and dropped.
    Acknowledge,
}

/// What becomes of a SUBSCRIBE that is covered by no allow, but overlaps some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartialSubscription {
    /// Refused with 0x87.
    #[default]
    Refuse,
    /// Granted; only the topics that the user may read are delivered.
    Filter,
}

/// The limits and choices that hold for every session of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many unfinished QoS 1 and 2 messages a client may send; announced in CONNACK, enforced for version 5.
    pub receive_maximum: NonZeroU16,
    /// Largest packet that the broker takes, in bytes; announced in CONNACK, enforced by the decoder.
    pub maximum_packet_size: NonZeroU32,
    /// How many unfinished QoS 1 and 2 messages the broker sends to one client, whatever more the client would take.
    pub outbound_window: NonZeroU16,
    /// No further QoS 1 or 2 message is sent to a client while unfinished ones of this many bytes are.
    pub outbound_bytes: usize,
    /// Most levels of a topic name or topic filter.
    pub topic_levels: usize,
    /// Most subscriptions of one session.
    pub subscriptions: usize,
    /// Longest Session Expiry Interval in seconds; `u32::MAX` admits sessions that never expire.
    pub max_session_expiry: u32,
    /// Longest Keep Alive in seconds; a version 5 client that asks for more, or for none, is told this one. `[MQTT-3.2.2-21]`
    pub max_keep_alive: Option<NonZeroU16>,
    /// Refused PUBLISH on 3.1.1.
    pub denied_publish: DeniedPublish,
    /// SUBSCRIBE that is permitted in part.
    pub partial_subscription: PartialSubscription,
    /// How long the receiver of a request may answer to its Response Topic without a rule for that; `None`: never.
    pub response_grants: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            receive_maximum: NonZeroU16::MIN.saturating_add(99),
            maximum_packet_size: NonZeroU32::MIN.saturating_add((1 << 20) - 1),
            outbound_window: NonZeroU16::MIN.saturating_add(1023),
            outbound_bytes: 8 << 20,
            topic_levels: 128,
            subscriptions: 1000,
            max_session_expiry: u32::MAX,
            max_keep_alive: None,
            denied_publish: DeniedPublish::default(),
            partial_subscription: PartialSubscription::default(),
            response_grants: None,
        }
    }
}

/// What an input is judged with: the rules and the time of this moment.
///
/// When the version of `authority` is not the one that the session saw last, the session first does what
/// [`Session::handle_policy`](super::Session::handle_policy) does: no decision is ever made under an old version.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The rules of the session's user under its client identifier; [`Authority::none`] for a registration session
    /// and for a user that is gone.
    pub authority: &'a Authority,
    /// Monotonic time.
    pub now: Instant,
    /// The operator's choices.
    pub settings: &'a Settings,
}

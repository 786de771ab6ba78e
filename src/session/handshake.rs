//! Is this CONNECT one that the broker takes, and what does the CONNACK say?
//!
//! A decoded CONNECT enters; a CONNACK leaves. Who the client is, was settled elsewhere: [`check_connect`] is asked
//! before the proof of identity is examined, [`check_will`] after.

use bytestring::ByteString;

use super::{Context, Owner, Refusal, Settings};
use crate::access::Authority;
use crate::clock::Instant;
use crate::mqtt::{ConnAck, ConnAckProperties, Connect, ReasonCode};

/// A CONNECT that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For the CONNACK; the codec knows the return code of 3.1.1, or that there is none.
    pub reason_code: ReasonCode,
    /// What is wrong and what to do about it.
    pub explanation: &'static str,
    /// To count and log, where a rule refused it.
    pub refusal: Option<Refusal>,
}

impl Rejection {
    /// The packet to send before closing. `[MQTT-3.2.2-6]` `[MQTT-3.2.2-7]`
    pub fn connack(&self) -> ConnAck {
        ConnAck {
            session_present: false,
            reason_code: self.reason_code,
            properties: ConnAckProperties {
                reason_string: Some(ByteString::from_static(self.explanation)),
                ..ConnAckProperties::default()
            },
        }
    }
}

/// What the shell settled before it attaches a connection to a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The client identifier in the session's key was drawn by the broker: the client has to be told. `[MQTT-3.2.2-16]`
    pub assigned_client_id: bool,
    /// When the connection ends whatever happens (a certificate's end, the life of a registration session), and the
    /// code of the DISCONNECT.
    pub until: Option<(Instant, ReasonCode)>,
}

/// What can be refused whoever the client is.
pub fn check_connect(_connect: &Connect) -> Result<(), Rejection> {
    Ok(())
}

/// May this owner have the Will of this CONNECT? (It is checked again when it is published.)
pub fn check_will(
    _connect: &Connect,
    _owner: Owner,
    _authority: &Authority,
    _settings: &Settings,
) -> Result<(), Rejection> {
    Ok(())
}

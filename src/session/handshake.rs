//! Is this CONNECT one that the broker takes, and what does the CONNACK say?
//!
//! A decoded CONNECT enters; a CONNACK leaves. Who the client is, was settled elsewhere: [`check_connect`] is asked
//! before the proof of identity is examined, [`check_will`] after. It never looks at credentials.

use std::borrow::Cow;
use std::num::NonZeroU16;

use bytestring::ByteString;

use super::permit::Permit;
use super::size::packet_fits;
use super::{Action, Owner, Refusal, RefusalCause, SessionKey, Settings};
use crate::access::Authority;
use crate::clock::Instant;
use crate::mqtt::{ConnAck, ConnAckProperties, Connect, Packet, ProtocolVersion, ReasonCode};

/// A CONNECT that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For the CONNACK; the codec knows the return code of 3.1.1, or that there is none.
    pub reason_code: ReasonCode,
    /// What is wrong and what to do about it.
    pub explanation: Cow<'static, str>,
    /// To count and log, where a rule refused it.
    pub refusal: Option<Refusal>,
}

impl Rejection {
    /// The packet to send to this client before closing, without the sentence where the client does not take that
    /// much. `[MQTT-3.2.2-19]`
    pub fn connack_for(&self, connect: &Connect) -> ConnAck {
        let connack = self.connack();
        let packet = Packet::ConnAck(Box::new(connack.clone()));
        if packet_fits(&packet, connect.version, connect.properties.maximum_packet_size) {
            return connack;
        }
        let properties = ConnAckProperties { reason_string: None, ..connack.properties };
        ConnAck { properties, ..connack }
    }

    /// The packet to send before closing, where no CONNECT could be read. `[MQTT-3.2.2-6]` `[MQTT-3.2.2-7]`
    pub fn connack(&self) -> ConnAck {
        ConnAck {
            session_present: false,
            reason_code: self.reason_code,
            properties: ConnAckProperties {
                reason_string: Some(match &self.explanation {
                    Cow::Borrowed(text) => ByteString::from_static(text),
                    Cow::Owned(text) => ByteString::from(text.as_str()),
                }),
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
    /// When the connection ends (0xA0) of somebody who has come to enrol and has not asked for that; `None`: never.
    pub ask_by: Option<Instant>,
    /// When the client is to be invited to renew its certificate; `None`: it has none.
    pub invite: Option<Instant>,
}

/// What can be refused whoever the client is.
///
/// # Errors
/// An extended authentication method (there is none), an empty client identifier that asks for a lasting session in
/// 3.1.1, and one that holds `+` or `#`.
pub fn check_connect(connect: &Connect) -> Result<(), Rejection> {
    let reject = |reason_code, explanation: &'static str| {
        Err(Rejection { reason_code, explanation: explanation.into(), refusal: None })
    };
    if connect.properties.authentication_method.is_some() {
        // [MQTT-4.12.0-1]
        return reject(
            ReasonCode::BadAuthenticationMethod,
            "this authentication method is not supported; use a password or a client certificate",
        );
    }
    if connect.client_id.is_empty() && connect.version == ProtocolVersion::V311 && !connect.clean_start {
        // [MQTT-3.1.3-8]
        return reject(
            ReasonCode::ClientIdentifierNotValid,
            "an empty client identifier needs a clean session; set one of the two",
        );
    }
    if connect.client_id.as_str().contains(['+', '#']) {
        // [MQTT-3.1.3-9] of 3.1.1, [MQTT-3.1.3-8] of 5.0
        return reject(
            ReasonCode::ClientIdentifierNotValid,
            "the client identifier may not hold `+` or `#`; choose another one",
        );
    }
    Ok(())
}

/// May this owner have the Will of this CONNECT? It is checked again when it is published.
///
/// # Errors
/// The rules do not permit the Will's topic, QoS or RETAIN, or it is a registration session, which has none.
pub fn check_will(
    connect: &Connect,
    owner: Owner,
    authority: &Authority,
    settings: &Settings,
) -> Result<(), Rejection> {
    let Some(will) = &connect.will else { return Ok(()) };
    let refused = match owner {
        Owner::Registration(_) => {
            Err((will.topic.clone(), RefusalCause::RegistrationSession, ReasonCode::NotAuthorized))
        }
        Owner::User(_) => Permit::of(&will.topic, authority, settings).admit(will.qos, will.retain),
    };
    match refused {
        Ok(_) => Ok(()),
        Err((topic, cause, reason_code)) => {
            // 3.1.1 has one code for all of it. [MQTT-3.1.4-2]
            let v5 = connect.version == ProtocolVersion::V5;
            let reason_code = if v5 { reason_code } else { ReasonCode::NotAuthorized };
            Err(Rejection {
                reason_code,
                explanation: "the Will is not permitted; ask for the permission or connect without it".into(),
                refusal: Some(Refusal { action: Action::Will, topic: topic.into(), cause, reason_code }),
            })
        }
    }
}

/// The Session Expiry Interval that is granted, in seconds; `u32::MAX`: never.
pub(super) fn granted_expiry(connect: &Connect, owner: Owner, settings: &Settings) -> u32 {
    let asked = match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_interval.unwrap_or(0),
        ProtocolVersion::V311 if connect.clean_start => 0, // [MQTT-3.1.2-6]
        ProtocolVersion::V311 => u32::MAX,                 // [MQTT-3.1.2-4]
    };
    match owner {
        Owner::User(_) => asked.min(settings.max_session_expiry),
        Owner::Registration(_) => 0,
    }
}

/// The Keep Alive that is enforced, in seconds: the client's, unless version 5 can be told another one. `[MQTT-3.2.2-22]`
pub(super) fn granted_keep_alive(connect: &Connect, settings: &Settings) -> u16 {
    match settings.max_keep_alive {
        Some(most) if connect.version == ProtocolVersion::V5 => match NonZeroU16::new(connect.keep_alive) {
            Some(asked) => asked.min(most).get(),
            None => most.get(),
        },
        _ => connect.keep_alive,
    }
}

/// The CONNACK of a CONNECT that is taken: what the broker supports, truthfully. `[MQTT-3.1.4-5]`
///
/// What is absent has the default of the specification: QoS 2, retained messages, wildcards and subscription
/// identifiers are available, topic aliases are not.
pub(super) fn connack(
    connect: &Connect,
    key: &SessionKey,
    terms: &Terms,
    settings: &Settings,
    session_present: bool,
) -> ConnAck {
    let properties = match connect.version {
        ProtocolVersion::V311 => ConnAckProperties::default(),
        ProtocolVersion::V5 => {
            let expiry = granted_expiry(connect, key.owner, settings);
            let keep_alive = granted_keep_alive(connect, settings);
            ConnAckProperties {
                session_expiry_interval: (expiry != connect.properties.session_expiry_interval.unwrap_or(0))
                    .then_some(expiry),
                receive_maximum: (settings.receive_maximum != NonZeroU16::MAX).then_some(settings.receive_maximum),
                maximum_packet_size: Some(settings.maximum_packet_size),
                assigned_client_identifier: terms.assigned_client_id.then(|| key.client_id.clone().into()),
                shared_subscription_available: Some(false),
                server_keep_alive: (keep_alive != connect.keep_alive).then_some(keep_alive), // [MQTT-3.2.2-21]
                ..ConnAckProperties::default()
            }
        }
    };
    ConnAck { session_present, reason_code: ReasonCode::Success, properties }
}

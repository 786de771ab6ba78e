//! May this topic be published to, and as what does it go out?
//!
//! The topic of a PUBLISH or a Will enters as the client wrote it; the topic to route leaves, with the conditions
//! that the rules set. One function for PUBLISH, for the Will at CONNECT and for the Will when it fires.

use bytestring::ByteString;

use super::{RefusalCause, Settings};
use crate::access::Authority;
use crate::mqtt::{QoS, ReasonCode, TopicName};

/// What the rules say to a topic, whatever the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Yes, up to here.
    Granted { topic: TopicName, max_qos: QoS, retain: bool },
    /// No. The topic has the prefix where that was possible.
    Refused { topic: TopicName, cause: RefusalCause, reason_code: ReasonCode },
}

impl Permit {
    /// For the topic as the client wrote it. Keeps `topic` itself where there is no prefix.
    pub(super) fn of(topic: &TopicName, authority: &Authority, settings: &Settings) -> Self {
        let refused = |topic: TopicName, cause, reason_code| Self::Refused { topic, cause, reason_code };
        if topic.is_reserved() {
            // Whatever the rules say, and the authority says so too: `$` topics are the broker's. A PUBLISH to an operation of
            // the registry never gets here; a Will does, and asks for nothing.
            return refused(topic.clone(), RefusalCause::Reserved, ReasonCode::NotAuthorized);
        }
        let topic = match routed_topic(topic, authority, settings) {
            Ok(topic) => topic,
            Err(topic) => return refused(topic, RefusalCause::TopicTooLong, ReasonCode::TopicNameInvalid),
        };
        match authority.may_publish(&topic) {
            Some((max_qos, retain)) => Self::Granted { topic, max_qos, retain },
            None => refused(topic, RefusalCause::Rules, ReasonCode::NotAuthorized),
        }
    }

    /// For an operation of operators: its topic is left alone by a prefix.
    pub(super) fn to_administer(topic: &TopicName, authority: &Authority) -> Self {
        match authority.may_administer(topic) {
            Some((max_qos, retain)) => Self::Granted { topic: topic.clone(), max_qos, retain },
            None => Self::Refused {
                topic: topic.clone(),
                cause: RefusalCause::Rules,
                reason_code: ReasonCode::NotAuthorized,
            },
        }
    }

    /// Applies the conditions to one message.
    pub(super) fn admit(self, qos: QoS, retain: bool) -> Result<TopicName, (TopicName, RefusalCause, ReasonCode)> {
        match self {
            Self::Granted { topic, max_qos, .. } if qos > max_qos => {
                Err((topic, RefusalCause::QoS, ReasonCode::NotAuthorized))
            }
            Self::Granted { topic, retain: false, .. } if retain => {
                Err((topic, RefusalCause::Retain, ReasonCode::NotAuthorized))
            }
            Self::Granted { topic, .. } => Ok(topic),
            Self::Refused { topic, cause, reason_code } => Err((topic, cause, reason_code)),
        }
    }
}

/// The topic that a PUBLISH of this user goes to: behind its publish prefix, unless it begins with `$`. Whoever asks what
/// a client may publish asks this too.
///
/// # Errors
/// It is longer or deeper than a topic may be: the topic, with the prefix where that is still a topic. `[MQTT-4.7.3-3]`
pub fn routed_topic(topic: &TopicName, authority: &Authority, settings: &Settings) -> Result<TopicName, TopicName> {
    let topic = match authority.publish_prefix().filter(|_| !topic.is_reserved()) {
        None => topic.clone(),
        Some(prefix) => {
            TopicName::try_from(ByteString::from([prefix, topic.as_str()].concat())).map_err(|_| topic.clone())?
        }
    };
    if topic.levels().nth(settings.topic_levels).is_some() { Err(topic) } else { Ok(topic) }
}

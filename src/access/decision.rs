//! What one user may do under one client identifier, and why.

use super::{Permission, PolicyVersion, RoleName, UserId, Username};
use crate::mqtt::{QoS, TopicFilter, TopicName};

/// The rules of one user under one snapshot, ready to be asked.
#[derive(Clone, Debug)]
pub struct Authority {
    version: PolicyVersion,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some allow matches and no deny does.
    Allow,
    /// A deny matches, or nothing does.
    Deny,
}

/// An answer with the rules that made it: the denies that matched, else the allows, else none (default deny).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// The rules that made it, each with the role it came from (`None`: the user's own).
    pub rules: Vec<(Option<RoleName>, Permission)>,
    /// Of the most generous matching allow.
    pub max_qos: QoS,
    /// May RETAIN be set?
    pub retain: bool,
}

/// The answer to one filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeVerdict {
    /// Granted.
    Granted {
        /// Highest QoS that the covering rules admit.
        max_qos: QoS,
        /// No deny touches the filter and one allow covers it: no check at delivery.
        unconditional: bool,
    },
    /// Not covered by one allow, but overlapping some: `access.partial_subscription` decides.
    Partial {
        /// Highest QoS that the overlapping rules admit.
        max_qos: QoS,
    },
    /// Nothing of it may be received.
    Refused,
}

impl Authority {
    /// The authority of a registration session: none at all.
    pub fn none(version: PolicyVersion) -> Self {
        Self { version }
    }

    /// The snapshot that it was taken from.
    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// Whose it is; `None` for [`Authority::none`].
    pub fn user(&self) -> Option<(UserId, &Username)> {
        None
    }

    /// The user's publish prefix.
    pub fn publish_prefix(&self) -> Option<&str> {
        None
    }

    /// May a message be published to this topic (prefix already applied)? `None`: no. The hot path: allocates nothing.
    pub fn may_publish(&self, _topic: &TopicName) -> Option<(QoS, bool)> {
        None
    }

    /// May a message of this topic be received, and at which QoS at most? The hot path: allocates nothing.
    pub fn may_receive(&self, _topic: &TopicName) -> Option<QoS> {
        None
    }

    /// What becomes of one filter of a SUBSCRIBE.
    pub fn may_subscribe(&self, _filter: &TopicFilter) -> SubscribeVerdict {
        SubscribeVerdict::Refused
    }

    /// [`Authority::may_publish`] with its reasons.
    pub fn explain_publish(&self, _topic: &TopicName) -> Decision {
        Decision { verdict: Verdict::Deny, rules: Vec::new(), max_qos: QoS::AtMostOnce, retain: false }
    }

    /// [`Authority::may_receive`] with its reasons.
    pub fn explain_receive(&self, topic: &TopicName) -> Decision {
        self.explain_publish(topic)
    }

    /// May this HTTP request be made? `segments` are the decoded segments of the path.
    pub fn may_http(&self, _write: bool, _segments: &[&str]) -> bool {
        false
    }
}

//! What a group of rules says together, in a few bytes: enough for a verdict, not for its reasons.

use super::pattern::{Identity, Value};
use super::{Effect, Operation, Permission};
use crate::mqtt::QoS;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Receive; GET and HEAD.
    Read,
    /// Publish; every other method.
    Write,
}

impl Action {
    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
        }
    }

    /// Is a rule of this operation about the action?
    pub(super) fn is_of(self, operation: Operation) -> bool {
        match operation {
            Operation::Read => self == Self::Read,
            Operation::Write => self == Self::Write,
            Operation::ReadWrite => true,
        }
    }
}

/// A grant: none, or up to a QoS. The greater is the more generous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Grant(u8);

impl Grant {
    pub(super) const NONE: Self = Self(0);
    pub(super) const ALL: Self = Self(3);

    /// A `max_qos` of 2 or more is no restriction.
    pub(super) fn up_to(max_qos: Option<u8>) -> Self {
        Self(max_qos.unwrap_or(2).min(2) + 1)
    }

    pub(super) fn qos(self) -> Option<QoS> {
        match self.0 {
            0 => None,
            1 => Some(QoS::AtMostOnce),
            2 => Some(QoS::AtLeastOnce),
            _ => Some(QoS::ExactlyOnce),
        }
    }
}

/// The rules of one place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Summary {
    denies: u8,
    read: Grant,
    write: Grant,
    retain: bool,
}

impl Summary {
    pub(super) fn of(permission: &Permission) -> Self {
        let (read, write) = (Action::Read.is_of(permission.operation), Action::Write.is_of(permission.operation));
        let mut summary = Self::default();
        match permission.effect {
            Effect::Deny => {
                summary.denies = u8::from(read) * Action::Read.bit() + u8::from(write) * Action::Write.bit();
            }
            Effect::Allow => {
                let grant = Grant::up_to(permission.max_qos);
                summary.read = if read { grant } else { Grant::NONE };
                summary.write = if write { grant } else { Grant::NONE };
                summary.retain = write && permission.retain.unwrap_or(true);
            }
        }
        summary
    }

    pub(super) fn merge(self, other: Self) -> Self {
        Self {
            denies: self.denies | other.denies,
            read: self.read.max(other.read),
            write: self.write.max(other.write),
            retain: self.retain || other.retain,
        }
    }

    pub(super) fn denies(self, action: Action) -> bool {
        self.denies & action.bit() != 0
    }

    pub(super) fn grant(self, action: Action) -> Grant {
        match action {
            Action::Read => self.read,
            Action::Write => self.write,
        }
    }

    pub(super) fn retain(self) -> bool {
        self.retain
    }
}

/// What everything below a node says: which actions some rule denies, and what may be read. Allow rules are told apart by the placeholders on the way to them,
/// which must have a value for the rule to count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Below {
    denies: u8,
    /// Without placeholders; with `${username}`; with `${client_id}`; with both.
    allow: [Grant; 4],
}

impl Below {
    pub(super) fn and(self, summary: Summary) -> Self {
        let [plain, username, client_id, both] = self.allow;
        Self { denies: self.denies | summary.denies, allow: [plain.max(summary.read), username, client_id, both] }
    }

    pub(super) fn merge(self, other: Self) -> Self {
        let mut allow = self.allow;
        for (grant, other) in allow.iter_mut().zip(other.allow) {
            *grant = (*grant).max(other);
        }
        Self { denies: self.denies | other.denies, allow }
    }

    pub(super) fn through_username(self) -> Self {
        let [plain, username, client_id, both] = self.allow;
        Self { allow: [Grant::NONE, plain.max(username), Grant::NONE, client_id.max(both)], ..self }
    }

    pub(super) fn through_client_id(self) -> Self {
        let [plain, username, client_id, both] = self.allow;
        Self { allow: [Grant::NONE, Grant::NONE, plain.max(client_id), username.max(both)], ..self }
    }

    pub(super) fn denies(self, action: Action) -> bool {
        self.denies & action.bit() != 0
    }

    pub(super) fn grant(self, who: Identity<'_>) -> Grant {
        let [plain, username, client_id, both] = self.allow;
        let if_valued = |values: &[Value<'_>], grant: Grant| {
            if values.iter().any(|value| matches!(value, Value::Odd)) { Grant::NONE } else { grant }
        };
        plain
            .max(if_valued(&[who.username], username))
            .max(if_valued(&[who.client_id], client_id))
            .max(if_valued(&[who.username, who.client_id], both))
    }
}

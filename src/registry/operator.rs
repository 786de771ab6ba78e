//! What operators say to the registry, and what it tells them.
//!
//! Entering: terms from REST and CLI, unknown fields refused. Leaving: events, the state of the lock, errors by who is at fault.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::core::Undecidable;
use super::format::Format;
use super::lock::UnlockTerms;
use super::request::{RequestId, RequestView};
use super::token::TokenId;
use crate::access::{Permission, RoleName, Username};
use crate::config::RuleGrant;
use crate::directory::{self, DirectoryError, Right};
use crate::pki::SignerError;
use crate::store::StoreError;

/// What a granted request gets. Nothing of what the device asked for is in it unless the operator put it there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantTerms {
    /// Roles that exist.
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    #[serde(alias = "mqttPublishPrefix", skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// End of the identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// For people: becomes the description of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Grant although the device could not be shown its pairing code.
    pub unpaired: bool,
}

impl From<&RuleGrant> for GrantTerms {
    fn from(rule: &RuleGrant) -> Self {
        Self {
            roles: rule.roles.clone(),
            permissions: rule.permissions.clone(),
            publish_prefix: rule.publish_prefix.clone(),
            ..Self::default()
        }
    }
}

/// What is said when a request is turned down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyTerms {
    /// For the device. At most 1,024 bytes.
    pub reason: String,
    /// For the record; the device is not told. At most 1,024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl<T: Into<String>> From<T> for DenyTerms {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), comment: None }
    }
}

/// How the requests stand that are to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateFilter {
    /// Waiting for a decision.
    Pending,
    /// Became users.
    Granted,
    /// Turned down, not forgotten yet.
    Denied,
}

/// Which requests to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestFilter {
    /// Only these; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFilter>,
    /// Only those after this one: the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RequestId>,
    /// At most so many: 1 to 1,000, over MQTT to 32, which are the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Some of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RequestPage {
    /// Oldest first.
    pub items: Vec<RequestView>,
    /// There are more, after this one; absent: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RequestId>,
}

/// How the door stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LockStatus {
    /// Is it shut?
    pub locked: bool,
    /// When it shuts by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// New requests that it still admits, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Its limits, while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms: Option<UnlockTerms>,
    /// Requests that wait for a decision.
    pub pending: usize,
    /// How many may.
    pub max_pending: usize,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: EventKind,
    /// About which request; absent for the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Arc<RequestView>>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// A new request.
    Requested,
    /// The first of two people would grant it.
    Approved,
    /// It became a user.
    Granted,
    /// It was turned down.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// It gave way to another one of its source.
    Displaced,
    /// The door was opened.
    Unlocked,
    /// The door was shut, or shut by itself.
    Locked,
}

impl Event {
    /// As it is sent.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        format.write(self)
    }
}

impl EventKind {
    /// The word for it, as in JSON and in the topic.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Displaced => "displaced",
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
        }
    }
}

/// Why an operator's request is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No such request, or one that has lapsed.
    #[error("there is no request `{0}`; it may have lapsed")]
    NotFound(RequestId),
    /// Somebody decided already.
    #[error("the request `{id}` is {state} already")]
    NotPending {
        /// Which.
        id: RequestId,
        /// `granted` or `denied`.
        state: &'static str,
    },
    /// Two people must say the same, and this is one.
    #[error("you have approved the request `{0}` already: another person must grant the same")]
    OwnApproval(RequestId),
    /// The code could not be compared.
    #[error(
        "the device of request `{0}` could not be shown its pairing code; if you know that it is yours, grant it with `unpaired`"
    )]
    Unpaired(RequestId),
    /// An actor whose rules do not say so, or who is disabled, expired or gone.
    #[error("this needs the right to write to {0}")]
    NotAllowed(Right),
    /// The name is not open to a new key.
    #[error("the name `{0}` is not open to a new key")]
    NotOpen(Username),
    /// An unlock for a listener that is not there would open nothing.
    #[error("there is no listener `{listener}`; there are `{}`", known.join("`, `"))]
    ListenerUnknown {
        /// What was given.
        listener: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Nobody has this name.
    #[error("there is no user `{0}`")]
    UserUnknown(Username),
    /// No such token, or one whose time is over.
    #[error("there is no token `{0}`; its time may be over")]
    NoToken(TokenId),
    /// Out of range.
    #[error("{0}")]
    Invalid(&'static str),
    /// Operator: a rule of broker.toml could never grant.
    #[error("the rule `{rule}` of broker.toml cannot grant: {error}")]
    Rule {
        /// Which.
        rule: String,
        /// Why not.
        error: Box<RegistryError>,
    },
    /// The terms name a role that is not there.
    #[error("there is no role `{0}`: create it first, or grant without it")]
    RoleUnknown(RoleName),
    /// The directory refuses: taken name, a pattern that is none.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The CA cannot sign.
    #[error("no certificate can be issued: {0}")]
    Signer(#[from] SignerError),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record that does not fit the others, or a job that was cut off.
    #[error("the registry is damaged: {0}")]
    Damaged(String),
}

/// What kind of refusal it is; the doors turn it into their own status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryErrorKind {
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 422.
    Invalid,
    /// 500.
    Internal,
}

impl RegistryErrorKind {
    /// Status, state and word of the answer over MQTT.
    pub(super) fn words(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Forbidden => (403, "denied", "forbidden"),
            Self::NotFound => (404, "refused", "not_found"),
            Self::Conflict => (409, "conflict", "conflict"),
            Self::Invalid => (422, "invalid", "invalid"),
            Self::Internal => (500, "failed", "internal"),
        }
    }
}

impl RegistryError {
    /// What kind of refusal it is.
    pub fn kind(&self) -> RegistryErrorKind {
        match self {
            Self::NotFound(_) | Self::NotOpen(_) | Self::UserUnknown(_) | Self::NoToken(_) => {
                RegistryErrorKind::NotFound
            }
            Self::NotPending { .. } | Self::Unpaired(_) | Self::OwnApproval(_) => RegistryErrorKind::Conflict,
            Self::NotAllowed(_) => RegistryErrorKind::Forbidden,
            Self::Invalid(_) | Self::ListenerUnknown { .. } | Self::RoleUnknown(_) | Self::Rule { .. } => {
                RegistryErrorKind::Invalid
            }
            Self::Directory(error) => match error.kind() {
                // A role or a name that is missing is a fault of the terms, not of the request's address.
                directory::ErrorKind::NotFound | directory::ErrorKind::Invalid => RegistryErrorKind::Invalid,
                directory::ErrorKind::Conflict => RegistryErrorKind::Conflict,
                directory::ErrorKind::Forbidden => RegistryErrorKind::Forbidden,
                directory::ErrorKind::Internal => RegistryErrorKind::Internal,
            },
            Self::Signer(_) | Self::Store(_) | Self::Damaged(_) => RegistryErrorKind::Internal,
        }
    }

    /// The sentence for whoever asked. What is our fault may name paths and tables, and is for the log.
    pub(crate) fn told(&self) -> String {
        if self.kind() == RegistryErrorKind::Internal {
            tracing::error!(error = %self, "the registry cannot do what it was asked");
            return "the registry cannot do that now; the log says more".to_owned();
        }
        self.to_string()
    }

    /// Does it say that somebody may not, or not any more, give what was to be given? The rest is the fault of nobody's rights.
    pub(super) fn is_for_want_of_rights(&self) -> bool {
        match self {
            Self::NotAllowed(_) | Self::RoleUnknown(_) => true,
            Self::Directory(error) => matches!(
                error.kind(),
                directory::ErrorKind::Forbidden | directory::ErrorKind::NotFound | directory::ErrorKind::Invalid
            ),
            _ => false,
        }
    }

    pub(super) fn undecidable(id: RequestId, why: Undecidable) -> Self {
        match why {
            Undecidable::NotFound => Self::NotFound(id),
            Undecidable::NotPending(state) => Self::NotPending { id, state },
            Undecidable::Unpaired => Self::Unpaired(id),
        }
    }
}

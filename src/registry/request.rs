//! A request as it is kept, and as operators see it.
//!
//! What every poll needs is in [`Request`], which lives in memory and in the store; what only an operator reads is in
//! [`Details`], which lives in the store alone. So a full table costs some hundred bytes for each request, whatever was sent.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::approval::Approval;
use super::message::{MAX_CONTEXT_DEPTH, is_deeper};
use super::token::TokenId;
use crate::access::{Auth, CertificateRecord, Permission, RoleName, UserId, Username};
use crate::audit::{Event, UserRef, Word};
use crate::pki::PairingCode;

/// Names a request; UUIDv7, so that requests sort by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// A message to `$registry/register`.
    Mqtt,
    /// `POST /api/client-registry/register`.
    Rest,
    /// A CONNECT with an unknown user name and a password.
    Implicit,
    /// One whose CONNACK has no room for a pairing code: that of MQTT 3.1.1, or where the client wants no Reason String.
    ImplicitWithoutCode,
}

impl Door {
    /// Is it a CONNECT?
    pub fn is_implicit(self) -> bool {
        matches!(self, Self::Implicit | Self::ImplicitWithoutCode)
    }

    /// Is the device told its pairing code there?
    pub(super) fn tells_code(self) -> bool {
        self != Self::ImplicitWithoutCode
    }
}

/// What has become of a request. One that lapses is forgotten and has no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Nobody has decided.
    Pending,
    /// It became a user.
    Granted {
        /// Which.
        user: UserId,
        /// Of the certificate, for a request with a CSR.
        serial: Option<String>,
        /// Who decided.
        by: String,
        /// When.
        at: Timestamp,
        /// For people.
        comment: Option<String>,
    },
    /// It was turned down.
    Denied {
        /// For the device.
        reason: String,
        /// Who decided.
        by: String,
        /// When.
        at: Timestamp,
        /// When it is forgotten.
        forget_at: Timestamp,
        /// For people; the device is not told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
}

impl State {
    /// Its word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Granted { .. } => "granted",
            Self::Denied { .. } => "denied",
        }
    }
}

/// Says that a password was verified against a hash lately: a keyed hash, in memory alone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    /// The PHC string.
    pub(super) hash: String,
    /// HMAC of the password under a key drawn at start.
    pub(super) tag: [u8; 32],
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered(..)")
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) username: Username,
    /// SHA-256 of the SubjectPublicKeyInfo, for a request with a CSR.
    pub(super) key: Option<String>,
    pub(super) key_kind: Option<String>,
    pub(super) has_password: bool,
    /// PHC string; once granted it is the user's and not here.
    pub(super) password_hash: Option<String>,
    pub(super) pairing_code: PairingCode,
    /// Could the device be shown the code?
    pub(super) pairing_shown: bool,
    pub(super) source: IpAddr,
    pub(super) listener: String,
    pub(super) door: Door,
    pub(super) first_seen: Timestamp,
    /// As of the last change of state; later polls are counted in memory.
    pub(super) last_seen: Timestamp,
    pub(super) polls: u64,
    pub(super) expires_at: Timestamp,
    #[serde(flatten)]
    pub(super) state: State,
    /// The user whose proofs it replaces when it is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) replaces: Option<UserId>,
    /// The token that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<TokenId>,
    /// What the first of two people has said, while the second has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) approved: Option<Box<Approval>>,
    /// The rule that has granted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    /// Life of its certificates, in seconds, where that is not `ca.validity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) validity: Option<u64>,
    #[serde(skip)]
    pub(super) remembered: Option<Remembered>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({}, {}, {})", self.id, self.username, self.state.as_str())
    }
}

impl Request {
    /// Which proof the user that it asks for will give.
    pub(super) fn auth(&self) -> Auth {
        match (self.key.is_some(), self.has_password) {
            (true, true) => Auth::Both,
            (true, false) => Auth::Certificate,
            (false, _) => Auth::Password,
        }
    }
}

/// What the device sent along, and what it gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    /// PEM.
    pub(super) csr: Option<String>,
    pub(super) context: Option<Value>,
    pub(super) roles: Vec<RoleName>,
    pub(super) permissions: Vec<Permission>,
    /// PEM, once granted.
    pub(super) certificate: Option<String>,
}

/// One that an earlier version took, which had no bound, would make unreadable all that it is told with.
fn legible(context: Value) -> Value {
    if is_deeper(&context, MAX_CONTEXT_DEPTH) { "nested too deep to be shown".into() } else { context }
}

/// A certificate of this user, in the words of the audit log.
pub(super) fn issued(user: UserRef, record: &CertificateRecord) -> Event {
    Event::CertificateIssued {
        user,
        serial: Word::name(&record.serial),
        fingerprint: Word::name(&record.fingerprint),
        not_after: record.not_after,
    }
}

/// A request as an operator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RequestView {
    /// Its name.
    pub id: RequestId,
    /// The name that it asks for.
    pub username: Username,
    /// Which proof the user will give.
    pub auth: Auth,
    /// To be compared with what the device shows.
    pub pairing_code: PairingCode,
    /// The user whose password and certificates it replaces, or has replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<UserId>,
    /// The claim token that it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// What the first of two people would grant, while a second one has to say the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Box<Approval>>,
    /// The rule of broker.toml that has granted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Could the device be shown the code? If not, granting needs `unpaired`.
    pub pairing_shown: bool,
    /// Kind of the key, for a request with a CSR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
    /// What the device tells about itself. Unverified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Value>,
    /// Asked for; nothing is granted by asking.
    pub requested_roles: Vec<RoleName>,
    /// Asked for; nothing is granted by asking.
    pub requested_permissions: Vec<Permission>,
    /// Address that it came from.
    pub source: IpAddr,
    /// Listener that it came through.
    pub listener: String,
    /// Way that it came in.
    pub door: Door,
    /// First message.
    pub first_seen: Timestamp,
    /// Last poll.
    pub last_seen: Timestamp,
    /// Number of polls.
    pub polls: u64,
    /// When it lapses, while pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What has become of it.
    #[serde(flatten)]
    pub state: State,
}

impl RequestView {
    pub(super) fn new(request: &Request, details: Details) -> Self {
        Self {
            id: request.id,
            username: request.username.clone(),
            auth: request.auth(),
            pairing_code: request.pairing_code,
            replaces: request.replaces,
            token: request.token,
            approved: request.approved.clone(),
            rule: request.rule.clone(),
            pairing_shown: request.pairing_shown,
            key: request.key_kind.clone(),
            key_fingerprint: request.key.clone(),
            csr: details.csr,
            context: details.context.map(legible),
            requested_roles: details.roles,
            requested_permissions: details.permissions,
            source: request.source,
            listener: request.listener.clone(),
            door: request.door,
            first_seen: request.first_seen,
            last_seen: request.last_seen,
            polls: request.polls,
            expires_at: matches!(request.state, State::Pending).then_some(request.expires_at),
            state: request.state.clone(),
        }
    }
}

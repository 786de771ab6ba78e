//! What the registry says: one object, in JSON or CBOR, for every operation, state and error.
//!
//! Entering: verdicts. Leaving: [`Answer`], whose `status` is HTTP's at every door. Never: a private key, a password, a hash.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::format::Format;
use super::message::MessageError;
use super::order::Told;
use crate::access::{Auth, Permission, RoleName, Username};
use crate::clock::Duration;
use crate::pki::PairingCode;

/// An answer to a device. Fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// HTTP's number.
    pub status: u16,
    /// `granted`, `pending`, `invalid`, `denied`, `conflict`, `refused`, `locked`; `ok` for `challenge`, `whoami`, `ca` and `admin/...`; `failed` when the fault is ours.
    pub state: &'static str,
    /// A stable word, in errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// What to do, in errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// That of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// The identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<Username>,
    /// Issued, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Certificates between the issued one and the root, PEM; empty when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The trust bundle, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Of the certificate, lower-case hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// End of the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// To be compared by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairing_code: Option<PairingCode>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// When a pending request lapses; in `whoami`, when the identity does; in `challenge`, when the nonce does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// In `challenge`: to be put into a CSR or a signature; good until `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// What the operator gave with a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In `whoami`: which proof the identity must give.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// In `whoami`: roles held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<RoleName>>,
    /// In `whoami`: every rule that applies, of the roles and the identity's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
    /// In `whoami`: what is put in front of published topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// In `admin/...`: what the REST API would answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Told>,
}

impl Answer {
    pub(super) fn new(status: u16, state: &'static str) -> Self {
        Self { status, state, ..Self::default() }
    }

    pub(super) fn error(status: u16, state: &'static str, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, state, error: Some(error), message: Some(message.into()), ..Self::default() }
    }

    pub(super) fn with_id(mut self, id: Option<Value>) -> Self {
        self.id = id;
        self
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        // Rounded up: who comes back then is early no more.
        self.retry_after = Some(after.as_secs() + u64::from(after.subsec_nanos() > 0));
        self
    }

    /// Nothing is wrong with the request but its moment.
    pub(super) fn busy(after: Duration) -> Self {
        let message = "too many registrations are being served; send it again after `retry_after` seconds";
        Self::error(429, "refused", "busy", message).retry_after(after)
    }

    /// Our fault.
    pub(super) fn failed() -> Self {
        Self::error(
            500,
            "failed",
            "internal",
            "the broker could not record this; tell its operator, and try again later",
        )
    }

    /// In the place of an answer of so many bytes, to a client that does not take as many.
    pub(crate) fn too_large(bytes: usize) -> Self {
        let message = format!(
            "what you asked for is done, but the answer has {bytes} bytes, more than your Maximum Packet Size; connect with a larger one, or ask for less"
        );
        Self::error(413, "refused", "answer_too_large", message)
    }

    /// As it is sent.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        format.write(self)
    }
}

/// Why a message has not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unread {
    /// It has so many bytes.
    TooLarge(usize),
    /// Not in time: by how much, in a sentence.
    TooSlow(String),
    /// It broke off, or is of no form: a sentence.
    Broken(String),
    /// It does not say in which form it is.
    Untyped,
}

impl From<&Unread> for Answer {
    fn from(fault: &Unread) -> Self {
        match fault {
            Unread::TooLarge(length) => (MessageError::TooLarge(*length), None).into(),
            Unread::TooSlow(why) => Self::error(408, "refused", "timeout", format!("{why}; send it again")),
            Unread::Broken(why) => Self::error(400, "invalid", "malformed", format!("{why}; send it again")),
            Unread::Untyped => {
                let message =
                    "send the message with the header `Content-Type: application/json`, or `application/cbor`";
                Self::error(400, "invalid", "unsupported", message)
            }
        }
    }
}

impl From<(MessageError, Option<Value>)> for Answer {
    fn from((error, id): (MessageError, Option<Value>)) -> Self {
        let status = error.status();
        let state = if status == 413 { "refused" } else { "invalid" };
        Self::error(status, state, error.word(), error.to_string()).with_id(id)
    }
}

impl From<(MessageError, Option<Value>)> for Box<Answer> {
    fn from(refused: (MessageError, Option<Value>)) -> Self {
        Self::new(refused.into())
    }
}

//! Who was turned away, for the audit log.
//!
//! Entering: an answer that is a refusal, and whom it was for. Leaving: one of the bounded records of the [`Recorder`](crate::audit::Recorder). Never:
//! a name that is nobody's, which may be a password in the wrong field.

use super::answer::Answer;
use super::commit::Inner;
use super::request::RequestId;
use super::settings::Origin;
use crate::access::Username;
use crate::audit::{FailedRegistration, UserRef, Word};

/// The operations that are refused.
pub(super) const REGISTER: &str = "register";
pub(super) const RENEW: &str = "renew";

impl Inner {
    /// Takes down a refusal: what was asked for, for which name, and the pending request that has that name.
    pub(super) fn turned_away(
        &self,
        operation: &'static str,
        name: Option<(&Username, Option<RequestId>)>,
        answer: &Answer,
        origin: &Origin,
    ) {
        let (Some(recorder), Some(cause)) = (self.recorder.get(), answer.error) else { return };
        // A denial was told when it was decided, a rule and a token are told as such, and what is no message at all is counted.
        let told = matches!(cause, "denied" | "rule" | "token");
        if told || !(matches!(answer.status, 401 | 403 | 409 | 422 | 423 | 429) || cause == "signature") {
            return;
        }
        let policy = self.directory.policy();
        let user = name.and_then(|(name, _)| policy.user_named(name));
        // Door 2 is a login, which takes down by itself who has tried the name of a user.
        if origin.door.is_implicit() && user.is_some() {
            return;
        }
        let refused = FailedRegistration {
            operation: operation.into(),
            user: user.map(|user| UserRef { id: user.id, username: user.username.clone() }),
            request: name.and_then(|(_, request)| request).map(|request| request.0),
            address: origin.source.to_canonical(),
            listener: Word::name(&origin.listener),
            cause: cause.into(),
        };
        recorder.registration_failed(refused, self.now().wall);
    }
}

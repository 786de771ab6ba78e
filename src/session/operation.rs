//! The registry's operations: which topics they are, and where they are answered.
//!
//! A topic enters; an operation leaves, if it is one. Every other topic below `$registry/` is none, whatever it looks like.

use crate::mqtt::{TopicFilter, TopicName};

/// One of the registry's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegistryOperation {
    /// Draw a nonce.
    Challenge,
    /// Register, or poll.
    Register,
    /// A new certificate for the caller's own identity.
    Renew,
    /// The caller's identity and permissions.
    Whoami,
    /// The trust bundle.
    Ca,
    /// What operators do: for users with a rule for it.
    Admin(AdminOperation),
}

impl RegistryOperation {
    /// Those that are open to every session.
    pub const OPEN: [Self; 5] = [Self::Challenge, Self::Register, Self::Renew, Self::Whoami, Self::Ca];

    /// The words in the topic, after `$registry/`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Challenge => "challenge",
            Self::Register => "register",
            Self::Renew => "renew",
            Self::Whoami => "whoami",
            Self::Ca => "ca",
            Self::Admin(operation) => operation.as_str(),
        }
    }

    /// Is it what somebody without an identity comes for?
    pub fn enrols(self) -> bool {
        match self {
            Self::Challenge | Self::Register | Self::Renew => true,
            Self::Whoami | Self::Ca | Self::Admin(_) => false,
        }
    }

    /// The operation that a message to `topic` asks for.
    pub fn of(topic: &TopicName) -> Option<Self> {
        let words = topic.as_str().strip_prefix("$registry/")?;
        let all = Self::OPEN.into_iter().chain(AdminOperation::ALL.map(Self::Admin));
        all.into_iter().find(|operation| operation.as_str() == words)
    }
}

/// One of the registry's operations for operators: what the REST API does below `/api/client-registry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdminOperation {
    /// Some of the requests.
    List,
    /// One request.
    Show,
    /// A request becomes a user.
    Grant,
    /// A request is turned down.
    Deny,
    /// Opens the door.
    Unlock,
    /// Shuts it.
    Lock,
    /// How the door stands.
    Status,
    /// Opens a name to a new key.
    Replace,
    /// Shuts it again.
    ReplaceCancel,
    /// The names that are open.
    Replacements,
    /// Makes a claim token.
    TokenCreate,
    /// Some of the tokens.
    TokenList,
    /// One token.
    TokenShow,
    /// Ends a token.
    TokenRevoke,
}

impl AdminOperation {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::List,
        Self::Show,
        Self::Grant,
        Self::Deny,
        Self::Unlock,
        Self::Lock,
        Self::Status,
        Self::Replace,
        Self::ReplaceCancel,
        Self::Replacements,
        Self::TokenCreate,
        Self::TokenList,
        Self::TokenShow,
        Self::TokenRevoke,
    ];

    /// The words in the topic, after `$registry/`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::List => "admin/list",
            Self::Show => "admin/show",
            Self::Grant => "admin/grant",
            Self::Deny => "admin/deny",
            Self::Unlock => "admin/unlock",
            Self::Lock => "admin/lock",
            Self::Status => "admin/status",
            Self::Replace => "admin/replace",
            Self::ReplaceCancel => "admin/replace-cancel",
            Self::Replacements => "admin/replacements",
            Self::TokenCreate => "admin/token-create",
            Self::TokenList => "admin/token-list",
            Self::TokenShow => "admin/token-show",
            Self::TokenRevoke => "admin/token-revoke",
        }
    }

    /// The topic to publish to, which the right to do it is about.
    pub fn topic(self) -> TopicName {
        #[expect(clippy::expect_used, reason = "constants; a test makes every one")]
        TopicName::try_from(format!("$registry/{}", self.as_str()).as_str()).expect("a topic name")
    }

    /// The operation whose answers come on `topic`.
    pub fn answered_on(topic: &TopicName) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| is_answer_topic(topic, operation.as_str()))
    }
}

/// Topics that the rules say nothing about: what the registry says to one connection, whoever it is.
pub fn is_answer_filter(filter: &TopicFilter) -> bool {
    filter.as_str() == INVITATION || is_covered(filter, "$registry/+/response/#")
}

/// Topics on which operators are answered: every user may subscribe to them, and gets what its own messages are answered.
pub fn is_admin_answer_filter(filter: &TopicFilter) -> bool {
    is_covered(filter, "$registry/admin/+/response/#")
}

/// Where a client is invited to renew its certificate.
pub(super) const INVITATION: &str = "$registry/renew/invite";

fn is_covered(filter: &TopicFilter, by: &'static str) -> bool {
    TopicFilter::try_from(bytestring::ByteString::from_static(by)).is_ok_and(|answers| answers.covers(filter))
}

/// Does the topic lie in the answer space of this operation?
pub(super) fn is_answer_topic(topic: &TopicName, operation: &str) -> bool {
    let rest = topic.as_str().strip_prefix("$registry/").and_then(|rest| rest.strip_prefix(operation));
    rest.and_then(|rest| rest.strip_prefix("/response")).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        text.parse().unwrap()
    }

    #[test]
    fn every_operation_is_found_by_its_topic_and_by_nothing_else() {
        for operation in RegistryOperation::OPEN.into_iter().chain(AdminOperation::ALL.map(RegistryOperation::Admin)) {
            let name = format!("$registry/{}", operation.as_str());
            assert_eq!(RegistryOperation::of(&topic(&name)), Some(operation));
            for other in [
                format!("{name}/"),
                format!("{name}/extra"),
                format!("/{name}"),
                format!("x/{name}"),
                name.replace("$registry", "$REGISTRY"),
                name.replace("$registry", "registry"),
                name.replace("$registry/", "$registry//"),
                name.to_uppercase(),
                format!("{name} "),
                format!("{name}/response"),
            ] {
                assert_eq!(RegistryOperation::of(&topic(&other)), None, "{other}");
            }
        }
        for none in ["$registry", "$registry/", "$registry/admin", "$registry/admin/", "$registry/admin/delete"] {
            assert_eq!(RegistryOperation::of(&topic(none)), None, "{none}");
        }
    }

    #[test]
    fn an_answer_belongs_to_one_operation() {
        for operation in AdminOperation::ALL {
            assert_eq!(RegistryOperation::of(&operation.topic()), Some(RegistryOperation::Admin(operation)));
            for end in ["/response", "/response/7"] {
                let answer = topic(&format!("{}{end}", operation.topic()));
                assert_eq!(AdminOperation::answered_on(&answer), Some(operation));
                assert!(is_admin_answer_filter(&answer.as_str().parse().unwrap()));
            }
            assert_eq!(AdminOperation::answered_on(&operation.topic()), None);
        }
        for other in ["$registry/register/response", "$registry/admin/response", "$registry/admin/grant/responses"] {
            assert_eq!(AdminOperation::answered_on(&topic(other)), None, "{other}");
        }
        for wider in ["$registry/admin/#", "$registry/admin/+", "$registry/+/+/response", "$registry/admin/grant", "#"]
        {
            assert!(!is_admin_answer_filter(&wider.parse().unwrap()), "{wider}");
        }
    }
}

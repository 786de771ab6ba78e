//! What only some may do with the registry, and the right that it takes.
//!
//! Entering: a deed, and who would do it. Leaving: what that one must be allowed to write to: over MQTT the operation, at every other door the
//! route of the API. Pure. Never: a right of one door for a deed that came through another.

use super::request::RequestId;
use super::token::TokenId;
use crate::access::Username;
use crate::audit::Who;
use crate::directory::{Actor, Right};
use crate::session::AdminOperation;

/// What only some may do.
pub(super) enum Deed<'a> {
    Grant(RequestId),
    Deny(RequestId),
    Unlock,
    Lock,
    Replace(&'a Username),
    CancelReplacement(&'a Username),
    CreateToken,
    RevokeToken(TokenId),
}

impl Deed<'_> {
    /// The right that it takes for this actor.
    pub(super) fn right(&self, actor: &Actor) -> Right {
        match actor.right() {
            Some(Right::Mqtt { client_id, .. }) => {
                Right::Mqtt { operation: self.operation().topic(), client_id: client_id.clone() }
            }
            Some(Right::Http(_)) | None => Right::Http(self.route()),
        }
    }

    fn operation(&self) -> AdminOperation {
        match self {
            Self::Grant(_) => AdminOperation::Grant,
            Self::Deny(_) => AdminOperation::Deny,
            Self::Unlock => AdminOperation::Unlock,
            Self::Lock => AdminOperation::Lock,
            Self::Replace(_) => AdminOperation::Replace,
            Self::CancelReplacement(_) => AdminOperation::ReplaceCancel,
            Self::CreateToken => AdminOperation::TokenCreate,
            Self::RevokeToken(_) => AdminOperation::TokenRevoke,
        }
    }

    fn route(&self) -> Vec<String> {
        let (first, rest) = match self {
            Self::Grant(id) => ("requests", vec![id.to_string(), "grant".to_owned()]),
            Self::Deny(id) => ("requests", vec![id.to_string(), "deny".to_owned()]),
            Self::Unlock => ("unlock", Vec::new()),
            Self::Lock => ("lock", Vec::new()),
            Self::Replace(username) | Self::CancelReplacement(username) => ("replacements", vec![username.to_string()]),
            Self::CreateToken => ("tokens", Vec::new()),
            Self::RevokeToken(id) => ("tokens", vec![id.to_string()]),
        };
        ["api", "client-registry", first].map(str::to_owned).into_iter().chain(rest).collect()
    }

    /// Who has acted before acts again, by the right to do this.
    pub(super) fn again(&self, who: &Who, over_mqtt: bool) -> Actor {
        let actor = Actor::from(who);
        if over_mqtt { actor.by(Right::Mqtt { operation: self.operation().topic(), client_id: None }) } else { actor }
    }
}

/// Does it act over MQTT?
pub(super) fn is_over_mqtt(actor: &Actor) -> bool {
    matches!(actor.right(), Some(Right::Mqtt { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deed_takes_the_right_of_the_door_that_it_comes_through() {
        let (id, name): (RequestId, Username) = (RequestId(uuid::Uuid::nil()), "press-7".parse().unwrap());
        let who = Who::User { id: crate::access::UserId(uuid::Uuid::nil()), username: name.clone() };
        let token = TokenId(uuid::Uuid::nil());
        for (deed, route, operation) in [
            (Deed::Grant(id), "requests/00000000-0000-0000-0000-000000000000/grant", "grant"),
            (Deed::Deny(id), "requests/00000000-0000-0000-0000-000000000000/deny", "deny"),
            (Deed::Unlock, "unlock", "unlock"),
            (Deed::Lock, "lock", "lock"),
            (Deed::Replace(&name), "replacements/press-7", "replace"),
            (Deed::CancelReplacement(&name), "replacements/press-7", "replace-cancel"),
            (Deed::CreateToken, "tokens", "token-create"),
            (Deed::RevokeToken(token), "tokens/00000000-0000-0000-0000-000000000000", "token-revoke"),
        ] {
            let over = |over_mqtt| {
                let actor = deed.again(&who, over_mqtt);
                assert_eq!(is_over_mqtt(&actor), over_mqtt);
                deed.right(&actor).to_string()
            };
            assert_eq!(over(false), format!("`/api/client-registry/{route}` in the context `http`"));
            assert_eq!(over(true), format!("`$registry/admin/{operation}` in the context `mqtt`"));
        }
    }
}

//! The right by which a user administers: looked at when it asks, and again in the commit that does it.
//!
//! A snapshot and a user enter; yes or no leaves. What may be given or taken is for `delegation` to say.

use std::fmt;

use super::{Actor, DirectoryError, Excess};
use crate::access::{Policy, UserId};
use crate::mqtt::{ClientId, TopicName};

/// What rules must let a user write to, for what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// This path of the API, by its decoded segments, in the context `http`.
    Http(Vec<String>),
    /// This operation of the registry, in the context `mqtt`.
    Mqtt {
        /// `$registry/admin/<operation>`.
        operation: TopicName,
        /// As which client; `None`: whichever it was.
        client_id: Option<ClientId>,
    },
}

impl Right {
    /// Does the user hold it?
    pub fn is_held(&self, policy: &Policy, user: UserId) -> bool {
        let authority = match self {
            Self::Mqtt { client_id: Some(client_id), .. } => policy.authority(user, client_id),
            Self::Mqtt { client_id: None, .. } | Self::Http(_) => policy.authority_without_client(user),
        };
        authority.is_some_and(|authority| match self {
            Self::Http(segments) => authority.may_http(true, &segments.iter().map(String::as_str).collect::<Vec<_>>()),
            Self::Mqtt { operation, .. } => authority.may_administer(operation).is_some(),
        })
    }
}

/// As in "the right to write to ...".
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(segments) => write!(f, "`/{}` in the context `http`", segments.join("/")),
            Self::Mqtt { operation, .. } => write!(f, "`{operation}` in the context `mqtt`"),
        }
    }
}

/// Refuses whoever does not hold, in the snapshot before the commit, the right that it came with.
pub(super) fn check(before: &Policy, actor: &Actor) -> Result<(), DirectoryError> {
    match actor {
        Actor::User { id, username, right: Some(right), .. } if !right.is_held(before, *id) => {
            let excess = Excess::Right(Box::new(right.clone()));
            Err(DirectoryError::NotHeld { actor: username.clone(), subject: None, excess })
        }
        Actor::Token { author, .. } => check(before, author),
        Actor::Both { first, second } => check(before, first).and_then(|()| check(before, second)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;
    use crate::access::{Context, Operation, Permission};
    use crate::directory::{Directory, ErrorKind, Expected, NewUser, Transaction};

    const OPERATION: &str = "$registry/admin/grant";

    fn holder(directory: &Directory, username: &str) -> Actor {
        let permissions = vec![
            Permission::allow(Context::Mqtt, Operation::Write, OPERATION),
            Permission::allow(Context::Http, Operation::Write, "/api/x"),
        ];
        Actor::of(&directory.create_user(NewUser { permissions, ..new_user(username, &[]) }, &API).unwrap())
    }

    fn rights() -> [Right; 3] {
        let over_mqtt = |client_id| Right::Mqtt { operation: OPERATION.parse().unwrap(), client_id };
        let http = Right::Http(vec!["api".to_owned(), "x".to_owned()]);
        [http, over_mqtt(None), over_mqtt(Some("panel".parse().unwrap()))]
    }

    /// Whoever it acts through, and be there nothing but records to write.
    #[test]
    fn a_right_is_looked_at_in_the_commit_that_uses_it() {
        for right in rights() {
            let directory = directory();
            let (ada, bob) = (holder(&directory, "ada"), holder(&directory, "bob"));
            let id = ada.user().unwrap().0;
            let ada = ada.by(right.clone());
            let both = |first: &Actor, second: &Actor| Actor::Both {
                first: Box::new(first.clone()),
                second: Box::new(second.clone()),
            };
            let token = Actor::Token { token: uuid::Uuid::nil(), author: Box::new(ada.clone()) };
            let actors = [ada.clone(), token, both(&ada, &bob), both(&bob, &ada)];
            for actor in &actors {
                directory.commit(Transaction::default(), actor).unwrap();
            }
            directory.update_user(id, Expected::Any, |user| user.permissions.clear(), &API).unwrap();
            for actor in &actors {
                let error = directory.commit(Transaction::default(), actor).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Forbidden);
                let why = format!("user `ada` may not do this: it has no right to write to {right} any more");
                assert_eq!(error.to_string(), why);
            }
            directory.commit(Transaction::default(), &bob).unwrap();
        }
    }

    #[test]
    fn a_right_is_of_its_context_its_client_and_its_user() {
        let directory = directory();
        let ada = holder(&directory, "ada").user().unwrap().0;
        let tied = NewUser {
            client_id: Some("panel".to_owned()),
            permissions: vec![Permission::allow(Context::Mqtt, Operation::Write, OPERATION)],
            ..new_user("tied", &[])
        };
        let tied = directory.create_user(tied, &API).unwrap().id;
        let policy = directory.policy();
        let held = |user| rights().map(|right| right.is_held(&policy, user));
        assert_eq!((held(ada), held(tied)), ([true; 3], [false, true, true]));
        let elsewhere =
            Right::Mqtt { operation: OPERATION.parse().unwrap(), client_id: Some("other".parse().unwrap()) };
        assert!(elsewhere.is_held(&policy, ada) && !elsewhere.is_held(&policy, tied));
        assert_eq!(held(UserId(uuid::Uuid::nil())), [false; 3]);
    }
}

//! An immutable snapshot of every user and role, compiled.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Authority, Role, RoleName, User, UserId, Username};
use crate::mqtt::ClientId;

/// Counts the snapshots of one running broker; the gate of each connection is stamped with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyVersion(pub u64);

/// Why a set of users and roles is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The resource of a permission is no pattern.
    #[error("the resource `{0}` is not a topic filter")]
    Resource(String),
}

/// The snapshot. Cheap to clone: it shares all that did not change with the one before it.
#[derive(Clone, Default)]
pub struct Policy {
    version: PolicyVersion,
}

impl Policy {
    /// Its number.
    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// The snapshot after this one with these things put in or (where `None`) taken out. All or nothing.
    pub fn with(
        &self,
        _roles: impl IntoIterator<Item = (RoleName, Option<Role>)>,
        _users: impl IntoIterator<Item = (UserId, Option<User>)>,
        _now: Timestamp,
    ) -> Result<Policy, PolicyError> {
        Ok(self.clone())
    }

    /// When a rule or user of this snapshot lapses next.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        None
    }

    /// The user with this identity.
    pub fn user(&self, _id: UserId) -> Option<&Arc<User>> {
        None
    }

    /// The user with this name.
    pub fn user_named(&self, _name: &Username) -> Option<&Arc<User>> {
        None
    }

    /// The role with this name.
    pub fn role(&self, _name: &RoleName) -> Option<&Arc<Role>> {
        None
    }

    /// Every user, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        std::iter::empty()
    }

    /// Every role, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        std::iter::empty()
    }

    /// What the user may do under that client identifier; `None` when it does not exist, is disabled or has expired,
    /// or when its `client_id` pattern does not admit the identifier.
    pub fn authority(&self, _user: UserId, _client_id: &ClientId) -> Option<Authority> {
        None
    }
}

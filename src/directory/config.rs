//! What broker.toml owns: one transaction that makes the directory hold just that, and nothing where it does already.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::state::State;
use super::{Change, DirectoryError, Expected, NewUser, Subject, Transaction};
use crate::access::{ManagedBy, Role, User, UserId};
use crate::store::Batch;

/// Adds, changes and removals of users and roles with `managed_by = "config"`.
pub(super) fn reconcile(state: &State, roles: Vec<Role>, users: Vec<NewUser>) -> Result<Transaction, DirectoryError> {
    check_names(state, &roles, &users)?;
    let mut changes = Vec::new();
    let role_names: BTreeSet<_> = roles.iter().map(|role| role.name.clone()).collect();
    let usernames: BTreeSet<_> = users.iter().map(|user| user.username.clone()).collect();
    for mut role in roles {
        role.managed_by = ManagedBy::Config;
        let old = state.policy.role(&role.name);
        role.version = old.map_or(0, |old| old.version);
        if old.is_none_or(|old| **old != role) {
            changes.push(Change::PutRole {
                role,
                expected: old.map_or(Expected::Absent, |old| Expected::Version(old.version)),
            });
        }
    }
    for user in users {
        let old = state.policy.user_named(&user.username);
        let id = old.map_or_else(|| UserId(Uuid::now_v7()), |old| old.id);
        let mut user = user.into_user(id, ManagedBy::Config);
        let expected = match old {
            Some(old) => {
                user =
                    User { created_at: old.created_at, last_seen_at: old.last_seen_at, version: old.version, ..user };
                Expected::Version(old.version)
            }
            None => Expected::Absent,
        };
        if old.is_none_or(|old| **old != user) {
            changes.push(Change::PutUser { user: Box::new(user), expected });
        }
    }
    for user in state.config_users().filter(|user| !usernames.contains(&user.username)) {
        changes.push(Change::DeleteUser { id: user.id, expected: Expected::Version(user.version) });
    }
    for role in
        state.policy.roles().filter(|role| role.managed_by == ManagedBy::Config && !role_names.contains(&role.name))
    {
        changes.push(Change::DeleteRole { name: role.name.clone(), expected: Expected::Version(role.version) });
    }
    Ok(Transaction { changes, records: Batch::new() })
}

/// Each name once, and none that somebody else owns: all of those are told at once.
fn check_names(state: &State, roles: &[Role], users: &[NewUser]) -> Result<(), DirectoryError> {
    let mut seen_roles = BTreeSet::new();
    let mut seen_users = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for role in roles {
        let subject = || Subject::Role(role.name.clone());
        if !seen_roles.insert(&role.name) {
            return Err(DirectoryError::Repeated(subject()));
        }
        super::state::check_built_in(&role.name)?;
        if state.policy.role(&role.name).is_some_and(|old| old.managed_by != ManagedBy::Config) {
            elsewhere.push(subject());
        }
    }
    for user in users {
        let subject = || Subject::User(user.username.to_string());
        if !seen_users.insert(&user.username) {
            return Err(DirectoryError::Repeated(subject()));
        }
        if state.policy.user_named(&user.username).is_some_and(|old| old.managed_by != ManagedBy::Config) {
            elsewhere.push(subject());
        }
    }
    if elsewhere.is_empty() { Ok(()) } else { Err(DirectoryError::OwnedElsewhere(elsewhere)) }
}

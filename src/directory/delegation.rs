//! Nobody hands out what they do not hold.
//!
//! The snapshots before and after a transaction enter, with whoever makes it; a refusal leaves, or nothing. Only a user of
//! the broker is bound: the machine, broker.toml and the broker itself are not, and a holder of `admin` holds everything.
//! It is looked at what changes: all that a user holds before and after its change, and every rule of a changed role.
//! What the actor holds is judged by the snapshot before: nothing that a transaction gives can be used within it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::{Actor, DirectoryError, Right, Subject};
use crate::access::{Authority, Context, Effect, Permission, Policy, Quota, Role, RoleName, User, UserId};

/// What is more than the actor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// This rule.
    Rule(Box<Permission>),
    /// The role `admin`.
    Admin,
    /// Deny rules on groups of shared subscriptions in a role: whom they bind does not show in the role.
    GroupDeny,
    /// A group of shared subscriptions would open to everybody.
    OpensGroup,
    /// A quota wider than the actor's own.
    Quota,
    /// A password hash of another broker: while it is on record, every login of anybody pays for its iterations.
    Pbkdf2,
    /// The actor itself is gone, disabled or expired.
    Gone,
    /// The right that the actor came with is gone.
    Right(Box<Right>),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => {
                let (context, operation) = (rule.context.as_str(), rule.operation.as_str());
                write!(f, "`{context} {operation} {}` is more than its own permissions cover", rule.resource)
            }
            Self::Admin => f.write_str("the role `admin` is for its holders to give and to administer"),
            Self::GroupDeny => {
                f.write_str("deny rules on shared subscription groups in a role are for holders of `admin` to change")
            }
            Self::OpensGroup => f.write_str("a shared subscription group would open to everybody"),
            Self::Quota => f.write_str("the quota is wider than its own"),
            Self::Pbkdf2 => f.write_str("password hashes of another broker are for holders of `admin` to set"),
            Self::Gone => f.write_str("it is disabled, has expired, or is gone"),
            Self::Right(right) => write!(f, "it has no right to write to {right} any more"),
        }
    }
}

/// A user or a role before and after: `None` where there is none.
type Sides<'a, T> = [(&'a Policy, Option<&'a T>); 2];

/// Refuses what `actor` may not do, given what it does to these users and roles, and whether it revokes `issuers`.
pub(super) fn check(
    (before, after): (&Policy, &Policy),
    users: &[UserId],
    roles: &[RoleName],
    issuers: bool,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), DirectoryError> {
    if let Actor::Both { first, second } = actor {
        let each = |actor: &Actor| check((before, after), users, roles, issuers, actor, now);
        return each(first).and_then(|()| each(second));
    }
    let Some((id, username)) = actor.user() else { return Ok(()) };
    let refuse =
        |subject: Option<Subject>, excess| Err(DirectoryError::NotHeld { actor: username.clone(), subject, excess });
    let lives = before.user(id).is_some_and(|user| user.expires_at.is_none_or(|end| end > now));
    let quota = before.user(id).map(|user| quota_of(user)).unwrap_or_default();
    let Some(authority) = before.authority_without_client(id).filter(|_| lives) else {
        return refuse(None, Excess::Gone);
    };
    if authority.is_admin() {
        return Ok(());
    }
    if issuers {
        return refuse(None, Excess::Admin);
    }
    let mut scale = Scale { authority, now, roles: BTreeMap::new() };
    for name in roles {
        let sides = [(before, before.role(name).map(AsRef::as_ref)), (after, after.role(name).map(AsRef::as_ref))];
        if let Some(excess) = scale.role(sides) {
            return refuse(Some(Subject::Role(name.clone())), excess);
        }
    }
    for user in users {
        let sides: Sides<'_, User> =
            [(before, before.user(*user).map(AsRef::as_ref)), (after, after.user(*user).map(AsRef::as_ref))];
        let [old, new] = sides.map(|(_, user)| user.and_then(|user| user.password_hash.as_ref()));
        if old != new
            && let [_, (_, Some(user))] = sides
            && user.pbkdf2_iterations().is_some()
        {
            return refuse(Some(Subject::User(user.username.to_string())), Excess::Pbkdf2);
        }
        if let ([(_, Some(old)), (_, Some(new))], true) = (sides, *user == id)
            && same_rights(old, new)
        {
            // Its own password and description are everybody's own.
            continue;
        }
        if let [_, (_, Some(user))] = sides
            && !quota.admits(&quota_of(user))
        {
            return refuse(Some(Subject::User(user.username.to_string())), Excess::Quota);
        }
        for (at, (policy, user)) in sides.into_iter().enumerate() {
            if let Some(user) = user
                && let Some(excess) = scale.user(at, policy, user)
            {
                return refuse(Some(Subject::User(user.username.to_string())), excess);
            }
        }
    }
    if after.opens_groups_of(before) { refuse(None, Excess::OpensGroup) } else { Ok(()) }
}

/// What is weighed against what the actor holds.
struct Scale {
    authority: Authority,
    now: Timestamp,
    /// Whether all of a role is held, by the side that it is looked at from.
    roles: BTreeMap<(usize, RoleName), Option<Excess>>,
}

impl Scale {
    /// A role is administered rule by rule. Taking a deny away gives to holders who are not looked at, and a new one takes
    /// from them: so a deny is for those only who hold what it denies.
    fn role(&self, sides: Sides<'_, Role>) -> Option<Excess> {
        let [old, new] = sides.map(|(_, role)| role.map(|role| role.permissions.as_slice()).unwrap_or_default());
        if group_denies(old) != group_denies(new) {
            return Some(Excess::GroupDeny);
        }
        let [(before, role), _] = sides;
        if let Some(role) = role
            && before
                .users_with_role(&RoleName::admin())
                .filter_map(|id| before.user(id))
                .any(|admin| admin.roles.contains(&role.name))
        {
            return Some(Excess::Admin);
        }
        old.iter()
            .chain(new)
            .filter(|rule| self.counts(rule) && !is_group_deny(rule))
            .find(|rule| !self.authority.commands(rule))
            .map(|rule| Excess::Rule(Box::new(rule.clone())))
    }

    /// All that a user holds: its own rules and those of its roles. What it is denied makes it no smaller.
    fn user(&mut self, at: usize, policy: &Policy, user: &User) -> Option<Excess> {
        if user.roles.contains(&RoleName::admin()) {
            return Some(Excess::Admin);
        }
        let end = user.expires_at;
        if let Some(excess) = self.rules(&user.permissions, end) {
            return Some(excess);
        }
        for name in &user.roles {
            let Some(role) = policy.role(name) else { continue };
            let key = (at, name.clone());
            if !self.roles.contains_key(&key) {
                let excess = self.rules(&role.permissions, None);
                self.roles.insert(key.clone(), excess);
            }
            // A role that is too much for good may be held for as long as its holder lasts.
            if self.roles.get(&key).is_some_and(Option::is_some)
                && (end.is_none() || self.rules(&role.permissions, end).is_some())
            {
                return self.rules(&role.permissions, end);
            }
        }
        None
    }

    fn rules(&self, rules: &[Permission], end: Option<Timestamp>) -> Option<Excess> {
        rules
            .iter()
            .filter(|rule| self.counts(rule))
            .find(|rule| !self.authority.holds_until(rule, end))
            .map(|rule| Excess::Rule(Box::new(rule.clone())))
    }

    fn counts(&self, rule: &Permission) -> bool {
        rule.not_after.is_none_or(|end| end > self.now)
    }
}

fn quota_of(user: &User) -> Quota {
    user.quota.as_deref().copied().unwrap_or_default()
}

fn same_rights(old: &User, new: &User) -> bool {
    old.username == new.username
        && old.roles == new.roles
        && old.permissions == new.permissions
        && old.enabled == new.enabled
        && old.auth == new.auth
        && old.certificates == new.certificates
        && old.publish_prefix == new.publish_prefix
        && old.client_id == new.client_id
        && old.quota == new.quota
        && old.expires_at == new.expires_at
}

fn is_group_deny(rule: &Permission) -> bool {
    rule.effect == Effect::Deny && rule.context == Context::Mqtt && rule.resource.starts_with("$share/")
}

fn group_denies(rules: &[Permission]) -> Vec<&Permission> {
    let mut denies: Vec<_> = rules.iter().filter(|rule| is_group_deny(rule)).collect();
    denies.sort_by(|one, other| one.resource.cmp(&other.resource));
    denies
}

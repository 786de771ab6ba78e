//! What a step from one snapshot to the next means for the sessions that there are.
//!
//! The directory knows users, not connections: whoever holds the sessions implements [`LiveSessions`] and is handed to
//! those who ask. Nothing here is changed or ended.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::PolicyChange;
use crate::access::{Authority, Permission, Policy, RoleName, SubscribeVerdict, UserId, Username};
use crate::mqtt::{QoS, TopicFilter};

/// Who can say what a change would do to each session.
pub trait LiveSessions: Send + Sync + 'static {
    /// The sessions that would lose or gain something, by user and client identifier; persistent sessions that nobody is
    /// connected to included.
    fn effects(&self, change: &PolicyChange) -> Vec<SessionEffect>;
}

/// What a change does to one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEffect {
    /// Whose it is.
    pub username: Username,
    /// Which of theirs.
    pub client_id: String,
    /// Is a client connected?
    pub connected: bool,
    /// It ends, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// Subscriptions that are withheld, narrowed, widened or restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionEffect>,
    /// Rules that no longer apply to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules_removed: Vec<Permission>,
    /// Rules that apply from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules_added: Vec<Permission>,
    /// Its quota changes, or what is put in front of the topics that it publishes to.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terms_change: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls it with")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a change does to one subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionEffect {
    /// Which.
    pub filter: String,
    /// As it is.
    pub before: Standing,
    /// As it would be.
    pub after: Standing,
}

/// What a subscription delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "delivers")]
pub enum Standing {
    /// Every topic of the filter, at this QoS at most.
    All {
        /// 0 to 2.
        max_qos: u8,
    },
    /// The topics of it that the user may read.
    Some,
    /// Nothing; it lives again when the rules admit it.
    Nothing,
}

impl Standing {
    /// Of a subscription that was granted with this QoS.
    pub fn of(authority: Option<&Authority>, filter: &TopicFilter, granted: QoS) -> Self {
        match authority.map(|authority| authority.may_subscribe(filter)) {
            Some(SubscribeVerdict::Granted { max_qos, unconditional: true }) => {
                Self::All { max_qos: max_qos.min(granted) as u8 }
            }
            Some(SubscribeVerdict::Granted { .. } | SubscribeVerdict::Partial { .. }) => Self::Some,
            Some(SubscribeVerdict::Refused) | None => Self::Nothing,
        }
    }
}

/// Rules that leave, and rules that come.
type Moved = (Vec<Permission>, Vec<Permission>);

/// Rules that leave a user and that come to it, by content: one that moves from a role to another does neither. Users who
/// have nothing but the same roles are looked at once.
pub struct RuleDifference<'a> {
    change: &'a PolicyChange,
    /// By the roles held before and after.
    of_roles: HashMap<(Vec<RoleName>, Vec<RoleName>), Moved>,
}

impl<'a> RuleDifference<'a> {
    /// For the users of this change.
    pub fn of(change: &'a PolicyChange) -> Self {
        Self { change, of_roles: HashMap::new() }
    }

    /// What is removed from and added to the rules of this user.
    pub fn of_user(&mut self, user: UserId) -> (Vec<Permission>, Vec<Permission>) {
        let (old, new) = (&self.change.old, &self.change.new);
        let roles = |policy: &Policy| policy.user(user).map(|user| user.roles.clone()).unwrap_or_default();
        let owns = |policy: &Policy| policy.user(user).is_some_and(|user| !user.permissions.is_empty());
        if owns(old) || owns(new) {
            return difference(&rules_of(old, user), &rules_of(new, user));
        }
        let difference = || difference(&rules_of(old, user), &rules_of(new, user));
        self.of_roles.entry((roles(old), roles(new))).or_insert_with(difference).clone()
    }
}

fn rules_of(policy: &Policy, user: UserId) -> Vec<&Permission> {
    let Some(user) = policy.user(user) else { return Vec::new() };
    let of_roles = user.roles.iter().filter_map(|role| policy.role(role)).flat_map(|role| &role.permissions);
    user.permissions.iter().chain(of_roles).collect()
}

fn difference(old: &[&Permission], new: &[&Permission]) -> Moved {
    let only_in = |these: &[&Permission], those: &[&Permission]| {
        let mut known: HashSet<&Permission> = those.iter().copied().collect();
        these.iter().filter(|rule| known.insert(rule)).map(|rule| Permission::clone(rule)).collect()
    };
    (only_in(old, new), only_in(new, old))
}

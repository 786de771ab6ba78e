//! Two people for one grant: what the first has said, and whether the second says the same.
//!
//! Entering: who grants, and what. Leaving: an [`Approval`] as it is kept, or that two different people agree. Pure. Never: one person
//! counted twice.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::operator::GrantTerms;
use crate::audit::Who;

/// The first of two decisions to grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// On whose rights; those of a token are its author's.
    pub who: Who,
    /// The person, the token or the rule.
    pub by: String,
    /// Was it said over MQTT? Then that is what its author must still be allowed to do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_mqtt: bool,
    /// When.
    pub at: Timestamp,
    /// What would be granted.
    pub grant: GrantTerms,
}

/// What a decision to grant is, after an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Another person grants the same.
    Agreed,
    /// The same person has said it again.
    Repeated,
    /// Something else is to be granted: it begins anew.
    Differs,
}

/// Whose word an approval is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice<'a> {
    /// A person's own.
    Person,
    /// The author's, given with a token.
    Token,
    /// That of broker.toml, in the rule of this name.
    Rule(&'a str),
}

impl Approval {
    /// Whose word it is. A person's is `user:NAME` or the like: what is written of one never begins as that of a token or a rule does.
    pub(super) fn voice(&self) -> Voice<'_> {
        match self.by.split_once(' ') {
            Some(("rule", name)) => Voice::Rule(name),
            Some(("token", _)) => Voice::Token,
            _ => Voice::Person,
        }
    }

    /// What this decision is after the approval.
    pub(super) fn meets(&self, who: &Who, grant: &GrantTerms) -> Meeting {
        match (same_grant(&self.grant, grant), same_person(&self.who, who)) {
            (false, _) => Meeting::Differs,
            (true, true) => Meeting::Repeated,
            (true, false) => Meeting::Agreed,
        }
    }
}

/// Users are told apart by identity. Everybody else is the machine: who may open its socket may become anybody on it, and edit
/// broker.toml.
fn same_person(one: &Who, other: &Who) -> bool {
    match (one, other) {
        (Who::User { id: one, .. }, Who::User { id: other, .. }) => one == other,
        (Who::User { .. }, _) | (_, Who::User { .. }) => false,
        _ => true,
    }
}

/// The same rights, in whatever order. Comments are each person's own, and so is whether the code was compared.
pub(super) fn same_grant(one: &GrantTerms, other: &GrantTerms) -> bool {
    one.publish_prefix == other.publish_prefix
        && one.expires_at == other.expires_at
        && same_set(&one.roles, &other.roles)
        && same_set(&one.permissions, &other.permissions)
}

fn same_set<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    one.iter().all(|it| other.contains(it)) && other.iter().all(|it| one.contains(it))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::access::{Context, Operation, Permission, UserId};

    fn user(number: u128, name: &str) -> Who {
        Who::User { id: UserId(Uuid::from_u128(number)), username: name.parse().unwrap() }
    }

    fn grant(roles: &[&str]) -> GrantTerms {
        GrantTerms { roles: roles.iter().map(|role| role.parse().unwrap()).collect(), ..GrantTerms::default() }
    }

    #[test]
    fn a_person_is_an_identity_and_the_machine_is_one_person() {
        let people = [
            (user(1, "ada"), 1),
            (user(1, "renamed"), 1),
            (user(2, "ada"), 2),
            (Who::Local { uid: 0 }, 3),
            (Who::Local { uid: 1000 }, 3),
            (Who::System, 3),
            (Who::Registry, 3),
            (Who::Config, 3),
        ];
        for (one, this) in &people {
            for (other, that) in &people {
                assert_eq!(same_person(one, other), this == that, "{one} {other}");
            }
        }
    }

    #[test]
    fn two_people_must_say_the_same() {
        let at = Timestamp::UNIX_EPOCH;
        let first =
            Approval { who: user(1, "ada"), by: "user:ada".into(), over_mqtt: false, at, grant: grant(&["a", "b"]) };
        let bob = user(2, "bob");
        let comment = GrantTerms { comment: Some("fine".into()), unpaired: true, ..grant(&["b", "a"]) };
        assert_eq!(first.meets(&bob, &comment), Meeting::Agreed);
        assert_eq!(first.meets(&user(1, "ada"), &grant(&["b", "a"])), Meeting::Repeated);
        let rule = Permission::allow(Context::Mqtt, Operation::Read, "a");
        for other in [
            grant(&["a"]),
            grant(&["a", "b", "c"]),
            grant(&[]),
            GrantTerms { permissions: vec![rule], ..grant(&["a", "b"]) },
            GrantTerms { publish_prefix: Some("x/".into()), ..grant(&["a", "b"]) },
            GrantTerms { expires_at: Some(at), ..grant(&["a", "b"]) },
        ] {
            assert_eq!(first.meets(&bob, &other), Meeting::Differs, "{other:?}");
        }
    }
}

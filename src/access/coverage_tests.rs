//! What is held, against its slow definition and against its meaning.

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

use super::reference::tests::{rule, rules, universe};
use super::reference::{Who, authority, decide, decide_path, holds};
use super::*;

use Context::{Http, Mqtt};
use Operation::{Read, ReadWrite, Write};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn alice(rules: &[Permission]) -> Authority {
    authority(rules, "alice", None).unwrap()
}

fn until(seconds: i64, rule: Permission) -> Permission {
    Permission { not_after: Some(NOW + jiff::SignedDuration::from_secs(seconds)), ..rule }
}

#[test]
fn what_is_held_is_covered_whoever_gets_it_and_no_deny_touches_it() {
    let allow = |resource| Permission::allow(Mqtt, Read, resource);
    let deny = |resource| Permission::deny(Mqtt, Read, resource);
    for (own, asked, held) in [
        (vec![allow("plant/#")], allow("plant/#"), true),
        (vec![allow("plant/#")], allow("plant"), true),
        (vec![allow("plant/#")], allow("plant/${username}/#"), true),
        (vec![allow("plant/#")], allow("plant/${client_id}"), true),
        (vec![allow("plant/${username}/#")], allow("plant/${username}/#"), false),
        (vec![allow("plant/${username}/#")], allow("plant/alice/x"), true),
        (vec![allow("plant/${username}/#")], allow("plant/bob/x"), false),
        (vec![allow("plant/${client_id}")], allow("plant/${client_id}"), false),
        (vec![allow("plant/+")], allow("plant/#"), false),
        (vec![allow("+/#")], allow("#"), true),
        (vec![allow("#")], allow("$SYS/#"), false),
        (vec![allow("a/#"), allow("b/#")], allow("+/#"), false),
        (vec![allow("plant/#"), deny("plant/secret")], allow("plant/#"), false),
        (vec![allow("plant/#"), deny("plant/secret")], allow("plant/open"), true),
        (vec![allow("plant/#"), deny("plant/${client_id}")], allow("plant/x"), false),
        (vec![allow("plant/#"), deny("$share/g/plant/a")], allow("plant/+"), false),
        (vec![allow("plant/#"), deny("$share/g/other")], allow("plant/+"), true),
        (vec![allow("#")], allow("$share/g/#"), false),
        (vec![allow("$share/g/#")], allow("$share/g/a"), false),
        (vec![allow("$share/g/#"), allow("a")], allow("$share/g/a"), true),
        (vec![allow("$share/g/#")], allow("$share/+/a"), false),
        (vec![], deny("#"), true),
        (vec![], allow("a"), false),
    ] {
        assert_eq!(alice(&own).holds(&asked), held, "{} of {own:?}", asked.resource);
    }
}

#[test]
fn conditions_are_held_as_well() {
    let any = || Permission::allow(Mqtt, ReadWrite, "a/#");
    let lower = Permission { max_qos: Some(1), ..any() };
    let plain = Permission { retain: Some(false), ..any() };
    assert!(alice(&[any()]).holds(&lower) && alice(&[any()]).holds(&plain));
    assert!(!alice(std::slice::from_ref(&lower)).holds(&any()) && !alice(std::slice::from_ref(&plain)).holds(&any()));
    assert!(alice(&[lower, Permission { max_qos: Some(2), ..plain }]).holds(&any()), "together they admit all of it");
    let write = Permission::allow(Mqtt, Write, "a/b");
    assert!(alice(&[any()]).holds(&write) && !alice(&[write]).holds(&any()));
}

#[test]
fn nothing_is_held_for_longer_than_it_lasts() {
    let allow = || Permission::allow(Mqtt, Read, "a/#");
    let boxed = alice(&[until(100, allow())]);
    assert!(boxed.holds(&until(100, allow())) && boxed.holds(&until(99, allow())));
    assert!(!boxed.holds(&until(101, allow())) && !boxed.holds(&allow()));
    assert!(boxed.holds_until(&allow(), Some(NOW)) && alice(&[allow()]).holds(&until(1, allow())));

    let id = UserId(Uuid::from_u128(1));
    let mut user = User::new(id, "alice".parse().unwrap(), NOW);
    (user.permissions, user.expires_at) = (vec![allow()], until(100, allow()).not_after);
    let policy = Policy::default().with([], [(id, Some(user))], NOW).unwrap();
    let expiring = policy.authority_without_client(id).unwrap();
    assert!(expiring.holds(&until(100, allow())) && !expiring.holds(&allow()));
}

#[test]
fn only_the_role_admin_holds_everything() {
    let id = UserId(Uuid::from_u128(1));
    let user = User { roles: vec![RoleName::admin()], ..User::new(id, "alice".parse().unwrap(), NOW) };
    let policy = Policy::default().with([], [(id, Some(user))], NOW).unwrap();
    let admin = policy.authority_without_client(id).unwrap();
    assert!(admin.is_admin() && admin.holds(&Permission::allow(Mqtt, ReadWrite, "$anything/#")));
    let same_rules = alice(&policy.role(&RoleName::admin()).unwrap().permissions);
    assert!(!same_rules.is_admin() && !same_rules.holds(&Permission::allow(Mqtt, ReadWrite, "$anything/#")));
    assert!(!Authority::none(PolicyVersion(1)).holds(&Permission::allow(Mqtt, Read, "a")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_held_is_what_trying_every_topic_says(rules in rules(), asked in rule()) {
        let who = Who { username: "alice", client_id: None };
        // `alice` is a level too, so that the user's own placeholder can match.
        let universe: Vec<_> = universe("alice");
        prop_assert_eq!(alice(&rules).holds(&asked), holds(&rules, &asked, &universe, who), "{:?} of {:?}", asked, rules);
    }

    #[test]
    fn whoever_gets_what_is_held_may_do_no_more_than_its_giver(
        rules in rules(), pick in any::<prop::sample::Index>(), asked in rule(), fresh in any::<bool>(),
        username in select(["bob", "alice", "a", "fresh"].as_slice()), client_id in select(["a", "b", "a/b", "+", "$x", "bob"].as_slice()),
    ) {
        // A rule that is drawn on its own is rarely held; one of the giver's own often is.
        let asked = if fresh || rules.is_empty() { asked } else { pick.get(&rules).clone() };
        let giver = alice(&rules);
        if asked.effect == Effect::Deny || asked.resource.starts_with("$share/") || !giver.holds(&asked) {
            return Ok(());
        }
        let whose = Who { username: "alice", client_id: None };
        let theirs = Who { username, client_id: Some(client_id) };
        for topic in universe("alice") {
            for write in [false, true] {
                if let Some((max_qos, retain)) = decide(std::slice::from_ref(&asked), write, &topic, theirs) {
                    let own = decide(&rules, write, &topic, whose);
                    prop_assert!(own.is_some_and(|own| own.0 >= max_qos && (!write || own.1 >= retain)), "{topic}: {asked:?} of {rules:?}");
                }
            }
        }
    }

    #[test]
    fn paths_that_are_held_are_allowed_to_their_giver(
        rules in prop::collection::vec((select(["/#", "/", "/+", "/api/#", "/api/+", "/api/users/${username}", "/api/+/x"].as_slice()), 0..4_u8, 0..3_u8), 0..5),
        resource in select(["/#", "/", "/+", "/api/#", "/api", "/api/x", "/api/users/${username}", "/api/users/alice"].as_slice()), operation in 0..3_u8,
        username in select(["alice", "bob", "x"].as_slice()),
    ) {
        let operation_of = |number| [Read, Write, ReadWrite][usize::from(number)];
        let rules: Vec<Permission> = rules.into_iter().map(|(resource, deny, operation)| {
            let operation = operation_of(operation);
            if deny == 0 { Permission::deny(Http, operation, resource) } else { Permission::allow(Http, operation, resource) }
        }).collect();
        let asked = Permission::allow(Http, operation_of(operation), resource);
        if !alice(&rules).holds(&asked) {
            return Ok(());
        }
        let levels = ["api", "users", "alice", "bob", "x"];
        let mut paths = Vec::new();
        for one in levels {
            paths.push(format!("/{one}"));
            for two in levels {
                paths.push(format!("/{one}/{two}"));
                paths.extend(levels.iter().map(|three| format!("/{one}/{two}/{three}")));
            }
        }
        let decided = |rules: &[Permission], write, path: &str, username| decide_path(rules, write, path, Who { username, client_id: None });
        for path in paths {
            for write in [false, true] {
                if decided(std::slice::from_ref(&asked), write, &path, username) {
                    prop_assert!(decided(&rules, write, &path, "alice"), "{path}: {asked:?} of {rules:?}");
                }
            }
        }
    }
}

//! Nobody hands out what they do not hold: one by one, and for any sequence of commits.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

use super::tests::*;
use super::*;
use crate::access::{
    Authority, Context, ManagedBy, Operation, Permission, Policy, Quota, Role, RoleName, SubscribeVerdict, User, UserId,
};
use crate::clock::Clock as _;

fn allow(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::ReadWrite, resource)
}

fn deny(resource: &str) -> Permission {
    Permission::deny(Context::Mqtt, Operation::ReadWrite, resource)
}

fn deny_group(resource: &str) -> Permission {
    Permission::deny(Context::Mqtt, Operation::Read, resource)
}

fn with(username: &str, roles: &[&str], permissions: &[Permission]) -> NewUser {
    NewUser { permissions: permissions.to_vec(), ..new_user(username, roles) }
}

/// `boss` may do everything in `plant`, but for `plant/safe`.
fn plant() -> (Directory, Actor) {
    let directory = directory();
    directory.create_first_admin("$argon2id$x".to_owned()).unwrap();
    let line = Role::new(role_name("line"), vec![allow("plant/line/${username}/#")]);
    directory.put_role(line, Expected::Absent, &API).unwrap();
    let wide = Role::new(role_name("wide"), vec![allow("#")]);
    directory.put_role(wide, Expected::Absent, &API).unwrap();
    let guard = Role::new(role_name("guard"), vec![deny("plant/line/secret")]);
    directory.put_role(guard, Expected::Absent, &API).unwrap();
    let foreign = Role::new(role_name("foreign"), vec![deny("office/#")]);
    directory.put_role(foreign, Expected::Absent, &API).unwrap();
    let of_admin = Role::new(role_name("of-admin"), vec![allow("plant/line/x")]);
    directory.put_role(of_admin, Expected::Absent, &API).unwrap();
    directory.create_user(new_user("second", &["admin", "of-admin"]), &API).unwrap();
    directory.create_user(new_user("owner", &["wide", "guard"]), &API).unwrap();
    let boss =
        directory.create_user(with("boss", &[], &[allow("plant/line/#"), allow("hall/#"), deny("hall/safe")]), &API);
    let boss = boss.unwrap();
    (directory, Actor::of(&boss))
}

fn id_of(directory: &Directory, username: &str) -> UserId {
    directory.policy().user_named(&name(username)).unwrap().id
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, DirectoryError>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    error.to_string()
}

#[test]
fn what_is_held_may_be_handed_out() {
    let (directory, boss) = plant();
    let user = directory.create_user(with("pump", &["line"], &[allow("plant/line/all")]), &boss).unwrap();
    directory.update_user(user.id, Expected::Any, |user| user.enabled = false, &boss).unwrap();
    let role = Role::new(role_name("sub"), vec![allow("plant/line/a"), deny("plant/line/a/b"), allow("hall/door")]);
    directory.put_role(role, Expected::Absent, &boss).unwrap();
    directory.update_user(user.id, Expected::Any, |user| user.roles.push(role_name("sub")), &boss).unwrap();
    directory.update_user(user.id, Expected::Any, |user| user.permissions = vec![deny("#")], &boss).unwrap();
    directory.delete_user(user.id, Expected::Any, &boss).unwrap();
    directory.delete_role(role_name("sub"), Expected::Any, &boss).unwrap();
}

#[test]
fn what_is_not_held_is_refused_whichever_way_it_is_tried() {
    let (directory, boss) = plant();
    let before = content(&directory);
    let put_role = |name: &str, rules: &[Permission]| {
        directory.put_role(Role::new(role_name(name), rules.to_vec()), Expected::Any, &boss)
    };
    let mut told = vec![
        // New users, with roles and with rules of their own.
        refused(directory.create_user(with("spare", &[], &[allow("office/x")]), &boss)),
        refused(directory.create_user(with("spare", &["wide"], &[]), &boss)),
        refused(directory.create_user(with("spare", &["observer"], &[]), &boss)),
        refused(directory.create_user(with("spare", &["admin"], &[]), &boss)),
        refused(directory.create_user(with("spare", &[], &[allow("hall/+")]), &boss)),
        // Roles: new ones, and those that others hold. A deny is neither given nor taken beyond one's own.
        refused(put_role("sub", &[allow("office/#")])),
        refused(put_role("line", &[allow("plant/line/${username}/#"), allow("office/#")])),
        refused(put_role("wide", &[])),
        refused(put_role("foreign", &[])),
        refused(put_role("line", &[deny("#")])),
        refused(put_role("of-admin", &[deny("plant/line/x")])),
        refused(directory.delete_role(role_name("foreign"), Expected::Any, &boss)),
    ];
    // Holders of more: changed, renamed, their password set, deleted.
    for victim in ["admin", "owner"] {
        let id = id_of(&directory, victim);
        told.push(refused(directory.update_user(id, Expected::Any, |user| user.enabled = false, &boss)));
        let hash = |user: &mut User| user.password_hash = Some("$argon2id$mine".to_owned());
        told.push(refused(directory.update_user(id, Expected::Any, hash, &boss)));
        told.push(refused(directory.update_user(id, Expected::Any, |user| user.roles.clear(), &boss)));
        told.push(refused(directory.delete_user(id, Expected::Any, &boss)));
    }
    // Itself.
    let own = id_of(&directory, "boss");
    told.push(refused(directory.update_user(own, Expected::Any, |user| user.permissions.truncate(2), &boss)));
    told.push(refused(directory.update_user(own, Expected::Any, |user| user.roles.push(RoleName::admin()), &boss)));
    // Groups.
    told.push(refused(put_role("sub", &[allow_group("$share/g/plant/line/#")])));
    told.push(refused(put_role("sub", &[deny_group("$share/g/plant/line/#")])));
    // A transaction that first gives the actor what the second change needs.
    let admin = directory.policy().user(own).map(|user| User::clone(user)).unwrap();
    let both = transaction([
        put(User { roles: vec![RoleName::admin()], ..admin }, Expected::Any),
        put(fresh("spare", &["wide"]), Expected::Absent),
    ]);
    told.push(refused(directory.commit(both, &boss)));
    assert_eq!(content(&directory), before);
    insta::assert_snapshot!("forbidden", told.join("\n"));
}

fn allow_group(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::Read, resource)
}

#[test]
fn everybody_may_change_their_own_password_and_description() {
    let (directory, boss) = plant();
    let own = id_of(&directory, "boss");
    let edit = |user: &mut User| {
        "the boss".clone_into(&mut user.description);
        user.password_hash = Some("$argon2id$new".to_owned());
    };
    directory.update_user(own, Expected::Any, edit, &boss).unwrap();
    let end = clock().timestamp() + SignedDuration::from_secs(60);
    refused(directory.update_user(own, Expected::Any, move |user| user.expires_at = Some(end), &boss));
}

#[test]
fn who_is_gone_disabled_or_expired_changes_nothing() {
    let (directory, boss) = plant();
    let own = id_of(&directory, "boss");
    directory.update_user(own, Expected::Any, |user| user.enabled = false, &API).unwrap();
    refused(directory.create_user(with("spare", &[], &[]), &boss));
    let past = clock().timestamp() - SignedDuration::from_secs(60);
    let edit = move |user: &mut User| (user.enabled, user.expires_at) = (true, Some(past));
    directory.update_user(own, Expected::Any, edit, &API).unwrap();
    refused(directory.create_user(with("spare", &[], &[]), &boss));
    directory.delete_user(own, Expected::Any, &API).unwrap();
    refused(directory.create_user(with("spare", &[], &[]), &boss));
}

#[test]
fn an_end_is_not_outlived() {
    let (directory, boss) = plant();
    let at = |seconds| Some(clock().timestamp() + SignedDuration::from_secs(seconds));
    let own = id_of(&directory, "boss");
    directory.update_user(own, Expected::Any, move |user| user.expires_at = at(100), &API).unwrap();
    let pump = |expires_at| NewUser { expires_at, ..with("pump", &[], &[allow("plant/line/x")]) };
    refused(directory.create_user(pump(None), &boss));
    refused(directory.create_user(pump(at(101)), &boss));
    let user = directory.create_user(pump(at(100)), &boss).unwrap();
    refused(directory.update_user(user.id, Expected::Any, |user| user.expires_at = None, &boss));
}

#[test]
fn a_quota_is_not_outgrown() {
    let (directory, boss) = plant();
    let quota = |connections, subscriptions| Some(Quota { connections, subscriptions, ..Quota::default() });
    let own = id_of(&directory, "boss");
    directory
        .update_user(own, Expected::Any, move |user| user.quota = quota(Some(5), None).map(Box::new), &API)
        .unwrap();
    let pump = |quota| NewUser { quota, ..new_user("pump", &[]) };
    refused(directory.create_user(pump(quota(None, None)), &boss));
    refused(directory.create_user(pump(quota(Some(6), None)), &boss));
    let pump = directory.create_user(pump(quota(Some(5), Some(7))), &boss).unwrap();
    refused(directory.update_user(
        pump.id,
        Expected::Any,
        move |user| user.quota = quota(None, Some(7)).map(Box::new),
        &boss,
    ));
    directory.update_user(own, Expected::Any, |user| user.permissions.truncate(1), &API).unwrap();
    refused(directory.update_user(own, Expected::Any, |user| user.quota = None, &boss));
}

/// What somebody may do with each topic of a small universe: read, write, write with RETAIN, join a group of readers.
/// `group` is that without reading: joining takes both, and each may come from somebody else.
type Rights = BTreeMap<(String, &'static str), u8>;

fn rights_of(policy: &Policy, id: UserId) -> Rights {
    let mut rights = Rights::new();
    let Some(authority) = policy.authority_without_client(id) else { return rights };
    let groups = group_rights(policy, id);
    let levels = ["a", "b", "eve", "bob", "$x"];
    let topics = levels
        .iter()
        .flat_map(|one| std::iter::once((*one).to_owned()).chain(levels.iter().map(move |two| format!("{one}/{two}"))));
    for topic in topics {
        let name = topic.as_str().try_into().unwrap();
        if let Some((qos, retain)) = authority.may_publish(&name) {
            rights.insert((topic.clone(), "write"), qos as u8);
            rights.insert((topic.clone(), "retain"), u8::from(retain));
        }
        if let Some(qos) = authority.may_receive(&name) {
            rights.insert((topic.clone(), "read"), qos as u8);
        }
        for group in ["g", "h"] {
            let filter = format!("$share/{group}/{topic}").as_str().try_into().unwrap();
            for (what, authority) in [("group", &groups), ("join", &authority)] {
                if authority.may_subscribe(&filter) != SubscribeVerdict::Refused {
                    rights.insert((format!("{group} {topic}"), what), 0);
                }
            }
        }
    }
    rights
}

/// Somebody who has the same rules on groups, and may read everything.
fn group_rights(policy: &Policy, id: UserId) -> Authority {
    let user = policy.user(id).unwrap();
    let of_roles = user.roles.iter().filter_map(|role| policy.role(role)).flat_map(|role| &role.permissions);
    let on_groups = user.permissions.iter().chain(of_roles).filter(|rule| rule.resource.starts_with("$share/"));
    let everything = ["#", "$x/#"].map(allow);
    let probe = UserId(Uuid::from_u128(99));
    let permissions = on_groups.cloned().chain(everything).collect();
    let probe_user = User { permissions, ..User::new(probe, name("probe"), clock().timestamp()) };
    let policy = policy.with([], [(probe, Some(probe_user))], clock().timestamp()).unwrap();
    policy.authority_without_client(probe).unwrap()
}

fn rule() -> impl Strategy<Value = Permission> {
    let resource = select(
        [
            "a/#",
            "b/#",
            "a/b",
            "+/b",
            "a/+",
            "#",
            "a/${username}",
            "${username}/#",
            "$x/#",
            "$share/g/a/#",
            "$share/+/b",
        ]
        .as_slice(),
    );
    let operation = select([Operation::Read, Operation::Write, Operation::ReadWrite].as_slice());
    (resource, operation, 0..4_u8, prop::option::of(0..3_u8), prop::option::of(any::<bool>())).prop_map(
        |(resource, operation, kind, max_qos, retain)| {
            let operation = if resource.starts_with("$share") { Operation::Read } else { operation };
            match kind {
                0 => Permission::deny(Context::Mqtt, operation, resource),
                1 => Permission { max_qos, retain, ..Permission::allow(Context::Mqtt, operation, resource) },
                _ => Permission::allow(Context::Mqtt, operation, resource),
            }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        who: usize,
        role: Option<usize>,
        rules: Vec<Permission>,
        named: usize,
        enabled: bool,
    },
    Drop {
        who: usize,
    },
    Role {
        which: usize,
        rules: Vec<Permission>,
    },
    /// One rule less, one rule more: what wanders off step by step.
    Nudge {
        which: usize,
        rule: Permission,
        add: bool,
    },
    DropRole {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let rules = || prop::collection::vec(rule(), 0..3);
    prop_oneof![
        3 => (0..4_usize, prop::option::of(0..3_usize), rules(), 0..4_usize, any::<bool>())
            .prop_map(|(who, role, rules, named, enabled)| Step::Put { who, role, rules, named, enabled }),
        1 => (0..4_usize).prop_map(|who| Step::Drop { who }),
        2 => (0..3_usize, rules()).prop_map(|(which, rules)| Step::Role { which, rules }),
        4 => (0..3_usize, rule(), any::<bool>()).prop_map(|(which, rule, add)| Step::Nudge { which, rule, add }),
        1 => (0..3_usize).prop_map(|which| Step::DropRole { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// After any sequence of commits by somebody who is not an administrator, each user may do what it could before, or
    /// what the actor could before, and nothing else; whoever was made on the way, what the actor could.
    #[test]
    fn no_sequence_of_commits_raises_anybody_above_the_actor(
        own in prop::collection::vec(rule(), 0..5), own_role in prop::option::of(0..3_usize),
        roles in prop::collection::vec(prop::collection::vec(rule(), 0..4), 3), holders in prop::collection::vec((prop::option::of(0..3_usize), prop::collection::vec(rule(), 0..3)), 2),
        steps in prop::collection::vec(step(), 1..8),
    ) {
        let directory = directory();
        directory.create_first_admin("$argon2id$x".to_owned()).unwrap();
        let role_names = ["one", "two", "three"].map(role_name);
        let names = ["eve", "bob", "new", "aaa"];
        for (role, rules) in role_names.iter().zip(&roles) {
            directory.put_role(Role::new(role.clone(), rules.clone()), Expected::Absent, &API).unwrap();
        }
        let held = |role: Option<usize>| role.map(|role| role_names[role].clone()).into_iter().collect::<Vec<_>>();
        let mut ids = vec![];
        for (at, (role, rules)) in std::iter::once((own_role, own)).chain(holders).enumerate() {
            let user = NewUser { roles: held(role), permissions: rules, ..new_user(names[at], &[]) };
            ids.push(directory.create_user(user, &API).unwrap().id);
        }
        ids.push(UserId(Uuid::from_u128(77)));
        let start = directory.policy();
        let eve = Actor::User { id: ids[0], username: name("eve"), from: None, right: None };
        let before: Vec<Rights> = ids.iter().map(|id| rights_of(&start, *id)).collect();

        for step in steps {
            let tip = directory.policy();
            let change = match step {
                Step::Put { who, role, rules, named, enabled } => {
                    let mut user = tip.user(ids[who]).map_or_else(|| fresh(names[named], &[]), |user| User::clone(user));
                    (user.id, user.enabled, user.permissions, user.roles) = (ids[who], enabled, rules, held(role));
                    (user.username, user.managed_by) = (name(names[named]), ManagedBy::Api);
                    put(user, Expected::Any)
                }
                Step::Drop { who } => Change::DeleteUser { id: ids[who], expected: Expected::Any },
                Step::Role { which, rules } => Change::PutRole { role: Role::new(role_names[which].clone(), rules), expected: Expected::Any },
                Step::Nudge { which, rule, add } => {
                    let mut rules = tip.role(&role_names[which]).map(|role| role.permissions.clone()).unwrap_or_default();
                    if add { rules.push(rule) } else { rules.pop(); }
                    Change::PutRole { role: Role::new(role_names[which].clone(), rules), expected: Expected::Any }
                }
                Step::DropRole { which } => Change::DeleteRole { name: role_names[which].clone(), expected: Expected::Any },
            };
            let _often_refused = directory.commit(change.into(), &eve);
            let tip = directory.policy();
            for (id, before_them) in ids.iter().zip(&before) {
                for (what, now) in rights_of(&tip, *id) {
                    let needed = match &what {
                        (_, "group") => continue,
                        (topic, "join") => (topic.clone(), "group"),
                        _ => what.clone(),
                    };
                    let most = before_them.get(&needed).max(before[0].get(&needed));
                    prop_assert!(most.is_some_and(|most| now <= *most), "{what:?}: {now}, was {most:?}");
                }
            }
        }
    }
}

#[test]
fn who_holds_a_place_may_open_and_shut_it_for_others() {
    let (directory, boss) = plant();
    let put = |rules: &[Permission]| {
        directory.put_role(Role::new(role_name("guard"), rules.to_vec()), Expected::Any, &boss).unwrap();
        let topic = "plant/line/secret".try_into().unwrap();
        let owner = directory.policy().authority_without_client(id_of(&directory, "owner")).unwrap();
        owner.may_receive(&topic).is_some()
    };
    assert!(put(&[]) && !put(&[deny("plant/line/secret")]));
}

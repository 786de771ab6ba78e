//! Snapshots: what a change must refuse, what it must leave alone, and what time does to it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::*;
use crate::mqtt::{ClientId, TopicName};

use Context::{Http, Mqtt};
use Operation::{Read, ReadWrite, Write};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn after(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

fn id(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

fn name(text: &str) -> RoleName {
    text.parse().unwrap()
}

fn topic(text: &str) -> TopicName {
    text.try_into().unwrap()
}

fn client(text: &str) -> ClientId {
    text.try_into().unwrap()
}

fn user(number: u128, username: &str, roles: &[&str]) -> User {
    let roles = roles.iter().map(|role| name(role)).collect();
    User { roles, ..User::new(id(number), username.parse().unwrap(), NOW) }
}

fn role(text: &str, permissions: &[Permission]) -> (RoleName, Option<Role>) {
    (name(text), Some(Role::new(name(text), permissions.to_vec())))
}

fn put(user: User) -> (UserId, Option<User>) {
    (user.id, Some(user))
}

fn allow(resource: &str) -> Permission {
    Permission::allow(Mqtt, ReadWrite, resource)
}

fn until(seconds: i64, resource: &str) -> Permission {
    Permission { not_after: Some(after(seconds)), ..allow(resource) }
}

fn refusal(
    policy: &Policy,
    roles: impl IntoIterator<Item = (RoleName, Option<Role>)>,
    users: impl IntoIterator<Item = (UserId, Option<User>)>,
) -> PolicyError {
    let error = policy.with(roles, users, NOW).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

fn reads(policy: &Policy, number: u128, text: &str) -> bool {
    policy.authority(id(number), &client("c")).is_some_and(|authority| authority.may_receive(&topic(text)).is_some())
}

fn policy() -> Policy {
    let roles = [role("line", &[allow("plant/${username}/#")]), role("guest", &[allow("public/#")])];
    let users = [put(user(1, "bob", &["line", "guest"])), put(user(2, "eve", &["guest"]))];
    Policy::default().with(roles, users, NOW).unwrap()
}

#[test]
fn a_new_user_may_do_nothing() {
    let policy = policy().with([], [put(user(3, "new", &[]))], NOW).unwrap();
    let authority = policy.authority(id(3), &client("c")).unwrap();
    assert_eq!(authority.may_publish(&topic("public/x")), None);
    assert_eq!(authority.may_receive(&topic("plant/new/x")), None);
}

#[test]
fn a_user_has_the_rules_of_its_roles_and_its_own() {
    let mut eve = user(2, "eve", &["guest"]);
    eve.permissions = vec![allow("own/#"), Permission::deny(Mqtt, Read, "public/secret")];
    let policy = policy().with([], [put(eve)], NOW).unwrap();
    assert!(reads(&policy, 2, "own/x") && reads(&policy, 2, "public/x"));
    assert!(!reads(&policy, 2, "public/secret") && reads(&policy, 1, "public/secret"));
    assert!(reads(&policy, 1, "plant/bob/x") && !reads(&policy, 1, "plant/eve/x"));
}

#[test]
fn the_built_in_roles_are_always_there_and_nobody_changes_them() {
    let policy =
        Policy::default().with([], [put(user(1, "root", &["admin"])), put(user(2, "eyes", &["observer"]))], NOW);
    let policy = policy.unwrap();
    assert_eq!(policy.roles().map(|role| role.name.to_string()).collect::<Vec<_>>(), ["admin", "observer"]);
    let authority = |number| policy.authority(id(number), &client("c")).unwrap();
    assert!(authority(1).may_publish(&topic("a/b")).is_some() && authority(1).may_receive(&topic("$SYS/x")).is_some());
    for reserved in ["$registry/admin/unlock", "$SYS/x"] {
        assert!(authority(1).may_publish(&topic(reserved)).is_none(), "{reserved}");
    }
    assert!(authority(1).may_http(true, &["api", "users"]));
    assert!(authority(2).may_receive(&topic("$SYS/x")).is_some() && authority(2).may_receive(&topic("a")).is_none());
    assert!(authority(2).may_http(false, &["api", "users"]) && !authority(2).may_http(true, &["api", "users"]));
    for taken in ["admin", "observer", "Admin", "OBSERVER"] {
        let error = refusal(&policy, [role(taken, &[])], []);
        assert!(error == PolicyError::RoleBuiltIn(name(taken)) && error.is_conflict());
        refusal(&policy, [(name(taken), None)], []);
    }
}

#[test]
fn a_change_is_all_or_nothing() {
    let before = policy();
    let roles = || [role("guest", &[]), role("line", &[allow("a+")])];
    refusal(&before, roles(), [(id(1), None)]);
    assert!(reads(&before, 2, "public/x") && before.user(id(1)).is_some());
    let after = before.with([role("guest", &[])], [], NOW).unwrap();
    assert_eq!(after.version(), PolicyVersion(before.version().0 + 1));
    assert!(reads(&before, 2, "public/x") && !reads(&after, 2, "public/x"), "an older snapshot never changes");
}

#[test]
fn an_edit_of_a_role_touches_none_of_its_holders() {
    let many = (0..5_000).map(|number| put(user(number, &format!("user{number}"), &["line"])));
    let before = Policy::default().with([role("line", &[])], many, NOW).unwrap();
    let after = before.with([role("line", &[allow("x")])], [], NOW).unwrap();
    assert!(reads(&after, 4_999, "x"));
    for number in 0..5_000 {
        assert!(Arc::ptr_eq(before.user(id(number)).unwrap(), after.user(id(number)).unwrap()));
    }
    assert_eq!(after.users_with_role(&name("line")).count(), 5_000);
}

#[test]
fn an_authority_is_the_same_while_nothing_of_it_changes() {
    let before = policy();
    let after = before.with([role("line", &[])], [], NOW).unwrap();
    let of = |policy: &Policy, number| policy.authority(id(number), &client("c")).unwrap();
    assert!(of(&before, 2).is_same_as(&of(&after, 2)));
    assert!(!of(&before, 1).is_same_as(&of(&after, 1)));
    assert!(!of(&before, 1).is_same_as(&before.authority(id(1), &client("d")).unwrap()));
    assert!(!of(&before, 2).is_same_as(&Authority::none(before.version())));
}

#[test]
fn names_are_unique_and_can_be_handed_on_in_one_change() {
    let policy = policy();
    let error = refusal(&policy, [], [put(user(9, "bob", &[]))]);
    assert!(error == PolicyError::UsernameTaken("bob".parse().unwrap()) && error.is_conflict());
    let swapped = policy.with([], [put(user(1, "eve", &[])), put(user(2, "bob", &[]))], NOW).unwrap();
    assert_eq!(swapped.user_named(&"eve".parse().unwrap()).unwrap().id, id(1));
    let heir = policy.with([], [(id(1), None), put(user(3, "bob", &[]))], NOW).unwrap();
    assert_eq!(heir.user_named(&"bob".parse().unwrap()).unwrap().id, id(3));
    assert!(!reads(&heir, 3, "plant/bob/x") && heir.authority(id(1), &client("c")).is_none());
    assert_eq!(heir.users().map(|user| user.username.to_string()).collect::<Vec<_>>(), ["bob", "eve"]);
}

#[test]
fn a_role_that_does_not_exist_or_goes_away_is_held_by_nobody() {
    let policy = policy();
    let unknown = refusal(&policy, [], [put(user(3, "new", &["nope"]))]);
    assert!(matches!(unknown, PolicyError::RoleUnknown { .. }) && !unknown.is_conflict());
    let in_use = refusal(&policy, [(name("line"), None)], []);
    assert_eq!(in_use, PolicyError::RoleInUse { role: name("line"), user: "bob".parse().unwrap() });
    assert!(matches!(
        refusal(&policy, [(name("line"), None)], [put(user(1, "bob", &["line"]))]),
        PolicyError::RoleUnknown { .. }
    ));
    let gone = policy.with([(name("line"), None)], [put(user(1, "bob", &["guest"]))], NOW).unwrap();
    assert!(gone.role(&name("line")).is_none() && reads(&gone, 1, "public/x"));
    assert!(policy.with([(name("never"), None)], [(id(77), None)], NOW).is_ok());
}

#[test]
fn a_change_that_contradicts_itself_is_refused() {
    let policy = policy();
    let twice = [role("new", &[]), (name("new"), None)];
    assert_eq!(refusal(&policy, twice, []), PolicyError::Inconsistent(RuleHolder::Role(name("new"))));
    refusal(&policy, [(name("one"), Some(Role::new(name("other"), Vec::new())))], []);
    refusal(&policy, [], [(id(8), Some(user(9, "new", &[])))]);
    refusal(&policy, [], [(id(8), None), (id(8), None)]);
}

#[test]
fn a_user_that_is_disabled_or_has_another_client_identifier_has_no_authority() {
    let mut bob = user(1, "bob", &["guest"]);
    bob.client_id = Some("${username}-*".to_owned());
    let policy = policy().with([], [put(bob.clone())], NOW).unwrap();
    assert!(policy.authority(id(1), &client("bob-1")).is_some());
    assert!(policy.authority(id(1), &client("eve-1")).is_none() && policy.authority(id(1), &client("")).is_none());
    assert!(policy.authority_without_client(id(1)).is_some());
    bob.enabled = false;
    let policy = policy.with([], [put(bob)], NOW).unwrap();
    assert!(policy.authority(id(1), &client("bob-1")).is_none() && policy.authority_without_client(id(1)).is_none());
}

#[test]
fn a_client_identifier_that_nobody_may_have_has_no_authority() {
    let mut bob = user(1, "bob", &["guest"]);
    for pattern in [None, Some("*"), Some("*+*"), Some("a#")] {
        bob.client_id = pattern.map(str::to_owned);
        let policy = policy().with([], [put(bob.clone())], NOW).unwrap();
        for odd in ["a+", "+", "#", "a#"] {
            assert!(policy.authority(id(1), &client(odd)).is_none(), "{pattern:?} {odd}");
        }
        let able = policy.who_can_receive(&topic("public/x")).iter().any(|able| able.user.id == id(1));
        assert_eq!(able, pattern.is_none_or(|pattern| pattern == "*"), "{pattern:?}");
    }
}

#[test]
fn a_client_identifier_in_an_allow_rule_needs_a_tie_to_the_username() {
    let policy = policy();
    let devices = || role("devices", &[allow("dev/${client_id}/#")]);
    let policy = policy.with([devices()], [], NOW).unwrap();
    let tied = |pattern: Option<&str>| User { client_id: pattern.map(str::to_owned), ..user(3, "ann", &["devices"]) };
    for weak in [None, Some("*"), Some("ann"), Some("*${username}"), Some("${username}*"), Some("${username}-*")] {
        let error = refusal(&policy, [], [put(tied(weak))]);
        assert!(
            matches!(&error, PolicyError::ClientIdNotTied { role: Some(role), .. } if *role == name("devices")),
            "{weak:?}"
        );
        let own = User { permissions: vec![allow("dev/${client_id}")], roles: Vec::new(), ..tied(weak) };
        assert!(matches!(refusal(&policy, [], [put(own)]), PolicyError::ClientIdNotTied { role: None, .. }));
    }
    for strong in ["${username}", "${username}~*"] {
        let policy = policy.with([], [put(tied(Some(strong)))], NOW).unwrap();
        let authority = policy.authority(id(3), &client("ann")).or(policy.authority(id(3), &client("ann~1"))).unwrap();
        assert!(
            authority.may_receive(&topic("dev/ann/x")).is_some()
                || authority.may_receive(&topic("dev/ann~1/x")).is_some()
        );
        assert!(authority.may_receive(&topic("dev/bob/x")).is_none());
        // The tie cannot be taken away while the rule is there.
        refusal(&policy, [], [put(tied(None))]);
    }
    // Nor can a role that is held already gain such a rule; a deny rule needs no tie.
    let error = refusal(&policy, [role("guest", &[allow("x/${client_id}")])], []);
    assert!(matches!(&error, PolicyError::ClientIdNotTied { role: Some(role), .. } if *role == name("guest")));
    let deny = Permission::deny(Mqtt, Read, "x/${client_id}");
    assert!(policy.with([role("guest", &[deny])], [], NOW).is_ok());
}

#[test]
fn rules_lapse_with_the_commit_that_the_clock_makes() {
    let mut bob = user(1, "bob", &["guest"]);
    bob.permissions = vec![until(10, "own/a"), until(20, "own/b"), until(-5, "own/past")];
    let mut eve = user(2, "eve", &["guest"]);
    eve.expires_at = Some(after(15));
    let guest = role("guest", &[allow("public/#"), until(12, "party/#")]);
    let mut policy = Policy::default().with([guest], [put(bob), put(eve)], NOW).unwrap();
    assert!(!reads(&policy, 1, "own/past") && reads(&policy, 1, "own/a") && reads(&policy, 2, "party/x"));

    let mut seen = Vec::new();
    while let Some(at) = policy.next_expiry() {
        let lapsed: Vec<_> = policy.lapsed(at).cloned().collect();
        assert_eq!(policy.lapsed(at - SignedDuration::from_nanos(1)).count(), 0);
        policy = policy.with([], [], at).unwrap();
        seen.push((at.as_second(), lapsed));
        let second = at.as_second();
        assert_eq!(reads(&policy, 1, "own/a"), second < 10);
        assert_eq!(reads(&policy, 1, "party/x"), second < 12);
        assert_eq!(policy.authority(id(2), &client("c")).is_some(), second < 15);
        assert_eq!(reads(&policy, 1, "own/b"), second < 20);
    }
    let (bob, eve, guest) = (Subject::User(id(1)), Subject::User(id(2)), Subject::Role(name("guest")));
    assert_eq!(seen, [(10, vec![bob.clone()]), (12, vec![guest]), (15, vec![eve]), (20, vec![bob])]);
    assert!(reads(&policy, 1, "public/x"));
    assert_eq!(policy.user(id(1)).unwrap().permissions.len(), 3, "what people wrote stays");
}

#[test]
fn a_rule_that_was_replaced_leaves_no_expiry_behind() {
    let before = policy().with([role("guest", &[until(10, "x")])], [], NOW).unwrap();
    assert_eq!(before.next_expiry(), Some(after(10)));
    assert_eq!(before.with([role("guest", &[])], [], NOW).unwrap().next_expiry(), None);
    assert_eq!(policy().next_expiry(), None);
    let eve = User { expires_at: Some(after(9)), ..user(2, "eve", &["guest"]) };
    let policy = before.with([], [put(eve)], NOW).unwrap();
    assert_eq!(policy.next_expiry(), Some(after(9)));
    assert_eq!(policy.with([], [(id(2), None)], NOW).unwrap().next_expiry(), Some(after(10)));
}

#[test]
fn a_group_that_a_rule_of_anybody_names_needs_a_rule() {
    let before = policy();
    let shared = "$share/jobs/public/#".try_into().unwrap();
    let joins = |policy: &Policy, number| {
        policy.authority(id(number), &client("c")).unwrap().may_subscribe(&shared) != SubscribeVerdict::Refused
    };
    assert!(joins(&before, 1) && joins(&before, 2));
    let read = |resource: &str| Permission::allow(Mqtt, Read, resource);
    let rule = Permission { not_after: Some(after(10)), ..read("$share/jobs/public/#") };
    let eve = User { permissions: vec![rule], ..user(2, "eve", &["guest"]) };
    let after_it = before.with([], [put(eve)], NOW).unwrap();
    assert!(!joins(&after_it, 1) && joins(&after_it, 2));
    assert!(after_it.guards_other_groups_than(&before) && !before.guards_other_groups_than(&policy()));
    let lapsed = after_it.with([], [], after(10)).unwrap();
    assert!(!joins(&lapsed, 1) && !joins(&lapsed, 2), "a group does not open because a grant on it ends");
    let without = lapsed.with([], [put(user(2, "eve", &["guest"]))], NOW).unwrap();
    assert!(joins(&without, 1) && without.guards_other_groups_than(&lapsed));
}

#[test]
fn what_may_fail_is_refused_when_compiled() {
    let long = "x".repeat(MAX_RESOURCE_BYTES + 1);
    let deep = "x/".repeat(MAX_LEVELS) + "x";
    let deny = |rule: Permission| Permission { effect: Effect::Deny, ..rule };
    let http = |resource: &str| Permission::allow(Http, Read, resource);
    let placeholder = |text: &str| RuleError::UnknownPlaceholder(text.to_owned());
    for (rule, fault) in [
        (allow(""), RuleError::Empty),
        (allow(&long), RuleError::TooLong(MAX_RESOURCE_BYTES + 1)),
        (allow(&deep), RuleError::TooDeep(MAX_LEVELS + 1)),
        (allow("a\0"), RuleError::Nul),
        (allow("a+"), RuleError::Wildcard),
        (allow("a/#/b"), RuleError::Wildcard),
        (allow("#/"), RuleError::Wildcard),
        (allow("++"), RuleError::Wildcard),
        (allow("a-${username}"), RuleError::PlaceholderInside),
        (allow("${username}${client_id}/x"), RuleError::PlaceholderInside),
        (allow("x/${user}"), placeholder("${user}")),
        (allow("${clientid}"), placeholder("${clientid}")),
        (allow("${}"), placeholder("${}")),
        (allow("$share"), RuleError::Share),
        (allow("$share/g"), RuleError::Share),
        (allow("$share//x"), RuleError::Share),
        (allow("$share/g/"), RuleError::Share),
        (allow("$share/g+/x"), RuleError::Wildcard),
        (Permission::allow(Mqtt, Write, "$share/g/x"), RuleError::ShareWrite),
        (http("api"), RuleError::NotAPath),
        (http("#"), RuleError::NotAPath),
        (http("//"), RuleError::Segment),
        (http("/api/"), RuleError::Segment),
        (http("/api/../x"), RuleError::Segment),
        (http("/x/${client_id}"), placeholder("${client_id}")),
        (Permission { max_qos: Some(1), ..http("/x") }, RuleError::ConditionOnPath("max_qos")),
        (Permission { retain: Some(true), ..http("/x") }, RuleError::ConditionOnPath("retain")),
        (deny(Permission { max_qos: Some(1), ..allow("x") }), RuleError::ConditionOnDeny("max_qos")),
        (deny(Permission { retain: Some(true), ..allow("x") }), RuleError::ConditionOnDeny("retain")),
        (deny(until(10, "x")), RuleError::ConditionOnDeny("not_after")),
        (Permission { max_qos: Some(3), ..allow("x") }, RuleError::MaxQos(3)),
        // What has lapsed must be sound all the same.
        (until(-10, "a+"), RuleError::Wildcard),
    ] {
        let resource = rule.resource.clone();
        let error = refusal(&policy(), [role("guest", &[allow("x"), rule.clone()])], []);
        let expected =
            |holder| PolicyError::Rule { holder, number: 2, resource: resource.clone(), fault: fault.clone() };
        assert_eq!(error, expected(RuleHolder::Role(name("guest"))), "{resource}");
        let eve = User { permissions: vec![allow("x"), rule], ..user(2, "eve", &[]) };
        let error = refusal(&policy(), [], [put(eve)]);
        assert_eq!(error, expected(RuleHolder::User("eve".parse().unwrap())), "{resource}");
    }
    for sound in ["/", "a//b", "$x/#", "${username}", "+/#", "a$b", "a/{x}", "$share/+/+/#", "$share/#", "é/\u{1}"] {
        let rule = Permission::allow(Mqtt, Read, sound);
        assert!(policy().with([role("guest", &[rule])], [], NOW).is_ok(), "{sound}");
    }
}

#[test]
fn caps_are_kept() {
    let rules = |count: usize| vec![allow("x"); count];
    assert!(matches!(
        refusal(&policy(), [role("big", &rules(MAX_PERMISSIONS + 1))], []),
        PolicyError::TooManyRules { .. }
    ));
    let heavy = vec![allow(&"x".repeat(MAX_RESOURCE_BYTES)); MAX_RULE_BYTES / MAX_RESOURCE_BYTES + 1];
    assert!(matches!(refusal(&policy(), [role("big", &heavy)], []), PolicyError::TooManyBytes { .. }));
    let roles = vec!["guest"; MAX_ROLES + 1];
    assert!(matches!(refusal(&policy(), [], [put(user(3, "new", &roles))]), PolicyError::TooManyRoles { .. }));
    assert!(policy().with([], [put(user(3, "new", &roles[1..]))], NOW).is_ok());
}

#[test]
fn a_publish_prefix_is_a_topic_that_ends_in_a_slash() {
    let with = |prefix: &str| User { publish_prefix: Some(prefix.to_owned()), ..user(3, "new", &[]) };
    for (prefix, fault) in [
        ("", PrefixError::NoSlash),
        ("a", PrefixError::NoSlash),
        ("$SYS/", PrefixError::Reserved),
        ("a/+/", PrefixError::Character),
        ("#/", PrefixError::Character),
        ("a\0/", PrefixError::Character),
        ("a/${username}/", PrefixError::Placeholder),
        (&"a/".repeat(128), PrefixError::TooLong),
        (&("a".repeat(5_000) + "/"), PrefixError::TooLong),
    ] {
        let error = refusal(&policy(), [], [put(with(prefix))]);
        assert!(matches!(&error, PolicyError::PublishPrefix { fault: found, .. } if *found == fault), "{error}");
    }
    let policy = policy().with([], [put(with("plant/line-3/"))], NOW).unwrap();
    assert_eq!(policy.authority(id(3), &client("c")).unwrap().publish_prefix(), Some("plant/line-3/"));
    assert!(matches!(
        refusal(&policy, [], [put(User { client_id: Some("${x}".to_owned()), ..user(3, "new", &[]) })]),
        PolicyError::ClientIdPattern { .. }
    ));
}

#[test]
fn the_words_of_json_are_those_of_the_model() {
    let rule: Permission =
        serde_json::from_str(r#"{"context":"mqtt","operation":"readWrite","resource":"a/#","max_qos":1}"#).unwrap();
    assert_eq!(rule, Permission { max_qos: Some(1), ..allow("a/#") });
    let text = serde_json::to_string(&rule).unwrap();
    assert_eq!(text, r#"{"context":"mqtt","operation":"read_write","resource":"a/#","effect":"allow","max_qos":1}"#);
    assert!(
        serde_json::from_str::<Permission>(r#"{"context":"mqtt","operation":"read","resource":"a","qos":1}"#).is_err()
    );
    let mut user = serde_json::to_value(user(1, "bob", &["line"])).unwrap();
    user["mqttPublishPrefix"] = "a/".into();
    assert_eq!(serde_json::from_value::<User>(user).unwrap().publish_prefix.as_deref(), Some("a/"));
}

#[test]
fn messages_say_what_to_write_instead() {
    let mistakes = [
        refusal(&policy(), [role("guest", &[allow("a-${username}")])], []),
        refusal(&policy(), [role("guest", &[allow("x/${client_id}")])], []),
        refusal(&policy(), [(name("line"), None)], []),
        refusal(&policy(), [], [put(user(3, "new", &["nope"]))]),
        refusal(&policy(), [role("admin", &[])], []),
    ];
    insta::assert_snapshot!(mistakes.map(|error| error.to_string()).join("\n"), @r"
    role `guest`: permission 1 (`a-${username}`): a placeholder must be a whole level: write `a/${username}`, not `a-${username}`
    user `bob` would get the allow rule `x/${client_id}` of role `guest`, but may choose its client identifier freely: set its client_id to `${username}`, or to `${username}` followed by a character that no username holds, as in `${username}~*`, or write `${username}` in the rule
    role `line` is held by user `bob`: take it from its users before deleting it
    user `new` holds the role `nope`, which does not exist: create it first or take it from the user
    role `admin` is built in and cannot be created, changed or deleted: choose another name
    ");
}

#[test]
fn no_name_is_a_segment_that_a_path_cannot_hold() {
    for dots in [".", "..", "...", &".".repeat(64)] {
        assert_eq!(dots.parse::<RoleName>(), Err(NameError::Dots(dots.to_owned())));
        assert!(dots.parse::<Username>().is_err(), "{dots}");
        assert!(serde_json::from_value::<RoleName>(dots.into()).is_err(), "{dots}");
    }
    for named in ["a..", "..a", "a.b", ".-."] {
        assert!(named.parse::<RoleName>().is_ok() && named.parse::<Username>().is_ok(), "{named}");
    }
    assert_eq!("...".parse::<Username>().unwrap_err().to_string(), "`...` must not be made of dots alone");
}

#[test]
fn whoever_may_write_over_http_or_to_the_registry_administers() {
    let lapsing = Permission { not_after: Some(after(10)), ..Permission::allow(Http, Write, "/api/x") };
    let rules = [
        (Permission::allow(Http, Read, "/#"), false),
        (Permission::deny(Http, Write, "/#"), false),
        (Permission::allow(Http, Write, "/api/users/${username}"), true),
        (Permission::allow(Http, ReadWrite, "/api/#"), true),
        (Permission::allow(Mqtt, ReadWrite, "#"), false),
        (Permission::allow(Mqtt, Write, "+/admin/grant"), false),
        (Permission::allow(Mqtt, Read, "$registry/#"), false),
        (Permission::allow(Mqtt, Write, "$registry/events/#"), false),
        (Permission::allow(Mqtt, Write, "$registry/#"), true),
        (Permission::allow(Mqtt, Write, "$registry/+/grant"), true),
        (Permission::allow(Mqtt, Write, "$registry/admin/grant"), true),
        (lapsing.clone(), true),
    ];
    for (rule, administers) in rules {
        let roles = [role("some", std::slice::from_ref(&rule))];
        let own = User { permissions: vec![rule.clone()], ..user(1, "own", &[]) };
        let users = [
            put(own),
            put(user(2, "by-role", &["some"])),
            put(user(3, "boss", &["admin"])),
            put(user(4, "nobody", &[])),
        ];
        let policy = Policy::default().with(roles, users, NOW).unwrap();
        let who = |policy: &Policy| [1, 2, 3, 4].map(|number| policy.administers(policy.user(id(number)).unwrap()));
        assert_eq!(who(&policy), [administers, administers, true, false], "{rule:?}");
        if rule == lapsing {
            assert_eq!(who(&policy.with([], [], after(10)).unwrap()), [false, false, true, false], "while it lasts");
        }
    }
}

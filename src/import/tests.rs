//! What mosquitto says is said again, slowly, and held against what is made of it: nobody may do more here than there.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::acls::{Access, For};
use super::*;
use crate::access::{Policy, SubscribeVerdict};
use crate::directory::Change;
use crate::mqtt::{TopicFilter, TopicName};

/// Of `correct horse`, by `mosquitto_passwd` 2.0.11.
const HASH: &str =
    "$7$101$wqJyjpI/mw7j1p3y$LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg==";
const SALT: &str = "wqJyjpI/mw7j1p3y";
const OUTPUT: &str = "LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg==";

fn files(passwords: &str, acls: &str, options: Options) -> Result<Import, ImportError> {
    import(Sources::Files { passwords: Some(passwords.as_bytes()), acls: Some(acls.as_bytes()) }, options)
}

fn dynamic_security(file: &Value, options: Options) -> Result<Import, ImportError> {
    import(Sources::DynamicSecurity(file.to_string().as_bytes()), options)
}

/// The rules in force when the set of changes is made on a broker that has none. Whatever leaves must be such a set.
fn policy(import: &Import) -> Policy {
    let (mut users, mut roles) = (Vec::new(), Vec::new());
    for change in import.document.clone().plan(&Policy::default()).unwrap().changes {
        match change {
            Change::PutUser { user, .. } => users.push((user.id, Some(*user))),
            Change::PutRole { role, .. } => roles.push((role.name.clone(), Some(role))),
            other => panic!("{other:?}"),
        }
    }
    Policy::default().with(roles, users, Timestamp::UNIX_EPOCH).unwrap()
}

fn told(import: &Import) -> String {
    let mut text = String::new();
    for Entry { place, source, outcome, target, note } in &import.report.entries {
        let line = place.line.map_or_else(String::new, |line| format!("{line}: "));
        let parts = [target, note].map(|part| part.as_ref().map_or_else(String::new, |part| format!("\n    {part}")));
        writeln!(text, "{outcome:?} {line}{source}{}", parts.concat()).unwrap();
    }
    for note in &import.report.notes {
        writeln!(text, "note: {note}").unwrap();
    }
    text + &import.configuration
}

#[test]
fn hashes_that_are_admitted_stay_as_they_are_and_others_are_named() {
    let argon2id = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let passwords = format!(
        "# a comment: with a colon\n\nada:{HASH}\nno colon\ncarl: {argon2id} \nold:$6${SALT}${OUTPUT}\nplain:hunter2\n\
         many:{}\nshort:$7$101$c2hvcnQ=${OUTPUT}\ncut:{}\nzero:{}\nno:x\nadmin:{HASH}\nwith space:{HASH}\nempty:\n",
        HASH.replace("$101$", "$500001$"),
        &HASH[..HASH.len() - 8],
        HASH.replace("$101$", "$0$"),
    );
    let made = files(&passwords, "", Options::default()).unwrap();
    let users: Vec<_> = made.document.user.iter().map(|user| (user.username.as_str(), user.version)).collect();
    assert_eq!(users, [("ada", Some(0)), ("carl", Some(0))]);
    let hashes: Vec<_> = made.document.user.iter().filter_map(|user| user.password_hash.as_deref()).collect();
    assert_eq!(hashes, [HASH.replace("$7$", "$pbkdf2-sha512$i=").trim_end_matches('=').to_owned().as_str(), argon2id]);
    policy(&made);
    let text = told(&made);
    assert!(!text.contains(SALT) && !text.contains("hunter2"), "{text}");
    insta::assert_snapshot!("passwords", text);
}

#[test]
fn what_cannot_be_loaded_is_told_with_its_place() {
    let wrong = |result: Result<Import, ImportError>| result.unwrap_err().to_string();
    let acls = |text: &str| wrong(files("", text, Options::default()));
    let passwords = |text: &str| wrong(files(text, "", Options::default()));
    let json = |text: &str| wrong(import(Sources::DynamicSecurity(text.as_bytes()), Options::default()));
    let bytes = |acls: &[u8]| wrong(import(Sources::Files { passwords: None, acls: Some(acls) }, Options::default()));
    let all = [
        acls("user ada\ntopic reed plant/#\n"),
        acls("topic\n"),
        acls("user   \n"),
        acls("\n\n  topic read  a/b+/c  \n"),
        acls("topic read a/#/b"),
        acls("topic a b\n"),
        acls("topics read a\n"),
        acls("  # indented\n"),
        acls("topic\tread a\n"),
        bytes(b"topic read a\nuser \xff\n"),
        bytes("user ü\ntopic no ü\n".as_bytes()),
        bytes(&vec![b'#'; MAX_SOURCE_BYTES + 1]),
        passwords(&format!("ada:{HASH}\nbob:{HASH}\n ada :{HASH}\n")),
        json("{"),
        json("[]"),
        json("{\n  \"clients\": [{ \"username\": 7 }]\n}"),
        json("{\n  \"roles\": [{ \"rolename\": \"a\", \"colour\": \"red\" }]\n}"),
        json(r#"{"roles":[{"rolename":"a","acls":[{"acltype":"publish","topic":"a","allow":true}]}]}"#),
        json(r#"{"roles":[{"rolename":"a","acls":[{"acltype":"publishClientSend","topic":"a/#/b","allow":true}]}]}"#),
        json(r#"{"roles":[{"rolename":"a"},{"rolename":"a"}]}"#),
        json(r#"{"clients":[{"username":"ada"},{"username":"ada"}]}"#),
        json(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))),
    ];
    insta::assert_snapshot!("errors", all.join("\n"));
}

const ACLS: &str = "\
# mosquitto's own example, and more
topic read $SYS/#
topic read public/#
topic write inbox/#

user ada
topic plant/line/#
topic read $SYS/broker/uptime
topic readwrite $SYS/broker/load
topic write $SYS/x
topic read $CONTROL/dynamic-security/#
topic read $registry/#
topic deny plant/line/secret
topic read with space
topic read %u/literal
topic read ${username}/ours
topic deny x-${username}/a
topic deny $share/g/a
user nobody
topic read lost/#
user bob
topic read plant/#
pattern read devices/%u/state
pattern write devices/%c/state
pattern readwrite devices/dev-%u/#
pattern deny devices/dev-%u/secret
pattern deny devices/%c/locked
";

#[test]
fn each_line_is_told_with_what_became_of_it() {
    let passwords = format!("ada:{HASH}\nbob:{HASH}\n");
    let made = files(&passwords, ACLS, Options::default()).unwrap();
    policy(&made);
    assert_eq!(made.report.entries.len(), 2 + 1 + 22, "two users, one section without one, 22 rules");
    insta::assert_snapshot!("acls", told(&made));
    let options = Options { certificates: true, client_id_is_username: true };
    let made = files(&passwords, ACLS, options).unwrap();
    policy(&made);
    insta::assert_snapshot!("acls_with_options", told(&made));
    assert!(made.document.user.iter().all(|user| user.client_id.as_deref() == Some("${username}")));
    assert_eq!(made.document.user.len(), 3);
}

/// What is for broker.toml is what broker.toml takes.
#[test]
fn the_anonymous_user_is_configuration_that_loads() {
    let made = files("", ACLS, Options::default()).unwrap();
    assert!(made.document.user.is_empty());
    let text = format!(
        "{}\n[[listener]]\nname = \"local\"\nbind = \"127.0.0.1:0\"\nanonymous = \"anonymous\"\n",
        made.configuration
    );
    let config = crate::config::Config::parse(&text, ".").unwrap();
    let rules: Vec<_> = config.users[0].permissions.iter().map(super::files::show).collect();
    assert_eq!(
        rules,
        [
            "allow read $SYS/#",
            "allow read public/#",
            "allow write inbox/#",
            "deny read_write devices/+/secret",
            "deny read_write devices/${client_id}/locked"
        ]
    );
}

fn acl(kind: &str, topic: &str, allow: bool) -> Value {
    json!({ "acltype": kind, "topic": topic, "priority": 0, "allow": allow })
}

fn client(name: &str, roles: &[&str]) -> Value {
    let roles: Vec<_> = roles.iter().map(|role| json!({ "rolename": role, "priority": 1 })).collect();
    json!({ "username": name, "password": OUTPUT, "salt": SALT, "iterations": 101, "roles": roles })
}

fn sample() -> Value {
    json!({
        "defaultACLAccess": { "publishClientSend": false, "publishClientReceive": true, "subscribe": false, "unsubscribe": false },
        "clients": [
            client("admin", &["admin"]),
            client("ada", &["line", "admin", "unknown"]),
            { "username": "bound", "textname": "The bound one", "textdescription": "of hall 3", "clientid": "bound-1", "disabled": true,
              "password": OUTPUT, "salt": SALT, "iterations": 101 },
            { "username": "stars", "clientid": "a*", "password": OUTPUT, "salt": SALT, "iterations": 101 },
            { "username": "anyid", "clientid": "", "password": OUTPUT, "salt": SALT, "iterations": 101 },
            { "username": "certified", "roles": [{ "rolename": "line" }] },
            { "username": "later", "encoded_password": HASH },
            { "username": "halved", "password": OUTPUT, "iterations": 101 },
            client("no", &[]),
        ],
        "groups": [
            { "groupname": "plant", "textName": "Plant", "roles": [{ "rolename": "reader" }, { "rolename": "odd role" }],
              "clients": [{ "username": "ada", "priority": 3 }, { "username": "gone" }] },
            { "groupname": "public", "roles": [{ "rolename": "reader" }], "clients": [] },
        ],
        "roles": [
            { "rolename": "admin", "acls": [acl("publishClientSend", "$CONTROL/#", true)] },
            { "rolename": "odd role", "acls": [acl("publishClientSend", "line/odd", false), acl("publishClientSend", "all", true)] },
            { "rolename": "line", "textname": "Line", "acls": [
                acl("publishClientSend", "line/#", true),
                acl("publishClientSend", "line/secret", false),
                acl("publishClientSend", "$SYS/x", true),
                acl("publishClientSend", "dev-%u/x", true),
                acl("publishClientSend", "dev-%u/x", false),
                acl("publishClientSend", "$share/a/b", false),
                acl("unsubscribePattern", "#", true),
                acl("unsubscribePattern", "line/#", false),
            ] },
            { "rolename": "reader", "acls": [
                acl("subscribePattern", "line/#", true),
                acl("subscribePattern", "$SYS/#", true),
                acl("subscribePattern", "$CONTROL/#", true),
                acl("subscribePattern", "line/private/#", false),
                acl("subscribeLiteral", "hall/door", true),
                acl("subscribeLiteral", "hall/+/door", true),
                acl("subscribeLiteral", "#", false),
                acl("subscribeLiteral", "$share/g/line/#", true),
                acl("subscribePattern", "$share/g/#", false),
                acl("publishClientReceive", "line/1", true),
                acl("publishClientReceive", "line/hidden", false),
            ] },
            { "rolename": "tame", "allowwildcardsubs": false, "acls": [acl("subscribePattern", "a/#", true), acl("subscribePattern", "a", true)] },
        ],
        "anonymousGroup": "public",
    })
}

#[test]
fn each_thing_of_dynamic_security_is_told_with_what_became_of_it() {
    let made = dynamic_security(&sample(), Options::default()).unwrap();
    policy(&made);
    let text = told(&made);
    assert!(!text.contains(SALT), "{text}");
    insta::assert_snapshot!("dynamic_security", text);
    let certificates = Options { certificates: true, ..Options::default() };
    let made = dynamic_security(&sample(), certificates).unwrap();
    policy(&made);
    let certified = made.document.user.iter().find(|user| user.username.as_str() == "certified").unwrap();
    assert_eq!((certified.auth, &certified.password_hash), (Some(crate::access::Auth::Certificate), &None));
}

#[test]
fn to_receive_takes_what_both_acls_allow() {
    let mut file = sample();
    file["defaultACLAccess"] = json!({ "publishClientSend": true, "publishClientReceive": false, "subscribe": false });
    insta::assert_snapshot!("receive_denied", told(&dynamic_security(&file, Options::default()).unwrap()));
    file["defaultACLAccess"] = json!({ "publishClientReceive": false, "subscribe": true });
    insta::assert_snapshot!("subscribe_allowed", told(&dynamic_security(&file, Options::default()).unwrap()));
    file["defaultACLAccess"] = json!({ "publishClientReceive": true, "subscribe": true });
    file["roles"][2]["rolename"] = "mosquitto-defaults".into();
    let made = dynamic_security(&file, Options::default()).unwrap();
    let names: Vec<_> = made.document.role.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["mosquitto-defaults", "reader", "tame", "mosquitto-defaults-2"], "a name is never taken twice");
    policy(&made);
}

#[test]
fn an_intersection_of_filters_is_what_both_match() {
    for (one, other, expected) in [
        ("a/#", "a", Some("a")),
        ("a/#", "a/+/b", Some("a/+/b")),
        ("+/b", "a/+", Some("a/b")),
        ("#", "$SYS/#", None),
        ("$SYS/#", "$SYS/+", Some("$SYS/+")),
        ("+/x", "$SYS/x", None),
        ("a/b", "a/c", None),
        ("a", "a/b", None),
        ("a/+", "a/#", Some("a/+")),
        ("#", "#", Some("#")),
        ("/#", "/a", Some("/a")),
    ] {
        assert_eq!(filter::both(one, other).as_deref(), expected, "{one} {other}");
        assert_eq!(filter::both(other, one).as_deref(), expected, "{other} {one}");
    }
}

// --- mosquitto, said slowly --------------------------------------------------------------------------------------------

fn matches(filter: &str, topic: &TopicName) -> bool {
    TopicFilter::try_from(filter).is_ok_and(|filter| filter.matches(topic))
}

/// `mosquitto_acl_check_default` of 2.0.11.
fn mosquitto_allows(acls: &acls::Acls<'_>, user: &str, client_id: &str, access: Access, topic: &TopicName) -> bool {
    let admits = |of: Access| of == Access::ReadWrite || of == access;
    let decide = |rules: &[(Access, String)]| {
        let hits: Vec<_> = rules.iter().filter(|(_, filter)| matches(filter, topic)).collect();
        if hits.iter().any(|(of, _)| *of == Access::Deny) {
            return Some(false);
        }
        hits.iter().any(|(of, _)| admits(*of)).then_some(true)
    };
    let own = acls.rules.iter().filter(|rule| rule.whose == For::User(user));
    let own: Vec<_> = own.map(|rule| (rule.access, rule.filter.to_owned())).collect();
    if let Some(verdict) = decide(&own) {
        return verdict;
    }
    let patterns = acls.rules.iter().filter(|rule| rule.whose == For::Pattern);
    let filled = patterns.map(|rule| (rule.access, rule.filter.replace("%c", client_id).replace("%u", user)));
    let filled: Vec<_> = filled.collect();
    if !filled.is_empty() && (user.contains(['+', '#']) || client_id.contains(['+', '#'])) {
        return false;
    }
    decide(&filled).unwrap_or(false)
}

const FILTERS: [&str; 18] = [
    "#",
    "+",
    "a",
    "a/#",
    "a/+",
    "a/b",
    "+/b",
    "ada/#",
    "%u",
    "a/%u",
    "%u/%c",
    "a/%c/#",
    "x-%u/b",
    "a/x%c",
    "$SYS/#",
    "$SYS/a",
    "${username}",
    "a/${client_id}",
];
const TOPICS: [&str; 18] = [
    "a",
    "b",
    "a/b",
    "a/ada",
    "a/bob",
    "ada",
    "ada/ada",
    "ada/b",
    "x-ada/b",
    "a/xada",
    "a/b/c",
    "a/ada/b",
    "%u",
    "a/%u",
    "$SYS/a",
    "${username}",
    "a/x",
    "x",
];
const CLIENT_IDS: [&str; 7] = ["ada", "b", "b/c", "x", "+", "a#", "${username}"];

fn any_acl_file() -> impl Strategy<Value = String> {
    let line = (
        select(vec!["topic", "topic", "pattern"]),
        select(vec!["read", "write", "readwrite", "deny"]),
        select(FILTERS.to_vec()),
    )
        .prop_map(|(word, access, filter)| format!("{word} {access} {filter}\n"));
    let user = select(vec!["ada", "bob"]).prop_map(|name| format!("user {name}\n"));
    prop::collection::vec(prop_oneof![4 => line, 1 => user], 0..12).prop_map(|lines| lines.concat())
}

/// A role of up to six ACLs.
fn any_role(name: &'static str) -> impl Strategy<Value = Value> {
    let kinds = ["publishClientSend", "publishClientReceive", "subscribeLiteral", "subscribePattern"];
    let one = (select(kinds.to_vec()), select(FILTERS.to_vec()), -2..3_i64, any::<bool>())
        .prop_map(|(kind, topic, priority, allow)| json!({ "acltype": kind, "topic": topic, "priority": priority, "allow": allow }));
    prop::collection::vec(one, 0..7).prop_map(move |acls| json!({ "rolename": name, "acls": acls }))
}

fn any_dynamic_security() -> impl Strategy<Value = Value> {
    // A role whose name cannot be taken over is left out, but not what it denies.
    let roles = (any_role("r0"), any_role("r1"), prop_oneof![any_role("r2"), any_role("odd role")]);
    let held = || {
        let held = (subsequence(vec!["r0", "r1", "r2", "odd role"], 0..4), -2..3_i64);
        held.prop_map(|(names, priority)| -> Vec<Value> {
            names.into_iter().map(|name| json!({ "rolename": name, "priority": priority })).collect()
        })
    };
    (roles, held(), held(), any::<[bool; 3]>()).prop_map(|(roles, own, of_group, defaults)| {
        let mut ada = client("ada", &[]);
        ada["roles"] = own.into();
        json!({
            "defaultACLAccess": { "publishClientSend": defaults[0], "publishClientReceive": defaults[1], "subscribe": defaults[2] },
            "clients": [ada],
            "groups": [{ "groupname": "g", "roles": of_group, "clients": [{ "username": "ada" }] }],
            "roles": [roles.0, roles.1, roles.2],
        })
    })
}

/// `acl_check` of the plugin of 2.0.11: roles of the client, then of its group; each by priority, each ACL by priority.
fn plugin_allows(file: &Value, kinds: &[&str], hit: impl Fn(&str, &str) -> bool, default: &str) -> bool {
    let by_priority = |list: &Value| {
        let mut list = list.as_array().cloned().unwrap_or_default();
        list.sort_by_key(|entry| -entry["priority"].as_i64().unwrap_or_default());
        list
    };
    for held in [&file["clients"][0]["roles"], &file["groups"][0]["roles"]] {
        for of in by_priority(held) {
            let role = file["roles"].as_array().unwrap().iter().find(|role| role["rolename"] == of["rolename"]);
            let Some(role) = role else { continue };
            for kind in kinds {
                for acl in by_priority(&role["acls"]) {
                    if acl["acltype"] == *kind && hit(kind, acl["topic"].as_str().unwrap()) {
                        return acl["allow"] == true;
                    }
                }
            }
        }
    }
    file["defaultACLAccess"][default] == true
}

fn plugin_subscribes(file: &Value, filter: &TopicFilter) -> bool {
    let hit = |kind: &str, topic: &str| match kind {
        "subscribeLiteral" => topic == filter.as_str(),
        _ => TopicFilter::try_from(topic).unwrap().covers(filter),
    };
    plugin_allows(file, &["subscribeLiteral", "subscribePattern"], hit, "subscribe")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nobody_may_do_more_than_the_acl_file_allowed(text in any_acl_file(), tie: bool) {
        let passwords = format!("ada:{HASH}\nbob:{HASH}\n");
        let options = Options { client_id_is_username: tie, ..Options::default() };
        let made = files(&passwords, &text, options).unwrap();
        let same = made.report.entries.iter().all(|entry| matches!(entry.outcome, Outcome::Same | Outcome::Configuration));
        let (policy, acls) = (policy(&made), acls::parse(text.as_bytes()).unwrap());
        for user in ["ada", "bob"] {
            let id = policy.user_named(&user.parse().unwrap()).unwrap().id;
            for client_id in CLIENT_IDS {
                let authority = policy.authority(id, &client_id.try_into().unwrap());
                for topic in TOPICS {
                    let topic = TopicName::try_from(topic).unwrap();
                    let allows = |access| mosquitto_allows(&acls, user, client_id, access, &topic);
                    let here = authority.as_ref().map_or((false, false), |authority| {
                        (authority.may_receive(&topic).is_some(), authority.may_publish(&topic).is_some())
                    });
                    let there = (allows(Access::Read), allows(Access::Write));
                    prop_assert!(here.0 <= there.0 && here.1 <= there.1, "{user} as {client_id} {topic:?}: {here:?}, there {there:?}");
                    // And where nothing was said to differ, nothing does.
                    if same && !client_id.contains(['+', '#', '/']) {
                        prop_assert_eq!(here, there, "{} as {} {:?}", user, client_id, topic);
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_may_do_more_than_dynamic_security_allowed(file in any_dynamic_security()) {
        let made = dynamic_security(&file, Options::default()).unwrap();
        let same = made.report.entries.iter().all(|entry| entry.outcome == Outcome::Same);
        let policy = policy(&made);
        let id = policy.user_named(&"ada".parse().unwrap()).unwrap().id;
        let authority = policy.authority(id, &"c".try_into().unwrap()).unwrap();
        for topic in TOPICS {
            let topic = TopicName::try_from(topic).unwrap();
            let hit = |_: &str, filter: &str| matches(filter, &topic);
            let sends = plugin_allows(&file, &["publishClientSend"], hit, "publishClientSend");
            let receives = plugin_allows(&file, &["publishClientReceive"], hit, "publishClientReceive");
            let here = authority.may_publish(&topic).is_some();
            prop_assert!(here <= sends, "{topic:?}");
            if same && !topic.is_reserved() {
                prop_assert_eq!(here, sends, "{:?}", topic);
            }
            // Whatever filter it subscribes to for it.
            for filter in FILTERS.into_iter().chain(TOPICS) {
                let filter = TopicFilter::try_from(filter).unwrap();
                let granted = matches!(authority.may_subscribe(&filter), SubscribeVerdict::Granted { .. });
                let subscribes = plugin_subscribes(&file, &filter);
                prop_assert!(granted <= subscribes, "{filter:?}");
                if granted && filter.matches(&topic) && authority.may_receive(&topic).is_some() {
                    prop_assert!(receives, "{filter:?} {topic:?}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_password_file_makes_the_parser_panic(text in any::<Vec<u8>>(), lines in "([a-z:$#\\x00é ]{0,9}(\\$[67]\\$)?[0-9$A-Za-z+/=]{0,30}\n?){0,6}") {
        for bytes in [&text[..], lines.as_bytes()] {
            if let Ok(made) = import(Sources::Files { passwords: Some(bytes), acls: None }, Options::default()) {
                policy(&made);
            }
        }
    }

    #[test]
    fn no_acl_file_makes_the_parser_panic(
        lines in "(((user|topic|pattern|#)? {0,2}(read|write|readwrite|deny)? ?[a-z/+#%uc$ {}é\\x00\\x0b\u{a0}]{0,12}[ \\t\\r]?)\n){0,6}",
        certificates: bool, client_id_is_username: bool,
    ) {
        let sources = Sources::Files { passwords: None, acls: Some(lines.as_bytes()) };
        if let Ok(made) = import(sources, Options { certificates, client_id_is_username }) {
            policy(&made);
        }
    }

    #[test]
    fn no_dynamic_security_file_makes_the_parser_panic(text in any::<Vec<u8>>(), cut in 0..6_000_usize, flip in any::<u8>()) {
        let mut file = sample().to_string().into_bytes();
        let cut = cut % file.len();
        file[cut] = flip;
        for bytes in [&text[..], &file[..cut], &file[..]] {
            if let Ok(made) = import(Sources::DynamicSecurity(bytes), Options { certificates: true, client_id_is_username: true }) {
                policy(&made);
            }
        }
    }

    #[test]
    fn whatever_the_filter_the_rule_compiles_and_a_deny_covers_it(
        levels in prop::collection::vec(prop_oneof![Just("+".to_owned()), "[a-z$%uc{}]{0,4}", Just("${username}".to_owned()), Just("x".repeat(900))], 1..150),
        rest: bool, pattern: bool,
    ) {
        let filter = levels.join("/") + if rest { "/#" } else { "" };
        prop_assume!(acls::is_filter(&filter));
        let text = format!("user ada\n{0} deny {filter}\n{0} read {filter}\n", if pattern { "pattern" } else { "topic" });
        let made = files(&format!("ada:{HASH}\n"), &text, Options::default()).unwrap();
        let policy = policy(&made);
        let id = policy.user_named(&"ada".parse().unwrap()).unwrap().id;
        let authority = policy.authority(id, &"ada".try_into().unwrap()).unwrap();
        let topic = filter.replace("%u", "ada").replace("%c", "ada").replace(['+', '#'], "z");
        if let Ok(topic) = TopicName::try_from(topic.as_str()) {
            prop_assert!(authority.may_receive(&topic).is_none());
        }
    }
}

#[test]
fn the_shortest_username_and_every_reserved_one_are_left_out() {
    let names: BTreeSet<_> = ["ab", "admin", "Observer", "system", "LOCAL", "a/b", "abc"].into_iter().collect();
    let passwords: Vec<_> = names.iter().map(|name| format!("{name}:{HASH}\n")).collect();
    let made = files(&passwords.concat(), "", Options::default()).unwrap();
    assert_eq!(made.document.user.len(), 1);
    assert_eq!(made.report.count(Outcome::LeftOut), 6);
}

/// What the file may be is 16 MiB; what it takes must not be its square. (Where it was, this was minutes.)
#[test]
fn a_large_file_of_dynamic_security_is_mapped_in_proportion_to_its_size() {
    let denies = |from: usize| (from..from + 20_000).map(|n| acl("publishClientSend", &format!("d/{n}"), false));
    let allows = (0..20_000).map(|n| acl("publishClientSend", &format!("a/{n}"), true));
    let receives = (0..20_000).map(|n| acl("publishClientReceive", &format!("r/{n}"), true));
    let roles = [
        json!({ "rolename": "senders", "acls": denies(0).chain(allows).collect::<Vec<_>>() }),
        json!({ "rolename": "receivers", "acls": receives.collect::<Vec<_>>() }),
    ];
    let groups: Vec<_> = (0..20_000)
        .map(|n| json!({ "groupname": format!("g{n}"), "roles": [{ "rolename": "senders" }], "clients": [{ "username": format!("client-{n}") }] }))
        .collect();
    let clients: Vec<_> = (0..20_000)
        .map(|n| {
            let mut client = client(&format!("client-{n}"), &[]);
            client["groups"] = json!([{ "groupname": format!("g{}", (n + 1) % 20_000) }]);
            client
        })
        .collect();
    let made = dynamic_security(&json!({ "roles": roles, "groups": groups, "clients": clients }), Options::default());
    let made = made.unwrap();
    assert_eq!(made.document.user.len(), 20_000);
    assert!(made.document.user.iter().all(|user| user.roles.as_ref().unwrap().len() == 1));
    let text = told(&made);
    assert!(text.contains("too many to look for those"), "a deny that was not held against every allow says so");
}

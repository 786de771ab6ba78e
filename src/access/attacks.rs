//! Each test is named after the failure that it forbids.

use proptest::prelude::*;
use proptest::sample::select;

use super::reference::authority;
use super::*;
use crate::mqtt::{QoS, TopicFilter, TopicName};

use Context::{Http, Mqtt};
use Operation::{Read, ReadWrite, Write};

const ODD: [&str; 12] =
    ["a/b", "/", "+", "#", "a+", "+/#", "x/#", "$registry", "$SYS", "\u{1}", "a\u{7f}b", "${username}"];

fn topic(text: &str) -> TopicName {
    text.try_into().unwrap()
}

fn filter(text: &str) -> TopicFilter {
    text.try_into().unwrap()
}

fn ask(rules: &[Permission], client_id: &str) -> Authority {
    authority(rules, "bob", Some(client_id.try_into().unwrap())).unwrap()
}

fn allow(operation: Operation, resource: &str) -> Permission {
    Permission::allow(Mqtt, operation, resource)
}

fn deny(operation: Operation, resource: &str) -> Permission {
    Permission::deny(Mqtt, operation, resource)
}

fn reads(rules: &[Permission], name: &str) -> bool {
    ask(rules, "c1").may_receive(&topic(name)).is_some()
}

#[test]
fn a_pattern_matches_what_lies_below_it() {
    let rules = [allow(ReadWrite, "a/b")];
    assert!(reads(&rules, "a/b"));
    for name in ["a/b/c", "a", "a/b/", "/a/b", "a/bc", "A/b"] {
        assert!(!reads(&rules, name), "{name}");
        assert_eq!(ask(&rules, "c1").may_publish(&topic(name)), None, "{name}");
    }
}

#[test]
fn a_single_level_wildcard_grants_the_filter_of_all_levels() {
    let authority = ask(&[allow(Read, "a/+")], "c1");
    let granted = SubscribeVerdict::Granted { max_qos: QoS::ExactlyOnce, unconditional: true };
    assert_eq!(authority.may_subscribe(&filter("a/+")), granted);
    assert_eq!(authority.may_subscribe(&filter("a/x")), granted);
    for wider in ["a/#", "#", "+/+", "+/x"] {
        let partial = SubscribeVerdict::Partial { max_qos: QoS::ExactlyOnce };
        assert_eq!(authority.may_subscribe(&filter(wider)), partial, "{wider}");
    }
    for apart in ["a", "a/+/+", "b/#", "+", "$SYS/#"] {
        assert_eq!(authority.may_subscribe(&filter(apart)), SubscribeVerdict::Refused, "{apart}");
    }
}

#[test]
fn a_wildcard_at_the_first_level_reaches_the_topics_of_the_broker() {
    for pattern in ["#", "+/#", "+/x", "${username}/#", "${client_id}/#"] {
        for client_id in ["$SYS", "$registry", "$share", "c1"] {
            let authority = ask(&[allow(ReadWrite, pattern)], client_id);
            for name in ["$SYS/x", "$SYS", "$registry/admin/x", "$registry/events/x"] {
                assert_eq!(authority.may_receive(&topic(name)), None, "{pattern} {name}");
                assert_eq!(authority.may_publish(&topic(name)), None, "{pattern} {name}");
            }
            for asked in ["$SYS/#", "$SYS/+", "$registry/#", "$SYS/x", "$share/g/$SYS/#"] {
                assert_eq!(authority.may_subscribe(&filter(asked)), SubscribeVerdict::Refused, "{pattern} {asked}");
            }
        }
    }
}

#[test]
fn a_rule_lets_a_client_speak_for_the_broker() {
    let authority = ask(&[allow(ReadWrite, "$SYS/#"), allow(ReadWrite, "$registry/#"), allow(Write, "$x/#")], "c1");
    let topics = ["$SYS/broker/clients", "$registry/events/x", "$registry/register/response", "$x/y", "$share/g/x"];
    for name in topics.into_iter().chain(["$registry/admin/unlock"]) {
        assert_eq!(authority.may_publish(&topic(name)), None, "{name}");
        assert_eq!(authority.explain_publish(&topic(name)).verdict, Verdict::Deny, "{name}");
    }
    assert!(authority.may_receive(&topic("$SYS/broker/clients")).is_some());
}

#[test]
fn no_rule_means_allow() {
    for authority in [ask(&[], "c1"), Authority::none(PolicyVersion(7)), ask(&[deny(Read, "a")], "c1")] {
        for name in ["b", "a/b", "$SYS/x"] {
            assert_eq!(authority.may_publish(&topic(name)), None);
            assert_eq!(authority.may_receive(&topic(name)), None);
            let decision = authority.explain_receive(&topic(name));
            assert_eq!((decision.verdict, decision.rules.len()), (Verdict::Deny, 0));
        }
        assert_eq!(authority.may_subscribe(&filter("b/#")), SubscribeVerdict::Refused);
        assert!(!authority.may_http(false, &["api"]) && !authority.may_http(false, &[]));
    }
}

#[test]
fn one_allow_beats_a_deny() {
    let rules = [allow(ReadWrite, "a/b"), allow(ReadWrite, "#"), deny(ReadWrite, "+/b"), allow(Read, "a/+")];
    let authority = ask(&rules, "c1");
    assert_eq!(authority.may_receive(&topic("a/b")), None);
    assert_eq!(authority.may_publish(&topic("a/b")), None);
    assert_eq!(authority.may_subscribe(&filter("a/b")), SubscribeVerdict::Refused);
    let decision = authority.explain_receive(&topic("a/b"));
    assert_eq!(decision.rules, [(Some("role".parse().unwrap()), rules[2].clone())]);
    let withheld = SubscribeVerdict::Granted { max_qos: QoS::ExactlyOnce, unconditional: false };
    assert_eq!(authority.may_subscribe(&filter("a/#")), withheld);
}

#[test]
fn a_rule_on_one_operation_counts_for_the_other() {
    let authority = ask(&[allow(Read, "r"), allow(Write, "w"), allow(ReadWrite, "d"), deny(Write, "d")], "c1");
    assert!(authority.may_receive(&topic("r")).is_some() && authority.may_publish(&topic("r")).is_none());
    assert!(authority.may_receive(&topic("w")).is_none() && authority.may_publish(&topic("w")).is_some());
    assert!(authority.may_receive(&topic("d")).is_some() && authority.may_publish(&topic("d")).is_none());
}

#[test]
fn a_rule_that_does_not_match_adds_to_the_conditions() {
    let rules = [
        Permission { max_qos: Some(0), retain: Some(false), ..allow(ReadWrite, "a/#") },
        Permission { max_qos: Some(1), ..allow(Write, "a/b") },
        allow(Read, "a/b"),
        allow(ReadWrite, "c"),
    ];
    let authority = ask(&rules, "c1");
    assert_eq!(authority.may_publish(&topic("a/x")), Some((QoS::AtMostOnce, false)));
    assert_eq!(authority.may_publish(&topic("a/b")), Some((QoS::AtLeastOnce, true)));
    assert_eq!(authority.may_receive(&topic("a/x")), Some(QoS::AtMostOnce));
    assert_eq!(authority.may_receive(&topic("a/b")), Some(QoS::ExactlyOnce));
    let verdict = authority.may_subscribe(&filter("a/#"));
    assert_eq!(verdict, SubscribeVerdict::Granted { max_qos: QoS::AtMostOnce, unconditional: true });
}

#[test]
fn a_placeholder_in_a_client_s_filter_is_resolved() {
    let authority = ask(&[allow(Read, "a/${username}")], "c1");
    assert_eq!(authority.may_subscribe(&filter("a/${username}")), SubscribeVerdict::Refused);
    assert_eq!(authority.may_receive(&topic("a/${username}")), None);
    assert!(authority.may_receive(&topic("a/bob")).is_some());
}

#[test]
fn an_odd_client_identifier_escapes_a_deny() {
    for client_id in ["a/b", "+", "#", "x+"] {
        let authority = ask(&[allow(ReadWrite, "#"), deny(ReadWrite, "dev/${client_id}/secret")], client_id);
        for name in ["dev/a/secret", "dev/b/secret", "dev//secret", "dev/zzz/secret"] {
            assert_eq!(authority.may_receive(&topic(name)), None, "{client_id} {name}");
        }
        assert!(authority.may_receive(&topic("dev/a/other")).is_some());
        assert_eq!(authority.may_subscribe(&filter("dev/+/secret")), SubscribeVerdict::Refused);
        let rules = [allow(ReadWrite, "#"), deny(Read, "${client_id}/x/secret"), deny(Read, "dev/${client_id}/#")];
        let authority = ask(&rules, client_id);
        for inside in ["dev/+/#", "dev/x", "+/x/secret", "a/x/secret"] {
            assert_eq!(authority.may_subscribe(&filter(inside)), SubscribeVerdict::Refused, "{client_id} {inside}");
        }
        let withheld = SubscribeVerdict::Granted { max_qos: QoS::ExactlyOnce, unconditional: false };
        for partly_inside in ["dev/#", "#", "+/x/+", "a/#"] {
            assert_eq!(authority.may_subscribe(&filter(partly_inside)), withheld, "{client_id} {partly_inside}");
        }
    }
}

#[test]
fn a_caller_without_client_identifier_gets_what_one_would_name() {
    let rules = [allow(ReadWrite, "dev/${client_id}/#"), allow(Read, "x/#"), deny(Read, "x/${client_id}")];
    let authority = authority(&rules, "bob", None).unwrap();
    for name in ["dev//x", "dev/bob/x", "x/", "x/y"] {
        assert_eq!(authority.may_receive(&topic(name)), None, "{name}");
    }
    assert!(authority.may_receive(&topic("x/y/z")).is_some());
}

#[test]
fn a_group_is_joined_without_the_rule_that_it_needs() {
    let granted = SubscribeVerdict::Granted { max_qos: QoS::ExactlyOnce, unconditional: true };
    let jobs = filter("$share/workers/jobs/#");
    let free = ask(&[allow(Read, "jobs/#")], "c1");
    assert_eq!(free.may_subscribe(&jobs), granted);

    for (rule, expected) in [
        (allow(Read, "$share/workers/jobs/#"), granted),
        (allow(Read, "$share/workers/#"), granted),
        (allow(Read, "$share/+/#"), granted),
        (allow(Read, "$share/#"), granted),
        (allow(Read, "$share/workers/jobs/one"), SubscribeVerdict::Refused),
        (allow(Read, "$share/workers/other/#"), SubscribeVerdict::Refused),
        (allow(Read, "$share/${username}/#"), SubscribeVerdict::Refused),
        (allow(Read, "$share/others/#"), granted),
        (deny(Read, "$share/workers/#"), SubscribeVerdict::Refused),
        (deny(Read, "$share/workers/jobs/one"), SubscribeVerdict::Refused),
        (deny(Read, "$share/#"), SubscribeVerdict::Refused),
        (deny(Read, "$share/others/#"), granted),
    ] {
        let authority = ask(&[allow(Read, "jobs/#"), rule.clone()], "c1");
        assert_eq!(authority.may_subscribe(&jobs), expected, "{rule:?}");
        assert_eq!(authority.may_subscribe(&filter("jobs/#")), granted, "a rule on groups is none on topics");
    }
    let limited = Permission { max_qos: Some(1), ..allow(Read, "$share/workers/#") };
    let verdict = ask(&[allow(Read, "jobs/#"), limited], "c1").may_subscribe(&jobs);
    assert_eq!(verdict, SubscribeVerdict::Granted { max_qos: QoS::AtLeastOnce, unconditional: true });
    assert_eq!(ask(&[allow(Read, "$share/#")], "c1").may_subscribe(&jobs), SubscribeVerdict::Refused);
}

#[test]
fn a_trick_with_the_path_opens_another_route() {
    let rules = [Permission::allow(Http, ReadWrite, "/api/#"), Permission::deny(Http, ReadWrite, "/api/users/+")];
    let authority = ask(&rules, "c1");
    assert!(authority.may_http(true, &["api", "users"]));
    assert!(!authority.may_http(true, &["api", "users", "bob"]));
    for segments in [
        &["api", "users", "#"][..],
        &["api", "users", "+"],
        &["api", ".", "x"],
        &["api", "..", "x"],
        &["api", ""],
        &["api", "users/bob"],
        &["api", "x\0"],
        &["API"],
        &[],
    ] {
        assert!(!authority.may_http(false, segments), "{segments:?}");
    }
    let topics = [allow(ReadWrite, "/api/#"), Permission::allow(Http, ReadWrite, "/#")];
    assert!(!ask(&topics[..1], "c1").may_http(false, &["api"]), "a rule on topics is none on paths");
    assert!(!reads(&topics[1..], "/api"), "a rule on paths is none on topics");
}

#[test]
fn a_very_deep_topic_takes_a_walk_too_long_or_too_short() {
    let deep = "a/".repeat(30_000) + "a";
    let rules: Vec<_> = (1..=MAX_LEVELS)
        .map(|depth| allow(Read, &vec![if depth % 2 == 0 { "+" } else { "a" }; depth].join("/")))
        .chain([allow(Write, &("+/".repeat(127) + "#"))])
        .collect();
    let authority = ask(&rules, "c1");
    assert_eq!(authority.may_receive(&topic(&deep)), None);
    assert!(authority.may_publish(&topic(&deep)).is_some());
    let exactly = |levels: usize| topic(&vec!["a"; levels].join("/"));
    assert!(authority.may_receive(&exactly(MAX_LEVELS)).is_some());
    assert_eq!(authority.may_receive(&exactly(MAX_LEVELS + 1)), None);
    assert_eq!(authority.may_receive(&exactly(MAX_LEVELS + 2)), None);
    assert_eq!(authority.may_subscribe(&filter(&(deep + "/#"))), SubscribeVerdict::Refused);
}

#[test]
fn patterns_and_topics_that_branch_everywhere_take_more_steps_than_there_are_nodes() {
    // Every pattern of ten levels of `a` and `+`: each topic `a/a/...` takes every edge, 2,047 nodes and no more.
    let rules: Vec<_> = (0..1_024_u32)
        .map(|bits| {
            allow(Read, &(0..10).map(|bit| if bits >> bit & 1 == 0 { "a" } else { "+" }).collect::<Vec<_>>().join("/"))
        })
        .collect();
    let authority = ask(&rules, "c1");
    assert!(authority.may_receive(&topic("a/a/a/a/a/a/a/a/a/a")).is_some());
    assert_eq!(authority.explain_receive(&topic("a/a/a/a/a/a/a/a/a/a")).rules.len(), 1_024);
    assert_eq!(authority.may_receive(&topic("a/a/a/a/a/a/a/a/a/a/a")), None);
}

#[test]
fn a_look_for_overlaps_that_is_cut_short_grants_without_a_check() {
    let mut rules: Vec<_> = (0..30_000).map(|n| allow(Read, &format!("dev/{n}/x"))).collect();
    rules.push(allow(Read, "dev/#"));
    let authority = ask(&rules, "c1");
    assert_eq!(
        authority.may_subscribe(&filter("dev/+/x")),
        SubscribeVerdict::Granted { max_qos: QoS::ExactlyOnce, unconditional: false }
    );
    rules.pop();
    assert_eq!(
        ask(&rules, "c1").may_subscribe(&filter("dev/+/y")),
        SubscribeVerdict::Partial { max_qos: QoS::ExactlyOnce }
    );
    // A trailing `#` needs no visit of what lies below it.
    assert_eq!(
        ask(&rules, "c1").may_subscribe(&filter("dev/#")),
        SubscribeVerdict::Partial { max_qos: QoS::ExactlyOnce }
    );
}

proptest! {
    #[test]
    fn an_identity_string_widens_a_grant(
        identity in prop_oneof![select(ODD.as_slice()).prop_map(str::to_owned), "[a-c/+#$\u{1}é]{0,4}"],
        template in prop::collection::vec(select(["${client_id}", "a", "+", "${username}"].as_slice()), 1..4),
        rest in any::<bool>(),
        name in prop::collection::vec(select(["a", "b", "bob", "", "$SYS", "$registry", "c", "ab"].as_slice()), 1..5),
        odd_name in any::<bool>(),
    ) {
        let template = template.join("/") + if rest { "/#" } else { "" };
        // Now and then the topic that the identity would spell out if it were parsed.
        let name = if odd_name { template.replace("${client_id}", &identity).replace("${username}", "bob").replace(['+', '#'], "a") } else { name.join("/") };
        let (Ok(name), Ok(client_id)) = (TopicName::try_from(&*name), crate::mqtt::ClientId::try_from(&*identity)) else { return Ok(()) };
        let authority = authority(&[allow(ReadWrite, &template)], "bob", Some(client_id)).unwrap();
        let granted = authority.may_receive(&name).is_some();
        prop_assert!(authority.may_publish(&name).is_none() || granted);
        if granted {
            // The literal level would permit no less: some level is the very identity, and all others match without it.
            let levels: Vec<&str> = name.as_str().split('/').collect();
            prop_assert!(!name.is_reserved());
            for (at, level) in template.split('/').enumerate() {
                match level {
                    "${client_id}" => prop_assert_eq!(levels[at], &identity),
                    "${username}" => prop_assert_eq!(levels[at], "bob"),
                    "a" => prop_assert_eq!(levels[at], "a"),
                    _ => {}
                }
            }
            prop_assert!(rest || levels.len() == template.split('/').count());
        }
    }

    #[test]
    fn an_identity_string_weakens_a_deny(
        identity in prop_oneof![select(ODD.as_slice()).prop_map(str::to_owned), "[a-c/+#$]{1,4}"],
        level in "[a-c]{0,3}",
    ) {
        let client_id = crate::mqtt::ClientId::try_from(&*identity).unwrap();
        let authority = authority(&[allow(Read, "dev/#"), deny(Read, "dev/${client_id}")], "bob", Some(client_id)).unwrap();
        let odd = identity.contains(['/', '+', '#']);
        prop_assert_eq!(authority.may_receive(&topic(&format!("dev/{level}"))).is_none(), odd || level == identity);
    }
}

//! The decision said slowly: what the compiled engine must answer.
//!
//! Written from the access model alone and sharing no code with the engine: patterns are matched as text, level by level,
//! and what a filter can match is found by trying every topic of a small universe. For tests and the fuzz target only.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::decision::RuleSource;
use super::policy::Groups;
use super::rules::RuleSet;
use super::{
    Authority, ClientIdPatternError, Context, Effect, Operation, Permission, Policy, PolicyError, PolicyVersion, Role,
    RuleHolder, SubscribeVerdict, User, UserId, Verdict,
};
use crate::mqtt::{ClientId, QoS, TopicFilter, TopicName};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The name.
    pub username: &'a str,
    /// The client identifier, where there is one.
    pub client_id: Option<&'a str>,
}

/// The whole decision: a deny that matches denies; else an allow that matches allows; else it is denied. The conditions are
/// the most generous of the allows that match.
pub fn decide(rules: &[Permission], write: bool, topic: &str, who: Who<'_>) -> Option<(u8, bool)> {
    if write && topic.starts_with('$') {
        return None;
    }
    let matching = |effect: Effect| {
        rules.iter().filter(move |rule| {
            rule.context == Context::Mqtt
                && rule.effect == effect
                // Such a rule is about joining a group, never about a topic of that spelling.
                && !rule.resource.starts_with("$share/")
                && is_about(rule, write)
                && matches(rule, topic, who)
        })
    };
    if matching(Effect::Deny).next().is_some() {
        return None;
    }
    let max_qos = matching(Effect::Allow).map(|rule| rule.max_qos.unwrap_or(2)).max()?;
    Some((max_qos, matching(Effect::Allow).any(|rule| rule.retain.unwrap_or(true))))
}

/// The decision on a path, given as its text.
pub fn decide_path(rules: &[Permission], write: bool, path: &str, who: Who<'_>) -> bool {
    let matching = |effect: Effect| {
        rules.iter().any(|rule| {
            rule.context == Context::Http && rule.effect == effect && is_about(rule, write) && matches(rule, path, who)
        })
    };
    !matching(Effect::Deny) && matching(Effect::Allow)
}

/// The decision on a filter, which matches just those topics of the universe that are given.
pub fn subscribe(
    rules: &[Permission],
    group: Option<&str>,
    filter: &str,
    universe: &[String],
    who: Who<'_>,
) -> SubscribeVerdict {
    let asked: Vec<&str> = universe.iter().map(String::as_str).filter(|topic| filter_matches(filter, topic)).collect();
    let mut ceiling = 2;
    if let Some(group) = group {
        // The group as a level in front of each topic, and the rules on groups without their `$share/`.
        let joins = |rule: &&Permission| rule.resource.starts_with("$share/") && is_about(rule, false);
        let touches = |rule: &Permission, topic: &str| group_matches(rule, group, topic, who);
        let rules = || rules.iter().filter(joins);
        let denied = |rule: &Permission| rule.effect == Effect::Deny && asked.iter().any(|topic| touches(rule, topic));
        if rules().any(denied) {
            return SubscribeVerdict::Refused;
        }
        let named = |rule: &Permission| {
            let name = rule.resource.split('/').nth(1).unwrap_or_default();
            name == group || (rule.effect == Effect::Allow && (name == "+" || name == "#" || name.starts_with("${")))
        };
        if rules().any(named) {
            let covering = rules()
                .filter(|rule| rule.effect == Effect::Allow && asked.iter().all(|topic| touches(rule, topic)))
                .map(|rule| rule.max_qos.unwrap_or(2));
            match covering.max() {
                Some(max_qos) => ceiling = max_qos,
                None => return SubscribeVerdict::Refused,
            }
        }
    }
    let of_effect = |effect: Effect| {
        rules.iter().filter(move |rule| {
            rule.context == Context::Mqtt
                && !rule.resource.starts_with("$share/")
                && rule.effect == effect
                && is_about(rule, false)
        })
    };
    let covers = |rule: &&Permission| asked.iter().all(|topic| matches(rule, topic, who));
    let overlaps = |rule: &&Permission| asked.iter().any(|topic| matches(rule, topic, who));
    let most = |rules: &mut dyn Iterator<Item = &Permission>| rules.map(|rule| rule.max_qos.unwrap_or(2)).max();
    if of_effect(Effect::Deny).any(|rule| covers(&rule)) {
        SubscribeVerdict::Refused
    } else if let Some(max_qos) = most(&mut of_effect(Effect::Allow).filter(covers)) {
        let unconditional = !of_effect(Effect::Deny).any(|rule| overlaps(&rule));
        SubscribeVerdict::Granted { max_qos: qos(max_qos.min(ceiling)), unconditional }
    } else if let Some(max_qos) = most(&mut of_effect(Effect::Allow).filter(overlaps)) {
        SubscribeVerdict::Partial { max_qos: qos(max_qos.min(ceiling)) }
    } else {
        SubscribeVerdict::Refused
    }
}

/// Do these rules hold what the permission hands out? One allow must cover every topic that it is about, whoever its
/// placeholders stand for, and no deny may touch one of them.
pub fn holds(rules: &[Permission], permission: &Permission, universe: &[String], who: Who<'_>) -> bool {
    if permission.effect == Effect::Deny {
        return true;
    }
    let anybody = permission.resource.replace("${username}", "+").replace("${client_id}", "+");
    let (group, filter) = match anybody.strip_prefix("$share/") {
        Some("#") => (Some("+"), "#"),
        Some(rest) => rest.split_once('/').map_or((None, rest), |(group, filter)| (Some(group), filter)),
        None => (None, anybody.as_str()),
    };
    // Joining a group is worth what can be read in it.
    let inner = Permission { operation: Operation::Read, resource: filter.to_owned(), ..permission.clone() };
    if group.is_some() && !holds(rules, &inner, universe, who) {
        return false;
    }
    let asked: Vec<&str> = universe.iter().map(String::as_str).filter(|topic| filter_matches(filter, topic)).collect();
    let groups: Vec<&str> = match group {
        Some("+") => vec!["g", "h", "alice", "k", "fresh"],
        Some(group) => vec![group],
        None => Vec::new(),
    };
    let of_group = |rule: &Permission| rule.resource.starts_with("$share/");
    let matches_one = |rule: &Permission, topic: &str, group: Option<&str>| match group {
        Some(group) => of_group(rule) && group_matches(rule, group, topic, who),
        None => !of_group(rule) && matches(rule, topic, who),
    };
    let about: Vec<(&str, Option<&str>)> = match group {
        None => asked.iter().map(|topic| (*topic, None)).collect(),
        Some(_) => asked.iter().flat_map(|topic| groups.iter().map(move |group| (*topic, Some(*group)))).collect(),
    };
    let every_group = ["g", "h", "alice", "k", "fresh"];
    [false, true].into_iter().filter(|write| is_about(permission, *write)).all(|write| {
        let denies = |rule: &&Permission| rule.effect == Effect::Deny && is_about(rule, write);
        let touched = |rule: &Permission| about.iter().any(|(topic, group)| matches_one(rule, topic, *group));
        let joins = |rule: &Permission| {
            let mut pairs = asked.iter().flat_map(|topic| every_group.map(|group| (*topic, group)));
            !write
                && group.is_none()
                && of_group(rule)
                && pairs.any(|(topic, group)| group_matches(rule, group, topic, who))
        };
        if rules.iter().filter(denies).any(|rule| touched(rule) || joins(rule)) {
            return false;
        }
        let lasts = |rule: &Permission| match (rule.not_after, permission.not_after) {
            (Some(rule), Some(end)) => end <= rule,
            (rule, _) => rule.is_none(),
        };
        let covers = |rule: &&Permission| {
            rule.effect == Effect::Allow
                && is_about(rule, write)
                && lasts(rule)
                && about.iter().all(|(topic, group)| matches_one(rule, topic, *group))
        };
        let max_qos = rules.iter().filter(covers).map(|rule| rule.max_qos.unwrap_or(2)).max();
        let retain = rules.iter().filter(covers).any(|rule| rule.retain.unwrap_or(true));
        max_qos.is_some_and(|max_qos| max_qos >= permission.max_qos.unwrap_or(2))
            && (retain || !write || !permission.retain.unwrap_or(true))
    })
}

/// Does the rule's resource match the topic?
pub fn matches(rule: &Permission, topic: &str, who: Who<'_>) -> bool {
    let pattern: Vec<&str> = rule.resource.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels_match(&pattern, &topic, Some((rule.effect, who)), true)
}

/// Does the filter match the topic? Nothing in a filter is a placeholder.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    levels_match(&filter, &topic, None, true)
}

fn group_matches(rule: &Permission, group: &str, topic: &str, who: Who<'_>) -> bool {
    let resource = rule.resource.strip_prefix("$share/").unwrap_or_default();
    let (name, filter) = resource.split_once('/').unwrap_or(("+", "#"));
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    let who = Some((rule.effect, who));
    level_matches(name, group, who, false) && levels_match(&filter, &topic, who, true)
}

type Placeholders<'a> = Option<(Effect, Who<'a>)>;

fn levels_match(pattern: &[&str], topic: &[&str], who: Placeholders<'_>, first: bool) -> bool {
    let reserved = first && topic.first().is_some_and(|level| level.starts_with('$'));
    match (pattern.split_first(), topic.split_first()) {
        (None, None) => true,
        (Some((&"#", _)), _) => !reserved,
        (Some((level, pattern)), Some((name, topic))) => {
            level_matches(level, name, who, reserved) && levels_match(pattern, topic, who, false)
        }
        _ => false,
    }
}

fn level_matches(level: &str, name: &str, who: Placeholders<'_>, reserved: bool) -> bool {
    let value = match (level, who) {
        ("+", _) => return !reserved,
        ("${username}", Some((effect, who))) => (effect, Some(who.username)),
        ("${client_id}", Some((effect, who))) => (effect, who.client_id),
        _ => return level == name,
    };
    !reserved
        && match value {
            (_, Some(value)) if !value.contains(['/', '+', '#', '\0']) => value == name,
            (Effect::Allow, _) => false,
            (Effect::Deny, _) => true,
        }
}

fn is_about(rule: &Permission, write: bool) -> bool {
    match rule.operation {
        Operation::ReadWrite => true,
        Operation::Read => !write,
        Operation::Write => write,
    }
}

fn qos(number: u8) -> QoS {
    match number {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// The engine's authority with half of the rules in a role and half its own, made without the checks of a [`Policy`] on the
/// user: so that odd client identifiers reach the engine.
///
/// # Errors
/// What is wrong with a rule.
pub fn authority(rules: &[Permission], username: &str, client_id: Option<ClientId>) -> Result<Authority, PolicyError> {
    let (own, of_role) = rules.split_at(rules.len() / 2);
    let (name, role) = (username.parse(), "role".parse());
    let (Ok(name), Ok(role)) = (name, role) else { return Ok(Authority::none(PolicyVersion(0))) };
    let mut user = User::new(UserId(Uuid::from_u128(1)), name, Timestamp::UNIX_EPOCH);
    user.permissions = own.to_vec();
    let (user, role) = (Arc::new(user), Arc::new(Role::new(role, of_role.to_vec())));
    let compile = |rules: &[Permission]| {
        RuleSet::compile(|| RuleHolder::User(user.username.clone()), rules, Timestamp::UNIX_EPOCH).map(Arc::new)
    };
    let (own, of_role) = (compile(own)?, compile(of_role)?);
    let mut groups = Groups::default();
    groups.add(&own.claims);
    groups.add(&of_role.claims);
    let sources = [RuleSource::User(Arc::clone(&user), own), RuleSource::Role(role, of_role)];
    Ok(Authority::new(PolicyVersion(1), user, client_id, sources.into_iter(), Arc::new(groups)))
}

/// What the fuzz target does with its bytes: lines with username, client identifier, `client_id` pattern, topic and filter,
/// then one rule per line, as `a` or `d`, `r`, `w` or `b`, optionally a QoS, a space, and the resource.
///
/// # Panics
/// When the engine and the reference disagree.
pub fn differential(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default().to_owned();
    let (username, client_id, pattern, topic, filter) = (line(), line(), line(), line(), line());
    let rules: Vec<Permission> = lines.filter_map(read_rule).collect();
    let Ok(username) = username.parse::<super::Username>() else { return };
    let Ok(client) = ClientId::try_from(&*client_id) else { return };

    let id = UserId(Uuid::from_u128(1));
    let mut user = User::new(id, username.clone(), Timestamp::UNIX_EPOCH);
    user.permissions.clone_from(&rules);
    user.client_id = (!pattern.is_empty()).then_some(pattern);
    let committed = Policy::default().with([], [(id, Some(user))], Timestamp::UNIX_EPOCH);
    match &committed {
        Ok(policy) => drop(policy.authority(id, &client)),
        Err(PolicyError::ClientIdPattern { fault: ClientIdPatternError::Empty, .. }) => unreachable!("left out"),
        Err(error) => drop(error.to_string()),
    }

    let Ok(authority) = authority(&rules, username.as_str(), Some(client.clone())) else {
        assert!(committed.is_err(), "a policy took rules that do not compile");
        return;
    };
    let who = Who { username: username.as_str(), client_id: Some(&client_id) };
    if let Ok(name) = TopicName::try_from(&*topic) {
        check_topic(&authority, &rules, &name, who);
        if let Ok(policy) = &committed {
            check_policy(policy, id, &client, &rules, &name);
        }
        let segments: Vec<&str> = topic.strip_prefix('/').unwrap_or(&topic).split('/').collect();
        if segments.iter().all(|segment| !matches!(*segment, "" | "." | "..")) {
            let path = format!("/{}", segments.join("/"));
            for write in [false, true] {
                assert_eq!(authority.may_http(write, &segments), decide_path(&rules, write, &path, who));
            }
        }
        if let Ok(filter) = TopicFilter::try_from(&*filter) {
            check_filter(&authority, &filter, &name);
        }
    }
}

/// What a policy grants under a client identifier that it admits is what the reference says, and `who-can` knows of it.
fn check_policy(policy: &Policy, id: UserId, client_id: &ClientId, rules: &[Permission], topic: &TopicName) {
    let (Some(user), Some(authority)) = (policy.user(id), policy.authority(id, client_id)) else { return };
    assert!(!client_id.as_str().contains(['+', '#']), "nobody may have {client_id}");
    check_topic(
        &authority,
        rules,
        topic,
        Who { username: user.username.as_str(), client_id: Some(client_id.as_str()) },
    );
    for (may, able) in [
        (authority.may_publish(topic).is_some(), policy.who_can_publish(topic)),
        (authority.may_receive(topic).is_some(), policy.who_can_receive(topic)),
    ] {
        // As long as any level may be, no client identifier is left that is none of them.
        assert!(!may || !able.is_empty() || topic.as_str().len() > 1_000, "{topic} by {client_id:?} under {rules:?}");
    }
}

/// Publish, receive and their explanations are what the reference says.
///
/// # Panics
/// When they are not.
pub fn check_topic(authority: &Authority, rules: &[Permission], topic: &TopicName, who: Who<'_>) {
    let publish = decide(rules, true, topic.as_str(), who).map(|(max_qos, retain)| (qos(max_qos), retain));
    let receive = decide(rules, false, topic.as_str(), who).map(|(max_qos, _)| qos(max_qos));
    assert_eq!(authority.may_publish(topic), publish, "publish {topic} by {who:?} under {rules:?}");
    assert_eq!(authority.may_receive(topic), receive, "receive {topic} by {who:?} under {rules:?}");

    let explained = authority.explain_publish(topic);
    assert_eq!((explained.verdict == Verdict::Allow).then_some((explained.max_qos, explained.retain)), publish);
    let explained = authority.explain_receive(topic);
    assert_eq!((explained.verdict == Verdict::Allow).then_some(explained.max_qos), receive);
}

/// What is promised of a filter holds for one topic that it matches.
///
/// # Panics
/// When it does not.
pub fn check_filter(authority: &Authority, filter: &TopicFilter, topic: &TopicName) {
    let shared = filter.shared();
    let inner = shared.map_or(filter.as_str(), |(_, inner)| inner);
    let verdict = authority.may_subscribe(filter);
    assert_eq!(authority.explain_subscribe(filter).verdict, verdict);
    if !filter_matches(inner, topic.as_str()) {
        return;
    }
    match verdict {
        SubscribeVerdict::Granted { max_qos, unconditional: true } => {
            assert!(authority.may_receive(topic) >= Some(max_qos), "{filter} was granted, {topic} is not");
        }
        SubscribeVerdict::Refused if shared.is_none() => {
            assert_eq!(authority.may_receive(topic), None, "{filter} was refused, {topic} is not");
        }
        _ => {}
    }
}

fn read_rule(line: &str) -> Option<Permission> {
    let (head, resource) = line.split_once(' ')?;
    let mut head = head.chars();
    let effect = head.next()?;
    let operation = match head.next()? {
        'r' => Operation::Read,
        'w' => Operation::Write,
        _ => Operation::ReadWrite,
    };
    let context = if resource.starts_with("/api") { Context::Http } else { Context::Mqtt };
    let mut rule = Permission::allow(context, operation, resource);
    if effect == 'd' {
        rule.effect = Effect::Deny;
    }
    rule.max_qos = head.next().and_then(|digit| digit.to_digit(10)).and_then(|digit| u8::try_from(digit).ok());
    Some(rule)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const LEVELS: [&str; 6] = ["a", "b", "", "bob", "$x", "$SYS"];

    /// Every topic of one to three levels of an alphabet that has a level which no pattern names. Patterns and filters have at
    /// most three levels too, so that deeper topics would tell nothing more.
    pub(crate) fn universe(client_id: &str) -> Vec<String> {
        let mut alphabet = LEVELS.to_vec();
        alphabet.push("fresh");
        if !client_id.contains(['/', '+', '#']) && !alphabet.contains(&client_id) {
            alphabet.push(client_id);
        }
        let mut topics: Vec<String> = alphabet.iter().map(ToString::to_string).collect();
        let mut longest = topics.clone();
        for _ in 1..3 {
            longest =
                longest.iter().flat_map(|topic| alphabet.iter().map(move |level| format!("{topic}/{level}"))).collect();
            topics.extend(longest.iter().cloned());
        }
        topics.retain(|topic| !topic.is_empty());
        topics
    }

    fn levels(wildcards: &'static [&'static str]) -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => select(LEVELS.as_slice()), 3 => select(wildcards)];
        (prop::collection::vec(level, 1..=3), any::<bool>())
            .prop_map(|(levels, rest)| {
                let mut levels = levels;
                if rest && levels.len() < 3 {
                    levels.push("#");
                } else if rest {
                    levels[2] = "#";
                }
                levels.join("/")
            })
            .prop_filter("a pattern has characters", |text| !text.is_empty())
    }

    fn resource() -> impl Strategy<Value = String> {
        let topic = || {
            prop_oneof![8 => levels(&["+", "${username}", "${client_id}"]), 1 => Just("#".to_owned())]
                .prop_filter("an ordinary topic", |text| !text.starts_with("$share"))
        };
        let group = select(["g", "h", "+", "${username}", "${client_id}"].as_slice());
        prop_oneof![9 => topic(), 1 => (group, topic()).prop_map(|(group, topic)| format!("$share/{group}/{topic}"))]
    }

    pub(crate) fn rule() -> impl Strategy<Value = Permission> {
        let operation = select([Operation::Read, Operation::ReadWrite, Operation::Write].as_slice());
        (resource(), operation, 0..3_u8, prop::option::of(0..3_u8), prop::option::of(any::<bool>())).prop_map(
            |(resource, operation, deny, max_qos, retain)| {
                let operation = if resource.starts_with("$share") { Operation::Read } else { operation };
                if deny == 0 {
                    Permission::deny(Context::Mqtt, operation, resource)
                } else {
                    Permission { max_qos, retain, ..Permission::allow(Context::Mqtt, operation, resource) }
                }
            },
        )
    }

    /// The same rule on joining the group `g`.
    fn on_group(rule: Permission) -> Permission {
        if rule.resource.starts_with("$share/") {
            return rule;
        }
        Permission { operation: Operation::Read, resource: format!("$share/g/{}", rule.resource), ..rule }
    }

    pub(crate) fn rules() -> impl Strategy<Value = Vec<Permission>> {
        prop::collection::vec(rule(), 0..8)
    }

    fn client_id() -> impl Strategy<Value = &'static str> {
        select(["bob", "c1", "a", "$SYS", "$x", "+", "#", "a/b", "c+", "${username}"].as_slice())
    }

    fn who(client_id: &str) -> Who<'_> {
        Who { username: "bob", client_id: Some(client_id) }
    }

    fn engine(rules: &[Permission], client_id: &str) -> Authority {
        authority(rules, "bob", Some(client_id.try_into().unwrap())).unwrap()
    }

    #[test]
    fn no_seed_of_the_fuzz_target_makes_the_engine_and_the_reference_disagree() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/access");
        let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
        assert!(seeds.len() >= 10);
        for seed in seeds {
            differential(&std::fs::read(seed).unwrap());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn each_topic_is_decided_as_the_reference_says(rules in rules(), client_id in client_id(), first in 0..8_usize) {
            let authority = engine(&rules, client_id);
            for topic in universe(client_id).iter().skip(first).step_by(8) {
                check_topic(&authority, &rules, &topic.as_str().try_into().unwrap(), who(client_id));
            }
        }

        #[test]
        fn each_filter_is_decided_as_trying_every_topic_says(rules in rules(), client_id in client_id(), filter in levels(&["+"])) {
            let (authority, universe) = (engine(&rules, client_id), universe(client_id));
            let expected = subscribe(&rules, None, &filter, &universe, who(client_id));
            let filter = TopicFilter::try_from(&*filter).unwrap();
            prop_assert_eq!(authority.may_subscribe(&filter), expected);
            prop_assert_eq!(authority.explain_subscribe(&filter).verdict, expected);
        }

        #[test]
        fn each_shared_subscription_is_decided_as_trying_every_topic_says(
            rules in prop::collection::vec(prop_oneof![rule(), rule().prop_map(on_group)], 0..6),
            client_id in client_id(), group in select(["g", "h", "bob", "k"].as_slice()), filter in levels(&["+"]),
        ) {
            let (authority, universe) = (engine(&rules, client_id), universe(client_id));
            let expected = subscribe(&rules, Some(group), &filter, &universe, who(client_id));
            let Ok(shared) = TopicFilter::try_from(&*format!("$share/{group}/{filter}")) else { return Ok(()) };
            prop_assert_eq!(authority.may_subscribe(&shared), expected);
        }

        #[test]
        fn a_verdict_on_a_filter_is_a_promise_on_its_topics(rules in rules(), client_id in client_id(), filter in levels(&["+"])) {
            let authority = engine(&rules, client_id);
            let filter = TopicFilter::try_from(&*filter).unwrap();
            for topic in universe(client_id).iter().step_by(7) {
                check_filter(&authority, &filter, &topic.as_str().try_into().unwrap());
            }
        }

        #[test]
        fn an_explanation_names_only_rules_that_match_and_never_none_for_an_allow(rules in rules(), client_id in client_id(), at in 0..600_usize) {
            let authority = engine(&rules, client_id);
            let universe = universe(client_id);
            let topic: TopicName = universe[at % universe.len()].as_str().try_into().unwrap();
            let decision = authority.explain_receive(&topic);
            let effect = if decision.verdict == Verdict::Allow { Effect::Allow } else { Effect::Deny };
            for (_, rule) in &decision.rules {
                prop_assert!(rule.effect == effect && matches(rule, topic.as_str(), who(client_id)));
            }
            let expected = rules.iter().filter(|rule| !rule.resource.starts_with("$share/"))
                .filter(|rule| rule.effect == effect && is_about(rule, false) && matches(rule, topic.as_str(), who(client_id)));
            prop_assert_eq!(decision.rules.len(), expected.count());
        }

        #[test]
        fn the_order_of_rules_never_matters(
            (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
            client_id in client_id(), filter in levels(&["+"]), at in 0..600_usize,
        ) {
            let (one, other) = (engine(&rules, client_id), engine(&shuffled, client_id));
            let universe = universe(client_id);
            let topic: TopicName = universe[at % universe.len()].as_str().try_into().unwrap();
            let filter = TopicFilter::try_from(&*filter).unwrap();
            prop_assert_eq!(one.may_publish(&topic), other.may_publish(&topic));
            prop_assert_eq!(one.may_receive(&topic), other.may_receive(&topic));
            prop_assert_eq!(one.may_subscribe(&filter), other.may_subscribe(&filter));
        }

        #[test]
        fn paths_are_decided_as_the_reference_says(
            rules in prop::collection::vec((select(["/#", "/", "/+", "/api/#", "/api/+", "/api/users/${username}", "/api", "/+/+/x", "/api/${username}/#"].as_slice()), any::<bool>(), 0..3_u8), 0..6),
            segments in prop::collection::vec(select(["api", "users", "bob", "x", "+", "#", "$SYS"].as_slice()), 0..4), write in any::<bool>(),
        ) {
            let rules: Vec<Permission> = rules.into_iter().map(|(resource, deny, operation)| {
                let operation = [Operation::Read, Operation::Write, Operation::ReadWrite][usize::from(operation)];
                if deny { Permission::deny(Context::Http, operation, resource) } else { Permission::allow(Context::Http, operation, resource) }
            }).collect();
            // As text, the path without segments is the one that the pattern `/` is about.
            let expected = if segments.is_empty() {
                let root = |rule: &Permission| rule.resource == "/" || rule.resource == "/#";
                let about = |effect| rules.iter().any(|rule| rule.effect == effect && is_about(rule, write) && root(rule));
                !about(Effect::Deny) && about(Effect::Allow)
            } else {
                decide_path(&rules, write, &format!("/{}", segments.join("/")), who("c"))
            };
            let authority = authority(&rules, "bob", None).unwrap();
            prop_assert_eq!(authority.may_http(write, &segments), expected);
            prop_assert_eq!(authority.explain_http(write, &segments).verdict == Verdict::Allow, expected);
        }

        #[test]
        fn no_bytes_make_the_engine_and_the_reference_disagree(text in "(bob|a-b)\n[a~/+#$]{0,4}\n(\\$\\{username\\})?[*~]{0,2}\n[ab/$]{1,6}\n[ab/+#$]{1,6}(\n[ad][rwb][0-3]? [ab/+#$]{1,6}){0,5}") {
            differential(text.as_bytes());
        }
    }
}

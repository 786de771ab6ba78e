//! What `explain`, `who-can` and what-if say through the admin socket, against what the broker does to real clients.
//!
//! Small random policies, topics, filters and client identifiers, odd ones among them. The seed of a case that fails is
//! printed; with it in [`SEED`] that case is the first one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use portcullis::{
    access::User,
    mqtt::{
        Connect, Packet, ProtocolVersion, Publish, ReasonCode, RetainHandling, SubscriptionOptions, TopicFilter,
        TopicName,
    },
};
use serde_json::{Value, json};

use crate::{
    apply::admin,
    client::{BOTH, Client, Q0, Q2, QOS, Received, V5, ack, id, options, publish, text_of, topic_of},
    harness::{Harness, PASSWORD, as_user, hash},
};

/// Of the first case; the others follow.
const SEED: u64 = 1;
const CASES: usize = 20;

const USERS: [&str; 3] = ["bob", "eve", "ann"];
const LEVELS: [&str; 8] = ["a", "b", "", "bob", "c~1", "bob~1", "$x", "${username}"];
const CLIENT_IDS: [&str; 12] =
    ["a", "bob", "eve", "bob~1", "eve~a/b", "ann~", "c~1", "$SYS", "a+b", "#", "\u{1}\u{7f}", "${username}"];
const TIES: [&str; 9] = ["", "", "${username}", "${username}", "${username}~*", "${username}~*", "c~*", "*+*", "*"];
const PREFIXES: [&str; 4] = ["", "", "a/", "bob/b/"];

const OUTCOMES: [&str; 17] = [
    "barred",
    "published",
    "published behind the prefix",
    "not published by a rule",
    "not published without a rule",
    "subscribed",
    "subscribed with a lower QoS",
    "not subscribed",
    "received",
    "withheld",
    "retained",
    "can",
    "can as one client",
    "cannot",
    "would gain",
    "would lose",
    "would stay",
];

/// SplitMix64: the same on every machine.
struct Random {
    state: u64,
    /// Of the rules that there are: what is asked is often near one of them.
    resources: Vec<String>,
    publish_prefix: String,
    /// Client identifiers that the user is admitted with.
    admitted: Vec<String>,
}

impl Random {
    fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.number() % most as u64).unwrap()
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn levels(&mut self, wildcards: &[&'static str]) -> String {
        let count = 1 + self.below(3);
        let mut levels: Vec<&str> = (0..count)
            .map(|_| if !wildcards.is_empty() && self.one_in(3) { self.pick(wildcards) } else { self.pick(&LEVELS) })
            .collect();
        if !wildcards.is_empty() && self.one_in(3) {
            levels.push("#");
        }
        levels.join("/")
    }

    /// The resource of a rule, with the user's own names, and now and then with its wildcards.
    fn near_a_rule(&mut self, name: &str, client_id: &str, wildcards: bool) -> String {
        let at = self.below(self.resources.len());
        let resource = self.resources[at].replace("${username}", name).replace("${client_id}", client_id);
        let levels = resource.split('/').map(|level| match level {
            "+" | "#" if !wildcards || self.one_in(3) => self.pick(&LEVELS),
            level => level,
        });
        levels.collect::<Vec<_>>().join("/")
    }

    fn topic(&mut self, name: &str, client_id: &str) -> String {
        if self.one_in(12) {
            return self
                .pick(&["$SYS/x", "$registry/whoami", "$registry/admin/unlock", "$share/g/a", "a/b/c/d/e"])
                .into();
        }
        loop {
            let text = if self.one_in(4) { self.levels(&[]) } else { self.near_a_rule(name, client_id, false) };
            let written = text.strip_prefix(self.publish_prefix.as_str()).unwrap_or(&text);
            if TopicName::try_from(written).is_ok() {
                return written.to_owned();
            }
        }
    }

    fn filter(&mut self, name: &str, client_id: &str) -> String {
        if self.one_in(10) {
            return self
                .pick(&["#", "$SYS/#", "$share/g/a", "$registry/#", "$registry/whoami/response", "a/+/+/+/+"])
                .into();
        }
        loop {
            let text = if self.one_in(3) { self.levels(&["+"]) } else { self.near_a_rule(name, client_id, true) };
            if TopicFilter::try_from(text.as_str()).is_ok() {
                return text;
            }
        }
    }

    fn client_id(&mut self) -> String {
        let odd = self.pick(&CLIENT_IDS);
        if self.admitted.is_empty() || self.one_in(4) {
            return odd.to_owned();
        }
        let at = self.below(self.admitted.len());
        self.admitted[at].clone()
    }

    fn rule(&mut self) -> Value {
        let resource = match self.below(12) {
            0 => "#".to_owned(),
            1 => self.pick(&["$SYS/#", "$x/#", "$share/g/a", "$registry/#"]).to_owned(),
            // As often as not, one that could match what is asked.
            _ => self.levels(&["+", "${username}", "${client_id}"]),
        };
        let operation =
            if resource.starts_with("$share") { "read" } else { self.pick(&["read", "write", "read_write"]) };
        let mut rule = json!({ "context": "mqtt", "operation": operation, "resource": resource });
        if self.one_in(4) {
            rule["effect"] = "deny".into();
        } else {
            if self.one_in(2) {
                rule["max_qos"] = self.below(3).into();
            }
            if self.one_in(3) {
                rule["retain"] = self.one_in(2).into();
            }
        }
        rule
    }

    fn rules(&mut self, most: usize) -> Vec<Value> {
        (0..self.below(most + 1)).map(|_| self.rule()).collect()
    }

    fn user(&mut self, name: &str) -> Value {
        let roles: Vec<&str> = ["one", "two"].into_iter().filter(|_| self.one_in(2)).collect();
        let client_id = self.pick(&TIES);
        let mut permissions = self.rules(8);
        if client_id.starts_with("${username}") {
            // Others may not have such an allow.
            let resource = format!("{}/${{client_id}}", self.pick(&["a", "+"]));
            permissions.push(json!({ "context": "mqtt", "operation": "read_write", "resource": resource }));
        }
        json!({
            "username": name, "roles": roles, "permissions": permissions, "enabled": !self.one_in(10),
            "client_id": client_id, "publish_prefix": self.pick(&PREFIXES),
        })
    }

    fn policy(&mut self, hash: &str) -> Value {
        let mut users: Vec<Value> = USERS.iter().map(|name| self.user(name)).collect();
        for user in &mut users {
            user["password_hash"] = hash.into();
        }
        let role = |name: &str, permissions| json!({ "name": name, "permissions": permissions });
        json!({ "role": [role("one", self.rules(6)), role("two", self.rules(6))], "user": users })
    }

    /// What is asked from now on is about this user.
    fn study(&mut self, bench: &Bench, name: &str) {
        let policy = bench.harness.users().policy();
        let user = policy.user_named(&name.parse().unwrap()).unwrap();
        let of_roles = user.roles.iter().flat_map(|role| &policy.role(role).unwrap().permissions);
        let resources = user.permissions.iter().chain(of_roles).map(|rule| rule.resource.clone());
        self.resources = resources.filter(|resource| !resource.starts_with("$share")).collect();
        self.resources.push("a".to_owned());
        self.publish_prefix = user.publish_prefix.clone().unwrap_or_default();
        let own = [name.to_owned(), format!("{name}~1"), "c~1".to_owned()];
        let admits = |id: &String| policy.authority(user.id, &id.parse().unwrap()).is_some();
        self.admitted = own.into_iter().filter(admits).collect();
    }

    fn change(&mut self) -> Value {
        if self.one_in(2) {
            return json!({ "role": [{ "name": self.pick(&["one", "two"]), "permissions": self.rules(6) }] });
        }
        let name = self.pick(&USERS);
        json!({ "user": [self.user(name)] })
    }
}

/// Says what is needed to run the case again.
struct OnFailure(Vec<String>);

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.join("\n"));
        }
    }
}

struct Bench {
    harness: Harness,
    watcher: Client,
    number: u32,
    /// How often each outcome came: what never comes is not tested.
    seen: BTreeMap<&'static str, usize>,
}

impl Bench {
    async fn start(config: &str) -> Self {
        let harness = Harness::start(config).await;
        let mut watcher = harness.client(V5, "watcher").await;
        watcher.subscribe("#", Q2).await;
        Self { harness, watcher, number: 0, seen: BTreeMap::new() }
    }

    /// The answer to a question that must have one.
    async fn ask(&self, question: &Value) -> Value {
        let (status, answer) = admin(&self.harness, "POST", "/api/explain", question).await;
        assert_eq!(status, 200, "{question}: {answer}");
        answer
    }

    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A text that no message had before.
    fn text(&mut self) -> String {
        self.number += 1;
        self.number.to_string()
    }

    /// The topic on which the watcher got this message, which nobody else has sent anything beside.
    async fn routed(&mut self, text: &str) -> Option<String> {
        let mut messages = collect(&mut self.watcher).await;
        let message = messages.pop()?;
        assert!(messages.is_empty() && text_of(&message) == text, "{messages:?} {message:?}");
        Some(topic_of(&message).to_owned())
    }

    fn user(&self, name: &str) -> Arc<User> {
        Arc::clone(self.harness.users().policy().user_named(&name.parse().unwrap()).unwrap())
    }

    /// Logs in; `None` where the broker does not let it.
    async fn login(&self, connect: &Connect) -> Option<Client> {
        let mut client = Client::open(self.harness.plain(), connect.version).await;
        (!client.connect(connect).await.reason_code.is_error()).then_some(client)
    }

    /// PUBLISH on a connection of its own: did the broker take it, and where did it go?
    async fn publish(&mut self, connect: &Connect, topic: &str, qos: usize, retain: bool) -> (bool, Option<String>) {
        let text = self.text();
        let Some(mut client) = self.login(connect).await else { return (false, None) };
        let qos = QOS[qos];
        let packet_id = (qos != Q0).then(|| id(1));
        client.send(Packet::Publish(Publish { retain, packet_id, ..publish(topic, &text, qos) })).await;
        // A version without a word for it closes.
        let _refused = client.try_send(Packet::PingReq).await;
        let taken = loop {
            match client.read().await {
                Received::Closed => break false,
                Received::Packet(Packet::PingResp) => break true,
                Received::Packet(Packet::PubAck(ack) | Packet::PubRec(ack)) if ack.reason_code.is_error() => {
                    // 0x10, nobody listens, is none.
                    break false;
                }
                Received::Packet(Packet::PubRec(_)) => client.send(Packet::PubRel(ack(id(1)))).await,
                Received::Packet(_) => {}
            }
        };
        (taken, self.routed(&text).await)
    }
}

/// All messages that wait for this client, acknowledged.
async fn collect(client: &mut Client) -> Vec<Publish> {
    let (mut messages, mut pongs) = (Vec::new(), 0);
    client.send(Packet::PingReq).await;
    // Two answers with nothing in between: nothing waits any more.
    while pongs < 2 {
        match client.recv().await {
            Packet::Publish(message) => {
                client.acknowledge(&message).await;
                messages.push(message);
                pongs = 0;
            }
            Packet::PingResp => {
                pongs += 1;
                client.send(Packet::PingReq).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(client.recv().await, Packet::PingResp);
    messages
}

/// One user as one client, in both versions: may it connect, and what do PUBLISH, SUBSCRIBE and delivery come to?
async fn as_client(bench: &mut Bench, random: &mut Random, name: &str, client_id: &str) {
    let question = |action: &str, topic: &str| json!({ "username": name, "action": action, "topic": topic, "client_id": client_id });
    let standing = bench.ask(&question("receive", "a")).await;
    let reason = standing["reason"].as_str().unwrap();
    let barred = reason.contains("may not connect") || reason.contains("is disabled");
    for version in BOTH {
        let connect = as_user(version, client_id, name);
        let connected = bench.login(&connect).await.is_some();
        assert_eq!(connected, !barred, "{name} as `{client_id}`, {version:?}: {reason}");
        if barred {
            bench.saw("barred");
            continue;
        }
        for _ in 0..4 {
            let (topic, qos, retain) = (random.topic(name, client_id), random.below(3), random.one_in(3));
            publishes(bench, question("publish", &topic), &connect, &topic, qos, retain).await;
        }
        let mut client = bench.login(&connect).await.unwrap();
        for _ in 0..3 {
            let (filter, qos) = (random.filter(name, client_id), random.below(3));
            let topics: BTreeSet<String> = (0..8).map(|_| random.topic(name, client_id)).collect();
            subscribes(bench, &mut client, (version, &filter, qos), &topics, question).await;
        }
    }
}

async fn publishes(bench: &mut Bench, question: Value, connect: &Connect, topic: &str, qos: usize, retain: bool) {
    let mut question = question;
    (question["qos"], question["retain"]) = (qos.into(), retain.into());
    let answer = bench.ask(&question).await;
    let allowed = answer["allowed"].as_bool().unwrap();
    let (taken, routed) = bench.publish(connect, topic, qos, retain).await;
    // Only the message's way tells of QoS 0 in version 5.
    let silent = qos == 0 && connect.version == V5;
    assert!(silent || taken == allowed, "{:?} took {question}: {taken}; explained as {answer}", connect.version);
    let operation = topic.starts_with("$registry/") && allowed;
    let expected = (allowed && !operation).then(|| answer["topic"].as_str().unwrap().to_owned());
    assert_eq!(routed, expected, "{:?} {question}: {answer}", connect.version);
    bench.saw(match (&expected, answer["rules"].as_array().unwrap().is_empty()) {
        (Some(to), _) if *to != topic => "published behind the prefix",
        (Some(_), _) => "published",
        (None, true) => "not published without a rule",
        (None, false) => "not published by a rule",
    });

    // The embedder who acts as the user is judged alike; the registry's operations are not for it.
    let name = question["username"].as_str().unwrap();
    let handle = bench.harness.handle().as_user(bench.user(name).id, connect.client_id.clone());
    let text = bench.text();
    let published = handle.publish(TopicName::try_from(topic).unwrap(), text.clone(), QOS[qos], retain);
    assert_eq!(published.is_ok(), expected.is_some(), "the embedder, {question}: {answer}");
    assert_eq!(bench.routed(&text).await, expected);
}

async fn subscribes(
    bench: &mut Bench,
    client: &mut Client,
    (version, filter, qos): (ProtocolVersion, &str, usize),
    topics: &BTreeSet<String>,
    question: impl Fn(&str, &str) -> Value,
) {
    let mut subscribe = question("subscribe", filter);
    subscribe["qos"] = qos.into();
    let answer = bench.ask(&subscribe).await;
    let options = SubscriptionOptions { retain_handling: RetainHandling::DoNotSend, ..options(QOS[qos]) };
    let options = if version == V5 { options } else { self::options(QOS[qos]) };
    let code = client.subscribe_with(&[(filter, options)]).await[0];
    if !answer["allowed"].as_bool().unwrap() {
        assert!(code.is_error(), "{version:?} {subscribe}: {code}; {answer}");
        return bench.saw("not subscribed");
    }
    let granted = qos.min(usize::try_from(answer["max_qos"].as_u64().unwrap()).unwrap());
    assert_eq!(code as usize, granted, "{version:?} {subscribe}: {answer}");
    bench.saw(if granted < qos { "subscribed with a lower QoS" } else { "subscribed" });

    // What is retained came at once, as 3.1.1 wants it.
    for message in collect(client).await {
        let received = bench.ask(&question("receive", topic_of(&message))).await;
        assert!(message.retain && received["allowed"].as_bool().unwrap(), "{version:?} {subscribe}: {message:?}");
        bench.saw("retained");
    }
    let parsed = TopicFilter::try_from(filter).unwrap();
    let mut expected = BTreeMap::new();
    for topic in topics.iter().filter(|topic| !topic.starts_with('$')) {
        bench.harness.handle().publish(topic.parse().unwrap(), "x", Q2, false).unwrap();
        let received = bench.ask(&question("receive", topic)).await;
        let may = received["allowed"].as_bool().unwrap();
        if parsed.matches(&topic.parse().unwrap()) {
            assert!(may || answer["checked_at_delivery"].as_bool().unwrap(), "{subscribe}: {answer} {received}");
            bench.saw(if may { "received" } else { "withheld" });
            if may {
                let most = usize::try_from(received["max_qos"].as_u64().unwrap()).unwrap();
                expected.insert(topic.clone(), granted.min(most));
            }
        }
    }
    let messages = collect(client).await;
    assert_eq!(messages.len(), expected.len(), "{version:?} {subscribe}: {messages:?}");
    let came: BTreeMap<String, usize> =
        messages.iter().map(|message| (topic_of(message).to_owned(), message.qos as usize)).collect();
    assert_eq!(came, expected, "{version:?} {subscribe}: {answer}");
    assert!(client.unsubscribe(filter).await.iter().all(|code| *code == ReasonCode::Success));
    collect(&mut bench.watcher).await;
}

/// Everybody whom `who-can` names can, as it says, and nobody else can under any client identifier that is tried.
async fn who_can(bench: &mut Bench, action: &str, topic: &str) {
    let coded = topic.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
    let path = format!("/api/who-can?action={action}&topic={coded}");
    let (status, answer) = admin(&bench.harness, "GET", &path, &Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let named: BTreeMap<&str, &Value> =
        answer["users"].as_array().unwrap().iter().map(|user| (user["username"].as_str().unwrap(), user)).collect();
    assert_eq!(named.len(), usize::try_from(answer["count"].as_u64().unwrap()).unwrap());
    for name in USERS {
        let named = named.get(name).copied();
        let own = [name.to_owned(), format!("{name}~z"), "c~z".to_owned()];
        let mut ids: Vec<&str> = CLIENT_IDS.into_iter().chain(own.iter().map(String::as_str)).collect();
        if let Some(one) = named.and_then(|user| user["client_id"].as_str()) {
            ids = vec![one]; // it takes this one
        }
        let mut able = Vec::new();
        for client_id in ids {
            if let Some(most) = reaches(bench, &as_user(V5, client_id, name), action, topic).await {
                able.push(most);
            }
        }
        assert_eq!(!able.is_empty(), named.is_some(), "{name} can {action} `{topic}`: {able:?}; who-can: {answer}");
        bench.saw(match named.map(|user| user["client_id"].is_null()) {
            None => "cannot",
            Some(true) => "can",
            Some(false) => "can as one client",
        });
        if let Some(named) = named {
            let says = (named["max_qos"].as_u64().unwrap(), named["retain"].as_bool().unwrap_or(false));
            assert!(able.contains(&says), "{name} can {action} `{topic}` {able:?}, not {says:?}");
        }
    }
}

/// Highest QoS, and RETAIN, of what this client can do with the topic as it is routed.
async fn reaches(bench: &mut Bench, connect: &Connect, action: &str, topic: &str) -> Option<(u64, bool)> {
    let mut client = bench.login(connect).await?;
    if action == "receive" {
        let code = client.subscribe_with(&[(topic, options(Q2))]).await[0];
        return (!code.is_error()).then_some((code as u64, false));
    }
    let user = connect.username.as_deref().unwrap();
    let prefix = bench.user(user).publish_prefix.clone();
    let written = topic.strip_prefix(prefix.as_deref().unwrap_or_default()).filter(|text| !text.is_empty())?.to_owned();
    let mut most = None;
    for qos in 0..3 {
        for retain in [false, true] {
            if bench.publish(connect, &written, qos, retain).await.1.as_deref() == Some(topic) {
                let (before, kept) = most.unwrap_or((0, false));
                most = Some((before.max(qos as u64), kept || retain));
            }
        }
    }
    most
}

/// Questions about everybody, with and without what might be changed: their answers.
async fn answers(bench: &Bench, questions: &[Value], with: Option<&Value>) -> Vec<Value> {
    let mut answers = Vec::new();
    for question in questions {
        let mut question = question.clone();
        if let Some(with) = with {
            question["with"] = with.clone();
        }
        answers.push(bench.ask(&question).await);
    }
    answers
}

async fn run(config: &str, first: u64) {
    let mut bench = Bench::start(config).await;
    let hash = hash(PASSWORD);
    for seed in (first..).take(CASES) {
        let mut random =
            Random { state: seed, resources: Vec::new(), publish_prefix: String::new(), admitted: Vec::new() };
        let mut notes = OnFailure(vec![format!("seed {seed} with {config:?}")]);
        // A policy that would be refused says nothing here.
        loop {
            let policy = random.policy(&hash);
            if admin(&bench.harness, "POST", "/api/apply", &policy).await.0 == 200 {
                notes.0.push(policy.to_string());
                break;
            }
        }
        let mut questions = Vec::new();
        for name in USERS {
            for _ in 0..2 {
                random.study(&bench, name);
                let client_id = random.client_id();
                as_client(&mut bench, &mut random, name, &client_id).await;
                for action in ["publish", "receive", "subscribe"] {
                    let filter = action == "subscribe";
                    let topic = if filter { random.filter(name, &client_id) } else { random.topic(name, &client_id) };
                    questions
                        .push(json!({ "username": name, "action": action, "topic": topic, "client_id": client_id }));
                }
            }
        }
        for action in ["publish", "receive", "publish", "receive"] {
            let name = random.pick(&USERS);
            random.study(&bench, name);
            random.publish_prefix.clear();
            let client_id = random.client_id();
            let topic = random.topic(name, &client_id);
            // A filter of so many levels is refused, and yet a wider one receives the topic.
            if action == "publish" || topic.split('/').count() <= 4 {
                who_can(&mut bench, action, &topic).await;
            }
        }
        let before = answers(&bench, &questions, None).await;
        let (change, would) = loop {
            let change = random.change();
            if admin(&bench.harness, "POST", "/api/apply?dry_run=true", &change).await.0 == 200 {
                let would = answers(&bench, &questions, Some(&change)).await;
                break (change, would);
            }
        };
        notes.0.push(change.to_string());
        assert_eq!(answers(&bench, &questions, None).await, before, "a question changes nothing");
        for (before, would) in before.iter().zip(&would) {
            bench.saw(match (before["allowed"].as_bool().unwrap(), would["allowed"].as_bool().unwrap()) {
                (false, true) => "would gain",
                (true, false) => "would lose",
                _ => "would stay",
            });
        }
        assert_eq!(admin(&bench.harness, "POST", "/api/apply", &change).await.0, 200);
        assert_eq!(answers(&bench, &questions, None).await, would, "what if {change}");
        let name = random.pick(&USERS);
        random.study(&bench, name);
        let client_id = random.client_id();
        as_client(&mut bench, &mut random, name, &client_id).await;
    }
    println!("{:?}", bench.seen);
    for outcome in OUTCOMES {
        assert!(bench.seen.contains_key(outcome), "never {outcome}: {:?}", bench.seen);
    }
}

#[tokio::test]
async fn what_is_explained_is_what_happens() {
    run("[limits]\ntopic_levels = 4\n", SEED).await;
}

#[tokio::test]
async fn what_is_explained_is_what_happens_where_subscriptions_are_narrowed() {
    run("[access]\npartial_subscription = \"filter\"\n", SEED + 1000).await;
}

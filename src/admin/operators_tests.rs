//! What is said of the registry's operations over MQTT: by `explain`, by `who-can`, and by its answers beside those of the API.

use serde_json::{Value, json};

use super::problem::Problem;
use super::tests::Fixture;
use crate::access::{Auth, Context, Operation, Permission};
use crate::directory::{Actor, DirectoryError, Excess, NewUser, Right, Subject};
use crate::registry::{Answer, Format, RegistryError, RequestId};

#[tokio::test]
async fn who_may_decide_over_mqtt_is_explained_and_listed() {
    let broker = Fixture::start();
    let rule =
        |operation: &str, resource: &str| json!({ "context": "mqtt", "operation": operation, "resource": resource });
    let mut deny = rule("write", "$registry/admin/grant");
    deny["effect"] = "deny".into();
    let document = json!({
        "role": [{ "name": "desk", "permissions": [rule("write", "$registry/admin/+"), deny] }],
        "user": [
            { "username": "ada", "auth": "certificate", "roles": ["desk"], "publish_prefix": "site/" },
            { "username": "wide", "auth": "certificate", "permissions": [rule("read_write", "#"), rule("read", "$registry/#")] },
        ],
    });
    broker.ok("POST", "/api/apply", document).await;
    let all = Permission::allow(Context::Mqtt, Operation::ReadWrite, "$registry/#");
    let guest = NewUser { auth: Auth::None, permissions: vec![all], ..NewUser::named("guest".parse().unwrap()) };
    broker.directory.create_user(guest, &Actor::Config).unwrap();
    let explain = async |who: &str, action: &str, topic: &str| {
        let question = json!({ "username": who, "action": action, "topic": topic });
        let answer = broker.ok("POST", "/api/explain", question).await;
        (answer["allowed"].as_bool().unwrap(), answer["reason"].as_str().unwrap().to_owned(), answer["rules"].clone())
    };
    let unlock = "$registry/admin/unlock";
    let (allowed, reason, rules) = explain("ada", "publish", unlock).await;
    assert_eq!((allowed, &*reason), (true, "`ada` may publish to `$registry/admin/unlock`"));
    assert_eq!((&rules[0]["role"], &rules[0]["permission"]["resource"]), (&json!("desk"), &json!("$registry/admin/+")));
    let reserved = "no client may publish to a `$` topic but for the operations of the registry, whatever the rules";
    for (who, action, topic, allowed, reason) in [
        ("ada", "publish", "$registry/admin/grant", false, "a rule denies to publish to `$registry/admin/grant`"),
        ("wide", "publish", unlock, false, "no rule allows to publish to `$registry/admin/unlock`"),
        ("guest", "publish", unlock, false, "`guest` proves nothing, so anybody can be it: it decides nothing"),
        ("ada", "publish", "$registry/admin/delete", false, reserved),
        ("ada", "publish", "$registry/admin/unlock/x", false, reserved),
        (
            "ada",
            "receive",
            "$registry/admin/unlock/response",
            true,
            "the registry answers there whoever may publish to `$registry/admin/unlock`",
        ),
        (
            "wide",
            "receive",
            "$registry/admin/unlock/response",
            false,
            "the registry answers there whoever may publish to `$registry/admin/unlock`",
        ),
        (
            "wide",
            "subscribe",
            "$registry/admin/+/response",
            true,
            "every user may subscribe to `$registry/admin/+/response`, for the registry's answers to itself",
        ),
        ("ada", "subscribe", "$registry/admin/#", false, "no rule allows to subscribe to `$registry/admin/#`"),
    ] {
        let answer = explain(who, action, topic).await;
        assert_eq!((answer.0, &*answer.1), (allowed, reason), "{who} {topic}");
    }
    // What if.
    let with = json!({ "role": [{ "name": "desk", "permissions": [rule("write", "$registry/admin/grant")] }] });
    for (topic, allowed) in [("$registry/admin/grant", true), (unlock, false)] {
        let question = json!({ "username": "ada", "action": "publish", "topic": topic, "with": with });
        assert_eq!(broker.ok("POST", "/api/explain", question).await["allowed"], allowed, "{topic}");
    }
    for (topic, names) in [
        (unlock, vec!["ada"]),
        ("$registry/admin/grant", vec![]),
        ("$registry/admin/delete", vec![]),
        ("$registry/admin/unlock/x", vec![]),
    ] {
        let path = format!("/api/who-can?action=publish&topic={}", topic.replace('/', "%2F"));
        let who = broker.ok("GET", &path, Value::Null).await;
        let found: Vec<_> = who["users"].as_array().unwrap().iter().map(|user| &user["username"]).collect();
        assert_eq!(found, names, "{topic}");
    }
}

/// A refusal has the same status and the same sentence at both doors.
#[test]
fn a_refusal_is_the_same_at_both_doors() {
    let id = RequestId(uuid::Uuid::nil());
    let right = Right::Http(vec!["api".to_owned()]);
    let actor = || "ada".parse().unwrap();
    let errors = || {
        [
            RegistryError::NotFound(id),
            RegistryError::NotPending { id, state: "denied" },
            RegistryError::NotAllowed(right.clone()),
            RegistryError::Invalid("no"),
            RegistryError::Damaged("`/var/lib/x` is not readable".to_owned()),
            DirectoryError::NotHeld { actor: actor(), subject: None, excess: Excess::Admin }.into(),
            DirectoryError::NotFound(Subject::User("x".to_owned())).into(),
        ]
    };
    for (error, same) in errors().into_iter().zip(errors()) {
        let problem = Problem::from(error);
        let answer: Box<Answer> = same.into();
        let answer: Value = serde_json::from_slice(&answer.encode(Format::Json)).unwrap();
        assert_eq!((&answer["status"], &answer["message"]), (&json!(problem.status), &json!(problem.detail)));
        assert!(!problem.detail.contains("/var/lib"), "what broke is for the log");
    }
}

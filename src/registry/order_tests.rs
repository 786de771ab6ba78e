//! Orders over MQTT: what they ask for, what they are answered, and by which right.

use serde_json::json;

use super::*;
use crate::access::{RoleName, User, UserId};
use crate::audit;
use crate::directory::Right;
use crate::registry::{MAX_ANSWERED, MAX_PAYLOAD, RegistryError, ReplaceTerms, TokenTerms};
use crate::session::AdminOperation;

const EVERYTHING: &str = "$registry/admin/+";

/// Somebody who holds what `sensor` gives, and these rules besides.
fn operator(stage: &Stage, name: &str, rules: &[Permission]) -> UserId {
    let mut new = NewUser::named(name.parse().unwrap());
    new.permissions = vec![Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/#")];
    new.permissions.extend_from_slice(rules);
    stage.directory.create_user(new, &Actor::System).unwrap().id
}

fn may(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::Write, resource)
}

fn over_http(resource: &str) -> Permission {
    Permission::allow(Context::Http, Operation::Write, resource)
}

/// The user as it comes through the door for messages, as the client `panel.1`.
fn as_client(stage: &Stage, id: UserId, operation: AdminOperation) -> Actor {
    let user = stage.directory.policy().user(id).unwrap().clone();
    let right = Right::Mqtt { operation: operation.topic(), client_id: Some("panel.1".parse().unwrap()) };
    let from = audit::Place::Network {
        address: "192.0.2.7".parse().unwrap(),
        listener: Some(audit::Word::name("mqtts")),
        client_id: Some(audit::Word::name("panel.1")),
    };
    Actor::User { id, username: user.username.clone(), from: Some(from), right: Some(right) }
}

fn told(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.encode(Format::Json)).unwrap()
}

async fn order(stage: &Stage, id: UserId, operation: AdminOperation, message: &Value) -> Value {
    let actor = as_client(stage, id, operation);
    let payload = if message.is_null() { Vec::new() } else { message.to_string().into_bytes() };
    told(&stage.registry.order(operation, &payload, None, actor).await)
}

fn permit(stage: &Stage, id: UserId, rules: Vec<Permission>) {
    let edit = |user: &mut User| {
        user.permissions = vec![Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/#")];
        user.permissions.extend(rules);
    };
    stage.directory.update_user(id, Expected::Any, edit, &Actor::System).unwrap();
}

async fn waiting(stage: &Stage, name: &str) -> RequestId {
    let answer = stage.send(json!({"username": name, "password": format!("a password for {name}")})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let requests = stage.registry.list(Some(StateFilter::Pending)).await.unwrap();
    requests.iter().find(|request| request.username.as_str() == name).unwrap().id
}

/// Each operation, and that its result is to the letter what the API answers.
#[tokio::test]
async fn every_operation_does_what_the_api_does_and_answers_what_it_answers() {
    use AdminOperation::*;
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    let ok = async |operation, message: Value| {
        let mut answer = order(&stage, ada, operation, &message).await;
        assert_eq!((&answer["state"], &answer["error"]), (&json!("ok"), &Value::Null), "{answer}");
        (answer["status"].as_u64().unwrap(), answer["result"].take())
    };
    let status = serde_json::to_value(stage.registry.status().await.unwrap()).unwrap();
    assert_eq!(ok(Status, Value::Null).await, (200, status));
    let (_, opened) = ok(Unlock, json!({"for": 60, "count": 9, "username": "m*", "id": "x"})).await;
    assert_eq!((&opened["locked"], &opened["remaining"]), (&json!(false), &json!(9)));

    let first = waiting(&stage, "m-1").await;
    let second = waiting(&stage, "m-2").await;
    let (_, listed) = ok(List, json!({"state": "pending", "limit": 1})).await;
    let page = stage.registry.page(Some(StateFilter::Pending), None, 1).await.unwrap();
    assert_eq!(listed, serde_json::to_value(page).unwrap());
    assert_eq!(ok(List, json!({"after": listed["next"]})).await.1["items"][0]["id"], json!(second));
    let shown = ok(Show, json!({"request": first})).await.1;
    assert_eq!(shown, serde_json::to_value(stage.registry.show(first).await.unwrap()).unwrap());
    let grant = json!({"request": first, "roles": ["sensor"], "comment": "seen", "publish_prefix": "m/"});
    assert_eq!(ok(Grant, grant).await.1["state"], "granted");
    let made = stage.directory.policy().user_named(&"m-1".parse().unwrap()).unwrap().clone();
    assert_eq!((made.roles.len(), made.publish_prefix.as_deref(), &*made.description), (1, Some("m/"), "seen"));
    assert_eq!(ok(Deny, json!({"request": second, "reason": "no"})).await.1["reason"], "no");
    assert_eq!(ok(Lock, Value::Null).await.1["locked"], true);

    let (_, opening) = ok(Replace, json!({"username": "m-1", "for": 60})).await;
    let openings = ok(Replacements, Value::Null).await.1;
    assert_eq!(openings, json!({"items": [opening]}));
    assert_eq!(ok(ReplaceCancel, json!({"username": "m-1"})).await, (204, Value::Null));
    assert_eq!(ok(Replacements, json!({})).await.1["items"], json!([]));

    let (created, mut token) = ok(TokenCreate, json!({"roles": ["sensor"], "uses": 2})).await;
    let secret = token.as_object_mut().unwrap().remove("token").unwrap();
    assert_eq!((created, secret.as_str().unwrap().len()), (201, 39));
    assert_eq!(ok(TokenShow, json!({"token": token["id"]})).await.1, token);
    assert_eq!(ok(TokenList, Value::Null).await.1, json!({"items": [token]}));
    assert_eq!(
        stage.send(json!({"username": "m-3", "password": "a good password", "token": secret})).await.status,
        201
    );
    assert_eq!(ok(TokenRevoke, json!({"token": token["id"]})).await, (204, Value::Null));
    assert_eq!(order(&stage, ada, TokenShow, &json!({"token": token["id"]})).await["status"], 404);
}

#[tokio::test]
async fn cbor_has_the_same_fields_and_kinds() {
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    stage.unlock().await;
    let id = waiting(&stage, "m-1").await;
    let cbor = |message: &Value| {
        let mut bytes = Vec::new();
        ciborium::into_writer(message, &mut bytes).unwrap();
        bytes
    };
    for (operation, message) in [
        (AdminOperation::Show, json!({"request": id, "id": 7})),
        (AdminOperation::Grant, json!({"request": id, "roles": ["sensor"], "id": 7})),
        (AdminOperation::List, json!({"id": 7})),
        (AdminOperation::Grant, json!({"request": id, "id": 7})),
        (AdminOperation::Unlock, json!({"source": ["192.0.2.0/24"], "fro": 7, "id": 7})),
    ] {
        let actor = || as_client(&stage, ada, operation);
        let answer = stage.registry.order(operation, &cbor(&message), Some("application/cbor"), actor()).await;
        let bytes = answer.encode(Format::Cbor);
        let read: Value = ciborium::from_reader(&*bytes).unwrap();
        assert_eq!(read, told(&answer), "{message}");
        assert_eq!(read["id"], 7, "{read}");
    }
    let twice = b"\xa2\x65state\x67pending\x65state\x66denied";
    let operation = AdminOperation::List;
    let actor = as_client(&stage, ada, operation);
    assert_eq!(stage.registry.order(operation, twice, Some("application/cbor"), actor).await.status, 400);
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_told_and_does_nothing() {
    use AdminOperation::*;
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    stage.unlock().await;
    let id = waiting(&stage, "m-1").await;
    let denied = waiting(&stage, "m-2").await;
    stage.registry.deny(denied, "no".into(), Actor::System).await.unwrap();
    let before = audit::read(&*stage.store, 0, 1000).unwrap().len();
    let malformed = "the message is not the JSON of this operation: ";
    for (operation, message, status, error, why) in [
        (Grant, json!({}), 400, "malformed", "missing field `request`"),
        (Grant, json!({"request": 7}), 400, "malformed", "`request`: invalid type"),
        (Grant, json!({"request": "../unlock"}), 400, "malformed", "`request`: "),
        (Grant, json!({"request": id, "role": ["admin"]}), 400, "malformed", "unknown field `role`, expected"),
        (Grant, json!({"request": id, "username": "m-1"}), 400, "malformed", "unknown field `username`"),
        (Grant, json!({"request": id, "roles": ["a b"]}), 400, "malformed", ""),
        (Grant, json!({"request": id, "permissions": [{"context": "mqtt", "x": 1}]}), 400, "malformed", ""),
        (Grant, json!([id]), 400, "malformed", "it is no object"),
        (Grant, json!("grant"), 400, "malformed", "it is no object"),
        (Show, json!({"request": id, "roles": []}), 400, "malformed", "unknown field `roles`"),
        (Lock, json!({"for": 3}), 400, "malformed", "unknown field `for`"),
        (Status, json!({"request": id}), 400, "malformed", "unknown field `request`"),
        (Deny, json!({"request": id}), 400, "malformed", "missing field `reason`"),
        (Replace, json!({"username": "a/b"}), 400, "malformed", "`username`: "),
        (Replacements, json!({"state": "pending"}), 400, "malformed", "unknown field `state`"),
        (TokenCreate, json!({"token": "x"}), 400, "malformed", "unknown field `token`"),
        (List, json!({"limit": 33}), 422, "invalid", "`limit` is 1 to 32"),
        (List, json!({"limit": 0}), 422, "invalid", "`limit` is 1 to 32"),
        (TokenList, json!({"limit": 33}), 422, "invalid", "`limit` is 1 to 32"),
        (Grant, json!({"request": denied}), 409, "conflict", "is denied already"),
        (Grant, json!({"request": Uuid::nil()}), 404, "not_found", "there is no request"),
        (Unlock, json!({"for": 0}), 422, "invalid", "an unlock lasts"),
        (Replace, json!({"username": "nobody"}), 404, "not_found", "there is no user `nobody`"),
        (ReplaceCancel, json!({"username": "ada"}), 404, "not_found", "is not open"),
        (TokenRevoke, json!({"token": Uuid::nil()}), 404, "not_found", "there is no token"),
        (Grant, json!({"request": id, "comment": "x".repeat(1025)}), 422, "invalid", "at most 1024 bytes"),
        (Grant, json!({"request": id, "comment": "x".repeat(MAX_PAYLOAD)}), 413, "too_large", "send at most 16384"),
        (Grant, json!({"request": id, "id": {"a": 1}}), 400, "malformed", "`id` must be"),
    ] {
        let answer = order(&stage, ada, operation, &message).await;
        assert_eq!((&answer["status"], &answer["error"]), (&json!(status), &json!(error)), "{message} {answer}");
        let sentence = answer["message"].as_str().unwrap();
        assert!(sentence.contains(why), "{sentence}");
        assert_eq!(error == "malformed" && why != "`id` must be", sentence.starts_with(malformed), "{sentence}");
        assert!(sentence.len() < 400 && answer.get("result").is_none());
    }
    for (payload, content_type, status) in [
        (&br#"{"request": "a", "request": "b"}"#[..], None, 400),
        (br#"{"permissions": [{"context": "mqtt", "context": "http"}]}"#, None, 400),
        (br#"{"id": 1, "id": 2}"#, None, 400),
        (b"{", None, 400),
        (b"\xff", None, 400),
        (b"{}", Some("text/plain"), 400),
        (&[b'['; 4000], None, 400),
        (&[0x81; 4000], Some("application/cbor"), 400),
    ] {
        let actor = as_client(&stage, ada, Grant);
        assert_eq!(stage.registry.order(Grant, payload, content_type, actor).await.status, status);
    }
    assert_eq!(audit::read(&*stage.store, 0, 1000).unwrap().len(), before, "nothing of it was done");
    assert_eq!(stage.registry.show(id).await.unwrap().state, State::Pending);
}

#[tokio::test]
async fn a_list_comes_in_parts_that_fit_into_a_message() {
    use AdminOperation::*;
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    let most = MAX_ANSWERED;
    stage.unlock().await;
    for number in 0..most + 3 {
        waiting(&stage, &format!("meter-{number}")).await;
        stage.registry.create_token(TokenTerms::default(), Actor::System).await.unwrap();
        let name = format!("pump-{number}");
        stage.directory.create_user(NewUser::named(name.parse().unwrap()), &Actor::System).unwrap();
        stage.registry.replace(name.parse().unwrap(), ReplaceTerms::default(), Actor::System).await.unwrap();
    }
    for (operation, key) in [(List, "id"), (TokenList, "id"), (Replacements, "username")] {
        let (mut seen, mut message, mut parts) = (Vec::new(), json!({}), 0);
        loop {
            let answer = order(&stage, ada, operation, &message).await;
            let result = &answer["result"];
            seen.extend(result["items"].as_array().unwrap().iter().map(|item| item[key].clone()));
            parts += 1;
            if result["next"].is_null() {
                break;
            }
            message = json!({"after": result["next"]});
        }
        assert_eq!((seen.len(), parts), (most + 3, 2), "{operation:?}");
        let mut unlike = seen.iter().map(Value::to_string).collect::<Vec<_>>();
        unlike.sort();
        unlike.dedup();
        assert_eq!(unlike.len(), most + 3, "none is missed and none comes twice");
    }
}

/// The right is that of the door. Rules of the other one neither open nor shut it.
#[tokio::test]
async fn each_door_has_its_own_right() {
    use AdminOperation::*;
    let stage = Stage::new();
    stage.unlock().await;
    let all = [over_http("/api/client-registry/#"), over_http("/#")];
    let by_http = operator(&stage, "http", &all);
    let by_mqtt = operator(&stage, "mqtt", &[may("$registry/#")]);
    let id = waiting(&stage, "m-1").await;
    for (operation, message) in [
        (Grant, json!({"request": id})),
        (Deny, json!({"request": id, "reason": ""})),
        (Unlock, json!({})),
        (Lock, json!({})),
        (Replace, json!({"username": "http"})),
        (ReplaceCancel, json!({"username": "http"})),
        (TokenCreate, json!({})),
        (TokenRevoke, json!({"token": Uuid::nil()})),
    ] {
        let answer = order(&stage, by_http, operation, &message).await;
        assert_eq!((&answer["status"], &answer["state"]), (&json!(403), &json!("denied")), "{answer}");
        let needed = format!("this needs the right to write to `{}` in the context `mqtt`", operation.topic());
        assert_eq!(answer["message"], needed);
    }
    let user = |id| Actor::of(stage.directory.policy().user(id).unwrap());
    let refused = stage.registry.grant(id, GrantTerms::default(), user(by_mqtt)).await.unwrap_err();
    assert!(matches!(refused, RegistryError::NotAllowed(Right::Http(_))), "{refused}");
    assert_eq!(order(&stage, by_mqtt, Grant, &json!({"request": id})).await["status"], 200);
    let id = waiting(&stage, "m-2").await;
    stage.registry.grant(id, GrantTerms::default(), user(by_http)).await.unwrap();
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold_at_this_door_either() {
    use AdminOperation::*;
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    stage.unlock().await;
    let id = waiting(&stage, "m-1").await;
    let rule = |context, operation, resource: &str| json!([{"context": context, "operation": operation, "resource": resource}]);
    for more in [
        json!({"request": id, "roles": ["admin"]}),
        json!({"request": id, "roles": ["sensor", "observer"]}),
        json!({"request": id, "permissions": rule("mqtt", "write", "office/#")}),
        json!({"request": id, "permissions": rule("mqtt", "write", "$registry/#")}),
        json!({"request": id, "permissions": rule("mqtt", "read", "$registry/admin/+")}),
        json!({"request": id, "permissions": rule("http", "write", "/api/client-registry/unlock")}),
    ] {
        let answer = order(&stage, ada, Grant, &more).await;
        assert_eq!((&answer["status"], &answer["error"]), (&json!(403), &json!("forbidden")), "{answer}");
        let mut more = more;
        more.as_object_mut().unwrap().remove("request");
        assert_eq!(order(&stage, ada, TokenCreate, &more).await["status"], 403);
    }
    assert_eq!(order(&stage, ada, Replace, &json!({"username": "boss"})).await["status"], 404);
    let mut boss = NewUser::named("boss".parse().unwrap());
    boss.roles.push(RoleName::admin());
    stage.directory.create_user(boss, &Actor::System).unwrap();
    assert_eq!(order(&stage, ada, Replace, &json!({"username": "boss"})).await["status"], 403);
    // What she holds she may give: the right to decide is a rule like another.
    let held = json!({"request": id, "permissions": rule("mqtt", "write", "$registry/admin/grant")});
    assert_eq!(order(&stage, ada, Grant, &held).await["status"], 200);
}

#[tokio::test]
async fn the_log_names_the_user_the_listener_and_the_client() {
    let stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    order(&stage, ada, AdminOperation::Unlock, &Value::Null).await;
    let token = order(&stage, ada, AdminOperation::TokenCreate, &json!({})).await;
    let records: Vec<audit::Record> =
        audit::read(&*stage.store, 0, 1000).unwrap().iter().map(|entry| entry.read().unwrap()).collect();
    for kind in ["registry_unlocked", "token_created"] {
        let record = records.iter().find(|record| record.event.kind() == kind).unwrap();
        assert_eq!(record.who.to_string(), "user:ada");
        assert_eq!(
            serde_json::to_value(&record.place).unwrap(),
            json!({"at": "network", "address": "192.0.2.7", "listener": "mqtts", "client_id": "panel1"})
        );
    }
    let secret = token["result"]["token"].as_str().unwrap();
    assert!(!serde_json::to_string(&records).unwrap().contains(secret));
    let actor = as_client(&stage, ada, AdminOperation::TokenCreate);
    let answer = stage.registry.order(AdminOperation::TokenCreate, b"", None, actor).await;
    let secret = told(&answer)["result"]["token"].as_str().unwrap().to_owned();
    assert!(!format!("{answer:?}").contains(&secret), "no debug output shows it");
}

#[tokio::test]
async fn orders_have_a_rate_of_their_user() {
    let stage =
        Stage::with(Settings { rate: RateLimit { burst: 3, every: Duration::from_secs(10) }, ..Settings::default() });
    let (ada, bob) = (operator(&stage, "ada", &[may(EVERYTHING)]), operator(&stage, "bob", &[may(EVERYTHING)]));
    for _ in 0..3 {
        assert_eq!(order(&stage, ada, AdminOperation::Status, &Value::Null).await["status"], 200);
    }
    let answer = order(&stage, ada, AdminOperation::Status, &Value::Null).await;
    assert_eq!((&answer["status"], &answer["retry_after"]), (&json!(429), &json!(10)));
    assert_eq!(order(&stage, bob, AdminOperation::Status, &Value::Null).await["status"], 200);
}

#[tokio::test]
async fn a_person_is_one_person_at_every_door() {
    use AdminOperation::*;
    let settings = Settings {
        rate: RateLimit { burst: 10_000, every: Duration::from_millis(1) },
        approvals: 2,
        ..Settings::default()
    };
    let mut stage = Stage::with(settings);
    let both = [may("$registry/admin/grant"), over_http("/api/client-registry/requests/+/grant")];
    let (ada, bob) = (operator(&stage, "ada", &both), operator(&stage, "bob", &both));
    let user = |stage: &Stage, id| Actor::of(stage.directory.policy().user(id).unwrap());
    stage.unlock().await;
    let id = waiting(&stage, "m-1").await;
    let first = order(&stage, ada, Grant, &json!({"request": id})).await;
    assert_eq!((&first["status"], &first["result"]["state"]), (&json!(200), &json!("pending")));
    assert_eq!(first["result"]["approved"]["by"], "user:ada");
    let again = stage.registry.grant(id, GrantTerms::default(), user(&stage, ada)).await.unwrap_err();
    assert!(matches!(again, RegistryError::OwnApproval(_)), "{again}");
    assert_eq!(order(&stage, ada, Grant, &json!({"request": id})).await["status"], 409);

    // What she said over MQTT stands by that right alone, and after a restart as before.
    permit(&stage, ada, both[1..].to_vec());
    stage.restart();
    stage.unlock().await;
    let anew = stage.registry.grant(id, GrantTerms::default(), user(&stage, bob)).await.unwrap();
    assert_eq!((anew.state, anew.approved.unwrap().by), (State::Pending, "user:bob".to_owned()));
    permit(&stage, ada, both.to_vec());
    let second = order(&stage, ada, Grant, &json!({"request": id})).await;
    assert_eq!(second["result"]["by"], "user:bob and user:ada");

    let id = waiting(&stage, "m-2").await;
    order(&stage, bob, Grant, &json!({"request": id})).await;
    stage.restart();
    let granted = stage.registry.grant(id, GrantTerms::default(), user(&stage, ada)).await.unwrap();
    assert_eq!(granted.state.as_str(), "granted");
}

#[tokio::test]
async fn a_token_that_was_made_over_mqtt_is_good_as_long_as_its_author_may_make_one_there() {
    let mut stage = Stage::new();
    let ada = operator(&stage, "ada", &[may(EVERYTHING)]);
    let created = order(&stage, ada, AdminOperation::TokenCreate, &json!({"roles": ["sensor"], "uses": 9})).await;
    let claim =
        |name: &str| json!({"username": name, "password": "a good password", "token": created["result"]["token"]});
    assert_eq!(stage.send(claim("m-1")).await.status, 201);
    stage.restart();
    assert_eq!(stage.send(claim("m-2")).await.status, 201);
    permit(&stage, ada, vec![may("$registry/admin/grant"), over_http("/#")]);
    assert_eq!(stage.send(claim("m-3")).await.error, Some("token"));
    permit(&stage, ada, vec![may("$registry/admin/token-create")]);
    assert_eq!(stage.send(claim("m-3")).await.status, 201);
}

/// A right that goes while an order is under way: after the answer to whoever took it, nothing is done by it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_that_is_withdrawn_while_an_order_is_under_way_does_nothing_afterwards() {
    let stage = Stage::new();
    stage.unlock().await;
    let ada = operator(&stage, "ada", &[]);
    for (round, rule) in [may(EVERYTHING), over_http("/#")].into_iter().enumerate() {
        permit(&stage, ada, vec![rule]);
        let (name, key) = (format!("press-{round}"), new_key());
        let asked = stage.send(json!({"username": name, "csr": csr(&name, &key, &[])})).await;
        assert_eq!(asked.status, 202);
        let id = stage.registry.list(Some(StateFilter::Pending)).await.unwrap().pop().unwrap().id;
        let actor = if round == 0 {
            as_client(&stage, ada, AdminOperation::Grant)
        } else {
            Actor::of(stage.directory.policy().user(ada).unwrap())
        };
        // The grant has been admitted once it reads what there is to sign; two commits of it are still to come.
        let (registry, before) = (stage.registry.clone(), stage.store.operations());
        stage.store.take(Duration::from_millis(50));
        let grant = tokio::spawn(async move { registry.grant(id, Stage::terms(), actor).await });
        while stage.store.operations() == before && !grant.is_finished() {
            tokio::task::yield_now().await;
        }
        let directory = Arc::clone(&stage.directory);
        let withdraw = move || {
            directory.update_user(ada, Expected::Any, |user| user.permissions.truncate(1), &Actor::System).unwrap();
        };
        tokio::task::spawn_blocking(withdraw).await.unwrap();
        if let Err(error) = grant.await.unwrap() {
            assert_eq!(error.kind(), RegistryErrorKind::Forbidden, "{error}");
            stage.registry.deny(id, "late".into(), Actor::System).await.unwrap();
        }
        stage.store.take(Duration::ZERO);
        let records = audit::read(&*stage.store, 0, 1000).unwrap();
        let records: Vec<audit::Record> = records.iter().map(|entry| entry.read().unwrap()).collect();
        let withdrawn = records.iter().rposition(|record| record.event.kind() == "user_changed").unwrap();
        let hers = records[withdrawn..].iter().filter(|record| record.who.to_string() == "user:ada");
        assert_eq!(hers.map(|record| record.event.kind()).collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

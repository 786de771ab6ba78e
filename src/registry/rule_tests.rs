//! Rules of broker.toml: what is decided without a person, and how far that goes.

use std::net::IpAddr;

use serde_json::json;

use super::*;
use crate::access::{RoleName, User};
use crate::audit;
use crate::config::{KeyAlgorithm, RegistryRule, RuleAction, RuleGrant};
use crate::directory::Change;
use crate::registry::RegistryError;

pub(super) fn grant() -> RuleGrant {
    RuleGrant {
        roles: vec!["observer".parse().unwrap()],
        permissions: Vec::new(),
        publish_prefix: None,
        validity: None,
        while_locked: false,
        limit: 100,
    }
}

/// For the network of every message of these tests.
pub(super) fn rule(name: &str, action: RuleAction) -> RegistryRule {
    let source = vec!["192.0.2.0/24".parse().unwrap()];
    RegistryRule { name: name.into(), source, listener: None, key: Vec::new(), username: None, action }
}

fn deny(name: &str) -> RegistryRule {
    rule(name, RuleAction::Deny { reason: "not these".into() })
}

fn stage(rules: Vec<RegistryRule>) -> Stage {
    Stage::with(Settings {
        rate: RateLimit { burst: 10_000, every: Duration::from_millis(1) },
        rules,
        ..Settings::default()
    })
}

fn press(name: &str) -> Value {
    json!({"username": name, "csr": csr(name, &new_key(), &[])})
}

fn user(stage: &Stage, name: &str) -> Option<Arc<User>> {
    stage.directory.policy().user_named(&name.parse().unwrap()).cloned()
}

#[tokio::test]
async fn a_rule_grants_at_once_what_it_names_and_nothing_that_the_device_asks_for() {
    let more = RuleGrant {
        publish_prefix: Some("line3/".into()),
        permissions: vec![Permission::allow(Context::Mqtt, Operation::Write, "plant/#")],
        ..grant()
    };
    let mut stage = stage(vec![rule("line3", RuleAction::Grant(more))]);
    let mut message = press("press-1");
    message["roles"] = json!(["admin"]);
    assert_eq!(stage.send(message.clone()).await.status, 423, "a rule does not open the door");
    stage.registry.unlock(UnlockTerms { count: Some(2), ..UnlockTerms::default() }, Actor::System).await.unwrap();
    let granted = stage.send(message.clone()).await;
    assert_eq!(granted.status, 201, "{granted:?}");
    assert_eq!(stage.registry.status().await.unwrap().remaining, Some(1), "it counts as let in");
    let made = user(&stage, "press-1").unwrap();
    assert_eq!((made.roles.clone(), made.publish_prefix.as_deref()), (grant().roles, Some("line3/")));
    assert_eq!((made.permissions.len(), made.managed_by), (1, ManagedBy::Registry));
    stage.restart();
    assert_eq!(stage.send(message).await.certificate, granted.certificate);
    let request = stage.registry.list(None).await.unwrap().pop().unwrap();
    assert_eq!(request.rule.as_deref(), Some("line3"));
    assert!(matches!(&request.state, State::Granted { by, .. } if by == "rule line3"));
    let entries = audit::read(&*stage.store, 0, 1000).unwrap();
    let records: Vec<_> = entries.iter().map(|entry| entry.read().unwrap()).collect();
    assert!(records.iter().any(|record| matches!(
        &record.event,
        audit::Event::RegistrationGranted { rule: Some(rule), .. } if rule.to_string() == "line3"
    )));
}

#[tokio::test]
async fn every_condition_must_be_met() {
    let conditions = RegistryRule {
        listener: Some("mqtts".into()),
        key: vec![KeyAlgorithm::P256],
        username: Some("press-*".to_owned().try_into().unwrap()),
        ..rule("one", RuleAction::Grant(RuleGrant { while_locked: true, ..grant() }))
    };
    let stage = stage(vec![conditions]);
    let from = async |source: &str, listener: &str, message: Value| {
        let origin = Origin { source: source.parse::<IpAddr>().unwrap(), listener: listener.into(), ..origin(None) };
        stage.registry.register(message.to_string().as_bytes(), None, &origin).await.status
    };
    assert_eq!(from("192.0.2.9", "mqtts", press("press-1")).await, 201, "locked or not, where the rule says so");
    assert_eq!(from("::ffff:192.0.2.9", "mqtts", press("press-2")).await, 201);
    assert_eq!(from("198.51.100.1", "mqtts", press("press-3")).await, 423);
    assert_eq!(from("192.0.2.9", "other", press("press-3")).await, 423);
    assert_eq!(from("192.0.2.9", "mqtts", press("meter-3")).await, 423);
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = json!({"username": "press-3", "csr": csr("press-3", &ed25519, &[])});
    assert_eq!(from("192.0.2.9", "mqtts", other).await, 423);
    let password = json!({"username": "press-3", "password": "a good password"});
    assert_eq!(from("192.0.2.9", "mqtts", password).await, 423, "a kind of key is asked for, and there is none");
}

#[tokio::test]
async fn a_rule_that_denies_beats_those_that_grant_and_tokens() {
    let open = RuleAction::Grant(RuleGrant { while_locked: true, ..grant() });
    let only = RegistryRule { username: Some("press-6*".to_owned().try_into().unwrap()), ..deny("no-six") };
    for rules in [vec![rule("all", open.clone()), only.clone()], vec![only.clone(), rule("all", open.clone())]] {
        let stage = stage(rules);
        let recorder = Arc::new(audit::Recorder::new(Arc::new(Metrics::new())));
        stage.registry.set_recorder(Arc::clone(&recorder));
        let denied = stage.send(press("press-66")).await;
        assert_eq!((denied.status, denied.state, denied.error), (403, "denied", Some("rule")));
        assert_eq!(denied.message.as_deref(), Some("a rule of the broker denies this request: not these"));
        let (secret, _) =
            stage.registry.create_token(crate::registry::TokenTerms::default(), Actor::System).await.unwrap();
        let mut message = press("press-66");
        message["token"] = secrecy::ExposeSecret::expose_secret(&secret).into();
        assert_eq!(stage.send(message).await.error, Some("rule"));
        assert_eq!(stage.registry.tokens().await.unwrap()[0].used, 0);
        for _ in 0..50 {
            assert_eq!(stage.send(press("press-66")).await.status, 403);
        }
        assert!(stage.registry.list(None).await.unwrap().is_empty(), "a flood of it leaves nothing behind");
        assert_eq!(recorder.take().len(), 1, "but for one record with a count");
        assert_eq!(stage.send(press("press-7")).await.status, 201);
    }
    let stage = stage(vec![only]);
    assert_eq!(stage.send(press("press-66")).await.status, 423, "behind a locked door there is nothing to deny");
}

#[tokio::test]
async fn of_rules_that_grant_the_first_decides_and_never_two_together() {
    let second = RuleGrant { roles: vec!["admin".parse().unwrap()], ..grant() };
    let stage = stage(vec![rule("first", RuleAction::Grant(grant())), rule("second", RuleAction::Grant(second))]);
    stage.unlock().await;
    assert_eq!(stage.send(press("press-1")).await.status, 201);
    assert_eq!(user(&stage, "press-1").unwrap().roles, grant().roles);
}

#[tokio::test]
async fn a_rule_takes_no_name_of_others_and_replaces_nobody() {
    let stage = stage(vec![rule("all", RuleAction::Grant(RuleGrant { while_locked: true, ..grant() }))]);
    stage.directory.create_user(NewUser::named("press-1".parse().unwrap()), &Actor::System).unwrap();
    assert_eq!(stage.send(press("press-1")).await.error, Some("name_taken"));
    assert_eq!(stage.send(json!({"username": "admin", "password": "a good password"})).await.status, 400);
    stage
        .registry
        .replace("press-1".parse().unwrap(), crate::registry::ReplaceTerms::default(), Actor::System)
        .await
        .unwrap();
    assert_eq!(stage.send(press("press-1")).await.status, 202, "an open name is for a person to give");
}

#[tokio::test]
async fn a_rule_makes_as_many_users_as_it_may_and_the_rest_is_for_a_person() {
    let mut stage = stage(vec![rule("two", RuleAction::Grant(RuleGrant { limit: 2, while_locked: true, ..grant() }))]);
    for name in ["press-1", "press-2"] {
        assert_eq!(stage.send(press(name)).await.status, 201);
    }
    assert_eq!(stage.send(press("press-3")).await.status, 423);
    stage.restart();
    assert_eq!(stage.send(press("press-3")).await.status, 423);
    stage.unlock().await;
    assert_eq!(stage.send(press("press-3")).await.status, 202);
    stage.directory.delete_user(user(&stage, "press-1").unwrap().id, Expected::Any, &Actor::System).unwrap();
    stage.clock.advance(Duration::from_mins(10));
    stage.registry.tick().await.unwrap();
    assert_eq!(stage.send(press("press-4")).await.status, 201, "there is room again");
}

#[tokio::test]
async fn a_validity_of_a_rule_is_that_of_renewals_too() {
    let short = Duration::from_hours(48);
    let stage = stage(vec![rule("short", RuleAction::Grant(RuleGrant { validity: Some(short), ..grant() }))]);
    stage.unlock().await;
    let granted = stage.send(press("press-1")).await;
    let life =
        |answer: &Answer, stage: &Stage| answer.not_after.unwrap().duration_since(stage.clock.timestamp()).as_hours();
    assert_eq!(life(&granted, &stage), 48);
    stage.clock.advance(Duration::from_hours(40));
    let caller = crate::registry::Caller {
        user: user(&stage, "press-1").unwrap().id,
        certificate: Some((granted.serial.clone().unwrap(), granted.not_after.unwrap())),
    };
    let message = json!({"csr": csr("press-1", &new_key(), &[])}).to_string();
    let renewed = stage.registry.renew(message.as_bytes(), None, Some(&caller), &origin(None)).await;
    assert_eq!(renewed.status, 201, "{renewed:?}");
    assert_eq!(life(&renewed, &stage), 48, "not the 90 days of the others");
}

#[tokio::test]
async fn a_rule_with_a_role_that_is_not_there_stops_the_start_and_later_asks_a_person() {
    let sensor: RoleName = "sensor".parse().unwrap();
    let with_role = |role: &RoleName| {
        vec![rule("line3", RuleAction::Grant(RuleGrant { roles: vec![role.clone()], while_locked: true, ..grant() }))]
    };
    let mut stage = Stage::new();
    stage.settings.rules = with_role(&sensor);
    stage.restart();
    assert_eq!(stage.send(press("press-1")).await.status, 201);
    let user = user(&stage, "press-1").unwrap();
    stage.directory.delete_user(user.id, Expected::Any, &Actor::System).unwrap();
    let gone = Change::DeleteRole { name: sensor, expected: Expected::Any };
    stage.directory.commit(gone.into(), &Actor::System).unwrap();
    assert_eq!(stage.send(press("press-2")).await.status, 423, "it grants nothing, and opens nothing");
    stage.unlock().await;
    assert_eq!(stage.send(press("press-2")).await.status, 202);

    let clock: Arc<dyn Clock> = Arc::new(stage.clock.clone());
    let again = Registry::open(
        Arc::clone(&stage.store) as _,
        Arc::clone(&stage.directory),
        Arc::new(crate::pki::Signers::new(Arc::clone(&stage.ca))),
        Arc::clone(&stage.argon2) as _,
        clock,
        Arc::new(Metrics::new()),
        stage.settings.clone(),
    );
    let Err(error) = again else { panic!("opened") };
    assert!(matches!(error, RegistryError::Rule { .. }));
    assert_eq!(
        error.to_string(),
        "the rule `line3` of broker.toml cannot grant: there is no role `sensor`: create it first, or grant without it"
    );
}

#[tokio::test]
async fn whose_user_is_gone_comes_back_to_the_place_of_that_user() {
    let stage = stage(vec![rule("one", RuleAction::Grant(RuleGrant { limit: 1, while_locked: true, ..grant() }))]);
    assert_eq!(stage.send(press("press-1")).await.status, 201);
    let first = user(&stage, "press-1").unwrap().id;
    stage.directory.delete_user(first, Expected::Any, &Actor::System).unwrap();
    assert_eq!(stage.send(press("press-1")).await.status, 201);
    assert_ne!(user(&stage, "press-1").unwrap().id, first);
    stage.registry.inner().state.lock().core.check();
}

/// No rule stands in for a nonce.
#[tokio::test]
async fn what_a_rule_grants_needs_its_nonce() {
    let open = rule("all", RuleAction::Grant(RuleGrant { while_locked: true, ..grant() }));
    let stage = Stage::with(Settings { require_nonce: true, rules: vec![open], ..Settings::default() });
    assert_eq!(stage.send(press("press-1")).await.error, Some("nonce_missing"));
    assert!(user(&stage, "press-1").is_none());
    let nonce = stage.registry.challenge(b"", None, &origin(None)).nonce.unwrap();
    let with = json!({"username": "press-1", "csr": csr("press-1", &new_key(), &[&nonce])});
    assert_eq!(stage.send(with).await.status, 201);
    let again = json!({"username": "press-2", "csr": csr("press-2", &new_key(), &[&nonce])});
    assert_eq!(stage.send(again).await.error, Some("nonce_spent"));
}

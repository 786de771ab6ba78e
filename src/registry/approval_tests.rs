//! Two people for one grant: nothing that one can do, by any way, makes a user.

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::rules::{grant, rule};
use super::*;
use crate::access::{RoleName, User, UserId};
use crate::audit;
use crate::config::{RegistryRule, RuleAction, RuleGrant};
use crate::registry::{RegistryError, ReplaceTerms, TokenTerms};

fn settings() -> Settings {
    Settings { rate: RateLimit { burst: 10_000, every: Duration::from_millis(1) }, approvals: 2, ..Settings::default() }
}

/// Somebody with the role `admin`.
fn person(stage: &Stage, name: &str) -> (UserId, Actor) {
    let mut new = NewUser::named(name.parse().unwrap());
    new.roles.push(RoleName::admin());
    let user = stage.directory.create_user(new, &Actor::System).unwrap();
    (user.id, Actor::of(&user))
}

async fn pending(stage: &Stage) -> RequestId {
    stage.unlock().await;
    assert_eq!(stage.send(with_csr()).await.status, 202);
    stage.only().await
}

fn made(stage: &Stage, name: &str) -> bool {
    stage.directory.policy().user_named(&name.parse().unwrap()).is_some()
}

fn edit(stage: &Stage, id: UserId, edit: impl FnOnce(&mut User) + Send + 'static) {
    stage.directory.update_user(id, Expected::Any, edit, &Actor::System).unwrap();
}

#[tokio::test]
async fn two_people_grant_the_same_or_nothing_is_granted() {
    let mut stage = Stage::with(settings());
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    let id = pending(&stage).await;
    let mut events = stage.registry.watch();
    let terms = GrantTerms { comment: Some("seen it".into()), ..Stage::terms() };
    let view = stage.registry.grant(id, terms, ada.clone()).await.unwrap();
    assert_eq!(view.state, State::Pending);
    let first = view.approved.unwrap();
    assert_eq!((first.by.as_str(), &first.grant.roles), ("user:ada", &Stage::terms().roles));
    assert_eq!(events.recv().await.unwrap().event, EventKind::Approved);
    assert_eq!(stage.send(with_csr()).await.status, 202);
    stage.restart();
    assert!(stage.registry.show(id).await.unwrap().approved.is_some(), "it survives a restart");
    let again = stage.registry.grant(id, Stage::terms(), ada.clone()).await.unwrap_err();
    assert!(matches!(again, RegistryError::OwnApproval(_)), "{again}");
    assert_eq!(again.kind(), RegistryErrorKind::Conflict);

    // Something else begins anew, whoever says it.
    let view = stage.registry.grant(id, GrantTerms::default(), bob.clone()).await.unwrap();
    assert_eq!(view.approved.unwrap().by, "user:bob");
    assert!(!made(&stage, "press-7"));
    let view = stage.registry.grant(id, Stage::terms(), bob.clone()).await.unwrap();
    assert_eq!((view.state, view.approved.unwrap().by), (State::Pending, "user:bob".into()));
    let view = stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
    assert!(matches!(&view.state, State::Granted { by, .. } if by == "user:bob and user:ada"), "{view:?}");
    assert_eq!(view.approved, None);
    assert_eq!(stage.send(with_csr()).await.status, 201);
    let entries = audit::read(&*stage.store, 0, 1000).unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| entry.read().unwrap().event.kind()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "registration_approved").count(), 3);
    assert_eq!(kinds.iter().filter(|kind| **kind == "registration_granted").count(), 1);
}

#[tokio::test]
async fn the_machine_is_one_person_whoever_sits_at_it() {
    let stage = Stage::with(settings());
    let (_, ada) = person(&stage, "ada");
    let id = pending(&stage).await;
    stage.registry.grant(id, Stage::terms(), Actor::Local { uid: 1000 }).await.unwrap();
    for same in [Actor::Local { uid: 1000 }, Actor::Local { uid: 0 }, Actor::System] {
        let error = stage.registry.grant(id, Stage::terms(), same).await.unwrap_err();
        assert!(matches!(error, RegistryError::OwnApproval(_)), "{error}");
    }
    stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
    assert!(made(&stage, "press-7"));
}

#[tokio::test]
async fn one_person_is_enough_to_deny() {
    let stage = Stage::with(settings());
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    let id = pending(&stage).await;
    stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
    let denied = stage.registry.deny(id, "no".into(), bob.clone()).await.unwrap();
    assert_eq!(denied.approved, None);
    assert_eq!(stage.send(with_csr()).await.status, 403);
    let error = stage.registry.grant(id, Stage::terms(), bob).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotPending { .. }), "{error}");
}

#[tokio::test]
async fn what_somebody_has_said_counts_as_long_as_they_could_say_it() {
    let stage = Stage::with(settings());
    let ((_, bob), (_, eve)) = (person(&stage, "bob"), person(&stage, "eve"));
    let id = pending(&stage).await;
    let mut number = 0;
    let mut first = async |then: fn(&mut User)| {
        number += 1;
        let (user, ada) = person(&stage, &format!("ada-{number}"));
        // Anew, so that it is the first.
        stage.registry.grant(id, GrantTerms::default(), eve.clone()).await.unwrap();
        stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
        edit(&stage, user, then);
        let view = stage.registry.grant(id, Stage::terms(), bob.clone()).await.unwrap();
        assert_eq!((view.state, view.approved.unwrap().by.as_str()), (State::Pending, "user:bob"));
        assert!(!made(&stage, "press-7"));
        user
    };
    first(|user| user.enabled = false).await;
    first(|user| user.roles.clear()).await;
    // Holds what it has granted, and may not grant any more.
    first(|user| {
        user.roles.clear();
        user.permissions = vec![Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/#")];
    })
    .await;
    let grant = "/api/client-registry/requests/#";
    let gone = first(|user| {
        user.roles.clear();
        // May still decide, and holds nothing of what it has granted.
        user.permissions = vec![Permission::allow(Context::Http, Operation::Write, "/api/client-registry/requests/#")];
    })
    .await;
    assert!(stage.directory.policy().user(gone).unwrap().permissions.iter().any(|rule| rule.resource == grant));
    // A first one with too little is refused at once.
    let (user, small) = person(&stage, "small");
    edit(&stage, user, |user| {
        user.roles.clear();
        user.permissions = vec![Permission::allow(Context::Http, Operation::Write, "/api/client-registry/requests/#")];
    });
    let error = stage.registry.grant(id, Stage::terms(), small).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Forbidden, "{error}");
    stage.registry.grant(id, Stage::terms(), eve.clone()).await.unwrap();
    assert!(made(&stage, "press-7"), "bob's word of before and eve's");
}

#[tokio::test]
async fn no_token_and_no_rule_is_a_way_around_two_people() {
    let username = Some("ruled-*".to_owned().try_into().unwrap());
    let action = RuleAction::Grant(RuleGrant { while_locked: true, ..grant() });
    let rule = RegistryRule { username, ..rule("line3", action) };
    let mut stage = Stage::with(Settings { rules: vec![rule], ..settings() });
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    let terms = TokenTerms { roles: Stage::terms().roles, ..TokenTerms::default() };
    let (secret, token) = stage.registry.create_token(terms, ada.clone()).await.unwrap();
    let secret = secrecy::ExposeSecret::expose_secret(&secret);
    let claim = |name: &str| json!({"username": name, "csr": csr(name, &new_key(), &[]), "token": secret});
    let claimed = claim("press-1");
    assert_eq!(stage.send(claimed.clone()).await.status, 202, "admitted, and waiting");
    assert_eq!(stage.send(claimed.clone()).await.status, 202);
    assert_eq!(stage.send(claim("press-2")).await.error, Some("token"), "its use is spent");
    stage.restart();
    let id = stage.only().await;
    let approved = stage.registry.show(id).await.unwrap().approved.unwrap();
    assert_eq!(approved.by, format!("token {} of user:ada", token.id));
    let error = stage.registry.grant(id, Stage::terms(), ada.clone()).await.unwrap_err();
    assert!(matches!(error, RegistryError::OwnApproval(_)), "the author of the token is one person: {error}");
    assert!(!made(&stage, "press-1"));
    stage.registry.grant(id, Stage::terms(), bob.clone()).await.unwrap();
    assert_eq!(stage.send(claimed).await.status, 201);

    let ruled = json!({"username": "ruled-1", "password": "a good password"});
    assert_eq!(stage.send(ruled.clone()).await.status, 202);
    let waiting = stage.registry.list(Some(StateFilter::Pending)).await.unwrap().pop().unwrap();
    assert_eq!(waiting.approved.unwrap().by, "rule line3");
    let terms = GrantTerms { roles: vec!["observer".parse().unwrap()], ..GrantTerms::default() };
    let error = stage.registry.grant(waiting.id, terms.clone(), Actor::Local { uid: 0 }).await.unwrap_err();
    assert!(matches!(error, RegistryError::OwnApproval(_)), "who writes broker.toml is at the machine: {error}");
    stage.registry.grant(waiting.id, terms, bob).await.unwrap();
    assert_eq!(stage.send(ruled).await.status, 201);
}

#[tokio::test]
async fn people_who_grant_something_else_than_a_rule_do_not_grant_its_validity() {
    let life = Duration::from_hours(3650 * 24);
    let grant = RuleGrant { while_locked: true, validity: Some(life), ..grant() };
    let rule = rule("line3", RuleAction::Grant(grant.clone()));
    let stage = Stage::with(Settings { rules: vec![rule], ..settings() });
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    let as_ruled = GrantTerms { roles: grant.roles, ..GrantTerms::default() };
    for (name, terms, people, ruled) in
        [("press-1", as_ruled, vec![&bob], true), ("press-2", Stage::terms(), vec![&ada, &bob], false)]
    {
        let message = json!({"username": name, "csr": csr(name, &new_key(), &[])});
        assert_eq!(stage.send(message.clone()).await.status, 202);
        let id = stage.registry.list(Some(StateFilter::Pending)).await.unwrap()[0].id;
        for who in people {
            stage.registry.grant(id, terms.clone(), who.clone()).await.unwrap();
        }
        let answer = stage.send(message).await;
        let end = answer.not_after.unwrap().duration_since(stage.clock.timestamp());
        assert_eq!(end > jiff::SignedDuration::from_hours(91 * 24), ruled, "{name}: {end:?}");
    }
}

#[tokio::test]
async fn a_replacement_needs_two_as_well() {
    let stage = Stage::with(settings());
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    let id = pending(&stage).await;
    for actor in [&ada, &bob] {
        stage.registry.grant(id, Stage::terms(), actor.clone()).await.unwrap();
    }
    stage.registry.replace("press-7".parse().unwrap(), ReplaceTerms::default(), ada.clone()).await.unwrap();
    let new = json!({"username": "press-7", "csr": csr("press-7", &new_key(), &[])});
    assert_eq!(stage.send(new.clone()).await.status, 202);
    let id = stage.registry.list(Some(StateFilter::Pending)).await.unwrap().pop().unwrap().id;
    let more = GrantTerms { roles: Stage::terms().roles, ..GrantTerms::default() };
    assert_eq!(stage.registry.grant(id, more, ada.clone()).await.unwrap_err().kind(), RegistryErrorKind::Invalid);
    assert_eq!(stage.registry.grant(id, GrantTerms::default(), ada).await.unwrap().state, State::Pending);
    assert_eq!(stage.send(new.clone()).await.status, 202);
    stage.registry.grant(id, GrantTerms::default(), bob).await.unwrap();
    assert_eq!(stage.send(new).await.status, 201);
}

/// The attack: a token is found to have leaked and is revoked, and still speaks for one of two.
#[tokio::test]
async fn the_first_word_of_a_token_that_is_revoked_is_taken_back() {
    let stage = Stage::with(settings());
    let (_, bob) = person(&stage, "bob");
    let terms = TokenTerms { roles: Stage::terms().roles, uses: Some(2), ..TokenTerms::default() };
    let (secret, token) = stage.registry.create_token(terms, Actor::System).await.unwrap();
    let claim = json!({"username": "press-1", "csr": csr("press-1", &new_key(), &[]), "token": secret.expose_secret()});
    assert_eq!(stage.send(claim).await.status, 202);
    let id = stage.only().await;
    assert!(stage.registry.show(id).await.unwrap().approved.is_some());
    stage.registry.revoke_token(token.id, Actor::System).await.unwrap();
    let view = stage.registry.show(id).await.unwrap();
    assert_eq!((view.state, view.approved), (State::Pending, None));
    assert_eq!(stage.registry.grant(id, Stage::terms(), bob).await.unwrap().state, State::Pending);
    assert!(!made(&stage, "press-1"));
}

/// The attack: a rule was too wide and is gone from broker.toml, and still speaks for one of two.
#[tokio::test]
async fn the_first_word_of_a_rule_counts_while_broker_toml_says_the_same() {
    let line3 =
        |roles: &[RoleName]| vec![rule("line3", RuleAction::Grant(RuleGrant { roles: roles.to_vec(), ..grant() }))];
    // Built in: rules name roles that are there at a start.
    let observer = grant().roles;
    for (now, granted) in [(line3(&observer), true), (line3(&[]), false), (Vec::new(), false)] {
        let mut stage = Stage::with(Settings { rules: line3(&observer), ..settings() });
        let (_, bob) = person(&stage, "bob");
        stage.unlock().await;
        let message = json!({"username": "press-1", "csr": csr("press-1", &new_key(), &[])});
        assert_eq!(stage.send(message).await.status, 202);
        let id = stage.only().await;
        assert!(stage.registry.show(id).await.unwrap().approved.is_some());
        stage.settings.rules = now;
        stage.restart();
        let terms = GrantTerms { roles: observer.clone(), ..GrantTerms::default() };
        let view = stage.registry.grant(id, terms, bob).await.unwrap();
        assert_eq!(matches!(view.state, State::Granted { .. }), granted);
        assert_eq!(made(&stage, "press-1"), granted);
    }
}

/// On a disk that takes its time: no word is lost, counted twice, or heard while another one is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_people_say_at_once_is_heard_one_after_the_other() {
    let stage = Stage::on(FaultyStore::slow(Duration::from_millis(10)), settings());
    let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
    stage.unlock().await;
    for (name, rounds) in
        [("press-1", vec![vec![&ada; 6], vec![&bob; 6]]), ("press-2", vec![vec![&ada, &bob, &ada, &bob]])]
    {
        assert_eq!(stage.send(json!({"username": name, "csr": csr(name, &new_key(), &[])})).await.status, 202);
        let id = stage.registry.list(Some(StateFilter::Pending)).await.unwrap()[0].id;
        let mut heard = Vec::new();
        for round in rounds {
            let said: Vec<_> = round
                .into_iter()
                .map(|who| {
                    let (registry, who) = (stage.registry.clone(), who.clone());
                    tokio::spawn(async move { registry.grant(id, Stage::terms(), who).await })
                })
                .collect();
            for said in said {
                match said.await.unwrap() {
                    Ok(view) => heard.push(view.state.as_str()),
                    Err(RegistryError::OwnApproval(_) | RegistryError::NotPending { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        heard.sort_unstable();
        assert_eq!(heard, ["granted", "pending"], "{name}");
        assert!(made(&stage, name));
    }
    stage.registry.inner().state.lock().core.check();
}

/// The attack: what the first one may no longer give is given, for it was asked too early. The log tells in which order it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_first_word_that_ends_while_the_grant_is_written_makes_no_user() {
    let stage = Stage::on(FaultyStore::slow(Duration::from_millis(10)), settings());
    let (_, bob) = person(&stage, "bob");
    stage.unlock().await;
    for number in 0..6 {
        let (user, ada) = person(&stage, &format!("ada-{number}"));
        let name = format!("press-{number}");
        assert_eq!(stage.send(json!({"username": name, "csr": csr(&name, &new_key(), &[])})).await.status, 202);
        let waiting = stage.registry.list(Some(StateFilter::Pending)).await.unwrap();
        let id = waiting.iter().find(|it| it.username.as_str() == name).unwrap().id;
        stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
        let (registry, bob) = (stage.registry.clone(), bob.clone());
        let grant = tokio::spawn(async move { registry.grant(id, Stage::terms(), bob).await.map(|view| view.state) });
        tokio::time::sleep(Duration::from_millis(2 * number)).await;
        edit(&stage, user, |user| user.enabled = false);
        // Whoever says the second word is to blame for nothing: it becomes the first.
        match grant.await.unwrap().unwrap() {
            State::Granted { .. } => assert!(made(&stage, &name)),
            _ => assert!(!made(&stage, &name), "it began anew"),
        }
        let entries = audit::read(&*stage.store, 0, 1000).unwrap();
        let records: Vec<_> = entries.iter().map(|entry| entry.read().unwrap().event).collect();
        let granted = records.iter().position(
            |event| matches!(event, audit::Event::RegistrationGranted { user, .. } if user.username.as_str() == name),
        );
        let ended = records
            .iter()
            .position(|event| matches!(event, audit::Event::UserChanged { user: ended, .. } if ended.id == user));
        assert!(granted.is_none_or(|granted| granted < ended.unwrap()), "{granted:?} {ended:?}");
    }
}

/// With one approval on record, whichever operation of the disk fails.
#[tokio::test]
async fn a_grant_that_fails_half_way_leaves_the_first_word_as_it_was() {
    let mut failures = 0;
    for at in 0.. {
        let mut stage = Stage::with(settings());
        let ((_, ada), (_, bob)) = (person(&stage, "ada"), person(&stage, "bob"));
        let id = pending(&stage).await;
        stage.registry.grant(id, Stage::terms(), ada).await.unwrap();
        stage.store.fail_at(at, Fault::Refused);
        if stage.registry.grant(id, Stage::terms(), bob.clone()).await.is_ok() {
            break;
        }
        failures += 1;
        stage.restart();
        let view = stage.registry.show(id).await.unwrap();
        assert_eq!((view.state, view.approved.unwrap().by.as_str()), (State::Pending, "user:ada"));
        stage.registry.grant(id, Stage::terms(), bob).await.unwrap();
    }
    assert!(failures >= 3);
}

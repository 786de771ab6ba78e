//! Claim tokens: they open the door for their holder alone, give no more than their author holds now, and are spent once.

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;
use crate::access::{RoleName, User};
use crate::audit;
use crate::directory::Change;
use crate::registry::{RegistryError, ReplaceTerms, TokenId, TokenTerms, TokenView};

fn terms() -> TokenTerms {
    TokenTerms { roles: Stage::terms().roles, ..TokenTerms::default() }
}

async fn make(stage: &Stage, terms: TokenTerms) -> (String, TokenId) {
    let (secret, view) = stage.registry.create_token(terms, Actor::System).await.unwrap();
    (secret.expose_secret().to_owned(), view.id)
}

fn claim(name: &str, key: &rcgen::KeyPair, token: &str) -> Value {
    json!({"username": name, "csr": csr(name, key, &[]), "token": token})
}

async fn show(stage: &Stage, id: TokenId) -> TokenView {
    stage.registry.token(id).await.unwrap()
}

/// What a device is told whose token is no good, and nothing else of it.
fn no_good(answer: &Answer) -> bool {
    let expected = Answer::error(403, "denied", "token", "");
    *answer == Answer { message: answer.message.clone(), ..expected }
        && answer.message.as_deref()
            == Some("this token is not good for this: ask the operator for another one, or leave it out")
}

fn user(stage: &Stage, name: &str) -> Option<Arc<User>> {
    stage.directory.policy().user_named(&name.parse().unwrap()).cloned()
}

fn told(stage: &Stage) -> Vec<audit::Record> {
    audit::read(&*stage.store, 0, 1000).unwrap().iter().map(|entry| entry.read().unwrap()).collect()
}

/// Somebody who may make tokens and holds what the role `sensor` gives.
fn author(stage: &Stage) -> (UserIdAndActor, Vec<Permission>) {
    let permissions = vec![
        Permission::allow(Context::Http, Operation::Write, "/api/client-registry/tokens"),
        Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/#"),
    ];
    let mut new = NewUser::named("ada".parse().unwrap());
    new.permissions.clone_from(&permissions);
    let user = stage.directory.create_user(new, &Actor::System).unwrap();
    ((user.id, Actor::of(&user)), permissions)
}

type UserIdAndActor = (crate::access::UserId, Actor);

fn edit(stage: &Stage, id: crate::access::UserId, edit: impl FnOnce(&mut User) + Send + 'static) {
    stage.directory.update_user(id, Expected::Any, edit, &Actor::System).unwrap();
}

#[tokio::test]
async fn a_device_with_a_token_is_granted_at_once_behind_a_locked_door() {
    let mut stage = Stage::new();
    let comment = Some("line 3".to_owned());
    let token = TokenTerms { publish_prefix: Some("site7/".into()), comment, uses: Some(2), ..terms() };
    let (secret, id) = make(&stage, token).await;
    stage.restart();
    let key = new_key();
    let granted = stage.send(claim("press-1", &key, &secret)).await;
    assert_eq!((granted.status, granted.state), (201, "granted"));
    let certificate = PeerCertificate::from_pem(granted.certificate.as_deref().unwrap().as_bytes()).unwrap();
    assert_eq!(certificate.common_name().unwrap().as_str(), "press-1");
    let made = user(&stage, "press-1").unwrap();
    assert_eq!((made.managed_by, &*made.description), (ManagedBy::Registry, "line 3"));
    assert_eq!((made.roles.clone(), made.publish_prefix.as_deref()), (terms().roles, Some("site7/")));
    assert_eq!(stage.send(claim("press-1", &key, &secret)).await.certificate, granted.certificate, "a lost answer");
    assert_eq!(stage.send(claim("press-1", &key, "wrong")).await.status, 201, "the poll is known by its proof");
    stage.restart();
    assert_eq!(stage.send(claim("press-1", &key, &secret)).await.certificate, granted.certificate);
    assert_eq!(show(&stage, id).await.used, 1, "a poll spends nothing");
    let request = stage.registry.list(None).await.unwrap().pop().unwrap();
    assert_eq!(request.token, Some(id));
    assert!(matches!(request.state, State::Granted { by, .. } if by == format!("token {id} of system")));

    let by_password = json!({"username": "meter-1", "password": "a good password", "token": secret.to_lowercase()});
    assert_eq!(stage.send(by_password.clone()).await.status, 201, "as people type it");
    assert_eq!(stage.send(by_password).await.status, 201);
    assert_eq!(stage.send(json!({"username": "meter-2", "password": "a good password"})).await.status, 423);

    let records = told(&stage);
    let kinds: Vec<_> = records.iter().map(|record| record.event.kind()).collect();
    let expected = ["token_created", "certificate_signing", "registration_requested", "registration_granted"];
    assert!(expected.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let granted = records.iter().find(|record| record.event.kind() == "registration_granted").unwrap();
    assert_eq!(granted.place, Some(audit::Place::Token { token: id.0 }));
    assert!(matches!(&granted.event, audit::Event::RegistrationGranted { token: Some(token), .. } if *token == id.0));
    let all = serde_json::to_string(&records).unwrap();
    assert!(!all.contains(&secret) && !all.contains(&secret.replace('-', "")), "the log does not know the secret");
}

#[tokio::test]
async fn a_token_that_is_no_good_is_answered_alike_whatever_is_wrong_with_it() {
    let stage = Stage::new();
    let recorder = Arc::new(audit::Recorder::new(Arc::new(Metrics::new())));
    stage.registry.set_recorder(Arc::clone(&recorder));
    let (spent, spent_id) = make(&stage, terms()).await;
    assert_eq!(stage.send(claim("press-1", &new_key(), &spent)).await.status, 201);
    let (short, _) = make(&stage, TokenTerms { duration: Some(5), ..terms() }).await;
    let network = vec!["10.0.0.0/8".parse().unwrap()];
    let (elsewhere, _) = make(&stage, TokenTerms { source: network, ..terms() }).await;
    let pattern = Some("line3-*".to_owned().try_into().unwrap());
    let (named, _) = make(&stage, TokenTerms { username: pattern, ..terms() }).await;
    let (revoked, id) = make(&stage, terms()).await;
    stage.registry.revoke_token(id, Actor::System).await.unwrap();
    assert!(matches!(stage.registry.revoke_token(id, Actor::System).await, Err(RegistryError::NoToken(_))));
    stage.clock.advance(Duration::from_secs(5));
    let almost = format!("{}{}", &elsewhere[..elsewhere.len() - 1], if elsewhere.ends_with('0') { '1' } else { '0' });
    let mut answers = Vec::new();
    for door in ["locked", "open"] {
        for secret in [&spent, &short, &elsewhere, &named, &revoked, &almost, "", "0", &"x".repeat(9000)] {
            // A name of somebody, a pending one and one of nobody: nothing shows through a token that is no good.
            for name in ["press-1", "press-2", "press-3"] {
                let answer = stage.send(claim(name, &new_key(), secret)).await;
                assert!(no_good(&answer), "{door} {name} {answer:?}");
                answers.push(answer);
            }
        }
        stage.unlock().await;
        let _ = stage.send(json!({"username": "press-2", "csr": csr("press-2", &new_key(), &[])})).await;
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one answer for all");
    assert_eq!(stage.registry.list(Some(StateFilter::Pending)).await.unwrap().len(), 1, "none of it is on record");
    stage.registry.tick().await.unwrap();
    assert!(no_good(&stage.send(claim("press-3", &new_key(), &short)).await), "after it was forgotten, too");

    let told: Vec<_> = recorder
        .take()
        .into_iter()
        .filter_map(|event| match event {
            audit::Event::TokensRefused { token, cause, count, .. } => {
                Some((cause.to_string(), token.is_some(), count))
            }
            // Of the name that was pending already.
            audit::Event::RegistrationsRefused { cause, .. } if cause.to_string() == "name_pending" => None,
            other => panic!("{other:?}"),
        })
        .collect();
    let count = |cause: &str| told.iter().find(|(it, ..)| it == cause).map(|(_, named, count)| (*named, *count));
    assert_eq!(count("token_spent"), Some((true, 6)));
    assert_eq!(count("token_expired"), Some((true, 6)));
    assert_eq!((count("token_name"), count("token_network")), (Some((true, 6)), Some((true, 6))));
    assert_eq!(count("token_unknown"), Some((false, 31)));
    assert_eq!(show(&stage, spent_id).await.used, 1);
}

#[tokio::test]
async fn guessing_is_slowed_down_like_that_of_passwords() {
    let rate = RateLimit { burst: 60, every: Duration::from_secs(1) };
    let stage = Stage::with(Settings { rate, ..Settings::default() });
    let mut guesses = 0;
    while stage.send(claim("press-1", &new_key(), &format!("guess {guesses}"))).await.status == 403 {
        guesses += 1;
    }
    assert_eq!(guesses, 6, "each costs eleven messages");
}

/// Whoever fills the table keeps nobody out who takes no place in it.
#[tokio::test]
async fn a_token_is_good_while_the_table_is_full() {
    for (max_pending, max_pending_per_source) in [(2, 100), (100, 2)] {
        let stage = Stage::with(Settings { max_pending, max_pending_per_source, ..Settings::default() });
        let (secret, _) = make(&stage, terms()).await;
        stage.unlock().await;
        let press = |name: &str| json!({"username": name, "csr": csr(name, &new_key(), &[])});
        for name in ["bogus-1", "bogus-2"] {
            assert_eq!(stage.send(press(name)).await.status, 202);
        }
        assert_eq!(stage.send(press("press-1")).await.error, Some("full"));
        assert_eq!(stage.send(claim("press-1", &new_key(), &secret)).await.status, 201);
        let pending = stage.registry.list(Some(StateFilter::Pending)).await.unwrap();
        assert_eq!(pending.len(), 2, "and none of them has given way");
    }
}

#[tokio::test]
async fn a_spent_token_is_good_for_no_other_name_key_or_password() {
    let stage = Stage::new();
    let (secret, _) = make(&stage, terms()).await;
    let key = new_key();
    assert_eq!(stage.send(claim("press-1", &key, &secret)).await.status, 201);
    assert!(no_good(&stage.send(claim("press-2", &key, &secret)).await), "another name with the same key");
    assert!(no_good(&stage.send(claim("press-1", &new_key(), &secret)).await), "another key for the same name");
    let both = json!({"username": "press-1", "csr": csr("press-1", &key, &[]), "password": "a good password", "token": secret});
    assert!(no_good(&stage.send(both).await));
}

#[tokio::test]
async fn no_token_takes_a_reserved_name_or_one_of_somebody() {
    let stage = Stage::new();
    let (secret, id) = make(&stage, TokenTerms { uses: Some(9), ..terms() }).await;
    for name in ["admin", "Observer", "system", "local"] {
        let answer = stage.send(json!({"username": name, "password": "a good password", "token": secret})).await;
        assert_eq!(answer.error, Some("username_reserved"), "{name}");
    }
    stage.directory.create_user(NewUser::named("ada".parse().unwrap()), &Actor::System).unwrap();
    assert_eq!(stage.send(claim("ada", &new_key(), &secret)).await.error, Some("name_taken"));
    stage.unlock().await;
    assert_eq!(stage.send(json!({"username": "press-1", "password": "a good password"})).await.status, 202);
    assert_eq!(stage.send(claim("press-1", &new_key(), &secret)).await.error, Some("name_pending"));
    let key = new_key();
    assert_eq!(stage.send(claim("press-2", &key, &secret)).await.status, 201);
    assert_eq!(stage.send(claim("press-3", &key, &secret)).await.error, Some("key_in_use"));
    assert_eq!(show(&stage, id).await.used, 1, "none of the refusals has spent a use");
    // A name that is open to a new key is for the operator to give.
    stage.registry.replace("press-2".parse().unwrap(), ReplaceTerms::default(), Actor::System).await.unwrap();
    assert_eq!(stage.send(claim("press-2", &new_key(), &secret)).await.status, 202);
    assert_eq!(show(&stage, id).await.used, 1);
}

#[tokio::test]
async fn a_request_that_was_denied_stays_denied() {
    let stage = Stage::new();
    stage.unlock().await;
    let key = new_key();
    assert_eq!(stage.send(json!({"username": "press-1", "csr": csr("press-1", &key, &[])})).await.status, 202);
    let terms_of_denial = DenyTerms { reason: "stolen".into(), comment: Some("ticket 7".into()) };
    let denied = stage.registry.deny(stage.only().await, terms_of_denial, Actor::System).await.unwrap();
    assert!(matches!(denied.state, State::Denied { comment: Some(comment), .. } if comment == "ticket 7"));
    let (secret, id) = make(&stage, terms()).await;
    let answer = stage.send(claim("press-1", &key, &secret)).await;
    assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("stolen")));
    assert!(!format!("{answer:?}").contains("ticket"), "the comment is not for the device");
    assert_eq!(show(&stage, id).await.used, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_show_a_token_for_one_at_once_one_is_granted() {
    let rate = RateLimit { burst: 10_000, every: Duration::from_millis(1) };
    // So slow that all of them come while the first one is written.
    let stage = Stage::on(FaultyStore::slow(Duration::from_millis(20)), Settings { rate, ..Settings::default() });
    let (secret, id) = make(&stage, terms()).await;
    let asks: Vec<_> = (0..8)
        .map(|number| {
            let registry = stage.registry.clone();
            let message = claim(&format!("press-{number}"), &new_key(), &secret).to_string();
            tokio::spawn(async move { registry.register(message.as_bytes(), None, &origin(None)).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for ask in asks {
        statuses.push(ask.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 403, 403, 403, 403, 403, 403, 403]);
    assert_eq!(show(&stage, id).await.used, 1);
    assert_eq!(stage.registry.list(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn wherever_the_disk_fails_a_use_is_counted_with_its_grant_or_not_at_all() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        let mut failures = 0;
        for at in 0.. {
            let mut stage = Stage::new();
            let (secret, id) = make(&stage, terms()).await;
            let key = new_key();
            stage.store.fail_at(at, fault);
            let answer = stage.send(claim("press-1", &key, &secret)).await;
            if answer.status == 201 {
                break;
            }
            assert_eq!(answer.status, 500, "{answer:?}");
            failures += 1;
            if fault == Fault::AnswerLost {
                stage.restart();
            }
            let used = show(&stage, id).await.used;
            assert_eq!(used, u32::from(user(&stage, "press-1").is_some()), "{fault:?} {at}");
            assert_eq!(stage.send(claim("press-1", &key, &secret)).await.status, 201, "{fault:?} {at}");
            assert_eq!(show(&stage, id).await.used, 1);
        }
        assert!(failures >= 2, "the record of the signature, and the commit");
    }
}

#[tokio::test]
async fn nobody_makes_a_token_for_more_than_they_hold() {
    let stage = Stage::new();
    let ((id, actor), permissions) = author(&stage);
    stage.registry.create_token(terms(), actor.clone()).await.unwrap();
    let rule = |rule| TokenTerms { permissions: vec![rule], ..TokenTerms::default() };
    let admin: RoleName = "admin".parse().unwrap();
    for more in [
        TokenTerms { roles: vec![admin], ..TokenTerms::default() },
        rule(Permission::allow(Context::Mqtt, Operation::Write, "other/#")),
        rule(Permission::allow(Context::Http, Operation::Write, "/api/users")),
    ] {
        let error = stage.registry.create_token(more, actor.clone()).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Forbidden, "{error}");
    }
    edit(&stage, id, move |user| user.permissions = permissions[1..].to_vec());
    let error = stage.registry.create_token(TokenTerms::default(), actor.clone()).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotAllowed(_)), "{error}");
    let (_, token) = make(&stage, terms()).await;
    let error = stage.registry.revoke_token(token, actor).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotAllowed(_)), "{error}");

    let wrong = |terms| stage.registry.create_token(terms, Actor::System);
    for (terms, kind) in [
        (TokenTerms { uses: Some(0), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { uses: Some(100_001), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { duration: Some(0), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { duration: Some(400 * 24 * 3600), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { comment: Some("x".repeat(1025)), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { roles: vec!["nothing".parse().unwrap()], ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { publish_prefix: Some("$SYS/".into()), ..terms() }, RegistryErrorKind::Invalid),
        (TokenTerms { expires_at: Some(Timestamp::UNIX_EPOCH), ..terms() }, RegistryErrorKind::Invalid),
    ] {
        let error = wrong(terms).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_token_gives_no_more_than_its_author_holds_when_it_is_used() {
    let mut stage = Stage::new();
    let ((id, actor), permissions) = author(&stage);
    let token = TokenTerms { uses: Some(9), ..terms() };
    let (secret, view) = stage.registry.create_token(token, actor).await.unwrap();
    let secret = secret.expose_secret().to_owned();
    stage.restart();
    let sensor: RoleName = "sensor".parse().unwrap();
    let original = Role::clone(stage.directory.policy().role(&sensor).unwrap());
    assert_eq!(stage.send(claim("press-0", &new_key(), &secret)).await.status, 201);
    let refused = async |why: &str| {
        let key = new_key();
        let answer = stage.send(claim("press-1", &key, &secret)).await;
        assert!(no_good(&answer), "{why}: {answer:?}");
        assert!(user(&stage, "press-1").is_none());
        assert_eq!(show(&stage, view.id).await.used, 1, "{why}: nothing is spent");
    };
    // The role was enlarged since, beyond what the author holds.
    let mut wide = original.clone();
    wide.permissions.push(Permission::allow(Context::Mqtt, Operation::Read, "#"));
    stage.directory.put_role(wide, Expected::Any, &Actor::System).unwrap();
    refused("enlarged").await;
    stage.directory.put_role(original, Expected::Any, &Actor::System).unwrap();

    let all = permissions.clone();
    edit(&stage, id, move |user| user.permissions = all[..1].to_vec());
    refused("the author holds it no more").await;
    let all = permissions.clone();
    edit(&stage, id, move |user| user.permissions = all[1..].to_vec());
    refused("the author may make no tokens any more").await;
    let all = permissions.clone();
    edit(&stage, id, move |user| (user.permissions, user.enabled) = (all, false));
    refused("disabled").await;
    let end = stage.clock.timestamp().checked_add(Duration::from_secs(9)).unwrap();
    edit(&stage, id, move |user| (user.enabled, user.expires_at) = (true, Some(end)));
    stage.clock.advance(Duration::from_secs(9));
    refused("expired").await;
    edit(&stage, id, |user| user.expires_at = None);
    assert_eq!(stage.send(claim("press-2", &new_key(), &secret)).await.status, 201, "all is as it was");
    stage.directory.delete_user(id, Expected::Any, &Actor::System).unwrap();
    // Somebody else of the same name is somebody else.
    let mut other = NewUser::named("ada".parse().unwrap());
    other.roles.push("admin".parse().unwrap());
    stage.directory.create_user(other, &Actor::System).unwrap();
    let answer = stage.send(claim("press-1", &new_key(), &secret)).await;
    assert!(no_good(&answer), "{answer:?}");
    assert_eq!(show(&stage, view.id).await.used, 2);
}

#[tokio::test]
async fn a_role_that_is_gone_takes_its_tokens_along() {
    let stage = Stage::new();
    let (secret, _) = make(&stage, terms()).await;
    let sensor = Change::DeleteRole { name: "sensor".parse().unwrap(), expected: Expected::Any };
    stage.directory.commit(sensor.into(), &Actor::System).unwrap();
    assert!(no_good(&stage.send(claim("press-1", &new_key(), &secret)).await));
}

#[tokio::test]
async fn a_token_is_listed_until_its_time_is_over_and_then_forgotten() {
    let mut stage = Stage::new();
    let (secret, id) = make(&stage, TokenTerms { duration: Some(60), ..terms() }).await;
    let (_, later) = make(&stage, terms()).await;
    let ids = async |stage: &Stage| stage.registry.tokens().await.unwrap().iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids(&stage).await, [id, later]);
    let view = serde_json::to_string(&show(&stage, id).await).unwrap();
    assert!(!view.contains(&secret[..9]) && !view.contains("digest"), "{view}");
    stage.clock.advance(Duration::from_mins(1));
    assert_eq!(ids(&stage).await, [later]);
    stage.registry.tick().await.unwrap();
    stage.restart();
    assert_eq!(ids(&stage).await, [later]);
    let ended = told(&stage).pop().unwrap().event;
    assert_eq!(ended, audit::Event::TokenEnded { token: id.0, used: 0, why: audit::TokenEnd::Expired });
}

#[tokio::test]
async fn a_token_does_not_stand_in_for_a_nonce_or_a_strong_password() {
    let stage = Stage::with(Settings { require_nonce: true, ..Settings::default() });
    let (secret, id) = make(&stage, terms()).await;
    let key = new_key();
    assert_eq!(stage.send(claim("press-1", &key, &secret)).await.error, Some("nonce_missing"));
    let nonce = stage.registry.challenge(b"", None, &origin(None)).nonce.unwrap();
    let answer =
        stage.send(json!({"username": "press-1", "csr": csr("press-1", &key, &[&nonce]), "token": secret})).await;
    assert_eq!(answer.status, 201);
    assert_eq!(show(&stage, id).await.used, 1);
    let stage = Stage::new();
    let (secret, id) = make(&stage, terms()).await;
    let weak = json!({"username": "meter-1", "password": "weak", "token": secret});
    assert_eq!(stage.send(weak).await.error, Some("weak_password"));
    assert_eq!(show(&stage, id).await.used, 0);
}

/// Later it would make users whose time is over, and whose names and keys are taken.
#[tokio::test]
async fn a_token_ends_with_the_identities_that_it_makes() {
    let stage = Stage::new();
    let end = stage.clock.timestamp().checked_add(Duration::from_mins(1)).unwrap();
    let (secret, id) = make(&stage, TokenTerms { expires_at: Some(end), uses: Some(2), ..terms() }).await;
    assert_eq!(show(&stage, id).await.until, end);
    assert_eq!(stage.send(claim("press-1", &new_key(), &secret)).await.status, 201);
    assert_eq!(user(&stage, "press-1").unwrap().expires_at, Some(end));
    stage.clock.advance(Duration::from_mins(1));
    assert!(no_good(&stage.send(claim("press-2", &new_key(), &secret)).await));
    assert!(user(&stage, "press-2").is_none());
}

//! `registry replace`: a new key takes a name by an operator's decision, and by nothing else.

use serde_json::json;

use super::*;
use crate::access::{User, UserId};
use crate::directory::Change;
use crate::registry::{RegistryError, ReplaceTerms};

const NAME: &str = "press-1";

fn message(key: &rcgen::KeyPair) -> Value {
    json!({"username": NAME, "csr": csr(NAME, key, &[])})
}

/// A user that a request made, with its key; the door is locked again.
async fn granted(stage: &Stage) -> (UserId, rcgen::KeyPair) {
    stage.unlock().await;
    let key = new_key();
    assert_eq!(stage.send(message(&key)).await.status, 202);
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    stage.registry.lock(Actor::System).await.unwrap();
    (user(stage).id, key)
}

fn user(stage: &Stage) -> Arc<User> {
    stage.directory.policy().user_named(&NAME.parse().unwrap()).cloned().unwrap()
}

async fn open(stage: &Stage, terms: ReplaceTerms) {
    stage.registry.replace(NAME.parse().unwrap(), terms, Actor::System).await.unwrap();
}

async fn pending(stage: &Stage) -> Vec<RequestView> {
    stage.registry.list(Some(StateFilter::Pending)).await.unwrap()
}

#[tokio::test]
async fn a_new_key_takes_the_name_and_the_old_one_ends_in_the_same_commit() {
    let mut stage = Stage::new();
    let (id, old) = granted(&stage).await;
    let before = user(&stage);
    let new = new_key();
    assert_eq!(stage.send(message(&new)).await.status, 423);
    open(&stage, ReplaceTerms::default()).await;
    stage.restart();
    assert_eq!(stage.registry.replacements().await.unwrap()[0].user, id, "it survives a restart");
    assert_eq!(stage.send(message(&new)).await.status, 202, "no unlock is needed");
    assert_eq!(stage.send(message(&new_key())).await.error, Some("name_pending"), "one at a time");
    assert_eq!(stage.send(message(&old)).await.status, 201, "until somebody decides the old key is good");
    stage.restart();
    let waiting = pending(&stage).await;
    assert_eq!((waiting.len(), waiting[0].replaces), (1, Some(id)), "the operator sees what it replaces");
    assert_eq!(stage.registry.replacements().await.unwrap()[0].request, Some(waiting[0].id));
    assert_eq!(user(&stage), before, "nothing has changed yet");

    let more = GrantTerms { roles: Stage::terms().roles, ..GrantTerms::default() };
    let error = stage.registry.grant(waiting[0].id, more, Actor::System).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Invalid, "{error}");
    let version = stage.directory.policy().version();
    stage.registry.grant(waiting[0].id, GrantTerms::default(), Actor::System).await.unwrap();
    assert_eq!(stage.directory.policy().version().0, version.0 + 1, "one commit");
    let after = user(&stage);
    assert_eq!((after.id, &after.roles, after.created_at), (id, &before.roles, before.created_at));
    assert_eq!(after.certificates.len(), 2);
    assert_eq!((after.certificates[0].comment.as_deref(), after.certificates[1].revoked_at), (Some("replaced"), None));
    assert!(after.certificates[0].revoked_at.is_some());
    let collected = stage.send(message(&new)).await;
    assert_eq!((collected.status, collected.serial.as_deref()), (201, Some(&*after.certificates[1].serial)));
    for _ in 0..2 {
        assert_eq!(stage.send(message(&old)).await.status, 423, "the old key is a stranger's now");
        assert!(stage.registry.replacements().await.unwrap().is_empty(), "and the name is shut");
        stage.restart();
    }
    assert_eq!(stage.registry.list(None).await.unwrap().len(), 1, "the first request is forgotten");
    stage.unlock().await;
    assert_eq!(stage.send(message(&old)).await.error, Some("name_taken"));
}

#[tokio::test]
async fn only_a_new_key_from_where_it_is_open_is_admitted() {
    let stage = Stage::new();
    let (_, old) = granted(&stage).await;
    let source = vec!["10.0.0.0/8".parse().unwrap()];
    open(&stage, ReplaceTerms { source, ..ReplaceTerms::default() }).await;
    assert_eq!(stage.send(message(&new_key())).await.status, 423, "not from here");
    open(&stage, ReplaceTerms::default()).await;
    // The certificate of the old key was revoked: the key is no new one.
    let now = stage.clock.timestamp();
    let revoke = move |user: &mut User| user.certificates[0].revoked_at = Some(now);
    stage.directory.update_user(user(&stage).id, Expected::Any, revoke, &Actor::System).unwrap();
    assert_eq!(stage.send(message(&old)).await.error, Some("revoked"));
    let both = json!({"username": NAME, "csr": csr(NAME, &old, &[]), "password": "a good password"});
    assert_eq!(stage.send(both).await.error, Some("key_in_use"));
    let other = json!({"username": "press-2", "csr": csr("press-2", &new_key(), &[])});
    assert_eq!(stage.send(other).await.status, 423, "and no other name");
}

/// Its certificate is off the record in time, the request that it came by is not: of two requests with one key, a restart would
/// make a damaged store.
#[tokio::test]
async fn the_key_of_the_first_request_is_no_new_one_when_its_certificate_is_long_gone() {
    let mut stage = Stage::new();
    let (id, first) = granted(&stage).await;
    for days in [60, 32] {
        stage.clock.advance(Duration::from_hours(days * 24));
        let newest = user(&stage).certificates.last().cloned().unwrap();
        let caller = Caller { user: id, certificate: Some((newest.serial, newest.not_after)) };
        let renewal = json!({"csr": csr(NAME, &new_key(), &[])}).to_string();
        let renewed = stage.registry.renew(renewal.as_bytes(), None, Some(&caller), &origin(None)).await;
        stage.registry.confirm(id, renewed.serial.unwrap()).await.unwrap();
    }
    let fingerprint = VerifiedCsr::from_pem(csr(NAME, &first, &[]).as_bytes()).unwrap().key().fingerprint();
    assert!(stage.directory.policy().user_with_key(&fingerprint).is_none(), "it is off the record");
    open(&stage, ReplaceTerms::default()).await;
    let both = json!({"username": NAME, "csr": csr(NAME, &first, &[]), "password": "a good password"});
    let answer = stage.send(both).await;
    assert_eq!((answer.status, answer.error), (409, Some("key_in_use")));
    stage.restart();
    assert_eq!(stage.send(message(&new_key())).await.status, 202);
}

#[tokio::test]
async fn an_opening_ends_by_itself_and_can_be_cancelled_with_what_came_in() {
    let stage = Stage::new();
    granted(&stage).await;
    open(&stage, ReplaceTerms { duration: Some(60), ..ReplaceTerms::default() }).await;
    let new = new_key();
    assert_eq!(stage.send(message(&new)).await.status, 202);
    stage.clock.advance(Duration::from_mins(1));
    assert!(stage.registry.replacements().await.unwrap().is_empty());
    stage.registry.tick().await.unwrap();
    assert_eq!(stage.send(message(&new)).await.status, 202, "who came in time still waits");
    let id = pending(&stage).await[0].id;
    stage.registry.deny(id, "not yet".into(), Actor::System).await.unwrap();
    assert_eq!(stage.send(message(&new_key())).await.status, 423);

    open(&stage, ReplaceTerms::default()).await;
    assert_eq!(stage.send(message(&new)).await.status, 403, "denied is denied");
    let another = new_key();
    assert_eq!(stage.send(message(&another)).await.status, 202);
    let id = pending(&stage).await[0].id;
    stage.registry.cancel_replacement(NAME.parse().unwrap(), Actor::System).await.unwrap();
    assert_eq!(stage.send(message(&another)).await.status, 423);
    assert!(matches!(
        stage.registry.grant(id, GrantTerms::default(), Actor::System).await,
        Err(RegistryError::NotFound(_))
    ));
    let error = stage.registry.cancel_replacement(NAME.parse().unwrap(), Actor::System).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (RegistryErrorKind::NotFound, "the name `press-1` is not open to a new key".into())
    );
    assert_eq!(user(&stage).certificates[0].revoked_at, None);
}

#[tokio::test]
async fn what_waits_for_a_user_that_is_gone_or_renamed_takes_no_name() {
    for renamed in [false, true] {
        let stage = Stage::new();
        let (id, _) = granted(&stage).await;
        open(&stage, ReplaceTerms::default()).await;
        let new = new_key();
        assert_eq!(stage.send(message(&new)).await.status, 202);
        let waiting = pending(&stage).await[0].id;
        if renamed {
            let rename = |user: &mut User| user.username = "press-9".parse().unwrap();
            stage.directory.update_user(id, Expected::Any, rename, &Actor::System).unwrap();
        } else {
            stage.directory.delete_user(id, Expected::Any, &Actor::System).unwrap();
        }
        let error = stage.registry.grant(waiting, GrantTerms::default(), Actor::System).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::NotFound, "{error}");
        // A later user of that name has nothing to do with it.
        let successor = stage.directory.create_user(NewUser::named(NAME.parse().unwrap()), &Actor::System).unwrap();
        assert_eq!(stage.send(message(&new)).await.status, 423);
        stage.clock.advance(Duration::from_mins(2));
        stage.registry.tick().await.unwrap();
        assert!(pending(&stage).await.is_empty() && stage.registry.replacements().await.unwrap().is_empty());
        assert!(user(&stage).certificates.is_empty() && user(&stage).id == successor.id);
    }
}

#[tokio::test]
async fn nobody_replaces_a_user_who_holds_more_than_they_do() {
    let stage = Stage::new();
    granted(&stage).await;
    let mut operator = NewUser::named("operator".parse().unwrap());
    operator.permissions = vec![Permission::allow(Context::Http, Operation::Write, "/api/client-registry/#")];
    let operator = stage.directory.create_user(operator, &Actor::System).unwrap();
    let actor = Actor::of(&operator);
    let open_as = |actor: Actor| stage.registry.replace(NAME.parse().unwrap(), ReplaceTerms::default(), actor);
    let error = open_as(actor.clone()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Directory(_)), "{error}");
    assert_eq!(error.kind(), RegistryErrorKind::Forbidden, "{error}");
    assert!(stage.registry.replacements().await.unwrap().is_empty());
    open(&stage, ReplaceTerms::default()).await;
    assert_eq!(stage.send(message(&new_key())).await.status, 202);
    let id = pending(&stage).await[0].id;
    let error = stage.registry.grant(id, GrantTerms::default(), actor.clone()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Directory(_)), "{error}");
    assert_eq!(user(&stage).certificates.len(), 1);

    let more = |user: &mut User| {
        user.permissions.push(Permission::allow(Context::Mqtt, Operation::Write, "plant/#"));
    };
    stage.directory.update_user(operator.id, Expected::Any, more, &Actor::System).unwrap();
    open_as(actor.clone()).await.unwrap();
    stage.registry.grant(id, GrantTerms::default(), actor).await.unwrap();
    let stranger = stage.directory.create_user(NewUser::named("somebody".parse().unwrap()), &Actor::System).unwrap();
    let stranger = Actor::of(&stranger);
    assert_eq!(open_as(stranger.clone()).await.unwrap_err().kind(), RegistryErrorKind::Forbidden);
    assert!(stage.registry.cancel_replacement(NAME.parse().unwrap(), stranger).await.is_err());
}

#[tokio::test]
async fn a_password_gives_way_to_a_key_and_the_name_of_nobody_cannot_be_opened() {
    let stage = Stage::new();
    let mut meter = NewUser::named(NAME.parse().unwrap());
    (meter.auth, meter.password_hash) = (Auth::Password, Some("a good password$0".into()));
    stage.directory.create_user(meter, &Actor::System).unwrap();
    open(&stage, ReplaceTerms::default()).await;
    assert_eq!(stage.send(message(&new_key())).await.status, 202);
    stage.registry.grant(stage.only().await, GrantTerms::default(), Actor::System).await.unwrap();
    let after = user(&stage);
    assert_eq!((after.auth, &after.password_hash, after.certificates.len()), (Auth::Certificate, &None, 1));

    let refuse = async |name: &str, terms: ReplaceTerms| {
        stage.registry.replace(name.parse().unwrap(), terms, Actor::System).await.unwrap_err().kind()
    };
    assert_eq!(refuse("nobody", ReplaceTerms::default()).await, RegistryErrorKind::NotFound);
    assert_eq!(refuse("admin", ReplaceTerms::default()).await, RegistryErrorKind::Invalid);
    let week = ReplaceTerms { duration: Some(8 * 24 * 3600), ..ReplaceTerms::default() };
    assert_eq!(refuse(NAME, week).await, RegistryErrorKind::Invalid);
    let owned = NewUser::named("owned".parse().unwrap());
    stage.directory.reconcile(Vec::new(), vec![owned]).unwrap();
    assert_eq!(refuse("owned", ReplaceTerms::default()).await, RegistryErrorKind::Conflict);
}

#[tokio::test]
async fn a_replacement_that_the_disk_refuses_changes_nothing() {
    let mut stage = Stage::new();
    let (_, old) = granted(&stage).await;
    stage.store.fail_at(0, Fault::Refused);
    let refused = stage.registry.replace(NAME.parse().unwrap(), ReplaceTerms::default(), Actor::System).await;
    assert!(refused.is_err() && stage.registry.replacements().await.unwrap().is_empty());
    stage.restart();
    open(&stage, ReplaceTerms::default()).await;
    let new = new_key();
    assert_eq!(stage.send(message(&new)).await.status, 202);
    let id = pending(&stage).await[0].id;
    for n in 0..10 {
        stage.store.fail_at(n, Fault::Refused);
        let outcome = stage.registry.grant(id, GrantTerms::default(), Actor::System).await;
        stage.restart();
        if outcome.is_ok() {
            assert!(n > 0);
            assert_eq!(stage.send(message(&new)).await.status, 201);
            assert_eq!(stage.send(message(&old)).await.status, 423);
            return;
        }
        assert_eq!(user(&stage).certificates.len(), 1);
        assert_eq!(pending(&stage).await.len(), 1);
        assert_eq!(stage.send(message(&old)).await.status, 201);
    }
    panic!("it was never granted");
}

/// The user as the operator saw it is the one that is replaced.
#[tokio::test]
async fn a_renewal_that_comes_first_does_not_survive_the_replacement() {
    let stage = Stage::new();
    let (id, _) = granted(&stage).await;
    open(&stage, ReplaceTerms::default()).await;
    assert_eq!(stage.send(message(&new_key())).await.status, 202);
    let old = user(&stage).certificates[0].clone();
    let caller = Caller { user: id, certificate: Some((old.serial, old.not_after)) };
    let renewal = json!({"csr": csr(NAME, &new_key(), &[])}).to_string();
    let renewed = stage.registry.renew(renewal.as_bytes(), None, Some(&caller), &origin(None)).await;
    assert_eq!(renewed.status, 201);
    stage.registry.grant(pending(&stage).await[0].id, GrantTerms::default(), Actor::System).await.unwrap();
    let good: Vec<_> = user(&stage).certificates.iter().filter(|it| it.revoked_at.is_none()).cloned().collect();
    assert_eq!((good.len(), good[0].replaces.clone()), (1, None));
    assert_ne!(Some(&good[0].serial), renewed.serial.as_ref());
    stage.registry.confirm(id, renewed.serial.clone().unwrap()).await.unwrap();
    assert_eq!(user(&stage).certificates.iter().filter(|it| it.revoked_at.is_none()).count(), 1);
    let again = stage.registry.renew(renewal.as_bytes(), None, Some(&caller), &origin(None)).await;
    assert_eq!(again.error, Some("revoked"));
    let put = Change::DeleteUser { id, expected: Expected::Any };
    stage.directory.commit(put.into(), &Actor::System).unwrap();
}

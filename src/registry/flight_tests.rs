//! Many decisions at once on a disk that takes its time: they share its commits, and come out as if one had followed the other.

use serde_json::json;

use super::rules::{grant, rule};
use super::*;
use crate::config::{RuleAction, RuleGrant};

const SLOW: Duration = Duration::from_millis(10);

fn stage(settings: &Settings) -> Stage {
    let rate = RateLimit { burst: 10_000, every: Duration::from_millis(1) };
    Stage::on(FaultyStore::slow(SLOW), Settings { rate, ..settings.clone() })
}

/// Sends all of them at once. What each was answered, in their order.
async fn at_once(stage: &Stage, messages: Vec<Value>) -> Vec<Answer> {
    let tasks: Vec<_> = messages
        .into_iter()
        .map(|message| {
            let registry = stage.registry.clone();
            tokio::spawn(async move { registry.register(message.to_string().as_bytes(), None, &origin(None)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn meter(number: usize) -> Value {
    json!({"username": format!("meter-{number}"), "password": format!("a password of its own {number}")})
}

fn of_status(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn decisions_about_different_names_share_a_commit() {
    let stage = stage(&Settings::default());
    stage.unlock().await;
    let before = stage.store.commits();
    let answers = at_once(&stage, (0..48).map(meter).collect()).await;
    assert_eq!(of_status(&answers, 202), 48);
    let commits = stage.store.commits() - before;
    assert!(commits < 48, "{commits} commits for 48 requests");

    let before = stage.store.commits();
    let grants: Vec<_> = stage
        .registry
        .list(None)
        .await
        .unwrap()
        .into_iter()
        .map(|request| {
            let registry = stage.registry.clone();
            tokio::spawn(async move { registry.grant(request.id, Stage::terms(), Actor::System).await.map(|_| ()) })
        })
        .collect();
    for grant in grants {
        grant.await.unwrap().unwrap();
    }
    let commits = stage.store.commits() - before;
    assert!(commits < 48, "{commits} commits for 48 grants");
    let answers = at_once(&stage, (0..48).map(meter).collect()).await;
    assert_eq!(of_status(&answers, 201), 48);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_asks_for_one_name_or_with_one_key_at_once_is_decided_one_after_the_other() {
    let stage = stage(&Settings::default());
    stage.unlock().await;
    let rivals = (0..16).map(|number| json!({"username": "meter-1", "password": format!("password number {number}")}));
    let answers = at_once(&stage, rivals.collect()).await;
    assert_eq!((of_status(&answers, 202), of_status(&answers, 409)), (1, 15));
    let key = new_key();
    let named = |name: String| json!({"username": name, "csr": csr(&name, &key, &[])});
    let answers = at_once(&stage, (0..16).map(|number| named(format!("press-{number}"))).collect()).await;
    assert_eq!(of_status(&answers, 202), 1);
    assert_eq!(answers.iter().filter(|answer| answer.error == Some("key_in_use")).count(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_being_recorded_counts_towards_every_bound() {
    let stage = stage(&Settings { max_pending_per_source: 5, ..Settings::default() });
    stage.registry.unlock(UnlockTerms { count: Some(3), ..UnlockTerms::default() }, Actor::System).await.unwrap();
    let answers = at_once(&stage, (0..16).map(meter).collect()).await;
    assert_eq!((of_status(&answers, 202), of_status(&answers, 423)), (3, 13));
    stage.unlock().await;
    let answers = at_once(&stage, (16..32).map(meter).collect()).await;
    assert_eq!((of_status(&answers, 202), of_status(&answers, 429)), (2, 14));
    assert_eq!(stage.registry.status().await.unwrap().pending, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_nonce_shown_by_many_at_once_is_good_for_one_of_them() {
    let stage = stage(&Settings { require_nonce: true, ..Settings::default() });
    stage.unlock().await;
    let nonce = stage.registry.challenge(b"", None, &origin(None)).nonce.unwrap();
    let clone = |number: usize| {
        let name = format!("press-{number}");
        json!({"username": name, "csr": csr(&name, &new_key(), &[&nonce])})
    };
    let answers = at_once(&stage, (0..12).map(clone).collect()).await;
    assert_eq!(of_status(&answers, 202), 1);
    assert_eq!(answers.iter().filter(|answer| answer.error == Some("nonce_spent")).count(), 11);
}

/// The user is in the directory before the request says so: a poll in between must not take the request for one whose user is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_poll_during_the_grant_is_answered_after_it() {
    let stage = stage(&Settings::default());
    for number in 0..4 {
        stage.unlock().await;
        assert_eq!(stage.send(meter(number)).await.status, 202);
        let id = stage.registry.list(Some(StateFilter::Pending)).await.unwrap()[0].id;
        let registry = stage.registry.clone();
        let grant = tokio::spawn(async move { registry.grant(id, Stage::terms(), Actor::System).await.map(|_| ()) });
        // Some come before the grant, some while it is written, some after it.
        for _ in 0..8 {
            tokio::time::sleep(SLOW / 4).await;
            let answers = at_once(&stage, vec![meter(number); 4]).await;
            assert!(answers.iter().all(|answer| matches!(answer.status, 201 | 202)), "{answers:?}");
        }
        grant.await.unwrap().unwrap();
        assert_eq!(stage.send(meter(number)).await.status, 201);
        let shown = stage.registry.show(id).await.unwrap();
        assert!(matches!(shown.state, State::Granted { .. }), "{shown:?}");
    }
    assert_eq!(stage.registry.list(None).await.unwrap().len(), 4, "no request beside the granted ones");
}

/// What a rule is granting counts towards its limit before it is made, and is given back when it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rule_makes_no_more_users_than_it_may_however_many_ask_at_once() {
    let grant = RuleGrant { while_locked: true, limit: 3, ..grant() };
    let rule = rule("line3", RuleAction::Grant(grant));
    let stage = stage(&Settings { rules: vec![rule], ..Settings::default() });
    stage.store.fail_at(0, Fault::Refused);
    assert_eq!(stage.send(meter(0)).await.status, 500);
    let answers = at_once(&stage, (0..16).map(meter).collect()).await;
    assert_eq!((of_status(&answers, 201), of_status(&answers, 423)), (3, 13));
    stage.unlock().await;
    let answers = at_once(&stage, (0..16).map(meter).collect()).await;
    assert_eq!((of_status(&answers, 201), of_status(&answers, 202)), (3, 13), "the rest is for a person");
    assert_eq!(stage.directory.policy().users().count(), 3);
    stage.registry.inner().state.lock().core.check();
}

#[tokio::test]
async fn what_could_not_be_written_is_given_back() {
    let stage = stage(&Settings { require_nonce: true, ..Settings::default() });
    stage.registry.unlock(UnlockTerms { count: Some(1), ..UnlockTerms::default() }, Actor::System).await.unwrap();
    let nonce = stage.registry.challenge(b"", None, &origin(None)).nonce.unwrap();
    let message = json!({"username": "press-1", "csr": csr("press-1", &new_key(), &[&nonce])});
    stage.store.fail_at(0, Fault::Refused);
    assert_eq!(stage.send(message.clone()).await.status, 500);
    assert_eq!(stage.registry.status().await.unwrap().remaining, Some(1));
    assert_eq!(stage.send(message).await.status, 202, "the name, the key, the nonce and the place");
    assert_eq!(stage.registry.status().await.unwrap().remaining, Some(0));
}

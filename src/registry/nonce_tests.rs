//! `challenge` and `registry.require_nonce`: what is replayed, relayed, cloned or drawn elsewhere makes no request.

use serde_json::json;

use super::*;

fn stage() -> Stage {
    Stage::with(Settings {
        require_nonce: true,
        rate: RateLimit { burst: 10_000, every: Duration::from_millis(1) },
        ..Settings::default()
    })
}

fn over(connection: u64) -> Origin {
    Origin { binding: Binding::Connection(connection), ..origin(None) }
}

fn nonce(stage: &Stage, origin: &Origin) -> String {
    let answer = stage.registry.challenge(b"", None, origin);
    assert_eq!((answer.status, answer.state), (200, "ok"));
    assert_eq!(answer.expires_at, stage.clock.timestamp().checked_add(NONCE_LIFE).ok());
    answer.nonce.unwrap()
}

async fn register(stage: &Stage, message: &Value, origin: &Origin) -> (u16, Option<&'static str>) {
    let answer = stage.registry.register(message.to_string().as_bytes(), None, origin).await;
    (answer.status, answer.error)
}

fn message(name: &str, key: &rcgen::KeyPair, challenges: &[&str]) -> Value {
    json!({"username": name, "csr": csr(name, key, challenges)})
}

#[tokio::test]
async fn a_request_needs_a_nonce_and_a_poll_needs_none() {
    let stage = stage();
    let key = new_key();
    let without = message("press-1", &key, &[]);
    assert_eq!(register(&stage, &without, &over(1)).await, (423, Some("locked")), "a shut door tells nothing else");
    stage.unlock().await;
    assert_eq!(register(&stage, &without, &over(1)).await, (422, Some("nonce_missing")));
    assert_eq!(
        register(&stage, &json!({"username": "meter-1", "password": "a good password"}), &over(1)).await,
        (422, Some("nonce_missing")),
        "a password holds none"
    );
    let nonce = nonce(&stage, &over(1));
    // DER puts the shorter one first.
    for other in ["another", &format!("{nonce}x")] {
        let two = message("press-1", &key, &[&nonce, other]);
        assert_eq!(register(&stage, &two, &over(1)).await, (422, Some("nonce_missing")), "of two, neither counts");
    }
    let good = message("press-1", &key, &[&nonce]);
    assert_eq!(register(&stage, &good, &over(1)).await, (202, None));
    stage.clock.advance(NONCE_LIFE * 2);
    assert_eq!(register(&stage, &good, &over(1)).await, (202, None), "the same message is a poll now");
    assert_eq!(register(&stage, &without, &over(2)).await, (202, None), "and so is the same proof without the nonce");
}

#[tokio::test]
async fn a_replayed_request_is_refused() {
    let stage = stage();
    stage.unlock().await;
    let message = message("press-1", &new_key(), &[&nonce(&stage, &over(1))]);
    assert_eq!(register(&stage, &message, &over(1)).await, (202, None));
    let id = stage.only().await;
    stage.registry.grant(id, Stage::terms(), Actor::System).await.unwrap();
    let user = stage.directory.policy().user_named(&"press-1".parse().unwrap()).unwrap().id;
    stage.directory.delete_user(user, Expected::Any, &Actor::System).unwrap();
    // Heard by somebody while it was sent, and sent again when its name is free.
    assert_eq!(register(&stage, &message, &over(1)).await, (422, Some("nonce_spent")));
    stage.clock.advance(NONCE_LIFE);
    stage.unlock().await;
    assert_eq!(register(&stage, &message, &over(1)).await, (422, Some("nonce_expired")));
}

#[tokio::test]
async fn a_relayed_request_and_a_nonce_of_another_connection_are_refused() {
    let stage = stage();
    stage.unlock().await;
    // Drawn by the device on its connection 1; the one in the middle shows the message first, on connection 2.
    let message = message("press-1", &new_key(), &[&nonce(&stage, &over(1))]);
    assert_eq!(register(&stage, &message, &over(2)).await, (422, Some("nonce_foreign")));
    let by_http =
        Origin { binding: Binding::Source("192.0.2.1".parse::<std::net::IpAddr>().unwrap().into()), ..over(1) };
    assert_eq!(register(&stage, &message, &by_http).await, (422, Some("nonce_foreign")), "nor at another door");
    assert_eq!(register(&stage, &message, &over(1)).await, (202, None), "nothing was spent by that");
    let message = super::nonce::message("press-2", &new_key(), &[&nonce(&stage, &by_http)]);
    let elsewhere =
        Origin { binding: Binding::Source("198.51.100.1".parse::<std::net::IpAddr>().unwrap().into()), ..over(1) };
    assert_eq!(register(&stage, &message, &elsewhere).await, (422, Some("nonce_foreign")));
    assert_eq!(register(&stage, &message, &by_http).await, (202, None));
}

#[tokio::test]
async fn a_clone_with_the_same_nonce_is_refused() {
    let stage = stage();
    stage.unlock().await;
    let nonce = nonce(&stage, &over(1));
    assert_eq!(register(&stage, &message("press-1", &new_key(), &[&nonce]), &over(1)).await, (202, None));
    assert_eq!(
        register(&stage, &message("press-2", &new_key(), &[&nonce]), &over(1)).await,
        (422, Some("nonce_spent"))
    );
}

#[tokio::test]
async fn a_nonce_does_not_survive_a_restart_and_is_not_spent_by_what_the_disk_refuses() {
    let mut stage = stage();
    stage.unlock().await;
    let old = nonce(&stage, &over(1));
    stage.restart();
    stage.unlock().await;
    assert_eq!(
        register(&stage, &message("press-1", &new_key(), &[&old]), &over(1)).await,
        (422, Some("nonce_foreign"))
    );
    let message = message("press-1", &new_key(), &[&nonce(&stage, &over(1))]);
    stage.store.fail_at(0, Fault::Refused);
    assert_eq!(register(&stage, &message, &over(1)).await.0, 500);
    assert_eq!(register(&stage, &message, &over(1)).await, (202, None));
}

#[tokio::test]
async fn drawing_a_nonce_counts_as_a_message_and_echoes_the_id() {
    let stage =
        Stage::with(Settings { rate: RateLimit { burst: 1, every: Duration::from_secs(3) }, ..Settings::default() });
    let answer = stage.registry.challenge(br#"{"id": 5}"#, None, &over(1));
    assert_eq!((answer.status, answer.id), (200, Some(json!(5))));
    assert_eq!(stage.registry.challenge(b"", None, &over(1)).error, Some("rate"));
}

#[tokio::test]
async fn a_key_of_a_user_that_no_request_made_is_refused_too() {
    let stage = Stage::new();
    stage.unlock().await;
    let key = new_key();
    let fingerprint = VerifiedCsr::from_pem(csr("press-1", &key, &[]).as_bytes()).unwrap().key().fingerprint();
    let mut user = NewUser::named("pinned".parse().unwrap());
    user.certificates.push(crate::access::CertificateRecord {
        serial: "01".into(),
        fingerprint: "aa".into(),
        key: Some(fingerprint.clone()),
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::MAX,
        revoked_at: Some(Timestamp::UNIX_EPOCH),
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    });
    let certificates = user.certificates.clone();
    stage.directory.create_user(user, &Actor::System).unwrap();
    let refused = stage.send(message("press-1", &key, &[])).await;
    assert_eq!((refused.status, refused.error), (409, Some("key_in_use")), "though it was revoked there");

    // Nor can it come to two users in another way.
    let mut second = NewUser::named("second".parse().unwrap());
    second.certificates = certificates;
    let error = stage.directory.create_user(second, &Actor::System).unwrap_err();
    assert_eq!(
        error.to_string(),
        "user `second`: the public key of a certificate belongs to another user: make a new key"
    );
}

#[tokio::test]
async fn a_renamed_user_keeps_its_key() {
    let stage = Stage::new();
    stage.unlock().await;
    let key = new_key();
    assert_eq!(stage.send(message("press-1", &key, &[])).await.status, 202);
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    let user = stage.directory.policy().user_named(&"press-1".parse().unwrap()).unwrap().id;
    let rename = |user: &mut crate::access::User| user.username = "press-9".parse().unwrap();
    stage.directory.update_user(user, Expected::Any, rename, &Actor::System).unwrap();
    for name in ["press-1", "press-2"] {
        assert_eq!(stage.send(message(name, &key, &[])).await.error, Some("key_in_use"), "{name}");
    }
}

#[tokio::test]
async fn a_pending_request_whose_key_was_taken_meanwhile_cannot_be_granted() {
    let stage = Stage::new();
    stage.unlock().await;
    let key = new_key();
    assert_eq!(stage.send(message("press-1", &key, &[])).await.status, 202);
    let fingerprint = VerifiedCsr::from_pem(csr("press-1", &key, &[]).as_bytes()).unwrap().key().fingerprint();
    let mut user = NewUser::named("pinned".parse().unwrap());
    user.certificates.push(crate::access::CertificateRecord {
        serial: "01".into(),
        fingerprint: "aa".into(),
        key: Some(fingerprint),
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::MAX,
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    });
    stage.directory.create_user(user, &Actor::System).unwrap();
    let error = stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Conflict, "{error}");
}

//! Users of another broker: their first login puts their password on record as argon2id, and nobody notices.

use std::sync::Arc;

use portcullis::{
    access::{User, UserId},
    directory::Document,
    mqtt::{Connect, ProtocolVersion, QoS, ReasonCode},
};

use crate::{
    client::{Client, connect},
    harness::{Harness, allow, hash},
};

/// `mosquitto_passwd` of the password below, as a PHC string.
const OLD: &str = "$pbkdf2-sha512$i=101$wqJyjpI/mw7j1p3y$LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg";
const PASSWORD: &[u8] = b"correct horse";

fn as_ada(client_id: &str, password: &'static [u8]) -> Connect {
    let mut connect = connect(ProtocolVersion::V5, client_id);
    connect.username = Some("ada".into());
    connect.password = Some(password.into());
    connect
}

async fn login(harness: &Harness, client_id: &str, password: &'static [u8]) -> (Client, ReasonCode) {
    let mut client = Client::open(harness.plain(), ProtocolVersion::V5).await;
    let answer = client.connect(&as_ada(client_id, password)).await;
    (client, answer.reason_code)
}

fn now(harness: &Harness, user: UserId) -> Arc<User> {
    Arc::clone(harness.users().policy().user(user).unwrap())
}

/// Until the commit that nobody waits for.
async fn rehashed(harness: &Harness, user: UserId) -> Arc<User> {
    loop {
        let user = now(harness, user);
        if user.password_hash.as_deref().is_some_and(|hash| hash.starts_with("$argon2id$")) {
            return user;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_first_login_replaces_the_hash_and_ends_no_session() {
    let harness = Harness::start("").await;
    let text = format!(
        "[[user]]\nusername = \"ada\"\npassword_hash = \"{OLD}\"\n\
         permissions = [{{ context = \"mqtt\", operation = \"read_write\", resource = \"a/#\" }}]\n"
    );
    let document: Document = toml::from_str(&text).unwrap();
    harness.users().apply(document, &portcullis::directory::Actor::System).unwrap();
    let user = harness.users().policy().user_named(&"ada".parse().unwrap()).cloned().unwrap();
    assert_eq!(user.pbkdf2_iterations(), Some(101));

    // Wrong passwords and refused users change nothing.
    assert_eq!(login(&harness, "guess", b"wrong").await.1, ReasonCode::BadUserNameOrPassword);
    harness.change(user.id, |user| user.enabled = false);
    assert_eq!(login(&harness, "off", PASSWORD).await.1, ReasonCode::NotAuthorized);
    harness.change(user.id, |user| user.enabled = true);
    assert_eq!(now(&harness, user.id).password_hash.as_deref(), Some(OLD));

    let before = now(&harness, user.id);
    let (mut first, code) = login(&harness, "first", PASSWORD).await;
    assert_eq!(code, ReasonCode::Success);
    first.subscribe("a/b", QoS::AtLeastOnce).await;
    let after = rehashed(&harness, user.id).await;
    assert_eq!(after.version, before.version);
    assert_eq!(harness.users().policy().costliest_pbkdf2(), 0);

    // The session that has proven the old hash lives on, and the password is the same.
    first.ping().await;
    let (mut second, code) = login(&harness, "second", PASSWORD).await;
    assert_eq!(code, ReasonCode::Success);
    second.publish("a/b", "still here", QoS::AtLeastOnce).await;
    first.expect_message("a/b", "still here").await;
    assert_eq!(login(&harness, "guess", b"wrong").await.1, ReasonCode::BadUserNameOrPassword);

    // A changed password ends both: the one that proved the old hash too.
    harness.change(user.id, |user| user.password_hash = Some(hash("another password")));
    first.expect_ended(ReasonCode::NotAuthorized).await;
    second.expect_ended(ReasonCode::NotAuthorized).await;
    assert_eq!(login(&harness, "third", PASSWORD).await.1, ReasonCode::BadUserNameOrPassword);
}

/// Many at once with one old hash: all come in, one hash takes its place, all stay.
#[tokio::test]
async fn a_fleet_that_shares_an_imported_user_comes_in_at_once_and_stays() {
    let harness = Harness::start("").await;
    let user = harness.user_with("ada", |user| {
        user.password_hash = Some(OLD.to_owned());
        user.permissions = vec![allow("#")];
    });
    let logins = (0..30).map(|number| {
        let address = harness.plain();
        tokio::spawn(async move {
            let mut client = Client::open(address, ProtocolVersion::V5).await;
            let answer = client.connect(&as_ada(&format!("fleet-{number}"), PASSWORD)).await;
            (client, answer.reason_code)
        })
    });
    let mut fleet = Vec::new();
    for login in logins.collect::<Vec<_>>() {
        let (client, code) = login.await.unwrap();
        assert_eq!(code, ReasonCode::Success);
        fleet.push(client);
    }
    rehashed(&harness, user).await;
    for client in &mut fleet {
        client.ping().await;
    }
}

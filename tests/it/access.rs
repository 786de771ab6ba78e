//! The access model over the wire: what each user may do, and what a refused one sees.

use bytes::Bytes;
use jiff::Timestamp;
use portcullis::{
    access::{Auth, Permission},
    directory::NewUser,
    mqtt::{Connect, Packet, ProtocolVersion, Publish, ReasonCode},
};
use tempfile::TempDir;
use tokio::time::{Duration, sleep};

use crate::{
    client::{BOTH, Client, Q0, Q1, Q2, V5, V311, connect, options, publish},
    harness::{GUESTS, Harness, TESTER, allow, allow_read, allow_write, as_user, deny, deny_read, deny_write, hash},
};

fn with_password(version: ProtocolVersion, user: &str, password: &'static str) -> Connect {
    Connect { password: Some(Bytes::from_static(password.as_bytes())), ..as_user(version, "c", user) }
}

/// A wrong password and an unknown user: 0x86 and 4, the same to the letter.
#[tokio::test]
async fn a_wrong_proof_and_an_unknown_user_look_the_same() {
    let harness = Harness::start("").await;
    harness.user_with("certified", |user| {
        user.auth = Auth::Certificate;
        user.password_hash = None;
    });
    for version in BOTH {
        let wrong = harness.refused(&with_password(version, TESTER, "wrong password")).await;
        assert_eq!(wrong.reason_code, ReasonCode::BadUserNameOrPassword);
        for user in ["nobody", "certified", "not a user name at all!", ""] {
            assert_eq!(harness.refused(&with_password(version, user, "wrong password")).await, wrong, "{user}");
        }
        let mut without = as_user(version, "c", TESTER);
        without.password = None;
        assert_eq!(harness.refused(&without).await, wrong);
    }
}

/// Identity proven, but disabled, expired or with the wrong client identifier: 0x87 and 5. A wrong proof does not learn
/// of any of that.
#[tokio::test]
async fn a_proven_user_who_may_not_connect_is_told_so() {
    let harness = Harness::start("").await;
    harness.user_with("disabled", |user| user.enabled = false);
    harness.user_with("expired", |user| user.expires_at = Some(Timestamp::now()));
    harness.user_with("tied", |user| user.client_id = Some("line-*".to_owned()));
    for version in BOTH {
        for user in ["disabled", "expired", "tied"] {
            let refused = harness.refused(&as_user(version, "c", user)).await;
            assert_eq!(refused.reason_code, ReasonCode::NotAuthorized, "{user}");
            let wrong = harness.refused(&with_password(version, user, "wrong password")).await;
            assert_eq!(wrong.reason_code, ReasonCode::BadUserNameOrPassword, "{user}");
        }
        harness.client_of("tied", version, "line-7").await.expect_silence().await;
    }
}

/// Default deny: a new user may do nothing.
#[tokio::test]
async fn a_user_without_rules_may_do_nothing() {
    let harness = Harness::start("").await;
    harness.user("nothing", Vec::new());
    let mut client = harness.client_of("nothing", V5, "c").await;
    for filter in ["a", "#", "+", "a/#", "$SYS/#"] {
        assert_eq!(client.try_subscribe(filter, Q0).await, ReasonCode::NotAuthorized, "{filter}");
    }
    for qos in [Q1, Q2] {
        assert_eq!(client.try_publish("a", "x", qos).await, ReasonCode::NotAuthorized);
    }
    client.expect_silence().await;
}

/// The rows SUBSCRIBE and PUBLISH of the table, version 5.
#[tokio::test]
async fn what_a_refused_client_of_version_5_sees() {
    let harness = Harness::start("").await;
    harness.user("half", vec![allow("mine/#")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    let mut client = harness.client_of("half", V5, "c").await;
    let codes = client
        .subscribe_with(&[
            ("mine/a", options(Q1)),
            ("theirs/a", options(Q1)),
            ("mine/#", options(Q2)),
            ("#", options(Q0)),
        ])
        .await;
    let refused = ReasonCode::NotAuthorized;
    assert_eq!(codes, [ReasonCode::GrantedQoS1, refused, ReasonCode::GrantedQoS2, refused]);
    for qos in [Q1, Q2] {
        assert_eq!(client.try_publish("theirs/a", "x", qos).await, refused);
    }
    client.publish("theirs/a", "x", Q0).await; // dropped and counted
    client.expect_silence().await;
    // After a refused QoS 2 message, its identifier is free.
    let message = Publish { packet_id: Some(crate::client::id(9)), ..publish("theirs/a", "x", Q2) };
    for _ in 0..2 {
        assert_eq!(client.publish_packet(message.clone()).await, refused);
    }
    client.publish("mine/a", "x", Q1).await;
    client.expect_message("mine/a", "x").await;
    watcher.expect_message("mine/a", "x").await;
    watcher.expect_silence().await;
}

/// The same for 3.1.1, with `access.denied_publish = "disconnect"`, the default.
#[tokio::test]
async fn what_a_refused_client_of_3_1_1_sees() {
    let harness = Harness::start("").await;
    harness.user("half", vec![allow("mine/#")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    let mut client = harness.client_of("half", V311, "c").await;
    let codes = client.subscribe_with(&[("mine/a", options(Q1)), ("theirs/a", options(Q1))]).await;
    assert_eq!(codes, [ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError]);
    for qos in [Q0, Q1, Q2] {
        let mut client = harness.client_of("half", V311, "c").await;
        let packet_id = (qos != Q0).then(|| crate::client::id(1));
        client.send(Packet::Publish(Publish { packet_id, ..publish("theirs/a", "x", qos) })).await;
        client.expect_closed().await;
    }
    watcher.expect_silence().await;
}

/// `access.denied_publish = "acknowledge"`: acked and dropped; version 5 gets its code all the same.
#[tokio::test]
async fn a_denied_publish_of_3_1_1_may_be_acknowledged() {
    let harness = Harness::start("[access]\ndenied_publish = \"acknowledge\"").await;
    harness.user("half", vec![allow("mine/#")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    let mut client = harness.client_of("half", V311, "c").await;
    for qos in [Q0, Q1, Q2] {
        client.publish("theirs/a", "x", qos).await;
    }
    client.expect_silence().await;
    let mut new = harness.client_of("half", V5, "c5").await;
    assert_eq!(new.try_publish("theirs/a", "x", Q1).await, ReasonCode::NotAuthorized);
    watcher.expect_silence().await;
}

/// A matching deny beats every allow, in any order, of roles and of the user's own.
#[tokio::test]
async fn deny_beats_allow() {
    let harness = Harness::start("").await;
    harness.role("everything", vec![allow("#")]);
    harness.role("nothing-secret", vec![deny("secret/#")]);
    harness.user_with("both", |user| {
        user.roles = vec!["nothing-secret".parse().unwrap(), "everything".parse().unwrap()];
        user.permissions = vec![allow("secret/a"), deny_write("plain/+/locked")];
    });
    let mut client = harness.client_of("both", V5, "c").await;
    assert_eq!(client.try_publish("secret/a", "x", Q1).await, ReasonCode::NotAuthorized);
    assert_eq!(client.try_publish("secret", "x", Q1).await, ReasonCode::NotAuthorized);
    assert_eq!(client.try_subscribe("secret/a", Q1).await, ReasonCode::NotAuthorized);
    assert_eq!(client.try_subscribe("secret/+/x", Q1).await, ReasonCode::NotAuthorized);
    assert_eq!(client.try_publish("plain/1/locked", "x", Q1).await, ReasonCode::NotAuthorized);
    client.publish("plain/1/open", "x", Q1).await;
    // A deny inside a covered filter: granted, and the denied topics are withheld.
    client.subscribe("#", Q1).await;
    let mut writer = harness.client(V5, "w").await;
    for topic in ["secret", "secret/a", "plain/1/locked", "secrets"] {
        writer.publish(topic, "x", Q1).await;
    }
    client.expect_message("plain/1/locked", "x").await; // reading is allowed
    client.expect_message("secrets", "x").await;
    client.expect_silence().await;
}

/// `${username}` and `${client_id}`
#[tokio::test]
async fn placeholders_stand_for_one_level() {
    let harness = Harness::start("").await;
    harness.role("device", vec![allow("plant/${username}/#"), allow("by-client/${client_id}")]);
    for name in ["one", "two"] {
        harness.user_with(name, |user| {
            user.roles = vec!["device".parse().unwrap()];
            user.client_id = Some("${username}~*".to_owned());
        });
    }
    let mut one = harness.client_of("one", V5, "one~a").await;
    one.subscribe("plant/one/#", Q1).await;
    one.publish("plant/one/x", "mine", Q1).await;
    one.expect_message("plant/one/x", "mine").await;
    one.publish("by-client/one~a", "mine", Q1).await;
    for topic in ["plant/two/x", "plant/+one/x", "by-client/one~b", "by-client/two~a", "plant"] {
        let Ok(_) = portcullis::mqtt::TopicName::try_from(topic) else { continue };
        assert_eq!(one.try_publish(topic, "x", Q1).await, ReasonCode::NotAuthorized, "{topic}");
    }
    for filter in ["plant/two/#", "plant/+/x", "plant/#", "+/one/x"] {
        assert_eq!(one.try_subscribe(filter, Q1).await, ReasonCode::NotAuthorized, "{filter}");
    }
    assert_eq!(harness.refused(&as_user(V5, "two~a", "one")).await.reason_code, ReasonCode::NotAuthorized);
    // An identifier with a slash is one literal level, which no topic has: it grants nothing.
    let mut odd = harness.client_of("one", V5, "one~a/b").await;
    for topic in ["by-client/one~a/b", "by-client/one~a"] {
        assert_eq!(odd.try_publish(topic, "x", Q1).await, ReasonCode::NotAuthorized);
    }
}

/// `access.partial_subscription = "refuse"`, the default, and `"filter"`.
#[tokio::test]
async fn a_partly_permitted_subscription() {
    for filter in [false, true] {
        let config = if filter { "[access]\npartial_subscription = \"filter\"" } else { "" };
        let harness = Harness::start(config).await;
        harness.user("part", vec![allow_read("mine/#"), allow_read("shared/+"), deny_read("mine/secret")]);
        for version in BOTH {
            let mut writer = harness.client(V5, "w").await;
            writer.retain("mine/kept", "kept", Q1).await;
            writer.retain("theirs/kept", "kept", Q1).await;
            let mut client = harness.client_of("part", version, "c").await;
            let codes =
                client.subscribe_with(&[("#", options(Q1)), ("+/+", options(Q1)), ("theirs/#", options(Q1))]).await;
            let refused = if version == V5 { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
            assert_eq!(codes[2], refused, "nothing in it may be read");
            if !filter {
                assert_eq!(codes[..2], [refused, refused]);
                continue;
            }
            assert_eq!(codes[..2], [ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS1]);
            for _ in 0..2 {
                assert!(client.expect_message("mine/kept", "kept").await.retain); // one for each filter
            }
            for topic in ["mine/a", "mine/secret", "theirs/a", "shared/a", "shared/a/b", "mine/b/c"] {
                writer.publish(topic, "x", Q1).await;
            }
            for topic in ["mine/a", "shared/a", "mine/b/c"] {
                client.expect_message(topic, "x").await;
            }
            client.expect_silence().await;
        }
    }
}

/// `max_qos` and `retain`: refused on PUBLISH, downgraded on SUBSCRIBE; the most generous allow wins.
#[tokio::test]
async fn conditions_of_a_permission() {
    let harness = Harness::start("").await;
    let limited = |resource: &str, max_qos, retain| Permission { max_qos, retain, ..allow(resource) };
    harness.user(
        "limited",
        vec![limited("a/#", Some(0), Some(false)), limited("a/b/#", Some(1), None), limited("free", None, None)],
    );
    let mut client = harness.client_of("limited", V5, "c").await;
    assert_eq!(client.try_subscribe("a/#", Q2).await, ReasonCode::Success);
    assert_eq!(client.try_subscribe("a/b/c", Q2).await, ReasonCode::GrantedQoS1);
    assert_eq!(client.try_subscribe("free", Q2).await, ReasonCode::GrantedQoS2);
    assert_eq!(client.try_publish("a/x", "x", Q1).await, ReasonCode::NotAuthorized);
    assert_eq!(client.try_publish("a/b/c", "x", Q2).await, ReasonCode::NotAuthorized);
    client.publish("a/x", "x", Q0).await;
    assert_eq!(client.expect_message("a/x", "x").await.qos, Q0);
    client.publish("a/b/c", "x", Q1).await;
    assert_eq!(client.expect_message("a/b/c", "x").await.qos, Q1);
    let retained = |topic, qos| Publish { retain: true, ..publish(topic, "kept", qos) };
    client.publish_packet(retained("a/x", Q0)).await;
    client.expect_silence().await;
    assert!(!client.publish_packet(retained("a/b/x", Q1)).await.is_error());
    client.expect_message("a/b/x", "kept").await;
    // Clearing needs the same right as setting.
    harness.client(V5, "w").await.retain("a/x", "another's", Q1).await;
    client.expect_message("a/x", "another's").await;
    client.publish_packet(Publish { retain: true, ..publish("a/x", "", Q0) }).await;
    let mut late = harness.client(V5, "late").await;
    late.subscribe("a/+", Q1).await;
    late.expect_message("a/x", "another's").await;
}

/// The publish prefix stands before every topic that is published, Will included, and `$` topics are left alone.
#[tokio::test]
async fn the_publish_prefix() {
    let harness = Harness::start("").await;
    harness.user_with("tenant", |user| {
        user.publish_prefix = Some("tenants/7/".to_owned());
        user.permissions = vec![allow_write("tenants/7/#"), allow_read("#")];
    });
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q1).await;
    for version in BOTH {
        let mut connect = as_user(version, "c", "tenant");
        connect.will = Some(crate::client::will("status", "gone", Q1));
        let mut client = harness.login(&connect).await;
        client.publish("a/b", "x", Q1).await;
        watcher.expect_message("tenants/7/a/b", "x").await;
        client.subscribe("a/b", Q1).await;
        client.expect_silence().await; // subscriptions have no prefix
        client.cut();
        watcher.expect_message("tenants/7/status", "gone").await;
    }
    let mut client = harness.client_of("tenant", V5, "c").await;
    let long = "x".repeat(65_535 - 5);
    assert_eq!(client.try_publish(&long, "x", Q1).await, ReasonCode::TopicNameInvalid);
    watcher.expect_silence().await;
}

/// `access.orphaned_retained`: withhold, keep, drop.
#[tokio::test]
async fn a_retained_message_whose_publisher_lost_the_right() {
    for setting in ["withhold", "keep", "drop"] {
        let harness = Harness::start(&format!("[access]\norphaned_retained = \"{setting}\"")).await;
        let publisher = harness.user("publisher", vec![allow("r/#")]);
        harness.client_of("publisher", V5, "p").await.retain("r/1", "kept", Q1).await;
        harness.client(V5, "w").await.retain("r/2", "another's", Q1).await;
        let read = async |client_id: &str| {
            let mut reader = harness.client(V5, client_id).await;
            reader.subscribe("r/#", Q1).await;
            let mut found = Vec::new();
            for _ in 0..2 {
                reader.send(Packet::PingReq).await;
                loop {
                    match reader.recv().await {
                        Packet::PingResp => break,
                        Packet::Publish(publish) => {
                            reader.acknowledge(&publish).await;
                            found.push(crate::client::topic_of(&publish).to_owned());
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
            found.sort_unstable();
            found
        };
        let everything = ["r/1", "r/2"].as_slice();
        assert_eq!(read("before").await, everything);
        harness.permit(publisher, vec![allow("else/#")]);
        let found = read("revoked").await;
        assert_eq!(found, if setting == "keep" { everything } else { &["r/2"] }, "{setting}");
        harness.permit(publisher, vec![allow("r/#")]);
        let found = read("restored").await;
        assert_eq!(found, if setting == "drop" { &["r/2"] } else { everything }, "{setting}");
        harness.delete(publisher);
        let found = read("deleted").await;
        assert_eq!(found, if setting == "keep" { everything } else { &["r/2"] }, "{setting}");
        // The embedder's subscriptions are no way around it.
        let subscription = harness.handle().subscribe("r/#".try_into().unwrap()).unwrap();
        harness.handle().publish("r/end".try_into().unwrap(), "end", Q1, false).unwrap();
        let mut found = Vec::new();
        loop {
            let message = subscription.next().await;
            if message.topic.as_str() == "r/end" {
                break;
            }
            found.push(message.topic.as_str().to_owned());
        }
        found.sort_unstable();
        assert_eq!(found, if setting == "keep" { everything } else { &["r/2"] }, "{setting}");
    }
}

/// A listener with `anonymous`: clients without credentials are that user; wrong credentials are still wrong.
#[tokio::test]
async fn an_anonymous_listener() {
    let rules = r#"permissions = [{ context = "mqtt", operation = "read_write", resource = "public/#" }]"#;
    let harness = Harness::start(&format!("{GUESTS}{rules}")).await;
    for version in BOTH {
        let mut guest = Client::open(harness.address("open"), version).await;
        assert_eq!(guest.connect(&connect(version, "g")).await.reason_code, ReasonCode::Success);
        guest.subscribe("public/#", Q1).await;
        guest.publish("public/a", "x", Q1).await;
        guest.expect_message("public/a", "x").await;
        assert!(guest.try_subscribe("private", Q1).await.is_error());
        // Known users log in there too.
        let mut known = Client::open(harness.address("open"), version).await;
        assert_eq!(known.connect(&as_user(version, "k", TESTER)).await.reason_code, ReasonCode::Success);
        let mut wrong = Client::open(harness.address("open"), version).await;
        let connack = wrong.connect(&with_password(version, TESTER, "wrong password")).await;
        assert_eq!(connack.reason_code, ReasonCode::BadUserNameOrPassword);
        // Nobody can log in as the guest.
        let mut named = Client::open(harness.address("open"), version).await;
        let connack = named.connect(&as_user(version, "n", "guest")).await;
        assert_eq!(connack.reason_code, ReasonCode::BadUserNameOrPassword);
        let mut bare = connect(version, "n");
        bare.username = Some("guest".into());
        let mut named = Client::open(harness.address("open"), version).await;
        assert_eq!(named.connect(&bare).await.reason_code, ReasonCode::BadUserNameOrPassword);
        assert_eq!(harness.refused(&connect(version, "g")).await.reason_code, ReasonCode::BadUserNameOrPassword);
    }
}

/// Users and roles of broker.toml, with a password file and a hash.
#[tokio::test]
async fn users_of_the_configuration() {
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("historian.password");
    std::fs::write(&secret, "a long enough password\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = format!(
        r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
[[role]]
name = "line"
permissions = [{{ context = "mqtt", operation = "readWrite", resource = "plant/${{username}}/#" }}]
[[user]]
username = "historian"
password_file = "historian.password"
permissions = [{{ context = "mqtt", operation = "read", resource = "plant/#" }}]
[[user]]
username = "press-4"
password_hash = "{}"
roles = ["line"]
"#,
        hash("a long enough password")
    );
    let harness = Harness::start_in(directory, &config).await;
    let mut historian = harness.login(&with_password(V5, "historian", "a long enough password")).await;
    historian.subscribe("plant/#", Q1).await;
    let mut press = harness.login(&with_password(V311, "press-4", "a long enough password")).await;
    press.publish("plant/press-4/speed", "7", Q1).await;
    historian.expect_message("plant/press-4/speed", "7").await;
    assert_eq!(historian.try_publish("plant/x", "x", Q1).await, ReasonCode::NotAuthorized);
    // The first administrator's password lies in its file, for the owner alone.
    let path = harness.path().join("data/initial-admin-password");
    let password = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut connect = as_user(V5, "a", "admin");
    connect.password = Some(Bytes::from(password.trim_end().to_owned()));
    harness.login(&connect).await.subscribe("#", Q0).await;
}

/// Time-boxed grants and identities end on their own, in the middle of a session.
#[tokio::test]
async fn what_is_time_boxed_ends_by_itself() {
    let harness = Harness::start("").await;
    let soon = Timestamp::now() + Duration::from_millis(1500);
    harness.user("boxed", vec![allow("open"), Permission { not_after: Some(soon), ..allow("boxed") }]);
    harness.user_with("temporary", |user: &mut NewUser| {
        user.expires_at = Some(soon);
        user.permissions = vec![allow("#")];
    });
    let mut boxed = harness.client_of("boxed", V5, "c").await;
    boxed.subscribe("boxed", Q1).await;
    boxed.subscribe("open", Q1).await;
    boxed.publish("boxed", "x", Q1).await;
    boxed.expect_message("boxed", "x").await;
    let mut temporary =
        [harness.client_of("temporary", V5, "t").await, harness.client_of("temporary", V311, "u").await];
    for client in &mut temporary {
        client.expect_ended(ReasonCode::NotAuthorized).await;
    }
    assert!(Timestamp::now() >= soon, "not before its time");
    sleep(Duration::from_millis(500)).await;
    let mut writer = harness.client(V5, "w").await;
    writer.publish("boxed", "too late", Q1).await;
    writer.publish("open", "still", Q1).await;
    boxed.expect_message("open", "still").await;
    assert_eq!(boxed.try_publish("boxed", "x", Q1).await, ReasonCode::NotAuthorized);
    let refused = harness.refused(&as_user(V5, "t", "temporary")).await;
    assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
}

/// Guessing is slowed down (0x89 and 3), without locking out who has proven itself from elsewhere.
#[tokio::test]
async fn guessing_is_slowed_down() {
    let harness = Harness::start("").await;
    harness.client(V5, "proven").await.disconnect().await;
    let mut last = ReasonCode::Success;
    for _ in 0..25 {
        last = harness.refused(&with_password(V5, "victim", "wrong password")).await.reason_code;
        if last == ReasonCode::ServerBusy {
            break;
        }
    }
    assert_eq!(last, ReasonCode::ServerBusy);
    // 3.1.1 has no word for it but "server unavailable".
    let refused = harness.refused(&with_password(V311, "victim", "wrong password")).await;
    assert_eq!(refused.reason_code, ReasonCode::ServerUnavailable);
    harness.client(V5, "proven").await.expect_silence().await;
}

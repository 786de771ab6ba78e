//! Who somebody pretends to be: forged certificates, odd names, and every path by which a disabled user might get in.

use std::sync::Arc;

use bytes::Bytes;
use portcullis::{
    access::{Auth, Permission, UserId},
    broker::NotPublished,
    mqtt::{ClientId, ConnAck, Connect, Packet, ProtocolVersion, Publish, ReasonCode, TopicName},
};
use rcgen::{DistinguishedName, DnType, DnValue};
use tokio::time::{Duration, sleep};

use crate::{
    certificates::{ANY_TLS, Identity, forge, issue_elsewhere, record, roots, tls_client},
    client::{BOTH, Client, Q0, Q1, Q2, Tls, V5, V311, connect, options, publish, will},
    harness::{Harness, TESTER, allow, allow_read, as_user, deny, hash},
};

const LISTENERS: &str = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
[[listener]]
name = "tls"
bind = "127.0.0.1:0"
tls = true
client_certificate = "optional"
"#;

fn trusting(harness: &Harness, identity: Option<Identity>) -> Arc<rustls::ClientConfig> {
    tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, identity)
}

/// A CONNECT over TLS on these terms: the CONNACK.
async fn present(harness: &Harness, config: &Arc<rustls::ClientConfig>, connect: &Connect) -> ConnAck {
    let tls = Tls::connect(harness.address("tls"), Arc::clone(config)).await.expect("the handshake succeeds");
    Client::over(tls, connect.version).connect(connect).await
}

fn subject(names: &[(DnType, DnValue)]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for (kind, value) in names {
        subject.push(kind.clone(), value.clone());
    }
    subject
}

fn text(value: &str) -> DnValue {
    DnValue::Utf8String(value.to_owned())
}

/// The same object identifier as CN's: rcgen keeps one value of each kind.
fn another_common_name() -> DnType {
    DnType::CustomDnType(vec![2, 5, 4, 3])
}

/// Whoever has the CA's key can sign whatever it likes. The chain is valid: the name, and what is on record, are not. All
/// of them get the same answer, a user that exists or not.
#[tokio::test]
async fn a_valid_chain_with_a_forged_subject_opens_nothing() {
    let harness = Harness::start_with_listeners(LISTENERS).await;
    let certs = harness.path().join("certs");
    let cn = |value: &str| (DnType::CommonName, text(value));
    let forged: Vec<(&str, DistinguishedName)> = vec![
        ("a user who has another certificate", subject(&[cn("victim")])),
        ("a user who has none", subject(&[cn(TESTER)])),
        ("the administrator", subject(&[cn("admin")])),
        ("nobody", subject(&[cn("nobody")])),
        ("two names", subject(&[cn("victim"), (another_common_name(), text("device"))])),
        ("two names, the other way", subject(&[cn("device"), (another_common_name(), text("victim"))])),
        ("the same name twice", subject(&[cn("victim"), (another_common_name(), text("victim"))])),
        ("an empty name", subject(&[cn("")])),
        ("no name", subject(&[(DnType::OrganizationName, text("victim"))])),
        ("NUL in it", subject(&[cn("victim\0.device")])),
        ("NUL at its end", subject(&[cn("victim\0")])),
        ("a space at its end", subject(&[cn("victim ")])),
        ("other letters", subject(&[cn("VICTIM")])),
        ("a slash", subject(&[cn("victim/device")])),
        ("wildcards", subject(&[cn("+"), (DnType::OrganizationName, text("#"))])),
        ("a placeholder", subject(&[cn("${username}")])),
        ("control characters", subject(&[cn("victim\r\n")])),
        (
            "two bytes for each character",
            subject(&[(DnType::CommonName, DnValue::BmpString("victim".try_into().unwrap()))]),
        ),
    ];
    let forged: Vec<(&str, Identity)> =
        forged.into_iter().map(|(what, subject)| (what, forge(&certs, subject))).collect();
    let genuine = forge(&certs, subject(&[cn("victim")]));
    let own = record(&genuine);
    harness.user_with("victim", |user| {
        (user.auth, user.password_hash) = (Auth::Certificate, None);
        user.certificates = vec![own];
    });
    // Names are looked at before records: this user even has the fingerprints of all those whose name is not its own.
    let misnamed = forged.iter().skip(4).map(|(_, identity)| record(identity)).collect();
    harness.user_with("device", |user| {
        user.auth = Auth::Either;
        user.certificates = misnamed;
    });
    for version in BOTH {
        let config = trusting(&harness, Some(genuine.clone()));
        assert_eq!(present(&harness, &config, &connect(version, "c")).await.reason_code, ReasonCode::Success);
        let mut expected = None;
        for (what, identity) in &forged {
            let config = trusting(&harness, Some(identity.clone()));
            for username in [None, Some("victim"), Some("device"), Some("admin"), Some(TESTER)] {
                let mut connect = connect(version, "c");
                connect.username = username.map(Into::into);
                let connack = present(&harness, &config, &connect).await;
                assert_eq!(connack.reason_code, ReasonCode::BadUserNameOrPassword, "{what} as {username:?}");
                assert_eq!(*expected.get_or_insert_with(|| connack.clone()), connack, "{what} as {username:?}");
            }
        }
    }
    // A certificate that is not good is no help to a password either, nor does it spoil one of the same name.
    let config = trusting(&harness, Some(forged[1].1.clone()));
    assert_eq!(present(&harness, &config, &as_user(V5, "c", TESTER)).await.reason_code, ReasonCode::Success);
    let refused = present(&harness, &config, &as_user(V5, "c", "device")).await;
    assert_eq!(refused.reason_code, ReasonCode::BadUserNameOrPassword);
    // Of a CA that nobody trusts, whatever name it bears.
    for name in ["victim", "admin"] {
        if let Ok(tls) = Tls::connect(harness.address("tls"), trusting(&harness, Some(issue_elsewhere(name)))).await {
            let mut client = Client::over(tls, V5);
            let _may_be_closed = client.try_send(Packet::Connect(Box::new(connect(V5, "c")))).await;
            client.expect_closed().await;
        }
    }
}

fn lasting(version: ProtocolVersion, client_id: &str, user: &str) -> Connect {
    let mut connect = as_user(version, client_id, user);
    connect.clean_start = false;
    if version == V5 {
        connect.properties.session_expiry_interval = Some(3600);
    }
    connect
}

/// Disabled, by every way in: each is refused with 0x87 and 5 while it lasts, and open before and after.
#[tokio::test]
async fn a_disabled_user_gets_in_on_no_path() {
    let harness = Harness::start_with_listeners(LISTENERS).await;
    let certs = harness.path().join("certs");
    let mut users: Vec<(UserId, &str)> = Vec::new();
    let mut paths: Vec<(&str, Option<Arc<rustls::ClientConfig>>, &str)> = Vec::new();
    for (name, auth) in [
        ("by-password", Auth::Password),
        ("by-certificate", Auth::Certificate),
        ("by-both", Auth::Both),
        ("by-either", Auth::Either),
    ] {
        let identity = forge(&certs, subject(&[(DnType::CommonName, text(name))]));
        let own = record(&identity);
        let user = harness.user_with(name, |user| {
            user.auth = auth;
            user.permissions = vec![allow("#")];
            if auth == Auth::Certificate {
                user.password_hash = None;
            }
            if auth != Auth::Password {
                user.certificates = vec![own];
            }
        });
        users.push((user, name));
        if auth != Auth::Password {
            // The same configuration each time: later connections resume its TLS session.
            paths.push((name, Some(trusting(&harness, Some(identity))), "certificate"));
        }
        if auth != Auth::Certificate && auth != Auth::Both {
            // The second time this proof is a remembered one.
            paths.push((name, None, "password"));
        }
    }
    let connack = async |version, name: &str, config: &Option<Arc<rustls::ClientConfig>>| match config {
        Some(config) if name == "by-both" => present(&harness, config, &lasting(version, "c", name)).await,
        Some(config) => {
            let connect = Connect { username: None, password: None, ..lasting(version, "c", name) };
            present(&harness, config, &connect).await
        }
        None => {
            let mut client = Client::open(harness.plain(), version).await;
            client.connect(&lasting(version, "c", name)).await
        }
    };
    for round in 0..2 {
        for version in BOTH {
            for (name, config, proof) in &paths {
                let connack = connack(version, name, config).await;
                assert_eq!(connack.reason_code, ReasonCode::Success, "{name}, {proof}, round {round}");
            }
        }
        // A session that waits for its client.
        let mut absent = harness.login(&lasting(V5, "absent", "by-password")).await;
        absent.subscribe("t", Q1).await;
        absent.disconnect().await;
        for (user, _) in &users {
            harness.change(*user, |user| user.enabled = false);
        }
        harness.client(V5, "w").await.publish("t", "waits", Q1).await;
        for version in BOTH {
            for (name, config, proof) in &paths {
                let connack = connack(version, name, config).await;
                assert_eq!(connack.reason_code, ReasonCode::NotAuthorized, "{name}, {proof}, round {round}");
                assert!(!connack.session_present);
            }
            for client_id in ["absent", "another"] {
                let refused = harness.refused(&lasting(version, client_id, "by-password")).await;
                assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
            }
            // With a wrong proof it looks like anybody.
            let mut wrong = lasting(version, "c", "by-password");
            wrong.password = Some(Bytes::from_static(b"wrong password"));
            let nobody = Connect { username: Some("nobody".into()), ..wrong.clone() };
            assert_eq!(harness.refused(&wrong).await, harness.refused(&nobody).await);
        }
        // The program that embeds the broker cannot act for it either.
        let acting = harness.handle().as_user(users[0].0, ClientId::try_from("c").unwrap());
        let topic = TopicName::try_from("t").unwrap();
        assert_eq!(acting.publish(topic, "x", Q0, false), Err(NotPublished::NotAuthorized));
        assert!(acting.subscribe("t".try_into().unwrap()).is_err());
        for (user, _) in &users {
            harness.change(*user, |user| user.enabled = true);
        }
        // Nothing was lost by the attempts: it was withheld.
        let mut back = harness.login(&lasting(V5, "absent", "by-password")).await;
        back.expect_message("t", "waits").await;
        back.disconnect().await;
    }
}

/// Disabled, expired, or of another kind: whom a listener names in `anonymous` is let in by nothing.
#[tokio::test]
async fn a_disabled_guest_is_no_guest() {
    for (line, open) in [("", true), ("enabled = false", false), ("expires_at = \"2020-01-01T00:00:00Z\"", false)] {
        let config = format!(
            r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
anonymous = "guest"
[[user]]
username = "guest"
auth = "none"
{line}
"#
        );
        let harness = Harness::start_with_listeners(&config).await;
        for version in BOTH {
            let mut client = Client::open(harness.plain(), version).await;
            let connack = client.connect(&connect(version, "c")).await;
            let expected = if open { ReasonCode::Success } else { ReasonCode::NotAuthorized };
            assert_eq!(connack.reason_code, expected, "{line}");
        }
    }
}

/// Who is refused takes nobody's session over, whatever client identifier it says.
#[tokio::test]
async fn a_refused_login_takes_nothing_over() {
    let harness = Harness::start("").await;
    harness.user("other", vec![allow("#")]);
    harness.user_with("disabled", |user| user.enabled = false);
    let limited = harness.user("limited", vec![allow_read("#")]);
    for version in BOTH {
        let mut live = harness.login(&lasting(version, "c", "limited")).await;
        live.subscribe("t", Q1).await;
        let mut wrong = lasting(version, "c", "limited");
        wrong.password = Some(Bytes::from_static(b"wrong password"));
        let mut bequeathing = lasting(version, "c", "limited");
        bequeathing.will = Some(will("forbidden", "gone", Q1));
        let nobody = lasting(version, "c", "nobody");
        for clean_start in [false, true] {
            for connect in [&wrong, &bequeathing, &nobody, &lasting(version, "c", "disabled")] {
                harness.refused(&Connect { clean_start, ..connect.clone() }).await;
            }
            harness.login(&Connect { clean_start, ..lasting(version, "c", "other") }).await.disconnect().await;
        }
        harness.client(V5, "w").await.publish("t", "still there", Q1).await;
        live.expect_message("t", "still there").await;
        live.expect_silence().await;
        live.disconnect().await;
        // Nor does it spoil the one that waits.
        harness.refused(&bequeathing).await;
        let back = harness.login(&lasting(version, "c", "limited")).await;
        assert!(back.connack.as_ref().unwrap().session_present);
        back.disconnect().await;
        harness.change(limited, |user| user.description = "changed".to_owned());
    }
}

const ODD: [&str; 16] = [
    "a/b",
    "/",
    "a/",
    "$registry",
    "$registry/admin",
    "$SYS",
    "$x",
    "${username}",
    "${client_id}",
    "\u{1}",
    "a\u{7f}b",
    "a\nb",
    "\u{1b}[31m",
    "\u{feff}",
    "..",
    " ",
];

/// Names that no user can have: the same answer as for one that nobody has, and nothing more.
#[tokio::test]
async fn an_odd_user_name_is_nobodys() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let nobody = harness.refused(&as_user(version, "c", "nobody")).await;
        assert_eq!(nobody.reason_code, ReasonCode::BadUserNameOrPassword);
        let long = "x".repeat(65_535);
        let case = TESTER.to_uppercase();
        let spaced = format!("{TESTER} ");
        let names = ODD.into_iter().chain(["+", "#", "local", "system", "observer", &long, &case, &spaced]);
        for name in names {
            assert_eq!(harness.refused(&as_user(version, "c", name)).await, nobody, "`{name:.40}`");
        }
        // With NUL it is no string at all. [MQTT-1.5.4-2]
        let mut client = Client::open(harness.plain(), version).await;
        let (level, properties): (u8, &[u8]) = if version == V5 { (5, &[0]) } else { (4, &[]) };
        let mut bytes = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', level, 0xC2, 0, 0];
        bytes.extend_from_slice(properties);
        bytes.extend_from_slice(&[0, 1, b'c', 0, 4, b't', 0, b'e', b's', 0, 1, b'x']);
        bytes[1] = u8::try_from(bytes.len() - 2).unwrap();
        client.send_raw(&bytes).await;
        if version == V5 {
            match client.recv().await {
                Packet::ConnAck(connack) => assert_eq!(connack.reason_code, ReasonCode::MalformedPacket),
                other => panic!("{other:?}"),
            }
        }
        client.expect_closed().await;
    }
}

/// An odd client identifier opens what its one level says, and shuts at least as much; never what it would spell out.
#[tokio::test]
async fn an_odd_client_identifier_against_every_template() {
    let harness = Harness::start("").await;
    // Freely chosen: it can be in deny rules only.
    harness.user(
        "free",
        vec![allow("#"), deny("dev/${client_id}"), deny("${client_id}/own"), deny("dev/${client_id}/deep/#")],
    );
    // Tied: what follows the `~` is the client's choice.
    harness.user_with("tied", |user| {
        user.client_id = Some("${username}~*".to_owned());
        user.permissions =
            vec![allow("dev/${client_id}/#"), allow("${client_id}"), allow("${username}/${client_id}/+")];
    });
    let topics = ["dev/a", "dev/b", "dev/a/b", "x/own", "dev/x/deep/y", "dev/a/deep", "$SYS/own", "$registry/own"];
    for odd in ODD {
        let odd_level = odd.contains('/');
        let mut free = harness.client_of("free", V5, odd).await;
        for topic in topics.into_iter().map(str::to_owned).chain([format!("dev/{odd}"), format!("{odd}/own")]) {
            let levels: Vec<&str> = topic.split('/').collect();
            let is = |level: &str| odd_level || level == odd;
            // What `$` begins is never open; an odd level is taken for every level but those.
            let reserved = topic.starts_with('$');
            let shut = match levels.as_slice() {
                _ if reserved => true,
                ["dev", id] | [id, "own"] | ["dev", id, "deep", ..] => is(id),
                _ => false,
            };
            let published = free.try_publish(&topic, "x", Q1).await;
            assert_eq!(published == ReasonCode::NotAuthorized, shut, "free as `{odd:?}`: {topic}: {published}");
            let subscribed = free.try_subscribe(&topic, Q1).await;
            assert_eq!(subscribed.is_error(), shut, "free as `{odd:?}`: {topic}: {subscribed}");
        }

        let client_id = format!("tied~{odd}");
        let mut tied = harness.client_of("tied", V5, &client_id).await;
        let mut names = vec![format!("dev/{client_id}/x"), client_id.clone(), format!("tied/{client_id}/x")];
        let own = names.len();
        let bare = ["dev/tied/x", "dev/tied~/x", "tied", "dev/x", "tied~", "tied/tied/x", "dev/bob~1/x", "dev//x"];
        names.extend(bare.map(str::to_owned));
        names.extend([format!("dev/{odd}/x"), odd.to_owned(), format!("tied/{odd}/x")]);
        for (number, topic) in names.iter().enumerate() {
            let may = number < own && !odd_level;
            let published = tied.try_publish(topic, "x", Q1).await;
            assert_eq!(published != ReasonCode::NotAuthorized, may, "tied as `{client_id:?}`: {topic}: {published}");
            let subscribed = tied.try_subscribe(topic, Q1).await;
            assert_eq!(!subscribed.is_error(), may, "tied as `{client_id:?}`: {topic}: {subscribed}");
        }
        for filter in ["dev/#", "dev/+/#", "+", "#", "tied/+/+", "$SYS/#", "$registry/#"] {
            assert!(tied.try_subscribe(filter, Q0).await.is_error(), "tied as `{client_id:?}`: {filter}");
        }
        // Nobody is another user by its client identifier, however it is put.
        for version in BOTH {
            let refused = harness.refused(&as_user(version, odd, "tied")).await;
            assert_eq!(refused.reason_code, ReasonCode::NotAuthorized, "{odd:?}");
        }
    }
}

/// What a deleted user has left behind stands for nobody: not its retained messages, not its Will, not its sessions.
#[tokio::test]
async fn a_namesake_does_not_bring_back_what_the_deleted_user_left() {
    let harness = Harness::start("").await;
    let first = harness.user("phoenix", vec![allow("t/#")]);
    let mut connect = lasting(V5, "c", "phoenix");
    let mut testament = will("t/will", "the first one's last word", Q1);
    testament.delay_interval = Some(1);
    connect.will = Some(testament);
    let mut client = harness.login(&connect).await;
    client.subscribe("t/#", Q1).await;
    client.retain("t/kept", "the first one's", Q1).await;
    client.cut();
    sleep(Duration::from_millis(50)).await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("t/#", Q1).await;
    watcher.expect_message("t/kept", "the first one's").await;
    harness.delete(first);
    harness.user("phoenix", vec![allow("t/#")]);
    // A new reader, and the namesake itself.
    for user in [TESTER, "phoenix"] {
        for version in BOTH {
            let mut reader = harness.login(&as_user(version, "reader", user)).await;
            reader.subscribe("t/#", Q1).await;
            reader.expect_silence().await;
            reader.disconnect().await;
        }
    }
    let namesake = harness.login(&lasting(V5, "c", "phoenix")).await;
    assert!(!namesake.connack.as_ref().unwrap().session_present);
    sleep(Duration::from_millis(1300)).await;
    watcher.expect_silence().await;
    // The place is free for what the namesake itself keeps there.
    let mut namesake = namesake;
    namesake.retain("t/kept", "the second one's", Q1).await;
    watcher.expect_message("t/kept", "the second one's").await;
    let mut reader = harness.client(V5, "late").await;
    reader.subscribe("t/#", Q1).await;
    reader.expect_message("t/kept", "the second one's").await;
}

/// There are no shared subscriptions in this version: neither rights nor words make one, and nothing is delivered by it.
#[tokio::test]
async fn a_shared_subscription_is_refused_whatever_the_rules() {
    let harness = Harness::start("[access]\npartial_subscription = \"filter\"").await;
    let read = |resource: &str| Permission { retain: None, ..allow_read(resource) };
    harness.user("member", vec![allow("jobs/#"), read("$share/workers/jobs/#"), read("$share/#")]);
    harness.user("stranger", Vec::new());
    for (version, refused) in [(V5, ReasonCode::SharedSubscriptionsNotSupported), (V311, ReasonCode::UnspecifiedError)]
    {
        for user in ["member", "stranger", TESTER] {
            let mut client = harness.client_of(user, version, "c").await;
            let filters = ["$share/workers/jobs/#", "$share/workers/jobs/1", "$share/workers/#", "$share/g/$SYS/#"];
            let codes = client.subscribe_with(&filters.map(|filter| (filter, options(Q1)))).await;
            assert_eq!(codes, [refused; 4], "{user}");
            harness.client(V5, "w").await.publish("jobs/1", "x", Q1).await;
            client.expect_silence().await;
        }
    }
    // As a topic it is one of the broker's own, for writers and readers.
    let mut member = harness.client_of("member", V5, "c").await;
    for topic in ["$share/workers/jobs/1", "$share", "$share/workers"] {
        for qos in [Q1, Q2] {
            let message = Publish { retain: true, ..publish(topic, "x", qos) };
            assert_eq!(member.publish_packet(message).await, ReasonCode::NotAuthorized, "{topic}");
        }
    }
}

/// A row of changes of proof, each while somebody is connected by the one that was good before.
#[tokio::test]
async fn a_proof_that_is_not_asked_for_any_more_holds_nobody() {
    let harness = Harness::start_with_listeners(LISTENERS).await;
    let identity = forge(&harness.path().join("certs"), subject(&[(DnType::CommonName, text("changing"))]));
    let own = record(&identity);
    let user = harness.user_with("changing", |user| {
        user.auth = Auth::Either;
        user.certificates = vec![own];
        user.permissions = vec![allow("#")];
    });
    let config = trusting(&harness, Some(identity));
    let both = as_user(V5, "both", "changing");
    let bare = connect(V5, "certificate");
    // Auth, then who is admitted: password alone, certificate alone, both together.
    for (auth, admitted) in [
        (Auth::Password, [true, false, true]),
        (Auth::Certificate, [false, true, true]),
        (Auth::Both, [false, false, true]),
        (Auth::Either, [true, true, true]),
    ] {
        harness.change(user, |user| user.auth = Auth::Either);
        let mut by_password = harness.client_of("changing", V5, "password").await;
        let tls = Tls::connect(harness.address("tls"), Arc::clone(&config)).await.unwrap();
        let mut by_certificate = Client::over(tls, V5);
        assert_eq!(by_certificate.connect(&bare).await.reason_code, ReasonCode::Success);
        harness.change(user, move |user| user.auth = auth);
        for (client, stays) in [(&mut by_password, admitted[0]), (&mut by_certificate, admitted[1])] {
            if stays {
                client.expect_silence().await;
            } else {
                client.expect_ended(ReasonCode::NotAuthorized).await;
            }
        }
        let mut client = Client::open(harness.plain(), V5).await;
        let connack = client.connect(&as_user(V5, "password", "changing")).await;
        assert_eq!(!connack.reason_code.is_error(), admitted[0], "{auth:?}");
        let connack = present(&harness, &config, &bare).await;
        assert_eq!(!connack.reason_code.is_error(), admitted[1], "{auth:?}");
        let connack = present(&harness, &config, &both).await;
        assert_eq!(!connack.reason_code.is_error(), admitted[2], "{auth:?}");
    }
    // The password goes while the certificate stays: whoever stands on the password, or on both, falls.
    harness.change(user, |user| user.auth = Auth::Both);
    let tls = Tls::connect(harness.address("tls"), Arc::clone(&config)).await.unwrap();
    let mut standing = Client::over(tls, V5);
    assert_eq!(standing.connect(&both).await.reason_code, ReasonCode::Success);
    harness.change(user, |user| user.password_hash = Some(hash("another password")));
    standing.expect_ended(ReasonCode::NotAuthorized).await;
    assert_eq!(present(&harness, &config, &both).await.reason_code, ReasonCode::BadUserNameOrPassword);
}

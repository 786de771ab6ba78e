//! Changes take effect at once: after the commit is answered, nothing that the new rules forbid is delivered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis::mqtt::{Packet, ProtocolVersion, Publish, QoS, ReasonCode};

use crate::{
    client::{BOTH, Client, Q0, Q1, Q2, Received, V5, V311, ack, id, publish, text_of, topic_of},
    harness::{Harness, allow, allow_read, as_user, deny_read, hash},
};

/// Well above the 50 ms of the requirement: what is measured on a busy machine is printed, not judged.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A user who publishes as fast as it can, numbering its messages, until told to stop.
fn blast(
    mut client: Client,
    topics: &'static [&'static str],
    filling: usize,
    stop: &Arc<AtomicBool>,
    number: &Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    let (stop, number) = (Arc::clone(stop), Arc::clone(number));
    let filling = "x".repeat(filling);
    tokio::spawn(async move {
        while !stop.load(Ordering::SeqCst) {
            let next = number.fetch_add(1, Ordering::SeqCst);
            for topic in topics {
                client.send(Packet::Publish(publish(topic, &format!("{next} {filling}"), Q0))).await;
            }
        }
        client.ping().await;
    })
}

/// Several publishers blast at a reader; the right to one topic ends. What the reader gets afterwards was either in the
/// kernel before the answer, or is permitted. Read to the end: a message that was *published* after the answer and
/// forbidden would be the proof that a decision was made by old rules.
async fn no_forbidden_message_after_the_answer(version: ProtocolVersion, qos: QoS, filling: usize) {
    let harness = Harness::start("[limits]\nqueue_messages = 1000").await;
    let user = harness.user("reader", vec![allow_read("open"), allow_read("shut")]);
    let mut reader = harness.client_of("reader", version, "r").await;
    reader.subscribe("open", qos).await;
    reader.subscribe("shut", qos).await;
    let stop = Arc::new(AtomicBool::new(false));
    let number = Arc::new(AtomicU64::new(0));
    let mut blasters = Vec::new();
    for blaster in 0..2 {
        let client = harness.client(V5, &format!("b{blaster}")).await;
        blasters.push(blast(client, &["open", "shut"], filling, &stop, &number));
    }
    // The reader reads all the while, and what it has seen of `shut` is on record with the time of the read.
    let (mut open, mut shut) = (0_u32, 0_u32);
    while open < 50 || shut < 50 {
        let got = reader.receive().await;
        *(if topic_of(&got) == "open" { &mut open } else { &mut shut }) += 1;
    }
    let users = harness.users();
    let committed = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let edit = |user: &mut portcullis::access::User| user.permissions = vec![allow_read("open")];
        let expected = portcullis::directory::Expected::Any;
        users.update_user(user, expected, edit, &portcullis::directory::Actor::System).unwrap();
        begin.elapsed()
    })
    .await
    .unwrap();
    // Numbers from here on were drawn after the answer.
    let after = number.load(Ordering::SeqCst) + 1;
    let (mut late, mut seen) = (0_u32, 0_u32);
    let reading = Instant::now();
    while seen < 300 || reading.elapsed() < Duration::from_millis(300) {
        let got = reader.receive().await;
        let number: u64 = text_of(&got).split(' ').next().unwrap().parse().unwrap();
        if topic_of(&got) == "shut" {
            // Handed to the kernel before the answer: it must have been published before, too.
            assert!(number < after, "message {number} of a forbidden topic, published after the answer ({after})");
            late += 1;
        } else if number >= after {
            seen += 1;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for blaster in blasters {
        blaster.await.unwrap();
    }
    println!("{version:?} {qos:?} {filling}: commit in {committed:?}, {late} messages were with the kernel already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_under_fire_small_messages() {
    for (version, qos) in [(V5, Q0), (V311, Q1)] {
        no_forbidden_message_after_the_answer(version, qos, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_under_fire_large_messages() {
    no_forbidden_message_after_the_answer(V5, Q0, 20_000).await;
}

/// The strict form: a reader that has stopped reading lets the buffers fill. The bytes that arrive after the answer are
/// then exactly those that the kernel had; everything behind them is permitted.
#[tokio::test]
async fn what_waits_in_the_broker_is_taken_back() {
    let harness = Harness::start("").await;
    for version in BOTH {
        for qos in [Q0, Q1] {
            let name = format!("reader-{version:?}-{qos:?}").to_lowercase();
            let user = harness.user(&name, vec![allow_read("open"), allow_read("shut")]);
            let mut reader = Client::open_narrow(harness.plain(), version).await;
            reader.connect(&as_user(version, "r", &name)).await;
            reader.subscribe("open", qos).await;
            reader.subscribe("shut", qos).await;
            let mut writer = harness.client(V5, "w").await;
            // More than the socket takes: 200 messages of 50 KB.
            let filling = "x".repeat(50_000);
            for number in 0..200 {
                writer.publish("shut", &format!("{number} {filling}"), Q1).await;
            }
            harness.permit(user, vec![allow_read("open")]);
            writer.publish("open", "after", Q1).await;
            let mut forbidden = 0;
            loop {
                let got = reader.receive().await;
                if topic_of(&got) == "open" {
                    assert_eq!(text_of(&got), "after");
                    break;
                }
                forbidden += 1;
            }
            println!("{version:?} {qos:?}: {forbidden} of 200 messages were with the kernel when the rules changed");
            assert!(forbidden < 200, "nothing was taken back");
            // What was taken back does not come again, not even when the right returns.
            harness.permit(user, vec![allow_read("open"), allow_read("shut")]);
            reader.expect_silence().await;
            writer.publish("shut", "restored", Q1).await;
            reader.expect_message("shut", "restored").await;
        }
    }
}

/// A subscription that is no longer permitted is withheld, not removed.
#[tokio::test]
async fn a_subscription_is_withheld_and_lives_again() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let name = format!("reader-{version:?}").to_lowercase();
        let user = harness.user(&name, vec![allow_read("a/#")]);
        let mut reader = harness.client_of(&name, version, "r").await;
        reader.subscribe("a/#", Q1).await;
        let mut writer = harness.client(V5, "w").await;
        writer.publish("a/1", "before", Q1).await;
        reader.expect_message("a/1", "before").await;
        harness.permit(user, Vec::new());
        writer.publish("a/1", "withheld", Q1).await;
        reader.expect_silence().await;
        // In part: narrowed.
        harness.permit(user, vec![allow_read("a/#"), deny_read("a/1")]);
        writer.publish("a/1", "withheld", Q1).await;
        writer.publish("a/2", "narrowed", Q1).await;
        reader.expect_message("a/2", "narrowed").await;
        reader.expect_silence().await;
        harness.permit(user, vec![allow_read("a/#")]);
        writer.publish("a/1", "restored", Q1).await;
        reader.expect_message("a/1", "restored").await;
        reader.expect_silence().await;
    }
}

/// A role is changed: everybody who holds it is concerned.
#[tokio::test]
async fn a_change_of_a_role_reaches_its_holders() {
    let harness = Harness::start("").await;
    harness.role("line", vec![allow("plant/#")]);
    let mut readers = Vec::new();
    for number in 0..20 {
        let name = format!("holder-{number}");
        harness.user_with(&name, |user| user.roles = vec!["line".parse().unwrap()]);
        let mut reader = harness.client_of(&name, BOTH[number % 2], "r").await;
        reader.subscribe("plant/#", Q1).await;
        readers.push(reader);
    }
    let mut writer = harness.client(V5, "w").await;
    writer.publish("plant/x", "before", Q1).await;
    harness.role("line", vec![allow("plant/y/#")]);
    writer.publish("plant/x", "after", Q1).await;
    writer.publish("plant/y", "after", Q1).await;
    for reader in &mut readers {
        let first = reader.receive().await;
        if topic_of(&first) == "plant/x" {
            assert_eq!(text_of(&first), "before");
            reader.expect_message("plant/y", "after").await;
        } else {
            // Not yet with the kernel when the rule changed.
            assert_eq!((topic_of(&first), text_of(&first)), ("plant/y", "after"));
        }
        reader.expect_silence().await;
    }
}

/// The right to publish ends between two packets of one connection.
#[tokio::test]
async fn the_right_to_publish_ends_at_once() {
    let harness = Harness::start("").await;
    let user = harness.user("writer", vec![allow("t")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("t", Q1).await;
    let mut writer = harness.client_of("writer", V5, "w").await;
    for _ in 0..20 {
        writer.publish("t", "x", Q1).await;
        watcher.expect_message("t", "x").await;
        // A QoS 2 exchange that has begun is finished.
        let message = Publish { packet_id: Some(id(500)), ..publish("t", "begun", Q2) };
        writer.send(Packet::Publish(message)).await;
        assert_eq!(writer.recv().await, Packet::PubRec(ack(id(500))));
        harness.permit(user, vec![allow_read("t")]);
        assert_eq!(writer.try_publish("t", "x", Q1).await, ReasonCode::NotAuthorized);
        writer.send(Packet::PubRel(ack(id(500)))).await;
        writer.expect_pubcomp(id(500)).await;
        watcher.expect_message("t", "begun").await;
        harness.permit(user, vec![allow("t")]);
    }
    watcher.expect_silence().await;
}

/// In flight and now forbidden: not resent, and its packet identifier is free.
#[tokio::test]
async fn what_is_in_flight_and_forbidden_is_not_resent() {
    let harness = Harness::start("").await;
    let user = harness.user("reader", vec![allow_read("#")]);
    let mut connect = as_user(V5, "r", "reader");
    connect.clean_start = false;
    connect.properties.session_expiry_interval = Some(3600);
    connect.properties.receive_maximum = std::num::NonZeroU16::new(2);
    let mut reader = harness.login(&connect).await;
    reader.subscribe("+", Q2).await;
    let mut writer = harness.client(V5, "w").await;
    for topic in ["shut", "open", "shut", "open"] {
        writer.publish(topic, "x", Q1).await;
    }
    assert_eq!(topic_of(&reader.expect_publish().await), "shut");
    assert_eq!(topic_of(&reader.expect_publish().await), "open");
    reader.cut();
    harness.permit(user, vec![allow_read("open")]);
    let mut reader = harness.login(&connect).await;
    assert!(reader.connack.as_ref().unwrap().session_present);
    let again = reader.expect_message("open", "x").await;
    assert!(again.dup);
    assert!(!reader.expect_message("open", "x").await.dup);
    reader.expect_silence().await;
}

type Ending = fn(&Harness, portcullis::access::UserId);

/// Disabled, deleted, another password, another proof asked for, expired: the live sessions end, and only those.
#[tokio::test]
async fn a_user_who_may_not_be_connected_any_more_is_cut_off() {
    let endings: [(&str, Ending); 5] = [
        ("disabled", |harness, user| harness.change(user, |user| user.enabled = false)),
        ("deleted", |harness, user| harness.delete(user)),
        ("another password", |harness, user| {
            harness.change(user, |user| user.password_hash = Some(hash("another password")));
        }),
        ("another proof", |harness, user| {
            harness.change(user, |user| user.auth = portcullis::access::Auth::Certificate);
        }),
        ("expired", |harness, user| {
            harness.change(user, |user| user.expires_at = Some(jiff::Timestamp::now()));
        }),
    ];
    let harness = Harness::start("").await;
    let mut bystander = harness.client(V311, "bystander").await;
    bystander.subscribe("#", Q1).await;
    let mut worst = Duration::ZERO;
    for (number, (what, ending)) in endings.into_iter().enumerate() {
        let name = format!("user-{number}");
        let user = harness.user(&name, vec![allow("t/#")]);
        let mut new = harness.client_of(&name, V5, "new").await;
        let mut old = harness.client_of(&name, V311, "old").await;
        new.subscribe("t/x", Q1).await;
        // One that does not read, with full buffers, is cut off just the same.
        let mut stuck = Client::open_narrow(harness.plain(), V5).await;
        stuck.connect(&as_user(V5, "stuck", &name)).await;
        stuck.subscribe("t/flood", Q0).await;
        for _ in 0..40 {
            bystander.publish_at_once("t/flood", &"x".repeat(50_000)).await;
            bystander.receive().await;
        }
        ending(&harness, user);
        let begin = Instant::now();
        new.expect_ended(ReasonCode::NotAuthorized).await;
        old.expect_closed().await;
        let took = begin.elapsed();
        worst = worst.max(took);
        assert!(took < AT_ONCE, "{what}: after {took:?}");
        while let Received::Packet(_) = stuck.read().await {}
        let refused = harness.refused(&as_user(V5, "new", &name)).await;
        assert!(matches!(refused.reason_code, ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword), "{what}");
        bystander.publish("t/undisturbed", what, Q1).await;
        bystander.expect_message("t/undisturbed", what).await;
    }
    println!("the longest from the answer of the commit to the end of the connection: {worst:?}");
}

/// What a user of that name had is not for a later user of the same name.
#[tokio::test]
async fn a_later_user_of_the_same_name_inherits_nothing() {
    let harness = Harness::start("").await;
    let connect = {
        let mut connect = as_user(V5, "c", "phoenix");
        connect.clean_start = false;
        connect.properties.session_expiry_interval = Some(3600);
        connect
    };
    let user = harness.user("phoenix", vec![allow("t/#")]);
    let mut client = harness.login(&connect).await;
    client.subscribe("t/#", Q1).await;
    client.disconnect().await;
    let mut writer = harness.client(V5, "w").await;
    writer.publish("t/1", "for the first one", Q1).await;
    harness.delete(user);
    harness.user("phoenix", vec![allow("t/#")]);
    let mut client = harness.login(&connect).await;
    assert!(!client.connack.as_ref().unwrap().session_present);
    client.expect_silence().await;
    assert_eq!(writer.try_publish("t/1", "nobody", Q1).await, ReasonCode::NoMatchingSubscribers);
}

/// Commits in a row, while sessions work: nobody is disturbed, and the last one holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_see_no_pause_while_rules_change() {
    let harness = Harness::start("").await;
    let user = harness.user("flickering", vec![allow("t")]);
    let mut client = harness.client_of("flickering", V5, "f").await;
    let (mut reader, mut writer) = (harness.client(V5, "r").await, harness.client(V5, "w").await);
    reader.subscribe("busy", Q1).await;
    let users = harness.users();
    let committing = tokio::task::spawn_blocking(move || {
        for round in 0..200 {
            let permissions = if round % 2 == 0 { Vec::new() } else { vec![allow("t")] };
            let edit = move |user: &mut portcullis::access::User| user.permissions = permissions;
            let expected = portcullis::directory::Expected::Any;
            users.update_user(user, expected, edit, &portcullis::directory::Actor::System).unwrap();
        }
    });
    let mut longest = Duration::ZERO;
    for number in 0..300 {
        let begin = Instant::now();
        writer.publish("busy", &number.to_string(), Q1).await;
        reader.expect_message("busy", &number.to_string()).await;
        longest = longest.max(begin.elapsed());
    }
    committing.await.unwrap();
    println!("the longest round trip beside 200 commits: {longest:?}");
    client.publish("t", "permitted in the end", Q1).await;
}

/// Logins race with the end of the user: whoever got in before the answer is ended, nobody gets in after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_slips_in_while_the_user_is_disabled() {
    let harness = Arc::new(Harness::start("").await);
    let user = harness.user("flickering", vec![allow("#")]);
    for round in 0..20 {
        harness.change(user, |user| user.enabled = true);
        let stop = Arc::new(AtomicBool::new(false));
        let mut comers = Vec::new();
        for comer in 0..3 {
            let (harness, stop) = (Arc::clone(&harness), Arc::clone(&stop));
            comers.push(tokio::spawn(async move {
                let mut inside = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let connect = as_user(BOTH[number % 2], &format!("{comer}-{number}"), "flickering");
                    let mut client = Client::open(harness.plain(), connect.version).await;
                    if !client.connect(&connect).await.reason_code.is_error() {
                        inside.push(client);
                    }
                }
                inside
            }));
        }
        tokio::time::sleep(Duration::from_millis(10 + round)).await;
        harness.change(user, |user| user.enabled = false);
        let refused = harness.refused(&as_user(V5, "late", "flickering")).await;
        assert_eq!(refused.reason_code, ReasonCode::NotAuthorized);
        stop.store(true, Ordering::SeqCst);
        for comer in comers {
            for mut client in comer.await.unwrap() {
                client.expect_ended(ReasonCode::NotAuthorized).await;
            }
        }
    }
}

//! What ends by the clock or by an edit of the user while its sessions live: time-boxed grants, users, client
//! identifiers.

use std::time::{Duration, Instant};

use portcullis::{
    access::{Auth, Permission},
    clock::{Clock, ManualClock, SystemClock, Timestamp},
    mqtt::{Connect, Packet, ProtocolVersion, ReasonCode},
};

use crate::{
    certificates::{ANY_TLS, issue, roots, tls_client},
    client::{BOTH, Client, PATIENCE, Q0, Q1, Q2, Tls, V5, V311, connect, publish, text_of, topic_of, will},
    harness::{Harness, allow, allow_read, allow_write, as_user, lasting},
};

const HOUR: Duration = Duration::from_hours(1);
const ALMOST_AN_HOUR: Duration = Duration::from_secs(3599);

fn clock() -> ManualClock {
    ManualClock::new("2030-05-06T07:08:09Z".parse().unwrap())
}

fn after(clock: &impl Clock, time: Duration) -> Timestamp {
    clock.timestamp().checked_add(time).unwrap()
}

fn until(end: Timestamp, permission: Permission) -> Permission {
    Permission { not_after: Some(end), ..permission }
}

/// Waits until the broker has looked at the clock and taken out of force what has lapsed.
async fn lapse(harness: &Harness, clock: &impl Clock) {
    let begin = Instant::now();
    while harness.users().next_expiry().is_some_and(|at| at <= clock.timestamp()) {
        assert!(begin.elapsed() < PATIENCE, "nothing lapses");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The commit is published before the sessions have passed it: a commit of nobody's rules waits for that one.
    harness.user(&format!("after-{}", harness.users().version().0), Vec::new());
}

/// A grant of a role and one of the user's own end while the session lives: PUBLISH is refused with 0x87, the
/// subscription is withheld and not removed, nobody is disconnected, and nobody else loses anything.
#[tokio::test]
async fn time_boxed_grants_end_on_live_sessions() {
    let clock = clock();
    let harness = Harness::start_at(&clock, "[access]\ndenied_publish = \"acknowledge\"").await;
    let end = after(&clock, HOUR);
    harness.role("visitors", vec![until(end, allow("role/#")), allow("open/#"), allow("unread")]);
    for version in BOTH {
        let name = format!("visitor-{version:?}").to_lowercase();
        harness.user_with(&name, |user| {
            user.roles = vec!["visitors".parse().unwrap()];
            user.permissions = vec![until(end, allow("own/#"))];
        });
    }
    let mut writer = harness.client(V5, "w").await;
    let mut visitors = Vec::new();
    for version in BOTH {
        let name = format!("visitor-{version:?}").to_lowercase();
        let mut visitor = harness.client_of(&name, version, "v").await;
        for filter in ["role/#", "own/#", "open/#"] {
            visitor.subscribe(filter, Q1).await;
        }
        visitors.push(visitor);
    }
    clock.advance(ALMOST_AN_HOUR);
    for topic in ["role/x", "own/x", "open/x"] {
        writer.publish(topic, "before", Q1).await;
        for visitor in &mut visitors {
            visitor.expect_message(topic, "before").await;
        }
    }
    clock.advance(Duration::from_secs(1));
    lapse(&harness, &clock).await;
    for topic in ["role/x", "own/x", "open/x"] {
        writer.publish(topic, "after", Q1).await;
    }
    for (visitor, version) in visitors.iter_mut().zip(BOTH) {
        visitor.expect_message("open/x", "after").await;
        visitor.expect_silence().await;
        for (topic, allowed) in [("role/x", false), ("own/x", false), ("unread", true)] {
            for qos in [Q1, Q2] {
                let code = visitor.try_publish(topic, "from a visitor", qos).await;
                let refused = version == V5 && !allowed;
                assert_eq!(code == ReasonCode::NotAuthorized, refused, "{topic} {code:?}");
            }
        }
        let expected = if version == V5 { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
        assert_eq!(visitor.try_subscribe("role/y", Q0).await, expected);
    }
    // A new grant revives what is there.
    let later = after(&clock, HOUR);
    harness.role("visitors", vec![until(later, allow("role/#")), allow("open/#")]);
    writer.publish("role/x", "again", Q1).await;
    for visitor in &mut visitors {
        visitor.expect_message("role/x", "again").await;
    }
}

/// What waits for a session without a connection goes through the gate of the moment at which it comes back.
#[tokio::test]
async fn a_grant_that_ended_meanwhile_withholds_what_was_queued() {
    let clock = clock();
    let harness = Harness::start_at(&clock, "").await;
    let end = after(&clock, HOUR / 2);
    harness.user("reader", vec![until(end, allow_read("a")), allow_read("b")]);
    let connect = |version, client_id: &str| portcullis::mqtt::Connect {
        username: Some("reader".into()),
        ..lasting(version, client_id)
    };
    for (version, client_id) in [(V5, "five"), (V311, "three")] {
        let mut reader = harness.login(&connect(version, client_id)).await;
        reader.subscribe("a", Q1).await;
        reader.subscribe("b", Q1).await;
        reader.cut();
    }
    let mut writer = harness.client(V5, "w").await;
    writer.publish("a", "1", Q1).await;
    writer.publish("b", "2", Q1).await;
    clock.advance(HOUR / 2);
    lapse(&harness, &clock).await;
    for (version, client_id) in [(V5, "five"), (V311, "three")] {
        let mut reader = harness.login(&connect(version, client_id)).await;
        reader.expect_message("b", "2").await;
        reader.expect_silence().await;
    }
}

/// By the system's clock: how late is the end of a grant?
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_on_time() {
    let harness = Harness::start("").await;
    let end = after(&SystemClock, Duration::from_millis(1500));
    harness.user("writer", vec![until(end, allow_write("t"))]);
    let mut writer = harness.client_of("writer", V5, "w").await;
    let late = loop {
        if writer.try_publish("t", "x", Q1).await == ReasonCode::NotAuthorized {
            break SystemClock.timestamp().duration_since(end);
        }
    };
    println!("the first refusal came {late:#} after the end of the grant");
    assert!(!late.is_negative(), "too early");
    assert!(late.as_millis() < 1000, "too late");
}

/// The user ends: its sessions end with 0x87, its Will is not published (nobody is left to publish it), it cannot
/// connect again, and what waits for it stays until it may.
#[tokio::test]
async fn an_expired_user_is_gone_at_its_time() {
    let clock = clock();
    let harness = Harness::start_at(&clock, "").await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    for version in BOTH {
        let end = after(&clock, HOUR);
        let name = format!("guest-{version:?}").to_lowercase();
        let user = harness.user_with(&name, |user| {
            user.permissions = vec![allow("#")];
            user.expires_at = Some(end);
        });
        let connect = |client_id: &str| portcullis::mqtt::Connect {
            will: Some(will("gone", client_id, Q1)),
            ..as_user(version, client_id, &name)
        };
        let mut guest = harness.login(&connect("g")).await;
        clock.advance(ALMOST_AN_HOUR);
        guest.publish("alive", "yes", Q1).await;
        watcher.expect_message("alive", "yes").await;
        clock.advance(Duration::from_secs(1));
        lapse(&harness, &clock).await;
        guest.expect_ended_or_reset(version, ReasonCode::NotAuthorized).await;
        watcher.expect_silence().await;
        let connack = harness.refused(&connect("g")).await;
        assert_eq!(connack.reason_code, ReasonCode::NotAuthorized); // 3.1.1: return code 5
        // Extended, it may again.
        let later = after(&clock, HOUR);
        harness.change(user, move |user| user.expires_at = Some(later));
        harness.login(&connect("g")).await.disconnect().await;
    }
}

/// The time for timeouts, which a test moves, without the time of day: what is over by the former is not committed yet.
#[derive(Clone)]
struct BeforeTheCommit {
    timeouts: ManualClock,
    day: ManualClock,
}

impl Clock for BeforeTheCommit {
    fn instant(&self) -> Instant {
        self.timeouts.instant()
    }

    fn timestamp(&self) -> Timestamp {
        self.day.timestamp()
    }
}

/// What makes a connection look at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Timer,
    Packet,
    Delivery,
    Cut,
}

/// The end of a user or of a certificate holds at its time, whether the commit that the clock makes of it was faster than
/// the connection or not: nothing that was sent after it counts, the Will included, and nothing goes out.
#[tokio::test]
async fn the_end_of_an_identity_does_not_wait_for_the_commit() {
    let clock =
        BeforeTheCommit { timeouts: ManualClock::new(Timestamp::now()), day: ManualClock::new(Timestamp::now()) };
    let listener =
        "[[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\ntls = true\nclient_certificate = \"optional\"";
    let harness = Harness::start_by(clock.clone(), listener).await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("#", Q0).await;
    let mut number = 0;
    for version in BOTH {
        for trigger in [Trigger::Timer, Trigger::Packet, Trigger::Delivery, Trigger::Cut] {
            for certified in [false, true] {
                if certified && trigger == Trigger::Timer {
                    continue; // Certificates end at full seconds, and those of the harness live for a day.
                }
                number += 1;
                let name = format!("guest-{number}");
                let (identity, issued) = issue(&harness.path().join("certs"), &name);
                // The timer itself goes by the system's time.
                let lifetime = if trigger == Trigger::Timer { Duration::from_millis(500) } else { HOUR };
                let end = if certified { issued.record().not_after } else { after(&clock, lifetime) };
                harness.user_with(&name, |user| {
                    user.permissions = vec![allow("#")];
                    if certified {
                        user.auth = Auth::Certificate;
                        user.password_hash = None;
                        user.certificates = vec![issued.record()];
                    } else {
                        user.expires_at = Some(end);
                    }
                });
                let wills = |connect: Connect| Connect { will: Some(will("gone", &name, Q1)), ..connect };
                let mut guest = if certified {
                    let trusted = roots(&harness.broker.started().trust_bundle);
                    let tls = Tls::connect(harness.address("tls"), tls_client(trusted, ANY_TLS, Some(identity))).await;
                    let mut guest = Client::over(tls.unwrap(), version);
                    let connack = guest.connect(&wills(connect(version, "g"))).await;
                    assert_eq!(connack.reason_code, ReasonCode::Success);
                    guest
                } else {
                    harness.login(&wills(as_user(version, "g", &name))).await
                };
                guest.subscribe("news", Q0).await;
                let left: Duration = end.duration_since(clock.timestamp()).try_into().unwrap();
                let soon = Duration::from_millis(50);
                clock.timeouts.advance(left - soon);
                guest.publish("alive", &name, Q1).await;
                watcher.expect_message("alive", &name).await;
                clock.timeouts.advance(soon);
                match trigger {
                    Trigger::Timer => {}
                    Trigger::Packet => {
                        // The timer may have been faster.
                        let _ = guest.try_send(Packet::Publish(publish("late", &name, Q0))).await;
                    }
                    Trigger::Delivery => {
                        watcher.publish("news", &name, Q0).await;
                        watcher.expect_message("news", &name).await;
                    }
                    Trigger::Cut => {
                        guest.cut();
                        continue;
                    }
                }
                guest.expect_ended_or_reset(version, ReasonCode::NotAuthorized).await;
                watcher.expect_silence().await;
            }
        }
    }
    // Those that were cut off, too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    watcher.expect_silence().await;
    assert!(harness.users().next_expiry().is_some_and(|at| at > clock.timestamp()), "no commit had a part in this");
}

/// A changed end holds for the sessions that are there: a later one as well as an earlier one.
#[tokio::test]
async fn a_changed_end_of_a_user_holds_for_live_sessions() {
    let clock = clock();
    let harness = Harness::start_at(&clock, "").await;
    for version in BOTH {
        let name = format!("guest-{version:?}").to_lowercase();
        let end = after(&clock, HOUR);
        let user = harness.user_with(&name, |user| {
            user.permissions = vec![allow("#")];
            user.expires_at = Some(end);
        });
        let mut guest = harness.client_of(&name, version, "g").await;
        let later = after(&clock, HOUR * 3);
        harness.change(user, move |user| user.expires_at = Some(later));
        clock.advance(HOUR * 2);
        for _ in 0..3 {
            guest.ping().await;
        }
        let sooner = after(&clock, Duration::from_mins(1));
        harness.change(user, move |user| user.expires_at = Some(sooner));
        guest.ping().await;
        clock.advance(Duration::from_mins(1));
        lapse(&harness, &clock).await;
        guest.expect_ended_or_reset(version, ReasonCode::NotAuthorized).await;
    }
}

/// The pattern of client identifiers is changed: sessions under others end, those that fit stay; refused at CONNECT.
#[tokio::test]
async fn a_changed_client_id_pattern_ends_the_sessions_that_do_not_fit() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let name = format!("line-{version:?}").to_lowercase();
        let user = harness.user(&name, vec![allow("#")]);
        let mut fits = harness.client_of(&name, version, &format!("{name}-1")).await;
        let mut other = harness.client_of(&name, version, "free-2").await;
        harness.change(user, |user| user.client_id = Some("${username}-*".to_owned()));
        other.expect_ended_or_reset(version, ReasonCode::NotAuthorized).await;
        fits.publish("t", "x", Q1).await;
        for client_id in ["free-2", "line", &name, &format!("x{name}-1")] {
            let connack = harness.refused(&as_user(version, client_id, &name)).await;
            assert_eq!(connack.reason_code, ReasonCode::NotAuthorized, "{client_id}");
        }
        harness.client_of(&name, version, &format!("{name}-")).await.disconnect().await;
        fits.ping().await;
    }
}

/// A user who may only come under certain identifiers cannot get in by leaving the identifier to the broker.
#[tokio::test]
async fn an_identifier_that_the_broker_draws_has_to_fit_too() {
    let harness = Harness::start("").await;
    harness.user_with("bound", |user| user.client_id = Some("${username}".to_owned()));
    for version in [V311, V5] {
        let connack = harness.refused(&as_user(version, "", "bound")).await;
        assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
    }
}

/// A 3.1.1 client whose grant ends is closed at its next PUBLISH, and not before.
#[tokio::test]
async fn a_3_1_1_client_is_closed_at_its_first_refused_message() {
    let clock = clock();
    let harness = Harness::start_at(&clock, "").await;
    let end = after(&clock, HOUR);
    harness.user("writer", vec![until(end, allow_write("t"))]);
    let mut writer = harness.client_of("writer", ProtocolVersion::V311, "w").await;
    writer.publish("t", "before", Q1).await;
    clock.advance(HOUR);
    lapse(&harness, &clock).await;
    writer.ping().await;
    writer.send(Packet::Publish(publish("t", "after", Q0))).await;
    writer.expect_closed().await;
}

impl Client {
    /// An end whose DISCONNECT is best effort: the close that follows it is abortive.
    async fn expect_ended_or_reset(&mut self, version: ProtocolVersion, reason_code: ReasonCode) {
        loop {
            match self.read().await {
                crate::client::Received::Closed => return,
                crate::client::Received::Packet(Packet::Disconnect(disconnect)) if version == V5 => {
                    assert_eq!(disconnect.reason_code, reason_code);
                }
                crate::client::Received::Packet(Packet::Publish(late)) => {
                    panic!("{} on {} after the end", text_of(&late), topic_of(&late))
                }
                crate::client::Received::Packet(other) => panic!("{other:?}"),
            }
        }
    }
}

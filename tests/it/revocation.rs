//! The rules move at the worst moment: between SUBACK and the first delivery, between PUBLISH and fan-out, during CONNECT,
//! during the check of a password, while messages wait.
//!
//! The checker is strict: when a commit returns, it reads what the kernel holds for each client; a forbidden message that
//! comes after that was handed to the kernel after the answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portcullis::{
    access::{Permission, Role, User, UserId},
    authn::{Argon2Parameters, PasswordHash},
    directory::{Actor, Expected},
    mqtt::{Connect, Packet, ProtocolVersion, QoS, ReasonCode},
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::{
    client::{BOTH, Client, Q0, Q1, Q2, Received, V5, V311, publish, text_of, topic_of, will},
    harness::{Harness, PASSWORD, allow, allow_read, allow_write, as_user, deny, hash},
};

/// Long enough for a delivery that was decided by old rules to come.
const A_WHILE: Duration = Duration::from_millis(5);

/// Changes a user, on a thread of its own: the clients go on meanwhile.
fn change(harness: &Harness, user: UserId, edit: impl FnOnce(&mut User) + Send + 'static) -> JoinHandle<()> {
    let users = harness.users();
    spawn_blocking(move || drop(users.update_user(user, Expected::Any, edit, &Actor::System).unwrap()))
}

fn permit(harness: &Harness, user: UserId, permissions: Vec<Permission>) -> JoinHandle<()> {
    change(harness, user, move |user| user.permissions = permissions)
}

/// Moments that wander over the time that a commit and a round trip take.
fn moment(round: u64) -> Duration {
    Duration::from_micros(round * 97 % 1500)
}

/// Publishes to `shut` and `open` all the time.
struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Traffic {
    async fn start(harness: &Harness, qos: QoS) -> Self {
        let mut client = harness.client(V5, "traffic").await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut number = 0_u64;
            while !stopped.load(Ordering::SeqCst) {
                for topic in ["shut", "open"] {
                    if qos == Q0 {
                        client.send(Packet::Publish(publish(topic, &number.to_string(), Q0))).await;
                    } else {
                        client.publish_at_once(topic, &number.to_string()).await;
                    }
                }
                number += 1;
                // Others live on this thread, too.
                sleep(Duration::from_micros(200)).await;
                drop(client.arrived());
            }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

fn forbidden(packets: &[Packet]) -> usize {
    packets.iter().filter(|packet| matches!(packet, Packet::Publish(publish) if topic_of(publish) == "shut")).count()
}

/// Nothing of `shut` comes any more; what the kernel had is passed over.
async fn assert_shut(clients: &mut [&mut Client], what: &str) {
    for client in &mut *clients {
        client.arrived();
    }
    sleep(A_WHILE).await;
    for client in clients {
        let (packets, closed) = client.arrived();
        assert_eq!(forbidden(&packets), 0, "{what}: {packets:?}");
        assert!(!closed, "{what}: the connection is not to end");
        acknowledge(client, &packets).await;
    }
}

async fn acknowledge(client: &mut Client, packets: &[Packet]) {
    for packet in packets {
        if let Packet::Publish(publish) = packet
            && publish.qos == Q1
        {
            client.acknowledge(publish).await;
        }
    }
}

/// The right goes between SUBACK and the first delivery, a little earlier, a little later.
#[tokio::test]
async fn between_suback_and_the_first_delivery() {
    let harness = Harness::start("").await;
    let user = harness.user("reader", vec![allow_read("open"), allow_read("shut")]);
    let traffic = Traffic::start(&harness, Q0).await;
    let mut retainer = harness.client(V5, "retainer").await;
    retainer.retain("shut", "retained", Q1).await;
    for round in 0..60 {
        let mut reader = harness.client_of("reader", BOTH[round % 2], "r").await;
        reader.subscribe("open", Q0).await;
        let mut subscribing = Box::pin(async {
            let code = reader.try_subscribe("shut", [Q0, Q1][round / 2 % 2]).await;
            (reader, code)
        });
        let committing = async {
            sleep(moment(round as u64)).await;
            permit(&harness, user, vec![allow_read("open")]).await.unwrap();
        };
        let ((mut reader, code), ()) = tokio::join!(&mut subscribing, committing);
        assert_shut(&mut [&mut reader], &format!("round {round}")).await;
        permit(&harness, user, vec![allow_read("open"), allow_read("shut")]).await.unwrap();
        if !code.is_error() {
            // Withheld, not removed.
            loop {
                let got = reader.receive().await;
                if topic_of(&got) == "shut" {
                    break;
                }
            }
        }
        reader.disconnect().await;
    }
    traffic.end().await;
}

/// The right of many goes between PUBLISH and fan-out; the others get every message.
#[tokio::test]
async fn between_publish_and_fan_out() {
    let harness = Harness::start("").await;
    let rights = || vec![allow_read("open"), allow_read("shut")];
    harness.role("line", rights());
    let mut readers = Vec::new();
    for number in 0..20 {
        let name = format!("holder-{number}");
        harness.user_with(&name, |user| user.roles = vec!["line".parse().unwrap()]);
        let mut reader = harness.client_of(&name, BOTH[number % 2], "r").await;
        reader.subscribe("open", Q1).await;
        reader.subscribe("shut", if number % 3 == 0 { Q1 } else { Q0 }).await;
        readers.push(reader);
    }
    let mut bystander = harness.client(V5, "bystander").await;
    bystander.subscribe("shut", Q0).await;
    let traffic = Traffic::start(&harness, Q0).await;
    let commit = |permissions: Vec<Permission>| {
        let users = harness.users();
        let role = Role::new("line".parse().unwrap(), permissions);
        spawn_blocking(move || drop(users.put_role(role, Expected::Any, &Actor::System).unwrap()))
    };
    let mut seen = 0;
    for round in 0..30 {
        sleep(moment(round)).await;
        commit(vec![allow_read("open")]).await.unwrap();
        assert_shut(&mut readers.iter_mut().collect::<Vec<_>>(), &format!("round {round}")).await;
        commit(rights()).await.unwrap();
        for reader in &mut readers {
            let (packets, closed) = reader.arrived();
            assert!(!closed);
            acknowledge(reader, &packets).await;
        }
        let (packets, closed) = bystander.arrived();
        assert!(!closed);
        for packet in &packets {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(text_of(publish), seen.to_string(), "the bystander misses nothing");
            seen += 1;
        }
    }
    assert!(seen > 0);
    traffic.end().await;
}

/// The right to publish goes while messages come: what is published after the answer reaches nobody.
#[tokio::test]
async fn the_publisher_loses_its_right_between_publish_and_fan_out() {
    let harness = Harness::start("").await;
    let user = harness.user("writer", vec![allow("t")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("t", Q0).await;
    for round in 0..30 {
        let mut writer = harness.client_of("writer", V5, "w").await;
        for _ in 0..200 {
            writer.send(Packet::Publish(publish("t", "before", Q0))).await;
        }
        sleep(moment(round)).await;
        permit(&harness, user, Vec::new()).await.unwrap();
        // What the broker has read or not of the 200 is one thing; this is after the answer.
        writer.send(Packet::Publish(publish("t", "after", Q0))).await;
        writer.ping().await;
        watcher.arrived();
        sleep(A_WHILE).await;
        let (packets, closed) = watcher.arrived();
        // What was accepted before the answer may still be on its way to a reader who may have it.
        let late =
            packets.iter().any(|packet| matches!(packet, Packet::Publish(publish) if publish.payload == "after"));
        assert!(!closed && !late, "round {round}");
        permit(&harness, user, vec![allow("t")]).await.unwrap();
        writer.disconnect().await;
    }
}

/// CONNECT, SUBSCRIBE and PUBLISH in one go, while the user is disabled: whoever gets in, nothing passes after the answer.
#[tokio::test]
async fn during_connect() {
    let harness = Harness::start("").await;
    let user = harness.user("guest-1", vec![allow_read("shut"), allow_write("from")]);
    let traffic = Traffic::start(&harness, Q0).await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("from", Q0).await;
    for round in 0..60 {
        let version = BOTH[round % 2];
        let mut client = Client::open(harness.plain(), version).await;
        client.send(Packet::Connect(Box::new(as_user(version, "c", "guest-1")))).await;
        let subscribe: &[u8] = match version {
            V5 => b"\x82\x0A\x00\x01\x00\x00\x04shut\x00",
            V311 => b"\x82\x09\x00\x01\x00\x04shut\x00",
        };
        client.send_raw(subscribe).await;
        sleep(moment(round as u64)).await;
        change(&harness, user, |user| user.enabled = false).await.unwrap();
        client.arrived();
        watcher.arrived();
        // The connection may end before this is written.
        let _ended = client.try_send(Packet::Publish(publish("from", "after", Q0))).await;
        loop {
            match client.read().await {
                Received::Packet(Packet::Publish(publish)) => panic!("round {round}: {publish:?} after the answer"),
                Received::Packet(_) => {}
                Received::Closed => break,
            }
        }
        watcher.expect_silence().await;
        change(&harness, user, |user| user.enabled = true).await.unwrap();
    }
    traffic.end().await;
}

type Ending = fn(&mut User);

/// The user changes while argon2 works on its password: the proof is one of yesterday.
#[tokio::test]
async fn during_the_argon2_check() {
    let harness = Harness::start("").await;
    let endings: [(&str, Ending); 4] = [
        ("disabled", |user| user.enabled = false),
        ("another password", |user| user.password_hash = Some(hash("another password"))),
        ("another proof", |user| {
            user.auth = portcullis::access::Auth::Certificate;
            user.password_hash = None;
        }),
        ("expired", |user| user.expires_at = Some(jiff::Timestamp::now())),
    ];
    // Slow enough that the change comes first.
    let parameters = Argon2Parameters::new(19_456, 2, 1).unwrap();
    let slow = PasswordHash::of(PASSWORD.as_bytes(), parameters).unwrap().as_str().to_owned();
    let mut during = 0;
    for (number, (what, ending)) in endings.into_iter().enumerate() {
        for version in BOTH {
            let name = format!("user-{number}-{version:?}").to_lowercase();
            let hash = slow.clone();
            let user = harness.user_with(&name, |user| {
                user.password_hash = Some(hash);
                user.permissions = vec![allow("#")];
            });
            let mut client = Client::open(harness.plain(), version).await;
            client.send(Packet::Connect(Box::new(as_user(version, "c", &name)))).await;
            sleep(Duration::from_millis(3)).await;
            let (before, _) = client.arrived();
            change(&harness, user, ending).await.unwrap();
            during += u32::from(before.is_empty());
            loop {
                match client.read().await {
                    Received::Packet(Packet::ConnAck(connack)) => {
                        assert!(connack.reason_code.is_error(), "{what}: let in after the answer");
                    }
                    Received::Packet(Packet::Disconnect(_)) => assert!(!before.is_empty(), "{what}"),
                    Received::Packet(packet) => panic!("{what}: {packet:?}"),
                    Received::Closed => break,
                }
            }
        }
    }
    assert!(during > 0, "no check was slow enough");
    // A deleted user, and another one of the same name and password: the proof was of the first one.
    let user = harness.user_with("phoenix", |user| user.password_hash = Some(slow.clone()));
    let mut client = Client::open(harness.plain(), V5).await;
    client.send(Packet::Connect(Box::new(as_user(V5, "c", "phoenix")))).await;
    sleep(Duration::from_millis(3)).await;
    harness.delete(user);
    harness.user("phoenix", vec![allow("#")]);
    while let Received::Packet(packet) = client.read().await {
        assert!(!matches!(&packet, Packet::ConnAck(connack) if !connack.reason_code.is_error()), "{packet:?}");
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

/// Messages that wait for a client that is away go through the gate when they are sent, not when they are queued.
#[tokio::test]
async fn queued_messages_are_judged_when_they_are_sent() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let name = format!("reader-{version:?}").to_lowercase();
        let user = harness.user(&name, vec![allow_read("open"), allow_read("shut")]);
        let connect = lasting(version, "r", &name);
        let mut reader = harness.login(&connect).await;
        reader.subscribe("open", Q1).await;
        reader.subscribe("shut", Q2).await;
        reader.disconnect().await;
        let mut writer = harness.client(V5, "w").await;
        let fill = async |writer: &mut Client, words: &str| {
            for topic in ["shut", "open"] {
                writer.publish(topic, words, Q2).await;
            }
        };
        fill(&mut writer, "one").await;
        harness.permit(user, vec![allow_read("open")]);
        fill(&mut writer, "two").await;
        let mut reader = harness.login(&connect).await;
        assert!(reader.connack.as_ref().unwrap().session_present);
        reader.expect_message("open", "one").await;
        reader.expect_message("open", "two").await;
        reader.expect_silence().await;
        // The right returns before the client does: nothing was lost by its absence alone.
        reader.disconnect().await;
        harness.permit(user, vec![allow_read("open"), allow_read("shut")]);
        fill(&mut writer, "three").await;
        harness.permit(user, vec![allow_read("open")]);
        harness.permit(user, vec![allow_read("open"), allow_read("shut")]);
        let mut reader = harness.login(&connect).await;
        for topic in ["shut", "open"] {
            reader.expect_message(topic, "three").await;
        }
        reader.expect_silence().await;
        // Disabled while away: no way in; enabled again, the session is still there.
        reader.disconnect().await;
        harness.change(user, |user| user.enabled = false);
        fill(&mut writer, "four").await;
        harness.refused(&connect).await;
        harness.change(user, |user| user.enabled = true);
        let reader = harness.login(&connect).await;
        assert!(reader.connack.as_ref().unwrap().session_present);
    }
}

/// Retained messages for a new subscription are judged one by one as they are sent; the publisher's right counts, too.
#[tokio::test]
async fn retained_messages_are_judged_when_they_are_sent() {
    let harness = Harness::start("").await;
    let user = harness.user("reader", vec![allow_read("kept/#")]);
    let author = harness.user("author", vec![allow("kept/#")]);
    let mut writer = harness.client_of("author", V5, "w").await;
    // More than the socket of a reader that does not read takes.
    let filling = "x".repeat(50_000);
    for number in 0..200 {
        writer.retain(&format!("kept/{number:03}"), &filling, Q1).await;
    }
    for version in BOTH {
        for qos in [Q0, Q1] {
            let mut reader = Client::open_narrow(harness.plain(), version).await;
            reader.connect(&as_user(version, "r", "reader")).await;
            reader.subscribe("kept/#", qos).await;
            harness.permit(user, vec![allow_read("kept/#"), deny("kept/#")]);
            // The kernel's share is read, and then there is an end of it.
            reader.send(Packet::PingReq).await;
            let mut got = 0;
            loop {
                match reader.recv().await {
                    Packet::Publish(publish) => {
                        got += 1;
                        reader.acknowledge(&publish).await;
                    }
                    Packet::PingResp => break,
                    other => panic!("{other:?}"),
                }
            }
            assert!(got < 200, "nothing was taken back");
            reader.expect_silence().await;
            harness.permit(user, vec![allow_read("kept/#")]);
            reader.disconnect().await;
        }
    }
    // The author's right ends: nobody gets what it kept, until it has the right again.
    let mut reader = harness.client_of("reader", V311, "r").await;
    harness.permit(author, Vec::new());
    reader.subscribe("kept/000", Q1).await;
    reader.expect_silence().await;
    harness.permit(author, vec![allow("kept/#")]);
    reader.subscribe("kept/000", Q1).await;
    assert!(reader.receive().await.retain);
}

/// A Will is judged when it is fired: at the end of the connection, or later, when its delay is over.
#[tokio::test]
async fn wills_are_judged_when_they_are_fired() {
    let harness = Harness::start("").await;
    let user = harness.user("mortal", vec![allow("will/#")]);
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("will/#", Q1).await;
    let with_will = |version, delay: Option<u32>| {
        let mut connect = lasting(version, "c", "mortal");
        let mut testament = will("will/x", "gone", Q1);
        testament.delay_interval = delay;
        connect.will = Some(testament);
        connect
    };
    for version in BOTH {
        // Live, then cut.
        let client = harness.login(&with_will(version, None)).await;
        harness.permit(user, vec![allow_read("will/#")]);
        client.cut();
        watcher.expect_silence().await;
        sleep(Duration::from_millis(50)).await;
        watcher.expect_silence().await;
        harness.permit(user, vec![allow("will/#")]);
        // Taken away and given back: it is still there.
        let client = harness.login(&with_will(version, None)).await;
        harness.permit(user, vec![allow_read("will/#")]);
        harness.permit(user, vec![allow("will/#")]);
        client.cut();
        watcher.expect_message("will/x", "gone").await;
    }
    // Waiting for its delay, while nobody is connected.
    for permitted in [false, true] {
        harness.login(&with_will(V5, Some(1))).await.cut();
        sleep(Duration::from_millis(200)).await;
        if permitted {
            harness.permit(user, Vec::new());
        }
        harness.permit(user, if permitted { vec![allow("will/#")] } else { Vec::new() });
        if permitted {
            watcher.expect_message("will/x", "gone").await;
        } else {
            sleep(Duration::from_millis(1200)).await;
            watcher.expect_silence().await;
            harness.permit(user, vec![allow("will/#")]);
        }
    }
    // A disabled user has no last word.
    let mut client = harness.login(&with_will(V5, None)).await;
    harness.change(user, |user| user.enabled = false);
    client.expect_ended(ReasonCode::NotAuthorized).await;
    watcher.expect_silence().await;
}

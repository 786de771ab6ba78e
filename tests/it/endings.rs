//! How connections end: silence, malformed packets, limits, readers that do not read, and the end of the broker.

use portcullis::{
    clock::ManualClock,
    mqtt::{Packet, ReasonCode},
};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    certificates::{ANY_TLS, roots, tls_client},
    client::{BOTH, Client, PATIENCE, Q0, Q1, Q2, Received, Tls, V5, V311, text_of, topic_of, will},
    harness::{Harness, TESTER, as_user, lasting},
};

/// `[MQTT-3.1.2-22]` of 5.0, `[MQTT-3.1.2-24]` of 3.1.1
#[tokio::test]
async fn who_is_silent_for_too_long_is_closed() {
    let harness = Harness::start("").await;
    for version in BOTH {
        let mut connect = as_user(version, "c", TESTER);
        connect.keep_alive = 1;
        let mut silent = harness.login(&connect).await;
        connect.client_id = "pings".try_into().unwrap();
        let mut pings = harness.login(&connect).await;
        let mut without = harness.client(version, "no-keep-alive").await; // 0 means none
        let begin = Instant::now();
        let pinging = async {
            for _ in 0..5 {
                sleep(Duration::from_millis(500)).await;
                pings.ping().await;
            }
        };
        let closing = async {
            silent.expect_ended(ReasonCode::KeepAliveTimeout).await;
            begin.elapsed()
        };
        let ((), after) = tokio::join!(pinging, closing);
        assert!(after >= Duration::from_millis(1400), "closed after {after:?} of 1.5 s");
        pings.expect_silence().await;
        without.expect_silence().await;
    }
}

/// `[MQTT-3.2.2-21]` `[MQTT-3.2.2-22]`: the broker's own Keep Alive is announced and used.
#[tokio::test]
async fn the_operator_bounds_the_keep_alive() {
    let harness = Harness::start("[limits]\nkeep_alive = \"5s\"").await;
    for (asked, told) in [(0, Some(5)), (60, Some(5)), (5, None), (2, None)] {
        let mut connect = as_user(V5, "c", TESTER);
        connect.keep_alive = asked;
        let client = harness.login(&connect).await;
        assert_eq!(client.connack.unwrap().properties.server_keep_alive, told);
    }
}

/// `[MQTT-4.8.0-1]` `[MQTT-4.13.1-1]`: each kind of malformed packet ends its connection, with the right code, and no other.
#[tokio::test]
async fn a_malformed_packet_ends_its_own_connection_only() {
    use ReasonCode::{MalformedPacket, ProtocolError};

    let harness = Harness::start("").await;
    let mut bystander = harness.client(V5, "bystander").await;
    bystander.subscribe("t", Q1).await;
    let both: [(&str, &[u8], ReasonCode); 15] = [
        ("reserved packet type 0", &[0x00, 0], MalformedPacket),
        ("reserved flags of PINGREQ", &[0xC1, 0], MalformedPacket),
        ("reserved flags of SUBSCRIBE", &[0x80, 0], MalformedPacket),
        ("reserved flags of PUBREL", &[0x60, 2, 0, 1], MalformedPacket),
        ("remaining length of five bytes", &[0x30, 0x80, 0x80, 0x80, 0x80, 1], MalformedPacket),
        ("QoS 3", &[0x36, 5, 0, 1, b't', 0, 1], MalformedPacket),
        ("DUP at QoS 0", &[0x38, 3, 0, 1, b't'], MalformedPacket),
        ("packet identifier 0", &[0x32, 6, 0, 1, b't', 0, 0, 0], ProtocolError),
        ("a topic longer than the packet", &[0x30, 3, 0, 9, b't'], MalformedPacket),
        ("a topic that is not UTF-8", &[0x30, 4, 0, 1, 0xFF, 0], MalformedPacket),
        ("a surrogate in a topic", &[0x30, 6, 0, 3, 0xED, 0xA0, 0x80, 0], MalformedPacket),
        ("NUL in a topic", &[0x30, 4, 0, 1, 0, 0], MalformedPacket),
        ("PINGREQ with a body", &[0xC0, 1, 0], MalformedPacket),
        ("CONNACK from a client", &[0x20, 2, 0, 0], ProtocolError),
        ("PINGRESP from a client", &[0xD0, 0], ProtocolError),
    ];
    let only_v5: [(&str, &[u8], ReasonCode); 9] = [
        ("a wildcard in a topic name", &[0x30, 4, 0, 1, b'+', 0], ReasonCode::TopicNameInvalid),
        ("an empty topic without alias", &[0x30, 3, 0, 0, 0], ProtocolError),
        ("an unknown property", &[0x30, 6, 0, 1, b't', 2, 0x7F, 0], MalformedPacket),
        ("a property of another packet", &[0x30, 9, 0, 1, b't', 5, 0x11, 0, 0, 0, 1], MalformedPacket),
        ("a property twice", &[0x30, 8, 0, 1, b't', 4, 1, 0, 1, 0], ProtocolError),
        ("SUBSCRIBE without a filter", &[0x82, 3, 0, 1, 0], ProtocolError),
        ("subscription identifier 0", &[0x82, 9, 0, 1, 2, 0x0B, 0, 0, 1, b't', 0], ProtocolError),
        ("AUTH without a method", &[0xF0, 0], ProtocolError),
        ("no local on a shared subscription", b"\x82\x10\x00\x01\x00\x00\x0A$share/g/t\x04", ProtocolError),
    ];
    let only_v311: [(&str, &[u8]); 5] = [
        ("a wildcard in a topic name", &[0x30, 3, 0, 1, b'#']),
        ("an empty topic", &[0x30, 2, 0, 0]),
        ("SUBSCRIBE without a filter", &[0x82, 2, 0, 1]),
        ("a requested QoS of 3", &[0x82, 6, 0, 1, 0, 1, b't', 3]),
        ("AUTH", &[0xF0, 0]),
    ];
    for (what, bytes, reason_code) in both.into_iter().chain(only_v5) {
        let mut client = harness.client(V5, "c").await;
        client.send_raw(bytes).await;
        match client.read().await {
            Received::Packet(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason_code, reason_code, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        client.expect_closed().await;
    }
    for (what, bytes) in both.into_iter().map(|(what, bytes, _)| (what, bytes)).chain(only_v311) {
        let mut client = harness.client(V311, "c").await;
        client.send_raw(bytes).await;
        match client.read().await {
            Received::Closed => {}
            Received::Packet(packet) => panic!("{what}: {packet:?}"),
        }
    }
    bystander.publish("t", "undisturbed", Q1).await;
    bystander.expect_message("t", "undisturbed").await;
}

/// A client that sends and does not read holds itself up, not the broker's memory; when it reads, everything goes on.
#[tokio::test]
async fn a_flood_of_pings_is_answered_in_the_end() {
    let harness = Harness::start_with_listeners(
        "[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:0\"\ntls = true",
    )
    .await;
    let count = 4 << 20;
    let pings = [0xC0, 0x00].repeat(count);
    for tls in [false, true] {
        let mut client = if tls {
            let config = tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, None);
            Client::over(Tls::connect(harness.address("tls"), config).await.unwrap(), V5)
        } else {
            Client::open_narrow(harness.plain(), V5).await
        };
        client.connect(&as_user(V5, "c", TESTER)).await;
        client.flood(&pings).await;
        let pongs = client.read_raw(2 * count).await;
        assert!(pongs == [0xD0, 0x00].repeat(count));
        client.expect_silence().await;
    }
}

/// What was sent before the end of the stream counts: messages, and the DISCONNECT that takes the Will back.
#[tokio::test]
async fn what_came_before_the_end_of_the_stream_counts() {
    let harness = Harness::start("").await;
    let mut reader = harness.client(V5, "r").await;
    reader.subscribe("#", Q0).await;
    for orderly in [true, false] {
        for version in BOTH {
            let mut connect = as_user(version, "c", TESTER);
            connect.will = Some(crate::client::will("will", "gone", Q0));
            let mut client = harness.login(&connect).await;
            for number in 0..1000 {
                client.publish_at_once("t", &number.to_string()).await;
            }
            if orderly {
                client.send(crate::client::disconnect(ReasonCode::Success)).await;
            }
            client.finish().await;
            for number in 0..1000 {
                reader.expect_message("t", &number.to_string()).await;
            }
            if !orderly {
                reader.expect_message("will", "gone").await;
            }
            client.expect_closed().await;
            reader.expect_silence().await;
        }
    }
}

/// A packet that came in time counts, however late the broker gets to look at it.
#[tokio::test]
async fn input_counts_before_the_clock() {
    let clock = ManualClock::new(jiff::Timestamp::now());
    let harness = Harness::start_by(clock.clone(), "").await;
    let mut connect = as_user(V5, "c", TESTER);
    connect.keep_alive = 10;
    let mut client = harness.login(&connect).await;
    client.ping().await;
    clock.advance(Duration::from_secs(14));
    client.ping().await;
    clock.advance(Duration::from_secs(16));
    client.ping().await;
}

/// What was well-formed before the malformed packet has been done.
#[tokio::test]
async fn packets_before_a_malformed_one_count() {
    let harness = Harness::start("").await;
    let mut reader = harness.client(V5, "r").await;
    reader.subscribe("t", Q1).await;
    let mut client = harness.client(V5, "c").await;
    client.send_raw(&[0x30, 6, 0, 1, b't', 0, b'h', b'i', 0x00, 0x00]).await;
    client.expect_ended(ReasonCode::MalformedPacket).await;
    reader.expect_message("t", "hi").await;
}

/// A reader that does not read holds up neither the publisher nor other readers, and what waits for it is bounded.
#[tokio::test]
async fn a_slow_consumer_is_alone_with_its_slowness() {
    let harness = Harness::start("[limits]\nqueue_messages = 50").await;
    for qos in [Q0, Q1] {
        let mut slow = Client::open_narrow(harness.plain(), V5).await;
        let mut connect = lasting(V5, "slow");
        connect.clean_start = true;
        assert_eq!(slow.connect(&connect).await.reason_code, ReasonCode::Success);
        slow.subscribe("flood", qos).await;
        let mut quick = harness.client(V311, "quick").await;
        quick.subscribe("flood", Q1).await;
        let mut writer = harness.client(V5, "w").await;
        // 32 MiB: no socket buffer takes that.
        let filling = "x".repeat(64 * 1024);
        let total = 512;
        let begin = Instant::now();
        for number in 0..total {
            writer.publish("flood", &format!("{number} {filling}"), Q1).await;
            let got = quick.receive().await;
            assert!(got.payload.starts_with(format!("{number} ").as_bytes()));
        }
        println!("{total} messages past a reader that does not read: {:?}", begin.elapsed());
        // Now it reads: what it gets is in order, without holes in the older part, and less than was sent.
        let (mut got, mut pongs) = (0, 0);
        slow.send(Packet::PingReq).await;
        // Two answers with nothing in between: nothing waits any more.
        while pongs < 2 {
            match slow.recv().await {
                Packet::PingResp => {
                    pongs += 1;
                    slow.send(Packet::PingReq).await;
                }
                Packet::Publish(publish) => {
                    pongs = 0;
                    assert!(publish.payload.starts_with(format!("{got} ").as_bytes()), "message {got}");
                    slow.acknowledge(&publish).await;
                    got += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((50..total).contains(&got), "{got} of {total}");
        // It is as good as new.
        writer.publish("flood", "last", Q1).await;
        while !matches!(slow.recv().await, Packet::Publish(publish) if publish.payload == "last") {}
        quick.expect_message("flood", "last").await;
    }
}

/// A client that subscribes over and over, and does not take what it asked for, gets each message once in the end.
#[tokio::test]
async fn retained_messages_for_a_reader_that_does_not_read_are_bounded() {
    let harness = Harness::start("").await;
    let mut writer = harness.client(V5, "w").await;
    for number in 0..20 {
        writer.retain(&format!("r/{number}"), "kept", Q1).await;
    }
    let mut connect = as_user(V5, "c", TESTER);
    connect.properties.receive_maximum = std::num::NonZeroU16::new(1);
    let mut client = harness.login(&connect).await;
    client.subscribe("r/0", Q1).await;
    let first = client.expect_publish().await;
    for _ in 0..100 {
        client.subscribe("r/+", Q1).await;
    }
    client.acknowledge(&first).await;
    for _ in 0..20 {
        client.receive().await;
    }
    client.expect_silence().await;
}

/// `limits.connections` and `limits.connections_per_address`
#[tokio::test]
async fn connections_are_limited() {
    let harness = Harness::start("[limits]\nconnections = 5\nconnections_per_address = 3").await;
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(harness.client(V5, &format!("c{number}")).await);
    }
    // One too many from this address: closed before a byte is read.
    Client::open(harness.plain(), V5).await.expect_closed().await;
    // Another address still gets in, until all places are taken.
    let other = "127.0.0.2".parse().unwrap();
    for number in 0..2 {
        let mut client = Client::open_from(other, harness.plain(), V5).await;
        let connack = client.connect(&as_user(V5, &format!("o{number}"), TESTER)).await;
        assert_eq!(connack.reason_code, ReasonCode::Success);
        clients.push(client);
    }
    Client::open_from(other, harness.plain(), V5).await.expect_closed().await;
    for client in &mut clients {
        client.expect_silence().await;
    }
    // A place comes back with the end of its connection.
    clients.pop().unwrap().disconnect().await;
    let begin = Instant::now();
    loop {
        let mut client = Client::open_from(other, harness.plain(), V5).await;
        if client.try_send(Packet::Connect(Box::new(as_user(V5, "again", TESTER)))).await.is_ok()
            && let Received::Packet(Packet::ConnAck(connack)) = client.read().await
        {
            assert_eq!(connack.reason_code, ReasonCode::Success);
            break;
        }
        assert!(begin.elapsed() < PATIENCE);
    }
}

/// `limits.sessions`: with and without a connection. A CONNECT that is refused leaves none behind.
#[tokio::test]
async fn sessions_are_limited() {
    let harness = Harness::start("[limits]\nsessions = 2").await;
    for number in 0..5 {
        let mut refused = as_user(BOTH[number % 2], &format!("refused-{number}"), TESTER);
        refused.will = Some(crate::client::will("$SYS/x", "not permitted", Q0));
        assert!(harness.refused(&refused).await.reason_code.is_error());
    }
    harness.login(&lasting(V5, "absent")).await.disconnect().await;
    let present = harness.client(V311, "present").await;
    let refused = harness.refused(&as_user(V5, "third", TESTER)).await;
    assert_eq!(refused.reason_code, ReasonCode::QuotaExceeded);
    assert!(harness.refused(&as_user(V311, "third", TESTER)).await.reason_code.is_error());
    // Those that there are can still be taken up.
    let absent = harness.login(&lasting(V5, "absent")).await;
    assert!(absent.connack.as_ref().unwrap().session_present);
    present.disconnect().await;
    harness.client(V5, "third").await.disconnect().await;
}

/// The end of the broker: version 5 is told 0x8B, 3.1.1 is closed, whether the client reads or not.
#[tokio::test]
async fn a_shutdown_says_goodbye() {
    let harness = Harness::start("").await;
    let mut new = harness.client(V5, "new").await;
    let mut old = harness.client(V311, "old").await;
    let mut before_connect = Client::open(harness.plain(), V5).await;
    let mut stuck = Client::open_narrow(harness.plain(), V5).await;
    stuck.connect(&as_user(V5, "stuck", TESTER)).await;
    stuck.subscribe("flood", Q0).await;
    for _ in 0..100 {
        new.publish("flood", &"x".repeat(100_000), Q2).await;
    }
    let address = harness.plain();
    let Harness { broker, directory } = harness;
    let begin = Instant::now();
    let shutdown = tokio::spawn(broker.shutdown());
    new.expect_ended(ReasonCode::ServerShuttingDown).await;
    old.expect_closed().await;
    before_connect.expect_closed().await;
    tokio::time::timeout(PATIENCE, shutdown).await.expect("the shutdown ends").unwrap();
    println!("shutdown with a client that does not read: {:?}", begin.elapsed());
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
    assert!(!directory.path().join("data/admin.sock").exists());
}

/// A client that never stops sending is told, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_reaches_who_never_stops_sending() {
    let harness = Harness::start("").await;
    let mut clients = Vec::new();
    for number in 0..2 {
        let mut client = harness.client(V5, &format!("c{number}")).await;
        clients.push(tokio::spawn(async move {
            let burst = [0x30, 4, 0, 1, b't', 0].repeat(1000);
            let mut sent = 0_usize;
            while client.try_send_raw(&burst).await.is_ok() {
                sent += 1;
            }
            // The DISCONNECT may be lost if the kernel has reset the connection; the end is not.
            while let Received::Packet(packet) = client.read().await {
                assert!(matches!(packet, Packet::Disconnect(_)), "{packet:?}");
            }
            sent
        }));
    }
    sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    harness.broker.shutdown().await;
    println!("shutdown among clients that never stop: {:?}", begin.elapsed());
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

/// Dropping the broker is its end, too.
#[tokio::test]
async fn a_dropped_broker_leaves_nothing_running() {
    let harness = Harness::start("").await;
    let mut client = harness.client(V5, "c").await;
    let address = harness.plain();
    let handle = harness.handle();
    drop(harness.broker);
    while let Received::Packet(_) = client.read().await {}
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    // A handle that is still there is of no use, and does no harm.
    let _ = handle.publish("t".try_into().unwrap(), "x", Q1, false);
}

/// Cut off in one moment, and two of three back in the next: whoever comes finds its session, though nobody may have ended its
/// old connection yet; no late end meets the new one; each Will is published once. What the others sent last still counts.
#[tokio::test]
async fn a_fleet_that_is_cut_off_and_back_at_once_finds_everything_in_order() {
    const FLEET: usize = 240;
    let harness = Harness::start("").await;
    let mut watcher = harness.client(V5, "watcher").await;
    watcher.subscribe("fleet/#", Q1).await;
    let connects: Vec<_> = (0..FLEET)
        .map(|number| {
            let mut connect = lasting(if number % 2 == 0 { V5 } else { V311 }, &format!("ship-{number}"));
            connect.will = Some(will(&format!("fleet/{number}"), "gone", Q1));
            connect
        })
        .collect();
    let mut fleet = Vec::new();
    for connect in &connects {
        fleet.push(harness.login(connect).await);
    }
    for (number, mut ship) in fleet.into_iter().enumerate() {
        match number % 3 {
            0 => ship.cut(),
            1 => drop(ship),
            _ => ship.publish_at_once(&format!("fleet/{number}"), "last").await,
        }
    }
    let mut back = Vec::new();
    for (_, connect) in connects.iter().enumerate().filter(|(number, _)| number % 3 < 2) {
        let ship = harness.login(connect).await;
        assert!(ship.connack.as_ref().unwrap().session_present);
        back.push(ship);
    }
    let mut heard = vec![Vec::new(); FLEET];
    for _ in 0..FLEET + FLEET / 3 {
        let publish = watcher.receive().await;
        let number: usize = topic_of(&publish).strip_prefix("fleet/").unwrap().parse().unwrap();
        heard[number].push(text_of(&publish).to_owned());
    }
    for (number, heard) in heard.iter().enumerate() {
        let expected: &[&str] = if number % 3 < 2 { &["gone"] } else { &["last", "gone"] };
        assert_eq!(heard, expected, "of ship {number}");
    }
    for ship in &mut back {
        ship.ping().await;
    }
    watcher.expect_silence().await;
}

//! The inputs, one function each, and the probe that tells whether a broker still serves others.
//!
//! In: a broker. Out: what was seen, in words, and a verdict. Each is bounded in count and time. Verdicts follow the
//! MQTT 3.1.1 specification where it decides; where it does not (speed, memory) the figure is given with the bound
//! that was used.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Door, PATIENCE, Packet};
use crate::subject::Subject;
use crate::wire::{self, Ack};

type Login<'a> = Option<&'a (String, String)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Failed,
    /// The broker refuses by policy, or it could not be looked at.
    Open,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failed => "FAILED",
            Self::Open => "-",
        }
    }
}

pub struct Observed {
    pub verdict: Verdict,
    pub text: String,
}

fn observed(good: bool, text: String) -> io::Result<Observed> {
    Ok(Observed { verdict: if good { Verdict::Good } else { Verdict::Failed }, text })
}

pub struct Input {
    pub name: &'static str,
    pub give: fn(&mut Subject, Login<'_>) -> io::Result<Observed>,
}

pub const INPUTS: &[Input] = &[
    Input { name: "keep-alive-0", give: keep_alive_zero },
    Input { name: "busy-disconnect", give: busy_disconnect },
    Input { name: "non-ascii-topic", give: non_ascii_topic },
    Input { name: "connack-from-client", give: connack_from_client },
    Input { name: "slow-subscriber", give: slow_subscriber },
    Input { name: "dollar-topic", give: dollar_topic },
    Input { name: "qos2-exactly-once", give: exactly_once },
    Input { name: "many-topics", give: many_topics },
    Input { name: "many-filters", give: many_filters },
    Input { name: "many-client-ids", give: many_client_ids },
    Input { name: "publish-100k-filters", give: cost_of_filters },
    Input { name: "idle-connections", give: idle_connections },
    Input { name: "crash-and-restart", give: crash_and_restart },
];

fn door(subject: &Subject, login: Login<'_>) -> Door {
    Door { address: subject.address, login: login.cloned() }
}

/// A new publisher reaches a new subscriber, with an acknowledgement.
pub fn serves_others(subject: &Subject, login: Login<'_>) -> Result<(), String> {
    let door = door(subject, login);
    let probe = || -> io::Result<()> {
        let mut subscriber = Client::connect(&door, "probe-subscriber", true)?;
        subscriber.subscribe("failures/probe", 0)?;
        let mut publisher = Client::connect(&door, "probe-publisher", true)?;
        publisher.publish("failures/probe", 1, 0, 7, b"alive?")?;
        publisher.expect(|packet| *packet == Packet::Ack(Ack::Puback, 7), "PUBACK")?;
        subscriber.expect(|packet| matches!(packet, Packet::Publish { .. }), "delivery")?;
        Ok(())
    };
    probe().map_err(|error| error.to_string())
}

/// Keep Alive 0 turns the mechanism off [MQTT 3.1.1, 3.1.2.10].
fn keep_alive_zero(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    match Client::connect_with(&door(subject, login), "no-keep-alive", true, 0) {
        Ok(_) => observed(true, "accepted".to_owned()),
        Err(error) => observed(false, format!("CONNECT with Keep Alive 0: {error}")),
    }
}

/// Subscribers of a busy topic come, receive, and say DISCONNECT, as they should.
fn busy_disconnect(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    let busy = Arc::new(AtomicBool::new(true));
    let publisher = {
        let (door, busy) = (door.clone(), Arc::clone(&busy));
        thread::spawn(move || -> io::Result<u64> {
            let mut client = Client::connect(&door, "busy-publisher", true)?;
            let mut batch = Vec::new();
            for _ in 0..500 {
                wire::publish(&mut batch, b"failures/busy", 0, 0, 0, 64);
                batch.extend_from_slice(&[0; 64]);
            }
            let mut sent = 0;
            while busy.load(Ordering::Relaxed) {
                client.send(&batch)?;
                sent += 500;
                thread::sleep(Duration::from_micros(500));
            }
            Ok(sent)
        })
    };
    let (mut goodbyes, mut cut_off) = (0, 0);
    let mut lost = None;
    for round in 0..40 {
        let attempt = || -> io::Result<bool> {
            let mut client = Client::connect(&door, &format!("busy-{round}"), true)?;
            client.subscribe_busy("failures/busy")?;
            let until = Instant::now() + Duration::from_millis(50);
            while Instant::now() < until {
                match client.receive(PATIENCE) {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(io::Error::other("no more deliveries")),
                    Err(_) => return Ok(false),
                }
            }
            client.disconnect_and_wait(Duration::from_millis(200))?;
            Ok(true)
        };
        match attempt() {
            Ok(true) => goodbyes += 1,
            Ok(false) => cut_off += 1,
            Err(error) => {
                lost = Some(error);
                break;
            }
        }
    }
    busy.store(false, Ordering::Relaxed);
    let published = match publisher.join().map_err(|_| io::Error::other("the publisher panicked"))? {
        Ok(sent) => format!("{sent} messages published"),
        Err(error) => format!("publisher: {error}"),
    };
    let end = lost.as_ref().map_or(String::new(), |error| format!("; then no subscriber was served any more: {error}"));
    let text = format!(
        "{goodbyes} subscribers received and said DISCONNECT, {cut_off} were cut off before they could{end}; {published}"
    );
    observed(lost.is_none() && cut_off == 0, text)
}

/// A topic is any UTF-8 [MQTT-1.5.3-1, 4.7.3].
fn non_ascii_topic(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    let mut subscriber = Client::connect(&door, "umlaut-subscriber", true)?;
    let code = subscriber.subscribe("été/#", 0)?;
    let mut publisher = Client::connect(&door, "umlaut-publisher", true)?;
    publisher.publish("été/température", 0, 0, 0, b"21")?;
    match subscriber.expect(|packet| matches!(packet, Packet::Publish { .. }), "delivery") {
        Ok(_) => observed(true, "PUBLISH to `été/température` was delivered".to_owned()),
        Err(error) => observed(false, format!("PUBLISH to `été/température` (SUBACK {code:#04x}): {error}")),
    }
}

/// A packet that only a server sends, in MQTT 5: a protocol violation of one client, who is to be cut off alone
/// [MQTT-4.13.1-1].
fn connack_from_client(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = Door { address: subject.address5, ..door(subject, login) };
    let mut client = Client::connect5(&door, "odd")?;
    client.send(&[0x20, 3, 0, 0, 0])?;
    let cut = loop {
        match client.receive(PATIENCE) {
            Err(_) => break true,
            Ok(None) => break false,
            // DISCONNECT, perhaps.
            Ok(Some(_)) => {}
        }
    };
    drop(client);
    thread::sleep(Duration::from_millis(200));
    let again = Client::connect5(&door, "odd").map(drop);
    let other = Client::connect5(&door, "another").map(drop);
    let word = |result: &io::Result<()>| match result {
        Ok(()) => "can connect".to_owned(),
        Err(error) => format!("cannot connect: {error}"),
    };
    let text = format!(
        "the client was {}; it {} again; another client {}",
        if cut { "cut off" } else { "not cut off" },
        word(&again),
        word(&other)
    );
    observed(cut && again.is_ok() && other.is_ok(), text)
}

const SLOW_MESSAGES: u64 = 1_300_000;
const SLOW_PAYLOAD: usize = 1000;

/// 1.3 GB of acknowledged QoS 1 messages, faster than their connected subscriber reads.
fn slow_subscriber(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    let mut subscriber = Client::connect(&door, "slow-subscriber", true)?;
    subscriber.subscribe("failures/slow", 1)?;
    let done = Arc::new(AtomicBool::new(false));
    let publisher = {
        let done = Arc::clone(&done);
        thread::spawn(move || {
            let outcome = publish_acknowledged(&door, "failures/slow", SLOW_MESSAGES);
            done.store(true, Ordering::Relaxed);
            outcome
        })
    };
    // 2,000 a second while the publisher is at work, then as fast as it can.
    let (mut received, mut repeated) = (HashSet::new(), 0_u64);
    let mut end = "the subscriber stayed connected".to_owned();
    let mut quiet = 0;
    loop {
        match subscriber.receive(Duration::from_secs(1)) {
            Ok(Some(Packet::Publish { packet_identifier, payload, .. })) => {
                quiet = 0;
                if let Some(number) = payload.first_chunk::<8>() {
                    repeated += u64::from(!received.insert(u64::from_be_bytes(*number)));
                }
                if let Err(error) = subscriber.ack(Ack::Puback, packet_identifier) {
                    end = format!("the subscriber was cut off ({error})");
                    break;
                }
                if !done.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_micros(500));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                quiet += 1;
                if quiet >= 5 && done.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) => {
                end = format!("the subscriber was cut off ({error})");
                break;
            }
        }
    }
    let (acknowledged, trouble) = publisher.join().map_err(|_| io::Error::other("the publisher panicked"))?;
    let delivered = received.len() as u64;
    let trouble = trouble.map_or(String::new(), |error| format!("; publisher: {error}"));
    let text = format!(
        "{acknowledged} acknowledged, {delivered} delivered, {} lost, {repeated} repeated; {end}{trouble}",
        acknowledged.saturating_sub(delivered)
    );
    observed(acknowledged > 0 && delivered >= acknowledged, text)
}

/// Publishes at QoS 1 with 5,000 on their way, for a minute at most. Answers how many were acknowledged.
fn publish_acknowledged(door: &Door, topic: &str, count: u64) -> (u64, Option<io::Error>) {
    const WINDOW: u64 = 5_000;
    let mut acknowledged = 0;
    let mut sent = 0_u64;
    let mut work = || -> io::Result<()> {
        let mut client = Client::connect(door, "fast-publisher", true)?;
        let started = Instant::now();
        let mut batch = Vec::new();
        while acknowledged < count && started.elapsed() < Duration::from_secs(60) {
            batch.clear();
            while sent < count && sent - acknowledged < WINDOW {
                let identifier = (sent % 60_000) as u16 + 1;
                wire::publish(&mut batch, topic.as_bytes(), 1, 0, identifier, SLOW_PAYLOAD);
                batch.extend_from_slice(&sent.to_be_bytes());
                batch.resize(batch.len() + SLOW_PAYLOAD - 8, 0);
                sent += 1;
            }
            client.send(&batch)?;
            // At least half of them before the next batch.
            while sent - acknowledged > WINDOW / 2 || (sent == count && acknowledged < count) {
                match client.receive(Duration::from_secs(10))? {
                    Some(Packet::Ack(Ack::Puback, _)) => acknowledged += 1,
                    Some(_) => {}
                    None => return Err(io::Error::new(io::ErrorKind::TimedOut, "no PUBACK for 10 s")),
                }
            }
        }
        Ok(())
    };
    let outcome = work();
    (acknowledged, outcome.err())
}

/// Topics that begin with `$`: the specification leaves their use to the server. Silence is what helps nobody.
fn dollar_topic(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    let mut subscriber = Client::connect(&door, "dollar-subscriber", true)?;
    let code = match subscriber.subscribe("$failures/a", 1) {
        Ok(code) => format!("SUBACK {code:#04x}"),
        Err(error) => format!("SUBSCRIBE: {error}"),
    };
    let mut publisher = Client::connect(&door, "dollar-publisher", true)?;
    publisher.publish("$failures/a", 1, 0, 1, b"x")?;
    let answer = match publisher.receive(PATIENCE) {
        Ok(Some(Packet::Ack(Ack::Puback, 1))) => "PUBACK".to_owned(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    };
    let delivered = matches!(subscriber.receive(PATIENCE), Ok(Some(Packet::Publish { .. })));
    let text = format!(
        "`$failures/a`: {code}; PUBLISH answered by {answer}; {}",
        if delivered { "delivered" } else { "not delivered" }
    );
    if delivered { observed(true, text) } else { Ok(Observed { verdict: Verdict::Open, text }) }
}

/// A PUBLISH that is sent again before PUBREL is the same message [MQTT-4.3.3-2].
fn exactly_once(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    let mut subscriber = Client::connect(&door, "once-subscriber", true)?;
    subscriber.subscribe("failures/once", 2)?;
    let mut publisher = Client::connect(&door, "once-publisher", true)?;
    // (identifier, payload, how many times PUBLISH is sent)
    for (identifier, payload, times) in [(9, b"first " as &[u8], 2), (10, b"second", 1)] {
        for time in 0..times {
            publisher.publish("failures/once", 2, if time == 0 { 0 } else { 8 }, identifier, payload)?;
            publisher.expect(|packet| *packet == Packet::Ack(Ack::Pubrec, identifier), "PUBREC")?;
        }
        publisher.ack(Ack::Pubrel, identifier)?;
        publisher.expect(|packet| *packet == Packet::Ack(Ack::Pubcomp, identifier), "PUBCOMP")?;
    }
    let mut deliveries = Vec::new();
    while let Ok(Some(packet)) = subscriber.receive(Duration::from_secs(1)) {
        match packet {
            Packet::Publish { packet_identifier, payload, .. } => {
                deliveries.push(String::from_utf8_lossy(&payload).trim().to_owned());
                subscriber.ack(Ack::Pubrec, packet_identifier)?;
            }
            Packet::Ack(Ack::Pubrel, identifier) => subscriber.ack(Ack::Pubcomp, identifier)?,
            _ => {}
        }
    }
    let text = format!("`first` (its PUBLISH sent twice) and `second`, both completed: delivered {deliveries:?}");
    observed(deliveries == ["first", "second"], text)
}

/// Runs `step` for eight stretches of names and looks at the memory of the later ones: what is kept per name.
fn growth(
    subject: &Subject,
    names: usize,
    what: &str,
    mut step: impl FnMut(std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<Observed> {
    const STRETCHES: usize = 8;
    let mut halfway = None;
    for stretch in 0..STRETCHES {
        if stretch == STRETCHES / 2 {
            thread::sleep(Duration::from_millis(500));
            halfway = subject.resident();
        }
        step(stretch * names..(stretch + 1) * names)?;
    }
    thread::sleep(Duration::from_millis(500));
    let total = STRETCHES * names;
    let (Some(before), Some(after)) = (halfway, subject.resident()) else {
        return Ok(Observed { verdict: Verdict::Open, text: format!("{total} {what}; memory unknown without --pid") });
    };
    let per_name = (after as f64 - before as f64) / (names * STRETCHES / 2) as f64;
    let text =
        format!("{total} {what}, none in use afterwards: the last half left {per_name:.0} bytes each (good: < 64)");
    observed(per_name < 64.0, text)
}

fn many_topics(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let mut client = Client::connect(&door(subject, login), "topics", true)?;
    let mut outcome = growth(subject, 25_000, "topics published to", |range| {
        let mut out = Vec::new();
        for topic in range {
            let topic = format!("failures/topics/{topic}");
            wire::publish(&mut out, topic.as_bytes(), 0, 0, 0, 1);
            out.push(b'x');
        }
        client.send(&out)?;
        // Answered after all that went before it has been read.
        client.publish("failures/topics/done", 1, 0, 1, b"")?;
        client.expect(|packet| *packet == Packet::Ack(Ack::Puback, 1), "PUBACK")?;
        Ok(())
    })?;
    // The client lives until here, so that nothing is freed on its behalf.
    if client.receive(Duration::ZERO).is_err() {
        outcome.text.push_str("; the publisher was cut off");
    }
    Ok(outcome)
}

fn many_filters(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let mut client = Client::connect(&door(subject, login), "filters", true)?;
    growth(subject, 2_500, "filters subscribed to and unsubscribed from", |range| {
        for filter in range {
            let filter = format!("failures/filters/{filter}");
            client.subscribe(&filter, 0)?;
            client.unsubscribe(&filter)?;
        }
        Ok(())
    })
}

fn many_client_ids(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let door = door(subject, login);
    growth(subject, 1_000, "client ids, each connected (clean session) and gone", |range| {
        for number in range {
            Client::connect(&door, &format!("client-{number}"), true)?.disconnect()?;
        }
        Ok(())
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What a PUBLISH and a CONNECT take, in the median of 50.
fn costs(door: &Door, name: &str) -> io::Result<(Duration, Duration)> {
    let mut publisher = Client::connect(door, &format!("cost-{name}"), true)?;
    let mut publishing = Vec::new();
    for number in 0..50 {
        let started = Instant::now();
        publisher.publish(&format!("failures/cost/{name}/{number}"), 1, 0, 1, b"x")?;
        publisher.expect(|packet| *packet == Packet::Ack(Ack::Puback, 1), "PUBACK")?;
        publishing.push(started.elapsed());
    }
    let mut connecting = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let mut client = Client::connect(door, &format!("cost-{name}-again"), true)?;
        // Until it is of use: rumqttd answers CONNECT before its router has seen it.
        client.subscribe("failures/cost/again", 0)?;
        connecting.push(started.elapsed());
        client.disconnect()?;
    }
    Ok((median(publishing), median(connecting)))
}

/// 100,000 filters that do not match.
fn cost_of_filters(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    const CLIENTS: usize = 100;
    const EACH: usize = 1_000;
    let door = door(subject, login);
    let (publish_before, connect_before) = costs(&door, "before")?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = Client::connect(&door, &format!("holder-{number}"), true)?;
        let mut out = Vec::new();
        for filter in 0..EACH {
            wire::subscribe(&mut out, 1, &format!("failures/held/{number}/{filter}/+"), 0);
        }
        client.send(&out)?;
        for _ in 0..EACH {
            match client.receive(Duration::from_secs(20))? {
                Some(Packet::Suback(codes)) if codes == [0] => {}
                other => return Err(io::Error::other(format!("SUBSCRIBE answered by {other:?}"))),
            }
        }
        clients.push(client);
    }
    let (publish, connect) = costs(&door, "after")?;
    let text = format!(
        "a PUBLISH to a new topic takes {publish:?} (with none {publish_before:?}), CONNECT and SUBSCRIBE {connect:?} \
         (with none {connect_before:?}) (good: < 1 ms more)"
    );
    let bound = Duration::from_millis(1);
    observed(publish < publish_before + bound && connect < connect_before + bound, text)
}

/// Memory of connections that do nothing.
fn idle_connections(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    const COUNT: usize = 400;
    let door = door(subject, login);
    let before = subject.resident();
    let clients: Vec<Client> =
        (0..COUNT).map(|number| Client::connect(&door, &format!("idle-{number}"), true)).collect::<io::Result<_>>()?;
    thread::sleep(Duration::from_secs(1));
    let (Some(before), Some(after)) = (before, subject.resident()) else {
        return Ok(Observed { verdict: Verdict::Open, text: "memory unknown without --pid".to_owned() });
    };
    let each = after.saturating_sub(before) / COUNT as u64;
    drop(clients);
    observed(each < 20_000, format!("{COUNT} idle connections: {each} bytes each (good: < 20000)"))
}

/// A retained message, and a session with a queued message, over `kill -9`.
fn crash_and_restart(subject: &mut Subject, login: Login<'_>) -> io::Result<Observed> {
    let before = door(subject, login);
    let mut subscriber = Client::connect(&before, "durable", false)?;
    subscriber.subscribe("failures/durable", 1)?;
    subscriber.disconnect()?;
    let mut publisher = Client::connect(&before, "durable-publisher", true)?;
    for (identifier, topic, flags) in [(1, "failures/durable", 0), (2, "failures/retained", 1)] {
        publisher.publish(topic, 1, flags, identifier, b"kept?")?;
        publisher.expect(|packet| *packet == Packet::Ack(Ack::Puback, identifier), "PUBACK")?;
    }
    // Time for what is written with a delay.
    thread::sleep(Duration::from_secs(3));
    if !subject.crash_and_restart()? {
        return Ok(Observed {
            verdict: Verdict::Open,
            text: "only a broker that is started here is killed".to_owned(),
        });
    }
    let after = door(subject, login);
    let mut subscriber = Client::connect(&after, "durable", false)?;
    let queued = matches!(subscriber.receive(PATIENCE), Ok(Some(Packet::Publish { .. })));
    let mut reader = Client::connect(&after, "reader", true)?;
    reader.subscribe("failures/retained", 0)?;
    let retained = matches!(reader.receive(PATIENCE), Ok(Some(Packet::Publish { .. })));
    let word = |kept: bool| if kept { "kept" } else { "lost" };
    let text =
        format!("acknowledged before kill -9: queued message {}, retained message {}", word(queued), word(retained));
    observed(queued && retained, text)
}

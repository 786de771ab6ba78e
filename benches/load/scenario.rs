//! What is measured: each scenario once, against one fresh broker.
//!
//! In: a case (scenario, QoS, transport), the sizes, a running broker. Out: named figures. Nothing is compared here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mio::Events;

use crate::brokers::{self, Broker, INFLIGHT};
use crate::client::{HEADER, Role, State};
use crate::figures::{Histogram, Usage};
use crate::fleet::{Fleet, Outcome, Pace, Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// N publishers, N subscribers, a topic for each pair.
    Pairs,
    /// One publisher, N subscribers.
    FanOut,
    /// N publishers, one subscriber.
    FanIn,
    /// Connections made and ended, one after another.
    Storm,
    /// Memory of connections that do nothing.
    Idle,
    /// Latency at a fixed rate.
    Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) scenario: Scenario,
    pub(crate) transport: Transport,
    pub(crate) qos: u8,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::FanOut => "fan-out",
            Self::FanIn => "fan-in",
            Self::Storm => "storm",
            Self::Idle => "idle",
            Self::Latency => "latency",
        }
    }

    /// Whether it sends messages, so that QoS matters.
    pub(crate) fn has_qos(self) -> bool {
        !matches!(self, Self::Storm | Self::Idle)
    }
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        }
    }
}

/// How large, how long.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Sizes {
    /// Publishers or subscribers or pairs of a throughput scenario.
    pub(crate) clients: u32,
    pub(crate) payload_bytes: usize,
    pub(crate) seconds: f64,
    /// QoS 1 and 2: messages of one publisher that wait for an acknowledgement.
    pub(crate) window: u16,
    /// Deliveries on their way in a throughput scenario; `None` is no bound.
    pub(crate) outstanding: Option<u64>,
    pub(crate) latency_pairs: u32,
    pub(crate) latency_rate: f64,
    pub(crate) idle_connections: u32,
    pub(crate) storm_concurrency: u32,
    /// Connections per second; `None`: as fast as they are answered.
    pub(crate) storm_rate: Option<f64>,
    /// How long without any progress until what is on its way is given up.
    pub(crate) patience_seconds: f64,
}

/// Figures by name; the report knows which of them to show.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

pub(crate) fn measure(
    case: Case,
    sizes: &Sizes,
    users: usize,
    broker: &Broker,
    tls: &std::sync::Arc<rustls::ClientConfig>,
) -> Result<Figures, String> {
    let target = match case.transport {
        Transport::Plain => Target { address: broker.plain, tls: None, qos: case.qos, window: sizes.window },
        Transport::Tls => Target { address: broker.tls, tls: Some(tls.clone()), qos: case.qos, window: sizes.window },
    };
    let process = broker.process();
    match case.scenario {
        Scenario::Storm => storm(target, sizes, users, &process),
        Scenario::Idle => idle(target, sizes, users, &process),
        _ => messages(case, target, sizes, users, &process),
    }
}

/// CPU of the broker and of the driver since `before`.
struct Meter<'a> {
    process: &'a str,
    broker: Usage,
    driver: Usage,
    started: Instant,
}

impl<'a> Meter<'a> {
    fn start(process: &'a str) -> Self {
        Self { process, broker: Usage::of(process), driver: Usage::of("self"), started: Instant::now() }
    }

    /// Writes the CPU figures, per `things` that were done.
    fn stop(&self, things: f64, figures: &mut Figures) {
        let (broker, driver) = (Usage::of(self.process), Usage::of("self"));
        let elapsed = self.started.elapsed().as_secs_f64();
        let (broker_cpu, driver_cpu) = (broker.cpu - self.broker.cpu, driver.cpu - self.driver.cpu);
        figures.insert("broker_cpu_seconds", broker_cpu);
        figures.insert("driver_cpu_seconds", driver_cpu);
        figures.insert("broker_busy", broker_cpu / elapsed);
        figures.insert("driver_busy", driver_cpu / elapsed);
        figures.insert("resident_bytes", broker.resident as f64);
        if things > 0.0 {
            figures.insert("broker_cpu_us", broker_cpu / things * 1e6);
            figures.insert("driver_cpu_us", driver_cpu / things * 1e6);
        }
    }
}

fn login(index: u32, users: usize) -> (String, String) {
    brokers::login(index as usize % users)
}

/// Subscribers and publishers of a scenario, and how many deliveries one PUBLISH makes.
fn roles(scenario: Scenario, sizes: &Sizes, users: usize) -> (Vec<Role>, Vec<Role>, u64) {
    let subscriber = |index: u32, filter: String, first: u32, count: u32| Role {
        client_id: format!("subscriber-{index}"),
        login: login(index, users),
        publish: None,
        subscribe: Some((filter, first, count)),
    };
    let publisher = |index: u32, topic: String| Role {
        client_id: format!("publisher-{index}"),
        login: login(index, users),
        publish: Some((topic, index)),
        subscribe: None,
    };
    let count = if scenario == Scenario::Latency { sizes.latency_pairs } else { sizes.clients };
    match scenario {
        Scenario::FanOut => (
            (0..count).map(|index| subscriber(index, "load/out/all".to_owned(), 0, 1)).collect(),
            vec![publisher(0, "load/out/all".to_owned())],
            u64::from(count),
        ),
        Scenario::FanIn => (
            vec![subscriber(0, "load/in/+".to_owned(), 0, count)],
            (0..count).map(|index| publisher(index, format!("load/in/{index}"))).collect(),
            1,
        ),
        _ => (
            (0..count).map(|index| subscriber(index, format!("load/pair/{index}"), index, 1)).collect(),
            (0..count).map(|index| publisher(index, format!("load/pair/{index}"))).collect(),
            1,
        ),
    }
}

fn messages(case: Case, target: Target, sizes: &Sizes, users: usize, process: &str) -> Result<Figures, String> {
    let mut fleet = Fleet::new(target).map_err(|error| error.to_string())?;
    fleet.patience = Duration::from_secs_f64(sizes.patience_seconds);
    let (subscribers, publishers, fan) = roles(case.scenario, sizes, users);
    fleet.connect_all(subscribers.into_iter().chain(publishers).collect(), Duration::from_mins(1))?;
    let pace = if case.scenario == Scenario::Latency {
        fleet.tally.latency = Some(Histogram::new());
        Pace::Open { rate: sizes.latency_rate }
    } else {
        // At least one message at a time, however many it becomes.
        Pace::Closed { outstanding: sizes.outstanding.map(|bound| bound.max(fan)) }
    };
    let mut payload = vec![0; sizes.payload_bytes.max(HEADER)];
    let meter = Meter::start(process);
    let outcome = fleet.run(Duration::from_secs_f64(sizes.seconds), pace, fan, &mut payload)?;
    let mut figures = Figures::new();
    meter.stop(fleet.tally.received as f64, &mut figures);
    checks(&fleet, &outcome, &mut figures);
    if let Some(latency) = &fleet.tally.latency {
        for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            figures.insert(name, latency.quantile(part));
        }
        figures.insert("max_us", latency.max());
        figures.insert("lateness_p50_us", outcome.lateness.quantile(0.5));
        figures.insert("lateness_p99_us", outcome.lateness.quantile(0.99));
    }
    Ok(figures)
}

/// Lost, repeated, out of order: for each subscriber and each publisher that it hears.
fn checks(fleet: &Fleet, outcome: &Outcome, figures: &mut Figures) {
    let mut sent = BTreeMap::new();
    let mut unacknowledged = 0;
    for publisher in fleet.clients.iter().filter(|client| client.publisher.is_some()) {
        unacknowledged += publisher.in_flight();
    }
    for (number, publisher) in fleet.clients.iter().filter_map(|client| client.publisher.as_ref()).enumerate() {
        sent.insert(number as u32, publisher.sent);
    }
    let (mut lost, mut duplicates, mut reordered) = (0, 0, 0);
    for subscriber in fleet.clients.iter().filter_map(|client| client.subscriber.as_ref()) {
        for (offset, track) in subscriber.tracks.iter().enumerate() {
            let number = subscriber.first + offset as u32;
            lost += track.lost(sent.get(&number).copied().unwrap_or(0));
            duplicates += track.duplicates;
            reordered += track.reordered;
        }
    }
    let tally = &fleet.tally;
    let unique: u64 = fleet
        .clients
        .iter()
        .filter_map(|client| client.subscriber.as_ref())
        .flat_map(|subscriber| subscriber.tracks.iter().map(|track| track.received))
        .sum();
    figures.insert("sent", tally.sent as f64);
    figures.insert("received", unique as f64);
    figures.insert("lost", lost as f64);
    figures.insert("duplicates", duplicates as f64);
    figures.insert("reordered", reordered as f64);
    figures.insert("unacknowledged", unacknowledged as f64);
    figures.insert("protocol_errors", tally.protocol_errors as f64);
    figures.insert("closed", tally.closed as f64);
    figures.insert("given_up", outcome.given_up as f64);
    figures.insert("publishing_seconds", outcome.publishing);
    figures.insert("delivering_seconds", outcome.delivering);
    if outcome.delivering > 0.0 {
        figures.insert("per_second", unique as f64 / outcome.delivering);
    }
}

/// A connection of the storm.
struct Attempt {
    client: usize,
    due: Instant,
    answered: bool,
}

/// CONNECT, CONNACK, DISCONNECT, again and again: each on a new connection, with a full TLS handshake.
fn storm(target: Target, sizes: &Sizes, users: usize, process: &str) -> Result<Figures, String> {
    let mut fleet = Fleet::new(target).map_err(|error| error.to_string())?;
    let mut events = Events::with_capacity(1024);
    let mut latency = Histogram::new();
    let (mut accepted, mut refused, mut failed, mut opened) = (0_u64, 0_u64, 0_u64, 0_u32);
    let mut open: Vec<Attempt> = Vec::new();
    let duration = Duration::from_secs_f64(sizes.seconds);
    let meter = Meter::start(process);
    let started = Instant::now();
    loop {
        let elapsed = started.elapsed();
        if elapsed >= duration && (open.is_empty() || elapsed > duration + Duration::from_secs(5)) {
            failed += open.iter().filter(|attempt| !attempt.answered).count() as u64;
            break;
        }
        while elapsed < duration && open.len() < sizes.storm_concurrency as usize {
            // With a rate, the time runs from when the connection was due, whatever held it up.
            let due = match sizes.storm_rate {
                Some(rate) => started + Duration::from_secs_f64(f64::from(opened) / rate),
                None => Instant::now(),
            };
            if due > Instant::now() {
                break;
            }
            let role = Role {
                client_id: format!("storm-{opened}"),
                login: login(opened, users),
                publish: None,
                subscribe: None,
            };
            opened += 1;
            let client = fleet.open(role).map_err(|error| format!("cannot connect: {error}"))?;
            open.push(Attempt { client, due, answered: false });
        }
        fleet.turn(&mut events, Some(Duration::from_millis(1)))?;
        open.retain_mut(|attempt| {
            let client = &mut fleet.clients[attempt.client];
            if client.state == State::Ready && !attempt.answered {
                accepted += 1;
                latency.record(attempt.due.elapsed().as_nanos() as u64);
                attempt.answered = true;
                // The broker closes; waiting for that leaves the used port in TIME_WAIT on its side.
                crate::wire::disconnect(&mut client.link.out);
                if client.link.flush().is_err() {
                    client.state = State::Closed;
                }
            }
            if client.state == State::Closed {
                refused += u64::from(!attempt.answered);
                fleet.release(attempt.client);
                return false;
            }
            true
        });
        if refused > 1000 && accepted == 0 {
            return Err("the broker refuses every connection".to_owned());
        }
    }
    let mut figures = Figures::new();
    meter.stop(accepted as f64, &mut figures);
    figures.insert("per_second", accepted as f64 / started.elapsed().as_secs_f64());
    figures.insert("accepted", accepted as f64);
    figures.insert("refused", refused as f64);
    figures.insert("failed", failed as f64);
    for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        figures.insert(name, latency.quantile(part));
    }
    figures.insert("max_us", latency.max());
    Ok(figures)
}

/// Resident memory before and after so many connections, which then do nothing.
fn idle(target: Target, sizes: &Sizes, users: usize, process: &str) -> Result<Figures, String> {
    let before = Usage::of(process);
    let mut fleet = Fleet::new(target).map_err(|error| error.to_string())?;
    let roles = (0..sizes.idle_connections)
        .map(|index| Role {
            client_id: format!("idle-{index}"),
            login: login(index, users),
            publish: None,
            subscribe: Some((format!("load/idle/{index}"), 0, 0)),
        })
        .collect();
    let meter = Meter::start(process);
    fleet.connect_all(roles, Duration::from_mins(2))?;
    let mut figures = Figures::new();
    let connections = f64::from(sizes.idle_connections);
    meter.stop(connections, &mut figures);
    // Time to give back what connecting took.
    std::thread::sleep(Duration::from_secs_f64(sizes.seconds.min(2.0)));
    let after = Usage::of(process);
    if after.resident == 0 {
        return Err("the broker is gone".to_owned());
    }
    let settled = fleet.tally.closed;
    figures.insert("resident_before", before.resident as f64);
    figures.insert("resident_after", after.resident as f64);
    figures.insert("bytes_per_connection", (after.resident as f64 - before.resident as f64) / connections);
    figures.insert("closed", settled as f64);
    Ok(figures)
}

/// The limits that are part of what was measured.
pub(crate) fn limits() -> serde_json::Value {
    serde_json::json!({ "inflight": INFLIGHT, "queue_messages": brokers::QUEUE_MESSAGES })
}

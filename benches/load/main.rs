//! The load driver: this broker beside mosquitto and rumqttd, on one machine, in one run.
//!
//! In: arguments (`--help`) and the brokers' programs. Out: tables on standard output, and with `--json` one line for
//! each trial. Every trial starts a broker of its own with access control on, measures one scenario, and ends it; the
//! brokers take turns within each round, so that a machine that grows slower does so for all of them.
//! It talks to loopback addresses only, is bounded in time and count by its arguments, and never judges: it prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program for the terminal that counts; its input is its own or that of a broker under test"
)]

mod brokers;
mod client;
mod figures;
mod fleet;
mod link;
mod process;
mod report;
mod scenario;
mod table;
mod wire;

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use brokers::{Kind, Programs, Setup};
use report::Results;
use scenario::{Case, Scenario, Sizes, Transport};

/// Measures MQTT brokers side by side.
#[derive(Parser)]
#[command(name = "load")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// Scenarios, separated by commas; all when absent.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Scenario>,
    /// Brokers; ratios are the first one's figure divided by the other's.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Kind::Portcullis, Kind::Mosquitto, Kind::Rumqttd])]
    brokers: Vec<Kind>,
    /// Quality of service levels.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2], value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: Vec<u8>,
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Transport::Plain, Transport::Tls])]
    transport: Vec<Transport>,
    /// How many times each scenario is measured for each broker.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement publishes or connects.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Publishers, subscribers or pairs.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Payload in bytes, 20 at least.
    #[arg(long, default_value_t = 64)]
    payload: usize,
    /// QoS 1 and 2: unacknowledged messages of each publisher.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Deliveries on their way at a time, in all.
    #[arg(long, default_value_t = 10_000)]
    outstanding: u64,
    /// No bound on what is on its way: publishers send as fast as the broker reads, and losses show its queue policy.
    #[arg(long)]
    unbounded: bool,
    /// Latency: messages per second in all.
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// Latency: pairs of publisher and subscriber.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    latency_pairs: u32,
    /// Idle: connections.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    idle: u32,
    /// Storm: connections that are being made at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    storm_concurrency: u32,
    /// Storm: connections per second; as fast as they are answered when absent.
    #[arg(long)]
    storm_rate: Option<f64>,
    /// Users that the clients share.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    users: u32,
    /// A second or less for each scenario, with small counts: shows that everything works, measures nothing.
    #[arg(long)]
    smoke: bool,
    /// Append one JSON line for each trial to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/portcullis"))]
    portcullis: PathBuf,
    #[arg(long, default_value = "mosquitto")]
    mosquitto: PathBuf,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/target/release/peer-rumqttd"))]
    rumqttd: PathBuf,
    /// Leave out brokers whose program cannot be run, instead of ending.
    #[arg(long)]
    skip_missing: bool,
    /// End with an error when anything went wrong with the first broker: a message lost, repeated or out of order, a
    /// connection cut, a measurement that could not be made.
    #[arg(long)]
    strict: bool,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn sizes(&self) -> Sizes {
        let sizes = Sizes {
            clients: self.clients,
            payload_bytes: self.payload,
            seconds: self.seconds.clamp(0.1, 3600.0),
            window: self.window,
            outstanding: (!self.unbounded).then_some(self.outstanding),
            latency_pairs: self.latency_pairs,
            latency_rate: self.rate.clamp(1.0, 1e6),
            idle_connections: self.idle,
            storm_concurrency: self.storm_concurrency,
            storm_rate: self.storm_rate.map(|rate| rate.clamp(1.0, 1e6)),
            patience_seconds: 0.5,
        };
        if !self.smoke {
            return sizes;
        }
        Sizes {
            clients: sizes.clients.min(4),
            seconds: sizes.seconds.min(0.5),
            window: sizes.window.min(20),
            latency_pairs: sizes.latency_pairs.min(4),
            latency_rate: sizes.latency_rate.min(500.0),
            idle_connections: sizes.idle_connections.min(50),
            storm_concurrency: sizes.storm_concurrency.min(8),
            // A machine that does other things too is no fault of the broker.
            patience_seconds: 5.0,
            ..sizes
        }
    }

    fn cases(&self) -> Vec<Case> {
        let all =
            [Scenario::Pairs, Scenario::FanOut, Scenario::FanIn, Scenario::Latency, Scenario::Storm, Scenario::Idle];
        let scenarios = if self.only.is_empty() { all.to_vec() } else { self.only.clone() };
        let mut cases = Vec::new();
        for scenario in scenarios {
            for &transport in &self.transport {
                let levels: &[u8] = if scenario.has_qos() { &self.qos } else { &[0] };
                cases.extend(levels.iter().map(|&qos| Case { scenario, transport, qos }));
            }
        }
        cases
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    // Without it a few hundred connections would be all; the brokers inherit it.
    let files = rlimit::increase_nofile_limit(1 << 20)?;
    let programs = Programs {
        portcullis: arguments.portcullis.clone(),
        mosquitto: arguments.mosquitto.clone(),
        rumqttd: arguments.rumqttd.clone(),
    };
    let mut brokers = Vec::new();
    let mut versions = Vec::new();
    for &kind in &arguments.brokers {
        match programs.version(kind) {
            Ok(version) => {
                println!("{} {version}: {}", kind.name(), kind.notes());
                brokers.push(kind);
                versions.push(version);
            }
            Err(error) if arguments.skip_missing => eprintln!("left out: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    if brokers.is_empty() {
        return Err("no broker to measure".into());
    }
    let sizes = arguments.sizes();
    let rounds = if arguments.smoke { 1 } else { arguments.rounds };
    let machine = table::machine();
    println!("machine: {machine}; open files: {files}");
    println!("sizes: {}; limits of each broker: {}", serde_json::to_string(&sizes)?, scenario::limits());
    println!("ratio: {} divided by the other\n", brokers[0].name());
    let setup = Setup::new(programs, arguments.users as usize)?;
    // A configuration that a broker does not take is told once, and before anything is measured.
    for &kind in &brokers {
        drop(setup.start(kind)?);
    }
    let mut json = match &arguments.json {
        None => None,
        Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
    };
    let mut results = Results::new();
    for case in arguments.cases() {
        for round in 0..rounds {
            // Another broker begins each round.
            for turn in 0..brokers.len() {
                let position = (turn + round as usize) % brokers.len();
                let kind = brokers[position];
                let outcome = trial(&setup, kind, case, &sizes);
                if let Some(file) = &mut json {
                    let line = json!({
                        "time": jiff::Timestamp::now().to_string(),
                        "machine": machine,
                        "driver": env!("CARGO_PKG_VERSION"),
                        "broker": kind.name(),
                        "version": versions[position],
                        "configuration": kind.notes(),
                        "limits": scenario::limits(),
                        "scenario": case.scenario.name(),
                        "qos": case.scenario.has_qos().then_some(case.qos),
                        "transport": case.transport.name(),
                        "round": round,
                        "sizes": sizes,
                        "smoke": arguments.smoke,
                        "figures": outcome.as_ref().ok(),
                        "error": outcome.as_ref().err(),
                    });
                    writeln!(file, "{line}")?;
                }
                results.entry((case, position)).or_default().push(outcome);
            }
        }
        println!("{}", report::table(case, &brokers, &results));
    }
    let faults = results.iter().filter(|((_, position), trials)| *position == 0 && report::faulty(trials)).count();
    if arguments.strict && faults > 0 {
        return Err(format!("{} had faults in {faults} cases", brokers[0].name()).into());
    }
    Ok(())
}

/// One measurement of one broker, started for it.
fn trial(setup: &Setup, kind: Kind, case: Case, sizes: &Sizes) -> Result<scenario::Figures, String> {
    let mut broker = setup.start(kind).map_err(|error| error.to_string())?;
    let outcome = scenario::measure(case, sizes, setup.users(), &broker, &setup.tls);
    match broker.ended() {
        None => outcome,
        Some(status) => Err(format!("the broker ended, {status}: {}", broker.last_words())),
    }
}

fn main() -> ExitCode {
    if std::env::args().len() == 1 {
        // `cargo test --all-targets` runs every benchmark without an argument.
        println!("nothing measured: `cargo bench --bench load -- --help` tells what there is");
        return ExitCode::SUCCESS;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

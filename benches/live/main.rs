//! What changes now: how fast, how completely, and who notices. Also: a fleet that comes back in a storm of guesses.
//!
//! In: arguments (`--help`) and the brokers' programs. Out: tables on standard output, this broker beside mosquitto with
//! its dynamic-security plugin. It talks to loopback addresses and to brokers that it started, is bounded in time and
//! count by its arguments, and never judges: it prints.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::format_push_string,
    clippy::naive_bytecount,
    clippy::type_complexity,
    reason = "a program for the terminal that counts; its input is its own or that of a broker under test"
)]

mod admin;
mod brokers;
mod bystanders;
mod certificates;
mod clock;
mod commits;
mod crowd;
mod end;
#[path = "../load/figures.rs"]
#[allow(dead_code, reason = "shared with the load driver")]
mod figures;
mod guesses;
#[path = "../load/link.rs"]
#[allow(dead_code, reason = "shared with the load driver")]
mod link;
#[path = "../load/process.rs"]
#[allow(dead_code, reason = "shared with the load driver")]
mod process;
mod revoke;
mod storm;
#[path = "../load/table.rs"]
#[allow(dead_code, reason = "shared with the load driver")]
mod table;
mod timing;
mod waiting;
#[path = "../load/wire.rs"]
#[allow(dead_code, reason = "shared with the load driver")]
mod wire;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use brokers::{Programs, Subject};
use bystanders::Pace;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// A role of very many live clients loses a right, and gets it back.
    Revoke,
    /// Messages wait for clients that are slow or away when the right to them goes.
    Waiting,
    /// Users are disabled, deleted, given another password, one after another.
    End,
    /// Users are changed, thousands of times per second.
    Commits,
    /// A fleet comes back at once while passwords are guessed.
    Storm,
    /// Refusals of unknown and known users are timed.
    Timing,
}

/// Measures how changes of users and roles take effect.
#[derive(Parser)]
#[command(name = "live")]
struct Arguments {
    /// Scenarios, separated by commas; all when absent.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Scenario>,
    #[arg(long, value_delimiter = ',', value_enum,
          default_values_t = [Subject::Portcullis, Subject::MosquittoModify, Subject::MosquittoRemove])]
    brokers: Vec<Subject>,
    /// Live clients; bounded by the limit of open files, less 500.
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// revoke: the part of the clients that lose their role.
    #[arg(long, default_value_t = 1.0)]
    holders: f64,
    /// revoke: how many times the right goes and comes back.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// How long each phase of quiet lasts.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// revoke: messages per second to the clients' topics, each to 100 clients.
    #[arg(long, default_value_t = 200.0)]
    feed: f64,
    /// Pairs of clients that nobody touches.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Their messages per second; 0 is as fast as they come back.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// end: users that are ended, by each means.
    #[arg(long, default_value_t = 100)]
    users: usize,
    /// commits: connections that change users, each one change at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    writers: u16,
    /// commits: changes per second of all of them; 0 is as fast as they are answered.
    #[arg(long, default_value_t = 5000.0)]
    changes: f64,
    /// storm: clients of the fleet; bounded by the limit of open files, less 2,000.
    #[arg(long, default_value_t = 20_000)]
    fleet: usize,
    /// end: wrong passwords per second. One core of argon2 checks some 50.
    #[arg(long, default_value_t = 100.0)]
    load: f64,
    /// storm: wrong passwords per second.
    #[arg(long, default_value_t = 500.0)]
    guesses: f64,
    /// storm: the fleet speaks TLS and resumes its sessions.
    #[arg(long)]
    tls: bool,
    /// timing: refusals of each kind.
    #[arg(long, default_value_t = 400)]
    refusals: usize,
    /// `[store] durability` of this broker.
    #[arg(long, default_value = "sync")]
    durability: String,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/portcullis"))]
    portcullis: PathBuf,
    #[arg(long, default_value = "mosquitto")]
    mosquitto: PathBuf,
    #[arg(long, default_value = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")]
    plugin: PathBuf,
    /// `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let files = rlimit::increase_nofile_limit(1 << 20).map_err(|error| error.to_string())? as usize;
    let room = files.saturating_sub(500);
    let clients = arguments.clients.min(room);
    if clients < arguments.clients {
        println!("{clients} clients instead of {}: a process may open {files} files here", arguments.clients);
    }
    let programs = Programs {
        portcullis: arguments.portcullis.clone(),
        mosquitto: arguments.mosquitto.clone(),
        plugin: arguments.plugin.clone(),
        durability: arguments.durability.clone(),
    };
    let version = |program, option| process::version(program, option).unwrap_or_else(|error| error);
    println!(
        "portcullis {}, mosquitto {}; machine: {}; open files: {files}; durability: {}\n",
        version(&programs.portcullis, "--version"),
        version(&programs.mosquitto, "-h"),
        table::machine(),
        arguments.durability,
    );
    let pace = Pace { pairs: arguments.pairs.max(1), rate: arguments.rate };
    let wanted = |scenario| arguments.only.is_empty() || arguments.only.contains(&scenario);
    if wanted(Scenario::Revoke) {
        let sizes = revoke::Sizes {
            clients,
            holders: arguments.holders.clamp(0.0, 1.0),
            rounds: usize::from(arguments.rounds),
            seconds: arguments.seconds.clamp(0.1, 3600.0),
            feed: arguments.feed.clamp(1.0, 1e6),
            pace,
        };
        revoke::run(&arguments.brokers, &programs, &sizes);
    }
    if wanted(Scenario::Waiting) {
        waiting::run(&arguments.brokers, &programs, &waiting::Sizes { clients: 10, large: 600, queued: 50 });
    }
    if wanted(Scenario::End) {
        let (users, guesses) = (arguments.users.clamp(1, 5_000), arguments.load.clamp(1.0, 1e4));
        end::run(&arguments.brokers, &programs, &end::Sizes { users, rate: 500.0, guesses, pace });
    }
    if wanted(Scenario::Commits) {
        let sizes = commits::Sizes {
            writers: usize::from(arguments.writers),
            rate: arguments.changes.clamp(0.0, 1e6),
            users: 4,
            seconds: arguments.seconds.clamp(0.1, 3600.0),
            pace,
        };
        commits::run(&arguments.brokers, &programs, &sizes);
    }
    if wanted(Scenario::Storm) {
        let fleet = arguments.fleet.min(files.saturating_sub(2_000)).max(1);
        if fleet < arguments.fleet {
            println!("a fleet of {fleet} instead of {}: a process may open {files} files here", arguments.fleet);
        }
        let (guesses, patience) = (arguments.guesses.clamp(1.0, 1e4), Duration::from_mins(1));
        let sizes = storm::Sizes { fleet, victims: 10, guesses, pace, patience, tls: arguments.tls };
        storm::run(&arguments.brokers, &programs, &sizes);
    }
    if wanted(Scenario::Timing) {
        timing::run(&arguments.brokers, &programs, arguments.refusals.max(10));
    }
    Ok(())
}

fn main() -> ExitCode {
    if std::env::args().len() == 1 {
        // `cargo test --all-targets` runs every benchmark without an argument.
        println!("nothing measured: `cargo bench --bench live -- --help` tells what there is");
        return ExitCode::SUCCESS;
    }
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live: {error}");
            ExitCode::FAILURE
        }
    }
}

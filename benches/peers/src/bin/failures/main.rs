//! The failures that rumqttd 0.20 showed when it was audited, as inputs that any broker can be given.
//!
//! In: a broker, started here for each input (by default `peer-rumqttd` beside this program) or running elsewhere.
//! Out: a table of what happened and whether the broker still served others afterwards. Nothing is judged by name:
//! every broker gets the same bytes. Memory and restarts can be looked at only where the process is known.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod client;
mod inputs;
mod subject;
#[path = "../../../../load/wire.rs"]
#[allow(dead_code, reason = "shared with the load driver, which uses the rest")]
mod wire;

use std::net::ToSocketAddrs as _;
use std::process::ExitCode;

use inputs::{INPUTS, Verdict};
use subject::{Recipe, Subject};

const USAGE: &str = "usage: failures [--command CMD [--template FILE] | --address HOST:PORT [--pid N]]
                [--login USER:PASSWORD] [--only NAME,...]
  CMD and the template may hold {port}, {port5}, {dir} and {config}; the filled template is written to {config}.
  Without either, the peer-rumqttd that lies beside this program is started.";

struct Arguments {
    command: Option<String>,
    template: Option<String>,
    address: Option<String>,
    process: Option<u32>,
    login: Option<(String, String)>,
    only: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments =
        Arguments { command: None, template: None, address: None, process: None, login: None, only: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            return Err(USAGE.to_owned());
        }
        let value = words.next().ok_or_else(|| format!("`{word}` needs a value\n{USAGE}"))?;
        match word.as_str() {
            "--command" => arguments.command = Some(value),
            "--template" => {
                let text = std::fs::read_to_string(&value).map_err(|error| format!("`{value}`: {error}"))?;
                arguments.template = Some(text);
            }
            "--address" => arguments.address = Some(value),
            "--pid" => arguments.process = Some(value.parse().map_err(|error| format!("`--pid {value}`: {error}"))?),
            "--login" => {
                let (user, password) = value.split_once(':').ok_or("`--login` wants USER:PASSWORD")?;
                arguments.login = Some((user.to_owned(), password.to_owned()));
            }
            "--only" => arguments.only = value.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("unknown option `{word}`\n{USAGE}")),
        }
    }
    Ok(arguments)
}

fn subject(arguments: &Arguments) -> Result<Subject, String> {
    if let Some(address) = &arguments.address {
        let address = address
            .to_socket_addrs()
            .map_err(|error| format!("`{address}`: {error}"))?
            .find(|address| address.ip().is_loopback())
            .ok_or_else(|| format!("`{address}` is not a loopback address: this program breaks brokers"))?;
        return Ok(Subject::attached(address, arguments.process));
    }
    let command = match &arguments.command {
        Some(command) => command.clone(),
        None => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            format!("{} --port {{port}} --port5 {{port5}}", own.with_file_name("peer-rumqttd").display())
        }
    };
    let recipe = Recipe { command, template: arguments.template.clone() };
    Subject::started(recipe).map_err(|error| error.to_string())
}

fn run() -> Result<bool, String> {
    let arguments = arguments()?;
    if let Some(unknown) = arguments.only.iter().find(|name| INPUTS.iter().all(|input| input.name != name.as_str())) {
        let names: Vec<&str> = INPUTS.iter().map(|input| input.name).collect();
        return Err(format!("no input `{unknown}`; there are {}", names.join(", ")));
    }
    let mut subject = subject(&arguments)?;
    let mut all_good = true;
    println!("{:<22} {:<9} {:<9} what happened", "input", "verdict", "others");
    for input in INPUTS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == input.name) {
            continue;
        }
        subject.afresh().map_err(|error| error.to_string())?;
        let outcome = (input.give)(&mut subject, arguments.login.as_ref());
        let alive = inputs::serves_others(&subject, arguments.login.as_ref());
        let panic = subject.panic();
        let (verdict, mut text) = match outcome {
            Ok(observed) => (observed.verdict, observed.text),
            Err(error) => (Verdict::Failed, error.to_string()),
        };
        if let Some(panic) = panic {
            text = format!("{text}; {panic}");
        }
        let others = match &alive {
            Ok(()) => "served",
            Err(error) => {
                text = format!("{text}; afterwards: {error}");
                "LOST"
            }
        };
        all_good &= alive.is_ok() && verdict != Verdict::Failed;
        println!("{:<22} {:<9} {others:<9} {text}", input.name, verdict.name());
    }
    Ok(all_good)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("failures: {error}");
            ExitCode::from(2)
        }
    }
}

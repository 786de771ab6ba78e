//! `device`: what runs on the device itself. It needs no configuration and no socket, only a broker to reach.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis::clock::{Duration, Timestamp};
use portcullis::device::{Credentials, Device, DeviceError, Progress};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{DeviceArguments, DeviceCommand, DeviceGroup, EnrolArguments};
use super::output::{self, printable};
use super::{Failure, Shell, secret};

pub(crate) fn run(group: DeviceGroup, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if let Some(option) = group.misplaced.given() {
        let detail =
            format!("`device` takes no `{option}`: it reaches its broker at `--broker URL`, as the device NAME");
        return Err(Failure::Usage(detail));
    }
    match group.command {
        DeviceCommand::Enrol(arguments) => {
            let wait = arguments.wait;
            let device = described(arguments)?;
            device.enrol(wait, &mut tell(&device, shell)).map(drop)
        }
        DeviceCommand::Renew { device, if_due, wait } => {
            let device = open(&device)?;
            if if_due && device.due()? > Timestamp::now() {
                return Ok(());
            }
            device.renew(wait, &mut tell(&device, shell)).map(drop)
        }
        DeviceCommand::Keep(arguments) => {
            let wait = arguments.wait;
            let device = described(arguments)?.with_stop(stopped_by_signal()?);
            device.keep(wait, &mut tell(&device, shell))
        }
    }
    .map_err(Failure::from)
}

/// Becomes true with SIGTERM or SIGINT, which the first process of a container would not die of.
fn stopped_by_signal() -> std::io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(entered);
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    })?;
    Ok(stop)
}

fn open(arguments: &DeviceArguments) -> Result<Device, Failure> {
    let files = Credentials::new(&arguments.directory, arguments.name.clone());
    let trust = match &arguments.ca {
        // What was named has to be there, whatever the device knows besides.
        Some(named) => {
            File::open(named).map_err(|source| DeviceError::File { action: "read", path: named.clone(), source })?;
            named.clone()
        }
        None => arguments.directory.join("ca.pem"),
    };
    let device = match Device::trusting(arguments.broker.clone(), trust, files) {
        Err(error @ DeviceError::NoTrust(_)) => return Err(Failure::Usage(error.to_string())),
        device => device?,
    };
    Ok(match &arguments.client_id {
        Some(client_id) => device.with_client_id(client_id.clone()),
        None => device,
    })
}

fn described(arguments: EnrolArguments) -> Result<Device, Failure> {
    let mut device = open(&arguments.device)?.with_roles(arguments.roles);
    if let Some(context) = arguments.context {
        device = device.with_context(context);
    }
    let token = match arguments.token_file {
        Some(path) => {
            let unread = |source| DeviceError::File { action: "read", path: path.clone(), source };
            Some(secret::from_line(BufReader::new(File::open(&path).map_err(unread)?), secret::TOKEN)?)
        }
        None if arguments.token => Some(secret::token()?),
        None => None,
    };
    Ok(match token {
        Some(token) => device.with_token(token.expose().to_owned()),
        None => device,
    })
}

/// One line for each step. Nobody reads it? Then the device goes on all the same.
fn tell<'a>(device: &'a Device, shell: &'a mut Shell<'_>) -> impl FnMut(Progress) + 'a {
    move |progress| {
        let line = if shell.json {
            output::json(&as_json(&progress), false).unwrap_or_default()
        } else {
            printable(&format!("{}: {}", device.files().name(), as_text(&progress, device.files())))
        };
        if let Err(error) = writeln!(shell.out, "{line}").and_then(|()| shell.out.flush()) {
            tracing::debug!(%error, "nobody reads the progress");
        }
    }
}

fn seconds(time: Duration) -> String {
    output::count(time.as_secs().max(1), "second")
}

fn as_text(progress: &Progress, files: &Credentials) -> String {
    let good = |not_after: Timestamp| {
        format!(
            "certificate {}, key {}, trust bundle {}, good until {}",
            files.certificate().display(),
            files.key().display(),
            files.trust().display(),
            output::time(not_after)
        )
    };
    match progress {
        Progress::Locked(after) => {
            format!("the registry is locked; the operator can unlock it; asking again in {}", seconds(*after))
        }
        Progress::Pending { pairing_code, expires_at } => {
            let end = expires_at.map(|end| format!(", until {}", output::time(end))).unwrap_or_default();
            format!("waiting for the operator{end}; pairing code {pairing_code}")
        }
        Progress::Later { after, why } => format!("{why}; trying again in {}", seconds(*after)),
        Progress::Granted { not_after } => format!("granted: {}", good(*not_after)),
        Progress::Enrolled { not_after } => format!("enrolled already: {}", good(*not_after)),
        Progress::Renewed { not_after } => format!("renewed: {}", good(*not_after)),
        Progress::Connected { due } => format!("connected; renews by {}", output::time(*due)),
        _ => format!("{progress:?}"),
    }
}

fn as_json(progress: &Progress) -> Value {
    match progress {
        Progress::Locked(after) => json!({ "state": "locked", "retry_after": after.as_secs() }),
        Progress::Pending { pairing_code, expires_at } => {
            json!({ "state": "pending", "pairing_code": pairing_code, "expires_at": expires_at })
        }
        Progress::Later { after, why } => json!({ "state": "later", "retry_after": after.as_secs(), "message": why }),
        Progress::Granted { not_after } => json!({ "state": "granted", "not_after": not_after }),
        Progress::Enrolled { not_after } => json!({ "state": "enrolled", "not_after": not_after }),
        Progress::Renewed { not_after } => json!({ "state": "renewed", "not_after": not_after }),
        Progress::Connected { due } => json!({ "state": "connected", "due": due }),
        _ => json!({ "state": format!("{progress:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::super::args::{Arguments, Command};
    use super::*;

    const OPERATORS: [(&str, &str); 7] = [
        ("--config", "broker.toml"),
        ("--socket", "admin.sock"),
        ("--url", "https://broker.example:8443"),
        ("--user", "operator"),
        ("--password-file", "password"),
        ("--cert", "operator.pem"),
        ("--key", "operator.key"),
    ];

    /// What a command line with these words in front of `device`, behind it, and at the end comes to.
    fn told(front: &[&str], middle: &[&str], end: &[&str]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        let device = ["enrol", "pump-7", "--broker", "mqtts://localhost:1", "--wait", "1s", "--directory", place];
        let words = [&["portcullis"], front, &["device"], middle, &device, end].concat();
        let Some(Command::Device(group)) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("no device")
        };
        let mut out = Vec::new();
        let password = |_: &str, _: bool| unreachable!("nothing is asked for");
        let mut shell = Shell { out: &mut out, program: "portcullis", json: false, bold: false, password: &password };
        let failure = run(*group, &mut shell).unwrap_err();
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
        format!("[{}] {}", failure.code(), failure.to_string().replace(place, "DIR"))
    }

    #[test]
    fn options_of_an_operator_are_refused_wherever_they_stand_and_are_in_no_help() {
        for (option, value) in OPERATORS {
            let refused = format!(
                "[2] `device` takes no `{option}`: it reaches its broker at `--broker URL`, as the device NAME"
            );
            let given: &[&str] = &[option, value];
            assert_eq!(told(given, &[], &[]), refused);
            assert_eq!(told(&[], given, &[]), refused);
            assert_eq!(told(&[], &[], given), refused);
        }
        for words in [&["device"][..], &["device", "enrol"], &["device", "renew"], &["device", "keep"]] {
            let words = [&["portcullis"], words, &["--help"]].concat();
            let help = Arguments::try_parse_from(words).unwrap_err().to_string();
            for (option, _) in OPERATORS {
                assert!(!help.split_whitespace().any(|word| word == option), "{option} in {help}");
            }
        }
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_trust_nothing_is_tried() {
        insta::assert_snapshot!(
            [told(&[], &[], &[]), told(&[], &[], &["--ca", "/nowhere/ca.pem"]), told(&[], &[], &["--ca", "/dev/null"])]
                .join("\n"),
            @"
        [2] there is nothing to verify the broker by: there is no `DIR/ca.pem`; name the CA of the broker's own certificate (`--ca FILE`)
        [1] cannot read `/nowhere/ca.pem`: No such file or directory (os error 2)
        [1] `/dev/null` cannot be used: it holds no certificate (PEM); put the CA of the broker's own certificate there
        "
        );
    }
}

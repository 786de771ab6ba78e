//! `device`: what runs on the device itself. It needs no configuration and no socket, only a broker to reach.

use std::fs::File;
use std::io::BufReader;

use portcullis::clock::{Duration, Timestamp};
use portcullis::device::{Credentials, Device, DeviceError, Progress};
use serde_json::{Value, json};

use super::args::{DeviceArguments, DeviceCommand, EnrolArguments};
use super::output::{self, printable};
use super::{Failure, Shell, secret};

pub(crate) fn run(command: DeviceCommand, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
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
            let device = described(arguments)?;
            device.keep(wait, &mut tell(&device, shell))
        }
    }
    .map_err(Failure::from)
}

fn open(arguments: &DeviceArguments) -> Result<Device, Failure> {
    let files = Credentials::new(&arguments.directory, arguments.name.clone());
    let trust = arguments.ca.clone().unwrap_or_else(|| files.trust());
    let text = match std::fs::read(&trust) {
        Err(_) if arguments.ca.is_none() && !trust.exists() => {
            let place = trust.display();
            return Err(Failure::Usage(format!(
                "there is no `{place}`; name the broker's trust bundle with `--ca FILE`"
            )));
        }
        read => read.map_err(|source| DeviceError::File { action: "read", path: trust, source })?,
    };
    let device = Device::new(arguments.broker.clone(), &text, files)?;
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
            "certificate {}, key {}, good until {}",
            files.certificate().display(),
            files.key().display(),
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
        _ => json!({ "state": format!("{progress:?}") }),
    }
}

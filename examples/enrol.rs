//! Enrol a device with Rust: `cargo run --example enrol -- NAME mqtts://HOST:PORT CA.pem`
#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use portcullis::device::{Credentials, Device, Progress};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: enrol NAME mqtts://HOST:PORT CA.pem";
    let [name, url, ca] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| usage)?;
    let mut device = Device::trusting(url.parse()?, ca, Credentials::new(".", name.parse()?))?;
    if let Some(file) = std::env::var_os("TOKEN_FILE") {
        // A claim token: nobody has to decide.
        device = device.with_token(std::fs::read_to_string(file)?.trim());
    }
    // Blocks until the operator has decided; the key is made where there is none, and never leaves this directory.
    let not_after = device.enrol(Duration::from_hours(24), &mut |progress| match progress {
        Progress::Pending { pairing_code, .. } => println!("pending {pairing_code}"),
        other => println!("{other:?}"),
    })?;
    println!("granted, good until {not_after}");
    Ok(())
}

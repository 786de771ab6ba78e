//! Can one tell by the time of a refusal whether there is such a user?
//!
//! One CONNECT after another, each from an address and for a name that no limit applies to yet: for names that there are
//! not, for users with a wrong password, for disabled users, for users without a password. The kinds take turns in an
//! order that changes from turn to turn, so that whatever else the machine does falls on all alike. Each kind is held
//! against the wrong password by Welch's t: |t| beyond 4.5 is what the literature on timing leaks calls a difference.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::brokers::{Admin, Cost, Person, Plan, Programs, Subject};
use crate::bystanders;
use crate::clock::{milliseconds, now};
use crate::guesses::address;
use crate::table::{align, median};
use crate::words;

/// Attempts for one name, and from one address: fewer than any limit.
const EACH: usize = 5;

const KINDS: [&str; 4] = ["wrong password", "unknown user", "disabled user", "user without a password"];

/// Time of one refusal (ns), and its code.
fn attempt(to: SocketAddr, from: SocketAddr, name: &str) -> std::io::Result<(u64, u8)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut out = Vec::new();
    words::connect(&mut out, false, name, Some((name, "not the password")), true);
    let started = now();
    stream.write_all(&out)?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    Ok((now() - started, connack[3]))
}

fn name(kind: usize, number: usize) -> String {
    // Of the same length, whatever the kind.
    format!("person-{kind}-{:05}", number / EACH)
}

fn samples(subject: Subject, programs: &Programs, count: usize) -> Result<Vec<(Vec<f64>, Vec<u8>)>, String> {
    let people: Vec<Person> = [0, 2]
        .iter()
        .flat_map(|&kind| {
            (0..count.div_ceil(EACH)).map(move |number| Person::new(name(kind, number * EACH), &["bystander"]))
        })
        .collect();
    let plan = Plan { programs, cost: Cost::Default, roles: &[bystanders::ROLE], people: &people };
    let mut broker = plan.start(subject)?;
    for number in (0..count).step_by(EACH) {
        broker.admin.disable(&name(2, number))?;
        match &mut broker.admin {
            Admin::Rest(rest) => {
                let user = json!({ "username": name(3, number), "auth": "certificate" });
                rest.call("POST", "/api/users", Some(&user))?;
            }
            Admin::Control { control, .. } => {
                control.call(&[json!({ "command": "createClient", "username": name(3, number) })])?;
            }
        }
    }
    let mut found = vec![(Vec::new(), Vec::new()); KINDS.len()];
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for number in 0..count {
        let mut order = [0, 1, 2, 3];
        for place in (1..order.len()).rev() {
            // xorshift64: any order will do, as long as it changes.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(place, random as usize % (place + 1));
        }
        for kind in order {
            let from = address(0x00C0_0000 + (number * KINDS.len() + kind) as u64);
            let (took, code) = attempt(broker.address, from, &name(kind, number)).map_err(|error| error.to_string())?;
            found[kind].0.push(milliseconds(took));
            found[kind].1.push(code);
        }
    }
    Ok(found)
}

/// Welch's t of two samples.
fn welch(one: &[f64], two: &[f64]) -> f64 {
    let moments = |values: &[f64]| {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0) / count)
    };
    let ((mean_one, error_one), (mean_two, error_two)) = (moments(one), moments(two));
    (mean_one - mean_two) / (error_one + error_two).sqrt()
}

/// Without the slowest tenth of all, which the rest of the machine made slow.
fn cropped(values: &[f64], bound: f64) -> Vec<f64> {
    values.iter().copied().filter(|value| *value <= bound).collect()
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, count: usize) {
    println!("timing: {count} refusals of each kind, in turns; t against the wrong password\n");
    let mut rows = vec![
        ["", "", "median ms", "mean ms", "t", "t without the slowest tenth", "CONNACK"].map(str::to_owned).to_vec(),
    ];
    for &subject in subjects {
        if subject == Subject::MosquittoRemove {
            continue;
        }
        let found = match samples(subject, programs, count) {
            Ok(found) => found,
            Err(error) => {
                println!("{}: {error}\n", subject.name());
                continue;
            }
        };
        let mut all: Vec<f64> = found.iter().flat_map(|(times, _)| times.iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        let bound = all.get(all.len() * 9 / 10).copied().unwrap_or(f64::MAX);
        for (kind, (times, codes)) in KINDS.iter().zip(&found) {
            let mut codes = codes.clone();
            codes.sort_unstable();
            codes.dedup();
            let base = &found[0].0;
            rows.push(vec![
                subject.name().to_owned(),
                (*kind).to_owned(),
                median(&mut times.clone()).map_or("-".to_owned(), |middle| format!("{middle:.2}")),
                format!("{:.2}", times.iter().sum::<f64>() / times.len() as f64),
                format!("{:+.2}", welch(times, base)),
                format!("{:+.2}", welch(&cropped(times, bound), &cropped(base, bound))),
                format!("{codes:?}"),
            ]);
        }
    }
    println!("{}", align(&rows));
}

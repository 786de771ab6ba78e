//! 100,000 certificates renewed: how their moments are spread, and how fast they could be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::access::{Auth, CertificateRecord, UserId};
use portcullis::clock::{Clock as _, SystemClock, Timestamp};
use portcullis::directory::{Actor, NewUser, Transaction};
use portcullis::pki::{hex, sha256};
use portcullis::registry::{Caller, invitation};
use portcullis::store::Durability;

use super::{Bench, Failure, at_once, csr, disk, in_parallel, memory, origin, percentile, rate, unlimited};

const DEVICES: usize = 100_000;
const LIFE: Duration = Duration::from_hours(90 * 24);

/// Users in one transaction.
const CHUNK: usize = 1_000;

fn name(number: usize) -> String {
    format!("press-{number:06}")
}

fn record(number: usize, (not_before, not_after): (Timestamp, Timestamp)) -> CertificateRecord {
    CertificateRecord {
        serial: format!("{number:032x}"),
        fingerprint: hex(&sha256(&number.to_be_bytes())),
        key: Some(hex(&sha256(name(number).as_bytes()))),
        not_before,
        not_after,
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: Some("the one before".into()),
        replaces: None,
    }
}

pub(super) async fn measure() -> Result<(), Failure> {
    let now = SystemClock.timestamp();
    let life = (now.checked_sub(LIFE / 3 * 2)?, now.checked_add(LIFE / 3)?);
    spread(life, life.0, "enrolled in one moment")?;
    spread(life, now.checked_add(LIFE / 10)?, "connected again in one moment after an outage")?;

    let bench = Bench::open(Durability::Sync, unlimited(DEVICES))?;
    let begin = Instant::now();
    for first in (0..DEVICES).step_by(CHUNK) {
        let mut changes = Vec::with_capacity(CHUNK);
        for number in first..first + CHUNK {
            let new = NewUser {
                auth: Auth::Certificate,
                certificates: vec![record(number, life)],
                ..NewUser::named(name(number).parse()?)
            };
            changes.push(portcullis::directory::Change::PutUser {
                user: Box::new(new.into_user(UserId(uuid::Uuid::now_v7()), portcullis::access::ManagedBy::Registry)),
                expected: portcullis::directory::Expected::Absent,
            });
        }
        bench.directory.commit(Transaction { changes, ..Transaction::default() }, &Actor::System)?;
    }
    println!("{DEVICES} users with a certificate each: {:.1?}, {} MiB resident", begin.elapsed(), memory("VmRSS:"));
    let messages = in_parallel(DEVICES, |n| Ok(serde_json::json!({ "csr": csr(&name(n))? }).to_string()))?;
    let policy = bench.directory.policy();
    let ids: BTreeMap<String, UserId> = policy.users().map(|user| (user.username.to_string(), user.id)).collect();
    let callers: Vec<_> = ids
        .into_values()
        .enumerate()
        .map(|(number, user)| Caller { user, certificate: Some((record(number, life).serial, life.1)) })
        .collect();
    println!("with the {DEVICES} requests of the driver: {} MiB resident", memory("VmRSS:"));
    let all = Arc::new((messages, callers));
    let registry = bench.registry.clone();
    let (time, times) = at_once(DEVICES, move |n| {
        let (registry, all) = (registry.clone(), Arc::clone(&all));
        async move {
            let (message, caller) = all.0.get(n).zip(all.1.get(n)).ok_or("no message")?;
            let origin = origin(Ipv4Addr::new(192, 0, 2, 1).into());
            let answer = registry.renew(message.as_bytes(), None, Some(caller), &origin).await;
            if answer.status == 201 { Ok(()) } else { Err(format!("{answer:?}").into()) }
        }
    })
    .await?;
    println!(
        "{DEVICES} renewals, each on disk before its answer, without a pause: {:.0} per second, p50 {:.1?}, p99 {:.1?}; {} MiB resident, {} MiB on disk",
        rate(DEVICES, time),
        percentile(&times, 50),
        percentile(&times, 99),
        memory("VmRSS:"),
        disk(bench.home.path())?
    );
    Ok(())
}

/// When the devices are told to renew, seen at this moment.
fn spread(life: (Timestamp, Timestamp), seen: Timestamp, what: &str) -> Result<(), Failure> {
    let mut seconds: BTreeMap<i64, usize> = BTreeMap::new();
    for number in 0..DEVICES {
        let due = invitation(life, &record(number, life).fingerprint, seen).ok_or("too late")?;
        *seconds.entry(due.as_second()).or_default() += 1;
    }
    let span = seconds.keys().next().zip(seconds.keys().next_back()).map_or(0, |(first, last)| last - first);
    let most = seconds.values().max().copied().unwrap_or_default();
    println!(
        "{DEVICES} devices {what}: invited over {:.1} hours, at most {most} in a second",
        Duration::from_secs(span.unsigned_abs()).as_secs_f64() / 3600.0
    );
    Ok(())
}

//! Enrolments per second with P-256 CSRs, 64 at a time: recorded, granted by an operator, signed and collected.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::directory::Actor;
use portcullis::registry::{GrantTerms, StateFilter, UnlockTerms};
use portcullis::store::Durability;

use super::{Bench, Failure, at_once, csr, in_parallel, origin, percentile, rate, unlimited};

const DEVICES: usize = 20_000;

pub(super) async fn measure() -> Result<(), Failure> {
    let messages = Arc::new(in_parallel(DEVICES, |n| {
        let name = format!("press-{n:06}");
        let message = serde_json::json!({ "username": name, "csr": csr(&name)? });
        Ok(message.to_string())
    })?);
    for (what, durability) in [
        ("each on disk before its answer", Durability::Sync),
        ("flushed every 500 ms", Durability::Interval(Duration::from_millis(500))),
    ] {
        println!("{DEVICES} enrolments, {what}");
        let bench = Bench::open(durability, unlimited(DEVICES + 1))?;
        println!("    4 KiB written and synced beside it: {:.2?}", synced(bench.home.path())?);
        enrol(&bench, &messages).await?;
    }
    Ok(())
}

async fn enrol(bench: &Bench, messages: &Arc<Vec<String>>) -> Result<(), Failure> {
    let registry = &bench.registry;
    registry.unlock(UnlockTerms { duration: Some(3600), ..UnlockTerms::default() }, Actor::System).await?;
    let send = |status: u16| {
        let (registry, messages) = (registry.clone(), Arc::clone(messages));
        move |n: usize| {
            let (registry, messages) = (registry.clone(), Arc::clone(&messages));
            async move {
                let message = messages.get(n).ok_or("no message")?;
                let origin = origin(Ipv4Addr::new(192, 0, 2, 1).into());
                let answer = registry.register(message.as_bytes(), None, &origin).await;
                let right = answer.status == status && answer.certificate.is_some() == (status == 201);
                if right { Ok(()) } else { Err(Failure::from(format!("{answer:?}"))) }
            }
        }
    };
    let tell = |what: &str, (time, times): &(Duration, Vec<Duration>)| {
        let (p50, p99) = (percentile(times, 50), percentile(times, 99));
        println!("    {what}: {:.0} per second, p50 {p50:.1?}, p99 {p99:.1?}", rate(times.len(), *time));
    };
    let recorded = at_once(DEVICES, send(202)).await?;
    tell("recorded", &recorded);
    let ids = registry.list(Some(StateFilter::Pending)).await?.into_iter().map(|request| request.id);
    let (ids, granting) = (Arc::new(ids.collect::<Vec<_>>()), registry.clone());
    let granted = at_once(DEVICES, move |n| {
        let (registry, ids) = (granting.clone(), Arc::clone(&ids));
        async move {
            let id = ids.get(n).ok_or("a request is missing")?;
            registry.grant(*id, GrantTerms::default(), Actor::System).await?;
            Ok(())
        }
    })
    .await?;
    tell("granted and signed", &granted);
    tell("collected", &at_once(DEVICES, send(201)).await?);
    println!("    recorded and granted: {:.0} per second", rate(DEVICES, recorded.0 + granted.0));
    Ok(())
}

/// What the disk alone costs, half the time.
fn synced(folder: &std::path::Path) -> Result<Duration, Failure> {
    let mut file = std::fs::File::create(folder.join("beside"))?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let begin = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    Ok(percentile(&times, 50))
}

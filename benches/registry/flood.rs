//! A million bogus requests, and a device that is to be enrolled meanwhile; with the bounds that are the default.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::directory::Actor;
use portcullis::registry::{GrantTerms, Registry, RequestId, Settings, StateFilter, UnlockTerms};
use portcullis::store::Durability;

use super::{Bench, Failure, at_once, csr, disk, memory, origin, percentile, rate};

/// What the flood is answered.
const STATUSES: [u16; 4] = [202, 409, 423, 429];

pub(super) async fn measure() -> Result<(), Failure> {
    let bench = Bench::open(Durability::Sync, Settings::default())?;
    let here = "10.0.0.0/8".parse()?;
    let wide = UnlockTerms { duration: Some(3600), ..UnlockTerms::default() };
    let narrow = UnlockTerms { source: vec![here], ..wide.clone() };
    for (what, count, sources, terms) in [
        ("from one address, the door wide open", 300_000, 1, &wide),
        ("from 100,000 addresses, the door open to the device's network", 300_000, 100_000, &narrow),
        ("from 100,000 addresses, the door wide open", 400_000, 100_000, &wide),
    ] {
        bench.registry.unlock(terms.clone(), Actor::System).await?;
        println!("{count} bogus requests {what}");
        flood(&bench, count, sources).await?;
    }
    Ok(())
}

async fn flood(bench: &Bench, count: usize, sources: u32) -> Result<(), Failure> {
    let answered: Arc<[AtomicU64; STATUSES.len()]> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn(honest(bench.registry.clone(), Arc::clone(&over)));
    let (registry, counted) = (bench.registry.clone(), Arc::clone(&answered));
    let (time, _) = at_once(count, move |n| {
        let (registry, answered) = (registry.clone(), Arc::clone(&counted));
        async move {
            let number = u32::try_from(n)?;
            let source = IpAddr::from(Ipv4Addr::from_bits(0x6440_0000 + number % sources));
            let message = format!(r#"{{"username":"bogus-{sources}-{n}","password":"the password of {n}"}}"#);
            let answer = registry.register(message.as_bytes(), None, &origin(source)).await;
            let place = STATUSES.iter().position(|it| *it == answer.status).ok_or_else(|| format!("{answer:?}"))?;
            answered.get(place).ok_or("no such place")?.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await?;
    over.store(true, Ordering::Relaxed);
    let (enrolled, refused) = honest.await??;
    let answers: Vec<_> = STATUSES
        .iter()
        .zip(answered.iter())
        .map(|(status, count)| format!("{status}: {}", count.load(Ordering::Relaxed)))
        .collect();
    println!("    {:.0} per second; answered {}", rate(count, time), answers.join(", "));
    println!(
        "    meanwhile {} devices were enrolled, p50 {:.1?}, p99 {:.1?}; refused {refused}",
        enrolled.len(),
        percentile(&enrolled, 50),
        percentile(&enrolled, 99)
    );
    let pending = bench.registry.status().await?.pending;
    println!("    {pending} pending, {} MiB resident, {} MiB on disk", memory("VmRSS:"), disk(bench.home.path())?);
    Ok(())
}

/// A device of another address asks, is granted and collects, again and again. How long each took, and how many were refused.
async fn honest(registry: Registry, over: Arc<AtomicBool>) -> Result<(Vec<Duration>, u64), Failure> {
    let origin = origin(Ipv4Addr::new(10, 1, 2, 3).into());
    let (mut times, mut refused) = (Vec::new(), 0);
    let begun = Instant::now();
    for n in 0_u32.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("honest-{}-{n}", begun.elapsed().as_micros());
        let message = format!(r#"{{"username":"{name}","csr":{}}}"#, serde_json::to_string(&csr(&name)?)?);
        // Requests are in the order of their ids: its own is among those after this moment.
        let (begin, moment) = (Instant::now(), RequestId(uuid::Uuid::now_v7()));
        let asked = registry.register(message.as_bytes(), None, &origin).await;
        if asked.status == 202 {
            let pending = registry.page(Some(StateFilter::Pending), Some(moment), 1_000).await?;
            let id = pending.items.iter().find(|it| it.username.as_str() == name).ok_or("it is not listed")?.id;
            registry.grant(id, GrantTerms::default(), Actor::System).await?;
            let collected = registry.register(message.as_bytes(), None, &origin).await;
            if collected.status != 201 {
                return Err(format!("{collected:?}").into());
            }
            times.push(begin.elapsed());
        } else {
            refused += 1;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    times.sort_unstable();
    Ok((times, refused))
}

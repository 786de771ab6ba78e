//! Enrolments per second with P-256 CSRs, 64 at a time: granted by a rule of broker.toml and signed in the one exchange that asks;
//! and recorded, granted by an operator, signed and collected.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::config::{KeyAlgorithm, RegistryRule, RuleAction, RuleGrant};
use portcullis::directory::Actor;
use portcullis::registry::{GrantTerms, Settings, StateFilter, UnlockTerms};
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
        let bench = Bench::open(durability, Settings { rules: vec![rule()], ..unlimited(1) })?;
        println!("    4 KiB written and synced beside it: {:.2?}", synced(bench.home.path())?);
        tell("granted by a rule, signed and collected", &at_once(DEVICES, send(&bench, &messages, 201)).await?);
        let bench = Bench::open(durability, unlimited(DEVICES * 2))?;
        by_operator(&bench, &messages).await?;
    }
    Ok(())
}

/// Whoever has such a key is enrolled, also while the registry is locked.
fn rule() -> RegistryRule {
    RegistryRule {
        name: "line".to_owned(),
        source: Vec::new(),
        listener: None,
        key: vec![KeyAlgorithm::P256],
        username: None,
        action: RuleAction::Grant(RuleGrant {
            roles: Vec::new(),
            permissions: Vec::new(),
            publish_prefix: None,
            validity: None,
            while_locked: true,
            limit: DEVICES,
        }),
    }
}

/// Sends each message; all are answered with this status, and with a certificate if that is 201.
fn send(
    bench: &Bench,
    messages: &Arc<Vec<String>>,
    status: u16,
) -> impl Fn(usize) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> + Clone + Send + 'static {
    let (registry, messages) = (bench.registry.clone(), Arc::clone(messages));
    move |n: usize| {
        let (registry, messages) = (registry.clone(), Arc::clone(&messages));
        Box::pin(async move {
            let message = messages.get(n).ok_or("no message")?;
            let origin = origin(Ipv4Addr::new(192, 0, 2, 1).into());
            let answer = registry.register(message.as_bytes(), None, &origin).await;
            let right = answer.status == status && answer.certificate.is_some() == (status == 201);
            if right { Ok(()) } else { Err(Failure::from(format!("{answer:?}"))) }
        })
    }
}

fn tell(what: &str, (time, times): &(Duration, Vec<Duration>)) {
    let (p50, p99) = (percentile(times, 50), percentile(times, 99));
    println!("    {what}: {:.0} per second, p50 {p50:.1?}, p99 {p99:.1?}", rate(times.len(), *time));
}

async fn by_operator(bench: &Bench, messages: &Arc<Vec<String>>) -> Result<(), Failure> {
    let registry = &bench.registry;
    registry.unlock(UnlockTerms { duration: Some(3600), ..UnlockTerms::default() }, Actor::System).await?;
    let recorded = at_once(DEVICES, send(bench, messages, 202)).await?;
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
    tell("granted by an operator and signed", &granted);
    tell("collected", &at_once(DEVICES, send(bench, messages, 201)).await?);
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

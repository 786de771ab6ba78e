//! What it costs an operator to look at a full registry: 100,000 pending requests, in a store on disk.
//!
//! Prints figures; nothing is judged here. `cargo bench --bench registry`.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::authn::{Busy, HashError, Source};
use portcullis::clock::{Clock, SystemClock};
use portcullis::directory::{Actor, Directory};
use portcullis::metrics::Metrics;
use portcullis::pki::CertificateAuthority;
use portcullis::registry::{
    Door, Hashing, Origin, PasswordHasher, RateLimit, Registry, Settings, StateFilter, UnlockTerms,
};
use portcullis::store::{Durability, SledStore, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PENDING: usize = 100_000;

/// Registrations under way at a time while the table is filled.
const AT_ONCE: usize = 32;

/// Passwords are not what is measured.
struct NoArgon2;

impl PasswordHasher for NoArgon2 {
    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn hash<'a>(&'a self, _: Source, password: &'a str) -> Hashing<'a, Result<String, HashError>> {
        Box::pin(async move { Ok(password.to_owned()) })
    }

    fn verify<'a>(&'a self, _: Source, password: &'a str, hash: Option<&'a str>) -> Hashing<'a, Result<bool, Busy>> {
        Box::pin(async move { Ok(Some(password) == hash) })
    }
}

fn main() -> Result<(), Failure> {
    // `cargo test --benches` passes an option of its own.
    if std::env::args().any(|word| word == "--test") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<(), Failure> {
    let home = tempfile::tempdir()?;
    let store: Arc<dyn Store> =
        Arc::new(SledStore::open(home.path(), Durability::Interval(Duration::from_millis(500)))?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let directory = Arc::new(Directory::open(Arc::clone(&store), Arc::clone(&clock))?);
    let settings = Settings {
        max_pending: PENDING + 1,
        max_pending_per_source: PENDING + 1,
        rate: RateLimit { burst: u32::MAX, every: Duration::from_nanos(1) },
        ..Settings::default()
    };
    let registry = Registry::open(
        store,
        directory,
        Arc::new(CertificateAuthority::generate(clock.timestamp())?),
        Arc::new(NoArgon2),
        clock,
        Arc::new(Metrics::new()),
        settings,
    )?;
    registry.unlock(UnlockTerms { duration: Some(3600), ..UnlockTerms::default() }, Actor::System).await?;
    let begin = Instant::now();
    fill(&registry).await?;
    println!("{PENDING} requests recorded in {:.1?}", begin.elapsed());

    let newest = registry.page(None, None, PENDING).await?.items.last().map(|request| request.id);
    let denied = newest.ok_or("the table is empty")?;
    registry.deny(denied, "the only one of its kind".into(), Actor::System).await?;
    for (what, filter, limit) in [
        ("the first 100 pending", Some(StateFilter::Pending), 100),
        ("the first 1,000 pending", Some(StateFilter::Pending), 1000),
        ("the one denied among all", Some(StateFilter::Denied), 1000),
        ("none granted among all", Some(StateFilter::Granted), 1000),
    ] {
        let mut times = Vec::new();
        for _ in 0..100 {
            let begin = Instant::now();
            let page = registry.page(filter, None, limit).await?;
            std::hint::black_box(serde_json::to_vec(&page)?);
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let at = |place: usize| times.get(place).copied().unwrap_or_default();
        println!("{what}, as JSON: p50 {:.2?}, p99 {:.2?}", at(50), at(98));
    }
    let begin = Instant::now();
    let (mut after, mut count) = (None, 0);
    loop {
        let page = registry.page(Some(StateFilter::Pending), after, 1000).await?;
        count += page.items.len();
        std::hint::black_box(serde_json::to_vec(&page)?);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    println!("all {count} pending, in pages of 1,000, as JSON: {:.2?}", begin.elapsed());
    Ok(())
}

async fn fill(registry: &Registry) -> Result<(), Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let registry = registry.clone();
        tasks.spawn(async move {
            let origin = Origin {
                source: std::net::IpAddr::from([192, 0, 2, 1]),
                listener: "enrol".into(),
                door: Door::Rest,
                binding: portcullis::registry::Binding::Connection(0),
                sink: None,
            };
            for n in (worker..PENDING).step_by(AT_ONCE) {
                let message = format!(
                    r#"{{"username":"pump-{n:06}","password":"the password of {n}","context":{{"model":"P100","line":{n}}}}}"#
                );
                let answer = registry.register(message.as_bytes(), None, &origin).await;
                if answer.status != 202 {
                    return Err(format!("{answer:?}"));
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

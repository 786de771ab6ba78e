//! What it costs an operator to look at a full registry: 100,000 pending requests, in a store on disk.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use portcullis::directory::Actor;
use portcullis::registry::{StateFilter, UnlockTerms};
use portcullis::store::Durability;

use super::{Bench, Failure, at_once, origin, percentile, unlimited};

const PENDING: usize = 100_000;

pub(super) async fn measure() -> Result<(), Failure> {
    let bench = Bench::open(Durability::Interval(Duration::from_millis(500)), unlimited(PENDING + 1))?;
    let registry = &bench.registry;
    registry.unlock(UnlockTerms { duration: Some(3600), ..UnlockTerms::default() }, Actor::System).await?;
    let asking = registry.clone();
    let (time, _) = at_once(PENDING, move |n| {
        let registry = asking.clone();
        async move {
            let message = format!(
                r#"{{"username":"pump-{n:06}","password":"the password of {n}","context":{{"model":"P100","line":{n}}}}}"#
            );
            let origin = origin(Ipv4Addr::new(192, 0, 2, 1).into());
            let answer = registry.register(message.as_bytes(), None, &origin).await;
            if answer.status == 202 { Ok(()) } else { Err(format!("{answer:?}").into()) }
        }
    })
    .await?;
    println!("{PENDING} requests recorded in {time:.1?}");

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
        println!("{what}, as JSON: p50 {:.2?}, p99 {:.2?}", percentile(&times, 50), percentile(&times, 99));
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

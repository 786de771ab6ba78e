//! The cost of matching and handing over: by the number of filters that take no part, by subscribers, and of a
//! subscription that comes and goes.
#![allow(missing_docs, reason = "criterion makes the entry point")]

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::{
    mqtt::{QoS, TopicFilter, TopicName},
    router::{Budget, Mailbox, MailboxLimits, RetainedLimits, RouteMemory, Router},
    session::{Message, Publisher, SessionNumber, SubscriptionNumber},
};

type Failure = Box<dyn std::error::Error>;

const FILTERS: [usize; 3] = [0, 1_000, 100_000];
const SUBSCRIBERS: [usize; 3] = [1, 100, 10_000];

fn router() -> Router {
    Router::new(RetainedLimits { messages: 1_000_000, bytes: 1 << 30 })
}

fn mailbox() -> Arc<Mailbox> {
    let mailbox = Mailbox::new(MailboxLimits { messages: usize::MAX, bytes: usize::MAX, total: Budget::new(1 << 40) });
    mailbox.attach(Arc::default());
    Arc::new(mailbox)
}

fn message(topic: &str, retain: bool) -> Result<Arc<Message>, Failure> {
    Ok(Arc::new(Message {
        topic: topic.try_into()?,
        payload: Bytes::from_static(&[7; 64]),
        qos: QoS::AtMostOnce,
        retain,
        publisher: Publisher::SYSTEM,
        expires: None,
        properties: None,
    }))
}

fn subscribe(router: &Router, filter: &str, session: usize, mailbox: &Arc<Mailbox>) -> Result<(), Failure> {
    let filter: TopicFilter = filter.try_into()?;
    let session = SessionNumber(u64::try_from(session)?);
    router.subscribe(&filter, session, SubscriptionNumber::FIRST, QoS::ExactlyOnce, mailbox);
    Ok(())
}

/// Filters that do not match must cost nothing.
fn match_among_others(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("router/match");
    let message = message("plant/hall-3/machine-7/speed", false)?;
    for others in FILTERS {
        let (router, mailbox) = (router(), mailbox());
        subscribe(&router, "plant/+/machine-7/#", 1, &mailbox)?;
        for number in 0..others {
            subscribe(&router, &format!("plant/hall-{}/machine-{number}/+", number % 7), number + 2, &mailbox)?;
        }
        group.bench_function(BenchmarkId::new("first time", others), |bencher| {
            bencher.iter_batched_ref(
                RouteMemory::default,
                |memory| router.route(black_box(&message), None, memory),
                BatchSize::SmallInput,
            );
            mailbox.clear();
        });
        let mut memory = RouteMemory::default();
        group.bench_function(BenchmarkId::new("remembered", others), |bencher| {
            bencher.iter(|| router.route(black_box(&message), None, &mut memory));
            mailbox.clear();
        });
    }
    group.finish();
    Ok(())
}

fn fan_out(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("router/fan-out");
    let message = message("news/today", false)?;
    for subscribers in SUBSCRIBERS {
        let router = router();
        let mailboxes: Vec<_> = (0..subscribers).map(|_| mailbox()).collect();
        for (number, mailbox) in mailboxes.iter().enumerate() {
            subscribe(&router, "news/#", number, mailbox)?;
        }
        let mut memory = RouteMemory::default();
        group.throughput(Throughput::Elements(u64::try_from(subscribers)?));
        group.bench_function(BenchmarkId::from_parameter(subscribers), |bencher| {
            bencher.iter(|| {
                let routed = router.route(black_box(&message), None, &mut memory);
                // What a reader does: otherwise the queues grow without end.
                for mailbox in &mailboxes {
                    drop(mailbox.pop());
                }
                routed
            });
        });
    }
    group.finish();
    Ok(())
}

fn come_and_go(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("router/subscription");
    let topic: TopicFilter = "plant/hall-3/machine-7/+".try_into()?;
    for others in FILTERS {
        let (router, mailbox) = (router(), mailbox());
        for number in 0..others {
            subscribe(&router, &format!("plant/hall-{}/machine-{number}/+", number % 7), number + 2, &mailbox)?;
        }
        group.bench_function(BenchmarkId::from_parameter(others), |bencher| {
            bencher.iter(|| {
                router.subscribe(&topic, SessionNumber(1), SubscriptionNumber::FIRST, QoS::AtMostOnce, &mailbox);
                router.unsubscribe(&topic, SessionNumber(1), SubscriptionNumber::FIRST);
            });
        });
    }
    group.finish();
    Ok(())
}

fn retained(criterion: &mut Criterion) -> Result<(), Failure> {
    let router = router();
    let mut memory = RouteMemory::default();
    for number in 0..100_000 {
        let message = message(&format!("plant/hall-{}/machine-{number}/state", number % 7), true)?;
        router.route(&message, None, &mut memory).map_err(|code| format!("{code:?}"))?;
    }
    let filter: TopicFilter = "plant/+/machine-7/state".try_into()?;
    let now = Instant::now();
    criterion.bench_function("router/retained, one of 100000 by `+`", |bencher| {
        bencher.iter(|| router.retained(black_box(&filter), now));
    });
    Ok(())
}

fn topics(criterion: &mut Criterion) -> Result<(), Failure> {
    let topic: TopicName = "plant/hall-3/machine-7/speed".try_into()?;
    for filter in ["plant/hall-3/machine-7/speed", "plant/+/machine-7/#", "plant/+/+/+"] {
        let parsed: TopicFilter = filter.try_into()?;
        criterion.bench_function(&format!("topic/{filter} matches"), |bencher| {
            bencher.iter(|| black_box(&parsed).matches(black_box(&topic)));
        });
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    let outcome = match_among_others(criterion)
        .and_then(|()| fan_out(criterion))
        .and_then(|()| come_and_go(criterion))
        .and_then(|()| retained(criterion))
        .and_then(|()| topics(criterion));
    assert!(outcome.is_ok(), "{outcome:?}");
}

criterion_group!(benches, all);
criterion_main!(benches);

//! The cost of one decision: by the number of rules, by what they look like, and of making and changing a snapshot.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use portcullis::access::{
    Authority, Context, Operation, Permission, Policy, PolicyError, Role, RoleName, User, UserId,
};
use portcullis::mqtt::{ClientId, TopicFilter, TopicName};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error>;

const SIZES: [usize; 4] = [1, 10, 1_000, 100_000];

fn allow(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::ReadWrite, resource)
}

/// A hall of machines with one rule each, and a few rules of every other kind.
fn rules(count: usize) -> Vec<Permission> {
    let mut rules = vec![allow("plant/hall-3/machine-0/${username}/#")];
    rules.extend((1..count).map(|number| allow(&format!("plant/hall-{}/machine-{number}/+/speed", number % 7))));
    if let Some(last) = rules.get_mut(5) {
        *last = Permission::deny(Context::Mqtt, Operation::ReadWrite, "plant/+/+/bob/secret");
    }
    rules
}

fn snapshot(rules: Vec<Permission>, users: u128) -> Result<(Policy, RoleName), Failure> {
    let role: RoleName = "line".parse()?;
    let users: Result<Vec<_>, Failure> = (0..users)
        .map(|number| {
            let username = if number == 0 { "bob".parse()? } else { format!("user-{number}").parse()? };
            let user = User {
                roles: vec![role.clone()],
                ..User::new(UserId(Uuid::from_u128(number)), username, Timestamp::UNIX_EPOCH)
            };
            Ok((user.id, Some(user)))
        })
        .collect();
    let roles = [(role.clone(), Some(Role::new(role.clone(), rules)))];
    Ok((Policy::default().with(roles, users?, Timestamp::UNIX_EPOCH)?, role))
}

fn authority(rules: Vec<Permission>) -> Result<Authority, Failure> {
    let (policy, _) = snapshot(rules, 1)?;
    Ok(policy.authority(UserId(Uuid::nil()), &"c1".parse()?).ok_or("no authority")?)
}

fn decide(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("access/decide");
    group.throughput(Throughput::Elements(1));
    let granted: TopicName = "plant/hall-3/machine-0/bob/speed".parse()?;
    let denied: TopicName = "plant/hall-3/machine-99/eve/speed/x".parse()?;
    for count in SIZES {
        let authority = authority(rules(count))?;
        group.bench_with_input(BenchmarkId::new("publish granted", count), &authority, |bencher, authority| {
            bencher.iter(|| authority.may_publish(black_box(&granted)));
        });
        group.bench_with_input(BenchmarkId::new("publish refused", count), &authority, |bencher, authority| {
            bencher.iter(|| authority.may_publish(black_box(&denied)));
        });
        group.bench_with_input(BenchmarkId::new("receive", count), &authority, |bencher, authority| {
            bencher.iter(|| authority.may_receive(black_box(&granted)));
        });
    }
    Ok(())
}

fn matching(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("access/match");
    // 1,024 patterns that all match, and the deepest topic there is.
    let branching: Vec<_> = (0..1_024_u32)
        .map(|bits| {
            let levels = (0..10).map(|bit| if bits >> bit & 1 == 0 { "a" } else { "+" });
            allow(&levels.collect::<Vec<_>>().join("/"))
        })
        .collect();
    let branching = authority(branching)?;
    let topic: TopicName = "a/a/a/a/a/a/a/a/a/a".parse()?;
    group.bench_function("every pattern of ten levels", |bencher| {
        bencher.iter(|| branching.may_receive(black_box(&topic)));
    });
    let all = authority(vec![allow("#")])?;
    let deep: TopicName = ("a/".repeat(127) + "a").parse()?;
    group.bench_function("128 levels", |bencher| bencher.iter(|| all.may_receive(black_box(&deep))));
    let large = authority(rules(100_000))?;
    for filter in ["plant/hall-3/machine-0/bob/#", "plant/#", "#", "plant/+/+/bob/+"] {
        let asked: TopicFilter = filter.parse()?;
        group.bench_function(BenchmarkId::new("subscribe, 100,000 rules", filter), |bencher| {
            bencher.iter(|| large.may_subscribe(black_box(&asked)));
        });
    }
    Ok(())
}

fn snapshots(criterion: &mut Criterion) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("access/snapshot");
    group.sample_size(20);
    let client: ClientId = "c1".parse()?;
    let user = UserId(Uuid::nil());
    let (policy, role) = snapshot(rules(10), 100_000)?;
    group.bench_function("authority of one of 100,000 users", |bencher| {
        bencher.iter(|| policy.authority(black_box(user), &client));
    });
    let edit = |rules: Vec<Permission>| -> Result<Policy, PolicyError> {
        policy.with([(role.clone(), Some(Role::new(role.clone(), rules)))], [], Timestamp::UNIX_EPOCH)
    };
    group.bench_function("edit a role that 100,000 users hold", |bencher| bencher.iter(|| edit(rules(10))));
    group.bench_function("compile 100,000 rules", |bencher| bencher.iter(|| edit(rules(100_000))));
    let lone: RoleName = "lone".parse()?;
    let newcomer = UserId(Uuid::from_u128(u128::MAX));
    group.bench_function("add a user to 100,000", |bencher| {
        bencher.iter(|| {
            let username = lone.as_str().parse().ok()?;
            let user = User::new(newcomer, username, Timestamp::UNIX_EPOCH);
            policy.with([], [(newcomer, Some(user))], Timestamp::UNIX_EPOCH).ok()
        });
    });
    Ok(())
}

#[expect(clippy::expect_used, reason = "a benchmark without its rules has nothing to measure")]
fn all(criterion: &mut Criterion) {
    decide(criterion).expect("rules that compile");
    matching(criterion).expect("rules that compile");
    snapshots(criterion).expect("rules that compile");
}

criterion_group!(benches, all);
criterion_main!(benches);

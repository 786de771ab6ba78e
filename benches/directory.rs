//! What commits cost: with many writers, with many users, roles and rules, and what a user takes of memory.
//!
//! Prints figures; nothing is judged here. `cargo bench --bench directory`, or one part of it by name:
//! `writers`, `scale`, `who-can`, `delegation`.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::access::{Context, Operation, Permission, Policy, Role, RoleName, User, UserId, Username};
use portcullis::clock::{SystemClock, Timestamp};
use portcullis::directory::{Actor, Change, Directory, Expected, NewUser, Transaction};
use portcullis::store::{Durability, MemoryStore, SledStore, Store};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const WRITERS: u64 = 64;
const MEASURED: Duration = Duration::from_secs(5);

fn main() -> Result<(), Failure> {
    // `cargo test --benches` and `cargo bench` pass options of their own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tested = std::env::args().any(|word| word == "--test");
    let is_wanted = |name: &str| !tested && (wanted.is_empty() || wanted.iter().any(|word| word == name));
    if is_wanted("writers") {
        writers()?;
    }
    if is_wanted("scale") {
        scale()?;
    }
    if is_wanted("who-can") {
        who_can()?;
    }
    if is_wanted("delegation") {
        delegation()?;
    }
    Ok(())
}

fn allow(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::ReadWrite, resource)
}

fn directory(store: Arc<dyn Store>) -> Result<Directory, Failure> {
    Ok(Directory::open(store, Arc::new(SystemClock))?)
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() as f64) * part) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Single changes per second, each its own transaction, from 64 threads with a user each.
fn writers() -> Result<(), Failure> {
    println!("single changes, {WRITERS} writers, {} s", MEASURED.as_secs());
    let home = tempfile_in_target()?;
    measure_writers("memory", Arc::new(MemoryStore::new()))?;
    for (name, durability) in
        [("sled, interval 1 s", Durability::Interval(Duration::from_secs(1))), ("sled, sync", Durability::Sync)]
    {
        let store = Arc::new(SledStore::open(home.path().join(name), durability)?);
        measure_writers(name, Arc::clone(&store) as Arc<dyn Store>)?;
        println!("    {} flushes", store.flushes());
    }
    Ok(())
}

fn tempfile_in_target() -> Result<tempfile::TempDir, Failure> {
    // Where the build goes is a disk; the directory for temporary files may be memory.
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), std::path::PathBuf::from);
    Ok(tempfile::tempdir_in(target)?)
}

fn measure_writers(name: &str, store: Arc<dyn Store>) -> Result<(), Failure> {
    let directory = Arc::new(directory(store)?);
    let mut users = Vec::new();
    for number in 0..WRITERS {
        let user = NewUser::named(format!("writer-{number}").parse()?);
        users.push(directory.create_user(user, &Actor::System)?.id);
    }
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let writers: Vec<_> = users
            .iter()
            .map(|user| {
                let (directory, done) = (&directory, &done);
                scope.spawn(move || -> Result<Vec<Duration>, String> {
                    let mut latencies = Vec::new();
                    while begun.elapsed() < MEASURED {
                        let one = Instant::now();
                        let number = done.fetch_add(1, Ordering::Relaxed);
                        let edit = move |user: &mut User| user.permissions = vec![allow(&format!("a/{number}/#"))];
                        directory
                            .update_user(*user, Expected::Any, edit, &Actor::System)
                            .map_err(|error| error.to_string())?;
                        latencies.push(one.elapsed());
                    }
                    Ok(latencies)
                })
            })
            .collect();
        let gathered: Result<Vec<_>, String> = writers
            .into_iter()
            .map(|writer| writer.join().unwrap_or_else(|_| Err("a writer panicked".to_owned())))
            .collect();
        gathered.map(|all| all.into_iter().flatten().collect())
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a rate to print")]
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let (p50, p99) = (percentile(&latencies, 0.50), percentile(&latencies, 0.99));
    println!("  {name}: {rate:.0} changes/s, p50 {p50:.1?}, p99 {p99:.1?}");
    Ok(())
}

/// A role's name and a user's, by number.
fn role_name(number: u64) -> Result<RoleName, Failure> {
    Ok(format!("role-{number}").parse()?)
}

fn user_name(number: u64) -> Result<Username, Failure> {
    Ok(format!("device-{number:07}").parse()?)
}

fn roles(count: u64, rules_each: u64) -> Result<Vec<Role>, Failure> {
    (0..count)
        .map(|number| {
            let rules = (0..rules_each).map(|rule| allow(&format!("site-{number}/${{username}}/{rule}/#"))).collect();
            Ok(Role::new(role_name(number)?, rules))
        })
        .collect()
}

fn user(number: u64, role: u64) -> Result<User, Failure> {
    let id = UserId(Uuid::from_u128(u128::from(number)));
    let mut user = User::new(id, user_name(number)?, Timestamp::UNIX_EPOCH);
    user.roles = vec![role_name(role)?];
    Ok(user)
}

fn timed<T>(what: &str, times: u32, mut work: impl FnMut(u32) -> Result<T, Failure>) -> Result<(), Failure> {
    let mut took = Vec::new();
    for number in 0..times {
        let begun = Instant::now();
        let outcome = work(number)?;
        took.push(begun.elapsed());
        drop(outcome);
    }
    took.sort_unstable();
    println!("  {what}: p50 {:.1?}, worst {:.1?}", percentile(&took, 0.5), percentile(&took, 1.0));
    Ok(())
}

/// One million users, 10,000 roles with 100,000 rules: memory, and the cost of one change.
fn scale() -> Result<(), Failure> {
    let users: u64 =
        std::env::var("PORTCULLIS_BENCH_USERS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let (role_count, rules_each) = (10_000, 10);
    println!("scale: {users} users, {role_count} roles, {} rules", role_count * rules_each);
    let now = Timestamp::UNIX_EPOCH;
    let begun = Instant::now();
    let roles: Vec<_> =
        roles(role_count, rules_each)?.into_iter().map(|role| (role.name.clone(), Some(role))).collect();
    let policy = Policy::default().with(roles, [], now)?;
    println!("  roles compiled in {:.1?}", begun.elapsed());
    let before = resident_bytes();
    let begun = Instant::now();
    let mut policy = policy;
    // Some at a time, so that what is measured is not the list of all of them.
    for chunk in 0..users.div_ceil(10_000) {
        let numbers = chunk * 10_000..((chunk + 1) * 10_000).min(users);
        let made: Result<Vec<_>, Failure> =
            numbers.map(|number| user(number, number % role_count).map(|user| (user.id, Some(user)))).collect();
        policy = policy.with([], made?, now)?;
    }
    println!("  users put in in {:.1?}", begun.elapsed());
    println!("  memory per user: {} bytes", (resident_bytes() - before) / users);

    timed("change of a user's rules", 1_000, |number| {
        let mut one = user(u64::from(number) * 31 % users, 7)?;
        one.permissions = vec![allow("a/#")];
        Ok(policy.with([], [(one.id, Some(one))], now)?)
    })?;
    timed("change of a role that 100 hold", 1_000, |number| {
        let role = Role::new(role_name(u64::from(number))?, vec![allow("a/#")]);
        Ok(policy.with([(role.name.clone(), Some(role))], [], now)?)
    })?;
    let everybody: RoleName = "everybody".parse()?;
    let large = Role::new(everybody.clone(), vec![allow("a/#")]);
    let mut crowded = policy.with([(everybody.clone(), Some(large))], [], now)?;
    for chunk in 0..users.div_ceil(10_000) {
        let numbers = chunk * 10_000..((chunk + 1) * 10_000).min(users);
        let made: Result<Vec<_>, Failure> = numbers
            .map(|number| {
                let mut user = user(number, number % role_count)?;
                user.roles.push(everybody.clone());
                Ok((user.id, Some(user)))
            })
            .collect();
        crowded = crowded.with([], made?, now)?;
    }
    timed("change of a role that everybody holds", 1_000, |number| {
        let role = Role::new(everybody.clone(), vec![allow(&format!("a/{number}/#"))]);
        Ok(crowded.with([(everybody.clone(), Some(role))], [], now)?)
    })?;
    let many: Vec<_> = (0..100_000).map(|rule| allow(&format!("hall-{}/machine-{rule}/#", rule % 7))).collect();
    timed("change of a role with 100,000 rules (each is compiled)", 5, |_| {
        let role = Role::new("large".parse()?, many.clone());
        Ok(policy.with([(role.name.clone(), Some(role))], [], now)?)
    })
}

fn hundred_thousand() -> Result<Policy, Failure> {
    let now = Timestamp::UNIX_EPOCH;
    let roles: Vec<_> = roles(1_000, 10)?.into_iter().map(|role| (role.name.clone(), Some(role))).collect();
    let users: Result<Vec<_>, Failure> =
        (0..100_000).map(|number| user(number, number % 1_000).map(|user| (user.id, Some(user)))).collect();
    Ok(Policy::default().with(roles, users?, now)?)
}

/// Who may, among 100,000 users.
fn who_can() -> Result<(), Failure> {
    println!("who-can: 100,000 users, 1,000 roles, 10,000 rules");
    let policy = hundred_thousand()?;
    let one = "site-7/device-0000007/3/x".try_into()?;
    timed("a topic of one user", 20, |_| Ok(policy.who_can_publish(&one).len()))?;
    let nobody = "nowhere/x".try_into()?;
    timed("a topic of nobody", 20, |_| Ok(policy.who_can_publish(&nobody).len()))?;
    let everybody: RoleName = "role-7".parse()?;
    let wide = Role::new(everybody.clone(), vec![allow("#")]);
    let policy = policy.with([(everybody, Some(wide))], [], Timestamp::UNIX_EPOCH)?;
    timed("a topic of a role with 100 holders", 20, |_| Ok(policy.who_can_receive(&nobody).len()))
}

/// What it costs that nobody hands out what they do not hold.
fn delegation() -> Result<(), Failure> {
    println!("delegation: changes by somebody who is not an administrator");
    let directory = directory(Arc::new(MemoryStore::new()))?;
    let many: Vec<_> = (0..300).map(|rule| allow(&format!("plant/line/machine-{rule}/#"))).collect();
    let line = Role::new("line".parse()?, many);
    directory.put_role(line, Expected::Absent, &Actor::System)?;
    let boss = NewUser { permissions: vec![allow("plant/line/#")], ..NewUser::named("boss".parse()?) };
    let boss = directory.create_user(boss, &Actor::System)?;
    let boss = Actor::of(&boss);
    for (who, actor) in [("an administrator", Actor::System), ("a holder of what is given", boss)] {
        timed(&format!("new user with a role of 300 rules, by {who}"), 1_000, |_| {
            let mut user = User::new(
                UserId(Uuid::now_v7()),
                format!("u{}", Uuid::now_v7().simple()).parse()?,
                Timestamp::UNIX_EPOCH,
            );
            user.roles = vec!["line".parse()?];
            let change = Change::PutUser { user: Box::new(user), expected: Expected::Absent };
            Ok(directory.commit(Transaction::from(change), &actor)?)
        })?;
    }
    Ok(())
}

//! What the registry costs, and what it withstands.
//!
//! Prints figures; nothing is judged here. `cargo bench --bench registry`, or one part of it by name: `list`, `enrol`, `flood`,
//! `renew`, `revocation`.

#![allow(clippy::print_stdout, reason = "figures are what it is for")]

mod enrol;
mod flood;
mod list;
mod renew;
mod revocation;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use portcullis::access::Username;
use portcullis::authn::{Attempt, Busy, FailureRate, Guesses, HashError, SALT_BYTES, Source, ThrottleSettings};
use portcullis::clock::{Clock, SystemClock};
use portcullis::directory::Directory;
use portcullis::metrics::Metrics;
use portcullis::pki::{CertificateAuthority, Signers};
use portcullis::registry::{Binding, Door, Hashing, Origin, PasswordHasher, RateLimit, Registry, Settings};
use portcullis::store::{Durability, SledStore, Store};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Messages under way at a time: as many as the registry works on at once.
const AT_ONCE: usize = 64;

/// Passwords are not what is measured, nor are those who guess.
struct NoArgon2(Arc<Guesses>);

impl NoArgon2 {
    fn new() -> Self {
        let rate = FailureRate { burst: u32::MAX / 4, every: Duration::from_nanos(1) };
        let settings =
            ThrottleSettings { source: rate, user: rate, stranger: rate, spared: rate, ..ThrottleSettings::default() };
        Self(Arc::new(Guesses::new(settings, Arc::new(SystemClock))))
    }
}

impl PasswordHasher for NoArgon2 {
    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn attempt(&self, source: Source, name: &Username) -> Result<Attempt, Duration> {
        self.0.attempt(source, name)
    }

    fn hash<'a>(&'a self, _: Source, password: &'a str, _: u32) -> Hashing<'a, Result<String, HashError>> {
        Box::pin(async move { Ok(password.to_owned()) })
    }

    fn stretch<'a>(
        &'a self,
        _: Source,
        password: &'a str,
        _: [u8; SALT_BYTES],
    ) -> Hashing<'a, Result<String, HashError>> {
        Box::pin(async move { Ok(password.to_owned()) })
    }

    fn verify<'a>(
        &'a self,
        _: Source,
        password: &'a str,
        (hash, _): (Option<&'a str>, u32),
        _: Arc<AtomicBool>,
    ) -> Hashing<'a, Result<bool, Busy>> {
        Box::pin(async move { Ok(Some(password) == hash) })
    }
}

/// A registry with its disk, which goes when this does.
struct Bench {
    registry: Registry,
    directory: Arc<Directory>,
    home: tempfile::TempDir,
}

impl Bench {
    fn open(durability: Durability, settings: Settings) -> Result<Self, Failure> {
        // Where the build goes is a disk; the directory for temporary files may be memory.
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), std::path::PathBuf::from);
        let home = tempfile::tempdir_in(target)?;
        let store: Arc<dyn Store> = Arc::new(SledStore::open(home.path(), durability)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let directory = Arc::new(Directory::open(Arc::clone(&store), Arc::clone(&clock))?);
        let registry = Registry::open(
            store,
            Arc::clone(&directory),
            Arc::new(Signers::new(CertificateAuthority::generate(clock.timestamp())?)),
            Arc::new(NoArgon2::new()),
            clock,
            Arc::new(Metrics::new()),
            settings,
        )?;
        Ok(Self { registry, directory, home })
    }
}

/// Bounds that are not what is measured.
fn unlimited(requests: usize) -> Settings {
    Settings {
        max_pending: requests,
        max_pending_per_source: requests,
        rate: RateLimit { burst: u32::MAX, every: Duration::from_nanos(1) },
        ..Settings::default()
    }
}

fn origin(source: IpAddr) -> Origin {
    Origin {
        source,
        listener: "enrol".into(),
        door: Door::Rest,
        hears: true,
        binding: Binding::Connection(0),
        sink: None,
    }
}

/// A CSR of a fresh P-256 key, PEM.
fn csr(name: &str) -> Result<String, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params.serialize_request(&KeyPair::generate()?)?.pem()?)
}

/// What `make` makes of each number, on all cores.
fn in_parallel<T: Send>(count: usize, make: impl Fn(usize) -> Result<T, Failure> + Sync) -> Result<Vec<T>, Failure> {
    let cores = std::thread::available_parallelism()?.get();
    let share = count.div_ceil(cores);
    let make = &make;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let mine = core * share..((core + 1) * share).min(count);
                scope.spawn(move || mine.map(make).collect::<Result<Vec<T>, Failure>>())
            })
            .collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(all)
    })
}

/// Does `work` for each number below `count`, `AT_ONCE` at a time. How long all of it took, and each, sorted.
async fn at_once<F>(
    count: usize,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Result<(Duration, Vec<Duration>), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send,
{
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..AT_ONCE {
        let work = work.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            for number in (worker..count).step_by(AT_ONCE) {
                let begin = Instant::now();
                work(number).await?;
                times.push(begin.elapsed());
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let whole = begin.elapsed();
    times.sort_unstable();
    Ok((whole, times))
}

fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|it| it.strip_prefix(line)?.split_whitespace().next()?.parse::<u64>().ok());
    found.unwrap_or_default() / 1024
}

/// MiB of the files below.
fn disk(path: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() { folders.push(entry.path()) } else { bytes += metadata.len() }
        }
    }
    Ok(bytes >> 20)
}

fn main() -> Result<(), Failure> {
    // `cargo test --benches` and `cargo bench` pass options of their own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tested = std::env::args().any(|word| word == "--test");
    let is_wanted = |name: &str| !tested && (wanted.is_empty() || wanted.iter().any(|word| word == name));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if is_wanted("list") {
        runtime.block_on(list::measure())?;
    }
    if is_wanted("enrol") {
        runtime.block_on(enrol::measure())?;
    }
    if is_wanted("flood") {
        runtime.block_on(flood::measure())?;
    }
    if is_wanted("renew") {
        runtime.block_on(renew::measure())?;
    }
    if is_wanted("revocation") {
        runtime.block_on(revocation::measure())?;
    }
    Ok(())
}

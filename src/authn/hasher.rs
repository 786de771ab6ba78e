//! The argon2 threads: passwords are hashed and checked here and nowhere else.
//!
//! Enters: a password, and the hash that it should match. Leaves: yes, no, or "busy". It never runs on an I/O thread,
//! never holds more jobs than its queues, never lets one source or one kind of work keep out the others, and never tells
//! by its timing whether there was a hash to match, nor of which kind it was: while hashes of PBKDF2 are on record, every
//! check costs argon2id and as many iterations as the costliest of those has.
//! Its threads have the lowest priority of the process, so that a storm of logins yields to messages.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::oneshot;

use super::Source;
use super::phc::{Argon2Parameters, HashError, MAX_PASSWORD_BYTES, Memory, PasswordHash, SALT_BYTES};
use super::queue::{FairQueue, Full};
use super::stored::{self, StoredHash};
use crate::metrics::Metrics;
use crate::priority::Priority;

/// How long a thread without work keeps the memory that argon2 fills.
const KEEP_MEMORY: Duration = Duration::from_secs(2);

/// Kinds of work, each with a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The password of a CONNECT or of an HTTP request.
    Login,
    /// The same, from a source that has proven to be this user before: a flood of guesses from everywhere fills the lane
    /// of the strangers, not this one.
    Known,
    /// The password of a registration.
    Registration,
    /// A password that somebody sets.
    Administration,
}

/// What is looked at next, over and over; an empty lane is passed over. Who is known gets at least half of the threads.
const TURNS: [Lane; 8] = [
    Lane::Known,
    Lane::Login,
    Lane::Known,
    Lane::Administration,
    Lane::Known,
    Lane::Login,
    Lane::Known,
    Lane::Registration,
];

/// Settings of a [`Hasher`].
#[derive(Clone, Copy, Debug)]
pub struct HasherSettings {
    /// Cost of the hashes that are made here. Default 19 MiB, two passes, one lane.
    pub parameters: Argon2Parameters,
    /// Threads. Default 1: each is a core that messages lose while logins are pending.
    pub workers: NonZeroUsize,
    /// Logins that may wait, and as many again from where their users are known. Default 256, which is 4.6 s of work: less than the time a client has for its CONNECT.
    pub login: usize,
    /// Registrations that may wait. Default 64.
    pub registration: usize,
    /// Passwords to be set that may wait. Default 16.
    pub administration: usize,
}

impl Default for HasherSettings {
    fn default() -> Self {
        Self {
            parameters: Argon2Parameters::default(),
            workers: NonZeroUsize::MIN,
            login: 256,
            registration: 64,
            administration: 16,
        }
    }
}

/// The pool. Its threads end after their present job when it is dropped; who still waits then is told "busy".
pub struct Hasher {
    shared: Arc<Shared>,
}

/// The answer to a login that found the queue full. Known and unknown users get it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked: try again in some seconds")]
pub struct Busy;

struct Shared {
    parameters: Argon2Parameters,
    /// What the passwords of unknown users are checked against.
    decoy: PasswordHash,
    waiting: Mutex<Waiting>,
    wake: Condvar,
    metrics: Arc<Metrics>,
}

struct Waiting {
    known: FairQueue<Job>,
    login: FairQueue<Job>,
    registration: FairQueue<Job>,
    administration: FairQueue<Job>,
    turn: usize,
    closed: bool,
}

enum Job {
    Verify(Verify),
    Hash(Hash),
}

struct Hash {
    password: SecretSlice<u8>,
    /// `None`: one is drawn.
    salt: Option<[u8; SALT_BYTES]>,
    floor: u32,
    answer: oneshot::Sender<Result<PasswordHash, HashError>>,
}

struct Verify {
    password: SecretSlice<u8>,
    hash: Arc<str>,
    /// False for the decoy: whatever comes out, the answer is no.
    known: bool,
    /// The iterations of PBKDF2 that the check costs at least, whatever the hash is.
    floor: u32,
    /// Its turn has come. Has the same proof been verified since it was queued?
    begin: Box<dyn FnOnce() -> bool + Send>,
    answer: oneshot::Sender<Verdict>,
}

/// What came out of a check.
pub(super) struct Verdict {
    pub(super) matches: bool,
    /// The same password by argon2id, where it matches a hash of PBKDF2.
    pub(super) fresh: Option<PasswordHash>,
}

impl From<bool> for Verdict {
    fn from(matches: bool) -> Self {
        Self { matches, fresh: None }
    }
}

impl Job {
    /// Does anybody wait for the answer?
    fn is_wanted(&self) -> bool {
        match self {
            Self::Verify(job) => !job.answer.is_closed(),
            Self::Hash(job) => !job.answer.is_closed(),
        }
    }
}

impl Hasher {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system gives no thread or no randomness.
    pub fn start(settings: HasherSettings, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let decoy = PasswordHash::decoy(settings.parameters).map_err(std::io::Error::other)?;
        let shared = Arc::new(Shared {
            parameters: settings.parameters,
            decoy,
            waiting: Mutex::new(Waiting {
                known: FairQueue::new(settings.login),
                login: FairQueue::new(settings.login),
                registration: FairQueue::new(settings.registration),
                administration: FairQueue::new(settings.administration),
                turn: 0,
                closed: false,
            }),
            wake: Condvar::new(),
            metrics,
        });
        let pool = Self { shared };
        for number in 0..settings.workers.get() {
            let shared = Arc::clone(&pool.shared);
            thread::Builder::new().name(format!("argon2-{number}")).spawn(move || {
                Priority::Hashing.take();
                shared.work();
            })?;
        }
        Ok(pool)
    }

    /// Is this the password of the hash? `None` and a hash that cannot be read cost the same and answer no.
    ///
    /// A caller that goes away (the future is dropped) costs nothing if its turn has not come.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full and this source has its share of it.
    pub async fn verify(&self, lane: Lane, source: Source, password: &[u8], hash: Option<&str>) -> Result<bool, Busy> {
        Ok(self.verify_unless(lane, source, password, (hash, 0), || false).await?.matches)
    }

    /// [`Hasher::verify`] at what a login costs: beside the hash, the iterations of PBKDF2 that this costs at least, hash or no hash. When
    /// the work begins, `begun` is set.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full and this source has its share of it.
    pub async fn verify_as_login(
        &self,
        lane: Lane,
        source: Source,
        password: &[u8],
        hash: (Option<&str>, u32),
        begun: Arc<AtomicBool>,
    ) -> Result<bool, Busy> {
        let begin = move || {
            begun.store(true, Ordering::Release);
            false
        };
        Ok(self.verify_unless(lane, source, password, hash, begin).await?.matches)
    }

    /// [`Hasher::verify`], but when its turn comes, `begin` is told, and may say that the work has been done meanwhile.
    /// Beside the hash: the iterations of PBKDF2 that this costs at least, hash or no hash.
    pub(super) async fn verify_unless(
        &self,
        lane: Lane,
        source: Source,
        password: &[u8],
        (hash, floor): (Option<&str>, u32),
        begin: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Verdict, Busy> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false.into()); // says nothing but what the client knows
        }
        let (answer, verdict) = oneshot::channel();
        self.push(
            lane,
            source,
            Job::Verify(Verify {
                password: password.to_vec().into(),
                hash: hash.unwrap_or(self.shared.decoy.as_str()).into(),
                known: hash.is_some(),
                floor,
                begin: Box::new(begin),
                answer,
            }),
        );
        verdict.await.map_err(|_| Busy)
    }

    /// Hashes a password with the configured cost. Its strength is the caller's to check.
    ///
    /// # Errors
    /// [`HashError::Busy`] when the queue is full; [`HashError::TooLong`] past 1,024 bytes.
    pub async fn hash(&self, lane: Lane, source: Source, password: &[u8]) -> Result<PasswordHash, HashError> {
        self.hash_as_login(lane, source, password, 0).await
    }

    /// [`Hasher::hash`] at what a login costs: so many iterations of PBKDF2 as well.
    ///
    /// # Errors
    /// As [`Hasher::hash`].
    pub async fn hash_as_login(
        &self,
        lane: Lane,
        source: Source,
        password: &[u8],
        floor: u32,
    ) -> Result<PasswordHash, HashError> {
        self.hash_with(lane, source, password, (None, floor)).await
    }

    /// [`Hasher::hash`] with a salt that is given: the same for the same password, and as dear to guess.
    ///
    /// # Errors
    /// As [`Hasher::hash`].
    pub async fn stretch(
        &self,
        lane: Lane,
        source: Source,
        password: &[u8],
        salt: [u8; SALT_BYTES],
    ) -> Result<PasswordHash, HashError> {
        self.hash_with(lane, source, password, (Some(salt), 0)).await
    }

    async fn hash_with(
        &self,
        lane: Lane,
        source: Source,
        password: &[u8],
        (salt, floor): (Option<[u8; SALT_BYTES]>, u32),
    ) -> Result<PasswordHash, HashError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(HashError::TooLong);
        }
        let (answer, hash) = oneshot::channel();
        self.push(lane, source, Job::Hash(Hash { password: password.to_vec().into(), salt, floor, answer }));
        hash.await.map_err(|_| HashError::Busy)?
    }

    /// The cost of the hashes that are made here.
    pub fn parameters(&self) -> Argon2Parameters {
        self.shared.parameters
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.lock().len()
    }

    /// A job that finds no room is dropped, which its caller sees as the end of the answer's channel.
    fn push(&self, lane: Lane, source: Source, job: Job) {
        let mut waiting = self.shared.waiting.lock();
        let queue = waiting.lane(lane);
        if queue.is_full() {
            // Whoever waits for an answer goes before those who have gone.
            queue.retain(Job::is_wanted);
        }
        let out = queue.push(source, job);
        self.shared.metrics.argon2_waiting.set(waiting.len());
        drop(waiting);
        if !matches!(out, Err(Full::Refused(_))) {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiting.lock();
        waiting.closed = true;
        while waiting.pop().is_some() {}
        drop(waiting);
        self.shared.wake.notify_all();
    }
}

impl Waiting {
    fn lane(&mut self, lane: Lane) -> &mut FairQueue<Job> {
        match lane {
            Lane::Known => &mut self.known,
            Lane::Login => &mut self.login,
            Lane::Registration => &mut self.registration,
            Lane::Administration => &mut self.administration,
        }
    }

    fn len(&self) -> usize {
        self.known.len() + self.login.len() + self.registration.len() + self.administration.len()
    }

    fn pop(&mut self) -> Option<Job> {
        for _ in TURNS {
            let lane = TURNS.get(self.turn).copied().unwrap_or(Lane::Login);
            self.turn = (self.turn + 1) % TURNS.len();
            if let Some(job) = self.lane(lane).pop() {
                return Some(job);
            }
        }
        None
    }
}

impl Shared {
    fn work(&self) {
        let mut memory = Memory::default();
        while let Some(job) = self.next(&mut memory) {
            self.metrics.argon2_busy.inc();
            self.run(job, &mut memory);
            self.metrics.argon2_busy.dec();
        }
    }

    fn next(&self, memory: &mut Memory) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.pop() {
                self.metrics.argon2_waiting.set(waiting.len());
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            if memory.is_empty() {
                self.wake.wait(&mut waiting);
            } else if self.wake.wait_for(&mut waiting, KEEP_MEMORY).timed_out() {
                // Giving 19 MiB back takes a while, and I/O threads want the lock.
                MutexGuard::unlocked(&mut waiting, || *memory = Memory::default());
            }
        }
    }
}

impl Shared {
    /// An answer that nobody waits for any more is no error: the caller has gone, and so has the use of the work.
    fn run(&self, job: Job, memory: &mut Memory) {
        match job {
            job if !job.is_wanted() => {}
            Job::Verify(job) => {
                let Verify { password, hash, known, floor, begin, answer } = job;
                // Asked for everybody alike.
                let remembered = begin();
                let verdict = if known && remembered {
                    Ok(true.into())
                } else {
                    self.verify(password.expose_secret(), (&hash, known), floor, memory)
                };
                match verdict {
                    Ok(verdict) => drop(answer.send(verdict)),
                    Err(error) => tracing::error!(%error, "a password could not be checked"), // the caller sees "busy"
                }
            }
            Job::Hash(Hash { password, salt, floor, answer }) => {
                let password = password.expose_secret();
                stored::burn(floor, password);
                let hash = match salt {
                    Some(salt) => PasswordHash::salted(password, &salt, self.parameters, memory),
                    None => PasswordHash::create(password, self.parameters, memory),
                };
                drop(answer.send(hash));
            }
        }
    }

    /// The one path for known and unknown users: argon2id once, and `floor` iterations of PBKDF2.
    fn verify(
        &self,
        password: &[u8],
        (hash, known): (&str, bool),
        floor: u32,
        memory: &mut Memory,
    ) -> Result<Verdict, HashError> {
        let (hash, known) = match StoredHash::try_from(hash) {
            Ok(hash) => (hash, known),
            Err(error) => {
                tracing::error!(%error, "a stored password hash cannot be read: its user cannot log in");
                (StoredHash::Argon2id(self.decoy.clone()), false)
            }
        };
        Ok(match hash {
            StoredHash::Argon2id(hash) => {
                let matches = hash.verify(password, memory)? & known;
                stored::burn(floor, password);
                matches.into()
            }
            StoredHash::Pbkdf2(hash) => {
                let matches = hash.verify(password) & known;
                stored::burn(floor.saturating_sub(hash.iterations()), password);
                // Made of every password, right or wrong: it is the work that argon2id is for everybody else.
                let fresh = PasswordHash::create(password, self.parameters, memory)?;
                Verdict { matches, fresh: matches.then_some(fresh) }
            }
        })
    }
}

#[cfg(test)]
impl Hasher {
    /// Holds the only thread until the guard is dropped.
    pub(super) fn stall(&self) -> impl Drop + use<> {
        struct Release(Option<std::sync::mpsc::Sender<()>>);
        impl Drop for Release {
            fn drop(&mut self) {
                self.0.take();
            }
        }
        let (release, released) = std::sync::mpsc::channel();
        let (started, running) = std::sync::mpsc::channel();
        let (answer, wanted) = oneshot::channel();
        let begin = Box::new(move || {
            started.send(()).unwrap();
            released.recv().unwrap_err();
            drop(wanted);
            true
        });
        let (password, hash) = (Vec::new().into(), Arc::from(""));
        let job = Verify { password, hash, known: true, floor: 0, begin, answer };
        self.push(Lane::Login, Source::Local, Job::Verify(job));
        running.recv().unwrap();
        Release(Some(release))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> HasherSettings {
        HasherSettings { parameters: Argon2Parameters::new(8, 1, 1).unwrap(), ..HasherSettings::default() }
    }

    fn pool(settings: HasherSettings) -> Hasher {
        Hasher::start(settings, Arc::new(Metrics::new())).unwrap()
    }

    #[tokio::test]
    async fn what_is_hashed_verifies_and_nothing_else_does() {
        let pool = pool(settings());
        let hash = pool.hash(Lane::Administration, Source::Local, b"right").await.unwrap();
        let verify = |password: &'static [u8], hash| pool.verify(Lane::Login, Source::Local, password, hash);
        assert_eq!(verify(b"right", Some(hash.as_str())).await, Ok(true));
        assert_eq!(verify(b"wrong", Some(hash.as_str())).await, Ok(false));
        assert_eq!(verify(b"right", None).await, Ok(false));
        assert_eq!(verify(b"right", Some("garbage in the store")).await, Ok(false));
        assert_eq!(verify(b"right", Some(hash.as_str())).await, Ok(true), "and the thread lives on");
    }

    /// Whatever the user, the hash and the password: what is on record decides what a check costs, and nothing else.
    #[tokio::test]
    async fn a_right_password_of_pbkdf2_comes_with_its_argon2id_and_a_wrong_one_with_nothing() {
        const OLD: &str = stored::tests::OF_MOSQUITTO;
        async fn verify(pool: &Hasher, password: &[u8], hash: Option<&str>, floor: u32) -> Verdict {
            pool.verify_unless(Lane::Login, Source::Local, password, (hash, floor), || false).await.unwrap()
        }
        let pool = pool(settings());
        for floor in [0, 100, 101, 5_000] {
            let right = verify(&pool, b"correct horse", Some(OLD), floor).await;
            assert!(right.matches);
            let fresh = right.fresh.unwrap();
            assert_eq!(fresh.parameters(), pool.parameters());
            let again = verify(&pool, b"correct horse", Some(fresh.as_str()), floor).await;
            assert!(again.matches && again.fresh.is_none(), "once");
            for (password, hash) in [(&b"wrong"[..], Some(OLD)), (b"correct horse", None), (b"x", Some(fresh.as_str()))]
            {
                let verdict = verify(&pool, password, hash, floor).await;
                assert!(!verdict.matches && verdict.fresh.is_none());
            }
        }
        assert!(pool.verify(Lane::Registration, Source::Local, b"correct horse", Some(OLD)).await.unwrap());
    }

    #[tokio::test]
    async fn a_password_too_long_is_never_hashed() {
        let pool = pool(settings());
        let long = vec![b'x'; MAX_PASSWORD_BYTES + 1];
        assert_eq!(pool.hash(Lane::Login, Source::Local, &long).await.unwrap_err(), HashError::TooLong);
        let stalled = pool.stall();
        assert_eq!(pool.verify(Lane::Login, Source::Local, &long, None).await, Ok(false));
        drop(stalled);
    }

    #[tokio::test]
    async fn a_flood_of_logins_is_told_busy_and_keeps_out_neither_another_source_nor_a_registration() {
        let pool = Arc::new(pool(HasherSettings { login: 8, registration: 2, ..settings() }));
        let stalled = pool.stall();
        let mut flood = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let pool = Arc::clone(&pool);
            flood.spawn(async move { pool.verify(Lane::Login, Source::V6(1), b"x", None).await });
        }
        while pool.waiting() < 8 {
            tokio::task::yield_now().await;
        }
        let other = pool.verify(Lane::Login, Source::V6(2), b"x", None);
        let registration = pool.hash(Lane::Registration, Source::V6(1), b"x");
        let release = async { drop(stalled) };
        let (other, registration, ()) = tokio::join!(other, registration, release);
        assert_eq!(other, Ok(false));
        assert!(registration.is_ok());
        let mut busy = 0;
        while let Some(verdict) = flood.join_next().await {
            busy += usize::from(verdict.unwrap() == Err(Busy));
        }
        assert!(busy >= 42, "{busy} of 50 were turned away");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_costs_no_hash() {
        let pool = pool(settings());
        let stalled = pool.stall();
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        let gone = pool.verify_unless(Lane::Login, Source::Local, b"x", (Some("x"), 0), move || {
            seen.store(true, Ordering::Release);
            true
        });
        assert!(tokio::time::timeout(Duration::from_millis(5), gone).await.is_err());
        drop(stalled);
        assert_eq!(pool.verify(Lane::Login, Source::Local, b"y", None).await, Ok(false));
        assert!(!asked.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn whoever_waits_when_the_pool_is_dropped_is_answered() {
        let pool = pool(settings());
        let stalled = pool.stall();
        let (answer, verdict) = oneshot::channel();
        pool.push(
            Lane::Administration,
            Source::Local,
            Job::Hash(Hash { password: vec![].into(), salt: None, floor: 0, answer }),
        );
        drop(pool);
        assert!(verdict.await.is_err());
        drop(stalled);
    }
}

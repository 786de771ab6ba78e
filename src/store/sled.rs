//! Records in sled 0.34: one tree, one key space, group commit.
//!
//! Enters: batches. Leaves: a directory of the store's own, mode 0700, its files 0600. What this file relies on in sled:
//!
//! - `Tree::apply_batch` writes a manifest with the last log position of the batch in front of it, and recovery stops
//!   at a manifest whose batch is not complete (`pagecache/iterator.rs`): a batch is atomic across a crash. That holds
//!   for one tree and for pages kept in the log; pages of more than a quarter of a segment go to files that are never
//!   synced, hence [`SEGMENT`] and [`super::MAX_VALUE`].
//! - `Tree::flush` waits for `sync_file_range`, which orders no disk cache and writes no metadata: so a commit here
//!   also calls `fdatasync` on a handle of its own.
//! - only sled's periodic thread reclaims old segments: so it runs under every durability.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use super::lock::{DirectoryLock, set_mode};
use super::{Batch, KeyRange, Record, Store, StoreError, schema};

/// Bytes of a log segment. INVARIANT: about 20 records of [`super::MAX_VALUE`] and their keys stay below a quarter.
const SEGMENT: usize = 8 * 1024 * 1024;
/// Bytes of pages that sled keeps in memory.
const CACHE: u64 = 64 * 1024 * 1024;
/// How often sled's thread looks for segments to reclaim when commits sync themselves.
const RECLAIM: Duration = Duration::from_secs(1);
/// How often it does where nothing need be written before the shutdown.
const LAZY: Duration = Duration::from_mins(1);
/// How long the threads of a store that this process has just closed may still hold sled's lock.
const LINGER: Duration = Duration::from_secs(5);

/// When a commit is safe from a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered. Commits of many threads share one flush.
    Sync,
    /// At most this long after it is answered; at least 1 ms.
    Interval(Duration),
    /// Some time; surely at a clean shutdown.
    Memory,
}

/// A store in a directory.
pub struct SledStore {
    tree: sled::Db,
    path: PathBuf,
    durability: Durability,
    /// Held for reading by a page, for writing by a batch: a page never shows half of a batch.
    apply: RwLock<()>,
    progress: Mutex<Progress>,
    synced: Condvar,
    /// The log, for `fdatasync`.
    log: File,
    /// Dropped last.
    _lock: DirectoryLock,
}

/// How far commits have come. INVARIANT: `synced <= applied`; at most one thread flushes.
#[derive(Default)]
struct Progress {
    applied: u64,
    synced: u64,
    syncing: bool,
    flushes: u64,
    failed: Option<Arc<str>>,
}

impl SledStore {
    /// Opens the store in the directory `path`, which is made if it is not there, and checks its schema version.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Access`] for what the operating system
    /// refuses, [`StoreError::Damaged`], and those of [`schema::prepare`].
    pub fn open(path: impl AsRef<Path>, durability: Durability) -> Result<Self, StoreError> {
        Self::open_with(path.as_ref(), durability, SEGMENT)
    }

    pub(super) fn open_with(path: &Path, durability: Durability, segment: usize) -> Result<Self, StoreError> {
        let lock = DirectoryLock::take(path)?;
        let flush_every = match durability {
            Durability::Sync => RECLAIM,
            Durability::Interval(every) => every.max(Duration::from_millis(1)),
            Durability::Memory => LAZY,
        };
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .segment_size(segment)
            .flush_every_ms(Some(u64::try_from(flush_every.as_millis()).unwrap_or(u64::MAX)));
        let tree = open_tree(path, &config)?;
        restrict(path)?;
        let log_path = path.join("db");
        let log = File::open(&log_path).map_err(|error| StoreError::access("cannot open", &log_path, error))?;
        let store = Self {
            tree,
            path: path.to_owned(),
            durability,
            apply: RwLock::new(()),
            progress: Mutex::default(),
            synced: Condvar::new(),
            log,
            _lock: lock,
        };
        schema::prepare(&store)?;
        store.sync()?;
        // The directory entries of the new files, and of the directory itself.
        for directory in
            [Some(path), path.parent().filter(|parent| !parent.as_os_str().is_empty())].into_iter().flatten()
        {
            sync_directory(directory)?;
        }
        Ok(store)
    }

    /// How often commits were flushed to the disk: with group commit, far less often than there were commits.
    pub fn flushes(&self) -> u64 {
        self.progress.lock().flushes
    }

    fn check(&self) -> Result<(), StoreError> {
        self.progress.lock().failed.clone().map_or(Ok(()), |reason| Err(StoreError::Failed(reason)))
    }

    /// From here on what the disk holds is not known: nothing more is read, written or answered.
    fn fail(&self, reason: &str) -> StoreError {
        let mut progress = self.progress.lock();
        let reason = Arc::clone(progress.failed.get_or_insert_with(|| reason.into()));
        self.synced.notify_all();
        StoreError::Failed(reason)
    }

    fn engine(&self, error: sled::Error) -> StoreError {
        match error {
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => {
                StoreError::Damaged { path: self.path.clone(), reason: error.to_string() }
            }
            sled::Error::Io(error) => StoreError::access("cannot read", &self.path, error),
            other => self.fail(&other.to_string()),
        }
    }

    /// Returns when the commit with this number is on the disk. The first thread to come flushes for all whose
    /// commits are applied by then; the others wait, and one of them flushes for the rest.
    fn wait_synced(&self, number: u64) -> Result<(), StoreError> {
        let mut progress = self.progress.lock();
        loop {
            if let Some(reason) = &progress.failed {
                return Err(StoreError::Failed(Arc::clone(reason)));
            }
            if progress.synced >= number {
                return Ok(());
            }
            if progress.syncing {
                self.synced.wait(&mut progress);
                continue;
            }
            progress.syncing = true;
            let target = progress.applied;
            drop(progress);
            let flushed = self.flush();
            progress = self.progress.lock();
            progress.syncing = false;
            match flushed {
                Ok(()) => {
                    progress.flushes += 1;
                    progress.synced = progress.synced.max(target);
                }
                // A second fsync after a failed one may report success for pages that were dropped.
                Err(reason) => progress.failed = Some(reason.into()),
            }
            self.synced.notify_all();
        }
    }

    fn flush(&self) -> Result<(), String> {
        self.tree.flush().map_err(|error| error.to_string())?;
        self.log.sync_data().map_err(|error| error.to_string())
    }
}

impl Store for SledStore {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check()?;
        let _page = self.apply.read();
        let value = self.tree.get(key).map_err(|error| self.engine(error))?;
        Ok(value.map(|bytes| bytes.to_vec()))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.check()?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let _page = self.apply.read();
        let records = match &range.end {
            Some(end) => self.tree.range(range.start.as_slice()..end.as_slice()),
            None => self.tree.range(range.start.as_slice()..),
        };
        records
            .take(limit)
            .map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|error| self.engine(error)))
            .collect()
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut writes = sled::Batch::default();
        for (key, value) in batch.into_writes() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        let number = {
            let _batch = self.apply.write();
            self.check()?;
            self.tree.apply_batch(writes).map_err(|error| self.fail(&error.to_string()))?;
            let mut progress = self.progress.lock();
            progress.applied += 1;
            progress.applied
        };
        match self.durability {
            Durability::Sync => self.wait_synced(number),
            Durability::Interval(_) | Durability::Memory => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let number = self.progress.lock().applied;
        self.wait_synced(number)
    }
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

fn open_tree(path: &Path, config: &sled::Config) -> Result<sled::Db, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let deadline = Instant::now() + LINGER;
    loop {
        // sled asserts where it should return an error when its files are not what it wrote.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|panic| damaged(panic.downcast::<String>().map_or_else(|_| "its log".to_owned(), |text| *text)))?;
        match opened {
            Ok(tree) => return Ok(tree),
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                // Our own lock is free, so this is a store of this process whose last threads are still going.
                if Instant::now() >= deadline {
                    return Err(StoreError::Locked(path.to_owned()));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(sled::Error::Io(error)) if is_of_the_system(&error) => {
                return Err(StoreError::access("cannot open the store", path, error));
            }
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
}

/// Did the operating system say it, and not sled about the content of a file?
fn is_of_the_system(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}

/// Takes the files from everybody else. New ones appear only at the next start, in a directory that is closed anyway.
fn restrict(path: &Path) -> Result<(), StoreError> {
    let entries = fs::read_dir(path).map_err(|error| StoreError::access("cannot list", path, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::access("cannot list", path, error))?;
        let kind = entry.file_type().map_err(|error| StoreError::access("cannot inspect", entry.path(), error))?;
        if kind.is_dir() {
            set_mode(&entry.path(), 0o700)?;
        } else if kind.is_file() {
            set_mode(&entry.path(), 0o600)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::access("cannot sync", path, error))
}

#[cfg(not(unix))]
fn sync_directory(_path: &Path) -> Result<(), StoreError> {
    Ok(())
}

//! A store that fails as it is told: on the n-th operation, by losing what was not synced, slowly. For tests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::memory::{self, Records};
use super::{Batch, KeyRange, Record, Store, StoreError};

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is done; later operations work again.
    Refused,
    /// A commit is applied, and cannot be made durable: the store stops. Reads fail as with [`Fault::Refused`].
    NotSynced,
    /// A commit is durable, and the answer is lost: the store stops. Reads fail as with [`Fault::Refused`].
    AnswerLost,
}

/// What is in memory, what is on the disk, and what is in between.
#[derive(Default)]
struct State {
    applied: Records,
    durable: Records,
    unsynced: VecDeque<Batch>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    /// For the next commit to a table whose name begins so.
    commit_fault: Option<(&'static str, Fault)>,
    failed: bool,
    delay: Duration,
}

/// A store in memory with faults.
#[derive(Default)]
pub(crate) struct FaultyStore {
    state: Mutex<State>,
    lazy: bool,
    commits: AtomicU64,
}

impl FaultyStore {
    /// Works, until told otherwise.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Every commit takes this long.
    pub(crate) fn slow(delay: Duration) -> Self {
        Self { state: Mutex::new(State { delay, ..State::default() }), ..Self::default() }
    }

    /// Commits are durable only after [`Store::sync`].
    pub(crate) fn lazy() -> Self {
        Self { lazy: true, ..Self::default() }
    }

    /// Lets the n-th operation from now fail (0: the next one).
    pub(crate) fn fail_at(&self, n: u64, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = Some((state.operations + n, fault));
    }

    /// Lets the next commit fail that writes to a table whose name begins so.
    pub(crate) fn fail_commit_to(&self, table: &'static str, fault: Fault) {
        self.state.lock().commit_fault = Some((table, fault));
    }

    /// Lets nothing fail that has not failed yet.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        (state.fault, state.commit_fault) = (None, None);
    }

    /// From now on every commit takes this long.
    pub(crate) fn take(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    /// Reads, scans, commits and syncs so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Commits that succeeded.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// The store after the power went: what was synced, and the first `survivors` of the commits that were not.
    pub(crate) fn crash(&self, survivors: usize) -> Self {
        let state = self.state.lock();
        let mut records = state.durable.clone();
        for batch in state.unsynced.iter().take(survivors) {
            memory::apply(&mut records, batch.clone());
        }
        let state = State { applied: records.clone(), durable: records, ..State::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    fn step(state: &mut State) -> Result<Option<Fault>, StoreError> {
        let n = state.operations;
        state.operations += 1;
        if state.failed {
            return Err(StoreError::Failed("fault".into()));
        }
        match state.fault {
            Some((at, Fault::Refused)) if at == n => Err(refused()),
            Some((at, fault)) if at == n => Ok(Some(fault)),
            _ => Ok(None),
        }
    }
}

fn refused() -> StoreError {
    StoreError::access("cannot write", "fault", std::io::Error::other("the disk is full"))
}

fn stop(state: &mut State) -> StoreError {
    state.failed = true;
    StoreError::Failed("fault".into())
}

impl Store for FaultyStore {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = self.state.lock();
        match Self::step(&mut state)? {
            Some(_) => Err(refused()),
            None => Ok(state.applied.get(key).cloned()),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Record>, StoreError> {
        let mut state = self.state.lock();
        match Self::step(&mut state)? {
            Some(_) => Err(refused()),
            None => Ok(memory::scan(&state.applied, range, limit)),
        }
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let delay = self.state.lock().delay;
        std::thread::sleep(delay);
        let mut state = self.state.lock();
        let mut fault = Self::step(&mut state)?;
        let concerned = |table: &str| batch.tables().any(|name| name.starts_with(table.as_bytes()));
        if let Some((_, of_commit)) = state.commit_fault.take_if(|(table, _)| concerned(table)) {
            if of_commit == Fault::Refused {
                return Err(refused());
            }
            fault = Some(of_commit);
        }
        memory::apply(&mut state.applied, batch.clone());
        if fault == Some(Fault::NotSynced) {
            state.unsynced.push_back(batch);
            return Err(stop(&mut state));
        }
        if self.lazy {
            state.unsynced.push_back(batch);
        } else {
            memory::apply(&mut state.durable, batch);
        }
        if fault == Some(Fault::AnswerLost) {
            return Err(stop(&mut state));
        }
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if Self::step(&mut state)?.is_some() {
            return Err(stop(&mut state));
        }
        state.unsynced.clear();
        state.durable = state.applied.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(key: &[u8]) -> Batch {
        let mut batch = Batch::new();
        batch.raw(key, Some(b"v"));
        batch
    }

    #[test]
    fn the_named_operation_fails_and_only_that_one() {
        let store = FaultyStore::new();
        store.fail_at(1, Fault::Refused);
        store.commit(batch(b"a")).unwrap();
        store.commit(batch(b"b")).unwrap_err();
        store.commit(batch(b"c")).unwrap();
        assert_eq!(store.scan(&KeyRange::all(), 9).unwrap().len(), 2);
        assert_eq!((store.operations(), store.commits()), (4, 2));
    }

    #[test]
    fn a_crash_loses_what_was_not_synced_and_keeps_a_prefix() {
        let store = FaultyStore::lazy();
        store.commit(batch(b"a")).unwrap();
        store.sync().unwrap();
        store.commit(batch(b"b")).unwrap();
        store.commit(batch(b"c")).unwrap();
        let keys = |survivors| store.crash(survivors).scan(&KeyRange::all(), 9).unwrap().len();
        assert_eq!((keys(0), keys(1), keys(2)), (1, 2, 3));
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_read_or_written() {
        let store = FaultyStore::new();
        store.fail_at(0, Fault::NotSynced);
        assert!(matches!(store.commit(batch(b"a")), Err(StoreError::Failed(_))));
        assert!(matches!(store.read(b"a"), Err(StoreError::Failed(_))));
        assert!(matches!(store.commit(batch(b"b")), Err(StoreError::Failed(_))));
        assert_eq!(store.crash(0).read(b"a").unwrap(), None);
        assert!(store.crash(1).read(b"a").unwrap().is_some());
    }

    #[test]
    fn a_lost_answer_is_found_after_the_restart() {
        let store = FaultyStore::new();
        store.fail_at(0, Fault::AnswerLost);
        store.commit(batch(b"a")).unwrap_err();
        assert!(store.crash(0).read(b"a").unwrap().is_some());
    }
}

//! A store that forgets: for tests and for brokers that need no memory. No file but a lock, no clock, no failure.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use parking_lot::RwLock;

use super::lock::DirectoryLock;
use super::{Batch, KeyRange, Record, Store, StoreError};

/// Ordered bytes, as every implementation that keeps them in memory holds them.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: RwLock<Records>,
    _lock: Option<DirectoryLock>,
}

impl MemoryStore {
    /// No records.
    pub fn new() -> Self {
        Self::default()
    }

    /// No records; while it lives, no other store opens in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Access`] for what the operating system
    /// refuses.
    pub fn in_directory(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self { records: RwLock::default(), _lock: Some(DirectoryLock::take(path.as_ref())?) })
    }
}

impl Store for MemoryStore {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.records.read().get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Record>, StoreError> {
        Ok(scan(&self.records.read(), range, limit))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        apply(&mut self.records.write(), batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) fn scan(records: &Records, range: &KeyRange, limit: usize) -> Vec<Record> {
    if range.is_empty() {
        // BTreeMap::range panics on a start above its end.
        return Vec::new();
    }
    let end = range.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    records
        .range::<Vec<u8>, _>((Bound::Included(&range.start), end))
        .take(limit)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

pub(super) fn apply(records: &mut Records, batch: Batch) {
    for (key, value) in batch.into_writes() {
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
    }
}

//! Changes that happen together or not at all. Several modules may add records of their own tables to one batch.

use std::fmt;

use serde::Serialize;

use super::{Key, StoreError, Table};

/// Puts and deletes, in order: of two changes to one key the later one counts.
#[derive(Clone, Default)]
pub struct Batch {
    writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// No change at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] and [`StoreError::Encode`]; the batch is then as it was.
    pub fn put<K: Key, V: Serialize>(&mut self, table: &Table<K, V>, key: &K, value: &V) -> Result<(), StoreError> {
        let value = table.encode_value(key, value)?;
        self.writes.push((table.encode_key(key)?, Some(value)));
        Ok(())
    }

    /// Removes a record; no matter if there is none.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], for the key.
    pub fn delete<K: Key, V>(&mut self, table: &Table<K, V>, key: &K) -> Result<(), StoreError> {
        self.writes.push((table.encode_key(key)?, None));
        Ok(())
    }

    /// Adds the changes of another batch after the ones that are here.
    pub fn append(&mut self, mut other: Batch) {
        self.writes.append(&mut other.writes);
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many changes it holds.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// The names of the tables that it changes, with repetitions.
    pub fn tables(&self) -> impl Iterator<Item = &[u8]> {
        self.writes.iter().filter_map(|(key, _)| key.split(|byte| *byte == 0).next())
    }

    /// The changes as an implementation of [`super::Store`] takes them: `None` deletes.
    pub(super) fn into_writes(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        self.writes.into_iter()
    }

    /// A change to any bytes, for tests of what lies below the tables.
    #[cfg(test)]
    pub(super) fn raw(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.writes.push((key.to_vec(), value.map(<[u8]>::to_vec)));
    }
}

// Without the values: they hold password hashes.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.writes.iter().map(|(key, _)| key.escape_ascii().to_string())).finish()
    }
}

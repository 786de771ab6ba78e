//! Types for bytes: which records there are, how their keys sort, how their values are encoded and decoded.
//!
//! Key: table name, NUL, key. Value: one byte with the version of the record's form, then JSON. What cannot be
//! decoded is an error that names table and key, never a panic and never skipped.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{KeyRange, MAX_KEY, MAX_VALUE, Record, Store, StoreError};

/// Records that an iteration reads at once.
const PAGE: usize = 256;

/// A key with a byte form that sorts as the key does.
pub trait Key: Sized + Debug {
    /// Appends the byte form.
    fn write(&self, out: &mut Vec<u8>);
    /// Takes the byte form back; `None` if it is none.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Key for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl Key for u64 {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl Key for Uuid {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes).ok()
    }
}

/// A named set of records of one type; a constant of the module that owns them.
///
/// ```
/// use portcullis::store::{Batch, MemoryStore, Store, Table};
///
/// const COUNTERS: Table<String, u64> = Table::new("counters", 1);
///
/// let store = MemoryStore::new();
/// let mut batch = Batch::new();
/// batch.put(&COUNTERS, &"visits".to_owned(), &3)?;
/// store.commit(batch)?;
/// assert_eq!(COUNTERS.get(&store, &"visits".to_owned())?, Some(3));
/// # Ok::<(), portcullis::store::StoreError>(())
/// ```
pub struct Table<K, V> {
    name: &'static str,
    version: u8,
    types: PhantomData<fn() -> (K, V)>,
}

/// Some records of a table, and whether there are more after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<K, V> {
    /// In the order of their keys.
    pub records: Vec<(K, V)>,
    /// Are there records after the last one?
    pub more: bool,
}

impl<K, V> Table<K, V> {
    /// The table `name`, whose values have the form number `version`.
    ///
    /// # Panics
    /// When the name is not 1 to 32 characters of `[a-z0-9_]`: at compile time, in a constant.
    pub const fn new(name: &'static str, version: u8) -> Self {
        let mut rest = name.as_bytes();
        assert!(!rest.is_empty() && rest.len() <= 32, "a table name has 1 to 32 characters");
        while let Some((first, tail)) = rest.split_first() {
            assert!(
                first.is_ascii_lowercase() || first.is_ascii_digit() || *first == b'_',
                "a table name holds lower-case letters, digits and `_`"
            );
            rest = tail;
        }
        Self { name, version, types: PhantomData }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    fn prefix(&self) -> Vec<u8> {
        let mut prefix = Vec::with_capacity(self.name.len() + 1 + 16);
        prefix.extend_from_slice(self.name.as_bytes());
        prefix.push(0);
        prefix
    }
}

impl<K: Key, V> Table<K, V> {
    pub(super) fn encode_key(&self, key: &K) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self.prefix();
        key.write(&mut bytes);
        if bytes.len() > MAX_KEY {
            return Err(self.too_large(key, bytes.len(), MAX_KEY));
        }
        Ok(bytes)
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<K, StoreError> {
        let key = bytes.strip_prefix(self.prefix().as_slice()).unwrap_or(bytes);
        K::read(key).ok_or_else(|| StoreError::Corrupt {
            table: self.name,
            key: key.escape_ascii().to_string(),
            reason: "its key has another form".to_owned(),
        })
    }

    fn too_large(&self, key: &K, size: usize, limit: usize) -> StoreError {
        StoreError::TooLarge { table: self.name, key: show(key), size, limit }
    }

    fn corrupt(&self, key: &K, reason: impl Into<String>) -> StoreError {
        StoreError::Corrupt { table: self.name, key: show(key), reason: reason.into() }
    }

    fn range(&self, keys: &impl RangeBounds<K>) -> Result<KeyRange, StoreError> {
        let mut range = KeyRange::prefix(&self.prefix());
        match keys.start_bound() {
            Bound::Included(key) => range.start = self.encode_key(key)?,
            Bound::Excluded(key) => range.start = successor(self.encode_key(key)?),
            Bound::Unbounded => {}
        }
        match keys.end_bound() {
            Bound::Included(key) => range.end = Some(successor(self.encode_key(key)?)),
            Bound::Excluded(key) => range.end = Some(self.encode_key(key)?),
            Bound::Unbounded => {}
        }
        Ok(range)
    }
}

impl<K: Key, V: Serialize> Table<K, V> {
    pub(super) fn encode_value(&self, key: &K, value: &V) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![self.version];
        serde_json::to_writer(&mut bytes, value).map_err(|error| StoreError::Encode {
            table: self.name,
            key: show(key),
            reason: error.to_string(),
        })?;
        if bytes.len() > MAX_VALUE {
            return Err(self.too_large(key, bytes.len(), MAX_VALUE));
        }
        Ok(bytes)
    }
}

impl<K: Key, V: DeserializeOwned> Table<K, V> {
    fn decode_value(&self, key: &K, bytes: &[u8]) -> Result<V, StoreError> {
        match bytes.split_first() {
            None => Err(self.corrupt(key, "it is empty")),
            Some((version, json)) if *version == self.version => serde_json::from_slice(json).map_err(|error| {
                // The text of the error may quote the value: only the place and the kind are told.
                self.corrupt(key, format!("{:?} error at column {}", error.classify(), error.column()))
            }),
            Some((version, _)) => {
                Err(self.corrupt(key, format!("its form has version {version}, known is {}", self.version)))
            }
        }
    }

    /// The record under `key`.
    pub fn get(&self, store: &dyn Store, key: &K) -> Result<Option<V>, StoreError> {
        let value = store.read(&self.encode_key(key)?)?;
        value.map(|bytes| self.decode_value(key, &bytes)).transpose()
    }

    /// The first `limit` records of the range, which is one of keys: `..` is the whole table,
    /// `(Bound::Excluded(last), Bound::Unbounded)` what follows a page.
    pub fn page(&self, store: &dyn Store, keys: impl RangeBounds<K>, limit: usize) -> Result<Page<K, V>, StoreError> {
        let raw = store.scan(&self.range(&keys)?, limit.saturating_add(1))?;
        let more = raw.len() > limit;
        let records = raw
            .into_iter()
            .take(limit)
            .map(|(key, value)| {
                let key = self.decode_key(&key)?;
                let value = self.decode_value(&key, &value)?;
                Ok((key, value))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Page { records, more })
    }

    /// Every record, read in pages; ends after the first error.
    pub fn iter<'a>(&'a self, store: &'a dyn Store) -> impl Iterator<Item = Result<(K, V), StoreError>> + 'a {
        let mut range = Some(KeyRange::prefix(&self.prefix()));
        let mut page = Vec::<Record>::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some((key, value)) = page.next() {
                    let decoded = self.decode_key(&key).and_then(|key| {
                        let value = self.decode_value(&key, &value)?;
                        Ok((key, value))
                    });
                    if decoded.is_err() {
                        range = None;
                        page = Vec::new().into_iter();
                    }
                    return Some(decoded);
                }
                let mut next = range.take()?;
                match store.scan(&next, PAGE) {
                    Ok(records) => {
                        if records.len() == PAGE
                            && let Some((last, _)) = records.last()
                        {
                            next.start = successor(last.clone());
                            range = Some(next);
                        }
                        page = records.into_iter();
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }
}

/// The smallest key above `key`.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn show(key: &impl Debug) -> String {
    let text = format!("{key:?}");
    text.trim_matches('"').to_owned()
}

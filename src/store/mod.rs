//! Records on disk: what the directory and the registry must find again after a restart.
//!
//! ```text
//!   Table<K, V>  --put/delete-->  Batch  --Store::commit-->  one atomic, durable change
//!   Table<K, V>  <--get/page/iter--  Store::read, Store::scan
//! ```
//!
//! A [`Store`] knows ordered bytes only. [`Table`] gives them types: the bytes of a key are the table's name, a NUL,
//! and the key in an order-preserving form; the bytes of a value are a version byte and JSON. Everything blocks;
//! asynchronous callers go through `spawn_blocking`. Messages do not live here but in the journal.

mod batch;
mod error;
mod lock;
mod memory;
pub mod schema;
mod sled;
mod table;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod faulty;
#[cfg(test)]
mod sled_tests;

pub use self::sled::{Durability, SledStore};
pub use batch::Batch;
pub use error::StoreError;
pub use memory::MemoryStore;
pub use table::{Key, Page, Table};

#[cfg(test)]
pub(crate) use faulty::{Fault, FaultyStore};

/// The longest key, its table's name included, in bytes.
pub const MAX_KEY: usize = 1024;

/// The longest value in bytes, its version byte included.
///
/// The storage engine keeps about twenty values in a page. A page above a quarter of a log segment would go to a file
/// of its own that the engine never syncs; this bound (with the segment size in `sled.rs`) keeps that from happening.
pub const MAX_VALUE: usize = 64 * 1024;

/// Keys from `start` (included) to `end` (excluded; `None`: to the last key).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Vec<u8>,
    /// First key after the range.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key there is.
    pub fn all() -> Self {
        Self { start: Vec::new(), end: None }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return Self { start: prefix.to_vec(), end: Some(end) };
            }
        }
        Self { start: prefix.to_vec(), end: None }
    }

    /// Can no key lie in it?
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// A key and its value, as bytes.
pub type Record = (Vec<u8>, Vec<u8>);

/// Ordered records with atomic, durable changes. Blocks.
///
/// A read may see a commit that is applied and not yet answered, never a part of one. After a commit that could not
/// be made durable every operation fails with [`StoreError::Failed`]: what the disk holds is known only after a restart.
pub trait Store: Send + Sync + 'static {
    /// The value under `key`.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first `limit` records of `range`, in the order of their keys. Fewer than `limit` means that there are no
    /// more. One page is a consistent picture; two pages are not one of the same moment.
    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Makes every change of the batch, or none. Durable when it returns, as far as the durability setting says.
    fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// Makes every earlier commit durable, whatever the durability setting: for a clean shutdown.
    fn sync(&self) -> Result<(), StoreError>;
}

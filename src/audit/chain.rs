//! The end of the chain, and how records come after it.
//!
//! Entering: events, into a batch that the caller commits. Leaving: records in that batch, and the new end once it is
//! committed. INVARIANT: one sealing at a time, and the next begins when the batch of the last is committed or given up: so
//! there is one order, no gap, and no record without its change. Opening never heals: what was cut off or edited stays
//! visible to `verify`.

use std::fmt;
use std::ops::Bound;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::event::{Event, Place, Who};
use super::key::Statement;
use super::record::{Entry, Hash, Record};
use crate::store::{Batch, Store, StoreError, Table};

pub(super) const RECORDS: Table<u64, Entry> = Table::new("audit", 1);
pub(super) const HEADS: Table<u64, Statement> = Table::new("audit_heads", 1);
pub(super) const TIP: Table<String, Tip> = Table::new("audit_tip", 1);
pub(super) const ANCHOR: Table<String, Anchor> = Table::new("audit_anchor", 1);

/// The key of the one tip and the one anchor.
pub(super) fn only() -> String {
    "only".to_owned()
}

/// Is this the name of a table of the audit log?
pub fn is_ours(table: &[u8]) -> bool {
    [RECORDS.name(), HEADS.name(), TIP.name(), ANCHOR.name()].iter().any(|name| name.as_bytes() == table)
}

/// The last record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Its number; 0: there is none.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
    /// About the bytes of all records that there ever were.
    pub bytes: u64,
}

/// The last record that was pruned, signed: what is left begins after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Anchor {
    pub(super) statement: Statement,
    /// About the bytes of all records up to it.
    pub(super) bytes: u64,
}

/// The end of the chain. Whoever commits owns it; everybody may look.
pub struct Chain {
    tip: Mutex<Tip>,
    moved: watch::Sender<u64>,
}

impl Chain {
    /// Finds the end. A tip, a record or a signed head that is further on than the others says where the end was: the
    /// chain goes on from there, and the hole stays.
    ///
    /// # Errors
    /// When the store cannot be read. A damaged record is no error here.
    pub fn open(store: &dyn Store) -> Result<Self, StoreError> {
        let stored = or_none(TIP.get(store, &only()))?;
        let mut tip = stored.unwrap_or_default();
        let last = last(&|from| some_from(&RECORDS, store, from))?;
        if last > tip.sequence {
            let hash = or_none(RECORDS.get(store, &last))?.map(|entry| entry.hash).unwrap_or_default();
            tip = Tip { sequence: last, hash, ..tip };
        }
        let head = match self::last(&|from| some_from(&HEADS, store, from))? {
            0 => None,
            at => or_none(HEADS.get(store, &at))?,
        };
        if let Some(head) = head.filter(|head| head.sequence > tip.sequence) {
            tip = Tip { sequence: head.sequence, hash: head.hash, ..tip };
        }
        if stored.unwrap_or_default() != tip || last != tip.sequence {
            tracing::error!(
                records = last,
                expected = tip.sequence,
                "the end of the audit log is not as it was left: run `portcullis audit verify`"
            );
        }
        Ok(Self { moved: watch::Sender::new(tip.sequence), tip: Mutex::new(tip) })
    }

    /// The last record that is committed.
    pub fn tip(&self) -> Tip {
        *self.tip.lock()
    }

    /// The number of the last record, and each later one.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Begins to add records after the end. Only whoever commits may call this.
    pub fn sealing(&self) -> Sealing<'_> {
        let tip = self.tip();
        Sealing { chain: self, begun: tip, tip }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chain").field(&self.tip()).finish()
    }
}

/// Records on their way into a batch. Dropped without [`Sealing::committed`], it leaves the chain as it was.
#[must_use]
pub struct Sealing<'a> {
    chain: &'a Chain,
    begun: Tip,
    tip: Tip,
}

impl Sealing<'_> {
    /// Adds a record for each event to the batch.
    ///
    /// # Errors
    /// When one does not fit into the store: then none was added.
    pub fn add(
        &mut self,
        batch: &mut Batch,
        now: Timestamp,
        who: &Who,
        place: Option<&Place>,
        events: Vec<Event>,
    ) -> Result<(), StoreError> {
        let mut tip = self.tip;
        let mut records = Batch::new();
        for event in events {
            let sequence = tip.sequence.saturating_add(1);
            let record = Record { sequence, time: now, who: who.clone(), place: place.cloned(), event };
            let entry = Entry::seal(tip.hash, &record).map_err(|error| StoreError::Encode {
                table: RECORDS.name(),
                key: sequence.to_string(),
                reason: error.to_string(),
            })?;
            records.put(&RECORDS, &sequence, &entry)?;
            tip = Tip { sequence, hash: entry.hash, bytes: tip.bytes.saturating_add(entry.size()) };
        }
        batch.append(records);
        self.tip = tip;
        Ok(())
    }

    /// Adds the new end to the batch, after the last record.
    ///
    /// # Errors
    /// None that can occur: a tip is small.
    pub fn finish(&self, batch: &mut Batch) -> Result<(), StoreError> {
        if self.tip == self.begun { Ok(()) } else { batch.put(&TIP, &only(), &self.tip) }
    }

    /// The batch is durable: this is the end now. Says how many records there are more.
    pub fn committed(self) -> u64 {
        let new = self.tip.sequence.saturating_sub(self.begun.sequence);
        if new > 0 {
            *self.chain.tip.lock() = self.tip;
            self.chain.moved.send_replace(self.tip.sequence);
        }
        new
    }
}

/// A record that cannot be read says nothing.
fn or_none<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Corrupt { .. }) => Ok(None),
        read => read,
    }
}

/// Is there a record at `from` or after it?
fn some_from<V: serde::de::DeserializeOwned>(
    table: &Table<u64, V>,
    store: &dyn Store,
    from: u64,
) -> Result<bool, StoreError> {
    // A record that cannot be read is there all the same.
    match table.page(store, (Bound::Included(from), Bound::Unbounded), 1) {
        Ok(page) => Ok(!page.records.is_empty()),
        Err(StoreError::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The largest key above 0 at which there is a record, by bisection: at most 64 looks; 0 when there is none.
fn last(some_from: &dyn Fn(u64) -> Result<bool, StoreError>) -> Result<u64, StoreError> {
    let (mut low, mut high) = (0, u64::MAX);
    // INVARIANT: there is a record at or after `low` (or `low` is 0), and none after `high`.
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if some_from(middle)? {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

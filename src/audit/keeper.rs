//! Looks after the log while the broker runs: writes what was collected, signs heads, prunes, reads, verifies.
//!
//! Entering: time (its caller's timer), questions of operators. Leaving: records through [`Append`], signed heads in the store
//! and in the broker's own log. Everything blocks. INVARIANT: signing, pruning and verifying are one at a time, so that
//! a verification sees neither half a pruning nor a head newer than its end.

use std::error::Error;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::chain::{ANCHOR, Anchor, Chain, HEADS, RECORDS, Tip, only};
use super::event::Event;
use super::key::{AuditKey, Purpose, Statement};
use super::record::{Entry, Hash};
use super::recorder::Recorder;
use super::verify::{Report, verify};
use crate::clock::{Clock, Duration};
use crate::store::{Batch, Store, StoreError};

/// Records that one step of a pruning removes.
const STEP: usize = 500;

/// The most records that one read gives.
pub(super) const MAX_READ: usize = 1000;

/// Heads are signed this often.
const HEAD_EVERY: Duration = Duration::from_hours(1);

/// Who puts records into the chain: the directory, whose commits order them.
pub trait Append: Send + Sync + 'static {
    /// Writes a record for each event; durable when it returns.
    ///
    /// # Errors
    /// When they could not be written.
    fn append(&self, events: Vec<Event>) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// The end of the chain.
    fn chain(&self) -> &Chain;
}

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Older records are removed.
    pub keep: Duration,
    /// With more records than this, the oldest tenth goes.
    pub max_records: u64,
    /// With more bytes than this, the oldest tenth goes.
    pub max_bytes: u64,
    /// How long refusals and failed logins are collected before they become records.
    pub interval: Duration,
}

/// Why the keeper could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Records could not be written.
    #[error("the audit log cannot be written: {0}")]
    Append(Box<dyn Error + Send + Sync>),
    /// What is to be pruned is not as it was written.
    #[error(
        "nothing is pruned, for record {0} of the audit log does not follow the one before it: run `portcullis audit verify`"
    )]
    Damaged(u64),
}

/// See the module.
pub struct Keeper {
    store: Arc<dyn Store>,
    append: Arc<dyn Append>,
    clock: Arc<dyn Clock>,
    key: AuditKey,
    recorder: Arc<Recorder>,
    settings: Settings,
    upkeep: Mutex<Upkeep>,
}

#[derive(Default)]
struct Upkeep {
    looked: Option<Timestamp>,
    signed: u64,
    stopped: bool,
}

impl Keeper {
    /// Looks after the log in `store`, to which `append` adds. Writes that the broker has started, and with `key_made` that
    /// the key is new.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn start(
        store: Arc<dyn Store>,
        append: Arc<dyn Append>,
        clock: Arc<dyn Clock>,
        (key, key_made): (AuditKey, bool),
        recorder: Arc<Recorder>,
        settings: Settings,
    ) -> Result<Self, KeeperError> {
        let made = key_made.then(|| Event::KeyCreated { key: key.public().id() });
        append.append(made.into_iter().chain([Event::BrokerStarted]).collect()).map_err(KeeperError::Append)?;
        let keeper = Self { store, append, clock, key, recorder, settings, upkeep: Mutex::default() };
        keeper.sign_head()?;
        Ok(keeper)
    }

    /// How often [`Keeper::tick`] wants to be called.
    pub fn interval(&self) -> Duration {
        self.settings.interval
    }

    /// Writes what was collected; every hour signs a head and prunes.
    ///
    /// # Errors
    /// When one of these fails; what was collected then is counted as dropped.
    pub fn tick(&self) -> Result<(), KeeperError> {
        let flushed = self.flush();
        let now = self.clock.timestamp();
        let due = {
            let mut upkeep = self.upkeep.lock();
            let elapsed = upkeep.looked.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or(HEAD_EVERY));
            let due = elapsed.is_none_or(|elapsed| elapsed >= HEAD_EVERY);
            if due {
                upkeep.looked = Some(now);
            }
            due
        };
        if due {
            self.sign_head()?;
        }
        if due || self.is_too_large() {
            self.prune()?;
        }
        flushed
    }

    /// Writes what was collected.
    fn flush(&self) -> Result<(), KeeperError> {
        let events = self.recorder.take();
        if events.is_empty() {
            return Ok(());
        }
        self.append.append(events.clone()).map_err(|error| {
            self.recorder.lost(&events);
            KeeperError::Append(error)
        })
    }

    /// Signs the last record, unless that was done already, and tells the broker's own log.
    ///
    /// # Errors
    /// When the signed head cannot be stored.
    pub fn sign_head(&self) -> Result<(), KeeperError> {
        let mut upkeep = self.upkeep.lock();
        let tip = self.tip();
        if tip.sequence == upkeep.signed {
            return Ok(());
        }
        let head = self.key.sign(Purpose::Head, tip.sequence, tip.hash, self.clock.timestamp());
        let mut batch = Batch::new();
        batch.put(&HEADS, &tip.sequence, &head)?;
        self.store.commit(batch)?;
        upkeep.signed = tip.sequence;
        tracing::info!(
            sequence = head.sequence,
            hash = %head.hash,
            time = %head.time,
            key = %head.key,
            signature = head.signature,
            "head of the audit log"
        );
        Ok(())
    }

    /// The last words: what was collected, that the broker stops, a signed head. Once.
    pub fn stop(&self) {
        if std::mem::replace(&mut self.upkeep.lock().stopped, true) {
            return;
        }
        let ended = self
            .flush()
            .and_then(|()| self.append.append(vec![Event::BrokerStopped]).map_err(KeeperError::Append))
            .and_then(|()| self.sign_head());
        if let Err(error) = ended {
            tracing::error!(%error, "the audit log was not brought to its end");
        }
    }

    /// The last record.
    pub fn tip(&self) -> Tip {
        self.append.chain().tip()
    }

    /// The number of the last record, and each later one.
    pub fn watch(&self) -> tokio::sync::watch::Receiver<u64> {
        self.append.chain().watch()
    }

    /// The last signed head.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn head(&self) -> Result<Option<Statement>, StoreError> {
        let signed = self.upkeep.lock().signed;
        HEADS.get(&*self.store, &signed)
    }

    /// Up to `limit` records (at most 1,000) with numbers above `after`, in order.
    ///
    /// # Errors
    /// When the store cannot be read, or a record is damaged.
    pub fn read(&self, after: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        read(&*self.store, after, limit)
    }

    /// [`verify`] up to the last record of this moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn verify(&self, head: Option<Hash>) -> Result<Report, StoreError> {
        let _one_at_a_time = self.upkeep.lock();
        verify(&*self.store, Some(self.tip()), Some(self.key.public()), head)
    }

    fn anchor(&self) -> Result<(u64, Hash, u64), StoreError> {
        let anchor = ANCHOR.get(&*self.store, &only())?;
        Ok(anchor
            .map_or((0, Hash::GENESIS, 0), |anchor| (anchor.statement.sequence, anchor.statement.hash, anchor.bytes)))
    }

    fn is_too_large(&self) -> bool {
        let tip = self.tip();
        self.anchor().is_ok_and(|(sequence, _, bytes)| {
            tip.sequence.saturating_sub(sequence) > self.settings.max_records
                || tip.bytes.saturating_sub(bytes) > self.settings.max_bytes
        })
    }

    /// Removes what is older or more than the settings keep, up to an anchor that is signed. That it does so is on record
    /// before it does; interrupted, it goes on at the next time.
    ///
    /// # Errors
    /// When the store fails, or when the records to be removed are not as they were written: those are evidence.
    pub fn prune(&self) -> Result<(), KeeperError> {
        let _one_at_a_time = self.upkeep.lock();
        let Some((through, hash, records)) = self.to_prune()? else { return Ok(()) };
        self.append.append(vec![Event::Pruned { through, hash, records }]).map_err(KeeperError::Append)?;
        let (mut at, _, mut bytes) = self.anchor()?;
        while at < through {
            let page = RECORDS.page(&*self.store, (Bound::Excluded(at), Bound::Included(through)), STEP)?;
            let mut batch = Batch::new();
            let mut last = None;
            for (sequence, entry) in &page.records {
                batch.delete(&RECORDS, sequence)?;
                bytes = bytes.saturating_add(entry.size());
                last = Some((*sequence, entry.hash));
            }
            let Some((sequence, hash)) = last else { return Err(KeeperError::Damaged(at.saturating_add(1))) };
            let heads = HEADS.page(&*self.store, (Bound::Unbounded, Bound::Included(sequence)), STEP)?;
            for (head, _) in &heads.records {
                batch.delete(&HEADS, head)?;
            }
            let statement = self.key.sign(Purpose::Anchor, sequence, hash, self.clock.timestamp());
            batch.put(&ANCHOR, &only(), &Anchor { statement, bytes })?;
            self.store.commit(batch)?;
            at = sequence;
        }
        tracing::info!(through, records, "the audit log was pruned");
        Ok(())
    }

    /// The last record that is to go, and how many go with it. The newest record always stays.
    fn to_prune(&self) -> Result<Option<(u64, Hash, u64)>, KeeperError> {
        let Settings { keep, max_records, max_bytes, .. } = self.settings;
        let tip = self.tip();
        let (anchor, mut previous, pruned) = self.anchor()?;
        let mut records = tip.sequence.saturating_sub(anchor);
        let mut bytes = tip.bytes.saturating_sub(pruned);
        // A tenth more than is needed, so that not every new record prunes one.
        let target = |now: u64, most: u64| if now > most { most - most / 10 } else { u64::MAX };
        let (most_records, most_bytes) = (target(records, max_records), target(bytes, max_bytes));
        let oldest = self.clock.timestamp().checked_sub(keep).unwrap_or(Timestamp::MIN);
        let mut cut = None;
        let mut at = anchor;
        loop {
            let page = RECORDS.page(&*self.store, (Bound::Excluded(at), Bound::Excluded(tip.sequence)), STEP)?;
            for (sequence, entry) in page.records {
                let old = entry.time().is_some_and(|time| time < oldest);
                if !old && records <= most_records && bytes <= most_bytes {
                    return Ok(cut);
                }
                if sequence != at.saturating_add(1) || !entry.follows(previous) {
                    return Err(KeeperError::Damaged(sequence));
                }
                records = records.saturating_sub(1);
                bytes = bytes.saturating_sub(entry.size());
                (at, previous) = (sequence, entry.hash);
                cut = Some((sequence, entry.hash, sequence.saturating_sub(anchor)));
            }
            if !page.more {
                return Ok(cut);
            }
        }
    }
}

/// Up to `limit` records (at most 1,000) with numbers above `after`, in order.
///
/// # Errors
/// When the store cannot be read, or a record is damaged.
pub fn read(store: &dyn Store, after: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
    let page = RECORDS.page(store, (Bound::Excluded(after), Bound::Unbounded), limit.min(MAX_READ))?;
    Ok(page.records.into_iter().map(|(_, entry)| entry).collect())
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("tip", &self.tip()).field("settings", &self.settings).finish_non_exhaustive()
    }
}

//! Is the log as it was written?
//!
//! Entering: the store, the public key, perhaps a head that was noted elsewhere. Leaving: a [`Report`], with the first fault
//! if there is one. It never changes anything. Cost: one SHA-256 over every record, in pages.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::chain::{ANCHOR, HEADS, RECORDS, TIP, Tip, only};
use super::key::{PublicKey, Purpose, Statement};
use super::record::Hash;
use crate::store::{Store, StoreError};

const PAGE: usize = 512;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Is it whole?
    pub whole: bool,
    /// Records that were checked and fit.
    pub records: u64,
    /// Number of the first one on record.
    pub first: u64,
    /// Number of the last one that fits.
    pub last: u64,
    /// Its hash: note it elsewhere, and give it to a later `verify`.
    pub head: Hash,
    /// Signed heads that fit.
    pub heads: u64,
    /// The first thing that does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// The record is not the one that was written, or does not follow the one before it.
    #[error("record {sequence} was changed, or does not follow the record before it")]
    Changed {
        /// Where.
        sequence: u64,
    },
    /// The record cannot be read.
    #[error("record {sequence} or one soon after it cannot be read: {reason}")]
    Unreadable {
        /// The first that it may be.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// Records are not there.
    #[error("records {from} to {to} are missing")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The record has the number of another one.
    #[error("record {sequence} stands where another one was: the order was changed")]
    Misplaced {
        /// Where it stands.
        sequence: u64,
    },
    /// The log ends too early.
    #[error("the log ends with record {last}, but had {expected}: its end was cut off")]
    Truncated {
        /// The last that there is.
        last: u64,
        /// The last that there was.
        expected: u64,
    },
    /// A record that nobody noted.
    #[error("the log goes on after record {expected}, its noted end: records were added or its end was set back")]
    Beyond {
        /// The noted end.
        expected: u64,
    },
    /// The record is not the one that was signed.
    #[error("record {sequence} is not the one whose hash was signed or noted: the log was written anew")]
    Rewritten {
        /// Where.
        sequence: u64,
    },
    /// A signature that does not fit.
    #[error("the signature at record {sequence} is not one of this broker's key")]
    Signature {
        /// Where.
        sequence: u64,
    },
    /// A signature that cannot be read.
    #[error("a signed head or anchor cannot be read: {reason}")]
    BadStatement {
        /// Why.
        reason: String,
    },
    /// The head that was given is of no record.
    #[error("no record on file has the hash {head}: the log was written anew, or that record was pruned")]
    UnknownHead {
        /// As it was given.
        head: Hash,
    },
}

/// Checks everything: numbers, order, hashes, signatures, the end. `until`: the end that a running broker knows; else the
/// one on record counts. `key`: whose signatures count; without one they are not looked at. `head`: a hash that was
/// noted elsewhere and must be one of the chain.
///
/// # Errors
/// When the store cannot be read at all. A damaged record is a fault, not an error.
pub fn verify(
    store: &dyn Store,
    until: Option<Tip>,
    key: Option<PublicKey>,
    head: Option<Hash>,
) -> Result<Report, StoreError> {
    let mut check = Check {
        report: Report { whole: false, records: 0, first: 1, last: 0, head: Hash::GENESIS, heads: 0, fault: None },
        heads: BTreeMap::new(),
        key,
        wanted: head,
    };
    let fault = check.run(store, until)?.err();
    check.report.whole = fault.is_none();
    check.report.fault = fault;
    Ok(check.report)
}

struct Check {
    report: Report,
    heads: BTreeMap<u64, Statement>,
    key: Option<PublicKey>,
    wanted: Option<Hash>,
}

/// Splits what the disk did from what somebody did.
fn readable<T>(
    result: Result<T, StoreError>,
    fault: impl FnOnce(String) -> Fault,
) -> Result<Result<T, Fault>, StoreError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(StoreError::Corrupt { reason, .. }) => Ok(Err(fault(reason))),
        Err(error) => Err(error),
    }
}

macro_rules! check {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(fault) => return Ok(Err(fault)),
        }
    };
}

impl Check {
    fn run(&mut self, store: &dyn Store, until: Option<Tip>) -> Result<Result<(), Fault>, StoreError> {
        let bad = |reason| Fault::BadStatement { reason };
        let stored = check!(readable(TIP.get(store, &only()), bad)?).unwrap_or_default();
        let tip = until.unwrap_or(stored);
        for head in HEADS.iter(store) {
            let (sequence, head) = check!(readable(head, bad)?);
            check!(self.check_statement(&head, Purpose::Head, sequence));
            self.heads.insert(sequence, head);
        }
        let anchor = check!(readable(ANCHOR.get(store, &only()), bad)?);
        if let Some(anchor) = anchor {
            let statement = anchor.statement;
            check!(self.check_statement(&statement, Purpose::Anchor, statement.sequence));
            self.report.first = statement.sequence.saturating_add(1);
            self.report.last = statement.sequence;
            self.report.head = statement.hash;
            self.found(statement.hash);
        }
        check!(self.records(store, tip)?);
        check!(self.end(tip));
        if until.is_none() {
            let after = RECORDS.page(store, (Bound::Excluded(tip.sequence), Bound::Unbounded), 1);
            let beyond = Fault::Beyond { expected: tip.sequence };
            if !check!(readable(after, |_| beyond.clone())?).records.is_empty() {
                return Ok(Err(beyond));
            }
        } else if stored.sequence < tip.sequence {
            return Ok(Err(Fault::Beyond { expected: stored.sequence }));
        }
        Ok(Ok(()))
    }

    fn check_statement(&self, statement: &Statement, purpose: Purpose, sequence: u64) -> Result<(), Fault> {
        let signed = self.key.is_none_or(|key| key.verifies(statement));
        if signed && statement.purpose == purpose && statement.sequence == sequence {
            Ok(())
        } else {
            Err(Fault::Signature { sequence })
        }
    }

    fn records(&mut self, store: &dyn Store, tip: Tip) -> Result<Result<(), Fault>, StoreError> {
        let mut from = Bound::Unbounded;
        loop {
            let sequence = self.report.last.saturating_add(1);
            let unreadable = |reason| Fault::Unreadable { sequence, reason };
            let page = check!(readable(RECORDS.page(store, (from, Bound::Included(tip.sequence)), PAGE), unreadable)?);
            for (found, entry) in page.records {
                let expected = self.report.last.saturating_add(1);
                from = Bound::Excluded(found);
                if found < expected {
                    // In front of the anchor: a pruning that was interrupted.
                    continue;
                }
                if found > expected {
                    return Ok(Err(Fault::Missing { from: expected, to: found - 1 }));
                }
                let number = entry.sequence();
                if number.is_some_and(|number| number != found) {
                    return Ok(Err(Fault::Misplaced { sequence: found }));
                }
                if number.is_none() || !entry.follows(self.report.head) {
                    return Ok(Err(Fault::Changed { sequence: found }));
                }
                if let Some(head) = self.heads.get(&found) {
                    if head.hash != entry.hash {
                        return Ok(Err(Fault::Rewritten { sequence: found }));
                    }
                    self.report.heads += 1;
                }
                self.report.records += 1;
                self.report.last = found;
                self.report.head = entry.hash;
                self.found(entry.hash);
            }
            if !page.more {
                return Ok(Ok(()));
            }
        }
    }

    fn found(&mut self, hash: Hash) {
        if self.wanted == Some(hash) {
            self.wanted = None;
        }
    }

    fn end(&self, tip: Tip) -> Result<(), Fault> {
        let last = self.report.last;
        let signed = self.heads.keys().next_back().copied().unwrap_or_default();
        let expected = tip.sequence.max(signed);
        if last < expected {
            return Err(Fault::Truncated { last, expected });
        }
        if tip.sequence == last && tip.hash != self.report.head {
            return Err(Fault::Rewritten { sequence: last });
        }
        match self.wanted {
            Some(head) => Err(Fault::UnknownHead { head }),
            None => Ok(()),
        }
    }
}

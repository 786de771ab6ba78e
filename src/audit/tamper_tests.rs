//! Attacks on the log, each made in the store behind the broker's back, and each found.

use std::sync::Arc;

use super::chain::{ANCHOR, Anchor, HEADS, RECORDS, TIP, only};
use super::record::Record;
use super::tests::*;
use super::*;
use crate::clock::Duration;
use crate::directory::Directory;
use crate::store::{Batch, MemoryStore};

/// A log of 20 records, the head of the twelfth signed.
fn log() -> Log {
    let log = Log::new();
    log.fill(10);
    log.keeper.sign_head().unwrap();
    log.fill(8);
    assert!(log.offline().whole);
    log
}

fn entry(log: &Log, sequence: u64) -> Entry {
    RECORDS.get(&*log.store, &sequence).unwrap().unwrap()
}

fn change(log: &Log, make: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    make(&mut batch);
    log.store.commit(batch).unwrap();
}

/// Found by a running broker and without one, and still there after a restart and more records.
fn found(log: &Log, expected: impl Fn(&Fault) -> bool) {
    for report in [log.keeper.verify(None).unwrap(), log.offline()] {
        assert!(!report.whole && report.fault.as_ref().is_some_and(&expected), "{report:?}");
    }
    let again = Directory::open(Arc::clone(&log.store), Arc::new(clock())).unwrap();
    again.append(vec![Event::BrokerStarted]).unwrap();
    let report = log.offline();
    assert!(!report.whole, "healed by a restart: {report:?}");
}

/// The record as somebody would rather have it, with a hash that fits to what is before it.
fn forged(log: &Log, sequence: u64, previous: Hash) -> Entry {
    let record = Record { event: Event::RegistryLocked, ..entry(log, sequence).read().unwrap() };
    Entry::seal(previous, &record).unwrap()
}

#[test]
fn an_edit_of_a_record_is_found() {
    let log = log();
    let edited = forged(&log, 7, Hash::GENESIS).record;
    change(&log, |batch| batch.put(&RECORDS, &7, &Entry { record: edited, ..entry(&log, 7) }).unwrap());
    found(&log, |fault| *fault == Fault::Changed { sequence: 7 });
}

#[test]
fn an_edit_with_a_hash_that_fits_is_found_at_the_next_record() {
    let log = log();
    let edited = forged(&log, 7, entry(&log, 6).hash);
    change(&log, |batch| batch.put(&RECORDS, &7, &edited).unwrap());
    found(&log, |fault| *fault == Fault::Changed { sequence: 8 });
}

#[test]
fn an_edit_that_writes_the_whole_rest_anew_is_found_by_the_signed_head() {
    let log = log();
    change(&log, |batch| {
        let mut previous = entry(&log, 6).hash;
        let mut bytes = 0;
        for sequence in 7..=20 {
            let mut new = entry(&log, sequence);
            new.hash = previous.then(new.record.get().as_bytes());
            if sequence == 7 {
                new = forged(&log, 7, previous);
            }
            previous = new.hash;
            bytes += new.size();
            batch.put(&RECORDS, &sequence, &new).unwrap();
        }
        batch.put(&TIP, &only(), &Tip { sequence: 20, hash: previous, bytes }).unwrap();
    });
    found(&log, |fault| *fault == Fault::Rewritten { sequence: 12 });
}

#[test]
fn a_signed_head_that_is_made_to_fit_is_found_by_its_signature() {
    let log = log();
    let head = HEADS.get(&*log.store, &12).unwrap().unwrap();
    change(&log, |batch| batch.put(&HEADS, &12, &Statement { hash: Hash::GENESIS, ..head.clone() }).unwrap());
    found(&log, |fault| *fault == Fault::Signature { sequence: 12 });
    // Or signed by another key.
    let other = AuditKey::generate().unwrap().sign(Purpose::Head, 12, Hash::GENESIS, head.time);
    change(&log, |batch| batch.put(&HEADS, &12, &other).unwrap());
    found(&log, |fault| *fault == Fault::Signature { sequence: 12 });
}

#[test]
fn a_record_that_was_dropped_is_found() {
    let log = log();
    change(&log, |batch| batch.delete(&RECORDS, &7).unwrap());
    found(&log, |fault| *fault == Fault::Missing { from: 7, to: 7 });
}

#[test]
fn records_that_were_dropped_from_the_beginning_are_found() {
    let log = log();
    change(&log, |batch| (1..=4).for_each(|n| batch.delete(&RECORDS, &n).unwrap()));
    found(&log, |fault| *fault == Fault::Missing { from: 1, to: 4 });
}

#[test]
fn a_record_that_was_dropped_with_the_others_moved_up_is_found() {
    let log = log();
    change(&log, |batch| {
        (7..20).for_each(|n| batch.put(&RECORDS, &n, &entry(&log, n + 1)).unwrap());
        batch.delete(&RECORDS, &20).unwrap();
    });
    found(&log, |fault| *fault == Fault::Misplaced { sequence: 7 });
}

#[test]
fn two_records_that_changed_places_are_found() {
    let log = log();
    change(&log, |batch| {
        batch.put(&RECORDS, &7, &entry(&log, 8)).unwrap();
        batch.put(&RECORDS, &8, &entry(&log, 7)).unwrap();
    });
    found(&log, |fault| *fault == Fault::Misplaced { sequence: 7 });
}

#[test]
fn an_end_that_was_cut_off_is_found() {
    let log = log();
    change(&log, |batch| (18..=20).for_each(|n| batch.delete(&RECORDS, &n).unwrap()));
    found(&log, |fault| *fault == Fault::Truncated { last: 17, expected: 20 });
}

#[test]
fn an_end_that_was_cut_off_with_its_tip_set_back_is_found_by_the_signed_head() {
    let log = log();
    change(&log, |batch| {
        (11..=20).for_each(|n| batch.delete(&RECORDS, &n).unwrap());
        batch.put(&TIP, &only(), &Tip { sequence: 10, hash: entry(&log, 10).hash, bytes: 0 }).unwrap();
    });
    assert_eq!(log.offline().fault, Some(Fault::Truncated { last: 10, expected: 12 }));
    found(&log, |fault| matches!(fault, Fault::Truncated { last: 10, .. }));
}

#[test]
fn an_end_that_was_cut_off_behind_the_last_signed_head_is_found_by_a_noted_one() {
    let log = log();
    let noted = log.keeper.tip().hash;
    assert!(log.keeper.verify(Some(noted)).unwrap().whole);
    change(&log, |batch| {
        (16..=20).for_each(|n| batch.delete(&RECORDS, &n).unwrap());
        batch.put(&TIP, &only(), &Tip { sequence: 15, hash: entry(&log, 15).hash, bytes: 0 }).unwrap();
    });
    // The broker that runs knows better; without it, only who noted the head does.
    assert!(!log.keeper.verify(None).unwrap().whole);
    assert!(log.offline().whole);
    let report = verify(&*log.store, None, Some(log.public), Some(noted)).unwrap();
    assert_eq!(report.fault, Some(Fault::UnknownHead { head: noted }));
}

#[test]
fn a_tip_that_was_set_back_or_removed_is_found() {
    let log = log();
    change(&log, |batch| batch.delete(&TIP, &only()).unwrap());
    assert!(!log.offline().whole && !log.keeper.verify(None).unwrap().whole);
    let mut batch = Batch::new();
    batch.put(&TIP, &only(), &Tip { sequence: 15, hash: entry(&log, 15).hash, bytes: 0 }).unwrap();
    log.store.commit(batch).unwrap();
    assert_eq!(log.offline().fault, Some(Fault::Beyond { expected: 15 }));
    // A broker that starts then writes over nothing.
    let before = entry(&log, 16).hash;
    let again = Directory::open(Arc::clone(&log.store), Arc::new(clock())).unwrap();
    assert_eq!(again.chain().tip().sequence, 20);
    again.append(vec![Event::BrokerStarted]).unwrap();
    assert_eq!(entry(&log, 16).hash, before);
    assert_eq!(entry(&log, 21).sequence(), Some(21));
}

#[test]
fn a_log_that_was_removed_altogether_is_found_by_the_broker_that_runs_and_by_a_noted_head() {
    let log = log();
    let noted = log.keeper.tip().hash;
    change(&log, |batch| {
        (1..=20).for_each(|n| batch.delete(&RECORDS, &n).unwrap());
        for head in HEADS.iter(&*log.store) {
            batch.delete(&HEADS, &head.unwrap().0).unwrap();
        }
        batch.delete(&TIP, &only()).unwrap();
    });
    assert!(!log.keeper.verify(None).unwrap().whole);
    let report = verify(&*log.store, None, Some(log.public), Some(noted)).unwrap();
    assert_eq!(report.fault, Some(Fault::UnknownHead { head: noted }));
}

#[test]
fn a_pruning_that_nobody_made_is_found_by_its_signature() {
    let log = log();
    let statement =
        AuditKey::generate().unwrap().sign(Purpose::Anchor, 10, entry(&log, 10).hash, log.records()[0].time);
    change(&log, |batch| {
        (1..=10).for_each(|n| batch.delete(&RECORDS, &n).unwrap());
        batch.put(&ANCHOR, &only(), &Anchor { statement, bytes: 0 }).unwrap();
    });
    found(&log, |fault| *fault == Fault::Signature { sequence: 10 });
}

#[test]
fn a_signed_head_that_is_put_in_the_place_of_an_anchor_is_found() {
    let log = log();
    let statement = HEADS.get(&*log.store, &12).unwrap().unwrap();
    change(&log, |batch| {
        (1..=12).for_each(|n| batch.delete(&RECORDS, &n).unwrap());
        batch.put(&ANCHOR, &only(), &Anchor { statement, bytes: 0 }).unwrap();
    });
    found(&log, |fault| *fault == Fault::Signature { sequence: 12 });
}

#[test]
fn a_record_that_cannot_be_read_is_a_fault_and_no_failure() {
    const RAW: crate::store::Table<u64, String> = crate::store::Table::new("audit", 1);
    let log = log();
    change(&log, |batch| batch.put(&RAW, &7, &"garbage".to_owned()).unwrap());
    found(&log, |fault| matches!(fault, Fault::Unreadable { .. }));
}

#[test]
fn an_untouched_log_is_whole_at_any_length_and_after_any_restart() {
    let store: Arc<dyn crate::store::Store> = Arc::new(MemoryStore::new());
    for length in [0, 1, 511, 512, 513] {
        let log = Log::with(Arc::clone(&store), SETTINGS);
        log.fill(length);
        log.clock.advance(Duration::from_hours(2));
        log.keeper.tick().unwrap();
        log.keeper.stop();
        // Each start here has a key of its own: signatures are looked at in the other tests.
        let report = verify(&*store, None, None, None).unwrap();
        assert!(report.whole && report.last == log.keeper.tip().sequence, "{report:?}");
    }
}

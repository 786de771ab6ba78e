//! What only a store on disk must do: locks, modes, group commit, and crashes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::{Batch, Durability, MemoryStore, SledStore, Store, StoreError, Table};

const ROUNDS: Table<u64, u64> = Table::new("rounds", 1);
const PADDING: Table<u64, String> = Table::new("padding", 1);
/// Records of one batch, all with the number of the round.
const WIDTH: u64 = 30;
const CHILD: &str = "PORTCULLIS_TEST_STORE";

fn round(number: u64) -> Batch {
    let mut batch = Batch::new();
    for key in 0..WIDTH {
        batch.put(&ROUNDS, &key, &number).unwrap();
        batch.put(&PADDING, &key, &"p".repeat(usize::try_from(number * 37 % 900).unwrap())).unwrap();
    }
    batch
}

/// The round that the store is in, which must be one and the same in every record.
fn found_round(store: &dyn Store) -> u64 {
    let records = ROUNDS.page(store, .., 1000).unwrap().records;
    let Some((_, first)) = records.first() else { return 0 };
    assert!(records.len() == usize::try_from(WIDTH).unwrap() && records.iter().all(|(_, n)| n == first), "{records:?}");
    for padding in PADDING.iter(store) {
        assert_eq!(padding.unwrap().1.len(), usize::try_from(first * 37 % 900).unwrap());
    }
    *first
}

#[test]
fn a_second_broker_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let first = SledStore::open(&path, Durability::Sync).unwrap();
    let error = SledStore::open(&path, Durability::Sync).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)));
    assert!(error.to_string().contains("in use by another process") && error.to_string().contains("store"));
    first.commit(round(1)).unwrap();
    // One that keeps nothing is a broker too, with the same sockets and keys in its directory.
    assert!(matches!(MemoryStore::in_directory(&path), Err(StoreError::Locked(_))));
    drop(first);
    let memory = MemoryStore::in_directory(&path).unwrap();
    assert!(matches!(SledStore::open(&path, Durability::Sync), Err(StoreError::Locked(_))));
    drop(memory);
    assert_eq!(found_round(&SledStore::open(&path, Durability::Sync).unwrap()), 1);
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    drop(SledStore::open(&path, Durability::Sync).unwrap());
    // Also where somebody opened them in between.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(path.join("db"), fs::Permissions::from_mode(0o644)).unwrap();
    let _store = SledStore::open(&path, Durability::Sync).unwrap();
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap().path();
        assert_eq!(mode(&entry), if entry.is_dir() { 0o700 } else { 0o600 }, "{}", entry.display());
    }
}

#[test]
fn a_path_that_is_no_directory_is_an_error_of_the_operator() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    let error = SledStore::open(&path, Durability::Sync).unwrap_err();
    assert!(matches!(error, StoreError::Access { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn a_damaged_engine_file_is_an_error_and_not_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = SledStore::open(&path, Durability::Sync).unwrap();
    store.commit(round(1)).unwrap();
    drop(store);
    drop(SledStore::open(&path, Durability::Sync).unwrap());
    let snapshot = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap."))
        .expect("sled writes a snapshot when it recovers");
    let mut bytes = fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&snapshot, bytes).unwrap();
    let error = SledStore::open(&path, Durability::Sync).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn writers_at_the_same_time_share_flushes() {
    const WRITERS: u64 = 64;
    const EACH: u64 = 8;
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(directory.path().join("store"), Durability::Sync).unwrap());
    let before = store.flushes();
    let start = Arc::new(Barrier::new(usize::try_from(WRITERS).unwrap()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, start) = (Arc::clone(&store), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                for n in 0..EACH {
                    let mut batch = Batch::new();
                    batch.put(&ROUNDS, &(writer * EACH + n), &n).unwrap();
                    store.commit(batch).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let flushes = store.flushes() - before;
    assert_eq!(ROUNDS.iter(&*store).count(), usize::try_from(WRITERS * EACH).unwrap());
    assert!((EACH..=WRITERS * EACH / 4).contains(&flushes), "{flushes} flushes for {} commits", WRITERS * EACH);
}

/// Not a test: the writer that [`a_killed_writer_loses_nothing_that_was_answered`] kills.
#[test]
fn child_that_writes_rounds() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = SledStore::open_with(Path::new(&path), Durability::Sync, 64 * 1024).unwrap();
    for number in found_round(&store) + 1.. {
        store.commit(round(number)).unwrap();
        println!("committed {number}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut last = 0;
    for kill_after in [3, 25, 1, 60, 40] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sled_tests::child_that_writes_rounds", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answered = 0;
        let mut count = 0;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref() {
            // The first line of the harness may stand in front of the first number.
            let line = line.unwrap();
            let Some((_, number)) = line.split_once("committed ") else { continue };
            answered = number.parse().unwrap();
            count += 1;
            if count == kill_after {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("committed ").and_then(|number| number.parse().ok()) {
                answered = number;
            }
        }
        assert!(answered > last, "the child went on where the one before it ended");
        let store = SledStore::open_with(&path, Durability::Sync, 64 * 1024).unwrap();
        last = found_round(&store);
        assert!(last == answered || last == answered + 1, "answered {answered}, found {last}");
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The log is one segment here and only grows: each of its prefixes is what a power failure may leave.
#[test]
fn any_prefix_of_the_log_holds_whole_batches_only() {
    const ROUNDS_WRITTEN: u64 = 12;
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("store"), directory.path().join("copy"));
    let store = SledStore::open_with(&path, Durability::Sync, 1024 * 1024).unwrap();
    let mut lengths = vec![fs::metadata(path.join("db")).unwrap().len()];
    for number in 1..=ROUNDS_WRITTEN {
        store.commit(round(number)).unwrap();
        lengths.push(fs::metadata(path.join("db")).unwrap().len());
    }
    copy_directory(&path, &copy);
    drop(store);
    let start = lengths[0];
    let end = lengths[lengths.len() - 1];
    assert!(end < 1024 * 1024 && start < end, "{lengths:?}");
    let mut seen = 0;
    let mut cut = start;
    while cut <= end {
        let torn = directory.path().join(format!("torn-{cut}"));
        copy_directory(&copy, &torn);
        fs::OpenOptions::new().write(true).open(torn.join("db")).unwrap().set_len(cut).unwrap();
        let found = found_round(&SledStore::open_with(&torn, Durability::Memory, 1024 * 1024).unwrap());
        assert!(found >= seen, "a longer log holds no less");
        let durable = u64::try_from(lengths.iter().take_while(|length| **length <= cut).count()).unwrap() - 1;
        assert!(found >= durable, "cut at {cut}: {durable} commits were flushed, {found} are found");
        seen = found;
        fs::remove_dir_all(&torn).unwrap();
        cut += 2_003;
    }
    assert!(seen + 1 >= ROUNDS_WRITTEN);
}

#[test]
fn a_copy_taken_while_writers_write_holds_whole_batches_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Arc::new(SledStore::open(&path, Durability::Interval(Duration::from_millis(2))).unwrap());
    let writer = {
        let store = Arc::clone(&store);
        thread::spawn(move || (1..=400).for_each(|number| store.commit(round(number)).unwrap()))
    };
    let mut last = 0;
    for n in 0..6 {
        thread::sleep(Duration::from_millis(20));
        let copy = directory.path().join(format!("copy-{n}"));
        copy_directory(&path, &copy);
        let found = found_round(&SledStore::open(&copy, Durability::Memory).unwrap());
        assert!(found >= last);
        last = found;
    }
    writer.join().unwrap();
    drop(store);
    assert_eq!(found_round(&SledStore::open(&path, Durability::Sync).unwrap()), 400);
}

//! What every [`Store`] must do, run against each of them; and a model test against a `BTreeMap`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::memory::{self, Records};
use super::{
    Batch, Durability, FaultyStore, KeyRange, MAX_VALUE, MemoryStore, Page, SledStore, Store, StoreError, Table,
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Thing {
    name: String,
    size: u32,
}

const THINGS: Table<String, Thing> = Table::new("things", 1);
const THINGS_2: Table<String, Thing> = Table::new("things", 2);
const THING: Table<String, u8> = Table::new("thing", 1);
const NUMBERS: Table<u64, u64> = Table::new("numbers", 1);
const IDS: Table<Uuid, String> = Table::new("ids", 1);

fn thing(size: u32) -> Thing {
    Thing { name: format!("thing {size}"), size }
}

fn key(text: &str) -> String {
    text.to_owned()
}

fn put(store: &dyn Store, name: &str, size: u32) {
    let mut batch = Batch::new();
    batch.put(&THINGS, &key(name), &thing(size)).unwrap();
    store.commit(batch).unwrap();
}

/// The suite. Each step leaves the tables empty.
fn conforms(store: &Arc<dyn Store>) {
    what_is_put_is_read_and_what_is_deleted_is_gone(&**store);
    the_later_of_two_changes_counts(&**store);
    tables_do_not_see_each_other(&**store);
    pages_are_in_order_and_bounded(&**store);
    iteration_crosses_pages(&**store);
    numbers_sort_as_numbers(&**store);
    a_range_that_holds_nothing_is_empty(&**store);
    decoding_fails_with_table_and_key(&**store);
    an_empty_batch_is_nothing(&**store);
    large_values_fit_and_larger_are_refused(&**store);
    a_page_never_shows_half_of_a_batch(store);
    store.sync().unwrap();
}

fn clear(store: &dyn Store) {
    let mut batch = Batch::new();
    for (key, _) in store.scan(&KeyRange::all(), usize::MAX).unwrap() {
        if !key.starts_with(b"meta\0") {
            batch.raw(&key, None);
        }
    }
    store.commit(batch).unwrap();
}

fn what_is_put_is_read_and_what_is_deleted_is_gone(store: &dyn Store) {
    assert_eq!(THINGS.get(store, &key("a")).unwrap(), None);
    put(store, "a", 1);
    assert_eq!(THINGS.get(store, &key("a")).unwrap(), Some(thing(1)));
    put(store, "a", 2);
    assert_eq!(THINGS.get(store, &key("a")).unwrap(), Some(thing(2)));
    let mut batch = Batch::new();
    batch.delete(&THINGS, &key("a")).unwrap();
    batch.delete(&THINGS, &key("never there")).unwrap();
    store.commit(batch).unwrap();
    assert_eq!(THINGS.get(store, &key("a")).unwrap(), None);
}

fn the_later_of_two_changes_counts(store: &dyn Store) {
    let mut batch = Batch::new();
    batch.put(&THINGS, &key("a"), &thing(1)).unwrap();
    batch.put(&THINGS, &key("b"), &thing(1)).unwrap();
    batch.delete(&THINGS, &key("a")).unwrap();
    let mut other = Batch::new();
    other.delete(&THINGS, &key("b")).unwrap();
    other.put(&THINGS, &key("b"), &thing(2)).unwrap();
    batch.append(other);
    assert_eq!(batch.len(), 5);
    assert!(batch.tables().all(|name| name == b"things"));
    store.commit(batch).unwrap();
    assert_eq!(THINGS.get(store, &key("a")).unwrap(), None);
    assert_eq!(THINGS.get(store, &key("b")).unwrap(), Some(thing(2)));
    clear(store);
}

fn tables_do_not_see_each_other(store: &dyn Store) {
    // `thing` is a prefix of `things`, and a key may look like the rest of a name.
    let mut batch = Batch::new();
    batch.put(&THING, &key("s\0a"), &1).unwrap();
    batch.put(&THINGS, &key("a"), &thing(7)).unwrap();
    store.commit(batch).unwrap();
    let things: Vec<_> = THINGS.iter(store).collect::<Result<_, _>>().unwrap();
    assert_eq!(things, [(key("a"), thing(7))]);
    let thing: Vec<_> = THING.iter(store).collect::<Result<_, _>>().unwrap();
    assert_eq!(thing, [(key("s\0a"), 1)]);
    clear(store);
}

fn pages_are_in_order_and_bounded(store: &dyn Store) {
    for (n, name) in ["d", "a", "c", "b", "e"].into_iter().enumerate() {
        put(store, name, u32::try_from(n).unwrap());
    }
    let names =
        |page: Page<String, Thing>| (page.records.into_iter().map(|(key, _)| key).collect::<String>(), page.more);
    assert_eq!(names(THINGS.page(store, .., 2).unwrap()), ("ab".into(), true));
    let after = (Bound::Excluded(key("b")), Bound::Unbounded);
    assert_eq!(names(THINGS.page(store, after, 2).unwrap()), ("cd".into(), true));
    assert_eq!(names(THINGS.page(store, key("d").., 2).unwrap()), ("de".into(), false));
    assert_eq!(names(THINGS.page(store, key("b")..key("d"), 9).unwrap()), ("bc".into(), false));
    assert_eq!(names(THINGS.page(store, key("b")..=key("d"), 9).unwrap()), ("bcd".into(), false));
    assert_eq!(names(THINGS.page(store, .., 0).unwrap()), (String::new(), true));
    clear(store);
}

fn iteration_crosses_pages(store: &dyn Store) {
    for count in [0_u64, 1, 255, 256, 257, 600] {
        let mut batch = Batch::new();
        for n in 0..count {
            batch.put(&NUMBERS, &n, &n).unwrap();
        }
        store.commit(batch).unwrap();
        let numbers: Vec<_> = NUMBERS.iter(store).map(|record| record.unwrap().0).collect();
        assert!(numbers.into_iter().eq(0..count));
    }
    clear(store);
}

fn numbers_sort_as_numbers(store: &dyn Store) {
    let numbers = [0, 1, 255, 256, 65_536, u64::MAX];
    let id = Uuid::now_v7();
    let mut batch = Batch::new();
    for n in numbers.iter().rev() {
        batch.put(&NUMBERS, n, &(n / 2)).unwrap();
    }
    batch.put(&IDS, &id, &key("one")).unwrap();
    store.commit(batch).unwrap();
    let found: Vec<_> = NUMBERS.iter(store).map(|record| record.unwrap().0).collect();
    assert_eq!(found, numbers);
    assert_eq!(IDS.get(store, &id).unwrap().as_deref(), Some("one"));
    clear(store);
}

fn a_range_that_holds_nothing_is_empty(store: &dyn Store) {
    put(store, "m", 1);
    // A caller's mistake must not be a panic.
    let reversed = KeyRange { start: vec![9], end: Some(vec![1]) };
    assert_eq!(store.scan(&reversed, 9).unwrap(), []);
    assert!(THINGS.page(store, key("z")..key("a"), 9).unwrap().records.is_empty());
    assert!(THINGS.page(store, (Bound::Excluded(key("m")), Bound::Excluded(key("m"))), 9).unwrap().records.is_empty());
    clear(store);
}

fn decoding_fails_with_table_and_key(store: &dyn Store) {
    for value in [&b""[..], b"\x01", b"\x01{\"name\":\"topsecret\",\"size\":true}", b"\x01{} ", b"\x03{}", b"\x01\xff"]
    {
        let mut batch = Batch::new();
        batch.raw(b"things\0it", Some(value));
        store.commit(batch).unwrap();
        for error in [THINGS.get(store, &key("it")).unwrap_err(), THINGS.iter(store).next().unwrap().unwrap_err()] {
            let text = error.to_string();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{text}");
            assert!(text.contains("`things`") && text.contains("`it`") && !text.contains("topsecret"), "{text}");
        }
        assert!(THINGS.iter(store).nth(1).is_none(), "an iteration ends after its first error");
    }
    put(store, "it", 1);
    assert!(matches!(THINGS_2.get(store, &key("it")), Err(StoreError::Corrupt { .. })), "another version");
    let mut batch = Batch::new();
    batch.raw(b"numbers\0abc", Some(b"\x011"));
    store.commit(batch).unwrap();
    let error = NUMBERS.iter(store).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("`numbers`") && error.contains("`abc`"), "{error}");
    clear(store);
}

fn an_empty_batch_is_nothing(store: &dyn Store) {
    let before = store.scan(&KeyRange::all(), 99).unwrap();
    store.commit(Batch::new()).unwrap();
    assert_eq!(store.scan(&KeyRange::all(), 99).unwrap(), before);
}

fn large_values_fit_and_larger_are_refused(store: &dyn Store) {
    let mut batch = Batch::new();
    for n in 0..40 {
        // Two quotes and the version byte are the rest.
        batch.put(&IDS, &Uuid::from_u128(n), &"x".repeat(MAX_VALUE - 3)).unwrap();
    }
    let refused = batch.put(&IDS, &Uuid::nil(), &"x".repeat(MAX_VALUE - 2));
    assert!(matches!(refused, Err(StoreError::TooLarge { size, limit: MAX_VALUE, .. }) if size == MAX_VALUE + 1));
    assert!(matches!(batch.put(&THING, &"k".repeat(2000), &1), Err(StoreError::TooLarge { .. })));
    assert_eq!(batch.len(), 40);
    store.commit(batch).unwrap();
    assert_eq!(IDS.iter(store).map(|record| record.unwrap().1.len()).sum::<usize>(), 40 * (MAX_VALUE - 3));
    clear(store);
}

fn a_page_never_shows_half_of_a_batch(store: &Arc<dyn Store>) {
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
        thread::spawn(move || {
            for round in 0.. {
                let mut batch = Batch::new();
                for n in 0..20 {
                    batch.put(&NUMBERS, &n, &round).unwrap();
                }
                store.commit(batch).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        })
    };
    for _ in 0..200 {
        let page = NUMBERS.page(&**store, .., 20).unwrap().records;
        let first = page.first().map(|(_, round)| *round);
        assert!(page.iter().all(|(_, round)| Some(*round) == first), "{page:?}");
        assert!(page.is_empty() || page.len() == 20);
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    clear(&**store);
}

#[test]
fn memory_store_conforms() {
    conforms(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>));
}

#[test]
fn faulty_store_without_a_fault_conforms() {
    conforms(&(Arc::new(FaultyStore::new()) as Arc<dyn Store>));
    conforms(&(Arc::new(FaultyStore::lazy()) as Arc<dyn Store>));
}

#[test]
fn sled_store_conforms_under_every_durability() {
    for durability in [Durability::Sync, Durability::Interval(std::time::Duration::from_millis(5)), Durability::Memory]
    {
        let directory = tempfile::tempdir().unwrap();
        conforms(&(Arc::new(SledStore::open(directory.path().join("store"), durability).unwrap()) as Arc<dyn Store>));
    }
}

#[test]
fn a_prefix_range_holds_what_begins_with_it() {
    for (prefix, end) in [(&b"a"[..], Some(&b"b"[..])), (b"a\xff\xff", Some(b"b")), (b"\xff", None), (b"", None)] {
        let range = KeyRange::prefix(prefix);
        assert_eq!((range.start.as_slice(), range.end.as_deref()), (prefix, end));
    }
}

/// One step of the model test.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Read(Vec<u8>),
    Scan(KeyRange, usize),
    Reopen,
}

fn some_key() -> impl Strategy<Value = Vec<u8>> {
    // Few keys, so that steps meet; with the bytes at both ends of the order.
    proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(b'a'), Just(255)], 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..600));
    prop_oneof![
        6 => proptest::collection::vec((some_key(), value), 0..40).prop_map(Step::Commit),
        2 => some_key().prop_map(Step::Read),
        3 => (some_key(), proptest::option::of(some_key()), 0_usize..20)
            .prop_map(|(start, end, limit)| Step::Scan(KeyRange { start, end }, limit)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Small segments: batches cross them, and they are reclaimed and used again.
    #[test]
    fn sled_store_is_a_map_that_survives_reopening(steps in proptest::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let open = || SledStore::open_with(&path, Durability::Memory, 32 * 1024).unwrap();
        let mut store = Some(open());
        let mut model: Records = BTreeMap::new();
        model.extend(store.as_ref().unwrap().scan(&KeyRange::all(), 9).unwrap());
        for step in steps {
            let current = store.as_ref().unwrap();
            match step {
                Step::Commit(writes) => {
                    let mut batch = Batch::new();
                    for (key, value) in &writes {
                        batch.raw(key, value.as_deref());
                    }
                    memory::apply(&mut model, batch.clone());
                    current.commit(batch).unwrap();
                }
                Step::Read(key) => prop_assert_eq!(current.read(&key).unwrap(), model.get(&key).cloned()),
                Step::Scan(range, limit) => {
                    prop_assert_eq!(current.scan(&range, limit).unwrap(), memory::scan(&model, &range, limit));
                }
                Step::Reopen => {
                    drop(store.take());
                    store = Some(open());
                }
            }
        }
        drop(store.take());
        let all: Records = open().scan(&KeyRange::all(), usize::MAX).unwrap().into_iter().collect();
        prop_assert_eq!(all, model);
    }
}

//! The directory on stores that fail, under many threads, and across restarts.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::tests::*;
use super::*;
use crate::access::{User, UserId};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Fault, FaultyStore, MemoryStore, Store};

/// A few transactions, each of several changes and a record, so that half of one would show.
fn script() -> Vec<Transaction> {
    let (alice, bob) = (fresh("alice", &["line"]), fresh("bob", &["line"]));
    let with = |note_key: &str, changes: Vec<Change>| Transaction { changes, records: note(note_key, "made") };
    vec![
        with(
            "0",
            vec![
                Change::PutRole { role: role("line", "a"), expected: Expected::Absent },
                put(alice.clone(), Expected::Absent),
                put(bob.clone(), Expected::Absent),
            ],
        ),
        with(
            "1",
            vec![
                Change::PutRole { role: role("line", "b"), expected: Expected::Version(1) },
                put(User { enabled: false, ..alice.clone() }, Expected::Version(1)),
            ],
        ),
        with(
            "2",
            vec![
                Change::DeleteUser { id: alice.id, expected: Expected::Version(2) },
                Change::DeleteUser { id: bob.id, expected: Expected::Version(1) },
                Change::DeleteRole { name: role_name("line"), expected: Expected::Version(2) },
            ],
        ),
    ]
}

#[test]
fn whatever_operation_of_the_store_fails_a_commit_is_made_whole_or_not_at_all() {
    // What the state is after each step, without a fault.
    let whole = directory();
    let script = script();
    let mut states = vec![content(&whole)];
    for step in &script {
        whole.commit(step.clone(), &API).unwrap();
        states.push(content(&whole));
    }
    for fault in [Fault::Refused, Fault::NotSynced, Fault::AnswerLost] {
        for n in 0..script.len() {
            let store = Arc::new(FaultyStore::new());
            let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
            let recorder = record(&directory);
            store.fail_at(u64::try_from(n).unwrap(), fault);
            let mut failed_at = None;
            for (at, step) in script.iter().enumerate() {
                let before = (directory.version(), content(&directory));
                match directory.commit(step.clone(), &API) {
                    Ok(committed) => assert_eq!(committed.version(), directory.version()),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
                        assert_eq!((directory.version(), content(&directory)), before);
                        failed_at = Some(at);
                        break;
                    }
                }
            }
            assert_eq!(failed_at, Some(n));
            assert_eq!(recorder.0.lock().len(), n, "nobody is told of what was not made");
            for survivors in [0, 1] {
                let crashed = Arc::new(store.crash(survivors));
                let found = content(&directory_on(Arc::clone(&crashed) as Arc<dyn Store>));
                let made = usize::from(fault == Fault::AnswerLost || (fault == Fault::NotSynced && survivors == 1));
                assert_eq!(found, states[n + made], "{fault:?} at {n}, {survivors} survivors");
                assert_eq!(NOTES.iter(&*crashed).count(), n + made);
            }
            if fault == Fault::Refused {
                // The disk is well again: the same transactions go on.
                for (step, state) in script.iter().zip(&states[1..]).skip(n) {
                    directory.commit(step.clone(), &API).unwrap();
                    assert_eq!(content(&directory), *state);
                }
            }
        }
    }
}

#[test]
fn a_store_that_cannot_be_read_stops_the_start() {
    for n in 0..2 {
        let store = FaultyStore::new();
        store.fail_at(n, Fault::Refused);
        assert!(matches!(Directory::open(Arc::new(store), Arc::new(clock())), Err(DirectoryError::Store(_))));
    }
}

#[test]
fn commits_of_many_threads_are_each_made_once_and_share_the_store() {
    const THREADS: u64 = 32;
    const EACH: u64 = 6;
    let store = Arc::new(FaultyStore::slow(Duration::from_millis(2)));
    let directory = Arc::new(directory_on(Arc::clone(&store) as Arc<dyn Store>));
    let recorder = record(&directory);
    let shared = directory.create_user(new_user("shared", &[]), &API).unwrap().id;
    let start = Arc::new(Barrier::new(usize::try_from(THREADS).unwrap()));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread_number| {
            let (directory, start) = (Arc::clone(&directory), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                let mut won = 0;
                for n in 0..EACH {
                    let username = format!("user-{thread_number}-{n}");
                    let user = directory.create_user(new_user(&username, &[]), &API).unwrap();
                    assert!(directory.policy().user(user.id).is_some(), "published before the answer");
                    let version = directory.policy().user(shared).unwrap().version;
                    // A race: of those who read the same version one wins.
                    won += u64::from(directory.update_user(shared, Expected::Version(version), |_| (), &API).is_ok());
                }
                won
            })
        })
        .collect();
    let won: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(directory.policy().user(shared).unwrap().version, 1 + won);
    assert_eq!(directory.policy().users().count(), usize::try_from(1 + THREADS * EACH).unwrap());
    assert!(won >= EACH && store.commits() < THREADS * EACH, "{won} won, {} commits", store.commits());
    let told = recorder.0.lock();
    assert!(told.windows(2).all(|pair| Arc::ptr_eq(&pair[0].new, &pair[1].old)), "no snapshot is passed over");
    assert_eq!(content(&directory), content(&directory_on(Arc::new(store.crash(0)))));
}

#[test]
fn a_failing_store_fails_everybody_who_shared_it_and_nobody_else() {
    let store = Arc::new(FaultyStore::slow(Duration::from_millis(5)));
    let directory = Arc::new(directory_on(Arc::clone(&store) as Arc<dyn Store>));
    store.fail_at(3, Fault::Refused);
    let threads: Vec<_> = (0..40)
        .map(|n| {
            let directory = Arc::clone(&directory);
            thread::spawn(move || {
                let username = format!("user-{n}");
                let made = directory.create_user(new_user(&username, &[]), &API).is_ok();
                (username, made)
            })
        })
        .collect();
    for (username, made) in threads.into_iter().map(|thread| thread.join().unwrap()) {
        assert_eq!(directory.policy().user_named(&name(&username)).is_some(), made);
    }
    assert_eq!(content(&directory), content(&directory_on(Arc::new(store.crash(0)))));
}

/// A change in terms of a few names, so that random ones meet.
#[derive(Clone, Debug)]
enum Deed {
    PutUser { slot: usize, username: usize, roles: Vec<usize>, expected: Expected },
    DeleteUser { slot: usize },
    PutRole { role: usize, resource: usize },
    DeleteRole { role: usize },
}

const SLOTS: usize = 4;

fn deed() -> impl Strategy<Value = Deed> {
    let expected =
        prop_oneof![3 => Just(Expected::Any), 1 => Just(Expected::Absent), 1 => (0_u64..4).prop_map(Expected::Version)];
    prop_oneof![
        (0..SLOTS, 0..SLOTS, proptest::collection::vec(0..3_usize, 0..3), expected)
            .prop_map(|(slot, username, roles, expected)| Deed::PutUser { slot, username, roles, expected }),
        (0..SLOTS).prop_map(|slot| Deed::DeleteUser { slot }),
        (0..3_usize, 0..4_usize).prop_map(|(role, resource)| Deed::PutRole { role, resource }),
        (0..3_usize).prop_map(|role| Deed::DeleteRole { role }),
    ]
}

fn change(deed: &Deed) -> Change {
    let id = |slot: usize| UserId(Uuid::from_u128(slot as u128 + 1));
    let role_named = |n: usize| format!("role-{n}");
    match deed {
        Deed::PutUser { slot, username, roles, expected } => {
            let mut user = fresh(&format!("user-{username}"), &[]);
            user.id = id(*slot);
            user.roles = roles.iter().map(|n| role_name(&role_named(*n))).collect();
            put(user, *expected)
        }
        Deed::DeleteUser { slot } => Change::DeleteUser { id: id(*slot), expected: Expected::Any },
        Deed::PutRole { role: n, resource } => {
            // The last one is no topic filter.
            let resource = ["a", "b/#", "c/+", "d#"][*resource];
            Change::PutRole { role: role(&role_named(*n), resource), expected: Expected::Any }
        }
        Deed::DeleteRole { role } => {
            Change::DeleteRole { name: role_name(&role_named(*role)), expected: Expected::Any }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Refused: nothing changed. Made: versions moved by one per change, and a restart finds the very same.
    #[test]
    fn any_transactions_leave_a_whole_policy_that_a_restart_finds_again(
        script in proptest::collection::vec(proptest::collection::vec(deed(), 1..5), 1..12),
    ) {
        let store = Arc::new(MemoryStore::new());
        let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
        for deeds in script {
            let before = (directory.version(), content(&directory));
            let answer = directory.commit(transaction(deeds.iter().map(change)), &API);
            let after = content(&directory);
            if answer.is_err() {
                prop_assert_eq!(before, (directory.version(), after.clone()));
            } else {
                for (id, user) in &after.users {
                    let puts = deeds.iter().filter(|deed| matches!(change(deed), Change::PutUser { user, .. } if user.id == *id));
                    let old = before.1.users.get(id).map_or(0, |user| user.version);
                    let deleted = deeds.iter().any(|deed| matches!(change(deed), Change::DeleteUser { id: gone, .. } if gone == *id));
                    prop_assert!(deleted || user.version == old + puts.count() as u64);
                    prop_assert!(user.roles.iter().all(|role| after.roles.contains_key(role)));
                }
                let names: std::collections::BTreeSet<_> = after.users.values().map(|user| &user.username).collect();
                prop_assert_eq!(names.len(), after.users.len());
            }
            prop_assert_eq!(content(&directory_on(Arc::clone(&store) as Arc<dyn Store>)), after);
        }
    }
}

#[test]
fn commits_and_those_that_the_store_failed_are_counted_and_refusals_are_not() {
    let store = Arc::new(FaultyStore::new());
    let metrics = Arc::new(Metrics::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let start = directory.version().0;
    let directory = directory.with_metrics(Arc::clone(&metrics));
    let counted = |commits: u32, failures: u32, version: u64| {
        let text = metrics.encode();
        for line in [
            format!("portcullis_commit_duration_seconds_count {commits}"),
            format!("portcullis_commit_failures_total {failures}"),
            format!("portcullis_policy_version {version}"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    };
    counted(0, 0, start);
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    counted(1, 0, start + 1);
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap_err();
    directory.expire(clock().timestamp()).unwrap();
    counted(1, 0, start + 1);
    store.fail_at(0, Fault::Refused);
    directory.put_role(role("other", "a"), Expected::Absent, &API).unwrap_err();
    counted(1, 1, start + 1);
}

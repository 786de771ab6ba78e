//! The properties of the directory: all or nothing, versions, ownership, order of publishing, restarts, many threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use imbl::OrdSet;
use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::*;
use crate::access::{
    Auth, Context, ManagedBy, Operation, Permission, PolicyError, Role, RoleName, User, UserId, Username,
};
use crate::clock::{Clock, ManualClock};
use crate::mqtt::ClientId;
use crate::store::{Batch, MemoryStore, Store, StoreError, Table};

pub(super) const NOTES: Table<String, String> = Table::new("notes", 1);
/// What somebody else would write into a table of the directory.
pub(super) const NOT_USERS: Table<Uuid, u32> = Table::new("users", 1);
pub(super) const API: Actor = Actor::Local { uid: 1000 };

pub(super) fn clock() -> ManualClock {
    ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap())
}

pub(super) fn directory_on(store: Arc<dyn Store>) -> Directory {
    Directory::open(store, Arc::new(clock())).unwrap()
}

pub(super) fn directory() -> Directory {
    directory_on(Arc::new(MemoryStore::new()))
}

pub(super) fn name(text: &str) -> Username {
    text.parse().unwrap()
}

pub(super) fn role_name(text: &str) -> RoleName {
    text.parse().unwrap()
}

pub(super) fn new_user(username: &str, roles: &[&str]) -> NewUser {
    NewUser { roles: roles.iter().map(|role| role_name(role)).collect(), ..NewUser::named(name(username)) }
}

pub(super) fn role(text: &str, resource: &str) -> Role {
    Role::new(role_name(text), vec![Permission::allow(Context::Mqtt, Operation::Read, resource)])
}

pub(super) fn put(user: User, expected: Expected) -> Change {
    Change::PutUser { user: Box::new(user), expected }
}

pub(super) fn fresh(username: &str, roles: &[&str]) -> User {
    new_user(username, roles).into_user(UserId(Uuid::now_v7()), ManagedBy::Api)
}

pub(super) fn transaction(changes: impl IntoIterator<Item = Change>) -> Transaction {
    Transaction { changes: changes.into_iter().collect(), records: Batch::new() }
}

pub(super) fn note(key: &str, text: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(&NOTES, &key.to_owned(), &text.to_owned()).unwrap();
    batch
}

/// All that a restart must find again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub(super) users: BTreeMap<UserId, User>,
    pub(super) roles: BTreeMap<RoleName, Role>,
}

pub(super) fn content(directory: &Directory) -> Content {
    let policy = directory.policy();
    Content {
        users: policy.users().map(|user| (user.id, User::clone(user))).collect(),
        roles: policy.roles().map(|role| (role.name.clone(), Role::clone(role))).collect(),
    }
}

/// Collects what it is told.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<PolicyChange>>);

impl PolicyListener for Recorder {
    fn policy_changed(&self, change: &PolicyChange) {
        self.0.lock().push(change.clone());
    }
}

pub(super) fn record(directory: &Directory) -> Arc<Recorder> {
    let recorder = Arc::new(Recorder::default());
    directory.set_listener(Arc::clone(&recorder) as Arc<dyn PolicyListener>);
    recorder
}

pub(super) fn users(ids: impl IntoIterator<Item = UserId>) -> Affected {
    Affected::Users(ids.into_iter().collect::<OrdSet<_>>())
}

#[test]
fn built_in_roles_are_there_and_nobody_changes_them() {
    let directory = directory();
    for builtin in ["admin", "observer", "Admin"] {
        for actor in [Actor::System, API, Actor::Config, Actor::Registry] {
            let put = directory.put_role(role(builtin, "a"), Expected::Any, &actor).unwrap_err();
            assert!(matches!(put, DirectoryError::Policy(PolicyError::RoleBuiltIn(_))), "{put}");
            assert_eq!(put.kind(), ErrorKind::Conflict);
            let delete = directory.delete_role(role_name(builtin), Expected::Any, &actor).unwrap_err();
            assert_eq!(delete.kind(), ErrorKind::Conflict);
        }
    }
    assert!(directory.policy().role(&RoleName::admin()).is_some());
    assert!(directory.policy().role(&RoleName::observer()).is_some());
}

#[test]
fn versions_count_changes_and_a_lost_race_is_a_conflict() {
    let directory = directory();
    let user = directory.create_user(new_user("alice", &[]), &API).unwrap();
    assert_eq!((user.version, user.created_at), (1, clock().timestamp()));
    let edit = |text: &'static str| move |user: &mut User| text.clone_into(&mut user.description);
    let second = directory.update_user(user.id, Expected::Version(1), edit("two"), &API).unwrap();
    assert_eq!((second.version, second.created_at, &*second.description), (2, user.created_at, "two"));
    let lost = directory.update_user(user.id, Expected::Version(1), edit("lost"), &API).unwrap_err();
    assert!(matches!(lost, DirectoryError::Version { expected: 1, found: 2, .. }), "{lost}");
    assert_eq!(lost.to_string(), "user `alice` has version 2, not 1: read it again and repeat the change");
    assert_eq!(directory.update_user(user.id, Expected::Any, edit("three"), &API).unwrap().version, 3);
    let exists = directory.update_user(user.id, Expected::Absent, edit("x"), &API).unwrap_err();
    assert!(matches!(exists, DirectoryError::Exists(_)));
    assert_eq!(directory.delete_user(user.id, Expected::Version(2), &API).unwrap_err().kind(), ErrorKind::Conflict);
    directory.delete_user(user.id, Expected::Version(3), &API).unwrap();
    assert_eq!(directory.delete_user(user.id, Expected::Any, &API).unwrap_err().kind(), ErrorKind::NotFound);
    let gone = directory.commit(put(User::clone(&user), Expected::Version(3)).into(), &API).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);

    let first = directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    assert_eq!(first.version, 1);
    assert_eq!(directory.put_role(role("line", "b"), Expected::Version(1), &API).unwrap().version, 2);
    assert_eq!(
        directory.put_role(role("line", "c"), Expected::Version(1), &API).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    assert_eq!(directory.put_role(role("line", "c"), Expected::Absent, &API).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        directory.put_role(role("no", "c"), Expected::Version(1), &API).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    directory.delete_role(role_name("line"), Expected::Version(2), &API).unwrap();
}

#[test]
fn what_the_directory_sets_itself_no_caller_sets() {
    let directory = directory();
    let mut user = fresh("alice", &[]);
    (user.version, user.created_at) = (77, "1999-01-01T00:00:00Z".parse().unwrap());
    let id = user.id;
    directory.commit(put(user, Expected::Absent).into(), &API).unwrap();
    let edit = |user: &mut User| {
        user.id = UserId(Uuid::nil());
        user.version = 99;
        user.managed_by = ManagedBy::Config;
        user.created_at = Timestamp::UNIX_EPOCH;
    };
    let user = directory.update_user(id, Expected::Version(1), edit, &API).unwrap();
    assert_eq!((user.id, user.version, user.managed_by, user.created_at), (id, 2, ManagedBy::Api, clock().timestamp()));
}

#[test]
fn usernames_are_unique_and_can_be_handed_on_within_a_transaction() {
    let directory = directory();
    let alice = directory.create_user(new_user("alice", &[]), &API).unwrap();
    let bob = directory.create_user(new_user("bob", &[]), &API).unwrap();
    let taken = directory.create_user(new_user("alice", &[]), &API).unwrap_err();
    assert!(
        matches!(&taken, DirectoryError::Policy(PolicyError::UsernameTaken(_))) && taken.kind() == ErrorKind::Conflict
    );
    let renamed = directory.update_user(bob.id, Expected::Any, |user| user.username = name("alice"), &API).unwrap_err();
    assert_eq!(renamed.kind(), ErrorKind::Conflict);
    let swap = transaction([
        put(User { username: name("bob"), ..User::clone(&alice) }, Expected::Version(1)),
        put(User { username: name("alice"), ..User::clone(&bob) }, Expected::Version(1)),
    ]);
    directory.commit(swap, &API).unwrap();
    assert_eq!(directory.policy().user_named(&name("bob")).unwrap().id, alice.id);
    let replace = transaction([
        Change::DeleteUser { id: alice.id, expected: Expected::Any },
        put(fresh("bob", &[]), Expected::Absent),
    ]);
    directory.commit(replace, &API).unwrap();
    assert_ne!(directory.policy().user_named(&name("bob")).unwrap().id, alice.id, "a later user inherits nothing");
}

#[test]
fn references_are_checked_after_the_last_change() {
    let directory = directory();
    let unknown = directory.create_user(new_user("alice", &["line"]), &API).unwrap_err();
    assert!(matches!(unknown.kind(), ErrorKind::Invalid) && unknown.to_string().contains("`line`"), "{unknown}");
    let both = transaction([
        put(fresh("alice", &["line"]), Expected::Absent),
        Change::PutRole { role: role("line", "a"), expected: Expected::Absent },
    ]);
    directory.commit(both, &API).unwrap();
    let held = directory.delete_role(role_name("line"), Expected::Any, &API).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::Conflict);
    let alice = directory.policy().user_named(&name("alice")).cloned().unwrap();
    let away = transaction([
        Change::DeleteRole { name: role_name("line"), expected: Expected::Version(1) },
        Change::DeleteUser { id: alice.id, expected: Expected::Version(1) },
    ]);
    directory.commit(away, &API).unwrap();
    assert_eq!(directory.policy().users().count(), 0);
}

#[test]
fn reserved_names_are_given_out_by_the_broker_alone_and_to_no_registration() {
    let directory = directory();
    for reserved in ["admin", "Observer", "SYSTEM", "local"] {
        for actor in [API, Actor::Registry, Actor::Config] {
            let error = directory.create_user(new_user(reserved, &[]), &actor).unwrap_err();
            assert!(matches!(error, DirectoryError::ReservedName(_)) && error.kind() == ErrorKind::Invalid, "{error}");
        }
        let mut user = fresh(reserved, &[]);
        user.managed_by = ManagedBy::Registry;
        let error = directory.commit(put(user, Expected::Absent).into(), &Actor::System).unwrap_err();
        assert!(matches!(error, DirectoryError::ReservedName(_)));
    }
    let alice = directory.create_user(new_user("alice", &[]), &API).unwrap();
    let rename = |user: &mut User| user.username = name("local");
    assert!(directory.update_user(alice.id, Expected::Any, rename, &API).is_err());
    let admin = directory.create_first_admin("$argon2id$".to_owned()).unwrap();
    // Who has such a name can be changed like anybody else.
    directory.update_user(admin.id, Expected::Any, |user| "boss".clone_into(&mut user.description), &API).unwrap();
}

#[test]
fn the_first_admin_is_made_once() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    assert!(!directory.has_admin());
    let admin = directory.create_first_admin("$argon2id$x".to_owned()).unwrap();
    assert_eq!((admin.username.as_str(), admin.roles.clone()), ("admin", vec![RoleName::admin()]));
    assert!(directory.has_admin() && directory_on(store).has_admin());
    assert!(matches!(directory.create_first_admin("y".to_owned()), Err(DirectoryError::Exists(_))));
}

#[test]
fn the_last_administrator_stays() {
    let directory = directory();
    let first = directory.create_first_admin("$argon2id$x".to_owned()).unwrap().id;
    let refused = |edit: fn(&mut User)| {
        let error = directory.update_user(first, Expected::Any, edit, &API).unwrap_err();
        assert!(matches!(error, DirectoryError::LastAdmin(_)) && error.kind() == ErrorKind::Conflict, "{error}");
    };
    let edits: [fn(&mut User); 5] = [
        |user| user.enabled = false,
        |user| user.roles.clear(),
        |user| user.auth = Auth::None,
        |user| user.expires_at = Some("2026-06-01T00:00:00Z".parse().unwrap()),
        |user| user.expires_at = Some("2020-06-01T00:00:00Z".parse().unwrap()),
    ];
    edits.into_iter().for_each(refused);
    assert!(matches!(directory.delete_user(first, Expected::Any, &API), Err(DirectoryError::LastAdmin(_))));
    // One who is disabled, or who will expire, does not make up for the first.
    let second = directory.create_user(NewUser { enabled: false, ..new_user("second", &["admin"]) }, &API).unwrap().id;
    edits.into_iter().for_each(refused);
    let ends = Some("2026-06-01T00:00:00Z".parse().unwrap());
    let edit = move |user: &mut User| (user.enabled, user.expires_at) = (true, ends);
    directory.update_user(second, Expected::Any, edit, &API).unwrap();
    edits.into_iter().for_each(refused);
    directory.update_user(second, Expected::Any, |user| user.expires_at = None, &API).unwrap();
    directory.update_user(first, Expected::Any, |user| user.enabled = false, &API).unwrap();
    assert!(matches!(directory.delete_user(second, Expected::Any, &API), Err(DirectoryError::LastAdmin(_))));
    // In one transaction a successor may come and the last one go.
    let hand_over = transaction([
        Change::DeleteUser { id: second, expected: Expected::Any },
        put(fresh("third", &["admin"]), Expected::Absent),
    ]);
    directory.commit(hand_over, &API).unwrap();
    let third = directory.policy().user_named(&name("third")).unwrap().id;
    directory.delete_user(third, Expected::Any, &Actor::System).unwrap();
}

#[test]
fn what_broker_toml_owns_is_read_only_elsewhere() {
    let directory = directory();
    directory.reconcile(vec![role("line", "a")], vec![new_user("historian", &["line"])]).unwrap();
    let id = directory.policy().user_named(&name("historian")).unwrap().id;
    for actor in [API, Actor::System, Actor::Registry] {
        let errors = [
            directory.update_user(id, Expected::Any, |user| user.enabled = false, &actor).unwrap_err(),
            directory.delete_user(id, Expected::Any, &actor).unwrap_err(),
            directory.put_role(role("line", "#"), Expected::Any, &actor).unwrap_err(),
            directory.delete_role(role_name("line"), Expected::Any, &actor).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, DirectoryError::ManagedByConfig(_)) && error.kind() == ErrorKind::Conflict);
            assert!(error.to_string().contains("broker.toml"), "{error}");
        }
    }
    // Nobody else makes an object that broker.toml owns, and broker.toml none that somebody else does.
    let mut user = fresh("pump", &[]);
    user.managed_by = ManagedBy::Config;
    assert!(directory.commit(put(user, Expected::Absent).into(), &API).is_err());
    assert!(directory.commit(put(fresh("pump", &[]), Expected::Absent).into(), &Actor::Config).is_err());
}

#[test]
fn reconciling_is_idempotent_and_removes_what_is_no_longer_named() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let other = directory.create_user(new_user("other", &[]), &API).unwrap();
    let roles = || vec![role("line", "a"), role("hall", "b")];
    let users = || vec![new_user("historian", &["line"]), new_user("display", &["hall", "observer"])];
    assert!(directory.reconcile(roles(), users()).unwrap().changed);
    let before = (directory.version(), content(&directory));
    for _ in 0..3 {
        assert!(!directory.reconcile(roles(), users()).unwrap().changed);
    }
    assert_eq!((directory.version(), content(&directory)), before);
    let reopened = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    assert!(!reopened.reconcile(roles(), users()).unwrap().changed, "nor after a restart");

    let historian = directory.policy().user_named(&name("historian")).unwrap().id;
    directory.reconcile(vec![role("line", "c")], vec![new_user("historian", &["line"])]).unwrap();
    let policy = directory.policy();
    let user = policy.user_named(&name("historian")).unwrap();
    assert_eq!((user.id, user.version), (historian, 1), "what did not change keeps its version");
    assert_eq!(policy.role(&role_name("line")).unwrap().version, 2);
    assert!(policy.role(&role_name("hall")).is_none() && policy.user_named(&name("display")).is_none());
    directory.reconcile(Vec::new(), Vec::new()).unwrap();
    assert_eq!(directory.policy().users().map(|user| user.id).collect::<Vec<_>>(), [other.id]);
    assert_eq!(directory.policy().roles().count(), 2, "the built-in ones");
}

#[test]
fn a_name_that_others_own_makes_the_reload_fail_and_is_named() {
    let directory = directory();
    directory.create_user(new_user("alice", &[]), &API).unwrap();
    directory.create_user(new_user("sensor", &[]), &Actor::Registry).unwrap();
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    let before = content(&directory);
    let error = directory
        .reconcile(
            vec![role("line", "b")],
            vec![new_user("good", &[]), new_user("alice", &[]), new_user("sensor", &[])],
        )
        .unwrap_err();
    let text = error.to_string();
    assert!(["role `line`", "user `alice`", "user `sensor`"].iter().all(|name| text.contains(name)), "{text}");
    assert!(!text.contains("good"));
    let twice = directory.reconcile(Vec::new(), vec![new_user("bob", &[]), new_user("bob", &[])]).unwrap_err();
    assert!(matches!(twice, DirectoryError::Repeated(_)));
    let twice = directory.reconcile(vec![role("r", "a"), role("r", "b")], Vec::new()).unwrap_err();
    assert!(matches!(twice, DirectoryError::Repeated(_)));
    assert_eq!(content(&directory), before);
}

#[test]
fn removing_a_config_role_that_others_hold_is_refused() {
    let directory = directory();
    directory.reconcile(vec![role("line", "a")], Vec::new()).unwrap();
    directory.create_user(new_user("alice", &["line"]), &API).unwrap();
    let error = directory.reconcile(Vec::new(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains("`line`") && error.to_string().contains("`alice`"), "{error}");
    assert!(directory.policy().role(&role_name("line")).is_some());
}

#[test]
fn the_snapshot_is_published_before_the_listener_and_the_listener_passed_before_the_answer() {
    struct Slow {
        directory: Mutex<Option<Arc<Directory>>>,
        passed: AtomicU64,
    }
    impl PolicyListener for Slow {
        fn policy_changed(&self, change: &PolicyChange) {
            let directory = self.directory.lock().clone().unwrap();
            assert!(Arc::ptr_eq(&directory.policy(), &change.new));
            assert_eq!(directory.version(), change.new.version());
            assert!(change.old.version() < change.new.version());
            let inner = directory.create_user(new_user("never", &[]), &API).unwrap_err();
            assert!(matches!(inner, DirectoryError::Reentrant));
            thread::sleep(Duration::from_millis(30));
            self.passed.store(change.new.version().0, Ordering::SeqCst);
        }
    }
    let directory = Arc::new(directory());
    let slow = Arc::new(Slow { directory: Mutex::new(Some(Arc::clone(&directory))), passed: AtomicU64::new(0) });
    directory.set_listener(Arc::clone(&slow) as Arc<dyn PolicyListener>);
    for n in 0..3 {
        let committed = directory.commit(put(fresh(&format!("user-{n}"), &[]), Expected::Absent).into(), &API).unwrap();
        assert_eq!(slow.passed.load(Ordering::SeqCst), committed.version().0);
    }
    *slow.directory.lock() = None;
}

#[test]
fn the_listener_is_told_exactly_who_is_affected() {
    let directory = directory();
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    let alice = directory.create_user(new_user("alice", &["line"]), &API).unwrap().id;
    let bob = directory.create_user(new_user("bob", &["line"]), &API).unwrap().id;
    let carol = directory.create_user(new_user("carol", &[]), &API).unwrap().id;
    let recorder = record(&directory);
    let affected = || recorder.0.lock().pop().map(|change| change.affected);
    directory.put_role(role("line", "b"), Expected::Any, &API).unwrap();
    assert_eq!(affected(), Some(users([alice, bob])));
    directory.update_user(carol, Expected::Any, |user| user.enabled = false, &API).unwrap();
    assert_eq!(affected(), Some(users([carol])));
    directory.update_user(bob, Expected::Any, |user| user.roles.clear(), &API).unwrap();
    assert_eq!(affected(), Some(users([bob])));
    directory.delete_user(alice, Expected::Any, &API).unwrap();
    assert_eq!(affected(), Some(users([alice])));
    directory.delete_role(role_name("line"), Expected::Any, &API).unwrap();
    assert_eq!(affected(), Some(users([])));
    // Who may join a shared group concerns everybody.
    directory.put_role(role("share", "$share/g/#"), Expected::Absent, &API).unwrap();
    assert_eq!(affected(), Some(Affected::All));
    // What changes nothing is told nobody.
    directory.commit(Transaction { changes: Vec::new(), records: note("a", "b") }, &API).unwrap();
    directory.commit(Transaction::default(), &API).unwrap();
    directory.delete_user(alice, Expected::Any, &API).unwrap_err();
    assert_eq!(affected(), None);
}

#[test]
fn time_is_a_commit() {
    let clock = clock();
    let directory = Directory::open(Arc::new(MemoryStore::new()), Arc::new(clock.clone())).unwrap();
    let hour = |n: u64| clock.timestamp() + Duration::from_hours(n);
    let (one, two, three) = (hour(1), hour(2), hour(3));
    let boxed = Permission { not_after: Some(two), ..Permission::allow(Context::Mqtt, Operation::Read, "a") };
    directory.put_role(Role::new(role_name("line"), vec![boxed]), Expected::Absent, &API).unwrap();
    let holder = directory.create_user(new_user("holder", &["line"]), &API).unwrap().id;
    let guest = directory.create_user(NewUser { expires_at: Some(one), ..new_user("guest", &[]) }, &API).unwrap().id;
    let bystander =
        directory.create_user(NewUser { expires_at: Some(three), ..new_user("bystander", &[]) }, &API).unwrap();
    let recorder = record(&directory);
    let client: ClientId = "c".parse().unwrap();
    assert_eq!(directory.next_expiry(), Some(one));
    assert!(!directory.expire(one - Duration::from_secs(1)).unwrap().changed);
    assert!(directory.policy().authority(guest, &client).is_some());

    let before = content(&directory);
    assert!(directory.expire(one).unwrap().changed);
    assert!(directory.policy().authority(guest, &client).is_none());
    assert_eq!(recorder.0.lock().pop().unwrap().affected, users([guest]));
    assert_eq!((directory.next_expiry(), content(&directory)), (Some(two), before));
    assert!(!directory.expire(one).unwrap().changed, "once");

    // Another commit after the hour takes the lapsed along.
    clock.advance(Duration::from_hours(2));
    directory.update_user(bystander.id, Expected::Any, |user| "x".clone_into(&mut user.description), &API).unwrap();
    assert_eq!(recorder.0.lock().pop().unwrap().affected, users([holder, bystander.id]));
    let authority = directory.policy().authority(holder, &client).unwrap();
    assert!(authority.may_receive(&"a".parse().unwrap()).is_none());
    assert_eq!(directory.next_expiry(), Some(three));
}

#[test]
fn records_of_other_modules_are_committed_with_the_changes_or_not_at_all() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let get = |key: &str| NOTES.get(&*store, &key.to_owned()).unwrap();
    let good =
        Transaction { records: note("a", "granted"), ..transaction([put(fresh("alice", &[]), Expected::Absent)]) };
    directory.commit(good, &API).unwrap();
    assert_eq!(get("a").as_deref(), Some("granted"));
    let bad =
        Transaction { records: note("b", "granted"), ..transaction([put(fresh("alice", &[]), Expected::Absent)]) };
    directory.commit(bad, &API).unwrap_err();
    assert_eq!(get("b"), None);
    // The tables of the directory are its own.
    let mut records = note("c", "x");
    records.put(&NOT_USERS, &Uuid::nil(), &1).unwrap();
    let foreign = directory.commit(Transaction { changes: Vec::new(), records }, &Actor::System).unwrap_err();
    assert!(matches!(foreign, DirectoryError::ForeignRecords));
    assert_eq!(get("c"), None);
}

#[test]
fn a_record_that_is_too_long_is_the_clients_to_shorten() {
    let directory = directory();
    let user = NewUser { description: "x".repeat(70_000), ..new_user("alice", &[]) };
    let error = directory.create_user(user, &API).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("`users`"), "{error}");
    assert_eq!(directory.policy().users().count(), 0);
}

#[test]
fn a_damaged_user_stops_the_start_with_its_table_and_key() {
    let store = Arc::new(MemoryStore::new());
    let id = directory_on(Arc::clone(&store) as Arc<dyn Store>).create_user(new_user("alice", &[]), &API).unwrap().id;
    let mut batch = Batch::new();
    batch.put(&NOT_USERS, &id.0, &7).unwrap();
    store.commit(batch).unwrap();
    let error = Directory::open(store, Arc::new(clock())).unwrap_err();
    assert!(matches!(&error, DirectoryError::Store(error) if matches!(**error, StoreError::Corrupt { .. })), "{error}");
    assert!(error.to_string().contains("`users`") && error.to_string().contains(&id.to_string()), "{error}");
}

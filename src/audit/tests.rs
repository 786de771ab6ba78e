//! The chain, the recorder, the keeper.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::chain::{ANCHOR, HEADS, RECORDS, only};
use super::*;
use crate::access::{
    Auth, CertificateRecord, Context, ManagedBy, Operation, Permission, Role, RoleName, User, UserId, Username,
};
use crate::clock::{Clock, Duration, ManualClock, Timestamp};
use crate::directory::{Actor, Change, Directory, Expected, NewUser, Transaction};
use crate::metrics::Metrics;
use crate::store::{Batch, Fault as StoreFault, FaultyStore, MAX_VALUE, MemoryStore, Store};

pub(super) fn clock() -> ManualClock {
    ManualClock::new("2030-01-01T00:00:00Z".parse().unwrap())
}

pub(super) fn user_ref(name: &str) -> UserRef {
    UserRef { id: UserId(Uuid::from_u128(7)), username: name.parse().unwrap() }
}

/// A log with a keeper, in memory.
pub(super) struct Log {
    pub(super) store: Arc<dyn Store>,
    pub(super) directory: Arc<Directory>,
    pub(super) keeper: Keeper,
    pub(super) recorder: Arc<Recorder>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: ManualClock,
    pub(super) public: PublicKey,
}

pub(super) const SETTINGS: Settings = Settings {
    keep: Duration::from_hours(24 * 365),
    max_records: 1_000_000,
    max_bytes: 1 << 40,
    interval: Duration::from_mins(1),
};

impl Log {
    pub(super) fn with(store: Arc<dyn Store>, settings: Settings) -> Self {
        let clock = clock();
        let metrics = Arc::new(Metrics::new());
        let directory = Directory::open(Arc::clone(&store), Arc::new(clock.clone())).unwrap();
        let directory = Arc::new(directory.with_metrics(Arc::clone(&metrics)));
        let recorder = Arc::new(Recorder::new(Arc::clone(&metrics)));
        let key = AuditKey::generate().unwrap();
        let public = key.public();
        let append = Arc::clone(&directory) as Arc<dyn Append>;
        let keeper = Keeper::start(
            Arc::clone(&store),
            append,
            Arc::new(clock.clone()),
            (key, true),
            Arc::clone(&recorder),
            settings,
        );
        Self { store, directory, keeper: keeper.unwrap(), recorder, metrics, clock, public }
    }

    pub(super) fn new() -> Self {
        Self::with(Arc::new(MemoryStore::new()), SETTINGS)
    }

    /// Some changes, each with its record.
    pub(super) fn fill(&self, count: u64) {
        for n in 0..count {
            let role = Role::new(format!("role-{n}").parse().unwrap(), Vec::new());
            self.directory.put_role(role, Expected::Any, &Actor::Local { uid: 7 }).unwrap();
        }
    }

    pub(super) fn records(&self) -> Vec<Record> {
        RECORDS.iter(&*self.store).map(|entry| entry.unwrap().1.read().unwrap()).collect()
    }

    pub(super) fn offline(&self) -> Report {
        verify(&*self.store, None, Some(self.public), None).unwrap()
    }
}

fn kinds(records: &[Record]) -> Vec<&'static str> {
    records.iter().map(|record| record.event.kind()).collect()
}

#[test]
fn every_change_is_told_with_who_and_both_versions_and_the_chain_is_whole() {
    let log = Log::new();
    let actor = Actor::Local { uid: 1000 };
    let user = log.directory.create_user(NewUser::named("alice".parse().unwrap()), &actor).unwrap();
    let edit = |user: &mut User| {
        user.enabled = false;
        user.password_hash = Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$8PLL1fgUE8Gh8sQxiU0Zxw".to_owned());
    };
    log.directory.update_user(user.id, Expected::Version(1), edit, &actor).unwrap();
    log.directory.delete_user(user.id, Expected::Version(2), &actor).unwrap();
    let records = log.records();
    assert_eq!(kinds(&records), ["key_created", "broker_started", "user_created", "user_changed", "user_deleted"]);
    let Some(Record { who, place, event: Event::UserChanged { user: named, old, new, change }, .. }) = records.get(3)
    else {
        panic!("{records:?}")
    };
    assert_eq!((who, place), (&Who::Local { uid: 1000 }, &Some(Place::Machine)));
    assert_eq!((named.username.as_str(), *old, *new), ("alice", 1, 2));
    assert_eq!((change.fields.as_slice(), change.enabled), ([Field::Enabled, Field::Password].as_slice(), Some(false)));
    let report = log.keeper.verify(None).unwrap();
    assert!(report.whole && report.records == 5 && report.heads == 1, "{report:?}");
    assert_eq!(log.offline(), report);
    assert_eq!(log.metrics.audit_records.get(), 5);
}

#[test]
fn what_is_refused_leaves_no_record() {
    let log = Log::new();
    log.fill(1);
    let again = Role::new("role-0".parse().unwrap(), Vec::new());
    log.directory.put_role(again, Expected::Absent, &Actor::System).unwrap_err();
    assert_eq!(kinds(&log.records()), ["key_created", "broker_started", "role_created"]);
}

#[test]
fn a_lost_certificate_is_told_whether_it_was_revoked_removed_or_went_with_its_user() {
    let certificate = |serial: &str| CertificateRecord {
        serial: serial.to_owned(),
        fingerprint: format!("f{serial}"),
        key: None,
        not_before: Timestamp::UNIX_EPOCH,
        not_after: Timestamp::MAX,
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    };
    let lost = |old: &[CertificateRecord], new: Option<&[CertificateRecord]>| {
        let user = |certificates: &[CertificateRecord]| User {
            certificates: certificates.to_vec(),
            ..User::new(UserId(Uuid::from_u128(1)), "alice".parse().unwrap(), Timestamp::UNIX_EPOCH)
        };
        certificates_lost(&user(old), new.map(user).as_ref()).len()
    };
    let (one, two) = (certificate("01"), certificate("02"));
    let revoked = CertificateRecord { revoked_at: Some(Timestamp::UNIX_EPOCH), ..one.clone() };
    assert_eq!(lost(&[one.clone(), two.clone()], Some(&[one.clone(), two.clone()])), 0);
    assert_eq!(lost(&[one.clone(), two.clone()], Some(&[revoked.clone(), two.clone()])), 1);
    assert_eq!(lost(&[one.clone(), two.clone()], Some(std::slice::from_ref(&two))), 1);
    assert_eq!(lost(&[one, two], None), 2);
    assert_eq!(lost(&[revoked], None), 0);
}

#[test]
fn the_widest_change_that_the_store_can_hold_fits_into_one_record() {
    let log = Log::new();
    let wide = |letter: &str| {
        let rule = |n: usize| Permission::allow(Context::Mqtt, Operation::Read, format!("{n}/{}", letter.repeat(900)));
        (0..50).map(rule).collect::<Vec<_>>()
    };
    let name: RoleName = "wide".parse().unwrap();
    for letter in ["a", "b", "\u{1}"] {
        let role = Role::new(name.clone(), wide(letter));
        if let Err(error) = log.directory.put_role(role, Expected::Any, &Actor::System) {
            assert!(!error.to_string().contains("`audit`"), "{error}");
        }
    }
    for (_, entry) in RECORDS.iter(&*log.store).map(Result::unwrap) {
        assert!(entry.size() < u64::try_from(MAX_VALUE).unwrap());
    }
    assert!(log.offline().whole);
}

proptest! {
    #[test]
    fn any_event_of_texts_that_clients_choose_fits_and_reads_back(topic: String, label: String) {
        let event = Event::Refused {
            user: Some(user_ref("alice")),
            action: "publish".into(),
            topic: Pattern::of(&topic),
            cause: Word::name(&label),
            rule: Some(Rule::new(None, Permission::allow(Context::Mqtt, Operation::Read, topic))),
            count: u64::MAX,
            first: Timestamp::MIN,
            last: Timestamp::MAX,
        };
        let record = Record { sequence: 1, time: Timestamp::UNIX_EPOCH, who: Who::System, place: None, event };
        let entry = Entry::seal(Hash::GENESIS, &record).unwrap();
        prop_assert!(entry.size() < 32 * 1024);
        prop_assert_eq!(entry.read().unwrap(), record);
        prop_assert!(entry.follows(Hash::GENESIS) && !entry.follows(entry.hash));
        let stored = serde_json::to_vec(&entry).unwrap();
        let back: Entry = serde_json::from_slice(&stored).unwrap();
        prop_assert!(back.follows(Hash::GENESIS) && back.hash == entry.hash);
    }

    #[test]
    fn a_pattern_covers_its_topic_and_is_short(topic in "[a-z/]{0,20}") {
        let pattern = Pattern::of(&topic);
        let covered = pattern.as_str() == "#"
            || pattern.as_str() == topic
            || pattern.as_str().strip_suffix('#').is_some_and(|head| topic.starts_with(head));
        prop_assert!(covered, "{} {}", topic, pattern.as_str());
    }

    #[test]
    fn a_hash_reads_back_and_no_text_makes_the_parser_panic(text: String, bytes: Vec<u8>) {
        let hash = Hash::of(&[&bytes]);
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        let _ = text.parse::<Hash>();
    }
}

#[test]
fn the_hash_is_that_of_the_previous_one_and_the_bytes_on_record() {
    // sha256sum of 32 zero bytes and `{}`.
    assert_eq!(Hash::GENESIS.then(b"{}"), Hash::of(&[&[0; 32], b"{}"]));
    // FIPS 180-4, SHA-256 of `abc`.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Hash::of(&[b"a", b"bc"]).to_string(), abc);
}

// The store fails.

/// The records of a store, and what they say: the last version of each user and role.
fn told(store: &dyn Store) -> BTreeMap<String, u64> {
    let mut told = BTreeMap::new();
    for entry in RECORDS.iter(store) {
        match entry.unwrap().1.read().unwrap().event {
            Event::UserCreated { user, new, .. } | Event::UserChanged { user, new, .. } => {
                told.insert(user.username.to_string(), new);
            }
            Event::UserDeleted { user, .. } => {
                told.remove(user.username.as_str());
            }
            Event::RoleCreated { role, new, .. } | Event::RoleChanged { role, new, .. } => {
                told.insert(role.to_string(), new);
            }
            Event::RoleDeleted { role, .. } => {
                told.remove(role.as_str());
            }
            _ => {}
        }
    }
    told
}

fn held(directory: &Directory) -> BTreeMap<String, u64> {
    let policy = directory.policy();
    let roles = policy.roles().filter(|role| !role.name.is_built_in());
    let users = policy.users().map(|user| (user.username.to_string(), user.version));
    users.chain(roles.map(|role| (role.name.to_string(), role.version))).collect()
}

fn script() -> Vec<Transaction> {
    let role = |resource: &str| {
        Role::new("line".parse().unwrap(), vec![Permission::allow(Context::Mqtt, Operation::Read, resource)])
    };
    let user = |name: &str| User {
        roles: vec!["line".parse().unwrap()],
        ..NewUser::named(name.parse().unwrap()).into_user(UserId(Uuid::now_v7()), ManagedBy::Api)
    };
    let (alice, bob) = (user("alice"), user("bob"));
    let put = |user: &User, expected| Change::PutUser { user: Box::new(user.clone()), expected };
    let of = |changes| Transaction { changes, records: Batch::new() };
    vec![
        of(vec![
            Change::PutRole { role: role("a"), expected: Expected::Absent },
            put(&alice, Expected::Absent),
            put(&bob, Expected::Absent),
        ]),
        of(vec![put(&User { enabled: false, ..alice.clone() }, Expected::Version(1))]),
        of(vec![
            Change::PutRole { role: role("b"), expected: Expected::Version(1) },
            Change::DeleteUser { id: alice.id, expected: Expected::Version(2) },
        ]),
    ]
}

#[test]
fn whatever_operation_of_the_store_fails_no_change_is_without_its_record_and_no_record_without_its_change() {
    for fault in [StoreFault::Refused, StoreFault::NotSynced, StoreFault::AnswerLost] {
        for n in 0..6 {
            let store = Arc::new(FaultyStore::new());
            let directory = Directory::open(Arc::clone(&store) as Arc<dyn Store>, Arc::new(clock())).unwrap();
            store.fail_at(n, fault);
            for step in script() {
                // What fails is not tried again; what depends on it is refused.
                let _ = directory.commit(step, &Actor::System);
            }
            for survivors in [0, 1] {
                let crashed: Arc<dyn Store> = Arc::new(store.crash(survivors));
                let again = Directory::open(Arc::clone(&crashed), Arc::new(clock())).unwrap();
                assert_eq!(told(&*crashed), held(&again), "{fault:?} at {n}, {survivors} survivors");
                assert_eq!(again.chain().tip().sequence, RECORDS.iter(&*crashed).count() as u64);
                // And it goes on from there.
                let name: Username = "carol".parse().unwrap();
                again.create_user(NewUser::named(name), &Actor::System).unwrap();
                let report = verify(&*crashed, None, None, None).unwrap();
                assert!(report.whole, "{fault:?} at {n}, {survivors} survivors: {report:?}");
            }
        }
    }
}

#[test]
fn records_of_many_threads_are_one_chain_and_cost_no_flush_of_their_own() {
    const THREADS: u64 = 16;
    const EACH: u64 = 20;
    let store = Arc::new(FaultyStore::slow(Duration::from_millis(1)));
    let log = Log::with(Arc::clone(&store) as Arc<dyn Store>, SETTINGS);
    let before = store.commits();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || {
                for n in 0..EACH {
                    let role = Role::new(format!("role-{thread}-{n}").parse().unwrap(), Vec::new());
                    log.directory.put_role(role, Expected::Absent, &Actor::System).unwrap();
                }
            });
        }
    });
    let report = log.offline();
    assert!(report.whole && report.records == 2 + THREADS * EACH, "{report:?}");
    let commits = store.commits() - before;
    assert!(commits < THREADS * EACH / 2, "{commits} commits: one for each change, or more");
}

// Refusals.

fn login(source: u8, user: Option<&str>) -> FailedLogin {
    FailedLogin {
        user: user.map(user_ref),
        address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, source)),
        listener: Word::name("mqtts"),
        cause: "wrong_password".into(),
    }
}

fn refused(user: &str) -> Refused {
    Refused { user: Some(user_ref(user)), action: "publish".into(), cause: "rules".into() }
}

#[test]
fn refusals_of_one_user_action_and_pattern_are_one_record_with_a_count_and_its_rule() {
    let log = Log::new();
    let rule = || Some(Rule::new(None, Permission::deny(Context::Mqtt, Operation::Write, "plant/7/#")));
    for n in 0..1000 {
        log.recorder.refused(refused("alice"), &format!("plant/7/{n}"), log.clock.timestamp(), rule);
        log.clock.advance(Duration::from_millis(1));
        log.recorder.login_failed(login(1, Some("alice")), log.clock.timestamp());
    }
    log.keeper.tick().unwrap();
    let records = log.records();
    let Some(Event::Refused { topic, count, rule, first, last, .. }) = records.get(2).map(|record| &record.event)
    else {
        panic!("{records:?}")
    };
    assert_eq!((topic.as_str(), *count, rule.is_some()), ("plant/7/#", 1000, true));
    assert_eq!(last.duration_since(*first).as_millis(), 999);
    assert!(matches!(records.get(3).map(|record| &record.event), Some(Event::LoginsFailed { count: 1000, .. })));
    assert_eq!(log.metrics.audit_collapsed.get(), 2 * 999);
    // Nothing new, nothing written; the next interval begins anew.
    log.keeper.tick().unwrap();
    log.recorder.login_failed(login(1, Some("alice")), log.clock.timestamp());
    log.keeper.tick().unwrap();
    assert!(matches!(log.records().last().map(|record| &record.event), Some(Event::LoginsFailed { count: 1, .. })));
}

#[test]
fn a_flood_of_refusals_makes_few_records_and_none_of_it_is_uncounted() {
    let log = Log::new();
    let (topics, sources) = (10_000_u64, 10_000_u64);
    for n in 0..topics {
        log.recorder.refused(refused("mallory"), &format!("{n}/x"), log.clock.timestamp(), || None);
        let user = format!("user-{}", n % 1000);
        log.recorder.refused(refused(&user), "a/b", log.clock.timestamp(), || None);
    }
    for n in 0..sources {
        let address = IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap()));
        log.recorder.login_failed(FailedLogin { address, ..login(0, None) }, log.clock.timestamp());
    }
    log.keeper.tick().unwrap();
    let records = log.records();
    assert!(records.len() <= 2 + 2 * super::recorder::LIMIT + 1, "{}", records.len());
    let (mut refusals, mut logins, mut of_mallory) = (0, 0, 0);
    for record in &records {
        match &record.event {
            Event::Refused { user, count, .. } => {
                refusals += count;
                of_mallory += usize::from(user == &Some(user_ref("mallory")));
            }
            Event::LoginsFailed { count, .. } => logins += count,
            Event::NotDetailed { logins: more, refusals: others } => {
                logins += more;
                refusals += others;
            }
            _ => {}
        }
    }
    assert_eq!((refusals, logins), (2 * topics, sources));
    assert!(of_mallory <= 1 + usize::from(super::recorder::PATTERNS), "{of_mallory}");
    assert!(log.metrics.audit_dropped.get() > 0);
}

#[test]
fn refusals_that_cannot_be_written_are_counted_as_dropped_and_hold_nobody_up() {
    let store = Arc::new(FaultyStore::new());
    let log = Log::with(Arc::clone(&store) as Arc<dyn Store>, SETTINGS);
    for _ in 0..5 {
        log.recorder.login_failed(login(1, None), log.clock.timestamp());
    }
    store.fail_at(0, StoreFault::Refused);
    log.keeper.tick().unwrap_err();
    assert_eq!(log.metrics.audit_dropped.get(), 5);
    log.recorder.login_failed(login(1, None), log.clock.timestamp());
    log.keeper.tick().unwrap();
    assert!(log.offline().whole);
}

// Heads and pruning.

#[test]
fn heads_are_signed_hourly_and_at_the_end_and_only_when_something_happened() {
    let log = Log::new();
    let heads = || HEADS.iter(&*log.store).count();
    assert_eq!(heads(), 1, "at the start");
    log.keeper.tick().unwrap();
    log.fill(1);
    log.clock.advance(Duration::from_mins(59));
    log.keeper.tick().unwrap();
    assert_eq!(heads(), 1);
    log.clock.advance(Duration::from_mins(2));
    log.keeper.tick().unwrap();
    assert_eq!(heads(), 2);
    log.clock.advance(Duration::from_hours(2));
    log.keeper.tick().unwrap();
    assert_eq!(heads(), 2, "nothing happened");
    log.keeper.stop();
    log.keeper.stop();
    assert_eq!(heads(), 3);
    let records = log.records();
    assert_eq!(kinds(&records).last(), Some(&"broker_stopped"));
    let head = HEADS.get(&*log.store, &records.last().unwrap().sequence).unwrap().unwrap();
    assert!(log.public.verifies(&head));
    let text = head.text();
    assert_eq!(text, format!("portcullis-audit-head-v1 {} {} {}", head.sequence, head.hash, head.time));
    // No bit of it can be another.
    assert!(!log.public.verifies(&Statement { sequence: head.sequence + 1, ..head.clone() }));
    assert!(!log.public.verifies(&Statement { hash: Hash::GENESIS, ..head.clone() }));
    assert!(!log.public.verifies(&Statement { purpose: Purpose::Anchor, ..head.clone() }));
    assert!(!AuditKey::generate().unwrap().public().verifies(&head));
}

#[test]
fn pruning_by_age_leaves_a_chain_that_verifies_from_its_signed_anchor() {
    let log = Log::new();
    log.fill(700);
    let noted = log.keeper.tip().hash;
    log.clock.advance(Duration::from_hours(24 * 300));
    log.fill(1);
    log.keeper.tick().unwrap();
    assert_eq!(log.records().len(), 703, "nothing is old enough");
    log.clock.advance(Duration::from_hours(24 * 66));
    log.keeper.tick().unwrap();
    let records = log.records();
    assert_eq!(kinds(&records), ["role_changed", "pruned"]);
    assert_eq!(records.first().map(|record| record.sequence), Some(703));
    let report = log.offline();
    assert!(report.whole && report.first == 703 && report.records == 2, "{report:?}");
    assert_eq!(log.keeper.verify(None).unwrap(), report);
    let report = log.keeper.verify(Some(noted)).unwrap();
    assert!(report.whole, "the anchor still has the hash of record 702: {report:?}");
    log.fill(3);
    assert!(log.offline().whole);
    // The next start finds the end.
    let again = Chain::open(&*log.store).unwrap();
    assert_eq!(again.tip(), log.keeper.tip());
}

#[test]
fn pruning_by_size_takes_the_oldest_tenth_and_counts_from_what_is_left() {
    let log = Log::with(Arc::new(MemoryStore::new()), Settings { max_records: 1000, ..SETTINGS });
    log.fill(998);
    log.keeper.prune().unwrap();
    assert_eq!(log.records().len(), 1000);
    log.fill(1);
    log.keeper.tick().unwrap();
    assert_eq!(log.records().len(), 901, "900, and the record that says so");
    log.keeper.prune().unwrap();
    assert_eq!(log.records().len(), 901);

    let small = Log::with(Arc::new(MemoryStore::new()), Settings { max_bytes: 20_000, ..SETTINGS });
    small.fill(500);
    small.keeper.tick().unwrap();
    let bytes: u64 = RECORDS.iter(&*small.store).map(|entry| entry.unwrap().1.size()).sum();
    assert!((17_000..=18_500).contains(&bytes), "{bytes}");
    for log in [log, small] {
        assert!(log.offline().whole);
    }
}

#[test]
fn a_pruning_that_is_interrupted_anywhere_leaves_a_whole_chain_and_goes_on() {
    for n in 0..8 {
        let store = Arc::new(FaultyStore::new());
        let settings = Settings { max_records: 1000, ..SETTINGS };
        let log = Log::with(Arc::clone(&store) as Arc<dyn Store>, settings);
        log.fill(2000);
        store.fail_at(n, StoreFault::Refused);
        let _ = log.keeper.prune();
        let report = log.offline();
        assert!(report.whole, "operation {n}: {report:?}");
        log.keeper.prune().unwrap();
        assert!(log.records().len() < 1000, "operation {n}");
        assert!(log.offline().whole, "operation {n}");
    }
}

#[test]
fn a_log_that_was_tampered_with_is_not_pruned() {
    let log = Log::with(Arc::new(MemoryStore::new()), Settings { max_records: 1000, ..SETTINGS });
    log.fill(2000);
    let mut batch = Batch::new();
    batch.delete(&RECORDS, &50).unwrap();
    log.store.commit(batch).unwrap();
    assert!(matches!(log.keeper.prune(), Err(KeeperError::Damaged(51))));
    assert_eq!(RECORDS.iter(&*log.store).count(), 2001);
    assert_eq!(ANCHOR.get(&*log.store, &only()).unwrap(), None);
}

#[test]
fn the_key_is_made_once_in_private_files_and_never_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    assert!(AuditKey::load(home.path()).unwrap().is_none());
    let (key, made) = AuditKey::load_or_create(home.path()).unwrap();
    assert!(made);
    let mode = std::fs::metadata(home.path().join(AuditKey::FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (again, made) = AuditKey::load_or_create(home.path()).unwrap();
    assert!(!made && again.public() == key.public());
    let public = std::fs::read_to_string(home.path().join(AuditKey::PUBLIC_FILE)).unwrap();
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"), "{public}");
    std::fs::write(home.path().join(AuditKey::FILE), "nonsense").unwrap();
    assert!(matches!(AuditKey::load_or_create(home.path()), Err(KeyError::NotAKey(_))));
}

#[test]
fn a_user_is_compared_field_by_field_and_nothing_secret_is_told() {
    let old = NewUser { password_hash: Some("$argon2id$old".to_owned()), ..NewUser::named("alice".parse().unwrap()) }
        .into_user(UserId(Uuid::from_u128(1)), ManagedBy::Api);
    assert_eq!(user_change(Some(&old), &old), UserChange::default());
    let new = User {
        username: "bob".parse().unwrap(),
        description: "hunter2".to_owned(),
        auth: Auth::Either,
        password_hash: Some("$argon2id$new".to_owned()),
        roles: vec![RoleName::admin()],
        publish_prefix: Some("p/".to_owned()),
        client_id: Some("x*".to_owned()),
        expires_at: Some(Timestamp::MAX),
        ..old.clone()
    };
    let change = user_change(Some(&old), &new);
    let fields = serde_json::to_string(&change.fields).unwrap();
    assert_eq!(
        fields,
        r#"["roles","username","description","auth","password","publish_prefix","client_id","expires_at"]"#
    );
    let text = serde_json::to_string(&change).unwrap();
    assert!(!text.contains("argon2id") && !text.contains("hunter2"), "{text}");
    assert_eq!(change.renamed.as_ref().map(Username::as_str), Some("bob"));
}

/// What the log costs a commit, for people: `cargo test --release --lib what_the_log_costs -- --ignored --nocapture`.
#[test]
#[ignore = "measures; it holds nothing to a bound"]
fn what_the_log_costs() {
    const THREADS: usize = 64;
    const EACH: usize = 500;
    let home = tempfile::tempdir().unwrap();
    let store = crate::store::SledStore::open(home.path(), crate::store::Durability::Sync).unwrap();
    let directory = Directory::open(Arc::new(store), Arc::new(crate::clock::SystemClock)).unwrap();
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let directory = &directory;
            scope.spawn(move || {
                let name: Username = format!("user-{thread}").parse().unwrap();
                let id = directory.create_user(NewUser::named(name), &Actor::System).unwrap().id;
                for n in 0..EACH {
                    let edit = move |user: &mut User| user.enabled = n % 2 == 0;
                    directory.update_user(id, Expected::Any, edit, &Actor::System).unwrap();
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let changes = u32::try_from(THREADS * (EACH + 1)).unwrap();
    println!("{:.0} changes per second with records, {seconds:.2} s", f64::from(changes) / seconds);
    let begun = std::time::Instant::now();
    let mut sealing = directory.chain().sealing();
    let mut batch = Batch::new();
    let records = 100_000_u32;
    for _ in 0..records {
        let change = UserChange { fields: vec![Field::Enabled], enabled: Some(true), ..UserChange::default() };
        let event = Event::UserChanged { user: user_ref("alice"), old: 1, new: 2, change };
        sealing.add(&mut batch, Timestamp::UNIX_EPOCH, &Who::System, None, vec![event]).unwrap();
    }
    println!("{:.2} us to seal a record", begun.elapsed().as_secs_f64() * 1e6 / f64::from(records));
}

//! Changes that TLS, the disk or the clock has a word in: what they leave behind.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::access::UserId;
use crate::audit::Append as _;
use crate::clock::{Duration, ManualClock};
use crate::directory::NewUser;
use crate::store::MemoryStore;

/// Notes what it is told to trust, and refuses the first time that it is told to.
#[derive(Default)]
struct Tls {
    refuses: AtomicBool,
    trusted: Mutex<Vec<Vec<String>>>,
    changed: Mutex<Vec<(String, String)>>,
}

impl Tls {
    /// What connections are held against now.
    fn last(&self) -> Vec<String> {
        self.trusted.lock().last().cloned().unwrap()
    }
}

impl AuthorityListener for Tls {
    fn trust(&self, ca: &CertificateAuthority) -> Result<(), String> {
        // It is in force at some of the listeners before another one refuses.
        self.trusted.lock().push(ids(ca));
        if self.refuses.swap(false, Ordering::SeqCst) { Err("no".to_owned()) } else { Ok(()) }
    }

    fn changed(&self, before: &CertificateAuthority, ca: &CertificateAuthority) {
        self.changed.lock().push((before.issuer().id(), ca.issuer().id()));
    }
}

fn ids(ca: &CertificateAuthority) -> Vec<String> {
    ca.issuers().iter().map(IssuerCertificate::id).collect()
}

struct House {
    home: tempfile::TempDir,
    clock: ManualClock,
    directory: Arc<Directory>,
    store: Arc<MemoryStore>,
    authority: Authority,
    tls: Arc<Tls>,
}

impl House {
    fn new() -> Self {
        let (home, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        let clock = ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap());
        let directory = Arc::new(Directory::open(store.clone(), Arc::new(clock.clone())).unwrap());
        let tls = Arc::new(Tls::default());
        let authority = open(&home, &store, &directory, &clock);
        authority.set_listener(tls.clone());
        Self { home, clock, directory, store, authority, tls }
    }

    fn files(&self) -> Vec<Option<Vec<u8>>> {
        ["ca.pem", "ca.key", "ca.key.next"].map(|name| fs::read(self.home.path().join(name)).ok()).into()
    }

    fn ca(&self) -> Arc<CertificateAuthority> {
        self.authority.signers().load()
    }

    fn records(&self) -> u64 {
        self.directory.chain().tip().sequence
    }

    /// A user with a certificate in force of this issuer.
    fn user(&self, issuer: &str, until: Timestamp) -> UserId {
        let record = CertificateRecord {
            serial: "a1".to_owned(),
            fingerprint: "a1".repeat(32),
            key: None,
            not_before: self.clock.timestamp(),
            not_after: until,
            revoked_at: None,
            reason: None,
            comment: None,
            issuer: Some(issuer.to_owned()),
            replaces: None,
        };
        let new = NewUser { certificates: vec![record], ..NewUser::named("pump-7".parse().unwrap()) };
        self.directory.create_user(new, &Actor::System).unwrap().id
    }
}

fn open(
    home: &tempfile::TempDir,
    store: &Arc<MemoryStore>,
    directory: &Arc<Directory>,
    clock: &ManualClock,
) -> Authority {
    let files = AuthorityFiles {
        certificate: home.path().join("ca.pem"),
        key: home.path().join("ca.key"),
        passphrase: None,
        profile: Profile::default(),
    };
    let (ca, _) = CertificateAuthority::load_or_create(&files.files(), clock.timestamp()).unwrap();
    let (signers, metrics) = (Arc::new(Signers::new(ca)), Arc::new(Metrics::new()));
    Authority::open(files, signers, store.clone(), directory.clone(), Arc::new(clock.clone()), metrics).unwrap()
}

/// The error says that nothing changes: neither in the files, nor in what is trusted, nor on record.
#[test]
fn a_ca_that_tls_does_not_take_changes_nothing() {
    let house = House::new();
    let (first, files) = (ids(&house.ca()), house.files());
    house.tls.refuses.store(true, Ordering::SeqCst);
    let refused = house.authority.rotate(&Actor::System).unwrap_err();
    assert_eq!(refused.to_string(), "the CA cannot be used for TLS: no");
    assert_eq!((ids(&house.ca()), house.files(), house.tls.last()), (first.clone(), files, first.clone()));

    house.authority.rotate(&Actor::System).unwrap();
    let (both, files) = (ids(&house.ca()), house.files());
    assert_eq!((both.len(), &both[1]), (2, &first[0]));
    let user = house.user(&first[0], house.ca().former().unwrap().not_after());
    house.tls.refuses.store(true, Ordering::SeqCst);
    let refused = house.authority.retire(&first[0], true, &Actor::System);
    assert!(matches!(refused, Err(AuthorityError::Tls(_))), "{refused:?}");
    assert_eq!((ids(&house.ca()), house.files(), house.tls.last()), (both.clone(), files, both.clone()));
    assert!(house.directory.policy().revoked_issuers().is_empty());
    assert_eq!(house.tls.changed.lock().len(), 1);

    let in_use = house.authority.retire(&first[0], false, &Actor::System);
    assert!(matches!(in_use, Err(AuthorityError::InUse { certificates: 1, users: 1 })), "{in_use:?}");
    house.authority.retire(&first[0], true, &Actor::System).unwrap();
    let policy = house.directory.policy();
    assert!(policy.is_revoked(&policy.user(user).unwrap().certificates[0]));
    assert_eq!((ids(&house.ca()), house.tls.last()), (both[..1].to_vec(), both[..1].to_vec()));
}

#[test]
fn a_file_that_cannot_be_written_takes_the_trust_back() {
    let house = House::new();
    let first = ids(&house.ca());
    // A file is not written over a directory.
    let key = house.home.path().join("ca.key");
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    let refused = house.authority.rotate(&Actor::System);
    assert!(matches!(refused, Err(AuthorityError::Signer(SignerError::Write { .. }))), "{refused:?}");
    assert_eq!((ids(&house.ca()), house.tls.last()), (first.clone(), first));
    assert!(house.tls.changed.lock().is_empty());
}

#[test]
fn every_ca_that_ever_was_is_known_after_its_end_and_after_a_restart() {
    let house = House::new();
    let first = house.ca().issuer().clone();
    house.authority.rotate(&Actor::System).unwrap();
    house.authority.retire(&first.id(), false, &Actor::System).unwrap();
    let again = open(&house.home, &house.store, &house.directory, &house.clock);
    for lineage in [house.authority.lineage().unwrap(), again.lineage().unwrap()] {
        assert!(lineage.holds(first.der()) && lineage.has_identifier(&first.id()));
        assert!(lineage.holds(house.ca().issuer().der()));
    }
}

#[test]
fn a_former_ca_is_retired_by_the_clock_with_what_is_left_of_it() {
    let house = House::new();
    let first = house.ca().issuer().clone();
    house.clock.advance(Duration::from_hours(365 * 24));
    house.authority.rotate(&Actor::System).unwrap();
    // Longer than its CA: of a time when that was to be good for longer.
    let user = house.user(&first.id(), first.not_after().checked_add(Duration::from_hours(1)).unwrap());
    let left = first.not_after().duration_since(house.clock.timestamp());
    house.clock.advance(left.try_into().unwrap());
    let records = house.records();
    assert!(house.authority.tick().unwrap().is_none(), "its last second");
    assert_eq!(house.records(), records);
    house.clock.advance(Duration::from_secs(1));
    let alone = house.authority.tick().unwrap().expect("it is over");
    assert!(alone.former().is_none() && house.ca().former().is_none());
    assert_eq!(house.tls.last(), [alone.issuer().id()]);
    let policy = house.directory.policy();
    assert!(policy.is_revoked(&policy.user(user).unwrap().certificates[0]));
    assert!(house.records() > records, "the audit log says so");
    let records = house.records();
    assert!(house.authority.tick().unwrap().is_none());
    assert_eq!(house.records(), records, "once");
    let found = open(&house.home, &house.store, &house.directory, &house.clock);
    assert!(found.signers().load().former().is_none());
}

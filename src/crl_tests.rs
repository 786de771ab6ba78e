//! Lists over time and restarts: what is on them, when it leaves, and what number they have.

use std::collections::BTreeMap;

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::*;
use crate::access::{CertificateRecord, User, UserId};
use crate::clock::ManualClock;
use crate::directory::{Change, Expected, NewUser};
use crate::pki::CertificateAuthority;
use crate::store::MemoryStore;

const DAY: Duration = Duration::from_hours(24);

/// A broker without the broker: what a restart keeps is the store and the CA.
struct House {
    store: Arc<MemoryStore>,
    ca: Arc<CertificateAuthority>,
    clock: ManualClock,
    directory: Arc<Directory>,
    publisher: Arc<CrlPublisher>,
}

impl House {
    fn new() -> Self {
        let clock = ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap());
        let ca = Arc::new(CertificateAuthority::generate(clock.timestamp()).unwrap());
        Self::open(Arc::new(MemoryStore::new()), ca, clock)
    }

    fn open(store: Arc<MemoryStore>, ca: Arc<CertificateAuthority>, clock: ManualClock) -> Self {
        let directory = Arc::new(Directory::open(store.clone(), Arc::new(clock.clone())).unwrap());
        let publisher = CrlPublisher::new(
            store.clone(),
            directory.clone(),
            Arc::new(Signers::new(ca.clone())),
            Arc::new(clock.clone()),
            Arc::new(Metrics::new()),
            DAY * 7,
        );
        Self { store, ca, clock, directory, publisher: Arc::new(publisher) }
    }

    fn restart(self) -> Self {
        Self::open(self.store, self.ca, self.clock)
    }

    /// A user with certificates of these serials, good for so many days.
    fn user(&self, name: &str, serials: &[&str], days: u32) -> UserId {
        let now = self.clock.timestamp();
        let certificates = serials.iter().map(|serial| CertificateRecord {
            serial: (*serial).to_owned(),
            fingerprint: serial.repeat(16),
            key: None,
            not_before: now,
            not_after: now + DAY * days,
            revoked_at: None,
            reason: None,
            comment: None,
            issuer: Some(self.ca.issuer().id()),
            replaces: None,
        });
        let new = NewUser { certificates: certificates.collect(), ..NewUser::named(name.parse().unwrap()) };
        self.directory.create_user(new, &Actor::System).unwrap().id
    }

    fn revoke(&self, user: UserId, serial: &str, reason: RevocationReason) {
        let (at, serial) = (self.clock.timestamp(), serial.to_owned());
        let edit = move |user: &mut User| {
            let certificate = user.certificates.iter_mut().find(|it| it.serial == serial).unwrap();
            certificate.revoked_at = Some(at);
            certificate.reason = Some(reason);
        };
        self.directory.update_user(user, Expected::Any, edit, &Actor::System).unwrap();
    }

    /// Publishes, and reads the list as a stranger would.
    fn list(&self) -> (u64, BTreeMap<String, u8>) {
        self.publisher.publish().unwrap();
        let crl = self.publisher.current().unwrap();
        let (_, parsed) = CertificateRevocationList::from_der(crl.der()).unwrap();
        let entries: BTreeMap<_, _> = parsed
            .iter_revoked_certificates()
            .map(|it| {
                let serial = crate::pki::hex(it.raw_serial()).trim_start_matches("00").to_owned();
                (serial, it.reason_code().map_or(0, |(_, reason)| reason.0))
            })
            .collect();
        assert_eq!(entries.len(), usize::try_from(crl.entries()).unwrap());
        (crl.number(), entries)
    }
}

fn entries(of: &[(&str, u8)]) -> BTreeMap<String, u8> {
    of.iter().map(|(serial, reason)| ((*serial).to_owned(), *reason)).collect()
}

#[test]
fn a_list_tells_of_what_was_revoked_and_of_the_certificates_of_deleted_users() {
    let house = House::new();
    let one = house.user("one", &["a1", "a2"], 90);
    let two = house.user("two", &["b1"], 90);
    house.user("three", &["c1"], 90);
    assert_eq!(house.list(), (1, BTreeMap::new()));
    house.revoke(one, "a2", RevocationReason::KeyCompromise);
    assert_eq!(house.list(), (2, entries(&[("a2", 1)])));
    house.directory.delete_user(two, Expected::Any, &Actor::System).unwrap();
    house.directory.delete_user(one, Expected::Any, &Actor::System).unwrap();
    let all = entries(&[("a1", 5), ("a2", 1), ("b1", 5)]);
    assert_eq!(house.list(), (3, all.clone()));
    let house = house.restart();
    assert_eq!(house.list(), (4, all), "the number goes on, and nothing is forgotten");
}

#[test]
fn each_issuer_that_is_trusted_has_a_list_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("ca.pem"), home.path().join("ca.key"));
    let files = crate::pki::CaFiles::plain(&certificate, &key);
    let clock = ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap());
    let (old, _) = CertificateAuthority::load_or_create(&files, clock.timestamp()).unwrap();
    let house = House::open(Arc::new(MemoryStore::new()), Arc::new(old), clock);
    let one = house.user("one", &["a1"], 90);
    house.revoke(one, "a1", RevocationReason::KeyCompromise);
    assert_eq!(house.list(), (1, entries(&[("a1", 1)])));
    let both = Arc::new(house.ca.rotate(&files, house.clock.timestamp()).unwrap().write(&files).unwrap());
    house.publisher.signers().store(both.clone());
    assert!(house.publisher.is_due(), "the new one has none yet");
    house.publisher.publish().unwrap();
    let lists = house.publisher.watch().borrow().clone();
    let (new, former) = (&lists[&both.issuer().id()], &lists[&house.ca.issuer().id()]);
    assert_eq!((new.number(), new.entries(), former.number(), former.entries()), (1, 0, 2, 1));
    assert_eq!(house.publisher.current().as_ref(), Some(new));
    assert!(!house.publisher.is_due());
    let alone = both.retire(&files, &house.ca.issuer().id(), house.clock.timestamp()).unwrap();
    let alone = alone.write(&files).unwrap();
    house.publisher.signers().store(Arc::new(alone));
    house.publisher.publish().unwrap();
    assert_eq!(house.publisher.watch().borrow().keys().collect::<Vec<_>>(), [&both.issuer().id()]);
}

/// The former CA comes to its end while both are trusted: its list ends with it, and the other one goes on as if nothing were.
#[test]
fn a_former_issuer_whose_time_is_over_has_no_list_and_holds_up_no_other() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("ca.pem"), home.path().join("ca.key"));
    let files = crate::pki::CaFiles::plain(&certificate, &key);
    let clock = ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap());
    let (old, _) = CertificateAuthority::load_or_create(&files, clock.timestamp()).unwrap();
    let (old_id, end) = (old.issuer().id(), old.issuer().not_after());
    clock.advance(DAY * 365);
    let both = Arc::new(old.rotate(&files, clock.timestamp()).unwrap().write(&files).unwrap());
    let house = House::open(Arc::new(MemoryStore::new()), both.clone(), clock.clone());
    house.publisher.publish().unwrap();
    assert_eq!(house.publisher.watch().borrow().len(), 2);
    clock.advance(end.duration_since(clock.timestamp()).try_into().unwrap());
    assert_eq!(house.publisher.ready(true).len(), 1, "that of the one that issues");
    house.publisher.publish().unwrap();
    let lists = house.publisher.watch().borrow().clone();
    assert_eq!(lists.keys().collect::<Vec<_>>(), [&both.issuer().id()]);
    assert_ne!(both.issuer().id(), old_id);
    assert!(!house.publisher.is_due());
}

/// A key that signs no more: the other lists are made, and that one is tried less and less often.
#[test]
fn an_issuer_that_fails_holds_up_no_other_and_is_tried_less_and_less_often() {
    let house = House::new();
    let good = house.ca.issuer().clone();
    let bad = CertificateAuthority::generate(house.clock.timestamp() + DAY * 30).unwrap().issuer().clone();
    let tip = |house: &House| {
        use crate::audit::Append as _;
        house.directory.chain().tip().sequence
    };
    let attempt = |issuers: &[IssuerCertificate]| house.publisher.publish_of(issuers);
    assert!(attempt(&[bad.clone(), good.clone()]).is_err());
    assert_eq!(house.publisher.watch().borrow().keys().collect::<Vec<_>>(), [&good.id()], "after the one that fails");
    // It is none of this CA's issuers, so it is forgotten; as one of them it would wait.
    assert!(house.publisher.failures.lock().is_empty());
    let records = tip(&house);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        house.publisher.failed(&good, &CrlError::Profile(ProfileError::CrlSign));
        let failure = house.publisher.failures.lock()[&good.id()];
        pauses.push(failure.retry_after.as_secs());
        assert!(!house.publisher.is_due() && house.publisher.ready(false).is_empty());
        house.clock.advance(failure.retry_after);
        assert!(house.publisher.is_due(), "however good the list in force is");
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    assert_eq!(tip(&house), records);
    house.publisher.publish().unwrap();
    assert!(house.publisher.failures.lock().is_empty() && !house.publisher.is_due());
}

#[test]
fn a_certificate_leaves_after_one_scheduled_list_of_after_its_end() {
    let house = House::new();
    let user = house.user("one", &["a1"], 10);
    house.user("two", &["b1"], 90);
    house.list();
    house.revoke(user, "a1", RevocationReason::Superseded);
    house.clock.advance(DAY * 9);
    assert_eq!(house.list().1, entries(&[("a1", 4)]), "scheduled, and before its end");
    house.clock.advance(DAY * 2);
    assert_eq!(house.list().1, entries(&[("a1", 4)]), "after its end, and not scheduled");
    assert_eq!(house.list().1, entries(&[("a1", 4)]));
    let house = house.restart();
    house.clock.advance(DAY * 2);
    assert_eq!(house.list().1, entries(&[("a1", 4)]), "RFC 5280 3.3: the scheduled one of after its end has it");
    assert_eq!(house.list().1, BTreeMap::new());
    let (gone, now) = (house.user("late", &["d1"], 0), house.clock.timestamp());
    house.clock.advance(DAY);
    assert!(house.clock.timestamp() > now);
    house.directory.delete_user(gone, Expected::Any, &Actor::System).unwrap();
    assert_eq!(house.list().1, BTreeMap::new(), "what has expired needs no list");
}

#[test]
fn with_an_issuer_all_that_it_has_issued_is_on_the_list() {
    let house = House::new();
    let one = house.user("one", &["a1", "a2"], 90);
    house.user("two", &["b1"], 90);
    house.revoke(one, "a1", RevocationReason::KeyCompromise);
    let revoke = |issuer: String| {
        let change = Change::RevokeIssuer { issuer, reason: RevocationReason::CaCompromise, comment: None };
        house.directory.commit(change.into(), &Actor::System)
    };
    revoke("00ff".to_owned()).unwrap();
    assert_eq!(house.list().1, entries(&[("a1", 1)]), "another issuer");
    revoke(house.ca.issuer().id()).unwrap();
    assert_eq!(house.list().1, entries(&[("a1", 1), ("a2", 2), ("b1", 2)]));
    assert!(revoke(house.ca.issuer().id()).unwrap_err().to_string().contains("was revoked at"));
    let policy = house.directory.policy();
    assert!(policy.users().flat_map(|user| &user.certificates).all(|certificate| policy.is_revoked(certificate)));
    let house = house.restart();
    assert!(house.directory.policy().is_issuer_revoked(&house.ca.issuer().id()));
    assert_eq!(house.list().1.len(), 3);
}

#[test]
fn nothing_revoked_comes_to_life() {
    let house = House::new();
    let user = house.user("one", &["a1"], 90);
    house.revoke(user, "a1", RevocationReason::KeyCompromise);
    let edit = |user: &mut User| user.certificates[0].revoked_at = None;
    let refused = house.directory.update_user(user, Expected::Any, edit, &Actor::System).unwrap_err();
    assert!(refused.to_string().contains("stays so"), "{refused}");
    assert_eq!(house.list().1.len(), 1);
}

#[test]
fn a_list_is_due_at_half_its_time_and_when_the_clock_was_set_back() {
    let house = House::new();
    assert!(house.publisher.is_due());
    house.list();
    assert!(!house.publisher.is_due());
    house.clock.advance(Duration::from_secs(7 * 86_400 / 2 - 1));
    assert!(!house.publisher.is_due());
    house.clock.advance(Duration::from_secs(1));
    assert!(house.publisher.is_due());
    assert!(house.publisher.is_over(house.clock.timestamp() + DAY, house.clock.timestamp()));
}

#[test]
fn thousands_of_revocations_are_read_in_pages() {
    let house = House::new();
    let serials: Vec<String> = (1..=60_u32).map(|n| format!("{n:04x}")).collect();
    for batch in 0..50_u32 {
        let prefixed: Vec<String> = serials.iter().map(|serial| format!("{:02x}{serial}", batch + 1)).collect();
        let prefixed: Vec<&str> = prefixed.iter().map(String::as_str).collect();
        let user = house.user(&format!("user-{batch}"), &prefixed, 90);
        house.directory.delete_user(user, Expected::Any, &Actor::System).unwrap();
    }
    assert_eq!(house.list().1.len(), 3000);
}

/// Waits for the next list, however slow the machine is.
async fn next(lists: &mut watch::Receiver<Lists>) -> Crl {
    lists.changed().await.unwrap();
    lists.borrow_and_update().values().next().cloned().unwrap()
}

#[tokio::test]
async fn many_revocations_share_a_list_and_the_clock_makes_one() {
    let house = House::new();
    let serials: Vec<String> = (1..=50_u8).map(|n| format!("{n:02x}")).collect();
    let user = house.user("one", &serials.iter().map(String::as_str).collect::<Vec<_>>(), 90);
    let mut lists = house.publisher.watch();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&house.publisher).run(stopped));
    assert_eq!(next(&mut lists).await.number(), 1);
    for serial in &serials {
        house.revoke(user, serial, RevocationReason::Superseded);
    }
    let mut last = next(&mut lists).await;
    while last.entries() < 50 {
        last = next(&mut lists).await;
    }
    assert!(last.number() < 10, "{} lists for 50 revocations", last.number());
    house.clock.advance(DAY * 4);
    let refreshed = next(&mut lists).await;
    assert_eq!((refreshed.number(), refreshed.entries()), (last.number() + 1, 50));
    stop.send_replace(true);
    running.await.unwrap();
}

#[tokio::test]
async fn a_revocation_after_a_quiet_time_makes_a_list() {
    let house = House::new();
    let user = house.user("one", &["01"], 90);
    let mut lists = house.publisher.watch();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&house.publisher).run(stopped));
    assert_eq!(next(&mut lists).await.entries(), 0);
    // Long enough that it waits for nothing but this. On a slow machine it may not: then it sees the revocation sooner.
    tokio::time::sleep(GAP + LOOK / 2).await;
    house.revoke(user, "01", RevocationReason::KeyCompromise);
    let told = tokio::time::timeout(Duration::from_mins(1), next(&mut lists)).await;
    assert_eq!(told.expect("there is a list").entries(), 1);
    stop.send_replace(true);
    running.await.unwrap();
}

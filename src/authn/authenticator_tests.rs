//! Attacks on the login, and the rules that they run into.

use std::pin::Pin;

use super::super::testing::{Directory, certificate, record, time, user};
use super::super::{Anchor, Argon2Parameters, HasherSettings, PasswordHash};
use super::*;
use crate::clock::{Duration, ManualClock};
use crate::mqtt::ReasonCode;
use crate::pki::NamingError;

const HOME: Source = Source::V6(1);

type Outcome = Result<Identity, Refusal>;

struct World {
    directory: Directory,
    authenticator: Authenticator,
    clock: ManualClock,
    metrics: Arc<Metrics>,
}

fn cheap() -> Argon2Parameters {
    Argon2Parameters::new(8, 1, 1).unwrap()
}

fn hash(password: &str) -> String {
    PasswordHash::of(password.as_bytes(), cheap()).unwrap().as_str().to_owned()
}

impl World {
    /// `device` with the password `right` and the certificate `aa`; `gone` is nobody.
    fn new(auth: Auth) -> Self {
        Self::with(auth, HasherSettings { parameters: cheap(), ..HasherSettings::default() })
    }

    fn with(auth: Auth, hasher: HasherSettings) -> Self {
        let (clock, metrics) = (ManualClock::new(time(50)), Arc::new(Metrics::new()));
        let hasher = Arc::new(Hasher::start(hasher, Arc::clone(&metrics)).unwrap());
        let settings = AuthenticatorSettings::default();
        let authenticator =
            Authenticator::new(settings, hasher, Arc::new(clock.clone()), Arc::clone(&metrics)).unwrap();
        let directory = Directory::default();
        directory.add(User {
            auth,
            password_hash: Some(hash("right")),
            certificates: vec![record("aa")],
            ..user("device")
        });
        Self { directory, authenticator, clock, metrics }
    }

    async fn present(&self, credentials: Credentials<'_>) -> Result<Identity, Refusal> {
        self.authenticator.authenticate(|| self.directory.snapshot(), &credentials).await
    }

    async fn login_from(&self, source: Source, name: &str, password: &str) -> Result<Identity, Refusal> {
        let (username, password) = (Some(name), Some(password.as_bytes()));
        self.present(Credentials { username, password, certificate: None, source }).await
    }

    async fn login(&self, name: &str, password: &str) -> Result<Identity, Refusal> {
        self.login_from(HOME, name, password).await
    }

    /// With the certificate `aa` of `device`, and a password if one is given.
    async fn certified(&self, username: Option<&str>, password: Option<&str>) -> Result<Identity, Refusal> {
        let certificate = Arc::new(certificate("device", "aa"));
        let (password, certificate) = (password.map(str::as_bytes), Some(&certificate));
        self.present(Credentials { username, password, certificate, source: HOME }).await
    }

    /// A login with the right password; `meanwhile` happens while argon2 runs.
    async fn login_while(&self, meanwhile: impl FnOnce(&Directory)) -> Result<Identity, Refusal> {
        let hasher = self.authenticator.hasher();
        let stalled = hasher.stall();
        let change = async {
            while hasher.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            meanwhile(&self.directory);
            drop(stalled);
        };
        tokio::join!(self.login("device", "right"), change).0
    }

    /// A login that waits for argon2, and whose client may hang up: when the value is dropped.
    async fn waiting(&self, source: Source, password: &'static str) -> Pin<Box<impl Future<Output = Outcome>>> {
        let mut attempt = Box::pin(self.login_from(source, "device", password));
        tokio::select! {
            biased;
            refused = &mut attempt => panic!("{:?}", refused.map(drop)),
            () = std::future::ready(()) => {}
        }
        attempt
    }

    fn count(&self, outcome: AuthenticationOutcome) -> u64 {
        self.metrics.authentications.get(outcome)
    }
}

/// An attacker who fills the queue and hangs up, a client that has no patience: neither is charged, and neither keeps
/// anybody out.
#[tokio::test]
async fn who_hangs_up_before_argon2_begins_costs_nothing_and_is_not_charged() {
    let world = World::new(Auth::Password);
    let stalled = world.authenticator.hasher().stall();
    for number in 0..2_000 {
        drop(world.waiting(Source::V6(number), "wrong").await);
    }
    for _ in 0..2_000 {
        drop(world.waiting(HOME, "wrong").await);
    }
    let honest = world.waiting(HOME, "right").await;
    drop(stalled);
    let login = honest.await;
    assert!(login.is_ok(), "{:?}", login.map(drop));
}

/// Hanging up is no way to guess for nothing.
#[tokio::test]
async fn who_hangs_up_when_argon2_has_begun_is_charged() {
    let world = World::new(Auth::Password);
    let hasher = world.authenticator.hasher();
    for number in 0..10 {
        let stalled = hasher.stall();
        let attempt = world.waiting(Source::V6(100 + number % 4), "wrong").await;
        drop(stalled);
        // There is one thread, and one queue for both: it is done with the attempt when it has done this.
        assert_eq!(hasher.verify(Lane::Login, Source::Local, b"x", None).await, Ok(false));
        drop(attempt);
    }
    for number in 100..102 {
        let refused = world.login_from(Source::V6(number), "device", "wrong").await.unwrap_err();
        assert_eq!(refused, Refusal::Busy(Cause::Throttled));
    }
}

fn bad(cause: Cause) -> Refusal {
    Refusal::BadCredentials(cause)
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let world = World::new(Auth::Password);
    let (wrong, unknown) = (world.login("device", "wrong").await, world.login("gone", "wrong").await);
    let (wrong, unknown) = (wrong.unwrap_err(), unknown.unwrap_err());
    assert_eq!((wrong, unknown), (bad(Cause::WrongPassword), bad(Cause::UnknownUser)));
    assert_eq!((wrong.code(), wrong.to_string()), (unknown.code(), unknown.to_string()));
    assert_eq!(wrong.code(), ReasonCode::BadUserNameOrPassword);
}

/// Counted in hashes, not in time: each of these must pass through the argon2 queue.
#[tokio::test]
async fn every_refused_password_costs_one_hash_whoever_it_is_for() {
    let world = World::new(Auth::Password);
    world.directory.add(User { password_hash: None, ..user("without") });
    world.directory.add(User { auth: Auth::Certificate, password_hash: Some(hash("right")), ..user("certified") });
    world.directory.add(User { auth: Auth::Both, password_hash: Some(hash("right")), ..user("both") });
    world.directory.add(User { auth: Auth::None, password_hash: Some(hash("right")), ..user("guest") });
    world.directory.add(User { enabled: false, password_hash: Some(hash("right")), ..user("disabled") });
    world.directory.add(User { password_hash: Some("garbage".into()), ..user("broken") });
    let hasher = world.authenticator.hasher();
    for (name, password, cause) in [
        ("gone", "right", Cause::UnknownUser),
        ("device", "wrong", Cause::WrongPassword),
        ("without", "right", Cause::NoPassword),
        ("certified", "right", Cause::ProofNotAdmitted),
        ("both", "right", Cause::ProofNotAdmitted),
        ("guest", "right", Cause::ProofNotAdmitted),
        ("disabled", "wrong", Cause::WrongPassword),
        ("broken", "right", Cause::WrongPassword),
    ] {
        let stalled = hasher.stall();
        let seen = async {
            while hasher.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            drop(stalled);
        };
        let attempt = async { tokio::join!(world.login(name, password), seen).0 };
        let refused = tokio::time::timeout(Duration::from_secs(20), attempt).await;
        assert_eq!(refused.expect("it is queued").unwrap_err(), bad(cause), "{name}");
    }
}

#[tokio::test]
async fn whoever_is_disabled_or_expired_is_told_so_only_after_proof() {
    let world = World::new(Auth::Either);
    world.directory.change("device", |user| user.enabled = false);
    assert_eq!(world.login("device", "wrong").await.unwrap_err(), bad(Cause::WrongPassword));
    let disabled = world.login("device", "right").await.unwrap_err();
    assert_eq!(disabled, Refusal::NotAuthorized(Cause::Disabled));
    assert_eq!(disabled.code(), ReasonCode::NotAuthorized);
    assert_eq!(world.certified(None, None).await.unwrap_err(), disabled);
    world.directory.change("device", |user| (user.enabled, user.expires_at) = (true, Some(time(50))));
    assert_eq!(world.login("device", "wrong").await.unwrap_err(), bad(Cause::WrongPassword));
    assert_eq!(world.login("device", "right").await.unwrap_err(), Refusal::NotAuthorized(Cause::UserExpired));
    world.directory.change("device", |user| user.expires_at = Some(time(51)));
    assert_eq!(world.login("device", "right").await.unwrap().session_must_end_by(), Some(time(51)));
}

#[tokio::test]
async fn a_password_changed_while_it_is_checked_admits_nobody() {
    let world = World::new(Auth::Password);
    let refused =
        world.login_while(|directory| directory.change("device", |user| user.password_hash = Some(hash("new"))));
    assert_eq!(refused.await.unwrap_err(), bad(Cause::PasswordChanged));
    assert_eq!(world.login("device", "right").await.unwrap_err(), bad(Cause::WrongPassword));
    // Set again to the same password: still another credential.
    world.directory.change("device", |user| user.password_hash = Some(hash("right")));
    let refused =
        world.login_while(|directory| directory.change("device", |user| user.password_hash = Some(hash("right"))));
    assert_eq!(refused.await.unwrap_err(), bad(Cause::PasswordChanged));
}

#[tokio::test]
async fn a_user_disabled_expired_deleted_or_replaced_while_its_password_is_checked_is_refused() {
    let world = World::new(Auth::Password);
    let refused = world.login_while(|directory| directory.change("device", |user| user.enabled = false)).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotAuthorized(Cause::Disabled));

    let world = World::new(Auth::Password);
    world.directory.change("device", |user| user.expires_at = Some(time(60)));
    let refused = world.login_while(|_| world.clock.advance(Duration::from_secs(10))).await;
    assert_eq!(refused.unwrap_err(), Refusal::NotAuthorized(Cause::UserExpired));

    let world = World::new(Auth::Password);
    let refused = world.login_while(|directory| directory.change("device", |user| user.auth = Auth::Certificate)).await;
    assert_eq!(refused.unwrap_err(), bad(Cause::ProofNotAdmitted));

    let world = World::new(Auth::Password);
    let refused = world.login_while(|directory| {
        directory.delete("device");
        directory.add(User { password_hash: Some(hash("right")), ..user("device") });
    });
    assert_eq!(refused.await.unwrap_err(), bad(Cause::UnknownUser), "the later user of the name inherits nothing");
}

#[tokio::test]
async fn a_change_that_does_not_touch_the_login_does_not_disturb_it() {
    let world = World::new(Auth::Password);
    let admitted = world.login_while(|directory| directory.change("device", |user| user.description = "new".into()));
    assert!(admitted.await.is_ok());
}

#[tokio::test]
async fn a_fleet_that_comes_back_is_let_in_without_argon2_until_its_user_changes() {
    let world = World::new(Auth::Password);
    world.login("device", "right").await.unwrap();
    let stalled = world.authenticator.hasher().stall();
    for number in 0..1000 {
        world.login_from(Source::V6(number), "device", "right").await.unwrap();
    }
    drop(stalled);
    assert_eq!(world.count(AuthenticationOutcome::RememberedPassword), 1000);
    assert_eq!(world.login("device", "wrong").await.unwrap_err(), bad(Cause::WrongPassword));
    world.directory.change("device", |user| user.password_hash = Some(hash("new")));
    assert_eq!(world.login("device", "right").await.unwrap_err(), bad(Cause::WrongPassword));
    assert!(world.login("device", "new").await.is_ok());
    world.directory.change("device", |user| user.enabled = false);
    assert_eq!(world.login("device", "new").await.unwrap_err(), Refusal::NotAuthorized(Cause::Disabled));
}

#[tokio::test]
async fn a_remembered_password_opens_no_user_of_another_kind() {
    let world = World::new(Auth::Password);
    world.login("device", "right").await.unwrap();
    world.directory.change("device", |user| user.auth = Auth::Certificate);
    assert_eq!(world.login("device", "right").await.unwrap_err(), bad(Cause::ProofNotAdmitted));
}

#[tokio::test]
async fn a_full_queue_tells_known_and_unknown_users_alike_that_it_is_busy() {
    let world =
        World::with(Auth::Password, HasherSettings { parameters: cheap(), login: 0, ..HasherSettings::default() });
    for (name, password) in [("device", "right"), ("device", "wrong"), ("gone", "right")] {
        let busy = world.login(name, password).await.unwrap_err();
        assert_eq!((busy, busy.code()), (Refusal::Busy(Cause::QueueFull), ReasonCode::ServerBusy), "{name}");
    }
    assert_eq!(world.count(AuthenticationOutcome::Busy), 3);
}

#[tokio::test]
async fn guessing_slows_down_for_known_and_unknown_users_alike_and_locks_nobody_out() {
    let world = World::new(Auth::Password);
    world.login("device", "right").await.unwrap();
    for name in ["device", "gone"] {
        let mut checked = 0;
        for guess in 0..30 {
            let refused = world.login_from(Source::V6(100 + guess % 3), name, "guess").await.unwrap_err();
            checked += usize::from(refused != Refusal::Busy(Cause::Throttled));
        }
        assert_eq!(checked, 10, "{name}");
    }
    // The right guess is not told from a wrong one, though the password is remembered: or a thousand in a second could be tried.
    let guessed = world.login_from(Source::V6(100), "device", "right").await;
    assert_eq!(guessed.unwrap_err(), Refusal::Busy(Cause::Throttled));
    assert!(world.login("device", "right").await.is_ok());
    // Even if its proof is forgotten, where it is at home it is heard; and the right guess is not told from a wrong one.
    world.directory.change("device", |user| user.description = "changed".into());
    let guessed = world.login_from(Source::V6(100), "device", "right").await;
    assert_eq!(guessed.unwrap_err(), Refusal::Busy(Cause::Throttled));
    assert!(world.login("device", "right").await.is_ok());
    // Where it never was, and nobody guessed from, it is heard as well.
    world.directory.change("device", |user| user.description = "changed again".into());
    assert!(world.login_from(Source::V6(130), "device", "right").await.is_ok());
}

/// Who shares the address of a user has more guesses, and no more than that.
#[tokio::test]
async fn a_remembered_password_is_no_oracle_where_its_user_is_at_home() {
    let world = World::new(Auth::Password);
    world.login("device", "right").await.unwrap();
    while world.login("device", "wrong").await.unwrap_err() != Refusal::Busy(Cause::Throttled) {}
    assert_eq!(world.login("device", "right").await.unwrap_err(), Refusal::Busy(Cause::Throttled));
    world.clock.advance(Duration::from_secs(6));
    assert!(world.login("device", "right").await.is_ok(), "and it waits for some seconds, not more");
}

#[tokio::test]
async fn who_was_at_home_before_a_restart_is_heard_after_it_however_much_is_guessed_from_there() {
    let world = World::new(Auth::Password);
    let device: Username = "device".parse().unwrap();
    world.authenticator.spare([(device, HOME)]);
    for guess in 0..30 {
        world.login(&format!("nobody-{guess}"), "guess").await.unwrap_err();
    }
    assert_eq!(world.login("gone", "guess").await.unwrap_err(), Refusal::Busy(Cause::Throttled));
    assert!(world.login("device", "right").await.is_ok());
}

#[tokio::test]
async fn guesses_from_everywhere_keep_nobody_out_of_where_it_is_known() {
    let settings = HasherSettings { parameters: cheap(), login: 8, ..HasherSettings::default() };
    let world = Arc::new(World::with(Auth::Password, settings));
    world.login("device", "right").await.unwrap();
    // Known by its remembered proof alone, elsewhere.
    let elsewhere = Source::V6(1);
    world.login_from(elsewhere, "device", "right").await.unwrap();
    world.directory.change("device", |user| user.description = "changed".into());
    let stalled = world.authenticator.hasher().stall();
    let mut flood = tokio::task::JoinSet::new();
    for source in 100..120 {
        let world = Arc::clone(&world);
        flood.spawn(async move { world.login_from(Source::V6(source), &format!("nobody-{source}"), "guess").await });
    }
    while world.authenticator.hasher().waiting() < 8 {
        tokio::task::yield_now().await;
    }
    let stranger = world.login_from(Source::V6(2), "device", "right").await;
    assert_eq!(stranger.unwrap_err(), Refusal::Busy(Cause::QueueFull));
    let (home, other) = (world.login("device", "right"), world.login_from(elsewhere, "device", "right"));
    let release = async { drop(stalled) };
    let (home, other, ()) = tokio::join!(home, other, release);
    assert!(home.is_ok() && other.is_ok());
    while flood.join_next().await.is_some() {}
}

#[tokio::test]
async fn who_hangs_up_is_not_counted_as_a_guesser() {
    let world = World::new(Auth::Password);
    let stalled = world.authenticator.hasher().stall();
    for _ in 0..100 {
        let attempt = world.login("device", "wrong");
        assert!(tokio::time::timeout(Duration::from_millis(1), attempt).await.is_err());
    }
    drop(stalled);
    assert_eq!(world.login("device", "wrong").await.unwrap_err(), bad(Cause::WrongPassword));
}

#[tokio::test]
async fn each_kind_of_user_needs_its_proof() {
    let (password, certificate, both) = (Ok(Proof::Password), Ok(Proof::Certificate), Ok(Proof::Both));
    let refused = |cause| Err(bad(cause));
    let not_admitted = || refused(Cause::ProofNotAdmitted);
    // By password; by certificate; by both; by certificate and a wrong password.
    for (auth, by_password, by_certificate, by_both, and_wrong) in [
        (Auth::Password, password, not_admitted(), password, refused(Cause::WrongPassword)),
        (Auth::Certificate, not_admitted(), certificate, certificate, certificate),
        (Auth::Either, password, certificate, certificate, certificate),
        (Auth::Both, not_admitted(), refused(Cause::ProofMissing), both, refused(Cause::WrongPassword)),
        (Auth::None, not_admitted(), not_admitted(), not_admitted(), not_admitted()),
    ] {
        let world = World::new(auth);
        let proof = |result: Result<Identity, Refusal>| result.map(|identity| identity.proof());
        assert_eq!(proof(world.login("device", "right").await), by_password, "{auth:?}");
        assert_eq!(proof(world.certified(None, None).await), by_certificate, "{auth:?}");
        assert_eq!(proof(world.certified(Some("device"), None).await), by_certificate, "{auth:?}");
        assert_eq!(proof(world.certified(Some("device"), Some("right")).await), by_both, "{auth:?}");
        assert_eq!(proof(world.certified(Some("device"), Some("wrong")).await), and_wrong, "{auth:?}");
    }
}

#[tokio::test]
async fn a_certificate_speaks_for_no_other_name() {
    let world = World::new(Auth::Either);
    world.directory.add(User { password_hash: Some(hash("right")), ..user("other") });
    let mismatch = bad(Cause::CertificateNameMismatch);
    assert_eq!(world.certified(Some("other"), None).await.unwrap_err(), mismatch);
    assert_eq!(world.certified(Some("other"), Some("right")).await.unwrap_err(), mismatch);
    assert_eq!(world.certified(Some("Device"), None).await.unwrap_err(), mismatch, "names are compared exactly");
    let nameless = Arc::new(ClientCertificate { username: Err(NamingError::NoUri), ..certificate("device", "aa") });
    for username in [None, Some("device")] {
        let password = Some(b"right".as_slice());
        let refused = world.present(Credentials { username, password, certificate: Some(&nameless), source: HOME });
        assert_eq!(refused.await.unwrap_err(), bad(Cause::CertificateNamesNobody));
    }
}

#[tokio::test]
async fn a_certificate_without_a_user_off_record_revoked_or_expired_is_refused() {
    let world = World::new(Auth::Certificate);
    let present = async |certificate: ClientCertificate| {
        let certificate = Arc::new(certificate);
        let (username, password) = (None, None);
        world.present(Credentials { username, password, certificate: Some(&certificate), source: HOME }).await
    };
    assert_eq!(present(certificate("nobody", "aa")).await.unwrap_err(), bad(Cause::UnknownUser));
    assert_eq!(present(certificate("device", "bb")).await.unwrap_err(), bad(Cause::CertificateNotOnRecord));
    let foreign = ClientCertificate {
        anchor: Anchor::Extra("partner-*".to_owned().try_into().unwrap()),
        ..certificate("device", "aa")
    };
    assert_eq!(present(foreign).await.unwrap_err(), bad(Cause::CertificateNameNotAdmitted));
    let admitted = present(certificate("device", "aa")).await.unwrap();
    assert_eq!(admitted.session_must_end_by(), Some(time(100)), "a session never outlives its certificate");
    world.clock.advance(Duration::from_secs(51));
    assert_eq!(present(certificate("device", "aa")).await.unwrap_err(), bad(Cause::CertificateExpired));
    world.directory.change("device", |user| user.certificates[0].revoked_at = Some(time(50)));
    let fresh = ClientCertificate { not_after: time(200), ..certificate("device", "aa") };
    assert_eq!(present(fresh).await.unwrap_err(), bad(Cause::CertificateRevoked));
}

#[tokio::test]
async fn nothing_or_half_of_it_is_no_proof() {
    let world = World::new(Auth::Password);
    let present = async |username: Option<&str>, password: Option<&str>| {
        let password = password.map(str::as_bytes);
        let certificate = None;
        world.present(Credentials { username, password, certificate, source: HOME }).await.unwrap_err().code()
    };
    let nul = "device\0";
    for (username, password) in [
        (None, None),
        (None, Some("right")),
        (Some("device"), None),
        (Some("gone"), None),
        (Some(""), Some("")),
        (Some(nul), Some("right")),
        (Some("device"), Some("")),
    ] {
        assert_eq!(present(username, password).await, ReasonCode::BadUserNameOrPassword, "{username:?}");
    }
    let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
    assert_eq!(present(Some("device"), Some(&long)).await, ReasonCode::BadUserNameOrPassword);
}

#[tokio::test]
async fn a_live_identity_falls_with_what_it_stands_on() {
    let world = World::new(Auth::Both);
    let identity = world.certified(Some("device"), Some("right")).await.unwrap();
    let check = |now| identity.check(&*world.directory.snapshot(), time(now));
    assert_eq!(check(50), Ok(Some(time(100))));
    assert_eq!(check(101).unwrap_err(), bad(Cause::CertificateExpired));
    world.directory.change("device", |user| user.certificates[0].revoked_at = Some(time(50)));
    assert_eq!(check(50).unwrap_err(), bad(Cause::CertificateRevoked));
    world.directory.change("device", |user| user.certificates[0].revoked_at = None);
    world.directory.change("device", |user| user.password_hash = Some(hash("right")));
    assert_eq!(check(50).unwrap_err(), bad(Cause::PasswordChanged));
    world.directory.change("device", |user| user.password_hash = None);
    assert_eq!(check(50).unwrap_err(), bad(Cause::PasswordChanged));
    world.directory.delete("device");
    assert_eq!(check(50).unwrap_err(), bad(Cause::UnknownUser));
}

#[tokio::test]
async fn an_anonymous_identity_is_only_ever_a_user_without_proofs() {
    let world = World::new(Auth::Password);
    world.directory.add(User { auth: Auth::None, ..user("guest") });
    let anonymous = |name: &str| Identity::anonymous(&*world.directory.snapshot(), &name.parse().unwrap(), time(50));
    assert_eq!(anonymous("device").unwrap_err(), bad(Cause::ProofNotAdmitted));
    assert_eq!(anonymous("gone").unwrap_err(), bad(Cause::UnknownUser));
    let guest = anonymous("guest").unwrap();
    assert_eq!(guest.proof(), Proof::Anonymous);
    world.directory.change("guest", |user| user.auth = Auth::Password);
    assert_eq!(guest.check(&*world.directory.snapshot(), time(50)).unwrap_err(), bad(Cause::ProofNotAdmitted));
    world.directory.change("guest", |user| (user.auth, user.enabled) = (Auth::None, false));
    assert_eq!(anonymous("guest").unwrap_err(), Refusal::NotAuthorized(Cause::Disabled));
}

#[tokio::test]
async fn no_debug_output_shows_a_password() {
    let credentials =
        Credentials { username: Some("device"), password: Some(b"hunter2"), certificate: None, source: HOME };
    let shown = format!("{credentials:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    let world = World::new(Auth::Password);
    let shown = format!("{:?}", world.login("device", "right").await.unwrap());
    assert!(!shown.contains("argon2"), "{shown}");
}

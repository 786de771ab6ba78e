//! A million revoked certificates: the list of them, and what a handshake pays for asking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::access::{Auth, CertificateRecord, ManagedBy, RevocationReason, User, UserId};
use portcullis::authn::{
    Anchor, Authenticator, AuthenticatorSettings, ClientCertificate, Credentials, Hasher, HasherSettings, Source,
};
use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::crl::{CrlPublisher, DEFAULT_VALIDITY};
use portcullis::directory::{Actor, Change, Directory, Expected, NewUser, Transaction};
use portcullis::metrics::Metrics;
use portcullis::pki::{CertificateAuthority, Signer as _, Signers, hex, sha256};
use portcullis::store::{MemoryStore, Store};

use super::{Failure, memory, percentile};

const USERS: usize = 20_000;
const OF_EACH: usize = 50;
/// Users in one transaction.
const CHUNK: usize = 100;
const ROUNDS: usize = 7;
const CHECKS: u32 = 100_000;

fn record(number: usize, issuer: &str, now: Timestamp, revoked: bool) -> Result<CertificateRecord, Failure> {
    let digest = hex(&sha256(&number.to_be_bytes()));
    Ok(CertificateRecord {
        serial: digest.chars().take(32).collect(),
        fingerprint: digest,
        key: None,
        not_before: now,
        not_after: now.checked_add(Duration::from_hours(90 * 24))?,
        revoked_at: revoked.then_some(now),
        reason: revoked.then_some(RevocationReason::KeyCompromise),
        comment: None,
        issuer: Some(issuer.to_owned()),
        replaces: None,
    })
}

pub(super) async fn measure() -> Result<(), Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = Arc::new(Signers::new(CertificateAuthority::generate(clock.timestamp())?));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let directory = Arc::new(Directory::open(Arc::clone(&store), Arc::clone(&clock))?);
    let (issuer, now) = (ca.load().issuer().id(), clock.timestamp());
    // One user whose certificate is good, and who has some that are not.
    let put = |user: User, expected| Change::PutUser { user: Box::new(user), expected };
    let new = |name: String, certificates| -> Result<User, Failure> {
        let new = NewUser { auth: Auth::Certificate, certificates, ..NewUser::named(name.parse()?) };
        Ok(new.into_user(UserId(uuid::Uuid::now_v7()), ManagedBy::Registry))
    };
    let good = record(usize::MAX, &issuer, now, false)?;
    let fingerprint = good.fingerprint.clone();
    let not_after = good.not_after;
    directory.commit(put(new("the-good-one".into(), vec![good])?, Expected::Absent).into(), &Actor::System)?;
    let certificate = Arc::new(ClientCertificate {
        username: Ok("the-good-one".parse()?),
        fingerprint,
        not_before: now,
        not_after,
        anchor: Anchor::Own,
        issuers: vec![issuer.clone()],
    });
    let metrics = Arc::new(Metrics::new());
    let hasher = Arc::new(Hasher::start(HasherSettings::default(), Arc::clone(&metrics))?);
    let settings = AuthenticatorSettings::default();
    let authenticator = Authenticator::new(settings, hasher, Arc::clone(&clock), Arc::clone(&metrics))?;
    let before = check(&authenticator, &directory, &certificate).await?;

    let begin = Instant::now();
    for first in (0..USERS).step_by(CHUNK) {
        let (mut made, mut revoked) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        for user in first..first + CHUNK {
            let numbers = user * OF_EACH..(user + 1) * OF_EACH;
            let of = |revoked| numbers.clone().map(|n| record(n, &issuer, now, revoked)).collect::<Result<_, _>>();
            let user = new(format!("press-{user:06}"), of(false)?)?;
            revoked.push(put(User { certificates: of(true)?, ..user.clone() }, Expected::Any));
            made.push(put(user, Expected::Absent));
        }
        for changes in [made, revoked] {
            directory.commit(Transaction { changes, ..Transaction::default() }, &Actor::System)?;
        }
    }
    println!("{} certificates of {USERS} users issued and revoked in {:.1?}", USERS * OF_EACH, begin.elapsed());
    let after = check(&authenticator, &directory, &certificate).await?;
    println!(
        "a certificate looked at in a login: {before:.0?} with none revoked, {after:.0?} with {}",
        USERS * OF_EACH
    );

    let publisher = CrlPublisher::new(store, directory, ca, clock, metrics, DEFAULT_VALIDITY);
    // What is the most from here on. An error: it is the most since the start.
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let (resident, begin) = (memory("VmRSS:"), Instant::now());
    publisher.publish()?;
    let (time, most) = (begin.elapsed(), memory("VmHWM:"));
    let crl = publisher.current().ok_or("there is no list")?;
    println!(
        "the list of {}: {:.1} MB, made in {time:.2?}, with {} MiB more than before at the most{}, {} MiB more afterwards",
        crl.entries(),
        f64::from(u32::try_from(crl.der().len())?) / 1e6,
        most.saturating_sub(resident),
        if reset { "" } else { " (since the start)" },
        memory("VmRSS:").saturating_sub(resident)
    );
    Ok(())
}

/// What one authentication by certificate takes, in the middle of some rounds.
async fn check(
    authenticator: &Authenticator,
    directory: &Directory,
    certificate: &Arc<ClientCertificate>,
) -> Result<Duration, Failure> {
    let source = Source::from(std::net::IpAddr::from([192, 0, 2, 1]));
    let credentials = Credentials { username: None, password: None, certificate: Some(certificate), source };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for _ in 0..CHECKS {
            std::hint::black_box(
                authenticator.authenticate(|| directory.policy(), &credentials).await.map_err(|it| it.to_string())?,
            );
        }
        rounds.push(begin.elapsed() / CHECKS);
    }
    rounds.sort_unstable();
    Ok(percentile(&rounds, 50))
}

//! The revocation lists of the broker's CA, one for each issuer that is trusted: when they are made, and those that are in force.
//!
//! Entering: the word that certificates were revoked, and the time. Leaving: a signed [`Crl`] that is never older than half its
//! validity while the broker runs, and that tells of a revocation within about a second. Its number is on disk, and in the
//! audit log, before a key is used: each list of an issuer has a higher one, whatever happens in between. An issuer whose list cannot be
//! made is tried again at longer and longer intervals, and holds up no other one. Who asks whether a certificate is good *here* never
//! looks at the list: that is on the user's own record.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task;

use crate::access::RevocationReason;
use crate::audit::{self, Note, Word};
use crate::clock::{Clock, Duration};
use crate::directory::{Actor, Directory, DirectoryError, Transaction};
use crate::metrics::Metrics;
use crate::pki::{Crl, CrlEntries, IssuerCertificate, PreparedCrl, ProfileError, Signer as _, SignerError, Signers};
use crate::store::{Batch, Store, StoreError, Table};

/// How long a list is good for unless configured: 7 days.
pub const DEFAULT_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// By key identifier of the issuer.
const LISTS: Table<String, LastList> = Table::new("revocation_lists", 1);

/// At most one list in this time: revocations that come meanwhile share one.
const GAP: Duration = Duration::from_secs(1);

/// Of all time, at most one part in so many goes into lists, however long they are.
const SHARE: u32 = 10;

/// The longest that the clock is not looked at.
const LOOK: Duration = Duration::from_secs(1);

/// When to try again after a failure: at first, and at most; each time is twice the one before.
const RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(10));

/// What must survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LastList {
    number: u64,
    /// When the last one was made that was due by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<Timestamp>,
}

/// Why there is no new list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The key.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// What was to be signed.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// By key identifier of the issuer.
pub type Lists = BTreeMap<String, Crl>;

/// Makes the revocation lists of the CA, and keeps those in force.
pub struct CrlPublisher {
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    signers: Arc<Signers>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    validity: Duration,
    lists: watch::Sender<Lists>,
    /// By key identifier of the issuer.
    failures: Mutex<BTreeMap<String, Failure>>,
}

/// The last attempt to make a list that came to nothing.
#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Timestamp,
    retry_after: Duration,
}

impl Failure {
    fn is_over(self, now: Timestamp) -> bool {
        // A clock that was set back must not keep anybody waiting.
        now < self.at || self.at.checked_add(self.retry_after).is_ok_and(|at| at <= now)
    }
}

impl std::fmt::Debug for CrlPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrlPublisher").field("lists", &*self.lists.borrow()).finish_non_exhaustive()
    }
}

impl CrlPublisher {
    /// Nothing is published yet. `validity` is the time from a list to its end.
    pub fn new(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        signers: Arc<Signers>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        validity: Duration,
    ) -> Self {
        let (lists, failures) = (watch::Sender::new(Lists::new()), Mutex::default());
        Self { store, directory, signers, clock, metrics, validity, lists, failures }
    }

    /// The list in force of the CA that issues. `None`: the first one is being made, or the CA may not sign lists.
    pub fn current(&self) -> Option<Crl> {
        self.lists.borrow().get(&self.signers.load().issuer().id()).cloned()
    }

    /// Follows the lists in force.
    pub fn watch(&self) -> watch::Receiver<Lists> {
        self.lists.subscribe()
    }

    /// The CA that signs.
    pub fn signers(&self) -> &Arc<Signers> {
        &self.signers
    }

    /// Makes lists as they fall due, until `shutdown` turns true.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        if !self.signers.load().issuer().signs_crls() {
            tracing::warn!("there is no revocation list: {}", ProfileError::CrlSign);
        }
        let mut revocations = self.directory.revocations();
        let mut due = false;
        loop {
            // What is revoked from here on may be missed by this list, and makes another one.
            revocations.mark_unchanged();
            // Of the same clock as the pauses.
            let begun = tokio::time::Instant::now();
            let publisher = Arc::clone(&self);
            // What fails is told, and tried again, issuer by issuer.
            let made = task::spawn_blocking(move || publisher.publish_of(&publisher.ready(due)));
            if let Err(error) = made.await {
                tracing::error!(%error, "the revocation lists could not be made");
            }
            let pause = GAP.max(begun.elapsed().saturating_mul(SHARE - 1));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            due = loop {
                match revocations.has_changed() {
                    Ok(false) => {}
                    Ok(true) => break false,
                    // The directory lives as long as this does.
                    Err(_) => return,
                }
                if self.is_due() {
                    break true;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    // To wait for a change is to have seen it.
                    changed = revocations.changed() => match changed {
                        Ok(()) => break false,
                        Err(_) => return,
                    },
                    _ = shutdown.wait_for(|stop| *stop) => return,
                }
            };
        }
    }

    /// Half the validity: what fails can be tried again for as long as the list in force is good.
    fn refresh_after(&self) -> Duration {
        self.validity / 2
    }

    fn is_due(&self) -> bool {
        !self.ready(true).is_empty()
    }

    /// Those whose last attempt has not failed a moment ago; `due`: of these, those whose list is missing or old, or could not be made.
    fn ready(&self, due: bool) -> Vec<IssuerCertificate> {
        let (lists, failures, now) = (self.lists.borrow(), self.failures.lock(), self.clock.timestamp());
        let mut issuers = self.issuers(now);
        issuers.retain(|issuer| match (failures.get(&issuer.id()), lists.get(&issuer.id())) {
            (Some(failure), _) => failure.is_over(now),
            (None, Some(list)) => !due || self.is_over(list.this_update(), now),
            (None, None) => true,
        });
        issuers
    }

    /// Those that have a list: a former one while it lasts, the one that issues in any case.
    fn issuers(&self, now: Timestamp) -> Vec<IssuerCertificate> {
        let ca = self.signers.load();
        let mut issuers = ca.issuers();
        let current = ca.issuer().id();
        issuers.retain(|it| it.signs_crls() && (it.id() == current || now < it.not_after()));
        issuers
    }

    /// Has a list that was made then been in force for half its time?
    fn is_over(&self, made: Timestamp, now: Timestamp) -> bool {
        // A clock that was set back must not keep a list in force.
        now < made || made.checked_add(self.refresh_after()).is_ok_and(|at| at <= now)
    }

    /// Makes lists of all that is revoked now, one for each issuer, and puts them in force. Blocks for as long as it takes to read what is
    /// revoked.
    ///
    /// # Errors
    /// [`CrlError`], the first one; the lists in force of the issuers that have failed stay, and all others are new.
    pub fn publish(&self) -> Result<(), CrlError> {
        self.publish_of(&self.issuers(self.clock.timestamp()))
    }

    fn publish_of(&self, issuers: &[IssuerCertificate]) -> Result<(), CrlError> {
        let mut published = Ok(());
        for issuer in issuers {
            match self.make(issuer) {
                Ok(list) => {
                    self.failures.lock().remove(list.issuer());
                    self.lists.send_modify(|lists| _ = lists.insert(list.issuer().to_owned(), list));
                }
                Err(error) => {
                    self.failed(issuer, &error);
                    published = published.and(Err(error));
                }
            }
        }
        let kept = self.issuers(self.clock.timestamp());
        let kept = |id: &String| kept.iter().any(|issuer| issuer.id() == *id);
        self.failures.lock().retain(|id, _| kept(id));
        self.lists.send_if_modified(|lists| {
            let before = lists.len();
            lists.retain(|id, _| kept(id));
            lists.len() != before
        });
        published
    }

    fn failed(&self, issuer: &IssuerCertificate, error: &CrlError) {
        self.metrics.crl_failures.inc();
        let (id, at) = (issuer.id(), self.clock.timestamp());
        let mut failures = self.failures.lock();
        let before = failures.get(&id).map(|failure| failure.retry_after.saturating_mul(2).min(RETRY.1));
        let retry_after = before.unwrap_or(RETRY.0);
        tracing::error!(issuer = id, %error, ?retry_after, "the revocation list could not be made");
        failures.insert(id, Failure { at, retry_after });
    }

    fn make(&self, issuer: &IssuerCertificate) -> Result<Crl, CrlError> {
        let now = self.clock.timestamp();
        let id = issuer.id();
        let last = LISTS.get(&*self.store, &id)?.unwrap_or_default();
        let entries = self.entries(&id, now)?;
        let next_update = now.checked_add(self.validity).map_err(|_| ProfileError::Validity)?;
        let scheduled = last.scheduled_at.is_none_or(|at| self.is_over(at, now));
        let list = LastList {
            number: last.number.saturating_add(1),
            scheduled_at: if scheduled { Some(now) } else { last.scheduled_at },
        };
        let count = entries.count();
        let prepared = PreparedCrl::new(entries, issuer, list.number, now, next_update)?;
        // INVARIANT: the number is spent, on disk and in the log, before the key is used.
        let mut records = Batch::new();
        records.put(&LISTS, &id, &list)?;
        let event = audit::Event::CrlSigning {
            issuer: Word::name(&id),
            number: list.number,
            entries: count,
            next_update: prepared.next_update(),
        };
        self.directory.commit_noted(Transaction { changes: Vec::new(), records }, &Actor::System, Note::from(event))?;
        let signer = self.signers.load();
        let crl = signer.sign_crl(prepared)?;
        if signer.issuer().id() == id {
            self.metrics.crl_number.set(crl.number());
            self.metrics.crl_entries.set(i64::try_from(crl.entries()).unwrap_or(i64::MAX));
            self.metrics.crl_next_update.set(crl.next_update().as_second());
        }
        tracing::info!(issuer = id, number = crl.number(), entries = crl.entries(), "revocation list published");
        if scheduled {
            // RFC 5280 3.3: what has been on a scheduled list of after its end may leave.
            let gone = self.directory.forget_revoked(&id, now)?;
            tracing::debug!(gone, "expired certificates have left the revocation list");
        }
        Ok(crl)
    }

    fn entries(&self, issuer: &str, now: Timestamp) -> Result<CrlEntries, CrlError> {
        let mut entries = CrlEntries::new();
        let mut pushed = Ok(());
        self.directory.revoked(issuer, |certificate| {
            if pushed.is_ok() {
                pushed = entries.push(&certificate.serial, certificate.revoked_at, certificate.reason);
            }
        })?;
        pushed?;
        let policy = self.directory.policy();
        if policy.is_issuer_revoked(issuer) {
            // With the issuer, all that is left of what it issued; the others are on the list already.
            let revoked = self.directory.revoked_issuers()?.remove(issuer);
            let at = revoked.as_ref().map_or(now, |it| it.revoked_at);
            let reason = revoked.map_or(RevocationReason::CaCompromise, |it| it.reason);
            let certificates = policy.users().flat_map(|user| &user.certificates);
            for certificate in certificates
                .filter(|it| it.revoked_at.is_none() && it.not_after >= now && it.issuer.as_deref() == Some(issuer))
            {
                entries.push(&certificate.serial, at, reason)?;
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
#[path = "crl_tests.rs"]
mod tests;

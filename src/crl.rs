//! The revocation lists of the broker's CA, one for each issuer that is trusted: when they are made, and those that are in force.
//!
//! Entering: the word that certificates were revoked, and the time. Leaving: a signed [`Crl`] that is never older than half its
//! validity while the broker runs, and that tells of a revocation within about a second. Its number is on disk, and in the
//! audit log, before a key is used: each list of an issuer has a higher one, whatever happens in between. Who asks whether a
//! certificate is good *here* never looks at the list: that is on the user's own record.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
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

/// When to try again after a failure.
const RETRY: Duration = Duration::from_secs(10);

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
        Self { store, directory, signers, clock, metrics, validity, lists: watch::Sender::new(Lists::new()) }
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
        loop {
            // What is revoked from here on may be missed by this list, and makes another one.
            revocations.mark_unchanged();
            // Of the same clock as the pauses.
            let begun = tokio::time::Instant::now();
            let publisher = Arc::clone(&self);
            let pause = match task::spawn_blocking(move || publisher.publish()).await {
                Ok(Ok(())) => GAP.max(begun.elapsed().saturating_mul(SHARE - 1)),
                Ok(Err(error)) => self.failed(&error),
                Err(error) => self.failed(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            while !self.is_due() {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    changed = revocations.changed() => {
                        // The directory lives as long as this does.
                        if changed.is_err() { return; }
                        break;
                    }
                    _ = shutdown.wait_for(|stop| *stop) => return,
                }
            }
        }
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Duration {
        self.metrics.crl_failures.inc();
        tracing::error!(%error, "the revocation list could not be made");
        RETRY
    }

    /// Half the validity: what fails can be tried again for as long as the list in force is good.
    fn refresh_after(&self) -> Duration {
        self.validity / 2
    }

    fn is_due(&self) -> bool {
        let (lists, now) = (self.lists.borrow(), self.clock.timestamp());
        self.issuers()
            .iter()
            .any(|issuer| lists.get(&issuer.id()).is_none_or(|list| self.is_over(list.this_update(), now)))
    }

    /// Those that have a list.
    fn issuers(&self) -> Vec<IssuerCertificate> {
        let mut issuers = self.signers.load().issuers();
        issuers.retain(IssuerCertificate::signs_crls);
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
    /// [`CrlError`]; of that issuer, and of those after it, the lists in force stay.
    pub fn publish(&self) -> Result<(), CrlError> {
        let issuers = self.issuers();
        for issuer in &issuers {
            let list = self.make(issuer)?;
            self.lists.send_modify(|lists| _ = lists.insert(list.issuer().to_owned(), list));
        }
        let kept = |id: &String| issuers.iter().any(|issuer| issuer.id() == *id);
        self.lists.send_if_modified(|lists| {
            let before = lists.len();
            lists.retain(|id, _| kept(id));
            lists.len() != before
        });
        Ok(())
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

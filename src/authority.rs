//! The life of the broker's CA while it runs: another one in its place, and the end of the one before.
//!
//! Entering: an operator's word, and the time. Leaving: files, the CA that everything signs with from then on, records in the audit log, and
//! the names of every CA that ever was the broker's. Each change is told before a key is used or made, and again when it is done; one that a
//! crash cut short is told at the next start, as it was found. Never: two changes at once, never a certificate of a CA that connections are
//! not held against yet, and never a file of a CA that they cannot be held against.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::access::{CertificateRecord, Policy, RevocationReason, User};
use crate::audit::{self, Note, Word};
use crate::clock::Clock;
use crate::directory::{Actor, Change, Directory, DirectoryError, Transaction};
use crate::metrics::Metrics;
use crate::pki::{
    CaFiles, CertificateAuthority, IssuerCertificate, Lineage, Profile, Signer as _, SignerError, Signers, Successor,
};
use crate::store::{Batch, Store, StoreError, Table};

/// Which CA the audit log has heard of last.
const KNOWN: Table<String, String> = Table::new("authority", 1);

/// The one record of [`KNOWN`].
const ISSUER: &str = "issuer";

/// Every CA that was ever the broker's, by its key identifier. It is never shorter than it was.
const ISSUERS: Table<String, PastIssuer> = Table::new("issuers", 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PastIssuer {
    /// For people.
    subject: String,
    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal.
    key: String,
}

/// Where the CA is kept.
#[derive(Clone, Debug)]
pub struct AuthorityFiles {
    /// As in [`CaFiles`].
    pub certificate: PathBuf,
    /// As in [`CaFiles`].
    pub key: PathBuf,
    /// As in [`CaFiles`].
    pub passphrase: Option<SecretString>,
    /// See [`CertificateAuthority::with_profile`].
    pub profile: Profile,
}

impl AuthorityFiles {
    /// To load it from.
    pub(crate) fn files(&self) -> CaFiles<'_> {
        CaFiles {
            certificate: &self.certificate,
            key: &self.key,
            passphrase: self.passphrase.as_ref(),
            profile: Some(&self.profile),
        }
    }
}

/// Who must know of another CA.
pub trait AuthorityListener: Send + Sync {
    /// From when this returns, connections are held against these issuers.
    ///
    /// # Errors
    /// In words, when the TLS library does not take one of them. Some listeners may have taken it: who asked has those of before trusted
    /// again, by the same call.
    fn trust(&self, ca: &CertificateAuthority) -> Result<(), String>;

    /// It is in use, in place of the one before.
    fn changed(&self, before: &CertificateAuthority, ca: &CertificateAuthority);
}

/// Why the CA is what it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// Not a holder of the role `admin`.
    #[error("only holders of the role `admin` change the CA")]
    NotAllowed,
    /// Not a name that a CA can have.
    #[error("a name has 1 to 64 characters, none of them a control character")]
    Name,
    /// The files, or what was imported.
    #[error("{0}")]
    Signer(#[from] SignerError),
    /// The commit.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// TLS.
    #[error("the CA cannot be used for TLS: {0}")]
    Tls(String),
    /// Somebody would be locked out.
    #[error(
        "{certificates} certificates of {users} users are of this CA and in force; have them renewed first, or end them with it: `portcullis ca retire --force`"
    )]
    InUse {
        /// How many.
        certificates: usize,
        /// Of how many.
        users: usize,
    },
}

/// The CA, and what may be done with it.
pub struct Authority {
    files: AuthorityFiles,
    signers: Arc<Signers>,
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    listener: OnceLock<Arc<dyn AuthorityListener>>,
    /// Held for the whole of a change.
    change: Mutex<()>,
}

impl Authority {
    /// `signers` has what was loaded from `files`. Says so in the audit log when it is not the CA of the last time.
    ///
    /// # Errors
    /// The store or the commit.
    pub fn open(
        files: AuthorityFiles,
        signers: Arc<Signers>,
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AuthorityError> {
        let change = Mutex::new(());
        let authority = Self { files, signers, store, directory, clock, metrics, listener: OnceLock::new(), change };
        let ca = authority.signers.load();
        authority.measure(&ca);
        authority.remember(&ca)?;
        if authority.known()?.as_deref() != Some(&ca.issuer().id()) {
            authority.tell("found", &ca, &Actor::System)?;
        }
        Ok(authority)
    }

    /// Whoever must know of changes; the first one set stays.
    pub fn set_listener(&self, listener: Arc<dyn AuthorityListener>) {
        if self.listener.set(listener).is_err() {
            tracing::error!("the CA has a listener already");
        }
    }

    /// The CA in use.
    pub fn signers(&self) -> &Arc<Signers> {
        &self.signers
    }

    /// Every CA that is or was the broker's.
    ///
    /// # Errors
    /// The store.
    pub fn lineage(&self) -> Result<Lineage, AuthorityError> {
        let mut lineage = Lineage::default();
        for record in ISSUERS.iter(&*self.store) {
            let (identifier, PastIssuer { key, .. }) = record?;
            lineage.insert(identifier, key);
        }
        Ok(lineage)
    }

    /// Makes a new CA, which issues from now on. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn rotate(&self, actor: &Actor) -> Result<Arc<CertificateAuthority>, AuthorityError> {
        self.replace("rotate", actor, CertificateAuthority::rotate, || Ok(()))
    }

    /// Takes over certificates of a CA, PEM. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn import(&self, text: &[u8], actor: &Actor) -> Result<Arc<CertificateAuthority>, AuthorityError> {
        self.replace("import", actor, |ca, files, now| ca.import(files, text, now), || Ok(()))
    }

    /// A request for a certificate of a new CA, PEM. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn request(&self, common_name: &str, actor: &Actor) -> Result<String, AuthorityError> {
        self.may(actor)?;
        // X.509 bounds a common name to 64 characters.
        if !(1..=64).contains(&common_name.chars().count()) || common_name.contains(char::is_control) {
            return Err(AuthorityError::Name);
        }
        let _alone = self.change.lock();
        let ca = self.signers.load();
        self.intend("request", &ca, actor)?;
        Ok(ca.request(&self.files.files(), common_name)?)
    }

    /// Ends the trust in the CA before this one. `force`: with the certificates of it that are in force. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn retire(
        &self,
        issuer: &str,
        force: bool,
        actor: &Actor,
    ) -> Result<Arc<CertificateAuthority>, AuthorityError> {
        self.end("retire", issuer, force, actor)
    }

    /// Ends the trust in a CA before this one whose time is over, with what is left of it. Blocks.
    ///
    /// # Errors
    /// [`AuthorityError`]; it is to be tried again.
    pub fn tick(&self) -> Result<Option<Arc<CertificateAuthority>>, AuthorityError> {
        let (ca, now) = (self.signers.load(), self.clock.timestamp());
        let lapsed = ca.former().filter(|former| former.not_after() < now).map(IssuerCertificate::id);
        lapsed.map(|issuer| self.end("lapse", &issuer, true, &Actor::System)).transpose()
    }

    fn end(
        &self,
        what: &'static str,
        issuer: &str,
        force: bool,
        actor: &Actor,
    ) -> Result<Arc<CertificateAuthority>, AuthorityError> {
        let living = || -> Vec<_> {
            living(&self.directory.policy(), issuer, self.clock.timestamp()).map(|(user, _)| user.id).collect()
        };
        let plan = |ca: &CertificateAuthority, files: &CaFiles<'_>, now| {
            let next = ca.retire(files, issuer, now)?;
            let living = living();
            if !force && !living.is_empty() {
                let users = living.iter().collect::<BTreeSet<_>>().len();
                return Err(AuthorityError::InUse { certificates: living.len(), users });
            }
            Ok(next)
        };
        let revoke = || {
            if !living().is_empty() {
                let change = Change::RevokeIssuer {
                    issuer: issuer.to_owned(),
                    reason: RevocationReason::Superseded,
                    comment: Some("retired".to_owned()),
                };
                self.directory.commit(change.into(), actor)?;
            }
            Ok(())
        };
        self.replace(what, actor, plan, revoke)
    }

    /// `agreed`: what is to be committed when all agree, and before the files say so.
    fn replace<E: Into<AuthorityError>>(
        &self,
        what: &'static str,
        actor: &Actor,
        plan: impl FnOnce(&CertificateAuthority, &CaFiles<'_>, Timestamp) -> Result<Successor, E>,
        agreed: impl FnOnce() -> Result<(), AuthorityError>,
    ) -> Result<Arc<CertificateAuthority>, AuthorityError> {
        self.may(actor)?;
        let _alone = self.change.lock();
        let ca = self.signers.load();
        self.intend(what, &ca, actor)?;
        let files = self.files.files();
        let next = plan(&ca, &files, self.clock.timestamp()).map_err(Into::into)?;
        let listener = self.listener.get();
        // INVARIANT: what the new one issues is trusted before it issues anything, and known as ours for ever.
        let trusted = listener.map_or(Ok(()), |listener| listener.trust(next.ca()));
        let written = trusted.map_err(AuthorityError::Tls).and_then(|()| {
            self.remember(next.ca())?;
            agreed()?;
            Ok(next.write(&files)?)
        });
        let next = match written {
            Ok(next) => Arc::new(next),
            Err(error) => {
                if let Some(Err(why)) = listener.map(|listener| listener.trust(&ca)) {
                    tracing::error!("TLS does not take the CA back that is in use, until the next start: {why}");
                }
                return Err(error);
            }
        };
        self.signers.store(Arc::clone(&next));
        self.measure(&next);
        tracing::warn!(issuer = next.issuer().id(), "the CA has changed ({what})");
        let told = self.tell(what, &next, actor);
        if let Some(listener) = listener {
            listener.changed(&ca, &next);
        }
        told?;
        Ok(next)
    }

    fn may(&self, actor: &Actor) -> Result<(), AuthorityError> {
        let Actor::User { id, .. } = actor else { return Ok(()) };
        let policy = self.directory.policy();
        if policy.user(*id).is_some_and(|user| user.is_administrator()) {
            Ok(())
        } else {
            Err(AuthorityError::NotAllowed)
        }
    }

    fn intend(&self, what: &'static str, ca: &CertificateAuthority, actor: &Actor) -> Result<(), AuthorityError> {
        let event = audit::Event::CaChanging { what: what.into(), issuer: Word::name(&ca.issuer().id()) };
        Ok(self.directory.record(event.into(), actor)?)
    }

    /// Says what is in use now, and remembers that it was said.
    fn tell(&self, what: &'static str, ca: &CertificateAuthority, actor: &Actor) -> Result<(), AuthorityError> {
        let id = ca.issuer().id();
        let mut records = Batch::new();
        records.put(&KNOWN, &ISSUER.to_owned(), &id)?;
        let event = audit::Event::CaChanged {
            what: what.into(),
            issuer: Word::name(&id),
            former: ca.former().map(|former| Word::name(&former.id())),
        };
        self.directory.commit_noted(Transaction { changes: Vec::new(), records }, actor, Note::from(event))?;
        Ok(())
    }

    fn known(&self) -> Result<Option<String>, AuthorityError> {
        Ok(KNOWN.get(&*self.store, &ISSUER.to_owned())?)
    }

    /// Puts its issuers among those that ever were.
    fn remember(&self, ca: &CertificateAuthority) -> Result<(), AuthorityError> {
        let mut records = Batch::new();
        for issuer in ca.issuers() {
            let record = PastIssuer { subject: issuer.name(), key: issuer.key().fingerprint() };
            if ISSUERS.get(&*self.store, &issuer.id())?.as_ref() != Some(&record) {
                records.put(&ISSUERS, &issuer.id(), &record)?;
            }
        }
        if !records.is_empty() {
            self.store.commit(records)?;
        }
        Ok(())
    }

    fn measure(&self, ca: &CertificateAuthority) {
        self.metrics.ca_not_after.set(ca.issuer().not_after().as_second());
        self.metrics.ca_former.set(i64::from(ca.former().is_some()));
    }
}

/// The certificates of this issuer that are in force, each with its user, in the order of the users' names.
pub fn living<'p>(
    policy: &'p Policy,
    issuer: &'p str,
    now: Timestamp,
) -> impl Iterator<Item = (&'p Arc<User>, &'p CertificateRecord)> {
    let of_it = move |it: &&CertificateRecord| {
        it.issuer.as_deref() == Some(issuer) && it.not_after >= now && !policy.is_revoked(it)
    };
    policy.users().flat_map(move |user| user.certificates.iter().filter(of_it).map(move |it| (user, it)))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;

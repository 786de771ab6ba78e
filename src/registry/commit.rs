//! What the registry does off the I/O threads: it makes changes durable, decides, answers and pushes.
//!
//! Entering: changes that the core has named, orders of operators. Leaving: store batches and directory transactions; answers for
//! devices. INVARIANT: what the core holds is on disk. Never: a decision in two transactions.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use aws_lc_rs::hmac;
use parking_lot::{Condvar, Mutex, MutexGuard};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::{Semaphore, broadcast};
use uuid::Uuid;

use super::Now;
use super::answer::Answer;
use super::core::{Change, Claims, Core, Refused, Removal, Unusable, Verdict, replaced_user};
use super::lock::Lock;
use super::nonce::{Binding, Mint, NonceFault};
use super::operator::{Event, EventKind, GrantTerms, LockStatus, RegistryError};
use super::rates::Rates;
use super::replacement::OPENINGS;
use super::request::{Details, Request, RequestId, RequestView, State, issued as issued_event};
use super::settings::{AnswerSink, PasswordHasher, ReturnPath, Settings};
use crate::access::{ManagedBy, PolicyVersion, UserId, Username};
use crate::audit::{self, Closing, Lapse, Note, Place, UserRef, Word};
use crate::authn::Source;
use crate::clock::{Clock, Duration, Instant};
use crate::directory::{self, Actor, Directory, Expected, NewUser, Transaction};
use crate::metrics::Metrics;
use crate::pki::{IssuedCertificate, PreparedCertificate, Signer, VerifiedCsr};
use crate::store::{Batch, Store, Table};

pub(super) const REQUESTS: Table<Uuid, Request> = Table::new("registry_requests", 1);
const DETAILS: Table<Uuid, Details> = Table::new("registry_details", 1);

/// Connections that one request remembers to push its decision to.
const ASKERS: usize = 8;

/// When to come back while a request is pending, while the door is shut, and when there is no place.
pub(super) const POLL: Duration = Duration::from_secs(30);
const LOCKED: Duration = Duration::from_mins(1);
const FULL: Duration = Duration::from_mins(1);

/// Requests whose user is no more are looked for this often.
const ORPHANS: Duration = Duration::from_mins(1);

/// Longest reason and comment, in bytes.
const MAX_TEXT: usize = 1024;

/// A connection that waits for a decision.
pub(super) struct Asker {
    pub(super) binding: Binding,
    pub(super) sink: Weak<dyn AnswerSink>,
    pub(super) path: ReturnPath,
    pub(super) id: Option<Value>,
}

/// What all handles of a registry share.
pub(super) struct Inner {
    // Lock order: `state`, then whatever the store and the directory lock; only threads that may block take it. What is read of the
    // directory's policy together with the core is read under it: a decision is in both, or its name is held.
    pub(super) state: Mutex<Shared>,
    /// Something that was held is not any more.
    pub(super) landed: Condvar,
    pub(super) mint: Mint,
    pub(super) rates: Mutex<Rates<Source>>,
    /// Messages of users.
    pub(super) user_rates: Mutex<Rates<UserId>>,
    /// Certificates issued to users.
    pub(super) issues: Mutex<Rates<UserId>>,
    pub(super) jobs: Semaphore,
    pub(super) store: Arc<dyn Store>,
    pub(super) directory: Arc<Directory>,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) hasher: Arc<dyn PasswordHasher>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: Settings,
    pub(super) tag_key: hmac::Key,
    pub(super) events: broadcast::Sender<Event>,
}

/// What changes.
pub(super) struct Shared {
    pub(super) core: Core,
    pub(super) askers: HashMap<RequestId, Vec<Asker>>,
    /// When requests without a user were last looked for, and in which snapshot.
    pub(super) swept: Option<(Instant, PolicyVersion)>,
}

impl Shared {
    /// From now on the connection is told the decision; of one connection, the latest message counts.
    pub(super) fn wait(&mut self, id: RequestId, asker: Asker) {
        let askers = self.askers.entry(id).or_default();
        askers.retain(|other| other.binding != asker.binding && other.sink.strong_count() > 0);
        if askers.len() >= ASKERS {
            askers.remove(0);
        }
        askers.push(asker);
    }

    /// Forgets the connections that are gone.
    pub(super) fn forget_gone(&mut self) {
        self.askers.retain(|_, askers| {
            askers.retain(|asker| asker.sink.strong_count() > 0);
            !askers.is_empty()
        });
    }
}

impl Inner {
    pub(super) fn now(&self) -> Now {
        Now { instant: self.clock.instant(), wall: self.clock.timestamp() }
    }

    /// A keyed hash of a password, good for telling whether it is the one of before.
    pub(super) fn tag(&self, password: &SecretString) -> [u8; 32] {
        let tag = hmac::sign(&self.tag_key, password.expose_secret().as_bytes());
        let mut out = [0; 32];
        for (to, from) in out.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        out
    }

    pub(super) fn details(&self, id: RequestId) -> Result<Details, RegistryError> {
        Ok(DETAILS.get(&*self.store, &id.0)?.unwrap_or_default())
    }

    /// Writes the changes to the store, then makes them; nothing that they touch may be in flight. `details` are those of the
    /// request that is inserted, if one is.
    pub(super) fn carry_out(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        changes: Vec<Change>,
        details: Option<&Details>,
        actor: &Actor,
        now: Now,
    ) -> Result<(), RegistryError> {
        let mut batch = Batch::new();
        let mut told = Vec::new();
        let mut note = Note::default();
        for change in &changes {
            match change {
                Change::Insert(request) => {
                    let details = details.cloned().unwrap_or_default();
                    batch.put(&REQUESTS, &request.id.0, request)?;
                    batch.put(&DETAILS, &request.id.0, &details)?;
                    note.events.push(requested(request));
                    told.push((EventKind::Requested, RequestView::new(request, details)));
                }
                Change::Put(request) => {
                    batch.put(&REQUESTS, &request.id.0, request)?;
                    if matches!(request.state, State::Denied { .. }) {
                        let (request, username) = (request.id.0, request.username.clone());
                        note.events.push(audit::Event::RegistrationDenied { request, username });
                    }
                }
                Change::Remove { id, why } => {
                    batch.delete(&REQUESTS, &id.0)?;
                    let event = match why {
                        Removal::Expired => Some(EventKind::Expired),
                        Removal::Displaced => Some(EventKind::Displaced),
                        Removal::Forgotten | Removal::UserGone | Removal::Replaced | Removal::Cancelled => None,
                    };
                    let gone = state.core.get(*id);
                    note.events.extend(gone.map(|request| lapsed(request, *why)));
                    if let (Some(event), Some(request)) = (event, gone) {
                        told.push((event, RequestView::new(request, self.details(*id)?)));
                    }
                    batch.delete(&DETAILS, &id.0)?;
                }
                Change::Open(opening) => {
                    batch.put(&OPENINGS, &opening.user.0, opening)?;
                    note.events.push(audit::Event::ReplacementOpened {
                        user: UserRef { id: opening.user, username: opening.username.clone() },
                        until: opening.until,
                        limited: !opening.source.is_empty(),
                    });
                }
                Change::Close { username, why } => {
                    note.events.extend(close(&mut batch, &state.core, username, *why)?);
                }
                Change::ForgetRenewal { user } => Self::forget_renewal(&mut batch, *user)?,
                // A renewal is written with its user.
                Change::Seen { .. } | Change::Spend { .. } | Change::Renewed { .. } => {}
            }
        }
        if !batch.is_empty() {
            // Through the directory, which orders the audit log and shares its flush. A listener of it must not call us.
            let transaction = Transaction { changes: Vec::new(), records: batch };
            let claims = state.core.claims(&changes);
            self.write(state, claims, || Ok(self.directory.commit_noted(transaction, actor, note)?))?;
        }
        self.apply(state, changes);
        for (event, view) in told {
            self.tell(event, now, Some(view));
        }
        Ok(())
    }

    /// Requests whose user is no more, where it is time to look for them. The listener of the directory must not call the
    /// registry, so the registry asks.
    pub(super) fn orphans(&self, state: &mut Shared, now: Now) -> Vec<Change> {
        let policy = self.directory.policy();
        let due = state.swept.is_none_or(|(at, version)| {
            version != policy.version() && now.instant.saturating_duration_since(at) >= ORPHANS
        });
        if !due {
            return Vec::new();
        }
        let orphans = state.core.orphans(&*policy);
        // With some to remove there may be more of them: they are looked for again.
        state.swept = orphans.is_empty().then(|| (now.instant, policy.version()));
        orphans
    }

    pub(super) fn apply(&self, state: &mut Shared, changes: Vec<Change>) {
        for change in changes {
            if let Change::Remove { id, .. } = change {
                state.askers.remove(&id);
            }
            state.core.apply(change);
        }
        self.metrics.registry_pending.set(i64::try_from(state.core.pending()).unwrap_or(i64::MAX));
    }

    pub(super) fn tell(&self, event: EventKind, now: Now, request: Option<RequestView>) {
        // An error says that nobody listens.
        let _ = self.events.send(Event { at: now.wall, event, request: request.map(Arc::new) });
    }

    pub(super) fn status(&self, state: &Shared) -> LockStatus {
        let (until, remaining, terms) = match state.core.lock() {
            Lock::Locked => (None, None, None),
            Lock::Open { until_wall, remaining, terms, .. } => (Some(*until_wall), *remaining, Some(terms.clone())),
        };
        LockStatus {
            locked: terms.is_none(),
            until,
            remaining,
            terms,
            pending: state.core.pending(),
            max_pending: self.settings.max_pending,
        }
    }

    /// May this actor do that? A user may who may write to the route of it in the API, which these are the last segments
    /// of. What may be granted is for the directory to say.
    pub(super) fn may_decide(&self, actor: &Actor, route: &[&str]) -> Result<(), RegistryError> {
        let Actor::User { id, .. } = actor else { return Ok(()) };
        let route: Vec<&str> = ["api", "client-registry"].iter().chain(route).copied().collect();
        let policy = self.directory.policy();
        let may = policy.authority_without_client(*id).is_some_and(|authority| authority.may_http(true, &route));
        if may { Ok(()) } else { Err(RegistryError::NotAllowed(format!("/{}", route.join("/")))) }
    }

    pub(super) fn grant(&self, id: RequestId, terms: GrantTerms, actor: &Actor) -> Result<RequestView, RegistryError> {
        self.may_decide(actor, &["requests", &id.to_string(), "grant"])?;
        let now = self.now();
        if terms.expires_at.is_some_and(|at| at <= now.wall) {
            return Err(RegistryError::Invalid("`expires_at` must lie in the future"));
        }
        if terms.comment.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
            return Err(RegistryError::Invalid("a comment has at most 1024 bytes"));
        }
        let mut state = self.state.lock();
        self.settle_request(&mut state, id);
        let request = state.core.grantable(id, terms.unpaired, now);
        let mut request = request.map_err(|why| RegistryError::undecidable(id, why))?.clone();
        let policy = self.directory.policy();
        if request.replaces.is_some() {
            return self.grant_replacement(state, request, terms, actor, now);
        }
        if let Some(role) = terms.roles.iter().find(|role| policy.role(role).is_none()) {
            return Err(RegistryError::RoleUnknown(role.clone()));
        }
        let new_id = UserId(Uuid::now_v7());
        let mut user = NewUser {
            description: terms.comment.clone().unwrap_or_default(),
            auth: request.auth(),
            password_hash: request.password_hash.take(),
            roles: terms.roles,
            permissions: terms.permissions,
            publish_prefix: terms.publish_prefix,
            expires_at: terms.expires_at,
            ..NewUser::named(request.username.clone())
        }
        .into_user(new_id, ManagedBy::Registry);
        let claims = Claims::on(&request.username, request.key.as_deref());
        let (request, details) = self.write(&mut state, claims, || {
            // What the directory would refuse is refused before a key is used; it says so again where it counts.
            let put = directory::Change::PutUser { user: Box::new(user.clone()), expected: Expected::Absent };
            self.directory.preview(|_| Ok(put.into()), actor)?;
            let mut details = self.details(id)?;
            let issued = self.issue(&request, &details, actor, now)?;
            user.certificates = issued.iter().map(IssuedCertificate::record).collect();
            request.state = State::Granted {
                user: user.id,
                serial: issued.as_ref().map(|issued| issued.serial().to_owned()),
                by: actor.to_string(),
                at: now.wall,
                comment: terms.comment,
            };
            let named = UserRef { id: user.id, username: user.username.clone() };
            let mut note = Note::from(audit::Event::RegistrationGranted { request: id.0, user: named.clone() });
            note.events.extend(user.certificates.iter().map(|record| issued_event(named.clone(), record)));
            details.certificate = issued.map(|issued| issued.pem().to_owned());
            let mut records = Batch::new();
            records.put(&REQUESTS, &id.0, &request)?;
            records.put(&DETAILS, &id.0, &details)?;
            let changes = vec![directory::Change::PutUser { user: Box::new(user), expected: Expected::Absent }];
            // INVARIANT: user, roles, certificate and decision are one transaction. A listener of the directory must not call us.
            self.directory.commit_noted(Transaction { changes, records }, actor, note)?;
            Ok((request, details))
        })?;
        let view = RequestView::new(&request, details);
        self.apply(&mut state, vec![Change::Put(Box::new(request))]);
        tracing::info!("request {id} of `{}` was granted by {actor}", view.username);
        self.tell(EventKind::Granted, now, Some(view.clone()));
        self.push(state, id, now);
        Ok(view)
    }

    /// As [`Inner::grant`], for a request that takes the name of a user: that user gets its proofs and loses its own, and keeps
    /// everything else.
    fn grant_replacement(
        &self,
        mut state: MutexGuard<'_, Shared>,
        mut request: Request,
        terms: GrantTerms,
        actor: &Actor,
        now: Now,
    ) -> Result<RequestView, RegistryError> {
        let id = request.id;
        let GrantTerms { roles, permissions, publish_prefix, expires_at, comment, unpaired: _ } = terms;
        if !roles.is_empty() || !permissions.is_empty() || publish_prefix.is_some() || expires_at.is_some() {
            let why = "a replacement keeps the rights and the end of its user: grant it without, and use `user edit`";
            return Err(RegistryError::Invalid(why));
        }
        let policy = self.directory.policy();
        let user =
            replaced_user(&request, &*policy).ok_or_else(|| RegistryError::UserUnknown(request.username.clone()))?;
        let expected = Expected::Version(user.version);
        let put = |user| directory::Change::PutUser { user: Box::new(user), expected };
        let draft = state.core.replacement(user, &request, None, now.wall);
        let named = UserRef { id: user.id, username: user.username.clone() };
        let mut note = Note::from(audit::Event::RegistrationGranted { request: id.0, user: named.clone() });
        let mut records = Batch::new();
        let mut closings = Vec::new();
        let mut changes = state.core.replaced(&request, user.id);
        for change in &changes {
            match change {
                Change::Remove { id, .. } => {
                    records.delete(&REQUESTS, &id.0)?;
                    records.delete(&DETAILS, &id.0)?;
                }
                Change::Close { username, why } => closings.extend(close(&mut records, &state.core, username, *why)?),
                Change::ForgetRenewal { user } => Self::forget_renewal(&mut records, *user)?,
                _ => {}
            }
        }
        let claims = Claims::on(&request.username, request.key.as_deref());
        let (request, details) = self.write(&mut state, claims, || {
            self.directory.preview(|_| Ok(put(draft).into()), actor)?;
            let mut details = self.details(id)?;
            let issued = self.issue(&request, &details, actor, now)?;
            let record = issued.as_ref().map(IssuedCertificate::record);
            note.events.extend(record.as_ref().map(|record| issued_event(named, record)));
            note.events.extend(closings);
            let changed = self.state.lock().core.replacement(user, &request, record.clone(), now.wall);
            request.password_hash = None;
            request.state = State::Granted {
                user: user.id,
                serial: record.map(|record| record.serial),
                by: actor.to_string(),
                at: now.wall,
                comment,
            };
            details.certificate = issued.map(|issued| issued.pem().to_owned());
            records.put(&REQUESTS, &id.0, &request)?;
            records.put(&DETAILS, &id.0, &details)?;
            // INVARIANT: the new proofs, the end of the old ones and the decision are one transaction.
            self.directory.commit_noted(Transaction { changes: vec![put(changed)], records }, actor, note)?;
            Ok((request, details))
        })?;
        let view = RequestView::new(&request, details);
        changes.push(Change::Put(Box::new(request)));
        self.apply(&mut state, changes);
        tracing::info!("request {id} has replaced the proofs of `{}`, granted by {actor}", view.username);
        self.tell(EventKind::Granted, now, Some(view.clone()));
        self.push(state, id, now);
        Ok(view)
    }

    /// The certificate of a request with a CSR. The CSR is checked again: what is signed comes from a check, not from the disk.
    fn issue(
        &self,
        request: &Request,
        details: &Details,
        actor: &Actor,
        now: Now,
    ) -> Result<Option<IssuedCertificate>, RegistryError> {
        let Some(key) = &request.key else { return Ok(None) };
        let csr = details.csr.as_deref().and_then(|text| VerifiedCsr::from_pem(text.as_bytes()).ok());
        let csr = csr.filter(|csr| csr.key().fingerprint() == *key && *csr.username() == request.username).ok_or_else(
            || RegistryError::Damaged(format!("the CSR of request `{}` is not the one on record", request.id)),
        )?;
        self.certify(&csr, Some(request.id), actor, now).map(Some)
    }

    /// Signs: prepared, recorded, signed once, read again and compared.
    pub(super) fn certify(
        &self,
        csr: &VerifiedCsr,
        request: Option<RequestId>,
        actor: &Actor,
        now: Now,
    ) -> Result<IssuedCertificate, RegistryError> {
        if self.directory.policy().is_issuer_revoked(&self.signer.issuer().id()) {
            return Err(RegistryError::Invalid("the CA is revoked: replace it, then grant this"));
        }
        let serial = self.signer.draw_serial()?;
        let prepared = PreparedCertificate::client(csr, self.signer.issuer(), serial, now.wall, self.settings.validity)
            .map_err(crate::pki::SignerError::from)?;
        // Whatever becomes of the transaction: no key signs anything that the log does not know of.
        let intent = audit::Event::CertificateSigning {
            request: request.map(|id| id.0),
            username: csr.username().clone(),
            serial: Word::name(&serial.hex()),
        };
        self.directory.record(intent.into(), actor)?;
        tracing::info!("signing certificate {} for `{}`", serial.hex(), csr.username());
        Ok(self.signer.sign(prepared)?)
    }

    pub(super) fn deny(&self, id: RequestId, reason: String, actor: &Actor) -> Result<RequestView, RegistryError> {
        self.may_decide(actor, &["requests", &id.to_string(), "deny"])?;
        if reason.len() > MAX_TEXT {
            return Err(RegistryError::Invalid("a reason has at most 1024 bytes"));
        }
        let now = self.now();
        let mut state = self.state.lock();
        self.settle_request(&mut state, id);
        let changes = state.core.deny(id, reason, actor.to_string(), now);
        let changes = changes.map_err(|why| RegistryError::undecidable(id, why))?;
        self.carry_out(&mut state, changes, None, actor, now)?;
        let request = state.core.get(id).cloned().ok_or(RegistryError::NotFound(id))?;
        let view = RequestView::new(&request, self.details(id)?);
        tracing::info!("request {id} of `{}` was denied by {actor}", view.username);
        self.tell(EventKind::Denied, now, Some(view.clone()));
        self.push(state, id, now);
        Ok(view)
    }

    /// Tells the decision to everybody who is connected and waits for it.
    fn push(&self, mut state: MutexGuard<'_, Shared>, id: RequestId, now: Now) {
        let askers = state.askers.remove(&id).unwrap_or_default();
        let answer = if askers.is_empty() {
            None
        } else {
            let policy = self.directory.policy();
            state.core.verdict(id, &*policy, now).map(|verdict| self.answer(&state.core, verdict))
        };
        drop(state);
        if let Some(answer) = answer {
            for asker in askers {
                if let Some(sink) = asker.sink.upgrade() {
                    sink.answer(&answer.clone().with_id(asker.id), &asker.path);
                }
            }
        }
    }

    /// The answer that a verdict is.
    pub(super) fn answer(&self, core: &Core, verdict: Verdict) -> Answer {
        match verdict {
            Verdict::Pending(id) => {
                let Some(request) = core.get(id) else { return Answer::failed() };
                Answer {
                    username: Some(request.username.clone()),
                    pairing_code: Some(request.pairing_code),
                    expires_at: Some(request.expires_at),
                    ..Answer::new(202, "pending")
                }
                .retry_after(POLL)
            }
            Verdict::Granted { id, user, certificate } => {
                let Some(record) = certificate else {
                    return Answer { username: Some(user.username.clone()), ..Answer::new(201, "granted") };
                };
                let pem = match self.details(id) {
                    Ok(details) => details.certificate,
                    Err(error) => {
                        tracing::error!("a certificate on record cannot be read: {error}");
                        None
                    }
                };
                pem.map_or_else(Answer::failed, |pem| self.collected(&user, *record, pem))
            }
            Verdict::Denied { reason } => {
                let message = if reason.is_empty() {
                    "the operator denied this request; ask them why".to_owned()
                } else {
                    format!("the operator denied this request: {reason}")
                };
                Answer { reason: Some(reason), ..Answer::error(403, "denied", "denied", message) }
            }
            Verdict::Unusable(why) => unusable(why),
            Verdict::Refused(why) => refused(why),
        }
    }
}

/// Takes an opening off the disk; says so for the audit log.
fn close(
    batch: &mut Batch,
    core: &Core,
    username: &Username,
    why: Closing,
) -> Result<Option<audit::Event>, RegistryError> {
    let Some(opening) = core.opening(username) else { return Ok(None) };
    batch.delete(&OPENINGS, &opening.user.0)?;
    let user = UserRef { id: opening.user, username: username.clone() };
    Ok(Some(audit::Event::ReplacementClosed { user, why }))
}

/// A new request, in the words of the audit log: without its pairing code, its password, and what it says of itself.
fn requested(request: &Request) -> audit::Event {
    audit::Event::RegistrationRequested {
        request: request.id.0,
        username: request.username.clone(),
        auth: request.auth(),
        key: request.key.as_deref().map(Word::name),
        from: Place::Network { address: request.source, listener: Some(Word::name(&request.listener)) },
    }
}

fn lapsed(request: &Request, why: Removal) -> audit::Event {
    audit::Event::RegistrationLapsed {
        request: request.id.0,
        username: request.username.clone(),
        why: match why {
            Removal::Expired => Lapse::Expired,
            Removal::Displaced => Lapse::Displaced,
            Removal::Forgotten => Lapse::Forgotten,
            Removal::UserGone => Lapse::UserGone,
            Removal::Replaced => Lapse::Replaced,
            Removal::Cancelled => Lapse::Cancelled,
        },
    }
}

fn unusable(why: Unusable) -> Answer {
    let ask = "ask its operator";
    match why {
        Unusable::Disabled => Answer::error(403, "denied", "disabled", format!("this identity is disabled; {ask}")),
        Unusable::Expired => Answer::error(403, "denied", "expired", format!("this identity has expired; {ask}")),
        Unusable::Revoked => {
            Answer::error(403, "denied", "revoked", format!("the certificate of this identity was revoked; {ask}"))
        }
        Unusable::Superseded => {
            let message = "the certificate of this identity was renewed, and the new one is in use; use the new one";
            Answer::error(409, "conflict", "superseded", message)
        }
        Unusable::CertificateExpired => {
            let message = format!(
                "the certificate of this identity has expired; renew it with a signature by its key, or {ask} to let it register anew"
            );
            Answer::error(409, "conflict", "certificate_expired", message)
        }
    }
}

/// Why a nonce is not taken, and what to do about it.
pub(super) fn nonce_fault(fault: NonceFault) -> Answer {
    let (error, message) = match fault {
        NonceFault::Missing => (
            "nonce_missing",
            "a nonce is needed: ask `challenge` for one on this connection, and make it the challengePassword of the CSR",
        ),
        NonceFault::Foreign => (
            "nonce_foreign",
            "the nonce was not drawn for this connection since the broker was started; ask `challenge` for another one",
        ),
        NonceFault::Expired => ("nonce_expired", "the nonce is older than 5 minutes; ask `challenge` for another one"),
        NonceFault::Spent => ("nonce_spent", "the nonce has been used already; ask `challenge` for another one"),
        NonceFault::Full => return Answer::busy(FULL),
    };
    Answer::error(422, "refused", error, message)
}

fn refused(why: Refused) -> Answer {
    match why {
        Refused::Locked => {
            let message = "the registry is locked; ask the operator to unlock it, then send this again";
            Answer::error(423, "locked", "locked", message).retry_after(LOCKED)
        }
        Refused::NameTaken => Answer::error(
            409,
            "conflict",
            "name_taken",
            "this username belongs to another identity; choose another one",
        ),
        Refused::NamePending => {
            let message = "this username is pending with another proof; choose another one, or ask the operator to deny that request";
            Answer::error(409, "conflict", "name_pending", message)
        }
        Refused::KeyInUse => {
            let message = "this public key is in use by another identity; make a new key";
            Answer::error(409, "conflict", "key_in_use", message)
        }
        Refused::Full => {
            let message = "too many requests wait for a decision; send it again after `retry_after` seconds";
            Answer::error(429, "refused", "full", message).retry_after(FULL)
        }
        Refused::Nonce(fault) => nonce_fault(fault),
    }
}

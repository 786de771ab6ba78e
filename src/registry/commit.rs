//! What the registry does off the I/O threads: it makes changes durable, decides, answers and pushes.
//!
//! Entering: changes that the core has named, orders of operators. Leaving: store batches and directory transactions; answers for
//! devices. INVARIANT: what the core holds is on disk. Never: a decision in two transactions.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use aws_lc_rs::hmac;
use parking_lot::{Condvar, Mutex, MutexGuard};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::Now;
use super::answer::Answer;
use super::core::{Change, Core, Refused, Removal, Unusable, Verdict};
use super::deed::Deed;
use super::jobs::Jobs;
use super::lock::Lock;
use super::nonce::{Binding, Mint, NonceFault};
use super::operator::{Event, EventKind, LockStatus, RegistryError};
use super::rates::Rates;
use super::replacement::OPENINGS;
use super::request::{Details, Request, RequestId, RequestView, State};
use super::settings::{AnswerSink, PasswordHasher, ReturnPath, Settings};
use super::token::Token;
use super::tokens::TOKENS;
use crate::access::{PolicyVersion, UserId, Username};
use crate::audit::{self, Closing, Comment, Lapse, Note, Place, Recorder, UserRef, Word};
use crate::authn::Source;
use crate::clock::{Clock, Duration, Instant};
use crate::directory::{self, Actor, Directory, Transaction};
use crate::metrics::Metrics;
use crate::pki::Signers;
use crate::store::{Batch, Store, Table};

pub(super) const REQUESTS: Table<Uuid, Request> = Table::new("registry_requests", 1);
pub(super) const DETAILS: Table<Uuid, Details> = Table::new("registry_details", 1);

/// Connections that one request remembers to push its decision to.
const ASKERS: usize = 8;

/// When to come back while a request is pending, while the door is shut, and when there is no place.
pub(super) const POLL: Duration = Duration::from_secs(30);
const LOCKED: Duration = Duration::from_mins(1);
const FULL: Duration = Duration::from_mins(1);

/// Requests whose user is no more are looked for this often.
const ORPHANS: Duration = Duration::from_mins(1);

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
    pub(super) jobs: Jobs,
    pub(super) store: Arc<dyn Store>,
    pub(super) directory: Arc<Directory>,
    pub(super) signers: Arc<Signers>,
    pub(super) hasher: Arc<dyn PasswordHasher>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: Settings,
    pub(super) tag_key: hmac::Key,
    pub(super) code_key: hmac::Key,
    pub(super) events: broadcast::Sender<Event>,
    /// Where failed claims are told.
    pub(super) recorder: OnceLock<Arc<Recorder>>,
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

/// What is made together or not at all.
#[derive(Default)]
pub(super) struct Plan {
    /// Of the table and the tokens.
    pub(super) steps: Vec<Change>,
    /// Of users.
    pub(super) users: Vec<directory::Change>,
    /// Of the one request that is inserted, or put with other ones.
    pub(super) details: Option<Details>,
    /// What the audit log says beyond the steps.
    pub(super) note: Note,
}

impl From<Vec<Change>> for Plan {
    fn from(steps: Vec<Change>) -> Self {
        Self { steps, ..Self::default() }
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

    /// Holds all that the plan touches, none of which may be in flight, and makes it as [`Inner::make`] does.
    pub(super) fn carry_out(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        plan: impl Into<Plan>,
        actor: &Actor,
        now: Now,
    ) -> Result<Vec<RequestView>, RegistryError> {
        let plan = plan.into();
        let claims = state.core.claims(&plan.steps);
        self.hold(state, claims, |state| self.make(state, plan, actor, now))
    }

    /// Makes all of the plan, durably, in one transaction: in the store and the directory first, then in memory; what it touches
    /// is held. Gives the requests that operators were told of, in the order of the steps. Once it is made nothing can fail any more.
    pub(super) fn make(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        plan: Plan,
        actor: &Actor,
        now: Now,
    ) -> Result<Vec<RequestView>, RegistryError> {
        let Plan { steps, users, details, mut note } = plan;
        let mut batch = Batch::new();
        let (mut told, mut events) = (Vec::new(), Vec::new());
        for step in &steps {
            match step {
                Change::Insert(request) => {
                    let details = details.clone().unwrap_or_default();
                    batch.put(&REQUESTS, &request.id.0, request)?;
                    batch.put(&DETAILS, &request.id.0, &details)?;
                    events.push(requested(request));
                    events.extend(decided(request));
                    let event = event_of(request).filter(|event| *event != EventKind::Approved);
                    let event = event.unwrap_or(EventKind::Requested);
                    told.push((event, RequestView::new(request, details)));
                }
                Change::Put(request) => {
                    batch.put(&REQUESTS, &request.id.0, request)?;
                    let details = if let Some(details) = &details {
                        batch.put(&DETAILS, &request.id.0, details)?;
                        details.clone()
                    } else {
                        self.details(request.id)?
                    };
                    events.extend(decided(request));
                    told.extend(event_of(request).map(|event| (event, RequestView::new(request, details))));
                }
                Change::Remove { id, why } => {
                    batch.delete(&REQUESTS, &id.0)?;
                    let event = match why {
                        Removal::Expired => Some(EventKind::Expired),
                        Removal::Displaced => Some(EventKind::Displaced),
                        Removal::Forgotten | Removal::UserGone | Removal::Replaced | Removal::Cancelled => None,
                    };
                    let gone = state.core.get(*id);
                    events.extend(gone.map(|request| lapsed(request, *why)));
                    if let (Some(event), Some(request)) = (event, gone) {
                        told.push((event, RequestView::new(request, self.details(*id)?)));
                    }
                    batch.delete(&DETAILS, &id.0)?;
                }
                Change::Open(opening) => {
                    batch.put(&OPENINGS, &opening.user.0, opening)?;
                    events.push(audit::Event::ReplacementOpened {
                        user: UserRef { id: opening.user, username: opening.username.clone() },
                        until: opening.until,
                        limited: !opening.source.is_empty(),
                    });
                }
                Change::Close { username, why } => {
                    events.extend(close(&mut batch, &state.core, username, *why)?);
                }
                Change::ForgetRenewal { user } => Self::forget_renewal(&mut batch, *user)?,
                Change::PutToken(token) => {
                    batch.put(&TOKENS, &token.view.id.0, token)?;
                    events.extend(created(token, &state.core));
                }
                Change::EndToken { id, why } => {
                    batch.delete(&TOKENS, &id.0)?;
                    let used = state.core.token(*id).map_or(0, |token| token.view.used);
                    events.push(audit::Event::TokenEnded { token: id.0, used, why: *why });
                }
                // A renewal is written with its user.
                Change::Seen { .. } | Change::Spend { .. } | Change::Renewed { .. } | Change::Admitted => {}
            }
        }
        events.append(&mut note.events);
        note.events = events;
        if !batch.is_empty() {
            // Through the directory, which orders the audit log and shares its flush. A listener of it must not call us.
            let transaction = Transaction { changes: users, records: batch };
            MutexGuard::unlocked(state, || self.directory.commit_noted(transaction, actor, note))?;
        }
        self.apply(state, steps);
        for (event, view) in &told {
            self.tell(*event, now, Some(view.clone()));
        }
        Ok(told.into_iter().map(|(_, view)| view).collect())
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
        self.count_all(&state.core);
    }

    /// How many there are now.
    pub(super) fn count_all(&self, core: &Core) {
        self.metrics.registry_pending.set(i64::try_from(core.pending()).unwrap_or(i64::MAX));
        self.metrics.registry_tokens.set(i64::try_from(core.tokens().len()).unwrap_or(i64::MAX));
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

    /// May this actor do that? If so, who acts by that right alone, so that it is looked at again when the deed is made durable. What
    /// may be granted is for the directory to say.
    pub(super) fn may_decide(&self, actor: &Actor, deed: &Deed<'_>) -> Result<Actor, RegistryError> {
        let Some((id, _)) = actor.user() else { return Ok(actor.clone()) };
        let right = deed.right(actor);
        if right.is_held(&self.directory.policy(), id) {
            Ok(actor.clone().by(right))
        } else {
            Err(RegistryError::NotAllowed(right))
        }
    }

    /// Tells the decision to everybody who is connected and waits for it.
    pub(super) fn push(&self, mut state: MutexGuard<'_, Shared>, id: RequestId, now: Now) {
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
            Verdict::Barred { reason, .. } => {
                Answer { reason: Some(reason.clone()), ..Answer::error(403, "denied", "rule", barred(&reason)) }
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

fn barred(reason: &str) -> String {
    if reason.is_empty() {
        "a rule of the broker denies this request; ask its operator why".to_owned()
    } else {
        format!("a rule of the broker denies this request: {reason}")
    }
}

/// What happened to a request that has come to this state.
fn event_of(request: &Request) -> Option<EventKind> {
    match request.state {
        State::Pending => request.approved.as_ref().map(|_| EventKind::Approved),
        State::Granted { .. } => Some(EventKind::Granted),
        State::Denied { .. } => Some(EventKind::Denied),
    }
}

/// A decision, in the words of the audit log.
fn decided(request: &Request) -> Option<audit::Event> {
    let (id, username) = (request.id.0, request.username.clone());
    let recorded = |comment: &Option<String>| comment.as_deref().map(Comment::of);
    match &request.state {
        State::Pending => request.approved.as_ref().map(|approved| audit::Event::RegistrationApproved {
            request: id,
            username,
            token: request.token.map(|token| token.0),
            comment: recorded(&approved.grant.comment),
        }),
        State::Granted { user, comment, .. } => Some(audit::Event::RegistrationGranted {
            request: id,
            user: UserRef { id: *user, username },
            token: request.token.map(|token| token.0),
            rule: request.rule.as_deref().map(Word::name),
            comment: recorded(comment),
        }),
        State::Denied { comment, .. } => {
            Some(audit::Event::RegistrationDenied { request: id, username, comment: recorded(comment) })
        }
    }
}

/// A new token, in the words of the audit log; a use is told with the request that it was for.
fn created(token: &Token, core: &Core) -> Option<audit::Event> {
    let view = &token.view;
    core.token(view.id).is_none().then(|| audit::Event::TokenCreated {
        token: view.id.0,
        uses: view.uses,
        until: view.until,
        limited: view.username.is_some() || !view.source.is_empty(),
        roles: view.roles.iter().collect(),
        permissions: view.permissions.iter().collect(),
        comment: view.comment.as_deref().map(Comment::of),
    })
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
        from: Place::Network {
            address: request.source,
            listener: Some(Word::name(&request.listener)),
            client_id: None,
        },
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
            "a nonce is needed: ask `challenge` for one on this connection (over HTTP: from this address), and make it the challengePassword of the CSR",
        ),
        NonceFault::Foreign => (
            "nonce_foreign",
            "the nonce was not drawn on this connection (over HTTP: from this address) since the broker was started; ask `challenge` for another one",
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
        // One answer for every fault, as for a wrong password.
        Refused::Token(..) => {
            let message = "this token is not good for this: ask the operator for another one, or leave it out";
            Answer::error(403, "denied", "token", message)
        }
    }
}

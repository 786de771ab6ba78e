//! The shell around the core: it parses, asks argon2, writes to the store, signs, commits, answers and pushes.
//!
//! Entering: messages of devices and orders of operators. Leaving: answers, also later and unasked to who is still connected; events.
//! Everything that blocks runs off the I/O threads. Never: an answer before what it says is durable.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};

use aws_lc_rs::hmac;
use parking_lot::{Condvar, Mutex};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::answer::{Answer, Unread};
use super::commit::{Asker, Inner, POLL, Plan, REQUESTS, Shared};
use super::core::{Ask, Bounds, Claims, Core, Drawn, Facts, Limits, Refused, Step, Verdict, is_orphan};
use super::deed::Deed;
use super::jobs::{Job, Jobs, Work};
use super::knock;
use super::lock::{Lock, UnlockTerms};
use super::message::{RegisterDraft, RegisterMessage, parse_question};
use super::nonce::{Mint, NONCE_LIFE, Nonces};
use super::operator::{DenyTerms, Event, EventKind, GrantTerms, LockStatus, RegistryError, RequestPage, StateFilter};
use super::rates::{RateLimit, Rates};
use super::refusals::REGISTER;
use super::renewal::RENEWALS;
use super::replacement::OPENINGS;
use super::request::{Details, Request, RequestId, RequestView, State};
use super::settings::{Caller, Origin, PasswordHasher, Settings};
use super::tokens::TOKENS;
use crate::access::UserId;
use crate::audit::{self, Note};
use crate::authn::{Attempt, HashError, Source};
use crate::clock::{Clock, Duration};
use crate::directory::{Actor, Directory};
use crate::metrics::{Metrics, RegistryBadInput, RegistryOutcome};
use crate::pki::{PairingCode, Signer as _, Signers, VerifiedCsr};
use crate::store::Store;

/// Sources whose rate is remembered.
const SOURCES: usize = 16_384;

/// Users whose rates are remembered: only those who asked lately.
const USERS: usize = 1 << 20;

/// Certificates that one user may have at once; then one more in this part of a certificate's life.
const ISSUES: (u32, u32) = (4, 180);

/// What a wrong password or claim token costs of its source's rate, in messages more.
pub(super) const WRONG_PROOF: u32 = 10;

/// Rounds of argon2 that one message may need: each denied request of the name, the holder, and its own hash.
const ROUNDS: usize = 8;

/// When to come back when all jobs are taken.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// The registration authority. A handle; clones share one.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

impl Registry {
    /// Loads the requests of the store; the door is locked.
    ///
    /// # Errors
    /// [`RegistryError::Store`], [`RegistryError::Damaged`], and [`RegistryError::Rule`] for a rule that could never grant.
    pub fn open(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        signers: Arc<Signers>,
        hasher: Arc<dyn PasswordHasher>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Result<Self, RegistryError> {
        let mut keys = ([0; 32], [0; 32]);
        getrandom::fill(&mut keys.0)
            .and_then(|()| getrandom::fill(&mut keys.1))
            .map_err(|_| RegistryError::Damaged("the operating system gave no random numbers".into()))?;
        let limits = Limits {
            pending_ttl: settings.pending_ttl,
            pending: Bounds { all: settings.max_pending, of_source: settings.max_pending_per_source },
            denied_for: settings.denied_for,
            silence: POLL * 2,
            require_nonce: settings.require_nonce,
            approvals: settings.approvals,
            renew_grace: settings.renew_grace,
        };
        let code_key = knock::code_key(&*store)?;
        let mint = Mint::new(&keys.0, clock.instant());
        let mut core = Core::new(limits, Nonces::new(mint.clone()));
        core.set_rules(settings.rules.clone());
        for record in RENEWALS.iter(&*store) {
            let (user, renewal) = record?;
            core.restore_renewal(UserId(user), renewal);
        }
        for record in OPENINGS.iter(&*store) {
            core.restore_opening(record?.1);
        }
        for record in TOKENS.iter(&*store) {
            core.put_token(record?.1);
        }
        for record in REQUESTS.iter(&*store) {
            let (id, request) = record?;
            if id != request.id.0 || !core.restore(request) {
                return Err(RegistryError::Damaged(format!("request `{id}` has the name or the key of another one")));
            }
        }
        let registry = Self(Arc::new(Inner {
            state: Mutex::new(Shared { core, askers: HashMap::new(), swept: None }),
            landed: Condvar::new(),
            mint,
            rates: Mutex::new(Rates::new(settings.rate, SOURCES)),
            user_rates: Mutex::new(Rates::new(settings.rate, USERS)),
            issues: Mutex::new(Rates::new(RateLimit { burst: ISSUES.0, every: settings.validity / ISSUES.1 }, USERS)),
            jobs: Jobs::new(),
            store,
            directory,
            signers,
            hasher,
            clock,
            metrics,
            settings,
            tag_key: hmac::Key::new(hmac::HMAC_SHA256, &keys.1),
            code_key,
            events: broadcast::channel(256).0,
            recorder: OnceLock::new(),
        }));
        registry.0.count_all(&registry.0.state.lock().core);
        registry.0.check_rules()?;
        Ok(registry)
    }

    // Devices.

    /// `$registry/register`: registers, or polls.
    pub async fn register(&self, payload: &[u8], content_type: Option<&str>, origin: &Origin) -> Answer {
        let answer = match self.limit(origin) {
            Ok(()) => self.serve(payload, content_type, origin).await,
            Err(answer) => {
                self.0.turned_away(REGISTER, None, &answer, origin);
                *answer
            }
        };
        self.count(&answer);
        answer
    }

    /// `$registry/challenge`: a nonce, good once, for [`NONCE_LIFE`], and for whoever `origin` is bound to. Nothing is kept of it.
    pub fn challenge(&self, payload: &[u8], content_type: Option<&str>, origin: &Origin) -> Answer {
        let answer = self.limit(origin).and_then(|()| Ok(parse_question(payload, content_type)?)).map_or_else(
            |refused| *refused,
            |id| {
                let now = self.0.now();
                let mut salt = [0; 8];
                if let Err(error) = getrandom::fill(&mut salt) {
                    tracing::error!("no random numbers: {error}");
                    return Answer::failed().with_id(id);
                }
                Answer {
                    nonce: Some(self.0.mint.draw(salt, origin.binding, now.instant)),
                    expires_at: now.wall.checked_add(NONCE_LIFE).ok(),
                    ..Answer::new(200, "ok")
                }
                .with_id(id)
            },
        );
        self.count(&answer);
        answer
    }

    /// The CA that issues, and the one before it.
    pub fn signers(&self) -> &Arc<Signers> {
        &self.0.signers
    }

    /// `$registry/ca`: the trust bundle.
    pub fn ca(&self, payload: &[u8], content_type: Option<&str>, origin: &Origin) -> Answer {
        let answer = self
            .limit(origin)
            .and_then(|()| Ok(parse_question(payload, content_type)?))
            .map_or_else(|refused| *refused, |id| self.bundle().with_id(id));
        self.count(&answer);
        answer
    }

    /// What `$registry/ca` would answer now, for those who have not asked.
    pub fn bundle(&self) -> Answer {
        Answer { ca: Some(self.0.signers.load().bundle_pem().to_owned()), ..Answer::new(200, "ok") }
    }

    /// `$registry/whoami`: the caller's identity, the end of its certificate, and its permissions.
    pub fn whoami(
        &self,
        payload: &[u8],
        content_type: Option<&str>,
        caller: Option<&Caller>,
        origin: &Origin,
    ) -> Answer {
        let answer = self
            .limit(origin)
            .and_then(|()| Ok(parse_question(payload, content_type)?))
            .map_or_else(|refused| *refused, |id| self.identity(caller).with_id(id));
        self.count(&answer);
        answer
    }

    /// Too many requests of this connection are being worked on.
    pub fn busy(&self, payload: &[u8], content_type: Option<&str>) -> Answer {
        let id = parse_question(payload, content_type).unwrap_or_else(|(_, id)| id);
        let message = "wait for the answers to your earlier requests".to_owned();
        let answer = Answer::error(429, "refused", "busy", message).retry_after(BUSY).with_id(id);
        self.count(&answer);
        answer
    }

    /// To whoever has given no proof, where no proof is asked for: the operations are for sessions that have given one, and for those
    /// that want to.
    pub fn unproven(&self, payload: &[u8], content_type: Option<&str>) -> Answer {
        let id = parse_question(payload, content_type).unwrap_or_else(|(_, id)| id);
        let message =
            "clients without credentials have no registry at this listener; enrol at one with `registration = true`";
        let answer = Answer::error(401, "refused", "not_authenticated", message).with_id(id);
        self.count(&answer);
        answer
    }

    /// A message of door 3 that has not come to its end.
    pub fn unread(&self, fault: &Unread) -> Answer {
        let answer = fault.into();
        self.count(&answer);
        answer
    }

    pub(super) fn limit_user(&self, user: UserId) -> Result<(), Box<Answer>> {
        self.0.user_rates.lock().take(user, self.0.clock.instant()).map_err(|after| {
            let message = "too many messages of this identity; send it again after `retry_after` seconds";
            Box::new(Answer::error(429, "refused", "rate", message).retry_after(after))
        })
    }

    pub(super) fn limit(&self, origin: &Origin) -> Result<(), Box<Answer>> {
        self.0.rates.lock().take(origin.source.into(), self.0.clock.instant()).map_err(|after| {
            let message = "too many messages from this address; send it again after `retry_after` seconds";
            Box::new(Answer::error(429, "refused", "rate", message).retry_after(after))
        })
    }

    async fn serve(&self, payload: &[u8], content_type: Option<&str>, origin: &Origin) -> Answer {
        let draft = match RegisterDraft::read(payload, content_type) {
            Ok(draft) => draft,
            Err(refused) => return refused.into(),
        };
        let work = if draft.has_password() { Work::Password } else { Work::Key };
        let Some(job) = self.0.jobs.begin(work) else { return Answer::busy(BUSY).with_id(draft.id()) };
        // Verifying a signature takes longer than a message may hold up its neighbours.
        let (job, message) = match tokio::task::spawn_blocking(move || (job, draft.verify())).await {
            Ok((job, Ok(message))) => (job, Arc::new(message)),
            Ok((_, Err(refused))) => return refused.into(),
            Err(_) => return Answer::failed(),
        };
        let id = message.id.clone();
        let source = Source::from(origin.source);
        let attempt = match &message.password {
            None => None,
            Some(_) => match self.0.hasher.attempt(source, &message.username) {
                Ok(attempt) => Some(attempt),
                // Also for the right password: or the limit would tell it from a wrong one.
                Err(after) => {
                    let answer = throttled(after);
                    self.0.turned_away(REGISTER, Some((&message.username, None)), &answer, origin);
                    return answer.with_id(id);
                }
            },
        };
        let begun = attempt.as_ref().map(Attempt::begun).unwrap_or_default();
        let (answer, finding) = self.decide(message, job, origin, begun, &mut Facts::default()).await;
        let guessed = match (attempt, finding) {
            // An attempt that has got no answer counts as it stands. To be told that the queue is full has its price: the remembered
            // password would not have been told so.
            (attempt, Finding::Unknown) => attempt.is_some() && answer.error == Some("busy"),
            (Some(attempt), Finding::Wrong | Finding::WrongToken) => {
                attempt.failed();
                true
            }
            (Some(attempt), Finding::User) => {
                attempt.succeeded();
                false
            }
            (Some(attempt), Finding::Proven | Finding::New) => {
                attempt.settle();
                false
            }
            (None, finding) => matches!(finding, Finding::WrongToken),
        };
        if guessed {
            self.0.rates.lock().charge(source, WRONG_PROOF, self.0.clock.instant());
        }
        answer.with_id(id)
    }

    /// What becomes of a message; `facts` are what argon2 was asked on the way, and `begun` is set when it begins.
    pub(super) async fn decide(
        &self,
        message: Arc<RegisterMessage>,
        job: Job,
        origin: &Origin,
        begun: Arc<AtomicBool>,
        facts: &mut Facts,
    ) -> (Answer, Finding) {
        let source = Source::from(origin.source);
        let busy = || (Answer::busy(BUSY), Finding::Unknown);
        let mut held = Some(job);
        for _ in 0..ROUNDS {
            let job = match held.take() {
                Some(job) => job,
                // Only passwords take more than one step.
                None => match self.0.jobs.resume(Work::Password).await {
                    Some(job) => job,
                    None => return (Answer::failed(), Finding::Unknown),
                },
            };
            let (registry, shared, origin) = (self.clone(), Arc::clone(&message), origin.clone());
            let known = std::mem::take(facts);
            let step = tokio::task::spawn_blocking(move || {
                let outcome = registry.step(&shared, &known, &origin, true);
                // INVARIANT: nobody holds a job while it waits for argon2, for others could not be served meanwhile.
                drop(job);
                (outcome, known)
            });
            let outcome;
            let Ok(done) = step.await else { return (Answer::failed(), Finding::Unknown) };
            (outcome, *facts) = done;
            let Some(password) = message.password.as_ref().map(SecretString::expose_secret) else {
                return match outcome {
                    Outcome::Answer(answer, finding) => (*answer, finding),
                    Outcome::Verify(_) | Outcome::Hash => (Answer::failed(), Finding::Unknown),
                };
            };
            // What a login costs, so that no door tells whose hash is of which kind.
            let floor = self.0.directory.policy().costliest_pbkdf2();
            match outcome {
                Outcome::Answer(answer, finding) => return (*answer, finding),
                Outcome::Verify(hash) => {
                    let against = (hash.as_deref(), floor);
                    let Ok(matches) = self.0.hasher.verify(source, password, against, Arc::clone(&begun)).await else {
                        return busy();
                    };
                    match hash {
                        Some(hash) => facts.verified.push((hash, matches)),
                        None => facts.decoy = true,
                    }
                }
                Outcome::Hash => {
                    let invalid = |error, message| (Answer::error(400, "invalid", error, message), Finding::Unknown);
                    if let Err(lacks) = self.0.hasher.check(password) {
                        return invalid("weak_password", lacks);
                    }
                    match self.0.hasher.hash(source, password, floor).await {
                        Ok(hash) => facts.fresh_hash = Some(hash),
                        Err(HashError::TooLong) => return invalid("password", HashError::TooLong.to_string()),
                        Err(HashError::Busy) => return busy(),
                        Err(error) => {
                            tracing::error!("a registration's password could not be hashed: {error}");
                            return (Answer::failed(), Finding::Unknown);
                        }
                    }
                }
            }
        }
        busy()
    }

    /// One question to the core; its changes are made, durably, before the answer leaves. Blocks.
    fn step(&self, message: &RegisterMessage, facts: &Facts, origin: &Origin, rules: bool) -> Outcome {
        let inner = &*self.0;
        let csr = message.csr.as_ref().map(|(_, csr)| csr);
        let key = csr.map(|csr| csr.key().fingerprint());
        let drawn = match draw(csr, message.code) {
            Ok(drawn) => drawn,
            Err(error) => {
                tracing::error!("no random numbers: {error}");
                return Outcome::failed();
            }
        };
        let ask = Ask {
            username: &message.username,
            key: csr.zip(key.as_deref()).map(|(csr, key)| (key, csr.key().kind().to_string())),
            tag: message.password.as_ref().map(|password| inner.tag(password)),
            source: origin.source,
            listener: &origin.listener,
            door: origin.door,
            hears: origin.hears,
            nonce: csr.and_then(VerifiedCsr::challenge_password),
            binding: origin.binding,
            token: message.token.as_ref(),
            rules,
        };
        let mut state = inner.state.lock();
        let (step, now) = loop {
            inner.settle(&mut state, |_| Claims::on(&message.username, key.as_deref()));
            let now = inner.now();
            let askers = &state.askers;
            let waiting =
                |id| askers.get(&id).is_some_and(|them: &Vec<Asker>| them.iter().any(|it| it.sink.strong_count() > 0));
            let policy = inner.directory.policy();
            let step = state.core.examine(&ask, facts, drawn, &*policy, &waiting, now);
            let settled = match &step {
                Step::Answer(changes, _) | Step::Grant(changes, _) => {
                    inner.settle(&mut state, |core| core.claims(changes))
                }
                Step::Verify(_) | Step::Hash => true,
            };
            if settled {
                break (step, now);
            }
        };
        let details = Details {
            csr: message.csr.as_ref().map(|(text, _)| text.clone()),
            context: message.context.clone(),
            roles: message.roles.clone(),
            permissions: message.permissions.clone(),
            certificate: None,
        };
        let proven = step.is_proven();
        let verdict = match step {
            Step::Verify(hash) => return Outcome::Verify(hash),
            Step::Hash => return Outcome::Hash,
            Step::Answer(steps, verdict) => {
                let plan = Plan { steps, details: Some(details), ..Plan::default() };
                inner.carry_out(&mut state, plan, &Actor::Registry, now).map(|_| verdict)
            }
            Step::Grant(steps, granting) => match inner.unseen(&mut state, steps, *granting, details, now) {
                Ok(None) => {
                    drop(state);
                    return self.step(message, facts, origin, false);
                }
                Ok(Some(verdict)) => Ok(verdict),
                Err(error) => Err(error),
            },
        };
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!("a registration could not be recorded: {error}");
                return Outcome::failed();
            }
        };
        if let Verdict::Barred { rule, .. } = &verdict {
            inner.barred(rule);
        }
        if let Verdict::Refused(Refused::Token(token, fault)) = &verdict {
            inner.claim_failed(*token, *fault, origin);
        }
        let finding = match &verdict {
            Verdict::Granted { .. } if proven => Finding::User,
            _ if proven => Finding::Proven,
            Verdict::Pending(_) | Verdict::Granted { .. } => Finding::New,
            Verdict::Refused(Refused::Token(..)) => Finding::WrongToken,
            Verdict::Denied { .. } | Verdict::Barred { .. } | Verdict::Unusable(_) | Verdict::Refused(_) => {
                Finding::Wrong
            }
        };
        if let (Verdict::Pending(id), Some((sink, path))) = (&verdict, &origin.sink) {
            let asker =
                Asker { binding: origin.binding, sink: Weak::clone(sink), path: path.clone(), id: message.id.clone() };
            state.wait(*id, asker);
        }
        let answer = inner.answer(&state.core, verdict);
        inner.turned_away(
            REGISTER,
            Some((&message.username, state.core.pending_of(&message.username))),
            &answer,
            origin,
        );
        Outcome::Answer(Box::new(answer), finding)
    }

    fn identity(&self, caller: Option<&Caller>) -> Answer {
        let policy = self.0.directory.policy();
        let Some((caller, user)) = caller.and_then(|caller| Some((caller, policy.user(caller.user)?))) else {
            let message = "this connection has no identity; publish to `$registry/register` to get one";
            return Answer::error(401, "refused", "not_authenticated", message);
        };
        let mut permissions: Vec<_> =
            user.roles.iter().filter_map(|role| policy.role(role)).flat_map(|role| role.permissions.clone()).collect();
        permissions.extend(user.permissions.iter().cloned());
        Answer {
            username: Some(user.username.clone()),
            auth: Some(user.auth),
            serial: caller.certificate.as_ref().map(|(serial, _)| serial.clone()),
            not_after: caller.certificate.as_ref().map(|(_, not_after)| *not_after),
            roles: Some(user.roles.clone()),
            permissions: Some(permissions),
            publish_prefix: user.publish_prefix.clone(),
            expires_at: user.expires_at,
            ..Answer::new(200, "ok")
        }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    pub(super) fn count(&self, answer: &Answer) {
        let outcome = match answer.state {
            "granted" => RegistryOutcome::Granted,
            "pending" => RegistryOutcome::Pending,
            "invalid" => RegistryOutcome::Invalid,
            "denied" => RegistryOutcome::Denied,
            "conflict" => RegistryOutcome::Conflict,
            "locked" => RegistryOutcome::Locked,
            "ok" => RegistryOutcome::Answered,
            _ => RegistryOutcome::Refused,
        };
        self.0.metrics.registry_requests.inc(outcome);
        let input = match (answer.status, answer.error) {
            (413, _) => RegistryBadInput::TooLarge,
            (400, Some("malformed")) => RegistryBadInput::Json,
            (400, Some("username" | "username_reserved")) => RegistryBadInput::Username,
            (400, Some("weak_password" | "password")) => RegistryBadInput::Password,
            (400, Some("csr_malformed" | "csr_signature" | "key_not_admitted" | "common_name")) => {
                RegistryBadInput::Csr
            }
            (400, _) => RegistryBadInput::Other,
            _ => return,
        };
        self.0.metrics.registry_bad_input.inc(input);
    }

    // Operators. All of these block on the disk in a thread made for it.

    /// All requests, oldest first.
    pub async fn list(&self, filter: Option<StateFilter>) -> Result<Vec<RequestView>, RegistryError> {
        Ok(self.page(filter, None, usize::MAX).await?.items)
    }

    /// At most so many requests, oldest first, of those after the one that an earlier page ended with.
    pub async fn page(
        &self,
        filter: Option<StateFilter>,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<RequestPage, RegistryError> {
        self.blocking(move |inner| {
            let (requests, more) = {
                let state = inner.state.lock();
                let policy = inner.directory.policy();
                let wanted = |request: &&Request| match filter {
                    _ if is_orphan(request, &*policy) => false,
                    None => true,
                    Some(StateFilter::Pending) => matches!(request.state, State::Pending),
                    Some(StateFilter::Granted) => matches!(request.state, State::Granted { .. }),
                    Some(StateFilter::Denied) => matches!(request.state, State::Denied { .. }),
                };
                let mut wanted = state.core.requests(after).filter(wanted);
                let requests: Vec<Request> = wanted.by_ref().take(limit).cloned().collect();
                (requests, wanted.next().is_some())
            };
            let next = requests.last().filter(|_| more).map(|request| request.id);
            let view = |request: &Request| Ok(RequestView::new(request, inner.details(request.id)?));
            let items = requests.iter().map(view).collect::<Result<_, RegistryError>>()?;
            Ok(RequestPage { items, next })
        })
        .await
    }

    /// One request.
    pub async fn show(&self, id: RequestId) -> Result<RequestView, RegistryError> {
        self.blocking(move |inner| {
            let request = inner.state.lock().core.get(id).cloned();
            let policy = inner.directory.policy();
            let request = request.filter(|request| !is_orphan(request, &*policy)).ok_or(RegistryError::NotFound(id))?;
            Ok(RequestView::new(&request, inner.details(id)?))
        })
        .await
    }

    /// Makes the user, its roles and permissions, its certificate and the decision, all in one transaction.
    pub async fn grant(&self, id: RequestId, terms: GrantTerms, actor: Actor) -> Result<RequestView, RegistryError> {
        self.blocking(move |inner| inner.grant(id, terms, &actor)).await
    }

    /// Turns a request down; the reason is for the device.
    pub async fn deny(&self, id: RequestId, terms: DenyTerms, actor: Actor) -> Result<RequestView, RegistryError> {
        self.blocking(move |inner| inner.deny(id, terms, &actor)).await
    }

    /// Opens the door, for a while and within limits. An earlier unlock and its limits are over.
    pub async fn unlock(&self, terms: UnlockTerms, actor: Actor) -> Result<LockStatus, RegistryError> {
        self.blocking(move |inner| {
            let actor = inner.may_decide(&actor, &Deed::Unlock)?;
            if terms.implicit && inner.settings.require_nonce {
                return Err(RegistryError::Invalid(
                    "a CONNECT can hold no nonce: with `registry.require_nonce` an unlock cannot be `implicit`",
                ));
            }
            let known = &inner.settings.listeners;
            if let Some(listener) = terms.listener.as_ref().filter(|it| !known.is_empty() && !known.contains(it)) {
                return Err(RegistryError::ListenerUnknown {
                    listener: listener.chars().take(64).collect(),
                    known: known.clone(),
                });
            }
            let now = inner.now();
            let mut state = inner.state.lock();
            if !state.core.unlock(terms, inner.settings.unlock_for, now) {
                return Err(RegistryError::Invalid(
                    "an unlock lasts from 1 second to 7 days, and admits 1 request or more",
                ));
            }
            if let Err(error) = inner.directory.record(unlocked(&state.core), &actor) {
                // Not open without a record of who opened it.
                state.core.lock_now();
                return Err(error.into());
            }
            tracing::info!("the registry was unlocked by {actor}");
            inner.tell(EventKind::Unlocked, now, None);
            Ok(inner.status(&state))
        })
        .await
    }

    /// Shuts the door.
    pub async fn lock(&self, actor: Actor) -> Result<LockStatus, RegistryError> {
        self.blocking(move |inner| {
            let actor = inner.may_decide(&actor, &Deed::Lock)?;
            let now = inner.now();
            let mut state = inner.state.lock();
            if state.core.lock_now() {
                tracing::info!("the registry was locked by {actor}");
                inner.tell(EventKind::Locked, now, None);
                // Shut it is, whatever becomes of the record.
                inner.directory.record(audit::Event::RegistryLocked.into(), &actor)?;
            }
            Ok(inner.status(&state))
        })
        .await
    }

    /// How the door stands.
    pub async fn status(&self) -> Result<LockStatus, RegistryError> {
        self.blocking(|inner| Ok(inner.status(&inner.state.lock()))).await
    }

    /// What happens from now on. A receiver that lags behind 256 events misses the oldest, and is told so.
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// What time does: requests lapse, denials are forgotten, the door shuts. To be called about once a second.
    pub async fn tick(&self) -> Result<(), RegistryError> {
        self.blocking(|inner| {
            let now = inner.now();
            let mut state = inner.state.lock();
            if state.core.lock().is_over(now) && state.core.lock_now() {
                tracing::info!("the registry has locked itself");
                inner.tell(EventKind::Locked, now, None);
                inner.directory.record(audit::Event::RegistryLocked.into(), &Actor::Registry)?;
            }
            state.forget_gone();
            let mut changes = state.core.expire(now);
            changes.extend(inner.orphans(&mut state, now));
            // What somebody is deciding about is looked at again in a second.
            changes.retain(|change| !state.core.is_in_flight(&state.core.claims(std::slice::from_ref(change))));
            inner.carry_out(&mut state, changes, &Actor::Registry, now).map(drop)
        })
        .await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let inner = Arc::clone(&self.0);
        // A caller that goes away does not stop it: a decision is made whole or not at all.
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(RegistryError::Damaged(format!("a job was cut off: {error}"))))
    }
}

/// How the door was opened, in the words of the audit log.
fn unlocked(core: &Core) -> Note {
    match core.lock() {
        Lock::Locked => Note::default(),
        Lock::Open { until_wall, remaining, terms, .. } => Note::from(audit::Event::RegistryUnlocked {
            until: *until_wall,
            requests: *remaining,
            limited: terms.listener.is_some() || !terms.source.is_empty() || terms.username.is_some(),
            implicit: terms.implicit,
        }),
    }
}

/// What one question came to.
enum Outcome {
    Verify(Option<String>),
    Hash,
    Answer(Box<Answer>, Finding),
}

impl Outcome {
    fn failed() -> Self {
        Self::Answer(Box::new(Answer::failed()), Finding::Unknown)
    }
}

/// What a message is worth as a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It was the proof of a request on record.
    Proven,
    /// Of one that became a user, who may act: the proof of the user.
    User,
    /// A request was made of it, or a user.
    New,
    /// It has proven nothing, and nothing came of it.
    Wrong,
    /// Nor was its claim token good.
    WrongToken,
    /// It was not brought to an end.
    Unknown,
}

fn throttled(after: Duration) -> Answer {
    let message =
        "too many wrong passwords from this address or for this name; send it again after `retry_after` seconds";
    Answer::error(429, "refused", "throttled", message).retry_after(after)
}

/// Random numbers for a request that may come to be; the pairing code is the key's where there is one.
fn draw(csr: Option<&VerifiedCsr>, code: Option<PairingCode>) -> Result<Drawn, getrandom::Error> {
    let pairing_code = if let Some(csr) = csr {
        PairingCode::of_key(csr.key())
    } else if let Some(code) = code {
        code
    } else {
        let mut bytes = [0; 10];
        getrandom::fill(&mut bytes)?;
        PairingCode::from_bytes(bytes)
    };
    Ok(Drawn { id: RequestId(Uuid::now_v7()), pairing_code })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;

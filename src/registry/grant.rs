//! The shell of decisions: a request becomes a user, or is turned down.
//!
//! Entering: what operators decide, and requests that a token or a rule speaks for. Leaving: users with their certificates. INVARIANT: user,
//! rights, certificate, decision and the use of a token are one transaction. Never: a signature before the log knows of it, nor
//! more than the one who grants holds at that time.

use std::sync::Arc;

use parking_lot::MutexGuard;
use uuid::Uuid;

use super::Now;
use super::approval::{Approval, Meeting, Voice, same_grant};
use super::commit::{Inner, Plan, Shared};
use super::core::{Change, Claims, Core, Granting, Grantor, Refused, Verdict, replaced_user};
use super::deed::{Deed, is_over_mqtt};
use super::operator::{DenyTerms, GrantTerms, RegistryError};
use super::request::{Details, Request, RequestId, RequestView, State, issued as issued_event};
use super::token::TokenFault;
use crate::access::{CertificateRecord, ManagedBy, User, UserId};
use crate::audit::{self, Note, UserRef, Word};
use crate::clock::Duration;
use crate::config::RuleAction;
use crate::directory::{self, Actor, Expected, NewUser};
use crate::metrics::RegistryDecision;
use crate::pki::{IssuedCertificate, PreparedCertificate, Signer as _, VerifiedCsr};

/// Longest reason and comment, in bytes.
const MAX_TEXT: usize = audit::Comment::MAX;

impl Inner {
    pub(super) fn grant(&self, id: RequestId, terms: GrantTerms, actor: &Actor) -> Result<RequestView, RegistryError> {
        match self.grant_now(id, terms.clone(), actor) {
            // The first of two may have lost its rights while this was written: then it is looked at again whose word is the first.
            Err(error) if self.settings.approvals >= 2 && error.is_for_want_of_rights() => {
                self.grant_now(id, terms, actor)
            }
            done => done,
        }
    }

    fn grant_now(&self, id: RequestId, terms: GrantTerms, actor: &Actor) -> Result<RequestView, RegistryError> {
        let actor = &self.may_decide(actor, &Deed::Grant(id))?;
        let now = self.now();
        if terms.expires_at.is_some_and(|at| at <= now.wall) {
            return Err(RegistryError::Invalid("`expires_at` must lie in the future"));
        }
        short_enough(terms.comment.as_deref())?;
        let mut state = self.state.lock();
        self.settle_request(&mut state, id);
        let request = state.core.grantable(id, terms.unpaired, now);
        let mut request = request.map_err(|why| RegistryError::undecidable(id, why))?.clone();
        let (mut by, mut on_rights_of) = (actor.to_string(), actor.clone());
        if self.settings.approvals >= 2 {
            let (who, _) = actor.in_audit();
            match request.approved.as_ref().map(|first| first.meets(&who, &terms)) {
                Some(Meeting::Agreed) => match self.standing(&state.core, &request, now) {
                    Some((first, word)) => {
                        by = format!("{word} and {actor}");
                        // Whichever of them holds it no more when it is written, nothing is.
                        on_rights_of = Actor::Both { first: Box::new(first), second: Box::new(actor.clone()) };
                    }
                    None => return self.approve(&mut state, request, terms, actor, now),
                },
                Some(Meeting::Repeated) => return Err(RegistryError::OwnApproval(id)),
                Some(Meeting::Differs) | None => return self.approve(&mut state, request, terms, actor, now),
            }
        }
        request.approved = None;
        let actor = &on_rights_of;
        let claims = Claims::default().and_request(&request);
        let told = self.hold(&mut state, claims, |state| {
            let plan = MutexGuard::unlocked(state, || {
                if request.replaces.is_some() {
                    self.replacement_plan(request, terms, (actor, &by), now)
                } else {
                    self.user_plan(request, None, terms, (actor, &by), now)
                }
            })?;
            self.make(state, plan, actor, now)
        })?;
        self.metrics.registry_decisions.inc(RegistryDecision::Granted);
        self.decided(state, told, id, now)
    }

    pub(super) fn deny(&self, id: RequestId, terms: DenyTerms, actor: &Actor) -> Result<RequestView, RegistryError> {
        let actor = &self.may_decide(actor, &Deed::Deny(id))?;
        if terms.reason.len() > MAX_TEXT {
            return Err(RegistryError::Invalid("a reason has at most 1024 bytes"));
        }
        short_enough(terms.comment.as_deref())?;
        let now = self.now();
        let mut state = self.state.lock();
        self.settle_request(&mut state, id);
        let changes = state.core.deny(id, terms, actor.to_string(), now);
        let changes = changes.map_err(|why| RegistryError::undecidable(id, why))?;
        let told = self.carry_out(&mut state, changes, actor, now)?;
        self.metrics.registry_decisions.inc(RegistryDecision::Denied);
        self.decided(state, told, id, now)
    }

    /// Records what the first of two people would grant.
    fn approve(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        mut request: Request,
        terms: GrantTerms,
        actor: &Actor,
        now: Now,
    ) -> Result<RequestView, RegistryError> {
        let id = request.id;
        self.check_grant(&state.core, &request, &terms, actor, now)?;
        let (who, _) = actor.in_audit();
        let (by, over_mqtt) = (actor.to_string(), is_over_mqtt(actor));
        request.approved = Some(Box::new(Approval { who, by, over_mqtt, at: now.wall, grant: terms }));
        // What a rule has said before goes whole, with the life of the certificates that it gives.
        request.validity = None;
        let told = self.carry_out(state, vec![Change::Put(Box::new(request))], actor, now)?;
        self.metrics.registry_decisions.inc(RegistryDecision::Approved);
        tracing::info!("request {id} was approved by {actor}; another person must say the same");
        told.into_iter().find(|view| view.id == id).ok_or(RegistryError::NotFound(id))
    }

    /// Could this be granted by this actor now? The caller holds the lock that the core is under.
    fn check_grant(
        &self,
        core: &Core,
        request: &Request,
        terms: &GrantTerms,
        actor: &Actor,
        now: Now,
    ) -> Result<(), RegistryError> {
        if request.replaces.is_some() {
            let user = self.replaced(request, terms)?;
            let draft = core.replacement(&user, request, None, now.wall);
            let put = directory::Change::PutUser { user: Box::new(draft), expected: Expected::Version(user.version) };
            self.directory.preview(|_| Ok(put.into()), actor)?;
            return Ok(());
        }
        self.check_user(new_user(request, terms.clone(), request.password_hash.clone()), actor)
    }

    /// The first of two people, and the word for that one, who still stands by it: could grant it now, as then.
    fn standing(&self, core: &Core, request: &Request, now: Now) -> Option<(Actor, String)> {
        let first = request.approved.as_ref()?;
        let deed = match first.voice() {
            // It speaks for its author, who may make tokens. With a token that is revoked its word is taken back.
            Voice::Token => Deed::CreateToken,
            Voice::Rule(name) if !self.rule_says(name, &first.grant) => {
                tracing::info!("the approval of request {} by {} stands no more", request.id, first.by);
                return None;
            }
            Voice::Person | Voice::Rule(_) => Deed::Grant(request.id),
        };
        let stands = self.may_decide(&deed.again(&first.who, first.over_mqtt), &deed).and_then(|actor| {
            self.check_grant(core, request, &first.grant, &actor, now)?;
            Ok(actor)
        });
        match stands {
            Ok(actor) => Some((actor, first.by.clone())),
            Err(error) => {
                tracing::info!("the approval of request {} by {} stands no more: {error}", request.id, first.by);
                None
            }
        }
    }

    /// Would the rule of this name still grant that?
    fn rule_says(&self, name: &str, grant: &GrantTerms) -> bool {
        self.settings.rules.iter().any(|rule| match &rule.action {
            RuleAction::Grant(says) => rule.name == name && same_grant(&GrantTerms::from(says), grant),
            RuleAction::Deny { .. } => false,
        })
    }

    /// Tells a decision to everybody who waits for it.
    fn decided(
        &self,
        state: MutexGuard<'_, Shared>,
        told: Vec<RequestView>,
        id: RequestId,
        now: Now,
    ) -> Result<RequestView, RegistryError> {
        let view = told.into_iter().find(|view| view.id == id).ok_or(RegistryError::NotFound(id))?;
        tracing::info!("request {id} of `{}` is {} now", view.username, view.state.as_str());
        self.push(state, id, now);
        Ok(view)
    }

    /// Grants a new request that no person has looked at, with no more than the one who speaks for it holds now.
    pub(super) fn grant_unseen(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        steps: Vec<Change>,
        granting: Granting,
        details: Details,
        now: Now,
    ) -> Result<(), RegistryError> {
        let Granting { request, terms, by } = granting;
        let id = request.id;
        let (actor, word, decision) = match by {
            Grantor::Token(token) => {
                let author = state.core.token(token).map(|it| Deed::CreateToken.again(&it.author, it.over_mqtt));
                let author = author.ok_or_else(|| RegistryError::Damaged("a token is gone while it is used".into()))?;
                let author = self.may_decide(&author, &Deed::CreateToken)?;
                let actor = Actor::Token { token: token.0, author: Box::new(author) };
                let word = actor.to_string();
                (actor, word, RegistryDecision::GrantedByToken)
            }
            // Whoever writes broker.toml is bound by nobody's rules.
            Grantor::Rule(rule) => (Actor::Registry, format!("rule {rule}"), RegistryDecision::GrantedByRule),
        };
        if self.settings.approvals >= 2 {
            // It is the word of one person, and another one must say the same.
            self.check_user(new_user(&request, terms.clone(), request.password_hash.clone()), &actor)?;
            let (who, _) = actor.in_audit();
            let mut request = request;
            let over_mqtt = is_over_mqtt(&actor);
            request.approved = Some(Box::new(Approval { who, by: word, over_mqtt, at: now.wall, grant: terms }));
            // Who decides is a person then, and no rule.
            request.rule = None;
            let mut steps = steps;
            steps.push(Change::Insert(Box::new(request)));
            let plan = Plan { steps, details: Some(details), ..Plan::default() };
            self.carry_out(state, plan, &actor, now)?;
            self.metrics.registry_decisions.inc(RegistryDecision::Approved);
            return Ok(());
        }
        let claims = state.core.claims(&steps).and_request(&request).and_rule(request.rule.as_deref());
        self.hold(state, claims, |state| {
            let plan = || self.user_plan(request, Some(details), terms, (&actor, &word), now);
            let mut plan = MutexGuard::unlocked(state, plan)?;
            // It is on record and granted in one step.
            let granted = plan.steps.drain(..).map(|step| match step {
                Change::Put(request) => Change::Insert(request),
                step => step,
            });
            plan.steps = steps.into_iter().chain(granted).collect();
            self.make(state, plan, &actor, now)
        })?;
        self.metrics.registry_decisions.inc(decision);
        tracing::info!("request {id} was granted by {word}");
        Ok(())
    }

    /// As [`Inner::grant_unseen`]; what its author no longer holds is a fault of the token. `None`: a rule cannot give what it is to
    /// give, for a role of it is gone: the request is to be looked at without rules.
    pub(super) fn unseen(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        steps: Vec<Change>,
        granting: Granting,
        details: Details,
        now: Now,
    ) -> Result<Option<Verdict>, RegistryError> {
        let (id, by) = (granting.request.id, granting.by.clone());
        match self.grant_unseen(state, steps, granting, details, now) {
            Ok(()) => {
                let policy = self.directory.policy();
                state.core.verdict(id, &*policy, now).map(Some).ok_or(RegistryError::NotFound(id))
            }
            // Somebody else has taken the name, or the key, since the policy was looked at.
            Err(RegistryError::Directory(error)) if error.kind() == directory::ErrorKind::Conflict => {
                Ok(Some(Verdict::Refused(Refused::NameTaken)))
            }
            Err(error) if error.is_for_want_of_rights() => match by {
                Grantor::Token(token) => {
                    tracing::warn!("token {token} cannot give what it is to give: {error}");
                    Ok(Some(Verdict::Refused(Refused::Token(Some(token), TokenFault::Author))))
                }
                Grantor::Rule(rule) => {
                    tracing::error!("rule `{rule}` of broker.toml cannot give what it is to give: {error}");
                    Ok(None)
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Refuses what cannot be granted, before a key is used.
    pub(super) fn check_user(&self, user: User, actor: &Actor) -> Result<(), RegistryError> {
        let policy = self.directory.policy();
        if let Some(role) = user.roles.iter().find(|role| policy.role(role).is_none()) {
            return Err(RegistryError::RoleUnknown(role.clone()));
        }
        let put = directory::Change::PutUser { user: Box::new(user), expected: Expected::Absent };
        self.directory.preview(|_| Ok(put.into()), actor)?;
        Ok(())
    }

    /// The request as a user with its rights and its certificate. `details`: of a request that is not on the disk yet.
    fn user_plan(
        &self,
        mut request: Request,
        details: Option<Details>,
        terms: GrantTerms,
        (actor, by): (&Actor, &str),
        now: Now,
    ) -> Result<Plan, RegistryError> {
        let comment = terms.comment.clone();
        let hash = request.password_hash.take();
        let mut user = new_user(&request, terms, hash);
        // The directory says so again where it counts.
        self.check_user(user.clone(), actor)?;
        let mut details = details.map_or_else(|| self.details(request.id), Ok)?;
        let issued = self.issue(&request, &details, actor, now)?;
        user.certificates = issued.iter().map(IssuedCertificate::record).collect();
        request.state = State::Granted {
            user: user.id,
            serial: issued.as_ref().map(|issued| issued.serial().to_owned()),
            by: by.to_owned(),
            at: now.wall,
            comment,
        };
        let note = issuance(&user, user.certificates.first());
        details.certificate = issued.map(|issued| issued.pem().to_owned());
        Ok(Plan {
            steps: vec![Change::Put(Box::new(request))],
            users: vec![directory::Change::PutUser { user: Box::new(user), expected: Expected::Absent }],
            details: Some(details),
            note,
        })
    }

    /// As [`Inner::user_plan`], for a request that takes the name of a user: that user gets its proofs and loses its own, and keeps
    /// everything else.
    fn replacement_plan(
        &self,
        mut request: Request,
        terms: GrantTerms,
        (actor, by): (&Actor, &str),
        now: Now,
    ) -> Result<Plan, RegistryError> {
        let user = &*self.replaced(&request, &terms)?;
        let expected = Expected::Version(user.version);
        let put = |user| directory::Change::PutUser { user: Box::new(user), expected };
        let draft = self.state.lock().core.replacement(user, &request, None, now.wall);
        self.directory.preview(|_| Ok(put(draft).into()), actor)?;
        let mut details = self.details(request.id)?;
        let issued = self.issue(&request, &details, actor, now)?;
        let record = issued.as_ref().map(IssuedCertificate::record);
        let changed = self.state.lock().core.replacement(user, &request, record.clone(), now.wall);
        request.password_hash = None;
        request.state = State::Granted {
            user: user.id,
            serial: record.as_ref().map(|record| record.serial.clone()),
            by: by.to_owned(),
            at: now.wall,
            comment: terms.comment,
        };
        details.certificate = issued.map(|issued| issued.pem().to_owned());
        let note = issuance(user, record.as_ref());
        let mut steps = self.state.lock().core.replaced(&request, user.id);
        steps.push(Change::Put(Box::new(request)));
        Ok(Plan { steps, users: vec![put(changed)], details: Some(details), note })
    }

    /// Whom a request replaces, where the terms are those of a replacement.
    fn replaced(&self, request: &Request, terms: &GrantTerms) -> Result<Arc<User>, RegistryError> {
        let GrantTerms { roles, permissions, publish_prefix, expires_at, comment: _, unpaired: _ } = terms;
        if !roles.is_empty() || !permissions.is_empty() || publish_prefix.is_some() || expires_at.is_some() {
            let why = "a replacement keeps the rights and the end of its user: grant it without, and use `user edit`";
            return Err(RegistryError::Invalid(why));
        }
        let policy = self.directory.policy();
        let user = replaced_user(request, &*policy).cloned();
        user.ok_or_else(|| RegistryError::UserUnknown(request.username.clone()))
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
        let validity = request.validity.map_or(self.settings.validity, Duration::from_secs);
        self.certify(&csr, Some(request.id), validity, actor, now).map(Some)
    }

    /// Signs: prepared, recorded, signed once, read again and compared.
    pub(super) fn certify(
        &self,
        csr: &VerifiedCsr,
        request: Option<RequestId>,
        validity: Duration,
        actor: &Actor,
        now: Now,
    ) -> Result<IssuedCertificate, RegistryError> {
        // Of this moment: what is prepared for one CA is signed by it, even if another one issues meanwhile.
        let signer = self.signers.load();
        if self.directory.policy().is_issuer_revoked(&signer.issuer().id()) {
            return Err(RegistryError::Invalid("the CA is revoked: replace it, then grant this"));
        }
        let serial = signer.draw_serial()?;
        let prepared = PreparedCertificate::client(csr, signer.issuer(), serial, now.wall, validity)
            .map_err(crate::pki::SignerError::from)?;
        // Whatever becomes of the transaction: no key signs anything that the log does not know of.
        let intent = audit::Event::CertificateSigning {
            request: request.map(|id| id.0),
            username: csr.username().clone(),
            serial: Word::name(&serial.hex()),
        };
        self.directory.record(intent.into(), actor)?;
        tracing::info!("signing certificate {} for `{}`", serial.hex(), csr.username());
        Ok(signer.sign(prepared)?)
    }
}

/// The user that a request becomes, without its certificate.
fn new_user(request: &Request, terms: GrantTerms, password_hash: Option<String>) -> User {
    NewUser {
        description: terms.comment.unwrap_or_default(),
        auth: request.auth(),
        password_hash,
        roles: terms.roles,
        permissions: terms.permissions,
        publish_prefix: terms.publish_prefix,
        expires_at: terms.expires_at,
        ..NewUser::named(request.username.clone())
    }
    .into_user(UserId(Uuid::now_v7()), ManagedBy::Registry)
}

/// What the audit log says of a certificate that comes with a grant.
fn issuance(user: &User, record: Option<&CertificateRecord>) -> Note {
    let named = || UserRef { id: user.id, username: user.username.clone() };
    Note { place: None, events: record.map(|record| issued_event(named(), record)).into_iter().collect() }
}

/// A comment that fits into the audit log whole.
pub(super) fn short_enough(comment: Option<&str>) -> Result<(), RegistryError> {
    match comment {
        Some(text) if text.len() > MAX_TEXT => Err(RegistryError::Invalid("a comment has at most 1024 bytes")),
        _ => Ok(()),
    }
}

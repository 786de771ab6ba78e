//! The shell of renewals: it parses, asks the core, signs, commits and answers.
//!
//! Entering: messages to `$registry/renew`, and the news that a certificate has connected. Leaving: answers; users with other
//! certificates. Everything that blocks runs off the I/O threads. Never: a signature before the log knows of it, an answer before what it
//! says is durable.

use std::sync::Arc;

use parking_lot::MutexGuard;
use uuid::Uuid;

use super::answer::Answer;
use super::commit::{Inner, Shared, nonce_fault};
use super::core::{Change, Claim, Claims, MAX_ON_RECORD, RenewAsk, RenewRefused, RenewVerdict, Renewal, confirmed};
use super::jobs::Work;
use super::message::RenewMessage;
use super::nonce::NonceId;
use super::operator::RegistryError;
use super::refusals::RENEW;
use super::service::{BUSY, Registry, WRONG_PROOF};
use super::settings::{Caller, Origin};
use super::{Now, request};
use crate::access::{CertificateRecord, User, UserId};
use crate::audit::{self, Note, UserRef, Word};
use crate::directory::{self, Actor, DirectoryError, Expected, Transaction};
use crate::metrics::RenewalOutcome;
use crate::pki::{Signer as _, hex};
use crate::store::{Batch, Table};

pub(super) const RENEWALS: Table<Uuid, Renewal> = Table::new("registry_renewals", 1);
/// The certificate of each renewal, PEM.
const CERTIFICATES: Table<Uuid, String> = Table::new("registry_certificates", 1);

impl Registry {
    /// `$registry/renew`: a new certificate for the caller's own name, or for that of a certificate that lapsed lately.
    pub async fn renew(
        &self,
        payload: &[u8],
        content_type: Option<&str>,
        caller: Option<&Caller>,
        origin: &Origin,
    ) -> Answer {
        let limited = match caller {
            // Strangers at the same address do not take from what users may do.
            Some(caller) => self.limit_user(caller.user),
            None => self.limit(origin),
        };
        let answer = match limited {
            Ok(()) => self.serve_renewal(payload, content_type, caller, origin).await,
            Err(answer) => *answer,
        };
        if answer.error == Some("signature") && caller.is_none() {
            self.inner().rates.lock().charge(origin.source.into(), WRONG_PROOF, self.inner().clock.instant());
        }
        let policy = self.inner().directory.policy();
        let user = caller.and_then(|caller| policy.user(caller.user)).map(|user| (&user.username, None));
        self.inner().turned_away(RENEW, user, &answer, origin);
        if answer.status != 201 {
            self.inner().metrics.registry_renewals.inc(RenewalOutcome::Refused);
        }
        self.count(&answer);
        answer
    }

    async fn serve_renewal(
        &self,
        payload: &[u8],
        content_type: Option<&str>,
        caller: Option<&Caller>,
        origin: &Origin,
    ) -> Answer {
        let work = if caller.is_some() { Work::User } else { Work::Key };
        let Some(job) = self.inner().jobs.begin(work) else { return Answer::busy(BUSY) };
        let (payload, content_type) = (payload.to_vec(), content_type.map(str::to_owned));
        let (inner, caller, origin) = (Arc::clone(self.inner()), caller.cloned(), origin.clone());
        // Once begun it is brought to its end, whoever goes away meanwhile.
        let done = tokio::task::spawn_blocking(move || {
            let _job = job;
            let message = match RenewMessage::parse(&payload, content_type.as_deref()) {
                Ok(message) => message,
                Err(refused) => return refused.into(),
            };
            let answer = inner.renew(&message, caller.as_ref(), &origin).unwrap_or_else(|error| failed(&error));
            answer.with_id(message.id)
        });
        done.await.unwrap_or_else(|_| Answer::failed())
    }

    /// This certificate of this user has connected: what it renews is retired, and its sessions end.
    ///
    /// # Errors
    /// [`RegistryError::Directory`]; the next connection of the certificate is another chance.
    pub async fn confirm(&self, user: UserId, serial: String) -> Result<(), RegistryError> {
        self.blocking(move |inner| {
            let now = inner.now().wall;
            let plan = move |policy: &crate::access::Policy| {
                let changed = policy.user(user).and_then(|user| confirmed(user, &serial, now));
                let put = |user| directory::Change::PutUser { user: Box::new(user), expected: Expected::Any };
                Ok(changed.map_or_else(Transaction::default, |user| put(user).into()))
            };
            inner.directory.commit_with(plan, &Actor::Registry)?;
            Ok(())
        })
        .await
    }
}

impl Inner {
    fn renew(&self, message: &RenewMessage, caller: Option<&Caller>, origin: &Origin) -> Result<Answer, RegistryError> {
        let now = self.now();
        let claim = match (&message.lapsed, caller) {
            (Some(lapsed), _) => Claim::Lapsed {
                username: lapsed.username(),
                fingerprint: lapsed.fingerprint(),
                nonce: lapsed.nonce(),
                binding: origin.binding,
            },
            (None, Some(caller)) => Claim::Session {
                user: caller.user,
                serial: caller.certificate.as_ref().map(|(serial, _)| serial.as_str()),
            },
            (None, None) => return Ok(refused(RenewRefused::NotAuthenticated)),
        };
        let (key, csr) = (message.csr.key().fingerprint(), hex(message.csr.digest()));
        let issuer = self.signers.load().issuer().id();
        let ask = RenewAsk { claim, username: message.csr.username(), key: &key, csr: &csr, issuer: &issuer };
        let mut state = self.state.lock();
        let claims = || Claims::on(ask.username, Some(ask.key));
        let verdict = loop {
            self.settle(&mut state, |_| claims());
            let policy = self.directory.policy();
            let verdict = state.core.renew(&ask, &*policy, now);
            if self.settle(&mut state, |_| claims().and_nonce(verdict.nonce())) {
                break verdict;
            }
        };
        match verdict {
            RenewVerdict::Refused(why) => Ok(refused(why)),
            RenewVerdict::Same { user, record, nonce } => {
                let pem = CERTIFICATES.get(&*self.store, &user.id.0)?;
                let pem = pem.ok_or_else(|| RegistryError::Damaged("a renewed certificate is not there".into()))?;
                self.spend(&mut state, nonce, now);
                self.metrics.registry_renewals.inc(RenewalOutcome::Repeated);
                Ok(self.collected(&user, record, pem))
            }
            RenewVerdict::Issue { user, replaces, nonce } => {
                if let Err(after) = self.issues.lock().take(user.id, now.instant) {
                    let sentence = "too many certificates were issued to this identity lately; come back after `retry_after` seconds";
                    return Ok(Answer::error(429, "refused", "rate", sentence).retry_after(after));
                }
                let in_grace = message.lapsed.is_some();
                let claims = claims().and_nonce(nonce);
                let answer = self.reissue(&mut state, claims, message, (&user, &replaces), csr, now)?;
                self.spend(&mut state, nonce, now);
                let outcome = if in_grace { RenewalOutcome::InGrace } else { RenewalOutcome::Issued };
                self.metrics.registry_renewals.inc(outcome);
                Ok(answer)
            }
        }
    }

    fn reissue(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        claims: Claims,
        message: &RenewMessage,
        (user, replaces): (&User, &str),
        csr: String,
        now: Now,
    ) -> Result<Answer, RegistryError> {
        // A rule that has granted short lives has granted them for good.
        let validity = state.core.validity(user).unwrap_or(self.settings.validity);
        let (issued, record, renewal) = self.write(state, claims, || {
            let issued = self.certify(&message.csr, None, validity, &Actor::Registry, now)?;
            let record = issued.record();
            let changed = self.state.lock().core.renewed(user, record.clone(), replaces, now.wall);
            let named = UserRef { id: user.id, username: user.username.clone() };
            let note = Note {
                place: None,
                events: vec![
                    audit::Event::CertificateRenewed {
                        user: named.clone(),
                        serial: Word::name(&record.serial),
                        replaces: Word::name(replaces),
                        in_grace: message.lapsed.is_some(),
                    },
                    request::issued(named, &record),
                ],
            };
            let renewal = Renewal { serial: record.serial.clone(), csr };
            let mut records = Batch::new();
            records.put(&RENEWALS, &user.id.0, &renewal)?;
            records.put(&CERTIFICATES, &user.id.0, &issued.pem().to_owned())?;
            let expected = Expected::Version(user.version);
            let changes = vec![directory::Change::PutUser { user: Box::new(changed), expected }];
            // INVARIANT: what the user holds and what a lost answer is repeated from are one transaction.
            self.directory.commit_noted(Transaction { changes, records }, &Actor::Registry, note)?;
            Ok((issued, record, renewal))
        })?;
        self.apply(state, vec![Change::Renewed { user: user.id, renewal }]);
        tracing::info!("certificate {replaces} of `{}` is renewed by {}", user.username, record.serial);
        Ok(self.collected(user, record, issued.pem().to_owned()))
    }

    fn spend(&self, state: &mut Shared, nonce: Option<NonceId>, now: Now) {
        self.apply(state, nonce.map(|nonce| Change::Spend { nonce, at: now.instant }).into_iter().collect());
    }

    /// A certificate on its way to the device.
    pub(super) fn collected(&self, user: &User, record: CertificateRecord, pem: String) -> Answer {
        let signer = self.signers.load();
        Answer {
            username: Some(user.username.clone()),
            certificate: Some(pem),
            chain: Some(signer.chain_pem().to_owned()),
            ca: Some(signer.bundle_pem().to_owned()),
            serial: Some(record.serial),
            not_after: Some(record.not_after),
            ..Answer::new(201, "granted")
        }
    }

    /// Takes what is kept of a user's renewal off the disk.
    pub(super) fn forget_renewal(batch: &mut Batch, user: UserId) -> Result<(), RegistryError> {
        batch.delete(&RENEWALS, &user.0)?;
        Ok(batch.delete(&CERTIFICATES, &user.0)?)
    }
}

/// What the disk, the signer or the directory say no to.
fn failed(error: &RegistryError) -> Answer {
    match error {
        // Somebody changed the user in the meantime.
        RegistryError::Directory(DirectoryError::Version { .. } | DirectoryError::NotFound(_)) => Answer::busy(BUSY),
        RegistryError::Directory(DirectoryError::Policy(crate::access::PolicyError::KeyInUse(_))) => {
            refused(RenewRefused::KeyInUse)
        }
        error => {
            tracing::error!("a certificate could not be renewed: {error}");
            Answer::failed()
        }
    }
}

fn refused(why: RenewRefused) -> Answer {
    let denied = |word, sentence: &str| Answer::error(403, "denied", word, sentence);
    match why {
        RenewRefused::NotAuthenticated => {
            let sentence = "connect with the certificate to renew; if it has lapsed, send it as `certificate`, with a `nonce` and a `signature` by its key";
            Answer::error(401, "refused", "not_authenticated", sentence)
        }
        RenewRefused::NotAdmitted => denied(
            "not_admitted",
            "this identity proves itself without a certificate; ask its operator to change its `auth`",
        ),
        RenewRefused::NoCertificate => denied(
            "no_certificate",
            "this connection was made without a certificate on record; connect with the one to renew",
        ),
        RenewRefused::Foreign => {
            denied("foreign", "this certificate is not one of the broker's CA; renew it where it was issued")
        }
        RenewRefused::Configured => {
            denied("configured", "this identity is defined in broker.toml; ask its operator for a new certificate")
        }
        RenewRefused::Unknown => denied(
            "certificate_unknown",
            "this certificate is not on record; ask the operator to let the device register anew",
        ),
        RenewRefused::Revoked => denied("revoked", "this certificate was revoked; ask the operator"),
        RenewRefused::Superseded => {
            denied("superseded", "this certificate was renewed, and the new one is in use; use the new one")
        }
        RenewRefused::Disabled => denied("disabled", "this identity is disabled; ask its operator"),
        RenewRefused::Expired => denied("expired", "this identity has expired; ask its operator"),
        RenewRefused::GraceOver => denied(
            "grace_over",
            "this certificate has lapsed too long ago to be renewed; ask the operator to let the device register anew",
        ),
        RenewRefused::StillValid => {
            let sentence = "this certificate is still good: connect with it, and renew it there";
            Answer::error(409, "conflict", "still_valid", sentence)
        }
        RenewRefused::OtherName => {
            let sentence = "the common name (CN) of the CSR is not the name of this identity; make them equal";
            Answer::error(400, "invalid", "common_name", sentence)
        }
        RenewRefused::KeyInUse => {
            let sentence = "this public key is in use by another identity; make a new key";
            Answer::error(409, "conflict", "key_in_use", sentence)
        }
        RenewRefused::KeyRevoked => {
            let sentence = "a certificate of this public key was revoked; make a new key";
            Answer::error(409, "conflict", "key_revoked", sentence)
        }
        RenewRefused::TooMany(wait) => {
            let sentence = format!(
                "{MAX_ON_RECORD} certificates of this identity are on record; come back after `retry_after` seconds"
            );
            Answer::error(429, "refused", "too_many_certificates", sentence).retry_after(wait)
        }
        RenewRefused::Nonce(fault) => nonce_fault(fault),
    }
}

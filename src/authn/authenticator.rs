//! Puts the proofs together.
//!
//! Enters: what a client presents, and a way to the newest users. Leaves: an [`Identity`] or a [`Refusal`]. It never waits
//! on anything but the argon2 queue, never trusts what it read before that wait, and never does less for a user that there
//! is not than for a wrong password.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::guesses::Guesses;
use super::hasher::{Hasher, Lane, Verdict};
use super::phc::{MAX_PASSWORD_BYTES, PasswordHash};
use super::proofs::ProofCache;
use super::throttle::ThrottleSettings;
use super::{Cause, ClientCertificate, Identity, Proof, Refusal, Source, Users};
use crate::access::{Auth, User, UserId, Username};
use crate::clock::Clock;
use crate::metrics::{AuthenticationOutcome, Metrics};

/// Settings of an [`Authenticator`].
#[derive(Clone, Copy, Debug)]
pub struct AuthenticatorSettings {
    /// Limits on failures.
    pub throttle: ThrottleSettings,
    /// Users whose last verified password is remembered, so that they reconnect without argon2. Default 200,000, about
    /// 20 MiB when full; at least the last half of them is remembered.
    pub remembered_proofs: usize,
}

impl Default for AuthenticatorSettings {
    fn default() -> Self {
        Self { throttle: ThrottleSettings::default(), remembered_proofs: 200_000 }
    }
}

/// What a client presents.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// CONNECT's user name.
    pub username: Option<&'a str>,
    /// CONNECT's password.
    pub password: Option<&'a [u8]>,
    /// The client certificate that TLS has verified.
    pub certificate: Option<&'a Arc<ClientCertificate>>,
    /// Where it comes from.
    pub source: Source,
}

/// Who puts a better hash of a password on record.
pub trait Rehash: Send + Sync + 'static {
    /// `hash` is of the password that has just been verified against the PHC string `verified` of this user, and is to take its
    /// place, unless there is another one by now. Must not block: nobody waits for it.
    fn rehash(&self, user: UserId, verified: String, hash: PasswordHash);
}

/// Checks credentials. One for the whole broker.
pub struct Authenticator {
    rehash: Option<Arc<dyn Rehash>>,
    hasher: Arc<Hasher>,
    proofs: Arc<ProofCache>,
    guesses: Arc<Guesses>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// An identity and whether argon2 was spared.
struct Proven {
    identity: Identity,
    remembered: bool,
    /// The hash that the password was verified against, and the one that is to take its place.
    fresh: Option<(String, PasswordHash)>,
}

/// What became of a password.
struct Checked {
    matches: bool,
    /// argon2 was spared.
    remembered: bool,
    fresh: Option<PasswordHash>,
}

impl Authenticator {
    /// Nobody is remembered yet.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(
        settings: AuthenticatorSettings,
        hasher: Arc<Hasher>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, getrandom::Error> {
        let proofs = Arc::new(ProofCache::new(settings.remembered_proofs)?);
        let guesses = Arc::new(Guesses::new(settings.throttle, Arc::clone(&clock)));
        Ok(Self { rehash: None, hasher, proofs, guesses, clock, metrics })
    }

    /// Hashes of PBKDF2 whose user has logged in are replaced there; without it they stay.
    #[must_use]
    pub fn with_rehash(mut self, rehash: Arc<dyn Rehash>) -> Self {
        self.rehash = Some(rehash);
        self
    }

    /// Who is it? `users` is asked for the newest users before and after the password is checked.
    ///
    /// The users may move again before the caller makes use of the answer: see [`Identity::check`].
    ///
    /// Dropping the future ends the attempt. Before argon2 has begun with it, it counts neither as a failure nor as a
    /// success; after that it counts as a failure, so that nobody gets its work for nothing by hanging up.
    ///
    /// # Errors
    /// A [`Refusal`] with the code for the CONNACK.
    pub async fn authenticate<U: Users>(
        &self,
        users: impl Fn() -> Arc<U>,
        credentials: &Credentials<'_>,
    ) -> Result<Identity, Refusal> {
        let proven = self.prove(&users, credentials).await.map_err(Refusal::from).and_then(|mut proven| {
            // The users may have moved while argon2 was running.
            let identity = &mut proven.identity;
            identity.session_must_end_by = identity.check(&*users(), self.clock.timestamp())?;
            Ok(proven)
        });
        self.metrics.authentications.inc(match &proven {
            Ok(Proven { remembered: true, .. }) => AuthenticationOutcome::RememberedPassword,
            Ok(Proven { identity, .. }) => match identity.proof() {
                Proof::Password => AuthenticationOutcome::Password,
                Proof::Certificate => AuthenticationOutcome::Certificate,
                Proof::Both => AuthenticationOutcome::Both,
                Proof::Anonymous => AuthenticationOutcome::Anonymous,
            },
            Err(Refusal::BadCredentials(_)) => AuthenticationOutcome::BadCredentials,
            Err(Refusal::NotAuthorized(_)) => AuthenticationOutcome::NotAuthorized,
            Err(Refusal::Busy(Cause::Throttled)) => AuthenticationOutcome::Throttled,
            Err(Refusal::Busy(_)) => AuthenticationOutcome::Busy,
        });
        let Proven { identity, fresh, .. } = proven?;
        if let (Some((verified, hash)), Some(rehash)) = (fresh, &self.rehash) {
            rehash.rehash(identity.user(), verified, hash);
        }
        Ok(identity)
    }

    /// These names were at home at these sources before the broker started: the failures of others do not count against
    /// them there. The last ones are kept when there are more than the settings have room for.
    pub fn spare(&self, homes: impl IntoIterator<Item = (Username, Source)>) {
        for (name, source) in homes {
            self.guesses.spare(source, &name);
        }
    }

    /// Forgets the remembered password of a user that is no more. (After any other change it no longer counts anyway.)
    pub fn forget(&self, user: UserId) {
        self.proofs.forget(user);
    }

    /// The limits on guessing: whoever else checks passwords asks there.
    pub fn guesses(&self) -> &Arc<Guesses> {
        &self.guesses
    }

    /// Where passwords are hashed.
    pub fn hasher(&self) -> &Arc<Hasher> {
        &self.hasher
    }

    /// Verifies the proofs; whether the user is enabled is not asked yet, so that a wrong proof cannot find out.
    async fn prove<U: Users>(
        &self,
        users: impl Fn() -> Arc<U>,
        credentials: &Credentials<'_>,
    ) -> Result<Proven, Cause> {
        let name = credentials.claimed_name()?;
        let users = users();
        let user = users.named(&name);
        let certificate = credentials.certificate.map(|certificate| {
            let user = user.ok_or(Cause::UnknownUser)?;
            certificate.proves(&*users, user, self.clock.timestamp())?;
            Ok::<_, Cause>(certificate)
        });
        let auth = user.map(|user| user.auth);
        if let (Some(user), Some(Ok(certificate))) = (user, certificate)
            && matches!(user.auth, Auth::Certificate | Auth::Either)
        {
            let identity = Identity::new(user, false, Some(certificate));
            return Ok(Proven { identity, remembered: false, fresh: None });
        }
        let Some(password) = credentials.password else {
            return Err(match (certificate, auth) {
                (Some(Err(cause)), _) => cause,
                (_, None) => Cause::UnknownUser,
                (Some(Ok(_)), Some(Auth::Password | Auth::None)) => Cause::ProofNotAdmitted,
                _ => Cause::ProofMissing,
            });
        };
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(Cause::WrongPassword); // the client knows its length: there is nothing to hide
        }

        // From here on everything is done for every claim alike, real or not.
        let second = certificate.and_then(Result::ok).filter(|_| auth == Some(Auth::Both));
        let admitted = user.map(Arc::as_ref).filter(|user| match user.auth {
            Auth::Password | Auth::Either => true,
            Auth::Both => second.is_some(),
            Auth::Certificate | Auth::None => false,
        });
        if second.is_some() {
            // It holds the key of this user's certificate: the failures of others are not its own.
            self.guesses.spare(credentials.source, &name);
        }
        let floor = users.costliest_pbkdf2();
        let checked = self.check_password(&name, (admitted, floor), password, credentials.source).await?;
        match admitted {
            Some(user) if checked.matches => Ok(Proven {
                identity: Identity::new(user, true, second),
                remembered: checked.remembered,
                fresh: user.password_hash.clone().zip(checked.fresh),
            }),
            Some(User { password_hash: None, .. }) => Err(Cause::NoPassword),
            Some(_) => Err(Cause::WrongPassword),
            None if user.is_none() => Err(Cause::UnknownUser),
            None => Err(Cause::ProofNotAdmitted),
        }
    }

    /// Is this the password? The user is `None` for everyone who cannot log in by password; beside it, the iterations of
    /// PBKDF2 that the check costs at least.
    async fn check_password(
        &self,
        name: &Username,
        (user, floor): (Option<&User>, u32),
        password: &[u8],
        source: Source,
    ) -> Result<Checked, Cause> {
        let proof = self.proofs.proof(user, password);
        // Before the remembered proof: who has guessed too often is not told a right guess from a wrong one.
        let attempt = self.guesses.attempt(source, name).map_err(|_| Cause::Throttled)?;
        if self.proofs.remembers(&proof) {
            // Known here from now on, should the proof have to be given again while others guess.
            attempt.succeeded();
            return Ok(Checked { matches: true, remembered: true, fresh: None });
        }
        let lane = if attempt.is_at_home() { Lane::Known } else { Lane::Login };
        let hash = user.and_then(|user| user.password_hash.as_deref());
        // A fleet that shares one user queues up with the same proof: the first one pays for all.
        let (proofs, begun) = (Arc::clone(&self.proofs), attempt.begun());
        let begin = move || {
            let remembered = proofs.remembers(&proof);
            begun.store(!remembered, Ordering::Release);
            remembered
        };
        let verified = self.hasher.verify_unless(lane, source, password, (hash, floor), begin).await;
        let Ok(Verdict { matches, fresh }) = verified else {
            attempt.settle();
            return Err(Cause::QueueFull);
        };
        if matches {
            attempt.succeeded();
            self.proofs.remember(proof);
        } else {
            attempt.failed();
        }
        Ok(Checked { matches, remembered: false, fresh })
    }
}

impl Credentials<'_> {
    /// Neither a name, nor a password, nor a certificate: anonymous, or here to register.
    pub fn is_empty(&self) -> bool {
        self.username.is_none() && self.password.is_none() && self.certificate.is_none()
    }

    /// The one name that all of it claims. Says nothing but what the client knows, so it may fail fast.
    fn claimed_name(&self) -> Result<Username, Cause> {
        let claimed = self.username.map(|name| name.parse::<Username>().map_err(|_| Cause::UnknownUser)).transpose()?;
        let Some(certificate) = self.certificate else {
            return claimed.ok_or(Cause::ProofMissing);
        };
        let Ok(name) = &certificate.username else { return Err(Cause::CertificateNamesNobody) };
        if claimed.is_some_and(|claimed| claimed != *name) {
            return Err(Cause::CertificateNameMismatch);
        }
        Ok(name.clone())
    }
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &self.password.map(|_| "[REDACTED]"))
            .field("certificate", &self.certificate)
            .field("source", &self.source)
            .finish()
    }
}

#[cfg(test)]
#[path = "authenticator_tests.rs"]
mod tests;

//! What the registry is given: its bounds, the argon2 pool, and where messages come from and answers go.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use jiff::Timestamp;

use super::answer::Answer;
use super::format::Format;
use super::nonce::Binding;
use super::rates::RateLimit;
use super::request::Door;
use crate::access::{UserId, Username};
use crate::authn::{Attempt, Busy, Guesses, HashError, Hasher, Lane, PasswordPolicy, SALT_BYTES, Source};
use crate::clock::Duration;
use crate::config::RegistryRule;
use crate::mqtt::TopicName;
use crate::pki::DEFAULT_VALIDITY;

/// Settings of a [`Registry`](super::Registry).
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an unlock lasts that does not say. Default 5 minutes.
    pub unlock_for: Duration,
    /// How long a request waits for a decision. Default 24 hours.
    pub pending_ttl: Duration,
    /// Most pending requests. Default 10,000. The last tenth is for networks (/16, or /32 for IPv6) with less than a hundredth of them.
    pub max_pending: usize,
    /// Most pending requests of one source. Default 100.
    pub max_pending_per_source: usize,
    /// How long a denial is remembered. Default 24 hours.
    pub denied_for: Duration,
    /// Life of an issued certificate. Default 90 days.
    pub validity: Duration,
    /// How long after its end a certificate can still be renewed. Default 30 days; zero: not at all.
    pub renew_grace: Duration,
    /// Must the CSR of a new request hold a nonce of `challenge`? Default no.
    pub require_nonce: bool,
    /// How many different people must grant a request: 1 or 2. Default 1.
    pub approvals: u8,
    /// What is decided without a person. Default nothing.
    pub rules: Vec<RegistryRule>,
    /// Names that an unlock can be limited to. Default none: then it can be to any.
    pub listeners: Vec<String>,
    /// Messages of one source. Default 60 at once, then one in a second.
    pub rate: RateLimit,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unlock_for: Duration::from_mins(5),
            pending_ttl: Duration::from_hours(24),
            max_pending: 10_000,
            max_pending_per_source: 100,
            denied_for: Duration::from_hours(24),
            validity: DEFAULT_VALIDITY,
            renew_grace: Duration::from_hours(30 * 24),
            require_nonce: false,
            approvals: 1,
            rules: Vec::new(),
            listeners: Vec::new(),
            rate: RateLimit { burst: 60, every: Duration::from_secs(1) },
        }
    }
}

/// What [`PasswordHasher`] gives.
pub type Hashing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The argon2 pool, and the limits on guessing, as the registry sees them.
pub trait PasswordHasher: Send + Sync + 'static {
    /// Is it strong enough? If not, what it lacks.
    fn check(&self, password: &str) -> Result<(), String>;

    /// May this source show a password for this name now? If not, how long until it may.
    fn attempt(&self, source: Source, name: &Username) -> Result<Attempt, Duration>;

    /// Hashes a password: a PHC string. `floor`: the iterations of PBKDF2 that this costs as well.
    fn hash<'a>(&'a self, source: Source, password: &'a str, floor: u32) -> Hashing<'a, Result<String, HashError>>;

    /// The PHC string of a password with this salt: the same for the same password, and as dear to guess.
    fn stretch<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        salt: [u8; SALT_BYTES],
    ) -> Hashing<'a, Result<String, HashError>>;

    /// Does it match the PHC string? `None` matches nothing, and costs the same. Beside it, the iterations of PBKDF2 that this costs at
    /// least; `begun` is set when the work begins.
    fn verify<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        hash: (Option<&'a str>, u32),
        begun: Arc<AtomicBool>,
    ) -> Hashing<'a, Result<bool, Busy>>;
}

/// The broker's pool with its policy, and the limits that hold for logins.
impl PasswordHasher for (Arc<Hasher>, Arc<Guesses>, PasswordPolicy) {
    fn check(&self, password: &str) -> Result<(), String> {
        self.2.check(password).map_err(|weak| weak.to_string())
    }

    fn attempt(&self, source: Source, name: &Username) -> Result<Attempt, Duration> {
        self.1.attempt(source, name)
    }

    fn hash<'a>(&'a self, source: Source, password: &'a str, floor: u32) -> Hashing<'a, Result<String, HashError>> {
        Box::pin(async move {
            let hash = self.0.hash_as_login(Lane::Registration, source, password.as_bytes(), floor).await?;
            Ok(hash.as_str().to_owned())
        })
    }

    fn stretch<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        salt: [u8; SALT_BYTES],
    ) -> Hashing<'a, Result<String, HashError>> {
        Box::pin(async move {
            let hash = self.0.stretch(Lane::Registration, source, password.as_bytes(), salt).await?;
            Ok(hash.as_str().to_owned())
        })
    }

    fn verify<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        hash: (Option<&'a str>, u32),
        begun: Arc<AtomicBool>,
    ) -> Hashing<'a, Result<bool, Busy>> {
        Box::pin(self.0.verify_as_login(Lane::Registration, source, password.as_bytes(), hash, begun))
    }
}

/// Where a pushed decision goes: a connection, as long as it lives.
pub trait AnswerSink: Send + Sync {
    /// Takes an answer that comes later than its request. Must not block, nor call the registry.
    fn answer(&self, answer: &Answer, path: &ReturnPath);
}

/// How an answer finds its request again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnPath {
    /// Topic of the answer.
    pub response_topic: TopicName,
    /// To echo.
    pub correlation_data: Option<Bytes>,
    /// That of the request.
    pub format: Format,
}

/// Where a message came from.
#[derive(Clone)]
pub struct Origin {
    /// Address of the peer.
    pub source: IpAddr,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// Which way.
    pub door: Door,
    /// Will the client take note of an answer that shows a pairing code, as far as the broker can tell?
    pub hears: bool,
    /// Whom a nonce that is drawn or shown in this message is for.
    pub binding: Binding,
    /// Whom to tell the decision when it falls.
    pub sink: Option<(Weak<dyn AnswerSink>, ReturnPath)>,
}

/// Who asks `whoami`.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The identity of the session.
    pub user: UserId,
    /// Serial number and end of the certificate that it was proven with, if it was.
    pub certificate: Option<(String, Timestamp)>,
}

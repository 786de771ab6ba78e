//! Who somebody has proven to be, and why somebody was refused.
//!
//! Enters: a user and the proofs that were verified. Leaves: an [`Identity`], which can be held against any later state
//! of the users with [`Identity::check`]: at the attach, and at each change that touches the user while the session lives.
//! It never holds a password or a stored hash.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use jiff::Timestamp;

use super::ClientCertificate;
use crate::access::{Auth, CertificateRecord, Policy, User, UserId, Username};
use crate::mqtt::ReasonCode;

/// Where users are looked up: a snapshot of the policy, or a test's own.
pub trait Users {
    /// The user with this name.
    fn named(&self, name: &Username) -> Option<&Arc<User>>;
    /// The user with this identity.
    fn by_id(&self, id: UserId) -> Option<&Arc<User>>;
    /// Is this certificate revoked, by itself or with its issuer?
    fn is_revoked(&self, certificate: &CertificateRecord) -> bool {
        certificate.revoked_at.is_some()
    }
    /// Is this issuer, by its key identifier, revoked as a whole?
    fn is_issuer_revoked(&self, _issuer: &str) -> bool {
        false
    }
    /// Does this user administer anything?
    fn administers(&self, user: &User) -> bool {
        user.is_administrator()
    }
    /// The user who has a certificate with this public key on record, revoked or not.
    fn by_key(&self, key: &str) -> Option<&Arc<User>>;
    /// The most iterations of a PBKDF2 hash on record; 0: there is none.
    fn costliest_pbkdf2(&self) -> u32 {
        0
    }
}

impl Users for Policy {
    fn named(&self, name: &Username) -> Option<&Arc<User>> {
        self.user_named(name)
    }

    fn by_id(&self, id: UserId) -> Option<&Arc<User>> {
        self.user(id)
    }

    fn is_revoked(&self, certificate: &CertificateRecord) -> bool {
        Policy::is_revoked(self, certificate)
    }

    fn is_issuer_revoked(&self, issuer: &str) -> bool {
        Policy::is_issuer_revoked(self, issuer)
    }

    fn administers(&self, user: &User) -> bool {
        Policy::administers(self, user)
    }

    fn by_key(&self, key: &str) -> Option<&Arc<User>> {
        self.user_with_key(key)
    }

    fn costliest_pbkdf2(&self) -> u32 {
        Policy::costliest_pbkdf2(self)
    }
}

/// A proven identity: only [`super::Authenticator::authenticate`] and [`Identity::anonymous`] make one.
#[derive(Clone)]
pub struct Identity {
    user: UserId,
    username: Username,
    /// Of the stored hash that the password was verified against, or of the one that it has replaced.
    password: Option<Digest>,
    certificate: Option<Arc<ClientCertificate>>,
    pub(super) session_must_end_by: Option<Timestamp>,
}

type Digest = [u8; 32];

/// Which proof an identity stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A password.
    Password,
    /// A certificate.
    Certificate,
    /// Both.
    Both,
    /// None: the user that the listener names in `anonymous`.
    Anonymous,
}

/// What a refused client is told. The cause is for the audit log and the metrics: never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 0x86: a wrong proof, or no such user.
    #[error("bad user name or password")]
    BadCredentials(Cause),
    /// 0x87: the identity is proven, but may not connect.
    #[error("not authorized")]
    NotAuthorized(Cause),
    /// 0x89: too many proofs are being checked, or too many were wrong.
    #[error("too many passwords are being checked: try again in some seconds")]
    Busy(Cause),
}

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Neither a password nor a certificate that would do, or one of two that are required.
    ProofMissing,
    /// No such user (any more).
    UnknownUser,
    /// The password is not the user's.
    WrongPassword,
    /// The user has no password.
    NoPassword,
    /// The user's `auth` does not admit this proof (any more).
    ProofNotAdmitted,
    /// The password has been changed since it was verified.
    PasswordChanged,
    /// The certificate names another user than CONNECT does.
    CertificateNameMismatch,
    /// The certificate names nobody by what `ca.identity` says: see [`NamingError`](crate::pki::NamingError).
    CertificateNamesNobody,
    /// The anchor is not good for this name.
    CertificateNameNotAdmitted,
    /// Issued, but not for this user id; or by an extra anchor for somebody who administers and has not pinned it.
    CertificateNotOnRecord,
    /// Revoked.
    CertificateRevoked,
    /// Not valid yet, or not any more.
    CertificateExpired,
    /// The user is disabled.
    Disabled,
    /// The user's `expires_at` is over.
    UserExpired,
    /// Too many failures of this source or for this name.
    Throttled,
    /// The argon2 queue is full.
    QueueFull,
}

impl Identity {
    pub(super) fn new(user: &User, password: bool, certificate: Option<&Arc<ClientCertificate>>) -> Self {
        Self {
            user: user.id,
            username: user.username.clone(),
            password: if password { digest_of_hash(user) } else { None },
            certificate: certificate.cloned(),
            session_must_end_by: None,
        }
    }

    /// The identity of clients without credentials on a listener with `anonymous = "<name>"`.
    ///
    /// # Errors
    /// There is no such user, it is disabled or expired, or its `auth` is not `none`.
    pub fn anonymous(users: &impl Users, name: &Username, now: Timestamp) -> Result<Self, Refusal> {
        let user = users.named(name).ok_or(Cause::UnknownUser)?;
        let identity = Self::new(user, false, None);
        let session_must_end_by = identity.check(users, now)?;
        Ok(Self { session_must_end_by, ..identity })
    }

    /// Does it still stand, and until when as far as is known now? For the attach under the gate, and for every live session
    /// that a change of policy touches: a deleted or disabled user, a changed password, a changed `auth`, a revoked or
    /// expired certificate end it.
    pub fn check(&self, users: &impl Users, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        let user = users.by_id(self.user).ok_or(Cause::UnknownUser)?;
        if self.password.is_some() && self.password != digest_of_hash(user) {
            return Err(Cause::PasswordChanged.into());
        }
        if let Some(certificate) = &self.certificate {
            certificate.proves(users, user, now)?;
        }
        let admitted = match user.auth {
            Auth::Password => self.proof() == Proof::Password,
            Auth::Certificate => matches!(self.proof(), Proof::Certificate | Proof::Both),
            Auth::Either => self.proof() != Proof::Anonymous,
            Auth::Both => self.proof() == Proof::Both,
            Auth::None => self.proof() == Proof::Anonymous,
        };
        if !admitted {
            return Err(Cause::ProofNotAdmitted.into());
        }
        if !user.enabled {
            return Err(Cause::Disabled.into());
        }
        if user.expires_at.is_some_and(|end| end <= now) {
            return Err(Cause::UserExpired.into());
        }
        let certificate = self.certificate.as_ref().map(|certificate| certificate.not_after);
        Ok(certificate.into_iter().chain(user.expires_at).min())
    }

    /// Whose it is.
    pub fn user(&self) -> UserId {
        self.user
    }

    /// The name that the user had when it was proven.
    pub fn username(&self) -> &Username {
        &self.username
    }

    /// Is it that of clients without credentials, who have proven nothing?
    pub fn is_guest(&self) -> bool {
        self.proof() == Proof::Anonymous
    }

    /// What it stands on.
    pub fn proof(&self) -> Proof {
        match (self.password.is_some(), self.certificate.is_some()) {
            (true, false) => Proof::Password,
            (false, true) => Proof::Certificate,
            (true, true) => Proof::Both,
            (false, false) => Proof::Anonymous,
        }
    }

    /// The certificate that it stands on.
    pub fn certificate(&self) -> Option<&Arc<ClientCertificate>> {
        self.certificate.as_ref()
    }

    /// The end of the certificate or of the user, whichever comes first, as of the login: a session never outlives it.
    pub fn session_must_end_by(&self) -> Option<Timestamp> {
        self.session_must_end_by
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("username", &self.username)
            .field("proof", &self.proof())
            .field("session_must_end_by", &self.session_must_end_by)
            .finish_non_exhaustive()
    }
}

/// What a password is told apart by. Each hash has a salt of its own, so that a change of the password, even to the same
/// one, changes it; another hash of a password that was proven leaves it as it was.
pub(super) fn digest_of_hash(user: &User) -> Option<Digest> {
    let hash = digest_of(user.password_hash.as_ref()?);
    Some(user.rehashed_from.unwrap_or(hash))
}

/// SHA-256 of a PHC string.
pub fn digest_of(hash: &str) -> [u8; 32] {
    let mut out = Digest::default();
    for (to, from) in out.iter_mut().zip(digest::digest(&digest::SHA256, hash.as_bytes()).as_ref()) {
        *to = *from;
    }
    out
}

impl Refusal {
    /// For CONNACK; the codec maps it to 4, 5 and 3 for MQTT 3.1.1.
    pub fn code(self) -> ReasonCode {
        match self {
            Self::BadCredentials(_) => ReasonCode::BadUserNameOrPassword,
            Self::NotAuthorized(_) => ReasonCode::NotAuthorized,
            Self::Busy(_) => ReasonCode::ServerBusy,
        }
    }

    /// For the audit log.
    pub fn cause(self) -> Cause {
        let (Self::BadCredentials(cause) | Self::NotAuthorized(cause) | Self::Busy(cause)) = self;
        cause
    }
}

impl From<Cause> for Refusal {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Disabled | Cause::UserExpired => Self::NotAuthorized(cause),
            Cause::Throttled | Cause::QueueFull => Self::Busy(cause),
            _ => Self::BadCredentials(cause),
        }
    }
}

impl Cause {
    /// A stable word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProofMissing => "proof_missing",
            Self::UnknownUser => "unknown_user",
            Self::WrongPassword => "wrong_password",
            Self::NoPassword => "no_password",
            Self::ProofNotAdmitted => "proof_not_admitted",
            Self::PasswordChanged => "password_changed",
            Self::CertificateNameMismatch => "certificate_name_mismatch",
            Self::CertificateNamesNobody => "certificate_names_nobody",
            Self::CertificateNameNotAdmitted => "certificate_name_not_admitted",
            Self::CertificateNotOnRecord => "certificate_not_on_record",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::Disabled => "disabled",
            Self::UserExpired => "user_expired",
            Self::Throttled => "throttled",
            Self::QueueFull => "queue_full",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

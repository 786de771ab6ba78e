//! What the audit log can say, and nothing else.
//!
//! Entering: values that the modules have checked. Leaving: JSON, by serde. INVARIANT: there is no field that could hold a
//! password, a hash, a key, a nonce or the secret of a token. Texts that clients choose come in as [`Pattern`] alone (bounded topics),
//! what operators write for the record as [`Comment`]; their descriptions and reasons, and user names that name nobody, do not come
//! in at all.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::Hash;
use crate::access::{Auth, ManagedBy, Permission, Quota, RevocationReason, RoleName, UserId, Username};

/// On whose behalf something was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Who {
    /// The broker itself, or the program that embeds it.
    System,
    /// A user of the machine.
    Local {
        /// From the peer credentials of the socket, or of the process.
        uid: u32,
    },
    /// A user of the broker.
    User {
        /// The identity.
        id: UserId,
        /// Its name at the time.
        username: Username,
    },
    /// broker.toml.
    Config,
    /// The client registry, on its own.
    Registry,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Local { uid } => write!(f, "local:{uid}"),
            Self::User { username, .. } => write!(f, "user:{username}"),
            Self::Config => f.write_str("config"),
            Self::Registry => f.write_str("registry"),
        }
    }
}

/// From where it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// The Unix socket in the data directory, or the store itself while no broker ran.
    Machine,
    /// The configuration file.
    Configuration,
    /// Over the network.
    Network {
        /// The address of the peer.
        address: IpAddr,
        /// The listener that it came through.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listener: Option<Word>,
        /// The client identifier that an operator was connected with over MQTT; absent at every other door.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<Word>,
    },
    /// Not in person: somebody has shown a claim token of whoever is named.
    Token {
        /// Which.
        token: Uuid,
    },
}

/// What an operator wrote for the record, to be read by people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Comment(String);

impl Comment {
    /// The longest, in bytes.
    pub const MAX: usize = 1024;

    /// The text; of a longer one its beginning.
    pub fn of(text: &str) -> Self {
        Self(text.get(..text.floor_char_boundary(Self::MAX)).unwrap_or_default().to_owned())
    }
}

/// A word of ours (fixed in the program text), a serial number, a fingerprint, the name of a listener, or the client identifier of an
/// operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Word(Cow<'static, str>);

impl From<&'static str> for Word {
    fn from(word: &'static str) -> Self {
        Self(Cow::Borrowed(word))
    }
}

impl Word {
    /// A serial number, a fingerprint, the name of a listener or a client identifier: at most 128 characters of `[A-Za-z0-9:_-]`; what else
    /// there is, is left out.
    pub fn name(text: &str) -> Self {
        let admitted = |c: &char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
        Self(Cow::Owned(text.chars().filter(admitted).take(128).collect()))
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic or a filter, as coarse and as short as the log wants it: two levels, and `#` for the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// The longest, in bytes, before JSON escapes it.
    pub const MAX: usize = 256;

    /// The pattern of a topic that a client named.
    ///
    /// ```
    /// use portcullis::audit::Pattern;
    ///
    /// assert_eq!(Pattern::of("plant/7").as_str(), "plant/7");
    /// assert_eq!(Pattern::of("plant/7/speed/raw").as_str(), "plant/7/#");
    /// ```
    pub fn of(topic: &str) -> Self {
        let mut levels = topic.splitn(3, '/');
        let (first, second) = (levels.next().unwrap_or_default(), levels.next());
        let more = levels.next().is_some();
        let end = first.len() + second.map_or(0, |second| second.len() + 1);
        match (topic.get(..end), more) {
            (Some(head), false) if head.len() <= Self::MAX => Self(head.to_owned()),
            (Some(head), true) if head.len() + 2 <= Self::MAX => Self(format!("{head}/#")),
            _ => Self::any(),
        }
    }

    /// `#`: any topic.
    pub fn any() -> Self {
        Self("#".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user by identity, with the name at the time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserRef {
    /// The identity.
    pub id: UserId,
    /// Its name.
    pub username: Username,
}

/// Something of a user or role that changed; the log names it, and says more where [`UserChange`] has a place for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names of the fields of users and roles")]
pub enum Field {
    Username,
    Description,
    Enabled,
    Auth,
    Password,
    Certificates,
    Roles,
    Permissions,
    PublishPrefix,
    ClientId,
    ExpiresAt,
    Quota,
    Other,
}

/// Names of roles, at most [`RoleNames::MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleNames {
    names: Vec<RoleName>,
    #[serde(default, skip_serializing_if = "is_zero")]
    more: usize,
}

impl RoleNames {
    /// How many are named.
    pub const MAX: usize = 100;

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl<'a> FromIterator<&'a RoleName> for RoleNames {
    fn from_iter<I: IntoIterator<Item = &'a RoleName>>(names: I) -> Self {
        let mut names = names.into_iter();
        let first = names.by_ref().take(Self::MAX).cloned().collect();
        Self { names: first, more: names.count() }
    }
}

/// Permissions, as many as fit into 16 KiB of JSON whatever is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    rules: Vec<Permission>,
    #[serde(default, skip_serializing_if = "is_zero")]
    more: usize,
}

impl Permissions {
    const BUDGET: usize = 16 * 1024;

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.more == 0
    }
}

/// The most that a rule takes in JSON: a byte becomes at most six (`\u0000`).
fn rule_size(rule: &Permission) -> usize {
    200 + rule.resource.len().saturating_mul(6)
}

impl<'a> FromIterator<&'a Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = &'a Permission>>(rules: I) -> Self {
        let mut kept = Self::default();
        let mut left = Self::BUDGET;
        for rule in rules {
            match left.checked_sub(rule_size(rule)) {
                Some(rest) if kept.more == 0 => {
                    left = rest;
                    kept.rules.push(rule.clone());
                }
                _ => kept.more += 1,
            }
        }
        kept
    }
}

/// What of a user changed. A password is told by [`Field::Password`] alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserChange {
    /// Everything that changed, by name.
    pub fields: Vec<Field>,
    /// The new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renamed: Option<Username>,
    /// The new state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The new kind of proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The new end; absent with [`Field::ExpiresAt`]: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The new bounds; absent with [`Field::Quota`]: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Roles given.
    #[serde(skip_serializing_if = "RoleNames::is_empty")]
    pub roles_added: RoleNames,
    /// Roles taken.
    #[serde(skip_serializing_if = "RoleNames::is_empty")]
    pub roles_removed: RoleNames,
    /// Rules given.
    #[serde(skip_serializing_if = "Permissions::is_empty")]
    pub permissions_added: Permissions,
    /// Rules taken.
    #[serde(skip_serializing_if = "Permissions::is_empty")]
    pub permissions_removed: Permissions,
}

/// What of a role changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleChange {
    /// Everything that changed, by name.
    pub fields: Vec<Field>,
    /// Rules put in.
    #[serde(skip_serializing_if = "Permissions::is_empty")]
    pub permissions_added: Permissions,
    /// Rules taken out.
    #[serde(skip_serializing_if = "Permissions::is_empty")]
    pub permissions_removed: Permissions,
}

/// The rule that decided, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `None`: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// As it was written; left out when it is too long for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<Permission>,
}

impl Rule {
    /// Of an access decision.
    pub fn new(role: Option<RoleName>, permission: Permission) -> Self {
        let fits = rule_size(&permission) <= Permissions::BUDGET;
        Self { role, permission: fits.then_some(permission) }
    }
}

/// Why a request to the registry is gone without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lapse {
    /// Nobody decided in time.
    Expired,
    /// It gave way to another one of its source.
    Displaced,
    /// It was denied, and its time on record is over.
    Forgotten,
    /// Its user is gone.
    UserGone,
    /// Its user has another proof now.
    Replaced,
    /// An operator has shut the name that it was to take.
    Cancelled,
}

/// Why a name is open to a new key no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Closing {
    /// A request has taken it.
    Granted,
    /// An operator has shut it.
    Cancelled,
    /// Its time is over.
    Expired,
    /// Its user is gone, or has another name.
    UserGone,
}

/// Why a claim token is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenEnd {
    /// An operator has revoked it.
    Revoked,
    /// Its time is over.
    Expired,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
#[expect(missing_docs, reason = "what the fields mean, their names and types say")]
pub enum Event {
    /// The broker has started.
    BrokerStarted,
    /// The broker stops as it should.
    BrokerStopped,
    /// The key that signs heads was made: SHA-256 of its public half.
    KeyCreated { key: Hash },
    /// The records up to this one are about to be removed: they are older or more than the settings keep.
    Pruned { through: u64, hash: Hash, records: u64 },
    /// A user was created.
    UserCreated { user: UserRef, managed_by: ManagedBy, new: u64, change: UserChange },
    /// A user was changed: the name is the old one.
    UserChanged { user: UserRef, old: u64, new: u64, change: UserChange },
    /// The password of a user who came from another broker is on record as argon2id from now on: its first login has shown it.
    PasswordRehashed { user: UserRef },
    /// A user was deleted.
    UserDeleted { user: UserRef, old: u64 },
    /// A role was created.
    RoleCreated { role: RoleName, managed_by: ManagedBy, new: u64, change: RoleChange },
    /// A role was changed.
    RoleChanged { role: RoleName, old: u64, new: u64, change: RoleChange },
    /// A role was deleted.
    RoleDeleted { role: RoleName, old: u64 },
    /// The CA is about to sign a certificate; if it does and the change is made, [`Event::CertificateIssued`] follows.
    /// `request`: absent for a renewal.
    CertificateSigning {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Uuid>,
        username: Username,
        serial: Word,
    },
    /// The CA has issued a certificate.
    CertificateIssued { user: UserRef, serial: Word, fingerprint: Word, not_after: Timestamp },
    /// A certificate is good no more. `reason`: absent when the user was deleted.
    CertificateRevoked {
        user: UserRef,
        serial: Word,
        fingerprint: Word,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<RevocationReason>,
    },
    /// All certificates of this issuer (its key identifier) are good no more.
    IssuerRevoked { issuer: Word, reason: RevocationReason },
    /// The broker shows another certificate: one that it has `created` or `renewed`, or one that was `replaced` by an operator.
    ServerCertificate { origin: Word, fingerprint: Word, not_after: Timestamp },
    /// The CA is about to be changed: `what` is `rotate`, `import`, `retire`, or `request` (a key for another one is made).
    CaChanging { what: Word, issuer: Word },
    /// This CA issues now; the one before it is trusted, if there is one. `what` as above, or `found`: at a start, in the files.
    CaChanged {
        what: Word,
        issuer: Word,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former: Option<Word>,
    },
    /// The CA is about to sign the revocation list with this number.
    CrlSigning { issuer: Word, number: u64, entries: u64, next_update: Timestamp },
    /// A user has renewed a certificate, which is good until the new one was used. `in_grace`: it had lapsed.
    CertificateRenewed { user: UserRef, serial: Word, replaces: Word, in_grace: bool },
    /// A device asks for an identity. `key`: SHA-256 of the public key of its CSR.
    RegistrationRequested {
        request: Uuid,
        username: Username,
        auth: Auth,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Word>,
        from: Place,
    },
    /// The first of two people would grant a request.
    RegistrationApproved {
        request: Uuid,
        username: Username,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Uuid>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<Comment>,
    },
    /// A request became a user.
    RegistrationGranted {
        request: Uuid,
        user: UserRef,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Uuid>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Word>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<Comment>,
    },
    /// A request was turned down.
    RegistrationDenied {
        request: Uuid,
        username: Username,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<Comment>,
    },
    /// A request is gone without, or long after, a decision.
    RegistrationLapsed { request: Uuid, username: Username, why: Lapse },
    /// The next request for the name of this user may replace its proofs. `limited`: from some networks only.
    ReplacementOpened { user: UserRef, until: Timestamp, limited: bool },
    /// It may no more.
    ReplacementClosed { user: UserRef, why: Closing },
    /// The registry admits new requests; `implicit`: a CONNECT is one, too.
    RegistryUnlocked {
        until: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests: Option<u32>,
        limited: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        implicit: bool,
    },
    /// The registry admits no new requests any more.
    RegistryLocked,
    /// A claim token was made. `limited`: to some names or networks.
    TokenCreated {
        token: Uuid,
        uses: u32,
        until: Timestamp,
        limited: bool,
        #[serde(default, skip_serializing_if = "RoleNames::is_empty")]
        roles: RoleNames,
        #[serde(default, skip_serializing_if = "Permissions::is_empty")]
        permissions: Permissions,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<Comment>,
    },
    /// A claim token is good no more. `used`: how many devices it has served.
    TokenEnded { token: Uuid, used: u32, why: TokenEnd },
    /// What was shown as a claim token was not good. `token`: absent where it is the secret of none.
    TokensRefused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Uuid>,
        from: Place,
        cause: Word,
        count: u64,
        first: Timestamp,
        last: Timestamp,
    },
    /// Registrations or renewals (`operation`) were refused. `user`: whose name they were for, if that is anybody's; `request`: the pending one
    /// that has the name. `cause`: the word that the device was told.
    RegistrationsRefused {
        operation: Word,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserRef>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Uuid>,
        from: Place,
        cause: Word,
        count: u64,
        first: Timestamp,
        last: Timestamp,
    },
    /// Logins failed. `user`: whom they named, if that is anybody; a name of nobody may be a password in the wrong field.
    LoginsFailed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserRef>,
        from: Place,
        cause: Word,
        count: u64,
        first: Timestamp,
        last: Timestamp,
    },
    /// Access was refused. `user`: absent for clients that enrol. `rule`: absent when no rule says anything.
    Refused {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserRef>,
        action: Word,
        topic: Pattern,
        cause: Word,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Rule>,
        count: u64,
        first: Timestamp,
        last: Timestamp,
    },
    /// So many more of the same interval, of too many users and sources to tell apart.
    NotDetailed { logins: u64, refusals: u64 },
}

impl Event {
    /// The word that names it in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BrokerStarted => "broker_started",
            Self::BrokerStopped => "broker_stopped",
            Self::KeyCreated { .. } => "key_created",
            Self::Pruned { .. } => "pruned",
            Self::UserCreated { .. } => "user_created",
            Self::UserChanged { .. } => "user_changed",
            Self::PasswordRehashed { .. } => "password_rehashed",
            Self::UserDeleted { .. } => "user_deleted",
            Self::RoleCreated { .. } => "role_created",
            Self::RoleChanged { .. } => "role_changed",
            Self::RoleDeleted { .. } => "role_deleted",
            Self::CertificateSigning { .. } => "certificate_signing",
            Self::CertificateIssued { .. } => "certificate_issued",
            Self::CertificateRenewed { .. } => "certificate_renewed",
            Self::CertificateRevoked { .. } => "certificate_revoked",
            Self::IssuerRevoked { .. } => "issuer_revoked",
            Self::ServerCertificate { .. } => "server_certificate",
            Self::CaChanging { .. } => "ca_changing",
            Self::CaChanged { .. } => "ca_changed",
            Self::CrlSigning { .. } => "crl_signing",
            Self::RegistrationRequested { .. } => "registration_requested",
            Self::RegistrationApproved { .. } => "registration_approved",
            Self::RegistrationGranted { .. } => "registration_granted",
            Self::RegistrationDenied { .. } => "registration_denied",
            Self::RegistrationLapsed { .. } => "registration_lapsed",
            Self::ReplacementOpened { .. } => "replacement_opened",
            Self::ReplacementClosed { .. } => "replacement_closed",
            Self::RegistrationsRefused { .. } => "registrations_refused",
            Self::RegistryUnlocked { .. } => "registry_unlocked",
            Self::RegistryLocked => "registry_locked",
            Self::TokenCreated { .. } => "token_created",
            Self::TokenEnded { .. } => "token_ended",
            Self::TokensRefused { .. } => "tokens_refused",
            Self::LoginsFailed { .. } => "logins_failed",
            Self::Refused { .. } => "refused",
            Self::NotDetailed { .. } => "not_detailed",
        }
    }
}

/// What a caller adds to a transaction: from where it comes, and what it means beyond the users and roles in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// `None`: as far as the actor says.
    pub place: Option<Place>,
    /// In this order, before what the transaction changes.
    pub events: Vec<Event>,
}

impl From<Event> for Note {
    fn from(event: Event) -> Self {
        Self { place: None, events: vec![event] }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

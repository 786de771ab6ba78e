//! What can be asked of the directory, and by whom.

use std::fmt;

use jiff::Timestamp;
use uuid::Uuid;

use super::Right;
use crate::access::{
    Auth, CertificateRecord, ManagedBy, Permission, Quota, RevocationReason, Role, RoleName, User, UserId, Username,
};
use crate::audit::{Place, Who};
use crate::store::Batch;

/// On whose behalf a change is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Actor {
    /// The broker itself, or the program that embeds it.
    System,
    /// A user of the machine, through the Unix socket.
    Local {
        /// From the peer credentials of the socket.
        uid: u32,
    },
    /// A user of the broker.
    User {
        /// The identity.
        id: UserId,
        /// Its name at the time.
        username: Username,
        /// Where it acts from, for the audit log; `None`: within the program that embeds the broker.
        from: Option<Place>,
        /// What it must be allowed to do, still in the commit that does it; `None`: no more than to give and take what it does.
        right: Option<Right>,
    },
    /// broker.toml.
    Config,
    /// The client registry, on its own (a rule, a renewal).
    Registry,
    /// A claim token, on the rights of who has made it.
    Token {
        /// Which.
        token: Uuid,
        /// Who.
        author: Box<Actor>,
    },
    /// Two people who have said the same, on the rights of each of them.
    Both {
        /// Who has said it before.
        first: Box<Actor>,
        /// Who acts now, and is who acts in the audit log.
        second: Box<Actor>,
    },
}

impl Actor {
    /// Who it is and where it acts, in the words of the audit log.
    pub(crate) fn in_audit(&self) -> (Who, Option<Place>) {
        match self {
            Self::System => (Who::System, None),
            Self::Local { uid } => (Who::Local { uid: *uid }, Some(Place::Machine)),
            Self::User { id, username, from, .. } => (Who::User { id: *id, username: username.clone() }, from.clone()),
            Self::Config => (Who::Config, Some(Place::Configuration)),
            Self::Registry => (Who::Registry, None),
            Self::Token { token, author } => (author.in_audit().0, Some(Place::Token { token: *token })),
            Self::Both { second, .. } => second.in_audit(),
        }
    }

    /// The user of the broker whose rights bind it, of two people one; `None`: nobody's do.
    pub fn user(&self) -> Option<(UserId, &Username)> {
        match self {
            Self::User { id, username, .. } => Some((*id, username)),
            Self::Token { author, .. } => author.user(),
            Self::Both { first, second } => second.user().or_else(|| first.user()),
            Self::System | Self::Local { .. } | Self::Config | Self::Registry => None,
        }
    }

    /// This user, within the program that embeds the broker.
    pub fn of(user: &User) -> Self {
        Self::User { id: user.id, username: user.username.clone(), from: None, right: None }
    }

    /// The same, where it is a user, by this right alone.
    #[must_use]
    pub fn by(self, needed: Right) -> Self {
        match self {
            Self::User { id, username, from, .. } => Self::User { id, username, from, right: Some(needed) },
            other => other,
        }
    }

    /// The right that a user acts by, of a token its author.
    pub fn right(&self) -> Option<&Right> {
        match self {
            Self::User { right, .. } => right.as_ref(),
            Self::Token { author, .. } => author.right(),
            _ => None,
        }
    }
}

/// Who acted once acts again, from nowhere in particular.
impl From<&Who> for Actor {
    fn from(who: &Who) -> Self {
        match who {
            Who::System => Self::System,
            Who::Local { uid } => Self::Local { uid: *uid },
            Who::User { id, username } => Self::User { id: *id, username: username.clone(), from: None, right: None },
            Who::Config => Self::Config,
            Who::Registry => Self::Registry,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Local { uid } => write!(f, "local:{uid}"),
            Self::User { username, .. } => write!(f, "user:{username}"),
            Self::Config => f.write_str("config"),
            Self::Registry => f.write_str("registry"),
            Self::Token { token, author } => write!(f, "token {token} of {author}"),
            Self::Both { first, second } => write!(f, "{first} and {second}"),
        }
    }
}

/// What must be there for a change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: the change creates.
    Absent,
    /// The version that was read.
    Version(u64),
    /// Anything: the last write wins. A put creates or replaces; a delete still needs something to delete.
    Any,
}

/// One change. The directory itself sets `version`, `created_at` (when it creates) and keeps `managed_by` (when it
/// does not).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates or replaces the user with this `id`.
    PutUser {
        /// The user as it shall be.
        user: Box<User>,
        /// What must be there.
        expected: Expected,
    },
    /// Deletes a user. Nothing of it stays; a later user of that name has another id.
    DeleteUser {
        /// Which one.
        id: UserId,
        /// What must be there.
        expected: Expected,
    },
    /// Creates or replaces the role of this name.
    PutRole {
        /// The role as it shall be.
        role: Role,
        /// What must be there.
        expected: Expected,
    },
    /// Deletes a role that nobody holds any more.
    DeleteRole {
        /// Which one.
        name: RoleName,
        /// What must be there.
        expected: Expected,
    },
    /// Takes every certificate of an issuer out of force, for good: those that it has issued and those that it will.
    RevokeIssuer {
        /// Its key identifier, lower-case hexadecimal.
        issuer: String,
        /// Why.
        reason: RevocationReason,
        /// In the words of the operator.
        comment: Option<String>,
    },
}

/// Changes that are made together or not at all, in order, with records of other modules in the same batch.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Changes of users and roles. References among them are checked after the last one.
    pub changes: Vec<Change>,
    /// Records of other modules' tables.
    pub records: Batch,
}

impl From<Change> for Transaction {
    fn from(change: Change) -> Self {
        Self { changes: vec![change], records: Batch::new() }
    }
}

/// What a caller says about a user to be created; the rest is the directory's.
#[derive(Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The name.
    pub username: Username,
    /// For people.
    pub description: String,
    /// May it do anything?
    pub enabled: bool,
    /// Which proof it must give.
    pub auth: Auth,
    /// PHC string, already checked.
    pub password_hash: Option<String>,
    /// Pinned certificates.
    pub certificates: Vec<CertificateRecord>,
    /// Roles that exist, or come to exist in the same transaction.
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    pub publish_prefix: Option<String>,
    /// Pattern for its client identifier.
    pub client_id: Option<String>,
    /// How much of the broker it may take up.
    pub quota: Option<Quota>,
    /// End of the identity.
    pub expires_at: Option<Timestamp>,
}

// Without the hash.
impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("username", &self.username)
            .field("enabled", &self.enabled)
            .field("auth", &self.auth)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl NewUser {
    /// An enabled user with no proof, no role and no rule.
    pub fn named(username: Username) -> Self {
        Self {
            username,
            description: String::new(),
            enabled: true,
            auth: Auth::default(),
            password_hash: None,
            certificates: Vec::new(),
            roles: Vec::new(),
            permissions: Vec::new(),
            publish_prefix: None,
            client_id: None,
            quota: None,
            expires_at: None,
        }
    }

    /// The user with this identity, for a [`Change::PutUser`].
    pub fn into_user(self, id: UserId, managed_by: ManagedBy) -> User {
        User {
            id,
            username: self.username,
            description: self.description,
            enabled: self.enabled,
            auth: self.auth,
            password_hash: self.password_hash,
            rehashed_from: None,
            certificates: self.certificates,
            roles: self.roles,
            permissions: self.permissions,
            publish_prefix: self.publish_prefix,
            client_id: self.client_id,
            quota: self.quota.map(Box::new),
            expires_at: self.expires_at,
            managed_by,
            created_at: Timestamp::UNIX_EPOCH,
            last_seen_at: None,
            version: 0,
        }
    }
}

//! Why the directory refuses, by who is at fault; the doors turn the kind into their own status.

use std::fmt;
use std::sync::Arc;

use super::Excess;
use crate::access::{PolicyError, RoleName, Username};
use crate::store::StoreError;

/// A user or a role, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// By name, or by id where there is no name.
    User(String),
    /// By name.
    Role(RoleName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user `{name}`"),
            Self::Role(name) => write!(f, "role `{name}`"),
        }
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Client: it does not exist.
    #[error("there is no {0}")]
    NotFound(Subject),
    /// Client: it was to be created.
    #[error("{0} exists already")]
    Exists(Subject),
    /// Client: somebody else was faster.
    #[error("{subject} has version {found}, not {expected}: read it again and repeat the change")]
    Version {
        /// What was to be changed.
        subject: Subject,
        /// The version that the change was made from.
        expected: u64,
        /// The version that it has.
        found: u64,
    },
    /// Client: broker.toml owns it.
    #[error("{0} is defined in broker.toml: change it there")]
    ManagedByConfig(Subject),
    /// Operator: broker.toml names what others own.
    #[error("broker.toml defines {}, which the API or the registry owns: rename it in broker.toml, or delete it there first", list(.0))]
    OwnedElsewhere(Vec<Subject>),
    /// Operator: broker.toml names it twice.
    #[error("broker.toml defines {0} twice")]
    Repeated(Subject),
    /// Client: the name is the broker's own.
    #[error("the username `{0}` is reserved: choose another one")]
    ReservedName(Username),
    /// Client: nobody could administer the broker any more.
    #[error("user `{0}` is the last one who can administer the broker: give another user the role `admin` first")]
    LastAdmin(Username),
    /// Client: it would give, or administer, more than it holds itself.
    #[error("user `{actor}` may not do this{}: {excess}", .subject.as_ref().map(|subject| format!(" to {subject}")).unwrap_or_default())]
    NotHeld {
        /// Who asked.
        actor: Username,
        /// What was to be changed.
        subject: Option<Subject>,
        /// What is too much.
        excess: Excess,
    },
    /// Client: nothing revoked comes to life again.
    #[error("the certificate `{0}` is revoked, and stays so: issue another one")]
    StaysRevoked(String),
    /// Client: it is revoked already.
    #[error("the issuer `{issuer}` was revoked at {at}")]
    IssuerRevoked {
        /// Its key identifier.
        issuer: String,
        /// When.
        at: jiff::Timestamp,
    },
    /// Client: a document that no state could satisfy.
    #[error("{0}")]
    Document(String),
    /// Client: that far back nobody remembers, or it is yet to come.
    #[error("version {asked} is not on record: versions {oldest} to {last} are")]
    NotOnRecord {
        /// What was asked for.
        asked: u64,
        /// The first state that can be gone back to.
        oldest: u64,
        /// The last commit.
        last: u64,
    },
    /// Client: somebody else was faster.
    #[error("there was another commit after version {0}: look again, and repeat the rollback")]
    Outrun(u64),
    /// Client: the result would be no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Us: another module wrote into a table of the directory.
    #[error("the records that come with a transaction may not be those of the directory")]
    ForeignRecords,
    /// Us: a listener or a plan called the directory that was calling it.
    #[error("the directory cannot commit from within a commit")]
    Reentrant,
    /// Us: the commit ended in a panic; its outcome is known after a restart.
    #[error("the commit was interrupted; whether it was made is known after a restart")]
    Interrupted,
    /// Us: what the store holds is no policy.
    #[error("the users and roles in the store cannot be loaded: {0}")]
    Stored(PolicyError),
    /// The disk.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 422.
    Invalid,
    /// 500.
    Internal,
}

impl DirectoryError {
    /// What kind of refusal it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotHeld { .. } => ErrorKind::Forbidden,
            Self::NotFound(_) | Self::NotOnRecord { .. } => ErrorKind::NotFound,
            Self::Exists(_)
            | Self::Version { .. }
            | Self::ManagedByConfig(_)
            | Self::OwnedElsewhere(_)
            | Self::Outrun(_)
            | Self::LastAdmin(_)
            | Self::StaysRevoked(_)
            | Self::IssuerRevoked { .. } => ErrorKind::Conflict,
            Self::Policy(error) if error.is_conflict() => ErrorKind::Conflict,
            Self::Policy(_) | Self::ReservedName(_) | Self::Repeated(_) | Self::Document(_) => ErrorKind::Invalid,
            // A user or role that is too long is the client's to shorten.
            Self::Store(error) if matches!(**error, StoreError::TooLarge { .. }) => ErrorKind::Invalid,
            Self::ForeignRecords | Self::Reentrant | Self::Interrupted | Self::Stored(_) | Self::Store(_) => {
                ErrorKind::Internal
            }
        }
    }
}

impl From<StoreError> for DirectoryError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

fn list(subjects: &[Subject]) -> String {
    subjects.iter().map(Subject::to_string).collect::<Vec<_>>().join(", ")
}

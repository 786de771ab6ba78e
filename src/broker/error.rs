//! Why a broker does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{
    audit::{KeeperError, KeyError},
    authn::{AnchorError, HashError, WeakPassword},
    authority::AuthorityError,
    config::ConfigError,
    directory::DirectoryError,
    net::TlsError,
    pki::SignerError,
    registry::RegistryError,
    store::StoreError,
};

/// What keeps a broker from starting, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A socket.
    #[error("{told}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
        /// The same with its place in the configuration, and what to do about it.
        told: Box<ConfigError>,
    },
    /// The admin socket.
    #[error("the admin socket `{}` cannot be made: {source}", path.display())]
    AdminSocket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error("the store in `{}` cannot be used: {source}", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// Users and roles.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
    /// The client registry.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// The audit log.
    #[error("{0}")]
    Audit(#[from] KeeperError),
    /// The key that signs the audit log.
    #[error("{0}")]
    AuditKey(#[from] KeyError),
    /// The CA or the server certificate.
    #[error("{0}")]
    Certificate(#[from] SignerError),
    /// The CA.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// A further anchor.
    #[error("{0}")]
    Anchor(#[from] AnchorError),
    /// TLS.
    #[error("listener `{listener}`: {source}")]
    Tls {
        /// Its name.
        listener: String,
        /// Why.
        source: TlsError,
    },
    /// A setting that only shows to be wrong here.
    #[error("{0}")]
    Setting(String),
    /// A password from a file.
    #[error("the password of user `{username}` is too weak: {source}")]
    WeakPassword {
        /// Whose.
        username: String,
        /// What it lacks.
        source: WeakPassword,
    },
    /// A password that cannot be hashed.
    #[error("the password of user `{username}` cannot be hashed: {source}")]
    Hash {
        /// Whose.
        username: String,
        /// Why.
        source: HashError,
    },
    /// The operating system.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

//! What can go wrong with records, by who is at fault. No message holds any part of a value: values hold secrets.

use std::path::PathBuf;
use std::sync::Arc;

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Operator: two brokers on one data directory.
    #[error("the store `{}` is in use by another process; stop it, or give this broker another data_dir", .0.display())]
    Locked(PathBuf),
    /// Operator: the binary is older than its data.
    #[error(
        "the store has schema version {found}, and this program knows versions up to {known}; run the newer program \
         that wrote it, or restore a backup made before the upgrade"
    )]
    NewerSchema {
        /// The version on disk.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Operator: records of another program, or a damaged store.
    #[error(
        "the store holds records but no schema version (table `meta`, key `schema_version`); it is damaged, or not a store of this program"
    )]
    NoSchema,
    /// Operator: permissions, a full disk, a path that is no directory.
    #[error("{what} `{}`: {source}; check that data_dir exists, is writable and has free space", .path.display())]
    Access {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<std::io::Error>,
    },
    /// The disk: one record cannot be read.
    #[error("the record `{key}` of the table `{table}` is damaged: {reason}; restore the store from a backup")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// The key, as text.
        key: String,
        /// What is wrong with it, without its content.
        reason: String,
    },
    /// The disk: the engine's own structures cannot be read.
    #[error("the store `{}` is damaged: {reason}; restore it from a backup", .path.display())]
    Damaged {
        /// Directory of the store.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// The disk: a commit could not be made durable, now or earlier; nothing more is read or written.
    #[error("the store stopped after a write that failed ({0}); restart the broker once the disk is well again")]
    Failed(Arc<str>),
    /// The caller: a record above the bound.
    #[error("the record `{key}` of the table `{table}` has {size} bytes; at most {limit} fit")]
    TooLarge {
        /// Name of the table.
        table: &'static str,
        /// The key, as text.
        key: String,
        /// Bytes of its key or value.
        size: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// Us: a value that has no JSON form.
    #[error("the record `{key}` of the table `{table}` cannot be encoded: {reason}")]
    Encode {
        /// Name of the table.
        table: &'static str,
        /// The key, as text.
        key: String,
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// [`StoreError::Access`] in short.
    pub(super) fn access(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Access { what, path: path.into(), source: Arc::new(source) }
    }
}

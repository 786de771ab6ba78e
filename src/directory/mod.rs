//! Users, roles and permissions: the one place that commits changes and publishes policy snapshots.
//!
//! ```text
//!   REST, CLI, broker.toml, registry --Transaction, Actor--> Directory::commit
//!      checked against the state after all commits before it  (state.rs)
//!      one atomic batch, with the records of other modules    (store)
//!      the new snapshot is published                          (Directory::policy)
//!      every affected connection passes it                    (PolicyListener)
//!      the answer
//! ```
//!
//! What is refused changes nothing; what is answered is durable and in force. Everything blocks; asynchronous callers
//! go through `spawn_blocking`. Whether an actor may ask at all is decided at the door, and here once more, for the right may be
//! gone by now; what else is decided here holds at every door: versions, names, ownership, the last administrator, and that
//! nobody hands out what they do not hold.

mod change;
mod config;
mod delegation;
mod document;
mod error;
mod history;
mod last_seen;
mod live;
mod preview;
mod queue;
mod revocation;
mod right;
mod service;
mod state;

#[cfg(test)]
mod delegation_tests;
#[cfg(test)]
mod document_tests;
#[cfg(test)]
mod durability_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod rehash_tests;
#[cfg(test)]
mod tests;

pub use change::{Actor, Change, Expected, NewUser, Transaction};
pub use delegation::Excess;
pub use document::{Deletion, Document, End, RoleDocument, UserDocument, proof_fault};
pub use error::{DirectoryError, ErrorKind, Subject};
pub use history::{HISTORY_COMMITS, HistoryEntry, NotRestored, Rollback};
pub use live::{LiveSessions, RuleDifference, SessionEffect, Standing, SubscriptionEffect};
pub use preview::{ObjectAction, ObjectChange, ObjectKind, Preview};
pub use revocation::{RevokedCertificate, RevokedIssuer};
pub use right::Right;
pub use service::{Affected, Committed, Directory, PolicyChange, PolicyListener};

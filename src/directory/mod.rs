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
//! go through `spawn_blocking`. Whether an actor *may* make a change is decided before it comes here; what is decided
//! here holds for everybody: versions, names, ownership, the last administrator.

mod change;
mod config;
mod error;
mod last_seen;
mod queue;
mod service;
mod state;

#[cfg(test)]
mod durability_tests;
#[cfg(test)]
mod tests;

pub use change::{Actor, Change, Expected, NewUser, Transaction};
pub use error::{DirectoryError, ErrorKind, Subject};
pub use service::{Affected, Committed, Directory, PolicyChange, PolicyListener};

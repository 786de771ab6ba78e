//! The audit log: what was done, by whom, and what was refused, in a chain of hashes that only grows.
//!
//! ```text
//!   directory, registry --Note--> Chain::sealing --the same batch as the change--> store
//!   net --refusals, failed logins--> Recorder --collapsed, once an interval--> the directory's next commit
//!   Keeper: signs heads hourly and at shutdown, prunes behind a signed anchor, verifies, reads
//! ```
//!
//! A [`Record`] is a number, a time, who did it and what: an [`Event`], which is made of typed fields so that no password,
//! hash, key or nonce fits into it. Its hash is SHA-256 over the hash of the record before it and its own bytes
//! as they are stored. `event`, `diff` and `record` are pure; the one who orders the records is whoever commits
//! (the leader of the directory's group commit), so the chain costs no flush of its own.

mod chain;
mod diff;
mod event;
mod keeper;
mod key;
mod record;
mod recorder;
mod verify;

#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod tests;

pub use chain::{Chain, Sealing, Tip, is_ours};
pub use diff::{certificates_lost, role_change, user_change};
pub use event::{
    Closing, Comment, Event, Field, Lapse, Note, Pattern, Permissions, Place, RoleChange, RoleNames, Rule, TokenEnd,
    UserChange, UserRef, Who, Word,
};
pub use keeper::{Append, Keeper, KeeperError, Settings, read};
pub use key::{AuditKey, KeyError, PublicKey, Purpose, Statement};
pub use record::{Entry, Hash, HashError, Record};
pub use recorder::{FailedClaim, FailedLogin, FailedRegistration, Recorder, Refused, named};
pub use verify::{Fault, Report, verify};

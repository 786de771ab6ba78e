//! Who may do what: users, roles, permissions, and the one engine that decides.
//!
//! Pure: a [`Policy`] is an immutable snapshot that the directory publishes; a session asks the
//! [`Authority`] that the snapshot gives for its user and client identifier. Evaluation is total: whatever
//! could fail is refused when the policy is compiled.

mod decision;
mod model;
mod policy;

pub use decision::{Authority, Decision, SubscribeVerdict, Verdict};
pub use model::*;
pub use policy::{Policy, PolicyError, PolicyVersion};

//! Who may do what: users, roles, permissions, and the one engine that decides.
//!
//! Pure: a [`Policy`] is an immutable snapshot that the directory publishes; a session asks the
//! [`Authority`] that the snapshot gives for its user and client identifier. Evaluation is total: whatever
//! could fail is refused when the policy is compiled.
//!
//! ```
//! use jiff::Timestamp;
//! use portcullis::access::*;
//! use portcullis::mqtt::QoS;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let role = Role::new(
//!     "sensor".parse()?,
//!     vec![Permission::allow(Context::Mqtt, Operation::Write, "plant/${username}/#")],
//! );
//! let mut user = User::new(UserId(uuid::Uuid::from_u128(1)), "pump-7".parse()?, Timestamp::UNIX_EPOCH);
//! user.roles.push(role.name.clone());
//! let id = user.id;
//!
//! let policy =
//!     Policy::default().with([(role.name.clone(), Some(role))], [(id, Some(user))], Timestamp::UNIX_EPOCH)?;
//! let authority = policy.authority(id, &"any".parse()?).ok_or("no such user")?;
//! assert_eq!(authority.may_publish(&"plant/pump-7/speed".parse()?), Some((QoS::ExactlyOnce, true)));
//! assert_eq!(authority.may_publish(&"plant/pump-8/speed".parse()?), None);
//! # Ok(())
//! # }
//! ```

mod client_id;
mod coverage;
mod decision;
mod error;
mod model;
mod pattern;
mod policy;
mod quota;
mod revocation;
mod rules;
mod summary;
mod trie;
mod username_pattern;
mod who_can;

/// The decision said slowly, to hold the engine to.
#[cfg(any(test, fuzzing))]
pub mod reference;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod coverage_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod who_can_tests;

pub use decision::{Authority, Decision, SubscribeDecision, SubscribeVerdict, Verdict};
pub use error::{ClientIdPatternError, PolicyError, PrefixError, RuleError, RuleHolder};
pub use model::*;
pub use pattern::{MAX_LEVELS, MAX_RESOURCE_BYTES};
pub use policy::{MAX_ROLES, Policy, PolicyVersion, Subject};
pub use quota::{Quota, QuotaKind, Rate, RateError};
pub use revocation::{RevocationReason, RevocationReasonError};
pub use rules::{MAX_PERMISSIONS, MAX_RULE_BYTES};
pub use username_pattern::{UsernamePattern, UsernamePatternError};
pub use who_can::Able;

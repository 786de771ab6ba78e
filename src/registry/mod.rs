//! The registration authority: how a device that nobody has configured becomes a known identity.
//!
//! ```text
//!   bytes --message--> RegisterMessage --core.examine--> Step --(argon2)--> Step ... --> changes + verdict
//!                                                            changes --store--> core.apply
//!   operator --grant--> pki signs, directory commits user + certificate + request together --> answer pushed
//! ```
//!
//! `core`, `deed`, `lock`, `token` and `approval` decide, and are pure: time, randomness, users and what argon2 says are parameters. `service`, `grant`,
//! `tokens`, `order` and `commit` are the shell around them. The decision is an operator's; what a device asks for is shown and never granted by asking.

mod answer;
mod approval;
mod commit;
mod core;
mod deed;
mod format;
mod grant;
mod invitation;
mod jobs;
mod knock;
mod landing;
mod lock;
mod message;
mod nonce;
mod operator;
mod order;
mod rates;
mod refusals;
mod renewal;
mod replacement;
mod request;
mod ruled;
mod service;
mod settings;
mod token;
mod tokens;

pub use answer::{Answer, Unread};
pub use approval::Approval;
pub use format::Format;
pub use invitation::{Invitation, early_invitation, invitation};
pub use knock::Knock;
pub use lock::{MAX_UNLOCK, UnlockTerms};
pub use message::{MAX_CONTEXT, MAX_ID, MAX_PAYLOAD, MAX_WISHES};
pub use nonce::{Binding, NONCE_LIFE};
pub use operator::{
    DenyTerms, Event, EventKind, GrantTerms, LockStatus, RegistryError, RegistryErrorKind, RequestFilter, RequestPage,
    StateFilter,
};
pub use order::{MAX_ANSWERED, Told};
pub use rates::RateLimit;
pub use replacement::{ReplaceTerms, ReplacementView};
pub use request::{Door, RequestId, RequestView, State};
pub use service::Registry;
pub use settings::{AnswerSink, Caller, Hashing, Origin, PasswordHasher, ReturnPath, Settings};
pub use token::{TokenCreated, TokenId, TokenTerms, TokenView};

use jiff::Timestamp;

use crate::clock::Instant;

/// Both clocks at one moment: the monotonic one for the lock and the rates, the other for what is on record.
#[derive(Clone, Copy, Debug)]
struct Now {
    instant: Instant,
    wall: Timestamp,
}

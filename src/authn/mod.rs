//! Who is it? Passwords, client certificates, and the limits on guessing.
//!
//! ```text
//! Credentials -> Authenticator -> Identity or Refusal
//!                  |-- certificate   what a verified certificate proves
//!                  |-- proofs        passwords verified lately, as keyed hashes
//!                  |-- guesses       one attempt from before the work to its outcome; the registry's doors ask there, too
//!                  |     '-- throttle  failures per source and per name
//!                  '-- hasher        the argon2 threads, behind queue (bounded, fair)
//!                        |-- phc     PasswordHash: argon2id, what this broker makes
//!                        '-- stored  StoredHash: that, or PBKDF2 of the broker that a user comes from
//! ```
//!
//! It decides who somebody is, not what they may do: that is `access`.

mod anchors;
mod authenticator;
mod bounded;
mod certificate;
mod guesses;
mod hasher;
mod identity;
mod phc;
mod policy;
mod proofs;
mod queue;
mod source;
mod stored;
#[cfg(test)]
mod testing;
mod throttle;

pub use anchors::{AnchorError, Anchors, NoAnchor, Trusted};
pub use authenticator::{Authenticator, AuthenticatorSettings, Credentials, Rehash};
pub use certificate::{Anchor, ClientCertificate};
pub use guesses::{Attempt, Guesses};
pub use hasher::{Busy, Hasher, HasherSettings, Lane};
pub use identity::{Cause, Identity, Proof, Refusal, Users, digest_of};
pub use phc::{
    Argon2Parameters, Argon2ParametersError, HashError, MAX_PASSWORD_BYTES, PasswordHash, PasswordHashError, SALT_BYTES,
};
pub use policy::{PasswordPolicy, PasswordPolicyError, WeakPassword};
pub use source::{Neighbourhood, Source};
pub use stored::{MAX_PBKDF2_ITERATIONS, Pbkdf2Hash, Pbkdf2HashError, StoredHash};
pub use throttle::{FailureRate, Throttle, ThrottleSettings};

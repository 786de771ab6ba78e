//! Password hashes of our own: argon2id in PHC strings (RFC 9106; the PHC string format specification).
//!
//! Enters: passwords, and hashes that somebody made elsewhere. Leaves: a [`PasswordHash`], which only the check of this
//! file (or hashing itself) can make: argon2id, version 19, with a cost that this broker is ready to pay at each login.
//! It never prints a hash nor a password, in errors neither.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use argon2::password_hash::phc::{self, Output, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::stored::Pbkdf2HashError;

/// The longest password, in bytes, that is ever set or checked.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Salt of the hashes that are made here, in bytes.
pub const SALT_BYTES: usize = 16;
const OUTPUT_BYTES: usize = 32;

/// What one hash costs. A value of this type is within the ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Parameters {
    memory_kib: u32,
    iterations: u32,
    parallelism: u32,
}

/// Why a cost is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Argon2ParametersError {
    /// Memory out of range.
    #[error(
        "argon2 memory of {0} KiB is out of range: use 8 to 262144 KiB, and at least 8 for each lane (`parallelism`)"
    )]
    Memory(u32),
    /// Passes out of range.
    #[error("{0} argon2 iterations are out of range: use 1 to 64")]
    Iterations(u32),
    /// Lanes out of range.
    #[error("argon2 parallelism {0} is out of range: use 1 to 16")]
    Parallelism(u32),
    /// Memory times passes.
    #[error("{0} KiB of argon2 memory filled {1} times is too slow for a login: the product may be 1048576 at most")]
    Cost(u32, u32),
}

impl Argon2Parameters {
    /// Memory in KiB (8 to 262,144), passes over it (1 to 64), lanes (1 to 16; they are computed one after the other);
    /// memory times passes at most 1,048,576 KiB, about half a second of a core.
    pub fn new(memory_kib: u32, iterations: u32, parallelism: u32) -> Result<Self, Argon2ParametersError> {
        if !(1..=16).contains(&parallelism) {
            Err(Argon2ParametersError::Parallelism(parallelism))
        } else if !(8 * parallelism..=262_144).contains(&memory_kib) {
            Err(Argon2ParametersError::Memory(memory_kib))
        } else if !(1..=64).contains(&iterations) {
            Err(Argon2ParametersError::Iterations(iterations))
        } else if memory_kib * iterations > 1_048_576 {
            Err(Argon2ParametersError::Cost(memory_kib, iterations))
        } else {
            Ok(Self { memory_kib, iterations, parallelism })
        }
    }

    /// Memory in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn iterations(self) -> u32 {
        self.iterations
    }

    /// Lanes.
    pub fn parallelism(self) -> u32 {
        self.parallelism
    }

    /// Cheaper to guess than the least of the settings that OWASP's Password Storage Cheat Sheet calls equivalent (7 MiB,
    /// 5 passes): an operator who sets this deserves a warning.
    pub fn is_weak(self) -> bool {
        self.memory_kib < 7168 || self.memory_kib * self.iterations < 35_840
    }

    fn context(self, output: usize) -> Result<Argon2<'static>, argon2::Error> {
        let params = Params::new(self.memory_kib, self.iterations, self.parallelism, Some(output))?;
        Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
    }
}

impl Default for Argon2Parameters {
    /// 19 MiB, two passes, one lane: OWASP's recommendation, about 18 ms of a core.
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

/// A hash that this broker can verify; made only by hashing or by the check in `try_from`.
///
/// ```
/// use portcullis::authn::PasswordHash;
///
/// let made_elsewhere = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$3RXMDc4L2JnfiN0TcJyH1AThb5GySuxQCgFmUEZm3Zk";
/// assert_eq!(PasswordHash::try_from(made_elsewhere)?.as_str(), made_elsewhere);
/// assert!(PasswordHash::try_from("$2b$12$bcrypt").is_err());
/// # Ok::<(), portcullis::authn::PasswordHashError>(())
/// ```
#[derive(Clone)]
pub struct PasswordHash {
    text: Arc<str>,
    parameters: Argon2Parameters,
    salt: Salt,
    output: Output,
}

/// Why a string is no [`PasswordHash`]. It does not repeat the string, which is a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// Not a PHC string, or an incomplete one.
    #[error("not a password hash: expected a PHC string like `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`")]
    Syntax,
    /// Another algorithm.
    #[error("the password hash is not argon2id: hash the password with argon2id")]
    Algorithm,
    /// Another version of argon2.
    #[error("the password hash is not of argon2 version 19 (`v=19`): hash the password again")]
    Version,
    /// Parameters missing, unknown or doubled.
    #[error("the password hash must have exactly the parameters `m`, `t` and `p`")]
    ParameterNames,
    /// A cost out of range.
    #[error("the password hash is not acceptable: {0}")]
    Parameters(#[from] Argon2ParametersError),
    /// Salt or hash of an unusual length.
    #[error("the password hash must have a salt of 8 to 48 bytes and a hash of 16 to 64 bytes")]
    Length,
    /// PBKDF2 of another broker, where that is admitted, but not like this.
    #[error("the password hash of another broker is not acceptable: {0}")]
    Pbkdf2(#[from] Pbkdf2HashError),
}

/// Hashing failed on our side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// No memory or no randomness.
    #[error("the password cannot be hashed now: {0}")]
    System(String),
    /// Longer than [`MAX_PASSWORD_BYTES`].
    #[error("a password may have 1024 bytes at most")]
    TooLong,
    /// Too many passwords are being hashed or checked.
    #[error("too many passwords are being checked: try again in some seconds")]
    Busy,
}

impl PasswordHash {
    /// The PHC string: a secret, for the store alone.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What checking against it costs.
    pub fn parameters(&self) -> Argon2Parameters {
        self.parameters
    }

    /// Hashes on the calling thread, for programs that run no broker (`user passwd --offline`) and for its start.
    pub fn of(password: &[u8], parameters: Argon2Parameters) -> Result<Self, HashError> {
        Self::create(password, parameters, &mut Memory::default())
    }

    pub(super) fn create(
        password: &[u8],
        parameters: Argon2Parameters,
        memory: &mut Memory,
    ) -> Result<Self, HashError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(HashError::TooLong);
        }
        Self::salted(password, &draw_salt()?, parameters, memory)
    }

    /// With a salt that somebody else knows.
    pub(super) fn salted(
        password: &[u8],
        salt: &[u8; SALT_BYTES],
        parameters: Argon2Parameters,
        memory: &mut Memory,
    ) -> Result<Self, HashError> {
        let salt = Salt::new(salt).map_err(system)?;
        let mut output = Zeroizing::new([0; OUTPUT_BYTES]);
        memory.fill(parameters, password, &salt, output.as_mut_slice())?;
        Self::assemble(parameters, salt, Output::new(output.as_slice()).map_err(system)?)
    }

    /// A hash of no password that anybody knows, with the cost of a real one.
    pub(super) fn decoy(parameters: Argon2Parameters) -> Result<Self, HashError> {
        let mut output = [0; OUTPUT_BYTES];
        getrandom::fill(&mut output).map_err(system)?;
        Self::assemble(parameters, Salt::new(&draw_salt()?).map_err(system)?, Output::new(&output).map_err(system)?)
    }

    pub(super) fn verify(&self, password: &[u8], memory: &mut Memory) -> Result<bool, HashError> {
        let mut computed = Zeroizing::new([0; Output::MAX_LENGTH]);
        let computed = computed.get_mut(..self.output.len()).ok_or_else(|| system("output length"))?;
        memory.fill(self.parameters, password, &self.salt, computed)?;
        Ok(computed.ct_eq(self.output.as_bytes()).into())
    }

    fn assemble(parameters: Argon2Parameters, salt: Salt, output: Output) -> Result<Self, HashError> {
        let Argon2Parameters { memory_kib, iterations, parallelism } = parameters;
        let text = format!("$argon2id$v=19$m={memory_kib},t={iterations},p={parallelism}${salt}${output}");
        Self::from_str(&text).map_err(system)
    }
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let parsed = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::Syntax)?;
        if parsed.algorithm.as_str() != "argon2id" {
            return Err(PasswordHashError::Algorithm);
        }
        if parsed.version != Some(19) {
            return Err(PasswordHashError::Version);
        }
        let parameter = |name: &str| parsed.params.get_decimal(name).ok_or(PasswordHashError::ParameterNames);
        if parsed.params.iter().count() != 3 {
            return Err(PasswordHashError::ParameterNames);
        }
        let parameters = Argon2Parameters::new(parameter("m")?, parameter("t")?, parameter("p")?)?;
        let (Some(salt), Some(output)) = (parsed.salt, parsed.hash) else { return Err(PasswordHashError::Syntax) };
        if output.len() < 16 {
            return Err(PasswordHashError::Length);
        }
        Ok(Self { text: text.into(), parameters, salt, output })
    }
}

impl TryFrom<&str> for PasswordHash {
    type Error = PasswordHashError;

    fn try_from(text: &str) -> Result<Self, PasswordHashError> {
        text.parse()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash").field("parameters", &self.parameters).finish_non_exhaustive()
    }
}

/// The memory that argon2 fills, kept from one hash to the next, so that each does not have to fetch it from the kernel.
#[derive(Default)]
pub(super) struct Memory(Vec<Block>);

impl Memory {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn fill(
        &mut self,
        parameters: Argon2Parameters,
        password: &[u8],
        salt: &[u8],
        output: &mut [u8],
    ) -> Result<(), HashError> {
        let context = parameters.context(output.len()).map_err(system)?;
        let blocks = context.params().block_count();
        if let Some(missing) = blocks.checked_sub(self.0.len()) {
            self.0.try_reserve_exact(missing).map_err(system)?;
            self.0.resize(blocks, Block::new());
        }
        context.hash_password_into_with_memory(password, salt, output, &mut self.0).map_err(system)
    }
}

fn draw_salt() -> Result<[u8; SALT_BYTES], HashError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(system)?;
    Ok(salt)
}

fn system(error: impl fmt::Display) -> HashError {
    HashError::System(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cheap() -> Argon2Parameters {
        Argon2Parameters::new(8, 1, 1).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_hash_verifies_its_password_and_no_other(
            password in prop::collection::vec(any::<u8>(), 0..80), other in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut memory = Memory::default();
            let hash = PasswordHash::create(&password, cheap(), &mut memory).unwrap();
            let read_again: PasswordHash = hash.as_str().parse().unwrap();
            prop_assert!(read_again.verify(&password, &mut memory).unwrap());
            prop_assert_eq!(read_again.verify(&other, &mut memory).unwrap(), other == password);
        }

        #[test]
        fn no_string_makes_the_parser_panic(text in "(\\$argon2id)?(\\$v=[0-9]{1,3})?[$mtp=,0-9a-zA-Z+/]{0,90}") {
            let _ = PasswordHash::try_from(text.as_str());
        }
    }

    #[test]
    fn memory_left_over_from_a_larger_hash_does_not_change_a_smaller_one() {
        let mut memory = Memory::default();
        let large = PasswordHash::create(b"large", Argon2Parameters::new(64, 2, 2).unwrap(), &mut memory).unwrap();
        let small = PasswordHash::of(b"small", cheap()).unwrap();
        assert!(small.verify(b"small", &mut memory).unwrap());
        assert!(large.verify(b"large", &mut Memory::default()).unwrap());
    }

    /// RFC 9106, 5.3 has a secret and associated data, which PHC strings cannot carry; this one is of the reference
    /// implementation's own test suite (`test.c`, version 0x13, argon2id).
    #[test]
    fn a_hash_of_the_reference_implementation_verifies() {
        let hash: PasswordHash =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4".parse().unwrap();
        assert!(hash.verify(b"password", &mut Memory::default()).unwrap());
        assert!(!hash.verify(b"Password", &mut Memory::default()).unwrap());
    }

    #[test]
    fn a_hash_that_would_stall_the_login_queue_cannot_be_set() {
        let tail = "$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        for (cost, error) in [
            ("m=262145,t=1,p=1", Argon2ParametersError::Memory(262_145)),
            ("m=4294967295,t=1,p=1", Argon2ParametersError::Memory(u32::MAX)),
            ("m=262144,t=5,p=1", Argon2ParametersError::Cost(262_144, 5)),
            ("m=8,t=65,p=1", Argon2ParametersError::Iterations(65)),
            ("m=1024,t=1,p=17", Argon2ParametersError::Parallelism(17)),
            ("m=8,t=1,p=2", Argon2ParametersError::Memory(8)),
            ("m=8,t=0,p=1", Argon2ParametersError::Iterations(0)),
            ("m=8,t=1,p=0", Argon2ParametersError::Parallelism(0)),
        ] {
            let refused = PasswordHash::try_from(format!("$argon2id$v=19${cost}{tail}").as_str());
            assert_eq!(refused.unwrap_err(), PasswordHashError::Parameters(error), "{cost}");
        }
    }

    #[test]
    fn other_algorithms_versions_and_shapes_are_refused() {
        let good = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        let refused = |text: &str| PasswordHash::try_from(text).unwrap_err();
        assert_eq!(refused(""), PasswordHashError::Syntax);
        assert_eq!(refused("hunter2"), PasswordHashError::Syntax);
        assert_eq!(refused(&good.replace("argon2id", "argon2i")), PasswordHashError::Algorithm);
        assert_eq!(refused(&good.replace("argon2id", "argon2d")), PasswordHashError::Algorithm);
        assert_eq!(refused(&good.replace("v=19", "v=16")), PasswordHashError::Version);
        assert_eq!(refused(&good.replace("$v=19", "")), PasswordHashError::Version);
        assert_eq!(refused(&good.replace(",p=1", "")), PasswordHashError::ParameterNames);
        assert_eq!(refused(&good.replace("p=1", "p=1,data=AAAA")), PasswordHashError::ParameterNames);
        assert_eq!(refused(&good.replace("p=1", "p=1,keyid=AAAA")), PasswordHashError::ParameterNames);
        assert_eq!(
            refused(&good.replace("nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "nf65EOgLrQMR/uI")),
            PasswordHashError::Length
        );
        assert_eq!(refused("$argon2id$v=19$m=256,t=2,p=1"), PasswordHashError::Syntax);
        assert_eq!(refused("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ"), PasswordHashError::Syntax);
        assert_eq!(refused(&format!("{good}$more")), PasswordHashError::Syntax);
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_hash() {
        let hash = PasswordHash::of(b"secret", cheap()).unwrap();
        let tail = hash.as_str().rsplit('$').next().unwrap().to_owned();
        assert!(!format!("{hash:?}").contains(&tail));
        let error = PasswordHash::try_from(hash.as_str().replace("argon2id", "argon2i").as_str()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&tail));
    }

    #[test]
    fn the_default_is_not_weak_and_what_tests_use_is() {
        assert!(!Argon2Parameters::default().is_weak());
        assert!(!Argon2Parameters::new(7168, 5, 1).unwrap().is_weak());
        assert!(cheap().is_weak());
    }
}

//! `password_file`: `name:hash` on each line.
//!
//! Lines enter, users with a hash leave, or the reason why a hash cannot be taken over. What mosquitto passes over (comments, lines
//! without `:`) is passed over here.

use base64ct::{Base64, Encoding as _};

use super::filter::is_blank;
use super::{ImportError, Source, text};
use crate::authn::{Pbkdf2Hash, StoredHash};

/// A user as the file says it.
#[derive(Debug)]
pub(super) struct Password<'a> {
    pub(super) line: usize,
    pub(super) name: &'a str,
    pub(super) hash: Result<StoredHash, &'static str>,
}

const PLAIN: &str = "the password is not hashed, and mosquitto does not load such a line either: run `mosquitto_passwd -U` on a copy \
     of the file, then import that";
const SHA512: &str = "one round of SHA-512 (`$6$`) is no protection of a password, so it is not put on record: set it again with \
     `mosquitto_passwd`, or make the user here with `portcullis user add`";
const NO_HASH: &str = "the hash cannot be read, and mosquitto would not let this user in: set the password again";
const ITERATIONS: &str = "its PBKDF2 has more iterations than the 500000 that are admitted: set the password again";
const LENGTH: &str = "its salt has less than 8 or more than 64 bytes: set the password again";
const ARGON2: &str = "its argon2 hash is not argon2id of version 19, or too expensive: set the password again";

/// Reads the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Password<'_>>, ImportError> {
    let mut found: Vec<Password<'_>> = Vec::new();
    let mut lines = std::collections::BTreeMap::new();
    for (number, line) in (1..).zip(text(Source::Passwords, bytes)?.lines()) {
        let Some((name, hash)) = line.split_once(':').filter(|_| !line.starts_with('#')) else { continue };
        let (name, hash) = (name.trim_matches(is_blank), hash.trim_matches(is_blank));
        if let Some(first) = lines.insert(name, number) {
            let what = format!("this user is on line {first} already: keep one of the two");
            return Err(ImportError::at(Source::Passwords, Some((number, 1)), what));
        }
        found.push(Password { line: number, name, hash: read(hash) });
    }
    Ok(found)
}

/// A hash as mosquitto writes it: `$7$iterations$salt$hash`, or argon2id as a PHC string.
pub(super) fn read(hash: &str) -> Result<StoredHash, &'static str> {
    if hash.starts_with("$argon2") {
        return StoredHash::try_from(hash).map_err(|_| ARGON2);
    }
    if hash.starts_with("$6$") {
        return Err(SHA512);
    }
    let Some(parts) = hash.strip_prefix("$7$") else { return Err(PLAIN) };
    let mut parts = parts.split('$');
    let (Some(iterations), Some(salt), Some(output), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(NO_HASH);
    };
    if iterations.is_empty() || !iterations.bytes().all(|c| c.is_ascii_digit()) {
        return Err(NO_HASH);
    }
    pbkdf2(iterations.parse().unwrap_or(u32::MAX), salt, output)
}

/// PBKDF2-HMAC-SHA512 with salt and hash in base64.
pub(super) fn pbkdf2(iterations: u32, salt: &str, output: &str) -> Result<StoredHash, &'static str> {
    use crate::authn::Pbkdf2HashError;
    let bytes = |text: &str| Base64::decode_vec(text).map_err(|_| NO_HASH);
    let (salt, output) = (bytes(salt)?, bytes(output)?);
    Pbkdf2Hash::new(iterations, &salt, &output).map(StoredHash::Pbkdf2).map_err(|error| match error {
        Pbkdf2HashError::Iterations if iterations > 0 => ITERATIONS,
        Pbkdf2HashError::Length if output.len() == 64 => LENGTH,
        _ => NO_HASH,
    })
}

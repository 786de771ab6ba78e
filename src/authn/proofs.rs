//! Passwords that were verified lately, remembered as keyed hashes.
//!
//! Enters: a user and a password that argon2 has verified. Leaves: "this very password was verified for this very state of
//! this user". What is stored is useless without the key, which is drawn at start and never leaves this file. An entry is
//! bound to the password and the version of the user, so any change of the user ends it, without anybody telling us; but for
//! another hash of the same password, which is no change.

use aws_lc_rs::hmac;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::bounded::Bounded;
use super::identity::{digest_of, digest_of_hash};
use crate::access::{User, UserId};

/// Output of HMAC-SHA-256.
type Tag = [u8; 32];

/// As long as a real one.
const NO_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$----------------------$-------------------------------------------";

pub(super) struct ProofCache {
    key: hmac::Key,
    tags: Mutex<Bounded<UserId, Tag>>,
}

/// What a password would be remembered as.
#[derive(Clone, Copy)]
pub(super) struct Proof {
    user: UserId,
    tag: Tag,
}

impl ProofCache {
    /// Remembers one proof of at most `capacity` users.
    pub(super) fn new(capacity: usize) -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()), tags: Mutex::new(Bounded::new(capacity)) })
    }

    /// The same work for a user that there is not, or that has no password: that proof is never remembered.
    pub(super) fn proof(&self, user: Option<&User>, password: &[u8]) -> Proof {
        let known = user.and_then(|user| Some((user.id, user.version, digest_of_hash(user)?)));
        let (id, version, hash) = known.unwrap_or_else(|| (UserId(uuid::Uuid::nil()), 0, digest_of(NO_HASH)));
        let mut context = hmac::Context::with_key(&self.key);
        context.update(id.0.as_bytes());
        context.update(&version.to_be_bytes());
        // All before the password has a fixed length: no two inputs share an encoding.
        context.update(&hash);
        context.update(password);
        let mut tag = Tag::default();
        for (to, from) in tag.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        Proof { user: id, tag }
    }

    pub(super) fn remember(&self, proof: Proof) {
        debug_assert!(!proof.user.0.is_nil());
        self.tags.lock().insert(proof.user, proof.tag);
    }

    pub(super) fn remembers(&self, proof: &Proof) -> bool {
        let mut tags = self.tags.lock();
        let known = tags.get(&proof.user).is_some_and(|tag| tag.ct_eq(&proof.tag).into());
        if known {
            tags.promote(proof.user);
        }
        known
    }

    pub(super) fn forget(&self, user: UserId) {
        self.tags.lock().remove(&user);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::user;
    use super::*;

    fn remembered() -> (ProofCache, User) {
        let cache = ProofCache::new(10).unwrap();
        let user = User { password_hash: Some("$argon2id$one".into()), ..user("device") };
        cache.remember(cache.proof(Some(&user), b"right"));
        (cache, user)
    }

    fn remembers(cache: &ProofCache, user: &User, password: &[u8]) -> bool {
        cache.remembers(&cache.proof(Some(user), password))
    }

    #[test]
    fn only_the_same_password_of_the_same_user_is_remembered() {
        let (cache, user) = remembered();
        assert!(remembers(&cache, &user, b"right"));
        assert!(!remembers(&cache, &user, b"righ"));
        assert!(!remembers(&cache, &user, b""));
        assert!(!remembers(&cache, &User { id: super::super::testing::user("device").id, ..user }, b"right"));
    }

    #[test]
    fn any_change_of_the_user_ends_the_proof() {
        let (cache, user) = remembered();
        assert!(!remembers(&cache, &User { version: user.version + 1, ..user.clone() }, b"right"));
        assert!(!remembers(&cache, &User { password_hash: Some("$argon2id$two".into()), ..user.clone() }, b"right"));
        assert!(!remembers(&cache, &User { password_hash: None, ..user.clone() }, b"right"));
        cache.forget(user.id);
        assert!(!remembers(&cache, &user, b"right"));
    }

    #[test]
    fn another_hash_of_the_same_password_is_no_change() {
        let (cache, user) = remembered();
        let rehashed_from = digest_of_hash(&user);
        let fresh = User { password_hash: Some("$argon2id$two".into()), rehashed_from, ..user.clone() };
        assert!(remembers(&cache, &fresh, b"right"));
        assert!(!remembers(&cache, &fresh, b"wrong"));
        assert!(!remembers(&cache, &User { version: user.version + 1, ..fresh.clone() }, b"right"));
        assert!(!remembers(&cache, &User { rehashed_from: None, ..fresh }, b"right"));
    }

    #[test]
    fn bytes_cannot_move_between_hash_and_password() {
        let (cache, user) = remembered();
        let shorter = User { password_hash: Some("$argon2id$on".into()), ..user };
        assert!(!remembers(&cache, &shorter, b"eright"));
    }

    #[test]
    fn another_start_of_the_broker_draws_another_key() {
        let (one, user) = remembered();
        let two = ProofCache::new(10).unwrap();
        assert_ne!(one.proof(Some(&user), b"right").tag, two.proof(Some(&user), b"right").tag);
    }
}

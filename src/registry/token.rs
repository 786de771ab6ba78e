//! Claim tokens: they open the door for their holder alone, and grant at once what their author holds.
//!
//! Entering: what operators order, and what a device shows. Leaving: [`Token`]s as they are kept, and [`TokenView`]s. Pure. Never:
//! a secret in a record, a view or a message; what is kept is a hash.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::operator::GrantTerms;
use crate::access::{Network, Permission, RoleName, UsernamePattern};
use crate::audit::Who;
use crate::pki::{crockford, hex, sha256};

/// Bits of a secret: 160, drawn at random. So SHA-256 keeps it well enough: nobody tries 2^160 of them, however fast each is.
pub(super) const SECRET_BYTES: usize = 20;

/// What is hashed along with a secret, so that the hash is good for nothing else.
const DOMAIN: &str = "portcullis-claim-token-v1 ";

/// Names a token; UUIDv7, so that tokens sort by age. It is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub Uuid);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TokenId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// The form of these drawn bytes for people: 32 of Crockford's digits in groups of four.
pub(super) fn shown(secret: &[u8; SECRET_BYTES]) -> SecretString {
    crockford::grouped(secret).into()
}

/// SHA-256 of a secret, by which it is found. Finding takes as long as it takes for any hash: nobody can choose one that
/// lies near to another.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct TokenDigest(String);

impl TokenDigest {
    /// Of whatever a device sent: a text that no token has finds none.
    pub(super) fn of(text: &str) -> Self {
        let mut typed = Zeroizing::new(String::with_capacity(DOMAIN.len() + text.len()));
        typed.push_str(DOMAIN);
        typed.extend(crockford::typed(text));
        Self(hex(&sha256(typed.as_bytes())))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// What a token shall be good for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenTerms {
    /// How long, in seconds; default a day, at most a year. Never longer than until `expires_at`.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// How many devices; default 1, at most 100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Only for these names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<UsernamePattern>,
    /// Only from these networks; empty: from anywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Network>,
    /// Roles that each device gets; they exist. At most 32.
    pub roles: Vec<RoleName>,
    /// Rules of its own that each device gets. At most 32.
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    #[serde(alias = "mqttPublishPrefix", skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// End of the identities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A token as operators see it: without its secret, which nobody can see again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenView {
    /// Its name.
    pub id: TokenId,
    /// How many devices it is good for.
    pub uses: u32,
    /// How many it has served.
    pub used: u32,
    /// When it ends, and is forgotten.
    pub until: Timestamp,
    /// Only for these names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<UsernamePattern>,
    /// Only from these networks; empty: from anywhere.
    pub source: Vec<Network>,
    /// Roles that each device gets.
    pub roles: Vec<RoleName>,
    /// Rules of its own that each device gets.
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// End of the identities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whose rights it gives, as far as they go at the time of its use.
    pub by: String,
    /// When it was made.
    pub at: Timestamp,
    /// When it was used last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A new claim token. Nobody can see its secret again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The secret: what a device shows as `token`.
    #[serde(with = "in_clear")]
    pub token: SecretString,
    /// The rest of it.
    #[serde(flatten)]
    pub view: TokenView,
}

/// A secret on its way to the one who has ordered it.
mod in_clear {
    use secrecy::{ExposeSecret as _, SecretString};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose_secret())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::from)
    }
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Token {
    pub(super) digest: TokenDigest,
    pub(super) author: Who,
    /// Was it made over MQTT? Then that is what its author must be allowed to do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) over_mqtt: bool,
    #[serde(flatten)]
    pub(super) view: TokenView,
}

impl Token {
    /// What each of its devices gets.
    pub(super) fn grant(&self) -> GrantTerms {
        let TokenView { roles, permissions, publish_prefix, expires_at, comment, .. } = &self.view;
        GrantTerms {
            roles: roles.clone(),
            permissions: permissions.clone(),
            publish_prefix: publish_prefix.clone(),
            expires_at: *expires_at,
            comment: comment.clone(),
            unpaired: false,
        }
    }

    /// The token after one more use.
    pub(super) fn spent(&self, now: Timestamp) -> Self {
        let view = TokenView { used: self.view.used.saturating_add(1), last_used: Some(now), ..self.view.clone() };
        Self { view, ..self.clone() }
    }
}

/// Why a token is not good here and now. For the operator: the device is told the same for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TokenFault {
    /// There is none with this secret: wrong, revoked, or ended long ago.
    Unknown,
    Expired,
    Spent,
    Name,
    Network,
    /// Its author is gone, disabled, or does not hold what it is to give.
    Author,
}

impl TokenFault {
    /// Its word in the audit log.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "token_unknown",
            Self::Expired => "token_expired",
            Self::Spent => "token_spent",
            Self::Name => "token_name",
            Self::Network => "token_network",
            Self::Author => "token_author",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_is_found_however_it_was_typed() {
        use secrecy::ExposeSecret as _;

        let shown = shown(&[0x5a; SECRET_BYTES]);
        let text = shown.expose_secret();
        assert_eq!((text.len(), text.split('-').count()), (39, 8), "32 digits are 160 bits");
        let digest = TokenDigest::of(text);
        assert_eq!(TokenDigest::of(&text.to_lowercase().replace('-', " ")), digest);
        assert_eq!(TokenDigest::of(&text.replace('-', "")), digest);
        assert_ne!(TokenDigest::of(&text[1..]), digest);
        assert!(!format!("{digest:?}{shown:?}").contains(&text[..4]));
    }

    proptest! {
        #[test]
        fn two_secrets_have_two_hashes_and_any_text_has_one(one: [u8; SECRET_BYTES], other: [u8; SECRET_BYTES], text: String) {
            use secrecy::ExposeSecret as _;

            let hash = |secret| TokenDigest::of(shown(&secret).expose_secret());
            prop_assert_eq!(hash(one) == hash(other), one == other);
            let _ = TokenDigest::of(&text);
        }
    }
}

//! A set of changes as people write it: the `policy.toml` of `portcullis apply`, or the same as JSON.
//!
//! A document enters; against a snapshot it becomes one transaction, without what is as the document wants it already.
//! What a document does not say stays as it is, what it does not name too: only `delete` deletes. Never a password.
//!
//! ```toml
//! [[role]]
//! name = "line"
//! permissions = [{ context = "mqtt", operation = "read", resource = "plant/${username}/#" }]
//!
//! [[user]]
//! username = "station-7"
//! auth = "certificate"
//! roles = ["line"]
//!
//! [[delete]]
//! user = "station-6"
//! version = 3          # optional everywhere: what was read; 0: it must not be there yet
//! ```

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::{Change, DirectoryError, Expected, NewUser, Subject, Transaction};
use crate::access::{Auth, ManagedBy, Permission, Policy, Quota, Role, RoleName, User, UserId, Username};
use crate::authn::StoredHash;
use crate::store::Batch;

/// Changes that are made together or not at all.
///
/// ```
/// use portcullis::directory::Document;
///
/// let document: Document = toml::from_str("[[user]]\nusername = \"station-7\"\nauth = \"certificate\"\n")?;
/// assert_eq!(document.user.len(), 1);
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Roles to create or change.
    #[serde(default, alias = "roles", skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<RoleDocument>,
    /// Users to create or change.
    #[serde(default, alias = "users", skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<UserDocument>,
    /// Users and roles to delete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete: Vec<Deletion>,
}

/// A role as it shall be. What is absent stays as it is; a new role begins empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleDocument {
    /// Which.
    pub name: RoleName,
    /// The version that was read; 0: it must not be there; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// All of its permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
}

/// A user as it shall be. What is absent stays as it is; a new user begins as the API would make it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserDocument {
    /// Which.
    pub username: Username,
    /// The version that was read; 0: it must not be there; absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// May it do anything?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Which proof it must give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// PHC string: argon2id, or `$pbkdf2-sha512$i=<iterations>$<salt>$<hash>` of the broker that the user comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// All of its roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<RoleName>>,
    /// All of its own rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
    /// Put in front of every topic that it publishes to; empty: nothing.
    #[serde(default, alias = "mqttPublishPrefix", skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// Pattern of its client identifiers; empty: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// All of its quota; empty: none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// End of the identity (RFC 3339), or `"never"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<End>,
}

// Without the hash.
impl fmt::Debug for UserDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserDocument").field("username", &self.username).finish_non_exhaustive()
    }
}

/// When an identity ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not at all.
    Never,
    /// Then.
    At(Timestamp),
}

impl Serialize for End {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Never => serializer.serialize_str("never"),
            Self::At(at) => serializer.collect_str(at),
        }
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self::Never);
        }
        text.parse()
            .map(Self::At)
            .map_err(|_| serde::de::Error::custom("write a time like \"2027-01-31T12:00:00Z\", or \"never\""))
    }
}

/// A user or a role to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// The name of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Username>,
    /// The name of a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// The version that was read; absent: whatever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl Document {
    /// The transaction that makes users and roles what the document says.
    ///
    /// # Errors
    /// [`DirectoryError::Document`] for what no snapshot could satisfy, [`DirectoryError::NotFound`] for a deletion of
    /// nothing. The rest is found when the transaction is applied.
    pub fn plan(self, policy: &Policy) -> Result<Transaction, DirectoryError> {
        self.check_names()?;
        let mut changes = Vec::new();
        for role in self.role {
            let old = policy.role(&role.name);
            let expected = expected(role.version, old.map(|old| old.version));
            let mut new = old.map_or_else(|| Role::new(role.name, Vec::new()), |old| Role::clone(old));
            new.description = role.description.unwrap_or(new.description);
            new.permissions = role.permissions.unwrap_or(new.permissions);
            // What is there already is still checked for its version.
            if expected.is_wrong(old.map(|old| old.version)) || old.is_none_or(|old| **old != new) {
                changes.push(Change::PutRole { role: new, expected: expected.0 });
            }
        }
        for user in self.user {
            let old = policy.user_named(&user.username);
            let expected = expected(user.version, old.map(|old| old.version));
            let new = user.applied_to(old.map(AsRef::as_ref))?;
            if expected.is_wrong(old.map(|old| old.version)) || old.is_none_or(|old| **old != new) {
                changes.push(Change::PutUser { user: Box::new(new), expected: expected.0 });
            }
        }
        for deletion in self.delete {
            let expected = deletion.version.map_or(Expected::Any, Expected::Version);
            changes.push(match (deletion.user, deletion.role) {
                (Some(user), None) => {
                    let id = policy.user_named(&user).map(|user| user.id);
                    let id = id.ok_or_else(|| DirectoryError::NotFound(Subject::User(user.to_string())))?;
                    Change::DeleteUser { id, expected }
                }
                (None, Some(name)) => Change::DeleteRole { name, expected },
                _ => return Err(fault("each `delete` names one `user` or one `role`")),
            });
        }
        Ok(Transaction { changes, records: Batch::new() })
    }

    /// Nothing is named twice: which of the two would count?
    fn check_names(&self) -> Result<(), DirectoryError> {
        let (mut users, mut roles) = (BTreeSet::new(), BTreeSet::new());
        let named = self.user.iter().map(|user| &user.username);
        for user in named.chain(self.delete.iter().filter_map(|deletion| deletion.user.as_ref())) {
            if !users.insert(user) {
                return Err(fault(format!("user `{user}` is named twice: keep one of the two")));
            }
        }
        let named = self.role.iter().map(|role| &role.name);
        for role in named.chain(self.delete.iter().filter_map(|deletion| deletion.role.as_ref())) {
            if !roles.insert(role) {
                return Err(fault(format!("role `{role}` is named twice: keep one of the two")));
            }
        }
        Ok(())
    }
}

impl UserDocument {
    fn applied_to(self, old: Option<&User>) -> Result<User, DirectoryError> {
        let mut user = old
            .cloned()
            .unwrap_or_else(|| NewUser::named(self.username.clone()).into_user(UserId(Uuid::now_v7()), ManagedBy::Api));
        if let Some(hash) = &self.password_hash {
            let hash: StoredHash =
                hash.as_str().try_into().map_err(|error| fault(format!("user `{}`: {error}", self.username)))?;
            user.password_hash = Some(hash.as_str().to_owned());
        }
        user.auth = self.auth.unwrap_or(user.auth);
        if self.password_hash.is_none() && matches!(user.auth, Auth::Certificate | Auth::None) {
            user.password_hash = None;
        }
        if (old.is_none() || self.auth.is_some() || self.password_hash.is_some())
            && let Some(why) = proof_fault(user.auth, user.password_hash.is_some())
        {
            return Err(fault(format!("user `{}`: {why}", self.username)));
        }
        let unless_empty = |text: String| Some(text).filter(|text| !text.is_empty());
        user.description = self.description.unwrap_or(user.description);
        user.enabled = self.enabled.unwrap_or(user.enabled);
        user.roles = self.roles.unwrap_or(user.roles);
        user.permissions = self.permissions.unwrap_or(user.permissions);
        user.publish_prefix = self.publish_prefix.map_or(user.publish_prefix, unless_empty);
        user.client_id = self.client_id.map_or(user.client_id, unless_empty);
        user.quota = match self.quota {
            None => user.quota,
            Some(quota) => Some(Box::new(quota)).filter(|quota| !quota.is_empty()),
        };
        user.expires_at = match self.expires_at {
            None => user.expires_at,
            Some(End::Never) => None,
            Some(End::At(at)) => Some(at),
        };
        Ok(user)
    }
}

/// Why `auth` does not go together with having a password, or with not having one; `None` where it does.
pub fn proof_fault(auth: Auth, has_password: bool) -> Option<&'static str> {
    match (auth, has_password) {
        (Auth::Password | Auth::Both, false) => {
            Some("a user whose `auth` asks for a password needs one: set it, or choose `certificate`")
        }
        (Auth::Certificate, true) => {
            Some("a user who logs in with a certificate has no password: choose `auth` `password`, `either` or `both`")
        }
        (Auth::None, _) => {
            Some("a user without any proof is the anonymous user of a listener: define it in broker.toml")
        }
        _ => None,
    }
}

struct Wanted(Expected);

impl Wanted {
    fn is_wrong(&self, found: Option<u64>) -> bool {
        match self.0 {
            Expected::Absent => found.is_some(),
            Expected::Version(version) => found != Some(version),
            Expected::Any => false,
        }
    }
}

/// A document that was planned against a snapshot is applied to that one, so what is not named may be anything.
fn expected(named: Option<u64>, found: Option<u64>) -> Wanted {
    Wanted(match (named, found) {
        (Some(0), _) | (None, None) => Expected::Absent,
        (Some(version), _) => Expected::Version(version),
        (None, Some(_)) => Expected::Any,
    })
}

fn fault(text: impl Into<String>) -> DirectoryError {
    DirectoryError::Document(text.into())
}

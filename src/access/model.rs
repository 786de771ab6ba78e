//! The things of the access model as plain values: what JSON, TOML and the store hold.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Quota, RevocationReason};

/// The identity of a user, drawn once (UUIDv7) and never reused; the name is only a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 3 to 64 characters of `[A-Za-z0-9._:@-]`, not dots alone; the same check at every door.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

/// The name of a role: the same alphabet as [`Username`], 1 to 64 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

/// Why a string is no [`Username`] or [`RoleName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Too short or too long.
    #[error("`{0}` must have {1} to 64 characters")]
    Length(String, usize),
    /// Another character.
    #[error("`{0}` may hold only letters, digits and `._:@-`")]
    Character(String),
    /// `.`, `..` and their like: no path can name them.
    #[error("`{0}` must not be made of dots alone")]
    Dots(String),
}

/// Characters of a refused name that its error repeats.
const MAX_REPEATED: usize = 80;

fn check_name(text: String, min: usize) -> Result<String, NameError> {
    check_name_whole(text, min).map_err(|error| match error {
        NameError::Length(text, min) => NameError::Length(text.chars().take(MAX_REPEATED).collect(), min),
        NameError::Character(text) => NameError::Character(text.chars().take(MAX_REPEATED).collect()),
        NameError::Dots(text) => NameError::Dots(text.chars().take(MAX_REPEATED).collect()),
    })
}

fn check_name_whole(text: String, min: usize) -> Result<String, NameError> {
    if !text.chars().all(Username::admits) {
        Err(NameError::Character(text))
    } else if !text.is_empty() && text.chars().all(|character| character == '.') {
        // RFC 3986 5.2.4: a client takes such segments out of a path before it asks.
        Err(NameError::Dots(text))
    } else if (min..=64).contains(&text.len()) {
        Ok(text)
    } else {
        Err(NameError::Length(text, min))
    }
}

impl Username {
    /// The names that nobody may register: `admin` belongs to the first administrator.
    pub const RESERVED: [&'static str; 4] = ["admin", "observer", "system", "local"];

    /// May a username or role name hold this character?
    pub fn admits(character: char) -> bool {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | ':' | '@' | '-')
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it one of the names that a registration may not ask for?
    pub fn is_reserved(&self) -> bool {
        Self::RESERVED.iter().any(|name| self.0.eq_ignore_ascii_case(name))
    }
}

impl RoleName {
    /// The built-in role that may do everything.
    pub fn admin() -> Self {
        Self("admin".to_owned())
    }

    /// The built-in role that may watch the broker.
    pub fn observer() -> Self {
        Self("observer".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does the name, in whatever case, belong to a role that the broker brings along?
    pub fn is_built_in(&self) -> bool {
        ["admin", "observer"].iter().any(|name| self.0.eq_ignore_ascii_case(name))
    }
}

macro_rules! names {
    ($($name:ident = $min:literal),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check_name(text, $min).map(Self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

names!(Username = 3, RoleName = 1);

/// Which proof a user must give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// A password.
    #[default]
    Password,
    /// A client certificate.
    Certificate,
    /// Either of them.
    Either,
    /// Both of them.
    Both,
    /// No proof: only the user that a listener names in `anonymous`; it can never log in.
    None,
}

/// Who may change a user or role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagedBy {
    /// broker.toml: read-only elsewhere.
    Config,
    /// REST, CLI or the embedder.
    #[default]
    Api,
    /// The client registry.
    Registry,
}

/// What a permission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// Topics.
    Mqtt,
    /// Paths of the REST API.
    Http,
}

impl Context {
    /// The word for it, as in JSON and TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
        }
    }
}

/// What a permission allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Receive; GET and HEAD.
    Read,
    /// Publish; every other method.
    Write,
    /// Both.
    #[serde(alias = "readWrite")]
    ReadWrite,
}

impl Operation {
    /// The word for it, as in JSON and TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read_write",
        }
    }
}

/// Does a matching rule open or shut?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Open.
    #[default]
    Allow,
    /// Shut; beats every allow.
    Deny,
}

impl Effect {
    /// The word for it, as in JSON and TOML.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// Topics or paths.
    pub context: Context,
    /// Reading, writing or both.
    pub operation: Operation,
    /// A topic filter, with the placeholders `${username}` and `${client_id}` as whole levels.
    pub resource: String,
    /// Allow, the default, or deny.
    #[serde(default)]
    pub effect: Effect,
    /// Highest QoS (0, 1, 2); allow rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_qos: Option<u8>,
    /// May the publisher set RETAIN? Default yes; allow rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// End of a time-boxed grant; allow rules only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

impl Permission {
    /// An allow rule without conditions.
    pub fn allow(context: Context, operation: Operation, resource: impl Into<String>) -> Self {
        Self {
            context,
            operation,
            resource: resource.into(),
            effect: Effect::Allow,
            max_qos: None,
            retain: None,
            not_after: None,
        }
    }

    /// A deny rule.
    pub fn deny(context: Context, operation: Operation, resource: impl Into<String>) -> Self {
        Self { effect: Effect::Deny, ..Self::allow(context, operation, resource) }
    }
}

/// A named set of permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Unique.
    pub name: RoleName,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// In any order: order never matters.
    #[serde(default)]
    pub permissions: Vec<Permission>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// Counts its changes; a write names the version it read.
    #[serde(default)]
    pub version: u64,
}

impl Role {
    /// A role of the API with these permissions.
    pub fn new(name: RoleName, permissions: Vec<Permission>) -> Self {
        Self { name, description: String::new(), permissions, managed_by: ManagedBy::default(), version: 0 }
    }

    /// The roles that every policy holds and nobody may change.
    pub(super) fn built_in() -> [Self; 2] {
        use Context::{Http, Mqtt};
        use Operation::{Read, ReadWrite};
        let describe = |role: Self, text: &str| Self { description: text.to_owned(), ..role };
        let admin = vec![
            Permission::allow(Mqtt, ReadWrite, "#"),
            Permission::allow(Mqtt, ReadWrite, "$registry/#"),
            Permission::allow(Mqtt, Read, "$SYS/#"),
            Permission::allow(Http, ReadWrite, "/#"),
        ];
        let observer = vec![Permission::allow(Mqtt, Read, "$SYS/#"), Permission::allow(Http, Read, "/api/#")];
        [
            describe(Self::new(RoleName::admin(), admin), "may do everything"),
            describe(Self::new(RoleName::observer(), observer), "may watch the broker"),
        ]
    }
}

/// A certificate that was issued to a user or pinned on one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Lower-case hexadecimal, no separators.
    pub serial: String,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fingerprint: String,
    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal. No two users have one in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Why it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RevocationReason>,
    /// What the operator said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The key identifier of who issued it, lower-case hexadecimal; absent when it was made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Serial number of the certificate that it renews, until it has connected once: that one is then retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// What the PHC string of a PBKDF2-HMAC-SHA512 hash begins with; its iterations follow.
pub const PBKDF2_PREFIX: &str = "$pbkdf2-sha512$i=";

/// One identity: a person, a program or a device.
///
/// The password is not here but in `password_hash`, which no API answer carries.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The identity.
    pub id: UserId,
    /// The label that it logs in with.
    pub username: Username,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// A disabled user may do nothing.
    pub enabled: bool,
    /// Which proof it must give.
    #[serde(default)]
    pub auth: Auth,
    /// PHC string of argon2id, or of PBKDF2 until the first login of a user who came from another broker; a secret, left
    /// out of every answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
    /// SHA-256 of the hash that the present one has replaced without a change of the password: who has proven that password
    /// since the broker started has proven this one. The directory sets it, and no store keeps it.
    #[serde(skip)]
    pub rehashed_from: Option<[u8; 32]>,
    /// Issued and pinned certificates.
    #[serde(default)]
    pub certificates: Vec<CertificateRecord>,
    /// Roles that it holds.
    #[serde(default)]
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    #[serde(default)]
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to; ends in `/`, does not begin with `$`.
    #[serde(default, alias = "mqttPublishPrefix", skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// Pattern that its client identifier must match, with `*` for any run of characters and `${username}`; default any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How much of the broker it may take up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Box<Quota>>,
    /// End of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who may change it.
    #[serde(default)]
    pub managed_by: ManagedBy,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last connected, in what is shown of a user; the directory keeps it beside the snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// Counts its changes; a write names the version it read.
    #[serde(default)]
    pub version: u64,
}

impl User {
    /// Does it hold the built-in role `admin`?
    pub fn is_administrator(&self) -> bool {
        self.roles.iter().any(|role| role.as_str() == "admin")
    }

    /// An enabled user of the API that holds nothing yet.
    pub fn new(id: UserId, username: Username, created_at: Timestamp) -> Self {
        Self {
            id,
            username,
            description: String::new(),
            enabled: true,
            auth: Auth::default(),
            password_hash: None,
            rehashed_from: None,
            certificates: Vec::new(),
            roles: Vec::new(),
            permissions: Vec::new(),
            publish_prefix: None,
            client_id: None,
            quota: None,
            expires_at: None,
            managed_by: ManagedBy::default(),
            created_at,
            last_seen_at: None,
            version: 0,
        }
    }

    /// The iterations of its password hash, where that is one of PBKDF2.
    pub fn pbkdf2_iterations(&self) -> Option<u32> {
        self.password_hash.as_deref()?.strip_prefix(PBKDF2_PREFIX)?.split('$').next()?.parse().ok()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("id", &self.id)
            .field("username", &self.username)
            .field("enabled", &self.enabled)
            .field("auth", &self.auth)
            .field("roles", &self.roles)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

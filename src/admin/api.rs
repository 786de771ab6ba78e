//! What goes over the wire of the administration API, for its server and its clients alike.
//!
//! | route | asks | answers |
//! |---|---|---|
//! | `GET /api/users` | | [`Page`] of [`UserView`] |
//! | `POST /api/users` | [`NewUser`] | 201 [`UserView`] |
//! | `GET /api/users/{name}` | | [`UserView`] |
//! | `PATCH /api/users/{name}` | [`UserPatch`] | [`UserView`] |
//! | `DELETE /api/users/{name}` | [`VersionRead`] (query) | 204 |
//! | `PUT /api/users/{name}/password` | [`NewPassword`] | [`UserView`] |
//! | `POST /api/users/{name}/enable`, `/disable` | [`VersionRead`] (body, optional) | [`UserView`] |
//! | `POST /api/users/{name}/certificates` | [`Pin`] | [`UserView`] |
//! | `POST /api/users/{name}/certificates/{serial}/revoke` | [`Revocation`] (body, optional) | [`UserView`] |
//! | `POST /api/users/{name}/certificates/revoke` | [`Revocation`] (body, optional) | [`UserView`]: all of its certificates |
//! | `GET /api/ca` | | [`CaView`] |
//! | `POST /api/ca/issuers/{issuer}/revoke` | [`IssuerRevocation`] (body, optional) | [`RevokedIssuerView`] |
//! | `POST /api/ca/rotate` | | [`CaView`] |
//! | `POST /api/ca/csr` | [`CaRequest`] | [`CaRequested`] |
//! | `POST /api/ca/import` | [`CaImport`] | [`CaView`] |
//! | `GET /api/ca/issuers/{issuer}/certificates` | [`LivingQuestion`] (query) | [`Page`] of [`LivingView`], by name of the user |
//! | `POST /api/ca/issuers/{issuer}/retire` | [`CaRetirement`] (optional) | [`CaView`] |
//! | `GET /crl`, `GET /crl/{issuer}` | | the revocation list in force of the CA that issues, or of this one, DER (`application/pkix-crl`) |
//! | `GET /api/roles` | | [`Page`] of [`Role`] |
//! | `POST /api/roles` | [`NewRole`] | 201 [`Role`] |
//! | `GET /api/roles/{name}` | | [`Role`] |
//! | `PUT /api/roles/{name}` | [`RoleUpdate`] | [`Role`] |
//! | `DELETE /api/roles/{name}` | [`VersionRead`] (query) | 204 |
//! | `GET /api/client-registry/requests` | [`RequestFilter`] (query) | [`RequestPage`] |
//! | `GET /api/client-registry/requests/{id}` | | [`RequestView`] |
//! | `POST /api/client-registry/requests/{id}/grant` | [`GrantTerms`] | [`RequestView`] |
//! | `POST /api/client-registry/requests/{id}/deny` | [`DenyTerms`] | [`RequestView`] |
//! | `GET /api/client-registry/replacements` | | [`Page`] of [`ReplacementView`] |
//! | `POST /api/client-registry/replacements/{username}` | [`ReplaceTerms`] (optional) | [`ReplacementView`] |
//! | `DELETE /api/client-registry/replacements/{username}` | | 204 |
//! | `GET /api/client-registry/tokens` | | [`Page`] of [`TokenView`] |
//! | `POST /api/client-registry/tokens` | [`TokenTerms`] | 201, [`TokenCreated`] |
//! | `GET /api/client-registry/tokens/{id}` | | [`TokenView`] |
//! | `DELETE /api/client-registry/tokens/{id}` | | 204 |
//! | `POST /api/client-registry/unlock` | [`UnlockTerms`] | [`LockStatus`] |
//! | `POST /api/client-registry/lock` | | [`LockStatus`] |
//! | `GET /api/client-registry/status` | | [`LockStatus`] |
//! | `POST /api/client-registry/register`, `GET /api/client-registry/ca` | over HTTPS, without credentials: see [the manual](crate::manual::rest) | |
//! | `GET /api/client-registry/events` | | server-sent events, each an [`Event`] or [`Missed`] |
//! | `GET /api/audit` | [`AuditRange`] (query) | [`AuditPage`] |
//! | `GET /api/audit/head` | | [`AuditHead`] |
//! | `GET /api/audit/events` | [`AuditRange`] (query) | server-sent events, each an [`Entry`] |
//! | `POST /api/audit/verify` | [`AuditVerify`] (optional) | [`Report`] |
//! | `POST /api/explain` | [`Explain`] | [`Explanation`] |
//! | `GET /api/who-can` | [`WhoCanQuestion`] (query) | [`WhoCan`] |
//! | `POST /api/apply` | [`Document`] | [`Applied`] |
//! | `GET /api/history` | [`HistoryQuestion`] (query) | [`Page`] of [`HistoryEntry`], the last commit first |
//! | `POST /api/rollback` | [`RollbackTerms`] | [`Applied`] |
//! | `GET /api/openapi.json` | | [all of this](super::openapi::DESCRIPTION) as OpenAPI 3.1 |
//!
//! Every change of users and roles, `apply` and `rollback` included, takes `?dry_run=true`: then nothing is changed, and the answer is
//! 200 with [`Applied`].
//!
//! Refusals are [`Problem`](super::problem::Problem)s. Times are RFC 3339, durations whole seconds. A write names the
//! `version` that its author has read and gets 409 when the thing has changed since.

use std::fmt;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::access::Role;
use crate::access::{
    Auth, CertificateRecord, ManagedBy, Permission, Quota, RevocationReason, RoleName, User, UserId, Username,
    UsernamePattern,
};
pub use crate::audit::{Entry, Hash, Record, Report, Statement, Tip};
use crate::authn::Source;
pub use crate::directory::{Deletion, Document, End, HistoryEntry, NotRestored, RoleDocument, UserDocument};
pub use crate::directory::{ObjectAction, ObjectChange, ObjectKind, SessionEffect, Standing, SubscriptionEffect};
pub use crate::registry::{
    DenyTerms, Event, EventKind, GrantTerms, LockStatus, ReplaceTerms, ReplacementView, RequestFilter, RequestId,
    RequestPage, RequestView, State as RequestState, StateFilter, TokenCreated, TokenId, TokenTerms, TokenView,
    UnlockTerms,
};

/// The most requests of the registry in one page.
pub const MAX_PAGE: usize = 1000;

/// The most that a request body may hold, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// The most that a [`Document`] may have, in bytes.
pub const MAX_DOCUMENT: usize = 32 << 20;

/// A list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// In the order of their names, or of their arrival.
    pub items: Vec<T>,
}

/// A password on its way to the broker: serialized for it alone, and never shown.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the password.
    pub fn new(password: impl Into<SecretString>) -> Self {
        Self(password.into())
    }

    /// The password, for whoever hashes it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// A user as the API shows it: everything but the password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The identity, for good.
    pub id: UserId,
    /// The label that it logs in with.
    pub username: Username,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// A disabled user may do nothing.
    pub enabled: bool,
    /// Which proof it must give.
    pub auth: Auth,
    /// Has it a password?
    pub has_password: bool,
    /// Is that still on record as the hash of the broker that it came from? Its next login changes that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub password_imported: bool,
    /// Issued and pinned certificates.
    #[serde(default)]
    pub certificates: Vec<CertificateRecord>,
    /// Roles that it holds.
    #[serde(default)]
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    #[serde(default)]
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// Pattern of its client identifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How much of the broker it may take up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// End of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Who may change it.
    pub managed_by: ManagedBy,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
    /// From where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_from: Option<Source>,
    /// For the next write.
    pub version: u64,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        Self {
            id: user.id,
            username: user.username.clone(),
            description: user.description.clone(),
            enabled: user.enabled,
            auth: user.auth,
            has_password: user.password_hash.is_some(),
            password_imported: user.pbkdf2_iterations().is_some(),
            certificates: user.certificates.clone(),
            roles: user.roles.clone(),
            permissions: user.permissions.clone(),
            publish_prefix: user.publish_prefix.clone(),
            client_id: user.client_id.clone(),
            quota: user.quota.as_deref().copied(),
            expires_at: user.expires_at,
            managed_by: user.managed_by,
            created_at: user.created_at,
            last_seen_at: user.last_seen_at,
            last_seen_from: None,
            version: user.version,
        }
    }
}

/// A user to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Not taken, not reserved.
    pub username: Username,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// May it log in at once? Default: yes.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Which proof it must give.
    #[serde(default)]
    pub auth: Auth,
    /// Required where `auth` needs one, refused where it admits none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Roles that it gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    #[serde(default, alias = "mqttPublishPrefix", skip_serializing_if = "Option::is_none")]
    pub publish_prefix: Option<String>,
    /// Pattern of its client identifiers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// How much of the broker it may take up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// End of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

fn yes() -> bool {
    true
}

/// A change of a user: what is absent stays, what is null goes back to its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    /// The version that was read.
    pub version: u64,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A disabled user may do nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Which proof it must give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// All of its roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<RoleName>>,
    /// All of its own rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
    /// Put in front of every topic that it publishes to.
    #[serde(
        default,
        alias = "mqttPublishPrefix",
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub publish_prefix: Option<Option<String>>,
    /// Pattern of its client identifiers.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Option<String>>,
    /// How much of the broker it may take up, as a whole: what the new one leaves out is not bounded any more.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub quota: Option<Option<Quota>>,
    /// End of the identity.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
}

#[expect(clippy::option_option, reason = "absent and null are two things in a patch (RFC 7396)")]
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The version that the author of a write has read; `None`: whatever it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRead {
    /// As the last read gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Only say what would be done?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DryRun {
    /// Then nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
}

/// How to delete something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// As the last read gave it; `None`: whatever it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Only say what would be done?
    #[serde(default)]
    pub dry_run: bool,
}

/// What a change did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Was nothing changed?
    pub dry_run: bool,
    /// The version that users and roles have, or would have, as a whole: what `rollback` goes back to.
    pub version: u64,
    /// The users and roles that were touched; none: all is as it should be already.
    pub changes: Vec<ObjectChange>,
    /// Of a dry run: the sessions that would lose or gain something.
    #[serde(default)]
    pub sessions: Vec<SessionEffect>,
    /// Of a rollback: what stays as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_restored: Vec<NotRestored>,
}

/// Which part of the history to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuestion {
    /// The most commits; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Where to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackTerms {
    /// As the history has it: users and roles become what they were right after that commit.
    pub version: u64,
}

/// Takes a certificate out of force for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Why, in the words of RFC 5280 5.3.1: what the revocation list says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RevocationReason>,
    /// For the record; at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The version of the user that was read; absent: whatever it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// Takes all that an issuer has issued out of force for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerRevocation {
    /// Why; default `cACompromise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RevocationReason>,
    /// For the record; at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// An issuer that is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedIssuerView {
    /// Its key identifier, lower-case hexadecimal.
    pub issuer: String,
    /// When.
    pub revoked_at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
    /// What the operator said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// The certificate authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaView {
    /// Distinguished name.
    pub subject: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// What records and revocation lists call this issuer, lower-case hexadecimal.
    pub key_identifier: String,
    /// Kind of key.
    pub key: String,
    /// Start of validity.
    pub not_before: Timestamp,
    /// End of validity.
    pub not_after: Timestamp,
    /// Where its certificates say that the revocation list is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_url: Option<String>,
    /// Those on record of users.
    pub certificates: CaCertificates,
    /// The revocation list in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<CrlView>,
    /// Issuers that are revoked as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked_issuers: Vec<RevokedIssuerView>,
    /// The CA before this one, while it is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<FormerView>,
    /// Further CAs of broker.toml whose certificates log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<TrustView>,
}

/// A further CA, as `[[ca.trust]]` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustView {
    /// Distinguished name.
    pub subject: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
    /// The users that it is good for.
    pub username: UsernamePattern,
    /// End of validity.
    pub not_after: Timestamp,
}

/// The CA before the one that issues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerView {
    /// What records call it, lower-case hexadecimal.
    pub issuer: String,
    /// Distinguished name.
    pub subject: String,
    /// End of validity.
    pub not_after: Timestamp,
    /// Certificates of it in force.
    pub certificates: usize,
    /// Users that have one.
    pub users: usize,
}

/// Who is asked to certify the key of a new CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRequest {
    /// The common name that the request has, 1 to 64 characters.
    pub common_name: String,
}

/// A request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRequested {
    /// PEM, PKCS#10.
    pub csr: String,
}

/// Certificates of a CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaImport {
    /// PEM: that of the CA, then those above it up to the root.
    pub certificates: String,
}

/// Ends the trust in the CA before the one that issues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaRetirement {
    /// With the certificates of it that are in force, and the sessions that stand on them.
    #[serde(default)]
    pub force: bool,
}

/// Which of the certificates of an issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LivingQuestion {
    /// Of users after this one, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Username>,
    /// At most so many, 1 to 1000; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A certificate of an issuer that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivingView {
    /// Whose.
    pub username: Username,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: Timestamp,
}

/// Puts a certificate of a further CA on record of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// PEM, one certificate.
    pub certificate: String,
    /// For the record; at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The version of the user that was read; absent: whatever it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// How many certificates are on record of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaCertificates {
    /// In force.
    pub live: u64,
    /// In force, and of another issuer than the one that signs now.
    pub of_other_issuers: u64,
    /// Revoked, by themselves or with their issuer.
    pub revoked: u64,
    /// Past their end.
    pub expired: u64,
}

/// The revocation list in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlView {
    /// Each list has a higher one.
    pub number: u64,
    /// Certificates on it, those of deleted users included.
    pub entries: u64,
    /// When it was made.
    pub this_update: Timestamp,
    /// By when there is another one.
    pub next_update: Timestamp,
}

/// A new password.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// Checked against the password policy.
    pub password: Secret,
    /// The version that was read; absent: whatever it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// A role to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    /// Not taken, not built in.
    pub name: RoleName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// In any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<Permission>,
}

/// A role as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleUpdate {
    /// The version that was read.
    pub version: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// In any order.
    pub permissions: Vec<Permission>,
}

/// In a stream of events: it was too slow, and did not get these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// How many.
    pub missed: u64,
}

/// Which records of the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRange {
    /// Only those after this number; absent with `last` absent: from the first on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only this many of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// At most this many at once, 1 to 1,000; default 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Records of the audit log, and where it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditPage {
    /// In the order of their numbers.
    pub items: Vec<Entry>,
    /// The last record of all at that moment; when `items` ends before it, ask again.
    pub end: Tip,
}

/// The end of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// The last record.
    pub end: Tip,
    /// The last one that was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Statement>,
}

/// Is the audit log whole?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditVerify {
    /// A hash that was noted elsewhere, and must be one of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Hash>,
}

/// May this user do that?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// Who.
    pub username: Username,
    /// What.
    pub action: Action,
    /// Where: a topic name, a filter for `subscribe`, a path for `http`.
    #[serde(alias = "path")]
    pub topic: String,
    /// For `http`; default GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What if these changes were made? They are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<Document>,
    /// As which client; `None`: the username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// With this QoS, 0 to 2; default 0.
    #[serde(default)]
    pub qos: u8,
    /// With RETAIN set, for `publish`.
    #[serde(default)]
    pub retain: bool,
}

/// What a client can do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// PUBLISH.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// Be sent a message.
    Receive,
    /// Make a request of this API.
    Http,
}

/// Who may do that?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhoCanQuestion {
    /// `publish` or `receive`.
    pub action: Action,
    /// The topic as it is routed, a publish prefix included.
    pub topic: String,
    /// The most users to name; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Those who may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoCan {
    /// As asked.
    pub action: Action,
    /// As asked.
    pub topic: String,
    /// How many there are, named or not.
    pub count: usize,
    /// By name.
    pub users: Vec<AbleUser>,
}

/// Somebody who may, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbleUser {
    /// Who.
    pub username: Username,
    /// Only under this client identifier; absent: under others too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Highest QoS.
    pub max_qos: u8,
    /// May RETAIN be set? For `publish`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// The rules that say so.
    pub rules: Vec<DecidingRule>,
}

/// The answer, from the very code that enforces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Yes or no.
    pub allowed: bool,
    /// In a sentence.
    pub reason: String,
    /// The topic that was judged, after the publish prefix.
    pub topic: String,
    /// Highest QoS that the rules admit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_qos: Option<u8>,
    /// May RETAIN be set?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// A subscription whose messages are each checked at delivery.
    #[serde(default)]
    pub checked_at_delivery: bool,
    /// The rules that decided it; none: no rule allows it.
    #[serde(default)]
    pub rules: Vec<DecidingRule>,
}

/// A rule, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidingRule {
    /// `None`: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// As it was written.
    pub permission: Permission,
}

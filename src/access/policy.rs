//! An immutable snapshot of every user and role, compiled.
//!
//! Users and roles enter by [`Policy::with`], all or nothing, and leave as the [`Authority`] of one user. The maps are
//! persistent: a snapshot shares what did not change with the one before it. Users name their roles and never hold
//! their rules, so that a change of a role costs that role, however many users hold it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;

use super::client_id::ClientIdPattern;
use super::decision::RuleSource;
use super::rules::{GroupClaims, RuleSet};
use super::{
    Authority, CertificateRecord, PolicyError, PrefixError, Role, RoleName, RuleHolder, User, UserId, Username,
};
use crate::mqtt::ClientId;

/// Most roles of one user.
pub const MAX_ROLES: usize = 64;

/// Longest publish prefix in bytes, and its most levels.
const MAX_PREFIX: (usize, usize) = (4_096, 128);

/// Counts the snapshots of one running broker; the gate of each connection is stamped with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyVersion(pub u64);

/// The snapshot. Cheap to clone: it shares all that did not change with the one before it. The built-in roles are always in it.
#[derive(Clone)]
pub struct Policy {
    version: PolicyVersion,
    users: OrdMap<UserId, Arc<UserEntry>>,
    names: OrdSet<ByName>,
    /// By the fingerprint of the public key of a certificate on record, revoked ones included.
    keys: OrdMap<Arc<str>, UserId>,
    roles: OrdMap<RoleName, Arc<RoleEntry>>,
    holders: OrdMap<RoleName, Holders>,
    expiries: OrdSet<(Timestamp, Subject)>,
    /// How many users have a password hash of PBKDF2, by its iterations.
    pbkdf2: OrdMap<u32, usize>,
    groups: Arc<Groups>,
    /// Key identifiers of issuers none of whose certificates is good any more.
    revoked_issuers: Arc<BTreeSet<String>>,
}

/// What the passing of time changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A role, one of whose permissions lapses.
    Role(RoleName),
    /// A user who expires, or one of whose own permissions lapses.
    User(UserId),
}

struct UserEntry {
    user: Arc<User>,
    own: Option<Arc<RuleSet>>,
    client_id: Option<ClientIdPattern>,
    expired: bool,
}

struct RoleEntry {
    role: Arc<Role>,
    rules: Arc<RuleSet>,
}

/// A user in the order of names.
#[derive(Clone)]
struct ByName(Arc<User>);

/// Who holds a role, told apart by whether the client identifier is tied to the username: whether a role may gain a rule
/// with `${client_id}` must not take a look at a million users.
#[derive(Clone, Default)]
struct Holders {
    tied: OrdSet<UserId>,
    others: OrdSet<UserId>,
}

/// The groups of shared subscriptions that need a rule to join.
#[derive(Clone, Default)]
pub(super) struct Groups {
    named: OrdMap<Arc<str>, u64>,
    every: u64,
}

impl Groups {
    pub(super) fn guards(&self, group: &str) -> bool {
        self.every > 0 || self.named.contains_key(group)
    }

    pub(super) fn add(&mut self, claims: &GroupClaims) {
        self.every += claims.every;
        for name in &claims.named {
            *self.named.entry(Arc::clone(name)).or_insert(0) += 1;
        }
    }

    fn remove(&mut self, claims: &GroupClaims) {
        self.every = self.every.saturating_sub(claims.every);
        for name in &claims.named {
            match self.named.get(name).copied() {
                Some(count) if count > 1 => self.named.insert(Arc::clone(name), count - 1),
                _ => self.named.remove(name),
            };
        }
    }

    /// Is there a group that the other guards, and this one does not?
    fn opens(&self, other: &Self) -> bool {
        let every = other.every > 0 && self.every == 0;
        every || (self.every == 0 && other.named.keys().any(|name| !self.named.contains_key(name)))
    }

    fn same_guard(&self, other: &Self) -> bool {
        (self.every > 0) == (other.every > 0) && self.named.keys().eq(other.named.keys())
    }
}

impl Policy {
    /// Its number.
    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// The snapshot after this one with these things put in or (where `None`) taken out. All or nothing.
    ///
    /// Permissions and users that have lapsed at `now` are left out of what it grants, those that lapsed since the last
    /// snapshot included: `with` nothing is the commit that the clock makes. Costs what it touches.
    ///
    /// # Errors
    /// What no policy can hold. How a user proves its identity is not looked at here, nor whether its name is reserved: that
    /// is for the doors by which users come in.
    pub fn with(
        &self,
        roles: impl IntoIterator<Item = (RoleName, Option<Role>)>,
        users: impl IntoIterator<Item = (UserId, Option<User>)>,
        now: Timestamp,
    ) -> Result<Policy, PolicyError> {
        let mut next = self.clone();
        next.version = PolicyVersion(self.version.0.saturating_add(1));
        let roles = next.gather_roles(roles, now)?;
        let users = next.gather_users(users, now)?;

        let mut claims = (Vec::new(), Vec::new());
        for (name, role) in &roles {
            next.replace_role(name, role.as_ref(), now, &mut claims)?;
        }
        // All leave before any comes in, so that names can be handed on within one change.
        for id in users.keys() {
            next.remove_user(*id, &mut claims);
        }
        for user in users.values().flatten() {
            next.insert_user(Arc::clone(user), now, &mut claims)?;
        }
        for (name, role) in &roles {
            next.check_holders(name, role.is_some())?;
        }
        next.settle_claims(&claims);
        Ok(next)
    }

    /// The snapshot after this one, in which these issuers are revoked: key identifiers, lower-case hexadecimal.
    #[must_use]
    pub fn with_revoked_issuers(&self, issuers: BTreeSet<String>) -> Policy {
        let mut next = self.clone();
        next.version = PolicyVersion(self.version.0.saturating_add(1));
        next.revoked_issuers = Arc::new(issuers);
        next
    }

    /// The issuers that are revoked as a whole.
    pub fn revoked_issuers(&self) -> &BTreeSet<String> {
        &self.revoked_issuers
    }

    /// Is every certificate of this issuer revoked?
    pub fn is_issuer_revoked(&self, issuer: &str) -> bool {
        self.revoked_issuers.contains(issuer)
    }

    /// Is this certificate revoked, by itself or with its issuer?
    pub fn is_revoked(&self, certificate: &CertificateRecord) -> bool {
        certificate.revoked_at.is_some()
            || certificate.issuer.as_deref().is_some_and(|issuer| self.is_issuer_revoked(issuer))
    }

    /// When a rule or user of this snapshot lapses next; [`Policy::with`] that moment or a later one takes it out.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.get_min().map(|(at, _)| *at)
    }

    /// What has lapsed at `now` and is still granted by this snapshot.
    pub fn lapsed(&self, now: Timestamp) -> impl Iterator<Item = &Subject> {
        self.expiries.iter().take_while(move |(at, _)| *at <= now).map(|(_, subject)| subject)
    }

    /// The user with this identity.
    pub fn user(&self, id: UserId) -> Option<&Arc<User>> {
        self.users.get(&id).map(|entry| &entry.user)
    }

    /// The user with this name.
    pub fn user_named(&self, name: &Username) -> Option<&Arc<User>> {
        self.names.get(name).map(|ByName(user)| user)
    }

    /// The user who has a certificate with this public key on record, revoked or not: SHA-256 of the SubjectPublicKeyInfo.
    pub fn user_with_key(&self, key: &str) -> Option<&Arc<User>> {
        self.keys.get(key).and_then(|id| self.user(*id))
    }

    /// The most iterations of a password hash of PBKDF2; 0: there is none.
    pub fn costliest_pbkdf2(&self) -> u32 {
        self.pbkdf2.get_max().map_or(0, |(iterations, _)| *iterations)
    }

    /// The role with this name.
    pub fn role(&self, name: &RoleName) -> Option<&Arc<Role>> {
        self.roles.get(name).map(|entry| &entry.role)
    }

    /// Does this user of the snapshot administer anything: as a holder of `admin`, or by a rule of its own or of its roles that has not
    /// lapsed and lets it write over HTTP, or to `$registry/admin/#`? Denies are not looked at: it is who needs better proof.
    pub fn administers(&self, user: &User) -> bool {
        let own = || self.users.get(&user.id).and_then(|entry| entry.own.as_ref()).is_some_and(|own| own.administers);
        let by_role = |name| self.roles.get(name).is_some_and(|role| role.rules.administers);
        user.is_administrator() || own() || user.roles.iter().any(by_role)
    }

    /// Every user, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.names.iter().map(|ByName(user)| user)
    }

    /// Every role, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values().map(|entry| &entry.role)
    }

    /// Those who hold the role.
    pub fn users_with_role(&self, name: &RoleName) -> impl Iterator<Item = UserId> {
        self.holders.get(name).into_iter().flat_map(|holders| holders.tied.iter().chain(&holders.others)).copied()
    }

    /// Did the groups of shared subscriptions that need a rule change since the other snapshot? Then every user may be
    /// affected, and not only those whose roles changed.
    pub fn guards_other_groups_than(&self, other: &Policy) -> bool {
        !Arc::ptr_eq(&self.groups, &other.groups) && !self.groups.same_guard(&other.groups)
    }

    /// Is there a group of shared subscriptions that needed a rule in the other snapshot and needs none in this one?
    pub fn opens_groups_of(&self, other: &Policy) -> bool {
        !Arc::ptr_eq(&self.groups, &other.groups) && self.groups.opens(&other.groups)
    }

    /// What the user may do under that client identifier; `None` when it does not exist, is disabled or has expired,
    /// when its `client_id` pattern does not admit the identifier, or when nobody may have it: with `+` or `#` in it.
    pub fn authority(&self, user: UserId, client_id: &ClientId) -> Option<Authority> {
        let entry = self.users.get(&user)?;
        if client_id.as_str().contains(['+', '#']) {
            return None;
        }
        if let Some(pattern) = &entry.client_id
            && !pattern.matches(&entry.user.username, client_id.as_str())
        {
            return None;
        }
        self.authority_of(entry, Some(client_id.clone()))
    }

    /// What the user may do where there is no client identifier: over HTTP, or for an embedder. Rules with `${client_id}`
    /// then allow nothing and deny for every client identifier.
    pub fn authority_without_client(&self, user: UserId) -> Option<Authority> {
        self.authority_of(self.users.get(&user)?, None)
    }

    pub(super) fn compiled_roles(&self) -> impl Iterator<Item = (&RoleName, &RuleSet)> {
        self.roles.iter().map(|(name, entry)| (name, &*entry.rules))
    }

    /// A client identifier that the user is admitted with, with `filler` wherever any text will do.
    pub(super) fn sample_client_id(&self, user: UserId, filler: &str) -> Option<ClientId> {
        let entry = self.users.get(&user)?;
        let sample = match &entry.client_id {
            None => filler.to_owned(),
            Some(pattern) => pattern.sample(&entry.user.username, filler),
        };
        ClientId::try_from(sample.as_str()).ok()
    }

    fn authority_of(&self, entry: &UserEntry, client_id: Option<ClientId>) -> Option<Authority> {
        if !entry.user.enabled || entry.expired {
            return None;
        }
        let own = entry.own.iter().map(|rules| RuleSource::User(Arc::clone(&entry.user), Arc::clone(rules)));
        let of_roles = entry.user.roles.iter().enumerate().filter_map(|(at, name)| {
            // A role that is named twice counts once.
            let repeated = entry.user.roles.iter().take(at).any(|earlier| earlier == name);
            let role = self.roles.get(name).filter(|_| !repeated)?;
            Some(RuleSource::Role(Arc::clone(&role.role), Arc::clone(&role.rules)))
        });
        let sources = own.chain(of_roles);
        Some(Authority::new(self.version, Arc::clone(&entry.user), client_id, sources, Arc::clone(&self.groups)))
    }
}

/// The steps of [`Policy::with`].
impl Policy {
    /// The roles of a change, and those of which a permission lapsed.
    fn gather_roles(
        &self,
        roles: impl IntoIterator<Item = (RoleName, Option<Role>)>,
        now: Timestamp,
    ) -> Result<BTreeMap<RoleName, Option<Arc<Role>>>, PolicyError> {
        let mut gathered = BTreeMap::new();
        for (name, role) in roles {
            if name.is_built_in() {
                return Err(PolicyError::RoleBuiltIn(name));
            }
            let other_name = role.as_ref().is_some_and(|role| role.name != name);
            if other_name || gathered.insert(name.clone(), role.map(Arc::new)).is_some() {
                return Err(PolicyError::Inconsistent(RuleHolder::Role(name)));
            }
        }
        for subject in self.lapsed(now) {
            if let Subject::Role(name) = subject
                && let Some(entry) = self.roles.get(name)
            {
                gathered.entry(name.clone()).or_insert_with(|| Some(Arc::clone(&entry.role)));
            }
        }
        Ok(gathered)
    }

    /// The users of a change, and those who or of whom a permission lapsed.
    fn gather_users(
        &self,
        users: impl IntoIterator<Item = (UserId, Option<User>)>,
        now: Timestamp,
    ) -> Result<BTreeMap<UserId, Option<Arc<User>>>, PolicyError> {
        let mut gathered = BTreeMap::new();
        for (id, user) in users {
            let name = user.as_ref().map(|user| user.username.clone());
            let other_id = user.as_ref().is_some_and(|user| user.id != id);
            if gathered.insert(id, user.map(Arc::new)).is_some() || other_id {
                let name = name.or_else(|| self.user(id).map(|user| user.username.clone()));
                return Err(PolicyError::Inconsistent(name.map_or(RuleHolder::Unknown(id), RuleHolder::User)));
            }
        }
        for subject in self.lapsed(now) {
            if let Subject::User(id) = subject
                && let Some(entry) = self.users.get(id)
            {
                gathered.entry(*id).or_insert_with(|| Some(Arc::clone(&entry.user)));
            }
        }
        Ok(gathered)
    }

    fn replace_role(
        &mut self,
        name: &RoleName,
        role: Option<&Arc<Role>>,
        now: Timestamp,
        claims: &mut ClaimsMoved,
    ) -> Result<(), PolicyError> {
        if let Some(before) = self.roles.remove(name) {
            self.forget_expiry(before.rules.lapses_at, Subject::Role(name.clone()));
            claims.0.push(Arc::clone(&before.rules));
        }
        if let Some(role) = role {
            let rules = RuleSet::compile(|| RuleHolder::Role(name.clone()), &role.permissions, now)?;
            let entry = RoleEntry { role: Arc::clone(role), rules: Arc::new(rules) };
            self.expect_expiry(entry.rules.lapses_at, Subject::Role(name.clone()));
            claims.1.push(Arc::clone(&entry.rules));
            self.roles.insert(name.clone(), Arc::new(entry));
        }
        Ok(())
    }

    fn remove_user(&mut self, id: UserId, claims: &mut ClaimsMoved) {
        let Some(before) = self.users.remove(&id) else { return };
        self.names.remove(&before.user.username);
        for key in before.user.certificates.iter().filter_map(|certificate| certificate.key.as_deref()) {
            self.keys.remove(key);
        }
        if let Some(iterations) = before.user.pbkdf2_iterations() {
            match self.pbkdf2.get(&iterations).copied() {
                Some(count) if count > 1 => self.pbkdf2.insert(iterations, count - 1),
                _ => self.pbkdf2.remove(&iterations),
            };
        }
        self.forget_expiry(before.expires_at(), Subject::User(id));
        claims.0.extend(before.own.clone());
        for name in &before.user.roles {
            if let Some(holders) = self.holders.get_mut(name) {
                holders.tied.remove(&id);
                holders.others.remove(&id);
                if holders.is_empty() {
                    self.holders.remove(name);
                }
            }
        }
    }

    fn insert_user(&mut self, user: Arc<User>, now: Timestamp, claims: &mut ClaimsMoved) -> Result<(), PolicyError> {
        let entry = UserEntry::compile(user, now)?;
        let user = &entry.user;
        if self.names.contains(&user.username) {
            return Err(PolicyError::UsernameTaken(user.username.clone()));
        }
        if let Some(resource) = entry.own.as_ref().and_then(|own| own.client_id_rule.clone())
            && !entry.is_tied()
        {
            return Err(PolicyError::ClientIdNotTied { user: user.username.clone(), role: None, resource });
        }
        for name in user.roles.iter().collect::<BTreeSet<_>>() {
            let Some(role) = self.roles.get(name) else {
                return Err(PolicyError::RoleUnknown { user: user.username.clone(), role: name.clone() });
            };
            if let Some(resource) = role.rules.client_id_rule.clone()
                && !entry.is_tied()
            {
                let role = Some(name.clone());
                return Err(PolicyError::ClientIdNotTied { user: user.username.clone(), role, resource });
            }
            let holders = self.holders.entry(name.clone()).or_default();
            let holders = if entry.is_tied() { &mut holders.tied } else { &mut holders.others };
            holders.insert(user.id);
        }
        for key in user.certificates.iter().filter_map(|certificate| certificate.key.as_deref()) {
            if self.keys.insert(key.into(), user.id).is_some_and(|other| other != user.id) {
                return Err(PolicyError::KeyInUse(user.username.clone()));
            }
        }
        if let Some(iterations) = user.pbkdf2_iterations() {
            *self.pbkdf2.entry(iterations).or_insert(0) += 1;
        }
        self.expect_expiry(entry.expires_at(), Subject::User(user.id));
        claims.1.extend(entry.own.clone());
        self.names.insert(ByName(Arc::clone(user)));
        self.users.insert(user.id, Arc::new(entry));
        Ok(())
    }

    /// What a changed role means for those who hold it.
    fn check_holders(&self, name: &RoleName, remains: bool) -> Result<(), PolicyError> {
        let username = |id: Option<&UserId>| id.and_then(|id| self.user(*id)).map(|user| user.username.clone());
        let Some(holders) = self.holders.get(name) else { return Ok(()) };
        if !remains && let Some(user) = username(holders.tied.iter().chain(&holders.others).next()) {
            return Err(PolicyError::RoleInUse { role: name.clone(), user });
        }
        let resource = self.roles.get(name).and_then(|entry| entry.rules.client_id_rule.clone());
        if let (Some(resource), Some(user)) = (resource, username(holders.others.get_min())) {
            return Err(PolicyError::ClientIdNotTied { user, role: Some(name.clone()), resource });
        }
        Ok(())
    }

    fn settle_claims(&mut self, (left, came): &ClaimsMoved) {
        let moved = left.iter().chain(came).any(|rules| !rules.claims.is_empty());
        if moved {
            let groups = Arc::make_mut(&mut self.groups);
            for rules in came {
                groups.add(&rules.claims);
            }
            for rules in left {
                groups.remove(&rules.claims);
            }
        }
    }

    fn expect_expiry(&mut self, at: Option<Timestamp>, subject: Subject) {
        if let Some(at) = at {
            self.expiries.insert((at, subject));
        }
    }

    fn forget_expiry(&mut self, at: Option<Timestamp>, subject: Subject) {
        if let Some(at) = at {
            self.expiries.remove(&(at, subject));
        }
    }
}

/// Rule sets that leave a policy and that come into it.
type ClaimsMoved = (Vec<Arc<RuleSet>>, Vec<Arc<RuleSet>>);

impl UserEntry {
    fn compile(user: Arc<User>, now: Timestamp) -> Result<Self, PolicyError> {
        let name = &user.username;
        if user.roles.len() > MAX_ROLES {
            let count = user.roles.len();
            return Err(PolicyError::TooManyRoles { user: name.clone(), count, max: MAX_ROLES });
        }
        if let Some(prefix) = &user.publish_prefix {
            check_prefix(prefix).map_err(|fault| PolicyError::PublishPrefix {
                user: name.clone(),
                prefix: prefix.clone(),
                fault,
            })?;
        }
        let client_id = match &user.client_id {
            None => None,
            Some(pattern) => Some(ClientIdPattern::try_from(&**pattern).map_err(|fault| {
                PolicyError::ClientIdPattern { user: name.clone(), pattern: pattern.clone(), fault }
            })?),
        };
        let own = if user.permissions.is_empty() {
            None
        } else {
            Some(Arc::new(RuleSet::compile(|| RuleHolder::User(name.clone()), &user.permissions, now)?))
        };
        let expired = user.expires_at.is_some_and(|end| end <= now);
        Ok(Self { user, own, client_id, expired })
    }

    fn is_tied(&self) -> bool {
        self.client_id.as_ref().is_some_and(ClientIdPattern::is_tied)
    }

    fn expires_at(&self) -> Option<Timestamp> {
        let user = self.user.expires_at.filter(|_| !self.expired);
        let own = self.own.as_ref().and_then(|own| own.lapses_at);
        user.into_iter().chain(own).min()
    }
}

fn check_prefix(prefix: &str) -> Result<(), PrefixError> {
    if prefix.starts_with('$') {
        Err(PrefixError::Reserved)
    } else if prefix.contains(['+', '#', '\0']) {
        Err(PrefixError::Character)
    } else if prefix.contains("${") {
        Err(PrefixError::Placeholder)
    } else if !prefix.ends_with('/') {
        Err(PrefixError::NoSlash)
    } else if prefix.len() > MAX_PREFIX.0 || prefix.split('/').count() > MAX_PREFIX.1 {
        Err(PrefixError::TooLong)
    } else {
        Ok(())
    }
}

impl Holders {
    fn is_empty(&self) -> bool {
        self.tied.is_empty() && self.others.is_empty()
    }
}

impl Default for Policy {
    /// The snapshot with the built-in roles and no users.
    fn default() -> Self {
        // Their rules are compiled like any other; a test holds that both are there.
        let roles = Role::built_in().into_iter().filter_map(|role| {
            let name = role.name.clone();
            let holder = || RuleHolder::Role(name.clone());
            let rules = RuleSet::compile(holder, &role.permissions, Timestamp::MIN).ok()?;
            Some((name.clone(), Arc::new(RoleEntry { role: Arc::new(role), rules: Arc::new(rules) })))
        });
        Self {
            version: PolicyVersion::default(),
            users: OrdMap::new(),
            names: OrdSet::new(),
            keys: OrdMap::new(),
            roles: roles.collect(),
            holders: OrdMap::new(),
            expiries: OrdSet::new(),
            pbkdf2: OrdMap::new(),
            groups: Arc::default(),
            revoked_issuers: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("version", &self.version)
            .field("users", &self.users.len())
            .field("roles", &self.roles.len())
            .finish_non_exhaustive()
    }
}

impl Borrow<Username> for ByName {
    fn borrow(&self) -> &Username {
        &self.0.username
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.username == other.0.username
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.username.cmp(&other.0.username)
    }
}

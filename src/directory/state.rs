//! The state that a commit starts from, and the checks that make the next one of it. Pure but for the clock's answer,
//! which is a parameter. Persistent structures: the next state shares all that the transaction does not touch.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;
use jiff::Timestamp;
use uuid::Uuid;

use super::delegation;
use super::history::{HISTORY, History};
use super::last_seen::{LAST_SEEN, LAST_SOURCE};
use super::revocation::{self, REVOKED, REVOKED_ISSUERS, RevokedIssuer};
use super::right;
use super::{Actor, Affected, Change, DirectoryError, Expected, ObjectAction, ObjectChange, ObjectKind};
use super::{Subject, Transaction};
use crate::access::{Auth, ManagedBy, Policy, PolicyError, Role, RoleName, Subject as Lapsed, User, UserId};
use crate::audit::{self, Event, UserRef, Word};
use crate::authn::{PasswordHash, digest_of};
use crate::store::{Batch, Key, Store, Table};

const USERS: Table<UserId, User> = Table::new("users", 1);
const ROLES: Table<RoleName, Role> = Table::new("roles", 1);

/// Above this many holders of a changed role, listing them costs more than asking every connection.
const MANY: usize = 4096;

impl Key for UserId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Uuid::read(bytes).map(Self)
    }
}

impl Key for RoleName {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_str().as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok()?.parse().ok()
    }
}

/// A snapshot with the index that a reload of broker.toml needs. INVARIANT: the index says of `policy` what it says
/// of itself.
#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) policy: Arc<Policy>,
    /// Users that broker.toml owns.
    config_users: OrdSet<UserId>,
    pub(super) history: History,
    revoked_issuers: Arc<BTreeMap<String, RevokedIssuer>>,
}

/// What a transaction makes of a state.
pub(super) struct Step {
    pub(super) state: State,
    pub(super) batch: Batch,
    pub(super) affected: Affected,
    /// Users first.
    pub(super) changes: Vec<ObjectChange>,
    /// Certificates that are good no more; with an issuer, at least one.
    pub(super) revoked: usize,
    /// What the audit log says of it.
    pub(super) events: Vec<Event>,
}

impl Step {
    /// What lapses by itself: nothing is written.
    pub(super) fn of_the_clock((state, affected): (State, Affected)) -> Self {
        Self { state, batch: Batch::new(), affected, changes: Vec::new(), revoked: 0, events: Vec::new() }
    }
}

impl State {
    /// Reads everything.
    pub(super) fn load(store: &dyn Store, now: Timestamp) -> Result<Self, DirectoryError> {
        let mut roles = Vec::new();
        for record in ROLES.iter(store) {
            let (name, role) = record?;
            roles.push((name, Some(role)));
        }
        let mut state = Self::default();
        let mut users = Vec::new();
        for record in USERS.iter(store) {
            let (id, user) = record?;
            state.index(id, Some(&user));
            users.push((id, Some(user)));
        }
        state.history = History::load(store)?;
        let issuers = revocation::load_issuers(store)?;
        let policy = state.policy.with(roles, users, now).map_err(DirectoryError::Stored)?;
        state.policy = Arc::new(policy.with_revoked_issuers(issuers.keys().cloned().collect()));
        state.revoked_issuers = Arc::new(issuers);
        Ok(state)
    }

    /// Does anybody hold the role `admin`, enabled or not?
    pub(super) fn has_admin(&self) -> bool {
        self.admins().next().is_some()
    }

    /// The users that broker.toml owns.
    pub(super) fn config_users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.config_users.iter().filter_map(|id| self.policy.user(*id))
    }

    fn admins(&self) -> impl Iterator<Item = &Arc<User>> {
        self.policy
            .users_with_role(&RoleName::admin())
            .filter_map(|id| self.policy.user(id))
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn index(&mut self, id: UserId, new: Option<&User>) {
        if new.is_some_and(|user| user.managed_by == ManagedBy::Config) {
            self.config_users.insert(id);
        } else {
            self.config_users.remove(&id);
        }
    }

    /// The commit that the clock makes: nothing changes but what lapsed. `None` when nothing did.
    pub(super) fn expire(&self, now: Timestamp) -> Result<Option<(Self, Affected)>, DirectoryError> {
        if self.policy.lapsed(now).next().is_none() {
            return Ok(None);
        }
        let policy = Arc::new(self.policy.with([], [], now)?);
        let affected = self.affected(&policy, std::iter::empty(), std::iter::empty(), now);
        Ok(Some((Self { policy, ..self.clone() }, affected)))
    }

    /// Whose rules differ between this snapshot and the next, given the users and roles that were put in or taken out.
    fn affected<'a>(
        &'a self,
        next: &'a Policy,
        users: impl Iterator<Item = UserId>,
        roles: impl Iterator<Item = &'a RoleName>,
        now: Timestamp,
    ) -> Affected {
        if next.guards_other_groups_than(&self.policy) {
            return Affected::All;
        }
        let mut affected: OrdSet<UserId> = users.collect();
        let mut touched: Vec<_> = roles.collect();
        // The next snapshot also drops what lapsed since this one, whoever held it.
        for lapsed in self.policy.lapsed(now) {
            match lapsed {
                Lapsed::User(id) => {
                    affected.insert(*id);
                }
                Lapsed::Role(name) => touched.push(name),
            }
        }
        for name in touched {
            // A role cannot lose a holder who is not among the users of the transaction.
            for id in next.users_with_role(name) {
                affected.insert(id);
                if affected.len() > MANY {
                    return Affected::All;
                }
            }
        }
        Affected::Users(affected)
    }

    /// Another hash of the password that this user has: no change of the user, but of what is on record of it. `None` when the
    /// hash that was verified is not the present one, or when broker.toml owns it and would bring it back.
    pub(super) fn rehash(
        &self,
        id: UserId,
        verified: &str,
        hash: &PasswordHash,
        now: Timestamp,
    ) -> Result<Option<Step>, DirectoryError> {
        let current = self.policy.user(id).filter(|user| user.managed_by != ManagedBy::Config);
        let Some(old) = current.filter(|user| user.password_hash.as_deref() == Some(verified)) else {
            return Ok(None);
        };
        // INVARIANT: neither version nor history move, so that no edit under way is lost, and what was proven stays proven.
        let user = User {
            password_hash: Some(hash.as_str().to_owned()),
            rehashed_from: Some(old.rehashed_from.unwrap_or_else(|| digest_of(verified))),
            ..User::clone(old)
        };
        let mut batch = Batch::new();
        batch.put(&USERS, &id, &user)?;
        let events = vec![Event::PasswordRehashed { user: UserRef { id, username: user.username.clone() } }];
        let policy = Arc::new(self.policy.with([], [(id, Some(user))], now)?);
        let affected = self.affected(&policy, std::iter::once(id), std::iter::empty(), now);
        let state = Self { policy, ..self.clone() };
        Ok(Some(Step { state, batch, affected, changes: Vec::new(), revoked: 0, events }))
    }

    /// Checks a transaction as a whole and applies it.
    pub(super) fn apply(
        &self,
        transaction: Transaction,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<Step, DirectoryError> {
        if transaction.records.tables().any(is_ours) {
            return Err(DirectoryError::ForeignRecords);
        }
        right::check(&self.policy, actor)?;
        let mut draft =
            Draft { state: self, actor, now, users: BTreeMap::new(), roles: BTreeMap::new(), issuers: BTreeMap::new() };
        for change in transaction.changes {
            draft.change(change)?;
        }
        let Draft { users, roles, issuers, .. } = draft;
        let mut batch = Batch::new();
        let mut next = self.clone();
        let mut changes = Vec::with_capacity(users.len() + roles.len());
        let mut events = Vec::with_capacity(users.len() + roles.len());
        let mut administrators = false;
        let mut revoked = issuers.len();
        for (id, user) in &users {
            match user {
                Some(user) => batch.put(&USERS, id, user)?,
                None => batch.delete(&USERS, id)?,
            }
            let old = self.policy.user(*id).map(Arc::as_ref);
            administrators |= old.is_some_and(administers);
            let name = user.as_ref().or(old).map(|user| user.username.to_string());
            changes.extend(touched(ObjectKind::User, name, old.is_some(), user.as_ref().map(|user| user.version)));
            user_events(old, user.as_ref(), &mut events);
            if let Some(old) = old {
                // INVARIANT: what is out of force here is on record for the revocation list, in the same batch.
                revoked += revocation::keep(&mut batch, old, user.as_ref(), now)?;
            }
            next.index(*id, user.as_ref());
        }
        for (name, role) in &roles {
            match role {
                Some(role) => batch.put(&ROLES, name, role)?,
                None => batch.delete(&ROLES, name)?,
            }
            let (old, new) = (self.policy.role(name).is_some(), role.as_ref().map(|role| role.version));
            changes.extend(touched(ObjectKind::Role, Some(name.to_string()), old, new));
            events.extend(role_event(self.policy.role(name).map(Arc::as_ref), role.as_ref()));
        }
        let mut affected = Affected::Users(OrdSet::new());
        let revokes_issuers = !issuers.is_empty();
        if !users.is_empty() || !roles.is_empty() {
            let who = (actor, now);
            next.history.record(&mut batch, &self.policy, (&users, &roles), &changes, who)?;
            let (ids, names): (Vec<_>, Vec<_>) = (users.keys().copied().collect(), roles.keys().cloned().collect());
            next.policy = Arc::new(self.policy.with(roles, users, now)?);
            delegation::check((&self.policy, &next.policy), &ids, &names, false, actor, now)?;
            affected = self.affected(&next.policy, ids.into_iter(), names.iter(), now);
        }
        if revokes_issuers {
            delegation::check((&self.policy, &next.policy), &[], &[], true, actor, now)?;
            let mut all = BTreeMap::clone(&self.revoked_issuers);
            for (issuer, record) in issuers {
                batch.put(&REVOKED_ISSUERS, &issuer, &record)?;
                events.push(Event::IssuerRevoked { issuer: Word::name(&issuer), reason: record.reason });
                all.insert(issuer, record);
            }
            next.policy = Arc::new(next.policy.with_revoked_issuers(all.keys().cloned().collect()));
            next.revoked_issuers = Arc::new(all);
            affected = Affected::All;
        }
        if administrators && *actor != Actor::System {
            self.keep_an_admin(&next, now)?;
        }
        batch.append(transaction.records);
        Ok(Step { state: next, batch, affected, changes, revoked, events })
    }

    /// Somebody who could administer before can still do so, and for as long.
    fn keep_an_admin(&self, next: &Self, now: Timestamp) -> Result<(), DirectoryError> {
        let able = |user: &User| user.enabled && user.auth != Auth::None && user.expires_at.is_none_or(|end| end > now);
        let lasting = |user: &User| able(user) && user.expires_at.is_none();
        for good in [&able as &dyn Fn(&User) -> bool, &lasting] {
            if let Some(last) = self.admins().find(|user| good(user))
                && !next.admins().any(|user| good(user))
            {
                return Err(DirectoryError::LastAdmin(last.username.clone()));
            }
        }
        Ok(())
    }
}

/// `None` for what came and went within one transaction.
fn touched(kind: ObjectKind, name: Option<String>, was: bool, version: Option<u64>) -> Option<ObjectChange> {
    let action = match (was, version.is_some()) {
        (false, false) => return None,
        (false, true) => ObjectAction::Created,
        (true, true) => ObjectAction::Changed,
        (true, false) => ObjectAction::Deleted,
    };
    Some(ObjectChange { kind, name: name?, action, version })
}

/// The tables that no other module may write to.
fn is_ours(table: &[u8]) -> bool {
    let seen = [LAST_SEEN.name(), LAST_SOURCE.name()];
    let own = [USERS.name(), ROLES.name(), HISTORY.name(), REVOKED.name(), REVOKED_ISSUERS.name()];
    own.iter().chain(&seen).any(|own| table == own.as_bytes()) || audit::is_ours(table)
}

/// What the audit log says of a user before and after a transaction.
fn user_events(old: Option<&User>, new: Option<&User>, events: &mut Vec<Event>) {
    let named = |user: &User| UserRef { id: user.id, username: user.username.clone() };
    match (old, new) {
        (None, None) => {}
        (None, Some(new)) => events.push(Event::UserCreated {
            user: named(new),
            managed_by: new.managed_by,
            new: new.version,
            change: audit::user_change(None, new),
        }),
        (Some(old), Some(new)) => events.push(Event::UserChanged {
            user: named(old),
            old: old.version,
            new: new.version,
            change: audit::user_change(Some(old), new),
        }),
        (Some(old), None) => events.push(Event::UserDeleted { user: named(old), old: old.version }),
    }
    if let Some(old) = old {
        events.extend(audit::certificates_lost(old, new));
    }
}

/// What the audit log says of a role before and after a transaction.
fn role_event(old: Option<&Role>, new: Option<&Role>) -> Option<Event> {
    Some(match (old, new) {
        (None, None) => return None,
        (None, Some(new)) => Event::RoleCreated {
            role: new.name.clone(),
            managed_by: new.managed_by,
            new: new.version,
            change: audit::role_change(None, new),
        },
        (Some(old), Some(new)) => Event::RoleChanged {
            role: new.name.clone(),
            old: old.version,
            new: new.version,
            change: audit::role_change(Some(old), new),
        },
        (Some(old), None) => Event::RoleDeleted { role: old.name.clone(), old: old.version },
    })
}

fn administers(user: &User) -> bool {
    user.roles.contains(&RoleName::admin())
}

/// A transaction half way: what it has put in or (`None`) taken out so far.
struct Draft<'a> {
    state: &'a State,
    actor: &'a Actor,
    now: Timestamp,
    users: BTreeMap<UserId, Option<User>>,
    roles: BTreeMap<RoleName, Option<Role>>,
    issuers: BTreeMap<String, RevokedIssuer>,
}

impl Draft<'_> {
    fn user(&self, id: UserId) -> Option<&User> {
        match self.users.get(&id) {
            Some(user) => user.as_ref(),
            None => self.state.policy.user(id).map(Arc::as_ref),
        }
    }

    fn role(&self, name: &RoleName) -> Option<&Role> {
        match self.roles.get(name) {
            Some(role) => role.as_ref(),
            None => self.state.policy.role(name).map(Arc::as_ref),
        }
    }

    fn change(&mut self, change: Change) -> Result<(), DirectoryError> {
        match change {
            Change::PutUser { user, expected } => self.put_user(*user, expected),
            Change::DeleteUser { id, expected } => {
                let old = self.user(id).ok_or_else(|| DirectoryError::NotFound(Subject::User(id.to_string())))?;
                let subject = || Subject::User(old.username.to_string());
                check_version(subject, Some(old.version), expected)?;
                check_owner(subject, old.managed_by, self.actor)?;
                self.users.insert(id, None);
                Ok(())
            }
            Change::PutRole { role, expected } => self.put_role(role, expected),
            Change::RevokeIssuer { issuer, reason, comment } => {
                let known = self.issuers.get(&issuer).or_else(|| self.state.revoked_issuers.get(&issuer));
                if let Some(known) = known {
                    return Err(DirectoryError::IssuerRevoked { issuer, at: known.revoked_at });
                }
                self.issuers.insert(issuer, RevokedIssuer { revoked_at: self.now, reason, comment });
                Ok(())
            }
            Change::DeleteRole { name, expected } => {
                check_built_in(&name)?;
                let subject = || Subject::Role(name.clone());
                let old = self.role(&name).ok_or_else(|| DirectoryError::NotFound(subject()))?;
                check_version(subject, Some(old.version), expected)?;
                check_owner(subject, old.managed_by, self.actor)?;
                self.roles.insert(name, None);
                Ok(())
            }
        }
    }

    fn put_user(&mut self, mut user: User, expected: Expected) -> Result<(), DirectoryError> {
        let old = self.user(user.id);
        let subject = || Subject::User(old.map_or(&user.username, |old| &old.username).to_string());
        check_version(subject, old.map(|old| old.version), expected)?;
        check_owner(subject, old.map_or(user.managed_by, |old| old.managed_by), self.actor)?;
        // Only the broker itself gives out these names, and never to a registration.
        let named_anew = old.is_none_or(|old| old.username != user.username);
        if named_anew
            && user.username.is_reserved()
            && (*self.actor != Actor::System || user.managed_by == ManagedBy::Registry)
        {
            return Err(DirectoryError::ReservedName(user.username));
        }
        if let Some(certificate) = old.and_then(|old| revocation::restored(old, &user)) {
            return Err(DirectoryError::StaysRevoked(certificate.serial.clone()));
        }
        let (managed_by, created_at, version) = match old {
            Some(old) => (old.managed_by, old.created_at, old.version),
            None => (user.managed_by, self.now, 0),
        };
        // Who writes back what it read before the password was hashed anew, writes the same password.
        let rehashed = old.and_then(|old| Some((old, old.rehashed_from?)));
        user.rehashed_from = None;
        if let Some((old, from)) = rehashed
            && (user.password_hash == old.password_hash
                || user.password_hash.as_deref().is_some_and(|hash| digest_of(hash) == from))
        {
            user.password_hash.clone_from(&old.password_hash);
            user.rehashed_from = Some(from);
        }
        user.managed_by = managed_by;
        user.created_at = created_at;
        user.version = version.saturating_add(1);
        self.users.insert(user.id, Some(user));
        Ok(())
    }

    fn put_role(&mut self, mut role: Role, expected: Expected) -> Result<(), DirectoryError> {
        check_built_in(&role.name)?;
        let old = self.role(&role.name);
        let subject = || Subject::Role(role.name.clone());
        check_version(subject, old.map(|old| old.version), expected)?;
        check_owner(subject, old.map_or(role.managed_by, |old| old.managed_by), self.actor)?;
        let (managed_by, version) = old.map_or((role.managed_by, 0), |old| (old.managed_by, old.version));
        role.managed_by = managed_by;
        role.version = version.saturating_add(1);
        self.roles.insert(role.name.clone(), Some(role));
        Ok(())
    }
}

pub(super) fn check_built_in(name: &RoleName) -> Result<(), DirectoryError> {
    if name.is_built_in() { Err(PolicyError::RoleBuiltIn(name.clone()).into()) } else { Ok(()) }
}

fn check_version(subject: impl Fn() -> Subject, found: Option<u64>, expected: Expected) -> Result<(), DirectoryError> {
    match (found, expected) {
        (None, Expected::Version(_)) => Err(DirectoryError::NotFound(subject())),
        (Some(_), Expected::Absent) => Err(DirectoryError::Exists(subject())),
        (Some(found), Expected::Version(expected)) if found != expected => {
            Err(DirectoryError::Version { subject: subject(), expected, found })
        }
        _ => Ok(()),
    }
}

/// What broker.toml owns, broker.toml alone changes; and nothing else.
fn check_owner(subject: impl Fn() -> Subject, owner: ManagedBy, actor: &Actor) -> Result<(), DirectoryError> {
    match (owner == ManagedBy::Config, *actor == Actor::Config) {
        (true, false) => Err(DirectoryError::ManagedByConfig(subject())),
        (false, true) => Err(DirectoryError::OwnedElsewhere(vec![subject()])),
        _ => Ok(()),
    }
}

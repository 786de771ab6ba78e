//! What users and roles were before each commit, for as long as it is on record; and the way back.
//!
//! Each commit has a number, counted across restarts, and writes what it replaced in its own batch. Going back to a number
//! is a new transaction that makes every user and role what it was right after that commit. Rights go back, proofs do not:
//! passwords, certificates and `auth` stay as they are, so that nothing revoked comes to life, and no hash is kept here.
//! A deleted user does not come back: the id is the identity.

use std::collections::BTreeMap;

use imbl::OrdMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Actor, Change, Committed, Directory, DirectoryError, Expected, ObjectChange, ObjectKind, Preview, Transaction,
};
use crate::access::{ManagedBy, Policy, Role, RoleName, User, UserId};
use crate::store::{Batch, Key, Store, StoreError, Table};

pub(super) const HISTORY: Table<Place, Image> = Table::new("directory_history", 1);

/// Commits that stay on record.
pub const HISTORY_COMMITS: usize = 1_000;
/// Users and roles in all of them that do; the last commit always does.
const HISTORY_IMAGES: u64 = 20_000;

/// The number of a commit, and of an object in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(u64, u32);

impl Key for Place {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
        out.extend_from_slice(&self.1.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (number, part) = bytes.split_first_chunk::<8>()?;
        Some(Self(u64::from_be_bytes(*number), u32::from_be_bytes(part.try_into().ok()?)))
    }
}

/// What a commit puts in or (`None`) takes out.
type Written<K, V> = BTreeMap<K, Option<V>>;

/// One object that a commit touched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Image {
    at: Timestamp,
    actor: String,
    change: ObjectChange,
    before: Before,
}

/// What it was before.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Before {
    /// `None`: not there. Without its password.
    User(UserId, Option<Box<User>>),
    /// `None`: not there.
    Role(Option<Role>),
    /// Too large for a record of its own.
    Unkept(Option<UserId>),
}

/// Which commits are on record: how many objects each has.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    commits: OrdMap<u64, u32>,
    images: u64,
    last: u64,
}

impl History {
    pub(super) fn load(store: &dyn Store) -> Result<Self, DirectoryError> {
        let mut history = Self::default();
        for record in HISTORY.iter(store) {
            let (Place(number, _), _) = record?;
            history.count(number);
        }
        Ok(history)
    }

    /// The number of the last commit; 0: there was none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    fn count(&mut self, number: u64) -> u32 {
        let parts = self.commits.entry(number).or_insert(0);
        let part = *parts;
        *parts = parts.saturating_add(1);
        self.images = self.images.saturating_add(1);
        self.last = self.last.max(number);
        part
    }

    /// Writes what a commit replaces into its batch, and takes the oldest ones out.
    pub(super) fn record(
        &mut self,
        batch: &mut Batch,
        old: &Policy,
        (users, roles): (&Written<UserId, User>, &Written<RoleName, Role>),
        changes: &[ObjectChange],
        (actor, at): (&Actor, Timestamp),
    ) -> Result<(), StoreError> {
        let number = self.last.saturating_add(1);
        let actor = actor.to_string();
        let without_password =
            |user: &std::sync::Arc<User>| Box::new(User { password_hash: None, ..User::clone(user) });
        let of_users = users
            .iter()
            .filter(|(id, user)| user.is_some() || old.user(**id).is_some())
            .map(|(id, _)| Before::User(*id, old.user(*id).map(without_password)));
        let of_roles = roles
            .iter()
            .filter(|(name, role)| role.is_some() || old.role(name).is_some())
            .map(|(name, _)| Before::Role(old.role(name).map(|role| Role::clone(role))));
        for (before, change) in of_users.chain(of_roles).zip(changes) {
            let place = Place(number, self.count(number));
            let image = Image { at, actor: actor.clone(), change: change.clone(), before };
            match batch.put(&HISTORY, &place, &image) {
                Err(StoreError::TooLarge { .. }) => {
                    let id = if let Before::User(id, _) = image.before { Some(id) } else { None };
                    batch.put(&HISTORY, &place, &Image { before: Before::Unkept(id), ..image })?;
                }
                done => done?,
            }
        }
        while self.commits.len() > HISTORY_COMMITS || (self.images > HISTORY_IMAGES && self.commits.len() > 1) {
            let Some((oldest, parts)) = self.commits.get_min().copied() else { break };
            for part in 0..parts {
                batch.delete(&HISTORY, &Place(oldest, part))?;
            }
            self.commits.remove(&oldest);
            self.images = self.images.saturating_sub(u64::from(parts));
        }
        Ok(())
    }
}

/// A commit on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its number, for [`Directory::rollback`].
    pub version: u64,
    /// When it was made.
    pub at: Timestamp,
    /// On whose behalf.
    pub actor: String,
    /// What it touched.
    pub changes: Vec<ObjectChange>,
}

/// Something that a rollback leaves as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRestored {
    /// User or role.
    pub kind: ObjectKind,
    /// By its name of then.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A way back, found and not gone.
#[derive(Clone, Debug)]
pub struct Rollback {
    last: u64,
    changes: Vec<Change>,
    /// What cannot go back.
    pub not_restored: Vec<NotRestored>,
}

impl Rollback {
    /// Only from the state that it was found from.
    fn transaction(self, last: u64) -> Result<Transaction, DirectoryError> {
        if last == self.last {
            Ok(Transaction { changes: self.changes, records: Batch::new() })
        } else {
            Err(DirectoryError::Outrun(self.last))
        }
    }
}

impl Directory {
    /// The commits on record, the last one first, `limit` at most.
    ///
    /// # Errors
    /// [`DirectoryError::Store`].
    pub fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>, DirectoryError> {
        let state = self.state();
        let mut entries = Vec::new();
        for number in state.history.commits.keys().rev().take(limit) {
            let mut entry: Option<HistoryEntry> = None;
            for (_, image) in self.images(*number, *number)? {
                let new = || HistoryEntry { version: *number, at: image.at, actor: image.actor, changes: Vec::new() };
                entry.get_or_insert_with(new).changes.push(image.change);
            }
            entries.extend(entry);
        }
        Ok(entries)
    }

    /// The way back to the state right after commit `version`.
    ///
    /// # Errors
    /// [`DirectoryError::NotOnRecord`], [`DirectoryError::Store`].
    pub fn way_back(&self, version: u64) -> Result<Rollback, DirectoryError> {
        let state = self.state();
        let last = state.history.last();
        let oldest = state.history.commits.get_min().map_or(last, |(oldest, _)| oldest.saturating_sub(1));
        if version < oldest || version > last {
            return Err(DirectoryError::NotOnRecord { asked: version, oldest, last });
        }
        let mut way = Rollback { last, changes: Vec::new(), not_restored: Vec::new() };
        // Of each object, the oldest image after that commit is what it was then.
        let mut users: BTreeMap<UserId, (ObjectChange, Before)> = BTreeMap::new();
        let mut roles: BTreeMap<String, (ObjectChange, Before)> = BTreeMap::new();
        for (_, Image { change, before, .. }) in self.images(version.saturating_add(1), last)? {
            match before {
                Before::User(id, _) | Before::Unkept(Some(id)) => {
                    users.entry(id).or_insert((change, before));
                }
                Before::Role(_) | Before::Unkept(None) => {
                    roles.entry(change.name.clone()).or_insert((change, before));
                }
            }
        }
        for (id, (change, before)) in users {
            way.user(&state.policy, id, change, before);
        }
        for (name, (change, before)) in roles {
            // A name on record is a name.
            if let Ok(name) = name.parse() {
                way.role(&state.policy, &name, change, before);
            }
        }
        Ok(way)
    }

    /// Goes the way back, in one transaction.
    ///
    /// # Errors
    /// [`DirectoryError::Outrun`] when there was another commit since it was found, and those of [`Directory::commit`].
    pub fn rollback(&self, way: Rollback, actor: &Actor) -> Result<Committed, DirectoryError> {
        self.commit_from(move |state| way.transaction(state.history.last()), actor)
    }

    /// What [`Directory::rollback`] would do.
    ///
    /// # Errors
    /// As there.
    pub fn preview_rollback(&self, way: Rollback, actor: &Actor) -> Result<Preview, DirectoryError> {
        let last = self.state().history.last();
        self.preview(|_| way.transaction(last), actor)
    }

    fn images(&self, first: u64, last: u64) -> Result<Vec<(Place, Image)>, DirectoryError> {
        let page = HISTORY.page(self.store(), Place(first, 0)..=Place(last, u32::MAX), usize::MAX - 1)?;
        Ok(page.records)
    }
}

impl Rollback {
    fn leave(&mut self, change: ObjectChange, reason: &str) {
        let ObjectChange { kind, name, .. } = change;
        self.not_restored.push(NotRestored { kind, name, reason: reason.to_owned() });
    }

    fn user(&mut self, policy: &Policy, id: UserId, change: ObjectChange, before: Before) {
        let current = policy.user(id);
        match (before, current) {
            (Before::User(_, None), None) => {}
            (_, Some(current)) if current.managed_by == ManagedBy::Config => {
                self.leave(change, "broker.toml owns it");
            }
            (Before::User(_, None), Some(current)) => {
                self.changes.push(Change::DeleteUser { id, expected: Expected::Version(current.version) });
            }
            (_, None) => self.leave(change, "it was deleted since, and an identity does not come back"),
            (Before::User(_, Some(then)), Some(current)) => {
                let user = User {
                    auth: current.auth,
                    password_hash: current.password_hash.clone(),
                    rehashed_from: current.rehashed_from,
                    certificates: current.certificates.clone(),
                    last_seen_at: current.last_seen_at,
                    managed_by: current.managed_by,
                    version: current.version,
                    ..*then
                };
                if user != **current {
                    let expected = Expected::Version(user.version);
                    self.changes.push(Change::PutUser { user: Box::new(user), expected });
                }
            }
            (Before::Role(_) | Before::Unkept(_), Some(_)) => {
                self.leave(change, "it was too large to be kept on record");
            }
        }
    }

    fn role(&mut self, policy: &Policy, name: &RoleName, change: ObjectChange, before: Before) {
        let current = policy.role(name);
        let owned = |role: &Role| role.managed_by == ManagedBy::Config;
        match (before, current) {
            (Before::Role(None), None) => {}
            (_, Some(current)) if owned(current) => self.leave(change, "broker.toml owns it"),
            (Before::Role(Some(then)), None) if owned(&then) => self.leave(change, "broker.toml owned it"),
            (Before::Role(None), Some(current)) => {
                self.changes
                    .push(Change::DeleteRole { name: name.clone(), expected: Expected::Version(current.version) });
            }
            (Before::Role(Some(role)), None) => {
                self.changes.push(Change::PutRole { role, expected: Expected::Absent });
            }
            (Before::Role(Some(then)), Some(current)) => {
                let role = Role { managed_by: current.managed_by, version: current.version, ..then };
                if role != **current {
                    let expected = Expected::Version(role.version);
                    self.changes.push(Change::PutRole { role, expected });
                }
            }
            (Before::User(..) | Before::Unkept(_), _) => self.leave(change, "it was too large to be kept on record"),
        }
    }
}

//! The directory as its callers see it: snapshots to read, transactions to commit, a listener to be told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use imbl::OrdSet;
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::watch;
use uuid::Uuid;

use super::config;
use super::last_seen::LastSeen;
use super::queue::{CommitQueue, Reentrant};
use super::state::{State, Step};
use super::{Actor, Change, DirectoryError, ErrorKind, Expected, NewUser, ObjectChange, Subject, Transaction};
use crate::access::{Auth, ManagedBy, Policy, PolicyVersion, Role, RoleName, User, UserId, Username};
use crate::audit::{self, Chain, Event, Note};
use crate::authn::{PasswordHash, Source};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::store::{Batch, Store};

/// Whose rules a commit may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affected {
    /// Anybody's: a rule on shared subscription groups changed, or a role that very many hold.
    All,
    /// Those of these users: the changed, the deleted, the lapsed, and the holders of such roles.
    Users(OrdSet<UserId>),
}

impl Affected {
    /// Is this user among them?
    pub fn contains(&self, user: UserId) -> bool {
        match self {
            Self::All => true,
            Self::Users(ids) => ids.contains(&user),
        }
    }

    fn nobody() -> Self {
        Self::Users(OrdSet::new())
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Users(ids), Self::Users(others)) => Self::Users(ids.union(others)),
            _ => Self::All,
        }
    }
}

/// A step from one published snapshot to the next; it may hold several transactions.
#[derive(Clone)]
pub struct PolicyChange {
    /// The snapshot before.
    pub old: Arc<Policy>,
    /// The snapshot that [`Directory::policy`] now gives.
    pub new: Arc<Policy>,
    /// Whose connections must pass it.
    pub affected: Affected,
}

/// Who passes a new snapshot through the connections.
pub trait PolicyListener: Send + Sync + 'static {
    /// Called after the snapshot is published and before its commits are answered, one call at a time. It must not
    /// call back into the directory's commits ([`DirectoryError::Reentrant`]); reading is fine.
    fn policy_changed(&self, change: &PolicyChange);
}

/// The answer to a commit: durable, published, passed by every affected connection.
#[derive(Clone)]
pub struct Committed {
    /// The state right after this transaction. The published snapshot is this one or a later one.
    pub policy: Arc<Policy>,
    /// Did users or roles change?
    pub changed: bool,
    /// Which, users first.
    pub changes: Vec<ObjectChange>,
    /// The number of the last commit on record: of this one, when it changed something.
    pub history_version: u64,
}

impl Committed {
    /// The number of the snapshot.
    pub fn version(&self) -> PolicyVersion {
        self.policy.version()
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed")
            .field("version", &self.version())
            .field("changed", &self.changed)
            .finish_non_exhaustive()
    }
}

type Plan = Box<dyn FnOnce(&State) -> Result<Transaction, DirectoryError> + Send>;

enum Work {
    /// Plans against the state after all commits before it, then commits.
    Commit(Plan, Actor, Note),
    /// The commit that the clock makes.
    Expire(Timestamp),
    /// Another hash of the same password, in the place of this one.
    Rehash(UserId, String, PasswordHash),
}

/// Users and roles: the one place that commits changes of them.
///
/// ```
/// use std::sync::Arc;
///
/// use portcullis::clock::SystemClock;
/// use portcullis::directory::{Actor, Directory, NewUser};
/// use portcullis::store::MemoryStore;
///
/// let directory = Directory::open(Arc::new(MemoryStore::new()), Arc::new(SystemClock))?;
/// let user = directory.create_user(NewUser::named("sensor-1".parse()?), &Actor::System)?;
/// assert_eq!(directory.policy().user(user.id).map(|user| user.version), Some(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Directory {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    current: ArcSwap<State>,
    /// The audit log: every transaction's records are in its batch.
    chain: Chain,
    /// The number of `current`, to be compared without touching it.
    version: AtomicU64,
    listener: RwLock<Option<Arc<dyn PolicyListener>>>,
    metrics: Arc<Metrics>,
    last_seen: LastSeen,
    /// Counts the commits that took certificates out of force.
    revocations: watch::Sender<u64>,
    queue: CommitQueue<Work, Result<Committed, DirectoryError>>,
}

impl Directory {
    /// Loads all users and roles and compiles the first snapshot.
    ///
    /// # Errors
    /// [`DirectoryError::Store`] and [`DirectoryError::Stored`].
    pub fn open(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, DirectoryError> {
        let state = State::load(&*store, clock.timestamp())?;
        let chain = Chain::open(&*store)?;
        Ok(Self {
            chain,
            last_seen: LastSeen::load(&*store)?,
            store,
            clock,
            version: AtomicU64::new(state.policy.version().0),
            current: ArcSwap::from_pointee(state),
            listener: RwLock::new(None),
            metrics: Arc::new(Metrics::new()),
            revocations: watch::Sender::new(0),
            queue: CommitQueue::new(),
        })
    }

    /// Counts commits, and tells the number of the snapshot, there instead of in metrics of its own.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<Metrics>) -> Self {
        metrics.policy_version.set(self.version().0);
        self.metrics = metrics;
        self
    }

    /// The published snapshot. Never waits.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.current.load().policy)
    }

    /// The number of the published snapshot: for a gate that asks whether its own is still the current one. A caller
    /// that sees a number gets that snapshot or a later one from [`Directory::policy`].
    pub fn version(&self) -> PolicyVersion {
        PolicyVersion(self.version.load(Ordering::Acquire))
    }

    /// From now on this listener is told; there is one.
    pub fn set_listener(&self, listener: Arc<dyn PolicyListener>) {
        *self.listener.write() = Some(listener);
    }

    /// Moves with each commit that takes certificates out of force, once it is durable and passed: for whoever publishes the
    /// revocation list.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// When [`Directory::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.current.load().policy.next_expiry()
    }

    /// Does anybody hold the role `admin`, enabled or not? If nobody does, it is the first start.
    pub fn has_admin(&self) -> bool {
        self.current.load().has_admin()
    }

    /// This user has just connected. Cheap: nothing is written, and no snapshot changes.
    pub fn seen(&self, user: UserId, from: Source) {
        self.last_seen.record(user, from, self.clock.timestamp());
    }

    /// When this user last connected; `None`: never, or before a crash that came sooner than the next
    /// [`Directory::save_last_seen`].
    pub fn last_seen(&self, user: UserId) -> Option<Timestamp> {
        self.last_seen.get(user).map(|(at, _)| at)
    }

    /// From where this user last connected, as far as [`Directory::last_seen`] knows.
    pub fn last_source(&self, user: UserId) -> Option<Source> {
        self.last_seen.get(user).and_then(|(_, from)| from)
    }

    /// From where each user last connected, the latest login at the end. Costs what there are users.
    pub fn last_sources(&self) -> Vec<(Username, Source)> {
        self.last_seen.homes(&self.policy())
    }

    /// Writes the times of [`Directory::seen`] that are new to the store. To be called once an hour, and at the end.
    /// Says how many records were written. Blocks.
    ///
    /// # Errors
    /// [`DirectoryError::Store`]; what was not written is due again.
    pub fn save_last_seen(&self) -> Result<usize, DirectoryError> {
        Ok(self.last_seen.save(&*self.store, &self.policy())?)
    }

    /// Makes all changes of the transaction, or none. Returns when they are durable, published and passed.
    ///
    /// # Errors
    /// Whatever [`DirectoryError`] says; nothing has changed then, but that after [`DirectoryError::Store`] with
    /// [`crate::store::StoreError::Failed`] a restart may find the transaction made.
    pub fn commit(&self, transaction: Transaction, actor: &Actor) -> Result<Committed, DirectoryError> {
        self.commit_noted(transaction, actor, Note::default())
    }

    /// As [`Directory::commit`], with what the audit log shall say beside the changes of users and roles, which it
    /// tells by itself: in the same batch, whole or not at all.
    ///
    /// # Errors
    /// Those of [`Directory::commit`].
    pub fn commit_noted(
        &self,
        transaction: Transaction,
        actor: &Actor,
        note: Note,
    ) -> Result<Committed, DirectoryError> {
        self.run(Work::Commit(Box::new(|_| Ok(transaction)), actor.clone(), note))
    }

    /// Writes into the audit log what no transaction tells: an act without a record of its own, a refusal.
    ///
    /// # Errors
    /// [`DirectoryError::Store`].
    pub fn record(&self, note: Note, actor: &Actor) -> Result<(), DirectoryError> {
        self.commit_noted(Transaction::default(), actor, note).map(|_| ())
    }

    /// As [`Directory::commit`], with a transaction that `plan` makes from the state that it will be applied to: no
    /// other commit comes between. `plan` must be quick and must not call the directory.
    pub fn commit_with<P>(&self, plan: P, actor: &Actor) -> Result<Committed, DirectoryError>
    where
        P: FnOnce(&Policy) -> Result<Transaction, DirectoryError> + Send + 'static,
    {
        self.run(Work::Commit(Box::new(|state| plan(&state.policy)), actor.clone(), Note::default()))
    }

    /// The commit that the clock makes: takes out of force what has lapsed by `now`. Without anything to do it
    /// publishes nothing.
    pub fn expire(&self, now: Timestamp) -> Result<Committed, DirectoryError> {
        self.run(Work::Expire(now))
    }

    /// Puts another hash of the same password in the place of `verified`, the one that this user has just proven to know it by.
    /// Neither the version of the user nor the history moves, and no session ends. False when there is another hash by now, or
    /// when broker.toml owns the user.
    ///
    /// # Errors
    /// [`DirectoryError::Store`]; the old hash stays.
    pub fn rehash(&self, user: UserId, verified: String, hash: PasswordHash) -> Result<bool, DirectoryError> {
        self.run(Work::Rehash(user, verified, hash)).map(|committed| committed.changed)
    }

    /// Makes the directory hold just these users and roles with `managed_by = "config"`: others of that kind are
    /// deleted. Changes nothing, versions included, where everything is so already.
    ///
    /// A password that comes from a file must be given as the hash on record when that still verifies; a fresh hash
    /// of the same password is a change.
    ///
    /// # Errors
    /// [`DirectoryError::OwnedElsewhere`] with every name that the API or the registry owns, and those of
    /// [`Directory::commit`].
    pub fn reconcile(&self, roles: Vec<Role>, users: Vec<NewUser>) -> Result<Committed, DirectoryError> {
        self.run(Work::Commit(Box::new(|state| config::reconcile(state, roles, users)), Actor::Config, Note::default()))
    }

    /// Makes the user `admin`, with the role `admin` and this password (an argon2id PHC string), at the very first start.
    ///
    /// # Errors
    /// [`DirectoryError::Exists`] when somebody holds the role `admin` already, or has the name.
    pub fn create_first_admin(&self, hash: String) -> Result<Arc<User>, DirectoryError> {
        let id = UserId(Uuid::now_v7());
        #[expect(clippy::expect_used, reason = "a constant; a test makes this user")]
        let username = Username::try_from(String::from(RoleName::admin())).expect("`admin` is a username");
        let plan = move |state: &State| {
            if state.has_admin() || state.policy.user_named(&username).is_some() {
                return Err(DirectoryError::Exists(Subject::User(username.to_string())));
            }
            let user = NewUser {
                description: "made at the first start".to_owned(),
                auth: Auth::Password,
                password_hash: Some(hash),
                roles: vec![RoleName::admin()],
                ..NewUser::named(username)
            };
            Ok(put(user.into_user(id, ManagedBy::Api), Expected::Absent))
        };
        user(&self.run(Work::Commit(Box::new(plan), Actor::System, Note::default()))?, id)
    }

    /// Creates a user, owned by broker.toml or the registry where one of them is the actor, else by the API.
    pub fn create_user(&self, new: NewUser, actor: &Actor) -> Result<Arc<User>, DirectoryError> {
        let id = UserId(Uuid::now_v7());
        let managed_by = match actor {
            Actor::Config => ManagedBy::Config,
            Actor::Registry | Actor::Token { .. } => ManagedBy::Registry,
            Actor::System | Actor::Local { .. } | Actor::User { .. } | Actor::Both { .. } => ManagedBy::Api,
        };
        user(&self.commit(put(new.into_user(id, managed_by), Expected::Absent), actor)?, id)
    }

    /// Changes a user by what `edit` does to it. Its `id` stays, and so does what the directory sets itself.
    pub fn update_user<E>(
        &self,
        id: UserId,
        expected: Expected,
        edit: E,
        actor: &Actor,
    ) -> Result<Arc<User>, DirectoryError>
    where
        E: FnOnce(&mut User) + Send + 'static,
    {
        let plan = move |policy: &Policy| {
            let mut user = policy.user(id).map(|user| User::clone(user)).ok_or_else(|| not_found(id))?;
            edit(&mut user);
            user.id = id;
            Ok(put(user, expected))
        };
        user(&self.commit_with(plan, actor)?, id)
    }

    /// Deletes a user.
    pub fn delete_user(&self, id: UserId, expected: Expected, actor: &Actor) -> Result<Committed, DirectoryError> {
        self.commit(Change::DeleteUser { id, expected }.into(), actor)
    }

    /// Creates or replaces a role.
    pub fn put_role(&self, role: Role, expected: Expected, actor: &Actor) -> Result<Arc<Role>, DirectoryError> {
        let name = role.name.clone();
        let committed = self.commit(Change::PutRole { role, expected }.into(), actor)?;
        committed.policy.role(&name).cloned().ok_or(DirectoryError::NotFound(Subject::Role(name)))
    }

    /// Deletes a role that nobody holds.
    pub fn delete_role(&self, name: RoleName, expected: Expected, actor: &Actor) -> Result<Committed, DirectoryError> {
        self.commit(Change::DeleteRole { name, expected }.into(), actor)
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// As [`Directory::commit_with`], with all of the state to plan from.
    pub(super) fn commit_from<P>(&self, plan: P, actor: &Actor) -> Result<Committed, DirectoryError>
    where
        P: FnOnce(&State) -> Result<Transaction, DirectoryError> + Send + 'static,
    {
        self.run(Work::Commit(Box::new(plan), actor.clone(), Note::default()))
    }

    /// What the next commit would start from, if nobody else is before it.
    pub(super) fn state(&self) -> Arc<State> {
        self.current.load_full()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }

    fn run(&self, work: Work) -> Result<Committed, DirectoryError> {
        let begun = self.clock.instant();
        let done = self
            .queue
            .run(work, |group| self.lead(group), || Err(DirectoryError::Interrupted))
            .unwrap_or_else(|Reentrant| Err(DirectoryError::Reentrant));
        match &done {
            Ok(Committed { changed: true, .. }) => {
                self.metrics.commits.observe(self.clock.instant().saturating_duration_since(begun));
            }
            Err(DirectoryError::Interrupted) => self.metrics.commit_failures.inc(),
            Err(error @ DirectoryError::Store(_)) if error.kind() == ErrorKind::Internal => {
                self.metrics.commit_failures.inc();
            }
            _ => {}
        }
        done
    }

    /// Works on a group in order: each against the state that its predecessors make, all in one batch.
    ///
    /// INVARIANT: only the leader of the queue is here, so `current` moves only here.
    fn lead(&self, group: Vec<Work>) -> Vec<Result<Committed, DirectoryError>> {
        let published = self.current.load_full();
        let now = self.clock.timestamp();
        let mut tip = State::clone(&published);
        let mut batch = Batch::new();
        let mut sealing = self.chain.sealing();
        let mut affected = Affected::nobody();
        let mut answers = Vec::with_capacity(group.len());
        let mut revoked = 0;
        for work in group {
            let before = Arc::clone(&tip.policy);
            let done = match work {
                Work::Commit(plan, actor, note) => plan(&tip)
                    .and_then(|transaction| tip.apply(transaction, &actor, now))
                    .map(|step| (Some(step), actor, note)),
                Work::Rehash(user, verified, hash) => {
                    tip.rehash(user, &verified, &hash, now).map(|step| (step, Actor::System, Note::default()))
                }
                Work::Expire(now) => {
                    let next = tip.expire(now);
                    next.map(|next| (next.map(Step::of_the_clock), Actor::System, Note::default()))
                }
            };
            let done = done.and_then(|(step, actor, note)| {
                let Some(mut step) = step else { return Ok((tip.clone(), Affected::nobody(), Vec::new())) };
                // INVARIANT: no change without its record, no record without its change.
                let (who, place) = actor.in_audit();
                let events = note.events.into_iter().chain(step.events).collect();
                let place = note.place.or(place);
                sealing.add(&mut step.batch, now, &who, place.as_ref(), events)?;
                batch.append(step.batch);
                revoked += step.revoked;
                Ok((step.state, step.affected, step.changes))
            });
            answers.push(done.map(|(state, more, changes)| {
                tip = state;
                affected = std::mem::replace(&mut affected, Affected::All).and(more);
                let changed = !Arc::ptr_eq(&before, &tip.policy);
                Committed { policy: Arc::clone(&tip.policy), changed, changes, history_version: tip.history.last() }
            }));
        }
        let durable =
            if batch.is_empty() { Ok(()) } else { sealing.finish(&mut batch).and_then(|()| self.store.commit(batch)) };
        if let Err(error) = durable {
            // Refusals that came after the first success were decided against a state that never was.
            let error = DirectoryError::from(error);
            let first = answers.iter().position(Result::is_ok).unwrap_or(answers.len());
            for answer in answers.iter_mut().skip(first) {
                *answer = Err(error.clone());
            }
            return answers;
        }
        self.metrics.audit_records.add(sealing.committed());
        if !Arc::ptr_eq(&published.policy, &tip.policy) {
            let change = PolicyChange { old: Arc::clone(&published.policy), new: Arc::clone(&tip.policy), affected };
            self.current.store(Arc::new(tip));
            self.version.store(change.new.version().0, Ordering::Release);
            self.metrics.policy_version.set(change.new.version().0);
            let listener = self.listener.read().clone();
            if let Some(listener) = listener {
                listener.policy_changed(&change);
            }
        }
        if revoked > 0 {
            self.metrics.certificates_revoked.add(u64::try_from(revoked).unwrap_or(u64::MAX));
            self.revocations.send_modify(|count| *count = count.wrapping_add(1));
        }
        answers
    }
}

impl audit::Append for Directory {
    fn append(&self, events: Vec<Event>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.record(Note { place: None, events }, &Actor::System)?)
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("version", &self.version()).finish_non_exhaustive()
    }
}

fn put(user: User, expected: Expected) -> Transaction {
    Change::PutUser { user: Box::new(user), expected }.into()
}

fn not_found(id: UserId) -> DirectoryError {
    DirectoryError::NotFound(Subject::User(id.to_string()))
}

fn user(committed: &Committed, id: UserId) -> Result<Arc<User>, DirectoryError> {
    committed.policy.user(id).cloned().ok_or_else(|| not_found(id))
}

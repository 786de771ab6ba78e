//! Every session there is, by key: found, made, taken over, forgotten.
//!
//! A [`SessionCell`] is shared between the connection that serves the session, a newer connection that takes it over,
//! and whoever has to pass its gate because the rules changed. All that is decided or written for the session happens
//! under the gate.
//!
//! Lock order: a gate may be held while the table or the deadlines are locked, never the other way round.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{
    access::{Quota, UserId},
    authn::Identity,
    clock::Instant,
    mqtt::{ClientId, Packet},
    router::{Mailbox, MailboxLimits},
    session::{Delivery, EndCause, Owner, RegistryAnswer, Session, SessionKey, SessionNumber, Usage},
};

use super::backlog::Backlog;

/// One session, its queue and its gate.
#[derive(Debug)]
pub(crate) struct SessionCell {
    pub(crate) mailbox: Arc<Mailbox>,
    /// Of its owner.
    pub(super) usage: Arc<Usage>,
    gate: Mutex<Gate>,
}

/// One connection of a user.
#[derive(Debug)]
pub(crate) struct UserPlace(Arc<Usage>);

impl UserPlace {
    /// `None`: the user has as many connections as it may have.
    pub(super) fn take(usage: &Arc<Usage>, most: Option<u32>) -> Option<Self> {
        usage.connect(most).then(|| Self(Arc::clone(usage)))
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        self.0.disconnect();
    }
}

/// What the gate guards.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) session: Session,
    /// The connection that serves the session; 0: none.
    pub(crate) connection: u64,
    /// Who proved to be its owner when it was last connected; for those who ask what a change would end.
    pub(super) identity: Option<Identity>,
    /// Of that connection among those that its user may have.
    pub(super) place: Option<UserPlace>,
    /// For the connection that serves it: its end, decided by somebody else.
    pub(crate) ended: Option<EndCause>,
    /// For connections that lost the session to a newer one: number and last packet. Each takes its own.
    pub(crate) farewells: Vec<(u64, Packet)>,
    /// Taken from the mailbox, not yet given to the session.
    pub(super) pending: VecDeque<Delivery>,
    /// Retained messages of new subscriptions, fed as there is room.
    pub(super) backlog: Backlog,
    /// Answers of the registry that the connection has yet to deliver.
    pub(crate) answers: VecDeque<RegistryAnswer>,
    /// Out of the table: whoever still finds it must look again.
    removed: bool,
    /// Connections that have found the session and not yet taken the gate: it stays in the table for them.
    claims: usize,
    deadline: Option<Instant>,
}

impl SessionCell {
    /// Everything that is decided or written for the session happens while this is held; never held across a wait.
    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock()
    }

    /// The gate, for whoever has claimed the session.
    pub(crate) fn claimed(&self) -> MutexGuard<'_, Gate> {
        let mut gate = self.gate.lock();
        gate.claims = gate.claims.saturating_sub(1);
        gate
    }
}

/// All sessions of one broker.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    deadlines: Mutex<BTreeMap<(Instant, SessionNumber), Arc<SessionCell>>>,
    earlier_deadline: Notify,
    numbers: AtomicU64,
    mailbox: MailboxLimits,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    owners: HashMap<Owner, Owned>,
    count: usize,
    /// Accounts of users without a session, who would be better off with a new one.
    resting: HashMap<Owner, Arc<Usage>>,
}

/// All sessions of one owner. INVARIANT: there is one.
#[derive(Debug, Default)]
struct Owned {
    usage: Arc<Usage>,
    clients: HashMap<ClientId, Arc<SessionCell>>,
}

/// There is no session of this key, and there may be no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooManySessions {
    /// As many as `limits.sessions` admits.
    InAll,
    /// As many as the user's quota admits.
    OfUser,
}

impl Sessions {
    pub(crate) fn new(mailbox: MailboxLimits, limit: usize) -> Self {
        Self {
            table: Mutex::default(),
            deadlines: Mutex::default(),
            earlier_deadline: Notify::new(),
            // 0 is the broker itself.
            numbers: AtomicU64::new(1),
            mailbox,
            limit,
        }
    }

    /// A number that no session and no connection had before.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.lock().count
    }

    /// The session of this key, made if there is none and the quota admits it. It does not leave the table before [`SessionCell::claimed`].
    pub(crate) fn claim(&self, key: &SessionKey, quota: Option<&Quota>) -> Result<Arc<SessionCell>, TooManySessions> {
        loop {
            let cell = self.look_up_or_insert(key, quota)?;
            let mut gate = cell.gate();
            if !gate.removed {
                gate.claims += 1;
                drop(gate);
                return Ok(cell);
            }
            drop(gate);
            // Its remover is about to take it out of the table.
            self.take_out(key, &cell);
        }
    }

    fn look_up_or_insert(&self, key: &SessionKey, quota: Option<&Quota>) -> Result<Arc<SessionCell>, TooManySessions> {
        let mut guard = self.table.lock();
        let table = &mut *guard;
        let owned = table.owners.get(&key.owner);
        if let Some(cell) = owned.and_then(|owned| owned.clients.get(&key.client_id)) {
            return Ok(Arc::clone(cell));
        }
        if table.count >= self.limit {
            return Err(TooManySessions::InAll);
        }
        if let Some(most) = quota.and_then(|quota| quota.sessions)
            && owned.map_or(0, |owned| owned.clients.len()) >= usize::try_from(most).unwrap_or(usize::MAX)
        {
            return Err(TooManySessions::OfUser);
        }
        let owned = table.owners.entry(key.owner).or_insert_with(|| Owned {
            usage: table.resting.remove(&key.owner).unwrap_or_default(),
            clients: HashMap::new(),
        });
        let number = SessionNumber(self.next_number());
        let cell = Arc::new(SessionCell {
            mailbox: Arc::new(Mailbox::new(self.mailbox.clone())),
            usage: Arc::clone(&owned.usage),
            gate: Mutex::new(Gate {
                session: Session::with_usage(key.clone(), number, Arc::clone(&owned.usage)),
                connection: 0,
                identity: None,
                place: None,
                ended: None,
                farewells: Vec::new(),
                pending: VecDeque::new(),
                backlog: Backlog::default(),
                answers: VecDeque::new(),
                removed: false,
                claims: 0,
                deadline: None,
            }),
        });
        table.count += 1;
        owned.clients.insert(key.client_id.clone(), Arc::clone(&cell));
        Ok(cell)
    }

    /// Forgets a session that is over, unless somebody is about to begin it anew. The caller holds its gate.
    pub(crate) fn remove(&self, cell: &Arc<SessionCell>, gate: &mut Gate) {
        self.set_deadline(cell, gate, None);
        gate.pending = VecDeque::new();
        gate.backlog.clear();
        if gate.claims > 0 {
            cell.mailbox.clear();
            return;
        }
        gate.removed = true;
        cell.mailbox.close();
        self.take_out(gate.session.key(), cell);
    }

    fn take_out(&self, key: &SessionKey, cell: &Arc<SessionCell>) {
        let mut table = self.table.lock();
        let Some(owned) = table.owners.get_mut(&key.owner) else { return };
        if !owned.clients.get(&key.client_id).is_some_and(|known| Arc::ptr_eq(known, cell)) {
            return;
        }
        owned.clients.remove(&key.client_id);
        if owned.clients.is_empty()
            && let Some(Owned { usage, .. }) = table.owners.remove(&key.owner)
            && !usage.is_untouched()
        {
            // Who comes back with a new session finds the rates as they were left.
            table.resting.insert(key.owner, usage);
        }
        table.count -= 1;
    }

    /// The account of an owner, with or without a session.
    pub(crate) fn usage(&self, owner: Owner) -> Arc<Usage> {
        let mut table = self.table.lock();
        match table.owners.get(&owner) {
            Some(owned) => Arc::clone(&owned.usage),
            None => Arc::clone(table.resting.entry(owner).or_default()),
        }
    }

    /// Forgets the accounts of users who are as well off with a new one.
    pub(crate) fn forget_rested(&self, now: Instant) {
        self.table.lock().resting.retain(|_, usage| !usage.is_rested(now) || Arc::strong_count(usage) > 1);
    }

    /// The sessions of one user.
    pub(crate) fn of_user(&self, user: UserId) -> Vec<Arc<SessionCell>> {
        self.of(Owner::User(user))
    }

    /// The sessions of one owner.
    pub(super) fn of(&self, owner: Owner) -> Vec<Arc<SessionCell>> {
        let table = self.table.lock();
        table.owners.get(&owner).map(|owned| owned.clients.values().cloned().collect()).unwrap_or_default()
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<SessionCell>> {
        self.table.lock().owners.values().flat_map(|owned| owned.clients.values().cloned()).collect()
    }

    /// When the session without a connection needs attention next. The caller holds its gate.
    pub(crate) fn set_deadline(&self, cell: &Arc<SessionCell>, gate: &mut Gate, deadline: Option<Instant>) {
        if gate.deadline == deadline {
            return;
        }
        let number = gate.session.number();
        let mut deadlines = self.deadlines.lock();
        if let Some(old) = gate.deadline {
            deadlines.remove(&(old, number));
        }
        if let Some(new) = deadline {
            deadlines.insert((new, number), Arc::clone(cell));
        }
        let first = deadline.is_some() && deadlines.keys().next().map(|(at, _)| *at) == deadline;
        drop(deadlines);
        gate.deadline = deadline;
        if first {
            self.earlier_deadline.notify_one();
        }
    }

    /// Sessions whose deadline has come, and the next deadline after those.
    pub(crate) fn due(&self, now: Instant) -> (Vec<Arc<SessionCell>>, Option<Instant>) {
        let deadlines = self.deadlines.lock();
        let due = deadlines.iter().take_while(|((at, _), _)| *at <= now).map(|(_, cell)| Arc::clone(cell)).collect();
        let next = deadlines.keys().map(|(at, _)| *at).find(|at| *at > now);
        (due, next)
    }

    /// Waits until a deadline is set that comes before all others.
    pub(crate) async fn earlier_deadline(&self) {
        self.earlier_deadline.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Budget;

    fn sessions() -> (Sessions, SessionKey) {
        let key = SessionKey { owner: Owner::Registration(1), client_id: ClientId::try_from("c").unwrap() };
        (Sessions::new(MailboxLimits { messages: 1, bytes: 1, total: Budget::new(0) }, 10), key)
    }

    #[test]
    fn a_session_that_a_connect_has_found_stays_for_it() {
        let (sessions, key) = sessions();
        let cell = sessions.claim(&key, None).unwrap();
        drop(cell.claimed());
        let again = sessions.claim(&key, None).unwrap();
        assert!(Arc::ptr_eq(&cell, &again));
        // The connection that had it ends just now.
        sessions.remove(&cell, &mut cell.gate());
        assert_eq!(sessions.len(), 1);
        let mut gate = again.claimed();
        assert!(!gate.removed);
        sessions.remove(&again, &mut gate);
        assert_eq!(sessions.len(), 0);
        drop(gate);
        assert!(!Arc::ptr_eq(&cell, &sessions.claim(&key, None).unwrap()));
    }
}

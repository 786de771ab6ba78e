//! When each user last connected.
//!
//! Enters: logins. Leaves: times, and now and then the records that are new. It is no part of a policy: a login bumps no
//! version, publishes no snapshot and writes nothing; what was not saved yet is lost with the process.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::access::{Policy, UserId};
use crate::store::{Batch, Store, StoreError, Table};

pub(super) const LAST_SEEN: Table<UserId, Timestamp> = Table::new("last_seen", 1);

/// Records that one batch holds at most.
const AT_ONCE: usize = 4096;

/// A time, and whether the store knows it.
#[derive(Clone, Copy)]
struct Entry {
    at: Timestamp,
    saved: bool,
}

/// The times. Those of users that are no more stay until the next save.
#[derive(Default)]
pub(super) struct LastSeen {
    entries: Mutex<HashMap<UserId, Entry>>,
    /// Held by the one who saves.
    saving: Mutex<()>,
}

impl LastSeen {
    pub(super) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let records = LAST_SEEN.iter(store).map(|record| record.map(|(id, at)| (id, Entry { at, saved: true })));
        Ok(Self { entries: Mutex::new(records.collect::<Result<_, _>>()?), saving: Mutex::default() })
    }

    pub(super) fn record(&self, user: UserId, at: Timestamp) {
        self.entries.lock().insert(user, Entry { at, saved: false });
    }

    pub(super) fn get(&self, user: UserId) -> Option<Timestamp> {
        self.entries.lock().get(&user).map(|entry| entry.at)
    }

    /// Writes what is new, and forgets the users that are not in `policy`. Says how many records were written.
    pub(super) fn save(&self, store: &dyn Store, policy: &Policy) -> Result<usize, StoreError> {
        let _saving = self.saving.lock();
        let due: Vec<(UserId, Option<Timestamp>)> = {
            let entries = self.entries.lock();
            let lives = |id: &UserId| policy.user(*id).is_some();
            let due = entries.iter().filter(|(id, entry)| !entry.saved || !lives(id));
            due.map(|(id, entry)| (*id, lives(id).then_some(entry.at))).collect()
        };
        for part in due.chunks(AT_ONCE) {
            let mut batch = Batch::new();
            for (id, at) in part {
                match at {
                    Some(at) => batch.put(&LAST_SEEN, id, at)?,
                    None => batch.delete(&LAST_SEEN, id)?,
                }
            }
            store.commit(batch)?;
            let mut entries = self.entries.lock();
            for (id, at) in part {
                match at {
                    None => drop(entries.remove(id)),
                    Some(at) => {
                        // Whoever came again meanwhile is due again.
                        if let Some(entry) = entries.get_mut(id).filter(|entry| entry.at == *at) {
                            entry.saved = true;
                        }
                    }
                }
            }
        }
        Ok(due.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::tests::*;
    use super::super::{Actor, Directory, Expected};
    use crate::clock::Clock as _;
    use crate::store::{Fault, FaultyStore, Store};

    #[test]
    fn a_login_is_remembered_without_a_commit_and_survives_once_it_is_saved() {
        let (store, clock) = (Arc::new(FaultyStore::new()), clock());
        let open = || Directory::open(Arc::clone(&store) as Arc<dyn Store>, Arc::new(clock.clone())).unwrap();
        let directory = open();
        let [alice, bob] = ["alice", "bob"].map(|name| directory.create_user(new_user(name, &[]), &API).unwrap());
        let (version, commits) = (directory.version(), store.commits());
        assert_eq!(directory.last_seen(alice.id), None);
        directory.seen(alice.id);
        let first = clock.timestamp();
        assert_eq!((directory.last_seen(alice.id), directory.last_seen(bob.id)), (Some(first), None));
        assert_eq!((directory.version(), store.commits()), (version, commits));
        assert_eq!(open().last_seen(alice.id), None, "not saved yet");

        store.fail_at(0, Fault::Refused);
        directory.save_last_seen().unwrap_err();
        assert_eq!(directory.save_last_seen().unwrap(), 1, "what could not be saved is due again");
        assert_eq!(directory.save_last_seen().unwrap(), 0);
        assert_eq!((directory.version(), store.commits()), (version, commits + 1));
        let user = directory.policy().user(alice.id).cloned().unwrap();
        assert_eq!(user.version, alice.version);
        assert_eq!(open().last_seen(alice.id), Some(first));

        clock.advance(Duration::from_hours(1));
        directory.seen(alice.id);
        assert_eq!(directory.save_last_seen().unwrap(), 1);
        assert_eq!(open().last_seen(alice.id), Some(clock.timestamp()));
    }

    #[test]
    fn a_user_of_the_same_name_inherits_nothing_and_a_deleted_one_is_forgotten() {
        let store = Arc::new(FaultyStore::new());
        let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
        let user = directory.create_user(new_user("alice", &[]), &API).unwrap();
        directory.seen(user.id);
        assert_eq!(directory.save_last_seen().unwrap(), 1);
        directory.delete_user(user.id, Expected::Any, &Actor::System).unwrap();
        let next = directory.create_user(new_user("alice", &[]), &API).unwrap();
        assert_eq!(directory.last_seen(next.id), None);
        assert_eq!(directory.save_last_seen().unwrap(), 1);
        assert_eq!(directory.last_seen(user.id), None);
        assert_eq!(super::LAST_SEEN.iter(&*store).count(), 0);
    }
}

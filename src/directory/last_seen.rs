//! When, and from where, each user last connected.
//!
//! Enters: logins. Leaves: times and sources, and now and then the records that are new. It is no part of a policy: a login bumps no
//! version, publishes no snapshot and writes nothing; what was not saved yet is lost with the process.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::access::{Policy, UserId, Username};
use crate::authn::Source;
use crate::store::{Batch, Store, StoreError, Table};

pub(super) const LAST_SEEN: Table<UserId, Timestamp> = Table::new("last_seen", 1);
pub(super) const LAST_SOURCE: Table<UserId, Source> = Table::new("last_source", 1);

/// Users that one batch writes at most.
const AT_ONCE: usize = 4096;

/// A login, and whether the store knows it.
#[derive(Clone, Copy)]
struct Entry {
    at: Timestamp,
    /// `None`: a store of a time before sources were written.
    from: Option<Source>,
    saved: bool,
}

/// The logins. Those of users that are no more stay until the next save.
#[derive(Default)]
pub(super) struct LastSeen {
    entries: Mutex<HashMap<UserId, Entry>>,
    /// Held by the one who saves.
    saving: Mutex<()>,
}

impl LastSeen {
    pub(super) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let mut sources = LAST_SOURCE.iter(store).collect::<Result<HashMap<_, _>, _>>()?;
        let records = LAST_SEEN.iter(store).map(|record| {
            let (id, at) = record?;
            Ok((id, Entry { at, from: sources.remove(&id), saved: true }))
        });
        Ok(Self { entries: Mutex::new(records.collect::<Result<_, _>>()?), saving: Mutex::default() })
    }

    pub(super) fn record(&self, user: UserId, from: Source, at: Timestamp) {
        self.entries.lock().insert(user, Entry { at, from: Some(from), saved: false });
    }

    pub(super) fn get(&self, user: UserId) -> Option<(Timestamp, Option<Source>)> {
        self.entries.lock().get(&user).map(|entry| (entry.at, entry.from))
    }

    /// Where each user of `policy` was seen last, the latest login at the end.
    pub(super) fn homes(&self, policy: &Policy) -> Vec<(Username, Source)> {
        let entries = self.entries.lock();
        let home = |(id, entry): (&UserId, &Entry)| Some((entry.at, policy.user(*id)?.username.clone(), entry.from?));
        let mut homes: Vec<_> = entries.iter().filter_map(home).collect();
        drop(entries);
        homes.sort_unstable_by_key(|(at, ..)| *at);
        homes.into_iter().map(|(_, name, from)| (name, from)).collect()
    }

    /// Writes what is new, and forgets the users that are not in `policy`. Says how many records were written.
    pub(super) fn save(&self, store: &dyn Store, policy: &Policy) -> Result<usize, StoreError> {
        let _saving = self.saving.lock();
        let due: Vec<(UserId, Option<Entry>)> = {
            let entries = self.entries.lock();
            let lives = |id: &UserId| policy.user(*id).is_some();
            let due = entries.iter().filter(|(id, entry)| !entry.saved || !lives(id));
            due.map(|(id, entry)| (*id, lives(id).then_some(*entry))).collect()
        };
        for part in due.chunks(AT_ONCE) {
            let mut batch = Batch::new();
            for (id, entry) in part {
                match entry {
                    Some(entry) => batch.put(&LAST_SEEN, id, &entry.at)?,
                    None => batch.delete(&LAST_SEEN, id)?,
                }
                match entry.and_then(|entry| entry.from) {
                    Some(from) => batch.put(&LAST_SOURCE, id, &from)?,
                    None => batch.delete(&LAST_SOURCE, id)?,
                }
            }
            store.commit(batch)?;
            let mut entries = self.entries.lock();
            for (id, written) in part {
                match written {
                    None => drop(entries.remove(id)),
                    Some(written) => {
                        // Whoever came again meanwhile is due again.
                        let same = |entry: &Entry| (entry.at, entry.from) == (written.at, written.from);
                        if let Some(entry) = entries.get_mut(id).filter(|entry| same(entry)) {
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
    use crate::authn::Source;
    use crate::clock::Clock as _;
    use crate::store::{Batch, Fault, FaultyStore, Store};

    #[test]
    fn a_login_is_remembered_without_a_commit_and_survives_once_it_is_saved() {
        let (store, clock) = (Arc::new(FaultyStore::new()), clock());
        let open = || Directory::open(Arc::clone(&store) as Arc<dyn Store>, Arc::new(clock.clone())).unwrap();
        let directory = open();
        let [alice, bob] = ["alice", "bob"].map(|name| directory.create_user(new_user(name, &[]), &API).unwrap());
        let (version, commits) = (directory.version(), store.commits());
        assert_eq!(directory.last_seen(alice.id), None);
        directory.seen(alice.id, Source::V6(1));
        let first = clock.timestamp();
        assert_eq!((directory.last_seen(alice.id), directory.last_seen(bob.id)), (Some(first), None));
        assert_eq!(directory.last_source(alice.id), Some(Source::V6(1)));
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

        directory.seen(bob.id, Source::V6(2));
        clock.advance(Duration::from_hours(1));
        directory.seen(alice.id, Source::V6(3));
        assert_eq!(directory.save_last_seen().unwrap(), 2);
        let again = open();
        assert_eq!(again.last_seen(alice.id), Some(clock.timestamp()));
        let homes = [(bob.username.clone(), Source::V6(2)), (alice.username.clone(), Source::V6(3))];
        assert_eq!(again.last_sources(), homes, "the latest one at the end");
    }

    #[test]
    fn a_store_that_knows_no_sources_is_read() {
        let store = Arc::new(FaultyStore::new());
        let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
        let user = directory.create_user(new_user("alice", &[]), &API).unwrap();
        let (at, mut batch) = (clock().timestamp(), Batch::new());
        batch.put(&super::LAST_SEEN, &user.id, &at).unwrap();
        store.commit(batch).unwrap();
        let again = directory_on(store);
        assert_eq!((again.last_seen(user.id), again.last_source(user.id)), (Some(at), None));
        assert_eq!(again.last_sources(), []);
    }

    #[test]
    fn a_user_of_the_same_name_inherits_nothing_and_a_deleted_one_is_forgotten() {
        let store = Arc::new(FaultyStore::new());
        let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
        let user = directory.create_user(new_user("alice", &[]), &API).unwrap();
        directory.seen(user.id, Source::V6(1));
        assert_eq!(directory.save_last_seen().unwrap(), 1);
        directory.delete_user(user.id, Expected::Any, &Actor::System).unwrap();
        let next = directory.create_user(new_user("alice", &[]), &API).unwrap();
        assert_eq!(directory.last_seen(next.id), None);
        assert_eq!(directory.save_last_seen().unwrap(), 1);
        assert_eq!(directory.last_seen(user.id), None);
        assert_eq!((super::LAST_SEEN.iter(&*store).count(), super::LAST_SOURCE.iter(&*store).count()), (0, 0));
    }
}

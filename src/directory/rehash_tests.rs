//! Another hash of the same password is no change of the user.

use std::sync::Arc;

use super::tests::*;
use super::{Actor, Directory, Document, ErrorKind, Expected, NewUser};
use crate::access::{Auth, User};
use crate::audit::Event;
use crate::authn::{Argon2Parameters, PasswordHash, digest_of};
use crate::store::{Fault, FaultyStore, Store};

/// Of `correct horse`.
const OLD: &str = "$pbkdf2-sha512$i=101$wqJyjpI/mw7j1p3y$LvrsvIIy+nXnvMui0LQDZfJ2ELAfxYffLgYptyCFLeKYDkXaZtcEXFCw7+sjgswu89zH76xPtc/9sxnFKCR2vg";

fn fresh_hash() -> PasswordHash {
    PasswordHash::of(b"correct horse", Argon2Parameters::new(8, 1, 1).unwrap()).unwrap()
}

fn imported(directory: &Directory, name: &str) -> Arc<User> {
    directory.create_user(NewUser { password_hash: Some(OLD.to_owned()), ..new_user(name, &[]) }, &API).unwrap()
}

fn now(directory: &Directory, user: &User) -> Arc<User> {
    Arc::clone(directory.policy().user(user.id).unwrap())
}

fn rehashed(directory: &Directory, user: &User) -> Arc<User> {
    assert!(directory.rehash(user.id, OLD.to_owned(), fresh_hash()).unwrap());
    now(directory, user)
}

#[test]
fn it_moves_neither_version_nor_history_and_is_audited_without_a_secret() {
    let store = Arc::new(FaultyStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let before = imported(&directory, "ada");
    let commits = directory.history(100).unwrap();
    let after = rehashed(&directory, &before);
    let hash = after.password_hash.as_deref().unwrap();
    assert!(hash.starts_with("$argon2id$"));
    assert_eq!(after.rehashed_from, Some(digest_of(OLD)));
    let same = User { password_hash: before.password_hash.clone(), rehashed_from: None, ..User::clone(&after) };
    assert_eq!(same, *before, "the version too");
    assert_eq!(directory.history(100).unwrap(), commits);

    let entry = crate::audit::read(&*store, 0, usize::MAX).unwrap().pop().unwrap();
    let (last, text) = (entry.read().unwrap(), serde_json::to_string(&entry).unwrap());
    assert!(matches!(&last.event, Event::PasswordRehashed { user } if user.id == before.id));
    assert_eq!(last.who, crate::audit::Who::System);
    assert!(!text.contains("argon2") && !text.contains("pbkdf2"), "{text}");

    let again = directory_on(store);
    let stored = now(&again, &before);
    assert_eq!((stored.password_hash.as_deref(), stored.rehashed_from), (Some(hash), None));
}

#[test]
fn only_the_hash_that_was_verified_is_replaced() {
    let directory = directory();
    let user = imported(&directory, "ada");
    // Another login was first.
    let first = rehashed(&directory, &user);
    assert!(!directory.rehash(user.id, OLD.to_owned(), fresh_hash()).unwrap());
    assert_eq!(now(&directory, &user), first);
    // The password was changed while argon2 ran.
    let changed = directory
        .update_user(user.id, Expected::Any, |user| user.password_hash = Some("$argon2id$new".to_owned()), &API)
        .unwrap();
    assert_eq!(changed.rehashed_from, None);
    assert!(!directory.rehash(user.id, OLD.to_owned(), fresh_hash()).unwrap());
    // The user is gone, or of broker.toml, which would bring the old hash back.
    directory.delete_user(user.id, Expected::Any, &API).unwrap();
    assert!(!directory.rehash(user.id, OLD.to_owned(), fresh_hash()).unwrap());
    let of_config = NewUser { password_hash: Some(OLD.to_owned()), ..new_user("bob", &[]) };
    directory.reconcile(vec![], vec![of_config]).unwrap();
    let bob = directory.policy().user_named(&name("bob")).cloned().unwrap();
    assert!(!directory.rehash(bob.id, OLD.to_owned(), fresh_hash()).unwrap());
}

#[test]
fn an_edit_that_was_read_before_it_is_made_and_does_not_bring_the_old_hash_back() {
    let directory = directory();
    let read = imported(&directory, "ada");
    let after = rehashed(&directory, &read);
    // As the registry's renewal does it: all of the user, with the version that was read.
    let edited = User { description: "edited".to_owned(), ..User::clone(&read) };
    let commit = directory.commit(put(edited, Expected::Version(read.version)).into(), &API).unwrap();
    let now_there = now(&directory, &read);
    assert_eq!((now_there.description.as_str(), now_there.version), ("edited", read.version + 1));
    assert_eq!((&now_there.password_hash, now_there.rehashed_from), (&after.password_hash, after.rehashed_from));
    // And the way back, to a version from before it.
    let way = directory.way_back(commit.history_version - 1).unwrap();
    directory.rollback(way, &API).unwrap();
    let back = now(&directory, &read);
    assert_eq!((back.description.as_str(), &back.password_hash), ("", &after.password_hash));
    assert_eq!(back.rehashed_from, after.rehashed_from);
    // Another password is another password.
    let other = OLD.replace("wqJyjpI", "wqJyjpJ");
    let other = directory.update_user(read.id, Expected::Any, |user| user.password_hash = Some(other), &API).unwrap();
    assert_eq!(other.rehashed_from, None);
    assert!(other.password_hash.as_deref().is_some_and(|hash| hash.starts_with("$pbkdf2")));
}

#[test]
fn what_cannot_be_written_changes_nothing() {
    let store = Arc::new(FaultyStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let user = imported(&directory, "ada");
    store.fail_at(0, Fault::Refused);
    directory.rehash(user.id, OLD.to_owned(), fresh_hash()).unwrap_err();
    assert_eq!(now(&directory, &user), user);
    rehashed(&directory, &user);
}

/// What every check of a password costs at least: it goes down again with the last of such hashes.
#[test]
fn the_costliest_hash_of_another_broker_is_known() {
    let directory = directory();
    let costliest = || directory.policy().costliest_pbkdf2();
    assert_eq!(costliest(), 0);
    let [ada, bob] = ["ada", "bob"].map(|name| imported(&directory, name));
    let many = OLD.replace("i=101", "i=9000");
    let carl = NewUser { password_hash: Some(many), ..new_user("carl", &[]) };
    let carl = directory.create_user(carl, &API).unwrap();
    assert_eq!(costliest(), 9_000);
    directory.update_user(carl.id, Expected::Any, |user| user.enabled = false, &API).unwrap();
    assert_eq!(costliest(), 9_000);
    directory.delete_user(carl.id, Expected::Any, &API).unwrap();
    assert_eq!(costliest(), 101);
    rehashed(&directory, &ada);
    assert_eq!(costliest(), 101);
    rehashed(&directory, &bob);
    assert_eq!(costliest(), 0);
}

/// Every login pays for the costliest hash on record, so that nobody but an administrator may put one there.
#[test]
fn who_administers_a_part_cannot_make_every_login_expensive() {
    let directory = directory();
    let boss = directory.create_user(new_user("boss", &["admin"]), &Actor::System).unwrap();
    let clerk = imported(&directory, "clerk");
    let actor = |user: &User| Actor::of(user);
    let document = |name: &str, hash: &str| -> Document {
        toml::from_str(&format!("[[user]]\nusername = \"{name}\"\npassword_hash = \"{hash}\"\n")).unwrap()
    };
    for victim in ["spare", "clerk"] {
        let costly = document(victim, &OLD.replace("i=101", "i=500000"));
        let refused = directory.apply(costly, &actor(&clerk)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
        assert!(refused.to_string().contains("of another broker"), "{refused}");
    }
    // What it has is not in its way.
    let edit = |user: &mut User| "mine".clone_into(&mut user.description);
    directory.update_user(clerk.id, Expected::Any, edit, &actor(&clerk)).unwrap();
    directory.apply(document("spare", OLD), &actor(&boss)).unwrap();
    assert_eq!(directory.policy().user_named(&name("spare")).unwrap().auth, Auth::Password);
}

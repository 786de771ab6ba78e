//! The way back: what returns, what never does, and what is forgotten.

use std::sync::Arc;

use proptest::prelude::*;

use super::tests::*;
use super::*;
use crate::access::{Auth, CertificateRecord, Role, User, UserId};
use crate::store::{MemoryStore, Store};

fn rules_of(directory: &Directory) -> Vec<String> {
    let policy = directory.policy();
    let users = policy
        .users()
        .map(|user| format!("{} {:?} {} {:?}", user.username, user.roles, user.enabled, user.permissions));
    let roles = policy.roles().map(|role| format!("{} {:?}", role.name, role.permissions));
    users.chain(roles).collect()
}

fn id_of(directory: &Directory, username: &str) -> UserId {
    directory.policy().user_named(&name(username)).unwrap().id
}

fn back(directory: &Directory, version: u64) -> Result<(Committed, Vec<NotRestored>), DirectoryError> {
    let way = directory.way_back(version)?;
    let left = way.not_restored.clone();
    let preview = directory.preview_rollback(way.clone(), &API)?;
    let committed = directory.rollback(way, &API)?;
    assert_eq!(preview.changes, committed.changes);
    Ok((committed, left))
}

#[test]
fn a_rollback_makes_of_what_changed_what_it_was_and_can_be_rolled_back_itself() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    let user = directory.create_user(new_user("alice", &["line"]), &API).unwrap();
    let then = rules_of(&directory);
    directory.put_role(role("line", "b"), Expected::Any, &API).unwrap();
    directory.create_user(new_user("late", &[]), &API).unwrap();
    directory.update_user(user.id, Expected::Any, |user| user.roles.clear(), &API).unwrap();
    let late = directory.delete_role(role_name("line"), Expected::Any, &API).unwrap().history_version;
    let now = rules_of(&directory);
    assert_eq!(late, 6);

    // After a restart as well as before.
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let history = directory.history(3).unwrap();
    assert_eq!(history.iter().map(|entry| entry.version).collect::<Vec<_>>(), [6, 5, 4]);
    assert_eq!((history[0].actor.as_str(), history[0].changes[0].action), ("local:1000", ObjectAction::Deleted));
    let (committed, left) = back(&directory, 2).unwrap();
    assert!(left.is_empty() && rules_of(&directory) == then && committed.history_version == 7);
    assert_eq!(id_of(&directory, "alice"), user.id);
    assert!(directory.policy().user_named(&name("late")).is_none());

    let (_, left) = back(&directory, 6).unwrap();
    assert_eq!(
        left.iter().map(|left| left.name.as_str()).collect::<Vec<_>>(),
        ["late"],
        "its identity is gone for good"
    );
    assert_eq!(rules_of(&directory), now.into_iter().filter(|line| !line.starts_with("late")).collect::<Vec<_>>());
    let (committed, _) = back(&directory, 8).unwrap();
    assert!(!committed.changed, "it is so already");
}

#[test]
fn proofs_never_go_back() {
    let directory = directory();
    let certificate = |revoked_at| CertificateRecord {
        serial: "01".to_owned(),
        fingerprint: "ab".to_owned(),
        key: None,
        not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
        not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
        revoked_at,
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    };
    let new = NewUser {
        password_hash: Some("$argon2id$old".to_owned()),
        certificates: vec![certificate(None)],
        auth: Auth::Either,
        ..new_user("alice", &[])
    };
    let alice = directory.create_user(new, &API).unwrap();
    let edit = move |user: &mut User| {
        user.password_hash = Some("$argon2id$new".to_owned());
        user.certificates = vec![certificate(Some("2026-02-01T00:00:00Z".parse().unwrap()))];
        "changed".clone_into(&mut user.description);
    };
    let changed = directory.update_user(alice.id, Expected::Any, edit, &API).unwrap();
    back(&directory, 1).unwrap();
    let after = directory.policy().user(alice.id).cloned().unwrap();
    assert_eq!(after.description, "");
    assert_eq!((&after.password_hash, &after.certificates), (&changed.password_hash, &changed.certificates));
    assert!(after.version > changed.version);
}

#[test]
fn no_hash_is_on_record() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    let secret = Some("$argon2id$secret".to_owned());
    let alice = directory.create_user(NewUser { password_hash: secret, ..new_user("alice", &[]) }, &API).unwrap();
    directory
        .update_user(alice.id, Expected::Any, |user| user.password_hash = Some("$other".to_owned()), &API)
        .unwrap();
    directory.delete_user(alice.id, Expected::Any, &API).unwrap();
    for (_, value) in store.scan(&crate::store::KeyRange::all(), usize::MAX).unwrap() {
        let value = String::from_utf8_lossy(&value);
        assert!(!value.contains("secret") && !value.contains("$other"), "{value}");
    }
}

#[test]
fn what_broker_toml_owns_stays_its_own() {
    let directory = directory();
    directory.reconcile(vec![role("owned", "a")], vec![new_user("historian", &["owned"])]).unwrap();
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    directory.reconcile(vec![role("owned", "b")], Vec::new()).unwrap();
    let (_, left) = back(&directory, 0).unwrap();
    assert!(left.iter().any(|left| left.name == "owned") && directory.policy().role(&role_name("line")).is_none());
    assert!(directory.policy().role(&role_name("owned")).is_some());
}

#[test]
fn a_rollback_that_lost_the_race_or_has_no_record_is_refused() {
    let directory = directory();
    directory.put_role(role("line", "a"), Expected::Absent, &API).unwrap();
    let way = directory.way_back(0).unwrap();
    directory.put_role(role("line", "b"), Expected::Any, &API).unwrap();
    let error = directory.rollback(way, &API).unwrap_err();
    assert!(matches!(error, DirectoryError::Outrun(1)) && error.kind() == ErrorKind::Conflict);
    let error = directory.way_back(3).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::NotFound, "version 3 is not on record: versions 0 to 2 are")
    );
}

#[test]
fn old_commits_are_forgotten_and_leave_nothing_behind() {
    let store = Arc::new(MemoryStore::new());
    let directory = directory_on(Arc::clone(&store) as Arc<dyn Store>);
    for number in 0..HISTORY_COMMITS + 5 {
        directory.put_role(role("line", &format!("a/{number}")), Expected::Any, &API).unwrap();
    }
    let records = store.scan(&crate::store::KeyRange::all(), usize::MAX).unwrap();
    assert_eq!(records.iter().filter(|(key, _)| key.starts_with(b"directory_history")).count(), HISTORY_COMMITS);
    assert_eq!(directory.history(usize::MAX).unwrap().len(), HISTORY_COMMITS);
    assert_eq!(directory.way_back(4).unwrap_err().kind(), ErrorKind::NotFound);
    back(&directory, 5).unwrap();
    assert_eq!(directory.policy().role(&role_name("line")).unwrap().permissions[0].resource, "a/4");
}

#[test]
fn a_role_too_large_for_a_record_of_the_past_is_told() {
    let directory = directory();
    // Fits as a role; with the words of a record of the past around it, it does not.
    let mut large = role("line", "a");
    large.description = "x".repeat(crate::store::MAX_VALUE - 200);
    directory.put_role(large, Expected::Absent, &API).unwrap();
    directory.put_role(role("line", "a"), Expected::Any, &API).unwrap();
    let (committed, left) = back(&directory, 1).unwrap();
    assert!(!committed.changed && left.len() == 1 && left[0].reason.contains("too large"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was done to roles and rights, the way back to each version leads to just what was then, as far as users
    /// that were not deleted go.
    #[test]
    fn every_way_back_leads_there(steps in prop::collection::vec((0..3_usize, 0..3_usize, any::<bool>()), 1..12), to in any::<prop::sample::Index>()) {
        let directory = directory();
        let names = ["one", "two", "three"];
        let mut states = vec![rules_of(&directory)];
        for (which, resource, remove) in steps {
            let (role_text, user) = (names[which], format!("user-{which}"));
            let outcome = match directory.policy().user_named(&name(&user)) {
                _ if remove => directory.delete_role(role_name(role_text), Expected::Any, &API).map(|_| ()),
                None => {
                    let role = Role { permissions: role(role_text, names[resource]).permissions, ..role(role_text, "x") };
                    directory.put_role(role, Expected::Any, &API).unwrap();
                    states.push(rules_of(&directory));
                    directory.create_user(new_user(&user, &[role_text]), &API).map(|_| ())
                }
                Some(known) => {
                    let id = known.id;
                    let hold = move |user: &mut User| user.roles = if user.roles.is_empty() { vec![role_name(names[which])] } else { Vec::new() };
                    directory.update_user(id, Expected::Any, hold, &API).map(|_| ())
                }
            };
            if outcome.is_ok() {
                states.push(rules_of(&directory));
            }
        }
        let version = to.index(states.len());
        let (_, left) = back(&directory, version as u64).unwrap();
        prop_assert!(left.is_empty());
        prop_assert_eq!(&rules_of(&directory), &states[version]);
    }
}

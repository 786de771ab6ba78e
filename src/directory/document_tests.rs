//! Sets of changes: all or nothing, versions, nothing twice, no password; and their previews.

use super::tests::*;
use super::*;
use crate::access::{Auth, ManagedBy};

const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$Y2hlY2tjaGVja2NoZWNrY2hlY2s";

fn document(text: &str) -> Document {
    toml::from_str(text).unwrap()
}

fn refused(directory: &Directory, text: &str) -> DirectoryError {
    let before = content(directory);
    let preview = directory.preview(|policy| document(text).plan(policy), &API).err().map(|error| error.to_string());
    let error = directory.apply(document(text), &API).unwrap_err();
    assert_eq!(preview, Some(error.to_string()), "a preview is refused as the commit is");
    assert_eq!(content(directory), before);
    error
}

const PLANT: &str = r#"
    [[role]]
    name = "line"
    permissions = [{ context = "mqtt", operation = "read", resource = "plant/${username}/#" }]
    [[user]]
    username = "station-7"
    auth = "certificate"
    roles = ["line"]
    publish_prefix = "site/"
    [[user]]
    username = "clerk"
    expires_at = "2027-01-01T00:00:00Z"
    password_hash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$Y2hlY2tjaGVja2NoZWNrY2hlY2s"
"#;

#[test]
fn a_document_is_made_so_at_once_and_a_second_time_does_nothing() {
    let directory = directory();
    let listener = record(&directory);
    let preview = directory.preview(|policy| document(PLANT).plan(policy), &API).unwrap();
    assert!(directory.policy().users().next().is_none() && listener.0.lock().is_empty(), "a preview changes nothing");
    let committed = directory.apply(document(PLANT), &API).unwrap();
    let names: Vec<_> = committed.changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!((names.len(), &preview.changes.len(), committed.history_version), (3, &3, preview.history_version));
    assert!(committed.changes.iter().all(|change| change.action == ObjectAction::Created && change.version == Some(1)));
    assert_eq!(listener.0.lock().len(), 1, "one step");
    let clerk = directory.policy().user_named(&name("clerk")).cloned().unwrap();
    assert_eq!((clerk.password_hash.as_deref(), clerk.managed_by), (Some(HASH), ManagedBy::Api));

    let before = content(&directory);
    let again = directory.apply(document(PLANT), &API).unwrap();
    assert!(!again.changed && again.changes.is_empty() && content(&directory) == before);
}

#[test]
fn what_a_document_does_not_say_stays() {
    let directory = directory();
    directory.apply(document(PLANT), &API).unwrap();
    let before = directory.policy().user_named(&name("station-7")).cloned().unwrap();
    directory.update_user(before.id, Expected::Any, |user| user.enabled = false, &API).unwrap();
    directory.apply(document("[[user]]\nusername = \"station-7\"\ndescription = \"pump\"\n"), &API).unwrap();
    let after = directory.policy().user_named(&name("station-7")).cloned().unwrap();
    assert_eq!((after.id, after.enabled, after.version, &*after.description), (before.id, false, 3, "pump"));
    assert_eq!((&after.roles, &after.publish_prefix, after.auth), (&before.roles, &before.publish_prefix, before.auth));
    let quota = "[[user]]\nusername = \"station-7\"\nquota = { connections = 3 }\n";
    assert_eq!(directory.apply(document(quota), &API).unwrap().changes.len(), 1);
    assert!(directory.apply(document(quota), &API).unwrap().changes.is_empty());
    let clear = "[[user]]\nusername = \"station-7\"\nquota = {}\npublish_prefix = \"\"\nroles = []\n[[user]]\nusername = \"clerk\"\nexpires_at = \"never\"\n";
    directory.apply(document(clear), &API).unwrap();
    let policy = directory.policy();
    let after = policy.user_named(&name("station-7")).unwrap();
    assert!(after.publish_prefix.is_none() && after.roles.is_empty() && after.quota.is_none());
    assert_eq!(policy.user_named(&name("clerk")).unwrap().expires_at, None);
}

#[test]
fn one_wrong_thing_and_nothing_is_done() {
    let directory = directory();
    directory.reconcile(vec![role("owned", "a")], Vec::new()).unwrap();
    directory.apply(document(PLANT), &API).unwrap();
    let good = "[[role]]\nname = \"new\"\n";
    for (bad, kind) in [
        ("[[user]]\nusername = \"station-7\"\nversion = 7\n", ErrorKind::Conflict),
        ("[[user]]\nusername = \"station-7\"\nversion = 0\n", ErrorKind::Conflict),
        ("[[user]]\nusername = \"nobody\"\nversion = 1\nauth = \"certificate\"\n", ErrorKind::NotFound),
        ("[[role]]\nname = \"line\"\nversion = 2\n", ErrorKind::Conflict),
        ("[[role]]\nname = \"owned\"\npermissions = []\n", ErrorKind::Conflict),
        ("[[role]]\nname = \"admin\"\npermissions = []\n", ErrorKind::Conflict),
        ("[[delete]]\nuser = \"nobody\"\n", ErrorKind::NotFound),
        ("[[delete]]\nuser = \"clerk\"\nversion = 2\n", ErrorKind::Conflict),
        ("[[delete]]\nrole = \"line\"\n", ErrorKind::Conflict),
        ("[[delete]]\n", ErrorKind::Invalid),
        ("[[delete]]\nuser = \"clerk\"\nrole = \"line\"\n", ErrorKind::Invalid),
        ("[[delete]]\nuser = \"clerk\"\n[[user]]\nusername = \"clerk\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"clerk\"\n[[user]]\nusername = \"clerk\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"spare\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"spare\"\nauth = \"none\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"spare\"\npassword_hash = \"secret\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"admin\"\nauth = \"certificate\"\n", ErrorKind::Invalid),
        ("[[user]]\nusername = \"station-7\"\nroles = [\"unknown\"]\n", ErrorKind::Invalid),
    ] {
        let error = refused(&directory, &format!("{good}{bad}"));
        assert_eq!(error.kind(), kind, "{bad}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn no_field_is_ignored_and_no_plain_password_taken() {
    for text in [
        "[[user]]\nusername = \"spare\"\npassword = \"x\"\n",
        "[[user]]\nusername = \"spare\"\nmanaged_by = \"config\"\n",
        "[[role]]\nname = \"a\"\npermission = []\n",
        "[[group]]\n",
    ] {
        assert!(toml::from_str::<Document>(text).is_err(), "{text}");
    }
    assert!(!format!("{:?}", document(PLANT)).contains("argon2id"));
}

#[test]
fn a_change_of_proof_follows_what_users_may_have() {
    let directory = directory();
    directory.apply(document(PLANT), &API).unwrap();
    directory.apply(document("[[user]]\nusername = \"clerk\"\nauth = \"certificate\"\n"), &API).unwrap();
    let clerk = directory.policy().user_named(&name("clerk")).cloned().unwrap();
    assert_eq!(
        (clerk.auth, clerk.password_hash.as_deref()),
        (Auth::Certificate, None),
        "a password that is not admitted goes"
    );
    assert_eq!(refused(&directory, "[[user]]\nusername = \"clerk\"\nauth = \"both\"\n").kind(), ErrorKind::Invalid);
    assert_eq!(
        refused(&directory, &format!("[[user]]\nusername = \"clerk\"\npassword_hash = \"{HASH}\"\n")).kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn deletions_and_successors_go_together() {
    let directory = directory();
    directory.apply(document(PLANT), &API).unwrap();
    let text = "[[delete]]\nrole = \"line\"\n[[delete]]\nuser = \"clerk\"\nversion = 1\n[[user]]\nusername = \"station-7\"\nroles = []\n";
    let committed = directory.apply(document(text), &API).unwrap();
    let actions: Vec<_> = committed.changes.iter().map(|change| (change.name.as_str(), change.action)).collect();
    assert!(actions.contains(&("line", ObjectAction::Deleted)) && actions.contains(&("clerk", ObjectAction::Deleted)));
    assert!(actions.contains(&("station-7", ObjectAction::Changed)) && actions.len() == 3);
}

//! Users, certificates and a directory to test with.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{Anchor, ClientCertificate, Users};
use crate::access::{CertificateRecord, User, UserId, Username};

/// Certificates are valid from 0 to 100.
pub(super) fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// With an identity of its own, even under a name that is used already.
pub(super) fn user(name: &str) -> User {
    let json = serde_json::json!({
        "id": Uuid::now_v7(), "username": name, "enabled": true, "created_at": time(0), "version": 1,
    });
    serde_json::from_value(json).unwrap()
}

pub(super) fn certificate(name: &str, fingerprint: &str) -> ClientCertificate {
    ClientCertificate {
        username: Ok(name.parse().unwrap()),
        fingerprint: fingerprint.to_owned(),
        not_before: time(0),
        not_after: time(100),
        anchor: Anchor::Own,
        issuers: Vec::new(),
    }
}

pub(super) fn record(fingerprint: &str) -> CertificateRecord {
    CertificateRecord {
        serial: fingerprint.to_owned(),
        fingerprint: fingerprint.to_owned(),
        key: None,
        not_before: time(0),
        not_after: time(100),
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: None,
        replaces: None,
    }
}

#[derive(Clone, Default)]
pub(super) struct Snapshot(Vec<Arc<User>>);

impl Users for Snapshot {
    fn named(&self, name: &Username) -> Option<&Arc<User>> {
        self.0.iter().find(|user| user.username == *name)
    }

    fn by_id(&self, id: UserId) -> Option<&Arc<User>> {
        self.0.iter().find(|user| user.id == id)
    }

    fn by_key(&self, key: &str) -> Option<&Arc<User>> {
        self.0.iter().find(|user| user.certificates.iter().any(|it| it.key.as_deref() == Some(key)))
    }
}

/// Changes as a directory does: each makes a new snapshot and a new version of its user.
#[derive(Clone, Default)]
pub(super) struct Directory(Arc<Mutex<Arc<Snapshot>>>);

impl Directory {
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock())
    }

    pub(super) fn add(&self, user: User) {
        let mut now = self.0.lock();
        let mut users = now.0.clone();
        users.push(Arc::new(user));
        *now = Arc::new(Snapshot(users));
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut User)) {
        let mut now = self.0.lock();
        let mut users = now.0.clone();
        let user = users.iter_mut().find(|user| user.username.as_str() == name).unwrap();
        let mut changed = User::clone(user);
        change(&mut changed);
        changed.version += 1;
        *user = Arc::new(changed);
        *now = Arc::new(Snapshot(users));
    }

    pub(super) fn delete(&self, name: &str) {
        let mut now = self.0.lock();
        let mut users = now.0.clone();
        users.retain(|user| user.username.as_str() != name);
        *now = Arc::new(Snapshot(users));
    }
}

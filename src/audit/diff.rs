//! What of a user or role changed, as far as the log says: pure.
//!
//! Entering: what was and what is. Leaving: names of fields, and the values that are neither secret nor free text.

use std::collections::HashSet;
use std::hash::Hash;

use super::event::{Event, Field, RoleChange, UserChange, UserRef, Word};
use crate::access::{CertificateRecord, Permission, Role, User};

/// What makes `new` of `old`; `None`: it is created.
pub fn user_change(old: Option<&User>, new: &User) -> UserChange {
    let blank = || User {
        username: new.username.clone(),
        version: new.version,
        managed_by: new.managed_by,
        ..User::new(new.id, new.username.clone(), new.created_at)
    };
    // What is not told by itself must not go unnoticed: fields are taken over one by one, and what then still differs is
    // something that this version of the log has no word for.
    let mut rest = old.cloned().unwrap_or_else(blank);
    let created = old.is_none();
    let mut change = UserChange::default();
    macro_rules! compare {
        ($($field:ident => $word:ident),*) => {$(
            if rest.$field != new.$field {
                change.fields.push(Field::$word);
                rest.$field.clone_from(&new.$field);
            }
        )*};
    }
    let (roles, permissions) = (std::mem::take(&mut rest.roles), std::mem::take(&mut rest.permissions));
    change.roles_added = missing(&new.roles, &roles);
    change.roles_removed = missing(&roles, &new.roles);
    change.permissions_added = missing(&new.permissions, &permissions);
    change.permissions_removed = missing(&permissions, &new.permissions);
    if roles != new.roles {
        change.fields.push(Field::Roles);
    }
    if permissions != new.permissions {
        change.fields.push(Field::Permissions);
    }
    rest.roles.clone_from(&new.roles);
    rest.permissions.clone_from(&new.permissions);
    change.renamed = (rest.username != new.username).then(|| new.username.clone());
    change.enabled = (created || rest.enabled != new.enabled).then_some(new.enabled);
    change.auth = (created || rest.auth != new.auth).then_some(new.auth);
    change.expires_at = if rest.expires_at == new.expires_at { None } else { new.expires_at };
    change.quota = if rest.quota == new.quota { None } else { new.quota.as_deref().copied() };
    compare!(
        username => Username, description => Description, enabled => Enabled, auth => Auth, password_hash => Password,
        certificates => Certificates, publish_prefix => PublishPrefix, client_id => ClientId, expires_at => ExpiresAt,
        quota => Quota
    );
    // It goes with the password.
    rest.rehashed_from = new.rehashed_from;
    rest.version = new.version;
    rest.managed_by = new.managed_by;
    rest.created_at = new.created_at;
    rest.last_seen_at = new.last_seen_at;
    if rest != *new {
        change.fields.push(Field::Other);
    }
    change
}

/// What makes `new` of `old`; `None`: it is created.
pub fn role_change(old: Option<&Role>, new: &Role) -> RoleChange {
    let mut change = RoleChange::default();
    let none: &[Permission] = &[];
    let permissions = old.map_or(none, |old| &old.permissions);
    change.permissions_added = missing(&new.permissions, permissions);
    change.permissions_removed = missing(permissions, &new.permissions);
    if permissions != new.permissions {
        change.fields.push(Field::Permissions);
    }
    if old.map_or("", |old| &old.description) != new.description {
        change.fields.push(Field::Description);
    }
    change
}

/// The certificates that were good for `old` and are not for `new`; `None`: the user is gone.
pub fn certificates_lost(old: &User, new: Option<&User>) -> Vec<Event> {
    let good = |user: &User, certificate: &CertificateRecord| {
        user.certificates.iter().any(|other| other.fingerprint == certificate.fingerprint && other.revoked_at.is_none())
    };
    let lost = old
        .certificates
        .iter()
        .filter(|certificate| certificate.revoked_at.is_none() && !new.is_some_and(|new| good(new, certificate)));
    lost.map(|certificate| Event::CertificateRevoked {
        user: UserRef { id: old.id, username: old.username.clone() },
        serial: Word::name(&certificate.serial),
        fingerprint: Word::name(&certificate.fingerprint),
        reason: new
            .and_then(|new| new.certificates.iter().find(|other| other.fingerprint == certificate.fingerprint)?.reason),
    })
    .collect()
}

/// What is in `these` and not in `those`.
fn missing<'a, T: Eq + Hash, C: FromIterator<&'a T>>(these: &'a [T], those: &'a [T]) -> C {
    let those: HashSet<&T> = those.iter().collect();
    these.iter().filter(|item| !those.contains(item)).collect()
}

//! Changes of users and roles that exist: what is there is read, what the arguments say is done to it, and the whole goes
//! back with the version that was read. When somebody else was faster, the broker refuses.

use portcullis::access::{Auth, Permission, Role, RoleName};
use portcullis::admin::api::{Pin, Revocation, RoleUpdate, UserPatch, UserView};

use super::args::{RoleEdit, UserEdit, UserPin, UserRevoke};
use super::client::{Client, segment};
use super::commands::user_path;
use super::output::printable;
use super::{Failure, Shell};

pub(crate) async fn user(arguments: UserEdit, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = user_path(&arguments.username)?;
    let user: UserView = client.get(&path).await?;
    let had_password = user.has_password;
    let patch = patch(arguments, user)?;
    let user: UserView = client.patch(&path, &patch).await?;
    shell.print(&user, |user| {
        let gone = had_password && !user.has_password;
        format!("changed the user {}{}\n", user.username, if gone { "; it has no password any more" } else { "" })
    })
}

fn patch(arguments: UserEdit, user: UserView) -> Result<UserPatch, Failure> {
    let unchanged = UserPatch { version: user.version, ..UserPatch::default() };
    let roles = (!arguments.roles.is_empty() || !arguments.drop_roles.is_empty())
        .then(|| edited_roles(user.roles, &arguments.drop_roles, arguments.roles))
        .transpose()?;
    let permissions = (!arguments.permissions.is_empty() || !arguments.drop_permissions.is_empty())
        .then(|| edited(user.permissions, &arguments.drop_permissions, arguments.permissions))
        .transpose()?;
    let patch = UserPatch {
        description: arguments.description,
        auth: arguments.auth.map(Auth::from),
        roles,
        permissions,
        publish_prefix: set(arguments.publish_prefix, arguments.no_publish_prefix),
        client_id: set(arguments.client_id, arguments.no_client_id),
        quota: set(arguments.quota, arguments.no_quota),
        expires_at: set(arguments.expires, arguments.no_expires),
        ..unchanged.clone()
    };
    if patch == unchanged { Err(nothing("user edit")) } else { Ok(patch) }
}

/// For a patch: a value, none from now on, or no change.
#[expect(clippy::option_option, reason = "absent and null are two things in a patch (RFC 7396)")]
fn set<T>(given: Option<T>, none: bool) -> Option<Option<T>> {
    if none { Some(None) } else { given.map(Some) }
}

pub(crate) async fn role(arguments: RoleEdit, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let RoleEdit { name, description, permissions, drop_permissions } = arguments;
    if description.is_none() && permissions.is_empty() && drop_permissions.is_empty() {
        return Err(nothing("role edit"));
    }
    let path = format!("/api/roles/{}", segment(name.as_str())?);
    let role: Role = client.get(&path).await?;
    let update = RoleUpdate {
        version: role.version,
        description: description.unwrap_or(role.description),
        permissions: edited(role.permissions, &drop_permissions, permissions)?,
    };
    let role: Role = client.put(&path, &update).await?;
    shell.print(&role, |role| format!("changed the role {}\n", role.name))
}

/// Puts a certificate of another CA on record.
pub(crate) async fn pin(arguments: UserPin, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let UserPin { username, certificate: path, comment } = arguments;
    let certificate = std::fs::read_to_string(&path)
        .map_err(|error| Failure::answer(format!("cannot read `{}`: {error}", path.display())))?;
    let order = Pin { certificate, comment, version: None };
    let user: UserView = client.post(&format!("{}/certificates", user_path(&username)?), &order).await?;
    shell.print(&user, |user| {
        let serial = user.certificates.last().map_or("", |record| record.serial.as_str());
        format!("put the certificate {} on record of {}\n", printable(serial), user.username)
    })
}

pub(crate) async fn revoke(arguments: UserRevoke, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let UserRevoke { username, serial, all: _, reason, comment } = arguments;
    let base = format!("{}/certificates", user_path(&username)?);
    let path = match &serial {
        // The form of the records; others write it in upper case, with colons, or as a number without its leading zero.
        Some(serial) => {
            let digits = serial.replace(':', "").to_ascii_lowercase();
            let zero = if digits.len() % 2 == 1 { "0" } else { "" };
            format!("{base}/{}/revoke", segment(&format!("{zero}{digits}"))?)
        }
        None => format!("{base}/revoke"),
    };
    let user: UserView = client.post(&path, &Revocation { reason, comment, version: None }).await?;
    shell.print(&user, |user| match serial {
        Some(serial) => {
            let text = format!(
                "revoked the certificate {serial} of {}; the sessions that stood on it were ended",
                user.username
            );
            printable(&text) + "\n"
        }
        None => format!("revoked all certificates of {}; the sessions that stood on them were ended\n", user.username),
    })
}

fn nothing(command: &str) -> Failure {
    Failure::Usage(format!("nothing is to be changed: `portcullis {command} --help` says what can be"))
}

fn edited_roles(mut roles: Vec<RoleName>, drop: &[RoleName], add: Vec<RoleName>) -> Result<Vec<RoleName>, Failure> {
    if let Some(missing) = drop.iter().find(|role| !roles.contains(role)) {
        return Err(Failure::answer(format!("the user does not hold the role `{missing}`; nothing was changed")));
    }
    roles.retain(|role| !drop.contains(role));
    for role in add {
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    Ok(roles)
}

/// `drop` counts from 1, in the list as it was.
fn edited(old: Vec<Permission>, drop: &[u32], add: Vec<Permission>) -> Result<Vec<Permission>, Failure> {
    let count = old.len();
    if let Some(missing) = drop.iter().find(|number| usize::try_from(**number).is_ok_and(|number| number > count)) {
        return Err(Failure::answer(format!(
            "there is no permission {missing}, but {count}, as `show` counts them; nothing was changed"
        )));
    }
    let numbered = (1_u32..).zip(old).filter(|(number, _)| !drop.contains(number));
    let mut permissions: Vec<_> = numbered.map(|(_, permission)| permission).collect();
    for permission in add {
        if !permissions.contains(&permission) {
            permissions.push(permission);
        }
    }
    Ok(permissions)
}

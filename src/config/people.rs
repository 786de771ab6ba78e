//! `[[role]]` and `[[user]]`: what the file owns of the access model.

use std::path::Path;

use jiff::Timestamp;
use secrecy::SecretString;
use toml::de::DeValue;

use super::files;
use super::model::{ConfiguredPassword, ConfiguredUser, Trust};
use super::reader::{Item, Report, Section, Wrong, boolean, integer, nearest, one_of, parsed, size, text};
use crate::access::{
    Auth, Context, Effect, ManagedBy, Operation, Permission, Policy, PolicyError, Quota, Rate, Role, RoleName, User,
    UserId, Username,
};
use crate::mqtt::TopicFilter;

const BUILT_IN_ROLES: [&str; 2] = ["admin", "observer"];

/// Every role and user of the file that has a name, the users with their places there.
pub(super) fn read(root: &Section<'_>, base: &Path) -> (Vec<Role>, Vec<(String, ConfiguredUser)>) {
    let mut roles: Vec<Role> = Vec::new();
    for section in root.sections("role") {
        roles.extend(role(&section, &roles));
    }
    let mut users: Vec<(String, ConfiguredUser)> = Vec::new();
    for section in root.sections("user") {
        let user = user(&section, base, &roles, &users);
        users.extend(user.map(|user| (section.path.clone(), user)));
    }
    (roles, users)
}

/// Users that nobody can be. For a file without other problems.
pub(super) fn check_certificates(report: &Report<'_>, trust: &[Trust], users: &[(String, ConfiguredUser)]) {
    for (place, user) in users {
        let needs = matches!(user.auth, Auth::Certificate | Auth::Both);
        if needs && !trust.iter().any(|trust| trust.username.matches(&user.username)) {
            let name = &user.username;
            report.warn(
                &format!("{place}.auth"),
                format!("nobody can log in as \"{name}\": no certificate is good for a user of this file but those of a `[[ca.trust]]`, and none is for this name"),
                format!("add a `[[ca.trust]]` with `username = \"{name}\"`, or remove this user and let the registry make it: `portcullis registry unlock`"),
            );
        }
    }
}

/// What only shows when rules, prefixes and patterns are compiled together, by the very code that will enforce them.
/// For a file without other problems: then every role and user is at its place in the lists.
pub(super) fn check_policy(report: &Report<'_>, roles: &[Role], users: &[(String, ConfiguredUser)]) {
    let mut policy = Policy::default();
    for (index, role) in roles.iter().enumerate() {
        let change = [(role.name.clone(), Some(role.clone()))];
        match policy.with(change, [], Timestamp::UNIX_EPOCH) {
            Ok(next) => policy = next,
            Err(error) => refused(report, &format!("role[{index}]"), "name", &error),
        }
    }
    for (path, user) in users {
        // An identity of this check alone; the directory draws the real one.
        let id = UserId(uuid::Uuid::nil());
        let user = User {
            id,
            username: user.username.clone(),
            description: String::new(),
            enabled: user.enabled,
            auth: user.auth,
            password_hash: None,
            rehashed_from: None,
            certificates: Vec::new(),
            roles: user.roles.clone(),
            permissions: user.permissions.clone(),
            publish_prefix: user.publish_prefix.clone(),
            client_id: user.client_id.clone(),
            quota: user.quota.map(Box::new),
            expires_at: user.expires_at,
            managed_by: ManagedBy::Config,
            created_at: Timestamp::UNIX_EPOCH,
            last_seen_at: None,
            version: 0,
        };
        if let Err(error) = policy.with([], [(id, Some(user))], Timestamp::UNIX_EPOCH) {
            refused(report, path, "username", &error);
        }
    }
}

fn refused(report: &Report<'_>, path: &str, name: &str, error: &PolicyError) {
    let key = match error {
        PolicyError::Rule { number, .. } => format!("{path}.permissions[{}].resource", number.saturating_sub(1)),
        PolicyError::PublishPrefix { .. } => format!("{path}.publish_prefix"),
        PolicyError::ClientIdPattern { .. } => format!("{path}.client_id"),
        _ => format!("{path}.{name}"),
    };
    report.key(
        &key,
        error.to_string(),
        "see the rules on [[role]] and [[user]] in the broker.toml that comes with the program",
    );
}

fn role(section: &Section<'_>, earlier: &[Role]) -> Option<Role> {
    section.require("name", "\"sensor\"");
    let name = section.get("name", |item| parsed::<RoleName>(item, "1 to 64 letters, digits or `._:@-`"));
    let description = section.get("description", text).unwrap_or_default();
    let permissions = permissions(section);
    section.finish();
    let name = name?;
    if BUILT_IN_ROLES.contains(&name.as_str()) {
        section.report.key(
            &section.full("name"),
            format!("the role \"{name}\" is built in"),
            "give this role another name",
        );
    }
    if earlier.iter().any(|role| role.name == name) {
        section.report.key(&section.full("name"), format!("there is a role \"{name}\" above"), "keep one of the two");
    }
    Some(Role { name, description, permissions, managed_by: ManagedBy::Config, version: 0 })
}

fn user(
    section: &Section<'_>,
    base: &Path,
    roles: &[Role],
    earlier: &[(String, ConfiguredUser)],
) -> Option<ConfiguredUser> {
    let report = section.report;
    section.require("username", "\"historian\"");
    let username = section.get("username", |item| parsed::<Username>(item, "3 to 64 letters, digits or `._:@-`"));
    let client_id = section.get("client_id", client_id);
    let user = ConfiguredUser {
        username: username.clone().or_else(|| "unnamed".parse().ok())?,
        description: section.get("description", text).unwrap_or_default(),
        enabled: section.get("enabled", boolean).unwrap_or(true),
        auth: Auth::Password,
        password: password(section, base),
        roles: user_roles(section, roles),
        permissions: permissions(section),
        publish_prefix: section
            .get("publish_prefix", publish_prefix)
            .or_else(|| section.get("mqttPublishPrefix", publish_prefix)),
        client_id,
        quota: quota(section),
        expires_at: section.get("expires_at", time),
    };
    let kinds = &[
        ("password", Auth::Password),
        ("certificate", Auth::Certificate),
        ("either", Auth::Either),
        ("both", Auth::Both),
        ("none", Auth::None),
    ];
    let auth = section.get("auth", one_of(kinds)).unwrap_or_default();
    section.not_yet("certificates", "the certificates of a `[[ca.trust]]` need none, and those of the broker's own CA are for users whom the registry makes: leave it out");
    section.finish();
    let username = username?;
    if username.is_reserved() {
        let advice = if username.as_str().eq_ignore_ascii_case("admin") {
            "the password of the first administrator is set by `admin_password_file` in `[admin]`"
        } else {
            "give this user another name"
        };
        report.key(&section.full("username"), format!("the user name \"{username}\" is reserved"), advice);
    }
    if earlier.iter().any(|(_, user)| user.username == username) {
        report.key(&section.full("username"), format!("there is a user \"{username}\" above"), "keep one of the two");
    }
    let takes_password = !matches!(auth, Auth::Certificate | Auth::None);
    let has_password =
        ["password", "password_hash", "password_file"].iter().any(|key| report.place(&section.full(key)).is_some());
    if takes_password && !has_password {
        let found = format!("the user \"{username}\" logs in with a password and has none");
        report.at(
            section.span.clone(),
            found,
            "add `password_hash` or `password_file`, or write `auth = \"certificate\"`",
        );
    } else if !takes_password && has_password {
        let found = format!("the user \"{username}\" has a password that its `auth` does not admit");
        report.key(&section.full("auth"), found, "remove the password, or write \"either\" or \"both\"");
    }
    if auth == Auth::None && user.roles.iter().any(|role| role.as_str() == "admin") {
        let found = "a user without any proof would be an administrator";
        report.key(&section.full("roles"), found, "remove the role \"admin\"");
    }
    Some(ConfiguredUser { username, auth, ..user })
}

/// Never a password in the file: only its hash, or the file that holds it.
fn password(section: &Section<'_>, base: &Path) -> Option<ConfiguredPassword> {
    let report = section.report;
    if let Some(item) = section.item("password") {
        report.secret(item.span.clone());
        let advice = "put the password into a file of mode 0600 and name that in `password_file`, or its argon2id hash into `password_hash`";
        report.at(Some(item.span), "a password does not belong into this file", advice);
    }
    let hash = section.item("password_hash").and_then(|item| {
        report.secret(item.span.clone());
        let hash = item.value.as_str().filter(|hash| is_argon2id(hash));
        if hash.is_none() {
            let found = format!("`{}` is not the hash of a password", item.key);
            report.at(
                Some(item.span),
                found,
                "write an argon2id PHC string, \"$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH\"",
            );
        }
        hash.map(|hash| ConfiguredPassword::Hash(SecretString::from(hash)))
    });
    let plain = files::password(section, "password_file", base).map(ConfiguredPassword::Plain);
    if report.place(&section.full("password_hash")).is_some() && report.place(&section.full("password_file")).is_some()
    {
        let found = "a user has one password, and here are `password_hash` and `password_file`";
        report.key(&section.full("password_file"), found, "keep one of the two");
    }
    hash.or(plain)
}

fn is_argon2id(text: &str) -> bool {
    argon2::PasswordHash::new(text)
        .is_ok_and(|hash| hash.algorithm.as_str() == "argon2id" && hash.salt.is_some() && hash.hash.is_some())
}

fn user_roles(section: &Section<'_>, roles: &[Role]) -> Vec<RoleName> {
    let known = || roles.iter().map(|role| role.name.as_str()).chain(BUILT_IN_ROLES);
    section.list("roles", |item| {
        let name = parsed::<RoleName>(item, "the name of a role")?;
        if known().any(|role| role == name.as_str()) {
            return Ok(name);
        }
        let expected = match nearest(name.as_str(), known()) {
            Some(near) => format!("\"{near}\""),
            None => format!(
                "the name of a role of this file, \"admin\" or \"observer\", or add `[[role]]` with `name = \"{name}\"`"
            ),
        };
        Err(Wrong { found: Some(format!("\"{name}\", which is no role of this file")), expected })
    })
}

pub(super) fn permissions(section: &Section<'_>) -> Vec<Permission> {
    section.sections("permissions").iter().filter_map(permission).collect()
}

fn permission(section: &Section<'_>) -> Option<Permission> {
    let report = section.report;
    section.require("context", "\"mqtt\"");
    section.require("operation", "\"read\"");
    section.require("resource", "\"plant/${username}/#\"");
    let context = section.get("context", one_of(&[("mqtt", Context::Mqtt), ("http", Context::Http)]));
    let operations = &[
        ("read", Operation::Read),
        ("write", Operation::Write),
        ("read_write", Operation::ReadWrite),
        ("readWrite", Operation::ReadWrite),
    ];
    let operation = section.get("operation", one_of(operations));
    let resource = section.get("resource", |item| resource(item, context));
    let effect = section.get("effect", one_of(&[("allow", Effect::Allow), ("deny", Effect::Deny)])).unwrap_or_default();
    let max_qos = section.get("max_qos", integer::<u8>(0..=2));
    let retain = section.get("retain", boolean);
    let not_after = section.get("not_after", time);
    section.finish();
    for key in ["max_qos", "retain", "not_after"] {
        if effect == Effect::Deny && report.place(&section.full(key)).is_some() {
            let found = format!("`{key}` is a condition of an allow, and this rule denies");
            report.key(&section.full(key), found, "remove it: a deny knows no conditions");
        }
    }
    Some(Permission {
        context: context?,
        operation: operation?,
        resource: resource?,
        effect,
        max_qos,
        retain,
        not_after,
    })
}

/// A topic filter, or a path pattern, in which the placeholders are whole levels.
fn resource(item: &Item<'_>, context: Option<Context>) -> Result<String, Wrong> {
    let resource = text(item)?;
    if let Some(level) =
        resource.split('/').find(|level| level.contains("${") && !matches!(*level, "${username}" | "${client_id}"))
    {
        let expected = format!(
            "a pattern whose placeholders are `${{username}}` or `${{client_id}}` and a whole level each, between two `/`: `{level}` is not"
        );
        return Err(Wrong::expected(expected));
    }
    if context == Some(Context::Http) && !resource.starts_with('/') {
        return Err(Wrong::expected("a path that begins with `/`, as in \"/api/users/#\""));
    }
    match TopicFilter::try_from(resource.as_str()) {
        Ok(_) => Ok(resource),
        Err(error) => Err(Wrong::expected(format!("a topic filter ({error})"))),
    }
}

pub(super) fn publish_prefix(item: &Item<'_>) -> Result<String, Wrong> {
    let prefix = text(item)?;
    if prefix.ends_with('/') && !prefix.starts_with('$') && !prefix.contains(['+', '#']) && prefix.len() < 65_535 {
        Ok(prefix)
    } else {
        Err(Wrong::expected(
            "a topic that ends in `/`, without `+` and `#`, and does not begin with `$`, as in \"site7/\"",
        ))
    }
}

fn client_id(item: &Item<'_>) -> Result<String, Wrong> {
    let pattern = text(item)?;
    let rest = pattern.replace("${username}", "");
    if pattern.is_empty() || rest.contains("${") || rest.contains(['+', '#']) {
        Err(Wrong::expected("a pattern of literal text, `*` and `${username}`, as in \"${username}-*\""))
    } else {
        Ok(pattern)
    }
}

/// How much of the broker the user may take up.
fn quota(section: &Section<'_>) -> Option<Quota> {
    let section = section.section("quota");
    let count = || integer::<u32>(0..=u64::from(u32::MAX));
    let many = || integer::<u64>(0..=Rate::MOST);
    let bytes = || size(0..=Rate::MOST);
    let quota = Quota {
        connections: section.get("connections", count()),
        sessions: section.get("sessions", count()),
        publish_messages: rate(&section, "publish_messages", integer::<u64>(1..=Rate::MOST)),
        publish_bytes: rate(&section, "publish_bytes", size(1..=Rate::MOST)),
        subscriptions: section.get("subscriptions", count()),
        retained_messages: section.get("retained_messages", many()),
        retained_bytes: section.get("retained_bytes", bytes()),
        queue_messages: section.get("queue_messages", many()),
        queue_bytes: section.get("queue_bytes", bytes()),
    };
    section.finish();
    section.span.is_some().then_some(quota)
}

fn rate(section: &Section<'_>, key: &'static str, amount: impl Fn(&Item<'_>) -> Result<u64, Wrong>) -> Option<Rate> {
    let section = section.section(key);
    let per_second = section.get("per_second", &amount);
    let burst = section.get("burst", &amount);
    section.require("per_second", "100");
    section.finish();
    // Both are within the bounds of a rate already.
    Rate::new(per_second?, burst).ok()
}

/// A TOML date-time with its offset, or the same as text (RFC 3339).
fn time(item: &Item<'_>) -> Result<Timestamp, Wrong> {
    let written = match item.value {
        DeValue::Datetime(time) => time.to_string(),
        _ => text(item)?,
    };
    written.parse().map_err(|_| Wrong::expected("a time with its offset, as in 2027-01-31T12:00:00Z"))
}

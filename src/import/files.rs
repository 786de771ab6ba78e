//! `password_file` and `acl_file`, mapped.
//!
//! What `topic` says after `user NAME` becomes that user's own permissions; what `pattern` says becomes a role that all of them
//! hold; what `topic` says before the first `user` is for clients without credentials, which are broker.toml's.

use std::collections::{BTreeMap, BTreeSet};

use super::acls::{Access, Acl, Acls, For};
use super::filter::{self, Percent};
use super::passwords::Password;
use super::report::{Outcome, Place, Report};
use super::{Import, ImportError, Options, Source};
use crate::access::{Auth, Context, Effect, MAX_PERMISSIONS, Operation, Permission, RoleName, Username};
use crate::directory::{Document, RoleDocument, UserDocument};

/// The role of the `pattern` lines.
const PATTERNS: &str = "mosquitto-patterns";

const SYS: &str = "no client may publish to topics that begin with `$` here";
pub(super) const CONTROL: &str =
    "`$CONTROL` administers mosquitto; here that is done by the REST API and the command line";
const DOLLAR: &str =
    "of the topics that begin with `$`, `$SYS/...` alone means the same here: others are the broker's own";
const RESERVED: &str = "this name is reserved for the broker: make a user of another name";
const TIED: &str = "who holds it must use its username as client identifier";
const CLIENT_ID: &str = "a client chooses its identifier itself, so that `%c` grants anybody's topics: write `%u`, or import with \
     `--client-id-is-username`, which ties the client identifiers of those users to their names";

/// Maps what was read.
pub(super) fn map(passwords: &[Password<'_>], acls: &Acls<'_>, options: Options) -> Result<Import, ImportError> {
    let mut report = Report::default();
    let mut document = Document::default();
    let mut users = Users::default();
    for password in passwords {
        let place = Place::line(Source::Passwords, password.line);
        let shown = format!("user {}", password.name);
        let made = username(password.name).and_then(|name| match &password.hash {
            Ok(hash) => Ok((name, Auth::Password, Some(hash.as_str().to_owned()))),
            Err(why) => Err((*why).to_owned()),
        });
        users.take(made, password.name, place, &shown, &mut report);
    }
    let with_password: BTreeSet<_> = passwords.iter().map(|password| password.name).collect();
    for (line, name) in acls.sections.iter().filter(|(_, name)| !with_password.contains(name)) {
        let made = if options.certificates {
            username(name).map(|name| (name, Auth::Certificate, None))
        } else {
            Err("there is no password of it: import the `password_file` with it, or, if it logs in with a certificate, \
                 import with `--certificates`"
                .to_owned())
        };
        users.take(made, name, Place::line(Source::Acls, *line), &format!("user {name}"), &mut report);
    }

    let patterns: RoleName = PATTERNS.parse().map_err(|_| ImportError::at(Source::Acls, None, PATTERNS))?;
    let (mut of_all, mut of_nobody) = (Vec::new(), Vec::new());
    let mut tied = false;
    for rule in &acls.rules {
        let place = Place::line(Source::Acls, rule.line);
        let mut holder = match rule.whose {
            For::Pattern => Holder { whom: format!("role {patterns}"), rules: &mut of_all },
            For::Anonymous => Holder { whom: String::new(), rules: &mut of_nobody },
            For::User(name) => {
                let Some(user) = users.made.get_mut(name) else {
                    report.left_out(place, rule.text, format!("user `{name}` is left out"));
                    continue;
                };
                let whom = format!("user {}", user.username);
                Holder { whom, rules: user.permissions.get_or_insert_default() }
            }
        };
        tied |= take_rule(rule, place, &mut holder, options, &mut report);
    }
    let holds_patterns = !of_all.is_empty();
    for mut user in users.in_order() {
        if holds_patterns {
            user.roles = Some(vec![patterns.clone()]);
        }
        if tied {
            user.client_id = Some("${username}".to_owned());
        }
        document.user.push(user);
    }
    if holds_patterns {
        document.role.push(RoleDocument {
            name: patterns,
            version: Some(0),
            description: Some("the `pattern` lines of mosquitto's acl_file".to_owned()),
            permissions: Some(of_all.clone()),
        });
    }
    let configuration = if of_nobody.is_empty() {
        String::new()
    } else {
        // Patterns are for them too, but not the grants to somebody with a name.
        of_nobody
            .extend(of_all.into_iter().filter(|rule| rule.effect == Effect::Deny || !rule.resource.contains("${")));
        super::anonymous(&of_nobody)
    };
    report.notes = differences(acls);
    check_size(&document, Source::Acls)?;
    Ok(Import { document, report, configuration })
}

/// Users by the name in the files.
#[derive(Default)]
struct Users<'a> {
    made: BTreeMap<&'a str, UserDocument>,
    order: Vec<&'a str>,
}

impl<'a> Users<'a> {
    fn take(
        &mut self,
        made: Result<(Username, Auth, Option<String>), String>,
        name: &'a str,
        place: Place,
        shown: &str,
        report: &mut Report,
    ) {
        match made {
            Err(why) => report.left_out(place, shown, why),
            Ok((username, auth, password_hash)) => {
                report.add(place, shown, Outcome::Same, Some(format!("user {username}, {}", proof(auth))), None);
                self.order.push(name);
                self.made.insert(name, user(username, auth, password_hash));
            }
        }
    }

    fn in_order(mut self) -> impl Iterator<Item = UserDocument> {
        self.order.into_iter().filter_map(move |name| self.made.remove(name))
    }
}

/// Who gets the permissions of a line.
struct Holder<'a> {
    whom: String,
    rules: &'a mut Vec<Permission>,
}

/// Maps one line. True when who holds it must be tied to a client identifier.
fn take_rule(rule: &Acl<'_>, place: Place, holder: &mut Holder<'_>, options: Options, report: &mut Report) -> bool {
    let percent = if rule.whose == For::Pattern { Percent::Placeholder } else { Percent::Literal };
    if filter::is_shared(rule.filter) {
        report.left_out(
            place,
            rule.text,
            "no topic of a message begins with `$share`: in mosquitto the line does nothing",
        );
        return false;
    }
    if rule.access == Access::Deny {
        let (resource, why) = filter::denied(rule.filter, percent);
        let mut why = why.map(|why| format!("{why}: more is denied"));
        if rule.whose == For::Pattern {
            let wins = "it also beats what a user's own `topic` lines allow, which mosquitto looks at first";
            why = Some(why.map_or_else(|| wins.to_owned(), |why| format!("{why}; {wins}")));
        }
        add(Permission::deny(Context::Mqtt, Operation::ReadWrite, resource), why, place, rule.text, holder, report);
        return false;
    }
    let operation = match rule.access {
        Access::Read => Operation::Read,
        Access::Write => Operation::Write,
        Access::ReadWrite | Access::Deny => Operation::ReadWrite,
    };
    let mapped = filter::allowed(rule.filter, percent).map_err(str::to_owned).and_then(|resource| {
        let (operation, why) = without_dollar(operation, rule.filter)?;
        Ok((resource, operation, why))
    });
    match mapped {
        Err(why) => {
            report.left_out(place, rule.text, why);
            false
        }
        Ok((resource, operation, why)) => {
            let by_client_id = percent == Percent::Placeholder && rule.filter.split('/').any(|level| level == "%c");
            if by_client_id && !options.client_id_is_username {
                report.left_out(place, rule.text, CLIENT_ID);
                return false;
            }
            let why = why.map(str::to_owned).or_else(|| by_client_id.then(|| TIED.to_owned()));
            add(Permission::allow(Context::Mqtt, operation, resource), why, place, rule.text, holder, report);
            by_client_id
        }
    }
}

fn add(
    permission: Permission,
    why: Option<String>,
    place: Place,
    text: &str,
    holder: &mut Holder<'_>,
    report: &mut Report,
) {
    let shown = show(&permission);
    let (outcome, target) = if holder.whom.is_empty() {
        (Outcome::Configuration, format!("broker.toml, user anonymous: {shown}"))
    } else {
        let outcome = if why.is_some() { Outcome::Narrower } else { Outcome::Same };
        (outcome, format!("{}: {shown}", holder.whom))
    };
    report.add(place, text, outcome, Some(target), why);
    holder.rules.push(permission);
}

/// What of an operation is left on topics that begin with `$`.
///
/// # Errors
/// Nothing is, and why.
pub(super) fn without_dollar(operation: Operation, filter: &str) -> Result<(Operation, Option<&'static str>), String> {
    if !filter.starts_with('$') {
        return Ok((operation, None));
    }
    if filter == "$CONTROL" || filter.starts_with("$CONTROL/") {
        return Err(CONTROL.to_owned());
    }
    if filter.split('/').next() != Some("$SYS") {
        return Err(DOLLAR.to_owned());
    }
    match operation {
        Operation::Read => Ok((Operation::Read, None)),
        Operation::ReadWrite => Ok((Operation::Read, Some(SYS))),
        Operation::Write => Err(SYS.to_owned()),
    }
}

/// A name that a user may have here.
///
/// # Errors
/// Why it cannot have it.
pub(super) fn username(name: &str) -> Result<Username, String> {
    let name: Username =
        name.parse().map_err(|error| format!("{error}, and no name is changed: make the user by hand"))?;
    if name.is_reserved() { Err(RESERVED.to_owned()) } else { Ok(name) }
}

/// A user who must not be there yet.
pub(super) fn user(username: Username, auth: Auth, password_hash: Option<String>) -> UserDocument {
    UserDocument {
        username,
        version: Some(0),
        description: None,
        enabled: None,
        auth: Some(auth),
        password_hash,
        roles: None,
        permissions: None,
        publish_prefix: None,
        client_id: None,
        quota: None,
        expires_at: None,
    }
}

pub(super) fn proof(auth: Auth) -> &'static str {
    if auth == Auth::Certificate { "logs in with a certificate" } else { "its password stays" }
}

/// A permission as one reads it.
pub(super) fn show(permission: &Permission) -> String {
    format!("{} {} {}", permission.effect.as_str(), permission.operation.as_str(), permission.resource)
}

/// Nobody holds more rules than the directory admits.
pub(super) fn check_size(document: &Document, source: Source) -> Result<(), ImportError> {
    let of_roles = document.role.iter().map(|role| (role.name.as_str(), &role.permissions));
    let of_users = document.user.iter().map(|user| (user.username.as_str(), &user.permissions));
    for (name, permissions) in of_roles.chain(of_users) {
        if permissions.as_ref().is_some_and(|rules| rules.len() > MAX_PERMISSIONS) {
            let what = format!("`{name}` has more than the {MAX_PERMISSIONS} rules that are admitted");
            return Err(ImportError::at(source, None, what));
        }
    }
    Ok(())
}

fn differences(acls: &Acls<'_>) -> Vec<String> {
    if acls.rules.is_empty() {
        let everybody = "there is no rule: mosquitto without an acl_file lets everybody do everything; here nobody may do anything until a rule says so";
        return vec![everybody.to_owned()];
    }
    let mut notes = vec![
        "mosquitto grants every SUBSCRIBE and withholds what may not be read. Here a filter that no rule covers is refused (0x87); with \
         `access.partial_subscription = \"filter\"` in broker.toml it is granted for the part that may be read"
            .to_owned(),
    ];
    if acls.rules.iter().any(|rule| rule.filter.starts_with("$SYS")) {
        notes.push("there are no `$SYS` topics in this version: the metrics endpoint has what they say".to_owned());
    }
    if acls.rules.iter().any(|rule| rule.whose == For::Anonymous) {
        notes.push(
            "clients without credentials are a user that broker.toml defines and a listener names: see the text for broker.toml"
                .to_owned(),
        );
    }
    notes
}

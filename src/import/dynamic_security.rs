//! The file of mosquitto's dynamic security plugin, mapped.
//!
//! Roles stay roles, and a group gives its roles to its clients. In mosquitto the first ACL that matches decides, by priority of
//! role, group and ACL; here a deny always wins: so that whatever is allowed here, the first ACL there allows too.
//!
//! To receive, a client needs two things there: an ACL for the filter (`subscribe...`), and one for each topic
//! (`publishClientReceive`). Here it is one: `read`, on what both of them allow.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::acls::is_filter;
use super::files::{CONTROL, check_size, proof, show, user, username, without_dollar};
use super::filter::{self, Percent};
use super::passwords::{self, pbkdf2};
use super::report::{Outcome, Place, Report};
use super::{Import, ImportError, Options, Source, text};
use crate::access::{Auth, Context, Effect, MAX_ROLES, Operation, Permission, RoleName};
use crate::directory::{Document, RoleDocument, UserDocument};

/// The role of what mosquitto allows where no ACL matches.
const DEFAULTS: &str = "mosquitto-defaults";
/// As many pairs of allow rules of one role are looked at.
const MOST_PAIRS: usize = 10_000;
/// As many allow rules as all the denies together are held against.
const MOST_LOOKS: usize = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "defaultACLAccess")]
    defaults: Defaults,
    #[serde(default)]
    clients: Vec<Client>,
    #[serde(default)]
    groups: Vec<Group>,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default, rename = "anonymousGroup")]
    anonymous_group: Option<String>,
}

/// What is so where no ACL matches; absent: no.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "the file has them")]
struct Defaults {
    publish_client_send: bool,
    publish_client_receive: bool,
    subscribe: bool,
    unsubscribe: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    username: String,
    #[serde(default, alias = "textName")]
    textname: String,
    #[serde(default, alias = "textDescription")]
    textdescription: String,
    #[serde(default)]
    clientid: Option<String>,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    salt: Option<String>,
    #[serde(default)]
    iterations: Option<u32>,
    /// Later versions of mosquitto: as in a password file.
    #[serde(default)]
    encoded_password: Option<String>,
    #[serde(default)]
    roles: Vec<RoleOf>,
    #[serde(default)]
    groups: Vec<GroupOf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    groupname: String,
    #[serde(default, alias = "textName", rename = "textname")]
    _textname: String,
    #[serde(default, alias = "textDescription", rename = "textdescription")]
    _textdescription: String,
    #[serde(default)]
    roles: Vec<RoleOf>,
    #[serde(default)]
    clients: Vec<ClientOf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    rolename: String,
    #[serde(default, alias = "textName")]
    textname: String,
    #[serde(default, alias = "textDescription")]
    textdescription: String,
    /// Later versions of mosquitto.
    #[serde(default = "yes", alias = "allowWildcardSubs", alias = "allowwildcardsubs")]
    allow_wildcard_subs: bool,
    #[serde(default)]
    acls: Vec<Acl>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleOf {
    rolename: String,
    #[serde(default, rename = "priority")]
    _priority: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupOf {
    groupname: String,
    #[serde(default, rename = "priority")]
    _priority: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientOf {
    username: String,
    #[serde(default, rename = "priority")]
    _priority: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acl {
    acltype: Kind,
    topic: String,
    #[serde(default, rename = "priority")]
    _priority: i64,
    allow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    PublishClientSend,
    PublishClientReceive,
    SubscribeLiteral,
    SubscribePattern,
    UnsubscribeLiteral,
    UnsubscribePattern,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::PublishClientSend => "publishClientSend",
            Self::PublishClientReceive => "publishClientReceive",
            Self::SubscribeLiteral => "subscribeLiteral",
            Self::SubscribePattern => "subscribePattern",
            Self::UnsubscribeLiteral => "unsubscribeLiteral",
            Self::UnsubscribePattern => "unsubscribePattern",
        }
    }

    fn operation(self) -> Option<Operation> {
        match self {
            Self::PublishClientSend => Some(Operation::Write),
            Self::PublishClientReceive | Self::SubscribeLiteral | Self::SubscribePattern => Some(Operation::Read),
            Self::UnsubscribeLiteral | Self::UnsubscribePattern => None,
        }
    }
}

/// Maps the file.
pub(super) fn map(bytes: &[u8], options: Options) -> Result<Import, ImportError> {
    let source = Source::DynamicSecurity;
    let text = text(source, bytes)?;
    // To serde a list is a structure without the names.
    if !text.trim_start().starts_with('{') {
        return Err(ImportError::at(source, Some((1, 1)), "this is no JSON object"));
    }
    let file: File = serde_json::from_str(text).map_err(|error| {
        // What serde says ends in the place, which is told apart, and may repeat a name or a word of the file.
        let what = error.to_string();
        let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
        ImportError::at(source, Some((error.line(), error.column().max(1))), what)
    })?;
    check_once("client", file.clients.iter().map(|client| &client.username))?;
    check_once("group", file.groups.iter().map(|group| &group.groupname))?;
    check_once("role", file.roles.iter().map(|role| &role.rolename))?;
    for acl in file.roles.iter().flat_map(|role| &role.acls) {
        if !is_filter(&acl.topic) {
            let what = format!("`{}` is no topic filter", shown(&acl.topic));
            return Err(ImportError::at(source, None, what));
        }
    }

    let mut report = Report::default();
    let mut document = Document::default();
    let mut roles = Roles::default();
    let mut allows = Allows::of(&file);
    for role in &file.roles {
        if let Some(made) = map_role(role, &file, &mut allows, &mut report) {
            roles.made.insert(&role.rolename, made.name.clone());
            document.role.push(made);
        } else {
            // What it forbids stays forbidden to those who hold it.
            let denies = role.acls.iter().filter(|acl| !acl.allow);
            let denies = denies.filter_map(|acl| Some(map_deny(acl, acl.acltype.operation()?, &mut allows).1));
            roles.denies.insert(&role.rolename, denies.flatten().collect());
        }
    }
    roles.defaults = map_defaults(&file, &mut document, &mut report)?;
    for group in &file.groups {
        let (place, shown) = (Place::json(), format!("group {}", group.groupname));
        let held: Vec<_> =
            group.roles.iter().filter_map(|of| roles.made.get(&*of.rolename)).map(RoleName::as_str).collect();
        let target =
            format!("{} to each of its clients", if held.is_empty() { "nothing".to_owned() } else { held.join(", ") });
        let all = held.len() == group.roles.len();
        let outcome = if all { Outcome::Same } else { Outcome::Narrower };
        report.add(place, shown, outcome, Some(target), (!all).then(|| "some of its roles are left out".to_owned()));
    }
    let groups = Groups::of(&file);
    for client in &file.clients {
        if let Some(made) = map_client(client, &groups, &roles, options, &mut report) {
            document.user.push(made);
        }
    }
    let configuration = anonymous(&file, &roles, &document, &mut report);
    report.notes.extend(differences(&file));
    check_size(&document, source)?;
    Ok(Import { document, report, configuration })
}

fn check_once<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), ImportError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let what = format!("the {what} `{}` is there twice: keep one of the two", shown(name));
            return Err(ImportError::at(Source::DynamicSecurity, None, what));
        }
    }
    Ok(())
}

/// A name in an error: bounded.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// For people, from the two texts of mosquitto.
fn description(name: &str, text: &str) -> Option<String> {
    let parts: Vec<_> = [name, text].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { None } else { Some(parts.join(": ")) }
}

fn map_role(role: &Role, file: &File, allows: &mut Allows<'_>, report: &mut Report) -> Option<RoleDocument> {
    let heading = format!("role {}", role.rolename);
    let name: RoleName = match role.rolename.parse::<RoleName>() {
        Ok(name) if !name.is_built_in() => name,
        Ok(_) => {
            let why = "a role of this name comes with the broker and cannot be changed: its clients are without it; `portcullis user \
                       edit NAME --role admin` gives that one";
            report.left_out(Place::json(), heading, why);
            return None;
        }
        Err(error) => {
            let why = format!("{error}, and no name is changed: rename it in mosquitto, or make it by hand");
            report.left_out(Place::json(), heading, why);
            return None;
        }
    };
    report.add(Place::json(), heading, Outcome::Same, Some(format!("role {name}")), None);
    let mut permissions = Vec::new();
    let mut receives = Receives::of(role, file);
    for acl in &role.acls {
        let shown = format!("role {}: {} {} {}", role.rolename, acl.acltype.word(), acl.topic, verdict(acl.allow));
        let (outcome, rules, why) = map_acl(acl, role, file, allows, &mut receives);
        let target: Vec<_> = rules.iter().map(show).collect();
        let target = (!target.is_empty()).then(|| format!("role {name}: {}", target.join("; ")));
        report.add(Place::json(), shown, outcome, target, why);
        permissions.extend(rules);
    }
    Some(RoleDocument {
        name,
        version: Some(0),
        description: description(&role.textname, &role.textdescription),
        permissions: Some(permissions),
    })
}

fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// The filters of a role for which `publishClientReceive` says yes.
struct Receives<'a> {
    by_default: bool,
    allowed: Vec<&'a str>,
    /// Does the role allow to subscribe to anything?
    used: bool,
    pairs: usize,
}

impl<'a> Receives<'a> {
    fn of(role: &'a Role, file: &File) -> Self {
        let allows = role.acls.iter().filter(|acl| acl.allow && acl.acltype == Kind::PublishClientReceive);
        Self {
            by_default: file.defaults.publish_client_receive,
            allowed: allows.map(|acl| acl.topic.as_str()).collect(),
            used: role
                .acls
                .iter()
                .any(|acl| acl.allow && matches!(acl.acltype, Kind::SubscribeLiteral | Kind::SubscribePattern)),
            pairs: MOST_PAIRS,
        }
    }

    /// What of a filter may be received.
    fn within(&mut self, filter: &str) -> Vec<String> {
        if self.by_default {
            return vec![filter.to_owned()];
        }
        let mut found = Vec::new();
        for allowed in &self.allowed {
            if self.pairs == 0 {
                break;
            }
            self.pairs -= 1;
            found.extend(filter::both(filter, allowed));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

type Mapped = (Outcome, Vec<Permission>, Option<String>);

fn left_out(why: impl Into<String>) -> Mapped {
    (Outcome::LeftOut, Vec::new(), Some(why.into()))
}

fn map_acl(acl: &Acl, role: &Role, file: &File, allows: &mut Allows<'_>, receives: &mut Receives<'_>) -> Mapped {
    let Some(operation) = acl.acltype.operation() else {
        return if acl.allow {
            (Outcome::Same, Vec::new(), None)
        } else {
            left_out("UNSUBSCRIBE is never refused here")
        };
    };
    if !acl.allow {
        return map_deny(acl, operation, allows);
    }
    if acl.topic == "$CONTROL" || acl.topic.starts_with("$CONTROL/") {
        return left_out(CONTROL);
    }
    if filter::is_shared(&acl.topic) {
        return left_out(filter::SHARE);
    }
    let wild = acl.topic.contains(['+', '#']);
    let filters = match acl.acltype {
        Kind::PublishClientReceive if file.defaults.subscribe => vec![acl.topic.clone()],
        Kind::PublishClientReceive => {
            return if receives.used {
                (Outcome::Same, Vec::new(), Some("counted with what the role may subscribe to".to_owned()))
            } else {
                left_out(
                    "to receive is to subscribe here, which this role does not allow: an ACL of another role that does is not widened by it",
                )
            };
        }
        Kind::SubscribeLiteral if wild => {
            return left_out(format!(
                "it admits this filter alone, and `read` would admit narrower ones too: if they may be, give the role `read {}`",
                acl.topic
            ));
        }
        Kind::SubscribePattern if wild && !role.allow_wildcard_subs => {
            return left_out("the role admits no wildcards (`allowWildcardSubs`), and `read` on this filter would");
        }
        Kind::SubscribeLiteral | Kind::SubscribePattern => receives.within(&acl.topic),
        _ => vec![acl.topic.clone()],
    };
    if filters.is_empty() {
        return left_out("no `publishClientReceive` of the same role allows to receive any of it");
    }
    let narrower = filters != [acl.topic.as_str()];
    let mut rules = Vec::new();
    for filter in filters {
        match filter::allowed(&filter, Percent::Unsure) {
            Err(why) => return left_out(why),
            Ok(resource) => match without_dollar(operation, &filter) {
                Err(why) => return left_out(why),
                Ok((operation, _)) => rules.push(Permission::allow(Context::Mqtt, operation, resource)),
            },
        }
    }
    if narrower {
        let why = "what `publishClientReceive` of the same role allows of it; that of another role does not count";
        (Outcome::Narrower, rules, Some(why.to_owned()))
    } else {
        (Outcome::Same, rules, None)
    }
}

fn map_deny(acl: &Acl, operation: Operation, allows: &mut Allows<'_>) -> Mapped {
    if filter::is_shared(&acl.topic) && !filter::names_group(&acl.topic) {
        return left_out("no shared subscription is named so");
    }
    if filter::is_shared(&acl.topic) && operation == Operation::Write {
        return left_out("no topic of a message begins with `$share`: in mosquitto the ACL does nothing");
    }
    let (resource, wider) = filter::denied(&acl.topic, Percent::Unsure);
    let mut why: Vec<String> = wider.map(|why| format!("{why}: more is denied")).into_iter().collect();
    match acl.acltype {
        Kind::SubscribeLiteral if acl.topic.contains(['+', '#']) => why.push(
            "mosquitto refuses this very filter and no other; here none of its topics can be read: leave it out if that is too much".to_owned(),
        ),
        Kind::SubscribeLiteral | Kind::SubscribePattern => why.push(
            "mosquitto refuses such filters, but not these topics to a wider one; here they are withheld from that too".to_owned(),
        ),
        _ => {}
    }
    match allows.beaten(acl, operation) {
        Some(beaten) if beaten.is_empty() => {}
        Some(beaten) => why.push(format!("it beats every allow whatever the priorities: {}", beaten.join(", "))),
        None => {
            why.push("it beats every allow whatever the priorities; there are too many to look for those".to_owned());
        }
    }
    let rule = Permission::deny(Context::Mqtt, operation, resource);
    if why.is_empty() {
        (Outcome::Same, vec![rule], None)
    } else {
        (Outcome::Narrower, vec![rule], Some(why.join("; ")))
    }
}

/// The allow ACLs of all roles.
struct Allows<'a> {
    reads: Vec<(&'a Role, &'a Acl)>,
    writes: Vec<(&'a Role, &'a Acl)>,
    /// How many more may be looked at.
    looks: usize,
}

impl<'a> Allows<'a> {
    fn of(file: &'a File) -> Self {
        let of = |operation| {
            let all = file.roles.iter().flat_map(|role| role.acls.iter().map(move |acl| (role, acl)));
            all.filter(|(_, acl)| acl.allow && acl.acltype.operation() == Some(operation)).collect()
        };
        Self { reads: of(Operation::Read), writes: of(Operation::Write), looks: MOST_LOOKS }
    }

    /// Some of those that overlap a deny: in mosquitto they may come before it. `None`: that would take too long.
    fn beaten(&mut self, deny: &Acl, operation: Operation) -> Option<Vec<String>> {
        let mut found = Vec::new();
        for (role, acl) in if operation == Operation::Write { &self.writes } else { &self.reads } {
            self.looks = self.looks.checked_sub(1)?;
            if filter::both(&acl.topic, &deny.topic).is_some() {
                found.push(format!(
                    "`{} {}` of role `{}`",
                    acl.acltype.word(),
                    shown(&acl.topic),
                    shown(&role.rolename)
                ));
            }
            if found.len() == 3 {
                break;
            }
        }
        Some(found)
    }
}

/// What everybody may without an ACL: as a role.
fn map_defaults(file: &File, document: &mut Document, report: &mut Report) -> Result<Option<RoleName>, ImportError> {
    let Defaults { publish_client_send, publish_client_receive, subscribe, unsubscribe } = file.defaults;
    let mut name = RoleName::try_from(DEFAULTS.to_owned());
    let names: BTreeSet<_> = document.role.iter().map(|role| &role.name).collect();
    for number in 2.. {
        match &name {
            Ok(taken) if names.contains(taken) => {
                name = RoleName::try_from(format!("{DEFAULTS}-{number}"));
            }
            _ => break,
        }
    }
    let name = name.map_err(|error| ImportError::at(Source::DynamicSecurity, None, error.to_string()))?;
    let mut permissions = Vec::new();
    let dollar = "but for topics that begin with `$`";
    let mut say = |what: &str, rule: Option<Permission>, outcome, why: Option<&str>| {
        let target = rule.as_ref().map(|rule| format!("role {name}, for everybody: {}", show(rule)));
        report.add(Place::json(), format!("defaultACLAccess {what}"), outcome, target, why.map(str::to_owned));
        permissions.extend(rule);
    };
    let everything = |operation| Some(Permission::allow(Context::Mqtt, operation, "#"));
    if publish_client_send {
        say("publishClientSend allow", everything(Operation::Write), Outcome::Narrower, Some(dollar));
    } else {
        say("publishClientSend deny", None, Outcome::Same, None);
    }
    match (publish_client_receive, subscribe) {
        (true, true) => {
            say(
                "publishClientReceive and subscribe allow",
                everything(Operation::Read),
                Outcome::Narrower,
                Some(dollar),
            );
        }
        (true, false) => say(
            "publishClientReceive allow, subscribe deny",
            None,
            Outcome::Same,
            Some("what may be subscribed to may be received"),
        ),
        (false, true) => say(
            "publishClientReceive deny, subscribe allow",
            None,
            Outcome::Same,
            Some("what may be received may be subscribed to"),
        ),
        (false, false) => say("publishClientReceive and subscribe deny", None, Outcome::Same, None),
    }
    if !unsubscribe {
        say("unsubscribe deny", None, Outcome::LeftOut, Some("UNSUBSCRIBE is never refused here"));
    }
    if permissions.is_empty() {
        return Ok(None);
    }
    document.role.push(RoleDocument {
        name: name.clone(),
        version: Some(0),
        description: Some("what mosquitto's defaultACLAccess allows".to_owned()),
        permissions: Some(permissions),
    });
    Ok(Some(name))
}

/// What has become of the roles of the file.
#[derive(Default)]
struct Roles<'a> {
    made: BTreeMap<&'a str, RoleName>,
    /// What those deny that are left out.
    denies: BTreeMap<&'a str, Vec<Permission>>,
    /// What everybody has.
    defaults: Option<RoleName>,
}

/// The groups of each client, in the order of the file.
struct Groups<'a> {
    all: &'a [Group],
    named: BTreeMap<&'a str, usize>,
    /// Those that name it.
    of_client: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Groups<'a> {
    fn of(file: &'a File) -> Self {
        let mut of_client: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, group) in file.groups.iter().enumerate() {
            for client in &group.clients {
                of_client.entry(&client.username).or_default().push(at);
            }
        }
        let named = file.groups.iter().enumerate().map(|(at, group)| (group.groupname.as_str(), at)).collect();
        Self { all: &file.groups, named, of_client }
    }

    fn with(&self, client: &Client) -> impl Iterator<Item = &'a Group> {
        let by_client = client.groups.iter().filter_map(|of| self.named.get(of.groupname.as_str()));
        let by_group = self.of_client.get(client.username.as_str()).into_iter().flatten();
        let all = self.all;
        by_client.chain(by_group).copied().collect::<BTreeSet<_>>().into_iter().filter_map(move |at| all.get(at))
    }
}

fn map_client(
    client: &Client,
    groups: &Groups<'_>,
    roles: &Roles<'_>,
    options: Options,
    report: &mut Report,
) -> Option<UserDocument> {
    let heading = format!("client {}", client.username);
    let made = username(&client.username)
        .and_then(|name| Ok((name, client_id(client)?)))
        .and_then(|(name, client_id)| Ok((name, client_id, password(client, options)?)));
    let (name, client_id, (auth, hash)) = match made {
        Ok(made) => made,
        Err(why) => {
            report.left_out(Place::json(), heading, why);
            return None;
        }
    };
    let held = client.roles.iter().chain(groups.with(client).flat_map(|group| &group.roles));
    let mut missing = BTreeSet::new();
    let mut all: BTreeSet<RoleName> = roles.defaults.clone().into_iter().collect();
    let mut denies = Vec::new();
    for of in held {
        if let Some(role) = roles.made.get(&*of.rolename) {
            all.insert(role.clone());
        } else if missing.insert(shown(&of.rolename)) {
            denies.extend(roles.denies.get(&*of.rolename).into_iter().flatten().cloned());
        }
    }
    if all.len() > MAX_ROLES {
        report.left_out(Place::json(), heading, format!("it has more than the {MAX_ROLES} roles that are admitted"));
        return None;
    }
    let names: Vec<_> = all.iter().map(RoleName::as_str).collect();
    let mut target = format!("user {name}, {}", proof(auth));
    if client.disabled {
        target.push_str(", disabled");
    }
    if let Some(client_id) = &client_id {
        target = format!("{target}, client identifier {client_id}");
    }
    if !names.is_empty() {
        target = format!("{target}, roles {}", names.join(", "));
    }
    let why = (!missing.is_empty()).then(|| {
        let missing: Vec<_> = missing.into_iter().collect();
        let without = format!("without the roles that are left out: {}", missing.join(", "));
        if denies.is_empty() { without } else { format!("{without}; what they deny is denied to the user itself") }
    });
    let outcome = if why.is_some() { Outcome::Narrower } else { Outcome::Same };
    report.add(Place::json(), heading, outcome, Some(target), why);
    Some(UserDocument {
        description: description(&client.textname, &client.textdescription),
        enabled: Some(!client.disabled),
        roles: Some(all.into_iter().collect()),
        permissions: (!denies.is_empty()).then_some(denies),
        client_id,
        ..user(name, auth, hash)
    })
}

/// The client identifier that it is bound to, as a pattern.
fn client_id(client: &Client) -> Result<Option<String>, String> {
    let Some(id) = client.clientid.as_deref() else { return Ok(None) };
    if id.is_empty() {
        return Err("its `clientid` is empty: take it out, or name one".to_owned());
    }
    if id.contains('*') || id.contains("${") || id.contains('\0') || id.len() > 1_024 {
        // It would stand for others too.
        return Err(
            "its `clientid` cannot be said as a pattern here: choose another one without `*` and `${`".to_owned()
        );
    }
    Ok(Some(id.to_owned()))
}

/// How it proves who it is.
fn password(client: &Client, options: Options) -> Result<(Auth, Option<String>), String> {
    let hash = match (&client.encoded_password, &client.password, &client.salt, client.iterations) {
        (Some(encoded), ..) => passwords::read(encoded),
        (None, Some(hash), Some(salt), Some(iterations)) => pbkdf2(iterations, salt, hash),
        (None, None, None, _) if options.certificates => return Ok((Auth::Certificate, None)),
        (None, None, None, _) => {
            return Err("it has no password: if it logs in with a certificate, import with `--certificates`".to_owned());
        }
        _ => Err("of password, salt and iterations one is missing: set the password again"),
    };
    hash.map(|hash| (Auth::Password, Some(hash.as_str().to_owned()))).map_err(str::to_owned)
}

/// The permissions of the group for clients without a user name.
fn anonymous(file: &File, roles: &Roles<'_>, document: &Document, report: &mut Report) -> String {
    let Some(name) = file.anonymous_group.as_deref().filter(|name| !name.is_empty()) else { return String::new() };
    let heading = format!("anonymousGroup {name}");
    let Some(group) = file.groups.iter().find(|group| group.groupname == name) else {
        report.left_out(Place::json(), heading, "there is no such group");
        return String::new();
    };
    let made = group.roles.iter().filter_map(|of| roles.made.get(&*of.rolename));
    let denies = group.roles.iter().filter_map(|of| roles.denies.get(&*of.rolename)).flatten();
    let held: BTreeSet<_> = made.chain(&roles.defaults).map(RoleName::as_str).collect();
    let rules = document.role.iter().filter(|role| held.contains(role.name.as_str()));
    let rules: Vec<_> = rules.flat_map(|role| role.permissions.iter().flatten()).chain(denies).cloned().collect();
    let what = format!("broker.toml, user anonymous: {} of its roles", rules.len());
    report.add(Place::json(), heading, Outcome::Configuration, Some(what), None);
    if rules.iter().all(|rule| rule.effect == Effect::Deny) { String::new() } else { super::anonymous(&rules) }
}

fn differences(file: &File) -> Vec<String> {
    let mut notes = vec![
        "a deny wins over every allow here, and the order does not matter: priorities of roles, groups and ACLs are not taken over"
            .to_owned(),
        "keep `access.partial_subscription` at \"refuse\", its default: like mosquitto with this plugin, the broker then refuses a filter \
         that no rule covers"
            .to_owned(),
    ];
    let system = |acl: &Acl| acl.allow && acl.topic.starts_with("$SYS");
    if file.roles.iter().flat_map(|role| &role.acls).any(system) {
        notes.push("there are no `$SYS` topics in this version: the metrics endpoint has what they say".to_owned());
    }
    notes
}

//! The commands of the client registry.

use std::fmt::Write as _;

use portcullis::access::RoleName;
use portcullis::admin::api::{
    DenyTerms, Event, EventKind, GrantTerms, LockStatus, Missed, Page, ReplaceTerms, ReplacementView, RequestPage,
    RequestState, RequestView, StateFilter, UnlockTerms,
};
use serde::Serialize;
use serde_json::Value;

use super::args::{
    GrantArguments, RegistryCommand, ReplaceArguments, RequestArgument, RequestName, StateArgument, UnlockArguments,
};
use super::client::{Client, segment};
use super::output::{self, Fields, Table, printable};
use super::{Failure, Shell, token};

pub(crate) const BASE: &str = "/api/client-registry";

pub(crate) async fn run(command: RegistryCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        RegistryCommand::List { state } => list(state, client, shell).await,
        RegistryCommand::Show(request) => {
            let request: RequestView = client.get(&request_path(request, client).await?).await?;
            shell.print(&request, show)
        }
        RegistryCommand::Grant(arguments) => grant(arguments, client, shell).await,
        RegistryCommand::Deny { request, reason, comment } => {
            let path = format!("{}/deny", request_path(request, client).await?);
            let request: RequestView = client.post(&path, &DenyTerms { reason, comment }).await?;
            shell.print(&request, |request| format!("denied the request of {}\n", request.username))
        }
        RegistryCommand::Lock => {
            let status: LockStatus = client.post(&format!("{BASE}/lock"), &serde_json::json!({})).await?;
            shell.print(&status, show_status)
        }
        RegistryCommand::Replace(arguments) => replace(arguments, client, shell).await,
        RegistryCommand::Replacements => {
            let open: Page<ReplacementView> = client.get(&format!("{BASE}/replacements")).await?;
            shell.print(&open, |open| open.items.iter().map(show_replacement).collect::<Vec<_>>().join("\n"))
        }
        RegistryCommand::Token(command) => token::run(command, client, shell).await,
        RegistryCommand::Unlock(arguments) => unlock(arguments, client, shell).await,
        RegistryCommand::Watch => watch(client, shell).await,
        RegistryCommand::Status => {
            let status: LockStatus = client.get(&format!("{BASE}/status")).await?;
            shell.print(&status, show_status)
        }
    }
}

async fn request_path(RequestArgument { request }: RequestArgument, client: &Client) -> Result<String, Failure> {
    let id = match request {
        RequestName::Id(id) => id,
        RequestName::Username(name) => {
            let pending = requests(StateArgument::Pending, client).await?;
            let found = pending.into_iter().find(|request| request.username == name);
            let none = || format!("no request for `{name}` is pending; `registry list --state all` shows the others");
            found.ok_or_else(|| Failure::Usage(none()))?.id
        }
    };
    Ok(format!("{BASE}/requests/{}", segment(&id.to_string())?))
}

/// All that are in this state.
async fn requests(state: StateArgument, client: &Client) -> Result<Vec<RequestView>, Failure> {
    let filter = Option::<StateFilter>::from(state).map(|state| format!("state={}", word(&state))).unwrap_or_default();
    let mut requests = Vec::new();
    let mut query = filter.clone();
    loop {
        let page: RequestPage = client.get(&format!("{BASE}/requests?{query}")).await?;
        requests.extend(page.items);
        let Some(next) = page.next else { return Ok(requests) };
        query = format!("{filter}&after={next}");
    }
}

async fn list(state: StateArgument, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let requests = Page { items: requests(state, client).await? };
    let bold = shell.bold;
    shell.print(&requests, |requests| {
        let header = ["ID", "USERNAME", "PAIRING CODE", "STATE", "AUTH", "SOURCE", "LISTENER", "FIRST SEEN", "POLLS"];
        let mut table = Table::new(bold, &header);
        for request in &requests.items {
            table.row([
                request.id.to_string(),
                request.username.to_string(),
                request.pairing_code.to_string(),
                standing(request),
                output::auth(request.auth).to_owned(),
                request.source.to_string(),
                request.listener.clone(),
                output::time(request.first_seen),
                request.polls.to_string(),
            ]);
        }
        table.to_string()
    })
}

/// What the wire calls a value of an enum without fields.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// With how far two people have come, and whether it takes the place of somebody.
fn standing(request: &RequestView) -> String {
    let half = if request.approved.is_some() { ", 1 of 2" } else { "" };
    let replaces = if replaces(request) { ", replaces" } else { "" };
    format!("{}{half}{replaces}", request.state.as_str())
}

/// Would a grant end the credentials of a user?
fn replaces(request: &RequestView) -> bool {
    request.state == RequestState::Pending && request.replaces.is_some()
}

fn show(request: &RequestView) -> String {
    let mut fields = Fields::default();
    fields.add("id", request.id.to_string());
    fields.add("username", request.username.as_str());
    fields.add("state", standing(request));
    if let Some(first) = &request.approved {
        fields.add("approved by", first.by.as_str());
        fields.add("approved at", output::time(first.at));
        fields.add("would get roles", names(&first.grant.roles));
        for permission in &first.grant.permissions {
            fields.add("would get rule", output::permission(permission));
        }
        fields.add("would get prefix", first.grant.publish_prefix.clone().unwrap_or_default());
        fields.add("would end", output::time_or(first.grant.expires_at, ""));
        fields.add("comment", first.grant.comment.clone().unwrap_or_default());
    }
    fields.add("token", request.token.map(|token| token.to_string()).unwrap_or_default());
    fields.add("rule", request.rule.clone().unwrap_or_default());
    fields.add("replaces", request.replaces.map(|user| format!("the credentials of user {user}")).unwrap_or_default());
    let pairing =
        if request.pairing_shown { "" } else { " (the device could not be shown it: `grant` needs `--unpaired`)" };
    fields.add("pairing code", format!("{}{pairing}", request.pairing_code));
    fields.add("auth", output::auth(request.auth));
    fields.add("key", request.key.clone().unwrap_or_default());
    fields.add("source", format!("{} at listener {} ({})", request.source, request.listener, word(&request.door)));
    fields.add("first seen", output::time(request.first_seen));
    fields.add("last seen", output::time(request.last_seen));
    fields.add("polls", request.polls.to_string());
    fields.add("expires", output::time_or(request.expires_at, ""));
    match &request.state {
        RequestState::Granted { user, serial, by, at, comment } => {
            fields.add("user id", user.to_string());
            fields.add("certificate", serial.clone().unwrap_or_default());
            fields.add("decided by", by.as_str());
            fields.add("decided at", output::time(*at));
            fields.add("comment", comment.clone().unwrap_or_default());
        }
        RequestState::Denied { reason, by, at, forget_at, comment } => {
            fields.add("reason", reason.as_str());
            fields.add("decided by", by.as_str());
            fields.add("decided at", output::time(*at));
            fields.add("forgotten", output::time(*forget_at));
            fields.add("comment", comment.clone().unwrap_or_default());
        }
        RequestState::Pending => {}
    }
    fields.add("says of itself", request.context.as_ref().map(ToString::to_string).unwrap_or_default());
    fields.add("asks for roles", names(&request.requested_roles));
    let mut text = fields.to_string();
    if !request.requested_permissions.is_empty() {
        text.push_str("asks for permissions:\n");
        for permission in &request.requested_permissions {
            let _ = writeln!(text, "  {}", printable(&output::permission(permission)));
        }
    }
    text
}

pub(crate) fn names(roles: &[RoleName]) -> String {
    roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

async fn grant(arguments: GrantArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = format!("{}/grant", request_path(arguments.request, client).await?);
    let terms = GrantTerms {
        roles: arguments.roles,
        permissions: arguments.permissions,
        publish_prefix: arguments.publish_prefix,
        expires_at: arguments.expires,
        comment: arguments.comment,
        unpaired: arguments.unpaired,
    };
    let request: RequestView = client.post(&path, &terms).await?;
    shell.print(&request, |request| {
        if request.state == RequestState::Pending {
            return format!("approved: another person must grant the same before {} is a user\n", request.username);
        }
        if request.replaces.is_some() {
            let name = &request.username;
            return format!("granted: {name} has this proof now, and its roles and rules as before; its old credentials are revoked\n");
        }
        let mut text = format!("granted: {} is a user now\n", request.username);
        if terms.roles.is_empty() && terms.permissions.is_empty() {
            text.push_str("it may do nothing until a role or a permission says so\n");
        }
        text
    })
}

async fn replace(arguments: ReplaceArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = format!("{BASE}/replacements/{}", segment(arguments.username.as_str())?);
    if arguments.cancel {
        client.delete(&path).await?;
        let done = serde_json::json!({ "username": arguments.username, "open": false });
        return shell.print(&done, |_| format!("the name {} is open no more\n", arguments.username));
    }
    let terms =
        ReplaceTerms { duration: arguments.duration.map(|duration| duration.as_secs()), source: arguments.source };
    let open: ReplacementView = client.post(&path, &terms).await?;
    shell.print(&open, show_replacement)
}

fn show_replacement(open: &ReplacementView) -> String {
    let mut fields = Fields::default();
    fields.add("username", open.username.as_str());
    fields.add("user id", open.user.to_string());
    fields.add("open until", output::time(open.until));
    fields.add("source", open.source.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    fields.add("opened by", open.by.as_str());
    fields.add("opened at", output::time(open.at));
    fields.add("request", open.request.map(|id| id.to_string()).unwrap_or_default());
    fields.to_string()
}

async fn unlock(arguments: UnlockArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let terms = UnlockTerms {
        duration: arguments.duration.map(|duration| duration.as_secs()),
        listener: arguments.listener,
        source: arguments.source,
        username: arguments.username,
        count: arguments.count,
        implicit: arguments.implicit,
    };
    let status: LockStatus = client.post(&format!("{BASE}/unlock"), &terms).await?;
    shell.print(&status, show_status)
}

fn show_status(status: &LockStatus) -> String {
    let mut fields = Fields::default();
    fields.add("registry", if status.locked { "locked" } else { "open to new requests" });
    fields.add("until", output::time_or(status.until, ""));
    if let Some(terms) = &status.terms {
        fields.add("listener", terms.listener.clone().unwrap_or_default());
        fields.add("source", terms.source.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        fields.add("username", terms.username.clone().map(String::from).unwrap_or_default());
        fields.add(
            "implicit",
            if terms.implicit { "a CONNECT with an unknown user name and a password too" } else { "" },
        );
    }
    fields.add("requests left", status.remaining.map(|left| left.to_string()).unwrap_or_default());
    fields.add("pending", format!("{} of at most {}", status.pending, status.max_pending));
    fields.to_string()
}

/// Until the broker ends the stream, or the process is interrupted.
async fn watch(client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    client
        .events(&format!("{BASE}/events"), |data| {
            let unknown = |error| Failure::answer(format!("an event is not understood ({error})"));
            let line = if let Ok(missed) = serde_json::from_str::<Missed>(data) {
                told(shell, &missed, |missed| format!("{} were missed", output::count(missed.missed, "event")))
            } else {
                told(shell, &serde_json::from_str::<Event>(data).map_err(unknown)?, |event| {
                    show_event(event, shell.program)
                })
            }?;
            writeln!(shell.out, "{line}")?;
            Ok(shell.out.flush()?)
        })
        .await
}

fn told<T: Serialize>(shell: &Shell<'_>, event: &T, text: impl FnOnce(&T) -> String) -> Result<String, Failure> {
    if shell.json {
        output::json(event, false).map_err(|error| Failure::answer(error.to_string()))
    } else {
        Ok(printable(&text(event)))
    }
}

fn show_event(event: &Event, program: &str) -> String {
    let mut line = format!("{}  {:<9}", output::time(event.at), word(&event.event));
    if let Some(request) = &event.request {
        let _ = write!(line, "  {}", request.username);
        if event.event == EventKind::Requested {
            let _ = write!(line, "  {}", request.pairing_code);
            let _ = write!(line, "  from {} at {}", request.source, request.listener);
            if replaces(request) {
                let _ = write!(line, "  replaces the credentials of {}", request.username);
            }
            let _ = write!(line, "  {program} registry grant {}", request.id);
        }
        if let Some(first) = request.approved.as_ref().filter(|_| event.event == EventKind::Approved) {
            let _ = write!(line, "  by {}", first.by);
            let _ = write!(line, "  roles: {}", names(&first.grant.roles));
            let _ = write!(line, "  {program} registry show {}", request.id);
        }
        match &request.state {
            RequestState::Granted { by, .. } => {
                let _ = write!(line, "  by {by}");
            }
            RequestState::Denied { by, reason, .. } => {
                let _ = write!(line, "  by {by}  because: {reason}");
            }
            RequestState::Pending => {}
        }
    }
    line.trim_end().to_owned()
}

//! The commands of the client registry.

use portcullis::admin::api::{
    Deny, EventKind, Grant, Page, RegistryEvent, RegistryStatus, RequestState, RequestView, Unlock,
};

use super::args::{GrantArguments, RegistryCommand, StateArgument, UnlockArguments};
use super::client::{Client, segment};
use super::output::{self, Fields, Table, printable};
use super::{Failure, Shell};

const BASE: &str = "/api/client-registry";

pub(crate) async fn run(command: RegistryCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        RegistryCommand::List { state } => list(state, client, shell).await,
        RegistryCommand::Show(request) => {
            let request: RequestView = client.get(&request_path(&request.id)?).await?;
            shell.print(&request, show)
        }
        RegistryCommand::Grant(arguments) => grant(arguments, client, shell).await,
        RegistryCommand::Deny { request, reason } => {
            let path = format!("{}/deny", request_path(&request.id)?);
            let request: RequestView = client.post(&path, &Deny { reason }).await?;
            shell.print(&request, |request| format!("denied the request of {}\n", request.username))
        }
        RegistryCommand::Lock => {
            let status: RegistryStatus = client.post(&format!("{BASE}/lock"), &serde_json::json!({})).await?;
            shell.print(&status, show_status)
        }
        RegistryCommand::Unlock(arguments) => unlock(arguments, client, shell).await,
        RegistryCommand::Watch => watch(client, shell).await,
        RegistryCommand::Status => {
            let status: RegistryStatus = client.get(&format!("{BASE}/status")).await?;
            shell.print(&status, show_status)
        }
    }
}

fn request_path(id: &str) -> Result<String, Failure> {
    Ok(format!("{BASE}/requests/{}", segment(id)?))
}

async fn list(state: StateArgument, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let state = Option::<RequestState>::from(state);
    let query = state.map(|state| format!("?state={}", state_name(state))).unwrap_or_default();
    let requests: Page<RequestView> = client.get(&format!("{BASE}/requests{query}")).await?;
    let bold = shell.bold;
    shell.print(&requests, |requests| {
        let header = ["ID", "USERNAME", "PAIRING CODE", "STATE", "AUTH", "SOURCE", "LISTENER", "FIRST SEEN", "POLLS"];
        let mut table = Table::new(bold, &header);
        for request in &requests.items {
            table.row([
                request.id.clone(),
                request.username.to_string(),
                request.pairing_code.clone(),
                state_name(request.state).to_owned(),
                output::auth(request.auth).to_owned(),
                request.source.to_string(),
                request.listener.clone(),
                output::time(request.first_seen_at),
                request.polls.to_string(),
            ]);
        }
        table.to_string()
    })
}

fn state_name(state: RequestState) -> &'static str {
    match state {
        RequestState::Pending => "pending",
        RequestState::Granted => "granted",
        RequestState::Denied => "denied",
        RequestState::Expired => "expired",
    }
}

fn show(request: &RequestView) -> String {
    let mut fields = Fields::default();
    fields.add("id", request.id.as_str());
    fields.add("username", request.username.as_str());
    fields.add("state", state_name(request.state));
    let pairing = if request.pairable { "" } else { " (the device could not be shown it: `grant` needs `--unpaired`)" };
    fields.add("pairing code", format!("{}{pairing}", request.pairing_code));
    fields.add("auth", output::auth(request.auth));
    fields.add("source", format!("{} at listener {} ({})", request.source, request.listener, request.door));
    fields.add("first seen", output::time(request.first_seen_at));
    fields.add("last seen", output::time(request.last_seen_at));
    fields.add("polls", request.polls.to_string());
    if request.state == RequestState::Pending {
        fields.add("expires", output::time_or(request.expires_at, ""));
    }
    fields.add("decided by", request.decided_by.clone().unwrap_or_default());
    fields.add("decided at", output::time_or(request.decided_at, ""));
    fields.add("reason", request.reason.clone().unwrap_or_default());
    if !request.context.is_null() {
        fields.add("says of itself", request.context.to_string());
    }
    fields
        .add("asks for roles", request.requested_roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let mut text = fields.to_string();
    if !request.requested_permissions.is_empty() {
        text.push_str("asks for permissions:\n");
        for permission in &request.requested_permissions {
            text.push_str(&format!("  {}\n", printable(&output::permission(permission))));
        }
    }
    text
}

async fn grant(arguments: GrantArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = format!("{}/grant", request_path(&arguments.request.id)?);
    let terms = Grant {
        roles: arguments.roles,
        permissions: arguments.permissions,
        publish_prefix: arguments.publish_prefix,
        expires_at: arguments.expires,
        comment: arguments.comment,
        unpaired: arguments.unpaired,
    };
    let request: RequestView = client.post(&path, &terms).await?;
    shell.print(&request, |request| {
        let mut text = format!("granted: {} is a user now\n", request.username);
        if terms.roles.is_empty() && terms.permissions.is_empty() {
            text.push_str("it may do nothing until a role or a permission says so\n");
        }
        text
    })
}

async fn unlock(arguments: UnlockArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let terms = Unlock {
        for_seconds: arguments.duration.map(|duration| duration.as_secs()),
        listener: arguments.listener,
        source: arguments.source,
        username: arguments.username,
        count: arguments.count,
    };
    let status: RegistryStatus = client.post(&format!("{BASE}/unlock"), &terms).await?;
    shell.print(&status, show_status)
}

fn show_status(status: &RegistryStatus) -> String {
    let mut fields = Fields::default();
    fields.add("registry", if status.locked { "locked" } else { "open to new requests" });
    fields.add("until", output::time_or(status.unlocked_until, ""));
    fields.add("opened by", status.unlocked_by.clone().unwrap_or_default());
    if let Some(terms) = &status.terms {
        fields.add("listener", terms.listener.clone().unwrap_or_default());
        fields.add("source", terms.source.join(", "));
        fields.add("username", terms.username.clone().unwrap_or_default());
        fields.add("requests left", terms.count.map(|count| count.to_string()).unwrap_or_default());
    }
    fields.add("pending", format!("{} of at most {}", status.pending, status.max_pending));
    fields.to_string()
}

/// Until the broker ends the stream, or the process is interrupted.
async fn watch(client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    client
        .events(&format!("{BASE}/events"), |data| {
            let event: RegistryEvent = serde_json::from_str(data)
                .map_err(|error| Failure::answer(format!("an event is not understood ({error})")))?;
            if shell.json {
                let json = output::json(&event, false).map_err(|error| Failure::answer(error.to_string()))?;
                writeln!(shell.out, "{json}")?;
            } else {
                writeln!(shell.out, "{}", printable(&show_event(&event)))?;
            }
            Ok(shell.out.flush()?)
        })
        .await
}

fn show_event(event: &RegistryEvent) -> String {
    let mut line = format!("{}  {:<9}", output::time(event.at), event.event.as_str());
    if let Some(request) = &event.request {
        let add = |line: &mut String, text: &str| {
            line.push_str("  ");
            line.push_str(text);
        };
        add(&mut line, request.username.as_str());
        match event.event {
            EventKind::Requested => {
                add(&mut line, &request.pairing_code);
                add(&mut line, &format!("from {} at {}", request.source, request.listener));
                add(&mut line, &format!("portcullis registry grant {}", request.id));
            }
            EventKind::Granted => add(&mut line, &by("by", request.decided_by.as_deref())),
            EventKind::Denied => {
                add(&mut line, &by("by", request.decided_by.as_deref()));
                add(&mut line, &by("because:", request.reason.as_deref()));
            }
            _ => {}
        }
    }
    if let Some(status) = &event.status {
        if let Some(until) = status.unlocked_until.filter(|_| event.event == EventKind::Unlocked) {
            line.push_str(&format!("  until {}", output::time(until)));
        }
        line.push_str(&by("  by", status.unlocked_by.as_deref().filter(|_| event.event == EventKind::Unlocked)));
    }
    line.trim_end().to_owned()
}

fn by(word: &str, who: Option<&str>) -> String {
    who.map(|who| format!("{word} {who}")).unwrap_or_default()
}

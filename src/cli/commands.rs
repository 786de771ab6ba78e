//! Users, roles and `explain`: each command is one or two requests and the way their answer looks.

use portcullis::access::{Auth, Permission, Role, Username};
use portcullis::admin::api::{
    Action, DecidingRule, Explain, Explanation, NewPassword, NewRole, NewUser, Page, UserView, VersionRead,
};
use serde::Serialize;

use super::args::{ExplainArguments, Remote, RoleAdd, RoleCommand, UserAdd, UserCommand, UserPasswd};
use super::client::{Client, segment};
use super::output::{self, Fields, Table, printable};
use super::{Failure, Shell, apply, audit, ca, edit, import, registry};

/// Does what the arguments say.
pub(crate) async fn run(command: Remote, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        Remote::User(command) => user(command, client, shell).await,
        Remote::Role(command) => role(command, client, shell).await,
        Remote::Registry(command) => registry::run(command, client, shell).await,
        Remote::Ca(command) => ca::run(command, client, shell).await,
        Remote::Audit(command) => audit::run(&command, client, shell).await,
        Remote::Explain(arguments) => explain(arguments, client, shell).await,
        Remote::WhoCan(arguments) => apply::who_can(arguments, client, shell).await,
        Remote::Apply(arguments) => apply::apply(arguments, client, shell).await,
        Remote::Import(arguments) => import::import(arguments, client, shell).await,
        Remote::History { limit } => apply::history(limit, client, shell).await,
        Remote::Rollback { version, dry_run } => apply::rollback(version, dry_run, client, shell).await,
    }
}

impl Shell<'_> {
    /// The answer as JSON, or as `text` draws it.
    pub(crate) fn print<T: Serialize>(&mut self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.json {
            let json = output::json(answer, true).map_err(|error| Failure::Answer(error.to_string()))?;
            writeln!(self.out, "{json}")?;
        } else {
            write!(self.out, "{}", text(answer))?;
        }
        Ok(())
    }
}

async fn user(command: UserCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        UserCommand::Add(arguments) => user_add(*arguments, client, shell).await,
        UserCommand::List => {
            let users: Page<UserView> = client.get("/api/users").await?;
            let bold = shell.bold;
            shell.print(&users, |users| user_table(users, bold))
        }
        UserCommand::Show(name) => {
            let user: UserView = client.get(&user_path(&name.username)?).await?;
            shell.print(&user, show_user)
        }
        UserCommand::Edit(arguments) => edit::user(*arguments, client, shell).await,
        UserCommand::Pin(arguments) => edit::pin(arguments, client, shell).await,
        UserCommand::Revoke(arguments) => edit::revoke(arguments, client, shell).await,
        UserCommand::Passwd(arguments) => user_passwd(arguments, client, shell).await,
        UserCommand::Enable(name) => switch(&name.username, "enable", client, shell).await,
        UserCommand::Disable(name) => switch(&name.username, "disable", client, shell).await,
        UserCommand::Delete(name) => {
            let path = user_path(&name.username)?;
            let user: UserView = client.get(&path).await?;
            client.delete(&format!("{path}?version={}", user.version)).await?;
            shell.print(&user, |user| format!("deleted the user {}\n", user.username))
        }
    }
}

async fn user_add(arguments: UserAdd, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let auth = Auth::from(arguments.auth);
    let password = match auth {
        Auth::Certificate | Auth::None if arguments.password_stdin => {
            return Err(Failure::Usage(
                "a user with `--auth certificate` has no password: remove `--password-stdin`".to_owned(),
            ));
        }
        Auth::Certificate | Auth::None => None,
        _ => Some((shell.password)(&format!("Password for {}", arguments.username), arguments.password_stdin)?),
    };
    let user = NewUser {
        username: arguments.username,
        description: arguments.description,
        enabled: !arguments.disabled,
        auth,
        password,
        roles: arguments.roles,
        permissions: arguments.permissions,
        publish_prefix: arguments.publish_prefix,
        client_id: arguments.client_id,
        quota: arguments.quota,
        expires_at: arguments.expires,
    };
    let user: UserView = client.post("/api/users", &user).await?;
    shell.print(&user, |user| {
        let mut text = format!("added the user {}\n", user.username);
        if user.roles.is_empty() && user.permissions.is_empty() {
            text.push_str("it may do nothing until a role or a permission says so\n");
        }
        text
    })
}

async fn user_passwd(arguments: UserPasswd, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = user_path(&arguments.username)?;
    // Before anybody types a password: is there such a user?
    let user: UserView = client.get(&path).await?;
    let password = (shell.password)(&format!("New password for {}", arguments.username), arguments.password_stdin)?;
    let body = NewPassword { password, version: Some(user.version) };
    let user: UserView = client.put(&format!("{path}/password"), &body).await?;
    shell.print(&user, |user| format!("changed the password of {}; its sessions were ended\n", user.username))
}

async fn switch(username: &Username, action: &str, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = user_path(username)?;
    let user: UserView = client.post(&format!("{path}/{action}"), &VersionRead::default()).await?;
    shell.print(&user, |user| {
        if user.enabled {
            format!("enabled the user {}\n", user.username)
        } else {
            format!("disabled the user {}; its sessions were ended\n", user.username)
        }
    })
}

pub(crate) fn user_path(username: &Username) -> Result<String, Failure> {
    Ok(format!("/api/users/{}", segment(username.as_str())?))
}

fn user_table(users: &Page<UserView>, bold: bool) -> String {
    let mut table = Table::new(bold, &["USERNAME", "STATE", "AUTH", "ROLES", "RULES", "OWNER", "LAST SEEN"]);
    for user in &users.items {
        table.row([
            user.username.to_string(),
            if user.enabled { "enabled" } else { "disabled" }.to_owned(),
            output::auth(user.auth).to_owned(),
            user.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            user.permissions.len().to_string(),
            output::managed_by(user.managed_by).to_owned(),
            output::time_or(user.last_seen_at, ""),
        ]);
    }
    table.to_string()
}

fn show_user(user: &UserView) -> String {
    let mut fields = Fields::default();
    fields.add("username", user.username.as_str());
    fields.add("id", user.id.to_string());
    fields.add("description", user.description.as_str());
    fields.add("state", if user.enabled { "enabled" } else { "disabled" });
    let password = match (user.has_password, user.password_imported) {
        (true, true) => ", has an imported password and has not logged in with it yet",
        (true, false) => ", has a password",
        (false, _) => "",
    };
    fields.add("auth", format!("{}{password}", output::auth(user.auth)));
    fields.add("roles", user.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    fields.add("publish prefix", user.publish_prefix.clone().unwrap_or_default());
    fields.add("client id", user.client_id.clone().unwrap_or_default());
    fields.add("quota", user.quota.as_ref().map(output::quota).unwrap_or_default());
    fields.add("expires", output::time_or(user.expires_at, ""));
    fields.add("owner", output::managed_by(user.managed_by));
    fields.add("created", output::time(user.created_at));
    let from = user.last_seen_from.map(|from| format!(" from {from}")).unwrap_or_default();
    fields.add("last seen", output::time_or(user.last_seen_at, "") + &from);
    fields.add("version", user.version.to_string());
    let mut text = fields.to_string() + &rules(&user.permissions);
    if !user.certificates.is_empty() {
        text.push_str("certificates:\n");
        for certificate in &user.certificates {
            let mut state = match (certificate.revoked_at, certificate.reason) {
                (Some(at), Some(reason)) => format!("revoked {} ({reason})", output::time(at)),
                (Some(at), None) => format!("revoked {}", output::time(at)),
                (None, _) => format!("until {}", output::time(certificate.not_after)),
            };
            if let Some(comment) = &certificate.comment {
                state = format!("{state}: {comment}");
            }
            text.push_str(&printable(&format!("  serial {}, {state}", certificate.serial)));
            text.push('\n');
        }
    }
    text
}

fn rules(permissions: &[Permission]) -> String {
    if permissions.is_empty() {
        return String::new();
    }
    // The numbers are those of `--drop-permission`.
    let lines = (1..)
        .zip(permissions)
        .map(|(number, permission)| format!("  {number}. {}\n", printable(&output::permission(permission))));
    std::iter::once("permissions:\n".to_owned()).chain(lines).collect()
}

async fn role(command: RoleCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        RoleCommand::Add(RoleAdd { name, description, permissions }) => {
            let role: Role = client.post("/api/roles", &NewRole { name, description, permissions }).await?;
            shell.print(&role, |role| {
                let rules = output::count(role.permissions.len() as u64, "permission");
                format!("added the role {} with {rules}\n", role.name)
            })
        }
        RoleCommand::List => {
            let roles: Page<Role> = client.get("/api/roles").await?;
            let bold = shell.bold;
            shell.print(&roles, |roles| {
                let mut table = Table::new(bold, &["ROLE", "PERMISSIONS", "OWNER", "DESCRIPTION"]);
                for role in &roles.items {
                    table.row([
                        role.name.to_string(),
                        role.permissions.len().to_string(),
                        output::managed_by(role.managed_by).to_owned(),
                        role.description.clone(),
                    ]);
                }
                table.to_string()
            })
        }
        RoleCommand::Show(role) => {
            let role: Role = client.get(&format!("/api/roles/{}", segment(role.name.as_str())?)).await?;
            shell.print(&role, |role| {
                let mut fields = Fields::default();
                fields.add("role", role.name.as_str());
                fields.add("description", role.description.as_str());
                fields.add("owner", output::managed_by(role.managed_by));
                fields.add("version", role.version.to_string());
                fields.to_string() + &rules(&role.permissions)
            })
        }
        RoleCommand::Edit(arguments) => edit::role(arguments, client, shell).await,
        RoleCommand::Delete(role) => {
            let path = format!("/api/roles/{}", segment(role.name.as_str())?);
            let role: Role = client.get(&path).await?;
            client.delete(&format!("{path}?version={}", role.version)).await?;
            shell.print(&role, |role| format!("deleted the role {}\n", role.name))
        }
    }
}

async fn explain(arguments: ExplainArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let action = Action::from(arguments.action);
    let (method, topic) = match (action, arguments.path) {
        (Action::Http, Some(path)) => (Some(arguments.topic), path),
        (_, None) => (None, arguments.topic),
        (_, Some(_)) => return Err(Failure::Usage("only `http` takes a path after the method".to_owned())),
    };
    let with = arguments.with.as_deref().map(apply::read).transpose()?;
    let question = Explain {
        username: arguments.username,
        action,
        topic,
        method,
        with,
        client_id: arguments.client_id,
        qos: arguments.qos,
        retain: arguments.retain,
    };
    let answer: Explanation = client.post("/api/explain", &question).await?;
    shell.print(&answer, |answer| show_explanation(answer, &question))?;
    if answer.allowed { Ok(()) } else { Err(Failure::NotAllowed) }
}

fn show_explanation(answer: &Explanation, question: &Explain) -> String {
    let mut text = format!("{}: {}\n", if answer.allowed { "allowed" } else { "refused" }, answer.reason);
    let mut fields = Fields::default();
    if answer.topic != question.topic {
        fields.add("topic", answer.topic.as_str());
    }
    if answer.allowed {
        fields.add("highest QoS", answer.max_qos.map(|qos| qos.to_string()).unwrap_or_default());
        let retain = answer.retain.map(|retain| if retain { "may be set" } else { "may not be set" });
        fields.add("retain", retain.unwrap_or_default());
        fields.add("delivery", if answer.checked_at_delivery { "each message is checked" } else { "" });
    }
    text = format!("{}\n{fields}", printable(text.trim_end()));
    for DecidingRule { role, permission } in &answer.rules {
        let origin = role.as_ref().map_or_else(|| "own rule".to_owned(), |role| format!("role {role}"));
        text.push_str(&printable(&format!("{origin}: {}", output::permission(permission))));
        text.push('\n');
    }
    text
}

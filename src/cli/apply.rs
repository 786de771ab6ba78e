//! `apply` and `who-can`, and the files that they read: sets of changes as TOML or JSON.

use std::io::Read;
use std::path::Path;

use portcullis::admin::api::{
    Action, Applied, Document, HistoryEntry, ObjectAction, ObjectKind, Page, RollbackTerms, SessionEffect, Standing,
    WhoCan,
};
use serde::Deserialize;

use super::args::{ApplyArguments, WhoCanArguments};
use super::client::{Client, segment};
use super::output::{self, Table, count, printable};
use super::{Failure, Shell};

/// Changes of one commit that a list names.
const SHOWN: usize = 5;

/// Makes all changes of a file, or none; or says what they would do.
pub(crate) async fn apply(arguments: ApplyArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let document = read(&arguments.file)?;
    let path = if arguments.dry_run { "/api/apply?dry_run=true" } else { "/api/apply" };
    let applied: Applied = client.post(path, &document).await?;
    shell.print(&applied, show_applied)
}

/// Lists the commits on record.
pub(crate) async fn history(limit: usize, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let history: Page<HistoryEntry> = client.get(&format!("/api/history?limit={limit}")).await?;
    let bold = shell.bold;
    shell.print(&history, |history| {
        let mut table = Table::new(bold, &["VERSION", "TIME", "BY", "CHANGES"]);
        for entry in &history.items {
            let changes = entry.changes.iter().map(|change| {
                let sign = match change.action {
                    ObjectAction::Created => '+',
                    ObjectAction::Changed => '~',
                    ObjectAction::Deleted => '-',
                };
                format!("{sign}{} {}", kind(change.kind), change.name)
            });
            let mut changes: Vec<_> = changes.collect();
            if changes.len() > SHOWN {
                let more = changes.split_off(SHOWN).len();
                changes.push(format!("and {more} more"));
            }
            table.row([entry.version.to_string(), output::time(entry.at), entry.actor.clone(), changes.join(", ")]);
        }
        table.to_string()
    })
}

/// Goes back to a version, or says what that would do.
pub(crate) async fn rollback(
    version: u64,
    dry_run: bool,
    client: &Client,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let path = if dry_run { "/api/rollback?dry_run=true" } else { "/api/rollback" };
    let applied: Applied = client.post(path, &RollbackTerms { version }).await?;
    shell.print(&applied, show_applied)
}

fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::User => "user",
        ObjectKind::Role => "role",
    }
}

/// A set of changes from a file, or from standard input where it is `-`.
pub(crate) fn read(path: &Path) -> Result<Document, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    parse(&text).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))
}

/// JSON where it begins like it, else TOML. TOML's own times are taken for what they mean.
fn parse(text: &str) -> Result<Document, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| error.to_string());
    }
    match toml::from_str::<Document>(text) {
        Ok(document) => Ok(document),
        // The error knows line and column, unless it is only about the times.
        Err(error) => toml::from_str::<toml::Value>(text).ok().filter(has_time).map_or_else(
            || Err(error.to_string()),
            |value| Document::deserialize(with_times_as_text(value)).map_err(|error| error.to_string()),
        ),
    }
}

fn has_time(value: &toml::Value) -> bool {
    match value {
        toml::Value::Datetime(_) => true,
        toml::Value::Array(values) => values.iter().any(has_time),
        toml::Value::Table(table) => table.values().any(has_time),
        _ => false,
    }
}

fn with_times_as_text(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Datetime(time) => toml::Value::String(time.to_string()),
        toml::Value::Array(values) => toml::Value::Array(values.into_iter().map(with_times_as_text).collect()),
        toml::Value::Table(table) => {
            toml::Value::Table(table.into_iter().map(|(key, value)| (key, with_times_as_text(value))).collect())
        }
        other => other,
    }
}

/// What was done, or would be.
pub(crate) fn show_applied(applied: &Applied) -> String {
    let mut lines = Vec::new();
    for change in &applied.changes {
        let action = match (change.action, applied.dry_run) {
            (ObjectAction::Created, false) => "created",
            (ObjectAction::Created, true) => "would create",
            (ObjectAction::Changed, false) => "changed",
            (ObjectAction::Changed, true) => "would change",
            (ObjectAction::Deleted, false) => "deleted",
            (ObjectAction::Deleted, true) => "would delete",
        };
        lines.push(format!("{action} the {} {}", kind(change.kind), change.name));
    }
    for left in &applied.not_restored {
        lines.push(format!("not restored: the {} {}: {}", kind(left.kind), left.name, left.reason));
    }
    if applied.changes.is_empty() {
        lines.push("nothing to do: all is so already".to_owned());
    }
    if applied.dry_run {
        let sessions = count(applied.sessions.len() as u64, "session");
        lines.push(format!("{sessions} would lose or gain something"));
        lines.extend(applied.sessions.iter().flat_map(session));
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn session(effect: &SessionEffect) -> Vec<String> {
    let absent = if effect.connected { "" } else { ", not connected" };
    let mut lines = vec![format!("{} as {}{absent}", effect.username, effect.client_id)];
    lines.extend(effect.ends.iter().map(|why| format!("  ends: {why}")));
    for subscription in &effect.subscriptions {
        let (before, after) = (standing(subscription.before), standing(subscription.after));
        lines.push(format!("  subscription {}: {before} -> {after}", subscription.filter));
    }
    lines.extend(effect.rules_removed.iter().map(|rule| format!("  - {}", output::permission(rule))));
    lines.extend(effect.rules_added.iter().map(|rule| format!("  + {}", output::permission(rule))));
    if effect.terms_change {
        lines.push("  its quota or its publish prefix changes".to_owned());
    }
    lines
}

fn standing(standing: Standing) -> String {
    match standing {
        Standing::All { max_qos } => format!("all, QoS up to {max_qos}"),
        Standing::Some => "what may be read of it".to_owned(),
        Standing::Nothing => "withheld".to_owned(),
    }
}

/// Lists those who may, and the rules that say so.
pub(crate) async fn who_can(arguments: WhoCanArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let action = match Action::from(arguments.action) {
        Action::Publish => "publish",
        _ => "receive",
    };
    let limit = arguments.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    // Dots alone are no way to another place here, as they would be in a path.
    let topic = if matches!(&*arguments.topic, "." | "..") { arguments.topic } else { segment(&arguments.topic)? };
    let answer: WhoCan = client.get(&format!("/api/who-can?action={action}&topic={topic}{limit}")).await?;
    let bold = shell.bold;
    shell.print(&answer, |answer| {
        if answer.count == 0 {
            return format!("nobody may {action} {}\n", printable(&answer.topic));
        }
        let mut table = Table::new(bold, &["USERNAME", "CLIENT ID", "QOS", "RETAIN", "RULE"]);
        for able in &answer.users {
            let retain = able.retain.map(|retain| if retain { "yes" } else { "no" });
            let rules = able.rules.iter().map(|rule| {
                let origin = rule.role.as_ref().map_or_else(|| "own".to_owned(), |role| format!("role {role}"));
                format!("{origin}: {}", output::permission(&rule.permission))
            });
            table.row([
                able.username.to_string(),
                able.client_id.clone().unwrap_or_default(),
                able.max_qos.to_string(),
                retain.unwrap_or_default().to_owned(),
                rules.collect::<Vec<_>>().join("; "),
            ]);
        }
        let more = answer.count - answer.users.len().min(answer.count);
        let more = if more > 0 { format!("and {}\n", count(more as u64, "other user")) } else { String::new() };
        table.to_string() + &more
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_changes_is_read_as_toml_or_json_and_its_times_as_either() {
        let toml = "[[role]]\nname = \"line\"\npermissions = [{ context = \"mqtt\", operation = \"read\", resource = \"a\", not_after = 2027-01-31T12:00:00Z }]\n[[user]]\nusername = \"pump\"\nexpires_at = \"never\"\n[[delete]]\nrole = \"old\"\n";
        let json = r#"{"roles":[{"name":"line","permissions":[{"context":"mqtt","operation":"read","resource":"a","not_after":"2027-01-31T12:00:00Z"}]}],"users":[{"username":"pump","expires_at":"never"}],"delete":[{"role":"old"}]}"#;
        assert_eq!(parse(toml).unwrap(), parse(json).unwrap());
        assert_eq!(parse("").unwrap(), Document::default());
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        for (text, expected) in [
            ("[[role]]\nname = \"line\"\npermission = []\n", "line 3, column 1"),
            ("[[user]]\nusername = \"pump\"\npassword = \"x\"\n", "line 3, column 1"),
            ("{\"role\": [{\"nam\": 1}]}", "line 1 column"),
            ("[[user]]\nusername = \"pump\"\nexpires_at = \"soon\"\n", "or \"never\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}

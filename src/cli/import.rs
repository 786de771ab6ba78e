//! `import`: users and rights of mosquitto, as one set of changes.

use std::io::{self, Read as _};
use std::path::Path;

use portcullis::access::Role;
use portcullis::admin::api::{Applied, Page, UserView};
use portcullis::directory::Document;
use portcullis::files;
use portcullis::import::{self, Import, MAX_SOURCE_BYTES, Options, Outcome, Report, Source, Sources};
use serde::Serialize;

use super::args::ImportArguments;
use super::client::Client;
use super::output::printable;
use super::{Failure, Shell, apply};

/// What was mapped, what is in the way, and what was done.
#[derive(Serialize)]
struct Outcomes<'a> {
    report: &'a Report,
    /// For broker.toml.
    #[serde(skip_serializing_if = "str::is_empty")]
    configuration: &'a str,
    /// Users and roles that are there already: nothing was done then.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conflicts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

/// Makes all of it or nothing; or says what it would make; or writes it down for `apply`.
pub(crate) async fn import(arguments: ImportArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let options =
        Options { certificates: arguments.certificates, client_id_is_username: arguments.client_id_is_username };
    let read = |path: &Option<std::path::PathBuf>| path.as_deref().map(read).transpose();
    let (passwords, acls) = (read(&arguments.passwords)?, read(&arguments.acls)?);
    let dynamic_security = read(&arguments.dynamic_security)?;
    let sources = match &dynamic_security {
        Some(text) => Sources::DynamicSecurity(text),
        None => Sources::Files { passwords: passwords.as_deref(), acls: acls.as_deref() },
    };
    let Import { document, report, configuration } =
        import::import(sources, options).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut outcomes =
        Outcomes { report: &report, configuration: &configuration, conflicts: Vec::new(), applied: None };
    if let Some(path) = &arguments.write {
        let mut text = toml::to_string(&document).map_err(|error| Failure::answer(error.to_string()))?;
        text.insert_str(
            0,
            "# A set of changes for `portcullis apply`. It holds password hashes: keep it like passwords.\n\n",
        );
        files::write_new(path, text.as_bytes(), 0o600)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        return shell.print(&outcomes, |outcomes| format!("{}wrote {}\n", show(outcomes), path.display()));
    }
    outcomes.conflicts = conflicts(&document, client).await?;
    if !outcomes.conflicts.is_empty() {
        shell.print(&outcomes, show)?;
        return Err(Failure::InTheWay(outcomes.conflicts.len()));
    }
    let path = if arguments.dry_run { "/api/apply?dry_run=true" } else { "/api/apply" };
    outcomes.applied = Some(client.post(path, &document).await?);
    shell.print(&outcomes, show)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    // One more than is admitted, so that it is told and not cut off.
    let most = u64::try_from(MAX_SOURCE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut text))
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}

/// All of them: the broker names the first one only. It decides, too: what comes between is refused as a whole.
async fn conflicts(document: &Document, client: &Client) -> Result<Vec<String>, Failure> {
    let users: Page<UserView> = client.get("/api/users").await?;
    let roles: Page<Role> = client.get("/api/roles").await?;
    let users: std::collections::HashSet<_> = users.items.into_iter().map(|user| user.username).collect();
    let roles: std::collections::HashSet<_> = roles.items.into_iter().map(|role| role.name).collect();
    let users = document.user.iter().filter(|user| users.contains(&user.username));
    let roles = document.role.iter().filter(|role| roles.contains(&role.name));
    let users = users.map(|user| format!("user {}", user.username));
    Ok(users.chain(roles.map(|role| format!("role {}", role.name))).collect())
}

fn show(outcomes: &Outcomes<'_>) -> String {
    let mut lines = Vec::new();
    for entry in &outcomes.report.entries {
        let word = match entry.outcome {
            Outcome::Same => "same      ",
            Outcome::Narrower => "narrower  ",
            Outcome::Configuration => "config    ",
            Outcome::LeftOut => "left out  ",
        };
        let place = match (entry.place.file, entry.place.line) {
            (Source::Passwords, Some(line)) => format!("passwords:{line}: "),
            (Source::Acls, Some(line)) => format!("acls:{line}: "),
            _ => String::new(),
        };
        lines.push(format!("{word}{place}{}", entry.source));
        lines.extend(entry.target.iter().map(|target| format!("            -> {target}")));
        lines.extend(entry.note.iter().map(|note| format!("            {note}")));
    }
    let count = |outcome| outcomes.report.count(outcome);
    lines.push(format!(
        "{} the same, {} narrower, {} for broker.toml, {} left out",
        count(Outcome::Same),
        count(Outcome::Narrower),
        count(Outcome::Configuration),
        count(Outcome::LeftOut),
    ));
    lines.extend(outcomes.report.notes.iter().map(|note| format!("note: {note}")));
    if !outcomes.configuration.is_empty() {
        lines.push("for broker.toml:".to_owned());
        lines.extend(outcomes.configuration.lines().map(|line| format!("    {line}")));
    }
    lines.extend(outcomes.conflicts.iter().map(|name| format!("in the way: the {name} is there already")));
    let mut text: String = lines.iter().map(|line| printable(line) + "\n").collect();
    text.extend(outcomes.applied.iter().map(apply::show_applied));
    text
}

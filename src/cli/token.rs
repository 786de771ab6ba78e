//! The commands of claim tokens.

use std::fmt::Write as _;

use portcullis::admin::api::{Page, TokenCreated, TokenTerms, TokenView};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::args::{TokenArguments, TokenCommand};
use super::client::{Client, segment};
use super::output::{self, Fields, Table, printable};
use super::registry::{BASE, names};
use super::{Failure, Shell};

pub(crate) async fn run(command: TokenCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(arguments) => create(arguments, client, shell).await,
        TokenCommand::List => {
            let tokens: Page<TokenView> = client.get(&format!("{BASE}/tokens")).await?;
            let bold = shell.bold;
            shell.print(&tokens, |tokens| table(tokens, bold))
        }
        TokenCommand::Show(token) => {
            let id = segment(&token.id.to_string())?;
            let token: TokenView = client.get(&format!("{BASE}/tokens/{id}")).await?;
            shell.print(&token, show)
        }
        TokenCommand::Revoke(token) => {
            let id = segment(&token.id.to_string())?;
            client.delete(&format!("{BASE}/tokens/{id}")).await?;
            shell.print(&json!({ "id": token.id, "revoked": true }), |_| format!("revoked token {}\n", token.id))
        }
    }
}

async fn create(arguments: TokenArguments, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let terms = TokenTerms {
        duration: arguments.duration.map(|duration| duration.as_secs()),
        uses: Some(arguments.uses),
        username: arguments.username,
        source: arguments.source,
        roles: arguments.roles,
        permissions: arguments.permissions,
        publish_prefix: arguments.publish_prefix,
        expires_at: arguments.expires,
        comment: arguments.comment,
    };
    let created: TokenCreated = client.post(&format!("{BASE}/tokens"), &terms).await?;
    shell.print(&created, |created| {
        let mut text = format!("{}\n\n", created.token.expose_secret());
        text.push_str("This is the token; it is shown only now.\n");
        text.push_str(&show(&created.view));
        text
    })
}

fn table(tokens: &Page<TokenView>, bold: bool) -> String {
    let mut table = Table::new(bold, &["ID", "USED", "UNTIL", "USERNAME", "SOURCE", "ROLES", "BY", "COMMENT"]);
    for token in &tokens.items {
        table.row([
            token.id.to_string(),
            format!("{} of {}", token.used, token.uses),
            output::time(token.until),
            token.username.clone().map(String::from).unwrap_or_default(),
            networks(token),
            names(&token.roles),
            token.by.clone(),
            token.comment.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn networks(token: &TokenView) -> String {
    token.source.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn show(token: &TokenView) -> String {
    let mut fields = Fields::default();
    fields.add("id", token.id.to_string());
    fields.add("used", format!("{} of {}", token.used, token.uses));
    fields.add("last used", output::time_or(token.last_used, ""));
    fields.add("until", output::time(token.until));
    fields.add("username", token.username.clone().map(String::from).unwrap_or_default());
    fields.add("source", networks(token));
    fields.add("roles", names(&token.roles));
    fields.add("publish prefix", token.publish_prefix.clone().unwrap_or_default());
    fields.add("users end", output::time_or(token.expires_at, ""));
    fields.add("comment", token.comment.clone().unwrap_or_default());
    fields.add("made by", token.by.as_str());
    fields.add("made at", output::time(token.at));
    let mut text = fields.to_string();
    if !token.permissions.is_empty() {
        text.push_str("permissions:\n");
        for permission in &token.permissions {
            let _ = writeln!(text, "  {}", printable(&output::permission(permission)));
        }
    }
    text
}

//! The commands of the audit log, against the running broker or, with `--offline`, against its store.
//!
//! Records are shown as they are on record: the lines of `export` are the very bytes that were hashed.

use portcullis::admin::api::{AuditHead, AuditPage, AuditVerify, Entry, Record, Report};
use portcullis::audit::{self, AuditKey};
use portcullis::config::Config;
use portcullis::store::Store;
use serde_json::Value;

use super::args::AuditCommand;
use super::client::Client;
use super::offline::{failed, open_store};
use super::output::{self, Fields, printable};
use super::{Failure, Shell};

const BASE: &str = "/api/audit";

/// Records that are read at once.
const PAGE: usize = 500;

pub(crate) fn is_offline(command: &AuditCommand) -> bool {
    match command {
        AuditCommand::Verify { offline, .. }
        | AuditCommand::Tail { offline, .. }
        | AuditCommand::Export { offline, .. } => offline.offline,
        AuditCommand::Head => false,
    }
}

pub(crate) async fn run(command: &AuditCommand, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify { head, .. } => {
            let report: Report = client.post(&format!("{BASE}/verify"), &AuditVerify { head: *head }).await?;
            told(&report, true, shell)
        }
        AuditCommand::Tail { count, follow: true, .. } => follow(*count, client, shell).await,
        AuditCommand::Tail { count, .. } => {
            let page: AuditPage = client.get(&format!("{BASE}?last={count}&limit=1")).await?;
            remote(page.end.sequence.saturating_sub(*count), client, shell, line).await
        }
        AuditCommand::Export { after, .. } => remote(after.unwrap_or(0), client, shell, exported).await,
        AuditCommand::Head => {
            let head: AuditHead = client.get(&format!("{BASE}/head")).await?;
            shell.print(&head, |head| {
                let mut fields = Fields::default();
                fields.add("records", head.end.sequence.to_string());
                fields.add("head", head.end.hash.to_string());
                if let Some(signed) = &head.signed {
                    fields.add("signed", format!("record {} at {}", signed.sequence, output::time(signed.time)));
                    fields.add("statement", signed.text());
                    fields.add("signature", signed.signature.as_str());
                    fields.add("key", signed.key.to_string());
                }
                fields.to_string()
            })
        }
    }
}

/// The same without a broker.
pub(crate) fn offline(command: &AuditCommand, config: &Config, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let store = open_store(config)?;
    match command {
        AuditCommand::Verify { head, .. } => {
            let key = AuditKey::load(&config.data_dir).map_err(failed)?;
            let public = key.as_ref().map(AuditKey::public);
            let report = audit::verify(&store, None, public, *head).map_err(failed)?;
            told(&report, key.is_some(), shell)
        }
        AuditCommand::Tail { count, .. } => {
            let end = audit::Chain::open(&store).map_err(failed)?.tip().sequence;
            local(end.saturating_sub(*count), &store, shell, line)
        }
        AuditCommand::Export { after, .. } => local(after.unwrap_or(0), &store, shell, exported),
        AuditCommand::Head => Err(Failure::Usage("`audit head` asks the running broker".to_owned())),
    }
}

type Show = fn(&Entry, &Shell<'_>) -> Result<String, Failure>;

/// Every record after this number, up to the last one of the moment of the first page.
async fn remote(mut after: u64, client: &Client, shell: &mut Shell<'_>, show: Show) -> Result<(), Failure> {
    let mut end = None;
    loop {
        let page: AuditPage = client.get(&format!("{BASE}?after={after}&limit={PAGE}")).await?;
        let end = *end.get_or_insert(page.end.sequence);
        for entry in &page.items {
            after = number(entry)?;
            if after > end {
                return Ok(());
            }
            let text = show(entry, shell)?;
            writeln!(shell.out, "{text}")?;
        }
        if after >= end || page.items.is_empty() {
            return Ok(());
        }
    }
}

fn local(mut after: u64, store: &dyn Store, shell: &mut Shell<'_>, show: Show) -> Result<(), Failure> {
    loop {
        let entries = audit::read(store, after, PAGE).map_err(failed)?;
        for entry in &entries {
            after = number(entry)?;
            let text = show(entry, shell)?;
            writeln!(shell.out, "{text}")?;
        }
        if entries.len() < PAGE {
            return Ok(());
        }
    }
}

fn number(entry: &Entry) -> Result<u64, Failure> {
    entry.sequence().ok_or_else(|| Failure::answer("a record of the audit log has no number: run `audit verify`"))
}

async fn follow(count: u64, client: &Client, shell: &mut Shell<'_>) -> Result<(), Failure> {
    client
        .events(&format!("{BASE}/events?last={count}"), |data| {
            let entry: Entry = serde_json::from_str(data)
                .map_err(|_| Failure::answer(format!("the stream broke off: {}", printable(data))))?;
            let text = line(&entry, shell)?;
            writeln!(shell.out, "{text}")?;
            Ok(shell.out.flush()?)
        })
        .await
}

fn exported(entry: &Entry, _: &Shell<'_>) -> Result<String, Failure> {
    output::json(entry, false).map_err(|error| Failure::answer(error.to_string()))
}

/// One record on one line, for people; with `--json` as it is.
fn line(entry: &Entry, shell: &Shell<'_>) -> Result<String, Failure> {
    if shell.json {
        return exported(entry, shell);
    }
    let Ok(Record { sequence, time, who, event, .. }) = entry.read() else {
        // Of a newer broker.
        return Ok(printable(entry.record.get()));
    };
    let mut what = serde_json::to_value(&event).unwrap_or_default();
    if let Value::Object(fields) = &mut what {
        fields.remove("kind");
    }
    let mut words = Vec::new();
    flatten("", &what, &mut words);
    let text = format!("{sequence:>6}  {}  {who:<12}  {:<22}  {}", output::time(time), event.kind(), words.join(" "));
    Ok(printable(text.trim_end()))
}

/// `name=value` for each leaf, with the names of the objects around it.
fn flatten(name: &str, value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let inner = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(&inner, value, words);
            }
        }
        Value::String(text) => words.push(format!("{name}={text}")),
        Value::Array(items) if items.is_empty() => {}
        value => words.push(format!("{name}={value}")),
    }
}

fn told(report: &Report, signed: bool, shell: &mut Shell<'_>) -> Result<(), Failure> {
    shell.print(report, |report| {
        let records = output::count(report.records, "record");
        let mut text = match &report.fault {
            None => format!("whole: {records}, {} to {}\n", report.first, report.last),
            Some(fault) => {
                format!("not whole: {}\n{records} before that fit\n", printable(&fault.to_string()))
            }
        };
        let mut fields = Fields::default();
        fields.add("head", report.head.to_string());
        let heads = if signed { report.heads.to_string() } else { "not checked: there is no audit.key".to_owned() };
        fields.add("signed heads", heads);
        text.push_str(&fields.to_string());
        text
    })?;
    if report.whole { Ok(()) } else { Err(Failure::NotWhole) }
}

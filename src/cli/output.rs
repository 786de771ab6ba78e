//! How answers look on a terminal: aligned tables and lists of fields.
//!
//! Much of what is shown was written by devices. No character of it reaches the terminal that could move the cursor,
//! change colours or reorder text.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use portcullis::access::{Auth, ManagedBy, Permission, Quota, Rate};
use serde::Serialize;

/// Columns with a header, as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    bold: bool,
}

impl Table {
    pub(crate) fn new(bold: bool, header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()], bold }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(
            cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { printable(&cell) }).collect(),
        );
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:<width$}  ")?;
            }
            match line.trim_end() {
                line if number == 0 && self.bold => writeln!(f, "\x1b[1m{line}\x1b[0m")?,
                line => writeln!(f, "{line}")?,
            }
        }
        Ok(())
    }
}

/// Names with their values, one a line; those without a value are left out.
#[derive(Default)]
pub(crate) struct Fields(Vec<(&'static str, String)>);

impl Fields {
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.0.push((name, printable(&value)));
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
        for (name, value) in &self.0 {
            writeln!(f, "{:<width$}  {value}", format!("{name}:"))?;
        }
        Ok(())
    }
}

/// The text with every character escaped that a terminal would obey instead of showing: controls (C0, DEL, C1) and the
/// directional formatting characters of Unicode.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if obeyed(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// JSON that is as safe on a terminal as [`printable`] text: such characters stand in strings only, and are escaped.
pub(crate) fn json<T: Serialize>(value: &T, pretty: bool) -> Result<String, serde_json::Error> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if obeyed(character) && character != '\n' {
            let _ = write!(safe, "\\u{:04x}", u32::from(character));
        } else {
            safe.push(character);
        }
    }
    Ok(safe)
}

/// To the second, in UTC.
pub(crate) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

pub(crate) fn time_or(time: Option<Timestamp>, absent: &str) -> String {
    time.map_or_else(|| absent.to_owned(), self::time)
}

/// What serde calls a value of an enum without fields.
pub(crate) fn auth(auth: Auth) -> &'static str {
    match auth {
        Auth::Password => "password",
        Auth::Certificate => "certificate",
        Auth::Either => "either",
        Auth::Both => "both",
        Auth::None => "none",
    }
}

pub(crate) fn managed_by(managed_by: ManagedBy) -> &'static str {
    match managed_by {
        ManagedBy::Config => "config",
        ManagedBy::Api => "api",
        ManagedBy::Registry => "registry",
    }
}

/// What a quota bounds, in one line.
pub(crate) fn quota(quota: &Quota) -> String {
    let rate = |rate: Option<Rate>| rate.map(|rate| format!("{}/s (burst {})", rate.per_second(), rate.burst()));
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let bounds = [
        ("connections", number(quota.connections.map(u64::from))),
        ("sessions", number(quota.sessions.map(u64::from))),
        ("subscriptions", number(quota.subscriptions.map(u64::from))),
        ("publish messages", rate(quota.publish_messages)),
        ("publish bytes", rate(quota.publish_bytes)),
        ("retained messages", number(quota.retained_messages)),
        ("retained bytes", number(quota.retained_bytes)),
        ("queue messages", number(quota.queue_messages)),
        ("queue bytes", number(quota.queue_bytes)),
    ];
    let bounds = bounds.into_iter().filter_map(|(name, bound)| Some(format!("{name} {}", bound?)));
    bounds.collect::<Vec<_>>().join(", ")
}

/// A rule on one line: `allow read plant/#`, with its conditions.
pub(crate) fn permission(permission: &Permission) -> String {
    let (effect, context) = (permission.effect.as_str(), permission.context.as_str());
    let operation = permission.operation.as_str();
    let mut text = format!("{effect} {context} {operation} {}", permission.resource);
    let mut conditions = Vec::new();
    conditions.extend(permission.max_qos.map(|qos| format!("QoS up to {qos}")));
    conditions
        .extend(permission.retain.map(|retain| if retain { "retain".to_owned() } else { "no retain".to_owned() }));
    conditions.extend(permission.not_after.map(|end| format!("until {}", time(end))));
    if !conditions.is_empty() {
        let _ = write!(text, " ({})", conditions.join(", "));
    }
    text
}

/// `1 user`, `2 users`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_wrote_cannot_command_the_terminal() {
        for hostile in ["\x1b[2J", "\u{9b}31m", "a\rb", "a\nb", "\u{202e}gnp.exe", "\u{7f}", "\u{2066}x\u{2069}"] {
            let mut table = Table::new(false, &["A"]);
            table.row([hostile.to_owned()]);
            let mut fields = Fields::default();
            fields.add("a", hostile);
            let json = json(&serde_json::json!({ "a": hostile }), false).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["a"], hostile);
            for shown in [table.to_string(), fields.to_string(), json] {
                let lines = shown.lines().count();
                assert!(lines <= 2, "{shown}");
                assert!(!shown.chars().any(|c| c != '\n' && obeyed(c)), "{shown:?}");
            }
        }
    }

    #[test]
    fn columns_are_aligned_and_end_without_blanks() {
        let mut table = Table::new(false, &["NAME", "ROLES"]);
        table.row(["ä".to_owned(), String::new()]);
        table.row(["longer-name".to_owned(), "x".to_owned()]);
        assert_eq!(table.to_string(), "NAME         ROLES\nä            -\nlonger-name  x\n");
    }
}

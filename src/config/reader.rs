//! Typed access to a parsed TOML document that never stops at the first mistake.
//!
//! A [`Section`] is asked for its keys one by one; a value of the wrong kind is noted in the [`Report`] and answered
//! like one that is absent, and at the end [`Section::finish`] notes every key that nobody asked for, with the one
//! that was probably meant. Never panics, whatever the document.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::source::{Source, problem};
use super::units::{format_duration, format_size, parse_duration, parse_size};

/// What was noted while one document was read.
pub(super) struct Report<'t> {
    pub(super) text: &'t str,
    notes: RefCell<Notes>,
}

#[derive(Default)]
struct Notes {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    places: BTreeMap<String, Range<usize>>,
    secrets: Vec<Range<usize>>,
    asked: std::collections::BTreeSet<String>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, notes: RefCell::default() }
    }

    /// A problem of the text at `span`.
    pub(super) fn at(&self, span: Option<Range<usize>>, found: impl Into<String>, advice: impl Into<String>) {
        self.notes.borrow_mut().problems.push(problem(self.text, span, found.into(), advice.into()));
    }

    /// A problem of a key such as `tls.key`, which may be absent and so at its default.
    pub(super) fn key(&self, key: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.at(self.place(key), found, advice);
    }

    /// Was no problem noted so far?
    pub(super) fn is_clean(&self) -> bool {
        self.notes.borrow().problems.is_empty()
    }

    /// Something that works and yet deserves a look.
    pub(super) fn warn(&self, key: &str, found: impl Into<String>, advice: impl Into<String>) {
        let warning = problem(self.text, self.place(key), found.into(), advice.into());
        self.notes.borrow_mut().warnings.push(warning);
    }

    pub(super) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.notes.borrow().places.get(key).cloned()
    }

    /// The line of a key, from 1; 0 when it is not there.
    pub(super) fn line(&self, key: &str) -> usize {
        let before = self.place(key).and_then(|span| self.text.get(..span.start));
        before.map_or(0, |before| before.matches('\n').count() + 1)
    }

    /// The value of these bytes never leaves in a message.
    pub(super) fn secret(&self, span: Range<usize>) {
        self.notes.borrow_mut().secrets.push(span);
    }

    /// A mistake that the TOML parser found.
    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let found = format!("this is not TOML: {}", error.message().trim().replace('\n', ", "));
        let advice = self.unquoted(&span).unwrap_or_else(|| {
            if error.message().contains("duplicate key") {
                "keep one of the two".to_owned()
            } else {
                "write `key = value`, `[section]` or `[[section]]` on each line, with text in double quotes".to_owned()
            }
        });
        self.at(Some(span), found, advice);
    }

    /// `key = text` that should be `key = "text"`: the commonest mistake of all.
    fn unquoted(&self, span: &Range<usize>) -> Option<String> {
        let start = self.text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text.get(start..)?.lines().next()?;
        let (key, value) = line.split_once('=')?;
        let value = value.split('#').next()?.trim();
        if value.is_empty() || value.contains(['"', '\'', '[', '{']) || DeValue::parse(value).is_ok() {
            return None;
        }
        let value = if key.contains("pass") { "..." } else { value };
        Some(format!("put text in double quotes: `{} = \"{value}\"`", key.trim()))
    }

    /// For a text that could not be parsed, so that nobody knows where its passwords are: blots out whatever follows
    /// `password =`, `password_hash =` or `passphrase =` on a line.
    pub(super) fn hide_passwords(&self) {
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            for word in ["password", "password_hash", "\"password\"", "'password'", "passphrase", "\"passphrase\""] {
                for (index, _) in line.match_indices(word) {
                    let after = line.get(index + word.len()..).unwrap_or_default();
                    if let Some(value) = after.trim_start().strip_prefix('=') {
                        self.secret(start + line.len() - value.len()..start + line.trim_end().len());
                    }
                }
            }
            start += line.len();
        }
    }

    pub(super) fn into_source(self, name: &str) -> Source {
        let mut notes = self.notes.into_inner();
        let in_order =
            |problem: &Problem| (problem.span.as_ref().map_or(usize::MAX, |span| span.start), problem.found.clone());
        notes.problems.sort_by_key(in_order);
        notes.problems.dedup();
        notes.warnings.sort_by_key(in_order);
        Source {
            name: name.to_owned(),
            text: without(self.text, notes.secrets).into(),
            places: notes.places,
            problems: notes.problems,
            warnings: notes.warnings,
            #[cfg(test)]
            asked: notes.asked,
        }
    }
}

/// The text with `*` in place of these parts, as many bytes as before: every span still fits.
fn without(text: &str, mut secrets: Vec<Range<usize>>) -> String {
    secrets.sort_by_key(|secret| secret.start);
    let mut secrets = secrets.into_iter().peekable();
    let (mut blotted, mut hidden_until) = (String::with_capacity(text.len()), 0);
    for (index, character) in text.char_indices() {
        while let Some(secret) = secrets.next_if(|secret| secret.start <= index) {
            hidden_until = hidden_until.max(secret.end);
        }
        if index < hidden_until && !character.is_whitespace() {
            blotted.extend(std::iter::repeat_n('*', character.len_utf8()));
        } else {
            blotted.push(character);
        }
    }
    blotted
}

/// What a value is not: shown as "`key` cannot be FOUND; write EXPECTED".
pub(super) struct Wrong {
    pub(super) found: Option<String>,
    pub(super) expected: String,
}

impl Wrong {
    /// The value is shown as it was written.
    pub(super) fn expected(expected: impl Into<String>) -> Self {
        Self { found: None, expected: expected.into() }
    }
}

/// One value of the document, with the key that it belongs to.
pub(super) struct Item<'t> {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) value: &'t DeValue<'t>,
    text: &'t str,
}

impl Item<'_> {
    /// How it was written, shortened to one line.
    fn written(&self) -> String {
        let written = self.text.get(self.span.clone()).unwrap_or_default();
        let mut line: String = written.lines().next().unwrap_or_default().chars().take(60).collect();
        if line.len() < written.len() {
            line.push_str("...");
        }
        format!("`{line}`")
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a number with a decimal point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    fn wrong_kind(&self, expected: &str) -> Wrong {
        Wrong { found: Some(format!("{} ({})", self.written(), self.kind())), expected: expected.to_owned() }
    }
}

/// One table of the document, or the absence of it.
pub(super) struct Section<'t> {
    pub(super) report: &'t Report<'t>,
    /// `limits`, `listener[0]`; empty at the top.
    pub(super) path: String,
    /// `limits`, `listener`: the same for every element of a list.
    schema: String,
    /// How people call it: `[limits]`, `[[listener]]`.
    title: String,
    table: Option<&'t DeTable<'t>>,
    /// Where it begins.
    pub(super) span: Option<Range<usize>>,
    known: RefCell<Vec<&'static str>>,
}

impl<'t> Section<'t> {
    pub(super) fn root(report: &'t Report<'t>, table: &'t DeTable<'t>) -> Self {
        Self::new(report, String::new(), String::new(), "the top of the file".to_owned(), Some(table), None)
    }

    fn new(
        report: &'t Report<'t>,
        path: String,
        schema: String,
        title: String,
        table: Option<&'t DeTable<'t>>,
        span: Option<Range<usize>>,
    ) -> Self {
        Self { report, path, schema, title, table, span, known: RefCell::default() }
    }

    /// The full name of one of its keys.
    pub(super) fn full(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The value of a key, unconverted.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'t>> {
        self.known.borrow_mut().push(key);
        let mut notes = self.report.notes.borrow_mut();
        notes.asked.insert(join(&self.schema, key));
        let value = self.table?.get(key)?;
        let full = self.full(key);
        notes.places.insert(full.clone(), value.span());
        Some(Item { key: full, span: value.span(), value: value.get_ref(), text: self.report.text })
    }

    /// The value of a key; `None` when it is absent or (noted) not what `convert` admits.
    pub(super) fn get<T>(&self, key: &'static str, convert: impl Fn(&Item<'t>) -> Result<T, Wrong>) -> Option<T> {
        let item = self.item(key)?;
        self.convert(&item, convert)
    }

    fn convert<T>(&self, item: &Item<'t>, convert: impl Fn(&Item<'t>) -> Result<T, Wrong>) -> Option<T> {
        convert(item)
            .map_err(|wrong| {
                let found = wrong.found.unwrap_or_else(|| item.written());
                let found = format!("`{}` cannot be {found}", item.key);
                self.report.at(Some(item.span.clone()), found, format!("write {}", wrong.expected));
            })
            .ok()
    }

    /// A list, each element of it converted; empty when absent.
    pub(super) fn list<T>(&self, key: &'static str, convert: impl Fn(&Item<'t>) -> Result<T, Wrong>) -> Vec<T> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let DeValue::Array(array) = item.value else {
            let example = format!("a list in brackets: `{key} = [...]`");
            self.convert::<()>(&item, |item| Err(item.wrong_kind(&example)));
            return Vec::new();
        };
        let elements = array.iter().enumerate().filter_map(|(index, element)| {
            let key = format!("{}[{index}]", item.key);
            let element = Item { key, span: element.span(), value: element.get_ref(), text: self.report.text };
            self.report.notes.borrow_mut().places.insert(element.key.clone(), element.span.clone());
            self.convert(&element, &convert)
        });
        elements.collect()
    }

    /// The sub-table under a key, empty when absent.
    pub(super) fn section(&self, key: &'static str) -> Section<'t> {
        let item = self.item(key);
        let path = self.full(key);
        // A path with an index is no header that one could write.
        let in_list = path.contains('[');
        let table = item.as_ref().and_then(|item| {
            if let DeValue::Table(table) = item.value {
                return Some(table);
            }
            let advice = if in_list {
                format!("a table: `{key} = {{ ... }}`")
            } else {
                format!("a section `[{path}]` with its keys on the lines below it")
            };
            self.convert::<()>(item, |item| Err(item.wrong_kind(&advice)));
            None
        });
        Section::new(
            self.report,
            path.clone(),
            join(&self.schema, key),
            if in_list { format!("`{path}`") } else { format!("[{path}]") },
            table,
            item.map(|item| item.span),
        )
    }

    /// The tables of a list of tables, none when absent.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'t>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        let path = self.full(key);
        let schema = join(&self.schema, key);
        let elements: Vec<_> = match item.value {
            DeValue::Array(array) => array.iter().map(|element| (element.span(), element.get_ref())).collect(),
            DeValue::Table(_) if self.path.is_empty() => {
                let found = format!("there can be several of `[{path}]`, so one pair of brackets is not enough");
                self.report.at(Some(item.span.clone()), found, format!("write `[[{path}]]`"));
                vec![(item.span.clone(), item.value)]
            }
            _ => {
                let advice = format!("a list of tables: `{key} = [{{ ... }}]`");
                self.convert::<()>(&item, |item| Err(item.wrong_kind(&advice)));
                return Vec::new();
            }
        };
        let sections = elements.into_iter().enumerate().filter_map(|(index, (span, value))| {
            let path = format!("{path}[{index}]");
            let title = if self.path.is_empty() { format!("[[{schema}]]") } else { format!("`{path}`") };
            self.report.notes.borrow_mut().places.insert(path.clone(), span.clone());
            if let DeValue::Table(table) = value {
                Some(Section::new(self.report, path, schema.clone(), title, Some(table), Some(span)))
            } else {
                let item = Item { key: path, span, value, text: self.report.text };
                self.convert::<()>(&item, |item| Err(item.wrong_kind("a table: `{ key = value, ... }`")));
                None
            }
        });
        sections.collect()
    }

    /// A key that must be there.
    pub(super) fn require(&self, key: &'static str, example: &str) {
        if self.table.is_some_and(|table| table.get(key).is_none()) {
            self.report.at(
                self.span.clone(),
                format!("{} has no `{key}`", self.title),
                format!("add `{key} = {example}`"),
            );
        }
    }

    /// A key, or a value of it, that will come with a later version: said so, never silently accepted.
    pub(super) fn not_yet(&self, key: &'static str, advice: &str) {
        if let Some(item) = self.item(key) {
            self.report.at(Some(item.span), format!("`{}` is not available yet", item.key), advice);
        }
    }

    /// Notes every key that nobody has asked for.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            let key: &str = name.get_ref();
            if known.contains(&key) {
                continue;
            }
            let advice = if let Some(near) = nearest(key, known.iter().copied()) {
                format!("write `{near}`")
            } else {
                let mut keys = known.clone();
                keys.sort_unstable();
                let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
                format!("its keys are {}", keys.join(", "))
            };
            self.report.at(Some(name.span()), format!("unknown key `{key}` in {}", self.title), advice);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The word that a typo was probably meant to be: at most a third of its letters off.
pub(super) fn nearest<'w>(typo: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let typo = typo.to_ascii_lowercase().replace('-', "_");
    words
        .into_iter()
        .map(|word| (distance(&typo, word), word))
        .filter(|(distance, word)| *distance <= word.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions, substitutions and swaps of neighbours that make one word of the other (optimal string
/// alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (row, letter) in a.chars().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in b.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&above, column) + usize::from(letter != *other))
                .min(at(&above, column + 1) + 1)
                .min(at(&line, column) + 1);
            if let Some(earlier) = column.checked_sub(1)
                && previous == Some(*other)
                && b.get(earlier) == Some(&letter)
            {
                best = best.min(at(&before, earlier) + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut above, line);
        previous = Some(letter);
    }
    above.last().copied().unwrap_or(0)
}

// What a value may be. Each answers with the value or with what to write instead.

pub(super) fn text(item: &Item<'_>) -> Result<String, Wrong> {
    match item.value {
        DeValue::String(text) if !text.contains('\0') => Ok(text.to_string()),
        _ => Err(item.wrong_kind("text in double quotes")),
    }
}

pub(super) fn boolean(item: &Item<'_>) -> Result<bool, Wrong> {
    item.value.as_bool().ok_or_else(|| item.wrong_kind("`true` or `false`, without quotes"))
}

pub(super) fn integer<N: TryFrom<u64> + Display + Copy>(
    range: RangeInclusive<u64>,
) -> impl Fn(&Item<'_>) -> Result<N, Wrong> {
    move |item| {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        match item.value {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .filter(|number| range.contains(number))
                .and_then(|number| number.try_into().ok())
                .ok_or_else(|| Wrong::expected(expected)),
            _ => Err(item.wrong_kind(&expected)),
        }
    }
}

pub(super) fn size(range: RangeInclusive<u64>) -> impl Fn(&Item<'_>) -> Result<u64, Wrong> {
    move |item| {
        let (from, to) = (format_size(*range.start()), format_size(*range.end()));
        let expected =
            format!("a size from \"{from}\" to \"{to}\": a whole number with one of the units B, KiB, MiB, GiB");
        let bytes = match item.value {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            DeValue::String(text) => parse_size(text),
            _ => return Err(item.wrong_kind(&expected)),
        };
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| Wrong::expected(expected))
    }
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Item<'_>) -> Result<Duration, Wrong> {
    move |item| {
        let (from, to) = (format_duration(*range.start()), format_duration(*range.end()));
        let expected = format!(
            "a duration from \"{from}\" to \"{to}\": whole numbers with the units ms, s, m, h, d, as in \"1h30m\""
        );
        match item.value {
            DeValue::String(text) => parse_duration(text)
                .filter(|duration| range.contains(duration))
                .ok_or_else(|| Wrong::expected(expected)),
            _ => Err(item.wrong_kind(&expected)),
        }
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&Item<'_>) -> Result<T, Wrong> {
    move |item| {
        let quoted: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = match quoted.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        };
        let DeValue::String(text) = item.value else { return Err(item.wrong_kind(&expected)) };
        if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
            return Ok(*value);
        }
        let near = nearest(text, words.iter().map(|(word, _)| *word));
        Err(Wrong::expected(near.map_or(expected, |near| format!("\"{near}\""))))
    }
}

/// An IP address with a port.
pub(super) fn socket_address(item: &Item<'_>) -> Result<SocketAddr, Wrong> {
    let expected = "an IP address and a port, as in \"127.0.0.1:1883\" (this machine only), \"0.0.0.0:8883\" (IPv4) or \"[::]:8883\" (IPv6)";
    let DeValue::String(text) = item.value else { return Err(item.wrong_kind(expected)) };
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        Wrong::expected(match (text.rsplit_once(':').map(|(host, _)| host), port) {
            (Some("localhost"), Some(port)) => format!("\"127.0.0.1:{port}\""),
            (Some("" | "*"), Some(port)) => format!("\"0.0.0.0:{port}\""),
            _ => expected.to_owned(),
        })
    })
}

/// Text that another type checks for itself.
pub(super) fn parsed<T>(item: &Item<'_>, expected: &str) -> Result<T, Wrong>
where
    T: std::str::FromStr,
    T::Err: Display,
{
    let text = text(item)?;
    text.parse().map_err(|error| Wrong::expected(format!("{expected} ({error})")))
}

//! `acl_file`: `user`, `topic` and `pattern` lines.
//!
//! Lines enter and rules leave, as mosquitto 2 reads them: words are told apart by spaces alone, a topic may hold spaces where the access
//! is written, trailing white space does not count, a line that mosquitto does not load the file for is an error here too.

use super::filter::is_blank;
use super::{ImportError, Source, text};

/// For whom a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For<'a> {
    /// Clients without a user name.
    Anonymous,
    /// This user.
    User(&'a str),
    /// Everybody, with `%u` and `%c` in the topic.
    Pattern,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acl<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
    pub(super) whose: For<'a>,
    pub(super) access: Access,
    pub(super) filter: &'a str,
}

/// The rules, and the names of all sections with the line of the first of each: a section may be empty.
#[derive(Debug, Default)]
pub(super) struct Acls<'a> {
    pub(super) rules: Vec<Acl<'a>>,
    pub(super) sections: Vec<(usize, &'a str)>,
}

/// Reads the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Acls<'_>, ImportError> {
    let mut acls = Acls::default();
    let mut seen = std::collections::BTreeSet::new();
    let mut user = None;
    for (line, whole) in (1..).zip(text(Source::Acls, bytes)?.lines()) {
        let text = whole.trim_end_matches(is_blank);
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let column = |part: &str| {
            // `part` is a piece of `whole`, which ends it: what is before it has this many bytes.
            let before = whole.len().saturating_sub(part.len() + (whole.len() - text.len()));
            whole.get(..before).map_or(1, |before| before.chars().count() + 1)
        };
        let wrong = |part: &str, what: &str| ImportError::at(Source::Acls, Some((line, column(part))), what);
        let line_text = text.trim_start_matches(' ');
        let (word, rest) = line_text.split_once(' ').unwrap_or((line_text, ""));
        let rest = rest.trim_start_matches(' ');
        match word {
            "user" => {
                let name = rest.trim_matches(is_blank);
                if name.is_empty() {
                    return Err(wrong(line_text, "the user name is missing: write `user NAME`"));
                }
                if seen.insert(name) {
                    acls.sections.push((line, name));
                }
                user = Some(name);
            }
            "topic" | "pattern" => {
                if rest.is_empty() {
                    return Err(wrong(
                        line_text,
                        "the topic is missing: write `topic [read|write|readwrite|deny] FILTER`",
                    ));
                }
                let (access, filter) = match rest.split_once(' ') {
                    None => (Access::ReadWrite, rest),
                    Some((access, filter)) => {
                        let access = match access {
                            "read" => Access::Read,
                            "write" => Access::Write,
                            "readwrite" => Access::ReadWrite,
                            "deny" => Access::Deny,
                            _ => {
                                let what = "there is no such access: write `read`, `write`, `readwrite` or `deny` before the filter";
                                return Err(wrong(rest, what));
                            }
                        };
                        (access, filter.trim_matches(is_blank))
                    }
                };
                if !is_filter(filter) {
                    return Err(wrong(
                        filter,
                        "this is no topic filter: `+` must be a whole level and `#` the whole last level",
                    ));
                }
                let whose = match (word, user) {
                    ("pattern", _) => For::Pattern,
                    (_, None) => For::Anonymous,
                    (_, Some(user)) => For::User(user),
                };
                acls.rules.push(Acl { line, text, whose, access, filter });
            }
            _ => return Err(wrong(line_text, "a line begins with `user`, `topic`, `pattern` or `#`")),
        }
    }
    Ok(acls)
}

/// As mosquitto checks it.
pub(super) fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    let mut sound = !filter.is_empty() && filter.len() <= 65_535 && !filter.contains('\0');
    while let Some(level) = levels.next() {
        sound &= match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
    }
    sound
}

//! Topic filters of mosquitto as resources of permissions.
//!
//! Enters: a filter that mosquitto admits. Leaves: for an allow the same filter or nothing, for a deny the same filter or a wider
//! one; never the other way around.

use crate::access::{MAX_LEVELS, MAX_RESOURCE_BYTES};

/// What `%u` and `%c` in a filter are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Percent {
    /// Two characters.
    Literal,
    /// User name and client identifier.
    Placeholder,
    /// The one or the other, depending on the version of mosquitto.
    Unsure,
}

const INSIDE: &str = "`%u` and `%c` must be a whole level here";
const UNSURE: &str = "mosquitto 2.0 takes `%u` and `%c` in such a filter for themselves, later versions for user name and client identifier";
const OURS: &str = "`${` begins a placeholder here";
const LONG: &str = "a filter may have 128 levels and 4096 bytes here";
pub(super) const SHARE: &str = "shared subscriptions are judged by their topic filter here";

/// The filter of an allow rule.
///
/// # Errors
/// Why there is none that allows no more.
pub(super) fn allowed(filter: &str, percent: Percent) -> Result<String, &'static str> {
    if is_shared(filter) {
        return Err(SHARE);
    }
    let levels = filter.split('/').map(|level| {
        Ok(match (percent, level) {
            (Percent::Placeholder, "%u") => "${username}",
            (Percent::Placeholder, "%c") => "${client_id}",
            (Percent::Placeholder, _) if is_marked(level) => return Err(INSIDE),
            (Percent::Unsure, _) if is_marked(level) => return Err(UNSURE),
            _ if level.contains("${") => return Err(OURS),
            _ => level,
        })
    });
    let resource = levels.collect::<Result<Vec<_>, _>>()?.join("/");
    if fits(&resource) { Ok(resource) } else { Err(LONG) }
}

/// The filter of a deny rule, and why it denies more, if it does.
pub(super) fn denied(filter: &str, percent: Percent) -> (String, Option<&'static str>) {
    let mut why = None;
    let mut wider = |reason| {
        why = Some(reason);
        "+"
    };
    let levels = filter.split('/').map(|level| match (percent, level) {
        (Percent::Placeholder, "%u") => "${username}",
        (Percent::Placeholder, "%c") => "${client_id}",
        (Percent::Placeholder, _) if is_marked(level) => wider(INSIDE),
        (Percent::Unsure, _) if is_marked(level) => wider(UNSURE),
        _ if level.contains("${") => wider(OURS),
        _ => level,
    });
    let levels: Vec<_> = levels.collect();
    let whole = levels.join("/");
    if fits(&whole) {
        return (whole, why);
    }
    // As much of it as there is room for, and all that is below.
    let mut short = String::new();
    for level in levels.iter().take(MAX_LEVELS - 2) {
        if short.len() + level.len() + "/#".len() > MAX_RESOURCE_BYTES {
            break;
        }
        short.push_str(level);
        short.push('/');
    }
    short.push('#');
    (short, Some(LONG))
}

fn fits(resource: &str) -> bool {
    // `/#` has a level more than it shows.
    resource.len() <= MAX_RESOURCE_BYTES && resource.split('/').count() < MAX_LEVELS
}

fn is_marked(level: &str) -> bool {
    level.contains("%u") || level.contains("%c")
}

pub(super) fn is_shared(filter: &str) -> bool {
    filter == "$share" || filter.starts_with("$share/")
}

/// Is it `$share/GROUP/FILTER`, or all of them?
pub(super) fn names_group(filter: &str) -> bool {
    let rest = filter.strip_prefix("$share/").unwrap_or_default();
    rest == "#" || rest.split_once('/').is_some_and(|(group, filter)| !group.is_empty() && !filter.is_empty())
}

/// As the C library's `isspace` has it, which mosquitto trims by.
pub(super) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

/// What both filters match, which is a filter too, or nothing.
pub(super) fn both(one: &str, other: &str) -> Option<String> {
    // [MQTT-4.7.2-1]
    let hidden = |filter: &str| filter.starts_with('$');
    let wild = |filter: &str| filter.starts_with(['+', '#']);
    if (hidden(one) && wild(other)) || (hidden(other) && wild(one)) {
        return None;
    }
    let (mut ones, mut others) = (one.split('/').peekable(), other.split('/').peekable());
    let mut found: Vec<&str> = Vec::new();
    loop {
        match (ones.peek().copied(), others.peek().copied()) {
            // `a/#` matches `a`.
            (None, None | Some("#")) | (Some("#"), None) => break,
            (None, _) | (_, None) => return None,
            (Some("#"), _) => {
                found.extend(others);
                break;
            }
            (_, Some("#")) => {
                found.extend(ones);
                break;
            }
            (Some(a), Some(b)) => {
                found.push(match (a, b) {
                    ("+", level) | (level, "+") => level,
                    (a, b) if a == b => a,
                    _ => return None,
                });
                ones.next();
                others.next();
            }
        }
    }
    Some(found.join("/"))
}

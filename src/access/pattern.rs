//! The resource of a permission, read into levels, and what is held against it.
//!
//! Text enters, levels that borrow from it leave. Placeholders stay placeholders: their value is one literal level, chosen
//! when matching and never parsed. Nothing here decides.

use smallvec::SmallVec;

use super::{Context, RuleError};

/// Most levels of a resource.
pub const MAX_LEVELS: usize = 128;
/// Longest resource, in bytes.
pub const MAX_RESOURCE_BYTES: usize = 4_096;

/// As many levels of a topic as can make a difference: the deepest pattern has the group of a shared subscription and
/// [`MAX_LEVELS`] levels, and one more level tells a topic of that depth from a deeper one.
const MAX_ASKED: usize = MAX_LEVELS + 2;

/// What a resource is about; each domain is matched on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    /// Topics.
    Topic,
    /// Joining a group of a shared subscription: the levels are the group and then those of the filter.
    Group,
    /// Paths of the REST API, without the `/` in front.
    Path,
}

impl Domain {
    /// The level at which a wildcard or placeholder never matches what begins with `$`. `[MQTT-4.7.2-1]`
    pub(super) fn guarded_level(self) -> usize {
        match self {
            Self::Topic => 0,
            Self::Group => 1,
            Self::Path => usize::MAX,
        }
    }
}

/// One level of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level<'a> {
    Literal(&'a str),
    /// `+`
    Any,
    /// `#`, always the last.
    Rest,
    /// `${username}`
    Username,
    /// `${client_id}`
    ClientId,
}

/// Reads the resource of a permission.
pub(super) fn parse(context: Context, resource: &str) -> Result<(Domain, Vec<Level<'_>>), RuleError> {
    if resource.is_empty() {
        return Err(RuleError::Empty);
    }
    if resource.len() > MAX_RESOURCE_BYTES {
        return Err(RuleError::TooLong(resource.len()));
    }
    if resource.contains('\0') {
        return Err(RuleError::Nul);
    }
    let (domain, levels) = match context {
        Context::Http => (Domain::Path, parse_path(resource)?),
        Context::Mqtt if resource == "$share" || resource.starts_with("$share/") => {
            (Domain::Group, parse_group(resource)?)
        }
        Context::Mqtt => (Domain::Topic, parse_levels(resource)?),
    };
    if levels.len() > MAX_LEVELS + usize::from(domain == Domain::Group) {
        return Err(RuleError::TooDeep(levels.len()));
    }
    Ok((domain, levels))
}

fn parse_path(resource: &str) -> Result<Vec<Level<'_>>, RuleError> {
    match resource.strip_prefix('/') {
        None => Err(RuleError::NotAPath),
        Some("") => Ok(Vec::new()),
        Some(path) if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) => Err(RuleError::Segment),
        Some(path) => {
            let levels = parse_levels(path)?;
            if levels.contains(&Level::ClientId) {
                // A request has no client identifier.
                return Err(RuleError::UnknownPlaceholder("${client_id}".to_owned()));
            }
            Ok(levels)
        }
    }
}

fn parse_group(resource: &str) -> Result<Vec<Level<'_>>, RuleError> {
    match resource.strip_prefix("$share/") {
        Some("#") => Ok(vec![Level::Any, Level::Rest]),
        Some(rest) => match rest.split_once('/') {
            Some((group, filter)) if !group.is_empty() && !filter.is_empty() => parse_levels(rest),
            _ => Err(RuleError::Share),
        },
        None => Err(RuleError::Share),
    }
}

fn parse_levels(text: &str) -> Result<Vec<Level<'_>>, RuleError> {
    let mut levels = Vec::new();
    let mut pieces = text.split('/').peekable();
    while let Some(piece) = pieces.next() {
        levels.push(match piece {
            "+" => Level::Any,
            "#" if pieces.peek().is_none() => Level::Rest,
            "${username}" => Level::Username,
            "${client_id}" => Level::ClientId,
            _ if piece.contains(['+', '#']) => return Err(RuleError::Wildcard),
            _ if piece.contains("${") => {
                let known = piece.contains("${username}") || piece.contains("${client_id}");
                return Err(match piece.strip_prefix("${") {
                    Some(_) if !known => RuleError::UnknownPlaceholder(piece.to_owned()),
                    _ => RuleError::PlaceholderInside,
                });
            }
            _ => Level::Literal(piece),
        });
    }
    // The parent of `/#` would be the empty topic, which does not exist. [MQTT-4.7.3-1]
    if levels == [Level::Literal(""), Level::Rest] {
        levels.insert(1, Level::Any);
    }
    Ok(levels)
}

/// What a placeholder stands for when a rule is matched.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    /// This one level, literally.
    Literal(&'a str),
    /// No level can be this value: allow rules match nothing, deny rules every value.
    Odd,
}

impl<'a> Value<'a> {
    pub(super) fn of(identity: &'a str) -> Self {
        if identity.contains(['/', '+', '#', '\0']) { Self::Odd } else { Self::Literal(identity) }
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    pub(super) username: Value<'a>,
    pub(super) client_id: Value<'a>,
}

/// One level of what is asked for: a topic and a path have literals only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    Literal(&'a str),
    Any,
    Rest,
}

/// The levels asked for, on the stack. Those past [`MAX_ASKED`] make no difference and are left out.
pub(super) type AskedLevels<'a> = SmallVec<[Asked<'a>; MAX_ASKED]>;

/// The levels of a topic name.
pub(super) fn topic_levels(topic: &str) -> AskedLevels<'_> {
    topic.split('/').take(MAX_ASKED).map(Asked::Literal).collect()
}

/// The levels of a topic filter, behind the group of a shared subscription.
pub(super) fn filter_levels<'a>(group: Option<&'a str>, filter: &'a str) -> AskedLevels<'a> {
    // The parent of `/#` would be the empty topic, which does not exist. [MQTT-4.7.3-1]
    let filter = if filter == "/#" { "/+/#" } else { filter };
    let levels = filter.split('/').map(|level| match level {
        "+" => Asked::Any,
        "#" => Asked::Rest,
        literal => Asked::Literal(literal),
    });
    group.map(Asked::Literal).into_iter().chain(levels).take(MAX_ASKED).collect()
}

/// The segments of a path; `None` for one that no request may have.
pub(super) fn path_levels<'a>(segments: &[&'a str]) -> Option<AskedLevels<'a>> {
    let sound = |segment: &&str| !matches!(*segment, "" | "." | "..") && !segment.contains(['/', '\0']);
    segments.iter().all(sound).then(|| segments.iter().take(MAX_ASKED).copied().map(Asked::Literal).collect())
}

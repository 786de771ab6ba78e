//! What matching, coverage and overlap mean, said as slowly and as plainly as the specification says it.

/// Section 4.7, by recursion over the lists of levels.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([one, filter @ ..], [other, topic @ ..]) => one == other && levels(filter, topic),
            _ => false,
        }
    }
    let first_is_wildcard = filter.starts_with('+') || filter.starts_with('#');
    if topic.starts_with('$') && first_is_wildcard {
        return false;
    }
    levels(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
}

/// Every topic of the universe that `other` matches, `filter` matches.
pub(super) fn covers(filter: &str, other: &str, universe: &[String]) -> bool {
    universe.iter().all(|topic| !matches(other, topic) || matches(filter, topic))
}

/// Some topic of the universe is matched by both.
pub(super) fn overlaps(filter: &str, other: &str, universe: &[String]) -> bool {
    universe.iter().any(|topic| matches(filter, topic) && matches(other, topic))
}

/// Sections 4.7.1, 4.7.3 and 4.8.2 on what is a filter, character by character.
pub(super) fn is_filter(text: &str) -> bool {
    fn plain(text: &str) -> bool {
        let characters: Vec<char> = text.chars().collect();
        !text.is_empty()
            && characters.iter().enumerate().all(|(at, character)| {
                let starts_level = at == 0 || characters[at - 1] == '/';
                match character {
                    '#' => starts_level && at + 1 == characters.len(),
                    '+' => starts_level && (at + 1 == characters.len() || characters[at + 1] == '/'),
                    character => *character != '\0',
                }
            })
    }
    if text.len() > 65_535 {
        return false;
    }
    let Some(rest) = text.strip_prefix("$share/") else { return plain(text) };
    let mut parts = rest.splitn(2, '/');
    let (Some(group), Some(filter)) = (parts.next(), parts.next()) else { return false };
    !group.is_empty() && group.chars().all(|c| !matches!(c, '+' | '#' | '\0')) && plain(filter) && {
        !filter.starts_with("$share/")
    }
}

/// All texts of 1 to `depth` of the given levels, but for the empty text.
pub(super) fn universe(levels: &[&str], depth: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut longest = vec![String::new()];
    for level in 0..depth {
        let separator = if level == 0 { "" } else { "/" };
        longest = longest
            .iter()
            .flat_map(|start| levels.iter().map(move |level| format!("{start}{separator}{level}")))
            .collect();
        all.extend(longest.iter().filter(|text| !text.is_empty()).cloned());
    }
    all
}

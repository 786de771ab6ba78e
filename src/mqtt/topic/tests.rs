use proptest::prelude::*;

use super::*;

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

/// Levels that matter: empty, two names, a name the filters never say, and two that begin with `$`.
const LEVELS: [&str; 6] = ["", "a", "b", "other", "$a", "$other"];

fn filters(depth: usize) -> Vec<TopicFilter> {
    reference::universe(&["", "a", "b", "$a", "+", "#"], depth)
        .into_iter()
        .filter_map(|text| TopicFilter::try_from(text.as_str()).ok())
        .collect()
}

/// Exhaustive where it can be: filters of up to 3 levels, topics of one level more than any of them says.
#[test]
fn coverage_and_overlap_are_what_the_topics_say() {
    let universe = reference::universe(&LEVELS, 4);
    let topics: Vec<TopicName> = universe.iter().map(|text| topic(text)).collect();
    let filters = filters(3);
    let matched: Vec<Vec<bool>> = filters
        .iter()
        .map(|filter| {
            let fast: Vec<bool> = topics.iter().map(|topic| filter.matches(topic)).collect();
            let slow: Vec<bool> = universe.iter().map(|topic| reference::matches(filter.as_str(), topic)).collect();
            assert_eq!(fast, slow, "`{filter}`");
            fast
        })
        .collect();
    for (one, by_one) in filters.iter().zip(&matched) {
        for (other, by_other) in filters.iter().zip(&matched) {
            let covers = by_one.iter().zip(by_other).all(|(one, other)| *one || !*other);
            let overlaps = by_one.iter().zip(by_other).any(|(one, other)| *one && *other);
            assert_eq!(one.covers(other), covers, "`{one}` covers `{other}`");
            assert_eq!(one.overlaps(other), overlaps, "`{one}` overlaps `{other}`");
        }
    }
}

#[test]
fn a_wildcard_never_reaches_into_a_dollar_topic() {
    for wild in ["#", "+/#", "+/info", "+", "+/+"] {
        for reserved in ["$SYS/info", "$SYS", "$registry/register", "$/info"] {
            assert!(!filter(wild).matches(&topic(reserved)), "`{wild}` `{reserved}`");
            assert!(!filter(wild).covers(&filter(reserved)), "`{wild}` `{reserved}`");
            assert!(!filter(wild).overlaps(&filter(reserved)), "`{wild}` `{reserved}`");
        }
        assert!(!filter(wild).covers(&filter("$SYS/#")));
    }
    assert!(filter("$SYS/#").matches(&topic("$SYS")));
    assert!(filter("$SYS/+/x").matches(&topic("$SYS/$b/x")), "only the first level is special");
    assert!(filter("a/+").matches(&topic("a/$b")));
}

#[test]
fn the_examples_of_the_specification_hold() {
    for (pattern, yes, no) in [
        (
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"][..],
            &["sport/tennis/player2", "sport/tennis"][..],
        ),
        ("sport/#", &["sport", "sport/"], &["sports"]),
        (
            "sport/tennis/+",
            &["sport/tennis/player1", "sport/tennis/"],
            &["sport/tennis/player1/ranking", "sport/tennis"],
        ),
        ("sport/+", &["sport/"], &["sport"]),
        ("+/+", &["/finance"], &["finance"]),
        ("/+", &["/finance"], &["finance"]),
        ("+", &["finance"], &["/finance"]),
        ("a/b", &["a/b"], &["a/b/c", "a", "a/B", "A/b"]),
    ] {
        for text in yes {
            assert!(filter(pattern).matches(&topic(text)), "`{pattern}` `{text}`");
        }
        for text in no {
            assert!(!filter(pattern).matches(&topic(text)), "`{pattern}` `{text}`");
        }
    }
}

#[test]
fn coverage_of_the_hard_pairs() {
    for (one, other, expected) in [
        ("a/#", "a", true),
        ("a/#", "a/+/b", true),
        ("a/#", "a/#", true),
        ("a/+", "a/#", false),
        ("a/+/#", "a/#", false),
        ("+/#", "#", true),
        ("#", "+/#", true),
        ("/#", "/+/#", true),
        ("/+/#", "/#", true), // the empty text is no topic
        ("+/+/#", "/#", true),
        ("+", "#", false),
        ("#", "$SYS/#", false),
        ("$SYS/#", "$SYS/+", true),
        ("$SYS/#", "#", false),
        ("a/b", "a/+", false),
        ("+/+/+", "+/+", false),
        ("$share/g/#", "a", false),
        ("#", "$share/g/a", false),
    ] {
        assert_eq!(filter(one).covers(&filter(other)), expected, "`{one}` covers `{other}`");
    }
}

#[test]
fn malformed_texts_are_refused_by_name() {
    use TopicError::{Empty, MisplacedWildcard, Nul, Share, TooLong, Wildcard};
    let long = "x".repeat(65_536);
    for (text, error) in [
        ("", Empty),
        ("a\0b", Nul),
        (&long, TooLong),
        ("a#", MisplacedWildcard),
        ("#/a", MisplacedWildcard),
        ("a/#/b", MisplacedWildcard),
        ("##", MisplacedWildcard),
        ("a+", MisplacedWildcard),
        ("a/++", MisplacedWildcard),
        ("+a/b", MisplacedWildcard),
        ("#/", MisplacedWildcard),
        ("$share/", Share),
        ("$share//a", Share),
        ("$share/g", Share),
        ("$share/g/", Share),
        ("$share/g+/a", Share),
        ("$share/#/a", Share),
        ("$share/g/$share/h/a", Share),
        ("$share/g/a#", MisplacedWildcard),
    ] {
        assert_eq!(TopicFilter::try_from(text), Err(error), "`{}`", &text[..text.len().min(40)]);
    }
    for (text, error) in [("", Empty), ("a\0", Nul), (&long, TooLong), ("a/+", Wildcard), ("#", Wildcard)] {
        assert_eq!(TopicName::try_from(text), Err(error));
    }
    assert_eq!(ClientId::try_from("a\0"), Err(Nul));
    assert_eq!(ClientId::try_from(&*long), Err(TooLong));
    assert!(ClientId::try_from("").unwrap().is_empty());
    assert!(TopicName::try_from("x".repeat(65_535).as_str()).is_ok());
    assert!(TopicFilter::try_from("$share").is_ok(), "without a slash it is an ordinary name");
}

#[test]
fn a_shared_filter_yields_group_and_filter() {
    assert_eq!(filter("$share/g/+/b/#").shared(), Some(("g", "+/b/#")));
    assert_eq!(filter("$share/g//").shared(), Some(("g", "/")));
    assert_eq!(filter("$share/g/#").inner(), filter("#"));
    assert_eq!(filter("$shared/g/a").shared(), None);
    assert_eq!(filter("a").inner(), filter("a"));
}

fn any_text() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "b", "/", "/", "+", "#", "$", "$share/", "\0", "é", "\u{feff}"]),
        0..9,
    )
    .prop_map(|parts| parts.concat())
}

fn any_filter() -> impl Strategy<Value = TopicFilter> {
    let level = prop::sample::select(vec!["", "a", "b", "$a", "+"]);
    (prop::collection::vec(level, 0..7), any::<bool>())
        .prop_map(|(mut levels, rest)| {
            levels.extend(rest.then_some("#"));
            levels.join("/")
        })
        .prop_filter_map("not a filter", |text| TopicFilter::try_from(text.as_str()).ok())
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    prop::collection::vec(prop::sample::select(LEVELS.to_vec()), 1..8)
        .prop_filter_map("not a topic", |levels| TopicName::try_from(levels.join("/").as_str()).ok())
}

proptest! {
    #[test]
    fn exactly_the_well_formed_texts_are_filters(text in any_text()) {
        prop_assert_eq!(TopicFilter::try_from(text.as_str()).is_ok(), reference::is_filter(&text));
        let name = !text.is_empty() && !text.contains(['+', '#', '\0']);
        prop_assert_eq!(TopicName::try_from(text.as_str()).is_ok(), name);
    }

    #[test]
    fn matching_is_as_specified(filter in any_filter(), topic in any_topic()) {
        prop_assert_eq!(filter.matches(&topic), reference::matches(filter.as_str(), topic.as_str()));
    }

    #[test]
    fn coverage_never_widens(one in any_filter(), other in any_filter(), topic in any_topic()) {
        if one.covers(&other) && other.matches(&topic) {
            prop_assert!(one.matches(&topic));
        }
        if one.matches(&topic) && other.matches(&topic) {
            prop_assert!(one.overlaps(&other) && other.overlaps(&one));
        }
        prop_assert!(one.covers(&one) && one.overlaps(&one));
        prop_assert!(!one.covers(&other) || one.overlaps(&other), "no filter is empty");
    }

    #[test]
    fn coverage_is_as_specified(
        one in prop::collection::vec(prop::sample::select(vec!["", "a", "$a", "+", "#"]), 1..4),
        other in prop::collection::vec(prop::sample::select(vec!["", "a", "$a", "+", "#"]), 1..4),
    ) {
        let (one, other) = (one.join("/"), other.join("/"));
        if let (Ok(fast), Ok(slow)) = (TopicFilter::try_from(one.as_str()), TopicFilter::try_from(other.as_str())) {
            let universe = reference::universe(&["", "a", "other", "$a"], 4);
            prop_assert_eq!(fast.covers(&slow), reference::covers(&one, &other, &universe));
            prop_assert_eq!(fast.overlaps(&slow), reference::overlaps(&one, &other, &universe));
        }
    }

    #[test]
    fn a_topic_is_a_filter_that_matches_itself_alone(topic in any_topic(), other in any_topic()) {
        let filter = TopicFilter::try_from(topic.as_str()).unwrap();
        prop_assert_eq!(filter.matches(&other), topic == other);
        prop_assert!(filter.levels().eq(topic.levels().map(Level::Literal)));
    }
}

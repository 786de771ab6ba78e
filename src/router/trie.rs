//! A tree of topic levels that holds values under topic filters or topic names.
//!
//! Enters: texts of checked topic names and filters. Leaves: the values that match. It never recurses, never visits
//! what does not take part (a lookup costs at most `min(2^depth, matching prefixes)` steps), and keeps no node
//! without a value below it: a name that a client made up is forgotten with its last use.

use std::collections::HashMap;

use slab::Slab;
use smallvec::SmallVec;

const ROOT: usize = 0;

/// Values by level path. `+` and `#` are levels like any other: only the lookups give them meaning.
#[derive(Debug)]
pub(super) struct LevelTrie<T> {
    nodes: Slab<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    parent: usize,
    level: Box<str>,
    children: HashMap<Box<str>, usize>,
    value: Option<T>,
}

type Pending<'t> = SmallVec<[(usize, Option<&'t str>); 16]>;

/// The first level of a path and what follows it.
fn split_first(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    }
}

impl<T> LevelTrie<T> {
    pub(super) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node { parent: ROOT, level: "".into(), children: HashMap::new(), value: None });
        Self { nodes }
    }

    /// How many nodes there are; 1 when nothing is stored.
    #[cfg(test)]
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/').try_fold(ROOT, |node, level| self.nodes.get(node)?.children.get(level).copied())
    }

    pub(super) fn get_mut(&mut self, path: &str) -> Option<&mut T> {
        let node = self.find(path)?;
        self.nodes.get_mut(node)?.value.as_mut()
    }

    /// The value at `path`, made by `make` if there is none.
    pub(super) fn get_or_insert_with(&mut self, path: &str, make: impl FnOnce() -> T) -> &mut T {
        let node = self.make(path);
        // INVARIANT: `make` answers with a node that exists.
        #[expect(clippy::indexing_slicing, reason = "the invariant above")]
        self.nodes[node].value.get_or_insert_with(make)
    }

    /// The node at `path`, with those that lead to it.
    fn make(&mut self, path: &str) -> usize {
        let mut node = ROOT;
        for level in path.split('/') {
            let known = self.nodes.get(node).and_then(|node| node.children.get(level).copied());
            node = known.unwrap_or_else(|| {
                let child = self.nodes.insert(Node {
                    parent: node,
                    level: level.into(),
                    children: HashMap::new(),
                    value: None,
                });
                if let Some(parent) = self.nodes.get_mut(node) {
                    parent.children.insert(level.into(), child);
                }
                child
            });
        }
        node
    }

    /// Puts a value at `path`; gives back the one that was there.
    pub(super) fn insert(&mut self, path: &str, value: T) -> Option<T> {
        let node = self.make(path);
        self.nodes.get_mut(node).and_then(|node| node.value.replace(value))
    }

    /// Every value, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.nodes.iter().filter_map(|(_, node)| node.value.as_ref())
    }

    /// Takes the value at `path` away, and every node that then leads nowhere.
    pub(super) fn remove(&mut self, path: &str) -> Option<T> {
        let mut node = self.find(path)?;
        let value = self.nodes.get_mut(node)?.value.take();
        while node != ROOT {
            let Some(current) = self.nodes.get(node) else { break };
            if current.value.is_some() || !current.children.is_empty() {
                break;
            }
            let removed = self.nodes.remove(node);
            node = removed.parent;
            if let Some(parent) = self.nodes.get_mut(node) {
                parent.children.remove(&removed.level);
                if parent.children.capacity() > 64 && parent.children.len() * 4 < parent.children.capacity() {
                    parent.children.shrink_to_fit();
                }
            }
        }
        value
    }

    /// Visits the values of every stored filter that matches the topic name.
    pub(super) fn for_each_filter_of<'t>(&'t self, topic: &'t str, mut visit: impl FnMut(&'t T)) {
        let mut pending: Pending<'t> = SmallVec::new();
        pending.push((ROOT, Some(topic)));
        let reserved = topic.starts_with('$');
        while let Some((at, rest)) = pending.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            // [MQTT-4.7.2-1] a wildcard at the first level does not match a topic that begins with `$`.
            let wildcards = !(reserved && at == ROOT);
            // "#" also stands for its parent level: `sport/#` matches `sport` (section 4.7.1.2).
            if wildcards && let Some(value) = self.child_value(node, "#") {
                visit(value);
            }
            let Some(path) = rest else {
                node.value.iter().for_each(&mut visit);
                continue;
            };
            let (first, rest) = split_first(path);
            if wildcards && let Some(child) = node.children.get("+") {
                pending.push((*child, rest));
            }
            if let Some(child) = node.children.get(first) {
                pending.push((*child, rest));
            }
        }
    }

    fn child_value<'t>(&'t self, node: &Node<T>, level: &str) -> Option<&'t T> {
        self.nodes.get(*node.children.get(level)?)?.value.as_ref()
    }

    /// Visits the values of every stored topic name that the filter matches.
    pub(super) fn for_each_topic_of<'t>(&'t self, filter: &'t str, mut visit: impl FnMut(&'t T)) {
        let mut pending: Pending<'t> = SmallVec::new();
        pending.push((ROOT, Some(filter)));
        while let Some((at, rest)) = pending.pop() {
            let Some(node) = self.nodes.get(at) else { continue };
            let Some(path) = rest else {
                node.value.iter().for_each(&mut visit);
                continue;
            };
            let wildcard_children =
                || node.children.iter().filter(|(level, _)| at != ROOT || !level.starts_with('$')).map(|(_, id)| *id);
            match split_first(path) {
                ("#", _) => {
                    node.value.iter().for_each(&mut visit);
                    pending.extend(wildcard_children().map(|child| (child, Some("#"))));
                }
                ("+", rest) => pending.extend(wildcard_children().map(|child| (child, rest))),
                (level, rest) => pending.extend(node.children.get(level).map(|child| (*child, rest))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// The small slow definition of matching, level by level.
    fn matches(filter: &str, topic: &str) -> bool {
        fn levels(filter: &[&str], topic: &[&str]) -> bool {
            match (filter, topic) {
                (["#"], _) | ([], []) => true,
                ([f, filter @ ..], [t, topic @ ..]) => (*f == "+" || f == t) && levels(filter, topic),
                _ => false,
            }
        }
        let filter: Vec<_> = filter.split('/').collect();
        let topic: Vec<_> = topic.split('/').collect();
        !(topic[0].starts_with('$') && matches!(filter[0], "+" | "#")) && levels(&filter, &topic)
    }

    fn topics() -> impl Strategy<Value = String> {
        vec(select(vec!["", "a", "b", "c", "$SYS"]), 1..4).prop_map(|levels| levels.join("/"))
    }

    fn filters() -> impl Strategy<Value = String> {
        (vec(select(vec!["", "a", "b", "+", "$SYS"]), 0..4), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash || levels.is_empty() {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("not empty", |filter| !filter.is_empty())
    }

    proptest! {
        #[test]
        fn lookup_by_topic_finds_exactly_the_matching_filters(filters in vec(filters(), 0..20), topic in topics()) {
            let mut trie = LevelTrie::new();
            for filter in &filters {
                trie.get_or_insert_with(filter, || filter.clone());
            }
            let mut found = Vec::new();
            trie.for_each_filter_of(&topic, |filter| found.push(filter.clone()));
            found.sort();
            let mut expected: Vec<_> = filters.iter().filter(|filter| matches(filter, &topic)).cloned().collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn lookup_by_filter_finds_exactly_the_matching_topics(topics in vec(topics(), 0..20), filter in filters()) {
            let mut trie = LevelTrie::new();
            for topic in &topics {
                trie.get_or_insert_with(topic, || topic.clone());
            }
            let mut found = Vec::new();
            trie.for_each_topic_of(&filter, |topic| found.push(topic.clone()));
            found.sort();
            let mut expected: Vec<_> = topics.iter().filter(|topic| matches(&filter, topic)).cloned().collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn it_behaves_like_a_map_and_forgets_what_is_removed(
            steps in vec((filters(), any::<bool>(), any::<u8>()), 0..60)
        ) {
            let mut trie = LevelTrie::new();
            let mut model = BTreeMap::new();
            for (path, insert, value) in steps {
                if insert {
                    *trie.get_or_insert_with(&path, || 0) = value;
                    model.insert(path, value);
                } else {
                    prop_assert_eq!(trie.remove(&path), model.remove(&path));
                }
            }
            for (path, value) in &mut model {
                prop_assert_eq!(trie.get_mut(path), Some(value));
            }
            for path in model.keys() {
                trie.remove(path);
            }
            prop_assert_eq!(trie.node_count(), 1);
        }
    }

    #[test]
    fn a_topic_of_many_levels_costs_no_stack() {
        let mut trie = LevelTrie::new();
        let deep = vec!["a"; 30_000].join("/");
        trie.get_or_insert_with(&deep, || 1);
        let mut found = 0;
        trie.for_each_filter_of(&deep, |_| found += 1);
        trie.for_each_topic_of("#", |_| found += 1);
        assert_eq!(found, 2);
        assert_eq!(trie.remove(&deep), Some(1));
        assert_eq!(trie.node_count(), 1);
    }
}

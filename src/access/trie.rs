//! The patterns of one rule set as a tree of levels, and the two walks over it.
//!
//! Patterns enter once, when a policy is compiled. Asked for the levels of a topic, a path or a filter, the tree visits the
//! places where rules sit that *cover* or *overlap* what is asked. Every node has one path to it, so that a walk visits each
//! at most once: a walk over a topic takes at most min(4^levels, nodes) steps, whatever the number of rules. It is
//! iterative and does not allocate. What a rule means is not known here, except in the summary that each place carries.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use smallvec::{SmallVec, smallvec};

use super::pattern::{Asked, Domain, Identity, Level, MAX_LEVELS, Value};
use super::summary::{Below, Summary};

/// A node takes at most four edges for a literal level and is itself taken off the stack first.
const MAX_STACK: usize = 3 * (MAX_LEVELS + 2) + 1;

/// The patterns of one domain.
#[derive(Debug)]
pub(super) struct Trie {
    /// The root is the first; each node comes before its children.
    nodes: Box<[Node]>,
    /// What the slots refer to.
    rules: Box<[u32]>,
    guarded_level: usize,
}

/// Edges are indices of nodes; 0, the root, stands for none.
#[derive(Debug, Default)]
struct Node {
    /// Sorted by text.
    literals: Box<[(Box<str>, u32)]>,
    any: u32,
    username: u32,
    client_id: u32,
    /// Patterns that end here.
    here: Slot,
    /// Patterns that go on with `#`.
    rest: Slot,
    /// What all nodes below say together; at the guarded level without those behind `$...` and placeholders.
    below: Below,
}

/// Where rules sit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// What these rules say together.
    pub(super) summary: Summary,
    first: u32,
    count: u32,
}

/// A pattern on its way into the tree.
pub(super) struct Entry<'a> {
    pub(super) levels: Vec<Level<'a>>,
    pub(super) rule: u32,
    pub(super) summary: Summary,
}

/// A place that a walk has come to. `denies_only`: on a path that allow rules may not take, because a placeholder on it
/// has no value.
pub(super) struct Place<'t> {
    pub(super) slot: &'t Slot,
    pub(super) denies_only: bool,
}

/// What the walk over overlapping patterns meets.
pub(super) trait OverlapVisitor {
    /// Rules sit here.
    fn place(&mut self, place: Place<'_>) -> ControlFlow<()>;
    /// Everything under a node overlaps. `Some`: the summary was enough. `None`: visit each place.
    fn subtree(&mut self, below: Below, denies_only: bool) -> Option<ControlFlow<()>>;
    /// One more step; `Break` gives up.
    fn step(&mut self) -> ControlFlow<()>;
}

#[derive(Clone, Copy)]
struct Frame {
    node: u32,
    /// The level asked for at this node.
    at: u16,
    /// Levels of the pattern so far; more than `at` under a `#` that was asked for.
    depth: u16,
    denies_only: bool,
}

impl Frame {
    const ROOT: Self = Self { node: 0, at: 0, depth: 0, denies_only: false };

    fn below(self, node: u32) -> Self {
        Self { node, at: self.at.saturating_add(1), depth: self.depth.saturating_add(1), ..self }
    }

    fn to_the_end(self, node: u32) -> Self {
        Self { node, depth: self.depth.saturating_add(1), ..self }
    }

    fn denies_only(self, denies_only: bool) -> Self {
        Self { denies_only: self.denies_only || denies_only, ..self }
    }
}

impl Trie {
    /// The rules that sit in a slot.
    pub(super) fn rules_of(&self, slot: &Slot) -> &[u32] {
        let first = slot.first as usize;
        self.rules.get(first..first.saturating_add(slot.count as usize)).unwrap_or_default()
    }

    /// Visits each place whose patterns match every topic that is asked for; for a topic, each pattern that matches it.
    pub(super) fn covering<'t>(
        &'t self,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        mut visit: impl FnMut(Place<'t>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut stack: SmallVec<[Frame; MAX_STACK]> = smallvec![Frame::ROOT];
        while let Some(frame) = stack.pop() {
            let Some(node) = self.nodes.get(frame.node as usize) else { continue };
            let level = asked.get(usize::from(frame.at)).copied();
            let guarded = usize::from(frame.depth) == self.guarded_level;
            let reserved = guarded && is_reserved(level);
            if !reserved {
                visit_slot(&node.rest, frame.denies_only, &mut visit)?;
            }
            match level {
                None => visit_slot(&node.here, frame.denies_only, &mut visit)?,
                // `#` at the first level matches at least one level, and so is covered by `+/#` too.
                Some(Asked::Rest) if guarded => {
                    let mut rest_of = |edge: u32, denies_only: bool| match self.nodes.get(edge as usize) {
                        Some(child) if edge != 0 => visit_slot(&child.rest, denies_only, &mut visit),
                        _ => ControlFlow::Continue(()),
                    };
                    rest_of(node.any, frame.denies_only)?;
                    for (edge, value) in node.placeholders(who) {
                        if matches!(value, Value::Odd) {
                            rest_of(edge, true)?;
                        }
                    }
                }
                Some(Asked::Rest) => {}
                Some(Asked::Any) => {
                    if node.any != 0 {
                        stack.push(frame.below(node.any));
                    }
                    for (edge, value) in node.placeholders(who) {
                        if edge != 0 && matches!(value, Value::Odd) {
                            stack.push(frame.below(edge).denies_only(true));
                        }
                    }
                }
                Some(Asked::Literal(text)) => node.literal_edges(text, reserved, frame, who, |next| stack.push(next)),
            }
        }
        debug_assert!(!stack.spilled(), "the hot path does not allocate");
        ControlFlow::Continue(())
    }

    /// Visits each place whose patterns match some topic that is asked for.
    pub(super) fn overlapping(
        &self,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        visitor: &mut impl OverlapVisitor,
    ) -> ControlFlow<()> {
        let mut stack = vec![Frame::ROOT];
        while let Some(frame) = stack.pop() {
            visitor.step()?;
            let Some(node) = self.nodes.get(frame.node as usize) else { continue };
            let level = asked.get(usize::from(frame.at)).copied();
            let guarded = usize::from(frame.depth) == self.guarded_level;
            let reserved = guarded && is_reserved(level);
            let mut visit = |place: Place<'_>| visitor.place(place);
            if !reserved {
                visit_slot(&node.rest, frame.denies_only, &mut visit)?;
            }
            match level {
                None => visit_slot(&node.here, frame.denies_only, &mut visit)?,
                Some(Asked::Rest) => {
                    visit_slot(&node.here, frame.denies_only, &mut visit)?;
                    match visitor.subtree(node.below, frame.denies_only) {
                        Some(flow) => {
                            flow?;
                            if guarded {
                                node.placeholder_edges(guarded, who, |edge, odd| {
                                    stack.push(frame.to_the_end(edge).denies_only(odd));
                                });
                            }
                        }
                        None => node.all_edges(guarded, who, |edge, odd| {
                            stack.push(frame.to_the_end(edge).denies_only(odd));
                        }),
                    }
                }
                Some(Asked::Any) => {
                    node.all_edges(guarded, who, |edge, odd| stack.push(frame.below(edge).denies_only(odd)));
                }
                Some(Asked::Literal(text)) => node.literal_edges(text, reserved, frame, who, |next| stack.push(next)),
            }
        }
        ControlFlow::Continue(())
    }

    /// Grows the tree. Indices are `u32`: the caps on rules and bytes of one rule set keep far below.
    pub(super) fn grow(domain: Domain, entries: Vec<Entry<'_>>) -> Self {
        let mut seeds: Vec<Seed<'_>> = vec![Seed::default()];
        for entry in entries {
            let mut at = 0_usize;
            let mut rest = false;
            for level in entry.levels {
                let fresh = index(seeds.len());
                let Some(seed) = seeds.get_mut(at) else { break };
                let edge = match level {
                    Level::Rest => {
                        rest = true;
                        break;
                    }
                    Level::Literal(text) => seed.literals.entry(text).or_insert(0),
                    Level::Any => &mut seed.any,
                    Level::Username => &mut seed.username,
                    Level::ClientId => &mut seed.client_id,
                };
                if *edge == 0 {
                    *edge = fresh;
                }
                at = *edge as usize;
                if at == seeds.len() {
                    seeds.push(Seed::default());
                }
            }
            if let Some(seed) = seeds.get_mut(at) {
                let place = if rest { &mut seed.rest } else { &mut seed.here };
                place.push((entry.rule, entry.summary));
            }
        }
        let mut rules = Vec::new();
        let mut nodes: Vec<Node> = seeds.into_iter().map(|seed| seed.ripen(&mut rules)).collect();
        let guarded_level = domain.guarded_level();
        let depths = depths(&nodes);
        // Children come after their parents, so that going backwards each node finds its children summed up.
        for at in (0..nodes.len()).rev() {
            let (Some(node), Some(depth)) = (nodes.get(at), depths.get(at)) else { continue };
            let total = |edge: u32| {
                nodes
                    .get(edge as usize)
                    .filter(|_| edge != 0)
                    .map_or_else(Below::default, |child| child.below.and(child.here.summary).and(child.rest.summary))
            };
            let mut below = Below::default();
            for (text, edge) in &node.literals {
                if *depth != guarded_level || !text.starts_with('$') {
                    below = below.merge(total(*edge));
                }
            }
            below = below.merge(total(node.any));
            // Whether a placeholder at the guarded level matches anything depends on its value.
            if *depth != guarded_level {
                below = below.merge(total(node.username).through_username());
                below = below.merge(total(node.client_id).through_client_id());
            }
            if let Some(node) = nodes.get_mut(at) {
                node.below = below;
            }
        }
        Self { nodes: nodes.into(), rules: rules.into(), guarded_level }
    }
}

impl Node {
    fn placeholders<'i>(&self, who: Identity<'i>) -> [(u32, Value<'i>); 2] {
        [(self.username, who.username), (self.client_id, who.client_id)]
    }

    /// The edges that a literal level takes.
    fn literal_edges(&self, text: &str, reserved: bool, frame: Frame, who: Identity<'_>, mut take: impl FnMut(Frame)) {
        if let Ok(place) = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(text))
            && let Some((_, edge)) = self.literals.get(place)
        {
            take(frame.below(*edge));
        }
        // A wildcard or placeholder at the first level never matches a `$` topic. [MQTT-4.7.2-1]
        if reserved {
            return;
        }
        if self.any != 0 {
            take(frame.below(self.any));
        }
        for (edge, value) in self.placeholders(who) {
            match value {
                _ if edge == 0 => {}
                Value::Literal(value) if value == text => take(frame.below(edge)),
                Value::Literal(_) => {}
                Value::Odd => take(frame.below(edge).denies_only(true)),
            }
        }
    }

    /// Every edge, and whether it is of a placeholder without a value.
    fn all_edges(&self, guarded: bool, who: Identity<'_>, mut take: impl FnMut(u32, bool)) {
        for (text, edge) in &self.literals {
            if !guarded || !text.starts_with('$') {
                take(*edge, false);
            }
        }
        if self.any != 0 {
            take(self.any, false);
        }
        self.placeholder_edges(guarded, who, take);
    }

    fn placeholder_edges(&self, guarded: bool, who: Identity<'_>, mut take: impl FnMut(u32, bool)) {
        for (edge, value) in self.placeholders(who) {
            // A first level that begins with `$` is none that a placeholder could match.
            let reserved = guarded && matches!(value, Value::Literal(text) if text.starts_with('$'));
            if edge != 0 && !reserved {
                take(edge, matches!(value, Value::Odd));
            }
        }
    }
}

fn is_reserved(level: Option<Asked<'_>>) -> bool {
    matches!(level, Some(Asked::Literal(text)) if text.starts_with('$'))
}

fn visit_slot<'t>(
    slot: &'t Slot,
    denies_only: bool,
    visit: &mut impl FnMut(Place<'t>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if slot.count == 0 { ControlFlow::Continue(()) } else { visit(Place { slot, denies_only }) }
}

/// A node that still grows.
#[derive(Default)]
struct Seed<'a> {
    literals: BTreeMap<&'a str, u32>,
    any: u32,
    username: u32,
    client_id: u32,
    here: Vec<(u32, Summary)>,
    rest: Vec<(u32, Summary)>,
}

impl Seed<'_> {
    fn ripen(self, rules: &mut Vec<u32>) -> Node {
        let mut slot = |place: Vec<(u32, Summary)>| {
            let first = index(rules.len());
            let summary = place.iter().fold(Summary::default(), |sum, (_, summary)| sum.merge(*summary));
            rules.extend(place.iter().map(|(rule, _)| rule));
            Slot { summary, first, count: index(place.len()) }
        };
        Node {
            here: slot(self.here),
            rest: slot(self.rest),
            literals: self.literals.into_iter().map(|(text, edge)| (text.into(), edge)).collect(),
            any: self.any,
            username: self.username,
            client_id: self.client_id,
            below: Below::default(),
        }
    }
}

fn index(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn depths(nodes: &[Node]) -> Vec<usize> {
    let mut depths = vec![0_usize; nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        let below = depths.get(at).copied().unwrap_or(0).saturating_add(1);
        let edges = node.literals.iter().map(|(_, edge)| *edge).chain([node.any, node.username, node.client_id]);
        for edge in edges.filter(|edge| *edge != 0) {
            if let Some(depth) = depths.get_mut(edge as usize) {
                *depth = below;
            }
        }
    }
    depths
}

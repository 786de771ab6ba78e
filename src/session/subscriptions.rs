//! The subscriptions of one session, and what the rules say to each.
//!
//! Filters enter with what was granted; a number leaves that the router gives back with each message that matched.
//! Bounded by the caller. It never forgets a subscription because the rules forbid it: such a one is withheld.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::{Subscription, SubscriptionNumber};
use crate::access::{Authority, SubscribeVerdict};
use crate::mqtt::{QoS, SubscriptionOptions, TopicFilter, TopicName};

/// What stands between a message that matched and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Every topic of the filter may be received, at this QoS at most.
    Open(QoS),
    /// Each topic is asked for.
    Checked,
    /// Nothing passes.
    Withheld,
}

impl Gate {
    /// For a subscription that was granted; one that is now permitted in part is narrowed.
    fn of(filter: &TopicFilter, granted: QoS, authority: &Authority) -> Self {
        match authority.may_subscribe(filter) {
            SubscribeVerdict::Granted { max_qos, unconditional: true } => Self::Open(max_qos.min(granted)),
            SubscribeVerdict::Granted { .. } | SubscribeVerdict::Partial { .. } => Self::Checked,
            SubscribeVerdict::Refused => Self::Withheld,
        }
    }
}

/// One subscription.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// In memory of its own.
    pub(super) filter: TopicFilter,
    /// The QoS is the one granted.
    pub(super) options: SubscriptionOptions,
    pub(super) identifier: Option<NonZeroU32>,
    /// For the registry's answers alone: needs no rule, and the router does not know it.
    pub(super) local: bool,
    pub(super) gate: Gate,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    held: Option<Held>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    slots: Vec<Slot>,
    // INVARIANT: exactly the filters that some slot holds.
    by_filter: HashMap<TopicFilter, u32>,
    free: Vec<u32>,
    /// Of the texts of all filters.
    bytes: usize,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.by_filter.len()
    }

    /// Bytes of all filters together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// By its text, literally. `[MQTT-3.10.4-1]`
    pub(super) fn contains(&self, filter: &TopicFilter) -> bool {
        self.by_filter.contains_key(filter)
    }

    /// `None` for a number that is no longer in use.
    pub(super) fn get(&self, number: SubscriptionNumber) -> Option<&Held> {
        let slot = self.slots.get(usize::try_from(number.slot).ok()?)?;
        if slot.generation == number.generation { slot.held.as_ref() } else { None }
    }

    /// Puts a subscription in; one with the same filter is replaced and keeps its number. `[MQTT-3.8.4-3]`
    pub(super) fn put(&mut self, held: Held) -> SubscriptionNumber {
        let known = self.by_filter.get(&held.filter).copied();
        if known.is_none() {
            self.bytes = self.bytes.saturating_add(held.filter.as_str().len());
        }
        let index = known.or_else(|| self.free.pop());
        if let Some((index, slot)) = index.and_then(|index| Some((index, self.slots.get_mut(to_usize(index))?))) {
            if known.is_none() {
                self.by_filter.insert(held.filter.clone(), index);
            }
            slot.held = Some(held);
            return SubscriptionNumber { slot: index, generation: slot.generation };
        }
        // Bounded by the settings: far below 2^32.
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.by_filter.insert(held.filter.clone(), index);
        self.slots.push(Slot { generation: 0, held: Some(held) });
        SubscriptionNumber { slot: index, generation: 0 }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Option<(Held, SubscriptionNumber)> {
        let index = self.by_filter.remove(filter)?;
        self.bytes = self.bytes.saturating_sub(filter.as_str().len());
        let slot = self.slots.get_mut(to_usize(index))?;
        let number = SubscriptionNumber { slot: index, generation: slot.generation };
        let held = slot.held.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some((held, number))
    }

    /// Takes all out. Numbers given before stay unused.
    pub(super) fn clear(&mut self) -> Vec<(Held, SubscriptionNumber)> {
        let filters: Vec<TopicFilter> = self.by_filter.keys().cloned().collect();
        filters.iter().filter_map(|filter| self.remove(filter)).collect()
    }

    /// Judges each one anew; those that are withheld from now on are returned.
    pub(super) fn judge(&mut self, authority: &Authority) -> Vec<TopicFilter> {
        let mut withheld = Vec::new();
        for held in self.slots.iter_mut().filter_map(|slot| slot.held.as_mut()).filter(|held| !held.local) {
            let before = std::mem::replace(&mut held.gate, Gate::of(&held.filter, held.options.qos, authority));
            if held.gate == Gate::Withheld && before != Gate::Withheld {
                withheld.push(held.filter.clone());
            }
        }
        withheld
    }

    /// At which QoS an answer of the registry on `topic` is wanted, with the identifiers; `None`: not at all.
    pub(super) fn answer(&self, topic: &TopicName) -> Option<(QoS, impl Iterator<Item = NonZeroU32>)> {
        let matching = move || {
            self.slots
                .iter()
                .filter_map(|slot| slot.held.as_ref())
                .filter(move |held| (held.local || held.gate != Gate::Withheld) && held.filter.matches(topic))
        };
        let qos = matching().map(|held| held.options.qos).max()?;
        Some((qos, matching().filter_map(|held| held.identifier)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Subscription<'_>> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let held = slot.held.as_ref()?;
            Some(Subscription {
                filter: &held.filter,
                number: SubscriptionNumber { slot: index, generation: slot.generation },
                options: held.options,
                withheld: held.gate == Gate::Withheld,
                local: held.local,
            })
        })
    }
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

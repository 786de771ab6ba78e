//! A map that forgets: bounded in entries, the least recently written or promoted go first.
//!
//! Enters: keys that strangers choose (addresses, names). Leaves: what was remembered of the recent ones. It never
//! holds more than its capacity, and every operation costs the same however full it is.
//!
//! Two generations: entries are written to the young one; when that is half of the capacity it becomes the old one and
//! what was old is dropped. An entry therefore survives at least `capacity / 2` writes of other keys.

use std::collections::HashMap;
use std::hash::Hash;

pub(super) struct Bounded<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// Holds at most `capacity` entries (at least two).
    pub(super) fn new(capacity: usize) -> Self {
        Self { half: (capacity / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Keeps an entry that is in use from being the next to go.
    pub(super) fn promote(&mut self, key: K) {
        if let Some(value) = self.old.remove(&key) {
            self.insert(key, value);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_never_holds_more_than_its_capacity_and_keeps_the_recent_half(
            capacity in 2_usize..40, keys in prop::collection::vec(0_u16..60, 0..200),
        ) {
            let mut map = Bounded::new(capacity);
            for (at, key) in keys.iter().enumerate() {
                map.insert(*key, at);
                prop_assert!(map.len() <= capacity);
                let mut recent: Vec<u16> = Vec::new();
                for key in keys[..=at].iter().rev() {
                    if !recent.contains(key) {
                        recent.push(*key);
                    }
                }
                for key in recent.iter().take(capacity / 2) {
                    let last = keys[..=at].iter().rposition(|k| k == key);
                    prop_assert_eq!(map.get(key).copied(), last);
                }
            }
        }

        #[test]
        fn what_is_promoted_outlives_a_flood(capacity in 4_usize..40, flood in 0_u32..500) {
            let mut map = Bounded::new(capacity);
            map.insert(u32::MAX, ());
            for key in 0..flood {
                map.insert(key, ());
                map.promote(u32::MAX);
                prop_assert!(map.get(&u32::MAX).is_some());
            }
        }
    }

    #[test]
    fn what_is_removed_is_gone_from_both_generations() {
        let mut map = Bounded::new(4);
        for key in 0..4 {
            map.insert(key, ());
        }
        for key in 0..4 {
            map.remove(&key);
        }
        assert_eq!(map.len(), 0);
    }
}

//! A small memory of decisions by topic, good for one policy version.
//!
//! Topics and answers enter; the answer of a topic asked lately leaves. Bounded: [`SLOTS`] entries of topics of at
//! most [`LONGEST`] bytes, in memory of their own; nothing is allocated before the first one. It never answers for
//! another version of the policy than the one asked for.

use super::message::detach_topic;
use crate::access::PolicyVersion;
use crate::mqtt::TopicName;

/// A power of two.
const SLOTS: usize = 32;
const LONGEST: usize = 256;

/// Each topic has one place, which it shares with others: the last one asked for has it. A client that makes topics
/// collide slows down nobody but itself.
#[derive(Debug)]
pub(super) struct TopicCache<V> {
    version: PolicyVersion,
    slots: Vec<Option<(TopicName, V)>>,
}

impl<V: Clone> TopicCache<V> {
    pub(super) const fn new() -> Self {
        Self { version: PolicyVersion(0), slots: Vec::new() }
    }

    /// The answer for `topic`, from memory or by `decide`, whose result is remembered. `decide` gets the topic in
    /// memory of its own where it will be remembered, to be kept in the answer at no cost.
    pub(super) fn get_or(
        &mut self,
        version: PolicyVersion,
        topic: &TopicName,
        decide: impl FnOnce(&TopicName) -> V,
    ) -> V {
        if self.version != version {
            self.version = version;
            self.slots.clear();
        }
        if topic.as_str().len() > LONGEST {
            return decide(topic);
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let Some(slot) = self.slots.get_mut(place(topic.as_str().as_bytes())) else {
            return decide(topic);
        };
        match slot {
            Some((held, value)) if held == topic => value.clone(),
            _ => {
                let held = detach_topic(topic);
                let value = decide(&held);
                *slot = Some((held, value.clone()));
                value
            }
        }
    }
}

fn place(text: &[u8]) -> usize {
    let mut hash = 0_u64;
    for chunk in text.chunks(8) {
        let word = chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    usize::try_from(hash >> 59).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::try_from(text).unwrap()
    }

    #[test]
    fn a_topic_is_decided_once_for_each_version() {
        let mut cache = TopicCache::new();
        let mut asked = 0;
        for version in [1, 1, 2, 2, 1] {
            cache.get_or(PolicyVersion(version), &topic("a/b"), |_| asked += 1);
        }
        assert_eq!(asked, 3);
    }

    #[test]
    fn colliding_topics_get_their_own_answers() {
        let mut cache = TopicCache::new();
        for _ in 0..2 {
            for n in 0..500 {
                let name = topic(&format!("t/{n}"));
                assert_eq!(cache.get_or(PolicyVersion(1), &name, |t| t.as_str().to_owned()), name.as_str());
            }
        }
        assert_eq!(cache.slots.len(), SLOTS);
    }

    #[test]
    fn a_long_topic_is_not_kept() {
        let mut cache = TopicCache::new();
        cache.get_or(PolicyVersion(1), &topic(&"x".repeat(LONGEST + 1)), |_| ());
        assert!(cache.slots.is_empty());
    }
}

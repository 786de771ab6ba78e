//! The last message of each topic that was published with RETAIN, in memory of its own and within two bounds, and
//! within those of its publisher's quota.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::{Origin, trie::LevelTrie};
use crate::{
    access::{QuotaKind, UserId},
    clock::Instant,
    mqtt::{ClientId, TopicFilter},
    session::Message,
};

/// What an entry costs beside its message.
const OVERHEAD: usize = 256;

/// How much may be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of topics, payloads, properties and bookkeeping.
    pub bytes: usize,
}

/// A retained message and whoever published it: its right to stand there is judged when it is sent.
#[derive(Clone, Debug)]
pub struct RetainedMessage {
    /// The message, RETAIN set.
    pub message: Arc<Message>,
    /// User and client identifier of the publisher; `None`: the broker itself.
    pub publisher: Option<(UserId, ClientId)>,
}

/// There is no room for another retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedFull {
    /// [`RetainedLimits`].
    Limits,
    /// The quota of its publisher.
    Quota(QuotaKind),
}

#[derive(Debug)]
pub(super) struct Retained {
    limits: RetainedLimits,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    messages: LevelTrie<RetainedMessage>,
    held: Held,
    /// What each user published of it.
    /// INVARIANT: nobody without a message is in it.
    shares: HashMap<UserId, Held>,
}

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    count: usize,
    bytes: usize,
}

impl Held {
    fn plus(self, cost: usize) -> Self {
        Self { count: self.count + 1, bytes: self.bytes.saturating_add(cost) }
    }

    fn minus(self, cost: usize) -> Self {
        Self { count: self.count.saturating_sub(1), bytes: self.bytes.saturating_sub(cost) }
    }
}

impl Table {
    fn share(&self, user: UserId) -> Held {
        self.shares.get(&user).copied().unwrap_or_default()
    }

    /// Takes the topic's message out.
    fn remove(&mut self, topic: &str) {
        let Some(entry) = self.messages.remove(topic) else { return };
        self.forget(entry.publisher.map(|(user, _)| user), cost(&entry.message));
    }

    fn forget(&mut self, publisher: Option<UserId>, cost: usize) {
        self.held = self.held.minus(cost);
        if let Some(user) = publisher {
            let left = self.share(user).minus(cost);
            if left.count == 0 {
                self.shares.remove(&user);
            } else {
                self.shares.insert(user, left);
            }
        }
    }
}

fn cost(message: &Message) -> usize {
    message.size() + OVERHEAD
}

impl Retained {
    pub(super) fn new(limits: RetainedLimits) -> Self {
        let table = Table { messages: LevelTrie::new(), held: Held::default(), shares: HashMap::new() };
        Self { limits, table: RwLock::new(table) }
    }

    /// Messages and bytes held.
    pub(super) fn size(&self) -> (usize, usize) {
        let table = self.table.read();
        (table.held.count, table.held.bytes)
    }

    /// Replaces the topic's retained message; an empty payload removes it. [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    pub(super) fn store(&self, message: &Message, origin: Option<&Origin<'_>>) -> Result<(), RetainedFull> {
        let topic = message.topic.as_str();
        let mut table = self.table.write();
        if message.payload.is_empty() {
            table.remove(topic);
            return Ok(());
        }
        let cost_of_new = cost(message);
        let publisher_of = |entry: &RetainedMessage| entry.publisher.as_ref().map(|(user, _)| *user);
        let old = table.messages.get_mut(topic).map(|entry| (publisher_of(entry), cost(&entry.message)));
        let held = old.map_or(table.held, |(_, cost)| table.held.minus(cost)).plus(cost_of_new);
        if held.count > self.limits.messages || held.bytes > self.limits.bytes {
            return Err(RetainedFull::Limits);
        }
        if let Some((user, quota)) = origin.and_then(|origin| Some((origin.user, origin.quota?))) {
            let before = table.share(user);
            let rest = match old {
                Some((Some(publisher), cost)) if publisher == user => before.minus(cost),
                _ => before,
            };
            let after = rest.plus(cost_of_new);
            // What a lower quota finds may stay and be replaced, as long as it does not grow.
            let over = |before: usize, after: usize, most: Option<u64>| {
                after > before && most.is_some_and(|most| u64::try_from(after).is_ok_and(|after| after > most))
            };
            if over(before.count, after.count, quota.retained_messages) {
                return Err(RetainedFull::Quota(QuotaKind::RetainedMessages));
            }
            if over(before.bytes, after.bytes, quota.retained_bytes) {
                return Err(RetainedFull::Quota(QuotaKind::RetainedBytes));
            }
        }
        if let Some((publisher, cost)) = old {
            table.forget(publisher, cost);
        }
        if let Some(origin) = origin {
            let share = table.share(origin.user).plus(cost_of_new);
            table.shares.insert(origin.user, share);
        }
        let publisher = origin.map(|origin| (origin.user, origin.client_id.clone()));
        table.messages.insert(topic, RetainedMessage { message: Arc::new(message.detached()), publisher });
        table.held = held;
        Ok(())
    }

    /// The live messages of all topics that the filter matches; expired ones are skipped.
    pub(super) fn matching(&self, filter: &TopicFilter, now: Instant) -> Vec<RetainedMessage> {
        let mut found = Vec::new();
        self.table.read().messages.for_each_topic_of(filter.as_str(), |entry| {
            if !entry.message.is_expired(now) {
                found.push(entry.clone());
            }
        });
        found
    }

    /// Takes this message out, unless another one has taken its place.
    pub(super) fn remove(&self, message: &Arc<Message>) {
        let topic = message.topic.as_str();
        let mut table = self.table.write();
        if table.messages.get_mut(topic).is_some_and(|entry| Arc::ptr_eq(&entry.message, message)) {
            table.remove(topic);
        }
    }

    /// Takes out every message that `keep` does not want. Publishers wait for no more than one removal.
    pub(super) fn retain(&self, keep: impl Fn(&RetainedMessage) -> bool) {
        let unwanted: Vec<_> = {
            let table = self.table.read();
            table.messages.values().filter(|entry| !keep(entry)).map(|entry| Arc::clone(&entry.message)).collect()
        };
        for message in unwanted {
            self.remove(&message);
        }
    }
}

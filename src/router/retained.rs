//! The last message of each topic that was published with RETAIN, in memory of its own and within two bounds.

use std::sync::Arc;

use parking_lot::RwLock;

use super::trie::LevelTrie;
use crate::{
    access::UserId,
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
pub(super) struct RetainedFull;

#[derive(Debug)]
pub(super) struct Retained {
    limits: RetainedLimits,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    messages: LevelTrie<RetainedMessage>,
    count: usize,
    bytes: usize,
}

fn cost(message: &Message) -> usize {
    message.size() + OVERHEAD
}

impl Retained {
    pub(super) fn new(limits: RetainedLimits) -> Self {
        let table = Table { messages: LevelTrie::new(), count: 0, bytes: 0 };
        Self { limits, table: RwLock::new(table) }
    }

    /// Messages and bytes held.
    pub(super) fn size(&self) -> (usize, usize) {
        let table = self.table.read();
        (table.count, table.bytes)
    }

    /// Replaces the topic's retained message; an empty payload removes it. [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    pub(super) fn store(&self, message: &Message, publisher: Option<(UserId, &ClientId)>) -> Result<(), RetainedFull> {
        let topic = message.topic.as_str();
        let mut table = self.table.write();
        let old = table.messages.get_mut(topic).map(|entry| cost(&entry.message));
        let (count, bytes) = (table.count - usize::from(old.is_some()), table.bytes - old.unwrap_or(0));
        if message.payload.is_empty() {
            if old.is_some() {
                table.messages.remove(topic);
                (table.count, table.bytes) = (count, bytes);
            }
            return Ok(());
        }
        if count >= self.limits.messages || bytes.saturating_add(cost(message)) > self.limits.bytes {
            return Err(RetainedFull);
        }
        let publisher = publisher.map(|(user, client)| (user, client.clone()));
        table.messages.insert(topic, RetainedMessage { message: Arc::new(message.detached()), publisher });
        (table.count, table.bytes) = (count + 1, bytes + cost(message));
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
            table.messages.remove(topic);
            table.count -= 1;
            table.bytes -= cost(message);
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

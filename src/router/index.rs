//! Who gets a message: subscriptions by topic filter.
//!
//! Readers never block each other. Each change moves the generation, by which a connection knows that the recipients
//! it remembers for a topic are out of date.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use indexmap::IndexMap;
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

use super::{mailbox::Mailbox, trie::LevelTrie};
use crate::{
    mqtt::{QoS, TopicFilter, TopicName},
    session::{Matched, SessionNumber, SubscriptionNumber},
};

/// Everybody who subscribed to one filter. An `IndexMap`: quick to walk for a fan-out, and one subscriber leaves at
/// the cost of one.
type Subscribers = IndexMap<SessionNumber, Target>;

#[derive(Clone, Debug)]
struct Target {
    number: SubscriptionNumber,
    qos: QoS,
    mailbox: Arc<Mailbox>,
}

/// One session that gets a message.
#[derive(Clone, Debug)]
pub(super) struct Recipient {
    pub(super) mailbox: Arc<Mailbox>,
    /// The highest of its matching subscriptions. [MQTT-3.3.5-1]
    pub(super) qos: QoS,
    pub(super) matched: SmallVec<[Matched; 1]>,
}

#[derive(Debug)]
pub(super) struct Index {
    subscriptions: RwLock<LevelTrie<Subscribers>>,
    generation: AtomicU64,
    count: AtomicUsize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { subscriptions: RwLock::new(LevelTrie::new()), generation: AtomicU64::new(0), count: AtomicUsize::new(0) }
    }

    /// Moves with every change.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many subscriptions there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds a subscription, or replaces the session's one to the same filter without a gap. [MQTT-3.8.4-3]
    pub(super) fn insert(
        &self,
        filter: &TopicFilter,
        session: SessionNumber,
        number: SubscriptionNumber,
        qos: QoS,
        mailbox: Arc<Mailbox>,
    ) {
        let mut subscriptions = self.subscriptions.write();
        let subscribers = subscriptions.get_or_insert_with(filter.as_str(), IndexMap::new);
        if subscribers.insert(session, Target { number, qos, mailbox }).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Takes a subscription out; without effect where a newer one stands in its place.
    pub(super) fn remove(&self, filter: &TopicFilter, session: SessionNumber, number: SubscriptionNumber) {
        let mut subscriptions = self.subscriptions.write();
        let Some(subscribers) = subscriptions.get_mut(filter.as_str()) else { return };
        if subscribers.get(&session).is_none_or(|target| target.number != number) {
            return;
        }
        subscribers.swap_remove(&session);
        self.count.fetch_sub(1, Ordering::Relaxed);
        if subscribers.is_empty() {
            subscriptions.remove(filter.as_str());
        } else if subscribers.capacity() > 64 && subscribers.len() * 4 < subscribers.capacity() {
            subscribers.shrink_to_fit();
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// This session, if it has a matching subscription.
    pub(super) fn recipient(&self, topic: &TopicName, session: SessionNumber) -> Option<Recipient> {
        let subscriptions = self.subscriptions.read();
        let mut found: Option<Recipient> = None;
        subscriptions.for_each_filter_of(topic.as_str(), |subscribers: &Subscribers| {
            let Some(target) = subscribers.get(&session) else { return };
            let recipient = found.get_or_insert_with(|| Recipient {
                mailbox: Arc::clone(&target.mailbox),
                qos: target.qos,
                matched: SmallVec::new(),
            });
            recipient.qos = recipient.qos.max(target.qos);
            recipient.matched.push(Matched { number: target.number });
        });
        found
    }

    /// Every session with a matching subscription, each once.
    pub(super) fn recipients(&self, topic: &TopicName) -> Vec<Recipient> {
        let subscriptions = self.subscriptions.read();
        let mut groups: SmallVec<[&Subscribers; 8]> = SmallVec::new();
        subscriptions.for_each_filter_of(topic.as_str(), |subscribers| groups.push(subscribers));
        let recipient = |target: &Target| Recipient {
            mailbox: Arc::clone(&target.mailbox),
            qos: target.qos,
            matched: smallvec![Matched { number: target.number }],
        };
        if let [only] = groups.as_slice() {
            return only.values().map(recipient).collect();
        }
        let mut places: HashMap<SessionNumber, usize> = HashMap::new();
        let mut recipients: Vec<Recipient> = Vec::new();
        for (session, target) in groups.into_iter().flatten() {
            let place = *places.entry(*session).or_insert(recipients.len());
            if let Some(known) = recipients.get_mut(place) {
                known.qos = known.qos.max(target.qos);
                known.matched.push(Matched { number: target.number });
            } else {
                recipients.push(recipient(target));
            }
        }
        recipients
    }
}

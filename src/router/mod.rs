//! From a published message to the mailboxes of the sessions that subscribed.
//!
//! There is no router thread: whoever publishes does the match and the hand-over itself. Enters: permitted messages
//! and subscriptions. Leaves: deliveries in mailboxes, retained messages. Whether a session may *receive* a message is
//! not decided here but at its delivery, under the rules of that moment.

mod index;
mod mailbox;
mod retained;
mod trie;

use std::{collections::HashMap, sync::Arc};

pub use mailbox::{Budget, Mailbox, MailboxLimits, Pushed};
pub use retained::{RetainedFull, RetainedLimits, RetainedMessage};

use self::{
    index::{Index, Recipient},
    mailbox::Shared,
    retained::Retained,
};
use crate::{
    access::{Quota, UserId},
    clock::Instant,
    mqtt::{ClientId, QoS, ReasonCode, TopicFilter, TopicName},
    session::{Delivery, Message, RouteOutcome, SessionNumber, SubscriptionNumber},
};

/// Topics that one connection remembers the recipients of, and how many recipients in all (64 bytes each).
const REMEMBERED_TOPICS: usize = 128;
const REMEMBERED_RECIPIENTS: usize = 16_384;

/// Longest topic that is remembered, in bytes.
const LONGEST_REMEMBERED: usize = 1024;

/// Recipients of the topics that one connection published to lately. Good for as long as no subscription changes.
#[derive(Debug, Default)]
pub struct RouteMemory {
    generation: u64,
    recipients: usize,
    topics: HashMap<TopicName, Arc<[Recipient]>>,
}

/// What became of a routed message, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// Sessions whose subscriptions match.
    pub matched: usize,
    /// Deliveries that found their mailbox full.
    pub dropped: usize,
    /// Those of them that only the receiver's quota left no room for.
    pub over_quota: usize,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The user.
    pub user: UserId,
    /// The client identifier.
    pub client_id: &'a ClientId,
    /// For what is retained.
    pub quota: Option<&'a Quota>,
}

/// The subscription index and the retained messages of one broker.
#[derive(Debug)]
pub struct Router {
    index: Index,
    retained: Retained,
}

impl Router {
    /// Nobody has subscribed, nothing is retained.
    pub fn new(limits: RetainedLimits) -> Self {
        Self { index: Index::new(), retained: Retained::new(limits) }
    }

    /// Adds a subscription, or replaces the session's one to the same filter.
    pub fn subscribe(
        &self,
        filter: &TopicFilter,
        session: SessionNumber,
        number: SubscriptionNumber,
        qos: QoS,
        mailbox: &Arc<Mailbox>,
    ) {
        self.index.insert(filter, session, number, qos, Arc::clone(mailbox));
    }

    /// Takes a subscription out.
    pub fn unsubscribe(&self, filter: &TopicFilter, session: SessionNumber, number: SubscriptionNumber) {
        self.index.remove(filter, session, number);
    }

    /// Retained messages for a new subscription.
    pub fn retained(&self, filter: &TopicFilter, now: Instant) -> Vec<RetainedMessage> {
        self.retained.matching(filter, now)
    }

    /// Drops this retained message, unless another one has taken its place.
    pub fn drop_retained(&self, entry: &RetainedMessage) {
        self.retained.remove(&entry.message);
    }

    /// Drops retained messages that `keep` does not want.
    pub fn sweep_retained(&self, keep: impl Fn(&RetainedMessage) -> bool) {
        self.retained.retain(keep);
    }

    /// Subscriptions, retained messages, retained bytes.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let (messages, bytes) = self.retained.size();
        (self.index.len(), messages, bytes)
    }

    /// Retains the message if it asks for that, and puts it into every matching mailbox.
    ///
    /// # Errors
    /// It cannot be retained; then nobody got it.
    pub fn route(
        &self,
        message: &Arc<Message>,
        origin: Option<&Origin<'_>>,
        memory: &mut RouteMemory,
    ) -> Result<Routed, RetainedFull> {
        if message.retain {
            self.retained.store(message, origin)?;
        }
        let recipients = self.recipients(&message.topic, memory);
        let mut shared = Shared::new(message);
        let mut routed = Routed { matched: recipients.len(), ..Routed::default() };
        for recipient in recipients.iter() {
            routed.push(message, &mut shared, recipient);
        }
        Ok(routed)
    }

    /// Puts the message into the mailbox of this session alone, if it holds a matching subscription. Retains nothing.
    pub fn answer(&self, message: &Arc<Message>, requester: SessionNumber) -> Routed {
        let recipient = self.index.recipient(&message.topic, requester);
        let mut routed = Routed { matched: usize::from(recipient.is_some()), ..Routed::default() };
        if let Some(recipient) = recipient {
            routed.push(message, &mut Shared::new(message), &recipient);
        }
        routed
    }

    fn recipients(&self, topic: &TopicName, memory: &mut RouteMemory) -> Arc<[Recipient]> {
        let generation = self.index.generation();
        if memory.generation != generation
            || memory.topics.len() >= REMEMBERED_TOPICS
            || memory.recipients >= REMEMBERED_RECIPIENTS
        {
            *memory = RouteMemory { generation, ..RouteMemory::default() };
        }
        if let Some(known) = memory.topics.get(topic) {
            return Arc::clone(known);
        }
        // Read before the index is: a change in between makes this entry out of date, never too new.
        let found: Arc<[Recipient]> = self.index.recipients(topic).into();
        // A topic of its own memory: the key must not hold a read buffer. A long one is not worth its memory.
        if topic.as_str().len() <= LONGEST_REMEMBERED
            && let Ok(key) = TopicName::try_from(topic.as_str())
        {
            memory.recipients += found.len();
            memory.topics.insert(key, Arc::clone(&found));
        }
        found
    }
}

impl Routed {
    fn push(&mut self, message: &Message, shared: &mut Shared<'_>, recipient: &Recipient) {
        let qos = message.qos.min(recipient.qos);
        match recipient.mailbox.push(shared, qos, &recipient.matched) {
            Pushed::Queued | Pushed::Offline | Pushed::Closed => {}
            Pushed::Full => self.dropped += 1,
            Pushed::OverQuota => {
                self.dropped += 1;
                self.over_quota += 1;
            }
        }
    }

    /// As the session wants it.
    pub fn outcome(result: Result<Self, RetainedFull>) -> RouteOutcome {
        match result {
            Ok(Self { matched: 0, .. }) => RouteOutcome::NoSubscribers,
            Ok(_) => RouteOutcome::Delivered,
            Err(RetainedFull::Limits | RetainedFull::Quota(_)) => RouteOutcome::Failed(ReasonCode::QuotaExceeded),
        }
    }
}

/// A retained message as a delivery to one subscription.
pub fn retained_delivery(entry: &RetainedMessage, number: SubscriptionNumber) -> Delivery {
    Delivery {
        message: Arc::clone(&entry.message),
        matched: smallvec::smallvec![crate::session::Matched { number }],
        retained: true,
    }
}

//! The bounded queue between whoever publishes and the one connection that delivers.
//!
//! Enters: deliveries from any thread. Leaves: the same, in order, to the owner of the session.
//! Never: blocks a publisher, or grows beyond its two bounds. What does not fit is dropped and counted: the newest
//! message goes, so that what a slow consumer gets stays in order and without holes in its older part.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::{
    mqtt::QoS,
    session::{Delivery, Matched, Message},
};

/// What a queued delivery costs beside the message: the entry, and the allocations of the shared message.
const OVERHEAD: usize = 192;

/// A reader that is this far behind does not take a message soon: it gets one that holds no read buffer.
const PROMPT: usize = 64;

/// Bounds of one mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Messages; at least 1.
    pub messages: usize,
    /// Bytes of topics, payloads, properties and bookkeeping; a single message always fits into an empty mailbox.
    pub bytes: usize,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits its turn.
    Queued,
    /// The queue is full.
    Full,
    /// QoS 0, and nobody is connected: such messages are not kept. [MQTT-3.1.2-5] asks for QoS 1 and 2 only.
    Offline,
    /// The session has ended.
    Closed,
}

/// The queue of one session.
#[derive(Debug)]
pub struct Mailbox {
    limits: MailboxLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Delivery>,
    bytes: usize,
    reader: Reader,
    /// Wakes the reader of now, and never an earlier one that has yet to hear of its end.
    wake: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Attached,
    Offline,
    Closed,
}

/// One message on its way into many mailboxes; copied out of its read buffer at most once.
pub(crate) struct Shared<'m> {
    message: &'m Arc<Message>,
    detached: Option<Arc<Message>>,
}

impl<'m> Shared<'m> {
    pub(crate) fn new(message: &'m Arc<Message>) -> Self {
        Self { message, detached: None }
    }

    fn message(&self) -> Arc<Message> {
        Arc::clone(self.message)
    }

    fn detached(&mut self) -> Arc<Message> {
        Arc::clone(self.detached.get_or_insert_with(|| Arc::new(self.message.detached())))
    }
}

fn cost(delivery: &Delivery) -> usize {
    delivery.message.size() + OVERHEAD
}

impl Mailbox {
    /// An empty mailbox that nobody reads yet.
    pub fn new(limits: MailboxLimits) -> Self {
        let state = State { queue: VecDeque::new(), bytes: 0, reader: Reader::Offline, wake: Arc::default() };
        Self { limits, state: Mutex::new(state) }
    }

    /// Puts a message at the end. `qos` is the most that the matching subscriptions admit for it.
    pub(crate) fn push(&self, shared: &mut Shared<'_>, qos: QoS, matched: &SmallVec<[Matched; 1]>) -> Pushed {
        let mut state = self.state.lock();
        match state.reader {
            Reader::Closed => return Pushed::Closed,
            Reader::Offline if qos == QoS::AtMostOnce => return Pushed::Offline,
            Reader::Offline | Reader::Attached => {}
        }
        let waits = state.reader == Reader::Offline || state.queue.len() >= PROMPT;
        let message = if waits { shared.detached() } else { shared.message() };
        let delivery = Delivery { message, matched: matched.clone(), retained: false };
        let cost = cost(&delivery);
        let first = state.queue.is_empty();
        if !first && (state.queue.len() >= self.limits.messages || state.bytes + cost > self.limits.bytes) {
            return Pushed::Full;
        }
        state.bytes += cost;
        state.queue.push_back(delivery);
        // One wake for a batch: whoever finds the queue filled already knows that the reader was called.
        let wake = (first && state.reader == Reader::Attached).then(|| Arc::clone(&state.wake));
        drop(state);
        if let Some(wake) = wake {
            wake.notify_one();
        }
        Pushed::Queued
    }

    /// Takes the oldest delivery.
    pub fn pop(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        let delivery = state.queue.pop_front()?;
        state.bytes -= cost(&delivery);
        if state.queue.is_empty() && state.queue.capacity() > 1_024 {
            state.queue = VecDeque::new();
        }
        Some(delivery)
    }

    /// Takes up to `most` of the oldest deliveries under one lock.
    pub fn take(&self, most: usize, into: &mut VecDeque<Delivery>) {
        let mut state = self.state.lock();
        let count = most.min(state.queue.len());
        let mut taken = 0;
        into.extend(state.queue.drain(..count).inspect(|delivery| taken += cost(delivery)));
        state.bytes -= taken;
        if state.queue.is_empty() && state.queue.capacity() > 1_024 {
            state.queue = VecDeque::new();
        }
    }

    /// Puts back what `take` gave and nobody could use, in front and in order.
    pub fn put_back(&self, deliveries: impl DoubleEndedIterator<Item = Delivery>) {
        let mut state = self.state.lock();
        if state.reader == Reader::Closed {
            return;
        }
        for delivery in deliveries.rev() {
            state.bytes += cost(&delivery);
            state.queue.push_front(delivery);
        }
    }

    /// A connection now reads; what wakes it. A wake that comes before it waits is not lost, and none of those that an
    /// earlier reader is to have goes to this one, or the other way round: both may wait at the same time.
    pub fn attach(&self) -> Arc<Notify> {
        let mut state = self.state.lock();
        if state.reader != Reader::Closed {
            state.reader = Reader::Attached;
        }
        state.wake = Arc::default();
        Arc::clone(&state.wake)
    }

    /// The connection is gone: what was QoS 0 is dropped, the rest waits. `qos` tells the level of a delivery.
    pub fn detach(&self, qos: impl Fn(&Delivery) -> QoS) {
        let mut state = self.state.lock();
        if state.reader != Reader::Attached {
            return;
        }
        state.reader = Reader::Offline;
        state.queue.retain(|delivery| qos(delivery) != QoS::AtMostOnce);
        state.bytes = state.queue.iter().map(cost).sum();
    }

    /// Clean start: forgets what waits.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.queue = VecDeque::new();
        state.bytes = 0;
    }

    /// The session has ended for good.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.reader = Reader::Closed;
        state.queue = VecDeque::new();
        state.bytes = 0;
        let wake = Arc::clone(&state.wake);
        drop(state);
        wake.notify_one();
    }

    /// Is nothing waiting?
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Calls the reader for another reason than a delivery.
    pub fn call(&self) {
        let wake = Arc::clone(&self.state.lock().wake);
        wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use bytestring::ByteString;
    use smallvec::smallvec;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        mqtt::{PublishProperties, TopicName},
        session::{Publisher, SubscriptionNumber},
    };

    const LIMITS: MailboxLimits = MailboxLimits { messages: 1000, bytes: 10_000 };

    fn message(properties: Option<Box<PublishProperties>>) -> Arc<Message> {
        Arc::new(Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            publisher: Publisher::SYSTEM,
            expires: None,
            properties,
        })
    }

    fn push(mailbox: &Mailbox, message: &Arc<Message>) -> Pushed {
        let matched = smallvec![Matched { number: SubscriptionNumber::FIRST }];
        mailbox.push(&mut Shared::new(message), QoS::AtLeastOnce, &matched)
    }

    /// An older connection between its last turn and its next wait takes no wake of the newer one, which would then
    /// wait for ever beside a queue that is not empty, and loses none of its own.
    #[tokio::test]
    async fn a_reader_and_the_one_that_takes_over_do_not_steal_each_others_wakes() {
        let woken = async |wake: &Notify| timeout(Duration::from_millis(5), wake.notified()).await.is_ok();
        let mailbox = Mailbox::new(LIMITS);
        let older = mailbox.attach();
        mailbox.call();
        let newer = mailbox.attach();
        assert!(!woken(&newer).await, "that was for the older one");
        push(&mailbox, &message(None));
        assert!(woken(&older).await);
        assert!(!woken(&older).await, "that was for the newer one");
        assert!(woken(&newer).await);
    }

    #[test]
    fn properties_count_against_the_bound_in_bytes() {
        let text = ByteString::from("x".repeat(1000));
        let heavy: [PublishProperties; 4] = [
            PublishProperties { user_properties: vec![(text.clone(), ByteString::new())], ..Default::default() },
            PublishProperties { correlation_data: Some(Bytes::from(vec![0; 1000])), ..Default::default() },
            PublishProperties { content_type: Some(text.clone()), ..Default::default() },
            PublishProperties { response_topic: TopicName::try_from(text).ok(), ..Default::default() },
        ];
        for properties in heavy {
            let (mailbox, message) = (Mailbox::new(LIMITS), message(Some(Box::new(properties))));
            let queued = (0..100).filter(|_| push(&mailbox, &message) == Pushed::Queued).count();
            assert!(queued <= 10, "{queued} messages of 1000 bytes in 10,000");
            while mailbox.pop().is_some() {}
            assert_eq!(mailbox.state.lock().bytes, 0);
        }
    }
}

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

/// What a queued delivery costs beside its payload and topic: the entry, the shared message and its allocations.
const OVERHEAD: usize = 192;

/// A reader that is this far behind does not take a message soon: it gets one that holds no read buffer.
const PROMPT: usize = 64;

/// Bounds of one mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Messages; at least 1.
    pub messages: usize,
    /// Bytes of topics, payloads and bookkeeping; a single message always fits into an empty mailbox.
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
    wake: Notify,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Delivery>,
    bytes: usize,
    reader: Reader,
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
    delivery.message.payload.len() + delivery.message.topic.as_str().len() + OVERHEAD
}

impl Mailbox {
    /// An empty mailbox that nobody reads yet.
    pub fn new(limits: MailboxLimits) -> Self {
        let state = State { queue: VecDeque::new(), bytes: 0, reader: Reader::Offline };
        Self { limits, state: Mutex::new(state), wake: Notify::new() }
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
        let attached = state.reader == Reader::Attached;
        drop(state);
        // One wake for a batch: whoever finds the queue filled already knows that the reader was called.
        if first && attached {
            self.wake.notify_one();
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

    /// A connection now reads.
    pub fn attach(&self) {
        let mut state = self.state.lock();
        if state.reader != Reader::Closed {
            state.reader = Reader::Attached;
        }
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
        drop(state);
        self.wake.notify_one();
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
        self.wake.notify_one();
    }

    /// Waits for a delivery or a [`Mailbox::call`]. A call that comes first is not lost.
    pub async fn called(&self) {
        self.wake.notified().await;
    }
}

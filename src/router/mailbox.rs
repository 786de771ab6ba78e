//! The bounded queue between whoever publishes and the one connection that delivers.
//!
//! Enters: deliveries from any thread. Leaves: the same, in order, to the owner of the session.
//! Never: blocks a publisher, or grows beyond its two bounds. What does not fit is dropped and counted: the newest
//! message goes, so that what a slow consumer gets stays in order and without holes in its older part.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::{
    access::Quota,
    mqtt::QoS,
    session::{Delivery, Matched, Message},
};

/// What a queued delivery costs beside its payload and topic: the entry, the shared message and its allocations.
const OVERHEAD: usize = 192;

/// A reader that is this far behind does not take a message soon: it gets one that holds no read buffer.
const PROMPT: usize = 64;

/// Bytes that a mailbox may hold without asking the common budget, and the portion in which it asks for more: a
/// mailbox that keeps up never touches what all of them share.
const OWN: usize = 16 * 1024;
const PORTION: usize = 64 * 1024;

/// What all mailboxes together may hold beyond their own first bytes; clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes that are taken at once.
const TAKEN: usize = 64 * 1024;

/// Bounds of one mailbox.
#[derive(Clone, Debug)]
pub struct MailboxLimits {
    /// Messages; at least 1.
    pub messages: usize,
    /// Bytes of topics, payloads, properties and bookkeeping; a single message always fits into an empty mailbox.
    pub bytes: usize,
    /// Shared by all mailboxes.
    pub total: Budget,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits its turn.
    Queued,
    /// The queue is full.
    Full,
    /// The queue would have room, but for its user's quota.
    OverQuota,
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

/// The narrower bounds of a user's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Narrowed {
    messages: usize,
    bytes: usize,
}

impl Narrowed {
    const NOT: Self = Self { messages: usize::MAX, bytes: usize::MAX };
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// Taken from the common budget.
    borrowed: usize,
    reader: Reader,
    narrowed: Narrowed,
}

impl State {
    /// Makes room for `cost` more bytes in the common budget, if they need it.
    fn borrow_for(&mut self, cost: usize, total: &Budget) -> bool {
        let missing = (self.bytes + cost).saturating_sub(OWN + self.borrowed);
        let portion = missing.div_ceil(PORTION) * PORTION;
        if portion > 0 && !total.take(portion) {
            return false;
        }
        self.borrowed += portion;
        true
    }

    /// Gives back what is not needed any more, but for one portion, which would only be asked for again.
    fn settle(&mut self, total: &Budget) {
        let spare = if self.queue.is_empty() { 0 } else { PORTION };
        let needed = self.bytes.saturating_sub(OWN).div_ceil(PORTION) * PORTION + spare;
        if self.borrowed > needed {
            total.give_back(self.borrowed - needed);
            self.borrowed = needed;
        }
        if self.queue.is_empty() && self.queue.capacity() > 1_024 {
            self.queue = VecDeque::new();
        }
    }
}

#[derive(Clone, Debug)]
enum Reader {
    /// Called by this. Each reader brings its own: a call must never reach the one that it replaces.
    Attached(Arc<Notify>),
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
        let state =
            State { queue: VecDeque::new(), bytes: 0, borrowed: 0, reader: Reader::Offline, narrowed: Narrowed::NOT };
        Self { limits, state: Mutex::new(state) }
    }

    /// Puts a message at the end. `qos` is the most that the matching subscriptions admit for it.
    pub(crate) fn push(&self, shared: &mut Shared<'_>, qos: QoS, matched: &SmallVec<[Matched; 1]>) -> Pushed {
        let mut state = self.state.lock();
        match state.reader {
            Reader::Closed => return Pushed::Closed,
            Reader::Offline if qos == QoS::AtMostOnce => return Pushed::Offline,
            Reader::Offline | Reader::Attached(_) => {}
        }
        let waits = matches!(state.reader, Reader::Offline) || state.queue.len() >= PROMPT;
        let message = if waits { shared.detached() } else { shared.message() };
        let delivery = Delivery { message, matched: matched.clone(), retained: false };
        let cost = cost(&delivery);
        let first = state.queue.is_empty();
        if !first && (state.queue.len() >= self.limits.messages || state.bytes + cost > self.limits.bytes) {
            return Pushed::Full;
        }
        let narrowed = state.narrowed;
        if !first && (state.queue.len() >= narrowed.messages || state.bytes + cost > narrowed.bytes) {
            return Pushed::OverQuota;
        }
        if !state.borrow_for(cost, &self.limits.total) {
            return Pushed::Full;
        }
        state.bytes += cost;
        state.queue.push_back(delivery);
        // One wake for a batch: whoever finds the queue filled already knows that the reader was called.
        let wake = match &state.reader {
            Reader::Attached(wake) if first => Some(Arc::clone(wake)),
            _ => None,
        };
        drop(state);
        if let Some(wake) = wake {
            wake.notify_one();
        }
        Pushed::Queued
    }

    /// From now on no more than these wait, where they are narrower than the limits; what waits already stays.
    pub fn narrow(&self, quota: Option<&Quota>) {
        let bound = |most: Option<u64>| most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let narrowed = quota.map_or(Narrowed::NOT, |quota| Narrowed {
            messages: bound(quota.queue_messages),
            bytes: bound(quota.queue_bytes),
        });
        self.state.lock().narrowed = narrowed;
    }

    /// Takes the oldest delivery.
    pub fn pop(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        let delivery = state.queue.pop_front()?;
        state.bytes -= cost(&delivery);
        state.settle(&self.limits.total);
        Some(delivery)
    }

    /// Takes up to `most` of the oldest deliveries under one lock. What is taken counts against no bound any more, so of
    /// large ones it takes no more than one write needs.
    pub fn take(&self, most: usize, into: &mut VecDeque<Delivery>) {
        let mut state = self.state.lock();
        let mut taken = 0;
        for _ in 0..most {
            if taken >= TAKEN {
                break;
            }
            let Some(delivery) = state.queue.pop_front() else { break };
            taken += cost(&delivery);
            into.push_back(delivery);
        }
        state.bytes -= taken;
        state.settle(&self.limits.total);
    }

    /// Puts back what `take` gave and nobody could use, in front and in order.
    pub fn put_back(&self, deliveries: impl DoubleEndedIterator<Item = Delivery>) {
        let mut state = self.state.lock();
        if matches!(state.reader, Reader::Closed) {
            return;
        }
        for delivery in deliveries.rev() {
            let cost = cost(&delivery);
            // It had its place before: it keeps it, unless others have used up all there is.
            if state.borrow_for(cost, &self.limits.total) {
                state.bytes += cost;
                state.queue.push_front(delivery);
            }
        }
    }

    /// A connection now reads; `wake` calls it when something comes, and by [`Mailbox::call`].
    pub fn attach(&self, wake: Arc<Notify>) {
        let mut state = self.state.lock();
        if !matches!(state.reader, Reader::Closed) {
            state.reader = Reader::Attached(wake);
        }
    }

    /// The connection is gone: what was QoS 0 is dropped, the rest waits. `qos` tells the level of a delivery.
    pub fn detach(&self, qos: impl Fn(&Delivery) -> QoS) {
        let mut state = self.state.lock();
        if !matches!(state.reader, Reader::Attached(_)) {
            return;
        }
        state.reader = Reader::Offline;
        state.queue.retain(|delivery| qos(delivery) != QoS::AtMostOnce);
        state.bytes = state.queue.iter().map(cost).sum();
        state.settle(&self.limits.total);
    }

    /// Clean start: forgets what waits.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.queue = VecDeque::new();
        state.bytes = 0;
        state.settle(&self.limits.total);
    }

    /// The session has ended for good.
    pub fn close(&self) {
        let mut state = self.state.lock();
        let reader = std::mem::replace(&mut state.reader, Reader::Closed);
        state.queue = VecDeque::new();
        state.bytes = 0;
        state.settle(&self.limits.total);
        drop(state);
        if let Reader::Attached(wake) = reader {
            wake.notify_one();
        }
    }

    /// Is nothing waiting?
    pub fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Calls the reader, if there is one, for another reason than a delivery.
    pub fn call(&self) {
        if let Reader::Attached(wake) = &self.state.lock().reader {
            wake.notify_one();
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use bytestring::ByteString;
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;
    use crate::{
        mqtt::{PublishProperties, TopicName},
        session::{Publisher, SubscriptionNumber},
    };

    fn message(length: usize, qos: QoS) -> Arc<Message> {
        Arc::new(Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: Bytes::from(vec![0; length]),
            qos,
            retain: false,
            publisher: Publisher::SYSTEM,
            expires: None,
            properties: None,
        })
    }

    fn push(mailbox: &Mailbox, length: usize, qos: QoS) -> Pushed {
        let message = message(length, qos);
        mailbox.push(&mut Shared::new(&message), qos, &smallvec![Matched { number: SubscriptionNumber::FIRST }])
    }

    fn left(budget: &Budget) -> usize {
        budget.0.load(Ordering::Relaxed)
    }

    fn limits(messages: usize, bytes: usize, total: &Budget) -> MailboxLimits {
        MailboxLimits { messages, bytes, total: total.clone() }
    }

    #[test]
    fn a_full_mailbox_drops_the_newest_and_keeps_the_order() {
        let budget = Budget::new(1 << 20);
        let mailbox = Mailbox::new(limits(3, 1 << 20, &budget));
        mailbox.attach(Arc::default());
        for length in 1..=4 {
            let expected = if length <= 3 { Pushed::Queued } else { Pushed::Full };
            assert_eq!(push(&mailbox, length, QoS::AtLeastOnce), expected);
        }
        let lengths: Vec<_> =
            std::iter::from_fn(|| mailbox.pop()).map(|delivery| delivery.message.payload.len()).collect();
        assert_eq!(lengths, [1, 2, 3]);
    }

    #[test]
    fn one_message_always_fits_an_empty_mailbox_but_not_an_empty_budget() {
        let budget = Budget::new(1 << 20);
        let mailbox = Mailbox::new(limits(1, 10, &budget));
        mailbox.attach(Arc::default());
        assert_eq!(push(&mailbox, 100_000, QoS::AtLeastOnce), Pushed::Queued);
        assert_eq!(push(&mailbox, 1, QoS::AtLeastOnce), Pushed::Full);
        let poor = Mailbox::new(limits(1_000, 1 << 20, &Budget::new(0)));
        poor.attach(Arc::default());
        assert_eq!(push(&poor, 100_000, QoS::AtLeastOnce), Pushed::Full);
        assert_eq!(push(&poor, 100, QoS::AtLeastOnce), Pushed::Queued);
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
            let mailbox = Mailbox::new(limits(1_000, 10_000, &Budget::new(1 << 20)));
            let message = Message { properties: Some(Box::new(properties)), ..(*message(0, QoS::AtLeastOnce)).clone() };
            let message = Arc::new(message);
            let matched = smallvec![Matched { number: SubscriptionNumber::FIRST }];
            let push = || mailbox.push(&mut Shared::new(&message), QoS::AtLeastOnce, &matched);
            let queued = (0..100).filter(|_| push() == Pushed::Queued).count();
            assert!(queued <= 10, "{queued} messages of 1000 bytes in 10,000");
        }
    }

    #[test]
    fn nobody_connected_means_no_qos_0_and_after_the_end_nothing() {
        let mailbox = Mailbox::new(limits(10, 1 << 20, &Budget::new(1 << 20)));
        assert_eq!(push(&mailbox, 1, QoS::AtMostOnce), Pushed::Offline);
        assert_eq!(push(&mailbox, 1, QoS::AtLeastOnce), Pushed::Queued);
        mailbox.attach(Arc::default());
        assert_eq!(push(&mailbox, 2, QoS::AtMostOnce), Pushed::Queued);
        mailbox.detach(|delivery| delivery.message.qos);
        assert_eq!(mailbox.len(), 1, "what was QoS 0 went with the connection");
        mailbox.close();
        assert_eq!(push(&mailbox, 1, QoS::AtLeastOnce), Pushed::Closed);
        assert!(mailbox.is_empty());
    }

    #[tokio::test]
    async fn a_call_reaches_the_reader_of_now_and_never_the_one_before() {
        let mailbox = Mailbox::new(limits(10, 1 << 20, &Budget::new(1 << 20)));
        let (older, newer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        mailbox.attach(Arc::clone(&older));
        mailbox.call();
        older.notified().await;
        mailbox.attach(Arc::clone(&newer));
        push(&mailbox, 1, QoS::AtMostOnce);
        newer.notified().await;
        let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), older.notified()).await;
        assert!(nothing.is_err());
    }

    /// What is taken is counted nowhere: a reader that cannot go on must not hold much of it.
    #[test]
    fn of_large_messages_few_are_taken_at_once() {
        let mailbox = Mailbox::new(limits(1000, 1 << 30, &Budget::new(1 << 30)));
        for _ in 0..100 {
            push(&mailbox, 40_000, QoS::AtLeastOnce);
        }
        let mut taken = VecDeque::new();
        mailbox.take(64, &mut taken);
        assert_eq!(taken.len(), 2);
        mailbox.put_back(taken.into_iter());
        assert_eq!(mailbox.len(), 100);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, bool),
        Pop,
        Take(usize),
        Detach,
        Attach,
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_usize..40_000, any::<bool>()).prop_map(|(length, acknowledged)| Step::Push(length, acknowledged)),
            3 => Just(Step::Pop),
            2 => (0_usize..8).prop_map(Step::Take),
            1 => Just(Step::Detach),
            1 => Just(Step::Attach),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Whatever happens to them, two mailboxes never hold more than their own bytes and the budget, and in the end
        /// the budget is whole again.
        #[test]
        fn the_budget_bounds_all_mailboxes_and_comes_back(steps in prop::collection::vec((0_usize..2, step()), 0..80)) {
            let whole = 300_000;
            let budget = Budget::new(whole);
            let mailboxes = [(); 2].map(|()| Mailbox::new(limits(50, 400_000, &budget)));
            for (which, step) in steps {
                let mailbox = &mailboxes[which];
                match step {
                    Step::Push(length, acknowledged) => {
                        push(mailbox, length, if acknowledged { QoS::AtLeastOnce } else { QoS::AtMostOnce });
                    }
                    Step::Pop => drop(mailbox.pop()),
                    Step::Take(most) => {
                        let mut taken = VecDeque::new();
                        mailbox.take(most, &mut taken);
                        mailbox.put_back(taken.into_iter().skip(1));
                    }
                    Step::Detach => mailbox.detach(|delivery| delivery.message.qos),
                    Step::Attach => mailbox.attach(Arc::default()),
                    Step::Clear => mailbox.clear(),
                }
                let mut held = 0;
                for mailbox in &mailboxes {
                    let state = mailbox.state.lock();
                    prop_assert_eq!(state.bytes, state.queue.iter().map(cost).sum::<usize>());
                    prop_assert!(state.bytes <= OWN + state.borrowed);
                    held += state.borrowed;
                }
                prop_assert_eq!(held + left(&budget), whole);
            }
            drop(mailboxes);
            prop_assert_eq!(left(&budget), whole);
        }
    }
}

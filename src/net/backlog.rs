//! Retained messages that new subscriptions have yet to get.
//!
//! Subscriptions enter, retained messages leave, those of one subscription after those of another. Of one subscription
//! the messages are held, of the others only that they wait: a client that subscribes and does not read makes the broker
//! keep the messages of one filter, however many filters it names and however often.

use std::collections::VecDeque;

use indexmap::IndexMap;

use crate::{
    mqtt::{QoS, TopicFilter},
    router::RetainedMessage,
    session::SubscriptionNumber,
};

#[derive(Debug, Default)]
pub(super) struct Backlog {
    messages: VecDeque<RetainedMessage>,
    /// The subscription that `messages` are for.
    number: Option<SubscriptionNumber>,
    waiting: IndexMap<SubscriptionNumber, TopicFilter>,
}

/// What [`Backlog::next`] came to.
#[derive(Debug)]
pub(super) enum Next {
    /// A message for this subscription.
    Message(RetainedMessage, SubscriptionNumber),
    /// The messages of the next filter have been looked up, which takes time: ask again.
    Searched,
    /// No subscription waits for retained messages.
    Nothing,
}

impl Backlog {
    /// A subscription is to get its messages; replaces what an earlier SUBSCRIBE to the same filter still had to come.
    /// They are looked for when their turn comes: one packet can name one filter a hundred thousand times.
    pub(super) fn add(&mut self, number: SubscriptionNumber, filter: TopicFilter) {
        self.remove(number);
        self.waiting.insert(number, filter);
    }

    /// The subscription is gone.
    pub(super) fn remove(&mut self, number: SubscriptionNumber) {
        if self.number == Some(number) {
            self.messages = VecDeque::new();
            self.number = None;
        }
        self.waiting.swap_remove(&number);
    }

    /// The next message, and the subscription that it is for; does at most one lookup.
    pub(super) fn next(&mut self, find: impl FnOnce(&TopicFilter) -> Vec<RetainedMessage>) -> Next {
        if let (Some(message), Some(number)) = (self.messages.pop_front(), self.number) {
            return Next::Message(message, number);
        }
        let Some((number, filter)) = self.waiting.shift_remove_index(0) else { return Next::Nothing };
        self.messages = find(&filter).into();
        self.number = Some(number);
        Next::Searched
    }

    /// The connection is gone: what was QoS 0 is not kept.
    pub(super) fn detach(&mut self) {
        self.messages.retain(|entry| entry.message.qos != QoS::AtMostOnce);
        self.messages.shrink_to_fit();
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::session::SubscriptionNumber;

    #[test]
    fn a_filter_named_over_and_over_is_looked_up_once() {
        let (mut backlog, lookups) = (Backlog::default(), Cell::new(0));
        for _ in 0..100_000 {
            backlog.add(SubscriptionNumber::FIRST, TopicFilter::try_from("#").unwrap());
        }
        let find = |_: &TopicFilter| {
            lookups.set(lookups.get() + 1);
            Vec::new()
        };
        assert!(matches!(backlog.next(find), Next::Searched));
        assert!(matches!(backlog.next(find), Next::Nothing));
        assert_eq!(lookups.get(), 1);
    }
}

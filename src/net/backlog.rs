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

impl Backlog {
    /// A subscription is to get these messages; replaces what an earlier SUBSCRIBE to the same filter still had to come.
    pub(super) fn add(&mut self, number: SubscriptionNumber, filter: TopicFilter, found: Vec<RetainedMessage>) {
        self.remove(number);
        if found.is_empty() {
            return;
        }
        if self.messages.is_empty() {
            self.messages = found.into();
            self.number = Some(number);
        } else {
            self.waiting.insert(number, filter);
        }
    }

    /// The subscription is gone.
    pub(super) fn remove(&mut self, number: SubscriptionNumber) {
        if self.number == Some(number) {
            self.messages = VecDeque::new();
            self.number = None;
        }
        self.waiting.swap_remove(&number);
    }

    /// The next message, and the subscription that it is for.
    pub(super) fn next(
        &mut self,
        find: impl Fn(&TopicFilter) -> Vec<RetainedMessage>,
    ) -> Option<(RetainedMessage, SubscriptionNumber)> {
        loop {
            if let (Some(message), Some(number)) = (self.messages.pop_front(), self.number) {
                return Some((message, number));
            }
            let (number, filter) = self.waiting.pop()?;
            self.messages = find(&filter).into();
            self.number = Some(number);
        }
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

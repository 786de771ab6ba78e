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
    use std::{cell::Cell, sync::Arc};

    use super::*;
    use crate::{
        mqtt::TopicName,
        session::{Message, Publisher},
    };

    fn retained(topic: &str) -> RetainedMessage {
        let message = Message {
            topic: TopicName::try_from(topic).unwrap(),
            payload: bytes::Bytes::new(),
            qos: if topic.starts_with("zero") { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            retain: true,
            publisher: Publisher::SYSTEM,
            expires: None,
            properties: None,
        };
        RetainedMessage { message: Arc::new(message), publisher: None }
    }

    fn find(filter: &TopicFilter) -> Vec<RetainedMessage> {
        vec![retained(&format!("{filter}/1")), retained(&format!("zero/{filter}"))]
    }

    fn drain(backlog: &mut Backlog) -> Vec<String> {
        let mut topics = Vec::new();
        loop {
            match backlog.next(find) {
                Next::Message(entry, _) => topics.push(entry.message.topic.to_string()),
                Next::Searched => {}
                Next::Nothing => return topics,
            }
        }
    }

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

    #[test]
    fn a_subscription_made_again_begins_again_and_one_that_is_gone_gets_nothing() {
        let (number, filter) = (SubscriptionNumber::FIRST, TopicFilter::try_from("a").unwrap());
        let mut backlog = Backlog::default();
        backlog.add(number, filter.clone());
        assert!(matches!(backlog.next(find), Next::Searched));
        assert!(matches!(backlog.next(find), Next::Message(..)));
        backlog.add(number, filter.clone());
        assert_eq!(drain(&mut backlog), ["a/1", "zero/a"]);
        backlog.add(number, filter);
        backlog.remove(number);
        assert!(drain(&mut backlog).is_empty());
    }

    #[test]
    fn what_is_kept_for_an_absent_client_is_not_qos_0() {
        let mut backlog = Backlog::default();
        backlog.add(SubscriptionNumber::FIRST, TopicFilter::try_from("a").unwrap());
        assert!(matches!(backlog.next(find), Next::Searched));
        backlog.detach();
        assert_eq!(drain(&mut backlog), ["a/1"]);
    }
}

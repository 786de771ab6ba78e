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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        vec![retained(&format!("{filter}/1")), retained(&format!("{filter}/2"))]
    }

    fn drain(backlog: &mut Backlog) -> Vec<String> {
        let mut topics: Vec<_> =
            std::iter::from_fn(|| backlog.next(find)).map(|(entry, _)| entry.message.topic.to_string()).collect();
        topics.sort_unstable();
        topics
    }

    #[test]
    fn each_subscription_gets_its_messages_once_however_often_it_is_made() {
        let number = SubscriptionNumber::FIRST;
        let filter = TopicFilter::try_from("a").unwrap();
        let mut backlog = Backlog::default();
        for _ in 0..1000 {
            backlog.add(number, filter.clone(), find(&filter));
        }
        assert!(backlog.messages.len() == 2 && backlog.waiting.is_empty());
        assert_eq!(drain(&mut backlog), ["a/1", "a/2"]);
        backlog.add(number, filter.clone(), find(&filter));
        backlog.remove(number);
        assert!(drain(&mut backlog).is_empty());
    }

    #[test]
    fn what_is_kept_for_an_absent_client_is_not_qos_0() {
        let mut backlog = Backlog::default();
        let found = vec![retained("zero"), retained("one")];
        backlog.add(SubscriptionNumber::FIRST, TopicFilter::try_from("#").unwrap(), found);
        backlog.detach();
        assert_eq!(drain(&mut backlog), ["one"]);
    }
}

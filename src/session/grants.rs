//! Requests that this session received and may answer: once, for a bounded time, to whoever asked.
//!
//! A request with a Response Topic enters when it is delivered; the session that asked leaves, once, for the same topic
//! and Correlation Data. It never answers for a topic that begins with `$`, nor for a message that the session was sent
//! a second time. Bounded in number and in bytes; when it is full, whoever asked most loses its oldest request, so that
//! nobody can make others go without an answer.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::message::detach_topic;
use super::{Message, SessionNumber};
use crate::access::UserId;
use crate::clock::{Duration, Instant};
use crate::mqtt::{PublishProperties, TopicName};

/// Requests that one session may have to answer.
const MOST: usize = 1024;
/// Bytes of their topics and Correlation Data.
const MOST_BYTES: usize = 256 * 1024;
/// Bytes of one of them: a larger one cannot be answered without a rule.
const LARGEST: usize = 16 * 1024;

#[derive(Debug)]
struct Grant {
    requester: SessionNumber,
    asked_by: Option<UserId>,
    until: Instant,
    /// Of the request: the right to answer goes with the right to receive it.
    asked_on: TopicName,
    response_topic: TopicName,
    correlation_data: Option<Bytes>,
}

impl Grant {
    fn size(&self) -> usize {
        size(&self.asked_on, &self.response_topic, self.correlation_data.as_ref())
    }
}

fn size(asked_on: &TopicName, response_topic: &TopicName, correlation_data: Option<&Bytes>) -> usize {
    asked_on.as_str().len() + response_topic.as_str().len() + correlation_data.map_or(0, Bytes::len)
}

/// A request that was found.
#[derive(Debug)]
pub(super) struct Request {
    index: usize,
    requester: SessionNumber,
}

/// All of one session.
#[derive(Debug, Default)]
pub(super) struct ResponseGrants {
    /// In the order in which the requests were received.
    waiting: VecDeque<Grant>,
    bytes: usize,
}

impl ResponseGrants {
    /// A message was delivered at `now`: if it is a request, it may be answered for so long.
    pub(super) fn received(&mut self, request: &Message, lasting: Duration, now: Instant) {
        let Some(PublishProperties { response_topic: Some(response_topic), correlation_data, .. }) =
            request.properties.as_deref()
        else {
            return;
        };
        let size = size(&request.topic, response_topic, correlation_data.as_ref());
        // Only a session can be written to alone; the broker and its embedder are none.
        let asked_by_session = request.publisher.session != SessionNumber(0);
        let Some(until) = now.checked_add(lasting).filter(|_| asked_by_session) else { return };
        if response_topic.is_reserved() || size > LARGEST {
            return;
        }
        self.forget_lapsed(now);
        while self.waiting.len() >= MOST || self.bytes + size > MOST_BYTES {
            self.displace();
        }
        self.bytes += size;
        // In memory of their own: these outlive the read buffer by far.
        self.waiting.push_back(Grant {
            requester: request.publisher.session,
            asked_by: request.publisher.user,
            until,
            asked_on: detach_topic(&request.topic),
            response_topic: detach_topic(response_topic),
            correlation_data: correlation_data.as_deref().map(Bytes::copy_from_slice),
        });
    }

    /// The request that asks for an answer on this topic with this Correlation Data; the oldest, if several do.
    pub(super) fn find(
        &mut self,
        topic: &TopicName,
        correlation_data: Option<&Bytes>,
        now: Instant,
    ) -> Option<Request> {
        self.forget_lapsed(now);
        let fits =
            |grant: &Grant| grant.response_topic == *topic && grant.correlation_data.as_ref() == correlation_data;
        let (index, grant) = self.waiting.iter().enumerate().find(|(_, grant)| fits(grant))?;
        Some(Request { index, requester: grant.requester })
    }

    /// Who asked. The request is answered by that. Good for what was found just now.
    pub(super) fn answer(&mut self, Request { index, requester }: Request) -> SessionNumber {
        self.remove(index);
        requester
    }

    /// Keeps those requests that may (still) be received.
    pub(super) fn retain(&mut self, may_receive: impl Fn(&TopicName) -> bool) {
        self.waiting.retain(|grant| may_receive(&grant.asked_on));
        self.bytes = self.waiting.iter().map(Grant::size).sum();
    }

    /// Forgets those whose time is over. All have the same time: the first to come are the first to go.
    pub(super) fn forget_lapsed(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|grant| grant.until <= now) {
            self.remove(0);
        }
        if self.waiting.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, index: usize) -> Option<Grant> {
        let grant = self.waiting.remove(index)?;
        self.bytes -= grant.size();
        Some(grant)
    }

    /// Drops the oldest request of whoever takes up most.
    fn displace(&mut self) {
        let mut shares: HashMap<Option<UserId>, usize> = HashMap::new();
        for grant in &self.waiting {
            *shares.entry(grant.asked_by).or_default() += 1 + grant.size();
        }
        let greediest = shares.into_iter().max_by_key(|(_, share)| *share).map(|(user, _)| user);
        let oldest = self.waiting.iter().position(|grant| Some(grant.asked_by) == greediest);
        self.remove(oldest.unwrap_or(0));
    }
}

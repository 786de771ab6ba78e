//! The broker for the program that embeds it: publish, subscribe, and the directory and registry behind it.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    access::{Authority, SubscribeVerdict, UserId},
    directory::Directory,
    mqtt::{ClientId, QoS, TopicFilter, TopicName},
    net::Server,
    registry::Registry,
    router::{Mailbox, Origin, RetainedFull, RetainedMessage, RouteMemory},
    session::{Message, Owner, Publisher, SessionNumber, SubscriptionNumber, routed_topic},
};

/// A message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPublished {
    /// The user may not publish this, or is gone.
    #[error("the user may not publish to this topic with this QoS and RETAIN flag")]
    NotAuthorized,
    /// A topic of the broker's own, which begins with `$`.
    #[error("topics that begin with `$` are the broker's own")]
    Reserved,
    /// `limits.retained_messages` or `limits.retained_bytes` is reached.
    #[error("there is no room for another retained message")]
    RetainedFull,
    /// The quota of the user.
    #[error("the user's quota does not admit another message like this now")]
    OverQuota,
}

/// A filter was not subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSubscribed {
    /// The user may read nothing of it, or is gone.
    #[error("the user may not read this topic filter")]
    NotAuthorized,
    /// `$share/...` is for MQTT clients.
    #[error("shared subscriptions are not available here")]
    Shared,
}

/// Reaches a running broker; clones act as the same identity. It acts as `system`, whom no rule binds, unless
/// [`BrokerHandle::as_user`] says otherwise.
#[derive(Clone)]
pub struct BrokerHandle {
    server: Arc<Server>,
    user: Option<(UserId, ClientId)>,
    memory: Arc<Mutex<RouteMemory>>,
}

impl BrokerHandle {
    pub(super) fn system(server: Arc<Server>) -> Self {
        Self { server, user: None, memory: Arc::default() }
    }

    /// The same broker with the rights of a user under this client identifier, judged anew at every call.
    #[must_use]
    pub fn as_user(&self, user: UserId, client_id: ClientId) -> Self {
        Self { user: Some((user, client_id)), ..Self::system(Arc::clone(&self.server)) }
    }

    /// Users, roles and permissions.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.server.directory
    }

    /// The client registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.server.registry
    }

    /// `None` for `system`; an authority without any right for a user that is gone.
    fn authority(&self) -> Option<Authority> {
        let (user, client_id) = self.user.as_ref()?;
        let policy = self.server.directory.policy();
        Some(policy.authority(*user, client_id).unwrap_or_else(|| Authority::none(policy.version())))
    }

    /// Publishes a message; returns how many sessions have a matching subscription. An empty payload with `retain`
    /// removes the topic's retained message.
    ///
    /// # Errors
    /// [`NotPublished`]; then nobody got it.
    pub fn publish(
        &self,
        topic: TopicName,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<usize, NotPublished> {
        if topic.is_reserved() {
            return Err(NotPublished::Reserved);
        }
        let payload = payload.into();
        let authority = self.authority();
        let topic = match &authority {
            None => topic,
            Some(authority) => {
                let topic = routed_topic(&topic, authority, &self.server.settings.session)
                    .map_err(|_| NotPublished::NotAuthorized)?;
                let (most, may_retain) = authority.may_publish(&topic).ok_or(NotPublished::NotAuthorized)?;
                if qos > most || (retain && !may_retain) {
                    return Err(NotPublished::NotAuthorized);
                }
                topic
            }
        };
        let origin = self.user.as_ref().map(|(user, client_id)| Origin {
            user: *user,
            client_id,
            quota: authority.as_ref().and_then(Authority::quota),
        });
        if let Some(Origin { user, quota: Some(quota), .. }) = origin {
            let usage = self.server.sessions.usage(Owner::User(user));
            let weight = Message::weight(&topic, &payload, None);
            if let Err(kind) = usage.publish(quota, weight, self.server.clock.instant()) {
                self.server.metrics.quota_exceeded.inc(kind);
                return Err(NotPublished::OverQuota);
            }
        }
        let message = Arc::new(Message {
            topic,
            payload,
            qos,
            retain,
            publisher: Publisher { user: self.user.as_ref().map(|(user, _)| *user), session: SessionNumber(0) },
            expires: None,
            properties: None,
        });
        let routed = self.server.router.route(&message, origin.as_ref(), &mut self.memory.lock());
        self.server.routed(&routed);
        match routed {
            Ok(routed) => Ok(routed.matched),
            Err(RetainedFull::Limits) => Err(NotPublished::RetainedFull),
            Err(RetainedFull::Quota(_)) => Err(NotPublished::OverQuota),
        }
    }

    /// Subscribes; retained messages come first. What the receiver does not take in time is dropped once
    /// `limits.queue_messages` or `limits.queue_bytes` wait.
    ///
    /// # Errors
    /// [`NotSubscribed`].
    pub fn subscribe(&self, filter: TopicFilter) -> Result<Subscription, NotSubscribed> {
        if filter.shared().is_some() {
            return Err(NotSubscribed::Shared);
        }
        if let Some(authority) = self.authority()
            && authority.may_subscribe(&filter) == SubscribeVerdict::Refused
        {
            return Err(NotSubscribed::NotAuthorized);
        }
        let mailbox = Arc::new(Mailbox::new(self.server.mailbox.clone()));
        let wake = Arc::new(Notify::new());
        mailbox.attach(Arc::clone(&wake));
        let session = SessionNumber(self.server.sessions.next_number());
        self.server.router.subscribe(&filter, session, SubscriptionNumber::FIRST, QoS::ExactlyOnce, &mailbox);
        let retained = self.server.router.retained(&filter, self.server.clock.instant());
        let waiting = Mutex::new(retained.into());
        Ok(Subscription { handle: self.clone(), filter, session, mailbox, wake, waiting })
    }
}

/// Messages of one topic filter, until it is dropped.
pub struct Subscription {
    handle: BrokerHandle,
    filter: TopicFilter,
    session: SessionNumber,
    mailbox: Arc<Mailbox>,
    wake: Arc<Notify>,
    waiting: Mutex<VecDeque<RetainedMessage>>,
}

impl Subscription {
    /// The next message that the identity may read now. Cancel-safe.
    pub async fn next(&self) -> Arc<Message> {
        loop {
            while let Some(message) = self.take() {
                if self.handle.authority().is_none_or(|authority| authority.may_receive(&message.topic).is_some()) {
                    return message;
                }
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Arc<Message>> {
        let now = self.handle.server.clock.instant();
        let mut waiting = self.waiting.lock();
        while let Some(entry) = waiting.pop_front() {
            if !entry.message.is_expired(now) && self.handle.server.may_stand(&entry) {
                return Some(entry.message);
            }
        }
        drop(waiting);
        std::iter::from_fn(|| self.mailbox.pop())
            .map(|delivery| delivery.message)
            .find(|message| !message.is_expired(now))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.handle.server.router.unsubscribe(&self.filter, self.session, SubscriptionNumber::FIRST);
        self.mailbox.close();
    }
}

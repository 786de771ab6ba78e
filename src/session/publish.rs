//! PUBLISH from the client: rules, routing, the registry's operations, and the acknowledgements.
//!
//! A packet enters; a message to route, a request to the registry or a refusal leaves, and the acknowledgement when
//! its turn has come. It never routes what the rules do not permit, and no QoS 2 message twice.

use std::sync::Arc;

use super::grants::Request;
use super::inbound::{Arrival, Due};
use super::machine::Phase;
use super::operation::is_answer_topic;
use super::permit::Permit;
use super::{
    Action, CloseReason, Context, DeniedPublish, Message, Output, Owner, PublishTicket, Publisher, RefusalCause,
    RegistryOperation, RegistryRequest, RouteOutcome, Session,
};
use crate::mqtt::{Acknowledgement, Packet, PacketIdentifier, PublishProperties, QoS, ReasonCode};
use crate::mqtt::{Publish, TopicName};

/// What the answer of a pending registration has at most beside its topic and what it echoes of the packet, in bytes: it is some 300, and
/// with the longest name, `id` and subscription identifiers not as much as this.
const ANSWER: usize = 1024;

impl Session {
    pub(super) fn on_publish(&mut self, mut publish: Publish, cx: &Context<'_>) {
        if let Some(properties) = publish.properties.as_deref() {
            if properties.topic_alias.is_some() {
                // CONNACK announced none. [MQTT-3.2.2-17] [MQTT-3.2.2-18] [MQTT-3.3.2-9]
                return self.fail(ReasonCode::TopicAliasInvalid, "a topic alias, but none is available", cx);
            }
            if !properties.subscription_identifiers.is_empty() {
                // [MQTT-3.3.4-6]
                return self.fail(ReasonCode::ProtocolError, "a subscription identifier in a client's PUBLISH", cx);
            }
        }
        let Some(topic) = publish.topic.take() else {
            return self.fail(ReasonCode::ProtocolError, "PUBLISH without a topic", cx); // [MQTT-3.3.2-1]
        };
        if let Some(packet_id) = publish.packet_id
            && !self.is_new(packet_id, publish.qos, cx)
        {
            return;
        }
        if let Some(operation) = RegistryOperation::of(&topic) {
            return self.on_registry_operation(operation, topic, publish, cx);
        }
        if self.is_registration() {
            let why = (topic, RefusalCause::RegistrationSession, ReasonCode::NotAuthorized);
            return self.refuse_publish(why, publish.qos, publish.packet_id, cx);
        }
        let permit = self
            .publish_cache
            .get_or(self.policy, &topic, |topic| Permit::of(topic, cx.authority, cx.settings))
            .admit(publish.qos, publish.retain);
        let (topic, request) = match permit {
            Ok(routed) => (routed, None),
            Err(why) => match self.request(&topic, &publish, why.1, cx) {
                Some(request) => (topic, Some(request)),
                None => return self.refuse_publish(why, publish.qos, publish.packet_id, cx),
            },
        };
        let weight = || Message::weight(&topic, &publish.payload, publish.properties.as_deref());
        let covered = self.ahead.is_for(cx.now) && self.ahead.covers(weight());
        if !covered
            && let Some(quota) = cx.authority.quota()
            && let Err(kind) = self.ahead.publish(&self.usage, quota, weight(), cx.now)
        {
            let why = (topic, RefusalCause::Quota(kind), ReasonCode::QuotaExceeded);
            return self.refuse_publish(why, publish.qos, publish.packet_id, cx);
        }
        let ticket = publish.packet_id.map(|packet_id| self.inbound.take(packet_id, publish.qos, None));
        let message = Arc::new(self.message(topic, publish, cx));
        self.outputs.push_back(match request {
            None => Output::Route { message, ticket },
            Some(request) => Output::Answer { message, requester: self.grants.answer(request), ticket },
        });
    }

    /// The request that this message answers, which the rules do not admit. The topic is the one that the client wrote: a Response
    /// Topic gets no publish prefix.
    fn request(
        &mut self,
        topic: &TopicName,
        publish: &Publish,
        cause: RefusalCause,
        cx: &Context<'_>,
    ) -> Option<Request> {
        cx.settings.response_grants?;
        if publish.retain || !matches!(cause, RefusalCause::Rules | RefusalCause::QoS) {
            return None;
        }
        if cx.authority.denies_publish(topic) {
            return None; // A deny beats every allow, and the right to answer is no more than one.
        }
        let correlation_data =
            publish.properties.as_deref().and_then(|properties| properties.correlation_data.as_ref());
        self.grants.find(topic, correlation_data, cx.now)
    }

    /// Who it is that this session publishes for.
    pub(super) fn publisher(&self) -> Publisher {
        let user = match self.key.owner {
            Owner::User(user) => Some(user),
            Owner::Registration(_) => None,
        };
        Publisher { user, session: self.number }
    }

    fn message(&self, topic: TopicName, publish: Publish, cx: &Context<'_>) -> Message {
        // DUP stays behind. [MQTT-3.3.1-3]
        Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            publisher: self.publisher(),
            expires: Message::expiry(cx.now, publish.properties.as_deref()),
            properties: publish.properties,
        }
    }

    /// Is a QoS 1 or 2 PUBLISH a new message? What it is otherwise is dealt with here.
    fn is_new(&mut self, packet_id: PacketIdentifier, qos: QoS, cx: &Context<'_>) -> bool {
        let Some(connection) = self.connection() else { return false };
        if self.speaks_v5() && self.inbound.used() >= connection.receive_maximum {
            // [MQTT-3.3.4-7] [MQTT-4.9.0-2]
            self.fail(ReasonCode::ReceiveMaximumExceeded, "more unfinished messages than the Receive Maximum", cx);
            return false;
        }
        match self.inbound.arrive(packet_id, qos) {
            Arrival::New => return true,
            // [MQTT-4.3.3-10] of 5.0, [MQTT-4.3.3-2] of 3.1.1
            Arrival::RepeatAcknowledge => self.acknowledge(Packet::PubRec, packet_id, ReasonCode::Success),
            Arrival::Repeat => {}
            Arrival::InUse if self.speaks_v5() => {
                let make = if qos == QoS::ExactlyOnce { Packet::PubRec } else { Packet::PubAck };
                self.acknowledge(make, packet_id, ReasonCode::PacketIdentifierInUse); // [MQTT-2.2.1-3]
            }
            Arrival::InUse => self.fail(ReasonCode::ProtocolError, "a packet identifier that is in use", cx),
        }
        false
    }

    fn refuse_publish(
        &mut self,
        (topic, cause, reason_code): (TopicName, RefusalCause, ReasonCode),
        qos: QoS,
        packet_id: Option<PacketIdentifier>,
        cx: &Context<'_>,
    ) {
        self.refuse(Action::Publish, topic, cause, reason_code);
        let outcome = match cx.settings.denied_publish {
            _ if self.speaks_v5() => reason_code,
            DeniedPublish::Acknowledge => ReasonCode::Success, // [MQTT-3.3.5-2] of 3.1.1
            DeniedPublish::Disconnect => return self.end(None, CloseReason::PublishDenied, cx),
        };
        if let Some(packet_id) = packet_id {
            self.inbound.take(packet_id, qos, Some(outcome));
            self.flush_acknowledgements();
        }
    }

    fn on_registry_operation(
        &mut self,
        operation: RegistryOperation,
        topic: TopicName,
        publish: Publish,
        cx: &Context<'_>,
    ) {
        let administers = matches!(operation, RegistryOperation::Admin(_));
        if self.is_registration() && (publish.retain || administers) {
            let why = (topic, RefusalCause::RegistrationSession, ReasonCode::NotAuthorized);
            return self.refuse_publish(why, publish.qos, publish.packet_id, cx);
        }
        if administers && let Err(why) = Permit::to_administer(&topic, cx.authority).admit(publish.qos, publish.retain)
        {
            return self.refuse_publish(why, publish.qos, publish.packet_id, cx);
        }
        if let Some(packet_id) = publish.packet_id {
            self.inbound.take(packet_id, publish.qos, Some(ReasonCode::Success));
            self.flush_acknowledgements();
        }
        if let Phase::Attached(connection) = &mut self.phase
            && operation.enrols()
        {
            connection.ask_by = None;
        }
        let PublishProperties { response_topic, correlation_data, content_type, .. } =
            publish.properties.map(|properties| *properties).unwrap_or_default();
        let word = operation.as_str();
        let asked = response_topic.filter(|topic| is_answer_topic(topic, word));
        // A constant and a word: always a topic name.
        let usual = || TopicName::try_from(format!("$registry/{word}/response").as_str()).ok();
        if let Some(response_topic) = asked.or_else(usual) {
            let payload = publish.payload;
            let echoed = correlation_data.as_ref().map_or(0, bytes::Bytes::len);
            let heard = self.hears(&response_topic)
                && self.connection().and_then(|connection| connection.largest).is_none_or(|largest| {
                    let length = ANSWER.saturating_add(response_topic.as_str().len()).saturating_add(echoed);
                    u32::try_from(length).is_ok_and(|length| length <= largest.get())
                });
            self.outputs.push_back(Output::Registry(RegistryRequest {
                operation,
                payload,
                response_topic,
                correlation_data,
                content_type,
                heard,
            }));
        }
    }

    /// The router has taken a message of [`Output::Route`] (or cannot): the acknowledgement is due, as soon as those
    /// of the messages before it are sent.
    pub fn handle_accepted(&mut self, ticket: PublishTicket, outcome: RouteOutcome, cx: &Context<'_>) {
        let v311 = self.is_attached() && !self.speaks_v5();
        let reason_code = match outcome {
            RouteOutcome::Delivered => ReasonCode::Success,
            RouteOutcome::NoSubscribers if v311 => ReasonCode::Success,
            RouteOutcome::NoSubscribers => ReasonCode::NoMatchingSubscribers,
            // As with a message that the rules refuse. [MQTT-3.3.5-2] of 3.1.1
            RouteOutcome::Failed(_) if v311 && cx.settings.denied_publish == DeniedPublish::Acknowledge => {
                ReasonCode::Success
            }
            RouteOutcome::Failed(reason_code) => reason_code,
        };
        let awaited = self.inbound.settle(ticket, reason_code);
        if awaited && v311 && reason_code.is_error() {
            self.end(None, CloseReason::PublishFailed(reason_code), cx); // [MQTT-4.8.0-2]
        }
        self.flush_acknowledgements();
    }

    /// `[MQTT-3.3.4-1]`
    fn flush_acknowledgements(&mut self) {
        while let Some(Due { packet_id, exactly_once, reason_code }) = self.inbound.due() {
            let make = if exactly_once { Packet::PubRec } else { Packet::PubAck };
            self.acknowledge(make, packet_id, reason_code);
        }
    }

    /// `[MQTT-4.3.3-11]`
    pub(super) fn on_pubrel(&mut self, pubrel: &Acknowledgement) {
        let known = self.inbound.pubrel(pubrel.packet_id);
        let reason_code =
            if known || !self.speaks_v5() { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        self.acknowledge(Packet::PubComp, pubrel.packet_id, reason_code);
    }
}

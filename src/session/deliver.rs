//! PUBLISH to the client: the gate, the flags, the window, resends, and the client's acknowledgements.
//!
//! A message with the subscriptions that it matched enters; at most one PUBLISH leaves. It never delivers what the
//! rules forbid at that moment, and never holds a message that is not in flight.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytestring::ByteString;
use smallvec::SmallVec;

use super::outbound::Acknowledged;
use super::size::fits;
use super::subscriptions::Gate;
use super::{
    Action, AdminOperation, Context, Delivery, Disposition, Message, Outgoing, Output, Publisher, RefusalCause,
    RegistryAnswer, Session,
};
use crate::mqtt::{
    Acknowledgement, Packet, PacketIdentifier, ProtocolVersion, PublishProperties, QoS, ReasonCode, TopicName,
};

/// What the subscriptions that matched want together.
struct Wanted {
    qos: QoS,
    retain_as_published: bool,
    identifiers: SmallVec<[NonZeroU32; 2]>,
}

impl Session {
    /// The next delivery of the mailbox. For several matching subscriptions one copy goes out, at the highest QoS
    /// among them and with the identifiers of all. `[MQTT-3.3.4-2]` `[MQTT-3.3.4-4]` `[MQTT-3.3.5-1]`
    pub fn handle_delivery(&mut self, delivery: Delivery, cx: &Context<'_>) -> Disposition {
        self.adopt(cx);
        let Some(connection) = self.connection() else { return Disposition::NotNow };
        let (version, largest) = (connection.version, connection.largest);
        let message = delivery.message;
        if message.is_expired(cx.now) {
            return Disposition::Expired; // [MQTT-3.3.2-5]
        }
        let mut wanted: Option<Wanted> = None;
        let mut withheld = false;
        for matched in &delivery.matched {
            let Some(held) = self.subscriptions.get(matched.number) else { continue };
            if held.options.no_local && message.publisher.session == self.number {
                continue; // [MQTT-3.8.3-3]
            }
            let admitted = match held.gate {
                Gate::Open(limit) => Some(limit),
                Gate::Withheld => None,
                Gate::Checked => {
                    let ask = |topic: &_| cx.authority.may_receive(topic);
                    let may = self.receive_cache.get_or(self.policy, &message.topic, ask);
                    may.map(|limit| limit.min(held.options.qos))
                }
            };
            let Some(limit) = admitted else {
                withheld = true;
                continue;
            };
            let wanted = wanted.get_or_insert_with(|| Wanted {
                qos: limit,
                retain_as_published: false,
                identifiers: SmallVec::new(),
            });
            wanted.qos = wanted.qos.max(limit);
            wanted.retain_as_published |= held.options.retain_as_published;
            if version == ProtocolVersion::V5 {
                wanted.identifiers.extend(held.identifier); // [MQTT-3.3.4-3]
            }
        }
        let Some(wanted) = wanted else {
            return if withheld { Disposition::Withheld } else { Disposition::NotWanted };
        };
        let outgoing = Outgoing {
            qos: message.qos.min(wanted.qos), // [MQTT-3.8.4-8]
            // [MQTT-3.3.1-8] [MQTT-3.3.1-9] of 3.1.1, [MQTT-3.3.1-12] [MQTT-3.3.1-13] of 5.0
            retain: delivery.retained || (wanted.retain_as_published && message.retain),
            dup: false,
            packet_id: None,
            subscription_identifiers: wanted.identifiers,
            message_expiry: message.remaining(cx.now), // [MQTT-3.3.2-6]
            answer: false,
            message,
        };
        if !fits(&outgoing, version, largest) {
            return Disposition::TooLarge; // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
        }
        if let Some(lasting) = cx.settings.response_grants
            && version == ProtocolVersion::V5
            && !delivery.retained
        {
            // A retained request would come again with each SUBSCRIBE, and so be answered again.
            let request = Arc::clone(&outgoing.message);
            let disposition = self.deliver(outgoing);
            if disposition == Disposition::Sent {
                self.grants.received(&request, lasting, cx.now);
            }
            return disposition;
        }
        self.deliver(outgoing)
    }

    fn deliver(&mut self, outgoing: Outgoing) -> Disposition {
        let outgoing = match outgoing.qos {
            QoS::AtMostOnce => Some(outgoing), // [MQTT-4.3.1-1]
            _ => self.outbound.send(outgoing),
        };
        match outgoing {
            Some(outgoing) => {
                self.outputs.push_back(Output::Deliver(outgoing));
                Disposition::Sent
            }
            None => Disposition::NotNow,
        }
    }

    /// The registry's answer to this connection: delivered if it holds a matching subscription, at that
    /// subscription's QoS. While there is no room in the window, a few answers wait. What an operator has asked for is
    /// withheld when the right to ask is gone by now.
    pub fn handle_registry_answer(&mut self, answer: RegistryAnswer, cx: &Context<'_>) -> Disposition {
        self.adopt(cx);
        let Some(connection) = self.connection() else { return Disposition::NotNow };
        let (version, largest) = (connection.version, connection.largest);
        let v5 = version == ProtocolVersion::V5;
        let (qos, subscription_identifiers): (QoS, SmallVec<[NonZeroU32; 2]>) =
            match self.subscriptions.answer(&answer.response_topic) {
                None => return Disposition::NotWanted,
                Some((qos, identifiers)) if v5 => (qos, identifiers.collect()),
                Some((qos, _)) => (qos, SmallVec::new()),
            };
        if !may_be_answered(&answer.response_topic, cx) {
            return Disposition::Withheld;
        }
        let properties = v5.then(|| {
            Box::new(PublishProperties {
                correlation_data: answer.correlation_data,
                content_type: Some(ByteString::from_static(answer.content_type)),
                ..PublishProperties::default()
            })
        });
        let outgoing = Outgoing {
            message: Arc::new(Message {
                topic: answer.response_topic,
                payload: answer.payload,
                qos,
                retain: false,
                publisher: Publisher::SYSTEM,
                expires: None,
                properties,
            }),
            qos,
            retain: false,
            dup: false,
            packet_id: None,
            subscription_identifiers,
            message_expiry: None,
            answer: true,
        };
        if !fits(&outgoing, version, largest) {
            return Disposition::TooLarge;
        }
        if qos == QoS::AtMostOnce || self.outbound.has_room() {
            return self.deliver(outgoing);
        }
        if self.outbound.wait(outgoing) { Disposition::Waiting } else { Disposition::NotNow }
    }

    /// A QoS 1 or 2 delivery that was never written because [`Session::may_still_send`] said no: its identifier is
    /// free again.
    pub fn handle_undelivered(&mut self, packet_id: PacketIdentifier, cx: &Context<'_>) {
        self.outbound.undelivered(packet_id);
        self.send_waiting(cx);
    }

    pub(super) fn on_puback(&mut self, puback: &Acknowledgement, cx: &Context<'_>) {
        match self.outbound.puback(puback.packet_id) {
            Acknowledged::WrongQoS => self.fail(ReasonCode::ProtocolError, "PUBACK for a QoS 2 message", cx),
            Acknowledged::Expected | Acknowledged::Unknown => self.send_waiting(cx),
        }
    }

    pub(super) fn on_pubrec(&mut self, pubrec: &Acknowledgement, cx: &Context<'_>) {
        let error = pubrec.reason_code.is_error();
        match self.outbound.pubrec(pubrec.packet_id, error) {
            Acknowledged::WrongQoS => return self.fail(ReasonCode::ProtocolError, "PUBREC for a QoS 1 message", cx),
            _ if error => {} // it ends the exchange, and is never resent: [MQTT-4.4.0-2]
            // [MQTT-4.3.3-4]
            Acknowledged::Expected => self.acknowledge(Packet::PubRel, pubrec.packet_id, ReasonCode::Success),
            Acknowledged::Unknown => {
                let v5 = self.speaks_v5();
                let reason_code = if v5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
                self.acknowledge(Packet::PubRel, pubrec.packet_id, reason_code);
            }
        }
        self.send_waiting(cx);
    }

    pub(super) fn on_pubcomp(&mut self, pubcomp: &Acknowledgement, cx: &Context<'_>) {
        self.outbound.pubcomp(pubcomp.packet_id);
        self.send_waiting(cx);
    }

    /// What was in flight when the connection ended, in the same order. `[MQTT-4.4.0-1]` `[MQTT-4.6.0-6]`
    pub(super) fn resume(&mut self, window: usize, cx: &Context<'_>) {
        let released: Vec<PacketIdentifier> = self.outbound.resume(window, cx.settings.outbound_bytes).collect();
        for packet_id in released {
            self.acknowledge(Packet::PubRel, packet_id, ReasonCode::Success);
        }
        self.send_waiting(cx);
    }

    /// Sends what waits for room: resends, then answers of the registry.
    ///
    /// What the rules forbid by now is not resent: the one deviation from `[MQTT-4.4.0-1]`.
    fn send_waiting(&mut self, cx: &Context<'_>) {
        let Some(connection) = self.connection() else { return };
        let (version, largest) = (connection.version, connection.largest);
        let mut forbidden: SmallVec<[ByteString; 4]> = SmallVec::new();
        while let Some(mut outgoing) = self.outbound.next(|outgoing| {
            let may = may_go_out(outgoing, cx);
            if !may {
                forbidden.push(outgoing.message.topic.clone().into());
            }
            may && fits(outgoing, version, largest)
        }) {
            // It was begun in time, so it is finished however late it is. [MQTT-4.3.3-7]
            outgoing.message_expiry = outgoing.message.remaining(cx.now);
            self.outputs.push_back(Output::Deliver(outgoing));
        }
        for topic in forbidden {
            self.refuse(Action::Receive, topic, RefusalCause::Rules, ReasonCode::NotAuthorized);
        }
    }
}

/// Do the rules of this moment let it go out?
pub(super) fn may_go_out(outgoing: &Outgoing, cx: &Context<'_>) -> bool {
    let topic = &outgoing.message.topic;
    if outgoing.answer { may_be_answered(topic, cx) } else { cx.authority.may_receive(topic).is_some() }
}

/// The registry's answers need no rule to be received; those to operators need the right to ask.
fn may_be_answered(topic: &TopicName, cx: &Context<'_>) -> bool {
    let operation = AdminOperation::answered_on(topic);
    operation.is_none_or(|operation| cx.authority.may_administer(&operation.topic()).is_some())
}

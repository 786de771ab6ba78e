//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A packet enters; changes of the router's index, then one acknowledgement with a code for each filter, leave. It
//! never takes away a subscription because a later SUBSCRIBE for it was refused.

use super::message::detach_filter;
use super::subscriptions::{Gate, Held};
use super::{Action, Context, Output, PartialSubscription, RefusalCause, Session};
use super::{is_admin_answer_filter, is_answer_filter};
use crate::access::{QuotaKind, SubscribeVerdict};
use crate::mqtt::{Packet, QoS, ReasonCode, ReasonProperties, RetainHandling, SubAck, Subscribe};
use crate::mqtt::{SubscribeFilter, UnsubAck, Unsubscribe};

/// What the filters of one session may hold together: [`Settings::subscriptions`](super::Settings) of this many bytes,
/// and one that is as long as a filter can be.
const FILTER_BYTES: usize = 256;

impl Session {
    /// Several filters are as many subscribes, in order, with one answer. `[MQTT-3.8.4-4]` `[MQTT-3.8.4-5]`
    pub(super) fn on_subscribe(&mut self, subscribe: &Subscribe, cx: &Context<'_>) {
        let in_use = self.speaks_v5() && self.inbound.knows(subscribe.packet_id);
        let mut reason_codes = Vec::with_capacity(subscribe.filters.len());
        for (place, wish) in subscribe.filters.iter().enumerate() {
            let reason_code = if in_use {
                ReasonCode::PacketIdentifierInUse // [MQTT-2.2.1-3]
            } else if place >= cx.settings.subscriptions {
                // More than a session may hold: one packet can name the same filter a hundred thousand times.
                let cause = RefusalCause::TooManySubscriptions;
                self.refuse(Action::Subscribe, detach_filter(&wish.filter), cause, ReasonCode::QuotaExceeded);
                ReasonCode::QuotaExceeded
            } else {
                match self.judge_filter(wish, cx) {
                    Ok((qos, gate)) => self.subscribe(wish, subscribe.subscription_identifier, qos, gate),
                    Err((cause, reason_code)) => {
                        // The filter is a slice of the read buffer: what is kept for the log is not.
                        self.refuse(Action::Subscribe, detach_filter(&wish.filter), cause, reason_code);
                        reason_code
                    }
                }
            };
            let known_to_311 = !reason_code.is_error() || self.speaks_v5();
            reason_codes.push(if known_to_311 { reason_code } else { ReasonCode::UnspecifiedError }); // [MQTT-3.9.3-2]
        }
        let properties = ReasonProperties::default();
        // [MQTT-3.8.4-1] [MQTT-3.8.4-2]
        let suback = SubAck { packet_id: subscribe.packet_id, reason_codes, properties };
        self.send(Packet::SubAck(suback), cx);
        self.invite();
    }

    /// What is granted is counted already. The QoS granted, and what stands before each delivery (`None`: a subscription for the registry's answers).
    fn judge_filter(
        &self,
        wish: &SubscribeFilter,
        cx: &Context<'_>,
    ) -> Result<(QoS, Option<Gate>), (RefusalCause, ReasonCode)> {
        let SubscribeFilter { filter, options } = wish;
        if filter.as_str().starts_with("$share/") {
            return Err((RefusalCause::Shared, ReasonCode::SharedSubscriptionsNotSupported)); // as CONNACK announced
        }
        if filter.levels().nth(cx.settings.topic_levels).is_some() {
            return Err((RefusalCause::TopicTooLong, ReasonCode::TopicFilterInvalid));
        }
        let (qos, gate) = if is_answer_filter(filter) || (is_admin_answer_filter(filter) && !self.is_registration()) {
            (options.qos, None) // granted without a rule: what comes there was asked for by this session
        } else if self.is_registration() {
            return Err((RefusalCause::RegistrationSession, ReasonCode::NotAuthorized));
        } else {
            let (max_qos, open) = match cx.authority.may_subscribe(filter) {
                SubscribeVerdict::Granted { max_qos, unconditional } => (max_qos, unconditional),
                SubscribeVerdict::Partial { max_qos } => match cx.settings.partial_subscription {
                    PartialSubscription::Filter => (max_qos, false),
                    PartialSubscription::Refuse => return Err((RefusalCause::Partial, ReasonCode::NotAuthorized)),
                },
                SubscribeVerdict::Refused => return Err((RefusalCause::Rules, ReasonCode::NotAuthorized)),
            };
            let qos = options.qos.min(max_qos); // too high a QoS is downgraded, not refused
            (qos, Some(if open { Gate::Open(qos) } else { Gate::Checked }))
        };
        let bytes = self.subscriptions.bytes().saturating_add(filter.as_str().len());
        let full = self.subscriptions.len() >= cx.settings.subscriptions
            || bytes > cx.settings.subscriptions.saturating_mul(FILTER_BYTES).saturating_add(usize::from(u16::MAX));
        if full && !self.subscriptions.contains(filter) {
            return Err((RefusalCause::TooManySubscriptions, ReasonCode::QuotaExceeded));
        }
        let most = cx.authority.quota().and_then(|quota| quota.subscriptions);
        if !self.subscriptions.contains(filter) && !self.usage.subscribe(most) {
            return Err((RefusalCause::Quota(QuotaKind::Subscriptions), ReasonCode::QuotaExceeded));
        }
        Ok((qos, gate))
    }

    fn subscribe(
        &mut self,
        wish: &SubscribeFilter,
        identifier: Option<std::num::NonZeroU32>,
        qos: QoS,
        gate: Option<Gate>,
    ) -> ReasonCode {
        let filter = detach_filter(&wish.filter);
        let mut options = wish.options;
        options.qos = qos;
        let new = !self.subscriptions.contains(&filter);
        let local = gate.is_none();
        let gate = gate.unwrap_or(Gate::Open(qos));
        // Replaces one with the same filter, which keeps its number: no gap. [MQTT-3.8.4-3] [MQTT-3.8.4-4]
        let number = self.subscriptions.put(Held { filter: filter.clone(), options, identifier, local, gate });
        if !local {
            let send_retained = match options.retain_handling {
                RetainHandling::SendAtSubscribe => true, // [MQTT-3.3.1-9]
                RetainHandling::SendIfNew => new,        // [MQTT-3.3.1-10]
                RetainHandling::DoNotSend => false,      // [MQTT-3.3.1-11]
            };
            self.outputs.push_back(Output::Subscribed { filter, number, options, send_retained });
        }
        // [MQTT-3.8.4-7]
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }

    /// Filters are compared literally; what was begun is finished. `[MQTT-3.10.4-1]` `[MQTT-3.10.4-3]`
    pub(super) fn on_unsubscribe(&mut self, unsubscribe: &Unsubscribe, cx: &Context<'_>) {
        let in_use = self.speaks_v5() && self.inbound.knows(unsubscribe.packet_id);
        let mut reason_codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            reason_codes.push(if in_use {
                ReasonCode::PacketIdentifierInUse // [MQTT-2.2.1-3]
            } else if let Some((held, number)) = self.subscriptions.remove(filter) {
                self.usage.unsubscribe(1);
                if !held.local {
                    self.outputs.push_back(Output::Unsubscribed { filter: held.filter, number }); // [MQTT-3.10.4-2]
                }
                ReasonCode::Success
            } else {
                ReasonCode::NoSubscriptionExisted
            });
        }
        let properties = ReasonProperties::default();
        // [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
        let unsuback = UnsubAck { packet_id: unsubscribe.packet_id, reason_codes, properties };
        self.send(Packet::UnsubAck(unsuback), cx);
    }
}

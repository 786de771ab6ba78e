//! The property sections of version 5, each written in the order of its structure.

use bytestring::ByteString;

use super::{PublishParts, id};
use crate::mqtt::{
    Auth, ConnAckProperties, ConnectProperties, DisconnectProperties, PublishProperties, QoS, ReasonProperties,
    Subscribe, UserProperties, Will,
    codec::sink::{Body, Sink},
};

/// The properties of an outgoing PUBLISH.
pub(super) struct PublishSection<'a>(pub(super) &'a PublishParts<'a>);
/// The properties of a Will, with its delay.
pub(super) struct ConnectWill<'a>(pub(super) &'a Will);
/// The properties of a SUBSCRIBE.
pub(super) struct SubscribeSection<'a>(pub(super) &'a Subscribe);
/// User properties alone.
pub(super) struct UserSection<'a>(pub(super) &'a UserProperties);

fn byte<S: Sink>(sink: &mut S, identifier: u8, value: Option<u8>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u8(value);
    }
}

fn boolean<S: Sink>(sink: &mut S, identifier: u8, value: Option<bool>) {
    byte(sink, identifier, value.map(u8::from));
}

fn two<S: Sink>(sink: &mut S, identifier: u8, value: Option<impl Into<u16>>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u16(value.into());
    }
}

fn four<S: Sink>(sink: &mut S, identifier: u8, value: Option<impl Into<u32>>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.u32(value.into());
    }
}

fn field<S: Sink>(sink: &mut S, identifier: u8, value: Option<&(impl AsRef<[u8]> + ?Sized)>) {
    if let Some(value) = value {
        sink.u8(identifier);
        sink.field(value.as_ref());
    }
}

fn user<S: Sink>(sink: &mut S, properties: &[(ByteString, ByteString)]) {
    for (name, value) in properties {
        sink.u8(id::USER_PROPERTY);
        sink.field(name.as_bytes());
        sink.field(value.as_bytes());
    }
}

/// What a PUBLISH and a Will have in common, but for the expiry.
fn message<S: Sink>(sink: &mut S, properties: &PublishProperties) {
    byte(sink, id::PAYLOAD_FORMAT_INDICATOR, properties.payload_format_indicator);
    field(sink, id::CONTENT_TYPE, properties.content_type.as_ref());
    field(sink, id::RESPONSE_TOPIC, properties.response_topic.as_ref().map(|topic| topic.as_str().as_bytes()));
    field(sink, id::CORRELATION_DATA, properties.correlation_data.as_ref());
    user(sink, &properties.user_properties);
}

impl Body for PublishSection<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        let parts = self.0;
        let inherited = parts.properties;
        four(
            sink,
            id::MESSAGE_EXPIRY_INTERVAL,
            parts.message_expiry_interval.or(inherited.and_then(|properties| properties.message_expiry_interval)),
        );
        two(sink, id::TOPIC_ALIAS, parts.topic_alias.or(inherited.and_then(|properties| properties.topic_alias)));
        if let Some(properties) = inherited {
            message(sink, properties);
        }
        let own = inherited.map_or(&[][..], |properties| &properties.subscription_identifiers);
        for identifier in own.iter().chain(parts.subscription_identifiers) {
            sink.u8(id::SUBSCRIPTION_IDENTIFIER);
            sink.variable(identifier.get());
        }
    }
}

impl Body for ConnectWill<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        four(sink, id::WILL_DELAY_INTERVAL, self.0.delay_interval);
        four(sink, id::MESSAGE_EXPIRY_INTERVAL, self.0.properties.message_expiry_interval);
        message(sink, &self.0.properties);
    }
}

impl Body for SubscribeSection<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        if let Some(identifier) = self.0.subscription_identifier {
            sink.u8(id::SUBSCRIPTION_IDENTIFIER);
            sink.variable(identifier.get());
        }
        user(sink, &self.0.user_properties);
    }
}

impl Body for UserSection<'_> {
    fn write<S: Sink>(&self, sink: &mut S) {
        user(sink, self.0);
    }
}

impl Body for ConnectProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        four(sink, id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval);
        two(sink, id::RECEIVE_MAXIMUM, self.receive_maximum);
        four(sink, id::MAXIMUM_PACKET_SIZE, self.maximum_packet_size);
        two(sink, id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        boolean(sink, id::REQUEST_RESPONSE_INFORMATION, self.request_response_information);
        boolean(sink, id::REQUEST_PROBLEM_INFORMATION, self.request_problem_information);
        user(sink, &self.user_properties);
        field(sink, id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        field(sink, id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
    }
}

impl Body for ConnAckProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        four(sink, id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval);
        two(sink, id::RECEIVE_MAXIMUM, self.receive_maximum);
        // Section 3.2.2.3.4: QoS 2 is said by leaving the property out.
        byte(sink, id::MAXIMUM_QOS, self.maximum_qos.filter(|qos| *qos < QoS::ExactlyOnce).map(|qos| qos as u8));
        boolean(sink, id::RETAIN_AVAILABLE, self.retain_available);
        four(sink, id::MAXIMUM_PACKET_SIZE, self.maximum_packet_size);
        field(sink, id::ASSIGNED_CLIENT_IDENTIFIER, self.assigned_client_identifier.as_ref());
        two(sink, id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        field(sink, id::REASON_STRING, self.reason_string.as_ref());
        user(sink, &self.user_properties);
        boolean(sink, id::WILDCARD_SUBSCRIPTION_AVAILABLE, self.wildcard_subscription_available);
        boolean(sink, id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE, self.subscription_identifiers_available);
        boolean(sink, id::SHARED_SUBSCRIPTION_AVAILABLE, self.shared_subscription_available);
        two(sink, id::SERVER_KEEP_ALIVE, self.server_keep_alive);
        field(sink, id::RESPONSE_INFORMATION, self.response_information.as_ref());
        field(sink, id::SERVER_REFERENCE, self.server_reference.as_ref());
        field(sink, id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        field(sink, id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
    }
}

impl ReasonProperties {
    pub(super) fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl Body for ReasonProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        field(sink, id::REASON_STRING, self.reason_string.as_ref());
        user(sink, &self.user_properties);
    }
}

impl DisconnectProperties {
    pub(super) fn is_empty(&self) -> bool {
        self.session_expiry_interval.is_none()
            && self.reason_string.is_none()
            && self.user_properties.is_empty()
            && self.server_reference.is_none()
    }
}

impl Body for DisconnectProperties {
    fn write<S: Sink>(&self, sink: &mut S) {
        four(sink, id::SESSION_EXPIRY_INTERVAL, self.session_expiry_interval);
        field(sink, id::REASON_STRING, self.reason_string.as_ref());
        user(sink, &self.user_properties);
        field(sink, id::SERVER_REFERENCE, self.server_reference.as_ref());
    }
}

impl Auth {
    /// No properties at all?
    pub(super) fn is_bare(&self) -> bool {
        self.authentication_method.is_none()
            && self.authentication_data.is_none()
            && self.reason_string.is_none()
            && self.user_properties.is_empty()
    }
}

impl Body for Auth {
    fn write<S: Sink>(&self, sink: &mut S) {
        field(sink, id::AUTHENTICATION_METHOD, self.authentication_method.as_ref());
        field(sink, id::AUTHENTICATION_DATA, self.authentication_data.as_ref());
        field(sink, id::REASON_STRING, self.reason_string.as_ref());
        user(sink, &self.user_properties);
    }
}

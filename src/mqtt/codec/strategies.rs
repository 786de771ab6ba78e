//! Arbitrary packets of each type and version, in the one form that decoding yields.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use proptest::{option, prelude::*, sample::select};

use super::Role;
use crate::mqtt::{
    Acknowledgement, Auth, ClientId, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect,
    DisconnectProperties, Packet, PacketIdentifier, PacketType, ProtocolVersion, Publish, PublishProperties, QoS,
    ReasonCode, ReasonProperties, RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter,
    TopicName, UnsubAck, Unsubscribe, UserProperties, Will,
};

use ProtocolVersion::{V5, V311};

pub(super) fn versions() -> impl Strategy<Value = ProtocolVersion> {
    select(vec![V311, V5])
}

/// A packet, its version, and the role of the side that may receive it.
pub(super) fn packets() -> impl Strategy<Value = (Packet, ProtocolVersion, Role)> {
    versions().prop_flat_map(|version| {
        prop_oneof![
            from_client(version).prop_map(move |packet| (packet, version, Role::Server)),
            from_server(version).prop_map(move |packet| (packet, version, Role::Client(version))),
        ]
    })
}

pub(super) fn from_client(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let both = both(version, Role::Server);
    let common = prop_oneof![
        6 => both,
        1 => connect(version).prop_map(|connect| Packet::Connect(Box::new(connect))),
        1 => subscribe(version).prop_map(Packet::Subscribe),
        1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
        1 => Just(Packet::PingReq),
        1 => disconnect(version, Role::Server).prop_map(Packet::Disconnect),
    ];
    match version {
        V311 => common.boxed(),
        V5 => prop_oneof![9 => common, 1 => auth(Role::Server).prop_map(Packet::Auth)].boxed(),
    }
}

pub(super) fn from_server(version: ProtocolVersion) -> BoxedStrategy<Packet> {
    let role = Role::Client(version);
    let common = prop_oneof![
        6 => both(version, role),
        1 => connack(version).prop_map(|connack| Packet::ConnAck(Box::new(connack))),
        1 => suback(version).prop_map(Packet::SubAck),
        1 => unsuback(version).prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingResp),
    ];
    match version {
        V311 => common.boxed(),
        V5 => prop_oneof![
            9 => common,
            1 => disconnect(version, role).prop_map(Packet::Disconnect),
            1 => auth(role).prop_map(Packet::Auth),
        ]
        .boxed(),
    }
}

fn both(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Packet> {
    prop_oneof![
        4 => publish(version, role).prop_map(Packet::Publish),
        1 => acknowledgement(version, PacketType::PubAck, role).prop_map(Packet::PubAck),
        1 => acknowledgement(version, PacketType::PubRec, role).prop_map(Packet::PubRec),
        1 => acknowledgement(version, PacketType::PubRel, role).prop_map(Packet::PubRel),
        1 => acknowledgement(version, PacketType::PubComp, role).prop_map(Packet::PubComp),
    ]
}

fn string() -> impl Strategy<Value = ByteString> {
    prop_oneof![9 => "[^\\x00]{0,12}", 1 => Just("x".repeat(65_535))].prop_map(ByteString::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[^\\x00+#]{1,12}".prop_map(|text| TopicName::try_from(text.as_str()).unwrap())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    let level = || prop_oneof![3 => "[^\\x00+#/$]{0,4}", 1 => Just("+".to_owned())];
    (select(vec!["", "", "$share/group/"]), prop::collection::vec(level(), 1..5), any::<bool>()).prop_filter_map(
        "not a filter",
        |(share, mut levels, rest)| {
            levels.extend(rest.then(|| "#".to_owned()));
            TopicFilter::try_from(format!("{share}{}", levels.join("/")).as_str()).ok()
        },
    )
}

fn user() -> impl Strategy<Value = UserProperties> {
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec((string(), string()), 1..4)]
}

fn packet_id() -> impl Strategy<Value = PacketIdentifier> {
    any::<NonZeroU16>().prop_map(PacketIdentifier)
}

fn subscription_identifier() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1_u32..200, 1_u32..=0x0FFF_FFFF].prop_map(|number| NonZeroU32::new(number).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn reason_code(packet_type: PacketType, role: Role) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<ReasonCode> = (0..=u8::MAX)
        .filter_map(|code| ReasonCode::try_from(code).ok())
        .filter(|code| match role {
            Role::Server => code.is_valid_from_client(packet_type),
            Role::Client(_) => code.is_valid_from_server(packet_type),
        })
        .collect();
    select(codes)
}

/// The properties in version 5; none in 3.1.1.
fn in_version_5<T: std::fmt::Debug + Default + Clone + 'static>(
    version: ProtocolVersion,
    properties: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    match version {
        V311 => Just(T::default()).boxed(),
        V5 => properties.boxed(),
    }
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect> {
    let client_id = string().prop_map(|text| ClientId::try_from(text).unwrap());
    (
        any::<bool>(),
        any::<u16>(),
        client_id,
        option::of(will(version)),
        option::of(string()),
        option::of(binary()),
        in_version_5(version, connect_properties()),
    )
        .prop_map(move |(clean_start, keep_alive, client_id, will, username, password, properties)| {
            let password = password.filter(|_| version == V5 || username.is_some());
            Connect { version, clean_start, keep_alive, client_id, will, username, password, properties }
        })
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties> {
    (
        (option::of(any::<u32>()), option::of(any::<NonZeroU16>()), option::of(any::<NonZeroU32>())),
        (option::of(any::<u16>()), option::of(any::<bool>()), option::of(any::<bool>())),
        (user(), option::of(string()), option::of(binary())),
    )
        .prop_map(|(a, b, (user_properties, authentication_method, data))| ConnectProperties {
            session_expiry_interval: a.0,
            receive_maximum: a.1,
            maximum_packet_size: a.2,
            topic_alias_maximum: b.0,
            request_response_information: b.1,
            request_problem_information: b.2,
            user_properties,
            authentication_data: data.filter(|_| authentication_method.is_some()),
            authentication_method,
        })
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will> {
    (
        topic(),
        binary(),
        qos(),
        any::<bool>(),
        in_version_5(version, option::of(any::<u32>())),
        in_version_5(version, message_properties()),
    )
        .prop_map(|(topic, payload, qos, retain, delay_interval, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval,
            properties,
        })
}

fn message_properties() -> impl Strategy<Value = PublishProperties> {
    (
        option::of(0..=1_u8),
        option::of(any::<u32>()),
        option::of(topic()),
        option::of(binary()),
        user(),
        option::of(string()),
    )
        .prop_map(|(format, expiry, response_topic, correlation_data, user_properties, content_type)| {
            PublishProperties {
                payload_format_indicator: format,
                message_expiry_interval: expiry,
                topic_alias: None,
                response_topic,
                correlation_data,
                user_properties,
                subscription_identifiers: Vec::new(),
                content_type,
            }
        })
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck> {
    let code = match version {
        V5 => reason_code(PacketType::ConnAck, Role::Client(V5)).boxed(),
        V311 => select(vec![
            ReasonCode::Success,
            ReasonCode::UnsupportedProtocolVersion,
            ReasonCode::ClientIdentifierNotValid,
            ReasonCode::ServerUnavailable,
            ReasonCode::BadUserNameOrPassword,
            ReasonCode::NotAuthorized,
        ])
        .boxed(),
    };
    (any::<bool>(), code, in_version_5(version, connack_properties())).prop_map(
        |(session_present, reason_code, properties)| ConnAck {
            session_present: session_present && reason_code == ReasonCode::Success,
            reason_code,
            properties,
        },
    )
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties> {
    let flag = || option::of(any::<bool>());
    (
        (option::of(any::<u32>()), option::of(any::<NonZeroU16>()), option::of(any::<NonZeroU32>())),
        (option::of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])), flag(), flag(), flag(), flag()),
        (option::of(any::<u16>()), option::of(any::<u16>()), user()),
        (option::of(string()), option::of(string()), option::of(string()), option::of(string())),
        (option::of(string()), option::of(binary())),
    )
        .prop_map(|(a, b, c, d, (authentication_method, data))| ConnAckProperties {
            session_expiry_interval: a.0,
            receive_maximum: a.1,
            maximum_packet_size: a.2,
            maximum_qos: b.0,
            retain_available: b.1,
            wildcard_subscription_available: b.2,
            subscription_identifiers_available: b.3,
            shared_subscription_available: b.4,
            topic_alias_maximum: c.0,
            server_keep_alive: c.1,
            user_properties: c.2,
            assigned_client_identifier: d.0,
            reason_string: d.1,
            response_information: d.2,
            server_reference: d.3,
            authentication_data: data.filter(|_| authentication_method.is_some()),
            authentication_method,
        })
}

fn publish(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Publish> {
    let identifiers = prop::collection::vec(subscription_identifier(), 0..3);
    let properties = (message_properties(), option::of(any::<NonZeroU16>()), identifiers).prop_map(
        move |(mut properties, topic_alias, identifiers)| {
            properties.topic_alias = topic_alias;
            if role != Role::Server {
                properties.subscription_identifiers = identifiers;
            }
            Some(Box::new(properties)).filter(|properties| **properties != PublishProperties::default())
        },
    );
    let payload = prop_oneof![9 => binary(), 1 => Just(Bytes::from(vec![7; 20_000]))];
    let head = (any::<bool>(), qos(), any::<bool>(), topic(), any::<bool>(), packet_id());
    (head, payload, in_version_5(version, properties)).prop_map(
        |((dup, qos, retain, topic, keep_topic, packet_id), payload, properties)| {
            let alias = properties.as_ref().is_some_and(|properties| properties.topic_alias.is_some());
            let confirmed = qos > QoS::AtMostOnce;
            Publish {
                dup: dup && confirmed,
                qos,
                retain,
                topic: Some(topic).filter(|_| keep_topic || !alias),
                packet_id: confirmed.then_some(packet_id),
                payload,
                properties,
            }
        },
    )
}

fn reason_properties() -> impl Strategy<Value = ReasonProperties> {
    (option::of(string()), user())
        .prop_map(|(reason_string, user_properties)| ReasonProperties { reason_string, user_properties })
}

fn acknowledgement(
    version: ProtocolVersion,
    packet_type: PacketType,
    role: Role,
) -> impl Strategy<Value = Acknowledgement> {
    let code = match version {
        V311 => Just(ReasonCode::Success).boxed(),
        V5 => reason_code(packet_type, role).boxed(),
    };
    (packet_id(), code, in_version_5(version, reason_properties())).prop_map(|(packet_id, reason_code, properties)| {
        let properties = Some(Box::new(properties)).filter(|properties| **properties != ReasonProperties::default());
        Acknowledgement { packet_id, reason_code, properties }
    })
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe> {
    let handling = select(vec![RetainHandling::SendAtSubscribe, RetainHandling::SendIfNew, RetainHandling::DoNotSend]);
    let options = (any::<bool>(), any::<bool>(), handling);
    let entry = (filter(), qos(), in_version_5(version, options.prop_map(Some))).prop_map(|(filter, qos, options)| {
        let (no_local, retain_as_published, retain_handling) = options.unwrap_or_default();
        let no_local = no_local && filter.shared().is_none();
        let options = SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
        SubscribeFilter { filter, options }
    });
    (
        packet_id(),
        prop::collection::vec(entry, 1..5),
        in_version_5(version, option::of(subscription_identifier())),
        in_version_5(version, user()),
    )
        .prop_map(|(packet_id, filters, subscription_identifier, user_properties)| Subscribe {
            packet_id,
            filters,
            subscription_identifier,
            user_properties,
        })
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck> {
    let code = match version {
        V5 => reason_code(PacketType::SubAck, Role::Client(V5)).boxed(),
        V311 => select(vec![
            ReasonCode::Success,
            ReasonCode::GrantedQoS1,
            ReasonCode::GrantedQoS2,
            ReasonCode::UnspecifiedError,
        ])
        .boxed(),
    };
    (packet_id(), prop::collection::vec(code, 1..6), in_version_5(version, reason_properties()))
        .prop_map(|(packet_id, reason_codes, properties)| SubAck { packet_id, reason_codes, properties })
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe> {
    (packet_id(), prop::collection::vec(filter(), 1..5), in_version_5(version, user()))
        .prop_map(|(packet_id, filters, user_properties)| Unsubscribe { packet_id, filters, user_properties })
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck> {
    let codes = prop::collection::vec(reason_code(PacketType::UnsubAck, Role::Client(V5)), 1..5);
    (packet_id(), in_version_5(version, codes), in_version_5(version, reason_properties()))
        .prop_map(|(packet_id, reason_codes, properties)| UnsubAck { packet_id, reason_codes, properties })
}

fn disconnect(version: ProtocolVersion, role: Role) -> impl Strategy<Value = Disconnect> {
    let properties = (option::of(any::<u32>()), option::of(string()), user(), option::of(string())).prop_map(
        move |(expiry, reason_string, user_properties, reference)| DisconnectProperties {
            session_expiry_interval: expiry.filter(|_| role == Role::Server),
            reason_string,
            user_properties,
            server_reference: reference.filter(|_| role != Role::Server),
        },
    );
    let code = match version {
        V311 => Just(ReasonCode::Success).boxed(),
        V5 => reason_code(PacketType::Disconnect, role).boxed(),
    };
    (code, in_version_5(version, properties))
        .prop_map(|(reason_code, properties)| Disconnect { reason_code, properties })
}

fn auth(role: Role) -> impl Strategy<Value = Auth> {
    (reason_code(PacketType::Auth, role), string(), option::of(binary()), option::of(string()), user()).prop_map(
        |(reason_code, method, authentication_data, reason_string, user_properties)| Auth {
            reason_code,
            authentication_method: Some(method),
            authentication_data,
            reason_string,
            user_properties,
        },
    )
}

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{strategies::*, *};
use crate::mqtt::{
    Acknowledgement, Auth, ConnAck, ConnAckProperties, Packet, PacketIdentifier, ProtocolVersion, Publish, QoS,
    ReasonCode, SubAck, Subscribe, TopicName,
};

use ProtocolVersion::{V5, V311};

fn decoder(role: Role, version: ProtocolVersion) -> Decoder {
    let mut decoder = Decoder::new(role, Limits::default());
    decoder.set_version(version);
    decoder
}

fn encoded(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out
}

/// All packets up to the first error, and that error.
fn drain(decoder: &mut Decoder, buffer: &mut BytesMut) -> (Vec<Packet>, Option<DecodeError>) {
    let mut packets = Vec::new();
    loop {
        match decoder.decode(buffer) {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error)),
        }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_again((packet, version, role) in packets()) {
        let mut bytes = encoded(&packet, version);
        prop_assert_eq!(encoded_len(&packet, version), Ok(bytes.len()));
        let mut decoder = decoder(role, version);
        prop_assert_eq!(decoder.decode(&mut bytes), Ok(Some(packet)));
        prop_assert!(bytes.is_empty());
    }

    #[test]
    fn no_prefix_of_a_packet_is_a_packet_or_an_error((packet, version, role) in packets()) {
        let bytes = encoded(&packet, version);
        for length in (0..bytes.len()).take(600).chain(bytes.len() - 1..bytes.len()) {
            let mut prefix = BytesMut::from(&bytes[..length]);
            prop_assert_eq!(decoder(role, version).decode(&mut prefix), Ok(None));
            prop_assert_eq!(prefix.len(), length);
        }
    }

    #[test]
    fn cutting_the_stream_changes_nothing(
        version in versions(),
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(versions().prop_flat_map(from_client), 1..5).prop_map(|packets| {
                packets.iter().flat_map(|packet| {
                    let mut bytes = BytesMut::new();
                    encode(packet, V5, &mut bytes).or_else(|_| encode(packet, V311, &mut bytes)).unwrap();
                    bytes
                }).collect()
            }),
        ],
        chunk in 1..50_usize,
    ) {
        let mut whole = BytesMut::from(&bytes[..]);
        let (packets, error) = drain(&mut decoder(Role::Server, version), &mut whole);
        let (mut cut, mut cut_error, mut buffer) = (Vec::new(), None, BytesMut::new());
        let mut decoder = decoder(Role::Server, version);
        for chunk in bytes.chunks(chunk) {
            buffer.extend_from_slice(chunk);
            let (more, error) = drain(&mut decoder, &mut buffer);
            cut.extend(more);
            cut_error = error;
        }
        prop_assert_eq!(packets, cut);
        prop_assert_eq!(error, cut_error);
    }

    /// Whatever the bytes, no panic; and what is accepted encodes and decodes to itself.
    #[test]
    fn mutilated_packets_are_refused_or_mean_something(
        (packet, version, role) in packets(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        insert in any::<bool>(),
    ) {
        let mut bytes = encoded(&packet, version).to_vec();
        if insert {
            bytes.insert(at.index(bytes.len()), value);
        } else {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        let (packets, _) = drain(&mut decoder(role, version), &mut buffer);
        for packet in packets {
            let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
            let again = decoder(role, version).decode(&mut encoded(&packet, version));
            prop_assert_eq!(again, Ok(Some(packet)));
        }
    }

    #[test]
    fn a_packet_over_the_limit_is_refused_before_its_body((packet, version, role) in packets()) {
        let bytes = encoded(&packet, version);
        let limit = |size: usize| Limits { maximum_packet_size: u32::try_from(size).unwrap() };
        let mut decoder = decoder(role, version);
        decoder.set_limits(limit(bytes.len()));
        prop_assert_eq!(decoder.decode(&mut bytes.clone()), Ok(Some(packet)));
        decoder.set_limits(limit(bytes.len() - 1));
        let header = 1 + bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let error = decoder.decode(&mut BytesMut::from(&bytes[..header])).unwrap_err();
        prop_assert_eq!(error.reason_code, ReasonCode::PacketTooLarge);
        prop_assert_eq!(error.version, Some(version));
        prop_assert_eq!(decoder.decode(&mut bytes.clone()), Err(error), "an error is final");
    }

    #[test]
    fn parts_encode_as_the_packet_does((packet, version, _) in packets()) {
        if let Packet::Publish(publish) = &packet {
            let mut out = BytesMut::new();
            let parts = PublishParts::from(publish);
            prop_assert_eq!(encode_publish(&parts, version, &mut out), Ok(()));
            prop_assert_eq!(encoded_publish_len(&parts, version), Ok(out.len()));
            prop_assert_eq!(out, encoded(&packet, version));
        }
    }
}

#[test]
fn topic_and_payload_are_slices_of_the_buffer() {
    let mut buffer = BytesMut::with_capacity(1024);
    let (start, end) = (buffer.as_ptr() as usize, buffer.as_ptr() as usize + 1024);
    buffer.extend_from_slice(b"\x30\x07\0\x03a/bhi");
    let Ok(Some(Packet::Publish(publish))) = decoder(Role::Server, V311).decode(&mut buffer) else { panic!() };
    let inside = |at: *const u8| (start..end).contains(&(at as usize));
    assert!(inside(publish.payload.as_ptr()));
    assert!(inside(publish.topic.unwrap().as_str().as_ptr()));
}

#[test]
fn a_second_connect_is_yielded_and_changes_no_version() {
    let mut decoder = Decoder::new(Role::Server, Limits::default());
    let mut buffer = BytesMut::from(&b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0"[..]);
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Packet::Connect(_)))));
    assert!(matches!(decoder.decode(&mut buffer), Ok(Some(Packet::Connect(_)))));
    assert_eq!(decoder.version(), Some(V311));
}

#[test]
fn an_error_in_connect_says_in_which_version_to_answer() {
    for (bytes, version, reason_code) in [
        (&b"\x10\x0c\0\x04MQTT\x04\x03\0\0\0\0"[..], Some(V311), ReasonCode::MalformedPacket),
        (b"\x10\x0d\0\x04MQTT\x05\x03\0\0\0\0\0", Some(V5), ReasonCode::MalformedPacket),
        (b"\x10\x0c\0\x04MQTT\x03\x02\0\0\0\0", Some(V311), ReasonCode::UnsupportedProtocolVersion),
        (b"\x10\x0c\0\x04MQTT\x84\x02\0\0\0\0", Some(V311), ReasonCode::UnsupportedProtocolVersion),
        (b"\x10\x0c\0\x04MQTT\x06\x02\0\0\0\0", Some(V5), ReasonCode::UnsupportedProtocolVersion),
        (b"\x10\x0e\0\x06MQIsdp\x03\x02\0\0\0\0", Some(V311), ReasonCode::UnsupportedProtocolVersion),
        (b"\x10\x0c\0\x04mqtt\x05\x02\0\0\0\0", None, ReasonCode::UnsupportedProtocolVersion),
        (b"\xc0\x00", None, ReasonCode::ProtocolError),
        (b"GET / HTTP/1.1\r\n", None, ReasonCode::ProtocolError),
        (b"\x16\x03\x01\x02\0", None, ReasonCode::MalformedPacket),
    ] {
        let error = Decoder::new(Role::Server, Limits::default()).decode(&mut BytesMut::from(bytes)).unwrap_err();
        assert_eq!((error.version, error.reason_code), (version, reason_code), "{bytes:02x?}: {error}");
    }
}

#[test]
fn what_cannot_be_said_is_refused_and_writes_nothing() {
    let packet_id = PacketIdentifier::new(1).unwrap();
    let publish = |topic: Option<TopicName>, qos, packet_id| {
        Packet::Publish(Publish {
            dup: false,
            qos,
            retain: false,
            topic,
            packet_id,
            payload: Bytes::new(),
            properties: None,
        })
    };
    let topic = TopicName::try_from("a").unwrap();
    let connack = |reason_code| {
        let properties = ConnAckProperties::default();
        Packet::ConnAck(Box::new(ConnAck { session_present: false, reason_code, properties }))
    };
    let auth = Auth {
        reason_code: ReasonCode::Success,
        authentication_method: None,
        authentication_data: Some(Bytes::from(vec![0; 65_536])),
        reason_string: None,
        user_properties: Vec::new(),
    };
    for (packet, version, error) in [
        (publish(None, QoS::AtMostOnce, None), V311, EncodeError::NotInVersion),
        (publish(None, QoS::AtMostOnce, None), V5, EncodeError::NotInVersion),
        (publish(Some(topic.clone()), QoS::AtLeastOnce, None), V5, EncodeError::PacketIdentifier),
        (publish(Some(topic), QoS::AtMostOnce, Some(packet_id)), V5, EncodeError::PacketIdentifier),
        (connack(ReasonCode::MalformedPacket), V311, EncodeError::ReasonCode),
        (connack(ReasonCode::SessionTakenOver), V5, EncodeError::ReasonCode),
        (Packet::Auth(auth.clone()), V311, EncodeError::NotInVersion),
        (Packet::Auth(auth), V5, EncodeError::FieldTooLong),
        (
            Packet::Subscribe(Subscribe {
                packet_id,
                filters: Vec::new(),
                subscription_identifier: None,
                user_properties: Vec::new(),
            }),
            V5,
            EncodeError::Empty,
        ),
        (
            Packet::SubAck(SubAck { packet_id, reason_codes: vec![ReasonCode::Banned], properties: <_>::default() }),
            V5,
            EncodeError::ReasonCode,
        ),
    ] {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(encode(&packet, version, &mut out), Err(error), "{packet:?}");
        assert_eq!(encoded_len(&packet, version), Err(error));
        assert_eq!(&out[..], b"before");
    }
}

#[test]
fn reason_codes_become_return_codes_in_3_1_1() {
    let connack = |code| {
        let properties = ConnAckProperties::default();
        encoded(&Packet::ConnAck(Box::new(ConnAck { session_present: true, reason_code: code, properties })), V311)
    };
    assert_eq!(&connack(ReasonCode::Success)[..], [0x20, 2, 1, 0]);
    // [MQTT-3.2.2-4]: no session present with a refusal
    assert_eq!(&connack(ReasonCode::UnsupportedProtocolVersion)[..], [0x20, 2, 0, 1]);
    assert_eq!(&connack(ReasonCode::ClientIdentifierNotValid)[..], [0x20, 2, 0, 2]);
    assert_eq!(&connack(ReasonCode::ServerBusy)[..], [0x20, 2, 0, 3]);
    assert_eq!(&connack(ReasonCode::BadUserNameOrPassword)[..], [0x20, 2, 0, 4]);
    assert_eq!(&connack(ReasonCode::NotAuthorized)[..], [0x20, 2, 0, 5]);
    let suback = Packet::SubAck(SubAck {
        packet_id: PacketIdentifier::new(1).unwrap(),
        reason_codes: vec![ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized],
        properties: <_>::default(),
    });
    assert_eq!(&encoded(&suback, V311)[..], [0x90, 4, 0, 1, 2, 0x80]);
    let puback = Packet::PubAck(Acknowledgement {
        packet_id: PacketIdentifier::new(1).unwrap(),
        reason_code: ReasonCode::NotAuthorized,
        properties: None,
    });
    assert_eq!(&encoded(&puback, V311)[..], [0x40, 2, 0, 1]);
    assert_eq!(&encoded(&puback, V5)[..], [0x40, 3, 0, 1, 0x87]);
}

#[test]
fn secrets_are_not_in_debug_output() {
    let mut buffer = BytesMut::from(&b"\x10\x1b\0\x04MQTT\x05\xc2\0\0\x0a\x15\0\x01m\x16\0\x03sEc\0\0\0\0\0\x01P"[..]);
    buffer[1] = u8::try_from(buffer.len() - 2).unwrap();
    let packet = Decoder::new(Role::Server, Limits::default()).decode(&mut buffer).unwrap().unwrap();
    let text = format!("{packet:?}");
    assert!(text.contains("password: Some(1)") && text.contains("authentication_data: Some(3)"), "{text}");
}

//! How long one packet takes: decoding and encoding, from a 64-byte QoS 0 PUBLISH to a CONNECT with everything.

#![expect(clippy::expect_used, reason = "the inputs are constants")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use portcullis::mqtt::{
    Packet, PacketIdentifier, ProtocolVersion, Publish, PublishProperties, QoS, TopicFilter, TopicName,
    codec::{Decoder, Limits, PublishParts, Role, encode, encode_publish},
};

/// Packets in one buffer: what one read of a busy socket brings.
const BATCH: usize = 256;

fn topic() -> TopicName {
    TopicName::try_from("plant/line3/press7/temperature").expect("a topic name")
}

fn publish(payload: usize, qos: QoS, properties: Option<PublishProperties>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic()),
        packet_id: (qos > QoS::AtMostOnce).then(|| PacketIdentifier::new(7)).flatten(),
        payload: Bytes::from(vec![0x55; payload]),
        properties: properties.map(Box::new),
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH as u64));
    let user = vec![("unit".into(), "celsius".into())];
    let properties =
        PublishProperties { content_type: Some("text/plain".into()), user_properties: user, ..<_>::default() };
    let (v311, v5) = (ProtocolVersion::V311, ProtocolVersion::V5);
    for (name, version, publish) in [
        ("publish qos0 64 B, 3.1.1", v311, publish(30, QoS::AtMostOnce, None)),
        ("publish qos0 64 B, 5.0", v5, publish(29, QoS::AtMostOnce, None)),
        ("publish qos1 1 KiB, 5.0", v5, publish(1024, QoS::AtLeastOnce, None)),
        ("publish qos0 with properties, 5.0", v5, publish(29, QoS::AtMostOnce, Some(properties))),
    ] {
        let mut stream = BytesMut::new();
        for _ in 0..BATCH {
            encode(&Packet::Publish(publish.clone()), version, &mut stream).expect("encodes");
        }
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || BytesMut::from(&stream[..]),
                |buffer| {
                    let mut decoder = Decoder::new(Role::Client(version), Limits::default());
                    while let Ok(Some(packet)) = decoder.decode(buffer) {
                        black_box(packet);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    let acknowledgements: Vec<u8> = [0x40, 2, 0, 7].repeat(BATCH);
    group.bench_function("puback", |bencher| {
        bencher.iter_batched_ref(
            || BytesMut::from(&acknowledgements[..]),
            |buffer| {
                let mut decoder = Decoder::new(Role::Client(v5), Limits::default());
                while let Ok(Some(packet)) = decoder.decode(buffer) {
                    black_box(packet);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let topic = topic();
    let payload = [0x55; 30];
    for (name, version) in
        [("publish qos0 64 B, 3.1.1", ProtocolVersion::V311), ("publish qos0 65 B, 5.0", ProtocolVersion::V5)]
    {
        let mut out = BytesMut::with_capacity(1 << 16);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if out.len() > 60_000 {
                    out.clear();
                }
                encode_publish(black_box(&PublishParts::new(&topic, &payload)), version, &mut out)
            });
        });
    }
    group.finish();
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic");
    let topic = topic();
    for text in ["plant/line3/press7/temperature", "plant/+/press7/+", "plant/#", "#", "office/#"] {
        let filter = TopicFilter::try_from(text).expect("a topic filter");
        group.bench_function(format!("matches {text}"), |bencher| {
            bencher.iter(|| black_box(&filter).matches(black_box(&topic)));
        });
        let everything = TopicFilter::try_from("plant/line3/#").expect("a topic filter");
        group.bench_function(format!("covers {text}"), |bencher| {
            bencher.iter(|| black_box(&filter).covers(black_box(&everything)));
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encoding, matching);
criterion_main!(benches);

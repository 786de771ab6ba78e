//! Arbitrary bytes through the decoder.
//!
//! The first byte says who receives in which version, and how the rest is cut; the rest is the stream. Held to be true:
//! nothing panics, cutting the stream changes nothing, and what was accepted is encoded into bytes that mean the same.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run codec fuzz/corpus/codec fuzz/seeds/codec -- -max_total_time=600`: the stable
//! toolchain will do. New finds go into the first folder.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use portcullis::mqtt::{
    Packet, ProtocolVersion,
    codec::{DecodeError, Decoder, Limits, Role, encode, encoded_len},
};

const LIMITS: Limits = Limits { maximum_packet_size: 1 << 20 };

fn decoder(receiver: u8) -> Decoder {
    let (role, version) = match receiver & 7 {
        0 => (Role::Server, Some(ProtocolVersion::V311)),
        1 => (Role::Server, Some(ProtocolVersion::V5)),
        2 => (Role::Client(ProtocolVersion::V311), None),
        3 => (Role::Client(ProtocolVersion::V5), None),
        _ => (Role::Server, None),
    };
    let mut decoder = Decoder::new(role, LIMITS);
    if let Some(version) = version {
        decoder.set_version(version);
    }
    decoder
}

fn drain(decoder: &mut Decoder, buffer: &mut BytesMut, packets: &mut Vec<Packet>) -> Result<(), DecodeError> {
    while let Some(packet) = decoder.decode(buffer)? {
        packets.push(packet);
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let Some((first, stream)) = input.split_first() else { return };

    let (mut whole_decoder, mut whole) = (decoder(*first), Vec::new());
    let whole_end = drain(&mut whole_decoder, &mut BytesMut::from(stream), &mut whole);

    let (mut cut_decoder, mut cut, mut cut_end, mut buffer) = (decoder(*first), Vec::new(), Ok(()), BytesMut::new());
    for chunk in stream.chunks(usize::from(first >> 3) + 1) {
        buffer.extend_from_slice(chunk);
        cut_end = drain(&mut cut_decoder, &mut buffer, &mut cut);
        if cut_end.is_err() {
            break;
        }
    }
    assert_eq!((&whole, &whole_end), (&cut, &cut_end), "cutting the stream changes what it says");

    for packet in &whole {
        let version = match packet {
            Packet::Connect(connect) => connect.version,
            _ => whole_decoder.version().expect("a packet was decoded"),
        };
        let mut bytes = BytesMut::new();
        encode(packet, version, &mut bytes).expect("what was decoded can be encoded");
        assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
        let mut again = decoder(*first);
        again.set_version(version);
        assert_eq!(again.decode(&mut bytes).as_ref(), Ok(&Some(packet.clone())), "encoding changes what it says");
        assert!(bytes.is_empty());
    }
});

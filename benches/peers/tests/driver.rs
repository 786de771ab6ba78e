//! The load driver's counting and decoding. A benchmark has no test harness of its own, so its parts are tested here.

#![allow(dead_code, reason = "only the parts that decide what is counted are tested")]

#[path = "../../load/figures.rs"]
mod figures;
#[path = "../../load/wire.rs"]
mod wire;

use figures::{Histogram, Track};
use wire::{Ack, Incoming};

fn track(sequence: &[u64]) -> Track {
    let mut track = Track::default();
    for &number in sequence {
        track.take(number);
    }
    track
}

#[test]
fn in_order_is_faultless() {
    let track = track(&[0, 1, 2, 3]);
    assert_eq!((track.received, track.lost(4), track.duplicates, track.reordered), (4, 0, 0, 0));
}

#[test]
fn a_gap_and_a_missing_end_are_lost() {
    let track = track(&[0, 1, 5]);
    assert_eq!(track.lost(8), 3 + 2);
}

#[test]
fn a_late_message_is_reordered_and_not_lost() {
    let track = track(&[0, 4, 2]);
    assert_eq!((track.lost(5), track.duplicates, track.reordered), (2, 0, 1));
}

#[test]
fn a_second_copy_is_a_duplicate_wherever_it_comes() {
    let track = track(&[0, 0, 1, 5, 3, 3, 0]);
    assert_eq!((track.received, track.duplicates, track.reordered, track.lost(6)), (4, 3, 1, 2));
}

#[test]
fn progress_counts_what_was_passed_over_once() {
    let mut track = Track::default();
    assert_eq!([3, 1, 3, 4].map(|number| track.take(number)), [4, 0, 0, 1]);
}

#[test]
fn quantiles_are_within_one_step() {
    let mut histogram = Histogram::new();
    for value in 1..=100_000_u64 {
        histogram.record(value * 1_000);
    }
    for (part, wanted) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
        let found = histogram.quantile(part);
        assert!((found - wanted).abs() / wanted < 0.017, "{part}: {found} for {wanted}");
    }
    assert!((histogram.max() - 100_000.0).abs() < 1e-6);
    // The ends of the range have a place, too.
    histogram.record(0);
    histogram.record(u64::MAX);
}

#[test]
fn a_publish_is_read_as_written_for_every_length_of_the_length() {
    for payload in [0, 1, 100, 127, 128, 16_383, 16_384, 2_097_152] {
        let mut bytes = Vec::new();
        wire::publish(&mut bytes, b"a/b", 1, 8, 513, payload);
        bytes.resize(bytes.len() + payload, 7);
        let whole = bytes.len();
        bytes.push(0xD0);
        let Ok(Some((Incoming::Publish { qos, duplicate, packet_identifier, topic, payload: body }, length))) =
            wire::decode(&bytes)
        else {
            panic!("{payload}: not a PUBLISH");
        };
        assert_eq!((qos, duplicate, packet_identifier, topic), (1, true, 513, b"a/b" as &[u8]));
        assert_eq!((body.len(), length), (payload, whole));
    }
}

#[test]
fn a_part_of_a_packet_is_no_packet() {
    let mut bytes = Vec::new();
    wire::publish(&mut bytes, b"topic", 2, 0, 1, 300);
    bytes.resize(bytes.len() + 300, 0);
    for end in 0..bytes.len() {
        assert_eq!(wire::decode(&bytes[..end]), Ok(None), "{end}");
    }
}

#[test]
fn acknowledgements_keep_their_kind_and_identifier() {
    for ack in [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp] {
        let mut bytes = Vec::new();
        wire::ack(&mut bytes, ack, 0xABCD);
        assert_eq!(wire::decode(&bytes), Ok(Some((Incoming::Ack(ack, 0xABCD), 4))));
    }
}

#[test]
fn what_no_server_sends_is_malformed() {
    assert!(wire::decode(&[0x10, 0]).is_err());
    assert!(wire::decode(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF]).is_err());
    assert!(wire::decode(&[0x30, 1, 0]).is_err());
}

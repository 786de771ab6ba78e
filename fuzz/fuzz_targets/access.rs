//! Arbitrary identities, rules, topics and filters through the engine that decides.
//!
//! The bytes are lines: username, client identifier, `client_id` pattern, topic, filter, then a rule per line such as
//! `ar1 a/${username}/#` (allow read up to QoS 1) or `db #` (deny both). Held to be true: nothing panics, the compiled
//! engine answers as the slow definition does, and what it promises of a filter holds for the topic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::access::reference;

fuzz_target!(|data: &[u8]| reference::differential(data));

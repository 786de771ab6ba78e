//! The registry, with directory, CA and disk, held against a [`reference`] that is written from its protocol: every way in, every way of
//! deciding, the life of what is issued, restarts and a disk that fails, in any order; and several of them at once.
//!
//! `PROPTEST_CASES=2000 cargo test --lib registry::service::tests::model` tries for longer.

mod broker;
mod courses;
mod races;
mod reference;
mod seen;

use proptest::test_runner::Config;

use super::*;

const NAMES: [&str; 4] = ["press-1", "press-2", "press-3", "meter-1"];
const PASSWORDS: [&str; 2] = ["a good password", "another good password"];
const KEYS: usize = 6;
const SOURCES: usize = 3;
const LISTENERS: [&str; 2] = ["mqtts", "enrol"];

/// Fewer than the default, unless the environment says how many.
fn config(cases: u32) -> Config {
    let default = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { default } else { Config { cases, ..default } }
}

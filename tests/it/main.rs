//! The integration tests: one binary, a module for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::duration_suboptimal_units,
    clippy::large_stack_arrays,
    clippy::match_wildcard_for_single_variants,
    clippy::needless_raw_string_hashes,
    clippy::unchecked_time_subtraction,
    clippy::unnecessary_wraps,
    reason = "a test that cannot go on fails"
)]
#![allow(clippy::print_stdout, reason = "what a test measures and does not judge")]

mod access;
mod answers;
mod apply;
mod attacks;
mod audit;
mod authority;
mod certificates;
mod change;
mod client;
mod connect;
mod device;
mod doors;
mod embed;
mod endings;
mod enrol;
mod explain;
mod foreign;
mod harness;
mod https;
mod identity;
mod keep;
mod metrics;
mod naming;
mod operators;
mod publish;
mod quota;
mod rehash;
mod rest;
mod revocation;
mod rotation;
mod session;
mod start;
mod subscribe;
mod timed;
mod tls;
mod vectors;
mod will;

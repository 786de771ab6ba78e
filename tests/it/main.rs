//! The integration tests: one binary, a module for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod access;
mod answers;
mod certificates;
mod change;
mod client;
mod connect;
mod embed;
mod endings;
mod foreign;
mod harness;
mod publish;
mod quota;
mod session;
mod subscribe;
mod timed;
mod tls;
mod vectors;
mod will;

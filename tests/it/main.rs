//! The integration tests: one binary, a module for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod access;
mod certificates;
mod change;
mod client;
mod connect;
mod embed;
mod endings;
mod foreign;
mod harness;
mod publish;
mod revocation;
mod session;
mod subscribe;
mod tls;
mod vectors;
mod will;

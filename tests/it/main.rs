//! The integration tests: one binary, a module for each subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod access;
mod attacks;
mod change;
mod client;
mod connect;
mod endings;
mod harness;
mod publish;
mod session;
mod subscribe;
mod vectors;
mod will;

//! One clock for all threads of the driver: nanoseconds since it was first asked, never 0.

use std::sync::LazyLock;
use std::time::Instant;

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn now() -> u64 {
    EPOCH.elapsed().as_nanos() as u64 + 1
}

/// Nanoseconds as milliseconds.
pub(crate) fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

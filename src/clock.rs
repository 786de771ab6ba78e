//! Time as a parameter: the shell asks a [`Clock`], pure code is told.

use std::sync::Arc;
pub use std::time::{Duration, Instant};

pub use jiff::Timestamp;
use parking_lot::Mutex;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time, for timeouts.
    fn instant(&self) -> Instant;
    /// Wall-clock time, for validity periods and records.
    fn timestamp(&self) -> Timestamp;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until a test moves it; clones share one time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<(Instant, Timestamp)>>);

impl ManualClock {
    /// A clock that shows `timestamp`.
    pub fn new(timestamp: Timestamp) -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), timestamp))))
    }

    /// Moves both clocks forward.
    ///
    /// # Panics
    /// When the time leaves the range of its types: a mistake of the test.
    #[expect(clippy::expect_used, reason = "a test double")]
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        now.0 = now.0.checked_add(by).expect("instant in range");
        now.1 = now.1.checked_add(by).expect("timestamp in range");
    }
}

impl Clock for ManualClock {
    fn instant(&self) -> Instant {
        self.0.lock().0
    }

    fn timestamp(&self) -> Timestamp {
        self.0.lock().1
    }
}

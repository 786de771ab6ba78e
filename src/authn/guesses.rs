//! One guess at the password of a name, from before the work to its outcome: at every door the same.
//!
//! Enters: who tries, for which name. Leaves: an [`Attempt`], or how long to wait. INVARIANT: once argon2 has begun, an attempt counts as a
//! failure unless somebody says otherwise, so that nobody gets its work for nothing by hanging up; before that it counts as nothing.
//! Never: an answer that depends on whether the name is somebody's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Source;
use super::throttle::{Throttle, ThrottleSettings};
use crate::access::Username;
use crate::clock::{Clock, Duration};

/// The limits on guessing, for all who check passwords.
pub struct Guesses {
    throttle: Mutex<Throttle>,
    clock: Arc<dyn Clock>,
}

impl Guesses {
    /// With nothing on record.
    pub fn new(settings: ThrottleSettings, clock: Arc<dyn Clock>) -> Self {
        Self { throttle: Mutex::new(Throttle::new(settings)), clock }
    }

    /// May this source have a password for this name checked now?
    ///
    /// # Errors
    /// How long until it may.
    pub fn attempt(self: &Arc<Self>, source: Source, name: &Username) -> Result<Attempt, Duration> {
        let throttle = self.throttle.lock();
        throttle.admit(source, name.as_str(), self.clock.instant())?;
        let at_home = throttle.is_spared(source, name.as_str());
        drop(throttle);
        Ok(Attempt { of: Arc::clone(self), source, name: name.clone(), at_home, begun: Arc::default() })
    }

    /// This source has proven to be this user: the failures of others do not count against it there.
    pub fn spare(&self, source: Source, name: &Username) {
        self.throttle.lock().succeeded(source, name.as_str());
    }
}

/// A password that is being checked for somebody who may not stay for the answer.
pub struct Attempt {
    of: Arc<Guesses>,
    source: Source,
    name: Username,
    at_home: bool,
    /// Has argon2 begun, and nobody said what came of it?
    begun: Arc<AtomicBool>,
}

impl Attempt {
    /// Has the source proven to be this user before?
    pub fn is_at_home(&self) -> bool {
        self.at_home
    }

    /// To be set when argon2 begins.
    pub fn begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.begun)
    }

    /// The password was right: the source is spared for this name from now on.
    pub fn succeeded(self) {
        self.of.spare(self.source, &self.name);
        self.settle();
    }

    /// The password was wrong, or is nobody's.
    pub fn failed(self) {
        self.begun.store(true, Ordering::Release);
    }

    /// It was no guess.
    pub fn settle(mut self) {
        // Another one than that which argon2 may still set.
        self.begun = Arc::default();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.begun.load(Ordering::Acquire) {
            self.of.throttle.lock().failed(self.source, self.name.as_str(), self.of.clock.instant());
        }
    }
}

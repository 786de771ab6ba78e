//! How decisions share the disk: while one is signed and written, what it touches is held in the core, and the lock is not.
//!
//! Entering: what a decision touches, and how it is written. Leaving: whether it is. Many decide at once, and so the commits of the
//! directory group themselves; who needs anything that is held waits for it to land. Never: a decision about what is on its way.

use parking_lot::MutexGuard;

use super::commit::{Inner, Shared};
use super::core::{Claims, Core, Flight};
use super::operator::RegistryError;
use super::request::RequestId;

/// Gives back what a decision holds, also when writing it has panicked.
struct Landing<'a, 'b> {
    inner: &'a Inner,
    state: &'a mut MutexGuard<'b, Shared>,
    flight: Flight,
    written: bool,
}

impl Drop for Landing<'_, '_> {
    fn drop(&mut self) {
        self.state.core.land(&self.flight, self.written);
        self.inner.landed.notify_all();
    }
}

impl Inner {
    /// Waits until none of it is on its way to the disk. `true`: there was nothing to wait for, so what was concluded before
    /// still holds.
    pub(super) fn settle(&self, state: &mut MutexGuard<'_, Shared>, claims: impl Fn(&Core) -> Claims) -> bool {
        let mut at_once = true;
        while state.core.is_in_flight(&claims(&state.core)) {
            at_once = false;
            self.landed.wait(state);
        }
        at_once
    }

    /// As [`Inner::settle`], for everything about a request.
    pub(super) fn settle_request(&self, state: &mut MutexGuard<'_, Shared>, id: RequestId) {
        self.settle(state, |core| {
            core.get(id).map(|request| Claims::default().and_request(request)).unwrap_or_default()
        });
    }

    /// Makes a decision with all that it touches held; nothing of that may be in flight. `decide` may give the lock up
    /// meanwhile, and applies what it has written before it returns.
    pub(super) fn hold<T>(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        claims: Claims,
        decide: impl FnOnce(&mut MutexGuard<'_, Shared>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let flight = state.core.take_off(claims);
        let mut landing = Landing { inner: self, state, flight, written: false };
        let done = decide(landing.state);
        landing.written = done.is_ok();
        done
    }

    /// Writes a decision, while those who need nothing of what it touches go on. When it returns the lock is held again: what was
    /// written is to be applied before that is given up.
    pub(super) fn write<T>(
        &self,
        state: &mut MutexGuard<'_, Shared>,
        claims: Claims,
        write: impl FnOnce() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.hold(state, claims, |state| MutexGuard::unlocked(state, write))
    }
}

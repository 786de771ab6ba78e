//! How many messages are worked on at once, by what they are.
//!
//! Entering: what a message is. Leaving: a job, for as long as a thread is busy with it and no longer: whoever waits for argon2 holds none,
//! for that has a queue of its own, which is bounded and fair between sources. Never: room for one kind that another kind has taken.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Messages of each kind that are worked on at once; more are told to come back.
const JOBS: usize = 64;

/// Kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Of somebody unknown, with a password: it may come several times, and a write to the disk waits at its end.
    Password,
    /// Of somebody unknown, with a key alone.
    Key,
    /// Of a user.
    User,
}

/// To be given back where the work is done, by dropping it.
pub(super) type Job = OwnedSemaphorePermit;

/// The jobs that there are.
pub(super) struct Jobs {
    password: Arc<Semaphore>,
    key: Arc<Semaphore>,
    user: Arc<Semaphore>,
}

impl Jobs {
    pub(super) fn new() -> Self {
        let jobs = || Arc::new(Semaphore::new(JOBS));
        Self { password: jobs(), key: jobs(), user: jobs() }
    }

    fn of(&self, work: Work) -> Arc<Semaphore> {
        Arc::clone(match work {
            Work::Password => &self.password,
            Work::Key => &self.key,
            Work::User => &self.user,
        })
    }

    /// A job for a message that has come; `None`: all of its kind are taken.
    pub(super) fn begin(&self, work: Work) -> Option<Job> {
        self.of(work).try_acquire_owned().ok()
    }

    /// A job for a message that had one before, and for which argon2 has worked since: it waits for its turn. As many come at a time as argon2
    /// lets through.
    pub(super) async fn resume(&self, work: Work) -> Option<Job> {
        self.of(work).acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn no_kind_takes_the_room_of_another_and_who_was_here_before_comes_first() {
        let jobs = Jobs::new();
        let mut taken: Vec<Job> = std::iter::from_fn(|| jobs.begin(Work::Password)).collect();
        assert_eq!(taken.len(), JOBS);
        assert!(jobs.begin(Work::Key).is_some() && jobs.begin(Work::User).is_some());
        let mut before = std::pin::pin!(jobs.resume(Work::Password));
        assert!(before.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        taken.pop();
        assert!(jobs.begin(Work::Password).is_none(), "it is for who waits");
        assert!(before.await.is_some());
        assert!(jobs.begin(Work::Password).is_some(), "given back");
    }
}

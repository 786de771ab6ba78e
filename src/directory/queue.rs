//! Group commit: callers that come while a commit is under way are taken together by the next one.
//!
//! There is no thread of its own. The first caller to find nobody leading leads: it takes the jobs that wait, its own
//! among them, and works on them in order; the others sleep until their answer is there, or until it is their turn
//! to lead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

/// Jobs that one leader takes at once.
const GROUP: usize = 128;

/// A job and the place for its answer.
struct Job<J, A> {
    work: J,
    answer: Arc<Mutex<Option<A>>>,
}

/// The jobs that wait.
pub(super) struct CommitQueue<J, A> {
    inner: Mutex<Inner<J, A>>,
    turn: Condvar,
}

struct Inner<J, A> {
    jobs: VecDeque<Job<J, A>>,
    leader: Option<ThreadId>,
}

/// The calling thread leads already: waiting for itself it would never return.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reentrant;

impl<J, A> CommitQueue<J, A> {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { jobs: VecDeque::new(), leader: None }), turn: Condvar::new() }
    }

    /// Returns the answer to `work`, which `lead` gives here or in another thread: it gets the jobs in the order in
    /// which they came and returns an answer for each, in that order. A job whose leader panics, or leaves it out,
    /// is answered by `lost`.
    pub(super) fn run(&self, work: J, lead: impl Fn(Vec<J>) -> Vec<A>, lost: impl Fn() -> A) -> Result<A, Reentrant> {
        let mine = Arc::new(Mutex::new(None));
        let mut inner = self.inner.lock();
        if inner.leader == Some(thread::current().id()) {
            return Err(Reentrant);
        }
        inner.jobs.push_back(Job { work, answer: Arc::clone(&mine) });
        loop {
            if let Some(answer) = mine.lock().take() {
                return Ok(answer);
            }
            if inner.leader.is_some() {
                self.turn.wait(&mut inner);
                continue;
            }
            inner.leader = Some(thread::current().id());
            let take = inner.jobs.len().min(GROUP);
            let jobs: Vec<_> = inner.jobs.drain(..take).collect();
            drop(inner);
            let (work, answers): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.work, job.answer)).unzip();
            let mut group = Group { queue: self, answers, given: Vec::new(), lost: &lost };
            group.given = lead(work);
            drop(group);
            inner = self.inner.lock();
        }
    }
}

/// Gives the answers and the lead away when it is dropped, by a panic too.
struct Group<'a, J, A, L: Fn() -> A> {
    queue: &'a CommitQueue<J, A>,
    answers: Vec<Arc<Mutex<Option<A>>>>,
    given: Vec<A>,
    lost: &'a L,
}

impl<J, A, L: Fn() -> A> Drop for Group<'_, J, A, L> {
    fn drop(&mut self) {
        let mut given = std::mem::take(&mut self.given).into_iter();
        let mut inner = self.queue.inner.lock();
        for answer in &self.answers {
            *answer.lock() = Some(given.next().unwrap_or_else(self.lost));
        }
        inner.leader = None;
        drop(inner);
        self.queue.turn.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_job_gets_its_own_answer_and_jobs_that_wait_share_a_leader() {
        let queue = Arc::new(CommitQueue::new());
        let groups = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..64)
            .map(|caller| {
                let (queue, groups) = (Arc::clone(&queue), Arc::clone(&groups));
                thread::spawn(move || {
                    for n in 0..20 {
                        let lead = |jobs: Vec<u32>| {
                            groups.fetch_add(1, Ordering::SeqCst);
                            thread::sleep(Duration::from_millis(1));
                            jobs.into_iter().map(|job| job * 2).collect()
                        };
                        let work = caller * 1000 + n;
                        assert_eq!(queue.run(work, lead, || 0), Ok(work * 2));
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        let groups = groups.load(Ordering::SeqCst);
        assert!(groups < 64 * 20 / 4, "{groups} groups");
    }

    #[test]
    fn a_leader_that_panics_answers_and_gives_the_lead_away() {
        let queue: Arc<CommitQueue<u32, Result<u32, ()>>> = Arc::new(CommitQueue::new());
        let waiting = {
            let queue = Arc::clone(&queue);
            let (entered, leads) = std::sync::mpsc::channel();
            let leader = {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let lead = |_| {
                        entered.send(()).unwrap();
                        thread::sleep(Duration::from_millis(50));
                        panic!("a mistake of ours")
                    };
                    assert!(catch_unwind(AssertUnwindSafe(|| queue.run(1, lead, || Err(())))).is_err());
                })
            };
            leads.recv().unwrap();
            let answer = queue.run(2, |jobs| jobs.into_iter().map(Ok).collect(), || Err(())).unwrap();
            leader.join().unwrap();
            answer
        };
        assert_eq!(waiting, Ok(2));
        assert_eq!(queue.run(3, |_| Vec::new(), || Err(())), Ok(Err(())), "a job left out is answered too");
    }

    #[test]
    fn a_call_from_within_is_refused_and_not_a_deadlock() {
        let queue: CommitQueue<u32, Result<u32, Reentrant>> = CommitQueue::new();
        let lead = |_| vec![queue.run(2, |_| Vec::new(), || Ok(0)).and_then(|answer| answer)];
        assert_eq!(queue.run(1, lead, || Ok(0)), Ok(Err(Reentrant)));
    }
}

//! Group commit: callers that come while a commit is under way are taken together by the next one.
//!
//! There is no thread of its own. The first caller to find nobody leading leads: it takes the jobs that wait, its own
//! among them, and works on them in order; the others sleep until their answer is there, or until it is their turn
//! to lead. Each sleeps by itself: of a thousand that wait, nobody wakes who has nothing to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use parking_lot::{Condvar, Mutex};

/// Jobs that one leader takes at once.
const GROUP: usize = 128;

/// A job, and who waits for its answer.
struct Job<J, A> {
    work: J,
    caller: Arc<Caller<A>>,
}

/// A thread that waits.
struct Caller<A> {
    thread: ThreadId,
    call: Mutex<Call<A>>,
    called: Condvar,
}

enum Call<A> {
    NotYet,
    /// Its job is the first of those that wait: it is its turn to lead.
    Lead,
    Answer(A),
}

impl<A> Caller<A> {
    fn call(&self, call: Call<A>) {
        *self.call.lock() = call;
        self.called.notify_one();
    }

    /// The answer, or `None` for the lead.
    fn wait(&self) -> Option<A> {
        let mut call = self.call.lock();
        loop {
            match std::mem::replace(&mut *call, Call::NotYet) {
                Call::Answer(answer) => return Some(answer),
                Call::Lead => return None,
                Call::NotYet => self.called.wait(&mut call),
            }
        }
    }
}

/// The jobs that wait.
pub(super) struct CommitQueue<J, A> {
    inner: Mutex<Inner<J, A>>,
}

struct Inner<J, A> {
    jobs: VecDeque<Job<J, A>>,
    /// INVARIANT: while jobs wait there is one, who takes them or is called to take them.
    leader: Option<ThreadId>,
}

/// The calling thread leads already: waiting for itself it would never return.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reentrant;

impl<J, A> CommitQueue<J, A> {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::new(Inner { jobs: VecDeque::new(), leader: None }) }
    }

    /// Returns the answer to `work`, which `lead` gives here or in another thread: it gets the jobs in the order in
    /// which they came and returns an answer for each, in that order. A job whose leader panics, or leaves it out,
    /// is answered by `lost`.
    pub(super) fn run(&self, work: J, lead: impl Fn(Vec<J>) -> Vec<A>, lost: impl Fn() -> A) -> Result<A, Reentrant> {
        let thread = thread::current().id();
        let caller = Arc::new(Caller { thread, call: Mutex::new(Call::NotYet), called: Condvar::new() });
        let mut inner = self.inner.lock();
        if inner.leader == Some(thread) {
            return Err(Reentrant);
        }
        inner.jobs.push_back(Job { work, caller: Arc::clone(&caller) });
        let leads = inner.leader.is_none();
        if leads {
            inner.leader = Some(thread);
        }
        drop(inner);
        if !leads && let Some(answer) = caller.wait() {
            return Ok(answer);
        }
        // Its own job is the first of them.
        let jobs: Vec<_> = {
            let mut inner = self.inner.lock();
            let take = inner.jobs.len().min(GROUP);
            inner.jobs.drain(..take).collect()
        };
        let (work, callers): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.work, job.caller)).unzip();
        let mut group = Group { queue: self, callers, given: Vec::new(), lost: &lost };
        group.given = lead(work);
        drop(group);
        Ok(caller.wait().unwrap_or_else(lost))
    }
}

/// Gives the answers and the lead away when it is dropped, by a panic too.
struct Group<'a, J, A, L: Fn() -> A> {
    queue: &'a CommitQueue<J, A>,
    callers: Vec<Arc<Caller<A>>>,
    given: Vec<A>,
    lost: &'a L,
}

impl<J, A, L: Fn() -> A> Drop for Group<'_, J, A, L> {
    fn drop(&mut self) {
        let next = {
            let mut inner = self.queue.inner.lock();
            let next = inner.jobs.front().map(|job| Arc::clone(&job.caller));
            inner.leader = next.as_ref().map(|caller| caller.thread);
            next
        };
        // The next one first: it has work to do.
        if let Some(next) = next {
            next.call(Call::Lead);
        }
        let mut given = std::mem::take(&mut self.given).into_iter();
        for caller in &self.callers {
            caller.call(Call::Answer(given.next().unwrap_or_else(self.lost)));
        }
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

//! Connections on their way out: handed over in no time, ended a few at a time.
//!
//! Enters: connections that a worker is done with, tens of thousands in one moment when a network fails. Leaves: each as a
//! task on an acceptor, between the tasks that bring connections in. The worker pays for a push, and nobody is called for
//! each. Until its turn comes a connection has its session still: whoever takes that over finds it as alive as ever.

use std::{collections::VecDeque, future::Future, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::task;

use super::workers::{Worker, Workers};

/// Departures that an acceptor begins before it looks after others.
const AT_A_TIME: usize = 32;

/// Something that is done when its departure is. Dropped without it, it sees to itself.
pub(crate) trait Depart: Send + 'static {
    fn depart(self) -> impl Future<Output = ()> + Send;
}

/// A list for each of the acceptors.
pub(crate) struct Departures<D>(Vec<(Worker, Arc<Mutex<Waiting<D>>>)>);

struct Waiting<D> {
    queue: VecDeque<D>,
    /// Is there a task that works the list off?
    attended: bool,
}

impl<D> Default for Waiting<D> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), attended: false }
    }
}

impl<D: Depart> Departures<D> {
    pub(crate) fn new(acceptors: &Workers) -> Self {
        Self(acceptors.each().map(|acceptor| (acceptor.clone(), Arc::default())).collect())
    }

    /// Lets it depart soon; `number` spreads them over the acceptors.
    pub(super) fn push(&self, number: u64, departing: D) {
        let place = number.checked_rem(self.0.len() as u64).and_then(|place| usize::try_from(place).ok());
        let Some((acceptor, list)) = place.and_then(|place| self.0.get(place)) else { return };
        let mut waiting = list.lock();
        waiting.queue.push_back(departing);
        let attended = mem::replace(&mut waiting.attended, true);
        drop(waiting);
        if !attended {
            acceptor.spawn(attend(acceptor.clone(), Attendant(Some(Arc::clone(list)))));
        }
    }
}

/// Whoever works a list off, until it is empty. When the thread stops before that, all that waits is dropped.
struct Attendant<D>(Option<Arc<Mutex<Waiting<D>>>>);

impl<D> Attendant<D> {
    /// The next few; none: there is nothing left to attend to.
    fn next(&mut self) -> Vec<D> {
        let Some(list) = &self.0 else { return Vec::new() };
        let mut waiting = list.lock();
        let count = waiting.queue.len().min(AT_A_TIME);
        let next: Vec<D> = waiting.queue.drain(..count).collect();
        if next.is_empty() {
            *waiting = Waiting::default();
            drop(waiting);
            self.0 = None;
        }
        next
    }
}

impl<D> Drop for Attendant<D> {
    fn drop(&mut self) {
        if let Some(list) = self.0.take() {
            // Dropped when the lock is not held any more: who departs takes gates.
            let _left = mem::take(&mut *list.lock());
        }
    }
}

async fn attend<D: Depart>(acceptor: Worker, mut attendant: Attendant<D>) {
    loop {
        let next = attendant.next();
        if next.is_empty() {
            return;
        }
        for departing in next {
            acceptor.spawn(departing.depart());
        }
        task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use super::*;

    /// How many departed, and how many are gone one way or the other.
    #[derive(Default)]
    struct Counts {
        departed: AtomicUsize,
        gone: AtomicUsize,
    }

    struct Guest(Arc<Counts>);

    impl Depart for Guest {
        async fn depart(self) {
            self.0.departed.fetch_add(1, SeqCst);
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            self.0.gone.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn everybody_departs_once_whoever_sends_them() {
        let acceptors = Workers::start("test", 2, None).unwrap();
        let (departures, counts) = (Departures::new(&acceptors), Arc::<Counts>::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|number| departures.push(number, Guest(Arc::clone(&counts)))));
            }
        });
        while acceptors.tasks() > 0 {
            std::thread::yield_now();
        }
        assert_eq!((counts.departed.load(SeqCst), counts.gone.load(SeqCst)), (2_000, 2_000));
    }

    #[test]
    fn others_on_the_thread_get_their_turns_in_between() {
        let acceptors = Workers::start("test", 1, None).unwrap();
        let (departures, counts) = (Departures::new(&acceptors), Arc::<Counts>::default());
        let (most, steps) = mpsc::channel();
        let seen = Arc::clone(&counts);
        acceptors.spawn(async move {
            for _ in 0..1_000 {
                departures.push(7, Guest(Arc::clone(&seen)));
            }
            let mut before = 0;
            while before < 1_000 {
                task::yield_now().await;
                let departed = seen.departed.load(SeqCst);
                most.send(departed - before).unwrap();
                before = departed;
            }
        });
        let steps: Vec<usize> = steps.iter().collect();
        assert_eq!(steps.iter().sum::<usize>(), 1_000);
        assert!(steps.iter().all(|step| *step <= 2 * AT_A_TIME), "{steps:?}");
    }

    #[test]
    fn nobody_is_left_behind_by_a_thread_that_stops() {
        let acceptors = Workers::start("test", 1, None).unwrap();
        let (departures, counts) = (Departures::new(&acceptors), Arc::<Counts>::default());
        let push = |count: u64| (0..count).for_each(|number| departures.push(number, Guest(Arc::clone(&counts))));
        push(10_000);
        acceptors.stop();
        assert_eq!(counts.gone.load(SeqCst), 10_000);
        push(10);
        assert_eq!(counts.gone.load(SeqCst), 10_010);
    }
}

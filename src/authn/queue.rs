//! The waiting room before the argon2 threads: bounded, and fair between sources.
//!
//! Enters: a job and the source it comes from. Leaves: jobs, one of each source in turn. It never holds more than its
//! capacity, and a source that fills it cannot keep another one out: when it is full, the newest job of the source that
//! has the most waiting makes room for a source that has fewer.

use std::collections::{HashMap, VecDeque};

use super::Source;

pub(super) struct FairQueue<J> {
    capacity: usize,
    len: usize,
    /// Sources with something waiting, the next one first. INVARIANT: holds exactly the keys of `jobs`, each once.
    turns: VecDeque<Source>,
    /// INVARIANT: no queue here is empty, and their lengths add up to `len`.
    jobs: HashMap<Source, VecDeque<J>>,
}

/// What became of a push into a full queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full<J> {
    /// The job is in; this one of a greedier source is out.
    Displaced(J),
    /// The job is not in.
    Refused(J),
}

impl<J> FairQueue<J> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, len: 0, turns: VecDeque::new(), jobs: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_full(&self) -> bool {
        self.len >= self.capacity
    }

    /// Drops the jobs that `keep` does not want; the others keep their order.
    pub(super) fn retain(&mut self, keep: impl Fn(&J) -> bool) {
        self.jobs.retain(|_, jobs| {
            jobs.retain(&keep);
            !jobs.is_empty()
        });
        self.turns.retain(|source| self.jobs.contains_key(source));
        self.len = self.jobs.values().map(VecDeque::len).sum();
    }

    pub(super) fn push(&mut self, source: Source, job: J) -> Result<(), Full<J>> {
        if self.len < self.capacity {
            self.put(source, job);
            return Ok(());
        }
        let own = self.jobs.get(&source).map_or(0, VecDeque::len);
        // At most `capacity` sources to look at, and only when the queue is full.
        let greediest = self.jobs.iter().max_by_key(|(_, jobs)| jobs.len()).map(|(source, jobs)| (*source, jobs.len()));
        // `own + 1`: otherwise two sources would take the last place from each other for ever.
        match greediest {
            Some((greedy, waiting)) if waiting > own + 1 => match self.take_newest(greedy) {
                Some(displaced) => {
                    self.put(source, job);
                    Err(Full::Displaced(displaced))
                }
                None => Err(Full::Refused(job)),
            },
            _ => Err(Full::Refused(job)),
        }
    }

    pub(super) fn pop(&mut self) -> Option<J> {
        let source = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&source)?;
        let job = jobs.pop_front()?;
        self.len -= 1;
        if jobs.is_empty() {
            self.jobs.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        Some(job)
    }

    fn put(&mut self, source: Source, job: J) {
        let jobs = self.jobs.entry(source).or_default();
        if jobs.is_empty() {
            self.turns.push_back(source);
        }
        jobs.push_back(job);
        self.len += 1;
    }

    fn take_newest(&mut self, source: Source) -> Option<J> {
        let jobs = self.jobs.get_mut(&source)?;
        let job = jobs.pop_back()?;
        self.len -= 1;
        if jobs.is_empty() {
            self.jobs.remove(&source);
            self.turns.retain(|turn| *turn != source);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flood_of_one_source_delays_another_by_one_job() {
        let mut queue = FairQueue::new(100);
        for job in 0..99 {
            queue.push(Source::V6(1), (1, job)).unwrap();
        }
        queue.push(Source::V6(2), (2, 0)).unwrap();
        assert_eq!(queue.pop(), Some((1, 0)));
        assert_eq!(queue.pop(), Some((2, 0)));
    }

    #[test]
    fn a_flood_of_one_source_cannot_keep_another_out() {
        let mut queue = FairQueue::new(10);
        for job in 0..10 {
            queue.push(Source::V6(1), job).unwrap();
        }
        assert_eq!(queue.push(Source::V6(1), 10), Err(Full::Refused(10)), "its own flood gains it nothing");
        assert_eq!(queue.push(Source::V6(2), 20), Err(Full::Displaced(9)), "the newest of the flood goes");
        assert_eq!(queue.len(), 10);
    }

    #[test]
    fn what_is_not_kept_makes_room_and_the_others_keep_their_turns() {
        let mut queue = FairQueue::new(6);
        for job in 0..6 {
            queue.push(Source::V6(job % 3), job).unwrap();
        }
        queue.retain(|job| job % 3 != 0 && *job != 1);
        assert!(!queue.is_full());
        assert_eq!(queue.len(), 3);
        queue.push(Source::V6(0), 6).unwrap();
        let served: Vec<u64> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(served, [4, 2, 6, 5]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_doubled_the_bound_holds_and_each_source_is_served_in_order(
            capacity in 1_usize..20, pushes in prop::collection::vec((0_u64..5, any::<bool>()), 0..200),
        ) {
            let mut queue = FairQueue::new(capacity);
            let mut inside = std::collections::BTreeSet::new();
            let mut served = HashMap::<u64, usize>::new();
            let check = |job: (u64, usize), served: &mut HashMap<u64, usize>| {
                let last = served.insert(job.0, job.1);
                last.is_none_or(|last| last < job.1)
            };
            for (number, (source, pop)) in pushes.into_iter().enumerate() {
                let job = (source, number);
                inside.insert(job);
                match queue.push(Source::V6(source), job) {
                    Ok(()) => {}
                    Err(Full::Displaced(out)) => {
                        prop_assert_ne!(out.0, source);
                        prop_assert!(inside.remove(&out));
                    }
                    Err(Full::Refused(out)) => {
                        prop_assert_eq!(out, job);
                        inside.remove(&out);
                    }
                }
                prop_assert!(queue.len() <= capacity);
                prop_assert_eq!(queue.len(), inside.len());
                if pop && let Some(out) = queue.pop() {
                    prop_assert!(inside.remove(&out));
                    prop_assert!(check(out, &mut served));
                }
            }
            while let Some(out) = queue.pop() {
                prop_assert!(inside.remove(&out));
                prop_assert!(check(out, &mut served));
            }
            prop_assert!(inside.is_empty());
            prop_assert_eq!(queue.len(), 0);
        }
    }
}

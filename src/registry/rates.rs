//! How often one source, or one user, may ask. Pure; bounded in memory whatever comes.

use std::collections::HashMap;
use std::hash::Hash;

use crate::clock::{Duration, Instant};

/// Messages per source or user: a burst, then a steady rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Messages at once.
    pub burst: u32,
    /// Time after which one more is admitted.
    pub every: Duration,
}

/// Token buckets in their one-number form (GCRA): the time at which the bucket is full again.
pub(super) struct Rates<K> {
    limit: RateLimit,
    capacity: usize,
    full_at: HashMap<K, Instant>,
    /// Shared by those that find no place in the table.
    others: Option<Instant>,
    swept: Option<Instant>,
}

impl<K: Copy + Eq + Hash> Rates<K> {
    /// For at most `capacity` of them that asked lately.
    pub(super) fn new(limit: RateLimit, capacity: usize) -> Self {
        Self { limit, capacity, full_at: HashMap::new(), others: None, swept: None }
    }

    /// Takes `cost` messages from its share, or says how long to wait.
    pub(super) fn take(&mut self, source: K, cost: u32, now: Instant) -> Result<(), Duration> {
        if !self.full_at.contains_key(&source) && self.full_at.len() >= self.capacity {
            self.sweep(now);
        }
        let burst = self.limit.every.saturating_mul(self.limit.burst);
        let known = self.full_at.contains_key(&source) || self.full_at.len() < self.capacity;
        let full_at = if known { self.full_at.get(&source).copied() } else { self.others };
        let full_at = full_at.filter(|at| *at > now).unwrap_or(now);
        let backlog = full_at.saturating_duration_since(now);
        let early = (backlog + self.limit.every).saturating_sub(burst);
        if !early.is_zero() {
            return Err(early);
        }
        let next = full_at.checked_add(self.limit.every.saturating_mul(cost)).unwrap_or(full_at);
        if known {
            self.full_at.insert(source, next);
        } else {
            self.others = Some(next);
        }
        Ok(())
    }

    /// Forgets those whose bucket is full; at most once a second, so that a flood does not pay for it each time.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
            self.swept = Some(now);
            self.full_at.retain(|_, at| *at > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::authn::Source;
    use crate::clock::{Clock as _, ManualClock};

    fn source(number: u32) -> Source {
        std::net::IpAddr::from(number.to_be_bytes()).into()
    }

    #[test]
    fn a_burst_is_admitted_then_one_at_a_time_and_others_are_not_held_back() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut rates = Rates::new(RateLimit { burst: 3, every: Duration::from_secs(2) }, 10);
        for _ in 0..3 {
            assert_eq!(rates.take(source(1), 1, clock.instant()), Ok(()));
        }
        assert_eq!(rates.take(source(1), 1, clock.instant()), Err(Duration::from_secs(2)));
        assert_eq!(rates.take(source(2), 1, clock.instant()), Ok(()));
        clock.advance(Duration::from_secs(2));
        assert_eq!(rates.take(source(1), 1, clock.instant()), Ok(()));
        assert!(rates.take(source(1), 1, clock.instant()).is_err());
    }

    #[test]
    fn a_million_sources_leave_the_table_bounded_and_an_old_one_served() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut rates = Rates::new(RateLimit { burst: 3, every: Duration::from_secs(2) }, 100);
        assert_eq!(rates.take(source(0), 1, clock.instant()), Ok(()));
        for number in 1..1_000_000 {
            let _ = rates.take(source(number), 1, clock.instant());
        }
        assert!(rates.full_at.len() <= 100);
        assert_eq!(rates.take(source(0), 1, clock.instant()), Ok(()));
        clock.advance(Duration::from_mins(1));
        assert_eq!(rates.take(source(1_000_001), 1, clock.instant()), Ok(()));
        assert_eq!(rates.full_at.len(), 1, "the idle ones are forgotten");
    }

    proptest! {
        #[test]
        fn no_source_gets_more_than_burst_and_rate(steps in proptest::collection::vec((0..4_u32, 0..3_u64), 1..200)) {
            let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
            let start = clock.instant();
            let mut rates = Rates::new(RateLimit { burst: 5, every: Duration::from_secs(1) }, 10);
            let mut admitted = [0_u64; 4];
            for (who, wait) in steps {
                clock.advance(Duration::from_secs(wait));
                if rates.take(source(who), 1, clock.instant()).is_ok() {
                    admitted[who as usize] += 1;
                }
                let elapsed = clock.instant().duration_since(start).as_secs();
                prop_assert!(admitted[who as usize] <= 5 + elapsed);
            }
        }
    }
}

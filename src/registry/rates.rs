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

    /// Takes one message from its share, or says how long to wait.
    pub(super) fn take(&mut self, source: K, now: Instant) -> Result<(), Duration> {
        let backlog = self.backlog(source, now);
        let early = (backlog + self.limit.every).saturating_sub(self.limit.every.saturating_mul(self.limit.burst));
        if !early.is_zero() {
            return Err(early);
        }
        self.put(source, backlog + self.limit.every, now);
        Ok(())
    }

    /// Takes `cost` messages more for one that was admitted, whether there are so many left or not: what is missing is owed, and nothing
    /// is admitted until it has come back. At most a burst is owed (or one such message, if that is more): neighbours at the address pay, too.
    pub(super) fn charge(&mut self, source: K, cost: u32, now: Instant) {
        let most = self.limit.burst.saturating_add(self.limit.burst.max(cost));
        let backlog = self.backlog(source, now) + self.limit.every.saturating_mul(cost);
        self.put(source, backlog.min(self.limit.every.saturating_mul(most)), now);
    }

    /// How long until its bucket is full.
    fn backlog(&mut self, source: K, now: Instant) -> Duration {
        if !self.full_at.contains_key(&source) && self.full_at.len() >= self.capacity {
            self.sweep(now);
        }
        let full_at = if self.has_place(source) { self.full_at.get(&source).copied() } else { self.others };
        full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    fn put(&mut self, source: K, backlog: Duration, now: Instant) {
        let full_at = now.checked_add(backlog).unwrap_or(now);
        if self.has_place(source) {
            self.full_at.insert(source, full_at);
        } else {
            self.others = Some(full_at);
        }
    }

    fn has_place(&self, source: K) -> bool {
        self.full_at.len() < self.capacity || self.full_at.contains_key(&source)
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
            assert_eq!(rates.take(source(1), clock.instant()), Ok(()));
        }
        assert_eq!(rates.take(source(1), clock.instant()), Err(Duration::from_secs(2)));
        assert_eq!(rates.take(source(2), clock.instant()), Ok(()));
        clock.advance(Duration::from_secs(2));
        assert_eq!(rates.take(source(1), clock.instant()), Ok(()));
        assert!(rates.take(source(1), clock.instant()).is_err());
    }

    #[test]
    fn a_million_sources_leave_the_table_bounded_and_an_old_one_served() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut rates = Rates::new(RateLimit { burst: 3, every: Duration::from_secs(2) }, 100);
        assert_eq!(rates.take(source(0), clock.instant()), Ok(()));
        for number in 1..1_000_000 {
            let _ = rates.take(source(number), clock.instant());
        }
        assert!(rates.full_at.len() <= 100);
        assert_eq!(rates.take(source(0), clock.instant()), Ok(()));
        clock.advance(Duration::from_mins(1));
        assert_eq!(rates.take(source(1_000_001), clock.instant()), Ok(()));
        assert_eq!(rates.full_at.len(), 1, "the idle ones are forgotten");
    }

    /// The attack: whoever has no message left was charged nothing more for a wrong one, so that all but the first guesses were for free.
    #[test]
    fn ten_minutes_of_wrong_guesses_cost_eleven_messages_each() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut rates = Rates::new(RateLimit { burst: 60, every: Duration::from_secs(1) }, 10);
        let mut guesses = 0;
        for _ in 0..6_000 {
            while rates.take(source(1), clock.instant()).is_ok() {
                rates.charge(source(1), 10, clock.instant());
                guesses += 1;
            }
            clock.advance(Duration::from_millis(100));
        }
        // The bucket holds 60 and gets 600 more.
        assert_eq!(guesses, (60 + 600) / 11);
        assert_eq!(rates.take(source(2), clock.instant()), Ok(()), "nobody else pays");
    }

    #[test]
    fn guesses_side_by_side_are_charged_though_nothing_is_left_and_the_debt_is_bounded() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut rates = Rates::new(RateLimit { burst: 60, every: Duration::from_secs(1) }, 10);
        while rates.take(source(1), clock.instant()).is_ok() {}
        rates.charge(source(1), 10, clock.instant());
        assert_eq!(rates.take(source(1), clock.instant()), Err(Duration::from_secs(11)));
        for _ in 0..1_000 {
            rates.charge(source(1), 10, clock.instant());
        }
        assert_eq!(rates.take(source(1), clock.instant()), Err(Duration::from_secs(61)));
        clock.advance(Duration::from_secs(61));
        assert_eq!(rates.take(source(1), clock.instant()), Ok(()));
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
                if rates.take(source(who), clock.instant()).is_ok() {
                    admitted[who as usize] += 1;
                }
                let elapsed = clock.instant().duration_since(start).as_secs();
                prop_assert!(admitted[who as usize] <= 5 + elapsed);
            }
        }
    }
}

//! A token bucket that sessions may take from ahead of what they need.
//!
//! Amounts, the rate and the time of that moment enter; what is given leaves. It holds no rate but to know when it has
//! rested, and never gives more than the rate of any stretch of time and one burst: whole numbers, nothing is rounded.

use crate::access::Rate;
use crate::clock::Instant;

/// In parts of which every rate gives a whole number in a nanosecond.
const WHOLE: u128 = 1_000_000_000;

/// What is taken ahead is at most this part of what is left: as many sessions as there are threads may do so at a time,
/// and near the limit nobody does.
const PART: u128 = 16;

/// Full from the beginning.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Parts that it lacks of a full one.
    lacks: u128,
    /// Parts of those that are taken ahead. They do not flow back: they may be given back, and were then never gone.
    ahead: u128,
    /// Until when it has been filled up, and how fast the last time.
    filled: Option<(Instant, Rate)>,
}

fn parts(amount: u64) -> u128 {
    u128::from(amount) * WHOLE
}

fn flown(since: Instant, now: Instant, rate: Rate) -> u128 {
    let nanoseconds = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
    u128::from(nanoseconds) * u128::from(rate.per_second())
}

impl Bucket {
    /// Lets flow in what the rate gives until `now`. Threads look at the clock before they come here: a time may be a
    /// little older than the one before.
    pub(super) fn fill(&mut self, rate: Rate, now: Instant) {
        let since = self.filled.map_or(now, |(since, _)| since);
        let left = self.lacks.saturating_sub(flown(since, now, rate)).max(self.ahead);
        // A former, more generous quota may have left more behind than there is: empty by this one.
        self.lacks = left.min(parts(rate.burst()));
        self.filled = Some((since.max(now), rate));
    }

    /// Is so much there? After [`Bucket::fill`] by this rate, as all that takes.
    pub(super) fn has(&self, amount: u64, rate: Rate) -> bool {
        self.lacks + parts(amount) <= parts(rate.burst())
    }

    /// Takes what [`Bucket::has`] says is there.
    pub(super) fn take(&mut self, amount: u64) {
        self.lacks += parts(amount);
    }

    /// Takes as much of it as is there.
    pub(super) fn drain(&mut self, amount: u64, rate: Rate) {
        self.lacks = (self.lacks + parts(amount)).min(parts(rate.burst()));
    }

    /// Takes up to so much for later, to be given back soon; says how much.
    pub(super) fn take_ahead(&mut self, most: u64, rate: Rate) -> u64 {
        let left = parts(rate.burst()).saturating_sub(self.lacks);
        // Spares the division wherever there is plenty.
        let amount = match most {
            most if parts(most) * PART <= left => most,
            _ => u64::try_from(left / PART / WHOLE).unwrap_or(u64::MAX),
        };
        self.lacks += parts(amount);
        self.ahead += parts(amount);
        amount
    }

    /// Of an amount that was taken ahead, this is left.
    pub(super) fn give_back(&mut self, taken: u64, left: u64) {
        self.ahead = self.ahead.saturating_sub(parts(taken));
        self.lacks = self.lacks.saturating_sub(parts(left));
    }

    /// Did nobody ever take from it?
    pub(super) fn is_untouched(&self) -> bool {
        self.filled.is_none()
    }

    /// Is it full again?
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.filled.is_none_or(|(since, rate)| self.lacks <= flown(since, now, rate))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, Duration, ManualClock, Timestamp};

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate::new(per_second, Some(burst)).unwrap()
    }

    fn start() -> Instant {
        ManualClock::new(Timestamp::UNIX_EPOCH).instant() + Duration::from_secs(1)
    }

    fn take(bucket: &mut Bucket, amount: u64, rate: Rate, now: Instant) -> bool {
        bucket.fill(rate, now);
        let has = bucket.has(amount, rate);
        if has {
            bucket.take(amount);
        }
        has
    }

    /// The time in which a rate gives so much.
    fn time_of(amount: u64, rate: Rate) -> Duration {
        let nanoseconds = (u128::from(amount) * 1_000_000_000).div_ceil(u128::from(rate.per_second()));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap())
    }

    proptest! {
        /// Over any stretch of time no more than rate times its length plus one burst; checked for every pair of events.
        /// Some come with an older time than others before them: then it was later already.
        #[test]
        fn no_stretch_gets_more_than_the_rate_and_one_burst(
            per_second in 1_u64..5_000,
            burst in 1_u64..2_000,
            events in prop::collection::vec((0_u64..50_000_000, 1_u64..1_500, 0_u64..1_000_000_000), 1..80),
        ) {
            let rate = rate(per_second, burst);
            let (mut bucket, mut now, mut taken) = (Bucket::default(), start(), Vec::new());
            let mut latest = None;
            for (pause, amount, behind) in events {
                now += Duration::from_nanos(pause);
                let behind = Duration::from_nanos(if amount % 2 == 0 { behind } else { 0 });
                let seen = now.checked_sub(behind).unwrap();
                let time = latest.map_or(seen, |latest: Instant| latest.max(seen));
                latest = Some(time);
                if take(&mut bucket, amount, rate, seen) {
                    taken.push((time, amount));
                }
            }
            for (at, (start, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (end, amount) in &taken[at..] {
                    sum += u128::from(*amount);
                    let most = u128::from(per_second) * (*end - *start).as_nanos() / 1_000_000_000 + u128::from(burst);
                    prop_assert!(sum <= most, "{sum} > {most} in {:?}", *end - *start);
                }
            }
        }

        /// Whoever keeps to the rate is never refused.
        #[test]
        fn who_keeps_to_the_rate_is_never_refused(
            per_second in 1_u64..1_000_000,
            burst in 1_u64..1_000,
            amounts in prop::collection::vec(1_u64..1_000, 1..60),
        ) {
            let rate = rate(per_second, burst);
            let (mut bucket, mut now) = (Bucket::default(), start());
            for amount in amounts {
                let amount = amount.min(burst);
                prop_assert!(take(&mut bucket, amount, rate, now));
                now += time_of(amount, rate);
            }
        }

        /// Whatever the rate, a burst is a burst, and as much again is there when its time has passed, not before.
        #[test]
        fn a_burst_comes_one_by_one_too(per_second in 1_u64..2_000_000_000, burst in 1_u64..500) {
            let rate = rate(per_second, burst);
            let (mut bucket, mut now) = (Bucket::default(), start());
            for _ in 0..2 {
                for _ in 0..burst {
                    prop_assert!(take(&mut bucket, 1, rate, now));
                }
                prop_assert!(!take(&mut bucket, 1, rate, now));
                prop_assert!(!bucket.is_full(now + time_of(burst, rate).checked_sub(Duration::from_nanos(1)).unwrap()));
                now += time_of(burst, rate);
                prop_assert!(bucket.is_full(now));
            }
        }

        /// What a former quota left behind keeps nobody waiting for longer than the new one does by itself.
        #[test]
        fn a_new_quota_holds_at_once(
            old in (1_u64..1_000_000, 1_u64..1_000_000),
            new in (1_u64..1_000_000, 1_u64..1_000_000),
            taken in 1_u64..1_000_000,
        ) {
            let (mut bucket, now) = (Bucket::default(), start());
            prop_assert!(take(&mut bucket, taken.min(old.1), rate(old.0, old.1), now));
            let new = rate(new.0, new.1);
            take(&mut bucket, 1, new, now);
            prop_assert!(take(&mut bucket, 1, new, now + time_of(1, new)));
        }

        /// Others find what is left of it as if it had never been taken; meanwhile they find enough.
        #[test]
        fn what_is_given_back_was_never_taken(
            per_second in 1_u64..1_000,
            burst in 1_u64..10_000,
            ahead in 1_u64..1_000,
            others in prop::collection::vec((0_u64..100_000_000, 1_u64..1_000), 0..10),
        ) {
            let rate = rate(per_second, burst);
            let (mut bucket, mut without, mut now) = (Bucket::default(), Bucket::default(), start());
            bucket.fill(rate, now);
            let taken = bucket.take_ahead(ahead, rate);
            prop_assert!(taken == ahead || taken == burst / 16);
            for (pause, amount) in others {
                now += Duration::from_nanos(pause);
                without.fill(rate, now);
                let enough = without.has(amount + taken, rate);
                let got = take(&mut bucket, amount, rate, now);
                prop_assert!(got || !enough);
                if got {
                    without.take(amount);
                }
            }
            bucket.give_back(taken, taken);
            prop_assert_eq!(bucket.lacks, without.lacks);
            prop_assert_eq!(bucket.ahead, 0);
        }
    }

    #[test]
    fn a_drained_bucket_is_empty_and_not_more() {
        let (mut bucket, rate, now) = (Bucket::default(), rate(1, 10), start());
        bucket.fill(rate, now);
        bucket.drain(4, rate);
        assert!(bucket.has(6, rate) && !bucket.has(7, rate));
        bucket.drain(u64::MAX, rate);
        assert!(!bucket.has(1, rate));
        assert!(take(&mut bucket, 1, rate, now + Duration::from_secs(1)));
    }

    /// Nothing wraps at the greatest numbers.
    #[test]
    fn the_greatest_numbers_are_numbers_like_others() {
        let (mut bucket, most, now) = (Bucket::default(), rate(Rate::MOST, Rate::MOST), start());
        assert!(!take(&mut bucket, u64::MAX, most, now));
        assert!(take(&mut bucket, Rate::MOST, most, now));
        assert!(!take(&mut bucket, 1, most, now));
        assert!(take(&mut bucket, Rate::MOST, most, now + Duration::from_secs(1 << 40)));
    }
}

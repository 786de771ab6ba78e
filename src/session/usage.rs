//! What one user takes up of its quota, shared by all of its sessions: the level of its rates, its subscriptions.
//!
//! Events enter with the bound and the time of that moment; yes or no leaves. Atomics, no lock: sessions of one user on
//! different threads meet in one word, sessions of different users in nothing. It holds no bound itself, so that a
//! changed quota holds from the next event on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::access::{Quota, QuotaKind, Rate};
use crate::clock::Instant;

/// Threads look at the clock and then take: one may be so much behind another, in nanoseconds.
const SKEW: u64 = 1_000_000_000;

/// A token bucket in one word: the time, in nanoseconds, at which it is full again (the theoretical arrival time of the
/// Generic Cell Rate Algorithm, ITU-T I.371 A.1). Full from the beginning.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    /// Takes so much, if it is there at `now` (nanoseconds).
    ///
    /// INVARIANT: over any stretch of time, however many threads ask, no more than rate times its length plus one burst
    /// (to the nanosecond, of which times are whole numbers).
    fn take(&self, amount: u64, rate: Rate, now: u64) -> bool {
        let (cost, full) = (rate.nanoseconds_for(amount), rate.nanoseconds_for(rate.burst()));
        let latest = now.saturating_add(full);
        let taken = |level: u64| level.max(now).checked_add(cost).filter(|next| *next <= latest);
        // Far beyond the latest there is only what a former, more generous quota left behind: empty by the new one.
        let next = |level: u64| taken(level).or_else(|| (level > latest.saturating_add(SKEW)).then_some(latest));
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok_and(|level| taken(level).is_some())
    }

    /// Takes as much as is there, up to this.
    fn drain(&self, amount: u64, rate: Rate, now: u64) {
        let (cost, full) = (rate.nanoseconds_for(amount), rate.nanoseconds_for(rate.burst()));
        let latest = now.saturating_add(full);
        let next = |level: u64| Some(level.max(now).saturating_add(cost).min(latest).max(level));
        // The closure always answers.
        let _previous = self.0.fetch_update(Relaxed, Relaxed, next);
    }

    /// Undoes a [`Bucket::take`] that was for nothing.
    fn give_back(&self, amount: u64, rate: Rate) {
        let cost = rate.nanoseconds_for(amount);
        let _previous = self.0.fetch_update(Relaxed, Relaxed, |level| Some(level.saturating_sub(cost)));
    }

    fn is_full(&self, now: u64) -> bool {
        self.0.load(Relaxed) <= now
    }
}

/// The account of one user. The default: nothing is taken up yet.
#[derive(Debug, Default)]
pub struct Usage {
    /// Times are counted from the first one.
    since: OnceLock<Instant>,
    messages: Bucket,
    bytes: Bucket,
    subscriptions: AtomicU32,
    connections: AtomicU32,
}

impl Usage {
    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(*self.since.get_or_init(|| now)).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Did no rate ever bound it?
    pub fn is_untouched(&self) -> bool {
        self.messages.is_full(0) && self.bytes.is_full(0)
    }

    /// Would a new account be just like it, as far as rates go?
    pub fn is_rested(&self, now: Instant) -> bool {
        let now = self.nanoseconds(now);
        self.messages.is_full(now) && self.bytes.is_full(now)
    }

    /// One message of so many bytes is to be published.
    ///
    /// # Errors
    /// The rate that does not admit it; then nothing is taken.
    pub fn publish(&self, quota: &Quota, bytes: impl FnOnce() -> u64, now: Instant) -> Result<(), QuotaKind> {
        if quota.publish_messages.is_none() && quota.publish_bytes.is_none() {
            return Ok(());
        }
        let now = self.nanoseconds(now);
        if let Some(rate) = quota.publish_messages
            && !self.messages.take(1, rate, now)
        {
            return Err(QuotaKind::PublishMessages);
        }
        if let Some(rate) = quota.publish_bytes
            && !self.bytes.take(bytes(), rate, now)
        {
            if let Some(rate) = quota.publish_messages {
                self.messages.give_back(1, rate);
            }
            return Err(QuotaKind::PublishBytes);
        }
        Ok(())
    }

    /// One message of so many bytes is published whatever the quota says: it takes what is there.
    pub(super) fn publish_anyway(&self, quota: &Quota, bytes: impl FnOnce() -> u64, now: Instant) {
        let now = self.nanoseconds(now);
        if let Some(rate) = quota.publish_messages {
            self.messages.drain(1, rate, now);
        }
        if let Some(rate) = quota.publish_bytes {
            self.bytes.drain(bytes(), rate, now);
        }
    }

    /// One more subscription; false: as many as the quota admits.
    pub(super) fn subscribe(&self, most: Option<u32>) -> bool {
        one_more(&self.subscriptions, most)
    }

    /// So many subscriptions fewer.
    pub(super) fn unsubscribe(&self, count: u32) {
        fewer(&self.subscriptions, count);
    }

    /// One more connection; false: as many as the quota admits. Each is to be ended by [`Usage::disconnect`].
    #[must_use]
    pub fn connect(&self, most: Option<u32>) -> bool {
        one_more(&self.connections, most)
    }

    /// One connection fewer.
    pub fn disconnect(&self) {
        fewer(&self.connections, 1);
    }

    /// Subscriptions of all sessions, and connections.
    pub fn counts(&self) -> (u32, u32) {
        (self.subscriptions.load(Relaxed), self.connections.load(Relaxed))
    }
}

fn one_more(count: &AtomicU32, most: Option<u32>) -> bool {
    let most = most.unwrap_or(u32::MAX);
    count.fetch_update(Relaxed, Relaxed, |count| (count < most).then(|| count.saturating_add(1))).is_ok()
}

fn fewer(count: &AtomicU32, by: u32) {
    let _previous = count.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_sub(by)));
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, Duration, ManualClock, Timestamp};

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate::new(per_second, Some(burst)).unwrap()
    }

    proptest! {
        /// Over any stretch of time no more than rate times its length plus one burst; checked for every pair of events.
        #[test]
        fn no_stretch_gets_more_than_the_rate_and_one_burst(
            per_second in 1_u64..5_000,
            burst in 1_u64..2_000,
            events in prop::collection::vec((0_u64..2_000_000_000, 1_u64..1_500, 0_u64..SKEW), 1..80),
        ) {
            let rate = rate(per_second, burst);
            let bucket = Bucket::default();
            let (mut now, mut taken) = (SKEW, Vec::new());
            for (pause, amount, behind) in events {
                now += pause / 40;
                // Some threads come with an older time than others.
                let seen = now - if amount % 2 == 0 { behind } else { 0 };
                if bucket.take(amount, rate, seen) {
                    taken.push((seen, amount));
                }
            }
            for (at, (start, _)) in taken.iter().enumerate() {
                let (mut sum, mut end) = (0_u128, *start);
                for (seen, amount) in &taken[at..] {
                    sum += u128::from(*amount);
                    end = end.max(*seen);
                    let most = u128::from(per_second) * u128::from(end - start + 1) / 1_000_000_000 + u128::from(burst);
                    prop_assert!(sum <= most, "{sum} > {most} from {start} to {end}");
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
            let bucket = Bucket::default();
            let mut now = 5_000_000_000;
            for amount in amounts {
                let amount = amount.min(burst);
                prop_assert!(bucket.take(amount, rate, now));
                now += rate.nanoseconds_for(amount);
            }
        }

        /// What a former quota left behind keeps a user waiting for no more than a second longer than the new one does by
        /// itself.
        #[test]
        fn a_new_quota_holds_at_once(
            old in (1_u64..1_000_000, 1_u64..1_000_000),
            new in (1_u64..1_000_000, 1_u64..1_000_000),
            taken in 1_u64..1_000_000,
        ) {
            let bucket = Bucket::default();
            prop_assert!(bucket.take(taken.min(old.1), rate(old.0, old.1), 7));
            let new = rate(new.0, new.1);
            bucket.take(1, new, 8);
            prop_assert!(bucket.take(1, new, 8 + SKEW + new.nanoseconds_for(1)));
        }

        #[test]
        fn what_is_given_back_was_never_taken(per_second in 1_u64..1_000, burst in 1_u64..1_000, amount in 1_u64..1_000) {
            let rate = rate(per_second, burst);
            let bucket = Bucket::default();
            if bucket.take(amount, rate, 10_000) {
                bucket.give_back(amount, rate);
            }
            prop_assert!(bucket.is_full(10_000));
            bucket.drain(amount, rate, 10_000);
            prop_assert!(!bucket.take(burst, rate, 10_000));
        }
    }

    #[test]
    fn a_refused_message_takes_nothing() {
        let now = ManualClock::new(Timestamp::UNIX_EPOCH).instant();
        let quota =
            Quota { publish_messages: Some(rate(1, 2)), publish_bytes: Some(rate(10, 100)), ..Quota::default() };
        let usage = Usage::default();
        assert_eq!(usage.publish(&quota, || 101, now), Err(QuotaKind::PublishBytes));
        assert!(usage.is_rested(now));
        assert_eq!(usage.publish(&quota, || 100, now), Ok(()));
        assert_eq!(usage.publish(&quota, || 1, now), Err(QuotaKind::PublishBytes));
        assert_eq!(usage.publish(&quota, || 0, now), Ok(()));
        assert_eq!(usage.publish(&quota, || 0, now), Err(QuotaKind::PublishMessages));
        assert!(!usage.is_rested(now + Duration::from_secs(9)));
        assert!(usage.is_rested(now + Duration::from_secs(10)));
    }

    /// However many threads take at once, a bucket that gains nothing gives one burst.
    #[test]
    fn threads_share_one_burst() {
        let (bucket, rate, start) = (Bucket::default(), rate(1, 10_000), Barrier::new(4));
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        (0..5_000).filter(|_| bucket.take(1, rate, 3)).count()
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        assert_eq!(taken, 10_000);
    }

    #[test]
    fn counts_stop_at_the_bound_and_never_go_below_zero() {
        let usage = Usage::default();
        assert!(usage.subscribe(Some(1)) && !usage.subscribe(Some(1)) && usage.subscribe(None));
        assert!(!usage.connect(Some(0)) && usage.connect(Some(1)) && !usage.connect(Some(1)));
        usage.unsubscribe(3);
        usage.disconnect();
        usage.disconnect();
        assert_eq!(usage.counts(), (0, 0));
    }
}

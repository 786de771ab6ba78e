//! What one user takes up of its quota, shared by all of its sessions: its rates, subscriptions, connections.
//!
//! Events enter with the bound and the time of that moment; yes or no leaves. Sessions of one user on different threads
//! meet in one account, sessions of different users in nothing. It holds no bound itself, so that a changed quota holds
//! from the next event on. So that a quota costs little which is not reached, a session in the middle of many packets
//! takes [`Ahead`] of them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use super::bucket::Bucket;
use crate::access::{Quota, QuotaKind};
use crate::clock::Instant;

/// Messages that a session may take ahead, and of how many like the last one the bytes.
const MESSAGES_AHEAD: u64 = 64;

/// The account of one user. The default: nothing is taken up yet.
#[derive(Debug, Default)]
pub struct Usage {
    /// Held for a few sums.
    rates: Mutex<Rates>,
    subscriptions: AtomicU32,
    connections: AtomicU32,
}

#[derive(Debug, Default)]
struct Rates {
    messages: Bucket,
    bytes: Bucket,
}

impl Rates {
    /// One message of so many bytes, if both rates admit it; else nothing is taken.
    fn publish(&mut self, quota: &Quota, bytes: u64, now: Instant) -> Result<(), QuotaKind> {
        if let Some(rate) = quota.publish_messages {
            self.messages.fill(rate, now);
            if !self.messages.has(1, rate) {
                return Err(QuotaKind::PublishMessages);
            }
        }
        if let Some(rate) = quota.publish_bytes {
            self.bytes.fill(rate, now);
            if !self.bytes.has(bytes, rate) {
                return Err(QuotaKind::PublishBytes);
            }
            self.bytes.take(bytes);
        }
        if quota.publish_messages.is_some() {
            self.messages.take(1);
        }
        Ok(())
    }
}

/// What one session has taken out of its user's account and not used yet, for the packets of one moment.
///
/// INVARIANT: it is given back before the next moment, and when the rules change. To whoever looks at the account between two
/// moments it was never there; another session of that user that publishes in this very moment finds a little less.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// For packets that come at this time. `None`: nothing was published at this moment, or nothing bounds it.
    at: Option<Instant>,
    messages: Lease,
    bytes: Lease,
    /// Did a moment bring more than one message the last time? The next one is expected to.
    several: bool,
}

/// INVARIANT: what nothing bounds is taken from nowhere, and there is plenty of it.
#[derive(Debug, Default)]
struct Lease {
    taken: u64,
    left: u64,
}

impl Lease {
    const PLENTY: Self = Self { taken: 0, left: u64::MAX };

    fn new(taken: u64) -> Self {
        Self { taken, left: taken }
    }

    fn is_used(&self) -> bool {
        self.left < self.taken
    }

    fn give_back(&mut self, bucket: &mut Bucket) {
        if self.taken > 0 {
            bucket.give_back(self.taken, self.left);
        }
        *self = Self::default();
    }
}

impl Ahead {
    /// Is it for the packets of this moment?
    pub(super) fn is_for(&self, now: Instant) -> bool {
        self.at == Some(now)
    }

    /// One message of this moment is published out of what was taken, if that covers it.
    pub(super) fn covers(&mut self, bytes: u64) -> bool {
        if let Some(messages_left) = self.messages.left.checked_sub(1)
            && let Some(bytes_left) = self.bytes.left.checked_sub(bytes)
        {
            (self.messages.left, self.bytes.left) = (messages_left, bytes_left);
            return true;
        }
        false
    }

    /// As [`Usage::publish`]; and takes more, if there will be more at this moment.
    pub(super) fn publish(&mut self, usage: &Usage, quota: &Quota, bytes: u64, now: Instant) -> Result<(), QuotaKind> {
        if quota.publish_messages.is_none() && quota.publish_bytes.is_none() {
            return Ok(());
        }
        let another = self.is_for(now);
        let mut rates = usage.rates.lock();
        self.return_to(&mut rates);
        self.at = Some(now);
        rates.publish(quota, bytes, now)?;
        // One message at a moment is the rule, for which nothing more has to be given back.
        self.several |= another;
        if self.several {
            self.messages = match quota.publish_messages {
                Some(rate) => Lease::new(rates.messages.take_ahead(MESSAGES_AHEAD, rate)),
                None => Lease::PLENTY,
            };
            self.bytes = match quota.publish_bytes {
                Some(rate) => Lease::new(rates.bytes.take_ahead(bytes.saturating_mul(MESSAGES_AHEAD), rate)),
                None => Lease::PLENTY,
            };
        }
        Ok(())
    }

    /// The moment is over.
    pub(super) fn give_back(&mut self, usage: &Usage) {
        self.at = None;
        if self.messages.taken > 0 || self.bytes.taken > 0 {
            self.several = self.messages.is_used() || self.bytes.is_used();
            self.return_to(&mut usage.rates.lock());
        }
    }

    fn return_to(&mut self, rates: &mut Rates) {
        self.messages.give_back(&mut rates.messages);
        self.bytes.give_back(&mut rates.bytes);
    }
}

impl Usage {
    /// Did no rate ever bound it?
    pub fn is_untouched(&self) -> bool {
        let rates = self.rates.lock();
        rates.messages.is_untouched() && rates.bytes.is_untouched()
    }

    /// Would a new account be just like it, as far as rates go?
    pub fn is_rested(&self, now: Instant) -> bool {
        let rates = self.rates.lock();
        rates.messages.is_full(now) && rates.bytes.is_full(now)
    }

    /// One message of so many bytes is to be published.
    ///
    /// # Errors
    /// The rate that does not admit it; then nothing is taken.
    pub fn publish(&self, quota: &Quota, bytes: u64, now: Instant) -> Result<(), QuotaKind> {
        self.rates.lock().publish(quota, bytes, now)
    }

    /// One message of so many bytes is published whatever the quota says: it takes what is there.
    pub(super) fn publish_anyway(&self, quota: &Quota, bytes: u64, now: Instant) {
        let mut rates = self.rates.lock();
        if let Some(rate) = quota.publish_messages {
            rates.messages.fill(rate, now);
            rates.messages.drain(1, rate);
        }
        if let Some(rate) = quota.publish_bytes {
            rates.bytes.fill(rate, now);
            rates.bytes.drain(bytes, rate);
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
    use crate::access::Rate;
    use crate::clock::{Clock, Duration, ManualClock, Timestamp};

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate::new(per_second, Some(burst)).unwrap()
    }

    fn quota(messages: Option<(u64, u64)>, bytes: Option<(u64, u64)>) -> Quota {
        Quota {
            publish_messages: messages.map(|(per_second, burst)| rate(per_second, burst)),
            publish_bytes: bytes.map(|(per_second, burst)| rate(per_second, burst)),
            ..Quota::default()
        }
    }

    fn start() -> Instant {
        ManualClock::new(Timestamp::UNIX_EPOCH).instant()
    }

    /// As a session does it.
    fn publish(session: &mut Ahead, usage: &Usage, quota: &Quota, bytes: u64, now: Instant) -> Result<(), QuotaKind> {
        if session.is_for(now) && session.covers(bytes) { Ok(()) } else { session.publish(usage, quota, bytes, now) }
    }

    fn quotas() -> impl Strategy<Value = Quota> {
        let rate = || prop::option::weighted(0.8, (1_u64..2_000_000, 1_u64..100_000));
        (rate(), rate()).prop_map(|(messages, bytes)| quota(messages, bytes))
    }

    /// What befalls the sessions of one user.
    #[derive(Clone, Debug)]
    enum Event {
        /// So many messages of this size, in one session, at one moment.
        Publish {
            session: usize,
            count: u64,
            bytes: u64,
        },
        /// The moment of a session is over.
        Over(usize),
        /// Nanoseconds.
        Time(u64),
        Quota(Quota),
    }

    fn events(sessions: usize) -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            5 => (0..sessions, 1_u64..100, 0_u64..3_000)
                .prop_map(|(session, count, bytes)| Event::Publish { session, count, bytes }),
            3 => (0..sessions).prop_map(Event::Over),
            3 => (0_u64..20_000_000).prop_map(Event::Time),
            1 => quotas().prop_map(Event::Quota),
        ];
        prop::collection::vec(event, 1..60)
    }

    /// Over any stretch in which `quota` held: no more than the rate gives, and one burst.
    fn keeps_to(quota: &Quota, admitted: &[(Instant, u64)]) -> Result<(), TestCaseError> {
        for (at, (start, _)) in admitted.iter().enumerate() {
            let (mut messages, mut bytes) = (0_u128, 0_u128);
            for (end, weight) in &admitted[at..] {
                messages += 1;
                bytes += u128::from(*weight);
                for (rate, sum) in [(quota.publish_messages, messages), (quota.publish_bytes, bytes)] {
                    let flown = |rate: Rate| u128::from(rate.per_second()) * (*end - *start).as_nanos() / 1_000_000_000;
                    let most = rate.map(|rate| flown(rate) + u128::from(rate.burst()));
                    prop_assert!(most.is_none_or(|most| sum <= most), "{sum} > {most:?} in {:?}", *end - *start);
                }
            }
        }
        Ok(())
    }

    proptest! {
        /// However many sessions take ahead, and whenever each of them gives back.
        #[test]
        fn sessions_together_get_no_more_than_the_rate_and_one_burst(first in quotas(), events in events(3)) {
            let (usage, mut sessions) = (Usage::default(), <[Ahead; 3]>::default());
            let (mut quota, mut now, mut admitted) = (first, start(), Vec::new());
            for event in events {
                match event {
                    Event::Publish { session, count, bytes } => {
                        for _ in 0..count {
                            if publish(&mut sessions[session], &usage, &quota, bytes, now).is_ok() {
                                admitted.push((now, bytes));
                            }
                        }
                    }
                    Event::Over(session) => sessions[session].give_back(&usage),
                    Event::Time(nanoseconds) => now += Duration::from_nanos(nanoseconds),
                    Event::Quota(other) => {
                        keeps_to(&quota, &admitted)?;
                        admitted.clear();
                        // As each does that hears of it.
                        for session in &mut sessions {
                            session.give_back(&usage);
                        }
                        quota = other;
                    }
                }
            }
            keeps_to(&quota, &admitted)?;
        }

        /// To a session that has the account for itself, it makes no difference at all.
        #[test]
        fn alone_who_takes_ahead_gets_what_others_get(first in quotas(), events in events(1)) {
            let (usage, mut session, one_by_one) = (Usage::default(), Ahead::default(), Usage::default());
            let (mut quota, mut now) = (first, start());
            for event in events {
                match event {
                    Event::Publish { count, bytes, .. } => {
                        for _ in 0..count {
                            let expected = one_by_one.publish(&quota, bytes, now);
                            prop_assert_eq!(publish(&mut session, &usage, &quota, bytes, now), expected);
                        }
                    }
                    Event::Over(_) => session.give_back(&usage),
                    Event::Time(nanoseconds) => now += Duration::from_nanos(nanoseconds),
                    Event::Quota(other) => {
                        session.give_back(&usage);
                        quota = other;
                    }
                }
            }
        }
    }

    #[test]
    fn a_refused_message_takes_nothing() {
        let now = start();
        let quota = quota(Some((1, 2)), Some((10, 100)));
        let usage = Usage::default();
        assert_eq!(usage.publish(&quota, 101, now), Err(QuotaKind::PublishBytes));
        assert!(usage.is_rested(now));
        assert_eq!(usage.publish(&quota, 100, now), Ok(()));
        assert_eq!(usage.publish(&quota, 1, now), Err(QuotaKind::PublishBytes));
        assert_eq!(usage.publish(&quota, 0, now), Ok(()));
        assert_eq!(usage.publish(&quota, 0, now), Err(QuotaKind::PublishMessages));
        assert!(!usage.is_rested(now + Duration::from_secs(9)));
        assert!(usage.is_rested(now + Duration::from_secs(10)));
    }

    /// However many threads take at once, ahead and in many moments, a bucket that gains nothing gives one burst; what
    /// none of them got is still there.
    #[test]
    fn threads_share_one_burst() {
        let (usage, quota, now, start) = (Usage::default(), quota(Some((1, 10_000)), None), start(), Barrier::new(4));
        let taken: usize = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let mut session = Ahead::default();
                        let mut one = |number: usize| {
                            if number.is_multiple_of(50) {
                                session.give_back(&usage);
                            }
                            publish(&mut session, &usage, &quota, 0, now).is_ok()
                        };
                        let taken = (0..5_000).filter(|&number| one(number)).count();
                        session.give_back(&usage);
                        taken
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        let rest = (0..10_000).filter(|_| usage.publish(&quota, 0, now).is_ok()).count();
        assert_eq!(taken + rest, 10_000);
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

//! Guessing is slow: failures are limited per source and per user name.
//!
//! Enters: who tried (source and the name that was claimed), how it went, and the time. Leaves: go on, or how long to
//! wait. It never asks whether the name exists, so that a limit tells nothing, and it holds a bounded number of entries:
//! a flood of a million sources makes it forget old failures, no more.
//!
//! Nobody can lock out somebody else. A source that has once proven to be a user is *spared* for that user: the failures
//! of others, from elsewhere or for other names, do not count against it; it has a bucket of its own for that user.
//! A source that has not is heard a few times for each name, however many others fail in that name: whoever guesses from
//! a thousand addresses gets a thousand times that little, and keeps nobody out. What is left to an attacker is to share
//! the very address of a user: of one that never logged in from there, or, guessing for that very name, of one that did.
//! A remembered password (the proof cache) is asked for after this file, or it would answer as many guesses as somebody can send; a
//! certificate is let in before it.
//!
//! The buckets are of the GCRA kind: one instant each, the time at which the bucket will be full again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::Source;
use super::bounded::Bounded;
use crate::clock::{Duration, Instant};

/// So many failures at once, then one each `every`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureRate {
    /// Failures that are free (at least 1).
    pub burst: u32,
    /// How long one of them takes to come back.
    pub every: Duration,
}

/// Settings of the limits on failures.
#[derive(Clone, Copy, Debug)]
pub struct ThrottleSettings {
    /// Of one source, whatever names it tries. Default 20, then one in 6 seconds: a whole office may mistype.
    pub source: FailureRate,
    /// Of one name, from sources that are not spared. Default 10, then one in 30 seconds.
    pub user: FailureRate,
    /// Of one name from one source that is not spared for it, when the others have used up `user`. Default 3, then one
    /// an hour.
    pub stranger: FailureRate,
    /// Of one name from one source that is spared for it. Default 10, then one in 6 seconds.
    pub spared: FailureRate,
    /// Sources, names, and pairs of both, whose failures are remembered. Default 65,536 of each, together about 8 MiB.
    pub entries: usize,
    /// Pairs of a name and a source that are spared. Default 262,144, about 16 MiB; the last half of them at least.
    pub spared_entries: usize,
}

impl Default for ThrottleSettings {
    fn default() -> Self {
        let rate = |burst, seconds| FailureRate { burst, every: Duration::from_secs(seconds) };
        Self {
            source: rate(20, 6),
            user: rate(10, 30),
            stranger: rate(3, 3600),
            spared: rate(10, 6),
            entries: 65_536,
            spared_entries: 262_144,
        }
    }
}

/// The limits and their state.
pub struct Throttle {
    settings: ThrottleSettings,
    names: RandomState,
    sources: Bounded<Source, Instant>,
    users: Bounded<Name, Instant>,
    /// At the rate `spared` for a pair that is spared, at `stranger` for any other.
    pairs: Bounded<(Name, Source), Instant>,
    /// Where each user has proven itself.
    spared: Bounded<(Name, Source), ()>,
}

/// A keyed hash of a name: strangers choose names, and their length is not to count.
type Name = u64;

impl Throttle {
    /// With nothing on record.
    pub fn new(settings: ThrottleSettings) -> Self {
        Self {
            settings,
            names: RandomState::new(),
            sources: Bounded::new(settings.entries),
            users: Bounded::new(settings.entries),
            pairs: Bounded::new(settings.entries),
            spared: Bounded::new(settings.spared_entries),
        }
    }

    /// May this source have a password for this name checked now?
    ///
    /// # Errors
    /// How long until it may.
    pub fn admit(&self, source: Source, name: &str, now: Instant) -> Result<(), Duration> {
        let name = self.names.hash_one(name);
        let pair = (name, source);
        let limits = &self.settings;
        let of_pair = self.pairs.get(&pair);
        let wait = if self.spared.get(&pair).is_some() {
            limits.spared.wait(of_pair, now)
        } else {
            let of_name = limits.user.wait(self.users.get(&name), now).min(limits.stranger.wait(of_pair, now));
            limits.source.wait(self.sources.get(&source), now).max(of_name)
        };
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Has this source proven to be this user?
    pub fn is_spared(&self, source: Source, name: &str) -> bool {
        self.spared.get(&(self.names.hash_one(name), source)).is_some()
    }

    /// The password was wrong, or there is no such user.
    ///
    /// Checks that ran side by side may fail together past the limit: the bucket then owes, up to a burst.
    pub fn failed(&mut self, source: Source, name: &str, now: Instant) {
        let name = self.names.hash_one(name);
        let pair = (name, source);
        let limits = &self.settings;
        let spared = self.spared.get(&pair).is_some();
        let of_pair = if spared { limits.spared } else { limits.stranger };
        let full = of_pair.charge(self.pairs.get(&pair), now);
        self.pairs.insert(pair, full);
        if !spared {
            let full = limits.source.charge(self.sources.get(&source), now);
            self.sources.insert(source, full);
            let full = limits.user.charge(self.users.get(&name), now);
            self.users.insert(name, full);
        }
    }

    /// The password was right: this source is spared for this user from now on.
    pub fn succeeded(&mut self, source: Source, name: &str) {
        let pair = (self.names.hash_one(name), source);
        if self.spared.get(&pair).is_none() {
            // What it owes as a stranger is counted in hours, which would keep it out as one that is at home.
            self.pairs.remove(&pair);
        }
        self.spared.insert(pair, ());
    }
}

impl FailureRate {
    /// Zero when a failure is free now. `full`: when the bucket is full again.
    fn wait(self, full: Option<&Instant>, now: Instant) -> Duration {
        let owed = full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        (owed + self.every).saturating_sub(self.every.saturating_mul(self.burst.max(1)))
    }

    fn charge(self, full: Option<&Instant>, now: Instant) -> Instant {
        let owed = full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let most = self.every.saturating_mul(self.burst.max(1).saturating_mul(2));
        now.checked_add((owed + self.every).min(most)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOME: Source = Source::V6(1);
    const ELSEWHERE: Source = Source::V6(2);

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn guess(throttle: &mut Throttle, source: Source, name: &str, now: Instant) -> bool {
        let admitted = throttle.admit(source, name, now).is_ok();
        if admitted {
            throttle.failed(source, name, now);
        }
        admitted
    }

    #[test]
    fn guesses_of_one_source_are_limited_whatever_names_it_tries() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        let names: Vec<String> = (0..1000).map(|n| format!("user-{n}")).collect();
        assert_eq!(names.iter().filter(|name| guess(&mut throttle, HOME, name, now)).count(), 20);
        assert_eq!(throttle.admit(HOME, "another", now), Err(second(6)));
        assert!(guess(&mut throttle, HOME, "another", now + second(6)));
        assert!(!guess(&mut throttle, HOME, "another", now + second(7)));
    }

    #[test]
    fn guesses_for_one_user_are_limited_by_how_many_addresses_the_attacker_has() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        let mut round = |at: u64, addresses: u64| {
            (0..addresses * 10)
                .filter(|n| guess(&mut throttle, Source::V6(n % addresses), "admin", now + second(at)))
                .count()
        };
        assert_eq!(round(0, 5), 5 * 3, "three of each address, the first ten of all among them");
        assert_eq!(round(0, 1000), 995 * 3);
        let hour = (1..360).map(|at| round(at * 10, 20)).sum::<usize>();
        assert!(hour <= 120, "what the name has, one in 30 seconds, and nothing more: {hour}");
        let next = round(3600, 1000);
        assert!((980..=1001).contains(&next), "one an hour of each address that had used up its own: {next}");
    }

    #[test]
    fn one_address_alone_has_what_the_name_has() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        assert_eq!((0..1000).filter(|_| guess(&mut throttle, HOME, "admin", now)).count(), 10);
        let hour = (1..=3600).filter(|at| guess(&mut throttle, HOME, "admin", now + second(*at))).count();
        assert_eq!(hour, 120, "one in 30 seconds");
    }

    #[test]
    fn a_distributed_attack_on_a_user_does_not_lock_it_out_where_it_never_was() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        for at in 0..600 {
            for n in 100..200 {
                guess(&mut throttle, Source::V6(n), "device", now + second(at));
            }
        }
        let now = now + second(600);
        assert!(throttle.admit(Source::V6(100), "device", now).is_err());
        // Whoever mistypes twice, and then is at home: as if nobody had guessed.
        assert!(guess(&mut throttle, ELSEWHERE, "device", now) && guess(&mut throttle, ELSEWHERE, "device", now));
        assert_eq!(throttle.admit(ELSEWHERE, "device", now), Ok(()));
        throttle.succeeded(ELSEWHERE, "device");
        assert_eq!((0..1000).filter(|_| guess(&mut throttle, ELSEWHERE, "device", now)).count(), 10);
    }

    #[test]
    fn a_distributed_attack_on_a_user_does_not_lock_out_where_it_is_at_home() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        throttle.succeeded(HOME, "device");
        for _ in 0..10 {
            for n in 100..10_000 {
                guess(&mut throttle, Source::V6(n), "device", now);
            }
            while guess(&mut throttle, ELSEWHERE, "device", now) {}
        }
        assert!(throttle.admit(ELSEWHERE, "device", now).is_err());
        assert_eq!((0..1000).filter(|_| guess(&mut throttle, HOME, "device", now)).count(), 10, "of its own");
    }

    #[test]
    fn an_attacker_behind_the_same_address_does_not_lock_out_a_user_at_home_there() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        throttle.succeeded(HOME, "device");
        for n in 0..1000 {
            guess(&mut throttle, HOME, &format!("victim-{n}"), now);
        }
        assert!(throttle.admit(HOME, "new", now).is_err());
        assert_eq!(throttle.admit(HOME, "device", now), Ok(()));
    }

    #[test]
    fn being_spared_is_no_licence_to_guess() {
        let (mut throttle, now) = (Throttle::new(ThrottleSettings::default()), Instant::now());
        throttle.succeeded(HOME, "device");
        assert_eq!((0..1000).filter(|_| guess(&mut throttle, HOME, "device", now)).count(), 10);
        assert!(throttle.admit(HOME, "other", now).is_ok(), "nor does it count against others");
    }

    #[test]
    fn a_flood_of_a_million_sources_leaves_memory_bounded() {
        let settings = ThrottleSettings { entries: 1000, spared_entries: 1000, ..ThrottleSettings::default() };
        let (mut throttle, now) = (Throttle::new(settings), Instant::now());
        for n in 0..1_000_000 {
            throttle.failed(Source::V6(n), if n % 2 == 0 { "a" } else { "b" }, now);
            if n % 1000 == 0 {
                throttle.succeeded(Source::V6(n), "a");
            }
        }
        for len in [throttle.sources.len(), throttle.users.len(), throttle.pairs.len(), throttle.spared.len()] {
            assert!(len <= 1000, "{len}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_never_admits_more_than_its_burst_and_its_rate(
            burst in 1_u32..10, every in 1_u64..10, steps in prop::collection::vec(0_u64..20, 1..200),
        ) {
            let rate = FailureRate { burst, every: second(every) };
            let (start, mut now) = (Instant::now(), Instant::now());
            let (mut full, mut admitted) = (None, 0_u64);
            for step in steps {
                now += second(step);
                if rate.wait(full.as_ref(), now).is_zero() {
                    admitted += 1;
                    full = Some(rate.charge(full.as_ref(), now));
                }
                prop_assert!(admitted <= u64::from(burst) + now.duration_since(start).as_secs() / every);
            }
        }

        #[test]
        fn whoever_waits_as_long_as_told_is_admitted(failures in 0_u32..500, at in 0_u64..1000) {
            let (mut throttle, start) = (Throttle::new(ThrottleSettings::default()), Instant::now());
            for _ in 0..failures {
                throttle.failed(HOME, "device", start);
            }
            let now = start + second(at);
            let wait = throttle.admit(HOME, "device", now).err().unwrap_or_default();
            prop_assert!(wait <= second(600), "debts are bounded");
            prop_assert_eq!(throttle.admit(HOME, "device", now + wait), Ok(()));
        }
    }
}

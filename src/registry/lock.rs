//! The lock of the door: shut by default, opened for a while and within limits, shut again by itself. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Now;
use super::request::Door;
use crate::access::{Network, Username, UsernamePattern};
use crate::clock::{Duration, Instant};

/// Longest time that one unlock may last: a week.
pub const MAX_UNLOCK: Duration = Duration::from_hours(7 * 24);

/// How the door is opened: all limits must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnlockTerms {
    /// Seconds; default `registry.unlock_for`, at most a week.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// Only through the listener of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Only from these networks; empty: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Network>,
    /// Only these names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<UsernamePattern>,
    /// Only so many new requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Is a CONNECT with an unknown user name and a password a request too?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub implicit: bool,
}

/// Open or shut.
#[derive(Clone, Debug, Default)]
pub(super) enum Lock {
    #[default]
    Locked,
    Open {
        until: Instant,
        /// For people; the monotonic clock decides.
        until_wall: Timestamp,
        terms: UnlockTerms,
        remaining: Option<u32>,
    },
}

impl Lock {
    /// Opens the door; an earlier unlock and its limits are over.
    pub(super) fn open(terms: UnlockTerms, default: Duration, now: Now) -> Option<Self> {
        let duration = terms.duration.map_or(default, Duration::from_secs);
        if duration.is_zero() || duration > MAX_UNLOCK || terms.count == Some(0) {
            return None;
        }
        let until = now.instant.checked_add(duration)?;
        let until_wall = now.wall.checked_add(duration).ok()?;
        Some(Self::Open { until, until_wall, remaining: terms.count, terms })
    }

    /// May a new request come in?
    pub(super) fn admits(&self, source: IpAddr, listener: &str, username: &Username, door: Door, now: Now) -> bool {
        match self {
            Self::Locked => false,
            Self::Open { until, terms, remaining, .. } => {
                now.instant < *until
                    && (terms.implicit || !door.is_implicit())
                    && remaining.is_none_or(|left| left > 0)
                    && terms.listener.as_deref().is_none_or(|only| only == listener)
                    && (terms.source.is_empty() || terms.source.iter().any(|network| network.contains(source)))
                    && terms.username.as_ref().is_none_or(|pattern| pattern.matches(username))
            }
        }
    }

    /// A new request came in.
    pub(super) fn spend(&mut self) {
        if let Self::Open { remaining: Some(left), .. } = self {
            *left = left.saturating_sub(1);
        }
    }

    /// It could not be recorded.
    pub(super) fn give_back(&mut self) {
        if let Self::Open { remaining: Some(left), .. } = self {
            *left = left.saturating_add(1);
        }
    }

    /// Is its time over, or its count spent?
    pub(super) fn is_over(&self, now: Now) -> bool {
        match self {
            Self::Locked => false,
            Self::Open { until, remaining, .. } => *until <= now.instant || *remaining == Some(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlock_admits_what_meets_all_of_its_limits() {
        use crate::clock::{Clock as _, ManualClock};

        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let now = || Now { instant: clock.instant(), wall: clock.timestamp() };
        let terms = UnlockTerms {
            duration: Some(60),
            listener: Some("enrol".into()),
            source: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            username: Some("line3-*".to_owned().try_into().unwrap()),
            count: Some(2),
            implicit: false,
        };
        let mut lock = Lock::open(terms, Duration::from_mins(5), now()).unwrap();
        let admits = |lock: &Lock, source: &str, listener: &str, name: &str| {
            lock.admits(source.parse().unwrap(), listener, &name.parse().unwrap(), Door::Mqtt, now())
        };
        assert!(admits(&lock, "10.1.2.3", "enrol", "line3-7"));
        assert!(admits(&lock, "2001:db8::7", "enrol", "line3-"));
        assert!(!admits(&lock, "192.0.2.1", "enrol", "line3-7"));
        assert!(!admits(&lock, "10.1.2.3", "mqtts", "line3-7"));
        assert!(!admits(&lock, "10.1.2.3", "enrol", "line4-7"));
        lock.spend();
        assert!(admits(&lock, "10.1.2.3", "enrol", "line3-7") && !lock.is_over(now()));
        lock.spend();
        assert!(!admits(&lock, "10.1.2.3", "enrol", "line3-7") && lock.is_over(now()));
        let lock = Lock::open(UnlockTerms::default(), Duration::from_mins(5), now()).unwrap();
        clock.advance(Duration::from_mins(5) - Duration::from_nanos(1));
        assert!(admits(&lock, "192.0.2.1", "mqtts", "anybody"));
        let through = |lock: &Lock, door| {
            lock.admits("192.0.2.1".parse().unwrap(), "mqtts", &"anybody".parse().unwrap(), door, now())
        };
        let doors = [Door::Mqtt, Door::Rest, Door::Implicit, Door::ImplicitWithoutCode];
        assert_eq!(doors.map(|door| through(&lock, door)), [true, true, false, false]);
        let terms = UnlockTerms { implicit: true, ..UnlockTerms::default() };
        let wide = Lock::open(terms, Duration::from_mins(5), now()).unwrap();
        assert_eq!(doors.map(|door| through(&wide, door)), [true; 4]);
        clock.advance(Duration::from_nanos(1));
        assert!(!admits(&lock, "192.0.2.1", "mqtts", "anybody"));
        assert!(
            Lock::open(UnlockTerms { count: Some(0), ..UnlockTerms::default() }, Duration::from_mins(5), now())
                .is_none()
        );
    }
}

//! The lock of the door: shut by default, opened for a while and within limits, shut again by itself. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Now;
use super::request::Door;
use crate::access::Username;
use crate::access::UsernamePattern;
use crate::clock::{Duration, Instant};

/// Longest time that one unlock may last: a week.
pub const MAX_UNLOCK: Duration = Duration::from_hours(7 * 24);

/// Addresses, as `10.0.0.0/8` or `2001:db8::/32`; a lone address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// What was given is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network; write it as `10.0.0.0/8` or `2001:db8::/32`, with no bits set behind the prefix")]
pub struct NetworkError(String);

impl Network {
    /// Does it hold this address? An IPv4 address inside IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                network.to_bits() == address.to_bits() & u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                network.to_bits()
                    == address.to_bits() & u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
        };
        let network = Self { address, prefix };
        // `to_canonical` would turn ::ffff:0:0/96 into IPv4, which it is not.
        let mapped = matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
        if prefix > longest || mapped || !network.contains(address) { Err(error()) } else { Ok(network) }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_hold_their_addresses_and_no_others() {
        let holds =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::"));
        assert!(holds("::/0", "2001:db8::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        for wrong in ["", "10.0.0.0/33", "10.0.0.1/8", "::1/129", "10.0.0.0/-1", "10.0.0.0/+8", "::ffff:0:0/96", "x/8"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

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

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Network>();
        }
    }
}

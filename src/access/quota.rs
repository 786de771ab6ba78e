//! How much of the broker one user may take up: plain values, as in JSON, TOML and the store.
//!
//! Enters and leaves: a [`Quota`], every part of it optional. It counts nothing itself: whoever gives something out
//! asks it for the bound of that moment, so that a changed quota holds from the next packet on. It never takes away
//! what is held already.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// The bounds of one user over all its sessions, but for the queue, which each session has for itself. What is absent is
/// bounded by broker.toml alone; where both bound something, the smaller bound holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Connections at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Sessions, with and without a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Messages that it publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_messages: Option<Rate>,
    /// Bytes of topics, payloads and properties that it publishes. A message larger than the burst is never taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_bytes: Option<Rate>,
    /// Subscriptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<u32>,
    /// Retained messages that it published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_messages: Option<u64>,
    /// Bytes of those, with 256 bytes of bookkeeping for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained_bytes: Option<u64>,
    /// Messages that wait for one of its sessions. One always may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_messages: Option<u64>,
    /// Bytes that wait for one of its sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u64>,
}

/// So much per second, and so much at once: over any stretch of `t` seconds at most `per_second * t + burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "WrittenRate", into = "WrittenRate")]
pub struct Rate {
    per_second: NonZeroU64,
    burst: NonZeroU64,
}

/// No rate can be like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`per_second` and `burst` must be 1 to {}", Rate::MOST)]
pub struct RateError;

/// What a quota bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the fields of `Quota` say it")]
pub enum QuotaKind {
    Connections,
    Sessions,
    PublishMessages,
    PublishBytes,
    Subscriptions,
    RetainedMessages,
    RetainedBytes,
    /// Messages or bytes.
    Queue,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rate such as {\"per_second\": 100, \"burst\": 500}")]
struct WrittenRate {
    per_second: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u64>,
}

impl Quota {
    /// Does it bound anything?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Quota {
    /// Is the other one at most as generous as this in every part?
    pub fn admits(&self, other: &Self) -> bool {
        fn within<T: PartialOrd>(most: Option<T>, asked: Option<T>) -> bool {
            most.is_none_or(|most| asked.is_some_and(|asked| asked <= most))
        }
        let rate = |most: Option<Rate>, asked: Option<Rate>| {
            within(most.map(|rate| rate.per_second), asked.map(|rate| rate.per_second))
                && within(most.map(|rate| rate.burst), asked.map(|rate| rate.burst))
        };
        within(self.connections, other.connections)
            && within(self.sessions, other.sessions)
            && rate(self.publish_messages, other.publish_messages)
            && rate(self.publish_bytes, other.publish_bytes)
            && within(self.subscriptions, other.subscriptions)
            && within(self.retained_messages, other.retained_messages)
            && within(self.retained_bytes, other.retained_bytes)
            && within(self.queue_messages, other.queue_messages)
            && within(self.queue_bytes, other.queue_bytes)
    }
}

impl Rate {
    /// The greatest rate and burst.
    pub const MOST: u64 = 1 << 40;

    /// Without a burst it is what one second gives.
    ///
    /// # Errors
    /// A number that is not 1 to [`Rate::MOST`].
    ///
    /// ```
    /// use portcullis::access::Rate;
    ///
    /// assert_eq!(Rate::new(100, None)?.burst(), 100);
    /// assert!(Rate::new(0, None).is_err());
    /// # Ok::<(), portcullis::access::RateError>(())
    /// ```
    pub fn new(per_second: u64, burst: Option<u64>) -> Result<Self, RateError> {
        let check = |number: u64| NonZeroU64::new(number).filter(|number| number.get() <= Self::MOST).ok_or(RateError);
        Ok(Self { per_second: check(per_second)?, burst: check(burst.unwrap_or(per_second))? })
    }

    /// Per second, on average.
    pub fn per_second(self) -> u64 {
        self.per_second.get()
    }

    /// At once, after a rest.
    pub fn burst(self) -> u64 {
        self.burst.get()
    }
}

impl TryFrom<WrittenRate> for Rate {
    type Error = RateError;

    fn try_from(written: WrittenRate) -> Result<Self, RateError> {
        Self::new(written.per_second, written.burst)
    }
}

impl From<Rate> for WrittenRate {
    fn from(rate: Rate) -> Self {
        let burst = (rate.burst != rate.per_second).then_some(rate.burst.get());
        Self { per_second: rate.per_second.get(), burst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_reads_what_it_writes_and_nothing_else() {
        let text =
            r#"{"connections":2,"publish_messages":{"per_second":10,"burst":50},"publish_bytes":{"per_second":9}}"#;
        let quota: Quota = serde_json::from_str(text).unwrap();
        assert_eq!(quota.publish_messages, Some(Rate::new(10, Some(50)).unwrap()));
        assert_eq!(quota.publish_bytes.unwrap().burst(), 9);
        assert_eq!(serde_json::to_string(&quota).unwrap(), text);
        for wrong in [
            r#"{"conections":2}"#,
            r#"{"publish_messages":{"per_second":0}}"#,
            r#"{"publish_messages":{"burst":3}}"#,
            r#"{"publish_messages":{"per_second":1,"burst":0}}"#,
            r#"{"publish_messages":{"per_second":1099511627777}}"#,
            r#"{"publish_messages":3}"#,
            r#"{"subscriptions":-1}"#,
        ] {
            assert!(serde_json::from_str::<Quota>(wrong).is_err(), "{wrong}");
        }
        assert!(Quota::default().is_empty() && !quota.is_empty());
    }
}

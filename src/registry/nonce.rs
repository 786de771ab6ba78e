//! Nonces: whoever shows one has asked the broker lately, on this very connection or from this very source.
//!
//! Entering: random numbers, the time, and whom a nonce is for; later the text of somebody. Leaving: the text, or the
//! [`NonceId`] of one that may be spent. A nonce is an HMAC over all of that under a key that lives as long as the broker runs, so
//! drawing one stores nothing; what is remembered are the spent ones, for as long as they could be shown again. Pure.

use std::collections::BTreeSet;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq as _;

use crate::authn::Source;
use crate::clock::{Duration, Instant};
use crate::pki::{hex, unhex};

/// How long a nonce is good: 5 minutes.
pub const NONCE_LIFE: Duration = Duration::from_mins(5);

/// Spent nonces that are remembered. No entry goes before its nonce has expired; with no room, no nonce is taken.
const CAPACITY: usize = 1 << 17;

/// Bytes of each part: when it was drawn, salt, tag.
const PARTS: (usize, usize, usize) = (8, 8, 16);

/// Whom a nonce is for. It is worth nothing to anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// The connection of this number, unique in a run of the broker: over MQTT.
    Connection(u64),
    /// Every connection of this source: over HTTP, where the next request may come on another one.
    Source(Source),
}

impl Binding {
    /// Different for different bindings.
    fn number(self) -> (u8, u64) {
        match self {
            Self::Connection(number) => (0, number),
            Self::Source(Source::V4(address)) => (1, u64::from(address.to_bits())),
            Self::Source(Source::V6(network)) => (2, network),
            Self::Source(Source::Local) => (3, 0),
        }
    }
}

/// One nonce that was drawn here: in the order of drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NonceId {
    /// Milliseconds after the start.
    drawn: u64,
    salt: [u8; PARTS.1],
}

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceFault {
    Missing,
    /// Not drawn here, not since the start, or for somebody else.
    Foreign,
    Expired,
    Spent,
    /// Too many are spent.
    Full,
}

/// Draws nonces and knows them again; it does not know which are spent. Never changes.
#[derive(Clone)]
pub(super) struct Mint {
    key: hmac::Key,
    start: Instant,
}

/// The nonces that may still be spent.
pub(super) struct Nonces {
    mint: Mint,
    spent: BTreeSet<NonceId>,
}

impl Mint {
    /// `key` must be fresh: with it the nonces of an earlier run would be good again, and none of them spent.
    pub(super) fn new(key: &[u8; 32], start: Instant) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), start }
    }

    /// A nonce for `binding`: 64 hexadecimal digits, all of them characters of a PrintableString.
    pub(super) fn draw(&self, salt: [u8; 8], binding: Binding, now: Instant) -> String {
        let id = NonceId { drawn: self.age(now), salt };
        let mut bytes = id.drawn.to_be_bytes().to_vec();
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&self.tag(id, binding));
        hex(&bytes)
    }

    /// Which nonce of `binding` is that?
    fn read(&self, text: Option<&str>, binding: Binding, now: Instant) -> Result<NonceId, NonceFault> {
        let text = text.ok_or(NonceFault::Missing)?;
        let bytes = unhex(text).ok_or(NonceFault::Foreign)?;
        let parts = bytes.split_first_chunk::<{ PARTS.0 }>();
        let (drawn, rest) = parts.ok_or(NonceFault::Foreign)?;
        let (salt, tag) = rest.split_first_chunk::<{ PARTS.1 }>().ok_or(NonceFault::Foreign)?;
        let id = NonceId { drawn: u64::from_be_bytes(*drawn), salt: *salt };
        if !bool::from(self.tag(id, binding).as_slice().ct_eq(tag)) {
            return Err(NonceFault::Foreign);
        }
        if self.is_over(id, now) { Err(NonceFault::Expired) } else { Ok(id) }
    }

    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn is_over(&self, id: NonceId, now: Instant) -> bool {
        u128::from(self.age(now).saturating_sub(id.drawn)) >= NONCE_LIFE.as_millis()
    }

    fn tag(&self, id: NonceId, binding: Binding) -> [u8; PARTS.2] {
        let mut context = hmac::Context::with_key(&self.key);
        // Every part has its fixed length: no two inputs are the same bytes.
        context.update(b"portcullis-nonce-v1");
        context.update(&id.drawn.to_be_bytes());
        context.update(&id.salt);
        let (kind, number) = binding.number();
        context.update(&[kind]);
        context.update(&number.to_be_bytes());
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl Nonces {
    /// None is spent yet.
    pub(super) fn new(mint: Mint) -> Self {
        Self { mint, spent: BTreeSet::new() }
    }

    /// May this nonce be spent now, by whom it is for?
    pub(super) fn check(&self, text: Option<&str>, binding: Binding, now: Instant) -> Result<NonceId, NonceFault> {
        let id = self.mint.read(text, binding, now)?;
        if self.spent.contains(&id) {
            return Err(NonceFault::Spent);
        }
        // The oldest goes first.
        let over = |oldest: &NonceId| self.mint.is_over(*oldest, now);
        if self.spent.len() < CAPACITY || self.spent.first().is_some_and(over) { Ok(id) } else { Err(NonceFault::Full) }
    }

    /// From now on it is taken no more.
    pub(super) fn spend(&mut self, id: NonceId, now: Instant) {
        while let Some(oldest) = self.spent.first().copied().filter(|oldest| self.mint.is_over(*oldest, now)) {
            self.spent.remove(&oldest);
        }
        self.spent.insert(id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    const HERE: Binding = Binding::Connection(7);

    fn nonces(clock: &ManualClock) -> Nonces {
        Nonces::new(Mint::new(&[1; 32], clock.instant()))
    }

    #[test]
    fn a_nonce_is_good_once_for_five_minutes_and_for_whom_it_was_drawn() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut nonces = nonces(&clock);
        clock.advance(Duration::from_secs(1));
        let nonce = nonces.mint.draw([1; 8], HERE, clock.instant());
        assert_eq!(nonce.len(), 64);
        let check = |nonces: &Nonces, binding| nonces.check(Some(&nonce), binding, clock.instant());
        let v4: IpAddr = "0.0.0.7".parse().unwrap();
        let v6: IpAddr = "0:0:0:7::1".parse().unwrap();
        for other in [Binding::Connection(8), Binding::Source(v4.into()), Binding::Source(v6.into())] {
            assert_eq!(check(&nonces, other), Err(NonceFault::Foreign), "{other:?}");
        }
        assert_eq!(nonces.check(None, HERE, clock.instant()), Err(NonceFault::Missing));
        let id = check(&nonces, HERE).unwrap();
        clock.advance(NONCE_LIFE.saturating_sub(Duration::from_millis(1)));
        assert_eq!(check(&nonces, HERE), Ok(id));
        nonces.spend(id, clock.instant());
        assert_eq!(check(&nonces, HERE), Err(NonceFault::Spent));
        clock.advance(Duration::from_millis(1));
        assert_eq!(check(&nonces, HERE), Err(NonceFault::Expired));
        let another_run = Nonces::new(Mint::new(&[2; 32], clock.instant()));
        assert_eq!(another_run.check(Some(&nonce), HERE, clock.instant()), Err(NonceFault::Foreign));
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_ipv6() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let nonces = nonces(&clock);
        let of = |address: &str| Binding::Source(address.parse::<IpAddr>().unwrap().into());
        let nonce = nonces.mint.draw([1; 8], of("2001:db8::1"), clock.instant());
        assert!(nonces.check(Some(&nonce), of("2001:db8::2"), clock.instant()).is_ok());
        assert_eq!(nonces.check(Some(&nonce), of("2001:db8:0:1::1"), clock.instant()), Err(NonceFault::Foreign));
    }

    #[test]
    fn the_spent_ones_are_bounded_and_none_of_them_is_forgotten_too_early() {
        let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
        let mut nonces = nonces(&clock);
        let draw = |nonces: &Nonces, salt: u64| nonces.mint.draw(salt.to_be_bytes(), HERE, clock.instant());
        let mut first = None;
        for salt in 0..CAPACITY as u64 {
            let nonce = draw(&nonces, salt);
            let id = nonces.check(Some(&nonce), HERE, clock.instant()).unwrap();
            nonces.spend(id, clock.instant());
            first.get_or_insert(nonce);
        }
        clock.advance(NONCE_LIFE / 2);
        let late = draw(&nonces, 0);
        assert_eq!(nonces.check(Some(&late), HERE, clock.instant()), Err(NonceFault::Full));
        assert_eq!(nonces.check(first.as_deref(), HERE, clock.instant()), Err(NonceFault::Spent));
        clock.advance(NONCE_LIFE / 2);
        let id = nonces.check(Some(&late), HERE, clock.instant()).unwrap();
        nonces.spend(id, clock.instant());
        assert_eq!(nonces.spent.len(), 1);
    }

    proptest! {
        #[test]
        fn no_other_text_is_a_nonce(at in 0..64_usize, digit in "[0-9a-f]", text in ".{0,80}") {
            let clock = ManualClock::new(jiff::Timestamp::UNIX_EPOCH);
            let nonces = nonces(&clock);
            prop_assert_eq!(nonces.check(Some(&text), HERE, clock.instant()), Err(NonceFault::Foreign));
            let good = nonces.mint.draw([3; 8], HERE, clock.instant());
            let mut changed = good.clone();
            changed.replace_range(at..=at, &digit);
            if changed != good {
                prop_assert_eq!(nonces.check(Some(&changed), HERE, clock.instant()), Err(NonceFault::Foreign));
            }
        }
    }
}

//! When a device is invited to renew its certificate.
//!
//! Entering: a certificate's time, and the time now. Leaving: a moment. Every certificate has its own, drawn from its fingerprint,
//! so that a fleet that was enrolled in one night, or comes back after an outage, does not renew in one minute. Pure.

use jiff::Timestamp;
use serde::Serialize;

use crate::access::CertificateRecord;
use crate::clock::Duration;

/// A connection that comes after its certificate's moment is invited within this time of its CONNECT.
const LATE_SPREAD: Duration = Duration::from_mins(10);

/// From when on a certificate may be renewed with the CSR that it was made for: two thirds of its life.
pub(super) fn renewal_due(record: &CertificateRecord) -> Timestamp {
    two_thirds(record.not_before, record.not_after)
}

/// When the connection of this certificate is invited: between two thirds and three quarters of its life; or, if that is over, within
/// ten minutes, but never later than after a tenth of what is left. `None`: nothing is left.
pub fn invitation(
    (not_before, not_after): (Timestamp, Timestamp),
    fingerprint: &str,
    now: Timestamp,
) -> Option<Timestamp> {
    let left = span(now, not_after).filter(|left| !left.is_zero())?;
    let life = span(not_before, not_after)?;
    let share = |of: Duration| of.mul_f64(drawn(fingerprint));
    let due = two_thirds(not_before, not_after).checked_add(share(life / 12)).ok()?;
    if now < due { Some(due) } else { now.checked_add(share(LATE_SPREAD.min(left / 10))).ok() }
}

/// When the connection of a certificate of the CA before the one that issues is invited: within ten minutes from now, but never later
/// than after a tenth of what is left. `None`: nothing is left.
pub fn early_invitation(not_after: Timestamp, fingerprint: &str, now: Timestamp) -> Option<Timestamp> {
    let left = span(now, not_after).filter(|left| !left.is_zero())?;
    now.checked_add(LATE_SPREAD.min(left / 10).mul_f64(drawn(fingerprint))).ok()
}

/// From 0 to 1, of each certificate its own. Hexadecimal of SHA-256: any part of it is as good as a random number.
fn drawn(fingerprint: &str) -> f64 {
    let drawn = fingerprint.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
}

fn two_thirds(from: Timestamp, to: Timestamp) -> Timestamp {
    let life = span(from, to).unwrap_or_default();
    from.checked_add(life / 3 * 2).unwrap_or(to)
}

fn span(from: Timestamp, to: Timestamp) -> Option<Duration> {
    to.duration_since(from).try_into().ok()
}

/// What an invitation says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Invitation<'a> {
    /// Of the certificate to renew, lower-case hexadecimal.
    pub serial: &'a str,
    /// Its end.
    pub not_after: Timestamp,
}

impl Invitation<'_> {
    /// The JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // INVARIANT: strings only: serializing cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_fleet_that_was_enrolled_at_once_is_invited_over_a_twelfth_of_its_life() {
        let life = (at(0), at(1_200_000));
        let mut hundredths = std::collections::BTreeSet::new();
        for device in 0..10_000_u32 {
            let fingerprint = crate::pki::hex(&crate::pki::sha256(&device.to_be_bytes()));
            let due = invitation(life, &fingerprint, at(10)).unwrap();
            assert!(at(800_000) <= due && due < at(900_000), "{due}");
            hundredths.insert((due.as_second() - 800_000) / 1000);
            let late = invitation(life, &fingerprint, at(1_000_000)).unwrap();
            assert!(at(1_000_000) <= late && late < at(1_000_600), "{late}");
        }
        assert_eq!(hundredths.len(), 100, "every hundredth of that time has some");
    }

    proptest! {
        #[test]
        fn an_early_invitation_comes_within_ten_minutes_and_leaves_time(
            now in 0..1_000_000_000_i64, left in -10..400_000_000_i64, fingerprint in "[0-9a-f]{64}",
        ) {
            match early_invitation(at(now + left), &fingerprint, at(now)) {
                None => prop_assert!(left <= 0),
                Some(due) => {
                    prop_assert!(at(now) <= due && due <= at(now + 600));
                    prop_assert!(span(at(now), due).unwrap() <= span(at(now), at(now + left)).unwrap() / 10);
                }
            }
        }

        #[test]
        fn the_invitation_comes_in_time_and_not_before_two_thirds(
            from in 0..1_000_000_000_i64, life in 1..400_000_000_i64, now in 0..1_400_000_000_i64, fingerprint in "[0-9a-f]{64}",
        ) {
            let (from, to, now) = (at(from), at(from + life), at(now));
            match invitation((from, to), &fingerprint, now) {
                None => prop_assert!(to <= now),
                Some(due) => {
                    prop_assert!(now <= due && due < to);
                    prop_assert!(span(from, due).unwrap() + Duration::from_nanos(10) >= Duration::from_secs(u64::try_from(life).unwrap()) / 3 * 2);
                }
            }
        }
    }
}

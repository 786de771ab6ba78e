//! Which addresses: a network. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    /// Do these together hold everybody: all of IPv4, or the whole of IPv6 that is assigned to anybody (2000::/3, RFC 4291 2.4)?
    pub fn hold_everything(networks: &[Self]) -> bool {
        [true, false].into_iter().any(|v4| {
            let mut ranges: Vec<(u128, u128)> =
                networks.iter().filter(|network| network.address.is_ipv4() == v4).map(Self::range).collect();
            ranges.sort_unstable();
            let (begin, end) = if v4 { (0, u128::from(u32::MAX)) } else { (0x2 << 124, (0x4 << 124) - 1) };
            // The first address that is not known to be held; `None`: it would be one after the last of all.
            let mut missing = Some(begin);
            for (first, last) in ranges {
                match missing {
                    Some(at) if first <= at && at <= last => missing = last.checked_add(1),
                    Some(at) if at < first => break,
                    _ => {}
                }
            }
            missing.is_none_or(|at| at > end)
        })
    }

    /// Its first and its last address.
    fn range(&self) -> (u128, u128) {
        let (first, bits) = match self.address {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let rest = u128::MAX.checked_shr(128 - (bits - u32::from(self.prefix))).unwrap_or(0);
        (first, first | rest)
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everybody_in_pieces_is_everybody() {
        let all = |texts: &[&str]| {
            Network::hold_everything(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        assert!(all(&["0.0.0.0/0"]) && all(&["::/0"]) && all(&["2000::/3"]));
        assert!(all(&["128.0.0.0/1", "0.0.0.0/1"]) && all(&["10.0.0.0/8", "2000::/4", "3000::/4"]));
        assert!(all(&["0.0.0.0/2", "0.0.0.0/1", "64.0.0.0/2", "192.0.0.0/2", "128.0.0.0/2"]));
        assert!(!all(&[]) && !all(&["10.0.0.0/8"]) && !all(&["0.0.0.0/1", "128.0.0.0/2"]));
        assert!(!all(&["128.0.0.0/1"]) && !all(&["2000::/4"]) && !all(&["fd00::/8", "0.0.0.0/1"]));
    }

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

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Network>();
        }
    }
}

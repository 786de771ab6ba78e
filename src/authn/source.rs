//! Where a request comes from, as coarse as fairness and limits need it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One party as far as quotas go: an IPv4 address, a /64 of IPv6 (which one host may have to itself), or this machine's
/// operator.
///
/// As text: `192.0.2.1`, `2001:db8:1:2::/64`, `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Source {
    /// One IPv4 address, also when it comes mapped into IPv6.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
    /// The Unix socket or the embedding program.
    Local,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6(u64::from(a) << 48 | u64::from(b) << 32 | u64::from(c) << 16 | u64::from(d))
            }
        }
    }
}

/// What one party may well have to itself: a /16 of IPv4, or a /32 of IPv6, which is what a provider is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Neighbourhood {
    /// The first two bytes.
    V4([u8; 2]),
    /// The first four bytes.
    V6([u8; 4]),
    /// This machine's operator.
    Local,
}

impl From<Source> for Neighbourhood {
    fn from(source: Source) -> Self {
        match source {
            Source::V4(address) => {
                let [a, b, ..] = address.octets();
                Self::V4([a, b])
            }
            Source::V6(network) => {
                let [a, b, c, d, ..] = network.to_be_bytes();
                Self::V6([a, b, c, d])
            }
            Source::Local => Self::Local,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(network) => write!(f, "{}/64", Ipv6Addr::from(u128::from(*network) << 64)),
            Self::Local => f.write_str("local"),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

/// The text of a [`Source`] has another form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an IPv4 address, nor a /64 of IPv6, nor `local`")]
pub struct NoSource;

impl FromStr for Source {
    type Err = NoSource;

    fn from_str(text: &str) -> Result<Self, NoSource> {
        if text == "local" {
            return Ok(Self::Local);
        }
        let address: IpAddr = text.strip_suffix("/64").unwrap_or(text).parse().map_err(|_| NoSource)?;
        let source = Self::from(address);
        if source.to_string() == text { Ok(source) } else { Err(NoSource) }
    }
}

impl TryFrom<String> for Source {
    type Error = NoSource;

    fn try_from(text: String) -> Result<Self, NoSource> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_reads_back_and_no_other_text_does() {
        for text in ["192.0.2.1", "2001:db8:1:2::/64", "::/64", "local"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for text in ["", "192.0.2.1/64", "2001:db8::1", "2001:db8::1/64", "2001:db8:0::/64", "LOCAL", "a/64"] {
            assert_eq!(text.parse::<Source>(), Err(NoSource), "{text}");
        }
    }

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_host_cannot_be_many_sources_by_drawing_addresses_from_its_own_64() {
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn an_ipv4_address_mapped_into_ipv6_is_the_same_source() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("::ffff:192.0.2.1"), source("::ffff:192.0.2.2"));
    }
}

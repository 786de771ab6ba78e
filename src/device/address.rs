//! Where a broker is: `mqtts://HOST[:PORT]`. TLS alone: whoever enrols over plaintext enrols with anybody.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::PathAndQuery;

/// The port that IANA registers for MQTT over TLS.
const PORT: u16 = 8883;

/// A host name or address, and a port.
///
/// ```
/// use portcullis::device::Address;
///
/// let address: Address = "mqtts://broker.plant.example".parse()?;
/// assert_eq!(address.to_string(), "mqtts://broker.plant.example:8883");
/// assert!("mqtt://broker.plant.example".parse::<Address>().is_err());
/// # Ok::<(), portcullis::device::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// What was written is no address of a broker with TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a broker with TLS; write it as in `mqtts://broker.example:8883`")]
pub struct AddressError(String);

impl Address {
    /// The name or address that its certificate must have; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let is_bare = matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("/" | ""));
        if uri.scheme_str() != Some("mqtts") || !is_bare || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
            (Some(port), _) if port > 0 => port,
            (None, true) => PORT,
            _ => return Err(wrong()),
        };
        if host.is_empty() { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port }) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "mqtts://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "mqtts://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, host, port) in [
            ("mqtts://a", "a", 8883),
            ("mqtts://a.b:1", "a.b", 1),
            ("mqtts://a/", "a", 8883),
            ("mqtts://192.0.2.1:8884", "192.0.2.1", 8884),
            ("mqtts://[2001:db8::1]", "2001:db8::1", 8883),
            ("mqtts://[2001:db8::1]:9", "2001:db8::1", 9),
        ] {
            assert_eq!(text.parse(), Ok(Address { host: host.into(), port }), "{text}");
        }
        for text in [
            "",
            "a",
            "a:8883",
            "mqtt://a",
            "https://a",
            "mqtts://",
            "mqtts://:8883",
            "mqtts://a:0",
            "mqtts://a:",
            "mqtts://a:70000",
            "mqtts://user@a",
            "mqtts://a/path",
            "mqtts://a?x",
            "mqtts://a b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_of_show_is_identity(host in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,10})?", port in 1..=u16::MAX) {
            let address = Address { host, port };
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = text.parse::<Address>();
        }
    }
}

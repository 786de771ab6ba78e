//! How a certificate says whose it is: by the common name of its subject, or by a URI among its alternative names.
//!
//! Entering: what the operator has chosen, a certificate. Leaving: the [`Username`] that it names, or why it names nobody. Never a
//! guess: a URI is compared byte for byte and never decoded, normalised or matched against a pattern, so that two URIs never name one
//! user and one URI never names two.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;

use super::{CommonNameError, der, subject};
use crate::access::{NameError, Username};

/// The longest [`UriPrefix`], in bytes.
const MAX_PREFIX: usize = 255;

/// What stands before the username in the URI of a certificate: `spiffe://plant.example/device/`, `urn:example:device:`.
///
/// A scheme; if there is one, a host; a path without empty parts, `.` and `..`. It ends with `/` or `:`, behind the host, so that no
/// username can become a part of what the prefix says. Lower case but for the path; nothing that is ever percent-encoded (RFC 3986 2.3).
///
/// ```
/// use portcullis::pki::UriPrefix;
/// let prefix: UriPrefix = "spiffe://plant.example/device/".to_owned().try_into()?;
/// assert_eq!(prefix.uri(&"pump-7".parse()?), "spiffe://plant.example/device/pump-7");
/// assert!(UriPrefix::try_from("spiffe://plant.example".to_owned()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriPrefix(String);

/// Not a [`UriPrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a URI up to where the user name begins, such as \"spiffe://plant.example/device/\" or \"urn:example:device:\": at most 255 of `a-zA-Z0-9._~:@+/-`, scheme and host in lower case, `/` or `:` at the end"
)]
pub struct UriPrefixError;

impl TryFrom<String> for UriPrefix {
    type Error = UriPrefixError;

    fn try_from(text: String) -> Result<Self, UriPrefixError> {
        if text.len() <= MAX_PREFIX && is_prefix(&text) { Ok(Self(text)) } else { Err(UriPrefixError) }
    }
}

impl UriPrefix {
    /// The URI of this user. Every username may stand in a URI as it is (RFC 3986 3.3, pchar).
    pub fn uri(&self, username: &Username) -> String {
        format!("{}{username}", self.0)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_prefix(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(rest) => match rest.split_once('/') {
            Some((host, path)) if is_host(host) => path,
            _ => return false,
        },
    };
    // RFC 3986 3.1
    scheme.starts_with(|it: char| it.is_ascii_lowercase())
        && scheme.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b"+-.".contains(&it))
        && text.ends_with(['/', ':'])
        && path.bytes().all(|it| it.is_ascii_alphanumeric() || b"._~:@+/-".contains(&it))
        && path
            .strip_suffix('/')
            .unwrap_or(path)
            .split('/')
            .all(|part| !["", ".", ".."].contains(&part) || path.is_empty())
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || b".-_".contains(&it))
}

/// By what a certificate names its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// By the only common name of its subject.
    #[default]
    CommonName,
    /// By the only URI among its subject alternative names: this, and behind it the username. What the subject says is not looked at.
    Uri(UriPrefix),
}

impl Naming {
    /// What a certificate that names this user has, in words.
    pub fn describe(&self, username: &Username) -> String {
        match self {
            Self::CommonName => format!("the common name `{username}`"),
            Self::Uri(prefix) => format!("the URI `{}` as its only one", prefix.uri(username)),
        }
    }
}

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamingError {
    /// By its subject.
    #[error("{0}")]
    CommonName(#[from] CommonNameError),
    /// Issued before `ca.uri_prefix` was set, or by somebody who names in another way.
    #[error("it has no URI among its subject alternative names, by which `ca.identity` names users; have it renewed")]
    NoUri,
    /// Two readers could take different ones.
    #[error("it has {0} URIs among its subject alternative names; exactly one is expected")]
    SeveralUris(usize),
    /// Twice there, or not as RFC 5280 4.2.1.6 writes them.
    #[error("its subject alternative names are malformed")]
    Malformed,
    /// Another name space, or another way to write it.
    #[error("its URI `{uri}` does not begin with `{prefix}`, to the letter")]
    Prefix {
        /// Its beginning.
        uri: String,
        /// What is expected.
        prefix: String,
    },
    /// Not a username.
    #[error("what its URI has behind `{prefix}` is no username: {source}")]
    Username {
        /// As configured.
        prefix: String,
        /// Why.
        source: NameError,
    },
}

/// The names of a certificate, by either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    common_name: Result<Username, CommonNameError>,
    uri: Result<String, NamingError>,
}

impl Names {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        Self { common_name: subject::username(certificate.subject()), uri: only_uri(certificate) }
    }

    pub(super) fn common_name(&self) -> Result<&Username, &CommonNameError> {
        self.common_name.as_ref()
    }

    pub(super) fn username(&self, by: &Naming) -> Result<Username, NamingError> {
        let Naming::Uri(prefix) = by else { return Ok(self.common_name.clone()?) };
        let uri = self.uri.clone()?;
        let prefix = prefix.as_str().to_owned();
        let Some(name) = uri.strip_prefix(&prefix) else {
            let uri = uri.chars().take(80).map(|it| if it.is_ascii_graphic() { it } else { '?' }).collect();
            return Err(NamingError::Prefix { uri, prefix });
        };
        name.parse().map_err(|source| NamingError::Username { prefix, source })
    }
}

/// Other kinds of names may stand beside it, as in SPIFFE.
fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, NamingError> {
    let extension = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME);
    let extension = extension.map_err(|_| NamingError::Malformed)?.ok_or(NamingError::NoUri)?;
    // The parser passes over what lies behind the names.
    der::check(extension.value).map_err(|_| NamingError::Malformed)?;
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(NamingError::Malformed);
    };
    let mut uris = Vec::new();
    for name in &names.general_names {
        match name {
            // Whatever it was meant to be, another reader may take it for a URI.
            GeneralName::Invalid(..) => return Err(NamingError::Malformed),
            GeneralName::URI(uri) => uris.push(*uri),
            _ => {}
        }
    }
    match uris.as_slice() {
        [] => Err(NamingError::NoUri),
        [uri] => Ok((*uri).to_owned()),
        several => Err(NamingError::SeveralUris(several.len())),
    }
}

#[cfg(test)]
#[path = "naming_tests.rs"]
mod tests;

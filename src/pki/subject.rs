//! The one place that reads an identity out of a distinguished name.
//!
//! Entering: the subject of a request or of a certificate. Leaving: the [`Username`] that its common name is, or why
//! it is none. Never a guess: two common names, or a text in an encoding with more than one reading, are refused.

use x509_parser::asn1_rs::Tag;
use x509_parser::x509::X509Name;

use crate::access::{NameError, Username};

/// Why a subject is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommonNameError {
    /// None.
    #[error("the subject has no common name (CN); make it the username")]
    Missing,
    /// More than one: two readers could take different ones.
    #[error("the subject has {0} common names (CN); exactly one is expected")]
    Several(usize),
    /// Nothing in it.
    #[error("the common name (CN) is empty; make it the username")]
    Empty,
    /// BMPString, TeletexString and the like.
    #[error("the common name (CN) must be a UTF8String or a PrintableString")]
    Encoding,
    /// The classic: `victim\0.attacker`.
    #[error("the common name (CN) holds a NUL character")]
    Nul,
    /// Not a username.
    #[error("the common name (CN) is no username: {0}")]
    Name(#[from] NameError),
}

/// The username that the only common name of `subject` is.
pub(super) fn username(subject: &X509Name<'_>) -> Result<Username, CommonNameError> {
    let mut names = subject.iter_common_name();
    let name = names.next().ok_or(CommonNameError::Missing)?;
    let others = names.count();
    if others > 0 {
        return Err(CommonNameError::Several(others + 1));
    }
    let value = name.attr_value();
    if !matches!(value.header.tag(), Tag::Utf8String | Tag::PrintableString) || value.header.is_constructed() {
        return Err(CommonNameError::Encoding);
    }
    if value.data.is_empty() {
        return Err(CommonNameError::Empty);
    }
    if value.data.contains(&0) {
        return Err(CommonNameError::Nul);
    }
    let text = std::str::from_utf8(value.data).map_err(|_| CommonNameError::Encoding)?;
    Ok(text.parse::<Username>()?)
}

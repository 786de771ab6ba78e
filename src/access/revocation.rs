//! Why a certificate is good no more, in the words of RFC 5280 5.3.1.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A CRLReason. `certificateHold` and `removeFromCRL` are not among them, for nothing revoked comes to life again, nor
/// `aACompromise`, which is about attribute certificates.
///
/// ```
/// use portcullis::access::RevocationReason;
/// let reason: RevocationReason = "keyCompromise".parse()?;
/// assert_eq!(reason.code(), 1);
/// # Ok::<(), portcullis::access::RevocationReasonError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RevocationReason {
    /// Nobody said why.
    #[default]
    Unspecified,
    /// Somebody else may have the private key.
    KeyCompromise,
    /// Somebody else may have the private key of the issuer.
    CaCompromise,
    /// What the certificate says of its subject has changed.
    AffiliationChanged,
    /// Another one has taken its place.
    Superseded,
    /// It is not needed any more: the user was deleted, the device taken out of service.
    CessationOfOperation,
    /// The subject may not have it any more.
    PrivilegeWithdrawn,
}

/// Not the word of a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no reason of a revocation: write unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn"
)]
pub struct RevocationReasonError(String);

impl RevocationReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The number in a CRL.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::CaCompromise => 2,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }

    /// The reason with this number; an unknown one says nothing.
    pub fn of_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|reason| reason.code() == code).unwrap_or_default()
    }

    /// The word of the RFC.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for RevocationReason {
    type Err = RevocationReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|reason| reason.word().eq_ignore_ascii_case(text));
        found.ok_or_else(|| RevocationReasonError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for RevocationReason {
    type Error = RevocationReasonError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RevocationReason> for String {
    fn from(reason: RevocationReason) -> Self {
        reason.word().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_and_a_number_of_its_own() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.word().parse(), Ok(reason));
            assert_eq!(RevocationReason::of_code(reason.code()), reason);
        }
        assert_eq!(RevocationReason::of_code(6), RevocationReason::Unspecified, "certificateHold is not ours");
        assert!("certificateHold".parse::<RevocationReason>().is_err());
    }
}

//! The way from an issuer up to its root, and whether a client could walk it.
//!
//! Entering: the certificates of a file, in any order but for the first. Leaving: the chain, nearest first, root included;
//! or what is wrong with it, in the words of RFC 5280 6. Pure: the time is a parameter. Never: a chain that a client would refuse.

use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{IssuerCertificate, IssuerError};

/// Longer ways are refused: rustls and others stop at about as many.
const MAX_LENGTH: usize = 6;

/// Why certificates are no chain. Positions are those of the file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// One of them cannot be the certificate of a CA, at its place.
    #[error("certificate {position} (`{name}`) cannot be there: {source}")]
    Issuer {
        /// Which.
        position: usize,
        /// Its subject.
        name: String,
        /// Why.
        source: IssuerError,
    },
    /// The root is missing.
    #[error(
        "the chain ends with `{name}`, and the certificate of its issuer `{issuer}` is not there; append it, up to and including the root, which devices need in order to trust the broker"
    )]
    Incomplete {
        /// Subject of the last.
        name: String,
        /// Who has issued it.
        issuer: String,
    },
    /// One that leads nowhere.
    #[error(
        "certificate {position} (`{name}`) has issued none of those that lead from the first to its root, and is no former CA whose key is there; remove it"
    )]
    Stray {
        /// Which.
        position: usize,
        /// Its subject.
        name: String,
    },
    /// Too many.
    #[error("the chain is longer than {MAX_LENGTH} certificates; use a CA that is nearer to its root")]
    TooLong,
    /// Its time is over or not yet come.
    #[error(
        "certificate {position} (`{name}`) is valid from {not_before} to {not_after}, not now; renew it, or correct the clock"
    )]
    NotValid {
        /// Which.
        position: usize,
        /// Its subject.
        name: String,
        /// Start.
        not_before: Timestamp,
        /// End.
        not_after: Timestamp,
    },
}

impl ChainError {
    /// A certificate that cannot be one of a CA anywhere.
    pub(super) fn of(position: usize, der: &[u8], source: IssuerError) -> Self {
        let name = X509Certificate::from_der(der).map(|(_, parsed)| parsed.subject().to_string()).unwrap_or_default();
        Self::Issuer { position, name, source }
    }
}

/// A certificate with its place in the file.
pub(super) type Placed = (usize, IssuerCertificate);

/// The way from the first up to its root, by what is in the file.
pub(super) fn order(first: &Placed, file: &[Placed]) -> Result<Vec<Placed>, ChainError> {
    let mut chain = vec![first.clone()];
    while let Some((_, last)) = chain.last()
        && !last.is_root()
    {
        if chain.len() == MAX_LENGTH {
            return Err(ChainError::TooLong);
        }
        let above = file.iter().find(|(_, it)| it.has_issued(last.der()));
        let Some(above) = above.filter(|(position, _)| chain.iter().all(|(used, _)| used != position)) else {
            return Err(ChainError::Incomplete { name: last.name(), issuer: last.issuer_name() });
        };
        chain.push(above.clone());
    }
    Ok(chain)
}

/// Is every certificate of an ordered chain good, at its place and now?
pub(super) fn verify(chain: &[Placed], now: Timestamp) -> Result<(), ChainError> {
    for (below, (position, certificate)) in chain.iter().enumerate() {
        check(certificate, below, *position, now)?;
    }
    Ok(())
}

/// May the certificate stand above so many CAs, now?
fn check(certificate: &IssuerCertificate, below: usize, position: usize, now: Timestamp) -> Result<(), ChainError> {
    let wrong = |source| ChainError::Issuer { position, name: certificate.name(), source };
    // RFC 5280 4.2.1.9: so many intermediate certificates may follow, the one of the client not counted.
    if let Some(length) = certificate.path_length()
        && below > usize::try_from(length).unwrap_or(usize::MAX)
    {
        return Err(wrong(IssuerError::PathLength { admitted: length, found: below }));
    }
    // RFC 5280 says nothing of this extension in a CA; OpenSSL and others hold what is below to it.
    if !certificate.is_root() && !certificate.admits_clients() {
        return Err(wrong(IssuerError::Purpose));
    }
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if now < not_before || not_after <= now {
        return Err(ChainError::NotValid { position, name: certificate.name(), not_before, not_after });
    }
    Ok(())
}

/// The end of the first of them that ends: a certificate that is good for longer would not be, in fact.
pub(super) fn end(chain: &[Placed]) -> Option<Timestamp> {
    chain.iter().map(|(_, certificate)| certificate.not_after()).min()
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;

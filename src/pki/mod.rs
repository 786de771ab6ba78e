//! Certificates: which requests are admitted, what is issued, and what a peer's certificate says.
//!
//! ```text
//! PEM text -> VerifiedCsr -> PreparedCertificate -> (Signer) -> IssuedCertificate -> CertificateRecord
//!                 |
//!                 +-> PublicKey -> PairingCode          DER of a TLS peer -> PeerCertificate
//! ```
//!
//! Pure but for `signer.rs`, which holds private keys, draws random numbers and touches files. Each arrow is a
//! type that only the check before it can make: nothing is signed that did not pass all of them.

mod chain;
mod crl;
pub(crate) mod crockford;
mod csr;
mod der;
mod issuer;
mod key;
mod lineage;
mod naming;
mod pairing;
mod peer;
mod pem;
mod prepared;
pub mod signer;
mod subject;

pub use chain::ChainError;
pub use crl::{Crl, CrlEntries, PreparedCrl};
pub use csr::{CsrError, MAX_CSR_SIZE, VerifiedCsr};
pub use issuer::{IssuerCertificate, IssuerError};
pub use key::{KeyError, KeyKind, PublicKey};
pub use lineage::{Lineage, key_identifiers};
pub use naming::{Naming, NamingError, UriPrefix, UriPrefixError};
pub use pairing::{PairingCode, PairingCodeError};
pub use peer::{PeerCertificate, PeerError};
pub use pem::{base64, encode as pem};
pub use prepared::{
    BACKDATE, DEFAULT_VALIDITY, IssuedCertificate, PreparedCertificate, ProfileError, SerialNumber, ServerName,
};
pub use signer::{
    CaFiles, CertificateAuthority, EncryptionError, Origin, Profile, ServerCertificate, SignerError, Signers,
    Successor, read_authorities,
};
pub use subject::CommonNameError;

use std::fmt::Write as _;

/// Who signs: the certificate authority, or a double that fails on purpose.
pub trait Signer: Send + Sync {
    /// The certificate that the signatures will be verified with.
    fn issuer(&self) -> &IssuerCertificate;

    /// A fresh serial number.
    fn draw_serial(&self) -> Result<SerialNumber, SignerError>;

    /// Redeems a prepared certificate: signed, parsed again and compared with what was prepared.
    fn sign(&self, prepared: PreparedCertificate) -> Result<IssuedCertificate, SignerError>;

    /// Redeems a prepared revocation list: signed, and the signature verified.
    fn sign_crl(&self, prepared: PreparedCrl) -> Result<Crl, SignerError>;

    /// Certificates between an issued one and the root, PEM, nearest first; empty when the issuer is the root.
    fn chain_pem(&self) -> &str;

    /// The trust bundle, PEM: roots, by which devices verify the broker.
    fn bundle_pem(&self) -> &str;
}

/// Lower-case hexadecimal without separators, as certificate records hold it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hexadecimal text names, in either case; `None`: it is none.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

//! Why there is no CA, no server certificate or no signature. Never: a key, or a passphrase, in a message.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::encryption::EncryptionError;
use crate::pki::pem::PemError;
use crate::pki::{ChainError, KeyError, ProfileError};

/// Why there is no CA, no server certificate or no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not the PEM that should be there.
    #[error("`{}` is not usable: {source}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// A key with a passphrase that cannot be opened.
    #[error("the key in `{}` cannot be used: {source}", path.display())]
    EncryptedKey {
        /// Which.
        path: PathBuf,
        /// Why.
        source: EncryptionError,
    },
    /// The key of the broker's own certificate, with a passphrase.
    #[error("the key in `{}` is encrypted, which only that of the CA may be; store it without a passphrase and with mode 0600", .0.display())]
    EncryptedServerKey(PathBuf),
    /// More than a CA can have.
    #[error("`{}` holds more than 8 private keys; leave those of the CA that issues and of the one before it", .0.display())]
    TooManyKeys(PathBuf),
    /// One CA before the one that issues is enough.
    #[error("the CA before this one, `{0}`, is still trusted; end that first: `portcullis ca retire {0}`")]
    Overlap(String),
    /// Ours are renewed by us, others by whoever has issued them.
    #[error(
        "the CA is not one that the broker has made; get a certificate for a new key instead: `portcullis ca csr`, then `portcullis ca import`"
    )]
    NotOurs,
    /// There is no such former CA.
    #[error("`{0}` is not the CA before the one that issues; `portcullis ca show` says which there are")]
    NotFormer(String),
    /// Nothing was asked for.
    #[error(
        "there is no key that waits for a certificate; `portcullis ca csr` makes one, and the request to have it certified"
    )]
    NoRequest,
    /// For another key.
    #[error(
        "the certificate is neither for the key of the last `portcullis ca csr` nor for that of the CA that issues; import the one that was issued for the request"
    )]
    OtherKey,
    /// The same key under another name.
    #[error(
        "the certificate is for the key of the CA that issues, under another name or key identifier; have it issued with those of the one in use, or make a new key: `portcullis ca csr`"
    )]
    OtherName,
    /// Nothing would change.
    #[error("this is the certificate of the CA that issues, with its chain, already")]
    Same,
    /// Not a private key that we can use.
    #[error("`{}` holds no usable private key; expected is PKCS#8, SEC1 or PKCS#1 in PEM, of P-256, P-384, Ed25519 or RSA", .0.display())]
    Key(PathBuf),
    /// A certificate alone.
    #[error("the certificate `{}` is there but its key `{}` is not; put the key there, or move the certificate away", certificate.display(), key.display())]
    KeyMissing {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key that should be there.
        key: PathBuf,
    },
    /// Two files that do not belong together.
    #[error("the certificate `{}` does not fit the key `{}`; put the two there that belong together", certificate.display(), key.display())]
    KeyMismatch {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key.
        key: PathBuf,
    },
    /// Not the certificate of a CA, with its chain.
    #[error("`{}` cannot be the CA: {source}", path.display())]
    Chain {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: ChainError,
    },
    /// Name constraints, or an extension that clients must know and do not.
    #[error(
        "`{}` cannot be the CA: the certificates of {what} that `{name}` issues are refused by whoever verifies them ({reason}); have it and those above it issued without name constraints and without critical extensions other than basicConstraints and keyUsage", path.display()
    )]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Its subject.
        name: String,
        /// Of users, or of servers.
        what: &'static str,
        /// In the words of the TLS library.
        reason: String,
    },
    /// extKeyUsage of the CA without serverAuth.
    #[error(
        "the CA may not issue the broker's own certificate (its extended key usage lacks serverAuth); put one of yours into `{}` and its key into `{}`", certificate.display(), key.display()
    )]
    ServerPurpose {
        /// Where the certificate should be.
        certificate: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// Not X.509.
    #[error("`{}` holds no X.509 certificate", .0.display())]
    Certificate(PathBuf),
    /// Its time is over or not yet come.
    #[error("the certificate in `{}` is valid from {not_before} to {not_after}, not now; renew it, or correct the clock", path.display())]
    NotValid {
        /// Which.
        path: PathBuf,
        /// Start.
        not_before: Timestamp,
        /// End.
        not_after: Timestamp,
    },
    /// An existing key of a kind that we do not certify.
    #[error("no certificate can be made for the key in `{}`: {source}", path.display())]
    KeyKind {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The profile.
    #[error("{0}")]
    Profile(#[from] ProfileError),
    /// The operating system gives no random numbers.
    #[error("the operating system gave no random numbers")]
    Random,
    /// The cryptographic library refused.
    #[error("the signature could not be made: {0}")]
    Sign(String),
}

//! Why a device has no certificate.

use std::io;
use std::path::PathBuf;

use crate::clock::Duration;

/// Why a device has no certificate, by who is at fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The registry turned it down; the message says what to do.
    #[error("the registry refuses ({status} {error}): {message}")]
    Refused {
        /// HTTP's number.
        status: u16,
        /// A stable word.
        error: String,
        /// A sentence.
        message: String,
    },
    /// The broker does not admit the connection at all.
    #[error("the broker refuses the connection: {0}")]
    Connection(String),
    /// Whoever answers there could not prove to be the broker: nothing was sent to it.
    #[error("this device does not trust the broker: {0}")]
    Untrusted(String),
    /// There is no CA certificate to verify the broker by.
    #[error("there is nothing to verify the broker by: {0}; name the CA of the broker's own certificate (`--ca FILE`)")]
    NoTrust(String),
    /// What the device itself brings to a connection.
    #[error("no connection can be made with what this device has: {0}")]
    Unusable(String),
    /// Time is up.
    #[error("no certificate within {} s; the last that was heard: {last}", waited.as_secs())]
    GivenUp {
        /// How long it was tried.
        waited: Duration,
        /// What stood in the way.
        last: String,
    },
    /// Whoever runs it wanted it to end: [`Device::with_stop`](super::Device::with_stop).
    #[error("stopped before there was a certificate")]
    Stopped,
    /// A file that cannot be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file of the device that is not what it must be.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Nothing to renew.
    #[error("there is no certificate in `{}`; enrol first", .0.display())]
    NotEnrolled(PathBuf),
    /// The broker's answer cannot be right.
    #[error("the broker's answer is not what the registry protocol says: {0}")]
    Answer(String),
    /// No key could be made or used.
    #[error("the key cannot be used: {0}")]
    Key(String),
}

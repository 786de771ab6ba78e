//! By which CA certificates a device knows its broker.
//!
//! ```text
//!   what the operator vouches for (never written) --+
//!                                                   +--> the anchors of the next connection --> verified by these of them
//!   NAME.ca, the device's own bundle ---------------+                                               |
//!        ^-------- what the broker delivers over that connection, and these anchors ----------------+
//! ```
//!
//! The CA that issues to devices need not be that of the broker's own certificate: what is delivered is added, and takes
//! nobody's place. Enters: the operator's certificates, and bundles that came over a verified connection. Leaves: anchors,
//! read anew for each connection. Never: a write to the operator's file; a device that no longer knows the broker that it
//! has just verified.

use std::path::{Path, PathBuf};

use super::credentials::{certificates, read, write};
use super::{Credentials, DeviceError, tls};
use crate::pki::pem;

/// DER of a CA certificate.
pub(super) type Anchor = Vec<u8>;

/// What the operator vouches for.
#[derive(Clone, Debug)]
enum Given {
    /// As it was handed over.
    Anchors(Vec<Anchor>),
    /// Whatever is in the file when a connection is made.
    File(PathBuf),
}

/// The operator's anchors, and the device's own.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    given: Given,
    own: PathBuf,
}

impl Trust {
    /// The operator's anchors are those of a PEM text, which may be empty once the device has a bundle of its own.
    pub(super) fn of_pem(text: &[u8], files: &Credentials) -> Result<Self, DeviceError> {
        Self::checked(Given::Anchors(certificates(text)), files)
    }

    /// The operator's anchors are those of a file, which need not be there once the device has a bundle of its own.
    pub(super) fn of_file(path: PathBuf, files: &Credentials) -> Result<Self, DeviceError> {
        if files.all().iter().any(|own| is_same(own, &path)) {
            let reason = "the device itself writes this file; name one with the CA of the broker that stays as it is";
            return Err(DeviceError::Content { path, reason: reason.to_owned() });
        }
        Self::checked(Given::File(path), files)
    }

    fn checked(given: Given, files: &Credentials) -> Result<Self, DeviceError> {
        let trust = Self { given, own: files.trust() };
        trust.anchors()?;
        Ok(trust)
    }

    /// For the next connection: at least one, and each of them usable.
    pub(super) fn anchors(&self) -> Result<Vec<Anchor>, DeviceError> {
        let mut anchors = match &self.given {
            Given::Anchors(anchors) => {
                if !anchors.iter().all(|anchor| tls::is_anchor(anchor)) {
                    let reason = "a certificate of the trust bundle cannot be one of a CA";
                    return Err(DeviceError::NoTrust(reason.to_owned()));
                }
                anchors.clone()
            }
            Given::File(path) => in_file(path)?.unwrap_or_default(),
        };
        anchors.extend(in_file(&self.own)?.unwrap_or_default());
        distinct(&mut anchors);
        if anchors.is_empty() {
            return Err(DeviceError::NoTrust(match &self.given {
                Given::Anchors(_) => "the trust bundle holds no certificate (PEM)".to_owned(),
                Given::File(path) => format!("there is no `{}`", path.display()),
            }));
        }
        Ok(anchors)
    }

    /// Keeps what a broker has delivered (PEM) over a connection that these anchors have verified.
    pub(super) fn learn(&self, delivered: &str, verified_by: &[Anchor]) -> Result<(), DeviceError> {
        let delivered = certificates(delivered.as_bytes());
        if delivered.is_empty() || !delivered.iter().all(|anchor| tls::is_anchor(anchor)) {
            return Err(DeviceError::Answer("its `ca` is no certificate of a CA".to_owned()));
        }
        let known = in_file(&self.own)?.unwrap_or_default();
        let next = after(delivered, verified_by);
        if next == known {
            return Ok(());
        }
        let text: String = next.iter().map(|anchor| pem("CERTIFICATE", anchor)).collect();
        write(&self.own, &text, 0o644)
    }
}

/// The device's own bundle from now on: what the broker delivers, and what has verified that this is the broker. What
/// is neither, such as a CA that was retired, is forgotten.
fn after(delivered: Vec<Anchor>, verified_by: &[Anchor]) -> Vec<Anchor> {
    let mut next = delivered;
    next.extend_from_slice(verified_by);
    distinct(&mut next);
    next
}

fn distinct(anchors: &mut Vec<Anchor>) {
    let mut seen = std::collections::HashSet::new();
    anchors.retain(|anchor| seen.insert(anchor.clone()));
}

/// The anchors of a PEM file, or `None` where there is no file.
fn in_file(path: &Path) -> Result<Option<Vec<Anchor>>, DeviceError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let wrong = |reason: &str| Err(DeviceError::Content { path: path.to_owned(), reason: reason.to_owned() });
    let anchors = certificates(&text);
    if anchors.is_empty() {
        return wrong("it holds no certificate (PEM); put the CA of the broker's own certificate there");
    }
    if !anchors.iter().all(|anchor| tls::is_anchor(anchor)) {
        return wrong(
            "it holds what cannot be a certificate of a CA; put the CA of the broker's own certificate there",
        );
    }
    Ok(Some(anchors))
}

/// By whatever links and dots the one or the other is reached.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let whole = path.canonicalize();
        whole.ok().or_else(|| Some(parent.canonicalize().ok()?.join(path.file_name()?)))
    };
    one == other || place(one).is_some_and(|place_of_one| Some(place_of_one) == place(other))
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;

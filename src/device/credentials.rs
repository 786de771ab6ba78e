//! What a device keeps: key, certificate, trust bundle; and the next pair of a renewal that is under way.
//!
//! INVARIANT: whenever the power fails, [`Credentials::recover`] finds a key with a certificate that fits it, if there was
//! one. Never: a key that others can read, or one that is lost while the registry may know it, with what was asked for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::tls::Identity;
use super::{DeviceError, key};
use crate::access::Username;
use crate::files;
use crate::pki::{PeerCertificate, VerifiedCsr};

/// The files of one device.
///
/// | file | mode | |
/// |---|---|---|
/// | `NAME.key` | 0600 | the private key, PKCS#8 PEM |
/// | `NAME.pem` | 0600 | the certificate, then those between it and the root |
/// | `NAME.ca` | 0644 | the CA certificates that the broker is known by, PEM: those that verified it, and those that it delivered |
/// | `NAME.key.new`, `NAME.csr.new`, `NAME.pem.new` | 0600 | while a renewal is under way |
#[derive(Clone, Debug)]
pub struct Credentials {
    directory: PathBuf,
    name: Username,
}

/// A certificate with its key.
pub(super) struct Current {
    pub(super) key: KeyPair,
    pub(super) leaf: PeerCertificate,
    chain: Vec<Vec<u8>>,
}

impl Current {
    /// To be shown in a TLS handshake.
    pub(super) fn identity(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: Zeroizing::new(self.key.serialize_der()) }
    }

    /// Two thirds of its life.
    pub(super) fn due(&self) -> Timestamp {
        let life = self.leaf.not_after().duration_since(self.leaf.not_before());
        self.leaf.not_before().checked_add(life / 3 * 2).unwrap_or(self.leaf.not_after())
    }
}

impl Credentials {
    /// The files of this device in this directory, which is made when something is written.
    pub fn new(directory: impl Into<PathBuf>, name: Username) -> Self {
        Self { directory: directory.into(), name }
    }

    /// The device's name.
    pub fn name(&self) -> &Username {
        &self.name
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.file("key")
    }

    /// The certificate and what lies between it and the root.
    pub fn certificate(&self) -> PathBuf {
        self.file("pem")
    }

    /// The device's own trust bundle, which follows the broker's CA.
    pub fn trust(&self) -> PathBuf {
        self.file("ca")
    }

    /// Everything that is ever written here.
    pub(super) fn all(&self) -> [PathBuf; 6] {
        let pending = [self.next_key(), self.next_request(), self.next_certificate()];
        let [key, csr, certificate] = pending;
        [self.key(), self.certificate(), self.trust(), key, csr, certificate]
    }

    fn next_key(&self) -> PathBuf {
        self.file("key.new")
    }

    fn next_request(&self) -> PathBuf {
        self.file("csr.new")
    }

    fn next_certificate(&self) -> PathBuf {
        self.file("pem.new")
    }

    fn file(&self, extension: &str) -> PathBuf {
        // A username holds no `/` and is not dots alone.
        self.directory.join(format!("{}.{extension}", self.name))
    }

    /// The key to enrol with: the one that is there, which somebody else may have made, or a new one. Is it a new one?
    pub(super) fn key_to_enrol(&self) -> Result<(KeyPair, bool), DeviceError> {
        Ok(match key_at(&self.key())? {
            Some(key) => (key, false),
            None => (make_key(&self.key())?, true),
        })
    }

    /// Forgets a key that was made in vain.
    pub(super) fn forget_key(&self) -> Result<(), DeviceError> {
        remove(&self.key())
    }

    /// Key and certification request (PEM) to renew with: those of a renewal that was interrupted, or new ones. The request
    /// is kept because its answer may be lost: the very same one gets the same certificate, and ECDSA signs no two alike.
    pub(super) fn next_to_ask_for(&self) -> Result<(KeyPair, String), DeviceError> {
        let key = key_at(&self.next_key())?.map_or_else(|| make_key(&self.next_key()), Ok)?;
        if let Some(kept) = read(&self.next_request())?
            && let Ok(csr) = VerifiedCsr::from_pem(&kept)
            && csr.username() == &self.name
            && csr.key() == &key::public(&key)?
            && let Ok(text) = std::str::from_utf8(&kept)
        {
            return Ok((key, text.to_owned()));
        }
        let text = key::request(&key, &self.name, None)?;
        write(&self.next_request(), &text, 0o600)?;
        Ok((key, text))
    }

    /// What a renewal has been answered with, if it has not taken the old one's place yet.
    pub(super) fn next(&self) -> Result<Option<Current>, DeviceError> {
        let Some(text) = read(&self.next_certificate())? else { return Ok(None) };
        Ok(key_at(&self.next_key())?.and_then(|key| pair(key, &text)))
    }

    /// What the device has now, after a renewal that was interrupted has been brought to its end.
    pub(super) fn current(&self) -> Result<Option<Current>, DeviceError> {
        self.recover()?;
        let Some(text) = read(&self.certificate())? else { return Ok(None) };
        let Some(key) = key_at(&self.key())? else { return Ok(None) };
        match pair(key, &text) {
            Some(current) => Ok(Some(current)),
            None => Err(DeviceError::Content {
                path: self.certificate(),
                reason: format!(
                    "it is no certificate of the key in `{}`; move it away and enrol",
                    self.key().display()
                ),
            }),
        }
    }

    /// Keeps the first certificate.
    pub(super) fn keep(&self, certificate: &str) -> Result<(), DeviceError> {
        write(&self.certificate(), certificate, 0o600)
    }

    /// A certificate that was sent, if it is one of this key and name.
    pub(super) fn check(&self, key: KeyPair, certificate: &str) -> Result<Current, DeviceError> {
        let other = || DeviceError::Answer("the certificate is not of the key and the name that were sent".to_owned());
        let current = pair(key, certificate.as_bytes()).ok_or_else(other)?;
        if current.leaf.common_name() == Ok(&self.name) { Ok(current) } else { Err(other()) }
    }

    /// Keeps the certificate of a renewal beside the old one, which stays in use; gives what it is with its key.
    pub(super) fn keep_next(&self, key: KeyPair, certificate: &str) -> Result<Current, DeviceError> {
        let next = self.check(key, certificate)?;
        write(&self.next_certificate(), certificate, 0o600)?;
        Ok(next)
    }

    /// From now on the renewed pair is the device's.
    pub(super) fn promote(&self) -> Result<(), DeviceError> {
        rename(&self.next_key(), &self.key())?;
        self.finish()
    }

    /// The key has its place already.
    fn finish(&self) -> Result<(), DeviceError> {
        remove(&self.next_request())?;
        rename(&self.next_certificate(), &self.certificate())
    }

    /// Forgets a renewal that came to nothing.
    pub(super) fn abandon(&self) -> Result<(), DeviceError> {
        // The certificate first: a certificate without its key would be of no use.
        remove(&self.next_certificate())?;
        remove(&self.next_request())?;
        remove(&self.next_key())
    }

    /// A renewal that was cut off between its answer and its last rename is brought to its end.
    fn recover(&self) -> Result<(), DeviceError> {
        let Some(text) = read(&self.next_certificate())? else { return Ok(()) };
        if let Some(key) = key_at(&self.next_key())? {
            if pair(key, &text).is_some() {
                return self.promote();
            }
        } else if key_at(&self.key())?.is_some_and(|key| pair(key, &text).is_some()) {
            return self.finish();
        }
        remove(&self.next_certificate())
    }
}

/// The certificates of a PEM text, DER.
pub(super) fn certificates(text: &[u8]) -> Vec<Vec<u8>> {
    let blocks = Pem::iter_from_buffer(text).map_while(Result::ok);
    blocks.filter(|block| block.label == "CERTIFICATE").map(|block| block.contents).collect()
}

/// The key with its certificate, if that is one of it.
fn pair(key: KeyPair, text: &[u8]) -> Option<Current> {
    let chain = certificates(text);
    let first = chain.first()?;
    let (_, parsed) = X509Certificate::from_der(first).ok()?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return None;
    }
    let leaf = PeerCertificate::from_der(first).ok()?;
    Some(Current { key, leaf, chain })
}

fn make_key(path: &Path) -> Result<KeyPair, DeviceError> {
    let key = KeyPair::generate().map_err(|error| DeviceError::Key(error.to_string()))?;
    let text = Zeroizing::new(key.serialize_pem());
    files::write_new(path, text.as_bytes(), 0o600).map_err(|source| DeviceError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(key)
}

fn key_at(path: &Path) -> Result<Option<KeyPair>, DeviceError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let wrong = |reason: &str| DeviceError::Content { path: path.to_owned(), reason: reason.to_owned() };
    let text = std::str::from_utf8(&text).map_err(|_| wrong("it is no PEM"))?;
    if text.contains("ENCRYPTED PRIVATE KEY") {
        return Err(wrong(
            "the key is encrypted, and a device has nobody to ask for its passphrase; store it in the clear",
        ));
    }
    KeyPair::from_pem(text).map(Some).map_err(|_| wrong("it holds no private key (PKCS#8, PEM) of an admitted kind"))
}

pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, DeviceError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DeviceError::File { action: "read", path: path.to_owned(), source }),
    }
}

pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), DeviceError> {
    files::replace(path, text.as_bytes(), mode).map_err(|source| DeviceError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

fn rename(from: &Path, to: &Path) -> Result<(), DeviceError> {
    files::rename(from, to).map_err(|source| DeviceError::File { action: "rename", path: from.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), DeviceError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DeviceError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::CertificateParams;

    use super::*;

    struct Stage {
        directory: tempfile::TempDir,
        files: Credentials,
    }

    fn stage() -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let files = Credentials::new(directory.path().join("device"), "pump-7".parse().unwrap());
        Stage { directory, files }
    }

    fn certificate_of(key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "pump-7");
        params.self_signed(key).unwrap().pem()
    }

    fn fits(files: &Credentials) -> bool {
        files.current().unwrap().is_some_and(|current| {
            let text = fs::read(files.key()).unwrap();
            let key = KeyPair::from_pem(std::str::from_utf8(&text).unwrap()).unwrap();
            key.subject_public_key_info() == current.key.subject_public_key_info()
        })
    }

    #[test]
    fn a_key_is_made_once_and_is_for_its_owner_alone() {
        let Stage { files, directory: _directory } = stage();
        let (key, is_new) = files.key_to_enrol().unwrap();
        assert!(is_new);
        let (again, is_new) = files.key_to_enrol().unwrap();
        assert_eq!((again.serialize_der(), is_new), (key.serialize_der(), false));
        assert!(files.current().unwrap().is_none(), "not enrolled yet");
        files.keep(&certificate_of(&key)).unwrap();
        let current = files.current().unwrap().unwrap();
        assert_eq!(current.due().to_string(), "2026-03-02T00:00:00Z");
        let (next, _) = files.next_to_ask_for().unwrap();
        files.keep_next(next, &certificate_of(&key_at(&files.next_key()).unwrap().unwrap())).unwrap();
        for file in files.all().iter().filter(|file| **file != files.trust()) {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
        }
    }

    /// The registry knows a request again by its bytes.
    #[test]
    fn a_renewal_without_an_answer_is_asked_for_again_with_the_same_key_and_request() {
        let Stage { files, directory: _directory } = stage();
        let (key, csr) = files.next_to_ask_for().unwrap();
        let (again, same) = files.next_to_ask_for().unwrap();
        assert_eq!((again.serialize_der(), same), (key.serialize_der(), csr.clone()));
        for (what, text) in [
            ("damaged", "no request".to_owned()),
            ("of another key", key::request(&KeyPair::generate().unwrap(), files.name(), None).unwrap()),
            ("of another name", key::request(&key, &"pump-8".parse().unwrap(), None).unwrap()),
        ] {
            fs::write(files.next_request(), &text).unwrap();
            let (again, other) = files.next_to_ask_for().unwrap();
            assert!(again.serialize_der() == key.serialize_der() && other != text, "{what}");
            assert_eq!(files.next_to_ask_for().unwrap().1, other, "{what}");
        }
        files.abandon().unwrap();
        assert_ne!(files.next_to_ask_for().unwrap().0.serialize_der(), key.serialize_der());
    }

    #[test]
    fn a_renewal_that_is_cut_off_anywhere_leaves_a_pair_that_fits() {
        // How many of the steps are done when the power fails.
        for steps in 0..=4 {
            let Stage { files, directory: _directory } = stage();
            let (old, _) = files.key_to_enrol().unwrap();
            files.keep(&certificate_of(&old)).unwrap();
            let mut done = 0;
            let mut step = |work: &dyn Fn()| {
                if done < steps {
                    work();
                }
                done += 1;
            };
            step(&|| drop(files.next_to_ask_for().unwrap()));
            step(&|| {
                let (key, _) = files.next_to_ask_for().unwrap();
                let text = certificate_of(&key);
                files.keep_next(key, &text).unwrap();
            });
            step(&|| rename(&files.next_key(), &files.key()).unwrap());
            step(&|| files.finish().unwrap());

            assert!(fits(&files), "{steps} steps");
            let renewed = files.current().unwrap().unwrap().key.serialize_der() != old.serialize_der();
            assert_eq!(renewed, steps >= 2, "{steps} steps");
            assert_eq!(files.next_key().exists(), steps == 1, "an unanswered key is asked with again ({steps} steps)");
            assert_eq!(files.next_request().exists(), steps == 1, "and its request ({steps} steps)");
            assert!(!files.next_certificate().exists());
        }
    }

    #[test]
    fn a_certificate_of_another_key_is_not_kept() {
        let Stage { files, directory: _directory } = stage();
        let (old, _) = files.key_to_enrol().unwrap();
        files.keep(&certificate_of(&old)).unwrap();
        let (key, _) = files.next_to_ask_for().unwrap();
        assert!(files.keep_next(key, &certificate_of(&old)).is_err());
        files.abandon().unwrap();
        assert!(fits(&files) && !files.next_key().exists());

        fs::write(files.certificate(), certificate_of(&KeyPair::generate().unwrap())).unwrap();
        let error = files.current().err().unwrap().to_string();
        assert!(error.contains("pump-7.pem") && error.contains("no certificate of the key"), "{error}");
        for text in
            ["", "nothing", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n"]
        {
            fs::write(files.key(), text).unwrap();
            assert!(matches!(files.key_to_enrol(), Err(DeviceError::Content { .. })), "{text}");
        }
    }
}

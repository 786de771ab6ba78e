//! The files that a configuration names: are they there, may they be read, do they fit together?
//!
//! Reads and never writes. The text of a key or a password is never part of a message.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::model::Config;
use super::reader::{Report, Section};
use super::sections::path;

/// No password is longer.
const MAX_PASSWORD: usize = 1024;

/// The password in the file that a key names, without the newline at its end.
pub(super) fn password(section: &Section<'_>, key: &'static str, base: &Path) -> Option<SecretString> {
    let path = section.get(key, path(base))?;
    let key = section.full(key);
    let report = section.report;
    let shown = path.display();
    let bytes = match fs::read(&path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) => {
            report.key(
                &key,
                format!("cannot read the password file `{shown}` ({})", reason(&error)),
                "name a file that holds the password on one line",
            );
            return None;
        }
    };
    let text = std::str::from_utf8(&bytes).ok().map(|text| text.strip_suffix('\n').unwrap_or(text));
    let text = text.map(|text| text.strip_suffix('\r').unwrap_or(text));
    match text {
        Some(text) if !text.is_empty() && text.len() <= MAX_PASSWORD && !text.contains(char::is_control) => {
            warn_if_others_read(report, &key, &path);
            Some(SecretString::from(text))
        }
        _ => {
            let found = format!(
                "the password file `{shown}` does not hold one line of 1 to {MAX_PASSWORD} bytes of UTF-8 text"
            );
            report.key(&key, found, "write the password alone into it");
            None
        }
    }
}

/// Certificates with their keys: both there and fitting, or both absent so that the first start makes them.
pub(super) fn check(report: &Report<'_>, config: &Config) {
    let data = &config.data_dir;
    if data.exists() && !data.is_dir() {
        report.key("data_dir", format!("`{}` is not a directory", data.display()), "name a directory, existing or new");
    }
    pair(report, "tls", &config.tls.certificate, &config.tls.key);
    pair(report, "ca", &config.ca.certificate, &config.ca.key);
}

fn pair(report: &Report<'_>, section: &str, certificate: &PathBuf, key: &PathBuf) {
    let certificate_key = format!("{section}.certificate");
    let key_key = format!("{section}.key");
    if certificate == key {
        let found = format!("`{section}.certificate` and `{section}.key` name the same file");
        report.key(&key_key, found, "name a file for each of the two");
        return;
    }
    let (certificate_pem, key_pem) = match (read(certificate), read(key)) {
        (Ok(None), Ok(None)) => return,
        (Ok(Some(certificate)), Ok(Some(key))) => (certificate, key),
        (Ok(Some(_)), Ok(None)) => {
            let found =
                format!("there is the certificate `{}` and not its key `{}`", certificate.display(), key.display());
            report.key(&key_key, found, "name the key of the certificate, or remove the certificate and both are made");
            return;
        }
        (Ok(None), Ok(Some(_))) => {
            let found =
                format!("there is the key `{}` and not its certificate `{}`", key.display(), certificate.display());
            report.key(&certificate_key, found, "name the certificate of the key, or remove the key and both are made");
            return;
        }
        (certificate_read, key_read) => {
            for (name, path, outcome) in [(&certificate_key, certificate, certificate_read), (&key_key, key, key_read)]
            {
                if let Err(error) = outcome {
                    let found = format!("cannot read `{}` ({})", path.display(), reason(&error));
                    report.key(name, found, "name a file that this user may read");
                }
            }
            return;
        }
    };
    warn_if_others_read(report, &key_key, key);
    let public = first_public_key(&certificate_pem);
    if public.is_none() {
        let found = format!("`{}` does not begin with an X.509 certificate in PEM", certificate.display());
        report.key(&certificate_key, found, "name a file with `-----BEGIN CERTIFICATE-----`, the broker's own first");
    }
    let pair = std::str::from_utf8(&key_pem).ok().and_then(|pem| rcgen::KeyPair::from_pem(pem).ok());
    if pair.is_none() {
        let found = format!("`{}` is not a private key in PEM that the broker can use", key.display());
        report.key(
            &key_key,
            found,
            "name an unencrypted PKCS #8 key (`-----BEGIN PRIVATE KEY-----`): P-256, P-384, Ed25519 or RSA",
        );
    }
    if let (Some(public), Some(pair)) = (public, pair)
        && public != pair.public_key_raw()
    {
        let found = format!("the key `{}` does not fit the certificate `{}`", key.display(), certificate.display());
        report.key(&key_key, found, "name the key that the certificate was made for");
    }
}

/// `None`: there is no such file.
fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The key bits of the SubjectPublicKeyInfo (RFC 5280 4.1.2.7) of the first certificate.
fn first_public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

#[cfg(unix)]
fn warn_if_others_read(report: &Report<'_>, key: &str, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("`{}` has mode {mode:04o}: others than its owner can read or change it", path.display());
        report.warn(key, found, format!("run `chmod 600 {}`", path.display()));
    }
}

#[cfg(not(unix))]
fn warn_if_others_read(_: &Report<'_>, _: &str, _: &Path) {}

/// What the operating system said, without its number.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

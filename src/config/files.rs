//! The files that a configuration names: are they there, may they be read, do they fit together?
//!
//! Reads and never writes. The text of a key or a password is never part of a message.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::model::Config;
use super::reader::{Report, Section, text};
use super::sections::path;

const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// No password is longer.
const MAX_PASSWORD: usize = 1024;

/// The password in the file that a key names, without the newline at its end.
pub(super) fn password(section: &Section<'_>, key: &'static str, base: &Path) -> Option<SecretString> {
    let path = section.get(key, path(base))?;
    secret(section.report, &section.full(key), &path, "password")
}

/// The passphrase of the CA's key: in a file, in a variable of the environment, or in the credential that systemd passes (a file of
/// that name in `credentials`).
pub(super) fn passphrase(section: &Section<'_>, base: &Path, credentials: Option<&Path>) -> Option<SecretString> {
    if let Some(item) = section.item("passphrase") {
        section.report.secret(item.span.clone());
        let advice = "put the passphrase into a file of mode 0600 and name that in `passphrase_file`";
        section.report.at(Some(item.span), "a passphrase does not belong into this file", advice);
    }
    let file = section.get("passphrase_file", path(base));
    let variable = section.get("passphrase_env", text);
    let (report, key) = (section.report, section.full("passphrase_env"));
    match (file, variable) {
        (Some(_), Some(_)) => {
            let found = "`ca.passphrase_file` and `ca.passphrase_env` both say where the passphrase is";
            report.key(&key, found, "leave one of them out");
            None
        }
        (Some(file), None) => secret(report, &section.full("passphrase_file"), &file, "passphrase"),
        (None, Some(name)) => {
            let passphrase = std::env::var_os(&name).map(|value| Zeroizing::new(value.into_encoded_bytes()));
            let passphrase = passphrase.as_deref().and_then(|bytes| one_line(bytes));
            if passphrase.is_none() {
                let found =
                    format!("the variable `{name}` does not hold one line of 1 to {MAX_PASSWORD} bytes of UTF-8 text");
                report.key(
                    &key,
                    found,
                    "name the variable of the environment that holds the passphrase of the CA's key",
                );
            }
            passphrase
        }
        (None, None) => {
            let file = credentials?.join(CREDENTIAL);
            // systemd passes it in a file that nobody else may read, whatever its mode says.
            file.exists().then(|| secret(report, "ca", &file, "passphrase")).flatten()
        }
    }
}

/// The name of the systemd credential: `LoadCredential=ca-passphrase:FILE`, or `LoadCredentialEncrypted=`.
const CREDENTIAL: &str = "ca-passphrase";

/// The text of a file with one line; `what` is for the messages.
fn secret(report: &Report<'_>, key: &str, path: &Path, what: &str) -> Option<SecretString> {
    let shown = path.display();
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) => {
            report.key(
                key,
                format!("cannot read the {what} file `{shown}` ({})", reason(&error)),
                format!("name a file that holds the {what} on one line"),
            );
            return None;
        }
    };
    let secret = one_line(&bytes);
    if secret.is_some() {
        warn_if_others_read(report, key, path);
    } else {
        let found =
            format!("the {what} file `{shown}` does not hold one line of 1 to {MAX_PASSWORD} bytes of UTF-8 text");
        report.key(key, found, format!("write the {what} alone into it"));
    }
    secret
}

fn one_line(bytes: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(bytes).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let good = !text.is_empty() && text.len() <= MAX_PASSWORD && !text.contains(char::is_control);
    good.then(|| SecretString::from(text))
}

/// Certificates with their keys: both there and fitting, or both absent so that the first start makes them.
pub(super) fn check(report: &Report<'_>, config: &Config) {
    let data = &config.data_dir;
    if data.exists() && !data.is_dir() {
        report.key("data_dir", format!("`{}` is not a directory", data.display()), "name a directory, existing or new");
    }
    pair(report, "tls", &config.tls.certificate, &config.tls.key);
    pair(report, "ca", &config.ca.certificate, &config.ca.key);
    for (number, trust) in config.ca.trust.iter().enumerate() {
        let key = format!("ca.trust[{number}].certificate");
        let shown = trust.certificate.display();
        let why = match read(&trust.certificate) {
            Ok(Some(pem)) if first_public_key(&pem).is_some() => continue,
            Ok(Some(_)) => format!("`{shown}` does not begin with an X.509 certificate in PEM"),
            Ok(None) => format!("cannot read `{shown}` (there is no such file)"),
            Err(error) => format!("cannot read `{shown}` ({})", reason(&error)),
        };
        report.key(&key, why, "name a file with the certificate of the CA that is to be trusted");
    }
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
    // Under a passphrase: whether it opens shows when it is used, at the start.
    if section == "ca" && key_pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        return;
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

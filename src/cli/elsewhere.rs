//! A broker elsewhere: its REST API over HTTPS, and who we are there.
//!
//! The options of the command line enter; a TLS stream leaves, to a broker whose certificate stands on the trust bundle that was named.
//! Never: a connection without TLS, or to a broker that could not prove its name; a password among the arguments.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, Uri};
use portcullis::access::Username;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::Failure;
use super::args::RemoteArguments;
use super::secret;

/// Where it is, and what is shown there.
pub(crate) struct Elsewhere {
    authority: Authority,
    connector: TlsConnector,
    authorization: Option<HeaderValue>,
}

impl Elsewhere {
    /// Reads the files that the options name.
    pub(crate) fn new(url: &str, options: &RemoteArguments) -> Result<Self, Failure> {
        let authority = authority(url)?;
        let trust = options.ca.as_deref().ok_or_else(|| {
            Failure::Usage("name the trust bundle of the broker with `--ca FILE`: its `certs/ca.pem`".to_owned())
        })?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(trust)? {
            roots.add(certificate).map_err(|error| unusable(trust, &error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Usage(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
                config.with_client_auth_cert(certificates(cert)?, private).map_err(|error| unusable(cert, &error))?
            }
            (None, None) => config.with_no_client_auth(),
            _ => return Err(Failure::Usage("`--cert` and `--key` belong together".to_owned())),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authorization = match (&options.user, &options.password_file) {
            (Some(user), Some(file)) => Some(basic(user, file)?),
            (Some(_), None) if options.cert.is_none() => {
                return Err(Failure::Usage("give the password with `--password-file FILE`".to_owned()));
            }
            (None, Some(_)) => return Err(Failure::Usage("`--password-file` needs `--user NAME`".to_owned())),
            (None, None) if options.cert.is_none() => {
                let detail = "say who you are: `--user NAME --password-file FILE`, or `--cert FILE --key FILE`";
                return Err(Failure::Usage(detail.to_owned()));
            }
            // The certificate says it.
            _ => None,
        };
        Ok(Self { authority, connector: TlsConnector::from(Arc::new(config)), authorization })
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// For the header `Authorization`.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        let tcp = TcpStream::connect((host, self.authority.port_u16().unwrap_or(443))).await?;
        self.connector.connect(name, tcp).await
    }
}

fn authority(url: &str) -> Result<Authority, Failure> {
    let wrong = || Failure::Usage(format!("`{url}` is no address of a broker: write `--url https://HOST:8443`"));
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let parts = uri.into_parts();
    let bare = parts.path_and_query.as_ref().is_none_or(|path| path.as_str() == "/");
    match (parts.scheme, parts.authority) {
        (Some(scheme), Some(authority)) if scheme.as_str() == "https" && bare && !authority.as_str().contains('@') => {
            Ok(authority)
        }
        _ => Err(wrong()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(unusable(path, &"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("cannot use `{}`: {why}", path.display()))
}

/// RFC 7617.
fn basic(user: &Username, file: &PathBuf) -> Result<HeaderValue, Failure> {
    if user.as_str().contains(':') {
        let detail = format!("`{user}` holds a `:`, which HTTP Basic cannot carry: use `--cert` and `--key`");
        return Err(Failure::Usage(detail));
    }
    let opened = std::fs::File::open(file).map_err(|error| unusable(file, &error))?;
    let password =
        secret::from_line(BufReader::new(opened), secret::PASSWORD).map_err(|error| unusable(file, &error))?;
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    let text = Zeroizing::new(format!("Basic {}", Base64::encode_string(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).map_err(|error| Failure::Usage(error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::{Authority, authority};

    #[test]
    fn an_address_is_https_a_host_and_nothing_else() {
        for (url, expected) in [
            ("https://broker.example:8443", Some("broker.example:8443")),
            ("https://broker.example/", Some("broker.example")),
            ("https://[::1]:8443", Some("[::1]:8443")),
            ("http://broker.example:8443", None),
            ("https://ada:secret@broker.example", None),
            ("https://broker.example/api", None),
            ("https://broker.example/?x", None),
            ("broker.example:8443", None),
            ("", None),
        ] {
            assert_eq!(authority(url).ok().as_ref().map(Authority::as_str), expected, "{url}");
        }
    }
}

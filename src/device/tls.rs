//! TLS of a client: one blocking stream to a broker whose certificate is verified.
//!
//! Enters: an address, the CA certificates to trust, and a certificate of the device's own where it has one. Leaves: a
//! stream to read and write, and which of the CA certificates have verified it. Never: a connection to a broker that
//! could not prove its name.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Address;
use super::trust::Anchor;

/// How long a connection may take to be made, for each address of the host.
const CONNECT: Duration = Duration::from_secs(10);

/// Certificate and key that a device shows, DER.
pub(super) struct Identity {
    /// Leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub(super) key: zeroize::Zeroizing<Vec<u8>>,
}

/// Why there is no stream, or no more.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker could not prove that it is the one; why, and what to do.
    Untrusted(String),
    /// The broker does not go on; why, and what to do.
    Refused(String),
    /// What the device itself brings cannot be used.
    Unusable(String),
    /// The network.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A verified connection.
pub(super) struct Stream {
    tls: StreamOwned<ClientConnection, TcpStream>,
    verified_by: Vec<Anchor>,
    shows_identity: bool,
    host: String,
}

/// Connects, and finishes the handshake.
pub(super) fn connect(address: &Address, trust: &[Anchor], identity: Option<&Identity>) -> Result<Stream, Failure> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Unusable(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for anchor in trust {
        roots.add(CertificateDer::from(anchor.clone())).map_err(|error| unusable(&error))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::try_from(identity.key.to_vec()).map_err(|error| unusable(&error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
        }
    };
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| unusable(&error))?;
    let tls = ClientConnection::new(Arc::new(config), name.clone()).map_err(|error| unusable(&error))?;
    let mut stream = Stream {
        tls: StreamOwned::new(tls, reach(address)?),
        verified_by: Vec::new(),
        shows_identity: identity.is_some(),
        host: address.host().to_owned(),
    };
    stream.set_patience(CONNECT)?;
    while stream.tls.conn.is_handshaking() {
        let done = stream.tls.conn.complete_io(&mut stream.tls.sock);
        done.map_err(|error| stream.failure(error))?;
    }
    let shown = stream.tls.conn.peer_certificates().unwrap_or_default();
    let verifies = |anchor: &&Anchor| verifies(anchor, shown, &name, &provider);
    stream.verified_by = trust.iter().filter(verifies).cloned().collect();
    Ok(stream)
}

/// Can this be the certificate of a CA that others are verified by?
pub(super) fn is_anchor(certificate: &[u8]) -> bool {
    RootCertStore::empty().add(CertificateDer::from(certificate)).is_ok()
}

/// Does this anchor alone verify what the broker has shown?
fn verifies(
    anchor: &Anchor,
    shown: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    provider: &Arc<CryptoProvider>,
) -> bool {
    let Some((leaf, above)) = shown.split_first() else { return false };
    let mut root = RootCertStore::empty();
    let added = root.add(CertificateDer::from(anchor.clone()));
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(root), Arc::clone(provider)).build();
    added.is_ok() && verifier.is_ok_and(|it| it.verify_server_cert(leaf, above, name, &[], UnixTime::now()).is_ok())
}

/// The first address of the host that answers.
fn reach(address: &Address) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in (address.host(), address.port()).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_write_timeout(Some(CONNECT))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Stream {
    /// The anchors that the broker's certificate stands on.
    pub(super) fn verified_by(&self) -> &[Anchor] {
        &self.verified_by
    }

    /// How long a read may wait; it then fails with [`io::ErrorKind::WouldBlock`] and loses nothing.
    pub(super) fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.tls.sock.set_read_timeout(Some(patience.max(Duration::from_millis(1))))
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        self.tls.read(buffer).map_err(|error| self.failure(error))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = self.tls.write_all(bytes).and_then(|()| self.tls.flush());
        sent.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: io::Error) -> Failure {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            None => Failure::Io(error),
            Some(rustls::Error::InvalidCertificate(why)) => Failure::Untrusted(distrust(why, &self.host)),
            Some(rustls::Error::AlertReceived(alert)) => {
                let advice = if self.shows_identity {
                    "is the certificate of this device one of its CA, and valid by its clock? Otherwise enrol anew"
                } else {
                    "does this listener admit devices without a certificate (`registration = true`)?"
                };
                Failure::Refused(format!("it ended the TLS handshake ({alert:?}); {advice}"))
            }
            Some(other) => Failure::Refused(format!("{other}; is it a listener for MQTT over TLS?")),
        }
    }
}

/// Why the broker's certificate is not taken, and what to do.
fn distrust(why: &CertificateError, host: &str) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "its certificate is of no CA that this device trusts; give it the CA of the broker's own certificate (`--ca FILE`)"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is not one for `{host}`; use a name that is in it, or have this one added to it")
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid now; set the clock of this device, or have the certificate renewed".to_owned()
        }
        other => format!(
            "{}; have the operator look at the broker's certificate",
            rustls::Error::InvalidCertificate(other.clone())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_not_the_broker_is_named_by_what_is_wrong_with_it() {
        let told: Vec<_> = [
            CertificateError::UnknownIssuer,
            CertificateError::NotValidForName,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::InvalidPurpose,
        ]
        .iter()
        .map(|why| distrust(why, "broker.example"))
        .collect();
        insta::assert_snapshot!(told.join("\n"), @"
        its certificate is of no CA that this device trusts; give it the CA of the broker's own certificate (`--ca FILE`)
        its certificate is not one for `broker.example`; use a name that is in it, or have this one added to it
        its certificate is not valid now; set the clock of this device, or have the certificate renewed
        its certificate is not valid now; set the clock of this device, or have the certificate renewed
        invalid peer certificate: InvalidPurpose; have the operator look at the broker's certificate
        ");
    }
}

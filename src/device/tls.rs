//! TLS of a client: one blocking stream to a broker whose certificate is verified.
//!
//! Enters: an address, the CA certificates to trust, and a certificate of the device's own where it has one. Leaves: a
//! stream to read and write. Never: a connection to a broker that could not prove its name.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs};

use super::Address;

/// How long a connection may take to be made, for each address of the host.
const CONNECT: Duration = Duration::from_secs(10);

/// Certificate and key that a device shows, DER.
pub(super) struct Identity {
    /// Leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub(super) key: zeroize::Zeroizing<Vec<u8>>,
}

/// A verified connection.
pub(super) struct Stream(StreamOwned<ClientConnection, TcpStream>);

/// Connects, and finishes the handshake.
///
/// # Errors
/// Nobody listens, the broker's certificate is not one for this name and CA, or the CA or the identity is unusable
/// ([`io::ErrorKind::InvalidInput`]).
pub(super) fn connect(address: &Address, trust: &[Vec<u8>], identity: Option<&Identity>) -> io::Result<Stream> {
    let unusable = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    let mut roots = RootCertStore::empty();
    for anchor in trust {
        let anchor = CertificateDer::from(anchor.clone());
        roots.add(anchor).map_err(|error| unusable(format!("the CA certificate is unusable: {error}")))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::try_from(identity.key.to_vec()).map_err(|error| unusable(error.to_owned()))?;
            config.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| unusable(error.to_string()))?;
    let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = Stream(StreamOwned::new(tls, reach(address)?));
    stream.set_patience(CONNECT)?;
    while stream.0.conn.is_handshaking() {
        stream.0.conn.complete_io(&mut stream.0.sock)?;
    }
    Ok(stream)
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
    /// How long a read may wait; it then fails with [`io::ErrorKind::WouldBlock`] and loses nothing.
    pub(super) fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.0.sock.set_read_timeout(Some(patience.max(Duration::from_millis(1))))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

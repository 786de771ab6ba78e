//! TLS for listeners: one rustls connection driven by hand over a non-blocking socket.
//!
//! Enters: certificates, a key and a socket. Leaves: plaintext, and the peer's verified certificate.
//! Never: encrypts ahead of the socket. A record is made only when all earlier ones are with the kernel, so that what
//! a new policy forbids can still be taken back until the last moment. Early data stays off, and resumption carries no
//! authority: certificate validity, revocation and user are checked again at every CONNECT.

use std::{
    io::{self, BufRead, ErrorKind, Read, Write},
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Plaintext per record: the most that TLS admits, so at most this much is beyond recall at any time. RFC 8446 5.1
const RECORD: usize = 16_384;

/// Does a listener ask for client certificates?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    /// Never.
    Off,
    /// Asks; a client without one must log in with a password.
    Optional,
    /// Refuses the handshake without one.
    Required,
}

/// What a TLS listener needs.
#[derive(Clone, Copy)]
pub(crate) struct TlsSettings<'a> {
    /// Server certificate and its key.
    pub(crate) certificate: &'a Arc<ServerKey>,
    /// Trust anchors for client certificates, DER.
    pub(crate) client_anchors: &'a [Vec<u8>],
    /// Are client certificates asked for?
    pub(crate) client_certificate: ClientCertificate,
    /// Admit TLS 1.2 beside 1.3?
    pub(crate) tls12: bool,
    /// What is spoken inside.
    pub(crate) inside: Inside,
}

/// What is spoken inside of TLS. A client may name it in the handshake (ALPN), so that it cannot be led to a listener of
/// another protocol (RFC 7301); one that names nothing is served just the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// MQTT.
    Mqtt,
    /// HTTP/1.1.
    Http,
}

/// Why a listener cannot serve TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The key does not fit, the algorithm is unknown, or an anchor is unusable.
    #[error("the {0} cannot be used: {1}")]
    Unusable(&'static str, String),
}

/// The certificate that listeners show, with its key. Exchanged while they run: a handshake takes what is there when it begins,
/// and connections keep what they have.
#[derive(Debug)]
pub(crate) struct ServerKey(ArcSwap<CertifiedKey>);

impl ServerKey {
    /// `chain`: the certificate and its intermediates, DER, leaf first. `key`: its private key, DER.
    pub(crate) fn new(chain: &[Vec<u8>], key: &[u8]) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(certified(chain, key)?)))
    }

    /// From now on this one is shown. After an error the one before is.
    pub(crate) fn replace(&self, chain: &[Vec<u8>], key: &[u8]) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(chain, key)?));
        Ok(())
    }

    /// The certificate that is shown, DER.
    #[cfg(test)]
    pub(crate) fn leaf(&self) -> Vec<u8> {
        self.0.load().cert.first().map(|der| der.to_vec()).unwrap_or_default()
    }
}

impl ResolvesServerCert for ServerKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(chain: &[Vec<u8>], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let key =
        PrivateKeyDer::try_from(key.to_vec()).map_err(|reason| TlsError::Unusable("server key", reason.to_owned()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| TlsError::Unusable("server certificate or its key", error.to_string()))
}

/// A listener's TLS side: makes one session per connection. Clones share one.
#[derive(Clone, Debug)]
pub(crate) struct TlsAcceptor(Arc<Side>);

#[derive(Debug)]
struct Side {
    /// Exchanged when the anchors change: a handshake takes what is there when it begins.
    config: ArcSwap<ServerConfig>,
    certificate: Arc<ServerKey>,
    client_certificate: ClientCertificate,
    tls12: bool,
    inside: Inside,
    ticketer: Arc<dyn ProducesTickets>,
}

impl TlsAcceptor {
    /// Checks everything that can be checked before the first connection comes.
    pub(crate) fn new(settings: &TlsSettings<'_>) -> Result<Self, TlsError> {
        let TlsSettings { certificate, client_anchors, client_certificate, tls12, inside } = *settings;
        let certificate = Arc::clone(certificate);
        // Tickets (RFC 8446 4.6.1, RFC 5077): what a session needs to be resumed lies with the client, sealed by a key that
        // lives in memory, half a day at most. A whole fleet can come back by them, and nothing is kept of who does not.
        let ticketer = aws_lc_rs::Ticketer::new()
            .map_err(|error| TlsError::Unusable("source of randomness", error.to_string()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError::Unusable("TLS version", error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as _);
        let config = ArcSwap::from_pointee(config);
        let side = Side { config, certificate, client_certificate, tls12, inside, ticketer };
        side.trust(client_anchors)?;
        Ok(Self(Arc::new(side)))
    }

    /// From now on certificates of clients are verified against these anchors. After an error those of before stay.
    pub(crate) fn trust(&self, anchors: &[Vec<u8>]) -> Result<(), TlsError> {
        self.0.trust(anchors)
    }
}

impl Side {
    fn trust(&self, anchors: &[Vec<u8>]) -> Result<(), TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[&SupportedProtocolVersion] = if self.tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        let unusable = |what: &'static str| move |error: rustls::Error| TlsError::Unusable(what, error.to_string());

        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(unusable("TLS version"))?;
        let builder = if self.client_certificate == ClientCertificate::Off {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for anchor in anchors {
                roots.add(CertificateDer::from(anchor.clone())).map_err(unusable("trust anchor"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if self.client_certificate == ClientCertificate::Required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier.build().map_err(|error| TlsError::Unusable("trust anchor", error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.certificate) as _);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.ticketer);
        // One is all that a client that reconnects needs.
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        // The names that IANA registers.
        let protocol: &[u8] = match self.inside {
            Inside::Mqtt => b"mqtt",
            Inside::Http => b"http/1.1",
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        self.config.store(Arc::new(config));
        Ok(())
    }
}

impl TlsAcceptor {
    pub(super) fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream> {
        let mut tls = ServerConnection::new(self.0.config.load_full()).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(RECORD));
        Ok(TlsStream { tcp, tls: Box::new(tls) })
    }

    /// Runs the handshake to its end, for a protocol that encrypts ahead of the socket: not for MQTT. The stream, and the
    /// peer's certificates (DER), its own first, verified against the anchors.
    pub(super) async fn accept_stream(
        &self,
        tcp: TcpStream,
    ) -> io::Result<(impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Option<Vec<Vec<u8>>>)> {
        let stream = tokio_rustls::TlsAcceptor::from(self.0.config.load_full()).accept(tcp).await?;
        let certificates = stream.get_ref().1.peer_certificates().map(chain);
        Ok((stream, certificates))
    }
}

fn chain(certificates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.to_vec()).collect()
}

/// One TLS connection.
#[derive(Debug)]
pub(super) struct TlsStream {
    tcp: TcpStream,
    tls: Box<ServerConnection>,
}

/// A socket as the blocking reader and writer that rustls expects; `WouldBlock` passes through.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsStream {
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The same connection, registered for readiness with the runtime of the calling context.
    pub(super) fn register_anew(self) -> io::Result<Self> {
        Ok(Self { tcp: TcpStream::from_std(self.tcp.into_std()?)?, tls: self.tls })
    }

    /// Runs the handshake to its end. Cancel-safe: state lives in the connection.
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            if self.tls.wants_write() {
                match self.flush() {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.tcp.writable().await?,
                    Err(error) => return Err(error),
                }
                continue;
            }
            match self.receive() {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.tcp.readable().await?,
                Err(error) => return Err(error),
            }
        }
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// The peer's certificates (DER), its own first: a chain that was verified against the anchors in the handshake.
    pub(super) fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        self.tls.peer_certificates().map(chain)
    }

    /// Reads records from the socket. `Ok(0)` is the end of the stream.
    fn receive(&mut self) -> io::Result<usize> {
        let read = self.tls.read_tls(&mut Socket(&self.tcp))?;
        if let Err(error) = self.tls.process_new_packets() {
            // The alert that tells the peer why; it is gone if the socket does not take it now.
            drop(self.flush());
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(read)
    }

    /// Appends plaintext; `Ok(0)` is the end of the stream.
    pub(super) fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            match self.tls.reader().fill_buf() {
                Ok(plaintext) => {
                    let length = plaintext.len();
                    buffer.extend_from_slice(plaintext);
                    self.tls.reader().consume(length);
                    return Ok(length);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.receive()? == 0 {
                return Ok(0);
            }
        }
    }

    /// Takes at most one record of plaintext, and only when the socket has taken all earlier ones.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let record = bytes.get(..RECORD).unwrap_or(bytes);
        let taken = self.tls.writer().write(record)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Is ciphertext waiting for the socket?
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Hands all ciphertext to the socket, or fails with `WouldBlock`.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Socket(&self.tcp))?;
        }
        Ok(())
    }

    /// Queues the closing alert, so that the peer can tell an end from a cut.
    pub(super) fn close(&mut self) {
        self.tls.send_close_notify();
        // Best effort: a peer that does not read has no use for the alert.
        drop(self.flush());
    }
}

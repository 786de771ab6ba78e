//! One non-blocking connection to a broker, plain or TLS.
//!
//! In: bytes to send, appended to `out`; readiness, as calls of `flush` and `read`. Out: the bytes that came. It knows
//! nothing of MQTT, and never blocks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};

/// Buffers that all connections of a driver share: a connection at rest then costs the driver next to nothing.
pub(crate) struct Scratch {
    cipher: Vec<u8>,
    pub(crate) plain: Vec<u8>,
}

impl Scratch {
    const SIZE: usize = 128 * 1024;

    pub(crate) fn new() -> Self {
        Self { cipher: vec![0; Self::SIZE], plain: vec![0; Self::SIZE] }
    }
}

/// What one read brought.
pub(crate) enum Arrived {
    /// So many bytes, at the front of `Scratch::plain`; there may be more.
    Bytes(usize),
    Blocked,
    End,
}

pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What waits to be sent.
    pub(crate) out: Vec<u8>,
    sent: usize,
}

impl Link {
    /// Starts to connect. `source` spreads many connections over 127.0.0.0/8, as one address has only some 28,000 ports.
    pub(crate) fn open(
        address: SocketAddr,
        source: Option<SocketAddr>,
        tls: Option<&Arc<rustls::ClientConfig>>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            // EINPROGRESS has no kind of its own: every non-blocking connect answers it.
            Err(error) if error.raw_os_error() == Some(115) || error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let mut session = Box::new(ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?);
                session.set_buffer_limit(Some(Scratch::SIZE));
                Some(session)
            }
        };
        Ok(Self { stream: TcpStream::from_std(socket.into()), tls, out: Vec::new(), sent: 0 })
    }

    /// Was an earlier TLS session resumed?
    #[allow(dead_code, reason = "not every benchmark resumes")]
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
    }

    /// Bytes that were handed over and not yet taken by the kernel or the TLS layer.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Writes what it can. A socket that is full is no error: `flush` again when it is writable.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        loop {
            if let Some(tls) = &mut self.tls {
                if let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
                    self.sent += tls.writer().write(rest)?;
                }
                while tls.wants_write() {
                    match tls.write_tls(&mut self.stream) {
                        Ok(_) => {}
                        Err(error) if would_block(&error) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
                if tls.is_handshaking() {
                    return Ok(());
                }
            } else {
                let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
                match self.stream.write(rest) {
                    Ok(count) => self.sent += count,
                    Err(error) if would_block(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            if self.sent == self.out.len() {
                self.sent = 0;
                self.out.clear();
                return Ok(());
            }
        }
    }

    /// Reads once.
    pub(crate) fn read(&mut self, scratch: &mut Scratch) -> io::Result<Arrived> {
        let Some(tls) = &mut self.tls else {
            return match self.stream.read(&mut scratch.plain) {
                Ok(0) => Ok(Arrived::End),
                Ok(count) => Ok(Arrived::Bytes(count)),
                Err(error) if would_block(&error) => Ok(Arrived::Blocked),
                Err(error) => Err(error),
            };
        };
        let count = match self.stream.read(&mut scratch.cipher) {
            Ok(0) => return Ok(Arrived::End),
            Ok(count) => count,
            Err(error) if would_block(&error) => return Ok(Arrived::Blocked),
            Err(error) => return Err(error),
        };
        let mut arrived = 0;
        let mut closed = false;
        let mut records = scratch.cipher.get(..count).unwrap_or_default();
        while !records.is_empty() {
            tls.read_tls(&mut records)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            closed |= state.peer_has_closed();
            let mut plaintext = state.plaintext_bytes_to_read();
            while plaintext > 0 {
                // The plaintext of so many bytes of records is never longer than they are, but records that began
                // in an earlier read add up to one record more.
                if scratch.plain.len() < arrived + plaintext {
                    scratch.plain.resize(arrived + plaintext, 0);
                }
                let taken = tls.reader().read(scratch.plain.get_mut(arrived..).unwrap_or_default())?;
                arrived += taken;
                plaintext -= taken;
            }
        }
        if tls.wants_write() {
            self.flush()?;
        }
        Ok(if arrived == 0 && closed { Arrived::End } else { Arrived::Bytes(arrived) })
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}

//! A connected socket, plain or TLS, with the few operations that the connection loop needs.
//!
//! Reads and writes never wait: the loop decides and writes under its gate, and waits for readiness outside of it.

use std::io;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{tls::TlsStream, workers::Worker};

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(TlsStream),
}

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Bytes,
    /// Whatever there is, it is the last: the peer has ended the stream, or broken it.
    ToTheEnd,
}

impl Transport {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// The same connection, its readiness told to another thread.
    pub(super) fn move_to(self, worker: &Worker) -> io::Result<Self> {
        let _inside = worker.enter();
        Ok(match self {
            Self::Plain(tcp) => Self::Plain(TcpStream::from_std(tcp.into_std()?)?),
            Self::Tls(tls) => Self::Tls(tls.register_anew()?),
        })
    }

    /// What the peer has sent of certificates (DER), its own first, on TLS connections: a chain that was verified.
    pub(super) fn peer_certificates(&self) -> Option<Vec<Vec<u8>>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.peer_certificates(),
        }
    }

    pub(super) async fn readable(&self) -> io::Result<Readable> {
        let ready = self.tcp().ready(Interest::READABLE).await?;
        Ok(if ready.is_read_closed() { Readable::ToTheEnd } else { Readable::Bytes })
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.tcp().writable().await
    }

    /// Appends to `buffer` what has arrived; `Ok(0)` is the end of the stream, `WouldBlock` means later.
    pub(super) fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_read_buf(buffer),
            Self::Tls(tls) => tls.try_read(buffer),
        }
    }

    /// Writes some of `bytes`; `WouldBlock` means later.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Is part of an encrypted record waiting for the socket?
    pub(super) fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.wants_write(),
        }
    }

    /// Hands waiting ciphertext to the socket.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Nothing more will be written: the peer sees the end after the last byte.
    pub(super) fn end_of_output(&self) -> io::Result<()> {
        SockRef::from(self.tcp()).shutdown(std::net::Shutdown::Write)
    }

    /// Ends the stream in good order.
    pub(super) fn close(&mut self) {
        if let Self::Tls(tls) = self {
            tls.close();
        }
    }

    /// Makes the coming close abortive: nothing that the kernel still holds is sent any more.
    pub(super) fn abort(&self) {
        if let Err(error) = SockRef::from(self.tcp()).set_linger(Some(std::time::Duration::ZERO)) {
            tracing::debug!(%error, "the socket refused an abortive close");
        }
    }
}

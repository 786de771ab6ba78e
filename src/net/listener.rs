//! A bound socket that accepts and admits connections, on each of the acceptors.
//!
//! Takes a bound socket, so that whoever binds learns the port, and nothing is half-started when another address is
//! taken. Dropping the shutdown sender or sending `true` ends the loop; open connections have their own end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout_at},
};

use super::{
    Server,
    admission::{Admission, Place, Turned},
    arrival,
    tls::TlsAcceptor,
    transport::Transport,
    workers::Worker,
};
use crate::{
    access::Username,
    metrics::{ConnectionRefusal, Metrics},
};

/// What a connection has to know of the listener it came through.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The name in broker.toml.
    pub(crate) name: String,
    /// TLS, if it is spoken here.
    pub(crate) tls: Option<TlsAcceptor>,
    /// May clients without credentials open a registration session?
    pub(crate) registration: bool,
    /// Name of the user whom clients without credentials are.
    pub(crate) anonymous: Option<Username>,
}

/// After the file limit is hit: long enough not to spin, short enough for clients that retry.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until shutdown. Whoever it accepts stays on `acceptor`, which runs this, until it has its CONNACK.
pub(crate) async fn run(
    socket: TcpListener,
    listener: Arc<Listener>,
    server: Arc<Server>,
    acceptor: Worker,
    mut shutdown: watch::Receiver<bool>,
) {
    let stop = shutdown.clone();
    accept(socket, &listener.name, &server.metrics, &mut shutdown, |stream, peer| {
        admit(stream, peer, &listener, &server, &acceptor, &stop);
    })
    .await;
}

/// Hands over each connection that comes, until shutdown.
pub(super) async fn accept(
    socket: TcpListener,
    name: &str,
    metrics: &Metrics,
    shutdown: &mut watch::Receiver<bool>,
    admit: impl Fn(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) if belongs_to_one_connection(&error) => {}
            Err(error) => {
                metrics.accept_failed();
                tracing::warn!(listener = name, %error, "no further connection can be accepted; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted. See accept(2), "Error handling".
fn belongs_to_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// A place for a connection; without one it is closed, and counted.
pub(super) fn place(admission: &Arc<Admission>, peer: SocketAddr, metrics: &Metrics) -> Option<Place> {
    let turned = |turned| {
        metrics.connections_refused.inc(match turned {
            Turned::Full => ConnectionRefusal::Connections,
            Turned::Address => ConnectionRefusal::ConnectionsPerAddress,
        });
    };
    admission.admit(peer.ip()).map_err(turned).ok()
}

/// The socket as the reactor of another thread can take it over.
pub(super) fn detach(stream: TcpStream) -> Option<std::net::TcpStream> {
    let failed = |error| tracing::debug!(%error, "a new connection could not be handed over");
    stream.into_std().map_err(failed).ok()
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    listener: &Arc<Listener>,
    server: &Arc<Server>,
    acceptor: &Worker,
    shutdown: &watch::Receiver<bool>,
) {
    let Some(place) = place(&server.admission, peer, &server.metrics) else { return };
    let (listener, shared, shutdown) = (Arc::clone(listener), Arc::clone(server), shutdown.clone());
    acceptor.spawn(async move {
        let deadline = tokio::time::Instant::now() + shared.settings.connect_timeout;
        let opened = async {
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_keepalive(true)?;
            match &listener.tls {
                None => Ok(Transport::Plain(stream)),
                Some(acceptor) => {
                    let mut tls = acceptor.accept(stream)?;
                    tls.handshake().await?;
                    Ok::<_, io::Error>(Transport::Tls(tls))
                }
            }
        };
        match timeout_at(deadline, opened).await {
            Ok(Ok(transport)) => {
                arrival::serve(transport, peer, listener, shared, deadline, shutdown, place).await;
            }
            Ok(Err(error)) => {
                shared.metrics.handshake_failed();
                tracing::debug!(listener = listener.name, %peer, %error, "TLS handshake failed");
            }
            Err(_) => {
                shared.metrics.handshake_failed();
                tracing::debug!(listener = listener.name, %peer, "handshake took longer than limits.connect_timeout");
            }
        }
    });
}

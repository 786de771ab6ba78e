//! A connection from its first byte to its CONNACK: on an acceptor, where it keeps nobody waiting who is connected.
//!
//! Enters: an accepted socket, its TLS handshake done. Leaves: a [`Connection`] on a worker, or a refusal. Nothing here
//! outlives `limits.connect_timeout`. A client that hangs up before it is answered is not served any further: the wait for
//! its password ends, and costs no core if its turn has not come.

use std::{
    future,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    sync::watch,
    time::{self, timeout, timeout_at},
};

use super::{
    Server,
    admission::Place,
    connection::{Connection, NotAttached, READ_SIZE},
    listener::Listener,
    login,
    output::OutputBuffer,
    transport::Transport,
};
use crate::{
    audit,
    metrics::{AuthenticationOutcome, ConnectionRefusal, OpenConnection},
    mqtt::{
        ConnAck, Connect, Packet, ProtocolVersion, ReasonCode,
        codec::{DecodeError, Decoder, Limits, Role},
    },
    session::Rejection,
};

/// The largest CONNECT: nobody has proven anything yet, so one connection may not hold more. Will message, user name
/// and password of the largest size that their fields admit still fit. Bytes.
const CONNECT_SIZE: u32 = 256 * 1024;

/// How long a connection that ends may take to accept its last packets.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a connection takes up for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted {
    _place: Place,
    _open: OpenConnection,
}

/// What there is of a connection before it has a session.
pub(super) struct Arrival {
    pub(super) number: u64,
    pub(super) peer: SocketAddr,
    pub(super) listener: Arc<Listener>,
    pub(super) transport: Transport,
    pub(super) decoder: Decoder,
    /// What has come and is not decoded.
    pub(super) input: BytesMut,
    pub(super) counted: Counted,
}

/// Serves one connection from its first byte to its CONNACK; the rest is a task of its own, which is small.
pub(super) async fn serve(
    mut transport: Transport,
    peer: SocketAddr,
    listener: Arc<Listener>,
    server: Arc<Server>,
    deadline: time::Instant,
    mut shutdown: watch::Receiver<bool>,
    place: Place,
) {
    let counted = Counted { _place: place, _open: server.metrics.connection_opened(&listener.name) };
    let number = server.sessions.next_number();
    let limits = Limits { maximum_packet_size: CONNECT_SIZE.min(server.settings.session.maximum_packet_size.get()) };
    let mut decoder = Decoder::new(Role::Server, limits);
    let mut input = BytesMut::new();

    let first = tokio::select! {
        first = timeout_at(deadline, read_connect(&server, &mut transport, &mut decoder, &mut input)) => first,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let connect = match first {
        Ok(Ok(connect)) => connect,
        Ok(Err(NoConnect::Io(error))) => {
            server.metrics.connect_missing();
            tracing::debug!(%peer, %error, "the connection ended before CONNECT");
            return;
        }
        Ok(Err(NoConnect::Decode(error))) => {
            server.metrics.malformed(error.reason_code);
            tracing::debug!(%peer, %error, "not a CONNECT that can be read");
            server.metrics.connect_refused(error.reason_code);
            if let Some(version) = error.version {
                let rejection =
                    Rejection { reason_code: error.reason_code, explanation: error.explanation.into(), refusal: None };
                refuse(&server, &mut transport, version, rejection.connack()).await;
            }
            return;
        }
        Err(_) => {
            server.metrics.connect_missing();
            tracing::debug!(%peer, "no CONNECT within limits.connect_timeout");
            return;
        }
    };

    let certificates = transport.peer_certificates();
    let admitted = tokio::select! {
        // The login first: most need no wait, and then nobody looks at the socket.
        biased;
        admitted = timeout_at(
            deadline,
            login::admit(&server, &listener, peer, number, &connect, certificates.as_deref()),
        ) => admitted,
        () = hung_up(&server, &mut transport, &mut input) => {
            server.metrics.connections_refused.inc(ConnectionRefusal::Abandoned);
            server.metrics.authentications.inc(AuthenticationOutcome::Abandoned);
            tracing::debug!(%peer, "the client hung up before its login was decided");
            return;
        }
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let admitted = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(rejection)) => return reject(&server, &mut transport, peer, &connect, &rejection).await,
        Err(_) => {
            let rejection = Rejection {
                reason_code: ReasonCode::ServerBusy,
                explanation: "the identity could not be checked in time: try again later".into(),
                refusal: None,
            };
            return reject(&server, &mut transport, peer, &connect, &rejection).await;
        }
    };

    let packet_size = admitted.settings(&server).maximum_packet_size.get();
    decoder.set_limits(Limits { maximum_packet_size: packet_size });
    let Some(worker) = server.workers.least_busy() else { return };
    let arrival = Arrival { number, peer, listener, transport, decoder, input, counted };
    match Connection::attach(Arc::clone(&server), arrival, &connect, admitted, worker) {
        Ok(connection) => worker.spawn(connection.run(shutdown)),
        Err(NotAttached::Refused(mut transport, rejection)) => {
            reject(&server, &mut transport, peer, &connect, &rejection).await;
        }
        Err(NotAttached::Broken(error)) => tracing::debug!(%peer, %error, "the connection broke at its CONNACK"),
    }
}

/// Completes when the peer has ended the connection and left nothing behind that is still to be done. It may send packets
/// before it has its CONNACK (MQTT 5.0, 3.1.4), and end the connection after the last of them: then they count.
async fn hung_up(server: &Server, transport: &mut Transport, input: &mut BytesMut) {
    while input.len() < READ_SIZE.0 {
        input.reserve(READ_SIZE.0);
        match transport.try_read(input) {
            Ok(0) if input.is_empty() => return,
            Ok(0) => break,
            Ok(read) => server.metrics.bytes_read(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if transport.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    future::pending::<()>().await;
}

enum NoConnect {
    Io(io::Error),
    Decode(DecodeError),
}

async fn read_connect(
    server: &Server,
    transport: &mut Transport,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<Box<Connect>, NoConnect> {
    loop {
        let packet = decoder.decode(input).map_err(NoConnect::Decode)?;
        if let Some(packet) = &packet {
            server.metrics.packet_received(packet);
        }
        match packet {
            // [MQTT-3.1.0-1] the decoder refuses any other first packet.
            Some(Packet::Connect(connect)) => return Ok(connect),
            Some(_) => return Err(NoConnect::Io(ErrorKind::InvalidData.into())),
            None => {}
        }
        input.reserve(READ_SIZE.0);
        match transport.try_read(input) {
            Ok(0) => return Err(NoConnect::Io(ErrorKind::UnexpectedEof.into())),
            Ok(read) => server.metrics.bytes_read(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                transport.readable().await.map_err(NoConnect::Io)?;
            }
            Err(error) => return Err(NoConnect::Io(error)),
        }
    }
}

/// Sends the CONNACK of a refusal and closes. [MQTT-3.2.2-7]
async fn refuse(server: &Server, transport: &mut Transport, version: ProtocolVersion, connack: ConnAck) {
    let mut output = OutputBuffer::new(version);
    let packet = Packet::ConnAck(Box::new(connack));
    match output.push(&packet) {
        Ok(()) => {
            server.metrics.packet_sent(&packet);
            let before = output.len();
            finish(transport, &mut output).await;
            server.metrics.bytes_written(before.saturating_sub(output.len()));
        }
        // Version 3.1.1 has no code for it: closed without a word. [MQTT-3.2.2-6]
        Err(error) => tracing::debug!(%error, "the refusal has no CONNACK"),
    }
}

async fn reject(
    server: &Server,
    transport: &mut Transport,
    peer: SocketAddr,
    connect: &Connect,
    rejection: &Rejection,
) {
    server.metrics.connect_refused(rejection.reason_code);
    let user = audit::named(&server.directory.policy(), connect.username.as_deref());
    tracing::info!(
        %peer,
        client_id = connect.client_id.as_str(),
        username = user.as_ref().map_or("", |user| user.username.as_str()),
        reason = ?rejection.reason_code,
        "connection refused: {}", rejection.explanation
    );
    let mut connack = rejection.connack_for(connect); // [MQTT-3.2.2-19]
    // [MQTT-3.1.2-29] no Reason String for a client that does not want to know.
    if connect.properties.request_problem_information == Some(false) {
        connack.properties.reason_string = None;
    }
    refuse(server, transport, connect.version, connack).await;
}

/// Writes what is left and ends the stream, within [`FAREWELL`].
pub(super) async fn finish(transport: &mut Transport, output: &mut OutputBuffer) {
    let ended = timeout(FAREWELL, async {
        while !output.write(transport)? {
            transport.writable().await?;
        }
        transport.close();
        // What the peer still sends is read and dropped: closing over unread bytes would reset the connection, and
        // take from the peer what was just written.
        transport.end_of_output()?;
        let mut rest = BytesMut::new();
        loop {
            rest.clear();
            rest.reserve(READ_SIZE.0);
            match transport.try_read(&mut rest) {
                Ok(0) => return Ok::<_, io::Error>(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => drop(transport.readable().await?),
                Err(error) => return Err(error),
            }
        }
    });
    if let Ok(Err(error)) = ended.await {
        tracing::trace!(%error, "the peer was gone before its connection ended");
    }
}

//! The one connection loop: a socket on one side, a session on the other.
//!
//! Enters: a socket and whom it was admitted as. Leaves: nothing; the session lives on in the table if it is to. Everything
//! that decides or writes happens in [`Connection::turn`], under the session's gate, by the rules of that moment;
//! everything that waits happens outside of it. A connection never waits for another one. It lives on a worker; when its
//! peer is gone the worker does no more than hand it over, and it ends on an acceptor: ten thousand that end at once keep
//! nobody waiting who goes on.

use std::{
    future,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    sync::{Notify, watch},
    task,
    time::{self, Sleep},
};

use super::{
    Server,
    arrival::{Arrival, Counted, finish},
    departures::{self, Depart},
    link::{self, HIGH_WATER, Link},
    listener::Listener,
    login::{Admitted, Standing, no_room},
    registry::{self, Mouth},
    sessions::{Gate, SessionCell, UserPlace},
    transport::{Readable, Transport},
    workers::Worker,
};
use crate::{
    access::{Authority, PolicyVersion},
    authn::Identity,
    clock::Instant,
    metrics::ConnectionEnd,
    mqtt::{Connect, Packet, ReasonCode, codec::Decoder},
    session::{CloseReason, Context, EndCause, Output, Owner, Rejection, SessionKey, Terms, check_will},
};

/// Reads from the socket start with buffers of this size and grow with the traffic. Bytes.
pub(super) const READ_SIZE: (usize, usize) = (4 * 1024, 64 * 1024);

/// Packets that one turn handles at most, so that others on the same thread get theirs.
const TURN_PACKETS: usize = 256;

/// A connection that serves a session.
pub(super) struct Connection {
    server: Arc<Server>,
    number: u64,
    peer: SocketAddr,
    listener: Arc<Listener>,
    cell: Arc<SessionCell>,
    key: SessionKey,
    admitted: Admitted,
    authority: Authority,
    /// When its time is over, by the rules that were last seen, and with which code.
    until: Option<(Instant, ReasonCode)>,
    /// The policy that session and output buffer were last held against.
    rules_seen: PolicyVersion,
    transport: Transport,
    decoder: Decoder,
    input: BytesMut,
    read_size: usize,
    link: Link,
    mouth: Arc<Mouth>,
    /// Calls this connection: for deliveries, answers, changes of the rules, its end.
    wake: Arc<Notify>,
    open_requests: Arc<AtomicUsize>,
    _counted: Counted,
}

/// Connections whose workers are done with them.
pub(crate) type Departures = departures::Departures<Departing>;

/// A connection that ends, or of which nothing is left to do but what its peer left behind.
pub(crate) struct Departing {
    connection: Box<Connection>,
    shutdown: watch::Receiver<bool>,
}

/// Why a connection that was admitted serves no session after all.
pub(super) enum NotAttached {
    /// To be told why.
    Refused(Transport, Rejection),
    /// The system would not have it.
    Broken(io::Error),
}

/// Which part of its life a connection is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until its peer is gone, or it is over.
    Live,
    /// What its peer left behind is handled, then it is over.
    Leaving,
}

/// What the loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    /// Another turn without waiting for anything.
    again: bool,
    /// Wait for bytes from the peer.
    read: bool,
    /// Wait for room at the socket.
    write: bool,
    /// The turn that the session wants at this time.
    at: Option<Instant>,
}

impl Connection {
    /// Gives the connection its session, sends CONNACK, and moves its socket to `worker`.
    pub(super) fn attach(
        server: Arc<Server>,
        arrival: Arrival,
        connect: &Connect,
        admitted: Admitted,
        worker: &Worker,
    ) -> Result<Box<Self>, NotAttached> {
        let Arrival { number, peer, listener, mut transport, decoder, input, counted } = arrival;
        let key = admitted.key.clone();
        let user = match key.owner {
            Owner::User(user) => server.directory.policy().user(user).cloned(),
            Owner::Registration(_) => None,
        };
        let cell = match server.sessions.claim(&key, user.as_deref().and_then(|user| user.quota.as_deref())) {
            Ok(cell) => cell,
            Err(too_many) => return Err(NotAttached::Refused(transport, server.too_many_sessions(too_many))),
        };
        let mut gate = cell.claimed();
        // The rules may have moved since the login: this moment's count.
        let admission = rules_of_now(&server, &admitted, connect).and_then(|standing| {
            let most = standing.authority.quota().and_then(|quota| quota.connections);
            // One that takes its own session over is one connection before and after.
            let most = most.filter(|_| !gate.session.is_attached());
            match UserPlace::take(&cell.usage, most) {
                Some(place) => Ok((standing, place)),
                None => Err(server.too_many_connections()),
            }
        });
        let (Standing { authority, until }, place) = match admission {
            Ok(admission) => admission,
            Err(rejection) => {
                if gate.connection == 0 {
                    link::leave(&server, &cell, &mut gate);
                }
                return Err(NotAttached::Refused(transport, rejection));
            }
        };
        gate.identity = admitted.identity().cloned();
        let (mut link, wake) = (Link::new(connect.version), Arc::<Notify>::default());
        let cx = Context { authority: &authority, now: server.clock.instant(), settings: admitted.settings(&server) };
        if gate.session.is_attached() {
            // [MQTT-3.1.4-3] the older connection is told, and finds out at its next turn.
            let older = gate.connection;
            let mut farewell = Link::new(connect.version);
            gate.session.handle_end(EndCause::TakenOver, &cx);
            let last = last_packet(&server, &cell, &mut gate, &cx, &mut farewell);
            gate.farewells.extend(last.map(|packet| (older, packet)));
            gate.answers.clear();
            // While it is still the older one that reads.
            cell.mailbox.call();
            cell.mailbox.detach(|delivery| delivery.message.qos);
        }
        gate.connection = number;
        gate.place = Some(place);
        gate.ended = None;
        cell.mailbox.narrow(cx.authority.quota());
        server.sessions.set_deadline(&cell, &mut gate, None);
        if connect.clean_start {
            cell.mailbox.clear();
            gate.pending.clear();
            gate.backlog.clear();
        }
        cell.mailbox.attach(Arc::clone(&wake));
        gate.session.handle_connect(connect, &Terms { until, ..admitted.terms }, &cx);
        Link::settle(&server, &cell, &mut gate, &cx, Some(&mut link));
        // At once: whatever ends the connection before its first turn must find CONNACK written. [MQTT-3.2.0-1]
        let before = link.output.len();
        if let Err(error) = link.output.write(&mut transport) {
            tracing::debug!(%peer, %error, "the connection broke before its CONNACK");
            gate.ended = Some(EndCause::ConnectionLost);
        }
        server.metrics.bytes_written(before - link.output.len());
        let transport = match transport.move_to(worker) {
            Ok(transport) => transport,
            Err(error) => {
                gate.session.handle_end(EndCause::ConnectionLost, &cx);
                Link::settle(&server, &cell, &mut gate, &cx, None);
                link::leave(&server, &cell, &mut gate);
                return Err(NotAttached::Broken(error));
            }
        };
        drop(gate);
        if let Owner::User(user) = key.owner {
            server.directory.seen(user, peer.ip().into());
            registry::confirm(&server, &admitted, user);
        }
        Ok(Box::new(Self {
            number,
            peer,
            listener,
            key,
            admitted,
            rules_seen: authority.version(),
            authority,
            until,
            transport,
            decoder,
            input,
            read_size: READ_SIZE.0,
            link,
            mouth: Mouth::new(&cell, number),
            wake,
            open_requests: Arc::default(),
            cell,
            server,
            _counted: counted,
        }))
    }

    /// Serves the session until the connection is over.
    pub(super) async fn run(mut self: Box<Self>, mut shutdown: watch::Receiver<bool>) {
        // The thread is new to the socket: only after a look at it does it know that the socket takes bytes, the DISCONNECT of
        // a first turn that finds the rules changed included.
        task::yield_now().await;
        self.serve(Stage::Live, &mut shutdown).await;
        if self.link.closing.is_some_and(is_abortive) {
            // Nothing may pass any more: not left to those who may be busy.
            return self.farewell().await;
        }
        let server = Arc::clone(&self.server);
        server.departures.push(self.number, Departing { connection: self, shutdown });
    }

    async fn serve(&mut self, stage: Stage, shutdown: &mut watch::Receiver<bool>) {
        let mut timer = Box::pin(time::sleep(Duration::from_secs(0)));
        let mut armed: Option<Instant> = None;
        let mut stopping = false;
        let mut try_read = true;
        // Nothing is left in the socket or in the TLS session that readiness would not announce.
        let mut drained = true;
        loop {
            // Not left to the wait below, which a peer that never stops sending would never reach.
            if !stopping && shutdown.has_changed().unwrap_or(true) {
                stopping = true;
                self.end(EndCause::Shutdown);
            }
            if try_read {
                drained = match self.read() {
                    Ok(drained) => drained,
                    Err(cause) => {
                        self.end(cause);
                        if stage == Stage::Live {
                            return;
                        }
                        true
                    }
                };
            }
            let next = match self.turn() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "the connection broke");
                    return self.end(EndCause::ConnectionLost);
                }
            };
            self.ask_registry();
            if next.again || (next.read && !drained) {
                try_read = next.read;
                task::yield_now().await;
                continue;
            }
            if self.input.is_empty() {
                // An idle connection holds no buffer.
                self.input = BytesMut::new();
            }
            arm(&mut timer, &mut armed, next.at, self.server.clock.instant());
            try_read = false;
            tokio::select! {
                biased;
                ready = self.transport.readable(), if next.read => match ready {
                    // Not even looked at here: what it sent last is read where it departs.
                    Ok(Readable::ToTheEnd) if stage == Stage::Live => return,
                    Ok(_) => try_read = true,
                    Err(_) => self.end(EndCause::ConnectionLost),
                },
                ready = self.transport.writable(), if next.write => {
                    // Nothing is read before the turn has found that there is room: a peer that takes little at a time
                    // would fill the input buffer meanwhile. What was left unread is known (`drained`).
                    if ready.is_err() {
                        self.end(EndCause::ConnectionLost);
                    }
                }
                () = self.wake.notified() => {}
                () = elapsed(&mut timer, armed) => armed = None,
                _ = shutdown.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.end(EndCause::Shutdown);
                }
            }
        }
    }

    /// Reads what has arrived, up to a full buffer; says whether that was all. An error is the cause for which the
    /// connection ends.
    fn read(&mut self) -> Result<bool, EndCause> {
        let mut budget = READ_SIZE.1;
        while budget > 0 {
            self.input.reserve(self.read_size);
            match self.transport.try_read(&mut self.input) {
                Ok(0) => return Err(EndCause::ConnectionLost),
                Ok(read) => {
                    self.server.metrics.bytes_read(read);
                    budget = budget.saturating_sub(read);
                    if read >= self.read_size {
                        self.read_size = (self.read_size * 2).min(READ_SIZE.1);
                    } else if read < self.read_size / 4 {
                        self.read_size = (self.read_size / 2).max(READ_SIZE.0);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "reading failed");
                    return Err(EndCause::ConnectionLost);
                }
            }
        }
        Ok(false)
    }

    /// Tells the session, at the next turn, that its connection ends.
    fn end(&mut self, cause: EndCause) {
        let mut gate = self.cell.gate();
        if gate.connection == self.number {
            gate.ended.get_or_insert(cause);
        }
    }

    /// One turn under the gate: rules, packets, timeouts, answers, ends, deliveries, one write. `None`: it is over.
    fn turn(&mut self) -> io::Result<Option<Next>> {
        let cell = Arc::clone(&self.cell);
        let server = Arc::clone(&self.server);
        let mut gate = cell.gate();
        if gate.connection != self.number {
            self.lost_session(&mut gate);
            return Ok(None);
        }
        self.follow_rules(&mut gate);
        let now = server.clock.instant();
        let lapsed = self.has_lapsed(now);
        if lapsed {
            // The certificate or the user has ended. For its user the clock makes a commit of that, for which this does not
            // wait: nothing it sent counts, its Will included.
            self.authority = Authority::none(self.rules_seen);
        }
        let cx = Context { authority: &self.authority, now, settings: self.admitted.settings(&server) };
        let link = &mut self.link;

        if lapsed && !gate.ended.is_some_and(ends_identity) {
            // Whatever else ends it: nothing that was meant for it goes out.
            link.output.abandon();
            gate.session.handle_timeout(&cx);
            Link::settle(&server, &cell, &mut gate, &cx, Some(link));
        }
        let mut more_input = false;
        if gate.ended.is_none_or(|cause| cause == EndCause::ConnectionLost) {
            more_input = handle_input(&server, &cell, &mut gate, &cx, link, &mut self.decoder, &mut self.input);
            gate.session.handle_pause();
        }
        // After the input: a packet that came in time counts, however late a busy machine looks at it.
        if link.closing.is_none() && gate.ended.is_none() && gate.session.poll_timeout().is_some_and(|at| at <= cx.now)
        {
            gate.session.handle_timeout(&cx);
            Link::settle(&server, &cell, &mut gate, &cx, Some(link));
        }
        while link.closing.is_none() && gate.ended.is_none() {
            let Some(answer) = gate.answers.pop_front() else { break };
            registry::tell(&server, &mut gate, answer, &cx);
            Link::settle(&server, &cell, &mut gate, &cx, Some(link));
        }
        // What came before the end of the stream is handled first: a DISCONNECT, above all.
        let room = link.output.len() < HIGH_WATER;
        let unread = more_input && room && gate.ended == Some(EndCause::ConnectionLost);
        if link.closing.is_none()
            && !unread
            && let Some(cause) = gate.ended.take()
        {
            if ends_identity(cause) {
                // Nothing that was meant for the user goes out any more.
                link.output.abandon();
            }
            gate.session.handle_end(cause, &cx);
            Link::settle(&server, &cell, &mut gate, &cx, Some(link));
            link.closing.get_or_insert(CloseReason::Ended(cause));
        }
        let more_deliveries = link.deliver(&server, &cell, &mut gate, &cx);
        let before = link.output.len();
        // Ciphertext that waits for the socket was meant for the user: the connection ends without a word then.
        let mute = link.closing.is_some_and(is_abortive) && self.transport.wants_write();
        let written = mute || link.output.write(&mut self.transport)?;
        server.metrics.bytes_written(before - link.output.len());
        if link.closing.is_some() {
            // Detached by the session itself: what it leaves is settled while the gate is held.
            if gate.session.is_attached() {
                gate.session.handle_end(EndCause::ConnectionLost, &cx);
                Link::settle(&server, &cell, &mut gate, &cx, Some(link));
            }
            link::leave(&server, &cell, &mut gate);
            return Ok(None);
        }
        let blocked = link.output.len() >= HIGH_WATER;
        let may_read = !blocked && gate.session.can_receive();
        Ok(Some(Next {
            again: unread || (may_read && more_input) || (more_deliveries && written),
            read: may_read,
            write: !written,
            at: gate.session.poll_timeout(),
        }))
    }

    /// Is the time of its certificate or of its user over? What a registration session has is not an identity: what it sent
    /// in its time counts.
    fn has_lapsed(&self, now: Instant) -> bool {
        self.admitted.identity().is_some() && self.until.is_some_and(|(until, _)| until <= now)
    }

    /// Another connection has the session now.
    fn lost_session(&mut self, gate: &mut Gate) {
        self.link.output.abandon();
        if let Some(place) = gate.farewells.iter().position(|(number, _)| *number == self.number)
            && let Err(error) = self.link.output.push(&gate.farewells.swap_remove(place).1)
        {
            tracing::error!(%error, "a packet of the broker cannot be encoded");
        }
        self.link.closing = Some(CloseReason::Ended(EndCause::TakenOver));
    }

    /// Brings session and output buffer up to the current rules. After this, nothing that they forbid is written.
    fn follow_rules(&mut self, gate: &mut Gate) {
        if self.server.directory.version() == self.rules_seen {
            return;
        }
        let policy = self.server.directory.policy();
        self.rules_seen = policy.version();
        let now = (self.server.clock.instant(), self.server.clock.timestamp());
        if let Some(Standing { authority, until }) = self.admitted.standing(Some(&self.authority), &policy, now) {
            if authority.is_same_as(&self.authority) {
                // Somebody else's rules changed.
                return;
            }
            self.authority = authority;
            self.until = until;
            gate.session.handle_terms(until);
            self.cell.mailbox.narrow(self.authority.quota());
        } else {
            self.authority = Authority::none(policy.version());
            let gone = matches!(self.key.owner, Owner::User(user) if policy.user(user).is_none());
            gate.ended = Some(if gone {
                EndCause::Purged(ReasonCode::NotAuthorized)
            } else {
                EndCause::Kicked(ReasonCode::NotAuthorized)
            });
        }
        let cx = Context {
            authority: &self.authority,
            now: self.server.clock.instant(),
            settings: self.admitted.settings(&self.server),
        };
        gate.session.handle_policy(&cx);
        let mut undelivered = Vec::new();
        let recalled =
            self.link.output.retain(|outgoing| gate.session.may_still_send(outgoing, &cx), |id| undelivered.push(id));
        if !recalled {
            // A record with what is now forbidden lies between the broker and the socket: it must not go out, and nothing
            // can go out without it.
            gate.ended.get_or_insert(EndCause::Kicked(ReasonCode::NotAuthorized));
        }
        for packet_id in undelivered {
            gate.session.handle_undelivered(packet_id, &cx);
        }
        Link::settle(&self.server, &self.cell, gate, &cx, Some(&mut self.link));
    }

    /// Puts the session's questions to the registry.
    fn ask_registry(&mut self) {
        if self.link.requests.is_empty() {
            return;
        }
        let now = self.server.clock.instant();
        for request in &self.link.requests {
            self.admitted.asks(request.operation, now);
        }
        let asker = registry::Asker {
            server: Arc::clone(&self.server),
            mouth: Arc::clone(&self.mouth),
            connection: self.number,
            caller: self.admitted.caller(&self.server.directory.policy()),
            guest: self.admitted.identity().is_some_and(Identity::is_guest),
            operator: self.admitted.operator(),
            source: self.peer.ip(),
            listener: self.listener.name.as_str().into(),
            open: Arc::clone(&self.open_requests),
        };
        asker.ask_all(self.link.requests.drain(..));
    }

    async fn farewell(&mut self) {
        let reason = self.link.closing.unwrap_or(CloseReason::Ended(EndCause::ConnectionLost));
        self.server.metrics.connections_ended.inc(connection_end(reason));
        tracing::debug!(peer = %self.peer, client_id = self.key.client_id.as_str(), ?reason, "connection ended");
        match reason {
            CloseReason::Ended(EndCause::ConnectionLost) => {}
            reason if is_abortive(reason) => {
                // DISCONNECT was tried in the last turn; now nothing more may pass, in either direction.
                self.transport.abort();
            }
            _ => finish(&mut self.transport, &mut self.link.output).await,
        }
    }
}

impl Depart for Departing {
    async fn depart(self) {
        let Self { mut connection, mut shutdown } = self;
        if connection.link.closing.is_none() {
            connection.serve(Stage::Leaving, &mut shutdown).await;
        }
        connection.farewell().await;
    }
}

impl Drop for Connection {
    /// However the task ends, the session does not stay attached to a connection that is gone.
    fn drop(&mut self) {
        let mut gate = self.cell.gate();
        if gate.connection != self.number {
            return;
        }
        let cx = Context {
            authority: &self.authority,
            now: self.server.clock.instant(),
            settings: self.admitted.settings(&self.server),
        };
        gate.session.handle_end(EndCause::ConnectionLost, &cx);
        Link::settle(&self.server, &self.cell, &mut gate, &cx, None);
        link::leave(&self.server, &self.cell, &mut gate);
    }
}

/// What the client may do at this moment, if that admits the CONNECT and its Will.
fn rules_of_now(server: &Server, admitted: &Admitted, connect: &Connect) -> Result<Standing, Rejection> {
    if !admitted.has_room() {
        return Err(no_room());
    }
    let policy = server.directory.policy();
    let now = (server.clock.instant(), server.clock.timestamp());
    let standing = admitted.standing(None, &policy, now).ok_or(Rejection {
        reason_code: ReasonCode::NotAuthorized,
        explanation: "this user may not connect".into(),
        refusal: None,
    })?;
    check_will(connect, admitted.key.owner, &standing.authority, admitted.settings(server))?;
    Ok(standing)
}

/// Decodes and handles what has arrived. Says whether complete packets may still be waiting.
fn handle_input(
    server: &Server,
    cell: &Arc<SessionCell>,
    gate: &mut Gate,
    cx: &Context<'_>,
    link: &mut Link,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> bool {
    for _ in 0..TURN_PACKETS {
        if link.closing.is_some() {
            return false;
        }
        if link.output.len() >= HIGH_WATER || !gate.session.can_receive() {
            return !input.is_empty();
        }
        match decoder.decode(input) {
            Ok(Some(packet)) => {
                server.metrics.packet_received(&packet);
                gate.session.handle_packet(packet, cx);
            }
            Ok(None) => return false,
            Err(error) => {
                server.metrics.malformed(error.reason_code);
                tracing::debug!(client_id = gate.session.key().client_id.as_str(), %error, "malformed packet");
                gate.session.handle_end(EndCause::Malformed(error.reason_code), cx);
            }
        }
        Link::settle(server, cell, gate, cx, Some(link));
    }
    true
}

/// Settles the end of a connection that another one replaces; gives its DISCONNECT, if it gets one.
fn last_packet(
    server: &Server,
    cell: &Arc<SessionCell>,
    gate: &mut Gate,
    cx: &Context<'_>,
    link: &mut Link,
) -> Option<Packet> {
    let mut last = None;
    while let Some(output) = gate.session.poll_output() {
        match output {
            Output::Send(packet) => last = Some(packet),
            other => Link::perform(server, cell, gate, cx, Some(link), other),
        }
    }
    last
}

/// Does the identity end, so that no byte may pass any more?
fn is_abortive(reason: CloseReason) -> bool {
    match reason {
        CloseReason::Ended(cause) => ends_identity(cause),
        reason => matches!(reason, CloseReason::TimeIsUp(ReasonCode::NotAuthorized)),
    }
}

fn ends_identity(cause: EndCause) -> bool {
    matches!(cause, EndCause::Kicked(_) | EndCause::Purged(_))
}

/// Why it ended, in the words of the metrics.
fn connection_end(reason: CloseReason) -> ConnectionEnd {
    match reason {
        CloseReason::Client => ConnectionEnd::Client,
        CloseReason::KeepAliveTimeout => ConnectionEnd::KeepAlive,
        CloseReason::TimeIsUp(_) => ConnectionEnd::Expired,
        CloseReason::Protocol(..) | CloseReason::Ended(EndCause::Malformed(_)) => ConnectionEnd::Protocol,
        CloseReason::PublishDenied => ConnectionEnd::PublishRefused,
        CloseReason::PacketTooLargeForClient => ConnectionEnd::PacketTooLarge,
        CloseReason::PublishFailed(_) => ConnectionEnd::Other,
        CloseReason::Ended(cause) => match cause {
            EndCause::ConnectionLost => ConnectionEnd::Lost,
            // Of a registration session, for somebody else.
            EndCause::Kicked(ReasonCode::ServerBusy) => ConnectionEnd::Other,
            EndCause::TakenOver => ConnectionEnd::TakenOver,
            EndCause::Shutdown => ConnectionEnd::ShuttingDown,
            EndCause::Kicked(ReasonCode::AdministrativeAction) | EndCause::Purged(ReasonCode::AdministrativeAction) => {
                ConnectionEnd::Operator
            }
            _ => ConnectionEnd::Access,
        },
    }
}

/// Sets the timer to the time that the session wants, unless it will ring early enough to look again.
fn arm(timer: &mut Pin<Box<Sleep>>, armed: &mut Option<Instant>, at: Option<Instant>, now: Instant) {
    match (at, *armed) {
        (None, _) => *armed = None,
        (Some(at), Some(set)) if set <= at => {}
        (Some(at), _) => {
            timer.as_mut().reset(time::Instant::now() + at.saturating_duration_since(now));
            *armed = Some(at);
        }
    }
}

async fn elapsed(timer: &mut Pin<Box<Sleep>>, armed: Option<Instant>) {
    match armed {
        Some(_) => timer.as_mut().await,
        None => future::pending().await,
    }
}

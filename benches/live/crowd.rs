//! Many clients on one thread, each with a record of when its socket was seen empty.
//!
//! In: roles, messages to publish, readiness. Out: every message that comes, with the last moment at which its socket
//! held nothing: a message was handed to the kernel after that moment. This is what lets the checker say "after the
//! answer" without a doubt. It judges nothing itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;

use crate::clock::now;
use crate::link::{Arrived, Link, Scratch};
use crate::words::{self, Packet};

/// How many connections [`Crowd::connect_all`] makes at a time.
const CONNECTING: usize = 64;
/// A publisher's buffer is not filled beyond this.
const BUFFER: usize = 256 * 1024;
/// Bytes of a payload: when it was sent, and its number.
pub(crate) const PAYLOAD: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    Subscribing,
    Ready,
    Closed,
}

/// What a client says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) client_id: String,
    /// `None`: a certificate says it all.
    pub(crate) login: Option<(String, String)>,
    pub(crate) subscribe: Vec<String>,
    pub(crate) v5: bool,
    pub(crate) clean: bool,
    /// The address that it connects from; the system's choice when `None`.
    pub(crate) source: Option<SocketAddr>,
    /// Where TLS is spoken, and how; plain when `None`.
    pub(crate) tls: Option<(SocketAddr, Arc<ClientConfig>)>,
}

impl Role {
    pub(crate) fn new(name: &str, password: &str) -> Self {
        Self {
            client_id: name.to_owned(),
            login: Some((name.to_owned(), password.to_owned())),
            subscribe: Vec::new(),
            v5: false,
            clean: true,
            source: None,
            tls: None,
        }
    }
}

pub(crate) struct Client {
    link: Link,
    pub(crate) state: State,
    v5: bool,
    partial: Vec<u8>,
    subscribe: Vec<String>,
    /// CONNACK's code, once it is here.
    pub(crate) connack: Option<u8>,
    /// DISCONNECT's reason code, if the broker sent one.
    pub(crate) disconnect: Option<u8>,
    /// The last moment (ns) at which the socket was known to be empty.
    pub(crate) empty_at: u64,
    /// When the last byte, and when the end of the stream, was read (ns).
    pub(crate) last_byte_at: u64,
    pub(crate) closed_at: u64,
    pub(crate) opened_at: u64,
    pub(crate) ready_at: u64,
}

/// A message that came.
pub(crate) struct Seen<'a> {
    pub(crate) client: usize,
    pub(crate) topic: &'a [u8],
    /// When it was published, or was due (ns).
    pub(crate) sent: u64,
    pub(crate) number: u64,
    /// The message was handed to the kernel after this moment (ns), and before `now`.
    pub(crate) empty_at: u64,
    pub(crate) now: u64,
}

pub(crate) struct Crowd {
    poll: Poll,
    address: SocketAddr,
    pub(crate) clients: Vec<Client>,
    scratch: Scratch,
    /// Connections that ended without being asked to.
    pub(crate) closed: usize,
    pub(crate) malformed: usize,
}

impl Crowd {
    pub(crate) fn new(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, address, clients: Vec::new(), scratch: Scratch::new(), closed: 0, malformed: 0 })
    }

    /// Starts to connect; answers the place of the client. `place`: one that is free.
    pub(crate) fn open(&mut self, role: &Role, place: Option<usize>) -> io::Result<usize> {
        let index = place.unwrap_or(self.clients.len());
        let mut link = match &role.tls {
            None => Link::open(self.address, role.source, None)?,
            Some((address, config)) => Link::open(*address, role.source, Some(config))?,
        };
        let login = role.login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        self.poll.registry().register(&mut link.stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        words::connect(&mut link.out, role.v5, &role.client_id, login, role.clean);
        let client = Client {
            link,
            state: State::Connecting,
            v5: role.v5,
            partial: Vec::new(),
            subscribe: role.subscribe.clone(),
            connack: None,
            disconnect: None,
            empty_at: 0,
            last_byte_at: 0,
            closed_at: 0,
            opened_at: now(),
            ready_at: 0,
        };
        match self.clients.get_mut(index) {
            Some(old) => *old = client,
            None => self.clients.push(client),
        }
        Ok(index)
    }

    /// Connects and subscribes all of them, and waits until they are ready. Answers the places, in order.
    pub(crate) fn connect_all(&mut self, roles: &[Role], patience: Duration) -> Result<Vec<usize>, String> {
        let first = self.clients.len();
        let (mut opened, mut ready) = (0, 0);
        let started = now();
        while ready < roles.len() {
            while opened - ready < CONNECTING && opened < roles.len() {
                self.open(&roles[opened], None).map_err(|error| format!("cannot connect: {error}"))?;
                opened += 1;
            }
            self.turn(Duration::from_millis(50), &mut |_| {})?;
            while self.clients.get(first + ready).is_some_and(|client| client.state == State::Ready) {
                ready += 1;
            }
            if let Some(client) = self.clients.get(first + ready)
                && client.state == State::Closed
            {
                let name = &roles[ready].client_id;
                return Err(format!("`{name}` was refused: CONNACK {:?}", client.connack));
            }
            if now() - started > patience.as_nanos() as u64 {
                return Err(format!("only {ready} of {} clients were ready after {patience:?}", roles.len()));
            }
        }
        Ok((first..first + ready).collect())
    }

    /// Waits for readiness and handles it.
    pub(crate) fn turn(&mut self, patience: Duration, seen: &mut dyn FnMut(&Seen<'_>)) -> Result<(), String> {
        let mut events = Events::with_capacity(4096);
        match self.poll.poll(&mut events, Some(patience)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(format!("poll: {error}")),
        }
        for event in &events {
            self.serve(event.token().0, seen);
        }
        Ok(())
    }

    /// Reads until the socket is empty, and writes what it takes.
    pub(crate) fn serve(&mut self, index: usize, seen: &mut dyn FnMut(&Seen<'_>)) {
        let Some(client) = self.clients.get_mut(index) else { return };
        let mut ended = client.state == State::Closed;
        while !ended {
            let before = now();
            match client.link.read(&mut self.scratch) {
                Ok(Arrived::Bytes(count)) => {
                    client.last_byte_at = now();
                    let bytes = self.scratch.plain.get(..count).unwrap_or_default();
                    if client.receive(index, bytes, seen).is_err() {
                        self.malformed += 1;
                        ended = true;
                    }
                }
                Ok(Arrived::Blocked) => {
                    client.empty_at = before;
                    ended = client.link.flush().is_err();
                    break;
                }
                Ok(Arrived::End) | Err(_) => ended = true,
            }
        }
        if ended && client.state != State::Closed {
            client.closed_at = now();
            self.closed += 1;
            self.close(index);
        }
    }

    /// Ends a connection without a word.
    pub(crate) fn close(&mut self, index: usize) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.state = State::Closed;
        // Both fail only for a socket that is gone already.
        let _gone = self.poll.registry().deregister(&mut client.link.stream);
        let _gone = client.link.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Clients whose TLS session is an earlier one resumed.
    pub(crate) fn resumed(&self) -> usize {
        self.clients.iter().filter(|client| client.link.is_resumed()).count()
    }

    /// Publishes a message that was due at `due`. A client that is closed, or has too much to write, publishes nothing.
    pub(crate) fn publish(&mut self, index: usize, topic: &str, due: u64, number: u64) -> bool {
        let Some(client) = self.clients.get_mut(index) else { return false };
        if client.state != State::Ready || client.link.pending() > BUFFER {
            return false;
        }
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&due.to_be_bytes());
        payload[8..16].copy_from_slice(&number.to_be_bytes());
        words::publish(&mut client.link.out, client.v5, topic, &payload);
        client.link.flush().is_ok()
    }
}

impl Client {
    fn receive(
        &mut self,
        index: usize,
        bytes: &[u8],
        seen: &mut dyn FnMut(&Seen<'_>),
    ) -> Result<(), crate::wire::Malformed> {
        let mut buffer = std::mem::take(&mut self.partial);
        buffer.extend_from_slice(bytes);
        let mut rest: &[u8] = &buffer;
        while let Some((packet, length)) = words::decode(self.v5, rest)? {
            match packet {
                Packet::Connack { code } => {
                    self.connack = Some(code);
                    if code == 0 {
                        self.state = State::Subscribing;
                        self.next_subscription();
                    }
                }
                Packet::Suback { code } if code < 0x80 => self.next_subscription(),
                Packet::Suback { .. } => return Err(crate::wire::Malformed),
                Packet::Disconnect { code } => self.disconnect = Some(code),
                Packet::Publish { topic, payload } => {
                    let at = |from: usize| payload.get(from..).and_then(|rest| rest.first_chunk()).copied();
                    let (Some(sent), Some(number)) = (at(0), at(8)) else { return Err(crate::wire::Malformed) };
                    seen(&Seen {
                        client: index,
                        topic,
                        sent: u64::from_be_bytes(sent),
                        number: u64::from_be_bytes(number),
                        empty_at: self.empty_at,
                        now: self.last_byte_at,
                    });
                }
                Packet::Other => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        let left = rest.len();
        buffer.drain(..buffer.len() - left);
        self.partial = buffer;
        Ok(())
    }

    fn next_subscription(&mut self) {
        match self.subscribe.pop() {
            Some(filter) => words::subscribe(&mut self.link.out, self.v5, 1, &filter),
            None if self.state == State::Subscribing => {
                self.state = State::Ready;
                self.ready_at = now();
            }
            None => {}
        }
    }
}

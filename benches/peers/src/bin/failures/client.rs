//! A blocking MQTT 3.1.1 client that says exactly what it is told, right or wrong.
//!
//! In: packets or raw bytes. Out: packets, or a timeout. It acknowledges nothing by itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wire::{self, Ack, Incoming};

/// How long a broker is waited for where an answer is due.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Where to connect, and as whom.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub login: Option<(String, String)>,
}

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    consumed: usize,
}

/// An owned copy of what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Connack(u8),
    Publish { qos: u8, packet_identifier: u16, topic: Vec<u8>, payload: Vec<u8> },
    Ack(Ack, u16),
    Suback(Vec<u8>),
    Unsuback,
    Other,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Client {
    /// A connection on which nothing has been said.
    pub fn silent(door: &Door) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&door.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new(), consumed: 0 })
    }

    /// CONNECT and its CONNACK.
    pub fn connect(door: &Door, client_id: &str, clean_session: bool) -> io::Result<Self> {
        Self::connect_with(door, client_id, clean_session, 600)
    }

    pub fn connect_with(door: &Door, client_id: &str, clean_session: bool, keep_alive: u16) -> io::Result<Self> {
        let mut client = Self::silent(door)?;
        let mut out = Vec::new();
        let login = door.login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
        wire::connect(&mut out, wire::Connect { client_id, login, clean_session, keep_alive });
        client.send(&out)?;
        match client.receive(PATIENCE)? {
            Some(Packet::Connack(0)) => Ok(client),
            Some(other) => Err(io::Error::other(format!("CONNECT answered by {other:?}"))),
            None => Err(io::Error::other("no CONNACK")),
        }
    }

    /// An MQTT 5 CONNECT, Clean Start and without properties, and its CONNACK.
    pub fn connect5(door: &Door, client_id: &str) -> io::Result<Self> {
        let mut client = Self::silent(door)?;
        let mut fields: Vec<&str> = vec![client_id];
        if let Some((user, password)) = &door.login {
            fields.extend([user.as_str(), password.as_str()]);
        }
        let flags = if fields.len() > 1 { 0xC2 } else { 0x02 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, flags, 2, 88, 0];
        for field in fields {
            body.extend_from_slice(&u16::try_from(field.len()).map_err(io::Error::other)?.to_be_bytes());
            body.extend_from_slice(field.as_bytes());
        }
        let mut out = vec![0x10, u8::try_from(body.len()).map_err(io::Error::other)?];
        // One byte of length is enough for the short names that are used here.
        out.extend_from_slice(&body);
        client.send(&out)?;
        match client.receive(PATIENCE)? {
            Some(Packet::Connack(0)) => Ok(client),
            Some(other) => Err(io::Error::other(format!("CONNECT answered by {other:?}"))),
            None => Err(io::Error::other("no CONNACK")),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// SUBSCRIBE and the code that it is answered with.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<u8> {
        let mut out = Vec::new();
        wire::subscribe(&mut out, 1, filter, qos);
        self.send(&out)?;
        match self.receive(PATIENCE)? {
            Some(Packet::Suback(codes)) => Ok(codes.first().copied().unwrap_or(0x80)),
            other => Err(io::Error::other(format!("SUBSCRIBE answered by {other:?}"))),
        }
    }

    /// SUBSCRIBE to a topic on which messages may come before the SUBACK does.
    pub fn subscribe_busy(&mut self, filter: &str) -> io::Result<()> {
        let mut out = Vec::new();
        wire::subscribe(&mut out, 1, filter, 0);
        self.send(&out)?;
        self.expect(|packet| matches!(packet, Packet::Suback(_)), "SUBACK").map(drop)
    }

    pub fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut out = Vec::new();
        wire::unsubscribe(&mut out, 2, filter);
        self.send(&out)?;
        self.expect(|packet| *packet == Packet::Unsuback, "UNSUBACK").map(drop)
    }

    pub fn publish(&mut self, topic: &str, qos: u8, flags: u8, identifier: u16, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        wire::publish(&mut out, topic.as_bytes(), qos, flags, identifier, payload.len());
        out.extend_from_slice(payload);
        self.send(&out)
    }

    pub fn ack(&mut self, ack: Ack, identifier: u16) -> io::Result<()> {
        let mut out = Vec::new();
        wire::ack(&mut out, ack, identifier);
        self.send(&out)
    }

    pub fn disconnect(mut self) -> io::Result<()> {
        let mut out = Vec::new();
        wire::disconnect(&mut out);
        self.send(&out)
    }

    /// DISCONNECT, then reads on until the broker closes, or for so long.
    pub fn disconnect_and_wait(mut self, patience: Duration) -> io::Result<()> {
        let mut out = Vec::new();
        wire::disconnect(&mut out);
        self.send(&out)?;
        let until = Instant::now() + patience;
        while let Ok(Some(_)) = self.receive(until.saturating_duration_since(Instant::now())) {}
        Ok(())
    }

    /// The next packet; `None` when there is none in time; an error when the broker has closed.
    pub fn receive(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        let until = Instant::now() + patience;
        loop {
            let bytes = self.buffer.get(self.consumed..).unwrap_or_default();
            match wire::decode(bytes) {
                Err(wire::Malformed) => return Err(io::Error::other("malformed packet")),
                Ok(Some((packet, length))) => {
                    let packet = owned(&packet);
                    self.consumed += length;
                    return Ok(Some(packet));
                }
                Ok(None) => {}
            }
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the broker")),
                Ok(count) => self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for one certain packet and passes over others.
    pub fn expect(&mut self, wanted: impl Fn(&Packet) -> bool, what: &str) -> io::Result<Packet> {
        let until = Instant::now() + PATIENCE;
        while let Some(packet) = self.receive(until.saturating_duration_since(Instant::now()))? {
            if wanted(&packet) {
                return Ok(packet);
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, format!("no {what}")))
    }
}

fn owned(packet: &Incoming<'_>) -> Packet {
    match *packet {
        Incoming::Connack { code } => Packet::Connack(code),
        Incoming::Publish { qos, packet_identifier, topic, payload, .. } => {
            Packet::Publish { qos, packet_identifier, topic: topic.to_vec(), payload: payload.to_vec() }
        }
        Incoming::Ack(ack, identifier) => Packet::Ack(ack, identifier),
        Incoming::Suback { codes, .. } => Packet::Suback(codes.to_vec()),
        Incoming::Unsuback => Packet::Unsuback,
        Incoming::Pingresp => Packet::Other,
    }
}

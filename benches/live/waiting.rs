//! Messages that wait when the right to them goes: for a reader that is slow, and for one that is away.
//!
//! One message after another is published to clients that do not read, or are not connected; the right goes; when the
//! answer is there, they read, or come back. How many of the messages do they get? What the kernel holds of a slow
//! reader's messages cannot be taken back by anybody: its share is bounded by the socket buffers, some megabytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::brokers::{Broker, Cost, Person, Plan, Programs, Rights, Subject};
use crate::table::align;
use crate::wire::{self, Ack, Incoming};
use crate::words;

const READER: Rights = ("reader", &["shut/#"], &[]);
/// The same, for those who keep it.
const KEEPER: Rights = ("keeper", &["shut/#"], &[]);
const WRITER: Rights = ("writer", &[], &["shut/#"]);
/// Bytes of one message.
const LARGE: usize = 20_000;

pub(crate) struct Sizes {
    pub(crate) clients: usize,
    pub(crate) large: u32,
    pub(crate) queued: u32,
}

/// A client that waits for what it wants to hear, and for nothing else.
struct Plain {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// PUBLISH packets that came.
    messages: u64,
}

impl Plain {
    fn connect(to: SocketAddr, person: &Person, clean: bool, filter: Option<&str>) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // The smallest there is.
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&to.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(700)))?;
        let mut client = Self { stream, buffer: Vec::new(), messages: 0 };
        let mut out = Vec::new();
        words::connect(&mut out, false, &person.name, Some((&person.name, &person.password)), clean);
        if let Some(filter) = filter {
            wire::subscribe(&mut out, 1, filter, 1);
        }
        client.stream.write_all(&out)?;
        let mut answers = 0;
        while answers < 1 + usize::from(filter.is_some()) {
            answers += client.read()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        }
        Ok(client)
    }

    /// Reads once; answers how many packets that made, or `None` at the end and after a silence.
    fn read(&mut self) -> std::io::Result<Option<usize>> {
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::ConnectionReset) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let (mut used, mut packets, mut out) = (0, 0, Vec::new());
        while let Ok(Some((packet, length))) = wire::decode(&self.buffer[used..]) {
            if let Incoming::Publish { qos: 1, packet_identifier, .. } = packet {
                wire::ack(&mut out, Ack::Puback, packet_identifier);
                self.messages += 1;
            }
            packets += 1;
            used += length;
        }
        self.buffer.drain(..used);
        self.stream.write_all(&out)?;
        Ok(Some(packets))
    }

    /// How many messages have come when there is silence.
    fn count(&mut self) -> std::io::Result<u64> {
        while self.read()?.is_some() {}
        Ok(self.messages)
    }

    /// Publishes at QoS 1 and waits for each acknowledgement: the broker has it.
    fn publish(&mut self, topic: &str, payload: &[u8]) -> std::io::Result<()> {
        let mut out = Vec::new();
        wire::publish(&mut out, topic.as_bytes(), 1, 0, 1, payload.len());
        out.extend_from_slice(payload);
        self.stream.write_all(&out)?;
        while self.read()?.ok_or(std::io::ErrorKind::UnexpectedEof)? == 0 {}
        Ok(())
    }
}

/// Messages that came after the answer: to the slow ones, to the absent ones, and to absent ones who kept the right.
fn story(subject: Subject, programs: &Programs, sizes: &Sizes) -> Result<[u64; 3], String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut people: Vec<Person> =
        (0..2 * sizes.clients).map(|number| Person::new(format!("reader-{number}"), &["reader"])).collect();
    people.extend((0..sizes.clients).map(|number| Person::new(format!("keeper-{number}"), &["keeper"])));
    people.push(Person::new("writer-1".to_owned(), &["writer"]));
    let plan = Plan { programs, cost: Cost::Least, roles: &[READER, KEEPER, WRITER], people: &people };
    let Broker { mut process, address, mut admin, .. } = plan.start(subject)?;
    let mut writer = Plain::connect(address, &people[3 * sizes.clients], true, None).map_err(failed)?;
    writer.stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(failed)?;
    let (slow, absent) = people[..3 * sizes.clients].split_at(sizes.clients);
    let mut readers = Vec::new();
    for person in slow {
        readers.push(Plain::connect(address, person, true, Some("shut/large")).map_err(failed)?);
    }
    for person in absent {
        let mut client = Plain::connect(address, person, false, Some("shut/small")).map_err(failed)?;
        let mut out = Vec::new();
        wire::disconnect(&mut out);
        client.stream.write_all(&out).map_err(failed)?;
        client.count().map_err(failed)?;
    }
    for number in 0..sizes.large.max(sizes.queued) {
        if number < sizes.large {
            writer.publish("shut/large", &vec![b'x'; LARGE]).map_err(failed)?;
        }
        if number < sizes.queued {
            writer.publish("shut/small", b"x").map_err(failed)?;
        }
    }
    admin.revoke(&READER)?;
    let mut late = 0;
    for mut reader in readers {
        late += reader.count().map_err(failed)?;
    }
    let mut queued = [0; 2];
    for (number, person) in absent.iter().enumerate() {
        queued[number / sizes.clients] +=
            Plain::connect(address, person, false, None).and_then(|mut client| client.count()).map_err(failed)?;
    }
    match process.ended() {
        None => Ok([late, queued[0], queued[1]]),
        Some(status) => Err(format!("the broker ended, {status}: {}", process.last_words())),
    }
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, sizes: &Sizes) {
    let Sizes { clients, large, queued } = sizes;
    println!(
        "waiting: {clients} clients that do not read, {large} messages of {LARGE} bytes for each; {clients} clients that \
         are away, {queued} messages for each (QoS 1); then the right goes\n"
    );
    let mut rows = vec![
        ["", "slow: forbidden messages each", "away: forbidden messages each", "away, right kept: messages each", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for &subject in subjects {
        let cells = match story(subject, programs, sizes) {
            Ok(counts) => counts.map(|count| format!("{:.1}", count as f64 / *clients as f64)),
            Err(error) => {
                println!("{}: {error}\n", subject.name());
                continue;
            }
        };
        let [late, away, kept] = cells;
        rows.push(vec![subject.name().to_owned(), late, away, kept, String::new()]);
    }
    println!("{}", align(&rows));
}

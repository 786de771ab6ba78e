//! The event loop: many clients on one thread, and the pace at which they publish.
//!
//! In: an address, roles, a pace. Out: counts of what was sent, what came, and when. It never waits for one client
//! while another has something to do, and bounds what is on its way unless it is told not to.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use crate::client::{Client, Role, State, Tally};
use crate::figures::Histogram;
use crate::link::{Arrived, Link, Scratch};

const WAKER: Token = Token(usize::MAX);
/// Reads of one connection in one turn: the others wait no longer than that.
const READS: usize = 8;
/// How many connections are being made at a time. Below the backlog that any listener has.
const CONNECTING: usize = 64;

/// Where to, and how.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) qos: u8,
    pub(crate) window: u16,
}

/// How fast to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// As fast as what is sent comes back: at most so many deliveries are on their way; `None` is no bound.
    Closed { outstanding: Option<u64> },
    /// So many messages per second from all publishers together, by the clock, whatever comes back.
    Open { rate: f64 },
}

/// What a run brought besides the tally.
pub(crate) struct Outcome {
    /// Seconds in which messages were published.
    pub(crate) publishing: f64,
    /// Seconds from the first PUBLISH to the last delivery.
    pub(crate) delivering: f64,
    /// How many times nothing came for so long that what was outstanding was given up.
    pub(crate) given_up: u64,
    /// Open loop: how late messages were handed to the socket.
    pub(crate) lateness: Histogram,
}

pub(crate) struct Fleet {
    poll: Poll,
    epoch: Instant,
    target: Target,
    pub(crate) clients: Vec<Client>,
    vacant: Vec<usize>,
    /// Clients that had more to read when their turn ended.
    again: Vec<usize>,
    scratch: Scratch,
    pub(crate) tally: Tally,
    /// Without any progress for so long (four times as long after the last PUBLISH), what is on its way is given up.
    pub(crate) patience: Duration,
}

impl Fleet {
    pub(crate) fn new(target: Target) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            epoch: Instant::now(),
            target,
            clients: Vec::new(),
            vacant: Vec::new(),
            again: Vec::new(),
            scratch: Scratch::new(),
            tally: Tally::new(),
            patience: Duration::from_millis(500),
        })
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Starts to connect one client, in a place that was given back if there is one. Answers its place.
    pub(crate) fn open(&mut self, role: Role) -> io::Result<usize> {
        let vacant = self.vacant.pop();
        let index = vacant.unwrap_or(self.clients.len());
        let octet = (index / 20_000 + 1) as u8;
        let source = (index >= 20_000).then(|| SocketAddr::from((Ipv4Addr::new(127, 0, 0, octet), 0)));
        let mut link = Link::open(self.target.address, source, self.target.tls.as_ref())?;
        self.poll.registry().register(&mut link.stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let client = Client::new(link, role, self.target.qos, self.target.window);
        if vacant.is_some() {
            self.clients[index] = client;
        } else {
            self.clients.push(client);
        }
        Ok(index)
    }

    /// Gives back the place of a client that is closed.
    pub(crate) fn release(&mut self, index: usize) {
        self.vacant.push(index);
    }

    /// Connects and subscribes all of them.
    pub(crate) fn connect_all(&mut self, roles: Vec<Role>, patience: Duration) -> Result<(), String> {
        let wanted = roles.len();
        let mut roles = roles.into_iter();
        let started = Instant::now();
        let mut ready = 0;
        let mut events = Events::with_capacity(1024);
        // Clients become ready nearly in the order in which they were opened: this is the first that is not.
        let mut first = 0;
        while ready < wanted {
            while self.clients.len() - ready < CONNECTING {
                let Some(role) = roles.next() else { break };
                self.open(role).map_err(|error| format!("cannot connect: {error}"))?;
            }
            self.turn(&mut events, Some(Duration::from_millis(100)))?;
            while self.clients.get(first).is_some_and(|client| client.state == State::Ready) {
                first += 1;
            }
            let later = self.clients[first..].iter().filter(|client| client.state == State::Ready).count();
            ready = first + later;
            if self.tally.refused > 0 {
                return Err(format!("{} of {wanted} clients were refused", self.tally.refused));
            }
            if self.tally.closed > 0 {
                return Err(format!("{} of {wanted} clients were cut off while connecting", self.tally.closed));
            }
            if started.elapsed() > patience {
                return Err(format!("only {ready} of {wanted} clients were ready after {patience:?}"));
            }
        }
        Ok(())
    }

    /// Waits for events and handles them. Answers whether there were any.
    pub(crate) fn turn(&mut self, events: &mut Events, patience: Option<Duration>) -> Result<bool, String> {
        let patience = if self.again.is_empty() { patience } else { Some(Duration::ZERO) };
        match self.poll.poll(events, patience) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(format!("poll: {error}")),
        }
        let again = std::mem::take(&mut self.again);
        let any = !again.is_empty() || !events.is_empty();
        for index in again {
            self.serve(index, true);
        }
        for event in events.iter() {
            if event.token() != WAKER {
                self.serve(event.token().0, event.is_readable() || event.is_read_closed() || event.is_error());
            }
        }
        Ok(any)
    }

    fn serve(&mut self, index: usize, readable: bool) {
        let now = self.now();
        let Some(client) = self.clients.get_mut(index) else { return };
        if client.state == State::Closed {
            return;
        }
        let mut result = Ok(());
        if readable {
            let mut reads = 0;
            loop {
                match client.link.read(&mut self.scratch) {
                    Ok(Arrived::Bytes(count)) => {
                        let bytes = &self.scratch.plain[..count];
                        if client.receive(bytes, now, &mut self.tally).is_err() {
                            result = Err("malformed packet".into());
                            self.tally.protocol_errors += 1;
                            break;
                        }
                    }
                    Ok(Arrived::Blocked) => break,
                    Ok(Arrived::End) => {
                        result = Err("closed by the broker".to_owned());
                        break;
                    }
                    Err(error) => {
                        result = Err(error.to_string());
                        break;
                    }
                }
                reads += 1;
                if reads == READS {
                    self.again.push(index);
                    break;
                }
            }
        }
        if let (Ok(()), Err(error)) = (&result, client.link.flush()) {
            result = Err(error.to_string());
        }
        if result.is_err() || client.state == State::Closed {
            client.state = State::Closed;
            self.tally.closed += 1;
            // It fails only for a socket that the poll does not know, which cannot be here.
            let _unknown = self.poll.registry().deregister(&mut client.link.stream);
        }
    }

    fn flush(&mut self, index: usize) {
        if self.clients[index].link.flush().is_err() {
            self.clients[index].state = State::Closed;
            self.tally.closed += 1;
        }
    }

    /// Publishes for `duration`, then waits until everything has come or nothing comes any more.
    /// `fan` is how many deliveries one PUBLISH makes.
    pub(crate) fn run(
        &mut self,
        duration: Duration,
        pace: Pace,
        fan: u64,
        payload: &mut [u8],
    ) -> Result<Outcome, String> {
        let publishers: Vec<usize> = (0..self.clients.len())
            .filter(|&index| self.clients.get(index).is_some_and(|client| client.publisher.is_some()))
            .collect();
        let start = self.now();
        let ticking = Arc::new(AtomicBool::new(true));
        let mut ticker = None;
        if let Pace::Open { rate } = pace {
            let waker = Waker::new(self.poll.registry(), WAKER).map_err(|error| error.to_string())?;
            // epoll counts in milliseconds, which is too coarse for a schedule: a thread that sleeps until a message
            // is due does better.
            let step = Duration::from_secs_f64((1.0 / rate).max(100e-6));
            let ticking = Arc::clone(&ticking);
            let start = self.epoch + Duration::from_nanos(start);
            ticker = Some(std::thread::spawn(move || {
                let mut due = start;
                while ticking.load(Ordering::Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if waker.wake().is_err() {
                        return;
                    }
                    while due <= Instant::now() {
                        due += step;
                    }
                }
            }));
        }
        let result = self.pump(&publishers, start, duration, pace, fan, payload);
        ticking.store(false, Ordering::Relaxed);
        if let Some(ticker) = ticker {
            ticker.join().map_err(|_| "the ticker panicked")?;
        }
        result
    }

    fn pump(
        &mut self,
        publishers: &[usize],
        start: u64,
        duration: Duration,
        pace: Pace,
        fan: u64,
        payload: &mut [u8],
    ) -> Result<Outcome, String> {
        let mut events = Events::with_capacity(4096);
        let end = start + duration.as_nanos() as u64;
        let mut outcome = Outcome { publishing: 0.0, delivering: 0.0, given_up: 0, lateness: Histogram::new() };
        let mut sending = true;
        let mut scheduled = 0;
        let mut last_progress = start;
        let mut last_delivery = start;
        let mut seen = (0, 0);
        // Deliveries that will not come, as nothing came for long.
        let mut written_off = 0;
        loop {
            let now = self.now();
            if sending && now >= end {
                sending = false;
                outcome.publishing = (now - start) as f64 / 1e9;
            }
            let mut busy = false;
            match pace {
                Pace::Closed { outstanding } if sending => {
                    busy = self.pump_closed(publishers, outstanding, fan, written_off, now, payload);
                }
                Pace::Open { rate } => {
                    let step = 1e9 / rate;
                    self.pump_open(publishers, (start, end, step), &mut scheduled, &mut outcome.lateness, payload);
                }
                Pace::Closed { .. } => {}
            }
            self.turn(&mut events, Some(if busy { Duration::ZERO } else { Duration::from_millis(10) }))?;

            let progress = (self.tally.settled, self.tally.acknowledged);
            let now = self.now();
            if progress.0 != seen.0 {
                last_delivery = now;
            }
            if progress != seen {
                seen = progress;
                last_progress = now;
            }
            let due = self.tally.sent * fan;
            let complete = self.tally.settled + written_off >= due
                && publishers.iter().all(|&index| {
                    let client = &self.clients[index];
                    client.state == State::Closed
                        || (client.in_flight() == 0 && client.link.pending() == 0 && client.publisher_idle())
                });
            if !sending && complete {
                break;
            }
            let quiet = Duration::from_nanos(now - last_progress);
            if sending && quiet > self.patience && !complete {
                // Lost at the end of a stretch, where no later message shows the gap.
                written_off = due.saturating_sub(self.tally.settled);
                outcome.given_up += 1;
                last_progress = now;
            } else if !sending && quiet > 4 * self.patience {
                outcome.given_up += 1;
                break;
            }
            let all_closed = publishers.iter().all(|&index| self.clients[index].state == State::Closed);
            if all_closed {
                break;
            }
        }
        if sending {
            outcome.publishing = (self.now() - start) as f64 / 1e9;
        }
        outcome.delivering = (last_delivery - start) as f64 / 1e9;
        Ok(outcome)
    }

    /// Answers whether more could be sent at once. What is free is used in batches, of a quarter of the bound or of
    /// the window at least: otherwise each delivery would bring forth a write of one message.
    fn pump_closed(
        &mut self,
        publishers: &[usize],
        outstanding: Option<u64>,
        fan: u64,
        written_off: u64,
        now: u64,
        payload: &mut [u8],
    ) -> bool {
        let mut budget = u64::MAX;
        if let Some(limit) = outstanding {
            let on_the_way = (self.tally.sent * fan).saturating_sub(self.tally.settled + written_off);
            let left = limit.saturating_sub(on_the_way) / fan;
            if left == 0 || (on_the_way > 0 && left < limit / fan / 4) {
                return false;
            }
            budget = left;
        }
        let share = (budget / publishers.len().max(1) as u64).max(1);
        let mut could = false;
        // Another one begins each time, so that a budget below one message each is not always the same clients'.
        let offset = (self.tally.sent as usize) % publishers.len().max(1);
        for &index in publishers[offset..].iter().chain(&publishers[..offset]) {
            let client = &mut self.clients[index];
            let window = client.in_flight() + client.room();
            if client.room() == 0 || (self.target.qos > 0 && client.room() < window / 4) {
                continue;
            }
            let mut count = 0;
            while count < share && budget > 0 && client.publish(now, payload, &mut self.tally) {
                count += 1;
                budget -= 1;
            }
            self.flush(index);
            could |= self.clients[index].room() > 0 && outstanding.is_none();
        }
        could
    }

    /// Publishes what is due. A message that finds no free packet identifier waits; its time is when it was due.
    fn pump_open(
        &mut self,
        publishers: &[usize],
        (start, end, step): (u64, u64, f64),
        scheduled: &mut u64,
        lateness: &mut Histogram,
        payload: &mut [u8],
    ) {
        let now = self.now();
        loop {
            let due = start + (*scheduled as f64 * step) as u64;
            if due > now || due >= end {
                break;
            }
            let index = publishers[*scheduled as usize % publishers.len()];
            *scheduled += 1;
            lateness.record(now - due);
            if let Some(publisher) = &mut self.clients[index].publisher {
                publisher.backlog.push_back(due);
            }
        }
        for &index in publishers {
            let client = &mut self.clients[index];
            if client.publisher_idle() {
                continue;
            }
            while client.room() > 0 {
                let Some(due) = client.publisher.as_mut().and_then(|publisher| publisher.backlog.pop_front()) else {
                    break;
                };
                client.publish(due, payload, &mut self.tally);
            }
            self.flush(index);
        }
    }
}

impl Client {
    /// Nothing waits to be published.
    fn publisher_idle(&self) -> bool {
        self.publisher.as_ref().is_none_or(|publisher| publisher.backlog.is_empty())
    }
}

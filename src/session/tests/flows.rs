//! Both flows against a slow client that does what the specification says and no more, with a connection that is lost
//! at any point.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// The broker's Receive Maximum.
const OURS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Another message for the client comes into the mailbox.
    Queue(QoS),
    /// The shell hands over the next one, if it may.
    Deliver,
    /// The client publishes, if it may.
    Publish(QoS),
    /// One packet arrives.
    ClientReads,
    ServerReads,
    /// The router answers one ticket that is out.
    Route(prop::sample::Index),
    /// The connection is lost with all that is on the way; a new one follows, with this Receive Maximum.
    Cut(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let qos = || prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    let step = prop_oneof![
        4 => qos().prop_map(Step::Queue),
        6 => Just(Step::Deliver),
        4 => qos().prop_map(Step::Publish),
        9 => Just(Step::ClientReads),
        9 => Just(Step::ServerReads),
        4 => any::<prop::sample::Index>().prop_map(Step::Route),
        1 => (1..5_u16).prop_map(Step::Cut),
    ];
    prop::collection::vec(step, 0..200)
}

/// A message that the client has sent and not finished.
#[derive(Clone, Debug)]
struct Unfinished {
    number: u16,
    payload: u32,
    qos: QoS,
    released: bool,
}

/// What the specification says that a client does; state survives a lost connection but for the last four.
#[derive(Debug, Default)]
struct Client {
    // receiving
    received: Vec<(QoS, u32)>,
    exactly_once: BTreeSet<u16>,
    // sending
    published: Vec<(QoS, u32)>,
    unfinished: Vec<Unfinished>,
    // this connection
    receive_maximum: usize,
    open: BTreeSet<u16>,
    quota: usize,
    /// In the order of their PUBLISHes, QoS 1 and QoS 2 each for itself. `[MQTT-4.6.0-2]` `[MQTT-4.6.0-3]`
    unanswered: [VecDeque<u16>; 2],
}

impl Client {
    fn connected(&mut self, receive_maximum: u16) -> Vec<Packet> {
        self.receive_maximum = usize::from(receive_maximum);
        self.open.clear();
        self.unanswered = Default::default();
        self.quota = OURS;
        let unfinished = self.unfinished.clone();
        let (released, waiting): (Vec<_>, Vec<_>) = unfinished.into_iter().partition(|message| message.released);
        let mut packets: Vec<Packet> = released.iter().map(|message| Packet::PubRel(ok(message.number))).collect();
        for message in waiting {
            packets.push(self.send(&message, true));
        }
        packets
    }

    fn send(&mut self, message: &Unfinished, dup: bool) -> Packet {
        self.quota -= 1;
        self.unanswered[usize::from(message.qos == QoS::ExactlyOnce)].push_back(message.number);
        let payload = Bytes::copy_from_slice(&message.payload.to_be_bytes());
        Packet::Publish(Publish { dup, payload, ..publish("up", message.qos, message.number) })
    }

    fn publish(&mut self, qos: QoS) -> Option<Packet> {
        if self.quota == 0 || self.unfinished.len() >= OURS {
            return None;
        }
        let number =
            (1..=u16::MAX).find(|number| self.unfinished.iter().all(|message| message.number != *number)).unwrap();
        let payload = u32::try_from(self.published.len()).unwrap();
        let message = Unfinished { number, payload, qos, released: false };
        self.published.push((qos, payload));
        self.unfinished.push(message.clone());
        Some(self.send(&message, false))
    }

    fn read(&mut self, wire: Wire) -> Option<Packet> {
        match wire {
            Wire::Publish { number, payload, qos, dup } => {
                assert!(self.open.insert(number), "an identifier that is in use");
                assert!(self.open.len() <= self.receive_maximum, "the window is exceeded");
                if qos == QoS::AtLeastOnce {
                    self.received.push((qos, payload));
                    self.open.remove(&number);
                    return Some(Packet::PubAck(ok(number)));
                }
                let new = self.exactly_once.insert(number);
                assert!(new || dup, "a new message under an identifier that the client still has");
                if new {
                    self.received.push((qos, payload));
                }
                Some(Packet::PubRec(ok(number)))
            }
            Wire::Packet(Packet::PubRel(ack)) => {
                self.exactly_once.remove(&ack.packet_id.0.get());
                self.open.remove(&ack.packet_id.0.get());
                Some(Packet::PubComp(ok(ack.packet_id.0.get())))
            }
            Wire::Packet(Packet::PubAck(ack)) => {
                assert!(!ack.reason_code.is_error());
                self.answered(ack.packet_id.0.get(), false);
                self.finish(ack.packet_id.0.get());
                None
            }
            Wire::Packet(Packet::PubRec(ack)) => {
                assert!(!ack.reason_code.is_error());
                let number = ack.packet_id.0.get();
                self.answered(number, true);
                self.unfinished.iter_mut().find(|message| message.number == number).unwrap().released = true;
                Some(Packet::PubRel(ok(number)))
            }
            Wire::Packet(Packet::PubComp(ack)) => {
                self.finish(ack.packet_id.0.get());
                None
            }
            Wire::Packet(other) => panic!("{other:?}"),
        }
    }

    fn answered(&mut self, number: u16, exactly_once: bool) {
        let expected = self.unanswered[usize::from(exactly_once)].pop_front();
        assert_eq!(expected, Some(number), "acknowledged out of order");
    }

    fn finish(&mut self, number: u16) {
        self.unfinished.retain(|message| message.number != number);
        self.quota = (self.quota + 1).min(OURS);
    }
}

#[derive(Debug)]
enum Wire {
    Packet(Packet),
    Publish { number: u16, payload: u32, qos: QoS, dup: bool },
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

struct World {
    bench: Bench,
    version: ProtocolVersion,
    client: Client,
    to_client: VecDeque<Wire>,
    to_server: VecDeque<Packet>,
    queue: VecDeque<Message>,
    queued: Vec<(QoS, u32)>,
    tickets: Vec<PublishTicket>,
    routed: Vec<(QoS, u32)>,
    /// Payloads that the broker ever sent, and those that it sent on this connection.
    ever_sent: BTreeSet<u32>,
    now_sent: BTreeSet<u32>,
}

impl World {
    fn new(version: ProtocolVersion) -> Self {
        let mut bench = Bench::new(&["allow read down", "allow write up"]);
        bench.settings.receive_maximum = NonZeroU16::new(u16::try_from(OURS).unwrap()).unwrap();
        bench.connect(&lasting(version));
        bench.subscribe("down", QoS::ExactlyOnce);
        let mut world = Self {
            bench,
            version,
            client: Client::default(),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            queue: VecDeque::new(),
            queued: Vec::new(),
            tickets: Vec::new(),
            routed: Vec::new(),
            ever_sent: BTreeSet::new(),
            now_sent: BTreeSet::new(),
        };
        world.step(Step::Cut(2));
        world
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(Packet::ConnAck(connack)) => assert!(connack.session_present),
                Output::Send(packet) => self.to_client.push_back(Wire::Packet(packet)),
                Output::Deliver(outgoing) => {
                    let payload = number_of(&outgoing.message.payload);
                    assert_eq!(outgoing.dup, !self.ever_sent.insert(payload), "DUP tells of a resend");
                    assert!(self.now_sent.insert(payload), "sent twice on one connection");
                    let number = outgoing.packet_id.unwrap().0.get();
                    self.to_client.push_back(Wire::Publish { number, payload, qos: outgoing.qos, dup: outgoing.dup });
                }
                Output::Route { message, ticket } => {
                    self.routed.push((message.qos, number_of(&message.payload)));
                    self.tickets.extend(ticket);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Queue(qos) => {
                let payload = u32::try_from(self.queued.len()).unwrap();
                self.queued.push((qos, payload));
                let payload = Bytes::copy_from_slice(&payload.to_be_bytes());
                self.queue.push_back(Message { payload, ..message("down", qos) });
            }
            Step::Deliver => {
                if self.bench.session.can_deliver()
                    && let Some(message) = self.queue.pop_front()
                {
                    let (disposition, outputs) = self.bench.deliver(message);
                    assert_eq!(disposition, Disposition::Sent);
                    self.take(outputs);
                }
            }
            Step::Publish(qos) => self.to_server.extend(self.client.publish(qos)),
            Step::ClientReads => {
                if let Some(wire) = self.to_client.pop_front() {
                    self.to_server.extend(self.client.read(wire));
                }
            }
            Step::ServerReads => {
                if let Some(packet) = self.to_server.pop_front() {
                    let outputs = self.bench.packet(packet);
                    self.take(outputs);
                }
            }
            Step::Route(index) => {
                if !self.tickets.is_empty() {
                    let ticket = self.tickets.remove(index.index(self.tickets.len()));
                    let outcome = RouteOutcome::Delivered;
                    let ((), outputs) = self.bench.give(|session, cx| session.handle_accepted(ticket, outcome, cx));
                    self.take(outputs);
                }
            }
            Step::Cut(receive_maximum) => {
                let outputs = self.bench.lose();
                assert!(matches!(outputs[..], [Output::Close(_)]));
                self.to_client.clear();
                self.to_server.clear();
                self.now_sent.clear();
                let mut connect = lasting(self.version);
                let mut maximum = u16::MAX;
                if self.version == ProtocolVersion::V5 {
                    maximum = receive_maximum;
                    connect.properties.receive_maximum = NonZeroU16::new(receive_maximum);
                }
                self.to_server.extend(self.client.connected(maximum));
                let outputs = self.bench.connect(&connect);
                self.take(outputs);
            }
        }
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        let busy = |world: &Self| {
            !(world.to_client.is_empty()
                && world.to_server.is_empty()
                && world.tickets.is_empty()
                && world.queue.is_empty())
        };
        for _ in 0..10_000 {
            if !busy(self) {
                return;
            }
            self.step(Step::Deliver);
            self.step(Step::ServerReads);
            self.step(Step::ClientReads);
            if let Some(ticket) = self.tickets.pop() {
                let outcome = RouteOutcome::Delivered;
                let ((), outputs) = self.bench.give(|session, cx| session.handle_accepted(ticket, outcome, cx));
                self.take(outputs);
            }
        }
        panic!("the flows do not come to rest");
    }
}

/// QoS 2: exactly what was sent, in order. QoS 1: the same once repeats are struck out.
fn assert_kept(sent: &[(QoS, u32)], got: &[(QoS, u32)]) {
    let of = |list: &[(QoS, u32)], qos| -> Vec<u32> {
        list.iter().filter(|(each, _)| *each == qos).map(|(_, payload)| *payload).collect()
    };
    assert_eq!(of(sent, QoS::ExactlyOnce), of(got, QoS::ExactlyOnce));
    let mut seen = BTreeSet::new();
    let mut once = of(got, QoS::AtLeastOnce);
    once.retain(|payload| seen.insert(*payload));
    assert_eq!(of(sent, QoS::AtLeastOnce), once);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_as_its_qos_promises(steps in steps(), v5: bool) {
        let mut world = World::new(if v5 { ProtocolVersion::V5 } else { ProtocolVersion::V311 });
        for step in steps {
            world.step(step);
        }
        world.settle();
        assert_kept(&world.queued, &world.client.received);
        assert_kept(&world.client.published, &world.routed);
        prop_assert_eq!(world.bench.session.inflight_len(), 0);
        prop_assert!(world.client.unfinished.is_empty() && world.client.exactly_once.is_empty());
    }

    /// Rules turn, connections come and go: what goes out is permitted at that moment, and nothing stays in flight.
    #[test]
    fn nothing_forbidden_is_ever_sent(steps in prop::collection::vec((0..5_u8, 0..3_u8), 0..120)) {
        let names = ["a/0", "a/1", "b"];
        let policies: [&[&str]; 3] = [&["allow read #"], &["allow read a/+", "deny read a/1"], &["allow read b"]];
        let mut bench = Bench::connected(ProtocolVersion::V5, policies[0]);
        bench.subscribe("#", QoS::ExactlyOnce);
        for (what, which) in steps {
            let which = usize::from(which);
            let outputs = match what {
                0 => {
                    bench.rules(policies[which]);
                    if which == 0 { bench.policy_changed() } else { Vec::new() }
                }
                1 => {
                    bench.lose();
                    bench.connect(&lasting(ProtocolVersion::V5))
                }
                2 => bench.packet(Packet::PubRec(ok(u16::try_from(which).unwrap() + 1))),
                _ => bench.deliver(message(names[which], QoS::ExactlyOnce)).1,
            };
            for outgoing in deliveries(&outputs) {
                prop_assert!(bench.authority().may_receive(&outgoing.message.topic).is_some());
            }
        }
        bench.lose();
        bench.connect(&lasting(ProtocolVersion::V5));
        for number in 1..200 {
            bench.packet(Packet::PubRec(ok(number)));
            bench.packet(Packet::PubComp(ok(number)));
        }
        prop_assert_eq!(bench.session.inflight_len(), 0);
    }
}

//! A session on a bench: a policy to turn, a clock to move, and short ways to say packets.

mod deliver;
mod flows;
mod grants;
mod handshake;
mod life;
mod operators;
mod policy;
mod publish;
mod quota;
mod registry;
mod subscribe;

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use uuid::Uuid;

use super::*;
use crate::access::{Authority, Permission, Policy, User, UserId};
use crate::clock::{Clock, Duration, Instant, ManualClock, Timestamp};
use crate::mqtt::*;

const USER: UserId = UserId(Uuid::from_u128(7));

struct Bench {
    session: Session,
    policy: Policy,
    settings: Settings,
    clock: ManualClock,
}

/// `allow read a/#`, `deny write b/+`, `allow read_write c max_qos=1 retain=false`
fn rule(text: &str) -> Permission {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap();
    let (effect, operation, resource) = (word(), word(), word());
    let mut json = serde_json::json!({
        "context": "mqtt", "effect": effect, "operation": operation, "resource": resource
    });
    for condition in words {
        let (name, value) = condition.split_once('=').unwrap();
        json[name] = serde_json::from_str(value).unwrap();
    }
    serde_json::from_value(json).unwrap()
}

fn user(rules: &[&str], prefix: Option<&str>) -> User {
    let mut user: User = serde_json::from_value(serde_json::json!({
        "id": USER.0, "username": "alice", "enabled": true, "created_at": "2026-01-01T00:00:00Z"
    }))
    .unwrap();
    user.permissions = rules.iter().map(|text| rule(text)).collect();
    user.publish_prefix = prefix.map(str::to_owned);
    user
}

impl Bench {
    /// A session of a user with these rules, not connected.
    fn new(rules: &[&str]) -> Self {
        Self::of(Owner::User(USER), rules)
    }

    fn of(owner: Owner, rules: &[&str]) -> Self {
        let key = SessionKey { owner, client_id: ClientId::try_from("c1").unwrap() };
        let mut bench = Self {
            session: Session::new(key, SessionNumber(1)),
            policy: Policy::default(),
            settings: Settings::default(),
            clock: ManualClock::new(Timestamp::UNIX_EPOCH),
        };
        bench.turn(Some(user(rules, None)));
        bench
    }

    /// Connected already, with a session that lasts.
    fn connected(version: ProtocolVersion, rules: &[&str]) -> Self {
        let mut bench = Self::new(rules);
        bench.connect(&lasting(version));
        bench
    }

    fn turn(&mut self, user: Option<User>) {
        self.policy = self.policy.with([], [(USER, user)], self.clock.timestamp()).unwrap();
    }

    /// Other rules from now on; the session is not told.
    fn rules(&mut self, rules: &[&str]) {
        self.turn(Some(user(rules, None)));
    }

    fn prefix(&mut self, rules: &[&str], prefix: &str) {
        self.turn(Some(user(rules, Some(prefix))));
    }

    fn authority(&self) -> Authority {
        match self.session.key().owner {
            Owner::User(id) => self.policy.authority(id, &self.session.key().client_id),
            Owner::Registration(_) => None,
        }
        .unwrap_or_else(|| Authority::none(self.policy.version()))
    }

    fn give<T>(&mut self, input: impl FnOnce(&mut Session, &Context<'_>) -> T) -> (T, Vec<Output>) {
        let (authority, now) = (self.authority(), self.clock.instant());
        let cx = Context { authority: &authority, now, settings: &self.settings };
        let result = input(&mut self.session, &cx);
        (result, std::iter::from_fn(|| self.session.poll_output()).collect())
    }

    fn connect(&mut self, connect: &Connect) -> Vec<Output> {
        self.give(|session, cx| session.handle_connect(connect, &Terms::default(), cx)).1
    }

    fn connack(&mut self, connect: &Connect) -> ConnAck {
        let outputs = self.connect(connect);
        let packets = sent(&outputs);
        let Some(Packet::ConnAck(connack)) = packets.first() else { panic!("no CONNACK: {packets:?}") };
        (**connack).clone()
    }

    fn packet(&mut self, packet: Packet) -> Vec<Output> {
        self.give(|session, cx| session.handle_packet(packet, cx)).1
    }

    /// A PUBLISH whose routing is answered at once.
    fn publish(&mut self, publish: Publish) -> Vec<Output> {
        let mut outputs = self.packet(Packet::Publish(publish));
        for ticket in outputs.iter().filter_map(ticket).collect::<Vec<_>>() {
            outputs.extend(self.give(|session, cx| session.handle_accepted(ticket, RouteOutcome::Delivered, cx)).1);
        }
        outputs
    }

    fn end(&mut self, cause: EndCause) -> Vec<Output> {
        self.give(|session, cx| session.handle_end(cause, cx)).1
    }

    fn lose(&mut self) -> Vec<Output> {
        self.end(EndCause::ConnectionLost)
    }

    fn policy_changed(&mut self) -> Vec<Output> {
        self.give(Session::handle_policy).1
    }

    fn timeout(&mut self) -> Vec<Output> {
        self.give(Session::handle_timeout).1
    }

    fn pass(&mut self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// SUBSCRIBE to one filter; the code of the SUBACK.
    fn subscribe(&mut self, text: &str, qos: QoS) -> ReasonCode {
        self.subscribe_with(text, SubscriptionOptions { qos, ..SubscriptionOptions::default() }, None).0
    }

    fn subscribe_with(
        &mut self,
        text: &str,
        options: SubscriptionOptions,
        identifier: Option<u32>,
    ) -> (ReasonCode, Vec<Output>) {
        let outputs = self.packet(Packet::Subscribe(Subscribe {
            packet_id: id(1000),
            filters: vec![SubscribeFilter { filter: filter(text), options }],
            subscription_identifier: identifier.map(|number| NonZeroU32::new(number).unwrap()),
            user_properties: Vec::new(),
        }));
        let Some(Packet::SubAck(suback)) = sent(&outputs).pop() else { panic!("no SUBACK: {outputs:?}") };
        assert_eq!(suback.packet_id, id(1000));
        (suback.reason_codes[0], outputs)
    }

    fn number(&self, text: &str) -> SubscriptionNumber {
        self.session.subscriptions().find(|held| held.filter.as_str() == text).unwrap().number
    }

    /// What the router would do with a message.
    fn delivery(&self, message: Message) -> Delivery {
        let matched = self.session.subscriptions().filter(|held| !held.local && held.filter.matches(&message.topic));
        let matched: SmallVec<[Matched; 1]> = matched.map(|held| Matched { number: held.number }).collect();
        Delivery { message: Arc::new(message), matched, retained: false }
    }

    fn deliver(&mut self, message: Message) -> (Disposition, Vec<Output>) {
        let delivery = self.delivery(message);
        self.give(|session, cx| session.handle_delivery(delivery, cx))
    }

    /// A delivery that must go out.
    fn delivered(&mut self, message: Message) -> Outgoing {
        let (disposition, outputs) = self.deliver(message);
        assert_eq!(disposition, Disposition::Sent);
        deliveries(&outputs).pop().unwrap()
    }
}

fn id(number: u16) -> PacketIdentifier {
    PacketIdentifier(NonZeroU16::new(number).unwrap())
}

fn topic(text: &str) -> TopicName {
    TopicName::try_from(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

/// CONNECT with a clean session and nothing else.
fn clean(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: ClientId::try_from("c1").unwrap(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// CONNECT to a session that never expires.
fn lasting(version: ProtocolVersion) -> Connect {
    let session_expiry_interval = (version == ProtocolVersion::V5).then_some(u32::MAX);
    Connect {
        clean_start: false,
        properties: ConnectProperties { session_expiry_interval, ..ConnectProperties::default() },
        ..clean(version)
    }
}

fn will(topic_name: &str) -> Will {
    Will {
        topic: topic(topic_name),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_interval: None,
        properties: PublishProperties::default(),
    }
}

fn publish(topic_name: &str, qos: QoS, number: u16) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic(topic_name)),
        packet_id: (qos != QoS::AtMostOnce).then(|| id(number)),
        payload: Bytes::from_static(b"x"),
        properties: None,
    }
}

fn message(topic_name: &str, qos: QoS) -> Message {
    Message {
        topic: topic(topic_name),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        publisher: Publisher { user: None, session: SessionNumber(99) },
        expires: None,
        properties: None,
    }
}

fn ack(number: u16, reason_code: ReasonCode) -> Acknowledgement {
    Acknowledgement { packet_id: id(number), reason_code, properties: None }
}

fn ok(number: u16) -> Acknowledgement {
    ack(number, ReasonCode::Success)
}

fn disconnect(reason_code: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason_code, properties: DisconnectProperties::default() })
}

fn sent(outputs: &[Output]) -> Vec<Packet> {
    outputs
        .iter()
        .filter_map(|output| if let Output::Send(packet) = output { Some(packet.clone()) } else { None })
        .collect()
}

fn deliveries(outputs: &[Output]) -> Vec<Outgoing> {
    let pick = |output: &Output| if let Output::Deliver(outgoing) = output { Some(outgoing.clone()) } else { None };
    outputs.iter().filter_map(pick).collect()
}

fn routed(outputs: &[Output]) -> Vec<Arc<Message>> {
    let pick = |output: &Output| if let Output::Route { message, .. } = output { Some(message.clone()) } else { None };
    outputs.iter().filter_map(pick).collect()
}

fn ticket(output: &Output) -> Option<PublishTicket> {
    if let Output::Route { ticket, .. } = output { *ticket } else { None }
}

fn refusals(outputs: &[Output]) -> Vec<(Action, RefusalCause, ReasonCode)> {
    let pick = |output: &Output| match output {
        Output::Refused(refusal) => Some((refusal.action, refusal.cause, refusal.reason_code)),
        _ => None,
    };
    outputs.iter().filter_map(pick).collect()
}

fn closed(outputs: &[Output]) -> Option<CloseReason> {
    outputs.iter().find_map(|output| if let Output::Close(reason) = output { Some(*reason) } else { None })
}

/// The code of the server's DISCONNECT.
fn farewell(outputs: &[Output]) -> Option<ReasonCode> {
    sent(outputs).iter().find_map(|packet| match packet {
        Packet::Disconnect(disconnect) => Some(disconnect.reason_code),
        _ => None,
    })
}

/// The connection was ended for breaking the protocol, and version 5 was told so.
#[track_caller]
fn assert_failed(outputs: &[Output], version: ProtocolVersion, reason_code: ReasonCode) {
    assert!(matches!(closed(outputs), Some(CloseReason::Protocol(code, _)) if code == reason_code), "{outputs:?}");
    assert_eq!(farewell(outputs), (version == ProtocolVersion::V5).then_some(reason_code));
    assert!(matches!(outputs.last(), Some(Output::Close(_))), "nothing comes after the close");
}

const BOTH: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

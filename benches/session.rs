//! The way of messages through two sessions: PUBLISH in, rules, match, mailbox, delivery out, acknowledgements; without a
//! quota, within one, and with the right to answer requests. What nobody uses must not be felt.
//!
//! `--turns COUNT CASE` makes so many turns of one case and ends, for tools that count instructions in [`Bench::turn`].
#![allow(missing_docs, reason = "criterion makes the entry point")]

use std::{env, hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use portcullis::{
    access::{Authority, Context as Domain, Operation, Permission, Policy, Quota, Rate, User, UserId},
    clock::{Clock, Duration, SystemClock, Timestamp},
    mqtt::{
        Acknowledgement, ClientId, Connect, ConnectProperties, Packet, PacketIdentifier, ProtocolVersion, Publish,
        PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter, TopicName,
    },
    router::{Budget, Mailbox, MailboxLimits, Origin, RetainedLimits, RouteMemory, Routed, Router},
    session::{Context, Output, Owner, Session, SessionKey, SessionNumber, Settings, Terms},
};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error>;

const TOPIC: &str = "plant/hall-3/machine-7/speed";

/// Messages that one read brings.
const MANY: u16 = 32;

struct Bench {
    publisher: Session,
    subscriber: Session,
    settings: Settings,
    authority: Authority,
    router: Router,
    mailbox: Arc<Mailbox>,
    memory: RouteMemory,
    user: UserId,
    client_id: ClientId,
}

impl Bench {
    fn new(quota: Option<Quota>, response_grants: Option<Duration>) -> Result<Self, Failure> {
        let id = UserId(Uuid::from_u128(1));
        let mut user = User::new(id, "machine".parse()?, Timestamp::UNIX_EPOCH);
        user.permissions = vec![Permission::allow(Domain::Mqtt, Operation::ReadWrite, "plant/#")];
        user.quota = quota.map(Box::new);
        let policy = Policy::default().with([], [(id, Some(user))], Timestamp::UNIX_EPOCH)?;
        let client_id = ClientId::try_from("c")?;
        let authority = policy.authority(id, &client_id).ok_or("the user is there")?;
        let limits = MailboxLimits { messages: 1_000, bytes: 1 << 20, total: Budget::new(1 << 30) };
        let session = |number| {
            let client_id = ClientId::try_from(format!("c{number}").as_str())?;
            Ok::<_, Failure>(Session::new(SessionKey { owner: Owner::User(id), client_id }, SessionNumber(number)))
        };
        let mut bench = Self {
            publisher: session(1)?,
            subscriber: session(2)?,
            settings: Settings { response_grants, ..Settings::default() },
            authority,
            router: Router::new(RetainedLimits { messages: 10, bytes: 1 << 20 }),
            mailbox: Arc::new(Mailbox::new(limits)),
            memory: RouteMemory::default(),
            user: id,
            client_id,
        };
        bench.mailbox.attach(Arc::default());
        let connect = Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive: 0,
            client_id: ClientId::try_from("c")?,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        let cx = Context { authority: &bench.authority, now: SystemClock.instant(), settings: &bench.settings };
        bench.publisher.handle_connect(&connect, &Terms::default(), &cx);
        bench.subscriber.handle_connect(&connect, &Terms::default(), &cx);
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
        let filters = vec![SubscribeFilter { filter: TopicFilter::try_from("plant/#")?, options }];
        let packet_id = PacketIdentifier(1.try_into()?);
        let subscribe = Subscribe { packet_id, filters, subscription_identifier: None, user_properties: Vec::new() };
        bench.subscriber.handle_packet(Packet::Subscribe(subscribe), &cx);
        while let Some(output) = bench.subscriber.poll_output() {
            if let Output::Subscribed { filter, number, options, .. } = output {
                bench.router.subscribe(&filter, SessionNumber(2), number, options.qos, &bench.mailbox);
            }
        }
        while bench.publisher.poll_output().is_some() {}
        Ok(bench)
    }

    /// What one read brings, from the decoded packets to the deliveries and their acknowledgements: how many were delivered?
    #[inline(never)]
    fn turn(&mut self, publish: &Publish, count: u16) -> u16 {
        let cx = Context { authority: &self.authority, now: SystemClock.instant(), settings: &self.settings };
        for number in 1..=count {
            let packet_id = PacketIdentifier::new(number).filter(|_| publish.qos > QoS::AtMostOnce);
            self.publisher.handle_packet(Packet::Publish(Publish { packet_id, ..publish.clone() }), &cx);
            while let Some(output) = self.publisher.poll_output() {
                let Output::Route { message, ticket } = black_box(output) else { continue };
                let origin = Origin { user: self.user, client_id: &self.client_id, quota: self.authority.quota() };
                let routed = self.router.route(&message, Some(&origin), &mut self.memory);
                if let Some(ticket) = ticket {
                    self.publisher.handle_accepted(ticket, Routed::outcome(routed), &cx);
                }
            }
        }
        self.publisher.handle_pause();
        let mut delivered = 0;
        while let Some(delivery) = self.mailbox.pop() {
            self.subscriber.handle_delivery(delivery, &cx);
            while let Some(output) = self.subscriber.poll_output() {
                let Output::Deliver(outgoing) = black_box(output) else { continue };
                delivered += 1;
                if let Some(packet_id) = outgoing.packet_id {
                    let ack = Acknowledgement { packet_id, reason_code: ReasonCode::Success, properties: None };
                    self.subscriber.handle_packet(Packet::PubAck(ack), &cx);
                }
            }
        }
        delivered
    }
}

fn message(qos: QoS, response_topic: Option<&str>) -> Result<Publish, Failure> {
    let response_topic = response_topic.map(TopicName::try_from).transpose()?;
    let properties = response_topic.map(|topic| {
        let correlation_data = Some(Bytes::from_static(b"12345678"));
        Box::new(PublishProperties { response_topic: Some(topic), correlation_data, ..PublishProperties::default() })
    });
    Ok(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::try_from(TOPIC)?),
        packet_id: None,
        payload: Bytes::from_static(&[7; 64]),
        properties,
    })
}

/// A bench, what is published, and how many at a time.
type Case = (&'static str, Bench, Publish, u16);

fn cases() -> Result<Vec<Case>, Failure> {
    let quota = Quota {
        publish_messages: Some(Rate::new(1_000_000_000, None)?),
        publish_bytes: Some(Rate::new(Rate::MOST, None)?),
        subscriptions: Some(100),
        retained_messages: Some(100),
        queue_messages: Some(1_000),
        connections: Some(100),
        ..Quota::default()
    };
    let grants = Some(Duration::from_secs(30));
    let (zero, one) = (QoS::AtMostOnce, QoS::AtLeastOnce);
    [
        ("QoS 0, no quota", None, None, zero, None, MANY),
        ("QoS 0, within a quota", Some(quota), None, zero, None, MANY),
        ("QoS 1, no quota", None, None, one, None, MANY),
        ("QoS 1, within a quota", Some(quota), None, one, None, MANY),
        ("QoS 0 one by one, no quota", None, None, zero, None, 1),
        ("QoS 0 one by one, within a quota", Some(quota), None, zero, None, 1),
        ("may answer, no request", None, grants, zero, None, 1),
        ("may answer, requests", None, grants, zero, Some("plant/answers"), 1),
    ]
    .into_iter()
    .map(|(name, quota, grants, qos, request, count)| {
        let mut bench = Bench::new(quota, grants)?;
        let publish = message(qos, request)?;
        let delivered = bench.turn(&publish, count);
        if delivered != count {
            return Err(format!("{name}: of {count} messages {delivered} were delivered").into());
        }
        Ok((name, bench, publish, count))
    })
    .collect()
}

fn main() -> Result<(), Failure> {
    let mut cases = cases()?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [turns, count, case, ..] = arguments.as_slice()
        && turns == "--turns"
    {
        let known = cases.iter_mut().find(|(name, ..)| name == case);
        let (_, bench, publish, many) = known.ok_or_else(|| format!("there is no case `{case}`"))?;
        for _ in 0..count.parse()? {
            black_box(bench.turn(publish, *many));
        }
        return Ok(());
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("session/message");
    for (name, mut bench, publish, count) in cases {
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(name, |bencher| bencher.iter(|| bench.turn(&publish, count)));
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

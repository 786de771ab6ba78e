//! The way of a message through two sessions: PUBLISH in, rules, match, mailbox, delivery out; without a quota, within
//! one, and with the right to answer requests. What nobody uses must not be felt.
#![allow(missing_docs, reason = "criterion makes the entry point")]

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use portcullis::{
    access::{Authority, Context as Domain, Operation, Permission, Policy, Quota, Rate, User, UserId},
    clock::{Clock, Duration, SystemClock, Timestamp},
    mqtt::{
        ClientId, Connect, ConnectProperties, Packet, PacketIdentifier, ProtocolVersion, Publish, PublishProperties,
        QoS, Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter, TopicName,
    },
    router::{Budget, Mailbox, MailboxLimits, Origin, RetainedLimits, RouteMemory, Router},
    session::{Context, Output, Owner, Session, SessionKey, SessionNumber, Settings, Terms},
};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error>;

const TOPIC: &str = "plant/hall-3/machine-7/speed";

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
        let options = SubscriptionOptions::default();
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

    /// One message, from the decoded packet to the delivery. False: it was lost on the way.
    fn pass(&mut self, publish: Publish) -> bool {
        let cx = Context { authority: &self.authority, now: SystemClock.instant(), settings: &self.settings };
        self.publisher.handle_packet(Packet::Publish(publish), &cx);
        while let Some(output) = self.publisher.poll_output() {
            if let Output::Route { message, .. } = output {
                let origin = Origin { user: self.user, client_id: &self.client_id, quota: self.authority.quota() };
                black_box(self.router.route(&message, Some(&origin), &mut self.memory)).ok();
            }
        }
        while let Some(delivery) = self.mailbox.pop() {
            self.subscriber.handle_delivery(delivery, &cx);
        }
        let mut delivered = false;
        while let Some(output) = self.subscriber.poll_output() {
            delivered |= matches!(black_box(output), Output::Deliver(_));
        }
        delivered
    }
}

fn message(response_topic: Option<&str>) -> Result<Publish, Failure> {
    let response_topic = response_topic.map(TopicName::try_from).transpose()?;
    let properties = response_topic.map(|topic| {
        let correlation_data = Some(Bytes::from_static(b"12345678"));
        Box::new(PublishProperties { response_topic: Some(topic), correlation_data, ..PublishProperties::default() })
    });
    Ok(Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::try_from(TOPIC)?),
        packet_id: None,
        payload: Bytes::from_static(&[7; 64]),
        properties,
    })
}

fn messages(criterion: &mut Criterion) -> Result<(), Failure> {
    let plenty = Some(Rate::new(1_000_000_000, None)?);
    let quota = Quota {
        publish_messages: plenty,
        publish_bytes: Some(Rate::new(Rate::MOST, None)?),
        subscriptions: Some(100),
        retained_messages: Some(100),
        queue_messages: Some(1_000),
        connections: Some(100),
        ..Quota::default()
    };
    let grants = Some(Duration::from_secs(30));
    let mut group = criterion.benchmark_group("session/message");
    group.throughput(Throughput::Elements(1));
    for (name, quota, grants, request) in [
        ("no quota", None, None, None),
        ("within a quota", Some(quota), None, None),
        ("may answer, no request", None, grants, None),
        ("may answer, requests", None, grants, Some("plant/answers")),
    ] {
        let mut bench = Bench::new(quota, grants)?;
        let publish = message(request)?;
        if !bench.pass(publish.clone()) {
            return Err("the message is lost on its way".into());
        }
        group.bench_function(name, |bencher| bencher.iter(|| bench.pass(publish.clone())));
    }
    group.finish();
    Ok(())
}

#[expect(clippy::panic, reason = "a benchmark that cannot be set up is a bug")]
fn all(criterion: &mut Criterion) {
    if let Err(error) = messages(criterion) {
        panic!("{error}");
    }
}

criterion_group!(session, all);
criterion_main!(session);

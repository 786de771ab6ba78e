//! What the broker counts.
//!
//! Enters: events, from every thread. Leaves: the OpenMetrics text of a scrape. It never blocks a message (relaxed atomics;
//! what is counted per packet has a cache line of its own in each thread), and never makes a series out of something that
//! a client names: labels are enums, or names that the operator gave.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as PlainGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::access::QuotaKind;
use crate::clock::Duration;
use crate::mqtt::{Packet, PacketType, QoS, ReasonCode};

mod labels;

pub use labels::{
    Answer, AuthenticationOutcome, ConnectionEnd, ConnectionRefusal, DropCause, HttpOutcome, Label, RefusedAction,
    RegistryBadInput, RegistryDecision, RegistryOutcome, RenewalOutcome, TokenRefusal,
};

/// The Content-Type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter for each value of a label; clones count together.
#[derive(Clone)]
pub struct Counters<L> {
    cells: Arc<[AtomicU64]>,
    label: PhantomData<fn(L)>,
}

/// A counter.
#[derive(Clone, Debug, Default)]
pub struct Counter(PlainCounter);

/// A number that goes up and down, never below zero as far as its users keep count.
#[derive(Clone, Debug, Default)]
pub struct Gauge(PlainGauge<i64, AtomicI64>);

/// How long something took.
#[derive(Clone, Debug)]
pub struct Durations(Histogram);

/// Malformed packets by reason code.
#[derive(Clone)]
struct ReasonCounters(Arc<[AtomicU64]>);

/// What is counted for every packet, received and sent. One of these per thread, each on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct HotCounters {
    bytes: [AtomicU64; 2],
    packets: [[AtomicU64; 15]; 2],
    publish: [[AtomicU64; 3]; 2],
    payload: [AtomicU64; 2],
}

/// Index into the pairs of [`HotCounters`]: from the clients.
const RECEIVED: usize = 0;
/// To the clients.
const SENT: usize = 1;

/// Threads that count without sharing a cache line; more of them share.
const SHARDS: usize = 32;

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
pub struct OpenConnection(PlainGauge);

/// Everything that is counted. Made once per broker and shared.
#[non_exhaustive]
#[expect(missing_docs, reason = "the help texts of the series say it")]
pub struct Metrics {
    registry: Registry,
    hot: Arc<[HotCounters]>,
    open: Family<[(&'static str, String); 1], PlainGauge>,
    accepted: Family<[(&'static str, String); 1], PlainCounter>,
    pub connections_refused: Counters<ConnectionRefusal>,
    pub connections_ended: Counters<ConnectionEnd>,
    pub authentications: Counters<AuthenticationOutcome>,
    pub dropped: Counters<DropCause>,
    pub refused: Counters<RefusedAction>,
    pub http_requests: Counters<HttpOutcome>,
    pub quota_exceeded: Counters<QuotaKind>,
    pub answers: Counters<Answer>,
    malformed: ReasonCounters,
    pub registry_requests: Counters<RegistryOutcome>,
    pub registry_bad_input: Counters<RegistryBadInput>,
    pub registry_pending: Gauge,
    pub registry_renewals: Counters<RenewalOutcome>,
    pub registry_invitations: Counter,
    pub registry_decisions: Counters<RegistryDecision>,
    pub registry_tokens: Gauge,
    pub registry_tokens_refused: Counters<TokenRefusal>,
    pub sessions: Gauge,
    pub subscriptions: Gauge,
    pub retained_messages: Gauge,
    pub retained_bytes: Gauge,
    pub policy_version: Gauge,
    pub commits: Durations,
    pub commit_failures: Counter,
    pub argon2_waiting: Gauge,
    pub argon2_busy: Gauge,
    pub audit_records: Counter,
    pub audit_collapsed: Counter,
    pub audit_dropped: Counter,
    pub certificates_revoked: Counter,
    pub crl_number: Gauge,
    pub crl_entries: Gauge,
    pub crl_next_update: Gauge,
    pub crl_failures: Counter,
    pub ca_not_after: Gauge,
    pub ca_former: Gauge,
    pub server_certificate_not_after: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let hot: Arc<[HotCounters]> = (0..SHARDS).map(|_| HotCounters::default()).collect();
        let mut metrics = Self {
            registry: Registry::with_prefix("portcullis"),
            hot,
            open: Family::default(),
            accepted: Family::default(),
            connections_refused: Counters::new(),
            connections_ended: Counters::new(),
            authentications: Counters::new(),
            dropped: Counters::new(),
            refused: Counters::new(),
            http_requests: Counters::new(),
            quota_exceeded: Counters::new(),
            answers: Counters::new(),
            malformed: ReasonCounters((0..=u8::MAX).map(|_| AtomicU64::new(0)).collect()),
            registry_requests: Counters::new(),
            registry_bad_input: Counters::new(),
            registry_pending: Gauge::default(),
            registry_renewals: Counters::new(),
            registry_invitations: Counter::default(),
            registry_decisions: Counters::new(),
            registry_tokens: Gauge::default(),
            registry_tokens_refused: Counters::new(),
            sessions: Gauge::default(),
            subscriptions: Gauge::default(),
            retained_messages: Gauge::default(),
            retained_bytes: Gauge::default(),
            policy_version: Gauge::default(),
            // From 0.1 ms, an in-memory commit, to 1.6 s, a disk in trouble.
            commits: Durations(Histogram::new(exponential_buckets(0.000_1, 2.0, 15))),
            commit_failures: Counter::default(),
            argon2_waiting: Gauge::default(),
            argon2_busy: Gauge::default(),
            audit_records: Counter::default(),
            audit_collapsed: Counter::default(),
            audit_dropped: Counter::default(),
            certificates_revoked: Counter::default(),
            crl_number: Gauge::default(),
            crl_entries: Gauge::default(),
            crl_next_update: Gauge::default(),
            crl_failures: Counter::default(),
            ca_not_after: Gauge::default(),
            ca_former: Gauge::default(),
            server_certificate_not_after: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "Version of the broker", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register_collector(Box::new(HotCollector(Arc::clone(&self.hot))));
        r.register("connections_open", "Connections that are open", self.open.clone());
        r.register(
            "connections",
            "Connections that sent, or may still send, a CONNECT, and those of HTTPS",
            self.accepted.clone(),
        );
        r.register(
            "connections_refused",
            "Connections that ended before a successful CONNACK",
            self.connections_refused.clone(),
        );
        r.register("connections_ended", "Connections that ended after it", self.connections_ended.clone());
        r.register("authentications", "Logins by how they ended", self.authentications.clone());
        r.register("argon2_waiting", "Passwords that wait for being checked or hashed", self.argon2_waiting.0.clone());
        r.register("argon2_busy", "Threads that check or hash a password now", self.argon2_busy.0.clone());
        r.register("malformed_packets", "Packets that broke the protocol, by the reason code", self.malformed.clone());
        r.register("messages_dropped", "Messages that did not reach an entitled subscriber", self.dropped.clone());
        r.register("refusals", "Actions refused by the access rules", self.refused.clone());
        r.register("http_requests", "Requests over HTTPS by how they ended", self.http_requests.clone());
        r.register("quota_exceeded", "What the quota of a user did not admit", self.quota_exceeded.clone());
        r.register("answers", "Messages to a Response Topic that only a request permitted", self.answers.clone());
        r.register("sessions", "Sessions, with and without a connection", self.sessions.0.clone());
        r.register("subscriptions", "Subscriptions of all sessions", self.subscriptions.0.clone());
        r.register("retained_messages", "Retained messages", self.retained_messages.0.clone());
        r.register_with_unit(
            "retained",
            "Topics and payloads of the retained messages",
            Unit::Bytes,
            self.retained_bytes.0.clone(),
        );
        r.register("policy_version", "Number of the policy snapshot in force", self.policy_version.0.clone());
        r.register_with_unit(
            "commit_duration",
            "Commits of users, roles and permissions, until they were in force everywhere",
            Unit::Seconds,
            self.commits.0.clone(),
        );
        r.register("commit_failures", "Commits that the store failed", self.commit_failures.0.clone());
        r.register("audit_records", "Records written to the audit log", self.audit_records.0.clone());
        r.register(
            "audit_collapsed",
            "Refusals and failed logins that were counted in a record that another one had begun",
            self.audit_collapsed.0.clone(),
        );
        r.register(
            "audit_dropped",
            "Refusals and failed logins that are in the audit log as a number only, or not at all",
            self.audit_dropped.0.clone(),
        );
        r.register(
            "certificates_revoked",
            "Certificates that were taken out of force, and issuers",
            self.certificates_revoked.0.clone(),
        );
        r.register("crl_number", "Number of the revocation list in force", self.crl_number.0.clone());
        r.register("crl_entries", "Certificates on the revocation list in force", self.crl_entries.0.clone());
        r.register_with_unit(
            "crl_next_update_timestamp",
            "When the revocation list in force lapses, since 1970",
            Unit::Seconds,
            self.crl_next_update.0.clone(),
        );
        r.register("crl_failures", "Revocation lists that could not be made", self.crl_failures.0.clone());
        r.register_with_unit(
            "ca_not_after_timestamp",
            "End of the certificate of the CA, since 1970",
            Unit::Seconds,
            self.ca_not_after.0.clone(),
        );
        r.register(
            "ca_former",
            "CAs before the one that issues that are still trusted: 0 or 1",
            self.ca_former.0.clone(),
        );
        r.register_with_unit(
            "server_certificate_not_after_timestamp",
            "End of the broker's own certificate, since 1970",
            Unit::Seconds,
            self.server_certificate_not_after.0.clone(),
        );
        r.register("registry_requests", "Answers of the client registry by state", self.registry_requests.clone());
        r.register("registry_bad_input", "Malformed requests to the client registry", self.registry_bad_input.clone());
        r.register("registry_pending", "Requests that wait for a decision", self.registry_pending.0.clone());
        r.register("registry_renewals", "Requests for a new certificate by outcome", self.registry_renewals.clone());
        r.register("registry_invitations", "Invitations to renew a certificate", self.registry_invitations.0.clone());
        r.register("registry_decisions", "Decisions about requests", self.registry_decisions.clone());
        r.register("registry_tokens", "Claim tokens whose time is not over", self.registry_tokens.0.clone());
        r.register(
            "registry_tokens_refused",
            "Claims with a token that is not good",
            self.registry_tokens_refused.clone(),
        );
    }

    /// A connection has come up on the listener with this name, which the operator gave: it counts as open until the guard
    /// is dropped.
    pub fn connection_opened(&self, listener: &str) -> OpenConnection {
        let label = [("listener", listener.to_owned())];
        self.accepted.get_or_create(&label).inc();
        let open = self.open.get_or_create_owned(&label);
        open.inc();
        OpenConnection(open)
    }

    /// The system gave no further connection.
    pub fn accept_failed(&self) {
        self.connections_refused.inc(ConnectionRefusal::AcceptFailed);
    }

    /// The TLS handshake failed or took too long.
    pub fn handshake_failed(&self) {
        self.connections_refused.inc(ConnectionRefusal::TlsHandshake);
    }

    /// The connection ended, or its time was over, before there was a CONNECT.
    pub fn connect_missing(&self) {
        self.connections_refused.inc(ConnectionRefusal::ConnectMissing);
    }

    /// A CONNECT was answered with this code.
    pub fn connect_refused(&self, reason: ReasonCode) {
        self.connections_refused.inc(match reason {
            ReasonCode::MalformedPacket | ReasonCode::ProtocolError | ReasonCode::UnsupportedProtocolVersion => {
                ConnectionRefusal::Protocol
            }
            ReasonCode::ClientIdentifierNotValid => ConnectionRefusal::ClientIdentifier,
            ReasonCode::BadUserNameOrPassword | ReasonCode::BadAuthenticationMethod => {
                ConnectionRefusal::BadCredentials
            }
            ReasonCode::NotAuthorized | ReasonCode::Banned => ConnectionRefusal::NotAuthorized,
            ReasonCode::ServerBusy | ReasonCode::ServerUnavailable => ConnectionRefusal::Busy,
            ReasonCode::ServerShuttingDown => ConnectionRefusal::ShuttingDown,
            _ => ConnectionRefusal::Other,
        });
    }

    /// A packet broke the protocol.
    pub fn malformed(&self, reason: ReasonCode) {
        self.malformed.inc(reason);
    }

    /// Bytes came from a socket.
    pub fn bytes_read(&self, bytes: usize) {
        self.hot(|hot| add(Some(&hot.bytes), RECEIVED, count(bytes)));
    }

    /// Bytes were handed to a socket.
    pub fn bytes_written(&self, bytes: usize) {
        self.hot(|hot| add(Some(&hot.bytes), SENT, count(bytes)));
    }

    /// A packet came.
    pub fn packet_received(&self, packet: &Packet) {
        self.packet(RECEIVED, packet);
    }

    /// A packet goes.
    pub fn packet_sent(&self, packet: &Packet) {
        self.packet(SENT, packet);
    }

    /// A PUBLISH goes that was never made a [`Packet`].
    pub fn publish_sent(&self, qos: QoS, payload_bytes: usize) {
        self.hot(|hot| {
            add(hot.packets.get(SENT), PacketType::Publish.index(), 1);
            hot.publish(SENT, qos, payload_bytes);
        });
    }

    fn packet(&self, direction: usize, packet: &Packet) {
        self.hot(|hot| {
            add(hot.packets.get(direction), packet.packet_type().index(), 1);
            if let Packet::Publish(publish) = packet {
                hot.publish(direction, publish.qos, publish.payload.len());
            }
        });
    }

    /// The counters of the calling thread.
    fn hot(&self, count: impl FnOnce(&HotCounters)) {
        // Only numbers the threads; all counts live in their `Metrics`.
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static SHARD: usize = THREADS.fetch_add(1, Relaxed) % SHARDS;
        }
        if let Some(hot) = SHARD.with(|shard| self.hot.get(*shard)) {
            count(hot);
        }
    }

    /// The OpenMetrics text, to be served as [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail, and no collector of ours does.
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl<L: Label> Counters<L> {
    fn new() -> Self {
        Self { cells: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(), label: PhantomData }
    }

    /// Counts one.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// Counts several.
    pub fn add(&self, label: L, count: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.fetch_add(count, Relaxed);
        }
    }

    /// The count.
    pub fn get(&self, label: L) -> u64 {
        self.cells.get(label.index()).map_or(0, |cell| cell.load(Relaxed))
    }
}

impl<L> fmt::Debug for Counters<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cells.fmt(f)
    }
}

impl<L: Label> EncodeMetric for Counters<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        L::ALL
            .iter()
            .zip(self.cells.iter())
            .try_for_each(|((_, text), cell)| encode_count(&mut encoder, &[(L::NAME, *text)], cell.load(Relaxed)))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

fn encode_count(encoder: &mut MetricEncoder<'_>, labels: &[(&str, &str); 1], count: u64) -> fmt::Result {
    encoder.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Counts several.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// One less.
    pub fn dec(&self) {
        self.0.dec();
    }

    /// So many more, or fewer.
    pub fn add(&self, difference: i64) {
        self.0.inc_by(difference);
    }

    /// So many; what does not fit is the greatest that does.
    pub fn set(&self, value: impl TryInto<i64>) {
        self.0.set(value.try_into().unwrap_or(i64::MAX));
    }

    /// How many.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

impl ReasonCounters {
    /// Counts one.
    fn inc(&self, reason: ReasonCode) {
        if let Some(cell) = self.0.get(usize::from(reason as u8)) {
            cell.fetch_add(1, Relaxed);
        }
    }
}

impl fmt::Debug for ReasonCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReasonCounters").finish_non_exhaustive()
    }
}

impl EncodeMetric for ReasonCounters {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (code, cell) in self.0.iter().enumerate() {
            let count = cell.load(Relaxed);
            if count > 0 {
                encode_count(&mut encoder, &[("reason_code", &format!("0x{code:02X}"))], count)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl HotCounters {
    fn publish(&self, direction: usize, qos: QoS, payload_bytes: usize) {
        add(self.publish.get(direction), qos.index(), 1);
        add(Some(&self.payload), direction, count(payload_bytes));
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn add<const N: usize>(cells: Option<&[AtomicU64; N]>, index: usize, count: u64) {
    if let Some(cell) = cells.and_then(|cells| cells.get(index)) {
        cell.fetch_add(count, Relaxed);
    }
}

/// Adds the shards up when somebody asks.
#[derive(Debug)]
struct HotCollector(Arc<[HotCounters]>);

impl HotCollector {
    fn sum<'a>(&'a self, cell: impl Fn(&'a HotCounters) -> Option<&'a AtomicU64>) -> u64 {
        self.0.iter().filter_map(cell).map(|cell| cell.load(Relaxed)).fold(0, u64::wrapping_add)
    }

    fn family<'a, L: Label>(
        &'a self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        cell: impl Fn(&'a HotCounters, usize) -> Option<&'a AtomicU64>,
    ) -> fmt::Result {
        let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        L::ALL.iter().enumerate().try_for_each(|(at, (_, text))| {
            encode_count(&mut encoder, &[(L::NAME, *text)], self.sum(|shard| cell(shard, at)))
        })
    }
}

impl HotCollector {
    fn total<'a>(
        &'a self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        cell: impl Fn(&'a HotCounters) -> Option<&'a AtomicU64>,
    ) -> fmt::Result {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.sum(cell), None)
    }
}

impl Collector for HotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (at, packets, publish, bytes, payload) in [
            (RECEIVED, "packets_received", "publish_received", "bytes_received", "payload_bytes_received"),
            (SENT, "packets_sent", "publish_sent", "bytes_sent", "payload_bytes_sent"),
        ] {
            self.family::<PacketType>(&mut encoder, packets, "MQTT control packets by type.", |shard, packet| {
                shard.packets.get(at)?.get(packet)
            })?;
            self.family::<QoS>(&mut encoder, publish, "PUBLISH packets by quality of service.", |shard, qos| {
                shard.publish.get(at)?.get(qos)
            })?;
            let (bytes_help, payload_help) = ("Bytes on the wire, inside TLS.", "Bytes of PUBLISH payloads.");
            self.total(&mut encoder, bytes, bytes_help, |shard| shard.bytes.get(at))?;
            self.total(&mut encoder, payload, payload_help, |shard| shard.payload.get(at))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(text: &str) -> String {
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| {
                let (name, kind) = line.split_once(' ').unwrap();
                if kind == "counter" { format!("{name}_total counter") } else { line.to_owned() }
            })
            .collect();
        names.sort();
        names.join("\n")
    }

    #[test]
    fn the_names_are_an_interface() {
        let metrics = Metrics::new();
        let _open = metrics.connection_opened("mqtts");
        insta::assert_snapshot!(series(&metrics.encode()), @r"
        portcullis_answers_total counter
        portcullis_argon2_busy gauge
        portcullis_argon2_waiting gauge
        portcullis_audit_collapsed_total counter
        portcullis_audit_dropped_total counter
        portcullis_audit_records_total counter
        portcullis_authentications_total counter
        portcullis_build info
        portcullis_bytes_received_total counter
        portcullis_bytes_sent_total counter
        portcullis_ca_former gauge
        portcullis_ca_not_after_timestamp_seconds gauge
        portcullis_certificates_revoked_total counter
        portcullis_commit_duration_seconds histogram
        portcullis_commit_failures_total counter
        portcullis_connections_ended_total counter
        portcullis_connections_open gauge
        portcullis_connections_refused_total counter
        portcullis_connections_total counter
        portcullis_crl_entries gauge
        portcullis_crl_failures_total counter
        portcullis_crl_next_update_timestamp_seconds gauge
        portcullis_crl_number gauge
        portcullis_http_requests_total counter
        portcullis_malformed_packets_total counter
        portcullis_messages_dropped_total counter
        portcullis_packets_received_total counter
        portcullis_packets_sent_total counter
        portcullis_payload_bytes_received_total counter
        portcullis_payload_bytes_sent_total counter
        portcullis_policy_version gauge
        portcullis_publish_received_total counter
        portcullis_publish_sent_total counter
        portcullis_quota_exceeded_total counter
        portcullis_refusals_total counter
        portcullis_registry_bad_input_total counter
        portcullis_registry_decisions_total counter
        portcullis_registry_invitations_total counter
        portcullis_registry_pending gauge
        portcullis_registry_renewals_total counter
        portcullis_registry_requests_total counter
        portcullis_registry_tokens gauge
        portcullis_registry_tokens_refused_total counter
        portcullis_retained_bytes gauge
        portcullis_retained_messages gauge
        portcullis_server_certificate_not_after_timestamp_seconds gauge
        portcullis_sessions gauge
        portcullis_subscriptions gauge
        ");
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        let open = (metrics.connection_opened("mqtts"), metrics.connection_opened("mqtts"));
        drop(open.0);
        metrics.handshake_failed();
        metrics.connect_refused(ReasonCode::BadUserNameOrPassword);
        metrics.bytes_read(12);
        metrics.packet_received(&Packet::PingReq);
        metrics.publish_sent(QoS::ExactlyOnce, 7);
        metrics.malformed(ReasonCode::MalformedPacket);
        metrics.dropped.add(DropCause::QueueFull, 3);
        metrics.retained_bytes.set(u64::MAX);
        metrics.commits.observe(Duration::from_millis(3));
        let text = metrics.encode();
        for line in [
            "portcullis_connections_open{listener=\"mqtts\"} 1",
            "portcullis_connections_total{listener=\"mqtts\"} 2",
            "portcullis_connections_refused_total{reason=\"handshake\"} 1",
            "portcullis_connections_refused_total{reason=\"bad_credentials\"} 1",
            "portcullis_connections_refused_total{reason=\"connections\"} 0",
            "portcullis_packets_received_total{type=\"pingreq\"} 1",
            "portcullis_packets_received_total{type=\"auth\"} 0",
            "portcullis_packets_sent_total{type=\"publish\"} 1",
            "portcullis_bytes_received_total 12",
            "portcullis_payload_bytes_sent_total 7",
            "portcullis_publish_sent_total{qos=\"2\"} 1",
            "portcullis_malformed_packets_total{reason_code=\"0x81\"} 1",
            "portcullis_messages_dropped_total{cause=\"queue_full\"} 3",
            "portcullis_retained_bytes 9223372036854775807",
            "portcullis_commit_duration_seconds_count 1",
            "portcullis_refusals_total{action=\"will\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn counts_of_all_threads_are_added_up() {
        let metrics = Metrics::new();
        std::thread::scope(|scope| {
            for _ in 0..SHARDS + 3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        metrics.bytes_written(2);
                    }
                });
            }
        });
        let text = metrics.encode();
        assert!(text.contains(&format!("portcullis_bytes_sent_total {}\n", 200 * (SHARDS + 3))), "{text}");
    }

    #[test]
    fn every_label_value_stands_at_its_index() {
        fn check<L: Label>() {
            for (at, (value, _)) in L::ALL.iter().enumerate() {
                assert_eq!(value.index(), at);
            }
        }
        check::<ConnectionRefusal>();
        check::<ConnectionEnd>();
        check::<AuthenticationOutcome>();
        check::<PacketType>();
        check::<QoS>();
        check::<QuotaKind>();
        assert_eq!(PacketType::ALL.len(), HotCounters::default().packets[0].len());
    }
}

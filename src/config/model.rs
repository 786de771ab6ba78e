//! The configuration as plain values, with the default of each.
//!
//! The shipped broker.toml documents every key behind these fields with its unit, range and default.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::source::Source;
use crate::access::{Auth, Network, Permission, Quota, Role, RoleName, Username, UsernamePattern};
use crate::pki::{Naming, UriPrefix};

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_hours(24);

/// Everything that broker.toml can say. [`Config::load`] and [`Config::parse`] make it; two are equal when they mean
/// the same, wherever it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Store, admin socket, initial admin password.
    pub data_dir: PathBuf,
    /// Threads that serve connections; `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// The broker's own certificate.
    pub tls: Tls,
    /// The authority that issues client certificates.
    pub ca: Ca,
    /// Enrolment.
    pub registry: Registry,
    /// What the access model leaves open.
    pub access: Access,
    /// Password policy and hashing.
    pub password: Password,
    /// Bounds of everything that a client can make grow.
    pub limits: Limits,
    /// The record store.
    pub store: Store,
    /// Administration.
    pub admin: Admin,
    /// The audit log.
    pub audit: Audit,
    /// Metrics endpoint.
    pub metrics: Metrics,
    /// The broker's own log.
    pub log: Log,
    /// Roles that the file owns (`managed_by` is config).
    pub roles: Vec<Role>,
    /// Users that the file owns.
    pub users: Vec<ConfiguredUser>,
    /// Where it was all written.
    pub source: Source,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique; in logs, metrics and `registry unlock --listener`.
    pub name: String,
    /// Port 0 lets the system choose.
    pub bind: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// TLS, with the certificate of [`Tls`].
    pub tls: bool,
    /// Whether clients are asked for a certificate; only with TLS.
    pub client_certificate: ClientCertificate,
    /// May clients without credentials enrol? Only with TLS or on loopback.
    pub registration: bool,
    /// The user whose identity clients without credentials take; never together with `registration`.
    pub anonymous: Option<Username>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1 and 5.0.
    #[default]
    Mqtt,
    /// HTTP/1.1 over TLS: enrolment, and nothing else of the API.
    Https,
}

/// Whether a TLS listener asks its clients for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Not asked for.
    #[default]
    Off,
    /// Asked for; a client without one may use a password.
    Optional,
    /// A client without one is refused during the handshake.
    Required,
}

/// Section `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM, the chain of the broker's certificate; made at the first start when it and the key are absent.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// Oldest version of TLS that is spoken.
    pub min_version: TlsVersion,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// Section `[ca]`.
#[derive(Clone, Debug)]
pub struct Ca {
    /// PEM; made at the first start when it and the key are absent.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// How long an issued client certificate is good, 1 hour to 10 years.
    pub validity: Duration,
    /// How long a revocation list is good, 1 hour to 90 days; a new one is made at half that time.
    pub crl_validity: Duration,
    /// Where the revocation list can be fetched: an `http://` or `https://` URL that issued certificates name.
    pub crl_url: Option<String>,
    /// By what a client certificate names its user.
    pub naming: Naming,
    /// By what URI issued certificates name their user, beside the common name.
    pub uri_prefix: Option<UriPrefix>,
    /// What the key is encrypted with: from `passphrase_file`, `passphrase_env`, or the systemd credential `ca-passphrase`.
    pub passphrase: Option<SecretString>,
    /// Further anchors for certificates of clients, each for its own names.
    pub trust: Vec<Trust>,
}

impl PartialEq for Ca {
    fn eq(&self, other: &Self) -> bool {
        let plain = |ca: &Self| {
            let Self { certificate, key, validity, crl_validity, crl_url, naming, uri_prefix, passphrase: _, trust } =
                ca.clone();
            (certificate, key, validity, crl_validity, crl_url, naming, uri_prefix, trust)
        };
        plain(self) == plain(other)
            && self.passphrase.as_ref().map(ExposeSecret::expose_secret)
                == other.passphrase.as_ref().map(ExposeSecret::expose_secret)
    }
}

/// A `[[ca.trust]]`: whoever has a certificate of this CA may be a user with such a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// PEM: one or more certificates of CAs.
    pub certificate: PathBuf,
    /// The names that it is good for.
    pub username: UsernamePattern,
    /// By what its certificates name their user.
    pub naming: Naming,
}

/// Section `[registry]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    /// How long `registry unlock` opens the registry, 10 seconds to 1 day.
    pub unlock_for: Duration,
    /// When a pending request lapses, 1 minute to 30 days.
    pub pending_ttl: Duration,
    /// Pending requests in all, 1 to 1,000,000. The last tenth is for networks (/16; /32 for IPv6) that hold less than a hundredth of it.
    pub max_pending: usize,
    /// Pending requests of one source address (/64 for IPv6), 1 to 1,000,000.
    pub max_pending_per_source: usize,
    /// Longest life of a registration session, 10 seconds to 1 day.
    pub session_lifetime: Duration,
    /// Registry operations of one source address in a minute, 1 to 100,000.
    pub requests_per_minute: u32,
    /// How long after its end a certificate can still be renewed, 0 (not at all) to 1 year.
    pub renew_grace: Duration,
    /// Must a certificate signing request hold a nonce of the broker?
    pub require_nonce: bool,
    /// How many different people must grant a request, 1 or 2.
    pub approvals: u8,
    /// What is decided without a person.
    pub rules: Vec<RegistryRule>,
}

/// One `[[registry.rule]]`: what of a request must be so, and what is decided then.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryRule {
    /// Unique; in the audit log.
    pub name: String,
    /// Requests from one of these networks; empty: from anywhere.
    pub source: Vec<Network>,
    /// Requests through this listener.
    pub listener: Option<String>,
    /// Requests with a key of one of these kinds; empty: with any, or with none.
    pub key: Vec<KeyAlgorithm>,
    /// Requests for these names.
    pub username: Option<UsernamePattern>,
    /// What is decided.
    pub action: RuleAction,
}

/// What a [`RegistryRule`] decides.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleAction {
    /// The request becomes a user at once.
    Grant(RuleGrant),
    /// The request is turned down.
    Deny {
        /// For the device.
        reason: String,
    },
}

/// What a rule gives. Names a network, a listener or a kind of key, always.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleGrant {
    /// Roles that exist when the broker starts.
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    pub permissions: Vec<Permission>,
    /// Put in front of every topic that it publishes to.
    pub publish_prefix: Option<String>,
    /// Life of its certificates; `None`: [`Ca::validity`].
    pub validity: Option<Duration>,
    /// Does it grant while the registry is locked, too?
    pub while_locked: bool,
    /// Most users that it has made and that are there, 1 to 1,000,000.
    pub limit: usize,
}

/// Kinds of keys, as rules name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of any admitted size.
    Rsa,
}

/// Section `[access]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Retained messages whose publisher may no longer write their topic.
    pub orphaned_retained: OrphanedRetained,
    /// Filters that overlap an allow without being covered by one.
    pub partial_subscription: PartialSubscription,
    /// What an MQTT 3.1.1 client sees of a refused PUBLISH.
    pub denied_publish: DeniedPublish,
    /// May the receiver of a request answer once to its Response Topic without a rule for that?
    pub response_grants: bool,
    /// How long it may, 100 ms to 1 day.
    pub response_grant_for: Duration,
}

/// See [`Access::orphaned_retained`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanedRetained {
    /// Kept and not delivered until the right returns.
    Withhold,
    /// Delivered as before.
    Keep,
    /// Removed.
    Drop,
}

/// See [`Access::partial_subscription`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartialSubscription {
    /// Refused (0x87).
    Refuse,
    /// Granted, and only the permitted topics are delivered.
    Filter,
}

/// See [`Access::denied_publish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// The connection is closed.
    Disconnect,
    /// The message is acknowledged and dropped.
    Acknowledge,
}

/// Section `[password]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Password {
    /// Characters that a new password must have, 1 to 128.
    pub min: usize,
    /// Lower-case letters, 0 to 50.
    pub lower: usize,
    /// Upper-case letters, 0 to 50.
    pub upper: usize,
    /// Digits, 0 to 50.
    pub numeric: usize,
    /// Characters that are neither letters nor digits, 0 to 50.
    pub symbol: usize,
    /// Cost of a hash.
    pub argon2: Argon2,
    /// Threads that check passwords, 1 to 64.
    pub workers: usize,
    /// Checks that may wait for them; one more is answered "server busy". 1 to 100,000.
    pub queue: usize,
}

/// Parameters of argon2id (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2 {
    /// Memory in KiB, 8 to 262,144 and at least 8 per lane; times `iterations` at most 1,048,576.
    pub memory_kib: u32,
    /// Passes, 1 to 64.
    pub iterations: u32,
    /// Lanes, 1 to 16.
    pub parallelism: u32,
}

/// Section `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, 1 to 10,000,000.
    pub connections: usize,
    /// Connections at a time of one source address (/64 for IPv6), 1 to 10,000,000.
    pub connections_per_address: usize,
    /// Largest control packet in bytes, 256 B to 268,435,460 B (the Maximum Packet Size that the broker announces).
    pub packet_size: u32,
    /// The Receive Maximum that the broker announces, 1 to 65,535.
    pub inflight: NonZeroU16,
    /// Messages that wait for one session, 1 to 10,000,000.
    pub queue_messages: usize,
    /// Bytes that wait for one session.
    pub queue_bytes: u64,
    /// From the accepted connection to its CONNECT packet, 100 ms to 5 minutes.
    pub connect_timeout: Duration,
    /// Subscriptions of one session, 1 to 1,000,000.
    pub subscriptions: usize,
    /// Levels of a topic name or filter, 1 to 1,024.
    pub topic_levels: usize,
    /// Longest life of a session without connection, in whole seconds, 0 to 4,294,967,294.
    pub session_expiry: u32,
    /// Longest Keep Alive in seconds; `None`: the client's choice, 0 (no keep alive) included.
    pub keep_alive: Option<NonZeroU16>,
    /// Bytes that wait for all sessions together.
    pub queue_total_bytes: u64,
    /// Sessions in all, with and without a connection, 1 to 100,000,000.
    pub sessions: usize,
    /// Retained messages in all, 0 to 100,000,000.
    pub retained_messages: usize,
    /// Bytes of all retained messages.
    pub retained_bytes: u64,
}

/// Section `[store]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// When a commit is safe.
    pub durability: Durability,
}

/// When a commit of users, roles and requests is safe on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is answered.
    Sync,
    /// Within half a second.
    Interval,
    /// Never: nothing is written to disk.
    Memory,
}

/// Section `[admin]`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where the REST API is served over HTTPS; `None`: on the Unix socket only.
    pub bind: Option<SocketAddr>,
    /// May devices enrol there too?
    pub registration: bool,
    /// Connections to it at a time, and to each listener with the protocol `https`: 1 to 100,000.
    pub connections: usize,
    /// The same of one source address (/64 for IPv6), 1 to 100,000.
    pub connections_per_address: usize,
    /// The password of the user `admin`, from the file that `admin_password_file` names.
    pub password: Option<SecretString>,
}

impl PartialEq for Admin {
    fn eq(&self, other: &Self) -> bool {
        let plain = |admin: &Self| (admin.bind, admin.registration, admin.connections, admin.connections_per_address);
        plain(self) == plain(other)
            && self.password.as_ref().map(ExposeSecret::expose_secret)
                == other.password.as_ref().map(ExposeSecret::expose_secret)
    }
}

/// Section `[audit]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// How long records are kept, 1 day to 100 years.
    pub keep: Duration,
    /// Records that are kept at most, 1,000 to 1,000,000,000.
    pub max_records: u64,
    /// Bytes that are kept at most, 1 MiB to 1,024 GiB.
    pub max_bytes: u64,
    /// How long refusals of one kind are collected to one record, 1 second to 1 hour.
    pub interval: Duration,
}

/// Section `[metrics]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where metrics are served over HTTP; `None`: nowhere.
    pub bind: Option<SocketAddr>,
}

/// Section `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important records that are written.
    pub level: LogLevel,
    /// How they look.
    pub format: LogFormat,
}

/// See [`Log::level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What needs an operator now.
    Error,
    /// What needs one soon.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As in the file and as `tracing` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// See [`Log::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A user that the file owns. Its id and its times are the directory's.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfiguredUser {
    /// The name that it logs in with; none of the reserved ones.
    pub username: Username,
    /// For people.
    pub description: String,
    /// A disabled user may do nothing.
    pub enabled: bool,
    /// Which proof it must give; [`Auth::None`] only for the user that a listener names in `anonymous`.
    pub auth: Auth,
    /// Present exactly when `auth` admits passwords.
    pub password: Option<ConfiguredPassword>,
    /// Each is built in or one of [`Config::roles`].
    pub roles: Vec<RoleName>,
    /// Rules of its own.
    pub permissions: Vec<Permission>,
    /// Ends in `/`, does not begin with `$`.
    pub publish_prefix: Option<String>,
    /// Pattern of its client identifiers.
    pub client_id: Option<String>,
    /// How much of the broker it may take up.
    pub quota: Option<Quota>,
    /// End of the identity.
    pub expires_at: Option<Timestamp>,
}

/// Never a password in the file itself.
#[derive(Clone, Debug)]
pub enum ConfiguredPassword {
    /// An argon2id PHC string, parsed once to see that it is one.
    Hash(SecretString),
    /// From `password_file`, without the newline at its end; to be hashed.
    Plain(SecretString),
}

impl PartialEq for ConfiguredPassword {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Hash(one), Self::Hash(two)) | (Self::Plain(one), Self::Plain(two)) => {
                one.expose_secret() == two.expose_secret()
            }
            _ => false,
        }
    }
}

impl Config {
    /// What the listener of the REST API is called, which has no section of its own.
    pub(crate) fn api_listener(&self) -> Option<&'static str> {
        self.admin.bind.map(|_| "admin")
    }

    /// Every listener by name, with that of the REST API.
    pub(crate) fn listener_names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|listener| listener.name.as_str()).chain(self.api_listener())
    }

    /// What an empty file in `base_dir` means.
    ///
    /// ```
    /// # use portcullis::config::Config;
    /// assert_eq!(Config::new("."), Config::parse("", ".")?);
    /// # Ok::<(), portcullis::config::ConfigError>(())
    /// ```
    pub fn new(base_dir: impl AsRef<Path>) -> Self {
        let base = base_dir.as_ref();
        Self {
            data_dir: base.join("data"),
            workers: None,
            listeners: Listener::defaults(),
            tls: Tls {
                certificate: base.join("certs/server.pem"),
                key: base.join("certs/server.key"),
                min_version: TlsVersion::V1_2,
            },
            ca: Ca {
                certificate: base.join("certs/ca.pem"),
                key: base.join("certs/ca.key"),
                validity: DAY * 90,
                crl_validity: DAY * 7,
                crl_url: None,
                naming: Naming::CommonName,
                uri_prefix: None,
                passphrase: None,
                trust: Vec::new(),
            },
            registry: Registry::default(),
            access: Access::default(),
            password: Password::default(),
            limits: Limits::default(),
            store: Store { durability: Durability::Sync },
            admin: Admin::default(),
            audit: Audit::default(),
            metrics: Metrics { bind: Some(loopback(9464)) },
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
            roles: Vec::new(),
            users: Vec::new(),
            source: Source::default(),
        }
    }

    /// The Unix socket that the command line talks to.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// The directory of the record store.
    pub fn store_directory(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// The file that the first administrator's password is written to when nobody is there to be shown it; gone with the
    /// first change of that password.
    pub fn initial_admin_password(&self) -> PathBuf {
        self.data_dir.join("initial-admin-password")
    }
}

impl Listener {
    /// How addresses of it are written: `mqtt`, `mqtts` or `https`.
    pub fn scheme(&self) -> &'static str {
        match (self.protocol, self.tls) {
            (Protocol::Https, _) => "https",
            (Protocol::Mqtt, true) => "mqtts",
            (Protocol::Mqtt, false) => "mqtt",
        }
    }

    /// The listeners when the file names none: TLS with enrolment for the world, plaintext for this machine.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self {
                name: "mqtts".to_owned(),
                bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8883),
                protocol: Protocol::Mqtt,
                tls: true,
                client_certificate: ClientCertificate::Optional,
                registration: true,
                anonymous: None,
            },
            Self {
                name: "local".to_owned(),
                bind: loopback(1883),
                protocol: Protocol::Mqtt,
                tls: false,
                client_certificate: ClientCertificate::Off,
                registration: false,
                anonymous: None,
            },
        ]
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            unlock_for: Duration::from_mins(5),
            pending_ttl: DAY,
            max_pending: 10_000,
            max_pending_per_source: 100,
            session_lifetime: Duration::from_hours(1),
            requests_per_minute: 60,
            renew_grace: DAY * 30,
            require_nonce: false,
            approvals: 1,
            rules: Vec::new(),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            orphaned_retained: OrphanedRetained::Withhold,
            partial_subscription: PartialSubscription::Refuse,
            denied_publish: DeniedPublish::Disconnect,
            response_grants: false,
            response_grant_for: Duration::from_secs(30),
        }
    }
}

impl Default for Password {
    fn default() -> Self {
        let argon2 = Argon2 { memory_kib: 19_456, iterations: 2, parallelism: 1 };
        Self { min: 12, lower: 0, upper: 0, numeric: 0, symbol: 0, argon2, workers: 1, queue: 256 }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            bind: Some(loopback(8443)),
            registration: true,
            connections: 512,
            connections_per_address: 32,
            password: None,
        }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { keep: DAY * 365, max_records: 10_000_000, max_bytes: 4096 * MIB, interval: Duration::from_mins(1) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 100_000,
            connections_per_address: 1_000,
            packet_size: 1 << 20,
            inflight: NonZeroU16::MIN.saturating_add(99),
            queue_messages: 10_000,
            queue_bytes: 16 * MIB,
            connect_timeout: Duration::from_secs(10),
            subscriptions: 1_000,
            topic_levels: 128,
            session_expiry: 30 * 86_400,
            keep_alive: None,
            queue_total_bytes: 1024 * MIB,
            sessions: 200_000,
            retained_messages: 1_000_000,
            retained_bytes: 256 * MIB,
        }
    }
}

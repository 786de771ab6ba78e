//! The start, in order: sockets, files, store, certificates, users of the configuration, first administrator, tasks.
//!
//! What another program can have taken comes first: a start that fails for it leaves nothing behind.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::server_certificate::{self, ServerCertificateKeeper};
use super::{Broker, FirstAdmin, StartError, Started, settings, tasks};
use crate::{
    access::UserId,
    admin,
    audit::{AuditKey, Keeper, Recorder},
    authn::{
        Anchors, Authenticator, AuthenticatorSettings, Hasher, Lane, PasswordHash, PasswordPolicy, Rehash, Source,
        Trusted,
    },
    authority::Authority,
    clock::{Clock, Timestamp},
    config::{self, Config, ConfiguredPassword},
    crl::CrlPublisher,
    directory::{Directory, NewUser},
    files,
    metrics::Metrics,
    net::{
        Admission, ClientCertificate, Departures, Inside, Listener, Registrations, Server, ServerKey, Sessions,
        TlsAcceptor, TlsSettings, Workers,
    },
    pki::{CertificateAuthority, Lineage, Origin, ServerName, Signers, read_authorities},
    priority::Priority,
    registry::Registry,
    router::Router,
    store::{MemoryStore, SledStore, Store},
};

/// Registration sessions at a time, in all and from one source: a flood of strangers leaves the rest of
/// `limits.connections` to those who belong here.
const REGISTRATION_SESSIONS: (usize, usize) = (1_000, 50);

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4_096;

pub(super) async fn start(config: Config, clock: Arc<dyn Clock>, show_password: bool) -> Result<Broker, StartError> {
    raise_file_limit();
    let sockets = bind_listeners(&config)?;
    let api_socket = bind_optional(&config, "the REST API", "admin.bind", config.admin.bind)?;
    let metrics_socket = bind_optional(&config, "metrics", "metrics.bind", config.metrics.bind)?;
    make_private_directory(&config.data_dir)?;
    let store = open_store(&config)?;
    let metrics = Arc::new(Metrics::new());
    let directory = Directory::open(Arc::clone(&store), Arc::clone(&clock))?.with_metrics(Arc::clone(&metrics));
    let directory = Arc::new(directory);
    let audit_key = AuditKey::load_or_create(&config.data_dir)?;
    let recorder = Arc::new(Recorder::new(Arc::clone(&metrics)));

    let ca_files = settings::authority(&config);
    let (ca, ca_origin) = CertificateAuthority::load_or_create(&ca_files.files(), clock.timestamp())?;
    let signers = Arc::new(Signers::new(ca));
    let authority = Arc::new(Authority::open(
        ca_files,
        Arc::clone(&signers),
        Arc::clone(&store),
        Arc::clone(&directory),
        Arc::clone(&clock),
        Arc::clone(&metrics),
    )?);

    let server_certificate = if api_socket.is_some() || config.listeners.iter().any(|listener| listener.tls) {
        let parts = server_certificate::Parts {
            signers: Arc::clone(&signers),
            directory: Arc::clone(&directory),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            names: server_names,
        };
        Some(ServerCertificateKeeper::open(&config, parts)?)
    } else {
        None
    };
    let anchors = Arc::new(anchors(&config, &signers.load(), authority.lineage()?, clock.timestamp())?);
    tasks::warn_of_anchors_above(&anchors, &[&*signers.load()]);
    let shown = server_certificate.as_ref().map(ServerCertificateKeeper::shown);
    let listening = listeners(&config, sockets, api_socket, &anchors, shown)?;
    let admin_socket = tasks::bind_admin(&config.admin_socket())?;

    let system = |action| move |source| StartError::System { action, source };
    let hasher =
        Arc::new(Hasher::start(settings::hasher(&config)?, Arc::clone(&metrics)).map_err(system("start a thread"))?);
    let password_policy = settings::password_policy(&config)?;
    let authenticator = Authenticator::new(
        AuthenticatorSettings::default(),
        Arc::clone(&hasher),
        Arc::clone(&clock),
        Arc::clone(&metrics),
    )
    .map_err(no_random)?
    .with_rehash(Arc::new(Rehasher(Arc::clone(&directory))));
    authenticator.spare(directory.last_sources());
    reconcile(&config, &directory, &hasher, &password_policy).await?;
    let first_admin = first_admin(&config, &directory, &hasher, &password_policy, show_password).await?;
    let registry = Registry::open(
        Arc::clone(&store),
        Arc::clone(&directory),
        Arc::clone(&signers),
        Arc::new((Arc::clone(&hasher), Arc::clone(authenticator.guesses()), password_policy)),
        Arc::clone(&clock),
        Arc::clone(&metrics),
        settings::registry(&config),
    )?;
    registry.set_recorder(Arc::clone(&recorder));

    let crl = Arc::new(CrlPublisher::new(
        Arc::clone(&store),
        Arc::clone(&directory),
        signers,
        Arc::clone(&clock),
        Arc::clone(&metrics),
        config.ca.crl_validity,
    ));

    let keeper = Arc::new(Keeper::start(
        store,
        Arc::clone(&directory) as _,
        Arc::clone(&clock),
        audit_key,
        Arc::clone(&recorder),
        settings::audit(&config),
    )?);

    let workers = config.workers.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        std::num::NonZeroUsize::get,
    );
    let started = Started {
        listeners: listening.addresses(&config),
        admin: listening.api.as_ref().map(|(socket, _)| address_of(socket)),
        trust_bundle: config.ca.certificate.clone(),
        ca_made: ca_origin == Origin::Created,
        admin_socket: config.admin_socket(),
        metrics: metrics_socket.as_ref().map(address_of),
        first_admin,
    };
    let mailbox = settings::mailbox(&config);
    let acceptors =
        Workers::start("acceptor", workers, Some(Priority::Connecting)).map_err(system("start a thread"))?;
    let server = Arc::new(Server {
        workers: Workers::start("worker", workers, None).map_err(system("start a thread"))?,
        departures: Departures::new(&acceptors),
        acceptors,
        admission: Admission::new(config.limits.connections, config.limits.connections_per_address),
        registrations: Registrations::new(REGISTRATION_SESSIONS.0, REGISTRATION_SESSIONS.1),
        sessions: Sessions::new(mailbox.clone(), config.limits.sessions),
        router: Router::new(settings::retained(&config)),
        directory,
        authenticator: Arc::new(authenticator),
        anchors,
        registry: Arc::new(registry),
        clock,
        metrics,
        recorder,
        mailbox,
        settings: settings::net(&config),
    });
    let control = Workers::start("control", 1, None).map_err(system("start a thread"))?;
    // Of its own: a long answer, or a flood of handshakes, holds up neither messages nor clocks.
    let https = Arc::new(Workers::start("https", 1, None).map_err(system("start a thread"))?);
    let (shutdown, _) = watch::channel(false);
    tasks::run(tasks::Parts {
        server: &server,
        control: &control,
        https: &https,
        shutdown: &shutdown,
        listening,
        admin: &config.admin,
        metrics_socket,
        admin_socket,
        hasher,
        password_policy,
        keeper: Arc::clone(&keeper),
        crl,
        server_certificate,
        authority,
        initial_password: config.initial_admin_password(),
    });
    Ok(Broker { server, started, shutdown, control, https, keeper, admin_socket: config.admin_socket() })
}

fn no_random(error: impl std::fmt::Display) -> StartError {
    StartError::Setting(format!("the operating system gives no random numbers: {error}"))
}

/// As many open files as the system lets us have: each connection is one.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

fn make_private_directory(path: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| StartError::File {
        action: "make the data directory",
        path: path.to_owned(),
        source,
    })
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let path = config.store_directory();
    let opened = match settings::durability(config) {
        Some(durability) => SledStore::open(&path, durability).map(|store| Arc::new(store) as Arc<dyn Store>),
        None => MemoryStore::in_directory(&path).map(|store| Arc::new(store) as Arc<dyn Store>),
    };
    opened.map_err(|source| StartError::Store { path, source })
}

/// A listening socket that no runtime owns yet.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' last minutes.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Says it of the line in the configuration that names the address.
fn not_bound(config: &Config, what: &str, key: &str, address: SocketAddr, source: io::Error) -> StartError {
    let written = config.source.position(key).is_some();
    let other = match (written, key) {
        (true, _) => "choose another `bind`",
        (false, "metrics.bind") => "write another `bind`, or \"off\", in `[metrics]`",
        (false, "admin.bind") => "write another `bind`, or \"off\", in `[admin]`",
        (false, _) => "name your own `[[listener]]`, with another `bind`",
    };
    let (why, advice) = match source.kind() {
        io::ErrorKind::AddrInUse => {
            ("another program listens there".to_owned(), format!("stop that program, or {other}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            ("this machine has no such address".to_owned(), format!("{other}; 0.0.0.0 stands for all that it has"))
        }
        io::ErrorKind::PermissionDenied => {
            ("this user may not".to_owned(), format!("{other}; ports below 1024 need a right of the system"))
        }
        _ => (source.to_string(), other.to_owned()),
    };
    let told = config.source.error(key, format!("{what} cannot listen on {address}: {why}"), advice);
    StartError::Bind { address, source, told: Box::new(told) }
}

fn bind_listeners(config: &Config) -> Result<Vec<std::net::TcpListener>, StartError> {
    let bound = config.listeners.iter().enumerate().map(|(number, listener)| {
        bind(listener.bind).map_err(|source| {
            let (what, key) = (format!("listener `{}`", listener.name), format!("listener[{number}].bind"));
            not_bound(config, &what, &key, listener.bind, source)
        })
    });
    bound.collect()
}

fn bind_optional(
    config: &Config,
    what: &str,
    key: &str,
    address: Option<SocketAddr>,
) -> Result<Option<std::net::TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    bind(address).map(Some).map_err(|source| not_bound(config, what, key, address, source))
}

/// A bound socket always has an address.
fn address_of(socket: &std::net::TcpListener) -> SocketAddr {
    socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
}

/// Sockets, and what is served on them.
pub(super) struct Listening {
    /// In the order of the configuration.
    pub(super) listeners: Vec<(std::net::TcpListener, Served)>,
    /// The REST API.
    pub(super) api: Option<(std::net::TcpListener, TlsAcceptor)>,
}

/// What a listener of the configuration serves.
pub(super) enum Served {
    /// MQTT.
    Mqtt(Arc<Listener>),
    /// Enrolment over HTTPS.
    Enrolment { name: String, tls: TlsAcceptor },
}

impl Listening {
    /// Of every listener with TLS.
    pub(super) fn acceptors(&self) -> Vec<TlsAcceptor> {
        let served = self.listeners.iter().filter_map(|(_, served)| match served {
            Served::Mqtt(listener) => listener.tls.clone(),
            Served::Enrolment { tls, .. } => Some(tls.clone()),
        });
        served.chain(self.api.iter().map(|(_, tls)| tls.clone())).collect()
    }

    fn addresses(&self, config: &Config) -> Vec<(String, SocketAddr, &'static str)> {
        let listeners = config.listeners.iter().zip(&self.listeners);
        listeners
            .map(|(listener, (socket, _))| (listener.name.clone(), address_of(socket), listener.scheme()))
            .collect()
    }
}

/// The CA, and those of `[[ca.trust]]`.
fn anchors(config: &Config, ca: &CertificateAuthority, before: Lineage, now: Timestamp) -> Result<Anchors, StartError> {
    let mut further = Vec::new();
    for trust in &config.ca.trust {
        for certificate in read_authorities(&trust.certificate)? {
            let (from, to) = (certificate.not_before(), certificate.not_after());
            if now < from || to <= now {
                let (file, name) = (trust.certificate.display(), certificate.name());
                // Not a reason to leave everybody else outside.
                tracing::warn!(
                    "`{name}` in `{file}` is valid from {from} to {to}, not now: its certificates are refused"
                );
            }
            let (file, names, naming) = (trust.certificate.clone(), trust.username.clone(), trust.naming.clone());
            further.push(Trusted { file, certificate, names, naming });
        }
    }
    Ok(Anchors::new(ca.issuers(), before, config.ca.naming.clone(), further)?)
}

fn listeners(
    config: &Config,
    sockets: Vec<std::net::TcpListener>,
    api: Option<std::net::TcpListener>,
    anchors: &Anchors,
    certificate: Option<&Arc<ServerKey>>,
) -> Result<Listening, StartError> {
    let anchors = anchors.certificates();
    let tls = |name: &str, client_certificate: ClientCertificate, inside: Inside| {
        let Some(certificate) = certificate else {
            // INVARIANT: whoever asks is one of those for which it was read.
            return Err(StartError::Setting(format!("listener `{name}` has no certificate")));
        };
        TlsAcceptor::new(&TlsSettings {
            certificate,
            client_anchors: &anchors,
            client_certificate,
            tls12: config.tls.min_version == config::TlsVersion::V1_2,
            inside,
        })
        .map_err(|source| StartError::Tls { listener: name.to_owned(), source })
    };
    let listener = |listener: &config::Listener| {
        let name = listener.name.clone();
        if listener.protocol == config::Protocol::Https {
            let tls = tls(&name, ClientCertificate::Off, Inside::Http)?;
            return Ok(Served::Enrolment { name, tls });
        }
        let client_certificate = match listener.client_certificate {
            config::ClientCertificate::Off => ClientCertificate::Off,
            config::ClientCertificate::Optional => ClientCertificate::Optional,
            config::ClientCertificate::Required => ClientCertificate::Required,
        };
        let tls = listener.tls.then(|| tls(&name, client_certificate, Inside::Mqtt)).transpose()?;
        let (registration, anonymous) = (listener.registration, listener.anonymous.clone());
        Ok(Served::Mqtt(Arc::new(Listener { name, tls, registration, anonymous })))
    };
    let served = config.listeners.iter().map(listener).collect::<Result<Vec<_>, StartError>>()?;
    let api = match api {
        Some(socket) => Some((socket, tls(admin::LISTENER, ClientCertificate::Optional, Inside::Http)?)),
        None => None,
    };
    Ok(Listening { listeners: sockets.into_iter().zip(served).collect(), api })
}

/// The names by which this machine is reached: what a made certificate holds.
fn server_names() -> Vec<ServerName> {
    let mut names = vec![ServerName::Dns("localhost".to_owned())];
    if let Some(name) =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| fs::read_to_string("/etc/hostname").ok())
    {
        let name = name.trim().to_ascii_lowercase();
        if !name.is_empty()
            && name
                .split('.')
                .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            names.push(ServerName::Dns(name));
        }
    }
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => addresses.extend(interfaces.into_iter().map(|interface| interface.ip()).filter(is_lasting)),
        Err(error) => tracing::warn!(%error, "the interface addresses are unknown: the server certificate lacks them"),
    }
    addresses.sort_unstable();
    addresses.dedup();
    names.extend(addresses.into_iter().map(ServerName::Address));
    names.dedup();
    names
}

/// Link-local IPv6 addresses are of no use without a zone.
fn is_lasting(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// Puts passwords on record as argon2id that came as PBKDF2 from another broker. Nobody's login waits for it.
struct Rehasher(Arc<Directory>);

impl Rehash for Rehasher {
    fn rehash(&self, user: UserId, verified: String, hash: PasswordHash) {
        let directory = Arc::clone(&self.0);
        // As many at once as argon2 has threads, about: each comes out of one of them.
        drop(tokio::task::spawn_blocking(move || match directory.rehash(user, verified, hash) {
            Ok(true) => tracing::info!(%user, "the password of an imported user is on record as argon2id from now on"),
            // Changed meanwhile, or another login was first.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%user, %error, "the password of an imported user stays on record as PBKDF2 until its next login");
            }
        }));
    }
}

/// Makes the users and roles of the configuration what the file says.
async fn reconcile(
    config: &Config,
    directory: &Directory,
    hasher: &Hasher,
    password_policy: &PasswordPolicy,
) -> Result<(), StartError> {
    let mut users = Vec::with_capacity(config.users.len());
    for user in &config.users {
        let password_hash = match &user.password {
            None => None,
            Some(ConfiguredPassword::Hash(hash)) => Some(hash.expose_secret().to_owned()),
            Some(ConfiguredPassword::Plain(password)) => {
                let policy = directory.policy();
                let stored = policy.user_named(&user.username).and_then(|user| user.password_hash.as_deref());
                Some(hash_of(user.username.as_str(), password, stored, hasher, password_policy).await?)
            }
        };
        users.push(NewUser {
            username: user.username.clone(),
            description: user.description.clone(),
            enabled: user.enabled,
            auth: user.auth,
            password_hash,
            certificates: Vec::new(),
            roles: user.roles.clone(),
            permissions: user.permissions.clone(),
            publish_prefix: user.publish_prefix.clone(),
            client_id: user.client_id.clone(),
            quota: user.quota,
            expires_at: user.expires_at,
        });
    }
    directory.reconcile(config.roles.clone(), users)?;
    Ok(())
}

/// The hash on record where it is still of this password, so that a start with the same file changes nothing.
async fn hash_of(
    username: &str,
    password: &SecretString,
    stored: Option<&str>,
    hasher: &Hasher,
    policy: &PasswordPolicy,
) -> Result<String, StartError> {
    let text = password.expose_secret();
    policy.check(text).map_err(|source| StartError::WeakPassword { username: username.to_owned(), source })?;
    if let Some(stored) = stored
        && hasher.verify(Lane::Administration, Source::Local, text.as_bytes(), Some(stored)).await == Ok(true)
    {
        return Ok(stored.to_owned());
    }
    match hasher.hash(Lane::Administration, Source::Local, text.as_bytes()).await {
        Ok(hash) => Ok(hash.as_str().to_owned()),
        Err(source) => Err(StartError::Hash { username: username.to_owned(), source }),
    }
}

/// At the very first start: an administrator with a password that is drawn, or given by a file.
async fn first_admin(
    config: &Config,
    directory: &Directory,
    hasher: &Hasher,
    policy: &PasswordPolicy,
    show: bool,
) -> Result<Option<FirstAdmin>, StartError> {
    if directory.has_admin() {
        return Ok(None);
    }
    let (password, first) = if let Some(password) = &config.admin.password {
        (password.clone(), FirstAdmin::Given)
    } else {
        let password = policy.draw().map_err(no_random)?;
        let first = if show {
            FirstAdmin::Shown(password.clone())
        } else {
            FirstAdmin::Written(write_initial_password(config.initial_admin_password(), &password)?)
        };
        (password, first)
    };
    directory.create_first_admin(hash_of("admin", &password, None, hasher, policy).await?)?;
    Ok(Some(first))
}

fn write_initial_password(path: PathBuf, password: &SecretString) -> Result<PathBuf, StartError> {
    let line = Zeroizing::new(format!("{}\n", password.expose_secret()));
    files::replace(&path, line.as_bytes(), 0o600).map_err(|source| StartError::File {
        action: "write the first password to",
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

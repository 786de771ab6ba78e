//! What runs beside the connections: listeners, clocks, administration, metrics.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, watch},
    task,
};

use super::{
    StartError, remove_socket,
    server_certificate::ServerCertificateKeeper,
    start::{Listening, Served},
};
use crate::{
    access::Username,
    admin::{self, Site},
    audit::Keeper,
    authn::{Anchors, Hasher, PasswordPolicy},
    authority::{Authority, AuthorityListener},
    clock::Timestamp,
    config,
    crl::CrlPublisher,
    directory::{PolicyChange, PolicyListener},
    net::{self, Admission, HttpsListener, HttpsPeer, Listener, Server, Times, TlsAcceptor, Workers},
    pki::{CertificateAuthority, Signer as _},
};

pub(super) struct Parts<'a> {
    pub(super) server: &'a Arc<Server>,
    pub(super) control: &'a Workers,
    pub(super) https: &'a Arc<Workers>,
    pub(super) shutdown: &'a watch::Sender<bool>,
    pub(super) listening: Listening,
    pub(super) admin: &'a config::Admin,
    pub(super) metrics_socket: Option<std::net::TcpListener>,
    pub(super) admin_socket: std::os::unix::net::UnixListener,
    pub(super) hasher: Arc<Hasher>,
    pub(super) password_policy: PasswordPolicy,
    pub(super) keeper: Arc<Keeper>,
    pub(super) crl: Arc<CrlPublisher>,
    pub(super) server_certificate: Option<ServerCertificateKeeper>,
    pub(super) authority: Arc<Authority>,
    pub(super) initial_password: PathBuf,
}

/// The longest that a clock sleeps without a look.
const CLOCK_PAUSE: Duration = Duration::from_secs(1);

/// When to try again to retire a former CA, at first, and at most.
const LAPSE_RETRY: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// How often the store learns when users were last seen.
const LAST_SEEN_PAUSE: Duration = Duration::from_hours(1);

/// The socket of the command line: only its owner may connect. The directory around it is private too, so that nobody
/// slips in between bind and chmod.
pub(super) fn bind_admin(path: &Path) -> Result<std::os::unix::net::UnixListener, StartError> {
    let bind = || -> io::Result<std::os::unix::net::UnixListener> {
        // The store's lock is held: a socket that is there was left by a broker that was killed.
        remove_socket(path);
        let socket = std::os::unix::net::UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bind().map_err(|source| StartError::AdminSocket { path: path.to_owned(), source })
}

/// Passes changes of the rules on, without keeping the broker alive.
struct OnPolicyChange {
    server: Weak<Server>,
    expiry: Arc<Notify>,
    moved: watch::Sender<()>,
    initial_password: PathBuf,
}

impl PolicyListener for OnPolicyChange {
    fn policy_changed(&self, change: &PolicyChange) {
        if let Some(server) = self.server.upgrade() {
            server.policy_changed(change);
        }
        self.expiry.notify_one();
        self.moved.send_replace(());
        if password_of_admin(&change.old) != password_of_admin(&change.new) {
            match fs::remove_file(&self.initial_password) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %self.initial_password.display(), %error, "the file with the first password could not be removed");
                }
                _ => {}
            }
        }
    }
}

/// Passes another CA on, without keeping the broker alive.
struct OnCaChange {
    server: Weak<Server>,
    acceptors: Vec<TlsAcceptor>,
    /// For the certificate that the broker shows.
    changed: Arc<Notify>,
}

impl AuthorityListener for OnCaChange {
    fn trust(&self, ca: &CertificateAuthority) -> Result<(), String> {
        let Some(server) = self.server.upgrade() else { return Ok(()) };
        server.anchors.replace_own(ca.issuers());
        let anchors = server.anchors.certificates();
        self.acceptors.iter().try_for_each(|tls| tls.trust(&anchors)).map_err(|error| error.to_string())
    }

    fn changed(&self, before: &CertificateAuthority, ca: &CertificateAuthority) {
        self.changed.notify_one();
        if let Some(server) = self.server.upgrade() {
            warn_of_anchors_above(&server.anchors, &[before, ca]);
            server.authority_changed();
        }
    }
}

/// Says which further anchors have issued a CA of ours: their word does not make good what that has signed.
pub(super) fn warn_of_anchors_above(anchors: &Anchors, ours: &[&CertificateAuthority]) {
    for ca in ours {
        for further in anchors.above(&ca.certificates()) {
            tracing::warn!(
                "`{}` of `[[ca.trust]]` is above the broker's own CA `{}`: what that has signed logs in while it is trusted and on record, and never by way of `[[ca.trust]]`",
                further.name(),
                ca.issuer().name()
            );
        }
    }
}

fn password_of_admin(policy: &crate::access::Policy) -> Option<&str> {
    let admin: Username = "admin".parse().ok()?;
    policy.user_named(&admin)?.password_hash.as_deref()
}

pub(super) fn run(parts: Parts<'_>) {
    let Parts { server, control, shutdown, .. } = parts;
    let expiry = Arc::new(Notify::new());
    let moved = watch::Sender::new(());
    server.directory.set_listener(Arc::new(OnPolicyChange {
        server: Arc::downgrade(server),
        expiry: Arc::clone(&expiry),
        moved: watch::Sender::clone(&moved),
        initial_password: parts.initial_password,
    }));
    control.spawn(Arc::clone(server).look_after_sessions(shutdown.subscribe()));
    control.spawn(expire_rules(Arc::clone(server), expiry, shutdown.subscribe()));
    let events = server.registry.watch();
    control.spawn(net::publish_registry_events(Arc::clone(server), events, shutdown.subscribe()));
    control.spawn(tick_registry(Arc::clone(server), shutdown.subscribe()));
    control.spawn(keep_audit(Arc::clone(&parts.keeper), shutdown.subscribe()));
    control.spawn(Arc::clone(&parts.crl).run(shutdown.subscribe()));
    let ca_changed = Arc::new(Notify::new());
    parts.authority.set_listener(Arc::new(OnCaChange {
        server: Arc::downgrade(server),
        acceptors: parts.listening.acceptors(),
        changed: Arc::clone(&ca_changed),
    }));
    if let Some(keeper) = parts.server_certificate {
        control.spawn(keeper.run(Arc::clone(&ca_changed), shutdown.subscribe()));
    }
    control.spawn(retire_lapsed(Arc::clone(&parts.authority), shutdown.subscribe()));
    control.spawn(save_last_seen(Arc::clone(server), shutdown.subscribe()));

    let state = Arc::new(admin::State {
        directory: Arc::clone(&server.directory),
        live: Arc::clone(server) as _,
        registry: Arc::clone(&server.registry),
        hasher: parts.hasher,
        password_policy: parts.password_policy,
        keeper: parts.keeper,
        crl: parts.crl,
        anchors: Arc::clone(&server.anchors),
        authority: parts.authority,
        session: server.settings.session.clone(),
        clock: Arc::clone(&server.clock),
        moved: moved.subscribe(),
    });
    let https = Https { server, control, workers: parts.https, shutdown, admin: parts.admin };
    if let Some((socket, tls)) = parts.listening.api {
        let gate = Arc::new(admin::Gate {
            authenticator: Arc::clone(&server.authenticator),
            recorder: Arc::clone(&server.recorder),
            metrics: Arc::clone(&server.metrics),
        });
        let site = Site::api(&state, gate, parts.admin.registration, shutdown.subscribe());
        https.serve(admin::LISTENER, socket, tls, site);
    }
    for (socket, served) in parts.listening.listeners {
        match served {
            Served::Mqtt(listener) => serve_mqtt(&socket, &listener, server, shutdown),
            Served::Enrolment { name, tls } => {
                https.serve(&name, socket, tls, Site::enrolment(&state, Arc::clone(&server.metrics)));
            }
        }
    }
    let (socket, mut stopped) = (parts.admin_socket, shutdown.subscribe());
    control.spawn(async move {
        let served = async {
            let socket = UnixListener::from_std(socket)?;
            admin::serve(socket, state, async move { drop(stopped.wait_for(|stop| *stop).await) }).await
        };
        if let Err(error) = served.await {
            tracing::error!(%error, "the admin socket has failed");
        }
    });
    if let Some(socket) = parts.metrics_socket {
        let (metrics, mut stopped) = (Arc::clone(&server.metrics), shutdown.subscribe());
        control.spawn(async move {
            match TcpListener::from_std(socket) {
                Ok(socket) => {
                    let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
                    admin::serve_metrics(socket, metrics, stop).await;
                }
                Err(error) => tracing::error!(%error, "the metrics endpoint could not be started"),
            }
        });
    }
}

/// All acceptors wait at the same socket; whoever is awake takes the next connection.
fn serve_mqtt(
    socket: &std::net::TcpListener,
    listener: &Arc<Listener>,
    server: &Arc<Server>,
    shutdown: &watch::Sender<bool>,
) {
    for acceptor in server.acceptors.each() {
        let (listener, shared, stopped) = (Arc::clone(listener), Arc::clone(server), shutdown.subscribe());
        let (socket, thread) = (socket.try_clone(), acceptor.clone());
        acceptor.spawn(async move {
            match socket.and_then(TcpListener::from_std) {
                Ok(socket) => net::listen(socket, listener, shared, thread, stopped).await,
                Err(error) => tracing::error!(listener = listener.name, %error, "the listener could not be started"),
            }
        });
    }
}

/// What all listeners of HTTPS have in common.
struct Https<'a> {
    server: &'a Arc<Server>,
    control: &'a Workers,
    workers: &'a Arc<Workers>,
    shutdown: &'a watch::Sender<bool>,
    admin: &'a config::Admin,
}

impl Https<'_> {
    fn serve(&self, name: &str, socket: std::net::TcpListener, tls: TlsAcceptor, site: Site) {
        let listener = Arc::new(HttpsListener {
            name: name.to_owned(),
            tls,
            admission: Admission::new(self.admin.connections, self.admin.connections_per_address),
            times: Times::default(),
            workers: Arc::clone(self.workers),
            metrics: Arc::clone(&self.server.metrics),
        });
        let named: Arc<str> = name.into();
        let service = move |peer: HttpsPeer| {
            let HttpsPeer { address, certificates } = peer;
            site.service(admin::Peer { address: address.ip(), certificates, listener: Arc::clone(&named) })
        };
        let stopped = self.shutdown.subscribe();
        self.control.spawn(async move {
            match TcpListener::from_std(socket) {
                Ok(socket) => net::serve_https(socket, listener, service, stopped).await,
                Err(error) => tracing::error!(listener = listener.name, %error, "the listener could not be started"),
            }
        });
    }
}

/// The commits that the clock makes: time-boxed grants and users that end.
async fn expire_rules(server: Arc<Server>, expiry: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let now = server.clock.timestamp();
        let pause = match server.directory.next_expiry() {
            Some(at) if at <= now => {
                let directory = Arc::clone(&server.directory);
                match task::spawn_blocking(move || directory.expire(now)).await {
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => tracing::error!(%error, "what has lapsed could not be taken out of force"),
                    Err(error) => tracing::error!(%error, "what has lapsed could not be taken out of force"),
                }
                CLOCK_PAUSE
            }
            Some(at) => until(at, now).min(CLOCK_PAUSE),
            None => CLOCK_PAUSE,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = expiry.notified() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or_default()
}

/// Pending requests that lapse, unlocks that end.
async fn tick_registry(server: Arc<Server>, mut shutdown: watch::Receiver<bool>) {
    loop {
        if let Err(error) = server.registry.tick().await {
            tracing::error!(%error, "the registry's clock has failed");
        }
        tokio::select! {
            () = tokio::time::sleep(CLOCK_PAUSE) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// A former CA whose time is over.
async fn retire_lapsed(authority: Arc<Authority>, mut shutdown: watch::Receiver<bool>) {
    let mut retry = LAPSE_RETRY.0;
    loop {
        let this = Arc::clone(&authority);
        let ended = match task::spawn_blocking(move || this.tick()).await {
            Ok(ended) => ended.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let pause = if let Err(error) = ended {
            tracing::error!(error, "the CA before this one, whose time is over, could not be retired");
            let pause = retry;
            retry = retry.saturating_mul(2).min(LAPSE_RETRY.1);
            pause
        } else {
            retry = LAPSE_RETRY.0;
            CLOCK_PAUSE
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// Refusals that become records, heads that are signed, records whose time is over.
async fn keep_audit(keeper: Arc<Keeper>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(keeper.interval()) => {}
            // What is collected then is written at the very end, when nobody is connected any more.
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let keeper = Arc::clone(&keeper);
        match task::spawn_blocking(move || keeper.tick()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the audit log is not kept"),
            Err(error) => tracing::error!(%error, "the audit log is not kept"),
        }
    }
}

/// When users were last seen, for the next start; the shutdown saves the rest.
async fn save_last_seen(server: Arc<Server>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LAST_SEEN_PAUSE) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
        let directory = Arc::clone(&server.directory);
        match task::spawn_blocking(move || directory.save_last_seen()).await {
            Ok(Ok(users)) => tracing::debug!(users, "saved when users were last seen"),
            Ok(Err(error)) => tracing::error!(%error, "when users were last seen could not be saved"),
            Err(error) => tracing::error!(%error, "when users were last seen could not be saved"),
        }
    }
}

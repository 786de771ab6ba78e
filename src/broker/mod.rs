//! The composition root: a configuration enters, a running broker leaves.
//!
//! [`BrokerBuilder::bind`] opens the store, the CA and every socket before the first connection is accepted: what cannot
//! start, does not start half. Dropping the [`Broker`] stops it; [`Broker::shutdown`] also says goodbye.

mod error;
mod handle;
mod server_certificate;
mod settings;
mod start;
mod tasks;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use secrecy::SecretString;
use tokio::sync::watch;

pub use self::{
    error::StartError,
    handle::{BrokerHandle, NotPublished, NotSubscribed, Subscription},
};
use crate::{
    audit::Keeper,
    clock::{Clock, SystemClock},
    config::Config,
    net::{Server, Workers},
};

/// How long connections get to take their last packets at a shutdown.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How a broker is to be started.
pub struct BrokerBuilder {
    config: Config,
    clock: Arc<dyn Clock>,
    show_password: bool,
}

/// The password of the first administrator, drawn at the very first start.
#[derive(Debug)]
#[non_exhaustive]
pub enum FirstAdmin {
    /// To be shown once: it is stored nowhere.
    Shown(SecretString),
    /// Written to this file (0600), which goes away when the password is changed.
    Written(PathBuf),
    /// Taken from `admin_password_file`.
    Given,
}

/// What a start found and made, for people.
#[derive(Debug)]
#[non_exhaustive]
pub struct Started {
    /// Name, address and scheme (`mqtt`, `mqtts`, `https`) of each listener.
    pub listeners: Vec<(String, SocketAddr, &'static str)>,
    /// The trust bundle, for devices: PEM.
    pub trust_bundle: PathBuf,
    /// Was the CA made by this start?
    pub ca_made: bool,
    /// Where the command line reaches the broker.
    pub admin_socket: PathBuf,
    /// Where the REST API is served over HTTPS.
    pub admin: Option<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Present at the very first start.
    pub first_admin: Option<FirstAdmin>,
}

/// A running broker.
pub struct Broker {
    server: Arc<Server>,
    started: Started,
    shutdown: watch::Sender<bool>,
    /// Everything that is not a connection: listeners, administration, clocks.
    control: Workers,
    /// Connections of HTTPS.
    https: Arc<Workers>,
    /// Has the last word in the audit log.
    keeper: Arc<Keeper>,
    /// Taken away at the end.
    admin_socket: PathBuf,
}

impl Broker {
    /// A broker with this configuration.
    pub fn builder(config: Config) -> BrokerBuilder {
        BrokerBuilder { config, clock: Arc::new(SystemClock), show_password: false }
    }

    /// What this start found and made.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The address of a listener, by its name in the configuration.
    pub fn local_addr(&self, listener: &str) -> Option<SocketAddr> {
        self.started.listeners.iter().find(|(name, ..)| name == listener).map(|(_, address, _)| *address)
    }

    /// For the program that embeds the broker: acts as `system`.
    pub fn handle(&self) -> BrokerHandle {
        BrokerHandle::system(Arc::clone(&self.server))
    }

    /// Tells every client that the broker stops (version 5: DISCONNECT 0x8B), gives them two seconds, and ends.
    pub async fn shutdown(self) {
        self.shutdown.send_replace(true);
        let all_gone = async {
            while self.server.workers.tasks() + self.server.acceptors.tasks() + self.https.tasks() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST_WORDS, all_gone).await.is_err() {
            tracing::warn!("some clients did not take their last packet in time");
        }
        // Writing, and joining the worker threads, blocks for a moment.
        let end = move || {
            if let Err(error) = self.server.directory.save_last_seen() {
                tracing::error!(%error, "when users were last seen could not be saved");
            }
            drop(self);
        };
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            tracing::error!(%error, "the shutdown did not end well");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shutdown.send_replace(true);
        remove_socket(&self.admin_socket);
        self.control.stop();
        self.https.stop();
        self.server.acceptors.stop();
        self.server.workers.stop();
        self.keeper.stop();
    }
}

fn remove_socket(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the admin socket could not be removed");
        }
        _ => {}
    }
}

impl BrokerBuilder {
    /// Another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Hand the first administrator's password to the caller, who can show it to a person, instead of writing it to a
    /// file.
    #[must_use]
    pub fn show_password(mut self, show: bool) -> Self {
        self.show_password = show;
        self
    }

    /// Starts the broker. When this returns, it accepts connections.
    ///
    /// # Errors
    /// Whatever keeps it from starting as configured; then nothing is left running.
    pub async fn bind(self) -> Result<Broker, StartError> {
        start::start(self.config, self.clock, self.show_password).await
    }
}

//! Administration over HTTP: routes, the words that they exchange, and problem details.
//!
//! Requests enter through the Unix socket in the data directory and over HTTPS, each with an entrance that says on whose
//! behalf they are made; what they ask for is done by the directory and the registry, and their answers leave as JSON.
//! Nothing is decided here but who may make the request, and no secret leaves.

pub mod api;
mod apply;
mod audit;
mod ca;
mod caller;
mod certificates;
mod door;
mod explain;
mod extract;
mod https;
mod metrics;
pub mod openapi;
#[cfg(test)]
mod openapi_tests;
#[cfg(test)]
mod operators_tests;
pub mod problem;
mod registry;
mod request;
mod roles;
mod routes;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod users;
mod who_can;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use https::{Gate, LISTENER, Peer, Site};
pub(crate) use metrics::serve_metrics;
pub(crate) use server::serve;

use crate::audit::Keeper;
use crate::authn::{Anchors, Hasher, PasswordPolicy};
use crate::authority::Authority;
use crate::clock::Clock;
use crate::crl::CrlPublisher;
use crate::directory::{Directory, DirectoryError, Expected, LiveSessions};
use crate::registry::Registry;
use crate::session;
use problem::{Kind, Problem};

/// What administration is done with.
pub(crate) struct State {
    /// Users and roles.
    pub(crate) directory: Arc<Directory>,
    /// Says what a change would do to the sessions that there are.
    pub(crate) live: Arc<dyn LiveSessions>,
    /// Devices that ask for an identity.
    pub(crate) registry: Arc<Registry>,
    /// Hashes the passwords that are set.
    pub(crate) hasher: Arc<Hasher>,
    /// What a password that is set must have.
    pub(crate) password_policy: PasswordPolicy,
    /// Looks after the audit log.
    pub(crate) keeper: Arc<Keeper>,
    /// The revocation list, and the CA that signs it.
    pub(crate) crl: Arc<CrlPublisher>,
    /// The CA, and what may be done with it.
    pub(crate) authority: Arc<Authority>,
    /// Whose word a client certificate is.
    pub(crate) anchors: Arc<Anchors>,
    /// What holds for every session.
    pub(crate) session: session::Settings,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// Tells that users or rules have changed.
    pub(crate) moved: watch::Receiver<()>,
}

/// How a handler gets the state.
type Shared = axum::extract::State<Arc<State>>;
/// What a handler answers.
type Answer<T> = Result<T, Problem>;

/// What the directory does, it does blocking.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, DirectoryError> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Problem::from),
        Err(error) => {
            tracing::error!(%error, "an administrative request was not finished");
            Err(Problem::new(Kind::Internal, "the request was not finished; the log says more"))
        }
    }
}

fn expected(read: api::VersionRead) -> Expected {
    read.version.map_or(Expected::Any, Expected::Version)
}

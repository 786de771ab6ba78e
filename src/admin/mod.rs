//! Administration over HTTP: routes, the words that they exchange, and problem details.
//!
//! Requests of operators enter, through the Unix socket in the data directory; what they ask for is done by the
//! directory and the registry, and their answers leave as JSON. Nothing is decided here, and no secret leaves.

pub mod api;
pub mod problem;

mod metrics;
pub(crate) use metrics::serve_metrics;
pub(crate) struct State {
    pub directory: std::sync::Arc<crate::directory::Directory>,
    pub registry: std::sync::Arc<crate::registry::Registry>,
    pub hasher: std::sync::Arc<crate::authn::Hasher>,
    pub password_policy: crate::authn::PasswordPolicy,
}
pub(crate) async fn serve(
    _l: tokio::net::UnixListener,
    _s: State,
    f: impl std::future::Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    f.await;
    Ok(())
}

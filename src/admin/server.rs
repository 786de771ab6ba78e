//! The Unix socket, the routes on it, and who is at its other end.
//!
//! The socket comes bound, with mode 0600 in a directory of mode 0700: whoever connects is the user that runs the broker,
//! or root, and acts as `local:<uid>` with every right. Anybody else is refused by the uid that the system tells, for a
//! directory that somebody made beforehand may be open to all, and some systems do not heed the mode of a socket.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::serve::IncomingStream;
use axum::{Extension, Router};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::problem::{Kind, Problem};
use super::registry::Stopping;
use super::{State, api, apply, audit, explain, registry, roles, users, who_can};
use crate::directory::Actor;

/// Serves until `shutdown` completes; requests that run then are finished, streams of events end.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve(
    listener: UnixListener,
    state: State,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let router = router(Arc::new(state)).layer(Extension(Stopping(stopping)));
    let service = router.into_make_service_with_connect_info::<Peer>();
    let shutdown = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await
}

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/users", get(users::list).post(users::create))
        .route("/api/users/{name}", get(users::show).patch(users::change).delete(users::delete))
        .route("/api/users/{name}/password", put(users::set_password))
        .route("/api/users/{name}/enable", post(users::enable))
        .route("/api/users/{name}/disable", post(users::disable))
        .route("/api/users/{name}/certificates/{serial}/revoke", post(users::revoke))
        .route("/api/roles", get(roles::list).post(roles::create))
        .route("/api/roles/{name}", get(roles::show).put(roles::replace).delete(roles::delete))
        .route("/api/client-registry/requests", get(registry::list))
        .route("/api/client-registry/requests/{id}", get(registry::show))
        .route("/api/client-registry/requests/{id}/grant", post(registry::grant))
        .route("/api/client-registry/requests/{id}/deny", post(registry::deny))
        .route("/api/client-registry/replacements", get(registry::replacements))
        .route("/api/client-registry/replacements/{name}", post(registry::replace).delete(registry::cancel_replacement))
        .route("/api/client-registry/unlock", post(registry::unlock))
        .route("/api/client-registry/lock", post(registry::lock))
        .route("/api/client-registry/status", get(registry::status))
        .route("/api/client-registry/events", get(registry::events))
        .route("/api/audit", get(audit::list))
        .route("/api/audit/head", get(audit::head))
        .route("/api/audit/events", get(audit::events))
        .route("/api/audit/verify", post(audit::verify))
        .route("/api/explain", post(explain::explain).layer(DefaultBodyLimit::max(api::MAX_DOCUMENT)))
        .route("/api/history", get(apply::history))
        .route("/api/rollback", post(apply::rollback))
        .route("/api/who-can", get(who_can::who_can))
        .route("/api/apply", post(apply::apply).layer(DefaultBodyLimit::max(api::MAX_DOCUMENT)))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn(plain_path))
        .layer(DefaultBodyLimit::max(api::MAX_BODY))
        .with_state(state)
}

async fn no_route(request: Request) -> Problem {
    Problem::new(Kind::NotFound, format!("there is nothing at `{}`", request.uri().path()))
}

async fn no_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Kind::Method, format!("`{path}` does not know the method {method}"))
}

/// A path that could mean another one after decoding or cleaning is refused: empty segments, dots, encoded slashes.
async fn plain_path(request: Request, next: Next) -> Response {
    let odd = request.uri().path().split('/').skip(1).any(|segment| {
        let decoded = segment.to_ascii_lowercase().replace("%2e", ".");
        decoded.is_empty() || decoded == "." || decoded == ".." || decoded.contains("%2f") || decoded.contains("%00")
    });
    if odd {
        let detail = "the path holds an empty segment, `.`, `..` or an encoded `/`: write it plainly";
        return Problem::new(Kind::Malformed, detail).into_response();
    }
    next.run(request).await
}

/// The process at the other end of the socket; `None` when the system does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

/// On whose behalf a request is made.
pub(super) struct Caller(pub(super) Actor);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let peer: Result<ConnectInfo<Peer>, _> = ConnectInfo::from_request_parts(parts, state).await;
        match peer {
            Ok(ConnectInfo(Peer(Some(uid)))) if may_administer(uid, rustix::process::geteuid().as_raw()) => {
                Ok(Self(Actor::Local { uid }))
            }
            Ok(ConnectInfo(Peer(Some(uid)))) => {
                tracing::warn!(uid, "somebody else than the user of the broker has reached the admin socket");
                Err(Problem::new(Kind::Forbidden, "only root and the user that runs the broker may administer it"))
            }
            _ => Err(Problem::new(Kind::Forbidden, "the system does not tell who asks")),
        }
    }
}

/// Root, or the user that runs the broker?
fn may_administer(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

impl From<Infallible> for Problem {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::may_administer;

    #[test]
    fn other_users_of_the_machine_may_not_administer() {
        assert!(may_administer(1000, 1000));
        assert!(may_administer(0, 1000));
        assert!(!may_administer(1001, 1000));
        assert!(!may_administer(1000, 0));
    }
}

//! The entrance through the Unix socket, and who is at its other end.
//!
//! The socket comes bound, with mode 0600 in a directory of mode 0700: whoever connects is the user that runs the broker,
//! or root, and acts as `local:<uid>` with every right. Anybody else is refused by the uid that the system tells, for a
//! directory that somebody made beforehand may be open to all, and some systems do not heed the mode of a socket.

use std::io;
use std::sync::Arc;

use axum::Extension;
use axum::extract::connect_info::Connected;
use axum::extract::rejection::ExtensionRejection;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::caller::{Caller, Standing};
use super::problem::{Kind, Problem};
use super::stream::Stopping;
use super::{State, request, routes};
use crate::directory::Actor;

/// Serves until `shutdown` completes; requests that run then are finished, streams of events end.
///
/// # Errors
/// When the socket fails.
pub(crate) async fn serve(
    listener: UnixListener,
    state: Arc<State>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let router = routes::api(Arc::clone(&state))
        .merge(super::certificates::crl_route(state))
        .layer(middleware::from_fn(admit))
        .layer(middleware::from_fn(request::plain_path))
        .layer(Extension(Stopping(stopping)));
    let service = router.into_make_service_with_connect_info::<Peer>();
    let shutdown = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await
}

/// The process at the other end of the socket; `None` when the system does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|credentials| credentials.uid()))
    }
}

/// Who asks, if they may.
async fn admit(peer: Result<ConnectInfo<Peer>, ExtensionRejection>, mut request: Request, next: Next) -> Response {
    let uid = match peer {
        Ok(ConnectInfo(Peer(Some(uid)))) if may_administer(uid, rustix::process::geteuid().as_raw()) => uid,
        Ok(ConnectInfo(Peer(Some(uid)))) => {
            tracing::warn!(uid, "somebody else than the user of the broker has reached the admin socket");
            let detail = "only root and the user that runs the broker may administer it";
            return Problem::new(Kind::Forbidden, detail).into_response();
        }
        _ => return Problem::new(Kind::Forbidden, "the system does not tell who asks").into_response(),
    };
    request.extensions_mut().insert(Caller(Actor::Local { uid }));
    request.extensions_mut().insert(Standing::Machine);
    next.run(request).await
}

/// Root, or the user that runs the broker?
fn may_administer(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
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

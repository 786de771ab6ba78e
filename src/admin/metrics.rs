//! The metrics endpoint: `GET /metrics`, in the text format of OpenMetrics.

use std::{future::Future, io, sync::Arc};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Serves metrics until `shutdown` is ready.
pub(crate) async fn serve_metrics(
    socket: TcpListener,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = Router::new().route("/metrics", get(text)).with_state(metrics);
    axum::serve(socket, routes).with_graceful_shutdown(shutdown).await
}

async fn text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode())
}

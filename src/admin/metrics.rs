//! The metrics endpoint: `GET /metrics`, in the text format of OpenMetrics.
//!
//! Whoever reaches it may read it, so it holds out against anybody: a connection has one request and a few seconds, and
//! there are only so many at a time.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::metrics::{CONTENT_TYPE, Metrics};

/// Connections at a time; further ones are closed at once.
const CONNECTIONS: usize = 32;

/// From accept to the last byte.
const TIME: Duration = Duration::from_secs(10);

/// After the file limit is hit: long enough not to spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves metrics until `shutdown` is ready.
pub(crate) async fn serve_metrics(socket: TcpListener, metrics: Arc<Metrics>, shutdown: impl Future<Output = ()>) {
    let routes = Router::new().route("/metrics", get(text)).with_state(metrics);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = &mut shutdown => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let routes = routes.clone();
        tokio::spawn(async move {
            let _place = place;
            match timeout(TIME, answer(stream, routes)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a request for metrics failed"),
                Err(_) => tracing::debug!("a request for metrics took too long"),
            }
        });
    }
}

async fn answer(stream: TcpStream, routes: Router) -> io::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await
        .map_err(io::Error::other)
}

async fn text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use std::{future, net::SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(serve_metrics(socket, Arc::new(Metrics::new()), future::pending()));
        address
    }

    /// Nothing where there is no place.
    async fn scrape(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut text = String::new();
        if stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: broker\r\n\r\n").await.is_ok() {
            let _ = stream.read_to_string(&mut text).await;
        }
        text
    }

    /// Connections that never ask leave the endpoint with a bounded number of sockets, each for a bounded time.
    #[tokio::test]
    async fn silent_connections_do_not_pile_up() {
        let address = start().await;
        assert!(scrape(address).await.starts_with("HTTP/1.1 200 OK"), "and the connection is closed then");
        let mut silent = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").await.unwrap();
            silent.push(stream);
        }
        let mut held = Vec::new();
        for mut stream in silent {
            let mut byte = [0];
            if timeout(Duration::from_millis(20), stream.read(&mut byte)).await.is_err() {
                held.push(stream);
            }
        }
        assert_eq!(held.len(), CONNECTIONS);
        drop(held);
        while !scrape(address).await.starts_with("HTTP/1.1 200 OK") {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

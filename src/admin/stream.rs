//! Server-sent events: streams that end with the right to see them, with the client, or with the broker.
//!
//! Enters: what is to be told, bounded. Leaves: `text/event-stream`. Never: an event after the right to it is gone. It is
//! asked for each event at the moment when it is handed to the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::{mpsc, watch};

use super::State;
use super::caller::Standing;

/// Keeps a stream from looking dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Events that wait for a client that reads slowly.
const WAITING: usize = 16;

/// Turns true when the server is to stop.
#[derive(Clone)]
pub(super) struct Stopping(pub(super) watch::Receiver<bool>);

/// The end of a stream that events are put into.
pub(super) struct Teller {
    out: mpsc::Sender<Bytes>,
    guard: Guard,
    stopping: watch::Receiver<bool>,
    moved: watch::Receiver<()>,
}

/// Whether whoever listens still may.
struct Guard {
    state: Arc<State>,
    standing: Standing,
}

/// The client is gone, or may not listen any more, or the broker stops.
pub(super) struct Over;

/// A stream, and its response.
pub(super) fn open(state: &Arc<State>, standing: &Standing, Stopping(stopping): Stopping) -> (Teller, Response) {
    let (out, events) = mpsc::channel(WAITING);
    let guard = || Guard { state: Arc::clone(state), standing: standing.clone() };
    let body = Body::new(EventStream { events: Chunks(events), guard: guard() });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (Teller { out, guard: guard(), stopping, moved: state.moved.clone() }, (headers, body).into_response())
}

impl Teller {
    /// Says at once that the client is heard.
    pub(super) async fn begin(&self) -> Result<(), Over> {
        self.send(Bytes::from_static(b": listening\n\n")).await
    }

    /// Tells an event; waits for a client that reads slowly.
    pub(super) async fn tell(&self, event: &impl serde::Serialize) -> Result<(), Over> {
        match serde_json::to_string(event) {
            // JSON has no line ends of its own, so one `data` line holds it.
            Ok(json) => self.send(format!("data: {json}\n\n").into()).await,
            Err(error) => {
                tracing::error!(%error, "an event cannot be told");
                Ok(())
            }
        }
    }

    /// Waits for `next`, keeping the stream alive meanwhile.
    pub(super) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, Over> {
        let mut next = std::pin::pin!(next);
        loop {
            let pause = HEARTBEAT.min(self.guard.left()?);
            tokio::select! {
                next = &mut next => return Ok(next),
                () = tokio::time::sleep(pause) => {
                    // A heartbeat that nobody takes waits for no place: the client has enough to read.
                    let _ = self.out.try_send(Bytes::from_static(b":\n\n"));
                }
                () = changed(&mut self.moved) => {}
                () = self.out.closed() => return Err(Over),
                _ = self.stopping.wait_for(|stop| *stop) => return Err(Over),
            }
        }
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Over> {
        let (mut stopping, mut moved) = (self.stopping.clone(), self.moved.clone());
        let sent = self.out.send(bytes);
        let mut sent = std::pin::pin!(sent);
        loop {
            let left = self.guard.left()?;
            tokio::select! {
                sent = &mut sent => return sent.map_err(|_| Over),
                () = tokio::time::sleep(left) => {}
                () = changed(&mut moved) => {}
                _ = stopping.wait_for(|stop| *stop) => return Err(Over),
            }
        }
    }
}

/// Users or rules have changed.
async fn changed(moved: &mut watch::Receiver<()>) {
    if moved.changed().await.is_err() {
        // Whoever changes them is gone.
        std::future::pending::<()>().await;
    }
}

impl Guard {
    /// How long the right lasts, as far as is known now.
    fn left(&self) -> Result<Duration, Over> {
        let now = self.state.clock.timestamp();
        let until = self.standing.holds(&self.state.directory.policy(), now).map_err(|()| Over)?;
        // One that is over is over at the next look.
        Ok(until
            .map_or(HEARTBEAT, |until| until.duration_since(now).try_into().unwrap_or_default())
            .clamp(Duration::from_millis(1), HEARTBEAT))
    }
}

struct EventStream {
    events: Chunks,
    guard: Guard,
}

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = Pin::new(&mut self.events).poll_frame(cx);
        // INVARIANT: what the policy of this moment does not allow is not handed on, whenever it was put in.
        if matches!(frame, Poll::Ready(Some(_))) && self.guard.left().is_err() {
            self.events.0.close();
            return Poll::Ready(None);
        }
        frame
    }
}

/// What comes through a channel, as a body.
pub(super) struct Chunks(pub(super) mpsc::Receiver<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

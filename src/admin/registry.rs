//! `/api/client-registry`: what operators ask of the registry and tell it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body as ResponseBody, HttpBody};
use axum::extract::Json;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

use super::api::{
    Deny, Event, GrantTerms, LockStatus, Missed, Page, ReplaceTerms, ReplacementView, RequestFilter, RequestId,
    RequestView, UnlockTerms,
};
use super::extract::{Ask, Body, Named, OptionalBody};
use super::problem::{Kind, Problem};
use super::server::Caller;
use super::{Answer, Shared};
use crate::access::Username;
use crate::registry::{RegistryError, RegistryErrorKind};

/// Keeps a stream of events from looking dead.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn list(state: Shared, _: Caller, Ask(filter): Ask<RequestFilter>) -> Answer<Json<Page<RequestView>>> {
    Ok(Json(Page { items: state.registry.list(filter.state).await? }))
}

pub(super) async fn show(state: Shared, _: Caller, Named(id): Named<RequestId>) -> Answer<Json<RequestView>> {
    Ok(Json(state.registry.show(id).await?))
}

pub(super) async fn grant(
    state: Shared,
    Caller(actor): Caller,
    Named(id): Named<RequestId>,
    OptionalBody(terms): OptionalBody<GrantTerms>,
) -> Answer<Json<RequestView>> {
    Ok(Json(state.registry.grant(id, terms, actor).await?))
}

pub(super) async fn deny(
    state: Shared,
    Caller(actor): Caller,
    Named(id): Named<RequestId>,
    Body(deny): Body<Deny>,
) -> Answer<Json<RequestView>> {
    Ok(Json(state.registry.deny(id, deny.reason, actor).await?))
}

pub(super) async fn replacements(state: Shared, _: Caller) -> Answer<Json<Page<ReplacementView>>> {
    Ok(Json(Page { items: state.registry.replacements().await? }))
}

pub(super) async fn replace(
    state: Shared,
    Caller(actor): Caller,
    Named(username): Named<Username>,
    OptionalBody(terms): OptionalBody<ReplaceTerms>,
) -> Answer<Json<ReplacementView>> {
    Ok(Json(state.registry.replace(username, terms, actor).await?))
}

pub(super) async fn cancel_replacement(
    state: Shared,
    Caller(actor): Caller,
    Named(username): Named<Username>,
) -> Answer<StatusCode> {
    state.registry.cancel_replacement(username, actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn unlock(
    state: Shared,
    Caller(actor): Caller,
    OptionalBody(terms): OptionalBody<UnlockTerms>,
) -> Answer<Json<LockStatus>> {
    Ok(Json(state.registry.unlock(terms, actor).await?))
}

pub(super) async fn lock(state: Shared, Caller(actor): Caller) -> Answer<Json<LockStatus>> {
    Ok(Json(state.registry.lock(actor).await?))
}

pub(super) async fn status(state: Shared, _: Caller) -> Answer<Json<LockStatus>> {
    Ok(Json(state.registry.status().await?))
}

/// Server-sent events, until the client goes or the broker stops.
pub(super) async fn events(state: Shared, _: Caller, Extension(Stopping(stopping)): Extension<Stopping>) -> Response {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(forward(state.registry.watch(), sender, stopping));
    event_stream(receiver)
}

/// Server-sent events as a response.
pub(super) fn event_stream(events: mpsc::Receiver<Bytes>) -> Response {
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, ResponseBody::new(EventStream(events))).into_response()
}

/// Turns true when the server is to stop.
#[derive(Clone)]
pub(super) struct Stopping(pub(super) watch::Receiver<bool>);

async fn forward(
    mut events: broadcast::Receiver<Event>,
    out: mpsc::Sender<Bytes>,
    mut stopping: watch::Receiver<bool>,
) {
    // At once, so that the client knows that it is heard.
    let mut next = Bytes::from_static(b": listening\n\n");
    loop {
        if out.send(next).await.is_err() {
            return;
        }
        next = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => server_sent(&event),
                Err(RecvError::Lagged(missed)) => server_sent(&Missed { missed }),
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b":\n\n"),
            () = out.closed() => return,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
    }
}

/// JSON has no line ends of its own, so one `data` line holds it.
pub(super) fn server_sent(event: &impl serde::Serialize) -> Bytes {
    match serde_json::to_string(event) {
        Ok(json) => format!("data: {json}\n\n").into(),
        Err(error) => {
            tracing::error!(%error, "an event cannot be told");
            Bytes::from_static(b":\n\n")
        }
    }
}

struct EventStream(mpsc::Receiver<Bytes>);

impl HttpBody for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match error.kind() {
            RegistryErrorKind::Forbidden => Kind::Forbidden,
            RegistryErrorKind::NotFound => Kind::NotFound,
            RegistryErrorKind::Conflict => Kind::Conflict,
            RegistryErrorKind::Invalid => Kind::Invalid,
            RegistryErrorKind::Internal => {
                tracing::error!(%error, "the registry cannot do what it was asked");
                return Self::new(Kind::Internal, "the registry cannot do that now; the log says more");
            }
        };
        Self::new(kind, error.to_string())
    }
}

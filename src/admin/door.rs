//! Door 3 of the client registry: enrolment over HTTPS, for whoever has no credentials yet.
//!
//! Enters: the messages of devices. Leaves: the registry's answers, with its status as that of HTTP. The state machine is
//! the registry's, which also has the limits; a request that came in here can be polled over MQTT, and the other way round.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

use super::State;
use super::https::Peer;
use super::problem::Problem;
use super::routes::no_method;
use crate::registry::{Answer, Binding, Door, Format, MAX_PAYLOAD, Origin, Unread};

const REGISTER: &str = "/api/client-registry/register";
const CHALLENGE: &str = "/api/client-registry/challenge";

/// RFC 8555 9.1.
const PEM_CHAIN: &str = "application/pem-certificate-chain";

/// The routes, without a fallback.
pub(super) fn routes(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/client-registry/register", post(register))
        .route("/api/client-registry/challenge", post(challenge))
        .route("/api/client-registry/ca", get(ca))
        .route("/crl", get(super::certificates::crl))
        .route("/crl/{issuer}", get(super::certificates::crl_of))
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD))
        .with_state(state)
}

/// What can be asked with a message. What is wrong with one the registry says, in the form of its answers.
pub(super) fn takes_messages(path: &str) -> bool {
    matches!(path, REGISTER | CHALLENGE)
}

/// Registers, or polls.
async fn register(
    Extract(state): Extract<Arc<State>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (content_type, format) = form(&headers);
    let answer = match read(&headers, body) {
        Ok(body) => state.registry.register(&body, content_type, &origin(&peer)).await,
        Err(fault) => state.registry.unread(&fault),
    };
    told(&answer, format)
}

/// A nonce for the address that asks.
async fn challenge(
    Extract(state): Extract<Arc<State>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (content_type, format) = form(&headers);
    let answer = match read(&headers, body) {
        Ok(body) => state.registry.challenge(&body, content_type, &origin(&peer)),
        Err(fault) => state.registry.unread(&fault),
    };
    told(&answer, format)
}

/// The content type of a message, and the form of its answer.
fn form(headers: &HeaderMap) -> (Option<&str>, Format) {
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    (content_type, Format::of(content_type).unwrap_or_default())
}

/// The message, if all of it has come. One that does not say what it is may be a page's, which a browser sends to other sites without
/// asking them.
fn read(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Unread> {
    let body = body.map_err(|rejection| match Problem::from(rejection) {
        // There is one way to say how long it is: see `request`.
        problem if problem.status == 413 => {
            let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            Unread::TooLarge(length.unwrap_or(MAX_PAYLOAD + 1))
        }
        problem if problem.status == 408 => Unread::TooSlow(problem.detail),
        problem => Unread::Broken(problem.detail),
    })?;
    let typed = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().contains(&b'/'));
    if body.is_empty() || typed { Ok(body) } else { Err(Unread::Untyped) }
}

/// The trust bundle.
async fn ca(Extract(state): Extract<Arc<State>>, Extension(peer): Extension<Peer>) -> Response {
    let answer = state.registry.ca(&[], None, &origin(&peer));
    match &answer.ca {
        Some(bundle) => ([(CONTENT_TYPE, PEM_CHAIN)], bundle.clone()).into_response(),
        None => told(&answer, Format::Json),
    }
}

/// Nobody is there to be told a decision later: a device polls.
fn origin(peer: &Peer) -> Origin {
    Origin {
        source: peer.address,
        listener: Arc::clone(&peer.listener),
        door: Door::Rest,
        hears: true,
        // The next request may come on another connection.
        binding: Binding::Source(peer.address.into()),
        sink: None,
    }
}

fn told(answer: &Answer, format: Format) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(CONTENT_TYPE, format.media_type())], answer.encode(format)).into_response();
    if let Some(seconds) = answer.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

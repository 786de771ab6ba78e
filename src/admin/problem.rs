//! Problem details (RFC 9457): how a refused request is told, and nothing else tells it.

use std::fmt;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::directory::{DirectoryError, ErrorKind};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// A refusal, for programs by `type` and `status`, for people by `title` and `detail`.
///
/// ```
/// # use portcullis::admin::problem::{Kind, Problem};
/// let problem = Problem::new(Kind::NotFound, "there is no user `historian`");
/// assert_eq!(serde_json::to_value(&problem)?["type"], "urn:portcullis:problem:not-found");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem it is: a URN that stays the same; `about:blank` when the status says it all.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// The kind in words, the same for every problem of the kind.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// This problem in a sentence that says what to do.
    #[serde(default)]
    pub detail: String,
    /// Members of the kind's own, such as `version` or `retry_after`.
    #[serde(flatten)]
    pub extensions: Map<String, Value>,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// 400: the request is malformed.
    Malformed,
    /// 401: no credentials, or wrong ones.
    Unauthenticated,
    /// 403: whoever asks may not do that.
    Forbidden,
    /// 403: a page of another site has made a browser ask.
    CrossSite,
    /// 404: no such user, role, request or route.
    NotFound,
    /// 405: the route has other methods.
    Method,
    /// 408: the body did not come in time.
    Timeout,
    /// 409: somebody else was faster; `version` is the current one.
    Version,
    /// 409: it exists, or its state does not admit that.
    Conflict,
    /// 409: broker.toml or the registry owns it.
    Managed,
    /// 411: a body in chunks, whose length is not told beforehand.
    Length,
    /// 413: the body is too large.
    TooLarge,
    /// 415: the body is not JSON.
    MediaType,
    /// 422: well-formed, and not admitted.
    Invalid,
    /// 429: too much at once; `retry_after` in seconds.
    Busy,
    /// 500: ours; the log says more.
    Internal,
}

impl Kind {
    fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "malformed", "The request is malformed"),
            Self::Unauthenticated => (401, "unauthenticated", "Not authenticated"),
            Self::CrossSite => (403, "cross-site", "Asked for by another site"),
            Self::Timeout => (408, "timeout", "Too slow"),
            Self::Length => (411, "length", "Length required"),
            Self::Forbidden => (403, "forbidden", "Not permitted"),
            Self::NotFound => (404, "not-found", "Not found"),
            Self::Method => (405, "method", "Method not allowed"),
            Self::Version => (409, "version", "Changed in the meantime"),
            Self::Conflict => (409, "conflict", "In conflict with the current state"),
            Self::Managed => (409, "managed", "Owned by the configuration"),
            Self::TooLarge => (413, "too-large", "The request is too large"),
            Self::MediaType => (415, "media-type", "The body must be JSON"),
            Self::Invalid => (422, "invalid", "Not admitted"),
            Self::Busy => (429, "busy", "Too many requests"),
            Self::Internal => (500, "internal", "Internal error"),
        }
    }
}

impl Problem {
    /// A problem of a kind, told in one sentence.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (status, name, title) = kind.parts();
        Self {
            kind: format!("urn:portcullis:problem:{name}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            extensions: Map::new(),
        }
    }

    /// With one member more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extensions.insert(name.to_owned(), value.into());
        self
    }
}

/// One sentence.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.detail.is_empty(), self.title.is_empty()) {
            (false, _) => f.write_str(&self.detail),
            (true, false) => f.write_str(&self.title),
            (true, true) => write!(f, "the broker answered with status {}", self.status),
        }
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 15.5.2: a 401 says how to do better. RFC 7617 2.1: the charset.
            let challenge = HeaderValue::from_static("Basic realm=\"portcullis\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.extensions.get("retry_after").and_then(Value::as_u64) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<DirectoryError> for Problem {
    fn from(error: DirectoryError) -> Self {
        let kind = match (&error, error.kind()) {
            (DirectoryError::Version { .. }, _) => Kind::Version,
            (DirectoryError::ManagedByConfig(_), _) => Kind::Managed,
            (_, ErrorKind::Forbidden) => Kind::Forbidden,
            (_, ErrorKind::NotFound) => Kind::NotFound,
            (_, ErrorKind::Conflict) => Kind::Conflict,
            (_, ErrorKind::Invalid) => Kind::Invalid,
            (_, ErrorKind::Internal) => {
                // What broke is for the operator's log; it may name paths and tables.
                tracing::error!(%error, "the directory cannot commit");
                return Self::new(Kind::Internal, "the change could not be stored; the log says more");
            }
        };
        let problem = Self::new(kind, error.to_string());
        match error {
            DirectoryError::Version { found, .. } => problem.with("version", found),
            _ => problem,
        }
    }
}

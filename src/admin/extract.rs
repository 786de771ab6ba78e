//! What a handler takes from a request, refused as problem details where it does not fit.

use std::error::Error;
use std::fmt::Display;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};
use super::request::TooSlow;
use crate::access::Username;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

/// A JSON body that may be left out.
pub(super) struct OptionalBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Problem::new(Kind::Invalid, format!("the body does not fit: {error}")),
            _ => Problem::new(Kind::Malformed, format!("the body is not JSON: {error}")),
        })
    }
}

/// The query string.
pub(super) struct Ask<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Ask<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(rejection.into()),
        }
    }
}

/// The one placeholder of the path, as a name that is checked. It has one spelling: rules about paths could not bind another.
pub(super) struct Named<T>(pub(super) T);

impl<T: FromStr + Display, S: Send + Sync> FromRequestParts<S> for Named<T>
where
    T::Err: Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(Kind::Malformed, format!("the path cannot be read: {error}")))?;
        // A name that cannot be is the name of nothing.
        let nothing = |error: &dyn Display| Problem::new(Kind::NotFound, format!("there is no `{name}`: {error}"));
        let named: T = name.parse().map_err(|error| nothing(&error))?;
        let spelled = named.to_string();
        if spelled == name { Ok(Self(named)) } else { Err(nothing(&format_args!("write it as `{spelled}`"))) }
    }
}

/// The certificate of a user that the path names.
pub(super) struct NamedCertificate {
    pub(super) username: Username,
    pub(super) serial: String,
}

impl<S: Send + Sync> FromRequestParts<S> for NamedCertificate {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((name, serial)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(Kind::Malformed, format!("the path cannot be read: {error}")))?;
        let username = name
            .parse()
            .map_err(|error| Problem::new(Kind::NotFound, format!("there is no user `{name}`: {error}")))?;
        if !serial.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            // One spelling, as in `Named`.
            let detail = format!("there is no serial `{serial}`: write it in lower-case hexadecimal, without colons");
            return Err(Problem::new(Kind::NotFound, detail));
        }
        Ok(Self { username, serial })
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonDataError(error) => {
                Self::new(Kind::Invalid, format!("the body does not fit: {}", reason(&error.body_text())))
            }
            JsonRejection::JsonSyntaxError(error) => {
                Self::new(Kind::Malformed, format!("the body is not JSON: {}", reason(&error.body_text())))
            }
            JsonRejection::MissingJsonContentType(_) => not_json(),
            JsonRejection::BytesRejection(error) => error.into(),
            error => Self::new(Kind::Malformed, error.body_text()),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status().as_u16() == 413 {
            let (body, document) = (super::api::MAX_BODY, super::api::MAX_DOCUMENT);
            let detail = format!("a body may have at most {body} bytes, one of `apply` and `explain` {document}");
            Self::new(Kind::TooLarge, detail)
        } else if was_slow(&rejection) {
            Self::new(Kind::Timeout, TooSlow.to_string())
        } else {
            Self::new(Kind::Malformed, rejection.body_text())
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Kind::Malformed, format!("the query does not fit: {}", reason(&rejection.body_text())))
    }
}

pub(super) fn not_json() -> Problem {
    Problem::new(Kind::MediaType, "send the body with the header `Content-Type: application/json`")
}

fn was_slow(error: &(dyn Error + 'static)) -> bool {
    error.is::<TooSlow>() || error.source().is_some_and(was_slow)
}

/// What the framework says, without its preamble.
fn reason(text: &str) -> &str {
    text.strip_prefix("Failed to").and_then(|text| text.split_once(": ")).map_or(text, |(_, reason)| reason)
}

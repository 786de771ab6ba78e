//! What a handler takes from a request, refused as problem details where it does not fit.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::{Kind, Problem};
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

/// The one placeholder of the path, as a name that is checked.
pub(super) struct Named<T>(pub(super) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Named<T>
where
    T::Err: std::fmt::Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Problem::new(Kind::Malformed, format!("the path cannot be read: {error}")))?;
        // A name that cannot be is the name of nothing.
        name.parse().map(Self).map_err(|error| Problem::new(Kind::NotFound, format!("there is no `{name}`: {error}")))
    }
}

/// The certificate of a user that the path names: the name as it is written, and the serial in the form of the records.
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
        // openssl and others write it in upper case, with colons.
        Ok(Self { username, serial: serial.replace(':', "").to_ascii_lowercase() })
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
            JsonRejection::MissingJsonContentType(_) => {
                Self::new(Kind::MediaType, "send the body with the header `Content-Type: application/json`")
            }
            JsonRejection::BytesRejection(error) => error.into(),
            error => Self::new(Kind::Malformed, error.body_text()),
        }
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status().as_u16() == 413 {
            Self::new(Kind::TooLarge, format!("a body may have at most {} bytes", super::api::MAX_BODY))
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

/// What the framework says, without its preamble.
fn reason(text: &str) -> &str {
    text.strip_prefix("Failed to").and_then(|text| text.split_once(": ")).map_or(text, |(_, reason)| reason)
}

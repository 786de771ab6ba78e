//! The description of the API (OpenAPI 3.1): `openapi.json` beside this file, served as it is written there.
//!
//! A route that is not in it, or that is in it and nowhere else, fails a test; so does any answer of the API in a test that is not
//! as it says.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The description, as JSON.
pub const DESCRIPTION: &str = include_str!("openapi.json");

/// Everybody who may read the API may read it.
pub(super) async fn show() -> Response {
    ([(CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

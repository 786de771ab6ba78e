//! The routes of the API, the same on every entrance.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::routing::{get, post, put};

use super::problem::{Kind, Problem};
use super::{State, api, apply, audit, ca, certificates, explain, openapi, registry, roles, users, who_can};

/// The API. Whoever serves it puts an entrance before it, fallbacks included.
pub(super) fn api(state: Arc<State>) -> Router {
    Router::new()
        .route("/api/users", get(users::list).post(users::create))
        .route("/api/users/{name}", get(users::show).patch(users::change).delete(users::delete))
        .route("/api/users/{name}/password", put(users::set_password))
        .route("/api/users/{name}/enable", post(users::enable))
        .route("/api/users/{name}/disable", post(users::disable))
        .route("/api/users/{name}/certificates", post(certificates::pin))
        .route("/api/users/{name}/certificates/{serial}/revoke", post(certificates::revoke_one))
        .route("/api/users/{name}/certificates/revoke", post(certificates::revoke_all))
        .route("/api/ca", get(certificates::ca))
        .route("/api/ca/rotate", post(ca::rotate))
        .route("/api/ca/csr", post(ca::csr))
        .route("/api/ca/import", post(ca::import))
        .route("/api/ca/issuers/{issuer}/certificates", get(ca::living))
        .route("/api/ca/issuers/{issuer}/retire", post(ca::retire))
        .route("/api/ca/issuers/{issuer}/revoke", post(certificates::revoke_issuer))
        .route("/api/roles", get(roles::list).post(roles::create))
        .route("/api/roles/{name}", get(roles::show).put(roles::replace).delete(roles::delete))
        .route("/api/client-registry/requests", get(registry::list))
        .route("/api/client-registry/requests/{id}", get(registry::show))
        .route("/api/client-registry/requests/{id}/grant", post(registry::grant))
        .route("/api/client-registry/requests/{id}/deny", post(registry::deny))
        .route("/api/client-registry/replacements", get(registry::replacements))
        .route("/api/client-registry/replacements/{name}", post(registry::replace).delete(registry::cancel_replacement))
        .route("/api/client-registry/tokens", get(registry::tokens).post(registry::create_token))
        .route("/api/client-registry/tokens/{id}", get(registry::token).delete(registry::revoke_token))
        .route("/api/client-registry/unlock", post(registry::unlock))
        .route("/api/client-registry/lock", post(registry::lock))
        .route("/api/client-registry/status", get(registry::status))
        .route("/api/client-registry/events", get(registry::events))
        .route("/api/audit", get(audit::list))
        .route("/api/audit/head", get(audit::head))
        .route("/api/audit/events", get(audit::events))
        .route("/api/audit/verify", post(audit::verify))
        .route("/api/explain", post(explain::explain).layer(DefaultBodyLimit::max(api::MAX_DOCUMENT)))
        .route("/api/history", get(apply::history))
        .route("/api/rollback", post(apply::rollback))
        .route("/api/who-can", get(who_can::who_can))
        .route("/api/openapi.json", get(openapi::show))
        .route("/api/apply", post(apply::apply).layer(DefaultBodyLimit::max(api::MAX_DOCUMENT)))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(api::MAX_BODY))
        .with_state(state)
}

pub(super) async fn no_route(request: Request) -> Problem {
    Problem::new(Kind::NotFound, format!("there is nothing at `{}`", request.uri().path()))
}

pub(super) async fn no_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(Kind::Method, format!("`{path}` does not know the method {method}"))
}

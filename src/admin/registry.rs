//! `/api/client-registry`: what operators ask of the registry and tell it.

use axum::Extension;
use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::api::{
    DenyTerms, Event, GrantTerms, LockStatus, MAX_PAGE, Missed, Page, ReplaceTerms, ReplacementView, RequestFilter,
    RequestId, RequestPage, RequestView, TokenCreated, TokenId, TokenTerms, TokenView, UnlockTerms,
};
use super::caller::{Caller, Standing};
use super::extract::{Ask, Body, Named, OptionalBody};
use super::problem::{Kind, Problem};
use super::stream::{self, Over, Stopping, Teller};
use super::{Answer, Shared};
use crate::access::Username;
use crate::registry::{RegistryError, RegistryErrorKind};

pub(super) async fn list(state: Shared, _: Caller, Ask(filter): Ask<RequestFilter>) -> Answer<Json<RequestPage>> {
    let RequestFilter { state: wanted, after, limit } = filter;
    let limit = limit.unwrap_or(MAX_PAGE);
    if limit == 0 || limit > MAX_PAGE {
        return Err(Problem::new(Kind::Invalid, format!("`limit` is 1 to {MAX_PAGE}")));
    }
    Ok(Json(state.registry.page(wanted, after, limit).await?))
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
    Body(terms): Body<DenyTerms>,
) -> Answer<Json<RequestView>> {
    Ok(Json(state.registry.deny(id, terms, actor).await?))
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

pub(super) async fn tokens(state: Shared, _: Caller) -> Answer<Json<Page<TokenView>>> {
    Ok(Json(Page { items: state.registry.tokens().await? }))
}

pub(super) async fn create_token(
    state: Shared,
    Caller(actor): Caller,
    Body(terms): Body<TokenTerms>,
) -> Answer<(StatusCode, Json<TokenCreated>)> {
    let (token, view) = state.registry.create_token(terms, actor).await?;
    Ok((StatusCode::CREATED, Json(TokenCreated { token, view })))
}

pub(super) async fn token(state: Shared, _: Caller, Named(id): Named<TokenId>) -> Answer<Json<TokenView>> {
    Ok(Json(state.registry.token(id).await?))
}

pub(super) async fn revoke_token(
    state: Shared,
    Caller(actor): Caller,
    Named(id): Named<TokenId>,
) -> Answer<StatusCode> {
    state.registry.revoke_token(id, actor).await?;
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

/// Server-sent events, until the client or its right goes, or the broker stops.
pub(super) async fn events(state: Shared, standing: Standing, Extension(stopping): Extension<Stopping>) -> Response {
    let (teller, response) = stream::open(&state, &standing, stopping);
    tokio::spawn(forward(state.registry.watch(), teller));
    response
}

async fn forward(mut events: broadcast::Receiver<Event>, mut teller: Teller) -> Result<(), Over> {
    teller.begin().await?;
    loop {
        match teller.wait(events.recv()).await? {
            Ok(event) => teller.tell(&event).await?,
            Err(RecvError::Lagged(missed)) => teller.tell(&Missed { missed }).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match error.kind() {
            RegistryErrorKind::Forbidden => Kind::Forbidden,
            RegistryErrorKind::NotFound => Kind::NotFound,
            RegistryErrorKind::Conflict => Kind::Conflict,
            RegistryErrorKind::Invalid => Kind::Invalid,
            RegistryErrorKind::Internal => Kind::Internal,
        };
        Self::new(kind, error.told())
    }
}

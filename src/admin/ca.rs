//! `/api/ca`: another CA in place of the one that issues, and the end of the one before.

use std::sync::Arc;

use axum::extract::Json;

use super::api::{CaImport, CaRequest, CaRequested, CaRetirement, CaView, LivingQuestion, LivingView, MAX_PAGE, Page};
use super::caller::Caller;
use super::extract::{Ask, Body, Named, OptionalBody};
use super::problem::{Kind, Problem};
use super::{Answer, Shared, certificates};
use crate::authority::{Authority, AuthorityError, living as living_of};
use crate::pki::SignerError;

/// Certificates in a page unless told otherwise.
const PAGE: usize = 100;

pub(super) async fn rotate(state: Shared, Caller(actor): Caller) -> Answer<Json<CaView>> {
    act(&state, move |authority| authority.rotate(&actor)).await?;
    certificates::view(&state).await
}

pub(super) async fn csr(
    state: Shared,
    Caller(actor): Caller,
    Body(request): Body<CaRequest>,
) -> Answer<Json<CaRequested>> {
    let csr = act(&state, move |authority| authority.request(&request.common_name, &actor)).await?;
    Ok(Json(CaRequested { csr }))
}

pub(super) async fn import(state: Shared, Caller(actor): Caller, Body(import): Body<CaImport>) -> Answer<Json<CaView>> {
    act(&state, move |authority| authority.import(import.certificates.as_bytes(), &actor)).await?;
    certificates::view(&state).await
}

pub(super) async fn retire(
    state: Shared,
    Caller(actor): Caller,
    Named(issuer): Named<String>,
    OptionalBody(CaRetirement { force }): OptionalBody<CaRetirement>,
) -> Answer<Json<CaView>> {
    act(&state, move |authority| authority.retire(&issuer, force, &actor)).await?;
    certificates::view(&state).await
}

/// Whole users: the next page begins after the last name of this one.
pub(super) async fn living(
    state: Shared,
    _: Caller,
    Named(issuer): Named<String>,
    Ask(question): Ask<LivingQuestion>,
) -> Answer<Json<Page<LivingView>>> {
    certificates::check_issuer(&state, &issuer).await?;
    let limit = question.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::new(Kind::Invalid, format!("`limit` is 1 to {MAX_PAGE}")));
    }
    let policy = state.directory.policy();
    let mut items: Vec<LivingView> = Vec::new();
    for (user, certificate) in living_of(&policy, &issuer, state.clock.timestamp()) {
        if question.after.as_ref().is_some_and(|after| user.username <= *after) {
            continue;
        }
        if items.len() >= limit && items.last().is_some_and(|last| last.username != user.username) {
            break;
        }
        let (serial, not_after) = (certificate.serial.clone(), certificate.not_after);
        items.push(LivingView { username: user.username.clone(), serial, not_after });
    }
    Ok(Json(Page { items }))
}

/// What the CA does, it does blocking.
pub(super) async fn act<T: Send + 'static>(
    state: &Shared,
    work: impl FnOnce(&Authority) -> Result<T, AuthorityError> + Send + 'static,
) -> Answer<T> {
    let authority = Arc::clone(&state.authority);
    match tokio::task::spawn_blocking(move || work(&authority)).await {
        Ok(outcome) => outcome.map_err(Problem::from),
        Err(error) => {
            tracing::error!(%error, "a change of the CA was not finished");
            Err(Problem::new(Kind::Internal, "the change of the CA was not finished; the log says more"))
        }
    }
}

impl From<AuthorityError> for Problem {
    fn from(error: AuthorityError) -> Self {
        let error = match error {
            AuthorityError::Directory(error) => return error.into(),
            error => error,
        };
        let kind = match &error {
            AuthorityError::NotAllowed => Kind::Forbidden,
            AuthorityError::Name => Kind::Invalid,
            AuthorityError::InUse { .. } => Kind::Conflict,
            AuthorityError::Signer(error) => match error {
                SignerError::Overlap(_) | SignerError::NotOurs | SignerError::NoRequest | SignerError::Same => {
                    Kind::Conflict
                }
                SignerError::NotFormer(_) => Kind::NotFound,
                SignerError::OtherKey
                | SignerError::OtherName
                | SignerError::Chain { .. }
                | SignerError::Refused { .. }
                | SignerError::Pem { .. }
                | SignerError::Certificate(_) => Kind::Invalid,
                _ => Kind::Internal,
            },
            AuthorityError::Directory(_) | AuthorityError::Store(_) | AuthorityError::Tls(_) => Kind::Internal,
        };
        // What broke is for the operator's log too.
        if kind == Kind::Internal {
            return internal(&error);
        }
        Self::new(kind, error.to_string())
    }
}

fn internal(error: &AuthorityError) -> Problem {
    tracing::error!(%error, "the CA cannot be changed");
    Problem::new(Kind::Internal, "the CA cannot be changed now; the log says more")
}

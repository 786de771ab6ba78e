//! `/api/apply`, `/api/history`, `/api/rollback`, and dry runs of every other change: what it would do, live sessions included.

use std::sync::Arc;

use axum::extract::Json;

use super::api::{Applied, Document, DryRun, HistoryEntry, HistoryQuestion, Page, RollbackTerms};
use super::caller::Caller;
use super::extract::{Ask, Body};
use super::{Answer, Shared, State, blocking};
use crate::access::Policy;
use crate::directory::{Actor, DirectoryError, Preview, Transaction};

pub(super) async fn apply(
    state: Shared,
    Caller(actor): Caller,
    Ask(run): Ask<DryRun>,
    Body(document): Body<Document>,
) -> Answer<Json<Applied>> {
    if run.dry_run {
        return dry_run(&state, move |policy| document.plan(policy), actor).await;
    }
    let by = actor.clone();
    let committed = blocking(move || state.directory.apply(document, &actor)).await?;
    tracing::info!(actor = %by, objects = committed.changes.len(), "set of changes applied");
    Ok(Json(Applied {
        dry_run: false,
        version: committed.history_version,
        changes: committed.changes,
        sessions: Vec::new(),
        not_restored: Vec::new(),
    }))
}

pub(super) async fn history(
    state: Shared,
    _: Caller,
    Ask(question): Ask<HistoryQuestion>,
) -> Answer<Json<Page<HistoryEntry>>> {
    let items = blocking(move || state.directory.history(question.limit.unwrap_or(100))).await?;
    Ok(Json(Page { items }))
}

pub(super) async fn rollback(
    state: Shared,
    Caller(actor): Caller,
    Ask(run): Ask<DryRun>,
    Body(terms): Body<RollbackTerms>,
) -> Answer<Json<Applied>> {
    let by = actor.clone();
    let applied = blocking(move || {
        let way = state.directory.way_back(terms.version)?;
        let not_restored = way.not_restored.clone();
        if run.dry_run {
            let preview = state.directory.preview_rollback(way, &actor)?;
            return Ok(Applied { not_restored, ..would(&state, preview) });
        }
        let committed = state.directory.rollback(way, &actor)?;
        let (version, changes) = (committed.history_version, committed.changes);
        Ok(Applied { dry_run: false, version, changes, sessions: Vec::new(), not_restored })
    });
    let applied = applied.await?;
    if !run.dry_run {
        tracing::info!(actor = %by, to = terms.version, objects = applied.changes.len(), "rolled back");
    }
    Ok(Json(applied))
}

fn would(state: &State, preview: Preview) -> Applied {
    Applied {
        dry_run: true,
        version: preview.history_version,
        sessions: state.live.effects(&preview.change),
        changes: preview.changes,
        not_restored: Vec::new(),
    }
}

/// What the commit of this plan would do.
pub(super) async fn dry_run(
    state: &Arc<State>,
    plan: impl FnOnce(&Policy) -> Result<Transaction, DirectoryError> + Send + 'static,
    actor: Actor,
) -> Answer<Json<Applied>> {
    let state = Arc::clone(state);
    let applied = blocking(move || Ok(would(&state, state.directory.preview(plan, &actor)?)));
    applied.await.map(Json)
}

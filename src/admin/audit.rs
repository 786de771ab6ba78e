//! `/api/audit`: the audit log, to read, to follow and to verify. Nothing here changes it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Json;
use axum::response::Response;

use super::api::{AuditHead, AuditPage, AuditRange, AuditVerify, Entry, Report};
use super::caller::{Caller, Standing};
use super::extract::{Ask, OptionalBody};
use super::problem::{Kind, Problem};
use super::stream::{self, Over, Stopping, Teller};
use super::{Answer, Shared};
use crate::audit::Keeper;
use crate::store::StoreError;

/// Records in one page.
const PAGE: usize = 1000;

pub(super) async fn list(state: Shared, _: Caller, Ask(range): Ask<AuditRange>) -> Answer<Json<AuditPage>> {
    let limit = range.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE {
        return Err(Problem::new(Kind::Invalid, format!("`limit` is 1 to {PAGE}")));
    }
    let keeper = Arc::clone(&state.keeper);
    reading(move || {
        let end = keeper.tip();
        Ok(Json(AuditPage { items: keeper.read(start(&range, end.sequence), limit)?, end }))
    })
    .await
}

pub(super) async fn head(state: Shared, _: Caller) -> Answer<Json<AuditHead>> {
    let keeper = Arc::clone(&state.keeper);
    reading(move || Ok(Json(AuditHead { end: keeper.tip(), signed: keeper.head()? }))).await
}

pub(super) async fn verify(
    state: Shared,
    _: Caller,
    OptionalBody(asked): OptionalBody<AuditVerify>,
) -> Answer<Json<Report>> {
    let keeper = Arc::clone(&state.keeper);
    let report = reading(move || keeper.verify(asked.head)).await?;
    if let Some(fault) = &report.fault {
        tracing::error!(%fault, "the audit log is not as it was written");
    }
    Ok(Json(report))
}

/// Records as they come, until the client or its right goes, or the broker stops.
pub(super) async fn events(
    state: Shared,
    standing: Standing,
    Ask(range): Ask<AuditRange>,
    Extension(stopping): Extension<Stopping>,
) -> Response {
    let keeper = Arc::clone(&state.keeper);
    let after = match range {
        AuditRange { after: None, last: None, .. } => keeper.tip().sequence,
        range => start(&range, keeper.tip().sequence),
    };
    let (teller, response) = stream::open(&state, &standing, stopping);
    tokio::spawn(follow(keeper, after, teller));
    response
}

async fn follow(keeper: Arc<Keeper>, mut after: u64, mut teller: Teller) -> Result<(), Over> {
    let mut moved = keeper.watch();
    teller.begin().await?;
    loop {
        moved.mark_unchanged();
        let reader = Arc::clone(&keeper);
        let entries: Vec<Entry> = match reading(move || reader.read(after, PAGE)).await {
            Ok(entries) => entries,
            Err(problem) => return teller.tell(&problem).await,
        };
        for entry in &entries {
            teller.tell(entry).await?;
            after = entry.sequence().unwrap_or(after.saturating_add(1));
        }
        if entries.len() < PAGE && teller.wait(moved.changed()).await?.is_err() {
            return Ok(());
        }
    }
}

/// The number after which the range begins.
fn start(range: &AuditRange, end: u64) -> u64 {
    let by_count = range.last.map_or(0, |last| end.saturating_sub(last));
    range.after.unwrap_or(0).max(by_count)
}

async fn reading<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Answer<T> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "the audit log cannot be read");
        Problem::new(Kind::Internal, "the audit log cannot be read; the log says more, and `audit verify` where")
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

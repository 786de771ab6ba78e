//! `/api/audit`: the audit log, to read, to follow and to verify. Nothing here changes it.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Json;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::api::{AuditHead, AuditPage, AuditRange, AuditVerify, Entry, Report};
use super::extract::{Ask, OptionalBody};
use super::problem::{Kind, Problem};
use super::registry::{HEARTBEAT, Stopping, event_stream, server_sent};
use super::server::Caller;
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

/// Records as they come, until the client goes or the broker stops.
pub(super) async fn events(
    state: Shared,
    _: Caller,
    Ask(range): Ask<AuditRange>,
    Extension(Stopping(stopping)): Extension<Stopping>,
) -> Response {
    let (sender, receiver) = mpsc::channel(16);
    let keeper = Arc::clone(&state.keeper);
    let after = match range {
        AuditRange { after: None, last: None, .. } => keeper.tip().sequence,
        range => start(&range, keeper.tip().sequence),
    };
    tokio::spawn(async move {
        if let Err(problem) = follow(keeper, after, sender.clone(), stopping).await {
            // An error says that the client is gone.
            let _ = sender.send(server_sent(&problem)).await;
        }
    });
    event_stream(receiver)
}

async fn follow(
    keeper: Arc<Keeper>,
    mut after: u64,
    out: mpsc::Sender<Bytes>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Problem> {
    let mut moved = keeper.watch();
    let mut next = Bytes::from_static(b": listening\n\n");
    loop {
        if out.send(next).await.is_err() {
            return Ok(());
        }
        moved.mark_unchanged();
        let reader = Arc::clone(&keeper);
        let entries: Vec<Entry> = reading(move || reader.read(after, PAGE)).await?;
        for entry in &entries {
            if out.send(server_sent(entry)).await.is_err() {
                return Ok(());
            }
            after = entry.sequence().unwrap_or(after.saturating_add(1));
        }
        next = if entries.len() == PAGE {
            Bytes::from_static(b":\n\n")
        } else {
            tokio::select! {
                changed = moved.changed() => match changed {
                    Ok(()) => Bytes::from_static(b":\n\n"),
                    Err(_) => return Ok(()),
                },
                () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b":\n\n"),
                () = out.closed() => return Ok(()),
                _ = stopping.wait_for(|stop| *stop) => return Ok(()),
            }
        };
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

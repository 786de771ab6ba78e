//! `/api/roles`.

use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::api::{Delete, DryRun, NewRole, Page, Role, RoleUpdate, VersionRead};
use super::apply::dry_run;
use super::caller::Caller;
use super::extract::{Ask, Body, Named};
use super::problem::{Kind, Problem};
use super::{Answer, Shared, blocking, expected};
use crate::access::{ManagedBy, RoleName};
use crate::directory::{Change, Expected};

pub(super) async fn list(state: Shared, _: Caller) -> Json<Page<Role>> {
    let policy = state.directory.policy();
    Json(Page { items: policy.roles().map(|role| Role::clone(role)).collect() })
}

pub(super) async fn show(state: Shared, _: Caller, Named(name): Named<RoleName>) -> Answer<Json<Role>> {
    let policy = state.directory.policy();
    let role = policy.role(&name).ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no role `{name}`")))?;
    Ok(Json(Role::clone(role)))
}

pub(super) async fn create(
    state: Shared,
    Caller(actor): Caller,
    Ask(run): Ask<DryRun>,
    Body(new): Body<NewRole>,
) -> Answer<Response> {
    let NewRole { name, description, permissions } = new;
    let role = Role { name, description, permissions, managed_by: ManagedBy::Api, version: 0 };
    if run.dry_run {
        let plan = move |_: &_| Ok(Change::PutRole { role, expected: Expected::Absent }.into());
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let by = actor.clone();
    let role = blocking(move || state.directory.put_role(role, Expected::Absent, &actor)).await?;
    tracing::info!(actor = %by, role = %role.name, "role created");
    Ok((StatusCode::CREATED, Json(Role::clone(&role))).into_response())
}

pub(super) async fn replace(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<RoleName>,
    Ask(run): Ask<DryRun>,
    Body(update): Body<RoleUpdate>,
) -> Answer<Response> {
    let RoleUpdate { version, description, permissions } = update;
    let role = Role { name, description, permissions, managed_by: ManagedBy::Api, version };
    if run.dry_run {
        let plan = move |_: &_| Ok(Change::PutRole { role, expected: Expected::Version(version) }.into());
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let by = actor.clone();
    let role = blocking(move || state.directory.put_role(role, Expected::Version(version), &actor)).await?;
    tracing::info!(actor = %by, role = %role.name, "role changed");
    Ok(Json(Role::clone(&role)).into_response())
}

pub(super) async fn delete(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<RoleName>,
    Ask(Delete { version, dry_run: dry }): Ask<Delete>,
) -> Answer<Response> {
    let expected = expected(VersionRead { version });
    if dry {
        let plan = move |_: &_| Ok(Change::DeleteRole { name, expected }.into());
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let (by, deleted) = (actor.clone(), name.clone());
    blocking(move || state.directory.delete_role(name, expected, &actor)).await?;
    tracing::info!(actor = %by, role = %deleted, "role deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

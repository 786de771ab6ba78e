//! `/api/roles`.

use axum::extract::Json;
use axum::http::StatusCode;

use super::api::{NewRole, Page, Role, RoleUpdate, VersionRead};
use super::extract::{Ask, Body, Named};
use super::problem::{Kind, Problem};
use super::server::Caller;
use super::{Answer, Shared, blocking, expected};
use crate::access::{ManagedBy, RoleName};
use crate::directory::Expected;

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
    Body(new): Body<NewRole>,
) -> Answer<(StatusCode, Json<Role>)> {
    let NewRole { name, description, permissions } = new;
    let role = Role { name, description, permissions, managed_by: ManagedBy::Api, version: 0 };
    let by = actor.clone();
    let role = blocking(move || state.directory.put_role(role, Expected::Absent, &actor)).await?;
    tracing::info!(actor = %by, role = %role.name, "role created");
    Ok((StatusCode::CREATED, Json(Role::clone(&role))))
}

pub(super) async fn replace(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<RoleName>,
    Body(update): Body<RoleUpdate>,
) -> Answer<Json<Role>> {
    let RoleUpdate { version, description, permissions } = update;
    let role = Role { name, description, permissions, managed_by: ManagedBy::Api, version };
    let by = actor.clone();
    let role = blocking(move || state.directory.put_role(role, Expected::Version(version), &actor)).await?;
    tracing::info!(actor = %by, role = %role.name, "role changed");
    Ok(Json(Role::clone(&role)))
}

pub(super) async fn delete(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<RoleName>,
    Ask(read): Ask<VersionRead>,
) -> Answer<StatusCode> {
    let (by, deleted) = (actor.clone(), name.clone());
    blocking(move || state.directory.delete_role(name, expected(read), &actor)).await?;
    tracing::info!(actor = %by, role = %deleted, "role deleted");
    Ok(StatusCode::NO_CONTENT)
}

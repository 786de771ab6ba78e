//! `/api/users`.

use std::sync::Arc;

use axum::extract::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::api::{Delete, DryRun, NewPassword, NewUser, Page, Secret, UserPatch, UserView, VersionRead};
use super::apply::dry_run;
use super::caller::Caller;
use super::extract::{Ask, Body, Named, OptionalBody};
use super::problem::{Kind, Problem};
use super::{Answer, Shared, State, blocking, expected};
use crate::access::{Auth, ManagedBy, Policy, User, UserId, Username};
use crate::authn::{HashError, Lane, PasswordHash, Source};
use crate::directory::{self, Actor, Change, DirectoryError, Expected, Subject, Transaction};

pub(super) async fn list(state: Shared, _: Caller) -> Json<Page<UserView>> {
    let policy = state.directory.policy();
    Json(Page { items: policy.users().map(|user| view(&state, user)).collect() })
}

pub(super) async fn show(state: Shared, _: Caller, Named(name): Named<Username>) -> Answer<Json<UserView>> {
    Ok(Json(view(&state, &*find(&state, &name)?)))
}

pub(super) async fn create(
    state: Shared,
    Caller(actor): Caller,
    Ask(run): Ask<DryRun>,
    Body(new): Body<NewUser>,
) -> Answer<Response> {
    check_proof(new.auth, new.password.is_some())?;
    if state.directory.policy().user_named(&new.username).is_some() {
        // Said before a hash is computed; the directory says it again where it counts.
        return Err(Problem::new(Kind::Conflict, format!("user `{}` exists already", new.username)));
    }
    let password_hash = match &new.password {
        Some(password) if run.dry_run => {
            check_password(&state, password)?;
            None
        }
        Some(password) => Some(hash(&state, password).await?.as_str().to_owned()),
        None => None,
    };
    let user = directory::NewUser {
        description: new.description,
        enabled: new.enabled,
        auth: new.auth,
        password_hash,
        roles: new.roles,
        permissions: new.permissions,
        publish_prefix: new.publish_prefix,
        client_id: new.client_id,
        quota: new.quota,
        expires_at: new.expires_at,
        ..directory::NewUser::named(new.username)
    };
    if run.dry_run {
        let user = Box::new(user.into_user(UserId(Uuid::now_v7()), ManagedBy::Api));
        let plan = move |_: &_| Ok(Change::PutUser { user, expected: Expected::Absent }.into());
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let by = actor.clone();
    let shared = Arc::clone(&state);
    let user = blocking(move || state.directory.create_user(user, &actor)).await?;
    tracing::info!(actor = %by, user = %user.username, "user created");
    Ok((StatusCode::CREATED, Json(view(&shared, &user))).into_response())
}

pub(super) async fn change(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    Ask(run): Ask<DryRun>,
    Body(patch): Body<UserPatch>,
) -> Answer<Response> {
    let user = find(&state, &name)?;
    let expected = Expected::Version(patch.version);
    if let Some(auth) = patch.auth {
        // What is looked at here is the version that the patch was made from, or the directory refuses. A password that
        // the new `auth` does not admit goes.
        check_proof(auth, user.password_hash.is_some() && auth != Auth::Certificate)?;
    }
    let id = user.id;
    let edit = move |user: &mut User| apply(user, patch);
    update(state, actor, (id, name), expected, edit, run, "user changed").await
}

fn apply(user: &mut User, patch: UserPatch) {
    let UserPatch {
        version: _,
        description,
        enabled,
        auth,
        roles,
        permissions,
        publish_prefix,
        client_id,
        quota,
        expires_at,
    } = patch;
    user.description = description.unwrap_or_else(|| std::mem::take(&mut user.description));
    user.enabled = enabled.unwrap_or(user.enabled);
    user.auth = auth.unwrap_or(user.auth);
    if matches!(user.auth, Auth::Certificate | Auth::None) {
        user.password_hash = None;
    }
    user.roles = roles.unwrap_or_else(|| std::mem::take(&mut user.roles));
    user.permissions = permissions.unwrap_or_else(|| std::mem::take(&mut user.permissions));
    user.publish_prefix = publish_prefix.unwrap_or_else(|| user.publish_prefix.take());
    user.client_id = client_id.unwrap_or_else(|| user.client_id.take());
    user.quota = quota.map_or_else(|| user.quota.take(), |quota| quota.map(Box::new));
    user.expires_at = expires_at.unwrap_or(user.expires_at);
}

pub(super) async fn delete(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    Ask(Delete { version, dry_run: dry }): Ask<Delete>,
) -> Answer<Response> {
    let id = find(&state, &name)?.id;
    let expected = expected(VersionRead { version });
    if dry {
        let plan = move |_: &_| Ok(Change::DeleteUser { id, expected }.into());
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let by = actor.clone();
    blocking(move || state.directory.delete_user(id, expected, &actor)).await?;
    tracing::info!(actor = %by, user = %name, "user deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn set_password(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    Ask(run): Ask<DryRun>,
    Body(new): Body<NewPassword>,
) -> Answer<Response> {
    let user = find(&state, &name)?;
    check_proof(user.auth, true)?;
    let hash = if run.dry_run {
        // Any other one ends the same sessions.
        check_password(&state, &new.password)?;
        String::new()
    } else {
        hash(&state, &new.password).await?.as_str().to_owned()
    };
    let expected = expected(VersionRead { version: new.version });
    let edit = move |user: &mut User| user.password_hash = Some(hash);
    update(state, actor, (user.id, name), expected, edit, run, "password set").await
}

pub(super) async fn enable(
    state: Shared,
    caller: Caller,
    name: Named<Username>,
    Ask(run): Ask<DryRun>,
    OptionalBody(read): OptionalBody<VersionRead>,
) -> Answer<Response> {
    switch(state, caller, name, read, true, run).await
}

pub(super) async fn disable(
    state: Shared,
    caller: Caller,
    name: Named<Username>,
    Ask(run): Ask<DryRun>,
    OptionalBody(read): OptionalBody<VersionRead>,
) -> Answer<Response> {
    switch(state, caller, name, read, false, run).await
}

async fn switch(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    read: VersionRead,
    enabled: bool,
    run: DryRun,
) -> Answer<Response> {
    let id = find(&state, &name)?.id;
    let edit = move |user: &mut User| user.enabled = enabled;
    let what = if enabled { "user enabled" } else { "user disabled" };
    update(state, actor, (id, name), expected(read), edit, run, what).await
}

/// Makes the edit, or says what it would do.
pub(super) async fn update(
    state: Shared,
    actor: Actor,
    (id, name): (UserId, Username),
    expected: Expected,
    edit: impl FnOnce(&mut User) + Send + 'static,
    run: DryRun,
    what: &'static str,
) -> Answer<Response> {
    if run.dry_run {
        let plan = move |policy: &Policy| -> Result<Transaction, DirectoryError> {
            let user = policy.user(id).ok_or_else(|| DirectoryError::NotFound(Subject::User(id.to_string())))?;
            let mut user = Box::new(User::clone(user));
            edit(&mut user);
            Ok(Change::PutUser { user, expected }.into())
        };
        return Ok(dry_run(&state, plan, actor).await?.into_response());
    }
    let by = actor.clone();
    let shared = Arc::clone(&state);
    let user = blocking(move || state.directory.update_user(id, expected, edit, &actor)).await?;
    tracing::info!(actor = %by, user = %name, what);
    Ok(Json(view(&shared, &user)).into_response())
}

/// The user as it is shown, with what is no part of the policy.
fn view(state: &State, user: &User) -> UserView {
    let directory = &state.directory;
    UserView {
        last_seen_at: directory.last_seen(user.id),
        last_seen_from: directory.last_source(user.id),
        ..UserView::from(user)
    }
}

pub(super) fn find(state: &State, name: &Username) -> Answer<Arc<User>> {
    let policy = state.directory.policy();
    let user = policy.user_named(name).cloned();
    user.ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no user `{name}`")))
}

/// Does `auth` go together with having a password, or not having one?
fn check_proof(auth: Auth, has_password: bool) -> Answer<()> {
    directory::proof_fault(auth, has_password).map_or(Ok(()), |why| Err(Problem::new(Kind::Invalid, why)))
}

fn check_password(state: &State, password: &Secret) -> Answer<()> {
    state.password_policy.check(password.expose()).map_err(|weak| Problem::new(Kind::Invalid, weak.to_string()))
}

async fn hash(state: &State, password: &Secret) -> Answer<PasswordHash> {
    check_password(state, password)?;
    let hash = state.hasher.hash(Lane::Administration, Source::Local, password.expose().as_bytes()).await;
    hash.map_err(|error| match error {
        HashError::Busy => Problem::new(Kind::Busy, error.to_string()).with("retry_after", 1),
        HashError::TooLong => Problem::new(Kind::Invalid, error.to_string()),
        HashError::System(_) => {
            tracing::error!(%error, "a password cannot be hashed");
            Problem::new(Kind::Internal, "the password cannot be hashed now; the log says more")
        }
    })
}

//! `/api/ca`, `/crl`, and certificates of users that are taken out of force.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Json;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::api::{
    CaCertificates, CaView, CrlView, DryRun, FormerView, IssuerRevocation, Pin, Revocation, RevokedIssuerView,
    TrustView,
};
use super::caller::Caller;
use super::extract::{Ask, Body, Named, NamedCertificate, OptionalBody};
use super::problem::{Kind, Problem};
use super::users::{find, update};
use super::{Answer, Shared, State, blocking, ca::act};
use crate::access::{CertificateRecord, RevocationReason, User, Username};
use crate::authority::{Authority, living};
use crate::directory::{Change, DirectoryError, Expected};
use crate::pki::{Crl, PeerCertificate, ProfileError, Signer as _};

/// Certificates on record of one user to which another one may be pinned.
const MAX_ON_RECORD: usize = 64;

/// Longest comment on a revocation, in bytes.
const MAX_COMMENT: usize = 1024;

/// How long a request waits for the first list of a broker that has just started.
const FIRST_LIST: Duration = Duration::from_secs(5);

/// The sessions that stand on the certificate end before this is answered: each is held against the users.
pub(super) async fn revoke_one(
    state: Shared,
    Caller(actor): Caller,
    NamedCertificate { username: name, serial }: NamedCertificate,
    Ask(run): Ask<DryRun>,
    OptionalBody(order): OptionalBody<Revocation>,
) -> Answer<Response> {
    let edit = edit(&state, &order, Some(serial.clone()))?;
    let user = find(&state, &name)?;
    match user.certificates.iter().find(|certificate| certificate.serial == serial) {
        None => {
            let detail = format!("user `{name}` has no certificate with the serial `{serial}`");
            return Err(Problem::new(Kind::NotFound, detail));
        }
        Some(CertificateRecord { revoked_at: Some(at), .. }) => {
            return Err(Problem::new(Kind::Conflict, format!("the certificate `{serial}` was revoked at {at}")));
        }
        Some(_) => {}
    }
    // What was looked at is what is changed, or the directory refuses.
    let expected = Expected::Version(order.version.unwrap_or(user.version));
    update(state, actor, (user.id, name), expected, edit, run, "certificate revoked").await
}

/// Every certificate of a user; the user stays, and whatever else it logs in with.
pub(super) async fn revoke_all(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    Ask(run): Ask<DryRun>,
    OptionalBody(order): OptionalBody<Revocation>,
) -> Answer<Response> {
    let edit = edit(&state, &order, None)?;
    let user = find(&state, &name)?;
    if user.certificates.iter().all(|certificate| certificate.revoked_at.is_some()) {
        return Err(Problem::new(Kind::Conflict, format!("user `{name}` has no certificate that is not revoked")));
    }
    let expected = Expected::Version(order.version.unwrap_or(user.version));
    update(state, actor, (user.id, name), expected, edit, run, "all certificates revoked").await
}

/// What takes the certificate with this serial out of force, or all of them.
fn edit(
    state: &State,
    order: &Revocation,
    serial: Option<String>,
) -> Answer<impl FnOnce(&mut User) + Send + 'static + use<>> {
    check_comment(order.comment.as_deref())?;
    let (reason, comment, at) = (order.reason, order.comment.clone(), state.clock.timestamp());
    Ok(move |user: &mut User| {
        let chosen = |certificate: &&mut CertificateRecord| {
            certificate.revoked_at.is_none() && serial.as_ref().is_none_or(|serial| certificate.serial == *serial)
        };
        for certificate in user.certificates.iter_mut().filter(chosen) {
            certificate.revoked_at = Some(at);
            certificate.reason = reason;
            certificate.comment.clone_from(&comment);
        }
    })
}

/// Puts a certificate of a further CA on record: it logs in an administrator, who needs that, and it can be revoked.
pub(super) async fn pin(
    state: Shared,
    Caller(actor): Caller,
    Named(name): Named<Username>,
    Ask(run): Ask<DryRun>,
    Body(order): Body<Pin>,
) -> Answer<Response> {
    check_comment(order.comment.as_deref())?;
    let invalid = |detail: String| Problem::new(Kind::Invalid, detail);
    let certificate = PeerCertificate::from_pem(order.certificate.as_bytes())
        .map_err(|_| invalid("`certificate` is not exactly one X.509 certificate in PEM".to_owned()))?;
    let user = find(&state, &name)?;
    if let Err(expected) = state.anchors.may_name(&certificate, &name) {
        return Err(invalid(format!("the certificate lacks {expected}: it would log nobody in")));
    }
    if !certificate.is_valid_at(state.clock.timestamp()) {
        let (from, to) = (certificate.not_before(), certificate.not_after());
        return Err(invalid(format!("the certificate is valid from {from} to {to}, not now")));
    }
    if state.crl.signers().load().issuers().iter().any(|issuer| certificate.is_issued_by(issuer)) {
        let detail = "the certificate is of the broker's own CA, which puts on record what it issues";
        return Err(invalid(detail.to_owned()));
    }
    if user.certificates.iter().any(|record| record.fingerprint == certificate.fingerprint()) {
        return Err(Problem::new(Kind::Conflict, format!("this certificate is on record of `{name}` already")));
    }
    if user.certificates.len() >= MAX_ON_RECORD {
        let detail = format!("`{name}` has {MAX_ON_RECORD} certificates on record, and no more can be put there");
        return Err(Problem::new(Kind::Conflict, detail));
    }
    let record = CertificateRecord {
        serial: certificate.serial().to_owned(),
        fingerprint: certificate.fingerprint().to_owned(),
        key: certificate.key().map(|key| key.fingerprint()),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
        revoked_at: None,
        reason: None,
        comment: order.comment,
        issuer: None,
        replaces: None,
    };
    let expected = Expected::Version(order.version.unwrap_or(user.version));
    let edit = move |user: &mut User| user.certificates.push(record);
    update(state, actor, (user.id, name), expected, edit, run, "certificate pinned").await
}

fn check_comment(comment: Option<&str>) -> Answer<()> {
    if comment.is_some_and(|comment| comment.len() > MAX_COMMENT) {
        return Err(Problem::new(Kind::Invalid, format!("a comment has at most {MAX_COMMENT} bytes")));
    }
    Ok(())
}

/// A wrong letter must not look like a deed, nor like an issuer that nothing is left of.
pub(super) async fn check_issuer(state: &Shared, issuer: &str) -> Answer<()> {
    let of_issuer = |user: &Arc<User>| user.certificates.iter().any(|it| it.issuer.as_deref() == Some(issuer));
    let known =
        act(state, Authority::lineage).await?.has_identifier(issuer) || state.directory.policy().users().any(of_issuer);
    if known {
        Ok(())
    } else {
        Err(Problem::new(Kind::NotFound, format!("there is no issuer `{issuer}`, nor anything issued by it")))
    }
}

/// Takes everything that an issuer has issued out of force. The sessions that stand on it end before this is answered.
pub(super) async fn revoke_issuer(
    state: Shared,
    Caller(actor): Caller,
    Named(issuer): Named<String>,
    OptionalBody(order): OptionalBody<IssuerRevocation>,
) -> Answer<Json<RevokedIssuerView>> {
    check_comment(order.comment.as_deref())?;
    check_issuer(&state, &issuer).await?;
    let by = actor.clone();
    let (id, reason) = (issuer.clone(), order.reason.unwrap_or(RevocationReason::CaCompromise));
    let directory = Arc::clone(&state.directory);
    let issuers = blocking(move || {
        let change = Change::RevokeIssuer { issuer, reason, comment: order.comment };
        directory.commit(change.into(), &actor)?;
        directory.revoked_issuers()
    });
    let record = issuers.await?.remove(&id).ok_or_else(|| Problem::from(DirectoryError::Interrupted))?;
    tracing::warn!(actor = %by, issuer = %id, "issuer revoked");
    Ok(Json(RevokedIssuerView {
        issuer: id,
        revoked_at: record.revoked_at,
        reason: record.reason,
        comment: record.comment,
    }))
}

pub(super) async fn ca(state: Shared, _: Caller) -> Answer<Json<CaView>> {
    view(&state).await
}

/// The CA as it is shown.
pub(super) async fn view(state: &State) -> Answer<Json<CaView>> {
    let issuers = {
        let directory = Arc::clone(&state.directory);
        blocking(move || directory.revoked_issuers()).await?
    };
    let (policy, now) = (state.directory.policy(), state.clock.timestamp());
    let signer = state.crl.signers().load();
    let issuer = signer.issuer();
    let id = issuer.id();
    let mut certificates = CaCertificates::default();
    for certificate in policy.users().flat_map(|user| &user.certificates) {
        if policy.is_revoked(certificate) {
            certificates.revoked += 1;
        } else if certificate.not_after < now {
            certificates.expired += 1;
        } else {
            certificates.live += 1;
            if certificate.issuer.as_deref() != Some(&id) {
                certificates.of_other_issuers += 1;
            }
        }
    }
    Ok(Json(CaView {
        subject: issuer.name(),
        fingerprint: crate::pki::hex(&crate::pki::sha256(issuer.der())),
        key_identifier: id,
        key: issuer.key().kind().to_string(),
        not_before: issuer.not_before(),
        not_after: issuer.not_after(),
        crl_url: issuer.crl_url().map(str::to_owned),
        certificates,
        crl: state.crl.current().as_ref().map(list),
        former: signer.former().map(|former| {
            let id = former.id();
            let living: Vec<_> = living(&policy, &id, now).map(|(user, _)| user.id).collect();
            FormerView {
                subject: former.name(),
                not_after: former.not_after(),
                certificates: living.len(),
                users: living.iter().collect::<BTreeSet<_>>().len(),
                issuer: id,
            }
        }),
        trust: state
            .anchors
            .further()
            .map(|(certificate, username)| TrustView {
                subject: certificate.name(),
                fingerprint: crate::pki::hex(&crate::pki::sha256(certificate.der())),
                username: username.clone(),
                not_after: certificate.not_after(),
            })
            .collect(),
        revoked_issuers: issuers
            .into_iter()
            .map(|(issuer, it)| RevokedIssuerView {
                issuer,
                revoked_at: it.revoked_at,
                reason: it.reason,
                comment: it.comment,
            })
            .collect(),
    }))
}

fn list(crl: &Crl) -> CrlView {
    CrlView {
        number: crl.number(),
        entries: crl.entries(),
        this_update: crl.this_update(),
        next_update: crl.next_update(),
    }
}

/// `/crl`, for entrances that do not serve the door of the registry, which has it too.
pub(super) fn crl_route(state: Arc<State>) -> Router {
    Router::new().route("/crl", get(crl)).route("/crl/{issuer}", get(crl_of)).with_state(state)
}

/// The revocation list in force of the CA that issues, DER. For everybody: no caller is asked for, and nothing is told but serial numbers.
pub(super) async fn crl(state: Shared) -> Answer<Response> {
    let id = state.crl.signers().load().issuer().id();
    list_of(&state, &id).await
}

/// That of an issuer, by its key identifier.
pub(super) async fn crl_of(state: Shared, Named(id): Named<String>) -> Answer<Response> {
    list_of(&state, &id).await
}

async fn list_of(state: &State, id: &str) -> Answer<Response> {
    let issuers = state.crl.signers().load().issuers();
    let Some(issuer) = issuers.iter().find(|issuer| issuer.id() == id) else {
        return Err(Problem::new(Kind::NotFound, "there is no revocation list of this issuer: it is not trusted"));
    };
    if !issuer.signs_crls() {
        return Err(Problem::new(Kind::NotFound, format!("there is no revocation list: {}", ProfileError::CrlSign)));
    }
    let mut watched = state.crl.watch();
    let first = tokio::time::timeout(FIRST_LIST, watched.wait_for(|lists| lists.contains_key(id))).await;
    let Some(crl) = first.ok().and_then(Result::ok).and_then(|lists| lists.get(id).cloned()) else {
        return Err(Problem::new(Kind::Busy, "the revocation list is being made").with("retry_after", 5));
    };
    // RFC 2585 4.2. Revoked now is revoked for readers too, so nothing in between keeps it.
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, axum::body::Bytes::from_owner(Arc::clone(crl.der()))).into_response())
}

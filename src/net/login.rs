//! From a CONNECT to the session it may have: who is it, and may it be here?
//!
//! Enters: a CONNECT, the peer's verified certificates, the listener. Leaves: an [`Admitted`] or a [`Rejection`].
//! The identity can be held against any later state of the users, and is, at every turn of the connection.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use super::{
    Server,
    listener::Listener,
    registrations::{Full, Place},
};
use crate::{
    access::{Authority, CertificateRecord, Policy, UserId, Username},
    audit,
    authn::{Cause, Credentials, Identity, Refusal, Source},
    clock::{Instant, Timestamp},
    metrics::AuthenticationOutcome,
    mqtt::{ClientId, Connect, ProtocolVersion, ReasonCode},
    pki::PairingCode,
    registry::{self, Binding, Caller, Door, Knock, Origin},
    session::{EndCause, Owner, RegistryOperation, Rejection, SessionKey, Settings, Terms, check_connect},
};

/// A CONNECT that may go on.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) key: SessionKey,
    pub(super) terms: Terms,
    /// `None`: a registration session.
    identity: Option<Identity>,
    /// A registration session's place among those that there may be.
    place: Option<Place>,
}

impl Admitted {
    /// The limits that hold for it.
    pub(super) fn settings<'s>(&self, server: &'s Server) -> &'s Settings {
        if self.identity.is_some() { &server.settings.session } else { &server.settings.registration_session }
    }

    /// Who it is; `None`: a registration session.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Who asks the registry; `None`: a registration session.
    pub(super) fn caller(&self, policy: &Policy) -> Option<Caller> {
        let certificate = self.certificate(policy).map(|record| (record.serial.clone(), record.not_after));
        Some(Caller { user: self.identity.as_ref()?.user(), certificate })
    }

    /// Who asks for what operators do, and as which client; `None`: a registration session.
    pub(super) fn operator(&self) -> Option<(UserId, Username, ClientId)> {
        let identity = self.identity.as_ref()?;
        Some((identity.user(), identity.username().clone(), self.key.client_id.clone()))
    }

    /// It asks the registry for this.
    pub(super) fn asks(&self, operation: RegistryOperation, now: Instant) {
        if let Some(place) = self.place.as_ref().filter(|_| operation.enrols()) {
            place.asked(now);
        }
    }

    /// Is there still room for it? A registration session may have to give way before it is attached.
    pub(super) fn has_room(&self) -> bool {
        self.place.as_ref().is_none_or(Place::is_held)
    }

    /// The record of the certificate that it was proven with.
    pub(super) fn certificate<'a>(&self, policy: &'a Policy) -> Option<&'a CertificateRecord> {
        let identity = self.identity.as_ref()?;
        let fingerprint = &identity.certificate()?.fingerprint;
        policy.user(identity.user())?.certificates.iter().find(|record| record.fingerprint == *fingerprint)
    }

    /// Its rights under this policy, and when the connection ends whatever happens; `None`: it may not be connected any
    /// more.
    ///
    /// Where the rights are the same as those that it held a moment ago, so is the user's record, which is all that an
    /// identity is held against but the time: and for that the session has a timer. This is what every connection does
    /// after every commit, whoever it was about.
    pub(super) fn standing(
        &self,
        held: Option<&Authority>,
        policy: &Policy,
        now: (Instant, Timestamp),
    ) -> Option<Standing> {
        let Some(identity) = &self.identity else {
            return Some(Standing { authority: Authority::none(policy.version()), until: self.terms.until });
        };
        let authority = policy.authority(identity.user(), &self.key.client_id)?;
        // That an issuer is revoked is not on the user's record.
        let by_issuer = identity.certificate().is_some() && !policy.revoked_issuers().is_empty();
        if !by_issuer && held.is_some_and(|held| authority.is_same_as(held)) {
            return Some(Standing { authority, until: self.terms.until });
        }
        // A session never outlives its certificate or its user.
        let until = identity.check(policy, now.1).ok()?;
        let until = until.and_then(|end| instant_of(end, now)).map(|at| (at, ReasonCode::NotAuthorized));
        Some(Standing { authority, until })
    }
}

/// What an identity comes to under one policy.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) authority: Authority,
    pub(super) until: Option<(Instant, ReasonCode)>,
}

const BUSY: &str = "too many logins at once: try again in some seconds";

fn rejection(reason_code: ReasonCode, explanation: impl Into<Cow<'static, str>>) -> Rejection {
    Rejection { reason_code, explanation: explanation.into(), refusal: None }
}

/// The moment on the monotonic clock that a wall-clock time names; a past one is now.
fn instant_of(at: Timestamp, now: (Instant, Timestamp)) -> Option<Instant> {
    let left = at.duration_since(now.1);
    now.0.checked_add(left.try_into().unwrap_or_default())
}

/// Decides about a CONNECT. Waits for nothing but the password check.
pub(super) async fn admit(
    server: &Server,
    listener: &Listener,
    peer: SocketAddr,
    connection: u64,
    connect: &Connect,
    certificates: Option<&[Vec<u8>]>,
) -> Result<Admitted, Rejection> {
    check_connect(connect)?;
    let anonymous = connect.username.is_none() && connect.password.is_none() && certificates.is_none();
    if anonymous && listener.anonymous.is_none() && listener.registration {
        return registration(server, peer, connection, connect);
    }

    let mut nameless = None;
    let identity = match &listener.anonymous {
        Some(name) if anonymous => {
            let policy = server.directory.policy();
            Identity::anonymous(&*policy, name, server.clock.timestamp())
                .inspect(|_| server.metrics.authentications.inc(AuthenticationOutcome::Anonymous))
        }
        _ => {
            let certificate = certificates.map(|chain| server.anchors.certificate(chain, server.clock.timestamp()));
            let certificate = certificate.transpose().map_err(|why| {
                server.metrics.authentications.inc(AuthenticationOutcome::BadCredentials);
                tracing::info!(%peer, listener = listener.name, "login refused: {why}");
                record_failure(server, listener, peer, connect, why.cause());
                rejection(ReasonCode::BadUserNameOrPassword, why.explanation())
            })?;
            let certificate = certificate.map(Arc::new);
            nameless =
                certificate.as_ref().and_then(|it| Some((it.username.as_ref().err()?.clone(), it.fingerprint.clone())));
            let credentials = Credentials {
                username: connect.username.as_deref(),
                password: connect.password.as_deref(),
                certificate: certificate.as_ref(),
                source: Source::from(peer.ip()),
            };
            server.authenticator.authenticate(|| server.directory.policy(), &credentials).await
        }
    };
    let identity = match identity {
        Ok(identity) => identity,
        Err(refusal) => {
            if certificates.is_none()
                && let Some(told) = implicit(server, listener, peer, connection, connect, refusal).await
            {
                return Err(told);
            }
            tracing::info!(
                %peer,
                listener = listener.name,
                username = connect.username.as_deref().unwrap_or_default(),
                cause = refusal.cause().as_str(),
                "login refused"
            );
            if let Some((why, fingerprint)) = nameless {
                tracing::info!(%peer, fingerprint, "the client certificate names nobody: {why}");
            }
            record_failure(server, listener, peer, connect, refusal.cause().as_str());
            return Err(rejection(
                refusal.code(),
                match refusal.code() {
                    ReasonCode::ServerBusy => BUSY,
                    ReasonCode::NotAuthorized => "this user may not connect",
                    _ => "bad user name or password",
                },
            ));
        }
    };

    let (client_id, assigned_client_id) = client_id(connect);
    Ok(Admitted {
        key: SessionKey { owner: Owner::User(identity.user()), client_id },
        // The time is of the rules under which it is attached: see `Admitted::standing`.
        terms: Terms { assigned_client_id, until: None, ask_by: None, invite: invitation(&identity, server) },
        identity: Some(identity),
        place: None,
    })
}

/// Door 2 of the registry: what a client is told whose name and password open nothing, at a listener that admits registrations, while
/// that door is open; `None`: what everybody is told.
async fn implicit(
    server: &Server,
    listener: &Listener,
    peer: SocketAddr,
    connection: u64,
    connect: &Connect,
    refusal: Refusal,
) -> Option<Rejection> {
    let Refusal::BadCredentials(cause) = refusal else { return None };
    if !listener.registration {
        return None;
    }
    let (username, password) = (connect.username.as_deref()?.parse().ok()?, connect.password.as_deref()?);
    // With a code like any other: what it says decides whether the client has room for it.
    let told_why = connect.version == ProtocolVersion::V5
        && connect.properties.request_problem_information != Some(false)
        && waiting(PairingCode::from_bytes([0; 10])).connack_for(connect).properties.reason_string.is_some();
    let origin = Origin {
        source: peer.ip(),
        listener: listener.name.as_str().into(),
        door: if told_why { Door::Implicit } else { Door::ImplicitWithoutCode },
        hears: told_why,
        binding: Binding::Connection(connection),
        sink: None,
    };
    let knock = server.registry.knock(&username, password, &origin).await;
    if knock != Knock::Shut && cause != Cause::UnknownUser {
        // A guess at the password of somebody, whatever it is told.
        record_failure(server, listener, peer, connect, cause.as_str());
    }
    Some(match knock {
        Knock::Shut => return None,
        Knock::Busy => rejection(ReasonCode::ServerBusy, BUSY),
        Knock::Weak(lacks) => {
            rejection(ReasonCode::BadUserNameOrPassword, format!("bad user name or password; to enrol: {lacks}"))
        }
        Knock::Waiting(code) => waiting(code),
        Knock::Denied(reason) => {
            let reason: String = reason.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
            let because = if reason.is_empty() { "; ask them why".to_owned() } else { format!(": {reason}") };
            rejection(ReasonCode::NotAuthorized, format!("the operator denied this registration{because}"))
        }
    })
}

/// What a client is told at door 2 that waits for a decision, or seems to.
fn waiting(code: PairingCode) -> Rejection {
    let explanation = format!(
        "this registration is pending, pairing code {code}; connect again with the same user name and password when it is granted"
    );
    rejection(ReasonCode::NotAuthorized, explanation)
}

/// When this client is to be told that its certificate should be renewed.
fn invitation(identity: &Identity, server: &Server) -> Option<Instant> {
    let certificate = identity.certificate()?;
    let now = (server.clock.instant(), server.clock.timestamp());
    let validity = (certificate.not_before, certificate.not_after);
    let at = if is_of_former_ca(server, identity) {
        registry::early_invitation(certificate.not_after, &certificate.fingerprint, now.1)
    } else {
        registry::invitation(validity, &certificate.fingerprint, now.1)
    };
    at.and_then(|at| instant_of(at, now))
}

/// Was the certificate issued by the CA before the one that issues now?
fn is_of_former_ca(server: &Server, identity: &Identity) -> bool {
    let signers = server.registry.signers().load();
    let (Some(former), Some(certificate)) = (signers.former(), identity.certificate()) else { return false };
    let (policy, former) = (server.directory.policy(), former.id());
    policy.user(identity.user()).is_some_and(|user| {
        let mut records = user.certificates.iter();
        records.any(|it| it.fingerprint == certificate.fingerprint && it.issuer.as_deref() == Some(&former))
    })
}

/// When this client is to be told that its certificate should be renewed, after the CA has changed; `None`: as before.
pub(super) fn early_invitation(identity: &Identity, server: &Server) -> Option<Instant> {
    is_of_former_ca(server, identity).then(|| invitation(identity, server)).flatten()
}

/// Takes a failed login down.
fn record_failure(server: &Server, listener: &Listener, peer: SocketAddr, connect: &Connect, cause: &'static str) {
    let (policy, username) = (server.directory.policy(), connect.username.as_deref());
    let login = audit::FailedLogin::new(&policy, username, peer.ip(), &listener.name, cause);
    server.recorder.login_failed(login, server.clock.timestamp());
}

/// A client without credentials, where it may enrol: a session that can do nothing else, for a bounded time.
fn registration(server: &Server, peer: SocketAddr, connection: u64, connect: &Connect) -> Result<Admitted, Rejection> {
    let now = server.clock.instant();
    let (place, gives_way) = server.registrations.admit(connection, peer.ip(), now).map_err(|Full| no_room())?;
    if let Some(connection) = gives_way {
        give_way(server, connection);
    }
    server.metrics.authentications.inc(AuthenticationOutcome::Registration);
    let until = now.checked_add(server.settings.registration_lifetime);
    let ask_by = now.checked_add(server.settings.registration_patience);
    let (client_id, assigned_client_id) = client_id(connect);
    Ok(Admitted {
        key: SessionKey { owner: Owner::Registration(connection), client_id },
        terms: Terms {
            assigned_client_id,
            until: until.map(|at| (at, ReasonCode::MaximumConnectTime)),
            ask_by,
            invite: None,
        },
        identity: None,
        place: Some(place),
    })
}

/// What a stranger is told for whom there is no place, or none any more.
pub(super) fn no_room() -> Rejection {
    rejection(ReasonCode::ServerBusy, "too many devices are enrolling: try again in some minutes")
}

/// Ends the registration session of a connection that has lost its place. One that is not attached yet finds out by itself: see
/// [`Admitted::has_room`].
fn give_way(server: &Server, connection: u64) {
    for cell in server.sessions.of(Owner::Registration(connection)) {
        let mut gate = cell.gate();
        if gate.connection == connection {
            gate.ended.get_or_insert(EndCause::Kicked(ReasonCode::ServerBusy));
            drop(gate);
            cell.mailbox.call();
        }
    }
}

/// The client identifier of the session, and whether the broker drew it. [MQTT-3.1.3-6] [MQTT-3.1.3-7]
fn client_id(connect: &Connect) -> (ClientId, bool) {
    // A copy: the key must not hold the read buffer.
    match ClientId::try_from(connect.client_id.as_str()) {
        Ok(id) if !id.is_empty() => (id, false),
        _ => {
            let drawn = format!("auto-{}", uuid::Uuid::now_v7().simple());
            (ClientId::try_from(drawn.as_str()).unwrap_or_else(|_| connect.client_id.clone()), true)
        }
    }
}

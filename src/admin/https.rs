//! The entrance over HTTPS: who asks, and may they?
//!
//! Enters: requests, with the address and the verified certificate of whoever sent them. Leaves: requests with a proven,
//! permitted caller, for the same routes as on the Unix socket; and refusals, counted and recorded. Nothing is remembered
//! from one request to the next: identity and rights are those of the moment, however long a connection lasts.
//!
//! ```text
//! check (request)  ->  admit: authn, then the rules of `http`  ->  routes
//!                  ->  door: enrolment, for anybody
//! ```

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State as Extract};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use base64ct::{Base64, Encoding};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::caller::{Caller, Proven, Standing};
use super::problem::{Kind, Problem};
use super::request::{self, odd_path, segments};
use super::stream::Stopping;
use super::{State, door, routes};
use crate::audit::{self, Place, UserRef, Word};
use crate::authn::{Authenticator, Credentials, Refusal, Source};
use crate::directory::{Actor, Right};
use crate::metrics::{HttpOutcome, Metrics, RefusedAction};

/// The name of the listener that the API is served on, for the log, the audit log, metrics and `registry unlock`.
pub(crate) const LISTENER: &str = "admin";

/// When to come back after too many wrong passwords, in seconds: until one more may be tried.
const THROTTLED: u64 = 30;

/// When to come back while too many passwords are being checked, in seconds.
const BUSY: u64 = 5;

/// Whoever is at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its certificates (DER), its own first: a chain that TLS has verified.
    pub(crate) certificates: Option<Arc<[Vec<u8>]>>,
    /// Name of the listener.
    pub(crate) listener: Arc<str>,
}

/// What logins and refusals need beside the [`State`].
pub(crate) struct Gate {
    /// Checks credentials.
    pub(crate) authenticator: Arc<Authenticator>,
    /// Takes down failed logins and refusals.
    pub(crate) recorder: Arc<audit::Recorder>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// All that is served on one HTTPS listener.
#[derive(Clone)]
pub(crate) struct Site(Router);

impl Site {
    /// The API for users of the broker and, with `registration`, enrolment for anybody. Streams end when `stop` turns true.
    pub(crate) fn api(state: &Arc<State>, gate: Arc<Gate>, registration: bool, stop: watch::Receiver<bool>) -> Self {
        let metrics = Arc::clone(&gate.metrics);
        let entrance = Arc::new(Entrance { state: Arc::clone(state), gate });
        let mut routes = routes::api(Arc::clone(state)).layer(middleware::from_fn_with_state(entrance, admit));
        if registration {
            routes = routes.merge(door::routes(Arc::clone(state)));
        }
        Self::of(routes.layer(Extension(Stopping(stop))), metrics)
    }

    /// Enrolment, and nothing else.
    pub(crate) fn enrolment(state: &Arc<State>, metrics: Arc<Metrics>) -> Self {
        Self::of(door::routes(Arc::clone(state)).fallback(routes::no_route), metrics)
    }

    fn of(routes: Router, metrics: Arc<Metrics>) -> Self {
        let routes = routes
            .layer(middleware::from_fn(request::plain_path))
            .layer(middleware::from_fn(request::check))
            .layer(middleware::from_fn_with_state(metrics, answer));
        Self(routes)
    }

    /// What answers the requests of one connection.
    pub(crate) fn service(
        &self,
        peer: Peer,
    ) -> impl Service<hyper::Request<Incoming>, Response = hyper::Response<Body>, Error = Infallible, Future: Send>
    + Send
    + 'static
    + use<> {
        let routes = TowerToHyperService::new(self.0.clone());
        service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            routes.call(request)
        })
    }
}

/// Every answer: counted, kept by nobody, and of no use to a page.
async fn answer(Extract(metrics): Extract<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    metrics.http_requests.inc(match response.status() {
        StatusCode::UNAUTHORIZED => HttpOutcome::Unauthenticated,
        StatusCode::FORBIDDEN => HttpOutcome::Forbidden,
        StatusCode::REQUEST_TIMEOUT => HttpOutcome::Timeout,
        StatusCode::TOO_MANY_REQUESTS => HttpOutcome::Busy,
        status if status.is_server_error() => HttpOutcome::Failed,
        status if status.is_client_error() => HttpOutcome::Refused,
        _ => HttpOutcome::Ok,
    });
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

struct Entrance {
    state: Arc<State>,
    gate: Arc<Gate>,
}

async fn admit(Extract(entrance): Extract<Arc<Entrance>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match entrance.caller(&parts).await {
        Ok((caller, standing)) => {
            parts.extensions.insert(caller);
            parts.extensions.insert(standing);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Entrance {
    /// Who asks, if they may.
    async fn caller(&self, request: &Parts) -> Result<(Caller, Standing), Problem> {
        let peer = request.extensions.get::<Peer>();
        let peer = peer.ok_or_else(|| Problem::new(Kind::Forbidden, "nobody knows who asks"))?.clone();
        let segments = segments(request.uri.path()).ok_or_else(odd_path)?;
        let write = !matches!(request.method, Method::GET | Method::HEAD);
        let basic = Basic::of(&request.headers);
        let identity = self.authenticate(&peer, basic).await?;
        let listener = Some(Word::name(&peer.listener));
        let from = Some(Place::Network { address: peer.address.to_canonical(), listener, client_id: None });
        let right = write.then(|| Right::Http(segments.clone()));
        let actor = Actor::User { id: identity.user(), username: identity.username().clone(), from, right };
        let proven = Proven { identity, write, segments };
        if !proven.is_permitted(&self.state.directory.policy()) {
            self.record_refusal(&proven);
            let detail = format!(
                "no rule lets `{}` {} `{}`, or one denies it: `portcullis explain` says more",
                proven.identity.username(),
                request.method,
                request.uri.path()
            );
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        Ok((Caller(actor), Standing::User(Arc::new(proven))))
    }

    async fn authenticate(
        &self,
        peer: &Peer,
        basic: Result<Option<Basic>, ()>,
    ) -> Result<crate::authn::Identity, Problem> {
        let Ok(basic) = basic else {
            return Err(self.refuse(peer, None, "authorization_unreadable", unauthenticated()));
        };
        let username = basic.as_ref().map(Basic::username);
        let now = self.state.clock.timestamp();
        let certificate = peer.certificates.as_deref().map(|chain| self.state.anchors.certificate(chain, now));
        let certificate =
            certificate.transpose().map_err(|why| self.refuse(peer, username, why.cause(), unauthenticated()))?;
        let certificate = certificate.map(Arc::new);
        let credentials = Credentials {
            username,
            password: basic.as_ref().map(Basic::password),
            certificate: certificate.as_ref(),
            source: Source::from(peer.address),
        };
        let directory = &self.state.directory;
        let identity = self.gate.authenticator.authenticate(|| directory.policy(), &credentials).await;
        identity.map_err(|refusal| {
            let problem = match refusal {
                Refusal::BadCredentials(_) => unauthenticated(),
                Refusal::NotAuthorized(_) => Problem::new(Kind::Forbidden, "this user is disabled, or has expired"),
                Refusal::Busy(cause) => {
                    let after = if cause == crate::authn::Cause::Throttled { THROTTLED } else { BUSY };
                    let detail = "too many passwords are being checked, or too many were wrong: try again later";
                    Problem::new(Kind::Busy, detail).with("retry_after", after)
                }
            };
            self.refuse(peer, username, refusal.cause().as_str(), problem)
        })
    }

    fn refuse(&self, peer: &Peer, username: Option<&str>, cause: &'static str, problem: Problem) -> Problem {
        let policy = self.state.directory.policy();
        let login = audit::FailedLogin::new(&policy, username, peer.address, &peer.listener, cause);
        tracing::info!(
            peer = %peer.address,
            listener = &*peer.listener,
            username = login.user.as_ref().map_or("", |user| user.username.as_str()),
            cause,
            "login refused"
        );
        self.gate.recorder.login_failed(login, self.state.clock.timestamp());
        problem
    }

    fn record_refusal(&self, proven: &Proven) {
        self.gate.metrics.refused.inc(RefusedAction::Http);
        let (id, username) = (proven.identity.user(), proven.identity.username().clone());
        let path = proven.segments.join("/");
        tracing::debug!(user = %username, write = proven.write, path, "refused");
        let action = if proven.write { "http_write" } else { "http_read" };
        let refused =
            audit::Refused { user: Some(UserRef { id, username }), action: action.into(), cause: "rules".into() };
        let policy = self.state.directory.policy();
        self.gate.recorder.refused(refused, &path, self.state.clock.timestamp(), || {
            let segments: Vec<&str> = proven.segments.iter().map(String::as_str).collect();
            let decision = policy.authority_without_client(id)?.explain_http(proven.write, &segments);
            decision.rules.into_iter().next().map(|(role, permission)| audit::Rule::new(role, permission))
        });
    }
}

/// Unknown or wrong: nobody is told which.
fn unauthenticated() -> Problem {
    Problem::new(Kind::Unauthenticated, "give a user name and a password (HTTP Basic), or a client certificate")
}

/// User name and password of a request (RFC 7617). A user name with a `:` cannot be given so.
struct Basic {
    bytes: Zeroizing<Vec<u8>>,
    colon: usize,
}

impl Basic {
    /// `Ok(None)` without the header; an error where it is not what this can read.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, ()> {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = all.next() else { return Ok(None) };
        if all.next().is_some() {
            return Err(());
        }
        let (scheme, credentials) = value.to_str().map_err(drop)?.split_once(' ').ok_or(())?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(());
        }
        let bytes = Zeroizing::new(Base64::decode_vec(credentials.trim_matches(' ')).map_err(drop)?);
        let colon = bytes.iter().position(|byte| *byte == b':').ok_or(())?;
        let basic = Self { bytes, colon };
        if std::str::from_utf8(basic.bytes.get(..colon).unwrap_or_default()).is_err() {
            return Err(());
        }
        Ok(Some(basic))
    }

    fn username(&self) -> &str {
        // Checked when it was made.
        std::str::from_utf8(self.bytes.get(..self.colon).unwrap_or_default()).unwrap_or_default()
    }

    fn password(&self) -> &[u8] {
        self.bytes.get(self.colon + 1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(values: &[&[u8]]) -> Result<Option<(String, Vec<u8>)>, ()> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        let basic = Basic::of(&headers)?;
        Ok(basic.map(|basic| (basic.username().to_owned(), basic.password().to_vec())))
    }

    fn encoded(text: &[u8]) -> Result<Option<(String, Vec<u8>)>, ()> {
        basic(&[format!("Basic {}", Base64::encode_string(text)).as_bytes()])
    }

    #[test]
    fn the_first_colon_ends_the_name_and_the_password_may_be_any_bytes() {
        let is = |name: &str, password: &[u8]| Ok(Some((name.to_owned(), password.to_vec())));
        assert_eq!(basic(&[]), Ok(None));
        assert_eq!(encoded(b"ada:secret"), is("ada", b"secret"));
        assert_eq!(encoded(b"ada:se:cr:et"), is("ada", b"se:cr:et"));
        assert_eq!(encoded(b"ada:\xff\x00\n"), is("ada", b"\xff\x00\n"));
        assert_eq!(encoded(b":"), is("", b""));
        assert_eq!(encoded("\u{e9}:\u{e9}".as_bytes()), is("\u{e9}", "\u{e9}".as_bytes()));
        assert_eq!(basic(&[b"bAsIc YWRhOnNlY3JldA=="]), is("ada", b"secret"));
    }

    #[test]
    fn what_is_no_basic_is_an_error_and_not_somebody_without_credentials() {
        for text in [&b""[..], b"ada", b"ad\xffa:secret"] {
            assert_eq!(encoded(text), Err(()), "{text:?}");
        }
        for value in [
            &b"Basic"[..],
            b"Basic ",
            b"Basic *",
            b"Basic YWRhOnNlY3JldA",
            b"Basic YWRhOnNlY3JldA==YQ==",
            b"Bearer YWRhOnNlY3JldA==",
            b"YWRhOnNlY3JldA==",
            b"Basic YWRhOnNlY3JldA== x",
            b"Basic\tYWRhOnNlY3JldA==",
            b"",
            b"Basic \xff",
        ] {
            assert_eq!(basic(&[value]), Err(()), "{value:?}");
        }
        assert_eq!(basic(&[b"Basic YWRhOnNlY3JldA==", b"Basic YWRhOnNlY3JldA=="]), Err(()), "twice");
    }
}

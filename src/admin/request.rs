//! What a request must look like before anybody asks who makes it.
//!
//! Enters: a request of anybody. Leaves: one whose path has one meaning, whose body has one length and comes in time, and
//! that no other site's page made in somebody's browser; or a refusal. Nothing here depends on who asks.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::door::takes_messages;
use super::problem::{Kind, Problem};

/// From the first look at a body to its end.
const BODY_TIME: Duration = Duration::from_mins(1);

/// Says which site's page made a browser send the request (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// For requests over HTTPS.
pub(super) async fn check(request: Request, next: Next) -> Response {
    if let Err(problem) = framing(request.headers()) {
        let mut response = problem.into_response();
        // RFC 9112 6.1: whoever sends such a thing, and whoever stands between, may disagree about where it ends.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let checked = host(&request)
        .and_then(|host| same_site(request.headers(), host))
        .and_then(|()| if takes_messages(request.uri().path()) { Ok(()) } else { media_type(&request) });
    match checked {
        Ok(()) => next.run(request.map(|body| Body::new(InTime { body, time: BODY_TIME, left: None }))).await,
        Err(problem) => problem.into_response(),
    }
}

/// A path that could mean another one after decoding or cleaning is refused, on every entrance.
pub(super) async fn plain_path(request: Request, next: Next) -> Response {
    match segments(request.uri().path()) {
        Some(_) => next.run(request).await,
        None => odd_path().into_response(),
    }
}

pub(super) fn odd_path() -> Problem {
    let detail = "the path holds an empty segment, `.`, `..`, an encoded `/`, or what is not UTF-8: write it plainly";
    Problem::new(Kind::Malformed, detail)
}

/// The decoded segments of a path, none for `/`; `None` where it could mean another one. They are decoded once, as the
/// routes do it, and what would change when decoded twice is refused.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    if path.is_empty() {
        return Some(Vec::new());
    }
    path.split('/')
        .map(|segment| {
            let decoded = decode(segment)?;
            let odd = matches!(&*decoded, "" | "." | "..")
                || decoded.contains(|c: char| c.is_control() || matches!(c, '/' | '\\' | '%'));
            (!odd).then_some(decoded)
        })
        .collect()
}

/// Percent-decoding (RFC 3986 2.1).
fn decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

/// One way to say how long a body is: Content-Length. With two ways, a proxy and this server may see two requests in one.
fn framing(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Problem::new(Kind::Length, "send the body with a Content-Length, not in chunks"));
    }
    // Lengths that contradict each other are refused before it comes to this.
    Ok(())
}

/// RFC 9112 3.2: exactly one. Which name it is does not matter: no answer is made of it.
fn host(request: &Request) -> Result<&str, Problem> {
    let malformed = |detail| Problem::new(Kind::Malformed, detail);
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(malformed("a request has exactly one Host header"));
    };
    let host = host.to_str().ok().filter(|host| host.parse::<Authority>().is_ok() && !host.contains('@'));
    let host = host.ok_or_else(|| malformed("the Host header is no host"))?;
    match request.uri().authority() {
        Some(other) if !other.as_str().eq_ignore_ascii_case(host) => {
            Err(malformed("the request line and the Host header name two hosts"))
        }
        _ => Ok(host),
    }
}

/// A browser sends the password that it once was given with the requests of any page. Those of other sites' pages are
/// refused, whatever they ask for.
fn same_site(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let from_elsewhere = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    let other_origin = |origin: &HeaderValue| {
        let own = origin.to_str().ok().and_then(|origin| origin.strip_prefix("https://"));
        !own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    };
    if headers.get_all(SEC_FETCH_SITE).iter().any(from_elsewhere) || headers.get_all(ORIGIN).iter().any(other_origin) {
        return Err(Problem::new(Kind::CrossSite, "pages of other sites may not use this API"));
    }
    Ok(())
}

/// JSON, which no page can send to another site without asking first: and the answer to that question is no. A form can, but says
/// that it is one.
fn media_type(request: &Request) -> Result<(), Problem> {
    let (method, headers) = (request.method(), request.headers());
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    let fits = match headers.get(CONTENT_TYPE) {
        None => !has_body,
        Some(text) => text.to_str().is_ok_and(is_json),
    };
    if fits { Ok(()) } else { Err(super::extract::not_json()) }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A body that has to come to its end in time.
struct InTime {
    body: Body,
    time: Duration,
    /// From the first look on.
    left: Option<Pin<Box<Sleep>>>,
}

/// The body did not come in time.
#[derive(Debug)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body did not come within {} seconds", BODY_TIME.as_secs())
    }
}

impl Error for TooSlow {}

impl HttpBody for InTime {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let time = self.time;
        let left = self.left.get_or_insert_with(|| Box::pin(sleep(time)));
        ready!(left.as_mut().poll(cx));
        Poll::Ready(Some(Err(Box::new(TooSlow))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str) -> Option<Vec<String>> {
        segments(path)
    }

    #[test]
    fn paths_are_decoded_once_and_what_could_mean_another_path_is_refused() {
        let plain = |segments: &[&str]| Some(segments.iter().map(|&segment| segment.to_owned()).collect::<Vec<_>>());
        assert_eq!(read("/"), plain(&[]));
        assert_eq!(read("/api/users"), plain(&["api", "users"]));
        assert_eq!(read("/%61pi/users/%C3%A9"), plain(&["api", "users", "é"]));
        for odd in [
            "",
            "*",
            "api",
            "//",
            "/api/",
            "/api//users",
            "/./api",
            "/api/..",
            "/api/%2e",
            "/api/%2E%2e/x",
            "/api/.%2e/x",
            "/api%2Fusers",
            "/api/%2f",
            "/api/%5cusers",
            "/api/%00",
            "/api/%0a",
            "/api/%ff",
            "/api/%c3",
            "/api/%",
            "/api/%2",
            "/api/%zz",
            "/api/%252f",
            "/api/%25",
            "/api/a%7f",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    proptest! {
        /// What is decided on can be written in one way only, up to the percent-encoding of a character.
        #[test]
        fn segments_hold_nothing_that_splits_or_climbs(path in "[/.%a-f0-9\\\\]{0,20}") {
            if let Some(segments) = segments(&path) {
                for segment in segments {
                    prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                    prop_assert!(!segment.contains(['/', '\\', '%', '\0']));
                }
            }
        }
    }

    #[test]
    fn forms_and_plain_text_are_no_json() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(json), "{json}");
        }
        for other in [
            "",
            "text/plain",
            "text/plain; application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "text/json",
            "application/jsonx",
            "json",
            "text/x+json",
        ] {
            assert!(!is_json(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_body_that_trickles_ends_with_its_time() {
        use http_body_util::BodyExt;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let body = Body::new(super::super::stream::Chunks(receiver));
        let slow = tokio::spawn(async move {
            while sender.send(Bytes::from_static(b"x")).await.is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        });
        let error = InTime { body, time: Duration::from_millis(200), left: None }.collect().await.unwrap_err();
        assert!(error.downcast_ref::<TooSlow>().is_some(), "{error}");
        slow.await.unwrap();
    }
}

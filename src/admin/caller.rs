//! On whose behalf a request is made, and whether that still stands.
//!
//! Each entrance (the Unix socket, HTTPS) puts a [`Caller`] and a [`Standing`] into the requests that it lets through. A
//! request without them went through no entrance and is refused.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::problem::{Kind, Problem};
use crate::access::Policy;
use crate::authn::Identity;
use crate::clock::Timestamp;
use crate::directory::Actor;

/// On whose behalf a request is made.
#[derive(Clone)]
pub(super) struct Caller(pub(super) Actor);

/// Whether the request might be made at any later moment too: a stream ends when not.
#[derive(Clone)]
pub(super) enum Standing {
    /// A user of the machine, whom no rule binds.
    Machine,
    /// A user of the broker.
    User(Arc<Proven>),
}

/// Who proved to be whom, and what was asked for.
pub(super) struct Proven {
    pub(super) identity: Identity,
    /// Does the method write?
    pub(super) write: bool,
    /// The decoded segments of the path.
    pub(super) segments: Vec<String>,
}

impl Standing {
    /// Might the request be made now? If so, until when at most, as far as is known.
    pub(super) fn holds(&self, policy: &Policy, now: Timestamp) -> Result<Option<Timestamp>, ()> {
        let Self::User(proven) = self else { return Ok(None) };
        let until = proven.identity.check(policy, now).map_err(drop)?;
        if proven.is_permitted(policy) { Ok(until) } else { Err(()) }
    }
}

impl Proven {
    /// Do the rules allow it?
    pub(super) fn is_permitted(&self, policy: &Policy) -> bool {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        policy
            .authority_without_client(self.identity.user())
            .is_some_and(|authority| authority.may_http(self.write, &segments))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Standing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(nobody)
    }
}

fn nobody() -> Problem {
    Problem::new(Kind::Forbidden, "nobody knows who asks")
}

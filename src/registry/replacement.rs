//! The shell of replacements: an operator opens a name, and shuts it again.
//!
//! Entering: orders of operators. Leaving: openings on record and in the audit log. The grant itself is that of any request. Never:
//! an opening by whoever may not administer all that its user holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::commit::Inner;
use super::core::{Change, Claims, Opening};
use super::deed::Deed;
use super::operator::RegistryError;
use super::request::RequestId;
use super::service::Registry;
use crate::access::{Network, UserId, Username};
use crate::clock::Duration;
use crate::directory::{self, Actor, Expected};
use crate::store::Table;

pub(super) const OPENINGS: Table<Uuid, Opening> = Table::new("registry_openings", 1);

/// How long a name is open that does not say: a day.
const OPEN_FOR: Duration = Duration::from_hours(24);

/// Longest time that a name is open: a week.
const MAX_OPEN: Duration = Duration::from_hours(7 * 24);

/// Names that are open at once.
const MAX_OPENINGS: usize = 10_000;

/// How a name is opened to a new key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceTerms {
    /// Seconds; default a day, at most a week.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// Only from these networks; empty: from anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<Network>,
}

/// A name that is open to a new key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplacementView {
    /// The name.
    pub username: Username,
    /// Whose proofs will be replaced.
    pub user: UserId,
    /// Only from these networks; empty: from anywhere.
    pub source: Vec<Network>,
    /// Who decided.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// When it is shut again.
    pub until: Timestamp,
    /// The request that came in, and waits for a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
}

impl Registry {
    /// Opens the name of a user to the next request with a new key; an earlier opening and its limits are over.
    pub async fn replace(
        &self,
        username: Username,
        terms: ReplaceTerms,
        actor: Actor,
    ) -> Result<ReplacementView, RegistryError> {
        self.blocking(move |inner| inner.replace(&username, terms, &actor)).await
    }

    /// Shuts the name again; the request that came in is forgotten.
    pub async fn cancel_replacement(&self, username: Username, actor: Actor) -> Result<(), RegistryError> {
        self.blocking(move |inner| {
            let actor = inner.may_decide(&actor, &Deed::CancelReplacement(&username))?;
            let now = inner.now();
            let mut state = inner.state.lock();
            inner.settle(&mut state, |_| Claims::on(&username, None));
            let changes = state.core.cancel(&username);
            let changes = changes.ok_or_else(|| RegistryError::NotOpen(username.clone()))?;
            inner.carry_out(&mut state, changes, &actor, now)?;
            tracing::info!("the replacement of `{username}` was cancelled by {actor}");
            Ok(())
        })
        .await
    }

    /// The names that are open, and who waits.
    pub async fn replacements(&self) -> Result<Vec<ReplacementView>, RegistryError> {
        self.blocking(|inner| {
            let (now, state) = (inner.now().wall, inner.state.lock());
            let open = state.core.openings().into_iter().filter(|opening| now < opening.until);
            Ok(open.map(|opening| Inner::view_of(&state.core, opening)).collect())
        })
        .await
    }
}

impl Inner {
    fn replace(
        &self,
        username: &Username,
        terms: ReplaceTerms,
        actor: &Actor,
    ) -> Result<ReplacementView, RegistryError> {
        let actor = &self.may_decide(actor, &Deed::Replace(username))?;
        let duration = terms.duration.map_or(OPEN_FOR, Duration::from_secs);
        if duration < Duration::from_secs(1) || MAX_OPEN < duration {
            return Err(RegistryError::Invalid("a name can be open for 1 second to 7 days"));
        }
        if username.is_reserved() {
            return Err(RegistryError::Invalid("this username is reserved: no request can take it"));
        }
        let now = self.now();
        let until = now.wall.checked_add(duration);
        let until = until.map_err(|_| RegistryError::Invalid("a name can be open for 1 second to 7 days"))?;
        let mut state = self.state.lock();
        self.settle(&mut state, |_| Claims::on(username, None));
        let policy = self.directory.policy();
        let user = policy.user_named(username).ok_or_else(|| RegistryError::UserUnknown(username.clone()))?;
        // Whoever may not put this user as it is, may not give its name away.
        let put = directory::Change::PutUser {
            user: Box::new(crate::access::User::clone(user)),
            expected: Expected::Version(user.version),
        };
        self.directory.preview(|_| Ok(put.into()), actor)?;
        if state.core.openings().len() >= MAX_OPENINGS && state.core.opening(username).is_none() {
            return Err(RegistryError::Invalid("too many names are open: cancel some of them first"));
        }
        let opening = Opening {
            user: user.id,
            username: username.clone(),
            source: terms.source,
            by: actor.to_string(),
            at: now.wall,
            until,
        };
        self.carry_out(&mut state, vec![Change::Open(opening.clone())], actor, now)?;
        tracing::info!("`{username}` was opened to a new key by {actor} until {until}");
        Ok(Self::view_of(&state.core, &opening))
    }

    fn view_of(core: &super::core::Core, opening: &Opening) -> ReplacementView {
        ReplacementView {
            username: opening.username.clone(),
            user: opening.user,
            source: opening.source.clone(),
            by: opening.by.clone(),
            at: opening.at,
            until: opening.until,
            request: core.replacing(&opening.username).map(|request| request.id),
        }
    }
}

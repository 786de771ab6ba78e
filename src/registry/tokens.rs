//! The shell of claim tokens: operators make, see and revoke them.
//!
//! Entering: orders of operators. Leaving: tokens on record and in the audit log, and each secret once, to whoever has ordered it. Never:
//! a token that gives what its author does not hold.

use secrecy::SecretString;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::commit::Inner;
use super::core::{Change, Core};
use super::deed::{Deed, is_over_mqtt};
use super::grant::short_enough;
use super::operator::RegistryError;
use super::request::Request;
use super::service::Registry;
use super::settings::Origin;
use super::token::{SECRET_BYTES, Token, TokenDigest, TokenFault, TokenId, TokenTerms, TokenView, shown};
use crate::access::{Auth, ManagedBy, UserId};
use crate::audit::{FailedClaim, Recorder, TokenEnd, Word};
use crate::clock::Duration;
use crate::directory::{Actor, NewUser};
use crate::metrics::TokenRefusal;
use crate::store::Table;

pub(super) const TOKENS: Table<Uuid, Token> = Table::new("registry_tokens", 1);

/// How long a token lasts that does not say: a day.
const LASTS: Duration = Duration::from_hours(24);

/// Longest time that a token lasts: a year.
const MAX_LASTS: Duration = Duration::from_hours(366 * 24);

/// Most devices of one token.
const MAX_USES: u32 = 100_000;

/// Tokens at once, spent ones included until their time is over.
const MAX_TOKENS: usize = 10_000;

/// Most roles, rules and networks of one token.
const MAX_ENTRIES: usize = 32;

impl Registry {
    /// Makes a token. Its secret is given now, and never again.
    pub async fn create_token(
        &self,
        terms: TokenTerms,
        actor: Actor,
    ) -> Result<(SecretString, TokenView), RegistryError> {
        self.blocking(move |inner| inner.create_token(terms, &actor)).await
    }

    /// The tokens whose time is not over, oldest first.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, RegistryError> {
        self.blocking(|inner| {
            let now = inner.now().wall;
            let state = inner.state.lock();
            Ok(state.core.tokens().map(|token| token.view.clone()).filter(|view| now < view.until).collect())
        })
        .await
    }

    /// One of them.
    pub async fn token(&self, id: TokenId) -> Result<TokenView, RegistryError> {
        let tokens = self.tokens().await?;
        tokens.into_iter().find(|token| token.id == id).ok_or(RegistryError::NoToken(id))
    }

    /// Ends a token. The users that it has made stay; where its word was the first of two, it is taken back.
    pub async fn revoke_token(&self, id: TokenId, actor: Actor) -> Result<(), RegistryError> {
        self.blocking(move |inner| {
            let actor = inner.may_decide(&actor, &Deed::RevokeToken(id))?;
            let mut state = inner.state.lock();
            let steps = |core: &Core| {
                let words = core.approved_by(id).map(|request| Change::Put(Box::new(unapproved(request))));
                std::iter::once(Change::EndToken { id, why: TokenEnd::Revoked }).chain(words).collect::<Vec<_>>()
            };
            inner.settle(&mut state, |core| core.claims(&steps(core)));
            if state.core.token(id).is_none() {
                return Err(RegistryError::NoToken(id));
            }
            let steps = steps(&state.core);
            inner.carry_out(&mut state, steps, &actor, inner.now())?;
            tracing::info!("token {id} was revoked by {actor}");
            Ok(())
        })
        .await
    }

    /// From now on claims that fail are told there; there is one.
    pub fn set_recorder(&self, recorder: std::sync::Arc<Recorder>) {
        let _ = self.inner().recorder.set(recorder);
    }
}

impl Inner {
    fn create_token(&self, terms: TokenTerms, actor: &Actor) -> Result<(SecretString, TokenView), RegistryError> {
        let actor = &self.may_decide(actor, &Deed::CreateToken)?;
        let now = self.now();
        let lasts = terms.duration.map_or(LASTS, Duration::from_secs);
        let until = now.wall.checked_add(lasts).ok().filter(|_| !lasts.is_zero() && lasts <= MAX_LASTS);
        let until = until.ok_or(RegistryError::Invalid("a token lasts from 1 second to 366 days"))?;
        let uses = terms.uses.unwrap_or(1);
        if !(1..=MAX_USES).contains(&uses) {
            return Err(RegistryError::Invalid("a token is good for 1 to 100,000 devices"));
        }
        if terms.expires_at.is_some_and(|at| at <= now.wall) {
            return Err(RegistryError::Invalid("`expires_at` must lie in the future"));
        }
        // Later it could only make users whose time is over.
        let until = terms.expires_at.map_or(until, |end| until.min(end));
        if [terms.roles.len(), terms.permissions.len(), terms.source.len()].iter().any(|count| *count > MAX_ENTRIES) {
            return Err(RegistryError::Invalid("a token has at most 32 roles, 32 permissions and 32 networks"));
        }
        short_enough(terms.comment.as_deref())?;
        let id = TokenId(Uuid::now_v7());
        let (author, _) = actor.in_audit();
        let view = TokenView {
            id,
            uses,
            used: 0,
            until,
            username: terms.username,
            source: terms.source,
            roles: terms.roles,
            permissions: terms.permissions,
            publish_prefix: terms.publish_prefix,
            expires_at: terms.expires_at,
            comment: terms.comment,
            by: author.to_string(),
            at: now.wall,
            last_used: None,
        };
        // A device of it, as it would come; nobody has this name.
        let name = format!("token-{}", id.0.simple()).parse();
        let name = name.map_err(|_| RegistryError::Damaged("the id of a token makes no name".into()))?;
        let device = NewUser {
            auth: Auth::Certificate,
            roles: view.roles.clone(),
            permissions: view.permissions.clone(),
            publish_prefix: view.publish_prefix.clone(),
            expires_at: view.expires_at,
            ..NewUser::named(name)
        };
        self.check_user(device.into_user(UserId(Uuid::now_v7()), ManagedBy::Registry), actor)?;
        let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(&mut *bytes)
            .map_err(|_| RegistryError::Damaged("the operating system gave no random numbers".into()))?;
        let secret = shown(&bytes);
        let digest = TokenDigest::of(secrecy::ExposeSecret::expose_secret(&secret));
        let mut state = self.state.lock();
        if state.core.tokens().len() >= MAX_TOKENS {
            return Err(RegistryError::Invalid("there are 10,000 tokens: revoke some of them first"));
        }
        let token = Token { digest, author, over_mqtt: is_over_mqtt(actor), view: view.clone() };
        self.carry_out(&mut state, vec![Change::PutToken(Box::new(token))], actor, now)?;
        tracing::info!("token {id} was made by {actor}");
        Ok((secret, view))
    }

    /// What was shown as a token is not good: said to operators, never which secret it was.
    pub(super) fn claim_failed(&self, token: Option<TokenId>, fault: TokenFault, origin: &Origin) {
        self.metrics.registry_tokens_refused.inc(match fault {
            TokenFault::Unknown => TokenRefusal::Unknown,
            TokenFault::Expired => TokenRefusal::Expired,
            TokenFault::Spent => TokenRefusal::Spent,
            TokenFault::Name => TokenRefusal::Name,
            TokenFault::Network => TokenRefusal::Network,
            TokenFault::Author => TokenRefusal::Author,
        });
        if let Some(recorder) = self.recorder.get() {
            let claim = FailedClaim {
                token: token.map(|token| token.0),
                address: origin.source.to_canonical(),
                listener: Word::name(&origin.listener),
                cause: fault.word().into(),
            };
            recorder.claim_failed(claim, self.now().wall);
        }
    }
}

/// As nobody has granted it yet.
fn unapproved(request: &Request) -> Request {
    Request { approved: None, ..request.clone() }
}

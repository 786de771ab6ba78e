//! Whether a token opens the door for a request, and what it then becomes.
//!
//! Entering: the hash of what a device showed. Leaving: the token, or why it is not good; the changes that make, spend and end
//! tokens. INVARIANT: a use is counted in the same batch that grants, or puts on record, the request that it was for.

use super::super::Now;
use super::super::approval::Voice;
use super::super::operator::GrantTerms;
use super::super::request::Request;
use super::super::token::{Token, TokenDigest, TokenFault, TokenId};
use super::examine::Ask;
use super::{AT_ONCE, Change, Core};
use crate::audit::TokenEnd;

/// On whose word a request is granted that no person has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Grantor {
    /// The author of this token.
    Token(TokenId),
    /// Whoever has written this rule into broker.toml.
    Rule(String),
}

/// A request that is to become a user at once.
#[derive(Debug, PartialEq)]
pub(in crate::registry) struct Granting {
    pub(in crate::registry) request: Request,
    pub(in crate::registry) terms: GrantTerms,
    pub(in crate::registry) by: Grantor,
}

impl Core {
    /// The token with this secret, if it is good for this message.
    pub(super) fn claim(
        &self,
        digest: &TokenDigest,
        ask: &Ask<'_>,
        now: Now,
    ) -> Result<&Token, (Option<TokenId>, TokenFault)> {
        let token = self.token_of.get(digest).and_then(|id| self.tokens.get(id));
        let token = token.ok_or((None, TokenFault::Unknown))?;
        let view = &token.view;
        let fault = if view.until <= now.wall {
            TokenFault::Expired
        } else if view.uses <= view.used {
            TokenFault::Spent
        } else if !view.username.as_ref().is_none_or(|pattern| pattern.matches(ask.username)) {
            TokenFault::Name
        } else if !view.source.is_empty() && !view.source.iter().any(|network| network.contains(ask.source)) {
            TokenFault::Network
        } else {
            return Ok(token);
        };
        Err((Some(view.id), fault))
    }

    /// Every token, oldest first.
    pub(in crate::registry) fn tokens(&self) -> impl ExactSizeIterator<Item = &Token> {
        self.tokens.values()
    }

    pub(in crate::registry) fn token(&self, id: TokenId) -> Option<&Token> {
        self.tokens.get(&id)
    }

    /// The pending requests that this token has said the first of two words for.
    pub(in crate::registry) fn approved_by(&self, token: TokenId) -> impl Iterator<Item = &Request> {
        self.requests.values().filter(move |request| {
            request.token == Some(token) && request.approved.as_ref().is_some_and(|first| first.voice() == Voice::Token)
        })
    }

    /// Tokens whose time is over.
    pub(super) fn lapsed_tokens(&self, now: Now) -> Vec<Change> {
        let over = self.tokens.values().filter(|token| token.view.until <= now.wall).take(AT_ONCE);
        over.map(|token| Change::EndToken { id: token.view.id, why: TokenEnd::Expired }).collect()
    }

    pub(in crate::registry) fn put_token(&mut self, token: Token) {
        self.token_of.insert(token.digest.clone(), token.view.id);
        self.tokens.insert(token.view.id, token);
    }

    pub(super) fn end_token(&mut self, id: TokenId) {
        if let Some(token) = self.tokens.remove(&id) {
            self.token_of.remove(&token.digest);
        }
    }
}

//! Does a user hold what a permission would hand out?
//!
//! A permission enters; yes or no leaves, from the compiled rules that also enforce. *Held* means that whatever the
//! permission allows to anybody, whoever its placeholders stand for, the user's own rules allow at least as generously and
//! for at least as long. Cautious where it cannot tell: one allow pattern must cover the whole, and any deny that touches
//! it counts. `reference.rs` says the same slowly. Nothing here changes anything.

use jiff::Timestamp;

use super::pattern::{self, Asked, Domain, Level};
use super::summary::{Action, Grant};
use super::{Authority, Effect, Permission, RoleName};

impl Authority {
    /// Has the user the role `admin`, and with it the right to hand out whatever it likes?
    pub fn is_admin(&self) -> bool {
        self.holder().is_some_and(|user| user.roles.contains(&RoleName::admin()))
    }

    /// Does the user hold all that an allow rule gives to whoever gets it? A deny gives nothing. A holder of the role
    /// `admin` holds everything.
    ///
    /// A placeholder stands for every value: who holds `plant/${username}/#` holds a topic tree of its own, and not that of
    /// every other user. A rule of the user that ends, or the user's own end, holds nothing that lasts longer.
    ///
    /// ```
    /// # use jiff::Timestamp;
    /// # use portcullis::access::*;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut user = User::new(UserId(uuid::Uuid::from_u128(1)), "boss".parse()?, Timestamp::UNIX_EPOCH);
    /// user.permissions = vec![Permission::allow(Context::Mqtt, Operation::Read, "plant/#")];
    /// let id = user.id;
    /// let policy = Policy::default().with([], [(id, Some(user))], Timestamp::UNIX_EPOCH)?;
    /// let boss = policy.authority_without_client(id).ok_or("no such user")?;
    /// assert!(boss.holds(&Permission::allow(Context::Mqtt, Operation::Read, "plant/${username}/#")));
    /// assert!(!boss.holds(&Permission::allow(Context::Mqtt, Operation::Write, "plant/7")));
    /// # Ok(())
    /// # }
    /// ```
    pub fn holds(&self, permission: &Permission) -> bool {
        permission.effect == Effect::Deny || self.is_admin() || self.covers(permission, permission.not_after)
    }

    /// [`Authority::holds`] of a permission that ends at `until` at the latest, because its holder does.
    pub fn holds_until(&self, permission: &Permission, until: Option<Timestamp>) -> bool {
        let end = permission.not_after.into_iter().chain(until).min();
        permission.effect == Effect::Deny || self.is_admin() || self.covers(permission, end)
    }

    /// May the user allow and deny at will where this rule applies, be it an allow or a deny?
    pub fn commands(&self, permission: &Permission) -> bool {
        self.is_admin() || self.covers(permission, permission.not_after)
    }

    /// The permission is taken for an allow that ends at `end`.
    fn covers(&self, permission: &Permission, end: Option<Timestamp>) -> bool {
        let Ok((domain, levels)) = pattern::parse(permission.context, &permission.resource) else { return false };
        let asked: Vec<Asked<'_>> = levels.into_iter().map(whoever_it_is).collect();
        // Joining a group is worth what can be read in it.
        let inner = asked.get(1..).filter(|_| domain == Domain::Group);
        let parts = std::iter::once((domain, asked.as_slice())).chain(inner.map(|inner| (Domain::Topic, inner)));
        let actions = || [Action::Read, Action::Write].into_iter().filter(|action| action.is_of(permission.operation));
        parts.flat_map(|part| actions().map(move |action| (part, action))).all(|((domain, asked), action)| {
            !self.is_denied_some(domain, action, asked) && self.grants(permission, domain, action, asked, end)
        })
    }

    fn is_denied_some(&self, domain: Domain, action: Action, asked: &[Asked<'_>]) -> bool {
        let who = self.identity();
        let denied = |domain, asked: &[Asked<'_>]| {
            self.sources.iter().any(|source| source.rules().denies_some(domain, action, asked, who))
        };
        // Who may read a topic may join every unguarded group on it: a deny on groups takes that away too.
        let in_groups = || {
            let joined: Vec<_> = std::iter::once(Asked::Any).chain(asked.iter().copied()).collect();
            domain == Domain::Topic && action == Action::Read && denied(Domain::Group, &joined)
        };
        denied(domain, asked) || in_groups()
    }

    /// Do the allow rules that cover what is asked for, and last as long, admit as much as the permission?
    fn grants(
        &self,
        permission: &Permission,
        domain: Domain,
        action: Action,
        asked: &[Asked<'_>],
        end: Option<Timestamp>,
    ) -> bool {
        let own_end = self.holder().and_then(|user| user.expires_at);
        let lasts = |rule: &Permission| match (rule.not_after.into_iter().chain(own_end).min(), end) {
            (None, _) => true,
            (Some(rule), Some(end)) => end <= rule,
            (Some(_), None) => false,
        };
        let (mut grant, mut retain) = (Grant::NONE, false);
        for source in &self.sources {
            source.rules().covering_rules(domain, asked, self.identity(), |index, denies_only| {
                let rule = source.permissions().get(index).filter(|rule| {
                    !denies_only && rule.effect == Effect::Allow && action.is_of(rule.operation) && lasts(rule)
                });
                if let Some(rule) = rule {
                    grant = grant.max(Grant::up_to(rule.max_qos));
                    retain |= rule.retain.unwrap_or(true);
                }
            });
        }
        grant >= Grant::up_to(permission.max_qos)
            && (retain || action == Action::Read || !permission.retain.unwrap_or(true))
    }
}

/// A placeholder may stand for any level that a wildcard matches, and no other.
fn whoever_it_is(level: Level<'_>) -> Asked<'_> {
    match level {
        Level::Literal(text) => Asked::Literal(text),
        Level::Any | Level::Username | Level::ClientId => Asked::Any,
        Level::Rest => Asked::Rest,
    }
}

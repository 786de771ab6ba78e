//! The shell of rules: they are tried when the broker starts, and what they deny is told to operators.
//!
//! Entering: the rules of broker.toml. Leaving: an error for one that could never grant. Never: a grant; that is made as any other one.

use uuid::Uuid;

use super::commit::Inner;
use super::operator::RegistryError;
use crate::access::{Auth, ManagedBy, UserId};
use crate::audit::{Refused, Word};
use crate::config::RuleAction;
use crate::directory::{Actor, NewUser};
use crate::metrics::RegistryDecision;

impl Inner {
    /// Every rule that grants names roles that exist, and rules that can be enforced. (They may go later: then the rule grants
    /// nothing.)
    pub(super) fn check_rules(&self) -> Result<(), RegistryError> {
        for rule in &self.settings.rules {
            let RuleAction::Grant(grant) = &rule.action else { continue };
            let id = Uuid::now_v7();
            // Nobody has this name.
            let name = format!("rule-{}", id.simple()).parse();
            let name = name.map_err(|_| RegistryError::Damaged("an id makes no name".into()))?;
            let device = NewUser {
                auth: Auth::Certificate,
                roles: grant.roles.clone(),
                permissions: grant.permissions.clone(),
                publish_prefix: grant.publish_prefix.clone(),
                ..NewUser::named(name)
            };
            let checked = self.check_user(device.into_user(UserId(id), ManagedBy::Registry), &Actor::Registry);
            checked.map_err(|error| RegistryError::Rule { rule: rule.name.clone(), error: Box::new(error) })?;
        }
        Ok(())
    }

    /// A rule has turned somebody down. Nothing is kept of the request; the audit log counts.
    pub(super) fn barred(&self, rule: &str) {
        self.metrics.registry_decisions.inc(RegistryDecision::DeniedByRule);
        if let Some(recorder) = self.recorder.get() {
            let refused = Refused { user: None, action: "register".into(), cause: Word::name(&format!("rule:{rule}")) };
            recorder.refused(refused, "$registry/register", self.now().wall, || None);
        }
    }
}

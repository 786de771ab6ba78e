//! What broker.toml says about a new request.
//!
//! Entering: a message that no person has looked at. Leaving: the rule that decides. A rule that denies beats every rule that grants,
//! wherever they stand; of those that grant, the first one in the file decides, whole: nothing is put together of two.

use super::examine::Ask;
use super::{Change, Core};
use crate::config::{KeyAlgorithm, RegistryRule, RuleAction, RuleGrant};

impl Core {
    /// From now on these rules are in force.
    pub(in crate::registry) fn set_rules(&mut self, rules: Vec<RegistryRule>) {
        self.rules = rules;
    }

    /// The rule that denies it, with its reason.
    pub(super) fn denied_by(&self, ask: &Ask<'_>) -> Option<(&RegistryRule, &str)> {
        self.rules.iter().find_map(|rule| match &rule.action {
            RuleAction::Deny { reason } if matches(rule, ask) => Some((rule, reason.as_str())),
            _ => None,
        })
    }

    /// The rule that grants it. `admitted`: is the door open to it anyway? Door 2 is opened by an order of the operator and by nothing else.
    /// What these changes remove takes no place.
    pub(super) fn granted_by(
        &self,
        ask: &Ask<'_>,
        admitted: bool,
        changes: &[Change],
    ) -> Option<(&RegistryRule, &RuleGrant)> {
        let rules = self.rules.iter().filter(|rule| matches(rule, ask));
        let mut grants = rules.filter_map(|rule| Some((rule, granted(rule)?)));
        grants.find(|(rule, grant)| {
            // With those that are on their way to the disk, or many at once would be more than it may make.
            let made = self.by_rule.get(&rule.name).copied().unwrap_or(0) + self.flights.grants_of(&rule.name);
            let leaving = changes.iter().filter(|change| self.removes_one_of(change, rule)).count();
            made.saturating_sub(leaving) < grant.limit && (admitted || (grant.while_locked && !ask.door.is_implicit()))
        })
    }

    fn removes_one_of(&self, change: &Change, rule: &RegistryRule) -> bool {
        let Change::Remove { id, .. } = change else { return false };
        self.get(*id).is_some_and(|request| request.rule.as_ref() == Some(&rule.name))
    }
}

fn granted(rule: &RegistryRule) -> Option<&RuleGrant> {
    match &rule.action {
        RuleAction::Grant(grant) => Some(grant),
        RuleAction::Deny { .. } => None,
    }
}

/// Does it meet every condition of the rule?
fn matches(rule: &RegistryRule, ask: &Ask<'_>) -> bool {
    let kind = ask.key.as_ref().map(|(_, kind)| kind.as_str());
    (rule.source.is_empty() || rule.source.iter().any(|network| network.contains(ask.source)))
        && rule.listener.as_deref().is_none_or(|only| only == ask.listener)
        && (rule.key.is_empty() || kind.is_some_and(|kind| rule.key.iter().any(|key| names(*key, kind))))
        && rule.username.as_ref().is_none_or(|pattern| pattern.matches(ask.username))
}

/// Is this what a key of that algorithm is called on record?
fn names(algorithm: KeyAlgorithm, kind: &str) -> bool {
    match algorithm {
        KeyAlgorithm::P256 => kind == "P-256",
        KeyAlgorithm::P384 => kind == "P-384",
        KeyAlgorithm::Ed25519 => kind == "Ed25519",
        KeyAlgorithm::Rsa => kind.starts_with("RSA "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::KeyKind;

    #[test]
    fn each_kind_of_key_has_one_algorithm() {
        let all = [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Ed25519, KeyAlgorithm::Rsa];
        let kinds = [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa { bits: 3072 }];
        for (number, kind) in kinds.iter().enumerate() {
            let named: Vec<_> = (0..4).filter(|at| names(all[*at], &kind.to_string())).collect();
            assert_eq!(named, [number], "{kind}");
        }
    }
}

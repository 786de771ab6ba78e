//! Who may publish to a topic, or receive it?
//!
//! A topic enters; the users who may leave, each with the decision that enforces it. Roles are looked at first: whoever
//! holds none that could allow it, and has no rules of its own, is not asked. Everybody else is, by the very code that
//! answers a client. A user may for whom there is a client identifier under which it may.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::pattern::{AskedLevels, Domain, Identity, Value, topic_levels};
use super::policy::Policy;
use super::rules::RuleSet;
use super::summary::{Action, Grant};
use super::{Authority, Decision, RoleName, User};
use crate::mqtt::{ClientId, TopicName};

/// Somebody who may.
#[derive(Clone, Debug)]
pub struct Able {
    /// Who.
    pub user: Arc<User>,
    /// The client identifier that it takes; `None`: whichever the user is admitted with, as far as rules do not name one.
    pub client_id: Option<ClientId>,
    /// The answer and the rules that made it.
    pub decision: Decision,
}

impl Policy {
    /// Who may publish to this topic (as it is routed, prefix applied)? By name. A user with a publish prefix reaches only
    /// what begins with it.
    pub fn who_can_publish(&self, topic: &TopicName) -> Vec<Able> {
        let asked = topic_levels(topic.as_str());
        self.able(Action::Write, &asked, topic, |authority| {
            let reaches = authority.publish_prefix().is_none_or(|prefix| {
                let rest = topic.as_str().strip_prefix(prefix);
                topic.is_reserved() || rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('$'))
            });
            (reaches && authority.may_publish(topic).is_some()).then(|| authority.explain_publish(topic))
        })
    }

    /// Who may ask for this operation of the registry, `$registry/admin/<operation>`? By name.
    pub fn who_can_administer(&self, operation: &TopicName) -> Vec<Able> {
        let asked = topic_levels(operation.as_str());
        self.able(Action::Write, &asked, operation, |authority| {
            authority.may_administer(operation).is_some().then(|| authority.explain_administer(operation))
        })
    }

    /// Who may receive messages of this topic? By name.
    pub fn who_can_receive(&self, topic: &TopicName) -> Vec<Able> {
        let asked = topic_levels(topic.as_str());
        self.able(Action::Read, &asked, topic, |authority| {
            authority.may_receive(topic).is_some().then(|| authority.explain_receive(topic))
        })
    }

    fn able(
        &self,
        action: Action,
        asked: &AskedLevels<'_>,
        topic: &TopicName,
        decide: impl Fn(&Authority) -> Option<Decision>,
    ) -> Vec<Able> {
        let roles: BTreeSet<&RoleName> =
            self.compiled_roles().filter(|(_, rules)| rules.could_allow(action, asked)).map(|(name, _)| name).collect();
        // Longer than any level, so that no rule with `${client_id}` is about it.
        let longest = topic.levels().map(str::len).max().unwrap_or(0);
        let neutral = "x".repeat(longest.saturating_add(1));
        self.users()
            .filter(|user| !user.permissions.is_empty() || user.roles.iter().any(|role| roles.contains(role)))
            .filter_map(|user| {
                let plain = self.sample_client_id(user.id, &neutral);
                let authority = match &plain {
                    Some(client_id) => self.authority(user.id, client_id),
                    None => self.authority_without_client(user.id),
                }?;
                if let Some(decision) = decide(&authority) {
                    return Some(Able { user: Arc::clone(user), client_id: None, decision });
                }
                // Rules with `${client_id}` are about levels of the topic, so only those are worth a try.
                topic.levels().filter_map(|level| ClientId::try_from(level).ok()).find_map(|client_id| {
                    let decision = decide(&self.authority(user.id, &client_id)?)?;
                    Some(Able { user: Arc::clone(user), client_id: Some(client_id), decision })
                })
            })
            .collect()
    }
}

impl RuleSet {
    /// Is there an allow for anybody at all?
    fn could_allow(&self, action: Action, asked: &AskedLevels<'_>) -> bool {
        // Placeholders without a value are on every path.
        let anybody = Identity { username: Value::Odd, client_id: Value::Odd };
        self.visit_covering(Domain::Topic, asked, anybody, |summary| {
            if summary.grant(action) == Grant::NONE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .is_break()
    }
}

//! What one user may do under one client identifier, and why.
//!
//! A topic, filter or path enters; a verdict leaves, with its reasons when they are asked for. The definition is three
//! lines: a deny that matches denies; else an allow that matches allows; else it is denied. `reference.rs` says the same
//! slowly, and property tests hold the two together. Nothing here can fail, and the checks of messages do not allocate.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::pattern::{AskedLevels, Domain, Identity, Value, filter_levels, path_levels, topic_levels};
use super::policy::Groups;
use super::rules::{RuleSet, Tally};
use super::summary::{Action, Grant};
use super::{Auth, Effect, Permission, PolicyVersion, Quota, Role, RoleName, User, UserId, Username};
use crate::mqtt::{ClientId, QoS, TopicFilter, TopicName};

/// The rules of one user under one snapshot, ready to be asked. Cheap to make and to clone: it shares the compiled rules.
#[derive(Clone)]
pub struct Authority {
    version: PolicyVersion,
    holder: Option<Holder>,
    pub(super) sources: SmallVec<[RuleSource; 3]>,
    groups: Arc<Groups>,
}

#[derive(Clone)]
struct Holder {
    user: Arc<User>,
    /// `None` when there is none, or one that no level can be: placeholders then have no value.
    client_id: Option<ClientId>,
}

/// Compiled rules and the permissions that they were compiled from.
#[derive(Clone)]
pub(super) enum RuleSource {
    Role(Arc<Role>, Arc<RuleSet>),
    User(Arc<User>, Arc<RuleSet>),
}

/// Where the operations of the registry for operators are.
const ADMINISTRATION: &str = "$registry/admin/";

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some allow matches and no deny does.
    Allow,
    /// A deny matches, or nothing does.
    Deny,
}

/// An answer with the rules that made it: the denies that matched, else the allows, else none (default deny).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub verdict: Verdict,
    /// The rules that made it, each with the role it came from (`None`: the user's own).
    pub rules: Vec<(Option<RoleName>, Permission)>,
    /// Of the most generous matching allow.
    pub max_qos: QoS,
    /// May RETAIN be set?
    pub retain: bool,
}

/// The answer to one filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeVerdict {
    /// Granted.
    Granted {
        /// Highest QoS that the covering rules admit.
        max_qos: QoS,
        /// No deny touches the filter and one allow covers it: no check at delivery.
        unconditional: bool,
    },
    /// Not covered by one allow, but overlapping some: `access.partial_subscription` decides.
    Partial {
        /// Highest QoS that the overlapping rules admit.
        max_qos: QoS,
    },
    /// Nothing of it may be received.
    Refused,
}

/// The answer to one filter of a SUBSCRIBE with the rules that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeDecision {
    /// The answer.
    pub verdict: SubscribeVerdict,
    /// Refused: the denies that cover the filter or guard its group. Granted: the allows that cover it, and the denies that
    /// withhold a part of it at delivery. Partial: the rules that touch it.
    pub rules: Vec<(Option<RoleName>, Permission)>,
}

impl Decision {
    /// What no rule can change.
    fn never() -> Self {
        Self { verdict: Verdict::Deny, rules: Vec::new(), max_qos: QoS::AtMostOnce, retain: false }
    }
}

impl Authority {
    /// The authority of a registration session: none at all.
    pub fn none(version: PolicyVersion) -> Self {
        Self { version, holder: None, sources: SmallVec::new(), groups: Arc::default() }
    }

    pub(super) fn new(
        version: PolicyVersion,
        user: Arc<User>,
        client_id: Option<ClientId>,
        sources: impl Iterator<Item = RuleSource>,
        groups: Arc<Groups>,
    ) -> Self {
        let client_id = client_id.filter(|client_id| matches!(Value::of(client_id.as_str()), Value::Literal(_)));
        Self { version, holder: Some(Holder { user, client_id }), sources: sources.collect(), groups }
    }

    /// The snapshot that it was taken from.
    pub fn version(&self) -> PolicyVersion {
        self.version
    }

    /// Whose it is; `None` for [`Authority::none`].
    pub fn user(&self) -> Option<(UserId, &Username)> {
        self.holder.as_ref().map(|holder| (holder.user.id, &holder.user.username))
    }

    /// The user's publish prefix.
    pub fn publish_prefix(&self) -> Option<&str> {
        self.holder.as_ref()?.user.publish_prefix.as_deref()
    }

    /// The user's quota.
    pub fn quota(&self) -> Option<&Quota> {
        self.holder.as_ref()?.user.quota.as_deref()
    }

    /// Is every answer of the other one certainly the same? A session whose authority is the same under a new snapshot has
    /// nothing to re-evaluate. May say no although they are.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let same_holder = match (&self.holder, &other.holder) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(&one.user, &other.user) && one.client_id == other.client_id,
            _ => false,
        };
        same_holder
            && Arc::ptr_eq(&self.groups, &other.groups)
            && self.sources.len() == other.sources.len()
            && self.sources.iter().zip(&other.sources).all(|(one, other)| Arc::ptr_eq(one.rules(), other.rules()))
    }

    /// May a message be published to this topic (prefix already applied)? `None`: no. Else the highest QoS, and whether
    /// RETAIN may be set; each is that of the most generous matching allow. The hot path: allocates nothing.
    ///
    /// No rule opens a topic that begins with `$`; the registry's operations, which are open to every session, need none and
    /// are not asked here. For those of operators see [`Authority::may_administer`].
    pub fn may_publish(&self, topic: &TopicName) -> Option<(QoS, bool)> {
        if topic.is_reserved() {
            return None;
        }
        self.may_write(topic)
    }

    /// May this operation of the registry be asked for, `$registry/admin/<operation>`? As [`Authority::may_publish`], for the only
    /// topics with a `$` that rules open: those that name them, for a wildcard at the first level matches none. Never for whoever proves
    /// nothing (`auth = "none"`): that is anybody.
    ///
    /// ```
    /// # use jiff::Timestamp;
    /// # use portcullis::{access::*, mqtt::QoS};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut user = User::new(UserId(uuid::Uuid::from_u128(1)), "ada".parse()?, Timestamp::UNIX_EPOCH);
    /// user.permissions = vec![
    ///     Permission::allow(Context::Mqtt, Operation::Write, "#"),
    ///     Permission::allow(Context::Mqtt, Operation::Write, "$registry/admin/unlock"),
    /// ];
    /// let id = user.id;
    /// let ada = Policy::default().with([], [(id, Some(user))], Timestamp::UNIX_EPOCH)?.authority(id, &"panel".parse()?);
    /// let ada = ada.ok_or("no such user")?;
    /// assert_eq!(ada.may_administer(&"$registry/admin/unlock".parse()?), Some((QoS::ExactlyOnce, true)));
    /// assert_eq!(ada.may_administer(&"$registry/admin/grant".parse()?), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn may_administer(&self, operation: &TopicName) -> Option<(QoS, bool)> {
        if self.administers_nothing(operation) { None } else { self.may_write(operation) }
    }

    fn administers_nothing(&self, operation: &TopicName) -> bool {
        !operation.as_str().starts_with(ADMINISTRATION) || self.holder().is_none_or(|user| user.auth == Auth::None)
    }

    fn may_write(&self, topic: &TopicName) -> Option<(QoS, bool)> {
        let tally = self.ask(Domain::Topic, Action::Write, &topic_levels(topic.as_str()))?;
        Some((tally.grant.qos()?, tally.retain))
    }

    /// Does a rule deny to publish to this topic (prefix already applied)? No right that comes from elsewhere beats that.
    pub fn denies_publish(&self, topic: &TopicName) -> bool {
        self.ask(Domain::Topic, Action::Write, &topic_levels(topic.as_str())).is_none()
    }

    /// May a message of this topic be received, and at which QoS at most? The hot path: allocates nothing.
    pub fn may_receive(&self, topic: &TopicName) -> Option<QoS> {
        self.ask(Domain::Topic, Action::Read, &topic_levels(topic.as_str()))?.grant.qos()
    }

    /// What becomes of one filter of a SUBSCRIBE. `$share/GROUP/FILTER` is judged by FILTER; where a rule of any user or
    /// role names the group, or names every group, joining it needs an allow that covers `$share/GROUP/FILTER` as well, and
    /// a deny that touches it forbids joining.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> SubscribeVerdict {
        let Some((group, inner)) = split(filter) else { return SubscribeVerdict::Refused };
        let Some(ceiling) = group.map_or(Some(Grant::ALL), |group| self.may_join(group, inner)) else {
            return SubscribeVerdict::Refused;
        };
        let asked = filter_levels(None, inner);
        let Some(covered) = self.ask(Domain::Topic, Action::Read, &asked) else { return SubscribeVerdict::Refused };
        let overlap =
            || self.sources.iter().map(|source| source.rules().overlap(Domain::Topic, &asked, self.identity()));
        if let Some(max_qos) = covered.grant.min(ceiling).qos() {
            let unconditional = !overlap().any(|overlap| overlap.denied);
            return SubscribeVerdict::Granted { max_qos, unconditional };
        }
        match overlap().map(|overlap| overlap.grant).max().unwrap_or_default().min(ceiling).qos() {
            Some(max_qos) => SubscribeVerdict::Partial { max_qos },
            None => SubscribeVerdict::Refused,
        }
    }

    /// [`Authority::may_publish`] with its reasons.
    pub fn explain_publish(&self, topic: &TopicName) -> Decision {
        if topic.is_reserved() {
            return Decision::never();
        }
        self.explain(Domain::Topic, Action::Write, &topic_levels(topic.as_str()))
    }

    /// [`Authority::may_administer`] with its reasons.
    pub fn explain_administer(&self, operation: &TopicName) -> Decision {
        if self.administers_nothing(operation) {
            return Decision::never();
        }
        self.explain(Domain::Topic, Action::Write, &topic_levels(operation.as_str()))
    }

    /// [`Authority::may_receive`] with its reasons.
    pub fn explain_receive(&self, topic: &TopicName) -> Decision {
        self.explain(Domain::Topic, Action::Read, &topic_levels(topic.as_str()))
    }

    /// [`Authority::may_subscribe`] with its reasons. Visits every rule that touches the filter.
    pub fn explain_subscribe(&self, filter: &TopicFilter) -> SubscribeDecision {
        let verdict = self.may_subscribe(filter);
        let Some((group, inner)) = split(filter) else { return SubscribeDecision { verdict, rules: Vec::new() } };
        let asked = filter_levels(None, inner);
        let mut rules = Vec::new();
        if let Some(group) = group {
            let joined = filter_levels(Some(group), inner);
            let denies = self.touching(Domain::Group, &joined, Effect::Deny);
            if !denies.is_empty() {
                return SubscribeDecision { verdict, rules: denies };
            }
            rules = self.matching(Domain::Group, Action::Read, &joined, Effect::Allow);
        }
        match verdict {
            SubscribeVerdict::Refused => rules = self.matching(Domain::Topic, Action::Read, &asked, Effect::Deny),
            SubscribeVerdict::Granted { .. } => {
                rules.extend(self.matching(Domain::Topic, Action::Read, &asked, Effect::Allow));
                rules.extend(self.touching(Domain::Topic, &asked, Effect::Deny));
            }
            SubscribeVerdict::Partial { .. } => {
                rules.extend(self.touching(Domain::Topic, &asked, Effect::Allow));
                rules.extend(self.touching(Domain::Topic, &asked, Effect::Deny));
            }
        }
        SubscribeDecision { verdict, rules }
    }

    /// May this HTTP request be made? `segments` are the decoded segments of the path, none for `/`. A path with an empty
    /// segment, `.`, `..`, or a `/` inside a segment is refused whatever the rules.
    pub fn may_http(&self, write: bool, segments: &[&str]) -> bool {
        let action = if write { Action::Write } else { Action::Read };
        path_levels(segments)
            .and_then(|asked| self.ask(Domain::Path, action, &asked))
            .is_some_and(|tally| tally.grant != Grant::NONE)
    }

    /// [`Authority::may_http`] with its reasons.
    pub fn explain_http(&self, write: bool, segments: &[&str]) -> Decision {
        let action = if write { Action::Write } else { Action::Read };
        match path_levels(segments) {
            Some(asked) => self.explain(Domain::Path, action, &asked),
            None => Decision::never(),
        }
    }

    pub(super) fn holder(&self) -> Option<&User> {
        self.holder.as_ref().map(|holder| &*holder.user)
    }

    pub(super) fn identity(&self) -> Identity<'_> {
        self.holder.as_ref().map_or(Identity { username: Value::Odd, client_id: Value::Odd }, |holder| Identity {
            // A username holds none of the characters that would make it odd.
            username: Value::Literal(holder.user.username.as_str()),
            client_id: holder.client_id.as_ref().map_or(Value::Odd, |client_id| Value::Literal(client_id.as_str())),
        })
    }

    /// `None` when a deny covers what is asked for; else what the covering allows grant together, maybe nothing.
    fn ask(&self, domain: Domain, action: Action, asked: &AskedLevels<'_>) -> Option<Tally> {
        let who = self.identity();
        let mut tally = Tally::default();
        for source in &self.sources {
            if source.rules().cover(domain, action, asked, who, &mut tally).is_break() {
                return None;
            }
        }
        Some(tally)
    }

    /// The grant for joining the group with this filter; `None` when it may not be joined.
    fn may_join(&self, group: &str, inner: &str) -> Option<Grant> {
        let asked = filter_levels(Some(group), inner);
        let who = self.identity();
        // What is withheld from the group cannot be told from what is withheld from its members: any touch forbids.
        if self.sources.iter().any(|source| source.rules().overlap(Domain::Group, &asked, who).denied) {
            return None;
        }
        if !self.groups.guards(group) {
            return Some(Grant::ALL);
        }
        self.ask(Domain::Group, Action::Read, &asked).map(|tally| tally.grant).filter(|grant| *grant != Grant::NONE)
    }

    fn explain(&self, domain: Domain, action: Action, asked: &AskedLevels<'_>) -> Decision {
        let denies = self.matching(domain, action, asked, Effect::Deny);
        if !denies.is_empty() {
            return Decision { verdict: Verdict::Deny, rules: denies, max_qos: QoS::AtMostOnce, retain: false };
        }
        let rules = self.matching(domain, action, asked, Effect::Allow);
        let grant = rules.iter().map(|(_, rule)| Grant::up_to(rule.max_qos)).max().unwrap_or_default();
        Decision {
            verdict: if rules.is_empty() { Verdict::Deny } else { Verdict::Allow },
            max_qos: grant.qos().unwrap_or_default(),
            retain: action == Action::Write && rules.iter().any(|(_, rule)| rule.retain.unwrap_or(true)),
            rules,
        }
    }

    fn matching(
        &self,
        domain: Domain,
        action: Action,
        asked: &AskedLevels<'_>,
        effect: Effect,
    ) -> Vec<(Option<RoleName>, Permission)> {
        self.collect(action, effect, |source, found| {
            source.rules().covering_rules(domain, asked, self.identity(), found);
        })
    }

    fn touching(&self, domain: Domain, asked: &AskedLevels<'_>, effect: Effect) -> Vec<(Option<RoleName>, Permission)> {
        self.collect(Action::Read, effect, |source, found| {
            source.rules().overlapping_rules(domain, asked, self.identity(), found);
        })
    }

    fn collect(
        &self,
        action: Action,
        effect: Effect,
        walk: impl Fn(&RuleSource, &mut dyn FnMut(usize, bool)),
    ) -> Vec<(Option<RoleName>, Permission)> {
        let mut rules = Vec::new();
        for source in &self.sources {
            let mut indices = Vec::new();
            walk(source, &mut |rule, denies_only| {
                if effect == Effect::Deny || !denies_only {
                    indices.push(rule);
                }
            });
            // In the order in which people wrote them.
            indices.sort_unstable();
            let found = indices.into_iter().filter_map(|rule| source.permissions().get(rule));
            let of_effect = found.filter(|rule| rule.effect == effect && action.is_of(rule.operation));
            rules.extend(of_effect.map(|rule| (source.role().cloned(), rule.clone())));
        }
        rules
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("version", &self.version)
            .field("user", &self.user())
            .field("roles", &self.sources.iter().filter_map(RuleSource::role).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl RuleSource {
    pub(super) fn rules(&self) -> &Arc<RuleSet> {
        match self {
            Self::Role(_, rules) | Self::User(_, rules) => rules,
        }
    }

    pub(super) fn permissions(&self) -> &[Permission] {
        match self {
            Self::Role(role, _) => &role.permissions,
            Self::User(user, _) => &user.permissions,
        }
    }

    fn role(&self) -> Option<&RoleName> {
        match self {
            Self::Role(role, _) => Some(&role.name),
            Self::User(..) => None,
        }
    }
}

/// The group, if the subscription is shared, and the filter. `None`: `$share` without group or filter.
fn split(filter: &TopicFilter) -> Option<(Option<&str>, &str)> {
    match filter.shared() {
        Some((group, inner)) => (!group.is_empty() && !inner.is_empty()).then_some((Some(group), inner)),
        None => Some((None, filter.as_str())),
    }
}

//! One list of permissions, compiled: a role's, or a user's own.
//!
//! Everything about a permission that may be wrong is found here, once; what leaves can only be asked. Rules refer to the
//! permissions by their index, so that an explanation can show them.

use std::ops::ControlFlow;
use std::sync::Arc;

use jiff::Timestamp;

use super::pattern::{self, Asked, Domain, Identity, Level};
use super::summary::{Action, Below, Grant, Summary};
use super::trie::{Entry, OverlapVisitor, Place, Trie};
use super::{Context, Effect, Operation, Permission, PolicyError, RuleError, RuleHolder};

/// Most permissions of one role, or of one user's own.
pub const MAX_PERMISSIONS: usize = 100_000;
/// Most bytes of all resources of one role, or of one user's own, together.
pub const MAX_RULE_BYTES: usize = 8 << 20;

/// Steps that one look for overlaps may take in one rule set before it answers cautiously.
const OVERLAP_STEPS: u32 = 10_000;

/// Compiled permissions.
#[derive(Debug)]
pub(super) struct RuleSet {
    topics: Trie,
    groups: Trie,
    paths: Trie,
    /// When the first of the rules lapses.
    pub(super) lapses_at: Option<Timestamp>,
    /// The resource of an allow rule with `${client_id}`, lapsed or not.
    pub(super) client_id_rule: Option<String>,
    pub(super) claims: GroupClaims,
    /// Is there a rule, not lapsed, by which something is administered?
    pub(super) administers: bool,
}

/// The groups of shared subscriptions that a rule set names, lapsed rules included: a group does not open because a grant
/// on it has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupClaims {
    /// By name, each as often as rules name it.
    pub(super) named: Vec<Arc<str>>,
    /// How many allow rules name groups by a wildcard or placeholder, and so every group. A deny rule that does says who
    /// may not join, not that everybody else needs a rule.
    pub(super) every: u64,
}

impl GroupClaims {
    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.every == 0
    }
}

/// What a look for overlaps found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Overlap {
    pub(super) denied: bool,
    pub(super) grant: Grant,
}

impl RuleSet {
    /// Checks every permission and compiles those that have not lapsed at `now`.
    pub(super) fn compile(
        holder: impl Fn() -> RuleHolder,
        permissions: &[Permission],
        now: Timestamp,
    ) -> Result<Self, PolicyError> {
        if permissions.len() > MAX_PERMISSIONS {
            let count = permissions.len();
            return Err(PolicyError::TooManyRules { holder: holder(), count, max: MAX_PERMISSIONS });
        }
        if permissions.iter().map(|permission| permission.resource.len()).sum::<usize>() > MAX_RULE_BYTES {
            return Err(PolicyError::TooManyBytes { holder: holder(), max: MAX_RULE_BYTES });
        }
        let (mut topics, mut groups, mut paths) = (Vec::new(), Vec::new(), Vec::new());
        let mut lapses_at: Option<Timestamp> = None;
        let mut client_id_rule = None;
        let mut claims = GroupClaims::default();
        let mut administers = false;
        for (rule, permission) in (0_u32..).zip(permissions) {
            let (domain, levels) = check(permission).map_err(|fault| PolicyError::Rule {
                holder: holder(),
                number: rule as usize + 1,
                resource: permission.resource.clone(),
                fault,
            })?;
            let allows = permission.effect == Effect::Allow;
            if allows && client_id_rule.is_none() && levels.contains(&Level::ClientId) {
                client_id_rule = Some(permission.resource.clone());
            }
            if domain == Domain::Group {
                match levels.first() {
                    Some(Level::Literal(name)) => claims.named.push(Arc::from(*name)),
                    _ => claims.every += u64::from(allows),
                }
            }
            if let Some(end) = permission.not_after {
                if end <= now {
                    continue;
                }
                lapses_at = Some(lapses_at.map_or(end, |earliest| earliest.min(end)));
            }
            administers |= allows && self::administers(permission.operation, domain, &levels);
            let entry = Entry { levels, rule, summary: Summary::of(permission) };
            match domain {
                Domain::Topic => topics.push(entry),
                Domain::Group => groups.push(entry),
                Domain::Path => paths.push(entry),
            }
        }
        Ok(Self {
            topics: Trie::grow(Domain::Topic, topics),
            groups: Trie::grow(Domain::Group, groups),
            paths: Trie::grow(Domain::Path, paths),
            lapses_at,
            client_id_rule,
            claims,
            administers,
        })
    }

    fn trie(&self, domain: Domain) -> &Trie {
        match domain {
            Domain::Topic => &self.topics,
            Domain::Group => &self.groups,
            Domain::Path => &self.paths,
        }
    }

    /// Adds what the rules that cover all that is asked for say of the action; `Break` when one denies it.
    pub(super) fn cover(
        &self,
        domain: Domain,
        action: Action,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        tally: &mut Tally,
    ) -> ControlFlow<()> {
        self.trie(domain).covering(asked, who, |place| {
            let summary = place.slot.summary;
            if summary.denies(action) {
                return ControlFlow::Break(());
            }
            if !place.denies_only {
                tally.grant = tally.grant.max(summary.grant(action));
                tally.retain |= summary.retain();
            }
            ControlFlow::Continue(())
        })
    }

    /// Visits what the rules of each place say that cover what is asked for, whether or not their placeholders have values.
    pub(super) fn visit_covering(
        &self,
        domain: Domain,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        mut visit: impl FnMut(Summary) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.trie(domain).covering(asked, who, |place| visit(place.slot.summary))
    }

    /// What the rules on reading that overlap some of what is asked for say. A look that takes too many steps says that a
    /// deny and a full grant overlap, which leaves it to the check at each delivery.
    pub(super) fn overlap(&self, domain: Domain, asked: &[Asked<'_>], who: Identity<'_>) -> Overlap {
        let mut look = Look { who, found: Overlap::default(), steps: OVERLAP_STEPS };
        let _ends_early = self.trie(domain).overlapping(asked, who, &mut look);
        look.found
    }

    /// Does a deny of the action touch some of what is asked for? A look that takes too many steps says yes.
    pub(super) fn denies_some(&self, domain: Domain, action: Action, asked: &[Asked<'_>], who: Identity<'_>) -> bool {
        let mut look = DenyLook { action, steps: OVERLAP_STEPS };
        self.trie(domain).overlapping(asked, who, &mut look).is_break()
    }

    /// The indices of the rules that cover all that is asked for, allow rules without a value for a placeholder left out.
    pub(super) fn covering_rules(
        &self,
        domain: Domain,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        mut found: impl FnMut(usize, bool),
    ) {
        let trie = self.trie(domain);
        let _never_breaks = trie.covering(asked, who, |place| {
            trie.rules_of(place.slot).iter().for_each(|rule| found(*rule as usize, place.denies_only));
            ControlFlow::Continue(())
        });
    }

    /// The indices of the rules that overlap some of what is asked for. Visits each of them.
    pub(super) fn overlapping_rules(
        &self,
        domain: Domain,
        asked: &[Asked<'_>],
        who: Identity<'_>,
        found: impl FnMut(usize, bool),
    ) {
        let trie = self.trie(domain);
        let _never_breaks = trie.overlapping(asked, who, &mut List { trie, found });
    }
}

/// What the matching rules add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) grant: Grant,
    pub(super) retain: bool,
}

struct Look<'i> {
    who: Identity<'i>,
    found: Overlap,
    steps: u32,
}

impl Look<'_> {
    fn flow(&self) -> ControlFlow<()> {
        // Nothing more to learn.
        if self.found.denied && self.found.grant == Grant::ALL {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl OverlapVisitor for Look<'_> {
    fn place(&mut self, place: Place<'_>) -> ControlFlow<()> {
        self.found.denied |= place.slot.summary.denies(Action::Read);
        if !place.denies_only {
            self.found.grant = self.found.grant.max(place.slot.summary.grant(Action::Read));
        }
        self.flow()
    }

    fn subtree(&mut self, below: Below, denies_only: bool) -> Option<ControlFlow<()>> {
        self.found.denied |= below.denies(Action::Read);
        if !denies_only {
            self.found.grant = self.found.grant.max(below.grant(self.who));
        }
        Some(self.flow())
    }

    fn step(&mut self) -> ControlFlow<()> {
        let Some(left) = self.steps.checked_sub(1) else {
            self.found = Overlap { denied: true, grant: Grant::ALL };
            return ControlFlow::Break(());
        };
        self.steps = left;
        ControlFlow::Continue(())
    }
}

/// Looks for a deny; breaks at the first, or when it has looked long enough.
struct DenyLook {
    action: Action,
    steps: u32,
}

impl DenyLook {
    fn flow(denied: bool) -> ControlFlow<()> {
        if denied { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl OverlapVisitor for DenyLook {
    fn place(&mut self, place: Place<'_>) -> ControlFlow<()> {
        Self::flow(place.slot.summary.denies(self.action))
    }

    fn subtree(&mut self, below: Below, _: bool) -> Option<ControlFlow<()>> {
        Some(Self::flow(below.denies(self.action)))
    }

    fn step(&mut self) -> ControlFlow<()> {
        self.steps = self.steps.saturating_sub(1);
        Self::flow(self.steps == 0)
    }
}

struct List<'t, F> {
    trie: &'t Trie,
    found: F,
}

impl<F: FnMut(usize, bool)> OverlapVisitor for List<'_, F> {
    fn place(&mut self, place: Place<'_>) -> ControlFlow<()> {
        for rule in self.trie.rules_of(place.slot) {
            (self.found)(*rule as usize, place.denies_only);
        }
        ControlFlow::Continue(())
    }

    fn subtree(&mut self, _: Below, _: bool) -> Option<ControlFlow<()>> {
        None
    }

    fn step(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Does an allow rule let its holder change what others are or may? Whoever may write over HTTP, anywhere, or to some of
/// `$registry/admin/#`, may.
fn administers(operation: Operation, domain: Domain, levels: &[Level<'_>]) -> bool {
    let below_admin = |level: Option<&Level<'_>>| !matches!(level, Some(Level::Literal(name)) if *name != "admin");
    operation != Operation::Read
        && match domain {
            Domain::Path => true,
            // A level that is no literal is never one that begins with `$`.
            Domain::Topic => levels.first() == Some(&Level::Literal("$registry")) && below_admin(levels.get(1)),
            Domain::Group => false,
        }
}

fn check(permission: &Permission) -> Result<(Domain, Vec<Level<'_>>), RuleError> {
    let conditions = [
        ("max_qos", permission.max_qos.is_some()),
        ("retain", permission.retain.is_some()),
        ("not_after", permission.not_after.is_some()),
    ];
    for (name, is_set) in conditions {
        if is_set && permission.effect == Effect::Deny {
            return Err(RuleError::ConditionOnDeny(name));
        }
        if is_set && permission.context == Context::Http && name != "not_after" {
            return Err(RuleError::ConditionOnPath(name));
        }
    }
    if let Some(max_qos) = permission.max_qos.filter(|max_qos| *max_qos > 2) {
        return Err(RuleError::MaxQos(max_qos));
    }
    let (domain, levels) = pattern::parse(permission.context, &permission.resource)?;
    if domain == Domain::Group && permission.operation == Operation::Write {
        return Err(RuleError::ShareWrite);
    }
    Ok((domain, levels))
}

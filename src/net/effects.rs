//! What a change of the rules would do to the sessions that there are.
//!
//! Enters: a step between two snapshots that nobody has published. Leaves: each session with what it would lose and gain.
//! It asks what the connections themselves ask when the rules change, and changes nothing. A gate is held only while the
//! subscriptions of its session are copied.

use std::collections::BTreeMap;

use super::Server;
use crate::{
    access::{Policy, UserId, Username},
    authn::{Cause, Identity},
    directory::{Affected, LiveSessions, PolicyChange, RuleDifference, SessionEffect, Standing, SubscriptionEffect},
    mqtt::{ClientId, QoS, TopicFilter},
    session::Owner,
};

/// A session as it is now.
struct Seen {
    client_id: ClientId,
    /// `None`: nobody is connected.
    identity: Option<Identity>,
    connected: bool,
    subscriptions: Vec<(TopicFilter, QoS)>,
}

impl LiveSessions for Server {
    fn effects(&self, change: &PolicyChange) -> Vec<SessionEffect> {
        let mut rules = RuleDifference::of(change);
        let mut effects = Vec::new();
        for (username, (user, sessions)) in self.seen(change) {
            let (rules_removed, rules_added) = rules.of_user(user);
            let terms =
                |policy: &Policy| policy.user(user).map(|user| (user.quota.clone(), user.publish_prefix.clone()));
            let terms_change = change.new.user(user).is_some() && terms(&change.old) != terms(&change.new);
            for seen in sessions {
                let effect = SessionEffect {
                    username: username.clone(),
                    client_id: seen.client_id.to_string(),
                    connected: seen.connected,
                    ends: self.end(change, user, &seen).map(str::to_owned),
                    subscriptions: subscriptions(change, user, &seen),
                    rules_removed: rules_removed.clone(),
                    rules_added: rules_added.clone(),
                    terms_change,
                };
                let nothing = effect.ends.is_none()
                    && !terms_change
                    && effect.subscriptions.is_empty()
                    && effect.rules_removed.is_empty()
                    && effect.rules_added.is_empty();
                if !nothing {
                    effects.push(effect);
                }
            }
        }
        effects
    }
}

impl Server {
    /// The sessions of affected users, by name.
    fn seen(&self, change: &PolicyChange) -> BTreeMap<Username, (UserId, Vec<Seen>)> {
        let cells = match &change.affected {
            Affected::All => self.sessions.all(),
            Affected::Users(users) => users.iter().flat_map(|user| self.sessions.of_user(*user)).collect(),
        };
        let mut seen: BTreeMap<Username, (UserId, Vec<Seen>)> = BTreeMap::new();
        for cell in cells {
            let gate = cell.gate();
            let Owner::User(user) = gate.session.key().owner else { continue };
            let Some(name) = change.old.user(user).map(|user| user.username.clone()) else { continue };
            if gate.session.is_over() {
                continue;
            }
            let session = Seen {
                client_id: gate.session.key().client_id.clone(),
                identity: gate.identity.clone(),
                connected: gate.session.is_attached(),
                subscriptions: gate
                    .session
                    .subscriptions()
                    .filter(|subscription| !subscription.local)
                    .map(|subscription| (subscription.filter.clone(), subscription.options.qos))
                    .collect(),
            };
            drop(gate);
            seen.entry(name).or_insert_with(|| (user, Vec::new())).1.push(session);
        }
        for (_, sessions) in seen.values_mut() {
            sessions.sort_by(|one, other| one.client_id.as_str().cmp(other.client_id.as_str()));
        }
        seen
    }

    /// Why the session would end; `None`: it goes on.
    fn end(&self, change: &PolicyChange, user: UserId, seen: &Seen) -> Option<&'static str> {
        if change.new.user(user).is_none() {
            return Some("its user is deleted");
        }
        let identity = seen.identity.as_ref().filter(|_| seen.connected)?;
        match identity.check(&*change.new, self.clock.timestamp()) {
            Err(refusal) => Some(match refusal.cause() {
                Cause::Disabled => "its user is disabled",
                Cause::UserExpired => "its user has expired",
                Cause::PasswordChanged => "its password is changed",
                Cause::ProofNotAdmitted => "its user must log in another way",
                _ => "its certificate is not good any more",
            }),
            Ok(_) if change.new.authority(user, &seen.client_id).is_none() => {
                Some("its client identifier is not admitted any more")
            }
            Ok(_) => None,
        }
    }
}

fn subscriptions(change: &PolicyChange, user: UserId, seen: &Seen) -> Vec<SubscriptionEffect> {
    let (old, new) = (change.old.authority(user, &seen.client_id), change.new.authority(user, &seen.client_id));
    let mut effects: Vec<_> = seen
        .subscriptions
        .iter()
        .map(|(filter, granted)| SubscriptionEffect {
            filter: filter.to_string(),
            before: Standing::of(old.as_ref(), filter, *granted),
            after: Standing::of(new.as_ref(), filter, *granted),
        })
        .filter(|effect| effect.before != effect.after)
        .collect();
    effects.sort_by(|one, other| one.filter.cmp(&other.filter));
    effects
}

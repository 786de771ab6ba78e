//! Sockets: listeners, TLS, admission, the connection loop, the table of sessions, and the end of it all.
//!
//! Enters: bytes from peers, changes of the rules. Leaves: bytes to peers. `Server` is what all connections share.
//!
//! A change of the rules reaches a live session in two steps: the directory publishes the new snapshot, then
//! `Server::policy_changed` passes through the gate of each affected session. Each turn of a connection loads the
//! snapshot under its gate, so once the gate has been passed, nothing that the new rules forbid is handed to the
//! kernel.

mod admission;
mod arrival;
mod backlog;
mod connection;
mod departures;
mod effects;
mod events;
mod https;
mod link;
mod listener;
mod login;
mod output;
mod registrations;
mod registry;
mod sessions;
mod tls;
mod transport;
mod workers;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

pub use self::tls::TlsError;
pub(crate) use self::{
    admission::Admission,
    connection::Departures,
    events::publish_registry_events,
    https::{HttpsListener, HttpsPeer, Times, run as serve_https},
    listener::{Listener, run as listen},
    registrations::Registrations,
    sessions::{SessionCell, Sessions},
    tls::{ClientCertificate, Inside, ServerKey, TlsAcceptor, TlsSettings},
    workers::Workers,
};
use self::{
    link::Link,
    sessions::{Gate, TooManySessions},
};
use crate::{
    access::{Authority, Policy, QuotaKind, User},
    audit::{self, UserRef},
    authn::{Anchors, Authenticator},
    clock::{Clock, Instant, Timestamp},
    directory::{Affected, Directory, PolicyChange, PolicyListener},
    metrics::{DropCause, Metrics, RefusedAction},
    mqtt::ReasonCode,
    registry::Registry,
    router::{MailboxLimits, RetainedFull, RetainedMessage, Routed, Router},
    session::{self, Action, Context, EndCause, Owner, Refusal, RefusalCause, Rejection, SessionKey},
};

/// Whether a retained message whose publisher may no longer write its topic is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OrphanedRetained {
    /// Kept, not delivered; lives again when the right returns.
    #[default]
    Withhold,
    /// Delivered all the same.
    Keep,
    /// Removed, within seconds.
    Drop,
}

/// What the operator chose for connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From accept to CONNECT and its answer.
    pub connect_timeout: Duration,
    /// Sessions of users.
    pub session: session::Settings,
    /// Registration sessions.
    pub registration_session: session::Settings,
    /// How long a registration session may last.
    pub registration_lifetime: Duration,
    /// How long a registration session may last that asks for nothing.
    pub registration_patience: Duration,
    /// Retained messages of publishers that lost their right.
    pub orphaned_retained: OrphanedRetained,
}

/// What all connections of one broker share.
pub(crate) struct Server {
    /// Run the connections that have a session.
    pub(crate) workers: Workers,
    /// Bring connections in and see them out.
    pub(crate) acceptors: Workers,
    /// Connections that wait for that.
    pub(crate) departures: Departures,
    pub(crate) admission: Arc<Admission>,
    /// Places for registration sessions.
    pub(crate) registrations: Arc<Registrations>,
    pub(crate) sessions: Sessions,
    pub(crate) router: Router,
    pub(crate) directory: Arc<Directory>,
    pub(crate) authenticator: Arc<Authenticator>,
    /// Whose word a client certificate is.
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    /// Takes down refusals and failed logins.
    pub(crate) recorder: Arc<audit::Recorder>,
    /// Bounds of a mailbox.
    pub(crate) mailbox: MailboxLimits,
    pub(crate) settings: Settings,
}

/// Retained messages that expired are looked for this often.
const RETAINED_SWEEP: Duration = Duration::from_mins(1);

impl Server {
    /// May this retained message be sent, as far as its publisher goes? If not, it may be the last look at it.
    pub(crate) fn may_stand(&self, entry: &RetainedMessage) -> bool {
        if self.settings.orphaned_retained == OrphanedRetained::Keep {
            return true;
        }
        let Some((user, client_id)) = &entry.publisher else { return true };
        let may = may_write(&self.directory.policy(), *user, client_id, entry);
        if !may && self.settings.orphaned_retained == OrphanedRetained::Drop {
            self.router.drop_retained(entry);
        }
        may
    }

    /// Counts a CONNECT for which there is no room, and says so.
    fn too_many_sessions(&self, too_many: TooManySessions) -> Rejection {
        let explanation = match too_many {
            TooManySessions::InAll => "as many sessions as limits.sessions admits: try again later",
            TooManySessions::OfUser => {
                self.metrics.quota_exceeded.inc(QuotaKind::Sessions);
                "as many sessions as the quota of this user admits"
            }
        };
        Rejection { reason_code: ReasonCode::QuotaExceeded, explanation: explanation.into(), refusal: None }
    }

    /// Counts a CONNECT beyond the user's connections, and says so.
    fn too_many_connections(&self) -> Rejection {
        self.metrics.quota_exceeded.inc(QuotaKind::Connections);
        let explanation = "as many connections as the quota of this user admits";
        Rejection { reason_code: ReasonCode::QuotaExceeded, explanation: explanation.into(), refusal: None }
    }

    /// Counts what routing a message came up against.
    pub(crate) fn routed(&self, routed: &Result<Routed, RetainedFull>) {
        match routed {
            Ok(Routed { dropped: 0, .. }) | Err(RetainedFull::Limits) => {}
            Ok(Routed { dropped, over_quota, .. }) => {
                self.metrics.dropped.add(DropCause::QueueFull, *dropped as u64);
                self.metrics.quota_exceeded.add(QuotaKind::Queue, *over_quota as u64);
            }
            Err(RetainedFull::Quota(kind)) => self.metrics.quota_exceeded.inc(*kind),
        }
    }

    /// Counts and logs something that a session was refused.
    fn refused(&self, key: &SessionKey, refusal: &Refusal) {
        match (refusal.cause, refusal.action) {
            (RefusalCause::Quota(kind), _) => self.metrics.quota_exceeded.inc(kind),
            (_, Action::Publish) => self.metrics.refused.inc(RefusedAction::Publish),
            (_, Action::Subscribe) => self.metrics.refused.inc(RefusedAction::Subscribe),
            (_, Action::Receive) => self.metrics.refused.inc(RefusedAction::Receive),
            (_, Action::Will) => self.metrics.refused.inc(RefusedAction::Will),
        }
        tracing::debug!(
            owner = %key.owner,
            client_id = key.client_id.as_str(),
            action = ?refusal.action,
            topic = &*refusal.topic,
            cause = ?refusal.cause,
            "refused"
        );
        let policy = self.directory.policy();
        let user = match key.owner {
            Owner::User(id) => policy.user(id).map(|user| UserRef { id, username: user.username.clone() }),
            Owner::Registration(_) => None,
        };
        let (action, cause) = (refused_action(refusal.action).into(), refused_cause(refusal.cause).into());
        let refused = audit::Refused { user, action, cause };
        self.recorder.refused(refused, &refusal.topic, self.clock.timestamp(), || deciding_rule(&policy, key, refusal));
    }

    /// The rights of a session that nobody is connected to.
    fn offline_authority(&self, key: &SessionKey) -> Authority {
        let policy = self.directory.policy();
        match key.owner {
            Owner::User(user) => policy.authority(user, &key.client_id),
            Owner::Registration(_) => None,
        }
        .unwrap_or_else(|| Authority::none(policy.version()))
    }

    /// Does what is due for sessions without a connection: delayed Wills, expiry. Looks after expired retained
    /// messages. Ends with the shutdown.
    pub(crate) async fn look_after_sessions(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut swept = (self.clock.instant(), self.directory.version());
        let drops_orphans = self.settings.orphaned_retained == OrphanedRetained::Drop;
        loop {
            let now = self.clock.instant();
            let (due, next) = self.sessions.due(now);
            for cell in due {
                self.session_is_due(&cell, now);
            }
            let version = self.directory.version();
            if now.saturating_duration_since(swept.0) >= RETAINED_SWEEP || (drops_orphans && version != swept.1) {
                swept = (now, version);
                self.sweep_retained(now);
                self.sessions.forget_rested(now);
            }
            let (subscriptions, messages, bytes) = self.router.sizes();
            self.metrics.sessions.set(self.sessions.len());
            self.metrics.subscriptions.set(subscriptions);
            self.metrics.retained_messages.set(messages);
            self.metrics.retained_bytes.set(bytes);
            let pause = next.map_or(Duration::from_secs(5), |at| at.saturating_duration_since(now));
            tokio::select! {
                () = tokio::time::sleep(pause.min(Duration::from_secs(5))) => {}
                () = self.sessions.earlier_deadline() => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn session_is_due(&self, cell: &Arc<SessionCell>, now: Instant) {
        let mut gate = cell.gate();
        if gate.session.is_attached() {
            return;
        }
        let due = gate.session.poll_timeout();
        if due.is_none_or(|at| at > now) {
            self.sessions.set_deadline(cell, &mut gate, due);
            return;
        }
        let authority = self.offline_authority(gate.session.key());
        let cx = Context { authority: &authority, now, settings: &self.settings.session };
        gate.session.handle_timeout(&cx);
        Link::settle(self, cell, &mut gate, &cx, None);
        link::leave(self, cell, &mut gate);
    }

    fn sweep_retained(&self, now: Instant) {
        let policy = self.directory.policy();
        let drop_orphans = self.settings.orphaned_retained == OrphanedRetained::Drop;
        self.router.sweep_retained(|entry| {
            let orphaned = || {
                entry.publisher.as_ref().is_some_and(|(user, client_id)| !may_write(&policy, *user, client_id, entry))
            };
            !(entry.message.is_expired(now) || drop_orphans && orphaned())
        });
    }

    /// Ends an offline session whose user is no more; the queues of others follow the quota. The caller holds its gate.
    fn follow_offline(&self, cell: &Arc<SessionCell>, gate: &mut Gate, policy: &Policy) {
        match gate.session.key().owner {
            Owner::User(user) => match policy.user(user) {
                None => {}
                Some(user) => return cell.mailbox.narrow(user.quota.as_deref()),
            },
            Owner::Registration(_) => return,
        }
        let authority = Authority::none(policy.version());
        let cx = Context { authority: &authority, now: self.clock.instant(), settings: &self.settings.session };
        link::purge(self, cell, gate, EndCause::Purged(ReasonCode::NotAuthorized), &cx);
    }
}

fn refused_action(action: Action) -> &'static str {
    match action {
        Action::Publish => "publish",
        Action::Subscribe => "subscribe",
        Action::Receive => "receive",
        Action::Will => "will",
    }
}

fn refused_cause(cause: RefusalCause) -> &'static str {
    match cause {
        RefusalCause::Rules => "rules",
        RefusalCause::QoS => "qos",
        RefusalCause::Retain => "retain",
        RefusalCause::Reserved => "reserved_topic",
        RefusalCause::TopicTooLong => "topic_too_long",
        RefusalCause::RegistrationSession => "registration_session",
        RefusalCause::Partial => "partly_covered",
        RefusalCause::Shared => "shared",
        RefusalCause::TooManySubscriptions => "too_many_subscriptions",
        RefusalCause::Quota(_) => "quota",
    }
}

/// The first of the rules that decided, if a rule did.
fn deciding_rule(policy: &Policy, key: &SessionKey, refusal: &Refusal) -> Option<audit::Rule> {
    if !matches!(refusal.cause, RefusalCause::Rules | RefusalCause::QoS | RefusalCause::Retain | RefusalCause::Partial)
    {
        return None;
    }
    let Owner::User(user) = key.owner else { return None };
    let authority = policy.authority(user, &key.client_id)?;
    let rules = match refusal.action {
        Action::Publish if refusal.cause != RefusalCause::Reserved && refusal.topic.starts_with('$') => {
            authority.explain_administer(&refusal.topic.parse().ok()?).rules
        }
        Action::Publish | Action::Will => authority.explain_publish(&refusal.topic.parse().ok()?).rules,
        Action::Receive => authority.explain_receive(&refusal.topic.parse().ok()?).rules,
        Action::Subscribe => authority.explain_subscribe(&refusal.topic.parse().ok()?).rules,
    };
    rules.into_iter().next().map(|(role, permission)| audit::Rule::new(role, permission))
}

fn may_write(
    policy: &Policy,
    user: crate::access::UserId,
    client_id: &crate::mqtt::ClientId,
    entry: &RetainedMessage,
) -> bool {
    policy.authority(user, client_id).is_some_and(|authority| authority.may_publish(&entry.message.topic).is_some())
}

impl PolicyListener for Server {
    /// When this returns, no session of an affected user hands anything to the kernel that the new rules forbid.
    fn policy_changed(&self, change: &PolicyChange) {
        let affected = match &change.affected {
            Affected::All => self.sessions.all(),
            Affected::Users(users) => users.iter().flat_map(|user| self.sessions.of_user(*user)).collect(),
        };
        let now = self.clock.timestamp();
        let issuers_moved = change.old.revoked_issuers() != change.new.revoked_issuers();
        for cell in affected {
            // Whoever holds the gate now decided by the old rules and is done when it lets go; whoever takes it next
            // reads the new ones.
            let mut gate = cell.gate();
            let Owner::User(user) = gate.session.key().owner else { continue };
            if gate.session.is_attached() {
                drop(gate);
                // A certificate of a further anchor logs in nobody who administers.
                let administers = |policy: &Policy| policy.user(user).is_some_and(|it| policy.administers(it));
                if issuers_moved
                    || administers(&change.old) != administers(&change.new)
                    || concerns_the_connection(change.old.user(user), change.new.user(user), now)
                {
                    cell.mailbox.call();
                }
            } else {
                self.follow_offline(&cell, &mut gate, &change.new);
            }
        }
    }
}

/// Has the connection to look at the change at once, or is its next turn early enough?
///
/// Whatever a session receives or sends takes a turn, which begins with the new rules. So a change of rights alone needs
/// no turn of its own: ten thousand connections that are all called at once would delay everybody else's messages. What
/// may end the connection does. INVARIANT: what is not listed here as rights may end it.
fn concerns_the_connection(old: Option<&Arc<User>>, new: Option<&Arc<User>>, now: Timestamp) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    if new.expires_at.is_some_and(|end| end <= now) {
        return true;
    }
    if Arc::ptr_eq(old, new) {
        return false;
    }
    let same_rights = User {
        description: new.description.clone(),
        roles: new.roles.clone(),
        permissions: new.permissions.clone(),
        publish_prefix: new.publish_prefix.clone(),
        last_seen_at: new.last_seen_at,
        version: new.version,
        ..User::clone(old)
    };
    same_rights != **new
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Auth, Permission, UserId};

    fn user() -> Arc<User> {
        let id = UserId(uuid::Uuid::nil());
        Arc::new(User { version: 1, ..User::new(id, "device".parse().unwrap(), Timestamp::UNIX_EPOCH) })
    }

    fn concerns(edit: impl FnOnce(&mut User)) -> bool {
        let (old, mut new) = (user(), User::clone(&user()));
        edit(&mut new);
        concerns_the_connection(Some(&old), Some(&Arc::new(new)), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_change_of_rights_alone_calls_no_connection() {
        let old = user();
        assert!(!concerns_the_connection(Some(&old), Some(&old), Timestamp::UNIX_EPOCH), "of a role");
        let rule = || Permission::allow(crate::access::Context::Mqtt, crate::access::Operation::Read, "a");
        assert!(!concerns(|user| {
            user.version += 1;
            user.roles = vec!["line".parse().unwrap()];
            user.permissions = vec![rule()];
            user.publish_prefix = Some("a/".into());
        }));
    }

    #[test]
    fn whatever_may_end_a_connection_calls_it() {
        assert!(concerns(|user| user.enabled = false));
        assert!(concerns(|user| user.password_hash = Some("$argon2id$".into())));
        assert!(concerns(|user| user.auth = Auth::Either));
        assert!(concerns(|user| user.client_id = Some("x".into())));
        assert!(concerns(|user| user.expires_at = Some(Timestamp::MAX)), "an end is set");
        assert!(concerns(|user| user.expires_at = Some(Timestamp::UNIX_EPOCH)));
        let lapsed = Arc::new(User { expires_at: Some(Timestamp::UNIX_EPOCH), ..User::clone(&user()) });
        assert!(concerns_the_connection(Some(&lapsed), Some(&lapsed), Timestamp::UNIX_EPOCH), "the clock's commit");
        assert!(concerns_the_connection(Some(&user()), None, Timestamp::UNIX_EPOCH));
        assert!(concerns_the_connection(None, Some(&user()), Timestamp::UNIX_EPOCH));
    }
}

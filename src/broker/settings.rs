//! What broker.toml says, in the words of the modules that it configures.

use std::{
    num::{NonZeroU16, NonZeroU32, NonZeroUsize},
    time::Duration,
};

use super::StartError;
use crate::{
    audit,
    authn::{Argon2Parameters, HasherSettings, PasswordPolicy},
    authority::AuthorityFiles,
    config::{self, Config},
    net,
    pki::Profile,
    registry::{self, RateLimit},
    router::{Budget, MailboxLimits, RetainedLimits},
    session::{self, DeniedPublish, PartialSubscription},
    store,
};

/// Largest packet of a registration session, in bytes. From the registry protocol.
const REGISTRATION_PACKET: u32 = 16 * 1024;

/// How long a registration session may take to ask for something.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(30);

/// Subscriptions of a registration session: one for the answers of each operation, and some to spare.
const REGISTRATION_SUBSCRIPTIONS: usize = 16;

fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

pub(super) fn net(config: &Config) -> net::Settings {
    let limits = &config.limits;
    let session = session::Settings {
        receive_maximum: limits.inflight,
        maximum_packet_size: NonZeroU32::new(limits.packet_size).unwrap_or(NonZeroU32::MAX),
        outbound_bytes: usize_of(limits.queue_bytes),
        topic_levels: limits.topic_levels,
        subscriptions: limits.subscriptions,
        max_session_expiry: limits.session_expiry,
        max_keep_alive: limits.keep_alive,
        denied_publish: match config.access.denied_publish {
            config::DeniedPublish::Disconnect => DeniedPublish::Disconnect,
            config::DeniedPublish::Acknowledge => DeniedPublish::Acknowledge,
        },
        partial_subscription: match config.access.partial_subscription {
            config::PartialSubscription::Refuse => PartialSubscription::Refuse,
            config::PartialSubscription::Filter => PartialSubscription::Filter,
        },
        response_grants: config.access.response_grants.then_some(config.access.response_grant_for),
        ..session::Settings::default()
    };
    let registration_packet = NonZeroU32::MIN.saturating_add(REGISTRATION_PACKET - 1);
    net::Settings {
        connect_timeout: limits.connect_timeout,
        registration_session: session::Settings {
            receive_maximum: NonZeroU16::MIN.saturating_add(3),
            maximum_packet_size: session.maximum_packet_size.min(registration_packet),
            subscriptions: REGISTRATION_SUBSCRIPTIONS,
            max_session_expiry: 0,
            response_grants: None,
            ..session.clone()
        },
        session,
        registration_lifetime: config.registry.session_lifetime,
        registration_patience: REGISTRATION_PATIENCE.min(config.registry.session_lifetime),
        orphaned_retained: match config.access.orphaned_retained {
            config::OrphanedRetained::Withhold => net::OrphanedRetained::Withhold,
            config::OrphanedRetained::Keep => net::OrphanedRetained::Keep,
            config::OrphanedRetained::Drop => net::OrphanedRetained::Drop,
        },
    }
}

pub(super) fn audit(config: &Config) -> audit::Settings {
    let config::Audit { keep, max_records, max_bytes, interval } = config.audit;
    audit::Settings { keep, max_records, max_bytes, interval }
}

pub(super) fn authority(config: &Config) -> AuthorityFiles {
    let config::Ca { certificate, key, passphrase, crl_url, uri_prefix, .. } = config.ca.clone();
    AuthorityFiles { certificate, key, passphrase, profile: Profile { crl_url, uri_prefix } }
}

pub(super) fn mailbox(config: &Config) -> MailboxLimits {
    MailboxLimits {
        messages: config.limits.queue_messages,
        bytes: usize_of(config.limits.queue_bytes),
        total: Budget::new(usize_of(config.limits.queue_total_bytes)),
    }
}

pub(super) fn retained(config: &Config) -> RetainedLimits {
    RetainedLimits { messages: config.limits.retained_messages, bytes: usize_of(config.limits.retained_bytes) }
}

pub(super) fn hasher(config: &Config) -> Result<HasherSettings, StartError> {
    let argon2 = config.password.argon2;
    Ok(HasherSettings {
        parameters: Argon2Parameters::new(argon2.memory_kib, argon2.iterations, argon2.parallelism)
            .map_err(|error| StartError::Setting(error.to_string()))?,
        workers: NonZeroUsize::new(config.password.workers).unwrap_or(NonZeroUsize::MIN),
        login: config.password.queue,
        ..HasherSettings::default()
    })
}

pub(super) fn password_policy(config: &Config) -> Result<PasswordPolicy, StartError> {
    let password = config.password;
    let count = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    PasswordPolicy::new(
        count(password.min),
        count(password.lower),
        count(password.upper),
        count(password.numeric),
        count(password.symbol),
    )
    .map_err(|error| StartError::Setting(error.to_string()))
}

/// `None`: nothing is written to disk.
pub(super) fn durability(config: &Config) -> Option<store::Durability> {
    match config.store.durability {
        config::Durability::Sync => Some(store::Durability::Sync),
        config::Durability::Interval => Some(store::Durability::Interval(Duration::from_millis(500))),
        config::Durability::Memory => None,
    }
}

pub(super) fn registry(config: &Config) -> registry::Settings {
    let settings = &config.registry;
    registry::Settings {
        unlock_for: settings.unlock_for,
        pending_ttl: settings.pending_ttl,
        max_pending: settings.max_pending,
        max_pending_per_source: settings.max_pending_per_source,
        validity: config.ca.validity,
        renew_grace: settings.renew_grace,
        require_nonce: settings.require_nonce,
        approvals: settings.approvals,
        rules: settings.rules.clone(),
        listeners: config.listener_names().map(str::to_owned).collect(),
        rate: RateLimit {
            burst: settings.requests_per_minute,
            every: Duration::from_mins(1) / settings.requests_per_minute.max(1),
        },
        ..registry::Settings::default()
    }
}

//! The sections that occur once: data_dir, [tls], [ca], [registry], [access], [password], [limits], [store], [admin],
//! [audit], [metrics], [log].

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::files;
use super::model::{
    Access, Admin, Argon2, Audit, Ca, Config, DeniedPublish, Durability, Limits, Log, LogFormat, LogLevel, Metrics,
    OrphanedRetained, PartialSubscription, Password, Registry, Store, Tls, TlsVersion, Trust,
};
use super::reader::{Item, Section, Wrong, boolean, duration, integer, one_of, size, socket_address, text};
use super::rules;
use crate::access::UsernamePattern;
use crate::pki::{Naming, UriPrefix};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const GIB: u64 = 1 << 30;

/// Everything but listeners, roles and users, which are at their defaults.
pub(super) fn read(root: &Section<'_>, base: &Path) -> Config {
    let default = Config::new(base);
    Config {
        data_dir: root.get("data_dir", path(base)).unwrap_or(default.data_dir),
        workers: root.get("workers", integer::<u64>(1..=1024)).and_then(|n| usize::try_from(n).ok()?.try_into().ok()),
        tls: tls(&root.section("tls"), base, default.tls),
        ca: ca(&root.section("ca"), base, default.ca),
        registry: registry(&root.section("registry"), &default.registry),
        access: access(&root.section("access"), default.access),
        password: password(&root.section("password"), default.password),
        limits: limits(&root.section("limits"), default.limits),
        store: store(&root.section("store"), default.store),
        admin: admin(&root.section("admin"), base, &default.admin),
        audit: audit(&root.section("audit"), default.audit),
        metrics: metrics(&root.section("metrics"), default.metrics),
        log: log(&root.section("log"), default.log),
        ..default
    }
}

/// A path; a relative one refers to the directory of the file.
pub(super) fn path(base: &Path) -> impl Fn(&Item<'_>) -> Result<PathBuf, Wrong> {
    move |item| match text(item)? {
        path if path.is_empty() => Err(Wrong::expected("a path, relative to this file or absolute")),
        path => Ok(base.join(path)),
    }
}

fn tls(section: &Section<'_>, base: &Path, default: Tls) -> Tls {
    let versions = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let tls = Tls {
        certificate: section.get("certificate", path(base)).unwrap_or(default.certificate),
        key: section.get("key", path(base)).unwrap_or(default.key),
        min_version: section.get("min_version", one_of(versions)).unwrap_or(default.min_version),
    };
    section.finish();
    tls
}

/// A URL that certificates can name (RFC 5280 4.2.1.13): ASCII without spaces, at most 1024 characters.
fn url(item: &Item<'_>) -> Result<String, Wrong> {
    let text = text(item)?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let graphic = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.len() <= 1024 && graphic && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        Ok(text)
    } else {
        Err(Wrong::expected("a URL such as \"http://broker.example/crl\""))
    }
}

fn ca(section: &Section<'_>, base: &Path, default: Ca) -> Ca {
    let (naming, uri_prefix) = naming(section, None);
    let ca = Ca {
        trust: section
            .sections("trust")
            .iter()
            .filter_map(|section| trust(section, base, (&naming, uri_prefix.as_ref())))
            .collect(),
        naming,
        uri_prefix,
        certificate: section.get("certificate", path(base)).unwrap_or(default.certificate),
        key: section.get("key", path(base)).unwrap_or(default.key),
        validity: section.get("validity", duration(HOUR..=DAY * 3650)).unwrap_or(default.validity),
        crl_validity: section.get("crl_validity", duration(HOUR..=DAY * 90)).unwrap_or(default.crl_validity),
        crl_url: section.get("crl_url", url),
        passphrase: files::passphrase(
            section,
            base,
            std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new),
        ),
    };
    section.finish();
    ca
}

/// `identity` and `uri_prefix`: those of `[ca]`, or of a further CA, which are as there unless it says so.
fn naming(section: &Section<'_>, of_ca: Option<(&Naming, Option<&UriPrefix>)>) -> (Naming, Option<UriPrefix>) {
    let by_uri = section.get("identity", one_of(&[("cn", false), ("san_uri", true)]));
    let own = section
        .get("uri_prefix", |item| UriPrefix::try_from(text(item)?).map_err(|error| Wrong::expected(error.to_string())));
    let by_uri = by_uri.unwrap_or(of_ca.is_some_and(|(naming, _)| *naming != Naming::CommonName));
    if of_ca.is_some() && own.is_some() && !by_uri {
        let found = "`uri_prefix` says nothing here while its certificates name users by the common name";
        let advice = "write `identity = \"san_uri\"` beside it, or remove it";
        section.report.key(&section.full("uri_prefix"), found, advice);
    }
    let prefix = own.or_else(|| of_ca.and_then(|(_, prefix)| prefix.cloned()));
    if by_uri && prefix.is_none() && section.report.place(&section.full("uri_prefix")).is_none() {
        let advice = "write `uri_prefix = \"spiffe://plant.example/device/\"` beside it, with what stands before the user name in your URIs";
        section.report.key(&section.full("identity"), "`identity = \"san_uri\"` needs a `uri_prefix`", advice);
    }
    let naming = prefix.clone().filter(|_| by_uri).map_or(Naming::CommonName, Naming::Uri);
    (naming, prefix)
}

/// A `[[ca.trust]]` that has both of its keys.
fn trust(section: &Section<'_>, base: &Path, of_ca: (&Naming, Option<&UriPrefix>)) -> Option<Trust> {
    let (naming, _) = naming(section, Some(of_ca));
    let certificate = section.get("certificate", path(base));
    let username = section.get("username", |item| {
        UsernamePattern::try_from(text(item)?).map_err(|_| {
            Wrong::expected("a pattern of usernames such as \"partner-*\", 1 to 64 letters, digits, `._:@-` and `*`")
        })
    });
    section.require("certificate", "\"partner.pem\"");
    section.require("username", "\"partner-*\"");
    section.finish();
    Some(Trust { certificate: certificate?, username: username?, naming })
}

fn registry(section: &Section<'_>, default: &Registry) -> Registry {
    let registry = Registry {
        unlock_for: section.get("unlock_for", duration(SECOND * 10..=DAY)).unwrap_or(default.unlock_for),
        pending_ttl: section.get("pending_ttl", duration(MINUTE..=DAY * 30)).unwrap_or(default.pending_ttl),
        max_pending: section.get("max_pending", count(1..=1_000_000)).unwrap_or(default.max_pending),
        max_pending_per_source: section
            .get("max_pending_per_source", count(1..=1_000_000))
            .unwrap_or(default.max_pending_per_source),
        session_lifetime: section
            .get("session_lifetime", duration(SECOND * 10..=DAY))
            .unwrap_or(default.session_lifetime),
        requests_per_minute: section
            .get("requests_per_minute", integer(1..=100_000))
            .unwrap_or(default.requests_per_minute),
        renew_grace: section.get("renew_grace", duration(Duration::ZERO..=DAY * 365)).unwrap_or(default.renew_grace),
        require_nonce: section.get("require_nonce", boolean).unwrap_or(default.require_nonce),
        approvals: section.get("approvals", integer(1..=2)).unwrap_or(default.approvals),
        rules: rules::read(section),
    };
    section.finish();
    registry
}

fn access(section: &Section<'_>, default: Access) -> Access {
    let retained =
        &[("withhold", OrphanedRetained::Withhold), ("keep", OrphanedRetained::Keep), ("drop", OrphanedRetained::Drop)];
    let partial = &[("refuse", PartialSubscription::Refuse), ("filter", PartialSubscription::Filter)];
    let denied = &[("disconnect", DeniedPublish::Disconnect), ("acknowledge", DeniedPublish::Acknowledge)];
    let access = Access {
        orphaned_retained: section.get("orphaned_retained", one_of(retained)).unwrap_or(default.orphaned_retained),
        partial_subscription: section
            .get("partial_subscription", one_of(partial))
            .unwrap_or(default.partial_subscription),
        denied_publish: section.get("denied_publish", one_of(denied)).unwrap_or(default.denied_publish),
        response_grants: section.get("response_grants", boolean).unwrap_or(default.response_grants),
        response_grant_for: section
            .get("response_grant_for", duration(Duration::from_millis(100)..=DAY))
            .unwrap_or(default.response_grant_for),
    };
    section.finish();
    access
}

fn password(section: &Section<'_>, default: Password) -> Password {
    let argon2 = argon2(&section.section("argon2"), default.argon2);
    let password = Password {
        min: section.get("min", count(1..=128)).unwrap_or(default.min),
        lower: section.get("lower", count(0..=50)).unwrap_or(default.lower),
        upper: section.get("upper", count(0..=50)).unwrap_or(default.upper),
        numeric: section.get("numeric", count(0..=50)).unwrap_or(default.numeric),
        symbol: section.get("symbol", count(0..=50)).unwrap_or(default.symbol),
        argon2,
        workers: section.get("workers", count(1..=64)).unwrap_or(default.workers),
        queue: section.get("queue", count(1..=100_000)).unwrap_or(default.queue),
    };
    section.finish();
    password
}

fn argon2(section: &Section<'_>, default: Argon2) -> Argon2 {
    let argon2 = Argon2 {
        memory_kib: section.get("memory_kib", integer(8..=262_144)).unwrap_or(default.memory_kib),
        iterations: section.get("iterations", integer(1..=64)).unwrap_or(default.iterations),
        parallelism: section.get("parallelism", integer(1..=16)).unwrap_or(default.parallelism),
    };
    // RFC 9106 3.1: at least 8 KiB for each lane.
    let least = argon2.parallelism.saturating_mul(8);
    if argon2.memory_kib < least {
        let found = format!("{} KiB of memory are too few for {} lanes", argon2.memory_kib, argon2.parallelism);
        section.report.key(&section.full("memory_kib"), found, format!("write at least `memory_kib = {least}`"));
    }
    // About half a second of a core: a login that takes longer is a way to stop the broker.
    if u64::from(argon2.memory_kib) * u64::from(argon2.iterations) > 1_048_576 {
        let found =
            format!("{} KiB of memory filled {} times are too slow for a login", argon2.memory_kib, argon2.iterations);
        let advice = "make `memory_kib` times `iterations` 1048576 at most";
        section.report.key(&section.full("iterations"), found, advice);
    }
    section.finish();
    argon2
}

fn limits(section: &Section<'_>, default: Limits) -> Limits {
    let inflight = section.get("inflight", integer::<u16>(1..=65_535)).and_then(NonZeroU16::new);
    let packet_size = section.get("packet_size", size(256..=268_435_460)).and_then(|bytes| u32::try_from(bytes).ok());
    let session_expiry =
        section.get("session_expiry", whole_seconds(Duration::ZERO, Duration::from_secs(4_294_967_294)));
    let limits = Limits {
        connections: section.get("connections", count(1..=10_000_000)).unwrap_or(default.connections),
        connections_per_address: section
            .get("connections_per_address", count(1..=10_000_000))
            .unwrap_or(default.connections_per_address),
        packet_size: packet_size.unwrap_or(default.packet_size),
        inflight: inflight.unwrap_or(default.inflight),
        queue_messages: section.get("queue_messages", count(1..=10_000_000)).unwrap_or(default.queue_messages),
        queue_bytes: section.get("queue_bytes", size(1024..=1024 * GIB)).unwrap_or(default.queue_bytes),
        connect_timeout: section
            .get("connect_timeout", duration(Duration::from_millis(100)..=MINUTE * 5))
            .unwrap_or(default.connect_timeout),
        subscriptions: section.get("subscriptions", count(1..=1_000_000)).unwrap_or(default.subscriptions),
        topic_levels: section.get("topic_levels", count(1..=1_024)).unwrap_or(default.topic_levels),
        session_expiry: session_expiry.and_then(|n| n.try_into().ok()).unwrap_or(default.session_expiry),
        keep_alive: section.get("keep_alive", keep_alive).unwrap_or(default.keep_alive),
        queue_total_bytes: section.get("queue_total_bytes", size(0..=1024 * GIB)).unwrap_or(default.queue_total_bytes),
        sessions: section.get("sessions", count(1..=100_000_000)).unwrap_or(default.sessions),
        retained_messages: section
            .get("retained_messages", count(0..=100_000_000))
            .unwrap_or(default.retained_messages),
        retained_bytes: section.get("retained_bytes", size(0..=1024 * GIB)).unwrap_or(default.retained_bytes),
    };
    // A queue that cannot hold one packet would lose every large message without a word.
    if limits.queue_bytes < u64::from(limits.packet_size) {
        let found = "`limits.queue_bytes` is smaller than one packet of `limits.packet_size`".to_owned();
        section.report.key(&section.full("queue_bytes"), found, "make the queue larger or the packets smaller");
    }
    section.finish();
    limits
}

/// `"off"` or whole seconds.
fn keep_alive(item: &Item<'_>) -> Result<Option<NonZeroU16>, Wrong> {
    if matches!(item.value, DeValue::String(text) if text == "off") {
        return Ok(None);
    }
    let seconds = whole_seconds(SECOND * 5, Duration::from_secs(65_535))(item)
        .map_err(|wrong| Wrong { expected: format!("\"off\" or {}", wrong.expected), ..wrong })?;
    Ok(u16::try_from(seconds).ok().and_then(NonZeroU16::new))
}

/// MQTT counts in seconds.
fn whole_seconds(from: Duration, to: Duration) -> impl Fn(&Item<'_>) -> Result<u64, Wrong> {
    move |item| {
        let duration = duration(from..=to)(item)?;
        match duration.subsec_nanos() {
            0 => Ok(duration.as_secs()),
            _ => Err(Wrong::expected("whole seconds")),
        }
    }
}

fn store(section: &Section<'_>, default: Store) -> Store {
    let durability = &[("sync", Durability::Sync), ("interval", Durability::Interval), ("memory", Durability::Memory)];
    let store = Store { durability: section.get("durability", one_of(durability)).unwrap_or(default.durability) };
    section.finish();
    store
}

fn admin(section: &Section<'_>, base: &Path, default: &Admin) -> Admin {
    let admin = Admin {
        bind: section.get("bind", address_or_off).unwrap_or(default.bind),
        registration: section.get("registration", boolean).unwrap_or(default.registration),
        connections: section.get("connections", count(1..=100_000)).unwrap_or(default.connections),
        connections_per_address: section
            .get("connections_per_address", count(1..=100_000))
            .unwrap_or(default.connections_per_address),
        password: files::password(section, "admin_password_file", base),
    };
    section.finish();
    admin
}

/// An address, or `"off"`.
fn address_or_off(item: &Item<'_>) -> Result<Option<SocketAddr>, Wrong> {
    match item.value {
        DeValue::String(text) if text == "off" => Ok(None),
        _ => socket_address(item)
            .map(Some)
            .map_err(|wrong| Wrong { expected: format!("\"off\" or {}", wrong.expected), ..wrong }),
    }
}

fn audit(section: &Section<'_>, default: Audit) -> Audit {
    let audit = Audit {
        keep: section.get("keep", duration(DAY..=DAY * 36_500)).unwrap_or(default.keep),
        max_records: section.get("max_records", integer(1_000..=1_000_000_000)).unwrap_or(default.max_records),
        max_bytes: section.get("max_bytes", size(1 << 20..=1024 * GIB)).unwrap_or(default.max_bytes),
        interval: section.get("interval", duration(SECOND..=HOUR)).unwrap_or(default.interval),
    };
    section.finish();
    audit
}

fn metrics(section: &Section<'_>, default: Metrics) -> Metrics {
    let metrics = Metrics { bind: section.get("bind", address_or_off).unwrap_or(default.bind) };
    if let Some(address) = metrics.bind.filter(|address| !address.ip().is_loopback()) {
        let found = format!("metrics are served to anybody who reaches {address}");
        section.report.warn(
            &section.full("bind"),
            found,
            "bind them to a loopback address unless a firewall stands before it",
        );
    }
    section.finish();
    metrics
}

fn log(section: &Section<'_>, default: Log) -> Log {
    let levels = &[
        ("off", LogLevel::Off),
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let log = Log {
        level: section.get("level", one_of(levels)).unwrap_or(default.level),
        format: section
            .get("format", one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)]))
            .unwrap_or(default.format),
    };
    section.finish();
    log
}

fn count(range: std::ops::RangeInclusive<u64>) -> impl Fn(&Item<'_>) -> Result<usize, Wrong> {
    let number = integer::<u64>(range);
    move |item| number(item).and_then(|n| usize::try_from(n).map_err(|_| Wrong::expected("a smaller number")))
}

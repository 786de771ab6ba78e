//! `[[registry.rule]]`: what is decided about a request without a person.
//!
//! INVARIANT: a rule that grants names a network, a listener or a kind of key: never everybody, and never who only claims a name.

use std::time::Duration;

use super::model::{Config, KeyAlgorithm, Listener, RegistryRule, RuleAction, RuleGrant};
use super::people::{permissions, publish_prefix};
use super::reader::{Item, Report, Section, Wrong, boolean, duration, integer, nearest, one_of, parsed, text};
use super::units::format_duration;
use crate::access::{Network, RoleName, UsernamePattern};

/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

/// Users of one rule unless it says.
const LIMIT: usize = 10_000;

/// Keys that say what is granted.
const OF_A_GRANT: [&str; 6] = ["roles", "permissions", "publish_prefix", "validity", "while_locked", "limit"];

/// Every rule of the file.
pub(super) fn read(registry: &Section<'_>) -> Vec<RegistryRule> {
    let mut rules: Vec<RegistryRule> = Vec::new();
    for section in registry.sections("rule") {
        rules.extend(rule(&section, &rules));
    }
    rules
}

/// What shows beside the listeners and the CA. For a file without other problems: then every rule is at its place in the list.
pub(super) fn check(report: &Report<'_>, config: &Config, listeners: &[(String, Listener)]) {
    let known = || listeners.iter().map(|(_, listener)| listener.name.as_str()).chain(config.api_listener());
    // A device renews at two thirds of a life, and a user may have a new certificate in each 180th part of `ca.validity`.
    let shortest = config.ca.validity / 90;
    for (index, rule) in config.registry.rules.iter().enumerate() {
        let full = |key: &str| format!("registry.rule[{index}].{key}");
        if let Some(name) = rule.listener.as_deref().filter(|name| !known().any(|known| known == *name)) {
            let names = || known().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let advice = nearest(name, known())
                .map_or_else(|| format!("write one of {}", names()), |near| format!("write \"{near}\""));
            report.key(&full("listener"), format!("there is no listener \"{name}\""), advice);
        }
        if let RuleAction::Grant(RuleGrant { validity: Some(validity), .. }) = &rule.action
            && *validity < shortest
        {
            let found = format!("a certificate of {} could not be renewed in time", format_duration(*validity));
            let advice = format!("write at least \"{}\", a 90th part of `ca.validity`", format_duration(shortest));
            report.key(&full("validity"), found, advice);
        }
    }
}

fn rule(section: &Section<'_>, earlier: &[RegistryRule]) -> Option<RegistryRule> {
    let report = section.report;
    section.require("action", "\"deny\"");
    let grants = section.get("action", one_of(&[("grant", true), ("deny", false)]));
    let name = section.get("name", name).unwrap_or_else(|| format!("rule-{}", earlier.len() + 1));
    if earlier.iter().any(|rule| rule.name == name) {
        let key = section.full("name");
        let place = if report.place(&key).is_some() { key } else { section.path.clone() };
        report.key(&place, format!("there is a rule \"{name}\" above"), "give one of the two another name");
    }
    let source = section.list("source", |item| parsed::<Network>(item, "a network such as \"10.0.0.0/8\""));
    let listener = section.get("listener", text);
    let kinds = &[
        ("p256", KeyAlgorithm::P256),
        ("p384", KeyAlgorithm::P384),
        ("ed25519", KeyAlgorithm::Ed25519),
        ("rsa", KeyAlgorithm::Rsa),
    ];
    let key = section.list("key", one_of(kinds));
    let username = section.get("username", |item| {
        UsernamePattern::try_from(text(item)?)
            .map_err(|_| Wrong::expected("a pattern of letters, digits, `._:@-` and `*`, as in \"line3-*\""))
    });
    let grant = grant(section);
    let reason = section.get("reason", reason);
    section.finish();
    let action = if grants? {
        if reason.is_some() {
            report.key(&section.full("reason"), "a rule that grants gives no reason", "remove it");
        }
        check_grant(section, &source, listener.as_deref(), &key, grant.while_locked);
        RuleAction::Grant(grant)
    } else {
        for key in OF_A_GRANT.iter().map(|key| section.full(key)).filter(|key| report.place(key).is_some()) {
            report.key(&key, format!("`{key}` says what is granted, and this rule denies"), "remove it");
        }
        if source.is_empty() && listener.is_none() && key.is_empty() && username.is_none() {
            let found = format!("`{}` denies every request", section.path);
            report.key(&section.path, found, "name what it denies: `source`, `listener`, `key` or `username`");
        }
        RuleAction::Deny { reason: reason.unwrap_or_default() }
    };
    Some(RegistryRule { name, source, listener, key, username, action })
}

fn grant(section: &Section<'_>) -> RuleGrant {
    RuleGrant {
        roles: section.list("roles", |item| parsed::<RoleName>(item, "1 to 64 letters, digits or `._:@-`")),
        permissions: permissions(section),
        publish_prefix: section.get("publish_prefix", publish_prefix),
        validity: section.get("validity", duration(Duration::from_hours(1)..=Duration::from_hours(24 * 3650))),
        while_locked: section.get("while_locked", boolean).unwrap_or(false),
        limit: section
            .get("limit", integer::<u64>(1..=1_000_000))
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(LIMIT),
    }
}

/// Whom does it let in? Never everybody.
fn check_grant(
    section: &Section<'_>,
    source: &[Network],
    listener: Option<&str>,
    key: &[KeyAlgorithm],
    while_locked: bool,
) {
    let report = section.report;
    if Network::hold_everything(source) {
        let found = "this is everybody, and a rule that grants must not be for everybody";
        report.key(&section.full("source"), found, "name the network that the devices are in, as in \"10.0.0.0/8\"");
        return;
    }
    let named = !source.is_empty() || listener.is_some();
    // What is wrong with a condition is told already; it is not missing. An empty list says nothing.
    let written = |key: &str| report.place(&section.full(key)).is_some();
    let tried = written("source[0]") || written("listener");
    if !named && !tried && key.is_empty() && !written("key[0]") {
        let whom = if written("username") { "whoever claims a name" } else { "everybody" };
        let advice = "add `source = [\"10.0.0.0/8\"]`, `listener = \"...\"` or `key = [\"p256\"]`: a name is no proof";
        report.key(&section.path, format!("`{}` grants to {whom}", section.path), advice);
    } else if !named && !tried && while_locked {
        let found = "a kind of key is something that everybody can have, and this rule opens the registry to it";
        let advice = "add `source` or `listener`, or remove `while_locked`";
        report.key(&section.full("while_locked"), found, advice);
    } else if !named && !tried {
        let found = format!("while the registry is unlocked, `{}` grants to whoever makes such a key", section.path);
        report.warn(&section.path, found, "add `source` or `listener` unless `registry unlock` is always narrow");
    } else if source.is_empty() && listener.is_some() && while_locked {
        let found =
            format!("`{}` grants to whoever reaches the listener, also while the registry is locked", section.path);
        report.warn(
            &section.full("while_locked"),
            found,
            "add `source` unless nobody but the devices can reach that listener",
        );
    }
}

fn name(item: &Item<'_>) -> Result<String, Wrong> {
    let name = text(item)?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=64).contains(&name.len()) && name.chars().all(valid) {
        Ok(name)
    } else {
        Err(Wrong::expected("1 to 64 letters, digits, `-` or `_`"))
    }
}

fn reason(item: &Item<'_>) -> Result<String, Wrong> {
    let reason = text(item)?;
    if reason.len() <= MAX_REASON { Ok(reason) } else { Err(Wrong::expected("at most 1024 bytes of text")) }
}

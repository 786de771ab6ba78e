//! The list `[[listener]]`, and what its members may not be together.

use std::net::SocketAddr;

use toml::de::DeValue;

use super::model::{ClientCertificate, Config, ConfiguredUser, Listener, Protocol};
use super::reader::{Item, Report, Section, Wrong, boolean, one_of, parsed, socket_address, text};
use crate::access::{Auth, Username};

/// The listeners of the file, each with its place there, or the default ones when it names none.
pub(super) fn read(root: &Section<'_>, config: &Config) -> Vec<(String, Listener)> {
    let sections = root.sections("listener");
    let others =
        [("metrics are", "metrics.bind", config.metrics.bind), ("the REST API is", "admin.bind", config.admin.bind)];
    if let (Some(metrics), Some(admin)) = (config.metrics.bind, config.admin.bind)
        && overlap(metrics, admin)
    {
        let found = format!("metrics are served on {metrics} (`metrics.bind`)");
        root.report.key("admin.bind", found, "give one of the two another port");
    }
    let mut listeners: Vec<(String, Listener)> = Vec::new();
    for section in &sections {
        if let Some(listener) = listener(section) {
            conflicts(section, &listener, &listeners, &others);
            listeners.push((section.path.clone(), listener));
        }
    }
    if root.report.place("listener").is_some() {
        if sections.is_empty() {
            root.report.key(
                "listener",
                "there is no listener",
                "name one, or leave `listener` out for the default ones",
            );
        }
        listeners
    } else {
        Listener::defaults().into_iter().map(|listener| (String::new(), listener)).collect()
    }
}

/// What is wrong in one listener alone; `None` when it has no name or address to go by.
fn listener(section: &Section<'_>) -> Option<Listener> {
    let report = section.report;
    section.require("name", "\"mqtts\"");
    section.require("bind", "\"0.0.0.0:8883\"");
    let name = section.get("name", name);
    let bind = section.get("bind", socket_address);
    let protocol = protocol(section);
    let https = protocol == Protocol::Https;
    let tls = section.get("tls", boolean).unwrap_or(https);
    let choices = &[
        ("off", ClientCertificate::Off),
        ("optional", ClientCertificate::Optional),
        ("required", ClientCertificate::Required),
    ];
    let client_certificate = section.get("client_certificate", one_of(choices)).unwrap_or_default();
    let registration = section.get("registration", boolean).unwrap_or(false);
    let anonymous = section.get("anonymous", |item| parsed::<Username>(item, "the name of a user of this file"));
    for key in ["path", "origins"] {
        section.not_yet(key, "it belongs to the protocol \"websocket\", which comes later: leave it out");
    }
    section.finish();

    let key = |key: &str| section.full(key);
    let bind = bind?;
    if https {
        check_https(section, tls, client_certificate, registration, anonymous.as_ref());
        return Some(Listener { name: name?, bind, protocol, tls, client_certificate, registration, anonymous });
    }
    if client_certificate != ClientCertificate::Off && !tls {
        let found = "client certificates are part of TLS, and this listener has none";
        report.key(&key("client_certificate"), found, "add `tls = true`, or leave `client_certificate` out");
    }
    if registration && !tls && !bind.ip().is_loopback() {
        let found = format!("`registration` without TLS on {bind} would show enrolment to the network");
        report.key(&key("registration"), found, "add `tls = true`, or bind it to 127.0.0.1");
    }
    if registration && client_certificate == ClientCertificate::Required {
        let found = "a device that enrols has no certificate yet, and this listener requires one";
        report.key(&key("registration"), found, "write `client_certificate = \"optional\"`, or `registration = false`");
    }
    if anonymous.is_some() && registration {
        let found = "a client without credentials cannot both enrol and be the anonymous user";
        report.key(&key("anonymous"), found, "remove `anonymous`, or write `registration = false`");
    }
    if anonymous.is_some() && client_certificate == ClientCertificate::Required {
        let found = "a listener that requires a certificate has no anonymous clients";
        report.key(&key("anonymous"), found, "remove `anonymous`, or write `client_certificate = \"optional\"`");
    }
    if !tls && !bind.ip().is_loopback() {
        let found = format!("passwords and messages cross the network in the clear on {bind}");
        report.warn(&key("bind"), found, "add `tls = true` unless the network itself is trusted");
    }
    if anonymous.is_some() && !bind.ip().is_loopback() {
        let found = format!("clients without credentials are admitted on {bind}");
        report.warn(&key("anonymous"), found, "bind it to 127.0.0.1 unless everybody in reach may be this user");
    }
    Some(Listener { name: name?, bind, protocol, tls, client_certificate, registration, anonymous })
}

fn protocol(section: &Section<'_>) -> Protocol {
    let Some(item) = section.item("protocol") else { return Protocol::default() };
    if matches!(item.value, DeValue::String(text) if text == "websocket") {
        let found = format!("`{} = \"websocket\"` is not available yet", item.key);
        section.report.at(Some(item.span), found, "write \"mqtt\" or leave the key out");
        return Protocol::default();
    }
    section.get("protocol", one_of(&[("mqtt", Protocol::Mqtt), ("https", Protocol::Https)])).unwrap_or_default()
}

/// Such a listener is for devices that have nothing yet.
fn check_https(
    section: &Section<'_>,
    tls: bool,
    client_certificate: ClientCertificate,
    registration: bool,
    anonymous: Option<&Username>,
) {
    let key = |key: &str| section.full(key);
    let report = section.report;
    if !tls {
        report.key(&key("tls"), "the protocol \"https\" is TLS", "write `tls = true`, or leave the key out");
    }
    if !registration {
        let found = "a listener with the protocol \"https\" serves enrolment, and nothing else";
        report.key(&key("protocol"), found, "add `registration = true`; for the REST API write `bind` in `[admin]`");
    }
    if client_certificate != ClientCertificate::Off {
        let found = "a device that enrols over HTTPS has no certificate yet";
        report.key(&key("client_certificate"), found, "leave it out");
    }
    if anonymous.is_some() {
        let found = "a listener with the protocol \"https\" has no users";
        report.key(&key("anonymous"), found, "remove `anonymous`");
    }
}

fn name(item: &Item<'_>) -> Result<String, Wrong> {
    let name = text(item)?;
    if name == "admin" {
        return Err(Wrong::expected("another name: \"admin\" is the listener of the REST API"));
    }
    let fits = (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if fits { Ok(name) } else { Err(Wrong::expected("1 to 32 letters, digits, `_` or `-`")) }
}

/// Two of one name, or two that want the same port; `others` are what else listens, and the key that says where.
fn conflicts(
    section: &Section<'_>,
    listener: &Listener,
    before: &[(String, Listener)],
    others: &[(&str, &str, Option<SocketAddr>)],
) {
    let report = section.report;
    let line = |path: &str, key: &str| report.line(&format!("{path}.{key}"));
    for (path, other) in before {
        if other.name == listener.name {
            let found =
                format!("the listener of line {} has the name \"{}\" already", line(path, "name"), listener.name);
            report.key(&section.full("name"), found, "give each listener a name of its own");
        }
        if overlap(other.bind, listener.bind) {
            let found = format!("the listener of line {} has {} already", line(path, "bind"), other.bind);
            report.key(&section.full("bind"), found, "give each listener an address or a port of its own");
        }
    }
    for (what, key, address) in others {
        if address.is_some_and(|address| overlap(address, listener.bind)) {
            let found = format!("{what} served on {} (`{key}`)", listener.bind);
            report.key(&section.full("bind"), found, "give one of the two another port");
        }
    }
}

/// Can the two not be bound together? The unspecified address takes its port on every address.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    one.port() != 0 && one.port() == two.port() && (one.ip() == two.ip() || covers(one, two) || covers(two, one))
}

/// `anonymous` names a user of the file that can never log in, and no other user is without a proof.
pub(super) fn check_anonymous(
    report: &Report<'_>,
    listeners: &[(String, Listener)],
    users: &[(String, ConfiguredUser)],
) {
    for (path, listener) in listeners {
        let Some(name) = &listener.anonymous else { continue };
        let key = format!("{path}.anonymous");
        match users.iter().find(|(_, user)| user.username == *name) {
            None => {
                let found = format!("this file has no user \"{name}\"");
                let advice = format!("add `[[user]]` with `username = \"{name}\"` and `auth = \"none\"`");
                report.key(&key, found, advice);
            }
            Some((_, user)) if user.auth != Auth::None => {
                let found =
                    format!("the user \"{name}\" can log in, so it cannot stand for clients without credentials");
                report.key(
                    &key,
                    found,
                    format!("write `auth = \"none\"` in the user \"{name}\", or name another user"),
                );
            }
            Some(_) => {}
        }
    }
    for (path, user) in users {
        let named = listeners.iter().any(|(_, listener)| listener.anonymous.as_ref() == Some(&user.username));
        if user.auth == Auth::None && !named {
            let found =
                format!("the user \"{}\" has no proof to give and no listener names it in `anonymous`", user.username);
            report.key(&format!("{path}.auth"), found, "write another `auth`, or name the user in a listener");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn addresses_that_the_system_would_not_bind_together_overlap() {
        let address = |text: &str| text.parse().unwrap();
        for (one, two, expected) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", true),
            ("0.0.0.0:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "127.0.0.1:1883", true),
            ("[::]:1883", "[::1]:1883", true),
            ("0.0.0.0:1883", "[::1]:1883", false),
            ("127.0.0.1:1883", "127.0.0.2:1883", false),
            ("127.0.0.1:1883", "127.0.0.1:1884", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(overlap(address(one), address(two)), expected, "{one} {two}");
            assert_eq!(overlap(address(two), address(one)), expected, "{two} {one}");
        }
    }
}

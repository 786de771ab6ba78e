//! The brokers under test, with the people of a scenario, and what an administrator can do to them.
//!
//! In: which broker, which people and roles. Out: a running process and an [`Admin`]. Both brokers get the same users,
//! passwords and rights, each in the way that its manual recommends for changing them while it runs.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::pbkdf2;
use rustls::RootCertStore;
use serde_json::{Value, json};

use crate::admin::{Control, Rest};
use crate::certificates;
use crate::process::{Process, absolute, free_port};

type Result<T> = std::result::Result<T, String>;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    Portcullis,
    /// mosquitto with the dynamic-security plugin; rules are changed with `modifyRole`.
    MosquittoModify,
    /// The same, but rules are changed with `removeRoleACL` and `addRoleACL`.
    MosquittoRemove,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::MosquittoModify => "mosquitto, modifyRole",
            Self::MosquittoRemove => "mosquitto, removeRoleACL",
        }
    }
}

/// How passwords are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// As little as each broker admits: where passwords are not the subject.
    Least,
    /// What each broker does by default. Ours: argon2id, 19 MiB, two passes. mosquitto: PBKDF2-SHA512, 101 rounds.
    Default,
}

/// A user.
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) roles: &'static [&'static str],
    /// Belongs to broker.toml with a hash of the least cost, whatever the others cost: a fleet whose first login is not
    /// what is measured. It cannot be changed while the broker runs.
    pub(crate) fixed: bool,
}

impl Person {
    pub(crate) fn new(name: String, roles: &'static [&'static str]) -> Self {
        Self { password: format!("a secret of {name}"), name, roles, fixed: false }
    }
}

/// A role: its name, the filters that its holders may read, those that they may write.
pub(crate) type Rights = (&'static str, &'static [&'static str], &'static [&'static str]);

/// What to start.
pub(crate) struct Plan<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) cost: Cost,
    pub(crate) roles: &'a [Rights],
    pub(crate) people: &'a [Person],
}

pub(crate) struct Programs {
    pub(crate) portcullis: PathBuf,
    pub(crate) mosquitto: PathBuf,
    pub(crate) plugin: PathBuf,
    /// `[store] durability` of this broker.
    pub(crate) durability: String,
}

pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS.
    pub(crate) tls: SocketAddr,
    /// Whom its clients trust.
    pub(crate) roots: RootCertStore,
    pub(crate) admin: Admin,
}

pub(crate) enum Admin {
    Rest(Rest),
    Control { control: Control, modify: bool },
}

impl Plan<'_> {
    pub(crate) fn start(&self, subject: Subject) -> Result<Broker> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().map_err(|error| error.to_string())?));
        let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().map_err(|error| error.to_string())?));
        let path = directory.path().to_owned();
        let roots = certificates::make(&path)?;
        let written = |what: std::io::Result<()>| what.map_err(|error| error.to_string());
        let mut command;
        if subject == Subject::Portcullis {
            written(fs::write(path.join("broker.toml"), self.toml(address.port(), tls.port())?))?;
            command = Command::new(absolute(&self.programs.portcullis));
            command.arg("serve").arg("--config").arg(path.join("broker.toml"));
        } else {
            written(fs::write(path.join("mosquitto.conf"), self.conf(address.port(), tls.port(), &path)))?;
            written(fs::write(path.join("security.json"), self.security().to_string()))?;
            command = Command::new(absolute(&self.programs.mosquitto));
            command.arg("-c").arg(path.join("mosquitto.conf"));
        }
        let process =
            Process::start(subject.name(), command, directory, &[address, tls]).map_err(|error| error.to_string())?;
        let admin = match subject {
            Subject::Portcullis => {
                let mut rest = Rest::wait_for(&path.join("data/admin.sock"))?;
                self.populate(&mut rest)?;
                Admin::Rest(rest)
            }
            Subject::MosquittoModify | Subject::MosquittoRemove => Admin::Control {
                control: Control::open(address, "control", ("admin", "admin"))?,
                modify: subject == Subject::MosquittoModify,
            },
        };
        Ok(Broker { process, address, tls, roots, admin })
    }

    /// broker.toml for this broker.
    pub(crate) fn toml(&self, port: u16, tls: u16) -> Result<String> {
        let argon2 = match self.cost {
            Cost::Least => "[password]\nargon2 = { memory_kib = 8, iterations = 1, parallelism = 1 }\n",
            Cost::Default => "",
        };
        let mut text = format!(
            "[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:{port}\"\n\n\
             [[listener]]\nname = \"tls\"\nbind = \"127.0.0.1:{tls}\"\ntls = true\nregistration = true\n\
             client_certificate = \"optional\"\n\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\n\
             [ca]\ncertificate = \"ca.pem\"\nkey = \"ca.key\"\n\n[registry]\nrequests_per_minute = 100000\n\n\
             [limits]\nconnections_per_address = 100000\n\
             \n[store]\ndurability = \"{}\"\n\n[metrics]\nbind = \"off\"\n\n[admin]\nbind = \"off\"\n\n[log]\nlevel = \"error\"\n\n{argon2}",
            self.programs.durability,
        );
        let hasher = Params::new(8, 1, 1, None).map_err(|error| error.to_string())?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, hasher);
        let mut roles = Vec::new();
        for person in self.people.iter().filter(|person| person.fixed) {
            roles.extend(person.roles);
            let hash = hasher.hash_password(person.password.as_bytes()).map_err(|error| error.to_string())?;
            let Person { name, roles, .. } = person;
            writeln!(text, "[[user]]\nusername = \"{name}\"\npassword_hash = \"{hash}\"\nroles = {roles:?}\n")
                .map_err(|error| error.to_string())?;
        }
        for role in self.roles.iter().filter(|(name, ..)| roles.contains(name)) {
            let permissions = permissions(role).as_array().cloned().unwrap_or_default();
            let permissions: Vec<String> = permissions
                .iter()
                .map(|rule| {
                    format!(
                        "{{ context = \"mqtt\", operation = {}, resource = {} }}",
                        rule["operation"], rule["resource"]
                    )
                })
                .collect();
            writeln!(text, "[[role]]\nname = \"{}\"\npermissions = [{}]\n", role.0, permissions.join(", "))
                .map_err(|error| error.to_string())?;
        }
        Ok(text)
    }

    /// Makes roles and users through the API, the users over several connections: commits share their `fsync`.
    pub(crate) fn populate(&self, rest: &mut Rest) -> Result<()> {
        let fixed: Vec<&str> = self.people.iter().filter(|who| who.fixed).flat_map(|who| who.roles).copied().collect();
        for role in self.roles.iter().filter(|(name, ..)| !fixed.contains(name)) {
            rest.call("POST", "/api/roles", Some(&json!({ "name": role.0, "permissions": permissions(role) })))?;
        }
        let people: Vec<&Person> = self.people.iter().filter(|person| !person.fixed).collect();
        let share = people.len().div_ceil(8).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = people
                .chunks(share)
                .map(|people| {
                    let rest = rest.another();
                    scope.spawn(move || {
                        let mut rest = rest?;
                        for Person { name, password, roles, .. } in people {
                            let user = json!({ "username": name, "password": password, "roles": roles });
                            rest.call("POST", "/api/users", Some(&user))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
        })
    }

    fn conf(&self, port: u16, tls: u16, path: &Path) -> String {
        // `user root` keeps it from giving up the rights to its files when the driver runs as root.
        format!(
            "user root\nlistener {port} 127.0.0.1\nlistener {tls} 127.0.0.1\ncafile {own}/ca.pem\n\
             certfile {own}/server.pem\nkeyfile {own}/server.key\nallow_anonymous false\n\
             plugin {}\nplugin_opt_config_file {own}/security.json\n\
             persistence false\nmax_inflight_messages 100\nmax_queued_messages 10000\nmax_queued_bytes 0\n\
             set_tcp_nodelay true\nlog_dest stderr\nlog_type error\n",
            self.programs.plugin.display(),
            own = path.display(),
        )
    }

    /// The plugin's file. Everything is denied by default, as it is here.
    fn security(&self) -> Value {
        let client = |name: &str, password: &str, roles: Vec<Value>| {
            let salt = b"twelve bytes";
            let mut hash = [0; 64];
            let rounds = std::num::NonZeroU32::MIN.saturating_add(100);
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, password.as_bytes(), &mut hash);
            json!({
                "username": name, "password": base64(&hash), "salt": base64(salt), "iterations": rounds, "roles": roles,
            })
        };
        let named = |name: &&str| json!({ "rolename": name });
        let mut clients = vec![client("admin", "admin", vec![json!({ "rolename": "admin" })])];
        clients.extend(
            self.people
                .iter()
                .map(|person| client(&person.name, &person.password, person.roles.iter().map(named).collect())),
        );
        let mut roles = vec![json!({ "rolename": "admin", "acls": acls(&("", &["$CONTROL/#"], &["$CONTROL/#"])) })];
        roles.extend(self.roles.iter().map(|role| json!({ "rolename": role.0, "acls": acls(role) })));
        json!({
            "defaultACLAccess": {
                "publishClientSend": false, "publishClientReceive": false, "subscribe": false, "unsubscribe": true,
            },
            "clients": clients,
            "groups": [],
            "roles": roles,
        })
    }
}

impl Admin {
    /// Takes from a role all its rights.
    pub(crate) fn revoke(&mut self, role: &Rights) -> Result<()> {
        self.set_rights(role, false)
    }

    /// Gives them back.
    pub(crate) fn restore(&mut self, role: &Rights) -> Result<()> {
        self.set_rights(role, true)
    }

    fn set_rights(&mut self, role: &Rights, granted: bool) -> Result<()> {
        match self {
            Self::Rest(rest) => {
                let path = format!("/api/roles/{}", role.0);
                let version = rest.call("GET", &path, None)?["version"].clone();
                let permissions = if granted { permissions(role) } else { json!([]) };
                rest.call("PUT", &path, Some(&json!({ "version": version, "permissions": permissions }))).map(drop)
            }
            Self::Control { control, modify: true } => {
                let acls = if granted { acls(role) } else { json!([]) };
                control.call(&[json!({ "command": "modifyRole", "rolename": role.0, "acls": acls })])
            }
            Self::Control { control, modify: false } => {
                let command = if granted { "addRoleACL" } else { "removeRoleACL" };
                let rules = acls(role).as_array().cloned().unwrap_or_default();
                let commands: Vec<Value> = rules
                    .into_iter()
                    .map(|mut rule| {
                        rule["command"] = command.into();
                        rule["rolename"] = role.0.into();
                        rule
                    })
                    .collect();
                control.call(&commands)
            }
        }
    }

    pub(crate) fn disable(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Rest(rest) => rest.call("POST", &format!("/api/users/{name}/disable"), None).map(drop),
            Self::Control { control, .. } => control.call(&[json!({ "command": "disableClient", "username": name })]),
        }
    }

    /// What a change of this user has to name.
    pub(crate) fn version(&mut self, name: &str) -> Result<Value> {
        match self {
            Self::Rest(rest) => Ok(rest.call("GET", &format!("/api/users/{name}"), None)?["version"].clone()),
            Self::Control { .. } => Ok(Value::Null),
        }
    }

    pub(crate) fn delete(&mut self, name: &str, version: &Value) -> Result<()> {
        match self {
            Self::Rest(rest) => rest.call("DELETE", &format!("/api/users/{name}?version={version}"), None).map(drop),
            Self::Control { control, .. } => control.call(&[json!({ "command": "deleteClient", "username": name })]),
        }
    }

    pub(crate) fn set_password(&mut self, name: &str, password: &str, version: &Value) -> Result<()> {
        match self {
            Self::Rest(rest) => {
                let body = json!({ "version": version, "password": password });
                rest.call("PUT", &format!("/api/users/{name}/password"), Some(&body)).map(drop)
            }
            Self::Control { control, .. } => {
                let command = "setClientPassword";
                control.call(&[json!({ "command": command, "username": name, "password": password })])
            }
        }
    }

    /// Takes its only role from a user.
    pub(crate) fn take_role(&mut self, name: &str, role: &str, version: &Value) -> Result<()> {
        match self {
            Self::Rest(rest) => {
                let body = json!({ "version": version, "roles": [] });
                rest.call("PATCH", &format!("/api/users/{name}"), Some(&body)).map(drop)
            }
            Self::Control { control, .. } => {
                control.call(&[json!({ "command": "removeClientRole", "username": name, "rolename": role })])
            }
        }
    }

    /// A change of a user that changes nothing for it: a word of its description.
    pub(crate) fn touch(&mut self, name: &str) -> Result<()> {
        let version = self.version(name)?;
        match self {
            Self::Rest(rest) => {
                let body = json!({ "version": version, "description": "x" });
                rest.call("PATCH", &format!("/api/users/{name}"), Some(&body)).map(drop)
            }
            Self::Control { control, .. } => {
                control.call(&[json!({ "command": "modifyClient", "username": name, "textdescription": "x" })])
            }
        }
    }
}

fn permissions((_, read, write): &Rights) -> Value {
    let rule =
        |operation: &str, resource: &str| json!({ "context": "mqtt", "operation": operation, "resource": resource });
    let read = read.iter().map(|filter| rule("read", filter));
    read.chain(write.iter().map(|filter| rule("write", filter))).collect()
}

fn acls((_, read, write): &Rights) -> Value {
    let rule = |kind: &str, topic: &str| json!({ "acltype": kind, "topic": topic, "priority": 0, "allow": true });
    let read = read.iter().flat_map(|filter| [rule("publishClientReceive", filter), rule("subscribePattern", filter)]);
    read.chain(write.iter().map(|filter| rule("publishClientSend", filter))).collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let sextet = bits >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

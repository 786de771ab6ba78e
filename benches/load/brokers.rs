//! The brokers that are measured, as child processes.
//!
//! In: the kind of broker, where its program lies, and the credentials that all of them get. Out: a process on free
//! loopback ports, with a configuration of its own in a temporary directory, both gone when the value is dropped.
//! It never touches a broker that it did not start.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, Version};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

use crate::process::{self, Process, Result, absolute, free_port};

/// The limits that every broker gets where it has them.
pub(crate) const INFLIGHT: u16 = 100;
pub(crate) const QUEUE_MESSAGES: u32 = 100_000;
const QUEUE_BYTES: &str = "256MiB";
const CONNECTIONS: u32 = 100_000;

/// Of the user table that comes before it: never reached, but there.
const QUOTA: &str = r#"[user.quota]
connections = 100000
sessions = 100000
subscriptions = 100000
publish_messages = { per_second = 1000000000 }
publish_bytes = { per_second = "512GiB" }
retained_messages = 100000
retained_bytes = "1GiB"
queue_messages = 100000
queue_bytes = "256MiB"
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Portcullis,
    /// With a quota of every kind for every user, none of which is reached.
    PortcullisQuotas,
    Mosquitto,
    Rumqttd,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::PortcullisQuotas => "portcullis-quotas",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
        }
    }

    /// What the figures of this broker rest on besides the common limits. Printed with them.
    pub(crate) fn notes(self) -> &'static str {
        match self {
            Self::Portcullis => "users with argon2id m=64 KiB t=1 p=1, one role, durability \"memory\"",
            Self::PortcullisQuotas => "the same, with a quota of every kind for every user",
            Self::Mosquitto => {
                "password_file (PBKDF2-SHA512, 101 rounds), acl_file, persistence false, set_tcp_nodelay true"
            }
            Self::Rumqttd => {
                "static password map compared in plain text, no permissions (it has none), max_outgoing_packet_count \
                 200, segments of 100 MB, next_connection_delay_ms 0"
            }
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) portcullis: PathBuf,
    pub(crate) mosquitto: PathBuf,
    pub(crate) rumqttd: PathBuf,
}

impl Programs {
    fn of(&self, kind: Kind) -> &Path {
        match kind {
            Kind::Portcullis | Kind::PortcullisQuotas => &self.portcullis,
            Kind::Mosquitto => &self.mosquitto,
            Kind::Rumqttd => &self.rumqttd,
        }
    }

    /// The version that the program tells, or why it cannot be run.
    pub(crate) fn version(&self, kind: Kind) -> std::result::Result<String, String> {
        let program = self.of(kind);
        // mosquitto has no option for its version: its help begins with it, and ends with an error.
        let option = if kind == Kind::Mosquitto { "-h" } else { "--version" };
        process::version(program, option)
    }
}

/// Users, CA and server certificate, made once for a run and given to every broker.
pub(crate) struct Setup {
    directory: tempfile::TempDir,
    programs: Programs,
    users: usize,
    /// A `[[user]]` table for each, with a hashed password.
    user_tables: Vec<String>,
    pub(crate) tls: Arc<rustls::ClientConfig>,
}

/// The credentials of the n-th user.
pub(crate) fn login(user: usize) -> (String, String) {
    (format!("load-{user:04}"), format!("load-secret-{user:04}"))
}

impl Setup {
    pub(crate) fn new(programs: Programs, users: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();

        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "load driver CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(path.join("ca.pem"), authority.pem())?;
        fs::write(path.join("ca.key"), authority.key().serialize_pem())?;
        let key = KeyPair::generate()?;
        let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        fs::write(path.join("server.pem"), server.signed_by(&key, &authority)?.pem())?;
        fs::write(path.join("server.key"), key.serialize_pem())?;

        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(authority.der().to_vec()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each connection is a full handshake: what a fleet costs that has not been here before.
        tls.resumption = rustls::client::Resumption::disabled();

        let mut plain = String::new();
        let mut rights = String::new();
        let mut user_tables = Vec::new();
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None)?);
        for user in 0..users {
            let (name, password) = login(user);
            writeln!(plain, "{name}:{password}")?;
            writeln!(rights, "user {name}\ntopic readwrite load/#\n")?;
            let hash = hasher.hash_password(password.as_bytes())?;
            user_tables
                .push(format!("[[user]]\nusername = \"{name}\"\npassword_hash = \"{hash}\"\nroles = [\"load\"]\n"));
        }
        fs::write(path.join("users"), &plain)?;
        fs::write(path.join("acl"), rights)?;
        Ok(Self { directory, programs, users, user_tables, tls: Arc::new(tls) })
    }

    pub(crate) fn users(&self) -> usize {
        self.users
    }

    /// mosquitto's password file is made by its own tool, as its format is nobody else's business.
    fn mosquitto_passwords(&self) -> Result<PathBuf> {
        let passwords = self.directory.path().join("mosquitto-users");
        if !passwords.exists() {
            fs::copy(self.directory.path().join("users"), &passwords)?;
            let made = Command::new("mosquitto_passwd").arg("-U").arg(&passwords).stdin(Stdio::null()).status()?;
            if !made.success() {
                return Err("`mosquitto_passwd -U` failed".into());
            }
        }
        Ok(passwords)
    }

    /// Starts a broker and waits until both its listeners answer.
    pub(crate) fn start(&self, kind: Kind) -> Result<Broker> {
        let directory = tempfile::tempdir()?;
        let ports = Ports { plain: free_port()?, tls: free_port()?, metrics: free_port()? };
        let mut command = Command::new(absolute(self.programs.of(kind)));
        let configuration = directory.path().join("configuration");
        match kind {
            Kind::Portcullis | Kind::PortcullisQuotas => {
                let quotas = kind == Kind::PortcullisQuotas;
                fs::write(&configuration, self.portcullis(&ports, directory.path(), quotas))?;
                command.arg("serve").arg("--config").arg(&configuration);
            }
            Kind::Mosquitto => {
                fs::write(&configuration, self.mosquitto(&ports)?)?;
                command.arg("-c").arg(&configuration);
            }
            Kind::Rumqttd => {
                let own = self.directory.path();
                command.args(["--port", &ports.plain.to_string(), "--tls-port", &ports.tls.to_string()]);
                command.args(["--inflight", &INFLIGHT.to_string(), "--connections", &CONNECTIONS.to_string()]);
                command.arg("--certificate").arg(own.join("server.pem")).arg("--key").arg(own.join("server.key"));
                command.arg("--users").arg(own.join("users"));
            }
        }
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (plain, tls) = (address(ports.plain), address(ports.tls));
        let process = Process::start(kind.name(), command, directory, &[plain, tls])?;
        Ok(Broker { process, plain, tls })
    }

    /// broker.toml for this broker.
    fn portcullis(&self, ports: &Ports, directory: &Path, quotas: bool) -> String {
        let users =
            self.user_tables.iter().fold(String::new(), |text, user| text + user + if quotas { QUOTA } else { "" });
        let own = self.directory.path().display();
        let Ports { plain, tls, metrics } = ports;
        format!(
            r#"data_dir = "{data}"

[[listener]]
name = "plain"
bind = "127.0.0.1:{plain}"

[[listener]]
name = "tls"
bind = "127.0.0.1:{tls}"
tls = true
client_certificate = "off"

[tls]
certificate = "{own}/server.pem"
key = "{own}/server.key"

[ca]
certificate = "{own}/ca.pem"
key = "{own}/ca.key"

[limits]
connections = {CONNECTIONS}
connections_per_address = {CONNECTIONS}
inflight = {INFLIGHT}
queue_messages = {QUEUE_MESSAGES}
queue_bytes = "{QUEUE_BYTES}"

[store]
durability = "memory"

[metrics]
bind = "127.0.0.1:{metrics}"

[admin]
bind = "off"

[log]
level = "warn"

[[role]]
name = "load"
permissions = [{{ context = "mqtt", operation = "read_write", resource = "load/#" }}]

{users}"#,
            data = directory.join("data").display(),
        )
    }

    fn mosquitto(&self, ports: &Ports) -> Result<String> {
        let own = self.directory.path().display();
        // `user root` keeps it from giving up the rights to read the files when the driver runs as root.
        Ok(format!(
            "user root\nlistener {plain} 127.0.0.1\nlistener {tls} 127.0.0.1\ncafile {own}/ca.pem\n\
             certfile {own}/server.pem\nkeyfile {own}/server.key\nallow_anonymous false\npassword_file {passwords}\n\
             acl_file {own}/acl\npersistence false\nmax_inflight_messages {INFLIGHT}\n\
             max_queued_messages {QUEUE_MESSAGES}\nmax_queued_bytes 0\nset_tcp_nodelay true\n\
             log_dest stderr\nlog_type error\nlog_type warning\n",
            plain = ports.plain,
            tls = ports.tls,
            passwords = self.mosquitto_passwords()?.display(),
        ))
    }
}

struct Ports {
    plain: u16,
    tls: u16,
    metrics: u16,
}

/// A running broker. Dropping it kills the process.
pub(crate) struct Broker {
    process: Process,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Broker {
    pub(crate) fn process(&self) -> String {
        self.process.id()
    }

    /// The end of what the broker wrote.
    pub(crate) fn last_words(&self) -> String {
        self.process.last_words()
    }

    /// How the process ended, when it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.process.ended()
    }
}

//! A broker of its own for each test: loopback, ports that the system chooses, nothing kept on disk but certificates.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use portcullis::{
    access::{Context, Operation, Permission, Role, User, UserId},
    authn::{Argon2Parameters, PasswordHash},
    broker::{Broker, BrokerHandle},
    clock::{Clock, ManualClock, SystemClock},
    config::Config,
    directory::{Actor, Directory, Expected, NewUser},
    mqtt::{ConnAck, Connect, ProtocolVersion, ReasonCode},
};
use tempfile::TempDir;

use crate::client::{Client, connect};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// The user that may do everything below `$`-free topics; made in every harness.
pub(crate) const TESTER: &str = "tester";

const IN_MEMORY: &str = "[store]\ndurability = \"memory\"\n";

const ON_DISK: &str = "[store]\ndurability = \"interval\"\n";

const COMMON: &str = r"
[password]
argon2 = { memory_kib = 8, iterations = 1, parallelism = 1 }
";

const UNMEASURED: &str = "[metrics]\nbind = \"off\"\n[admin]\nbind = \"off\"\n";

const MEASURED: &str = "[metrics]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"off\"\n";

const REST: &str = "[metrics]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n";

/// On loopback, without TLS.
pub(crate) const PLAIN_LISTENER: &str = r#"
[[listener]]
name = "plain"
bind = "127.0.0.1:0"
"#;

/// Over TLS, with a client certificate or without; devices enrol here.
pub(crate) const TLS_LISTENER: &str = r#"
[[listener]]
name = "tls"
bind = "127.0.0.1:0"
tls = true
client_certificate = "optional"
registration = true
"#;

/// Over TLS, with a client certificate.
pub(crate) const STRICT_LISTENER: &str = r#"
[[listener]]
name = "strict"
bind = "127.0.0.1:0"
tls = true
client_certificate = "required"
"#;

/// On loopback, without TLS, for guests; and the guest, who may do nothing but for what is added behind.
pub(crate) const GUESTS: &str = r#"
[[listener]]
name = "open"
bind = "127.0.0.1:0"
anonymous = "guest"
[[user]]
username = "guest"
auth = "none"
"#;

pub(crate) struct Harness {
    pub(crate) broker: Broker,
    pub(crate) directory: TempDir,
}

impl Harness {
    /// A broker with one plaintext listener, `plain`, and the user [`TESTER`].
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with_listeners(&format!("{PLAIN_LISTENER}{config}")).await
    }

    /// As [`Harness::start`], with the listeners that `config` names.
    pub(crate) async fn start_with_listeners(config: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), config).await
    }

    /// As [`Harness::start_with_listeners`], in a directory with the files that `config` refers to.
    pub(crate) async fn start_in(directory: TempDir, config: &str) -> Self {
        Self::start_with_clock(directory, config, Arc::new(SystemClock)).await
    }

    /// As [`Harness::start`], by another clock.
    pub(crate) async fn start_by(clock: impl Clock + 'static, config: &str) -> Self {
        Self::start_with_clock(TempDir::new().unwrap(), &format!("{PLAIN_LISTENER}{config}"), Arc::new(clock)).await
    }

    /// As [`Harness::start`], by a clock that the test moves.
    pub(crate) async fn start_at(clock: &ManualClock, config: &str) -> Self {
        Self::start_by(clock.clone(), config).await
    }

    /// As [`Harness::start`], with a metrics endpoint.
    pub(crate) async fn start_measured(directory: TempDir) -> Self {
        Self::start_as(directory, &format!("{IN_MEMORY}{COMMON}{MEASURED}{PLAIN_LISTENER}"), Arc::new(SystemClock))
            .await
    }

    /// As [`Harness::start`], with the REST API and metrics; `config` goes on in the section `[admin]`.
    pub(crate) async fn start_rest(config: &str) -> Self {
        Self::start_rest_by(SystemClock, config).await
    }

    /// As [`Harness::start_rest`], by another clock.
    pub(crate) async fn start_rest_by(clock: impl Clock + 'static, config: &str) -> Self {
        Self::start_rest_with(TempDir::new().unwrap(), clock, config).await
    }

    /// As [`Harness::start_rest`], in a directory with the files that `config` refers to.
    pub(crate) async fn start_rest_in(directory: TempDir, config: &str) -> Self {
        Self::start_rest_with(directory, SystemClock, config).await
    }

    async fn start_rest_with(directory: TempDir, clock: impl Clock + 'static, config: &str) -> Self {
        let text = format!(
            "{IN_MEMORY}{COMMON}{REST}{config}
{PLAIN_LISTENER}"
        );
        Self::start_as(directory, &text, Arc::new(clock)).await
    }

    /// As [`Harness::start`], with users that another start in the same directory finds again.
    pub(crate) async fn start_on_disk(directory: TempDir) -> Self {
        let text = format!("{ON_DISK}{COMMON}{UNMEASURED}{PLAIN_LISTENER}");
        Self::start_as(directory, &text, Arc::new(SystemClock)).await
    }

    async fn start_with_clock(directory: TempDir, config: &str, clock: Arc<dyn Clock>) -> Self {
        Self::start_as(directory, &format!("{IN_MEMORY}{COMMON}{UNMEASURED}{config}"), clock).await
    }

    async fn start_as(directory: TempDir, text: &str, clock: Arc<dyn Clock>) -> Self {
        let config = Config::parse(text, directory.path()).unwrap_or_else(|error| panic!("{error:?}"));
        let broker = Broker::builder(config).clock(clock).bind().await.unwrap_or_else(|error| panic!("{error}"));
        let harness = Self { broker, directory };
        if harness.users().policy().user_named(&TESTER.parse().expect("a user name")).is_none() {
            harness.user(TESTER, vec![allow("#")]);
        }
        harness
    }

    pub(crate) fn handle(&self) -> BrokerHandle {
        self.broker.handle()
    }

    pub(crate) fn users(&self) -> Arc<Directory> {
        Arc::clone(self.handle().directory())
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.broker.local_addr(listener).expect("the test's configuration names it")
    }

    pub(crate) fn plain(&self) -> SocketAddr {
        self.address("plain")
    }

    /// Makes a user with [`PASSWORD`] and these permissions.
    pub(crate) fn user(&self, name: &str, permissions: Vec<Permission>) -> UserId {
        self.user_with(name, |user| user.permissions = permissions)
    }

    /// Makes a user with [`PASSWORD`], and what `edit` adds.
    pub(crate) fn user_with(&self, name: &str, edit: impl FnOnce(&mut NewUser)) -> UserId {
        let mut user =
            NewUser { password_hash: Some(hash(PASSWORD)), ..NewUser::named(name.parse().expect("a user name")) };
        edit(&mut user);
        self.users().create_user(user, &Actor::System).unwrap_or_else(|error| panic!("{error}")).id
    }

    /// Changes a user. When this returns, the change is in force.
    pub(crate) fn change(&self, user: UserId, edit: impl FnOnce(&mut User) + Send + 'static) {
        self.users().update_user(user, Expected::Any, edit, &Actor::System).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replaces the permissions of a user.
    pub(crate) fn permit(&self, user: UserId, permissions: Vec<Permission>) {
        self.change(user, move |user| user.permissions = permissions);
    }

    pub(crate) fn delete(&self, user: UserId) {
        self.users().delete_user(user, Expected::Any, &Actor::System).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Makes or replaces a role.
    pub(crate) fn role(&self, name: &str, permissions: Vec<Permission>) {
        let role = Role::new(name.parse().expect("a role name"), permissions);
        self.users().put_role(role, Expected::Any, &Actor::System).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Opens a connection and logs in; the CONNACK must say success.
    pub(crate) async fn login(&self, connect: &Connect) -> Client {
        let mut client = Client::open(self.plain(), connect.version).await;
        let connack = client.connect(connect).await;
        assert_eq!(connack.reason_code, ReasonCode::Success, "{connack:?}");
        client.connack = Some(connack);
        client
    }

    /// Opens a connection as [`TESTER`].
    pub(crate) async fn client(&self, version: ProtocolVersion, client_id: &str) -> Client {
        self.login(&as_user(version, client_id, TESTER)).await
    }

    /// Opens a connection as another user.
    pub(crate) async fn client_of(&self, user: &str, version: ProtocolVersion, client_id: &str) -> Client {
        self.login(&as_user(version, client_id, user)).await
    }

    /// Opens a connection that is refused: the CONNACK, after which the connection is closed.
    pub(crate) async fn refused(&self, connect: &Connect) -> ConnAck {
        let mut client = Client::open(self.plain(), connect.version).await;
        let connack = client.connect(connect).await;
        assert!(connack.reason_code.is_error(), "{connack:?}");
        assert!(!connack.session_present); // [MQTT-3.2.2-6]
        client.expect_closed().await;
        connack
    }
}

/// A CONNECT with a user's name and [`PASSWORD`].
pub(crate) fn as_user(version: ProtocolVersion, client_id: &str, user: &str) -> Connect {
    Connect {
        username: Some(user.into()),
        password: Some(Bytes::from_static(PASSWORD.as_bytes())),
        ..connect(version, client_id)
    }
}

/// As [`as_user`] for [`TESTER`], with a session that outlives the connection.
pub(crate) fn lasting(version: ProtocolVersion, client_id: &str) -> Connect {
    let mut connect = as_user(version, client_id, TESTER);
    connect.clean_start = false;
    if version == ProtocolVersion::V5 {
        connect.properties.session_expiry_interval = Some(3600);
    }
    connect
}

/// A cheap hash: what it costs is not tested here.
pub(crate) fn hash(password: &str) -> String {
    let parameters = Argon2Parameters::new(8, 1, 1).unwrap();
    PasswordHash::of(password.as_bytes(), parameters).unwrap().as_str().to_owned()
}

pub(crate) fn allow(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::ReadWrite, resource)
}

pub(crate) fn allow_read(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::Read, resource)
}

pub(crate) fn allow_write(resource: &str) -> Permission {
    Permission::allow(Context::Mqtt, Operation::Write, resource)
}

pub(crate) fn deny(resource: &str) -> Permission {
    Permission::deny(Context::Mqtt, Operation::ReadWrite, resource)
}

pub(crate) fn deny_read(resource: &str) -> Permission {
    Permission::deny(Context::Mqtt, Operation::Read, resource)
}

pub(crate) fn deny_write(resource: &str) -> Permission {
    Permission::deny(Context::Mqtt, Operation::Write, resource)
}

//! The command line: its words, and nothing of what they do.
//!
//! Passwords and tokens are never among the arguments: other users of the machine can read those.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis::access::{
    Auth, Network, Permission, Quota, RevocationReason, RoleName, Username, UsernamePattern, UsernamePatternError,
};
use portcullis::admin::api::{Action, Hash, RequestId, StateFilter, TokenId};
use portcullis::clock::Timestamp;
use portcullis::config::parse_duration;
use portcullis::device::Address;
use portcullis::mqtt::ClientId;
use serde_json::Value;

/// An MQTT broker with access control built in.
///
/// Without a command it serves. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no broker is reached.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version)]
pub(crate) struct Arguments {
    /// The configuration [default: broker.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The admin socket of the running broker [default: admin.sock in its data directory]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) remote: RemoteArguments,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// A broker elsewhere, and who we are there.
#[derive(Debug, Default, Args)]
pub(crate) struct RemoteArguments {
    /// The REST API of a broker, as in https://broker.example:8443, instead of the admin socket
    #[arg(long, global = true, value_name = "URL", help_heading = "A broker elsewhere")]
    pub(crate) url: Option<String>,
    /// With --url: the trust bundle of the broker
    #[arg(long, global = true, value_name = "FILE", help_heading = "A broker elsewhere")]
    pub(crate) ca: Option<PathBuf>,
    /// With --url: the user to act as
    #[arg(long, global = true, value_name = "NAME", help_heading = "A broker elsewhere")]
    pub(crate) user: Option<Username>,
    /// With --url and --user: the file whose first line is the password
    #[arg(long, global = true, value_name = "FILE", help_heading = "A broker elsewhere")]
    pub(crate) password_file: Option<PathBuf>,
    /// With --url: a client certificate (PEM, its chain after it)
    #[arg(long, global = true, value_name = "FILE", help_heading = "A broker elsewhere")]
    pub(crate) cert: Option<PathBuf>,
    /// With --url and --cert: its key (PEM)
    #[arg(long, global = true, value_name = "FILE", help_heading = "A broker elsewhere")]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker
    Serve,
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Be a device: make a key, enrol, renew
    Device(Box<DeviceGroup>),
    #[command(flatten)]
    Remote(Remote),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the configuration, or what it means
    Check,
}

/// What runs on a device, which has no configuration and no admin socket.
#[derive(Debug, Args)]
pub(crate) struct DeviceGroup {
    #[command(subcommand)]
    pub(crate) command: DeviceCommand,
    #[command(flatten)]
    pub(crate) misplaced: OperatorsOptions,
}

/// The options by which an operator names a broker, in the places where they mean nothing: not shown there, and refused.
#[derive(Debug, Args)]
pub(crate) struct OperatorsOptions {
    #[arg(long, global = true, hide = true)]
    config: Option<PathBuf>,
    #[arg(long, global = true, hide = true)]
    socket: Option<PathBuf>,
    #[arg(long, global = true, hide = true)]
    url: Option<String>,
    #[arg(long, global = true, hide = true)]
    user: Option<Username>,
    #[arg(long, global = true, hide = true)]
    password_file: Option<PathBuf>,
    #[arg(long, global = true, hide = true)]
    cert: Option<PathBuf>,
    #[arg(long, global = true, hide = true)]
    key: Option<PathBuf>,
}

impl OperatorsOptions {
    /// One that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let Self { config, socket, url, user, password_file, cert, key } = self;
        [
            ("--config", config.is_some()),
            ("--socket", socket.is_some()),
            ("--url", url.is_some()),
            ("--user", user.is_some()),
            ("--password-file", password_file.is_some()),
            ("--cert", cert.is_some()),
            ("--key", key.is_some()),
        ]
        .into_iter()
        .find_map(|(option, is_given)| is_given.then_some(option))
    }
}

/// What the device does.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Make a key where there is none, ask for a certificate, show the pairing code, and wait for the decision
    Enrol(EnrolArguments),
    /// Put another key and certificate in the place of the old ones
    Renew {
        #[command(flatten)]
        device: DeviceArguments,
        /// Only when two thirds of the certificate's life are over
        #[arg(long)]
        if_due: bool,
        /// How long to try
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
        wait: Duration,
    },
    /// Enrol, then stay connected and renew whenever it is due or the broker asks for it, until interrupted
    Keep(EnrolArguments),
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArguments {
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    /// What the device tells about itself, shown to the operator
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) context: Option<Value>,
    /// A role that the device would like; the operator decides. May be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<RoleName>,
    /// Ask for a claim token, on the terminal or as a line of standard input: with one nobody has to decide
    #[arg(long, conflicts_with = "token_file")]
    pub(crate) token: bool,
    /// The file that holds the claim token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How long to wait for the decision
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceArguments {
    /// The name that it asks for
    #[arg(value_name = "NAME")]
    pub(crate) name: Username,
    /// As in mqtts://broker.example:8883
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Address,
    /// The CA of the broker's own certificate; only read [default: ca.pem in the directory, and what the device has
    /// learned in NAME.ca]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Where NAME.key, NAME.pem and NAME.ca are kept
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// The client identifier of the connections with the certificate [default: NAME~renewal]
    #[arg(long, value_name = "ID", value_parser = client_id)]
    pub(crate) client_id: Option<ClientId>,
}

/// What the running broker does.
#[derive(Debug, Subcommand)]
pub(crate) enum Remote {
    /// Users: people, programs, devices
    #[command(subcommand)]
    User(UserCommand),
    /// Roles: named sets of permissions
    #[command(subcommand)]
    Role(RoleCommand),
    /// Devices that ask for an identity
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// The certificate authority, its revocation list, and issuers that are revoked
    #[command(subcommand)]
    Ca(CaCommand),
    /// The log of who did what, and of what was refused
    #[command(subcommand)]
    Audit(AuditCommand),
    /// May this user do that, and which rule says so? Exit code 1 when not
    Explain(ExplainArguments),
    /// Who may publish to a topic, or receive it, and which rule says so?
    WhoCan(WhoCanArguments),
    /// Make all changes of a file (TOML or JSON) to users and roles, or none
    Apply(ApplyArguments),
    /// Take over the users and rights of mosquitto, all or none; passwords stay what they are
    Import(ImportArguments),
    /// List the commits on record, the last one first
    History {
        /// The most commits
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Make users and roles what they were right after a commit; passwords and certificates stay
    Rollback {
        /// As `history` shows it
        #[arg(value_name = "VERSION")]
        version: u64,
        /// Change nothing; say what would be done, and to which sessions
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// `[[role]]`, `[[user]]` and `[[delete]]` in TOML, or the same in JSON; `-` for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Change nothing; say what would be done, and to which sessions
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("sources").args(["passwords", "acls", "dynamic_security"]).multiple(true).required(true)))]
pub(crate) struct ImportArguments {
    /// What mosquitto.conf calls password_file
    #[arg(long, value_name = "FILE")]
    pub(crate) passwords: Option<PathBuf>,
    /// What mosquitto.conf calls acl_file
    #[arg(long, value_name = "FILE")]
    pub(crate) acls: Option<PathBuf>,
    /// The file of the dynamic security plugin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["passwords", "acls"])]
    pub(crate) dynamic_security: Option<PathBuf>,
    /// Users without a password log in with a certificate, instead of being left out
    #[arg(long)]
    pub(crate) certificates: bool,
    /// Take rules with `%c` over, and make who holds one use its username as client identifier
    #[arg(long)]
    pub(crate) client_id_is_username: bool,
    /// Change nothing; say what maps to what, what does not, and what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write the set of changes to a new file, to be edited and applied; no broker is asked
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WhoCanArguments {
    #[arg(value_enum)]
    pub(crate) action: WhoCanAction,
    /// A topic as it is routed, a publish prefix included
    pub(crate) topic: String,
    /// Name no more users than this
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WhoCanAction {
    Publish,
    Receive,
}

impl From<WhoCanAction> for Action {
    fn from(argument: WhoCanAction) -> Self {
        match argument {
            WhoCanAction::Publish => Self::Publish,
            WhoCanAction::Receive => Self::Receive,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Show the authority, how much of what it issued is in force, and its revocation list
    Show,
    /// Print the revocation list as PEM, or write it as DER
    Crl {
        /// Write it there, DER
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// That of this issuer, as `ca show` shows it [default: the one that issues]
        #[arg(long, value_name = "ISSUER")]
        issuer: Option<String>,
    },
    /// Make a new CA, which issues from now on; the one before stays trusted until it is retired
    Rotate,
    /// Print a request (PKCS#10) to have the key of a new CA certified by whoever keeps the root
    Csr {
        /// The common name of the request
        #[arg(long, value_name = "NAME", default_value = "Portcullis intermediate CA")]
        name: String,
        /// Write it there
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take over the certificate of a CA, for the key of `ca csr` or of the CA that issues, with those above it
    Import {
        /// PEM: the certificate of the CA, then those above it up to the root
        #[arg(value_name = "FILE")]
        certificates: PathBuf,
    },
    /// List the certificates of an issuer that are in force
    Living {
        /// As `ca show` shows it
        #[arg(value_name = "ISSUER")]
        issuer: String,
        /// Begin after this user
        #[arg(long, value_name = "USER")]
        after: Option<Username>,
        /// At most about so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Trust the CA before the one that issues no more
    Retire {
        /// As `ca show` shows it
        #[arg(value_name = "ISSUER")]
        issuer: String,
        /// Revoke what it has issued and is in force, and end the sessions that stand on that
        #[arg(long)]
        force: bool,
    },
    /// Revoke an issuer with all that it has issued, and end the sessions that stand on that. There is no way back
    Revoke {
        /// As `ca show` shows it
        #[arg(value_name = "ISSUER")]
        issuer: String,
        /// Why: cACompromise unless told otherwise
        #[arg(long, value_name = "REASON")]
        reason: Option<RevocationReason>,
        /// For the record
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that nothing was changed, dropped, reordered or cut off. Exit code 1 when something was
    Verify {
        /// The hash of a head that was noted elsewhere and must be one of the chain
        #[arg(long, value_name = "HEX")]
        head: Option<Hash>,
        #[command(flatten)]
        offline: Offline,
    },
    /// Show the newest records
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", value_name = "COUNT", default_value_t = 20)]
        count: u64,
        /// Go on with what happens, until interrupted
        #[arg(long, short = 'f', conflicts_with = "offline")]
        follow: bool,
        #[command(flatten)]
        offline: Offline,
    },
    /// Write all records, each a line of JSON
    Export {
        /// Only those after this number
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        #[command(flatten)]
        offline: Offline,
    },
    /// Show the end of the log and its signature, to note them elsewhere
    Head,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Offline {
    /// Read the store itself, while no broker runs
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user; its password is asked for
    Add(Box<UserAdd>),
    /// Change a user, now and for its live sessions too; what is not named stays
    Edit(Box<UserEdit>),
    /// List all users
    List,
    /// Show one user
    Show(UserName),
    /// Set the password of a user; it is asked for
    Passwd(UserPasswd),
    /// Let a user log in again
    Enable(UserName),
    /// End the sessions of a user, and let it do nothing
    Disable(UserName),
    /// Put a certificate of another CA on record of a user: an administrator logs in with no other one of such a CA
    Pin(UserPin),
    /// Revoke a certificate of a user or all of them, and end the sessions that stand on it
    Revoke(UserRevoke),
    /// Delete a user with its sessions and certificates
    Delete(UserName),
}

#[derive(Debug, Args)]
pub(crate) struct UserName {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
}

#[derive(Debug, Args)]
pub(crate) struct UserAdd {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) description: String,
    /// The proof that the user must give
    #[arg(long, value_enum, default_value = "password")]
    pub(crate) auth: AuthArgument,
    /// Give the user a role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<RoleName>,
    /// Give the user a rule of its own, as JSON; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
    /// Put this in front of every topic that the user publishes to
    #[arg(long, value_name = "PREFIX/")]
    pub(crate) publish_prefix: Option<String>,
    /// Pattern of the client identifiers that the user may use
    #[arg(long, value_name = "PATTERN")]
    pub(crate) client_id: Option<String>,
    /// Bound what the user may take up, as JSON: {"connections":2,"publish_messages":{"per_second":100,"burst":500}}
    #[arg(long, value_name = "JSON", value_parser = quota)]
    pub(crate) quota: Option<Quota>,
    /// When the user ends, as in 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// Make the user without letting it log in yet
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Read the password from standard input, one line
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct UserEdit {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// The proof that the user must give; `certificate` takes its password away. Where it has none: `either` first, then
    /// `user passwd`
    #[arg(long, value_enum)]
    pub(crate) auth: Option<AuthArgument>,
    /// Give the user a role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<RoleName>,
    /// Take a role from the user; may be repeated
    #[arg(long = "drop-role", value_name = "ROLE")]
    pub(crate) drop_roles: Vec<RoleName>,
    /// Give the user a rule of its own, as JSON; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
    /// Take a rule of its own from the user, by its number in `user show`; may be repeated
    #[arg(long = "drop-permission", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) drop_permissions: Vec<u32>,
    /// Put this in front of every topic that the user publishes to
    #[arg(long, value_name = "PREFIX/")]
    pub(crate) publish_prefix: Option<String>,
    /// Put nothing in front
    #[arg(long, conflicts_with = "publish_prefix")]
    pub(crate) no_publish_prefix: bool,
    /// Pattern of the client identifiers that the user may use
    #[arg(long, value_name = "PATTERN")]
    pub(crate) client_id: Option<String>,
    /// Any client identifier
    #[arg(long, conflicts_with = "client_id")]
    pub(crate) no_client_id: bool,
    /// Bound what the user may take up, as JSON; what it leaves out is not bounded any more
    #[arg(long, value_name = "JSON", value_parser = quota)]
    pub(crate) quota: Option<Quota>,
    /// Bound nothing
    #[arg(long, conflicts_with = "quota")]
    pub(crate) no_quota: bool,
    /// When the user ends, as in 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// The user does not end
    #[arg(long, conflicts_with = "expires")]
    pub(crate) no_expires: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UserPin {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    /// The certificate, PEM; it must name the user (`ca.identity`)
    #[arg(value_name = "FILE")]
    pub(crate) certificate: PathBuf,
    /// For the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UserRevoke {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    /// As `user show` shows it
    #[arg(value_name = "SERIAL", required_unless_present = "all")]
    pub(crate) serial: Option<String>,
    /// All certificates of the user
    #[arg(long, conflicts_with = "serial")]
    pub(crate) all: bool,
    /// Why: keyCompromise, affiliationChanged, superseded, cessationOfOperation, privilegeWithdrawn
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<RevocationReason>,
    /// For the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum AuthArgument {
    Password,
    Certificate,
    Either,
    Both,
}

impl From<AuthArgument> for Auth {
    fn from(argument: AuthArgument) -> Self {
        match argument {
            AuthArgument::Password => Self::Password,
            AuthArgument::Certificate => Self::Certificate,
            AuthArgument::Either => Self::Either,
            AuthArgument::Both => Self::Both,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct UserPasswd {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    /// Read the password from standard input, one line
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Change the store itself, while no broker runs
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Make a role
    Add(RoleAdd),
    /// List all roles
    List,
    /// Show one role with its permissions
    Show(RoleArgument),
    /// Change a role, for all who hold it; what is not named stays
    Edit(RoleEdit),
    /// Delete a role that nobody holds
    Delete(RoleArgument),
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgument {
    #[arg(value_name = "ROLE")]
    pub(crate) name: RoleName,
}

#[derive(Debug, Args)]
pub(crate) struct RoleAdd {
    #[arg(value_name = "ROLE")]
    pub(crate) name: RoleName,
    /// For people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) description: String,
    /// A rule, as JSON: {"context":"mqtt","operation":"read","resource":"plant/#"}; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
}

#[derive(Debug, Args)]
pub(crate) struct RoleEdit {
    #[arg(value_name = "ROLE")]
    pub(crate) name: RoleName,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// Add a rule, as JSON: {"context":"mqtt","operation":"read","resource":"plant/#"}; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
    /// Take a rule away, by its number in `role show`; may be repeated
    #[arg(long = "drop-permission", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) drop_permissions: Vec<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// List the requests
    List {
        /// Which of them
        #[arg(long, value_enum, default_value = "pending")]
        state: StateArgument,
    },
    /// Show one request
    Show(RequestArgument),
    /// Make a request a user; what it asked for it gets only when it is named here
    Grant(GrantArguments),
    /// Refuse a request
    Deny {
        #[command(flatten)]
        request: RequestArgument,
        /// Why; the device is told
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// For the record; the device is not told
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Let the next request with a new key take the name of a user: it gets that user's rights when it is granted, and the old
    /// password and certificates end
    Replace(ReplaceArguments),
    /// List the names that are open to a new key
    Replacements,
    /// Claim tokens: whoever shows one is admitted and granted at once
    #[command(subcommand)]
    Token(TokenCommand),
    /// Refuse new requests
    Lock,
    /// Admit new requests for a while
    Unlock(UnlockArguments),
    /// Show what happens, until interrupted
    Watch,
    /// Is the registry open, and what waits in it?
    Status,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; its secret is shown once
    Create(TokenArguments),
    /// List the tokens whose time is not over
    List,
    /// Show one token
    Show(TokenArgument),
    /// End a token; the devices that it has served stay
    Revoke(TokenArgument),
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgument {
    /// As `registry token list` shows it; not the secret
    #[arg(value_name = "ID")]
    pub(crate) id: TokenId,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArguments {
    /// Give each device a role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<RoleName>,
    /// Give each device a rule of its own, as JSON; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
    /// Put this in front of every topic that the devices publish to
    #[arg(long, value_name = "PREFIX/")]
    pub(crate) publish_prefix: Option<String>,
    /// How many devices it is good for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) uses: u32,
    /// How long it lasts, as in 24h or 30d, at most 366d [default: 24h]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Only for names that match, with `*` for any run of characters
    #[arg(long, value_name = "PATTERN", value_parser = username_pattern)]
    pub(crate) username: Option<UsernamePattern>,
    /// Only from this network, as in 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub(crate) source: Vec<Network>,
    /// When the users end that it makes, as in 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// For the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgument {
    /// As `registry list` shows it, or the user name of a pending request
    #[arg(value_name = "ID", value_parser = request)]
    pub(crate) request: RequestName,
}

/// How an operator names a request.
#[derive(Clone, Debug)]
pub(crate) enum RequestName {
    /// By its id.
    Id(RequestId),
    /// By what it wants to be called. At most one pending request has a name.
    Username(Username),
}

fn request(text: &str) -> Result<RequestName, String> {
    if let Ok(id) = text.parse() {
        return Ok(RequestName::Id(id));
    }
    let name = text.parse().map(RequestName::Username);
    name.map_err(|_| "write the ID that `registry list` shows, or the user name of a pending request".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StateArgument {
    Pending,
    Granted,
    Denied,
    All,
}

impl From<StateArgument> for Option<StateFilter> {
    fn from(argument: StateArgument) -> Self {
        match argument {
            StateArgument::Pending => Some(StateFilter::Pending),
            StateArgument::Granted => Some(StateFilter::Granted),
            StateArgument::Denied => Some(StateFilter::Denied),
            StateArgument::All => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct GrantArguments {
    #[command(flatten)]
    pub(crate) request: RequestArgument,
    /// Give the new user a role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<RoleName>,
    /// Give the new user a rule of its own, as JSON; may be repeated
    #[arg(long = "permission", value_name = "JSON", value_parser = permission)]
    pub(crate) permissions: Vec<Permission>,
    /// Put this in front of every topic that the user publishes to
    #[arg(long, value_name = "PREFIX/")]
    pub(crate) publish_prefix: Option<String>,
    /// When the user ends, as in 2027-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<Timestamp>,
    /// For the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// Grant although the device could not be shown a pairing code
    #[arg(long)]
    pub(crate) unpaired: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplaceArguments {
    /// The user
    pub(crate) username: Username,
    /// How long, as in 24h, at most 168h [default: 24h]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "cancel")]
    pub(crate) duration: Option<Duration>,
    /// Only from this network, as in 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR", conflicts_with = "cancel")]
    pub(crate) source: Vec<Network>,
    /// Shut the name again; the request that came in is forgotten
    #[arg(long)]
    pub(crate) cancel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArguments {
    /// How long, as in 5m or 1h30m [default: `registry.unlock_for`]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Only at this listener
    #[arg(long, value_name = "NAME")]
    pub(crate) listener: Option<String>,
    /// Only from this network, as in 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "CIDR")]
    pub(crate) source: Vec<Network>,
    /// Only names that match, with `*` for any run of characters
    #[arg(long, value_name = "PATTERN", value_parser = username_pattern)]
    pub(crate) username: Option<UsernamePattern>,
    /// Only so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: Option<u32>,
    /// A CONNECT with an unknown user name and a password is a request too
    #[arg(long)]
    pub(crate) implicit: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    #[arg(value_name = "USER")]
    pub(crate) username: Username,
    #[arg(value_enum)]
    pub(crate) action: ActionArgument,
    /// A topic name; a filter for `subscribe`; a method for `http`
    pub(crate) topic: String,
    /// For `http`: the path of the request
    #[arg(required_if_eq("action", "http"))]
    pub(crate) path: Option<String>,
    /// What if the changes of this file were made? They are not
    #[arg(long = "with", value_name = "FILE")]
    pub(crate) with: Option<PathBuf>,
    /// As which client [default: the name of the user]
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// With this quality of service
    #[arg(long, value_name = "0|1|2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// With RETAIN set
    #[arg(long)]
    pub(crate) retain: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ActionArgument {
    Publish,
    Subscribe,
    Receive,
    /// A request of the REST API: `explain USER http METHOD PATH`
    Http,
}

impl From<ActionArgument> for Action {
    fn from(argument: ActionArgument) -> Self {
        match argument {
            ActionArgument::Publish => Self::Publish,
            ActionArgument::Subscribe => Self::Subscribe,
            ActionArgument::Receive => Self::Receive,
            ActionArgument::Http => Self::Http,
        }
    }
}

fn permission(text: &str) -> Result<Permission, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("{error}; write it like {{\"context\":\"mqtt\",\"operation\":\"read\",\"resource\":\"plant/#\"}}")
    })
}

fn quota(text: &str) -> Result<Quota, String> {
    serde_json::from_str(text).map_err(|error| {
        format!(
            "{error}; write it like {{\"connections\":2,\"publish_messages\":{{\"per_second\":100,\"burst\":500}}}}"
        )
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| duration.as_secs() > 0 && duration.subsec_nanos() == 0)
        .ok_or_else(|| "write whole seconds with the units s, m, h, d, as in 5m or 1h30m".to_owned())
}

fn json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

fn client_id(text: &str) -> Result<ClientId, String> {
    ClientId::try_from(text).map_err(|error| error.to_string())
}

fn username_pattern(text: &str) -> Result<UsernamePattern, UsernamePatternError> {
    UsernamePattern::try_from(text.to_owned())
}

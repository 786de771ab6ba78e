//! The command line: it parses arguments, asks the running broker, and prints.
//!
//! Arguments, standard input and the answers of the broker enter; lines for people or JSON leave, and an exit code:
//! 0 done, 1 refused or failed, 2 wrong usage, 3 no broker is reached. Nothing is decided here.

mod apply;
mod args;
mod audit;
mod ca;
mod client;
mod commands;
mod configuration;
mod device;
mod edit;
mod elsewhere;
mod import;
mod offline;
mod output;
mod registry;
mod secret;
mod serve;
#[cfg(test)]
mod tests;
mod token;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use portcullis::access::Username;
use portcullis::admin::api::Secret;
use portcullis::admin::problem::Problem;
use portcullis::config::{Config, ConfigError};
use portcullis::device::DeviceError;

use args::{Arguments, Command, ConfigCommand, Remote, UserCommand};
use client::Client;
use elsewhere::Elsewhere;
use output::printable;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The broker said no.
    #[error("{0}")]
    Refused(Problem),
    /// The broker said something that is no answer.
    #[error("{0}")]
    Answer(String),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// There is no broker, or it is not ours to administer.
    #[error("no broker is reached at {} ({reason}); start it with `portcullis serve`, or name its socket with `--socket PATH` or its configuration with `--config FILE`", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    /// The same, elsewhere.
    #[error("no broker is reached at {url} ({reason})")]
    Elsewhere { url: String, reason: String },
    /// The configuration is wrong; drawn with its lines.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The broker did not start, or did not end well.
    #[error("{0}")]
    Serve(String),
    /// The store could not be changed.
    #[error("{0}")]
    Offline(String),
    /// The device has no certificate, or no new one.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Nobody reads what we write.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    /// `explain` said no: printed already.
    #[error("not allowed")]
    NotAllowed,
    /// `import` found names that are there already: printed already.
    #[error(
        "nothing was imported: {0} of its users and roles are there already; delete them, or take them out of the source"
    )]
    InTheWay(usize),
    /// `audit verify` found a fault: printed already.
    #[error("the audit log is not as it was written")]
    NotWhole,
}

impl Failure {
    fn answer(text: impl Into<String>) -> Self {
        Self::Answer(text.into())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unreachable { .. } | Self::Elsewhere { .. } => 3,
            _ => 1,
        }
    }
}

/// What a command writes to and reads passwords from.
pub(crate) struct Shell<'a> {
    pub(crate) out: &'a mut dyn Write,
    /// How to call this program again for the same broker, for hints that are copied to a prompt.
    pub(crate) program: &'a str,
    /// JSON instead of lines.
    pub(crate) json: bool,
    /// On a terminal that shows it.
    pub(crate) bold: bool,
    /// Asks for a new password: a prompt, and whether standard input was named.
    pub(crate) password: &'a dyn Fn(&str, bool) -> Result<Secret, Failure>,
}

/// Parses the arguments of the process and does what they say.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap: it knows where to print, and the code.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = arguments.json;
    let bold = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut out = io::stdout().lock();
    let program = program(&arguments);
    let mut shell = Shell { out: &mut out, program: &program, json, bold, password: &secret::read };
    let outcome = execute(arguments, &mut shell).and_then(|()| Ok(out.flush()?));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough: `portcullis user list | head -1`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = tell(&failure, json, &mut io::stderr().lock());
            ExitCode::from(failure.code())
        }
    }
}

/// As it was called this time, with the options that say which broker is meant.
fn program(arguments: &Arguments) -> String {
    let mut words = vec![std::env::args_os().next().unwrap_or_else(|| "portcullis".into())];
    let remote = &arguments.remote;
    let texts = [("--url", remote.url.as_deref()), ("--user", remote.user.as_ref().map(Username::as_str))];
    let files = [
        ("--config", &arguments.config),
        ("--socket", &arguments.socket),
        ("--ca", &remote.ca),
        ("--password-file", &remote.password_file),
        ("--cert", &remote.cert),
        ("--key", &remote.key),
    ];
    let texts = texts.into_iter().filter_map(|(option, text)| Some((option, std::ffi::OsString::from(text?))));
    let files = files.into_iter().filter_map(|(option, path)| Some((option, path.as_ref()?.into())));
    for (option, value) in texts.chain(files) {
        words.extend([option.into(), value]);
    }
    let words: Vec<_> = words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn execute(arguments: Arguments, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = arguments.config.or_else(default_config);
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::serve(load(path)?, shell),
        Command::Config(ConfigCommand::Check) => configuration::check(load(path), shell),
        Command::Device(group) => device::run(*group, shell),
        Command::Remote(Remote::User(UserCommand::Passwd(passwd))) if passwd.offline => {
            offline::set_password(&load(path)?, &passwd.username, passwd.password_stdin, shell)
        }
        Command::Remote(Remote::Audit(command)) if audit::is_offline(&command) => {
            audit::offline(&command, &load(path)?, shell)
        }
        Command::Remote(command) => {
            let remote = &arguments.remote;
            let client = if let Some(url) = &remote.url {
                if arguments.socket.is_some() {
                    return Err(Failure::Usage("name one broker: `--url` or `--socket`".to_owned()));
                }
                Client::elsewhere(Elsewhere::new(url, remote)?)
            } else {
                if remote.user.is_some()
                    || remote.password_file.is_some()
                    || remote.cert.is_some()
                    || remote.key.is_some()
                {
                    let detail = "`--user`, `--password-file`, `--cert` and `--key` belong to `--url`";
                    return Err(Failure::Usage(detail.to_owned()));
                }
                Client::new(socket(arguments.socket, path)?)
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(commands::run(command, &client, shell))
        }
    }
}

fn socket(named: Option<PathBuf>, config: Option<PathBuf>) -> Result<PathBuf, Failure> {
    Ok(match (named, config) {
        (Some(socket), _) => socket,
        (None, Some(path)) => Config::admin_socket_of(path)?,
        (None, None) => Config::new(".").admin_socket(),
    })
}

fn default_config() -> Option<PathBuf> {
    let path = PathBuf::from("broker.toml");
    path.exists().then_some(path)
}

fn load(path: Option<PathBuf>) -> Result<Config, ConfigError> {
    path.map_or_else(|| Config::parse("", "."), Config::load)
}

/// One clear sentence, the lines of the configuration, or the problem as JSON.
fn tell(failure: &Failure, json: bool, err: &mut dyn Write) -> io::Result<()> {
    match failure {
        Failure::NotAllowed | Failure::NotWhole => Ok(()),
        Failure::Refused(problem) if json => {
            writeln!(err, "{}", output::json(problem, true).map_err(io::Error::other)?)
        }
        Failure::Config(error) => configuration::tell(error, json, err),
        failure => writeln!(err, "portcullis: {}", printable(&failure.to_string())),
    }
}

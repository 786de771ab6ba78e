//! `user passwd --offline`: sets a password in the store itself, for whoever has lost the last one.
//!
//! Works only while no broker has the store open, and with the rights on its files alone.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use portcullis::access::{Auth, User, Username};
use portcullis::admin::api::UserView;
use portcullis::authn::{Argon2Parameters, PasswordHash, PasswordPolicy};
use portcullis::clock::SystemClock;
use portcullis::config::{Config, Durability};
use portcullis::directory::{Actor, Directory, Expected};
use portcullis::store::{self, SledStore};

use super::{Failure, Shell};

/// Asks for the password and sets it.
pub(crate) fn set_password(
    config: &Config,
    username: &Username,
    password_stdin: bool,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let store = open_store(config)?;
    let directory = Directory::open(Arc::new(store), Arc::new(SystemClock)).map_err(failed)?;
    let policy = directory.policy();
    let user = policy.user_named(username).ok_or_else(|| failed(format!("there is no user `{username}`")))?;
    if matches!(user.auth, Auth::Certificate | Auth::None) {
        return Err(failed(format!("the user `{username}` does not log in with a password")));
    }
    let password = (shell.password)(&format!("New password for {username}"), password_stdin)?;
    password_policy(config)?.check(password.expose()).map_err(failed)?;
    let hash = PasswordHash::of(password.expose().as_bytes(), parameters(config)?).map_err(failed)?;
    let hash = hash.as_str().to_owned();
    let edit = move |user: &mut User| user.password_hash = Some(hash);
    let user = directory.update_user(user.id, Expected::Version(user.version), edit, &actor()).map_err(failed)?;
    if username.as_str() == "admin" {
        forget_initial_password(config)?;
    }
    shell.print(&UserView::from(&*user), |user| format!("changed the password of {} in the store\n", user.username))
}

/// The store of this configuration, while no broker has it.
pub(crate) fn open_store(config: &Config) -> Result<SledStore, Failure> {
    let path = config.store_directory();
    if config.store.durability == Durability::Memory || !path.is_dir() {
        let reason =
            format!("there is no store at `{}`: start the broker once with `portcullis serve`", path.display());
        return Err(Failure::Offline(reason));
    }
    SledStore::open(&path, store::Durability::Sync).map_err(failed)
}

pub(crate) fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure::Offline(reason.to_string())
}

/// Whoever runs this process, as the broker would see it through its socket.
fn actor() -> Actor {
    std::fs::metadata("/proc/self").map_or(Actor::System, |process| Actor::Local { uid: process.uid() })
}

fn password_policy(config: &Config) -> Result<PasswordPolicy, Failure> {
    let password = &config.password;
    let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let [min, lower, upper, numeric, symbol] =
        [password.min, password.lower, password.upper, password.numeric, password.symbol].map(count);
    PasswordPolicy::new(min, lower, upper, numeric, symbol).map_err(failed)
}

fn parameters(config: &Config) -> Result<Argon2Parameters, Failure> {
    let argon2 = config.password.argon2;
    Argon2Parameters::new(argon2.memory_kib, argon2.iterations, argon2.parallelism).map_err(failed)
}

fn forget_initial_password(config: &Config) -> Result<(), Failure> {
    match std::fs::remove_file(config.initial_admin_password()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(format!("the password was changed, but its first one could not be removed: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use portcullis::admin::api::Secret;
    use portcullis::directory::NewUser;

    use super::*;

    const FAST: &str = "[password.argon2]\nmemory_kib = 8\niterations = 1\n";

    fn set(config: &Config, username: &str, password: &'static str) -> Result<String, String> {
        let mut out = Vec::new();
        let ask = |_: &str, _: bool| Ok(Secret::new(password));
        let mut shell = Shell { out: &mut out, program: "portcullis", json: false, bold: false, password: &ask };
        set_password(config, &username.parse().unwrap(), true, &mut shell).map_err(|failure| failure.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn open(config: &Config) -> Directory {
        let store = SledStore::open(config.store_directory(), store::Durability::Sync).unwrap();
        Directory::open(Arc::new(store), Arc::new(SystemClock)).unwrap()
    }

    #[test]
    fn a_lost_password_is_replaced_while_no_broker_runs_and_only_then() {
        let base = tempfile::tempdir().unwrap();
        let config = Config::parse(FAST, base.path()).unwrap();
        assert!(set(&config, "admin", "correct horse battery").unwrap_err().contains("there is no store"));
        let directory = open(&config);
        let parameters = Argon2Parameters::new(8, 1, 1).unwrap();
        let first = PasswordHash::of(b"first", parameters).unwrap();
        let admin = directory.create_first_admin(first.as_str().to_owned()).unwrap();
        let device = NewUser { auth: Auth::Certificate, ..NewUser::named("device".parse().unwrap()) };
        directory.create_user(device, &Actor::System).unwrap();
        assert!(set(&config, "admin", "correct horse battery").unwrap_err().contains("in use"));
        drop(directory);

        let initial = config.initial_admin_password();
        std::fs::write(&initial, "first").unwrap();
        assert!(set(&config, "admin", "short").unwrap_err().contains("too weak"));
        assert!(set(&config, "nobody", "correct horse battery").unwrap_err().contains("there is no user"));
        assert!(set(&config, "device", "correct horse battery").unwrap_err().contains("does not log in"));
        assert!(initial.exists());
        assert_eq!(
            set(&config, "admin", "correct horse battery").unwrap(),
            "changed the password of admin in the store\n"
        );
        assert!(!initial.exists());
        let hash = open(&config).policy().user(admin.id).unwrap().password_hash.clone().unwrap();
        assert_ne!(hash, first.as_str());
    }
}

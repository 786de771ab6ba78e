//! broker.toml: what the operator wants, read, checked and turned into plain values.
//!
//! The text of one file and the directory that its relative paths refer to enter; a [`Config`] leaves, or a
//! [`ConfigError`] that names every problem of the file with its line and column and says what to write instead.
//! Every key is optional and an empty file is safe. Nothing here opens a socket, changes a file or starts anything:
//! files that the configuration names are looked at and read, no more.

mod error;
mod files;
mod listeners;
mod model;
mod people;
mod reader;
mod rules;
mod sections;
mod source;
#[cfg(test)]
mod tests;
mod units;

use std::path::Path;

pub use error::{ConfigError, Invalid, Problem};
pub use model::*;
pub use source::Source;
pub use units::{format_duration, format_size, parse_duration, parse_size};

use reader::{Report, Section};

impl Config {
    /// Reads the file; relative paths in it refer to the directory that it lies in.
    ///
    /// # Errors
    /// When the file cannot be read, or as [`Config::parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let (name, text, base) = Self::open(path.as_ref())?;
        Self::read(&name, &text, base)
    }

    /// Reads the text of a configuration; relative paths in it refer to `base_dir`.
    ///
    /// # Errors
    /// When anything in the text, or a file that it names, is wrong: all problems at once.
    ///
    /// # Examples
    /// ```
    /// # use portcullis::config::Config;
    /// let config = Config::parse("[limits]\ninflight = 20\n", ".")?;
    /// assert_eq!(config.limits.inflight.get(), 20);
    /// assert_eq!(config.listeners.len(), 2, "none is named, so there are the two default ones");
    ///
    /// let error = Config::parse("[limits]\ninfligth = 20\n", ".").unwrap_err();
    /// assert!(error.to_string().contains("broker.toml:2:1"));
    /// # Ok::<(), portcullis::config::ConfigError>(())
    /// ```
    pub fn parse(text: &str, base_dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::read("broker.toml", text, base_dir.as_ref())
    }

    /// The admin socket of the broker that runs on this file, for its clients: looks at `data_dir` alone, so that a
    /// file with a mistake elsewhere does not shut anybody out of a running broker.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or `data_dir` is wrong.
    pub fn admin_socket_of(path: impl AsRef<Path>) -> Result<std::path::PathBuf, ConfigError> {
        let path = path.as_ref();
        let (name, text, base) = Self::open(path)?;
        let (document, errors) = toml::de::DeTable::parse_recoverable(&text);
        if !errors.is_empty() {
            return Self::read(&name, &text, base).map(|config| config.admin_socket());
        }
        let report = Report::new(&text);
        let data_dir = Section::root(&report, document.get_ref()).get("data_dir", sections::path(base));
        let source = report.into_source(&name);
        let config = Config::new(base);
        let data_dir = data_dir.unwrap_or_else(|| config.data_dir.clone());
        if source.is_valid() {
            Ok(Config { data_dir, ..config }.admin_socket())
        } else {
            Err(ConfigError::Invalid(source.invalid()))
        }
    }

    fn open(path: &Path) -> Result<(String, String, &Path), ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::Encoding { path: path.to_owned() })?;
        let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((path.display().to_string(), text, base))
    }

    fn read(name: &str, text: &str, base: &Path) -> Result<Self, ConfigError> {
        let (document, errors) = toml::de::DeTable::parse_recoverable(text);
        let report = Report::new(text);
        if !errors.is_empty() {
            for error in &errors {
                report.syntax(error);
            }
            report.hide_passwords();
            return Err(ConfigError::Invalid(report.into_source(name).invalid()));
        }
        let root = Section::root(&report, document.get_ref());
        let mut config = sections::read(&root, base);
        let listeners = listeners::read(&root, &config);
        let (roles, users) = people::read(&root, base);
        listeners::check_anonymous(&report, &listeners, &users);
        if report.is_clean() {
            people::check_policy(&report, &roles, &users);
            people::check_certificates(&report, &config.ca.trust, &users);
            rules::check(&report, &config, &listeners);
        }
        config.listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
        config.roles = roles;
        config.users = users.into_iter().map(|(_, user)| user).collect();
        files::check(&report, &config);
        root.finish();
        config.source = report.into_source(name);
        if config.source.is_valid() { Ok(config) } else { Err(ConfigError::Invalid(config.source.invalid())) }
    }
}

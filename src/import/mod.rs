//! Users and rights of mosquitto, as a set of changes for `apply`.
//!
//! ```text
//! password_file --> passwords --.
//! acl_file -------> acls -------+--> files -------------.
//!                               |                        >--> Import { document, report, configuration }
//! dynamic-security.json --------'--> dynamic_security --'
//! ```
//!
//! Texts enter; a [`Document`], what of it belongs into broker.toml, and a [`Report`] leave: every line and every ACL is in
//! it, with what has become of it. Pure: nothing is read, asked or changed here.
//!
//! INVARIANT: nobody gets a right that mosquitto did not give. An allow that has no exact counterpart becomes a narrower one or
//! none; a deny that has none becomes a wider one. Names are never changed.

mod acls;
mod dynamic_security;
mod error;
mod files;
mod filter;
mod passwords;
mod report;

#[cfg(test)]
mod tests;

pub use error::{ImportError, Source};
pub use report::{Entry, Outcome, Place, Report};

use crate::access::Permission;
use crate::directory::Document;

/// The longest source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 16 << 20;

/// What is to be taken over, and how.
#[derive(Clone, Copy, Debug)]
pub enum Sources<'a> {
    /// What mosquitto.conf calls `password_file` and `acl_file`.
    Files {
        /// The text of the first.
        passwords: Option<&'a [u8]>,
        /// The text of the second.
        acls: Option<&'a [u8]>,
    },
    /// The file of the dynamic security plugin.
    DynamicSecurity(&'a [u8]),
}

/// What the operator decides about what has no counterpart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Users of whom there is no password log in with a certificate. Default: they are left out.
    pub certificates: bool,
    /// Rules with `%c` are taken over, and who holds one must use its username as client identifier. Default: they are left out.
    pub client_id_is_username: bool,
}

/// What was made of the sources.
#[derive(Clone, Debug)]
pub struct Import {
    /// The set of changes: each user and role must not be there yet (version 0). Holds password hashes.
    pub document: Document,
    /// What became of each line.
    pub report: Report,
    /// For broker.toml, which alone can define users without a proof; empty where there is nothing.
    pub configuration: String,
}

/// Maps what the sources say.
///
/// ```
/// use portcullis::import::{Options, Sources, import};
///
/// let (passwords, acls) = (None, Some(&b"user ada\ntopic read plant/#\n"[..]));
/// let options = Options { certificates: true, ..Options::default() };
/// let made = import(Sources::Files { passwords, acls }, options)?;
/// assert_eq!(made.document.user.len(), 1);
/// # Ok::<(), portcullis::import::ImportError>(())
/// ```
///
/// # Errors
/// [`ImportError`], with line and column, for what mosquitto itself would not load or would read in more than one way.
pub fn import(sources: Sources<'_>, options: Options) -> Result<Import, ImportError> {
    match sources {
        Sources::Files { passwords, acls } => {
            let passwords = passwords.map(passwords::parse).transpose()?;
            let acls = acls.map(acls::parse).transpose()?;
            files::map(&passwords.unwrap_or_default(), &acls.unwrap_or_default(), options)
        }
        Sources::DynamicSecurity(text) => dynamic_security::map(text, options),
    }
}

/// The text of a source, if it is one.
fn text(source: Source, bytes: &[u8]) -> Result<&str, ImportError> {
    if bytes.len() > MAX_SOURCE_BYTES {
        return Err(ImportError::at(source, None, format!("it has {} bytes; at most 16 MiB are read", bytes.len())));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let before = std::str::from_utf8(before).unwrap_or_default();
        let place =
            (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
        ImportError::at(source, Some(place), "this is no UTF-8")
    })
}

/// The user of clients without credentials, for broker.toml.
fn anonymous(permissions: &[Permission]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "# Clients without credentials. Name the user in the listener that admits them: anonymous = \"anonymous\"\n\
         [[user]]\nusername = \"anonymous\"\nauth = \"none\"\npermissions = [\n",
    );
    for permission in permissions {
        // Both are JSON-compatible TOML: a table of strings.
        let quoted = toml::Value::String(permission.resource.clone());
        let [context, operation] = [words(permission.context), words(permission.operation)];
        let effect = match permission.effect {
            crate::access::Effect::Allow => "",
            crate::access::Effect::Deny => ", effect = \"deny\"",
        };
        let _in_memory =
            writeln!(text, "  {{ context = {context}, operation = {operation}, resource = {quoted}{effect} }},");
    }
    text.push_str("]\n");
    text
}

/// A word of the access model, quoted.
fn words(word: impl serde::Serialize) -> String {
    serde_json::to_string(&word).unwrap_or_default()
}

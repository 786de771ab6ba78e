//! The key that signs heads and anchors, and what it signs.
//!
//! Entering: a path, places in the chain. Leaving: signed statements. The key (Ed25519, RFC 8032) lives in a file of mode
//! 0600 in the data directory and nowhere else; its public half lies beside it, for those who check a head elsewhere.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::Hash;
use crate::files;
use crate::pki::{hex, unhex};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{action} the key of the audit log `{}`: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("`{}` holds no Ed25519 key; restore it from a backup, or move it away: then heads that it signed can no longer be checked", .0.display())]
    NotAKey(PathBuf),
    /// No random numbers.
    #[error("the operating system gives no random numbers for the key of the audit log")]
    Random,
}

/// Ed25519, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// SHA-256 of the 32 bytes: names the key in records and heads.
    pub fn id(&self) -> Hash {
        Hash::of(&[&self.0])
    }

    /// Did this key sign the statement?
    pub fn verifies(&self, statement: &Statement) -> bool {
        let Some(signature) = unhex(&statement.signature) else { return false };
        statement.key == self.id()
            && UnparsedPublicKey::new(&ED25519, self.0).verify(statement.text().as_bytes(), &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

/// What a signature says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// At this time this was the last record.
    Head,
    /// Everything up to this record was pruned.
    Anchor,
}

/// A place in the chain, signed. The signature is over [`Statement::text`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What it says of the record.
    pub purpose: Purpose,
    /// Number of the record.
    pub sequence: u64,
    /// Hash of the record.
    pub hash: Hash,
    /// When it was signed.
    pub time: Timestamp,
    /// SHA-256 of the public key.
    pub key: Hash,
    /// Ed25519 (RFC 8032), in hexadecimal.
    pub signature: String,
}

impl Statement {
    /// The text that is signed: `portcullis-audit-head-v1 SEQUENCE HASH TIME`, or `-anchor-`.
    pub fn text(&self) -> String {
        let purpose = match self.purpose {
            Purpose::Head => "head",
            Purpose::Anchor => "anchor",
        };
        format!("portcullis-audit-{purpose}-v1 {} {} {}", self.sequence, self.hash, self.time)
    }
}

/// The key pair.
pub struct AuditKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl AuditKey {
    /// The file of the key, in the data directory.
    pub const FILE: &'static str = "audit.key";
    /// The file of its public half (PEM, SubjectPublicKeyInfo).
    pub const PUBLIC_FILE: &'static str = "audit.pub";

    /// A key that is kept nowhere.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self::draw()?.0)
    }

    /// The key of the data directory; made when there is none. Says whether it was made.
    ///
    /// # Errors
    /// [`KeyError`]; a key that cannot be read is never replaced.
    pub fn load_or_create(data_dir: &Path) -> Result<(Self, bool), KeyError> {
        if let Some(key) = Self::load(data_dir)? {
            return Ok((key, false));
        }
        let (key, drawn) = Self::draw()?;
        write_new(&data_dir.join(Self::FILE), Zeroizing::new(drawn.serialize_pem()).as_bytes(), 0o600)?;
        let path = data_dir.join(Self::PUBLIC_FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(KeyError::File { action: "cannot replace the public half of", path, source });
            }
            _ => write_new(&path, drawn.public_key_pem().as_bytes(), 0o644)?,
        }
        Ok((key, true))
    }

    /// The key of the data directory, if there is one.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(data_dir: &Path) -> Result<Option<Self>, KeyError> {
        let path = data_dir.join(Self::FILE);
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeyError::File { action: "cannot read", path, source }),
        };
        let block = x509_parser::pem::parse_x509_pem(&text).ok().filter(|(_, block)| block.label == "PRIVATE KEY");
        let der = block.map(|(_, block)| Zeroizing::new(block.contents));
        let pair = der.and_then(|der| Ed25519KeyPair::from_pkcs8(&der).ok());
        pair.map(Self::of).unwrap_or(Err(KeyError::NotAKey(path))).map(Some)
    }

    fn draw() -> Result<(Self, rcgen::KeyPair), KeyError> {
        let drawn = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|_| KeyError::Random)?;
        let der = Zeroizing::new(drawn.serialize_der());
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Random)?;
        Ok((Self::of(pair)?, drawn))
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref()).map_err(|_| KeyError::Random)?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs a place in the chain.
    pub(super) fn sign(&self, purpose: Purpose, sequence: u64, hash: Hash, time: Timestamp) -> Statement {
        let key = self.public.id();
        let unsigned = Statement { purpose, sequence, hash, time, key, signature: String::new() };
        let signature = self.pair.sign(unsigned.text().as_bytes());
        let signature = hex(signature.as_ref());
        Statement { signature, ..unsigned }
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({:?})", self.public)
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), KeyError> {
    let failed = |source| KeyError::File { action: "cannot write", path: path.to_owned(), source };
    files::write_new(path, content, mode).map_err(failed)
}

//! Door 2: a CONNECT with an unknown user name and a password, from any MQTT client.
//!
//! Entering: a name and a password that have opened nothing. Leaving: what to tell the client, and perhaps a request on record.
//! Never: a difference, in words or in work, between a name that nobody has and one that somebody has. Both take one argon2 and one write to
//! the disk, and then wait, with a code that is a keyed hash of the name and of what argon2id makes of the password; only the operator sees for which of them there is a request.

use std::sync::Arc;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret as _, SecretString};

use super::commit::Inner;
use super::core::Facts;
use super::jobs::Work;
use super::message::RegisterMessage;
use super::operator::RegistryError;
use super::service::{Finding, Registry, WRONG_PROOF};
use super::settings::Origin;
use crate::access::Username;
use crate::audit::Note;
use crate::authn::{SALT_BYTES, Source};
use crate::directory::{Actor, Transaction};
use crate::pki::{PairingCode, hex, unhex};
use crate::store::{Batch, Store, Table};

/// Keys that outlive the run.
const KEYS: Table<String, String> = Table::new("registry_keys", 1);

/// That of the codes: with another one after a restart, a code that stays would tell that there is a request.
const CODES: &str = "codes";

/// What is written in place of a request; one record, again and again. No table of the registry: what becomes of it matters to nobody.
const PADDING: Table<String, String> = Table::new("padding", 1);

const NOTHING: &str = "nothing";

/// Of a request by password, about.
const REQUEST_BYTES: usize = 600;

/// What a client is told whose CONNECT has opened nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knock {
    /// The door is shut for it. Nothing was recorded.
    Shut,
    /// It waits, or so it is told.
    Waiting(PairingCode),
    /// The operator has turned it down, for this reason. Said to who has given the proof of the request; or to everybody whom a rule
    /// denies, whose name it is or not.
    Denied(String),
    /// Nobody may have such a password: what it lacks.
    Weak(String),
    /// Too much at once.
    Busy,
}

impl Registry {
    /// Somebody has given a name and a password that open nothing. To be called after the argon2 of that, at a listener that
    /// admits registrations.
    pub async fn knock(&self, username: &Username, password: &[u8], origin: &Origin) -> Knock {
        let inner = self.inner();
        let (name, asked) = (username.clone(), origin.clone());
        let admits = move |inner: &Inner| {
            let Origin { source, listener, door, .. } = &asked;
            Ok(inner.state.lock().core.lock().admits(*source, listener, &name, *door, inner.now()))
        };
        // An order of the operator may hold the table for as long as a commit takes.
        if !self.blocking(admits).await.unwrap_or(false) {
            return Knock::Shut;
        }
        let Ok(text) = str::from_utf8(password) else {
            return Knock::Weak("a password to enrol with is text, in UTF-8".to_owned());
        };
        if let Err(lacks) = inner.hasher.check(text) {
            return Knock::Weak(lacks);
        }
        if self.limit(origin).is_err() {
            return Knock::Busy;
        }
        let source = Source::from(origin.source);
        // Before anything depends on whose name it is.
        let Ok(stretched) = inner.hasher.stretch(source, text, inner.implicit_salt(username)).await else {
            return Knock::Busy;
        };
        let code = inner.implicit_code(username, &SecretString::from(stretched));
        let Some(job) = inner.jobs.begin(Work::Password) else { return Knock::Busy };
        let password = SecretString::from(text);
        let mut facts = Facts::default();
        // The login that the CONNECT was has been admitted, and counted as a failure, before we were asked.
        let decided = if username.is_reserved() {
            None
        } else {
            let message = Arc::new(RegisterMessage::of_password(username.clone(), password.clone(), code));
            Some(self.decide(message, job, origin, Arc::default(), &mut facts).await)
        };
        inner.rates.lock().charge(source, WRONG_PROOF, inner.clock.instant());
        if !facts.have_cost() {
            let floor = inner.directory.policy().costliest_pbkdf2();
            // One argon2 for everybody.
            if inner.hasher.verify(source, text, (None, floor), Arc::default()).await.is_err() {
                return Knock::Busy;
            }
        }
        if !matches!(decided, Some((_, Finding::New | Finding::Unknown))) {
            // One wait for the disk, too. What becomes of it is no more told than whether a request was recorded.
            let _ = self.blocking(Inner::write_as_a_request).await;
        }
        let Some((answer, _)) = decided else { return Knock::Waiting(code) };
        self.count(&answer);
        match (answer.status, answer.error) {
            (403, Some("denied" | "rule")) => Knock::Denied(answer.reason.unwrap_or_default()),
            (429, Some("busy")) => Knock::Busy,
            // It was shut in the meantime, for whatever name.
            (423, _) => Knock::Shut,
            // Also where the name is taken, the table is full, or the disk: none of which may show. And where a rule has granted it
            // this moment: the next CONNECT succeeds.
            _ => Knock::Waiting(answer.pairing_code.unwrap_or(code)),
        }
    }
}

impl Inner {
    /// Writes what is as long as a small request, and says nothing, the way that a request takes to the disk.
    fn write_as_a_request(&self) -> Result<(), RegistryError> {
        let mut records = Batch::new();
        records.put(&PADDING, &NOTHING.to_owned(), &"0".repeat(REQUEST_BYTES))?;
        let transaction = Transaction { changes: Vec::new(), records };
        self.directory.commit_noted(transaction, &Actor::Registry, Note::default())?;
        Ok(())
    }

    /// The pairing code of whoever gives this name with this password at door 2, whether there is a request or not. It is kept, and its
    /// key beside it: so it is made of the password as argon2id leaves it, and whoever has the disk guesses no faster than at any hash.
    fn implicit_code(&self, username: &Username, stretched: &SecretString) -> PairingCode {
        PairingCode::from_bytes(self.keyed(b"code", username, stretched.expose_secret().as_bytes()))
    }

    /// Of the name alone, so that the code stays the same.
    fn implicit_salt(&self, username: &Username) -> [u8; SALT_BYTES] {
        self.keyed(b"salt", username, &[])
    }

    fn keyed<const N: usize>(&self, purpose: &[u8], username: &Username, text: &[u8]) -> [u8; N] {
        let mut context = hmac::Context::with_key(&self.code_key);
        // No purpose and no user name holds a NUL.
        for part in [purpose, &[0], username.as_str().as_bytes(), &[0], text] {
            context.update(part);
        }
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        bytes
    }
}

/// The key of the codes: the one of the store, or a new one that is put there.
pub(super) fn code_key(store: &dyn Store) -> Result<hmac::Key, RegistryError> {
    let name = CODES.to_owned();
    if let Some(text) = KEYS.get(store, &name)? {
        let key = unhex(&text).ok_or_else(|| RegistryError::Damaged("the key of the pairing codes is none".into()))?;
        return Ok(hmac::Key::new(hmac::HMAC_SHA256, &key));
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key)
        .map_err(|_| RegistryError::Damaged("the operating system gave no random numbers".into()))?;
    let mut batch = Batch::new();
    batch.put(&KEYS, &name, &hex(&key))?;
    store.commit(batch)?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

//! From no identity to a certificate: ask, show the pairing code, wait, collect.
//!
//! Enters: a [`Device`]. Leaves: its files, and what happens on the way as [`Progress`]. A connection that breaks is made
//! again; an answer that says "later" is heeded. Never: a second key because an answer was lost.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use rcgen::KeyPair;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::connection::{Broken, Connection, Reply};
use super::credentials::{Credentials, certificates};
use super::key;
use super::{Address, DeviceError};
use crate::access::{RoleName, Username};
use crate::mqtt::ClientId;
use crate::pki::PairingCode;

/// How long to wait before a broken connection is made again: the first time, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Where the broker does not say when to come back.
const COME_BACK: Duration = Duration::from_secs(30);

/// What happens on the way to a certificate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// The registry is locked: asked again after this time.
    Locked(Duration),
    /// The request is on record, and a person has to decide.
    Pending {
        /// To be compared with what the operator sees; computed from the key, without the broker.
        pairing_code: PairingCode,
        /// When the request lapses.
        expires_at: Option<Timestamp>,
    },
    /// Not now: tried again after this time.
    Later {
        /// How long.
        after: Duration,
        /// What stands in the way.
        why: String,
    },
    /// The certificate is there.
    Granted {
        /// Its end.
        not_after: Timestamp,
    },
    /// The certificate is there already, and good.
    Enrolled {
        /// Its end.
        not_after: Timestamp,
    },
    /// Another certificate has taken the place of the old one.
    Renewed {
        /// Its end.
        not_after: Timestamp,
    },
}

/// A device that gets its identity from a broker.
///
/// ```no_run
/// use std::time::Duration;
/// use portcullis::device::{Credentials, Device};
///
/// let files = Credentials::new("/var/lib/pump", "pump-7".parse()?);
/// let trust = std::fs::read("/etc/pump/ca.pem")?;
/// let device = Device::new("mqtts://broker.plant.example".parse()?, &trust, files)?;
/// device.enrol(Duration::from_hours(24), &mut |progress| println!("{progress:?}"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) address: Address,
    pub(super) trust: Vec<Vec<u8>>,
    pub(super) files: Credentials,
    pub(super) client_id: ClientId,
    context: Option<Value>,
    roles: Vec<RoleName>,
    token: Option<SecretString>,
}

/// What one connection came to.
pub(super) enum Outcome {
    Granted(Box<Reply>),
    /// Come back on a new connection, after this time.
    Again(Duration),
}

impl Device {
    /// A device that trusts the CA certificates of this PEM text.
    ///
    /// # Errors
    /// There is no certificate in `trust`.
    pub fn new(address: Address, trust: &[u8], files: Credentials) -> Result<Self, DeviceError> {
        let trust = certificates(trust);
        if trust.is_empty() {
            return Err(DeviceError::Connection("the trust bundle holds no certificate (PEM)".to_owned()));
        }
        let client_id = default_client_id(files.name());
        Ok(Self { address, trust, files, client_id, context: None, roles: Vec::new(), token: None })
    }

    /// What it tells about itself: any JSON of at most 4 KiB, shown to the operator.
    #[must_use]
    pub fn with_context(mut self, context: Value) -> Self {
        self.context = Some(context);
        self
    }

    /// Roles that it would like; the operator decides.
    #[must_use]
    pub fn with_roles(mut self, roles: Vec<RoleName>) -> Self {
        self.roles = roles;
        self
    }

    /// A claim token, with which nobody has to decide. It is sent over TLS, to a broker of the trust bundle alone, and only until
    /// there is a certificate.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<SecretString>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The client identifier of the connections that renew; default is the name and `~renewal`. It must not be the one that the
    /// device itself uses: the two would take over each other's session.
    #[must_use]
    pub fn with_client_id(mut self, client_id: ClientId) -> Self {
        self.client_id = client_id;
        self
    }

    /// Its files.
    pub fn files(&self) -> &Credentials {
        &self.files
    }

    /// Makes a key if there is none, asks for a certificate, and waits for it. Gives the end of the certificate, at once when
    /// there is a good one; one that has lapsed is renewed. A wait of zero asks once.
    ///
    /// # Errors
    /// The registry says no, the broker is not the one that was named, a file cannot be used, or `patience` is over.
    pub fn enrol(&self, patience: Duration, tell: &mut dyn FnMut(Progress)) -> Result<Timestamp, DeviceError> {
        if let Some(current) = self.files.current()? {
            let not_after = current.leaf.not_after();
            if not_after <= Timestamp::now() {
                return self.renew(patience, tell);
            }
            tell(Progress::Enrolled { not_after });
            return Ok(not_after);
        }
        let key = self.files.key_to_enrol()?;
        let pairing_code = key::pairing_code(&key)?;
        let reply = persevere(patience, tell, |until, tell| self.ask_for_it(&key, pairing_code, until, tell))?;
        let not_after = self.collect(&key, &reply)?;
        tell(Progress::Granted { not_after });
        Ok(not_after)
    }

    /// One connection, as long as it lasts and there is something to wait for.
    fn ask_for_it(
        &self,
        key: &KeyPair,
        pairing_code: PairingCode,
        until: Instant,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, Broken> {
        let anonymous = ClientId::default();
        let mut connection = Connection::open(&self.address, &self.trust, None, &anonymous)?;
        connection.listen("register")?;
        let mut question = self.question(key, None).map_err(Broken::Final)?;
        let mut asked_for_nonce = false;
        let mut reply = connection.ask("register", &question)?;
        loop {
            let later = Duration::from_secs(reply.retry_after.unwrap_or(COME_BACK.as_secs()));
            match reply.status {
                201 => {
                    connection.close();
                    return Ok(Outcome::Granted(Box::new(reply)));
                }
                202 => {
                    if reply.pairing_code.as_ref().is_some_and(|code| *code != pairing_code.to_string()) {
                        let error = "the broker shows another pairing code than the key has";
                        return Err(Broken::Final(DeviceError::Answer(error.to_owned())));
                    }
                    tell(Progress::Pending { pairing_code, expires_at: reply.expires_at });
                }
                423 => tell(Progress::Locked(later)),
                429 | 500..=599 => {
                    tell(Progress::Later { after: later, why: reply.message.unwrap_or_default() });
                    connection.close();
                    return Ok(Outcome::Again(later));
                }
                422 if !asked_for_nonce => {
                    asked_for_nonce = true;
                    let nonce = nonce(&mut connection)?;
                    question = self.question(key, Some(&nonce)).map_err(Broken::Final)?;
                    reply = connection.ask("register", &question)?;
                    continue;
                }
                _ => return Err(Broken::Final(reply.refusal())),
            }
            let wake = Instant::now().checked_add(later).map_or(until, |at| at.min(until));
            reply = match connection.pushed(wake)? {
                Some(pushed) => pushed,
                None if Instant::now() >= until => {
                    connection.close();
                    return Ok(Outcome::Again(Duration::ZERO));
                }
                // A nonce is for the request; the poll is known by name and key.
                None => connection.ask("register", &question)?,
            };
        }
    }

    fn question(&self, key: &KeyPair, nonce: Option<&str>) -> Result<Value, DeviceError> {
        let csr = key::request(key, self.files.name(), nonce)?;
        let mut question =
            Map::from_iter([("username".to_owned(), json!(self.files.name())), ("csr".to_owned(), csr.into())]);
        question.extend(self.context.clone().map(|context| ("context".to_owned(), context)));
        if !self.roles.is_empty() {
            question.insert("roles".to_owned(), json!(self.roles));
        }
        if let Some(token) = &self.token {
            question.insert("token".to_owned(), token.expose_secret().into());
        }
        Ok(question.into())
    }

    fn collect(&self, key: &KeyPair, reply: &Reply) -> Result<Timestamp, DeviceError> {
        let (text, bundle) = texts(reply)?;
        let key = KeyPair::try_from(key.serialize_der()).map_err(|error| DeviceError::Key(error.to_string()))?;
        let granted = self.files.check(key, &text)?;
        self.files.keep(&text, bundle)?;
        Ok(granted.leaf.not_after())
    }
}

/// The certificate with its chain, and the trust bundle.
pub(super) fn texts(reply: &Reply) -> Result<(String, &str), DeviceError> {
    let missing = |what: &str| DeviceError::Answer(format!("it holds no `{what}`"));
    let certificate = reply.certificate.as_deref().ok_or_else(|| missing("certificate"))?;
    let bundle = reply.ca.as_deref().ok_or_else(|| missing("ca"))?;
    if certificates(bundle.as_bytes()).is_empty() {
        return Err(DeviceError::Answer("its `ca` is no certificate".to_owned()));
    }
    Ok((format!("{certificate}{}", reply.chain.as_deref().unwrap_or_default()), bundle))
}

/// A fresh nonce for this connection.
pub(super) fn nonce(connection: &mut Connection) -> Result<String, Broken> {
    connection.listen("challenge")?;
    let reply = connection.ask("challenge", &json!({}))?;
    match reply.nonce {
        Some(nonce) => Ok(nonce),
        None => Err(Broken::Final(reply.refusal())),
    }
}

/// Tries until it is done, given up for good, or `patience` is over.
pub(super) fn persevere(
    patience: Duration,
    tell: &mut dyn FnMut(Progress),
    mut attempt: impl FnMut(Instant, &mut dyn FnMut(Progress)) -> Result<Outcome, Broken>,
) -> Result<Box<Reply>, DeviceError> {
    let begin = Instant::now();
    let until = begin.checked_add(patience).unwrap_or(begin);
    let mut last = "nothing".to_owned();
    let mut back_off = BACK_OFF.0;
    loop {
        // Every attempt leaves word of what it met.
        let mut noted = |progress: Progress| {
            if let Some(what) = obstacle(&progress) {
                last = what;
            }
            tell(progress);
        };
        let pause = match attempt(until, &mut noted) {
            Ok(Outcome::Granted(reply)) => return Ok(reply),
            Ok(Outcome::Again(pause)) => {
                back_off = BACK_OFF.0;
                pause
            }
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Lost(why)) => {
                let pause = jittered(back_off);
                back_off = (back_off * 2).min(BACK_OFF.1);
                noted(Progress::Later { after: pause, why });
                pause
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        if left <= pause {
            std::thread::sleep(left);
            return Err(DeviceError::GivenUp { waited: begin.elapsed(), last });
        }
        std::thread::sleep(pause);
    }
}

fn obstacle(progress: &Progress) -> Option<String> {
    match progress {
        Progress::Locked(_) => Some("the registry is locked".to_owned()),
        Progress::Pending { .. } => Some("nobody has decided yet".to_owned()),
        Progress::Later { why, .. } => Some(why.clone()),
        _ => None,
    }
}

/// Up to a quarter more or less, so that a fleet does not come back in one moment.
pub(super) fn jittered(time: Duration) -> Duration {
    let mut drawn = [0];
    // Without random numbers it is the time as it is.
    let drawn = getrandom::fill(&mut drawn).map_or(128, |()| u32::from(drawn[0]));
    time * 3 / 4 + time * drawn / 512
}

/// `~` stands in no username: no other user's pattern with `${username}` before it can match.
fn default_client_id(name: &Username) -> ClientId {
    ClientId::try_from(format!("{name}~renewal").as_str()).unwrap_or_default()
}

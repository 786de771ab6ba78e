//! From no identity to a certificate: ask, show the pairing code, wait, collect.
//!
//! Enters: a [`Device`]. Leaves: its files, and what happens on the way as [`Progress`]. A connection that breaks is made
//! again; an answer that says "later" is heeded. Never: a second key because an answer was lost, or a key on the disk for
//! a name that the registry does not take.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rcgen::KeyPair;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::connection::{Broken, Connection, Heard, Reply};
use super::credentials::Credentials;
use super::key;
use super::trust::Trust;
use super::{Address, DeviceError};
use crate::access::{RoleName, Username};
use crate::mqtt::ClientId;
use crate::pki::PairingCode;

/// How long to wait before a broken connection is made again: the first time, and at most.
pub(super) const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How often a wait looks whether it is to end.
const LOOK: Duration = Duration::from_secs(1);
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
    /// Connected, to hear when the certificate should be renewed or the CA changes.
    Connected {
        /// When it is renewed if nothing is heard.
        due: Timestamp,
    },
}

/// A device that gets its identity from a broker.
///
/// ```no_run
/// use std::time::Duration;
/// use portcullis::device::{Credentials, Device};
///
/// let files = Credentials::new("/var/lib/pump", "pump-7".parse()?);
/// let device = Device::trusting("mqtts://broker.plant.example".parse()?, "/etc/pump/ca.pem", files)?;
/// device.enrol(Duration::from_hours(24), &mut |progress| println!("{progress:?}"))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Device {
    pub(super) address: Address,
    pub(super) trust: Trust,
    pub(super) files: Credentials,
    pub(super) client_id: ClientId,
    context: Option<Value>,
    roles: Vec<RoleName>,
    token: Option<SecretString>,
    stop: Option<Arc<AtomicBool>>,
}

/// What one connection came to.
pub(super) enum Outcome {
    /// The certificate is on the disk, and good until then.
    Done(Timestamp),
    /// Come back on a new connection, after this time.
    Again(Duration),
}

impl Device {
    /// A device that trusts the CA certificates of this PEM text, for good, and those of its own [bundle](Credentials::trust). The
    /// text may be empty when there is a bundle: the device has enrolled before.
    ///
    /// # Errors
    /// There is no certificate in either, or one that cannot be used.
    pub fn new(address: Address, trust: &[u8], files: Credentials) -> Result<Self, DeviceError> {
        let trust = Trust::of_pem(trust, &files)?;
        Ok(Self::with(address, trust, files))
    }

    /// The same for a file, which is read again for each connection and never written. It need not be there when the device has a
    /// bundle of its own.
    ///
    /// # Errors
    /// As [`Device::new`]; or the file is one that the device itself writes, or cannot be read.
    pub fn trusting(address: Address, trust: impl Into<PathBuf>, files: Credentials) -> Result<Self, DeviceError> {
        let trust = Trust::of_file(trust.into(), &files)?;
        Ok(Self::with(address, trust, files))
    }

    fn with(address: Address, trust: Trust, files: Credentials) -> Self {
        let client_id = default_client_id(files.name());
        Self { address, trust, files, client_id, context: None, roles: Vec::new(), token: None, stop: None }
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

    /// The client identifier of the connections with a certificate; default is the name and `~renewal`. It must not be the one that
    /// the device itself uses: the two would take over each other's session.
    #[must_use]
    pub fn with_client_id(mut self, client_id: ClientId) -> Self {
        self.client_id = client_id;
        self
    }

    /// Ends every wait when this becomes true, which is looked at once a second; a connection attempt or an answer that is due is
    /// still waited for, at most 30 seconds. Without it, waiting ends with `patience`, and [`Device::keep`] never.
    #[must_use]
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
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
        let (key, is_new) = self.files.key_to_enrol()?;
        let pairing_code = key::pairing_code(&key)?;
        let mut known = Known::default();
        let outcome =
            self.persevere(patience, tell, |until, tell| self.ask_for_it(&key, pairing_code, &mut known, until, tell));
        let not_after = match outcome {
            Ok(not_after) => not_after,
            Err(error) => {
                if is_new && known.is_of_no_use(&error) {
                    self.files.forget_key()?;
                }
                return Err(error);
            }
        };
        tell(Progress::Granted { not_after });
        Ok(not_after)
    }

    /// One connection, as long as it lasts and there is something to wait for.
    fn ask_for_it(
        &self,
        key: &KeyPair,
        pairing_code: PairingCode,
        known: &mut Known,
        until: Instant,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Outcome, Broken> {
        let anonymous = ClientId::default();
        let mut connection = Connection::open(&self.address, &self.trust, None, &anonymous)?;
        connection.listen("register")?;
        let mut question = self.question(key, None).map_err(Broken::Final)?;
        let mut asked_for_nonce = false;
        known.asked = true;
        let mut reply = connection.ask("register", &question)?;
        loop {
            let later = Duration::from_secs(reply.retry_after.unwrap_or(COME_BACK.as_secs()));
            match reply.status {
                201 => {
                    let not_after = self.collect(key, &reply, &connection).map_err(Broken::Final)?;
                    connection.close();
                    return Ok(Outcome::Done(not_after));
                }
                202 => {
                    known.pending = true;
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
            reply = match self.hear(&mut connection, wake)? {
                Some(Heard::Answer(pushed)) => *pushed,
                None if Instant::now() >= until => {
                    connection.close();
                    return Ok(Outcome::Again(Duration::ZERO));
                }
                // A nonce is for the request; the poll is known by name and key.
                Some(Heard::Invitation) | None => connection.ask("register", &question)?,
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

    fn collect(&self, key: &KeyPair, reply: &Reply, connection: &Connection) -> Result<Timestamp, DeviceError> {
        let text = chained(reply)?;
        let key = KeyPair::try_from(key.serialize_der()).map_err(|error| DeviceError::Key(error.to_string()))?;
        let granted = self.files.check(key, &text)?;
        self.learn(reply, connection)?;
        self.files.keep(&text)?;
        Ok(granted.leaf.not_after())
    }

    /// Keeps the trust bundle of an answer, before whatever else the answer brings.
    pub(super) fn learn(&self, reply: &Reply, connection: &Connection) -> Result<(), DeviceError> {
        let bundle = reply.ca.as_deref().ok_or_else(|| DeviceError::Answer("it holds no `ca`".to_owned()))?;
        self.trust.learn(bundle, connection.verified_by())
    }

    /// Tries until it is done, given up for good, stopped, or `patience` is over.
    pub(super) fn persevere(
        &self,
        patience: Duration,
        tell: &mut dyn FnMut(Progress),
        mut attempt: impl FnMut(Instant, &mut dyn FnMut(Progress)) -> Result<Outcome, Broken>,
    ) -> Result<Timestamp, DeviceError> {
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
                Ok(Outcome::Done(not_after)) => return Ok(not_after),
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
            self.pause(left.min(pause))?;
            if left <= pause {
                return Err(DeviceError::GivenUp { waited: begin.elapsed(), last });
            }
        }
    }

    /// Waits, unless it is to end.
    pub(super) fn pause(&self, time: Duration) -> Result<(), DeviceError> {
        let begin = Instant::now();
        loop {
            self.go_on()?;
            let left = time.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(self.at_once(left));
        }
    }

    /// What the registry says until then, unless it is to end.
    pub(super) fn hear(&self, connection: &mut Connection, until: Instant) -> Result<Option<Heard>, Broken> {
        loop {
            self.go_on().map_err(Broken::Final)?;
            let now = Instant::now();
            let wait = self.at_once(until.saturating_duration_since(now));
            let heard = connection.hear(now.checked_add(wait).unwrap_or(until))?;
            if heard.is_some() || Instant::now() >= until {
                return Ok(heard);
            }
        }
    }

    fn go_on(&self) -> Result<(), DeviceError> {
        let is_over = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
        if is_over { Err(DeviceError::Stopped) } else { Ok(()) }
    }

    /// So much of a wait before it is looked whether it is to end.
    fn at_once(&self, time: Duration) -> Duration {
        if self.stop.is_some() { time.min(LOOK) } else { time }
    }
}

/// What the registry may know of a key.
#[derive(Default)]
struct Known {
    /// It was sent.
    asked: bool,
    /// It is on record.
    pending: bool,
}

impl Known {
    /// Is a key that was made for this attempt of no use any more? A request that was denied is known again by its key.
    fn is_of_no_use(&self, error: &DeviceError) -> bool {
        match error {
            DeviceError::GivenUp { .. } | DeviceError::Refused { status: 403, .. } => false,
            DeviceError::Refused { .. } => !self.pending,
            _ => !self.asked,
        }
    }
}

/// The certificate with its chain.
pub(super) fn chained(reply: &Reply) -> Result<String, DeviceError> {
    let certificate = reply.certificate.as_deref();
    let certificate = certificate.ok_or_else(|| DeviceError::Answer("it holds no `certificate`".to_owned()))?;
    Ok(format!("{certificate}{}", reply.chain.as_deref().unwrap_or_default()))
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

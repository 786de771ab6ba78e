//! Another certificate before the old one ends.
//!
//! Enters: a [`Device`] with a certificate, which may have lapsed. Leaves: a new key with its certificate in the place of the
//! old ones, after a connection with them has shown that they are good; the broker retires the old certificate by that
//! connection. Never: a moment without a pair that works, if there was one.

use std::time::Duration;

use jiff::Timestamp;
use rcgen::KeyPair;
use serde_json::json;

use super::connection::{Broken, Connection, Reply};
use super::credentials::Current;
use super::enrolment::{Outcome, jittered, nonce, persevere, texts};
use super::{Device, DeviceError, Progress, key};
use crate::mqtt::ClientId;

/// Longest sleep of [`Device::keep`]: a clock that was set is noticed after this.
const NAP: Duration = Duration::from_mins(10);
/// How long one renewal may take before [`Device::keep`] looks again at what it has.
const RENEWAL: Duration = Duration::from_hours(1);

impl Device {
    /// When the certificate should be renewed: at two thirds of its life.
    ///
    /// # Errors
    /// There is none, or a file cannot be used.
    pub fn due(&self) -> Result<Timestamp, DeviceError> {
        Ok(self.now_held()?.due())
    }

    /// Asks for another certificate with a new key, whatever the age of the old one, and puts it in its place. Gives its end.
    /// A certificate that has lapsed is renewed in grace, as long as the broker grants that.
    ///
    /// # Errors
    /// As [`Device::enrol`]; the old certificate stays then.
    pub fn renew(&self, patience: Duration, tell: &mut dyn FnMut(Progress)) -> Result<Timestamp, DeviceError> {
        let current = self.now_held()?;
        let mut not_after = current.leaf.not_after();
        let renewed = persevere(patience, tell, |_, _| self.ask_to_renew(&current, &mut not_after));
        if let Err(error @ DeviceError::Refused { .. }) = renewed {
            self.files.abandon()?;
            return Err(error);
        }
        renewed?;
        tell(Progress::Renewed { not_after });
        Ok(not_after)
    }

    /// Enrols, and then renews when it is time, for ever. `patience` is for the enrolment.
    ///
    /// # Errors
    /// What trying again does not mend: the registry says no, or a file cannot be used.
    pub fn keep(&self, patience: Duration, tell: &mut dyn FnMut(Progress)) -> Result<(), DeviceError> {
        self.enrol(patience, tell)?;
        loop {
            let left = self.due()?.duration_since(Timestamp::now());
            if left.is_positive() {
                let left = Duration::try_from(left).unwrap_or(NAP);
                std::thread::sleep(jittered(left.min(NAP)));
                continue;
            }
            match self.renew(RENEWAL, tell) {
                // There is time left, and somebody else may mend what is broken.
                Err(DeviceError::GivenUp { .. }) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn now_held(&self) -> Result<Current, DeviceError> {
        self.files.current()?.ok_or_else(|| DeviceError::NotEnrolled(self.files.certificate()))
    }

    fn ask_to_renew(&self, current: &Current, not_after: &mut Timestamp) -> Result<Outcome, Broken> {
        let key = self.files.key_to_renew().map_err(Broken::Final)?;
        let reply = if Timestamp::now() < current.leaf.not_after() {
            self.ask_in_session(current, &key)?
        } else {
            self.ask_in_grace(current, &key)?
        };
        match reply.status {
            201 => {}
            423 | 429 | 500..=599 => {
                return Ok(Outcome::Again(Duration::from_secs(reply.retry_after.unwrap_or(60))));
            }
            _ => return Err(Broken::Final(reply.refusal())),
        }
        let (text, bundle) = texts(&reply).map_err(Broken::Final)?;
        let next = self.files.keep_next(key, &text).map_err(Broken::Final)?;
        // The first connection with the new certificate retires the old one: only then it takes its place.
        Connection::open(&self.address, &self.trust, Some(&next.identity()), &self.client_id)?.close();
        self.files.promote(bundle).map_err(Broken::Final)?;
        *not_after = next.leaf.not_after();
        Ok(Outcome::Granted(Box::new(reply)))
    }

    /// The old certificate opens the connection.
    fn ask_in_session(&self, current: &Current, key: &KeyPair) -> Result<Reply, Broken> {
        let identity = current.identity();
        let mut connection = Connection::open(&self.address, &self.trust, Some(&identity), &self.client_id)?;
        connection.listen("renew")?;
        let csr = key::request(key, self.files.name(), None).map_err(Broken::Final)?;
        let reply = connection.ask("renew", &json!({ "csr": csr }))?;
        connection.close();
        Ok(reply)
    }

    /// TLS does not let a certificate in that has lapsed: the old key signs a nonce instead.
    fn ask_in_grace(&self, current: &Current, key: &KeyPair) -> Result<Reply, Broken> {
        let mut connection = Connection::open(&self.address, &self.trust, None, &ClientId::default())?;
        connection.listen("renew")?;
        let nonce = nonce(&mut connection)?;
        let csr = key::request(key, self.files.name(), None).map_err(Broken::Final)?;
        let signature = key::signature(&current.key, &nonce, &csr).map_err(Broken::Final)?;
        let certificate = crate::pki::pem("CERTIFICATE", current.leaf.der());
        let question = json!({ "csr": csr, "certificate": certificate, "signature": signature, "nonce": nonce });
        let reply = connection.ask("renew", &question)?;
        connection.close();
        Ok(reply)
    }
}

//! Another certificate before the old one ends.
//!
//! Enters: a [`Device`] with a certificate, which may have lapsed. Leaves: a new key with its certificate in the place of the
//! old ones, after a connection with them has shown that they are good; the broker retires the old certificate by that
//! connection. Never: a moment without a pair that works, if there was one; another request because an answer was lost.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::connection::{Broken, Connection, Reply};
use super::credentials::Current;
use super::enrolment::{Outcome, chained, nonce};
use super::{Device, DeviceError, Progress, key};
use crate::mqtt::ClientId;

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
        let renewed = self.persevere(patience, tell, |_, _| self.ask_to_renew(&current));
        if let Err(DeviceError::Refused { .. }) = renewed {
            self.files.abandon()?;
        }
        let not_after = renewed?;
        tell(Progress::Renewed { not_after });
        Ok(not_after)
    }

    pub(super) fn now_held(&self) -> Result<Current, DeviceError> {
        self.files.current()?.ok_or_else(|| DeviceError::NotEnrolled(self.files.certificate()))
    }

    fn ask_to_renew(&self, current: &Current) -> Result<Outcome, Broken> {
        // The connection with the new certificate broke: the broker may have retired the old one by it already.
        if let Some(next) = self.files.next().map_err(Broken::Final)? {
            return self.take_over(&next);
        }
        let (key, csr) = self.files.next_to_ask_for().map_err(Broken::Final)?;
        let (reply, connection) = if Timestamp::now() < current.leaf.not_after() {
            self.ask_in_session(current, &csr)?
        } else {
            self.ask_in_grace(current, &csr)?
        };
        match reply.status {
            201 => {}
            423 | 429 | 500..=599 => {
                connection.close();
                return Ok(Outcome::Again(Duration::from_secs(reply.retry_after.unwrap_or(60))));
            }
            _ => return Err(Broken::Final(reply.refusal())),
        }
        let text = chained(&reply).map_err(Broken::Final)?;
        self.learn(&reply, &connection).map_err(Broken::Final)?;
        connection.close();
        let next = self.files.keep_next(key, &text).map_err(Broken::Final)?;
        let taken = self.take_over(&next);
        if let Err(Broken::Final(DeviceError::Connection(_))) = &taken {
            // It was never good for anything: the old one still is.
            self.files.abandon().map_err(Broken::Final)?;
        }
        taken
    }

    /// The first connection with the new certificate retires the old one: only then it takes its place.
    fn take_over(&self, next: &Current) -> Result<Outcome, Broken> {
        Connection::open(&self.address, &self.trust, Some(&next.identity()), &self.client_id)?.close();
        self.files.promote().map_err(Broken::Final)?;
        Ok(Outcome::Done(next.leaf.not_after()))
    }

    /// The old certificate opens the connection.
    fn ask_in_session(&self, current: &Current, csr: &str) -> Result<(Reply, Connection), Broken> {
        let identity = current.identity();
        let mut connection = Connection::open(&self.address, &self.trust, Some(&identity), &self.client_id)?;
        connection.listen("renew")?;
        let reply = connection.ask("renew", &json!({ "csr": csr }))?;
        Ok((reply, connection))
    }

    /// TLS does not let a certificate in that has lapsed: the old key signs a nonce instead.
    fn ask_in_grace(&self, current: &Current, csr: &str) -> Result<(Reply, Connection), Broken> {
        let mut connection = Connection::open(&self.address, &self.trust, None, &ClientId::default())?;
        connection.listen("renew")?;
        let nonce = nonce(&mut connection)?;
        let signature = key::signature(&current.key, &nonce, csr).map_err(Broken::Final)?;
        let certificate = crate::pki::pem("CERTIFICATE", current.leaf.der());
        let question = json!({ "csr": csr, "certificate": certificate, "signature": signature, "nonce": nonce });
        let reply = connection.ask("renew", &question)?;
        Ok((reply, connection))
    }
}

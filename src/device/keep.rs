//! A device for ever: enrolled, connected, and renewed when it is time or the broker says so.
//!
//! Enters: a [`Device`]. Leaves: its files, kept good: the certificate by renewals, the trust bundle by what the broker
//! tells of its CA over the connection that is held between them. Never: an end because the network or the broker is away,
//! or because somebody else answers in its place.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::connection::{Broken, Connection, Heard, Reply};
use super::credentials::Current;
use super::enrolment::{BACK_OFF, jittered};
use super::{Device, DeviceError, Progress};

/// Longest wait in one: a clock that was set is noticed after this.
const NAP: Duration = Duration::from_mins(10);
/// How long one renewal may take before it is looked again at what there is.
const RENEWAL: Duration = Duration::from_hours(1);

impl Device {
    /// Enrols, and then holds a connection and renews whenever two thirds of the certificate's life are over or the broker
    /// invites, for ever. What the broker tells of its CA is kept in the device's own [bundle](super::Credentials::trust), so that
    /// a broker with a certificate of its next CA is known too. `patience` is for the enrolment.
    ///
    /// Connections that break are made again, and so are those to a broker that cannot prove to be the one once the device is
    /// enrolled: nothing is sent to it, and its operator may mend that.
    ///
    /// It ends well only when it is [stopped](Device::with_stop).
    ///
    /// # Errors
    /// What trying again does not mend: the registry says no, the broker takes this identity no more, or a file cannot be used.
    pub fn keep(&self, patience: Duration, tell: &mut dyn FnMut(Progress)) -> Result<(), DeviceError> {
        match self.keep_on(patience, tell) {
            Err(DeviceError::Stopped) => Ok(()),
            Err(error) => Err(error),
            Ok(never) => match never {},
        }
    }

    fn keep_on(&self, patience: Duration, tell: &mut dyn FnMut(Progress)) -> Result<Infallible, DeviceError> {
        self.enrol(patience, tell)?;
        let mut back_off = BACK_OFF.0;
        loop {
            let begin = Instant::now();
            let current = self.now_held()?;
            let held = if current.due() <= Timestamp::now() { Ok(()) } else { self.hold(&current, tell) };
            let why = match held {
                Ok(()) => match self.renew(RENEWAL, tell) {
                    Ok(_) => continue,
                    // There is time left, and somebody else may mend what is broken.
                    Err(error @ (DeviceError::GivenUp { .. } | DeviceError::Untrusted(_))) => error.to_string(),
                    Err(error) => return Err(error),
                },
                Err(Broken::Lost(why)) => why,
                Err(Broken::Final(error @ DeviceError::Untrusted(_))) => error.to_string(),
                Err(Broken::Final(error)) => return Err(error),
            };
            if begin.elapsed() > BACK_OFF.1 {
                back_off = BACK_OFF.0;
            }
            let after = jittered(back_off);
            back_off = (back_off * 2).min(BACK_OFF.1);
            tell(Progress::Later { after, why });
            self.pause(after)?;
        }
    }

    /// Connected until it is time to renew.
    fn hold(&self, current: &Current, tell: &mut dyn FnMut(Progress)) -> Result<(), Broken> {
        let due = current.due();
        let mut connection = Connection::open(&self.address, &self.trust, Some(&current.identity()), &self.client_id)?;
        connection.listen("ca")?;
        connection.listen_for_invitation()?;
        let reply = connection.ask("ca", &json!({}))?;
        self.learn_if_told(&reply, &connection)?;
        tell(Progress::Connected { due });
        loop {
            let left = due.duration_since(Timestamp::now());
            if !left.is_positive() {
                break;
            }
            let left = Duration::try_from(left).unwrap_or(NAP).min(NAP);
            let now = Instant::now();
            match self.hear(&mut connection, now.checked_add(left).unwrap_or(now))? {
                Some(Heard::Answer(reply)) => self.learn_if_told(&reply, &connection)?,
                Some(Heard::Invitation) => break,
                None => {}
            }
        }
        connection.close();
        Ok(())
    }

    /// A registry that is busy tells it another time: with the next connection, or the next change.
    fn learn_if_told(&self, reply: &Reply, connection: &Connection) -> Result<(), Broken> {
        if reply.status == 200 { self.learn(reply, connection).map_err(Broken::Final) } else { Ok(()) }
    }
}

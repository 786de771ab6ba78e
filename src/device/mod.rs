//! The other side of the registry: a device that makes a key, enrols, waits for the decision, and renews its certificate.
//!
//! ```text
//!   Device --register--> pending --(the operator decides)--> certificate --two thirds of its life--> renew --> certificate
//! ```
//!
//! Enters: a name, the address of a broker, the CA to trust and a directory. Leaves: three files in that directory: key
//! and certificate (mode 0600), and a trust bundle of its own, each whole or not at all whenever the power fails. The
//! private key never leaves it, and the operator's file is never written. Everything here blocks: a device has one thing to
//! do, and a program with more gives it a thread.
//!
//! What the broker knows of a device is in [`registry`](crate::registry); this module speaks to it over MQTT 5 alone, as
//! a device of anybody else would.

mod address;
mod connection;
mod credentials;
mod enrolment;
mod error;
mod keep;
mod key;
mod renewal;
mod tls;
mod trust;

pub use address::{Address, AddressError};
pub use credentials::Credentials;
pub use enrolment::{Device, Progress};
pub use error::DeviceError;

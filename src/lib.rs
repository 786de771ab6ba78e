//! Portcullis: an MQTT broker with access control built in.

pub mod access;
pub mod admin;
pub mod clock;
pub mod config;
pub mod mqtt;
pub mod router;
pub mod session;

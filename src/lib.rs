//! Portcullis: an MQTT broker with access control built in.

pub mod access;
pub mod admin;
pub mod audit;
pub mod authn;
pub mod broker;
pub mod clock;
pub mod config;
pub mod directory;
pub mod metrics;
pub mod mqtt;
pub mod net;
pub mod pki;
pub mod registry;
pub mod router;
pub mod session;
pub mod store;

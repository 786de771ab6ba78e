//! Portcullis: an MQTT broker with access control built in.
//!
//! Devices enrol themselves over MQTT, an operator decides, and every change of a permission takes effect at once. The
//! binary of this package is the broker and its command line; this crate is the same broker for programs that embed it.
//! The [`manual`] is for whoever runs it, talks to it or embeds it.
//!
//! # The way of a message
//!
//! ```text
//!     socket                                                                         socket
//!       |  bytes                                                                        ^  one write
//!       v                                                                               |
//!     net: TLS, buffers --> mqtt::codec --> session ----> router ----> mailbox ----> session --> mqtt::codec
//!                             packets        |  ^  Route    |  who matches?  bounded   |  ^
//!                                            v  |           v                          v  |
//!                                           access       retained                     access
//!                                       may it publish?  messages                may it receive, now?
//!                                            ^                                         ^
//!                                            |  an immutable snapshot, swapped whole   |
//!                                            +------------- directory -----------------+
//!                                                          ^    ^    |
//!                            broker.toml, admin (CLI, REST)|    |    v
//!                                                               |  store (sled)
//!     $registry/register --> registry --grant: user, rights, ---+
//!                               |       certificate, decision in one transaction
//!                               v
//!                              pki: checked request -> prepared certificate -> signed
//! ```
//!
//! Everything that a connection decides or writes happens under its own gate, by the policy snapshot of that moment.
//! A change of the rules is published, then passes through the gate of each connection that it concerns, and is answered
//! only then: after the answer nothing is given to the kernel that the new rules forbid.
//!
//! `mqtt`, `session`, `access`, `pki` (but for its signer) and the core of `registry` are pure: bytes, values and the time
//! go in, values come out. Dependencies point one way: `clock`, `mqtt` <- `access`, `pki` <- `authn`, `session`, `store`,
//! `config` <- `directory` <- `import`, `registry`, `router`, `crl` <- `net`, `admin` <- `broker`.
//!
//! # The public interface is:
//!
//! | | |
//! |---|---|
//! | [`config::Config`] | what broker.toml says: loaded, parsed, or made of defaults |
//! | [`broker::Broker`], [`broker::BrokerBuilder`] | a broker that runs: [`bind`](broker::BrokerBuilder::bind), [`shutdown`](broker::Broker::shutdown) |
//! | [`broker::BrokerHandle`], [`broker::Subscription`] | publish and subscribe, as the system or as a user |
//! | [`directory::Directory`] | users, roles, permissions: read the snapshot, commit changes |
//! | [`registry::Registry`] | who asks for an identity: list, grant, deny, lock, unlock, watch |
//! | [`device`] | the other side: a device that enrols and renews |
//! | [`import`] | users and rights of mosquitto, as a set of changes |
//! | [`access`] | the words of the rules, and the engine that decides: [`access::Policy`], [`access::Authority`] |
//! | [`mqtt`] | topic names, filters, packets, and the codec |
//! | [`admin::api`], [`admin::problem`] | the JSON of the routes on the admin socket |
//! | [`metrics`] | what is counted |
//!
//! The other modules are public so that their documentation is here and tests reach them; they may change in any
//! version.
//!
//! ```
//! use portcullis::{broker::Broker, config::Config, mqtt::QoS};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #   let directory = tempfile::tempdir()?;
//! #   let directory = directory.path();
//!     let config = Config::parse(
//!         "metrics = { bind = \"off\" }\nadmin = { bind = \"off\" }\nlistener = [{ name = \"local\", bind = \"127.0.0.1:0\" }]",
//!         directory,
//!     )?;
//!     let broker = Broker::builder(config).bind().await?;
//!     let alarms = broker.handle().subscribe("plant/+/alarm".try_into()?)?;
//!     broker.handle().publish("plant/press-4/alarm".try_into()?, "too hot", QoS::AtLeastOnce, false)?;
//!     assert_eq!(alarms.next().await.topic.as_str(), "plant/press-4/alarm");
//!     broker.shutdown().await;
//!     Ok(())
//! }
//! ```

pub mod access;
pub mod admin;
pub mod audit;
pub mod authn;
pub mod authority;
pub mod broker;
pub mod clock;
pub mod config;
pub mod crl;
pub mod device;
pub mod directory;
pub mod files;
pub mod import;
pub mod manual;
pub mod metrics;
pub mod mqtt;
pub mod net;
pub mod pki;
mod priority;
pub mod registry;
pub mod router;
pub mod session;
pub mod store;

//! The broker inside a program of yours.
//!
//! A [`Broker`](crate::broker::Broker) has no global state: a program may hold several. It brings threads of its own: for each core one for live connections
//! (`workers`) and one that brings connections in and sees them out, and a few for the rest; the async functions want a tokio runtime of the caller. It installs no signal handlers and no log subscriber: it
//! writes [`tracing`](https://docs.rs/tracing) records. It raises the process's limit of open files.
//!
//! ```
//! use portcullis::{
//!     access::{Context, Operation, Permission},
//!     broker::{Broker, NotPublished},
//!     config::Config,
//!     directory::{Actor, NewUser},
//!     mqtt::QoS,
//! };
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let directory = tempfile::tempdir()?;
//!     // The text of a broker.toml, and the directory that its relative paths refer to.
//!     let config = Config::parse(
//!         r#"
//!         store = { durability = "memory" }
//!         metrics = { bind = "off" }
//!         admin = { bind = "off" }
//!         [[listener]]
//!         name = "local"
//!         bind = "127.0.0.1:0"
//!         "#,
//!         directory.path(),
//!     )?;
//!     let broker = Broker::builder(config).bind().await?; // from here on it accepts connections
//!     println!("{:?}", broker.local_addr("local"));
//!
//!     // The handle acts as the system, whom no rule binds ...
//!     let handle = broker.handle();
//!     let alarms = handle.subscribe("plant/+/alarm".try_into()?)?;
//!     handle.publish("plant/press-4/alarm".try_into()?, "too hot", QoS::AtLeastOnce, false)?;
//!     assert_eq!(&*alarms.next().await.payload, b"too hot");
//!
//!     // ... or as a user, whom the rules bind as if it were connected.
//!     let read = Permission::allow(Context::Mqtt, Operation::Read, "plant/#");
//!     let ada = NewUser { permissions: vec![read], ..NewUser::named("ada".parse()?) };
//!     let ada = handle.directory().create_user(ada, &Actor::System)?;
//!     let as_ada = handle.as_user(ada.id, "dashboard".try_into()?);
//!     let refused = as_ada.publish("plant/press-4/alarm".try_into()?, "", QoS::AtMostOnce, false);
//!     assert_eq!(refused, Err(NotPublished::NotAuthorized));
//!
//!     // The registry is there too.
//!     assert!(handle.registry().status().await?.locked);
//!
//!     broker.shutdown().await; // says goodbye to the clients; dropping the broker stops it without
//!     Ok(())
//! }
//! ```
//!
//! - [`BrokerBuilder::bind`](crate::broker::BrokerBuilder::bind) returns when everything is bound, or with the reason why not, and then nothing is left running.
//! - [`BrokerBuilder::show_password`](crate::broker::BrokerBuilder::show_password) hands the first password of `admin` to the caller
//!   ([`Started::first_admin`](crate::broker::Started)); otherwise it goes into a file of the data directory.
//! - [`Directory`](crate::directory::Directory) blocks until a change is on disk: from async code, call it in `tokio::task::spawn_blocking`, or
//!   accept that the thread waits, as above.
//! - A subscription of the handle has a queue with the same bounds as a session's; what does not fit is dropped.
//! - Another clock can be given with [`BrokerBuilder::clock`](crate::broker::BrokerBuilder::clock), for tests.
//!
//! A store belongs to one broker: a second one on the same data directory is refused.

//! The life of one connection and of one session: a deterministic state machine without socket, clock or runtime.
//!
//! A [`Session`] is the state of one (owner, client identifier), attached to a connection or not. Its methods are of
//! four kinds: getters; `handle_*` inputs, each with the rules and the time of that moment in a [`Context`];
//! [`Session::poll_output`]; and [`Session::poll_timeout`]. After each input the shell polls outputs until there are
//! none. Nothing here blocks, sends, sleeps, draws random numbers or knows how packets are encoded.
//!
//! - A CONNECT is first put to [`check_connect`], then (identity proven) to [`check_will`], then the session of that
//!   key is found or made and gets [`Session::handle_connect`].
//! - The router's mailbox is the queue of a session. While [`Session::can_deliver`] says yes, the shell hands over the
//!   next [`Delivery`]. The session itself holds only what is in flight, and that is bounded by the window.
//! - After [`Output::Close`] the session is detached; [`Session::is_over`] says whether anything of it is to be kept.
//!
//! ```
//! use portcullis::access::{Authority, PolicyVersion};
//! use portcullis::clock::{Clock, SystemClock};
//! use portcullis::mqtt::{ClientId, Connect, ConnectProperties, Packet, ProtocolVersion};
//! use portcullis::session::{Context, Output, Owner, Session, SessionKey, SessionNumber, Settings, Terms, check_connect};
//!
//! let connect = Connect {
//!     version: ProtocolVersion::V5,
//!     clean_start: true,
//!     keep_alive: 60,
//!     client_id: ClientId::try_from("pump-7").unwrap(),
//!     will: None,
//!     username: None,
//!     password: None,
//!     properties: ConnectProperties::default(),
//! };
//! check_connect(&connect).unwrap();
//!
//! let authority = Authority::none(PolicyVersion::default());
//! let cx = Context { authority: &authority, now: SystemClock.instant(), settings: &Settings::default() };
//! let key = SessionKey { owner: Owner::Registration(1), client_id: connect.client_id.clone() };
//! let mut session = Session::new(key, SessionNumber(1));
//! session.handle_connect(&connect, &Terms::default(), &cx);
//! assert!(matches!(session.poll_output(), Some(Output::Send(Packet::ConnAck(_)))));
//!
//! session.handle_packet(Packet::PingReq, &cx);
//! assert!(matches!(session.poll_output(), Some(Output::Send(Packet::PingResp))));
//! assert!(session.poll_output().is_none());
//! ```

mod bucket;
mod cache;
mod deliver;
mod grants;
mod handshake;
mod inbound;
mod life;
mod machine;
mod message;
mod operation;
mod outbound;
mod output;
mod permit;
mod publish;
mod settings;
mod size;
mod subscribe;
mod subscriptions;
#[cfg(test)]
mod tests;
mod usage;

pub use handshake::{Rejection, Terms, check_connect, check_will};
pub use machine::{Disposition, Owner, Session, SessionKey, Subscription};
pub use message::{Delivery, Matched, Message, Outgoing, Publisher, SessionNumber, SubscriptionNumber};
pub use operation::{AdminOperation, RegistryOperation, is_admin_answer_filter, is_answer_filter};
pub use output::{
    Action, CloseReason, EndCause, Output, PublishTicket, Refusal, RefusalCause, RegistryAnswer, RegistryRequest,
    RouteOutcome,
};
pub use permit::routed_topic;
pub use settings::{Context, DeniedPublish, PartialSubscription, Settings};
pub use usage::Usage;

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

mod cache;
mod deliver;
mod handshake;
mod inbound;
mod life;
mod machine;
mod message;
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

pub use handshake::{Rejection, Terms, check_connect, check_will};
pub use machine::{Disposition, Owner, Session, SessionKey, Subscription};
pub use message::{Delivery, Matched, Message, Outgoing, Publisher, SessionNumber, SubscriptionNumber};
pub use output::{
    Action, CloseReason, EndCause, Output, PublishTicket, Refusal, RefusalCause, RegistryAnswer, RegistryOperation,
    RegistryRequest, RouteOutcome,
};
pub use settings::{Context, DeniedPublish, PartialSubscription, Settings};

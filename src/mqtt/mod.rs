//! The words of the OASIS MQTT specifications 3.1.1 and 5.0, and the codec between bytes and [`Packet`].
//!
//! Pure: no socket, no clock, no runtime. Bytes enter, typed packets leave, and the other way round.
//! Nothing here knows of users, sessions or routing.

pub mod codec;
mod packet;
mod packet_type;
mod reason;
mod topic;

pub use bytestring::ByteString;
pub use packet::*;
pub use packet_type::PacketType;
pub use reason::ReasonCode;
pub use topic::{ClientId, Level, Levels, TopicError, TopicFilter, TopicName};

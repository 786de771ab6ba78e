//! Bytes to packets and back, for MQTT 3.1.1 and 5.0.
//!
//! A [`Decoder`] is fed one buffer and takes whole packets off its front; topics and payloads are slices of that
//! buffer, not copies, and keep it alive: whoever stores one for long copies it out. What is not allowed by the letter
//! of the specification is refused with the reason code that it names, as early as it can be known: a wrong first byte
//! at once, a packet over the limit before its body arrives. [`encode`] and [`encode_publish`] append one packet to a
//! buffer with one reservation.
//!
//! It never looks at what a packet means for a session, never repairs anything, never allocates more than a small
//! multiple of the bytes that it has been given, and never panics, whatever those bytes are.
//!
//! ```
//! use bytes::BytesMut;
//! use portcullis::mqtt::{Packet, ProtocolVersion, codec::{Decoder, Limits, Role, encode}};
//!
//! let mut buffer = BytesMut::new();
//! encode(&Packet::PingReq, ProtocolVersion::V5, &mut buffer).unwrap();
//!
//! let mut decoder = Decoder::new(Role::Server, Limits::default());
//! decoder.set_version(ProtocolVersion::V5); // otherwise CONNECT says it
//! assert_eq!(decoder.decode(&mut buffer), Ok(Some(Packet::PingReq)));
//! assert_eq!(decoder.decode(&mut buffer), Ok(None));
//! ```

mod connect;
mod decoder;
mod encoder;
mod error;
mod packets;
mod properties;
mod reader;
mod sink;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Limits, Role};
pub use encoder::{PublishParts, connect_return_code, encode, encode_publish, encoded_len, encoded_publish_len};
pub use error::{DecodeError, EncodeError};

/// The largest Remaining Length that four bytes can say: 268,435,455.
pub const MAXIMUM_REMAINING_LENGTH: u32 = 0x0FFF_FFFF;

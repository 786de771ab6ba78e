//! What of MQTT 3.1.1 and 5.0 is supported, what is announced, and where the broker decides for itself.
//!
//! One port speaks both versions; CONNECT says which. MQTT 3.1 (protocol level 3) is answered with "unacceptable protocol version".
//! Clause numbers in brackets, here and in the source, are those of the two OASIS specifications.
//!
//! # Supported
//!
//! | | 3.1.1 | 5.0 |
//! |---|---|---|
//! | QoS 0, 1, 2 in both directions, in order, with DUP on redelivery | yes | yes |
//! | Clean Session; Clean Start and Session Expiry Interval, also changed by DISCONNECT | yes | yes |
//! | takeover by a newer connection of the same user and client identifier | yes | yes, DISCONNECT 0x8E |
//! | Keep Alive, 0 being none; Server Keep Alive | yes | yes |
//! | Will, Will Delay Interval, Will properties | Will | yes |
//! | retained messages; Retain Handling, Retain As Published | yes | yes |
//! | wildcards, `$` rules | yes | yes |
//! | No Local, Subscription Identifiers | | yes |
//! | Message Expiry Interval | | yes |
//! | Receive Maximum, Maximum Packet Size, in both directions | | yes |
//! | User Properties, Content Type, Response Topic, Correlation Data, Payload Format Indicator passed on | | yes |
//! | Assigned Client Identifier (`auto-...`) | accepted with clean session | yes |
//! | Reason Strings, left out when Request Problem Information is 0 | | on CONNACK |
//! | topic aliases | | no: none is announced; one that comes is answered with DISCONNECT 0x94 |
//! | shared subscriptions | no: SUBACK 0x80 | no: announced as not available; SUBACK 0x9E |
//! | extended authentication (AUTH) | | no: CONNACK 0x8C |
//! | Response Information, Server Reference | | not sent |
//!
//! A CONNACK of version 5 announces Receive Maximum (`limits.inflight`), Maximum Packet Size (`limits.packet_size`), Shared Subscription
//! Available = 0, and, where they are not what the client asked for, Session Expiry Interval and Server Keep Alive. What it does not
//! mention has the default of the specification: QoS 2, retained messages, wildcards and subscription identifiers are available.
//!
//! # State
//!
//! **Session state, queued and retained messages live in memory** and are gone when the broker ends. A PUBACK or PUBREC says that
//! the message has been put into the queue of every matching session that had room for it.
//!
//! A session lives at most `limits.session_expiry` without a connection; sessions of 3.1.1 clients with clean session 0 live just
//! as long.
//!
//! # The slow consumer
//!
//! Each session has one queue, bounded by `limits.queue_messages` and `limits.queue_bytes`; all queues together are bounded by
//! `limits.queue_total_bytes`. When there is no room, the **newest message is
//! dropped**, at every QoS, and counted as `queue_full`; what is queued stays in order. The publisher is not held back and not
//! told: neither are other subscribers. QoS 0 messages are not kept for a session without a connection.
//!
//! A connection whose socket takes nothing more stops being read, until there is room again.
//!
//! # Where the broker decides
//!
//! - **Messages under way that a change of the rules forbids are not sent again** when the session is resumed, and their packet
//!   identifier is freed. A QoS 2 exchange past its PUBREC is finished. This deviates from [MQTT-4.4.0-1], on purpose: see
//!   [access](super::access).
//! - **A full queue drops QoS 1 and 2 messages** that [MQTT-4.5.0-1] wants to be kept.
//! - **A client identifier that holds `+` or `#`** is refused (0x85; 3.1.1: 2), as it could be mistaken for a filter in a rule.
//! - **The Will is checked at CONNECT**, which is refused when it is not permitted, and again when it is published.
//! - **A refused PUBLISH closes a 3.1.1 connection** by default, as [MQTT-3.3.5-2] of 3.1.1 admits; `access.denied_publish` chooses.
//! - **PUBACK and PUBREC say 0x10** to 5.0 clients when nobody has a matching subscription.
//! - **Payload Format Indicator**: passed on, and the payload is not validated against it.
//! - **Topics** have at most `limits.topic_levels` levels; more are answered with 0x90, filters with 0x8F. A session has at most
//!   `limits.subscriptions` subscriptions; one more is answered with 0x97 (3.1.1: 0x80).
//! - **A retained message for which there is no room** (`limits.retained_messages`, `limits.retained_bytes`, the quota) is refused as a whole: 0x97; on
//!   3.1.1 the connection is closed, unless refusals are acknowledged (`access.denied_publish`).
//! - **A quota** ([access](super::access)) is answered with 0x97 in CONNACK, SUBACK, PUBACK and PUBREC. 0x96 stands in DISCONNECT only, and
//!   nobody is disconnected for it, but a 3.1.1 client whose PUBLISH is refused, where `access.denied_publish` says so.
//! - **The first packet** may take `limits.connect_timeout` and 256 KiB.
//! - **A message larger than the receiver takes** is left out as if it had been delivered, and counted as `too_large` [MQTT-3.1.2-25].
//! - **At a shutdown** clients of version 5 get DISCONNECT 0x8B.
//!
//! # Malformed packets
//!
//! Every length, flag, reserved bit, UTF-8 string and property is checked. What is wrong ends the connection with the reason
//! code that the specification names (0x81, 0x82, 0x95, ...), nothing else, and is counted in `portcullis_malformed_packets_total`.
//! The vectors in `tests/vectors/` are written clause by clause; `fuzz/` has the fuzz targets.

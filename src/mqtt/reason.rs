//! Reason codes of version 5, which the codec maps to the return codes of 3.1.1 where those exist.
//!
//! Bytes enter, names leave; here too is which packet may carry which code, from which side.

use std::fmt;

use super::PacketType;

/// A reason code; which packets may carry it is the codec's to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the specification, section 2.4")]
pub enum ReasonCode {
    /// Also Normal disconnection and Granted QoS 0.
    Success = 0x00,
    GrantedQoS1 = 0x01,
    GrantedQoS2 = 0x02,
    DisconnectWithWill = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    ContinueAuthentication = 0x18,
    ReAuthenticate = 0x19,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9A,
    QoSNotSupported = 0x9B,
    UseAnotherServer = 0x9C,
    ServerMoved = 0x9D,
    SharedSubscriptionsNotSupported = 0x9E,
    ConnectionRateExceeded = 0x9F,
    MaximumConnectTime = 0xA0,
    SubscriptionIdentifiersNotSupported = 0xA1,
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl TryFrom<u8> for ReasonCode {
    /// The byte that names no reason code.
    type Error = u8;

    fn try_from(code: u8) -> Result<Self, u8> {
        Ok(match code {
            0x00 => Self::Success,
            0x01 => Self::GrantedQoS1,
            0x02 => Self::GrantedQoS2,
            0x04 => Self::DisconnectWithWill,
            0x10 => Self::NoMatchingSubscribers,
            0x11 => Self::NoSubscriptionExisted,
            0x18 => Self::ContinueAuthentication,
            0x19 => Self::ReAuthenticate,
            0x80 => Self::UnspecifiedError,
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x83 => Self::ImplementationSpecificError,
            0x84 => Self::UnsupportedProtocolVersion,
            0x85 => Self::ClientIdentifierNotValid,
            0x86 => Self::BadUserNameOrPassword,
            0x87 => Self::NotAuthorized,
            0x88 => Self::ServerUnavailable,
            0x89 => Self::ServerBusy,
            0x8A => Self::Banned,
            0x8B => Self::ServerShuttingDown,
            0x8C => Self::BadAuthenticationMethod,
            0x8D => Self::KeepAliveTimeout,
            0x8E => Self::SessionTakenOver,
            0x8F => Self::TopicFilterInvalid,
            0x90 => Self::TopicNameInvalid,
            0x91 => Self::PacketIdentifierInUse,
            0x92 => Self::PacketIdentifierNotFound,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 => Self::PayloadFormatInvalid,
            0x9A => Self::RetainNotSupported,
            0x9B => Self::QoSNotSupported,
            0x9C => Self::UseAnotherServer,
            0x9D => Self::ServerMoved,
            0x9E => Self::SharedSubscriptionsNotSupported,
            0x9F => Self::ConnectionRateExceeded,
            0xA0 => Self::MaximumConnectTime,
            0xA1 => Self::SubscriptionIdentifiersNotSupported,
            0xA2 => Self::WildcardSubscriptionsNotSupported,
            unknown => return Err(unknown),
        })
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} ({self:?})", *self as u8)
    }
}

impl ReasonCode {
    /// Codes from 0x80 on tell of a failure.
    pub fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// May a client send a packet of this type with this code? False for types without reason codes.
    pub fn is_valid_from_client(self, packet: PacketType) -> bool {
        match packet {
            PacketType::Disconnect => {
                // Section 3.14.2.1, column "sent by".
                self.is_in_any_disconnect() || matches!(self, Self::Success | Self::DisconnectWithWill)
            }
            PacketType::Auth => matches!(self, Self::ContinueAuthentication | Self::ReAuthenticate), // [MQTT-3.15.2-1]
            packet => packet.is_from_client() && self.is_in_table_of(packet),
        }
    }

    /// May a server send a packet of this type with this code? False for types without reason codes.
    pub fn is_valid_from_server(self, packet: PacketType) -> bool {
        match packet {
            PacketType::Disconnect => {
                self.is_in_any_disconnect()
                    || matches!(
                        self,
                        Self::Success
                            | Self::NotAuthorized
                            | Self::ServerBusy
                            | Self::ServerShuttingDown
                            | Self::KeepAliveTimeout
                            | Self::SessionTakenOver
                            | Self::TopicFilterInvalid
                            | Self::RetainNotSupported
                            | Self::QoSNotSupported
                            | Self::UseAnotherServer
                            | Self::ServerMoved
                            | Self::SharedSubscriptionsNotSupported
                            | Self::ConnectionRateExceeded
                            | Self::MaximumConnectTime
                            | Self::SubscriptionIdentifiersNotSupported
                            | Self::WildcardSubscriptionsNotSupported
                    )
            }
            PacketType::Auth => matches!(self, Self::Success | Self::ContinueAuthentication),
            packet => packet.is_from_server() && self.is_in_table_of(packet),
        }
    }

    /// The DISCONNECT codes that both sides may send. `[MQTT-3.14.2-1]`; 0x8C is from 4.12.1.
    fn is_in_any_disconnect(self) -> bool {
        matches!(
            self,
            Self::UnspecifiedError
                | Self::MalformedPacket
                | Self::ProtocolError
                | Self::ImplementationSpecificError
                | Self::BadAuthenticationMethod
                | Self::TopicNameInvalid
                | Self::ReceiveMaximumExceeded
                | Self::TopicAliasInvalid
                | Self::PacketTooLarge
                | Self::MessageRateTooHigh
                | Self::QuotaExceeded
                | Self::AdministrativeAction
                | Self::PayloadFormatInvalid
        )
    }

    fn is_in_table_of(self, packet: PacketType) -> bool {
        match packet {
            // [MQTT-3.2.2-8]
            PacketType::ConnAck => matches!(
                self,
                Self::Success
                    | Self::UnspecifiedError
                    | Self::MalformedPacket
                    | Self::ProtocolError
                    | Self::ImplementationSpecificError
                    | Self::UnsupportedProtocolVersion
                    | Self::ClientIdentifierNotValid
                    | Self::BadUserNameOrPassword
                    | Self::NotAuthorized
                    | Self::ServerUnavailable
                    | Self::ServerBusy
                    | Self::Banned
                    | Self::BadAuthenticationMethod
                    | Self::TopicNameInvalid
                    | Self::PacketTooLarge
                    | Self::QuotaExceeded
                    | Self::PayloadFormatInvalid
                    | Self::RetainNotSupported
                    | Self::QoSNotSupported
                    | Self::UseAnotherServer
                    | Self::ServerMoved
                    | Self::ConnectionRateExceeded
            ),
            // [MQTT-3.4.2-1] [MQTT-3.5.2-1]
            PacketType::PubAck | PacketType::PubRec => matches!(
                self,
                Self::Success
                    | Self::NoMatchingSubscribers
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicNameInvalid
                    | Self::PacketIdentifierInUse
                    | Self::QuotaExceeded
                    | Self::PayloadFormatInvalid
            ),
            // [MQTT-3.6.2-1] [MQTT-3.7.2-1]
            PacketType::PubRel | PacketType::PubComp => {
                matches!(self, Self::Success | Self::PacketIdentifierNotFound)
            }
            // [MQTT-3.9.3-2]
            PacketType::SubAck => matches!(
                self,
                Self::Success
                    | Self::GrantedQoS1
                    | Self::GrantedQoS2
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicFilterInvalid
                    | Self::PacketIdentifierInUse
                    | Self::QuotaExceeded
                    | Self::SharedSubscriptionsNotSupported
                    | Self::SubscriptionIdentifiersNotSupported
                    | Self::WildcardSubscriptionsNotSupported
            ),
            // [MQTT-3.11.3-2]
            PacketType::UnsubAck => matches!(
                self,
                Self::Success
                    | Self::NoSubscriptionExisted
                    | Self::UnspecifiedError
                    | Self::ImplementationSpecificError
                    | Self::NotAuthorized
                    | Self::TopicFilterInvalid
                    | Self::PacketIdentifierInUse
            ),
            _ => false,
        }
    }
}

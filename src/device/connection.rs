//! One MQTT 5 connection of a device: it asks the registry, and waits for answers.
//!
//! Enters: an operation and a JSON object. Leaves: the answer. Never: more than one question at a time, a subscription to
//! anything but answers, or a packet of more than [`LARGEST`] bytes.

use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::tls::{self, Identity, Stream};
use super::{Address, DeviceError};
use crate::mqtt::codec::{Decoder, Limits, Role, encode};
use crate::mqtt::{
    ClientId, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet, PacketIdentifier, ProtocolVersion,
    Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFilter, SubscriptionOptions, TopicFilter,
    TopicName,
};

/// Seconds; the broker may say otherwise.
const KEEP_ALIVE: u16 = 60;
/// The largest packet that is taken, in bytes: certificate, chain and bundle fit many times.
const LARGEST: u32 = 256 * 1024;
/// How long an acknowledgement or an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a connection is of no more use.
#[derive(Debug)]
pub(super) enum Broken {
    /// To be tried again later.
    Lost(String),
    /// Trying again is of no use.
    Final(DeviceError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidInput => Self::Final(DeviceError::Connection(error.to_string())),
            // What TLS says of a broker that is not the one, or of a certificate of ours that it does not take.
            io::ErrorKind::InvalidData => Self::Final(DeviceError::Connection(format!(
                "{error}; are the trust bundle and the host name those of this broker?"
            ))),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Lost("the broker does not answer".to_owned()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// What the registry says. Fields that it did not send are absent.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) error: Option<String>,
    pub(super) message: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) chain: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) pairing_code: Option<String>,
    pub(super) nonce: Option<String>,
    pub(super) retry_after: Option<u64>,
    pub(super) expires_at: Option<Timestamp>,
}

impl Reply {
    /// As an error that ends the attempt.
    pub(super) fn refusal(self) -> DeviceError {
        DeviceError::Refused {
            status: self.status,
            error: self.error.unwrap_or_else(|| "refused".to_owned()),
            message: self.message.unwrap_or_else(|| "no reason was given".to_owned()),
        }
    }
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    stream: Stream,
    decoder: Decoder,
    input: BytesMut,
    keep_alive: Option<Duration>,
    /// When the next packet must have been sent.
    ping_at: Option<Instant>,
    packet_id: u16,
    questions: u32,
}

impl Connection {
    /// Connects without credentials (a registration session), or with a certificate.
    pub(super) fn open(
        address: &Address,
        trust: &[Vec<u8>],
        identity: Option<&Identity>,
        client_id: &ClientId,
    ) -> Result<Self, Broken> {
        let mut connection = Self {
            stream: tls::connect(address, trust, identity)?,
            decoder: Decoder::new(Role::Client(ProtocolVersion::V5), Limits { maximum_packet_size: LARGEST }),
            input: BytesMut::new(),
            keep_alive: None,
            ping_at: None,
            packet_id: 0,
            questions: 0,
        };
        let connect = Connect {
            version: ProtocolVersion::V5,
            clean_start: true,
            keep_alive: KEEP_ALIVE,
            client_id: client_id.clone(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties {
                maximum_packet_size: NonZeroU32::new(LARGEST),
                ..ConnectProperties::default()
            },
        };
        connection.send(&Packet::Connect(Box::new(connect)))?;
        match connection.receive(Instant::now() + PATIENCE)? {
            Some(Packet::ConnAck(answer)) if answer.reason_code == ReasonCode::Success => {
                let seconds = answer.properties.server_keep_alive.unwrap_or(KEEP_ALIVE); // [MQTT-3.1.2-21]
                connection.keep_alive = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
                connection.sent();
                Ok(connection)
            }
            Some(Packet::ConnAck(answer)) => {
                let why = answer.properties.reason_string.unwrap_or_default();
                let code = answer.reason_code;
                let sentence = format!("{code:?} {why}").trim_end().to_owned();
                Err(match code {
                    ReasonCode::ServerBusy | ReasonCode::ServerUnavailable | ReasonCode::QuotaExceeded => {
                        Broken::Lost(sentence)
                    }
                    _ => Broken::Final(DeviceError::Connection(sentence)),
                })
            }
            Some(_) => Err(Broken::Final(DeviceError::Answer("the first packet is no CONNACK".to_owned()))),
            None => Err(Broken::Lost("no answer to CONNECT".to_owned())),
        }
    }

    /// Listens for the answers to an operation. Before the first question.
    pub(super) fn listen(&mut self, operation: &str) -> Result<(), Broken> {
        let filter = TopicFilter::try_from(format!("$registry/{operation}/response").as_str())
            .map_err(|error| Broken::Lost(error.to_string()))?;
        let packet_id = self.next_id();
        self.send(&Packet::Subscribe(Subscribe {
            packet_id,
            filters: vec![SubscribeFilter { filter, options: SubscriptionOptions::default() }],
            subscription_identifier: None,
            user_properties: Vec::new(),
        }))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.receive(until)? {
                Some(Packet::SubAck(ack)) if ack.packet_id == packet_id => {
                    return match ack.reason_codes.first() {
                        Some(code) if !code.is_error() => Ok(()),
                        code => Err(Broken::Final(DeviceError::Connection(format!(
                            "the answers of `{operation}` may not be received: {code:?}"
                        )))),
                    };
                }
                Some(_) => {}
                None => return Err(Broken::Lost("no answer to SUBSCRIBE".to_owned())),
            }
        }
    }

    /// Puts a question and waits for its answer. [`Connection::listen`] comes first.
    pub(super) fn ask(&mut self, operation: &str, question: &Value) -> Result<Reply, Broken> {
        let topic = TopicName::try_from(format!("$registry/{operation}").as_str())
            .map_err(|error| Broken::Lost(error.to_string()))?;
        self.questions = self.questions.wrapping_add(1);
        let correlation = Bytes::copy_from_slice(&self.questions.to_be_bytes());
        let properties = PublishProperties {
            correlation_data: Some(correlation.clone()),
            content_type: Some(ByteString::from_static("application/json")),
            ..PublishProperties::default()
        };
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(topic),
            packet_id: None,
            payload: Bytes::from(question.to_string()),
            properties: Some(Box::new(properties)),
        }))?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.answer(until)? {
                Some((reply, told)) if told.as_ref() == Some(&correlation) => return Ok(reply),
                // What was pushed for an earlier question: the answer to this one says the same.
                Some(_) => {}
                None => return Err(Broken::Lost(format!("no answer to `{operation}`"))),
            }
        }
    }

    /// What the registry says unasked until then, if anything.
    pub(super) fn pushed(&mut self, until: Instant) -> Result<Option<Reply>, Broken> {
        Ok(self.answer(until)?.map(|(reply, _)| reply))
    }

    /// Says goodbye. What becomes of it is of no interest any more.
    pub(super) fn close(mut self) {
        let packet = Disconnect { reason_code: ReasonCode::Success, properties: DisconnectProperties::default() };
        drop(self.send(&Packet::Disconnect(packet)));
    }

    fn answer(&mut self, until: Instant) -> Result<Option<(Reply, Option<Bytes>)>, Broken> {
        loop {
            match self.receive(until)? {
                None => return Ok(None),
                Some(Packet::Publish(publish)) => {
                    let reply = serde_json::from_slice(&publish.payload)
                        .map_err(|error| Broken::Final(DeviceError::Answer(error.to_string())))?;
                    let correlation = publish.properties.and_then(|properties| properties.correlation_data);
                    return Ok(Some((reply, correlation)));
                }
                Some(_) => {}
            }
        }
    }

    /// The next packet but PINGRESP, or `None` when nothing came until then. Keeps the connection alive meanwhile.
    fn receive(&mut self, until: Instant) -> Result<Option<Packet>, Broken> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(Packet::PingResp)) => continue,
                Ok(Some(Packet::Disconnect(end))) => {
                    let why = end.properties.reason_string.unwrap_or_default();
                    let sentence = format!("the broker ended the connection: {:?} {why}", end.reason_code);
                    return Err(Broken::Lost(sentence.trim_end().to_owned()));
                }
                Ok(Some(packet)) => return Ok(Some(packet)),
                Ok(None) => {}
                Err(error) => return Err(Broken::Final(DeviceError::Answer(error.to_string()))),
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            if self.ping_at.is_some_and(|at| at <= now) {
                self.send(&Packet::PingReq)?; // [MQTT-3.1.2-20]
            }
            let next = self.ping_at.map_or(until, |at| at.min(until));
            self.stream.set_patience(next.saturating_duration_since(now))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Broken::Lost("the broker closed the connection".to_owned())),
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Broken> {
        let mut bytes = BytesMut::new();
        encode(packet, ProtocolVersion::V5, &mut bytes).map_err(|error| Broken::Lost(error.to_string()))?;
        self.stream.write_all(&bytes)?;
        self.stream.flush()?;
        self.sent();
        Ok(())
    }

    /// Half the time that the broker allows: one lost wake-up does not cost the connection.
    fn sent(&mut self) {
        self.ping_at = self.keep_alive.and_then(|time| Instant::now().checked_add(time / 2));
    }

    fn next_id(&mut self) -> PacketIdentifier {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        PacketIdentifier::new(self.packet_id).unwrap_or(PacketIdentifier(std::num::NonZeroU16::MIN))
    }
}

/// Nothing is there yet; nothing is lost.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

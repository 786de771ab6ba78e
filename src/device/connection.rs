//! One MQTT 5 connection of a device: it asks the registry, and waits for answers.
//!
//! Enters: an operation and a JSON object. Leaves: the answer, and what the registry says unasked. Never: more than one
//! question at a time, a subscription to anything but answers and the invitation, or a packet of more than [`LARGEST`] bytes.

use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::tls::{self, Failure, Identity, Stream};
use super::trust::{Anchor, Trust};
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

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Untrusted(why) => Self::Final(DeviceError::Untrusted(why)),
            Failure::Refused(why) => Self::Final(DeviceError::Connection(why)),
            Failure::Unusable(why) => Self::Final(DeviceError::Unusable(why)),
            Failure::Io(error) if is_pause(&error) => Self::Lost("the broker does not answer".to_owned()),
            Failure::Io(error) => Self::Lost(error.to_string()),
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

/// What the registry says unasked.
pub(super) enum Heard {
    /// The answer to an earlier question, or one that nobody asked for.
    Answer(Box<Reply>),
    /// The certificate of this connection should be renewed.
    Invitation,
}

/// Where the broker invites to renew.
const INVITATION: &str = "$registry/renew/invite";

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
    /// An invitation came while an answer was awaited.
    invited: bool,
}

fn answers_to(operation: &str) -> String {
    format!("$registry/{operation}/response")
}

impl Connection {
    /// Connects without credentials (a registration session), or with a certificate.
    pub(super) fn open(
        address: &Address,
        trust: &Trust,
        identity: Option<&Identity>,
        client_id: &ClientId,
    ) -> Result<Self, Broken> {
        // INVARIANT: what was learned by the connection before this one is trusted by this one.
        let anchors = trust.anchors().map_err(Broken::Final)?;
        let mut connection = Self {
            stream: tls::connect(address, &anchors, identity)?,
            decoder: Decoder::new(Role::Client(ProtocolVersion::V5), Limits { maximum_packet_size: LARGEST }),
            input: BytesMut::new(),
            keep_alive: None,
            ping_at: None,
            packet_id: 0,
            questions: 0,
            invited: false,
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
                let code = answer.reason_code;
                let advice = if identity.is_some() {
                    "; ask the operator whether this certificate was revoked or its user disabled"
                } else {
                    "; ask the operator for a listener on which devices enrol"
                };
                let sentence = match answer.properties.reason_string {
                    Some(why) => format!("{code:?}, {why}"),
                    None => format!("{code:?}"),
                };
                Err(match code {
                    ReasonCode::ServerBusy | ReasonCode::ServerUnavailable | ReasonCode::QuotaExceeded => {
                        Broken::Lost(sentence)
                    }
                    _ => Broken::Final(DeviceError::Connection(sentence + advice)),
                })
            }
            Some(_) => Err(Broken::Final(DeviceError::Answer("the first packet is no CONNACK".to_owned()))),
            None => Err(Broken::Lost("no answer to CONNECT".to_owned())),
        }
    }

    /// Listens for the answers to an operation. Before the first question.
    pub(super) fn listen(&mut self, operation: &str) -> Result<(), Broken> {
        self.subscribe(&answers_to(operation))
    }

    /// Listens for the invitation to renew.
    pub(super) fn listen_for_invitation(&mut self) -> Result<(), Broken> {
        self.subscribe(INVITATION)
    }

    fn subscribe(&mut self, filter: &str) -> Result<(), Broken> {
        let wanted = filter;
        let filter = TopicFilter::try_from(wanted).map_err(|error| Broken::Lost(error.to_string()))?;
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
                            "`{wanted}` may not be received: {code:?}"
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
            match self.heard(until)? {
                Some((Heard::Answer(reply), told)) if told.as_ref() == Some(&correlation) => return Ok(*reply),
                // What was pushed for an earlier question: the answer to this one says the same.
                Some((Heard::Answer(_), _)) => {}
                Some((Heard::Invitation, _)) => self.invited = true,
                None => return Err(Broken::Lost(format!("no answer to `{operation}`"))),
            }
        }
    }

    /// What the registry says unasked until then, if anything.
    pub(super) fn hear(&mut self, until: Instant) -> Result<Option<Heard>, Broken> {
        if std::mem::take(&mut self.invited) {
            return Ok(Some(Heard::Invitation));
        }
        Ok(self.heard(until)?.map(|(heard, _)| heard))
    }

    /// The anchors that the broker's certificate stands on.
    pub(super) fn verified_by(&self) -> &[Anchor] {
        self.stream.verified_by()
    }

    /// Says goodbye. What becomes of it is of no interest any more.
    pub(super) fn close(mut self) {
        let packet = Disconnect { reason_code: ReasonCode::Success, properties: DisconnectProperties::default() };
        drop(self.send(&Packet::Disconnect(packet)));
    }

    /// With its Correlation Data.
    fn heard(&mut self, until: Instant) -> Result<Option<(Heard, Option<Bytes>)>, Broken> {
        loop {
            match self.receive(until)? {
                None => return Ok(None),
                Some(Packet::Publish(publish)) => {
                    if publish.topic.is_some_and(|topic| topic.as_str() == INVITATION) {
                        return Ok(Some((Heard::Invitation, None)));
                    }
                    let reply = serde_json::from_slice(&publish.payload)
                        .map_err(|error| Broken::Final(DeviceError::Answer(error.to_string())))?;
                    let correlation = publish.properties.and_then(|properties| properties.correlation_data);
                    return Ok(Some((Heard::Answer(reply), correlation)));
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
            self.stream.set_patience(next.saturating_duration_since(now)).map_err(Failure::Io)?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Broken::Lost("the broker closed the connection".to_owned())),
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(Failure::Io(error)) if is_pause(&error) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Broken> {
        let mut bytes = BytesMut::new();
        encode(packet, ProtocolVersion::V5, &mut bytes).map_err(|error| Broken::Lost(error.to_string()))?;
        self.stream.send(&bytes)?;
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

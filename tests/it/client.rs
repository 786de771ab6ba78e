//! A scripted MQTT client: it does what the test says and nothing else.
//!
//! Packets and raw bytes enter; what the broker answers is read one packet at a time and compared by the test. It never
//! acknowledges, pings or reconnects on its own, and every wait ends after [`PATIENCE`].

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use portcullis::mqtt::{
    Acknowledgement, ClientId, ConnAck, Connect, ConnectProperties, Disconnect, DisconnectProperties, Packet,
    PacketIdentifier, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, SubAck, Subscribe, SubscribeFilter,
    SubscriptionOptions, TopicFilter, TopicName, Unsubscribe, Will,
    codec::{Decoder, Limits, Role, encode},
};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};

pub(crate) use portcullis::mqtt::{
    ProtocolVersion::{V5, V311},
    QoS::{AtLeastOnce as Q1, AtMostOnce as Q0, ExactlyOnce as Q2},
};

/// The longest wait for something that must come; generous, for a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BOTH: [ProtocolVersion; 2] = [V311, V5];

pub(crate) const QOS: [QoS; 3] = [Q0, Q1, Q2];

/// A TLS client over a socket, enough for a test.
pub(crate) struct Tls {
    tcp: TcpStream,
    tls: ClientConnection,
}

struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tls {
    /// Connects and runs the handshake to its end.
    pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut this = Self { tcp, tls: ClientConnection::new(config, name).map_err(io::Error::other)? };
        let handshake = async {
            while this.tls.is_handshaking() {
                this.flush().await?;
                if this.tls.is_handshaking() && this.receive().await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            this.flush().await
        };
        timeout(PATIENCE, handshake).await.expect("a TLS handshake ends")?;
        Ok(this)
    }

    pub(crate) fn protocol_version(&self) -> Option<rustls::ProtocolVersion> {
        self.tls.protocol_version()
    }

    pub(crate) fn handshake_kind(&self) -> Option<rustls::HandshakeKind> {
        self.tls.handshake_kind()
    }

    async fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.tls.read_tls(&mut Socket(&self.tcp)) {
                Ok(read) => {
                    self.tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.tcp.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.tcp.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            match self.tls.reader().read(&mut chunk) {
                Ok(read) => {
                    into.extend_from_slice(&chunk[..read]);
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.receive().await? == 0 {
                return Ok(0);
            }
            self.flush().await?;
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(16 * 1024) {
            self.tls.writer().write_all(chunk)?;
            self.flush().await?;
        }
        Ok(())
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

/// What one read of the connection gives.
#[derive(Debug)]
pub(crate) enum Received {
    Packet(Packet),
    /// The stream ended, or was reset.
    Closed,
}

/// One connection.
pub(crate) struct Client {
    stream: Stream,
    version: ProtocolVersion,
    decoder: Decoder,
    input: BytesMut,
    /// Received while something else was waited for.
    aside: VecDeque<Packet>,
    last_id: u16,
    pub(crate) connack: Option<ConnAck>,
}

impl Client {
    fn new(stream: Stream, version: ProtocolVersion) -> Self {
        Self {
            stream,
            version,
            decoder: Decoder::new(Role::Client(version), Limits::default()),
            input: BytesMut::new(),
            aside: VecDeque::new(),
            last_id: 0,
            connack: None,
        }
    }

    /// A TCP connection that has not said anything.
    pub(crate) async fn open(address: SocketAddr, version: ProtocolVersion) -> Self {
        let tcp = TcpStream::connect(address).await.expect("the broker listens");
        tcp.set_nodelay(true).unwrap();
        Self::new(Stream::Plain(tcp), version)
    }

    /// As [`Client::open`], with another loopback address as the source.
    pub(crate) async fn open_from(source: IpAddr, address: SocketAddr, version: ProtocolVersion) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        Self::new(Stream::Plain(socket.connect(address).await.expect("the broker listens")), version)
    }

    /// As [`Client::open`], with a receive buffer of a few KiB: the broker soon finds the socket full.
    pub(crate) async fn open_narrow(address: SocketAddr, version: ProtocolVersion) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::new(Stream::Plain(socket.connect(address).await.expect("the broker listens")), version)
    }

    /// Over an established TLS connection.
    pub(crate) fn over(tls: Tls, version: ProtocolVersion) -> Self {
        Self::new(Stream::Tls(Box::new(tls)), version)
    }

    /// Sends CONNECT and takes the CONNACK, whatever it says.
    pub(crate) async fn connect(&mut self, connect: &Connect) -> ConnAck {
        self.send(Packet::Connect(Box::new(connect.clone()))).await;
        match self.recv().await {
            Packet::ConnAck(connack) => *connack,
            other => panic!("CONNACK expected, not {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).expect("the test's packet can be encoded");
        self.send_raw(&bytes).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).await.expect("the connection is open");
    }

    /// For a connection that the broker may have ended.
    pub(crate) async fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = async {
            match &mut self.stream {
                Stream::Plain(tcp) => tcp.write_all(bytes).await,
                Stream::Tls(tls) => tls.write_all(bytes).await,
            }
        };
        timeout(PATIENCE, written).await.expect("the broker takes what is sent to it")
    }

    /// Sends without reading, until the broker takes no more for a moment; then sends the rest and reads as it comes.
    /// What was read waits for [`Client::recv`].
    pub(crate) async fn flood(&mut self, mut bytes: &[u8]) {
        let stalled = Duration::from_millis(200);
        let mut reading = false;
        while !bytes.is_empty() {
            let step = async {
                match &mut self.stream {
                    Stream::Plain(tcp) => {
                        if reading && tcp.try_read_buf(&mut self.input).is_ok_and(|read| read > 0) {
                            return 0;
                        }
                        tcp.writable().await.unwrap();
                        tcp.try_write(bytes).unwrap_or(0)
                    }
                    Stream::Tls(tls) => {
                        if reading {
                            match tls.tls.read_tls(&mut Socket(&tls.tcp)) {
                                Ok(_) => tls.tls.process_new_packets().map(drop).unwrap(),
                                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                            }
                            let mut chunk = vec![0; 16 * 1024];
                            while let Ok(read @ 1..) = tls.tls.reader().read(&mut chunk) {
                                self.input.extend_from_slice(&chunk[..read]);
                            }
                        }
                        if tls.tls.wants_write() {
                            tls.tcp.writable().await.unwrap();
                            let _ = tls.tls.write_tls(&mut Socket(&tls.tcp));
                            return 0;
                        }
                        let record = &bytes[..bytes.len().min(16 * 1024)];
                        tls.tls.writer().write(record).unwrap()
                    }
                }
            };
            match timeout(stalled, step).await {
                Ok(written) => bytes = &bytes[written..],
                Err(_) => reading = true,
            }
        }
        if let Stream::Tls(tls) = &mut self.stream {
            tls.flush().await.unwrap();
        }
    }

    /// The next bytes of the stream as they are.
    pub(crate) async fn read_raw(&mut self, count: usize) -> BytesMut {
        while self.input.len() < count {
            let read = async {
                match &mut self.stream {
                    Stream::Plain(tcp) => tokio::io::AsyncReadExt::read_buf(tcp, &mut self.input).await,
                    Stream::Tls(tls) => tls.read(&mut self.input).await,
                }
            };
            let read = timeout(PATIENCE, read).await.expect("the broker says something in time").unwrap();
            assert!(read > 0, "the connection was closed");
        }
        self.input.split_to(count)
    }

    /// Ends the outgoing half of the stream; the rest can still be read.
    pub(crate) async fn finish(&mut self) {
        if let Stream::Plain(tcp) = &mut self.stream {
            tcp.shutdown().await.unwrap();
        }
    }

    pub(crate) async fn try_send(&mut self, packet: Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).expect("the test's packet can be encoded");
        self.try_send_raw(&bytes).await
    }

    /// The next packet or the end, without looking at what was put aside.
    pub(crate) async fn read(&mut self) -> Received {
        timeout(PATIENCE, self.read_patiently()).await.expect("the broker says something in time")
    }

    async fn read_patiently(&mut self) -> Received {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).expect("the broker's packets are well-formed") {
                return Received::Packet(packet);
            }
            let read = match &mut self.stream {
                Stream::Plain(tcp) => tokio::io::AsyncReadExt::read_buf(tcp, &mut self.input).await,
                Stream::Tls(tls) => tls.read(&mut self.input).await,
            };
            match read {
                Ok(0) => {
                    assert!(self.input.is_empty(), "the stream ended within a packet: {:?}", self.input);
                    return Received::Closed;
                }
                Ok(_) => {}
                Err(_) => return Received::Closed,
            }
        }
    }

    /// The next packet; the end of the stream fails the test.
    pub(crate) async fn recv(&mut self) -> Packet {
        if let Some(packet) = self.aside.pop_front() {
            return packet;
        }
        match self.read().await {
            Received::Packet(packet) => packet,
            Received::Closed => panic!("the connection was closed"),
        }
    }

    /// The next packet of a kind; others that come first are put aside for later.
    async fn recv_where(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        if let Some(place) = self.aside.iter().position(&wanted) {
            return self.aside.remove(place).unwrap();
        }
        loop {
            match self.read().await {
                Received::Packet(packet) if wanted(&packet) => return packet,
                Received::Packet(packet) => self.aside.push_back(packet),
                Received::Closed => panic!("the connection was closed"),
            }
        }
    }

    /// The stream ends here, and nothing comes before.
    pub(crate) async fn expect_closed(&mut self) {
        assert!(self.aside.is_empty(), "put aside and not looked at: {:?}", self.aside);
        match self.read().await {
            Received::Closed => {}
            Received::Packet(packet) => panic!("closed expected, not {packet:?}"),
        }
    }

    /// The broker ends the connection: version 5 is told this reason, 3.1.1 nothing. Nothing else comes before.
    pub(crate) async fn expect_ended(&mut self, reason_code: ReasonCode) {
        if self.version == V5 {
            match self.recv().await {
                Packet::Disconnect(disconnect) => assert_eq!(disconnect.reason_code, reason_code),
                other => panic!("DISCONNECT {reason_code} expected, not {other:?}"),
            }
        }
        self.expect_closed().await;
    }

    /// What the kernel has for this client now, without waiting, and whether the stream has ended. Plain connections
    /// only: what comes later was not with the kernel when this was called.
    pub(crate) fn arrived(&mut self) -> (Vec<Packet>, bool) {
        let Stream::Plain(tcp) = &self.stream else { panic!("not over TLS") };
        // Past tokio, which may not know yet that there is something to read.
        let socket = socket2::SockRef::from(tcp);
        let mut chunk = vec![0; 64 * 1024];
        let closed = loop {
            match Read::read(&mut &*socket, &mut chunk) {
                Ok(0) => break true,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        let mut packets: Vec<Packet> = self.aside.drain(..).collect();
        while let Some(packet) = self.decoder.decode(&mut self.input).expect("the broker's packets are well-formed") {
            packets.push(packet);
        }
        (packets, closed)
    }

    /// A round trip, with nothing else in between. Everything that the broker had for this client when the first
    /// PINGREQ arrived, it sends before the second PINGRESP: so it had nothing.
    pub(crate) async fn expect_silence(&mut self) {
        assert!(self.aside.is_empty(), "put aside and not looked at: {:?}", self.aside);
        for _ in 0..2 {
            self.send(Packet::PingReq).await;
            let answer = self.recv().await;
            assert_eq!(answer, Packet::PingResp, "nothing was to come");
        }
    }

    /// A round trip: what was sent before has been handled.
    pub(crate) async fn ping(&mut self) {
        self.send(Packet::PingReq).await;
        self.recv_where(|packet| *packet == Packet::PingResp).await;
    }

    pub(crate) fn next_id(&mut self) -> PacketIdentifier {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        id(self.last_id)
    }

    /// Subscribes with these options to these filters; the codes of the SUBACK.
    pub(crate) async fn subscribe_with(&mut self, filters: &[(&str, SubscriptionOptions)]) -> Vec<ReasonCode> {
        let packet_id = self.next_id();
        let filters = filters
            .iter()
            .map(|(filter, options)| SubscribeFilter {
                filter: TopicFilter::try_from(*filter).unwrap(),
                options: *options,
            })
            .collect();
        self.send(Packet::Subscribe(Subscribe {
            packet_id,
            filters,
            subscription_identifier: None,
            user_properties: Vec::new(),
        }))
        .await;
        self.expect_suback(packet_id).await.reason_codes
    }

    pub(crate) async fn expect_suback(&mut self, packet_id: PacketIdentifier) -> SubAck {
        match self.recv_where(|packet| matches!(packet, Packet::SubAck(_))).await {
            Packet::SubAck(suback) if suback.packet_id == packet_id => suback,
            other => panic!("SUBACK {packet_id:?} expected, not {other:?}"),
        }
    }

    /// Subscribes to one filter; its code.
    pub(crate) async fn try_subscribe(&mut self, filter: &str, qos: QoS) -> ReasonCode {
        let codes = self.subscribe_with(&[(filter, options(qos))]).await;
        assert_eq!(codes.len(), 1);
        codes[0]
    }

    /// Subscribes to one filter, and gets the QoS.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let granted = self.try_subscribe(filter, qos).await;
        assert_eq!(granted as u8, qos as u8, "subscribing to {filter}");
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Vec<ReasonCode> {
        let packet_id = self.next_id();
        let filters = vec![TopicFilter::try_from(filter).unwrap()];
        self.send(Packet::Unsubscribe(Unsubscribe { packet_id, filters, user_properties: Vec::new() })).await;
        match self.recv_where(|packet| matches!(packet, Packet::UnsubAck(_))).await {
            Packet::UnsubAck(unsuback) if unsuback.packet_id == packet_id => unsuback.reason_codes,
            other => panic!("UNSUBACK {packet_id:?} expected, not {other:?}"),
        }
    }

    /// Publishes with the whole exchange of its QoS; the code of the first acknowledgement. At QoS 0 a round trip, so
    /// that the message has been handled in any case.
    pub(crate) async fn publish_packet(&mut self, mut publish: Publish) -> ReasonCode {
        if publish.qos == Q0 {
            self.send(Packet::Publish(publish)).await;
            self.ping().await;
            return ReasonCode::Success;
        }
        let packet_id = publish.packet_id.unwrap_or_else(|| self.next_id());
        publish.packet_id = Some(packet_id);
        let qos = publish.qos;
        self.send(Packet::Publish(publish)).await;
        let first = match self.recv_where(|p| matches!(p, Packet::PubAck(_) | Packet::PubRec(_))).await {
            Packet::PubAck(ack) if qos == Q1 && ack.packet_id == packet_id => return ack.reason_code,
            Packet::PubRec(ack) if qos == Q2 && ack.packet_id == packet_id => ack.reason_code,
            other => panic!("the acknowledgement of {packet_id:?} at {qos:?} expected, not {other:?}"),
        };
        if !first.is_error() {
            self.send(Packet::PubRel(ack(packet_id))).await;
            self.expect_pubcomp(packet_id).await;
        }
        first
    }

    pub(crate) async fn expect_pubcomp(&mut self, packet_id: PacketIdentifier) {
        match self.recv_where(|packet| matches!(packet, Packet::PubComp(_))).await {
            Packet::PubComp(ack) if ack.packet_id == packet_id && ack.reason_code == ReasonCode::Success => {}
            other => panic!("PUBCOMP {packet_id:?} expected, not {other:?}"),
        }
    }

    pub(crate) async fn try_publish(&mut self, topic: &str, payload: &str, qos: QoS) -> ReasonCode {
        self.publish_packet(publish(topic, payload, qos)).await
    }

    /// Publishes at QoS 0 without waiting for anything.
    pub(crate) async fn publish_at_once(&mut self, topic: &str, payload: &str) {
        self.send(Packet::Publish(publish(topic, payload, Q0))).await;
    }

    /// Publishes, and is not refused.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, qos: QoS) {
        let code = self.try_publish(topic, payload, qos).await;
        assert!(!code.is_error(), "publishing to {topic}: {code}");
    }

    /// Publishes with RETAIN, and is not refused.
    pub(crate) async fn retain(&mut self, topic: &str, payload: &str, qos: QoS) {
        let code = self.publish_packet(Publish { retain: true, ..publish(topic, payload, qos) }).await;
        assert!(!code.is_error(), "publishing to {topic}: {code}");
    }

    /// The next packet is a PUBLISH; it is not acknowledged.
    pub(crate) async fn expect_publish(&mut self) -> Publish {
        match self.recv().await {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH expected, not {other:?}"),
        }
    }

    /// The next packet is a PUBLISH, acknowledged to the end of its exchange.
    pub(crate) async fn receive(&mut self) -> Publish {
        let publish = self.expect_publish().await;
        self.acknowledge(&publish).await;
        publish
    }

    /// Does the receiver's part of the exchange.
    pub(crate) async fn acknowledge(&mut self, publish: &Publish) {
        let Some(packet_id) = publish.packet_id else { return };
        if publish.qos == Q1 {
            return self.send(Packet::PubAck(ack(packet_id))).await;
        }
        self.send(Packet::PubRec(ack(packet_id))).await;
        match self.recv_where(|packet| matches!(packet, Packet::PubRel(_))).await {
            Packet::PubRel(ack) if ack.packet_id == packet_id => {}
            other => panic!("PUBREL {packet_id:?} expected, not {other:?}"),
        }
        self.send(Packet::PubComp(ack(packet_id))).await;
    }

    /// The next packet is this message; acknowledged.
    pub(crate) async fn expect_message(&mut self, topic: &str, payload: &str) -> Publish {
        let publish = self.receive().await;
        assert_eq!((topic_of(&publish), text_of(&publish)), (topic, payload));
        publish
    }

    /// Says DISCONNECT and waits for the end.
    pub(crate) async fn disconnect(mut self) {
        self.send(disconnect(ReasonCode::Success)).await;
        while let Received::Packet(_) = self.read().await {}
    }

    /// Cuts the connection without a word (a reset).
    pub(crate) fn cut(self) {
        match &self.stream {
            Stream::Plain(tcp) => tcp.set_zero_linger().unwrap(),
            Stream::Tls(tls) => tls.tcp.set_zero_linger().unwrap(),
        }
    }
}

pub(crate) fn id(number: u16) -> PacketIdentifier {
    PacketIdentifier::new(number).expect("not 0")
}

pub(crate) fn ack(packet_id: PacketIdentifier) -> Acknowledgement {
    Acknowledgement { packet_id, reason_code: ReasonCode::Success, properties: None }
}

pub(crate) fn disconnect(reason_code: ReasonCode) -> Packet {
    Packet::Disconnect(Disconnect { reason_code, properties: DisconnectProperties::default() })
}

pub(crate) fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

pub(crate) fn publish(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::try_from(topic).unwrap()),
        packet_id: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        properties: None,
    }
}

pub(crate) fn will(topic: &str, payload: &str, qos: QoS) -> Will {
    Will {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        delay_interval: None,
        properties: PublishProperties::default(),
    }
}

/// A CONNECT without credentials, clean, without keep alive.
pub(crate) fn connect(version: ProtocolVersion, client_id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: ClientId::try_from(client_id).unwrap(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

pub(crate) fn topic_of(publish: &Publish) -> &str {
    publish.topic.as_ref().map(TopicName::as_str).unwrap_or_default()
}

pub(crate) fn text_of(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.payload).unwrap()
}

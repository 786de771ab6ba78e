//! A client for HTTPS: requests on one connection, and raw bytes for what no client would send.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    certificates::{ANY_TLS, Identity, roots, tls_client},
    client::PATIENCE,
    harness::{Harness, PASSWORD},
};

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    /// The kind of a problem, which must agree with the status.
    pub(crate) fn problem(&self) -> (u16, &str) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{} {}", self.status, self.body);
        assert_eq!(self.body["status"], self.status.as_u16());
        assert!(self.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        let kind = self.body["type"].as_str().unwrap();
        (self.status.as_u16(), kind.strip_prefix("urn:portcullis:problem:").unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// One connection.
pub(crate) struct Https(SendRequest<Full<Bytes>>);

pub(crate) fn config(harness: &Harness, identity: Option<Identity>) -> Arc<ClientConfig> {
    tls_client(roots(&harness.broker.started().trust_bundle), ANY_TLS, identity)
}

pub(crate) fn api(harness: &Harness) -> SocketAddr {
    harness.broker.started().admin.expect("the configuration names it")
}

pub(crate) async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

pub(crate) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", Base64::encode_string(format!("{username}:{password}").as_bytes()))
}

impl Https {
    pub(crate) async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let (sender, connection) = handshake(TokioIo::new(tls(address, config).await.unwrap())).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// As [`Https::connect`], from this address.
    pub(crate) async fn connect_from(source: IpAddr, address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let tcp = socket.connect(address).await.unwrap();
        let tls = TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// To the API.
    pub(crate) async fn to(harness: &Harness) -> Self {
        Self::connect(api(harness), config(harness, None)).await
    }

    pub(crate) async fn response(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = async {
            self.0.ready().await.unwrap();
            self.0.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
        };
        timeout(PATIENCE, sent).await.expect("a request is answered")
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (parts, body) = self.response(method, path, headers, body).await.into_parts();
        let bytes = timeout(PATIENCE, body.collect()).await.expect("a body ends").unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// As a user with [`PASSWORD`]; JSON, or null for no body.
    pub(crate) async fn call(&mut self, user: &str, method: &str, path: &str, body: &Value) -> Reply {
        let authorization = basic(user, PASSWORD);
        let headers = [("authorization", &*authorization), ("content-type", "application/json")];
        let (headers, body) =
            if body.is_null() { (&headers[..1], String::new()) } else { (&headers[..], body.to_string()) };
        self.send(method, path, headers, body).await
    }

    pub(crate) async fn get(&mut self, user: &str, path: &str) -> Reply {
        self.call(user, "GET", path, &Value::Null).await
    }
}

/// Sends these bytes and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, config: Arc<ClientConfig>, bytes: &[u8]) -> String {
    let mut stream = tls(address, config).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A cut without a closing alert is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

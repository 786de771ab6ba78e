//! The client of the administration API: HTTP/1.1 over the Unix socket of a running broker, or over HTTPS to one elsewhere.
//!
//! One connection for each request. Answers are bounded in size and time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use portcullis::admin::problem::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::Failure;
use super::elsewhere::Elsewhere;

const MAX_ANSWER: usize = 256 << 20;
const MAX_EVENT: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) enum Client {
    /// A broker of this machine.
    Socket(PathBuf),
    /// A broker elsewhere.
    Elsewhere(Box<Elsewhere>),
}

impl Client {
    pub(crate) fn new(socket: impl AsRef<Path>) -> Self {
        Self::Socket(socket.as_ref().to_owned())
    }

    pub(crate) fn elsewhere(elsewhere: Elsewhere) -> Self {
        Self::Elsewhere(Box::new(elsewhere))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// Expects no content in return.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.exchange(Method::DELETE, path, None::<&()>).await.map(|_| ())
    }

    /// An answer that is no JSON.
    pub(crate) async fn bytes(&self, path: &str) -> Result<Bytes, Failure> {
        self.exchange(Method::GET, path, None::<&()>).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Failure> {
        let answer = self.exchange(method, path, body).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Failure::answer(format!("the broker's answer is not understood ({error})")))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes, Failure> {
        let answer = async {
            let response = self.request(method, path, body, "application/json").await?;
            let status = response.status();
            let answer = collect(response).await?;
            if status.is_success() { Ok(answer) } else { Err(refusal(status.as_u16(), &answer)) }
        };
        tokio::time::timeout(TIMEOUT, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::answer("the broker did not answer within a minute")))
    }

    /// Calls `each` with the data of each server-sent event, until it or the broker ends the stream.
    pub(crate) async fn events(
        &self,
        path: &str,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let response = self.request(Method::GET, path, None::<&()>, "text/event-stream").await?;
        let status = response.status();
        if !status.is_success() {
            return Err(refusal(status.as_u16(), &collect(response).await?));
        }
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        let mut data = String::new();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) =
                frame.map_err(|error| Failure::answer(format!("the stream broke off ({error})")))?.into_data()
            else {
                continue;
            };
            buffer.extend_from_slice(&bytes);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches(['\r', '\n']);
                if let Some(text) = line.strip_prefix("data:") {
                    if !data.is_empty() {
                        data.push('\n');
                    }
                    data.push_str(text.strip_prefix(' ').unwrap_or(text));
                } else if line.is_empty() && !data.is_empty() {
                    each(&data)?;
                    data.clear();
                }
            }
            if buffer.len() + data.len() > MAX_EVENT {
                return Err(Failure::answer("the broker sent an event without end"));
            }
        }
        Ok(())
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        accept: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let bytes = body.map(serde_json::to_vec).transpose().map_err(|error| Failure::answer(error.to_string()))?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host()).header(ACCEPT, accept);
        if let Self::Elsewhere(elsewhere) = self
            && let Some(authorization) = elsewhere.authorization()
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        if bytes.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(bytes.unwrap_or_default())))
            .map_err(|error| Failure::Usage(format!("this cannot be asked for: {error}")))?;
        let mut sender = self.open().await?;
        sender.send_request(request).await.map_err(|error| self.unreachable(&error))
    }

    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        match self {
            Self::Socket(socket) => self.speak(UnixStream::connect(socket).await).await,
            Self::Elsewhere(elsewhere) => self.speak(elsewhere.connect().await).await,
        }
    }

    async fn speak<T>(&self, stream: std::io::Result<T>) -> Result<SendRequest<Full<Bytes>>, Failure>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = stream.map_err(|error| self.unreachable(&error))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(&error))?;
        // Ends with the sender or the body, whichever lives longer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn host(&self) -> &str {
        match self {
            Self::Socket(_) => "localhost",
            Self::Elsewhere(elsewhere) => elsewhere.authority().as_str(),
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        let reason = error.to_string();
        match self {
            Self::Socket(socket) => Failure::Unreachable { socket: socket.clone(), reason },
            Self::Elsewhere(elsewhere) => {
                Failure::Elsewhere { url: format!("https://{}", elsewhere.authority()), reason }
            }
        }
    }
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::answer(format!("the broker's answer broke off ({error})")))
}

fn refusal(status: u16, answer: &[u8]) -> Failure {
    let unnamed = || Problem {
        kind: "about:blank".to_owned(),
        title: String::new(),
        status,
        detail: String::new(),
        extensions: serde_json::Map::new(),
    };
    let problem = serde_json::from_slice::<Problem>(answer).unwrap_or_else(|_| unnamed());
    Failure::Refused(Problem { status, ..problem })
}

/// A value as one segment of a path (RFC 3986 3.3): what is not unreserved is percent-encoded, and a segment of dots
/// alone, which means another place, cannot be.
pub(crate) fn segment(text: &str) -> Result<String, Failure> {
    use std::fmt::Write as _;
    if matches!(text, "" | "." | "..") {
        return Err(Failure::Usage(format!("`{text}` names nothing")));
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Ok(encoded)
}

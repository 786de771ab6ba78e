//! HTTPS: a bound socket whose connections are TLS, then HTTP/1.1, for a service that this file does not know.
//!
//! Enters: a bound socket, a TLS configuration, bounds, and a way to make the service of one connection. Leaves: requests
//! with whoever made them, one at a time for each connection. It never waits longer for a peer than [`Times`] say: not for
//! a handshake, not for a header, not between two requests, not for one that does not read its answer.

use std::{
    error::Error,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::HttpService,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    Workers,
    admission::{Admission, Place},
    listener::accept,
    tls::TlsAcceptor,
};
use crate::metrics::Metrics;

/// Largest head of a request (request line and headers), in bytes; a larger one is answered with 431.
const HEAD: usize = 16 * 1024;

/// Most headers of a request; more are answered with 431.
const HEADERS: usize = 64;

/// How long a peer is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// The TLS handshake.
    pub(crate) handshake: Duration,
    /// From the end of the handshake, or of an answer, to the end of the next request's head: so it also is how long an
    /// idle connection is kept.
    pub(crate) head: Duration,
    /// For the peer to take anything at all of what is written to it.
    pub(crate) write: Duration,
    /// For the peer to see the end of its answer before the connection is cut, where it still sends a body that nobody reads.
    pub(crate) linger: Duration,
    /// For answers that are under way when the broker stops.
    pub(crate) last_words: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            write: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            last_words: Duration::from_secs(2),
        }
    }
}

/// What all connections of one HTTPS listener share.
pub(crate) struct HttpsListener {
    /// The name in logs and metrics.
    pub(crate) name: String,
    /// Its TLS side.
    pub(crate) tls: TlsAcceptor,
    /// How many connections there may be.
    pub(crate) admission: Arc<Admission>,
    /// How long a peer is waited for.
    pub(crate) times: Times,
    /// The threads of the connections: not those of MQTT, whose messages a long answer would hold up.
    pub(crate) workers: Arc<Workers>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// Whoever is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct HttpsPeer {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its certificates (DER), its own first: a chain that was verified in the handshake.
    pub(crate) certificates: Option<Arc<[Vec<u8>]>>,
}

/// Accepts until shutdown. `service` makes what answers the requests of one connection.
pub(crate) async fn run<M, S, B>(
    socket: TcpListener,
    listener: Arc<HttpsListener>,
    service: M,
    mut shutdown: watch::Receiver<bool>,
) where
    M: Fn(HttpsPeer) -> S + Send + Sync + 'static,
    S: HttpService<Incoming, ResBody = B, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (service, stop) = (Arc::new(service), shutdown.clone());
    let metrics = Arc::clone(&listener.metrics);
    let name = listener.name.clone();
    accept(socket, &name, &metrics, &mut shutdown, |stream, address| {
        let Some(place) = super::listener::place(&listener.admission, address, &listener.metrics) else { return };
        let Some(stream) = super::listener::detach(stream) else { return };
        let (listener, service, stop) = (Arc::clone(&listener), Arc::clone(&service), stop.clone());
        listener.workers.clone().spawn(async move {
            serve(stream, address, place, &listener, &*service, stop).await;
        });
    })
    .await;
}

async fn serve<M, S, B>(
    stream: std::net::TcpStream,
    address: SocketAddr,
    _place: Place,
    listener: &HttpsListener,
    service: &M,
    mut shutdown: watch::Receiver<bool>,
) where
    M: Fn(HttpsPeer) -> S,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let Times { handshake, head, write, linger, last_words } = listener.times;
    let name = &*listener.name;
    let opened = async {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        listener.tls.accept_stream(stream).await
    };
    let opened = match timeout(handshake, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let (stream, certificates) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            listener.metrics.handshake_failed();
            tracing::debug!(listener = name, peer = %address, %error, "TLS handshake failed");
            return;
        }
    };
    let _open = listener.metrics.connection_opened(name);
    let service = service(HttpsPeer { address, certificates: certificates.map(Into::into) });
    let io = TokioIo::new(Impatient { io: stream, limit: write, linger, stalled: None, closing: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_header_size(HEAD)
        .max_headers(HEADERS)
        // The head, and a piece of the body.
        .max_buf_size(HEAD * 2)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = async { drop(shutdown.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            match timeout(last_words, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(listener = name, peer = %address, error = &error as &dyn Error, "an HTTPS connection broke off");
    }
}

/// A stream that fails when its peer takes nothing for too long, and that is closed in stages.
struct Impatient<T> {
    io: T,
    limit: Duration,
    linger: Duration,
    /// Since when nothing was taken; `None` while writing goes on.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Our side is closed; the rest of what the peer sends is thrown away until this ends.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<T> Impatient<T> {
    fn watch<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        stalled.as_mut().reset(Instant::now() + limit);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer")))
    }
}

impl<T: AsyncRead + Unpin> Impatient<T> {
    /// RFC 9112 9.6: to close with input unread may take the answer away from a peer that has not read it yet.
    fn throw_away(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger;
        let closing = self.closing.get_or_insert_with(|| Box::pin(sleep(linger)));
        if closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scrap = [0; 4096];
        // So many at a time: others want the thread.
        for _ in 0..64 {
            let mut buffer = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The end, or an error that has the same use.
                _ => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Impatient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Impatient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            let shut = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.watch(cx, shut))?;
        }
        self.throw_away(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn impatient<T>(io: T, limit: Duration) -> Impatient<T> {
        Impatient { io, limit, linger: limit, stalled: None, closing: None }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, theirs) = tokio::io::duplex(1000);
        let mut stream = impatient(ours, Duration::from_millis(50));
        let error = stream.write_all(&[0; 1001]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test]
    async fn a_peer_that_reads_slowly_is_served() {
        use tokio::io::AsyncReadExt;
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut stream = impatient(ours, Duration::from_mins(1));
        let reader = tokio::spawn(async move {
            let mut taken = 0;
            let mut buffer = [0; 10];
            while taken < 100 {
                sleep(Duration::from_millis(5)).await;
                taken += theirs.read(&mut buffer).await.unwrap();
            }
        });
        stream.write_all(&[0; 100]).await.unwrap();
        reader.await.unwrap();
    }

    /// Answers `ok`, after its body has come.
    async fn start(times: Times, directory: &std::path::Path) -> (SocketAddr, rustls::RootCertStore, Arc<Metrics>) {
        use crate::pki::{CertificateAuthority, ServerName};
        let now = jiff::Timestamp::now();
        let ca = CertificateAuthority::generate(now).unwrap();
        let names = [ServerName::Dns("localhost".into())];
        let (pem, key) = (directory.join("server.pem"), directory.join("server.key"));
        let certificate = ca.server_certificate(&pem, &key, &names, now).unwrap();
        let shown = Arc::new(super::super::ServerKey::new(certificate.chain(), certificate.key_der()).unwrap());
        let tls = TlsAcceptor::new(&super::super::TlsSettings {
            certificate: &shown,
            client_anchors: &ca.anchors(),
            client_certificate: super::super::ClientCertificate::Off,
            tls12: false,
            inside: super::super::Inside::Http,
        });
        let mut roots = rustls::RootCertStore::empty();
        for anchor in ca.anchors() {
            roots.add(anchor.clone().into()).unwrap();
        }
        let metrics = Arc::new(Metrics::new());
        let listener = Arc::new(HttpsListener {
            name: "test".into(),
            tls: tls.unwrap(),
            admission: Admission::new(10, 10),
            times,
            workers: Arc::new(Workers::start("test", 1, None).unwrap()),
            metrics: Arc::clone(&metrics),
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let service = |_: HttpsPeer| {
            hyper::service::service_fn(|request: hyper::Request<Incoming>| async move {
                http_body_util::BodyExt::collect(request.into_body()).await?;
                Ok::<_, hyper::Error>(hyper::Response::new("ok".to_owned()))
            })
        };
        tokio::spawn(async move {
            let (_stop, stopped) = watch::channel(false);
            run(socket, listener, service, stopped).await;
        });
        (address, roots, metrics)
    }

    #[tokio::test]
    async fn who_is_slow_is_closed_at_every_stage() {
        use tokio::io::AsyncReadExt;
        let limit = Duration::from_millis(300);
        let times = Times { handshake: limit, head: limit, ..Times::default() };
        let directory = tempfile::tempdir().unwrap();
        let (address, roots, metrics) = start(times, directory.path()).await;
        let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let open = async || {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
        };
        let patience = Duration::from_mins(1);

        // A handshake that does not begin, one that does not end.
        for bytes in [&b""[..], &[0x16, 3, 1, 2]] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(bytes).await.unwrap();
            let mut nothing = Vec::new();
            let _ = timeout(patience, silent.read_to_end(&mut nothing)).await.expect("it is closed");
        }
        // A head that does not begin, one that does not end, one that trickles, and what comes after an answer.
        let whole = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for (bytes, trickle, answers) in
            [("", "", 0), ("GET / HT", "", 0), ("GET / HTTP/1.1\r\n", "X: y\r\n", 0), (whole, "", 1)]
        {
            let (mut reader, mut writer) = tokio::io::split(open().await);
            let writing = tokio::spawn(async move {
                let mut next = bytes;
                while writer.write_all(next.as_bytes()).await.is_ok() && writer.flush().await.is_ok() {
                    next = trickle;
                    sleep(Duration::from_millis(20)).await;
                }
            });
            let mut answer = Vec::new();
            let _ = timeout(patience, reader.read_to_end(&mut answer)).await.expect("it is closed");
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(answer.matches("200 OK").count(), answers, "{bytes:?}: {answer}");
            writing.abort();
        }
        let text = metrics.encode();
        assert!(text.contains("portcullis_connections_refused_total{reason=\"handshake\"} 2"), "{text}");
    }

    #[tokio::test]
    async fn an_end_is_seen_by_a_peer_that_still_sends_and_is_not_waited_for_without_end() {
        use tokio::io::AsyncReadExt;
        for ends in [true, false] {
            let (ours, mut theirs) = tokio::io::duplex(10);
            let limit = if ends { Duration::from_mins(1) } else { Duration::from_millis(50) };
            let mut stream = impatient(ours, limit);
            let peer = tokio::spawn(async move {
                theirs.write_all(&[0; 1000]).await.unwrap();
                assert_eq!(theirs.read(&mut [0; 10]).await.unwrap(), 0);
                // One of them keeps its side open.
                (!ends).then_some(theirs)
            });
            stream.shutdown().await.unwrap();
            drop(peer.await.unwrap());
        }
    }
}

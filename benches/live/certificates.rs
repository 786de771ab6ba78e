//! Certificates for the brokers under test, and devices that get theirs as any device does: by enrolling.
//!
//! In: a directory that a broker will find its certificates in; names of devices, and the administration of a running
//! broker. Out: TLS configurations for the driver's clients. Keys live as long as the run.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::admin::Rest;
use crate::words::{self, Packet};

type Result<T> = std::result::Result<T, String>;

/// A CA and a server certificate, in the files `ca.pem`, `ca.key`, `server.pem`, `server.key`; whom clients trust leaves.
pub(crate) fn make(directory: &Path) -> Result<RootCertStore> {
    let failed = |error: rcgen::Error| error.to_string();
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "live driver CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(failed)?).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(failed)?;
    let server = server.signed_by(&key, &authority).map_err(failed)?;
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("ca.key", authority.key().serialize_pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        fs::write(directory.join(name), text).map_err(|error| error.to_string())?;
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(authority.der().to_vec())).map_err(|error| error.to_string())?;
    Ok(roots)
}

/// A client's side of TLS. Its sessions are its own: another client resumes none of them.
pub(crate) fn client(roots: &RootCertStore, identity: Option<Identity>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots.clone());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?,
    };
    config.resumption = rustls::client::Resumption::in_memory_sessions(1);
    Ok(Arc::new(config))
}

/// As many clients' sides of TLS, each with sessions of its own.
pub(crate) fn clients(roots: &RootCertStore, count: usize) -> Result<Vec<Arc<ClientConfig>>> {
    let one = client(roots, None)?;
    let another = || {
        let mut config = ClientConfig::clone(&one);
        config.resumption = rustls::client::Resumption::in_memory_sessions(1);
        Arc::new(config)
    };
    Ok((0..count).map(|_| another()).collect())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A device with its certificate.
pub(crate) struct Device {
    pub(crate) serial: String,
    pub(crate) tls: Arc<ClientConfig>,
}

/// Enrols a device of this name, which an operator grants one role at once.
pub(crate) fn enrol(rest: &mut Rest, to: SocketAddr, roots: &RootCertStore, name: &str, role: &str) -> Result<Device> {
    let failed = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(failed)?;
    let mut wish = CertificateParams::default();
    wish.distinguished_name.push(DnType::CommonName, name);
    let csr = wish.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;

    let mut registration = Registration::open(to, roots)?;
    let pending = registration.register(name, &csr)?;
    if pending["state"] != "pending" {
        return Err(format!("`{name}` may not register: {pending}"));
    }
    let requests = rest.call("GET", "/api/client-registry/requests", None)?;
    let id = requests["items"]
        .as_array()
        .and_then(|requests| requests.iter().find(|request| request["username"] == name))
        .and_then(|request| request["id"].as_str())
        .ok_or("the request is not on record")?;
    rest.call("POST", &format!("/api/client-registry/requests/{id}/grant"), Some(&json!({ "roles": [role] })))?;
    let granted = registration.answer()?;
    let text = |field: &str| granted[field].as_str().map(str::to_owned).ok_or(format!("no `{field}`: {granted}"));
    let certificate =
        CertificateDer::from_pem_slice(text("certificate")?.as_bytes()).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    Ok(Device { serial: text("serial")?, tls: client(roots, Some((vec![certificate], key)))? })
}

/// A connection without credentials.
struct Registration {
    stream: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
}

impl Registration {
    fn open(to: SocketAddr, roots: &RootCertStore) -> Result<Self> {
        let failed = |error: std::io::Error| error.to_string();
        let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
        let tls = ClientConnection::new(client(roots, None)?, name).map_err(|error| error.to_string())?;
        let tcp = TcpStream::connect(to).map_err(failed)?;
        tcp.set_read_timeout(Some(Duration::from_secs(20))).map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream: StreamOwned::new(tls, tcp), buffer: Vec::new() })
    }

    fn register(&mut self, name: &str, csr: &str) -> Result<Value> {
        let mut out = Vec::new();
        words::connect(&mut out, false, "", None, true);
        words::subscribe(&mut out, false, 1, "$registry/register/response");
        let message = json!({ "username": name, "csr": csr }).to_string();
        words::publish(&mut out, false, "$registry/register", message.as_bytes());
        self.stream.write_all(&out).map_err(|error| error.to_string())?;
        self.answer()
    }

    /// The next answer of the registry.
    fn answer(&mut self) -> Result<Value> {
        loop {
            while let Some((packet, length)) =
                words::decode(false, &self.buffer).map_err(|_| "a malformed packet".to_owned())?
            {
                let found = match packet {
                    Packet::Publish { payload, .. } => {
                        Some(serde_json::from_slice(payload).map_err(|error| error.to_string())?)
                    }
                    Packet::Connack { code: 1.. } | Packet::Suback { code: 0x80.. } => {
                        return Err("the registration session was refused".to_owned());
                    }
                    _ => None,
                };
                self.buffer.drain(..length);
                if let Some(answer) = found {
                    return Ok(answer);
                }
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the registration session was cut off".to_owned()),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(format!("the registration session: {error}")),
            }
        }
    }
}

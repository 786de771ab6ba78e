//! Whether clients take what a CA issues: tried out, with certificates that nobody ever sees.
//!
//! Entering: a CA with its chain, the time. Leaving: nothing, or in the words of the TLS library why a client refuses. Never: a
//! certificate, nor a key of one; they are made here and end here.
//!
//! What a CA may not issue stands in extensions that are many, and that each client reads in its own way (name constraints, policies,
//! whatever is critical and unknown). So they are not read here a second time: a client of TLS judges.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName as Host, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::{Ca, SignerError, draw_serial, sign_error};
use crate::clock::Duration;
use crate::pki::{PreparedCertificate, ProfileError, PublicKey, ServerName, VerifiedCsr};

/// A name that users have, and one that every server certificate of ours has.
const USER: &str = "portcullis";
const HOST: &str = "localhost";

/// How long the certificates would be good.
const VALIDITY: Duration = Duration::from_hours(1);

/// Is what the CA issues verified, as of a user and, where it may, as of a server?
pub(super) fn check(ca: &Ca, path: &Path, now: Timestamp) -> Result<(), SignerError> {
    let key = KeyPair::generate().map_err(|error| sign_error(&error))?;
    let seconds = u64::try_from(now.as_second()).map_err(|_| ProfileError::Validity)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let refused = |what, reason| SignerError::Refused { path: path.into(), name: ca.issuer.name(), what, reason };

    let user = user(ca, &key, now)?;
    // As this broker does it, and as others do who have the root.
    admits_user(ca.issuer.der(), &[], &user, at).map_err(|reason| refused("users", reason))?;
    admits_user(&ca.root, &ca.chain, &user, at).map_err(|reason| refused("users", reason))?;
    if ca.issuer.admits_servers() {
        let server = server(ca, &key, now)?;
        admits_server(&ca.root, &ca.chain, &server, at).map_err(|reason| refused("servers", reason))?;
    }
    Ok(())
}

fn user(ca: &Ca, key: &KeyPair, now: Timestamp) -> Result<Vec<u8>, SignerError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, USER);
    let request =
        params.serialize_request(key).and_then(|request| request.pem()).map_err(|error| sign_error(&error))?;
    let request = VerifiedCsr::from_pem(request.as_bytes()).map_err(|error| SignerError::Sign(error.to_string()))?;
    let prepared = PreparedCertificate::client(&request, &ca.issuer, draw_serial()?, now, VALIDITY)?;
    Ok(ca.sign(prepared)?.der().to_vec())
}

fn server(ca: &Ca, key: &KeyPair, now: Timestamp) -> Result<Vec<u8>, SignerError> {
    let public = PublicKey::from_spki_der(&key.subject_public_key_info())
        .map_err(|error| SignerError::Sign(error.to_string()))?;
    let names = [
        ServerName::Dns(HOST.to_owned()),
        ServerName::Address(std::net::Ipv4Addr::LOCALHOST.into()),
        ServerName::Address(std::net::Ipv6Addr::LOCALHOST.into()),
    ];
    let prepared = PreparedCertificate::server(public, &names, &ca.issuer, draw_serial()?, now, VALIDITY)?;
    Ok(ca.sign(prepared)?.der().to_vec())
}

fn admits_user(anchor: &[u8], chain: &[Vec<u8>], user: &[u8], now: UnixTime) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(anchor)?, provider).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let verified = verifier.verify_client_cert(&CertificateDer::from(user), &intermediates(chain), now);
    verified.map(drop).map_err(|error| error.to_string())
}

fn admits_server(anchor: &[u8], chain: &[Vec<u8>], server: &[u8], now: UnixTime) -> Result<(), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(anchor)?, provider).build();
    let verifier = verifier.map_err(|error| error.to_string())?;
    let host = Host::try_from(HOST).map_err(|error| error.to_string())?;
    let verified = verifier.verify_server_cert(&CertificateDer::from(server), &intermediates(chain), &host, &[], now);
    verified.map(drop).map_err(|error| error.to_string())
}

fn roots(anchor: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(anchor)).map_err(|error| error.to_string())?;
    Ok(Arc::new(roots))
}

fn intermediates(chain: &[Vec<u8>]) -> Vec<CertificateDer<'_>> {
    chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect()
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;

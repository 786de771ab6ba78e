//! Keys, certificates and TLS clients for tests, made with the broker's own CA or with a foreign one.

use std::{fs, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use portcullis::access::CertificateRecord;
use portcullis::pki::{
    CaFiles, CertificateAuthority, IssuedCertificate, PeerCertificate, PreparedCertificate, Signer, VerifiedCsr,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};

/// What a client presents.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

pub(crate) fn parameters(common_name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

/// A key, and the PEM of a CSR for it.
pub(crate) fn request(common_name: &str) -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let csr = parameters(common_name).serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

pub(crate) fn identity(certificate: &[u8], key: &KeyPair) -> Identity {
    Identity {
        chain: vec![CertificateDer::from(certificate.to_vec())],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

/// What puts a certificate that was made by hand on a user's record.
pub(crate) fn record(identity: &Identity) -> CertificateRecord {
    let peer = PeerCertificate::from_der(&identity.chain[0]).unwrap();
    CertificateRecord {
        serial: peer.serial().to_owned(),
        fingerprint: peer.fingerprint().to_owned(),
        key: None,
        not_before: peer.not_before(),
        not_after: peer.not_after(),
        revoked_at: None,
        reason: None,
        comment: None,
        issuer: Some("whoever signs in this test".into()),
        replaces: None,
    }
}

/// The same for one of the broker's CA, which that CA renews.
pub(crate) fn record_of(certs: &Path, identity: &Identity) -> CertificateRecord {
    let (certificate, key) = (certs.join("ca.pem"), certs.join("ca.key"));
    let ca = CertificateAuthority::load(&CaFiles::plain(&certificate, &key), Timestamp::now()).unwrap();
    CertificateRecord { issuer: Some(ca.issuer().id()), ..record(identity) }
}

/// A client certificate of the broker's CA, as the registry would make it; it is on nobody's record.
pub(crate) fn issue(certs: &Path, common_name: &str) -> (Identity, IssuedCertificate) {
    let (key, csr) = request(common_name);
    let issued = issue_for(certs, &csr);
    (identity(issued.der(), &key), issued)
}

/// The same, for a CSR.
pub(crate) fn issue_for(certs: &Path, csr: &str) -> IssuedCertificate {
    let now = Timestamp::now();
    let ca = CertificateAuthority::load(&CaFiles::plain(&certs.join("ca.pem"), &certs.join("ca.key")), now).unwrap();
    let csr = VerifiedCsr::from_pem(csr.as_bytes()).unwrap();
    let serial = ca.draw_serial().unwrap();
    let prepared = PreparedCertificate::client(&csr, ca.issuer(), serial, now, Duration::from_hours(24)).unwrap();
    ca.sign(prepared).unwrap()
}

/// A client certificate of the broker's CA with another end.
pub(crate) fn issue_until(certs: &Path, common_name: &str, end: Timestamp) -> Identity {
    sign(parameters(common_name), end, &stolen(certs))
}

/// A client certificate of the broker's CA, made now and good so long.
pub(crate) fn issue_now(certs: &Path, common_name: &str, life: Duration) -> Identity {
    let mut leaf = parameters(common_name);
    leaf.not_before = std::time::SystemTime::now().into();
    signed(leaf, Timestamp::now() + life, &stolen(certs))
}

/// A client certificate of the broker's CA with this subject: its key is in the wrong hands.
pub(crate) fn forge(certs: &Path, subject: DistinguishedName) -> Identity {
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = subject;
    sign(leaf, Timestamp::now() + Duration::from_hours(1), &stolen(certs))
}

fn stolen(certs: &Path) -> rcgen::Issuer<'static, KeyPair> {
    let pem = fs::read_to_string(certs.join("ca.pem")).unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(certs.join("ca.key")).unwrap()).unwrap();
    rcgen::Issuer::from_ca_cert_pem(&pem, key).unwrap()
}

/// A client certificate of a CA that the broker does not know.
pub(crate) fn issue_elsewhere(common_name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut authority = parameters("Portcullis CA");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let issuer = rcgen::Issuer::new(authority, key);
    sign(parameters(common_name), Timestamp::now() + Duration::from_hours(1), &issuer)
}

/// A client certificate of any CA, good for an hour.
pub(crate) fn issue_by(common_name: &str, issuer: &rcgen::Issuer<'_, KeyPair>) -> Identity {
    sign(parameters(common_name), Timestamp::now() + Duration::from_hours(1), issuer)
}

/// A CA for certificates of clients, with so many CAs below it at most: on its own, or below another one.
pub(crate) fn authority(
    name: &str,
    path_length: u8,
    above: Option<&rcgen::Issuer<'_, KeyPair>>,
) -> (String, rcgen::Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut authority = parameters(name);
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(path_length));
    authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let certificate = match above {
        None => authority.self_signed(&key),
        Some(above) => authority.signed_by(&key, above),
    };
    (certificate.unwrap().pem(), rcgen::Issuer::new(authority, key))
}

fn sign(mut leaf: CertificateParams, end: Timestamp, issuer: &rcgen::Issuer<'_, KeyPair>) -> Identity {
    leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
    signed(leaf, end, issuer)
}

fn signed(mut leaf: CertificateParams, end: Timestamp, issuer: &rcgen::Issuer<'_, KeyPair>) -> Identity {
    let key = KeyPair::generate().unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf.not_after = (std::time::UNIX_EPOCH + Duration::from_secs(end.as_second().try_into().unwrap())).into();
    let certificate = leaf.signed_by(&key, issuer).unwrap();
    identity(certificate.der(), &key)
}

/// The anchors of a PEM file.
pub(crate) fn roots(pem: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(pem).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

pub(crate) const ANY_TLS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

pub(crate) fn tls_client(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<Identity>,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key).unwrap(),
    })
}

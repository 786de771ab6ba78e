//! The CA and its files, with the chain verified by an independent implementation (rustls-webpki, inside rustls).

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use std::path::PathBuf;

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::pki::{DEFAULT_VALIDITY, Naming, PeerCertificate, ServerName, VerifiedCsr};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn hours(count: u64) -> Duration {
    Duration::from_hours(count)
}

fn csr() -> VerifiedCsr {
    VerifiedCsr::from_pem(include_bytes!("testdata/p256.csr.pem")).unwrap()
}

fn issue(ca: &CertificateAuthority, at: Timestamp, validity: Duration) -> IssuedCertificate {
    let serial = ca.draw_serial().unwrap();
    ca.sign(PreparedCertificate::client(&csr(), ca.issuer(), serial, at, validity).unwrap()).unwrap()
}

/// Does rustls admit this client certificate at that time?
fn rustls_admits(anchors: &[Vec<u8>], chain: &[Vec<u8>], at: Timestamp) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(CertificateDer::from(anchor.clone())).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
    let (leaf, rest) = chain.split_first().unwrap();
    let rest: Vec<_> = rest.iter().map(|der| CertificateDer::from(der.clone())).collect();
    verifier.verify_client_cert(&CertificateDer::from(leaf.clone()), &rest, time).is_ok()
}

fn names() -> Vec<ServerName> {
    vec![
        ServerName::Dns("localhost".into()),
        ServerName::Address("127.0.0.1".parse().unwrap()),
        ServerName::Address("::1".parse().unwrap()),
    ]
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("certs").join(name)
    }

    fn ca(&self, at: Timestamp) -> Result<(CertificateAuthority, Origin), SignerError> {
        CertificateAuthority::load_or_create(&CaFiles::plain(&self.path("ca.pem"), &self.path("ca.key")), at)
    }

    fn server(&self, ca: &CertificateAuthority, at: Timestamp) -> Result<ServerCertificate, SignerError> {
        ca.server_certificate(&self.path("server.pem"), &self.path("server.key"), &names(), at)
    }
}

/// An operator's root and intermediate whose names repeat attributes, as directory services make them.
fn operators_intermediate() -> (Vec<u8>, Vec<u8>, KeyPair) {
    let authority = |name: &[(DnType, &str)], length| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in name {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![length + 1; 20]);
        params
    };
    let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let root = authority(&[(DnType::CommonName, "Corp Root")], 1);
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    // rcgen keeps one value per type, so the second unit is given by its object identifier.
    let unit = DnType::CustomDnType(vec![2, 5, 4, 11]);
    let name = [(DnType::OrganizationalUnitName, "Line"), (unit, "Corp"), (DnType::CommonName, "Corp Devices")];
    let mut intermediate = authority(&name, 0);
    intermediate.use_authority_key_identifier_extension = true;
    let signed = intermediate.signed_by(&key, &rcgen::Issuer::from_params(&root, &root_key)).unwrap();
    (root.self_signed(&root_key).unwrap().der().to_vec(), signed.der().to_vec(), key)
}

#[test]
fn the_first_start_makes_a_ca_and_the_second_finds_it() {
    let files = Files::new();
    let (first, origin) = files.ca(now()).unwrap();
    assert_eq!(origin, Origin::Created);
    let mode = |name| fs::metadata(files.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.key"), mode("ca.pem")), (0o600, 0o644));
    let (second, origin) = files.ca(now()).unwrap();
    assert_eq!(origin, Origin::Loaded);
    assert_eq!(first.issuer(), second.issuer());
    assert!(first.issuer().is_root() && first.chain_pem().is_empty());
    let left: Vec<_> = fs::read_dir(files.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "no temporary file is left: {left:?}");
}

#[test]
fn a_start_that_was_interrupted_after_the_key_is_completed() {
    let files = Files::new();
    let (first, _) = files.ca(now()).unwrap();
    let key = fs::read(files.path("ca.key")).unwrap();
    fs::remove_file(files.path("ca.pem")).unwrap();
    let (second, origin) = files.ca(now()).unwrap();
    assert_eq!((origin, second.issuer().key()), (Origin::Created, first.issuer().key()));
    assert_eq!(fs::read(files.path("ca.key")).unwrap(), key, "the key was not replaced");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let files = Files::new();
    let other = Files::new();
    files.ca(now()).unwrap();
    other.ca(now()).unwrap();
    fs::copy(other.path("ca.key"), files.path("ca.key")).unwrap();
    assert!(matches!(files.ca(now()), Err(SignerError::KeyMismatch { .. })));
    fs::remove_file(files.path("ca.key")).unwrap();
    assert!(matches!(files.ca(now()), Err(SignerError::KeyMissing { .. })));
    fs::write(files.path("ca.key"), "no key").unwrap();
    assert!(matches!(files.ca(now()), Err(SignerError::Pem { .. })));
    fs::write(files.path("ca.key"), pem::encode("ENCRYPTED PRIVATE KEY", b"x")).unwrap();
    assert!(matches!(files.ca(now()), Err(SignerError::EncryptedKey { source: EncryptionError::Scheme, .. })));
    fs::write(files.path("ca.key"), pem::encode("PRIVATE KEY", b"x")).unwrap();
    assert!(matches!(files.ca(now()), Err(SignerError::Key(_))));
}

#[test]
fn a_ca_whose_time_is_over_or_that_is_none_is_refused() {
    let files = Files::new();
    let (ca, _) = files.ca(now()).unwrap();
    let later = now().checked_add(CA_VALIDITY).unwrap();
    let refused = files.ca(later);
    assert!(matches!(refused, Err(SignerError::Chain { source: ChainError::NotValid { position: 1, .. }, .. })));
    let server = files.server(&ca, now()).unwrap();
    assert_eq!(server.origin(), Origin::Created);
    let refused =
        CertificateAuthority::load(&CaFiles::plain(&files.path("server.pem"), &files.path("server.key")), now());
    let Err(SignerError::Chain { source: ChainError::Issuer { source, .. }, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(source, crate::pki::IssuerError::NotCa);
}

#[test]
fn an_issued_certificate_has_the_profile_and_nothing_else_of_the_request() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let greedy = VerifiedCsr::from_pem(include_bytes!("testdata/wishful.csr.pem")).unwrap();
    let prepared =
        PreparedCertificate::client(&greedy, ca.issuer(), ca.draw_serial().unwrap(), now(), DEFAULT_VALIDITY).unwrap();
    let issued = ca.sign(prepared).unwrap();
    let (_, parsed) = X509Certificate::from_der(issued.der()).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=press-7", "country and organization are not taken over");
    assert!(!parsed.is_ca());
    assert!(parsed.subject_alternative_name().unwrap().is_none());
    assert!(parsed.key_usage().unwrap().unwrap().value.digital_signature());
    let ids: Vec<_> = parsed.iter_extensions().map(|it| it.oid.to_id_string()).collect();
    assert_eq!(ids, ["2.5.29.14", "2.5.29.35", "2.5.29.19", "2.5.29.15", "2.5.29.37"]);
    assert_eq!(parsed.validity().not_before.timestamp(), now().as_second() - 300);
    assert_eq!(parsed.validity().not_after.timestamp(), now().as_second() + 90 * 86_400);
    let peer = PeerCertificate::from_der(issued.der()).unwrap();
    assert_eq!(peer.common_name().unwrap().as_str(), "press-7");
    assert_eq!((peer.serial(), peer.fingerprint()), (issued.serial(), issued.fingerprint()));
    assert!(peer.is_issued_by(ca.issuer()));
    assert!(!peer.is_issued_by(CertificateAuthority::generate(now()).unwrap().issuer()));
}

#[test]
fn a_certificate_names_the_place_of_the_revocation_list_when_there_is_one() {
    let url = "http://broker.example/crl";
    let ca = CertificateAuthority::generate(now())
        .unwrap()
        .with_profile(&Profile { crl_url: Some(url.to_owned()), ..Profile::default() });
    let issued = issue(&ca, now(), hours(1));
    let (_, parsed) = X509Certificate::from_der(issued.der()).unwrap();
    let points = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        x509_parser::extensions::ParsedExtension::CRLDistributionPoints(points) => Some(format!("{points:?}")),
        _ => None,
    });
    assert!(points.is_some_and(|points| points.contains(url)));
    assert_eq!(issued.record().issuer, Some(ca.issuer().id()));
}

#[test]
fn a_client_certificate_names_its_user_by_a_uri_where_the_issuer_has_a_prefix() {
    let prefix: crate::pki::UriPrefix = "spiffe://plant.example/device/".to_owned().try_into().unwrap();
    let profile = Profile { uri_prefix: Some(prefix.clone()), ..Profile::default() };
    let ca = CertificateAuthority::generate(now()).unwrap().with_profile(&profile);
    let issued = issue(&ca, now(), hours(1));
    let (_, parsed) = X509Certificate::from_der(issued.der()).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    // RFC 5280 4.2.1.6: critical only without a subject.
    assert!(!names.critical);
    assert_eq!(
        names.value.general_names,
        [x509_parser::extensions::GeneralName::URI("spiffe://plant.example/device/press-7")]
    );
    let peer = PeerCertificate::from_der(issued.der()).unwrap();
    assert_eq!(peer.username(&Naming::Uri(prefix)), Ok(csr().username().clone()));
    assert_eq!(peer.username(&Naming::CommonName), Ok(csr().username().clone()));
    assert!(rustls_admits(&ca.anchors(), &[issued.der().to_vec()], now()));
}

#[test]
fn rustls_admits_what_we_issue_in_its_time_and_from_our_ca_alone() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let chain = [issue(&ca, now(), hours(1)).der().to_vec()];
    assert!(rustls_admits(&ca.anchors(), &chain, now()));
    assert!(rustls_admits(&ca.anchors(), &chain, now().checked_sub(Duration::from_secs(299)).unwrap()));
    assert!(!rustls_admits(&ca.anchors(), &chain, now().checked_sub(Duration::from_secs(301)).unwrap()));
    assert!(!rustls_admits(&ca.anchors(), &chain, now().checked_add(hours(2)).unwrap()));
    let other = CertificateAuthority::generate(now()).unwrap();
    assert!(!rustls_admits(&other.anchors(), &chain, now()));
    let files = Files::new();
    let server = files.server(&ca, now()).unwrap();
    assert!(!rustls_admits(&ca.anchors(), server.chain(), now()), "a server certificate is none for a client");
}

#[test]
fn an_operators_intermediate_with_its_own_key_identifier_is_copied_exactly() {
    let files = Files::new();
    let (root, intermediate, key) = operators_intermediate();
    fs::create_dir_all(files.path("")).unwrap();
    let encode = |der: &[u8]| pem::encode("CERTIFICATE", der);
    fs::write(files.path("ca.pem"), format!("{}{}", encode(&intermediate), encode(&root))).unwrap();
    fs::write(files.path("ca.key"), key.serialize_pem()).unwrap();
    let (ca, origin) = files.ca(now()).unwrap();
    assert_eq!(origin, Origin::Loaded);
    assert_eq!(ca.chain_pem(), encode(&intermediate));
    assert_eq!(ca.issuer().key_identifier(), [1; 20]);
    let issued = issue(&ca, now(), DEFAULT_VALIDITY);
    assert_eq!(issued.not_after(), ca.issuer().not_after(), "never past the CA's own end");
    let (_, parsed) = X509Certificate::from_der(issued.der()).unwrap();
    assert_eq!(parsed.issuer().as_raw(), ca.issuer().subject_der());
    assert!(rustls_admits(std::slice::from_ref(&root), &[issued.der().to_vec(), intermediate.clone()], now()));
    assert_eq!(ca.bundle_pem(), encode(&root));
}

#[test]
fn our_server_certificate_is_renewed_for_the_same_key_when_due_or_when_it_lacks_a_name() {
    let files = Files::new();
    let (ca, _) = files.ca(now()).unwrap();
    let first = files.server(&ca, now()).unwrap();
    assert!(first.is_managed());
    assert_eq!(first.names(), names());
    let early = now().checked_add(hours(24 * 240)).unwrap();
    assert_eq!(files.server(&ca, early).unwrap().origin(), Origin::Loaded);
    let due = first.renew_at();
    let second = files.server(&ca, due).unwrap();
    assert_eq!((second.origin(), second.key_der()), (Origin::Renewed, first.key_der()));
    let mut more = names();
    more.push(ServerName::Dns("broker.example".into()));
    let path = (files.path("server.pem"), files.path("server.key"));
    let third = ca.server_certificate(&path.0, &path.1, &more, due).unwrap();
    assert_eq!((third.origin(), third.names()), (Origin::Renewed, &more[..]));
    assert_eq!(ca.server_certificate(&path.0, &path.1, &more, due).unwrap().origin(), Origin::Loaded);
}

#[test]
fn a_server_certificate_of_a_former_ca_of_ours_is_renewed() {
    let files = Files::new();
    let (ca, _) = files.ca(now()).unwrap();
    files.server(&ca, now()).unwrap();
    let other = CertificateAuthority::generate(now()).unwrap();
    assert_eq!(files.server(&other, now()).unwrap().origin(), Origin::Renewed);
}

#[test]
fn the_operators_server_certificate_is_never_touched() {
    let files = Files::new();
    let (ca, _) = files.ca(now()).unwrap();
    files.server(&ca, now()).unwrap();
    // The operator's tool issues for the same key, with another name: the fingerprint of the marker fits no more.
    let key = KeyPair::from_pem(&fs::read_to_string(files.path("server.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["mqtt.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 3, 2);
    let text = params.self_signed(&key).unwrap().pem();
    fs::write(files.path("server.pem"), &text).unwrap();
    let found = files.server(&ca, now()).unwrap();
    assert_eq!((found.origin(), found.is_managed()), (Origin::Loaded, false));
    assert_eq!(found.names(), [ServerName::Dns("mqtt.example".into())]);
    assert_eq!(fs::read_to_string(files.path("server.pem")).unwrap(), text);
    let later = now().checked_add(hours(48)).unwrap();
    assert!(matches!(files.server(&ca, later), Err(SignerError::NotValid { .. })), "expired is refused, not replaced");
    assert_eq!(fs::read_to_string(files.path("server.pem")).unwrap(), text);
}

#[test]
fn nothing_is_prepared_when_the_ca_is_not_valid_or_a_name_is_none() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let serial = ca.draw_serial().unwrap();
    let end = ca.issuer().not_after();
    let refused = PreparedCertificate::client(&csr(), ca.issuer(), serial, end, DEFAULT_VALIDITY);
    assert_eq!(refused.unwrap_err(), ProfileError::IssuerNotValid);
    let refused = PreparedCertificate::client(&csr(), ca.issuer(), serial, now(), Duration::ZERO);
    assert_eq!(refused.unwrap_err(), ProfileError::Validity);
    let server = |names: &[ServerName]| {
        PreparedCertificate::server(csr().key().clone(), names, ca.issuer(), serial, now(), hours(1)).unwrap_err()
    };
    assert_eq!(server(&[]), ProfileError::NoName);
    assert_eq!(server(&[ServerName::Dns("a\0b".into())]), ProfileError::HostName("a\0b".into()));
}

#[test]
fn a_signature_by_another_key_never_leaves_the_house() {
    let ca = CertificateAuthority::generate(now()).unwrap();
    let other = CertificateAuthority::generate(now()).unwrap();
    let prepared =
        PreparedCertificate::client(&csr(), ca.issuer(), ca.draw_serial().unwrap(), now(), hours(1)).unwrap();
    let refused = other.sign(prepared);
    assert!(matches!(refused, Err(SignerError::Profile(ProfileError::Differs(_)))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn validity_starts_five_minutes_back_and_ends_by_the_end_of_the_ca(after in 0..CA_VALIDITY.as_secs(), days in 1_u64..5000) {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let at = now().checked_add(Duration::from_secs(after)).unwrap();
        let record = issue(&ca, at, hours(24 * days)).record();
        let peer = PeerCertificate::from_der(issue(&ca, at, hours(24 * days)).der()).unwrap();
        prop_assert_eq!(record.not_before, at.checked_sub(BACKDATE).unwrap());
        prop_assert_eq!(record.not_after, at.checked_add(hours(24 * days)).unwrap().min(ca.issuer().not_after()));
        prop_assert_eq!((peer.not_before(), peer.not_after()), (record.not_before, record.not_after));
    }

    #[test]
    fn serials_of_any_bits_survive(bytes: [u8; 16]) {
        let ca = CertificateAuthority::generate(now()).unwrap();
        let serial = SerialNumber::from_random(bytes);
        let issued = ca.sign(PreparedCertificate::client(&csr(), ca.issuer(), serial, now(), hours(1)).unwrap()).unwrap();
        let peer = PeerCertificate::from_der(issued.der()).unwrap();
        prop_assert_eq!(peer.serial(), serial.hex());
    }
}

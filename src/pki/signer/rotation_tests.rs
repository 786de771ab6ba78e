//! Another CA: what the files are before, between and after, and whom each of them trusts.

use rcgen::{BasicConstraints, IsCa, Issuer, KeyUsagePurpose};
use secrecy::SecretString;

use super::super::Origin;
use super::*;
use crate::clock::Duration;
use crate::pki::{IssuedCertificate, PreparedCertificate, Profile, ServerName, Signer as _, VerifiedCsr};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

struct House {
    directory: tempfile::TempDir,
    passphrase: Option<SecretString>,
}

impl House {
    fn new(passphrase: Option<&str>) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), passphrase: passphrase.map(SecretString::from) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn with<T>(&self, work: impl FnOnce(&CaFiles<'_>) -> T) -> T {
        let (certificate, key) = (self.path("ca.pem"), self.path("ca.key"));
        work(&CaFiles { certificate: &certificate, key: &key, passphrase: self.passphrase.as_ref(), profile: None })
    }

    fn load(&self) -> CertificateAuthority {
        self.with(|files| CertificateAuthority::load_or_create(files, now())).unwrap().0
    }

    fn rotate(&self, ca: &CertificateAuthority) -> Result<CertificateAuthority, SignerError> {
        self.with(|files| ca.rotate(files, now())?.write(files))
    }

    fn retire(&self, ca: &CertificateAuthority, issuer: &str) -> Result<CertificateAuthority, SignerError> {
        self.with(|files| ca.retire(files, issuer, now())?.write(files))
    }

    fn import(&self, ca: &CertificateAuthority, text: &str) -> Result<CertificateAuthority, SignerError> {
        self.with(|files| ca.import(files, text.as_bytes(), now())?.write(files))
    }

    fn server(&self, ca: &CertificateAuthority) -> crate::pki::ServerCertificate {
        let names = [ServerName::Dns("localhost".into())];
        ca.server_certificate(&self.path("server.pem"), &self.path("server.key"), &names, now()).unwrap()
    }

    /// What is on the disk.
    fn files(&self) -> [Option<Vec<u8>>; 3] {
        ["ca.pem", "ca.key", "ca.key.next"].map(|name| fs::read(self.path(name)).ok())
    }

    fn keys(&self) -> usize {
        String::from_utf8(fs::read(self.path("ca.key")).unwrap()).unwrap().matches("-----BEGIN").count()
    }
}

fn issue(ca: &CertificateAuthority) -> IssuedCertificate {
    let csr = VerifiedCsr::from_pem(include_bytes!("../testdata/p256.csr.pem")).unwrap();
    let serial = ca.draw_serial().unwrap();
    ca.sign(PreparedCertificate::client(&csr, ca.issuer(), serial, now(), Duration::from_hours(24)).unwrap()).unwrap()
}

fn trusts(ca: &CertificateAuthority, certificate: &IssuedCertificate) -> bool {
    ca.issuers().iter().any(|issuer| issuer.has_issued(certificate.der()))
}

fn certificates_in(text: &str) -> usize {
    text.matches("-----BEGIN CERTIFICATE-----").count()
}

#[test]
fn a_rotation_issues_by_the_new_ca_and_trusts_both_until_the_old_one_is_retired() {
    let house = House::new(None);
    let old = house.load().with_profile(&Profile {
        crl_url: Some("http://broker.example/crl/{issuer}".to_owned()),
        ..Profile::default()
    });
    let device = issue(&old);
    let shown = house.server(&old);
    let new = house.rotate(&old).unwrap();
    assert_ne!(new.issuer().id(), old.issuer().id());
    assert_eq!(new.former().unwrap().id(), old.issuer().id());
    assert_eq!(certificates_in(new.bundle_pem()), 2, "devices get both roots");
    assert!(new.bundle_pem().contains(old.bundle_pem()));
    let fresh = issue(&new);
    assert!(new.issuer().has_issued(fresh.der()));
    assert!(trusts(&new, &device) && trusts(&new, &fresh));
    // A device that has the old root alone verifies the broker.
    assert_eq!((house.server(&new).origin(), house.server(&new).fingerprint()), (Origin::Loaded, shown.fingerprint()));

    let again = house.load();
    assert_eq!(
        (again.issuer().id(), again.former().map(IssuerCertificate::id)),
        (new.issuer().id(), new.former().map(IssuerCertificate::id))
    );
    assert_eq!(again.bundle_pem(), new.bundle_pem());
    assert!(matches!(house.rotate(&again), Err(SignerError::Overlap(_))), "one overlap at a time");
    assert!(matches!(house.retire(&again, &new.issuer().id()), Err(SignerError::NotFormer(_))));

    let alone = house.retire(&again, &old.issuer().id()).unwrap();
    assert!(alone.former().is_none() && !trusts(&alone, &device) && trusts(&alone, &fresh));
    assert_eq!((certificates_in(alone.bundle_pem()), house.keys()), (1, 1));
    let shown = house.server(&alone);
    assert_eq!(shown.origin(), Origin::Renewed, "the broker's own certificate follows");
    assert!(alone.issuer().has_issued(&shown.chain()[0]));
    assert!(house.rotate(&alone).is_ok());
}

/// A change is two writes, each whole: there is one state between, for each of them.
#[test]
fn whatever_a_crash_leaves_is_one_of_the_two_cas_and_can_be_changed_again() {
    let house = House::new(Some("correct battery"));
    let old = house.load();
    let before = house.files();
    let new = house.rotate(&old).unwrap();
    let [_, both_keys, _] = house.files();

    // Rotating: the key is there, its certificate is not.
    fs::write(house.path("ca.pem"), before[0].as_ref().unwrap()).unwrap();
    let found = house.load();
    assert_eq!((found.issuer().id(), found.former().is_none(), house.keys()), (old.issuer().id(), true, 2));
    let again = house.rotate(&found).unwrap();
    assert_ne!(again.issuer().id(), new.issuer().id(), "a key that nobody has seen a certificate of is dropped");
    assert_eq!((again.former().unwrap().id(), house.keys()), (old.issuer().id(), 2));

    // Retiring: the certificate is gone, its key is not.
    let [_, keys, _] = house.files();
    let alone = house.retire(&again, &old.issuer().id()).unwrap();
    fs::write(house.path("ca.key"), keys.unwrap()).unwrap();
    let found = house.load();
    assert_eq!((found.issuer().id(), found.former().is_none()), (alone.issuer().id(), true));
    let next = house.rotate(&found).unwrap();
    assert_eq!((next.former().unwrap().id(), house.keys()), (alone.issuer().id(), 2));
    assert!(
        String::from_utf8(both_keys.unwrap()).unwrap().matches("ENCRYPTED").count() == 4,
        "under the passphrase, each"
    );

    // The keys of another one: refused, as ever.
    fs::write(house.path("ca.key"), before[1].as_ref().unwrap()).unwrap();
    let refused = house.with(|files| CertificateAuthority::load(files, now()));
    assert!(matches!(refused, Err(SignerError::KeyMismatch { .. })));
}

#[test]
fn a_write_that_fails_leaves_the_ca_that_was() {
    let house = House::new(None);
    let old = house.load();
    let key = house.path("ca.key");
    // The second write fails: a directory is not replaced by a file.
    let blocked = house.path("blocked");
    fs::create_dir(&blocked).unwrap();
    let files = CaFiles::plain(&blocked, &key);
    let refused = old.rotate(&files, now()).unwrap().write(&files);
    assert!(matches!(refused, Err(SignerError::Write { .. })), "{refused:?}");
    assert_eq!(house.load().issuer().id(), old.issuer().id());
    // The first one does.
    let before = house.files();
    let certificate = house.path("ca.pem");
    let files = CaFiles::plain(&certificate, &blocked);
    let refused = old.rotate(&files, now()).unwrap().write(&files);
    assert!(matches!(refused, Err(SignerError::Write { .. })), "{refused:?}");
    assert_eq!(house.files(), before);
    assert!(house.rotate(&house.load()).is_ok());
}

/// An operator's root: certifies requests.
struct Root {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn certify(&self, request: &str, name: &str) -> String {
        self.certify_with(request, name, |_| ())
    }

    fn certify_with(&self, request: &str, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> String {
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(request).unwrap();
        csr.params = named(name);
        csr.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        csr.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        edit(&mut csr.params);
        csr.signed_by(&self.issuer).unwrap().pem()
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params
}

#[test]
fn a_request_is_certified_by_an_offline_root_and_imported() {
    let house = House::new(Some("correct battery"));
    let old = house.load();
    let device = issue(&old);
    let root = Root::new("Corp Root");
    let before = house.files();
    assert!(matches!(house.import(&old, &root.pem), Err(SignerError::NoRequest)));
    let request = house.with(|files| old.request(files, "Plant 4")).unwrap();
    let again = house.with(|files| old.request(files, "Plant 4")).unwrap();
    let key_of =
        |text: &str| rcgen::CertificateSigningRequestParams::from_pem(text).unwrap().public_key.der_bytes().to_vec();
    assert_eq!(key_of(&request), key_of(&again), "the key waits for its certificate");
    let waiting = fs::read_to_string(house.path("ca.key.next")).unwrap();
    assert!(waiting.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let certificate = root.certify(&request, "Plant 4");

    let elsewhere = House::new(None);
    let other = elsewhere.with(|files| elsewhere.load().request(files, "Elsewhere")).unwrap();
    let mut told = Vec::new();
    for text in [
        certificate.clone(),
        root.pem.clone(),
        format!("{}{}", root.certify(&other, "Elsewhere"), root.pem),
        format!("{certificate}{}{}", root.pem, Root::new("Another").pem),
        "nothing".to_owned(),
        old.bundle_pem().to_owned(),
    ] {
        let error = house.import(&old, &text).unwrap_err().to_string();
        told.push(error.replace(&house.directory.path().display().to_string(), "DIR"));
    }
    insta::assert_snapshot!("imports", told.join("\n"));
    assert_eq!(house.files()[..2], before[..2], "nothing has changed");

    let new = house.import(&old, &format!("{certificate}{}", root.pem)).unwrap();
    assert_eq!((new.issuer().name().as_str(), new.former().unwrap().id()), ("CN=Plant 4", old.issuer().id()));
    assert_eq!(certificates_in(new.bundle_pem()), 2);
    assert!(trusts(&new, &device) && house.files()[2].is_none());
    assert!(old.issuer().has_issued(&house.server(&new).chain()[0]), "devices that have the old root alone");
    assert!(matches!(house.rotate(&new), Err(SignerError::Overlap(_))));
    let new = house.retire(&new, &old.issuer().id()).unwrap();
    assert!(matches!(house.rotate(&new), Err(SignerError::NotOurs)));
    assert_eq!(house.server(&new).chain().len(), 2);

    // The next one below the same root: the broker's own certificate follows at once, for the root is the same.
    let request = house.with(|files| new.request(files, "Plant 4b")).unwrap();
    let next = house.import(&new, &format!("{}{}", root.certify(&request, "Plant 4b"), root.pem)).unwrap();
    assert_eq!((next.former().unwrap().id(), certificates_in(next.bundle_pem())), (new.issuer().id(), 1));
    assert!(next.issuer().has_issued(&house.server(&next).chain()[0]));
    assert!(trusts(&next, &issue(&new)));
    assert_eq!(house.load().former().unwrap().id(), new.issuer().id());
}

#[test]
fn a_certificate_for_the_same_key_is_the_same_ca_for_longer() {
    let house = House::new(None);
    let old = house.load();
    let root = Root::new("Corp Root");
    let request = house.with(|files| old.request(files, "Plant 4")).unwrap();
    let first = house.import(&old, &format!("{}{}", root.certify(&request, "Plant 4"), root.pem)).unwrap();
    let first = house.retire(&first, &old.issuer().id()).unwrap();
    let device = issue(&first);
    // The issuer's key, certified once more.
    let mut params = named("Plant 4");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = rcgen::date_time_ymd(2029, 6, 1);
    let renewed = params.signed_by(&first.current.key, &root.issuer).unwrap().pem();
    let second = house.import(&first, &format!("{renewed}{}", root.pem)).unwrap();
    assert_eq!((second.issuer().id(), second.former().is_none(), house.keys()), (first.issuer().id(), true, 1));
    assert!(second.issuer().not_after() < first.issuer().not_after() && trusts(&second, &device));
    assert!(matches!(house.import(&second, &format!("{renewed}{}", root.pem)), Err(SignerError::Same)));
}

#[test]
fn a_former_ca_whose_time_is_over_is_trusted_no_more_and_stops_nobody() {
    let house = House::new(None);
    let old = house.load();
    // A year later.
    let then = now().checked_add(Duration::from_hours(365 * 24)).unwrap();
    let new = house.with(|files| old.rotate(files, then)?.write(files)).unwrap();
    let over = old.issuer().not_after();
    let found = house.with(|files| CertificateAuthority::load(files, over)).unwrap();
    assert_eq!((found.issuer().id(), found.former().is_none()), (new.issuer().id(), true));
}

#[test]
fn an_import_whose_certificates_nobody_could_verify_changes_nothing() {
    let house = House::new(None);
    let old = house.load();
    let request = house.with(|files| old.request(files, "Plant 4")).unwrap();
    let (root, before) = (Root::new("Corp Root"), house.files());
    let constrained = root.certify_with(&request, "Plant 4", |params| {
        let permitted_subtrees = vec![rcgen::GeneralSubtree::DirectoryName(named("Plant 4").distinguished_name)];
        params.name_constraints = Some(rcgen::NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let refused = house.import(&old, &format!("{constrained}{}", root.pem));
    assert!(matches!(refused, Err(SignerError::Refused { what: "users", .. })), "{refused:?}");
    assert_eq!(house.files(), before);
    assert!(house.import(&old, &format!("{}{}", root.certify(&request, "Plant 4"), root.pem)).is_ok());
}

/// In time: not every few seconds at the end, each one shorter than the one before.
#[test]
fn the_server_certificate_leaves_a_former_ca_before_its_end() {
    let house = House::new(None);
    let old = house.load();
    let names = [ServerName::Dns("localhost".into())];
    let show = |ca: &CertificateAuthority, now: Timestamp| {
        ca.server_certificate(&house.path("server.pem"), &house.path("server.key"), &names, now).unwrap()
    };
    let end = old.issuer().not_after();
    let before = |hours| end.checked_sub(Duration::from_hours(hours)).unwrap();
    // Made before the other CA, and good until the end of its own.
    let first = show(&old, before(100 * 24));
    assert_eq!(first.not_after(), end);
    let both = house.with(|files| old.rotate(files, before(99 * 24))?.write(files)).unwrap();
    for hours in [50 * 24, 10 * 24, 24, 2] {
        assert_eq!(show(&both, before(hours)).fingerprint(), first.fingerprint(), "{hours} hours before the end");
    }
    let next = show(&both, before(1));
    assert!(both.issuer().has_issued(&next.chain()[0]));
    assert_eq!(show(&both, end).fingerprint(), next.fingerprint());
}

/// The CA that issues comes to its end: there is nothing that a renewal could win.
#[test]
fn a_server_certificate_that_ends_with_its_ca_is_not_made_again_and_again() {
    let house = House::new(None);
    let ca = house.load();
    let names = [ServerName::Dns("localhost".into())];
    let (certificate, key) = (house.path("server.pem"), house.path("server.key"));
    let end = ca.issuer().not_after();
    let show = |seconds| {
        let now = end.checked_sub(Duration::from_secs(seconds)).unwrap();
        ca.server_certificate(&certificate, &key, &names, now).unwrap().fingerprint()
    };
    let first = show(86_400);
    for seconds in [20_000, 300, 150, 100, 5, 1] {
        assert_eq!(show(seconds), first, "{seconds} s before the end");
    }
}

#[test]
fn a_root_of_the_operators_own_is_not_replaced() {
    let house = House::new(None);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Corp Root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key).unwrap();
    fs::write(house.path("ca.pem"), root.pem()).unwrap();
    fs::write(house.path("ca.key"), key.serialize_pem()).unwrap();
    let before = house.files();
    let ca = house.load();
    assert!(matches!(house.rotate(&ca), Err(SignerError::NotOurs)));
    assert!(house.files() == before, "nothing is written");
}

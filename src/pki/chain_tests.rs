//! CAs of an operator, as files: what is a chain, and what is refused, by which words.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::clock::Duration;
use crate::pki::{
    CaFiles, CertificateAuthority, PreparedCertificate, ServerName, Signer as _, SignerError, VerifiedCsr, pem,
};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn params(name: &str, length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A certificate with the parameters of its subject, below `above`.
fn below(subject: &CertificateParams, key: &KeyPair, above: &(CertificateParams, KeyPair)) -> String {
    subject.signed_by(key, &Issuer::from_params(&above.0, &above.1)).unwrap().pem()
}

/// Three levels, each a text of PEM with its key: the CA that issues, the one above it, the root.
struct House {
    root: (CertificateParams, KeyPair),
    middle: (CertificateParams, KeyPair),
    issuer: (CertificateParams, KeyPair),
    directory: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        Self {
            root: (params("Corp Root", 2), key()),
            middle: (params("Corp Plants", 1), key()),
            issuer: (params("Plant 4", 0), key()),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn pems(&self) -> [String; 3] {
        [
            below(&self.issuer.0, &self.issuer.1, &self.middle),
            below(&self.middle.0, &self.middle.1, &self.root),
            self.root.0.self_signed(&self.root.1).unwrap().pem(),
        ]
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Loads a CA of this key and these certificates.
    fn load(&self, key: &KeyPair, certificates: &str, at: Timestamp) -> Result<CertificateAuthority, SignerError> {
        let (certificate, file) = (self.path("ca.pem"), self.path("ca.key"));
        fs::write(&certificate, certificates).unwrap();
        fs::write(&file, key.serialize_pem()).unwrap();
        CertificateAuthority::load(&CaFiles::plain(&certificate, &file), at)
    }

    fn told(&self, key: &KeyPair, certificates: &str, at: Timestamp) -> String {
        let error = self.load(key, certificates, at).expect_err("it is refused");
        error.to_string().replace(&self.directory.path().display().to_string(), "DIR")
    }
}

fn issue(ca: &CertificateAuthority, validity: Duration) -> crate::pki::IssuedCertificate {
    let csr = VerifiedCsr::from_pem(include_bytes!("testdata/p256.csr.pem")).unwrap();
    ca.sign(PreparedCertificate::client(&csr, ca.issuer(), ca.draw_serial().unwrap(), now(), validity).unwrap())
        .unwrap()
}

#[test]
fn a_chain_leads_to_its_root_in_whatever_order_the_file_has_it() {
    let house = House::new();
    let [issuer, middle, root] = house.pems();
    for text in [format!("{issuer}{middle}{root}"), format!("{issuer}{root}{middle}")] {
        let ca = house.load(&house.issuer.1, &text, now()).unwrap();
        let plain = |text: &str| text.replace("\r\n", "\n");
        assert_eq!(ca.chain_pem(), plain(&format!("{issuer}{middle}")), "sent with what it issues");
        assert_eq!(ca.bundle_pem(), plain(&root), "devices trust the root");
        assert_eq!(ca.anchors(), [ca.issuer().der()], "the broker trusts what this CA has issued, and no sibling");
        assert_eq!(ca.issuer().name(), "CN=Plant 4");
    }
}

#[test]
fn nothing_is_issued_for_longer_than_any_certificate_of_the_chain_is_good() {
    let mut house = House::new();
    house.middle.0.not_after = rcgen::date_time_ymd(2026, 3, 20);
    let [issuer, middle, root] = house.pems();
    let ca = house.load(&house.issuer.1, &format!("{issuer}{middle}{root}"), now()).unwrap();
    let end: Timestamp = "2026-03-20T00:00:00Z".parse().unwrap();
    assert_eq!((ca.issuer().not_after(), issue(&ca, Duration::from_hours(90 * 24)).not_after()), (end, end));
}

#[test]
fn the_brokers_own_certificate_is_sent_with_its_chain_and_made_anew_when_that_changes() {
    let mut house = House::new();
    let [issuer, middle, root] = house.pems();
    let text = format!("{issuer}{middle}{root}");
    let names = [ServerName::Dns("localhost".into())];
    let server = |ca: &CertificateAuthority, dir: &Path| {
        ca.server_certificate(&dir.join("server.pem"), &dir.join("server.key"), &names, now()).unwrap()
    };
    let ca = house.load(&house.issuer.1, &text, now()).unwrap();
    let first = server(&ca, house.directory.path());
    assert_eq!(first.chain().len(), 3, "leaf, issuer, the CA above; the root is with the devices");
    let again = server(&ca, house.directory.path());
    assert_eq!((again.origin(), again.chain()), (crate::pki::Origin::Loaded, first.chain()));
    // The one in the middle is issued anew, for the same key.
    house.middle.0.serial_number = Some(7.into());
    let [_, middle, _] = house.pems();
    let ca = house.load(&house.issuer.1, &format!("{issuer}{middle}{root}"), now()).unwrap();
    let second = server(&ca, house.directory.path());
    assert_eq!(second.origin(), crate::pki::Origin::Renewed);
    assert_ne!(second.chain()[2], first.chain()[2]);
}

#[test]
fn what_is_no_ca_or_no_chain_is_refused_by_name() {
    let house = House::new();
    let own = &house.issuer.1;
    let [issuer, middle, root] = house.pems();
    let all = format!("{issuer}{middle}{root}");
    let mut told = Vec::new();
    let mut tell = |case: &str, text: String| told.push(format!("{case}:\n  {text}"));

    tell("another key", house.told(&key(), &all, now()));
    tell("without the root", house.told(own, &format!("{issuer}{middle}"), now()));
    tell("without the middle", house.told(own, &format!("{issuer}{root}"), now()));
    tell("the issuer alone", house.told(own, &issuer, now()));
    let stranger = params("Elsewhere", 0).self_signed(&key()).unwrap().pem();
    tell("with a stranger", house.told(own, &format!("{all}{stranger}"), now()));
    tell("twice the same", house.told(own, &format!("{issuer}{issuer}{middle}{root}"), now()));
    tell("too late", house.told(own, &all, "2027-01-01T00:00:00Z".parse().unwrap()));
    tell("too early", house.told(own, &all, "2025-12-31T23:59:59Z".parse().unwrap()));

    let changed = |change: &dyn Fn(&mut House)| {
        let mut house = House::new();
        change(&mut house);
        let text = house.pems().concat();
        house.told(&house.issuer.1, &text, now())
    };
    let mut leaf = params("press-7", 0);
    leaf.is_ca = IsCa::NoCa;
    leaf.key_usages.clear();
    tell("a leaf", changed(&|house| house.issuer.0 = leaf.clone()));
    tell("a leaf in the middle", changed(&|house| house.middle.0 = leaf.clone()));
    tell("keyUsage", changed(&|house| house.issuer.0.key_usages = vec![KeyUsagePurpose::CrlSign]));
    tell("path length", changed(&|house| house.middle.0.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    tell("path length of the root", changed(&|house| house.root.0.is_ca = IsCa::Ca(BasicConstraints::Constrained(1))));
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    tell("for servers only", changed(&|house| house.issuer.0.extended_key_usages = server.clone()));
    tell("expired in the middle", changed(&|house| house.middle.0.not_after = rcgen::date_time_ymd(2026, 2, 1)));
    tell("expired root", changed(&|house| house.root.0.not_after = rcgen::date_time_ymd(2026, 2, 1)));
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let odd = below(&house.issuer.0, &p521, &house.middle);
    tell("a key that is not admitted", house.told(&p521, &format!("{odd}{middle}{root}"), now()));
    let plain = pem("CERTIFICATE", b"\x30\x00");
    tell("no certificate", house.told(own, &format!("{issuer}{plain}"), now()));

    let mut clients = House::new();
    clients.issuer.0.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let text = clients.pems().concat();
    let ca = clients.load(&clients.issuer.1, &text, now()).unwrap();
    let names = [ServerName::Dns("localhost".into())];
    let refused = ca.server_certificate(&clients.path("server.pem"), &clients.path("server.key"), &names, now());
    let dir = clients.directory.path().display().to_string();
    tell("for clients only, and no server certificate", refused.unwrap_err().to_string().replace(&dir, "DIR"));

    insta::assert_snapshot!("refused", told.join("\n"));
}

#[test]
fn a_long_way_to_the_root_is_refused() {
    let house = House::new();
    let keys: Vec<KeyPair> = (0..8).map(|_| key()).collect();
    let named = |level: u8| params(&format!("Level {level}"), 10);
    let mut text = String::new();
    for level in 0..7_u8 {
        let above = named(level + 1);
        let above = Issuer::from_params(&above, &keys[usize::from(level) + 1]);
        text += &named(level).signed_by(&keys[usize::from(level)], &above).unwrap().pem();
    }
    text += &named(7).self_signed(&keys[7]).unwrap().pem();
    insta::assert_snapshot!(
        house.told(&keys[0], &text, now()),
        @"`DIR/ca.pem` cannot be the CA: the chain is longer than 6 certificates; use a CA that is nearer to its root"
    );
}

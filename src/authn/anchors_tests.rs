//! Attacks by way of a further anchor: each is judged by its name and never opens more than that.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::super::testing::{Snapshot, user};
use super::super::{Cause, Users};
use super::*;
use crate::access::User;
use crate::authn::testing::record;
use crate::pki::{CertificateAuthority, PreparedCertificate, Signer as _, VerifiedCsr};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 6, 1);
    params
}

fn authority(name: &str, length: u8) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A CA with its certificate.
struct Ca {
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn root(name: &str, length: u8) -> Self {
        Self::of(authority(name, length), None)
    }

    fn of(params: CertificateParams, above: Option<&Self>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            None => params.self_signed(&key),
            Some(above) => params.signed_by(&key, &above.issuer),
        };
        Self { der: certificate.unwrap().der().to_vec(), issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str, length: u8) -> Self {
        Self::of(authority(name, length), Some(self))
    }

    fn client(&self, name: &str) -> Vec<u8> {
        self.leaf(named(name), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn leaf(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Vec<u8> {
        params.extended_key_usages = vec![purpose];
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }

    fn certificate(&self) -> IssuerCertificate {
        IssuerCertificate::from_der(&self.der).unwrap()
    }

    fn trusted(&self, names: &str) -> Trusted {
        Trusted {
            file: "partner.pem".into(),
            certificate: self.certificate(),
            names: names.to_owned().try_into().unwrap(),
            naming: Naming::default(),
        }
    }
}

fn own() -> CertificateAuthority {
    CertificateAuthority::generate("2026-02-01T00:00:00Z".parse().unwrap()).unwrap()
}

fn anchors(own: &CertificateAuthority, further: Vec<Trusted>) -> Anchors {
    Anchors::new(vec![own.issuer().clone()], Lineage::default(), Naming::default(), further).unwrap()
}

/// With issuers whose keys are in the wrong hands.
fn stolen(own: &[&Ca], before: &[&Ca], further: Vec<Trusted>) -> Anchors {
    let mut lineage = Lineage::default();
    for ca in before {
        lineage.add(&ca.certificate());
    }
    let own = own.iter().map(|ca| ca.certificate()).collect();
    Anchors::new(own, lineage, Naming::default(), further).unwrap()
}

/// May this user log in with this chain?
fn login(anchors: &Anchors, user: &User, chain: &[&Vec<u8>]) -> Result<(), String> {
    let certificate = anchors.certificate(chain, now()).map_err(|why| why.cause().to_owned())?;
    let users = Snapshot::default();
    assert!(users.by_id(user.id).is_none(), "nothing but the record and the rules of the user counts");
    certificate.proves(&users, user, now()).map_err(|cause| cause.as_str().to_owned())
}

fn refused(cause: Cause) -> Result<(), String> {
    Err(cause.as_str().to_owned())
}

#[test]
fn a_partner_speaks_for_its_own_names_and_for_no_other() {
    let (own, partner) = (own(), Ca::root("Partner Root", 1));
    let anchors = anchors(&own, vec![partner.trusted("partner-*")]);
    assert_eq!(login(&anchors, &user("partner-1"), &[&partner.client("partner-1")]), Ok(()));
    for name in ["press-7", "partner", "apartner-1", "Partner-1"] {
        assert_eq!(login(&anchors, &user(name), &[&partner.client(name)]), refused(Cause::CertificateNameNotAdmitted));
    }
    assert_eq!(anchors.certificates().len(), 2);
}

#[test]
fn a_partner_never_makes_an_administrator_who_has_not_pinned_the_certificate() {
    let (own, partner) = (own(), Ca::root("Partner Root", 0));
    let anchors = anchors(&own, vec![partner.trusted("*")]);
    for name in ["root-1", "partner-1"] {
        let leaf = partner.client(name);
        let plain = user(name);
        assert_eq!(login(&anchors, &plain, &[&leaf]), Ok(()));
        let admin = User { roles: vec!["line".parse().unwrap(), "admin".parse().unwrap()], ..plain };
        assert_eq!(login(&anchors, &admin, &[&leaf]), refused(Cause::CertificateNotOnRecord));
        // Another certificate of the same CA and name is on record.
        let other = PeerCertificate::from_der(&partner.client(name)).unwrap();
        let mut admin = User { certificates: vec![record(other.fingerprint())], ..admin };
        assert_eq!(login(&anchors, &admin, &[&leaf]), refused(Cause::CertificateNotOnRecord));
        admin.certificates.push(record(PeerCertificate::from_der(&leaf).unwrap().fingerprint()));
        assert_eq!(login(&anchors, &admin, &[&leaf]), Ok(()));
        admin.certificates[1].revoked_at = Some(now());
        assert_eq!(login(&anchors, &admin, &[&leaf]), refused(Cause::CertificateRevoked));
    }
}

#[test]
fn an_intermediate_under_a_partner_is_bound_to_the_names_of_the_partner() {
    let (own, partner) = (own(), Ca::root("Partner Root", 1));
    let anchors = anchors(&own, vec![partner.trusted("partner-*")]);
    let plant = partner.below("Partner Plant", 0);
    let (mine, other) = (plant.client("partner-1"), plant.client("press-7"));
    for chain in [vec![&mine, &plant.der], vec![&mine, &plant.der, &partner.der], vec![&mine, &partner.der, &plant.der]]
    {
        assert_eq!(login(&anchors, &user("partner-1"), &chain), Ok(()));
    }
    assert_eq!(
        login(&anchors, &user("partner-1"), &[&mine]),
        Err("certificate_untrusted".into()),
        "the way is missing"
    );
    let outside = login(&anchors, &user("press-7"), &[&other, &plant.der]);
    assert_eq!(outside, refused(Cause::CertificateNameNotAdmitted));
    // Deeper than the partner's own certificate admits, and a device that plays the CA.
    let deep = plant.below("Partner Line", 0);
    let leaf = deep.client("partner-1");
    assert_eq!(
        login(&anchors, &user("partner-1"), &[&leaf, &deep.der, &plant.der]),
        Err("certificate_untrusted".into())
    );
    let device = Ca::of(named("partner-2"), Some(&partner));
    let forged = device.client("partner-1");
    assert_eq!(login(&anchors, &user("partner-1"), &[&forged, &device.der]), Err("certificate_untrusted".into()));
}

/// The library asks neither for the time of an anchor nor for its path length.
#[test]
fn a_partner_whose_time_is_over_or_that_may_have_no_ca_below_it() {
    let own = own();
    let flat = Ca::root("Flat Root", 0);
    let below = flat.below("Below", 0);
    let mut lapsed = authority("Lapsed Root", 1);
    lapsed.not_after = rcgen::date_time_ymd(2026, 2, 20);
    let lapsed = Ca::of(lapsed, None);
    let anchors = anchors(&own, vec![flat.trusted("*"), lapsed.trusted("*")]);
    assert_eq!(login(&anchors, &user("partner-1"), &[&flat.client("partner-1")]), Ok(()));
    let through = login(&anchors, &user("partner-1"), &[&below.client("partner-1"), &below.der]);
    assert_eq!(through, Err("certificate_untrusted".into()));
    let late = login(&anchors, &user("partner-1"), &[&lapsed.client("partner-1")]);
    assert_eq!(late, Err("certificate_untrusted".into()));
}

#[test]
fn what_the_own_ca_has_signed_must_be_on_record_whatever_else_is_trusted() {
    let own = own();
    let csr = VerifiedCsr::from_pem(include_bytes!("../pki/testdata/p256.csr.pem")).unwrap();
    let prepared =
        PreparedCertificate::client(&csr, own.issuer(), own.draw_serial().unwrap(), now(), Duration::from_hours(24));
    let issued = own.sign(prepared.unwrap()).unwrap();
    let leaf = issued.der().to_vec();
    let partner = Ca::root("Partner Root", 1);
    let anchors = anchors(&own, vec![partner.trusted("*")]);
    assert_eq!(login(&anchors, &user("press-7"), &[&leaf]), refused(Cause::CertificateNotOnRecord));
    // With a chain that suggests otherwise, too.
    assert_eq!(login(&anchors, &user("press-7"), &[&leaf, &partner.der]), refused(Cause::CertificateNotOnRecord));
    let known = User { certificates: vec![record(issued.fingerprint())], ..user("press-7") };
    assert_eq!(login(&anchors, &known, &[&leaf]), Ok(()));
    // A partner that takes the name of our CA is still the partner.
    let mut namesake = authority("x", 1);
    namesake.distinguished_name = rcgen::DistinguishedName::new();
    namesake.distinguished_name.push(DnType::CommonName, own.issuer().name().trim_start_matches("CN="));
    let namesake = Ca::of(namesake, None);
    let confusing = self::anchors(&own, vec![namesake.trusted("partner-*")]);
    let leaf = namesake.client("press-7");
    assert_eq!(login(&confusing, &user("press-7"), &[&leaf]), refused(Cause::CertificateNameNotAdmitted));
    let known =
        User { certificates: vec![record(PeerCertificate::from_der(&leaf).unwrap().fingerprint())], ..user("press-7") };
    assert_eq!(login(&confusing, &known, &[&leaf]), refused(Cause::CertificateNameNotAdmitted));
}

#[test]
fn a_ca_named_twice_is_good_for_both_kinds_of_names() {
    let (own, partner) = (own(), Ca::root("Partner Root", 0));
    let anchors = anchors(&own, vec![partner.trusted("a-*"), partner.trusted("b-*")]);
    for (name, verdict) in [("a-1", Ok(())), ("b-1", Ok(())), ("c-1", refused(Cause::CertificateNameNotAdmitted))] {
        assert_eq!(login(&anchors, &user(name), &[&partner.client(name)]), verdict);
    }
}

#[test]
fn a_certificate_for_another_purpose_or_without_a_reader_is_nobody() {
    let (own, partner) = (own(), Ca::root("Partner Root", 0));
    let anchors = anchors(&own, vec![partner.trusted("*")]);
    let server = partner.leaf(named("partner-1"), ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(login(&anchors, &user("partner-1"), &[&server]), Err("certificate_untrusted".into()));
    let mut lapsed = named("partner-1");
    lapsed.not_after = rcgen::date_time_ymd(2026, 2, 1);
    let lapsed = partner.leaf(lapsed, ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(login(&anchors, &user("partner-1"), &[&lapsed]), Err("certificate_untrusted".into()));
    assert_eq!(login(&anchors, &user("partner-1"), &[&b"\x30\x00".to_vec()]), Err("certificate_unreadable".into()));
    assert_eq!(anchors.certificate::<Vec<u8>>(&[], now()), Err(NoAnchor::Unreadable));
}

/// Two partners, each with names of its own kind, and the house with another one.
#[test]
fn each_anchor_names_users_in_its_own_way() {
    let uri = |text: &str| Naming::Uri(text.to_owned().try_into().unwrap());
    let (own, first, second) = (own(), Ca::root("First", 0), Ca::root("Second", 0));
    let further = vec![
        Trusted { naming: uri("spiffe://first.example/"), ..first.trusted("a-*") },
        Trusted { naming: uri("urn:second:"), ..second.trusted("*") },
    ];
    let anchors = Anchors::new(vec![own.issuer().clone()], Lineage::default(), Naming::CommonName, further).unwrap();
    let named_by = |ca: &Ca, uri: &str| {
        let mut params = named("a-2");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        let leaf = ca.leaf(params, ExtendedKeyUsagePurpose::ClientAuth);
        anchors.certificate(&[leaf], now()).unwrap().username.map(|name| name.to_string()).ok()
    };
    assert_eq!(named_by(&first, "spiffe://first.example/a-1").as_deref(), Some("a-1"));
    assert_eq!(named_by(&second, "urn:second:a-1").as_deref(), Some("a-1"));
    assert_eq!(named_by(&first, "urn:second:a-1"), None);
    assert_eq!(named_by(&second, "spiffe://first.example/a-1"), None);

    let peer = |ca: &Ca, uri: &str| {
        let mut params = named("a-2");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        PeerCertificate::from_der(&ca.leaf(params, ExtendedKeyUsagePurpose::ClientAuth)).unwrap()
    };
    let user = "a-1".parse().unwrap();
    assert_eq!(anchors.may_name(&peer(&first, "urn:second:a-1"), &user), Ok(()));
    let expected = "the URI `spiffe://first.example/a-1` as its only one, or the URI `urn:second:a-1` as its only one";
    assert_eq!(anchors.may_name(&peer(&first, "urn:third:a-1"), &user), Err(expected.to_owned()));
}

#[test]
fn the_own_ca_and_one_for_servers_are_no_further_anchors() {
    let own = own();
    let mut told = Vec::new();
    let mut tell = |trusted: Trusted| {
        told.push(
            Anchors::new(vec![own.issuer().clone()], Lineage::default(), Naming::default(), vec![trusted])
                .unwrap_err()
                .to_string()
                .replace(&own.issuer().name(), "CN=own"),
        );
    };
    let names: UsernamePattern = "*".to_owned().try_into().unwrap();
    tell(Trusted { file: "ca.pem".into(), certificate: own.issuer().clone(), names, naming: Naming::default() });
    let mut servers = authority("Web Root", 0);
    servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    tell(Ca::of(servers, None).trusted("*"));
    insta::assert_snapshot!(told.join("\n"), @r"
    `ca.pem` holds a CA that is or was the broker's own (`CN=own`), which is trusted for what is on record and for nothing else; remove it from `[[ca.trust]]`
    `partner.pem` holds `CN=Web Root`, whose extended key usage does not admit certificates of clients; name the CA that issues those
    ");
}

/// A further anchor above the broker's own CA vouches for none of its certificates: neither while that issues, nor when it is a former one,
/// nor when it is retired, nor by way of a CA that its key has signed.
#[test]
fn a_stolen_key_of_our_ca_logs_nobody_in_by_way_of_a_further_anchor_above_it() {
    let root = Ca::root("Corp Root", 3);
    let ours = root.below("Issuing X", 2);
    let planted = ours.below("Z", 0);
    let next = root.below("Issuing Y", 0);
    let forged = ours.client("line-7");
    let deep = planted.client("line-7");
    let unknown = refused(Cause::CertificateNotOnRecord);
    let nobody = Err("certificate_untrusted".to_owned());
    for (anchors, verdict) in [
        (stolen(&[&ours], &[], vec![root.trusted("line-*")]), &unknown),
        (stolen(&[&next, &ours], &[&ours], vec![root.trusted("line-*")]), &unknown),
        (stolen(&[&next], &[&ours], vec![root.trusted("line-*")]), &nobody),
    ] {
        for chain in
            [vec![&forged, &ours.der], vec![&forged, &ours.der, &root.der], vec![&forged, &root.der, &ours.der]]
        {
            assert_eq!(&login(&anchors, &user("line-7"), &chain), verdict);
        }
        for chain in [vec![&deep, &planted.der, &ours.der], vec![&deep, &ours.der, &planted.der, &root.der]] {
            assert_eq!(
                login(&anchors, &user("line-7"), &chain),
                nobody,
                "by way of a CA that the stolen key has signed"
            );
        }
        // What else is below that root is not ours.
        let plant = root.below("Plant 5", 0);
        assert_eq!(login(&anchors, &user("line-7"), &[&plant.client("line-7"), &plant.der]), Ok(()));
        assert_eq!(login(&anchors, &user("line-7"), &[&plant.client("line-7"), &ours.der, &plant.der]), Ok(()));
    }
    // Exchanged while the broker runs, as `ca retire` does it.
    let running = stolen(&[&next, &ours], &[], vec![root.trusted("line-*")]);
    running.replace_own(vec![next.certificate()]);
    assert_eq!(login(&running, &user("line-7"), &[&forged, &ours.der]), nobody);
    assert_eq!(running.above(std::slice::from_ref(&ours.der)).len(), 1);
    assert_eq!(running.above(std::slice::from_ref(&planted.der)).len(), 0);
}

/// The same key under another certificate of the root, with another name and another key identifier.
#[test]
fn a_further_certificate_of_our_ca_is_our_ca() {
    let root = Ca::root("Corp Root", 3);
    let ours = root.below("Issuing X", 1);
    let mut renamed = authority("Plant 5", 1);
    renamed.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![7; 20]);
    let cross = renamed.signed_by(ours.issuer.key(), &root.issuer).unwrap().der().to_vec();
    let again = Issuer::new(renamed, KeyPair::try_from(ours.issuer.key().serialize_der().as_slice()).unwrap());
    let mut leaf = named("line-7");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &again).unwrap().der().to_vec();
    let other = Ca::root("Other", 0);
    let anchors = stolen(&[&other], &[&ours], vec![root.trusted("*")]);
    assert_eq!(login(&anchors, &user("line-7"), &[&leaf, &cross]), Err("certificate_untrusted".into()));
    // A CA of ours that is retired comes back by no further anchor either.
    let mut lineage = Lineage::default();
    lineage.add(&ours.certificate());
    let refused = Anchors::new(vec![other.certificate()], lineage, Naming::default(), vec![ours.trusted("*")]);
    assert!(matches!(refused, Err(AnchorError::Own { .. })), "{refused:?}");
}

/// The certificate of a CA of ours is none of a client.
#[test]
fn the_certificate_of_our_ca_logs_nobody_in() {
    let root = Ca::root("Corp Root", 3);
    let ours = root.below("plant-4", 0);
    let other = Ca::root("Other", 0);
    let anchors = stolen(&[&other], &[&ours], vec![root.trusted("*")]);
    assert_eq!(login(&anchors, &user("plant-4"), &[&ours.der]), Err("certificate_untrusted".into()));
}

struct Revoked(Snapshot, String);

impl Users for Revoked {
    fn named(&self, name: &crate::access::Username) -> Option<&Arc<User>> {
        self.0.named(name)
    }

    fn by_id(&self, id: crate::access::UserId) -> Option<&Arc<User>> {
        self.0.by_id(id)
    }

    fn is_issuer_revoked(&self, issuer: &str) -> bool {
        issuer == self.1
    }

    fn by_key(&self, key: &str) -> Option<&Arc<User>> {
        self.0.by_key(key)
    }
}

#[test]
fn a_revoked_issuer_anywhere_on_the_way_makes_it_worthless() {
    let (own, partner) = (own(), Ca::root("Partner Root", 2));
    let region = partner.below("Region", 1);
    let plant = region.below("Plant", 0);
    let anchors = anchors(&own, vec![partner.trusted("*")]);
    let leaf = plant.client("partner-1");
    let certificate = anchors.certificate(&[&leaf, &plant.der, &region.der], now()).unwrap();
    let user = User { certificates: vec![record(&certificate.fingerprint)], ..user("partner-1") };
    for (ca, verdict) in [(&plant, Some(())), (&region, Some(())), (&partner, Some(())), (&Ca::root("Other", 0), None)]
    {
        let users = Revoked(Snapshot::default(), ca.certificate().id());
        let proven = certificate.proves(&users, &user, now());
        assert_eq!(proven, verdict.map_or(Ok(()), |()| Err(Cause::CertificateRevoked)));
    }
}

/// The name of our CA, and the number of a certificate that is on record: the key of the signature decides, and the fingerprint.
#[test]
fn a_partner_that_copies_name_and_number_of_a_certificate_of_ours_is_still_the_partner() {
    let own = own();
    let csr = VerifiedCsr::from_pem(include_bytes!("../pki/testdata/p256.csr.pem")).unwrap();
    let prepared =
        PreparedCertificate::client(&csr, own.issuer(), own.draw_serial().unwrap(), now(), Duration::from_hours(24));
    let issued = own.sign(prepared.unwrap()).unwrap();
    let mut posing = authority("x", 1);
    posing.distinguished_name = rcgen::DistinguishedName::new();
    posing.distinguished_name.push(DnType::CommonName, own.issuer().name().trim_start_matches("CN="));
    let posing = Ca::of(posing, None);
    let mut leaf = named("press-7");
    leaf.serial_number = Some(rcgen::SerialNumber::from_slice(&crate::pki::unhex(issued.serial()).unwrap()));
    let leaf = posing.leaf(leaf, ExtendedKeyUsagePurpose::ClientAuth);
    let read = PeerCertificate::from_der(&leaf).unwrap();
    assert_eq!(read.serial(), issued.serial());
    assert_ne!(read.fingerprint(), issued.fingerprint());
    let known = User { certificates: vec![record(issued.fingerprint())], ..user("press-7") };
    let narrow = anchors(&own, vec![posing.trusted("partner-*")]);
    assert_eq!(login(&narrow, &known, &[&leaf]), refused(Cause::CertificateNameNotAdmitted));
    let wide = anchors(&own, vec![posing.trusted("*")]);
    let certificate = wide.certificate(&[&leaf], now()).unwrap();
    assert!(matches!(certificate.anchor, Anchor::Extra(_)), "never Own");
    let admin = User { roles: vec!["admin".parse().unwrap()], ..known };
    assert_eq!(login(&wide, &admin, &[&leaf]), refused(Cause::CertificateNotOnRecord));
}

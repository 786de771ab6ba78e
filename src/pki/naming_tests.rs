//! Attacks by way of names, and the rule that one URI is one user.

use proptest::prelude::*;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair, SanType};

use super::*;
use crate::pki::{PeerCertificate, der};

const PREFIX: &str = "spiffe://plant.example/device/";

fn prefix(text: &str) -> Option<UriPrefix> {
    text.to_owned().try_into().ok()
}

fn by_uri() -> Naming {
    Naming::Uri(prefix(PREFIX).unwrap())
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

fn params(common_names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (position, name) in common_names.iter().enumerate() {
        // rcgen keeps one value per type: the second one is given by its object identifier.
        let kind = if position == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
        params.distinguished_name.push(kind, *name);
    }
    params
}

fn peer(params: &CertificateParams) -> PeerCertificate {
    PeerCertificate::from_der(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
}

/// Whom a certificate with these alternative names names.
fn named(names: &[SanType]) -> Result<String, NamingError> {
    let mut params = params(&[]);
    params.subject_alt_names = names.to_vec();
    peer(&params).username(&by_uri()).map(|name| name.to_string())
}

/// With an extension of these bytes.
fn raw(contents: &[&[u8]]) -> Result<String, NamingError> {
    let mut params = params(&[]);
    for content in contents {
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
        params.custom_extensions.push(extension);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let peer = PeerCertificate::from_der(certificate.der()).map_err(|_| NamingError::Malformed)?;
    peer.username(&by_uri()).map(|name| name.to_string())
}

#[test]
fn a_prefix_ends_where_a_username_can_begin() {
    for good in [
        "spiffe://plant.example/device/",
        "spiffe://plant.example/",
        "urn:",
        "urn:uuid:",
        "urn:example:device:",
        "urn:example:a/b:",
        "portcullis:",
        "https://id.plant.example/d/",
        "tag+x.y-1:a~b/",
    ] {
        assert!(prefix(good).is_some(), "{good}");
    }
    let long = format!("urn:{}:", "a".repeat(MAX_PREFIX - 4));
    for bad in [
        "",
        ":",
        "plant.example/",
        "1urn:",
        "Spiffe://plant.example/",
        // The username would be a part of the host.
        "spiffe://",
        "spiffe://plant.example",
        "spiffe://plant.example:",
        "spiffe:///",
        "spiffe://user@plant.example/",
        "spiffe://Plant.example/",
        "spiffe://plant.example/device",
        "spiffe://plant.example//",
        "spiffe://plant.example/a//b/",
        "spiffe://plant.example/./",
        "spiffe://plant.example/a/../",
        "/urn:",
        "urn:/",
        "urn:a%20b:",
        "urn:a?b:",
        "urn:a#b:",
        "urn:a b:",
        "urn:a\u{e4}:",
        "urn:a\0:",
        "urn:a\n:",
        "urn:*:",
        &long,
    ] {
        assert!(prefix(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_uri_names_a_user_to_the_letter_or_nobody() {
    assert_eq!(named(&[uri("spiffe://plant.example/device/pump-7")]).as_deref(), Ok("pump-7"));
    assert_eq!(named(&[uri("spiffe://plant.example/device/urn:a@b_c.d")]).as_deref(), Ok("urn:a@b_c.d"));
    for other in [
        "Spiffe://plant.example/device/pump-7",
        "spiffe://PLANT.example/device/pump-7",
        "spiffe://plant.example:443/device/pump-7",
        "spiffe://plant.example./device/pump-7",
        "spiffe://plant.example/Device/pump-7",
        "spiffe://plant.example/./device/pump-7",
        "spiffe://plant.example//device/pump-7",
        "spiffe://plant.example/devices/pump-7",
        "spiffe://plant.example/%64evice/pump-7",
        "spiffe://plant.example/device",
        "spiffe://evil.example/spiffe://plant.example/device/pump-7",
        " spiffe://plant.example/device/pump-7",
        "pump-7",
        "",
    ] {
        assert!(matches!(named(&[uri(other)]), Err(NamingError::Prefix { .. })), "{other}");
    }
    for nobody in [
        "",
        "ab",
        "pump%2D7",
        "pump-7/",
        "pump-7/x",
        "a/pump-7",
        "../pump-7",
        "pump-7?",
        "pump-7#a",
        "pump 7",
        "pump-7\0",
        "pump-7\0x",
        "pump-7\n",
        "pump+7",
    ] {
        let refused = named(&[uri(&format!("{PREFIX}{nobody}"))]);
        assert!(matches!(refused, Err(NamingError::Username { .. })), "{nobody}: {refused:?}");
    }
    // Names are not folded: another case is another user.
    assert_eq!(named(&[uri("spiffe://plant.example/device/PUMP-7")]).as_deref(), Ok("PUMP-7"));
}

#[test]
fn several_uris_name_nobody_and_other_kinds_of_names_do_not_count() {
    let own = uri("spiffe://plant.example/device/pump-7");
    let dns = SanType::DnsName(Ia5String::try_from("victim1").unwrap());
    let mail = SanType::Rfc822Name(Ia5String::try_from("spiffe://plant.example/device/victim1").unwrap());
    let address = SanType::IpAddress([127, 0, 0, 1].into());
    assert_eq!(named(&[dns.clone(), own.clone(), mail.clone(), address]).as_deref(), Ok("pump-7"));
    assert_eq!(named(&[]), Err(NamingError::NoUri));
    assert_eq!(named(&[dns, mail]), Err(NamingError::NoUri));
    for other in [own.clone(), uri("spiffe://plant.example/device/victim1"), uri("https://elsewhere.example/"), uri("")]
    {
        assert_eq!(named(&[own.clone(), other.clone()]), Err(NamingError::SeveralUris(2)));
        assert_eq!(named(&[other, own.clone()]), Err(NamingError::SeveralUris(2)));
    }
}

#[test]
fn names_that_are_malformed_or_there_twice_name_nobody() {
    let text = b"spiffe://plant.example/device/pump-7";
    let name = der::element(der::context(6), &[text]);
    let good = der::element(der::SEQUENCE, &[&name]);
    assert_eq!(raw(&[&good]).as_deref(), Ok("pump-7"), "the bytes are as they should be");
    let bad_utf8 = der::element(der::context(6), &[b"\xff"]);
    let unknown = der::element(der::context(9), &[text]);
    let mut trailing = good.clone();
    trailing.extend_from_slice(&good);
    let mut cut = good.clone();
    cut.pop();
    for (what, content) in [
        ("one that is no text", der::element(der::SEQUENCE, &[&name, &bad_utf8])),
        ("one of an unknown kind", der::element(der::SEQUENCE, &[&name, &unknown])),
        ("no sequence", name.clone()),
        ("something behind it", trailing),
        ("cut off", cut),
        ("nothing", Vec::new()),
        ("constructed", der::element(der::SEQUENCE, &[&der::element(der::context_constructed(6), &[text])])),
        (
            "a string inside",
            der::element(der::SEQUENCE, &[&der::element(der::context_constructed(6), &[&der::element(0x16, &[text])])]),
        ),
    ] {
        let named = raw(&[&content]);
        assert!(named.is_err(), "{what}: {named:?}");
    }
    let victim =
        der::element(der::SEQUENCE, &[&der::element(der::context(6), &[b"spiffe://plant.example/device/victim1"])]);
    for two in [[&good, &victim], [&victim, &good], [&good, &good]] {
        assert_eq!(raw(&[two[0], two[1]]), Err(NamingError::Malformed), "two extensions");
    }
}

#[test]
fn what_the_subject_says_does_not_count_where_the_uri_does_and_the_other_way_round() {
    for subject in [&[][..], &["victim1"], &["victim1", "admin"], &["\0"], &[""]] {
        let mut params = params(subject);
        params.subject_alt_names = vec![uri("spiffe://plant.example/device/pump-7")];
        assert_eq!(peer(&params).username(&by_uri()).unwrap().as_str(), "pump-7");
    }
    let mut both = params(&["pump-7"]);
    both.subject_alt_names = vec![uri("spiffe://plant.example/device/victim1")];
    assert_eq!(peer(&both).username(&Naming::CommonName).unwrap().as_str(), "pump-7");
    // Never the common name for want of a URI.
    assert_eq!(peer(&params(&["pump-7"])).username(&by_uri()), Err(NamingError::NoUri));
}

#[test]
fn messages() {
    let cases = [
        named(&[]),
        named(&[uri("a:b"), uri("c:d")]),
        named(&[uri("urn:\u{7}\nx")]),
        named(&[uri(&"x".repeat(500))]),
        named(&[uri("spiffe://plant.example/device/a/b")]),
        raw(&[b""]),
    ];
    let all: Vec<_> = cases.into_iter().map(|it| it.unwrap_err().to_string()).collect();
    insta::assert_snapshot!(all.join("\n"));
}

proptest! {
    #[test]
    fn one_uri_is_one_user_and_one_user_one_uri(a in "[A-Za-z0-9._:@-]{3,64}", b in "[A-Za-z0-9._:@-]{3,64}") {
        let (Ok(a), Ok(b)) = (a.parse::<Username>(), b.parse::<Username>()) else { return Ok(()) };
        let prefix = prefix(PREFIX).unwrap();
        prop_assert_eq!(prefix.uri(&a) == prefix.uri(&b), a == b);
        let read = |uri: String| Names { common_name: Err(CommonNameError::Missing), uri: Ok(uri) }.username(&by_uri());
        prop_assert_eq!(read(prefix.uri(&a)), Ok(a));
    }

    #[test]
    fn whatever_names_a_user_is_the_uri_of_that_user(text in "(spiffe://plant.example/device/)?\\PC{0,70}") {
        let names = Names { common_name: Err(CommonNameError::Missing), uri: Ok(text.clone()) };
        if let Ok(name) = names.username(&by_uri()) {
            prop_assert_eq!(prefix(PREFIX).unwrap().uri(&name), text);
        }
    }
}

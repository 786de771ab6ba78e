//! CAs of operators that issue what nobody can verify: each is refused before it issues anything.

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose,
    NameConstraints,
};

use super::super::{CaFiles, CertificateAuthority};
use super::*;
use crate::pki::{Profile, Signer as _, der};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = directory_name(name);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn directory_name(name: &str) -> DistinguishedName {
    let mut directory_name = DistinguishedName::new();
    directory_name.push(DnType::CommonName, name);
    directory_name
}

fn only(permitted: GeneralSubtree) -> NameConstraints {
    NameConstraints { permitted_subtrees: vec![permitted], excluded_subtrees: Vec::new() }
}

/// A root, and a CA below it that issues.
fn start(
    edit: impl FnOnce(&mut CertificateParams, &mut CertificateParams),
) -> Result<CertificateAuthority, SignerError> {
    let (mut root, mut plant) = (authority("Corp Root"), authority("Plant 4"));
    edit(&mut root, &mut plant);
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root_der = root.self_signed(&root_key).unwrap().der().to_vec();
    let der = plant.signed_by(&key, &Issuer::new(root, root_key)).unwrap().der().to_vec();
    let files = CaFiles::plain(Path::new("ca.pem"), Path::new("ca.key"));
    CertificateAuthority::assemble(&files, vec![key], &[der, root_der], now())
}

#[test]
fn a_ca_whose_certificates_nobody_can_verify_is_refused() {
    assert_eq!(start(|_, _| ()).unwrap().issuer().name(), "CN=Plant 4");
    let critical = || {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55_555, 1], vec![5, 0]);
        unknown.set_criticality(true);
        unknown
    };
    let mut told = Vec::new();
    let mut tell = |made: Result<CertificateAuthority, SignerError>| told.push(made.unwrap_err().to_string());
    tell(start(|_, plant| {
        plant.name_constraints = Some(only(GeneralSubtree::DirectoryName(directory_name("Plant 4"))));
    }));
    tell(start(|root, _| root.name_constraints = Some(only(GeneralSubtree::DirectoryName(directory_name("Corp"))))));
    tell(start(|_, plant| plant.name_constraints = Some(only(GeneralSubtree::DnsName("corp.example".to_owned())))));
    tell(start(|_, plant| plant.custom_extensions.push(critical())));
    insta::assert_snapshot!(told.join("\n"), @r"
    `ca.pem` cannot be the CA: the certificates of users that `CN=Plant 4` issues are refused by whoever verifies them (invalid peer certificate: Other(OtherError(NameConstraintViolation))); have it and those above it issued without name constraints and without critical extensions other than basicConstraints and keyUsage
    `ca.pem` cannot be the CA: the certificates of users that `CN=Plant 4` issues are refused by whoever verifies them (invalid peer certificate: Other(OtherError(NameConstraintViolation))); have it and those above it issued without name constraints and without critical extensions other than basicConstraints and keyUsage
    `ca.pem` cannot be the CA: the certificates of servers that `CN=Plant 4` issues are refused by whoever verifies them (invalid peer certificate: Other(OtherError(NameConstraintViolation))); have it and those above it issued without name constraints and without critical extensions other than basicConstraints and keyUsage
    `ca.pem` cannot be the CA: the certificates of users that `CN=Plant 4` issues are refused by whoever verifies them (invalid peer certificate: Other(OtherError(UnsupportedCriticalExtension))); have it and those above it issued without name constraints and without critical extensions other than basicConstraints and keyUsage
    ");
}

/// A CA below a name space of URIs, and a profile that names users in another one.
#[test]
fn what_the_profile_says_is_tried_too() {
    let made = |prefix: &str| {
        let (mut plant, key) = (authority("Plant 4"), KeyPair::generate().unwrap());
        // permittedSubtrees with one URI, RFC 5280 4.2.1.10.
        let host = b"plant.example";
        let content = der::element(der::context(6), &[host]);
        let content = der::element(der::SEQUENCE, &[&content]);
        let content = der::element(der::SEQUENCE, &[&der::element(der::context_constructed(0), &[&content])]);
        let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
        constraints.set_criticality(true);
        plant.custom_extensions.push(constraints);
        let der = plant.self_signed(&key).unwrap().der().to_vec();
        let profile = Profile { uri_prefix: Some(prefix.to_owned().try_into().unwrap()), ..Profile::default() };
        let files = CaFiles { profile: Some(&profile), ..CaFiles::plain(Path::new("ca.pem"), Path::new("ca.key")) };
        CertificateAuthority::assemble(&files, vec![key], &[der], now()).map(drop)
    };
    assert!(matches!(made("spiffe://other.example/"), Err(SignerError::Refused { what: "users", .. })));
}

/// What says nothing of users, and has no server certificate to make, is none of a client's business.
#[test]
fn a_ca_for_users_alone_may_be_constrained_in_the_names_of_servers() {
    let made = start(|_, plant| {
        plant.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        plant.name_constraints = Some(only(GeneralSubtree::DnsName("corp.example".to_owned())));
    });
    assert!(!made.unwrap().issuer().admits_servers());
}

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;

/// A CA, PEM.
fn authority(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, name);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn der(text: &str) -> Vec<Anchor> {
    certificates(text.as_bytes())
}

struct Stage {
    directory: tempfile::TempDir,
    files: Credentials,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Credentials::new(directory.path(), "pump-7".parse().unwrap());
        Self { directory, files }
    }

    fn own(&self) -> Vec<Anchor> {
        der(&fs::read_to_string(self.files.trust()).unwrap_or_default())
    }
}

fn sorted(mut anchors: Vec<Anchor>) -> Vec<Anchor> {
    anchors.sort();
    anchors
}

/// A broker whose own certificate is not of the CA that issues to devices.
#[test]
fn what_is_delivered_takes_nobodys_place() {
    let stage = Stage::new();
    let (servers, issuer) = (authority("servers"), authority("issuer"));
    let file = stage.directory.path().join("ca.pem");
    fs::write(&file, &servers).unwrap();
    let trust = Trust::of_file(file.clone(), &stage.files).unwrap();
    assert_eq!(trust.anchors().unwrap(), der(&servers));

    trust.learn(&issuer, &der(&servers)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), servers, "the operator's file is the operator's");
    assert_eq!(sorted(stage.own()), sorted(der(&format!("{servers}{issuer}"))));

    // Without the operator's file the device still knows its broker.
    fs::remove_file(&file).unwrap();
    let trust = Trust::of_file(file, &stage.files).unwrap();
    assert_eq!(sorted(trust.anchors().unwrap()), sorted(der(&format!("{servers}{issuer}"))));
}

#[test]
fn a_ca_that_was_retired_is_forgotten_but_never_what_the_operator_vouches_for() {
    let stage = Stage::new();
    let (old, new) = (authority("old"), authority("new"));
    let trust = Trust::of_pem(old.as_bytes(), &stage.files).unwrap();
    trust.learn(&old, &der(&old)).unwrap();
    // The overlap: the broker's own certificate is still one of the old CA.
    trust.learn(&format!("{new}{old}"), &der(&old)).unwrap();
    assert_eq!(stage.own(), der(&format!("{new}{old}")));
    // Retired, over a connection of before: what verified it stays until another did.
    trust.learn(&new, &der(&old)).unwrap();
    assert_eq!(stage.own(), der(&format!("{new}{old}")));
    trust.learn(&new, &der(&new)).unwrap();
    assert_eq!(stage.own(), der(&new));
    assert_eq!(sorted(trust.anchors().unwrap()), sorted(der(&format!("{old}{new}"))), "the operator's stays");
    let bare = Trust::of_pem(b"", &stage.files).unwrap();
    assert_eq!(bare.anchors().unwrap(), der(&new), "and of the device's own only the new one");
}

#[test]
fn what_cannot_be_an_anchor_is_not_learned_and_what_was_known_stays() {
    let stage = Stage::new();
    let good = authority("good");
    let trust = Trust::of_pem(good.as_bytes(), &stage.files).unwrap();
    trust.learn(&good, &der(&good)).unwrap();
    let broken = pem("CERTIFICATE", b"no certificate");
    for delivered in ["", "nothing", &broken, &format!("{good}{broken}")] {
        let error = trust.learn(delivered, &der(&good)).unwrap_err();
        assert!(matches!(error, DeviceError::Answer(_)), "{error}");
        assert_eq!(stage.own(), der(&good));
    }
}

#[test]
fn a_bundle_that_is_learned_again_is_not_written_again() {
    let stage = Stage::new();
    let good = authority("good");
    let trust = Trust::of_pem(good.as_bytes(), &stage.files).unwrap();
    trust.learn(&good, &der(&good)).unwrap();
    let before = fs::metadata(stage.files.trust()).unwrap();
    trust.learn(&good, &der(&good)).unwrap();
    let after = fs::metadata(stage.files.trust()).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&before), std::os::unix::fs::MetadataExt::ino(&after));
}

#[test]
fn an_operators_file_is_read_anew_and_is_none_of_the_devices_own() {
    let stage = Stage::new();
    let (first, second) = (authority("first"), authority("second"));
    let file = stage.directory.path().join("plant.pem");
    fs::write(&file, &first).unwrap();
    let trust = Trust::of_file(file.clone(), &stage.files).unwrap();
    fs::write(&file, &second).unwrap();
    assert_eq!(trust.anchors().unwrap(), der(&second));

    // `device enrol plant --ca plant.pem` would overwrite it with the certificate of the device.
    let plant = Credentials::new(stage.directory.path(), "plant".parse().unwrap());
    for path in [file.clone(), stage.directory.path().join("../").join(stage.directory.path()).join("plant.pem")] {
        let error = Trust::of_file(path, &plant).unwrap_err().to_string();
        assert!(error.contains("the device itself writes this file"), "{error}");
    }
    let link = stage.directory.path().join("link.pem");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(Trust::of_file(link, &plant).is_err());
    assert!(Trust::of_file(plant.trust(), &plant).is_err(), "nor its own bundle, which is not there yet");
    assert_eq!(fs::read_to_string(&file).unwrap(), second);
}

#[test]
fn without_an_anchor_there_is_no_connection_and_the_message_says_what_is_missing() {
    let stage = Stage::new();
    let nothing = stage.directory.path().join("nothing.pem");
    fs::write(&nothing, "no PEM").unwrap();
    let broken = stage.directory.path().join("broken.pem");
    fs::write(&broken, pem("CERTIFICATE", b"no certificate")).unwrap();
    let errors = [
        Trust::of_pem(b"", &stage.files),
        Trust::of_pem(pem("CERTIFICATE", b"no certificate").as_bytes(), &stage.files),
        Trust::of_file(stage.directory.path().join("absent.pem"), &stage.files),
        Trust::of_file(nothing, &stage.files),
        Trust::of_file(broken, &stage.files),
    ];
    let place = stage.directory.path().display().to_string();
    let told: Vec<_> = errors.map(|error| error.unwrap_err().to_string().replace(&place, "DIR")).into();
    insta::assert_snapshot!(told.join("\n"), @"
    there is nothing to verify the broker by: the trust bundle holds no certificate (PEM); name the CA of the broker's own certificate (`--ca FILE`)
    there is nothing to verify the broker by: a certificate of the trust bundle cannot be one of a CA; name the CA of the broker's own certificate (`--ca FILE`)
    there is nothing to verify the broker by: there is no `DIR/absent.pem`; name the CA of the broker's own certificate (`--ca FILE`)
    `DIR/nothing.pem` cannot be used: it holds no certificate (PEM); put the CA of the broker's own certificate there
    `DIR/broken.pem` cannot be used: it holds what cannot be a certificate of a CA; put the CA of the broker's own certificate there
    ");
}

proptest! {
    /// The specification: nothing but what was delivered and what has verified the connection, and all of both.
    #[test]
    fn the_own_bundle_is_what_is_delivered_and_what_verified_it(
        delivered in prop::collection::vec(0..6_u8, 1..6), verified_by in prop::collection::vec(0..6_u8, 1..4),
    ) {
        let anchors = |from: &[u8]| from.iter().map(|it| vec![*it]).collect::<Vec<_>>();
        let next = after(anchors(&delivered), &anchors(&verified_by));
        let set: BTreeSet<_> = next.iter().cloned().collect();
        prop_assert_eq!(set.len(), next.len(), "each once");
        prop_assert_eq!(set, anchors(&[delivered, verified_by].concat()).into_iter().collect::<BTreeSet<_>>());
    }
}

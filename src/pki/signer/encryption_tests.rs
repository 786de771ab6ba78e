//! Keys under a passphrase: ours, those of openssl, and what a file may not ask for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use pkcs8::pkcs5::pbes2::ScryptParams;
use rcgen::KeyPair;

use super::super::{CaFiles, CertificateAuthority, Origin};
use super::*;

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

/// A key under a scheme of our choice.
fn under(parameters: Parameters, passphrase: &str) -> Vec<u8> {
    let key = KeyPair::generate().unwrap().serialize_der();
    let encrypted = parameters.encrypt(passphrase, &key).unwrap();
    EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: OctetStringRef::new(&encrypted).unwrap(),
    }
    .to_der()
    .unwrap()
}

/// The same header over nothing: opening it would do the work first.
fn asking_for(kdf: Kdf) -> Vec<u8> {
    let mut parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(1, b"saltsalt", [0; 16]).unwrap();
    parameters.kdf = kdf;
    EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: OctetStringRef::new(&[0; 32]).unwrap(),
    }
    .to_der()
    .unwrap()
}

fn opened(der: &[u8], passphrase: Option<&str>) -> Result<(), EncryptionError> {
    open(der, passphrase.map(secret).as_ref()).map(drop)
}

#[test]
fn what_is_sealed_opens_with_its_passphrase_alone() {
    let key = KeyPair::generate().unwrap();
    let text = seal(&key.serialize_der(), &secret("größer als 12")).unwrap();
    let block = pem::only(text.as_bytes(), "ENCRYPTED PRIVATE KEY").unwrap();
    assert_eq!(open(&block, Some(&secret("größer als 12"))).unwrap().as_bytes(), key.serialize_der());
    assert_eq!(opened(&block, Some("größer als 13")), Err(EncryptionError::Passphrase));
    assert_eq!(opened(&block, None), Err(EncryptionError::NoPassphrase));
    let again = seal(&key.serialize_der(), &secret("größer als 12")).unwrap();
    assert_ne!(*text, *again, "salt and IV are drawn each time");
}

#[test]
fn what_openssl_can_choose_is_opened() {
    let iv = [7; 16];
    let scrypt = |n: u64, r: u16, p: u16| {
        let mut parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(1, b"saltsalt", iv).unwrap();
        let (salt, key_length) = (b"saltsalt".as_slice().try_into().unwrap(), None);
        let kdf = ScryptParams { salt, cost_parameter: n, block_size: r, parallelization: p, key_length };
        parameters.kdf = kdf.into();
        parameters
    };
    for parameters in [
        Parameters::generate_pbkdf2_sha256_aes256cbc(2048, b"saltsalt", iv).unwrap(),
        Parameters::generate_pbkdf2_sha256_aes128cbc(2048, b"saltsalt", iv).unwrap(),
        scrypt(16, 8, 1),
    ] {
        let der = under(parameters, "right");
        assert_eq!(opened(&der, Some("right")), Ok(()));
        assert_eq!(opened(&der, Some("wrong")), Err(EncryptionError::Passphrase));
    }
}

/// Each of these is refused before a step of work is done, with and without a passphrase.
#[test]
fn a_file_cannot_ask_for_work_without_end() {
    let salt = || b"saltsalt".as_slice().try_into().unwrap();
    let pbkdf2 = |count| {
        let Kdf::Pbkdf2(mut parameters) = Parameters::generate_pbkdf2_sha256_aes256cbc(1, b"s", [0; 16]).unwrap().kdf
        else {
            panic!("it is PBKDF2")
        };
        parameters.iteration_count = count;
        Kdf::Pbkdf2(parameters)
    };
    let scrypt = |n, r, p| {
        Kdf::Scrypt(ScryptParams {
            salt: salt(),
            cost_parameter: n,
            block_size: r,
            parallelization: p,
            key_length: None,
        })
    };
    for passphrase in [None, Some("any")] {
        for kdf in [
            pbkdf2(MAX_ITERATIONS + 1),
            pbkdf2(u32::MAX),
            scrypt(1 << 22, 8, 1),
            scrypt(1 << 63, 1, 1),
            scrypt(1 << 14, u16::MAX, 1),
            scrypt(1 << 14, 8, u16::MAX),
        ] {
            let refused = opened(&asking_for(kdf.clone()), passphrase);
            assert!(matches!(refused, Err(EncryptionError::Cost(_))), "{kdf:?}: {refused:?}");
        }
        for kdf in [pbkdf2(0), scrypt(0, 8, 1), scrypt(1, 8, 1), scrypt(3, 8, 1), scrypt(16, 0, 1), scrypt(16, 8, 0)] {
            assert_eq!(opened(&asking_for(kdf), passphrase), Err(EncryptionError::Scheme));
        }
    }
    assert!(opened(b"\x30\x00", Some("x")).is_err());
    assert!(opened(b"", Some("x")).is_err());
}

#[test]
fn a_ca_is_made_under_the_passphrase_and_refused_by_name_without_the_right_one() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("ca.pem"), home.path().join("ca.key"));
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let load = |passphrase: Option<&str>| {
        let passphrase = passphrase.map(secret);
        let files = CaFiles { certificate: &certificate, key: &key, passphrase: passphrase.as_ref(), profile: None };
        CertificateAuthority::load_or_create(&files, now).map(|(_, origin)| origin).map_err(|error| {
            let text = error.to_string();
            assert!(!text.contains("battery"), "{text}");
            text.replace(&home.path().display().to_string(), "DIR")
        })
    };
    assert_eq!(load(Some("correct battery")), Ok(Origin::Created));
    let text = fs::read_to_string(&key).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{text}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(load(Some("correct battery")), Ok(Origin::Loaded));
    let mut told = vec![load(None).unwrap_err(), load(Some("wrong battery")).unwrap_err()];
    fs::write(&key, pem::encode("ENCRYPTED PRIVATE KEY", b"\x30\x00")).unwrap();
    told.push(load(Some("correct battery")).unwrap_err());
    fs::write(&key, "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n").unwrap();
    told.push(load(Some("correct battery")).unwrap_err());
    let Kdf::Pbkdf2(mut parameters) = Parameters::generate_pbkdf2_sha256_aes256cbc(1, b"s", [0; 16]).unwrap().kdf
    else {
        panic!("it is PBKDF2")
    };
    parameters.iteration_count = 99_000_000;
    fs::write(&key, pem::encode("ENCRYPTED PRIVATE KEY", &asking_for(Kdf::Pbkdf2(parameters)))).unwrap();
    told.push(load(Some("correct battery")).unwrap_err());
    insta::assert_snapshot!("refused", told.join("\n"));
}

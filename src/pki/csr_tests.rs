//! Requests as an attacker makes them, each refused by name; the same bytes are the seeds of the fuzz target `csr`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

fn seeds() -> BTreeMap<String, Vec<u8>> {
    let directory: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/csr");
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "der"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn every_attack_is_refused_by_name_and_what_asks_for_nothing_more_is_admitted() {
    // The word, and what of the message names the fault.
    let expected = [
        ("brainpool", "key_not_admitted", "elliptic curve 1.3.36.3.3.2.8.1.1.7"),
        ("ca-cert-sign", "ca_requested", "keyCertSign"),
        ("ca-crl-sign", "ca_requested", "cRLSign"),
        ("ca-flag", "ca_requested", "CA:TRUE"),
        ("ca-flag-not", "ok", "press-7"),
        ("common-name-long", "common_name", "64 characters"),
        ("common-name-none", "common_name", "no common name"),
        ("common-name-twice", "common_name", "2 common names"),
        ("common-name-twice-in-one-set", "common_name", "2 common names"),
        ("common-name-with-nul", "common_name", "NUL"),
        ("deep-attribute", "csr_malformed", "16 deep"),
        ("deep-name", "csr_malformed", "16 deep"),
        ("dsa", "key_not_admitted", "DSA"),
        ("ed25519", "ok", "press-7"),
        ("ed25519-31-bytes", "key_not_admitted", "32 bytes"),
        ("explicit-curve", "key_not_admitted", "object identifier"),
        ("extension-twice", "csr_malformed", "2.5.29.19"),
        ("extensions-of-a-client", "ok", "press-7"),
        ("giant", "csr_too_large", "16384"),
        ("greedy", "alternative_name", "`DNS:evil.example`"),
        ("indefinite-length", "csr_malformed", "shortest"),
        ("length-of-four-gib", "csr_malformed", "cut off"),
        ("many-names", "ok", "press-7"),
        ("p224", "key_not_admitted", "elliptic curve 1.3.132.0.33"),
        ("p256", "ok", "press-7"),
        ("point-at-infinity", "key_not_admitted", "uncompressed"),
        ("point-off-the-curve", "csr_signature", "signature"),
        ("rsa-2047", "key_not_admitted", "RSA of 2047 bits"),
        ("rsa-4097", "key_not_admitted", "RSA of 4097 bits"),
        ("rsa-512", "key_not_admitted", "RSA of 512 bits"),
        ("rsa-65536", "key_not_admitted", "RSA of 65536 bits"),
        ("rsa-8192", "key_not_admitted", "RSA of 8192 bits"),
        ("rsa-even-modulus", "csr_signature", "signature"),
        ("rsa-exponent-1", "key_not_admitted", "exponent other than 65537"),
        ("rsa-exponent-3", "key_not_admitted", "exponent other than 65537"),
        ("rsa-exponent-33-bits", "key_not_admitted", "exponent other than 65537"),
        ("rsa-exponent-even", "key_not_admitted", "exponent other than 65537"),
        ("rsa-exponent-huge", "key_not_admitted", "exponent other than 65537"),
        ("rsa-good", "ok", "press-7"),
        ("rsa-negative-modulus", "key_not_admitted", "canonical"),
        ("san-address", "alternative_name", "`IP:0a000001`"),
        ("san-broken", "csr_malformed", "2.5.29.17"),
        ("san-directory-name", "alternative_name", "directory"),
        ("san-foreign", "alternative_name", "`DNS:broker.example`"),
        ("san-many", "alternative_name", "`DNS:a0.example`"),
        ("san-microsoft", "ok", "press-7"),
        ("san-own", "ok", "press-7"),
        ("san-second-request", "alternative_name", "`DNS:broker.example`"),
        ("san-uri", "alternative_name", "`URI:spiffe://example/admin`"),
        ("signature-algorithm-of-another-key", "csr_signature", "1.2.840.113549.1.1.11"),
        ("signature-empty", "csr_signature", "private key"),
        ("signature-flipped", "csr_signature", "private key"),
        ("signature-of-another-key", "csr_signature", "private key"),
        ("signature-zero", "csr_signature", "private key"),
        ("unknown-key", "key_not_admitted", "1.2.3.4.5.6.7"),
        ("version-2", "csr_malformed", "version 1"),
        ("x25519", "key_not_admitted", "1.3.101.110"),
    ];
    let mut seeds = seeds();
    for (name, word, part) in expected {
        let der = seeds.remove(name).unwrap_or_else(|| panic!("there is no seed `{name}`"));
        match VerifiedCsr::from_der(&der) {
            Ok(csr) => {
                assert_eq!(("ok", part), (word, csr.username().as_str()), "{name} was admitted");
            }
            Err(error) => {
                let message = error.to_string();
                assert!(error.word() == word && message.contains(part), "{name}: {}: {message}", error.word());
                assert!(message.len() < 300, "{name}: a message of {} bytes", message.len());
            }
        }
    }
    assert!(seeds.is_empty(), "seeds that nobody expects anything of: {:?}", seeds.keys());
}

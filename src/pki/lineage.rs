//! The CAs that are, or ever were, the broker's own: how a certificate of one of them is told from all others.
//!
//! Entering: certificates. Leaving: whether one is of such a CA, by its key or by its key identifier. Never: no for what cannot be read.
//! A CA stays in here when its time is over, and when its key is in the wrong hands: then most of all.

use std::collections::BTreeSet;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::{IssuerCertificate, PublicKey, hex, sha256};

/// CAs, by what no other certificate of the same CA differs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Key identifiers, lower-case hexadecimal.
    identifiers: BTreeSet<String>,
    /// SHA-256 of the SubjectPublicKeyInfo, lower-case hexadecimal.
    keys: BTreeSet<String>,
}

impl Lineage {
    /// Puts a CA in.
    pub fn add(&mut self, issuer: &IssuerCertificate) {
        self.insert(issuer.id(), issuer.key().fingerprint());
    }

    /// Puts a CA in of which no certificate is left: its key identifier and the SHA-256 of its key, lower-case hexadecimal.
    pub fn insert(&mut self, identifier: String, key: String) {
        self.identifiers.insert(identifier);
        self.keys.insert(key);
    }

    /// Is there a CA with this key identifier?
    pub fn has_identifier(&self, identifier: &str) -> bool {
        self.identifiers.contains(identifier)
    }

    /// Is this certificate (DER) of one of them, or can that not be told?
    pub fn holds(&self, certificate: &[u8]) -> bool {
        key_names(certificate).is_none_or(|(key, identifiers)| {
            self.keys.contains(&key) || identifiers.iter().any(|identifier| self.identifiers.contains(identifier))
        })
    }
}

/// What a CA with this certificate (DER) is called as an issuer: by the certificate, and by what RFC 7093 gives for its key. Empty where it
/// cannot be read.
pub fn key_identifiers(certificate: &[u8]) -> Vec<String> {
    key_names(certificate).map(|(_, identifiers)| identifiers).unwrap_or_default()
}

/// SHA-256 of the key, and the key identifiers.
fn key_names(certificate: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let named = parsed.iter_extensions().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(hex(identifier.0)),
        _ => None,
    });
    let of_key = PublicKey::admit(parsed.public_key()).ok().map(|key| hex(&key.identifier()));
    Some((hex(&sha256(parsed.public_key().raw)), named.chain(of_key).collect()))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    fn certificate(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_ca_is_known_by_its_key_under_any_name_and_by_its_identifier_under_any_key() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ours = certificate(&params("Ours"), &key);
        let mut lineage = Lineage::default();
        assert!(!lineage.holds(&ours));
        let issuer = IssuerCertificate::from_der(&ours).unwrap();
        lineage.add(&issuer);
        assert!(lineage.has_identifier(&issuer.id()));
        let mut renamed = params("Another");
        renamed.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
        let above = Issuer::new(params("Root"), KeyPair::generate().unwrap());
        let cross = renamed.signed_by(&key, &above).unwrap().der().to_vec();
        let mut posing = params("Third");
        posing.key_identifier_method = KeyIdMethod::PreSpecified(issuer.key_identifier().to_vec());
        for (certificate, held) in [
            (ours, true),
            (cross, true),
            (certificate(&posing, &other), true),
            (certificate(&params("Ours"), &other), false),
            (b"\x30\x00".to_vec(), true),
        ] {
            assert_eq!(lineage.holds(&certificate), held);
        }
    }
}

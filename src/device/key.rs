//! The device's key, and what it signs with it.
//!
//! Enters: a key of any admitted kind, a name and perhaps a nonce. Leaves: a certification request (PKCS#10, PEM). Never:
//! the key itself.

use base64ct::{Base64, Encoding as _};
use rcgen::{Attribute, CertificateParams, DistinguishedName, DnType, KeyPair};

use super::DeviceError;
use crate::access::Username;
use crate::pki::{PairingCode, PublicKey, VerifiedCsr};

/// challengePassword, RFC 2985 5.4.1.
const CHALLENGE_PASSWORD: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
/// Tags of X.690.
const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0C;

/// A certification request for this name, with the nonce of the registry as its challengePassword.
pub(super) fn request(key: &KeyPair, name: &Username, nonce: Option<&str>) -> Result<String, DeviceError> {
    let unusable = |error: rcgen::Error| DeviceError::Key(error.to_string());
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name.as_str());
    params.distinguished_name = subject;
    let mut attributes = Vec::new();
    if let Some(nonce) = nonce {
        // Short form of both lengths, X.690 8.1.3.4.
        let length = u8::try_from(nonce.len()).ok().filter(|length| *length < 126);
        let length = length.ok_or_else(|| DeviceError::Answer("a nonce of more than 125 bytes".to_owned()))?;
        let mut values = vec![SET, length + 2, UTF8_STRING, length];
        values.extend_from_slice(nonce.as_bytes());
        attributes.push(Attribute { oid: CHALLENGE_PASSWORD, values });
    }
    params.serialize_request_with_attributes(key, attributes).and_then(|request| request.pem()).map_err(unusable)
}

/// By the key of a certificate that has lapsed, for a renewal in grace: what it is over, the registry's manual says.
pub(super) fn signature(key: &KeyPair, nonce: &str, csr: &str) -> Result<String, DeviceError> {
    use rcgen::SigningKey as _;

    let csr = VerifiedCsr::from_pem(csr.as_bytes()).map_err(|error| DeviceError::Key(error.to_string()))?;
    let message = [b"portcullis-renew-v1", nonce.as_bytes(), csr.digest()].concat();
    let signature = key.sign(&message).map_err(|error| DeviceError::Key(error.to_string()))?;
    Ok(Base64::encode_string(&signature))
}

/// What the operator is to see, computed without the broker.
pub(super) fn pairing_code(key: &KeyPair) -> Result<PairingCode, DeviceError> {
    Ok(PairingCode::of_key(&public(key)?))
}

/// The public half, if it is of an admitted kind.
pub(super) fn public(key: &KeyPair) -> Result<PublicKey, DeviceError> {
    use rcgen::PublicKeyData as _;

    PublicKey::from_spki_der(&key.subject_public_key_info()).map_err(|error| DeviceError::Key(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_that_the_registry_admits() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let csr = request(&key, &"pump-7".parse().unwrap(), Some("a nonce")).unwrap();
            let csr = VerifiedCsr::from_pem(csr.as_bytes()).unwrap();
            assert_eq!(csr.username().as_str(), "pump-7");
            assert_eq!(PairingCode::of_key(csr.key()), pairing_code(&key).unwrap());
        }
    }
}

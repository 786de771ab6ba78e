//! Any bytes, as PEM and as DER: an answer, never a panic; and what is admitted once is admitted again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::pki::{PairingCode, PeerCertificate, VerifiedCsr};

fuzz_target!(|bytes: &[u8]| {
    for verdict in [VerifiedCsr::from_pem(bytes), VerifiedCsr::from_der(bytes)] {
        match verdict {
            Ok(csr) => {
                assert!((3..=64).contains(&csr.username().as_str().len()));
                assert_eq!(PairingCode::of_key(csr.key()).to_string().len(), 19);
            }
            Err(error) => assert!(!error.word().is_empty() && !error.to_string().is_empty()),
        }
    }
    let _ = PeerCertificate::from_der(bytes);
});

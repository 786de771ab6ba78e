//! Whose word a client certificate is: the broker's own CA's, or that of a further anchor of broker.toml.
//!
//! Enters: the chain that a client has sent, of which TLS has verified that it leads to one of the anchors. Leaves: a
//! [`ClientCertificate`] under the anchor that it leads to. Never: a certificate of the broker's own CA under another anchor. What that
//! CA has signed must be on record, whoever has signed that CA or has a certificate of the same name.
//!
//! INVARIANT: no way to a further anchor leads through a CA that is, or ever was, the broker's own, at any place of the chain. Its key may
//! be in the wrong hands; then neither its end, nor a CA that the key has signed, makes its word good again.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::{Anchor, ClientCertificate};
use crate::access::{Username, UsernamePattern};
use crate::clock::Duration;
use crate::pki::{IssuerCertificate, Lineage, Naming, PeerCertificate, key_identifiers};

/// A further CA, as broker.toml names it.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The file that it comes from, for messages.
    pub file: PathBuf,
    /// Its certificate.
    pub certificate: IssuerCertificate,
    /// The names that it is good for.
    pub names: UsernamePattern,
    /// By what its certificates name their user.
    pub naming: Naming,
}

/// Why a further anchor cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// The broker's own, now or before.
    #[error(
        "`{}` holds a CA that is or was the broker's own (`{name}`), which is trusted for what is on record and for nothing else; remove it from `[[ca.trust]]`", file.display()
    )]
    Own {
        /// Where it is.
        file: PathBuf,
        /// Its subject.
        name: String,
    },
    /// extKeyUsage without clientAuth.
    #[error(
        "`{}` holds `{name}`, whose extended key usage does not admit certificates of clients; name the CA that issues those", file.display()
    )]
    Purpose {
        /// Where it is.
        file: PathBuf,
        /// Its subject.
        name: String,
    },
    /// The TLS library does not take it.
    #[error("`{}` holds `{name}`, which cannot be an anchor: {reason}", file.display())]
    Unusable {
        /// Where it is.
        file: PathBuf,
        /// Its subject.
        name: String,
        /// In the words of the library.
        reason: String,
    },
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnchor {
    /// Our parser does not take it.
    #[error("{}", self.explanation())]
    Unreadable,
    /// It leads to no anchor that is good now.
    #[error("{}", self.explanation())]
    Untrusted,
}

impl NoAnchor {
    /// What the client is told.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Unreadable => "the client certificate cannot be read",
            Self::Untrusted => "the client certificate leads to no CA that is trusted now",
        }
    }

    /// For logs.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Unreadable => "certificate_unreadable",
            Self::Untrusted => "certificate_untrusted",
        }
    }
}

/// All anchors.
#[derive(Debug)]
pub struct Anchors {
    /// Exchanged when the CA changes.
    own: ArcSwap<Own>,
    /// By what certificates of our own name their user.
    naming: Naming,
    further: Vec<Further>,
}

#[derive(Debug)]
struct Own {
    /// Those that are trusted now.
    issuers: Vec<IssuerCertificate>,
    /// These, and all before them.
    ever: Lineage,
}

impl Own {
    fn new(issuers: Vec<IssuerCertificate>, mut ever: Lineage) -> Self {
        for issuer in &issuers {
            ever.add(issuer);
        }
        Self { issuers, ever }
    }
}

#[derive(Debug)]
struct Further {
    certificate: IssuerCertificate,
    names: UsernamePattern,
    naming: Naming,
    /// Trusts this one alone.
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Anchors {
    /// `own`: the issuers of the broker; `before`: all that it ever had; `naming`: by what their certificates name their user. `further`:
    /// those of `[[ca.trust]]`.
    ///
    /// # Errors
    /// [`AnchorError`].
    pub fn new(
        own: Vec<IssuerCertificate>,
        before: Lineage,
        naming: Naming,
        further: Vec<Trusted>,
    ) -> Result<Self, AnchorError> {
        let own = Own::new(own, before);
        let further = further.into_iter().map(|trusted| Further::new(trusted, &own.ever)).collect::<Result<_, _>>()?;
        Ok(Self { own: ArcSwap::from_pointee(own), naming, further })
    }

    /// All certificates, DER: what TLS verifies chains against.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let further = self.further.iter().map(|further| &further.certificate);
        self.own.load().issuers.iter().chain(further).map(|certificate| certificate.der().to_vec()).collect()
    }

    /// From now on these are the issuers of the broker; those of before stay known as such.
    pub fn replace_own(&self, own: Vec<IssuerCertificate>) {
        let ever = self.own.load().ever.clone();
        self.own.store(Arc::new(Own::new(own, ever)));
    }

    /// Of the further ones, those that have issued one of these certificates (DER), of which the last of a chain is a root.
    pub fn above(&self, certificates: &[Vec<u8>]) -> Vec<&IssuerCertificate> {
        let further = self.further.iter().map(|further| &further.certificate);
        further.filter(|further| certificates.iter().any(|der| further.has_issued(der))).collect()
    }

    /// The further ones.
    pub fn further(&self) -> impl Iterator<Item = (&IssuerCertificate, &UsernamePattern)> {
        self.further.iter().map(|further| (&further.certificate, &further.names))
    }

    /// May a certificate of a further CA name this user? Whose it is shows only with its chain.
    ///
    /// # Errors
    /// What it would have to have, in words.
    pub fn may_name(&self, certificate: &PeerCertificate, user: &Username) -> Result<(), String> {
        let further = self.further.iter().map(|further| &further.naming);
        let none = self.further.is_empty().then_some(&self.naming);
        let mut expected: Vec<String> = Vec::new();
        for naming in further.chain(none) {
            if certificate.username(naming).as_ref() == Ok(user) {
                return Ok(());
            }
            let words = naming.describe(user);
            if !expected.contains(&words) {
                expected.push(words);
            }
        }
        Err(expected.join(", or "))
    }

    /// What the first certificate of the chain says, and on whose word. TLS has verified the chain against
    /// [`Anchors::certificates`], and that the client has the key, maybe some time ago (RFC 8446 2.2).
    ///
    /// # Errors
    /// [`NoAnchor`].
    pub fn certificate<C: AsRef<[u8]>>(&self, chain: &[C], now: Timestamp) -> Result<ClientCertificate, NoAnchor> {
        let (leaf, others) = chain.split_first().ok_or(NoAnchor::Unreadable)?;
        let leaf = PeerCertificate::from_der(leaf.as_ref()).map_err(|_| NoAnchor::Unreadable)?;
        // However long the way is, each CA on it is one of these or the anchor.
        let mut issuers: Vec<_> = others.iter().flat_map(|other| key_identifiers(other.as_ref())).collect();
        let own = self.own.load();
        // Where there is no further anchor, TLS has said it all. Otherwise our own come first: what they have signed has to be on
        // record, even if a further anchor is above them.
        if self.further.is_empty() || own.issuers.iter().any(|issuer| leaf.is_issued_by(issuer)) {
            issuers.extend(leaf.authority().map(str::to_owned));
            return Ok(ClientCertificate::under(Anchor::Own, &self.naming, &leaf, issuers));
        }
        if own.ever.holds(leaf.der()) {
            return Err(NoAnchor::Untrusted);
        }
        let others: Vec<_> = others.iter().map(AsRef::as_ref).filter(|other| !own.ever.holds(other)).collect();
        let mut found: Option<&Further> = None;
        for further in self.further.iter().filter(|further| further.admits(&leaf, &others, now)) {
            let admits_name = leaf.username(&further.naming).is_ok_and(|name| further.names.matches(&name));
            if admits_name || found.is_none() {
                found = Some(further);
            }
            if admits_name {
                break;
            }
        }
        let found = found.ok_or(NoAnchor::Untrusted)?;
        issuers.push(found.certificate.id());
        Ok(ClientCertificate::under(Anchor::Extra(found.names.clone()), &found.naming, &leaf, issuers))
    }
}

impl Further {
    fn new(Trusted { file, certificate, names, naming }: Trusted, own: &Lineage) -> Result<Self, AnchorError> {
        let name = certificate.name();
        if own.holds(certificate.der()) {
            return Err(AnchorError::Own { file, name });
        }
        if !certificate.admits_clients() {
            return Err(AnchorError::Purpose { file, name });
        }
        let verifier = verifier(&certificate).map_err(|reason| AnchorError::Unusable { file, name, reason })?;
        Ok(Self { certificate, names, naming, verifier })
    }

    /// Does the chain lead to this anchor, now?
    fn admits(&self, leaf: &PeerCertificate, others: &[&[u8]], now: Timestamp) -> bool {
        // The library takes an anchor at its word: neither its time nor its path length.
        if now < self.certificate.not_before() || self.certificate.not_after() <= now {
            return false;
        }
        let length =
            self.certificate.path_length().map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let others = others.iter().filter(|der| **der != self.certificate.der());
        let others: Vec<_> = others.take(length).map(|der| CertificateDer::from(*der)).collect();
        let Ok(seconds) = u64::try_from(now.as_second()) else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.verifier.verify_client_cert(&CertificateDer::from(leaf.der()), &others, now).is_ok()
    }
}

fn verifier(anchor: &IssuerCertificate) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(anchor.der())).map_err(|error| error.to_string())?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "anchors_tests.rs"]
mod tests;

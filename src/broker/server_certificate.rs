//! The certificate that TLS listeners show, while they run: renewed by itself where it is ours, taken over where an operator
//! puts another one.
//!
//! Entering: the time, the names of this machine, the two files. Leaving: another certificate for every handshake from then on; the
//! connections that there are notice nothing. Never: an operator's file is touched, and never a certificate that does not fit its
//! key: what cannot be used is told, and the one in use stays.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    task,
};

use super::StartError;
use crate::{
    audit::{Event, Word},
    clock::{Clock, Timestamp},
    config::Config,
    directory::{Actor, Directory, DirectoryError},
    metrics::Metrics,
    net::ServerKey,
    pki::{CertificateAuthority, Origin, ServerCertificate, ServerName, Signers},
};

/// How often files, names and the clock are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What [`ServerCertificateKeeper`] needs.
pub(super) struct Parts {
    pub(super) signers: Arc<Signers>,
    pub(super) directory: Arc<Directory>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    /// The names by which this machine is reached now.
    pub(super) names: fn() -> Vec<ServerName>,
}

/// Keeps the certificate in use the right one.
pub(super) struct ServerCertificateKeeper {
    parts: Parts,
    certificate: PathBuf,
    key: PathBuf,
    shown: Arc<ServerKey>,
    in_use: ServerCertificate,
    /// The CA when it was last asked.
    ca: Arc<CertificateAuthority>,
    /// Of the two files when they were last read.
    seen: [Option<SystemTime>; 2],
    /// The names when they were last asked for.
    names: Vec<ServerName>,
    /// What was told last, so that it is not told every few seconds.
    told: Option<String>,
}

impl ServerCertificateKeeper {
    /// Reads the certificate, or makes it.
    pub(super) fn open(config: &Config, parts: Parts) -> Result<Self, StartError> {
        let (certificate, key) = (config.tls.certificate.clone(), config.tls.key.clone());
        let names = (parts.names)();
        let in_use = parts.signers.load().server_certificate(&certificate, &key, &names, parts.clock.timestamp())?;
        let shown = ServerKey::new(in_use.chain(), in_use.key_der())
            .map_err(|source| StartError::Tls { listener: "all with TLS".to_owned(), source })?;
        let seen = [modified(&certificate), modified(&key)];
        let (ca, shown) = (parts.signers.load(), Arc::new(shown));
        let keeper = Self { parts, certificate, key, shown, in_use, ca, seen, names, told: None };
        if keeper.in_use.origin() != Origin::Loaded {
            keeper.record()?;
        }
        keeper.measure();
        Ok(keeper)
    }

    /// What listeners show, now and later.
    pub(super) fn shown(&self) -> &Arc<ServerKey> {
        &self.shown
    }

    /// Looks after it until `shutdown` turns true; at once when the CA has `changed`.
    pub(super) async fn run(mut self, changed: Arc<Notify>, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = changed.notified() => {}
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            let looked = task::spawn_blocking(move || {
                self.look();
                self
            });
            self = match looked.await {
                Ok(keeper) => keeper,
                Err(error) => {
                    tracing::error!(%error, "the server certificate is not looked after any more");
                    return;
                }
            };
        }
    }

    /// Is anything not as it was?
    fn look(&mut self) {
        let now = self.parts.clock.timestamp();
        let (seen, names) = ([modified(&self.certificate), modified(&self.key)], (self.parts.names)());
        let due = self.in_use.is_managed() && self.in_use.renew_at() <= now;
        let ca = self.parts.signers.load();
        if !due && Arc::ptr_eq(&ca, &self.ca) && seen == self.seen && names == self.names {
            return;
        }
        match self.take(&ca, &names, now) {
            Ok(()) => {
                self.ca = ca;
                // Not what was seen before: our own writing is not news.
                self.seen = [modified(&self.certificate), modified(&self.key)];
                self.names = names;
                self.told = None;
            }
            Err(why) => {
                let text = why.to_string();
                if self.told.as_ref() != Some(&text) {
                    tracing::error!("the server certificate in use stays, until {}: {text}", self.in_use.not_after());
                    self.told = Some(text);
                }
            }
        }
        self.measure();
    }

    /// Reads the files, or makes a new certificate where it is ours and due; shows it when it is another one.
    fn take(&mut self, ca: &CertificateAuthority, names: &[ServerName], now: Timestamp) -> Result<(), StartError> {
        let found = ca.server_certificate(&self.certificate, &self.key, names, now)?;
        if found.chain() == self.in_use.chain() {
            return Ok(());
        }
        self.shown
            .replace(found.chain(), found.key_der())
            .map_err(|source| StartError::Tls { listener: "all with TLS".to_owned(), source })?;
        self.in_use = found;
        let origin = self.in_use.origin();
        tracing::info!(?origin, until = %self.in_use.not_after(), "another server certificate is shown from now on");
        // It is in use already: what the log cannot be told now is told by the file and by the program's own log.
        if let Err(error) = self.record() {
            tracing::error!(%error, "the audit log does not say that there is another server certificate");
        }
        Ok(())
    }

    fn record(&self) -> Result<(), DirectoryError> {
        let event = Event::ServerCertificate {
            origin: match self.in_use.origin() {
                Origin::Created => "created",
                Origin::Renewed => "renewed",
                Origin::Loaded => "replaced",
            }
            .into(),
            fingerprint: Word::name(&self.in_use.fingerprint()),
            not_after: self.in_use.not_after(),
        };
        self.parts.directory.record(event.into(), &Actor::System)
    }

    fn measure(&self) {
        self.parts.metrics.server_certificate_not_after.set(self.in_use.not_after().as_second());
    }
}

/// `None`: there is no such file now.
fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::ManualClock;
    use crate::store::MemoryStore;

    fn plain() -> Vec<ServerName> {
        vec![ServerName::Dns("localhost".to_owned())]
    }

    struct House {
        home: tempfile::TempDir,
        clock: ManualClock,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        ca: Arc<CertificateAuthority>,
    }

    impl House {
        fn new() -> Self {
            let clock = ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap());
            let directory = Directory::open(Arc::new(MemoryStore::new()), Arc::new(clock.clone())).unwrap();
            Self {
                home: tempfile::tempdir().unwrap(),
                ca: Arc::new(CertificateAuthority::generate(clock.timestamp()).unwrap()),
                directory: Arc::new(directory),
                metrics: Arc::new(Metrics::new()),
                clock,
            }
        }

        fn keeper(&self, names: fn() -> Vec<ServerName>) -> Result<ServerCertificateKeeper, StartError> {
            let parts = Parts {
                signers: Arc::new(Signers::new(Arc::clone(&self.ca))),
                directory: Arc::clone(&self.directory),
                clock: Arc::new(self.clock.clone()),
                metrics: Arc::clone(&self.metrics),
                names,
            };
            ServerCertificateKeeper::open(&Config::new(self.home.path()), parts)
        }

        fn records(&self) -> u64 {
            use crate::audit::Append as _;
            self.directory.chain().tip().sequence
        }
    }

    fn days(days: u64) -> Duration {
        Duration::from_hours(days * 24)
    }

    #[test]
    fn ours_is_renewed_by_the_clock_with_files_metric_and_record() {
        let house = House::new();
        let mut keeper = house.keeper(plain).unwrap();
        let (first, end) = (keeper.in_use.fingerprint(), keeper.in_use.not_after());
        assert_eq!(house.metrics.server_certificate_not_after.get(), end.as_second());
        assert_eq!(house.records(), 1);
        house.clock.advance(days(240));
        keeper.look();
        assert_eq!(keeper.in_use.fingerprint(), first, "not before two thirds");
        house.clock.advance(days(4));
        keeper.look();
        assert_ne!(keeper.in_use.fingerprint(), first);
        assert_eq!(keeper.shown.leaf(), keeper.in_use.chain()[0], "what is shown is what is in the file");
        assert!(house.metrics.server_certificate_not_after.get() > end.as_second());
        assert_eq!(house.records(), 2);
        let renewed = keeper.in_use.fingerprint();
        keeper.look();
        drop(keeper);
        let again = house.keeper(plain).unwrap();
        assert_eq!(
            (again.in_use.fingerprint(), again.in_use.origin()),
            (renewed, Origin::Loaded),
            "after a restart too"
        );
        assert_eq!(house.records(), 2);
    }

    #[test]
    fn a_new_name_of_the_machine_is_on_a_new_certificate() {
        static MOVED: AtomicBool = AtomicBool::new(false);
        fn moving() -> Vec<ServerName> {
            let mut names = plain();
            if MOVED.load(Ordering::SeqCst) {
                names.push(ServerName::Address("192.0.2.7".parse().unwrap()));
            }
            names
        }
        let house = House::new();
        let mut keeper = house.keeper(moving).unwrap();
        let first = keeper.in_use.fingerprint();
        MOVED.store(true, Ordering::SeqCst);
        keeper.look();
        assert_eq!(keeper.in_use.names(), moving());
        assert_ne!(keeper.in_use.fingerprint(), first);
        let second = keeper.in_use.fingerprint();
        MOVED.store(false, Ordering::SeqCst);
        keeper.look();
        assert_eq!(keeper.in_use.fingerprint(), second, "a name that is gone does no harm");
    }

    #[test]
    fn an_operators_files_are_taken_over_when_they_fit_and_never_touched() {
        let house = House::new();
        let mut keeper = house.keeper(plain).unwrap();
        let (certificate, key) = (keeper.certificate.clone(), keeper.key.clone());
        let first = keeper.in_use.fingerprint();
        let own = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["broker.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 12, 1);
        let pem = params.self_signed(&own).unwrap().pem();

        // Half of it is there.
        fs::write(&certificate, &pem).unwrap();
        keeper.seen = [None, None];
        keeper.look();
        assert_eq!(keeper.in_use.fingerprint(), first);
        assert!(keeper.told.as_ref().is_some_and(|told| told.contains("does not fit the key")), "{:?}", keeper.told);
        fs::write(&key, own.serialize_pem()).unwrap();
        keeper.look();
        assert!(!keeper.in_use.is_managed());
        assert_eq!(keeper.shown.leaf(), keeper.in_use.chain()[0]);
        assert_eq!(keeper.told, None);
        // Past two thirds of its life, and past its end.
        for _ in 0..2 {
            house.clock.advance(days(240));
            keeper.seen = [None, None];
            keeper.look();
            assert_eq!(fs::read_to_string(&certificate).unwrap(), pem);
        }
        assert!(keeper.told.as_ref().is_some_and(|told| told.contains("not now")), "{:?}", keeper.told);
    }
}

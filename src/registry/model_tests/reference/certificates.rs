//! Certificates: issued, collected, renewed, retired, revoked.
//!
//! Entering: deeds about certificates. Leaving: what is to be answered, and users with other certificates.

use super::{Expect, GRACE, Model, Request, Revoked, State, Time, User, VALIDITY};

/// A certificate that is revoked stays on record for a day after its end, so that it is in one CRL more.
const ON_RECORD: Time = 86_400;
/// It is dated back.
const BACKDATED: Time = 300;
/// Certificates issued at once, and the time for one more.
const ISSUES: (Time, Time) = (4, VALIDITY / 180);

#[derive(Clone, Debug)]
pub(in super::super) struct Certificate {
    pub(super) number: usize,
    pub(super) key: usize,
    from: Time,
    pub(super) until: Time,
    pub(super) revoked: Revoked,
    /// The one that it renews, until it has connected.
    pub(super) replaces: Option<usize>,
    /// Does the device have it?
    pub(super) collected: bool,
}

impl Certificate {
    /// When it goes off the record.
    pub(super) fn goes_at(&self) -> Time {
        self.until + if self.revoked == Revoked::No { GRACE.max(ON_RECORD) } else { ON_RECORD }
    }

    fn retire(&mut self) {
        self.replaces = None;
        if self.revoked == Revoked::No {
            self.revoked = Revoked::Superseded;
        }
    }
}

impl User {
    /// The proofs of a request instead of its own: its certificates are revoked in the same moment.
    pub(super) fn replace_proofs(&mut self, request: &Request, certificate: Option<Certificate>, now: Time) {
        self.certificates.retain(|it| now < it.goes_at());
        for old in &mut self.certificates {
            old.replaces = None;
            if old.revoked == Revoked::No {
                old.revoked = Revoked::ForGood;
            }
        }
        self.certificates.extend(certificate);
        (self.proof, self.renewed) = (request.proof, None);
    }
}

impl Model {
    /// The certificate that is meant, by its place among those of the user.
    pub(super) fn chosen(&self, name: usize, certificate: usize) -> Option<&Certificate> {
        let certificates = &self.user_named(name)?.certificates;
        certificates.get(certificate.checked_rem(certificates.len())?)
    }

    pub(super) fn certificate(&self, number: usize) -> Option<&Certificate> {
        self.users.iter().flat_map(|user| &user.certificates).find(|it| it.number == number)
    }

    pub(super) fn certificate_mut(&mut self, number: usize) -> Option<&mut Certificate> {
        self.users.iter_mut().flat_map(|user| &mut user.certificates).find(|it| it.number == number)
    }

    /// The device has what it is answered.
    pub(super) fn collect(&mut self, expect: &Expect) {
        if let Expect::Granted(Some(number)) = expect
            && let Some(certificate) = self.certificate_mut(*number)
        {
            certificate.collected = true;
        }
    }

    pub(super) fn certify(&mut self, key: usize, replaces: Option<usize>) -> Certificate {
        let number = self.issued;
        self.issued += 1;
        Certificate {
            number,
            key,
            // Before the start there is nothing to be told apart.
            from: self.now,
            until: self.now + VALIDITY,
            revoked: Revoked::No,
            replaces,
            collected: false,
        }
    }

    /// What is collected with the proof of a request that became a user.
    pub(super) fn standing(&self, user: usize, certificate: Option<usize>) -> Expect {
        let Some(user) = self.user(user) else { return Expect::Nothing };
        let mut faults = Vec::new();
        if !user.enabled {
            faults.push((403, "disabled"));
        }
        if user.is_over(self.now) {
            faults.push((403, "expired"));
        }
        if let Some(number) = certificate {
            match user.certificates.iter().find(|it| it.number == number) {
                None => faults.push((403, "revoked")),
                Some(it) => {
                    match it.revoked {
                        Revoked::No => {}
                        Revoked::Superseded => faults.push((409, "superseded")),
                        Revoked::ForGood => faults.push((403, "revoked")),
                    }
                    if it.until <= self.now {
                        faults.push((409, "certificate_expired"));
                    }
                }
            }
        }
        if faults.is_empty() { Expect::Granted(certificate) } else { Expect::Refused(faults) }
    }

    /// `lapsed`: not in a session, but by a signature of the old key over this nonce of this connection.
    pub(super) fn renew(
        &mut self,
        name: usize,
        old: Option<usize>,
        key: usize,
        lapsed: Option<(usize, usize)>,
    ) -> Expect {
        let now = self.now;
        let Some(user) = self.user_named(name).cloned() else {
            return Expect::Refused(vec![(401, "not_authenticated")]);
        };
        let mut faults = Vec::new();
        if let Some((from, nonce)) = lapsed {
            // The nonce is a part of what is signed.
            faults.extend(self.nonce_faults(Some(nonce).filter(|it| *it < self.nonces.len()), from));
        }
        if !user.enabled {
            faults.push((403, "disabled"));
        }
        if user.is_over(now) {
            faults.push((403, "expired"));
        }
        if user.proof.key.is_none() {
            faults.push((403, "not_admitted"));
        }
        let old = old.and_then(|number| user.certificates.iter().find(|it| it.number == number));
        match old {
            None => faults.push((403, "no_certificate")),
            Some(old) => {
                match old.revoked {
                    Revoked::No => {}
                    Revoked::Superseded => faults.push((403, "superseded")),
                    Revoked::ForGood => faults.push((403, "revoked")),
                }
                if now <= old.until && lapsed.is_some() {
                    faults.push((409, "still_valid"));
                }
                if old.until < now && old.until + GRACE <= now {
                    faults.push((403, "grace_over"));
                }
            }
        }
        let (Some(old), true) = (old, faults.is_empty()) else { return Expect::Refused(faults) };
        // A lost answer: the very same CSR.
        if let Some((number, csr)) = user.renewed
            && csr == key
            && let Some(it) = user.certificates.iter().find(|it| it.number == number)
            && it.revoked == Revoked::No
            && now + BACKDATED < it.from + (VALIDITY + BACKDATED) / 3 * 2
        {
            self.spend_nonce(lapsed.map(|(_, nonce)| nonce));
            return Expect::Granted(Some(number));
        }
        let others = self.users.iter().filter(|it| it.name != name).flat_map(|it| &it.certificates);
        let asked = |it: &Request| {
            it.name != name
                && it.proof.key == Some(key)
                && !matches!(it.state, State::Denied { .. })
                && !self.is_gone(it)
        };
        if others.clone().any(|it| it.key == key) || self.requests.iter().any(asked) {
            faults.push((409, "key_in_use"));
        }
        if user.certificates.iter().any(|it| it.key == key && it.revoked == Revoked::ForGood) {
            faults.push((409, "key_revoked"));
        }
        if !faults.is_empty() {
            return Expect::Refused(faults);
        }
        // Issued at a bounded rate, whatever becomes of it.
        let old = old.number;
        let full = user.issues_full.max(now);
        if full - now + ISSUES.1 > ISSUES.0 * ISSUES.1 {
            return Expect::Refused(vec![(429, "rate")]);
        }
        let new = self.certify(key, Some(old));
        let number = new.number;
        if let Some(user) = self.users.iter_mut().find(|it| it.name == name) {
            user.issues_full = full + ISSUES.1;
            user.certificates.retain(|it| now < it.goes_at());
            for unused in user.certificates.iter_mut().filter(|it| it.replaces.is_some() && it.number != old) {
                unused.retire();
            }
            user.certificates.push(new);
            user.renewed = Some((number, key));
        }
        self.spend_nonce(lapsed.map(|(_, nonce)| nonce));
        self.wrote = true;
        Expect::Granted(Some(number))
    }

    /// Now the one that it renews is retired, with what that one renews in its turn.
    pub(super) fn connect(&mut self, name: usize, certificate: usize) {
        let Some(number) = self.chosen(name, certificate).map(|it| it.number) else { return };
        let Some(it) = self.certificate_mut(number).filter(|it| it.revoked == Revoked::No) else { return };
        let mut next = it.replaces.take();
        while let Some(number) = next {
            let Some(old) = self.certificate_mut(number) else { break };
            next = old.replaces;
            old.retire();
        }
    }
}

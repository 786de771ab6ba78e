//! What is seen of the broker, in the words of the reference.
//!
//! Entering: the broker after a deed, and what the reference says of it. Leaving: a [`Picture`], what was pushed, whether an answer is one of the
//! right ones; the numbers that the reference gives to what is new.

use serde_json::json;

use super::broker::{Broker, end, name, number, pool, roles, start};
use super::reference::{DoorSeen, Expect, Identity, Model, Picture, RequestSeen, Revoked, Terms, UserSeen};
use super::*;
use crate::access::{RevocationReason, RoleName};
use crate::audit;
use crate::registry::{Knock, RegistryError, TokenId};

#[derive(Debug)]
pub(super) enum Said {
    Answer(Box<Answer>),
    /// Of an operator: 200, or the kind of refusal.
    Order(u16),
    Knock(Knock, (usize, usize)),
    Nothing,
}

impl Said {
    pub(super) fn of<T>(done: Result<T, RegistryError>) -> Self {
        Self::Order(done.map_or_else(
            |error| match error.kind() {
                RegistryErrorKind::Forbidden => 403,
                RegistryErrorKind::NotFound => 404,
                RegistryErrorKind::Conflict => 409,
                RegistryErrorKind::Invalid => 422,
                RegistryErrorKind::Internal => 500,
            },
            |_| 200,
        ))
    }
}

/// Which terms these are; there are no others.
fn terms(given: &[RoleName], expires_at: Option<Timestamp>) -> Terms {
    [Terms::Nothing, Terms::Sensor, Terms::SensorForAWhile]
        .into_iter()
        .find(|it| roles(*it) == given && end(*it) == expires_at)
        .expect("what was decided, not what was asked for")
}

impl Broker {
    fn identity(&self, who: &audit::Who) -> Identity {
        let audit::Who::User { id, .. } = who else { return Identity::Machine };
        let person = self.people.iter().find(|it| it.1 == *id).expect("nobody else decides").0;
        let generation = self.people.iter().filter(|it| it.0 == person).position(|it| it.1 == *id).unwrap() + 1;
        Identity::Person(person, generation)
    }

    /// All that an operator may see, in the words of the reference.
    pub(super) async fn picture(&self) -> Picture {
        let policy = self.directory.policy();
        let key = |fingerprint: &Option<String>| {
            fingerprint.as_ref().map(|it| pool().fingerprints.iter().position(|other| other == it).unwrap())
        };
        let waits_for_nobody =
            |it: &RequestView| it.state == State::Pending && it.replaces.is_some_and(|id| policy.user(id).is_none());
        let listed = self.registry.list(None).await.unwrap();
        let of_nobody = listed.iter().filter(|it| waits_for_nobody(it)).count();
        let token = |id: TokenId| self.tokens.iter().find(|(_, token)| token.0 == id).map(|(number, _)| *number);
        let mut requests: Vec<_> = listed
            .iter()
            .filter(|it| !waits_for_nobody(it))
            .map(|it| RequestSeen {
                name: number(&it.username).unwrap(),
                key: key(&it.key_fingerprint),
                password: matches!(it.auth, Auth::Password | Auth::Both),
                state: it.state.as_str(),
                replaces: it.replaces.is_some(),
                token: it.token.map(|id| token(id).expect("a token that is known")),
                rule: it.rule.clone(),
                approved: it
                    .approved
                    .as_ref()
                    .map(|it| (self.identity(&it.who), terms(&it.grant.roles, it.grant.expires_at))),
            })
            .collect();
        requests.sort_unstable();
        let seconds = |at: Timestamp| u64::try_from(at.duration_since(start()).as_secs()).unwrap();
        let mut users: Vec<_> = policy
            .users()
            .filter_map(|user| {
                let mut certificates: Vec<_> = user
                    .certificates
                    .iter()
                    .map(|it| {
                        let revoked = match (it.revoked_at, it.reason) {
                            (None, _) => Revoked::No,
                            (_, Some(RevocationReason::Superseded)) => Revoked::Superseded,
                            _ => Revoked::ForGood,
                        };
                        (key(&it.key).unwrap(), seconds(it.not_after), revoked)
                    })
                    .collect();
                certificates.sort_unstable();
                let name = number(&user.username)?;
                assert!(user.permissions.is_empty());
                let terms = terms(&user.roles, user.expires_at);
                Some(UserSeen {
                    name,
                    enabled: user.enabled,
                    password: user.password_hash.is_some(),
                    terms,
                    certificates,
                })
            })
            .collect();
        users.sort_unstable();
        let open = self.registry.replacements().await.unwrap();
        let open = open.iter().filter(|it| policy.user(it.user).is_some());
        let mut open: Vec<_> = open.map(|it| number(&it.username).unwrap()).collect();
        open.sort_unstable();
        let tokens = self.registry.tokens().await.unwrap();
        let mut tokens: Vec<_> = tokens.iter().map(|it| (token(it.id).unwrap(), it.used)).collect();
        tokens.sort_unstable();
        let status = self.registry.status().await.unwrap();
        let door = match status.remaining {
            _ if status.locked => DoorSeen::Locked,
            None => DoorSeen::Open,
            Some(left) => DoorSeen::Counted(left),
        };
        Picture { requests, users, open, pending: status.pending - of_nobody, tokens, door }
    }

    /// Takes note of a new request and a new token; nothing but what the reference says may be new.
    pub(super) async fn learn(&mut self, model: &Model) {
        let known: Vec<_> = self.ids.values().copied().collect();
        let listed = self.registry.list(None).await.unwrap();
        let mut new = listed.iter().filter(|it| !known.contains(&it.id));
        for request in &model.requests {
            self.ids.entry(request.number).or_insert_with(|| {
                let view = new.next().expect("the request is listed");
                assert_eq!(view.username, name(request.name));
                view.id
            });
        }
        assert!(new.next().is_none(), "a request that nobody made");
        let known: Vec<_> = self.tokens.values().map(|(id, _)| *id).collect();
        let tokens = self.registry.tokens().await.unwrap();
        if let Some(token) = tokens.iter().find(|it| !known.contains(&it.id)) {
            let made = self.tokens.insert(model.tokens_made - 1, (token.id, self.told.take()));
            assert!(made.is_none(), "a token that nobody made");
        }
    }

    /// What was pushed since the last time: connection and status, in no order.
    pub(super) fn pushed(&mut self) -> Vec<(usize, u16)> {
        let mut pushed = Vec::new();
        for (from, inbox) in self.inboxes.iter().enumerate() {
            for (answer, _) in std::mem::take(&mut *inbox.0.lock()) {
                assert_eq!(answer.id, Some(json!(from)));
                pushed.push((from, answer.status));
                if let (Some(serial), Some(pem)) = (answer.serial, answer.certificate) {
                    self.pems.insert(serial, pem);
                }
            }
        }
        pushed.sort_unstable();
        pushed
    }

    /// Is that one of the right answers? If it is, it is taken note of.
    pub(super) fn compare(&mut self, said: &Said, expect: &Expect) -> Result<(), String> {
        let fits = match (said, expect) {
            (Said::Answer(answer), Expect::Pending) => answer.status == 202 && answer.pairing_code.is_some(),
            (Said::Answer(answer), Expect::Granted(None)) => answer.status == 201 && answer.certificate.is_none(),
            (Said::Answer(answer), Expect::Granted(Some(number))) => {
                let got = (answer.serial.clone().unwrap_or_default(), answer.certificate.clone().unwrap_or_default());
                let first = self.collected.entry(*number).or_insert_with(|| got.clone());
                self.pems.insert(got.0.clone(), got.1.clone());
                // The same certificate, however often and whenever it is asked for.
                answer.status == 201 && !got.1.is_empty() && *first == got
            }
            (Said::Answer(answer), Expect::Refused(faults)) => {
                let state = match answer.status {
                    403 => "denied",
                    409 => "conflict",
                    423 => "locked",
                    _ => "refused",
                };
                answer.state == state
                    && answer.certificate.is_none()
                    && faults.iter().any(|fault| (answer.status, answer.error) == (fault.0, Some(fault.1)))
            }
            (Said::Answer(answer), Expect::Failed) => answer.status == 500,
            (Said::Order(status), Expect::Done) => *status == 200,
            (Said::Order(status), Expect::Not(expected)) => status == expected,
            (Said::Order(status), Expect::Failed) => *status == 500,
            (Said::Nothing, Expect::Nothing)
            | (Said::Knock(Knock::Shut, _), Expect::Shut)
            | (Said::Knock(Knock::Waiting(_), _), Expect::Waiting { named: true })
            | (Said::Knock(Knock::Denied(_), _), Expect::TurnedDown) => true,
            (Said::Knock(Knock::Waiting(code), of), Expect::Waiting { named: false }) => {
                // The same code for the same name and password, and another one for each other.
                *self.codes.entry(*of).or_insert(*code) == *code
                    && self.codes.iter().all(|(other, known)| (other == of) == (known == code))
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("expected {expect:?}, got {said:?}")) }
    }
}

//! The broker that is held against the reference: with directory, CA and disk, argon2 played.
//!
//! Entering: deeds. Leaving: what was answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::OnceLock;

use rcgen::SigningKey as _;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio::runtime::Runtime;

use super::reference::{
    self, Deed, ED25519, ENDS, Knocking, Model, RULES, Registration, Rights, Shown, Terms, Who, rule_name,
};
use super::seen::Said;
use super::*;
use crate::access::{CertificateRecord, RevocationReason, Username, UsernamePattern};
use crate::config::{KeyAlgorithm, RegistryRule, RuleAction, RuleGrant};
use crate::registry::{ReplaceTerms, TokenId, TokenTerms};
use crate::store::MemoryStore;

/// Made once: generating keys takes most of the time otherwise.
pub(super) struct Pool {
    pub(super) runtime: Runtime,
    ca: Arc<CertificateAuthority>,
    keys: Vec<rcgen::KeyPair>,
    /// Fingerprints of the keys.
    pub(super) fingerprints: Vec<String>,
    /// One for each name and key, without a nonce.
    csrs: Vec<Vec<String>>,
}

pub(super) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let ed25519 = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let keys: Vec<_> = (0..KEYS).map(|key| if key < ED25519 { new_key() } else { ed25519() }).collect();
        let csrs: Vec<Vec<_>> = NAMES.iter().map(|name| keys.iter().map(|key| csr(name, key, &[])).collect()).collect();
        let of = |csr: &String| VerifiedCsr::from_pem(csr.as_bytes()).unwrap().key().fingerprint();
        Pool {
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap(),
            ca: Arc::new(CertificateAuthority::generate(start()).unwrap()),
            fingerprints: csrs[0].iter().map(of).collect(),
            keys,
            csrs,
        }
    })
}

pub(super) fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(super) fn at(time: reference::Time) -> Timestamp {
    start().checked_add(Duration::from_secs(time)).unwrap()
}

pub(super) fn name(number: usize) -> Username {
    NAMES[number].parse().unwrap()
}

/// The number of a name, where it is one of the devices.
pub(super) fn number(name: &Username) -> Option<usize> {
    NAMES.iter().position(|it| *it == name.as_str())
}

fn address(from: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(from).unwrap()])
}

fn networks(from: Option<usize>) -> Vec<crate::access::Network> {
    from.map(|from| address(from).to_string().parse().unwrap()).into_iter().collect()
}

fn pattern(name: Option<usize>) -> Option<UsernamePattern> {
    name.map(|name| NAMES[name].to_owned().try_into().unwrap())
}

pub(super) fn roles(terms: Terms) -> Vec<crate::access::RoleName> {
    if terms == Terms::Nothing { Vec::new() } else { Stage::terms().roles }
}

pub(super) fn end(terms: Terms) -> Option<Timestamp> {
    (terms == Terms::SensorForAWhile).then(|| at(ENDS))
}

fn rules(of: usize) -> Vec<RegistryRule> {
    let rule = |(at, rule): (usize, &reference::Rule)| RegistryRule {
        name: rule_name(of, at),
        source: networks(rule.from),
        listener: rule.listener.map(|listener| LISTENERS[listener].to_owned()),
        key: rule.ed25519.then_some(KeyAlgorithm::Ed25519).into_iter().collect(),
        username: pattern(rule.name),
        action: rule.grants.map_or(RuleAction::Deny { reason: "no".into() }, |grants| {
            RuleAction::Grant(RuleGrant {
                roles: roles(grants.terms),
                permissions: Vec::new(),
                publish_prefix: None,
                validity: None,
                while_locked: grants.while_locked,
                limit: grants.limit,
            })
        }),
    };
    RULES[of].iter().enumerate().map(rule).collect()
}

fn permissions(rights: Rights) -> Vec<Permission> {
    let routes =
        [(rights.tokens, "/api/client-registry/tokens/#"), (rights.requests, "/api/client-registry/requests/#")];
    let routes = routes.into_iter().filter(|(may, _)| *may);
    let routes = routes.map(|(_, route)| Permission::allow(Context::Http, Operation::Write, route));
    let plant = rights.holds.then(|| Permission::allow(Context::Mqtt, Operation::ReadWrite, "plant/#"));
    routes.chain(plant).collect()
}

#[derive(Clone)]
pub(super) enum Disk {
    Memory(Arc<MemoryStore>),
    Faulty(Arc<FaultyStore>),
}

/// The broker, and what the world outside remembers of it. Clones are one.
#[derive(Clone)]
pub(super) struct Broker {
    pub(super) disk: Disk,
    clock: ManualClock,
    settings: Settings,
    argon2: Arc<Argon2>,
    pub(super) registry: Registry,
    pub(super) directory: Arc<Directory>,
    pub(super) inboxes: Vec<Arc<Inbox>>,
    nonces: Vec<String>,
    /// Ids of requests, by their number in the reference.
    pub(super) ids: HashMap<usize, RequestId>,
    /// Tokens, by their number in the reference: with their secrets, where anybody was told.
    pub(super) tokens: HashMap<usize, (TokenId, Option<String>)>,
    pub(super) told: Option<String>,
    /// Everybody who ever was one of the people.
    pub(super) people: Vec<(usize, UserId)>,
    /// The codes of door 2, by name and password.
    pub(super) codes: HashMap<(usize, usize), PairingCode>,
    /// Certificates as devices have got them, by their number in the reference.
    pub(super) collected: HashMap<usize, (String, String)>,
    /// Certificates by serial number.
    pub(super) pems: HashMap<String, String>,
}

impl Broker {
    pub(super) fn new(model: &Model) -> Self {
        let seconds = Duration::from_secs;
        let world = model.world;
        let mut settings = Settings {
            unlock_for: seconds(reference::UNLOCK_FOR),
            pending_ttl: seconds(reference::PENDING_TTL),
            max_pending: reference::MAX_PENDING,
            max_pending_per_source: reference::MAX_PER_SOURCE,
            denied_for: seconds(reference::DENIED_FOR),
            validity: seconds(reference::VALIDITY),
            renew_grace: seconds(reference::GRACE),
            require_nonce: world.require_nonce,
            approvals: if world.two_people { 2 } else { 1 },
            rules: Vec::new(),
            listeners: Vec::new(),
            rate: RateLimit { burst: 100_000, every: Duration::from_micros(1) },
        };
        let disk = if world.faulty {
            Disk::Faulty(Arc::new(FaultyStore::new()))
        } else {
            Disk::Memory(Arc::new(MemoryStore::new()))
        };
        let (clock, argon2) = (ManualClock::new(start()), Arc::new(Argon2::default()));
        let open = |settings: &Settings| super::super::open(Self::store(&disk), &pool().ca, &argon2, &clock, settings);
        // The rules name a role that must be there.
        let (_, directory) = open(&settings);
        directory.put_role(sensor(), Expected::Absent, &Actor::System).unwrap();
        drop(directory);
        settings.rules = rules(world.rules);
        let (registry, directory) = open(&settings);
        Self {
            disk,
            clock,
            settings,
            argon2,
            registry,
            directory,
            inboxes: (0..SOURCES).map(|_| Arc::new(Inbox::default())).collect(),
            nonces: Vec::new(),
            ids: HashMap::new(),
            tokens: HashMap::new(),
            told: None,
            people: Vec::new(),
            codes: HashMap::new(),
            collected: HashMap::new(),
            pems: HashMap::new(),
        }
    }

    fn store(disk: &Disk) -> Arc<dyn Store> {
        match disk {
            Disk::Memory(store) => Arc::clone(store) as _,
            Disk::Faulty(store) => Arc::clone(store) as _,
        }
    }

    pub(super) fn restart(&mut self, survivors: usize) {
        if let Disk::Faulty(store) = &mut self.disk {
            *store = Arc::new(store.crash(survivors));
        }
        (self.registry, self.directory) =
            super::super::open(Self::store(&self.disk), &pool().ca, &self.argon2, &self.clock, &self.settings);
    }

    fn origin(&self, from: usize, listens: bool) -> Origin {
        Origin {
            source: address(from),
            binding: Binding::Connection(from as u64),
            ..origin(Some(&self.inboxes[from]).filter(|_| listens))
        }
    }

    fn csr_with(&self, name: usize, key: usize, nonce: Option<usize>) -> String {
        let Some(nonce) = nonce.and_then(|nonce| self.nonces.get(nonce)) else {
            return pool().csrs[name][key].clone();
        };
        csr(NAMES[name], &pool().keys[key], &[nonce])
    }

    fn user(&self, number: usize) -> Option<Arc<User>> {
        self.directory.policy().user_named(&name(number)).cloned()
    }

    /// The certificate that the reference means, by its place among those of the user.
    fn certificate(&self, number: usize, place: usize) -> Option<(Arc<User>, CertificateRecord)> {
        let user = self.user(number)?;
        let place = place.checked_rem(user.certificates.len())?;
        let certificate = user.certificates[place].clone();
        Some((user, certificate))
    }

    /// This one of the people, or the last one of that name.
    fn actor(&self, who: Who) -> Actor {
        match who {
            Who::Program => Actor::System,
            Who::Socket(uid) => Actor::Local { uid },
            Who::Person(person) => {
                let id = self.people.iter().rev().find(|it| it.0 == person).map_or(UserId(Uuid::nil()), |it| it.1);
                Actor::User { id, username: Self::person(person), from: None, right: None }
            }
        }
    }

    fn person(person: usize) -> Username {
        ["ada", "bob"][person].parse().unwrap()
    }

    /// Does what is asked. The answer of a device's operation, or what became of an operator's order.
    pub(super) async fn run(&mut self, deed: Deed) -> Said {
        match deed {
            Deed::Register(it) => self.register(it).await,
            Deed::Knock(it) => {
                let Knocking { name: asked, password, from, listener, told } = it;
                let door = if told { Door::Implicit } else { Door::ImplicitWithoutCode };
                let origin = Origin { door, listener: LISTENERS[listener].into(), ..self.origin(from, false) };
                let knock = self.registry.knock(&name(asked), PASSWORDS[password].as_bytes(), &origin).await;
                Said::Knock(knock, (asked, password))
            }
            Deed::Grant { request, who, terms, unpaired } => {
                let terms = GrantTerms {
                    roles: roles(terms),
                    expires_at: end(terms),
                    unpaired,
                    // Each one's own.
                    comment: Some(format!("{who:?}")),
                    ..GrantTerms::default()
                };
                Said::of(self.registry.grant(self.id(request), terms, self.actor(who)).await)
            }
            Deed::Deny { request, who } => {
                Said::of(self.registry.deny(self.id(request), "no".into(), self.actor(who)).await)
            }
            Deed::Unlock { count, name, from, listener, implicit } => {
                let terms = UnlockTerms {
                    source: networks(from),
                    username: pattern(name),
                    count,
                    listener: listener.map(|listener| LISTENERS[listener].to_owned()),
                    implicit,
                    ..UnlockTerms::default()
                };
                Said::of(self.registry.unlock(terms, Actor::System).await)
            }
            Deed::Lock => Said::of(self.registry.lock(Actor::System).await),
            Deed::CreateToken { who, uses, lasts, name, from, terms } => {
                let terms = TokenTerms {
                    duration: Some(lasts),
                    uses: Some(uses),
                    username: pattern(name),
                    source: networks(from),
                    roles: roles(terms),
                    expires_at: end(terms),
                    ..TokenTerms::default()
                };
                let made = self.registry.create_token(terms, self.actor(who)).await;
                self.told = made.as_ref().ok().map(|(secret, _)| secret.expose_secret().to_owned());
                Said::of(made)
            }
            Deed::RevokeToken { token, who } => {
                let id = self.tokens.get(&token).map_or(TokenId(Uuid::nil()), |(id, _)| *id);
                Said::of(self.registry.revoke_token(id, self.actor(who)).await)
            }
            Deed::Person { person, rights } => self.set_person(person, rights),
            Deed::Open(number) => {
                let terms = ReplaceTerms { duration: Some(reference::OPEN_FOR), ..ReplaceTerms::default() };
                Said::of(self.registry.replace(name(number), terms, Actor::System).await)
            }
            Deed::Cancel(number) => Said::of(self.registry.cancel_replacement(name(number), Actor::System).await),
            Deed::Renew { name, certificate, key } => {
                let certificate = self.certificate(name, certificate);
                let user = self.user(name).map_or(UserId(Uuid::now_v7()), |user| user.id);
                let caller = Caller { user, certificate: certificate.map(|(_, it)| (it.serial, it.not_after)) };
                let message = json!({"csr": pool().csrs[name][key]}).to_string();
                let origin = self.origin(0, false);
                Said::Answer(Box::new(self.registry.renew(message.as_bytes(), None, Some(&caller), &origin).await))
            }
            Deed::RenewLapsed { name, certificate, key, from, nonce } => {
                let old = self.certificate(name, certificate).map(|(_, it)| it);
                let Some((old, pem)) = old.and_then(|it| self.pems.get(&it.serial).map(|pem| (it, pem))) else {
                    return Said::Nothing;
                };
                let signer = pool().fingerprints.iter().position(|it| Some(it) == old.key.as_ref()).unwrap();
                let csr = &pool().csrs[name][key];
                let nonce = self.nonces.get(nonce);
                let mut bytes = b"portcullis-renew-v1".to_vec();
                bytes.extend_from_slice(nonce.map_or(b"", |nonce| nonce.as_bytes()));
                bytes.extend_from_slice(VerifiedCsr::from_pem(csr.as_bytes()).unwrap().digest());
                let signature = crate::pki::pem("X", &pool().keys[signer].sign(&bytes).unwrap());
                let signature: String = signature.lines().filter(|line| !line.starts_with('-')).collect();
                let message = json!({"csr": csr, "certificate": pem, "signature": signature, "nonce": nonce});
                let origin = self.origin(from, false);
                Said::Answer(Box::new(self.registry.renew(message.to_string().as_bytes(), None, None, &origin).await))
            }
            Deed::Connect { name, certificate } => {
                if let Some((user, it)) = self.certificate(name, certificate) {
                    self.registry.confirm(user.id, it.serial).await.unwrap();
                }
                Said::Nothing
            }
            Deed::Revoke { name, certificate } => {
                if let Some((user, it)) = self.certificate(name, certificate).filter(|(_, it)| it.revoked_at.is_none())
                {
                    let now = self.clock.timestamp();
                    self.edit(user.id, move |user| {
                        let of = user.certificates.iter_mut().find(|other| other.serial == it.serial).unwrap();
                        (of.revoked_at, of.reason) = (Some(now), Some(RevocationReason::KeyCompromise));
                    });
                }
                Said::Nothing
            }
            Deed::Enable { name, enabled } => {
                if let Some(user) = self.user(name) {
                    self.edit(user.id, move |user| user.enabled = enabled);
                }
                Said::Nothing
            }
            Deed::Delete(name) => {
                if let Some(user) = self.user(name) {
                    self.directory.delete_user(user.id, Expected::Any, &Actor::System).unwrap();
                }
                Said::Nothing
            }
            Deed::TakeName(number) => {
                if self.user(number).is_none() {
                    self.directory.create_user(NewUser::named(name(number)), &Actor::System).unwrap();
                }
                Said::Nothing
            }
            Deed::Challenge(from) => {
                let answer = self.registry.challenge(b"", None, &self.origin(from, false));
                self.nonces.push(answer.nonce.unwrap());
                Said::Nothing
            }
            Deed::Advance(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.registry.tick().await.unwrap();
                Said::Nothing
            }
            Deed::Restart(of) => {
                self.settings.rules = rules(of);
                self.restart(0);
                Said::Nothing
            }
        }
    }

    async fn register(&self, it: Registration) -> Said {
        let Registration { name, proof, from, listener, nonce, token, listens, cbor } = it;
        let mut message = json!({"username": NAMES[name], "roles": ["admin"], "id": from});
        if let Some(key) = proof.key {
            message["csr"] = self.csr_with(name, key, nonce).into();
        }
        if let Some(password) = proof.password {
            message["password"] = PASSWORDS[password].into();
        }
        if let Some(Shown::Token(token) | Shown::Forged(token)) = token {
            // A secret that nobody was told is one that nobody can show.
            let secret = self.tokens.get(&token).and_then(|(_, secret)| secret.clone());
            let mut secret = secret.unwrap_or_else(|| "0".repeat(32));
            if matches!(it.token, Some(Shown::Forged(_))) {
                let last = secret.pop();
                secret.push(if last == Some('0') { '1' } else { '0' });
            }
            message["token"] = secret.into();
        }
        let format = if cbor { Format::Cbor } else { Format::Json };
        let mut origin = Origin { listener: LISTENERS[listener].into(), ..self.origin(from, listens) };
        if let Some((_, path)) = &mut origin.sink {
            path.format = format;
        }
        let payload = format.write(&message);
        Said::Answer(Box::new(self.registry.register(&payload, Some(format.media_type()), &origin).await))
    }

    fn set_person(&mut self, person: usize, rights: Option<Rights>) -> Said {
        let known = self.directory.policy().user_named(&Self::person(person)).map(|user| user.id);
        match (known, rights) {
            (None, None) => {}
            (Some(id), None) => {
                self.directory.delete_user(id, Expected::Any, &Actor::System).unwrap();
            }
            (Some(id), Some(rights)) => self.edit(id, move |user| {
                (user.enabled, user.permissions) = (rights.enabled, permissions(rights));
            }),
            (None, Some(rights)) => {
                let new = NewUser { permissions: permissions(rights), ..NewUser::named(Self::person(person)) };
                let user = self.directory.create_user(new, &Actor::System).unwrap();
                self.edit(user.id, move |user| user.enabled = rights.enabled);
                self.people.push((person, user.id));
            }
        }
        Said::Nothing
    }

    fn id(&self, number: usize) -> RequestId {
        self.ids.get(&number).copied().unwrap_or(RequestId(Uuid::nil()))
    }

    fn edit(&self, user: UserId, edit: impl FnOnce(&mut User) + Send + 'static) {
        self.directory.update_user(user, Expected::Any, edit, &Actor::System).unwrap();
    }
}

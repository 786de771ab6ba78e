//! Door 2: what is told, what is recorded, and that the one says nothing of the other.

use super::rules::{grant, rule};
use super::*;
use crate::access::Username;
use crate::config::{RegistryRule, RuleAction, RuleGrant};
use crate::registry::Knock;

const PASSWORD: &str = "correct horse";

fn at(door: Door) -> Origin {
    Origin { door, ..origin(None) }
}

impl Stage {
    async fn ajar(&self) {
        let terms = UnlockTerms { implicit: true, ..UnlockTerms::default() };
        self.registry.unlock(terms, Actor::System).await.unwrap();
    }

    async fn knock(&self, name: &str, password: &str) -> Knock {
        self.registry.knock(&name.parse().unwrap(), password.as_bytes(), &at(Door::Implicit)).await
    }

    async fn code(&self, name: &str, password: &str) -> PairingCode {
        match self.knock(name, password).await {
            Knock::Waiting(code) => code,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn user(&self, name: &str) -> UserId {
        let user = NewUser { password_hash: Some("their own$0".into()), ..NewUser::named(name.parse().unwrap()) };
        self.directory.create_user(user, &Actor::System).unwrap().id
    }

    async fn pending(&self) -> Vec<String> {
        let requests = self.registry.list(Some(StateFilter::Pending)).await.unwrap();
        requests.into_iter().map(|request| request.username.to_string()).collect()
    }

    fn work(&self) -> u64 {
        self.argon2.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_connect_is_a_request_while_the_door_is_open_for_it_and_not_otherwise() {
    let stage = Stage::new();
    assert_eq!(stage.knock("press-7", PASSWORD).await, Knock::Shut);
    stage.unlock().await;
    assert_eq!(stage.knock("press-7", PASSWORD).await, Knock::Shut, "not by an unlock that does not say so");
    let elsewhere = UnlockTerms { implicit: true, listener: Some("other".into()), ..UnlockTerms::default() };
    stage.registry.unlock(elsewhere, Actor::System).await.unwrap();
    assert_eq!(stage.knock("press-7", PASSWORD).await, Knock::Shut);
    assert_eq!((stage.pending().await.len(), stage.work()), (0, 0));

    stage.ajar().await;
    let code = stage.code("press-7", PASSWORD).await;
    assert_eq!(stage.code("press-7", PASSWORD).await, code, "a poll");
    let request = stage.registry.show(stage.only().await).await.unwrap();
    assert_eq!((request.username.as_str(), request.pairing_code, request.polls), ("press-7", code, 1));
    assert_eq!((request.door, request.auth, request.pairing_shown), (Door::Implicit, Auth::Password, true));

    stage.registry.grant(request.id, Stage::terms(), Actor::System).await.unwrap();
    let user = stage.directory.policy().user_named(&"press-7".parse().unwrap()).cloned().unwrap();
    assert_eq!(user.auth, Auth::Password);
    assert!(user.password_hash.as_deref().unwrap().starts_with(PASSWORD));
}

#[tokio::test]
async fn a_device_that_cannot_be_told_its_code_is_granted_only_by_who_says_so() {
    let stage = Stage::new();
    stage.ajar().await;
    let origin = at(Door::ImplicitWithoutCode);
    stage.registry.knock(&"press-7".parse().unwrap(), PASSWORD.as_bytes(), &origin).await;
    let id = stage.only().await;
    let refused = stage.registry.grant(id, Stage::terms(), Actor::System).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Unpaired(_)), "{refused}");
    let terms = GrantTerms { unpaired: true, ..Stage::terms() };
    stage.registry.grant(id, terms, Actor::System).await.unwrap();
}

/// The attack: whoever is told something else, or later, than for a name that nobody has, has found a user.
#[tokio::test]
async fn a_name_that_somebody_has_is_told_what_a_free_one_is() {
    let stage = Stage::new();
    let own = stage.user("press-1");
    stage.ajar().await;
    assert_eq!(stage.send(json!({"username": "press-2", "password": "of another"})).await.status, 202);
    let mut codes = Vec::new();
    for name in ["free-1", "press-1", "press-2", "system"] {
        for round in ["the first time", "a poll"] {
            let before = stage.work();
            codes.push(stage.code(name, PASSWORD).await);
            assert_eq!(stage.work() - before, 1, "{name}: one argon2, {round}");
        }
        assert_ne!(stage.code(name, "another one").await, stage.code(name, PASSWORD).await, "{name}");
    }
    assert!(codes.chunks(2).all(|of_name| of_name[0] == of_name[1]));
    codes.dedup();
    assert_eq!(codes.len(), 4, "each name has its own");
    // Only the operator sees the difference.
    assert_eq!(stage.pending().await, ["press-2", "free-1"]);
    assert_eq!(stage.directory.policy().user(own).unwrap().password_hash.as_deref(), Some("their own$0"));
}

#[tokio::test]
async fn a_code_outlives_a_restart_whether_there_is_a_request_or_not() {
    let mut stage = Stage::new();
    stage.user("press-1");
    stage.ajar().await;
    let before = [stage.code("press-1", PASSWORD).await, stage.code("free-1", PASSWORD).await];
    stage.restart();
    stage.ajar().await;
    assert_eq!([stage.code("press-1", PASSWORD).await, stage.code("free-1", PASSWORD).await], before);
}

#[tokio::test]
async fn the_password_policy_is_said_before_anything_is_asked() {
    let stage = Stage::new();
    stage.user("press-1");
    stage.ajar().await;
    for name in ["free-1", "press-1"] {
        assert_eq!(stage.knock(name, "short").await, Knock::Weak("the password is too weak".into()), "{name}");
        let bytes = stage.registry.knock(&name.parse::<Username>().unwrap(), b"\xff\xff", &at(Door::Implicit)).await;
        assert!(matches!(bytes, Knock::Weak(_)), "{name}: {bytes:?}");
    }
    assert_eq!((stage.work(), stage.pending().await.len()), (0, 0));
}

#[tokio::test]
async fn a_denial_is_told_to_who_gives_the_password_of_the_request_and_to_nobody_else() {
    let stage = Stage::new();
    stage.ajar().await;
    stage.code("press-7", PASSWORD).await;
    stage.registry.deny(stage.only().await, "not ours".into(), Actor::System).await.unwrap();
    assert_eq!(stage.knock("press-7", PASSWORD).await, Knock::Denied("not ours".into()));
    assert!(matches!(stage.knock("press-7", "another one").await, Knock::Waiting(_)));
}

#[tokio::test]
async fn guesses_through_this_door_are_limited_for_every_name_alike() {
    let rate = RateLimit { burst: 60, every: Duration::from_millis(200) };
    for name in ["free-1", "press-1", "press-2"] {
        let stage = Stage::with(Settings { rate, ..Settings::default() });
        stage.user("press-1");
        stage.ajar().await;
        let other = Origin { source: "192.0.2.9".parse().unwrap(), ..origin(None) };
        let message = json!({"username": "press-2", "password": "of another"}).to_string();
        assert_eq!(stage.registry.register(message.as_bytes(), None, &other).await.status, 202);
        let mut told = Vec::new();
        for number in 0..10 {
            told.push(stage.knock(name, &format!("guess {number} of many")).await != Knock::Busy);
        }
        assert_eq!(told.iter().filter(|told| **told).count(), 6, "{name}: {told:?}");
    }
}

#[tokio::test]
async fn no_nonce_no_implicit_door() {
    let stage = Stage::with(Settings { require_nonce: true, ..Settings::default() });
    let terms = UnlockTerms { implicit: true, ..UnlockTerms::default() };
    let refused = stage.registry.unlock(terms, Actor::System).await.unwrap_err();
    assert_eq!(refused.kind(), RegistryErrorKind::Invalid);
}

fn for_names(name: &str, username: &str, action: RuleAction) -> RegistryRule {
    RegistryRule { username: Some(username.to_owned().try_into().unwrap()), ..rule(name, action) }
}

/// Rules say nothing of who exists either, and none of them opens this door.
#[tokio::test]
async fn rules_decide_behind_this_door_and_do_not_open_it() {
    let grant = RuleGrant { while_locked: true, ..grant() };
    let rules = vec![
        for_names("presses", "press-*", RuleAction::Grant(grant)),
        for_names("no-lamps", "lamp-*", RuleAction::Deny { reason: "no lamps".into() }),
    ];
    let rate = RateLimit { burst: 10_000, every: Duration::from_millis(1) };
    let stage = Stage::with(Settings { rules, rate, ..Settings::default() });
    for name in ["press-1", "lamp-1"] {
        stage.user(name);
    }
    assert_eq!(stage.knock("press-2", PASSWORD).await, Knock::Shut);
    let message = json!({"username": "press-2", "password": PASSWORD}).to_string();
    let through = async |door| stage.registry.register(message.as_bytes(), None, &at(door)).await.status;
    assert_eq!(through(Door::Implicit).await, 423, "nor when it is shut in between");

    stage.ajar().await;
    let before = stage.work();
    stage.code("press-1", PASSWORD).await;
    let taken = stage.work() - before;
    stage.code("press-2", PASSWORD).await;
    assert_eq!((taken, stage.work() - before), (1, 2), "the same work for a name that somebody has");
    let made = stage.directory.policy().user_named(&"press-2".parse().unwrap()).cloned().unwrap();
    assert_eq!((made.auth, made.managed_by), (Auth::Password, ManagedBy::Registry));
    for name in ["lamp-1", "lamp-2"] {
        assert_eq!(stage.knock(name, PASSWORD).await, Knock::Denied("no lamps".into()), "{name}");
    }
    assert!(stage.pending().await.is_empty());
    stage.registry.lock(Actor::System).await.unwrap();
    assert_eq!(through(Door::Mqtt).await, 201, "it is the user's own password");
}

/// The attack: whoever has the disk has the codes, and the key of them; and guesses no faster at them than at any hash.
#[tokio::test]
async fn a_code_tells_of_the_password_what_argon2id_leaves_of_it() {
    let stage = Stage::new();
    stage.ajar().await;
    let code = stage.code("press-1", PASSWORD).await;
    let same = stage.code("press-1", &format!("{PASSWORD}!")).await;
    assert_eq!(code, same, "what is made of both is the same here, though they are not");
    assert_eq!(stage.pending().await, ["press-1"]);
    assert_ne!(code, stage.code("press-1", &format!("{PASSWORD}?")).await);
    assert_ne!(code, stage.code("press-2", PASSWORD).await);
}

/// Shuts the door when the password is looked at, which is after the door was.
struct ShutsMeanwhile(Argon2, OnceLock<Registry>);

impl PasswordHasher for ShutsMeanwhile {
    fn check(&self, password: &str) -> Result<(), String> {
        if let Some(registry) = self.1.get() {
            registry.inner().state.lock().core.lock_now();
        }
        self.0.check(password)
    }

    fn attempt(&self, source: Source, name: &Username) -> Result<Attempt, Duration> {
        self.0.attempt(source, name)
    }

    fn hash<'a>(&'a self, source: Source, password: &'a str, floor: u32) -> Hashing<'a, Result<String, HashError>> {
        self.0.hash(source, password, floor)
    }

    fn stretch<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        salt: [u8; SALT_BYTES],
    ) -> Hashing<'a, Result<String, HashError>> {
        self.0.stretch(source, password, salt)
    }

    fn verify<'a>(
        &'a self,
        source: Source,
        password: &'a str,
        hash: (Option<&'a str>, u32),
        begun: Arc<AtomicBool>,
    ) -> Hashing<'a, Result<bool, Busy>> {
        self.0.verify(source, password, hash, begun)
    }
}

/// Nothing was recorded, so there is nothing to wait for; and that, too, is told for every name alike.
#[tokio::test]
async fn a_connect_whose_door_is_shut_meanwhile_is_not_told_to_wait() {
    let stage = Stage::new();
    stage.user("press-1");
    let shuts = Arc::new(ShutsMeanwhile(Argon2::default(), OnceLock::new()));
    let clock: Arc<dyn Clock> = Arc::new(stage.clock.clone());
    let registry = Registry::open(
        Arc::clone(&stage.store) as _,
        Arc::clone(&stage.directory),
        Arc::new(crate::pki::Signers::new(Arc::clone(&stage.ca))),
        Arc::clone(&shuts) as _,
        clock,
        Arc::new(Metrics::new()),
        stage.settings.clone(),
    )
    .unwrap();
    assert!(shuts.1.set(registry.clone()).is_ok());
    for name in ["free-1", "press-1"] {
        let terms = UnlockTerms { implicit: true, ..UnlockTerms::default() };
        registry.unlock(terms, Actor::System).await.unwrap();
        let before = shuts.0.0.load(Ordering::SeqCst);
        let told = registry.knock(&name.parse().unwrap(), PASSWORD.as_bytes(), &at(Door::Implicit)).await;
        assert_eq!((told, shuts.0.0.load(Ordering::SeqCst) - before), (Knock::Shut, 1), "{name}");
    }
    assert!(registry.list(None).await.unwrap().is_empty());
}

/// The attack: a full table is told apart from a name that somebody has.
#[tokio::test]
async fn a_table_without_room_shows_no_more_than_a_name_that_is_taken() {
    let rate = RateLimit { burst: 10_000, every: Duration::from_millis(1) };
    let stage = Stage::with(Settings { rate, max_pending: 1, ..Settings::default() });
    stage.user("press-1");
    stage.ajar().await;
    stage.code("free-1", PASSWORD).await;
    for name in ["free-2", "press-1"] {
        let before = stage.work();
        assert_eq!(stage.code(name, PASSWORD).await, stage.code(name, PASSWORD).await, "{name}");
        assert_eq!(stage.work() - before, 2, "{name}");
    }
    assert_eq!(stage.pending().await, ["free-1"]);
}

//! Guessing at the registry's doors: what it costs, what it is told, and what of it is in the audit log. Counted, not timed.

use super::*;
use crate::audit::{Event as Recorded, Recorder};
use crate::registry::Knock;

const PASSWORD: &str = "a good password";

fn from(address: u8) -> Origin {
    Origin { source: [192, 0, 2, address].into(), ..origin(None) }
}

impl Stage {
    async fn guess(&self, name: &str, password: &str, origin: &Origin) -> Answer {
        let message = json!({"username": name, "password": password}).to_string();
        self.registry.register(message.as_bytes(), None, origin).await
    }

    fn recorder(&self) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder::new(Arc::new(Metrics::new())));
        self.registry.set_recorder(Arc::clone(&recorder));
        recorder
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Pending,
    Granted,
    Denied,
}

/// The attack: as long as the password of a request was remembered, a thousand guesses in a second were answered, right or wrong.
#[tokio::test]
async fn the_password_of_a_name_on_record_is_guessed_no_faster_than_that_of_a_login() {
    for held in [Held::Pending, Held::Granted, Held::Denied] {
        for restarted in [false, true] {
            let mut stage = Stage::guarded();
            stage.unlock().await;
            assert_eq!(stage.guess("meter-1", PASSWORD, &from(250)).await.status, 202);
            let id = stage.only().await;
            match held {
                Held::Pending => {}
                Held::Granted => drop(stage.registry.grant(id, Stage::terms(), Actor::System).await.unwrap()),
                Held::Denied => drop(stage.registry.deny(id, "no".into(), Actor::System).await.unwrap()),
            }
            stage.registry.lock(Actor::System).await.unwrap();
            if restarted {
                stage.restart();
            }
            let recorder = stage.recorder();
            let before = stage.argon2.0.load(Ordering::SeqCst);
            let mut answered = 0;
            for address in 0..20 {
                for number in 0..60 {
                    let answer = stage.guess("meter-1", &format!("guess {number}"), &from(address)).await;
                    match (answer.status, answer.error) {
                        (423, Some("locked")) => answered += 1,
                        (429, Some("throttled" | "rate")) => {}
                        other => panic!("{other:?}"),
                    }
                }
                let found = stage.guess("meter-1", PASSWORD, &from(address)).await;
                assert_eq!(found.status, 429, "the right guess is not told from a wrong one: {found:?}");
            }
            // Three of each address, the first ten of all among them: see `authn::throttle`.
            let expected = 10 - 3 + 19 * 3;
            assert!((19 * 3..=expected).contains(&answered), "{held:?}: {answered}");
            assert_eq!(stage.argon2.0.load(Ordering::SeqCst) - before, answered, "each has cost one argon2");

            let told = recorder.take();
            let count = |wanted: &str| {
                told.iter()
                    .map(|event| match event {
                        Recorded::RegistrationsRefused { operation, user, request, cause, count, .. } => {
                            assert_eq!(operation.to_string(), "register");
                            // Whoever sends too much is not even read.
                            assert_eq!(user.is_some(), held == Held::Granted && cause.to_string() != "rate");
                            assert!(request.is_none() || (held == Held::Pending && request == &Some(id.0)));
                            if cause.to_string() == wanted { *count } else { 0 }
                        }
                        other => panic!("{other:?}"),
                    })
                    .sum::<u64>()
            };
            assert_eq!(count("locked"), answered);
            assert_eq!(count("locked") + count("throttled") + count("rate"), 20 * 61);

            // Where nobody has guessed, the device is heard.
            let poll = stage.guess("meter-1", PASSWORD, &from(250)).await;
            let expected = match held {
                Held::Pending => 202,
                Held::Granted => 201,
                Held::Denied => 403,
            };
            assert_eq!(poll.status, expected, "{held:?}");
        }
    }
}

/// The attack: a name that is pending, or was made by the registry, took an argon2 behind the locked door, and any other one did not.
#[tokio::test]
async fn behind_the_locked_door_every_name_costs_the_same_and_is_told_the_same() {
    let mut stage = Stage::guarded();
    stage.unlock().await;
    for (name, address) in [("pending", 240), ("granted", 241), ("denied", 242)] {
        assert_eq!(stage.guess(name, PASSWORD, &from(address)).await.status, 202);
    }
    for request in stage.registry.list(None).await.unwrap() {
        match request.username.as_str() {
            "granted" => drop(stage.registry.grant(request.id, Stage::terms(), Actor::System).await.unwrap()),
            "denied" => drop(stage.registry.deny(request.id, "no".into(), Actor::System).await.unwrap()),
            _ => {}
        }
    }
    let user = NewUser { password_hash: Some(format!("{PASSWORD}$0")), ..NewUser::named("by-hand".parse().unwrap()) };
    stage.directory.create_user(user, &Actor::System).unwrap();
    let both = json!({"username": "both", "password": PASSWORD, "csr": csr("both", &new_key(), &[])}).to_string();
    assert_eq!(stage.registry.register(both.as_bytes(), None, &from(243)).await.status, 202);
    stage.registry.lock(Actor::System).await.unwrap();

    let mut address = 0;
    for remembered in [true, false] {
        if !remembered {
            stage.restart();
        }
        let mut told = Vec::new();
        for name in ["free", "pending", "granted", "denied", "by-hand", "both"] {
            address += 1;
            let (before, mut answers) = (stage.argon2.0.load(Ordering::SeqCst), Vec::new());
            for number in 0..12 {
                answers.push(stage.guess(name, &format!("guess {number}"), &from(address)).await);
            }
            told.push((stage.argon2.0.load(Ordering::SeqCst) - before, answers));
        }
        assert!(told[0].0 >= 3, "{told:?}");
        assert!(told.iter().all(|of_name| *of_name == told[0]), "{told:?}");
        // What others have done to the names is over.
        stage.clock.advance(Duration::from_hours(4));
    }
}

#[tokio::test]
async fn a_device_that_asks_again_pays_nothing_and_is_never_held_back() {
    let stage = Stage::guarded();
    stage.unlock().await;
    for _ in 0..3 {
        assert_eq!(stage.guess("meter-1", PASSWORD, &from(1)).await.status, 202);
    }
    stage.registry.lock(Actor::System).await.unwrap();
    let before = stage.argon2.0.load(Ordering::SeqCst);
    for _ in 0..200 {
        stage.clock.advance(Duration::from_secs(2));
        assert_eq!(stage.guess("meter-1", PASSWORD, &from(1)).await.status, 202);
    }
    stage.registry.grant(stage.only().await, Stage::terms(), Actor::System).await.unwrap();
    assert_eq!(stage.guess("meter-1", PASSWORD, &from(1)).await.status, 201);
    assert_eq!(stage.argon2.0.load(Ordering::SeqCst), before);
    // It is at home there from now on: ten guesses of a neighbour, as at a login.
    for _ in 0..9 {
        stage.clock.advance(Duration::from_millis(100));
        let _ = stage.guess("meter-1", "a neighbour's guess", &from(1)).await;
    }
    stage.clock.advance(Duration::from_mins(2));
    assert_eq!(stage.guess("meter-1", PASSWORD, &from(1)).await.status, 201);
}

/// The limits of logins and those of the registry are one: who has used them up there has none here.
#[tokio::test]
async fn guesses_at_a_login_and_at_the_registry_add_up() {
    let stage = Stage::guarded();
    let login = |address: u8, name: &str| {
        let source = from(address).source.into();
        stage.argon2.2.attempt(source, &name.parse().unwrap())
    };
    for number in 0..20 {
        login(1, &format!("name-{number}")).unwrap().failed();
    }
    let answer = stage.guess("meter-1", PASSWORD, &from(1)).await;
    assert_eq!((answer.status, answer.error, answer.retry_after), (429, Some("throttled"), Some(6)));
    for number in 0..5 {
        assert_eq!(stage.guess("meter-1", &format!("guess {number}"), &from(2)).await.status, 423);
    }
    for _ in 0..5 {
        login(2, "meter-1").unwrap().failed();
    }
    assert!(login(2, "meter-1").is_err());
}

/// The attack: after the first six, a wrong one cost as much as any message.
#[tokio::test]
async fn ten_minutes_of_wrong_tokens_and_of_knocks_cost_eleven_messages_each() {
    let stage = Stage::guarded();
    let terms = UnlockTerms { implicit: true, duration: Some(3600), ..UnlockTerms::default() };
    stage.registry.unlock(terms, Actor::System).await.unwrap();
    let knocking = Origin { door: Door::Implicit, ..from(2) };
    let key = csr("press-1", &new_key(), &[]);
    let (mut tokens, mut knocks) = (0, 0);
    for number in 0..600 {
        stage.clock.advance(Duration::from_secs(1));
        let message = json!({"username": "press-1", "csr": key, "token": format!("guess {number}")}).to_string();
        let answer = stage.registry.register(message.as_bytes(), None, &from(1)).await;
        tokens += u32::from(answer.error == Some("token"));
        let knock = stage.registry.knock(&"lamp-1".parse().unwrap(), PASSWORD.as_bytes(), &knocking).await;
        knocks += u32::from(knock != Knock::Busy);
    }
    for (what, count) in [("tokens", tokens), ("knocks", knocks)] {
        assert!((50..=(60 + 600) / 11 + 1).contains(&count), "{what}: {count}");
    }
    let message = json!({"username": "press-1", "csr": key}).to_string();
    assert_eq!(stage.registry.register(message.as_bytes(), None, &from(3)).await.status, 202, "nobody else pays");
}

/// The attack: keep the queue full, so that nothing but the right password is answered, and no guess counted.
#[tokio::test]
async fn guesses_that_find_the_queue_full_are_paid_for() {
    let stage = Stage::guarded();
    let mut told = Vec::new();
    for _ in 0..10 {
        told.push(stage.guess("meter-1", NO_ROOM, &from(1)).await.error);
    }
    assert_eq!(told.iter().filter(|error| **error == Some("busy")).count(), 6, "{told:?}");
}

/// One argon2 and one write for each, whatever there is to hold the password against, and to write.
#[tokio::test]
async fn door_2_writes_to_the_disk_for_every_name_alike() {
    let stage = Stage::new();
    let user = NewUser { password_hash: Some(format!("{PASSWORD}$0")), ..NewUser::named("by-hand".parse().unwrap()) };
    stage.directory.create_user(user, &Actor::System).unwrap();
    let terms = UnlockTerms { implicit: true, ..UnlockTerms::default() };
    stage.registry.unlock(terms, Actor::System).await.unwrap();
    assert_eq!(stage.guess("pending", PASSWORD, &from(9)).await.status, 202);
    let knocking = Origin { door: Door::Implicit, ..from(2) };
    for name in ["free", "by-hand", "pending", "system"] {
        for round in ["the first time", "the second time"] {
            let before = (stage.store.commits(), stage.argon2.0.load(Ordering::SeqCst));
            let knock = stage.registry.knock(&name.parse().unwrap(), b"correct horse", &knocking).await;
            assert!(matches!(knock, Knock::Waiting(_)), "{name}: {knock:?}");
            let cost = (stage.store.commits() - before.0, stage.argon2.0.load(Ordering::SeqCst) - before.1);
            assert_eq!(cost, (1, 1), "{name}, {round}");
        }
    }
}

#[tokio::test]
async fn every_refusal_is_in_the_audit_log_with_its_cause_and_once_for_many() {
    let stage = Stage::new();
    let recorder = stage.recorder();
    let name = "by-hand".parse().unwrap();
    let id = stage.directory.create_user(NewUser::named(name), &Actor::System).unwrap().id;
    stage.send(with_csr()).await;
    stage.send(with_password("a password of nobody")).await;
    stage.unlock().await;
    assert_eq!(stage.send(with_csr()).await.status, 202);
    let request = stage.only().await;
    for _ in 0..500 {
        stage.send(json!({"username": "by-hand", "password": PASSWORD})).await;
    }
    stage.send(json!({"username": "press-7", "csr": OTHER_CSR})).await;
    let renewal = json!({"csr": CSR}).to_string();
    assert_eq!(stage.registry.renew(renewal.as_bytes(), None, None, &origin(None)).await.status, 401);

    let told: Vec<_> = recorder
        .take()
        .into_iter()
        .map(|event| match event {
            Recorded::RegistrationsRefused { operation, user, request, cause, count, .. } => {
                (operation.to_string(), cause.to_string(), user.map(|user| user.id), request, count)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let has = |operation: &str, cause: &str, user, request, count| {
        assert!(told.contains(&(operation.into(), cause.into(), user, request, count)), "{cause}: {told:?}");
    };
    has("register", "locked", None, None, 2);
    has("register", "name_taken", Some(id), None, 500);
    has("register", "name_pending", None, Some(request.0), 1);
    has("renew", "not_authenticated", None, None, 1);
    assert_eq!(told.len(), 4);
}

#[tokio::test]
async fn the_audit_log_says_whether_an_unlock_was_implicit() {
    let stage = Stage::new();
    for implicit in [false, true] {
        let terms = UnlockTerms { implicit, ..UnlockTerms::default() };
        stage.registry.unlock(terms, Actor::System).await.unwrap();
    }
    let records = audit::read(&*stage.store, 0, 1000).unwrap();
    let unlocks: Vec<bool> = records
        .iter()
        .filter_map(|entry| match entry.read().unwrap().event {
            Recorded::RegistryUnlocked { implicit, .. } => Some(implicit),
            _ => None,
        })
        .collect();
    assert_eq!(unlocks, [false, true]);
}

//! One thing after the other: any course of events is what the protocol says.
//!
//! Entering: nothing. Leaving: deeds, the likely ones more often, and what a broken disk makes of them.

use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::broker::{Broker, Disk, pool};
use super::reference::{
    self, Deed, Knocking, Mishap, Model, Op, PEOPLE, Proof, RULES, Registration, Rights, Shown, Terms, Who, World,
};
use super::*;

fn proofs() -> impl Strategy<Value = Proof> {
    prop_oneof![
        6 => (0..KEYS).prop_map(|key| Proof { key: Some(key), password: None }),
        3 => (0..PASSWORDS.len()).prop_map(|password| Proof { key: None, password: Some(password) }),
        2 => (0..KEYS, 0..PASSWORDS.len()).prop_map(|(key, password)| Proof { key: Some(key), password: Some(password) }),
    ]
}

fn people() -> impl Strategy<Value = Who> {
    prop_oneof![
        3 => Just(Who::Program),
        1 => (0..2_u32).prop_map(Who::Socket),
        3 => (0..PEOPLE).prop_map(Who::Person),
    ]
}

fn terms() -> impl Strategy<Value = Terms> {
    prop_oneof![2 => Just(Terms::Nothing), 5 => Just(Terms::Sensor), 1 => Just(Terms::SensorForAWhile)]
}

fn rights() -> impl Strategy<Value = Rights> {
    let mostly = || proptest::bool::weighted(0.8);
    (mostly(), mostly(), mostly(), mostly()).prop_map(|(enabled, tokens, requests, holds)| Rights {
        enabled,
        tokens,
        requests,
        holds,
    })
}

/// One of the last few of so many.
fn recent(of: usize) -> std::ops::Range<usize> {
    of.saturating_sub(3)..of + 1
}

fn shown(model: &Model) -> BoxedStrategy<Shown> {
    prop_oneof![9 => recent(model.tokens_made).prop_map(Shown::Token), 1 => recent(model.tokens_made).prop_map(Shown::Forged)]
        .boxed()
}

fn registrations(model: &Model) -> BoxedStrategy<Deed> {
    let where_from = (0..SOURCES, 0..LISTENERS.len());
    let how = (any::<bool>(), any::<bool>());
    let nonce = weighted(0.9, recent(model.nonces()));
    let token = weighted(if model.tokens_made == 0 { 0.02 } else { 0.35 }, shown(model));
    let anew = (0..NAMES.len(), proofs(), where_from.clone(), nonce, token, how).prop_map(
        |(name, proof, (from, listener), nonce, token, (listens, cbor))| Registration {
            name,
            proof,
            from,
            listener,
            nonce,
            token,
            listens,
            cbor,
        },
    );
    let asked: Vec<_> = model.requests.iter().map(reference::Request::asked).collect();
    if asked.is_empty() {
        return anew.prop_map(Deed::Register).boxed();
    }
    let again = (select(asked), where_from, weighted(0.1, shown(model)), how).prop_map(
        |((name, proof), (from, listener), token, (listens, cbor))| Registration {
            name,
            proof,
            from,
            listener,
            nonce: None,
            token,
            listens,
            cbor,
        },
    );
    prop_oneof![5 => anew, 3 => again].prop_map(Deed::Register).boxed()
}

fn decisions(model: &Model) -> BoxedStrategy<Deed> {
    let request = || model.made.saturating_sub(5)..model.made + 1;
    prop_oneof![
        4 => (request(), people(), terms(), proptest::bool::weighted(0.4))
            .prop_map(|(request, who, terms, unpaired)| Deed::Grant { request, who, terms, unpaired }),
        // As whoever wants it granted would.
        2 => (request(), people()).prop_map(|(request, who)| {
            Deed::Grant { request, who, terms: Terms::Nothing, unpaired: true }
        }),
        2 => (request(), people()).prop_map(|(request, who)| {
            Deed::Grant { request, who, terms: Terms::Sensor, unpaired: true }
        }),
        3 => (request(), people()).prop_map(|(request, who)| Deed::Deny { request, who }),
    ]
    .boxed()
}

fn tokens(model: &Model) -> BoxedStrategy<Deed> {
    let lasts = select(vec![61, 500, 3_000, 50_000]);
    let limits = (weighted(0.2, 0..NAMES.len()), weighted(0.2, 0..SOURCES));
    let made = (people(), 1..3_u32, lasts, limits, terms())
        .prop_map(|(who, uses, lasts, (name, from), terms)| Deed::CreateToken { who, uses, lasts, name, from, terms });
    let revoked = (recent(model.tokens_made), people()).prop_map(|(token, who)| Deed::RevokeToken { token, who });
    prop_oneof![5 => made, 1 => revoked].boxed()
}

fn unlocks() -> BoxedStrategy<Deed> {
    let limits = (weighted(0.1, 0..NAMES.len()), weighted(0.1, 0..SOURCES), weighted(0.1, 0..LISTENERS.len()));
    (weighted(0.3, 1..4_u32), limits, any::<bool>())
        .prop_map(|(count, (name, from, listener), implicit)| Deed::Unlock { count, name, from, listener, implicit })
        .boxed()
}

/// Any deed, the likely ones more often: about requests that were made, with proofs that were shown and nonces that were drawn.
fn deeds(model: &Model) -> BoxedStrategy<Deed> {
    let names = 0..NAMES.len();
    let times = select(vec![60, 240, 300, 700, 1_000, 2_000, 3_000, 6_000, 9_001, 30_000]);
    let whose = || (names.clone(), 0..3_usize);
    let knocks = (names.clone(), 0..PASSWORDS.len(), 0..SOURCES, 0..LISTENERS.len(), any::<bool>()).prop_map(
        |(name, password, from, listener, told)| Deed::Knock(Knocking { name, password, from, listener, told }),
    );
    prop_oneof![
        18 => registrations(model),
        5 => knocks,
        11 => decisions(model),
        5 => tokens(model),
        3 => (0..PEOPLE, weighted(0.85, rights())).prop_map(|(person, rights)| Deed::Person { person, rights }),
        6 => unlocks(),
        1 => Just(Deed::Lock),
        3 => names.clone().prop_map(Deed::Open),
        1 => names.clone().prop_map(Deed::Cancel),
        6 => (whose(), 0..KEYS).prop_map(|((name, certificate), key)| Deed::Renew { name, certificate, key }),
        3 => (whose(), 0..KEYS, 0..SOURCES, recent(model.nonces())).prop_map(
            |((name, certificate), key, from, nonce)| Deed::RenewLapsed { name, certificate, key, from, nonce },
        ),
        3 => whose().prop_map(|(name, certificate)| Deed::Connect { name, certificate }),
        1 => whose().prop_map(|(name, certificate)| Deed::Revoke { name, certificate }),
        1 => (names.clone(), any::<bool>()).prop_map(|(name, enabled)| Deed::Enable { name, enabled }),
        1 => names.clone().prop_map(Deed::Delete),
        1 => names.clone().prop_map(Deed::TakeName),
        4 => (0..SOURCES).prop_map(Deed::Challenge),
        5 => times.prop_map(Deed::Advance),
        2 => (0..RULES.len()).prop_map(Deed::Restart),
    ]
    .boxed()
}

fn mishaps() -> impl Strategy<Value = Option<Mishap>> {
    let mishap = prop_oneof![
        Just(Mishap::Refused),
        any::<bool>().prop_map(|survives| Mishap::NotSynced { survives }),
        Just(Mishap::AnswerLost),
    ];
    weighted(0.15, mishap)
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Self> {
        let world = (proptest::bool::weighted(0.25), proptest::bool::weighted(0.3), any::<bool>(), 0..RULES.len());
        world
            .prop_map(|(require_nonce, two_people, faulty, rules)| {
                Self::new(World { require_nonce, two_people, faulty, rules })
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Op> {
        let op = |(deed, mishap): (Deed, Option<Mishap>)| {
            // What the clock does is done again in a second.
            let mishap = mishap.filter(|_| !matches!(deed, Deed::Advance(_)));
            Op { deed, mishap }
        };
        (deeds(state), mishaps()).prop_map(op).boxed()
    }

    fn apply(mut state: Self, op: &Op) -> Self {
        state.run(*op);
        state
    }
}

pub(super) struct OneAfterTheOther;

impl StateMachineTest for OneAfterTheOther {
    type SystemUnderTest = Broker;
    type Reference = Model;

    fn init_test(model: &Model) -> Broker {
        Broker::new(model)
    }

    fn apply(mut broker: Broker, model: &Model, op: Op) -> Broker {
        pool().runtime.block_on(async {
            if let (Disk::Faulty(store), Some(mishap)) = (&broker.disk, op.mishap) {
                store.fail_commit_to(
                    "registry_",
                    match mishap {
                        Mishap::Refused => Fault::Refused,
                        Mishap::NotSynced { .. } => Fault::NotSynced,
                        Mishap::AnswerLost => Fault::AnswerLost,
                    },
                );
            }
            let said = broker.run(op.deed).await;
            if let Disk::Faulty(store) = &broker.disk {
                store.heal();
            }
            if let Some(survives) = model.stopped {
                broker.restart(survives.into());
            }
            let mut pushed = model.pushed.clone();
            pushed.sort_unstable();
            assert_eq!(broker.pushed(), pushed);
            broker.compare(&said, model.expect.as_ref().unwrap()).unwrap();
            broker.learn(model).await;
            assert_eq!(broker.picture().await, model.picture());
        });
        broker
    }

    fn check_invariants(broker: &Broker, _: &Model) {
        broker.registry.inner().state.lock().core.check();
    }
}

prop_state_machine! {
    #![proptest_config(config(256))]

    #[test]
    fn any_course_of_events_is_what_the_protocol_says(sequential 1..60 => OneAfterTheOther);
}

//! Several things at once: the answers and what is left are those of one order or another of them.
//!
//! Entering: nothing. Leaving: a few deeds that come first, and some about the same few names, requests and tokens that come together.

use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::StateMachineTest as _;

use super::broker::{Disk, pool};
use super::courses::OneAfterTheOther;
use super::reference::{Deed, Knocking, Model, Op, Proof, RULES, Registration, Rights, Shown, Terms, Who, World};
use super::*;

const FULL: Rights = Rights { enabled: true, tokens: true, requests: true, holds: true };

fn ask(name: usize, key: usize, from: usize) -> Registration {
    let proof = Proof { key: Some(key), password: None };
    Registration { name, proof, from, listener: 0, nonce: None, token: None, listens: true, cbor: false }
}

fn grant(request: usize, who: Who, terms: Terms) -> Deed {
    Deed::Grant { request, who, terms, unpaired: false }
}

fn unlock(count: Option<u32>) -> Deed {
    Deed::Unlock { count, name: None, from: None, listener: None, implicit: true }
}

/// What happens at once.
fn rivals() -> impl Strategy<Value = Vec<Deed>> {
    let token = prop_oneof![2 => Just(None), 3 => Just(Some(Shown::Token(0)))];
    let who = || select(vec![Who::Program, Who::Person(0), Who::Person(0), Who::Person(1)]);
    let terms = select(vec![Terms::Sensor, Terms::Sensor, Terms::Sensor, Terms::Nothing]);
    let rival = prop_oneof![
        6 => (0..2_usize, 0..3_usize, 0..SOURCES, token, any::<bool>()).prop_map(|(name, key, from, token, cbor)| {
            Deed::Register(Registration { token, cbor, ..ask(name, key, from) })
        }),
        2 => (0..2_usize, 0..2_usize, 0..SOURCES).prop_map(|(name, password, from)| {
            Deed::Knock(Knocking { name, password, from, listener: 0, told: true })
        }),
        4 => (0..3_usize, who(), terms).prop_map(|(request, who, terms)| grant(request, who, terms)),
        2 => (0..3_usize, who()).prop_map(|(request, who)| Deed::Deny { request, who }),
        1 => Just(Deed::Lock),
        1 => Just(unlock(Some(1))),
        1 => (0..2_usize).prop_map(Deed::Open),
        1 => (0..2_usize).prop_map(Deed::Cancel),
        1 => Just(Deed::RevokeToken { token: 0, who: Who::Program }),
        1 => any::<bool>().prop_map(|enabled| {
            Deed::Person { person: 0, rights: Some(Rights { enabled, holds: false, ..FULL }) }
        }),
        // Of a request, of an unlock, of a token.
        1 => Just(Deed::Advance(60)),
        // Of its certificates the first: which one is meant must not depend on the order.
        2 => (0..2_usize, 0..4_usize).prop_map(|(name, key)| Deed::Renew { name, certificate: 0, key }),
    ];
    proptest::collection::vec(rival, 2..5)
}

/// What comes before, one after the other, in which world.
fn preludes() -> impl Strategy<Value = (World, Vec<Deed>)> {
    let open = unlock(None);
    let first = |name, key| Deed::Register(ask(name, key, name));
    let token = |uses| Deed::CreateToken {
        who: Who::Person(0),
        uses,
        lasts: 1_000,
        name: None,
        from: None,
        terms: Terms::Sensor,
    };
    let granted = grant(0, Who::Program, Terms::Nothing);
    let one = select(vec![
        vec![open],
        vec![unlock(Some(1))],
        vec![token(1)],
        vec![token(2), open],
        vec![token(1), Deed::Advance(940), open, first(0, 0)],
        vec![open, first(0, 0)],
        vec![open, first(0, 0), first(1, 1)],
        vec![open, first(0, 0), Deed::Advance(940), unlock(Some(2))],
        vec![open, first(0, 0), granted],
        vec![open, first(0, 0), granted, first(1, 1)],
        vec![open, first(0, 0), granted, Deed::Open(0), first(0, 2)],
        vec![open, first(0, 0), Deed::Advance(240)],
    ]);
    let two = select(vec![
        vec![token(1)],
        vec![open, first(0, 0)],
        vec![open, first(0, 0), grant(0, Who::Person(0), Terms::Sensor)],
        vec![open, first(0, 0), grant(0, Who::Person(1), Terms::Sensor), first(1, 1)],
        vec![token(2), Deed::Register(Registration { token: Some(Shown::Token(0)), ..ask(0, 0, 0) })],
    ]);
    let one = (one, 0..RULES.len(), Just(false));
    let two = (two, 0..RULES.len(), Just(true));
    prop_oneof![3 => one, 1 => two].prop_map(|(deeds, rules, two_people)| {
        let world = World { faulty: true, two_people, rules, ..World::default() };
        let people = (0..2).map(|person| Deed::Person { person, rights: Some(FULL) });
        (world, people.chain(deeds).collect())
    })
}

fn orders(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(of - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..of).map(|at| {
                let mut order = order.clone();
                order.insert(at, of - 1);
                order
            })
        })
        .collect()
}

proptest! {
    #![proptest_config(config(128))]

    /// Grants, denials, locks, renewals, replacements, requests, tokens, knocks, rights that are taken away and time.
    #[test]
    fn what_happens_at_once_comes_out_as_one_after_the_other((world, prelude) in preludes(), rivals in rivals()) {
        let mut model = Model::new(world);
        let mut broker = OneAfterTheOther::init_test(&model);
        for deed in prelude {
            let op = Op { deed, mishap: None };
            model.run(op);
            broker = OneAfterTheOther::apply(broker, &model, op);
        }
        let outcome: Result<(), String> = pool().runtime.block_on(async {
            if let Disk::Faulty(store) = &broker.disk {
                store.take(Duration::from_millis(1));
            }
            let tasks: Vec<_> = rivals.iter().map(|deed| {
                let (mut broker, deed) = (broker.clone(), *deed);
                tokio::spawn(async move { broker.run(deed).await })
            }).collect();
            let mut said = Vec::new();
            for task in tasks {
                said.push(task.await.unwrap());
            }
            // What somebody was deciding about when the clock ticked is looked at again in a second.
            broker.registry.tick().await.unwrap();
            let picture = broker.picture().await;
            let mut faults = Vec::new();
            for order in orders(rivals.len()) {
                let mut model = model.clone();
                let mut broker = broker.clone();
                let fits = order.iter().try_for_each(|at| {
                    model.run(Op { deed: rivals[*at], mishap: None });
                    broker.compare(&said[*at], model.expect.as_ref().unwrap())
                });
                model.tick();
                match fits {
                    Ok(()) if model.picture() == picture => return Ok(()),
                    Ok(()) => faults.push(format!("{order:?}: {:?}", model.picture())),
                    Err(fault) => faults.push(format!("{order:?}: {fault}")),
                }
            }
            Err(format!("no order gives {said:#?} and {picture:?}:\n{}", faults.join("\n")))
        });
        prop_assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        broker.registry.inner().state.lock().core.check();
    }
}

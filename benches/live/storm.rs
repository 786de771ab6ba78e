//! A fleet that comes back all at once, while passwords are guessed.
//!
//! The fleet has logged in before. Then every connection is cut in the same moment, and a second later made again, all at
//! once: how long until all of them are back, what the bystanders notice, and how much memory it takes. Then three kinds of users, whose names are
//! being guessed at, log in: one whose proof is remembered, one whose proof has to be checked again but who comes from
//! where it has logged in before, and one who never was here. Nobody may be locked out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::brokers::{Broker, Cost, Person, Plan, Programs, Rights, Subject};
use crate::bystanders::{self, Noticed, Pace, Stage};
use crate::certificates;
use crate::clock::{milliseconds, now};
use crate::crowd::{Crowd, Role, State};
use crate::figures::Usage;
use crate::guesses::{Answers, Attack, address};
use crate::table::align;

const FLEET: Rights = ("fleet", &["fleet/#"], &["fleet/#"]);
/// Clients of one source address: it has some 28,000 ports, and those of a cut connection rest for a minute.
const EACH_ADDRESS: usize = 2_000;
/// How long the network is gone.
const OUTAGE: f64 = 1.0;
/// A client that was refused tries again after this.
const PAUSE_MS: f64 = 1000.0;

pub(crate) struct Sizes {
    pub(crate) fleet: usize,
    /// Users of each of the three kinds.
    pub(crate) victims: usize,
    pub(crate) guesses: f64,
    pub(crate) pace: Pace,
    pub(crate) patience: Duration,
    /// Does the fleet speak TLS? It resumes its sessions then.
    pub(crate) tls: bool,
}

/// How one client got in.
#[derive(Clone, Copy)]
struct Login {
    /// From the first attempt (ns); `None`: not at all.
    took: Option<u64>,
    attempts: u32,
}

/// Logs all of them in at once; each tries again until it is in.
fn log_in(crowd: &mut Crowd, roles: &[Role], places: &[usize], patience: Duration) -> Result<Vec<Login>, String> {
    let started = now();
    let mut logins = vec![Login { took: None, attempts: 0 }; roles.len()];
    let mut due = vec![started; roles.len()];
    let mut waiting: Vec<usize> = (0..roles.len()).collect();
    while !waiting.is_empty() && now() - started < patience.as_nanos() as u64 {
        let mut opened = 0;
        for &number in &waiting {
            if due[number] <= now() && crowd.clients.get(places[number]).is_none_or(|old| old.state == State::Closed) {
                crowd.open(&roles[number], Some(places[number])).map_err(|error| format!("cannot connect: {error}"))?;
                logins[number].attempts += 1;
                due[number] = u64::MAX;
                opened += 1;
                // What is answered meanwhile is read meanwhile.
                if opened % 256 == 0 {
                    crowd.turn(Duration::ZERO, &mut |_| {})?;
                }
            }
        }
        crowd.turn(Duration::from_millis(2), &mut |_| {})?;
        waiting.retain(|&number| {
            let client = &crowd.clients[places[number]];
            if client.state == State::Ready {
                logins[number].took = Some(client.ready_at - started);
                return false;
            }
            let refused = client.connack.is_some_and(|code| code != 0);
            if due[number] == u64::MAX && (refused || client.state == State::Closed) {
                due[number] = now() + (PAUSE_MS * 1e6) as u64;
                if client.state != State::Closed {
                    crowd.close(places[number]);
                }
            }
            true
        });
    }
    Ok(logins)
}

struct Story {
    back: Vec<Login>,
    victims: [Vec<Login>; 3],
    noticed: Noticed,
    answers: Answers,
    resident: [u64; 3],
    resumed: usize,
    /// CPU seconds of the broker, of the cut and of the return.
    cpu: [f64; 2],
}

const KINDS: [&str; 3] = ["remembered", "known here, proof gone", "never here before"];
const PHASES: [&str; 5] = ["before", "guessed at", "fleet is cut off", "fleet comes back", "victims log in"];

fn story(subject: Subject, programs: &Programs, sizes: &Sizes) -> Result<Story, String> {
    let mut people: Vec<Person> = (0..sizes.fleet)
        .map(|index| Person { fixed: true, ..Person::new(format!("fleet-{index}"), &["fleet"]) })
        .collect();
    let mut roles: Vec<Role> = people
        .iter()
        .enumerate()
        .map(|(index, person)| Role {
            clean: false,
            subscribe: vec![format!("fleet/{index}")],
            source: Some(address(0x00DF_0000 + (index / EACH_ADDRESS) as u64)),
            ..Role::new(&person.name, &person.password)
        })
        .collect();
    people.extend(bystanders::people(sizes.pace.pairs));
    let mut victims = Vec::new();
    for (kind, word) in ["remembered", "known", "new"].iter().enumerate() {
        for number in 0..sizes.victims {
            let person = Person::new(format!("victim-{word}-{number}"), &["bystander"]);
            // Each at an address of its own, which nobody attacks from.
            let source = Some(address(0x00D0_0000 + (kind * sizes.victims + number) as u64));
            victims.push(Role { source, ..Role::new(&person.name, &person.password) });
            people.push(person);
        }
    }
    let rights = [FLEET, bystanders::ROLE];
    let Broker { mut process, address, tls, roots, mut admin } =
        Plan { programs, cost: Cost::Default, roles: &rights, people: &people }.start(subject)?;
    if sizes.tls {
        for (role, config) in roles.iter_mut().zip(certificates::clients(&roots, sizes.fleet)?) {
            role.tls = Some((tls, config));
        }
    }
    let failed = |error: std::io::Error| error.to_string();
    let (mut fleet, mut others) = (Crowd::new(address).map_err(failed)?, Crowd::new(address).map_err(failed)?);
    let places = fleet.connect_all(&roles, Duration::from_mins(5))?;
    let homes = others.connect_all(&victims[..2 * sizes.victims], Duration::from_mins(1))?;
    for place in homes {
        others.close(place);
    }
    let id = process.id();
    let at_rest = Usage::of(&id).resident;
    let peak = Arc::new(AtomicU64::new(at_rest));
    let stopped = Arc::new(AtomicBool::new(false));
    let sampler = {
        let (id, peak, stopped) = (id.clone(), Arc::clone(&peak), Arc::clone(&stopped));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                peak.fetch_max(Usage::of(&id).resident, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let stage = Arc::new(Stage::default());
    let noticed = bystanders::start(address, sizes.pace, PHASES.len() + 1, &stage)?;
    stage.during(PHASES.len(), 1.0);
    stage.during(0, 5.0);
    let names = victims.iter().map(|role| role.client_id.clone()).collect();
    let attack = Attack::start(address, sizes.guesses, names)?;
    stage.during(1, 5.0);
    let cpu_before = Usage::of(&id).cpu;
    stage.phase.store(2, Ordering::SeqCst);
    for &place in &places {
        fleet.close(place);
    }
    stage.during(2, OUTAGE);
    let cpu_between = Usage::of(&id).cpu;
    stage.phase.store(3, Ordering::SeqCst);
    for role in &mut roles {
        role.subscribe.clear();
    }
    let back = log_in(&mut fleet, &roles, &places, sizes.patience)?;
    let cpu = [cpu_between - cpu_before, Usage::of(&id).cpu - cpu_between];
    let resumed = fleet.resumed();
    stage.phase.store(4, Ordering::SeqCst);
    for victim in &victims[sizes.victims..2 * sizes.victims] {
        admin.touch(&victim.client_id)?;
    }
    let places: Vec<usize> = (0..victims.len()).collect();
    let mut logins = log_in(&mut others, &victims, &places, sizes.patience)?;
    let answers = attack.stop()?;
    stage.stop.store(true, Ordering::SeqCst);
    stopped.store(true, Ordering::SeqCst);
    let noticed = noticed.join().map_err(|_| "the bystanders panicked".to_owned())??;
    sampler.join().map_err(|_| "the sampler panicked".to_owned())?;
    if let Some(status) = process.ended() {
        return Err(format!("the broker ended, {status}: {}", process.last_words()));
    }
    let new = logins.split_off(2 * sizes.victims);
    let known = logins.split_off(sizes.victims);
    let resident = [at_rest, peak.load(Ordering::SeqCst), Usage::of(&id).resident];
    Ok(Story { back, victims: [logins, known, new], noticed, answers, resident, resumed, cpu })
}

/// How many got in, the times in which half, 99 % and all of those did, and the attempts of all.
fn words(logins: &[Login]) -> Vec<String> {
    let mut took: Vec<f64> = logins.iter().filter_map(|login| login.took).map(milliseconds).collect();
    took.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = ((took.len() as f64 * part).ceil() as usize).saturating_sub(1);
        took.get(place).map_or("-".to_owned(), |time| format!("{time:.0}"))
    };
    let attempts: u32 = logins.iter().map(|login| login.attempts).sum();
    vec![format!("{} of {}", took.len(), logins.len()), at(0.5), at(0.99), at(1.0), attempts.to_string()]
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, sizes: &Sizes) {
    println!(
        "storm: {} password clients{}, verified before, are cut off and connect again at once; {} wrong passwords/s from \
         as many addresses\n",
        sizes.fleet,
        if sizes.tls { " with TLS" } else { "" },
        sizes.guesses
    );
    let mut rows = vec![vec!["logins".to_owned()]];
    rows[0].extend(["in", "p50 ms", "p99 ms", "all ms", "attempts", ""].map(str::to_owned));
    let mut others = vec![vec!["bystanders".to_owned()]];
    others[0].extend(["msg/s", "p50 ms", "p99 ms", "max ms", "driver late p99 ms", ""].map(str::to_owned));
    let mut notes = String::new();
    for &subject in subjects {
        if subject == Subject::MosquittoRemove {
            continue;
        }
        let story = match story(subject, programs, sizes) {
            Ok(story) => story,
            Err(error) => {
                println!("{}: {error}\n", subject.name());
                continue;
            }
        };
        let mut row = |title: &str, logins: &[Login]| {
            let mut row = vec![format!("{}: {title}", subject.name())];
            row.extend(words(logins));
            row.push(String::new());
            rows.push(row);
        };
        row("fleet", &story.back);
        for (kind, logins) in KINDS.iter().zip(&story.victims) {
            row(kind, logins);
        }
        for (name, phase) in PHASES.iter().zip(&story.noticed.phases) {
            let mut row = vec![format!("{}: {name}", subject.name())];
            row.extend(phase.text());
            row.push(String::new());
            others.push(row);
        }
        let Answers { made, refused, busy, unanswered, accepted } = story.answers;
        let [before, peak, after] = story.resident.map(|bytes| bytes >> 20);
        notes += &format!(
            "{}: {made} guesses, {refused} refused, {busy} busy, {unanswered} unanswered, {accepted} accepted; bystanders: \
             {} cut off, {} messages lost; resident MiB: {before} with the fleet, {peak} at most, {after} in the end; CPU \
             of the broker: {:.2} s for the cut, {:.2} s for the return, {} TLS sessions resumed\n",
            subject.name(),
            story.noticed.closed,
            story.noticed.lost,
            story.cpu[0],
            story.cpu[1],
            story.resumed,
        );
    }
    println!("{}\n{}\n{notes}", align(&rows), align(&others));
}

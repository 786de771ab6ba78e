//! Single changes of users, thousands per second by many writers: what do those notice who go on talking?
//!
//! Each writer changes users of its own, one change at a time, waiting for the answer; the users are connected. The
//! phases: quiet; the writers only read, at the same rate, which is what the driver and the HTTP of it cost; the writers
//! change; quiet again. The bystanders' latency of the phases is held side by side. `portcullis, Directory` is the broker
//! inside of the driver's process, whose writers call `Directory::update_user` instead of REST.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use portcullis::access::UserId;
use portcullis::config::Config;
use portcullis::directory::{Actor, Directory, Expected};
use serde_json::{Value, json};

use crate::admin::{Rest, SharedControl};
use crate::brokers::{Admin, Broker, Cost, Person, Plan, Programs, Rights, Subject};
use crate::bystanders::{self, Noticed, Pace, Stage};
use crate::certificates;
use crate::clock::now;
use crate::crowd::{Crowd, Role};
use crate::figures::{Histogram, Usage};
use crate::process::free_port;
use crate::table::align;

const CHANGED: Rights = ("changed", &["changed/#"], &["changed/#"]);

pub(crate) struct Sizes {
    pub(crate) writers: usize,
    /// Changes per second of all writers together; 0: as fast as they are answered.
    pub(crate) rate: f64,
    /// Connected users that each writer changes.
    pub(crate) users: usize,
    pub(crate) seconds: f64,
    pub(crate) pace: Pace,
}

/// What a writer does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Read,
    Change,
}

/// A writer's way to the broker.
enum Way {
    Rest(Rest),
    Control(Arc<SharedControl>),
    Directory(Arc<Directory>),
}

impl Way {
    /// Reads or changes a user once; `count` makes each change another one.
    fn act(&mut self, act: Act, person: &mut Subjected, count: u64) -> Result<(), String> {
        let description = format!("change {count}");
        match (self, act) {
            (Self::Rest(rest), Act::Read) => rest.call("GET", &person.path, None).map(drop),
            (Self::Rest(rest), Act::Change) => {
                let body = json!({ "version": person.version, "description": description });
                person.version = rest.call("PATCH", &person.path, Some(&body))?["version"].clone();
                Ok(())
            }
            (Self::Control(control), Act::Read) => {
                control.call(json!({ "command": "getClient", "username": person.name }))
            }
            (Self::Control(control), Act::Change) => control
                .call(json!({ "command": "modifyClient", "username": person.name, "textdescription": description })),
            (Self::Directory(directory), Act::Read) => {
                directory.policy().user(person.id).map(drop).ok_or("no such user".to_owned())
            }
            (Self::Directory(directory), Act::Change) => {
                let edit = |user: &mut portcullis::access::User| user.description = description;
                let changed = directory.update_user(person.id, Expected::Any, edit, &Actor::System);
                changed.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// A user that is changed.
struct Subjected {
    name: String,
    path: String,
    version: Value,
    id: UserId,
}

/// What all writers share.
struct Work {
    /// 0: rest; 1: read; 2: change.
    mode: AtomicU64,
    /// Acts of this mode that somebody has taken on.
    taken: AtomicU64,
    began: AtomicU64,
    stop: AtomicBool,
    rate: f64,
}

/// For reads, and for changes: how long each took, and how many there were.
struct Took {
    reads: Histogram,
    changes: Histogram,
    counts: [u64; 2],
}

fn write(mut way: Way, mut people: Vec<Subjected>, work: &Work) -> Result<Took, String> {
    let mut took = Took { reads: Histogram::new(), changes: Histogram::new(), counts: [0; 2] };
    let mut count = 0_u64;
    while !work.stop.load(Ordering::SeqCst) {
        let act = match work.mode.load(Ordering::SeqCst) {
            1 => Act::Read,
            2 => Act::Change,
            _ => {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
        };
        if work.rate > 0.0 {
            // Whoever is free takes the next one when it is due.
            let number = work.taken.fetch_add(1, Ordering::SeqCst);
            let due = work.began.load(Ordering::SeqCst) + (number as f64 * 1e9 / work.rate) as u64;
            let early = due.saturating_sub(now());
            if early > 0 {
                std::thread::sleep(Duration::from_nanos(early.min(1_000_000_000)));
            }
        }
        count += 1;
        let place = count as usize % people.len();
        let started = now();
        way.act(act, &mut people[place], count)?;
        let elapsed = now() - started;
        match act {
            Act::Read => took.reads.record(elapsed),
            Act::Change => took.changes.record(elapsed),
        }
        took.counts[usize::from(act == Act::Change)] += 1;
    }
    Ok(took)
}

struct Story {
    noticed: Noticed,
    writers: Vec<Took>,
    /// CPU seconds of the broker, of the reads and of the changes; none where it shares a process with the driver.
    cpu: Option<[f64; 2]>,
    /// Clients that were cut off because their users were changed, of how many.
    cut_off: (usize, usize),
}

const PHASES: [&str; 4] = ["quiet", "writers read", "writers change", "quiet again"];

/// The story of a broker that runs at `address` and whose writers come by these ways.
fn tell(
    address: SocketAddr,
    ways: Vec<(Way, Vec<Subjected>)>,
    names: &[String],
    sizes: &Sizes,
    process: Option<&str>,
) -> Result<Story, String> {
    let mut crowd = Crowd::new(address).map_err(|error| error.to_string())?;
    let roles: Vec<Role> = names
        .iter()
        .map(|name| Role {
            subscribe: vec![format!("changed/{name}")],
            ..Role::new(name, &Person::new(name.clone(), &[]).password)
        })
        .collect();
    crowd.connect_all(&roles, Duration::from_mins(2))?;
    let stage = Arc::new(Stage::default());
    let noticed = bystanders::start(address, sizes.pace, PHASES.len() + 1, &stage)?;
    let work = Arc::new(Work {
        mode: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        began: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        rate: sizes.rate,
    });
    let writers: Vec<JoinHandle<_>> = ways
        .into_iter()
        .map(|(way, people)| {
            let work = Arc::clone(&work);
            std::thread::spawn(move || write(way, people, &work))
        })
        .collect();
    let cpu = || process.map_or(0.0, |id| Usage::of(id).cpu);
    stage.during(PHASES.len(), 1.0);
    stage.during(0, sizes.seconds);
    let mut spent = [0.0; 2];
    for mode in [1, 2] {
        work.taken.store(0, Ordering::SeqCst);
        work.began.store(now(), Ordering::SeqCst);
        work.mode.store(mode, Ordering::SeqCst);
        let before = cpu();
        stage.during(mode as usize, sizes.seconds);
        spent[mode as usize - 1] = cpu() - before;
        work.mode.store(0, Ordering::SeqCst);
        // What is under way ends in nobody's phase.
        stage.during(PHASES.len(), 0.5);
    }
    stage.during(3, sizes.seconds);
    work.stop.store(true, Ordering::SeqCst);
    stage.stop.store(true, Ordering::SeqCst);
    let writers: Result<Vec<Took>, String> =
        writers.into_iter().map(|writer| writer.join().map_err(|_| "a writer panicked".to_owned())?).collect();
    let noticed = noticed.join().map_err(|_| "the bystanders panicked".to_owned())??;
    // Whoever was cut off finds the end of the stream.
    for _ in 0..=names.len() / 1_000 {
        crowd.turn(Duration::from_millis(50), &mut |_| {})?;
    }
    let cut_off = (crowd.closed, names.len());
    Ok(Story { noticed, writers: writers?, cpu: process.map(|_| spent), cut_off })
}

fn people(sizes: &Sizes) -> (Vec<String>, Vec<Person>) {
    let names: Vec<String> = (0..sizes.writers * sizes.users).map(|number| format!("changed-{number}")).collect();
    let mut people: Vec<Person> = names.iter().map(|name| Person::new(name.clone(), &["changed"])).collect();
    people.extend(bystanders::people(sizes.pace.pairs));
    (names, people)
}

fn subjected(name: &str, version: Value, id: UserId) -> Subjected {
    Subjected { name: name.to_owned(), path: format!("/api/users/{name}"), version, id }
}

fn story(subject: Subject, programs: &Programs, sizes: &Sizes) -> Result<Story, String> {
    let (names, people) = people(sizes);
    let rights = [CHANGED, bystanders::ROLE];
    let plan = Plan { programs, cost: Cost::Least, roles: &rights, people: &people };
    let Broker { mut process, address, mut admin, .. } = plan.start(subject)?;
    let mut shares = Vec::new();
    for names in names.chunks(sizes.users) {
        let mut subjects = Vec::new();
        for name in names {
            subjects.push(subjected(name, admin.version(name)?, UserId(uuid::Uuid::nil())));
        }
        shares.push(subjects);
    }
    let ways: Result<Vec<_>, String> = match admin {
        Admin::Rest(rest) => shares.into_iter().map(|subjects| Ok((Way::Rest(rest.another()?), subjects))).collect(),
        Admin::Control { control, .. } => {
            let control = SharedControl::new(control)?;
            Ok(shares.into_iter().map(|subjects| (Way::Control(Arc::clone(&control)), subjects)).collect())
        }
    };
    let story = tell(address, ways?, &names, sizes, Some(&process.id()))
        .map_err(|error| format!("{error} | {}", process.last_words()))?;
    match process.ended() {
        None => Ok(story),
        Some(status) => Err(format!("the broker ended, {status}: {}", process.last_words())),
    }
}

/// The broker in this very process.
fn embedded(programs: &Programs, sizes: &Sizes) -> Result<Story, String> {
    let (names, people) = people(sizes);
    let rights = [CHANGED, bystanders::ROLE];
    let plan = Plan { programs, cost: Cost::Least, roles: &rights, people: &people };
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    certificates::make(directory.path())?;
    let port = |error: Box<dyn std::error::Error>| error.to_string();
    let (plain, tls) = (free_port().map_err(port)?, free_port().map_err(port)?);
    let config = Config::parse(&plan.toml(plain, tls)?, directory.path()).map_err(|error| format!("{error:?}"))?;
    let socket = config.admin_socket();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let broker =
        runtime.block_on(portcullis::broker::Broker::builder(config).bind()).map_err(|error| error.to_string())?;
    plan.populate(&mut Rest::open(&socket)?)?;
    let users = Arc::clone(broker.handle().directory());
    let policy = users.policy();
    let mut ways = Vec::new();
    for names in names.chunks(sizes.users) {
        let mut subjects = Vec::new();
        for name in names {
            let username = name.parse().map_err(|_| format!("`{name}` is no user name"))?;
            let id = policy.user_named(&username).ok_or("a user is missing")?.id;
            subjects.push(subjected(name, Value::Null, id));
        }
        ways.push((Way::Directory(Arc::clone(&users)), subjects));
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, plain));
    let story = tell(address, ways, &names, sizes, None);
    runtime.block_on(broker.shutdown());
    story
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, sizes: &Sizes) {
    println!(
        "commits: {} writers change {} connected users, {}; {} s of each phase\n",
        sizes.writers,
        sizes.writers * sizes.users,
        if sizes.rate > 0.0 { format!("{} changes/s in all", sizes.rate) } else { "as fast as they can".to_owned() },
        sizes.seconds,
    );
    let mut rows = vec![
        [
            "",
            "reads/s",
            "p50 ms",
            "p99 ms",
            "changes/s",
            "p50 ms",
            "p99 ms",
            "max ms",
            "broker CPU s: reads, changes",
            "",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut others = vec![vec!["bystanders".to_owned()]];
    others[0].extend(["msg/s", "p50 ms", "p99 ms", "max ms", "driver late p99 ms", ""].map(str::to_owned));
    let mut notes = String::new();
    for &subject in subjects {
        if subject == Subject::MosquittoRemove {
            continue;
        }
        let mut stories = vec![(subject.name().to_owned(), story(subject, programs, sizes))];
        if subject == Subject::Portcullis {
            stories.push((format!("{}, Directory", subject.name()), embedded(programs, sizes)));
        }
        for (name, story) in stories {
            let story = match story {
                Ok(story) => story,
                Err(error) => {
                    println!("{name}: {error}\n");
                    continue;
                }
            };
            let (mut reads, mut changes) = (Histogram::new(), Histogram::new());
            let mut counts = [0; 2];
            for took in &story.writers {
                reads.add(&took.reads);
                changes.add(&took.changes);
                counts = [counts[0] + took.counts[0], counts[1] + took.counts[1]];
            }
            let at = |histogram: &Histogram, part| format!("{:.2}", histogram.quantile(part) / 1e3);
            rows.push(vec![
                name.clone(),
                format!("{:.0}", counts[0] as f64 / sizes.seconds),
                at(&reads, 0.5),
                at(&reads, 0.99),
                format!("{:.0}", counts[1] as f64 / sizes.seconds),
                at(&changes, 0.5),
                at(&changes, 0.99),
                format!("{:.2}", changes.max() / 1e3),
                story.cpu.map_or("-".to_owned(), |[reads, changes]| format!("{reads:.2}, {changes:.2}")),
                String::new(),
            ]);
            for (phase_name, phase) in PHASES.iter().zip(&story.noticed.phases) {
                let mut row = vec![format!("{name}: {phase_name}")];
                row.extend(phase.text());
                row.push(String::new());
                others.push(row);
            }
            notes += &format!(
                "{name}: bystanders: {} cut off, {} messages lost; of {} clients whose users were changed {} were cut off\n",
                story.noticed.closed, story.noticed.lost, story.cut_off.1, story.cut_off.0,
            );
        }
    }
    println!("{}\n{}\n{notes}", align(&rows), align(&others));
}

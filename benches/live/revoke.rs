//! One right of very many live clients goes, and comes back.
//!
//! N clients hold a role; each reads a topic by that role (`shut/...`) and another one by a second role (`open/...`),
//! and both are published to all the time. The role's rights are taken away through the administration API, and given
//! back, several times. A message of `shut` that comes to a holder after the answer is held against two moments:
//! published after the answer, or read from a socket that had been seen empty after the answer. Either is a breach. What
//! lay in the kernel's buffers when the answer came is neither, and is counted apart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::brokers::{Cost, Person, Plan, Programs, Rights, Subject};
use crate::bystanders::{self, Noticed, Pace, Stage};
use crate::clock::{milliseconds, now};
use crate::crowd::{Crowd, Role, State};
use crate::figures::{Histogram, Track, Usage};
use crate::table::{align, median};

/// Clients that read the same topic.
const GROUP: usize = 100;

const LINE: Rights = ("line", &["shut/#"], &[]);
const OTHER: Rights = ("other-line", &["shut/#"], &[]);
const BASE: Rights = ("base", &["open/#"], &[]);
const FEEDER: Rights = ("feeder", &[], &["shut/#", "open/#"]);

pub(crate) struct Sizes {
    pub(crate) clients: usize,
    /// The part of the clients that hold the role, 0 to 1.
    pub(crate) holders: f64,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    /// Messages per second that are published to the clients' topics; each goes to 100 of them.
    pub(crate) feed: f64,
    pub(crate) pace: Pace,
}

/// What the checker found.
#[derive(Default)]
struct Found {
    /// Published after the answer, delivered all the same.
    published_after: u64,
    /// Read from a socket that had been seen empty after the answer.
    delivered_after: u64,
    /// How long after the answer at least, at most (ns).
    latest: u64,
    /// With the kernel when the answer came.
    in_kernel: u64,
    deliveries: u64,
    lost_open: u64,
    cut: usize,
    /// Of the holders, how many have read `shut` since it was given back; for each round.
    restored: Vec<usize>,
    /// Of the others.
    restored_after_ms: Vec<f64>,
    shut_for_others: u64,
    latency: Histogram2,
}

struct Histogram2(Histogram);

impl Default for Histogram2 {
    fn default() -> Self {
        Self(Histogram::new())
    }
}

struct Checker {
    crowd: Crowd,
    stage: Arc<Stage>,
    holders: usize,
    readers: usize,
    feeder: usize,
    feed: f64,
    found: Found,
}

impl Checker {
    fn run(mut self) -> Result<Found, String> {
        let groups = self.readers.div_ceil(GROUP);
        let topics: Vec<[String; 2]> =
            (0..groups).map(|group| [format!("shut/{group}"), format!("open/{group}")]).collect();
        let mut numbers = vec![[0_u64; 2]; groups];
        let mut tracks: Vec<Track> = (0..self.readers).map(|_| Track::default()).collect();
        let (start, mut scheduled) = (now(), 0_u64);
        let mut answered = 0;
        // Since when it is given back (ns), and who has seen it.
        let mut restored_at = 0;
        let mut restored: BTreeSet<usize> = BTreeSet::new();
        let mut stopped_at = 0;
        loop {
            let time = now();
            if stopped_at == 0 && self.stage.stop.load(Ordering::SeqCst) {
                stopped_at = time;
            }
            if stopped_at != 0 && milliseconds(time - stopped_at) > 1000.0 {
                break;
            }
            loop {
                if stopped_at != 0 {
                    break;
                }
                let due = start + (scheduled as f64 * 1e9 / self.feed) as u64;
                if due > now() {
                    break;
                }
                let (group, which) = (scheduled as usize / 2 % groups, scheduled as usize % 2);
                scheduled += 1;
                if self.crowd.publish(self.feeder, &topics[group][which], now(), numbers[group][which]) {
                    numbers[group][which] += 1;
                }
            }
            let current = self.stage.answered.load(Ordering::SeqCst);
            let fresh = current != answered && current != 0;
            if current == 0 && answered != 0 {
                restored_at = time;
                restored.clear();
            } else if fresh && restored_at != 0 {
                self.found.restored.push(restored.len());
                restored_at = 0;
            }
            answered = current;
            let Self { crowd, found, holders, readers, .. } = &mut self;
            let mut look = |seen: &crate::crowd::Seen<'_>| {
                found.deliveries += 1;
                found.latency.0.record(seen.now.saturating_sub(seen.sent));
                if seen.topic.starts_with(b"open") {
                    tracks[seen.client].take(seen.number);
                } else if seen.client >= *holders {
                    found.shut_for_others += 1;
                } else if answered != 0 {
                    if seen.sent > answered {
                        found.published_after += 1;
                    }
                    if seen.empty_at > answered {
                        found.delivered_after += 1;
                        found.latest = found.latest.max(seen.empty_at - answered);
                    } else {
                        found.in_kernel += 1;
                    }
                } else if restored_at != 0
                    && seen.sent > restored_at
                    && restored.insert(seen.client)
                    && restored.len() == *holders
                {
                    found.restored_after_ms.push(milliseconds(seen.now - restored_at));
                }
            };
            if fresh {
                // Every socket is read to its end at once: from here on, what comes was not there before.
                for index in 0..*readers {
                    crowd.serve(index, &mut look);
                }
            }
            crowd.turn(Duration::from_millis(1), &mut look)?;
        }
        if restored_at != 0 {
            self.found.restored.push(restored.len());
        }
        for (index, track) in tracks.iter().enumerate() {
            if self.crowd.clients[index].state != State::Closed {
                self.found.lost_open += track.lost(numbers[index / GROUP][1]);
            }
        }
        self.found.cut = self.crowd.closed;
        Ok(self.found)
    }
}

/// One story with one broker.
struct Story {
    answers_ms: Vec<f64>,
    restores_ms: Vec<f64>,
    found: Found,
    noticed: Noticed,
    resident: u64,
}

const PHASES: [&str; 4] = ["before", "revoking", "revoked", "restoring"];

fn story(subject: Subject, programs: &Programs, sizes: &Sizes) -> Result<Story, String> {
    let holders = (sizes.clients as f64 * sizes.holders).round() as usize;
    let mut people: Vec<Person> = (0..sizes.clients)
        .map(|index| {
            let roles: &[&str] = if index < holders { &["line", "base"] } else { &["other-line", "base"] };
            Person::new(format!("device-{index}"), roles)
        })
        .collect();
    let mut roles: Vec<Role> = people
        .iter()
        .enumerate()
        .map(|(index, person)| {
            let group = index / GROUP;
            let subscribe = vec![format!("shut/{group}"), format!("open/{group}")];
            Role { subscribe, v5: index % 2 == 1, ..Role::new(&person.name, &person.password) }
        })
        .collect();
    people.push(Person::new("feeder-1".to_owned(), &["feeder"]));
    roles.push(Role::new("feeder-1", "a secret of feeder-1"));
    people.extend(bystanders::people(sizes.pace.pairs));
    let rights = [LINE, OTHER, BASE, FEEDER, bystanders::ROLE];
    let mut broker = Plan { programs, cost: Cost::Least, roles: &rights, people: &people }.start(subject)?;
    let stage = Arc::new(Stage::default());
    let mut crowd = Crowd::new(broker.address).map_err(|error| error.to_string())?;
    crowd.connect_all(&roles, Duration::from_mins(3))?;
    let checker = Checker {
        crowd,
        stage: Arc::clone(&stage),
        holders,
        readers: sizes.clients,
        feeder: sizes.clients,
        feed: sizes.feed,
        found: Found::default(),
    };
    let checker: JoinHandle<_> = std::thread::spawn(move || checker.run());
    let noticed = bystanders::start(broker.address, sizes.pace, PHASES.len() + 1, &stage)?;
    // The last phase is nobody's: it warms up.
    stage.during(PHASES.len(), 1.0);
    let (mut answers_ms, mut restores_ms) = (Vec::new(), Vec::new());
    let mut outcome = Ok(());
    for _ in 0..sizes.rounds {
        stage.during(0, sizes.seconds);
        stage.phase.store(1, Ordering::SeqCst);
        let asked = now();
        outcome = broker.admin.revoke(&LINE);
        let answered = now();
        stage.answered.store(answered, Ordering::SeqCst);
        answers_ms.push(milliseconds(answered - asked));
        if outcome.is_err() {
            break;
        }
        stage.during(1, 0.5);
        stage.during(2, sizes.seconds);
        stage.phase.store(3, Ordering::SeqCst);
        stage.answered.store(0, Ordering::SeqCst);
        let asked = now();
        outcome = broker.admin.restore(&LINE);
        restores_ms.push(milliseconds(now() - asked));
        if outcome.is_err() {
            break;
        }
        stage.during(3, 0.5);
    }
    stage.during(0, sizes.seconds);
    stage.stop.store(true, Ordering::SeqCst);
    let noticed = noticed.join().map_err(|_| "the bystanders panicked".to_owned())?;
    let found = checker.join().map_err(|_| "the checker panicked".to_owned())?;
    let words = broker.process.last_words();
    outcome.map_err(|error| format!("{error} | {words}"))?;
    if let Some(status) = broker.process.ended() {
        return Err(format!("the broker ended, {status}: {words}"));
    }
    let resident = Usage::of(&broker.process.id()).resident;
    Ok(Story { answers_ms, restores_ms, found: found?, noticed: noticed?, resident })
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, sizes: &Sizes) {
    let holders = (sizes.clients as f64 * sizes.holders).round();
    println!(
        "revoke: {} clients with a user each, {holders} of them lose one role; {} messages/s to 100 clients each; \
         {} pairs of bystanders at {}; {} rounds of {} s\n",
        sizes.clients,
        sizes.feed,
        sizes.pace.pairs,
        if sizes.pace.rate > 0.0 { format!("{} messages/s", sizes.pace.rate) } else { "full speed".to_owned() },
        sizes.rounds,
        sizes.seconds,
    );
    let mut rows: Vec<Vec<String>> = [
        "",
        "answer, ms: median",
        "answer, ms: longest",
        "answer to the restoring, ms: median",
        "forbidden messages published after the answer",
        "forbidden messages delivered after the answer",
        "latest forbidden message, ms after the answer",
        "forbidden messages in the kernel's buffers at the answer",
        "clients of that role cut off",
        "permitted messages lost by clients that stayed",
        "holders that read it again after the restoring, least of the rounds",
        "all of them after, ms: median",
        "bystanders cut off",
        "bystanders' messages lost",
        "resident at the end, MiB",
        "",
    ]
    .iter()
    .map(|title| vec![(*title).to_owned()])
    .collect();
    let mut phases = vec![vec!["bystanders".to_owned()]];
    phases[0].extend(["msg/s", "p50 ms", "p99 ms", "max ms", "driver late p99 ms", ""].map(str::to_owned));
    for &subject in subjects {
        let mut story = match story(subject, programs, sizes) {
            Ok(story) => story,
            Err(error) => {
                println!("{}: {error}\n", subject.name());
                continue;
            }
        };
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        let found = &mut story.found;
        let cells = [
            subject.name().to_owned(),
            number(median(&mut story.answers_ms)),
            number(story.answers_ms.last().copied()),
            number(median(&mut story.restores_ms)),
            found.published_after.to_string(),
            found.delivered_after.to_string(),
            format!("{:.1}", milliseconds(found.latest)),
            found.in_kernel.to_string(),
            found.cut.to_string(),
            found.lost_open.to_string(),
            found.restored.iter().min().map_or("-".to_owned(), ToString::to_string),
            number(median(&mut found.restored_after_ms)),
            story.noticed.closed.to_string(),
            (story.noticed.lost + story.noticed.repeated).to_string(),
            (story.resident >> 20).to_string(),
            String::new(),
        ];
        for (row, cell) in rows.iter_mut().zip(cells) {
            row.push(cell);
        }
        for (name, phase) in PHASES.iter().zip(&story.noticed.phases) {
            let mut row = vec![format!("{}: {name}", subject.name())];
            row.extend(phase.text());
            row.push(String::new());
            phases.push(row);
        }
    }
    for row in &mut rows {
        row.push(String::new());
    }
    println!("{}\n{}", align(&rows), align(&phases));
}

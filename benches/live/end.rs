//! A user's end: disabled, deleted, another password, its certificate revoked; or the end of its rights; while it talks and
//! while passwords are guessed.
//!
//! Each user in turn has two connections (MQTT 5.0 and 3.1.1) that are sent messages all the time and send some
//! themselves. Then the administrator ends it. Measured from the administrator's request, and from the answer: the last
//! byte that the user's sockets gave, the end of their streams, and the last message of theirs that somebody else got.
//! Beside each change stands what it costs at that moment to write 4 KiB to the same disk and sync them (`fsync`): no
//! change that is durable before it is answered can be quicker.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::brokers::{Admin, Broker, Cost, Person, Plan, Programs, Rights, Subject};
use crate::bystanders::{self, Noticed, Pace, Stage};
use crate::certificates;
use crate::clock::now;
use crate::crowd::{Crowd, Role, State};
use crate::guesses::{Answers, Attack};
use crate::table::align;

const VICTIM: Rights = ("victim", &["end/#"], &["from/#"]);
const OBSERVER: Rights = ("observer-of-them", &["from/#"], &["end/#"]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Disabled,
    Deleted,
    Password,
    /// Its only role is taken: it stays connected.
    Role,
    /// Its certificate is revoked. The plugin of mosquitto knows no certificates.
    Certificate,
}

const MEANS: [(Means, &str); 5] = [
    (Means::Disabled, "disabled"),
    (Means::Deleted, "deleted"),
    (Means::Password, "new password"),
    (Means::Role, "role taken"),
    (Means::Certificate, "certificate revoked"),
];

fn means(subject: Subject) -> &'static [(Means, &'static str)] {
    if subject == Subject::Portcullis { &MEANS } else { &MEANS[..4] }
}

pub(crate) struct Sizes {
    /// Users that are ended, by each means.
    pub(crate) users: usize,
    /// Messages per second to each connection, and from each.
    pub(crate) rate: f64,
    /// Wrong passwords per second.
    pub(crate) guesses: f64,
    pub(crate) pace: Pace,
}

/// One connection's end (ns).
#[derive(Clone, Copy, Default)]
struct End {
    asked: u64,
    answered: u64,
    /// The last message to it.
    last_to: u64,
    /// That message was handed to the kernel after this moment.
    last_to_not_before: u64,
    closed: u64,
    disconnect: Option<u8>,
    /// The last message from it that reached the observer: when it was sent.
    last_from: u64,
    /// When it came.
    last_from_seen: u64,
}

/// Sends to the user whose turn it is, and from it, and takes notes until told to stop.
fn watch(mut crowd: Crowd, rate: f64, turn: &AtomicUsize, stop: &AtomicBool) -> Result<Vec<End>, String> {
    // Two for each user, then the observer.
    let observer = crowd.clients.len() - 1;
    let mut ends = vec![End::default(); observer];
    let topics: Vec<[String; 2]> =
        (0..observer).map(|index| [format!("end/{index}"), format!("from/{index}")]).collect();
    let (start, mut scheduled) = (now(), 0_u64);
    while !stop.load(Ordering::SeqCst) {
        let user = turn.load(Ordering::SeqCst);
        while start + (scheduled as f64 * 1e9 / rate) as u64 <= now() {
            for index in [2 * user, 2 * user + 1] {
                if let Some([to, from]) = topics.get(index) {
                    crowd.publish(observer, to, now(), scheduled);
                    crowd.publish(index, from, now(), scheduled);
                }
            }
            scheduled += 1;
        }
        crowd.turn(Duration::from_millis(1), &mut |seen| {
            if seen.client == observer {
                let from = seen.topic.get(5..).and_then(|number| std::str::from_utf8(number).ok());
                if let Some(end) =
                    from.and_then(|number| number.parse().ok()).and_then(|index: usize| ends.get_mut(index))
                {
                    end.last_from = end.last_from.max(seen.sent);
                    end.last_from_seen = seen.now;
                }
            } else if let Some(end) = ends.get_mut(seen.client) {
                end.last_to = seen.now;
                end.last_to_not_before = seen.empty_at;
            }
        })?;
    }
    for (end, client) in ends.iter_mut().zip(&crowd.clients) {
        end.closed = client.closed_at;
        end.disconnect = client.disconnect;
    }
    if crowd.clients[observer].state == State::Closed {
        return Err("the observer was cut off".to_owned());
    }
    Ok(ends)
}

/// What the disk takes for 4 KiB (ns).
fn sync_a_little(file: &mut File) -> std::io::Result<u64> {
    let started = now();
    file.write_all(&[b'x'; 4096])?;
    file.sync_data()?;
    Ok(now() - started)
}

struct Story {
    ends: Vec<End>,
    /// What a sync cost beside each change (ns).
    syncs: Vec<u64>,
    noticed: Noticed,
    answers: Answers,
}

fn story(subject: Subject, programs: &Programs, sizes: &Sizes) -> Result<Story, String> {
    let means = means(subject);
    let users = sizes.users * means.len();
    let certified = |user: usize| means[user % means.len()].0 == Means::Certificate;
    let name = |user: usize| format!("victim-{user}");
    let mut people: Vec<Person> =
        (0..users).filter(|user| !certified(*user)).map(|user| Person::new(name(user), &["victim"])).collect();
    let observer = Person::new("observer-1".to_owned(), &["observer-of-them"]);
    people.push(Person { name: observer.name.clone(), password: observer.password.clone(), ..observer });
    people.extend(bystanders::people(sizes.pace.pairs));
    let rights = [VICTIM, OBSERVER, bystanders::ROLE];
    let Broker { mut process, address, tls, roots, mut admin } =
        Plan { programs, cost: Cost::Default, roles: &rights, people: &people }.start(subject)?;
    let mut serials = Vec::new();
    let mut roles = Vec::new();
    if let Admin::Rest(rest) = &mut admin {
        rest.call("POST", "/api/client-registry/unlock", None)?;
    }
    for user in 0..users {
        let device = match &mut admin {
            Admin::Rest(rest) if certified(user) => {
                Some(certificates::enrol(rest, tls, &roots, &name(user), VICTIM.0)?)
            }
            _ => None,
        };
        for (index, v5) in [(2 * user, true), (2 * user + 1, false)] {
            let mut role = Role::new(&name(user), &Person::new(name(user), &[]).password);
            if let Some(device) = &device {
                (role.login, role.tls) = (None, Some((tls, Arc::clone(&device.tls))));
            }
            let client_id = format!("client-{index}");
            roles.push(Role { client_id, subscribe: vec![format!("end/{index}")], v5, ..role });
        }
        serials.push(device.map(|device| device.serial));
    }
    roles.push(Role { subscribe: vec!["from/#".to_owned()], ..Role::new("observer-1", "a secret of observer-1") });
    let mut crowd = Crowd::new(address).map_err(|error| error.to_string())?;
    crowd.connect_all(&roles, Duration::from_mins(5))?;
    let directory = process.directory().to_owned();
    let stage = Arc::new(Stage::default());
    let noticed = bystanders::start(address, sizes.pace, 3, &stage)?;
    stage.during(2, 1.0);
    stage.during(0, 3.0);
    let attack = Attack::start(address, sizes.guesses, (0..users).map(name).collect())?;
    let mut file = File::create(directory.join("synced")).map_err(|error| error.to_string())?;
    let (turn, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let watching = {
        let (turn, stop, rate) = (Arc::clone(&turn), Arc::clone(&stop), sizes.rate);
        std::thread::spawn(move || watch(crowd, rate, &turn, &stop))
    };
    // The queue of the attacker's guesses fills.
    stage.during(1, 1.0);
    let mut moments = Vec::new();
    let mut syncs = Vec::new();
    let mut outcome = Ok(());
    for user in 0..users {
        turn.store(user, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(60));
        let name = name(user);
        let version = admin.version(&name)?;
        let asked = now();
        outcome = match means[user % means.len()].0 {
            Means::Disabled => admin.disable(&name),
            Means::Deleted => admin.delete(&name, &version),
            Means::Password => admin.set_password(&name, "another secret of it", &version),
            Means::Role => admin.take_role(&name, VICTIM.0, &version),
            Means::Certificate => match (&mut admin, &serials[user]) {
                (Admin::Rest(rest), Some(serial)) => {
                    rest.call("POST", &format!("/api/users/{name}/certificates/{serial}/revoke"), None).map(drop)
                }
                _ => Err(format!("`{name}` has no certificate")),
            },
        };
        moments.push((asked, now()));
        if outcome.is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(120));
        syncs.push(sync_a_little(&mut file).map_err(|error| error.to_string())?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let answers = attack.stop()?;
    stop.store(true, Ordering::SeqCst);
    stage.stop.store(true, Ordering::SeqCst);
    let mut ends = watching.join().map_err(|_| "the watcher panicked".to_owned())??;
    let noticed = noticed.join().map_err(|_| "the bystanders panicked".to_owned())??;
    outcome.map_err(|error| format!("{error} | {}", process.last_words()))?;
    if let Some(status) = process.ended() {
        return Err(format!("the broker ended, {status}: {}", process.last_words()));
    }
    for (index, end) in ends.iter_mut().enumerate() {
        (end.asked, end.answered) = moments[index / 2];
    }
    Ok(Story { ends, syncs, noticed, answers })
}

/// Median, 99th percentile and largest of milliseconds after a moment; what came before the moment is negative.
fn spread(values: impl Iterator<Item = (u64, u64)>) -> String {
    let mut values: Vec<f64> = values.map(|(at, from)| (at as f64 - from as f64) / 1e6).collect();
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values.get(((values.len() as f64 * part).ceil() as usize).saturating_sub(1)).copied();
    match (at(0.5), at(0.99), at(1.0)) {
        (Some(middle), Some(most), Some(last)) => format!("{middle:.1} / {most:.1} / {last:.1}"),
        _ => "-".to_owned(),
    }
}

pub(crate) fn run(subjects: &[Subject], programs: &Programs, sizes: &Sizes) {
    println!(
        "end: {} users by each means, two connections each (5.0 and 3.1.1), {} messages/s to and from each connection; \
         {} wrong passwords/s meanwhile\nmilliseconds: median / p99 / max\n",
        sizes.users, sizes.rate, sizes.guesses,
    );
    let mut rows = vec![
        [
            "",
            "",
            "fsync beside it",
            "asked to answer",
            "asked to last message to it",
            "answer to last message to it, at least",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows[0].extend(
        ["asked to end of stream", "answer to last message accepted from it", "5.0: DISCONNECT", "still open", ""]
            .map(str::to_owned),
    );
    let mut others = vec![vec!["bystanders".to_owned()]];
    others[0].extend(["msg/s", "p50 ms", "p99 ms", "max ms", "driver late p99 ms", ""].map(str::to_owned));
    let mut notes = String::new();
    for &subject in subjects {
        // How rules are changed makes no difference here.
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
        let means = means(subject);
        for (place, (_, name)) in means.iter().enumerate() {
            let ends = || story.ends.iter().enumerate().filter(move |(index, _)| index / 2 % means.len() == place);
            let codes: Vec<u8> =
                ends().filter(|(index, _)| index % 2 == 0).filter_map(|(_, end)| end.disconnect).collect();
            let told = format!("{} of {}", codes.iter().filter(|code| **code == 0x87).count(), sizes.users);
            let reached = || ends().filter(|(_, end)| end.last_to != 0);
            let syncs = story.syncs.iter().skip(place).step_by(means.len());
            rows.push(vec![
                subject.name().to_owned(),
                (*name).to_owned(),
                spread(syncs.map(|took| (*took, 0))),
                spread(ends().map(|(_, end)| (end.answered, end.asked))),
                spread(reached().map(|(_, end)| (end.last_to, end.asked))),
                spread(reached().map(|(_, end)| (end.last_to_not_before, end.answered))),
                spread(ends().filter(|(_, end)| end.closed != 0).map(|(_, end)| (end.closed, end.asked))),
                spread(ends().filter(|(_, end)| end.last_from != 0).map(|(_, end)| (end.last_from, end.answered))),
                told,
                ends().filter(|(_, end)| end.closed == 0).count().to_string(),
                String::new(),
            ]);
        }
        for (name, phase) in ["before", "while guessed at"].iter().zip(&story.noticed.phases) {
            let mut row = vec![format!("{}: {name}", subject.name())];
            row.extend(phase.text());
            row.push(String::new());
            others.push(row);
        }
        let Answers { made, refused, busy, unanswered, accepted } = story.answers;
        notes += &format!(
            "{}: {made} guesses, {refused} refused, {busy} busy, {unanswered} unanswered, {accepted} accepted; bystanders: \
             {} cut off, {} messages lost\n",
            subject.name(),
            story.noticed.closed,
            story.noticed.lost,
        );
    }
    println!("{}\n{}\n{notes}", align(&rows), align(&others));
}

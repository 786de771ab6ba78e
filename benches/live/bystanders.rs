//! The others: pairs of clients that nobody touches, and what they notice.
//!
//! In: how fast they talk, and which phase the story is in. Out: for each phase, how many messages came and how long they
//! took; what was lost, and how many connections were cut, must both be zero.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::brokers::Person;
use crate::clock::{milliseconds, now};
use crate::crowd::{Crowd, Role};
use crate::figures::{Histogram, Track};

/// Messages of one pair that are on their way when it talks as fast as it can.
const WINDOW: u64 = 10;

/// What all threads of a story share.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) phase: AtomicUsize,
    pub(crate) stop: AtomicBool,
    /// While a right is gone: when the answer that said so was here (ns). 0: it is not gone.
    pub(crate) answered: AtomicU64,
}

impl Stage {
    /// The story goes on with this phase, for so long.
    pub(crate) fn during(&self, phase: usize, seconds: f64) {
        self.phase.store(phase, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) pairs: usize,
    /// Messages per second of all pairs together; 0: as fast as they come back.
    pub(crate) rate: f64,
}

pub(crate) struct Phase {
    pub(crate) latency: Histogram,
    pub(crate) received: u64,
    /// How long the phase lasted in all (ns).
    pub(crate) lasted: u64,
    /// How late the driver itself was: the part of a latency that is not the broker's.
    pub(crate) lateness: Histogram,
}

impl Phase {
    pub(crate) fn per_second(&self) -> f64 {
        self.received as f64 / (self.lasted as f64 / 1e9)
    }

    pub(crate) fn text(&self) -> [String; 5] {
        let quantile = |part| format!("{:.2}", self.latency.quantile(part) / 1e3);
        [
            format!("{:.0}", self.per_second()),
            quantile(0.5),
            quantile(0.99),
            format!("{:.2}", self.latency.max() / 1e3),
            format!("{:.2}", self.lateness.quantile(0.99) / 1e3),
        ]
    }
}

pub(crate) struct Noticed {
    pub(crate) phases: Vec<Phase>,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) closed: usize,
}

/// One user for each of them.
pub(crate) fn people(pairs: usize) -> Vec<Person> {
    (0..pairs).map(|pair| Person::new(format!("bystander-{pair}"), &["bystander"])).collect()
}

pub(crate) const ROLE: crate::brokers::Rights = ("bystander", &["by/#"], &["by/#"]);

/// Connects them and lets them talk until the stage says stop.
pub(crate) fn start(
    address: SocketAddr,
    pace: Pace,
    phases: usize,
    stage: &Arc<Stage>,
) -> Result<JoinHandle<Result<Noticed, String>>, String> {
    let mut crowd = Crowd::new(address).map_err(|error| error.to_string())?;
    let mut roles = Vec::new();
    for (pair, person) in people(pace.pairs).iter().enumerate() {
        let role = Role::new(&person.name, &person.password);
        let filter = vec![format!("by/{pair}")];
        roles.push(Role { client_id: format!("reader-{pair}"), subscribe: filter, ..role.clone() });
        roles.push(Role { client_id: format!("writer-{pair}"), ..role });
    }
    crowd.connect_all(&roles, Duration::from_mins(1))?;
    let stage = Arc::clone(stage);
    Ok(std::thread::spawn(move || talk(&mut crowd, pace, phases, &stage)))
}

fn talk(crowd: &mut Crowd, pace: Pace, phases: usize, stage: &Stage) -> Result<Noticed, String> {
    let mut found: Vec<Phase> = (0..phases)
        .map(|_| Phase { latency: Histogram::new(), received: 0, lasted: 0, lateness: Histogram::new() })
        .collect();
    let topics: Vec<String> = (0..pace.pairs).map(|pair| format!("by/{pair}")).collect();
    let mut tracks: Vec<Track> = (0..pace.pairs).map(|_| Track::default()).collect();
    let mut sent = vec![0_u64; pace.pairs];
    let mut settled = vec![0_u64; pace.pairs];
    let (start, mut scheduled) = (now(), 0_u64);
    let mut last = start;
    let mut stopped_at = 0;
    loop {
        let time = now();
        let phase = stage.phase.load(Ordering::SeqCst).min(phases - 1);
        if stopped_at == 0 {
            found[phase].lasted += time - last;
        }
        last = time;
        if stopped_at == 0 && stage.stop.load(Ordering::SeqCst) {
            stopped_at = time;
        }
        // What is on its way gets a second to come.
        if stopped_at != 0 && milliseconds(time - stopped_at) > 1000.0 {
            break;
        }
        if stopped_at != 0 {
        } else if pace.rate > 0.0 {
            loop {
                let due = start + (scheduled as f64 * 1e9 / pace.rate) as u64;
                if due > time {
                    break;
                }
                let pair = scheduled as usize % pace.pairs;
                scheduled += 1;
                found[phase].lateness.record(time - due);
                if crowd.publish(2 * pair + 1, &topics[pair], due, sent[pair]) {
                    sent[pair] += 1;
                }
            }
        } else {
            for pair in 0..pace.pairs {
                while sent[pair] - settled[pair] < WINDOW
                    && crowd.publish(2 * pair + 1, &topics[pair], now(), sent[pair])
                {
                    sent[pair] += 1;
                }
            }
        }
        crowd.turn(Duration::from_millis(1), &mut |seen| {
            let pair = seen.client / 2;
            if stopped_at == 0 {
                found[phase].received += 1;
                found[phase].latency.record(seen.now - seen.sent);
            }
            settled[pair] += tracks[pair].take(seen.number);
        })?;
    }
    Ok(Noticed {
        lost: tracks.iter().zip(&sent).map(|(track, sent)| track.lost(*sent)).sum(),
        repeated: tracks.iter().map(|track| track.duplicates).sum(),
        closed: crowd.closed,
        phases: found,
    })
}

//! An attacker: wrong passwords at a fixed rate, from very many addresses, for names that there are and names that
//! there are not.
//!
//! In: a rate and the names. Out: how the guesses were answered. It gives each guess some seconds and no more, so what
//! it holds open is bounded.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{milliseconds, now};
use crate::crowd::{Crowd, Role, State};

/// How long a guess may wait for its answer.
const PATIENCE_MS: f64 = 2000.0;

#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) made: u64,
    /// Bad user name or password.
    pub(crate) refused: u64,
    /// Too busy, or too many failures.
    pub(crate) busy: u64,
    /// Closed, or no answer in time.
    pub(crate) unanswered: u64,
    /// Let in: must be 0.
    pub(crate) accepted: u64,
}

pub(crate) struct Attack {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Answers, String>>,
}

/// The address of the n-th attacker, or of whoever else needs one of its own: 127.x.y.z with x from 16 on.
pub(crate) fn address(number: u64) -> SocketAddr {
    let [_, x, y, z] = (0x0010_0000 + (number % 0x00E0_0000) as u32).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, x, y, z), 0))
}

impl Attack {
    /// Guesses `rate` times per second: every other one for one of `names`, the rest for names that there are not.
    pub(crate) fn start(to: SocketAddr, rate: f64, names: Vec<String>) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let crowd = Crowd::new(to).map_err(|error| error.to_string())?;
        Ok(Self { stop, thread: std::thread::spawn(move || guess(crowd, rate, &names, &stopped)) })
    }

    pub(crate) fn stop(self) -> Result<Answers, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the attacker panicked".to_owned())?
    }
}

fn guess(mut crowd: Crowd, rate: f64, names: &[String], stop: &AtomicBool) -> Result<Answers, String> {
    let mut answers = Answers::default();
    let start = now();
    let mut free: Vec<usize> = Vec::new();
    let mut open: VecDeque<usize> = VecDeque::new();
    while !stop.load(Ordering::SeqCst) {
        while start + (answers.made as f64 * 1e9 / rate) as u64 <= now() {
            let number = answers.made;
            let name = match names.get(number as usize / 2 % names.len().max(1)) {
                Some(name) if number % 2 == 0 => name.clone(),
                _ => format!("nobody-{number}"),
            };
            let role = Role { source: Some(address(number)), ..Role::new(&name, "a wrong guess of it") };
            answers.made += 1;
            match crowd.open(&role, free.pop()) {
                Ok(place) => open.push_back(place),
                Err(_) => answers.unanswered += 1,
            }
        }
        crowd.turn(Duration::from_millis(2), &mut |_| {})?;
        let time = now();
        open.retain(|&place| {
            let client = &crowd.clients[place];
            match client.connack {
                Some(0) => answers.accepted += 1,
                // 3.1.1: 4 is a wrong proof, 5 not authorized, 3 busy.
                Some(4 | 5) => answers.refused += 1,
                Some(_) => answers.busy += 1,
                None if client.state == State::Closed || milliseconds(time - client.opened_at) > PATIENCE_MS => {
                    answers.unanswered += 1;
                }
                None => return true,
            }
            free.push(place);
            false
        });
        for &place in &free {
            if crowd.clients[place].state != State::Closed {
                crowd.close(place);
            }
        }
    }
    Ok(answers)
}

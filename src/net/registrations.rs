//! Places for registration sessions: how many there may be, in all and of one source, and who gives way when they are taken.
//!
//! Entering: strangers, with addresses of which they may have many, and the time. Leaving: a place, and the session that gives way for it, if
//! one has to. Never: more sessions than the bounds admit; one that gives way to a source or a network that holds as many. Pure but
//! for its lock.

use std::{cmp::Reverse, collections::HashMap, hash::Hash, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::{
    authn::{Neighbourhood, Source},
    clock::{Duration, Instant},
};

/// Who has asked for nothing for so long gives way to anybody: a device that still waits for a decision connects again, and polls.
const SILENCE: Duration = Duration::from_mins(1);

/// All of them are taken, by those who hold no more than whoever comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The places of one broker.
#[derive(Debug)]
pub(crate) struct Registrations {
    in_all: usize,
    of_one_source: usize,
    open: Mutex<Open>,
}

/// INVARIANT: the counts are those of `sessions`, and none is zero.
#[derive(Debug, Default)]
struct Open {
    sessions: HashMap<u64, Held>,
    by_source: HashMap<Source, usize>,
    by_network: HashMap<Neighbourhood, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    source: Source,
    /// When it last asked for something, or else came.
    asked: Instant,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    registrations: Arc<Registrations>,
    connection: u64,
}

impl Place {
    /// The session has asked for something.
    pub(super) fn asked(&self, now: Instant) {
        if let Some(held) = self.registrations.open.lock().sessions.get_mut(&self.connection) {
            held.asked = now;
        }
    }

    /// Has it not given way?
    pub(super) fn is_held(&self) -> bool {
        self.registrations.open.lock().sessions.contains_key(&self.connection)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.registrations.open.lock().remove(self.connection);
    }
}

impl Registrations {
    pub(crate) fn new(in_all: usize, of_one_source: usize) -> Arc<Self> {
        Arc::new(Self { in_all, of_one_source, open: Mutex::default() })
    }

    /// A place for the session of this connection, and the connection whose session gives way for it.
    pub(super) fn admit(
        self: &Arc<Self>,
        connection: u64,
        address: IpAddr,
        now: Instant,
    ) -> Result<(Place, Option<u64>), Full> {
        let source = Source::from(address);
        let mut open = self.open.lock();
        let gives_way = if count(&open.by_source, source) >= self.of_one_source {
            Some(open.silent(now, |held| held.source == source).ok_or(Full)?)
        } else if open.sessions.len() >= self.in_all {
            Some(open.yielding(source, now).ok_or(Full)?)
        } else {
            None
        };
        if let Some(gives_way) = gives_way {
            open.remove(gives_way);
        }
        open.sessions.insert(connection, Held { source, asked: now });
        *open.by_source.entry(source).or_default() += 1;
        *open.by_network.entry(source.into()).or_default() += 1;
        Ok((Place { registrations: Arc::clone(self), connection }, gives_way))
    }
}

impl Open {
    fn remove(&mut self, connection: u64) {
        let Some(Held { source, .. }) = self.sessions.remove(&connection) else { return };
        take_one(&mut self.by_source, source);
        take_one(&mut self.by_network, source.into());
    }

    /// Which session gives way to one of this source: the one of the greediest source of the greediest network that is silent longest; where
    /// nobody is greedier than whoever comes, the one of all that is silent longest, if that is long.
    fn yielding(&self, source: Source, now: Instant) -> Option<u64> {
        // One more than its own would only be passed to and fro.
        let more = |theirs: usize, own: usize| theirs > own + 1;
        let network = greediest(&self.by_network)
            .filter(|(_, theirs)| more(*theirs, count(&self.by_network, source.into())))
            .map_or_else(|| source.into(), |(network, _)| network);
        let of_network = self.sessions.iter().filter(|(_, held)| Neighbourhood::from(held.source) == network);
        let greedy = of_network
            .map(|(connection, held)| (count(&self.by_source, held.source), Reverse(held.asked), *connection))
            .max();
        let elsewhere = network != Neighbourhood::from(source);
        match greedy.filter(|(theirs, ..)| elsewhere || more(*theirs, count(&self.by_source, source))) {
            Some((.., connection)) => Some(connection),
            None => self.silent(now, |_| true),
        }
    }

    /// Which of those is silent longest, and long enough for anybody?
    fn silent(&self, now: Instant, which: impl Fn(&Held) -> bool) -> Option<u64> {
        self.longest(|held| now.saturating_duration_since(held.asked) >= SILENCE && which(held))
    }

    /// Which of those is silent longest?
    fn longest(&self, which: impl Fn(&Held) -> bool) -> Option<u64> {
        let those = self.sessions.iter().filter(|(_, held)| which(held));
        those.min_by_key(|(connection, held)| (held.asked, **connection)).map(|(connection, _)| *connection)
    }
}

fn count<K: Hash + Eq + Copy>(counts: &HashMap<K, usize>, key: K) -> usize {
    counts.get(&key).copied().unwrap_or_default()
}

fn greediest<K: Copy>(counts: &HashMap<K, usize>) -> Option<(K, usize)> {
    counts.iter().max_by_key(|(_, count)| **count).map(|(key, count)| (*key, *count))
}

fn take_one<K: Hash + Eq + Copy>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock, Timestamp};

    const SECOND: Duration = Duration::from_secs(1);

    struct Door {
        registrations: Arc<Registrations>,
        clock: ManualClock,
        places: HashMap<u64, Place>,
        next: u64,
    }

    impl Door {
        fn new(in_all: usize, of_one_source: usize) -> Self {
            let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
            Self { registrations: Registrations::new(in_all, of_one_source), clock, places: HashMap::new(), next: 1 }
        }

        /// Somebody comes, a second after the one before: its number, and who gives way.
        fn come(&mut self, address: &str) -> Result<(u64, Option<u64>), Full> {
            let (number, now) = (self.next, self.clock.instant());
            self.next += 1;
            let (place, gives_way) = self.registrations.admit(number, address.parse().unwrap(), now)?;
            self.clock.advance(SECOND);
            self.places.insert(number, place);
            if let Some(gives_way) = gives_way {
                // Its connection ends a moment later, and must not give back what is somebody else's.
                assert!(!self.places[&gives_way].is_held());
                self.places.remove(&gives_way);
            }
            assert_eq!(self.registrations.open.lock().sessions.len(), self.places.len());
            Ok((number, gives_way))
        }

        fn ask(&self, number: u64) {
            self.places[&number].asked(self.clock.instant());
        }
    }

    #[test]
    fn limits_hold_and_nothing_is_kept_of_a_source_that_left() {
        let mut door = Door::new(3, 2);
        for address in ["192.0.2.1", "192.0.2.1", "198.51.100.1"] {
            door.come(address).unwrap();
        }
        assert_eq!(door.come("192.0.2.1"), Err(Full), "of one source");
        assert_eq!(door.come("198.51.100.1").err(), Some(Full), "nobody is greedier by more than one");
        door.places.clear();
        let open = door.registrations.open.lock();
        assert!(open.sessions.is_empty() && open.by_source.is_empty() && open.by_network.is_empty());
    }

    /// Twenty addresses with a thousand idle connections were enough once to keep every device outside.
    #[test]
    fn sources_that_fill_all_places_make_room_for_one_that_holds_few() {
        for addresses in [|n: usize| format!("192.0.2.{}", n % 20), |n: usize| format!("2001:db8:0:{:x}::1", n % 20)] {
            let mut door = Door::new(1000, 50);
            for number in 0..1000 {
                assert_eq!(door.come(&addresses(number)).unwrap().1, None);
            }
            door.ask(1);
            let (honest, gave_way) = door.come("198.51.100.7").unwrap();
            let first = door.come("198.51.100.8").unwrap().1.unwrap();
            assert!(gave_way.is_some_and(|it| it != 1 && it <= 21) && first != honest, "who asked last comes last");
            // However long they go on, they win back nothing that an honest device has.
            for number in 0..200 {
                door.ask(honest);
                if let Ok((_, gave_way)) = door.come(&addresses(number)) {
                    assert_ne!(gave_way, Some(honest));
                }
            }
            assert!(door.places[&honest].is_held());
        }
    }

    /// Many addresses of one network are one party: those of others do not pay for them.
    #[test]
    fn of_the_network_that_holds_most_the_source_that_holds_most_gives_way() {
        let mut door = Door::new(8, 4);
        let one = door.come("192.0.2.1").unwrap().0;
        let two = door.come("192.0.2.2").unwrap().0;
        let honest: Vec<u64> =
            ["198.51.100.1", "198.51.100.1", "198.51.100.1"].map(|it| door.come(it).unwrap().0).into();
        for address in ["192.0.2.3", "192.0.2.2", "192.0.2.4"] {
            door.come(address).unwrap();
        }
        assert_eq!(door.come("203.0.113.1").unwrap().1, Some(two), "five of one network, two of them of one source");
        let gave_way = door.come("203.0.113.2").unwrap().1;
        assert_eq!(gave_way, Some(one), "then the one that is silent longest");
        assert!(honest.iter().all(|it| door.places[it].is_held()));
    }

    #[test]
    fn within_one_network_sources_are_held_against_each_other() {
        let mut door = Door::new(4, 3);
        let first = door.come("192.0.2.1").unwrap().0;
        for address in ["192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            door.come(address).unwrap();
        }
        assert_eq!(door.come("192.0.2.3").unwrap().1, Some(first));
        assert_eq!(door.come("192.0.2.1").err(), Some(Full), "it holds two, nobody more");
    }

    /// Where nobody is greedy, silence decides: so nobody keeps all others outside by being many.
    #[test]
    fn who_was_silent_for_a_minute_gives_way_to_anybody() {
        let mut door = Door::new(3, 3);
        let [first, second, _] = ["192.0.2.1", "198.51.100.1", "203.0.113.1"].map(|it| door.come(it).unwrap().0);
        assert_eq!(door.come("192.0.3.1").err(), Some(Full));
        door.clock.advance(Duration::from_secs(59));
        door.ask(first);
        assert_eq!(door.come("192.0.3.1").unwrap().1, Some(second));
        // Within its own share, too: many devices behind one address.
        let mut door = Door::new(10, 2);
        let [first, second] = [(); 2].map(|()| door.come("192.0.2.1").unwrap().0);
        assert_eq!(door.come("192.0.2.1").err(), Some(Full));
        door.clock.advance(SILENCE);
        door.ask(first);
        assert_eq!(door.come("192.0.2.1").unwrap().1, Some(second));
    }
}

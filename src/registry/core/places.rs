//! The places of the requests that wait for a decision, and who may take one.
//!
//! Entering: pending requests as they come and go; a source that asks for one more. Leaving: whether there is a place for it.
//! INVARIANT: the last tenth of the places is for neighbourhoods that hold less than a hundredth of all, so whoever has a hundred
//! thousand addresses of one network leaves a place to the others. Never: a request that gives way to one of another source.

use std::collections::{HashMap, HashSet};

use super::super::request::RequestId;
use super::one_less;
use crate::authn::{Neighbourhood, Source};

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) struct Bounds {
    pub(in crate::registry) all: usize,
    pub(in crate::registry) of_source: usize,
}

/// INVARIANT: exactly the pending requests, by their sources.
#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    of_source: HashMap<Source, HashSet<RequestId>>,
    of_neighbourhood: HashMap<Neighbourhood, usize>,
}

impl Places {
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// The pending requests of a source.
    pub(super) fn of(&self, source: Source) -> impl Iterator<Item = RequestId> {
        self.of_source.get(&source).into_iter().flatten().copied()
    }

    pub(super) fn insert(&mut self, source: Source, id: RequestId) {
        if self.of_source.entry(source).or_default().insert(id) {
            self.taken += 1;
            *self.of_neighbourhood.entry(source.into()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, source: Source, id: RequestId) {
        let Some(ids) = self.of_source.get_mut(&source) else { return };
        if ids.remove(&id) {
            if ids.is_empty() {
                self.of_source.remove(&source);
            }
            self.taken = self.taken.saturating_sub(1);
            one_less(&mut self.of_neighbourhood, &source.into());
        }
    }

    /// Is there a place for one more of this source, when those of `coming` are taken too, and those of `leaving` are free?
    pub(super) fn admit(
        &self,
        source: Source,
        bounds: Bounds,
        coming: &HashMap<Source, usize>,
        leaving: &[Source],
    ) -> bool {
        let near = Neighbourhood::from(source);
        let held = |taken: usize, counts: &dyn Fn(Source) -> bool| {
            let coming = coming.iter().filter(|(source, _)| counts(**source)).map(|(_, count)| count).sum::<usize>();
            let leaving = leaving.iter().filter(|source| counts(**source)).count();
            taken.saturating_sub(leaving) + coming
        };
        let all = held(self.taken, &|_| true);
        if all >= bounds.all || held(self.of(source).count(), &|other| other == source) >= bounds.of_source {
            return false;
        }
        if all < bounds.all - bounds.all / 10 {
            return true;
        }
        let taken = self.of_neighbourhood.get(&near).copied().unwrap_or_default();
        held(taken, &|other| Neighbourhood::from(other) == near) < (bounds.all / 100).max(1)
    }

    /// Holds the counts against each other.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.of_source.values().map(HashSet::len).sum::<usize>(), self.taken);
        let mut near: HashMap<Neighbourhood, usize> = HashMap::new();
        for (source, ids) in &self.of_source {
            assert!(!ids.is_empty());
            *near.entry((*source).into()).or_default() += ids.len();
        }
        assert_eq!(near, self.of_neighbourhood);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const BOUNDS: Bounds = Bounds { all: 1_000, of_source: 5 };

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// As many as get in, of `count` addresses that make one request each.
    fn flood(places: &mut Places, count: u32, address: impl Fn(u32) -> IpAddr) -> usize {
        let before = places.taken();
        for n in 0..count {
            let source = address(n).into();
            if places.admit(source, BOUNDS, &HashMap::new(), &[]) {
                places.insert(source, RequestId(uuid::Uuid::now_v7()));
            }
        }
        places.check();
        places.taken() - before
    }

    fn v4(net: [u8; 2]) -> impl Fn(u32) -> IpAddr {
        move |n| {
            let [_, _, c, d] = n.to_be_bytes();
            IpAddr::from([net[0], net[1], c, d])
        }
    }

    #[test]
    fn whoever_has_a_network_leaves_the_last_tenth_to_others() {
        let mut places = Places::default();
        assert_eq!(flood(&mut places, 60_000, v4([100, 64])), 900);
        // A tenth of a tenth for each of those that come after.
        for other in 0..10 {
            assert_eq!(flood(&mut places, 60_000, v4([10, other])), 10, "{other}");
        }
        assert_eq!(flood(&mut places, 10, v4([192, 0])), 0);
        assert_eq!(places.taken(), BOUNDS.all);
    }

    #[test]
    fn a_provider_of_ipv6_is_one_neighbour_however_many_64s_it_draws_from() {
        let mut places = Places::default();
        let drawn = |n: u32| IpAddr::from(((0x2001_0db8_u128 << 96) | (u128::from(n) << 64) | 1).to_be_bytes());
        assert_eq!(flood(&mut places, 60_000, drawn), 900);
        assert!(places.admit(source("2001:db9::1"), BOUNDS, &HashMap::new(), &[]));
    }

    #[test]
    fn a_network_whose_devices_are_all_there_is_has_nine_tenths_and_each_source_its_share() {
        let mut places = Places::default();
        assert_eq!(flood(&mut places, 100, |_| IpAddr::from([10, 0, 0, 1])), BOUNDS.of_source);
        let one = source("10.0.0.1");
        assert!(!places.admit(one, BOUNDS, &HashMap::new(), &[]));
        assert!(places.admit(one, BOUNDS, &HashMap::new(), &[one]), "one of its own goes");
        assert!(!places.admit(one, BOUNDS, &HashMap::from([(one, 1)]), &[one]), "and another one is on its way");
    }

    #[test]
    fn what_is_on_its_way_counts_for_the_reserve_too() {
        let mut places = Places::default();
        assert_eq!(flood(&mut places, 899, v4([100, 64])), 899);
        let coming = HashMap::from([(source("100.64.200.1"), 1)]);
        assert!(!places.admit(source("100.64.200.2"), BOUNDS, &coming, &[]));
        assert!(places.admit(source("10.0.0.1"), BOUNDS, &coming, &[]));
        let coming = HashMap::from([(source("100.64.200.1"), 1), (source("10.0.0.2"), 10)]);
        assert!(!places.admit(source("10.0.0.1"), BOUNDS, &coming, &[]));
    }

    #[test]
    fn a_small_table_has_no_reserve() {
        let mut places = Places::default();
        let bounds = Bounds { all: 4, of_source: 4 };
        for _ in 0..4 {
            assert!(places.admit(source("10.0.0.1"), bounds, &HashMap::new(), &[]));
            places.insert(source("10.0.0.1"), RequestId(uuid::Uuid::now_v7()));
        }
        assert!(!places.admit(source("10.0.0.2"), bounds, &HashMap::new(), &[]));
    }
}

//! How many connections there may be, in all and from one source address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::authn::Source;

/// Why a connection is closed before a byte of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// `limits.connections` are open.
    Full,
    /// `limits.connections_per_address` are open from this source.
    Address,
}

/// Counts open connections; entries of a source vanish with its last connection.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: usize,
    per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_source: HashMap<Source, usize>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    source: Source,
}

impl Admission {
    pub(crate) fn new(connections: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { connections, per_address, open: Mutex::default() })
    }

    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Turned> {
        let source = Source::from(address);
        let mut open = self.open.lock();
        if open.total >= self.connections {
            return Err(Turned::Full);
        }
        let from_source = open.by_source.entry(source).or_default();
        if *from_source >= self.per_address {
            return Err(Turned::Address);
        }
        *from_source += 1;
        open.total += 1;
        Ok(Place { admission: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        open.total -= 1;
        if let Some(from_source) = open.by_source.get_mut(&self.source) {
            *from_source -= 1;
            if *from_source == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_places_come_back() {
        let admission = Admission::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert_eq!(admission.admit(a).unwrap_err(), Turned::Address);
        let _third = admission.admit(b).unwrap();
        assert_eq!(admission.admit(b).unwrap_err(), Turned::Full);
        drop(first);
        assert!(admission.admit(a).is_ok());
    }

    #[test]
    fn nothing_is_kept_of_a_source_that_left() {
        let admission = Admission::new(10, 10);
        drop(admission.admit("2001:db8::1".parse().unwrap()));
        assert!(admission.open.lock().by_source.is_empty());
    }
}

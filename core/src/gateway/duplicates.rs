//! Addresses that two say they have: told once, and not too often.
//!
//! Owns: what was told. Driven by: the machine. Drain: [`Duplicates::poll`].
//! Bounds: [`MAX_SEEN`] pairs of an address and who would like to have it are remembered, the oldest is forgotten first;
//! [`MAX_WAITING`] wait to be told, [`BURST`] at once and then one in [`INTERVAL`]: the rest is only counted.

use super::{
    limits::TokenBucket,
    port::{Holder, PortId},
};
use crate::time::Instant;
use core::{fmt, net::IpAddr, time::Duration};
use std::collections::{BTreeSet, VecDeque};

const MAX_SEEN: usize = 256;
const MAX_WAITING: usize = 16;
const BURST: u64 = 8;
const INTERVAL: Duration = Duration::from_secs(10);

/// An address, of one kind or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Station {
    /// An IP address.
    Ip(IpAddr),
    /// A hardware address.
    Mac([u8; 6]),
}

impl fmt::Display for Station {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Mac([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
        }
    }
}

/// Somebody would like to have what another one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// What.
    pub address: Station,
    /// The link that has it, or had it until lately; `None` if the operator has fixed whose it is.
    pub owner: Option<PortId>,
    /// The link that does not get it.
    pub claimant: PortId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Duplicates {
    seen: BTreeSet<(Station, Holder)>,
    order: VecDeque<(Station, Holder)>,
    waiting: VecDeque<Duplicate>,
    rate: TokenBucket,
    unit: u64,
}

impl Default for Duplicates {
    fn default() -> Self {
        let unit = INTERVAL.as_secs();
        let rate = TokenBucket::new(1, BURST * unit);
        Self { seen: BTreeSet::new(), order: VecDeque::new(), waiting: VecDeque::new(), rate, unit }
    }
}

impl Duplicates {
    /// `holder` would like to have an address; true if that is new.
    pub(super) fn note(&mut self, now: Instant, holder: Holder, duplicate: Duplicate) -> bool {
        let key = (duplicate.address, holder);
        if self.seen.contains(&key) {
            return false;
        }
        if self.order.len() >= MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(key);
        self.order.push_back(key);
        if self.waiting.len() < MAX_WAITING && self.rate.take(now, self.unit) {
            self.waiting.push_back(duplicate);
        }
        true
    }

    /// The next one to be told.
    pub(super) fn poll(&mut self) -> Option<Duplicate> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::port::Ports, *};

    #[test]
    fn a_pair_is_told_once_and_many_pairs_not_all_at_once() {
        let (mut ports, mut duplicates) = (Ports::default(), Duplicates::default());
        let link = ports.attach(1, None).unwrap();
        let holder = ports.holder(link).unwrap();
        let claim = |last: u16| Duplicate {
            address: Station::Ip(IpAddr::from([10, 0, last.to_be_bytes()[0], last.to_be_bytes()[1]])),
            owner: None,
            claimant: link,
        };
        let mut told = 0;
        let mut noted = 0;
        for _ in 0..1000 {
            noted += usize::from(duplicates.note(Instant::ZERO, holder, claim(1)));
            told += std::iter::from_fn(|| duplicates.poll()).count();
        }
        assert_eq!((noted, told), (1, 1));
        for n in 2..1000 {
            assert!(duplicates.note(Instant::ZERO, holder, claim(n)));
            told += std::iter::from_fn(|| duplicates.poll()).count();
        }
        assert_eq!(told as u64, BURST);
        assert_eq!((duplicates.seen.len(), duplicates.order.len()), (MAX_SEEN, MAX_SEEN));
        assert!(duplicates.note(Instant::from_millis(10_000), holder, claim(5000)));
        assert_eq!(duplicates.poll(), Some(claim(5000)));
    }

    #[test]
    fn addresses_read_as_they_are_written() {
        assert_eq!(Station::Mac([2, 0xab, 0, 0, 0, 1]).to_string(), "02:ab:00:00:00:01");
        assert_eq!(Station::Ip("fd00::1".parse().unwrap()).to_string(), "fd00::1");
    }
}

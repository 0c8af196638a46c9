//! Addresses that are open for a time because an allowed name was resolved to them.

use crate::time::Instant;
use core::{net::IpAddr, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

/// Addresses at most; one counts once for each rule that opened it.
pub const MAX_LEARNED: usize = 4096;

/// The shortest time an address stays open: programs look names up and connect later than the answer's time says.
pub const MIN_TTL: Duration = Duration::from_secs(60);

/// The longest time an address stays open.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default)]
pub(super) struct Learned {
    /// When an address is closed again, by address and index of the rule.
    ends: BTreeMap<(IpAddr, usize), Instant>,
    /// The same, the one that ends first first.
    by_end: BTreeSet<(Instant, IpAddr, usize)>,
    evicted: u64,
}

impl Learned {
    pub(super) fn add(&mut self, now: Instant, addr: IpAddr, rule: usize, ttl: u32) {
        while let Some((end, addr, rule)) = self.by_end.first().copied()
            && end <= now
        {
            self.remove(end, addr, rule);
        }
        let mut end = now + Duration::from_secs(u64::from(ttl)).clamp(MIN_TTL, MAX_TTL);
        if let Some(old) = self.ends.get(&(addr, rule)).copied() {
            end = end.max(old);
            self.remove(old, addr, rule);
        } else if self.ends.len() >= MAX_LEARNED
            && let Some((end, addr, rule)) = self.by_end.first().copied()
        {
            self.remove(end, addr, rule);
            self.evicted += 1;
        }
        self.ends.insert((addr, rule), end);
        self.by_end.insert((end, addr, rule));
    }

    /// The rules that an address is open for.
    pub(super) fn rules(&self, now: Instant, addr: IpAddr) -> impl Iterator<Item = usize> + '_ {
        self.ends.range((addr, 0)..=(addr, usize::MAX)).filter(move |(_, end)| now < **end).map(|((_, rule), _)| *rule)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn remove(&mut self, end: Instant, addr: IpAddr, rule: usize) {
        self.by_end.remove(&(end, addr, rule));
        self.ends.remove(&(addr, rule));
    }
}

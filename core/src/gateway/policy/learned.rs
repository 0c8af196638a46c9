//! Addresses that are open for a time because an allowed name was resolved to them.
//!
//! An address that connections or sessions use stays open as long as they live, and then for as long as the answer said: an app
//! that keeps an address does not ask again.

use crate::time::Instant;
use core::{net::IpAddr, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

/// Addresses at most; one counts once for each rule that opened it. Beyond that, whoever has the most makes room.
pub const MAX_LEARNED: usize = 4096;

/// The shortest time an address stays open: programs look names up and connect later than the answer's time says.
pub const MIN_TTL: Duration = Duration::from_secs(60);

/// The longest time an address stays open.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default)]
pub(super) struct Learned {
    /// By address and index of the rule.
    open: BTreeMap<(IpAddr, usize), Open>,
    /// The same by tenant, those that end first first.
    ends: BTreeMap<u32, BTreeSet<(Instant, IpAddr, usize)>>,
    /// How many connections and sessions use an address.
    uses: BTreeMap<IpAddr, usize>,
    evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Whose question opened it: in whose share it is.
    tenant: u32,
    /// When it is closed again, unless it is in use.
    end: Instant,
    /// How long it stays open after that.
    hold: Duration,
}

impl Learned {
    pub(super) fn add(&mut self, now: Instant, tenant: u32, addr: IpAddr, rule: usize, ttl: u32) {
        self.expire(now, tenant);
        let hold = Duration::from_secs(u64::from(ttl)).clamp(MIN_TTL, MAX_TTL);
        let mut open = Open { tenant, end: now + hold, hold };
        if let Some(old) = self.open.get(&(addr, rule)).copied() {
            open.end = open.end.max(old.end);
            open.hold = open.hold.max(old.hold);
            // It is in the share of whoever has less: nobody can have it closed by opening a lot.
            if self.share(old.tenant) <= self.share(tenant) {
                open.tenant = old.tenant;
            }
            self.remove(addr, rule);
        } else if self.open.len() >= MAX_LEARNED {
            self.expire_all(now);
            if self.open.len() >= MAX_LEARNED {
                self.evict();
            }
        }
        self.insert(addr, rule, open);
    }

    /// The rules that an address is open for.
    pub(super) fn rules(&self, now: Instant, addr: IpAddr) -> impl Iterator<Item = usize> + '_ {
        let used = self.uses.contains_key(&addr);
        let open = self.open.range((addr, 0)..=(addr, usize::MAX));
        open.filter(move |(_, open)| used || now < open.end).map(|((_, rule), _)| *rule)
    }

    /// Whether nothing was ever learned that may still be open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Something begins to use an address.
    pub(super) fn hold(&mut self, addr: IpAddr) {
        *self.uses.entry(addr).or_insert(0) += 1;
    }

    /// Something has ended that used an address.
    pub(super) fn release(&mut self, now: Instant, addr: IpAddr) {
        let Some(count) = self.uses.get_mut(&addr) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.uses.remove(&addr);
        let rules: Vec<usize> = self.open.range((addr, 0)..=(addr, usize::MAX)).map(|((_, rule), _)| *rule).collect();
        for rule in rules {
            if let Some(mut open) = self.remove(addr, rule) {
                open.end = open.end.max(now + open.hold);
                self.insert(addr, rule, open);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn share(&self, tenant: u32) -> usize {
        self.ends.get(&tenant).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, addr: IpAddr, rule: usize, open: Open) {
        self.ends.entry(open.tenant).or_default().insert((open.end, addr, rule));
        self.open.insert((addr, rule), open);
    }

    fn remove(&mut self, addr: IpAddr, rule: usize) -> Option<Open> {
        let open = self.open.remove(&(addr, rule))?;
        if let Some(ends) = self.ends.get_mut(&open.tenant) {
            ends.remove(&(open.end, addr, rule));
            if ends.is_empty() {
                self.ends.remove(&open.tenant);
            }
        }
        Some(open)
    }

    /// Forgets what has expired; what is in use has its time again.
    fn expire(&mut self, now: Instant, tenant: u32) {
        while let Some((_, addr, rule)) =
            self.ends.get(&tenant).and_then(BTreeSet::first).copied().filter(|e| e.0 <= now)
        {
            let open = self.remove(addr, rule).filter(|_| self.uses.contains_key(&addr));
            if let Some(open) = open {
                self.insert(addr, rule, Open { end: now + open.hold, ..open });
            }
        }
    }

    fn expire_all(&mut self, now: Instant) {
        let tenants: Vec<u32> = self.ends.keys().copied().collect();
        for tenant in tenants {
            self.expire(now, tenant);
        }
    }

    /// Makes room at the cost of the tenant that has the most.
    fn evict(&mut self) {
        let Some(ends) = self.ends.values().max_by_key(|ends| ends.len()) else { return };
        let unused = ends.iter().find(|(_, addr, _)| !self.uses.contains_key(addr));
        if let Some((_, addr, rule)) = unused.or_else(|| ends.first()).copied() {
            self.remove(addr, rule);
            self.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn ip(n: u32) -> IpAddr {
        core::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    fn is_open(learned: &Learned, now: u64, addr: IpAddr) -> bool {
        learned.rules(at(now), addr).next().is_some()
    }

    #[test]
    fn an_address_in_use_stays_open_and_then_for_its_time() {
        let mut learned = Learned::default();
        learned.add(at(0), 1, ip(1), 0, 300);
        learned.add(at(0), 1, ip(2), 0, 300);
        learned.hold(ip(1));
        learned.hold(ip(1));
        // What is in use is not forgotten when others are learned.
        learned.add(at(10_000), 1, ip(3), 0, 300);
        assert!(is_open(&learned, 20_000, ip(1)) && !is_open(&learned, 20_000, ip(2)));
        learned.release(at(20_000), ip(1));
        assert!(is_open(&learned, 90_000, ip(1)), "one still uses it");
        learned.release(at(90_000), ip(1));
        assert!(is_open(&learned, 90_299, ip(1)) && !is_open(&learned, 90_300, ip(1)));
        // An end that is not one of a use changes nothing.
        learned.release(at(90_400), ip(1));
        assert!(!is_open(&learned, 90_400, ip(1)));
        assert!(learned.uses.is_empty());
    }

    #[test]
    fn a_tenant_that_opens_a_lot_closes_nobody_elses() {
        let mut learned = Learned::default();
        learned.add(at(0), 2, ip(1), 0, 0);
        // Told of first by one that means no good, and in use by nobody.
        learned.add(at(0), 1, ip(2), 0, 0);
        (10..20).for_each(|n| learned.add(at(0), 1, ip(n), 0, 0));
        learned.add(at(1), 2, ip(2), 0, 0);
        for n in 100..3 * MAX_LEARNED as u32 {
            learned.add(at(2), 1, ip(n), 0, 86_400);
            assert!(learned.len() <= MAX_LEARNED);
        }
        assert!(learned.evicted() > 0);
        assert!(is_open(&learned, MINUTE - 1, ip(1)) && is_open(&learned, MINUTE - 1, ip(2)));
    }

    #[test]
    fn what_is_in_use_is_evicted_last() {
        let mut learned = Learned::default();
        learned.add(at(0), 1, ip(0), 0, 0);
        learned.hold(ip(0));
        for n in 1..=MAX_LEARNED as u32 {
            learned.add(at(0), 1, ip(n), 0, 600);
        }
        assert!(is_open(&learned, 1, ip(0)) && !is_open(&learned, 1, ip(1)));
    }
}

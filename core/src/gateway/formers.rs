//! Who had an address for long and is away: it comes first when it is back.
//!
//! Owns: such addresses and their tenants. Driven by: the switch, and what knows where guests are.
//! Bounds: [`MAX_PER_TENANT`] addresses of one tenant and [`MAX`] in all, each for [`REMEMBERED`].
//!
//! Another tenant may use what is not kept any more: an enclave that was replaced by one with another number does not come
//! back. But if it does, after a restart that took long, the other one gives way; else whoever waits for such a restart, and
//! dials without end, would have the address for good. This must be no way to take what a live link has, so it is for the
//! settled against those who are not: a tenant that had an address on one link for [`SETTLED`] has it for good, and it alone
//! is remembered.

use crate::time::Instant;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

/// How long an address has to be on one link to be settled there.
pub(super) const SETTLED: Duration = Duration::from_secs(600);
/// How long a settled tenant that is away comes first.
pub(super) const REMEMBERED: Duration = Duration::from_secs(3600);
const MAX: usize = 1024;
const MAX_PER_TENANT: usize = 64;

/// Since when a tenant has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    settled: bool,
    /// When it came to the link that it is on; `None` while it is on none.
    since: Option<Instant>,
}

impl Tenure {
    /// It has come to a link.
    pub(super) const fn begin(now: Instant, settled: bool) -> Self {
        Self { settled, since: Some(now) }
    }

    pub(super) fn is_settled(self, now: Instant) -> bool {
        self.settled || self.since.is_some_and(|since| now.since(since) >= SETTLED)
    }

    /// Its link is gone.
    pub(super) fn pause(&mut self, now: Instant) {
        self.settled = self.is_settled(now);
        self.since = None;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Formers<K> {
    by_address: BTreeMap<K, (u32, Instant)>,
    /// The same, of each tenant the one that is forgotten first in front.
    by_tenant: BTreeMap<u32, BTreeSet<(Instant, K)>>,
}

impl<K: Ord + Copy> Formers<K> {
    pub(super) const fn new() -> Self {
        Self { by_address: BTreeMap::new(), by_tenant: BTreeMap::new() }
    }

    /// Whether nobody comes first anywhere: then nothing need be asked.
    pub(super) fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// What `tenant` had for long is kept for it no longer.
    pub(super) fn remember(&mut self, now: Instant, address: K, tenant: u32) {
        self.forget(address);
        if self.by_tenant.get(&tenant).is_some_and(|own| own.len() >= MAX_PER_TENANT) {
            self.forget_oldest(tenant);
        }
        if self.by_address.len() >= MAX
            && let Some(most) = self.by_tenant.iter().max_by_key(|(_, own)| own.len()).map(|(tenant, _)| *tenant)
        {
            self.forget_oldest(most);
        }
        let until = now + REMEMBERED;
        self.by_address.insert(address, (tenant, until));
        self.by_tenant.entry(tenant).or_default().insert((until, address));
    }

    /// Whether an address is that of `tenant` before others who are not settled.
    pub(super) fn comes_first(&self, now: Instant, address: K, tenant: u32) -> bool {
        self.by_address.get(&address).is_some_and(|(former, until)| *former == tenant && now < *until)
    }

    /// Its tenant is back.
    pub(super) fn forget(&mut self, address: K) {
        let Some((tenant, until)) = self.by_address.remove(&address) else { return };
        if let Some(own) = self.by_tenant.get_mut(&tenant) {
            own.remove(&(until, address));
            if own.is_empty() {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    fn forget_oldest(&mut self, tenant: u32) {
        if let Some(&(_, oldest)) = self.by_tenant.get(&tenant).and_then(BTreeSet::first) {
            self.forget(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_millis(secs * 1000)
    }

    #[test]
    fn time_counts_on_one_link_only() {
        let mut tenure = Tenure::begin(at(0), false);
        assert!(!tenure.is_settled(at(599)) && tenure.is_settled(at(600)));
        tenure.pause(at(599));
        assert!(!tenure.is_settled(at(10_000)));
        assert!(Tenure::begin(at(9), true).is_settled(at(9)));
    }

    #[test]
    fn one_tenant_is_remembered_for_an_address_and_not_for_ever() {
        let mut formers = Formers::new();
        formers.remember(at(0), 7, 1);
        formers.remember(at(1), 7, 2);
        assert!(formers.comes_first(at(3600), 7, 2) && !formers.comes_first(at(3601), 7, 2));
        assert!(!formers.comes_first(at(2), 7, 1) && !formers.comes_first(at(2), 8, 2));
        formers.forget(7);
        assert!(formers.is_empty() && formers.by_tenant.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_those_with_much_take_no_room_of_others() {
        let mut formers = Formers::new();
        formers.remember(at(0), 0, 99);
        for n in 1..100_000_u32 {
            formers.remember(at(1), n, n % 40);
        }
        assert!(formers.comes_first(at(1), 0, 99));
        assert!(formers.by_address.len() <= MAX && formers.by_tenant.values().all(|own| own.len() <= MAX_PER_TENANT));
        assert_eq!(formers.by_tenant.values().map(BTreeSet::len).sum::<usize>(), formers.by_address.len());
    }
}

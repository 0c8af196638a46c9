//! Which link a hardware address is on.
//!
//! Owns: the learned addresses. Driven by: the machine, for every frame. Bounds: [`MAX_MACS`] addresses, [`MAX_MACS_PER_PORT`] of
//! them on one link: an enclave that makes up addresses does not take the room of others.
//!
//! An address stays where it is as long as its link is up, and a while longer for links of the same tenant
//! ([`super::Config::keep_address`]): unlike in gvproxy, nobody can take over what another enclave gets by using its address.
//! Later on, tenants that had it for long come before others ([`super::formers`]).
//! Ageing (IEEE 802.1Q section 8.8.3) makes room for other addresses of the same link only.

use super::{
    formers::{Formers, Tenure},
    port::{PortId, Ports},
};
use crate::time::Instant;
use core::time::Duration;
use foldhash::fast::FixedState;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Addresses remembered.
pub(super) const MAX_MACS: usize = 4096;
/// Addresses remembered of one link; an enclave has one, one with containers inside has some.
pub(super) const MAX_MACS_PER_PORT: usize = 64;
/// Addresses remembered of links of one tenant that are gone: as many as those of one link.
const MAX_KEPT: usize = MAX_MACS_PER_PORT;
/// Silence after which an address makes room for another one of its link.
pub(super) const AGEING: Duration = Duration::from_secs(300);

/// An address is looked at again after this time, however many frames it sends meanwhile.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Learned {
    port: PortId,
    seen: Instant,
    tenure: Tenure,
}

/// What became of a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learning {
    /// It is known to be here.
    Known,
    /// It was not, and now is.
    New,
    /// It belongs to another link, or to nobody.
    Spoofed,
    /// There is no room for it; frames to it will find nobody.
    Full,
}

/// An address whose link is gone.
#[derive(Debug)]
struct Kept {
    tenant: u32,
    mac: [u8; 6],
    /// `None` until the next call that says what time it is.
    until: Option<Instant>,
    tenure: Tenure,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Switch {
    own: [u8; 6],
    learned: HashMap<[u8; 6], Learned, FixedState>,
    per_port: BTreeMap<PortId, OfPort>,
    /// Addresses of links that are gone, the one that will be free first in front.
    kept: VecDeque<Kept>,
    formers: Formers<[u8; 6]>,
    keep: Duration,
    /// Addresses that are one tenant's, there or not.
    pinned: BTreeMap<[u8; 6], u32>,
}

/// The addresses of one link.
#[derive(Debug, Default)]
struct OfPort {
    count: usize,
    /// When they were last looked through for old ones: whoever makes up addresses does not have that done for each.
    aged: Option<Instant>,
}

impl Switch {
    /// With the gateway's own address, and those that are one tenant's each; another one is kept for `keep` when its link is gone.
    pub(super) fn new(own: [u8; 6], seed: u64, keep: Duration, pinned: BTreeMap<[u8; 6], u32>) -> Self {
        let learned = HashMap::with_hasher(FixedState::with_seed(seed));
        Self { own, learned, per_port: BTreeMap::new(), kept: VecDeque::new(), formers: Formers::new(), keep, pinned }
    }

    /// A frame with this source came from `port`.
    pub(super) fn learn(&mut self, now: Instant, ports: &mut Ports, port: PortId, source: [u8; 6]) -> Learning {
        let recent =
            |last: Option<([u8; 6], Instant)>| last.is_some_and(|(mac, at)| mac == source && now.since(at) < REFRESH);
        if ports.get(port).is_some_and(|port| recent(port.last_source)) {
            return Learning::Known;
        }
        // The gateway's own address, and what is no address of a station, or fixed as somebody else's.
        if source == self.own || source[0] & 1 == 1 || source == [0; 6] {
            return Learning::Spoofed;
        }
        if !self.pinned.is_empty()
            && let Some(owner) = self.pinned.get(&source)
            && ports.get(port).is_none_or(|port| port.tenant != *owner)
        {
            return Learning::Spoofed;
        }
        let learning = match self.learned.get_mut(&source) {
            Some(learned) if learned.port == port => {
                learned.seen = now;
                Learning::Known
            }
            Some(learned) if !ports.may_take_over(learned.port, port) => {
                let (old, tenure) = (learned.port, learned.tenure);
                if self.gives_way(now, ports, (Some(old), tenure), port, source) {
                    self.forget(source);
                    self.add(now, port, source, true)
                } else {
                    Learning::Spoofed
                }
            }
            Some(learned) => {
                let settled = learned.tenure.is_settled(now);
                self.forget(source);
                self.add(now, port, source, settled)
            }
            None => match self.take_kept(now, ports, port, source) {
                Some(settled) => self.add(now, port, source, settled),
                None => Learning::Spoofed,
            },
        };
        if matches!(learning, Learning::Known | Learning::New)
            && let Some(port) = ports.get_mut(port)
        {
            port.last_source = Some((source, now));
        }
        learning
    }

    /// The link of an address.
    pub(super) fn find(&self, mac: [u8; 6]) -> Option<PortId> {
        self.learned.get(&mac).map(|learned| learned.port)
    }

    /// A link of `tenant` is gone: its addresses are kept for its tenant.
    pub(super) fn detach(&mut self, port: PortId, tenant: u32) {
        if self.per_port.remove(&port).is_none() {
            return;
        }
        for (mac, _) in self.addresses().into_iter().filter(|(_, at)| *at == port) {
            let Some(Learned { tenure, .. }) = self.learned.remove(&mac) else { continue };
            if self.kept.iter().filter(|kept| kept.tenant == tenant).count() >= MAX_KEPT
                && let Some(oldest) = self.kept.iter().position(|kept| kept.tenant == tenant)
            {
                self.kept.remove(oldest);
            }
            self.kept.push_back(Kept { tenant, mac, until: None, tenure });
        }
    }

    /// What time it is: what is gone is kept from now on, and what was kept for long enough is forgotten.
    pub(super) fn stamp(&mut self, now: Instant) {
        for kept in self.kept.iter_mut().rev().take_while(|kept| kept.until.is_none()) {
            kept.until = Some(now + self.keep);
            kept.tenure.pause(now);
        }
        while let Some(until) = self.kept.front().and_then(|kept| kept.until).filter(|until| *until <= now) {
            if let Some(kept) = self.kept.pop_front().filter(|kept| kept.tenure.is_settled(until)) {
                self.formers.remember(until, kept.mac, kept.tenant);
            }
        }
    }

    /// All addresses, in order.
    pub(super) fn addresses(&self) -> Vec<([u8; 6], PortId)> {
        let mut all: Vec<_> = Vec::with_capacity(self.learned.len());
        // The order of a hash table stays inside.
        #[expect(clippy::disallowed_methods, reason = "sorted below")]
        all.extend(self.learned.iter().map(|(mac, learned)| (*mac, learned.port)));
        all.sort_unstable();
        all
    }

    /// Takes an address that is on no link for `port`; whether its tenant had it for long, or `None` if it is kept for another one.
    fn take_kept(&mut self, now: Instant, ports: &Ports, port: PortId, mac: [u8; 6]) -> Option<bool> {
        let tenant = ports.get(port)?.tenant;
        self.stamp(now);
        let Some(at) = self.kept.iter().position(|kept| kept.mac == mac) else {
            return Some(self.formers.comes_first(now, mac, tenant));
        };
        let kept = self.kept.get(at)?;
        let (own, tenure) = (kept.tenant == tenant, kept.tenure);
        if !own && !self.gives_way(now, ports, (None, tenure), port, mac) {
            return None;
        }
        self.kept.remove(at);
        Some(!own || tenure.is_settled(now))
    }

    /// Whether the tenant that has an address, on the link `old` or on none, gives way to that of `port`.
    fn gives_way(
        &self,
        now: Instant,
        ports: &Ports,
        (old, tenure): (Option<PortId>, Tenure),
        port: PortId,
        mac: [u8; 6],
    ) -> bool {
        let tenant = |port: PortId| ports.get(port).map(|port| port.tenant);
        !self.formers.is_empty()
            && !tenure.is_settled(now)
            && old.is_none_or(|old| tenant(old) != tenant(port))
            && tenant(port).is_some_and(|tenant| self.formers.comes_first(now, mac, tenant))
    }

    fn add(&mut self, now: Instant, port: PortId, source: [u8; 6], settled: bool) -> Learning {
        let of_port = self.per_port.entry(port).or_default();
        let full = of_port.count >= MAX_MACS_PER_PORT || self.learned.len() >= MAX_MACS;
        if full && of_port.aged.is_none_or(|aged| now.since(aged) >= REFRESH) {
            of_port.aged = Some(now);
            self.age(now, port);
        }
        if self.learned.len() >= MAX_MACS {
            self.forget_of_most(port);
        }
        let of_port = self.per_port.entry(port).or_default();
        if of_port.count >= MAX_MACS_PER_PORT || self.learned.len() >= MAX_MACS {
            return Learning::Full;
        }
        of_port.count += 1;
        // Whoever came first is here.
        if settled {
            self.formers.forget(source);
        }
        self.learned.insert(source, Learned { port, seen: now, tenure: Tenure::begin(now, settled) });
        Learning::New
    }

    fn forget(&mut self, mac: [u8; 6]) {
        if let Some(learned) = self.learned.remove(&mac)
            && let Some(of_port) = self.per_port.get_mut(&learned.port)
        {
            of_port.count -= 1;
        }
    }

    /// Forgets the old addresses of a link.
    fn age(&mut self, now: Instant, port: PortId) {
        let own = self.addresses().into_iter().filter(|(_, at)| *at == port).map(|(mac, _)| mac);
        let old: Vec<[u8; 6]> =
            own.filter(|mac| self.learned.get(mac).is_some_and(|l| now.since(l.seen) >= AGEING)).collect();
        for mac in old {
            self.forget(mac);
        }
    }

    /// A full table makes room at the cost of the link that has most, for one that has less.
    fn forget_of_most(&mut self, port: PortId) {
        let own = self.per_port.get(&port).map_or(0, |of_port| of_port.count);
        let most = self.per_port.iter().max_by_key(|(_, of_port)| of_port.count);
        let Some((&most, _)) = most.filter(|(_, of_port)| of_port.count > own + 1) else { return };
        let of_most = self.addresses().into_iter().filter(|(_, at)| *at == most).map(|(mac, _)| mac);
        let oldest = of_most.min_by_key(|mac| self.learned.get(mac).map(|learned| learned.seen));
        if let Some(mac) = oldest {
            self.forget(mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Learning::{Full, Known, New, Spoofed};

    const KEEP: Duration = Duration::from_secs(30);
    const OWN: [u8; 6] = [0x5a, 0, 0, 0, 0, 1];

    fn mac(n: u16) -> [u8; 6] {
        let [a, b] = n.to_be_bytes();
        [2, 0, 0, 1, a, b]
    }

    fn at(secs: u64) -> Instant {
        Instant::from_millis(secs * 1000)
    }

    fn world() -> (Switch, Ports, PortId, PortId) {
        let mut ports = Ports::default();
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        (Switch::new(OWN, 7, KEEP, BTreeMap::new()), ports, a, b)
    }

    #[test]
    fn nobody_takes_over_the_address_of_a_link_that_lives() {
        let (mut switch, mut ports, a, b) = world();
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(1)), New);
        for second in [10, 301, 1_000_000] {
            assert_eq!(switch.learn(at(second), &mut ports, b, mac(1)), Spoofed);
            assert_eq!(switch.find(mac(1)), Some(a));
        }
        assert_eq!(switch.learn(at(1_000_001), &mut ports, a, mac(1)), Known);
    }

    #[test]
    fn the_gateways_address_and_groups_are_never_learned() {
        let (mut switch, mut ports, a, _) = world();
        for spoofed in [OWN, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            assert_eq!(switch.learn(at(0), &mut ports, a, spoofed), Spoofed);
            assert_eq!(switch.find(spoofed), None);
        }
    }

    #[test]
    fn an_address_moves_at_once_to_the_same_machine_and_to_others_when_it_was_kept_for_long_enough() {
        let (mut switch, mut ports, a, b) = world();
        let again = ports.attach(1, None).unwrap();
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(1)), New);
        assert_eq!(switch.learn(at(1), &mut ports, again, mac(1)), New);
        ports.detach(again);
        switch.detach(again, 1);
        assert_eq!(switch.find(mac(1)), None);
        switch.stamp(at(100));
        assert_eq!(switch.learn(at(129), &mut ports, b, mac(1)), Spoofed);
        assert_eq!(switch.learn(at(129), &mut ports, a, mac(1)), New, "the tenant's own");
        ports.detach(a);
        switch.detach(a, 1);
        assert_eq!(switch.learn(at(200), &mut ports, b, mac(1)), Spoofed, "from now on");
        assert_eq!(switch.learn(at(229), &mut ports, b, mac(1)), Spoofed);
        assert_eq!(switch.learn(at(230), &mut ports, b, mac(1)), New);
        assert!(switch.kept.is_empty());
    }

    #[test]
    fn a_pinned_address_is_its_tenants_whoever_comes_first() {
        let (_, mut ports, a, b) = world();
        let mut switch = Switch::new(OWN, 7, KEEP, BTreeMap::from([(mac(1), 2)]));
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(1)), Spoofed);
        assert_eq!(switch.learn(at(0), &mut ports, b, mac(1)), New);
        assert_eq!(switch.find(mac(1)), Some(b));
    }

    #[test]
    fn links_that_come_and_go_leave_no_more_behind_than_one_has() {
        let (mut switch, mut ports, a, _) = world();
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(9999)), New);
        switch.detach(a, 1);
        for link in 0..50 {
            let port = ports.attach(7, None).unwrap();
            for n in 0..64 {
                assert_eq!(switch.learn(at(0), &mut ports, port, mac(link * 64 + n)), New);
            }
            ports.detach(port);
            switch.detach(port, 7);
        }
        assert_eq!((switch.kept.len(), switch.learned.len(), switch.per_port.len()), (MAX_KEPT + 1, 0, 0));
        assert_eq!(switch.kept[0].mac, mac(9999), "that of another tenant stays");
    }

    #[test]
    fn a_full_table_is_for_those_who_have_least() {
        let (mut switch, mut ports) = (Switch::new(OWN, 7, KEEP, BTreeMap::new()), Ports::default());
        for tenant in 0..64 {
            let port = ports.attach(tenant, None).unwrap();
            assert!((0..64).all(|n| switch.learn(at(0), &mut ports, port, mac(tenant as u16 * 64 + n)) == New));
        }
        let late = ports.attach(99, None).unwrap();
        assert!((0..32).all(|n| switch.learn(at(0), &mut ports, late, mac(5000 + n)) == New));
        assert_eq!(switch.learned.len(), MAX_MACS);
    }

    #[test]
    fn a_link_that_makes_up_addresses_takes_no_room_of_others() {
        let (mut switch, mut ports, a, b) = world();
        for n in 0..1000 {
            let learned = switch.learn(at(0), &mut ports, a, mac(n));
            assert_eq!(learned, if usize::from(n) < MAX_MACS_PER_PORT { New } else { Full });
        }
        assert_eq!(switch.learn(at(0), &mut ports, b, mac(2000)), New);
        assert_eq!(switch.learn(at(350), &mut ports, b, mac(2000)), Known);
        assert_eq!(switch.learn(at(400), &mut ports, a, mac(1001)), New, "the old ones have aged");
        switch.detach(a, 1);
        assert_eq!(switch.addresses(), [(mac(2000), b)]);
    }
}

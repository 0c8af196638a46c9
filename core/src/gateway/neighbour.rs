//! Where a guest's IP address is: learned from its ARP, neighbour discovery and DHCP, and asked for
//! when it is needed (RFC 826, RFC 4861 section 7.2).
//!
//! Owns: addresses and who waits for them. Driven by: the machine. Drain: at [`Neighbours::poll_timeout`],
//! [`Neighbours::poll_due`] until `None`.
//! An address belongs to the link that said so first, as long as that link is up, however silent it is. When the link is
//! gone, its tenant alone gets the address for a while ([`super::Config::keep_address`]): a link that is only dialled anew
//! finds its address free. After that it is whoever's comes first, but for those who had it for long ([`super::formers`]).
//! Bounds: [`MAX_NEIGHBOURS`] addresses of either family, and no more of IPv4 than the subnet has. Of them a machine, or a link
//! of a listener, has at most [`MAX_PER_HOLDER`]; of IPv4 at most a quarter of the subnet, and where three quarters are taken
//! none but its first. What links of a listener leave behind is at most as much as one of them may have. [`MAX_ASKED`] are
//! asked for at a time with [`MAX_WAITING`] waiters each and [`MAX_WAITING_BYTES`] in all, three questions one second apart
//! (RFC 1122 section 2.3.2.1).

use super::switch::AGEING;
use super::{
    formers::{Formers, Tenure},
    output::{FlowId, SessionId},
    port::{Holder, PortId, Ports},
};
use crate::time::Instant;
use core::{net::IpAddr, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

/// Addresses of one family remembered.
pub(super) const MAX_NEIGHBOURS: usize = 4096;
/// Addresses of IPv6 remembered of one machine, or of one link where that is all that tells machines apart.
const MAX_PER_HOLDER: usize = 256;
/// The same of IPv4, in a subnet that has four times as many.
pub(super) const MAX_PER_HOLDER_V4: usize = 64;
const MAX_ASKED: usize = 64;
const MAX_WAITING: usize = 256;
/// Bytes of datagrams that wait for guests to be found.
const MAX_WAITING_BYTES: usize = 1 << 20;
const QUESTIONS: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(1);
/// A sign of life is written down again after this time.
const REFRESH: Duration = Duration::from_secs(1);

/// What one holder may have of `total` addresses of IPv4: a quarter, and room for a change of address in the smallest subnet.
pub(super) fn share_of(total: usize) -> usize {
    (total / 4).clamp(2, MAX_PER_HOLDER_V4)
}

/// Whether so few of `total` are left that they are for those who have none.
pub(super) const fn is_scarce(total: usize, taken: usize) -> bool {
    taken >= total - total / 4
}

/// Where a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) port: PortId,
    pub(super) mac: [u8; 6],
}

/// What is known of an address.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: Neighbour,
    holder: Holder,
    /// When its owner last said so.
    seen: Instant,
    kept: Kept,
    tenure: Tenure,
}

/// How long an address stays its owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// As long as the link is up.
    Up,
    /// The link is gone; since when is known at the next call that says what time it is.
    Gone,
    /// Until then.
    Until(Instant),
}

/// What has come of a claim.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Those that waited for the address.
    pub(super) waiters: Vec<Waiter>,
    /// It was not known to be there before.
    pub(super) moved: bool,
    /// There was no room to remember it.
    pub(super) full: bool,
}

/// What waits for a guest to be found.
#[derive(Debug)]
pub(super) enum Waiter {
    Flow(FlowId),
    /// A datagram of a session.
    Datagram(SessionId, Vec<u8>),
}

#[derive(Debug)]
struct Asked {
    left: u32,
    at: Instant,
    waiters: Vec<Waiter>,
}

/// What is due for an address.
#[derive(Debug)]
pub(super) enum Due {
    /// Ask for it.
    Ask(IpAddr),
    /// Nobody has it.
    Failed(Vec<Waiter>),
}

/// Addresses of one holder and family, the one that was silent the longest first.
type Held = BTreeSet<(Instant, IpAddr)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Neighbours {
    known: BTreeMap<IpAddr, Known>,
    /// Mirrors `known`; the second part of a key is whether it is IPv6.
    held: BTreeMap<(Holder, bool), Held>,
    /// How many of `known` are of IPv6.
    known_v6: usize,
    /// Addresses of guests that the subnet has.
    total_v4: usize,
    keep: Duration,
    /// Those that are [`Kept::Gone`].
    gone: Vec<IpAddr>,
    /// Those that are [`Kept::Until`], the first one that will be free first.
    kept: BTreeSet<(Instant, IpAddr)>,
    formers: Formers<IpAddr>,
    asked: BTreeMap<IpAddr, Asked>,
    waiting_bytes: usize,
}

impl Neighbours {
    /// For a subnet with `total_v4` addresses of guests; an address is kept for `keep` when its link is gone.
    pub(super) fn new(total_v4: usize, keep: Duration) -> Self {
        Self {
            known: BTreeMap::new(),
            held: BTreeMap::new(),
            known_v6: 0,
            total_v4: total_v4.min(MAX_NEIGHBOURS),
            keep,
            gone: Vec::new(),
            kept: BTreeSet::new(),
            formers: Formers::new(),
            asked: BTreeMap::new(),
            waiting_bytes: 0,
        }
    }

    /// Somebody says that it has `address`, or was given it just now (`leased`: then there is room for it in any case).
    ///
    /// # Errors
    /// [`Spoofed`] if it is another's.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        ports: &Ports,
        address: IpAddr,
        new: Neighbour,
        leased: bool,
    ) -> Result<Claimed, Spoofed> {
        self.stamp(now);
        let Some(holder) = ports.holder(new.port) else { return Ok(Claimed::default()) };
        let mut claimed = Claimed::default();
        match self.known.get(&address).copied() {
            Some(known) if is_anothers(now, ports, &known, new.port) => {
                if !self.comes_first(now, &known, address, holder.tenant) {
                    return Err(Spoofed);
                }
                claimed.moved = true;
                self.insert(now, address, new, holder, Tenure::begin(now, true));
            }
            Some(known) if known.place == new && known.kept == Kept::Up => {
                if now.since(known.seen) >= REFRESH {
                    self.insert(now, address, new, holder, known.tenure);
                }
            }
            Some(known) => {
                claimed.moved = true;
                let stays = known.place.port == new.port && known.kept == Kept::Up;
                let tenure = if stays { known.tenure } else { Tenure::begin(now, known.tenure.is_settled(now)) };
                self.insert(now, address, new, holder, tenure);
            }
            None if self.has_room(now, holder, address.is_ipv6(), leased) => {
                claimed.moved = true;
                let settled = self.formers.comes_first(now, address, holder.tenant);
                self.insert(now, address, new, holder, Tenure::begin(now, settled));
            }
            None => claimed.full = true,
        }
        if let Some(asked) = self.asked.remove(&address) {
            claimed.waiters = self.let_go(asked);
        }
        Ok(claimed)
    }

    /// Whether `address` belongs to somebody whom `port` may not speak for.
    pub(super) fn is_elsewhere(&self, now: Instant, ports: &Ports, address: IpAddr, port: PortId) -> bool {
        self.known.get(&address).is_some_and(|known| is_anothers(now, ports, known, port))
            && !self.is_former(now, ports, address, port)
    }

    /// Whether `address` is another's now, and that one gives way to the tenant of `port`.
    pub(super) fn is_former(&self, now: Instant, ports: &Ports, address: IpAddr, port: PortId) -> bool {
        !self.formers.is_empty()
            && self.known.get(&address).zip(ports.get(port)).is_some_and(|(known, port)| {
                known.holder.tenant != port.tenant && self.comes_first(now, known, address, port.tenant)
            })
    }

    fn comes_first(&self, now: Instant, known: &Known, address: IpAddr, tenant: u32) -> bool {
        !known.tenure.is_settled(now) && self.formers.comes_first(now, address, tenant)
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<Neighbour> {
        self.known.get(&address).filter(|known| known.kept == Kept::Up).map(|known| known.place)
    }

    /// The link that has an address, or had it.
    pub(super) fn owner(&self, address: IpAddr) -> Option<PortId> {
        self.known.get(&address).map(|known| known.place.port)
    }

    fn has_room(&mut self, now: Instant, holder: Holder, v6: bool, leased: bool) -> bool {
        let own = self.held.get(&(holder, v6)).map_or(0, BTreeSet::len);
        let (most, scarce, full) = if v6 {
            (MAX_PER_HOLDER, false, self.known_v6 >= MAX_NEIGHBOURS)
        } else {
            let taken = self.known.len() - self.known_v6;
            (share_of(self.total_v4), is_scarce(self.total_v4, taken), taken >= self.total_v4)
        };
        if own >= most || (scarce && own > 0) {
            return self.forget_one(now, (holder, v6), leased);
        }
        !full || self.forget_of_most((holder, v6), own)
    }

    /// Makes room with the address of a holder that was silent the longest, if it was for long or its link is gone: of IPv6, a
    /// guest may take a new one every day (RFC 8981). What was leased finds room in any case.
    fn forget_one(&mut self, now: Instant, key: (Holder, bool), leased: bool) -> bool {
        let Some(&(seen, address)) = self.held.get(&key).and_then(|held| held.first()) else { return false };
        let gone = self.known.get(&address).is_some_and(|known| known.kept != Kept::Up);
        if leased || gone || now.since(seen) >= AGEING {
            self.forget(address);
            return true;
        }
        false
    }

    /// A full table makes room at the cost of whoever has most, for somebody who has less.
    fn forget_of_most(&mut self, key: (Holder, bool), own: usize) -> bool {
        let family = self.held.iter().filter(|((_, v6), _)| *v6 == key.1);
        let most = family.max_by_key(|(_, held)| held.len()).filter(|(_, held)| held.len() > own + 1);
        let Some(&(_, address)) = most.and_then(|(_, held)| held.first()) else { return false };
        self.forget(address);
        true
    }

    fn insert(&mut self, now: Instant, address: IpAddr, place: Neighbour, holder: Holder, tenure: Tenure) {
        self.forget(address);
        if self.formers.comes_first(now, address, holder.tenant) {
            self.formers.forget(address);
        }
        self.known.insert(address, Known { place, holder, seen: now, kept: Kept::Up, tenure });
        self.known_v6 += usize::from(address.is_ipv6());
        self.held.entry((holder, address.is_ipv6())).or_default().insert((now, address));
    }

    fn forget(&mut self, address: IpAddr) {
        let Some(old) = self.known.remove(&address) else { return };
        self.known_v6 -= usize::from(address.is_ipv6());
        if let Kept::Until(until) = old.kept {
            self.kept.remove(&(until, address));
        }
        let key = (old.holder, address.is_ipv6());
        if let Some(held) = self.held.get_mut(&key) {
            held.remove(&(old.seen, address));
            if held.is_empty() {
                self.held.remove(&key);
            }
        }
    }

    /// Waits for `address`; `true` if it is to be asked for now. `Err` gives the waiter back: too many wait.
    pub(super) fn wait(&mut self, now: Instant, address: IpAddr, waiter: Waiter) -> Result<bool, Waiter> {
        if let Some(asked) = self.asked.get_mut(&address) {
            if asked.waiters.len() >= MAX_WAITING || self.waiting_bytes + waiter.bytes() > MAX_WAITING_BYTES {
                return Err(waiter);
            }
            self.waiting_bytes += waiter.bytes();
            asked.waiters.push(waiter);
            return Ok(false);
        }
        if self.asked.len() >= MAX_ASKED || self.waiting_bytes + waiter.bytes() > MAX_WAITING_BYTES {
            return Err(waiter);
        }
        self.waiting_bytes += waiter.bytes();
        self.asked.insert(address, Asked { left: QUESTIONS - 1, at: now + INTERVAL, waiters: vec![waiter] });
        Ok(true)
    }

    /// The next address that is due.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Due> {
        let (&address, asked) = self.asked.iter_mut().find(|(_, asked)| asked.at <= now)?;
        if asked.left > 0 {
            asked.left -= 1;
            asked.at = now + INTERVAL;
            return Some(Due::Ask(address));
        }
        self.asked.remove(&address).map(|asked| Due::Failed(self.let_go(asked)))
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.at).min()
    }

    /// A link is gone: its addresses are kept for its tenant.
    pub(super) fn detach(&mut self, port: PortId) {
        let gone: Vec<_> =
            self.known.iter().filter(|(_, known)| known.place.port == port).map(|(a, k)| (*a, *k)).collect();
        for (address, known) in gone {
            // What links of a listener leave behind is the listener's.
            let holder = known.holder.without_link();
            let key = (holder, address.is_ipv6());
            self.forget(address);
            if self.held.get(&key).is_some_and(|held| held.len() >= MAX_PER_HOLDER)
                && let Some(&(_, oldest)) = self.held.get(&key).and_then(|held| held.first())
            {
                self.forget(oldest);
            }
            self.known.insert(address, Known { holder, kept: Kept::Gone, ..known });
            self.known_v6 += usize::from(address.is_ipv6());
            self.gone.push(address);
            self.held.entry(key).or_default().insert((known.seen, address));
        }
    }

    /// What time it is: what is gone is kept from now on, and what was kept for long enough is forgotten.
    pub(super) fn stamp(&mut self, now: Instant) {
        let until = now + self.keep;
        for address in std::mem::take(&mut self.gone) {
            if let Some(known) = self.known.get_mut(&address).filter(|known| known.kept == Kept::Gone) {
                known.kept = Kept::Until(until);
                known.tenure.pause(now);
                self.kept.insert((until, address));
            }
        }
        while let Some(&(until, address)) = self.kept.first().filter(|(until, _)| *until <= now) {
            if let Some(known) = self.known.get(&address).filter(|known| known.tenure.is_settled(until)) {
                self.formers.remember(until, address, known.holder.tenant);
            }
            self.forget(address);
        }
    }

    /// Those who waited wait no more.
    fn let_go(&mut self, asked: Asked) -> Vec<Waiter> {
        self.waiting_bytes -= asked.waiters.iter().map(Waiter::bytes).sum::<usize>();
        asked.waiters
    }
}

impl Waiter {
    /// Memory that it takes beyond itself.
    fn bytes(&self) -> usize {
        match self {
            Self::Flow(_) => 0,
            Self::Datagram(_, payload) => payload.len(),
        }
    }
}

/// Whether an address belongs to somebody whom `port` may not speak for.
fn is_anothers(now: Instant, ports: &Ports, known: &Known, port: PortId) -> bool {
    let same_tenant = || ports.get(port).is_some_and(|port| port.tenant == known.holder.tenant);
    match known.kept {
        Kept::Up => !ports.may_take_over(known.place.port, port),
        Kept::Gone => !same_tenant(),
        Kept::Until(until) => now < until && !same_tenant(),
    }
}

/// The address belongs to a link that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoofed;

#[cfg(test)]
mod tests {
    use super::{super::port::ANONYMOUS, *};

    const GUEST: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 127, 2));

    const KEEP: Duration = Duration::from_secs(30);

    fn neighbours() -> Neighbours {
        Neighbours::new(MAX_NEIGHBOURS, KEEP)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn an_address_is_asked_for_three_times_and_then_given_up() {
        let mut neighbours = neighbours();
        let flow = FlowId::from_u64(1);
        assert!(neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(flow)).unwrap());
        assert!(!neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(flow)).unwrap());
        for second in [1000, 2000] {
            assert_eq!(neighbours.poll_timeout(), Some(Instant::from_millis(second)));
            assert!(neighbours.poll_due(Instant::from_millis(second - 1)).is_none());
            assert!(matches!(neighbours.poll_due(Instant::from_millis(second)), Some(Due::Ask(GUEST))));
        }
        let failed = neighbours.poll_due(Instant::from_millis(3000));
        assert!(matches!(failed, Some(Due::Failed(waiters)) if waiters.len() == 2));
        assert_eq!(neighbours.poll_timeout(), None);
    }

    #[test]
    fn an_answer_frees_the_waiters_and_a_second_one_from_elsewhere_is_refused() {
        let (mut neighbours, mut ports) = (neighbours(), Ports::default());
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(FlowId::from_u64(1))).unwrap();
        let here = Neighbour { port: a, mac: [2; 6] };
        assert_eq!(neighbours.learn(Instant::ZERO, &ports, GUEST, here, false).unwrap().waiters.len(), 1);
        let there = Neighbour { port: b, mac: [2; 6] };
        assert!(neighbours.learn(Instant::ZERO, &ports, GUEST, there, false).is_err());
        assert_eq!(neighbours.find(GUEST), Some(here));
    }

    #[test]
    fn the_address_of_a_live_link_is_its_own_however_silent_it_is_and_leased_to_nobody_else() {
        let (mut neighbours, mut ports) = (neighbours(), Ports::default());
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        let (here, there) = (Neighbour { port: a, mac: [2; 6] }, Neighbour { port: b, mac: [4; 6] });
        for address in [GUEST, "fd00::2".parse().unwrap()] {
            neighbours.learn(at(0), &ports, address, here, false).unwrap();
            for (second, leased) in [(1, false), (1, true), (1_000_000, false), (1_000_000, true)] {
                assert_eq!(neighbours.learn(at(second), &ports, address, there, leased).unwrap_err(), Spoofed);
                assert!(neighbours.is_elsewhere(at(second), &ports, address, b));
                assert_eq!(neighbours.find(address), Some(here));
            }
        }
    }

    #[test]
    fn the_address_of_a_link_that_is_gone_is_kept_for_its_tenant_for_a_while() {
        for (tenant, kept) in [(1, true), (ANONYMOUS, true), (2, false), (ANONYMOUS + 1, false)] {
            let (mut neighbours, mut ports) = (neighbours(), Ports::default());
            let owner = if tenant < ANONYMOUS { 1 } else { ANONYMOUS };
            let (a, b) = (ports.attach(owner, None).unwrap(), ports.attach(tenant, None).unwrap());
            let there = Neighbour { port: b, mac: [4; 6] };
            neighbours.learn(at(0), &ports, GUEST, Neighbour { port: a, mac: [2; 6] }, false).unwrap();
            ports.detach(a);
            neighbours.detach(a);
            assert_eq!(neighbours.find(GUEST), None);
            // The time runs from when somebody says what time it is.
            neighbours.stamp(at(1000));
            for leased in [false, true] {
                let mut soon = at(1029);
                assert_eq!(neighbours.is_elsewhere(soon, &ports, GUEST, b), !kept);
                assert_eq!(neighbours.learn(soon, &ports, GUEST, there, leased).is_ok(), kept, "{tenant}");
                soon = at(1030);
                assert!(!neighbours.is_elsewhere(soon, &ports, GUEST, b));
            }
            neighbours.learn(at(1030), &ports, GUEST, there, false).unwrap();
            assert_eq!(neighbours.find(GUEST), Some(there));
        }
    }

    #[test]
    fn nobody_has_so_many_addresses_of_ipv4_that_none_is_left_for_somebody_who_has_none() {
        let (mut neighbours, mut ports) = (Neighbours::new(252, KEEP), Ports::default());
        let mut claim = |ports: &Ports, port, n: u32| {
            let place = Neighbour { port, mac: [2; 6] };
            let address = IpAddr::from(core::net::Ipv4Addr::from_bits(0x0a00_0000 + n));
            neighbours.learn(at(0), ports, address, place, false).unwrap();
            neighbours.find(address) == Some(place)
        };
        let greedy: Vec<_> = (0..60).map(|_| ports.attach(ANONYMOUS, None).unwrap()).collect();
        let mut taken = 0;
        for (i, port) in greedy.iter().enumerate() {
            let got = (0..252).filter(|n| claim(&ports, *port, i as u32 * 300 + n)).count();
            taken += got;
            assert!(got <= 63, "{got}");
        }
        assert!(taken <= 189 + greedy.len(), "{taken}");
        let poor = ports.attach(2, None).unwrap();
        assert!(claim(&ports, poor, 100_000));
        assert!(!claim(&ports, poor, 100_001), "one is what is left for it");
    }

    #[test]
    fn what_links_of_a_listener_leave_behind_takes_no_more_room_than_one_of_them() {
        let (mut neighbours, mut ports) = (neighbours(), Ports::default());
        for link in 0..100_u128 {
            let port = ports.attach(ANONYMOUS, None).unwrap();
            for n in 0..300 {
                let address = IpAddr::from(core::net::Ipv6Addr::from_bits(0xfd << 120 | link << 32 | n));
                neighbours.learn(at(0), &ports, address, Neighbour { port, mac: [2; 6] }, false).unwrap();
            }
            ports.detach(port);
            neighbours.detach(port);
        }
        assert_eq!(neighbours.known.len(), MAX_PER_HOLDER);
        neighbours.stamp(at(0));
        neighbours.stamp(at(30));
        assert_eq!((neighbours.known.len(), neighbours.held.len(), neighbours.kept.len()), (0, 0, 0));
    }

    #[test]
    fn a_full_table_is_for_those_who_have_least() {
        let (mut neighbours, mut ports) = (neighbours(), Ports::default());
        let mut claim = |ports: &Ports, port, n: u128| {
            let place = Neighbour { port, mac: [2; 6] };
            let address = IpAddr::from(core::net::Ipv6Addr::from_bits(0xfd << 120 | n));
            neighbours.learn(at(0), ports, address, place, false).unwrap();
            neighbours.find(address) == Some(place)
        };
        for tenant in 0..16 {
            let port = ports.attach(tenant, None).unwrap();
            assert!((0..256).all(|n| claim(&ports, port, u128::from(tenant) << 32 | n)));
        }
        let late = ports.attach(99, None).unwrap();
        assert!((0..128).all(|n| claim(&ports, late, 1 << 64 | n)));
        assert_eq!(neighbours.known_v6, MAX_NEIGHBOURS);
        assert_eq!(neighbours.held.values().map(BTreeSet::len).sum::<usize>(), MAX_NEIGHBOURS);
    }

    #[test]
    fn a_link_has_room_for_the_addresses_of_late_and_takes_no_room_of_others() {
        let (mut neighbours, mut ports) = (neighbours(), Ports::default());
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        let address = |n: u32| IpAddr::from(core::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(n)));
        let mut learn = |second: u64, port, n| {
            let place = Neighbour { port, mac: [2; 6] };
            neighbours.learn(Instant::from_millis(second * 1000), &ports, address(n), place, false).unwrap();
            neighbours.find(address(n)) == Some(place)
        };
        assert!(learn(0, b, 1_000_000));
        let known = (0..300).filter(|n| learn(1, a, *n)).count();
        assert_eq!(known, MAX_PER_HOLDER);
        assert!(!learn(300, a, 1000), "all of them were heard of lately");
        assert!(learn(302, a, 1000) && learn(302, a, 1001));
        assert_eq!(neighbours.known.len(), MAX_PER_HOLDER + 1);
        assert!(neighbours.find(address(1_000_000)).is_some());
    }

    #[test]
    fn the_links_of_a_machine_share_its_addresses_and_a_lease_finds_room() {
        let (mut ports, mut neighbours) = (Ports::default(), neighbours());
        let own: Vec<_> = (0..16).map(|_| ports.attach(1, None).unwrap()).collect();
        let other = ports.attach(2, None).unwrap();
        let address = |n: u32| IpAddr::from(core::net::Ipv4Addr::from_bits(n));
        let mut learn = |port, n, leased: bool| {
            let place = Neighbour { port, mac: [2; 6] };
            neighbours.learn(Instant::ZERO, &ports, address(n), place, leased).unwrap();
            neighbours.find(address(n)) == Some(place)
        };
        let known = (0..16_000).filter(|n| learn(own[*n as usize % 16], *n, false)).count();
        assert_eq!(known, MAX_PER_HOLDER_V4);
        assert!(learn(other, 20_000, false));
        assert!(learn(own[3], 30_000, true));
        assert_eq!(neighbours.known.len(), MAX_PER_HOLDER_V4 + 1);
    }

    #[test]
    fn waiters_are_bounded() {
        let mut neighbours = neighbours();
        let mut kept = 0;
        for host in 0..=255 {
            for _ in 0..300 {
                let waiter = Waiter::Datagram(SessionId::from_u64(1), vec![0; 10]);
                let address = IpAddr::from([10, 0, 0, host]);
                kept += usize::from(neighbours.wait(Instant::ZERO, address, waiter).is_ok());
            }
        }
        assert_eq!(kept, MAX_ASKED * MAX_WAITING);
    }

    #[test]
    fn datagrams_that_wait_are_bounded_in_bytes_and_leave_no_trace() {
        let mut neighbours = neighbours();
        for round in 0..3 {
            let now = at(round * 10);
            let mut kept = 0;
            for host in 0..=255 {
                let waiter = Waiter::Datagram(SessionId::from_u64(1), vec![0; 60_000]);
                kept += usize::from(neighbours.wait(now, IpAddr::from([10, 0, 0, host % 4]), waiter).is_ok());
            }
            assert_eq!(kept, MAX_WAITING_BYTES / 60_000);
            for second in 0..9 {
                while neighbours.poll_due(now + Duration::from_secs(second)).is_some() {}
            }
        }
    }
}

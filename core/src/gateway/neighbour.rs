//! Where a guest's IP address is: learned from its ARP, neighbour discovery and DHCP, and asked for
//! when it is needed (RFC 826, RFC 4861 section 7.2).
//!
//! Owns: addresses and who waits for them. Driven by: the machine. Drain: [`Neighbours::due`] at [`Neighbours::next`].
//! An address stays with the link that uses it, as on the switch: another link gets it when that one is gone, when it was
//! silent for [`AGEING`], or when it was leased to it.
//! Bounds: [`MAX_NEIGHBOURS`] addresses, [`MAX_PER_MACHINE`] of them of one machine, [`MAX_ASKED`] asked for at a time with
//! [`MAX_WAITING`] waiters each, three questions one
//! second apart (RFC 1122 section 2.3.2.1).

use super::switch::AGEING;
use super::{
    output::{FlowId, SessionId},
    port::{PortId, Ports},
};
use crate::time::Instant;
use core::{net::IpAddr, time::Duration};
use std::collections::BTreeMap;

/// Addresses remembered.
pub(super) const MAX_NEIGHBOURS: usize = 4096;
/// Addresses remembered of one machine, or of one link where that is all that tells machines apart.
const MAX_PER_MACHINE: usize = 256;
const MAX_ASKED: usize = 64;
const MAX_WAITING: usize = 256;
const QUESTIONS: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(1);

/// Where a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) port: PortId,
    pub(super) mac: [u8; 6],
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

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Where each is, and when that was last said.
    known: BTreeMap<IpAddr, (Neighbour, Instant)>,
    asked: BTreeMap<IpAddr, Asked>,
}

impl Neighbours {
    /// Somebody says that it has `address`, or was given it just now. Gives those that waited for it; `Err` if it is
    /// another's.
    pub(super) fn learn(
        &mut self,
        now: Instant,
        ports: &Ports,
        address: IpAddr,
        new: Neighbour,
        leased: bool,
    ) -> Result<Vec<Waiter>, Spoofed> {
        match self.known.get_mut(&address) {
            Some((old, seen)) if !leased && now.since(*seen) < AGEING && !ports.may_take_over(old.port, new.port) => {
                return Err(Spoofed);
            }
            Some(known) => *known = (new, now),
            None => {
                // Of all links of a machine: with IPv6 it has addresses without end.
                let own = self.known.values().filter(|(known, _)| ports.may_take_over(known.port, new.port)).count();
                let room = self.known.len() < MAX_NEIGHBOURS && own < MAX_PER_MACHINE;
                if room || self.forget_one(now, ports, new.port, leased) {
                    self.known.insert(address, (new, now));
                }
            }
        }
        Ok(self.asked.remove(&address).map_or_else(Vec::new, |asked| asked.waiters))
    }

    /// Makes room with the address of a machine that was silent the longest, if it was for long: of IPv6, a guest may take a
    /// new one every day (RFC 8981). What was leased finds room in any case.
    fn forget_one(&mut self, now: Instant, ports: &Ports, port: PortId, leased: bool) -> bool {
        let own = self.known.iter().filter(|(_, (known, _))| ports.may_take_over(known.port, port));
        let oldest = own.min_by_key(|(_, (_, seen))| *seen).map(|(address, (_, seen))| (*address, *seen));
        match oldest {
            Some((address, seen)) if leased || now.since(seen) >= AGEING => self.known.remove(&address).is_some(),
            Some(_) | None => false,
        }
    }

    /// Whether `address` belongs to somebody whom `port` may not speak for.
    pub(super) fn is_elsewhere(&self, ports: &Ports, address: IpAddr, port: PortId) -> bool {
        self.known.get(&address).is_some_and(|(known, _)| !ports.may_take_over(known.port, port))
    }

    pub(super) fn find(&self, address: IpAddr) -> Option<Neighbour> {
        self.known.get(&address).map(|(neighbour, _)| *neighbour)
    }

    /// Waits for `address`; `true` if it is to be asked for now. `Err` gives the waiter back: too many wait.
    pub(super) fn wait(&mut self, now: Instant, address: IpAddr, waiter: Waiter) -> Result<bool, Waiter> {
        if let Some(asked) = self.asked.get_mut(&address) {
            if asked.waiters.len() >= MAX_WAITING {
                return Err(waiter);
            }
            asked.waiters.push(waiter);
            return Ok(false);
        }
        if self.asked.len() >= MAX_ASKED {
            return Err(waiter);
        }
        self.asked.insert(address, Asked { left: QUESTIONS - 1, at: now + INTERVAL, waiters: vec![waiter] });
        Ok(true)
    }

    /// The next address that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let (&address, asked) = self.asked.iter_mut().find(|(_, asked)| asked.at <= now)?;
        if asked.left > 0 {
            asked.left -= 1;
            asked.at = now + INTERVAL;
            return Some(Due::Ask(address));
        }
        self.asked.remove(&address).map(|asked| Due::Failed(asked.waiters))
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.at).min()
    }

    /// A link is gone.
    pub(super) fn detach(&mut self, port: PortId) {
        self.known.retain(|_, (neighbour, _)| neighbour.port != port);
    }
}

/// The address belongs to a link that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoofed;

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 127, 2));

    #[test]
    fn an_address_is_asked_for_three_times_and_then_given_up() {
        let mut neighbours = Neighbours::default();
        let flow = FlowId::from_u64(1);
        assert!(neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(flow)).unwrap());
        assert!(!neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(flow)).unwrap());
        for second in [1000, 2000] {
            assert_eq!(neighbours.next(), Some(Instant::from_millis(second)));
            assert!(neighbours.due(Instant::from_millis(second - 1)).is_none());
            assert!(matches!(neighbours.due(Instant::from_millis(second)), Some(Due::Ask(GUEST))));
        }
        let failed = neighbours.due(Instant::from_millis(3000));
        assert!(matches!(failed, Some(Due::Failed(waiters)) if waiters.len() == 2));
        assert_eq!(neighbours.next(), None);
    }

    #[test]
    fn an_answer_frees_the_waiters_and_a_second_one_from_elsewhere_is_refused() {
        let (mut neighbours, mut ports) = (Neighbours::default(), Ports::default());
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        neighbours.wait(Instant::ZERO, GUEST, Waiter::Flow(FlowId::from_u64(1))).unwrap();
        let here = Neighbour { port: a, mac: [2; 6] };
        assert_eq!(neighbours.learn(Instant::ZERO, &ports, GUEST, here, false).unwrap().len(), 1);
        let there = Neighbour { port: b, mac: [2; 6] };
        assert!(neighbours.learn(Instant::ZERO, &ports, GUEST, there, false).is_err());
        assert_eq!(neighbours.find(GUEST), Some(here));
        neighbours.detach(a);
        assert_eq!(neighbours.find(GUEST), None);
        assert!(neighbours.learn(Instant::ZERO, &ports, GUEST, there, false).is_ok());
    }

    #[test]
    fn a_link_has_room_for_the_addresses_of_late_and_takes_no_room_of_others() {
        let (mut neighbours, mut ports) = (Neighbours::default(), Ports::default());
        let (a, b) = (ports.attach(1, None).unwrap(), ports.attach(2, None).unwrap());
        let address = |n: u32| IpAddr::from(core::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(n)));
        let mut learn = |second: u64, port, n| {
            let place = Neighbour { port, mac: [2; 6] };
            neighbours.learn(Instant::from_millis(second * 1000), &ports, address(n), place, false).unwrap();
            neighbours.find(address(n)) == Some(place)
        };
        assert!(learn(0, b, 1_000_000));
        let known = (0..300).filter(|n| learn(1, a, *n)).count();
        assert_eq!(known, MAX_PER_MACHINE);
        assert!(!learn(300, a, 1000), "all of them were heard of lately");
        assert!(learn(302, a, 1000) && learn(302, a, 1001));
        assert_eq!(neighbours.known.len(), MAX_PER_MACHINE + 1);
        assert!(neighbours.find(address(1_000_000)).is_some());
    }

    #[test]
    fn the_links_of_a_machine_share_its_addresses_and_a_lease_finds_room() {
        let (mut ports, mut neighbours) = (Ports::default(), Neighbours::default());
        let own: Vec<_> = (0..16).map(|_| ports.attach(1, None).unwrap()).collect();
        let other = ports.attach(2, None).unwrap();
        let address = |n: u32| IpAddr::from(core::net::Ipv4Addr::from_bits(n));
        let mut learn = |port, n, leased| {
            let place = Neighbour { port, mac: [2; 6] };
            neighbours.learn(Instant::ZERO, &ports, address(n), place, leased).unwrap();
            neighbours.find(address(n)) == Some(place)
        };
        let known = (0..16_000).filter(|n| learn(own[*n as usize % 16], *n, false)).count();
        assert_eq!(known, MAX_PER_MACHINE);
        assert!(learn(other, 20_000, false));
        assert!(learn(own[3], 30_000, true));
        assert_eq!(neighbours.known.len(), MAX_PER_MACHINE + 1);
    }

    #[test]
    fn waiters_are_bounded() {
        let mut neighbours = Neighbours::default();
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
}

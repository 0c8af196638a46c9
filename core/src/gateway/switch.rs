//! Which link a hardware address is on.
//!
//! Owns: the learned addresses. Driven by: the machine, for every frame. Bounds: [`MAX_MACS`] addresses, [`MAX_MACS_PER_PORT`] of
//! them on one link: an enclave that makes up addresses does not take the room of others.
//!
//! An address stays where it is as long as its link lives and it is used (IEEE 802.1Q section 8.8.3 has the same 300 s):
//! unlike in gvproxy, nobody can take over what another enclave gets by using its address.

use super::port::{PortId, Ports};
use crate::time::Instant;
use core::time::Duration;
use foldhash::fast::FixedState;
use std::collections::HashMap;

/// Addresses remembered.
pub(super) const MAX_MACS: usize = 4096;
/// Addresses remembered of one link; an enclave has one, one with containers inside has some.
pub(super) const MAX_MACS_PER_PORT: usize = 64;
/// Silence after which an address is forgotten.
pub(super) const AGEING: Duration = Duration::from_secs(300);

/// An address is looked at again after this time, however many frames it sends meanwhile.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Learned {
    port: PortId,
    seen: Instant,
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

/// See the module.
#[derive(Debug)]
pub(super) struct Switch {
    own: [u8; 6],
    learned: HashMap<[u8; 6], Learned, FixedState>,
    per_port: HashMap<PortId, usize, FixedState>,
}

impl Switch {
    pub(super) fn new(own: [u8; 6], seed: u64) -> Self {
        let state = FixedState::with_seed(seed);
        Self { own, learned: HashMap::with_hasher(state.clone()), per_port: HashMap::with_hasher(state) }
    }

    /// A frame with this source came from `port`.
    pub(super) fn learn(&mut self, now: Instant, ports: &mut Ports, port: PortId, source: [u8; 6]) -> Learning {
        let recent =
            |last: Option<([u8; 6], Instant)>| last.is_some_and(|(mac, at)| mac == source && now.since(at) < REFRESH);
        if ports.get(port).is_some_and(|port| recent(port.last_source)) {
            return Learning::Known;
        }
        // The gateway's own address, and what is no address of a station.
        if source == self.own || source[0] & 1 == 1 || source == [0; 6] {
            return Learning::Spoofed;
        }
        let learning = match self.learned.get_mut(&source) {
            Some(learned) if learned.port == port => {
                learned.seen = now;
                Learning::Known
            }
            Some(learned) if now.since(learned.seen) < AGEING && !ports.may_take_over(learned.port, port) => {
                Learning::Spoofed
            }
            Some(_) => {
                self.forget(source);
                self.add(now, port, source)
            }
            None => self.add(now, port, source),
        };
        if matches!(learning, Learning::Known | Learning::New)
            && let Some(port) = ports.get_mut(port)
        {
            port.last_source = Some((source, now));
        }
        learning
    }

    /// The link of an address.
    pub(super) fn find(&self, now: Instant, mac: [u8; 6]) -> Option<PortId> {
        self.learned.get(&mac).filter(|learned| now.since(learned.seen) < AGEING).map(|learned| learned.port)
    }

    /// A link is gone, and its addresses with it.
    pub(super) fn detach(&mut self, port: PortId) {
        self.learned.retain(|_, learned| learned.port != port);
        self.per_port.remove(&port);
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

    fn add(&mut self, now: Instant, port: PortId, source: [u8; 6]) -> Learning {
        let count = self.per_port.get(&port).copied().unwrap_or(0);
        if count >= MAX_MACS_PER_PORT || self.learned.len() >= MAX_MACS {
            self.age(now);
        }
        let count = self.per_port.entry(port).or_default();
        if *count >= MAX_MACS_PER_PORT || self.learned.len() >= MAX_MACS {
            return Learning::Full;
        }
        *count += 1;
        self.learned.insert(source, Learned { port, seen: now });
        Learning::New
    }

    fn forget(&mut self, mac: [u8; 6]) {
        if let Some(learned) = self.learned.remove(&mac)
            && let Some(count) = self.per_port.get_mut(&learned.port)
        {
            *count -= 1;
        }
    }

    fn age(&mut self, now: Instant) {
        let old: Vec<[u8; 6]> = self
            .addresses()
            .into_iter()
            .map(|(mac, _)| mac)
            .filter(|mac| self.learned.get(mac).is_some_and(|learned| now.since(learned.seen) >= AGEING))
            .collect();
        for mac in old {
            self.forget(mac);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Learning::{Full, Known, New, Spoofed};

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
        (Switch::new(OWN, 7), ports, a, b)
    }

    #[test]
    fn nobody_takes_over_the_address_of_a_link_that_lives() {
        let (mut switch, mut ports, a, b) = world();
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(1)), New);
        assert_eq!(switch.learn(at(10), &mut ports, b, mac(1)), Spoofed);
        assert_eq!(switch.find(at(10), mac(1)), Some(a));
        assert_eq!(switch.learn(at(200), &mut ports, a, mac(1)), Known);
        assert_eq!(switch.learn(at(499), &mut ports, b, mac(1)), Spoofed);
        assert_eq!(switch.find(at(500), mac(1)), None, "unused for 300 s");
        assert_eq!(switch.learn(at(500), &mut ports, b, mac(1)), New);
        assert_eq!(switch.find(at(500), mac(1)), Some(b));
    }

    #[test]
    fn the_gateways_address_and_groups_are_never_learned() {
        let (mut switch, mut ports, a, _) = world();
        for spoofed in [OWN, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
            assert_eq!(switch.learn(at(0), &mut ports, a, spoofed), Spoofed);
            assert_eq!(switch.find(at(0), spoofed), None);
        }
    }

    #[test]
    fn an_address_moves_at_once_when_its_link_is_gone_or_is_the_same_machines() {
        let (mut switch, mut ports, a, b) = world();
        assert_eq!(switch.learn(at(0), &mut ports, a, mac(1)), New);
        ports.detach(a);
        assert_eq!(switch.learn(at(1), &mut ports, b, mac(1)), New);
        let again = ports.attach(2, None).unwrap();
        assert_eq!(switch.learn(at(2), &mut ports, again, mac(1)), New);
        assert_eq!(switch.find(at(2), mac(1)), Some(again));
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
        switch.detach(a);
        assert_eq!(switch.addresses(), [(mac(2000), b)]);
    }
}

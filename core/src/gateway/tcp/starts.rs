//! From which port a connection begins, and with which numbers: so that it is not taken for an earlier one between the
//! same ends, which a guest that has closed first remembers for a minute.
//!
//! Owns: one counter of ports per bucket of guests. Driven by: connections that begin.
//! Bounds: [`COUNTERS`] counters; a port is looked for among all of them once.

use super::{
    flow::{Buffers, Start},
    initial::Initial,
    *,
};

/// First and last port of connections that we open: gvproxy's, and so more than Linux takes for itself.
const EPHEMERAL: (u16, u16) = (16_000, 65_535);
const PORTS: u32 = EPHEMERAL.1 as u32 - EPHEMERAL.0 as u32 + 1;
/// Guests' ports are told apart by these when ports are counted (RFC 6056 section 3.3.4).
const COUNTERS: usize = 256;
/// Ports of connections that are over a moment ago and are passed by, before one of them is taken.
const PASSED_BY: u32 = 1024;
/// How far behind an earlier connection's numbers a new one's begin at least.
const APART: u32 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Starts {
    initial: Initial,
    counters: Box<[u32; COUNTERS]>,
    /// Added to the time in timestamps, so that they do not tell for how long the gateway has run.
    stamp: u32,
}

impl Starts {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let initial = Initial::new((rng.u64(..), rng.u64(..)));
        Self { initial, counters: Box::new([0; COUNTERS]), stamp: rng.u32(..) }
    }
}

impl Tcp {
    /// Ends of a connection that we open to a guest. A port comes again only after all others of that guest (RFC 6056 section
    /// 3.3.4: the offset is nobody's to guess), and of a connection that we still remember last.
    pub(super) fn free_key(
        &mut self,
        now: Instant,
        tenant: u32,
        from: IpAddr,
        guest: (IpAddr, u16),
    ) -> Option<FlowKey> {
        let offset = self.starts.initial.hash(&(from, guest));
        let bucket = self.starts.initial.hash(&(guest, from)) as usize % COUNTERS;
        let mut remembered = None;
        for tried in 0..PORTS {
            let counter = &mut self.starts.counters[bucket];
            *counter = (*counter + 1) % PORTS;
            let port = u32::from(EPHEMERAL.0) + (offset % PORTS + *counter) % PORTS;
            let key = FlowKey { tenant, guest, remote: (from, port as u16) };
            if self.by_key.contains_key(&key) {
                continue;
            }
            if self.time_wait.get(now, &key).is_none() {
                return Some(key);
            }
            remembered.get_or_insert(key);
            if tried >= PASSED_BY {
                break;
            }
        }
        remembered
    }

    /// The numbers of a connection that begins. They are higher than those of the last one between its ends, if that is
    /// still remembered here (RFC 9293 section 3.6.1).
    ///
    /// A SYN from a guest is taken then whatever its own number is: on a link, which is one stream, nothing of an earlier
    /// connection can come late.
    pub(super) fn begin(&mut self, now: Instant, key: &FlowKey) -> Start {
        let mut number = self.starts.initial.number(now, key);
        if let Some(last) = self.time_wait.get(now, key) {
            number = behind(number, last.sequence);
            self.time_wait.remove(key);
        }
        Start { number, stamp: Some(self.starts.stamp) }
    }

    /// A SYN to a guest has met an earlier connection there, which expects this number next, and was acknowledged instead of
    /// answered. That was reset, as the guest had to be told (RFC 9293 section 3.10.7.3): here is the SYN again at once,
    /// with a number that also those take that ignore a reset while they remember (RFC 1337); the last time without
    /// timestamps, of which they may have seen later ones before the gateway was restarted (RFC 6191).
    pub(super) fn begin_again(&mut self, now: Instant, id: Id, expected: u32) {
        let Some(Entry { key, phase: Phase::Open(flow), attempts, .. }) =
            self.flows.get_mut(id).map(|entry| &mut **entry)
        else {
            return;
        };
        // Without memory for another one, it is the same SYN again, a second later.
        let Some(buffers) = Buffers::new(self.config.allocate, flow.buffer) else { return };
        *attempts += 1;
        let number = behind(self.starts.initial.number(now, key), expected);
        let stamp = Some(self.starts.stamp).filter(|_| *attempts < ATTEMPTS);
        let start = Start { number, stamp };
        **flow = Flow::connect(now, key.remote, key.guest, buffers, self.config.mtu, start);
        self.mark(id);
    }
}

/// A number that is behind `last`: `number` if it is.
const fn behind(number: u32, last: u32) -> u32 {
    if number.wrapping_sub(last).wrapping_sub(APART) < 1 << 30 { number } else { last.wrapping_add(APART) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use std::collections::BTreeSet;

    const GUEST: (IpAddr, u16) = (IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 127, 2)), 80);
    const FROM: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(192, 168, 127, 1));

    fn tcp() -> Tcp {
        let config = TcpConfig {
            mac: [2; 6],
            mtu: 1500,
            max_flows: 16,
            memory: 1 << 20,
            largest_buffer: 1 << 16,
            seed: 7,
            allocate: |len| Some(vec![0; len]),
            source_ports: SourcePortsConfig::default(),
        };
        Tcp::new(config)
    }

    quickcheck! {
        fn the_next_number_is_behind_the_last_one(number: u32, last: u32) -> bool {
            (APART..=APART + (1 << 30)).contains(&behind(number, last).wrapping_sub(last))
        }
    }

    #[test]
    fn a_port_comes_again_after_all_others_of_its_guest_whatever_other_guests_do() {
        let mut tcp = tcp();
        let mut seen = BTreeSet::new();
        for n in 0..PORTS {
            let key = tcp.free_key(Instant::ZERO, 1, FROM, GUEST).unwrap();
            assert!(key.remote.1 >= EPHEMERAL.0 && seen.insert(key.remote.1), "after {n}");
            let other = (IpAddr::from([192, 168, 127, 3]), 80);
            tcp.free_key(Instant::ZERO, 2, FROM, other).unwrap();
        }
    }

    #[test]
    fn ports_of_connections_that_are_remembered_come_last() {
        let mut tcp = tcp();
        let first = tcp.free_key(Instant::ZERO, 1, FROM, GUEST).unwrap();
        for _ in 1..PORTS {
            tcp.free_key(Instant::ZERO, 1, FROM, GUEST).unwrap();
        }
        tcp.time_wait.insert(Instant::ZERO, first, Last { sequence: 5, acknowledgement: 6 });
        assert_ne!(tcp.free_key(Instant::ZERO, 1, FROM, GUEST), Some(first));
        for port in EPHEMERAL.0..=EPHEMERAL.1 {
            let key = FlowKey { tenant: 1, guest: GUEST, remote: (FROM, port) };
            if port.is_multiple_of(4) {
                tcp.time_wait.insert(Instant::ZERO, key, Last { sequence: 5, acknowledgement: 6 });
            }
        }
        for _ in 0..10_000 {
            let key = tcp.free_key(Instant::ZERO, 1, FROM, GUEST).unwrap();
            assert!(!key.remote.1.is_multiple_of(4));
        }
    }

    #[test]
    fn a_connection_begins_behind_the_one_that_is_remembered() {
        let mut tcp = tcp();
        let key = tcp.free_key(Instant::ZERO, 1, FROM, GUEST).unwrap();
        let first = tcp.begin(Instant::ZERO, &key).number;
        // It has sent half a gigabyte.
        let last = first.wrapping_add(1 << 29);
        tcp.time_wait.insert(Instant::ZERO, key, Last { sequence: last, acknowledgement: 6 });
        let second = tcp.begin(Instant::from_millis(1), &key).number;
        assert!((1..1 << 20).contains(&second.wrapping_sub(last)));
        assert_eq!(tcp.time_wait.len(), 0);
    }
}

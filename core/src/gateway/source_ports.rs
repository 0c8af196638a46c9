//! The host's own ports that connections to one destination take.
//!
//! Owns: how many each tenant takes for each destination. Driven by: connections.
//! Bounds: [`MAX`] pairs of a destination and a tenant; beyond that one with few ports and no connection is forgotten.
//!
//! A connection of the host needs a port of its own for each destination, of some 28,000 that there are (`ip_local_port_range`
//! of ip(7)). Where the guest closes first, so does the host, and its kernel keeps the port for a minute more (TIME-WAIT, RFC
//! 9293 section 3.6.1). So a guest that opens and closes some 500 connections a second would soon leave none to anybody else
//! who wants to go there. No tenant may have more of them than three times what is free.

use crate::time::Instant;
use core::{net::SocketAddr, time::Duration};
use std::collections::BTreeMap;

/// How many times what is free a tenant may have.
const SHARE: usize = 3;
/// Pairs of a destination and a tenant that are remembered.
const MAX: usize = 32_768;
/// Pairs looked at to find one that can be forgotten.
const LOOKED_AT: usize = 16;
/// How long the kernel keeps a port (`TCP_TIMEWAIT_LEN` of Linux is 60 s), in spans: a port is let go with its span.
const SPANS: usize = 7;
const SPAN: Duration = Duration::from_secs(10);

/// What is known of the host's ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourcePortsConfig {
    /// How many there are; 0 if nobody knows, and then nobody counts.
    pub count: usize,
    /// Ports of closed connections are taken again at once (`tcp_tw_reuse` of tcp(7)).
    pub reused: bool,
    /// The same for connections to the host itself.
    pub reused_on_loopback: bool,
}

/// A destination, and whose connections.
type Key = (SocketAddr, u32);

/// See the module.
#[derive(Debug)]
pub(super) struct SourcePorts {
    config: SourcePortsConfig,
    now: Instant,
    used: BTreeMap<Key, Used>,
    /// Where the search for something to forget goes on.
    hand: Option<Key>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    /// Connections that are there.
    live: u32,
    /// Those that were closed, by span.
    kept: [u32; SPANS],
    /// The last span.
    span: u64,
}

impl Used {
    fn advance(&mut self, span: u64) {
        let passed = span.saturating_sub(self.span).min(SPANS as u64);
        for n in 1..=passed {
            self.kept[((span - passed + n) % SPANS as u64) as usize] = 0;
        }
        self.span = self.span.max(span);
    }

    fn total(&self) -> usize {
        self.live as usize + self.kept.iter().map(|n| *n as usize).sum::<usize>()
    }
}

impl SourcePorts {
    pub(super) const fn new(config: SourcePortsConfig) -> Self {
        Self { config, now: Instant::ZERO, used: BTreeMap::new(), hand: None }
    }

    /// What time it is.
    pub(super) fn at(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// A tenant's connection takes a port; false if it may not.
    pub(super) fn take(&mut self, now: Instant, to: SocketAddr, tenant: u32) -> bool {
        self.at(now);
        if self.config.count == 0 {
            return true;
        }
        let span = self.span();
        let (mut all, mut own) = (0, 0);
        for ((_, whose), used) in self.used.range_mut((to, 0)..=(to, u32::MAX)) {
            used.advance(span);
            all += used.total();
            own += if *whose == tenant { used.total() } else { 0 };
        }
        let free = self.config.count.saturating_sub(all);
        if free == 0 || own > SHARE * free {
            return false;
        }
        self.forget_some(span);
        self.used.entry((to, tenant)).or_insert_with(|| Used { span, ..Used::default() }).live += 1;
        true
    }

    /// A connection is over; `kept` if the kernel keeps its port.
    pub(super) fn release(&mut self, to: SocketAddr, tenant: u32, kept: bool) {
        let span = self.span();
        let reused = self.config.reused || (self.config.reused_on_loopback && to.ip().to_canonical().is_loopback());
        let Some(used) = self.used.get_mut(&(to, tenant)) else { return };
        used.advance(span);
        used.live = used.live.saturating_sub(1);
        used.kept[(span % SPANS as u64) as usize] += u32::from(kept && !reused);
        if used.total() == 0 {
            self.used.remove(&(to, tenant));
        }
    }

    fn span(&self) -> u64 {
        self.now.as_nanos() / SPAN.as_nanos() as u64
    }

    /// Looks at some, and forgets those that are over; in a crowd also the least of those that have no connection.
    fn forget_some(&mut self, span: u64) {
        let behind = self.hand.map_or(core::ops::Bound::Unbounded, core::ops::Bound::Excluded);
        let mut over = Vec::new();
        let mut least: Option<(usize, Key)> = None;
        let mut hand = None;
        for (key, used) in self.used.range_mut((behind, core::ops::Bound::Unbounded)).take(LOOKED_AT) {
            used.advance(span);
            hand = Some(*key);
            match used.total() {
                0 => over.push(*key),
                total if used.live == 0 && least.is_none_or(|(few, _)| total < few) => least = Some((total, *key)),
                _ => {}
            }
        }
        self.hand = hand;
        if self.used.len() >= MAX && over.is_empty() {
            over.extend(least.map(|(_, key)| key));
        }
        for key in over {
            self.used.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn to(n: u32) -> SocketAddr {
        (core::net::Ipv4Addr::from_bits(0xc000_0200 + n), 443).into()
    }

    fn ports(count: usize) -> SourcePorts {
        SourcePorts::new(SourcePortsConfig { count, ..SourcePortsConfig::default() })
    }

    #[test]
    fn one_that_opens_and_closes_leaves_ports_to_others_and_gets_its_own_back_after_a_minute() {
        let mut ports = ports(1000);
        let churn = |ports: &mut SourcePorts, second, tenant| {
            (0..5000)
                .take_while(|_| {
                    let taken = ports.take(at(second), to(1), tenant);
                    if taken {
                        ports.release(to(1), tenant, true);
                    }
                    taken
                })
                .count()
        };
        assert_eq!(churn(&mut ports, 5, 1), 751);
        assert_eq!(churn(&mut ports, 30, 1), 0);
        assert_eq!(churn(&mut ports, 30, 2), 187, "three quarters of what is left");
        assert!(ports.take(at(30), to(2), 1), "another destination has ports of its own");
        assert_eq!(churn(&mut ports, 64, 1), 0, "the kernel keeps them for 60 s");
        assert!(churn(&mut ports, 75, 1) > 500);
    }

    #[test]
    fn ports_that_are_free_at_once_count_only_while_they_are_used() {
        for (config, address) in [
            (SourcePortsConfig { count: 100, reused: true, reused_on_loopback: false }, to(1)),
            (SourcePortsConfig { count: 100, reused: false, reused_on_loopback: true }, "[::1]:1".parse().unwrap()),
        ] {
            let mut ports = SourcePorts::new(config);
            for _ in 0..5000 {
                assert!(ports.take(at(1), address, 1));
                ports.release(address, 1, true);
            }
            assert!((0..76).all(|_| ports.take(at(1), address, 1)), "{address}");
            assert!(!ports.take(at(1), address, 1));
            ports.release(address, 1, false);
            assert!(ports.take(at(1), address, 1));
        }
        let mut unknown = ports(0);
        assert!((0..100_000).all(|_| unknown.take(at(1), to(1), 1)));
    }

    #[test]
    fn many_destinations_take_no_more_memory_and_hide_no_crowded_one() {
        let mut ports = ports(1000);
        for _ in 0..600 {
            assert!(ports.take(at(1), to(0), 1));
            ports.release(to(0), 1, true);
        }
        for n in 1..3 * MAX as u32 {
            assert!(ports.take(at(1), to(n), 1));
            ports.release(to(n), 1, true);
            assert!(ports.used.len() <= MAX + 1);
        }
        assert_eq!(ports.used.get(&(to(0), 1)).unwrap().total(), 600);
        for n in 0..3 * MAX as u32 {
            ports.take(at(1000), to(n % 3), 1);
            ports.release(to(n % 3), 1, false);
        }
        assert!(ports.used.len() < LOOKED_AT, "what is over is forgotten");
    }
}

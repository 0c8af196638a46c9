//! How many connections a listener for links takes.
//!
//! Owns: a bucket for the listener, and one per peer that can be told from others. Driven by: the listener. Before it accepts
//! it waits for [`Arrivals::ready_at`], and with each connection it asks [`Arrivals::handle_arrival`].
//! Bounds: [`RATE`] connections per second on one listener, [`BURST`] at once; of 1,024 peers it is remembered when they came.
//!
//! A connection costs the gateway a hundred times what a frame costs, and enclaves redial without being asked to. So the
//! listener accepts no more than its rate: what comes beyond that waits in its backlog. Peers with a CID or an IP address of
//! their own must not fill that for others. When the listener is short, those who came more often than [`PEER_RATE`] are turned
//! away, which costs an eighth of serving them.

use super::limits::TokenBucket;
use crate::time::Instant;
use std::collections::BTreeMap;

/// Connections per second on one listener.
pub const RATE: u64 = 512;
/// Connections at once: as many as there may be links, twice.
pub const BURST: u64 = 512;
/// The same of one peer, when the listener is short.
pub const PEER_RATE: u64 = 16;
/// A peer has one link and redials it a few times.
pub const PEER_BURST: u64 = 64;
/// Peers remembered.
const PEERS: usize = 1024;
/// Turning a connection away costs such a part of serving it.
const PARTS: u64 = 8;

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Serve it.
    Serve,
    /// Close it: its peer came too often.
    TurnAway,
}

/// See the module. `P` is what tells peers apart.
#[derive(Debug)]
pub struct Arrivals<P> {
    all: TokenBucket,
    peers: BTreeMap<P, TokenBucket>,
}

impl<P: Copy + Ord> Default for Arrivals<P> {
    fn default() -> Self {
        Self { all: TokenBucket::new(RATE * PARTS, BURST * PARTS), peers: BTreeMap::new() }
    }
}

impl<P: Copy + Ord> Arrivals<P> {
    /// A connection was accepted. `peer` is `None` where peers cannot be told apart.
    pub fn handle_arrival(&mut self, now: Instant, peer: Option<P>) -> Arrival {
        let short = self.all.ready_at(BURST * PARTS / 2).is_none_or(|at| at > now);
        let often = peer.is_some_and(|peer| !self.may(now, peer));
        if short && often {
            self.all.take_up_to(now, 1);
            return Arrival::TurnAway;
        }
        self.all.take_up_to(now, PARTS);
        Arrival::Serve
    }

    /// When the next connection may be accepted; `None` if at once.
    #[must_use]
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        self.all.ready_at(PARTS).filter(|at| *at > now)
    }

    fn may(&mut self, now: Instant, peer: P) -> bool {
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS {
            // Those that have not come for long need not be remembered.
            self.peers.retain(|_, bucket| bucket.ready_at(PEER_BURST).is_none_or(|full| full > now));
            if self.peers.len() >= PEERS {
                return true;
            }
        }
        self.peers.entry(peer).or_insert_with(|| TokenBucket::new(PEER_RATE, PEER_BURST)).take(now, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// A peer that is served as soon as the listener accepts, for so many milliseconds; how many were served and turned away.
    fn flood(arrivals: &mut Arrivals<u32>, peer: Option<u32>, millis: u64) -> (u64, u64) {
        let (mut served, mut turned_away) = (0, 0);
        for now in 0..millis {
            while arrivals.ready_at(at(now)).is_none() {
                match arrivals.handle_arrival(at(now), peer) {
                    Arrival::Serve => served += 1,
                    Arrival::TurnAway => turned_away += 1,
                }
            }
        }
        (served, turned_away)
    }

    #[test]
    fn a_listener_whose_peers_are_one_accepts_at_its_rate_and_turns_nobody_away() {
        let mut arrivals = Arrivals::default();
        let (served, turned_away) = flood(&mut arrivals, None, 10_000);
        assert_eq!(turned_away, 0);
        assert!((BURST + 9 * RATE..=BURST + 10 * RATE).contains(&served), "{served}");
        let wait = arrivals.ready_at(at(9_999)).expect("it is at its limit").since(at(9_999));
        assert!(wait.as_millis() <= 2, "{wait:?}");
    }

    #[test]
    fn a_peer_that_comes_without_end_leaves_the_others_theirs() {
        let mut arrivals = Arrivals::default();
        let (served, turned_away) = flood(&mut arrivals, Some(1), 10_000);
        assert!((BURST / 2..=BURST / 2 + PEER_BURST + 10 * PEER_RATE).contains(&served), "{served}");
        assert!(turned_away <= BURST * PARTS + 10 * RATE * PARTS, "{turned_away}");
        // It is never longer than that until somebody else is accepted, and then served.
        assert!(arrivals.ready_at(at(10_001)).is_none());
        assert_eq!(arrivals.handle_arrival(at(10_001), Some(2)), Arrival::Serve);
    }

    #[test]
    fn all_peers_of_a_host_that_was_restarted_are_served_at_once() {
        let mut arrivals = Arrivals::default();
        assert!((0..BURST as u32).all(|peer| {
            arrivals.ready_at(at(0)).is_none() && arrivals.handle_arrival(at(0), Some(peer)) == Arrival::Serve
        }));
    }

    #[test]
    fn a_quiet_listener_turns_nobody_away_however_often_it_comes() {
        let mut arrivals = Arrivals::default();
        assert!((0..100_000).all(|n| arrivals.handle_arrival(at(n * 10), Some(1)) == Arrival::Serve));
    }

    quickcheck! {
        fn peers_are_remembered_up_to_a_bound_and_the_rate_holds(script: Vec<(u8, u16)>) -> bool {
            let mut arrivals = Arrivals::default();
            let (mut now, mut served) = (0, 0);
            for (wait, peer) in script {
                now += u64::from(wait);
                for n in 0..200 {
                    if arrivals.ready_at(at(now)).is_none() {
                        let peer = Some(u32::from(peer) * 200 + n);
                        served += u64::from(arrivals.handle_arrival(at(now), peer) == Arrival::Serve);
                    }
                }
            }
            arrivals.peers.len() <= PEERS && served <= BURST + RATE * now / 1000 + 1
        }
    }
}

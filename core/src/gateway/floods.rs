//! How many frames an enclave may send to others: each costs whoever gets it as much as a long one, and one for everybody is
//! copied to all.
//!
//! Owns: a bucket per holder, and one per listener. Driven by: the machine. Bounds: of a machine, or of a link of a listener,
//! [`RATE`] frames per second for everybody and [`RATE_TO_ONE`] for one station, twice as many at once and a 32nd of them, and
//! [`LINKS`] times as many of all links of a listener together.

use super::{
    limits::TokenBucket,
    port::{Holder, MAX_PORTS},
};
use crate::time::Instant;
use std::collections::BTreeMap;

/// What asking for neighbours, multicast DNS and the like take is a small part of it.
const RATE: u64 = 256;
/// As many neighbours as there may be are asked for at once, twice.
const BURST: u64 = 512;
/// Some 800 Mbit/s of the smallest usual MTU, and the eighth part of what a receiver can write to its TAP.
const RATE_TO_ONE: u64 = 65_536;
const BURST_TO_ONE: u64 = 2048;
const LINKS: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Floods {
    rate: u64,
    burst: u64,
    buckets: BTreeMap<Holder, TokenBucket>,
}

impl Floods {
    /// Of frames for everybody.
    pub(super) const fn to_all() -> Self {
        Self { rate: RATE, burst: BURST, buckets: BTreeMap::new() }
    }

    /// Of frames for one station.
    pub(super) const fn to_one() -> Self {
        Self { rate: RATE_TO_ONE, burst: BURST_TO_ONE, buckets: BTreeMap::new() }
    }

    /// Whether one more frame may go.
    pub(super) fn may(&mut self, now: Instant, holder: Holder) -> bool {
        let Self { rate, burst, .. } = *self;
        if !self.buckets.contains_key(&holder) && self.buckets.len() >= 2 * MAX_PORTS {
            // Those that have long been silent need not be remembered.
            let full =
                |bucket: &TokenBucket| bucket.ready_at(bucket.rate() / rate * burst).is_some_and(|full| full <= now);
            self.buckets.retain(|_, bucket| !full(bucket));
        }
        let mut take = |holder, times| {
            let bucket = self.buckets.entry(holder).or_insert_with(|| TokenBucket::new(rate * times, burst * times));
            bucket.take(now, 1)
        };
        let listener = holder.without_link();
        take(holder, 1) && (listener == holder || take(listener, LINKS))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::port::{ANONYMOUS, Ports},
        *,
    };

    fn sent(floods: &mut Floods, second: u64, holder: Holder) -> u64 {
        (0..1000).filter(|_| floods.may(Instant::from_millis(second * 1000), holder)).count() as u64
    }

    #[test]
    fn a_machine_has_its_rate_on_all_its_links_together_and_leaves_others_theirs() {
        let (mut ports, mut floods) = (Ports::default(), Floods::to_all());
        let [a, b, other] =
            [1, 1, 2].map(|tenant| ports.attach(tenant, None).unwrap()).map(|port| ports.holder(port).unwrap());
        assert_eq!(sent(&mut floods, 0, a), BURST);
        assert_eq!(sent(&mut floods, 0, b), 0);
        assert_eq!(sent(&mut floods, 1, b), RATE);
        assert_eq!(sent(&mut floods, 1, other), BURST);
    }

    #[test]
    fn a_station_may_be_sent_more_than_all_together_but_not_without_end() {
        let (mut ports, mut floods) = (Ports::default(), Floods::to_one());
        let [a, other] =
            [1, 2].map(|tenant| ports.attach(tenant, None).unwrap()).map(|port| ports.holder(port).unwrap());
        let total: u64 = (0..200).map(|_| sent(&mut floods, 0, a)).sum();
        assert_eq!(total, BURST_TO_ONE);
        assert_eq!(sent(&mut floods, 0, other), 1000);
    }

    #[test]
    fn links_of_a_listener_that_come_and_go_have_no_more_than_some_and_leave_nothing_behind() {
        let (mut ports, mut floods) = (Ports::default(), Floods::to_all());
        let mut total = 0;
        for n in 0..5000 {
            let port = ports.attach(ANONYMOUS, None).unwrap();
            total += sent(&mut floods, n / 1000, ports.holder(port).unwrap());
            ports.detach(port);
        }
        assert_eq!(total, LINKS * (BURST + 4 * RATE));
        let other = ports.attach(1, None).unwrap();
        assert_eq!(sent(&mut floods, 100, ports.holder(other).unwrap()), BURST);
        assert_eq!(floods.buckets.len(), 1);
    }
}

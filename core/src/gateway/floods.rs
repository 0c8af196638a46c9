//! How many frames for everybody an enclave may send: each is copied to all others, and costs all of them.
//!
//! Owns: a bucket per holder, and one per listener. Driven by: the machine. Bounds: [`RATE`] frames per second of a machine,
//! or of a link of a listener, [`BURST`] at once, and [`LINKS`] times as many of all links of a listener together.

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
const LINKS: u64 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Floods {
    buckets: BTreeMap<Holder, TokenBucket>,
}

impl Floods {
    /// Whether one more frame may go to everybody.
    pub(super) fn may(&mut self, now: Instant, holder: Holder) -> bool {
        if !self.buckets.contains_key(&holder) && self.buckets.len() >= 2 * MAX_PORTS {
            // Those that have long been silent need not be remembered.
            let full =
                |bucket: &TokenBucket| bucket.ready_at(bucket.rate() / RATE * BURST).is_some_and(|full| full <= now);
            self.buckets.retain(|_, bucket| !full(bucket));
        }
        let mut take = |holder, times| {
            let bucket = self.buckets.entry(holder).or_insert_with(|| TokenBucket::new(RATE * times, BURST * times));
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
        let (mut ports, mut floods) = (Ports::default(), Floods::default());
        let [a, b, other] =
            [1, 1, 2].map(|tenant| ports.attach(tenant, None).unwrap()).map(|port| ports.holder(port).unwrap());
        assert_eq!(sent(&mut floods, 0, a), BURST);
        assert_eq!(sent(&mut floods, 0, b), 0);
        assert_eq!(sent(&mut floods, 1, b), RATE);
        assert_eq!(sent(&mut floods, 1, other), BURST);
    }

    #[test]
    fn links_of_a_listener_that_come_and_go_have_no_more_than_some_and_leave_nothing_behind() {
        let (mut ports, mut floods) = (Ports::default(), Floods::default());
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

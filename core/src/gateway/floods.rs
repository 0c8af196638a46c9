//! How many frames an enclave may send to others: each costs whoever gets it as much as a long one, and one for everybody is
//! copied to all. And how many frames it may send that come to nothing.
//!
//! What is for everybody and too much is dropped. What is for one station is held back: its link rests, so that the kernels at
//! both its ends hold back whoever sends (shaping, not policing), and no work is done for frames that would be dropped.
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
/// Frames that come to nothing, for which nothing is too cheap to be sent without end: more than the resets that a busy guest
/// earns when a host is restarted.
const RATE_USELESS: u64 = 32_768;
const BURST_USELESS: u64 = 8192;
/// Frames that a rested link may send at once: at these rates it rests for two to four milliseconds.
const RESTED: u64 = 128;

/// Whether a frame for one station may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Go,
    /// It may, and then nothing of its link until `rest`.
    Last {
        rest: Instant,
    },
    /// It may not, and nothing of its link may until `rest`.
    Over {
        rest: Instant,
    },
}

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

    /// Of frames that come to nothing.
    pub(super) fn useless() -> Self {
        Self { rate: RATE_USELESS, burst: BURST_USELESS, buckets: BTreeMap::new() }
    }

    /// So many frames have been sent: until when the link of `holder` is to rest for that.
    pub(super) fn charge(&mut self, now: Instant, holder: Holder, frames: u64) -> Option<Instant> {
        self.make_room(now, holder);
        let listener = holder.without_link();
        self.bucket(holder, 1).overdraw(now, frames);
        if listener != holder {
            self.bucket(listener, LINKS).overdraw(now, frames);
        }
        self.is_used_up(holder).then(|| self.rest(now, holder))
    }

    /// Whether one more frame may go.
    pub(super) fn may(&mut self, now: Instant, holder: Holder) -> bool {
        self.make_room(now, holder);
        let listener = holder.without_link();
        self.bucket(holder, 1).take(now, 1) && (listener == holder || self.bucket(listener, LINKS).take(now, 1))
    }

    fn bucket(&mut self, holder: Holder, times: u64) -> &mut TokenBucket {
        let Self { rate, burst, buckets } = self;
        buckets.entry(holder).or_insert_with(|| TokenBucket::new(*rate * times, *burst * times))
    }

    /// Those that have long been silent need not be remembered.
    fn make_room(&mut self, now: Instant, holder: Holder) {
        let Self { rate, burst, buckets } = self;
        if !buckets.contains_key(&holder) && buckets.len() >= 2 * MAX_PORTS {
            let full =
                |bucket: &TokenBucket| bucket.ready_at(bucket.rate() / *rate * *burst).is_some_and(|full| full <= now);
            buckets.retain(|_, bucket| !full(bucket));
        }
    }

    /// The same, and whether the link of `holder` is to rest.
    pub(super) fn pace(&mut self, now: Instant, holder: Holder) -> Pace {
        let may = self.may(now, holder);
        if may && !self.is_used_up(holder) {
            return Pace::Go;
        }
        let rest = self.rest(now, holder);
        if may { Pace::Last { rest } } else { Pace::Over { rest } }
    }

    fn is_used_up(&self, holder: Holder) -> bool {
        let empty = |holder| self.buckets.get(&holder).is_some_and(TokenBucket::is_empty);
        empty(holder) || empty(holder.without_link())
    }

    /// Until when a link rests that has used up what it may.
    fn rest(&self, now: Instant, holder: Holder) -> Instant {
        let rested = |holder| self.buckets.get(&holder).and_then(|bucket| bucket.ready_at(RESTED));
        rested(holder).max(rested(holder.without_link())).unwrap_or(now)
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

//! How many connections were needed at once, lately.
//!
//! The window is cut into [`BUCKETS`] equal spans aligned to time zero; each remembers the highest demand seen in
//! it, so the peak covers between 7/8 and 8/8 of the window, at a constant cost per change.

use crate::time::Instant;
use core::time::Duration;

const BUCKETS: usize = 8;

/// Sliding-window maximum of a value that changes at known times.
#[derive(Debug)]
pub(super) struct Demand {
    peaks: [usize; BUCKETS],
    span: u64,
    /// Number of the current span since time zero.
    current: u64,
    last: usize,
}

impl Demand {
    pub(super) fn new(window: Duration) -> Self {
        let span = u64::try_from(window.as_nanos() / BUCKETS as u128).unwrap_or(u64::MAX).max(1);
        Self { peaks: [0; BUCKETS], span, current: 0, last: 0 }
    }

    /// The value is `demand` from `now` on.
    pub(super) fn record(&mut self, now: Instant, demand: usize) {
        self.advance(now);
        self.last = demand;
        let peak = &mut self.peaks[(self.current % BUCKETS as u64) as usize];
        *peak = demand.max(*peak);
    }

    /// Moves the window to `now`; spans in which nothing changed had the last value all through.
    pub(super) fn advance(&mut self, now: Instant) {
        let now = now.as_nanos();
        if now < self.current.saturating_add(1).saturating_mul(self.span) {
            return;
        }
        let to = now / self.span;
        for span in (self.current + 1)..=to.min(self.current + BUCKETS as u64) {
            self.peaks[(span % BUCKETS as u64) as usize] = self.last;
        }
        self.current = to;
    }

    /// The highest value in the window.
    pub(super) fn peak(&self) -> usize {
        self.peaks.iter().copied().max().unwrap_or(0)
    }

    /// When the window next moves on.
    pub(super) fn next(&self) -> Instant {
        Instant::from_nanos((self.current + 1).saturating_mul(self.span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_remembered_for_seven_to_eight_spans() {
        let mut demand = Demand::new(Duration::from_millis(80));
        demand.record(Instant::from_millis(5), 9);
        demand.record(Instant::from_millis(6), 2);
        demand.advance(Instant::from_millis(79));
        assert_eq!(demand.peak(), 9);
        demand.advance(Instant::from_millis(80));
        assert_eq!(demand.peak(), 2);
        assert_eq!(demand.next(), Instant::from_millis(90));
    }

    #[test]
    fn a_long_silence_leaves_only_the_last_value() {
        let mut demand = Demand::new(Duration::from_millis(80));
        demand.record(Instant::from_millis(5), 9);
        demand.record(Instant::from_millis(6), 3);
        demand.advance(Instant::from_millis(1_000_000));
        assert_eq!(demand.peak(), 3);
    }
}

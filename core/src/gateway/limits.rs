//! Rates: so many connections or bytes per second and no more.
//!
//! Owns: one level per bucket. Driven by: the gateway, per new flow and per read. Drain: nothing; a caller that was refused
//! comes back at [`TokenBucket::ready_at`].
//! Bounds: over any window of `t` seconds at most `burst + rate * t` tokens are given, in whole-number arithmetic that
//! neither rounds up nor wraps.

use crate::time::Instant;

/// Parts of a token that the level counts: with nanoseconds as the unit of time, a rate then needs no division.
const PARTS: u128 = 1_000_000_000;

/// A bucket that fills with `rate` tokens per second up to `burst`, and starts full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u64,
    burst: u64,
    /// In parts of a token; at most `burst * PARTS`, which is below 2^94.
    level: u128,
    /// Parts that were taken beyond that, and are paid back first; at most `burst * PARTS`.
    owed: u128,
    /// When `level` was right.
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. With a `rate` of 0 it never fills again; with a `burst` of 0 it gives nothing.
    #[must_use]
    pub const fn new(rate: u64, burst: u64) -> Self {
        Self { rate, burst, level: burst as u128 * PARTS, owed: 0, at: Instant::ZERO }
    }

    /// Tokens per second.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// Takes `n` tokens, or none of them and gives `false`. A time before the last one seen counts as that one.
    pub fn take(&mut self, now: Instant, n: u64) -> bool {
        self.fill(now);
        let wanted = u128::from(n) * PARTS;
        let enough = wanted <= self.level;
        if enough {
            self.level -= wanted;
        }
        enough
    }

    /// Takes as many whole tokens as there are, `most` at most; gives their number.
    pub fn take_up_to(&mut self, now: Instant, most: u64) -> u64 {
        self.fill(now);
        let whole = u64::try_from(self.level / PARTS).unwrap_or(u64::MAX).min(most);
        self.level -= u128::from(whole) * PARTS;
        whole
    }

    /// Takes `n` tokens, also those that are not there yet: they are owed, up to as many as fit the bucket. True if none are.
    pub fn overdraw(&mut self, now: Instant, n: u64) -> bool {
        self.fill(now);
        let wanted = u128::from(n) * PARTS;
        let taken = wanted.min(self.level);
        self.level -= taken;
        self.owed = self.owed.saturating_add(wanted - taken).min(u128::from(self.burst) * PARTS);
        self.owed == 0
    }

    /// Gives back tokens that were taken and not used.
    pub fn give_back(&mut self, n: u64) {
        self.level = self.level.saturating_add(u128::from(n) * PARTS).min(u128::from(self.burst) * PARTS);
    }

    /// Whether not one whole token was left when it was last looked at.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.level < PARTS || self.owed > 0
    }

    /// The earliest time at which [`TokenBucket::take`] of `n` succeeds, if nothing else is taken before; it may have
    /// passed. `None` if it never does.
    #[must_use]
    pub fn ready_at(&self, n: u64) -> Option<Instant> {
        let lacking = (u128::from(n) * PARTS).saturating_sub(self.level) + self.owed;
        if lacking == 0 {
            return Some(self.at);
        }
        if n > self.burst || self.rate == 0 {
            return None;
        }
        let nanos = u64::try_from(lacking.div_ceil(u128::from(self.rate))).ok()?;
        self.at.as_nanos().checked_add(nanos).map(Instant::from_nanos)
    }

    fn fill(&mut self, now: Instant) {
        // Below 2^128: both factors are below 2^64, and the sum is capped.
        let gained = now.since(self.at).as_nanos() * u128::from(self.rate);
        let paid = gained.min(self.owed);
        self.owed -= paid;
        self.level = self.level.saturating_add(gained - paid).min(u128::from(self.burst) * PARTS);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::{TestResult, quickcheck};

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    quickcheck! {
        fn no_window_gives_more_than_the_burst_and_what_the_rate_brings(
            rate: u32, burst: u16, script: Vec<(u32, u16, bool)>
        ) -> bool {
            let mut bucket = TokenBucket::new(u64::from(rate), u64::from(burst));
            let mut now = 0;
            let mut given = Vec::new();
            for (wait, n, all) in script {
                now += u64::from(wait);
                let n = u64::from(n);
                let taken = if all { u64::from(bucket.take(at(now), n)) * n } else { bucket.take_up_to(at(now), n) };
                given.push((now, taken));
            }
            given.iter().enumerate().all(|(i, (from, _))| {
                let mut sum = 0;
                given[i..].iter().all(|(to, taken)| {
                    sum += u128::from(*taken);
                    sum * PARTS <= u128::from(burst) * PARTS + u128::from(to - from) * u128::from(rate)
                })
            })
        }

        fn a_refused_caller_succeeds_exactly_when_it_is_told(rate: u32, burst: u16, first: u16, n: u16) -> TestResult {
            let mut bucket = TokenBucket::new(u64::from(rate), u64::from(burst));
            let now = at(1_000);
            bucket.take_up_to(now, u64::from(first));
            let n = u64::from(n);
            if bucket.clone().take(now, n) {
                return TestResult::from_bool(bucket.ready_at(n).is_some_and(|ready| ready <= now));
            }
            let Some(ready) = bucket.ready_at(n) else {
                return TestResult::from_bool(rate == 0 || n > u64::from(burst));
            };
            let before = at(ready.as_nanos() - 1);
            TestResult::from_bool(ready > now && !bucket.clone().take(before, n) && bucket.take(ready, n))
        }

        fn asking_more_often_gives_no_less(rate: u32, burst: u16, waits: Vec<u16>) -> bool {
            let mut often = TokenBucket::new(u64::from(rate), u64::from(burst));
            let mut once = often.clone();
            let (mut now, mut sum) = (0, 0);
            let all = often.take_up_to(at(0), u64::MAX) == once.take_up_to(at(0), u64::MAX);
            for wait in waits {
                now += u64::from(wait);
                sum += often.take_up_to(at(now), u64::MAX);
            }
            all && sum >= once.take_up_to(at(now), u64::MAX)
        }
    }

    #[test]
    fn what_was_taken_too_early_is_paid_back_first_and_is_bounded() {
        let mut bucket = TokenBucket::new(1_000, 10);
        assert!(bucket.overdraw(at(0), 10));
        assert!(!bucket.overdraw(at(0), 3));
        assert_eq!((bucket.ready_at(1), bucket.ready_at(2)), (Some(at(4_000_000)), Some(at(5_000_000))));
        assert!(!bucket.take(at(3_999_999), 1));
        assert!(bucket.take(at(4_000_000), 1));
        assert!(!bucket.overdraw(at(4_000_000), u64::MAX));
        assert_eq!(bucket.ready_at(1), Some(at(15_000_000)));
    }

    #[test]
    fn a_bucket_fills_at_its_rate_and_not_beyond_its_burst() {
        let mut bucket = TokenBucket::new(1_000, 10);
        assert_eq!(bucket.take_up_to(at(0), 100), 10);
        assert!(!bucket.take(at(999_999), 1));
        assert!(bucket.take(at(1_000_000), 1));
        assert_eq!(bucket.ready_at(3), Some(at(4_000_000)));
        assert!(!bucket.take(at(0), 1), "time that goes back brings nothing");
        assert_eq!(bucket.take_up_to(at(u64::MAX), u64::MAX), 10);
    }

    #[test]
    fn the_largest_numbers_overflow_nothing() {
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX);
        assert!(bucket.take(at(0), u64::MAX));
        assert!(!bucket.take(at(0), 1));
        assert!(bucket.take(at(u64::MAX), u64::MAX));
        assert_eq!(bucket.ready_at(u64::MAX), None, "beyond the end of time");
        assert_eq!(TokenBucket::new(0, 5).ready_at(6), None);
    }
}

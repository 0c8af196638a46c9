//! When to dial again while the upstream refuses connections, because its app restarts.
//!
//! One dial at a time finds out whether somebody listens again: the first a little after the refusal, each later one
//! after twice the pause of the one before, up to [`LONGEST`]. Pauses are shortened by up to a quarter, differently each
//! time, so that the proxy's workers do not knock in step.

use crate::time::Instant;
use core::time::Duration;

/// Pause after the first refusal.
const FIRST: Duration = Duration::from_millis(10);

/// Longest pause.
const LONGEST: Duration = Duration::from_millis(250);

/// The time between the first refused dial and the next that succeeds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Redial {
    /// When the next dial may begin.
    pub(super) at: Instant,
    pause: Duration,
}

impl Redial {
    /// A dial that ended at `now` was refused, after those that `before` tells of. `seed` differs from call to call.
    pub(super) fn after_refusal(before: Option<Self>, now: Instant, seed: u64) -> Self {
        let pause = match before {
            // Of several dials under way, the first that is refused counts.
            Some(before) if now < before.at => return before,
            Some(before) => (before.pause * 2).min(LONGEST),
            None => FIRST,
        };
        Self { at: now + (pause - pause / 4 * (mix(seed) % 1024) as u32 / 1024), pause }
    }
}

/// The finaliser of SplitMix64: neighbouring seeds give unrelated numbers.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_by_up_to_a_quarter() {
        let mut redial = None;
        let mut now = Instant::from_millis(5);
        let mut pauses = Vec::new();
        for seed in 0..12 {
            let next = Redial::after_refusal(redial, now, seed);
            pauses.push(next.at.since(now));
            now = next.at;
            redial = Some(next);
        }
        for (n, pause) in pauses.iter().enumerate() {
            let whole = (FIRST * (1 << n.min(10))).min(LONGEST);
            assert!(*pause <= whole && *pause >= whole * 3 / 4, "{n}: {pause:?}");
        }
        assert!(pauses[6..].windows(2).any(|w| w[0] != w[1]), "{pauses:?}");
    }

    #[test]
    fn dials_that_were_under_way_together_count_once() {
        let first = Redial::after_refusal(None, Instant::from_millis(1), 1);
        let second = Redial::after_refusal(Some(first), Instant::from_millis(2), 2);
        assert_eq!((first.at, first.pause), (second.at, second.pause));
    }
}

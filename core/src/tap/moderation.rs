//! Leaving a busy stream alone for a moment, so that a read brings many frames: what a network card's interrupt moderation
//! does (`rx-usecs` of ethtool(8)).
//!
//! A host that writes frame by frame wakes us for every one or two, and the wake-up costs more than the frame; fewer reads
//! also mean longer joined packets, fewer acknowledgements, and less work for the host itself.
//!
//! Owns: a count of the bytes of the last millisecond. Driven by: [`Ingress::moderate`](super::Ingress::moderate).
//! Bounds: a pause is never longer than asked for, and there is none unless [`BUSY`] bytes came within the [`WINDOW`]
//! before: the first frames of a transfer, and whatever comes now and then, are never late.

use crate::time::Instant;
use core::time::Duration;

/// Over which bytes are counted.
pub(super) const WINDOW: Duration = Duration::from_millis(1);

/// Bytes within a [`WINDOW`] from which on a stream is busy: 16 full frames at an MTU of 1500, 0.2 Gbit/s. Requests and
/// answers of a few hundred bytes stay below; with fewer frames there is little to gain.
pub(super) const BUSY: u64 = 24 << 10;

/// A read of at least so many bytes was worth its wake-up.
pub(super) const ENOUGH: usize = 16 << 10;

/// A pause ends when about so many bytes have come: a faster host must not find its stream full.
pub(super) const PLENTY: u64 = 32 << 10;

/// A shorter pause costs more than it saves: a timer and a wake-up.
pub(super) const SHORTEST: Duration = Duration::from_micros(20);

/// Decides about pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moderation {
    pause: Duration,
    /// Start of the window that is being counted.
    since: Instant,
    bytes: u64,
    /// The pause that the last window asks for.
    due: Option<Duration>,
}

impl Moderation {
    /// Pauses last `pause`; there are none if it is zero.
    pub(super) const fn new(pause: Duration) -> Self {
        Self { pause, since: Instant::ZERO, bytes: 0, due: None }
    }

    /// The last read brought `read` bytes, all of them together `total`, and emptied the stream.
    pub(super) fn after(&mut self, now: Instant, total: u64, read: usize) -> Option<Duration> {
        let age = now.since(self.since);
        if age >= WINDOW {
            self.due = self.judge(age, total.saturating_sub(self.bytes));
            (self.since, self.bytes) = (now, total);
        }
        self.due.filter(|_| read < ENOUGH)
    }

    /// The pause that `bytes` within `age` ask for.
    fn judge(&self, age: Duration, bytes: u64) -> Option<Duration> {
        // A window that nobody closed in time says nothing about now.
        if age >= 2 * WINDOW || bytes < BUSY {
            return None;
        }
        let plenty = Duration::from_nanos(age.as_nanos() as u64 * PLENTY / bytes);
        Some(self.pause.min(plenty)).filter(|pause| *pause >= SHORTEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const PAUSE: Duration = Duration::from_micros(100);

    /// Reads of `size` bytes `gap` nanoseconds apart; which of them were followed by a pause.
    fn pauses(moderation: &mut Moderation, from: Instant, gap: u64, size: usize, count: u64) -> Vec<bool> {
        let before = moderation.bytes;
        (1..=count)
            .map(|n| {
                let now = from + Duration::from_nanos(gap * n);
                moderation.after(now, before + n * size as u64, size).is_some()
            })
            .collect()
    }

    #[test]
    fn a_transfer_is_moderated_from_its_second_millisecond_until_it_pauses() {
        let mut moderation = Moderation::new(PAUSE);
        let start = Instant::from_millis(1000);
        // 1,516 bytes every 10 us.
        let held = pauses(&mut moderation, start, 10_000, 1516, 400);
        let first = held.iter().position(|held| *held).unwrap();
        assert!((100..=201).contains(&first), "{first}");
        assert!(held[first..].iter().all(|held| *held));
        let later = Instant::from_millis(2000);
        assert!(
            !pauses(&mut moderation, later, 10_000, 1516, 100).contains(&true),
            "what comes after silence is at once"
        );
    }

    #[test]
    fn the_faster_the_host_the_shorter_the_pause() {
        let pause = |bytes| Moderation::new(PAUSE).judge(WINDOW, bytes).map(|pause| pause.as_micros());
        assert_eq!(
            [BUSY - 1, BUSY, 10 * PLENTY, 20 * PLENTY, 50 * PLENTY].map(pause),
            [None, Some(100), Some(100), Some(50), Some(20)]
        );
        assert_eq!(pause(51 * PLENTY), None);
    }

    #[test]
    fn large_reads_fast_hosts_and_a_pause_of_zero_are_never_held() {
        for (pause, gap, size) in [(PAUSE, 10_000, ENOUGH), (PAUSE, 900, 1516), (Duration::ZERO, 10_000, 1516)] {
            let held = pauses(&mut Moderation::new(pause), Instant::from_millis(5), gap, size, 5000);
            assert!(!held.contains(&true));
        }
    }

    quickcheck! {
        /// Any gaps, of a stream that stays below the limit in every two windows on end.
        fn a_stream_that_is_not_busy_is_never_held(gaps: Vec<u16>, size: u16) -> bool {
            let size = usize::from(size % 1600);
            let spacing = 2_000_000 * size as u64 / BUSY;
            let (mut moderation, mut now, mut total) = (Moderation::new(PAUSE), Instant::from_millis(7), 0);
            gaps.into_iter().all(|gap| {
                now = now + Duration::from_nanos(spacing + 1 + u64::from(gap));
                total += size as u64;
                moderation.after(now, total, size).is_none()
            })
        }
    }
}

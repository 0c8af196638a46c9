//! Leaving a busy stream alone for a moment, so that a read brings many frames: what a network card's interrupt moderation
//! does (`rx-usecs` of ethtool(8)).
//!
//! A host that writes frame by frame wakes us for every one or two, and the wake-up costs more than the frame; fewer reads
//! also mean longer joined packets, fewer acknowledgements, and less work for the host itself. But a peer that waits for
//! our answer before it sends more is only made slower: so pauses are tried, and kept where reads become half as long again
//! and at least three quarters of the bytes still come.
//!
//! Owns: counts of the last milliseconds, without pauses and with them. Driven by:
//! [`Ingress::moderate`](super::Ingress::moderate). Bounds: a pause is never longer than asked for. There is none unless the
//! [`WINDOW`] before had [`BUSY`] bytes, nor, at first and after [`FORGET`] of silence, before [`TRIAL`] windows on end had:
//! the first millisecond of a transfer, and whatever comes now and then, are never late.

use crate::time::Instant;
use core::{mem, time::Duration};

/// Over which bytes are counted.
pub(super) const WINDOW: Duration = Duration::from_millis(1);

/// Bytes within a [`WINDOW`] from which on a stream is busy: 16 full frames at an MTU of 1500, 0.2 Gbit/s. With fewer
/// there is little to gain.
pub(super) const BUSY: u64 = 24 << 10;

/// A read of at least so many bytes was worth its wake-up.
pub(super) const ENOUGH: usize = 16 << 10;

/// A pause ends when about so many bytes have come: a faster host must not find its stream full.
pub(super) const PLENTY: u64 = 32 << 10;

/// A shorter pause costs more than it saves: a timer and a wake-up.
pub(super) const SHORTEST: Duration = Duration::from_micros(20);

/// Windows after which pauses are begun, and judged.
pub(super) const TRIAL: u32 = 8;

/// Windows with pauses that pay until a trial without them, as what they are compared with grows old.
pub(super) const TERM: u32 = 256;

/// Busy windows until another trial after one that failed, and how often that is doubled while they all fail: a peer that
/// waits for us loses a trial every 2 s.
pub(super) const BACKOFF: u32 = 64;
pub(super) const DOUBLINGS: u32 = 5;

/// After so much silence, nothing that was learned holds.
pub(super) const FORGET: Duration = Duration::from_secs(1);

/// Reads, and what they brought, over some windows.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    windows: u32,
    nanos: u64,
    bytes: u64,
    reads: u64,
}

/// What is going on.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No pauses until so many busy windows have gone by.
    Plain(u32),
    /// Pauses; this came without them, and so many windows are left of the term.
    Paused(Tally, u32),
}

/// Decides about pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moderation {
    pause: Duration,
    phase: Phase,
    tally: Tally,
    /// Start of the window that is being counted, and the totals then.
    since: Instant,
    before: Totals,
    /// The pause that the last window asks for.
    due: Option<Duration>,
    /// Whether the last read came after a pause.
    paused: bool,
    /// Trials that failed on end, and whether the last judgement was a bad one.
    failed: u32,
    doubt: bool,
}

/// Of the stream since its machine began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) bytes: u64,
    pub(super) reads: u64,
    pub(super) frames: u64,
}

impl Moderation {
    /// Pauses last `pause` at most; there are none if it is zero.
    pub(super) const fn new(pause: Duration) -> Self {
        let none = Totals { bytes: 0, reads: 0, frames: 0 };
        let tally = Tally { windows: 0, nanos: 0, bytes: 0, reads: 0 };
        let phase = Phase::Plain(TRIAL);
        Self {
            pause,
            phase,
            tally,
            since: Instant::ZERO,
            before: none,
            due: None,
            paused: false,
            failed: 0,
            doubt: false,
        }
    }

    /// The last read brought `read` bytes and `whole` frames were finished by it; it emptied the stream.
    pub(super) fn after(&mut self, now: Instant, totals: Totals, read: usize, whole: bool) -> Option<Duration> {
        let age = now.since(self.since);
        if age >= WINDOW {
            self.close_window(age, totals);
            (self.since, self.before) = (now, totals);
        }
        // Reads after a pause are long because of it; a frame that is not whole yet has its rest behind it.
        let pause = self.due.filter(|_| (read < ENOUGH || self.paused) && whole);
        self.paused = pause.is_some();
        pause
    }

    fn close_window(&mut self, age: Duration, totals: Totals) {
        let bytes = totals.bytes.saturating_sub(self.before.bytes);
        // Windows are closed late where we do not get to run; what has come meanwhile counts.
        let needed = product(BUSY, age.as_nanos() as u64);
        if self.pause.is_zero() || age >= FORGET || product(bytes, WINDOW.as_nanos() as u64) < needed {
            self.not_busy(age);
            return;
        }
        let nanos = age.as_nanos() as u64;
        self.tally.windows += 1;
        self.tally.nanos += nanos;
        self.tally.bytes += bytes;
        self.tally.reads += totals.reads.saturating_sub(self.before.reads);
        match self.phase {
            Phase::Plain(wait) if wait > TRIAL => {
                self.phase = Phase::Plain(wait - 1);
                self.tally = Tally::default();
            }
            Phase::Plain(_) if self.tally.windows >= TRIAL => {
                self.phase = Phase::Paused(mem::take(&mut self.tally), TERM);
                self.doubt = false;
            }
            Phase::Paused(_, 0) => (self.phase, self.tally) = (Phase::Plain(TRIAL), Tally::default()),
            Phase::Paused(plain, left) => {
                self.phase = Phase::Paused(plain, left - 1);
                if self.tally.windows >= TRIAL {
                    let tally = mem::take(&mut self.tally);
                    self.judge(&tally, &plain);
                }
            }
            Phase::Plain(_) => {}
        }
        self.due = match self.phase {
            Phase::Plain(_) => None,
            Phase::Paused(..) => self.due(nanos, bytes),
        };
    }

    fn not_busy(&mut self, age: Duration) {
        self.due = None;
        if age >= FORGET {
            (self.phase, self.failed) = (Phase::Plain(TRIAL), 0);
        } else if matches!(self.phase, Phase::Paused(..)) {
            // Perhaps it is our pauses that it is slow for.
            self.doubt();
            return;
        }
        self.tally = Tally::default();
    }

    fn judge(&mut self, paused: &Tally, plain: &Tally) {
        let worth_it = paused.has_longer_reads_than(plain) && paused.is_as_fast_as(plain, 3, 4);
        if worth_it {
            (self.failed, self.doubt) = (0, false);
        } else if paused.is_as_fast_as(plain, 1, 3) {
            self.doubt();
        } else {
            self.fail();
        }
    }

    /// One bad spell may be the machine's.
    fn doubt(&mut self) {
        if self.doubt {
            self.fail();
        } else {
            self.doubt = true;
        }
    }

    fn fail(&mut self) {
        self.phase = Phase::Plain(BACKOFF << self.failed.min(DOUBLINGS));
        self.tally = Tally::default();
        self.failed = self.failed.saturating_add(1);
    }

    /// The pause that `bytes` within `nanos` ask for.
    fn due(&self, nanos: u64, bytes: u64) -> Option<Duration> {
        let plenty = Duration::from_nanos(nanos * PLENTY / bytes);
        (plenty >= SHORTEST).then(|| plenty.min(self.pause))
    }
}

impl Tally {
    /// Half as long again at least.
    fn has_longer_reads_than(&self, other: &Self) -> bool {
        2 * product(self.bytes, other.reads) >= 3 * product(other.bytes, self.reads)
    }

    /// Whether it brought `share`/`whole` of the other's bytes in the same time at least.
    fn is_as_fast_as(&self, other: &Self, share: u64, whole: u64) -> bool {
        product(self.bytes, other.nanos) * u128::from(whole) >= product(other.bytes, self.nanos) * u128::from(share)
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const PAUSE: Duration = Duration::from_micros(100);

    /// A stream and its reader.
    struct Reader {
        moderation: Moderation,
        now: Instant,
        totals: Totals,
    }

    impl Reader {
        fn new(pause: Duration) -> Self {
            Self { moderation: Moderation::new(pause), now: Instant::from_millis(1000), totals: Totals::default() }
        }

        /// A read of `bytes`; the pause after it.
        fn read(&mut self, bytes: usize, whole: bool) -> Option<Duration> {
            self.totals.bytes += bytes as u64;
            self.totals.reads += 1;
            let pause = self.moderation.after(self.now, self.totals, bytes, whole);
            self.now = self.now + pause.unwrap_or_default();
            pause
        }

        /// A host that sends 1,516 bytes every `gap` nanoseconds whatever we do, for `millis`: which reads were followed
        /// by a pause.
        fn bulk(&mut self, gap: u64, millis: u64) -> Vec<bool> {
            let (start, mut sent) = (self.now, 0);
            let mut paused = Vec::new();
            while self.now.since(start) < Duration::from_millis(millis) {
                let ready = (self.now.since(start).as_nanos() as u64 / gap).max(sent + 1);
                self.now = self.now.max(start + Duration::from_nanos(ready * gap));
                let bytes = 1516 * (ready - sent) as usize;
                sent = ready;
                paused.push(self.read(bytes, true).is_some());
            }
            paused
        }

        /// `peers` that each send `bytes` when the last were read, 25 us later; messages read within `millis`.
        fn closed_loop(&mut self, peers: u64, bytes: usize, millis: u64) -> u64 {
            const ROUND: Duration = Duration::from_micros(25);
            let start = self.now;
            let mut due: Vec<Instant> = (0..peers).map(|n| start + Duration::from_micros(7 * n)).collect();
            let mut messages = 0;
            while self.now.since(start) < Duration::from_millis(millis) {
                let first = due.iter().min().copied().unwrap_or(self.now);
                self.now = self.now.max(first);
                let ready: Vec<usize> = (0..due.len()).filter(|n| due[*n] <= self.now).collect();
                for n in &ready {
                    due[*n] = self.now + ROUND;
                }
                messages += ready.len() as u64;
                self.read(bytes * ready.len(), true);
            }
            messages
        }
    }

    #[test]
    fn bulk_is_moderated_after_its_first_milliseconds_and_nothing_else() {
        let mut reader = Reader::new(PAUSE);
        // 1.2 Gbit/s: 100 frames a millisecond.
        let paused = reader.bulk(10_000, 100);
        let first = paused.iter().position(|paused| *paused).unwrap();
        assert!((800..=1000).contains(&first), "{first}");
        assert!(paused[first..].iter().all(|paused| *paused));
        reader.now = reader.now + Duration::from_millis(5);
        assert!(!reader.bulk(10_000, 1)[..100].contains(&true), "the first millisecond after a short silence");
        reader.now = reader.now + FORGET;
        assert!(!reader.bulk(10_000, 7).contains(&true), "a long silence");
    }

    #[test]
    fn what_pays_is_kept_and_tried_again_now_and_then() {
        let mut reader = Reader::new(PAUSE);
        let paused = reader.bulk(10_000, 3000);
        let share = paused.iter().filter(|paused| **paused).count();
        // Of 300,000 frames one by one without pauses; with them ten at a time.
        assert!(paused.len() < 300_000 / 6 && share > paused.len() / 2, "{share} of {}", paused.len());
        assert!(paused[paused.len() / 2..].contains(&false));
    }

    #[test]
    fn who_waits_for_our_answer_is_not_made_to_wait_longer() {
        for (peers, bytes) in
            [(1, 4096), (1, 1500), (1, 12_000), (2, 4096), (4, 4096), (4, 1500), (16, 1500), (16, 4096)]
        {
            let without = Reader::new(Duration::ZERO).closed_loop(peers, bytes, 3000);
            let with = Reader::new(PAUSE).closed_loop(peers, bytes, 3000);
            assert!(with * 100 >= without * 93, "{peers} x {bytes}: {with} of {without}");
        }
    }

    #[test]
    fn the_faster_the_host_the_shorter_the_pause() {
        let due = |bytes| Moderation::new(PAUSE).due(1_000_000, bytes).map(|pause| pause.as_micros());
        assert_eq!(
            [BUSY, 10 * PLENTY, 20 * PLENTY, 50 * PLENTY, 51 * PLENTY].map(due),
            [Some(100), Some(100), Some(50), Some(20), None]
        );
        let short = Moderation::new(Duration::from_micros(5));
        assert_eq!(short.due(1_000_000, BUSY), Some(Duration::from_micros(5)), "what was asked for is not rounded");
    }

    #[test]
    fn large_reads_parts_of_frames_fast_hosts_and_a_pause_of_zero_are_never_held() {
        let cases = [
            (PAUSE, 10_000, ENOUGH, true),
            (PAUSE, 10_000, 1516, false),
            (PAUSE, 900, 1516, true),
            (Duration::ZERO, 10_000, 1516, true),
        ];
        for (pause, gap, bytes, whole) in cases {
            let mut reader = Reader::new(pause);
            for _ in 0..50_000 {
                reader.now = reader.now + Duration::from_nanos(gap);
                assert_eq!(reader.read(bytes, whole), None, "{gap} {bytes} {whole}");
            }
        }
    }

    quickcheck! {
        /// Any gaps, of a stream that stays below the limit in every two windows on end.
        fn a_stream_that_is_not_busy_is_never_held(gaps: Vec<u16>, size: u16) -> bool {
            let size = usize::from(size % 1600);
            let spacing = 2_000_000 * size as u64 / BUSY;
            let mut reader = Reader::new(PAUSE);
            gaps.into_iter().all(|gap| {
                reader.now = reader.now + Duration::from_nanos(spacing + 1 + u64::from(gap));
                reader.read(size, true).is_none()
            })
        }
    }
}

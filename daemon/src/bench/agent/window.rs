//! Warm-up, then the measured window, told to the bench line by line.

use super::outcome::{Latency, Outcome, Times, times};
use crate::{clock::Clock, errors::Error};
use nitrotap_core::time::Instant;
use std::{
    io::{Read, Write},
    process::ExitCode,
    sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// How long to run.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Window {
    #[arg(long, default_value_t = 500)]
    warm_up_ms: u64,
    #[arg(long, default_value_t = 3000)]
    measure_ms: u64,
}

/// Where the run is, for threads that do the work.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

const MEASURING: u8 = 1;
const OVER: u8 = 2;

impl Phase {
    pub(super) fn measuring(&self) -> bool {
        self.0.load(Relaxed) == MEASURING
    }

    pub(super) fn over(&self) -> bool {
        self.0.load(Relaxed) == OVER
    }
}

/// Counts of one thread; read while it runs.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) operations: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) frames: AtomicU64,
}

impl Counts {
    /// By the one thread that owns it: cheaper than a locked addition.
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn read(all: &[Self]) -> [u64; 5] {
        let sum = |of: fn(&Self) -> &AtomicU64| all.iter().map(|counts| of(counts).load(Relaxed)).sum();
        [sum(|c| &c.bytes), sum(|c| &c.calls), sum(|c| &c.operations), sum(|c| &c.errors), sum(|c| &c.frames)]
    }
}

impl Window {
    /// Runs `work`, one call per element of `counts` in a thread of its own, and tells what happened in the window. A
    /// thread must notice [`Phase::over`] by itself, or be blocked for good: then `joined` is false.
    pub(super) fn run(
        self,
        clock: &Clock,
        counts: &[Counts],
        joined: bool,
        work: impl Fn(usize, &Counts, &Phase) -> Result<Times, Error> + Sync,
    ) -> Result<ExitCode, Error> {
        let phase = Phase::default();
        thread::scope(|scope| {
            let threads: Vec<_> = counts
                .iter()
                .enumerate()
                .map(|(index, counts)| {
                    let (work, phase) = (&work, &phase);
                    scope.spawn(move || {
                        let done = work(index, counts, phase);
                        if !phase.over()
                            && let Err(error) = &done
                        {
                            // Nothing that is measured from here on would mean anything.
                            crate::errors::report(error);
                            std::process::exit(1);
                        }
                        done
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(self.warm_up_ms));
            let (before, began) = (Counts::read(counts), clock.now());
            phase.0.store(MEASURING, Relaxed);
            say("begin")?;
            thread::sleep(Duration::from_millis(self.measure_ms));
            let (after, ended) = (Counts::read(counts), clock.now());
            phase.0.store(OVER, Relaxed);
            say("stop")?;
            let mut all = times();
            if joined {
                for thread in threads {
                    if let Ok(Ok(times)) = thread.join() {
                        let _ = all.add(times);
                    }
                }
            }
            tell(before, after, began, ended, &all)?;
            // Threads that are blocked in a call end with the process.
            std::process::exit(0);
        })
    }

    /// The instants at which the window begins and ends, for a single-threaded generator.
    pub(super) fn bounds(self, now: Instant) -> (Instant, Instant) {
        let begin = now.as_nanos() + self.warm_up_ms * 1_000_000;
        (Instant::from_nanos(begin), Instant::from_nanos(begin + self.measure_ms * 1_000_000))
    }
}

fn tell(before: [u64; 5], after: [u64; 5], began: Instant, ended: Instant, times: &Times) -> Result<(), Error> {
    let [bytes, calls, operations, errors, frames] = std::array::from_fn(|i| after[i].wrapping_sub(before[i]));
    finish(&Outcome {
        seconds: ended.since(began).as_secs_f64(),
        bytes,
        calls,
        operations,
        errors,
        frames,
        latency_us: Latency::of(times),
    })
}

/// Tells the outcome, and waits until the bench has read our processor time.
pub(super) fn finish(outcome: &Outcome) -> Result<(), Error> {
    let text = serde_json::to_string(outcome).map_err(|e| Error::runtime(format!("cannot tell the outcome: {e}")))?;
    say(&format!("end {text}"))?;
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

/// One line to the bench.
pub(super) fn say(line: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| Error::runtime(format!("the bench is gone: {e}")))
}

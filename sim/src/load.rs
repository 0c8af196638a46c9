//! Load: what clients ask of the app, and what they saw.
//!
//! - [`ClosedLoop`]: each client sends its next request as soon as it has its answer, as baton and wrk do.
//! - [`OpenLoop`]: requests come at a fixed rate, whether the answers keep up or not.
//! - [`Bulk`]: bytes in one direction, as iperf3 moves them.
//!
//! All of them write to a [`Recorder`], which counts inside a [`Window`].

mod bulk;
mod closed;
mod conversation;
mod open;

pub use bulk::{Bulk, Direction, bulk_server};
pub use closed::ClosedLoop;
pub use open::OpenLoop;

use crate::cpu::lock;
use hdrhistogram::Histogram;
use nitrotap_core::time::Instant;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// When answers count, from [`SETTLE`](crate::measure::SETTLE) after the start of the world on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Not counted, from the start on.
    pub warm_up: Duration,
    /// Counted after that.
    pub measured: Duration,
}

/// What the clients saw inside the window; clones write to the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    from: Instant,
    to: Instant,
    latency_ns: Histogram<u64>,
    latency_sum_ns: u128,
    answers: u64,
    errors: u64,
    bytes: u64,
    total: u64,
}

/// Longest latency told apart: a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// A link needs 50 ms to come up; a client that is earlier only finds nobody.
const SETTLED: Duration = Duration::from_millis(60);

impl Recorder {
    /// Counts inside `window`.
    #[must_use]
    pub fn new(window: Window) -> Self {
        let latency_ns = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds that the crate takes");
        let from = Instant::ZERO + crate::measure::SETTLE + window.warm_up;
        let to = from + window.measured;
        let inner = Inner { from, to, latency_ns, latency_sum_ns: 0, answers: 0, errors: 0, bytes: 0, total: 0 };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn answer(&self, sent: Instant, now: Instant) {
        let mut inner = lock(&self.0);
        inner.total += 1;
        if inner.counts_at(now) {
            inner.answers += 1;
            let latency = u64::try_from(now.since(sent).as_nanos()).unwrap_or(u64::MAX);
            inner.latency_sum_ns += u128::from(latency);
            inner.latency_ns.saturating_record(latency.clamp(1, LONGEST_NS));
        }
    }

    fn error(&self, now: Instant) {
        let mut inner = lock(&self.0);
        if inner.counts_at(now) {
            inner.errors += 1;
        }
    }

    fn bytes_moved(&self, now: Instant, bytes: usize) {
        let mut inner = lock(&self.0);
        if inner.counts_at(now) {
            inner.bytes += bytes as u64;
        }
    }

    /// Answers and errors in the window.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inner = lock(&self.0);
        (inner.answers, inner.errors)
    }

    /// Answers from the very start.
    #[must_use]
    pub fn total(&self) -> u64 {
        lock(&self.0).total
    }

    /// Bytes that bulk transfers moved in the window.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }

    /// Latency at a quantile from 0 to 1, in microseconds.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        lock(&self.0).latency_ns.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Mean latency in microseconds; 0 without answers.
    #[must_use]
    pub fn mean_us(&self) -> f64 {
        let inner = lock(&self.0);
        inner.latency_sum_ns as f64 / 1000.0 / inner.answers.max(1) as f64
    }
}

impl Inner {
    /// Counting what comes after the end would add N answers to every window.
    fn counts_at(&self, now: Instant) -> bool {
        now > self.from && now <= self.to
    }
}

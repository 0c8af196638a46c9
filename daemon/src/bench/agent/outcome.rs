//! What a load generator measured, as it tells the bench.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Everything within the measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Bytes of payload that were moved.
    pub(crate) bytes: u64,
    /// Read or write calls that moved them, where they are counted.
    pub(crate) calls: u64,
    /// Requests answered, or connections that were made and used.
    pub(crate) operations: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// Ethernet frames sent and received, where the generator makes them itself.
    pub(crate) frames: u64,
    /// Of operations.
    pub(crate) latency_us: Option<Latency>,
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Response times, in nanoseconds, to three digits.
pub(crate) type Times = Histogram<u64>;

/// An empty histogram, for times up to a minute; longer ones count as a minute.
pub(crate) fn times() -> Times {
    const MINUTE_NS: u64 = 60_000_000_000;
    Histogram::new_with_bounds(1, MINUTE_NS, 3).unwrap_or_else(|_| unreachable!("these bounds are valid"))
}

impl Latency {
    /// `None` if nothing was recorded.
    pub(crate) fn of(times: &Times) -> Option<Self> {
        if times.is_empty() {
            return None;
        }
        let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
        Some(Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: times.max() as f64 / 1000.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut times = times();
        assert_eq!(Latency::of(&times), None);
        for us in 1..=1000_u64 {
            times.saturating_record(us * 1000);
        }
        let latency = Latency::of(&times).unwrap();
        for (got, want) in [(latency.p50, 500.0), (latency.p99, 990.0), (latency.p999, 999.0), (latency.max, 1000.0)] {
            assert!((got - want).abs() / want < 0.002, "{got} is not {want}");
        }
        times.saturating_record(u64::MAX);
        assert!((Latency::of(&times).unwrap().max - 60e6).abs() < 60e3);
    }
}

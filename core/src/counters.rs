//! Counters: declared once, read by metrics, `--json` reports and tests alike.
//!
//! A machine owns a plain struct of `u64`s and bumps them without atomics. Its driver publishes the struct into a
//! [`Shared`] once per batch; any thread may read that at any time. Names follow Prometheus conventions.

use core::sync::atomic::{AtomicU64, Ordering};
use std::marker::PhantomData;

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One exported value: several descriptors may share a `name` and differ in `labels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Metric name without the `_total` suffix that Prometheus adds to counters.
    pub name: &'static str,
    /// What one unit means, in a sentence.
    pub help: &'static str,
    /// Fixed labels.
    pub labels: &'static [(&'static str, &'static str)],
    /// Counter or gauge.
    pub kind: Kind,
}

/// A struct of `u64`s declared by [`counters!`](crate::counters!).
pub trait CounterSet: Copy + Default {
    /// One descriptor per field, in field order.
    const DESCS: &'static [Desc];

    /// The fields in the order of [`Self::DESCS`].
    fn visit(&self, f: impl FnMut(usize, u64));

    /// A set of what `next` gives, field by field.
    fn collect(next: impl FnMut() -> u64) -> Self;
}

/// The latest published values of a counter set, readable from any thread.
#[derive(Debug)]
pub struct Shared<C> {
    values: Box<[AtomicU64]>,
    set: PhantomData<fn() -> C>,
}

impl<C: CounterSet> Default for Shared<C> {
    fn default() -> Self {
        Self { values: C::DESCS.iter().map(|_| AtomicU64::new(0)).collect(), set: PhantomData }
    }
}

impl<C: CounterSet> Shared<C> {
    /// Replaces the published values. Only the owner of the counters calls this.
    pub fn publish(&self, counters: &C) {
        counters.visit(|i, v| self.values[i].store(v, Ordering::Relaxed));
    }

    /// The latest values as a set; they may be a batch apart from each other.
    #[must_use]
    pub fn latest(&self) -> C {
        let mut at = self.values.iter();
        C::collect(|| at.next().map_or(0, |value| value.load(Ordering::Relaxed)))
    }

    /// Each descriptor with its latest value; values of one set may be a batch apart from each other.
    pub fn read(&self) -> impl Iterator<Item = (Desc, u64)> + '_ {
        C::DESCS.iter().zip(&self.values).map(|(d, v)| (*d, v.load(Ordering::Relaxed)))
    }
}

/// Declares a counter struct: `field: Kind "metric_name" { label = "value" },` with the help text as doc comment.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( #[doc = $help:literal] $field:ident: $kind:ident $metric:literal { $($label:ident = $value:literal),* } ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $name {
            $( #[doc = $help] pub $field: u64, )+
        }

        impl $crate::counters::CounterSet for $name {
            const DESCS: &'static [$crate::counters::Desc] = &[
                $( $crate::counters::Desc {
                    name: $metric,
                    help: $help.trim_ascii(),
                    labels: &[$((stringify!($label), $value)),*],
                    kind: $crate::counters::Kind::$kind,
                }, )+
            ];

            fn visit(&self, mut f: impl FnMut(usize, u64)) {
                let mut i = 0;
                $( f(i, self.$field); i += 1; )+
                let _ = i;
            }

            fn collect(mut next: impl FnMut() -> u64) -> Self {
                Self { $( $field: next(), )+ }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// Two of a kind.
        struct Sample {
            /// Frames seen.
            seen: Counter "frames" { direction = "tx" },
            /// Frames waiting.
            waiting: Gauge "frames_waiting" {},
        }
    }

    #[test]
    fn published_values_read_back_with_their_descriptors() {
        let shared = Shared::<Sample>::default();
        shared.publish(&Sample { seen: 7, waiting: 2 });
        let read: Vec<_> = shared.read().collect();
        assert_eq!(read[0].0.name, "frames");
        assert_eq!(read[0].0.help, "Frames seen.");
        assert_eq!(read[0].0.labels, [("direction", "tx")]);
        assert_eq!(read.iter().map(|r| r.1).collect::<Vec<_>>(), [7, 2]);
        assert_eq!(read[1].0.kind, Kind::Gauge);
        assert_eq!(shared.latest(), Sample { seen: 7, waiting: 2 });
    }
}

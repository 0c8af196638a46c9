//! Invariants: what must hold in every run, and the list of what did not.
//!
//! Every part of the world holds an [`Audit`] and says at once what it sees broken; the harness stops the run at the end
//! of the step. The first break is what counts: what follows it is mostly its consequence.
//! Bounds: [`Audit::KEPT`] breaks are kept, the rest are counted.

use crate::cpu::lock;
use nitrotap_core::time::Instant;
use std::{
    fmt,
    sync::{Arc, Mutex},
};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Invariant {
    /// Bytes delivered are the bytes sent, in order, once, per connection and direction.
    Integrity,
    /// No frame is lost or made up while the link is up: what went into the stream came out of it.
    Frames,
    /// Every accepted request gets exactly one answer, its own, or an explicit error.
    OneAnswer,
    /// A connection is over on both sides in bounded time after one side closed it or the link was declared dead.
    BoundedEnd,
    /// A half-closed connection still delivers everything.
    HalfClose,
    /// The end of a connection is told as what it was, a reset as a reset and an end as an end, and of that connection.
    Ends,
    /// No queue, table or buffer exceeds its bound.
    Bounds,
    /// A sender never exceeds the credit it was given.
    Credit,
    /// A packet arrives when it was sent and its latency has passed: the carrier is never later than that.
    Causality,
    /// Counters add up: in = out + dropped, by cause.
    Conservation,
    /// The pool hands out no connection whose end it was told of.
    LiveConnections,
    /// After the faults have stopped, everything works again within a bounded time.
    Recovery,
    /// Work that can go on goes on: nobody waits for something that has happened already.
    Progress,
    /// Nothing in the world reads a real clock or real randomness.
    Isolation,
    /// Shipped code does not panic.
    NoPanic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Integrity => "bytes arrive as sent, in order, once",
            Self::Frames => "no frame is lost or made up while the link is up",
            Self::OneAnswer => "every request gets exactly one answer or an explicit error",
            Self::BoundedEnd => "a connection ends on both sides in bounded time",
            Self::HalfClose => "half-close delivers everything",
            Self::Ends => "a reset arrives as a reset, and an end as an end",
            Self::Bounds => "every queue stays within its bound",
            Self::Credit => "credit is never exceeded",
            Self::Causality => "packets arrive when they are due",
            Self::Conservation => "counters add up",
            Self::LiveConnections => "the pool hands out no connection it knows to be closed",
            Self::Recovery => "everything works again after the faults",
            Self::Progress => "work that can go on goes on",
            Self::Isolation => "nothing reads a real clock or real randomness",
            Self::NoPanic => "shipped code does not panic",
        })
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Break {
    /// When, in nanoseconds of the model.
    pub at_ns: u64,
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Instant::from_nanos(self.at_ns);
        write!(f, "at {at}: broken: {}: {}", self.invariant, self.detail)
    }
}

/// The list of what broke; clones write to the same one.
#[derive(Clone, Debug, Default)]
pub struct Audit(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    breaks: Vec<Break>,
    more: u64,
    checks: u64,
}

impl Audit {
    /// Breaks kept.
    pub const KEPT: usize = 16;

    /// Notes a break.
    pub fn fail(&self, at: Instant, invariant: Invariant, detail: String) {
        let mut inner = lock(&self.0);
        if inner.breaks.len() < Self::KEPT {
            inner.breaks.push(Break { at_ns: at.as_nanos(), invariant, detail });
        } else {
            inner.more += 1;
        }
    }

    /// Notes a break unless `holds`; `detail` is called only then.
    pub fn check(&self, at: Instant, invariant: Invariant, holds: bool, detail: impl FnOnce() -> String) {
        lock(&self.0).checks += 1;
        if !holds {
            self.fail(at, invariant, detail());
        }
    }

    /// Whether nothing broke so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        lock(&self.0).breaks.is_empty()
    }

    /// What broke, in order, and how many more there were.
    #[must_use]
    pub fn breaks(&self) -> (Vec<Break>, u64) {
        let inner = lock(&self.0);
        (inner.breaks.clone(), inner.more)
    }

    /// How many checks were made.
    #[must_use]
    pub fn checks(&self) -> u64 {
        lock(&self.0).checks
    }
}

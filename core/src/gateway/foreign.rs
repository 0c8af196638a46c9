//! The share of a link's queue that frames of other enclaves may take.
//!
//! Owns: how much of a queue is whose. Driven by: `queue`. Drain: [`Foreign::taken`] as the queue drains.
//! Bounds: [`SHARE`] in all. One holder has at most as much as is left for others: alone half of it, of two a third each, so
//! that there is room for one more at any time. A frame counts as [`OVERHEAD`] bytes more than it has: what small ones cost
//! whoever gets them is not their bytes.

use super::port::Holder;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a queue for frames of other enclaves: half of it.
pub(super) const SHARE: usize = super::queue::LIMIT / 2;

/// What a frame costs beyond its bytes, in bytes: a write to a TAP takes as long as copying some thousand of them.
const OVERHEAD: usize = 1024;

/// Frames of one holder are remembered together up to this weight.
const RUN: usize = SHARE / 16;

/// Bytes from which on a queue had better be written before more is put in.
const CROWDED: usize = SHARE / 8;

/// Frames of one holder.
#[derive(Debug)]
struct Run {
    /// The position in the stream of frames where the last of them ends.
    end: u64,
    holder: Holder,
    weight: usize,
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    runs: VecDeque<Run>,
    of: BTreeMap<Holder, usize>,
    weight: usize,
    bytes: usize,
    /// Bytes that have left the queue so far.
    left: u64,
}

impl Foreign {
    /// Whether a frame of `len` bytes may be queued for `holder`.
    pub(super) fn may_add(&self, holder: Holder, len: usize) -> bool {
        let own = self.of.get(&holder).copied().unwrap_or(0);
        own + len + OVERHEAD <= SHARE - self.weight
    }

    /// A frame was queued; with it the queue has `queued` bytes.
    pub(super) fn add(&mut self, holder: Holder, len: usize, queued: usize) {
        let (end, weight) = (self.left + queued as u64, len + OVERHEAD);
        match self.runs.back_mut().filter(|run| run.holder == holder && run.weight < RUN) {
            Some(run) => {
                run.end = end;
                run.weight += weight;
                run.bytes += len;
            }
            None => self.runs.push_back(Run { end, holder, weight, bytes: len }),
        }
        *self.of.entry(holder).or_default() += weight;
        self.weight += weight;
        self.bytes += len;
    }

    /// Whether the queue had better be written.
    pub(super) const fn is_crowded(&self) -> bool {
        self.bytes >= CROWDED
    }

    /// Bytes have left the queue.
    pub(super) fn taken(&mut self, n: usize) {
        self.left += n as u64;
        while self.runs.front().is_some_and(|run| run.end <= self.left) {
            let Some(Run { holder, weight, bytes, .. }) = self.runs.pop_front() else { break };
            self.weight -= weight;
            self.bytes -= bytes;
            if let Some(own) = self.of.get_mut(&holder) {
                *own -= weight;
                if *own == 0 {
                    self.of.remove(&holder);
                }
            }
        }
    }
}

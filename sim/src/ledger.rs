//! What went into a frame stream, so that what comes out can be compared with it at once.
//!
//! Bounds: the hashes of frames in flight: what the stream's buffers hold.

use crate::{
    check::{Audit, Invariant},
    cpu::lock,
    stream::Addr,
    trace::hash_bytes,
};
use nitrotap_core::time::Instant;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Enclave to host.
    Out,
    /// Host to enclave.
    In,
}

/// The frames in flight on every stream; clones write to the same ledger.
#[derive(Clone, Debug)]
pub(crate) struct FrameLedger {
    audit: Audit,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    flying: BTreeMap<(Addr, Way), VecDeque<u64>>,
    /// Streams whose bytes a fault has spoilt this way: nothing can be said of them any more.
    spoilt: BTreeSet<(Addr, Way)>,
    sent: [u64; 2],
    received: [u64; 2],
}

impl FrameLedger {
    /// An empty ledger.
    #[must_use]
    pub(crate) fn new(audit: Audit) -> Self {
        Self { audit, inner: Arc::default() }
    }

    /// `frame` went into the stream whose enclave end is `stream`.
    pub(crate) fn sent(&self, stream: Addr, way: Way, frame: &[u8]) {
        let mut inner = lock(&self.inner);
        inner.sent[way as usize] += 1;
        inner.flying.entry((stream, way)).or_default().push_back(hash_bytes(0, frame));
    }

    /// `frame` came out of it: it must be the one that went in next.
    pub(crate) fn received(&self, at: Instant, stream: Addr, way: Way, frame: &[u8]) {
        let mut inner = lock(&self.inner);
        inner.received[way as usize] += 1;
        if inner.spoilt.contains(&(stream, way)) {
            return;
        }
        // Whoever sends without keeping books, such as a test's own machine, is not judged.
        let Some(flying) = inner.flying.get_mut(&(stream, way)) else { return };
        let expected = flying.pop_front();
        drop(inner);
        self.audit.check(at, Invariant::Frames, expected == Some(hash_bytes(0, frame)), || {
            let what =
                if expected.is_some() { "another frame than the one sent" } else { "a frame that was never sent" };
            format!("{what} came out of stream {stream} ({way:?}, {} bytes)", frame.len())
        });
    }

    /// A fault put bytes into the stream that are no frames, or took some out of it.
    pub(crate) fn spoil(&self, stream: Addr, way: Way) {
        lock(&self.inner).spoilt.insert((stream, way));
    }

    /// Frames still in flight on the stream; 0 at rest.
    #[must_use]
    pub(crate) fn flying(&self, stream: Addr) -> usize {
        let inner = lock(&self.inner);
        let ways = [Way::Out, Way::In].map(|way| (stream, way));
        let told = ways.iter().filter(|key| !inner.spoilt.contains(key));
        told.filter_map(|key| inner.flying.get(key)).map(VecDeque::len).sum()
    }

    /// Whoever receives on the stream this way will receive no more: what is in flight is lost.
    pub(crate) fn close(&self, stream: Addr, way: Way) {
        lock(&self.inner).flying.remove(&(stream, way));
    }

    /// Frames sent and received so far, enclave to host and host to enclave.
    #[must_use]
    pub(crate) fn totals(&self) -> ([u64; 2], [u64; 2]) {
        let inner = lock(&self.inner);
        (inner.sent, inner.received)
    }
}

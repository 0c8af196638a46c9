//! The TAP device between a modelled kernel and a frame forwarder.
//!
//! Owns: the queue of frames on their way to the program. The other way has none: a write runs the kernel's receive path
//! before it returns, as Linux does. Bounds: `txqueuelen` frames wait; one more is dropped and counted (`tun_net_xmit`).

use crate::{cpu::lock, stack::FrameSink};
use nitrotap_core::time::Instant;
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

/// A TAP's queue; clones are handles.
#[derive(Clone, Debug)]
pub(crate) struct Tap(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: VecDeque<Vec<u8>>,
    txqueuelen: usize,
    dropped: u64,
    passed: u64,
    reader: Option<Waker>,
}

impl Tap {
    /// A TAP that queues this many frames (1,000 by Linux's default).
    #[must_use]
    pub(crate) fn new(txqueuelen: usize) -> Self {
        let inner = Inner { queue: VecDeque::new(), txqueuelen, dropped: 0, passed: 0, reader: None };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The next frame, if there is one.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        lock(&self.0).queue.pop_front()
    }

    /// Completes when there is a frame.
    pub(crate) async fn readable(&self) {
        poll_fn(|cx| {
            let mut inner = lock(&self.0);
            if inner.queue.is_empty() {
                inner.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Frames queued, passed on to the queue so far, and dropped because it was full.
    #[must_use]
    pub(crate) fn counts(&self) -> (usize, u64, u64) {
        let inner = lock(&self.0);
        (inner.queue.len(), inner.passed, inner.dropped)
    }
}

impl FrameSink for Tap {
    fn push(&self, _: Instant, frame: Vec<u8>) {
        let mut inner = lock(&self.0);
        if inner.queue.len() >= inner.txqueuelen {
            inner.dropped += 1;
            return;
        }
        inner.passed += 1;
        inner.queue.push_back(frame);
        if let Some(waker) = inner.reader.take() {
            waker.wake();
        }
    }
}

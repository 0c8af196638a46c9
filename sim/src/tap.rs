//! The TAP device between a modelled kernel and a frame forwarder.
//!
//! Owns: the queue of frames on their way to the program, with or without a virtio-net header each (`IFF_VNET_HDR`). The
//! other way has none: a write runs the kernel's receive path before it returns, as Linux does. Bounds: `txqueuelen`
//! frames wait, of which a super-frame is one; one more is dropped and counted (`tun_net_xmit`).

use crate::{
    cpu::lock,
    stack::{FrameSink, Packet},
};
use nitrotap_core::{offload::VNET_LEN, time::Instant};
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
    queue: VecDeque<Packet>,
    txqueuelen: usize,
    has_headers: bool,
    dropped: u64,
    passed: u64,
    reader: Option<Waker>,
}

impl Tap {
    /// A TAP that queues this many frames (1,000 by Linux's default), and whose program gets a virtio-net header with each
    /// or not. Its kernel must be one with [`HostConfig::offload`](crate::stack::HostConfig::offload) or without.
    #[must_use]
    pub(crate) fn new(txqueuelen: usize, has_headers: bool) -> Self {
        let inner = Inner { queue: VecDeque::new(), txqueuelen, has_headers, dropped: 0, passed: 0, reader: None };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Whether frames are read and written with a virtio-net header.
    #[must_use]
    pub(crate) fn has_headers(&self) -> bool {
        lock(&self.0).has_headers
    }

    /// The next frame with its header, if there is one; without headers, that one says nothing.
    pub(crate) fn read_packet(&self) -> Option<Packet> {
        lock(&self.0).queue.pop_front()
    }

    /// The next frame of a TAP without headers, if there is one.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        let packet = self.read_packet()?;
        debug_assert_eq!(packet.header, [0; VNET_LEN], "something is left to do");
        Some(packet.bytes)
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
    fn push(&self, _: Instant, packet: Packet) {
        let mut inner = lock(&self.0);
        if inner.queue.len() >= inner.txqueuelen {
            inner.dropped += 1;
            return;
        }
        inner.passed += 1;
        debug_assert!(inner.has_headers || packet.header == [0; VNET_LEN], "a header for a TAP without one");
        inner.queue.push_back(packet);
        if let Some(waker) = inner.reader.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_counts_packets_whatever_their_length() {
        let tap = Tap::new(2, true);
        let packet = Packet { header: [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0], bytes: vec![0; 64_294] };
        for _ in 0..3 {
            tap.push(Instant::ZERO, packet.clone());
        }
        assert_eq!(tap.counts(), (2, 2, 1));
        assert_eq!(tap.read_packet(), Some(packet));
        assert!(tap.has_headers() && !Tap::new(2, false).has_headers());
    }

    #[test]
    #[should_panic(expected = "a header for a TAP without one")]
    fn a_plain_tap_takes_nothing_unfinished() {
        Tap::new(2, false).push(Instant::ZERO, Packet { header: [1; VNET_LEN], bytes: vec![0; 60] });
    }
}

//! A world made from bytes, for the loops of `core::drive`: each byte decides what the next call finds.
//!
//! When the bytes are used up, nothing happens any more but the order to stop, so that every loop ends. A zero is always the
//! harmless choice: short inputs and long rows of zeros end soon.
//! What is true of every loop is checked here: orders are seen before the next wait, streams that were given up are held
//! by nobody, and nobody is told what has not happened.

use nitrotap_core::drive::Errno;
use std::{
    collections::VecDeque,
    rc::{Rc, Weak},
};

/// The bytes.
#[derive(Debug)]
pub(crate) struct Script<'d> {
    rest: &'d [u8],
    /// Bytes asked for beyond the last.
    beyond: u32,
}

/// Choices beyond the last byte that a loop may ask for before it must have ended: a batch of the shortest frames and a
/// super-frame of the shortest segments are written in fewer calls.
const PATIENCE: u32 = 20_000;

impl<'d> Script<'d> {
    pub(crate) const fn new(data: &'d [u8]) -> Self {
        Self { rest: data, beyond: 0 }
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        if let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            return *first;
        }
        self.beyond += 1;
        assert!(self.beyond < PATIENCE, "the loop goes on and on, and nothing happens");
        0
    }

    /// Two bytes.
    pub(crate) fn word(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// A number up to and with `most`: the byte that is next, in its proportion.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        match u8::try_from(most) {
            Ok(most) => usize::from(self.byte() % (most.saturating_add(1)).max(1)),
            Err(_) => (self.word() * (most + 1)) >> 16,
        }
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// An error that ends a stream, or keeps a TAP from taking a frame.
    pub(crate) fn failure(&mut self) -> Errno {
        const EIO: Errno = Errno::from_raw(5);
        let all = [Errno::CONNRESET, Errno::PIPE, Errno::TIMEDOUT, Errno::NOBUFS, Errno::NODEV, EIO];
        all[usize::from(self.byte()) % all.len()]
    }
}

/// From which byte on something happens beside the call that asked for it: an order comes, or time passes.
pub(crate) const ASIDE: u8 = 0xe0;

/// Orders for a loop, and how long it may leave them.
#[derive(Debug)]
pub(crate) struct Orders<O> {
    waiting: VecDeque<O>,
    /// Of them, those that were there when the last wait ended.
    seen: usize,
    /// Calls that moved frames since the oldest came.
    calls: usize,
}

impl<O> Orders<O> {
    pub(crate) const fn new() -> Self {
        Self { waiting: VecDeque::new(), seen: 0, calls: 0 }
    }

    pub(crate) fn leave(&mut self, order: O) {
        self.waiting.push_back(order);
    }

    pub(crate) fn take(&mut self) -> Option<O> {
        self.seen = self.seen.saturating_sub(1);
        self.calls = 0;
        self.waiting.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A call that moves a frame, or a read's worth of them, while orders wait: `most` may.
    pub(crate) fn call(&mut self, most: usize) {
        self.calls += usize::from(!self.is_empty());
        assert!(self.calls <= most, "an order has waited for {} calls", self.calls);
    }

    /// The loop waits.
    pub(crate) fn wait(&self) {
        assert_eq!(self.seen, 0, "orders that ended the last wait are still there");
    }

    /// A wait is over.
    pub(crate) fn waited(&mut self) {
        self.seen = self.waiting.len();
    }
}

/// A stream, of which there are as many handles as the loops hold.
pub(crate) type Stream = Rc<u64>;

/// Streams that nobody may hold any more.
#[derive(Debug, Default)]
pub(crate) struct Old(Vec<Weak<u64>>);

impl Old {
    pub(crate) fn add(&mut self, stream: &Weak<u64>) {
        self.0.push(stream.clone());
    }

    /// Between two calls.
    pub(crate) fn check(&mut self) {
        for stream in self.0.drain(..) {
            assert!(stream.upgrade().is_none(), "a stream that was given up is still open");
        }
    }
}

/// The one event that the loop has to tell next, if any.
#[derive(Debug)]
pub(crate) struct Due<E>(Option<E>);

impl<E: PartialEq + std::fmt::Debug> Due<E> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    pub(crate) fn owe(&mut self, event: E) {
        self.0 = Some(event);
    }

    pub(crate) fn told(&mut self, event: &E) {
        assert_eq!(self.0.take().as_ref(), Some(event), "something else was told than what happened");
    }

    /// Before anything else is done.
    pub(crate) fn check(&self) {
        assert_eq!(self.0, None, "not told");
    }
}

/// Frames of a stream's bytes, with the prefix of two bytes before each.
#[derive(Debug, Default)]
pub(crate) struct Carver(Vec<u8>);

impl Carver {
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        let mut rest = &self.0[..];
        while let [low, high, more @ ..] = rest
            && let Some((frame, later)) = more.split_at_checked(usize::from(u16::from_le_bytes([*low, *high])))
        {
            frames.push(frame.to_vec());
            rest = later;
        }
        self.0 = rest.to_vec();
        frames
    }

    pub(crate) const fn is_between_frames(&self) -> bool {
        self.0.is_empty()
    }
}

/// An IPv4 packet with TCP or UDP in a frame of Ethernet, with this many bytes of payload and without checksums.
pub(crate) fn packet(to: [u8; 6], protocol: u8, sequence: u32, payload: usize) -> Vec<u8> {
    let mut frame = [&to[..], &[3; 6], &[8, 0]].concat();
    let transport = if protocol == 6 { 20 } else { 8 };
    let len = (20 + transport + payload) as u16;
    frame.extend([0x45, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0, 1, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 81]);
    let [a, b, c, d] = sequence.to_be_bytes();
    if protocol == 6 {
        frame.extend([a, b, c, d, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        let [high, low] = (len - 20).to_be_bytes();
        frame.extend([high, low, 0, 0]);
    }
    frame.extend((0..payload).map(|i| (sequence as usize + i) as u8));
    frame
}

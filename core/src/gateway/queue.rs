//! Frames that wait for a link to take them.
//!
//! Owns: one buffer. Driven by: `port`. Drain: [`TxQueue::pending`] and [`TxQueue::consume`] on byte streams,
//! [`TxQueue::next_frame`] and [`TxQueue::consume_frame`] where every message is a frame.
//! Bounds: [`LIMIT`] bytes; senders that can wait keep [`RESERVE`] of them free for those that cannot.

use super::config::Allocate;
use crate::frame::Framing;

/// Bytes a link may leave lying: at 10 Gbit/s less than half a millisecond.
pub const LIMIT: usize = 512 << 10;

/// Room that TCP leaves for datagrams, ARP and resets.
pub(super) const RESERVE: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct TxQueue {
    /// Between messages, where no prefix is sent, QEMU's tells this queue where a frame ends.
    framing: Framing,
    /// Twice the limit, so that bytes are moved at most once for every [`LIMIT`] bytes that left.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl TxQueue {
    /// For a byte stream with this framing, or for messages.
    #[cfg(test)]
    pub(crate) fn new(framing: Option<Framing>) -> Self {
        Self { framing: framing.unwrap_or(Framing::Qemu), buf: vec![0; 2 * LIMIT], start: 0, end: 0 }
    }

    /// The same with a buffer from elsewhere; `None` where memory is used up.
    pub(crate) fn with(allocate: Option<Allocate>, framing: Option<Framing>) -> Option<Self> {
        let buf = allocate.map_or_else(|| Some(vec![0; 2 * LIMIT]), |allocate| allocate(2 * LIMIT))?;
        Some(Self { framing: framing.unwrap_or(Framing::Qemu), buf, start: 0, end: 0 })
    }

    /// Bytes of frames and prefixes that still fit.
    pub(crate) const fn room(&self) -> usize {
        LIMIT - (self.end - self.start)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for a frame of `len` bytes, which is queued with it; `None` if it does not fit.
    pub(crate) fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        let (prefix, head) = self.framing.prefix(len).ok()?;
        if head + len > self.room() {
            return None;
        }
        if self.end + head + len > self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let at = self.end + head;
        self.buf[self.end..at].copy_from_slice(&prefix[..head]);
        self.end = at + len;
        Some(&mut self.buf[at..at + len])
    }

    /// What a byte stream should get next.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// `n` bytes of [`TxQueue::pending`] were taken.
    ///
    /// # Panics
    /// If there were fewer.
    pub(crate) fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "more bytes taken than there were");
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// The next frame, without its prefix.
    pub(crate) fn next_frame(&self) -> Option<&[u8]> {
        self.framing.split(self.pending()).map(|(frame, _)| frame)
    }

    /// The frame of [`TxQueue::next_frame`] was taken.
    pub(crate) fn consume_frame(&mut self) {
        if let Some(len) = self.next_frame().map(<[u8]>::len) {
            self.consume(self.framing.prefix_len() + len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;
    use quickcheck::quickcheck;
    use std::collections::VecDeque;

    quickcheck! {
        fn what_goes_in_comes_out_in_order(script: Vec<(u16, u32)>) -> bool {
            let mut queue = TxQueue::new(Some(Framing::Hyperkit));
            let mut decoder = Decoder::new(1 << 16);
            let mut expected = VecDeque::new();
            for (i, (len, take)) in script.into_iter().enumerate() {
                let len = usize::from(len.max(14));
                let room = queue.room();
                match queue.slot(len) {
                    Some(slot) => {
                        slot.fill(i as u8);
                        expected.push_back((i as u8, len));
                    }
                    None => assert!(room < len + 2),
                }
                let take = (take as usize % (LIMIT / 2)).min(queue.pending().len());
                for chunk in queue.pending()[..take].to_vec().chunks(1 << 16) {
                    let space = decoder.space();
                    space[..chunk.len()].copy_from_slice(chunk);
                    decoder.commit(chunk.len());
                    while let Some(frame) = decoder.next_frame() {
                        assert_eq!(Some((frame[0], frame.len())), expected.pop_front());
                        assert!(frame.iter().all(|b| *b == frame[0]));
                    }
                }
                queue.consume(take);
                assert!(queue.room() <= LIMIT);
            }
            true
        }
    }

    #[test]
    fn messages_come_out_one_by_one() {
        let mut queue = TxQueue::new(None);
        queue.slot(14).unwrap().copy_from_slice(b"abcdefghijklmn");
        queue.slot(20).unwrap().fill(b'd');
        assert_eq!(queue.next_frame(), Some(&b"abcdefghijklmn"[..]));
        queue.consume_frame();
        assert_eq!(queue.next_frame(), Some(&[b'd'; 20][..]));
        queue.consume_frame();
        assert_eq!(queue.next_frame(), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_frame_that_no_prefix_can_express_is_refused() {
        let mut queue = TxQueue::new(Some(Framing::Hyperkit));
        assert!(queue.slot(13).is_none());
        assert!(queue.slot(65_536).is_none());
        assert!(queue.is_empty());
        assert!(queue.slot(65_535).is_some());
        assert_eq!(queue.pending()[..2], [0xff, 0xff]);
    }

    #[test]
    fn a_full_queue_refuses_and_stays_whole() {
        let mut queue = TxQueue::new(Some(Framing::Qemu));
        while queue.slot(60_000).is_some() {}
        assert!(queue.room() < 60_004);
        assert_eq!(queue.next_frame().map(<[u8]>::len), Some(60_000));
    }
}

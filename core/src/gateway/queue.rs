//! Frames that wait for a link to take them.
//!
//! Owns: one buffer. Driven by: `port`. Drain: [`TxQueue::pending`] and [`TxQueue::consume`] on byte streams,
//! [`TxQueue::next_frame`] and [`TxQueue::consume_frame`] where every message is a frame.
//! Bounds: [`LIMIT`] bytes; senders that can wait, and other enclaves, keep [`RESERVE`] of them free for what the gateway says
//! itself, and datagrams of the world [`LAST`]; frames of other enclaves have a share ([`super::foreign`]).

use super::{config::Allocate, foreign::Foreign, port::Holder};
use crate::frame::Framing;

/// Bytes a link may leave lying: at 10 Gbit/s less than half a millisecond.
pub const LIMIT: usize = 512 << 10;

/// Room that TCP and other enclaves leave for datagrams, ARP and resets.
pub(super) const RESERVE: usize = 64 << 10;

/// Room that datagrams of the world leave for ARP, DHCP, neighbour discovery and resets.
pub(super) const LAST: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct TxQueue {
    /// Between messages, where no prefix is sent, QEMU's tells this queue where a frame ends.
    framing: Framing,
    /// Twice the limit, so that bytes are moved at most once for every [`LIMIT`] bytes that left.
    buf: Vec<u8>,
    start: usize,
    end: usize,
    foreign: Foreign,
}

impl TxQueue {
    /// For a byte stream with this framing, or for messages.
    #[cfg(test)]
    pub(crate) fn new(framing: Option<Framing>) -> Self {
        Self {
            framing: framing.unwrap_or(Framing::Qemu),
            buf: vec![0; 2 * LIMIT],
            start: 0,
            end: 0,
            foreign: Foreign::default(),
        }
    }

    /// The same with a buffer from elsewhere; `None` where memory is used up.
    pub(crate) fn with(allocate: Option<Allocate>, framing: Option<Framing>) -> Option<Self> {
        let buf = allocate.map_or_else(|| Some(vec![0; 2 * LIMIT]), |allocate| allocate(2 * LIMIT))?;
        Some(Self { framing: framing.unwrap_or(Framing::Qemu), buf, start: 0, end: 0, foreign: Foreign::default() })
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

    /// The same for a frame of another enclave.
    pub(super) fn slot_from(&mut self, holder: Holder, len: usize) -> Option<&mut [u8]> {
        if !self.takes_from(holder, len) {
            return None;
        }
        let before = self.room();
        self.slot(len)?;
        let (queued, end) = (LIMIT - self.room(), self.end);
        self.foreign.add(holder, before - self.room(), queued);
        Some(&mut self.buf[end - len..end])
    }

    /// Whether there is room for a frame of another enclave.
    pub(super) fn takes_from(&self, holder: Holder, len: usize) -> bool {
        len + RESERVE <= self.room() && self.foreign.may_add(holder, len)
    }

    /// Whether other enclaves have put so much in that it had better be written before they put in more.
    pub(super) const fn is_crowded(&self) -> bool {
        self.foreign.is_crowded()
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
        self.foreign.taken(n);
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
    use super::{
        super::port::{ANONYMOUS, Ports},
        *,
    };
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

    fn holders() -> [Holder; 3] {
        let mut ports = Ports::default();
        [1, 2, ANONYMOUS].map(|tenant| {
            let port = ports.attach(tenant, None).unwrap();
            ports.holder(port).unwrap()
        })
    }

    #[test]
    fn other_enclaves_fill_their_share_and_leave_room_for_one_more_and_for_the_gateway() {
        let [flood, other, third] = holders();
        for len in [14, 62, 1514, 9014, 65_535] {
            let mut queue = TxQueue::new(Some(Framing::Hyperkit));
            let count = |queue: &mut TxQueue, holder| {
                (0..100_000).take_while(|_| queue.slot_from(holder, len).is_some()).count()
            };
            let first = count(&mut queue, flood);
            let second = count(&mut queue, other);
            assert!(first >= 1 && (second >= 1 || len > 60_000), "{len}: {first}, {second}");
            assert!(first * len <= LIMIT / 4, "{len}: {first} frames");
            assert!(first <= 130, "{len}: {first} frames take long to write");
            count(&mut queue, third);
            assert!(queue.room() >= LIMIT / 2);
            // What is taken makes room for as much again.
            let pending = queue.pending().len();
            queue.consume(pending);
            assert_eq!(count(&mut queue, flood), first);
        }
    }

    #[test]
    fn a_queue_that_its_own_traffic_has_filled_keeps_room_for_what_the_gateway_says() {
        let [flood, ..] = holders();
        let mut queue = TxQueue::new(Some(Framing::Hyperkit));
        while queue.room() >= RESERVE + 10_000 {
            queue.slot(1514).unwrap();
        }
        while queue.slot_from(flood, 60).is_some() {}
        assert!(queue.room() >= RESERVE);
        assert!(queue.slot(1514).is_some());
    }

    quickcheck! {
        fn shares_are_given_back_as_frames_leave(script: Vec<(u16, u8, u32)>) -> bool {
            let holders = holders();
            let mut queue = TxQueue::new(Some(Framing::Qemu));
            for (len, who, take) in script {
                let len = usize::from(len.clamp(14, 20_000));
                let _ = match holders.get(usize::from(who) % 4) {
                    Some(holder) => queue.slot_from(*holder, len).map(|slot| slot.fill(1)),
                    None => queue.slot(len).map(|slot| slot.fill(2)),
                };
                let take = (take as usize % 30_000).min(queue.pending().len());
                queue.consume(take);
            }
            let rest = queue.pending().len();
            queue.consume(rest);
            !queue.is_crowded() && queue.slot_from(holders[0], 60_000).is_some() && queue.slot_from(holders[1], 60_000).is_some()
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

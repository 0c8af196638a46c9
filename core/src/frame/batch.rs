//! Collects frames into one contiguous write.
//!
//! Owns: one buffer. A frame is read straight into its place behind the room for its prefix, so sending costs no copy.
//! Driven by: `tap::Egress`. Drain: [`Batch::pending`] and [`Batch::consume`] until empty.
//! Bounds: at most `target` bytes plus one frame; [`Batch::slot`] refuses beyond that.

use super::{MAX_FRAME, MAX_HEADER, MIN_FRAME, PREFIX_LEN};
use core::fmt;

/// Frames with their prefixes, back to back, and how much of them was written.
#[derive(Debug)]
pub struct Batch {
    buf: Box<[u8]>,
    /// `buf[..end]` holds whole prefixed frames.
    end: usize,
    /// `buf[..sent]` was written to the stream; `sent <= end`.
    sent: usize,
    target: usize,
    limit: usize,
}

impl Batch {
    /// A batch that closes once it holds `target` bytes; 0 makes every batch a single frame. Frames above `limit` bytes
    /// are refused; `limit` is capped at [`MAX_FRAME`].
    #[must_use]
    pub fn new(target: usize, limit: usize) -> Self {
        let limit = limit.min(MAX_FRAME);
        let capacity = target + PREFIX_LEN + ROOM;
        Self { buf: vec![0; capacity].into_boxed_slice(), end: 0, sent: 0, target, limit }
    }

    /// Room of [`ROOM`] bytes or more for the next frame, or `None` if the batch is full and must be written first.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.sent == self.end {
            self.clear();
        }
        if self.end > 0 && self.end >= self.target {
            return None;
        }
        Some(&mut self.buf[self.end + PREFIX_LEN..])
    }

    /// Seals a frame of `len` bytes that was put into [`Batch::slot`].
    ///
    /// # Errors
    /// [`Refused`] if the frame must not be sent; the batch is unchanged and the slot free again.
    pub fn commit(&mut self, len: usize) -> Result<(), Refused> {
        if len < MIN_FRAME {
            return Err(Refused::Runt);
        }
        if len > self.limit {
            return Err(Refused::Oversize);
        }
        self.commit_super(len)
    }

    /// As [`Batch::commit`], for a frame that only the prefix limits: up to [`MAX_FRAME`] bytes.
    ///
    /// # Errors
    /// [`Refused`], as with [`Batch::commit`].
    pub fn commit_super(&mut self, len: usize) -> Result<(), Refused> {
        if len < MIN_FRAME {
            return Err(Refused::Runt);
        }
        let prefix = u16::try_from(len).map_err(|_| Refused::Oversize)?;
        self.buf[self.end..self.end + PREFIX_LEN].copy_from_slice(&prefix.to_le_bytes());
        self.end += PREFIX_LEN + len;
        Ok(())
    }

    /// What remains to be written.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buf[self.sent..self.end]
    }

    /// Marks the first `n` bytes of [`Batch::pending`] as written.
    ///
    /// # Panics
    /// If `n` exceeds what is pending: the stream would lose its place.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.sent, "consume({n}) exceeds what is pending");
        self.sent += n;
    }

    /// Forgets everything; gives how many frames had not been written whole.
    pub fn clear(&mut self) -> u64 {
        let mut unsent = 0;
        let mut at = 0;
        while at < self.end {
            let len = u16::from_le_bytes([self.buf[at], self.buf[at + 1]]);
            at += PREFIX_LEN + usize::from(len);
            unsent += u64::from(at > self.sent);
        }
        self.end = 0;
        self.sent = 0;
        unsent
    }
}

/// Bytes that a slot has at least: a frame of one byte too many for the prefix is seen as such, and a super-frame of the
/// longest IP packet fits with a tagged Ethernet header, to be cut.
pub const ROOM: usize = MAX_FRAME + MAX_HEADER;

/// Why a frame may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Shorter than [`MIN_FRAME`].
    Runt,
    /// Longer than the interface's MTU or the framing allows.
    Oversize,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runt => "the frame is shorter than an Ethernet header (14 bytes)",
            Self::Oversize => "the frame is longer than the interface's MTU or the framing allows",
        })
    }
}

impl core::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(batch: &mut Batch, len: usize) -> Result<(), Refused> {
        batch.slot().expect("not full")[..len].fill(0xaa);
        batch.commit(len)
    }

    #[test]
    fn frames_lie_back_to_back_and_a_full_batch_refuses_more() {
        let mut batch = Batch::new(100, 1518);
        push(&mut batch, 60).unwrap();
        push(&mut batch, 42).unwrap();
        assert!(batch.slot().is_none(), "106 bytes exceed the target");
        assert_eq!(batch.pending().len(), 62 + 44);
        assert_eq!(batch.pending()[..2], [60, 0]);
        assert_eq!(batch.pending()[62..64], [42, 0]);
        batch.consume(106);
        assert!(batch.slot().is_some());
    }

    #[test]
    fn a_target_of_zero_sends_one_frame_at_a_time() {
        let mut batch = Batch::new(0, 1518);
        push(&mut batch, 14).unwrap();
        assert!(batch.slot().is_none());
    }

    #[test]
    fn runts_and_oversize_frames_leave_the_batch_unchanged() {
        let mut batch = Batch::new(4096, 1518);
        for len in 0..MIN_FRAME {
            assert_eq!(push(&mut batch, len), Err(Refused::Runt));
        }
        assert_eq!(push(&mut batch, 1519), Err(Refused::Oversize));
        assert!(batch.pending().is_empty());
    }

    #[test]
    fn clearing_counts_the_frame_that_was_cut_and_those_behind_it() {
        let mut batch = Batch::new(4096, 1518);
        for _ in 0..3 {
            push(&mut batch, 20).unwrap();
        }
        batch.consume(23);
        assert_eq!(batch.clear(), 2);
        assert!(batch.pending().is_empty());
        assert_eq!(batch.clear(), 0);
    }
}

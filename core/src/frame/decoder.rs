//! Carves frames out of a byte stream.
//!
//! Owns: one buffer that the driver reads into. Driven by: `tap::Ingress`, the link's handshake, fuzz `gvproxy_decode`
//! and `qemu_decode`.
//! Drain: after every [`Decoder::commit`], [`Decoder::next_frame`] until `None`; with [`Framing::Qemu`] then ask
//! [`Decoder::broken`].
//! Bounds: the buffer never grows. Frames are handed out in place; only an incomplete tail is ever moved, and only when
//! the room behind it has become short.

use super::{FrameTooLong, Framing, MIN_FRAME};
use core::{fmt, ops::Range};

/// Decodes length-prefixed frames at any split of the stream. See the [module](crate::frame) for the format.
#[derive(Debug)]
pub struct Decoder {
    /// `buf[start..end]` holds what was read and not yet handed out.
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    runts: u64,
    framing: Framing,
    broken: Option<FrameTooLong>,
}

impl Decoder {
    /// A decoder of [`Framing::Hyperkit`] that reads up to `read_size` bytes at a time behind an unfinished frame of any
    /// length.
    #[must_use]
    pub fn new(read_size: usize) -> Self {
        Self::with_framing(read_size, Framing::Hyperkit)
    }

    /// A decoder that reads up to `read_size` bytes at a time behind an unfinished frame of any length.
    #[must_use]
    pub fn with_framing(read_size: usize, framing: Framing) -> Self {
        let capacity = framing.prefix_len() + framing.max_frame() + read_size.max(1);
        Self { buf: vec![0; capacity].into_boxed_slice(), start: 0, end: 0, runts: 0, framing, broken: None }
    }

    /// Room for the next read; at least the `read_size` given to [`Decoder::new`] once all frames were taken, never
    /// empty. Follow the read with [`Decoder::commit`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.buf.len() - self.end < self.read_size() {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buf[self.end..]
    }

    /// Takes `n` bytes that were read into [`Decoder::space`].
    ///
    /// # Panics
    /// If `n` exceeds the space that was handed out: the bytes would not exist.
    pub fn commit(&mut self, n: usize) {
        assert!(n <= self.buf.len() - self.end, "commit({n}) exceeds the space handed out");
        self.end += n;
    }

    /// The next whole frame of at least [`MIN_FRAME`] bytes; shorter ones are skipped and counted in
    /// [`Decoder::runts`]. `None` when more bytes are needed, and for good once the stream is [`Decoder::broken`].
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        let range = self.next_range()?;
        Some(&self.buf[range])
    }

    /// As [`Decoder::next_frame`], but where in [`Decoder::bytes`] the frame is; it stays there until the next
    /// [`Decoder::space`].
    pub(crate) fn next_range(&mut self) -> Option<Range<usize>> {
        let prefix_len = self.framing.prefix_len();
        loop {
            let pending = &self.buf[self.start..self.end];
            let len = self.framing.frame_len(pending)?;
            // So far ahead of any sum with a length from the wire that none overflows.
            if len > self.framing.max_frame() {
                self.give_up(len);
                return None;
            }
            if pending.len() < prefix_len + len {
                return None;
            }
            let frame = self.start + prefix_len;
            self.start = frame + len;
            if len >= MIN_FRAME {
                return Some(frame..frame + len);
            }
            self.runts += 1;
        }
    }

    /// Everything that was read and may still be handed out, by place.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buf
    }

    /// How many bytes the unfinished frame at the head of the buffer still lacks, prefix included; those of a prefix when
    /// nothing is known yet. A driver that wants one frame per read asks for exactly this many. 0 once the stream is
    /// [`Decoder::broken`].
    #[must_use]
    pub fn missing(&self) -> usize {
        let prefix_len = self.framing.prefix_len();
        let pending = &self.buf[self.start..self.end];
        match self.framing.frame_len(pending) {
            _ if self.broken.is_some() => 0,
            Some(len) => prefix_len.saturating_add(len).saturating_sub(pending.len()),
            None => prefix_len - pending.len(),
        }
    }

    /// What ended the stream for good: a prefix above the framing's limit. What is read after it is thrown away; close
    /// the stream. Never with [`Framing::Hyperkit`].
    #[must_use]
    pub const fn broken(&self) -> Option<FrameTooLong> {
        self.broken
    }

    /// Frames shorter than [`MIN_FRAME`] that were skipped.
    #[must_use]
    pub const fn runts(&self) -> u64 {
        self.runts
    }

    /// What is left when the stream ends: `Err` if it ended inside a frame.
    ///
    /// # Errors
    /// [`Truncated`] says how much of the last frame had arrived.
    pub fn finish(&self) -> Result<(), Truncated> {
        let pending = &self.buf[self.start..self.end];
        if pending.is_empty() {
            return Ok(());
        }
        let want = self.framing.frame_len(pending).map(|len| self.framing.prefix_len().saturating_add(len));
        Err(Truncated { have: pending.len(), want })
    }

    /// Forgets an unfinished frame and what broke the stream: the next byte starts a new stream.
    pub fn reset(&mut self) {
        self.start = 0;
        self.end = 0;
        self.broken = None;
    }

    const fn read_size(&self) -> usize {
        self.buf.len() - self.framing.prefix_len() - self.framing.max_frame()
    }

    /// The prefix stays at the head of the buffer, so that every later look at it comes here again.
    #[cold]
    fn give_up(&mut self, len: usize) {
        self.broken = Some(FrameTooLong { len, limit: self.framing.max_frame() });
        self.end = self.start + self.framing.prefix_len();
    }
}

/// The stream ended inside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// Bytes of the frame that arrived, prefix included.
    pub have: usize,
    /// Bytes the whole frame has, prefix included; `None` if even the prefix was cut.
    pub want: Option<usize>,
}

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.want {
            Some(want) => write!(f, "the stream ended {} bytes into a frame of {want} bytes", self.have),
            None => write!(f, "the stream ended inside a length prefix"),
        }
    }
}

impl core::error::Error for Truncated {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::MAX_QEMU_FRAME;

    fn feed(decoder: &mut Decoder, mut bytes: &[u8], chunk: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let n = chunk.min(bytes.len()).min(decoder.space().len());
            decoder.space()[..n].copy_from_slice(&bytes[..n]);
            decoder.commit(n);
            bytes = &bytes[n..];
            while let Some(frame) = decoder.next_frame() {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    fn stream(lens: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            bytes.extend(len.to_le_bytes());
            bytes.extend((0..*len).map(|b| (b as u8).wrapping_add(i as u8)));
        }
        bytes
    }

    #[test]
    fn every_split_gives_the_same_frames_and_skips_every_runt() {
        let bytes = stream(&[14, 0, 60, 13, 1, 1514, 65_535, 12, 42]);
        for chunk in [1, 2, 3, 7, 64, 1500, 65_537, 1 << 20] {
            let mut decoder = Decoder::new(4096);
            let frames = feed(&mut decoder, &bytes, chunk);
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [14, 60, 1514, 65_535, 42], "chunk {chunk}");
            assert_eq!(decoder.runts(), 4);
            assert_eq!(decoder.finish(), Ok(()));
        }
    }

    #[test]
    fn the_space_never_falls_below_the_read_size_once_drained() {
        let mut decoder = Decoder::new(1000);
        let bytes = stream(&[65_535; 4]);
        for piece in bytes.chunks(997) {
            assert!(decoder.space().len() >= 1000);
            feed(&mut decoder, piece, 997);
        }
    }

    #[test]
    fn a_stream_cut_inside_a_frame_says_how_much_arrived() {
        let mut decoder = Decoder::new(64);
        feed(&mut decoder, &[60], 1);
        assert_eq!(decoder.finish(), Err(Truncated { have: 1, want: None }));
        assert_eq!(decoder.missing(), 1);
        feed(&mut decoder, &[0, 1, 2], 3);
        assert_eq!(decoder.finish(), Err(Truncated { have: 4, want: Some(62) }));
        assert_eq!(decoder.missing(), 58);
    }

    #[test]
    fn a_length_beyond_the_limit_ends_a_qemu_stream_and_costs_no_memory() {
        for len in [MAX_QEMU_FRAME + 1, 1 << 20, u32::MAX as usize] {
            let mut decoder = Decoder::with_framing(64, Framing::Qemu);
            let capacity = decoder.buf.len();
            let mut bytes = vec![0, 0, 0, 14];
            bytes.extend([7; 14]);
            bytes.extend((len as u32).to_be_bytes());
            let frames = feed(&mut decoder, &bytes, 5);
            assert_eq!(frames, [[7; 14]], "what came before is whole");
            let broken = FrameTooLong { len, limit: MAX_QEMU_FRAME };
            assert_eq!(decoder.broken(), Some(broken));
            assert_eq!(decoder.missing(), 0);
            for _ in 0..1000 {
                assert!(decoder.space().len() >= 64);
                assert!(feed(&mut decoder, &[0, 0, 0, 14, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 18).is_empty());
            }
            assert_eq!((decoder.broken(), decoder.buf.len()), (Some(broken), capacity));
            decoder.reset();
            assert_eq!(decoder.broken(), None);
            assert_eq!(feed(&mut decoder, &bytes[..18], 18).len(), 1);
        }
    }

    #[test]
    fn the_longest_qemu_frame_is_taken_at_every_split() {
        let mut bytes = Framing::Qemu.prefix(MAX_QEMU_FRAME).expect("the limit itself fits").0.to_vec();
        bytes.resize(4 + MAX_QEMU_FRAME, 9);
        bytes.extend([0, 0, 0, 13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        for chunk in [1, 3, 4096, 1 << 20] {
            let mut decoder = Decoder::with_framing(64, Framing::Qemu);
            let frames = feed(&mut decoder, &bytes, chunk);
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_QEMU_FRAME], "chunk {chunk}");
            assert_eq!((decoder.runts(), decoder.broken(), decoder.finish()), (1, None, Ok(())));
        }
    }
}

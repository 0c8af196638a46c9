//! Carves frames out of a byte stream.
//!
//! Owns: one buffer that the driver reads into. Driven by: `tap::Ingress`, the link's handshake, fuzz `gvproxy_decode`.
//! Drain: after every [`Decoder::commit`], [`Decoder::next_frame`] until `None`.
//! Bounds: the buffer never grows. Frames are handed out in place; only an incomplete tail is ever moved, and only when
//! the room behind it has become short.

use super::{MAX_FRAME, MIN_FRAME, PREFIX_LEN};
use core::fmt;

/// Decodes length-prefixed frames at any split of the stream. See the [module](crate::frame) for the format.
#[derive(Debug)]
pub struct Decoder {
    /// `buf[start..end]` holds what was read and not yet handed out.
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    runts: u64,
}

impl Decoder {
    /// A decoder that reads up to `read_size` bytes at a time behind an unfinished frame of any length.
    #[must_use]
    pub fn new(read_size: usize) -> Self {
        let capacity = PREFIX_LEN + MAX_FRAME + read_size.max(1);
        Self { buf: vec![0; capacity].into_boxed_slice(), start: 0, end: 0, runts: 0 }
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
    /// [`Decoder::runts`]. `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        loop {
            let pending = &self.buf[self.start..self.end];
            let len = frame_len(pending)?;
            if pending.len() < PREFIX_LEN + len {
                return None;
            }
            let frame = self.start + PREFIX_LEN;
            self.start = frame + len;
            if len >= MIN_FRAME {
                return Some(&self.buf[frame..frame + len]);
            }
            self.runts += 1;
        }
    }

    /// How many bytes the unfinished frame at the head of the buffer still lacks, prefix included; 1 when nothing is
    /// known yet. A driver that wants one frame per read asks for exactly this many.
    #[must_use]
    pub fn missing(&self) -> usize {
        let pending = &self.buf[self.start..self.end];
        match frame_len(pending) {
            Some(len) => (PREFIX_LEN + len).saturating_sub(pending.len()),
            None => PREFIX_LEN - pending.len(),
        }
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
        Err(Truncated { have: pending.len(), want: frame_len(pending).map(|len| PREFIX_LEN + len) })
    }

    /// Forgets an unfinished frame: the next byte starts a new stream.
    pub fn reset(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    fn read_size(&self) -> usize {
        self.buf.len() - PREFIX_LEN - MAX_FRAME
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

fn frame_len(pending: &[u8]) -> Option<usize> {
    pending.first_chunk().map(|prefix| usize::from(u16::from_le_bytes(*prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! Bytes that both ends can make and check: a stream from a seed, and a 64-bit digest of it.

use std::io::{self, Read, Write};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const CHUNK: usize = 64 * 1024;

/// An endless, repeatable stream of bytes: `splitmix64` of a counter that starts at the seed.
#[derive(Clone, Debug)]
pub struct Payload {
    seed: u64,
    position: u64,
}

impl Payload {
    pub fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// Fills `buf` with the next bytes; how a stream is cut into buffers makes no difference.
    pub fn fill(&mut self, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let offset = (self.position % 8) as usize;
            let word = splitmix(self.seed.wrapping_add((self.position / 8).wrapping_mul(GOLDEN))).to_le_bytes();
            let n = buf.len().min(8 - offset);
            let (head, rest) = buf.split_at_mut(n);
            head.copy_from_slice(&word[offset..offset + n]);
            self.position += n as u64;
            buf = rest;
        }
    }

    /// The first `n` bytes of the stream of `seed`.
    pub fn bytes(seed: u64, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        Self::new(seed).fill(&mut bytes);
        bytes
    }

    /// Writes the next `n` bytes.
    pub fn write(&mut self, n: u64, to: &mut impl Write) -> io::Result<()> {
        let mut buf = [0; CHUNK];
        let mut left = n;
        while left > 0 {
            let take = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            self.fill(&mut buf[..take]);
            to.write_all(&buf[..take])?;
            left -= take as u64;
        }
        Ok(())
    }
}

/// Length and hash of a byte stream, however it is cut. Not cryptographic: it catches loss, repetition and reordering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    length: u64,
    hash: u64,
    pending: u64,
}

impl Digest {
    /// The digest of the first `n` bytes of the stream of `seed`.
    pub fn of(seed: u64, n: u64) -> Self {
        let mut digest = Self::default();
        Payload::new(seed).write(n, &mut digest).expect("a digest takes every byte");
        digest
    }

    /// Reads to the end of the stream.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut digest = Self::default();
        let mut buf = [0; CHUNK];
        loop {
            match from.read(&mut buf)? {
                0 => return Ok(digest),
                n => digest.update(&buf[..n]),
            }
        }
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !self.length.is_multiple_of(8) || bytes.len() < 8 {
            let Some((&byte, rest)) = bytes.split_first() else { return };
            self.pending |= u64::from(byte) << (8 * (self.length % 8));
            self.length += 1;
            if self.length.is_multiple_of(8) {
                self.hash = mix(self.hash, std::mem::take(&mut self.pending));
            }
            bytes = rest;
        }
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.hash = mix(self.hash, u64::from_le_bytes(*word));
        }
        self.length += 8 * words.len() as u64;
        if !tail.is_empty() {
            self.update(tail);
        }
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn hash(&self) -> u64 {
        mix(mix(self.hash, self.pending), self.length)
    }
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As clients and servers print it.
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes={} hash={:016x}", self.length, self.hash())
    }
}

fn splitmix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(GOLDEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_of_a_stream_gives_the_same_bytes_and_the_same_digest() {
        let whole = Payload::bytes(7, 1000);
        for cut in 0..1000 {
            let mut payload = Payload::new(7);
            let (mut head, mut tail) = (vec![0; cut], vec![0; 1000 - cut]);
            payload.fill(&mut head);
            payload.fill(&mut tail);
            let mut digest = Digest::default();
            digest.update(&head);
            digest.update(&tail);
            assert_eq!([head, tail].concat(), whole);
            assert_eq!(digest, Digest::of(7, 1000));
        }
    }

    #[test]
    fn a_digest_tells_length_order_and_content_apart() {
        let hash = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.update(bytes);
            digest.hash()
        };
        let bytes = Payload::bytes(1, 64);
        let swapped = [&bytes[8..16], &bytes[..8], &bytes[16..]].concat();
        let repeated = [&bytes[..8], &bytes[..8], &bytes[16..]].concat();
        let hashes = [hash(&bytes), hash(&bytes[..63]), hash(&swapped), hash(&repeated), hash(&[]), hash(&[0])];
        for (i, a) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(a), "{hashes:x?}");
        }
    }
}

//! The frame decoder against a naive one, at the splits the input asks for and at every single split.

use nitrotap_core::frame::{Decoder, MIN_FRAME, PREFIX_LEN};

/// The first byte says how many bytes of the input are chunk lengths; the rest is the stream.
pub fn gvproxy_decode(data: &[u8]) {
    let Some((&chunks, rest)) = data.split_first() else { return };
    let (chunks, stream) = rest.split_at(usize::from(chunks).min(rest.len()));
    let expected = naive(stream);

    check(stream, &expected, chunks.iter().map(|n| usize::from(*n)));
    // Quadratic, so only where that is cheap; longer streams differ from short ones in nothing but length.
    if stream.len() <= 256 {
        for split in 0..=stream.len() {
            check(stream, &expected, [split].into_iter());
        }
        check(stream, &expected, std::iter::repeat_n(1, stream.len()));
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    frames: Vec<Vec<u8>>,
    runts: u64,
    /// Bytes of an unfinished frame at the end, prefix included.
    left: usize,
}

/// What the format says, one byte after the other.
fn naive(stream: &[u8]) -> Decoded {
    let mut decoded = Decoded { frames: Vec::new(), runts: 0, left: 0 };
    let mut at = 0;
    while at + PREFIX_LEN <= stream.len() {
        let len = usize::from(stream[at]) + 256 * usize::from(stream[at + 1]);
        if at + PREFIX_LEN + len > stream.len() {
            break;
        }
        let frame = &stream[at + PREFIX_LEN..at + PREFIX_LEN + len];
        if len < MIN_FRAME {
            decoded.runts += 1;
        } else {
            decoded.frames.push(frame.to_vec());
        }
        at += PREFIX_LEN + len;
    }
    decoded.left = stream.len() - at;
    decoded
}

/// Feeds the stream in reads of these lengths, and whatever is left in one.
fn check(stream: &[u8], expected: &Decoded, chunks: impl Iterator<Item = usize>) {
    let mut decoder = Decoder::new(64);
    let mut frames = Vec::new();
    let mut rest = stream;
    for chunk in chunks.chain([usize::MAX]) {
        let mut piece = &rest[..chunk.min(rest.len())];
        rest = &rest[piece.len()..];
        while !piece.is_empty() {
            let space = decoder.space();
            let n = space.len().min(piece.len());
            assert!(n > 0, "there is always room to read");
            space[..n].copy_from_slice(&piece[..n]);
            decoder.commit(n);
            piece = &piece[n..];
            while let Some(frame) = decoder.next_frame() {
                frames.push(frame.to_vec());
            }
        }
    }
    let left = decoder.finish().err().map_or(0, |truncated| truncated.have);
    assert_eq!(&Decoded { frames, runts: decoder.runts(), left }, expected);
    assert!(decoder.missing() > 0, "a drained decoder always lacks something");
}

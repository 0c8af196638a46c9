//! The frame decoder against a naive one, at the splits the input asks for and at every single split.

use nitrotap_core::frame::{Decoder, FrameTooLong, Framing, MIN_FRAME};

/// The first byte says how many bytes of the input are chunk lengths; the rest is the stream.
pub fn gvproxy_decode(data: &[u8]) {
    decode(Framing::Hyperkit, data);
}

/// The same input as [`gvproxy_decode`] takes, with QEMU's framing.
pub fn qemu_decode(data: &[u8]) {
    decode(Framing::Qemu, data);
}

fn decode(framing: Framing, data: &[u8]) {
    let Some((&chunks, rest)) = data.split_first() else { return };
    let (chunks, stream) = rest.split_at(usize::from(chunks).min(rest.len()));
    let expected = naive(framing, stream);

    check(framing, stream, &expected, chunks.iter().map(|n| usize::from(*n)));
    // Quadratic, so only where that is cheap; longer streams differ from short ones in nothing but length.
    if stream.len() <= 256 {
        for split in 0..=stream.len() {
            check(framing, stream, &expected, [split].into_iter());
        }
        check(framing, stream, &expected, std::iter::repeat_n(1, stream.len()));
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    frames: Vec<Vec<u8>>,
    runts: u64,
    /// Bytes of an unfinished frame at the end, prefix included.
    left: usize,
    broken: Option<FrameTooLong>,
}

/// What the format says, one byte after the other.
fn naive(framing: Framing, stream: &[u8]) -> Decoded {
    let mut decoded = Decoded { frames: Vec::new(), runts: 0, left: 0, broken: None };
    let prefix = framing.prefix_len();
    let mut at = 0;
    while at + prefix <= stream.len() {
        let bytes = stream[at..at + prefix].iter().map(|byte| usize::from(*byte));
        let len = match framing {
            Framing::Hyperkit => bytes.rev().fold(0, |len, byte| 256 * len + byte),
            Framing::Qemu => bytes.fold(0, |len, byte| 256 * len + byte),
        };
        if len > framing.max_frame() {
            decoded.broken = Some(FrameTooLong { len, limit: framing.max_frame() });
            break;
        }
        if at + prefix + len > stream.len() {
            break;
        }
        let frame = &stream[at + prefix..at + prefix + len];
        if len < MIN_FRAME {
            decoded.runts += 1;
        } else {
            decoded.frames.push(frame.to_vec());
        }
        at += prefix + len;
    }
    // Of a broken stream nothing is kept but the prefix that broke it.
    decoded.left = if decoded.broken.is_some() { prefix } else { stream.len() - at };
    decoded
}

/// Feeds the stream in reads of these lengths, and whatever is left in one.
fn check(framing: Framing, stream: &[u8], expected: &Decoded, chunks: impl Iterator<Item = usize>) {
    let mut decoder = Decoder::with_framing(64, framing);
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
    assert_eq!(&Decoded { frames, runts: decoder.runts(), left, broken: decoder.broken() }, expected);
    assert_eq!(
        decoder.missing() == 0,
        expected.broken.is_some(),
        "a drained decoder of a sound stream lacks something"
    );
}

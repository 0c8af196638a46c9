//! Bytes that say which stream they belong to and where in it they are.

use crate::rng::mix;

/// Bytes that are drawn at once.
const WORD: usize = 8;

/// Fills `buf` with what stream `id` has from `offset` on.
pub(crate) fn fill(id: u64, offset: u64, buf: &mut [u8]) {
    let mut number = offset / WORD as u64;
    let mut word = || {
        let word = mix(id ^ number).to_le_bytes();
        number += 1;
        word
    };
    let before = (offset % WORD as u64) as usize;
    let (head, words) = buf.split_at_mut(((WORD - before) % WORD).min(buf.len()));
    if !head.is_empty() {
        head.copy_from_slice(&word()[before..before + head.len()]);
    }
    for chunk in words.chunks_mut(WORD) {
        chunk.copy_from_slice(&word()[..chunk.len()]);
    }
}

/// `len` bytes from the start of stream `id`.
pub(crate) fn bytes(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(id, 0, &mut bytes);
    bytes
}

/// Where `bytes` first differ from what stream `id` has from `offset` on.
pub(crate) fn mismatch(id: u64, offset: u64, bytes: &[u8]) -> Option<u64> {
    let mut expected = [0; 4096];
    let mut at = offset;
    for chunk in bytes.chunks(expected.len()) {
        let expected = &mut expected[..chunk.len()];
        fill(id, at, expected);
        if *chunk != *expected {
            return chunk.iter().zip(expected).position(|(a, b)| a != b).map(|i| at + i as u64);
        }
        at += chunk.len() as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_stream_fits_its_place_and_no_other() {
        let all = bytes(7, 10_000);
        for (from, to) in [(0, 10_000), (1, 2), (3, 5), (7, 9), (500, 9001), (4095, 8193)] {
            assert_eq!(mismatch(7, from as u64, &all[from..to]), None);
            assert!(mismatch(7, from as u64 + 1, &all[from..to]).is_some());
            assert!(mismatch(8, from as u64, &all[from..to]).is_some());
            let mut wrong = all[from..to].to_vec();
            let last = wrong.len() - 1;
            wrong[last] ^= 1;
            assert_eq!(mismatch(7, from as u64, &wrong), Some(to as u64 - 1));
        }
    }
}

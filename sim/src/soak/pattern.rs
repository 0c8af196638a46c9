//! Bytes that say which stream they belong to and where in it they are.

use crate::rng::mix;

/// Fills `buf` with what stream `id` has from `offset` on.
pub(crate) fn fill(id: u64, offset: u64, buf: &mut [u8]) {
    for (i, byte) in buf.iter_mut().enumerate() {
        let at = offset + i as u64;
        *byte = mix(id ^ (at / 8)).to_le_bytes()[(at % 8) as usize];
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
    let mut expected = vec![0; bytes.len()];
    fill(id, offset, &mut expected);
    bytes.iter().zip(&expected).position(|(a, b)| a != b).map(|i| offset + i as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_piece_of_a_stream_fits_its_place_and_no_other() {
        let all = bytes(7, 1000);
        for (from, to) in [(0, 1000), (1, 2), (7, 9), (500, 1000)] {
            assert_eq!(mismatch(7, from as u64, &all[from..to]), None);
            assert!(mismatch(7, from as u64 + 1, &all[from..to]).is_some());
            assert!(mismatch(8, from as u64, &all[from..to]).is_some());
        }
    }
}

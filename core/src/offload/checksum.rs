//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words.
//!
//! Sums are kept unfolded in a `u64` and in the byte order of memory, which the ones' complement sum allows (RFC 1071
//! section 2, byte order independence); only [`finish`] gives the two bytes of the header.

/// Adds `data`, which begins at an even offset of what is summed up.
#[must_use]
pub fn add(sum: u64, data: &[u8]) -> u64 {
    // Eight independent sums: additions of 32-bit words to 64-bit lanes carry nowhere and vectorise.
    let mut lanes = [0_u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.iter().fold(sum, |sum, lane| carry(sum, *lane));
    let (words, tail) = blocks.remainder().as_chunks::<2>();
    for word in words {
        sum = carry(sum, u64::from(u16::from_ne_bytes(*word)));
    }
    if let [last] = *tail {
        sum = carry(sum, u64::from(u16::from_ne_bytes([last, 0])));
    }
    sum
}

/// The sum of the pseudo-header of TCP or UDP over IPv4 (RFC 9293 section 3.1): source, destination, protocol, and the
/// length of header and payload together.
#[must_use]
pub fn pseudo_header_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> u64 {
    add(add(add(0, &source), &destination), &[0, protocol, len.to_be_bytes()[0], len.to_be_bytes()[1]])
}

/// Folds a sum into the bytes of a checksum field.
#[must_use]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// [`finish`] for UDP, where a field of zero means that there is no checksum and all ones stand for it (RFC 768).
#[must_use]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        bytes => bytes,
    }
}

/// Folds a sum without inverting it: what a checksum field holds that is yet to be finished (`CHECKSUM_PARTIAL` in Linux).
#[must_use]
pub fn partial(sum: u64) -> [u8; 2] {
    fold(sum).to_ne_bytes()
}

/// Whether a sum that included the checksum field itself proves the data unchanged.
#[must_use]
pub fn is_valid(sum: u64) -> bool {
    fold(sum) == 0xffff
}

/// Addition with the carry brought back in: the sum stays right modulo 0xffff.
const fn carry(a: u64, b: u64) -> u64 {
    let (sum, carried) = a.overflowing_add(b);
    sum + carried as u64
}

const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// RFC 1071 section 4.1, word by word.
    fn plain(data: &[u8]) -> [u8; 2] {
        let mut sum: u32 = 0;
        for pair in data.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    quickcheck! {
        fn equals_the_plain_sum(data: Vec<u8>, repeat: u8) -> bool {
            let data = data.repeat(1 + usize::from(repeat % 64));
            finish(add(0, &data)) == plain(&data)
        }

        fn parts_of_even_length_add_up(a: Vec<u16>, b: Vec<u8>) -> bool {
            let a: Vec<u8> = a.iter().flat_map(|w| w.to_be_bytes()).collect();
            finish(add(add(0, &a), &b)) == finish(add(0, &[a.clone(), b.clone()].concat()))
        }

        fn data_with_its_checksum_is_valid(data: Vec<u16>) -> bool {
            let mut data: Vec<u8> = data.iter().flat_map(|w| w.to_be_bytes()).collect();
            let checksum = finish(add(0, &data));
            data.extend(checksum);
            is_valid(add(0, &data))
        }
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(finish(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), [0x22, 0x0d]);
    }

    #[test]
    fn the_longest_data_of_ones_does_not_overflow() {
        let data = vec![0xff; 70_000];
        assert_eq!(finish(add(u64::MAX, &data)), [0, 0]);
    }
}

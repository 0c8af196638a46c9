//! The header that a TAP with `IFF_VNET_HDR` puts before every frame (`linux/virtio_net.h`, `struct virtio_net_hdr`;
//! virtio 1.2 section 5.1.6), little-endian after `TUNSETVNETLE`.
//!
//! ```text
//!  0       1          2        4          6            8             10
//!  +-------+----------+--------+----------+------------+-------------+------
//!  | flags | gso_type | hdr_len| gso_size | csum_start | csum_offset | frame
//!  +-------+----------+--------+----------+------------+-------------+------
//! ```

use super::checksum;

/// Bytes of the header: `TUNSETVNETHDRSZ` of 10, without the count of merged buffers.
pub const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// How a super-frame is to be cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either, into datagrams of equal size.
    Udp,
}

/// A parsed header; the default says nothing about its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// How the frame is to be cut.
    pub gso: Gso,
    /// Its TCP header carries CWR, which only the first segment keeps.
    pub ecn: bool,
    /// Bytes of all headers, Ethernet included; a hint.
    pub head: u16,
    /// Payload bytes of each segment; not 0 with any [`Gso`] but [`Gso::None`].
    pub size: u16,
    /// A checksum that is yet to be finished: where what it covers begins, and where in that its field is.
    pub checksum: Option<(u16, u16)>,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// A kind of segmentation that was never offered.
    #[error("a virtio-net header with the unknown segmentation type {0:#04x}")]
    Type(u8),
    /// Segments of no bytes.
    #[error("a virtio-net header that asks for segments of 0 bytes")]
    NoSize,
    /// The checksum's field is beyond the frame.
    #[error("a virtio-net header whose checksum at {start} + {offset} is beyond the frame of {len} bytes")]
    Checksum {
        /// Where what it covers begins.
        start: u16,
        /// Where its field is from there.
        offset: u16,
        /// Bytes of the frame.
        len: usize,
    },
}

impl VnetHeader {
    /// Reads the header of a frame of `len` bytes.
    ///
    /// # Errors
    /// [`VnetError`] if it asks for what cannot be done.
    pub fn parse(bytes: [u8; VNET_LEN], len: usize) -> Result<Self, VnetError> {
        let [flags, kind, rest @ ..] = bytes;
        let field = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        let gso = match kind & !GSO_ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            _ => return Err(VnetError::Type(kind)),
        };
        let (head, size, start, offset) = (field(0), field(2), field(4), field(6));
        if gso != Gso::None && size == 0 {
            return Err(VnetError::NoSize);
        }
        let checksum = (flags & NEEDS_CSUM != 0).then_some((start, offset));
        if checksum.is_some() && usize::from(start) + usize::from(offset) + 2 > len {
            return Err(VnetError::Checksum { start, offset, len });
        }
        Ok(Self { gso, ecn: kind & GSO_ECN != 0, head, size, checksum })
    }

    /// The header's bytes.
    #[must_use]
    pub const fn bytes(&self) -> [u8; VNET_LEN] {
        let kind = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let (flags, (start, offset)) = match self.checksum {
            Some(checksum) => (NEEDS_CSUM, checksum),
            None => (0, (0, 0)),
        };
        let ([a, b], [c, d]) = (self.head.to_le_bytes(), self.size.to_le_bytes());
        let ([e, f], [g, h]) = (start.to_le_bytes(), offset.to_le_bytes());
        [flags, kind | if self.ecn { GSO_ECN } else { 0 }, a, b, c, d, e, f, g, h]
    }
}

/// Finishes the checksum that a frame's header speaks of: its field holds the sum of the pseudo-header.
///
/// A result of zero becomes all ones when the field is UDP's, which is 6 bytes into its header.
///
/// # Panics
/// If the field is beyond the frame, which [`VnetHeader::parse`] refuses.
pub fn finish_checksum(frame: &mut [u8], (start, offset): (u16, u16)) {
    let start = usize::from(start);
    let field = start + usize::from(offset);
    let sum = checksum::add(0, &frame[start..]);
    let bytes = if offset == 6 { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    frame[field..field + 2].copy_from_slice(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn any_header_is_refused_or_means_what_its_bytes_say(bytes: Vec<u8>, len: u16) -> bool {
            let mut header = [0; VNET_LEN];
            for (to, from) in header.iter_mut().zip(&bytes) {
                *to = *from;
            }
            match VnetHeader::parse(header, len.into()) {
                Ok(parsed) => VnetHeader::parse(parsed.bytes(), len.into()) == Ok(parsed),
                Err(VnetError::Type(kind)) => ![0, 1, 4, 5].contains(&(kind & 0x7f)),
                Err(VnetError::NoSize) => header[4..6] == [0, 0],
                Err(VnetError::Checksum { start, offset, len }) => usize::from(start) + usize::from(offset) + 2 > len,
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_header_file() {
        let header = VnetHeader { gso: Gso::Tcp6, ecn: true, head: 0x1234, size: 1440, checksum: Some((54, 16)) };
        assert_eq!(header.bytes(), [1, 0x84, 0x34, 0x12, 0xa0, 0x05, 54, 0, 16, 0]);
        assert_eq!(VnetHeader::default().bytes(), [0; VNET_LEN]);
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones_by_udp_alone() {
        // All ones and zeros sum up to the ones' complement's zero.
        for (offset, expected) in [(6, [0xff, 0xff]), (16, [0, 0])] {
            let mut frame = [0xff; 34];
            finish_checksum(&mut frame, (14, offset));
            let field = 14 + usize::from(offset);
            assert_eq!(frame[field..field + 2], expected);
        }
    }
}

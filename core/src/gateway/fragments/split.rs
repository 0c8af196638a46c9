//! Cuts a payload into IPv4 packets that fit an MTU.

use super::{HEADER_LEN, MAX_PAYLOAD};
use crate::frame::MIN_MTU;
use core::{fmt, net::Ipv4Addr};
use smoltcp::wire::{IpProtocol, Ipv4Packet};

/// The fields of the header that every fragment of a datagram has in common. Options are never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// What the payload is.
    pub protocol: IpProtocol,
    /// Time to live, in hops.
    pub ttl: u8,
    /// Identification: what holds the fragments of one datagram together. It must not repeat for the same addresses and
    /// protocol while a receiver may still hold pieces (RFC 6864 section 4.2), which is 30 s here and on Linux.
    pub ident: u16,
}

/// Cuts `payload` into packets of at most `mtu` bytes, header included; one packet when it fits, also when it is empty.
/// An `mtu` below [`MIN_MTU`] is taken as that.
///
/// # Errors
/// [`PayloadTooLong`] above [`MAX_PAYLOAD`] bytes.
pub const fn fragment(header: Header, payload: &[u8], mtu: u16) -> Result<Fragments<'_>, PayloadTooLong> {
    if payload.len() > MAX_PAYLOAD {
        return Err(PayloadTooLong { len: payload.len() });
    }
    let mtu = if mtu < MIN_MTU { MIN_MTU } else { mtu };
    Ok(Fragments { header, payload, room: mtu as usize - HEADER_LEN, offset: 0, done: false })
}

/// The packets of one datagram, in order; see [`fragment`].
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    header: Header,
    /// What is left to send.
    payload: &'a [u8],
    /// Payload bytes that fit a packet.
    room: usize,
    /// Where `payload` begins in the datagram; a multiple of 8.
    offset: usize,
    done: bool,
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        if self.done {
            return None;
        }
        self.done = self.payload.len() <= self.room;
        // Only the last piece may have a length that is no multiple of 8 (RFC 791 section 2.3).
        let (payload, rest) = self.payload.split_at(if self.done { self.payload.len() } else { self.room & !7 });
        let packet = Fragment { header: emit(&self.header, payload.len(), self.offset, !self.done), payload };
        self.offset += payload.len();
        self.payload = rest;
        Some(packet)
    }
}

/// One IPv4 packet, not yet in one piece: so it can be put straight where it is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The header, checksum included.
    pub header: [u8; HEADER_LEN],
    /// What follows it.
    pub payload: &'a [u8],
}

impl Fragment<'_> {
    /// The packet in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.header, self.payload].concat()
    }
}

/// `len` and `offset` fit: their sum is at most [`MAX_PAYLOAD`].
fn emit(header: &Header, len: usize, offset: usize, more: bool) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    packet.set_version(4);
    packet.set_header_len(HEADER_LEN as u8);
    packet.set_total_len((HEADER_LEN + len) as u16);
    packet.set_ident(header.ident);
    packet.set_more_frags(more);
    packet.set_frag_offset(offset as u16);
    packet.set_hop_limit(header.ttl);
    packet.set_next_header(header.protocol);
    packet.set_src_addr(header.src);
    packet.set_dst_addr(header.dst);
    packet.fill_checksum();
    bytes
}

/// More than an IPv4 packet can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadTooLong {
    /// Bytes of the payload.
    pub len: usize,
}

impl fmt::Display for PayloadTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a payload of {} bytes, and an IPv4 packet carries at most {MAX_PAYLOAD}", self.len)
    }
}

impl core::error::Error for PayloadTooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        src: Ipv4Addr::new(192, 168, 127, 1),
        dst: Ipv4Addr::new(192, 168, 127, 2),
        protocol: IpProtocol::Udp,
        ttl: 64,
        ident: 0xbeef,
    };

    #[test]
    fn what_fits_is_one_packet_byte_for_byte() {
        let packets: Vec<_> =
            fragment(HEADER, &[1, 2, 3], 1500).expect("short").map(|packet| packet.to_vec()).collect();
        // The checksum by hand: 4500+0017+beef+4011+c0a8+7f01+c0a8+7f02 = 0x3c36a, folded 0xc36d, inverted 0x3c92.
        assert_eq!(
            packets,
            [[0x45, 0, 0, 23, 0xbe, 0xef, 0, 0, 64, 17, 0x3c, 0x92, 192, 168, 127, 1, 192, 168, 127, 2, 1, 2, 3]]
        );
        assert_eq!(fragment(HEADER, &[], 1500).expect("empty").count(), 1);
    }

    #[test]
    fn every_packet_fits_starts_at_a_multiple_of_eight_and_has_a_right_header() {
        let payload: Vec<u8> = (0..=255).cycle().take(MAX_PAYLOAD).collect();
        for mtu in [0, 68, 69, 576, 1500, 1501, 9001, u16::MAX] {
            let mut offset = 0;
            let mut last = false;
            for packet in fragment(HEADER, &payload, mtu).expect("the longest there is") {
                assert!(!last, "nothing comes after the last");
                let bytes = packet.to_vec();
                let parsed = Ipv4Packet::new_checked(&bytes[..]).expect("well formed");
                assert!(bytes.len() <= usize::from(mtu.max(68)) && bytes.len() == usize::from(parsed.total_len()));
                assert!(parsed.verify_checksum());
                assert_eq!(usize::from(parsed.frag_offset()), offset);
                assert_eq!(parsed.payload(), &payload[offset..offset + packet.payload.len()]);
                last = !parsed.more_frags();
                offset += packet.payload.len();
            }
            assert!(last && offset == payload.len(), "MTU {mtu}");
        }
    }

    #[test]
    fn what_no_packet_can_carry_is_refused() {
        assert_eq!(
            fragment(HEADER, &[0; MAX_PAYLOAD + 1], 1500).map(Iterator::count),
            Err(PayloadTooLong { len: MAX_PAYLOAD + 1 })
        );
    }
}

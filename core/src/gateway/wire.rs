//! Packets that the gateway itself writes, and the heads of those it reads: IPv4, UDP, ICMP, TCP resets.
//!
//! Owns: nothing. Driven by: the machine.

use crate::offload::checksum;
use core::net::Ipv4Addr;

/// Bytes of an Ethernet header without a VLAN tag.
pub(super) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP: usize = 8;
/// Bytes of an ICMP echo or error header.
pub(super) const ICMP: usize = 8;
/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;

pub(super) const PROTO_ICMP: u8 = 1;
pub(super) const PROTO_TCP: u8 = 6;
pub(super) const PROTO_UDP: u8 = 17;

pub(super) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// TCP flags (RFC 9293 section 3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// An IPv4 packet, checked as far as the gateway relies on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ipv4<'p> {
    /// The whole packet, without what an Ethernet frame may carry behind it.
    pub(super) packet: &'p [u8],
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: u8,
    pub(super) payload: &'p [u8],
    /// More fragments follow, or this is not the first.
    pub(super) fragment: bool,
    pub(super) dont_fragment: bool,
}

impl<'p> Ipv4<'p> {
    /// `None` if version, header length or total length make no sense. The header checksum is not looked at: the link is
    /// a local stream, and stock gvproxy does not look either (`RXChecksumOffload`).
    pub(super) fn parse(bytes: &'p [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let head = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || head < IPV4 || bytes.len() < head {
            return None;
        }
        let total = usize::from(be16(bytes, 2));
        if total < head || total > bytes.len() {
            return None;
        }
        let packet = &bytes[..total];
        let offset = be16(packet, 6);
        Some(Self {
            packet,
            source: address(packet, 12),
            destination: address(packet, 16),
            protocol: packet[9],
            payload: &packet[head..],
            fragment: offset & 0x3fff != 0,
            dont_fragment: offset & 0x4000 != 0,
        })
    }
}

/// The head of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: u8,
    /// Bytes of payload.
    pub(super) len: usize,
}

impl Segment {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < TCP {
            return None;
        }
        let head = usize::from(bytes[12] >> 4) * 4;
        if head < TCP || bytes.len() < head {
            return None;
        }
        let (source_port, destination_port) = (be16(bytes, 0), be16(bytes, 2));
        if source_port == 0 || destination_port == 0 {
            return None;
        }
        Some(Self {
            source_port,
            destination_port,
            sequence: be32(bytes, 4),
            acknowledgement: be32(bytes, 8),
            flags: bytes[13],
            len: bytes.len() - head,
        })
    }

    /// Sequence numbers that it takes up (RFC 9293 section 3.4).
    pub(super) const fn sequence_len(&self) -> u32 {
        self.len as u32 + (self.flags & SYN != 0) as u32 + (self.flags & FIN != 0) as u32
    }
}

/// Bytes of a segment's payload where a SYN names none (RFC 9293 section 3.7.1).
pub(super) const DEFAULT_MSS: usize = 536;

/// Bytes of payload that the sender of a SYN takes in a segment.
pub(super) fn maximum_segment(packet: &[u8]) -> usize {
    let named = Ipv4::parse(packet).and_then(|packet| {
        let mut options = packet.payload.get(TCP..usize::from(packet.payload.get(12)? >> 4) * 4)?;
        loop {
            options = match *options {
                [1, ref rest @ ..] => rest,
                [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low]).into()),
                [0, ..] => return None,
                [_, len, ..] => options.get(usize::from(len.max(2))..)?,
                [_] | [] => return None,
            };
        }
    });
    named.unwrap_or(DEFAULT_MSS)
}

/// Writes an Ethernet header.
pub(super) fn ethernet(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], kind: [u8; 2]) {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&kind);
}

/// Writes an IPv4 header without options into the first 20 bytes of a packet that is as long as `packet`.
pub(super) fn ipv4(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) {
    let total = (packet.len() as u16).to_be_bytes();
    // Identification 0 with "don't fragment": an atomic datagram (RFC 6864 section 4.1).
    packet[..IPV4]
        .copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = checksum::finish(checksum::add(0, &packet[..IPV4]));
    packet[10..12].copy_from_slice(&sum);
}

/// Writes the UDP header into `datagram`, whose payload is already there.
pub(super) fn udp(datagram: &mut [u8], source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) {
    let len = datagram.len() as u16;
    datagram[..2].copy_from_slice(&source.1.to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.1.to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
    let pseudo = checksum::pseudo_header_v4(source.0.octets(), destination.0.octets(), PROTO_UDP, len);
    let sum = match checksum::finish(checksum::add(pseudo, datagram)) {
        // Zero would mean that there is no checksum (RFC 768).
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum);
}

/// Finishes an ICMP message: its checksum over all of `message`.
pub(super) fn icmp(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = checksum::finish(checksum::add(0, message));
    message[2..4].copy_from_slice(&sum);
}

/// Writes the segment that resets whoever sent `to` (RFC 9293 section 3.10.7.1); `packet` has [`IPV4`] and [`TCP`] bytes.
pub(super) fn reset(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, to: &Segment) {
    let (sequence, acknowledgement, flags) = if to.flags & ACK == 0 {
        (0, to.sequence.wrapping_add(to.sequence_len()), RST | ACK)
    } else {
        (to.acknowledgement, 0, RST)
    };
    bare_segment(
        packet,
        (source, to.destination_port),
        (destination, to.source_port),
        sequence,
        acknowledgement,
        flags,
        0,
    );
}

/// Writes a segment without options and payload.
pub(super) fn bare_segment(
    packet: &mut [u8],
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
) {
    ipv4(packet, source.0, destination.0, PROTO_TCP);
    let segment = &mut packet[IPV4..];
    segment.fill(0);
    segment[..2].copy_from_slice(&source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.1.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&window.to_be_bytes());
    let pseudo = checksum::pseudo_header_v4(source.0.octets(), destination.0.octets(), PROTO_TCP, segment.len() as u16);
    let sum = checksum::finish(checksum::add(pseudo, segment));
    segment[16..18].copy_from_slice(&sum);
}

/// What a `Destination Unreachable` says (RFC 792, RFC 1191, RFC 1812 section 5.2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Code 0.
    Network,
    /// Code 1.
    Host,
    /// Code 3.
    Port,
    /// Code 4, with the MTU of the next hop.
    FragmentationNeeded(u16),
    /// Code 13: an administrator forbids it.
    Prohibited,
}

/// An ICMP error about `packet`, as an ICMP message (RFC 792: the IP header and 8 bytes of what follows; RFC 1812 section
/// 4.3.2.3 allows more, and Linux wants no more than this).
pub(super) fn unreachable(packet: &[u8], why: Unreachable) -> Vec<u8> {
    let (code, mtu) = match why {
        Unreachable::Network => (0, 0),
        Unreachable::Host => (1, 0),
        Unreachable::Port => (3, 0),
        Unreachable::FragmentationNeeded(mtu) => (4, mtu),
        Unreachable::Prohibited => (13, 0),
    };
    let head = usize::from(packet.first().map_or(0, |b| b & 0xf)) * 4;
    let quoted = &packet[..packet.len().min(head + 8)];
    let mut message = vec![0; ICMP + quoted.len()];
    message[0] = 3;
    message[1] = code;
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    message[ICMP..].copy_from_slice(quoted);
    icmp(&mut message);
    message
}

/// Writes the checksums of an IPv4 packet with a TCP segment.
pub(super) fn finish_tcp(packet: &mut [u8]) {
    let head = usize::from(packet[0] & 0xf) * 4;
    packet[10..12].fill(0);
    let sum = checksum::finish(checksum::add(0, &packet[..head]));
    packet[10..12].copy_from_slice(&sum);
    let (source, destination) = (address(packet, 12).octets(), address(packet, 16).octets());
    let segment = &mut packet[head..];
    segment[16..18].fill(0);
    let pseudo = checksum::pseudo_header_v4(source, destination, PROTO_TCP, segment.len() as u16);
    let sum = checksum::finish(checksum::add(pseudo, segment));
    segment[16..18].copy_from_slice(&sum);
}

/// Sequence and acknowledgement number of an IPv4 packet with a TCP segment.
pub(super) fn sequence_numbers(packet: &[u8]) -> (u32, u32) {
    let head = usize::from(packet[0] & 0xf) * 4;
    (be32(packet, head + 4), be32(packet, head + 8))
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

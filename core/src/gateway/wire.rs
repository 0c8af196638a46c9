//! Packets that the gateway itself writes, and the heads of those it reads: IPv4, IPv6, UDP, ICMP, TCP resets.
//!
//! Owns: nothing. Driven by: the machine.

mod error;
mod ipv6;

pub(super) use error::{
    Quoted, Unreachable, Verdict, quoted_destination, quoted_destination_v4, read as read_error, unreachable,
};
pub(super) use ipv6::{Chain, chain};

use crate::offload::checksum;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header without a VLAN tag.
pub(super) const ETHERNET: usize = 14;
/// Bytes of an IPv4 header without options.
pub(super) const IPV4: usize = 20;
/// Bytes of an IPv6 header.
pub(super) const IPV6: usize = 40;
/// Where the hop limit is in it.
pub(super) const HOP_LIMIT: usize = 7;
/// Bytes of the fragment header of IPv6.
pub(super) const FRAGMENT: usize = 8;
/// Bytes of a UDP header.
pub(super) const UDP: usize = 8;
/// Bytes of an ICMP echo or error header.
pub(super) const ICMP: usize = 8;
/// Bytes of a TCP header without options.
pub(super) const TCP: usize = 20;

pub(super) const PROTO_ICMP: u8 = 1;
pub(super) const PROTO_TCP: u8 = 6;
pub(super) const PROTO_UDP: u8 = 17;
pub(super) const PROTO_ICMPV6: u8 = 58;
pub(super) const PROTO_FRAGMENT: u8 = 44;

pub(super) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
pub(super) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// TCP flags (RFC 9293 section 3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// A packet of either family, checked as far as the gateway relies on it. One of IPv6 has no extension headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'p> {
    /// The whole packet, without what an Ethernet frame may carry behind it.
    pub(super) packet: &'p [u8],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    pub(super) payload: &'p [u8],
    /// More fragments follow, or this is not the first.
    pub(super) fragment: bool,
    pub(super) dont_fragment: bool,
}

impl<'p> Ip<'p> {
    /// Links that it may yet pass, this one included: the time to live of IPv4.
    #[inline]
    pub(super) fn hop_limit(&self) -> u8 {
        self.packet[if self.source.is_ipv4() { 8 } else { HOP_LIMIT }]
    }

    /// An IPv4 packet. `None` if version, header length or total length make no sense. The header checksum is not looked
    /// at: the link is a local stream, and stock gvproxy does not look either (`RXChecksumOffload`).
    #[inline]
    pub(super) fn parse_v4(bytes: &'p [u8]) -> Option<Self> {
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
            source: address_v4(packet, 12).into(),
            destination: address_v4(packet, 16).into(),
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
    /// As it is written there, not scaled.
    pub(super) window: u16,
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
            window: be16(bytes, 14),
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
    let named = packet.get(header_len(packet)..).and_then(|segment| {
        let mut options = segment.get(TCP..usize::from(segment.get(12)? >> 4) * 4)?;
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

/// A packet with a TCP segment, as it is without the segment's payload, and with a header that says so. Its TCP checksum
/// is not that of what is left; nobody looks at it.
pub(super) fn without_payload(packet: &[u8]) -> Box<[u8]> {
    let head = header_len(packet);
    let segment = packet.get(head + 12).map_or(TCP, |offset| usize::from(offset >> 4) * 4);
    let mut bare: Box<[u8]> = packet[..packet.len().min(head + segment)].into();
    let len = bare.len();
    match bare.first() {
        Some(first) if first >> 4 == 6 => bare[4..6].copy_from_slice(&((len - IPV6) as u16).to_be_bytes()),
        Some(_) => {
            bare[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            bare[10..12].fill(0);
            let sum = checksum::finish(checksum::add(0, &bare[..head]));
            bare[10..12].copy_from_slice(&sum);
        }
        None => {}
    }
    bare
}

/// Finishes an error of [`unreachable()`] from and to these addresses; gives its protocol.
pub(super) fn finish_error(message: &mut [u8], source: IpAddr, destination: IpAddr) -> u8 {
    if destination.is_ipv4() {
        return PROTO_ICMP;
    }
    icmpv6(message, source, destination);
    PROTO_ICMPV6
}

/// Writes an Ethernet header.
pub(super) fn ethernet(frame: &mut [u8], destination: [u8; 6], source: [u8; 6], kind: [u8; 2]) {
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&kind);
}

/// Bytes of the header that [`ip`] writes in front of what goes to `address`.
pub(super) const fn head(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    }
}

/// The type of frames with packets for `address`.
pub(super) const fn ethertype(address: IpAddr) -> [u8; 2] {
    match address {
        IpAddr::V4(_) => ETHERTYPE_IPV4,
        IpAddr::V6(_) => ETHERTYPE_IPV6,
    }
}

/// Bytes of the header of a packet of either family, options of IPv4 included; extension headers of IPv6 are not looked for.
fn header_len(packet: &[u8]) -> usize {
    match packet.first() {
        Some(first) if first >> 4 == 6 => IPV6,
        Some(first) => usize::from(first & 0xf) * 4,
        None => 0,
    }
}

/// Writes the header without options into the first bytes of a packet that is as long as `packet`, [`head`] of them. The
/// two addresses are of one family.
#[inline]
pub(super) fn ip(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(packet, source, destination, protocol),
        (source, destination) => ipv6(packet, v6(source), v6(destination), protocol),
    }
}

fn ipv4(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) {
    let total = (packet.len() as u16).to_be_bytes();
    // Identification 0 with "don't fragment": an atomic datagram (RFC 6864 section 4.1).
    packet[..IPV4]
        .copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = checksum::finish(checksum::add(0, &packet[..IPV4]));
    packet[10..12].copy_from_slice(&sum);
}

fn ipv6(packet: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr, protocol: u8) {
    let len = ((packet.len() - IPV6) as u16).to_be_bytes();
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, len[0], len[1], protocol, 64]);
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
}

/// An address in the longer form; two of a packet are always of one family.
pub(super) const fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The sum of the pseudo-header of a payload of `len` bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline]
pub(super) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            checksum::pseudo_header_v4(source.octets(), destination.octets(), protocol, len as u16)
        }
        (source, destination) => {
            let sum = checksum::add(checksum::add(0, &v6(source).octets()), &v6(destination).octets());
            let len = (len as u32).to_be_bytes();
            checksum::add(sum, &[len[0], len[1], len[2], len[3], 0, 0, 0, protocol])
        }
    }
}

/// Writes the UDP header into `datagram`, whose payload is already there.
#[inline]
pub(super) fn udp(datagram: &mut [u8], source: (IpAddr, u16), destination: (IpAddr, u16)) {
    let len = datagram.len();
    datagram[..2].copy_from_slice(&source.1.to_be_bytes());
    datagram[2..4].copy_from_slice(&destination.1.to_be_bytes());
    datagram[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    datagram[6..8].fill(0);
    let pseudo = pseudo_header(source.0, destination.0, PROTO_UDP, len);
    let sum = match checksum::finish(checksum::add(pseudo, datagram)) {
        // Zero would mean that there is no checksum (RFC 768).
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum);
}

/// Finishes an ICMPv6 message, whose checksum covers its addresses too (RFC 4443 section 2.3).
pub(super) fn icmpv6(message: &mut [u8], source: IpAddr, destination: IpAddr) {
    message[2..4].fill(0);
    let pseudo = pseudo_header(source, destination, PROTO_ICMPV6, message.len());
    let sum = checksum::finish(checksum::add(pseudo, message));
    message[2..4].copy_from_slice(&sum);
}

/// Finishes an ICMP message: its checksum over all of `message`.
pub(super) fn icmp(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = checksum::finish(checksum::add(0, message));
    message[2..4].copy_from_slice(&sum);
}

/// Writes the segment that resets whoever sent `to` (RFC 9293 section 3.10.7.1); `packet` has [`head`] and [`TCP`] bytes.
pub(super) fn reset(packet: &mut [u8], source: IpAddr, destination: IpAddr, to: &Segment) {
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
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
) {
    ip(packet, source.0, destination.0, PROTO_TCP);
    let segment = &mut packet[head(source.0)..];
    segment.fill(0);
    segment[..2].copy_from_slice(&source.1.to_be_bytes());
    segment[2..4].copy_from_slice(&destination.1.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&window.to_be_bytes());
    let pseudo = pseudo_header(source.0, destination.0, PROTO_TCP, segment.len());
    let sum = checksum::finish(checksum::add(pseudo, segment));
    segment[16..18].copy_from_slice(&sum);
}

/// Writes the checksums of a packet with a TCP segment.
pub(super) fn finish_tcp(packet: &mut [u8]) {
    let head = header_len(packet);
    let (source, destination): (IpAddr, IpAddr) = if packet[0] >> 4 == 6 {
        (address_v6(packet, 8).into(), address_v6(packet, 24).into())
    } else {
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::add(0, &packet[..head]));
        packet[10..12].copy_from_slice(&sum);
        (address_v4(packet, 12).into(), address_v4(packet, 16).into())
    };
    let segment = &mut packet[head..];
    segment[16..18].fill(0);
    let pseudo = pseudo_header(source, destination, PROTO_TCP, segment.len());
    let sum = checksum::finish(checksum::add(pseudo, segment));
    segment[16..18].copy_from_slice(&sum);
}

/// Sequence and acknowledgement number of a packet with a TCP segment.
pub(super) fn sequence_numbers(packet: &[u8]) -> (u32, u32) {
    let head = header_len(packet);
    (be32(packet, head + 4), be32(packet, head + 8))
}

/// The same, and the sequence number behind the text. `None` for a reset.
#[inline]
pub(super) fn numbers_and_end(packet: &[u8]) -> Option<((u32, u32), u32)> {
    let head = header_len(packet);
    let tcp = packet.get(head..)?.first_chunk::<TCP>()?;
    if tcp[13] & RST != 0 {
        return None;
    }
    let sequence = be32(tcp, 4);
    let headers = head + usize::from(tcp[12] >> 4) * 4;
    Some(((sequence, be32(tcp, 8)), sequence.wrapping_add((packet.len() - headers) as u32)))
}

/// Bytes of payload with which a packet with a TCP segment has `len` bytes.
pub(super) fn payload_within(packet: &[u8], len: usize) -> usize {
    let head = header_len(packet);
    len.saturating_sub(head + usize::from(packet[head + 12] >> 4) * 4)
}

/// Most bytes of the headers of IPv4 or IPv6 and of TCP, options included.
pub(super) const MOST_HEADERS: usize = 60 + 60;

/// A packet with a TCP segment without that one's text, in `room`; as it is if there is none. No checksum is written.
pub(super) fn without_text<'a>(packet: &'a [u8], room: &'a mut [u8; MOST_HEADERS]) -> &'a [u8] {
    let headers = packet.len() - payload_within(packet, packet.len());
    if headers == packet.len() {
        return packet;
    }
    let bare = &mut room[..headers];
    bare.copy_from_slice(&packet[..headers]);
    if packet[0] >> 4 == 6 {
        bare[4..6].copy_from_slice(&((headers - IPV6) as u16).to_be_bytes());
    } else {
        bare[2..4].copy_from_slice(&(headers as u16).to_be_bytes());
    }
    bare
}

/// The window of a packet with a TCP segment, as it is written there.
#[inline]
pub(super) fn window(packet: &[u8]) -> u16 {
    be16(packet, header_len(packet) + 14)
}

/// Lets the segment of a packet offer one unit of its window less; the window of a SYN has no unit (RFC 7323 section 2.2). No
/// checksum is written.
#[inline]
pub(super) fn narrow_window(packet: &mut [u8]) {
    let at = header_len(packet) + 13;
    if let Some([flags, window @ ..]) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<3>)
        && *flags & SYN == 0
    {
        *window = u16::from_be_bytes(*window).saturating_sub(1).to_be_bytes();
    }
}

/// A packet with a TCP segment as [`without_text`] makes it, and with this window. No checksum is written.
pub(super) fn with_window<'a>(packet: &[u8], room: &'a mut [u8; MOST_HEADERS], window: u16) -> &'a [u8] {
    let headers = packet.len() - payload_within(packet, packet.len());
    if headers == packet.len() {
        room[..headers].copy_from_slice(packet);
    } else {
        without_text(packet, room);
    }
    let bare = &mut room[..headers];
    let at = header_len(bare) + 14;
    bare[at..at + 2].copy_from_slice(&window.to_be_bytes());
    bare
}

/// The TCP segment of a packet of either family.
pub(super) fn segment_of(packet: &[u8]) -> Option<Segment> {
    Segment::parse(packet.get(header_len(packet)..)?)
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn address_v6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

pub(super) fn address_v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

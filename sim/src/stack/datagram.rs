//! Datagrams of a host: UDP (RFC 768), pings, and what routers and hosts say about either (RFC 792).
//!
//! Owns: nothing. Driven by: `host`.

use super::vnet::{self, Packet};
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr},
};
use std::net::Ipv4Addr;

/// Type and code of the ICMP error about a packet that is too long for a link and may not be fragmented.
pub const TOO_LONG: (u8, u8) = (3, 4);

/// What has come to a port of UDP, or to the identifier of pings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A datagram, or the data of an echo reply, whose port is 0.
    Datagram {
        /// Who sent it.
        from: (Ipv4Addr, u16),
        /// What it carries.
        payload: Vec<u8>,
    },
    /// An ICMP error about what was sent.
    Error {
        /// Who says so.
        from: Ipv4Addr,
        /// Type and code.
        what: (u8, u8),
        /// Where the datagram was sent to.
        to: Ipv4Addr,
        /// Longest packet that would have passed, where it was too long (RFC 1191); 0 otherwise.
        mtu: u16,
    },
}

/// Where a datagram comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Address and port of the sender.
    pub from: (Ipv4Addr, u16),
    /// Address and port of the receiver.
    pub to: (Ipv4Addr, u16),
    /// Links that it may pass (TTL).
    pub hop_limit: u8,
}

/// A UDP datagram in an IPv4 packet; its checksum is left to the device if `offload`.
pub(super) fn udp(way: Way, payload: &[u8], offload: bool) -> Packet {
    let repr = UdpRepr { src_port: way.from.1, dst_port: way.to.1 };
    let mut bytes = ip(way, IpProtocol::Udp, repr.header_len() + payload.len());
    let mut packet = UdpPacket::new_unchecked(&mut bytes[20..]);
    let fill = |space: &mut [u8]| space.copy_from_slice(payload);
    let (from, to) = (way.from.0.into(), way.to.0.into());
    repr.emit(&mut packet, &from, &to, payload.len(), fill, &ChecksumCapabilities::default());
    if offload {
        let header = vnet::leave_udp(&mut bytes);
        return Packet { header, bytes };
    }
    Packet::plain(bytes)
}

/// An echo request with the sender's port as its identifier.
pub(super) fn ping(way: Way, seq_no: u16, data: &[u8]) -> Packet {
    let repr = Icmpv4Repr::EchoRequest { ident: way.from.1, seq_no, data };
    let mut bytes = ip(way, IpProtocol::Icmp, repr.buffer_len());
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[20..]), &ChecksumCapabilities::default());
    Packet::plain(bytes)
}

fn ip(way: Way, next_header: IpProtocol, payload_len: usize) -> Vec<u8> {
    let repr =
        Ipv4Repr { src_addr: way.from.0, dst_addr: way.to.0, next_header, payload_len, hop_limit: way.hop_limit };
    let mut bytes = vec![0; repr.buffer_len() + payload_len];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
    bytes
}

/// What an IPv4 packet brings to a host, and to which of its ports; several of it if datagrams of `size` bytes were joined.
/// `None` if it is nothing of this kind, or broken.
pub(super) fn parse(packet: &[u8], size: Option<usize>) -> Option<(u16, Vec<Heard>)> {
    let ip = Ipv4Packet::new_checked(packet).ok().filter(|ip| !ip.more_frags() && ip.frag_offset() == 0)?;
    if ip.next_header() == IpProtocol::Udp {
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        if !udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()) {
            return None;
        }
        let from = (ip.src_addr(), udp.src_port());
        let payload = udp.payload();
        let parts = match size {
            Some(size) => payload.chunks(size).map(<[u8]>::to_vec).collect(),
            None => vec![payload.to_vec()],
        };
        let heard = parts.into_iter().map(|payload| Heard::Datagram { from, payload }).collect();
        return Some((udp.dst_port(), heard));
    }
    if ip.next_header() != IpProtocol::Icmp {
        return None;
    }
    let icmp = Icmpv4Packet::new_checked(ip.payload()).ok().filter(Icmpv4Packet::verify_checksum)?;
    if icmp.msg_type() == Icmpv4Message::EchoReply {
        let heard = Heard::Datagram { from: (ip.src_addr(), 0), payload: icmp.data().to_vec() };
        return Some((icmp.echo_ident(), vec![heard]));
    }
    if !matches!(icmp.msg_type(), Icmpv4Message::DstUnreachable | Icmpv4Message::TimeExceeded) {
        return None;
    }
    // It quotes the packet's IP header and 8 bytes at least (RFC 792).
    let quoted = icmp.data();
    let original = Ipv4Packet::new_unchecked(quoted);
    let head = usize::from(quoted.first()? & 0x0f) * 4;
    let transport = quoted.get(head..head + 8).filter(|_| head >= 20)?;
    let port = if original.next_header() == IpProtocol::Udp {
        [transport[0], transport[1]]
    } else if original.next_header() == IpProtocol::Icmp {
        [transport[4], transport[5]]
    } else {
        return None;
    };
    let what = (icmp.msg_type().into(), icmp.msg_code());
    let mtu = if what == TOO_LONG { u16::from_be_bytes([ip.payload()[6], ip.payload()[7]]) } else { 0 };
    let heard = Heard::Error { from: ip.src_addr(), what, to: original.dst_addr(), mtu };
    Some((u16::from_be_bytes(port), vec![heard]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way =
        Way { from: (Ipv4Addr::new(10, 0, 0, 1), 4000), to: (Ipv4Addr::new(10, 0, 0, 2), 7), hop_limit: 64 };

    #[test]
    fn a_datagram_reads_back_and_a_flipped_bit_makes_it_nothing() {
        let packet = udp(WAY, b"hello", false);
        let heard = Heard::Datagram { from: WAY.from, payload: b"hello".to_vec() };
        assert_eq!(parse(&packet.bytes, None), Some((7, vec![heard])));
        for bit in 20 * 8..packet.bytes.len() * 8 {
            let mut wrong = packet.bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            // Without a checksum field it says that it has none, which takes all bits at once.
            assert_eq!(parse(&wrong, None), None, "bit {bit}");
        }
    }

    #[test]
    fn joined_datagrams_come_apart() {
        let packet = udp(WAY, b"aaabbbc", false);
        let (_, heard) = parse(&packet.bytes, Some(3)).unwrap();
        let payloads: Vec<_> = heard
            .into_iter()
            .map(|heard| match heard {
                Heard::Datagram { payload, .. } => payload,
                Heard::Error { .. } => panic!("no error"),
            })
            .collect();
        assert_eq!(payloads, [&b"aaa"[..], b"bbb", b"c"]);
    }

    #[test]
    fn a_left_checksum_is_finished_to_the_same() {
        let whole = udp(WAY, b"hello", false).bytes;
        let left = udp(WAY, b"hello", true);
        assert_ne!(left.bytes, whole);
        let frame = |bytes: &[u8]| [&[2; 12][..], &[8, 0], bytes].concat();
        let taken = vnet::take(&left.header, &frame(&left.bytes)).unwrap();
        assert_eq!((taken.frame, taken.is_wrong), (frame(&whole), false));
    }

    #[test]
    fn an_error_finds_the_port_that_sent_what_it_quotes() {
        for (quoted, port) in [(udp(WAY, b"hello", false), 4000), (ping(WAY, 1, b"hello"), 4000)] {
            let header = Ipv4Repr {
                src_addr: WAY.from.0,
                dst_addr: WAY.to.0,
                next_header: IpProtocol::Udp,
                payload_len: 0,
                hop_limit: 1,
            };
            let repr = Icmpv4Repr::DstUnreachable {
                reason: smoltcp::wire::Icmpv4DstUnreachable::PortUnreachable,
                header,
                data: &[0; 8],
            };
            let back = Way { from: WAY.to, to: WAY.from, hop_limit: 64 };
            let mut bytes = ip(back, IpProtocol::Icmp, repr.buffer_len());
            let mut icmp = Icmpv4Packet::new_unchecked(&mut bytes[20..]);
            repr.emit(&mut icmp, &ChecksumCapabilities::default());
            icmp.data_mut().copy_from_slice(&quoted.bytes[..28]);
            icmp.fill_checksum();
            let heard = Heard::Error { from: WAY.to.0, what: (3, 3), to: WAY.to.0, mtu: 0 };
            assert_eq!(parse(&bytes, None), Some((port, vec![heard])));
        }
    }
}

//! ICMP and ICMPv6 errors about packets that lead nowhere.

use super::{ICMP, IPV4, IPV6, Ip, PROTO_FRAGMENT, address_v4, address_v6, be16, be32, header_len, icmp};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an ICMPv6 error at most, its IPv6 header included (RFC 4443 section 2.4).
const MIN_MTU_V6: usize = 1280;

/// What an error says (RFC 792, RFC 1191, RFC 1812 section 5.2.7.1; RFC 4443 sections 3.1 and 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Unreachable {
    /// Code 0 in both families.
    Network,
    /// Code 1; 3 in IPv6.
    Host,
    /// Code 3; 4 in IPv6.
    Port,
    /// Code 4, with the MTU of the next hop; in IPv6 a type of its own, `Packet Too Big`.
    FragmentationNeeded(u16),
    /// Code 13; 1 in IPv6: an administrator forbids it.
    Prohibited,
    /// A type of its own, `Time Exceeded`, with code 0 (RFC 792; RFC 4443 section 3.3): the packet passed as many links as it may.
    HopLimit,
}

/// An error about `packet`, as an ICMP message, or an ICMPv6 message without its checksum. It quotes the IP header and 8
/// bytes of what follows (RFC 792; RFC 1812 section 4.3.2.3 allows more, and Linux wants no more than this), and in IPv6 as
/// much as fits (RFC 4443 section 2.4).
pub(in super::super) fn unreachable(packet: &[u8], why: Unreachable) -> Vec<u8> {
    if packet.first().is_some_and(|first| first >> 4 == 6) {
        let (kind, code, mtu) = match why {
            Unreachable::Network => (1, 0, 0),
            Unreachable::Prohibited => (1, 1, 0),
            Unreachable::Host => (1, 3, 0),
            Unreachable::Port => (1, 4, 0),
            Unreachable::HopLimit => (3, 0, 0),
            // No link of IPv6 takes less (RFC 8200 section 5).
            Unreachable::FragmentationNeeded(mtu) => (2, 0, mtu.max(MIN_MTU_V6 as u16)),
        };
        return message(kind, code, mtu, &packet[..packet.len().min(MIN_MTU_V6 - IPV6 - ICMP)]);
    }
    let (kind, code, mtu) = match why {
        Unreachable::Network => (3, 0, 0),
        Unreachable::Host => (3, 1, 0),
        Unreachable::Port => (3, 3, 0),
        Unreachable::FragmentationNeeded(mtu) => (3, 4, mtu),
        Unreachable::Prohibited => (3, 13, 0),
        Unreachable::HopLimit => (11, 0, 0),
    };
    let mut message = message(kind, code, mtu, &packet[..packet.len().min(header_len(packet) + 8)]);
    icmp(&mut message);
    message
}

/// What an error that was received says about the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Verdict {
    /// It will not be taken there (RFC 1122 section 4.2.3.9 calls most of these hard errors, and RFC 5461 what comes of the
    /// others for a SYN).
    Refused,
    /// It is longer than the way takes, which is this.
    TooLong(u16),
    /// Nothing that a sender acts upon.
    Passing,
}

/// The packet that an error quotes, as far as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Quoted {
    pub(in super::super) source: (IpAddr, u16),
    pub(in super::super) destination: (IpAddr, u16),
    pub(in super::super) protocol: u8,
    /// Bytes of the whole packet, as its header says.
    pub(in super::super) len: u32,
    /// The sequence number, of TCP.
    pub(in super::super) sequence: u32,
}

/// What an ICMP or ICMPv6 error says (RFC 792, RFC 1191, RFC 1812 section 5.2.7; RFC 4443 section 3), about a packet of TCP or
/// UDP. `None` if it is no error, or does not say about which packet.
pub(in super::super) fn read(ip: &Ip<'_>) -> Option<(Verdict, Quoted)> {
    let message = ip.payload;
    let quoted = message.get(ICMP..)?;
    let verdict = match (ip.source, message[0], message[1]) {
        (IpAddr::V4(_), 3, 4) => Verdict::TooLong(be16(message, 6)),
        (IpAddr::V4(_), 3, _) | (IpAddr::V6(_), 1, _) => Verdict::Refused,
        (IpAddr::V6(_), 2, _) => Verdict::TooLong(u16::try_from(be32(message, 4)).unwrap_or(u16::MAX)),
        (IpAddr::V4(_), 4 | 11 | 12, _) | (IpAddr::V6(_), 3 | 4, _) => Verdict::Passing,
        _ => return None,
    };
    let (source, destination, protocol, len, head): (IpAddr, IpAddr, _, _, _) = match (ip.source, quoted.first()? >> 4)
    {
        (IpAddr::V4(_), 4) if quoted.len() >= IPV4 => {
            let first = be16(quoted, 6) & 0x1fff == 0;
            let head = header_len(quoted);
            if !first || head < IPV4 {
                return None;
            }
            (address_v4(quoted, 12).into(), address_v4(quoted, 16).into(), quoted[9], be16(quoted, 2).into(), head)
        }
        (IpAddr::V6(_), 6) if quoted.len() >= IPV6 => {
            let len = u32::from(be16(quoted, 4)) + IPV6 as u32;
            let (head, protocol) = match (quoted[6], quoted.get(IPV6..IPV6 + 8)) {
                // The first fragment of a datagram; what the gateway sends has no other extensions.
                (PROTO_FRAGMENT, Some(fragment)) if be16(fragment, 2) & !7 == 0 => (IPV6 + 8, fragment[0]),
                (PROTO_FRAGMENT, _) => return None,
                (protocol, _) => (IPV6, protocol),
            };
            (address_v6(quoted, 8).into(), address_v6(quoted, 24).into(), protocol, len, head)
        }
        _ => return None,
    };
    let payload = quoted.get(head..head + 8)?;
    let (from, to, sequence) = (be16(payload, 0), be16(payload, 2), be32(payload, 4));
    let (source, destination) = ((source, from), (destination, to));
    Some((verdict, Quoted { source, destination, protocol, len, sequence }))
}

/// To whom the packet went that an ICMPv6 error quotes; `None` if that is not all there.
pub(in super::super) fn quoted_destination(message: &[u8]) -> Option<Ipv6Addr> {
    let quoted = message.get(ICMP..).filter(|quoted| quoted.len() >= IPV6 && quoted[0] >> 4 == 6)?;
    Some(address_v6(quoted, 24))
}

/// The same of an ICMP error (RFC 792).
pub(in super::super) fn quoted_destination_v4(message: &[u8]) -> Option<Ipv4Addr> {
    let quoted = message.get(ICMP..).filter(|quoted| quoted.len() >= IPV4 && quoted[0] >> 4 == 4)?;
    Some(address_v4(quoted, 16))
}

/// The MTU's 16 bits lie at the same place in both families (in IPv6 they are the lower half of 32).
fn message(kind: u8, code: u8, mtu: u16, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![0; ICMP + quoted.len()];
    message[0] = kind;
    message[1] = code;
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    message[ICMP..].copy_from_slice(quoted);
    message
}

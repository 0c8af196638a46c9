//! IPv6 packets with what may lie between their header and their payload (RFC 8200 section 4).
//!
//! Owns: nothing. Driven by: the machine.
//! Bounds: [`MAX_EXTENSIONS`] extension headers.

use super::{IPV6, Ip, address_v6, be16, be32};
use core::net::Ipv6Addr;

/// Extension headers of one packet that are walked over: the options and a fragment header are three.
const MAX_EXTENSIONS: usize = 4;

const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = super::PROTO_FRAGMENT;
const DESTINATION_OPTIONS: u8 = 60;

/// What lies behind the header and its extensions.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Chain<'p> {
    /// The whole packet, without what an Ethernet frame may carry behind it.
    pub(in super::super) packet: &'p [u8],
    pub(in super::super) source: Ipv6Addr,
    pub(in super::super) destination: Ipv6Addr,
    pub(in super::super) hop_limit: u8,
    /// What `payload` is. Of other extensions than options and a fragment header, such as routing headers, the first one.
    pub(in super::super) protocol: u8,
    pub(in super::super) payload: &'p [u8],
    pub(in super::super) fragment: Option<Fragment>,
    /// There were extensions.
    pub(in super::super) extended: bool,
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Fragment {
    /// Bytes before this piece.
    pub(in super::super) offset: u16,
    pub(in super::super) more: bool,
    pub(in super::super) identification: u32,
}

/// Walks to the payload. `None` if version or lengths make no sense, or there are too many extensions, or they are in an
/// order that no host sends. Options are not looked at: those that must be understood are for routers and mobile hosts.
pub(in super::super) fn chain(bytes: &[u8]) -> Option<Chain<'_>> {
    if bytes.len() < IPV6 || bytes[0] >> 4 != 6 {
        return None;
    }
    let packet = bytes.get(..IPV6 + usize::from(be16(bytes, 4)))?;
    let mut found = Chain {
        packet,
        source: address_v6(packet, 8),
        destination: address_v6(packet, 24),
        hop_limit: packet[7],
        protocol: packet[6],
        payload: &packet[IPV6..],
        fragment: None,
        extended: false,
    };
    for n in 0..=MAX_EXTENSIONS {
        let payload = found.payload;
        match found.protocol {
            // Nowhere but first.
            HOP_BY_HOP if n > 0 => return None,
            HOP_BY_HOP | DESTINATION_OPTIONS => {
                let head = payload.first_chunk::<2>()?;
                found.payload = payload.get((usize::from(head[1]) + 1) * 8..)?;
                found.protocol = head[0];
            }
            FRAGMENT if found.fragment.is_some() => return None,
            FRAGMENT => {
                let head = payload.first_chunk::<8>()?;
                let offset = be16(head, 2);
                found.fragment =
                    Some(Fragment { offset: offset & !7, more: offset & 1 == 1, identification: be32(head, 4) });
                found.payload = &payload[8..];
                found.protocol = head[0];
                found.extended = true;
                // What follows in the first piece is known once all are there.
                return Some(found);
            }
            _ => return Some(found),
        }
        found.extended = true;
    }
    None
}

impl<'p> Chain<'p> {
    /// The packet, if it is whole and has no extensions.
    pub(in super::super) fn plain(&self) -> Option<Ip<'p>> {
        (!self.extended).then(|| Ip {
            packet: self.packet,
            source: self.source.into(),
            destination: self.destination.into(),
            protocol: self.protocol,
            payload: self.payload,
            fragment: false,
            // Nobody on the way may (RFC 8200 section 5).
            dont_fragment: true,
        })
    }

    /// The same packet without its extensions.
    pub(in super::super) fn without_extensions(&self) -> Vec<u8> {
        let mut packet = self.packet[..IPV6].to_vec();
        packet[4..6].copy_from_slice(&(self.payload.len() as u16).to_be_bytes());
        packet[6] = self.protocol;
        packet.extend(self.payload);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// A packet with these extensions (kind and bytes behind the first) and a payload of UDP.
    fn packet(extensions: &[(u8, Vec<u8>)], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
        bytes.extend([0x20; 16]);
        bytes.extend([0x21; 16]);
        let mut last = 6;
        for (kind, rest) in extensions {
            let before = std::mem::replace(&mut bytes[last], *kind);
            last = bytes.len();
            bytes.push(before);
            bytes.extend(rest);
        }
        bytes.extend(payload);
        let len = (bytes.len() - IPV6) as u16;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    fn options(units: u8) -> Vec<u8> {
        let mut rest = vec![units];
        rest.resize(usize::from(units) * 8 + 7, 0);
        rest
    }

    #[test]
    fn options_are_walked_over_and_taken_out() {
        let plain = packet(&[], b"payload!");
        assert!(chain(&plain).unwrap().plain().is_some());
        for extensions in [
            vec![(HOP_BY_HOP, options(0))],
            vec![(HOP_BY_HOP, options(1)), (DESTINATION_OPTIONS, options(2))],
            vec![(DESTINATION_OPTIONS, options(0)); MAX_EXTENSIONS],
        ] {
            let bytes = packet(&extensions, b"payload!");
            let found = chain(&bytes).unwrap();
            assert_eq!((found.protocol, found.payload, found.fragment), (17, &b"payload!"[..], None));
            assert!(found.plain().is_none());
            assert_eq!(found.without_extensions(), plain);
        }
    }

    #[test]
    fn too_many_and_misplaced_ones_are_refused_and_others_are_named() {
        let bytes = packet(&vec![(DESTINATION_OPTIONS, options(0)); MAX_EXTENSIONS + 1], b"");
        assert!(chain(&bytes).is_none());
        let bytes = packet(&[(DESTINATION_OPTIONS, options(0)), (HOP_BY_HOP, options(0))], b"");
        assert!(chain(&bytes).is_none());
        assert!(chain(&packet(&[(HOP_BY_HOP, vec![9, 0, 0, 0, 0, 0, 0])], b"")).is_none(), "longer than the packet");
        assert_eq!(chain(&packet(&[(43, options(0))], b"")).unwrap().protocol, 43, "a routing header");
    }

    #[test]
    fn a_fragment_header_is_read() {
        let bytes = packet(&[(HOP_BY_HOP, options(0)), (FRAGMENT, vec![0, 0x05, 0xa9, 0, 1, 2, 3])], b"piece");
        let found = chain(&bytes).unwrap();
        assert_eq!(found.fragment, Some(Fragment { offset: 0x5a8, more: true, identification: 0x0001_0203 }));
        assert_eq!((found.protocol, found.payload), (17, &b"piece"[..]));
    }

    quickcheck! {
        fn noise_is_refused_or_lies_within_the_packet(noise: Vec<u8>) -> bool {
            let mut bytes = packet(&[], &noise);
            bytes[6] = noise.first().copied().unwrap_or(0) % 64;
            chain(&bytes).is_none_or(|found| found.payload.len() <= noise.len())
        }
    }
}

//! Packets of the gateway's own: ARP, UDP, ICMP, in fragments if need be.

use super::{BROADCAST, Lan, Place};
use crate::gateway::{
    counters::Counters,
    fragments,
    queue::LAST,
    wire::{self, ETHERNET, UDP, Unreachable},
};
use core::net::{IpAddr, Ipv4Addr};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpProtocol};

impl Lan {
    /// Asks all links for a guest.
    pub(super) fn ask(&mut self, counters: &mut Counters, address: IpAddr) {
        let address = match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => return self.solicit(counters, address),
        };
        self.send_arp(counters, None, ArpOperation::Request, self.network.gateway(), [0; 6], address);
    }

    pub(in super::super) fn send_arp(
        &mut self,
        counters: &mut Counters,
        to: Option<Place>,
        operation: ArpOperation,
        source: Ipv4Addr,
        target_mac: [u8; 6],
        target: Ipv4Addr,
    ) {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        };
        let ports = match to {
            Some((port, _)) => vec![port],
            None => self.ports.iter().map(|(id, _)| id).collect(),
        };
        let destination = to.map_or(BROADCAST, |(_, mac)| mac);
        for port in ports {
            match self.ports.slot(port, ETHERNET + repr.buffer_len()) {
                Some(slot) => {
                    wire::ethernet(slot, destination, self.mac, wire::ETHERTYPE_ARP);
                    repr.emit(&mut ArpPacket::new_unchecked(&mut slot[ETHERNET..]));
                }
                None => counters.link_full += 1,
            }
        }
    }

    /// Whether a link has room for so many bytes of the world, and behind them for what the gateway itself has to say.
    pub(in super::super) fn has_room(&self, (port, _): Place, len: usize) -> bool {
        self.ports.get(port).is_none_or(|port| port.queue.room() >= LAST + len)
    }

    pub(in super::super) fn send_udp(
        &mut self,
        counters: &mut Counters,
        (port, mac): Place,
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        payload: &[u8],
    ) {
        let head = wire::head(destination.0);
        let len = head + UDP + payload.len();
        if len > self.mtu.into() {
            if UDP + payload.len() > usize::from(u16::MAX) {
                counters.malformed += 1;
                return;
            }
            let mut datagram = vec![0; UDP + payload.len()];
            datagram[UDP..].copy_from_slice(payload);
            wire::udp(&mut datagram, source, destination);
            return self.send_ip(counters, (port, mac), source.0, destination.0, wire::PROTO_UDP, &datagram);
        }
        let Some(slot) = self.ports.slot(port, ETHERNET + len) else {
            counters.link_full += 1;
            return;
        };
        wire::ethernet(slot, mac, self.mac, wire::ethertype(destination.0));
        let packet = &mut slot[ETHERNET..];
        packet[head + UDP..].copy_from_slice(payload);
        wire::udp(&mut packet[head..], source, destination);
        wire::ip(packet, source.0, destination.0, wire::PROTO_UDP);
    }

    /// Sends a payload of one protocol, in fragments if need be.
    pub(in super::super) fn send_ip(
        &mut self,
        counters: &mut Counters,
        (port, mac): Place,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        payload: &[u8],
    ) {
        let head = wire::head(destination);
        let ethertype = wire::ethertype(destination);
        if head + payload.len() <= self.mtu.into() {
            let Some(slot) = self.ports.slot(port, ETHERNET + head + payload.len()) else {
                counters.link_full += 1;
                return;
            };
            wire::ethernet(slot, mac, self.mac, ethertype);
            let packet = &mut slot[ETHERNET..];
            packet[head..].copy_from_slice(payload);
            wire::ip(packet, source, destination, protocol);
            return;
        }
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (source, destination) else {
            return self.send_fragments_v6(counters, (port, mac), source, destination, protocol, payload);
        };
        self.identification = self.identification.wrapping_add(1);
        let header =
            fragments::Header { src, dst, protocol: IpProtocol::from(protocol), ttl: 64, ident: self.identification };
        let Ok(fragments) = fragments::fragment(header, payload, self.mtu) else {
            counters.malformed += 1;
            return;
        };
        for fragment in fragments {
            let Some(slot) = self.ports.slot(port, ETHERNET + head + fragment.payload.len()) else {
                counters.link_full += 1;
                return;
            };
            wire::ethernet(slot, mac, self.mac, ethertype);
            slot[ETHERNET..ETHERNET + head].copy_from_slice(&fragment.header);
            slot[ETHERNET + head..].copy_from_slice(fragment.payload);
        }
    }

    /// The same in fragments of IPv6 (RFC 8200 section 4.5).
    fn send_fragments_v6(
        &mut self,
        counters: &mut Counters,
        (port, mac): Place,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        payload: &[u8],
    ) {
        self.identification6 = self.identification6.wrapping_add(1);
        let identification = self.identification6;
        let room = (usize::from(self.mtu) - wire::IPV6 - wire::FRAGMENT) & !7;
        let count = payload.len().div_ceil(room);
        for (n, piece) in payload.chunks(room).enumerate() {
            let Some(slot) = self.ports.slot(port, ETHERNET + wire::IPV6 + wire::FRAGMENT + piece.len()) else {
                counters.link_full += 1;
                return;
            };
            wire::ethernet(slot, mac, self.mac, wire::ETHERTYPE_IPV6);
            let packet = &mut slot[ETHERNET..];
            wire::ip(packet, source, destination, wire::PROTO_FRAGMENT);
            // A payload has 65535 bytes at most, and so has every offset in it.
            let offset = (n * room) as u16 | u16::from(n + 1 < count);
            packet[wire::IPV6..wire::IPV6 + 2].copy_from_slice(&[protocol, 0]);
            packet[wire::IPV6 + 2..wire::IPV6 + 4].copy_from_slice(&offset.to_be_bytes());
            packet[wire::IPV6 + 4..wire::IPV6 + wire::FRAGMENT].copy_from_slice(&identification.to_be_bytes());
            packet[wire::IPV6 + wire::FRAGMENT..].copy_from_slice(piece);
        }
    }

    pub(in super::super) fn send_error(
        &mut self,
        counters: &mut Counters,
        to: Place,
        source: IpAddr,
        destination: IpAddr,
        about: &[u8],
        why: Unreachable,
    ) {
        counters.icmp_errors_out += 1;
        let mut message = wire::unreachable(about, why);
        let protocol = wire::finish_error(&mut message, source, destination);
        self.send_ip(counters, to, source, destination, protocol, &message);
    }
}

//! ARP for IPv4 (RFC 826).

use core::net::Ipv4Addr;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

/// What an ARP packet for IPv4 says.
pub(in super::super) struct Arp {
    pub(in super::super) operation: ArpOperation,
    pub(in super::super) sender: ([u8; 6], Ipv4Addr),
    pub(in super::super) target: Ipv4Addr,
}

pub(in super::super) fn parse_arp(payload: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: address,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    Some(Arp { operation, sender: (mac, address), target })
}

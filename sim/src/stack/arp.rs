//! ARP (RFC 826): who has which address, and frames that wait to know.

use super::vnet::Packet;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// A hardware address.
pub type Mac = EthernetAddress;

/// Neighbours of one host. Bounds: [`Neighbours::MAX_WAITING`] packets wait for answers; the oldest goes.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: BTreeMap<Ipv4Addr, Mac>,
    waiting: Vec<(Ipv4Addr, Packet)>,
    dropped: u64,
}

impl Neighbours {
    /// Linux and gVisor both keep a few hundred packets per host.
    const MAX_WAITING: usize = 256;

    pub(super) fn find(&self, ip: Ipv4Addr) -> Option<Mac> {
        self.known.get(&ip).copied()
    }

    /// Keeps `packet` until `ip` is known; true if somebody must ask.
    pub(super) fn wait(&mut self, ip: Ipv4Addr, packet: Packet) -> bool {
        let first = !self.waiting.iter().any(|(waiting, _)| *waiting == ip);
        if self.waiting.len() == Self::MAX_WAITING {
            self.waiting.remove(0);
            self.dropped += 1;
        }
        self.waiting.push((ip, packet));
        first
    }

    /// Learns, and gives back what waited for it.
    pub(super) fn learn(&mut self, ip: Ipv4Addr, mac: Mac) -> Vec<Packet> {
        self.known.insert(ip, mac);
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(waiting, _)| *waiting == ip);
        self.waiting = waiting;
        let ready: Vec<(Ipv4Addr, Packet)> = ready;
        ready.into_iter().map(|(_, packet)| packet).collect()
    }

    /// Whom to ask again: one request a second, as both kernels do.
    pub(super) fn unanswered(&self) -> Vec<Ipv4Addr> {
        let mut addresses: Vec<_> = self.waiting.iter().map(|(ip, _)| *ip).collect();
        addresses.dedup();
        addresses
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// An ARP frame of 42 bytes.
pub(super) fn frame(operation: ArpOperation, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let target = if operation == ArpOperation::Request { EthernetAddress::BROADCAST } else { to.0 };
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: from.0,
        source_protocol_addr: from.1,
        target_hardware_addr: if operation == ArpOperation::Request { Mac::default() } else { to.0 },
        target_protocol_addr: to.1,
    };
    let mut frame = ethernet(from.0, target, EthernetProtocol::Arp, repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

/// An Ethernet header and room for `len` bytes.
pub(super) fn ethernet(src: Mac, dst: Mac, ethertype: EthernetProtocol, len: usize) -> Vec<u8> {
    let mut frame = vec![0; 14 + len];
    EthernetRepr { src_addr: src, dst_addr: dst, ethertype }.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

/// What an ARP packet says, if it is one.
pub(super) fn parse(payload: &[u8]) -> Option<(ArpOperation, Mac, Ipv4Addr, Ipv4Addr)> {
    let repr = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        repr
    else {
        return None;
    };
    Some((operation, source_hardware_addr, source_protocol_addr, target_protocol_addr))
}

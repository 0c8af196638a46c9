//! What the gateway sends towards an enclave, looked at by somebody who has no part in it.
//!
//! Lengths and checksums are verified with smoltcp's parsers, not with the gateway's own code.

use crate::gvproxy::GATEWAY_MAC;
use smoltcp::wire::{
    ArpPacket, EthernetFrame, EthernetProtocol, Icmpv4Packet, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};

/// Whether `frame` is one that an enclave with this MTU can use; `Err` says what is wrong with it.
pub(super) fn check(frame: &[u8], mtu: u16) -> Result<(), String> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| format!("a runt of {} bytes", frame.len()))?;
    if ethernet.src_addr() != GATEWAY_MAC {
        // Passed on from another enclave, as it is.
        return Ok(());
    }
    let most = usize::from(mtu) + 14;
    if frame.len() > most {
        return Err(format!("a frame of {} bytes, where {most} are the most", frame.len()));
    }
    match ethernet.ethertype() {
        EthernetProtocol::Arp => {
            ArpPacket::new_checked(ethernet.payload()).map(drop).map_err(|_| "a short ARP packet".to_owned())
        }
        EthernetProtocol::Ipv4 => check_ipv4(ethernet.payload()),
        other @ (EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_)) => Err(format!("a frame of type {other}")),
    }
}

fn check_ipv4(payload: &[u8]) -> Result<(), String> {
    let ip = Ipv4Packet::new_checked(payload).map_err(|_| "a malformed IPv4 packet".to_owned())?;
    if usize::from(ip.total_len()) != payload.len() {
        return Err(format!("an IPv4 packet of {} bytes in a frame with {}", ip.total_len(), payload.len()));
    }
    if !ip.verify_checksum() {
        return Err("a wrong IPv4 checksum".to_owned());
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Ok(());
    }
    let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
    let protocol = ip.next_header();
    let (known, right) = if protocol == IpProtocol::Tcp {
        let tcp = TcpPacket::new_checked(ip.payload());
        (tcp.is_ok(), tcp.is_ok_and(|tcp| tcp.verify_checksum(&from, &to)))
    } else if protocol == IpProtocol::Udp {
        let udp = UdpPacket::new_checked(ip.payload());
        (udp.is_ok(), udp.is_ok_and(|udp| udp.verify_checksum(&from, &to)))
    } else if protocol == IpProtocol::Icmp {
        let icmp = Icmpv4Packet::new_checked(ip.payload());
        (icmp.is_ok(), icmp.is_ok_and(|icmp| icmp.verify_checksum()))
    } else {
        (false, false)
    };
    match (known, right) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("a wrong {protocol} checksum")),
        (false, _) => Err(format!("a malformed {protocol} packet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP segment of the gateway's with `payload`, checksums and all.
    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 20];
        frame.extend_from_slice(payload);
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_src_addr(GATEWAY_MAC);
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(40 + payload.len() as u16);
        ip.set_hop_limit(64);
        ip.set_next_header(IpProtocol::Tcp);
        ip.set_src_addr([192, 168, 127, 1].into());
        ip.set_dst_addr([192, 168, 127, 2].into());
        let (from, to) = (ip.src_addr().into(), ip.dst_addr().into());
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_header_len(20);
        tcp.set_src_port(80);
        tcp.set_dst_port(1234);
        tcp.fill_checksum(&from, &to);
        ip.fill_checksum();
        frame
    }

    #[test]
    fn a_right_frame_passes_and_every_changed_byte_behind_the_addresses_is_noticed() {
        let right = frame(b"payload");
        assert_eq!(check(&right, 1500), Ok(()));
        for at in 12..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 0x10;
            assert!(check(&wrong, 1500).is_err(), "byte {at}");
        }
        assert_eq!(check(&frame(&[7; 536]), 576), Ok(()));
        assert!(check(&frame(&[7; 537]), 576).is_err());
        let mut of_another = right;
        of_another[6] = 2;
        of_another[20] ^= 1;
        assert_eq!(check(&of_another, 1500), Ok(()));
    }
}

//! Ethernet frames by hand: the ARP and UDP that a gateway exchanges with an enclave.

use crate::guest::ping::checksum;
use std::net::Ipv4Addr;

pub const GATEWAY_MAC: [u8; 6] = [0x5A, 0x94, 0xEF, 0xE4, 0x0C, 0xDD];
pub const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
pub const ENCLAVE_MAC: [u8; 6] = [0xBA, 0xAA, 0xAD, 0xC0, 0xFF, 0xEE];
pub const ENCLAVE_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

/// The Ethernet header.
pub const HEADER: usize = 14;
/// Ethernet, IPv4 and UDP headers in front of a datagram.
pub const UDP_HEADERS: usize = HEADER + 20 + 8;

const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const ETHERTYPE_ARP: [u8; 2] = [8, 6];

/// The gateway's answer to an ARP request for its address; `None` for any other frame.
pub fn arp_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let arp = frame.get(12..14).filter(|kind| **kind == ETHERTYPE_ARP).and_then(|_| frame.get(HEADER..HEADER + 28))?;
    // Ethernet and IPv4, operation 1 is the request.
    let asks = arp[..8] == [0, 1, 8, 0, 6, 4, 0, 1] && arp[24..28] == GATEWAY_IP.octets();
    let (asker_mac, asker_ip) = (&arp[8..14], &arp[14..18]);
    asks.then(|| {
        let head = [asker_mac, &GATEWAY_MAC, &ETHERTYPE_ARP, &[0, 1, 8, 0, 6, 4, 0, 2]].concat();
        [&head[..], &GATEWAY_MAC, &GATEWAY_IP.octets(), asker_mac, asker_ip].concat()
    })
}

/// Whether a frame is ARP.
pub fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHERTYPE_ARP)
}

/// A datagram from port `from` of the gateway to port `to` of the enclave. Its frame is padded by nothing.
pub fn udp_to_enclave(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(headers + payload.len()).expect("fits one datagram").to_be_bytes();
    let addresses = [GATEWAY_IP.octets(), ENCLAVE_IP.octets()].concat();

    let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0x40, 0, 64, 17, 0, 0], &addresses].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut udp = [&from.to_be_bytes()[..], &to.to_be_bytes(), &length(8), &[0, 0], payload].concat();
    let sum = checksum(&[&addresses[..], &[0, 17], &length(8), &udp].concat());
    // A sum of zero would mean that there is none (RFC 768).
    udp[6..8].copy_from_slice(&if sum == 0 { 0xFFFF } else { sum }.to_be_bytes());

    [&ENCLAVE_MAC[..], &GATEWAY_MAC, &ETHERTYPE_IPV4, &ip, &udp].concat()
}

/// The payload of a datagram that came to port `port` of the gateway; `None` for any other frame.
pub fn udp_payload(frame: &[u8], port: u16) -> Option<&[u8]> {
    let ip = frame.get(HEADER..).filter(|_| frame[12..14] == ETHERTYPE_IPV4)?;
    let header = usize::from(ip.first()? & 0xF) * 4;
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let udp = ip.get(header..total).filter(|_| ip[9] == 17)?;
    (udp.get(2..4)? == port.to_be_bytes()).then(|| &udp[8..])
}

/// A frame as it goes on the stream: its length in two bytes, little-endian, and itself.
pub fn on_stream(frame: &[u8]) -> Vec<u8> {
    let length = u16::try_from(frame.len()).expect("a frame is at most 65,535 bytes");
    [&length.to_le_bytes()[..], frame].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_to_the_enclave_has_sums_that_verify_and_gives_its_payload_back() {
        let mut frame = udp_to_enclave(7, 9, b"abc");
        assert_eq!(frame.len(), UDP_HEADERS + 3);
        assert_eq!(checksum(&frame[HEADER..HEADER + 20]), 0);
        let pseudo = [&frame[26..34], &[0, 17, 0, 11], &frame[34..]].concat();
        assert_eq!(checksum(&pseudo), 0);
        assert_eq!(udp_payload(&frame, 9), Some(&b"abc"[..]));
        assert_eq!(udp_payload(&frame, 8), None);
        frame.truncate(40);
        assert_eq!(udp_payload(&frame, 9), None);
    }

    #[test]
    fn only_a_request_for_the_gateway_is_answered() {
        let head = [&[0xFF; 6][..], &ENCLAVE_MAC, &ETHERTYPE_ARP, &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
        let request = |ip: Ipv4Addr| [&head[..], &ENCLAVE_MAC, &ENCLAVE_IP.octets(), &[0; 6], &ip.octets()].concat();
        let reply = arp_reply(&request(GATEWAY_IP)).unwrap();
        assert_eq!(reply.len(), 42);
        assert_eq!(reply[..12], [ENCLAVE_MAC, GATEWAY_MAC].concat());
        assert_eq!(reply[38..42], ENCLAVE_IP.octets());
        assert_eq!(arp_reply(&request(ENCLAVE_IP)), None);
        assert_eq!(arp_reply(&reply), None);
    }
}

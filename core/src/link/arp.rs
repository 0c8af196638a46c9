//! The probe: an ARP request for the gateway, and the recognition of its answer (RFC 826).

use core::{fmt, net::Ipv4Addr, str::FromStr};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr};

/// Bytes of an ARP frame: Ethernet header and packet, unpadded as gvproxy sends it too.
pub const ARP_FRAME: usize = 14 + 28;

/// An Ethernet hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddr(pub [u8; 6]);

/// A broadcast request "who has `gateway`? tell `address`".
pub(super) fn request(mac: MacAddr, address: Ipv4Addr, gateway: Ipv4Addr) -> [u8; ARP_FRAME] {
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(mac.0),
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: address,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: gateway,
    };
    let mut bytes = [0; ARP_FRAME];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// The hardware address of `gateway`, if `frame` is its answer to `mac`.
pub(super) fn answerer(frame: &[u8], mac: MacAddr, gateway: Ipv4Addr) -> Option<MacAddr> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    match ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?) {
        Ok(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(source),
            source_protocol_addr,
            target_hardware_addr: EthernetAddress(target),
            ..
        }) if source_protocol_addr == gateway && target == mac.0 => Some(MacAddr(source)),
        _ => None,
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    /// Reads six colon-separated pairs of hexadecimal digits that name one station.
    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or(MacAddrError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacAddrError::Form);
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacAddrError::Group);
        }
        Ok(Self(bytes))
    }
}

/// Why a text is no address of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacAddrError {
    /// Not six pairs of hexadecimal digits.
    Form,
    /// A multicast, broadcast or all-zero address.
    Group,
}

impl fmt::Display for MacAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected six pairs of hexadecimal digits such as ba:aa:ad:c0:ff:ee",
            Self::Group => "a multicast or all-zero address cannot be an interface's own",
        })
    }
}

impl core::error::Error for MacAddrError {}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee]);
    const US: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

    #[test]
    fn the_request_has_the_bytes_of_rfc_826() {
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee, 0x08, 0x06, // Ethernet
            0, 1, 0x08, 0, 6, 4, 0, 1, // Ethernet, IPv4, request
            0xba, 0xaa, 0xad, 0xc0, 0xff, 0xee, 192, 168, 127, 2, 0, 0, 0, 0, 0, 0, 192, 168, 127, 1,
        ];
        assert_eq!(request(MAC, US, GATEWAY), expected);
    }

    #[test]
    fn only_the_gateways_answer_to_us_counts() {
        let mut reply = request(MAC, US, GATEWAY);
        assert_eq!(answerer(&reply, MAC, GATEWAY), None, "our own request");
        reply[21] = 2;
        reply[28..32].copy_from_slice(&GATEWAY.octets());
        reply[32..38].copy_from_slice(&MAC.0);
        assert_eq!(answerer(&reply, MAC, GATEWAY), Some(MAC));
        assert_eq!(answerer(&reply, MAC, US), None, "somebody else's answer");
        assert_eq!(answerer(&reply, MacAddr([2; 6]), GATEWAY), None, "an answer to somebody else");
        for cut in 0..ARP_FRAME {
            assert_eq!(answerer(&reply[..cut], MAC, GATEWAY), None, "cut at {cut}");
        }
    }

    #[test]
    fn addresses_read_back_as_written_and_group_addresses_are_refused() {
        assert_eq!(MAC.to_string().parse(), Ok(MAC));
        for bad in
            ["", "ba:aa:ad:c0:ff", "ba:aa:ad:c0:ff:ee:00", "ba-aa-ad-c0-ff-ee", "+a:aa:ad:c0:ff:ee", "g0:0:0:0:0:0"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError::Form), "{bad}");
        }
        for bad in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError::Group), "{bad}");
        }
    }
}

//! Ethernet frames as a station on the virtual network makes and understands them.

use super::segment::Segment;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
        Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
    },
};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Who we are on the virtual network, and whom we take for the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    pub mac: EthernetAddress,
    pub ip: Ipv4Addr,
    pub gateway: EthernetAddress,
}

/// The gateway's hardware address.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x5A, 0x94, 0xEF, 0xE4, 0x0C, 0xDD]);

/// The Ethernet header, in bytes.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// One hop limit for all: that of Linux.
const HOP_LIMIT: u8 = 64;

impl Station {
    /// The station with address 192.168.127.`host`, with the MAC of a nitriding enclave where that is 2.
    pub const fn number(host: u8) -> Self {
        let mac = if host == 2 { [0xBA, 0xAA, 0xAD, 0xC0, 0xFF, 0xEE] } else { [0x02, 0, 0, 0, 0, host] };
        Self { mac: EthernetAddress(mac), ip: Ipv4Addr::new(192, 168, 127, host), gateway: GATEWAY_MAC }
    }

    /// A frame with any content.
    pub fn frame(&self, to: EthernetAddress, kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + payload.len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        EthernetRepr { src_addr: self.mac, dst_addr: to, ethertype: kind }.emit(&mut frame);
        frame.payload_mut().copy_from_slice(payload);
        bytes
    }

    /// A broadcast question for the owner of an address.
    pub fn arp_request(&self, target: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::Request, EthernetAddress::BROADCAST, EthernetAddress([0; 6]), target)
    }

    /// The answer that an address is ours.
    pub fn arp_reply(&self, asker: EthernetAddress, asker_ip: Ipv4Addr) -> Vec<u8> {
        self.arp(ArpOperation::Reply, asker, asker, asker_ip)
    }

    fn arp(&self, operation: ArpOperation, to: EthernetAddress, target: EthernetAddress, ip: Ipv4Addr) -> Vec<u8> {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: self.mac,
            source_protocol_addr: self.ip,
            target_hardware_addr: target,
            target_protocol_addr: ip,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        self.frame(to, EthernetProtocol::Arp, &bytes)
    }

    /// An IPv4 packet to the gateway's MAC.
    pub fn ipv4(&self, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        self.ipv4_to(self.gateway, to, protocol, payload)
    }

    /// An IPv4 packet to any MAC.
    pub fn ipv4_to(&self, mac: EthernetAddress, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let repr = Ipv4Repr {
            src_addr: self.ip,
            dst_addr: to,
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: HOP_LIMIT,
        };
        let mut bytes = vec![0; IPV4 + payload.len()];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        repr.emit(&mut packet, &ChecksumCapabilities::default());
        packet.payload_mut().copy_from_slice(payload);
        self.frame(mac, EthernetProtocol::Ipv4, &bytes)
    }

    /// The same packet cut into fragments that fit `mtu` bytes.
    pub fn fragments(&self, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8], mtu: usize, id: u16) -> Vec<Vec<u8>> {
        let step = (mtu - IPV4) / 8 * 8;
        let pieces = payload.chunks(step).enumerate();
        let mut frames = Vec::new();
        for (i, piece) in pieces {
            let mut frame = self.ipv4(to, protocol, piece);
            let mut packet = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
            packet.set_ident(id);
            packet.set_dont_frag(false);
            packet.set_more_frags((i + 1) * step < payload.len());
            packet.set_frag_offset(u16::try_from(i * step).expect("within one datagram"));
            packet.fill_checksum();
            frames.push(frame);
        }
        frames
    }

    /// A UDP datagram.
    pub fn udp(&self, from: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        self.ipv4(*to.ip(), IpProtocol::Udp, &self.datagram(from, to, payload))
    }

    /// The UDP header and payload alone, to be cut into fragments.
    pub fn datagram(&self, from: u16, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 8 + payload.len()];
        UdpRepr { src_port: from, dst_port: to.port() }.emit(
            &mut UdpPacket::new_unchecked(&mut bytes[..]),
            &self.ip.into(),
            &(*to.ip()).into(),
            payload.len(),
            |room| room.copy_from_slice(payload),
            &ChecksumCapabilities::default(),
        );
        bytes
    }

    /// An ICMP echo request.
    pub fn echo_request(&self, to: Ipv4Addr, ident: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
        let repr = Icmpv4Repr::EchoRequest { ident, seq_no: sequence, data };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
        self.ipv4(to, IpProtocol::Icmp, &bytes)
    }

    /// A TCP segment.
    pub fn tcp(&self, to: Ipv4Addr, segment: &Segment) -> Vec<u8> {
        self.ipv4(to, IpProtocol::Tcp, &segment.emit(self.ip, to))
    }
}

/// The addresses of a frame with IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub from_mac: EthernetAddress,
    pub to_mac: EthernetAddress,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// ARP, and the MAC the frame was sent to.
    Arp(ArpRepr, EthernetAddress),
    Udp(Addresses, Datagram),
    Tcp(Addresses, Segment),
    Icmp(Addresses, Icmp),
    Fragment(Addresses, Fragment),
    /// A header that is cut short, or a checksum that is wrong: nothing that a gateway should send.
    Broken,
    Other,
}

/// A UDP datagram with its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: u16,
    pub to: u16,
    pub payload: Vec<u8>,
}

/// An ICMP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Icmp {
    EchoReply { ident: u16, sequence: u16, data: Vec<u8> },
    Other { kind: u8, code: u8 },
}

/// A fragment of an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u16,
    /// In bytes.
    pub offset: usize,
    pub more: bool,
    pub protocol: IpProtocol,
    pub payload: Vec<u8>,
}

impl Packet {
    /// The ARP message in it, and the MAC the frame was sent to.
    pub fn as_arp(&self) -> Option<(&ArpRepr, EthernetAddress)> {
        if let Self::Arp(arp, to) = self { Some((arp, *to)) } else { None }
    }

    pub fn as_udp(&self) -> Option<(&Addresses, &Datagram)> {
        if let Self::Udp(addresses, datagram) = self { Some((addresses, datagram)) } else { None }
    }

    pub fn as_tcp(&self) -> Option<(&Addresses, &Segment)> {
        if let Self::Tcp(addresses, segment) = self { Some((addresses, segment)) } else { None }
    }

    pub fn as_icmp(&self) -> Option<(&Addresses, &Icmp)> {
        if let Self::Icmp(addresses, message) = self { Some((addresses, message)) } else { None }
    }

    pub fn as_fragment(&self) -> Option<(&Addresses, &Fragment)> {
        if let Self::Fragment(addresses, fragment) = self { Some((addresses, fragment)) } else { None }
    }

    /// Takes a frame apart, and verifies every checksum in it.
    pub fn parse(frame: &[u8]) -> Self {
        Self::try_parse(frame).unwrap_or(Self::Broken)
    }

    fn try_parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let payload = ethernet.payload();
        match ethernet.ethertype() {
            EthernetProtocol::Arp => {
                let arp = ArpRepr::parse(&ArpPacket::new_checked(payload).ok()?).ok()?;
                Some(Self::Arp(arp, ethernet.dst_addr()))
            }
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(payload).ok().filter(Ipv4Packet::verify_checksum)?;
                let addresses = Addresses {
                    from_mac: ethernet.src_addr(),
                    to_mac: ethernet.dst_addr(),
                    from: packet.src_addr(),
                    to: packet.dst_addr(),
                };
                if packet.more_frags() || packet.frag_offset() > 0 {
                    return Some(Self::Fragment(addresses, Fragment::of(&packet)));
                }
                Self::transport(addresses, packet.next_header(), packet.payload())
            }
            EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => Some(Self::Other),
        }
    }

    /// Takes apart what an IPv4 packet carries.
    pub fn transport(addresses: Addresses, protocol: IpProtocol, payload: &[u8]) -> Option<Self> {
        let (from, to) = (addresses.from.into(), addresses.to.into());
        match protocol {
            IpProtocol::Udp => {
                // Not by its representation, which knows no port of zero.
                let udp = UdpPacket::new_checked(payload).ok().filter(|udp| udp.verify_checksum(&from, &to))?;
                let payload = udp.payload().to_vec();
                Some(Self::Udp(addresses, Datagram { from: udp.src_port(), to: udp.dst_port(), payload }))
            }
            IpProtocol::Tcp => Some(Self::Tcp(addresses, Segment::parse(payload, addresses.from, addresses.to)?)),
            IpProtocol::Icmp => {
                let icmp = Icmpv4Packet::new_checked(payload).ok().filter(Icmpv4Packet::verify_checksum)?;
                let message = match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()) {
                    Ok(Icmpv4Repr::EchoReply { ident, seq_no, data }) => {
                        Icmp::EchoReply { ident, sequence: seq_no, data: data.to_vec() }
                    }
                    Ok(_) | Err(_) => Icmp::Other { kind: icmp.msg_type().into(), code: icmp.msg_code() },
                };
                Some(Self::Icmp(addresses, message))
            }
            IpProtocol::HopByHop
            | IpProtocol::Igmp
            | IpProtocol::Ipv6Route
            | IpProtocol::Ipv6Frag
            | IpProtocol::IpSecEsp
            | IpProtocol::IpSecAh
            | IpProtocol::Icmpv6
            | IpProtocol::Ipv6NoNxt
            | IpProtocol::Ipv6Opts
            | IpProtocol::Unknown(_) => Some(Self::Other),
        }
    }
}

impl Fragment {
    fn of(packet: &Ipv4Packet<&[u8]>) -> Self {
        Self {
            id: packet.ident(),
            offset: packet.frag_offset().into(),
            more: packet.more_frags(),
            protocol: packet.next_header(),
            payload: packet.payload().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Station = Station::number(2);
    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

    #[test]
    fn a_datagram_reads_back_and_a_flipped_bit_is_noticed() {
        let mut frame = US.udp(7, TO, b"abc");
        let Packet::Udp(addresses, datagram) = Packet::parse(&frame) else { panic!("not UDP") };
        assert_eq!((addresses.from, addresses.to), (US.ip, *TO.ip()));
        assert_eq!(datagram, Datagram { from: 7, to: 9, payload: b"abc".to_vec() });
        *frame.last_mut().unwrap() ^= 1;
        assert_eq!(Packet::parse(&frame), Packet::Broken);
        assert_eq!(Packet::parse(&frame[..20]), Packet::Broken);
    }

    #[test]
    fn fragments_join_to_the_datagram() {
        let payload: Vec<u8> = (0..4000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let whole = US.datagram(7, TO, &payload);
        let mut joined = Vec::new();
        let frames = US.fragments(*TO.ip(), IpProtocol::Udp, &whole, 1500, 3);
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.len() <= ETHERNET + 1500);
            let Packet::Fragment(_, fragment) = Packet::parse(frame) else { panic!("not a fragment") };
            assert_eq!((fragment.offset, fragment.more), (joined.len(), i + 1 < frames.len()));
            joined.extend(fragment.payload);
        }
        assert_eq!(joined, whole);
    }

    #[test]
    fn an_arp_request_reads_back() {
        let Packet::Arp(ArpRepr::EthernetIpv4 { source_protocol_addr, target_protocol_addr, .. }, to) =
            Packet::parse(&US.arp_request(*TO.ip()))
        else {
            panic!("not ARP")
        };
        assert_eq!((source_protocol_addr, target_protocol_addr, to), (US.ip, *TO.ip(), EthernetAddress::BROADCAST));
    }
}

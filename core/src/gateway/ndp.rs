//! Messages of neighbour discovery (RFC 4861): what guests say, judged, and what the gateway says.
//!
//! Owns: nothing. Driven by: the machine. Bounds: a message is as long as its packet.

use super::{
    network6::{ALL_NODES, Network6, solicited_node},
    wire::{self, Chain},
};
use crate::offload::checksum;
use core::net::Ipv6Addr;
use smoltcp::{
    time::Duration,
    wire::{
        EthernetAddress, Icmpv6Packet, NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr,
        NdiscRouterFlags,
    },
};

/// Types of ICMPv6 messages.
pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
pub(super) const REDIRECT: u8 = 137;

/// The hop limit of every message: a router on the way would have made it less (RFC 4861 section 3.1).
pub(super) const HOP_LIMIT: u8 = 255;

/// For how long a guest without news takes the gateway for its router and name server: three of the longest intervals
/// (RFC 4861 section 6.2.1, RFC 8106 section 5.1).
const ROUTER_LIFETIME: u16 = 1800;
/// For how long an address made from the prefix is good for new connections, and for old ones, in seconds. Hours where
/// RFC 4861 has weeks: an enclave outlives its host's configuration, and an old prefix should go.
const PREFERRED: u64 = 4 * 3600;
const VALID: u64 = 24 * 3600;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Recursive DNS Server (RFC 8106 section 5.1).
const RDNSS: u8 = 25;
/// Offset of target, options of a router solicitation, and those behind a target.
const TARGET: usize = 8;
const ROUTER_OPTIONS: usize = 8;
const NEIGHBOR_OPTIONS: usize = 24;
const SOLICITED: u8 = 0x40;

/// What a guest says; of hardware addresses, it names only the one that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discovery {
    RouterSolicitation,
    /// Who has this address? From the unspecified address: may I have it?
    NeighborSolicitation(Ipv6Addr),
    /// I have this address.
    NeighborAdvertisement(Ipv6Addr),
}

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disbelief {
    /// Against the rules of RFC 4861 sections 6.1.1, 7.1.1 and 7.1.2.
    Malformed,
    /// It speaks for another station, or for a router.
    Spoofed,
}

/// Judges an ICMPv6 message of one of the five types above, which came from `mac`.
pub(super) fn parse(chain: &Chain<'_>, mac: [u8; 6]) -> Result<Discovery, Disbelief> {
    let message = chain.payload;
    let from_nobody = chain.source.is_unspecified();
    // Messages in fragments hide what they are from whoever judges them (RFC 6980).
    let (&[kind, code, ..], None, HOP_LIMIT) = (message, chain.fragment, chain.hop_limit) else {
        return Err(Disbelief::Malformed);
    };
    let sum = checksum::add(
        wire::pseudo_header(chain.source.into(), chain.destination.into(), wire::PROTO_ICMPV6, message.len()),
        message,
    );
    if code != 0 || !checksum::is_valid(sum) {
        return Err(Disbelief::Malformed);
    }
    let target = || {
        let bytes = message.get(TARGET..).and_then(<[u8]>::first_chunk::<16>).ok_or(Disbelief::Malformed)?;
        let target = Ipv6Addr::from(*bytes);
        if target.is_multicast() { Err(Disbelief::Malformed) } else { Ok(target) }
    };
    let (discovery, options) = match kind {
        ROUTER_SOLICITATION => (Discovery::RouterSolicitation, ROUTER_OPTIONS),
        NEIGHBOR_SOLICITATION => {
            let target = target()?;
            if from_nobody && chain.destination != solicited_node(target) {
                return Err(Disbelief::Malformed);
            }
            (Discovery::NeighborSolicitation(target), NEIGHBOR_OPTIONS)
        }
        NEIGHBOR_ADVERTISEMENT => {
            let target = target()?;
            if from_nobody || (chain.destination.is_multicast() && message[4] & SOLICITED != 0) {
                return Err(Disbelief::Malformed);
            }
            (Discovery::NeighborAdvertisement(target), NEIGHBOR_OPTIONS)
        }
        // There is one router.
        _ => return Err(Disbelief::Spoofed),
    };
    let mut rest = message.get(options..).ok_or(Disbelief::Malformed)?;
    while let [kind, units, ..] = *rest {
        let len = usize::from(units) * 8;
        let Some(option) = rest.get(..len).filter(|_| len > 0) else { return Err(Disbelief::Malformed) };
        if matches!(kind, SOURCE_LINK_LAYER | TARGET_LINK_LAYER) {
            if from_nobody {
                return Err(Disbelief::Malformed);
            }
            if option[2..] != mac {
                return Err(Disbelief::Spoofed);
            }
        }
        rest = &rest[len..];
    }
    if rest.is_empty() { Ok(discovery) } else { Err(Disbelief::Malformed) }
}

/// A packet of the gateway's own.
pub(super) struct Message {
    pub(super) source: Ipv6Addr,
    pub(super) destination: Ipv6Addr,
    /// The ICMPv6 message, complete.
    pub(super) bytes: Vec<u8>,
}

impl Message {
    fn new(source: Ipv6Addr, destination: Ipv6Addr, repr: &NdiscRepr<'_>, behind: &[u8]) -> Self {
        let len = repr.buffer_len();
        let mut bytes = vec![0; len];
        repr.emit(&mut Icmpv6Packet::new_unchecked(&mut bytes[..]));
        bytes.extend(behind);
        wire::icmpv6(&mut bytes, source.into(), destination.into());
        Self { source, destination, bytes }
    }

    /// Tells a guest, or all of a link, that there is a router, a prefix and a name server.
    pub(super) fn router_advertisement(network: &Network6, mac: [u8; 6], mtu: u16, to: Option<Ipv6Addr>) -> Self {
        let repr = NdiscRepr::RouterAdvert {
            hop_limit: 64,
            flags: NdiscRouterFlags::empty(),
            router_lifetime: Duration::from_secs(ROUTER_LIFETIME.into()),
            reachable_time: Duration::ZERO,
            retrans_time: Duration::ZERO,
            lladdr: Some(EthernetAddress(mac).into()),
            mtu: Some(mtu.into()),
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: 64,
                flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                valid_lifetime: Duration::from_secs(VALID),
                preferred_lifetime: Duration::from_secs(PREFERRED),
                prefix: network.subnet.network(),
            }),
        };
        let mut name_server = vec![RDNSS, 3, 0, 0, 0, 0];
        name_server.extend(ROUTER_LIFETIME.to_be_bytes());
        name_server.extend(network.gateway.octets());
        Self::new(network.link_local, to.unwrap_or(ALL_NODES), &repr, &name_server)
    }

    /// Says that the gateway has `address`; to all if nobody may have it who wants it.
    pub(super) fn neighbor_advertisement(address: Ipv6Addr, mac: [u8; 6], to: Option<Ipv6Addr>) -> Self {
        let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
        flags.set(NdiscNeighborFlags::SOLICITED, to.is_some());
        let repr = NdiscRepr::NeighborAdvert { flags, target_addr: address, lladdr: Some(EthernetAddress(mac).into()) };
        Self::new(address, to.unwrap_or(ALL_NODES), &repr, &[])
    }

    /// Asks all of a link who has `address`.
    pub(super) fn neighbor_solicitation(source: Ipv6Addr, mac: [u8; 6], address: Ipv6Addr) -> Self {
        let repr = NdiscRepr::NeighborSolicit { target_addr: address, lladdr: Some(EthernetAddress(mac).into()) };
        Self::new(source, solicited_node(address), &repr, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn network() -> Network6 {
        Network6::new("fd00::/64".parse().unwrap(), [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]).unwrap()
    }

    fn packet(message: &Message, hop_limit: u8) -> Vec<u8> {
        let mut packet = vec![0; wire::IPV6 + message.bytes.len()];
        packet[wire::IPV6..].copy_from_slice(&message.bytes);
        wire::ip(&mut packet, message.source.into(), message.destination.into(), wire::PROTO_ICMPV6);
        packet[7] = hop_limit;
        packet
    }

    fn judged(message: &Message, hop_limit: u8, mac: [u8; 6]) -> Result<Discovery, Disbelief> {
        parse(&wire::chain(&packet(message, hop_limit)).unwrap(), mac)
    }

    #[test]
    fn what_is_asked_and_said_is_read_and_nobody_speaks_for_another_station() {
        let guest = address("fd00::2");
        let asked = Message::neighbor_solicitation(guest, MAC, address("fd00::1"));
        assert_eq!(judged(&asked, 255, MAC), Ok(Discovery::NeighborSolicitation(address("fd00::1"))));
        assert_eq!(judged(&asked, 254, MAC), Err(Disbelief::Malformed), "a router has passed it on");
        assert_eq!(judged(&asked, 255, [2; 6]), Err(Disbelief::Spoofed));
        let said = Message::neighbor_advertisement(guest, MAC, Some(address("fd00::1")));
        assert_eq!(judged(&said, 255, MAC), Ok(Discovery::NeighborAdvertisement(guest)));
        assert_eq!(judged(&said, 255, [2; 6]), Err(Disbelief::Spoofed));
        let router = Message::router_advertisement(&network(), MAC, 1500, None);
        assert_eq!(judged(&router, 255, MAC), Err(Disbelief::Spoofed), "there is one router");
    }

    #[test]
    fn a_probe_goes_to_its_group_and_names_no_hardware_address() {
        let repr = NdiscRepr::NeighborSolicit { target_addr: address("fd00::9"), lladdr: None };
        let nobody = Ipv6Addr::UNSPECIFIED;
        let probe = Message::new(nobody, solicited_node(address("fd00::9")), &repr, &[]);
        assert_eq!(judged(&probe, 255, MAC), Ok(Discovery::NeighborSolicitation(address("fd00::9"))));
        for bad in [
            Message::new(nobody, ALL_NODES, &repr, &[]),
            Message::neighbor_solicitation(nobody, MAC, address("fd00::9")),
            Message::neighbor_advertisement(nobody, MAC, None),
            Message::new(nobody, solicited_node(address("fd00::9")), &repr, &[14, 0, 0, 0, 0, 0, 0, 0]),
            Message::new(nobody, solicited_node(address("fd00::9")), &repr, &[14]),
        ] {
            assert_eq!(judged(&bad, 255, MAC), Err(Disbelief::Malformed));
        }
        let mut broken = probe;
        broken.bytes[2] ^= 1;
        assert_eq!(judged(&broken, 255, MAC), Err(Disbelief::Malformed), "the checksum");
    }

    #[test]
    fn a_second_hardware_address_is_looked_at_too() {
        let mut message = Message::neighbor_solicitation(address("fd00::2"), [9; 6], address("fd00::3"));
        message.bytes.extend([1, 1, 2, 0, 0, 0, 0, 7]);
        wire::icmpv6(&mut message.bytes, message.source.into(), message.destination.into());
        assert_eq!(judged(&message, 255, MAC), Err(Disbelief::Spoofed));
    }

    #[test]
    fn a_router_advertisement_has_prefix_mtu_and_name_server() {
        let message = Message::router_advertisement(&network(), [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd], 9000, None);
        assert_eq!((message.source, message.destination), (address("fe80::5894:efff:fee4:cdd"), ALL_NODES));
        let bytes = &message.bytes;
        assert_eq!((bytes[0], bytes[4], bytes[5], &bytes[6..8]), (134, 64, 0, &1800_u16.to_be_bytes()[..]));
        let options = &bytes[16..];
        assert_eq!(options[..8], [1, 1, 0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd]);
        assert_eq!(options[8..16], [5, 1, 0, 0, 0, 0, 0x23, 0x28]);
        assert_eq!(options[16..20], [3, 4, 64, 0xc0]);
        assert_eq!(options[32..48], address("fd00::").octets());
        assert_eq!(options[48..56], [25, 3, 0, 0, 0, 0, 7, 8]);
        assert_eq!(options[56..], address("fd00::1").octets());
    }

    quickcheck! {
        fn noise_is_judged_and_nobody_else_is_a_router(kind: u8, noise: Vec<u8>) -> bool {
            let mut bytes = vec![133 + kind % 5, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(&noise);
            let (source, destination) = (address("fd00::2"), ALL_NODES);
            wire::icmpv6(&mut bytes, source.into(), destination.into());
            let routes = matches!(bytes[0], 134 | REDIRECT);
            let message = Message { source, destination, bytes };
            judged(&message, 255, MAC).is_err() || !routes
        }
    }
}

//! What of one enclave may reach others: what says who it is from, and speaks for nobody else.

use super::{Lan, Place, PortId, parse_arp, router::LISTENERS};
use crate::{
    gateway::{
        ndp::{self, Discovery},
        wire::{self, ETHERNET, Ip},
    },
    time::Instant,
};
use core::net::{IpAddr, Ipv6Addr};

/// Types of ICMPv6 messages that one enclave may send another: errors about what was sent to it, and echoes.
const ERRORS: [u8; 4] = [1, 2, 3, 4];
const ECHOES: [u8; 2] = [128, 129];
/// Ports of DHCPv6, of which there is no server here.
const DHCPV6: [u16; 2] = [546, 547];

/// Whether a frame may reach other enclaves.
pub(in super::super) enum Passing {
    Pass,
    /// A message of neighbour discovery passes: whoever has the first address asks for the second one, if for any.
    Speaks(Ipv6Addr, Option<Ipv6Addr>),
    /// It is for the gateway alone.
    Kept,
    Lie,
    /// It cannot be judged.
    Unknown,
}

impl Lan {
    /// Whether a frame for other enclaves comes from an address that may be its sender's: not the gateway's, nor that of
    /// a guest on another link.
    pub(in super::super) fn is_honest(&self, now: Instant, (port, source): Place, frame: &[u8]) -> bool {
        let payload = &frame[ETHERNET..];
        let may_have = |address: IpAddr| self.network.is_guest(address) && self.may_have(now, (port, source), address);
        let address = match [frame[12], frame[13]] {
            wire::ETHERTYPE_ARP => match parse_arp(payload) {
                Some(arp) if arp.sender.0 == source => IpAddr::V4(arp.sender.1),
                Some(_) | None => return false,
            },
            wire::ETHERTYPE_IPV4 => match Ip::parse_v4(payload) {
                // Whoever quotes well would end, or cut short, what others say to each other or to the world.
                Some(ip) if is_error(&ip) => match wire::quoted_destination_v4(ip.payload) {
                    Some(about) if may_have(about.into()) => ip.source,
                    Some(_) | None => return false,
                },
                Some(ip) if !is_dhcp(&ip) => ip.source,
                Some(_) | None => return false,
            },
            // Nothing else can be judged, and much of it can lie: ARP behind a VLAN tag, router advertisements.
            _ => return false,
        };
        // A probe, or a question for an address, has none yet.
        address.is_unspecified() || may_have(address)
    }

    /// The same of a packet of IPv6. `to` is the link that it goes to, `None` for all.
    ///
    /// Nobody but the gateway tells a guest that it cannot have an address: any enclave could, for ever, of every address
    /// (RFC 4862 section 5.4 believes whoever says so, also before the first probe). So probes are kept, and so is what
    /// nobody has lately asked for, or looks like an answer to a probe: a guest that has moved is found by a question. Of
    /// two enclaves with one address each reaches the world, and the first one others, as with IPv4.
    pub(in super::super) fn may_pass(
        &self,
        now: Instant,
        (port, mac): Place,
        to: Option<PortId>,
        bytes: &[u8],
    ) -> Passing {
        let (Some(network), Some(chain)) = (self.network.v6(), wire::chain(bytes)) else { return Passing::Unknown };
        let may_have =
            |address: Ipv6Addr| network.is_neighbour(address) && self.may_have(now, (port, mac), address.into());
        let from_nobody = chain.source.is_unspecified();
        if !from_nobody && !may_have(chain.source) {
            return Passing::Lie;
        }
        let first = chain.fragment.is_none_or(|fragment| fragment.offset == 0);
        match (chain.protocol, chain.payload) {
            (wire::PROTO_ICMPV6, [kind, ..]) if chain.fragment.is_none() => match *kind {
                ndp::NEIGHBOR_SOLICITATION | ndp::NEIGHBOR_ADVERTISEMENT => match ndp::parse(&chain, mac) {
                    Ok(Discovery::NeighborSolicitation(target)) if from_nobody || network.is_own(target) => {
                        Passing::Kept
                    }
                    Ok(Discovery::NeighborSolicitation(target)) => Passing::Speaks(chain.source, Some(target)),
                    Ok(Discovery::NeighborAdvertisement(target)) if may_have(target) => {
                        let to = to.and_then(|to| self.ports.get(to));
                        let asked = to.is_some_and(|to| to.asks(now, target) && !to.probes(target));
                        if asked { Passing::Speaks(target, None) } else { Passing::Kept }
                    }
                    Ok(Discovery::NeighborAdvertisement(_) | Discovery::RouterSolicitation) | Err(_) => Passing::Lie,
                },
                ndp::ROUTER_SOLICITATION => Passing::Kept,
                kind if LISTENERS.contains(&kind) => Passing::Kept,
                _ if from_nobody => Passing::Lie,
                kind if ECHOES.contains(&kind) => Passing::Pass,
                // Whoever quotes well would end, or cut short, what others say to each other or to the world.
                kind if ERRORS.contains(&kind) && wire::quoted_destination(chain.payload).is_some_and(may_have) => {
                    Passing::Pass
                }
                // Among them router advertisements and redirects: there is one router.
                _ => Passing::Lie,
            },
            (wire::PROTO_TCP | wire::PROTO_UDP, _) if from_nobody => Passing::Lie,
            (wire::PROTO_UDP, payload) if first => match payload.first_chunk::<4>() {
                Some(ports) if !DHCPV6.contains(&wire::be16(ports, 2)) => Passing::Pass,
                Some(_) | None => Passing::Lie,
            },
            (wire::PROTO_TCP | wire::PROTO_UDP, _) => Passing::Pass,
            _ => Passing::Unknown,
        }
    }
}

/// Whether an IPv4 packet is DHCP, of which there is one server here; of fragments, the first has the ports.
fn is_dhcp(ip: &Ip<'_>) -> bool {
    ip.protocol == wire::PROTO_UDP
        && ip.payload.first_chunk::<4>().is_some_and(|ports| matches!(wire::be16(ports, 2), 67 | 68))
}

/// Whether an IPv4 packet is an ICMP error (RFC 1122 section 3.2.2), or the first fragment of one.
fn is_error(ip: &Ip<'_>) -> bool {
    let begins = wire::be16(ip.packet, 6) & 0x1fff == 0;
    begins && ip.protocol == wire::PROTO_ICMP && matches!(ip.payload.first(), Some(3 | 4 | 5 | 11 | 12))
}

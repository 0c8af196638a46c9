//! The router of IPv6: what links hear of it and when, and what their guests ask each other.

use super::{Lan, Network6, PortId};
use crate::{
    gateway::{
        counters::Counters,
        ndp,
        network6::{ALL_NODES, group_mac},
        wire::{self, ETHERNET},
    },
    time::Instant,
};
use core::{net::Ipv6Addr, time::Duration};

/// The shortest and the longest time between two unsolicited router advertisements (RFC 4861 section 6.2.1).
const ADVERTISE: (u64, u64) = (200, 600);

/// Multicast listener discovery (RFC 3810): groups reach all links as it is.
pub(super) const LISTENERS: [u8; 4] = [130, 131, 132, 143];

/// Whether a type of ICMPv6 is one of multicast listener discovery.
pub(in super::super) fn is_multicast_listening(kind: u8) -> bool {
    LISTENERS.contains(&kind)
}

/// When the router is next spoken of.
#[derive(Debug)]
pub(super) struct Router {
    /// When links with guests that speak IPv6 are next told of it.
    advertise_at: Option<Instant>,
    rng: fastrand::Rng,
}

impl Router {
    pub(super) fn new(seed: u64) -> Self {
        Self { advertise_at: None, rng: fastrand::Rng::with_seed(seed) }
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.advertise_at
    }

    fn until_advertised(&mut self) -> Duration {
        Duration::from_secs(self.rng.u64(ADVERTISE.0..=ADVERTISE.1))
    }
}

impl Lan {
    /// A link has a guest that speaks IPv6: from now on it hears of the router every so often.
    pub(in super::super) fn speaks_ipv6(&mut self, now: Instant, port: PortId) {
        if let Some(port) = self.ports.get_mut(port)
            && !port.ipv6
        {
            port.ipv6 = true;
            if self.router.advertise_at.is_none() {
                self.router.advertise_at = Some(now + self.router.until_advertised());
            }
        }
    }

    /// A guest of a link asks who has an address.
    pub(in super::super) fn asks(&mut self, now: Instant, port: PortId, address: Ipv6Addr) {
        if let Some(port) = self.ports.get_mut(port) {
            port.ask(now, address);
        }
    }

    /// A guest of a link would like to have an address.
    pub(in super::super) fn probes(&mut self, port: PortId, address: Ipv6Addr) {
        if let Some(port) = self.ports.get_mut(port) {
            port.probe(address);
        }
    }

    /// Says that the gateway has an address; to all if nobody is named who has asked.
    pub(in super::super) fn answer_solicitation(
        &mut self,
        counters: &mut Counters,
        (port, mac): (PortId, [u8; 6]),
        target: Ipv6Addr,
        asker: Option<Ipv6Addr>,
    ) {
        let to = asker.map_or_else(|| group_mac(ALL_NODES), |_| mac);
        self.send_discovery(counters, (port, to), &ndp::Message::neighbor_advertisement(target, self.mac, asker));
    }

    /// Tells a link that there is a router.
    pub(super) fn advertise(&mut self, counters: &mut Counters, port: PortId) {
        self.advertise_to(counters, (port, group_mac(ALL_NODES)), None);
    }

    /// Tells one that has asked, or all of a link.
    pub(in super::super) fn advertise_to(
        &mut self,
        counters: &mut Counters,
        to: (PortId, [u8; 6]),
        asker: Option<Ipv6Addr>,
    ) {
        let Some(network) = self.network.v6() else { return };
        let message = ndp::Message::router_advertisement(network, self.mac, self.mtu, asker);
        counters.router_advertisements += 1;
        self.send_discovery(counters, to, &message);
    }

    /// Tells all links with guests that speak IPv6, if it is time to.
    pub(super) fn advertise_due(&mut self, now: Instant, counters: &mut Counters) {
        if self.router.advertise_at.is_none_or(|at| at > now) {
            return;
        }
        let ports: Vec<PortId> = self.ports.iter().filter(|(_, port)| port.ipv6).map(|(id, _)| id).collect();
        self.router.advertise_at = if ports.is_empty() { None } else { Some(now + self.router.until_advertised()) };
        for port in ports {
            self.advertise(counters, port);
        }
    }

    /// Asks all links for a guest.
    pub(super) fn solicit(&mut self, counters: &mut Counters, address: Ipv6Addr) {
        let Some(Network6 { gateway, .. }) = self.network.v6() else { return };
        let message = ndp::Message::neighbor_solicitation(*gateway, self.mac, address);
        let ports: Vec<PortId> = self.ports.iter().map(|(id, _)| id).collect();
        for port in ports {
            self.send_discovery(counters, (port, group_mac(message.destination)), &message);
        }
    }

    fn send_discovery(&mut self, counters: &mut Counters, (port, mac): (PortId, [u8; 6]), message: &ndp::Message) {
        let Some(slot) = self.ports.slot(port, ETHERNET + wire::IPV6 + message.bytes.len()) else {
            counters.link_full += 1;
            return;
        };
        wire::ethernet(slot, mac, self.mac, wire::ETHERTYPE_IPV6);
        let packet = &mut slot[ETHERNET..];
        packet[wire::IPV6..].copy_from_slice(&message.bytes);
        wire::ip(packet, message.source.into(), message.destination.into(), wire::PROTO_ICMPV6);
        packet[wire::HOP_LIMIT] = ndp::HOP_LIMIT;
    }
}

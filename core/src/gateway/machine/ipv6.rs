//! IPv6: packets for the gateway, for the world, for a group; neighbour discovery.

use super::{Gateway, Handled, Instant, Place, wire};
use crate::gateway::{
    lan::is_multicast_listening,
    ndp::{self, Disbelief, Discovery},
    network6::Network6,
    wire::{ICMP, Ip},
};
use crate::offload::checksum;

impl Gateway {
    /// A packet for the gateway, for the world, or for a group.
    pub(super) fn handle_ipv6<'f>(&mut self, now: Instant, from: Place, bytes: &'f [u8]) -> Handled<'f> {
        let Some(network) = self.network.v6().copied() else {
            self.counters.unsupported += 1;
            return Handled::Done;
        };
        let Some(chain) = wire::chain(bytes) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        // What is behind the first fragment begins with anything.
        let begins = chain.fragment.is_none_or(|fragment| fragment.offset == 0);
        let message =
            (begins && chain.protocol == wire::PROTO_ICMPV6).then(|| chain.payload.first().copied()).flatten();
        let discovers = message.is_some_and(|kind| (ndp::ROUTER_SOLICITATION..=ndp::REDIRECT).contains(&kind));
        let listens = message.is_some_and(is_multicast_listening);
        let from_nobody = chain.source.is_unspecified() && (discovers || listens);
        // Beyond the link, an address of the link means nothing (RFC 4291 section 2.5.6).
        let stays = chain.destination.is_multicast() || network.is_own(chain.destination);
        if !(from_nobody || network.is_guest(chain.source) || (stays && network.is_neighbour(chain.source))) {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if !from_nobody && !self.lan.may_send_as(now, &mut self.counters, from, chain.source.into()) {
            return Handled::Done;
        }
        self.lan.speaks_ipv6(now, from.0);
        if discovers {
            self.handle_discovery(now, from, &network, &chain);
            return Handled::Done;
        }
        // Groups have no members here but those of neighbour discovery.
        if listens || chain.destination.is_multicast() {
            return Handled::Done;
        }
        if let Some(ip) = chain.plain() {
            return self.handle_packet(now, from, &ip);
        }
        let whole = match chain.fragment {
            None => Some(chain.without_extensions()),
            Some(_) => self.lan.fragment_owner(from.0).and_then(|owner| self.reassembler.handle_v6(now, owner, &chain)),
        };
        let Some(whole) = whole else { return Handled::Done };
        let Some(ip) = wire::chain(&whole).and_then(|chain| chain.plain()) else {
            self.counters.unsupported += 1;
            return Handled::Done;
        };
        // Whoever sends fragments has learned what fits.
        let ip = Ip { dont_fragment: chain.fragment.is_none(), ..ip };
        self.handle_packet(now, from, &ip).into_owned()
    }

    fn handle_discovery(&mut self, now: Instant, from: Place, network: &Network6, chain: &wire::Chain<'_>) {
        let said = match ndp::parse(chain, from.1) {
            Ok(said) => said,
            Err(Disbelief::Malformed) => return self.counters.malformed += 1,
            Err(Disbelief::Spoofed) => return self.counters.spoofed += 1,
        };
        // A probe has no address yet, and is answered to all (RFC 4861 section 7.2.4).
        let asker = (!chain.source.is_unspecified()).then_some(chain.source);
        match said {
            Discovery::NeighborAdvertisement(target) if !network.is_neighbour(target) => self.counters.spoofed += 1,
            Discovery::NeighborAdvertisement(target) => self.found(now, from, target.into(), false),
            Discovery::NeighborSolicitation(target) => {
                if let Some(asker) = asker {
                    self.found(now, from, asker.into(), false);
                }
                // Also to a guest that would like to have the address (RFC 4862 section 5.4.3).
                if network.is_own(target) {
                    self.lan.answer_solicitation(&mut self.counters, from, target, asker);
                } else if asker.is_none() {
                    self.lan.probes(from.0, target);
                }
            }
            Discovery::RouterSolicitation => {
                if let Some(asker) = asker {
                    self.found(now, from, asker.into(), false);
                }
                self.lan.advertise_to(&mut self.counters, from, asker);
            }
        }
    }

    /// An ICMPv6 message that is no neighbour discovery.
    pub(super) fn handle_icmpv6<'p>(&mut self, now: Instant, from: Place, ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        let pseudo = wire::pseudo_header(ip.source, ip.destination, wire::PROTO_ICMPV6, payload.len());
        if payload.len() < ICMP || !checksum::is_valid(checksum::add(pseudo, payload)) {
            self.counters.malformed += 1;
            return Handled::Done;
        }
        if payload[..2] != [128, 0] {
            self.counters.unsupported += u64::from(!self.handle_error(now, from, ip));
            return Handled::Done;
        }
        self.handle_echo(now, from, ip)
    }
}

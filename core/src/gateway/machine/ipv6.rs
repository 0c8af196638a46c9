//! IPv6 of enclaves: packets for the gateway, for the world, for each other; neighbour discovery.

use super::*;

/// The shortest and the longest time between two unsolicited router advertisements (RFC 4861 section 6.2.1).
const ADVERTISE: (u64, u64) = (200, 600);

/// Types of ICMPv6 messages that one enclave may send another: errors about what was sent to it, and echoes.
const ERRORS: [u8; 4] = [1, 2, 3, 4];
const ECHOES: [u8; 2] = [128, 129];
/// Multicast listener discovery (RFC 3810): groups reach all links as it is.
const LISTENERS: [u8; 4] = [130, 131, 132, 143];
/// Ports of DHCPv6, of which there is no server here.
const DHCPV6: [u16; 2] = [546, 547];

/// Whether a frame may reach other enclaves.
enum Passing {
    Pass,
    /// A message of neighbour discovery passes: whoever has the first address asks for the second one, if for any.
    Speaks(Ipv6Addr, Option<Ipv6Addr>),
    /// It is for the gateway alone.
    Kept,
    Lie,
    /// It cannot be judged.
    Unknown,
}

impl Gateway {
    /// A frame with IPv6 that is not for the gateway alone. `own`: its hardware address is its sender's.
    pub(super) fn handle_ipv6_frame<'f>(
        &mut self,
        now: Instant,
        (port, mac): (PortId, [u8; 6]),
        own: bool,
        frame: &'f [u8],
    ) -> Handled<'f> {
        let (destination, payload) = frame.split_at(ETHERNET);
        let group = destination[0] & 1 == 1;
        let station = destination.first_chunk::<6>().filter(|_| !group);
        let to = station.and_then(|station| self.switch.find(*station));
        let passing = if own { self.may_pass(now, (port, mac), to, payload) } else { Passing::Kept };
        // Whoever serves other enclaves, and them alone, is known by this: else its address would be anybody's. It was
        // judged to be the sender's, or nobody's yet, so this is not refused.
        if let Passing::Speaks(speaker, asked) = passing {
            self.found(now, (port, mac), speaker.into(), false);
            if let (Some(address), Some(port)) = (asked, self.ports.get_mut(port)) {
                port.ask(now, address);
            }
        }
        if group {
            if let Passing::Pass | Passing::Speaks(..) = passing
                && self.may_flood(now, port)
                && self.may_meet(now, (port, mac), None, frame)
            {
                self.flood(port, frame);
            }
            // What is wrong with it is counted there.
            return self.handle_ipv6(now, (port, mac), payload);
        }
        match (passing, station) {
            (Passing::Pass | Passing::Speaks(..), Some(destination)) => {
                self.forward(now, (port, mac), *destination, frame)
            }
            (Passing::Lie, _) => self.counters.spoofed += 1,
            (Passing::Unknown, _) => self.counters.unsupported += 1,
            (Passing::Pass | Passing::Speaks(..) | Passing::Kept, _) => {}
        }
        Handled::Done
    }

    /// Whether a packet says who it is from, and speaks for nobody else. `to` is the link that it goes to, `None` for all.
    ///
    /// Nobody but the gateway tells a guest that it cannot have an address: any enclave could, for ever, of every address
    /// (RFC 4862 section 5.4 believes whoever says so, also before the first probe). So probes are kept, and so is what
    /// nobody has lately asked for, or looks like an answer to a probe: a guest that has moved is found by a question. Of
    /// two enclaves with one address each reaches the world, and the first one others, as with IPv4.
    fn may_pass(&self, now: Instant, (port, mac): (PortId, [u8; 6]), to: Option<PortId>, bytes: &[u8]) -> Passing {
        let (Some(network), Some(chain)) = (&self.network6, wire::chain(bytes)) else { return Passing::Unknown };
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

    /// A packet for the gateway, for the world, or for a group.
    pub(super) fn handle_ipv6<'f>(&mut self, now: Instant, from: (PortId, [u8; 6]), bytes: &'f [u8]) -> Handled<'f> {
        let Some(network) = self.network6 else {
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
        let listens = message.is_some_and(|kind| LISTENERS.contains(&kind));
        let from_nobody = chain.source.is_unspecified() && (discovers || listens);
        // Beyond the link, an address of the link means nothing (RFC 4291 section 2.5.6).
        let stays = chain.destination.is_multicast() || network.is_own(chain.destination);
        if !(from_nobody || network.is_guest(chain.source) || (stays && network.is_neighbour(chain.source))) {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if !from_nobody && !self.may_use(from, chain.source.into()) {
            self.counters.spoofed += 1;
            self.duplicate(now, from.0, Station::Ip(chain.source.into()));
            return Handled::Done;
        }
        self.speaks_ipv6(now, from.0);
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
            Some(_) => self.fragment_owner(from.0).and_then(|owner| self.reassembler.handle_v6(now, owner, &chain)),
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

    /// A link has a guest that speaks IPv6: from now on it hears of the router every so often.
    fn speaks_ipv6(&mut self, now: Instant, port: PortId) {
        if let Some(port) = self.ports.get_mut(port)
            && !port.ipv6
        {
            port.ipv6 = true;
            if self.advertise_at.is_none() {
                self.advertise_at = Some(now + self.until_advertised());
            }
        }
    }

    fn until_advertised(&mut self) -> Duration {
        Duration::from_secs(self.advertise_rng.u64(ADVERTISE.0..=ADVERTISE.1))
    }

    fn handle_discovery(&mut self, now: Instant, from: (PortId, [u8; 6]), network: &Network6, chain: &wire::Chain<'_>) {
        let said = match ndp::parse(chain, from.1) {
            Ok(said) => said,
            Err(Disbelief::Malformed) => return self.counters.malformed += 1,
            Err(Disbelief::Spoofed) => return self.counters.spoofed += 1,
        };
        // A probe has no address yet, and is answered to all (RFC 4861 section 7.2.4).
        let asker = (!chain.source.is_unspecified()).then_some(chain.source);
        let mac = self.config.gateway_mac;
        match said {
            Discovery::NeighborAdvertisement(target) if !network.is_neighbour(target) => self.counters.spoofed += 1,
            Discovery::NeighborAdvertisement(target) => self.found(now, from, target.into(), false),
            Discovery::NeighborSolicitation(target) => {
                if let Some(asker) = asker {
                    self.found(now, from, asker.into(), false);
                }
                // Also to a guest that would like to have the address (RFC 4862 section 5.4.3).
                if network.is_own(target) {
                    let to = asker.map_or_else(|| group_mac(ALL_NODES), |_| from.1);
                    self.send_discovery((from.0, to), &ndp::Message::neighbor_advertisement(target, mac, asker));
                } else if asker.is_none()
                    && let Some(port) = self.ports.get_mut(from.0)
                {
                    port.probe(target);
                }
            }
            Discovery::RouterSolicitation => {
                if let Some(asker) = asker {
                    self.found(now, from, asker.into(), false);
                }
                let message = ndp::Message::router_advertisement(network, mac, self.config.mtu, asker);
                self.counters.router_advertisements += 1;
                self.send_discovery((from.0, from.1), &message);
            }
        }
    }

    /// Tells a link that there is a router.
    pub(super) fn advertise(&mut self, port: PortId) {
        let Some(network) = self.network6 else { return };
        let message = ndp::Message::router_advertisement(&network, self.config.gateway_mac, self.config.mtu, None);
        self.counters.router_advertisements += 1;
        self.send_discovery((port, group_mac(ALL_NODES)), &message);
    }

    /// Tells all links with guests that speak IPv6, if it is time to.
    pub(super) fn advertise_due(&mut self, now: Instant) {
        if self.advertise_at.is_none_or(|at| at > now) {
            return;
        }
        let ports: Vec<PortId> = self.ports.iter().filter(|(_, port)| port.ipv6).map(|(id, _)| id).collect();
        self.advertise_at = if ports.is_empty() { None } else { Some(now + self.until_advertised()) };
        for port in ports {
            self.advertise(port);
        }
    }

    /// Asks all links for a guest.
    pub(super) fn solicit(&mut self, address: Ipv6Addr) {
        let Some(network) = self.network6 else { return };
        let message = ndp::Message::neighbor_solicitation(network.gateway, self.config.gateway_mac, address);
        let ports: Vec<PortId> = self.ports.iter().map(|(id, _)| id).collect();
        for port in ports {
            self.send_discovery((port, group_mac(message.destination)), &message);
        }
    }

    fn send_discovery(&mut self, (port, mac): (PortId, [u8; 6]), message: &ndp::Message) {
        let Some(slot) = self.ports.slot(port, ETHERNET + wire::IPV6 + message.bytes.len()) else {
            self.counters.link_full += 1;
            return;
        };
        wire::ethernet(slot, mac, self.config.gateway_mac, wire::ETHERTYPE_IPV6);
        let packet = &mut slot[ETHERNET..];
        packet[wire::IPV6..].copy_from_slice(&message.bytes);
        wire::ip(packet, message.source.into(), message.destination.into(), wire::PROTO_ICMPV6);
        packet[wire::HOP_LIMIT] = ndp::HOP_LIMIT;
    }

    /// An ICMPv6 message that is no neighbour discovery.
    pub(super) fn handle_icmpv6<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'p>) -> Handled<'p> {
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

//! What enclaves send: switched, answered, or handed to its protocol.

use super::*;

impl Gateway {
    /// Whether an address may be a guest's: in the virtual network, and nobody else's.
    #[must_use]
    #[inline]
    pub fn is_guest(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => return self.network6.is_some_and(|network| network.is_guest(address)),
        };
        let Config { subnet, gateway, host, .. } = &self.config;
        subnet.contains(&address)
            && address != *gateway
            && address != *host
            && address != subnet.network()
            && address != subnet.broadcast()
    }

    /// Whether an address is in the virtual network.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.config.subnet.contains(&address),
            IpAddr::V6(address) => self.network6.is_some_and(|network| network.subnet.contains(&address)),
        }
    }

    /// Whether an address is the gateway's: not that of the host.
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.gateway,
            IpAddr::V6(address) => self.network6.is_some_and(|network| network.is_gateway(address)),
        }
    }

    /// The gateway's address in the family of another one.
    pub(super) fn gateway_for(&self, address: IpAddr) -> IpAddr {
        match (address, &self.network6) {
            (IpAddr::V6(_), Some(network)) => network.gateway.into(),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => self.config.gateway.into(),
        }
    }

    /// Whether a frame for other enclaves comes from an address that may be its sender's: not the gateway's, nor that of
    /// a guest on another link.
    pub(super) fn is_honest(&self, now: Instant, port: PortId, source: [u8; 6], frame: &[u8]) -> bool {
        let payload = &frame[ETHERNET..];
        let may_have = |address: IpAddr| self.is_guest(address) && self.may_have(now, (port, source), address);
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

    /// Whether a guest's address may be that of a station: nobody else has it, and it is not fixed whose it is.
    pub(super) fn may_have(&self, now: Instant, from: (PortId, [u8; 6]), address: IpAddr) -> bool {
        may_have(&self.pins, &self.neighbours, &self.ports, now, from, address)
    }

    /// Whether another tenant has an address, but gives way to that of `port`.
    pub(super) fn is_former(&self, now: Instant, port: PortId, address: IpAddr) -> bool {
        self.neighbours.is_former(now, &self.ports, address, port)
    }

    /// Whether a station may send as `address`. Of two with one address each may, and is answered by its link; but not where
    /// the operator says whose it is.
    pub(super) fn may_use(&self, from: (PortId, [u8; 6]), address: IpAddr) -> bool {
        may_use(&self.pins, &self.ports, from, address)
    }

    /// A station would like to have what another one has.
    pub(super) fn duplicate(&mut self, now: Instant, port: PortId, address: Station) {
        let owner = match address {
            Station::Ip(address) => self.neighbours.owner(address),
            Station::Mac(mac) => self.switch.find(mac),
        };
        let Some(holder) = self.ports.holder(port) else { return };
        let duplicate = Duplicate { address, owner, claimant: port };
        self.counters.duplicates += u64::from(self.duplicates.note(now, holder, duplicate));
    }

    /// The same of a hardware address, with which frames may come in any number.
    #[cold]
    pub(super) fn duplicate_mac(&mut self, now: Instant, port: PortId, mac: [u8; 6]) {
        let Some(known) = self.ports.get_mut(port).map(|port| port.twin.replace(mac)) else { return };
        if known != Some(mac) {
            self.duplicate(now, port, Station::Mac(mac));
        }
    }

    /// Whether the gateway answers for an address.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.is_gateway(address) || self.is_host(address)
    }

    /// Whether an address stands for the host's loopback.
    fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.config.host,
            IpAddr::V6(address) => self.network6.is_some_and(|network| network.host == address),
        }
    }

    pub(super) fn flood(&mut self, from: PortId, frame: &[u8]) {
        let others: Vec<PortId> = self.ports.iter().map(|(id, _)| id).filter(|id| *id != from).collect();
        for id in others {
            self.pass_on(from, id, frame);
        }
    }

    /// Whether a link may send one more frame to everybody.
    pub(super) fn may_flood(&mut self, now: Instant, from: PortId) -> bool {
        let may = self.ports.holder(from).is_some_and(|holder| self.floods.may(now, holder));
        self.counters.flood += u64::from(!may);
        may
    }

    pub(super) fn forward(&mut self, now: Instant, from: (PortId, [u8; 6]), destination: [u8; 6], frame: &[u8]) {
        match self.switch.find(destination) {
            Some(to) if to != from.0 => {
                if self.may_meet(now, from, Some(to), frame) {
                    self.pass_on(from.0, to, frame);
                }
            }
            // Two stations behind one link are that link's affair.
            Some(_) | None => self.counters.unknown_destination += 1,
        }
    }

    /// Whether a link may send one more frame to a station on another one, and whether it is to rest behind it.
    pub(super) fn pace(&mut self, now: Instant, from: PortId) -> Pace {
        let Some(holder) = self.ports.holder(from) else { return Pace::Over { rest: now } };
        let pace = self.unicasts.pace(now, holder);
        self.counters.flood += u64::from(matches!(pace, Pace::Over { .. }));
        self.counters.rests += u64::from(!matches!(pace, Pace::Go));
        pace
    }

    /// Whether a frame for a station on another link would be dropped for want of room there.
    pub(super) fn is_share_full(&self, from: PortId, destination: [u8; 6], len: usize) -> bool {
        let Some(to) = self.switch.find(destination).filter(|to| *to != from) else { return false };
        let (Some(holder), Some(to)) = (self.ports.holder(from), self.ports.get(to)) else { return false };
        !to.queue.takes_from(holder, len)
    }

    /// Queues a frame of one enclave for another one, if that one's share for others has room.
    fn pass_on(&mut self, from: PortId, to: PortId, frame: &[u8]) {
        let Some(holder) = self.ports.holder(from) else { return };
        match self.ports.slot_from(holder, to, frame.len()) {
            Some(slot) => {
                slot.copy_from_slice(frame);
                self.ports.passed_on(to);
                self.counters.switched += 1;
            }
            None => self.counters.share_full += 1,
        }
    }

    pub(super) fn handle_local<'f>(
        &mut self,
        now: Instant,
        port: PortId,
        mac: [u8; 6],
        frame: &'f [u8],
    ) -> Handled<'f> {
        let payload = &frame[ETHERNET..];
        match [frame[12], frame[13]] {
            wire::ETHERTYPE_IPV4 => return self.handle_ipv4(now, (port, mac), payload),
            wire::ETHERTYPE_ARP => self.handle_arp(now, (port, mac), payload),
            wire::ETHERTYPE_IPV6 => return self.handle_ipv6(now, (port, mac), payload),
            _ => self.counters.unsupported += 1,
        }
        Handled::Done
    }

    pub(super) fn handle_arp(&mut self, now: Instant, (port, mac): (PortId, [u8; 6]), payload: &[u8]) {
        let Some(Arp { operation, sender: (sender, address), target }) = parse_arp(payload) else {
            self.counters.malformed += 1;
            return;
        };
        // A sender that speaks for another station, or for an address that is not a guest's, is not believed. A probe has
        // no address yet (RFC 5227).
        if sender != mac || !(address.is_unspecified() || self.is_guest(address.into())) {
            self.counters.spoofed += 1;
            return;
        }
        if !address.is_unspecified() {
            self.found(now, (port, mac), address.into(), false);
        }
        // As gvproxy: nobody but the gateway answers for its addresses, and it answers for no others.
        if operation == ArpOperation::Request && self.is_own(target.into()) {
            self.send_arp(Some((port, mac)), ArpOperation::Reply, target, mac, address);
        }
    }

    /// A guest is where it says, or has just got its address.
    pub(super) fn found(&mut self, now: Instant, (port, mac): (PortId, [u8; 6]), address: IpAddr, leased: bool) {
        let learned = if self.may_use((port, mac), address) {
            self.neighbours.learn(now, &self.ports, address, Neighbour { port, mac }, leased)
        } else {
            Err(Spoofed)
        };
        let Ok(Claimed { waiters, moved, full }) = learned else {
            self.counters.spoofed += 1;
            return self.duplicate(now, port, Station::Ip(address));
        };
        self.counters.addresses_full += u64::from(full);
        if let (true, IpAddr::V4(address)) = (moved, address) {
            let client = client(&self.ports, port, None, &|_| true);
            self.dhcp.moved(now, &client, mac, address);
        }
        let Some(tenant) = self.ports.get(port).map(|port| port.tenant) else { return };
        self.tcp.moved(tenant, address, (port, mac));
        for waiter in waiters {
            match waiter {
                Waiter::Flow(flow) => {
                    let Self { tcp, ports, tenants, out, counters, .. } = self;
                    tcp.resolved(&mut Context { ports, tenants, out, counters }, flow, Some((port, mac, tenant)));
                }
                Waiter::Datagram(session, payload) => {
                    let key = self.sessions.get(session).map(|session| session.key);
                    if let Some(key) = key.filter(|key| self.guest_of(session, key).is_some()) {
                        self.answer((port, mac), &key, &payload);
                    }
                }
            }
        }
    }

    pub(super) fn handle_ipv4<'f>(&mut self, now: Instant, from: (PortId, [u8; 6]), bytes: &'f [u8]) -> Handled<'f> {
        let Some(ip) = Ip::parse_v4(bytes) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let asks_for_an_address = ip.source.is_unspecified() && ip.protocol == wire::PROTO_UDP;
        if !self.is_guest(ip.source) && !asks_for_an_address {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if !self.may_use(from, ip.source) {
            self.counters.spoofed += 1;
            self.duplicate(now, from.0, Station::Ip(ip.source));
            return Handled::Done;
        }
        if !ip.fragment {
            return self.handle_packet(now, from, &ip);
        }
        let Some(owner) = self.fragment_owner(from.0) else { return Handled::Done };
        let Some(whole) = self.reassembler.handle(now, owner, ip.packet) else { return Handled::Done };
        let Some(ip) = Ip::parse_v4(&whole) else { return Handled::Done };
        self.handle_packet(now, from, &ip).into_owned()
    }

    /// Whose the fragments of a link are. Links that are told apart by nothing but themselves do not share them either.
    pub(super) fn fragment_owner(&self, port: PortId) -> Option<u32> {
        let tenant = self.ports.get(port)?.tenant;
        Some(if tenant < ANONYMOUS { tenant } else { ANONYMOUS | port.0.index() as u32 })
    }

    pub(super) fn handle_packet<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'p>) -> Handled<'p> {
        if ip.hop_limit() <= 1 && self.is_beyond(ip.destination) {
            self.expire(from, ip);
            return Handled::Done;
        }
        match ip.protocol {
            wire::PROTO_TCP => self.handle_tcp(now, from, ip),
            wire::PROTO_UDP => return self.handle_udp(now, from, ip),
            wire::PROTO_ICMP if ip.source.is_ipv4() => return self.handle_icmp(now, from, ip),
            wire::PROTO_ICMPV6 if ip.source.is_ipv6() => return self.handle_icmpv6(now, from, ip),
            _ => self.counters.unsupported += 1,
        }
        Handled::Done
    }

    /// Whether an address is reached through the gateway: in another network than this one.
    fn is_beyond(&self, address: IpAddr) -> bool {
        !self.is_inside(address) && !address.is_multicast() && address != Ipv4Addr::BROADCAST
    }

    /// A packet has passed as many links as it may: the gateway is a router, and says so (RFC 1812 section 5.3.1). Not about what
    /// may be an error itself.
    fn expire(&mut self, from: (PortId, [u8; 6]), ip: &Ip<'_>) {
        self.counters.hop_limit += 1;
        let request = match ip.protocol {
            wire::PROTO_ICMP => ip.payload.first() == Some(&8),
            wire::PROTO_ICMPV6 => ip.payload.first() == Some(&128),
            _ => true,
        };
        if request && self.is_guest(ip.source) {
            let gateway = self.gateway_for(ip.source);
            self.send_error(from, gateway, ip.source, ip.packet, Unreachable::HopLimit);
        }
    }

    pub(super) fn handle_tcp(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ip<'_>) {
        let Some(segment) = Segment::parse(ip.payload) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(tenant) = self.ports.get(from.0).map(|port| port.tenant) else { return };
        let key = FlowKey {
            tenant,
            guest: (ip.source, segment.source_port),
            remote: (ip.destination, segment.destination_port),
        };
        let found = self.tcp.find(&key);
        let Self { tcp, ports, tenants, out, counters, switch, neighbours, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        if let Some(flow) = found
            && tcp.handle_segment(now, ctx, from, flow, Owners { switch, neighbours }, (&segment, ip.packet))
        {
            return;
        }
        if segment.flags & (SYN | ACK | RST) != SYN {
            return tcp.stray(now, ctx, from, &key, &segment);
        }
        match self.target(now, Proto::Tcp, ip.destination, segment.destination_port) {
            Ok(target) => {
                self.found(now, from, ip.source, false);
                let Self { tcp, ports, tenants, out, counters, .. } = self;
                tcp.hold(now, &mut Context { ports, tenants, out, counters }, from, key, target, ip.packet);
            }
            Err(NoTarget::Nobody | NoTarget::Denied) => {
                let Self { tcp, ports, tenants, out, counters, .. } = self;
                tcp.reset_stray(&mut Context { ports, tenants, out, counters }, from, &key, &segment);
            }
        }
    }

    /// What no rule can open: addresses of the link alone, and those by which a guest would reach what it cannot reach by
    /// the IPv4 address that they stand for.
    fn leads_nowhere(&mut self, address: Ipv6Addr) -> Option<NoTarget> {
        if address.is_unicast_link_local() || inside(address).any(|address| self.is_inside(address.into())) {
            return Some(NoTarget::Nobody);
        }
        // No such address is ever on a wire (RFC 4291 section 2.5.5), and the kernel would take it for the IPv4 one.
        if is_ipv4_in_disguise(address) {
            self.counters.unsupported += 1;
            return Some(NoTarget::Denied);
        }
        None
    }

    /// The address that another one stands for.
    fn nat(&self, address: IpAddr) -> Option<IpAddr> {
        let IpAddr::V4(address) = address else { return None };
        self.config.nat.get(&address).copied()
    }

    /// Where something to this address really leads.
    pub(super) fn target(
        &mut self,
        now: Instant,
        proto: Proto,
        address: IpAddr,
        port: u16,
    ) -> Result<Target, NoTarget> {
        if self.is_gateway(address) {
            return match (proto, port) {
                (Proto::Tcp, 53) => Ok(Target::Dns),
                (Proto::Tcp, 80) if self.config.guest_services => Ok(Target::Services),
                _ => Err(NoTarget::Nobody),
            };
        }
        // Rules about the loopback hold for the host's address; a table that names it was meant to allow it.
        let by_rules = self.is_host(address) && self.config.policy.host_loopback;
        let (verdict, real) = if let Some(real) = self.nat(address).filter(|_| !by_rules) {
            (self.policy.verdict_nat(proto, real, port), real)
        } else if self.is_host(address) {
            let loopback = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            (self.policy.verdict_host_loopback(proto, loopback, port), loopback)
        } else if self.is_inside(address) {
            return Err(NoTarget::Nobody);
        } else if let IpAddr::V6(address) = address
            && let Some(nowhere) = self.leads_nowhere(address)
        {
            return Err(nowhere);
        } else {
            (self.policy.verdict(now, proto, address, port), address)
        };
        self.verdicts.count(verdict);
        match verdict {
            Verdict::Allow => Ok(Target::Address((real, port).into())),
            Verdict::Deny(_) => Err(NoTarget::Denied),
        }
    }
}

/// See [`Gateway::may_use`].
fn may_use(pins: &Pins, ports: &Ports, (port, mac): (PortId, [u8; 6]), address: IpAddr) -> bool {
    pins.is_empty() || ports.get(port).is_some_and(|port| pins.may_use(address, port.tenant, mac))
}

/// See [`Gateway::may_have`].
pub(super) fn may_have(
    pins: &Pins,
    neighbours: &Neighbours,
    ports: &Ports,
    now: Instant,
    from: (PortId, [u8; 6]),
    address: IpAddr,
) -> bool {
    may_use(pins, ports, from, address) && !neighbours.is_elsewhere(now, ports, address, from.0)
}

/// The station on a link, as a client of the DHCP server.
pub(super) fn client<'a>(
    ports: &Ports,
    port: PortId,
    pinned: Option<Ipv4Addr>,
    may_have: &'a dyn Fn(Ipv4Addr) -> bool,
) -> dhcp::Client<'a> {
    let tenant = ports.get(port).map_or(NOBODY, |port| port.tenant);
    let holder = if tenant < ANONYMOUS { 0 } else { port.to_u64() };
    dhcp::Client { tenant, holder, link: port.to_u64(), pinned, may_have }
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

/// What an ARP packet for IPv4 says.
struct Arp {
    operation: ArpOperation,
    sender: ([u8; 6], Ipv4Addr),
    target: Ipv4Addr,
}

fn parse_arp(payload: &[u8]) -> Option<Arp> {
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: address,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    Some(Arp { operation, sender: (mac, address), target })
}

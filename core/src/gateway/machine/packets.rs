//! What enclaves send to the gateway: answered, or handed to its protocol.

use super::{
    ETHERNET, Gateway, Handled, Instant, IpAddr, Place, Proto, Unreachable, Waiter,
    wire::{self, Ip},
};
use crate::{
    gateway::{
        lan::{Arp, parse_arp},
        tcp::FlowKey,
        wire::{ACK, ICMP, RST, SYN, Segment},
    },
    offload::checksum,
};
use smoltcp::wire::ArpOperation;

impl Gateway {
    /// A frame for the gateway itself, or for all.
    #[inline]
    pub(super) fn handle_local<'f>(&mut self, now: Instant, from: Place, frame: &'f [u8]) -> Handled<'f> {
        let payload = &frame[ETHERNET..];
        match [frame[12], frame[13]] {
            wire::ETHERTYPE_IPV4 => return self.handle_ipv4(now, from, payload),
            wire::ETHERTYPE_ARP => self.handle_arp(now, from, payload),
            wire::ETHERTYPE_IPV6 => return self.handle_ipv6(now, from, payload),
            _ => self.counters.unsupported += 1,
        }
        Handled::Done
    }

    fn handle_arp(&mut self, now: Instant, from: Place, payload: &[u8]) {
        let Some(Arp { operation, sender: (sender, address), target }) = parse_arp(payload) else {
            self.counters.malformed += 1;
            return;
        };
        // A sender that speaks for another station, or for an address that is not a guest's, is not believed. A probe has
        // no address yet (RFC 5227).
        if sender != from.1 || !(address.is_unspecified() || self.network.is_guest(address.into())) {
            self.counters.spoofed += 1;
            return;
        }
        if !address.is_unspecified() {
            self.found(now, from, address.into(), false);
        }
        // As gvproxy: nobody but the gateway answers for its addresses, and it answers for no others.
        if operation == ArpOperation::Request && self.network.is_own(target.into()) {
            self.lan.send_arp(&mut self.counters, Some(from), ArpOperation::Reply, target, from.1, address);
        }
    }

    /// A guest is where it says, or has just got its address.
    pub(super) fn found(&mut self, now: Instant, from: Place, address: IpAddr, leased: bool) {
        let Some(waiters) = self.lan.claim(now, &mut self.counters, from, address, leased) else { return };
        let Some(tenant) = self.lan.tenant(from.0) else { return };
        self.tcp.moved(tenant, address, from);
        for waiter in waiters {
            match waiter {
                Waiter::Flow(flow) => {
                    let (tcp, mut ctx) = self.flows();
                    tcp.resolved(&mut ctx, flow, Some((from.0, from.1, tenant)));
                }
                Waiter::Datagram(session, payload) => {
                    let (datagrams, lent) = self.datagrams();
                    datagrams.handle_found(lent, session, from, &payload);
                }
            }
        }
    }

    #[inline]
    fn handle_ipv4<'f>(&mut self, now: Instant, from: Place, bytes: &'f [u8]) -> Handled<'f> {
        let Some(ip) = Ip::parse_v4(bytes) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let asks_for_an_address = ip.source.is_unspecified() && ip.protocol == wire::PROTO_UDP;
        if !self.network.is_guest(ip.source) && !asks_for_an_address {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if !self.lan.may_send_as(now, &mut self.counters, from, ip.source) {
            return Handled::Done;
        }
        if !ip.fragment {
            return self.handle_packet(now, from, &ip);
        }
        let Some(owner) = self.lan.fragment_owner(from.0) else { return Handled::Done };
        let Some(whole) = self.reassembler.handle(now, owner, ip.packet) else { return Handled::Done };
        let Some(ip) = Ip::parse_v4(&whole) else { return Handled::Done };
        self.handle_packet(now, from, &ip).into_owned()
    }

    pub(super) fn handle_packet<'p>(&mut self, now: Instant, from: Place, ip: &Ip<'p>) -> Handled<'p> {
        if ip.hop_limit() <= 1 && self.network.is_beyond(ip.destination) {
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

    /// A packet has passed as many links as it may: the gateway is a router, and says so (RFC 1812 section 5.3.1). Not about what
    /// may be an error itself.
    fn expire(&mut self, from: Place, ip: &Ip<'_>) {
        self.counters.hop_limit += 1;
        let request = match ip.protocol {
            wire::PROTO_ICMP => ip.payload.first() == Some(&8),
            wire::PROTO_ICMPV6 => ip.payload.first() == Some(&128),
            _ => true,
        };
        if request && self.network.is_guest(ip.source) {
            self.tell(from, ip, Unreachable::HopLimit);
        }
    }

    /// The gateway tells the sender of a packet what became of it.
    pub(super) fn tell(&mut self, from: Place, ip: &Ip<'_>, why: Unreachable) {
        let gateway = self.network.gateway_for(ip.source);
        self.lan.send_error(&mut self.counters, from, gateway, ip.source, ip.packet, why);
    }

    fn handle_tcp(&mut self, now: Instant, from: Place, ip: &Ip<'_>) {
        let Some(segment) = Segment::parse(ip.payload) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(tenant) = self.lan.tenant(from.0) else { return };
        let key = FlowKey {
            tenant,
            guest: (ip.source, segment.source_port),
            remote: (ip.destination, segment.destination_port),
        };
        let Self { tcp, lan, tenants, out, counters, .. } = self;
        if let Some(flow) = tcp.find(&key) {
            let (ctx, owners) = &mut lan.context_and_owners(tenants, out, counters);
            if tcp.handle_segment(now, ctx, from, flow, *owners, (&segment, ip.packet)) {
                return;
            }
        }
        if segment.flags & (SYN | ACK | RST) != SYN {
            return tcp.stray(now, &mut lan.context(tenants, out, counters), from, &key, &segment);
        }
        match self.rules.target(now, counters, Proto::Tcp, ip.destination, segment.destination_port) {
            Ok(target) => {
                self.found(now, from, ip.source, false);
                let (tcp, mut ctx) = self.flows();
                tcp.hold(now, &mut ctx, from, key, target, ip.packet);
            }
            Err(_) => tcp.reset_stray(&mut lan.context(tenants, out, counters), from, &key, &segment),
        }
    }

    fn handle_icmp<'p>(&mut self, now: Instant, from: Place, ip: &Ip<'p>) -> Handled<'p> {
        let payload = ip.payload;
        // Unlike TCP's and UDP's, gvproxy verifies this checksum too.
        if payload.len() < ICMP || !checksum::is_valid(checksum::add(0, payload)) {
            self.counters.malformed += 1;
            return Handled::Done;
        }
        if payload[..2] != [8, 0] {
            self.counters.unsupported += u64::from(!self.handle_error(now, from, ip));
            return Handled::Done;
        }
        self.handle_echo(now, from, ip)
    }
}

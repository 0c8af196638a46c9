//! The virtual network's links: who is on them, what is sent to them, what passes from one to another.
//!
//! Owns: the links and their queues, the switch, the neighbours, the leases, and how much each link may send to others.
//! Driven by: the machine, which tells the other parts what is learned here.
//! Bounds: those of its tables; what a link sends to others is limited by [`super::floods`], what waits for it by its queue.

mod arp;
mod honesty;
mod leases;
mod router;
mod send;
mod stations;
mod switching;

use super::{
    arena::Id,
    config::{Config, ConfigError},
    counters::Counters,
    dhcp::{Dhcp, DhcpCounters},
    duplicates::{Duplicate, Duplicates},
    floods::Floods,
    neighbour::{Due, Neighbours, Waiter},
    network::Network,
    network6::Network6,
    output::Outputs,
    pins::Pins,
    port::{ANONYMOUS, PortId, Ports},
    switch::Switch,
    tcp::{Context, Owners},
    tenant::Tenants,
};
use crate::{frame::Framing, time::Instant};
use core::net::{IpAddr, Ipv4Addr};
use router::Router;
use std::collections::{BTreeMap, VecDeque};

pub(super) use arp::{Arp, parse_arp};
pub(super) use honesty::Passing;
pub(super) use router::is_multicast_listening;

/// The tenant of what the world begins with a guest that has yet to be found.
pub(super) const NOBODY: u32 = u32::MAX;

pub(super) const BROADCAST: [u8; 6] = [0xff; 6];

/// A station: its link, and its hardware address there.
pub(super) type Place = (PortId, [u8; 6]);

/// See the module.
#[derive(Debug)]
pub(super) struct Lan {
    network: Network,
    /// The gateway's hardware address.
    mac: [u8; 6],
    mtu: u16,
    ports: Ports,
    switch: Switch,
    neighbours: Neighbours,
    dhcp: Dhcp,
    pins: Pins,
    duplicates: Duplicates,
    /// How many frames for all each link may send.
    floods: Floods,
    /// The same of frames for one station.
    unicasts: Floods,
    /// The same of frames that come to nothing.
    useless: Floods,
    router: Router,
    /// The number of the last datagram in fragments of IPv4.
    identification: u16,
    /// The same of IPv6.
    identification6: u32,
}

impl Lan {
    /// A network without links. Draws one number from `rng`.
    pub(super) fn new(config: &Config, network: Network, rng: &mut fastrand::Rng) -> Result<Self, ConfigError> {
        let pins = config.pins()?;
        // But for the network's own, the broadcast address, the gateway's and the host's.
        let guests = (1_usize << (32 - config.subnet.prefix_len().clamp(8, 30))) - 4;
        Ok(Self {
            network,
            mac: config.gateway_mac,
            mtu: config.mtu,
            ports: Ports::new(config.allocate),
            switch: Switch::new(config.gateway_mac, rng.u64(..), config.keep_address, pins.macs().clone()),
            neighbours: Neighbours::new(guests, config.keep_address),
            dhcp: Dhcp::new(config.dhcp(&pins))?,
            pins,
            duplicates: Duplicates::default(),
            floods: Floods::to_all(),
            unicasts: Floods::to_one(),
            useless: Floods::useless(),
            router: Router::new(config.seed),
            identification: 0,
            identification6: 0,
        })
    }

    /// Where the numbers of datagrams in fragments begin. They are drawn after those of all other parts, whose numbers stay what
    /// they are for a seed. From there on they count: RFC 7739 would have more where fragments can be slipped in, but nobody else
    /// sends a guest packets from where the gateway's come from.
    pub(super) const fn number_fragments(&mut self, ipv4: u16, ipv6: u32) {
        self.identification = ipv4;
        self.identification6 = ipv6;
    }

    /// The link that has to go for one more of `tenant`, if there are too many.
    pub(super) fn in_the_way(&self, tenant: u32) -> Option<PortId> {
        self.ports.in_the_way(tenant)
    }

    /// A link of `tenant` begins.
    pub(super) fn attach(&mut self, counters: &mut Counters, tenant: u32, framing: Option<Framing>) -> Option<PortId> {
        let port = self.ports.attach(tenant, framing)?;
        // A guest may be long there, and its link be new: it does not ask again.
        self.advertise(counters, port);
        Some(port)
    }

    /// A link of `tenant` has ended.
    pub(super) fn detach(&mut self, port: PortId, tenant: u32) {
        self.switch.detach(port, tenant);
        self.dhcp.detach(port.to_u64());
        self.neighbours.detach(port);
        self.ports.detach(port);
    }

    /// What time it is, for what waits since a call that did not say so.
    pub(super) fn stamp(&mut self, now: Instant) {
        self.neighbours.stamp(now);
        self.switch.stamp(now);
        self.ports.stamp(now);
    }

    /// When to call [`Lan::poll_mute`], [`Lan::handle_timeout`] and [`Lan::poll_due`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.neighbours.poll_timeout(), self.router.poll_timeout(), self.ports.poll_timeout()];
        times.into_iter().flatten().min()
    }

    /// A link on which nobody has said anything for too long.
    pub(super) fn poll_mute(&mut self, now: Instant) -> Option<PortId> {
        self.ports.poll_mute(now)
    }

    /// Deadlines of its own up to `now`.
    pub(super) fn handle_timeout(&mut self, now: Instant, counters: &mut Counters) {
        self.advertise_due(now, counters);
    }

    /// Those that have waited in vain for a guest, which was asked for anew until now.
    pub(super) fn poll_due(&mut self, now: Instant, counters: &mut Counters) -> Option<Vec<Waiter>> {
        loop {
            match self.neighbours.poll_due(now)? {
                Due::Ask(address) => self.ask(counters, address),
                Due::Failed(waiters) => return Some(waiters),
            }
        }
    }

    /// Whose a link is; `None` once it is gone.
    #[inline]
    pub(super) fn tenant(&self, port: PortId) -> Option<u32> {
        self.ports.get(port).map(|port| port.tenant)
    }

    /// Whose the fragments of a link are. Links that are told apart by nothing but themselves do not share them either.
    pub(super) fn fragment_owner(&self, port: PortId) -> Option<u32> {
        let tenant = self.tenant(port)?;
        Some(if tenant < ANONYMOUS { tenant } else { ANONYMOUS | port.0.index() as u32 })
    }

    /// Where a guest is.
    pub(super) fn guest(&self, address: IpAddr) -> Option<Place> {
        self.neighbours.find(address).map(|place| (place.port, place.mac))
    }

    /// Whose a guest is, if it is known where it is.
    pub(super) fn tenant_of_guest(&self, address: IpAddr) -> Option<u32> {
        self.guest(address).and_then(|(port, _)| self.tenant(port))
    }

    /// The links, for what sends on them.
    #[inline]
    pub(super) const fn context<'a>(
        &'a mut self,
        tenants: &'a mut Tenants,
        out: &'a mut Outputs,
        counters: &'a mut Counters,
    ) -> Context<'a> {
        Context { ports: &mut self.ports, tenants, out, counters }
    }

    /// The same, and who has which addresses there.
    #[inline]
    pub(super) const fn context_and_owners<'a>(
        &'a mut self,
        tenants: &'a mut Tenants,
        out: &'a mut Outputs,
        counters: &'a mut Counters,
    ) -> (Context<'a>, Owners<'a>) {
        let Self { ports, switch, neighbours, .. } = self;
        (Context { ports, tenants, out, counters }, Owners { switch, neighbours })
    }

    /// The links, and who has which addresses on them.
    #[inline]
    pub(super) const fn owners(&mut self) -> (&mut Ports, Owners<'_>) {
        (&mut self.ports, Owners { switch: &self.switch, neighbours: &self.neighbours })
    }

    /// The questions of a link that wait for their answers; see [`super::port::Port::questions`].
    pub(super) fn questions(&mut self, port: PortId) -> Option<&mut VecDeque<u64>> {
        self.ports.get_mut(port).map(|port| &mut port.questions)
    }

    /// A link that has frames to take, each told once.
    pub(super) fn poll_waiting(&mut self) -> Option<PortId> {
        self.ports.poll_waiting()
    }

    /// A link whose share of frames of others is nearly used up.
    pub(super) fn poll_crowded(&mut self) -> Option<PortId> {
        self.ports.poll_crowded()
    }

    /// Bytes that wait for a link.
    pub(super) fn pending(&self, port: PortId) -> &[u8] {
        self.ports.get(port).map_or(&[], |port| port.queue.pending())
    }

    /// A link has taken bytes. Gives the connections that waited for room.
    pub(super) fn consume(&mut self, port: PortId, n: usize) -> Vec<Id> {
        if let Some(port) = self.ports.get_mut(port) {
            port.queue.consume(n);
        }
        self.ports.unblock(port)
    }

    /// The next frame that waits for a link.
    pub(super) fn next_frame(&self, port: PortId) -> Option<&[u8]> {
        self.ports.get(port)?.queue.next_frame()
    }

    /// A link has taken that frame. Gives the connections that waited for room.
    pub(super) fn consume_frame(&mut self, port: PortId) -> Vec<Id> {
        if let Some(port) = self.ports.get_mut(port) {
            port.queue.consume_frame();
        }
        self.ports.unblock(port)
    }

    /// An address that two say they have.
    pub(super) fn poll_duplicate(&mut self) -> Option<Duplicate> {
        self.duplicates.poll()
    }

    /// Learned hardware addresses and their links.
    pub(super) fn addresses(&self) -> Vec<([u8; 6], PortId)> {
        self.switch.addresses()
    }

    /// Addresses given out.
    pub(super) fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, [u8; 6]> {
        self.dhcp.leases(now)
    }

    pub(super) const fn dhcp_counters(&self) -> &DhcpCounters {
        self.dhcp.counters()
    }

    /// What is counted elsewhere.
    pub(super) fn observe(&self, counters: &mut Counters) {
        counters.links = self.ports.len() as u64;
        (counters.frames_out, counters.bytes_out) = self.ports.sent_in_all();
    }
}

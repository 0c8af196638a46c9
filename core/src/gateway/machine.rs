//! The gateway: frames of enclaves in, frames for enclaves out, connections and datagrams for the world between.
//!
//! Owns: links, the switch, leases, connections, sessions, the policy. No sockets, no clock.
//! Driven by: the daemon's data thread, the simulator, fuzz.
//! Drain: after a batch of inputs [`Gateway::flush`], then [`Gateway::poll_output`] until `None`; what the driver does with
//! an output may make more. Then one timer from [`Gateway::poll_timeout`].
//! Bounds: those of its parts.

use super::{
    config::{Config, ConfigError},
    counters::Counters,
    dhcp::{Dhcp, DhcpCounters},
    fragments::{self, FragmentCounters, Reassembler},
    neighbour::{Due, Neighbour, Neighbours, Waiter},
    output::{FlowId, Output, Outputs, SessionId, Target},
    policy::{Policy, PolicyCounters, Proto, Verdict},
    port::{PortId, Ports},
    session::{Kind, SessionKey, Sessions},
    switch::{Learning, Switch},
    tcp::{Context, FlowKey, FlowStatus, Refused, Tcp, TcpConfig},
    tenant::Tenants,
    wire::{self, ACK, ETHERNET, ICMP, IPV4, Ipv4, RST, SYN, Segment, UDP, Unreachable},
};
use crate::{
    frame::{Framing, MIN_FRAME},
    time::Instant,
};
use core::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpProtocol};
use std::{borrow::Cow, collections::BTreeMap};

/// What a frame asks for beyond what the gateway does by itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Handled<'f> {
    /// Nothing.
    Done,
    /// Send this to the world.
    Datagram {
        /// The session; the first datagram of one that the driver does not know opens it.
        session: SessionId,
        /// What kind it is.
        kind: Kind,
        /// Where to.
        to: SocketAddr,
        /// UDP payload, or an ICMP echo request from its type on.
        payload: Cow<'f, [u8]>,
    },
    /// Answer this question with [`Gateway::handle_dns_answer`].
    Dns {
        /// Whose it is.
        client: u64,
        /// The message.
        query: Cow<'f, [u8]>,
    },
}

/// What the world said about a session's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// Nobody listens at that port.
    Refused,
    /// The host cannot be reached.
    HostUnreachable,
    /// The network cannot be reached.
    NetworkUnreachable,
    /// The host's kernel may not send there.
    Prohibited,
    /// The datagram is too long for the way, which takes this many bytes with its IP header.
    TooLong(u16),
}

/// What the world said to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Nobody listens there, or the gateway cannot open one more: the guest gets a reset.
    Refused,
    /// The host cannot be reached, or did not answer.
    HostUnreachable,
    /// The network cannot be reached.
    NetworkUnreachable,
    /// The host's kernel may not connect there.
    Prohibited,
}

/// Why a connection to a guest cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No address of a guest.
    #[error("{0} is not the address of a guest in the virtual network")]
    NotAGuest(Ipv4Addr),
    /// A limit is reached; the counters say which.
    #[error("a limit of the gateway is reached")]
    Limit,
}

/// A question over UDP that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct DnsClient {
    number: u64,
    port: PortId,
    mac: [u8; 6],
    address: (Ipv4Addr, u16),
}

/// Questions over UDP that may wait; an older one is forgotten, and its answer dropped.
const DNS_CLIENTS: usize = 1024;

const BROADCAST: [u8; 6] = [0xff; 6];

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    ports: Ports,
    switch: Switch,
    neighbours: Neighbours,
    tenants: Tenants,
    dhcp: Dhcp,
    policy: Policy,
    verdicts: PolicyCounters,
    reassembler: Reassembler,
    tcp: Tcp,
    sessions: Sessions,
    dns_clients: Vec<DnsClient>,
    dns_number: u64,
    identification: u16,
    out: Outputs,
    counters: Counters,
}

impl Gateway {
    /// A gateway without links.
    ///
    /// # Errors
    /// [`ConfigError`] says what cannot be.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let tcp = TcpConfig {
            mac: config.gateway_mac,
            mtu: config.mtu.into(),
            max_flows: config.max_flows,
            memory: config.memory,
            largest_buffer: config.largest_buffer,
            seed: rng.u64(..),
        };
        Ok(Self {
            ports: Ports::default(),
            switch: Switch::new(config.gateway_mac, rng.u64(..)),
            neighbours: Neighbours::default(),
            tenants: Tenants::new(config.tenant),
            dhcp: Dhcp::new(config.dhcp())?,
            policy: Policy::new(config.policy.clone())?,
            verdicts: PolicyCounters::default(),
            reassembler: Reassembler::default(),
            tcp: Tcp::new(tcp),
            sessions: Sessions::new(config.max_sessions, rng.u64(..)),
            dns_clients: Vec::new(),
            dns_number: 0,
            identification: rng.u16(..),
            out: Outputs::new(),
            counters: Counters::default(),
            config,
        })
    }

    /// What it was told.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// A link of `tenant` begins; `framing` is `None` where every message is a frame. `None` if there are too many links.
    pub fn attach(&mut self, tenant: u32, framing: Option<Framing>) -> Option<PortId> {
        self.ports.attach(tenant, framing)
    }

    /// A link has ended. Its connections wait for another one.
    pub fn detach(&mut self, port: PortId) {
        self.switch.detach(port);
        self.neighbours.detach(port);
        let blocked = self.ports.detach(port).unwrap_or_default();
        self.tcp.unblock(blocked);
    }

    /// A frame has arrived on a link.
    pub fn handle_frame<'f>(&mut self, now: Instant, port: PortId, frame: &'f [u8]) -> Handled<'f> {
        let Some(link) = self.ports.get_mut(port) else { return Handled::Done };
        link.frames_in += 1;
        link.bytes_in += frame.len() as u64;
        self.counters.frames_in += 1;
        self.counters.bytes_in += frame.len() as u64;
        let (Some(destination), Some(source), true) =
            (frame.first_chunk::<6>(), frame.get(6..).and_then(<[u8]>::first_chunk::<6>), frame.len() >= MIN_FRAME)
        else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        match self.switch.learn(now, &mut self.ports, port, *source) {
            Learning::Known | Learning::New => {}
            // Its own connections go on: they are told apart by their link. Two enclaves with one address, such as two
            // stock nitridings, both reach the world.
            Learning::Spoofed if *source != self.config.gateway_mac && source[0] & 1 == 0 => self.counters.spoofed += 1,
            Learning::Spoofed => {
                self.counters.spoofed += 1;
                return Handled::Done;
            }
            Learning::Full => self.counters.addresses_full += 1,
        }
        if *destination == self.config.gateway_mac {
            return self.handle_local(now, port, *source, frame);
        }
        if destination[0] & 1 == 1 {
            self.flood(port, frame);
            return if *destination == BROADCAST {
                self.handle_local(now, port, *source, frame)
            } else {
                Handled::Done
            };
        }
        self.forward(now, port, *destination, frame);
        Handled::Done
    }

    /// Sends what the inputs since the last call have made due.
    pub fn flush(&mut self, now: Instant) {
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        tcp.flush(now, &mut Context { ports, tenants, out, counters });
    }

    /// Deadlines up to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembler.handle_timeout(now);
        while let Some(due) = self.neighbours.due(now) {
            match due {
                Due::Ask(address) => self.ask(address),
                Due::Failed(waiters) => {
                    for waiter in waiters {
                        if let Waiter::Flow(flow) = waiter {
                            let Self { tcp, ports, tenants, out, counters, .. } = self;
                            tcp.resolved(&mut Context { ports, tenants, out, counters }, flow, None);
                        }
                    }
                }
            }
        }
        let Self { tcp, sessions, ports, tenants, out, counters, .. } = self;
        counters.sessions_expired += sessions.handle_timeout(now, tenants, out);
        tcp.handle_timeout(now, &mut Context { ports, tenants, out, counters });
    }

    /// When to call [`Gateway::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.tcp.poll_timeout(),
            self.sessions.poll_timeout(),
            self.neighbours.next(),
            self.reassembler.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            if let Output::Flow(flow) = output {
                self.tcp.told(flow);
            }
            return Some(output);
        }
        self.ports.poll_waiting().map(Output::Frames)
    }

    /// Bytes of frames that wait for a link, prefixes included.
    #[must_use]
    pub fn pending(&self, port: PortId) -> &[u8] {
        self.ports.get(port).map_or(&[], |port| port.queue.pending())
    }

    /// A link has taken `n` bytes of [`Gateway::pending`]. True if connections that waited may go on: flush again.
    ///
    /// # Panics
    /// If there were fewer.
    pub fn consume(&mut self, port: PortId, n: usize) -> bool {
        if let Some(port) = self.ports.get_mut(port) {
            port.queue.consume(n);
        }
        self.unblock(port)
    }

    /// The next frame that waits for a link on which every message is a frame.
    #[must_use]
    pub fn next_frame(&self, port: PortId) -> Option<&[u8]> {
        self.ports.get(port)?.queue.next_frame()
    }

    /// A link has taken [`Gateway::next_frame`]. True as in [`Gateway::consume`].
    pub fn consume_frame(&mut self, port: PortId) -> bool {
        if let Some(port) = self.ports.get_mut(port) {
            port.queue.consume_frame();
        }
        self.unblock(port)
    }

    fn unblock(&mut self, port: PortId) -> bool {
        let ids = self.ports.unblock(port);
        let any = !ids.is_empty();
        self.tcp.unblock(ids);
        any
    }

    /// The world has answered a connection, or has not.
    pub fn dialed(&mut self, now: Instant, flow: FlowId, result: Result<(), DialError>) {
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        match result {
            Ok(()) => tcp.admit(now, ctx, flow),
            Err(error) => tcp.refuse(
                ctx,
                flow,
                match error {
                    DialError::Refused => Refused::Reset,
                    DialError::HostUnreachable => Refused::Unreachable(Unreachable::Host),
                    DialError::NetworkUnreachable => Refused::Unreachable(Unreachable::Network),
                    DialError::Prohibited => Refused::Unreachable(Unreachable::Prohibited),
                },
            ),
        }
    }

    /// Opens a connection to a guest's port. It is there when its status says so; until then it can be closed at any time.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot even be tried.
    pub fn connect(&mut self, now: Instant, guest: SocketAddrV4) -> Result<FlowId, OpenError> {
        let address = *guest.ip();
        if !self.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = self.neighbours.find(address);
        let tenant = place.and_then(|place| self.ports.get(place.port)).map_or(NOBODY, |port| port.tenant);
        let gateway = self.config.gateway;
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        let flow = tcp
            .connect(now, ctx, tenant, gateway, (address, guest.port()), place.map(|place| (place.port, place.mac)))
            .ok_or(OpenError::Limit)?;
        if place.is_none() {
            match self.neighbours.wait(now, address, Waiter::Flow(flow)) {
                Ok(true) => self.ask(address),
                Ok(false) => {}
                Err(_) => {
                    self.abort(now, flow);
                    return Err(OpenError::Limit);
                }
            }
        }
        Ok(flow)
    }

    /// What is known of a connection; `None` once it is over.
    #[must_use]
    pub fn status(&self, flow: FlowId) -> Option<FlowStatus> {
        self.tcp.status(flow)
    }

    /// Lets `take` have bytes from the guest; it gives how many it took. At most what lies in one piece is offered.
    pub fn read(&mut self, flow: FlowId, take: impl FnOnce(&[u8]) -> usize) -> usize {
        self.tcp.read(flow, take)
    }

    /// Lets `give` write bytes for the guest; it gives how many it wrote.
    pub fn write(&mut self, flow: FlowId, give: impl FnOnce(&mut [u8]) -> usize) -> usize {
        self.tcp.write(flow, give)
    }

    /// The world has closed its half of a connection.
    pub fn finish(&mut self, now: Instant, flow: FlowId) {
        self.tcp.finish(now, flow);
    }

    /// The world has reset a connection, or nobody wants it any more.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        tcp.abort(now, &mut Context { ports, tenants, out, counters }, flow);
    }

    /// Opens a session towards a guest, for datagrams that the world begins; what the guest answers goes to `to`.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such guest or no room.
    pub fn open_session(&mut self, now: Instant, guest: SocketAddrV4, to: SocketAddr) -> Result<SessionId, OpenError> {
        let address = *guest.ip();
        if !self.is_guest(address) {
            return Err(OpenError::NotAGuest(address));
        }
        let place = self.neighbours.find(address);
        let tenant = place.and_then(|place| self.ports.get(place.port)).map_or(NOBODY, |port| port.tenant);
        let key =
            self.sessions.free_key(tenant, self.config.gateway, (address, guest.port())).ok_or(OpenError::Limit)?;
        let place = place.map(|place| (place.port, place.mac));
        self.sessions.open(now, &mut self.tenants, &mut self.out, key, to, place).map_err(|refusal| {
            self.counters.refuse(refusal);
            OpenError::Limit
        })
    }

    /// Ends a session that the driver cannot serve.
    pub fn close_session(&mut self, session: SessionId) {
        self.sessions.close(&mut self.tenants, &mut self.out, session);
    }

    /// A datagram has arrived for a session: UDP payload, or an ICMP echo reply from its type on.
    pub fn handle_datagram(&mut self, now: Instant, session: SessionId, payload: &[u8]) {
        let Some(found) = self.sessions.heard(now, session) else { return };
        let (key, place) = (found.key, found.place);
        let place = place.filter(|(port, _)| self.ports.get(*port).is_some());
        let place = place.or_else(|| self.neighbours.find(key.guest.0).map(|found| (found.port, found.mac)));
        let Some((port, mac)) = place else {
            match self.neighbours.wait(now, key.guest.0, Waiter::Datagram(session, payload.to_vec())) {
                Ok(true) => self.ask(key.guest.0),
                Ok(false) => {}
                Err(_) => self.counters.link_full += 1,
            }
            return;
        };
        self.counters.datagrams_out += 1;
        match key.kind {
            Kind::Udp => self.send_udp((port, mac), key.remote, key.guest, payload),
            Kind::Ping => {
                let mut message = payload.to_vec();
                if message.len() < ICMP {
                    self.counters.malformed += 1;
                    return;
                }
                message[0] = 0;
                message[4..6].copy_from_slice(&key.guest.1.to_be_bytes());
                wire::icmp(&mut message);
                self.send_ip((port, mac), key.remote.0, key.guest.0, wire::PROTO_ICMP, &message);
            }
        }
    }

    /// The world refuses a session's datagrams.
    pub fn session_failed(&mut self, session: SessionId, error: SessionError) {
        let Some(found) = self.sessions.get(session) else { return };
        let (key, Some((port, mac))) = (found.key, found.place) else { return };
        // The datagram is gone; what an error quotes of it is its addresses (RFC 792), which say whose it was.
        let mut quoted = [0; IPV4 + UDP];
        match key.kind {
            Kind::Udp => wire::udp(&mut quoted[IPV4..], key.guest, key.remote),
            Kind::Ping => {
                quoted[IPV4] = 8;
                quoted[IPV4 + 4..IPV4 + 6].copy_from_slice(&key.guest.1.to_be_bytes());
            }
        }
        let protocol = if key.kind == Kind::Udp { wire::PROTO_UDP } else { wire::PROTO_ICMP };
        wire::ipv4(&mut quoted, key.guest.0, key.remote.0, protocol);
        let (from, why) = match error {
            SessionError::Refused => (key.remote.0, Unreachable::Port),
            SessionError::HostUnreachable => (self.config.gateway, Unreachable::Host),
            SessionError::NetworkUnreachable => (self.config.gateway, Unreachable::Network),
            SessionError::Prohibited => (self.config.gateway, Unreachable::Prohibited),
            SessionError::TooLong(mtu) => (self.config.gateway, Unreachable::FragmentationNeeded(mtu)),
        };
        self.send_error((port, mac), from, key.guest.0, &quoted, why);
    }

    /// The answer to a question of [`Handled::Dns`].
    pub fn handle_dns_answer(&mut self, client: u64, answer: &[u8]) {
        let found = self.dns_clients.get((client % DNS_CLIENTS as u64) as usize).filter(|c| c.number == client);
        if let Some(&DnsClient { port, mac, address, .. }) = found {
            self.send_udp((port, mac), (self.config.gateway, 53), address, answer);
        }
    }

    /// The egress policy, for the name server.
    pub const fn policy(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// Learned hardware addresses and their links.
    #[must_use]
    pub fn addresses(&self) -> Vec<([u8; 6], PortId)> {
        self.switch.addresses()
    }

    /// Addresses given out, with the gateway's and the static ones.
    #[must_use]
    pub fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, [u8; 6]> {
        self.dhcp.leases(now)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.links = self.ports.len() as u64;
        counters.tcp_flows = self.tcp.len() as u64;
        counters.tcp_time_wait = self.tcp.remembered() as u64;
        counters.tcp_buffer_bytes = self.tcp.memory() as u64;
        counters.sessions = self.sessions.len() as u64;
        (counters.frames_out, counters.bytes_out) = self.ports.sent_in_all();
        counters
    }

    /// Counters of its DHCP server.
    #[must_use]
    pub const fn dhcp_counters(&self) -> &DhcpCounters {
        self.dhcp.counters()
    }

    /// Counters of fragments.
    #[must_use]
    pub const fn fragment_counters(&self) -> &FragmentCounters {
        self.reassembler.counters()
    }

    /// Counters of the policy.
    #[must_use]
    pub fn policy_counters(&self) -> PolicyCounters {
        let mut counters = self.verdicts;
        counters.observe(&self.policy);
        counters
    }

    fn is_guest(&self, address: Ipv4Addr) -> bool {
        let Config { subnet, gateway, host, .. } = &self.config;
        subnet.contains(&address)
            && address != *gateway
            && address != *host
            && address != subnet.network()
            && address != subnet.broadcast()
    }

    fn flood(&mut self, from: PortId, frame: &[u8]) {
        if !self.config.switching {
            return;
        }
        let others: Vec<PortId> = self.ports.iter().map(|(id, _)| id).filter(|id| *id != from).collect();
        for id in others {
            self.pass_on(id, frame);
        }
    }

    fn forward(&mut self, now: Instant, from: PortId, destination: [u8; 6], frame: &[u8]) {
        match self.switch.find(now, destination) {
            Some(to) if to != from && self.config.switching => self.pass_on(to, frame),
            // Two stations behind one link are that link's affair.
            Some(_) | None => self.counters.unknown_destination += 1,
        }
    }

    fn pass_on(&mut self, to: PortId, frame: &[u8]) {
        match self.ports.slot(to, frame.len()) {
            Some(slot) => {
                slot.copy_from_slice(frame);
                self.counters.switched += 1;
            }
            None => self.counters.link_full += 1,
        }
    }

    fn handle_local<'f>(&mut self, now: Instant, port: PortId, mac: [u8; 6], frame: &'f [u8]) -> Handled<'f> {
        let payload = &frame[ETHERNET..];
        match [frame[12], frame[13]] {
            wire::ETHERTYPE_IPV4 => return self.handle_ipv4(now, (port, mac), payload),
            wire::ETHERTYPE_ARP => self.handle_arp((port, mac), payload),
            _ => self.counters.unsupported += 1,
        }
        Handled::Done
    }

    fn handle_arp(&mut self, (port, mac): (PortId, [u8; 6]), payload: &[u8]) {
        let Some(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(sender),
            source_protocol_addr: address,
            target_protocol_addr: target,
            ..
        }) = ArpPacket::new_checked(payload).ok().and_then(|packet| ArpRepr::parse(&packet).ok())
        else {
            self.counters.malformed += 1;
            return;
        };
        // A sender that speaks for another station, or for an address that is not a guest's, is not believed. A probe has
        // no address yet (RFC 5227).
        if sender != mac || !(address.is_unspecified() || self.is_guest(address)) {
            self.counters.spoofed += 1;
            return;
        }
        if !address.is_unspecified() {
            self.found((port, mac), address);
        }
        // As gvproxy: nobody but the gateway answers for its addresses, and it answers for no others.
        if operation == ArpOperation::Request && (target == self.config.gateway || target == self.config.host) {
            self.send_arp(Some((port, mac)), ArpOperation::Reply, target, mac, address);
        }
    }

    /// A guest is where it says.
    fn found(&mut self, (port, mac): (PortId, [u8; 6]), address: Ipv4Addr) {
        let Ok(waiters) = self.neighbours.learn(&self.ports, address, Neighbour { port, mac }) else {
            self.counters.spoofed += 1;
            return;
        };
        let Some(tenant) = self.ports.get(port).map(|port| port.tenant) else { return };
        for waiter in waiters {
            match waiter {
                Waiter::Flow(flow) => {
                    let Self { tcp, ports, tenants, out, counters, .. } = self;
                    tcp.resolved(&mut Context { ports, tenants, out, counters }, flow, Some((port, mac, tenant)));
                }
                Waiter::Datagram(session, payload) => {
                    if let Some(key) = self.sessions.get(session).map(|session| session.key) {
                        self.counters.datagrams_out += 1;
                        self.send_udp((port, mac), key.remote, key.guest, &payload);
                    }
                }
            }
        }
    }

    fn handle_ipv4<'f>(&mut self, now: Instant, from: (PortId, [u8; 6]), bytes: &'f [u8]) -> Handled<'f> {
        let Some(ip) = Ipv4::parse(bytes) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let asks_for_an_address = ip.source.is_unspecified() && ip.protocol == wire::PROTO_UDP;
        if !self.is_guest(ip.source) && !asks_for_an_address {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if !ip.fragment {
            return self.handle_packet(now, from, &ip);
        }
        let Some(tenant) = self.ports.get(from.0).map(|port| port.tenant) else { return Handled::Done };
        let Some(whole) = self.reassembler.handle(now, tenant, ip.packet) else { return Handled::Done };
        let Some(ip) = Ipv4::parse(&whole) else { return Handled::Done };
        match self.handle_packet(now, from, &ip) {
            Handled::Done => Handled::Done,
            Handled::Datagram { session, kind, to, payload } => {
                Handled::Datagram { session, kind, to, payload: Cow::Owned(payload.into_owned()) }
            }
            Handled::Dns { client, query } => Handled::Dns { client, query: Cow::Owned(query.into_owned()) },
        }
    }

    fn handle_packet<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ipv4<'p>) -> Handled<'p> {
        match ip.protocol {
            wire::PROTO_TCP => self.handle_tcp(now, from, ip),
            wire::PROTO_UDP => return self.handle_udp(now, from, ip),
            wire::PROTO_ICMP => return self.handle_icmp(now, from, ip),
            _ => self.counters.unsupported += 1,
        }
        Handled::Done
    }

    fn handle_tcp(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ipv4<'_>) {
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
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        let ctx = &mut Context { ports, tenants, out, counters };
        if let Some(flow) = found
            && tcp.handle_segment(now, ctx, from, flow, &segment, ip.packet)
        {
            return;
        }
        if segment.flags & (SYN | ACK | RST) != SYN {
            return tcp.stray(now, ctx, from, &key, &segment);
        }
        match self.target(now, Proto::Tcp, ip.destination, segment.destination_port) {
            Ok(target) => {
                self.found(from, ip.source);
                let Self { tcp, ports, tenants, out, counters, .. } = self;
                tcp.hold(now, &mut Context { ports, tenants, out, counters }, from, key, target, ip.packet);
            }
            Err(NoTarget::Nobody | NoTarget::Denied) => {
                let Self { tcp, ports, tenants, out, counters, .. } = self;
                tcp.reset_stray(&mut Context { ports, tenants, out, counters }, from, &key, &segment);
            }
        }
    }

    /// Where something to this address really leads.
    fn target(&mut self, now: Instant, proto: Proto, address: Ipv4Addr, port: u16) -> Result<Target, NoTarget> {
        if address == self.config.gateway {
            return match (proto, port) {
                (Proto::Tcp, 53) => Ok(Target::Dns),
                (Proto::Tcp, 80) if self.config.guest_services => Ok(Target::Services),
                _ => Err(NoTarget::Nobody),
            };
        }
        let (verdict, real) = if address == self.config.host {
            (self.policy.verdict_host_loopback(proto, port), IpAddr::V4(Ipv4Addr::LOCALHOST))
        } else if let Some(real) = self.config.nat.get(&address) {
            (Verdict::Allow, *real)
        } else if self.config.subnet.contains(&address) {
            return Err(NoTarget::Nobody);
        } else {
            (self.policy.verdict(now, proto, address.into(), port), address.into())
        };
        self.verdicts.count(verdict);
        match verdict {
            Verdict::Allow => Ok(Target::Address((real, port).into())),
            Verdict::Deny(_) => Err(NoTarget::Denied),
        }
    }

    fn handle_udp<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ipv4<'p>) -> Handled<'p> {
        let payload = ip.payload;
        let (Some(head), Some(tenant)) = (payload.first_chunk::<UDP>(), self.ports.get(from.0).map(|port| port.tenant))
        else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let (source, destination) = (wire::be16(head, 0), wire::be16(head, 2));
        let len = usize::from(wire::be16(head, 4));
        let Some(data) = payload.get(UDP..len).filter(|_| destination != 0) else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        if destination == 67 && (ip.destination == self.config.gateway || ip.destination.is_broadcast()) {
            self.handle_dhcp(now, from, data);
            return Handled::Done;
        }
        if ip.source.is_unspecified() {
            self.counters.spoofed += 1;
            return Handled::Done;
        }
        if ip.destination == self.config.gateway && destination == 53 {
            let client = self.dns_client(from, (ip.source, source));
            self.counters.dns_queries += 1;
            return Handled::Dns { client, query: Cow::Borrowed(data) };
        }
        let key =
            SessionKey { tenant, kind: Kind::Udp, guest: (ip.source, source), remote: (ip.destination, destination) };
        let Some((session, to)) = self.session(now, from, key, Proto::Udp, ip) else { return Handled::Done };
        Handled::Datagram { session, kind: Kind::Udp, to, payload: Cow::Borrowed(data) }
    }

    fn handle_icmp<'p>(&mut self, now: Instant, from: (PortId, [u8; 6]), ip: &Ipv4<'p>) -> Handled<'p> {
        let payload = ip.payload;
        // Unlike TCP's and UDP's, gvproxy verifies this checksum too.
        if payload.len() < ICMP || !crate::offload::checksum::is_valid(crate::offload::checksum::add(0, payload)) {
            self.counters.malformed += 1;
            return Handled::Done;
        }
        if payload[..2] != [8, 0] {
            self.counters.unsupported += 1;
            return Handled::Done;
        }
        if ip.destination == self.config.gateway || ip.destination == self.config.host {
            let mut reply = payload.to_vec();
            reply[0] = 0;
            wire::icmp(&mut reply);
            self.send_ip(from, ip.destination, ip.source, wire::PROTO_ICMP, &reply);
            return Handled::Done;
        }
        let Some(tenant) = self.ports.get(from.0).map(|port| port.tenant) else { return Handled::Done };
        let identifier = wire::be16(payload, 4);
        let key = SessionKey { tenant, kind: Kind::Ping, guest: (ip.source, identifier), remote: (ip.destination, 0) };
        let Some((session, to)) = self.session(now, from, key, Proto::Icmp, ip) else { return Handled::Done };
        Handled::Datagram { session, kind: Kind::Ping, to, payload: Cow::Borrowed(payload) }
    }

    /// The session of a guest's datagram, an old one or a new one.
    fn session(
        &mut self,
        now: Instant,
        from: (PortId, [u8; 6]),
        key: SessionKey,
        proto: Proto,
        ip: &Ipv4<'_>,
    ) -> Option<(SessionId, SocketAddr)> {
        let known = self.sessions.find(now, &key, from);
        let session = match known {
            Some(session) => session,
            None => {
                let to = match self.target(now, proto, key.remote.0, key.remote.1) {
                    Ok(Target::Address(to)) => to,
                    Ok(Target::Dns | Target::Services) | Err(NoTarget::Nobody) => {
                        // Broadcast and multicast get no errors (RFC 1122 section 3.2.2).
                        if self.config.subnet.contains(&key.remote.0) && key.remote.0 != self.config.subnet.broadcast()
                        {
                            self.send_error(from, key.remote.0, ip.source, ip.packet, Unreachable::Port);
                        }
                        return None;
                    }
                    Err(NoTarget::Denied) => {
                        if !key.remote.0.is_multicast() && !key.remote.0.is_broadcast() {
                            self.send_error(from, self.config.gateway, ip.source, ip.packet, Unreachable::Prohibited);
                        }
                        return None;
                    }
                };
                self.found(from, ip.source);
                match self.sessions.open(now, &mut self.tenants, &mut self.out, key, to, Some(from)) {
                    Ok(session) => session,
                    Err(refusal) => {
                        self.counters.refuse(refusal);
                        return None;
                    }
                }
            }
        };
        let to = self.sessions.get(session)?.to;
        let mtu = self.config.world_mtu;
        if ip.dont_fragment && ip.packet.len() > mtu.into() && !to.ip().is_loopback() {
            self.send_error(from, self.config.gateway, ip.source, ip.packet, Unreachable::FragmentationNeeded(mtu));
            return None;
        }
        self.counters.datagrams_in += 1;
        Some((session, to))
    }

    fn handle_dhcp(&mut self, now: Instant, (port, mac): (PortId, [u8; 6]), data: &[u8]) {
        // What is dropped is counted there.
        let Ok(Some(reply)) = self.dhcp.handle(now, data) else { return };
        // Only the link that asked: an answer to all would tell other enclaves, which may well use the same number.
        let to = if reply.broadcast { BROADCAST } else { reply.mac };
        if !reply.broadcast && reply.mac == mac {
            self.found((port, mac), reply.yiaddr);
        }
        self.send_udp((port, to), (self.config.gateway, 67), (reply.to, 68), &reply.payload);
    }

    fn dns_client(&mut self, (port, mac): (PortId, [u8; 6]), address: (Ipv4Addr, u16)) -> u64 {
        let number = self.dns_number;
        self.dns_number += 1;
        let client = DnsClient { number, port, mac, address };
        let index = (number % DNS_CLIENTS as u64) as usize;
        match self.dns_clients.get_mut(index) {
            Some(place) => *place = client,
            None => self.dns_clients.push(client),
        }
        number
    }

    /// Asks all links for a guest.
    fn ask(&mut self, address: Ipv4Addr) {
        self.send_arp(None, ArpOperation::Request, self.config.gateway, [0; 6], address);
    }

    fn send_arp(
        &mut self,
        to: Option<(PortId, [u8; 6])>,
        operation: ArpOperation,
        source: Ipv4Addr,
        target_mac: [u8; 6],
        target: Ipv4Addr,
    ) {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.config.gateway_mac),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        };
        let ports = match to {
            Some((port, _)) => vec![port],
            None => self.ports.iter().map(|(id, _)| id).collect(),
        };
        let destination = to.map_or(BROADCAST, |(_, mac)| mac);
        for port in ports {
            match self.ports.slot(port, ETHERNET + repr.buffer_len()) {
                Some(slot) => {
                    wire::ethernet(slot, destination, self.config.gateway_mac, wire::ETHERTYPE_ARP);
                    repr.emit(&mut ArpPacket::new_unchecked(&mut slot[ETHERNET..]));
                }
                None => self.counters.link_full += 1,
            }
        }
    }

    fn send_udp(
        &mut self,
        (port, mac): (PortId, [u8; 6]),
        source: (Ipv4Addr, u16),
        destination: (Ipv4Addr, u16),
        payload: &[u8],
    ) {
        let len = IPV4 + UDP + payload.len();
        if len > self.config.mtu.into() {
            if len > usize::from(u16::MAX) {
                self.counters.malformed += 1;
                return;
            }
            let mut datagram = vec![0; UDP + payload.len()];
            datagram[UDP..].copy_from_slice(payload);
            wire::udp(&mut datagram, source, destination);
            return self.send_ip((port, mac), source.0, destination.0, wire::PROTO_UDP, &datagram);
        }
        let Some(slot) = self.ports.slot(port, ETHERNET + len) else {
            self.counters.link_full += 1;
            return;
        };
        wire::ethernet(slot, mac, self.config.gateway_mac, wire::ETHERTYPE_IPV4);
        let packet = &mut slot[ETHERNET..];
        packet[IPV4 + UDP..].copy_from_slice(payload);
        wire::udp(&mut packet[IPV4..], source, destination);
        wire::ipv4(packet, source.0, destination.0, wire::PROTO_UDP);
    }

    /// Sends a payload of one protocol, in fragments if need be.
    fn send_ip(
        &mut self,
        (port, mac): (PortId, [u8; 6]),
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        payload: &[u8],
    ) {
        if IPV4 + payload.len() <= self.config.mtu.into() {
            let Some(slot) = self.ports.slot(port, ETHERNET + IPV4 + payload.len()) else {
                self.counters.link_full += 1;
                return;
            };
            wire::ethernet(slot, mac, self.config.gateway_mac, wire::ETHERTYPE_IPV4);
            let packet = &mut slot[ETHERNET..];
            packet[IPV4..].copy_from_slice(payload);
            wire::ipv4(packet, source, destination, protocol);
            return;
        }
        self.identification = self.identification.wrapping_add(1);
        let header = fragments::Header {
            src: source,
            dst: destination,
            protocol: IpProtocol::from(protocol),
            ttl: 64,
            ident: self.identification,
        };
        let Ok(fragments) = fragments::fragment(header, payload, self.config.mtu) else {
            self.counters.malformed += 1;
            return;
        };
        for fragment in fragments {
            let Some(slot) = self.ports.slot(port, ETHERNET + IPV4 + fragment.payload.len()) else {
                self.counters.link_full += 1;
                return;
            };
            wire::ethernet(slot, mac, self.config.gateway_mac, wire::ETHERTYPE_IPV4);
            slot[ETHERNET..ETHERNET + IPV4].copy_from_slice(&fragment.header);
            slot[ETHERNET + IPV4..].copy_from_slice(fragment.payload);
        }
    }

    fn send_error(
        &mut self,
        to: (PortId, [u8; 6]),
        source: Ipv4Addr,
        destination: Ipv4Addr,
        about: &[u8],
        why: Unreachable,
    ) {
        self.counters.icmp_errors_out += 1;
        let message = wire::unreachable(about, why);
        self.send_ip(to, source, destination, wire::PROTO_ICMP, &message);
    }
}

/// The tenant of connections to a guest that has yet to be found.
const NOBODY: u32 = u32::MAX;

/// Why something leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoTarget {
    /// There is nobody.
    Nobody,
    /// It is not allowed.
    Denied,
}

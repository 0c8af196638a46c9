//! The host: frames in, frames out, connections by address.
//!
//! Owns: connections, neighbours, listening ports. No sockets of the world, no tasks, no clock.
//! Driven by: `socket`.   Drain: after every call, [`Host::poll_packet`] until `None`, then [`Host::poll_timeout`].
//! Bounds: [`HostConfig::max_flows`] connections, [`HostConfig::backlog`] of them not yet accepted per port, buffers of
//! fixed size each, `MAX_HELD` SYNs waiting for a decision, `HEARD` datagrams per port that nobody has read.

use super::{
    arp::{self, Mac, Neighbours},
    datagram::{self, Heard, Way},
    flow::{Flow, FlowConfig},
    vnet::{self, Packet, Refused},
};
use nitrotap_core::{offload::VNET_LEN, time::Instant};
use smoltcp::{
    socket::tcp::State,
    wire::{ArpOperation, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

/// What a host is told once.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Hardware address.
    pub mac: Mac,
    /// Own address; for a gateway, further ones it answers ARP for are in `also`.
    pub address: Ipv4Addr,
    /// Further addresses it answers ARP for.
    pub also: Vec<Ipv4Addr>,
    /// Where packets to other networks go; `None` for a gateway.
    pub gateway: Option<Ipv4Addr>,
    /// IP MTU of the interface.
    pub mtu: usize,
    /// Bytes of each connection's receive buffer, and of its send buffer.
    pub buffer: usize,
    /// How long an acknowledgement waits for data to travel with: 40 ms in Linux, not at all in gVisor.
    pub ack_delay: Option<Duration>,
    /// Longest time without an answer from the peer.
    pub user_timeout: Duration,
    /// Longest life of a connection that its program has closed (60 s, `tcp_fin_timeout`).
    pub fin_timeout: Duration,
    /// Connections in all.
    pub max_flows: usize,
    /// Connections per port that wait to be accepted.
    pub backlog: usize,
    /// Terminate connections to any address, after asking (a gateway); otherwise only to the own one.
    pub gateway_mode: bool,
    /// SYNs that wait for a decision; one more is dropped silently (gvproxy's `tcp.NewForwarder(s, 0, 10, …)`).
    pub max_held: usize,
    /// Leave checksums and segmentation of TCP to whoever takes the frames, and take packets with a virtio-net header.
    pub offload: bool,
    /// Seed of sequence numbers and ports.
    pub seed: u64,
}

/// A connection's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Our address and port.
    pub local: (Ipv4Addr, u16),
    /// The peer's.
    pub peer: (Ipv4Addr, u16),
}

/// One connection between two addresses, told apart from earlier and later ones between the same two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId {
    /// The addresses.
    pub key: Key,
    serial: u64,
}

/// A SYN that waits for [`Host::admit`] or [`Host::refuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// The connection it asks for.
    pub key: Key,
}

/// Ports for whoever wants any (`ip_local_port_range`).
const PORTS: Range<u16> = 32_768..61_000;

/// Datagrams that wait at a port; one more is dropped and counted as refused.
const HEARD: usize = 256;

/// What a host holds; for invariants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// Connections, whatever their state.
    pub flows: usize,
    /// Those that nobody holds any more.
    pub orphans: usize,
    /// Frames taken; a super-frame is one.
    pub frames_in: u64,
    /// Frames made; a super-frame is one.
    pub frames_out: u64,
    /// Packets not taken because of their virtio-net header.
    pub malformed: u64,
    /// Packets whose checksum was to be finished and did not hold the pseudo-header's sum: Linux takes them, but whoever made
    /// them has made a mistake.
    pub wrong_sums: u64,
    /// Frames that made no sense or had no taker.
    pub ignored: u64,
    /// Connections refused for want of room.
    pub refused: u64,
    /// Packets dropped because nobody answered for their address.
    pub unresolved: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    flows: BTreeMap<Key, Flow>,
    deadlines: BTreeSet<(Instant, Key)>,
    listening: BTreeMap<u16, VecDeque<FlowId>>,
    next_serial: u64,
    held: BTreeMap<Key, Vec<u8>>,
    syns: VecDeque<Syn>,
    /// What waits at ports of UDP and identifiers of pings.
    bound: BTreeMap<u16, VecDeque<Heard>>,
    next_bound: u16,
    neighbours: Neighbours,
    ask_again: Option<Instant>,
    out: VecDeque<Packet>,
    rng: fastrand::Rng,
    next_port: u16,
    usage: HostUsage,
}

impl Host {
    /// A host without connections.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        Self {
            rng: crate::rng::stream(config.seed, "stack"),
            config,
            flows: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            listening: BTreeMap::new(),
            next_serial: 1,
            held: BTreeMap::new(),
            syns: VecDeque::new(),
            bound: BTreeMap::new(),
            next_bound: PORTS.start,
            neighbours: Neighbours::default(),
            ask_again: None,
            out: VecDeque::new(),
            next_port: 32_768,
            usage: HostUsage::default(),
        }
    }

    /// What it holds.
    #[must_use]
    pub fn usage(&self) -> HostUsage {
        let orphans = self.flows.values().filter(|flow| flow.orphaned.is_some()).count();
        HostUsage { flows: self.flows.len(), orphans, unresolved: self.neighbours.dropped(), ..self.usage }
    }

    /// Connections as `/proc/net/tcp` has them, established or half-closed: our address, and the peer's.
    pub(super) fn open_connections(&mut self) -> Vec<(SocketAddr, SocketAddr)> {
        let open = |flow: &mut Flow| {
            let state = flow.socket().state();
            let over =
                matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived | State::TimeWait);
            !over
        };
        let found = self.flows.iter_mut().filter_map(|(key, flow)| open(flow).then_some(*key));
        found.map(|Key { local, peer }| (local.into(), peer.into())).collect()
    }

    /// Takes connections to `port`; false if somebody does already.
    pub fn listen(&mut self, port: u16) -> bool {
        let free = !self.listening.contains_key(&port);
        self.listening.entry(port).or_default();
        free
    }

    /// Takes no more; connections that were not accepted are reset.
    pub fn unlisten(&mut self, now: Instant, port: u16) {
        self.listening.remove(&port);
        let unaccepted = self.flows.iter().filter(|(key, flow)| key.local.1 == port && flow.unaccepted);
        let lost: Vec<FlowId> = unaccepted.map(|(key, flow)| FlowId { key: *key, serial: flow.serial }).collect();
        for id in lost {
            self.abort(now, id);
            self.orphan(now, id);
        }
    }

    /// The next connection to `port`.
    pub fn accept(&mut self, port: u16) -> Option<FlowId> {
        let id = self.listening.get_mut(&port)?.pop_front()?;
        self.peek(id, |flow| flow.unaccepted = false);
        Some(id)
    }

    /// Opens a connection; `None` when there is no room.
    pub fn connect(&mut self, now: Instant, peer: (Ipv4Addr, u16)) -> Option<FlowId> {
        if self.flows.len() >= self.config.max_flows {
            self.usage.refused += 1;
            return None;
        }
        let key = loop {
            let port = self.next_port;
            self.next_port = if port >= 60_999 { 32_768 } else { port + 1 };
            let key = Key { local: (self.config.address, port), peer };
            if !self.flows.contains_key(&key) {
                break key;
            }
        };
        let flow = Flow::connect(now, key.local, peer, self.flow_config(), self.rng.u64(..));
        let id = self.insert(key, flow);
        self.poll_flow(now, key);
        Some(id)
    }

    fn insert(&mut self, key: Key, mut flow: Flow) -> FlowId {
        let serial = self.next_serial;
        self.next_serial += 1;
        flow.serial = serial;
        self.flows.insert(key, flow);
        FlowId { key, serial }
    }

    /// Calls `f` with a connection and lets what it did take effect; `None` if it is gone.
    pub(super) fn with<T>(&mut self, now: Instant, id: FlowId, f: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        let result = self.peek(id, f)?;
        self.poll_flow(now, id.key);
        Some(result)
    }

    /// Looks at a connection without touching it.
    pub(super) fn peek<T>(&mut self, id: FlowId, f: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        self.flows.get_mut(&id.key).filter(|flow| flow.serial == id.serial).map(f)
    }

    /// Resets a connection.
    pub fn abort(&mut self, now: Instant, id: FlowId) {
        self.with(now, id, |flow| flow.socket().abort());
    }

    /// Nobody holds the connection any more: it may finish by itself, within [`HostConfig::fin_timeout`].
    pub fn orphan(&mut self, now: Instant, id: FlowId) {
        let until = now + self.config.fin_timeout;
        self.with(now, id, |flow| flow.orphaned = Some(until));
    }

    /// A port for datagrams and pings that nobody has; `None` if all are taken.
    pub fn bind(&mut self) -> Option<u16> {
        // One after another, so that late answers find nobody instead of somebody else.
        for _ in PORTS {
            let port = self.next_bound;
            self.next_bound = if port + 1 == PORTS.end { PORTS.start } else { port + 1 };
            if let Entry::Vacant(free) = self.bound.entry(port) {
                free.insert(VecDeque::new());
                return Some(port);
            }
        }
        None
    }

    /// Takes no more.
    pub fn unbind(&mut self, port: u16) {
        self.bound.remove(&port);
    }

    /// What has come to `port`, the oldest first.
    pub fn hear(&mut self, port: u16) -> Option<Heard> {
        self.bound.get_mut(&port)?.pop_front()
    }

    /// Sends a datagram that passes so many links at most.
    pub fn send_udp(&mut self, now: Instant, port: u16, to: (Ipv4Addr, u16), hop_limit: u8, payload: &[u8]) {
        let way = Way { from: (self.config.address, port), to, hop_limit };
        let packet = datagram::udp(way, payload, self.config.offload);
        self.send(now, to.0, vec![packet]);
    }

    /// Sends an echo request.
    pub fn ping(&mut self, now: Instant, port: u16, to: Ipv4Addr, hop_limit: u8, data: &[u8]) {
        let way = Way { from: (self.config.address, port), to: (to, 0), hop_limit };
        self.send(now, to, vec![datagram::ping(way, 1, data)]);
    }

    /// A frame has arrived.
    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        self.take(now, frame, None);
    }

    /// A packet with a virtio-net header has arrived.
    ///
    /// # Errors
    /// [`Refused`] is what Linux answers with `EINVAL`.
    pub fn handle_packet(&mut self, now: Instant, header: &[u8; VNET_LEN], frame: &[u8]) -> Result<(), Refused> {
        let taken = vnet::take(header, frame).inspect_err(|_| self.usage.malformed += 1)?;
        self.usage.wrong_sums += u64::from(taken.is_wrong);
        self.take(now, &taken.frame, taken.size);
        Ok(())
    }

    /// A frame, and the payload bytes of each part if it is a super-frame.
    fn take(&mut self, now: Instant, frame: &[u8], size: Option<usize>) {
        self.usage.frames_in += 1;
        let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return self.ignore() };
        if ethernet.dst_addr() != self.config.mac && !ethernet.dst_addr().is_broadcast() {
            return self.ignore();
        }
        match ethernet.ethertype() {
            EthernetProtocol::Arp => self.handle_arp(ethernet.payload()),
            EthernetProtocol::Ipv4 => self.handle_ip(now, ethernet.payload(), size),
            EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => self.ignore(),
        }
    }

    /// Deadlines up to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.ask_again.is_some_and(|at| at <= now) {
            self.ask_again = None;
            for ip in self.neighbours.unanswered() {
                self.ask(now, ip);
            }
        }
        while let Some(&(at, key)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.scheduled = None;
                if flow.orphaned.is_some_and(|until| until <= now) {
                    flow.socket().abort();
                }
            }
            self.poll_flow(now, key);
        }
    }

    /// When to call [`Host::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(self.ask_again).min()
    }

    /// The next frame to send, with a header that says nothing unless [`HostConfig::offload`] is on.
    #[must_use]
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.out.pop_front()
    }

    /// The next SYN to decide about; only for a gateway.
    #[must_use]
    pub fn poll_syn(&mut self) -> Option<Syn> {
        self.syns.pop_front()
    }

    /// Whether a SYN waits to be polled.
    pub(super) fn has_syns(&self) -> bool {
        !self.syns.is_empty()
    }

    /// Opens the connection that a held SYN asks for; `None` if it has gone.
    pub fn admit(&mut self, now: Instant, key: Key) -> Option<FlowId> {
        let packet = self.held.remove(&key)?;
        if self.flows.len() >= self.config.max_flows || self.flows.contains_key(&key) {
            self.usage.refused += 1;
            return None;
        }
        let mut flow = Flow::listen(now, key.local, self.flow_config(), self.rng.u64(..));
        flow.unaccepted = false;
        let made = flow.handle_packet(now, packet);
        let id = self.insert(key, flow);
        self.send(now, key.peer.0, made);
        self.poll_flow(now, key);
        Some(id)
    }

    /// Refuses the connection that a held SYN asks for, with a reset.
    pub fn refuse(&mut self, now: Instant, key: Key) {
        if let Some(packet) = self.held.remove(&key) {
            let made = Flow::reject(now, key.local.0, packet, self.flow_config());
            self.send(now, key.peer.0, made);
        }
    }

    const fn flow_config(&self) -> FlowConfig {
        FlowConfig {
            mtu: self.config.mtu,
            buffer: self.config.buffer,
            ack_delay: self.config.ack_delay,
            user_timeout: self.config.user_timeout,
            trusting: self.config.gateway_mode,
            offload: self.config.offload,
        }
    }

    fn ignore(&mut self) {
        self.usage.ignored += 1;
    }

    fn handle_arp(&mut self, payload: &[u8]) {
        let Some((operation, mac, from, to)) = arp::parse(payload) else { return self.ignore() };
        for packet in self.neighbours.learn(from, mac) {
            self.frame(mac, packet);
        }
        if operation == ArpOperation::Request && (to == self.config.address || self.config.also.contains(&to)) {
            let reply = arp::frame(ArpOperation::Reply, (self.config.mac, to), (mac, from));
            self.emit(Packet::plain(reply));
        }
    }

    fn handle_datagram(&mut self, packet: &[u8], size: Option<usize>) {
        let Some((port, heard)) = datagram::parse(packet, size) else { return self.ignore() };
        let Some(waiting) = self.bound.get_mut(&port) else { return self.ignore() };
        for heard in heard {
            if waiting.len() >= HEARD {
                self.usage.refused += 1;
                return;
            }
            waiting.push_back(heard);
        }
    }

    fn handle_ip(&mut self, now: Instant, payload: &[u8], size: Option<usize>) {
        let Some((key, flags, len)) = parse_tcp(payload) else { return self.handle_datagram(payload, size) };
        let packet = payload[..len].to_vec();
        if let Some(flow) = self.flows.get_mut(&key) {
            // A SYN on a connection that is open: the peer has forgotten it. Linux answers with a challenge, the peer with a
            // reset, and the next SYN opens a new one (RFC 5961 section 4.2); here that is one step. So it is for a
            // connection that has only to wait its time out (RFC 9293 section 3.10.7.4).
            let forgotten = flags.syn && !flags.ack && !matches!(flow.state(), State::SynReceived | State::SynSent);
            if !forgotten {
                let orphaned = flow.orphaned.is_some();
                let made = if size.is_some() {
                    flow.handle_super_packet(now, packet)
                } else {
                    flow.handle_packet(now, packet)
                };
                if orphaned && flow.socket().can_recv() {
                    // Data for a program that is gone (RFC 2525 section 2.17).
                    flow.socket().abort();
                }
                self.send(now, key.peer.0, made);
                return self.poll_flow(now, key);
            }
            flow.wake_all();
            self.remove(key);
        }
        if !flags.syn || flags.ack {
            let config = self.flow_config();
            if !flags.rst {
                let made = Flow::reject(now, key.local.0, packet, config);
                self.send(now, key.peer.0, made);
            }
            return;
        }
        if self.config.gateway_mode {
            if self.held.contains_key(&key) {
                return;
            }
            if self.held.len() >= self.config.max_held {
                self.usage.refused += 1;
                return;
            }
            self.held.insert(key, packet);
            self.syns.push_back(Syn { key });
            return;
        }
        if key.local.0 != self.config.address {
            return self.ignore();
        }
        let waiting = self.flows.iter().filter(|(k, flow)| k.local.1 == key.local.1 && flow.unaccepted).count();
        if self.listening.contains_key(&key.local.1)
            && waiting < self.config.backlog
            && self.flows.len() < self.config.max_flows
        {
            let mut flow = Flow::listen(now, key.local, self.flow_config(), self.rng.u64(..));
            let made = flow.handle_packet(now, packet);
            self.insert(key, flow);
            self.send(now, key.peer.0, made);
            self.poll_flow(now, key);
        } else if self.listening.contains_key(&key.local.1) {
            // A full backlog drops the SYN and lets the peer try again.
            self.usage.refused += 1;
        } else {
            let made = Flow::reject(now, key.local.0, packet, self.flow_config());
            self.send(now, key.peer.0, made);
        }
    }

    /// Sends what a connection has to send, notes when to look at it again, and forgets it once it is over.
    fn poll_flow(&mut self, now: Instant, key: Key) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let made = flow.poll(now);
        let (state, serial) = (flow.state(), flow.serial);
        let at = flow.poll_at(now).into_iter().chain(flow.orphaned).min();
        let over = matches!(state, State::Closed | State::Listen);
        let announce = flow.unaccepted && flow.established && !flow.announced;
        flow.announced |= announce;
        let abandoned = flow.orphaned.is_some() || (flow.unaccepted && !flow.established);
        let earlier = at.filter(|at| flow.scheduled.is_none_or(|scheduled| *at < scheduled));
        if let Some(at) = earlier {
            if let Some(old) = flow.scheduled.replace(at) {
                self.deadlines.remove(&(old, key));
            }
            self.deadlines.insert((at, key));
        }
        self.send(now, key.peer.0, made);
        if announce && let Some(queue) = self.listening.get_mut(&key.local.1) {
            queue.push_back(FlowId { key, serial });
        }
        if over && abandoned {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(flow) = self.flows.remove(&key)
            && let Some(at) = flow.scheduled
        {
            self.deadlines.remove(&(at, key));
        }
    }

    fn send(&mut self, now: Instant, to: Ipv4Addr, packets: Vec<Packet>) {
        if packets.is_empty() {
            return;
        }
        let hop = match self.config.gateway {
            Some(gateway) if to.octets()[..3] != self.config.address.octets()[..3] => gateway,
            Some(_) | None => to,
        };
        for packet in packets {
            match self.neighbours.find(hop) {
                Some(mac) => self.frame(mac, packet),
                None => {
                    if self.neighbours.wait(hop, packet) {
                        self.ask(now, hop);
                    }
                }
            }
        }
    }

    fn ask(&mut self, now: Instant, ip: Ipv4Addr) {
        let request = arp::frame(ArpOperation::Request, (self.config.mac, self.config.address), (Mac::default(), ip));
        self.emit(Packet::plain(request));
        self.ask_again.get_or_insert(now + Duration::from_secs(1));
    }

    fn frame(&mut self, mac: Mac, packet: Packet) {
        let mut frame = arp::ethernet(self.config.mac, mac, EthernetProtocol::Ipv4, packet.bytes.len());
        frame[14..].copy_from_slice(&packet.bytes);
        self.emit(Packet { bytes: frame, ..packet });
    }

    fn emit(&mut self, packet: Packet) {
        self.usage.frames_out += 1;
        self.out.push_back(packet);
    }
}

/// The flags that decide who gets a segment.
#[derive(Clone, Copy)]
struct Flags {
    syn: bool,
    ack: bool,
    rst: bool,
}

/// Addresses, flags and length of an unfragmented TCP packet.
fn parse_tcp(payload: &[u8]) -> Option<(Key, Flags, usize)> {
    let ip = Ipv4Packet::new_checked(payload).ok()?;
    if ip.next_header() != IpProtocol::Tcp || ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    if tcp.src_port() == 0 || tcp.dst_port() == 0 {
        return None;
    }
    let key = Key { local: (ip.dst_addr(), tcp.dst_port()), peer: (ip.src_addr(), tcp.src_port()) };
    Some((key, Flags { syn: tcp.syn(), ack: tcp.ack(), rst: tcp.rst() }, usize::from(ip.total_len())))
}

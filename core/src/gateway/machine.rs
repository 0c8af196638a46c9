//! The gateway: frames of enclaves in, frames for enclaves out, connections and datagrams for the world between.
//!
//! Owns: links, the switch, leases, connections, sessions, the policy. No sockets, no clock.
//! Driven by: the daemon's data thread, the simulator, fuzz.
//! Drain: after a batch of inputs [`Gateway::flush`], then [`Gateway::poll_output`] until `None`; what the driver does with
//! an output may make more. Outputs may be taken before the flush too: then the world gets what guests sent before the guests
//! get their acknowledgements. Then one timer from [`Gateway::poll_timeout`]; it is due at once if more is to be sent than
//! one flush may, so that the driver sees to everybody else in between.
//! Bounds: those of its parts. No call does more than a bounded amount of work, whatever its peers do.

mod between;
mod datagrams;
mod errors;
mod flows;
mod held;
mod ipv6;
mod packets;
mod send;

use super::{
    config::{Config, ConfigError},
    counters::Counters,
    dhcp::{self, Dhcp, DhcpCounters},
    duplicates::{Duplicate, Duplicates, Station},
    floods::{Floods, Pace},
    fragments::{self, FragmentCounters, Reassembler},
    handled::{DialError, Handled, OpenError, SessionError},
    meeting::Conversations,
    ndp::{self, Disbelief, Discovery},
    neighbour::{Claimed, Due, Neighbour, Neighbours, Spoofed, Waiter},
    network6::{ALL_NODES, Network6, group_mac, is_ipv4_in_disguise},
    output::{Ended, FlowId, Output, Outputs, SessionId, Target},
    pins::Pins,
    policy::{Policy, PolicyCounters, Proto, Verdict, address::inside},
    port::{ANONYMOUS, PortId, Ports},
    publishing::{Asker, Holder},
    queue::LAST,
    session::{Kind, SessionKey, Sessions},
    switch::{Learning, Switch},
    tcp::{Context, FlowKey, FlowStatus, Owners, Refused, Tcp, TcpConfig},
    tenant::{Origin, Tenants},
    wire::{self, ACK, ETHERNET, ICMP, Ip, RST, SYN, Segment, UDP, Unreachable},
};
use crate::{
    frame::{Framing, MIN_FRAME},
    offload::checksum,
    time::Instant,
};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use held::Held;
use ipnet::{IpNet, Ipv6Net};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, IpProtocol};
use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

/// A question over UDP that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct DnsClient {
    asked: Instant,
    port: PortId,
    mac: [u8; 6],
    address: (IpAddr, u16),
    /// The gateway's address that was asked.
    server: IpAddr,
}

/// Questions over UDP of one link that may wait for their answers: what a resolver inside has under way, and no more than
/// leaves the name server to others.
const QUESTIONS: usize = 64;

/// A question that was not answered by then never will be: the name server gives up after five seconds.
const UNANSWERED: Duration = Duration::from_secs(10);

const BROADCAST: [u8; 6] = [0xff; 6];

/// Addresses of a link (RFC 4291 section 2.5.6), which guests with IPv6 have too.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    network6: Option<Network6>,
    /// When links with guests that speak IPv6 are next told of the router.
    advertise_at: Option<Instant>,
    advertise_rng: fastrand::Rng,
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
    dns_clients: BTreeMap<u64, DnsClient>,
    dns_number: u64,
    /// Whether any rule is about what enclaves say to each other.
    rules_between: bool,
    conversations: Conversations,
    /// What keeps learned addresses open.
    held: Held,
    /// The number of the last datagram in fragments of IPv4.
    identification: u16,
    /// The same of IPv6.
    identification6: u32,
    out: Outputs,
    counters: Counters,
    pins: Pins,
    duplicates: Duplicates,
    floods: Floods,
    /// The same of frames for one station.
    unicasts: Floods,
    /// The same of frames that come to nothing.
    useless: Floods,
    ended: VecDeque<(PortId, Ended)>,
}

impl Gateway {
    /// A gateway without links.
    ///
    /// # Errors
    /// [`ConfigError`] says what cannot be.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let pins = config.pins()?;
        // But for the network's own, the broadcast address, the gateway's and the host's.
        let guests = (1_usize << (32 - config.subnet.prefix_len().clamp(8, 30))) - 4;
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let tcp = TcpConfig {
            mac: config.gateway_mac,
            mtu: config.mtu.into(),
            max_flows: config.max_flows,
            memory: config.memory,
            largest_buffer: config.largest_buffer,
            seed: rng.u64(..),
            allocate: config.allocate,
            source_ports: config.source_ports,
        };
        let network6 = config.network6()?;
        let policy = Policy::new(config.policy.clone())?;
        let inside = [
            Some(IpNet::V4(config.subnet)),
            network6.map(|network| IpNet::V6(network.subnet)),
            network6.map(|_| IpNet::V6(LINK_LOCAL)),
        ];
        Ok(Self {
            rules_between: inside.into_iter().flatten().any(|net| policy.is_about_enclaves(&net)),
            // Of its own, so that it changes nothing for others.
            conversations: Conversations::new(config.seed),
            network6,
            advertise_at: None,
            // Of its own, so that it changes nothing for others.
            advertise_rng: fastrand::Rng::with_seed(config.seed),
            ports: Ports::new(config.allocate),
            switch: Switch::new(config.gateway_mac, rng.u64(..), config.keep_address, pins.macs().clone()),
            neighbours: Neighbours::new(guests, config.keep_address),
            tenants: Tenants::new(config.tenant, config.max_flows, config.max_sessions),
            dhcp: Dhcp::new(config.dhcp(&pins))?,
            policy,
            verdicts: PolicyCounters::default(),
            reassembler: Reassembler::default(),
            tcp: Tcp::new(tcp),
            sessions: Sessions::new(config.max_sessions, rng.u64(..)),
            dns_clients: BTreeMap::new(),
            dns_number: 0,
            held: Held::default(),
            identification: rng.u16(..),
            // Drawn last, so that it changes nothing for others. From there on it counts: RFC 7739 would have more where
            // fragments can be slipped in, but nobody else sends a guest packets from where the gateway's come from.
            identification6: rng.u32(..),
            out: Outputs::new(),
            counters: Counters::default(),
            pins,
            duplicates: Duplicates::default(),
            floods: Floods::to_all(),
            unicasts: Floods::to_one(),
            useless: Floods::useless(),
            ended: VecDeque::new(),
            config,
        })
    }

    /// What it was told.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// A link of `tenant` begins; `framing` is `None` where every message is a frame. `None` if there are too many links. Ask
    /// [`Gateway::poll_ended`] which one had to go for it.
    pub fn attach(&mut self, tenant: u32, framing: Option<Framing>) -> Option<PortId> {
        if let Some(crowded) = self.ports.in_the_way(tenant) {
            self.counters.links_crowded += 1;
            self.end(crowded, Ended::Crowded);
        }
        let port = self.ports.attach(tenant, framing)?;
        // A guest may be long there, and its link be new: it does not ask again.
        self.advertise(port);
        Some(port)
    }

    /// A link has ended. Its connections wait until their guest proves itself on another one, and its addresses for one of
    /// its tenant, for [`Config::keep_address`] from the next call on that says what time it is.
    pub fn detach(&mut self, port: PortId) {
        let Some(tenant) = self.ports.get(port).map(|port| port.tenant) else { return };
        // Nobody else's pieces complete what it has begun.
        if let Some(owner) = self.fragment_owner(port) {
            self.reassembler.forget(owner);
        }
        self.switch.detach(port, tenant);
        self.dhcp.detach(port.to_u64());
        self.neighbours.detach(port);
        self.conversations.detach(port);
        self.ports.detach(port);
        self.dns_clients.retain(|_, client| client.port != port);
        self.tcp.detach(port);
    }

    fn end(&mut self, port: PortId, why: Ended) {
        self.detach(port);
        self.ended.push_back((port, why));
    }

    /// A link that the gateway has ended by itself: its stream is to be closed.
    pub fn poll_ended(&mut self) -> Option<(PortId, Ended)> {
        self.ended.pop_front()
    }

    /// A frame has arrived on a link.
    pub fn handle_frame<'f>(&mut self, now: Instant, port: PortId, frame: &'f [u8]) -> Handled<'f> {
        if self.ports.get(port).is_none() {
            return Handled::Done;
        }
        self.counters.frames_in += 1;
        self.counters.bytes_in += frame.len() as u64;
        let (Some(destination), Some(source), true) =
            (frame.first_chunk::<6>(), frame.get(6..).and_then(<[u8]>::first_chunk::<6>), frame.len() >= MIN_FRAME)
        else {
            self.counters.malformed += 1;
            return Handled::Done;
        };
        let own = match self.switch.learn(now, &mut self.ports, port, *source) {
            Learning::Known | Learning::New => true,
            // Its own connections go on: they are told apart by their link. Two enclaves with one address, such as two
            // stock nitridings, both reach the world.
            Learning::Spoofed if *source != self.config.gateway_mac && source[0] & 1 == 0 => {
                self.counters.spoofed += 1;
                self.duplicate_mac(now, port, *source);
                false
            }
            Learning::Spoofed => {
                self.counters.spoofed += 1;
                return Handled::Done;
            }
            Learning::Full => {
                self.counters.addresses_full += 1;
                true
            }
        };
        if *destination == self.config.gateway_mac {
            return self.handle_local(now, port, *source, frame);
        }
        if destination[0] & 1 == 1 {
            return self.handle_between(now, (port, *source), own, *destination, frame);
        }
        // Before anybody looks at it: a flood costs as little as can be.
        match self.pace(now, port) {
            Pace::Go => self.handle_between(now, (port, *source), own, *destination, frame),
            Pace::Last { rest } => {
                match self.handle_between(now, (port, *source), own, *destination, frame) {
                    Handled::Done => Handled::Rest { until: rest },
                    // The next frame brings the rest.
                    asked @ (Handled::Rest { .. } | Handled::Datagram { .. } | Handled::Dns { .. }) => asked,
                }
            }
            Pace::Over { rest } => Handled::Rest { until: rest },
        }
    }

    /// How many frames have come to nothing so far, of all links: dropped, refused, or answered with a reset. What a driver reads of
    /// one link at a time, it asks before and after.
    #[must_use]
    pub const fn useless(&self) -> u64 {
        self.counters.useless()
    }

    /// So many frames that a link has just sent have come to nothing. Gives until when nothing more of it is to be read: an
    /// enclave that sends what is dropped costs nobody the time to read it all.
    pub fn handle_useless(&mut self, now: Instant, port: PortId, frames: u64) -> Option<Instant> {
        if frames == 0 {
            return None;
        }
        let rest = self.ports.holder(port).and_then(|holder| self.useless.charge(now, holder, frames));
        self.counters.rests += u64::from(rest.is_some());
        rest
    }

    /// A frame that is not for the gateway alone.
    fn handle_between<'f>(
        &mut self,
        now: Instant,
        (port, source): (PortId, [u8; 6]),
        own: bool,
        destination: [u8; 6],
        frame: &'f [u8],
    ) -> Handled<'f> {
        let group = destination[0] & 1 == 1;
        if !group && self.is_share_full(port, destination, frame.len()) {
            self.counters.share_full += 1;
            return Handled::Done;
        }
        if self.network6.is_some() && [frame[12], frame[13]] == wire::ETHERTYPE_IPV6 {
            return self.handle_ipv6_frame(now, (port, source), own, frame);
        }
        if group && own && !self.may_flood(now, port) {
            // It is looked at no further than the gateway itself needs.
            return if destination == BROADCAST { self.handle_local(now, port, source, frame) } else { Handled::Done };
        }
        // What reaches other enclaves says who it is from: none of them can be told that somebody else has moved.
        let passes = own && self.is_honest(now, port, source, frame);
        if passes && group && self.may_meet(now, (port, source), None, frame) {
            self.flood(port, frame);
        }
        if destination == BROADCAST {
            return self.handle_local(now, port, source, frame);
        }
        if !passes {
            match [frame[12], frame[13]] {
                wire::ETHERTYPE_ARP | wire::ETHERTYPE_IPV4 => self.counters.spoofed += u64::from(own),
                _ => self.counters.unsupported += 1,
            }
        } else if !group {
            self.forward(now, (port, source), destination, frame);
        }
        Handled::Done
    }

    /// Sends what the inputs since the last call have made due; [`Gateway::poll_timeout`] says so if there is more than one
    /// call may do.
    pub fn flush(&mut self, now: Instant) {
        self.neighbours.stamp(now);
        self.switch.stamp(now);
        self.ports.stamp(now);
        self.held.tick(now);
        let Self { tcp, ports, tenants, out, counters, .. } = self;
        tcp.flush(now, &mut Context { ports, tenants, out, counters });
    }

    /// Deadlines up to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembler.handle_timeout(now);
        while let Some(mute) = self.ports.poll_mute(now) {
            self.counters.links_mute += 1;
            self.end(mute, Ended::Mute);
        }
        self.advertise_due(now);
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
            self.advertise_at,
            self.ports.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            match output {
                Output::Flow(flow) => self.tcp.told(flow),
                Output::Dial { flow, target: Target::Address(to), .. } => {
                    self.hold(held::User::Flow(flow), Proto::Tcp, to)
                }
                Output::Closed { flow, .. } => self.release(held::User::Flow(flow)),
                Output::SessionClosed(session) => self.release(held::User::Session(session)),
                Output::Dial { .. } | Output::Frames(_) | Output::SessionRefused(_) => {}
            }
            return Some(output);
        }
        self.ports.poll_waiting().map(Output::Frames)
    }

    /// A link whose queue had better be written before more frames of others are handed in: what does not fit its share for
    /// them is dropped. Asked for between the parts of a long read; nothing is lost if it is not.
    pub fn poll_crowded(&mut self) -> Option<PortId> {
        self.ports.poll_crowded()
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
        self.tcp.unblock(port, ids);
        any
    }

    /// How often a connection or a session has begun or ended: each costs a driver more than a frame does.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.tenants.changes()
    }

    /// Whose a connection is; `None` once it is over.
    #[must_use]
    pub fn tenant_of_flow(&self, flow: FlowId) -> Option<u32> {
        self.tcp.tenant(flow)
    }

    /// Whose a session is; `None` once it is over.
    #[must_use]
    pub fn tenant_of_session(&self, session: SessionId) -> Option<u32> {
        self.sessions.get(session).map(|session| session.key.tenant)
    }

    /// Whose what the world begins with a guest is.
    #[must_use]
    pub fn tenant_of_guest(&self, guest: IpAddr) -> u32 {
        self.neighbours.find(guest).and_then(|place| self.ports.get(place.port)).map_or(NOBODY, |port| port.tenant)
    }

    /// The egress policy, for the name server.
    pub const fn policy(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// An address that two say they have, each pair once; some are only counted.
    pub fn poll_duplicate(&mut self) -> Option<Duplicate> {
        self.duplicates.poll()
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

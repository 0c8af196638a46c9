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
mod ipv6;
mod packets;

use super::{
    arena::Id,
    config::{Config, ConfigError},
    counters::Counters,
    datagrams::{Datagrams, Lent},
    dhcp::DhcpCounters,
    duplicates::Duplicate,
    floods::Pace,
    fragments::{FragmentCounters, Reassembler},
    handled::Handled,
    lan::{BROADCAST, Lan, NOBODY, Place},
    neighbour::Waiter,
    network::Network,
    output::{Ended, FlowId, Output, Outputs, SessionId, Target},
    policy::{Policy, PolicyCounters, Proto},
    port::PortId,
    rules::{Refusal, Rules, User},
    tcp::{Context, Tcp, TcpConfig},
    tenant::Tenants,
    wire::{self, ETHERNET, Unreachable},
};
use crate::{
    frame::{Framing, MIN_FRAME},
    time::Instant,
};
use core::net::{IpAddr, Ipv4Addr};
use std::collections::{BTreeMap, VecDeque};

/// See the module.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    network: Network,
    lan: Lan,
    rules: Rules,
    reassembler: Reassembler,
    tcp: Tcp,
    datagrams: Datagrams,
    tenants: Tenants,
    out: Outputs,
    counters: Counters,
    ended: VecDeque<(PortId, Ended)>,
}

impl Gateway {
    /// A gateway without links.
    ///
    /// # Errors
    /// [`ConfigError`] says what cannot be.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        let network = Network::new(&config)?;
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let tcp = Tcp::new(TcpConfig {
            mac: config.gateway_mac,
            mtu: config.mtu.into(),
            max_flows: config.max_flows,
            memory: config.memory,
            largest_buffer: config.largest_buffer,
            seed: rng.u64(..),
            allocate: config.allocate,
            source_ports: config.source_ports,
        });
        let mut lan = Lan::new(&config, network, &mut rng)?;
        let datagrams = Datagrams::new(network, config.max_sessions, rng.u64(..));
        lan.number_fragments(rng.u16(..), rng.u32(..));
        Ok(Self {
            network,
            lan,
            rules: Rules::new(&config, network)?,
            reassembler: Reassembler::default(),
            tcp,
            datagrams,
            tenants: Tenants::new(config.tenant, config.max_flows, config.max_sessions),
            out: Outputs::new(),
            counters: Counters::default(),
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
        if let Some(crowded) = self.lan.in_the_way(tenant) {
            self.counters.links_crowded += 1;
            self.end(crowded, Ended::Crowded);
        }
        self.lan.attach(&mut self.counters, tenant, framing)
    }

    /// A link has ended. Its connections wait until their guest proves itself on another one, and its addresses for one of
    /// its tenant, for [`Config::keep_address`] from the next call on that says what time it is.
    pub fn detach(&mut self, port: PortId) {
        let Some(tenant) = self.lan.tenant(port) else { return };
        // Nobody else's pieces complete what it has begun.
        if let Some(owner) = self.lan.fragment_owner(port) {
            self.reassembler.forget(owner);
        }
        self.lan.detach(port, tenant);
        self.rules.detach(port);
        self.datagrams.detach(port);
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
        if self.lan.tenant(port).is_none() {
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
        let from = (port, *source);
        let Some(own) = self.lan.learn(now, &mut self.counters, from) else { return Handled::Done };
        if *destination == self.config.gateway_mac {
            return self.handle_local(now, from, frame);
        }
        if destination[0] & 1 == 1 {
            return self.handle_between(now, from, own, *destination, frame);
        }
        // Before anybody looks at it: a flood costs as little as can be.
        match self.lan.pace(now, &mut self.counters, port) {
            Pace::Go => self.handle_between(now, from, own, *destination, frame),
            Pace::Last { rest } => {
                match self.handle_between(now, from, own, *destination, frame) {
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
        self.lan.handle_useless(now, &mut self.counters, port, frames)
    }

    /// Sends what the inputs since the last call have made due; [`Gateway::poll_timeout`] says so if there is more than one
    /// call may do.
    pub fn flush(&mut self, now: Instant) {
        self.lan.stamp(now);
        self.rules.tick(now);
        let (tcp, mut ctx) = self.flows();
        tcp.flush(now, &mut ctx);
    }

    /// Deadlines up to `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembler.handle_timeout(now);
        while let Some(mute) = self.lan.poll_mute(now) {
            self.counters.links_mute += 1;
            self.end(mute, Ended::Mute);
        }
        self.lan.handle_timeout(now, &mut self.counters);
        while let Some(waiters) = self.lan.poll_due(now, &mut self.counters) {
            for waiter in waiters {
                if let Waiter::Flow(flow) = waiter {
                    let (tcp, mut ctx) = self.flows();
                    tcp.resolved(&mut ctx, flow, None);
                }
            }
        }
        self.counters.sessions_expired += self.datagrams.handle_timeout(now, &mut self.tenants, &mut self.out);
        let (tcp, mut ctx) = self.flows();
        tcp.handle_timeout(now, &mut ctx);
    }

    /// When to call [`Gateway::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.tcp.poll_timeout(),
            self.datagrams.poll_timeout(),
            self.reassembler.poll_timeout(),
            self.lan.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.out.pop_front() {
            match output {
                Output::Flow(flow) => self.tcp.told(flow),
                Output::Dial { flow, target: Target::Address(to), .. } => {
                    self.rules.hold(User::Flow(flow), Proto::Tcp, to)
                }
                Output::Closed { flow, .. } => self.rules.release(User::Flow(flow)),
                Output::SessionClosed(session) => self.rules.release(User::Session(session)),
                Output::Dial { .. } | Output::Frames(_) | Output::SessionRefused(_) => {}
            }
            return Some(output);
        }
        self.lan.poll_waiting().map(Output::Frames)
    }

    /// A link whose queue had better be written before more frames of others are handed in: what does not fit its share for
    /// them is dropped. Asked for between the parts of a long read; nothing is lost if it is not.
    pub fn poll_crowded(&mut self) -> Option<PortId> {
        self.lan.poll_crowded()
    }

    /// Bytes of frames that wait for a link, prefixes included.
    #[must_use]
    pub fn pending(&self, port: PortId) -> &[u8] {
        self.lan.pending(port)
    }

    /// A link has taken `n` bytes of [`Gateway::pending`]. True if connections that waited may go on: flush again.
    ///
    /// # Panics
    /// If there were fewer.
    pub fn consume(&mut self, port: PortId, n: usize) -> bool {
        let waited = self.lan.consume(port, n);
        self.unblock(port, waited)
    }

    /// The next frame that waits for a link on which every message is a frame.
    #[must_use]
    pub fn next_frame(&self, port: PortId) -> Option<&[u8]> {
        self.lan.next_frame(port)
    }

    /// A link has taken [`Gateway::next_frame`]. True as in [`Gateway::consume`].
    pub fn consume_frame(&mut self, port: PortId) -> bool {
        let waited = self.lan.consume_frame(port);
        self.unblock(port, waited)
    }

    fn unblock(&mut self, port: PortId, waited: Vec<Id>) -> bool {
        let any = !waited.is_empty();
        self.tcp.unblock(port, waited);
        any
    }

    /// The connections, and what they need of the other parts.
    #[inline]
    const fn flows(&mut self) -> (&mut Tcp, Context<'_>) {
        let Self { tcp, lan, tenants, out, counters, .. } = self;
        (tcp, lan.context(tenants, out, counters))
    }

    /// The datagrams, and what they need of the other parts.
    #[inline]
    const fn datagrams(&mut self) -> (&mut Datagrams, Lent<'_>) {
        let Self { datagrams, lan, tenants, out, counters, .. } = self;
        (datagrams, Lent { lan, tenants, out, counters })
    }

    /// Whether an address may be a guest's: in the virtual network, and nobody else's.
    #[must_use]
    pub fn is_guest(&self, address: IpAddr) -> bool {
        self.network.is_guest(address)
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
        self.datagrams.tenant(session)
    }

    /// Whose what the world begins with a guest is.
    #[must_use]
    pub fn tenant_of_guest(&self, guest: IpAddr) -> u32 {
        self.lan.tenant_of_guest(guest).unwrap_or(NOBODY)
    }

    /// The egress policy, for the name server.
    pub const fn policy(&mut self) -> &mut Policy {
        self.rules.policy()
    }

    /// An address that two say they have, each pair once; some are only counted.
    pub fn poll_duplicate(&mut self) -> Option<Duplicate> {
        self.lan.poll_duplicate()
    }

    /// Learned hardware addresses and their links.
    #[must_use]
    pub fn addresses(&self) -> Vec<([u8; 6], PortId)> {
        self.lan.addresses()
    }

    /// Addresses given out, with the gateway's and the static ones.
    #[must_use]
    pub fn leases(&self, now: Instant) -> BTreeMap<Ipv4Addr, [u8; 6]> {
        self.lan.leases(now)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.tcp_flows = self.tcp.len() as u64;
        counters.tcp_time_wait = self.tcp.remembered() as u64;
        counters.tcp_buffer_bytes = self.tcp.memory() as u64;
        counters.sessions = self.datagrams.len() as u64;
        self.lan.observe(&mut counters);
        counters
    }

    /// Counters of its DHCP server.
    #[must_use]
    pub const fn dhcp_counters(&self) -> &DhcpCounters {
        self.lan.dhcp_counters()
    }

    /// Counters of fragments.
    #[must_use]
    pub const fn fragment_counters(&self) -> &FragmentCounters {
        self.reassembler.counters()
    }

    /// Counters of the policy.
    #[must_use]
    pub fn policy_counters(&self) -> PolicyCounters {
        self.rules.counters()
    }
}

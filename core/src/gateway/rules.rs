//! The rules of a gateway as they are kept: where something leads, what enclaves may say to each other, and for how long an
//! address stays open that a name has opened.
//!
//! Owns: the policy, what uses the addresses that it has learned, the conversations between enclaves. Driven by: the machine,
//! when something begins or ends.
//! Bounds: those of the policy and of [`Conversations`]; one note for each connection and session that leads to a learned
//! address.

mod between;

use super::{
    config::{Config, ConfigError},
    counters::Counters,
    meeting::Conversations,
    network::Network,
    network6::is_ipv4_in_disguise,
    output::{FlowId, SessionId, Target},
    policy::{Policy, PolicyCounters, Proto, Verdict, address::inside},
    port::PortId,
};
use crate::time::Instant;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use ipnet::{IpNet, Ipv6Net};
use std::collections::BTreeMap;

pub(super) use between::Refusal;

/// Addresses of a link (RFC 4291 section 2.5.6), which guests with IPv6 have too.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Who keeps a learned address open; see [`super::policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    Flow(FlowId),
    Session(SessionId),
}

/// Why something leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTarget {
    /// There is nobody.
    Nobody,
    /// It is not allowed.
    Denied,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Rules {
    network: Network,
    nat: BTreeMap<Ipv4Addr, IpAddr>,
    guest_services: bool,
    host_loopback: bool,
    policy: Policy,
    verdicts: PolicyCounters,
    /// What keeps learned addresses open.
    users: BTreeMap<User, IpAddr>,
    /// The time of the last turn: ends are told without one.
    now: Instant,
    /// Whether any rule is about what enclaves say to each other.
    between: bool,
    conversations: Conversations,
}

impl Rules {
    pub(super) fn new(config: &Config, network: Network) -> Result<Self, ConfigError> {
        let policy = Policy::new(config.policy.clone())?;
        let inside = [
            Some(IpNet::V4(config.subnet)),
            network.v6().map(|network| IpNet::V6(network.subnet)),
            network.v6().map(|_| IpNet::V6(LINK_LOCAL)),
        ];
        Ok(Self {
            network,
            nat: config.nat.clone(),
            guest_services: config.guest_services,
            host_loopback: config.policy.host_loopback,
            between: inside.into_iter().flatten().any(|net| policy.is_about_enclaves(&net)),
            policy,
            verdicts: PolicyCounters::default(),
            users: BTreeMap::new(),
            now: Instant::ZERO,
            conversations: Conversations::new(config.seed),
        })
    }

    /// The policy itself, for the name server.
    pub(super) const fn policy(&mut self) -> &mut Policy {
        &mut self.policy
    }

    pub(super) fn counters(&self) -> PolicyCounters {
        let mut counters = self.verdicts;
        counters.observe(&self.policy);
        counters
    }

    /// A link is gone.
    pub(super) fn detach(&mut self, port: PortId) {
        self.conversations.detach(port);
    }

    /// What time it is.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Something begins that was allowed.
    pub(super) fn hold(&mut self, user: User, proto: Proto, to: SocketAddr) {
        if self.policy.hold(self.now, proto, to.ip(), to.port()) {
            self.users.insert(user, to.ip());
        }
    }

    /// It has ended.
    pub(super) fn release(&mut self, user: User) {
        if self.users.is_empty() {
            return;
        }
        if let Some(address) = self.users.remove(&user) {
            self.policy.release(self.now, address);
        }
    }

    /// Where something to this address really leads.
    pub(super) fn target(
        &mut self,
        now: Instant,
        counters: &mut Counters,
        proto: Proto,
        address: IpAddr,
        port: u16,
    ) -> Result<Target, NoTarget> {
        let network = &self.network;
        if network.is_gateway(address) {
            return match (proto, port) {
                (Proto::Tcp, 53) => Ok(Target::Dns),
                (Proto::Tcp, 80) if self.guest_services => Ok(Target::Services),
                _ => Err(NoTarget::Nobody),
            };
        }
        // Rules about the loopback hold for the host's address; a table that names it was meant to allow it.
        let by_rules = network.is_host(address) && self.host_loopback;
        let (verdict, real) = if let Some(real) = self.nat(address).filter(|_| !by_rules) {
            (self.policy.verdict_nat(proto, real, port), real)
        } else if network.is_host(address) {
            let loopback = match address {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            (self.policy.verdict_host_loopback(proto, loopback, port), loopback)
        } else if network.is_inside(address) {
            return Err(NoTarget::Nobody);
        } else if let IpAddr::V6(address) = address
            && let Some(nowhere) = self.leads_nowhere(counters, address)
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

    /// What no rule can open: addresses of the link alone, and those by which a guest would reach what it cannot reach by
    /// the IPv4 address that they stand for.
    fn leads_nowhere(&self, counters: &mut Counters, address: Ipv6Addr) -> Option<NoTarget> {
        if address.is_unicast_link_local() || inside(address).any(|address| self.network.is_inside(address.into())) {
            return Some(NoTarget::Nobody);
        }
        // No such address is ever on a wire (RFC 4291 section 2.5.5), and the kernel would take it for the IPv4 one.
        if is_ipv4_in_disguise(address) {
            counters.unsupported += 1;
            return Some(NoTarget::Denied);
        }
        None
    }

    /// The address that another one stands for.
    fn nat(&self, address: IpAddr) -> Option<IpAddr> {
        let IpAddr::V4(address) = address else { return None };
        self.nat.get(&address).copied()
    }
}

//! One rule: a protocol, a destination and ports.

use super::{address, name::NamePattern};
use core::{fmt, net::IpAddr, ops::RangeInclusive};
use ipnet::IpNet;

/// How a rule calls the host's own addresses, and the other enclaves. A machine of that name is written with a dot, `host.`.
pub(super) const HOST: &str = "host";
pub(super) const ENCLAVES: &str = "enclaves";

/// Ranges of ports in one rule at most.
pub const MAX_PORT_RANGES: usize = 64;

/// `[PROTO:]DEST[:PORTS]`, for example `tcp:example.com:443`, `10.0.0.0/8`, `udp:[2001:db8::/32]:53,5000-5010`, `any:443`.
///
/// | part | forms | left out |
/// |---|---|---|
/// | PROTO | `tcp`, `udp`, `icmp`, `any` | `any` |
/// | DEST | an IPv4 address or network; an IPv6 one in brackets; `any`; `host`; `enclaves`; `example.com`; `*.example.com` | must be there |
/// | PORTS | `443`, `80-90`, `80,443`; at most [`MAX_PORT_RANGES`], of 1 to 65535 | all |
///
/// A rule with PORTS is about TCP and UDP only: ICMP has no ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None` is any protocol.
    pub proto: Option<Proto>,
    /// Where to.
    pub dest: Dest,
    /// Which ports.
    pub ports: Ports,
}

/// Protocols that the gateway forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// The destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dest {
    /// Every address.
    Any,
    /// A network, which may be one address.
    Net(IpNet),
    /// What a name is resolved to.
    Name(NamePattern),
    /// All of the host's own addresses, those of its loopback included.
    Host,
    /// Every other enclave.
    Enclaves,
}

/// Where an address is, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Anywhere else.
    World,
    /// It is the host's own.
    Host,
    /// It is another enclave's.
    Enclave,
}

/// Ports of a rule: ranges in ascending order that neither overlap nor touch; none for all ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Rule {
    /// Whether a flow to a canonical address is meant; a rule with a name knows no addresses.
    pub(super) fn matches(&self, proto: Proto, addr: IpAddr, port: u16, place: Place) -> bool {
        self.is_about(addr, place) && self.covers(proto, port)
    }

    /// Whether an address is meant, whatever the protocol and the port.
    pub(super) fn is_about(&self, addr: IpAddr, place: Place) -> bool {
        match &self.dest {
            Dest::Any => true,
            Dest::Net(net) => net.contains(&addr),
            Dest::Name(_) => false,
            Dest::Host => place == Place::Host,
            Dest::Enclaves => place == Place::Enclave,
        }
    }

    /// The same of what may be of another protocol than those, and at a port that may not be known: whether the rule is about
    /// it in any case.
    pub(super) fn covers_surely(&self, proto: Option<Proto>, port: Option<u16>) -> bool {
        self.covers_unknown(proto, port, false)
    }

    /// Whether the rule may be about it.
    pub(super) fn covers_some(&self, proto: Option<Proto>, port: Option<u16>) -> bool {
        self.covers_unknown(proto, port, true)
    }

    fn covers_unknown(&self, proto: Option<Proto>, port: Option<u16>, otherwise: bool) -> bool {
        match (proto, port) {
            (Some(proto @ (Proto::Tcp | Proto::Udp)), None) => {
                self.proto.is_none_or(|only| only == proto) && (self.ports.is_all() || otherwise)
            }
            (Some(proto), port) => self.covers(proto, port.unwrap_or(0)),
            (None, _) => self.proto.is_none() && self.ports.is_all(),
        }
    }

    /// Whether the rule names this very address, or the host as such: what is closed unless it is named is open by it.
    pub(super) fn names_host(&self, addr: IpAddr) -> bool {
        match &self.dest {
            Dest::Host => true,
            Dest::Net(net) => net.addr() == addr && net.prefix_len() == net.max_prefix_len(),
            Dest::Any | Dest::Name(_) | Dest::Enclaves => false,
        }
    }

    /// Whether the rule is about link-local addresses and nothing else.
    pub(super) fn names_link_local(&self) -> bool {
        matches!(&self.dest, Dest::Net(net) if address::is_link_local_net(net))
    }

    /// Whether the protocol and the port are meant.
    pub(super) fn covers(&self, proto: Proto, port: u16) -> bool {
        self.proto.is_none_or(|only| only == proto)
            && (self.ports.is_all() || (proto != Proto::Icmp && self.ports.contains(port)))
    }
}

impl Ports {
    /// The same ports, in order.
    pub(super) fn new(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                Some(_) | None => merged.push(range),
            }
        }
        Self(merged)
    }

    /// Whether every port is meant.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a port is meant.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_all() || self.0.iter().any(|range| range.contains(&port))
    }
}

impl Proto {
    pub(super) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// As it is written in a rule.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In a form that is parsed as the same rule again.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(proto) = self.proto {
            write!(f, "{proto}:")?;
        }
        match &self.dest {
            Dest::Any => f.write_str("any")?,
            Dest::Net(net) => {
                let addr = net.addr();
                let (open, close) = if addr.is_ipv6() { ("[", "]") } else { ("", "") };
                if net.prefix_len() == net.max_prefix_len() {
                    write!(f, "{open}{addr}{close}")?;
                } else {
                    write!(f, "{open}{net}{close}")?;
                }
            }
            Dest::Name(pattern) => write!(f, "{pattern}")?,
            Dest::Host => f.write_str(HOST)?,
            Dest::Enclaves => f.write_str(ENCLAVES)?,
        }
        for (i, range) in self.ports.0.iter().enumerate() {
            f.write_str(if i == 0 { ":" } else { "," })?;
            if range.start() == range.end() {
                write!(f, "{}", range.start())?;
            } else {
                write!(f, "{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

//! One rule: a protocol, a destination and ports.

use super::name::NamePattern;
use core::{fmt, net::IpAddr, ops::RangeInclusive};
use ipnet::IpNet;

/// Ranges of ports in one rule at most.
pub const MAX_PORT_RANGES: usize = 64;

/// `[PROTO:]DEST[:PORTS]`, for example `tcp:example.com:443`, `10.0.0.0/8`, `udp:[2001:db8::/32]:53,5000-5010`, `any:443`.
///
/// | part | forms | left out |
/// |---|---|---|
/// | PROTO | `tcp`, `udp`, `icmp`, `any` | `any` |
/// | DEST | an IPv4 address or network; an IPv6 one in brackets; `any`; `example.com`; `*.example.com` | must be there |
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
}

/// Ports of a rule: ranges in ascending order that neither overlap nor touch; none for all ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Rule {
    /// Whether a flow to a canonical address is meant; a rule with a name knows no addresses.
    pub(super) fn matches(&self, proto: Proto, addr: IpAddr, port: u16) -> bool {
        let dest = match &self.dest {
            Dest::Any => true,
            Dest::Net(net) => net.contains(&addr),
            Dest::Name(_) => false,
        };
        dest && self.covers(proto, port)
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

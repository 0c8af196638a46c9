//! Which destinations enclaves may reach: rules by address, network, name and port.
//!
//! Owns: the rules, and the addresses learned from DNS answers for names that rules allow. Driven by: the gateway, once
//! per new flow ([`Policy::verdict`], and [`Policy::hold`] until its end, [`Policy::release`]), per DNS question
//! ([`Policy::name_allowed`]) and per answer ([`Policy::lesson`] by the name server, [`Policy::take`] here). Drain: nothing; it has no timer either, what has expired is not looked at.
//! Bounds: [`MAX_RULES`] of each kind, [`MAX_LEARNED`] addresses.
//!
//! What is asked, in this order:
//! 1. Destinations that mean the host itself or more than one host (loopback, unspecified, multicast, broadcast): never.
//! 2. Control sockets of the gateway: never, at no address of the host.
//! 3. The metadata service of EC2: only with [`PolicyConfig::imds`], whatever the rules say. Other link-local addresses of IPv4
//!    and services of EC2: only by an allow rule about nothing but such addresses. Those of IPv6: never.
//! 4. The host's own addresses: only by an allow rule with `host`, or with this very address.
//! 5. A deny rule that matches: denied. Deny rules win over allow rules, wherever they stand.
//! 6. An allow rule that matches, by address or by a name that was resolved to this address: allowed. With
//!    [`PolicyConfig::imds`] the metadata service counts as allowed.
//! 7. The default.
//!
//! An IPv6 address that stands for an IPv4 one (`::ffff:a.b.c.d`, `::a.b.c.d`, `64:ff9b::a.b.c.d`) is judged as that one. One
//! that a translator or tunnel on the way may take to an IPv4 address (`64:ff9b:1::/48`, 6to4, Teredo, ISATAP) is judged as
//! itself, and closed where that IPv4 address is closed by 1 to 5. Other prefixes of address translators are not known here:
//! deny them if there is such a translator.
//!
//! Between enclaves 5 to 7 are asked ([`Policy::verdict_between`]); with `enclaves` a rule is about all of them.
//!
//! A name is denied by not resolving it, and in no other way: an enclave that knows an address of a denied name reaches
//! it unless a rule denies the address. Where that matters, allow by name and leave the default at deny. What an allowed
//! name resolves to is opened, private addresses included: its owner decides; deny the networks that must stay closed.

pub(super) mod address;
mod counters;
mod host;
mod learned;
mod lesson;
mod name;
mod parse;
mod rule;

pub use counters::PolicyCounters;
pub use host::{HostAddresses, MAX_HOST};
pub use learned::{MAX_LEARNED, MAX_TTL, MIN_TTL};
pub use lesson::{Lesson, MAX_LESSON, MAX_OPENED};
pub use name::{MAX_LABEL, MAX_NAME, NamePattern};
pub use parse::{RuleError, Why};
pub use rule::{Dest, MAX_PORT_RANGES, Ports, Proto, Rule};

use crate::time::Instant;
use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use host::Host;
use ipnet::IpNet;
use learned::Learned;
use rule::Place;

/// Allow rules at most, and deny rules at most: a verdict looks at each of them.
pub const MAX_RULES: usize = 1024;

/// What a policy is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyConfig {
    /// What may be reached.
    pub allow: Vec<Rule>,
    /// What may not, even if it is in `allow`.
    pub deny: Vec<Rule>,
    /// What goes for the rest. `None` is [`Action::Deny`] if there is any allow rule, else [`Action::Allow`].
    pub default: Option<Action>,
    /// Whether the metadata service of EC2 may be reached: its two addresses, and no other link-local one.
    pub imds: bool,
    /// Whether the host's loopback may be reached, by the address that the gateway has for it.
    pub host_loopback: bool,
}

/// What a default says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Refuse it.
    Deny,
}

/// What a policy says about one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be opened.
    Allow,
    /// It may not.
    Deny(Reason),
}

/// Why a flow was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 0.0.0.0/8 and `::`: the host itself, to the kernel.
    Unspecified,
    /// 127.0.0.0/8 and `::1`.
    Loopback,
    /// 224.0.0.0/4 and `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 169.254.0.0/16, `fe80::/10` and `fd00:ec2::/32`, without [`PolicyConfig::imds`] or a rule about them.
    LinkLocal,
    /// The host's loopback, without [`PolicyConfig::host_loopback`].
    HostLoopback,
    /// Another address of the host, without a rule that names it.
    Host,
    /// A control socket of the gateway.
    Control,
    /// A deny rule.
    Rule,
    /// No allow rule, and the default is deny.
    Default,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "an unspecified address is no destination",
            Self::Loopback => "loopback addresses are no destinations",
            Self::Multicast => "multicast is not forwarded",
            Self::Broadcast => "broadcast is not forwarded",
            Self::LinkLocal => "link-local addresses and instance metadata are not allowed",
            Self::HostLoopback => "the host's loopback is not allowed",
            Self::Host => "the host's own addresses are not allowed",
            Self::Control => "the gateway's own control sockets are no destinations",
            Self::Rule => "a deny rule matches",
            Self::Default => "no allow rule matches",
        })
    }
}

/// Decides about flows and names. See the [module](self) for what it asks in which order.
#[derive(Debug)]
pub struct Policy {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    default: Action,
    imds: bool,
    host_loopback: bool,
    /// Whether names that match no rule are resolved.
    other_names: bool,
    /// Whether there is an allow rule by name.
    by_name: bool,
    learned: Learned,
    host: Host,
}

impl Policy {
    /// A policy that has learned nothing yet.
    ///
    /// # Errors
    /// [`PolicyError`] for more than [`MAX_RULES`] rules, and for a deny rule by name that is limited to a protocol or to
    /// ports: a name can only be denied as a whole.
    pub fn new(config: PolicyConfig) -> Result<Self, PolicyError> {
        let PolicyConfig { allow, deny, default, imds, host_loopback } = config;
        if allow.len() > MAX_RULES || deny.len() > MAX_RULES {
            return Err(PolicyError::TooManyRules { count: allow.len().max(deny.len()) });
        }
        let limited =
            |rule: &&Rule| matches!(rule.dest, Dest::Name(_)) && (rule.proto.is_some() || !rule.ports.is_all());
        if let Some(rule) = deny.iter().find(limited) {
            return Err(PolicyError::DenyPartOfName { rule: rule.clone() });
        }
        let default = default.unwrap_or(if allow.is_empty() { Action::Allow } else { Action::Deny });
        let by_name = allow.iter().any(|rule| matches!(rule.dest, Dest::Name(_)));
        let anywhere = allow.iter().any(|rule| rule.dest == Dest::Any);
        let other_names = default == Action::Allow || anywhere || (!by_name && !allow.is_empty());
        Ok(Self {
            allow,
            deny,
            default,
            imds,
            host_loopback,
            other_names,
            by_name,
            learned: Learned::default(),
            host: Host::default(),
        })
    }

    /// Whether a flow to `addr` may be opened; `port` is of no account for ICMP. Meant to be asked once per flow: its
    /// cost grows with the number of rules.
    #[must_use]
    pub fn verdict(&self, now: Instant, proto: Proto, addr: IpAddr, port: u16) -> Verdict {
        let addr = address::canonical(addr);
        if let Some(reason) = self.closed(proto, addr, port) {
            return Verdict::Deny(reason);
        }
        if let IpAddr::V6(disguise) = addr
            && let Some(reason) = address::inside(disguise).find_map(|inner| self.closed(proto, inner.into(), port))
        {
            return Verdict::Deny(reason);
        }
        let place = self.place(addr);
        // The metadata service is closed above unless `imds` is set.
        let metadata = address::is_metadata(addr) && proto == Proto::Tcp && port == 80;
        if metadata
            || self.allow.iter().any(|rule| rule.matches(proto, addr, port, place))
            || self.learned.rules(now, addr).any(|rule| self.allow[rule].covers(proto, port))
        {
            return Verdict::Allow;
        }
        match self.default {
            Action::Allow => Verdict::Allow,
            Action::Deny => Verdict::Deny(Reason::Default),
        }
    }

    /// What closes a canonical address, whatever else is allowed.
    fn closed(&self, proto: Proto, addr: IpAddr, port: u16) -> Option<Reason> {
        if let Some(reason) = address::never(addr) {
            return Some(reason);
        }
        if self.host.controls(proto, addr, port) {
            return Some(Reason::Control);
        }
        let place = self.place(addr);
        let named = |by: &dyn Fn(&Rule) -> bool| {
            self.allow.iter().any(|rule| by(rule) && rule.matches(proto, addr, port, place))
        };
        let open = if address::is_metadata(addr) { self.imds } else { named(&Rule::names_link_local) };
        if address::is_link_local(addr) && (!open || address::has_no_scope(addr)) {
            return Some(Reason::LinkLocal);
        }
        if self.host.has(addr) && !named(&|rule| rule.names_host(addr)) {
            return Some(Reason::Host);
        }
        self.deny.iter().any(|rule| rule.matches(proto, addr, port, place)).then_some(Reason::Rule)
    }

    fn place(&self, addr: IpAddr) -> Place {
        if addr.is_loopback() || self.host.has(addr) { Place::Host } else { Place::World }
    }

    /// Whether one enclave may say something to another one at `addr`. `None` as `proto` is another protocol, which only rules
    /// for all of them are about; as `port` one that is not known, where what may go to some port passes.
    #[must_use]
    pub fn verdict_between(&self, now: Instant, proto: Option<Proto>, addr: IpAddr, port: Option<u16>) -> Verdict {
        if self.denies_between(proto, addr, port) {
            return Verdict::Deny(Reason::Rule);
        }
        let by_rule = |rule: &Rule| rule.is_about(addr, Place::Enclave) && rule.covers_some(proto, port);
        if self.allow.iter().any(by_rule)
            || self.learned.rules(now, addr).any(|rule| self.allow[rule].covers_some(proto, port))
            || self.default == Action::Allow
        {
            return Verdict::Allow;
        }
        Verdict::Deny(Reason::Default)
    }

    /// Whether a deny rule stops it.
    #[must_use]
    pub fn denies_between(&self, proto: Option<Proto>, addr: IpAddr, port: Option<u16>) -> bool {
        self.deny.iter().any(|rule| rule.is_about(addr, Place::Enclave) && rule.covers_surely(proto, port))
    }

    /// Whether any rule is about what enclaves with addresses in `inside` say to each other.
    #[must_use]
    pub fn is_about_enclaves(&self, inside: &IpNet) -> bool {
        let about = |rule: &Rule| match &rule.dest {
            Dest::Any | Dest::Enclaves => true,
            Dest::Net(net) => net.contains(inside) || inside.contains(net) || net.addr().is_multicast(),
            Dest::Name(_) | Dest::Host => false,
        };
        self.default == Action::Deny || self.deny.iter().any(about)
    }

    /// The host's own addresses, as the kernel has them now.
    pub fn set_host(&mut self, own: HostAddresses) {
        self.host.own = own;
    }

    /// Where the gateway itself listens over TCP: no guest gets there, whatever is allowed.
    pub fn set_control(&mut self, sockets: Vec<SocketAddr>) {
        self.host.set_control(sockets);
    }

    /// Whether a flow may be opened to where the gateway's own table sends it: being named there is being allowed, but not
    /// to a control socket.
    #[must_use]
    pub fn verdict_nat(&self, proto: Proto, real: IpAddr, port: u16) -> Verdict {
        if self.host.controls(proto, address::canonical(real), port) {
            Verdict::Deny(Reason::Control)
        } else {
            Verdict::Allow
        }
    }

    /// Whether a flow to the host's loopback may be opened, for the address that the gateway translates to `loopback`.
    /// Deny rules for 127.0.0.1 have a say in it, and those for `::1` if it is that: many a server listens on both, and a
    /// rule of before there was IPv6 must still hold. Allow rules and the default have none.
    #[must_use]
    pub fn verdict_host_loopback(&self, proto: Proto, loopback: IpAddr, port: u16) -> Verdict {
        let denied = |addr| self.deny.iter().any(|rule| rule.matches(proto, addr, port, Place::Host));
        if self.host.controls(proto, loopback, port) {
            Verdict::Deny(Reason::Control)
        } else if !self.host_loopback {
            Verdict::Deny(Reason::HostLoopback)
        } else if denied(IpAddr::V4(Ipv4Addr::LOCALHOST)) || denied(loopback) {
            Verdict::Deny(Reason::Rule)
        } else {
            Verdict::Allow
        }
    }

    /// Whether a name may be resolved: no deny rule matches it, and if the default is deny, either an allow rule
    /// matches it or allow rules name only addresses or `any`. With no allow rule and deny as default, no name is.
    ///
    /// `name` is in the text form of RFC 1035 section 5.1, with or without a dot at its end, in any case.
    #[must_use]
    pub fn name_allowed(&self, name: &str) -> bool {
        let name = name::normal(name);
        let matches = |rule: &Rule| matches!(&rule.dest, Dest::Name(pattern) if pattern.matches(&name));
        !self.deny.iter().any(matches)
            && (self.other_names || (name::is_plain(&name) && self.allow.iter().any(matches)))
    }

    /// Opens an address that `name` was resolved to, for the protocols and ports of the allow rules that match `name`.
    /// It stays open for `ttl` seconds, but for [`MIN_TTL`] at least and [`MAX_TTL`] at most, and as long as something uses it;
    /// learned again, until the later end. `name` is what was asked for, whatever aliases the answer went through. Flows that
    /// are open are not affected by the end.
    ///
    /// Without effect if no allow rule matches the name, or if it may not be resolved at all. Beyond [`MAX_LEARNED`] the
    /// address that would expire first is forgotten, of the tenant that has the most.
    pub fn learn(&mut self, now: Instant, name: &str, addr: IpAddr, ttl: u32) {
        let addr = address::canonical(addr);
        for rule in self.rules_for(name) {
            self.learned.add(now, 0, addr, rule, ttl);
        }
    }

    /// A flow to `addr` begins. If the address is open because of a name, it stays so until the flow has ended: then this
    /// gives true, and [`Policy::release`] has to follow.
    pub fn hold(&mut self, now: Instant, proto: Proto, addr: IpAddr, port: u16) -> bool {
        if self.learned.is_empty() {
            return false;
        }
        let addr = address::canonical(addr);
        let open = self.learned.rules(now, addr).any(|rule| self.allow[rule].covers(proto, port));
        if open {
            self.learned.hold(addr);
        }
        open
    }

    /// A flow has ended for which [`Policy::hold`] gave true.
    pub fn release(&mut self, now: Instant, addr: IpAddr) {
        self.learned.release(now, address::canonical(addr));
    }

    /// How many addresses are open because of names, those that have expired since the last [`Policy::learn`] included;
    /// an address counts once for each rule.
    #[must_use]
    pub fn learned(&self) -> usize {
        self.learned.len()
    }

    /// How many learned addresses were forgotten before their time, for want of room.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.learned.evicted()
    }
}

/// Rules that make no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// More than [`MAX_RULES`].
    #[error("{count} rules, and at most {MAX_RULES} are taken")]
    TooManyRules {
        /// How many there are.
        count: usize,
    },
    /// A name is denied by not resolving it, which goes for all protocols and ports.
    #[error(
        "deny rule `{rule}`: a name can only be denied for all protocols and ports; leave them out, or deny addresses"
    )]
    DenyPartOfName {
        /// The first such rule.
        rule: Rule,
    },
}

#[cfg(test)]
mod tests;

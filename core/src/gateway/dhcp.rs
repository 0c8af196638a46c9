//! Addresses for enclaves: a DHCPv4 server (RFC 2131, RFC 2132), the only one on its link.
//!
//! Owns: the pool of addresses and who has which. No socket: payloads of UDP port 67 in, payloads for port 68 out.
//! Driven by: the gateway, fuzz. Drain: nothing; [`Dhcp::handle`] returns the one reply there may be.
//! Bounds: at most [`LEASES_MAX`] addresses, and never more entries than addresses. An address is taken from somebody only
//! after its lease, offer or quarantine ended; with none left the client hears nothing, and [`DhcpDrop::Exhausted`] counts.
//! A holder (a machine, or a link of a listener) has at most a quarter of the addresses (64 at most, 2 at least), and a
//! tenant three quarters; the last quarter is for holders that have none. Beyond that [`DhcpDrop::Share`] counts. When a link is gone its leases end after
//! [`DhcpConfig::keep_address`].
//!
//! An address that [`Client::may_have`] denies is offered to nobody, and asking for it is refused: somebody uses it, whether
//! it was leased or not.
//!
//! Being the only server it is authoritative: a client that comes back with an address of which it knows more than the
//! server (because the gateway was restarted) keeps it if nobody else has it. Clients are told apart by their hardware
//! address alone, as in gvproxy, so that the leases can be shown as address and hardware address.

mod counters;
mod message;
mod pool;
mod server;

pub use counters::DhcpCounters;
pub use message::DhcpDrop;
pub use server::{Dhcp, DhcpReply};

use core::{fmt, net::Ipv4Addr, time::Duration};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};

/// Addresses given out at most; of a larger subnet, the lowest ones.
pub const LEASES_MAX: usize = 4096;
/// How long an address is kept for a client that was offered it and has not yet asked for it.
pub const OFFER_HOLD: Duration = Duration::from_secs(10);
/// How long an address is not given out after a client found it in use by somebody else (DHCPDECLINE).
pub const DECLINE_HOLD: Duration = Duration::from_secs(600);

/// What clients are told, and which addresses there are.
#[derive(Clone, Debug)]
pub struct DhcpConfig {
    /// The link's subnet; from /1 to /29.
    pub subnet: Ipv4Net,
    /// Our own address, told as router and server; never given out.
    pub gateway: Ipv4Addr,
    /// Our hardware address, for the list of leases only.
    pub gateway_mac: [u8; 6],
    /// The address that stands for the host; never given out.
    pub host: Ipv4Addr,
    /// Name servers, in order; none are told if there are none, and at most 8.
    pub dns: Vec<Ipv4Addr>,
    /// The interface MTU to tell, in bytes; at least 576.
    pub mtu: u16,
    /// Domains that short names are looked up in; as many as fit are told.
    pub search: Vec<String>,
    /// Addresses that belong to one client each.
    pub static_leases: BTreeMap<Ipv4Addr, [u8; 6]>,
    /// How long a client may use its address without asking again; 3600 s in gvproxy.
    pub lease_time: Duration,
    /// Addresses that are given only to those whose [`Client::pinned`] says so.
    pub pinned: BTreeSet<Ipv4Addr>,
    /// How long a lease lasts at most when its link is gone.
    pub keep_address: Duration,
}

/// Who sends a message, beyond what it says itself.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Whose it is.
    pub tenant: u32,
    /// Among those of its tenant, who has a share of its own: a machine, or a link where nothing else tells machines apart.
    pub holder: u64,
    /// The link that it came from.
    pub link: u64,
    /// The address that it gets whatever it asks for.
    pub pinned: Option<Ipv4Addr>,
    /// Whether nobody else has an address.
    pub may_have: &'a dyn Fn(Ipv4Addr) -> bool,
}

impl Client<'_> {
    const fn holder(&self) -> (u32, u64) {
        (self.tenant, self.holder)
    }
}

impl fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("tenant", &self.tenant).field("link", &self.link).finish_non_exhaustive()
    }
}

/// A configuration that no link can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DhcpConfigError {
    /// No room for gateway, host and clients.
    #[error("subnet {0} is not between /1 and /29")]
    Subnet(Ipv4Net),
    /// Gateway, host or a static lease is no host address of the subnet.
    #[error("{address} is not a host address of {subnet}")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// Two of gateway, host and static leases are one.
    #[error("{0} is given to two")]
    Twice(Ipv4Addr),
    /// More name servers than fit.
    #[error("{0} name servers, where 8 fit")]
    NameServers(usize),
    /// Below what every IPv4 host must take (RFC 791).
    #[error("MTU {0} is below 576")]
    Mtu(u16),
    /// Too many static leases.
    #[error("{0} static leases, where {LEASES_MAX} fit")]
    StaticLeases(usize),
}

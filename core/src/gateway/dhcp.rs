//! Addresses for enclaves: a DHCPv4 server (RFC 2131, RFC 2132), the only one on its link.
//!
//! Owns: the pool of addresses and who has which. No socket: payloads of UDP port 67 in, payloads for port 68 out.
//! Driven by: the gateway, fuzz. Drain: nothing; [`Dhcp::handle`] returns the one reply there may be.
//! Bounds: at most [`LEASES_MAX`] addresses, and never more entries than addresses. An address is taken from somebody only
//! after its lease, offer or quarantine ended; with none left the client hears nothing, and [`DhcpDrop::Exhausted`] counts.
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

use core::{net::Ipv4Addr, time::Duration};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;

/// Addresses given out at most; of a larger subnet, the lowest ones.
pub const LEASES_MAX: usize = 4096;
/// How long an address is kept for a client that was offered it and has not yet asked for it.
pub const OFFER_HOLD: Duration = Duration::from_secs(30);
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

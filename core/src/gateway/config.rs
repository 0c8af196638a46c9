//! What a gateway is told once.

use super::{
    dhcp::{DhcpConfig, DhcpConfigError},
    network6::Network6,
    pins::{MAX_PINS, Pin, Pins},
    policy::{PolicyConfig, PolicyError},
    source_ports::SourcePortsConfig,
    tenant::TenantLimits,
};
use core::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};

/// The smallest MTU of IPv6 (RFC 8200 section 5).
const MIN_MTU_V6: u16 = 1280;

/// Addresses, rules and limits of a virtual network. [`Config::default`] is gvproxy's network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The virtual network.
    pub subnet: Ipv4Net,
    /// The gateway's address in it.
    pub gateway: Ipv4Addr,
    /// The IPv6 prefix of the virtual network, /64; `None`: guests have no IPv6. The gateway is its address 1, and the host's
    /// loopback its address fe.
    pub subnet6: Option<Ipv6Net>,
    /// The gateway's hardware address.
    pub gateway_mac: [u8; 6],
    /// The address in it that stands for the host's loopback.
    pub host: Ipv4Addr,
    /// IP MTU of the virtual network, 576 to 65520 bytes.
    pub mtu: u16,
    /// IP MTU on the way into the world: datagrams that must not be fragmented may not be longer.
    pub world_mtu: u16,
    /// Further addresses that stand for others; being named here is being allowed.
    pub nat: BTreeMap<Ipv4Addr, IpAddr>,
    /// What guests may reach.
    pub policy: PolicyConfig,
    /// Domains that short names are looked up in.
    pub search: Vec<String>,
    /// Addresses that belong to one hardware address each.
    pub static_leases: BTreeMap<Ipv4Addr, [u8; 6]>,
    /// Whether guests find the REST interface at port 80 of the gateway.
    pub guest_services: bool,
    /// What each tenant may have.
    pub tenant: TenantLimits,
    /// TCP connections in all.
    pub max_flows: usize,
    /// UDP and ICMP sessions in all.
    pub max_sessions: usize,
    /// Bytes of all TCP buffers together.
    pub memory: usize,
    /// Bytes of the largest TCP buffer, of which a connection has two.
    pub largest_buffer: usize,
    /// Addresses whose owners are fixed; a static lease of one of them counts no more.
    pub pins: Vec<Pin>,
    /// For how long nobody but its tenant gets the address of a link that is gone.
    pub keep_address: Duration,
    /// Seed of sequence numbers and hash tables; must not be guessed by guests.
    pub seed: u64,
    /// Where large buffers come from.
    pub allocate: Allocate,
    /// The host's ports for connections to the world.
    pub source_ports: SourcePortsConfig,
}

/// Gives so many zeroes, or `None` where memory is used up: then what wanted them is refused. They should take memory only
/// where they are touched.
pub type Allocate = fn(usize) -> Option<Vec<u8>>;

impl Default for Config {
    fn default() -> Self {
        let network = Ipv4Addr::new(192, 168, 127, 0);
        Self {
            subnet: Ipv4Net::new_assert(network, 24),
            gateway: Ipv4Addr::new(192, 168, 127, 1),
            subnet6: None,
            gateway_mac: [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xdd],
            host: Ipv4Addr::new(192, 168, 127, 254),
            mtu: 1500,
            world_mtu: 1500,
            nat: BTreeMap::new(),
            policy: PolicyConfig::default(),
            search: Vec::new(),
            static_leases: BTreeMap::from([(Ipv4Addr::new(192, 168, 127, 2), [0x5a, 0x94, 0xef, 0xe4, 0x0c, 0xee])]),
            guest_services: false,
            tenant: TenantLimits { flows: 12_288, half_open: 1024, sessions: 2048, rate: None },
            max_flows: 16_384,
            max_sessions: 8192,
            memory: 512 << 20,
            largest_buffer: 512 << 10,
            pins: Vec::new(),
            keep_address: Duration::from_secs(30),
            seed: 0,
            allocate: |len| Some(vec![0; len]),
            source_ports: SourcePortsConfig::default(),
        }
    }
}

/// A gateway that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Addresses clash or do not fit.
    #[error(transparent)]
    Addresses(#[from] DhcpConfigError),
    /// Too many rules, or one that cannot be kept.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Frames would not fit their length prefix, or guests would not take them.
    #[error("MTU {0} is not between 576 and 65520")]
    Mtu(u16),
    /// No prefix that hosts can make addresses in.
    #[error("IPv6 subnet {0} is not a /64 of unicast addresses, such as fd00:1:2:3::/64")]
    Subnet6(Ipv6Net),
    /// Less than every link of IPv6 takes (RFC 8200 section 5).
    #[error("MTU {0} is below 1280, which IPv6 needs")]
    Mtu6(u16),
    /// Not an address of one station.
    #[error("the gateway's MAC address is that of a group or all zeroes")]
    Mac,
    /// More pinned addresses than fit.
    #[error("{0} pinned addresses, where {MAX_PINS} fit")]
    Pins(usize),
    /// It cannot be a guest's.
    #[error(
        "the pinned address {0} cannot be a guest's: it must be in the subnet, and not the gateway's or the host's"
    )]
    Pinned(IpAddr),
    /// An address with two owners.
    #[error("{0} is pinned twice")]
    PinnedTwice(IpAddr),
    /// No hardware address of a guest.
    #[error("{0} is pinned to the gateway's MAC address, to that of a group, or to none")]
    PinnedMac(IpAddr),
    /// A hardware address with two owners.
    #[error("{0} is pinned with a MAC address that another pin gives to somebody else")]
    PinnedMacTwice(IpAddr),
    /// Connections would have no buffers.
    #[error("{memory} bytes of memory do not suffice for {flows} connections, which need 16 KiB each")]
    Memory {
        /// Bytes given.
        memory: usize,
        /// Connections wanted.
        flows: usize,
    },
}

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if !(576..=65_520).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        if self.subnet6.is_some() && self.mtu < MIN_MTU_V6 {
            return Err(ConfigError::Mtu6(self.mtu));
        }
        if self.gateway_mac[0] & 1 == 1 || self.gateway_mac == [0; 6] {
            return Err(ConfigError::Mac);
        }
        if self.memory / (2 * super::tcp::SMALLEST) < self.max_flows {
            return Err(ConfigError::Memory { memory: self.memory, flows: self.max_flows });
        }
        Ok(())
    }

    pub(super) fn pins(&self) -> Result<Pins, ConfigError> {
        let network6 = self.network6()?;
        let may_be_pinned = |address: IpAddr| match address {
            IpAddr::V4(address) => {
                self.subnet.contains(&address)
                    && ![self.gateway, self.host, self.subnet.network(), self.subnet.broadcast()].contains(&address)
            }
            IpAddr::V6(address) => network6.is_some_and(|network| network.is_neighbour(address)),
        };
        if let Some(pin) = self.pins.iter().find(|pin| !may_be_pinned(pin.address)) {
            return Err(ConfigError::Pinned(pin.address));
        }
        Pins::new(&self.pins, self.gateway_mac)
    }

    pub(super) fn network6(&self) -> Result<Option<Network6>, ConfigError> {
        self.subnet6.map(|subnet| Network6::new(subnet, self.gateway_mac)).transpose()
    }

    pub(super) fn dhcp(&self, pins: &Pins) -> DhcpConfig {
        let pinned: BTreeSet<Ipv4Addr> = pins.ipv4().collect();
        let statics = self.static_leases.iter().filter(|(address, _)| !pinned.contains(address));
        DhcpConfig {
            subnet: self.subnet,
            gateway: self.gateway,
            gateway_mac: self.gateway_mac,
            host: self.host,
            dns: vec![self.gateway],
            mtu: self.mtu,
            search: self.search.clone(),
            static_leases: statics.map(|(address, mac)| (*address, *mac)).collect(),
            lease_time: Duration::from_secs(3600),
            pinned,
            keep_address: self.keep_address,
        }
    }
}
